//! Permit2, `upto`, ERC-7710 and the extensions: what a body may look like, and what each fault in it is called.
//!
//! One long file, because it is one list of faults.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // helpers outside #[test] functions are tests too

use alloy_primitives::{Address, U256, address};
use proptest::prelude::*;
use serde_json::{Value, json};
use teller_protocol::extensions::{
    BazaarInput, BodyType, BuilderCodeInfo, Extension, HttpMethod, McpTransport, PaymentIdentifier,
};
use teller_protocol::{EvmPayload, EvmRequest, EvmScheme, Fault, ReadError, Served};

const PAYER: Address = address!("857b06519E91e3A54538791bDbb0E22373e36b66");
const ALL: Served = Served {
    permit2: true,
    upto: true,
    erc7710: true,
};

fn body(scheme: &str, payload: Value) -> Value {
    let requirements = json!({
        "scheme": scheme,
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
            "payload": payload,
            "extensions": {},
        },
        "paymentRequirements": requirements,
    })
}

/// PROTOCOL section 3.6.
fn permit2() -> Value {
    let payload = json!({
        "signature": "0xabcd",
        "permit2Authorization": {
            "from": PAYER.to_string(),
            "permitted": {"token": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "amount": "10000"},
            "spender": "0x402085c248EeA27D92E8b30b2C58ed07f9E20001",
            "nonce": "0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480",
            "deadline": "1740672154",
            "witness": {"to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", "validAfter": "0"},
        },
    });
    body("exact", payload)
}

fn upto() -> Value {
    let mut payload = permit2()["paymentPayload"]["payload"].take();
    let signed = &mut payload["permit2Authorization"];
    signed["spender"] = json!("0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");
    signed["witness"]["facilitator"] = json!("0x1111111111111111111111111111111111111111");
    let mut body = body("upto", payload);
    body["paymentRequirements"]["extra"]["facilitatorAddress"] =
        json!("0x1111111111111111111111111111111111111111");
    body
}

/// PROTOCOL section 3.8.
fn erc7710() -> Value {
    let payload = json!({
        "delegationManager": "0x2222222222222222222222222222222222222222",
        "permissionContext": "0x0102",
        "delegator": PAYER.to_string(),
    });
    body("exact", payload)
}

fn eip3009() -> Value {
    let payload = json!({
        "signature": "0xabcd",
        "authorization": {
            "from": PAYER.to_string(),
            "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "value": "10000", "validAfter": "0", "validBefore": "1740672154",
            "nonce": "0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480",
        },
    });
    body("exact", payload)
}

fn read(body: &Value, served: Served) -> Result<EvmRequest, ReadError> {
    EvmRequest::read(&serde_json::to_vec(body).unwrap(), served)
}

fn good(body: &Value) -> EvmRequest {
    read(body, ALL).unwrap()
}

fn fault(body: &Value, served: Served) -> Fault {
    read(body, served).unwrap_err().fault
}

fn with(mut body: Value, pointer: &str, value: Option<Value>) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(key.to_owned(), value),
        None => parent.remove(key),
    };
    body
}

fn extended(id: &str, extension: Value) -> teller_protocol::extensions::Extensions {
    let body = with(
        permit2(),
        &format!("/paymentPayload/extensions/{id}"),
        Some(extension),
    );
    good(&body).extensions
}

