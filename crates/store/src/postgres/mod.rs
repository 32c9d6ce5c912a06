//! The ledger of a cluster, in Postgres: any number of processes, lanes fenced by their epochs.
//!
//! A long file, because the contract is one list of calls.

#[path = "../sql/catalogue.rs"]
mod catalogue;
mod dialect;
mod hot;
#[path = "../sql/lanes.rs"]
mod lanes;
#[path = "../sql/open_slots.rs"]
mod open_slots;
mod pool;
#[path = "../sql/queue.rs"]
mod queue;
#[path = "../sql/reading.rs"]
mod reading;
#[path = "../sql/reorgs.rs"]
mod reorgs;
#[path = "../sql/siblings.rs"]
mod siblings;
#[path = "../sql/slots.rs"]
mod slots;
#[path = "../sql/top_ups.rs"]
mod top_ups;

use std::time::Duration;

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use futures::future::BoxFuture;
use sqlx::PgConnection;
use sqlx::postgres::PgListener;
use teller_domain::{
    AccountNonce, Attempt, AuthorizationKey, BlockRef, ChainId, Compensation, FencedLane,
    IdempotencyKey, LaneMode, Level, PaymentDigest, ProcessId, RequestId, Resolution, Settlement,
    SettlementId, SettlementState, Slot, SlotId, TenantId, UnixMillis,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::pool::{Pool, bounded};
use crate::claiming::Claim;
use crate::group::Grouper;
use crate::pruning::Pruning;
use crate::resolving::{accepted_outcomes, unexplained_outcomes};
use crate::rows::key_hash;
use crate::{
    AcceptOutcome, AuditSlot, Catalogue, CatalogueBounds, CataloguePage, CatalogueQuery,
    ClaimOutcome, Duty, IdempotencyOutcome, LaneRecovery, LaneView, Ledger, MadeTopUp, Milestone,
    NewListing, NewSettlement, NewSlot, OpenSlotOutcome, SearchWords, SettlementEvent,
    SettlementPage, SettlementQuery, Settlers, SlotClosure, Spending, StoreResult, Success, Wanted,
    migrations,
};

/// How many requests share one statement at most.
const LARGEST_GROUP: usize = 512;
/// How many groups of one kind are in flight at once.
const PARALLEL: usize = 2;
/// The channel that the outbox's trigger notifies.
const CHANNEL: &str = "teller_settlements";
/// How long after a lost connection the listener tries again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The ledger in a Postgres database.
pub struct PostgresLedger {
    pool: Pool,
    accepts: Grouper<NewSettlement, AcceptOutcome>,
    finds: Grouper<AuthorizationKey, Option<Settlement>>,
    claims: Grouper<Claim, ClaimOutcome>,
    confirms: Grouper<(SettlementId, RequestId), ()>,
    failures: Grouper<SettlementId, bool>,
    changes: watch::Sender<u64>,
    listener: AbortHandle,
    pruning: Pruning,
}

impl Drop for PostgresLedger {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Wakes watchers when any process has changed a settlement. Lost notifications are what polling is for.
async fn listen(pool: Pool, changes: watch::Sender<u64>) {
    let mut demotions = pool.demotions();
    loop {
        demotions.mark_unchanged();
        let heard = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            loop {
                listener.recv().await?;
                changes.send_modify(|version| *version += 1);
            }
        };
        let ended: Result<(), sqlx::Error> = tokio::select! {
            ended = heard => ended,
            // Another server may be the primary, and this one would stay silent.
            _ = demotions.changed() => Ok(()),
        };
        if ended.is_err() && pool.is_closed() {
            return;
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

impl PostgresLedger {
    /// Connects to a database whose tables are up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError::Configuration`] if migrations are pending.
    pub async fn connect(url: &str) -> StoreResult<Self> {
        let pool = Pool::connect(url).await?;
        migrations::expect_postgres(&pool).await?;
        let (changes, _) = watch::channel(0);
        let listener = tokio::spawn(listen(pool.clone(), changes.clone())).abort_handle();
        Ok(Self {
            accepts: grouped(&pool, "accept", |c, group| Box::pin(hot::accept(c, group))),
            finds: grouped(&pool, "find", |c, group| Box::pin(hot::find_each(c, group))),
            claims: grouped(&pool, "claim", |c, group| Box::pin(hot::claim(c, group))),
            confirms: grouped(&pool, "confirm", |c, group| {
                Box::pin(hot::confirm(c, group))
            }),
            failures: grouped(&pool, "tell_failure", |c, group| {
                Box::pin(hot::tell_failure(c, group))
            }),
            pool,
            changes,
            listener,
            pruning: Pruning::default(),
        })
    }

    /// Runs the pending migrations; processes that try at once wait for each other.
    pub async fn migrate(url: &str) -> StoreResult<()> {
        let pool = Pool::connect(url).await?;
        let migrated = migrations::postgres(&pool).await;
        pool.close().await;
        migrated
    }

    /// One call in a transaction of its own.
    async fn run<T, F>(&self, work: F) -> StoreResult<T>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, StoreResult<T>> + Send,
        T: Send,
    {
        self.told(self.pool.transact(work).await)
    }

    /// This process's watchers need not wait for the notification.
    fn told<T>(&self, done: StoreResult<T>) -> StoreResult<T> {
        if done.is_ok() {
            self.changes.send_modify(|version| *version += 1);
        }
        done
    }
}

fn grouped<I, O>(pool: &Pool, operation: &'static str, run: hot::Run<I, O>) -> Grouper<I, O>
where
    I: Clone + Send + Sync + 'static,
    O: Send + 'static,
{
    let pool = pool.clone();
    let together = move |group| hot::together(pool.clone(), group, run);
    Grouper::start("postgres", operation, LARGEST_GROUP, PARALLEL, together)
}

#[async_trait]
impl Catalogue for PostgresLedger {
    async fn list_resource(&self, new: NewListing, bounds: CatalogueBounds) -> StoreResult<()> {
        self.run(move |c| Box::pin(catalogue::list_resource(c, new, bounds)))
            .await
    }

    async fn resources(&self, query: &CatalogueQuery) -> StoreResult<CataloguePage> {
        let all = catalogue::Search::All;
        bounded(catalogue::resources(&self.pool, &all, query)).await
    }

    async fn search_resources(
        &self,
        words: &SearchWords,
        query: &CatalogueQuery,
    ) -> StoreResult<CataloguePage> {
        bounded(catalogue::search(&self.pool, words, query)).await
    }
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn ping(&self) -> StoreResult<()> {
        self.pool.transact(|c| Box::pin(queue::probe(c))).await
    }

    async fn now(&self) -> StoreResult<UnixMillis> {
        bounded(reading::now(&self.pool)).await
    }

    async fn bind_network(&self, chain: ChainId, genesis: B256) -> StoreResult<()> {
        self.run(move |c| Box::pin(lanes::bind_network(c, chain, genesis)))
            .await
    }

    async fn genesis(&self, chain: ChainId) -> StoreResult<Option<B256>> {
        bounded(reading::genesis(&self.pool, chain)).await
    }

    async fn heartbeat(
        &self,
        process: ProcessId,
        duty: Duty,
        lease_ms: u64,
    ) -> StoreResult<Settlers> {
        let settlers = self
            .run(move |c| Box::pin(lanes::heartbeat(c, process, duty, lease_ms)))
            .await?;
        let pool = self.pool.clone();
        self.pruning.run_if_due(move || {
            let pool = pool.clone();
            async move { pool.transact(|c| Box::pin(lanes::prune(c))).await }
        });
        Ok(settlers)
    }

    async fn accept(&self, new: NewSettlement) -> StoreResult<AcceptOutcome> {
        self.told(self.accepts.call(new).await)
    }

    async fn find(&self, key: AuthorizationKey) -> StoreResult<Option<Settlement>> {
        self.finds.call(key).await
    }

    async fn settlement(&self, id: SettlementId) -> StoreResult<Option<Settlement>> {
        Ok(self.settlements(&[id]).await?.into_iter().next())
    }

    async fn settled(
        &self,
        id: SettlementId,
    ) -> StoreResult<Option<(Settlement, Option<UnixMillis>)>> {
        bounded(reading::settled(&self.pool, id)).await
    }

    async fn settlements(&self, ids: &[SettlementId]) -> StoreResult<Vec<Settlement>> {
        bounded(reading::settlements(&self.pool, ids)).await
    }

    async fn list(&self, query: &SettlementQuery) -> StoreResult<SettlementPage> {
        bounded(reading::list(&self.pool, query)).await
    }

    async fn withdraw(&self, id: SettlementId) -> StoreResult<bool> {
        self.run(move |c| Box::pin(queue::withdraw(c, id))).await
    }

    async fn deregister(&self, process: ProcessId) -> StoreResult<()> {
        self.run(move |c| Box::pin(lanes::deregister(c, process)))
            .await
    }

    async fn resolve_accepted(
        &self,
        fence: FencedLane,
        resolutions: &[(SettlementId, SettlementState)],
    ) -> StoreResult<Vec<SettlementId>> {
        let outcomes = accepted_outcomes(resolutions)?;
        self.run(move |c| Box::pin(queue::resolve_accepted(c, fence, outcomes)))
            .await
    }

    async fn resolve_unexplained(
        &self,
        fence: FencedLane,
        resolutions: &[(SettlementId, Resolution)],
    ) -> StoreResult<Vec<SettlementId>> {
        let outcomes = unexplained_outcomes(resolutions)?;
        self.run(move |c| Box::pin(queue::resolve_unexplained(c, fence, outcomes)))
            .await
    }

    async fn claim_accepted(
        &self,
        chain: ChainId,
        owner: ProcessId,
        limit: u32,
        wanted: &Wanted,
    ) -> StoreResult<Vec<Settlement>> {
        let wanted = wanted.clone();
        self.run(move |c| Box::pin(queue::claim_accepted(c, chain, owner, limit, wanted)))
            .await
    }

    async fn release_accepted(&self, owner: ProcessId, ids: &[SettlementId]) -> StoreResult<()> {
        let ids = ids.to_vec();
        self.run(move |c| Box::pin(queue::release_accepted(c, owner, ids)))
            .await
    }

    async fn release_queue(&self, chain: ChainId, owner: ProcessId) -> StoreResult<()> {
        self.run(move |c| Box::pin(queue::release_queue(c, chain, owner)))
            .await
    }

    async fn unresolved(&self) -> StoreResult<u64> {
        bounded(reading::unresolved(&self.pool)).await
    }

    async fn unresolved_settlements(&self) -> StoreResult<Vec<Settlement>> {
        bounded(reading::unresolved_settlements(&self.pool)).await
    }

    async fn claim_lane(
        &self,
        chain: ChainId,
        signer: Address,
        owner: ProcessId,
        signers: u64,
        lease_ms: u64,
    ) -> StoreResult<Option<LaneRecovery>> {
        self.run(move |c| Box::pin(lanes::claim(c, chain, signer, owner, signers, lease_ms)))
            .await
    }

    async fn renew_lane(&self, fence: FencedLane, lease_ms: u64) -> StoreResult<LaneMode> {
        self.run(move |c| Box::pin(lanes::renew(c, fence, lease_ms)))
            .await
    }

    async fn set_lane_mode(
        &self,
        fence: FencedLane,
        expected: LaneMode,
        mode: LaneMode,
    ) -> StoreResult<bool> {
        self.run(move |c| Box::pin(lanes::set_mode(c, fence, expected, mode)))
            .await
    }

    async fn order_lane_mode(
        &self,
        chain: ChainId,
        signer: Address,
        expected: LaneMode,
        mode: LaneMode,
    ) -> StoreResult<bool> {
        self.run(move |c| Box::pin(lanes::order_mode(c, chain, signer, expected, mode)))
            .await
    }

    async fn lanes(&self) -> StoreResult<Vec<LaneView>> {
        bounded(reading::lanes(&self.pool)).await
    }

    async fn release_lane(&self, fence: FencedLane) -> StoreResult<()> {
        self.run(move |c| Box::pin(lanes::release(c, fence))).await
    }

    async fn adopt_nonce(&self, fence: FencedLane, nonce: AccountNonce) -> StoreResult<()> {
        self.run(move |c| Box::pin(lanes::adopt(c, fence, nonce)))
            .await
    }

    async fn open_slot(&self, fence: FencedLane, slot: NewSlot) -> StoreResult<OpenSlotOutcome> {
        self.run(move |c| Box::pin(slots::open(c, fence, slot)))
            .await
    }

    async fn add_attempt(
        &self,
        fence: FencedLane,
        slot: SlotId,
        attempt: Attempt,
    ) -> StoreResult<()> {
        self.run(move |c| Box::pin(slots::add_attempt(c, fence, slot, attempt)))
            .await
    }

    async fn preconfirm(
        &self,
        fence: FencedLane,
        slot: SlotId,
        transaction: B256,
        payments: &[(SettlementId, u64)],
    ) -> StoreResult<()> {
        let payments = payments.to_vec();
        self.run(move |c| Box::pin(slots::preconfirm(c, fence, slot, transaction, payments)))
            .await
    }

    async fn reopen_slots(&self, fence: FencedLane, nonces: &[AccountNonce]) -> StoreResult<()> {
        let nonces = nonces.to_vec();
        self.run(move |c| Box::pin(reorgs::reopen(c, fence, nonces)))
            .await
    }

    async fn take_back_external(
        &self,
        fence: FencedLane,
        blocks: &[BlockRef],
    ) -> StoreResult<Vec<SettlementId>> {
        let blocks = blocks.to_vec();
        self.run(move |c| Box::pin(reorgs::take_back_external(c, fence, blocks)))
            .await
    }

    async fn raise_levels(
        &self,
        fence: FencedLane,
        nonces: &[AccountNonce],
        level: Level,
    ) -> StoreResult<()> {
        let nonces = nonces.to_vec();
        self.run(move |c| Box::pin(reorgs::raise_levels(c, fence, nonces, level)))
            .await
    }

    async fn close_slot(
        &self,
        fence: FencedLane,
        closure: SlotClosure,
    ) -> StoreResult<Vec<SettlementId>> {
        self.run(move |c| Box::pin(slots::close(c, fence, closure)))
            .await
    }

    async fn open_slots(&self, chain: ChainId, signer: Address) -> StoreResult<Vec<Slot>> {
        bounded(reading::open_slots(&self.pool, chain, signer)).await
    }

    async fn signers_with_open_slots(&self, chain: ChainId) -> StoreResult<Vec<Address>> {
        bounded(reading::signers(&self.pool, chain)).await
    }

    async fn top_up(
        &self,
        chain: ChainId,
        payer: Address,
        token: Address,
    ) -> StoreResult<Option<MadeTopUp>> {
        bounded(reading::top_up(&self.pool, chain, payer, token)).await
    }

    async fn spending(&self, chain: ChainId, since: UnixMillis) -> StoreResult<Spending> {
        bounded(reading::spending(&self.pool, chain, since)).await
    }

    async fn audit_slots(
        &self,
        chain: ChainId,
        signer: Address,
        after: Option<AccountNonce>,
        limit: u32,
    ) -> StoreResult<Vec<AuditSlot>> {
        bounded(reading::audit_slots(
            &self.pool, chain, signer, after, limit,
        ))
        .await
    }

    async fn compensations(
        &self,
        after: u64,
        settlement: Option<SettlementId>,
        limit: u32,
    ) -> StoreResult<Vec<Compensation>> {
        bounded(reading::compensations(&self.pool, after, settlement, limit)).await
    }

    async fn is_first(&self, milestone: Milestone) -> StoreResult<bool> {
        self.run(move |c| Box::pin(queue::is_first(c, milestone)))
            .await
    }

    async fn tell_failure(&self, id: SettlementId) -> StoreResult<bool> {
        self.failures.call(id).await
    }

    async fn claim_delivery(
        &self,
        id: SettlementId,
        request: RequestId,
        process: ProcessId,
        success: Success,
    ) -> StoreResult<ClaimOutcome> {
        self.claims.call((id, request, process, success)).await
    }

    async fn confirm_delivery(&self, id: SettlementId, request: RequestId) -> StoreResult<()> {
        self.confirms.call((id, request)).await
    }

    async fn note_handed_over(&self, attempt: B256) -> StoreResult<()> {
        self.run(move |c| Box::pin(slots::note_handed_over(c, attempt)))
            .await
    }

    async fn release_delivery(&self, id: SettlementId, request: RequestId) -> StoreResult<()> {
        self.run(move |c| Box::pin(lanes::release_delivery(c, id, request)))
            .await
    }

    async fn bind_idempotency_key(
        &self,
        tenant: &TenantId,
        endpoint: &'static str,
        key: &IdempotencyKey,
        digest: PaymentDigest,
    ) -> StoreResult<IdempotencyOutcome> {
        let key = key_hash(&[tenant.as_str(), endpoint, key.as_str()]);
        self.run(move |c| Box::pin(lanes::bind_key(c, key, digest)))
            .await
    }

    async fn events(
        &self,
        after: u64,
        tenant: Option<&TenantId>,
        limit: u32,
    ) -> StoreResult<Vec<SettlementEvent>> {
        bounded(reading::events(&self.pool, after, tenant, limit)).await
    }

    async fn last_event(&self) -> StoreResult<u64> {
        bounded(reading::last_event(&self.pool)).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
