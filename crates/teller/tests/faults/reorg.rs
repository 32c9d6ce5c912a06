//! Blocks that were, and are no longer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Rig, Wish};
use crate::support::proxy::{Fault, Rule, SEND};

/// A chain with enough blocks behind its set-up for the deepest reorg here.
async fn on_a_long_chain(wish: Wish) -> Rig {
    let rig = Rig::start(wish).await;
    let setup = rig.height().await;
    while rig.height().await < setup + 8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    rig
}

/// Reorganises the last `depth` blocks away; nothing of what was in them comes back by itself.
async fn reorg(rig: &Rig, depth: u64) {
    rig.rpc("anvil_reorg", json!([depth, []])).await;
}

fn raised(row: &Value) -> bool {
    ["safe", "finalized"].contains(&row["receipt"]["level"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reorg_takes_away_is_settled_again_and_told_once() {
    let mut rig = on_a_long_chain(Wish::default()).await;
    let mut all = 0;
    for depth in 1..=6 {
        let payments = rig.sell(6);
        all += 6;
        rig.all_told().await;
        // Deep enough to take them, or just not: both happen.
        tokio::time::sleep(Duration::from_secs(depth.min(3))).await;
        reorg(&rig, depth).await;
        rig.sell(2);
        all += 2;
        for payment in &payments {
            let settled = |row: &Value| row["state"] == "settled";
            rig.until_row(payment, Duration::from_secs(40), settled)
                .await;
        }
        rig.all_told().await;
    }
    // Several blocks on, the ledger names what the chain has now.
    tokio::time::sleep(Duration::from_secs(4)).await;
    rig.until_metric(0, "teller_reorgs_total", "", 1.0).await;
    let compared = rig.compare().await;
    assert_eq!(compared.transfers, all);
    assert_eq!(compared.told_success, all);
}

/// The transactions are dropped from the pool, too, so that only the ledger still has them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_reorg_takes_away_and_the_pool_forgets_is_settled_again() {
    let mut rig = on_a_long_chain(Wish::default()).await;
    let payments = rig.sell(8);
    rig.all_told().await;
    reorg(&rig, 3).await;
    rig.rpc("anvil_dropAllTransactions", json!([])).await;
    for payment in &payments {
        let settled = |row: &Value| row["state"] == "settled";
        rig.until_row(payment, Duration::from_secs(40), settled)
            .await;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(rig.compare().await.transfers, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_under_a_restart_is_noticed_afterwards() {
    let mut rig = on_a_long_chain(Wish::default()).await;
    let payments = rig.sell(6);
    rig.all_told().await;
    rig.fleet.kill(0).await.unwrap();
    reorg(&rig, 4).await;
    rig.rpc("anvil_dropAllTransactions", json!([])).await;
    rig.fleet.start_member(0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.sell(3);
    for payment in &payments {
        let settled = |row: &Value| row["state"] == "settled";
        rig.until_row(payment, Duration::from_secs(40), settled)
            .await;
    }
    rig.all_told().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(rig.compare().await.transfers, 9);
}

/// Success was told, the block is gone, and the payer has spent the money: what was told and what the chain says part.
#[tokio::test(flavor = "multi_thread")]
async fn a_told_success_that_cannot_be_repeated_leaves_a_compensating_entry() {
    let mut rig = on_a_long_chain(Wish::default()).await;
    let payments = rig.sell(3);
    rig.all_told().await;
    let poor = payments[1].key.payer;
    // Until the money is gone, the old transaction must not come back.
    rig.proxy.inject(Rule::new(&[SEND], Fault::Cut));
    reorg(&rig, 6).await;
    rig.chain.empty(poor).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    rig.proxy.clear();
    let failed = |row: &Value| row["state"] == "failed";
    rig.until_row(&payments[1], Duration::from_secs(60), failed)
        .await;
    rig.compensated.insert((poor, payments[1].key.nonce.0));
    rig.until_metric(0, "teller_compensations_total", "", 1.0)
        .await;
    let compared = rig.compare().await;
    assert_eq!(compared.transfers, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_rise_after_the_answer() {
    let mut rig = on_a_long_chain(Wish {
        block_time: Duration::from_millis(250),
        ..Wish::default()
    })
    .await;
    let payments = rig.sell(2);
    rig.all_told().await;
    assert_eq!(rig.row(&payments[0]).await["receipt"]["level"], "included");
    // anvil's safe and finalized heads follow 32 and 64 blocks behind.
    rig.until_row(&payments[0], Duration::from_secs(60), raised)
        .await;
    assert_eq!(rig.compare().await.transfers, 2);
}
