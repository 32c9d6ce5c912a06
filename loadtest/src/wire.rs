//! x402 bodies as the official clients and servers send them, and as much of the answers as a load needs.

use std::borrow::Cow;

use alloy_primitives::B256;
use serde::Deserialize;
use serde_json::{Value, json};
use teller_domain::{Asset, Payment, X402Version, v1_name};

/// How long the seller says it waits. Above every facilitator's own limit, below the authorization's life.
pub const MAX_TIMEOUT_SECONDS: u64 = 60;
const RESOURCE: &str = "http://127.0.0.1/report";
const DESCRIPTION: &str = "A report that costs a cent";
const MIME_TYPE: &str = "application/json";

/// The body of `/verify` and `/settle` (PROTOCOL sections 1.2 to 1.4 and 3.1); `None` where version 1 has no name
/// for the network.
pub fn body(payment: &Payment, asset: &Asset, version: X402Version) -> Option<Value> {
    let requirements = requirements(payment, asset, version)?;
    let payload = payload(payment);
    let signed = match version {
        X402Version::V1 => json!({
            "x402Version": 1,
            "scheme": "exact",
            "network": v1_name(asset.chain)?,
            "payload": payload,
        }),
        X402Version::V2 => json!({
            "x402Version": 2,
            "resource": { "url": RESOURCE, "description": DESCRIPTION, "mimeType": MIME_TYPE },
            "accepted": requirements,
            "payload": payload,
        }),
    };
    Some(json!({
        "x402Version": version.number(),
        "paymentPayload": signed,
        "paymentRequirements": requirements,
    }))
}

fn requirements(payment: &Payment, asset: &Asset, version: X402Version) -> Option<Value> {
    let extra = json!({ "name": asset.name, "version": asset.version });
    let requirements = match version {
        X402Version::V1 => json!({
            "scheme": "exact",
            "network": v1_name(asset.chain)?,
            "maxAmountRequired": payment.value,
            "resource": RESOURCE,
            "description": DESCRIPTION,
            "mimeType": MIME_TYPE,
            "payTo": payment.payee,
            "maxTimeoutSeconds": MAX_TIMEOUT_SECONDS,
            "asset": asset.address,
            "extra": extra,
        }),
        X402Version::V2 => json!({
            "scheme": "exact",
            "network": asset.chain,
            "amount": payment.value,
            "asset": asset.address,
            "payTo": payment.payee,
            "maxTimeoutSeconds": MAX_TIMEOUT_SECONDS,
            "extra": extra,
        }),
    };
    Some(requirements)
}

