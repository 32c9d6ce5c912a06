//! Every way of paying, over gRPC: what REST takes is taken here, and what it refuses is refused for the same reason.

use std::time::Duration;

use alloy_primitives::{Address, U256, hex};
use serde_json::{Value, json};
use teller_api::proto;
use teller_api::proto::facilitator_client::FacilitatorClient;
use teller_devnet::contracts::{PERMIT_TOKEN, PLAIN_TOKEN, TEST_DOLLAR};
use teller_domain::{EXACT_PROXY, PERMIT2, UPTO_PROXY};
use teller_schemes::builder_code::{BuilderCodes, Code};
use teller_schemes::permit2::{Permit, Proxy};
use tonic::Code as Status;

use crate::doors::{pays, refused_at_both, settle};
use crate::grpc::channel;
use crate::messages::verify_request;
use crate::permits::sponsoring;
use crate::support::{CHAIN, Chain, Setup, Teller, body, now};
use crate::ways::{
    approving_buyer, audited, buyer, facilitator, permit, permit_body, receipt, setup, signed,
    signed_permit_body, teller, tokens,
};

const PAYEE: Address = Address::repeat_byte(0x46);
const HOP: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_pays_and_is_attributed() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let setup = Setup {
        server: "builder_code = \"teller_test\"\n".to_owned(),
        ..setup(&chain)
    };
    let teller = Teller::start(&chain, setup).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    tokio::time::sleep(HOP).await;
    let permit = permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Exact);
    let mut body = signed_permit_body(&payer, &permit);
    body["paymentPayload"]["extensions"] =
        json!({"builder-code": {"info": {"a": "bc_myapp", "s": ["bc_service", "NOT A CODE"]}}});
    let settled = pays(&mut client, &body).await;
    assert_eq!(
        (&*settled.amount, &*settled.network),
        ("", &*CHAIN.to_string())
    );
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 10_000);
    assert_eq!(tokens(&chain, PLAIN_TOKEN, payer.address).await, 990_000);
    let mined = receipt(&chain, &settled.transaction).await;
    assert_eq!(mined["to"], json!(EXACT_PROXY));
    let sent = chain
        .devnet
        .rpc("eth_getTransactionByHash", json!([settled.transaction]))
        .await
        .unwrap();
    let input = hex::decode(sent["input"].as_str().unwrap()).unwrap();
    let expected = BuilderCodes {
        app: Code::new("bc_myapp"),
        wallet: Code::new("teller_test"),
        services: Code::new("bc_service").into_iter().collect(),
    };
    assert_eq!(BuilderCodes::read(&input).unwrap().0, expected);
    // It is one payment, whichever door it comes to.
    let again = settle(&mut client, &body).await;
    assert_eq!(again.outcome(), proto::SettleOutcome::Duplicate);
    let (_, again) = teller.post("/settle", &body).await;
    assert_eq!(again["errorReason"], "duplicate_settlement", "{again}");
    assert_eq!(again["transaction"], json!(settled.transaction));
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_without_gas_or_allowance_pays_by_a_permit_of_the_token() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let supported = client.supported(proto::SupportedRequest {}).await.unwrap();
    let extensions = supported.into_inner().extensions;
    assert!(
        extensions.contains(&"eip2612GasSponsoring".to_owned()),
        "{extensions:?}"
    );
    let payer = buyer(&chain, PERMIT_TOKEN).await;
    tokio::time::sleep(HOP).await;
    let permit = permit(PERMIT_TOKEN, PAYEE, 10_000, Proxy::Exact);
    let mut body = signed_permit_body(&payer, &permit);
    let bare = client.verify(verify_request(&body)).await.unwrap();
    assert_eq!(bare.get_ref().invalid_reason, "permit2_allowance_required");
    body["paymentPayload"]["extensions"] =
        json!({"eip2612GasSponsoring": {"info": sponsoring(&payer, 10_000)}});
    pays(&mut client, &body).await;
    assert_eq!(tokens(&chain, PERMIT_TOKEN, PAYEE).await, 10_000);
    let ether = chain
        .devnet
        .rpc("eth_getBalance", json!([payer.address, "latest"]));
    assert_eq!(ether.await.unwrap(), "0x0");
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_upto_permits_a_part_or_nothing_is_charged_once() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let supported = client.supported(proto::SupportedRequest {}).await.unwrap();
    let mut kinds = supported.into_inner().kinds;
    let named = facilitator(&chain);
    kinds.retain(|kind| kind.scheme() == proto::Scheme::Upto);
    assert_eq!(
        kinds,
        [proto::SupportedKind {
            x402_version: proto::X402Version::V2.into(),
            scheme: proto::Scheme::Upto.into(),
            network: CHAIN.to_string(),
            facilitator_address: named.to_string(),
            delegation_managers: Vec::new(),
        }]
    );
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    tokio::time::sleep(HOP).await;
    let upto = || {
        let facilitator = named;
        permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Upto { facilitator })
    };
    for (charged, moved) in [(4_000, 4_000), (0, 4_000)] {
        let permit = upto();
        let signature = signed(&payer, permit.digest());
        let charge = |amount| permit_body(payer.address, &permit, &signature, amount);
        let held = client
            .verify(verify_request(&charge(10_000)))
            .await
            .unwrap();
        assert!(held.get_ref().is_valid, "{held:?}");
        let excess = settle(&mut client, &charge(10_001)).await;
        assert_eq!(
            excess.error_reason,
            "invalid_upto_evm_payload_settlement_exceeds_amount"
        );
        let settled = settle(&mut client, &charge(charged)).await;
        assert_eq!(
            settled.outcome(),
            proto::SettleOutcome::Settled,
            "{settled:?}"
        );
        assert_eq!(settled.amount, charged.to_string());
        assert_eq!(settled.transaction.is_empty(), charged == 0);
        if charged > 0 {
            let mined = receipt(&chain, &settled.transaction).await;
            assert_eq!(mined["to"], json!(UPTO_PROXY));
            assert_eq!(mined["from"], json!(named));
        }
        // The rest of it is gone.
        let again = settle(&mut client, &charge(6_000)).await;
        assert_eq!(again.outcome(), proto::SettleOutcome::Duplicate);
        assert_eq!(
            (&again.amount, &again.transaction),
            (&settled.amount, &settled.transaction)
        );
        assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, moved);
    }
    assert_eq!(teller.settlements().await.len(), 2);
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_faulty_payment_gets_the_same_answer_at_both_doors() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    let poor = buyer(&chain, PERMIT_TOKEN).await;
    tokio::time::sleep(HOP).await;
    let exact = permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Exact);
    let by_permit = |permit: Permit| signed_permit_body(&payer, &permit);
    let upto = by_permit(Permit {
        proxy: Proxy::Upto {
            facilitator: facilitator(&chain),
        },
        ..exact
    });
    let sponsored = {
        let permit = permit(PERMIT_TOKEN, PAYEE, 10_000, Proxy::Exact);
        let mut body = signed_permit_body(&poor, &permit);
        body["paymentPayload"]["extensions"] =
            json!({"eip2612GasSponsoring": {"info": sponsoring(&poor, 10_000)}});
        body
    };
    let direct = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    let permits = by_permit(exact);
    for (good, faults) in [
        (&direct, faults_of_a_transfer()),
        (&permits, faults_of_a_permit()),
        (&sponsored, faults_of_a_sponsored_permit()),
        (&upto, faults_of_upto()),
    ] {
        for (pointer, value, reason) in faults {
            let mut body = good.clone();
            set(&mut body, pointer, value);
            let found = refused_at_both(&teller, &mut client, &body).await;
            assert_eq!(found, reason, "{pointer}: {body}");
        }
    }
    for (reason, permit) in [
        (
            "permit2_deadline_expired",
            Permit {
                deadline: U256::from(now() - 100),
                ..exact
            },
        ),
        (
            "permit2_not_yet_valid",
            Permit {
                valid_after: U256::MAX,
                ..exact
            },
        ),
        (
            "permit2_insufficient_balance",
            Permit {
                amount: teller_domain::AssetAmount::from(1_000_001),
                ..exact
            },
        ),
        (
            "upto_facilitator_mismatch",
            Permit {
                proxy: Proxy::Upto { facilitator: PAYEE },
                ..exact
            },
        ),
    ] {
        let found = refused_at_both(&teller, &mut client, &by_permit(permit)).await;
        assert_eq!(found, reason);
    }
    assert!(teller.settlements().await.is_empty());

    // What is no request is an error at both.
    let mut identified = verify_request(&permits);
    identified.payment_identifier = "short".into();
    let mut body = permits.clone();
    body["paymentPayload"]["extensions"] = json!({"payment-identifier": {"info": {"id": "short"}}});
    let mut without = permits.clone();
    without["paymentRequirements"] = Value::Null;
    let bare = proto::VerifyRequest {
        payment_requirements: None,
        ..verify_request(&permits)
    };
    for (body, message) in [(body, identified), (without, bare)] {
        assert_eq!(teller.post("/verify", &body).await.0, 400);
        let status = client.verify(message).await.unwrap_err();
        assert_eq!(status.code(), Status::InvalidArgument, "{status}");
    }
    // None of them has used anything up.
    pays(&mut client, &permits).await;
    pays(&mut client, &sponsored).await;
}

