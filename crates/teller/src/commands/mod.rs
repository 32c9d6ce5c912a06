//! What each command does.

mod audit;
mod check;
mod key;
mod lanes;
mod receipt;
pub mod serve;
mod settlements;
mod signals;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

pub use settlements::decimal;
pub use signals::{drain_or_second_signal, stop_requested};

use crate::cli::{Command, ConfigArgs, KeyCommand, ReceiptCommand};
use crate::config::{self, Config, ConfigError};
use crate::{dev, telemetry, wiring};

/// Why a command ended without having done its work: a sentence for the operator.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// What did not work, and why: the whole chain of causes, once.
    pub fn new(what: &str, why: impl std::error::Error) -> Self {
        let mut text = format!("{what}: {why}");
        let mut cause = why.source();
        while let Some(error) = cause {
            let error_text = error.to_string();
            if !text.contains(&error_text) {
                text.push_str(": ");
                text.push_str(&error_text);
            }
            cause = error.source();
        }
        Self(text)
    }

    /// A sentence.
    pub fn text(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self(error.to_string())
    }
}

/// Runs what was typed.
///
/// # Errors
/// When it could not be done.
pub async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Dev(args) => dev::run(&args).await,
        Command::Serve { config, role } => serve::run(&read_config(&config)?, role).await,
        Command::Migrate(args) => migrate(&read_config(&args)?).await,
        Command::Check(args) => check::run(&read_config(&args)?).await,
        Command::Settlements(command) => settlements::run(command).await,
        Command::Audit(args) => Ok(audit::run(&args).await),
        Command::Lanes(args) => lanes::run(args).await,
        Command::Receipt(ReceiptCommand::Verify(args)) => Ok(receipt::verify(&args)),
        Command::Key(KeyCommand::New { tenant }) => key::new(&tenant).map(|()| ExitCode::SUCCESS),
    }
}

fn read_config(args: &ConfigArgs) -> Result<Config, Failure> {
    read_config_at(&args.config)
}

fn read_config_at(path: &Path) -> Result<Config, Failure> {
    Ok(config::from_file(path, environment())?)
}

/// The environment, without what is no text.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
        .collect()
}

async fn migrate(config: &Config) -> Result<ExitCode, Failure> {
    telemetry::start_logs(&config.log);
    wiring::migrate(config).await?;
    println!("the ledger is up to date");
    Ok(ExitCode::SUCCESS)
}
