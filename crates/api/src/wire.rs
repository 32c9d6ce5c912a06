//! From the wire's types to the domain's: networks are looked up, signatures put into one form, and what belongs
//! together is compared.

use alloy_primitives::{Address, B256, U256, b256};
use teller_domain::{
    AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId, EcdsaSignature,
    Eip712Name, IdempotencyKey, Payment, PaymentRequest, Reason, Refusal, Scheme, TenantId,
    UnixSeconds, X402Version, v1_chain,
};
use teller_protocol::{Eip3009Payload, Extra, Fault, ReadError, Request, SchemePayload, Version};

/// Half the order of secp256k1: a larger `s` is the other form of the same signature, which tokens refuse (EIP-2).
const HALF_ORDER: B256 = b256!("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0");

/// A request with the network as its answer must name it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) request: PaymentRequest,
    pub(crate) network: String,
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
