//! From the wire's types to the domain's: networks are looked up, signatures put into one form, and what belongs
//! together is compared.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, Bytes};
use teller_domain::{
    Allowance, AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId,
    Delegation, Eip712Name, IdempotencyKey, PERMIT2, Payment, PaymentRequest, Permit2, PermitTerms,
    Reason, Refusal, TenantId, TokenApproval, TokenPermit, Validity, X402Version, v1_chain,
};
use teller_protocol::extensions::{
    BuilderCodeInfo, Eip2612GasSponsoring, Erc20ApprovalGasSponsoring, Extension, Extensions,
    PaymentIdentifier,
};
use teller_protocol::{
    Discoverable, Eip3009Payload, Erc7710Payload, EvmPayload, EvmRequest, EvmScheme, Extra, Fault,
    PaymentRequirements, Permit2Payload, ReadError, Served, Version,
};
use teller_verify::read_signature;

/// What only some networks offer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offers {
    /// Who redeems delegations (ERC-7710). Where nobody does they are not served.
    pub(crate) delegates: BTreeMap<ChainId, Address>,
    /// Where payers' signed approvals are sent. Elsewhere that extension counts as absent.
    pub(crate) approvals: BTreeSet<ChainId>,
}

impl Offers {
    /// Ways of paying that are read. Which of them a network serves, verification knows.
    pub(crate) fn served(&self) -> Served {
        Served {
            permit2: true,
            upto: true,
            erc7710: !self.delegates.is_empty(),
        }
    }
}

/// A request with the network as its answer must name it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) request: PaymentRequest,
    pub(crate) network: String,
    /// The buyer's id of the payment.
    pub(crate) payment_identifier: Option<IdempotencyKey>,
    /// Whom the buyer attributes the payment to.
    pub(crate) builder_code: Option<BuilderCodeInfo>,
    /// What is paid for, if it wants to be found.
    pub(crate) discoverable: Extension<Discoverable>,
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
    offers: &Offers,
    tenant: &TenantId,
    idempotency_key: Option<IdempotencyKey>,
) -> Result<Asked, Rejection> {
    let wire = EvmRequest::read(body, offers.served())?;
    into_domain(wire, offers, tenant, idempotency_key)
}

/// Turns a wire request into the domain's.
pub(crate) fn into_domain(
    wire: EvmRequest,
    offers: &Offers,
    tenant: &TenantId,
    idempotency_key: Option<IdempotencyKey>,
) -> Result<Asked, Rejection> {
    let rejected = |refusal: Refusal, is_bad_request: bool| Rejection {
        refusal,
        payer: Some(wire.payload.payer()),
        network: wire.requirements.network.clone(),
        is_bad_request,
    };
    let request = request(&wire, offers, tenant, idempotency_key)
        .map_err(|refusal| rejected(refusal, false))?;
    let payment_identifier = payment_identifier(&wire.extensions.payment_identifier)
        .map_err(|refusal| rejected(refusal, true))?;
    Ok(Asked {
        request,
        network: wire.requirements.network,
        payment_identifier,
        builder_code: wire.extensions.builder_code.present().cloned(),
        discoverable: wire.discoverable,
    })
}

/// The buyer's id of the payment, if it is a good one or there is none and none is required.
fn payment_identifier(
    sent: &Extension<PaymentIdentifier>,
) -> Result<Option<IdempotencyKey>, Refusal> {
    const ID: &str = "paymentPayload.extensions.payment-identifier.info.id";
    let refused = |detail: String| Refusal::new(Reason::InvalidPayload, detail);
    let sent = match sent {
        Extension::Absent => return Ok(None),
        Extension::Malformed(detail) => return Err(refused(detail.clone())),
        Extension::Present(sent) => sent,
    };
    match &sent.id {
        Some(id) => {
            let id = id.parse();
            id.map(Some)
                .map_err(|_| refused(format!("{ID} is malformed")))
        }
        None if sent.required => Err(refused(format!("{ID} is required"))),
        None => Ok(None),
    }
}

