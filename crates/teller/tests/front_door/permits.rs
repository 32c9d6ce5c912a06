//! `exact` by Permit2, with and without gas sponsoring by EIP-2612. Each payment is made for real.
//!
//! One long file, because it is one list of behaviours.

use std::collections::HashSet;
use std::time::Duration;

use alloy_primitives::{Address, U256, hex};
use alloy_sol_types::SolCall;
use futures::future::join_all;
use serde_json::{Value, json};
use teller_devnet::contracts::abi::Permit2;
use teller_devnet::contracts::{PERMIT_TOKEN, PERMIT_TOKEN_NAME, PERMIT_TOKEN_VERSION};
use teller_devnet::contracts::{PLAIN_TOKEN, TEST_DOLLAR};
use teller_domain::{Asset, AssetAmount, EXACT_PROXY, PERMIT2};
use teller_schemes::builder_code::{BuilderCodes, Code};
use teller_schemes::eip2612;
use teller_schemes::eip3009::Domain;
use teller_schemes::permit2::{Permit, Proxy, settle_call};

use crate::kill::demand_that_costs_equal_receipts;
use crate::support::{Buyer, CHAIN, Chain, Setup, Teller, body, now};
use crate::ways::{
    approve, approving_buyer, audited, buyer, deployed_wallet, gas, pays, permit, permit_body,
    receipt, refused, setup, signed, signed_permit_body, teller, tokens,
};

