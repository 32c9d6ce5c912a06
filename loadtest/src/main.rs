//! The load generator's program; everything is in the library beside it.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    teller_loadtest::run_command_line().await
}
