//! The ledger: every accepted payment, every signed transaction, every outcome.

use alloy_primitives::{Address, B256, Bytes};
use async_trait::async_trait;
use teller_domain::{
    AccountNonce, Attempt, AuthorizationKey, BlockRef, ChainId, Compensation, FencedLane,
    IdempotencyKey, LaneMode, Level, Payment, PaymentDigest, ProcessId, Receipt, RequestId,
    Resolution, Settlement, SettlementId, SettlementState, SettlementStateKind, Slot, SlotEnd,
    SlotId, SlotState, TenantId, UnixMillis, UnixSeconds, Wei, X402Version,
};

use crate::{Catalogue, StoreResult};

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
}

/// What settling has cost since some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spending {
    /// Everything that closed slots cost.
    pub total: Wei,
    /// The shares of each tenant's settled payments.
    pub tenants: Vec<(TenantId, Wei)>,
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
}

/// What [`Ledger::open_slot`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenSlotOutcome {
    /// All written: the slot, its attempt, its payments (now assigned), the lane's next nonce.
    Opened,
    /// Nothing written: these payments are no longer accepted (withdrawn meanwhile). Form the batch without them.
    PaymentsMoved(Vec<SettlementId>),
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

/// The ledger's contract. Every call is durable when it answers; hot ones are grouped inside.
///
/// Every state change names the state that it expects. The unique key (network, authority, payer, nonce) is the
/// authority over reservations, always.
#[async_trait]
pub trait Ledger: Catalogue {
    /// Answers if the ledger can take writes.
    async fn ping(&self) -> StoreResult<()>;

    /// The ledger's clock: for leases and row times.
    async fn now(&self) -> StoreResult<UnixMillis>;

    /// Notes the genesis hash of a network, or refuses another one than is noted ([`crate::StoreError::GenesisMismatch`]).
    async fn bind_network(&self, chain: ChainId, genesis: B256) -> StoreResult<()>;

    /// Registers or renews this process for `lease_ms` and answers how many living processes settle. Deliveries claimed by a process that is not registered, or
    /// whose lease has run out, may be claimed by others. The embedded ledger forgets all others at its start.
    /// Beside it, about once a minute, rows are pruned that nobody needs any more: outbox rows and idempotency keys
    /// after seven days, dead processes after one.
    async fn heartbeat(
        &self,
        process: ProcessId,
        duty: Duty,
        lease_ms: u64,
    ) -> StoreResult<Settlers>;

    /// Inserts the payment as accepted unless its authorization is in the ledger. Grouped.
    async fn accept(&self, new: NewSettlement) -> StoreResult<AcceptOutcome>;

    /// The settlement of an authorization. Grouped.
    async fn find(&self, key: AuthorizationKey) -> StoreResult<Option<Settlement>>;

    /// The settlement with this id.
    async fn settlement(&self, id: SettlementId) -> StoreResult<Option<Settlement>>;

    /// The settlement with this id, and when it was settled by the database's clock: `None` while it never was.
    async fn settled(
        &self,
        id: SettlementId,
    ) -> StoreResult<Option<(Settlement, Option<UnixMillis>)>>;

    /// The settlements with these ids, in any order; unknown ids are left out.
    async fn settlements(&self, ids: &[SettlementId]) -> StoreResult<Vec<Settlement>>;

    /// A page of settlements, newest first.
    async fn list(&self, query: &SettlementQuery) -> StoreResult<SettlementPage>;

    /// accepted with no tries -> withdrawn. `false`, and nothing changed, if it was anything else.
    async fn withdraw(&self, id: SettlementId) -> StoreResult<bool>;

    /// accepted -> failed, expired or settled externally, for payments that no open slot holds. Answers those that it
    /// changed. [`crate::StoreError::StaleLane`] if the epoch is old: whoever lost its lanes ends nothing any more.
    async fn resolve_accepted(
        &self,
        fence: FencedLane,
        resolutions: &[(SettlementId, SettlementState)],
    ) -> StoreResult<Vec<SettlementId>>;

    /// Takes up to `limit` (at most 2,000) accepted payments of a network into this process's queue, oldest first: those that nobody
    /// has queued, that this process has, or whose process is dead. Skips what others are taking (`SKIP LOCKED`), and
    /// what only an account may settle whose lane is not this process's.
    async fn claim_accepted(
        &self,
        chain: ChainId,
        owner: ProcessId,
        limit: u32,
        wanted: &Wanted,
    ) -> StoreResult<Vec<Settlement>>;

    /// Gives back everything that this process has queued on a network: it has no lane there.
    async fn release_queue(&self, chain: ChainId, owner: ProcessId) -> StoreResult<()>;

