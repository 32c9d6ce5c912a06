//! Payers with code: deployed contract wallets (ERC-1271), delegated accounts (EIP-7702), wallets that are made by the
//! payment itself (ERC-6492). Each pays for real.

use std::time::Duration;

use alloy_primitives::{Address, B256, U256, hex};
use futures::future::join_all;
use serde_json::{Value, json};
use teller_devnet::contracts::{Contract, SMART_WALLET, TEST_DOLLAR, WALLET_FACTORY};
use teller_domain::SignatureForm;
use teller_schemes::erc6492::Wrapper;
use teller_schemes::multicall::MULTICALL3;
use teller_schemes::permit2::Proxy;
use teller_schemes::sign;

use crate::support::{Chain, Teller, body};
use crate::ways::{
    approve, audited, body_with, buyer, creation, deployed_wallet, gas, pays, permit, permit_body,
    receipt, refused, signed, teller, unsigned, wallet_of,
};

const PAYEE: Address = Address::repeat_byte(0x43);

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_wallet_pays_with_its_owners_signature_and_no_other() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let owner = chain.payer(0);
    let wallet = deployed_wallet(&chain, owner.address).await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    let (payment, digest) = unsigned(&chain, wallet, PAYEE, 10_000);
    let stranger = signed(&chain.payer(1), digest);
    for bad in [stranger, vec![7; 65], vec![1, 2, 3], vec![9; 300]] {
        let body = body_with(&chain, &payment, &bad);
        assert_eq!(refused(&teller, &body).await, "invalid_exact_evm_signature");
    }
    let (_, answer) = teller
        .post("/settle", &body_with(&chain, &payment, &[1; 90]))
        .await;
    assert_eq!(answer["errorReason"], "invalid_exact_evm_signature");
    assert!(teller.settlements().await.is_empty());

    let good = body_with(&chain, &payment, &signed(&owner, digest));
    let answer = pays(&teller, &good).await;
    assert_eq!(answer["payer"], json!(wallet.to_string()));
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    println!(
        "gas, ERC-1271: {}",
        gas(&chain, &answer["transaction"]).await
    );
    let mined = receipt(&chain, answer["transaction"].as_str().unwrap()).await;
    assert_eq!(mined["to"], json!(TEST_DOLLAR));
    // Said once, and the authorization is spent.
    let (_, again) = teller.post("/settle", &good).await;
    assert_eq!(again["errorReason"], "duplicate_settlement");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        refused(&teller, &good).await,
        "invalid_exact_evm_nonce_already_used"
    );
    let rows = teller.settlements().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["state"], "settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegated_account_pays_by_its_own_key() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let payer = chain.payer(0);
    let delegated = format!("0xef0100{}", hex::encode(SMART_WALLET));
    let set = json!([payer.address, delegated]);
    chain.devnet.rpc("anvil_setCode", set).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = pays(&teller, &body(&chain, &payer.pay(&chain, PAYEE, 10_000, 1))).await;
    println!(
        "gas, EIP-7702: {}",
        gas(&chain, &answer["transaction"]).await
    );
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    let forged = chain.payer(1).pay(&chain, PAYEE, 10_000, 2);
    let mut forged = body(&chain, &forged);
    forged["paymentPayload"]["payload"]["authorization"]["from"] = json!(payer.address);
    assert_eq!(
        refused(&teller, &forged).await,
        "invalid_exact_evm_signature"
    );
}

/// A wallet that takes no signature in the form of plain accounts.
async fn compact_wallet(chain: &Chain, owner: Address) -> Address {
    let wallet = buyer(chain, TEST_DOLLAR).await.address;
    let code = Contract::CompactWallet.runtime().unwrap();
    has_code(chain, wallet, json!(code), owner).await;
    wallet
}

