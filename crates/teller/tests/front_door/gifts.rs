//! Payers' approvals: kill -9 between a top-up and what follows it, payers who are faster, reorgs. Each ends with an audit,
//! and with a look at who was given what.

use std::time::{Duration, Instant};

use alloy_primitives::{Address, U256, hex};
use serde_json::{Value, json};
use teller_devnet::contracts::PLAIN_TOKEN;
use teller_devnet::contracts::abi::Token;
use teller_domain::PERMIT2;
use teller_schemes::permit2::Proxy;

use crate::approvals::{Approval, FEE, GAS, PAYEE, PRICE, approval, body, giving, info};
use crate::support::{Buyer, Chain, Teller};
use crate::ways::{audited, buyer, gas, read, tokens};

const BLOCK: Duration = Duration::from_secs(1);
/// Until teller has seen what the chain was made to hold.
const HOP: Duration = Duration::from_secs(2);
/// A seller asks for so long.
const PATIENCE: Duration = Duration::from_secs(90);

/// A payment with its payer's approval.
fn sponsored(buyer: &Buyer) -> Value {
    body(buyer, Proxy::Exact, info(buyer, &approval().by(buyer)))
}

/// Asks until it is told an outcome, as a stock server does, and through restarts.
async fn told(teller: &Teller, body: Value) -> impl Future<Output = Value> + use<> {
    let (http, url) = (teller.http.clone(), teller.url.clone());
    async move {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Ok(answer) = http.post(format!("{url}/settle")).json(&body).send().await
                && let Ok(answer) = answer.json::<Value>().await
            {
                let reason = answer["errorReason"].as_str().unwrap_or_default();
                let open = [
                    "settlement_pending",
                    "unexpected_settle_error",
                    "settlement_withdrawn",
                ];
                if !open.contains(&reason) {
                    return answer;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("a seller was never told")
    }
}

/// Every transfer of native currency to this account, on the canonical chain.
async fn gifts(chain: &Chain, to: Address) -> Vec<U256> {
    let number = chain
        .devnet
        .rpc("eth_blockNumber", json!([]))
        .await
        .unwrap();
    let number: U256 = number.as_str().unwrap().parse().unwrap();
    let mut gifts = Vec::new();
    for height in 0..=number.to::<u64>() {
        let block = json!([format!("{height:#x}"), true]);
        let block = chain
            .devnet
            .rpc("eth_getBlockByNumber", block)
            .await
            .unwrap();
        for transaction in block["transactions"].as_array().unwrap() {
            let value: U256 = transaction["value"].as_str().unwrap().parse().unwrap();
            if transaction["to"] == json!(to) && !value.is_zero() {
                gifts.push(value);
            }
        }
    }
    gifts
}

async fn allowance(chain: &Chain, owner: Address) -> U256 {
    let call = Token::allowanceCall {
        owner,
        spender: PERMIT2,
    };
    read(chain, PLAIN_TOKEN, call).await
}

async fn wei(chain: &Chain, of: Address) -> U256 {
    let balance = chain
        .devnet
        .rpc("eth_getBalance", json!([of, "latest"]))
        .await;
    balance.unwrap().as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn payers_with_and_without_gas_pay_and_nobody_is_given_anything_twice() {
    let chain = Chain::start(BLOCK).await;
    let teller = giving(&chain).await;
    let poor = buyer(&chain, PLAIN_TOKEN).await;
    let rich = buyer(&chain, PLAIN_TOKEN).await;
    let wealth = json!([rich.address, "0xde0b6b3a7640000"]);
    chain.devnet.rpc("anvil_setBalance", wealth).await.unwrap();
    tokio::time::sleep(HOP).await;
    // Two at once of the one without: one top-up, one approval, two payments.
    let told = tokio::join!(
        told(&teller, sponsored(&poor)).await,
        told(&teller, sponsored(&poor)).await,
        told(&teller, sponsored(&rich)).await,
    );
    for answer in [told.0, told.1, told.2] {
        assert_eq!(answer["success"], true, "{answer}\n{}", teller.log());
        println!(
            "gas, Permit2 behind its payer's approval: {}",
            gas(&chain, &answer["transaction"]).await
        );
    }
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 3 * PRICE);
    assert_eq!(allowance(&chain, poor.address).await, U256::MAX);
    let most = U256::from(GAS) * U256::from(FEE);
    let given = gifts(&chain, poor.address).await;
    assert!(given.len() == 1 && given[0] <= most, "{given:?}");
    assert!(gifts(&chain, rich.address).await.is_empty());
    // The approval stands: the next payment needs nothing, and the old approval beside it is not looked at.
    let (_, answer) = teller.post("/settle", &sponsored(&poor)).await;
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(gifts(&chain, poor.address).await.len(), 1);
    audited(&chain, &teller);
}

/// The process dies at each boundary of a top-up, of the approval and of the settlement behind them.
async fn dies_at_each(points: &[&str]) {
    let chain = Chain::start(BLOCK).await;
    let mut teller = giving(&chain).await;
    for (done, point) in (1..).zip(points) {
        let payer = buyer(&chain, PLAIN_TOKEN).await;
        teller.kill();
        teller.dies_at(Some(point));
        teller.restart().await;
        let seller = tokio::spawn(told(&teller, sponsored(&payer)).await);
        assert!(!teller.wait_for_end().success(), "{point}");
        teller.dies_at(None);
        teller.restart().await;
        let answer = seller.await.unwrap();
        assert_eq!(
            answer["success"],
            true,
            "{point}: {answer}\n{}",
            teller.log()
        );
        assert_eq!(
            tokens(&chain, PLAIN_TOKEN, PAYEE).await,
            done * PRICE,
            "{point}"
        );
        let given = gifts(&chain, payer.address).await;
        assert_eq!(given.len(), 1, "{point}");
        println!("{point}: went on");
    }
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_topping_a_payer_up_gives_nothing_twice() {
    dies_at_each(&[
        "before_open_slot:1",
        "after_open_slot:1",
        "before_send:1",
        "after_send:1",
        "before_close_slot:1",
        "after_close_slot:1",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_sending_an_approval_goes_on() {
    dies_at_each(&[
        "before_send_approval:1",
        "after_send_approval:1",
        "before_open_slot:2",
        "after_send:2",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_who_overtakes_his_approval_fails_his_payment_and_no_other() {
    let chain = Chain::start(Duration::from_secs(2)).await;
    let teller = giving(&chain).await;
    let (cheat, honest) = (
        buyer(&chain, PLAIN_TOKEN).await,
        buyer(&chain, PLAIN_TOKEN).await,
    );
    tokio::time::sleep(2 * HOP).await;
    let cheated = tokio::spawn(told(&teller, sponsored(&cheat)).await);
    let paid = tokio::spawn(told(&teller, sponsored(&honest)).await);
    let until = Instant::now() + PATIENCE;
    while wei(&chain, cheat.address).await.is_zero() {
        assert!(Instant::now() < until, "{}", teller.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rich = json!([cheat.address, "0xde0b6b3a7640000"]);
    chain.devnet.rpc("anvil_setBalance", rich).await.unwrap();
    let faster = Approval {
        target: PAYEE,
        fee: 100 * FEE,
        ..approval()
    };
    let faster = faster.by(&cheat);
    let faster = json!([hex::encode_prefixed(&faster)]);
    chain
        .devnet
        .rpc("eth_sendRawTransaction", faster)
        .await
        .unwrap();
    let answer = cheated.await.unwrap();
    assert_eq!(
        answer["errorReason"], "erc20_approval_tx_failed",
        "{answer}"
    );
    let answer = paid.await.unwrap();
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, PRICE);
    assert_eq!(allowance(&chain, cheat.address).await, U256::ZERO);
    assert_eq!(gifts(&chain, cheat.address).await.len(), 1);
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_of_top_up_approval_and_settlement_is_mended_without_a_second_gift() {
    let chain = Chain::start(BLOCK).await;
    let teller = giving(&chain).await;
    let payer = buyer(&chain, PLAIN_TOKEN).await;
    // So that the reorg takes nothing of what made him a buyer.
    chain
        .devnet
        .rpc("anvil_mine", json!(["0x8"]))
        .await
        .unwrap();
    tokio::time::sleep(HOP).await;
    let height = async || {
        let number = chain
            .devnet
            .rpc("eth_blockNumber", json!([]))
            .await
            .unwrap();
        number
            .as_str()
            .unwrap()
            .parse::<U256>()
            .unwrap()
            .to::<u64>()
    };
    let before = height().await;
    let answer = told(&teller, sponsored(&payer)).await.await;
    assert_eq!(answer["success"], true, "{answer}");
    let depth = height().await - before;
    chain
        .devnet
        .rpc("anvil_reorg", json!([depth, []]))
        .await
        .unwrap();
    chain
        .devnet
        .rpc("anvil_dropAllTransactions", json!([]))
        .await
        .unwrap();
    let until = Instant::now() + PATIENCE;
    let settled_again = async || {
        let rows = teller.settlements().await;
        let row = rows[0].clone();
        let mined = row["receipt"]["transaction"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let receipt = chain
            .devnet
            .rpc("eth_getTransactionReceipt", json!([mined]))
            .await;
        row["state"] == "settled" && receipt.is_ok_and(|receipt| !receipt.is_null())
    };
    while !settled_again().await {
        assert!(Instant::now() < until, "{}", teller.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, PRICE);
    let given = gifts(&chain, payer.address).await;
    assert_eq!(given.len(), 1, "{given:?}");
    audited(&chain, &teller);
}
