//! `upto`: the buyer allows a maximum, the seller says at settle how much of it is charged. Each payment is made for real.

use std::time::Duration;

use alloy_primitives::Address;
use futures::future::join_all;
use serde_json::json;
use teller_devnet::contracts::PLAIN_TOKEN;
use teller_domain::UPTO_PROXY;
use teller_schemes::permit2::Proxy;

use crate::kill::demand_that_costs_equal_receipts;
use crate::receipts::signing;
use crate::support::{CHAIN, Chain};
use crate::ways::{
    approving_buyer, audited, facilitator, gas, permit, permit_body, receipt, refused, setup,
    signed, signed_permit_body, teller, tokens,
};

const PAYEE: Address = Address::repeat_byte(0x45);
const HOP: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn what_the_seller_charges_moves_once_and_never_more_than_was_allowed() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let facilitator = facilitator(&chain);
    let (_, supported) = teller.get("/supported").await;
    let kinds = supported["kinds"].as_array().unwrap();
    let upto: Vec<_> = kinds
        .iter()
        .filter(|kind| kind["scheme"] == "upto")
        .collect();
    assert_eq!(
        upto,
        [&json!({
            "x402Version": 2, "scheme": "upto", "network": CHAIN.to_string(),
            "extra": {"facilitatorAddress": facilitator.to_string()},
        })]
    );
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    tokio::time::sleep(HOP).await;
    let permit = permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Upto { facilitator });
    let signature = signed(&payer, permit.digest());
    let charge = |amount| permit_body(payer.address, &permit, &signature, amount);
    let (_, answer) = teller.post("/verify", &charge(10_000)).await;
    assert_eq!(answer["isValid"], true, "{answer}");
    assert_eq!(
        refused(&teller, &charge(9_999)).await,
        "permit2_amount_mismatch"
    );
    let (_, answer) = teller.post("/settle", &charge(10_001)).await;
    assert_eq!(
        answer["errorReason"],
        "invalid_upto_evm_payload_settlement_exceeds_amount"
    );
    let (_, answer) = teller.post("/settle", &charge(4_000)).await;
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(answer["amount"], "4000");
    println!("gas, upto: {}", gas(&chain, &answer["transaction"]).await);
    let mined = receipt(&chain, answer["transaction"].as_str().unwrap()).await;
    assert_eq!(mined["to"], json!(UPTO_PROXY));
    let sender: Address = mined["from"].as_str().unwrap().parse().unwrap();
    assert_eq!(sender, facilitator);
    // The rest of it is gone, whoever asks.
    for amount in [4_000, 6_000, 0] {
        let (_, again) = teller.post("/settle", &charge(amount)).await;
        assert_eq!(again["errorReason"], "duplicate_settlement", "{again}");
        assert_eq!(again["transaction"], answer["transaction"]);
        assert_eq!(again["amount"], "4000");
    }
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 4_000);
    let rows = teller.settlements().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["scheme"], &rows[0]["amount"]),
        (&json!("upto"), &json!("4000"))
    );
    demand_that_costs_equal_receipts(&chain, &rows).await;
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_charged_without_a_transaction_and_uses_the_permit_up() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (mut teller, _key) = signing(&chain, setup(&chain)).await;
    let facilitator = facilitator(&chain);
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    tokio::time::sleep(HOP).await;
    let permit = permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Upto { facilitator });
    let signature = signed(&payer, permit.digest());
    let charge = |amount| permit_body(payer.address, &permit, &signature, amount);
    let forged = signed(&chain.payer(0), permit.digest());
    let forged = permit_body(payer.address, &permit, &forged, 0);
    let (_, answer) = teller.post("/settle", &forged).await;
    assert_eq!(
        answer["errorReason"], "invalid_permit2_signature",
        "{answer}"
    );
    let nothing = charge(0);
    let answers = join_all((0..5).map(|_| teller.post("/settle", &nothing))).await;
    let (yes, no): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .map(|(_, answer)| answer)
        .partition(|answer| answer["success"] == true);
    assert_eq!((yes.len(), no.len()), (1, 4));
    assert_eq!(
        (&yes[0]["transaction"], &yes[0]["amount"]),
        (&json!(""), &json!("0"))
    );
    for answer in no {
        assert_eq!(answer["errorReason"], "duplicate_settlement", "{answer}");
    }
    teller.kill();
    teller.restart().await;
    let (_, answer) = teller.post("/settle", &charge(10_000)).await;
    assert_eq!(answer["errorReason"], "duplicate_settlement", "{answer}");
    assert_eq!(answer["amount"], "0");
    tokio::time::sleep(HOP).await;
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 0);
    let rows = teller.settlements().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["state"], &rows[0]["transaction"]),
        (&json!("settled"), &json!(""))
    );
    let id = rows[0]["id"].as_str().unwrap();
    let (status, answer) = teller.get(&format!("/settlements/{id}/receipt")).await;
    let no_transfer = "there is no receipt: nothing was charged, so that no transfer shows it";
    assert_eq!((status, &answer["error"]), (409, &json!(no_transfer)));
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_upto_gets_its_own_reason() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let facilitator = facilitator(&chain);
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 5_000).await;
    tokio::time::sleep(HOP).await;
    let upto =
        |facilitator, amount| permit(PLAIN_TOKEN, PAYEE, amount, Proxy::Upto { facilitator });
    let foreign = signed_permit_body(&payer, &upto(Address::repeat_byte(7), 1_000));
    assert_eq!(
        refused(&teller, &foreign).await,
        "upto_facilitator_mismatch"
    );
    let large = signed_permit_body(&payer, &upto(facilitator, 10_000));
    assert_eq!(refused(&teller, &large).await, "permit2_allowance_required");
    let good = signed_permit_body(&payer, &upto(facilitator, 1_000));
    for (pointer, value, reason) in [
        (
            "/paymentPayload/accepted/scheme",
            json!("exact"),
            "invalid_upto_evm_scheme",
        ),
        (
            "/paymentPayload/accepted/network",
            json!("eip155:1"),
            "invalid_upto_evm_network_mismatch",
        ),
        (
            "/paymentPayload/payload/permit2Authorization/witness/facilitator",
            json!(null),
            "unsupported_payload_type",
        ),
        (
            "/paymentPayload/payload/permit2Authorization/witness/facilitator",
            json!(Address::repeat_byte(7)),
            "upto_facilitator_mismatch",
        ),
    ] {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        assert_eq!(refused(&teller, &body).await, reason);
    }
    assert!(teller.settlements().await.is_empty());
}
