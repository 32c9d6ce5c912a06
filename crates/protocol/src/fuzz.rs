//! Fuzz targets: whatever a client sends as JSON. Their inputs start from `crates/fuzz/corpus`.

use alloy_primitives::{Address, U256, hex};
use serde::de::IgnoredAny;
use serde_json::Value;
use teller_fuzz::{Fuzz, Shape};

use crate::extensions::{
    Bazaar, BuilderCodeInfo, Eip2612GasSponsoring, Erc20ApprovalGasSponsoring, Extension,
    Extensions, MAX_SCHEMA_BYTES, PaymentIdentifier, route_template,
};
use crate::json::{Json, JsonError, parse};
use crate::{
    AssetTransferMethod, EvmPayload, EvmRequest, Extra, Fault, ReadError, Resource, Served,
    Version, field,
};

/// What an error may have in bytes.
const LONGEST_DETAIL: usize = 1_024;
/// The most that is echoed of a network's name: 100 characters.
const LONGEST_NETWORK: usize = 400;

const EVERYTHING: Served = Served {
    permit2: true,
    upto: true,
    erc7710: true,
};

/// What is JSON here is JSON to `serde_json`, too, and means the same; what is not is either not JSON at all, or has
/// keys twice, or is too deep. Written again it reads as the same.
#[test]
fn json_is_what_another_reader_takes_it_for() {
    Fuzz::new("json", Shape::Json).run(|data| {
        let other = serde_json::from_slice::<IgnoredAny>(data);
        let json = match parse(data) {
            Ok(json) => json,
            Err(error) => {
                assert!(error.to_string().len() <= LONGEST_DETAIL, "{error}");
                match error {
                    JsonError::Encoding => assert!(std::str::from_utf8(data).is_err()),
                    // serde_json does not look at the surrogates of what it ignores.
                    JsonError::Syntax { .. } => {
                        assert!(other.is_err() || serde_json::from_slice::<Value>(data).is_err());
                    }
                    JsonError::TooDeep | JsonError::DuplicateKey { .. } => {}
                }
                return false;
            }
        };
        assert!(other.is_ok(), "only one of the readers takes it");
        // A number may be too large for a float, which is nothing to this reader.
        if let Ok(other) = serde_json::from_slice::<Value>(data) {
            assert!(same(&json, &other), "the readers see different values");
        }
        let text = json.to_string();
        let again = parse(text.as_bytes()).unwrap();
        assert_eq!(again, json);
        assert_eq!(again.to_string(), text);
        true
    });
}

