//! The payment lens: each item gets its own state, whatever its neighbours are or do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code
)]

mod support;

use alloy_primitives::{Address, B256, Bytes, U256, address};
use alloy_sol_types::SolCall;
use serde_json::json;
use support::{authorization, balance, read, send, settle_call, sign, start, wallet};
use teller_devnet::contracts::abi::PaymentLens::{Item, RedemptionItem, State};
use teller_devnet::contracts::abi::{
    Multicall3, PaymentLens, TestDollar, TransferWithAuthorization,
};
use teller_devnet::contracts::{Contract, MULTICALL3, TEST_DOLLAR};
use teller_devnet::{Devnet, DevnetError};

/// Where the override puts the lens; nothing is there.
const LENS: Address = address!("0x1e45000000000000000000000000000000001e45");
const GAS_PER_ITEM: u64 = 200_000;

async fn lens_call(devnet: &Devnet, data: Vec<u8>, gas: u64) -> Result<Bytes, DevnetError> {
    let call = json!({ "to": LENS, "data": Bytes::from(data), "gas": format!("{gas:#x}") });
    let code = json!({ LENS.to_string(): { "code": Contract::PaymentLens.runtime().unwrap() } });
    let answer = devnet
        .rpc("eth_call", json!([call, "latest", code]))
        .await?;
    Ok(serde_json::from_value(answer).unwrap())
}

async fn inspect(devnet: &Devnet, items: Vec<Item>) -> Vec<State> {
    let gas = 1_000_000 + items.len() as u64 * (GAS_PER_ITEM + 500_000);
    let call = PaymentLens::inspectCall {
        items,
        gasPerItem: U256::from(GAS_PER_ITEM),
    };
    let answer = lens_call(devnet, call.abi_encode(), gas).await.unwrap();
    let answer = PaymentLens::inspectCall::abi_decode_returns(&answer).unwrap();
    assert!(answer.blockNumber > U256::ZERO && answer.blockTimestamp > U256::ZERO);
    answer.states
}

fn item(a: &TransferWithAuthorization, signature: &[u8]) -> Item {
    Item {
        token: TEST_DOLLAR,
        payer: a.from,
        payee: a.to,
        nonce: a.nonce,
        call: settle_call(a, signature),
    }
}

fn signed_item(key: B256, value: u64) -> Item {
    let a = authorization(wallet(key).address(), Address::repeat_byte(0x77), value);
    item(&a, &sign(key, &a))
}

/// Puts the hostile wallet's code at a fresh account.
async fn hostile(devnet: &Devnet, mode: u64) -> Address {
    let account = Address::random();
    let code = Contract::HostileWallet.runtime().unwrap();
    devnet
        .rpc("anvil_setCode", json!([account, code]))
        .await
        .unwrap();
    let mode = B256::from(U256::from(mode));
    devnet
        .rpc("anvil_setStorageAt", json!([account, B256::ZERO, mode]))
        .await
        .unwrap();
    account
}

/// Code that, whatever is called, does what a token must not.
async fn bad_token(devnet: &Devnet, code: &str) -> Address {
    let account = Address::random();
    devnet
        .rpc("anvil_setCode", json!([account, code]))
        .await
        .unwrap();
    account
}

fn reason(state: &State) -> String {
    String::from_utf8_lossy(&state.revertData).into_owned()
}

