//! What the core hears and what it asks for.

use alloy_primitives::{Address, B256, Bytes};
use teller_domain::{
    AccountNonce, Attempt, BlockRef, Fees, FencedLane, LaneMode, Level, Reason, Receipt,
    SettlementId, SettlementState, SlotId, UnixSeconds, Wei,
};
use teller_store::{SlotClosure, Spending, UnfinalSlot};

use super::Queued;

/// A sealed block.
#[derive(Debug, Clone)]
pub struct BlockSummary {
    /// Height and hash.
    pub block: BlockRef,
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

/// A receipt of an attempt, as a node gave it. Whether its block is sealed and canonical is for the core to say.
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
    /// Another transaction submitted the authorization and the payee has the money.
    SettledElsewhere {
        /// Where. Its level is included.
        receipt: Receipt,
        /// Whether an attempt of teller's own did it: a slot that a reorg had reopened beside this one.
        ours: bool,
    },
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

/// What one endpoint says of an open slot.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// The sealed block at which the endpoint read the nonce.
    pub sealed: BlockRef,
    /// The signer's nonce at that block, read before everything below.
    pub sealed_nonce: AccountNonce,
    /// The receipt of one of the slot's hashes, if it has one.
    pub mined: Option<Mined>,
    /// Whether it knows any of the hashes, mined or waiting.
    pub known: bool,
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
    /// Payments of its batch that have failed or expired, and that its bytes could still settle.
    pub ended: Vec<Queued>,
    /// The attempt that a Flashblock had shown, if payments of the slot are preconfirmed.
    pub preconfirmed: Option<B256>,
}

/// A lane that this process holds now.
#[derive(Debug, Clone)]
pub struct RecoveredLane {
    /// Network, signer, epoch.
    pub fence: FencedLane,
    /// What was decided about it.
    pub mode: LaneMode,
    /// The nonce of the next slot.
    pub next_nonce: AccountNonce,
    /// Its open slots, by nonce.
    pub slots: Vec<RecoveredSlot>,
    /// Its closed slots that a reorg could still reopen, by nonce.
    pub unfinal: Vec<UnfinalSlot>,
}

/// What is to be signed.
#[derive(Debug, Clone)]
pub enum ToSign {
    /// A slot's first attempt: the transfers of these payments, in order.
    Batch(Vec<Queued>),
    /// The calldata of an earlier attempt, at other fees.
    Outbid(Attempt),
    /// A transfer of zero to itself.
    NoOp,
}