/// A member to change, what to, and what that is called.
type Faults = Vec<(&'static str, Value, &'static str)>;

const SCHEME: &str = "/paymentPayload/accepted/scheme";
const NETWORK: &str = "/paymentPayload/accepted/network";
const VERSION: &str = "/paymentPayload/x402Version";
const SIGNATURE: &str = "/paymentPayload/payload/signature";
const AMOUNT: &str = "/paymentRequirements/amount";
const PAY_TO: &str = "/paymentRequirements/payTo";
const METHOD: &str = "/paymentRequirements/extra/assetTransferMethod";
const FACILITATOR: &str = "/paymentRequirements/extra/facilitatorAddress";

fn faults_of_a_transfer() -> Faults {
    vec![
        (
            AMOUNT,
            json!("10001"),
            "invalid_exact_evm_payload_authorization_value_mismatch",
        ),
        (AMOUNT, json!("-1"), "invalid_payment_requirements"),
        (
            PAY_TO,
            json!(PERMIT2),
            "invalid_exact_evm_recipient_mismatch",
        ),
        (
            "/paymentRequirements/asset",
            json!(PAYEE),
            "asset_not_allowed",
        ),
        (
            "/paymentRequirements/scheme",
            json!("upto"),
            "invalid_upto_evm_scheme",
        ),
        (SCHEME, json!("upto"), "invalid_exact_evm_scheme"),
        (
            NETWORK,
            json!("eip155:1"),
            "invalid_exact_evm_network_mismatch",
        ),
        (NETWORK, json!("nowhere"), "invalid_network"),
        (VERSION, json!(3), "invalid_x402_version"),
        (METHOD, json!("permit2"), "unsupported_payload_type"),
        (METHOD, json!("wire transfer"), "unsupported_payload_type"),
        (
            "/paymentPayload/payload/authorization/value",
            json!("1.5"),
            "invalid_payload",
        ),
        (SIGNATURE, json!("0x0102"), "invalid_exact_evm_signature"),
        (
            "/paymentRequirements/extra/name",
            json!("USD Coin"),
            "invalid_exact_evm_token_name_mismatch",
        ),
    ]
}