#[test]
fn every_way_of_paying_is_read() {
    let EvmPayload::Permit2(signed) = good(&permit2()).payload else {
        panic!("not Permit2");
    };
    assert_eq!(signed.from, PAYER);
    assert_eq!(signed.amount, U256::from(10_000));
    assert_eq!(signed.deadline, U256::from(1_740_672_154));
    assert_eq!(signed.facilitator, None);
    assert_eq!(signed.signature[..], [0xab, 0xcd]);
    assert!(!format!("{signed:?}").contains("abcd"));

    let request = good(&upto());
    assert_eq!(request.scheme, EvmScheme::Upto);
    let named = Some(Address::repeat_byte(0x11));
    assert_eq!(request.facilitator_address, named);
    let EvmPayload::Permit2(signed) = request.payload else {
        panic!("not Permit2");
    };
    assert_eq!(signed.facilitator, named);

    let EvmPayload::Erc7710(delegation) = good(&erc7710()).payload else {
        panic!("not ERC-7710");
    };
    assert_eq!(delegation.manager, Address::repeat_byte(0x22));
    assert_eq!(delegation.permission_context[..], [1, 2]);
    for body in [permit2(), upto(), erc7710(), eip3009()] {
        assert_eq!(good(&body).payload.payer(), PAYER);
    }
}

#[test]
fn what_is_not_served_is_refused_by_its_kind() {
    let none = Served::default();
    assert!(read(&eip3009(), none).is_ok());
    assert_eq!(fault(&permit2(), none), Fault::PayloadKind);
    assert_eq!(fault(&erc7710(), none), Fault::PayloadKind);
    assert_eq!(fault(&upto(), none), Fault::Scheme);
    assert_eq!(read(&permit2(), none).unwrap_err().payer, Some(PAYER));
    assert_eq!(read(&erc7710(), none).unwrap_err().payer, Some(PAYER));
    // `upto` is Permit2 only, v1 is EIP-3009 only.
    for payload in [eip3009(), erc7710()] {
        let payload = payload["paymentPayload"]["payload"].clone();
        assert_eq!(fault(&body("upto", payload), ALL), Fault::PayloadKind);
    }
    let mut v1 = permit2();
    v1["x402Version"] = json!(1);
    v1["paymentPayload"]["x402Version"] = json!(1);
    v1["paymentPayload"]["scheme"] = json!("exact");
    v1["paymentPayload"]["network"] = json!("base-sepolia");
    v1["paymentRequirements"]["maxAmountRequired"] = json!("10000");
    assert_eq!(fault(&v1, ALL), Fault::PayloadKind);
}

#[test]
fn a_transfer_method_that_contradicts_the_payload_is_refused() {
    const METHOD: &str = "/paymentRequirements/extra/assetTransferMethod";
    for (body, own) in [
        (permit2(), "permit2"),
        (upto(), "permit2"),
        (erc7710(), "erc7710"),
        (eip3009(), "eip3009"),
    ] {
        for method in ["permit2", "erc7710", "eip3009", "other"] {
            let body = with(body.clone(), METHOD, Some(json!(method)));
            match read(&body, ALL) {
                Ok(_) => assert_eq!(method, own),
                Err(error) => assert_eq!((error.fault, method != own), (Fault::PayloadKind, true)),
            }
        }
    }
}

#[test]
fn each_malformed_member_of_a_permit_is_named() {
    const SIGNED: &str = "/paymentPayload/payload/permit2Authorization";
    for (member, value) in [
        ("from", json!("0x12")),
        ("permitted", json!([])),
        ("permitted/amount", json!("-1")),
        ("permitted/token", json!(7)),
        ("spender", Value::Null),
        ("nonce", json!("")),
        ("deadline", json!("1.5")),
        ("witness/to", json!("nobody")),
        ("witness/validAfter", json!(true)),
    ] {
        let pointer = format!("{SIGNED}/{member}");
        for (body, expected) in [(permit2(), Fault::Payload), (upto(), Fault::PayloadKind)] {
            let error = read(&with(body, &pointer, Some(value.clone())), ALL).unwrap_err();
            assert_eq!(error.fault, expected, "{member}");
            assert!(error.detail.contains(&member.replace('/', ".")), "{error}");
        }
    }
    let facilitator = format!("{SIGNED}/witness/facilitator");
    assert_eq!(
        fault(&with(upto(), &facilitator, None), ALL),
        Fault::PayloadKind
    );
    let long = json!(format!("0x{}", "00".repeat(16 * 1024 + 1)));
    let long = with(
        erc7710(),
        "/paymentPayload/payload/permissionContext",
        Some(long),
    );
    assert_eq!(fault(&long, ALL), Fault::Payload);
}

