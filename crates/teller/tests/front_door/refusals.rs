//! What bad input and broken worlds get: a JSON answer that says what is wrong.

use std::time::Duration;

use alloy_primitives::{Address, U256, hex};
use serde_json::{Value, json};

use crate::support::proxy::{Next, NodeProxy};
use crate::support::{Buyer, CHAIN, Chain, Teller, body, now};

const PAYEE: Address = Address::repeat_byte(0x42);

#[tokio::test(flavor = "multi_thread")]
async fn each_single_fault_gets_its_own_reason_from_verify_and_settle() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let buyer = chain.payer(0);
    let good = buyer.pay(&chain, PAYEE, 10_000, 1);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut request = body(&chain, &good);
        change(&mut request);
        request
    };
    let broke = Buyer::new(alloy_primitives::keccak256("a payer without a coin"));
    let cases = [
        (
            "value",
            with(&|r| r["paymentRequirements"]["amount"] = json!("10001")),
            "invalid_exact_evm_payload_authorization_value_mismatch",
        ),
        (
            "recipient",
            with(&|r| r["paymentRequirements"]["payTo"] = json!(Address::repeat_byte(1))),
            "invalid_exact_evm_recipient_mismatch",
        ),
        (
            "asset",
            with(&|r| r["paymentRequirements"]["asset"] = json!(Address::repeat_byte(1))),
            "asset_not_allowed",
        ),
        (
            "network",
            with(&|r| {
                r["paymentRequirements"]["network"] = json!("eip155:1");
                r["paymentPayload"]["accepted"]["network"] = json!("eip155:1");
            }),
            "invalid_network",
        ),
        (
            "name",
            with(&|r| r["paymentRequirements"]["extra"]["name"] = json!("USD Coin")),
            "invalid_exact_evm_token_name_mismatch",
        ),
        (
            "signer",
            with(&|r| {
                r["paymentPayload"]["payload"]["authorization"]["from"] =
                    json!(Address::repeat_byte(9));
            }),
            "invalid_exact_evm_signature",
        ),
        (
            "expired",
            body(
                &chain,
                &buyer.pay_until(&chain, PAYEE, 10_000, 2, U256::from(now() + 2)),
            ),
            "invalid_exact_evm_payload_authorization_valid_before",
        ),
        (
            "broke",
            body(&chain, &broke.pay(&chain, PAYEE, 10_000, 3)),
            "invalid_exact_evm_insufficient_balance",
        ),
        (
            "version",
            with(&|r| r["x402Version"] = json!(1)),
            "invalid_x402_version",
        ),
    ];
    for (fault, request, reason) in cases {
        let (status, answer) = teller.post("/verify", &request).await;
        assert_eq!(
            (status, &answer["invalidReason"]),
            (200, &json!(reason)),
            "{fault}: {answer}"
        );
        assert!(answer["payer"].is_string());
        let (status, answer) = teller.post("/settle", &request).await;
        assert_eq!(
            (status, &answer["errorReason"]),
            (200, &json!(reason)),
            "{fault}: {answer}"
        );
        assert_eq!(answer["transaction"], "");
    }
    assert!(teller.settlements().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_whose_code_accepts_nothing_is_refused() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let buyer = chain.payer(0);
    let delegated = format!("0xef0100{}", hex::encode(chain.asset.address));
    chain
        .devnet
        .rpc("anvil_setCode", json!([buyer.address, delegated]))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (_, answer) = teller
        .post(
            "/verify",
            &body(&chain, &buyer.pay(&chain, PAYEE, 10_000, 1)),
        )
        .await;
    assert_eq!(
        answer["invalidReason"], "invalid_exact_evm_signature",
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_get_a_json_answer_and_never_a_5xx() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let good = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1)).to_string();
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let twice = good.replacen(
        "\"x402Version\":2",
        "\"x402Version\":2,\"x402Version\":2",
        1,
    );
    let huge = format!("{{\"x\":\"{}\"}}", "a".repeat(70_000));
    let cases: [(&str, &str, u16); 8] = [
        ("empty", "", 400),
        ("no JSON", "<html>", 400),
        ("null", "null", 400),
        ("array", "[]", 400),
        ("no members", "{}", 400),
        ("deep", &deep, 400),
        ("duplicate keys", &twice, 400),
        ("huge", &huge, 413),
    ];
    for (name, text, expected) in cases {
        for path in ["/verify", "/settle"] {
            let request = teller
                .http
                .post(format!("{}{path}", teller.url))
                .body(text.to_owned());
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            assert!(
                serde_json::from_str::<Value>(&text).is_ok(),
                "{name} {path}: {text}"
            );
            assert_eq!(status, expected, "{name} {path}: {text}");
        }
    }
    for amount in ["-1", "1.5", "1e3", "", "0x", "abc", &"9".repeat(80)] {
        let mut request: Value = serde_json::from_str(&good).unwrap();
        request["paymentPayload"]["payload"]["authorization"]["value"] = json!(amount);
        let (status, answer) = teller.post("/verify", &request).await;
        assert_eq!(
            (status, &answer["invalidReason"]),
            (200, &json!("invalid_payload")),
            "{amount}: {answer}"
        );
    }
    let (status, answer) = teller.get("/nowhere").await;
    assert_eq!(status, 404, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_verify_cannot_say_and_nothing_is_lost() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
    let teller = Teller::embedded_at(&chain, &proxy.url).await;
    proxy.set(Next::Down);
    let request = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    let (status, answer) = teller.post("/verify", &request).await;
    assert_eq!(
        (status, &answer["invalidReason"]),
        (503, &json!("unexpected_verify_error")),
        "{answer}"
    );
    let (status, answer) = teller.post("/settle", &request).await;
    assert_eq!(
        (status, &answer["errorReason"]),
        (503, &json!("unexpected_settle_error")),
        "{answer}"
    );
    // Blocks may be late for a while before a node counts as gone.
    let mut readiness = teller.get("/readyz").await;
    for _ in 0..60 {
        if readiness.0 == 503 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        readiness = teller.get("/readyz").await;
    }
    assert_eq!(readiness.0, 503, "{}", readiness.1);
    let missing = &readiness.1["dependencies"][CHAIN.to_string()];
    assert_eq!(missing, "unavailable", "{}", readiness.1);
    proxy.set(Next::Pass);
    for _ in 0..50 {
        let (_, answer) = teller.post("/settle", &request).await;
        if answer["success"] == true {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the payment never settled after the node came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_signature_and_no_key_reaches_the_log_or_the_metrics() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let payment = chain.payer(0).pay(&chain, PAYEE, 10_000, 1);
    let request = body(&chain, &payment);
    assert_eq!(teller.post("/settle", &request).await.1["success"], true);
    let signature = request["paymentPayload"]["payload"]["signature"]
        .as_str()
        .unwrap()[2..66]
        .to_owned();
    let key = hex::encode(chain.devnet.info().signers[0]);
    let metrics = teller
        .http
        .get(teller.metrics_url())
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(metrics.contains("teller_payments_total"), "{metrics}");
    for text in [
        teller.log(),
        metrics,
        teller.settlements().await[0].to_string(),
    ] {
        assert!(!text.contains(&signature) && !text.contains(&key));
        assert!(!text.to_lowercase().contains(&signature.to_lowercase()));
    }
}
