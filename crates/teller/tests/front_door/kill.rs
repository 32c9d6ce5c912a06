//! kill -9 at random moments of a load, between commit and send among them: nothing is lost, nothing is paid twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, U256};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::proxy::{Next, NodeProxy};
use crate::support::{Chain, Teller, body, client};

const KILLS: u64 = 20;
const PAYMENTS_A_KILL: u64 = 10;

/// Costs in the ledger sum to the receipts on the chain, for every transaction that settled something.
pub async fn demand_that_costs_equal_receipts(chain: &Chain, settlements: &[Value]) {
    let mut costs: HashMap<String, U256> = HashMap::new();
    for settlement in settlements
        .iter()
        .filter(|settlement| settlement["state"] == "settled")
    {
        let receipt = &settlement["receipt"];
        let cost: U256 = receipt["costWei"]
            .as_str()
            .unwrap_or_else(|| panic!("{settlement}"))
            .parse()
            .unwrap();
        *costs
            .entry(receipt["transaction"].as_str().unwrap().to_owned())
            .or_default() += cost;
    }
    for (transaction, cost) in costs {
        let receipt = chain
            .devnet
            .rpc("eth_getTransactionReceipt", json!([transaction]))
            .await
            .unwrap();
        let number = |field: &str| receipt[field].as_str().unwrap().parse::<U256>().unwrap();
        assert_eq!(
            cost,
            number("gasUsed") * number("effectiveGasPrice"),
            "{transaction}"
        );
    }
}

/// A seller that asks until it is told: what it was told in the end.
async fn settle_until_told(
    http: reqwest::Client,
    url: String,
    request: Value,
    told: Arc<Mutex<Vec<Value>>>,
) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while Instant::now() < deadline {
        if let Ok(answer) = http
            .post(format!("{url}/settle"))
            .json(&request)
            .send()
            .await
            && let Ok(answer) = answer.json::<Value>().await
        {
            let reason = answer["errorReason"].as_str().unwrap_or_default();
            let open = [
                "settlement_pending",
                "unexpected_settle_error",
                "settlement_withdrawn",
            ]
            .contains(&reason);
            told.lock().await.push(answer.clone());
            if !open {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("a seller was never told");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_nothing_and_pay_nothing_twice() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
    let mut teller = Teller::embedded_at(&chain, &proxy.url).await;
    let payee = Address::repeat_byte(0x42);
    let (mut sellers, mut told) = (Vec::new(), Vec::new());
    let mut keys = HashSet::new();
    let http = client();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..KILLS {
        let armed = match round % 5 {
            1 => Next::Swallow,
            3 => Next::SwallowAnswer,
            _ => Next::Pass,
        };
        proxy.set(armed);
        for number in 0..PAYMENTS_A_KILL {
            let number = round * PAYMENTS_A_KILL + number;
            let payment =
                chain
                    .payer((number % 40) as usize)
                    .pay(&chain, payee, 100 + number, number);
            keys.insert((payment.key.payer, payment.key.nonce.0));
            let answers = Arc::new(Mutex::new(Vec::new()));
            told.push(answers.clone());
            sellers.push(tokio::spawn(settle_until_told(
                http.clone(),
                teller.url.clone(),
                body(&chain, &payment),
                answers,
            )));
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let moment = Duration::from_millis((random >> 33) % 1_500);
        if armed == Next::Pass {
            tokio::time::sleep(moment).await;
        } else {
            // Committed: the bytes are on their way to the node, or there, and teller does not know.
            tokio::time::timeout(Duration::from_secs(10), proxy.caught())
                .await
                .expect("nothing was sent");
        }
        teller.kill();
        proxy.set(Next::Pass);
        teller.restart().await;
    }
    let last_kill = Instant::now();
    for seller in sellers {
        seller.await.unwrap();
    }
    let resolved_after = last_kill.elapsed();

    let total = KILLS * PAYMENTS_A_KILL;
    let used = chain.used_authorizations().await;
    let distinct: HashSet<_> = used
        .iter()
        .map(|(payer, nonce, _)| (*payer, *nonce))
        .collect();
    assert_eq!(used.len() as u64, total, "each authorization was used once");
    assert_eq!(distinct, keys);
    let expected: u64 = (0..total).map(|number| 100 + number).sum();
    assert_eq!(chain.balance(payee).await, U256::from(expected));

    let settlements = teller.settlements().await;
    assert_eq!(settlements.len() as u64, total);
    let on_chain: HashMap<_, _> = used
        .into_iter()
        .map(|(payer, nonce, hash)| ((payer, nonce), hash))
        .collect();
    for settlement in &settlements {
        assert_eq!(settlement["state"], "settled", "{settlement}");
        let payer: Address = settlement["payer"].as_str().unwrap().parse().unwrap();
        let nonce = settlement["nonce"].as_str().unwrap().parse().unwrap();
        assert_eq!(
            settlement["receipt"]["transaction"],
            *on_chain[&(payer, nonce)]
        );
    }
    demand_that_costs_equal_receipts(&chain, &settlements).await;

    let (mut successes, mut duplicates) = (0, 0);
    for answers in told {
        let answers = answers.lock().await;
        let successes_here = answers
            .iter()
            .filter(|answer| answer["success"] == true)
            .count();
        assert!(successes_here <= 1, "{answers:?}");
        successes += successes_here;
        duplicates += answers
            .iter()
            .filter(|answer| answer["errorReason"] == "duplicate_settlement")
            .count();
        for answer in answers.iter().filter(|answer| answer["success"] == false) {
            let reason = answer["errorReason"].as_str().unwrap();
            let honest = [
                "settlement_pending",
                "duplicate_settlement",
                "unexpected_settle_error",
                "settlement_withdrawn",
            ];
            assert!(
                honest.contains(&reason),
                "the money moved, but a seller was told {answer}"
            );
        }
    }
    println!(
        "{KILLS} kills, {total} payments: {total} transfers, {successes} told success, {duplicates} told duplicate, \
         0 lost, 0 paid twice; the last was resolved {:.1} s after the last restart",
        resolved_after.as_secs_f64()
    );
}