#[tokio::test]
async fn each_item_of_a_mixed_call_gets_its_own_state() {
    let devnet = start().await;
    let keys = devnet.info().payers.clone();
    let rich = balance(&devnet, wallet(keys[0]).address()).await;
    let used = authorization(wallet(keys[1]).address(), Address::repeat_byte(0x77), 500);
    let used_item = item(&used, &sign(keys[1], &used));
    let signer = wallet(devnet.info().signers[0]).address();
    send(&devnet, signer, TEST_DOLLAR, &used_item.call, 300_000).await;
    let broke_key = B256::repeat_byte(5);
    let burner = hostile(&devnet, 0).await;
    let bomber = hostile(&devnet, 1).await;
    let revert_bomber = hostile(&devnet, 2).await;
    let accepting = hostile(&devnet, 3).await;
    let hostile_item = |from| {
        item(
            &authorization(from, Address::repeat_byte(0x77), 1),
            &[1; 65],
        )
    };
    let mut no_code = signed_item(keys[2], 1);
    no_code.token = Address::repeat_byte(0x99);
    // INVALID; RETURN(0, 64 KiB); a loop without end; REVERT(0, 64 KiB).
    let mut tokens = Vec::new();
    for code in ["0xfe", "0x620100005ff3", "0x5b5f56", "0x620100005ffd"] {
        let mut bad = signed_item(keys[2], 1);
        bad.token = bad_token(&devnet, code).await;
        tokens.push(bad);
    }
    let mut skipped = signed_item(keys[3], 1);
    skipped.call = Bytes::new();
    let good = signed_item(keys[0], rich);
    let mut items = vec![
        good.clone(),
        signed_item(broke_key, 1),
        used_item,
        no_code,
        hostile_item(burner),
        hostile_item(bomber),
        hostile_item(revert_bomber),
        hostile_item(accepting),
        skipped,
    ];
    items.extend(tokens);
    items.push(good);
    let states = inspect(&devnet, items).await;

    let first = &states[0];
    assert!(first.simulated && first.balanceRead && first.codeSize.is_zero());
    assert_eq!(first.balance, U256::from(rich));
    assert_eq!(first.payeeBalance, U256::from(500));
    assert_eq!((first.authorization, first.revertData.len()), (0, 0));
    println!("simulated gas of a good payment: {}", first.gasUsed);

    assert!(!states[1].simulated && states[1].balance.is_zero() && states[1].balanceRead);
    assert!(reason(&states[1]).contains("ERC20: transfer amount exceeds balance"));
    assert!(!states[2].simulated && states[2].authorization == 1);
    assert!(reason(&states[2]).contains("authorization is used or canceled"));
    assert!(!states[3].balanceRead && !states[3].simulated && states[3].authorization == 2);
    for state in &states[4..7] {
        assert!(!state.simulated && !state.codeSize.is_zero() && state.balanceRead);
        assert_eq!(state.authorization, 0);
    }
    // This one says yes, and has no money.
    assert!(reason(&states[7]).contains("ERC20: transfer amount exceeds balance"));
    assert!(!states[8].simulated && states[8].gasUsed.is_zero() && states[8].balanceRead);
    for (index, state) in states[9..13].iter().enumerate() {
        // The return bomb answers with a first word, which is all that is looked at.
        let answers = index == 1;
        assert_eq!(state.balanceRead, answers, "bad token {index}");
        assert_eq!(state.simulated, answers, "bad token {index}");
        assert_eq!(state.authorization, if answers { 0 } else { 2 });
        assert!(state.revertData.len() <= 256);
    }
    // The last is like the first in all, gas included: it saw neither its twin's payment nor its warmth.
    assert_eq!(&states[13], first);
    devnet.shutdown().await;
}

