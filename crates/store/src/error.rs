//! What can go wrong with a store.

use alloy_primitives::B256;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use teller_domain::ChainId;

/// The answer of a store.
pub type StoreResult<T> = Result<T, StoreError>;

/// Why a store did not do what it was asked. Texts hold no connection URL and no secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database or Redis was lost in the middle of a call, or did not answer in time; a write may or may not have happened.
    #[error("the {store} is unavailable: {cause}")]
    Unavailable {
        /// `ledger` or `reservations`.
        store: &'static str,
        /// What its driver said, without secrets.
        cause: String,
    },
    /// The store answered that it will not, or could not be asked at all. Nothing was written.
    #[error("the {store} refused: {cause}")]
    Refused {
        /// `ledger` or `reservations`.
        store: &'static str,
        /// What its driver said, without secrets.
        cause: String,
    },
    /// The server takes no writes: it is read-only, or another one is the primary now. Nothing was written.
    #[error("the {store} is read-only: {cause}")]
    ReadOnly {
        /// `ledger` or `reservations`.
        store: &'static str,
        /// What the server said, without secrets.
        cause: String,
    },
    /// The database undid the write to let another one go first. Nothing was written.
    #[error("the ledger undid a write that stood in another's way")]
    Undone,
    /// The lane has another owner: its epoch or its next nonce is not the expected one. Nothing was written.
    #[error("the lane has another owner")]
    StaleLane,
    /// A row was not in the expected state. Nothing was written.
    #[error("{row} was not {expected}")]
    Conflict {
        /// Which row.
        row: String,
        /// The state it should have had.
        expected: &'static str,
    },
    /// The ledger belongs to another chain with the same id.
    #[error("the ledger knows {chain} with genesis {known}, the node has {found}")]
    GenesisMismatch {
        /// The network.
        chain: ChainId,
        /// Genesis hash in the ledger.
        known: B256,
        /// Genesis hash of the node.
        found: B256,
    },
    /// The embedded ledger file is in use by another teller.
    #[error("the ledger file is in use by another teller")]
    Locked,
    /// A row cannot be read: the file is damaged or was written by a newer teller.
    #[error("the ledger holds a row that cannot be read: {0}")]
    Corrupt(String),
    /// The URL names no store that teller knows, or the database lacks migrations.
    #[error("{0}")]
    Configuration(String),
    /// A number that the columns of the ledger cannot hold. Nothing was written.
    #[error("{0} is larger than the ledger can hold")]
    OutOfRange(&'static str),
    /// Reservations were lost and are being loaded again; nothing may be granted yet.
    #[error("reservations are being recovered")]
    Recovering,
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::Refused { .. }
            | Self::ReadOnly { .. }
            | Self::Undone
            | Self::Recovering => true,
            Self::StaleLane
            | Self::Conflict { .. }
            | Self::GenesisMismatch { .. }
            | Self::Locked
            | Self::Corrupt(_)
            | Self::OutOfRange(_)
            | Self::Configuration(_) => false,
        }
    }

    /// Whether the call may have happened all the same.
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// It may or may not have done it.
    pub(crate) fn unavailable(store: &'static str, cause: impl Into<String>) -> Self {
        Self::Unavailable {
            store,
            cause: cause.into(),
        }
    }

    pub(crate) fn refused(store: &'static str, cause: impl Into<String>) -> Self {
        Self::Refused {
            store,
            cause: cause.into(),
        }
    }

    /// The same for a call of which nothing can have been committed: its COMMIT was never sent.
    pub(crate) fn before_commit(self) -> Self {
        match self {
            Self::Unavailable { store, cause } => Self::Refused { store, cause },
            other => other,
        }
    }

    /// The same for a call of which a part may have been committed.
    pub(crate) fn after_commit(self) -> Self {
        match self {
            Self::Refused { store, cause } | Self::ReadOnly { store, cause } => {
                Self::Unavailable { store, cause }
            }
            other => other,
        }
    }

    /// What a driver's error means for the ledger, of a statement that commits itself or of one in a transaction. Only
    /// texts that can hold no URL and no secret are passed on.
    pub(crate) fn of_ledger(error: sqlx::Error) -> Self {
        let cause = match error {
            sqlx::Error::Database(error) if error.is_unique_violation() => {
                return Self::Conflict {
                    row: "a row".to_owned(),
                    expected: "new",
                };
            }
            sqlx::Error::Database(error) if error.is_check_violation() => {
                return Self::Conflict {
                    row: "a row".to_owned(),
                    expected: "as the ledger's checks demand",
                };
            }
            sqlx::Error::Database(error) => return Self::of_database(error.as_ref()),
            sqlx::Error::Io(error) => io_cause(&error),
            sqlx::Error::PoolTimedOut => {
                return Self::refused("ledger", "no connection became free in time");
            }
            sqlx::Error::PoolClosed => return Self::refused("ledger", "it was closed"),
            sqlx::Error::WorkerCrashed => "it was closed".to_owned(),
            sqlx::Error::Tls(_) => "the TLS handshake failed".to_owned(),
            sqlx::Error::RowNotFound
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::TypeNotFound { .. } => {
                return Self::Corrupt("a row of another shape".to_owned());
            }
            sqlx::Error::Protocol(_) => "the answer was not understood".to_owned(),
            _ => "its driver failed".to_owned(),
        };
        Self::unavailable("ledger", cause)
    }

    fn of_database(error: &dyn DatabaseError) -> Self {
        let store = "ledger";
        let cause = error.message().to_owned();
        let code = error.code();
        let code = code.as_deref().unwrap_or_default();
        match error.try_downcast_ref::<PgDatabaseError>() {
            // Postgres' `serialization_failure` and `deadlock_detected`: the transaction is rolled back.
            Some(_) if matches!(code, "40001" | "40P01") => Self::Undone,
            Some(_) if code == "25006" => Self::ReadOnly { store, cause },
            // A session that the server ends may be ended behind a commit; class 08 is said by poolers, of connections.
            Some(error)
                if !matches!(error.severity(), PgSeverity::Error)
                    || code.starts_with("08")
                    || code.starts_with("XX") =>
            {
                Self::unavailable(store, cause)
            }
            Some(_) => Self::refused(store, cause),
            None if is_sqlite(code, SQLITE_READONLY) => Self::ReadOnly { store, cause },
            None => Self::refused(store, cause),
        }
    }

    /// What an error of the COMMIT itself means.
    pub(crate) fn of_commit(error: sqlx::Error) -> Self {
        let is_certain = matches!(&error, sqlx::Error::Database(error)
            if error.try_downcast_ref::<PgDatabaseError>().is_none()
                && error.code().is_some_and(|code| is_undone_by_sqlite(&code)));
        let error = Self::of_ledger(error);
        match is_certain {
            true => error,
            false => error.after_commit(),
        }
    }
}