#[test]
fn schemes_must_agree() {
    let body = with(
        upto(),
        "/paymentPayload/accepted/scheme",
        Some(json!("exact")),
    );
    assert_eq!(fault(&body, ALL), Fault::UptoSchemeMismatch);
    for (body, expected) in [
        (permit2(), Fault::PayloadKind),
        (eip3009(), Fault::SchemeMismatch),
    ] {
        let body = with(body, "/paymentPayload/accepted/scheme", Some(json!("upto")));
        assert_eq!(fault(&body, ALL), expected);
    }
    let body = with(
        upto(),
        "/paymentRequirements/scheme",
        Some(json!("batch-settlement")),
    );
    assert_eq!(fault(&body, ALL), Fault::Scheme);
}

fn eip2612() -> Value {
    json!({"info": {
        "from": PAYER.to_string(), "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "spender": "0x000000000022D473030F116dDEE9F6B43aC78BA3", "amount": "10000", "nonce": "0",
        "deadline": "1740672154", "signature": "0xabcd", "version": "1",
    }, "schema": {}})
}

#[test]
fn a_gas_sponsoring_without_all_its_members_is_absent_and_a_wrong_one_malformed() {
    let read = |extension| extended("eip2612GasSponsoring", extension).eip2612_gas_sponsoring;
    let good = read(eip2612());
    let info = good.present().unwrap();
    assert_eq!((info.from, info.amount), (PAYER, U256::from(10_000)));
    assert!(!format!("{info:?}").contains("abcd"));
    let changed =
        |key: &str, value: Value| read(with(eip2612(), &format!("/info/{key}"), Some(value)));
    for (key, value) in [
        ("from", json!("")),
        ("nonce", json!(0)),
        ("version", Value::Null),
    ] {
        assert_eq!(changed(key, value), Extension::Absent, "{key}");
    }
    assert_eq!(read(json!({})), Extension::Absent);
    assert_eq!(read(json!({"info": []})), Extension::Absent);
    for (key, value) in [
        ("from", "0x1"),
        ("amount", "0x10"),
        ("deadline", "-1"),
        ("signature", "abcd"),
        ("version", "1."),
        ("version", "v1"),
    ] {
        let found = changed(key, json!(value));
        assert!(
            matches!(&found, Extension::Malformed(text) if text.contains(key)),
            "{found:?}"
        );
    }
    let wrong = read(json!([]));
    assert!(matches!(wrong, Extension::Malformed(_)), "{wrong:?}");
}

#[test]
fn a_signed_approval_is_read_within_its_bound() {
    let extension = |transaction: String| {
        json!({"info": {
            "from": PAYER.to_string(), "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "spender": "0x000000000022D473030F116dDEE9F6B43aC78BA3", "amount": "10000",
            "signedTransaction": transaction, "version": "1",
        }})
    };
    let read = |transaction| {
        extended("erc20ApprovalGasSponsoring", extension(transaction)).erc20_approval_gas_sponsoring
    };
    let good = read("0x02f8".to_owned());
    assert_eq!(good.present().unwrap().signed_transaction[..], [0x02, 0xf8]);
    assert!(!format!("{good:?}").contains("02f8"));
    let long = read(format!("0x{}", "00".repeat(1_025)));
    assert!(matches!(long, Extension::Malformed(_)));
}

