//! The configuration: a TOML file, every key of which the environment may override, read into types once.
//!
//! Nothing else in teller looks at the environment or at the file.

mod load;
mod money;
mod read;
mod reader;
mod rules;
mod secret;
#[cfg(test)]
mod tests;
mod tree;

use std::net::SocketAddr;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use teller_domain::{Asset, ChainId, Level, TenantId, TopUpPolicy, Wei};

pub use load::{ConfigError, from_file, from_text};
pub use read::parse_tenant;
pub use secret::{Secret, Secrets, SignerKey};

/// Everything that an operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// What listens where, and who may call.
    pub server: Server,
    /// Where the ledger is.
    pub ledger: Ledger,
    /// Where reservations are.
    pub reservations: Reservations,
    /// How processes that settle share their work.
    pub settler: Settler,
    /// The networks that are served, each with a different id.
    pub networks: Vec<Network>,
    /// Whom not to serve.
    pub policy: Policy,
    /// The key that signs receipts; `None` for a teller that gives none. Never a network's signer.
    pub receipt_key: Option<SignerKey>,
    /// The discovery catalogue; `None` for a teller without.
    pub discovery: Option<Discovery>,
    /// What is logged.
    pub log: Log,
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// Where REST listens.
    pub rest: SocketAddr,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where `/metrics` listens.
    pub metrics: SocketAddr,
    /// Who may call.
    pub auth: Auth,
    /// How many requests are worked on at once; more are told to come back.
    pub max_in_flight: usize,
    /// How long a settle call waits for its outcome at most.
    pub settle_wait: Duration,
    /// The operator's own builder code (ERC-8021): payments whose buyers name theirs are attributed, with this one.
    pub builder_code: Option<String>,
    /// How long requests in flight may take to end at shutdown.
    pub shutdown: Duration,
}

/// `server.auth`
#[derive(Debug, Clone)]
pub enum Auth {
    /// Whoever reaches the port.
    Open,
    /// Who brings one of these keys.
    Keys(Vec<ApiKey>),
}

/// `[[server.keys]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Whose key it is. A tenant may have several.
    pub tenant: TenantId,
    /// SHA-256 of the key's text.
    pub sha256: [u8; 32],
    /// How many requests a second the tenant may make; `None` for as many as it likes.
    pub requests_per_second: Option<u32>,
    /// How many it may make at once after a pause; `None` for one second's worth.
    pub burst: Option<u32>,
    /// How many of its settle calls may wait at the same time; `None` for as many as it likes.
    pub max_settles_in_flight: Option<usize>,
    /// An identical repeat of a verify is valid again.
    pub lenient: bool,
    /// The networks that the tenant may use; `None` for all.
    pub networks: Option<Vec<ChainId>>,
    /// How long a settle call of this tenant waits at most.
    pub settle_wait: Option<Duration>,
    /// How sure the chain must be before a settle call of this tenant is told success; `None` leaves it to the network.
    pub settled_at: Option<Level>,
    /// What settling this tenant's payments may cost in a day, on each network; `None` for as much as it takes.
    pub max_gas_per_day: Option<Wei>,
}

/// `[ledger]`
#[derive(Debug, Clone)]
pub struct Ledger {
    /// `sqlite://` or `postgres://`.
    pub url: Secret,
}

/// `[reservations]`
#[derive(Debug, Clone)]
pub struct Reservations {
    /// `memory://` or `redis://`.
    pub url: Secret,
    /// How long a verified payment's value is held, at most.
    pub balance_hold: Duration,
    /// How long verify stays closed after the store of reservations lost its data.
    pub recovery: Duration,
}

/// `[settler]`
#[derive(Debug, Clone, Copy)]
pub struct Settler {
    /// How long a lane or a delivery stays a process's that has stopped saying that it lives.
    pub lease: Duration,
}

/// `[[networks]]`
#[derive(Debug, Clone)]
pub struct Network {
    /// Its CAIP-2 id.
    pub id: ChainId,
    /// URLs of its nodes, the preferred one first; never empty. They may hold an access key.
    pub rpc: Vec<Secret>,
    /// URLs of nodes that show Flashblocks; empty for a network without. They may hold an access key.
    pub flashblocks_rpc: Vec<Secret>,
    /// How sure the chain must be before a payment counts as settled.
    pub settled_at: Level,
    /// The accounts that pay the gas; each is a lane. Never empty.
    pub signers: Vec<SignerKey>,
    /// The usual time between two blocks.
    pub block_interval: Duration,
    /// How far the newest block may be behind the wall clock; `None` for as far as it is.
    pub max_head_age: Option<Duration>,
    /// Open slots a lane may have.
    pub depth: usize,
    /// Payments in a batch at most.
    pub max_batch_items: usize,
    /// Gas limit of a batch at most.
    pub max_batch_gas: u64,
    /// How long a payment waits for company while all lanes are busy.
    pub linger: Duration,
    /// Bounds of the tip, and of the whole fee.
    pub fees: FeeBounds,
    /// What settling may cost.
    pub budget: Budget,
    /// The Multicall3 contract.
    pub multicall3: Address,
    /// Who may make contract wallets that are not there yet (ERC-6492). They are called with whatever a payer sends.
    pub wallet_factories: Vec<Address>,
    /// Who redeems delegations (ERC-7710); none takes none. They are called with whatever a payer sends.
    pub delegation_managers: Vec<Address>,
    /// What payers are given who lack the gas of the approvals that they send along; `None` takes no approvals.
    pub approvals: Option<TopUpPolicy>,
    /// The tokens that may be paid with; never empty.
    pub assets: Vec<Asset>,
}

/// What a unit of gas may cost, in wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeBounds {
    /// The tip is at least this.
    pub tip_floor: u128,
    /// The tip is at most this.
    pub tip_cap: u128,
    /// `maxFeePerGas` is at most this: payments wait while gas costs more. The lower of what the operator says in wei and
    /// of what he says in USD for a payment.
    pub max_fee: Option<u128>,
}

/// `[networks.budget]`, but for the ceiling in USD, which is part of [`FeeBounds::max_fee`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// What a transaction may cost at most.
    pub per_transaction: Option<Wei>,
    /// What all transactions of a day may cost.
    pub per_day: Option<Wei>,
}

/// `[policy]`
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Payers and payees that are refused.
    pub denied: Vec<Address>,
    /// Whether payments are taken that move nothing to anybody.
    pub allow_empty_payments: bool,
}

/// `[discovery]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discovery {
    /// How many resources the catalogue holds at most.
    pub max_resources: u32,
    /// How many of them are one tenant's at most.
    pub max_resources_per_tenant: u32,
    /// How long a resource stays that nobody pays for.
    pub kept: Duration,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// A `tracing` filter: `info`, or `info,teller_settle=debug`.
    pub level: String,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Which half of teller a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Verifies, takes settlements and sends transactions: the only role with SQLite or memory:// reservations.
    All,
    /// Takes requests; another process sends the transactions.
    Api,
    /// Sends transactions; takes no requests.
    Settler,
}

/// Multicall3 has this address on every chain that has it.
pub const MULTICALL3: Address =
    alloy_primitives::address!("cA11bde05977b3631167028862bE2a173976CA11");

/// Reads 64 hexadecimal digits.
fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    text.strip_prefix("0x")
        .unwrap_or(text)
        .parse::<B256>()
        .ok()
        .map(Into::into)
}

impl Role {
    /// The role's name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Settler => "settler",
        }
    }
}