    /// Gives queued payments of this process back, for others to claim. Those that are no longer accepted are left alone.
    async fn release_accepted(&self, owner: ProcessId, ids: &[SettlementId]) -> StoreResult<()>;

    /// How many payments are accepted, assigned or preconfirmed, over all networks.
    async fn unresolved(&self) -> StoreResult<u64>;

    /// The keys, tenants and digests of all payments that are accepted, assigned or preconfirmed: what reservations are
    /// recovered from.
    async fn unresolved_settlements(&self) -> StoreResult<Vec<Settlement>>;

    /// Ends this process's registration: its queue and its unconfirmed deliveries are free for others at once.
    async fn deregister(&self, process: ProcessId) -> StoreResult<()>;

    /// Takes a lane if it is this process's own or its lease has run out, or if it is free and this process, with
    /// `signers` signers on the network, has less than its [`Settlers::share`] of their lanes, or nobody has taken it for
    /// `lease_ms`; raises its epoch. `None` if another process holds it or may have it. A new lane is active.
    async fn claim_lane(
        &self,
        chain: ChainId,
        signer: Address,
        owner: ProcessId,
        signers: u64,
        lease_ms: u64,
    ) -> StoreResult<Option<LaneRecovery>>;

    /// Extends the lease and answers the lane's mode. [`crate::StoreError::StaleLane`] if the epoch is old.
    async fn renew_lane(&self, fence: FencedLane, lease_ms: u64) -> StoreResult<LaneMode>;

    /// Changes a lane's mode as its owner, if it is `expected`; `false`, and nothing changed, if an operator has ordered
    /// another meanwhile. A lane is frozen whatever its mode was. [`crate::StoreError::StaleLane`] if the epoch is old.
    async fn set_lane_mode(
        &self,
        fence: FencedLane,
        expected: LaneMode,
        mode: LaneMode,
    ) -> StoreResult<bool>;

    /// Changes a lane's mode as an operator, whoever owns it, if it is `expected`; `false`, and nothing changed, if not.
    async fn order_lane_mode(
        &self,
        chain: ChainId,
        signer: Address,
        expected: LaneMode,
        mode: LaneMode,
    ) -> StoreResult<bool>;

    /// Every lane of every network. For readers.
    async fn lanes(&self) -> StoreResult<Vec<LaneView>>;

    /// Gives the lane up, so that another process need not wait for the lease.
    async fn release_lane(&self, fence: FencedLane) -> StoreResult<()>;

    /// Sets the next nonce of a lane without open slots to the chain's.
    async fn adopt_nonce(&self, fence: FencedLane, nonce: AccountNonce) -> StoreResult<()>;

    /// Opens a slot. [`crate::StoreError::StaleLane`] if the epoch or the next nonce is not the expected one. Each
    /// payment goes accepted -> assigned, its tries rise by one. A slot without payments may also have a nonce below the
    /// lane's next one at which there is none, open or closed: it fills a gap.
    async fn open_slot(&self, fence: FencedLane, slot: NewSlot) -> StoreResult<OpenSlotOutcome>;

    /// Adds a signed attempt to an open slot; the payments' newest transaction is its hash from now on (not for a no-op).
    async fn add_attempt(
        &self,
        fence: FencedLane,
        slot: SlotId,
        attempt: Attempt,
    ) -> StoreResult<()>;

    /// Notes that an attempt of an open slot was seen in a Flashblock and which payments it settled there, with the
    /// indexes of their `Transfer` logs: assigned -> preconfirmed. Payments of the slot that are preconfirmed and not
    /// named go back to assigned, so an empty list takes a vanished Flashblock back.
    async fn preconfirm(
        &self,
        fence: FencedLane,
        slot: SlotId,
        transaction: B256,
        payments: &[(SettlementId, u64)],
    ) -> StoreResult<()>;

    /// Reopens closed slots whose block a reorg took away. [`crate::StoreError::Conflict`] for a nonce without a slot. Of the payments whose last slot it is: settled, settled
    /// externally and accepted ones are assigned to it again, except that one to whom failure was told goes back to
    /// failed with the told reason; failed and expired ones stay and become [`Slot::ended`]. Slots that are open already
    /// are left alone, and so are finalized settlements by others. Accepted payments that it carries are assigned to it even
    /// if they have been in another slot since. [`crate::StoreError::Conflict`] if a slot is finalized.
    async fn reopen_slots(&self, fence: FencedLane, nonces: &[AccountNonce]) -> StoreResult<()>;

