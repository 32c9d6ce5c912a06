//! The embedded ledger: one SQLite file, one process that writes it, any number that read it.
//!
//! A long file, because the contract is one list of calls.

#[path = "../sql/catalogue.rs"]
mod catalogue;
mod dialect;
#[cfg(test)]
mod full_disk;
mod holds;
mod hot;
#[path = "../sql/lanes.rs"]
mod lanes;
#[path = "../sql/open_slots.rs"]
mod open_slots;
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
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqliteConnection, SqlitePool};
use teller_domain::{
    AccountNonce, Attempt, AuthorizationKey, BlockRef, ChainId, Compensation, FencedLane,
    IdempotencyKey, LaneMode, Level, PaymentDigest, ProcessId, RequestId, Resolution, Settlement,
    SettlementId, SettlementState, Slot, SlotId, TenantId, UnixMillis,
};
use tokio::sync::watch;

pub(crate) use self::holds::{HoldWrite, load as load_holds};
pub(crate) use self::writer::Writer;
use crate::group::Grouper;
use crate::pruning::Pruning;
use crate::resolving::{accepted_outcomes, unexplained_outcomes};
use crate::rows::key_hash;
use crate::{
    AcceptOutcome, AuditSlot, Catalogue, CatalogueBounds, CataloguePage, CatalogueQuery,
    ClaimOutcome, Duty, IdempotencyOutcome, LaneRecovery, LaneView, Ledger, MadeTopUp, Milestone,
    NewListing, NewSettlement, NewSlot, OpenSlotOutcome, SearchWords, SettlementEvent,
    SettlementPage, SettlementQuery, Settlers, SlotClosure, Spending, StoreError, StoreResult,
    Success, Wanted, migrations,
};

/// How many connections read at once.
const READERS: u32 = 4;
/// How many statements each connection keeps prepared.
const STATEMENTS: usize = 64;
/// How many look-ups share one query at most.
const LARGEST_FIND: usize = 512;
/// How long a reader waits for a connection or a lock.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The ledger in one file.
pub struct SqliteLedger {
    path: PathBuf,
    writer: Option<Writer>,
    /// Beside the process that has the file: for orders only.
    orders: Option<Writer>,
    readers: SqlitePool,
    finds: Grouper<AuthorizationKey, Option<Settlement>>,
    changes: watch::Receiver<u64>,
    pruning: Pruning,
}

