//! What verify promises: one authorization buys one thing, one coin buys one coin's worth.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use futures::future::join_all;
use serde_json::json;

use crate::support::{Buyer, Chain, Teller, body};

const PAYEE: Address = Address::repeat_byte(0x42);

#[tokio::test(flavor = "multi_thread")]
async fn fifty_verifies_of_one_authorization_find_it_valid_once() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let body = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    let answers = join_all((0..50).map(|_| teller.post("/verify", &body))).await;
    let valid = answers
        .iter()
        .filter(|(_, answer)| answer["isValid"] == true)
        .count();
    assert_eq!(valid, 1);
    for (status, answer) in &answers {
        assert_eq!(*status, 200);
        if answer["isValid"] == false {
            assert_eq!(answer["invalidReason"], "authorization_already_reserved");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_with_one_coin_cannot_reserve_it_ten_times() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let buyer = Buyer::new(alloy_primitives::keccak256("a payer with one coin"));
    teller_devnet::fund(
        chain.devnet.rpc_url(),
        &[buyer.address],
        U256::from(1_000_000),
    )
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bodies: Vec<_> = (0..10)
        .map(|number| body(&chain, &buyer.pay(&chain, PAYEE, 1_000_000, number)))
        .collect();
    let answers = join_all(bodies.iter().map(|body| teller.post("/verify", body))).await;
    let valid = answers
        .iter()
        .filter(|(_, answer)| answer["isValid"] == true)
        .count();
    assert_eq!(valid, 1, "{answers:?}");
    for (_, answer) in answers
        .iter()
        .filter(|(_, answer)| answer["isValid"] == false)
    {
        assert_eq!(
            answer["invalidReason"],
            "invalid_exact_evm_insufficient_balance"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_authorization_can_be_verified_again() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let body = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    assert_eq!(teller.post("/verify", &body).await.1["isValid"], true);
    assert_eq!(teller.post("/verify", &body).await.1["isValid"], false);
    let (status, answer) = teller.post("/release", &body).await;
    assert_eq!(
        (status, &answer["released"]),
        (200, &json!(true)),
        "{answer}"
    );
    assert_eq!(teller.post("/verify", &body).await.1["isValid"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_verifies_again() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let first = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    let headers = [("Idempotency-Key", "order-1")];
    for _ in 0..3 {
        let (_, answer) = teller.try_post("/verify", &first, &headers).await.unwrap();
        assert_eq!(answer["isValid"], true, "{answer}");
    }
    assert_eq!(teller.post("/verify", &first).await.1["isValid"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_survive_a_killed_process() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let mut teller = Teller::embedded(&chain).await;
    let body = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    assert_eq!(teller.post("/verify", &body).await.1["isValid"], true);
    teller.kill();
    teller.restart().await;
    let (_, answer) = teller.post("/verify", &body).await;
    assert_eq!(
        answer["invalidReason"], "authorization_already_reserved",
        "{answer}"
    );
}
