//! SIGTERM and Ctrl-C.

use std::process::ExitCode;

use super::Failure;

/// Answers when somebody wants this process to end.
///
/// # Errors
/// When signals cannot be listened for.
pub async fn stop_requested() -> Result<&'static str, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| Failure::new("no signals can be listened for", error));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

/// Works until `drain` is done; a second signal cuts it short.
pub async fn stop_requested_again(drain: impl Future<Output = ()>) -> ExitCode {
    tokio::select! {
        () = drain => ExitCode::SUCCESS,
        _ = stop_requested() => {
            tracing::warn!("a second signal came: ending without draining");
            ExitCode::from(130)
        }
    }
}
