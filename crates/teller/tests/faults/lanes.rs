//! Signers that have little, whose keys were used before, or whose node does not know what it was given.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::boundaries::COMMITTED;
use crate::rig::{Rig, Wish};
use crate::support::proxy::{Fault, Next, Rule, SEND};

const NONCE: &str = "eth_getTransactionCount";
const LOOK_UPS: [&str; 2] = ["eth_getTransactionReceipt", "eth_getTransactionByHash"];
/// What geth says of every hash that it does not find while its index is being built.
const INDEXING: Fault = Fault::ErrorForNull(-32000, "transaction indexing is in progress");

fn settled(row: &Value) -> bool {
    row["state"] == "settled"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poor_signer_beside_funded_ones_holds_no_payment_up() {
    let mut rig = Rig::start(Wish {
        signers: 4,
        // More than a no-op takes, and less than any batch.
        poorest: Some(100_000_000_000_000),
        network: "block_interval_ms = 1000\ndepth = 1".to_owned(),
        ..Wish::default()
    })
    .await;
    let began = Instant::now();
    rig.sell(12);
    rig.all_told().await;
    println!("told after {:.1} s", began.elapsed().as_secs_f64());
    let noops = rig
        .metric(0, "teller_attempts_total", "kind=\"noop\"")
        .await;
    assert_eq!(noops, 0.0, "nothing was given up\n{}", rig.fleet.logs());
    assert_eq!(rig.compare().await.transfers, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_can_pay_no_batch_takes_none_until_it_can() {
    let mut rig = Rig::start(Wish {
        // A no-op, and no batch.
        poorest: Some(100_000_000_000_000),
        ..Wish::default()
    })
    .await;
    rig.sell(3);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(rig.metric(0, "teller_attempts_total", "").await, 0.0);
    assert_eq!(rig.metric(0, "teller_lane_usable", "").await, 0.0);
    rig.fund_signers().await;
    rig.until_metric(0, "teller_lane_usable", "", 1.0).await;
    rig.all_told().await;
    let payments = rig.sell(3);
    rig.all_told().await;
    for payment in &payments {
        assert!(settled(&rig.row(payment).await));
    }
    rig.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_bytes_are_sent_again_whatever_the_node_says_of_them() {
    let mut rig = Rig::embedded().await;
    rig.sell(2);
    rig.all_told().await;
    rig.proxy.set(Next::Swallow);
    let payments = rig.sell(4);
    rig.proxy.caught().await;
    tokio::time::sleep(COMMITTED).await;
    rig.fleet.kill(0).await.unwrap();
    rig.proxy.clear();
    rig.proxy.inject(Rule::new(&LOOK_UPS, INDEXING));
    rig.fleet.start_member(0).await.unwrap();
    for payment in &payments {
        rig.until_row(payment, Duration::from_secs(60), settled)
            .await;
    }
    rig.proxy.clear();
    assert_eq!(rig.compare().await.transfers, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_before_settles_though_its_nonce_is_read_from_a_node_that_is_behind() {
    for stale in [1, 6, 30] {
        let mut rig = Rig::start(Wish {
            used_key: 3,
            rules: vec![Rule::new(&[NONCE], Fault::Less(2)).times(stale)],
            ..Wish::default()
        })
        .await;
        rig.sell(6);
        rig.all_told().await;
        rig.sell(6);
        rig.all_told().await;
        assert_eq!(rig.metric(0, "teller_lane_frozen", "").await, 0.0);
        rig.proxy.clear();
        assert_eq!(rig.compare().await.transfers, 12, "{stale} old answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_used_while_nothing_of_the_lane_is_open_freezes_nothing() {
    let mut rig = Rig::embedded().await;
    rig.sell(3);
    rig.all_told().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    rig.misuse_a_key().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let payments = rig.sell(3);
    rig.all_told().await;
    assert_eq!(rig.metric(0, "teller_lane_frozen", "").await, 0.0);
    for payment in &payments {
        assert!(settled(&rig.row(payment).await));
    }
}

/// Accepted payments whose bytes every endpoint refuses, or never gets; then one of which nobody knows.
async fn tells_no_hash_of_what_was_never_handed_over(wish: Wish) {
    let mut rig = Rig::start(wish).await;
    let assigned = |row: &Value| row["state"] == "assigned";
    for fault in [
        Fault::Status(503),
        Fault::Status(429),
        Fault::Error(-32000, "txpool is full"),
        Fault::Error(-32005, "limit exceeded"),
    ] {
        rig.proxy.inject(Rule::new(&[SEND], fault));
        let payment = rig.sell(1).remove(0);
        let row = rig
            .until_row(&payment, Duration::from_secs(20), assigned)
            .await;
        rig.proxy.caught().await;
        tokio::time::sleep(COMMITTED).await;
        let later = rig.row(&payment).await;
        assert_eq!(
            (&row["transaction"], &later["transaction"]),
            (&"".into(), &"".into()),
            "{fault:?}"
        );
        rig.proxy.clear();
        rig.all_told().await;
        assert!(settled(&rig.row(&payment).await), "{fault:?}");
    }
    // The node has it, or may have: its hash is told.
    for fault in [Fault::CutAnswer, Fault::HangAnswer, Fault::Cut] {
        rig.proxy.inject(Rule::new(&[SEND], fault));
        rig.proxy.inject(Rule::new(&LOOK_UPS, Fault::Status(503)));
        let payment = rig.sell(1).remove(0);
        let told = |row: &Value| assigned(row) && row["transaction"] != "";
        let row = rig.until_row(&payment, Duration::from_secs(30), told).await;
        assert_eq!(row["state"], "assigned", "{row}");
        rig.proxy.clear();
        rig.all_told().await;
    }
    assert_eq!(rig.compare().await.transfers, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hash_is_told_of_bytes_that_no_endpoint_was_given() {
    tells_no_hash_of_what_was_never_handed_over(Wish::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hash_is_told_of_bytes_that_another_process_could_not_send() {
    tells_no_hash_of_what_was_never_handed_over(Wish::cluster()).await;
}
