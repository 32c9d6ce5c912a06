//! The `teller` binary: command line, configuration, telemetry, wiring, shutdown.
//!
//! A short story: read the configuration, validate it, start, wait for a signal, drain within a deadline. What is
//! started is put together in `wiring`.

mod chains;
mod cli;
mod commands;
mod config;
mod dev;
mod engine_watch;
mod probe;
mod recovery;
mod telemetry;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

/// A settle waits for a block, and thousands wait at once and end at once. glibc keeps what they held, in an arena a
/// thread; this gives it back, as `.cargo/config.toml` tells it to.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = cli::Cli::parse().command;
    // reqwest and the ws transport take their TLS from here; a second installation is nobody's business.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("teller")
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(command)),
        Err(error) => Err(commands::Failure::new("the runtime did not start", error)),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("teller: {failure}");
            ExitCode::FAILURE
        }
    }
}
