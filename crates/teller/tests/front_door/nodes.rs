//! Nodes that stand still, are behind, or are of another chain: what an operator and his sellers see.

use std::time::{Duration, Instant};

use alloy_primitives::Address;
use serde_json::{Value, json};

use crate::support::proxy::{Next, NodeProxy};
use crate::support::{Chain, Setup, Teller, body};

const PAYEE: Address = Address::repeat_byte(0x42);
const WITHIN: Duration = Duration::from_secs(60);

fn two(first: &str, second: &str) -> String {
    format!("{first}\", \"{second}")
}

async fn start(chain: &Chain, rpc: String) -> Teller {
    let setup = Setup {
        rpc,
        ..Setup::embedded(chain)
    };
    Teller::start(chain, setup).await
}

/// The sum of a metric's samples.
async fn metric(teller: &Teller, name: &str) -> f64 {
    let text = teller.http.get(teller.metrics_url()).send().await.unwrap();
    let text = text.text().await.unwrap();
    let samples = text.lines().filter(|line| line.starts_with(name));
    samples
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

async fn until_status(teller: &Teller, path: &str, body: &Value, wanted: u16) -> Value {
    let start = Instant::now();
    loop {
        let (status, answer) = teller.post(path, body).await;
        if status == wanted {
            return answer;
        }
        assert!(start.elapsed() < WITHIN, "{status} {answer}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_stands_still_is_not_judged_by() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let asked = |number| body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, number));
    let (_, answer) = teller.post("/verify", &asked(1)).await;
    assert_eq!(answer["isValid"], true, "{answer}");
    let stop = chain.devnet.rpc("evm_setIntervalMining", json!([0]));
    stop.await.unwrap();
    // Each of its own, because one that is valid stays held.
    let start = Instant::now();
    let mut number = 2;
    let answer = loop {
        let (status, answer) = teller.post("/verify", &asked(number)).await;
        if status == 503 {
            break answer;
        }
        assert!(start.elapsed() < WITHIN, "{status} {answer}");
        number += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(answer.to_string().contains("no new block"), "{answer}");
    let asked_at = Instant::now();
    let (status, answer) = teller.post("/settle", &asked(100)).await;
    assert_eq!(
        (status, &answer["success"]),
        (503, &json!(false)),
        "{answer}"
    );
    assert!(asked_at.elapsed() < Duration::from_secs(20), "at once");
    assert!(teller.settlements().await.is_empty());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(metric(&teller, "teller_head_stalled").await, 1.0);

    let go_on = chain.devnet.rpc("evm_setIntervalMining", json!([1]));
    go_on.await.unwrap();
    until_status(&teller, "/settle", &asked(100), 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_endpoint_is_followed_while_the_first_is_behind() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
    proxy.lag(6, 100);
    let teller = start(&chain, two(&proxy.url, chain.devnet.rpc_url())).await;
    for number in 0..3 {
        let body = body(&chain, &chain.payer(number).pay(&chain, PAYEE, 10_000, 1));
        let (status, answer) = teller.post("/settle", &body).await;
        assert_eq!(
            (status, &answer["success"]),
            (200, &json!(true)),
            "{answer}"
        );
    }
    assert_eq!(metric(&teller, "teller_reorgs_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_chain_is_never_believed() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    // Two chains that begin in the same second have the same genesis block.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let other = Chain::start(Duration::from_secs(1)).await;
    let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
    let teller = start(&chain, two(&proxy.url, other.devnet.rpc_url())).await;
    let asked = |number| body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, number));
    let (_, answer) = teller.post("/verify", &asked(1)).await;
    assert_eq!(answer["isValid"], true, "{answer}");
    let start = Instant::now();
    while metric(&teller, "teller_node_endpoint_wrong_network").await != 1.0 {
        assert!(start.elapsed() < WITHIN, "the second endpoint is used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    proxy.set(Next::Down);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        // It could not be checked; it is never refused for what another chain says.
        let (status, answer) = teller.post("/verify", &asked(2)).await;
        assert_eq!(status, 503, "{answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    proxy.set(Next::Pass);
    let answer = until_status(&teller, "/verify", &asked(3), 200).await;
    assert_eq!(answer["isValid"], true, "{answer}");
    assert_eq!(metric(&teller, "teller_reorgs_total").await, 0.0);
    assert!(teller.log().contains("serves another network"));
}
