//! What others do: with a payer's authorization, with a payer's account, with a signer's key.

use std::collections::HashSet;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256, hex};
use serde_json::{Value, json};
use teller_devnet::contracts::Contract;

use crate::boundaries::COMMITTED;
use crate::rig::{Rig, Wish};
use crate::support::proxy::{Fault, Next, Rule, SEND};

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_submit_or_cancel_first_change_only_the_payments_they_touch() {
    let mut rig = Rig::embedded().await;
    rig.proxy.set(Next::Swallow);
    let payments = rig.sell(12);
    rig.proxy.caught().await;
    tokio::time::sleep(COMMITTED).await;
    for payment in &payments[..4] {
        rig.chain.submit(payment).await;
    }
    for (index, payment) in payments.iter().enumerate().skip(4).take(4) {
        rig.chain
            .cancel(&rig.chain.payer(index), payment.key.nonce.0)
            .await;
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    rig.proxy.set(Next::Pass);
    rig.all_told().await;
    for (index, payment) in payments.iter().enumerate() {
        let (row, word) = (rig.row(payment).await, rig.last_word(payment));
        let (state, success) = match index {
            0..4 => ("settled_externally", true),
            4..8 => ("failed", false),
            _ => ("settled", true),
        };
        assert_eq!(row["state"], state, "{row}");
        assert_eq!(word["success"], success, "{word}");
    }
    assert_eq!(rig.compare().await.transfers, 8);
}

/// EIP-7702: the account's code is a pointer to a wallet that burns gas, or returns or reverts with as much data as the
/// gas buys. The payer turns into it after the batch's payers were looked at.
#[tokio::test(flavor = "multi_thread")]
async fn payers_who_turn_into_hostile_wallets_cost_gas_and_no_neighbour() {
    let mut rig = Rig::embedded().await;
    let wallet = Address::repeat_byte(0x77);
    let code = Contract::HostileWallet.runtime().unwrap();
    rig.rpc("anvil_setCode", json!([wallet, hex::encode_prefixed(code)]))
        .await;
    println!(
        "| the payer's wallet | neighbours settled | our transactions | their gas | of it in transactions that settled nobody |"
    );
    println!("|---|---|---|---|---|");
    for (mode, what) in [
        (None, "stays a plain account"),
        (Some(0_u64), "burns all gas"),
        (Some(1), "returns a bomb"),
        (Some(2), "reverts with a bomb"),
    ] {
        let before = rig.height().await;
        rig.proxy.set(Next::Swallow);
        // The first one goes alone, as the lane was idle; the others share the next slot.
        let mut payments = rig.sell(1);
        rig.proxy.caught().await;
        payments.extend(rig.sell(12));
        // The lowest payer is the first of the batch, so that the most is lost.
        let shared = payments[1..].iter();
        let first = shared.min_by_key(|payment| payment.key.payer).unwrap();
        let hostile = first.key.payer;
        let signed = |row: &Value| row["state"] == "assigned";
        rig.until_row(first, Duration::from_secs(20), signed).await;
        if let Some(mode) = mode {
            let pointer = [&[0xef, 0x01, 0x00], wallet.as_slice()].concat();
            let slot = json!([hostile, B256::ZERO, B256::from(U256::from(mode))]);
            rig.rpc("anvil_setStorageAt", slot).await;
            let code = json!([hostile, hex::encode_prefixed(pointer)]);
            rig.rpc("anvil_setCode", code).await;
        }
        rig.proxy.set(Next::Pass);
        rig.all_told().await;
        let mut settled = 0;
        for payment in &payments {
            let row = rig.row(payment).await;
            let is_hostile = mode.is_some() && payment.key.payer == hostile;
            let state = if is_hostile { "failed" } else { "settled" };
            assert_eq!(row["state"], state, "{row}");
            settled += u32::from(payment.key.payer != hostile);
        }
        let (count, gas, lost) = gas_since(&rig, before).await;
        println!("| {what} | {settled} of 12 | {count} | {gas} | {lost} |");
    }
    rig.compare().await;
}

/// Our own transactions since a block: how many, their gas, and the gas of those that used no authorization.
async fn gas_since(rig: &Rig, since: u64) -> (u64, u64, u64) {
    let fruitful: HashSet<String> = rig
        .chain
        .used_authorizations()
        .await
        .into_iter()
        .map(|(_, _, transaction)| transaction)
        .collect();
    let (mut count, mut gas, mut lost) = (0, 0, 0);
    for number in since + 1..=rig.height().await {
        let block = json!([format!("{number:#x}")]);
        let receipts = rig.rpc("eth_getBlockReceipts", block).await;
        for receipt in receipts.as_array().unwrap() {
            let sender: Address = receipt["from"].as_str().unwrap().parse().unwrap();
            let hash = receipt["transactionHash"].as_str().unwrap();
            if rig.signers().contains(&sender) {
                let used: U256 = receipt["gasUsed"].as_str().unwrap().parse().unwrap();
                let used = used.to::<u64>();
                count += 1;
                gas += used;
                lost += if fruitful.contains(hash) { 0 } else { used };
            }
        }
    }
    (count, gas, lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signers_key_that_somebody_else_uses_freezes_its_lane_until_an_operator_thaws_it() {
    let mut rig = Rig::embedded().await;
    rig.sell(3);
    rig.all_told().await;
    rig.proxy.inject(Rule::new(&[SEND], Fault::Forget));
    let payments = rig.sell(3);
    rig.proxy.caught().await;
    let signer = rig.misuse_a_key().await;
    rig.until_metric(0, "teller_lane_frozen", "", 1.0).await;
    rig.proxy.clear();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for payment in &payments {
        let row = rig.row(payment).await;
        assert_ne!(row["state"], "settled", "a frozen lane settled {row}");
    }
    let thaw = ["lanes", "thaw", &signer.to_string(), "--yes"];
    rig.fleet.demand(&thaw).await.unwrap();
    let settled = |row: &Value| row["state"] == "settled";
    for payment in &payments {
        rig.until_row(payment, Duration::from_secs(40), settled)
            .await;
    }
    rig.sell(3);
    assert_eq!(rig.compare().await.transfers, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_whose_clock_is_half_a_minute_off_settles_as_any_other() {
    // Ahead: the chain jumps while payments are under way.
    let mut ahead = Rig::embedded().await;
    ahead.sell(5);
    ahead.rpc("evm_increaseTime", json!([30])).await;
    ahead.sell(5);
    ahead.all_told().await;
    assert_eq!(ahead.compare().await.transfers, 10);

    // Behind: from its first block on.
    let directory = tempfile::tempdir().unwrap();
    let anvil = directory.path().join("anvil");
    let real = std::env::var("TELLER_ANVIL").expect("TELLER_ANVIL is not set: `make test` sets it");
    let script = format!("#!/bin/sh\nexec '{real}' --timestamp $(($(date +%s) - 30)) \"$@\"\n");
    std::fs::write(&anvil, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&anvil, executable).unwrap();
    let mut behind = Rig::start(Wish {
        anvil: Some(anvil),
        ..Wish::default()
    })
    .await;
    behind.sell(10);
    assert_eq!(behind.compare().await.transfers, 10);
}
