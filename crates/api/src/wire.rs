//! From the wire's types to the domain's: networks are looked up, signatures put into one form, and what belongs
//! together is compared.

use alloy_primitives::{Address, B256, U256, b256};
use teller_domain::{
    AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId, EcdsaSignature,
    Eip712Name, IdempotencyKey, Payment, PaymentRequest, Reason, Refusal, Scheme, TenantId,
    UnixSeconds, X402Version, v1_chain,
};
use teller_protocol::extensions::{Extension, PaymentIdentifier};
use teller_protocol::{Eip3009Payload, Extra, Fault, ReadError, Request, SchemePayload, Version};

/// Half the order of secp256k1: a larger `s` is the other form of the same signature, which tokens refuse (EIP-2).
const HALF_ORDER: B256 = b256!("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0");

/// A request with the network as its answer must name it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) request: PaymentRequest,
    pub(crate) network: String,
    /// The buyer's id of the payment.
    pub(crate) payment_identifier: Option<IdempotencyKey>,
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
    into_domain(Request::read(body)?, tenant, idempotency_key)
}

/// Turns a wire request into the domain's.
pub(crate) fn into_domain(
    wire: Request,
    tenant: &TenantId,
    idempotency_key: Option<IdempotencyKey>,
) -> Result<Asked, Rejection> {
    let SchemePayload::Eip3009(signed) = &wire.payload.payload;
    match request(&wire, signed, tenant, idempotency_key) {
        Ok(request) => Ok(Asked {
            request,
            network: wire.requirements.network,
            payment_identifier: None,
        }),
        Err(refusal) => Err(Rejection {
            refusal,
            payer: Some(signed.from),
            network: wire.requirements.network,
            is_bad_request: false,
        }),
    }
}

fn request(
    wire: &Request,
    signed: &Eip3009Payload,
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
    if network(wire.version, &wire.payload.network, chosen)? != chain {
        return Err(Refusal::new(
            Reason::NetworkMismatch,
            format!("{chosen} differs from paymentRequirements.network"),
        ));
    }
    let payment = Payment {
        key: AuthorizationKey {
            chain,
            authority: demanded.asset,
            payer: signed.from,
            nonce: AuthorizationNonce(signed.nonce),
        },
        asset: demanded.asset,
        payee: signed.to,
        value: AssetAmount(signed.value),
        valid_after: moment(signed.valid_after, "validAfter")?,
        valid_before: moment(signed.valid_before, "validBefore")?,
        authorization: Authorization::Eip3009 {
            signature: signature(&signed.signature)?,
        },
    };
    Ok(PaymentRequest {
        tenant: tenant.clone(),
        version: match wire.version {
            Version::V1 => X402Version::V1,
            Version::V2 => X402Version::V2,
        },
        scheme: Scheme::Exact,
        payment,
        pay_to: demanded.pay_to,
        amount: AssetAmount(demanded.amount),
        max_timeout_seconds: demanded.max_timeout_seconds,
        domain: domain(&demanded.extra),
        idempotency_key,
    })
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
            format!(
                "paymentPayload.payload.authorization.{field} lies beyond the end of 64-bit time"
            ),
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

/// 65 bytes with `v` 0, 1, 27 or 28, or the 64 bytes of ERC-2098; low `s` only (PROTOCOL section 3.4).
fn signature(bytes: &[u8]) -> Result<EcdsaSignature, Refusal> {
    let refuse = |detail: &str| Refusal::new(Reason::InvalidSignature, detail);
    let mut signature = match bytes.len() {
        64 => compact(bytes),
        65 => EcdsaSignature::from_bytes(bytes),
        0..64 => return Err(refuse("paymentPayload.payload.signature is too short")),
        _ => {
            return Err(refuse(
                "paymentPayload.payload.signature is not a plain account's; contract wallets are not supported yet",
            ));
        }
    }
    .ok_or_else(|| refuse("paymentPayload.payload.signature has a wrong length"))?;
    signature.v = match signature.v {
        0 | 27 => 27,
        1 | 28 => 28,
        _ => {
            return Err(refuse(
                "paymentPayload.payload.signature ends in a v other than 0, 1, 27 or 28",
            ));
        }
    };
    if signature.s > HALF_ORDER {
        return Err(refuse(
            "paymentPayload.payload.signature has an s in the upper half of the group order",
        ));
    }
    Ok(signature)
}

/// ERC-2098: the top bit of `s` is the parity.
fn compact(bytes: &[u8]) -> Option<EcdsaSignature> {
    let (r, s) = bytes.split_at_checked(32)?;
    let mut s = <[u8; 32]>::try_from(s).ok()?;
    let (top, _) = s.split_first_mut()?;
    let v = 27 + (*top >> 7);
    *top &= 0x7f;
    Some(EcdsaSignature {
        r: B256::try_from(r).ok()?,
        s: B256::from(s),
        v,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::hex;
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
    fn signatures_come_in_three_forms_and_leave_in_one() {
        let standard = hex::decode(SIGNATURE).unwrap();
        let expected = signature(&standard).unwrap();
        assert_eq!(expected.v, 28);
        let mut by_parity = standard.clone();
        by_parity[64] = 1;
        assert_eq!(signature(&by_parity), Ok(expected));
        let mut compact = standard[..64].to_vec();
        compact[32] |= 0x80;
        assert_eq!(signature(&compact), Ok(expected));
        compact[32] &= 0x7f;
        assert_eq!(signature(&compact).unwrap().v, 27);
    }

    #[test]
    fn other_signatures_are_refused() {
        let standard = hex::decode(SIGNATURE).unwrap();
        let mut bad_v = standard.clone();
        bad_v[64] = 29;
        let mut high_s = standard.clone();
        high_s[32] = 0x80;
        let mut just_high = standard.clone();
        just_high[32..64].copy_from_slice(HALF_ORDER.as_slice());
        assert!(signature(&just_high).is_ok());
        just_high[63] += 1;
        let wrapped = vec![0x64; 32 * 10];
        for bytes in [
            &[][..],
            &standard[..63],
            &bad_v,
            &high_s,
            &just_high,
            &wrapped,
        ] {
            let refusal = signature(bytes).unwrap_err();
            assert_eq!(refusal.reason, Reason::InvalidSignature);
        }
        assert!(
            signature(&wrapped)
                .unwrap_err()
                .detail
                .contains("contract wallets")
        );
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
                json!("upto"),
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
                json!({"permit2Authorization": {}}),
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
