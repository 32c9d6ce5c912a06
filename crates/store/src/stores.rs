//! Which stores a configuration names, and how they are opened.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Ledger, MemoryReservations, PostgresLedger, RedisReservations, Reservations, SqliteLedger,
    StoreError, StoreResult,
};

/// Where the ledger is. Never prints a password.
#[derive(Clone, PartialEq, Eq)]
pub enum LedgerUrl {
    /// `sqlite://<path>`: a file beside the process.
    Sqlite(PathBuf),
    /// `postgres://…`; `sslmode` and `sslrootcert` in it say what is asked of TLS.
    Postgres(String),
}

impl fmt::Debug for LedgerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(..)"),
        }
    }
}

impl FromStr for LedgerUrl {
    type Err = StoreError;

    fn from_str(text: &str) -> StoreResult<Self> {
        let refused = |why: &str| Err(StoreError::Configuration(why.to_owned()));
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        if text.contains(":memory:") {
            return refused(
                "a ledger in memory would forget payments; name a file: sqlite://teller.db",
            );
        }
        match text.strip_prefix("sqlite://") {
            Some("") => refused("the ledger URL names no file; for example sqlite://teller.db"),
            Some(path) if path.contains('?') => refused("a sqlite:// ledger URL takes no options"),
            Some(path) => Ok(Self::Sqlite(PathBuf::from(path))),
            None => refused("a ledger URL begins with sqlite:// or postgres://"),
        }
    }
}

/// Where reservations are. Never prints a password.
#[derive(Clone, PartialEq, Eq)]
pub enum ReservationsUrl {
    /// `memory://`: in this process, written to the SQLite ledger's file.
    Memory,
    /// `redis://…`, or `rediss://…` with TLS.
    Redis(String),
}

impl fmt::Debug for ReservationsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("Memory"),
            Self::Redis(_) => f.write_str("Redis(..)"),
        }
    }
}

impl FromStr for ReservationsUrl {
    type Err = StoreError;

    fn from_str(text: &str) -> StoreResult<Self> {
        if text == "memory://" {
            Ok(Self::Memory)
        } else if text.starts_with("redis://") || text.starts_with("rediss://") {
            Ok(Self::Redis(text.to_owned()))
        } else {
            Err(StoreError::Configuration(
                "a reservations URL is memory:// or begins with redis:// or rediss://".to_owned(),
            ))
        }
    }
}

/// What all of teller's keys in Redis begin with.
const REDIS_PREFIX: &str = "teller";

/// Both stores of a teller.
#[derive(Clone)]
pub struct Stores {
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// The reservations.
    pub reservations: Arc<dyn Reservations>,
}

impl Stores {
    /// Opens both. Brings a SQLite ledger's tables up to date; refuses a Postgres ledger that is behind.
    ///
    /// # Errors
    ///
    /// [`StoreError::Configuration`] if the two do not go together: in-process reservations need a SQLite ledger.
    pub async fn open(ledger: &LedgerUrl, reservations: &ReservationsUrl) -> StoreResult<Self> {
        match (ledger, reservations) {
            (LedgerUrl::Sqlite(path), ReservationsUrl::Memory) => {
                let ledger = SqliteLedger::open(path).await?;
                let reservations = Arc::new(MemoryReservations::open(&ledger).await?);
                Ok(Self {
                    ledger: Arc::new(ledger),
                    reservations,
                })
            }
            (LedgerUrl::Postgres(_), ReservationsUrl::Memory) => Err(StoreError::Configuration(
                "memory:// reservations are kept in a sqlite:// ledger; with postgres:// use redis://"
                    .to_owned(),
            )),
            (_, ReservationsUrl::Redis(url)) => {
                let reservations = RedisReservations::connect(url, REDIS_PREFIX).await?;
                Ok(Self {
                    ledger: open_ledger(ledger).await?,
                    reservations: Arc::new(reservations),
                })
            }
        }
    }
}

impl Stores {
    /// Opens both as soon as they can be reached: a process may start before its servers do. Tries again every
    /// `every` while they are unavailable; whoever does not want to wait any more drops the call.
    ///
    /// # Errors
    ///
    /// What waiting cannot mend; see [`Stores::open`].
    pub async fn open_when_reachable(
        ledger: &LedgerUrl,
        reservations: &ReservationsUrl,
        every: Duration,
    ) -> StoreResult<Self> {
        loop {
            match Self::open(ledger, reservations).await {
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "the stores cannot be opened yet");
                    tokio::time::sleep(every).await;
                }
                opened => return opened,
            }
        }
    }
}

/// Opens a ledger alone.
pub async fn open_ledger(url: &LedgerUrl) -> StoreResult<Arc<dyn Ledger>> {
    match url {
        LedgerUrl::Sqlite(path) => Ok(Arc::new(SqliteLedger::open(path).await?)),
        LedgerUrl::Postgres(url) => Ok(Arc::new(PostgresLedger::connect(url).await?)),
    }
}

/// Opens a ledger for readers, while its owner may be running.
pub async fn open_ledger_read_only(url: &LedgerUrl) -> StoreResult<Arc<dyn Ledger>> {
    match url {
        LedgerUrl::Sqlite(path) => Ok(Arc::new(SqliteLedger::open_read_only(path).await?)),
        LedgerUrl::Postgres(url) => Ok(Arc::new(PostgresLedger::connect(url).await?)),
    }
}

/// Opens a ledger for readers that leave orders for lanes ([`Ledger::order_lane_mode`]), while its owner may be running.
pub async fn open_ledger_for_orders(url: &LedgerUrl) -> StoreResult<Arc<dyn Ledger>> {
    match url {
        LedgerUrl::Sqlite(path) => Ok(Arc::new(SqliteLedger::open_for_orders(path).await?)),
        LedgerUrl::Postgres(url) => Ok(Arc::new(PostgresLedger::connect(url).await?)),
    }
}

/// Brings the tables of a ledger up to date.
pub async fn migrate(url: &LedgerUrl) -> StoreResult<()> {
    match url {
        LedgerUrl::Sqlite(path) => {
            SqliteLedger::open(path).await?.close().await;
            Ok(())
        }
        LedgerUrl::Postgres(url) => PostgresLedger::migrate(url).await,
    }
}