const PAYEE: Address = Address::repeat_byte(0x44);
const HOP: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn any_token_is_paid_with_and_said_so_once() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    for token in [PLAIN_TOKEN, TEST_DOLLAR] {
        let payer = approving_buyer(&chain, token, 50_000).await;
        tokio::time::sleep(HOP).await;
        let permit = permit(token, PAYEE, 10_000, Proxy::Exact);
        let good = signed_permit_body(&payer, &permit);
        let answer = pays(&teller, &good).await;
        println!(
            "gas, Permit2: {}",
            gas(&chain, &answer["transaction"]).await
        );
        assert_eq!(answer["amount"], Value::Null, "{answer}");
        assert_eq!(tokens(&chain, token, PAYEE).await, 10_000);
        assert_eq!(tokens(&chain, token, payer.address).await, 990_000);
        let mined = receipt(&chain, answer["transaction"].as_str().unwrap()).await;
        assert_eq!(mined["to"], json!(EXACT_PROXY));
        let (_, again) = teller.post("/settle", &good).await;
        assert_eq!(again["errorReason"], "duplicate_settlement");
        tokio::time::sleep(HOP).await;
        assert_eq!(refused(&teller, &good).await, "permit2_invalid_nonce");
    }
    let rows = teller.settlements().await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["state"] == "settled"));
    demand_that_costs_equal_receipts(&chain, &rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_single_fault_of_a_permit_gets_its_own_reason_from_verify_and_settle() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    let unapproved = buyer(&chain, PLAIN_TOKEN).await;
    tokio::time::sleep(HOP).await;
    let good = permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Exact);
    let by = |permit: Permit| signed_permit_body(&payer, &permit);
    let changed = |pointer: &str, value: Value| {
        let mut body = by(good);
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let signed_part = "/paymentPayload/payload/permit2Authorization";
    let at = |member: &str| format!("{signed_part}/{member}");
    let cases = [
        (
            "permit2_allowance_required",
            signed_permit_body(&unapproved, &good),
        ),
        (
            "permit2_insufficient_balance",
            by(Permit {
                amount: AssetAmount::from(1_000_001),
                ..good
            }),
        ),
        (
            "permit2_deadline_expired",
            by(Permit {
                deadline: U256::from(now() - 100),
                ..good
            }),
        ),
        (
            "permit2_not_yet_valid",
            by(Permit {
                valid_after: U256::from(now() + 500),
                ..good
            }),
        ),
        (
            "permit2_amount_mismatch",
            changed("/paymentRequirements/amount", json!("9999")),
        ),
        (
            "permit2_token_mismatch",
            changed("/paymentRequirements/asset", json!(TEST_DOLLAR)),
        ),
        (
            "asset_not_allowed",
            changed("/paymentRequirements/asset", json!(PAYEE)),
        ),
        (
            "invalid_permit2_recipient_mismatch",
            changed("/paymentRequirements/payTo", json!(TEST_DOLLAR)),
        ),
        (
            "invalid_permit2_spender",
            changed(&at("spender"), json!(PERMIT2)),
        ),
        (
            "invalid_permit2_signature",
            changed(&at("nonce"), json!("1")),
        ),
        (
            "invalid_permit2_signature",
            changed("/paymentPayload/payload/signature", json!("0x0102")),
        ),
        (
            "invalid_permit2_signature",
            changed(&at("from"), json!(unapproved.address)),
        ),
        (
            "invalid_exact_evm_network_mismatch",
            changed("/paymentPayload/accepted/network", json!("eip155:1")),
        ),
        (
            "unsupported_payload_type",
            changed("/paymentPayload/accepted/scheme", json!("upto")),
        ),
        (
            "unsupported_payload_type",
            changed(
                "/paymentRequirements/extra/assetTransferMethod",
                json!("eip3009"),
            ),
        ),
    ];
    for (reason, body) in cases {
        assert_eq!(refused(&teller, &body).await, reason);
        let (status, answer) = teller.post("/settle", &body).await;
        assert_eq!(
            (status, &answer["errorReason"]),
            (200, &json!(reason)),
            "{answer}"
        );
        assert_eq!(answer["transaction"], "");
    }
    assert!(teller.settlements().await.is_empty());
    // None of them has used anything up.
    pays(&teller, &by(good)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_carries_permits_and_transfers_and_one_that_reverts_hurts_no_other() {
    let chain = Chain::start(Duration::from_secs(2)).await;
    let teller = teller(&chain).await;
    let mut bodies = Vec::new();
    for n in 0..6 {
        let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
        let permit = permit(PLAIN_TOKEN, PAYEE, 1_000, Proxy::Exact);
        bodies.push(signed_permit_body(&payer, &permit));
        bodies.push(body(&chain, &chain.payer(n).pay(&chain, PAYEE, 1_000, 1)));
    }
    // Two of one payer that nothing but their nonces tells apart.
    let twin = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    for _ in 0..2 {
        let permit = permit(PLAIN_TOKEN, PAYEE, 1_000, Proxy::Exact);
        bodies.push(signed_permit_body(&twin, &permit));
    }
    let fickle = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    let dead = permit(PLAIN_TOKEN, PAYEE, 1_000, Proxy::Exact);
    bodies.push(signed_permit_body(&fickle, &dead));
    tokio::time::sleep(Duration::from_secs(4)).await;
    for body in &bodies {
        let (_, answer) = teller.post("/verify", body).await;
        assert_eq!(answer["isValid"], true, "{answer}");
    }
    approve(&chain, fickle.address, PLAIN_TOKEN, 0).await;
    let answers = join_all(bodies.iter().map(|body| teller.post("/settle", body))).await;
    let (last, good) = answers.split_last().unwrap();
    for (_, answer) in good {
        assert_eq!(answer["success"], true, "{answer}");
    }
    assert_eq!(last.1["success"], false, "{}", last.1);
    let hashes: HashSet<_> = good
        .iter()
        .map(|(_, a)| a["transaction"].to_string())
        .collect();
    assert!(hashes.len() < good.len() / 2, "hardly anything was batched");
    let twins: HashSet<_> = good[12..14]
        .iter()
        .map(|(_, a)| a["transaction"].to_string())
        .collect();
    assert_eq!(twins.len(), 2, "twins shared a transaction");
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 8_000);
    assert_eq!(chain.balance(PAYEE).await, U256::from(6_000));
    // Each settlement has a log of its own.
    let rows = teller.settlements().await;
    let logs: HashSet<_> = rows
        .iter()
        .filter(|row| row["state"] == "settled")
        .map(|row| {
            (
                row["receipt"]["transaction"].to_string(),
                row["receipt"]["logIndex"].to_string(),
            )
        })
        .collect();
    assert_eq!(logs.len(), 14);
    for (row, what) in [(&rows[1], "one"), (&rows[5], "another")] {
        println!("gas in a batch, {what}: {}", row["receipt"]["gasUsed"]);
    }
    demand_that_costs_equal_receipts(&chain, &rows).await;
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_settled_is_a_success_and_what_the_payer_threw_away_is_not() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    tokio::time::sleep(HOP).await;

    let paid = permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Exact);
    let body = signed_permit_body(&payer, &paid);
    let (_, answer) = teller.post("/verify", &body).await;
    assert_eq!(answer["isValid"], true, "{answer}");
    let call = settle_call(
        &paid,
        payer.address,
        paid.amount,
        &signed(&payer, paid.digest()),
    );
    let theirs = chain
        .call_as(Address::random(), EXACT_PROXY, call.to_vec())
        .await;
    receipt(&chain, &theirs).await;
    tokio::time::sleep(2 * HOP).await;
    let (_, answer) = teller.post("/settle", &body).await;
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(answer["transaction"], json!(theirs));

    let gone = permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Exact);
    let body = signed_permit_body(&payer, &gone);
    let (_, answer) = teller.post("/verify", &body).await;
    assert_eq!(answer["isValid"], true, "{answer}");
    let invalidate = Permit2::invalidateUnorderedNoncesCall {
        word: gone.nonce >> 8,
        mask: U256::from(1) << (gone.nonce & U256::from(0xff)),
    };
    let hash = chain
        .call_as(payer.address, PERMIT2, invalidate.abi_encode())
        .await;
    assert_eq!(receipt(&chain, &hash).await["status"], "0x1");
    tokio::time::sleep(2 * HOP).await;
    let (_, answer) = teller.post("/settle", &body).await;
    assert_eq!(answer["errorReason"], "permit2_invalid_nonce", "{answer}");
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_wallet_pays_by_permit2() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let owner = chain.payer(0);
    let wallet = deployed_wallet(&chain, owner.address).await;
    approve(&chain, wallet, TEST_DOLLAR, 50_000).await;
    tokio::time::sleep(HOP).await;
    let permit = permit(TEST_DOLLAR, PAYEE, 10_000, Proxy::Exact);
    let forged = signed(&chain.payer(1), permit.digest());
    let forged = permit_body(wallet, &permit, &forged, 10_000);
    assert_eq!(refused(&teller, &forged).await, "invalid_permit2_signature");
    let good = permit_body(wallet, &permit, &signed(&owner, permit.digest()), 10_000);
    let answer = pays(&teller, &good).await;
    println!(
        "gas, Permit2 by ERC-1271: {}",
        gas(&chain, &answer["transaction"]).await
    );
    assert_eq!(tokens(&chain, TEST_DOLLAR, PAYEE).await, 10_000);
}

