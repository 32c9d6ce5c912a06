//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use alloy_primitives::{Address, B256};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::drive::Ops;
use crate::target::Target;

/// Drives an x402 facilitator on this machine with payments that were signed ahead, and says what came of it.
#[derive(Debug, Parser)]
#[command(name = "teller-loadtest", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load one facilitator once.
    Run(Box<RunArgs>),
    /// Forward JSON-RPC and count the calls; `GET /counts` tells them.
    Proxy(ProxyArgs),
    /// Measure the whole table on a local chain and write it to a file.
    Bench(BenchArgs),
    /// Kill processes at random moments of a load and compare ledger, chain and answers.
    Crash(CrashArgs),
    /// Load two API and two settler processes, take settlers away, and compare ledger, chain and answers.
    Cluster(ClusterArgs),
}

/// The protocol between generator and facilitator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Rest,
    Grpc,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The facilitator: http://127.0.0.1:8402, with its path prefix if it has one. Loopback only.
    #[arg(long)]
    pub url: Target,
    /// The node: receipts are read from it, and payers funded through it. `--devnet-json` tells it too.
    #[arg(long)]
    pub rpc: Option<Target>,
    /// What is done with each payment.
    #[arg(long, value_enum, default_value = "verify")]
    pub op: Ops,
    #[arg(long, value_enum, default_value = "rest")]
    pub transport: Transport,
    /// Workers, each with one request in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
    /// Payments.
    #[arg(long, default_value_t = 1000)]
    pub count: usize,
    /// Derive this many payers from the seed and fund them through the node, which must be a `teller dev` one.
    #[arg(long)]
    pub payers: Option<usize>,
    /// Payees that the payments go round.
    #[arg(long, default_value_t = 50)]
    pub payees: usize,
    /// What payers and payees are derived from.
    #[arg(long, default_value = "run")]
    pub seed: String,
    /// Private key of a payer who has funds already; repeatable.
    #[arg(long = "key", value_name = "0x…")]
    pub keys: Vec<B256>,
    /// The `devnet:` line of `teller dev`, or a log that holds it: node, asset and funded payers.
    #[arg(long, value_name = "FILE")]
    pub devnet_json: Option<PathBuf>,
    /// Atomic units a payment.
    #[arg(long, default_value_t = 10_000)]
    pub value: u64,
    /// The x402 version of the bodies.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub x402_version: u8,
    /// Chain id of the network.
    #[arg(long, default_value_t = 84532)]
    pub chain_id: u64,
    /// The token, where it is not the network's known USDC.
    #[arg(long, requires_all = ["asset_name", "asset_version"])]
    pub asset: Option<Address>,
    /// EIP-712 name of the token.
    #[arg(long)]
    pub asset_name: Option<String>,
    /// EIP-712 version of the token.
    #[arg(long)]
    pub asset_version: Option<String>,
    /// Sent as `Authorization: Bearer`.
    #[arg(long, env = "TELLER_LOADTEST_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// The facilitator's process, for its CPU time and memory.
    #[arg(long)]
    pub pid: Option<u32>,
    /// A counting proxy (`teller-loadtest proxy`) that the facilitator's node calls go through.
    #[arg(long)]
    pub proxy: Option<Target>,
    /// Begin no payment later than this.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub max_seconds: u64,
}

#[derive(Debug, Args)]
pub struct ProxyArgs {
    #[arg(long, default_value = "127.0.0.1:8546")]
    pub listen: SocketAddr,
    #[arg(long, default_value = "http://127.0.0.1:8545")]
    pub upstream: Target,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Runs of each scenario; medians are quoted.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub repeats: u8,
    /// Only scenarios whose name contains this; repeatable.
    #[arg(long)]
    pub only: Vec<String>,
    /// The file for the table; nothing is written for a part of the table unless this is given.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The facilitator's binary; without it the one beside this program.
    #[arg(long, env = "TELLER_BIN")]
    pub teller: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CrashArgs {
    /// Kills.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// New payments a round.
    #[arg(long, default_value_t = 20)]
    pub payments: usize,
    /// What the schedule of payments and kills is drawn from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// An empty Postgres database: kills fall on two API and two settler processes. Without it, on one embedded teller.
    #[arg(long, requires = "reservations")]
    pub ledger: Option<String>,
    /// The Redis to it.
    #[arg(long, requires = "ledger")]
    pub reservations: Option<String>,
    /// How long a seller asks at most.
    #[arg(long, default_value_t = 180)]
    pub patience_seconds: u64,
    /// The facilitator's binary; without it the one beside this program.
    #[arg(long, env = "TELLER_BIN")]
    pub teller: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// An empty Postgres database.
    #[arg(long)]
    pub ledger: String,
    /// Redis.
    #[arg(long)]
    pub reservations: String,
    /// Payments of the load.
    #[arg(long, default_value_t = 3_000)]
    pub payments: usize,
    /// Sellers who ask at once.
    #[arg(long, default_value_t = 200)]
    pub concurrency: usize,
    /// The facilitator's binary; without it the one beside this program.
    #[arg(long, env = "TELLER_BIN")]
    pub teller: Option<PathBuf>,
}
