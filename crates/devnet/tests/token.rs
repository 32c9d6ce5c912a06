//! The test dollar on the local chain: same domain, same behaviour, about the same gas as USDC on Base.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code
)]

mod support;

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall;
use serde_json::json;
use support::{
    authorization, balance, domain, quantity, read, send, settle_call, sign, start, wallet,
};
use teller_devnet::contracts::abi::{
    Multicall3, TestDollar, TransferSplit, TransferWithAuthorization,
};
use teller_devnet::contracts::{BOSS, MULTICALL3, TEST_DOLLAR};
use teller_devnet::{Devnet, DevnetConfig, Mining, fund};

fn signer(devnet: &Devnet) -> Address {
    wallet(devnet.info().signers[0]).address()
}

fn split_call(a: &TransferWithAuthorization, signature: [u8; 65]) -> Vec<u8> {
    TransferSplit::transferWithAuthorizationCall {
        from: a.from,
        to: a.to,
        value: a.value,
        validAfter: a.validAfter,
        validBefore: a.validBefore,
        nonce: a.nonce,
        v: signature[64],
        r: B256::from_slice(&signature[..32]),
        s: B256::from_slice(&signature[32..64]),
    }
    .abi_encode()
}

/// Why a call to the token would revert.
async fn refusal(devnet: &Devnet, data: &[u8]) -> String {
    let call = json!([{ "to": TEST_DOLLAR, "data": alloy_primitives::Bytes::copy_from_slice(data) }, "latest"]);
    devnet.rpc("eth_call", call).await.unwrap_err().to_string()
}

