//! From the wire's types to the domain's: networks are looked up, signatures put into one form, and what belongs
//! together is compared.

use alloy_primitives::{Address, Bytes, U256};
use teller_domain::{
    AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId, Eip712Name,
    IdempotencyKey, PERMIT2, Payment, PaymentRequest, Permit2, PermitTerms, Reason, Refusal,
    TenantId, TokenPermit, UnixSeconds, X402Version, v1_chain,
};
use teller_protocol::extensions::{
    BuilderCodeInfo, Eip2612GasSponsoring, Extension, PaymentIdentifier,
};
use teller_protocol::{
    Eip3009Payload, EvmPayload, EvmRequest, EvmScheme, Extra, Fault, PaymentRequirements,
    Permit2Payload, ReadError, Served, Version,
};
use teller_verify::read_signature;

/// Ways of paying that are read. Which of them a network serves, verification knows.
const SERVED: Served = Served {
    permit2: true,
    upto: true,
    erc7710: false,
};

/// A request with the network as its answer must name it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) request: PaymentRequest,
    pub(crate) network: String,
    /// The buyer's id of the payment.
    pub(crate) payment_identifier: Option<IdempotencyKey>,
    /// Whom the buyer attributes the payment to.
    pub(crate) builder_code: Option<BuilderCodeInfo>,
}

impl Asked {
    /// Takes the buyer's id of the payment along, if it is a good one or there is none and none is required.
    pub(crate) fn identified(
        self,
        identifier: &Extension<PaymentIdentifier>,
    ) -> Result<Self, Rejection> {
        const ID: &str = "paymentPayload.extensions.payment-identifier.info.id";
        let identifier = match identifier {
            Extension::Absent => return Ok(self),
            Extension::Malformed(detail) => return Err(self.refused(detail.clone())),
            Extension::Present(identifier) => identifier,
        };
        match &identifier.id {
            Some(id) => match id.parse() {
                Ok(id) => Ok(Self {
                    payment_identifier: Some(id),
                    ..self
                }),
                Err(_) => Err(self.refused(format!("{ID} is malformed"))),
            },
            None if identifier.required => Err(self.refused(format!("{ID} is required"))),
            None => Ok(self),
        }
    }

    fn refused(self, detail: String) -> Rejection {
        Rejection {
            refusal: Refusal::new(Reason::InvalidPayload, detail),
            payer: Some(self.request.payment.key.payer),
            network: self.network,
            is_bad_request: true,
        }
    }
}

/// A request that is refused before anybody looks at the payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) refusal: Refusal,
    pub(crate) payer: Option<Address>,
    pub(crate) network: String,
    /// The request is no request at all: HTTP 400 instead of a refusal.
    pub(crate) is_bad_request: bool,
}

impl From<ReadError> for Rejection {
    fn from(error: ReadError) -> Self {
        let reason = match error.fault {
            Fault::Body | Fault::Payload => Reason::InvalidPayload,
            Fault::Version => Reason::InvalidX402Version,
            Fault::Scheme => Reason::UnsupportedScheme,
            Fault::SchemeMismatch => Reason::SchemeMismatch,
            Fault::UptoSchemeMismatch => Reason::UptoSchemeMismatch,
            Fault::PayloadKind => Reason::UnsupportedPayloadType,
            Fault::Requirements => Reason::InvalidPaymentRequirements,
        };
        Self {
            refusal: Refusal::new(reason, error.detail),
            payer: error.payer,
            network: error.network,
            is_bad_request: error.fault == Fault::Body,
        }
    }
}

/// Reads a REST body for a tenant.
pub(crate) fn read(
    body: &[u8],
    tenant: &TenantId,
    idempotency_key: Option<IdempotencyKey>,
) -> Result<Asked, Rejection> {
    into_domain(EvmRequest::read(body, SERVED)?, tenant, idempotency_key)
}

