use alloy_primitives::keccak256;
use teller_domain::Scheme;

use super::*;
use alloy_primitives::{U256, U512};
use serde_json::{Value, json};

const SIGNATURE: &str = "0x2d6a7588d6acca505cbf0d9a4a227e0c52c6c34008c8e8986a1283259764173608a2ce6496642e377d6da8dbbf5836e9bd15092f9ecab05ded3d6293af148b571c";

fn body(version: u8, network: &str) -> Value {
    json!({
        "paymentPayload": {
            "x402Version": version,
            "scheme": "exact",
            "network": network,
            "accepted": {"scheme": "exact", "network": network},
            "payload": {
                "signature": SIGNATURE,
                "authorization": {
                    "from": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
                    "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
                    "value": "10000",
                    "validAfter": "1740672089",
                    "validBefore": "1740672154",
                    "nonce": "0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480",
                },
            },
        },
        "paymentRequirements": {
            "scheme": "exact",
            "network": network,
            "amount": "10000",
            "maxAmountRequired": "10000",
            "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "payTo": "0x1111111111111111111111111111111111111111",
            "maxTimeoutSeconds": 60,
            "extra": {"name": "USDC", "version": "2"},
        },
    })
}

fn read_as(body: &Value) -> Result<Asked, Rejection> {
    read_with(body, &Offers::default())
}

fn read_with(body: &Value, offers: &Offers) -> Result<Asked, Rejection> {
    read(
        &serde_json::to_vec(body).unwrap(),
        offers,
        &TenantId::new("t"),
        None,
    )
}

fn reason(body: &Value) -> Reason {
    read_as(body).unwrap_err().refusal.reason
}

#[test]
fn demands_come_from_the_requirements_and_payment_from_what_was_signed() {
    for (version, network) in [(1, "base-sepolia"), (2, "eip155:84532")] {
        let asked = read_as(&body(version, network)).unwrap();
        assert_eq!(asked.network, network);
        let request = asked.request;
        assert_eq!(request.version.number(), version);
        assert_eq!(request.payment.key.chain, ChainId(84532));
        assert_eq!(request.payment.key.authority, request.payment.asset);
        assert_eq!(request.pay_to, Address::repeat_byte(0x11));
        assert_ne!(request.payment.payee, request.pay_to);
        assert_eq!(request.payment.valid_before().0, 1_740_672_154);
        assert_eq!(request.domain.unwrap().name, "USDC");
    }
}

#[test]
fn networks_have_the_form_of_their_version_and_agree() {
    assert_eq!(reason(&body(1, "eip155:84532")), Reason::InvalidNetwork);
    assert_eq!(reason(&body(2, "base-sepolia")), Reason::InvalidNetwork);
    assert_eq!(reason(&body(1, "nowhere")), Reason::InvalidNetwork);
    assert_eq!(reason(&body(2, "eip155:0x1")), Reason::InvalidNetwork);
    let mut other = body(2, "eip155:84532");
    other["paymentPayload"]["accepted"]["network"] = json!("eip155:8453");
    let rejection = read_as(&other).unwrap_err();
    assert_eq!(rejection.refusal.reason, Reason::NetworkMismatch);
    assert_eq!(rejection.network, "eip155:84532");
    assert!(rejection.payer.is_some());
}

#[test]
fn times_are_the_numbers_that_were_signed() {
    let highest = U256::MAX;
    let mut late = body(2, "eip155:84532");
    let authorization = &mut late["paymentPayload"]["payload"]["authorization"];
    authorization["validAfter"] = json!("18446744073709551616");
    authorization["validBefore"] = json!(highest.to_string());
    let payment = read_as(&late).unwrap().request.payment;
    assert_eq!(payment.validity.valid_after(), U256::ONE << 64);
    assert_eq!(payment.validity.end(), highest);
    let mut late = permit("exact");
    let permit = &mut late["paymentPayload"]["payload"]["permit2Authorization"];
    permit["deadline"] = json!(highest.to_string());
    permit["witness"]["validAfter"] = json!(highest.to_string());
    let payment = read_as(&late).unwrap().request.payment;
    assert_eq!(payment.validity.valid_after(), highest);
    assert_eq!(payment.validity.end(), highest);
    assert_eq!(payment.void_from(), U512::from(highest) + U512::ONE);
}

