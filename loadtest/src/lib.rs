//! A load generator for x402 facilitators: signs payments ahead, drives `/verify` and `/settle`, and reports
//! throughput, latency, outcomes, gas, node calls, CPU time and memory. It knows teller only from outside. The tests of
//! faults share its fleet of processes, its sellers and its comparison of ledger, chain and answers.

#![allow(
    missing_docs,
    reason = "a program; what tests share of it is documented where it is"
)]

mod bench;
mod cli;
mod cluster;
pub mod compare;
pub mod crash;
mod drive;
mod error;
pub mod fleet;
mod grpc;
mod http;
mod measure;
mod node;
mod process;
mod proxy;
mod report;
pub mod rest;
mod run;
pub mod sellers;
mod sign;
mod target;
mod wire;

pub use error::{LoadError, chain_of};
pub use node::Node;
pub use process::Process;
pub use sign::Signed;
pub use target::Target;
pub use wire::body;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

/// Does what the command line says.
pub async fn run_command_line() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(*args).await,
        Command::Proxy(args) => run::proxy(args).await,
        Command::Bench(args) => bench::bench(args).await,
        Command::Crash(args) => crash::crash(args).await,
        Command::Cluster(args) => cluster::cluster(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teller-loadtest: {}", chain_of(&error));
            ExitCode::FAILURE
        }
    }
}
