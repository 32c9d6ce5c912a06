//! What a request body may look like, and what each fault in it is called.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // helpers outside #[test] functions are tests too

use alloy_primitives::U256;
use proptest::prelude::*;
use serde_json::{Value, json};
use teller_protocol::{EvmPayload, EvmRequest, Fault, ReadError, Served, Version};

const PAYER: &str = "0x857b06519E91e3A54538791bDbb0E22373e36b66";

/// PROTOCOL section 11, vector 1.
fn v2() -> Value {
    let requirements = json!({
        "scheme": "exact",
        "network": "eip155:84532",
        "amount": "10000",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "maxTimeoutSeconds": 60,
        "extra": {"name": "USDC", "version": "2"},
    });
    json!({
        "x402Version": 2,
        "paymentPayload": {
            "x402Version": 2,
            "accepted": requirements.clone(),
            "resource": {"url": "https://example.com/weather"},
            "payload": {
                "signature": "0x2d6a7588d6acca505cbf0d9a4a227e0c52c6c34008c8e8986a1283259764173608a2ce6496642e377d6da8dbbf5836e9bd15092f9ecab05ded3d6293af148b571c",
                "authorization": {
                    "from": PAYER,
                    "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
                    "value": "10000",
                    "validAfter": "1740672089",
                    "validBefore": "1740672154",
                    "nonce": "0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480",
                },
            },
            "extensions": {},
        },
        "paymentRequirements": requirements,
    })
}

fn v1() -> Value {
    let mut body = v2();
    body["x402Version"] = json!(1);
    let payload = body["paymentPayload"].as_object_mut().unwrap();
    payload.remove("accepted");
    payload.insert("x402Version".into(), json!(1));
    payload.insert("scheme".into(), json!("exact"));
    payload.insert("network".into(), json!("base-sepolia"));
    let requirements = body["paymentRequirements"].as_object_mut().unwrap();
    let amount = requirements.remove("amount").unwrap();
    requirements.insert("maxAmountRequired".into(), amount);
    requirements.insert("network".into(), json!("base-sepolia"));
    requirements.insert("resource".into(), json!("https://example.com/weather"));
    requirements.insert("description".into(), json!(""));
    requirements.insert("mimeType".into(), json!("application/json"));
    requirements.insert("outputSchema".into(), Value::Null);
    body
}

fn read(body: &Value) -> Result<EvmRequest, ReadError> {
    EvmRequest::read(&serde_json::to_vec(body).unwrap(), Served::default())
}

/// The body with one member changed, or taken away by `None`.
fn with(mut body: Value, pointer: &str, value: Option<Value>) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(key.to_owned(), value),
        None => parent.remove(key),
    };
    body
}

fn fault(body: &Value) -> (Fault, String) {
    let error = read(body).unwrap_err();
    (error.fault, error.detail)
}

const VALUE: &str = "/paymentPayload/payload/authorization/value";
const AMOUNT: &str = "/paymentRequirements/amount";

#[test]
fn both_versions_read() {
    let two = read(&v2()).unwrap();
    assert_eq!(two.version, Version::V2);
    assert_eq!(two.requirements.network, "eip155:84532");
    assert_eq!(two.requirements.amount, U256::from(10_000));
    assert_eq!(two.requirements.extra.name.as_deref(), Some("USDC"));
    let EvmPayload::Eip3009(signed) = &two.payload else {
        panic!("another kind")
    };
    assert_eq!(signed.from.to_string(), PAYER);
    assert_eq!(signed.signature.len(), 65);
    assert!(
        !format!("{two:?}").contains("2d6a7588"),
        "signatures are not printed"
    );

    let one = read(&v1()).unwrap();
    assert_eq!(one.version, Version::V1);
    assert_eq!(one.network, "base-sepolia");
    assert_eq!(one.requirements.amount, U256::from(10_000));
}

#[test]
fn what_is_unknown_absent_or_null_is_tolerated() {
    for (pointer, value) in [
        ("/x402Version", None),
        ("/x402Version", Some(Value::Null)),
        ("/more", Some(json!([{"a": [1, 2.5, true]}]))),
        ("/paymentPayload/resource", None),
        (
            "/paymentPayload/extensions",
            Some(json!({"x": {"info": {}}})),
        ),
        ("/paymentPayload/payload/more", Some(json!("x"))),
        ("/paymentRequirements/extra", None),
        ("/paymentRequirements/extra", Some(Value::Null)),
        ("/paymentRequirements/extra/more", Some(json!({"deep": []}))),
        ("/paymentRequirements/maxTimeoutSeconds", Some(json!(0))),
        (
            "/paymentRequirements/extra/assetTransferMethod",
            Some(json!("eip3009")),
        ),
        ("/paymentPayload/accepted/amount", Some(json!(-1))),
    ] {
        let body = with(v2(), pointer, value);
        assert!(read(&body).is_ok(), "{pointer}: {body}");
    }
}

