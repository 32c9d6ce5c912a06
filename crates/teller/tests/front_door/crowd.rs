//! Many at once: what batching saves, and what impatient sellers cannot lose.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy_primitives::{Address, U256, hex};
use futures::future::join_all;
use serde_json::json;
use teller_domain::Payment;

use crate::support::{Chain, Teller, body};

const PAYMENTS: usize = 300;
const PAYEES: usize = 50;
/// Gas of a batched payment, as a part of the same payment's sent alone.
const MOST_OF_ALONE: f64 = 0.65;

fn payee(number: usize) -> Address {
    Address::left_padding_from(&(0xa11ce_usize + number).to_be_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_payments_at_once_settle_in_few_transactions_at_two_thirds_of_the_gas() {
    let chain = Chain::with_payers(Duration::from_secs(1), PAYMENTS + PAYMENTS / 10).await;
    let alone = gas_alone(&chain).await;
    let teller = Teller::embedded(&chain).await;
    let bodies: Vec<_> = (0..PAYMENTS)
        .map(|number| {
            let buyer = chain.payer(number);
            body(
                &chain,
                &buyer.pay(&chain, payee(number % PAYEES), 10_000, number as u64),
            )
        })
        .collect();
    let answers = join_all(bodies.iter().map(|body| teller.post("/settle", body))).await;
    let mut transactions = BTreeSet::new();
    for (_, answer) in &answers {
        assert_eq!(answer["success"], true, "{answer}");
        transactions.insert(answer["transaction"].as_str().unwrap());
    }
    for number in 0..PAYEES {
        let due = 10_000 * PAYMENTS / PAYEES;
        assert_eq!(chain.balance(payee(number)).await, U256::from(due));
    }
    let mut gas = 0.0;
    for transaction in &transactions {
        gas += gas_used(&chain, transaction).await;
    }
    let batched = gas / PAYMENTS as f64;
    println!(
        "{PAYMENTS} payments in {} transactions: {batched:.0} gas a payment, {:.2} of {alone:.0} alone",
        transactions.len(),
        batched / alone
    );
    assert!(
        transactions.len() <= 8,
        "{} transactions",
        transactions.len()
    );
    assert!(batched <= alone * MOST_OF_ALONE, "{batched} of {alone}");
}

/// Gas of such payments sent one a transaction: a tenth as many, by payers of their own, to a tenth of the payees.
async fn gas_alone(chain: &Chain) -> f64 {
    let payments: Vec<_> = (0..PAYMENTS / 10)
        .map(|number| {
            let payee = payee(PAYEES + number % (PAYEES / 10));
            let buyer = chain.payer(PAYMENTS + number);
            buyer.pay(chain, payee, 10_000, (PAYMENTS + number) as u64)
        })
        .collect();
    let mut gas = 0.0;
    for hash in join_all(payments.iter().map(|payment| submit(chain, payment))).await {
        gas += gas_used(chain, &hash).await;
    }
    gas / payments.len() as f64
}

/// A stranger submits a payment past teller; answers the transaction's hash.
pub async fn submit(chain: &Chain, payment: &Payment) -> String {
    let stranger = Address::random();
    let rpc = |method: &'static str, params| chain.devnet.rpc(method, params);
    let rich = json!([stranger, "0xde0b6b3a7640000"]);
    rpc("anvil_setBalance", rich).await.unwrap();
    rpc("anvil_impersonateAccount", json!([stranger]))
        .await
        .unwrap();
    let data = hex::encode_prefixed(teller_schemes::eip3009::transfer_call(payment));
    let call = json!([{"from": stranger, "to": chain.asset.address, "data": data}]);
    let hash = rpc("eth_sendTransaction", call).await.unwrap();
    hash.as_str().unwrap().to_owned()
}

async fn gas_used(chain: &Chain, transaction: &str) -> f64 {
    for _ in 0..100 {
        let receipt = chain
            .devnet
            .rpc("eth_getTransactionReceipt", json!([transaction]))
            .await
            .unwrap();
        if let Some(gas) = receipt["gasUsed"].as_str() {
            assert_eq!(receipt["status"], "0x1", "{transaction}");
            return gas.parse::<U256>().unwrap().to::<u64>() as f64;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{transaction} was not mined");
}

#[tokio::test(flavor = "multi_thread")]
async fn sellers_who_hang_up_half_way_lose_nothing_and_are_told_when_they_ask_again() {
    let chain = Chain::with_payers(Duration::from_secs(1), 100).await;
    let teller = Teller::embedded(&chain).await;
    let to = payee(0);
    let bodies: Vec<_> = (0..100_usize)
        .map(|number| {
            let buyer = chain.payer(number);
            body(&chain, &buyer.pay(&chain, to, 10_000, number as u64))
        })
        .collect();
    // Every other seller hangs up, between at once and just before a block.
    let first = join_all(bodies.iter().enumerate().map(|(number, body)| {
        let patience = match number % 2 {
            0 => Duration::from_secs(40),
            _ => Duration::from_millis(7 * number as u64),
        };
        let answer = teller.post("/settle", body);
        async move { tokio::time::timeout(patience, answer).await.ok() }
    }))
    .await;
    let hung_up = first.iter().filter(|answer| answer.is_none()).count();
    assert!(hung_up >= 10, "only {hung_up} hung up");
    let again = join_all(bodies.iter().map(|body| teller.post("/settle", body))).await;
    let mut told_later = 0;
    for (first, (_, again)) in first.iter().zip(&again) {
        match first {
            Some((_, first)) => {
                assert_eq!(first["success"], true, "{first}");
                assert_eq!(again["errorReason"], "duplicate_settlement", "{again}");
                assert_eq!(again["transaction"], first["transaction"]);
            }
            None if again["success"] == true => told_later += 1,
            // The answer was on its way when the seller hung up.
            None => assert_eq!(again["errorReason"], "duplicate_settlement", "{again}"),
        }
    }
    println!("{hung_up} of 100 hung up; {told_later} were told success when they asked again");
    assert!(told_later * 2 > hung_up, "{told_later} of {hung_up}");
    assert_eq!(chain.balance(to).await, U256::from(100 * 10_000));
    assert_eq!(chain.used_authorizations().await.len(), 100);
    for settlement in teller.settlements().await {
        assert_eq!(settlement["state"], "settled", "{settlement}");
    }
}