#[test]
fn a_payment_identifier_has_its_alphabet_and_length() {
    let read =
        |info: Value| extended("payment-identifier", json!({"info": info})).payment_identifier;
    let id = "pay_7d5d747be160-x";
    assert_eq!(
        read(json!({"required": true, "id": id})),
        Extension::Present(PaymentIdentifier {
            required: true,
            id: Some(id.into())
        })
    );
    assert_eq!(
        read(json!({"required": true})),
        Extension::Present(PaymentIdentifier {
            required: true,
            id: None
        })
    );
    for bad in [
        "",
        "short",
        &"a".repeat(129),
        "pay 7d5d747be160",
        "pay_7d5d747be160é",
    ] {
        let found = read(json!({"required": false, "id": bad}));
        assert!(matches!(found, Extension::Malformed(_)), "{bad}");
    }
    assert!(matches!(
        read(json!({"required": 1})),
        Extension::Malformed(_)
    ));
    assert!(matches!(read(json!({"id": 1})), Extension::Malformed(_)));
}

#[test]
fn builder_codes_are_read_from_both_places_and_bounded() {
    let read = |extension| extended("builder-code", extension).builder_code;
    let expected = |services: &[&str]| {
        Extension::Present(BuilderCodeInfo {
            app: Some("bc_myapp".into()),
            services: services.iter().map(|s| (*s).to_owned()).collect(),
        })
    };
    assert_eq!(
        read(json!({"info": {"a": "bc_myapp", "s": ["x", 1, "y"]}})),
        expected(&["x", "y"])
    );
    assert_eq!(read(json!({"a": "bc_myapp", "s": "x"})), expected(&["x"]));
    assert_eq!(read(json!({"info": {"a": ""}})), Extension::Absent);
    let many = read(json!({"s": vec!["x"; 1_000]}));
    assert_eq!(many.present().unwrap().services.len(), 64);
}

