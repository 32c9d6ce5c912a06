//! The handle over a real ledger; the test moves the rows as an engine would.
//!
//! One long file, because it is one list of behaviours.

use super::*;
use alloy_primitives::{Address, Bytes, U256};
use std::sync::atomic::{AtomicU64, Ordering};
use teller_domain::{
    AccountNonce, AssetAmount, Attempt, AttemptKind, Authorization, AuthorizationKey,
    AuthorizationNonce, BlockRef, EcdsaSignature, Fees, FencedLane, IdempotencyKey, Payment,
    Receipt, Resolution, Scheme, SlotEnd, SlotId, TenantId, Told, UnixSeconds, Validity, Wei,
    X402Version,
};
use teller_store::{Duty, MemoryReservations, NewSlot, SlotClosure, SqliteLedger, Wanted};

const CHAIN: ChainId = ChainId(84532);
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);

fn unique() -> B256 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    B256::from(U256::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn request() -> PaymentRequest {
    let (asset, payee, value) = (
        Address::repeat_byte(2),
        Address::repeat_byte(3),
        AssetAmount(U256::from(10_000)),
    );
    PaymentRequest {
        tenant: TenantId::new("shop"),
        version: X402Version::V2,
        scheme: Scheme::Exact,
        payment: Payment {
            key: AuthorizationKey {
                chain: CHAIN,
                authority: asset,
                payer: Address::repeat_byte(1),
                nonce: AuthorizationNonce(unique()),
            },
            asset,
            payee,
            value,
            validity: Validity::between(UnixSeconds(0), UnixSeconds(u64::from(u32::MAX))),
            authorization: Authorization::Eip3009 {
                signature: EcdsaSignature {
                    r: B256::repeat_byte(4),
                    s: B256::repeat_byte(5),
                    v: 27,
                }
                .into(),
            },
        },
        asset,
        pay_to: payee,
        amount: value,
        max_timeout_seconds: 60,
        domain: None,
        attribution: alloy_primitives::Bytes::new(),
        idempotency_key: None,
    }
}

struct Bench {
    _directory: tempfile::TempDir,
    ledger: Arc<dyn Ledger>,
    settler: Settler,
    process: ProcessId,
    announced: mpsc::Receiver<Event>,
    fence: FencedLane,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sqlite = SqliteLedger::open(directory.path().join("teller.db"))
            .await
            .unwrap();
        let reservations = Arc::new(MemoryReservations::open(&sqlite).await.unwrap());
        let ledger: Arc<dyn Ledger> = Arc::new(sqlite);
        let process = ProcessId::fresh();
        ledger
            .heartbeat(process, Duty::Answers, 60_000)
            .await
            .unwrap();
        let signer = Address::repeat_byte(9);
        let claimed = ledger
            .claim_lane(CHAIN, signer, process, 1, 60_000)
            .await
            .unwrap()
            .unwrap();
        let fence = claimed.lane.fence;
        ledger.adopt_nonce(fence, AccountNonce(0)).await.unwrap();
        let (engine, announced) = mpsc::channel(16);
        let engines = HashMap::from([(CHAIN, engine)]);
        let waiters = Waiters::default();
        let settler = Settler::new(
            ledger.clone(),
            reservations,
            waiters,
            engines,
            process,
            TaskTracker::new(),
        );
        Self {
            _directory: directory,
            ledger,
            settler,
            process,
            announced,
            fence,
        }
    }

    async fn accept(&self, request: &PaymentRequest) -> Ticket {
        match self.settler.accept(request).await.unwrap() {
            Known::Accepted(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for a payment that is in the ledger, with a wait that ends soon.
    async fn ask(&self, request: &PaymentRequest, level: Level) -> SettleAnswer {
        let Known::Accepted(ticket) = self.settler.known(request).await.unwrap() else {
            panic!("the payment is not in the ledger");
        };
        self.settler.outcome(request, ticket, level, SHORT).await
    }

    fn slot(&self, nonce: u64) -> SlotId {
        SlotId {
            chain: CHAIN,
            signer: self.fence.signer,
            nonce: AccountNonce(nonce),
        }
    }

    /// accepted -> assigned, and sent; answers the hash.
    async fn open(&self, nonce: u64, id: SettlementId) -> B256 {
        let hash = self.commit(nonce, id).await;
        self.ledger.note_handed_over(hash).await.unwrap();
        hash
    }

    /// accepted -> assigned; answers the hash.
    async fn commit(&self, nonce: u64, id: SettlementId) -> B256 {
        let hash = unique();
        let slot = NewSlot {
            id: self.slot(nonce),
            attempt: Attempt {
                hash,
                raw: Bytes::from(vec![1]),
                kind: AttemptKind::Batch,
                fees: Fees {
                    max_fee_per_gas: 10,
                    max_priority_fee_per_gas: 1,
                },
                gas_limit: 120_000,
            },
            payments: vec![id],
            top_up: None,
            after: None,
        };
        self.ledger.open_slot(self.fence, slot).await.unwrap();
        hash
    }

    async fn close(&self, nonce: u64, id: SettlementId, hash: B256, state: SettlementState) {
        let closure = SlotClosure {
            id: self.slot(nonce),
            end: SlotEnd::Mined {
                transaction: hash,
                gas_used: 80_000,
                cost: Wei::from(800_000),
            },
            block: BLOCK,
            resolutions: vec![(id, Resolution::Resolved(state))],
            revived: Vec::new(),
        };
        self.ledger.close_slot(self.fence, closure).await.unwrap();
    }

    async fn settle(&self, nonce: u64, id: SettlementId) -> B256 {
        let hash = self.open(nonce, id).await;
        self.close(nonce, id, hash, settled(hash)).await;
        hash
    }

    async fn raise(&self, nonce: u64, level: Level) {
        self.ledger
            .raise_levels(self.fence, &[AccountNonce(nonce)], level)
            .await
            .unwrap();
    }

    async fn told(&self, id: SettlementId) -> Option<Told> {
        self.ledger.settlement(id).await.unwrap().unwrap().told
    }
}

const BLOCK: BlockRef = BlockRef {
    number: 7,
    hash: B256::repeat_byte(7),
};

fn settled(transaction: B256) -> SettlementState {
    SettlementState::Settled(Receipt {
        transaction,
        block: BLOCK,
        log_index: 0,
        level: Level::Included,
        gas_used: 80_000,
        cost: Wei::from(800_000),
    })
}

fn dead() -> SettlementState {
    SettlementState::Failed {
        refusal: Refusal::new(Reason::TransactionFailed, "cancelled by its payer"),
        transaction: None,
    }
}

fn id_of(ticket: &Ticket) -> SettlementId {
    ticket.settlement().unwrap().id
}

/// The hash of a pending answer.
fn pending_with(answer: &SettleAnswer) -> Option<B256> {
    match answer {
        SettleAnswer::Pending { transaction, .. } => *transaction,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn no_hash_is_told_of_bytes_that_no_node_was_given_and_a_retry_needs_none() {
    let bench = Bench::new().await;
    let request = request();
    let ticket = bench.accept(&request).await;
    let id = id_of(&ticket);
    let hash = bench.commit(0, id).await;
    let first = bench
        .settler
        .outcome(&request, ticket, Level::Included, SHORT)
        .await;
    assert_eq!(pending_with(&first), None);
    assert_eq!(
        pending_with(&bench.ask(&request, Level::Included).await),
        None
    );
    // Sent meanwhile, by whichever process: the same request is told so.
    bench.ledger.note_handed_over(hash).await.unwrap();
    let again = bench.ask(&request, Level::Included).await;
    assert_eq!(pending_with(&again), Some(hash));
    bench.close(0, id, hash, settled(hash)).await;
    let told = bench.ask(&request, Level::Included).await;
    assert!(
        matches!(&told, SettleAnswer::Settled { transaction, .. } if *transaction == hash),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_success_is_told_once_its_level_is_reached_and_not_before() {
    let bench = Bench::new().await;
    let request = request();
    let ticket = bench.accept(&request).await;
    let id = id_of(&ticket);
    let hash = bench.settle(0, id).await;
    assert_eq!(
        pending_with(&bench.ask(&request, Level::Safe).await),
        Some(hash),
        "included is not safe"
    );
    assert_eq!(bench.told(id).await, None, "pending is no outcome");

    let waiting = {
        let (settler, request) = (bench.settler.clone(), request.clone());
        tokio::spawn(async move { settler.outcome(&request, ticket, Level::Safe, LONG).await })
    };
    bench.raise(0, Level::Safe).await;
    // The first asker has subscribed by the time that the ledger is read for it.
    while !waiting.is_finished() {
        bench
            .settler
            .shared
            .waiters
            .read(bench.ledger.as_ref())
            .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let SettleAnswer::Settled {
        transaction,
        level,
        delivery,
        ..
    } = waiting.await.unwrap()
    else {
        panic!("the level was reached");
    };
    delivery.delivered();
    assert_eq!((transaction, level), (hash, Level::Safe));
    let Some(Told::Success {
        transaction, level, ..
    }) = bench.told(id).await
    else {
        panic!("told");
    };
    assert_eq!((transaction, level), (hash, Level::Safe));
    assert!(matches!(
        bench.ask(&request, Level::Included).await,
        SettleAnswer::Duplicate { transaction, .. } if transaction == hash
    ));
}

#[tokio::test]
async fn a_success_that_reaches_nobody_is_given_back() {
    let bench = Bench::new().await;
    let request = request();
    let id = id_of(&bench.accept(&request).await);
    bench.settle(0, id).await;
    let answer = bench.ask(&request, Level::Included).await;
    assert!(matches!(answer, SettleAnswer::Settled { .. }), "{answer:?}");
    let meanwhile = bench.ask(&request, Level::Included).await;
    assert!(
        matches!(meanwhile, SettleAnswer::Duplicate { .. }),
        "whatever becomes of the first: {meanwhile:?}"
    );
    drop(answer);
    let releases = &bench.settler.shared.releases;
    releases.close();
    releases.wait().await;
    let SettleAnswer::Settled { delivery, .. } = bench.ask(&request, Level::Included).await else {
        panic!("it is free again");
    };
    delivery.delivered();
    let last = bench.ask(&request, Level::Included).await;
    assert!(matches!(last, SettleAnswer::Duplicate { .. }), "{last:?}");
}

#[tokio::test]
async fn preconfirmed_is_told_to_those_who_are_content_with_it() {
    let bench = Bench::new().await;
    let request = request();
    let id = id_of(&bench.accept(&request).await);
    let hash = bench.open(0, id).await;
    bench
        .ledger
        .preconfirm(bench.fence, bench.slot(0), hash, &[(id, 3)])
        .await
        .unwrap();
    let included = bench.ask(&request, Level::Included).await;
    assert_eq!(pending_with(&included), Some(hash));
    let answer = bench.ask(&request, Level::Preconfirmed).await;
    let SettleAnswer::Settled { level, .. } = &answer else {
        panic!("{answer:?}");
    };
    assert_eq!(*level, Level::Preconfirmed);
    // The Flashblock vanishes: what was told stays told, and the next asker waits.
    bench
        .ledger
        .preconfirm(bench.fence, bench.slot(0), hash, &[])
        .await
        .unwrap();
    let vanished = bench.ask(&request, Level::Preconfirmed).await;
    assert_eq!(pending_with(&vanished), Some(hash));
    assert!(matches!(
        bench.told(id).await,
        Some(Told::Success {
            level: Level::Preconfirmed,
            ..
        })
    ));
    drop(answer);
}

#[tokio::test]
async fn after_a_reorg_a_settle_call_waits_again_and_the_success_is_not_told_twice() {
    let bench = Bench::new().await;
    let request = request();
    let id = id_of(&bench.accept(&request).await);
    let hash = bench.settle(0, id).await;
    let SettleAnswer::Settled { delivery, .. } = bench.ask(&request, Level::Included).await else {
        panic!("settled");
    };
    delivery.delivered();
    bench
        .ledger
        .reopen_slots(bench.fence, &[AccountNonce(0)])
        .await
        .unwrap();
    let reopened = bench.ask(&request, Level::Included).await;
    assert_eq!(pending_with(&reopened), Some(hash));
    bench.close(0, id, hash, settled(hash)).await;
    assert!(matches!(
        bench.ask(&request, Level::Included).await,
        SettleAnswer::Duplicate { transaction, .. } if transaction == hash
    ));
}

#[tokio::test]
async fn a_failure_is_noted_before_it_is_told_and_told_the_same_again() {
    let bench = Bench::new().await;
    let request = request();
    let id = id_of(&bench.accept(&request).await);
    let hash = bench.open(0, id).await;
    bench.close(0, id, hash, dead()).await;
    assert_eq!(bench.told(id).await, None);
    for _ in 0..2 {
        let SettleAnswer::Failed { refusal, .. } = bench.ask(&request, Level::Finalized).await
        else {
            panic!("failed");
        };
        assert_eq!(refusal.reason, Reason::TransactionFailed);
        assert!(matches!(
            bench.told(id).await,
            Some(Told::Failure {
                reason: Reason::TransactionFailed,
                ..
            })
        ));
    }
}

#[tokio::test]
async fn a_failure_that_is_none_any_more_gives_way_to_what_is_true() {
    let bench = Bench::new().await;
    let request = request();
    let ticket = bench.accept(&request).await;
    let id = id_of(&ticket);
    let hash = bench.settle(0, id).await;
    let mut stale = bench.ledger.settlement(id).await.unwrap().unwrap();
    stale.state = dead();
    let answer = bench
        .settler
        .answer(&request, stale, Level::Included, Instant::now())
        .await;
    assert!(
        matches!(&answer, SettleAnswer::Settled { transaction, .. } if *transaction == hash),
        "{answer:?}"
    );
}

#[tokio::test]
async fn what_nobody_signed_in_time_is_withdrawn_and_everybody_who_waits_hears_so() {
    let mut bench = Bench::new().await;
    let request = request();
    let ticket = bench.accept(&request).await;
    let id = id_of(&ticket);
    assert!(matches!(
        bench.announced.try_recv(),
        Ok(Event::Accepted(queued)) if queued.iter().any(|one| one.id == id)
    ));
    let Known::Accepted(patient) = bench.settler.known(&request).await.unwrap() else {
        panic!("accepted");
    };
    let patient = {
        let (settler, request) = (bench.settler.clone(), request.clone());
        tokio::spawn(async move {
            settler
                .outcome(&request, patient, Level::Included, LONG)
                .await
        })
    };
    let hasty = bench
        .settler
        .outcome(&request, ticket, Level::Included, SHORT)
        .await;
    for answer in [hasty, patient.await.unwrap()] {
        let SettleAnswer::Failed { refusal, .. } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(refusal.reason, Reason::SettlementWithdrawn);
    }
    let heard = bench.announced.try_recv();
    assert!(
        matches!(heard, Ok(Event::Withdrawn(gone)) if gone == id),
        "{heard:?}"
    );
    assert_eq!(bench.told(id).await, None, "it may be accepted again");
    assert!(matches!(
        bench.settler.known(&request).await.unwrap(),
        Known::New
    ));
}

#[tokio::test]
async fn a_caller_who_hangs_up_leaves_the_payment_as_it_is() {
    let bench = Bench::new().await;
    let request = request();
    let ticket = bench.accept(&request).await;
    let id = id_of(&ticket);
    let (settler, asked) = (bench.settler.clone(), request.clone());
    let waiting =
        tokio::spawn(async move { settler.outcome(&asked, ticket, Level::Included, LONG).await });
    tokio::time::sleep(SHORT).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    let row = bench.ledger.settlement(id).await.unwrap().unwrap();
    assert_eq!(row.state, SettlementState::Accepted);
    let hash = bench.settle(0, id).await;
    assert!(matches!(
        bench.ask(&request, Level::Included).await,
        SettleAnswer::Settled { transaction, .. } if transaction == hash
    ));
}

#[tokio::test]
async fn an_accepted_payment_is_this_process_s_only_where_it_has_the_engine() {
    let bench = Bench::new().await;
    let (here, mut elsewhere) = (request(), request());
    elsewhere.payment.key.chain = ChainId(8453);
    let ids = [
        id_of(&bench.accept(&here).await),
        id_of(&bench.accept(&elsewhere).await),
    ];
    let other = ProcessId::fresh();
    let mut claimed = Vec::new();
    for (owner, chain) in [
        (other, CHAIN),
        (bench.process, CHAIN),
        (other, elsewhere.payment.key.chain),
    ] {
        let rows = bench
            .ledger
            .claim_accepted(chain, owner, 10, &Wanted::All)
            .await
            .unwrap();
        claimed.push(rows.into_iter().map(|row| row.id).collect::<Vec<_>>());
    }
    assert_eq!(claimed, [vec![], vec![ids[0]], vec![ids[1]]]);
}

#[tokio::test]
async fn the_same_idempotency_key_replays_a_success_only_while_the_chain_has_it() {
    let bench = Bench::new().await;
    let mut request = request();
    request.idempotency_key = "once".parse::<IdempotencyKey>().ok();
    let id = id_of(&bench.accept(&request).await);
    let hash = bench.settle(0, id).await;
    for _ in 0..2 {
        let SettleAnswer::Settled { delivery, .. } = bench.ask(&request, Level::Included).await
        else {
            panic!("replayed");
        };
        delivery.delivered();
    }
    bench
        .ledger
        .reopen_slots(bench.fence, &[AccountNonce(0)])
        .await
        .unwrap();
    let reopened = bench.ask(&request, Level::Included).await;
    assert_eq!(pending_with(&reopened), Some(hash));
}
