//! What the ledger is given and what it answers.

use alloy_primitives::{Address, B256, Bytes};
use teller_domain::{
    AccountNonce, Attempt, BlockRef, ChainId, FencedLane, LaneMode, Level, Payment, PaymentDigest,
    ProcessId, Receipt, RequestId, Resolution, Settlement, SettlementId, SettlementState,
    SettlementStateKind, Slot, SlotEnd, SlotId, SlotState, TenantId, UnixMillis, UnixSeconds, Wei,
    X402Version,
};

/// A payment to be accepted.
#[derive(Debug, Clone)]
pub struct NewSettlement {
    /// The id it gets if it is new.
    pub id: SettlementId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The protocol version that it came in.
    pub version: X402Version,
    /// What was signed.
    pub payment: Payment,
    /// What is to stand behind the calldata of the call that settles it.
    pub attribution: Bytes,
    /// The process that queues it at once; `None` leaves it to whoever calls [`Ledger::claim_accepted`] first.
    pub queued_by: Option<ProcessId>,
}

/// What [`Ledger::accept`] found.
#[derive(Debug, Clone)]
pub enum AcceptOutcome {
    /// It is in the ledger now, as accepted. A withdrawn row of the same authorization was replaced.
    Accepted(Settlement),
    /// The authorization was in the ledger already, perhaps with another payment or another tenant's.
    Exists(Settlement),
}

/// What happens once in the life of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Milestone {
    /// Reservations were opened beside it: from then on empty reservations are lost ones.
    ReservationsOpened,
}

impl Milestone {
    /// As the ledger has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ReservationsOpened => "reservations_opened",
        }
    }
}

/// Which accepted payments a process takes into its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All.
    All,
    /// Those that are void from that moment on: what a process without a usable lane takes, to end it.
    Late(UnixSeconds),
    /// All but those of these tenants, whose payments may enter no slot for now; of theirs only what is late.
    AllBut(Vec<TenantId>, UnixSeconds),
}

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// It settles, and may answer requests as well: lanes are shared out among those that do.
    Settles,
    /// It answers requests only.
    Answers,
}

impl Duty {
    pub(crate) fn settles(self) -> bool {
        self == Self::Settles
    }
}

/// The living processes that settle, as one of them sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlers {
    others: u64,
    before: u64,
}

impl Settlers {
    /// So many others, of which so many are before this process in the order of their ids.
    pub fn new(others: u64, before: u64) -> Self {
        Self { others, before }
    }

    /// How many there are, this process among them.
    pub fn living(self) -> u64 {
        self.others.saturating_add(1)
    }

    /// How many of a network's lanes are this process's part: all parts together are the lanes, and no two differ by
    /// more than one.
    pub fn share(self, lanes: u64) -> u64 {
        let living = self.living();
        lanes / living + u64::from(self.before < lanes % living)
    }
}

/// A lane as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Network, signer and the epoch that the claim raised.
    pub fence: FencedLane,
    /// The nonce of the next slot; `None` until the lane has adopted one from the chain.
    pub next_nonce: Option<AccountNonce>,
    /// What was decided about it.
    pub mode: LaneMode,
}

/// A closed slot of whose payments a reorg could still take something back. It is finalized itself only if settlements
/// by others in `external` are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinalSlot {
    /// Its nonce.
    pub nonce: AccountNonce,
    /// The block that holds its transaction.
    pub block: BlockRef,
    /// The blocks of transactions by others that settled payments whose last slot it is, each once; without `block`.
    pub external: Vec<BlockRef>,
    /// How sure the ledger is of all of these: the lowest of their levels.
    pub level: Level,
}

/// What a lane's new owner must go on with.
#[derive(Debug, Clone)]
pub struct LaneRecovery {
    /// The lane, claimed.
    pub lane: Lane,
    /// Its open slots, by nonce.
    pub open_slots: Vec<Slot>,
    /// Its closed slots whose level is below finalized, by nonce.
    pub unfinal: Vec<UnfinalSlot>,
    /// Payments of its closed slots that are unexplained, each with the block that closed its slot.
    pub unexplained: Vec<(SettlementId, BlockRef)>,
}

/// A lane as readers see it.
#[derive(Debug, Clone)]
pub struct LaneView {
    /// Network, signer, epoch.
    pub fence: FencedLane,
    /// Who holds it, if anybody does.
    pub owner: Option<ProcessId>,
    /// Until when, by the database's clock.
    pub lease_until: UnixMillis,
    /// Whether that moment has come.
    pub lease_expired: bool,
    /// The nonce of the next slot, once one was adopted.
    pub next_nonce: Option<AccountNonce>,
    /// What was decided about it.
    pub mode: LaneMode,
    /// Its open slots, by nonce. The signed bytes of their attempts are left out: readers send nothing.
    pub open_slots: Vec<Slot>,
}

/// A slot as the audit sees it: no signed bytes.
#[derive(Debug, Clone)]
pub struct AuditSlot {
    /// Its name.
    pub id: SlotId,
    /// Open or closed.
    pub state: SlotState,
    /// Hashes of its attempts, oldest first.
    pub attempts: Vec<B256>,
    /// Every payment that was ever in it, in the order of the batch.
    pub payments: Vec<Settlement>,
    /// What it gave a payer, if that is what it is for.
    pub top_up: Option<TopUp>,
}

