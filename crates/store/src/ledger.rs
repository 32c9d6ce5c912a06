//! The ledger: every accepted payment, every signed transaction, every outcome.

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use teller_domain::{
    AccountNonce, Attempt, AuthorizationKey, BlockRef, ChainId, FencedLane, IdempotencyKey,
    Payment, PaymentDigest, ProcessId, RequestId, Resolution, Settlement, SettlementId,
    SettlementStateKind, Slot, SlotId, TenantId, UnixMillis, Wei, X402Version,
};

use crate::StoreResult;

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
}

/// What [`Ledger::accept`] found.
#[derive(Debug, Clone)]
pub enum AcceptOutcome {
    /// It is in the ledger now, as accepted. A withdrawn row of the same authorization was replaced.
    Accepted(Settlement),
    /// The authorization was in the ledger already, perhaps with another payment or another tenant's.
    Exists(Settlement),
}

/// A lane as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Network, signer and the epoch that the claim raised.
    pub fence: FencedLane,
    /// The nonce of the next slot; `None` until the lane has adopted one from the chain.
    pub next_nonce: Option<AccountNonce>,
}

/// What a lane's new owner must go on with.
#[derive(Debug, Clone)]
pub struct LaneRecovery {
    /// The lane, claimed.
    pub lane: Lane,
    /// Its open slots, by nonce.
    pub open_slots: Vec<Slot>,
}

/// A slot to be opened: one database transaction writes all of it.
#[derive(Debug, Clone)]
pub struct NewSlot {
    /// Its name; the nonce must be the lane's next one.
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
    /// The attempt that was mined.
    pub transaction: B256,
    /// The block that holds it.
    pub block: BlockRef,
    /// Gas that the transaction used.
    pub gas_used: u64,
    /// What it cost in all.
    pub cost: Wei,
    /// What becomes of each of its payments, each in state assigned to this slot.
    pub resolutions: Vec<(SettlementId, Resolution)>,
}

/// What [`Ledger::claim_delivery`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The success is this request's to deliver.
    Claimed,
    /// Another request has it.
    Taken,
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
pub trait Ledger: Send + Sync + 'static {
    /// Answers if the ledger can take writes.
    async fn ping(&self) -> StoreResult<()>;

    /// The ledger's clock: for leases and row times.
    async fn now(&self) -> StoreResult<UnixMillis>;

    /// Notes the genesis hash of a network, or refuses another one than is noted ([`crate::StoreError::GenesisMismatch`]).
    async fn bind_network(&self, chain: ChainId, genesis: B256) -> StoreResult<()>;

    /// Registers or renews this process for `lease_ms`. Deliveries claimed by a process that is not registered, or
    /// whose lease has run out, may be claimed by others. The embedded ledger forgets all others at its start.
    /// Beside it, about once a minute, rows are pruned that nobody needs any more: outbox rows and idempotency keys
    /// after seven days, dead processes after one.
    async fn heartbeat(&self, process: ProcessId, lease_ms: u64) -> StoreResult<()>;

    /// Inserts the payment as accepted unless its authorization is in the ledger. Grouped.
    async fn accept(&self, new: NewSettlement) -> StoreResult<AcceptOutcome>;

    /// The settlement of an authorization. Grouped.
    async fn find(&self, key: AuthorizationKey) -> StoreResult<Option<Settlement>>;

    /// The settlement with this id.
    async fn settlement(&self, id: SettlementId) -> StoreResult<Option<Settlement>>;

    /// The settlements with these ids, in any order; unknown ids are left out.
    async fn settlements(&self, ids: &[SettlementId]) -> StoreResult<Vec<Settlement>>;

    /// A page of settlements, newest first.
    async fn list(&self, query: &SettlementQuery) -> StoreResult<SettlementPage>;

    /// accepted with no tries -> withdrawn. `false`, and nothing changed, if it was anything else.
    async fn withdraw(&self, id: SettlementId) -> StoreResult<bool>;

    /// accepted -> failed or expired, for payments that no open slot holds. Answers those that it changed.
    async fn resolve_accepted(
        &self,
        resolutions: &[(SettlementId, teller_domain::SettlementState)],
    ) -> StoreResult<Vec<SettlementId>>;

    /// All accepted payments of a network, oldest first: what a restarted engine queues again.
    async fn accepted(&self, chain: ChainId) -> StoreResult<Vec<Settlement>>;

    /// How many payments are accepted or assigned, over all networks.
    async fn unresolved(&self) -> StoreResult<u64>;

    /// The keys, tenants and digests of all payments that are accepted or assigned: what reservations are
    /// recovered from.
    async fn unresolved_settlements(&self) -> StoreResult<Vec<Settlement>>;

    /// Takes a lane if it is free, this process's own, or its lease has run out; raises its epoch. `None` if another
    /// process holds it.
    async fn claim_lane(
        &self,
        chain: ChainId,
        signer: Address,
        owner: ProcessId,
        lease_ms: u64,
    ) -> StoreResult<Option<LaneRecovery>>;

    /// Extends the lease. [`crate::StoreError::StaleLane`] if the epoch is old.
    async fn renew_lane(&self, fence: FencedLane, lease_ms: u64) -> StoreResult<()>;

    /// Gives the lane up, so that another process need not wait for the lease.
    async fn release_lane(&self, fence: FencedLane) -> StoreResult<()>;

    /// Sets the next nonce of a lane without open slots to the chain's.
    async fn adopt_nonce(&self, fence: FencedLane, nonce: AccountNonce) -> StoreResult<()>;

    /// Opens a slot. [`crate::StoreError::StaleLane`] if the epoch or the next nonce is not the expected one. Each
    /// payment goes accepted -> assigned, its tries rise by one.
    async fn open_slot(&self, fence: FencedLane, slot: NewSlot) -> StoreResult<OpenSlotOutcome>;

    /// Adds a signed attempt to an open slot; the payments' newest transaction is its hash from now on (not for a no-op).
    async fn add_attempt(
        &self,
        fence: FencedLane,
        slot: SlotId,
        attempt: Attempt,
    ) -> StoreResult<()>;

    /// Closes a slot and resolves or requeues its payments; writes the outbox.
    async fn close_slot(&self, fence: FencedLane, closure: SlotClosure) -> StoreResult<()>;

    /// The open slots of a signer, whoever owns the lane. For readers.
    async fn open_slots(&self, chain: ChainId, signer: Address) -> StoreResult<Vec<Slot>>;

    /// Every address that has an open slot on a network.
    async fn signers_with_open_slots(&self, chain: ChainId) -> StoreResult<Vec<Address>>;

    /// Claims the delivery of a settled payment's success for `request`: succeeds if nobody has claimed it, if the
    /// same request has, or if the claim was never confirmed and its process is dead. Grouped.
    async fn claim_delivery(
        &self,
        id: SettlementId,
        request: RequestId,
        process: ProcessId,
    ) -> StoreResult<ClaimOutcome>;

    /// The answer was handed to the transport. Grouped; the caller does not wait for it.
    async fn confirm_delivery(&self, id: SettlementId, request: RequestId) -> StoreResult<()>;

    /// The answer never reached the transport: the claim is free again unless it was confirmed.
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
