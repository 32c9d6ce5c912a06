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
    /// Compare the ledger with the chain; read-only, beside a running teller
    ///
    /// Every settled payment has its events in a canonical block, every authorization that a signer used has its row, values
    /// and costs match to the unit, no nonce is unexplained, and what was told agrees with the chain or is compensated.
    /// What is newer than the sealed head at the start is left out and counted; what differs is read again after a
    /// pause before it counts. Needs a node that still has receipts and logs of the audited blocks.
    ///
    /// Exits with 0 if both agree, 1 if they differ, 2 if it could not be found out.
    Audit(AuditArgs),
    /// Show the lanes: each signer's owner, nonces, open slots, balance and mode
    ///
    /// thaw, drain and rescue order a lane's mode and wait until its owner has carried it out. They exit with 0 once that is
    /// seen, 1 if nothing was ordered, 2 if it was ordered and is not carried out yet.
    Lanes(LanesArgs),
    /// Check signed receipts; needs no configuration, no ledger and no chain
    #[command(subcommand)]
    Receipt(ReceiptCommand),
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
    /// Only in this state: accepted, assigned, preconfirmed, settled, settled_externally, failed, expired, withdrawn
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

/// What to audit, and how.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only this network, like eip155:84532 [default: every configured one]
    #[arg(long)]
    pub network: Option<teller_domain::ChainId>,
    /// Only this signer's slots and their payments: no sums over all payments, no logs
    #[arg(long, value_name = "ADDRESS")]
    pub signer: Option<alloy_primitives::Address>,
    /// Only the signer's slots from this nonce on
    #[arg(long, value_name = "NONCE", requires = "signer")]
    pub from_nonce: Option<u64>,
    /// Ask for logs from this block on [default: the block of the first slot]
    #[arg(long, value_name = "BLOCK", conflicts_with = "signer")]
    pub from_block: Option<u64>,
    /// Do not ask for the assets' logs: authorizations used by transactions that the ledger does not know stay unseen
    #[arg(long)]
    pub without_logs: bool,
    /// Rows, and slots with their payments, that are read at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub page_size: u32,
    /// How long to wait before what differs is read again
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub pause_seconds: u64,
    /// Print one JSON object a line: notes, differences, and a summary for each network
    #[arg(long)]
    pub json: bool,
}

/// Which lanes to show, or what to do with one.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LanesArgs {
    /// What to do; without it, lanes are shown
    #[command(subcommand)]
    pub order: Option<LaneOrder>,
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only on this network, like eip155:84532
    #[arg(long)]
    pub network: Option<teller_domain::ChainId>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// What an operator can order.
#[derive(Debug, Clone, Subcommand)]
pub enum LaneOrder {
    /// Let a frozen or draining lane take batches again
    ///
    /// Of a frozen lane every open slot is looked up once more; those that somebody else's transaction took are closed as
    /// foreign, and their payments are looked into and sent again where the money did not move.
    Thaw(LaneOrderArgs),
    /// Let a lane take no more batches; what is on its way comes to its end
    Drain(LaneOrderArgs),
    /// Give up what is on its way for no-ops at any price, so that a stuck lane gets free
    ///
    /// Payments whose batch is given up are sent again in other slots. Each open slot costs a transaction.
    Rescue(LaneOrderArgs),
}

/// Which lane.
#[derive(Debug, Clone, Args)]
pub struct LaneOrderArgs {
    /// The signer's address
    pub signer: alloy_primitives::Address,
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The network, where the signer has a lane on more than one
    #[arg(long)]
    pub network: Option<teller_domain::ChainId>,
    /// Do not ask for a confirmation
    #[arg(long)]
    pub yes: bool,
    /// How long to wait until it is carried out
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub wait_seconds: u64,
}

/// What can be done with receipts.
#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Check a receipt as GET /settlements/{id}/receipt gave it, and print what it says
    ///
    /// Without --signer it says who signed, which proves nothing until you know whose key that is.
    ///
    /// Exits with 0 if the receipt is as it was signed (by --signer, where that is given), 1 if it is not, 2 if the file
    /// cannot be read or is no receipt.
    Verify(VerifyReceiptArgs),
}

/// Which receipt to check.
#[derive(Debug, Clone, Args)]
pub struct VerifyReceiptArgs {
    /// The receipt in JSON; - reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The account whose key must have signed it
    #[arg(long, value_name = "ADDRESS")]
    pub signer: Option<alloy_primitives::Address>,
    /// Print one JSON object
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