#[tokio::test]
async fn the_domain_separator_is_the_one_computed_locally() {
    let devnet = start().await;
    let separator = read(&devnet, TEST_DOLLAR, TestDollar::DOMAIN_SEPARATORCall {}).await;
    assert_eq!(separator, domain().separator());
    assert_eq!(
        read(&devnet, TEST_DOLLAR, TestDollar::nameCall {}).await,
        "USDC"
    );
    assert_eq!(
        read(&devnet, TEST_DOLLAR, TestDollar::versionCall {}).await,
        "2"
    );
    assert_eq!(
        read(&devnet, TEST_DOLLAR, TestDollar::decimalsCall {}).await,
        6
    );
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_signed_authorization_moves_money_in_both_forms_at_the_real_tokens_gas() {
    let devnet = start().await;
    let key = devnet.info().payers[0];
    let payer = wallet(key).address();
    let start_balance = balance(&devnet, payer).await;
    let mut paid = 0;
    for (form, split) in [("v,r,s", true), ("bytes", false)] {
        let payee = Address::random();
        for payee_kind in ["empty payee", "existing payee"] {
            let a = authorization(payer, payee, 10_000);
            let signature = sign(key, &a);
            let data = if split {
                split_call(&a, signature)
            } else {
                settle_call(&a, &signature).to_vec()
            };
            let receipt = send(&devnet, signer(&devnet), TEST_DOLLAR, &data, 300_000).await;
            assert_eq!(receipt["status"], "0x1");
            assert_eq!(receipt["logs"].as_array().unwrap().len(), 2);
            let gas = quantity(&receipt["gasUsed"]);
            println!("gas alone, {form}, {payee_kind}: {gas}");
            if payee_kind == "existing payee" {
                assert!(
                    gas.abs_diff(85_700) < 85_700 / 50,
                    "{gas} is not the real token's 85.7k"
                );
            }
            paid += 10_000;
            let again = refusal(&devnet, &data).await;
            assert!(
                again.contains("FiatTokenV2: authorization is used or canceled"),
                "{again}"
            );
        }
        assert_eq!(balance(&devnet, payee).await, 20_000);
    }
    assert_eq!(balance(&devnet, payer).await, start_balance - paid);
    devnet.shutdown().await;
}

#[tokio::test]
async fn refusals_carry_the_real_tokens_words_in_its_order() {
    let devnet = start().await;
    let key = devnet.info().payers[0];
    let payer = wallet(key).address();
    let payee = Address::random();
    let good = authorization(payer, payee, 1);
    let forged = settle_call(&good, &sign(devnet.info().payers[1], &good));
    let mut late = good.clone();
    late.validBefore = U256::from(1);
    let mut early = good.clone();
    early.validAfter = U256::MAX;
    let rich = authorization(payer, payee, u64::MAX);
    let mut short = sign(key, &good).to_vec();
    short.pop();
    for (data, words) in [
        (forged, "FiatTokenV2: invalid signature"),
        // Expired and not signed: the window comes first.
        (
            settle_call(&late, &[0; 65]),
            "FiatTokenV2: authorization is expired",
        ),
        (
            settle_call(&early, &[0; 65]),
            "FiatTokenV2: authorization is not yet valid",
        ),
        (
            settle_call(&rich, &sign(key, &rich)),
            "ERC20: transfer amount exceeds balance",
        ),
        (
            settle_call(&good, &short),
            "ECRecover: invalid signature length",
        ),
    ] {
        let said = refusal(&devnet, &data).await;
        assert!(said.contains(words), "{said}");
    }
    let data = settle_call(&good, &sign(key, &good));
    let blacklist = TestDollar::blacklistCall { account: payee }.abi_encode();
    send(&devnet, BOSS, TEST_DOLLAR, &blacklist, 200_000).await;
    let said = refusal(&devnet, &data).await;
    assert!(
        said.contains("Blacklistable: account is blacklisted"),
        "{said}"
    );
    let pause = TestDollar::pauseCall {}.abi_encode();
    send(&devnet, BOSS, TEST_DOLLAR, &pause, 200_000).await;
    let said = refusal(&devnet, &data).await;
    assert!(said.contains("Pausable: paused"), "{said}");
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_batch_costs_per_payment_about_what_it_does_on_base() {
    const ITEMS: usize = 100;
    let devnet = Devnet::start(DevnetConfig {
        mining: Mining::Instant,
        payers: ITEMS,
        ..DevnetConfig::default()
    })
    .await
    .unwrap();
    let one_payee = [Address::random()];
    let fifty_payees: Vec<_> = (0..50).map(|_| Address::random()).collect();
    fund(devnet.rpc_url(), &one_payee, U256::from(1))
        .await
        .unwrap();
    fund(devnet.rpc_url(), &fifty_payees, U256::from(1))
        .await
        .unwrap();
    for (kind, payees) in [
        ("one payee", one_payee.as_slice()),
        ("50 payees", &fifty_payees),
    ] {
        let calls = devnet.info().payers.iter().enumerate().map(|(i, &key)| {
            let a = authorization(wallet(key).address(), payees[i % payees.len()], 1_000);
            Multicall3::Call3 {
                target: TEST_DOLLAR,
                allowFailure: true,
                callData: settle_call(&a, &sign(key, &a)),
            }
        });
        let data = Multicall3::aggregate3Call {
            calls: calls.collect(),
        }
        .abi_encode();
        let receipt = send(&devnet, signer(&devnet), MULTICALL3, &data, 16_777_216).await;
        assert_eq!(receipt["status"], "0x1");
        assert_eq!(receipt["logs"].as_array().unwrap().len(), 2 * ITEMS);
        let each = quantity(&receipt["gasUsed"]) / ITEMS as u64;
        // On Base: 49.8k to one payee, 54.5k to payees all distinct.
        assert!((47_000..55_000).contains(&each), "{each}");
        println!("gas a payment in a batch of {ITEMS}, {kind}: {each}");
    }
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_transaction_over_the_gas_cap_of_eip_7825_is_refused() {
    let devnet = start().await;
    let from = signer(&devnet);
    devnet
        .rpc("anvil_impersonateAccount", json!([from]))
        .await
        .unwrap();
    let send = |gas: &str| {
        let transaction = json!([{ "from": from, "to": from, "gas": gas }]);
        devnet.rpc("eth_sendTransaction", transaction)
    };
    send("0x1000000").await.unwrap();
    let refused = send("0x1000001").await.unwrap_err().to_string();
    assert!(refused.contains("gas"), "{refused}");
    devnet.shutdown().await;
}

#[tokio::test]
async fn thousands_of_holders_are_funded_and_nobody_loses_a_dollar() {
    let devnet = Devnet::start(DevnetConfig {
        payers: 0,
        ..DevnetConfig::default()
    })
    .await
    .unwrap();
    let holders: Vec<_> = (0..3_000).map(|_| Address::random()).collect();
    let (left, right) = holders.split_at(1_500);
    let amount = U256::from(7);
    let (a, b) = tokio::join!(
        fund(devnet.rpc_url(), left, amount),
        fund(devnet.rpc_url(), right, amount)
    );
    a.unwrap();
    b.unwrap();
    for &holder in [
        &holders[0],
        &holders[1_499],
        &holders[1_500],
        &holders[2_999],
    ] {
        assert_eq!(balance(&devnet, holder).await, 7);
    }
    let supply = read(&devnet, TEST_DOLLAR, TestDollar::totalSupplyCall {}).await;
    assert_eq!(supply, U256::from(21_000));
    devnet.shutdown().await;
}
