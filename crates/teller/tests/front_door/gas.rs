//! What a payment costs in gas, alone and among others of its kind: many payers, one payee. The figures are printed, and
//! `docs/gas.md` quotes them.

use std::collections::HashSet;
use std::time::Duration;

use alloy_primitives::Address;
use futures::future::join_all;
use serde_json::Value;
use teller_devnet::contracts::TEST_DOLLAR;
use teller_schemes::permit2::Proxy;

use crate::support::{Chain, Teller, body};
use crate::ways::{approving_buyer, audited, gas, pays, permit, signed_permit_body};

const PAYEE: Address = Address::repeat_byte(0x4a);
/// Payments of a batch.
const TOGETHER: usize = 100;

/// Gas a payment of all of these, settled at once, and in how many transactions.
async fn together(chain: &Chain, teller: &Teller, bodies: &[Value]) -> (u64, usize) {
    let answers = join_all(bodies.iter().map(|body| teller.post("/settle", body))).await;
    let mut transactions = HashSet::new();
    for (_, answer) in &answers {
        assert_eq!(answer["success"], true, "{answer}");
        transactions.insert(answer["transaction"].clone());
    }
    let mut used = 0;
    for transaction in &transactions {
        used += gas(chain, transaction).await;
    }
    (used / bodies.len() as u64, transactions.len())
}

/// The first payment makes the payee's balance, which is no part of the comparison; the second is the one alone.
async fn compared(chain: &Chain, teller: &Teller, what: &str, bodies: &[Value]) {
    let ([first, second], rest) = bodies.split_first_chunk().unwrap();
    pays(teller, first).await;
    let alone = pays(teller, second).await;
    let alone = gas(chain, &alone["transaction"]).await;
    let (batched, transactions) = together(chain, teller, rest).await;
    println!(
        "gas, {what}: {alone} alone, {batched} a payment of {} in {transactions} transactions",
        rest.len()
    );
    assert!(
        transactions < rest.len() / 10,
        "hardly anything was batched"
    );
    assert!(batched < alone, "a batch costs more than one by one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_one_kind_costs_less_than_its_payments_alone() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let payers = join_all((0..TOGETHER + 2).map(|_| approving_buyer(&chain, TEST_DOLLAR, 50_000)));
    let payers = payers.await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let transfers: Vec<_> = payers
        .iter()
        .map(|payer| body(&chain, &payer.pay(&chain, PAYEE, 1_000, 1)))
        .collect();
    compared(&chain, &teller, "EIP-3009", &transfers).await;
    let permits: Vec<_> = payers
        .iter()
        .map(|payer| signed_permit_body(payer, &permit(TEST_DOLLAR, PAYEE, 1_000, Proxy::Exact)))
        .collect();
    compared(&chain, &teller, "Permit2", &permits).await;
    audited(&chain, &teller);
}
