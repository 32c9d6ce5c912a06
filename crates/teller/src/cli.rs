//! The command line and its help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use teller_domain::SettlementId;

use crate::config::Role;

const ABOUT: &str = "An x402 facilitator: verifies signed payments and settles them on EVM chains.";

const AFTER_HELP: &str = "\
Start with `teller dev`: it needs no configuration, brings a local chain and makes real payments on it.

Every key of the configuration file can be set by the environment: TELLER__LEDGER__URL sets ledger.url,
TELLER__NETWORKS__0__RPC sets the rpc list of the first network (separated by commas).
teller.example.toml in the repository shows every key.";

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "teller", version, about = ABOUT, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What teller can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a local chain with a test dollar, a teller on it, and real payments through it
    ///
    /// Starts anvil (chain id 84532) with a test dollar where Base Sepolia has USDC, funds payers and a signer, serves
    /// REST at http://127.0.0.1:8402 and gRPC at 127.0.0.1:8403 with a fresh ledger, makes payments through its own
    /// REST API and prints their receipts, then serves until Ctrl-C. The line `devnet: {…}` tells scripts how to pay.
    Dev(DevArgs),
    /// Serve with a configuration file, until SIGTERM or Ctrl-C
    ///
    /// Prints a line with `teller is ready` and the REST address once it takes requests. SIGTERM and Ctrl-C drain: what
    /// is in flight is answered or told pending within server.shutdown_seconds. A second signal ends at once.
    Serve {
        /// The configuration
        #[command(flatten)]
        config: ConfigArgs,
        /// Which half of teller this process is; api and settler need Postgres and Redis
        #[arg(long, value_enum, default_value = "all")]
        role: Role,
    },
    /// Bring the ledger's tables up to date
    ///
    /// Safe to repeat. A SQLite ledger is migrated by serve itself; Postgres only by this command.
    Migrate(ConfigArgs),
    /// Check a configuration against the chain, without serving
    ///
    /// Looks at each network's chain id, the code at Multicall3 and at each asset, each asset's EIP-712 domain, and each
    /// signer's gas and code. Exits with 1 if anything is wrong.
    Check(ConfigArgs),
    /// Look into the ledger; works beside a running teller
    #[command(subcommand)]
    Settlements(SettlementsCommand),
    /// Make API keys
    #[command(subcommand)]
    Key(KeyCommand),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The TOML file; teller.example.toml shows every key
    #[arg(long, value_name = "FILE", default_value = "teller.toml")]
    pub config: PathBuf,
}

/// What `teller dev` lets you choose.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// How many payments to make in all, 0 for none [default: a demonstration, then a trickle until Ctrl-C]
    #[arg(long, value_name = "N")]
    pub payments: Option<u64>,
    /// About how many payments a second; they come in bursts, so that batches are seen
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub rate: u32,
    /// The local chain's time between blocks, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub block_time_ms: u64,
    /// How many payers get test dollars
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub payers: u32,
    /// How many signers get gas; each is a lane
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub signers: u32,
    /// The local chain's port [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub rpc_port: Option<u16>,
}

/// Ways to look into the ledger.
#[derive(Debug, Subcommand)]
pub enum SettlementsCommand {
    /// List settlements, newest first
    List(ListArgs),
    /// Show one settlement
    Show {
        /// Its id, as in the Teller-Settlement-Id header
        id: SettlementId,
        /// Where the ledger is
        #[command(flatten)]
        ledger: LedgerArgs,
    },
}

/// Which settlements to list.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Where the ledger is
    #[command(flatten)]
    pub ledger: LedgerArgs,
    /// Only in this state: accepted, assigned, settled, settled_externally, failed, expired, withdrawn
    #[arg(long)]
    pub state: Option<teller_domain::SettlementStateKind>,
    /// Only of this tenant
    #[arg(long)]
    pub tenant: Option<String>,
    /// Only on this network, like eip155:84532
    #[arg(long)]
    pub network: Option<teller_domain::ChainId>,
    /// Only of this payer
    #[arg(long, value_name = "ADDRESS")]
    pub payer: Option<alloy_primitives::Address>,
    /// Only with this authorization nonce
    #[arg(long, value_name = "HASH")]
    pub nonce: Option<alloy_primitives::B256>,
    /// Only in this transaction
    #[arg(long, value_name = "HASH")]
    pub transaction: Option<alloy_primitives::B256>,
    /// Only older than this settlement: the last of the page before
    #[arg(long, value_name = "ID")]
    pub before: Option<SettlementId>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
}

/// Where the ledger is, and how to print it.
#[derive(Debug, Clone, Args)]
pub struct LedgerArgs {
    /// The configuration whose ledger.url is opened
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Look into this ledger instead (sqlite://… or postgres://…); no configuration is read then
    #[arg(long, value_name = "URL")]
    pub ledger: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new API key and print it once, with the lines for the configuration
    New {
        /// The tenant's name: letters, digits, dots, dashes, underscores
        tenant: String,
    },
}
