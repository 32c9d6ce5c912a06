//! SIGTERM and Ctrl-C.

use std::process::ExitCode;
use std::time::{Duration, Instant};

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

/// A signal within this of the first is its echo: whoever ends a whole process group sends two.
const ECHO: Duration = Duration::from_secs(1);

/// Works until `drain` is done; a second signal cuts it short.
pub async fn drain_or_second_signal(drain: impl Future<Output = ()>) -> ExitCode {
    let second = async {
        let first = Instant::now();
        while stop_requested().await.is_ok() && first.elapsed() < ECHO {}
    };
    tokio::select! {
        () = drain => ExitCode::SUCCESS,
        () = second => {
            tracing::warn!("a second signal came: ending without draining");
            ExitCode::from(130)
        }
    }
}
