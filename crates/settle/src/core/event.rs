//! What the core hears and what it asks for.

use alloy_primitives::{Address, B256, Bytes};
use teller_domain::{
    AccountNonce, Attempt, AttemptKind, BlockRef, Fees, FencedLane, Reason, Receipt, SettlementId,
    SettlementState, SlotId, UnixSeconds, Wei,
};
use teller_store::SlotClosure;

use super::Queued;

/// A sealed block.
#[derive(Debug, Clone)]
pub struct BlockSummary {
    /// Height.
    pub number: u64,
    /// Its time.
    pub timestamp: UnixSeconds,
    /// Base fee in wei for each unit of gas.
    pub base_fee: u128,
    /// Hashes of its transactions.
    pub transactions: Vec<B256>,
}

/// A log of a mined attempt.
#[derive(Debug, Clone)]
pub struct Log {
    /// The contract that emitted it.
    pub address: Address,
    /// Its topics.
    pub topics: Vec<B256>,
    /// Its data.
    pub data: Bytes,
    /// Its index in the block.
    pub index: u64,
}

/// An attempt that a sealed block holds.
#[derive(Debug, Clone)]
pub struct Mined {
    /// Its hash.
    pub transaction: B256,
    /// The block.
    pub block: BlockRef,
    /// Whether it ran to its end; `false` means that it reverted as a whole.
    pub succeeded: bool,
    /// Gas that it used.
    pub gas_used: u64,
    /// What it cost in all.
    pub cost: Wei,
    /// Its logs, in order.
    pub logs: Vec<Log>,
}

/// What a node said to signed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It took them, or had them.
    Accepted,
    /// The account's nonce has passed theirs: something was mined in this slot.
    NonceTooLow,
    /// Another transaction of this slot pays as much.
    Underpriced,
    /// The signer has too little for gas.
    InsufficientFunds,
    /// The gas limit is above what the network takes: these bytes can never be mined.
    GasTooHigh,
    /// Anything else: they may or may not be on their way.
    Unknown,
}

/// What the chain says of a payment that its slot's transaction did not settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Somebody else submitted the authorization and the payee has the money.
    SettledExternally(Receipt),
    /// The authorization was cancelled, or spent on another transfer.
    Spent {
        /// The transaction that did it, if it was found.
        transaction: Option<B256>,
    },
    /// The authorization is unused and the call reverts.
    WouldRevert(Reason),
    /// The authorization is unused and the call would pass.
    WouldSettle,
}

/// An open slot as the ledger has it.
#[derive(Debug, Clone)]
pub struct RecoveredSlot {
    /// Its name.
    pub id: SlotId,
    /// Every attempt, oldest first.
    pub attempts: Vec<Attempt>,
    /// Its payments.
    pub payments: Vec<Queued>,
}

/// A lane that this process holds now.
#[derive(Debug, Clone)]
pub struct RecoveredLane {
    /// Network, signer, epoch.
    pub fence: FencedLane,
    /// The nonce of the next slot.
    pub next_nonce: AccountNonce,
    /// Its open slots, by nonce.
    pub slots: Vec<RecoveredSlot>,
}

/// What the core hears.
#[derive(Debug, Clone)]
pub enum Event {
    /// These are durable and accepted.
    Accepted(Vec<Queued>),
    /// A lane is this process's (again); whatever the core thought of it before is void.
    LaneClaimed(RecoveredLane),
    /// A lane is not this process's any more, or a write to it had no certain end.
    LaneLost {
        /// The lane as it was held; news of an older holding changes nothing.
        fence: FencedLane,
    },
    /// The payers of a forming batch were looked at.
    CodeRead {
        /// The lane.
        signer: Address,
        /// The batch.
        batch: u64,
        /// Payments whose payer has code.
        with_code: Vec<SettlementId>,
    },
    /// They could not be looked at.
    CodeUnread {
        /// The lane.
        signer: Address,
        /// The batch.
        batch: u64,
    },
    /// The slot is durable.
    SlotOpened {
        /// The lane as it was held; news of an older holding changes nothing.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// Its first attempt.
        attempt: Attempt,
    },
    /// The slot was not written: these payments are not accepted any more.
    PaymentsMoved {
        /// The lane as it was held.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// The payments.
        moved: Vec<SettlementId>,
    },
    /// A further attempt is durable.
    AttemptAdded {
        /// The slot.
        id: SlotId,
        /// The attempt.
        attempt: Attempt,
    },
    /// A node answered to a broadcast.
    Sent {
        /// The slot.
        id: SlotId,
        /// Which attempt.
        hash: B256,
        /// Its answer.
        outcome: Sent,
    },
    /// A block was sealed.
    Block(BlockSummary),
    /// One of a slot's attempts is in a sealed block.
    Found {
        /// The slot.
        id: SlotId,
        /// The attempt.
        mined: Mined,
    },
    /// None of a slot's attempts is in a sealed block, and if the sealed nonce has passed the slot, no node knows any of
    /// them either.
    NotFound {
        /// The slot.
        id: SlotId,
        /// The signer's nonce in the sealed state, read before the look-up.
        sealed_nonce: AccountNonce,
    },
    /// Payments that a mined attempt did not settle were looked into.
    Investigated {
        /// The slot.
        id: SlotId,
        /// What was found of each.
        findings: Vec<(SettlementId, Finding)>,
    },
    /// The slot's end is durable.
    SlotClosed {
        /// The slot.
        id: SlotId,
    },
    /// These accepted payments reached their outcome, or were not accepted any more.
    AcceptedResolved {
        /// The payments.
        ids: Vec<SettlementId>,
    },
    /// What the node thinks is a fair tip, wei for each unit of gas.
    Tip(u128),
    /// Time has passed.
    Tick,
}

