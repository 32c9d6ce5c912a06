//! A load generator for x402 facilitators: signs payments ahead, drives `/verify` and `/settle`, and reports
//! throughput, latency, outcomes, gas, node calls, CPU time and memory. It knows teller only from outside.

mod bench;
mod cli;
mod drive;
mod error;
mod grpc;
mod http;
mod measure;
mod node;
mod process;
mod proxy;
mod report;
mod run;
mod sign;
mod target;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(*args).await,
        Command::Proxy(args) => run::proxy(args).await,
        Command::Bench(args) => bench::bench(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teller-loadtest: {}", error::chain_of(&error));
            ExitCode::FAILURE
        }
    }
}
