//! Lanes, slots and attempts: how signed transactions are kept in order.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};

use crate::{
    AccountNonce, BlockRef, ChainId, Level, ParseStateError, SettlementId, UnixMillis, Wei,
};

/// A place in a signer's sequence of transactions. At most one transaction is ever mined in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId {
    /// The network.
    pub chain: ChainId,
    /// The signer's account.
    pub signer: Address,
    /// The account nonce of every attempt in the slot.
    pub nonce: AccountNonce,
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.chain, self.signer, self.nonce)
    }
}

/// A lane as its owner holds it. Writes that name an old epoch change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencedLane {
    /// The network.
    pub chain: ChainId,
    /// The signer.
    pub signer: Address,
    /// Raised at every takeover.
    pub epoch: u64,
}

/// EIP-1559 fees, wei for each unit of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fees {
    /// `maxFeePerGas`
    pub max_fee_per_gas: u128,
    /// `maxPriorityFeePerGas`
    pub max_priority_fee_per_gas: u128,
}

/// What an attempt carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptKind {
    /// The slot's batch of payments.
    Batch,
    /// A transfer of native currency to a payer who lacks the gas of his approval. The slot's one payment goes on waiting
    /// afterwards.
    TopUp,
    /// Nothing: a transfer of zero to itself that closes the slot.
    NoOp,
}

impl AttemptKind {
    /// The kind's name in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::TopUp => "top_up",
            Self::NoOp => "noop",
        }
    }
}

/// Signed bytes for a slot. Durable before they are sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Hash of the transaction.
    pub hash: B256,
    /// The signed transaction, EIP-2718 encoded.
    pub raw: Bytes,
    /// What it carries.
    pub kind: AttemptKind,
    /// Its fees.
    pub fees: Fees,
    /// Its gas limit.
    pub gas_limit: u64,
}

/// The raw bytes hold payers' signatures, so they are not printed.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("hash", &self.hash)
            .field("kind", &self.kind)
            .field("fees", &self.fees)
            .field("gas_limit", &self.gas_limit)
            .finish_non_exhaustive()
    }
}

/// Whose transaction was mined in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotEnd {
    /// One of its own attempts.
    Mined {
        /// The attempt.
        transaction: B256,
        /// Gas that it used.
        gas_used: u64,
        /// What it cost in all.
        cost: Wei,
    },
    /// A transaction that is none of its attempts: somebody else used the signer's key.
    Foreign,
}

/// Whether a slot's nonce is still open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotState {
    /// No sealed canonical block is known to hold one of its hashes.
    Open,
    /// The sealed account nonce has passed it.
    Closed {
        /// What was mined in it.
        end: SlotEnd,
        /// The block that holds it; for a foreign end the block at which the nonce was seen to have passed.
        block: BlockRef,
        /// How sure the chain is of that block. A reorg reopens the slot until this is `finalized`.
        level: Level,
    },
}

/// A slot with its attempts, oldest first, and its payments in the order of the batch.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its name.
    pub id: SlotId,
    /// Open or closed.
    pub state: SlotState,
    /// When it was opened, by the database's clock.
    pub opened_at: UnixMillis,
    /// The newest block that its opener knew: a nonce that had passed then was used before there was this slot.
    pub after: Option<BlockRef>,
    /// Every attempt, oldest first; never empty.
    pub attempts: Vec<Attempt>,
    /// The payments that are assigned to it, in the order of the batch.
    pub payments: Vec<SettlementId>,
    /// Payments of its batch that have ended as failed or expired and could still be settled by its bytes, because a
    /// reorg reopened it. Nothing is signed for them.
    pub ended: Vec<SettlementId>,
}

/// What an operator, or the engine itself, has decided about a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneMode {
    /// It takes batches.
    Active,
    /// It takes no more batches; open slots come to their end.
    Draining,
    /// Somebody else has used the signer's key: nothing is signed until an operator thaws it.
    Frozen,
    /// An operator has looked: slots that strangers' transactions took are closed as foreign, then it is active.
    Thawing,
    /// Every open slot is given up for a no-op at any price, then it is active.
    Rescuing,
}

impl LaneMode {
    /// Every mode.
    pub const ALL: [Self; 5] = [
        Self::Active,
        Self::Draining,
        Self::Frozen,
        Self::Thawing,
        Self::Rescuing,
    ];

    /// The mode's name in ledger, metrics and commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Frozen => "frozen",
            Self::Thawing => "thawing",
            Self::Rescuing => "rescuing",
        }
    }
}

impl FromStr for LaneMode {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or(ParseStateError)
    }
}