/// What the core asks for.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Look which payers of a forming batch have code. Answer: [`Event::CodeRead`] or [`Event::CodeUnread`].
    ReadCode {
        /// The lane.
        signer: Address,
        /// The batch.
        batch: u64,
        /// Its payers.
        payers: Vec<(SettlementId, Address)>,
    },
    /// Sign the batch and commit the slot. Answer: [`Event::SlotOpened`], [`Event::PaymentsMoved`] or
    /// [`Event::LaneLost`].
    OpenSlot {
        /// The lane.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// The batch, in order.
        payments: Vec<Queued>,
        /// Gas limit of the transaction.
        gas_limit: u64,
        /// Its fees.
        fees: Fees,
    },
    /// Sign a further attempt with the calldata of `original`, or a no-op, and commit it. Answer:
    /// [`Event::AttemptAdded`] or [`Event::LaneLost`].
    AddAttempt {
        /// The lane.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// Batch or no-op.
        kind: AttemptKind,
        /// Its fees.
        fees: Fees,
        /// The slot's first attempt.
        original: Attempt,
    },
    /// Send committed bytes. Answer: [`Event::Sent`].
    Broadcast {
        /// The slot.
        id: SlotId,
        /// The bytes.
        attempt: Attempt,
        /// Whether they were sent before.
        again: Again,
    },
    /// Look for these hashes in sealed blocks. Answer for each slot: [`Event::Found`] or [`Event::NotFound`], or nothing
    /// where no node could say.
    FindReceipts {
        /// The slots and their hashes.
        lookups: Vec<(SlotId, Vec<B256>)>,
        /// Whether they are known to be in a block.
        certainty: Certainty,
    },
    /// Look into payments that a mined attempt did not settle. Answer: [`Event::Investigated`], as often as it takes.
    Investigate {
        /// The slot.
        id: SlotId,
        /// The block that holds the attempt.
        block: BlockRef,
        /// The payments.
        payments: Vec<Queued>,
    },
    /// Commit the end of a slot. Answer: [`Event::SlotClosed`] or [`Event::LaneLost`].
    CloseSlot {
        /// The lane.
        fence: FencedLane,
        /// What to commit.
        closure: SlotClosure,
        /// The slot's payments.
        payments: Vec<Queued>,
    },
    /// Commit outcomes of payments that no slot holds. Answer: [`Event::AcceptedResolved`], as often as it takes.
    ResolveAccepted(Vec<(SettlementId, SettlementState)>),
    /// Read the lane from the ledger and take it. Answer: [`Event::LaneClaimed`].
    ReclaimLane {
        /// The signer.
        signer: Address,
    },
    /// Somebody else has used the signer's key: tell the operator. Nothing is signed on this lane any more.
    LaneFrozen {
        /// The signer.
        signer: Address,
        /// The slot that another transaction took.
        id: SlotId,
    },
}

/// What is known of hashes that are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// A sealed block lists them: a node without their receipts is behind, and is asked again.
    InBlock,
    /// They may be anywhere.
    Unknown,
}

/// Whether bytes go out for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// They do, as the slot's first attempt.
    First,
    /// They do, and outbid an earlier attempt.
    Outbid,
    /// They were sent, or may have been.
    Repeat,
}

impl Effect {
    /// The lane whose fate hangs on the effect's answer.
    pub fn signer(&self) -> Option<Address> {
        match self {
            Self::ReadCode { signer, .. } | Self::ReclaimLane { signer } => Some(*signer),
            Self::OpenSlot { id, .. }
            | Self::AddAttempt { id, .. }
            | Self::Investigate { id, .. } => Some(id.signer),
            Self::CloseSlot { fence, .. } => Some(fence.signer),
            Self::Broadcast { .. }
            | Self::FindReceipts { .. }
            | Self::ResolveAccepted(_)
            | Self::LaneFrozen { .. } => None,
        }
    }
}
