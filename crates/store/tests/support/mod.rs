//! What the contract suites share: payments, and each implementation on a real store of its own.
//!
//! One file, because each suite includes all of it.
#![allow(dead_code, unused_macros)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy_primitives::{Address, B256, Bytes, U256};
use teller_domain::*;
use teller_store::*;

/// Each behaviour as a test against each ledger.
macro_rules! contract {
    ($($behaviour:ident,)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::TestLedger::open(super::Backend::Embedded).await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::TestLedger::open(super::Backend::Cluster).await).await;
            })*
        }
    };
}

pub const CHAIN: ChainId = ChainId(84532);
pub const ASSET: Address = Address::repeat_byte(0xaa);
pub const SIGNER: Address = Address::repeat_byte(0x51);

/// A number that no other call in this run gets.
pub fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn tenant(name: &str) -> TenantId {
    TenantId::new(name)
}

pub fn hash(n: u64) -> B256 {
    B256::from(U256::from(n))
}

pub fn payment() -> Payment {
    payment_of(Address::from_word(hash(unique())))
}

pub fn payment_of(payer: Address) -> Payment {
    Payment {
        key: AuthorizationKey {
            chain: CHAIN,
            authority: ASSET,
            payer,
            nonce: AuthorizationNonce(hash(unique())),
        },
        asset: ASSET,
        payee: Address::repeat_byte(0xee),
        value: AssetAmount::from(1_000),
        validity: Validity::between(UnixSeconds(0), UnixSeconds(u64::MAX)),
        authorization: Authorization::Eip3009 {
            signature: EcdsaSignature {
                r: B256::repeat_byte(1),
                s: B256::repeat_byte(2),
                v: 27,
            }
            .into(),
        },
    }
}

pub fn new_settlement(tenant: &str, payment: Payment) -> NewSettlement {
    NewSettlement {
        id: SettlementId::fresh(),
        tenant: TenantId::new(tenant),
        version: X402Version::V2,
        payment,
        attribution: Bytes::new(),
        queued_by: None,
    }
}

pub fn attempt(n: u64, kind: AttemptKind) -> Attempt {
    Attempt {
        hash: hash(n),
        raw: Bytes::from(n.to_be_bytes().to_vec()),
        kind,
        fees: Fees {
            max_fee_per_gas: u128::MAX - u128::from(n),
            max_priority_fee_per_gas: 7,
        },
        gas_limit: 60_000,
    }
}

pub fn block(number: u64) -> BlockRef {
    BlockRef {
        number,
        hash: hash(number + 1_000_000),
    }
}

pub fn receipt(transaction: B256, number: u64) -> Receipt {
    Receipt {
        transaction,
        block: block(number),
        log_index: 3,
        level: Level::Included,
        gas_used: 50_000,
        cost: Wei(U256::MAX),
    }
}

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set; `make test` starts what the tests need and sets it")
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Embedded,
    Cluster,
}

/// A ledger of one test's own.
pub struct TestLedger {
    pub ledger: Arc<dyn Ledger>,
    embedded: Option<(tempfile::TempDir, Arc<SqliteLedger>)>,
    url: LedgerUrl,
}

impl TestLedger {
    /// Claims the delivery of whatever the payment's row says, as a request does that has just read it.
    pub async fn claim(
        &self,
        id: SettlementId,
        request: RequestId,
        process: ProcessId,
    ) -> StoreResult<ClaimOutcome> {
        let row = self.ledger.settlement(id).await?;
        let nothing = Success {
            transaction: B256::ZERO,
            level: Level::Included,
        };
        let success = row.and_then(|row| Success::of(&row.state));
        let success = success.unwrap_or(nothing);
        self.ledger
            .claim_delivery(id, request, process, success)
            .await
    }

    pub async fn open(backend: Backend) -> Self {
        match backend {
            Backend::Embedded => {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("teller.db");
                let ledger = Arc::new(SqliteLedger::open(&path).await.unwrap());
                Self {
                    ledger: ledger.clone(),
                    embedded: Some((directory, ledger)),
                    url: LedgerUrl::Sqlite(path),
                }
            }
            Backend::Cluster => {
                let url = LedgerUrl::Postgres(postgres_schema().await);
                migrate(&url).await.unwrap();
                Self {
                    ledger: open_ledger(&url).await.unwrap(),
                    embedded: None,
                    url,
                }
            }
        }
    }

