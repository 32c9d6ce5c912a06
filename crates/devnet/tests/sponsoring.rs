//! Payers without gas: EIP-2612 permits through the proxies, signed approvals sent for them; and builder codes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code
)]

mod support;

use alloy_consensus::transaction::RlpEcdsaEncodableTx;
use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Signature, TxKind, U256};
use alloy_sol_types::SolCall;
use serde_json::json;
use support::payments::{
    CHAIN, Logs, approving_payer, permit, refusal, refusal_reason, signed, tokens,
};
use support::{mined, quantity, read, send, start, wallet};
use teller_devnet::contracts::abi::Token;
use teller_devnet::contracts::{
    PERMIT_TOKEN, PERMIT_TOKEN_NAME, PERMIT_TOKEN_VERSION, PLAIN_TOKEN, TEST_DOLLAR,
};
use teller_devnet::{Devnet, fund_token};
use teller_domain::{Asset, AssetAmount, Reason, UnixSeconds, Wei, known_assets};
use teller_schemes::builder_code::{BuilderCodes, Code};
use teller_schemes::eip3009::Domain;
use teller_schemes::erc20_approval::{self, Approval};
use teller_schemes::permit2::{
    EXACT_PROXY, PERMIT2, Proxy, UPTO_PROXY, settle_call, settle_with_permit_call, settlements,
};
use teller_schemes::{eip2612, normalize, sign};

fn signer(devnet: &Devnet) -> Address {
    wallet(devnet.info().signers[0]).address()
}

/// The tokens with EIP-2612.
fn assets() -> [Asset; 2] {
    let permit_token = Asset {
        chain: CHAIN,
        address: PERMIT_TOKEN,
        name: PERMIT_TOKEN_NAME.to_owned(),
        version: PERMIT_TOKEN_VERSION.to_owned(),
        decimals: 6,
    };
    [known_assets(CHAIN).next().unwrap(), permit_token]
}

async fn payer(devnet: &Devnet, token: Address) -> (B256, Address) {
    let key = B256::random();
    let payer = wallet(key).address();
    fund_token(devnet.rpc_url(), token, &[payer], U256::from(1_000_000))
        .await
        .unwrap();
    (key, payer)
}

fn allowance(key: B256, owner: Address, asset: &Asset, value: u64) -> eip2612::SignedPermit {
    let permit = eip2612::Permit {
        owner,
        spender: PERMIT2,
        value: AssetAmount::from(value),
        nonce: U256::ZERO,
        deadline: U256::MAX,
    };
    let signature = sign(permit.digest(&Domain::new(asset)), &key.0).unwrap();
    eip2612::SignedPermit { permit, signature }
}