/// What settling has cost since some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spending {
    /// Everything that closed slots cost.
    pub total: Wei,
    /// The shares of each tenant's settled payments.
    pub tenants: Vec<(TenantId, Wei)>,
    /// What payers were given for the gas of their approvals; not part of `total`.
    pub top_ups: Wei,
}

/// Native currency for a payer who lacks the gas of his approval of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopUp {
    /// Who gets it.
    pub payer: Address,
    /// Whose approval it is for. Nobody gets a second one for the same token.
    pub token: Address,
    /// How much.
    pub value: Wei,
}

/// A top-up in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeTopUp {
    /// What was given to whom.
    pub top_up: TopUp,
    /// The slot whose transaction gives it.
    pub slot: SlotId,
    /// Whether that slot is still open.
    pub open: bool,
}

/// A slot to be opened: one database transaction writes all of it.
#[derive(Debug, Clone)]
pub struct NewSlot {
    /// Its name; the nonce must be the lane's next one, unless it fills a gap.
    pub id: SlotId,
    /// The signed first attempt.
    pub attempt: Attempt,
    /// The payments in it, each in state accepted.
    pub payments: Vec<SettlementId>,
    /// What the attempt gives the payer of its one payment, instead of settling that.
    pub top_up: Option<TopUp>,
    /// The newest block that its opener knew: a nonce that had passed then was used before there was this slot.
    pub after: Option<BlockRef>,
}

/// What [`Ledger::open_slot`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenSlotOutcome {
    /// All written: the slot, its attempt, its payments (now assigned), the lane's next nonce.
    Opened,
    /// Nothing written: these payments are no longer accepted (withdrawn meanwhile). Form the batch without them.
    PaymentsMoved(Vec<SettlementId>),
    /// Nothing written: the payer was topped up for this token before.
    ToppedUpBefore,
}

/// The end of a slot: one database transaction writes all of it.
#[derive(Debug, Clone)]
pub struct SlotClosure {
    /// The slot, open until now.
    pub id: SlotId,
    /// What was mined in it; if that was one of its own attempts, an attempt of the slot in the ledger.
    pub end: SlotEnd,
    /// The sealed block that holds it.
    pub block: BlockRef,
    /// What becomes of each payment that is assigned to it.
    pub resolutions: Vec<(SettlementId, Resolution)>,
    /// Payments that had ended as failed or expired ([`Slot::ended`]) and were settled by its bytes after all.
    pub revived: Vec<(SettlementId, Receipt)>,
}

/// The success that is about to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Success {
    /// The transaction that settled the payment.
    pub transaction: B256,
    /// How sure the chain is of it.
    pub level: Level,
}

impl Success {
    /// What can be told of a payment in this state.
    pub fn of(state: &SettlementState) -> Option<Self> {
        let transaction = match state {
            SettlementState::Preconfirmed { transaction, .. } => *transaction,
            SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
                receipt.transaction
            }
            SettlementState::Accepted
            | SettlementState::Assigned { .. }
            | SettlementState::Unexplained { .. }
            | SettlementState::Failed { .. }
            | SettlementState::Expired
            | SettlementState::Withdrawn => return None,
        };
        let level = state.level()?;
        Some(Self { transaction, level })
    }
}

/// What [`Ledger::claim_delivery`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The success is this request's to deliver.
    Claimed,
    /// Another request has it and has not confirmed it.
    Taken,
    /// Another request has confirmed it.
    Delivered,
}

/// What [`Ledger::bind_idempotency_key`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdempotencyOutcome {
    /// The key belongs to this payment; requests that carry it share this id.
    Bound(RequestId),
    /// The key belongs to another payment.
    UsedForAnother(PaymentDigest),
}

/// Which settlements to list. All given conditions hold together.
#[derive(Debug, Clone, Default)]
pub struct SettlementQuery {
    /// Only this tenant's. `None` is for the operator's command line.
    pub tenant: Option<TenantId>,
    /// Only on this network.
    pub chain: Option<ChainId>,
    /// Only in this state.
    pub state: Option<SettlementStateKind>,
    /// Only of this payer.
    pub payer: Option<Address>,
    /// Only with this authorization nonce.
    pub nonce: Option<B256>,
    /// Only those that an attempt with this hash carries or carried.
    pub transaction: Option<B256>,
    /// Only those older than (listed behind) this one.
    pub before: Option<SettlementId>,
    /// How many at most; implementations cap it at 500.
    pub limit: u32,
}

/// A page of settlements, newest first.
#[derive(Debug, Clone)]
pub struct SettlementPage {
    /// The settlements.
    pub settlements: Vec<Settlement>,
    /// Whether older ones follow.
    pub more: bool,
}

/// One change of a settlement's state, from the outbox.
#[derive(Debug, Clone)]
pub struct SettlementEvent {
    /// Its place in the outbox; rises, may have gaps.
    pub sequence: u64,
    /// The settlement as it is now (not as it was at the event).
    pub settlement: Settlement,
}