fn payload(payment: &Payment) -> Value {
    let signature = payment.authorization.signature();
    json!({
        "signature": format!("0x{}", hex::encode(signature.to_bytes())),
        "authorization": {
            "from": payment.key.payer,
            "to": payment.payee,
            "value": payment.value,
            "validAfter": payment.validity.valid_after().to_string(),
            "validBefore": payment.validity.end().to_string(),
            "nonce": payment.key.nonce.0,
        },
    })
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Valid, or settled in this transaction.
    Accepted { transaction: Option<B256> },
    /// Refused, pending or failed: the reason, behind the HTTP status where that is not 200.
    Refused { reason: String },
    /// No answer.
    Unanswered { why: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    is_valid: Option<bool>,
    success: Option<bool>,
    #[serde(borrow)]
    invalid_reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error_reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    transaction: Option<Cow<'a, str>>,
}

/// Reads a facilitator's answer (PROTOCOL section 1.4).
pub fn outcome(status: u16, body: &[u8]) -> Outcome {
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(body) else {
        return Outcome::Refused {
            reason: format!("http {status}, no x402 answer"),
        };
    };
    let accepted = answer.is_valid.or(answer.success).unwrap_or(false);
    if accepted && status == 200 {
        let transaction = answer.transaction.and_then(|hash| hash.parse().ok());
        return Outcome::Accepted { transaction };
    }
    let reason = answer
        .invalid_reason
        .or(answer.error_reason)
        .unwrap_or(Cow::Borrowed("no reason"));
    let reason = match status {
        200 => reason.into_owned(),
        _ => format!("http {status} {reason}"),
    };
    Outcome::Refused { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{Signed, tests::one_signed};
    use alloy_primitives::Address;

    fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
        value.pointer(pointer).and_then(Value::as_str).unwrap()
    }

    #[test]
    fn version_2_bodies_have_the_fields_of_the_protocol() {
        let Signed { payment, asset, .. } = one_signed();
        let body = body(&payment, &asset, X402Version::V2).unwrap();
        assert_eq!(body["x402Version"], 2);
        assert_eq!(body["paymentPayload"]["x402Version"], 2);
        let required = &body["paymentRequirements"];
        assert_eq!(&body["paymentPayload"]["accepted"], required);
        assert_eq!(text(required, "/scheme"), "exact");
        assert_eq!(text(required, "/network"), "eip155:84532");
        assert_eq!(text(required, "/amount"), "10000");
        assert_eq!(text(required, "/extra/name"), "USDC");
        assert_eq!(text(required, "/extra/version"), "2");
        assert_eq!(required["maxTimeoutSeconds"], 60);
        assert_eq!(
            text(required, "/asset").parse::<Address>(),
            Ok(asset.address)
        );
        let signed = body.pointer("/paymentPayload/payload").unwrap();
        assert_eq!(text(signed, "/signature").len(), 2 + 2 * 65);
        assert_eq!(text(signed, "/authorization/value"), "10000");
        assert_eq!(text(signed, "/authorization/validAfter"), "0");
        assert_eq!(
            text(signed, "/authorization/validBefore"),
            payment.validity.end().to_string()
        );
        assert_eq!(text(signed, "/authorization/nonce").len(), 2 + 2 * 32);
        assert_eq!(text(signed, "/authorization/to"), text(required, "/payTo"));
    }

    #[test]
    fn version_1_bodies_have_the_fields_of_the_protocol() {
        let Signed { payment, asset, .. } = one_signed();
        let body = body(&payment, &asset, X402Version::V1).unwrap();
        assert_eq!(body["x402Version"], 1);
        let signed = &body["paymentPayload"];
        assert_eq!(signed["x402Version"], 1);
        assert_eq!(text(signed, "/scheme"), "exact");
        assert_eq!(text(signed, "/network"), "base-sepolia");
        assert_eq!(text(signed, "/payload/authorization/value"), "10000");
        assert!(signed.get("accepted").is_none());
        let required = &body["paymentRequirements"];
        assert_eq!(text(required, "/network"), "base-sepolia");
        assert_eq!(text(required, "/maxAmountRequired"), "10000");
        assert!(required.get("amount").is_none());
        assert!(text(required, "/resource").starts_with("http://"));
        assert!(required["description"].is_string());
    }

    #[test]
    fn answers_are_told_apart() {
        let hash = B256::repeat_byte(7);
        let settled =
            format!(r#"{{"success":true,"transaction":"{hash}","network":"eip155:84532"}}"#);
        let accepted = |transaction| Outcome::Accepted { transaction };
        let refused = |reason: &str| Outcome::Refused {
            reason: reason.to_owned(),
        };
        assert_eq!(outcome(200, settled.as_bytes()), accepted(Some(hash)));
        assert_eq!(
            outcome(200, br#"{"isValid":true,"payer":"0x0"}"#),
            accepted(None)
        );
        let pending =
            br#"{"success":false,"errorReason":"settlement_pending","transaction":"0x1"}"#;
        assert_eq!(outcome(200, pending), refused("settlement_pending"));
        let unavailable = br#"{"isValid":false,"invalidReason":"unexpected_verify_error"}"#;
        assert_eq!(
            outcome(503, unavailable),
            refused("http 503 unexpected_verify_error")
        );
        assert_eq!(outcome(502, b"<html>"), refused("http 502, no x402 answer"));
    }
}
