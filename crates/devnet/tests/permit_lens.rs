//! The payment lens on Permit2 permits: each gets its own state, and `upto` is simulated as its facilitator.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code
)]

mod support;

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolCall;
use serde_json::json;
use support::payments::{approving_payer, permit, signed};
use support::{send, start, wallet};
use teller_devnet::Devnet;
use teller_devnet::contracts::abi::PaymentLens;
use teller_devnet::contracts::abi::PaymentLens::{PermitItem, PermitState};
use teller_devnet::contracts::{Contract, MULTICALL3, PLAIN_TOKEN};
use teller_domain::{AssetAmount, Reason};
use teller_schemes::permit2::{
    EXACT_PROXY, Findings, PERMIT2, Permit, Proxy, UPTO_PROXY, classify_revert, diagnose,
    settle_call,
};

const GAS_PER_ITEM: u64 = 300_000;

/// What the lens says when it stands at `lens`.
async fn inspect(devnet: &Devnet, lens: Address, items: Vec<PermitItem>) -> Vec<PermitState> {
    let gas = 1_000_000 + items.len() as u64 * (GAS_PER_ITEM + 700_000);
    let data = PaymentLens::inspectPermitsCall {
        items,
        gasPerItem: U256::from(GAS_PER_ITEM),
    };
    let data = Bytes::from(data.abi_encode());
    let call = json!({ "to": lens, "data": data, "gas": format!("{gas:#x}") });
    let code = json!({ lens.to_string(): { "code": Contract::PaymentLens.runtime().unwrap() } });
    let answer = devnet.rpc("eth_call", json!([call, "latest", code])).await;
    let answer: Bytes = serde_json::from_value(answer.unwrap()).unwrap();
    PaymentLens::inspectPermitsCall::abi_decode_returns(&answer)
        .unwrap()
        .states
}

fn item(permit: &Permit, payer: Address, signature: &[u8]) -> PermitItem {
    PermitItem {
        proxy: permit.proxy.address(),
        token: permit.token,
        payer,
        payee: permit.to,
        nonce: permit.nonce,
        call: settle_call(permit, payer, permit.amount, signature),
    }
}

fn told(state: &PermitState, amount: u64) -> Reason {
    let findings = Findings {
        permit2: state.proxyReady.then_some(PERMIT2),
        balance: AssetAmount(state.balance),
        allowance: AssetAmount(state.allowance),
    };
    diagnose(&findings, AssetAmount::from(amount), &state.revertData)
}

#[tokio::test]
async fn each_permit_of_a_mixed_call_gets_its_own_state() {
    let devnet = start().await;
    let lens = Address::random();
    let caller = wallet(devnet.info().signers[0]).address();
    let (key, payer) = approving_payer(&devnet, PLAIN_TOKEN, 50_000).await;
    let make = |amount| {
        permit(
            PLAIN_TOKEN,
            Address::repeat_byte(0x77),
            amount,
            Proxy::Exact,
        )
    };
    let sign = |permit: &Permit| signed(key, permit.digest());
    let (good, poor, unapproved, used) = (make(10_000), make(1_000_001), make(50_001), make(1));
    let spent = settle_call(&used, payer, used.amount, &sign(&used));
    send(&devnet, caller, EXACT_PROXY, &spent, 300_000).await;
    // A payer whose code burns all gas when it is asked about a signature.
    let hostile = Address::random();
    let code = Contract::HostileWallet.runtime().unwrap();
    let params = json!([hostile, code]);
    devnet.rpc("anvil_setCode", params).await.unwrap();
    let elsewhere = PermitItem {
        proxy: Address::repeat_byte(9),
        ..item(&good, payer, &sign(&good))
    };
    let items = vec![
        item(&good, payer, &sign(&good)),
        item(&good, hostile, &sign(&good)),
        item(&poor, payer, &sign(&poor)),
        item(&unapproved, payer, &sign(&unapproved)),
        item(&used, payer, &sign(&used)),
        item(&good, payer, &[7; 65]),
        elsewhere,
        item(&good, payer, &sign(&good)),
    ];
    let states = inspect(&devnet, lens, items).await;
    let first = &states[0];
    assert!(first.simulated && first.proxyReady && first.balanceRead);
    assert_eq!((first.codeSize, first.nonce), (U256::ZERO, 0));
    assert_eq!(first.balance, U256::from(999_999));
    assert_eq!(first.payeeBalance, U256::from(1));
    assert_eq!(first.allowance, U256::from(49_999));
    assert!(!states[1].simulated && states[1].codeSize > U256::ZERO);
    for (index, amount, reason) in [
        (2, 1_000_001, Reason::Permit2InsufficientBalance),
        (3, 50_001, Reason::Permit2AllowanceRequired),
        (4, 1, Reason::Permit2InvalidNonce),
        (5, 10_000, Reason::Permit2SimulationFailed),
        (6, 10_000, Reason::Permit2ProxyNotDeployed),
    ] {
        assert!(!states[index].simulated, "{index}");
        assert_eq!(told(&states[index], amount), reason, "{index}");
    }
    assert_eq!(states[4].nonce, 1);
    assert_eq!(
        classify_revert(&states[5].revertData),
        Some(Reason::Permit2InvalidSignature)
    );
    assert_eq!(states[7], *first);
    devnet.shutdown().await;
}

#[tokio::test]
async fn upto_is_simulated_by_a_lens_at_the_facilitators_address_and_by_no_other() {
    let devnet = start().await;
    let facilitator = wallet(devnet.info().signers[0]).address();
    let (key, payer) = approving_payer(&devnet, PLAIN_TOKEN, 50_000).await;
    let proxy = Proxy::Upto { facilitator };
    let permit = permit(PLAIN_TOKEN, Address::random(), 10_000, proxy);
    let items = || vec![item(&permit, payer, &signed(key, permit.digest()))];
    let states = inspect(&devnet, facilitator, items()).await;
    assert!(states[0].simulated, "{:?}", states[0]);
    for other in [Address::random(), MULTICALL3] {
        let states = inspect(&devnet, other, items()).await;
        assert_eq!(
            classify_revert(&states[0].revertData),
            Some(Reason::UptoUnauthorizedFacilitator)
        );
    }
    // The override was for the call only.
    let code = devnet
        .rpc("eth_getCode", json!([facilitator, "latest"]))
        .await;
    assert_eq!(code.unwrap(), "0x");
    let data = settle_call(&permit, payer, permit.amount, &signed(key, permit.digest()));
    let receipt = send(&devnet, facilitator, UPTO_PROXY, &data, 300_000).await;
    assert_eq!(receipt["status"], "0x1");
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_hundred_permits_travel_in_one_call() {
    let devnet = start().await;
    let (key, payer) = approving_payer(&devnet, PLAIN_TOKEN, 50_000).await;
    let items = (0..100).map(|amount| {
        let permit = permit(PLAIN_TOKEN, Address::random(), amount + 1, Proxy::Exact);
        item(&permit, payer, &signed(key, permit.digest()))
    });
    let states = inspect(&devnet, Address::random(), items.collect()).await;
    assert!(states.iter().all(|state| state.simulated));
    devnet.shutdown().await;
}