#[test]
fn numbers_come_as_decimal_hex_or_json_integers() {
    let largest = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
    let bare = serde_json::to_string(&v2())
        .unwrap()
        .replace("\"value\":\"10000\"", &format!("\"value\":{largest}"));
    let request = EvmRequest::read(bare.as_bytes(), Served::default()).unwrap();
    let EvmPayload::Eip3009(signed) = request.payload else {
        panic!("another kind")
    };
    assert_eq!(signed.value, U256::MAX);
    for value in [json!("0x2710"), json!(10_000), json!("010000")] {
        let request = read(&with(v2(), VALUE, Some(value))).unwrap();
        let EvmPayload::Eip3009(signed) = request.payload else {
            panic!("another kind")
        };
        assert_eq!(signed.value, U256::from(10_000));
    }
}

#[test]
fn what_is_no_number_is_refused_with_the_fields_name() {
    let too_large = format!("0x1{}", "0".repeat(64));
    let values = [
        json!("-1"),
        json!(-1),
        json!("1.5"),
        json!(1.5),
        json!("1e3"),
        json!(1e30),
        json!(""),
        json!("0x"),
        json!(" 1"),
        json!("+1"),
        json!("ten"),
        json!(too_large),
        json!("9".repeat(78)),
        json!(true),
        json!([]),
        json!({}),
        Value::Null,
    ];
    for value in values {
        for (pointer, expected) in [(VALUE, Fault::Payload), (AMOUNT, Fault::Requirements)] {
            let (fault, detail) = fault(&with(v2(), pointer, Some(value.clone())));
            let path = pointer.trim_start_matches('/').replace('/', ".");
            assert_eq!(fault, expected, "{value}");
            assert!(detail.starts_with(&format!("{path} ")), "{value}: {detail}");
        }
    }
}

#[test]
fn each_field_that_is_missing_or_malformed_is_named() {
    for pointer in [
        "/paymentPayload/accepted",
        "/paymentPayload/accepted/scheme",
        "/paymentPayload/accepted/network",
        "/paymentPayload/payload",
        "/paymentPayload/payload/signature",
        "/paymentPayload/payload/authorization",
        "/paymentPayload/payload/authorization/from",
        "/paymentPayload/payload/authorization/to",
        "/paymentPayload/payload/authorization/value",
        "/paymentPayload/payload/authorization/validAfter",
        "/paymentPayload/payload/authorization/validBefore",
        "/paymentPayload/payload/authorization/nonce",
        "/paymentRequirements/scheme",
        "/paymentRequirements/network",
        "/paymentRequirements/amount",
        "/paymentRequirements/asset",
        "/paymentRequirements/payTo",
        "/paymentRequirements/maxTimeoutSeconds",
    ] {
        let expected = match pointer.starts_with("/paymentPayload") {
            true => Fault::Payload,
            false => Fault::Requirements,
        };
        let path = pointer.trim_start_matches('/').replace('/', ".");
        for value in [None, Some(json!(true)), Some(json!([]))] {
            let (fault, detail) = fault(&with(v2(), pointer, value));
            assert_eq!(fault, expected, "{pointer}");
            assert!(detail.contains(&path), "{pointer}: {detail}");
        }
    }
    let (_, detail) = fault(&with(v1(), "/paymentPayload/network", None));
    assert_eq!(detail, "paymentPayload.network is missing");
    let (_, detail) = fault(&with(v1(), "/paymentRequirements/maxAmountRequired", None));
    assert_eq!(detail, "paymentRequirements.maxAmountRequired is missing");
}