    /// As after a restart of the process.
    pub async fn reopen(&mut self) {
        match &mut self.embedded {
            Some((directory, ledger)) => {
                ledger.close().await;
                *ledger = Arc::new(
                    SqliteLedger::open(directory.path().join("teller.db"))
                        .await
                        .unwrap(),
                );
                self.ledger = ledger.clone();
            }
            None => self.ledger = open_ledger(&self.url).await.unwrap(),
        }
    }

    /// Runs SQL beside the ledger, as only time does otherwise.
    pub async fn execute(&self, sql: &'static str) -> u64 {
        use sqlx::Connection;
        match &self.url {
            LedgerUrl::Sqlite(path) => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                let mut connection = sqlx::SqliteConnection::connect_with(&options)
                    .await
                    .unwrap();
                let done = sqlx::query(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                done.rows_affected()
            }
            LedgerUrl::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                let done = sqlx::query(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                done.rows_affected()
            }
        }
    }

    /// The same for several statements.
    pub async fn script(&self, sql: String) {
        script(&self.url, sql).await;
    }

    pub fn url(&self) -> &LedgerUrl {
        &self.url
    }

    pub fn sqlite(&self) -> &Arc<SqliteLedger> {
        &self.embedded.as_ref().unwrap().1
    }
}

/// Runs statements on a database that no ledger need have open.
pub async fn script(url: &LedgerUrl, sql: String) {
    use sqlx::Connection;
    let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
    match url {
        LedgerUrl::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true);
            let mut connection = sqlx::SqliteConnection::connect_with(&options)
                .await
                .unwrap();
            sql.execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        LedgerUrl::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sql.execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

/// A URL whose connections work in a schema of their own.
pub async fn postgres_schema() -> String {
    use sqlx::Connection;
    let url = environment("TELLER_TEST_POSTGRES_URL");
    let schema = format!("teller_{}", uuid::Uuid::now_v7().simple());
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}")))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options=-csearch_path%3D{schema}")
}

/// Reservations of one test's own.
pub struct TestReservations {
    pub reservations: Arc<dyn Reservations>,
    ledger: Option<TestLedger>,
    pub redis: Option<(String, String)>,
}

impl TestReservations {
    pub async fn open(backend: Backend) -> Self {
        match backend {
            Backend::Embedded => {
                let ledger = TestLedger::open(Backend::Embedded).await;
                Self {
                    reservations: Arc::new(
                        MemoryReservations::open(ledger.sqlite()).await.unwrap(),
                    ),
                    ledger: Some(ledger),
                    redis: None,
                }
            }
            Backend::Cluster => {
                let url = environment("TELLER_TEST_REDIS_URL");
                let prefix = format!("test-{}", uuid::Uuid::now_v7().simple());
                let reservations = RedisReservations::connect_by_callers_clock(&url, &prefix)
                    .await
                    .unwrap();
                reservations.recovered().await.unwrap();
                Self {
                    reservations: Arc::new(reservations),
                    ledger: None,
                    redis: Some((url, prefix)),
                }
            }
        }
    }

    /// As after a restart of the process.
    pub async fn reopen(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.reopen().await;
            self.reservations = Arc::new(MemoryReservations::open(ledger.sqlite()).await.unwrap());
        } else if let Some((url, prefix)) = &self.redis {
            self.reservations = Arc::new(
                RedisReservations::connect_by_callers_clock(url, prefix)
                    .await
                    .unwrap(),
            );
        }
    }

    /// Every key of this test is gone, as after a flush.
    pub async fn lose(&self) {
        let (url, prefix) = self.redis.as_ref().unwrap();
        let client = redis::Client::open(url.as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{prefix}:*"))
            .query_async(&mut connection)
            .await
            .unwrap();
        redis::cmd("DEL")
            .arg(keys)
            .query_async::<()>(&mut connection)
            .await
            .unwrap();
    }
}

pub fn accepted(outcome: AcceptOutcome) -> Settlement {
    match outcome {
        AcceptOutcome::Accepted(settlement) => settlement,
        AcceptOutcome::Exists(found) => panic!("in the ledger already: {found:?}"),
    }
}

pub async fn accept(store: &TestLedger) -> Settlement {
    accepted(
        store
            .ledger
            .accept(new_settlement("shop", payment()))
            .await
            .unwrap(),
    )
}

/// A lane whose next nonce is 5.
pub async fn lane(store: &TestLedger) -> FencedLane {
    let claimed = store
        .ledger
        .claim_lane(CHAIN, SIGNER, ProcessId::fresh(), 1, 60_000)
        .await
        .unwrap()
        .unwrap();
    store
        .ledger
        .adopt_nonce(claimed.lane.fence, AccountNonce(5))
        .await
        .unwrap();
    claimed.lane.fence
}