#[tokio::test]
async fn a_permit_pays_without_an_approval_in_both_schemes() {
    let devnet = start().await;
    let facilitator = signer(&devnet);
    for asset in assets() {
        let token = asset.address;
        let separator = read(&devnet, token, Token::DOMAIN_SEPARATORCall {}).await;
        assert_eq!(separator, Domain::new(&asset).separator());
        for (proxy, target, settled) in [
            (Proxy::Exact, EXACT_PROXY, 10_000),
            (Proxy::Upto { facilitator }, UPTO_PROXY, 6_000),
        ] {
            let (key, payer) = payer(&devnet, token).await;
            let payee = Address::random();
            let permit = permit(token, payee, 10_000, proxy);
            let allowance = allowance(key, payer, &asset, 10_000);
            let sponsored = eip2612::Sponsored {
                payer,
                asset: token,
                permitted: permit.amount,
            };
            let now = UnixSeconds(support::payments::now());
            let checked =
                eip2612::check(&allowance, token, &sponsored, &Domain::new(&asset), now, 6);
            assert_eq!(checked, Ok(()));
            let amount = AssetAmount::from(settled);
            let signature = signed(key, permit.digest());
            let data = settle_with_permit_call(&permit, payer, amount, &signature, &allowance);
            let receipt = send(&devnet, facilitator, target, &data, 400_000).await;
            assert_eq!(receipt["status"], "0x1");
            println!(
                "gas alone, {target} with permit, {}: {}",
                asset.name,
                quantity(&receipt["gasUsed"])
            );
            let found = settlements(Logs::of(&receipt).iter());
            assert!(found[0].pays(&permit, payer, amount).is_some());
            assert_eq!(tokens(&devnet, token, payee).await, settled);
        }
    }
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_permit_that_somebody_submitted_first_still_pays() {
    let devnet = start().await;
    let [dollar, _] = assets();
    let (key, payer) = payer(&devnet, TEST_DOLLAR).await;
    let allowance = allowance(key, payer, &dollar, 10_000);
    let permit = permit(TEST_DOLLAR, Address::random(), 10_000, Proxy::Exact);
    let signature = signed(key, permit.digest());
    let data = settle_with_permit_call(&permit, payer, permit.amount, &signature, &allowance);
    alloy_sol_types::sol! {
        function permit(address owner, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;
    }
    let first = permitCall {
        owner: payer,
        spender: PERMIT2,
        value: U256::from(10_000),
        deadline: U256::MAX,
        v: allowance.signature.v,
        r: allowance.signature.r,
        s: allowance.signature.s,
    };
    let stranger = wallet(devnet.info().signers[0]).address();
    let receipt = send(&devnet, stranger, TEST_DOLLAR, &first.abi_encode(), 200_000).await;
    assert_eq!(receipt["status"], "0x1");
    let receipt = send(&devnet, stranger, EXACT_PROXY, &data, 400_000).await;
    assert_eq!(receipt["status"], "0x1");
    let found = settlements(Logs::of(&receipt).iter());
    assert!(found[0].pays(&permit, payer, permit.amount).is_some());
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_permit_for_another_amount_or_by_another_key_does_not_pay() {
    let devnet = start().await;
    let [dollar, _] = assets();
    let (key, payer) = payer(&devnet, TEST_DOLLAR).await;
    let caller = signer(&devnet);
    let permit = permit(TEST_DOLLAR, Address::random(), 10_000, Proxy::Exact);
    let signature = signed(key, permit.digest());
    let call =
        |allowance| settle_with_permit_call(&permit, payer, permit.amount, &signature, &allowance);
    let more = call(allowance(key, payer, &dollar, 10_001));
    assert_eq!(
        refusal_reason(&devnet, caller, EXACT_PROXY, &more).await,
        Some(Reason::Permit2612AmountMismatch)
    );
    let forged = call(allowance(B256::random(), payer, &dollar, 10_000));
    let words = refusal(&devnet, caller, EXACT_PROXY, &forged).await;
    assert!(words.contains("TRANSFER_FROM_FAILED"), "{words}");
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_signed_approval_is_read_topped_up_sent_and_then_pays() {
    let devnet = start().await;
    let (key, payer) = payer(&devnet, PLAIN_TOKEN).await;
    let transaction = TxEip1559 {
        chain_id: CHAIN.0,
        nonce: 0,
        gas_limit: 70_000,
        max_fee_per_gas: 2_000_000_000,
        max_priority_fee_per_gas: 1_000_000,
        to: TxKind::Call(PLAIN_TOKEN),
        value: U256::ZERO,
        access_list: Default::default(),
        input: Token::approveCall {
            spender: PERMIT2,
            amount: U256::MAX,
        }
        .abi_encode()
        .into(),
    };
    let by_payer = sign(transaction.signature_hash(), &key.0).unwrap();
    let by_payer = Signature::new(by_payer.r.into(), by_payer.s.into(), by_payer.v == 28);
    let mut raw = Vec::new();
    transaction.eip2718_encode(&by_payer, &mut raw);

    let approval = Approval::decode(&raw, PLAIN_TOKEN).unwrap();
    let sponsored = erc20_approval::Sponsored {
        chain: CHAIN,
        payer,
        permitted: AssetAmount::from(10_000),
    };
    assert_eq!(approval.check(&sponsored), Ok(()));
    assert_eq!(approval.check_now(0, 1_000_000_000), Ok(()));
    let lacking = approval.lacking(Wei::ZERO, Wei::ZERO);
    devnet
        .rpc("anvil_setBalance", json!([payer, lacking.0]))
        .await
        .unwrap();
    let hash = devnet
        .rpc("eth_sendRawTransaction", json!([approval.raw()]))
        .await
        .unwrap();
    assert_eq!(hash, json!(approval.hash));
    mined(&devnet, &hash).await;

    let permit = permit(PLAIN_TOKEN, Address::random(), 10_000, Proxy::Exact);
    let data = settle_call(&permit, payer, permit.amount, &signed(key, permit.digest()));
    let receipt = send(&devnet, signer(&devnet), EXACT_PROXY, &data, 300_000).await;
    let found = settlements(Logs::of(&receipt).iter());
    assert!(found[0].pays(&permit, payer, permit.amount).is_some());
    devnet.shutdown().await;
}

#[tokio::test]
async fn builder_codes_behind_the_calldata_change_nothing_about_the_payment() {
    let devnet = start().await;
    let (key, payer) = approving_payer(&devnet, PLAIN_TOKEN, 50_000).await;
    let permit = permit(PLAIN_TOKEN, Address::random(), 10_000, Proxy::Exact);
    let signature = normalize(&signed(key, permit.digest())).unwrap().to_bytes();
    let call = settle_call(&permit, payer, permit.amount, &signature);
    let codes = BuilderCodes {
        app: Code::new("bc_myapp"),
        wallet: Code::new("teller"),
        services: Vec::new(),
    };
    let data = [&call[..], &codes.suffix()].concat();
    let receipt = send(&devnet, signer(&devnet), EXACT_PROXY, &data, 300_000).await;
    let found = settlements(Logs::of(&receipt).iter());
    assert!(found[0].pays(&permit, payer, permit.amount).is_some());
    let transaction = devnet
        .rpc(
            "eth_getTransactionByHash",
            json!([receipt["transactionHash"]]),
        )
        .await
        .unwrap();
    let input: alloy_primitives::Bytes =
        serde_json::from_value(transaction["input"].clone()).unwrap();
    let (read, length) = BuilderCodes::read(&input).unwrap();
    assert_eq!((read, length), (codes, data.len() - call.len()));
    devnet.shutdown().await;
}