    /// Takes back settlements by others whose block a reorg took away, of payments whose last slot is in this lane and
    /// closed: settled externally -> accepted and queued by nobody, or assigned to an open slot that still carries them, or
    /// failed if that was told. Settlements by sibling
    /// slots count as such ([`UnfinalSlot::external`]). Answers every payment that it changed.
    async fn take_back_external(
        &self,
        fence: FencedLane,
        blocks: &[BlockRef],
    ) -> StoreResult<Vec<SettlementId>>;

    /// Raises the level of closed slots and of the settlements whose last slot they are. Never lowers one.
    async fn raise_levels(
        &self,
        fence: FencedLane,
        nonces: &[AccountNonce],
        level: Level,
    ) -> StoreResult<()>;

    /// Closes a slot and resolves or requeues its payments; writes the outbox and compensating entries. Answers those
    /// that another open slot still carries (a reorg had reopened it) and that this one did not settle: whatever the
    /// closure says of them, they are neither ended nor accepted, but assigned to that slot.
    async fn close_slot(
        &self,
        fence: FencedLane,
        closure: SlotClosure,
    ) -> StoreResult<Vec<SettlementId>>;

    /// The open slots of a signer, whoever owns the lane. For readers.
    async fn open_slots(&self, chain: ChainId, signer: Address) -> StoreResult<Vec<Slot>>;

    /// Every address that has an open slot on a network.
    async fn signers_with_open_slots(&self, chain: ChainId) -> StoreResult<Vec<Address>>;

    /// What settling on a network has cost since then: the costs of slots that were closed from that moment on, by the
    /// database's clock, and the shares of the payments that those slots' transactions settled. Exact.
    async fn spending(&self, chain: ChainId, since: UnixMillis) -> StoreResult<Spending>;

    /// A page of slots of one signer, by nonce, those behind `after`; at most 100. For the audit.
    async fn audit_slots(
        &self,
        chain: ChainId,
        signer: Address,
        after: Option<AccountNonce>,
        limit: u32,
    ) -> StoreResult<Vec<AuditSlot>>;

    /// Compensating entries behind `after`, oldest first, at most `limit` and 1,000; optionally one settlement's only.
    async fn compensations(
        &self,
        after: u64,
        settlement: Option<SettlementId>,
        limit: u32,
    ) -> StoreResult<Vec<Compensation>>;

    /// Whether nobody has asked this of the ledger before, for the life of the ledger. Whoever is told so is the only one.
    async fn is_first(&self, milestone: Milestone) -> StoreResult<bool>;

    /// Notes that failure is told for a payment that is failed or expired. `false`, and nothing changed, if it is
    /// neither any more: read it again. Noting it once more is fine. Grouped.
    async fn tell_failure(&self, id: SettlementId) -> StoreResult<bool>;

    /// Claims the delivery of a settled or preconfirmed payment's success for `request`, and notes it as told: succeeds if
    /// nobody has claimed it, if the same request has, or if the claim was never confirmed and the lease of its process
    /// has run out.
    /// [`crate::StoreError::Conflict`] if the payment is not settled by that transaction, at least at that level, any
    /// more: a reorg has moved it since it was read. Grouped.
    async fn claim_delivery(
        &self,
        id: SettlementId,
        request: RequestId,
        process: ProcessId,
        success: Success,
    ) -> StoreResult<ClaimOutcome>;

    /// The answer goes to the transport next: nobody else can claim the success from now on, whatever becomes of this
    /// process. [`crate::StoreError::Conflict`] if it is not `request`'s any more; then it must not be told. Grouped.
    async fn confirm_delivery(&self, id: SettlementId, request: RequestId) -> StoreResult<()>;

    /// The answer never reached the transport: the claim is free again, confirmed or not, and its success was not told; a
    /// failure that was told before it is what was told last again.
    async fn release_delivery(&self, id: SettlementId, request: RequestId) -> StoreResult<()>;

    /// Binds an `Idempotency-Key`, scoped to tenant and endpoint, to a payment; keys are stored hashed.
    async fn bind_idempotency_key(
        &self,
        tenant: &TenantId,
        endpoint: &'static str,
        key: &IdempotencyKey,
        digest: PaymentDigest,
    ) -> StoreResult<IdempotencyOutcome>;

    /// Outbox events behind `after`, oldest first, at most `limit`; optionally one tenant's only.
    async fn events(
        &self,
        after: u64,
        tenant: Option<&TenantId>,
        limit: u32,
    ) -> StoreResult<Vec<SettlementEvent>>;

    /// The newest sequence in the outbox; 0 when it is empty.
    async fn last_event(&self) -> StoreResult<u64>;

    /// Wakes when settlements may have changed: after this process's own writes at once, after another's by
    /// NOTIFY where there is one. A hint only: poll behind it.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;
}
