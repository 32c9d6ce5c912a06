//! The JSON bodies that sellers send to REST, as the messages that they would send to gRPC.

use alloy_primitives::hex;
use serde_json::Value;
use teller_api::proto;

/// What a JSON body says, in messages. What is not there is empty.
pub fn verify_request(body: &Value) -> proto::VerifyRequest {
    let (sent, demanded) = (&body["paymentPayload"], &body["paymentRequirements"]);
    let (version, amount) = match sent["x402Version"].as_u64() {
        Some(1) => (proto::X402Version::V1, "maxAmountRequired"),
        Some(2) => (proto::X402Version::V2, "amount"),
        _ => (proto::X402Version::Unspecified, "amount"),
    };
    let chosen = &sent["accepted"];
    let extra = &demanded["extra"];
    let payload = proto::PaymentPayload {
        x402_version: version.into(),
        scheme: scheme(&chosen["scheme"]),
        network: text(&chosen["network"]),
        payload: Some(payload(&sent["payload"])),
        extensions: Some(extensions(&sent["extensions"])),
        resource: resource(&sent["resource"]),
    };
    let requirements = proto::PaymentRequirements {
        scheme: scheme(&demanded["scheme"]),
        network: text(&demanded["network"]),
        amount: text(&demanded[amount]),
        asset: text(&demanded["asset"]),
        pay_to: text(&demanded["payTo"]),
        max_timeout_seconds: demanded["maxTimeoutSeconds"].as_u64().unwrap_or_default(),
        eip712_name: text(&extra["name"]),
        eip712_version: text(&extra["version"]),
        asset_transfer_method: match extra["assetTransferMethod"].as_str() {
            None => proto::AssetTransferMethod::Unspecified.into(),
            Some("eip3009") => proto::AssetTransferMethod::Eip3009.into(),
            Some("permit2") => proto::AssetTransferMethod::Permit2.into(),
            Some("erc7710") => proto::AssetTransferMethod::Erc7710.into(),
            // A number that nobody knows.
            Some(_) => 99,
        },
        facilitator_address: text(&extra["facilitatorAddress"]),
    };
    proto::VerifyRequest {
        payment_payload: Some(payload),
        payment_requirements: Some(requirements),
        idempotency_key: String::new(),
        payment_identifier: String::new(),
    }
}

fn payload(sent: &Value) -> proto::payment_payload::Payload {
    if !sent["delegationManager"].is_null() {
        return proto::payment_payload::Payload::Erc7710(proto::Erc7710Payload {
            delegation_manager: text(&sent["delegationManager"]),
            delegator: text(&sent["delegator"]),
            permission_context: bytes(&sent["permissionContext"]),
        });
    }
    let signature = bytes(&sent["signature"]);
    let permit = &sent["permit2Authorization"];
    if permit.is_null() {
        let signed = &sent["authorization"];
        return proto::payment_payload::Payload::ExactEip3009(proto::ExactEip3009 {
            authorization: Some(proto::Eip3009Authorization {
                from: text(&signed["from"]),
                to: text(&signed["to"]),
                value: text(&signed["value"]),
                valid_after_decimal: text(&signed["validAfter"]),
                valid_before_decimal: text(&signed["validBefore"]),
                nonce: text(&signed["nonce"]),
                ..Default::default()
            }),
            signature,
        });
    }
    let (permitted, witness) = (&permit["permitted"], &permit["witness"]);
    proto::payment_payload::Payload::Permit2(proto::Permit2Payload {
        permit2_authorization: Some(proto::Permit2Authorization {
            from: text(&permit["from"]),
            permitted: Some(proto::TokenPermissions {
                token: text(&permitted["token"]),
                amount: text(&permitted["amount"]),
            }),
            spender: text(&permit["spender"]),
            nonce: text(&permit["nonce"]),
            deadline: text(&permit["deadline"]),
            witness: witness.is_object().then(|| proto::Permit2Witness {
                to: text(&witness["to"]),
                facilitator: text(&witness["facilitator"]),
                valid_after: text(&witness["validAfter"]),
            }),
        }),
        signature,
    })
}

fn extensions(sent: &Value) -> proto::Extensions {
    let info = |id: &str| Some(&sent[id]["info"]).filter(|info| info.is_object());
    proto::Extensions {
        eip2612_gas_sponsoring: info("eip2612GasSponsoring").map(|info| {
            proto::Eip2612GasSponsoring {
                from: text(&info["from"]),
                asset: text(&info["asset"]),
                spender: text(&info["spender"]),
                amount: text(&info["amount"]),
                nonce: text(&info["nonce"]),
                deadline: text(&info["deadline"]),
                signature: bytes(&info["signature"]),
                version: text(&info["version"]),
            }
        }),
        erc20_approval_gas_sponsoring: info("erc20ApprovalGasSponsoring").map(|info| {
            proto::Erc20ApprovalGasSponsoring {
                from: text(&info["from"]),
                asset: text(&info["asset"]),
                spender: text(&info["spender"]),
                amount: text(&info["amount"]),
                signed_transaction: bytes(&info["signedTransaction"]),
                version: text(&info["version"]),
            }
        }),
        builder_code: info("builder-code").map(|info| proto::BuilderCode {
            app: text(&info["a"]),
            services: info["s"].as_array().unwrap().iter().map(text).collect(),
        }),
        bazaar: sent.get("bazaar").map(|bazaar| {
            let json = |value: &Value| match value {
                Value::Null => String::new(),
                value => value.to_string(),
            };
            proto::Bazaar {
                info_json: json(&bazaar["info"]),
                schema_json: json(&bazaar["schema"]),
                route_template: text(&bazaar["routeTemplate"]),
            }
        }),
    }
}

fn resource(sent: &Value) -> Option<proto::Resource> {
    sent.is_object().then(|| proto::Resource {
        url: text(&sent["url"]),
        description: text(&sent["description"]),
        mime_type: text(&sent["mimeType"]),
        service_name: text(&sent["serviceName"]),
        tags: sent["tags"]
            .as_array()
            .map_or(Vec::new(), |tags| tags.iter().map(text).collect()),
        icon_url: text(&sent["iconUrl"]),
    })
}

fn scheme(name: &Value) -> i32 {
    match name.as_str() {
        Some("exact") => proto::Scheme::Exact.into(),
        Some("upto") => proto::Scheme::Upto.into(),
        _ => proto::Scheme::Unspecified.into(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}