#[test]
fn a_missing_or_half_domain_is_none() {
    for extra in [
        json!(null),
        json!({}),
        json!({"name": "USDC"}),
        json!({"name": "USDC", "version": ""}),
    ] {
        let mut bare = body(2, "eip155:84532");
        bare["paymentRequirements"]["extra"] = extra;
        assert_eq!(read_as(&bare).unwrap().request.domain, None);
    }
}

#[test]
fn what_cannot_be_a_signature_is_refused() {
    for signature in ["0x", &format!("0x{}", "64".repeat(5_000))] {
        let mut bad = body(2, "eip155:84532");
        bad["paymentPayload"]["payload"]["signature"] = json!(signature);
        assert_eq!(reason(&bad), Reason::InvalidSignature);
    }
}

fn permit(scheme: &str) -> Value {
    let mut body = body(2, "eip155:84532");
    let spender = match scheme {
        "upto" => teller_domain::UPTO_PROXY,
        _ => teller_domain::EXACT_PROXY,
    };
    body["paymentPayload"]["accepted"]["scheme"] = json!(scheme);
    body["paymentRequirements"]["scheme"] = json!(scheme);
    body["paymentPayload"]["payload"] = json!({
        "signature": SIGNATURE,
        "permit2Authorization": {
            "from": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
            "permitted": {"token": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "amount": "20000"},
            "spender": spender,
            "nonce": "7",
            "deadline": "1740672154",
            "witness": {
                "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
                "facilitator": "0x2222222222222222222222222222222222222222",
                "validAfter": "0",
            },
        },
    });
    body
}

#[test]
fn a_permit_moves_what_was_signed_or_under_upto_what_is_demanded() {
    for (scheme, value, terms) in [
        ("exact", 20_000, PermitTerms::Exact),
        (
            "upto",
            10_000,
            PermitTerms::Upto {
                facilitator: Address::repeat_byte(0x22),
                permitted: AssetAmount::from(20_000),
            },
        ),
    ] {
        let request = read_as(&permit(scheme)).unwrap().request;
        let payment = request.payment;
        assert_eq!(request.scheme.as_str(), scheme);
        assert_eq!(payment.key.authority, PERMIT2);
        assert_eq!(payment.value, AssetAmount::from(value));
        assert_eq!(payment.permitted(), AssetAmount::from(20_000));
        assert_eq!(payment.valid_before().0, 1_740_672_155);
        let Authorization::Permit2(signed) = payment.authorization else {
            panic!("no permit")
        };
        assert_eq!((signed.terms, signed.allowance), (terms, None));
    }
}

#[test]
fn each_fault_of_a_permit_has_its_reason() {
    let change = |scheme: &str, pointer: &str, value: Value| {
        let mut body = permit(scheme);
        *body.pointer_mut(pointer).unwrap() = value;
        reason(&body)
    };
    let accepted = "/paymentPayload/accepted/scheme";
    let network = "/paymentPayload/accepted/network";
    let spender = "/paymentPayload/payload/permit2Authorization/spender";
    let facilitator = "/paymentPayload/payload/permit2Authorization/witness/facilitator";
    for (scheme, pointer, value, expected) in [
        (
            "exact",
            accepted,
            json!("upto"),
            Reason::UnsupportedPayloadType,
        ),
        ("upto", accepted, json!("exact"), Reason::UptoSchemeMismatch),
        ("exact", network, json!("eip155:1"), Reason::NetworkMismatch),
        (
            "upto",
            network,
            json!("eip155:1"),
            Reason::UptoNetworkMismatch,
        ),
        ("exact", spender, json!(PERMIT2), Reason::Permit2Spender),
        ("upto", spender, json!(PERMIT2), Reason::Permit2Spender),
        (
            "upto",
            facilitator,
            json!(null),
            Reason::UnsupportedPayloadType,
        ),
    ] {
        assert_eq!(
            change(scheme, pointer, value),
            expected,
            "{scheme} {pointer}"
        );
    }
    let mut empty = permit("exact");
    empty["paymentPayload"]["payload"]["signature"] = json!("0x");
    assert_eq!(reason(&empty), Reason::Permit2InvalidSignature);
}