fn faults_of_a_permit() -> Faults {
    vec![
        (AMOUNT, json!("9999"), "permit2_amount_mismatch"),
        (
            PAY_TO,
            json!(TEST_DOLLAR),
            "invalid_permit2_recipient_mismatch",
        ),
        (
            "/paymentRequirements/asset",
            json!(TEST_DOLLAR),
            "permit2_token_mismatch",
        ),
        (SCHEME, json!("upto"), "unsupported_payload_type"),
        (
            NETWORK,
            json!("eip155:1"),
            "invalid_exact_evm_network_mismatch",
        ),
        (VERSION, json!(1), "unsupported_payload_type"),
        (METHOD, json!("eip3009"), "unsupported_payload_type"),
        (FACILITATOR, json!("0x"), "invalid_payment_requirements"),
        (SIGNATURE, json!("0x"), "invalid_permit2_signature"),
        (SIGNATURE, json!("0x0102"), "invalid_permit2_signature"),
        (
            "/paymentPayload/payload/permit2Authorization/spender",
            json!(PERMIT2),
            "invalid_permit2_spender",
        ),
        (
            "/paymentPayload/payload/permit2Authorization/nonce",
            json!("1"),
            "invalid_permit2_signature",
        ),
        (
            "/paymentPayload/payload/permit2Authorization/deadline",
            json!("-1"),
            "invalid_payload",
        ),
        (
            "/paymentPayload/payload/permit2Authorization/witness",
            Value::Null,
            "invalid_payload",
        ),
        (
            "/paymentPayload/payload/permit2Authorization/from",
            json!(PAYEE),
            "invalid_permit2_signature",
        ),
    ]
}

