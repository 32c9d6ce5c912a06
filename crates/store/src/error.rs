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
    /// Reservations were lost and are being loaded again; nothing may be granted yet.
    #[error("reservations are being recovered")]
    Recovering,
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Recovering => true,
            Self::StaleLane
            | Self::Conflict { .. }
            | Self::GenesisMismatch { .. }
            | Self::Locked
            | Self::Corrupt(_)
            | Self::Configuration(_) => false,
        }
    }
}
