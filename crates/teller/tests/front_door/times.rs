//! Times beyond 64 bits, as wallets sign them that mean "forever". Each payment is made for real.

use std::time::Duration;

use alloy_primitives::{Address, U256, U512};
use serde_json::{Value, json};
use teller_devnet::contracts::PLAIN_TOKEN;
use teller_schemes::permit2::{Permit, Proxy};

use crate::support::{Chain, body};
use crate::ways::{
    approving_buyer, audited, facilitator, pays, permit, refused, signed_permit_body, teller,
    tokens,
};

const PAYEE: Address = Address::repeat_byte(0x46);
const HOP: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_valid_for_ever_is_paid_and_shown_in_full() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let facilitator = facilitator(&chain);
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    tokio::time::sleep(HOP).await;
    let forever = chain
        .payer(0)
        .pay_until(&chain, PAYEE, 10_000, 1, U256::MAX);
    let mut bodies = vec![body(&chain, &forever)];
    for proxy in [Proxy::Exact, Proxy::Upto { facilitator }] {
        let forever = Permit {
            deadline: U256::MAX,
            ..permit(PLAIN_TOKEN, PAYEE, 10_000, proxy)
        };
        bodies.push(signed_permit_body(&payer, &forever));
    }
    for body in &bodies {
        pays(&teller, body).await;
    }
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 20_000);
    let mut rows = teller.settlements().await;
    rows.reverse();
    let behind = U512::from(U256::MAX) + U512::ONE;
    let shown: Vec<&Value> = rows.iter().map(|row| &row["validBefore"]).collect();
    let ends = [
        U256::MAX.to_string(),
        behind.to_string(),
        behind.to_string(),
    ];
    assert_eq!(shown, ends.map(Value::from).iter().collect::<Vec<_>>());
    assert!(
        rows.iter()
            .all(|row| row["validAfter"] == "0" && row["state"] == "settled")
    );
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_valid_before_the_end_of_64_bit_time_is_told_so() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    tokio::time::sleep(HOP).await;
    let good = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    for never in [U256::ONE << 64, U256::MAX] {
        let mut eip3009 = good.clone();
        eip3009["paymentPayload"]["payload"]["authorization"]["validAfter"] =
            json!(never.to_string());
        assert_eq!(
            refused(&teller, &eip3009).await,
            "invalid_exact_evm_payload_authorization_valid_after"
        );
        let permit = Permit {
            valid_after: never,
            ..permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Exact)
        };
        let permit = signed_permit_body(&payer, &permit);
        assert_eq!(refused(&teller, &permit).await, "permit2_not_yet_valid");
    }
    assert!(teller.settlements().await.is_empty());
}
