//! How fast the stores are, for a person to read: `cargo test --release -p teller-store --test pace -- --ignored
//! --nocapture --test-threads 1`. Nothing is asserted about the clock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Instant;

use futures::future::join_all;
use support::*;
use teller_domain::*;
use teller_store::*;

/// CPU time of this process so far, in milliseconds (Linux counts in hundredths of a second).
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

fn report(what: &str, count: usize, since: Instant, cpu: u64) {
    let seconds = since.elapsed().as_secs_f64();
    let each = (cpu_ms() - cpu) as f64 / count as f64;
    println!(
        "{what}: {:.0} a second, {each:.3} ms of CPU each",
        count as f64 / seconds
    );
}

/// Every settle as the engine does it, `concurrency` at once, in slots of 200.
async fn settles(store: &TestLedger, what: &str, count: usize, concurrency: usize) {
    let process = ProcessId::fresh();
    store
        .ledger
        .heartbeat(process, Duty::Answers, 60_000)
        .await
        .unwrap();
    let claimed = store
        .ledger
        .claim_lane(CHAIN, SIGNER, process, 1, 60_000)
        .await
        .unwrap()
        .unwrap();
    let fence = claimed.lane.fence;
    store
        .ledger
        .adopt_nonce(fence, AccountNonce(0))
        .await
        .unwrap();
    let (start, cpu) = (Instant::now(), cpu_ms());
    let mut nonce = 0;
    for _ in 0..count / concurrency {
        let accepted = join_all((0..concurrency).map(|_| async {
            let new = new_settlement("shop", payment());
            assert!(store.ledger.find(new.payment.key).await.unwrap().is_none());
            match store.ledger.accept(new).await.unwrap() {
                AcceptOutcome::Accepted(settlement) => settlement.id,
                AcceptOutcome::Exists(_) => panic!("new payments only"),
            }
        }))
        .await;
        for batch in accepted.chunks(200) {
            let id = SlotId {
                chain: CHAIN,
                signer: SIGNER,
                nonce: AccountNonce(nonce),
            };
            nonce += 1;
            let mut first = attempt(1_000_000_000 + nonce, AttemptKind::Batch);
            first.raw = vec![7; 400 * batch.len()].into();
            let transaction = first.hash;
            let slot = NewSlot {
                id,
                attempt: first,
                payments: batch.to_vec(),
                top_up: None,
                after: None,
            };
            store.ledger.open_slot(fence, slot).await.unwrap();
            let settled =
                Resolution::Resolved(SettlementState::Settled(receipt(transaction, nonce)));
            let closure = SlotClosure {
                id,
                end: SlotEnd::Mined {
                    transaction,
                    gas_used: 10_000_000,
                    cost: Wei::from(1),
                },
                block: block(nonce),
                resolutions: batch.iter().map(|id| (*id, settled.clone())).collect(),
                revived: Vec::new(),
            };
            store.ledger.close_slot(fence, closure).await.unwrap();
        }
        store.ledger.settlements(&accepted).await.unwrap();
        join_all(accepted.iter().map(|id| async {
            let request = RequestId::fresh();
            let claimed = store.claim(*id, request, process).await.unwrap();
            assert_eq!(claimed, ClaimOutcome::Claimed);
            store.ledger.confirm_delivery(*id, request).await.unwrap();
        }))
        .await;
    }
    report(&format!("{what}: settles"), count, start, cpu);
}

async fn accepts(store: &TestLedger, what: &str, count: usize, concurrency: usize) {
    let (start, cpu) = (Instant::now(), cpu_ms());
    for _ in 0..count / concurrency {
        join_all((0..concurrency).map(|_| store.ledger.accept(new_settlement("shop", payment()))))
            .await;
    }
    report(
        &format!("{what}: accepts, {concurrency} at once"),
        count,
        start,
        cpu,
    );
}

async fn reserves(store: &TestReservations, what: &str, count: usize, concurrency: usize) {
    let (start, cpu) = (Instant::now(), cpu_ms());
    for _ in 0..count / concurrency {
        join_all((0..concurrency).map(|_| {
            let payment = payment();
            store.reservations.reserve(ReserveRequest {
                key: payment.key,
                asset: payment.asset,
                value: payment.value,
                tenant: tenant("shop"),
                digest: payment.digest(),
                idempotency_key: None,
                purpose: HoldPurpose::Verify { lenient: false },
                balance: payment.value,
                read_at_block: 1,
                now: UnixMillis(1),
                nonce_hold_until: UnixMillis(600_000),
                balance_hold_until: UnixMillis(60_000),
            })
        }))
        .await;
    }
    report(
        &format!("{what}: reserves, {concurrency} at once"),
        count,
        start,
        cpu,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn pace_of_the_embedded_stores() {
    let store = TestLedger::open(Backend::Embedded).await;
    accepts(&store, "sqlite", 200, 1).await;
    accepts(&store, "sqlite", 20_480, 256).await;
    settles(&store, "sqlite", 20_480, 2_048).await;
    let store = TestReservations::open(Backend::Embedded).await;
    reserves(&store, "in process", 51_200, 256).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn pace_of_the_cluster_stores() {
    let store = TestLedger::open(Backend::Cluster).await;
    accepts(&store, "postgres", 200, 1).await;
    accepts(&store, "postgres", 20_480, 256).await;
    settles(&store, "postgres", 20_480, 2_048).await;
    let store = TestReservations::open(Backend::Cluster).await;
    reserves(&store, "redis", 51_200, 256).await;
}
