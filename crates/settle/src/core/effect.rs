//! What the core asks for.

use alloy_primitives::{Address, B256};
use teller_domain::{
    AccountNonce, Attempt, BlockRef, Fees, FencedLane, LaneMode, Level, Resolution, SettlementId,
    SettlementState, SlotId,
};
use teller_store::{SlotClosure, TopUp};

use super::{Queued, Unexplained};

/// What is to be signed.
#[derive(Debug, Clone)]
pub enum ToSign {
    /// A slot's first attempt: the transfers of these payments, in order.
    Batch(Vec<Queued>),
    /// A slot's first attempt: a transfer of native currency.
    TopUp(TopUp),
    /// What an earlier attempt carries, at other fees.
    Outbid(Attempt),
    /// A transfer of zero to itself.
    NoOp,
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
    /// Commit the slot with its first attempt. Answer: [`Event::SlotOpened`], [`Event::PaymentsMoved`],
    /// [`Event::ToppedUpBefore`] or [`Event::LaneLost`].
    OpenSlot {
        /// The lane.
        fence: FencedLane,
        /// The slot.
        id: SlotId,
        /// The bytes.
        attempt: Attempt,
        /// The batch, in order.
        payments: Vec<SettlementId>,
        /// What it gives the payer of its one payment, if it gives anything.
        top_up: Option<TopUp>,
        /// The newest block.
        after: Option<BlockRef>,
    },
    /// Look what became of the approvals that came with these payments. Answer: [`Event::ApprovalsSeen`].
    LookAtApprovals {
        /// The payments.
        payments: Vec<Queued>,
    },
    /// Send the approval that came with a payment. Its bytes are the payer's and in the ledger. No answer: the next look
    /// tells.
    SendApproval {
        /// The payment.
        payment: Queued,
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
        /// An older block at which the signer's nonce is wanted as well.
        then: Option<BlockRef>,
    },
    /// Ask the chain what became of unexplained payments, each at no earlier block than the one that closed its slot.
    /// Answer: [`Event::Investigated`].
    Investigate {
        /// The lane.
        fence: FencedLane,
        /// The payments.
        payments: Vec<Unexplained>,
    },
    /// Commit what became of unexplained payments. Answer: [`Event::UnexplainedResolved`] or [`Event::LaneLost`].
    ResolveUnexplained {
        /// The lane.
        fence: FencedLane,
        /// What became of each.
        resolutions: Vec<(SettlementId, Resolution)>,
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
            Self::Sign { fence, .. }
            | Self::OpenSlot { fence, .. }
            | Self::AddAttempt { fence, .. }
            | Self::Preconfirm { fence, .. }
            | Self::CloseSlot { fence, .. }
            | Self::Investigate { fence, .. }
            | Self::ResolveUnexplained { fence, .. }
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
            | Self::LookAtApprovals { .. }
            | Self::SendApproval { .. }
            | Self::ReleaseQueued(_) => None,
        }
    }
}
