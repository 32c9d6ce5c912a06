//! Lanes, slots and attempts: how signed transactions are kept in order.

use std::fmt;

use alloy_primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};

use crate::{AccountNonce, BlockRef, ChainId, SettlementId, Wei};

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
    /// Nothing: a transfer of zero to itself that closes the slot.
    NoOp,
}

impl AttemptKind {
    /// The kind's name in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
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

/// Whether a slot's nonce is still open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotState {
    /// No sealed block is known to hold one of its hashes.
    Open,
    /// The sealed account nonce has passed it.
    Closed {
        /// The attempt that was mined.
        transaction: B256,
        /// The block that holds it.
        block: BlockRef,
        /// Gas that the transaction used.
        gas_used: u64,
        /// What it cost in all.
        cost: Wei,
    },
}

/// A slot with its attempts, oldest first, and its payments in the order of the batch.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its name.
    pub id: SlotId,
    /// Open or closed.
    pub state: SlotState,
    /// Every attempt, oldest first; never empty.
    pub attempts: Vec<Attempt>,
    /// The payments in it.
    pub payments: Vec<SettlementId>,
}