/// Turns a wire request into the domain's.
pub(crate) fn into_domain(
    wire: EvmRequest,
    tenant: &TenantId,
    idempotency_key: Option<IdempotencyKey>,
) -> Result<Asked, Rejection> {
    match request(&wire, tenant, idempotency_key) {
        Ok(request) => Ok(Asked {
            request,
            network: wire.requirements.network,
            payment_identifier: None,
            builder_code: wire.extensions.builder_code.present().cloned(),
        }),
        Err(refusal) => Err(Rejection {
            refusal,
            payer: Some(wire.payload.payer()),
            network: wire.requirements.network,
            is_bad_request: false,
        }),
    }
}

fn request(
    wire: &EvmRequest,
    tenant: &TenantId,
    idempotency_key: Option<IdempotencyKey>,
) -> Result<PaymentRequest, Refusal> {
    let demanded = &wire.requirements;
    let chain = network(
        wire.version,
        &demanded.network,
        "paymentRequirements.network",
    )?;
    let chosen = match wire.version {
        Version::V1 => "paymentPayload.network",
        Version::V2 => "paymentPayload.accepted.network",
    };
    if network(wire.version, &wire.network, chosen)? != chain {
        let reason = match wire.scheme {
            EvmScheme::Exact => Reason::NetworkMismatch,
            EvmScheme::Upto => Reason::UptoNetworkMismatch,
        };
        return Err(Refusal::new(
            reason,
            format!("{chosen} differs from paymentRequirements.network"),
        ));
    }
    let payment = match &wire.payload {
        EvmPayload::Eip3009(signed) => eip3009(chain, demanded, signed)?,
        EvmPayload::Permit2(signed) => permit2(chain, wire, signed)?,
        EvmPayload::Erc7710(_) => {
            return Err(Refusal::new(
                Reason::UnsupportedPayloadType,
                "paymentPayload.payload is of a kind that is not supported",
            ));
        }
    };
    Ok(PaymentRequest {
        tenant: tenant.clone(),
        version: match wire.version {
            Version::V1 => X402Version::V1,
            Version::V2 => X402Version::V2,
        },
        scheme: payment.scheme(),
        payment,
        asset: demanded.asset,
        pay_to: demanded.pay_to,
        amount: AssetAmount(demanded.amount),
        max_timeout_seconds: demanded.max_timeout_seconds,
        domain: domain(&demanded.extra),
        attribution: Bytes::new(),
        idempotency_key,
    })
}

fn eip3009(
    chain: ChainId,
    demanded: &PaymentRequirements,
    signed: &Eip3009Payload,
) -> Result<Payment, Refusal> {
    Ok(Payment {
        key: AuthorizationKey {
            chain,
            authority: demanded.asset,
            payer: signed.from,
            nonce: AuthorizationNonce(signed.nonce),
        },
        asset: demanded.asset,
        payee: signed.to,
        value: AssetAmount(signed.value),
        valid_after: moment(signed.valid_after, "authorization.validAfter")?,
        valid_before: moment(signed.valid_before, "authorization.validBefore")?,
        authorization: Authorization::Eip3009 {
            signature: read_signature(&signed.signature)?,
        },
    })
}