#[test]
fn a_gas_sponsoring_travels_with_its_permit() {
    let info = json!({
        "from": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "spender": PERMIT2, "amount": "20000", "nonce": "3", "deadline": "99", "signature": SIGNATURE,
        "version": "1",
    });
    let read = |info: &Value| {
        let mut body = permit("exact");
        body["paymentPayload"]["extensions"] = json!({"eip2612GasSponsoring": {"info": info}});
        read_as(&body)
    };
    let Authorization::Permit2(signed) = read(&info).unwrap().request.payment.authorization else {
        panic!("no permit")
    };
    let allowance = signed.token_permit().unwrap();
    assert_eq!(allowance.value, AssetAmount::from(20_000));
    assert_eq!(
        (allowance.nonce, allowance.deadline),
        (U256::from(3), U256::from(99))
    );
    for (member, value) in [("amount", "0x1"), ("signature", "0x1234")] {
        let mut bad = info.clone();
        bad[member] = json!(value);
        assert_eq!(
            read(&bad).unwrap_err().refusal.reason,
            Reason::Eip2612Format
        );
    }
}

#[test]
fn a_signed_approval_travels_with_its_permit_where_it_is_offered() {
    let info = json!({
        "from": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "spender": PERMIT2, "amount": "1", "signedTransaction": "0x02abcd", "version": "1",
    });
    let token_permit = json!({
        "from": info["from"], "asset": info["asset"], "spender": PERMIT2, "amount": "20000", "nonce": "3",
        "deadline": "99", "signature": SIGNATURE, "version": "1",
    });
    let here = Offers {
        approvals: [ChainId(84532)].into(),
        ..Offers::default()
    };
    let read = |extensions: Value, offers: &Offers| {
        let mut body = permit("exact");
        body["paymentPayload"]["extensions"] = extensions;
        let asked = read_with(&body, offers).map_err(|rejection| rejection.refusal.reason)?;
        let Authorization::Permit2(signed) = asked.request.payment.authorization else {
            panic!("no permit")
        };
        Ok(signed.allowance.map(|allowance| *allowance))
    };
    let approval = json!({"erc20ApprovalGasSponsoring": {"info": info}});
    let Ok(Some(Allowance::Approval(read_back))) = read(approval.clone(), &here) else {
        panic!("no approval")
    };
    assert_eq!(read_back.spender, PERMIT2);
    assert_eq!(read_back.transaction[..], [0x02, 0xab, 0xcd]);
    assert_eq!(read(approval, &Offers::default()), Ok(None));
    let both = json!({
        "erc20ApprovalGasSponsoring": {"info": {"from": "0x"}}, "eip2612GasSponsoring": {"info": token_permit},
    });
    assert!(matches!(read(both, &here), Ok(Some(Allowance::Permit(_)))));
    for (member, value) in [
        ("amount", "0x1"),
        ("version", "one"),
        ("signedTransaction", "0x0"),
    ] {
        let mut bad = info.clone();
        bad[member] = json!(value);
        let bad = json!({"erc20ApprovalGasSponsoring": {"info": bad}});
        assert_eq!(read(bad.clone(), &here), Err(Reason::ApprovalFormat));
        assert_eq!(read(bad, &Offers::default()), Ok(None));
    }
    let half = json!({"erc20ApprovalGasSponsoring": {"info": {"from": info["from"]}}});
    assert_eq!(read(half, &here), Ok(None));
}

