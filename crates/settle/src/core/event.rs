//! What the core hears.

use alloy_primitives::{Address, B256, Bytes};
use teller_domain::{
    AccountNonce, Attempt, BlockRef, FencedLane, LaneMode, Level, Reason, Receipt, SettlementId,
    SlotId, UnixSeconds, Wei,
};
use teller_store::{Spending, UnfinalSlot};

use super::{Funds, Queued, Unexplained};

/// A sealed block.
#[derive(Debug, Clone)]
pub struct BlockSummary {
    /// Height and hash.
    pub block: BlockRef,
    /// Its time.
    pub timestamp: UnixSeconds,
    /// Base fee in wei for each unit of gas.
    pub base_fee: u128,
    /// The most gas that all transactions of a block may use.
    pub gas_limit: u64,
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
    /// The very authorization was submitted, and another amount moved, or to somebody else: the token's doing.
    Mismatched {
        /// The transaction that did it.
        transaction: B256,
    },
    /// The authorization's nonce is used, and all logs up to this height were read without what explains it.
    Unfound {
        /// The height.
        at: u64,
    },
    /// The authorization is unused and the call reverts.
    WouldRevert(Reason),
    /// The authorization is unused and the call would pass.
    WouldSettle,
}

/// What the chain says of a payer's approval of Permit2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalStanding {
    /// Permit2 may move enough; or the permit is spent, and how is for the payment's own slot to find out.
    InPlace,
    /// It can still be mined.
    Outstanding {
        /// What its payer lacks for it.
        lacking: Wei,
        /// Whether a top-up for him and this token is in the ledger.
        given: bool,
    },
    /// Its nonce has passed, and Permit2 may still not move enough: all witnesses say so.
    Void,
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
    /// Whether it has looked everywhere: otherwise what it does not know is no evidence.
    pub searched: bool,
    /// The signer's nonce at the block that [`super::Effect::LookUp`] names, if it could tell.
    pub nonce_then: Option<AccountNonce>,
}

/// An open slot as the ledger has it.
#[derive(Debug, Clone)]
pub struct RecoveredSlot {
    /// Its name.
    pub id: SlotId,
    /// The newest block that its opener knew.
    pub after: Option<BlockRef>,
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
    /// Payments that left its slots unexplained.
    pub unexplained: Vec<Unexplained>,
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
    /// The slot was not written: its payment's payer was topped up for that token before.
    ToppedUpBefore {
        /// The lane as it was held.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
    },
    /// Payers' approvals were looked at, as far as that was possible.
    ApprovalsSeen {
        /// The payments whose approvals were to be looked at.
        asked: Vec<SettlementId>,
        /// The sealed block at which they were; none if none was.
        block: Option<BlockRef>,
        /// What was seen.
        seen: Vec<(SettlementId, ApprovalStanding)>,
        /// Those that are not accepted any more: nobody waits for them.
        gone: Vec<SettlementId>,
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
    /// Unexplained payments were looked into, as far as that was possible.
    Investigated {
        /// The lane as it was held.
        fence: FencedLane,
        /// The payments that were to be looked into.
        asked: Vec<SettlementId>,
        /// What was found of those of which anything was.
        findings: Vec<(SettlementId, Finding)>,
    },
    /// What was found of these payments is durable.
    UnexplainedResolved {
        /// The lane as it was held.
        fence: FencedLane,
        /// The payments.
        ids: Vec<SettlementId>,
        /// Those that were still unexplained; the others are another slot's again.
        changed: Vec<SettlementId>,
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
    /// What a signer has, and how many of its transactions are mined.
    FundsRead {
        /// The signer.
        signer: Address,
        /// What was read.
        funds: Funds,
    },
    /// What the node thinks is a fair tip, wei for each unit of gas.
    Tip(u128),
    /// The process is about to end: sign nothing new.
    Drain,
    /// Time has passed.
    Tick,
}
