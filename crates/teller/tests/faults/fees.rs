//! Gas: too dear, too dear for the operator, and none left.

use std::time::Duration;

use serde_json::json;

use crate::rig::{Rig, Wish};

const GWEI: u64 = 1_000_000_000;
/// Where the local chain keeps its base fee.
const FLOOR: u64 = 5_000_000;

async fn hold_base_fee(rig: &Rig, wei: u64, for_how_long: Duration) {
    let start = std::time::Instant::now();
    while start.elapsed() < for_how_long {
        rig.rpc(
            "anvil_setNextBlockBaseFeePerGas",
            json!([format!("{wei:#x}")]),
        )
        .await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_fee_over_the_first_fees_is_followed_by_replacements() {
    let mut rig = Rig::start(Wish {
        block_time: Duration::from_secs(2),
        ..Wish::default()
    })
    .await;
    rig.sell(5);
    rig.all_told().await;
    rig.sell(10);
    // After the fees were chosen and before the block: far over what anvil's tip leaves room for.
    tokio::time::sleep(Duration::from_millis(300)).await;
    hold_base_fee(&rig, FLOOR * 4_000, Duration::from_secs(8)).await;
    rig.sell(5);
    rig.all_told().await;
    let replaced = rig.metric(0, "teller_attempts_total", "replacement").await;
    assert!(replaced >= 1.0, "never replaced");
    hold_base_fee(&rig, FLOOR, Duration::from_secs(3)).await;
    assert_eq!(rig.compare().await.transfers, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_are_refused_while_gas_is_over_the_operators_ceiling() {
    let mut rig = Rig::start(Wish {
        network: "block_interval_ms = 1000\nmax_fee_per_gas_gwei = 1".to_owned(),
        ..Wish::default()
    })
    .await;
    rig.sell(3);
    rig.all_told().await;
    hold_base_fee(&rig, 3 * GWEI, Duration::from_secs(3)).await;
    let refused = rig.sell(8);
    hold_base_fee(&rig, 3 * GWEI, Duration::from_secs(12)).await;
    rig.all_told().await;
    for payment in &refused {
        assert_eq!(
            rig.last_word(payment)["errorReason"],
            "fee_ceiling_exceeded"
        );
        assert!(
            rig.row(payment).await.is_null(),
            "accepted over the ceiling"
        );
    }
    hold_base_fee(&rig, FLOOR, Duration::from_secs(4)).await;
    rig.sell(8);
    assert_eq!(rig.compare().await.transfers, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_without_money_pauses_its_lane_and_goes_on_when_it_has_some() {
    let mut rig = Rig::embedded().await;
    rig.sell(10);
    let signer = rig.signers()[0];
    rig.rpc("anvil_setBalance", json!([signer, "0x0"])).await;
    rig.sell(10);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let usable = rig.metric(0, "teller_lane_usable", "").await;
    println!("while drained, usable lanes: {usable}");
    rig.rpc("anvil_setBalance", json!([signer, "0x8ac7230489e80000"]))
        .await;
    assert_eq!(rig.compare().await.transfers, 20);
}

/// Whoever takes requests is not who settles, and knows all the same that nothing can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_an_engine_refuses_what_its_settlers_have_no_budget_for() {
    let spent = "block_interval_ms = 1000\n[networks.budget]\nmax_wei_per_day = \"1\"";
    let mut rig = Rig::start(Wish {
        network: spent.to_owned(),
        ..Wish::cluster()
    })
    .await;
    rig.sell(1);
    rig.all_told().await;
    let (refused, told) = rig.refused_with("gas_budget_exceeded").await;
    assert_eq!(told["errorReason"], "gas_budget_exceeded", "{told}");
    assert!(
        rig.row(&refused).await.is_null(),
        "accepted without a budget"
    );
    assert_eq!(rig.compare().await.transfers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_an_engine_refuses_what_its_settlers_cannot_pay_for() {
    let mut rig = Rig::start(Wish::cluster()).await;
    rig.sell(2);
    rig.all_told().await;
    for signer in rig.signers() {
        rig.rpc("anvil_setBalance", json!([signer, "0x0"])).await;
    }
    let (refused, told) = rig.refused_with("unexpected_verify_error").await;
    assert_eq!(told["errorReason"], "unexpected_settle_error", "{told}");
    rig.fund_signers().await;
    rig.sell_this(&refused);
    rig.all_told().await;
    assert_eq!(rig.last_word(&refused)["success"], true);
    assert_eq!(rig.compare().await.transfers, 3);
}
