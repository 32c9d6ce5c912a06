//! A payment that teller has accepted, and how far it has come.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{B256, Bytes};
use serde::{Deserialize, Serialize};

use crate::{
    Payment, PaymentDigest, Reason, Refusal, SettlementId, SlotId, TenantId, UnixMillis, Wei,
    X402Version,
};

/// A block by number and hash: heights alone name nothing once there are reorgs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct BlockRef {
    /// Height.
    pub number: u64,
    /// Hash of the header.
    pub hash: B256,
}

/// How sure the chain is of a settlement. Levels rise; only `Finalized` is absorbing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Seen in a Flashblock.
    Preconfirmed,
    /// In a sealed canonical block.
    Included,
    /// At or below the `safe` head.
    Safe,
    /// At or below the `finalized` head.
    Finalized,
}

impl Level {
    /// The level's name in configuration, ledger and API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preconfirmed => "preconfirmed",
            Self::Included => "included",
            Self::Safe => "safe",
            Self::Finalized => "finalized",
        }
    }
}

/// A text that names no state or level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown state or level")]
pub struct ParseStateError;

impl FromStr for Level {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        [
            Self::Preconfirmed,
            Self::Included,
            Self::Safe,
            Self::Finalized,
        ]
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or(ParseStateError)
    }
}

/// Where the money moved. One transaction carries many payments, so the log index is part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Hash of the transaction.
    pub transaction: B256,
    /// The block that holds it.
    pub block: BlockRef,
    /// Index in the block of the `Transfer` log of this payment.
    pub log_index: u64,
    /// How sure the chain is.
    pub level: Level,
    /// This payment's share of the gas used. Zero when somebody else settled it.
    pub gas_used: u64,
    /// This payment's share of what the transaction cost. Zero when somebody else settled it.
    pub cost: Wei,
}

impl Receipt {
    /// Of an `upto` payment of which nothing was charged: no transaction was needed, and none will be made.
    pub const NOTHING: Self = Self {
        transaction: B256::ZERO,
        block: BlockRef {
            number: 0,
            hash: B256::ZERO,
        },
        log_index: 0,
        level: Level::Finalized,
        gas_used: 0,
        cost: Wei::ZERO,
    };
}

/// How far a payment has come. Each state carries only its own data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettlementState {
    /// Durable and queued; no bytes that could settle it exist unless `tries` says so.
    Accepted,
    /// In a slot: signed bytes that settle it exist and may have been sent.
    Assigned {
        /// The slot.
        slot: SlotId,
        /// Hash of the newest attempt that carries it and was handed to an endpoint; none while there is no such attempt. A
        /// further attempt has another hash.
        transaction: Option<B256>,
    },
    /// In a slot, and seen to settle in a Flashblock that no sealed block has confirmed yet.
    Preconfirmed {
        /// The slot.
        slot: SlotId,
        /// Hash of the attempt that was seen.
        transaction: B256,
        /// Index of its `Transfer` log in the Flashblock's block.
        log_index: u64,
    },
    /// Its slot has closed, and the receipt of the transaction that took the slot's nonce does not show what became of the
    /// payment. The chain is asked about it apart from every slot; nothing is signed for it meanwhile.
    Unexplained {
        /// The slot that it was in.
        slot: SlotId,
        /// The mined transaction that carried it without settling it, if one did.
        transaction: Option<B256>,
    },
    /// Teller's own transaction moved the money.
    Settled(Receipt),
    /// Somebody else submitted the same authorization; the payee has the money.
    SettledExternally(Receipt),
    /// Dead, with evidence.
    Failed {
        /// Why.
        refusal: Refusal,
        /// The mined transaction that shows it, if one does.
        transaction: Option<B256>,
    },
    /// The deadline passed before any bytes could settle it.
    Expired,
    /// Taken back before anything was signed. May be accepted again.
    Withdrawn,
}

/// The state without its data: the word in the ledger, in metrics and on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettlementStateKind {
    /// See [`SettlementState::Accepted`].
    Accepted,
    /// See [`SettlementState::Assigned`].
    Assigned,
    /// See [`SettlementState::Preconfirmed`].
    Preconfirmed,
    /// See [`SettlementState::Unexplained`].
    Unexplained,
    /// See [`SettlementState::Settled`].
    Settled,
    /// See [`SettlementState::SettledExternally`].
    SettledExternally,
    /// See [`SettlementState::Failed`].
    Failed,
    /// See [`SettlementState::Expired`].
    Expired,
    /// See [`SettlementState::Withdrawn`].
    Withdrawn,
}

impl SettlementStateKind {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Accepted,
        Self::Assigned,
        Self::Preconfirmed,
        Self::Unexplained,
        Self::Settled,
        Self::SettledExternally,
        Self::Failed,
        Self::Expired,
        Self::Withdrawn,
    ];

    /// The state's one name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Assigned => "assigned",
            Self::Preconfirmed => "preconfirmed",
            Self::Unexplained => "unexplained",
            Self::Settled => "settled",
            Self::SettledExternally => "settled_externally",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl fmt::Display for SettlementStateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SettlementStateKind {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(ParseStateError)
    }
}

impl SettlementState {
    /// The state's name.
    pub fn kind(&self) -> SettlementStateKind {
        match self {
            Self::Accepted => SettlementStateKind::Accepted,
            Self::Assigned { .. } => SettlementStateKind::Assigned,
            Self::Preconfirmed { .. } => SettlementStateKind::Preconfirmed,
            Self::Unexplained { .. } => SettlementStateKind::Unexplained,
            Self::Settled(_) => SettlementStateKind::Settled,
            Self::SettledExternally(_) => SettlementStateKind::SettledExternally,
            Self::Failed { .. } => SettlementStateKind::Failed,
            Self::Expired => SettlementStateKind::Expired,
            Self::Withdrawn => SettlementStateKind::Withdrawn,
        }
    }