async fn has_code(chain: &Chain, wallet: Address, code: Value, owner: Address) {
    let set = json!([wallet, code]);
    chain.devnet.rpc("anvil_setCode", set).await.unwrap();
    let owner = json!([wallet, B256::ZERO, owner.into_word()]);
    let set = chain.devnet.rpc("anvil_setStorageAt", owner);
    set.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_is_asked_about_the_very_bytes_that_came() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let owner = chain.payer(0);
    let wallet = compact_wallet(&chain, owner.address).await;
    let permitting = compact_wallet(&chain, owner.address).await;
    let delegated = buyer(&chain, TEST_DOLLAR).await.address;
    let delegation = format!("0xef0100{}", hex::encode(wallet));
    has_code(&chain, delegated, json!(delegation), owner.address).await;
    approve(&chain, permitting, TEST_DOLLAR, 50_000).await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    let mut paid = 0;
    let in_form = |digest, form| sign(digest, &owner.key.0).unwrap().in_form(form);
    for form in [SignatureForm::Compact, SignatureForm::Parity] {
        let mut bodies = Vec::new();
        for payer in [wallet, delegated] {
            let (payment, digest) = unsigned(&chain, payer, PAYEE, 10_000);
            let standard = body_with(&chain, &payment, &signed(&owner, digest));
            assert_eq!(
                refused(&teller, &standard).await,
                "invalid_exact_evm_signature"
            );
            let signature = in_form(digest, form);
            let body = body_with(&chain, &payment, &signature);
            bodies.push((body, signature));
        }
        let permit = permit(TEST_DOLLAR, PAYEE, 10_000, Proxy::Exact);
        let standard = signed(&owner, permit.digest());
        let standard = permit_body(permitting, &permit, &standard, 10_000);
        assert_eq!(
            refused(&teller, &standard).await,
            "invalid_permit2_signature"
        );
        let signature = in_form(permit.digest(), form);
        bodies.push((
            permit_body(permitting, &permit, &signature, 10_000),
            signature,
        ));
        for (body, signature) in bodies {
            let answer = pays(&teller, &body).await;
            paid += 10_000;
            assert_eq!(chain.balance(PAYEE).await, U256::from(paid));
            let sent = json!([answer["transaction"]]);
            let sent = chain.devnet.rpc("eth_getTransactionByHash", sent).await;
            let calldata = sent.unwrap()["input"].as_str().unwrap().to_owned();
            // As the last argument of the call: its length, and then its bytes.
            let argument = [
                &U256::from(signature.len()).to_be_bytes::<32>(),
                &signature[..],
            ];
            assert!(calldata.contains(&hex::encode(argument.concat())));
        }
    }
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_is_not_there_is_made_by_a_trusted_factory_and_pays_in_one_transaction() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let trusting = teller(&chain).await;
    let owner = chain.payer(0);
    let salt = B256::random();
    let wallet = wallet_of(&chain, owner.address, salt).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let wrapped = |digest: B256| Wrapper {
        factory: WALLET_FACTORY,
        factory_calldata: creation(owner.address, salt).into(),
        signature: signed(&owner, digest).into(),
    };
    let (payment, digest) = unsigned(&chain, wallet, PAYEE, 10_000);
    for (bad, reason) in [
        (
            Wrapper {
                factory: Address::repeat_byte(9),
                ..wrapped(digest)
            },
            "eip6492_factory_not_allowed",
        ),
        (
            Wrapper {
                factory_calldata: creation(owner.address, B256::ZERO).into(),
                ..wrapped(digest)
            },
            "invalid_exact_evm_transaction_simulation_failed",
        ),
        (
            Wrapper {
                signature: signed(&chain.payer(1), digest).into(),
                ..wrapped(digest)
            },
            "invalid_exact_evm_transaction_simulation_failed",
        ),
    ] {
        let body = body_with(&chain, &payment, &bad.to_bytes());
        assert_eq!(refused(&trusting, &body).await, reason);
    }
    // Without its factory's calldata the signature is nobody's.
    let bare = body_with(&chain, &payment, &signed(&owner, digest));
    assert_eq!(
        refused(&trusting, &bare).await,
        "invalid_exact_evm_signature"
    );

    for (round, target) in [("making it", MULTICALL3), ("already there", TEST_DOLLAR)] {
        let (payment, digest) = unsigned(&chain, wallet, PAYEE, 10_000);
        let body = body_with(&chain, &payment, &wrapped(digest).to_bytes());
        let answer = pays(&trusting, &body).await;
        let mined = receipt(&chain, answer["transaction"].as_str().unwrap()).await;
        assert_eq!(mined["to"], json!(target), "{round}");
        println!(
            "gas, ERC-6492, {round}: {}",
            gas(&chain, &answer["transaction"]).await
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(chain.balance(PAYEE).await, U256::from(20_000));
    let code = chain.devnet.rpc("eth_getCode", json!([wallet, "latest"]));
    assert!(code.await.unwrap().as_str().unwrap().len() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_no_factory_is_called() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let owner = chain.payer(0);
    let salt = B256::random();
    let wallet = wallet_of(&chain, owner.address, salt).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (payment, digest) = unsigned(&chain, wallet, PAYEE, 10_000);
    let wrapper = Wrapper {
        factory: WALLET_FACTORY,
        factory_calldata: creation(owner.address, salt).into(),
        signature: signed(&owner, digest).into(),
    };
    let body = body_with(&chain, &payment, &wrapper.to_bytes());
    assert_eq!(refused(&teller, &body).await, "eip6492_factory_not_allowed");
    let (_, answer) = teller.post("/settle", &body).await;
    assert_eq!(answer["errorReason"], "eip6492_factory_not_allowed");
    assert!(teller.settlements().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn payers_with_code_share_no_transaction_and_hurt_nobody() {
    let chain = Chain::start(Duration::from_secs(2)).await;
    let teller = teller(&chain).await;
    let owner = chain.payer(0);
    let wallet = deployed_wallet(&chain, owner.address).await;
    let hostile = buyer(&chain, TEST_DOLLAR).await;
    let code = Contract::HostileWallet.runtime().unwrap();
    let set = json!([hostile.address, code]);
    chain.devnet.rpc("anvil_setCode", set).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;

    // It burns all the gas it is given.
    let (payment, _) = unsigned(&chain, hostile.address, PAYEE, 10_000);
    let (status, answer) = teller
        .post("/settle", &body_with(&chain, &payment, &[5; 200]))
        .await;
    assert_eq!(
        (status, &answer["success"]),
        (200, &json!(false)),
        "{answer}"
    );
    assert_eq!(answer["transaction"], "", "{answer}");

    let mut bodies: Vec<_> = (1..=10)
        .map(|n| body(&chain, &chain.payer(n).pay(&chain, PAYEE, 1_000, 1)))
        .collect();
    for _ in 0..2 {
        let (payment, digest) = unsigned(&chain, wallet, PAYEE, 1_000);
        bodies.push(body_with(&chain, &payment, &signed(&owner, digest)));
    }
    let answers = join_all(bodies.iter().map(|body| teller.post("/settle", body))).await;
    let hash = |index: usize| answers[index].1["transaction"].as_str().unwrap();
    for (_, answer) in &answers {
        assert_eq!(answer["success"], true, "{answer}");
    }
    for alone in [10, 11] {
        let sharing = (0..answers.len()).filter(|other| hash(*other) == hash(alone));
        assert_eq!(sharing.count(), 1);
    }
    let shared: std::collections::HashSet<_> = (0..10).map(hash).collect();
    assert!(shared.len() < 10, "nothing was batched");
    assert_eq!(chain.balance(PAYEE).await, U256::from(12_000));
}
