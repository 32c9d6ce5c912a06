//! The checks that need neither the signature nor the chain's state: what was signed against what is demanded, against
//! the configuration and the chain's time.

use alloy_primitives::Address;
use teller_domain::{
    Allowance, Asset, Authorization, Delegation, Payment, PaymentRequest, Reason, Refusal, Scheme,
    TokenPermit, UnixSeconds, X402Version,
};
use teller_schemes::permit2::{Demand, Permit};
use teller_schemes::{eip2612, permit2};
use teller_store::HoldPurpose;

use crate::network::{KnownDomain, Network};
use crate::{Policy, approvals};

/// A seller's text is cut to this many characters before it is repeated.
const QUOTED_LENGTH: usize = 64;

pub(crate) type Checked<T = ()> = Result<T, Refusal>;

/// Everything that needs neither the signature nor the chain's state. Gives the asset that is paid with.
pub(crate) fn check_request<'a>(
    network: &'a Network,
    policy: &Policy,
    request: &PaymentRequest,
    purpose: HoldPurpose,
    now: UnixSeconds,
) -> Checked<&'a KnownDomain> {
    let payment = &request.payment;
    policy.admits(&request.tenant, payment)?;
    let known = network
        .assets
        .iter()
        .find(|known| known.asset.address == request.asset)
        .ok_or_else(|| {
            Refusal::new(
                Reason::AssetNotAllowed,
                format!(
                    "the asset {} is not configured on {}",
                    request.asset, network.chain
                ),
            )
        })?;
    let parties = [payment.key.payer, payment.payee, request.pay_to];
    match &payment.authorization {
        Authorization::Eip3009 { .. } => {
            check_domain(&known.asset, request)?;
            check_parties(&network.own_addresses, parties)?;
            policy.allows(parties)?;
            check_terms(request)?;
            check_window(payment, now, network.margin_seconds)?;
        }
        Authorization::Permit2(signed) => {
            check_parties(&network.own_addresses, parties)?;
            policy.allows(parties)?;
            check_permit(network, request, purpose, now)?;
            match signed.allowance.as_deref() {
                None => {}
                Some(Allowance::Permit(permit)) => {
                    check_token_permit(known, request, permit, now, network.margin_seconds)?;
                }
                Some(Allowance::Approval(_)) if network.approvals.is_none() => {}
                Some(Allowance::Approval(sent)) => approvals::read(payment, sent).map(drop)?,
            }
        }
        Authorization::Erc7710(delegation) => {
            check_parties(&network.own_addresses, parties)?;
            policy.allows(parties)?;
            check_delegation(network, request, delegation)?;
        }
    }
    policy.wants_value(payment)?;
    Ok(known)
}

/// The checks of a Permit2 permit (PROTOCOL sections 3.7 and 4).
fn check_permit(
    network: &Network,
    request: &PaymentRequest,
    purpose: HoldPurpose,
    now: UnixSeconds,
) -> Checked {
    let payment = &request.payment;
    let (Some(permit), permit2::PERMIT2) = (Permit::of(payment), payment.key.authority) else {
        return Err(Refusal::new(
            Reason::InvalidPayload,
            "the permit is spent by another contract than Permit2",
        ));
    };
    let facilitator = match (payment.facilitator(), network.facilitator) {
        (None, _) => Address::ZERO,
        // Whoever was advertised once has permits that name it, and a lane of its own.
        (Some(named), Some(_)) if network.own_addresses.contains(&named) => named,
        (Some(_), Some(advertised)) => advertised,
        (Some(_), None) => {
            let detail = "upto is not served on this network";
            return Err(Refusal::new(Reason::UnsupportedScheme, detail));
        }
    };
    let settles_upto = purpose == HoldPurpose::Settle && payment.scheme() == Scheme::Upto;
    let demand = Demand {
        asset: request.asset,
        pay_to: request.pay_to,
        // When upto is settled, what is demanded is what is charged, and bounded by what is permitted.
        amount: match settles_upto {
            true => payment.permitted(),
            false => request.amount,
        },
        facilitator,
    };
    let spender = permit.proxy.address();
    permit2::check(&permit, spender, &demand, now, network.margin_seconds).map_err(|reason| {
        let (amount, deadline) = (permit.amount, permit.deadline);
        let detail = format!(
            "the permit is over {amount} of {} to {} until {deadline}; required are {} of {} to {}, now is {}",
            permit.token, permit.to, demand.amount, demand.asset, demand.pay_to, now.0
        );
        Refusal::new(reason, detail)
    })?;
    if settles_upto && request.amount > payment.permitted() {
        return Err(Refusal::new(
            Reason::UptoSettlementExceedsAmount,
            format!(
                "{} was permitted, not {}",
                payment.permitted(),
                request.amount
            ),
        ));
    }
    if payment.value != request.amount {
        return Err(Refusal::new(
            Reason::InvalidPayload,
            "another amount than the required one would move",
        ));
    }
    Ok(())
}