pub fn slot_id(nonce: u64) -> SlotId {
    SlotId {
        chain: CHAIN,
        signer: SIGNER,
        nonce: AccountNonce(nonce),
    }
}

pub fn new_slot(nonce: u64, payments: &[SettlementId]) -> NewSlot {
    NewSlot {
        id: slot_id(nonce),
        attempt: attempt(unique() + 1_000, AttemptKind::Batch),
        payments: payments.to_vec(),
        top_up: None,
        after: Some(BlockRef {
            number: nonce,
            hash: hash(nonce),
        }),
    }
}

pub fn closure(slot: &NewSlot, resolutions: Vec<(SettlementId, Resolution)>) -> SlotClosure {
    SlotClosure {
        id: slot.id,
        end: SlotEnd::Mined {
            transaction: slot.attempt.hash,
            gas_used: 100_000,
            cost: Wei(U256::MAX),
        },
        block: block(77),
        resolutions,
        revived: Vec::new(),
    }
}

/// The lane that [`settle`] settles in.
pub async fn claim(store: &TestLedger) -> LaneRecovery {
    store
        .ledger
        .claim_lane(
            CHAIN,
            SIGNER,
            ProcessId(uuid::Uuid::from_u128(1)),
            1,
            60_000,
        )
        .await
        .unwrap()
        .unwrap()
}

pub async fn settle(store: &TestLedger) -> Settlement {
    let settlement = accept(store).await;
    let recovery = claim(store).await;
    let fence = recovery.lane.fence;
    let nonce = match recovery.lane.next_nonce {
        Some(nonce) => nonce,
        None => {
            store
                .ledger
                .adopt_nonce(fence, AccountNonce(0))
                .await
                .unwrap();
            AccountNonce(0)
        }
    };
    let slot = new_slot(nonce.0, &[settlement.id]);
    assert_eq!(
        store.ledger.open_slot(fence, slot.clone()).await.unwrap(),
        OpenSlotOutcome::Opened
    );
    let state = SettlementState::Settled(receipt(slot.attempt.hash, 77));
    store
        .ledger
        .close_slot(
            fence,
            closure(&slot, vec![(settlement.id, Resolution::Resolved(state))]),
        )
        .await
        .unwrap();
    store
        .ledger
        .settlement(settlement.id)
        .await
        .unwrap()
        .unwrap()
}

/// A lane of any signer's, with this next nonce.
pub async fn lane_of(store: &TestLedger, signer: Address, nonce: u64) -> FencedLane {
    let claimed = store
        .ledger
        .claim_lane(CHAIN, signer, ProcessId::fresh(), 1, 60_000)
        .await
        .unwrap()
        .unwrap();
    let fence = claimed.lane.fence;
    store
        .ledger
        .adopt_nonce(fence, AccountNonce(nonce))
        .await
        .unwrap();
    fence
}

pub async fn state(store: &TestLedger, id: SettlementId) -> SettlementState {
    store.ledger.settlement(id).await.unwrap().unwrap().state
}

pub async fn told(store: &TestLedger, id: SettlementId) -> Option<Told> {
    store.ledger.settlement(id).await.unwrap().unwrap().told
}

pub fn resolved(id: SettlementId, state: SettlementState) -> (SettlementId, Resolution) {
    (id, Resolution::Resolved(state))
}

pub fn failed(reason: Reason) -> SettlementState {
    SettlementState::Failed {
        refusal: Refusal::new(reason, "no"),
        transaction: None,
    }
}

pub fn conflict<T: std::fmt::Debug>(answer: StoreResult<T>) {
    assert!(
        matches!(answer, Err(StoreError::Conflict { .. })),
        "{answer:?}"
    );
}

pub async fn payments(store: &TestLedger, count: usize) -> Vec<SettlementId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(accept(store).await.id);
    }
    ids
}

pub async fn opened(
    store: &TestLedger,
    fence: FencedLane,
    nonce: u64,
    ids: &[SettlementId],
) -> NewSlot {
    let mut slot = new_slot(nonce, ids);
    slot.id.signer = fence.signer;
    let outcome = store.ledger.open_slot(fence, slot.clone()).await.unwrap();
    assert_eq!(outcome, OpenSlotOutcome::Opened);
    slot
}

pub fn settled(transaction: B256, block: u64) -> SettlementState {
    SettlementState::Settled(receipt(transaction, block))
}

pub fn external(transaction: u64, block: u64) -> SettlementState {
    SettlementState::SettledExternally(receipt(hash(transaction), block))
}