fn request(
    wire: &EvmRequest,
    offers: &Offers,
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
        EvmPayload::Permit2(signed) => permit2(chain, wire, signed, offers)?,
        EvmPayload::Erc7710(sent) => erc7710(chain, demanded, sent, offers)?,
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
        validity: Validity::signed(signed.valid_after, signed.valid_before),
        authorization: Authorization::Eip3009 {
            signature: read_signature(&signed.signature)?,
        },
    })
}

fn permit2(
    chain: ChainId,
    wire: &EvmRequest,
    signed: &Permit2Payload,
    offers: &Offers,
) -> Result<Payment, Refusal> {
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
        validity: Validity::signed(signed.valid_after, signed.deadline),
        authorization: Authorization::Permit2(Box::new(Permit2 {
            terms,
            signature: read_signature(&signed.signature).map_err(invalid)?,
            allowance: allowance(&wire.extensions, offers.approvals.contains(&chain))?
                .map(Box::new),
        })),
    })
}

/// Nothing but the delegator and its manager is the buyer's word; what moves is what the seller demands.
fn erc7710(
    chain: ChainId,
    demanded: &PaymentRequirements,
    sent: &Erc7710Payload,
    offers: &Offers,
) -> Result<Payment, Refusal> {
    let delegate = offers.delegates.get(&chain).copied().ok_or_else(|| {
        Refusal::new(
            Reason::UnsupportedPayloadType,
            "delegations are not redeemed on this network",
        )
    })?;
    let delegation = Delegation::new(sent.permission_context.clone(), delegate)
        .map_err(|error| Refusal::new(Reason::InvalidPayload, error.to_string()))?;
    Ok(Payment {
        key: AuthorizationKey {
            chain,
            authority: sent.manager,
            payer: sent.delegator,
            nonce: delegation.nonce(),
        },
        asset: demanded.asset,
        payee: demanded.pay_to,
        value: AssetAmount(demanded.amount),
        validity: Delegation::validity(),
        authorization: Authorization::Erc7710(delegation.into()),
    })
}

/// What lets Permit2 move the token, if the buyer sent that along. A permit comes before an approval, which costs a
/// transaction.
fn allowance(sent: &Extensions, takes_approvals: bool) -> Result<Option<Allowance>, Refusal> {
    if let Some(permit) = token_permit(&sent.eip2612_gas_sponsoring)? {
        return Ok(Some(Allowance::Permit(permit)));
    }
    if !takes_approvals {
        return Ok(None);
    }
    let approval = token_approval(&sent.erc20_approval_gas_sponsoring)?;
    Ok(approval.map(Allowance::Approval))
}

/// The extension `eip2612GasSponsoring` (PROTOCOL section 7.1).
fn token_permit(
    extension: &Extension<Eip2612GasSponsoring>,
) -> Result<Option<TokenPermit>, Refusal> {
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

/// The extension `erc20ApprovalGasSponsoring` (PROTOCOL section 7.2). How much is approved, the transaction says.
fn token_approval(
    extension: &Extension<Erc20ApprovalGasSponsoring>,
) -> Result<Option<TokenApproval>, Refusal> {
    let sent = match extension {
        Extension::Absent => return Ok(None),
        Extension::Malformed(detail) => return Err(Refusal::new(Reason::ApprovalFormat, detail)),
        Extension::Present(sent) => sent,
    };
    Ok(Some(TokenApproval {
        owner: sent.from,
        token: sent.asset,
        spender: sent.spender,
        transaction: sent.signed_transaction.clone(),
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

fn domain(extra: &Extra) -> Option<Eip712Name> {
    Some(Eip712Name {
        name: extra.name.clone()?,
        version: extra.version.clone()?,
    })
}

#[cfg(test)]
mod tests;
