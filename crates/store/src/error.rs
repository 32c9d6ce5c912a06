//! What can go wrong with a store.

use alloy_primitives::B256;
use teller_domain::ChainId;

/// The answer of a store.
pub type StoreResult<T> = Result<T, StoreError>;

/// Why a store did not do what it was asked. Texts hold no connection URL and no secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database or Redis could not be reached or did not answer in time; a write may or may not have happened.
    #[error("the {store} is unavailable: {cause}")]
    Unavailable {
        /// `ledger` or `reservations`.
        store: &'static str,
        /// What its driver said, without secrets.
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
            Self::Unavailable { .. } | Self::Undone | Self::Recovering => true,
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

    /// Could not be reached, or may or may not have done it.
    pub(crate) fn unavailable(store: &'static str, cause: impl Into<String>) -> Self {
        Self::Unavailable {
            store,
            cause: cause.into(),
        }
    }

    /// What a driver's error means for the ledger. Only texts that can hold no URL and no secret are passed on.
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
            sqlx::Error::Database(error) if is_undone(error.as_ref()) => return Self::Undone,
            sqlx::Error::Database(error) => error.message().to_owned(),
            sqlx::Error::Io(error) => error.kind().to_string(),
            sqlx::Error::PoolTimedOut => "no connection became free in time".to_owned(),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => "it was closed".to_owned(),
            sqlx::Error::Tls(_) => "the TLS handshake failed".to_owned(),
            sqlx::Error::RowNotFound
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::TypeNotFound { .. } => {
                return Self::Corrupt("a row of another shape".to_owned());
            }
            _ => "its driver failed".to_owned(),
        };
        Self::unavailable("ledger", cause)
    }
}

/// Postgres' `serialization_failure` and `deadlock_detected`: the transaction is rolled back.
fn is_undone(error: &dyn sqlx::error::DatabaseError) -> bool {
    matches!(error.code().as_deref(), Some("40001" | "40P01"))
}