#[test]
fn addresses_nonces_and_signatures_have_their_form() {
    for (pointer, value) in [
        (
            "/paymentPayload/payload/authorization/from",
            "0x857b06519E91e3A54538791bDbb0E22373e36b6",
        ),
        (
            "/paymentPayload/payload/authorization/to",
            "0x857b06519E91e3A54538791bDbb0E22373e36b6600",
        ),
        ("/paymentPayload/payload/authorization/nonce", "0x00"),
        ("/paymentPayload/payload/signature", "0x123"),
        ("/paymentPayload/payload/signature", "1234"),
    ] {
        assert_eq!(
            fault(&with(v2(), pointer, Some(json!(value)))).0,
            Fault::Payload,
            "{value}"
        );
    }
    for pointer in ["/paymentRequirements/asset", "/paymentRequirements/payTo"] {
        let (fault, _) = fault(&with(v2(), pointer, Some(json!("0x1"))));
        assert_eq!(fault, Fault::Requirements);
    }
    // No checksum is enforced.
    let wrong_checksum = PAYER.replace("Bbb0", "bBB0");
    let body = with(
        v2(),
        "/paymentPayload/payload/authorization/from",
        Some(json!(wrong_checksum)),
    );
    assert!(read(&body).is_ok());
}

#[test]
fn versions_schemes_and_kinds_are_refused_by_name() {
    for (pointer, value, expected) in [
        ("/x402Version", json!(1), Fault::Version),
        ("/x402Version", json!("2"), Fault::Version),
        ("/paymentPayload/x402Version", json!(3), Fault::Version),
        ("/paymentPayload/x402Version", json!("2"), Fault::Version),
        ("/paymentPayload/x402Version", json!(2.0), Fault::Version),
        ("/paymentPayload/x402Version", Value::Null, Fault::Version),
        ("/paymentRequirements/scheme", json!("upto"), Fault::Scheme),
        (
            "/paymentPayload/accepted/scheme",
            json!("upto"),
            Fault::SchemeMismatch,
        ),
        (
            "/paymentPayload/payload/permit2Authorization",
            json!({}),
            Fault::PayloadKind,
        ),
        (
            "/paymentPayload/payload/delegationManager",
            json!("0x"),
            Fault::PayloadKind,
        ),
        (
            "/paymentRequirements/extra/assetTransferMethod",
            json!("permit2"),
            Fault::PayloadKind,
        ),
    ] {
        let body = with(v2(), pointer, Some(value));
        assert_eq!(fault(&body).0, expected, "{pointer}");
    }
}

#[test]
fn a_body_that_is_no_request_is_told_apart() {
    for body in [
        "",
        "{",
        "null",
        "[]",
        "\"x\"",
        "{}",
        r#"{"paymentPayload":{}}"#,
        r#"{"paymentPayload":{},"paymentRequirements":[]}"#,
        r#"{"paymentPayload":null,"paymentRequirements":{}}"#,
        r#"{"paymentPayload":{"a":{"b":1,"b":1}},"paymentRequirements":{}}"#,
    ] {
        let error = EvmRequest::read(body.as_bytes(), Served::default()).unwrap_err();
        assert_eq!(error.fault, Fault::Body, "{body}: {error}");
    }
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let body = serde_json::to_string(&v2())
        .unwrap()
        .replace("{}", &format!("{{\"x\":{deep}}}"));
    assert_eq!(
        EvmRequest::read(body.as_bytes(), Served::default())
            .unwrap_err()
            .fault,
        Fault::Body
    );
}

#[test]
fn an_error_still_names_payer_and_network() {
    let error = read(&with(v2(), VALUE, Some(json!("x")))).unwrap_err();
    assert_eq!(error.payer.unwrap().to_string(), PAYER);
    assert_eq!(error.network, "eip155:84532");
    let error = read(&with(v1(), "/paymentRequirements", Some(json!({})))).unwrap_err();
    assert_eq!(error.network, "base-sepolia");
    let error = read(&json!({"paymentPayload": {}, "paymentRequirements": {}})).unwrap_err();
    assert_eq!((error.payer, error.network.as_str()), (None, ""));
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = EvmRequest::read(&bytes, Served::default());
    }

    /// A good body with some bytes overwritten reaches further in than noise.
    #[test]
    fn no_damage_to_a_good_body_makes_reading_panic(
        at in 0usize..2000, with in proptest::collection::vec(any::<u8>(), 0..8), one in any::<bool>()
    ) {
        let mut body = serde_json::to_vec(&if one { v1() } else { v2() }).unwrap();
        let at = at % body.len();
        let end = (at + with.len()).min(body.len());
        body.splice(at..end, with);
        let _ = EvmRequest::read(&body, Served::default());
    }
}
