//! Payments that move nothing to anybody: refused, unless the operator wants to pay for them.

use std::time::Duration;

use alloy_primitives::{Address, B256};
use serde_json::Value;
use teller_devnet::contracts::PLAIN_TOKEN;
use teller_schemes::permit2::Proxy;

use crate::support::{Buyer, Chain, Teller, body};
use crate::ways::{approve, facilitator, permit, setup, signed_permit_body};

const PAYEE: Address = Address::repeat_byte(0x46);

/// Each from a key that owns nothing, with the reason that it is refused for.
async fn empty_payments(chain: &Chain) -> Vec<(Value, &'static str)> {
    let stranger = || Buyer::new(B256::random());
    let (one, other) = (stranger(), stranger());
    let (permitting, selfish) = (stranger(), stranger());
    for owner in [&permitting, &selfish] {
        approve(chain, owner.address, PLAIN_TOKEN, 1_000).await;
    }
    let nothing = permit(PLAIN_TOKEN, PAYEE, 0, Proxy::Exact);
    let oneself = permit(PLAIN_TOKEN, selfish.address, 0, Proxy::Exact);
    vec![
        (
            body(chain, &one.pay(chain, PAYEE, 0, 1)),
            "zero_value_payment",
        ),
        (
            body(chain, &other.pay(chain, other.address, 0, 1)),
            "zero_value_payment",
        ),
        (
            signed_permit_body(&permitting, &nothing),
            "zero_value_payment",
        ),
        (signed_permit_body(&selfish, &oneself), "zero_value_payment"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_own_nothing_cost_the_operator_nothing() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::start(&chain, setup(&chain)).await;
    for (request, reason) in empty_payments(&chain).await {
        let (status, answer) = teller.post("/verify", &request).await;
        assert_eq!((status, &answer["isValid"]), (200, &false.into()));
        assert_eq!(answer["invalidReason"], reason, "{answer}");
        let (status, answer) = teller.post("/settle", &request).await;
        assert_eq!((status, &answer["success"]), (200, &false.into()));
        assert_eq!(answer["errorReason"], reason, "{answer}");
        assert_eq!(answer["transaction"], "");
    }
    // Whether he owns anything or not, nobody pays himself.
    let stranger = Buyer::new(B256::random());
    let permitted = permit(PLAIN_TOKEN, stranger.address, 1_000, Proxy::Exact);
    let upto = Proxy::Upto {
        facilitator: facilitator(&chain),
    };
    let charged = permit(PLAIN_TOKEN, stranger.address, 1_000, upto);
    let mut himself = vec![
        signed_permit_body(&stranger, &permitted),
        signed_permit_body(&stranger, &charged),
    ];
    for payer in [chain.payer(0), stranger] {
        himself.push(body(&chain, &payer.pay(&chain, payer.address, 1_000, 1)));
    }
    for request in himself {
        let (_, answer) = teller.post("/verify", &request).await;
        assert_eq!(answer["invalidReason"], "self_payment", "{answer}");
        let (_, answer) = teller.post("/settle", &request).await;
        assert_eq!(answer["errorReason"], "self_payment", "{answer}");
    }
    assert!(teller.settlements().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_want_to_settle_empty_payments() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let mut setup = setup(&chain);
    setup
        .network
        .push_str("[policy]\nallow_empty_payments = true\n");
    let teller = Teller::start(&chain, setup).await;
    // The proxy of Permit2 lets nobody move nothing.
    for (request, _) in empty_payments(&chain).await.into_iter().take(2) {
        let (_, answer) = teller.post("/verify", &request).await;
        assert_eq!(answer["isValid"], true, "{answer}");
        let (_, answer) = teller.post("/settle", &request).await;
        assert_eq!(answer["success"], true, "{answer}");
    }
}
