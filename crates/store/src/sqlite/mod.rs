//! The embedded ledger: one SQLite file, one process that writes it, any number that read it.

mod holds;
mod hot;
mod lanes;
mod reading;
mod slots;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqlitePool};
use teller_domain::{
    AccountNonce, Attempt, AuthorizationKey, ChainId, FencedLane, IdempotencyKey, PaymentDigest,
    ProcessId, RequestId, Settlement, SettlementId, SettlementState, Slot, SlotId, TenantId,
    UnixMillis,
};
use tokio::sync::watch;

pub(crate) use self::holds::{HoldWrite, load as load_holds};
pub(crate) use self::writer::Writer;
use crate::group::Grouper;
use crate::pruning::Pruning;
use crate::rows::key_hash;
use crate::{
    AcceptOutcome, ClaimOutcome, IdempotencyOutcome, LaneRecovery, Ledger, NewSettlement, NewSlot,
    OpenSlotOutcome, SettlementEvent, SettlementPage, SettlementQuery, SlotClosure, StoreError,
    StoreResult, migrations,
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
        lanes::forget_others(&mut connection).await?;
        let (sender, changes) = watch::channel(0);
        let writer = Writer::start(connection, lock, sender);
        Self::assemble(path, Some(writer), changes).await
    }

    /// Opens the file for reading only, whether or not another process has it open. Writes are refused.
    pub async fn open_read_only(path: impl AsRef<Path>) -> StoreResult<Self> {
        let path = path.as_ref();
        if !path.exists() {
            return Err(StoreError::Configuration(format!(
                "there is no ledger file {}",
                path.display()
            )));
        }
        let (_, changes) = watch::channel(0);
        Self::assemble(path, None, changes).await
    }

    async fn assemble(
        path: &Path,
        writer: Option<Writer>,
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
                reading::find(readers.clone(), keys)
            })
        };
        Ok(Self {
            path: path.to_owned(),
            writer,
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
        if let Some(writer) = &self.writer {
            writer.close().await;
        }
        self.readers.close().await;
    }

    pub(crate) fn writer(&self) -> StoreResult<&Writer> {
        self.writer.as_ref().ok_or_else(|| {
            StoreError::Configuration("the ledger was opened for reading only".to_owned())
        })
    }

    pub(crate) async fn holds(&self) -> StoreResult<Vec<(AuthorizationKey, crate::holds::Hold)>> {
        let mut reader = reading::acquire(&self.readers).await?;
        load_holds(&mut reader).await
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(TIMEOUT)
        .statement_cache_capacity(STATEMENTS)
        .pragma("cache_size", "-16000")
        .disable_statement_logging()
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
impl Ledger for SqliteLedger {
    async fn ping(&self) -> StoreResult<()> {
        self.writer()?
            .job(|connection| Box::pin(reading::ping(connection)))
            .await
    }

    async fn now(&self) -> StoreResult<UnixMillis> {
        reading::now(&mut *reading::acquire(&self.readers).await?).await
    }

    async fn bind_network(&self, chain: ChainId, genesis: B256) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(lanes::bind_network(c, chain, genesis)))
            .await
    }

    async fn heartbeat(&self, process: ProcessId, lease_ms: u64) -> StoreResult<()> {
        let writer = self.writer()?;
        writer
            .job(move |c| Box::pin(lanes::heartbeat(c, process, lease_ms)))
            .await?;
        let writer = writer.clone();
        self.pruning.run_if_due(move || {
            let writer = writer.clone();
            async move { writer.job(|c| Box::pin(lanes::prune(c))).await }
        });
        Ok(())
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

    async fn settlements(&self, ids: &[SettlementId]) -> StoreResult<Vec<Settlement>> {
        reading::settlements(&self.readers, ids).await
    }

    async fn list(&self, query: &SettlementQuery) -> StoreResult<SettlementPage> {
        reading::list(&self.readers, query).await
    }

    async fn withdraw(&self, id: SettlementId) -> StoreResult<bool> {
        self.writer()?
            .job(move |c| Box::pin(lanes::withdraw(c, id)))
            .await
    }

    async fn resolve_accepted(
        &self,
        resolutions: &[(SettlementId, SettlementState)],
    ) -> StoreResult<Vec<SettlementId>> {
        let resolutions = resolutions.to_vec();
        self.writer()?
            .job(move |c| Box::pin(lanes::resolve_accepted(c, resolutions)))
            .await
    }

    async fn accepted(&self, chain: ChainId) -> StoreResult<Vec<Settlement>> {
        reading::accepted(&self.readers, chain).await
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
        lease_ms: u64,
    ) -> StoreResult<Option<LaneRecovery>> {
        self.writer()?
            .job(move |c| Box::pin(lanes::claim(c, chain, signer, owner, lease_ms)))
            .await
    }

    async fn renew_lane(&self, fence: FencedLane, lease_ms: u64) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(lanes::renew(c, fence, lease_ms)))
            .await
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

    async fn close_slot(&self, fence: FencedLane, closure: SlotClosure) -> StoreResult<()> {
        self.writer()?
            .job(move |c| Box::pin(slots::close(c, fence, closure)))
            .await
    }

    async fn open_slots(&self, chain: ChainId, signer: Address) -> StoreResult<Vec<Slot>> {
        reading::open_slots(&self.readers, chain, signer).await
    }

    async fn signers_with_open_slots(&self, chain: ChainId) -> StoreResult<Vec<Address>> {
        slots::signers(&mut *reading::acquire(&self.readers).await?, chain).await
    }

    async fn claim_delivery(
        &self,
        id: SettlementId,
        request: RequestId,
        process: ProcessId,
    ) -> StoreResult<ClaimOutcome> {
        self.writer()?.claim((id, request, process)).await
    }

    async fn confirm_delivery(&self, id: SettlementId, request: RequestId) -> StoreResult<()> {
        self.writer()?.confirm(hot::Confirm { id, request }).await
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
