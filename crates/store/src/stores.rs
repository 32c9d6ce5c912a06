//! Which stores a configuration names, and how they are opened.

use std::borrow::Cow;
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

/// The URL with its password percent-encoded, if it is not: one with `@`, `/`, `?` or `#` would end the host's name too
/// early. What is encoded already is left alone.
pub(crate) fn encode_password(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.into();
    };
    // The last one: a host has none.
    let Some((login, address)) = rest.rsplit_once('@') else {
        return url.into();
    };
    let Some((user, password)) = login.split_once(':') else {
        return url.into();
    };
    let ends_a_host = |c: char| matches!(c, '@' | '/' | '?' | '#' | '[' | ']');
    // A host and its port may come before an `@` in an option.
    let is_address = user.contains(ends_a_host)
        || password.split_once('/').is_some_and(|(port, path)| {
            !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && path.contains('?')
        });
    if is_address || !password.contains(ends_a_host) {
        return url.into();
    }
    let encoded: String = password
        .chars()
        .map(|c| match ends_a_host(c) {
            true => format!("%{:02X}", u32::from(c)),
            false => c.to_string(),
        })
        .collect();
    format!("{scheme}://{user}:{encoded}@{address}").into()
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

/// Whether a ledger can be used. One in Postgres is written to; a file is read, for its owner may be running, and may be
/// missing, for its owner makes it.
pub async fn check_ledger(url: &LedgerUrl) -> StoreResult<()> {
    match url {
        LedgerUrl::Sqlite(path) if !path.exists() => Ok(()),
        LedgerUrl::Sqlite(path) => {
            SqliteLedger::open_read_only(path).await?.close().await;
            Ok(())
        }
        LedgerUrl::Postgres(url) => PostgresLedger::connect(url).await?.ping().await,
    }
}

/// Whether reservations can be used: that they take holds, and that Redis does not evict them.
pub async fn check_reservations(url: &ReservationsUrl) -> StoreResult<()> {
    match url {
        ReservationsUrl::Memory => Ok(()),
        ReservationsUrl::Redis(url) => {
            let reservations = RedisReservations::connect(url, REDIS_PREFIX).await?;
            match reservations.probe().await {
                // So are those of a cluster that was never started.
                Err(StoreError::Recovering) => Ok(()),
                probed => probed,
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_have_characters_that_end_a_host() {
        let encoded = |url: &str| encode_password(url).into_owned();
        assert_eq!(
            encoded("postgres://teller:p@ss/w#d?[x]@db.example:5432/teller?sslmode=require"),
            "postgres://teller:p%40ss%2Fw%23d%3F%5Bx%5D@db.example:5432/teller?sslmode=require"
        );
        assert_eq!(
            encoded("redis://:p@/#@cache:6379/0"),
            "redis://:p%40%2F%23@cache:6379/0"
        );
        for as_it_is in [
            "postgres://teller:p%40ss@db/teller",
            "postgres://teller@db/teller",
            "postgres://teller:plain:colon@db/teller",
            "postgres://db:5432/teller?user=me@corp",
            "postgres://db/teller?user=me@corp&x=a:b",
            "redis://127.0.0.1:6379",
            "sqlite://a:b@c/d.db",
        ] {
            assert_eq!(encoded(as_it_is), as_it_is);
        }
    }

    #[test]
    fn what_is_encoded_is_read_as_the_password() {
        let url = encode_password("redis://:p@/#%2f@127.0.0.1:6379/0").into_owned();
        let client = ::redis::Client::open(url).unwrap();
        let password = client.get_connection_info().redis_settings().password();
        assert_eq!(password, Some("p@/#/"));
    }
}
