//! `teller serve`.

use std::process::ExitCode;

use teller_api::Health;

use super::{Failure, drain_or_second_signal, stop_requested};
use crate::config::{Config, Role};
use crate::{telemetry, wiring};

/// Serves until a signal comes or something that cannot be done without has ended.
pub async fn run(config: &Config, role: Role) -> Result<ExitCode, Failure> {
    if let Some(why_not) = config.refuse_role(role) {
        return Err(Failure::text(why_not));
    }
    telemetry::start_logs(&config.log);
    let health = Health::new();
    telemetry::start_metrics(config.server.metrics, role.name(), &health)
        .await
        .map_err(|error| Failure::new("metrics did not start", error))?;
    let mut teller = wiring::start(config, role, health).await?;
    println!("{}", ready_line(&teller));
    let signal = tokio::select! {
        signal = stop_requested() => signal?,
        failure = teller.failed() => return Err(failure),
    };
    tracing::info!(signal, deadline = ?config.server.shutdown, "draining");
    Ok(drain_or_second_signal(teller.drain(config.server.shutdown)).await)
}

/// What says that requests are taken, and where.
pub fn ready_line(teller: &wiring::Teller) -> String {
    match teller.rest() {
        Some(rest) => format!("teller is ready: REST at http://{rest}"),
        None => "teller is ready: it settles, and takes no requests".to_owned(),
    }
}