fn faults_of_a_sponsored_permit() -> Faults {
    const INFO: [&str; 8] = [
        "/paymentPayload/extensions/eip2612GasSponsoring/info/amount",
        "/paymentPayload/extensions/eip2612GasSponsoring/info/from",
        "/paymentPayload/extensions/eip2612GasSponsoring/info/asset",
        "/paymentPayload/extensions/eip2612GasSponsoring/info/spender",
        "/paymentPayload/extensions/eip2612GasSponsoring/info/deadline",
        "/paymentPayload/extensions/eip2612GasSponsoring/info/nonce",
        "/paymentPayload/extensions/eip2612GasSponsoring/info/signature",
        "/paymentPayload/extensions/eip2612GasSponsoring/info/version",
    ];
    let [
        amount,
        from,
        asset,
        spender,
        deadline,
        nonce,
        signature,
        version,
    ] = INFO;
    vec![
        (amount, json!("0x10"), "invalid_eip2612_extension_format"),
        (amount, json!("9999"), "permit2_2612_amount_mismatch"),
        (from, json!(PAYEE), "eip2612_from_mismatch"),
        (asset, json!(PLAIN_TOKEN), "eip2612_asset_mismatch"),
        (spender, json!(PAYEE), "eip2612_spender_not_permit2"),
        (deadline, json!("1"), "eip2612_deadline_expired"),
        (nonce, json!("1"), "eip2612_invalid_signature"),
        (
            signature,
            json!("0x0102"),
            "invalid_eip2612_extension_format",
        ),
        (version, json!("one"), "invalid_eip2612_extension_format"),
        // Half of it counts as nothing.
        (version, json!(""), "permit2_allowance_required"),
    ]
}

fn faults_of_upto() -> Faults {
    let facilitator = "/paymentPayload/payload/permit2Authorization/witness/facilitator";
    vec![
        (SCHEME, json!("exact"), "invalid_upto_evm_scheme"),
        (
            NETWORK,
            json!("eip155:1"),
            "invalid_upto_evm_network_mismatch",
        ),
        (VERSION, json!(1), "unsupported_scheme"),
        (facilitator, Value::Null, "unsupported_payload_type"),
        (facilitator, json!(PAYEE), "upto_facilitator_mismatch"),
        (METHOD, json!("eip3009"), "unsupported_payload_type"),
        (
            "/paymentPayload/payload/permit2Authorization/nonce",
            json!("x"),
            "unsupported_payload_type",
        ),
        (
            "/paymentPayload/payload/permit2Authorization/spender",
            json!(EXACT_PROXY),
            "invalid_permit2_spender",
        ),
        (SIGNATURE, json!("0x0102"), "invalid_permit2_signature"),
    ]
}

/// Changes a member, or adds it. Version 1 has its members in other places, so that a body of both is made.
fn set(body: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[key] = value;
    if pointer == VERSION {
        body["x402Version"] = body["paymentPayload"]["x402Version"].clone();
        let accepted = body["paymentPayload"]["accepted"].clone();
        body["paymentPayload"]["scheme"] = accepted["scheme"].clone();
        body["paymentPayload"]["network"] = accepted["network"].clone();
        body["paymentRequirements"]["maxAmountRequired"] = accepted["amount"].clone();
    }
}