/// What the core hears.
#[derive(Debug, Clone)]
pub enum Event {
    /// These are durable, accepted and in this process's queue.
    Accepted(Vec<Queued>),
    /// An accepted payment was withdrawn: nobody waits for it any more.
    Withdrawn(SettlementId),
    /// A lane is this process's (again); whatever the core thought of it before is void.
    LaneClaimed(RecoveredLane),
    /// A lane is not this process's any more, or a write to it had no certain end.
    LaneLost {
        /// The lane as it was held; news of an older holding changes nothing.
        fence: FencedLane,
    },
    /// This process holds more than its share of the lanes: one of these is to be given up.
    HandOver {
        /// Those that may be, as they are held.
        among: Vec<FencedLane>,
    },
    /// A lane was given up, for whoever takes it.
    LaneReleased {
        /// The signer.
        signer: Address,
    },
    /// The lane's mode in the ledger.
    ModeRead {
        /// The lane as it was held.
        fence: FencedLane,
        /// What an operator, or the core itself, has decided.
        mode: LaneMode,
    },
    /// The payers of a forming batch were looked at.
    CodeRead {
        /// The lane.
        signer: Address,
        /// The batch.
        batch: u64,
        /// Payments whose payer has code.
        with_code: Vec<SettlementId>,
        /// Those of them that were in the batch alone and whose call would revert, with why.
        refused: Vec<(SettlementId, Reason)>,
    },
    /// They could not be looked at.
    CodeUnread {
        /// The lane.
        signer: Address,
        /// The batch.
        batch: u64,
    },
    /// Bytes are signed. Nobody but this process has them.
    Signed {
        /// The lane as it was held.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// The [`Effect::Sign`] that this answers.
        ticket: u64,
        /// The bytes.
        attempt: Attempt,
    },
    /// The slot is durable, with its first attempt.
    SlotOpened {
        /// The lane as it was held; news of an older holding changes nothing.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
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
        /// The lane as it was held.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
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
    /// Headers from before the first [`Event::Block`], oldest first and contiguous up to it.
    Ancestry(Vec<BlockRef>),
    /// A block was sealed.
    Block(BlockSummary),
    /// The blocks from this height on are not canonical any more. Their successors follow as [`Event::Block`].
    Reorg {
        /// The lowest height that changed.
        from: u64,
    },
    /// Heights of the `safe` and `finalized` heads, as far as the node knows such.
    Levels {
        /// The `safe` head.
        safe: Option<u64>,
        /// The `finalized` head.
        finalized: Option<u64>,
    },
    /// A node has a receipt of one of a slot's attempts, of a sealed block or of a Flashblock.
    Found {
        /// The slot.
        id: SlotId,
        /// The attempt.
        mined: Mined,
    },
    /// Every endpoint was asked about a slot.
    LookedUp {
        /// The slot.
        id: SlotId,
        /// About how many of its attempts.
        asked: usize,
        /// The endpoints that answered.
        sightings: Vec<Sighting>,
        /// How many there are.
        endpoints: usize,
    },
    /// Payments that a mined attempt did not settle were looked into.
    Investigated {
        /// The slot.
        id: SlotId,
        /// The block of the [`Effect::Investigate`] that this answers.
        block: BlockRef,
        /// What was found of each.
        findings: Vec<(SettlementId, Finding)>,
    },
    /// What a Flashblock showed of the slot is durable, or came too late to matter.
    Preconfirmed {
        /// The lane as it was held.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
    },
    /// The slot's end is durable.
    SlotClosed {
        /// The lane as it was held.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// Its payments that another open slot still carries: they are that slot's now.
        kept: Vec<SettlementId>,
    },
    /// The chain was asked which of these blocks it holds. Those that no node could tell of are in neither list.
    BlocksChecked {
        /// The lane as it was held.
        fence: FencedLane,
        /// Those that are canonical.
        canonical: Vec<BlockRef>,
        /// Those at whose height another block is.
        orphaned: Vec<BlockRef>,
    },
    /// These closed slots have reached a level, durably.
    LevelsRaised {
        /// The lane as it was held.
        fence: FencedLane,
        /// The slots.
        nonces: Vec<AccountNonce>,
        /// The level.
        level: Level,
    },
    /// These accepted payments reached their outcome, or were not accepted any more.
    AcceptedResolved {
        /// The payments.
        ids: Vec<SettlementId>,
    },
    /// What settling has cost today.
    Spent(Spending),
    /// What the node thinks is a fair tip, wei for each unit of gas.
    Tip(u128),
    /// The process is about to end: sign nothing new.
    Drain,
    /// Time has passed.
    Tick,
}

/// What the core asks for.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Look which payers of a forming batch have code; of a payer who is alone and has code, whether the call would
    /// pass. Answer: [`Event::CodeRead`] or [`Event::CodeUnread`].
    ReadCode {
        /// The lane.
        signer: Address,
        /// The batch.
        batch: u64,
        /// Its payments.
        payments: Vec<Queued>,
    },
    /// Sign, and do nothing else. Answer: [`Event::Signed`], or [`Event::LaneLost`] if it cannot be signed.
    Sign {
        /// The lane.
        fence: FencedLane,
        /// The slot whose nonce the bytes get.
        id: SlotId,
        /// Names this order: bytes that were signed for an earlier one are not taken for it.
        ticket: u64,
        /// What they carry.
        what: ToSign,
        /// Gas limit of the transaction; [`ToSign::Outbid`] and [`ToSign::NoOp`] have their own.
        gas_limit: u64,
        /// Its fees.
        fees: Fees,
    },
    /// Commit the slot with its first attempt. Answer: [`Event::SlotOpened`], [`Event::PaymentsMoved`] or
    /// [`Event::LaneLost`].
    OpenSlot {
        /// The lane.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// The bytes.
        attempt: Attempt,
        /// The batch, in order.
        payments: Vec<SettlementId>,
    },
    /// Commit a further attempt. Answer: [`Event::AttemptAdded`] or [`Event::LaneLost`].
    AddAttempt {
        /// The lane.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// The bytes.
        attempt: Attempt,
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
    /// Read receipts of these hashes. Answer for each that is found: [`Event::Found`].
    FindReceipts {
        /// The slots and their hashes.
        lookups: Vec<(SlotId, Vec<B256>)>,
        /// Where they should be.
        place: Place,
    },
    /// Ask every endpoint about a slot. Answer: [`Event::LookedUp`], with whatever endpoints answered.
    LookUp {
        /// The slot.
        id: SlotId,
        /// The hashes of its attempts.
        hashes: Vec<B256>,
    },
    /// Look into payments that a mined attempt, or a stranger's transaction, did not settle, at no earlier block than this.
    /// Answer: [`Event::Investigated`], as often as it takes.
    Investigate {
        /// The slot.
        id: SlotId,
        /// The block that took the slot's nonce.
        block: BlockRef,
        /// The payments.
        payments: Vec<Queued>,
    },
    /// Commit what a Flashblock showed, see [`teller_store::Ledger::preconfirm`]. Answer: [`Event::Preconfirmed`] or
    /// [`Event::LaneLost`].
    Preconfirm {
        /// The lane.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// The attempt that was seen.
        transaction: B256,
        /// The payments that it settled there, with their log indexes.
        payments: Vec<(SettlementId, u64)>,
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
    /// Commit that a reorg took these slots' blocks, then read the lane from the ledger again. Answer:
    /// [`Event::LaneClaimed`], as often as it takes.
    ReopenSlots {
        /// The lane.
        fence: FencedLane,
        /// The slots.
        nonces: Vec<AccountNonce>,
    },
    /// Commit that a reorg took blocks in which others had settled payments of the lane. No answer but
    /// [`Event::LaneLost`]; what is accepted again comes as [`Event::Accepted`].
    TakeBackExternal {
        /// The lane.
        fence: FencedLane,
        /// The blocks.
        blocks: Vec<BlockRef>,
    },
    /// Ask whether these blocks are canonical. Answer: [`Event::BlocksChecked`], or nothing where no node could say.
    CheckBlocks {
        /// The lane.
        fence: FencedLane,
        /// The blocks.
        blocks: Vec<BlockRef>,
    },
    /// Commit that these closed slots have reached a level. Answer: [`Event::LevelsRaised`] or [`Event::LaneLost`].
    RaiseLevels {
        /// The lane.
        fence: FencedLane,
        /// The slots.
        nonces: Vec<AccountNonce>,
        /// The level.
        level: Level,
    },
    /// Commit outcomes of payments that no slot holds. Answer: [`Event::AcceptedResolved`], as often as it takes, unless
    /// the lane is lost: then [`Event::LaneLost`].
    ResolveAccepted {
        /// A lane that this process holds.
        fence: FencedLane,
        /// The outcomes.
        resolutions: Vec<(SettlementId, SettlementState)>,
    },
    /// Give payments back to whoever has a usable lane. No answer.
    ReleaseQueued(Vec<SettlementId>),
    /// Commit the lane's mode; [`LaneMode::Frozen`] alarms the operator. No answer but [`Event::LaneLost`].
    SetMode {
        /// The lane.
        fence: FencedLane,
        /// Its mode so far: where an operator has ordered another one, that stands.
        from: LaneMode,
        /// Its mode from now on.
        mode: LaneMode,
        /// The slot that gave rise to it, if one did.
        slot: Option<SlotId>,
    },
    /// Give the lane up, for another process to take. What is open on it is that one's. Answer:
    /// [`Event::LaneReleased`].
    ReleaseLane {
        /// The lane.
        fence: FencedLane,
    },
    /// Read the lane from the ledger and take it, once nobody else has it or may have it. Answer: [`Event::LaneClaimed`].
    ReclaimLane {
        /// The signer.
        signer: Address,
    },
}

/// Where hashes are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A sealed block lists them: a node without their receipts is behind, and is asked again.
    SealedBlock,
    /// A Flashblock may show them.
    Flashblock,
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
            Self::Investigate { id, .. } => Some(id.signer),
            Self::Sign { fence, .. }
            | Self::OpenSlot { fence, .. }
            | Self::AddAttempt { fence, .. }
            | Self::Preconfirm { fence, .. }
            | Self::CloseSlot { fence, .. }
            | Self::ReopenSlots { fence, .. }
            | Self::TakeBackExternal { fence, .. }
            | Self::RaiseLevels { fence, .. }
            | Self::ResolveAccepted { fence, .. }
            | Self::ReleaseLane { fence }
            | Self::SetMode { fence, .. } => Some(fence.signer),
            Self::Broadcast { .. }
            | Self::FindReceipts { .. }
            | Self::LookUp { .. }
            | Self::CheckBlocks { .. }
            | Self::ReleaseQueued(_) => None,
        }
    }
}