/// A delegation says nothing that could be compared: asset, payee and amount are what the seller demands, and whether the
/// delegator allows that, only its manager knows. That manager must be one that is trusted (PROTOCOL section 3.8).
fn check_delegation(
    network: &Network,
    request: &PaymentRequest,
    delegation: &Delegation,
) -> Checked {
    let payment = &request.payment;
    let manager = payment.key.authority;
    if !network.delegation_managers.contains(&manager) {
        return Err(Refusal::new(
            Reason::DelegationManagerNotAllowed,
            format!("the delegation manager {manager} is not on the allow-list"),
        ));
    }
    let demanded = (request.asset, request.pay_to, request.amount);
    let moves = (payment.asset, payment.payee, payment.value);
    let is_whole = demanded == moves && payment.key.nonce == delegation.nonce();
    if is_whole && network.own_addresses.contains(&delegation.delegate) {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::InvalidPayload,
        "the redemption is not what the seller demands, or not this facilitator's to make",
    ))
}

/// The EIP-2612 permit that came along (PROTOCOL section 7.1).
fn check_token_permit(
    known: &KnownDomain,
    request: &PaymentRequest,
    allowance: &TokenPermit,
    now: UnixSeconds,
    margin_seconds: u64,
) -> Checked {
    let sponsored = eip2612::Sponsored {
        payer: request.payment.key.payer,
        asset: request.asset,
        permitted: request.payment.permitted(),
    };
    let TokenPermit { token, .. } = *allowance;
    let allowance = eip2612::SignedPermit::of(allowance);
    eip2612::check(
        &allowance,
        token,
        &sponsored,
        &known.domain,
        now,
        margin_seconds,
    )
    .map_err(|reason| Refusal::new(reason, "the EIP-2612 permit does not fit the payment"))
}

/// The configuration decides the EIP-712 domain; a seller that believes something else is told so.
fn check_domain(asset: &Asset, request: &PaymentRequest) -> Checked {
    let named = request
        .domain
        .as_ref()
        .filter(|named| !named.name.is_empty() && !named.version.is_empty())
        .ok_or_else(|| {
            Refusal::new(
                Reason::MissingEip712Domain,
                "extra.name and extra.version must name the asset's EIP-712 domain",
            )
        })?;
    let fields = [
        ("name", &named.name, &asset.name, Reason::TokenNameMismatch),
        (
            "version",
            &named.version,
            &asset.version,
            Reason::TokenVersionMismatch,
        ),
    ];
    for (field, named, configured, reason) in fields {
        if named != configured {
            let quoted: String = named.chars().take(QUOTED_LENGTH).collect();
            return Err(Refusal::new(
                reason,
                format!("extra.{field} is {quoted:?}, the asset's is {configured:?}"),
            ));
        }
    }
    Ok(())
}

fn check_parties(own: &[Address], parties: [Address; 3]) -> Checked {
    match parties.into_iter().find(|who| own.contains(who)) {
        Some(who) => Err(Refusal::new(
            Reason::FacilitatorIsParty,
            format!("{who} belongs to this facilitator"),
        )),
        None => Ok(()),
    }
}

/// What was signed against what the seller demands.
fn check_terms(request: &PaymentRequest) -> Checked {
    let payment = &request.payment;
    if payment.key.authority != payment.asset {
        return Err(Refusal::new(
            Reason::InvalidPayload,
            "the authorization is spent by another contract than the asset",
        ));
    }
    if payment.payee != request.pay_to {
        return Err(Refusal::new(
            Reason::RecipientMismatch,
            format!(
                "the authorization pays {}, payTo is {}",
                payment.payee, request.pay_to
            ),
        ));
    }
    if payment.value != request.amount {
        let reason = match request.version {
            X402Version::V1 => Reason::ValueMismatchV1,
            X402Version::V2 => Reason::ValueMismatch,
        };
        return Err(Refusal::new(
            reason,
            format!(
                "the authorization is over {}, required is exactly {}",
                payment.value, request.amount
            ),
        ));
    }
    Ok(())
}

/// The time window by the chain's time, with room left to settle.
fn check_window(payment: &Payment, now: UnixSeconds, margin_seconds: u64) -> Checked {
    if payment.valid_before() < now.plus(margin_seconds) {
        return Err(Refusal::new(
            Reason::ValidBefore,
            format!(
                "valid until {}, now is {}, and {margin_seconds} s must be left",
                payment.validity.end(),
                now.0
            ),
        ));
    }
    if payment.valid_after() > now {
        return Err(Refusal::new(
            Reason::ValidAfter,
            format!(
                "valid after {}, now is {}",
                payment.validity.valid_after(),
                now.0
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