    /// Whether the payment has its outcome.
    pub fn is_resolved(&self) -> bool {
        !matches!(
            self,
            Self::Accepted
                | Self::Assigned { .. }
                | Self::Preconfirmed { .. }
                | Self::Unexplained { .. }
        )
    }

    /// How sure the chain is that the money has moved; `None` where nothing shows that it has.
    pub fn level(&self) -> Option<Level> {
        match self {
            Self::Preconfirmed { .. } => Some(Level::Preconfirmed),
            Self::Settled(receipt) | Self::SettledExternally(receipt) => Some(receipt.level),
            Self::Accepted
            | Self::Assigned { .. }
            | Self::Unexplained { .. }
            | Self::Failed { .. }
            | Self::Expired
            | Self::Withdrawn => None,
        }
    }

    /// The hash to tell: of the transaction that may settle it, or that settled it or shows why it failed.
    pub fn transaction(&self) -> Option<B256> {
        match self {
            Self::Settled(Receipt::NOTHING) => None,
            Self::Settled(receipt) | Self::SettledExternally(receipt) => Some(receipt.transaction),
            Self::Preconfirmed { transaction, .. } => Some(*transaction),
            Self::Assigned { transaction, .. } | Self::Failed { transaction, .. } => *transaction,
            // The transaction that carried an unexplained payment did not settle it.
            Self::Accepted | Self::Unexplained { .. } | Self::Expired | Self::Withdrawn => None,
        }
    }

    /// Whether a caller who is content with `level` has its answer: an outcome that is a "no", or a settlement at least
    /// that sure.
    pub fn answers(&self, level: Level) -> bool {
        match self.level() {
            Some(reached) => reached >= level,
            None => self.is_resolved(),
        }
    }

    /// The reason that a caller is told, for the outcomes that are a "no".
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Failed { refusal, .. } => Some(refusal.clone()),
            Self::Expired => Some(Refusal::new(
                Reason::AuthorizationExpired,
                "the authorization expired before it could be settled",
            )),
            Self::Withdrawn => Some(Refusal::new(
                Reason::SettlementWithdrawn,
                "not sent in time; the payment may be settled again",
            )),
            Self::Accepted
            | Self::Assigned { .. }
            | Self::Preconfirmed { .. }
            | Self::Unexplained { .. }
            | Self::Settled(_)
            | Self::SettledExternally(_) => None,
        }
    }
}

/// What a caller was told, kept apart from what the chain says: a reorg changes the state, never this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// `success: true`, once.
    Success {
        /// The hash that was told.
        transaction: B256,
        /// How sure the chain was then.
        level: Level,
        /// When, by the database's clock.
        at: UnixMillis,
    },
    /// `success: false` with this reason. No new bytes are signed for the payment after this.
    Failure {
        /// The reason that was told.
        reason: Reason,
        /// When, by the database's clock.
        at: UnixMillis,
    },
}

/// How what the chain says came to differ from what was told, or to agree with it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompensationKind {
    /// Success was told; a reorg took the settlement back and it could not be made again.
    SuccessTakenBack,
    /// What was taken back is settled after all.
    SuccessRestored,
    /// Failure was told; bytes that a reorg revived settled the payment.
    FailureSettled,
    /// That settlement was taken back.
    FailureRestored,
}

impl CompensationKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::SuccessTakenBack,
        Self::SuccessRestored,
        Self::FailureSettled,
        Self::FailureRestored,
    ];

    /// The kind's name in ledger, metrics and API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SuccessTakenBack => "success_taken_back",
            Self::SuccessRestored => "success_restored",
            Self::FailureSettled => "failure_settled",
            Self::FailureRestored => "failure_restored",
        }
    }
}

impl FromStr for CompensationKind {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(ParseStateError)
    }
}

/// An entry of the ledger that says that books made from answers must be corrected. Never changed, never removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compensation {
    /// Its place in the list; rises, may have gaps.
    pub sequence: u64,
    /// Which payment.
    pub settlement: SettlementId,
    /// Whose.
    pub tenant: TenantId,
    /// What happened.
    pub kind: CompensationKind,
    /// When it was written, by the database's clock.
    pub at: UnixMillis,
}

/// A row of the ledger: one payment that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Its name.
    pub id: SettlementId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The protocol version that it came in.
    pub version: X402Version,
    /// What was signed.
    pub payment: Payment,
    /// What stands behind the calldata of the call that settles it: whom it is attributed to, or nothing.
    pub attribution: Bytes,
    /// [`Payment::digest`], kept for look-ups.
    pub digest: PaymentDigest,
    /// How far it has come, as the chain says.
    pub state: SettlementState,
    /// What a caller was told last, if anything.
    pub told: Option<Told>,
    /// How many slots it has been in. Bytes that settle it exist once this is above zero.
    pub tries: u32,
    /// When it was accepted, by the database's clock.
    pub accepted_at: UnixMillis,
    /// When its state last changed, by the database's clock.
    pub updated_at: UnixMillis,
}

/// What becomes of one payment when its slot closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It reached an outcome.
    Resolved(SettlementState),
    /// The slot closed without it; its authorization is unused and its deadline open: queue it again.
    Requeued,
    /// The slot closed, and its receipt does not show what became of the payment: [`SettlementState::Unexplained`].
    Unexplained {
        /// The mined transaction that carried it without settling it, if one did.
        transaction: Option<B256>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_level_reads_back() {
        for kind in SettlementStateKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        for level in [
            Level::Preconfirmed,
            Level::Included,
            Level::Safe,
            Level::Finalized,
        ] {
            assert_eq!(level.as_str().parse(), Ok(level));
        }
    }
}
