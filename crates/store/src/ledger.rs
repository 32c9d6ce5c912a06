//! The ledger: every accepted payment, every signed transaction, every outcome.

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use teller_domain::{
    AccountNonce, Attempt, AuthorizationKey, BlockRef, ChainId, Compensation, FencedLane,
    IdempotencyKey, LaneMode, Level, PaymentDigest, ProcessId, RequestId, Resolution, Settlement,
    SettlementId, SettlementState, Slot, SlotId, TenantId, UnixMillis,
};

use crate::{
    AcceptOutcome, AuditSlot, Catalogue, ClaimOutcome, Duty, IdempotencyOutcome, LaneRecovery,
    LaneView, MadeTopUp, Milestone, NewSettlement, NewSlot, OpenSlotOutcome, SettlementEvent,
    SettlementPage, SettlementQuery, Settlers, SlotClosure, Spending, StoreResult, Success, Wanted,
};

/// The ledger's contract. Every call is durable when it answers; hot ones are grouped inside.
///
/// Every state change names the state that it expects. The unique key (network, authority, payer, nonce) is the
/// authority over reservations, always.
#[async_trait]
pub trait Ledger: Catalogue {
    /// Writes something, durably, to find out if the ledger takes writes.
    async fn ping(&self) -> StoreResult<()>;

    /// The ledger's clock: for leases and row times.
    async fn now(&self) -> StoreResult<UnixMillis>;

    /// Notes the genesis hash of a network, or refuses another one than is noted ([`crate::StoreError::GenesisMismatch`]).
    async fn bind_network(&self, chain: ChainId, genesis: B256) -> StoreResult<()>;

    /// The genesis hash that is noted for a network, if one is.
    async fn genesis(&self, chain: ChainId) -> StoreResult<Option<B256>>;

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

    /// unexplained -> settled, settled externally, failed, expired or accepted (requeued), for payments whose slot was in
    /// this lane. Answers those that it changed. [`crate::StoreError::StaleLane`] if the epoch is old.
    async fn resolve_unexplained(
        &self,
        fence: FencedLane,
        resolutions: &[(SettlementId, Resolution)],
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

    /// How many payments are accepted, assigned, preconfirmed or unexplained, over all networks.
    async fn unresolved(&self) -> StoreResult<u64>;

    /// The keys, tenants and digests of all payments that have no outcome yet: what reservations are
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
    /// lane's next one at which there is none, open or closed: it fills a gap. A top-up is written with its slot, and once
    /// only for each payer and token.
    async fn open_slot(&self, fence: FencedLane, slot: NewSlot) -> StoreResult<OpenSlotOutcome>;

    /// Adds a signed attempt to an open slot.
    async fn add_attempt(
        &self,
        fence: FencedLane,
        slot: SlotId,
        attempt: Attempt,
    ) -> StoreResult<()>;

    /// Notes that an attempt was handed to an endpoint: from now on its hash may be told as its payments' transaction
    /// ([`SettlementState::Assigned`]). That is a fact about bytes, whoever owns the lane. Once more changes nothing.
    async fn note_handed_over(&self, attempt: B256) -> StoreResult<()>;

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
    /// externally, accepted and unexplained ones are assigned to it again, except that one to whom failure was told goes back to
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

    /// Every address that has an open slot, or unexplained payments, on a network.
    async fn signers_with_open_slots(&self, chain: ChainId) -> StoreResult<Vec<Address>>;

    /// The top-up of this payer for this token, if one was ever begun.
    async fn top_up(
        &self,
        chain: ChainId,
        payer: Address,
        token: Address,
    ) -> StoreResult<Option<MadeTopUp>>;

    /// What settling on a network has cost since then: the costs of slots that were closed from that moment on, by the
    /// database's clock, the shares of the payments that those slots' transactions settled, and the top-ups that were begun
    /// from that moment on. Exact.
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
