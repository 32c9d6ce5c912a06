//! What settle promises: the money moves once, success is told once, "no" means no.

use std::time::Duration;

use alloy_primitives::{Address, U256, hex};
use alloy_sol_types::{SolCall, sol};
use futures::future::join_all;
use serde_json::json;

use crate::support::proxy::{Next, NodeProxy};
use crate::support::{CHAIN, Chain, Setup, Teller, body, shared_stores};

sol! {
    function transfer(address to, uint256 value) external returns (bool);
}

const PAYEE: Address = Address::repeat_byte(0x42);

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_identical_settles_move_the_money_once_and_say_so_once() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let body = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    let answers = join_all((0..200).map(|_| teller.post("/settle", &body))).await;
    let successes: Vec<_> = answers
        .iter()
        .filter(|(_, answer)| answer["success"] == true)
        .collect();
    assert_eq!(successes.len(), 1);
    let transaction = &successes[0].1["transaction"];
    for (status, answer) in &answers {
        assert_eq!(*status, 200, "{answer}");
        assert_eq!(&answer["transaction"], transaction);
        if answer["success"] == false {
            assert_eq!(answer["errorReason"], "duplicate_settlement");
        }
    }
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    assert_eq!(chain.used_authorizations().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_replays_its_own_success_and_no_other() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let first = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    let other = body(&chain, &chain.payer(1).pay(&chain, PAYEE, 10_000, 2));
    let key = [("Idempotency-Key", "order-1")];
    for _ in 0..2 {
        let (_, answer) = teller.try_post("/settle", &first, &key).await.unwrap();
        assert_eq!(answer["success"], true, "{answer}");
    }
    assert_eq!(
        teller.post("/settle", &first).await.1["errorReason"],
        "duplicate_settlement"
    );
    let (status, answer) = teller.try_post("/settle", &other, &key).await.unwrap();
    assert_eq!(
        (status, &answer["errorReason"]),
        (409, &json!("idempotency_key_reused"))
    );
    let (_, answer) = teller
        .try_post("/settle", &first, &[("Idempotency-Key", "order-2")])
        .await
        .unwrap();
    assert_eq!(answer["errorReason"], "duplicate_settlement", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verified_payments_settle_in_one_transaction_and_show_their_receipts() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let bodies: Vec<_> = (0..30)
        .map(|number| {
            body(
                &chain,
                &chain.payer(number as usize).pay(&chain, PAYEE, 7, number),
            )
        })
        .collect();
    for (_, answer) in join_all(bodies.iter().map(|body| teller.post("/verify", body))).await {
        assert_eq!(answer["isValid"], true, "{answer}");
    }
    for (_, answer) in join_all(bodies.iter().map(|body| teller.post("/settle", body))).await {
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(answer["network"], CHAIN.to_string());
    }
    assert_eq!(chain.balance(PAYEE).await, U256::from(7 * 30));
    let settlements = teller.settlements().await;
    assert_eq!(settlements.len(), 30);
    for settlement in &settlements {
        assert_eq!(settlement["state"], "settled", "{settlement}");
        let (status, same) = teller
            .get(&format!(
                "/settlements/{}",
                settlement["id"].as_str().unwrap()
            ))
            .await;
        // Alone it comes with the entries that went against what was told.
        let mut whole = settlement.clone();
        whole["compensations"] = json!([]);
        assert_eq!((status, same), (200, whole));
        assert_eq!(settlement["told"]["outcome"], "success", "{settlement}");
        assert_eq!(settlement["told"]["transaction"], settlement["transaction"]);
    }
    crate::kill::demand_that_costs_equal_receipts(&chain, &settlements).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_somebody_else_submits_while_it_is_held_is_still_a_success() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
    let teller = Teller::embedded_at(&chain, &proxy.url).await;
    let payment = chain.payer(0).pay(&chain, PAYEE, 10_000, 1);
    let request = body(&chain, &payment);
    assert_eq!(teller.post("/verify", &request).await.1["isValid"], true);
    proxy.set(Next::Swallow);
    let (settled, stranger) = tokio::join!(teller.post("/settle", &request), async {
        proxy.caught().await;
        let sent = crate::crowd::submit(&chain, &payment).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        proxy.set(Next::Pass);
        sent
    });
    assert_eq!(settled.1["success"], true, "{}", settled.1);
    assert_eq!(settled.1["transaction"], stranger);
    assert_eq!(teller.settlements().await[0]["state"], "settled_externally");
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_only_its_own_settlements() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let setup = Setup {
        depth: 2,
        keys: vec![("shop", "shop-key"), ("rival", "rival-key")],
        ..Setup::embedded(&chain)
    };
    let teller = Teller::start(&chain, setup).await;
    let request = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    assert_eq!(teller.post("/settle", &request).await.0, 401);
    assert_eq!(
        teller
            .try_post("/settle", &request, &[("Authorization", "Bearer nonsense")])
            .await
            .unwrap()
            .0,
        401
    );
    let shop = [("Authorization", "Bearer shop-key")];
    let rival = [("Authorization", "Bearer rival-key")];
    assert_eq!(
        teller.try_post("/verify", &request, &shop).await.unwrap().1["isValid"],
        true
    );
    let (_, answer) = teller.try_post("/settle", &request, &rival).await.unwrap();
    assert_eq!(
        answer["errorReason"], "authorization_already_reserved",
        "{answer}"
    );
    assert_eq!(
        teller.try_post("/settle", &request, &shop).await.unwrap().1["success"],
        true
    );
    for (key, expected) in [("shop-key", 1), ("rival-key", 0)] {
        let listed = teller
            .http
            .get(format!("{}/settlements", teller.url))
            .bearer_auth(key)
            .send()
            .await
            .unwrap();
        let page: serde_json::Value = listed.json().await.unwrap();
        assert_eq!(page["settlements"].as_array().unwrap().len(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_teller_answers_what_is_in_flight() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let mut teller = Teller::embedded(&chain).await;
    let request = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    let (url, http) = (teller.url.clone(), teller.http.clone());
    let answer = tokio::spawn(async move {
        let answer = http
            .post(format!("{url}/settle"))
            .json(&request)
            .send()
            .await
            .unwrap();
        answer.json::<serde_json::Value>().await.unwrap()
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let status = tokio::task::block_in_place(|| teller.terminate());
    assert!(status.success(), "{status}");
    let answer = answer.await.unwrap();
    assert!(
        answer["success"] == true || answer["errorReason"] == "settlement_pending",
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_stores_settle_as_the_embedded_ones_do() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (ledger, reservations) = shared_stores().await;
    teller_store::migrate(&ledger.parse().unwrap())
        .await
        .unwrap();
    let setup = Setup {
        ledger,
        reservations,
        ..Setup::embedded(&chain)
    };
    let teller = Teller::start(&chain, setup).await;
    let bodies: Vec<_> = (0..40)
        .map(|number| {
            body(
                &chain,
                &chain
                    .payer(number as usize)
                    .pay(&chain, PAYEE, 7, number + 1_000),
            )
        })
        .collect();
    let twice = bodies.iter().chain(&bodies);
    let answers = join_all(twice.map(|body| teller.post("/settle", body))).await;
    let successes = answers
        .iter()
        .filter(|(_, answer)| answer["success"] == true)
        .count();
    assert_eq!(successes, 40, "{answers:?}");
    assert_eq!(chain.balance(PAYEE).await, U256::from(7 * 40));
}

/// Eight payers, of whom one turns into a contract that burns all gas when its signature is checked: after the batch's
/// payers were looked at, and before the batch is mined.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_who_turns_into_a_gas_burner_does_not_burn_his_neighbours() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
    let teller = Teller::embedded_at(&chain, &proxy.url).await;
    let payments: Vec<_> = (0..9)
        .map(|number| chain.payer(number as usize).pay(&chain, PAYEE, 7, number))
        .collect();
    let bodies: Vec<_> = payments
        .iter()
        .map(|payment| body(&chain, payment))
        .collect();
    for (_, answer) in join_all(bodies.iter().map(|body| teller.post("/verify", body))).await {
        assert_eq!(answer["isValid"], true, "{answer}");
    }
    proxy.set(Next::Swallow);
    let hostile = payments[4].key.payer;
    let (answers, ()) = tokio::join!(
        join_all(bodies.iter().map(|body| teller.post("/settle", body))),
        async {
            proxy.caught().await;
            // The first batch is committed and on its way; all of them are once the swallowing has gone on for a while.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let code = teller_devnet::contracts::Contract::HostileWallet
                .runtime()
                .unwrap();
            chain
                .devnet
                .rpc(
                    "anvil_setCode",
                    json!([hostile, hex::encode_prefixed(code)]),
                )
                .await
                .unwrap();
            proxy.set(Next::Pass);
        }
    );
    let mut transactions = std::collections::HashSet::new();
    for (payment, (_, answer)) in payments.iter().zip(&answers) {
        if payment.key.payer == hostile {
            assert_eq!(answer["success"], false, "{answer}");
            // Alone, the account itself is asked, and takes nobody's signature.
            assert_eq!(
                answer["errorReason"], "invalid_exact_evm_signature",
                "{answer}"
            );
        } else {
            assert_eq!(answer["success"], true, "{answer}");
            transactions.insert(answer["transaction"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(chain.balance(PAYEE).await, U256::from(7 * 8));
    assert!(
        transactions.len() <= 4,
        "neighbours still share batches: {transactions:?}"
    );
}

/// The balance moves away between verify and settle's batch: "no", with the chain's own reason, and the truth.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_who_empties_his_account_after_the_check_fails_alone() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
    let teller = Teller::embedded_at(&chain, &proxy.url).await;
    let payments: Vec<_> = (0..3)
        .map(|number| chain.payer(number as usize).pay(&chain, PAYEE, 7, number))
        .collect();
    let bodies: Vec<_> = payments
        .iter()
        .map(|payment| body(&chain, payment))
        .collect();
    proxy.set(Next::Swallow);
    let poor = payments[1].key.payer;
    let (answers, ()) = tokio::join!(
        join_all(bodies.iter().map(|body| teller.post("/settle", body))),
        async {
            proxy.caught().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let all = chain.balance(poor).await;
            let rpc = |method: &'static str, params| chain.devnet.rpc(method, params);
            rpc("anvil_setBalance", json!([poor, "0xde0b6b3a7640000"]))
                .await
                .unwrap();
            rpc("anvil_impersonateAccount", json!([poor]))
                .await
                .unwrap();
            let data = transferCall {
                to: Address::repeat_byte(0x13),
                value: all,
            }
            .abi_encode();
            let transfer = json!([{"from": poor, "to": chain.asset.address, "data": hex::encode_prefixed(data)}]);
            rpc("eth_sendTransaction", transfer).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            proxy.set(Next::Pass);
        }
    );
    for (payment, (_, answer)) in payments.iter().zip(&answers) {
        let expected = payment.key.payer != poor;
        assert_eq!(answer["success"], expected, "{answer}");
        if !expected {
            assert_eq!(
                answer["errorReason"], "invalid_exact_evm_insufficient_balance",
                "{answer}"
            );
        }
    }
    assert_eq!(chain.balance(PAYEE).await, U256::from(7 * 2));
    // A failed authorization is dead: asking again repeats the recorded answer.
    let (_, again) = teller.post("/settle", &bodies[1]).await;
    assert_eq!(
        again["errorReason"], "invalid_exact_evm_insufficient_balance",
        "{again}"
    );
}