#[tokio::test]
async fn two_payments_of_one_payers_last_dollar_both_simulate() {
    let devnet = start().await;
    let key = devnet.info().payers[0];
    let all = balance(&devnet, wallet(key).address()).await;
    let states = inspect(&devnet, vec![signed_item(key, all), signed_item(key, all)]).await;
    assert!(states.iter().all(|state| state.simulated));
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_lens_call_without_enough_gas_fails_instead_of_calling_payments_bad() {
    let devnet = start().await;
    let key = devnet.info().payers[0];
    let items: Vec<_> = (0..20).map(|_| signed_item(key, 1)).collect();
    let call = PaymentLens::inspectCall {
        items,
        gasPerItem: U256::from(GAS_PER_ITEM),
    };
    let data = call.abi_encode();
    for gas in [300_000, 600_000, 900_000, 1_200_000] {
        assert!(
            lens_call(&devnet, data.clone(), gas).await.is_err(),
            "{gas}"
        );
    }
    lens_call(&devnet, data, 20_000_000).await.unwrap();
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_payer_who_turned_into_a_contract_is_seen_and_would_starve_a_shared_batch() {
    let devnet = start().await;
    let burner = hostile(&devnet, 0).await;
    let key = devnet.info().payers[0];
    let payer = wallet(key).address();
    let turned = signed_item(key, 1);
    // EIP-7702: the account's code is a pointer to its delegate's.
    let delegation = [&[0xef, 0x01, 0x00], burner.as_slice()].concat();
    devnet
        .rpc("anvil_setCode", json!([payer, Bytes::from(delegation)]))
        .await
        .unwrap();
    let good = signed_item(devnet.info().payers[1], 1);
    let states = inspect(&devnet, vec![turned.clone(), good.clone()]).await;
    assert!(!states[0].simulated && states[0].codeSize == U256::from(23));
    assert!(states[1].simulated && states[1].codeSize.is_zero());

    let neighbours = (0..10).map(|_| signed_item(devnet.info().payers[1], 1));
    let items: Vec<_> = std::iter::once(turned).chain(neighbours).collect();
    let last = items.last().unwrap().clone();
    let calls = items.into_iter().map(|item| Multicall3::Call3 {
        target: TEST_DOLLAR,
        allowFailure: true,
        callData: item.call,
    });
    let calls = calls.collect();
    let data = Multicall3::aggregate3Call { calls }.abi_encode();
    let signer = wallet(devnet.info().signers[0]).address();
    // Enough for every neighbour, had the first item been honest.
    let receipt = send(&devnet, signer, MULTICALL3, &data, 1_000_000).await;
    println!("status {}, gas {}", receipt["status"], receipt["gasUsed"]);
    let used = TestDollar::authorizationStateCall {
        authorizer: last.payer,
        nonce: last.nonce,
    };
    assert!(!read(&devnet, TEST_DOLLAR, used).await);
    devnet.shutdown().await;
}

/// The call is whatever moves money: the lens looks at balances and believes no word.
#[tokio::test]
async fn a_redemption_is_told_by_the_balances_behind_it_whatever_its_manager_does() {
    let devnet = start().await;
    let key = devnet.info().payers[0];
    let moving = signed_item(key, 700);
    let good = RedemptionItem {
        manager: TEST_DOLLAR,
        token: TEST_DOLLAR,
        payer: moving.payer,
        payee: moving.payee,
        call: moving.call,
    };
    let mut items = vec![good.clone()];
    // STOP; INVALID; RETURN(0, 64 KiB); a loop without end; REVERT(0, 64 KiB).
    for code in [
        "0x00",
        "0xfe",
        "0x620100005ff3",
        "0x5b5f56",
        "0x620100005ffd",
    ] {
        items.push(RedemptionItem {
            manager: bad_token(&devnet, code).await,
            ..good.clone()
        });
    }
    items.push(RedemptionItem {
        manager: Address::repeat_byte(0x99),
        ..good.clone()
    });
    items.push(RedemptionItem {
        call: Bytes::new(),
        ..good.clone()
    });
    items.push(good);
    let call = PaymentLens::inspectRedemptionsCall {
        items,
        gasPerItem: U256::from(GAS_PER_ITEM),
    };
    let data = call.abi_encode();
    let answer = lens_call(&devnet, data.clone(), 20_000_000).await.unwrap();
    let answer = PaymentLens::inspectRedemptionsCall::abi_decode_returns(&answer).unwrap();
    let states = answer.states;
    let (first, last) = (&states[0], &states[8]);
    assert_eq!(first, last, "neither saw the other's transfer");
    assert!(first.simulated && first.balanceRead);
    let amount = U256::from(700);
    assert_eq!(first.balanceAfter + amount, first.balance);
    assert_eq!(first.payeeBalance + amount, first.payeeBalanceAfter);
    for (index, simulated) in [
        (1, true),
        (2, false),
        (3, true),
        (4, false),
        (5, false),
        (6, false),
    ] {
        let state = &states[index];
        assert_eq!(state.simulated, simulated, "{index}");
        let (before, after) = (state.balance, state.balanceAfter);
        assert_eq!(
            (before, state.payeeBalance),
            (after, state.payeeBalanceAfter),
            "{index}"
        );
        assert!(state.revertData.len() <= 256, "{index}");
    }
    assert!(!states[7].simulated && states[7].gasUsed.is_zero());
    for gas in [300_000, 600_000, 900_000, 1_200_000] {
        assert!(
            lens_call(&devnet, data.clone(), gas).await.is_err(),
            "{gas}"
        );
    }
    devnet.shutdown().await;
}

#[tokio::test]
async fn three_hundred_items_travel_in_one_call() {
    let devnet = start().await;
    let key = devnet.info().payers[0];
    let items: Vec<_> = (0..300).map(|i| signed_item(key, i)).collect();
    let began = std::time::Instant::now();
    let states = inspect(&devnet, items).await;
    println!("300 items in {:?}", began.elapsed());
    assert!(
        states
            .iter()
            .all(|state| state.simulated && state.balanceRead)
    );
    devnet.shutdown().await;
}

#[tokio::test]
async fn code_sizes_are_those_of_the_accounts() {
    let devnet = start().await;
    let burner = hostile(&devnet, 0).await;
    let call = PaymentLens::codeSizesCall {
        accounts: vec![
            wallet(devnet.info().payers[0]).address(),
            burner,
            TEST_DOLLAR,
        ],
    };
    let answer = lens_call(&devnet, call.abi_encode(), 1_000_000)
        .await
        .unwrap();
    let sizes = PaymentLens::codeSizesCall::abi_decode_returns(&answer)
        .unwrap()
        .sizes;
    assert!(sizes[0].is_zero() && !sizes[1].is_zero() && !sizes[2].is_zero());
    devnet.shutdown().await;
}
