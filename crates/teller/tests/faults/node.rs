//! A node, or what stands before it, that fails in every way that nodes fail.

use std::time::Duration;

use serde_json::json;

use crate::rig::{Rig, Wish};
use crate::support::proxy::{Fault, Rule, SEND};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_after_the_node_has_the_transaction_is_not_a_failure() {
    let mut rig = Rig::embedded().await;
    for fault in [Fault::CutAnswer, Fault::HangAnswer] {
        rig.proxy.inject(Rule::new(&[SEND], fault).times(2));
        rig.sell(15);
        rig.all_told().await;
        rig.proxy.clear();
    }
    assert!(rig.proxy.faults() >= 2, "{:?}", rig.proxy.passed());
    let compared = rig.compare().await;
    assert_eq!(compared.transfers, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_node_never_had_is_sent_again() {
    let mut rig = Rig::embedded().await;
    for fault in [
        Fault::Cut,
        Fault::Hang,
        Fault::Status(429),
        Fault::Status(500),
        Fault::Error(-32000, "something went wrong"),
        Fault::Error(-32000, "already known"),
        Fault::Forget,
    ] {
        rig.proxy.inject(Rule::new(&[SEND], fault).times(1));
        rig.sell(5);
        rig.all_told().await;
        rig.proxy.clear();
    }
    let compared = rig.compare().await;
    assert_eq!(compared.transfers, 35);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_arrives_twice_settles_once() {
    let mut rig = Rig::embedded().await;
    rig.proxy.inject(Rule::new(&[], Fault::Duplicate));
    rig.sell(20);
    assert_eq!(rig.compare().await.transfers, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_one_call_in_three_settles_everything_in_the_end() {
    let mut rig = Rig::embedded().await;
    for (fault, percent) in [
        (Fault::Status(429), 8),
        (Fault::Status(500), 6),
        (Fault::Error(-32603, "internal error"), 6),
        (Fault::CutAnswer, 6),
        (Fault::Cut, 4),
        (Fault::Duplicate, 5),
        (Fault::Delay(Duration::from_millis(700)), 8),
    ] {
        rig.proxy.inject(Rule::new(&[], fault).percent(percent));
    }
    for _ in 0..6 {
        rig.sell(10);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    rig.all_told().await;
    let passed = rig.proxy.passed();
    rig.proxy.clear();
    let compared = rig.compare().await;
    let moved: u64 = compared.transfers;
    // What could not be verified was refused, and never accepted.
    assert_eq!(moved, compared.accepted(), "{passed:?}");
    assert_eq!(moved, 60, "{passed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_with_a_node_that_lags_behind_changes_nothing() {
    let mut rig = Rig::embedded().await;
    for (blocks, percent) in [(2, 50), (5, 30), (3, 100)] {
        rig.proxy.lag(blocks, percent);
        rig.sell(12);
        tokio::time::sleep(Duration::from_secs(3)).await;
        rig.sell(12);
        rig.all_told().await;
    }
    rig.proxy.lag(0, 100);
    assert_eq!(rig.compare().await.transfers, 72);
}

/// One of three answers comes from a node with another version of the newest block.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_with_a_node_on_a_fork_costs_one_reorg_a_fork() {
    let mut rig = Rig::embedded().await;
    let before = rig.height().await;
    rig.proxy.fork(33);
    for _ in 0..3 {
        rig.sell(10);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    rig.all_told().await;
    let reorgs = rig.metric(0, "teller_reorgs_total", "").await;
    let reopened = rig.metric(0, "teller_slots_reopened_total", "").await;
    let forks = rig.height().await - before;
    println!("{reorgs} reorgs and {reopened} slots reopened in {forks} forks");
    assert!(reorgs <= forks as f64, "{reorgs} reorgs in {forks} forks");
    rig.proxy.fork(0);
    assert_eq!(rig.compare().await.transfers, 30);
}

/// The node says yes and forgets: rebroadcast, replaced, parked by a no-op; then the payments settle in another slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_lane_is_replaced_then_parked_and_its_payments_settle_elsewhere() {
    let mut rig = Rig::embedded().await;
    rig.proxy.inject(Rule::new(&[SEND], Fault::Forget));
    let payments = rig.sell(4);
    rig.until_metric(0, "teller_attempts_total", "noop", 1.0)
        .await;
    let replaced = rig.metric(0, "teller_attempts_total", "replacement").await;
    assert!(replaced >= 1.0, "replaced {replaced} times");
    rig.proxy.clear();
    rig.all_told().await;
    for payment in &payments {
        assert_eq!(rig.row(payment).await["state"], "settled");
    }
    assert_eq!(rig.compare().await.transfers, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_the_node_drops_from_its_pool_are_settled_all_the_same() {
    let mut rig = Rig::start(Wish {
        block_time: Duration::from_secs(3),
        ..Wish::default()
    })
    .await;
    let mut dropped = 0;
    for _ in 0..3 {
        rig.sell(5);
        tokio::time::sleep(Duration::from_millis(700)).await;
        let pool = rig.rpc("txpool_content", json!([])).await;
        let senders = pool["pending"].as_object().cloned().unwrap_or_default();
        for transaction in senders
            .values()
            .flat_map(|by| by.as_object().unwrap().values())
        {
            rig.rpc("anvil_dropTransaction", json!([transaction["hash"]]))
                .await;
            dropped += 1;
        }
        rig.all_told().await;
    }
    assert!(dropped >= 1, "nothing was in the pool");
    assert_eq!(rig.compare().await.transfers, 15);
}