impl SqliteLedger {
    /// Opens the file for this process alone, creates it if it is missing, and brings its tables up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if another process has it open.
    pub async fn open(path: impl AsRef<Path>) -> StoreResult<Self> {
        let path = path.as_ref();
        let lock = lock(path)?;
        let options = options(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // About 16 MB of log between checkpoints: a checkpoint syncs the file once more.
            .pragma("wal_autocheckpoint", "4000");
        let mut connection = options.connect().await.map_err(StoreError::of_ledger)?;
        migrations::sqlite(&mut connection).await?;
        forget_others(&mut connection).await?;
        let (sender, changes) = watch::channel(0);
        let writer = Writer::start(connection, Some(lock), sender);
        Self::assemble(path, Some(writer), None, changes).await
    }

    /// Opens the file for reading only, whether or not another process has it open. Writes are refused.
    pub async fn open_read_only(path: impl AsRef<Path>) -> StoreResult<Self> {
        let path = path.as_ref();
        expect_file(path)?;
        let (_, changes) = watch::channel(0);
        Self::assemble(path, None, None, changes).await
    }

    /// Opens the file as [`SqliteLedger::open_read_only`] does, and for [`Ledger::order_lane_mode`]: SQLite lets that one
    /// write wait for the owner's transactions, and the owner reads it when it renews its lease. The exclusive lock says
    /// who runs lanes, which an order does not.
    pub async fn open_for_orders(path: impl AsRef<Path>) -> StoreResult<Self> {
        let path = path.as_ref();
        expect_file(path)?;
        let connection = options(path)
            .synchronous(SqliteSynchronous::Full)
            .connect()
            .await
            .map_err(StoreError::of_ledger)?;
        let (sender, changes) = watch::channel(0);
        let orders = Writer::start(connection, None, sender);
        Self::assemble(path, None, Some(orders), changes).await
    }

    async fn assemble(
        path: &Path,
        writer: Option<Writer>,
        orders: Option<Writer>,
        changes: watch::Receiver<u64>,
    ) -> StoreResult<Self> {
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(TIMEOUT)
            .connect_with(options(path).read_only(true))
            .await
            .map_err(StoreError::of_ledger)?;
        migrations::expect_sqlite(&readers).await?;
        let finds = {
            let readers = readers.clone();
            Grouper::start("sqlite", "find", LARGEST_FIND, 1, move |keys| {
                hot::find_each(readers.clone(), keys)
            })
        };
        Ok(Self {
            path: path.to_owned(),
            writer,
            orders,
            readers,
            finds,
            changes,
            pruning: Pruning::default(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Commits what is queued, closes the file and gives its lock back. Later calls answer
    /// [`StoreError::Unavailable`].
    pub async fn close(&self) {
        for writer in self.writer.iter().chain(&self.orders) {
            writer.close().await;
        }
        self.readers.close().await;
    }

    pub(crate) fn writer(&self) -> StoreResult<&Writer> {
        self.writer.as_ref().ok_or_else(|| {
            StoreError::Configuration("the ledger was opened for reading only".to_owned())
        })
    }

    fn orders(&self) -> StoreResult<&Writer> {
        match &self.orders {
            Some(orders) => Ok(orders),
            None => self.writer(),
        }
    }

    pub(crate) async fn holds(&self) -> StoreResult<Vec<(AuthorizationKey, crate::holds::Hold)>> {
        let mut reader = self
            .readers
            .acquire()
            .await
            .map_err(StoreError::of_ledger)?;
        load_holds(&mut reader).await
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(TIMEOUT)
        .statement_cache_capacity(STATEMENTS)
        .pragma("cache_size", "-4000")
        .disable_statement_logging()
}

fn expect_file(path: &Path) -> StoreResult<()> {
    if path.exists() {
        return Ok(());
    }
    Err(StoreError::Configuration(format!(
        "there is no ledger file {}",
        path.display()
    )))
}

/// Nobody else can have the file open: whoever held leases in it is dead.
async fn forget_others(connection: &mut SqliteConnection) -> StoreResult<()> {
    for sql in [
        "DELETE FROM processes",
        "UPDATE lanes SET owner = NULL, lease_until = 0",
    ] {
        sqlx::query(sql)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::of_ledger)?;
    }
    Ok(())
}

/// The lock is on a file beside the ledger, because SQLite's own locks come and go with its transactions.
fn lock(path: &Path) -> StoreResult<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let unusable = |error: std::io::Error| {
        StoreError::Configuration(format!(
            "the ledger file {} cannot be opened: {}",
            path.display(),
            error.kind()
        ))
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(PathBuf::from(name))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

#[async_trait]
impl Catalogue for SqliteLedger {
    async fn list_resource(&self, new: NewListing, bounds: CatalogueBounds) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(catalogue::list_resource(c, new, bounds)))
            .await
    }

    async fn resources(&self, query: &CatalogueQuery) -> StoreResult<CataloguePage> {
        catalogue::resources(&self.readers, &catalogue::Search::All, query).await
    }

    async fn search_resources(
        &self,
        words: &SearchWords,
        query: &CatalogueQuery,
    ) -> StoreResult<CataloguePage> {
        catalogue::search(&self.readers, words, query).await
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn ping(&self) -> StoreResult<()> {
        self.writer()?.probe().await
    }

    async fn now(&self) -> StoreResult<UnixMillis> {
        reading::now(&self.readers).await
    }

    async fn bind_network(&self, chain: ChainId, genesis: B256) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(lanes::bind_network(c, chain, genesis)))
            .await
    }

    async fn genesis(&self, chain: ChainId) -> StoreResult<Option<B256>> {
        reading::genesis(&self.readers, chain).await
    }

    async fn heartbeat(
        &self,
        process: ProcessId,
        duty: Duty,
        lease_ms: u64,
    ) -> StoreResult<Settlers> {
        let writer = self.writer()?;
        let settlers = writer
            .job(move |c| Box::pin(lanes::heartbeat(c, process, duty, lease_ms)))
            .await?;
        let writer = writer.clone();
        self.pruning.run_if_due(move || {
            let writer = writer.clone();
            async move { writer.job(|c| Box::pin(lanes::prune(c))).await }
        });
        Ok(settlers)
    }

    async fn accept(&self, new: NewSettlement) -> StoreResult<AcceptOutcome> {
        self.writer()?.accept(new).await
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
        reading::settled(&self.readers, id).await
    }

    async fn settlements(&self, ids: &[SettlementId]) -> StoreResult<Vec<Settlement>> {
        reading::settlements(&self.readers, ids).await
    }

    async fn list(&self, query: &SettlementQuery) -> StoreResult<SettlementPage> {
        reading::list(&self.readers, query).await
    }

    async fn withdraw(&self, id: SettlementId) -> StoreResult<bool> {
        self.writer()?
            .job(move |c| Box::pin(queue::withdraw(c, id)))
            .await
    }

    async fn deregister(&self, process: ProcessId) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(lanes::deregister(c, process)))
            .await
    }

    async fn resolve_accepted(
        &self,
        fence: FencedLane,
        resolutions: &[(SettlementId, SettlementState)],
    ) -> StoreResult<Vec<SettlementId>> {
        let outcomes = accepted_outcomes(resolutions)?;
        self.writer()?
            .job(move |c| Box::pin(queue::resolve_accepted(c, fence, outcomes)))
            .await
    }

    async fn resolve_unexplained(
        &self,
        fence: FencedLane,
        resolutions: &[(SettlementId, Resolution)],
    ) -> StoreResult<Vec<SettlementId>> {
        let outcomes = unexplained_outcomes(resolutions)?;
        self.writer()?
            .job(move |c| Box::pin(queue::resolve_unexplained(c, fence, outcomes)))
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
        self.writer()?
            .job(move |c| Box::pin(queue::claim_accepted(c, chain, owner, limit, wanted)))
            .await
    }

    async fn release_accepted(&self, owner: ProcessId, ids: &[SettlementId]) -> StoreResult<()> {
        let ids = ids.to_vec();
        self.writer()?
            .job(move |c| Box::pin(queue::release_accepted(c, owner, ids)))
            .await
    }

    async fn release_queue(&self, chain: ChainId, owner: ProcessId) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(queue::release_queue(c, chain, owner)))
            .await
    }

    async fn unresolved(&self) -> StoreResult<u64> {
        reading::unresolved(&self.readers).await
    }

    async fn unresolved_settlements(&self) -> StoreResult<Vec<Settlement>> {
        reading::unresolved_settlements(&self.readers).await
    }

    async fn claim_lane(
        &self,
        chain: ChainId,
        signer: Address,
        owner: ProcessId,
        signers: u64,
        lease_ms: u64,
    ) -> StoreResult<Option<LaneRecovery>> {
        self.writer()?
            .job(move |c| Box::pin(lanes::claim(c, chain, signer, owner, signers, lease_ms)))
            .await
    }

    async fn renew_lane(&self, fence: FencedLane, lease_ms: u64) -> StoreResult<LaneMode> {
        self.writer()?
            .job(move |c| Box::pin(lanes::renew(c, fence, lease_ms)))
            .await
    }

    async fn set_lane_mode(
        &self,
        fence: FencedLane,
        expected: LaneMode,
        mode: LaneMode,
    ) -> StoreResult<bool> {
        self.writer()?
            .job(move |c| Box::pin(lanes::set_mode(c, fence, expected, mode)))
            .await
    }

    async fn order_lane_mode(
        &self,
        chain: ChainId,
        signer: Address,
        expected: LaneMode,
        mode: LaneMode,
    ) -> StoreResult<bool> {
        self.orders()?
            .job(move |c| Box::pin(lanes::order_mode(c, chain, signer, expected, mode)))
            .await
    }

    async fn lanes(&self) -> StoreResult<Vec<LaneView>> {
        reading::lanes(&self.readers).await
    }

    async fn release_lane(&self, fence: FencedLane) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(lanes::release(c, fence)))
            .await
    }

    async fn adopt_nonce(&self, fence: FencedLane, nonce: AccountNonce) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(lanes::adopt(c, fence, nonce)))
            .await
    }

    async fn open_slot(&self, fence: FencedLane, slot: NewSlot) -> StoreResult<OpenSlotOutcome> {
        self.writer()?
            .job(move |c| Box::pin(slots::open(c, fence, slot)))
            .await
    }

    async fn add_attempt(
        &self,
        fence: FencedLane,
        slot: SlotId,
        attempt: Attempt,
    ) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(slots::add_attempt(c, fence, slot, attempt)))
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
        self.writer()?
            .job(move |c| Box::pin(slots::preconfirm(c, fence, slot, transaction, payments)))
            .await
    }

    async fn reopen_slots(&self, fence: FencedLane, nonces: &[AccountNonce]) -> StoreResult<()> {
        let nonces = nonces.to_vec();
        self.writer()?
            .job(move |c| Box::pin(reorgs::reopen(c, fence, nonces)))
            .await
    }

    async fn take_back_external(
        &self,
        fence: FencedLane,
        blocks: &[BlockRef],
    ) -> StoreResult<Vec<SettlementId>> {
        let blocks = blocks.to_vec();
        self.writer()?
            .job(move |c| Box::pin(reorgs::take_back_external(c, fence, blocks)))
            .await
    }

    async fn raise_levels(
        &self,
        fence: FencedLane,
        nonces: &[AccountNonce],
        level: Level,
    ) -> StoreResult<()> {
        let nonces = nonces.to_vec();
        self.writer()?
            .job(move |c| Box::pin(reorgs::raise_levels(c, fence, nonces, level)))
            .await
    }

    async fn close_slot(
        &self,
        fence: FencedLane,
        closure: SlotClosure,
    ) -> StoreResult<Vec<SettlementId>> {
        self.writer()?
            .job(move |c| Box::pin(slots::close(c, fence, closure)))
            .await
    }

    async fn open_slots(&self, chain: ChainId, signer: Address) -> StoreResult<Vec<Slot>> {
        reading::open_slots(&self.readers, chain, signer).await
    }

    async fn signers_with_open_slots(&self, chain: ChainId) -> StoreResult<Vec<Address>> {
        reading::signers(&self.readers, chain).await
    }

    async fn top_up(
        &self,
        chain: ChainId,
        payer: Address,
        token: Address,
    ) -> StoreResult<Option<MadeTopUp>> {
        reading::top_up(&self.readers, chain, payer, token).await
    }

    async fn spending(&self, chain: ChainId, since: UnixMillis) -> StoreResult<Spending> {
        reading::spending(&self.readers, chain, since).await
    }

    async fn audit_slots(
        &self,
        chain: ChainId,
        signer: Address,
        after: Option<AccountNonce>,
        limit: u32,
    ) -> StoreResult<Vec<AuditSlot>> {
        reading::audit_slots(&self.readers, chain, signer, after, limit).await
    }

    async fn compensations(
        &self,
        after: u64,
        settlement: Option<SettlementId>,
        limit: u32,
    ) -> StoreResult<Vec<Compensation>> {
        reading::compensations(&self.readers, after, settlement, limit).await
    }

    async fn is_first(&self, milestone: Milestone) -> StoreResult<bool> {
        self.writer()?
            .job(move |c| Box::pin(queue::is_first(c, milestone)))
            .await
    }

    async fn tell_failure(&self, id: SettlementId) -> StoreResult<bool> {
        self.writer()?.tell_failure(id).await
    }

    async fn claim_delivery(
        &self,
        id: SettlementId,
        request: RequestId,
        process: ProcessId,
        success: Success,
    ) -> StoreResult<ClaimOutcome> {
        self.writer()?.claim((id, request, process, success)).await
    }

    async fn confirm_delivery(&self, id: SettlementId, request: RequestId) -> StoreResult<()> {
        self.writer()?.confirm(hot::Confirm { id, request }).await
    }

    async fn note_handed_over(&self, attempt: B256) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(slots::note_handed_over(c, attempt)))
            .await
    }

    async fn release_delivery(&self, id: SettlementId, request: RequestId) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(lanes::release_delivery(c, id, request)))
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
        self.writer()?
            .job(move |c| Box::pin(lanes::bind_key(c, key, digest)))
            .await
    }

    async fn events(
        &self,
        after: u64,
        tenant: Option<&TenantId>,
        limit: u32,
    ) -> StoreResult<Vec<SettlementEvent>> {
        reading::events(&self.readers, after, tenant, limit).await
    }

    async fn last_event(&self) -> StoreResult<u64> {
        reading::last_event(&self.readers).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}