#[test]
fn each_fault_has_its_reason() {
    let change = |pointer: &str, value: Value| {
        let mut body = body(2, "eip155:84532");
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    for (pointer, value, expected) in [
        (
            "/paymentPayload/x402Version",
            json!(3),
            Reason::InvalidX402Version,
        ),
        (
            "/paymentRequirements/scheme",
            json!("batch-settlement"),
            Reason::UnsupportedScheme,
        ),
        (
            "/paymentPayload/accepted/scheme",
            json!("upto"),
            Reason::SchemeMismatch,
        ),
        (
            "/paymentPayload/payload/authorization/value",
            json!("-1"),
            Reason::InvalidPayload,
        ),
        (
            "/paymentRequirements/amount",
            json!("-1"),
            Reason::InvalidPaymentRequirements,
        ),
        (
            "/paymentPayload/payload",
            json!({"delegationManager": "0x"}),
            Reason::UnsupportedPayloadType,
        ),
    ] {
        let rejection = read_as(&change(pointer, value)).unwrap_err();
        assert_eq!(rejection.refusal.reason, expected);
        assert!(!rejection.is_bad_request);
    }
    let rejection = read_as(&change("/paymentPayload", json!([]))).unwrap_err();
    assert!(rejection.is_bad_request);
    assert_eq!(rejection.refusal.reason, Reason::InvalidPayload);
}

fn delegation_body() -> Value {
    let mut body = body(2, "eip155:84532");
    for side in ["/paymentRequirements", "/paymentPayload/accepted"] {
        body.pointer_mut(side).unwrap()["extra"] = json!({"assetTransferMethod": "erc7710"});
    }
    *body.pointer_mut("/paymentPayload/payload").unwrap() = json!({
        "delegationManager": Address::repeat_byte(0x71),
        "permissionContext": "0x010203",
        "delegator": Address::repeat_byte(0x72),
    });
    body
}

#[test]
fn a_delegation_pays_what_the_seller_demands_and_is_named_by_its_context() {
    let delegate = Address::repeat_byte(0x73);
    let offers = Offers {
        delegates: [(ChainId(84532), delegate)].into(),
        ..Offers::default()
    };
    let asked = read_with(&delegation_body(), &offers).unwrap();
    let PaymentRequest {
        payment,
        pay_to,
        amount,
        ..
    } = asked.request;
    assert_eq!(payment.key.authority, Address::repeat_byte(0x71));
    assert_eq!(payment.key.payer, Address::repeat_byte(0x72));
    assert_eq!(payment.key.nonce.0, keccak256([1, 2, 3]));
    assert_eq!((payment.payee, payment.value), (pay_to, amount));
    assert_eq!(payment.facilitator(), Some(delegate));
    assert_eq!(payment.scheme(), Scheme::Exact);
    // Whom it pays, and how much, tells one payment from another, and frees no context.
    let mut other = delegation_body();
    other["paymentRequirements"]["amount"] = json!("7");
    let other = read_with(&other, &offers).unwrap().request.payment;
    assert_eq!(other.key, payment.key);
    assert_ne!(other.digest(), payment.digest());
}

#[test]
fn delegations_are_refused_where_nobody_redeems_them() {
    let unsupported = |offers: &Offers| {
        let rejection = read_with(&delegation_body(), offers).unwrap_err();
        rejection.refusal.reason == Reason::UnsupportedPayloadType
    };
    assert!(unsupported(&Offers::default()));
    let elsewhere = Offers {
        delegates: [(ChainId(8453), Address::ZERO)].into(),
        ..Offers::default()
    };
    assert!(unsupported(&elsewhere));
}