/// An EIP-2612 permit for Permit2 over `value`, as the extension carries it.
pub fn sponsoring(payer: &Buyer, value: u64) -> Value {
    let asset = Asset {
        chain: CHAIN,
        address: PERMIT_TOKEN,
        name: PERMIT_TOKEN_NAME.to_owned(),
        version: PERMIT_TOKEN_VERSION.to_owned(),
        decimals: 6,
    };
    let allowance = eip2612::Permit {
        owner: payer.address,
        spender: PERMIT2,
        value: AssetAmount::from(value),
        nonce: U256::ZERO,
        deadline: U256::from(now() + 600),
    };
    let signature = signed(payer, allowance.digest(&Domain::new(&asset)));
    json!({
        "from": payer.address, "asset": PERMIT_TOKEN, "spender": PERMIT2, "amount": value.to_string(), "nonce": "0",
        "deadline": allowance.deadline.to_string(), "signature": hex::encode_prefixed(signature), "version": "1",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_without_gas_or_allowance_pays_by_a_permit_of_the_token() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let payer = buyer(&chain, PERMIT_TOKEN).await;
    tokio::time::sleep(HOP).await;
    let (_, supported) = teller.get("/supported").await;
    let extensions = supported["extensions"].as_array().unwrap();
    assert!(extensions.contains(&json!("eip2612GasSponsoring")));
    let permit = permit(PERMIT_TOKEN, PAYEE, 10_000, Proxy::Exact);
    let bare = signed_permit_body(&payer, &permit);
    assert_eq!(refused(&teller, &bare).await, "permit2_allowance_required");
    let with = |info: Value| {
        let mut body = bare.clone();
        body["paymentPayload"]["extensions"] = json!({"eip2612GasSponsoring": {"info": info}});
        body
    };
    let good = sponsoring(&payer, 10_000);
    let changed = |member: &str, value: Value| {
        let mut info = good.clone();
        info[member] = value;
        with(info)
    };
    for (reason, body) in [
        (
            "invalid_eip2612_extension_format",
            changed("amount", json!("0x10")),
        ),
        ("eip2612_from_mismatch", changed("from", json!(PAYEE))),
        (
            "eip2612_asset_mismatch",
            changed("asset", json!(PLAIN_TOKEN)),
        ),
        (
            "eip2612_spender_not_permit2",
            changed("spender", json!(PAYEE)),
        ),
        ("eip2612_deadline_expired", changed("deadline", json!("1"))),
        (
            "permit2_2612_amount_mismatch",
            with(sponsoring(&payer, 9_999)),
        ),
        ("eip2612_invalid_signature", changed("nonce", json!("1"))),
        // Half of it counts as nothing.
        ("permit2_allowance_required", changed("version", json!(""))),
    ] {
        assert_eq!(refused(&teller, &body).await, reason);
    }
    let answer = pays(&teller, &with(good.clone())).await;
    println!(
        "gas, Permit2 with EIP-2612: {}",
        gas(&chain, &answer["transaction"]).await
    );
    assert_eq!(tokens(&chain, PERMIT_TOKEN, PAYEE).await, 10_000);
    let ether = chain
        .devnet
        .rpc("eth_getBalance", json!([payer.address, "latest"]));
    assert_eq!(ether.await.unwrap(), "0x0");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_every_way_of_paying_is_settled_once() {
    let chain = Chain::start(Duration::from_secs(3)).await;
    let mut teller = teller(&chain).await;
    let owner = chain.payer(0);
    let wallet = deployed_wallet(&chain, owner.address).await;
    approve(&chain, wallet, TEST_DOLLAR, 50_000).await;
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    let sponsored = buyer(&chain, PERMIT_TOKEN).await;
    tokio::time::sleep(2 * HOP).await;
    let (payment, digest) = crate::ways::unsigned(&chain, wallet, PAYEE, 1_000);
    let by_wallet = permit(TEST_DOLLAR, PAYEE, 1_000, Proxy::Exact);
    let mut with = signed_permit_body(
        &sponsored,
        &permit(PERMIT_TOKEN, PAYEE, 1_000, Proxy::Exact),
    );
    with["paymentPayload"]["extensions"] =
        json!({"eip2612GasSponsoring": {"info": sponsoring(&sponsored, 1_000)}});
    let bodies = [
        crate::ways::body_with(&chain, &payment, &signed(&owner, digest)),
        permit_body(
            wallet,
            &by_wallet,
            &signed(&owner, by_wallet.digest()),
            1_000,
        ),
        signed_permit_body(&payer, &permit(PLAIN_TOKEN, PAYEE, 1_000, Proxy::Exact)),
        signed_permit_body(&payer, &permit(PLAIN_TOKEN, PAYEE, 1_001, Proxy::Exact)),
        with,
    ];
    let asking: Vec<_> = bodies
        .iter()
        .cloned()
        .map(|body| {
            let (http, url) = (teller.http.clone(), format!("{}/settle", teller.url));
            tokio::spawn(async move { http.post(url).json(&body).send().await.is_ok() })
        })
        .collect();
    // All are accepted, and some of them signed.
    while teller.settlements().await.len() < bodies.len() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    teller.kill();
    for task in asking {
        task.await.unwrap();
    }
    teller.restart().await;
    for body in &bodies {
        let answer = loop {
            let (_, answer) = teller.post("/settle", body).await;
            if answer["errorReason"] != "settlement_pending" {
                break answer;
            }
        };
        assert_eq!(answer["success"], true, "{answer}");
    }
    assert_eq!(chain.balance(PAYEE).await, U256::from(2_000));
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 2_001);
    assert_eq!(tokens(&chain, PERMIT_TOKEN, PAYEE).await, 1_000);
    let rows = teller.settlements().await;
    assert_eq!(rows.len(), bodies.len());
    demand_that_costs_equal_receipts(&chain, &rows).await;
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_buyer_attributes_stands_behind_the_calldata_alone_and_in_a_batch() {
    let chain = Chain::start(Duration::from_secs(2)).await;
    let teller = Teller::start(
        &chain,
        Setup {
            server: "builder_code = \"teller_test\"\n".to_owned(),
            ..setup(&chain)
        },
    )
    .await;
    let (_, supported) = teller.get("/supported").await;
    let extensions = supported["extensions"].as_array().unwrap();
    assert!(extensions.contains(&json!("builder-code")), "{supported}");
    let attributed = |mut body: Value| {
        let info = json!({"a": "bc_myapp", "s": ["bc_service", "NOT A CODE"]});
        body["paymentPayload"]["extensions"] = json!({"builder-code": {"info": info}});
        body
    };
    let calldata = async |transaction: &Value| {
        let sent = chain
            .devnet
            .rpc("eth_getTransactionByHash", json!([transaction]))
            .await
            .unwrap();
        hex::decode(sent["input"].as_str().unwrap()).unwrap()
    };
    let expected = BuilderCodes {
        app: Code::new("bc_myapp"),
        wallet: Code::new("teller_test"),
        services: Code::new("bc_service").into_iter().collect(),
    };
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    tokio::time::sleep(2 * HOP).await;
    let by_permit = signed_permit_body(&payer, &permit(PLAIN_TOKEN, PAYEE, 1_000, Proxy::Exact));
    for body in [
        by_permit,
        body(&chain, &chain.payer(0).pay(&chain, PAYEE, 1_000, 1)),
    ] {
        let answer = pays(&teller, &attributed(body)).await;
        let input = calldata(&answer["transaction"]).await;
        let (codes, _) = BuilderCodes::read(&input).unwrap();
        assert_eq!(codes, expected);
    }
    let bare = body(&chain, &chain.payer(1).pay(&chain, PAYEE, 1_000, 1));
    let answer = pays(&teller, &bare).await;
    let input = calldata(&answer["transaction"]).await;
    assert_eq!(BuilderCodes::read(&input), None);
    let many: Vec<_> = (2..12)
        .map(|n| attributed(body(&chain, &chain.payer(n).pay(&chain, PAYEE, 1_000, 1))))
        .collect();
    let answers = join_all(many.iter().map(|body| teller.post("/settle", body))).await;
    for (_, answer) in &answers {
        assert_eq!(answer["success"], true, "{answer}");
    }
    let hashes: HashSet<_> = answers
        .iter()
        .map(|(_, answer)| answer["transaction"].to_string())
        .collect();
    assert!(hashes.len() < 10, "nothing was batched");
    audited(&chain, &teller);
}