/// The primary code of SQLite for a file or a directory that cannot be written.
const SQLITE_READONLY: u32 = 8;
/// For a full disk: the frame that makes a transaction count is the last one that is written.
const SQLITE_FULL: u32 = 13;
/// For a write that failed for any other reason: the same holds.
const SQLITE_IOERR_WRITE: u32 = 778;

/// Whether an extended result code of SQLite belongs to this primary one.
fn is_sqlite(code: &str, primary: u32) -> bool {
    code.parse::<u32>().is_ok_and(|code| code & 0xff == primary)
}

/// Whether SQLite, after this answer to a COMMIT, cannot have written what makes the transaction count.
fn is_undone_by_sqlite(code: &str) -> bool {
    is_sqlite(code, SQLITE_FULL)
        || is_sqlite(code, SQLITE_READONLY)
        || code == SQLITE_IOERR_WRITE.to_string()
}

/// What the system says of a connection, without the address.
pub(crate) fn io_cause(error: &std::io::Error) -> String {
    if let Some(code) = error.raw_os_error() {
        return std::io::Error::from_raw_os_error(code).to_string();
    }
    // What the resolver says has no kind of its own.
    if error.to_string().starts_with("failed to lookup address") {
        return HOST_UNKNOWN.to_owned();
    }
    error.kind().to_string()
}

/// The commonest reason for it is a password with a character that ends the host's name.
const HOST_UNKNOWN: &str = "its host name cannot be resolved";