fn same(json: &Json<'_>, other: &Value) -> bool {
    match (json, other) {
        (Json::Null, Value::Null) => true,
        (Json::Bool(one), Value::Bool(other)) => one == other,
        (Json::Number(one), Value::Number(_)) => {
            serde_json::from_str::<Value>(one).ok().as_ref() == Some(other)
        }
        (Json::String(one), Value::String(other)) => one == other,
        (Json::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Value::Object(other)) => {
            one.members().count() == other.len()
                && one
                    .members()
                    .all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => false,
    }
}

/// A request that is read says the same when it is written and read again, what was signed is what another reader finds
/// in the body, and serving more ways of paying never makes another payment of it.
#[test]
fn a_request_is_read_in_one_way() {
    Fuzz::new("request", Shape::Json).run(|data| {
        let read = EvmRequest::read(data, EVERYTHING);
        let permits = Served {
            permit2: true,
            ..Served::default()
        };
        for served in [Served::default(), permits] {
            match (EvmRequest::read(data, served), &read) {
                (Ok(fewer), Ok(request)) => assert_eq!(written(&fewer), written(request)),
                (Ok(_), Err(error)) => panic!("only with fewer ways of paying: {error}"),
                (Err(error), _) => harmless(&error),
            }
        }
        let request = match read {
            Ok(request) => request,
            Err(error) => {
                harmless(&error);
                return false;
            }
        };
        let text = written(&request);
        let again = EvmRequest::read(text.as_bytes(), EVERYTHING).unwrap();
        assert_eq!(written(&again), text);
        if let Ok(body) = serde_json::from_slice::<Value>(data) {
            signed_as(&body, &request);
        }
        bounded(&request.extensions);
        true
    });
}

/// Names no value of the request: it may be a signature.
fn harmless(error: &ReadError) {
    assert!(error.detail.len() <= LONGEST_DETAIL);
    assert!(error.network.len() <= LONGEST_NETWORK);
    if error.fault != Fault::Body {
        no_value(&error.detail);
    }
}

fn no_value(detail: &str) {
    let is_hex = |run: &str| run.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut words = detail.split(|c: char| !c.is_ascii_alphanumeric());
    assert!(
        !words.any(|word| word.len() >= 32 && is_hex(word)),
        "{detail}"
    );
}

/// Another reader's look at what the payer signed.
fn signed_as(body: &Value, request: &EvmRequest) {
    let payload = &body["paymentPayload"]["payload"];
    let has = |key: &str| payload.get(key).is_some_and(|value| !value.is_null());
    let address = |value: &Value, read: Address| {
        let text = value.as_str().unwrap();
        assert_eq!(text.parse::<Address>().unwrap(), read);
    };
    let number = |value: &Value, read: U256| {
        if let Some(number) = value.as_u64() {
            assert_eq!(U256::from(number), read);
        }
        if let Some(text) = value.as_str() {
            assert_eq!(text.parse::<U256>().unwrap(), read);
        }
    };
    match &request.payload {
        EvmPayload::Eip3009(read) => {
            assert!(!has("permit2Authorization") && !has("delegationManager"));
            let signed = &payload["authorization"];
            address(&signed["from"], read.from);
            address(&signed["to"], read.to);
            number(&signed["value"], read.value);
            number(&signed["validAfter"], read.valid_after);
            number(&signed["validBefore"], read.valid_before);
        }
        EvmPayload::Permit2(read) => {
            let signed = &payload["permit2Authorization"];
            address(&signed["from"], read.from);
            address(&signed["spender"], read.spender);
            address(&signed["permitted"]["token"], read.token);
            address(&signed["witness"]["to"], read.to);
            number(&signed["permitted"]["amount"], read.amount);
            number(&signed["nonce"], read.nonce);
            number(&signed["deadline"], read.deadline);
        }
        EvmPayload::Erc7710(read) => {
            assert!(!has("permit2Authorization"));
            address(&payload["delegator"], read.delegator);
            address(&payload["delegationManager"], read.manager);
        }
    }
    let amount = match request.version {
        Version::V1 => "maxAmountRequired",
        Version::V2 => "amount",
    };
    let demanded = &body["paymentRequirements"];
    number(&demanded[amount], request.requirements.amount);
    address(&demanded["payTo"], request.requirements.pay_to);
    address(&demanded["asset"], request.requirements.asset);
}

fn bounded(extensions: &Extensions) {
    fn detail<T>(extension: &Extension<T>) {
        if let Extension::Malformed(detail) = extension {
            assert!(detail.len() <= LONGEST_DETAIL);
            no_value(detail);
        }
    }
    detail(&extensions.eip2612_gas_sponsoring);
    detail(&extensions.erc20_approval_gas_sponsoring);
    detail(&extensions.payment_identifier);
    detail(&extensions.bazaar);
    detail(&extensions.builder_code);
}

fn text(text: &str) -> String {
    Value::from(text).to_string()
}

/// The body that says what was read, and nothing else.
fn written(request: &EvmRequest) -> String {
    let demanded = &request.requirements;
    let Extra {
        name,
        version,
        asset_transfer_method: method,
    } = &demanded.extra;
    let method = method.map(|method| match method {
        AssetTransferMethod::Eip3009 => "eip3009",
        AssetTransferMethod::Permit2 => "permit2",
        AssetTransferMethod::Erc7710 => "erc7710",
        AssetTransferMethod::Other => "other",
    });
    let facilitator = request
        .facilitator_address
        .map(|address| address.to_string());
    let optional = |value: Option<&str>| value.map_or("null".to_owned(), text);
    let extra = format!(
        r#"{{"name":{},"version":{},"assetTransferMethod":{},"facilitatorAddress":{}}}"#,
        optional(name.as_deref()),
        optional(version.as_deref()),
        optional(method),
        optional(facilitator.as_deref()),
    );
    let (number, amount) = match request.version {
        Version::V1 => (1, "maxAmountRequired"),
        Version::V2 => (2, "amount"),
    };
    let requirements = format!(
        r#"{{"scheme":{},"network":{},"{amount}":"{}","asset":"{}","payTo":"{}","maxTimeoutSeconds":{},"extra":{extra}}}"#,
        text(&demanded.scheme),
        text(&demanded.network),
        demanded.amount,
        demanded.asset,
        demanded.pay_to,
        demanded.max_timeout_seconds,
    );
    let chosen = format!(
        r#""scheme":"{}","network":{}"#,
        request.scheme.as_str(),
        text(&request.network)
    );
    let payload = payload(&request.payload);
    let payload = match request.version {
        Version::V1 => format!(r#"{{"x402Version":1,{chosen},"payload":{payload}}}"#),
        Version::V2 => format!(
            r#"{{"x402Version":2,"accepted":{{{chosen}}},"payload":{payload},"resource":{},"extensions":{}}}"#,
            request
                .resource
                .as_ref()
                .map_or("null".to_owned(), resource),
            extensions(&request.extensions),
        ),
    };
    format!(
        r#"{{"x402Version":{number},"paymentPayload":{payload},"paymentRequirements":{requirements}}}"#
    )
}

fn payload(payload: &EvmPayload) -> String {
    match payload {
        EvmPayload::Eip3009(signed) => format!(
            r#"{{"signature":"{}","authorization":{{"from":"{}","to":"{}","value":"{}","validAfter":"{}","validBefore":"{}","nonce":"{}"}}}}"#,
            signed.signature,
            signed.from,
            signed.to,
            signed.value,
            signed.valid_after,
            signed.valid_before,
            signed.nonce,
        ),
        EvmPayload::Permit2(signed) => format!(
            r#"{{"signature":"{}","permit2Authorization":{{"from":"{}","permitted":{{"token":"{}","amount":"{}"}},"spender":"{}","nonce":"{}","deadline":"{}","witness":{{"to":"{}","facilitator":{},"validAfter":"{}"}}}}}}"#,
            signed.signature,
            signed.from,
            signed.token,
            signed.amount,
            signed.spender,
            signed.nonce,
            signed.deadline,
            signed.to,
            signed
                .facilitator
                .map_or("null".to_owned(), |address| format!("\"{address}\"")),
            signed.valid_after,
        ),
        EvmPayload::Erc7710(redeemed) => format!(
            r#"{{"delegationManager":"{}","permissionContext":"{}","delegator":"{}"}}"#,
            redeemed.manager, redeemed.permission_context, redeemed.delegator,
        ),
    }
}

fn resource(resource: &Resource) -> String {
    serde_json::json!({
        "url": resource.url,
        "description": resource.description,
        "mimeType": resource.mime_type,
        "serviceName": resource.service_name,
        "tags": resource.tags,
        "iconUrl": resource.icon_url,
    })
    .to_string()
}

fn extensions(extensions: &Extensions) -> String {
    let mut members = Vec::new();
    if let Some(BuilderCodeInfo { app, services }) = extensions.builder_code.present() {
        let info = serde_json::json!({"info": {"a": app, "s": services}});
        members.push(format!(r#""builder-code":{info}"#));
    }
    if let Some(PaymentIdentifier { required, id }) = extensions.payment_identifier.present() {
        let info = serde_json::json!({"info": {"required": required, "id": id}});
        members.push(format!(r#""payment-identifier":{info}"#));
    }
    if let Some(bazaar) = extensions.bazaar.present() {
        let Bazaar {
            info,
            schema,
            route_template,
            ..
        } = bazaar;
        let route = route_template.as_deref().map_or("null".to_owned(), text);
        members.push(format!(
            r#""bazaar":{{"info":{info},"schema":{schema},"routeTemplate":{route}}}"#
        ));
    }
    if let Some(sent) = extensions.eip2612_gas_sponsoring.present() {
        members.push(permit(sent));
    }
    if let Some(sent) = extensions.erc20_approval_gas_sponsoring.present() {
        members.push(approval(sent));
    }
    format!("{{{}}}", members.join(","))
}

fn permit(sent: &Eip2612GasSponsoring) -> String {
    format!(
        r#""eip2612GasSponsoring":{{"info":{{"from":"{}","asset":"{}","spender":"{}","amount":"{}","nonce":"{}","deadline":"{}","signature":"{}","version":"1"}}}}"#,
        sent.from, sent.asset, sent.spender, sent.amount, sent.nonce, sent.deadline, sent.signature,
    )
}

fn approval(sent: &Erc20ApprovalGasSponsoring) -> String {
    format!(
        r#""erc20ApprovalGasSponsoring":{{"info":{{"from":"{}","asset":"{}","spender":"{}","amount":"{}","signedTransaction":"{}","version":"1"}}}}"#,
        sent.from, sent.asset, sent.spender, sent.amount, sent.signed_transaction,
    )
}

/// What is listed is JSON of bounded length that leads nowhere else, under a key without query and fragment.
#[test]
fn what_is_listed_is_harmless() {
    Fuzz::new("beside", Shape::Json).run(|data| {
        let Ok(request) = EvmRequest::read(data, EVERYTHING) else {
            return false;
        };
        let found = match request.discoverable {
            Extension::Present(found) => found,
            Extension::Malformed(detail) => {
                assert!(detail.len() <= LONGEST_DETAIL);
                return false;
            }
            Extension::Absent => return false,
        };
        assert!(found.url.starts_with("http://") || found.url.starts_with("https://"));
        assert!(!found.url.contains(['?', '#']), "{}", found.url);
        assert!(!found.url.chars().any(char::is_control));
        assert!(found.requirements.len() <= 8 * 1024);
        is_json(&found.requirements);
        if found.version == Version::V2 {
            assert_eq!(request.resource.as_ref(), Some(&found.resource));
        }
        if let Some(claim) = &found.claim {
            assert!(claim.info.len() <= MAX_SCHEMA_BYTES && claim.schema.len() <= MAX_SCHEMA_BYTES);
            for text in [&claim.info, &claim.schema, &claim.listed] {
                is_json(text);
            }
            if let Ok(schema) = serde_json::from_str(&claim.schema) {
                stays_inside(&schema);
            }
        }
        true
    });
}

fn is_json(text: &str) {
    assert!(serde_json::from_str::<IgnoredAny>(text).is_ok(), "{text}");
}

/// A validator that fetched what is referred to would find nothing to fetch.
fn stays_inside(schema: &Value) {
    match schema {
        Value::Array(items) => items.iter().for_each(stays_inside),
        Value::Object(members) => {
            for (key, value) in members {
                if let ("$ref" | "$id" | "$dynamicRef" | "$recursiveRef", Value::String(target)) =
                    (key.as_str(), value)
                {
                    assert!(target.starts_with('#'), "{target}");
                }
                stays_inside(value);
            }
        }
        _ => {}
    }
}

/// A field that is read is, written again, the same field.
#[test]
fn a_field_is_read_in_one_way() {
    Fuzz::new("text", Shape::Bytes)
        .executions(100_000)
        .run(|data| {
            let Ok(text) = std::str::from_utf8(data) else {
                return false;
            };
            let mut accepted = false;
            if let Ok(number) = field::unsigned(text) {
                assert_eq!(field::unsigned(&number.to_string()), Ok(number));
                assert_eq!(field::unsigned(&format!("{number:#x}")), Ok(number));
                assert_eq!(text.parse::<U256>().unwrap(), number);
                let small = u64::try_from(number).ok();
                assert_eq!(field::unsigned_64(text).ok(), small);
                accepted = true;
            }
            if let Ok(address) = field::address(text) {
                assert_eq!(format!("{address:#x}"), text.to_ascii_lowercase());
                assert!(field::bytes32(text).is_err());
                accepted = true;
            }
            if let Ok(bytes) = field::bytes32(text) {
                assert_eq!(bytes.to_string(), text.to_ascii_lowercase());
                accepted = true;
            }
            if let Ok(bytes) = field::signature(text) {
                assert!(bytes.len() <= field::MAX_SIGNATURE_BYTES);
                assert_eq!(hex::encode_prefixed(&bytes), text.to_ascii_lowercase());
                assert_eq!(field::permission_context(text), Ok(bytes));
                accepted = true;
            }
            if let Ok(bytes) = field::signed_transaction(text) {
                assert_eq!(field::signature(text), Ok(bytes));
            }
            if let Some(route) = route_template(text) {
                let url = format!("https://a.example{route}");
                let url = url::Url::parse(&url).unwrap();
                assert_eq!(url.origin().ascii_serialization(), "https://a.example");
                assert!(!route.contains(['?', '#', '\\', ' ']));
                accepted = true;
            }
            if let Ok(identifier) = PaymentIdentifier::of(text) {
                assert_eq!(identifier.id.as_deref(), Some(text));
                accepted = true;
            }
            accepted
        });
}