fn permit2(chain: ChainId, wire: &EvmRequest, signed: &Permit2Payload) -> Result<Payment, Refusal> {
    let permitted = AssetAmount(signed.amount);
    // Under exact what was signed is what moves; under upto it is the most that may.
    let (terms, value) = match (wire.scheme, signed.facilitator) {
        (EvmScheme::Exact, _) => (PermitTerms::Exact, permitted),
        (EvmScheme::Upto, Some(facilitator)) => (
            PermitTerms::Upto {
                facilitator,
                permitted,
            },
            AssetAmount(wire.requirements.amount),
        ),
        (EvmScheme::Upto, None) => {
            return Err(Refusal::new(
                Reason::UnsupportedPayloadType,
                "paymentPayload.payload.permit2Authorization.witness.facilitator is missing",
            ));
        }
    };
    if signed.spender != terms.proxy() {
        return Err(Refusal::new(
            Reason::Permit2Spender,
            format!("the permit's spender must be {}", terms.proxy()),
        ));
    }
    let invalid = |refusal: Refusal| Refusal::new(Reason::Permit2InvalidSignature, refusal.detail);
    let deadline = moment(signed.deadline, "permit2Authorization.deadline")?;
    Ok(Payment {
        key: AuthorizationKey {
            chain,
            authority: PERMIT2,
            payer: signed.from,
            nonce: AuthorizationNonce(signed.nonce.into()),
        },
        asset: signed.token,
        payee: signed.to,
        value,
        valid_after: moment(
            signed.valid_after,
            "permit2Authorization.witness.validAfter",
        )?,
        // Permit2 takes a permit in its deadline's second, too.
        valid_before: deadline.plus(1),
        authorization: Authorization::Permit2(Permit2 {
            terms,
            signature: read_signature(&signed.signature).map_err(invalid)?,
            allowance: allowance(&wire.extensions.eip2612_gas_sponsoring)?.map(Box::new),
        }),
    })
}

/// The extension `eip2612GasSponsoring` (PROTOCOL section 7.1).
fn allowance(extension: &Extension<Eip2612GasSponsoring>) -> Result<Option<TokenPermit>, Refusal> {
    let malformed = |detail: &str| Refusal::new(Reason::Eip2612Format, detail);
    let sent = match extension {
        Extension::Absent => return Ok(None),
        Extension::Malformed(detail) => return Err(malformed(detail)),
        Extension::Present(sent) => sent,
    };
    let signature = read_signature(&sent.signature)
        .ok()
        .and_then(|signature| signature.ecdsa())
        .ok_or_else(|| malformed("the EIP-2612 signature is not a plain account's"))?;
    Ok(Some(TokenPermit {
        owner: sent.from,
        token: sent.asset,
        spender: sent.spender,
        value: AssetAmount(sent.amount),
        nonce: sent.nonce,
        deadline: sent.deadline,
        signature,
    }))
}

/// A version 1 name or a CAIP-2 id, never one for the other (PROTOCOL section 1.5).
fn network(version: Version, text: &str, path: &str) -> Result<ChainId, Refusal> {
    let (found, form) = match version {
        Version::V1 => (v1_chain(text), "a network name of x402 version 1"),
        Version::V2 => (text.parse().ok(), "eip155:<chain id>"),
    };
    found.ok_or_else(|| Refusal::new(Reason::InvalidNetwork, format!("{path} must be {form}")))
}

fn moment(seconds: U256, field: &str) -> Result<UnixSeconds, Refusal> {
    let seconds = i64::try_from(seconds).map_err(|_| {
        Refusal::new(
            Reason::InvalidPayload,
            format!("paymentPayload.payload.{field} lies beyond the end of 64-bit time"),
        )
    })?;
    Ok(UnixSeconds(seconds.unsigned_abs()))
}

fn domain(extra: &Extra) -> Option<Eip712Name> {
    Some(Eip712Name {
        name: extra.name.clone()?,
        version: extra.version.clone()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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
        read(
            &serde_json::to_vec(body).unwrap(),
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
            assert_eq!(request.payment.valid_before, UnixSeconds(1_740_672_154));
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
    fn times_beyond_64_bits_are_refused() {
        for field in ["validAfter", "validBefore"] {
            let mut late = body(2, "eip155:84532");
            late["paymentPayload"]["payload"]["authorization"][field] =
                json!("9223372036854775808");
            let refusal = read_as(&late).unwrap_err().refusal;
            assert_eq!(refusal.reason, Reason::InvalidPayload);
            assert!(refusal.detail.contains(field));
        }
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
            assert_eq!(payment.valid_before, UnixSeconds(1_740_672_155));
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
        let Authorization::Permit2(signed) = read(&info).unwrap().request.payment.authorization
        else {
            panic!("no permit")
        };
        let allowance = signed.allowance.unwrap();
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
}