#[test]
fn a_discoverable_resource_says_how_it_is_called() {
    let read = |info: Value| {
        extended(
            "bazaar",
            json!({"info": info, "schema": {"type": "object"}, "routeTemplate": "/:city"}),
        )
        .bazaar
    };
    let found =
        read(json!({"input": {"type": "http", "method": "GET", "queryParams": {"city": "x"}}}));
    let found = found.present().unwrap();
    assert_eq!(
        found.input,
        BazaarInput::Http {
            method: HttpMethod::Get,
            body_type: None
        }
    );
    assert_eq!(found.route_template.as_deref(), Some("/:city"));
    assert_eq!(found.schema, r#"{"type":"object"}"#);
    let post =
        read(json!({"input": {"type": "http", "method": "POST", "bodyType": "json", "body": {}}}));
    assert_eq!(
        post.present().unwrap().input,
        BazaarInput::Http {
            method: HttpMethod::Post,
            body_type: Some(BodyType::Json)
        }
    );
    for key in ["tool", "toolName"] {
        let mcp = read(json!({"input": {"type": "mcp", key: "search", "transport": "sse"}}));
        let expected = BazaarInput::Mcp {
            tool_name: "search".into(),
            transport: Some(McpTransport::Sse),
        };
        assert_eq!(mcp.present().unwrap().input, expected);
    }
    for bad in [
        json!({}),
        json!({"input": {"type": "ftp"}}),
        json!({"input": {"type": "http", "method": "get"}}),
        json!({"input": {"type": "http", "method": "POST"}}),
        json!({"input": {"type": "mcp", "toolName": ""}}),
        json!({"input": {"type": "mcp", "toolName": "t", "transport": "carrier-pigeon"}}),
        json!({"input": {"type": "http", "method": "GET"}, "output": "x".repeat(16 * 1024)}),
    ] {
        assert!(
            matches!(read(bad.clone()), Extension::Malformed(_)),
            "{bad}"
        );
    }
}

#[test]
fn a_schema_that_reaches_outside_or_too_deep_is_refused() {
    let read = |schema: Value| {
        let info = json!({"input": {"type": "http", "method": "GET"}});
        extended("bazaar", json!({"info": info, "schema": schema})).bazaar
    };
    let inside = json!({"$schema": "https://json-schema.org/draft/2020-12/schema",
        "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}});
    assert!(read(inside).present().is_some());
    for reference in [
        "https://evil.example/x",
        "other.json",
        "file:///etc/passwd",
        "",
    ] {
        let schema = json!({"anyOf": [{"type": "null"}, {"$ref": reference}]});
        assert!(
            matches!(read(schema), Extension::Malformed(_)),
            "{reference}"
        );
        assert!(matches!(
            read(json!({"$id": reference})),
            Extension::Malformed(_)
        ));
    }
    let deep = (0..17).fold(json!({}), |inner, _| json!({"not": inner}));
    assert!(matches!(read(deep), Extension::Malformed(_)));
}

/// Any JSON, small.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "0x[0-9a-f]{0,80}".prop_map(Value::from),
        "[a-zA-Z0-9 #/%:.]{0,30}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(
                "(info|input|type|method|\\$ref|s|a|id|[a-z]{1,4})",
                inner,
                0..4
            )
            .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_member_makes_reading_panic(value in any_json(), which in 0_usize..9, of in 0_usize..4) {
        let pointer = [
            "/paymentPayload/payload/permit2Authorization",
            "/paymentPayload/payload/delegationManager",
            "/paymentPayload/payload/signature",
            "/paymentPayload/extensions",
            "/paymentPayload/extensions/bazaar",
            "/paymentPayload/extensions/builder-code",
            "/paymentPayload/extensions/payment-identifier",
            "/paymentPayload/resource",
            "/paymentRequirements/extra",
        ][which];
        let body = [permit2(), upto(), erc7710(), eip3009()][of].clone();
        let _ = read(&with(body, pointer, Some(value)), ALL);
    }

    #[test]
    fn no_change_of_a_byte_makes_reading_panic(at: prop::sample::Index, byte: u8, of in 0_usize..3) {
        let body = [permit2(), upto(), erc7710()][of].clone();
        let body = with(body, "/paymentPayload/extensions/eip2612GasSponsoring", Some(eip2612()));
        let mut bytes = serde_json::to_vec(&body).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = EvmRequest::read(&bytes, ALL);
    }
}

/// Every letter of a key may be written as an escape; what is read is the same.
#[test]
fn a_key_that_is_written_with_escapes_is_the_same_key() {
    let info = json!({"input": {"type": "http", "method": "GET"}});
    let mut v2 = permit2();
    v2["paymentPayload"]["resource"] = json!({"url": "https://a.example/w"});
    v2["paymentPayload"]["extensions"] = json!({
        "payment-identifier": {"info": {"id": "pay_0123456789abcdef"}},
        "bazaar": {"info": info, "schema": {}},
        "builder-code": {"info": {"a": "app"}},
    });
    let mut v1 = eip3009();
    for (pointer, value) in [
        ("/paymentPayload/x402Version", json!(1)),
        ("/paymentPayload/scheme", json!("exact")),
        ("/paymentPayload/network", json!("base-sepolia")),
        ("/paymentRequirements/network", json!("base-sepolia")),
        ("/paymentRequirements/maxAmountRequired", json!("10000")),
        (
            "/paymentRequirements/resource",
            json!("https://a.example/w"),
        ),
        ("/paymentRequirements/outputSchema", info.clone()),
    ] {
        v1 = with(v1, pointer, Some(value));
    }
    v1["x402Version"] = json!(1);
    for plain in [v2, v1] {
        let escaped = escaped(&plain);
        assert!(!escaped.contains("payment"), "{escaped}");
        let read = |text: &str| EvmRequest::read(text.as_bytes(), ALL).unwrap();
        let (plain, escaped) = (read(&plain.to_string()), read(&escaped));
        assert!(matches!(plain.discoverable, Extension::Present(_)));
        assert_eq!(format!("{plain:?}"), format!("{escaped:?}"));
    }
}

/// The value as JSON, with every character of every key written as an escape.
fn escaped(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| {
                let key: String = key
                    .encode_utf16()
                    .map(|unit| format!("\\u{unit:04x}"))
                    .collect();
                format!("\"{key}\":{}", escaped(value))
            });
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(escaped).collect();
            format!("[{}]", items.join(","))
        }
        plain => plain.to_string(),
    }
}
