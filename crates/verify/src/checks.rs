//! The checks that are pure: what was signed against what is demanded, against the configuration and the chain's time,
//! and what an inspection says.

use alloy_primitives::Address;
use teller_chain::{AuthorizationState, Inspection, Simulation};
use teller_domain::{
    Asset, AssetAmount, Authorization, Payment, PaymentRequest, Reason, Refusal, UnixSeconds,
    X402Version,
};
use teller_schemes::eip3009::classify_revert;
use teller_schemes::recover;

use crate::Policy;
use crate::network::{KnownDomain, Network};

/// A seller's text is cut to this many characters before it is repeated.
const QUOTED_LENGTH: usize = 64;

type Checked<T = ()> = Result<T, Refusal>;

/// Everything that needs neither the signature nor the chain's state. Gives the asset that is paid with.
pub(crate) fn check_request<'a>(
    network: &'a Network,
    policy: &Policy,
    request: &PaymentRequest,
    now: UnixSeconds,
) -> Checked<&'a KnownDomain> {
    let payment = &request.payment;
    policy.admits(&request.tenant, payment)?;
    let known = network
        .assets
        .iter()
        .find(|known| known.asset.address == payment.asset)
        .ok_or_else(|| {
            Refusal::new(
                Reason::AssetNotAllowed,
                format!(
                    "the asset {} is not configured on {}",
                    payment.asset, network.chain
                ),
            )
        })?;
    check_domain(&known.asset, request)?;
    let parties = [payment.key.payer, payment.payee, request.pay_to];
    check_parties(&network.own_addresses, parties)?;
    policy.allows(parties)?;
    check_terms(request)?;
    check_window(payment, now, network.margin_seconds)?;
    Ok(known)
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
    if payment.valid_before < now.plus(margin_seconds) {
        return Err(Refusal::new(
            Reason::ValidBefore,
            format!(
                "valid until {}, now is {}, and {margin_seconds} s must be left",
                payment.valid_before.0, now.0
            ),
        ));
    }
    if payment.valid_after > now {
        return Err(Refusal::new(
            Reason::ValidAfter,
            format!("valid after {}, now is {}", payment.valid_after.0, now.0),
        ));
    }
    Ok(())
}

/// Whether the payer signed this under the asset's configured domain.
pub(crate) fn check_signature(known: &KnownDomain, payment: &Payment) -> Checked {
    let Authorization::Eip3009 { signature } = payment.authorization;
    let digest = known.domain.digest(payment);
    if recover(digest, &signature) == Some(payment.key.payer) {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::InvalidSignature,
        "the signature is not the payer's over these fields",
    ))
}

/// What the chain says. Gives the payer's balance.
pub(crate) fn check_inspection(payment: &Payment, inspection: &Inspection) -> Checked<AssetAmount> {
    if inspection.code_size > 0 {
        return Err(Refusal::new(
            Reason::PayerHasCode,
            "the payer is a contract or delegates to one (EIP-7702), which is not supported",
        ));
    }
    let balance = inspection.balance.ok_or_else(|| {
        Refusal::new(
            Reason::AssetNotDeployed,
            "there is no token at the asset's address",
        )
    })?;
    match inspection.authorization {
        AuthorizationState::Unused => {}
        AuthorizationState::Used => {
            return Err(Refusal::new(
                Reason::NonceAlreadyUsed,
                "the authorization was used or cancelled",
            ));
        }
        AuthorizationState::Unreadable => {
            return Err(Refusal::new(
                Reason::Eip3009NotSupported,
                "the asset does not answer authorizationState",
            ));
        }
    }
    if balance < payment.value {
        return Err(Refusal::new(
            Reason::InsufficientBalance,
            format!("the payer has {balance}, the payment is {}", payment.value),
        ));
    }
    match &inspection.simulation {
        Simulation::Succeeded { .. } | Simulation::Skipped => Ok(balance),
        Simulation::Reverted(data) => Err(Refusal::new(
            classify_revert(data).unwrap_or(Reason::SimulationFailed),
            "the transfer would revert",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::time::Duration;

    use alloy_primitives::{B256, Bytes};
    use teller_chain::{InspectLimits, Inspector, NodeConfig, Nodes, watch_heads};
    use teller_domain::{
        AuthorizationKey, AuthorizationNonce, BlockRef, ChainId, EcdsaSignature, Eip712Name,
        Scheme, TenantId, known_assets,
    };
    use teller_schemes::eip3009::Domain;
    use teller_schemes::sign;

    use super::*;
    use crate::{TenantPolicy, VerifyNetwork};

    const CHAIN: ChainId = ChainId(84532);
    const SECRET: [u8; 32] = [7; 32];
    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);
    const PAYEE: Address = Address::repeat_byte(0x22);
    const OWN: Address = Address::repeat_byte(0x33);
    const DENIED: Address = Address::repeat_byte(0x44);

    fn asset() -> Asset {
        known_assets(CHAIN).next().unwrap()
    }

    /// A network whose node is never asked.
    fn network() -> Network {
        let nodes = Nodes::connect(NodeConfig {
            chain: CHAIN,
            rpc: vec!["http://127.0.0.1:1".to_owned()],
            flashblocks: Vec::new(),
            request_timeout: Duration::from_secs(1),
        })
        .unwrap();
        let heads = watch_heads(nodes.clone(), Duration::from_secs(60));
        VerifyNetwork {
            chain: CHAIN,
            assets: vec![asset()],
            own_addresses: vec![OWN],
            inspector: Inspector::spawn(nodes, heads.clone(), InspectLimits::default()),
            heads,
            margin_seconds: 6,
        }
        .into()
    }

    fn policy() -> Policy {
        let elsewhere = TenantPolicy {
            networks: Some(HashSet::from([ChainId(8453)])),
            ..TenantPolicy::default()
        };
        let without_assets = TenantPolicy {
            assets: Some(HashSet::new()),
            ..TenantPolicy::default()
        };
        Policy {
            denied: HashSet::from([DENIED]),
            tenants: HashMap::from([
                (TenantId::new("elsewhere"), elsewhere),
                (TenantId::new("without assets"), without_assets),
            ]),
            ..Policy::default()
        }
    }

    fn sign_again(request: &mut PaymentRequest) {
        let digest = Domain::new(&asset()).digest(&request.payment);
        let signature = sign(digest, &SECRET).unwrap();
        request.payment.authorization = Authorization::Eip3009 { signature };
    }

    fn good() -> PaymentRequest {
        let signature = sign(B256::ZERO, &SECRET).unwrap();
        let payer = recover(B256::ZERO, &signature).unwrap();
        let asset = asset();
        let mut request = PaymentRequest {
            tenant: TenantId::new("seller"),
            version: X402Version::V2,
            scheme: Scheme::Exact,
            payment: Payment {
                key: AuthorizationKey {
                    chain: CHAIN,
                    authority: asset.address,
                    payer,
                    nonce: AuthorizationNonce(B256::repeat_byte(1)),
                },
                asset: asset.address,
                payee: PAYEE,
                value: AssetAmount::from(10_000),
                valid_after: UnixSeconds(0),
                valid_before: NOW.plus(60),
                authorization: Authorization::Eip3009 { signature },
            },
            pay_to: PAYEE,
            amount: AssetAmount::from(10_000),
            max_timeout_seconds: 60,
            domain: Some(Eip712Name {
                name: asset.name,
                version: asset.version,
            }),
            idempotency_key: None,
        };
        sign_again(&mut request);
        request
    }

    fn verdict(network: &Network, request: &PaymentRequest) -> Option<Reason> {
        check_request(network, &policy(), request, NOW)
            .and_then(|known| check_signature(known, &request.payment))
            .err()
            .map(|refusal| refusal.reason)
    }

    fn signature_of(request: &mut PaymentRequest) -> &mut EcdsaSignature {
        let Authorization::Eip3009 { signature } = &mut request.payment.authorization;
        signature
    }

    type Fault = fn(&mut PaymentRequest);

    #[tokio::test]
    async fn each_single_fault_has_exactly_its_reason() {
        let network = network();
        let faults: &[(&str, Reason, Fault)] = &[
            ("tenant's networks", Reason::PolicyRefused, |r| {
                r.tenant = TenantId::new("elsewhere");
            }),
            ("tenant's assets", Reason::PolicyRefused, |r| {
                r.tenant = TenantId::new("without assets");
            }),
            ("asset", Reason::AssetNotAllowed, |r| {
                r.payment.asset = Address::repeat_byte(9);
                r.payment.key.authority = r.payment.asset;
            }),
            ("no domain", Reason::MissingEip712Domain, |r| {
                r.domain = None
            }),
            ("empty name", Reason::MissingEip712Domain, |r| {
                r.domain.as_mut().unwrap().name.clear();
            }),
            ("empty version", Reason::MissingEip712Domain, |r| {
                r.domain.as_mut().unwrap().version.clear();
            }),
            ("name", Reason::TokenNameMismatch, |r| {
                r.domain.as_mut().unwrap().name = "USD Coin".to_owned();
            }),
            ("version", Reason::TokenVersionMismatch, |r| {
                r.domain.as_mut().unwrap().version = "1".to_owned();
            }),
            ("own payer", Reason::FacilitatorIsParty, |r| {
                r.payment.key.payer = OWN
            }),
            ("own payee", Reason::FacilitatorIsParty, |r| {
                (r.payment.payee, r.pay_to) = (OWN, OWN);
            }),
            ("denied payer", Reason::PolicyRefused, |r| {
                r.payment.key.payer = DENIED
            }),
            ("denied payee", Reason::PolicyRefused, |r| {
                (r.payment.payee, r.pay_to) = (DENIED, DENIED);
            }),
            ("authority", Reason::InvalidPayload, |r| {
                r.payment.key.authority = Address::repeat_byte(9);
            }),
            ("recipient", Reason::RecipientMismatch, |r| {
                r.pay_to = Address::repeat_byte(9);
            }),
            ("pays less", Reason::ValueMismatch, |r| {
                r.amount = AssetAmount::from(10_001)
            }),
            ("pays more", Reason::ValueMismatch, |r| {
                r.amount = AssetAmount::from(9_999)
            }),
            ("v1 value", Reason::ValueMismatchV1, |r| {
                r.version = X402Version::V1;
                r.amount = AssetAmount::from(9_999);
            }),
            ("expires", Reason::ValidBefore, |r| {
                r.payment.valid_before = NOW.plus(5)
            }),
            ("not yet", Reason::ValidAfter, |r| {
                r.payment.valid_after = NOW.plus(1)
            }),
            ("nonce", Reason::InvalidSignature, |r| {
                r.payment.key.nonce = AuthorizationNonce(B256::repeat_byte(2));
            }),
            ("r", Reason::InvalidSignature, |r| {
                signature_of(r).r = B256::ZERO
            }),
            ("s", Reason::InvalidSignature, |r| {
                signature_of(r).s = B256::repeat_byte(0xff)
            }),
            ("v", Reason::InvalidSignature, |r| {
                let signature = signature_of(r);
                signature.v = 55 - signature.v;
            }),
            ("other payer", Reason::InvalidSignature, |r| {
                r.payment.key.payer = Address::repeat_byte(8);
            }),
        ];
        for (what, reason, spoil) in faults {
            let mut request = good();
            spoil(&mut request);
            assert_eq!(verdict(&network, &request), Some(*reason), "{what}");
        }
    }

    #[tokio::test]
    async fn what_is_good_passes_to_the_edge_of_its_window() {
        let network = network();
        assert_eq!(verdict(&network, &good()), None);
        let edges: &[Fault] = &[
            |r| r.payment.valid_before = NOW.plus(6),
            |r| r.payment.valid_after = NOW,
            |r| (r.payment.value, r.amount) = (AssetAmount::ZERO, AssetAmount::ZERO),
            |r| r.version = X402Version::V1,
            |r| r.payment.valid_before = UnixSeconds(u64::MAX),
        ];
        for edge in edges {
            let mut request = good();
            edge(&mut request);
            sign_again(&mut request);
            assert_eq!(verdict(&network, &request), None, "{request:?}");
        }
    }

    #[tokio::test]
    async fn a_domain_that_differs_is_named_beside_the_configured_one() {
        let mut request = good();
        request.domain.as_mut().unwrap().name = "x".repeat(5_000);
        let refusal = check_request(&network(), &policy(), &request, NOW).unwrap_err();
        assert!(refusal.detail.contains("xxx") && refusal.detail.contains("\"USDC\""));
        assert!(refusal.detail.len() < 300);
    }

    #[test]
    fn each_finding_on_the_chain_has_its_reason() {
        let payment = good().payment;
        let found = Inspection {
            block: BlockRef {
                number: 1,
                hash: B256::ZERO,
            },
            code_size: 0,
            balance: Some(payment.value),
            payee_balance: AssetAmount::ZERO,
            authorization: AuthorizationState::Unused,
            simulation: Simulation::Succeeded { gas_used: 60_000 },
        };
        assert_eq!(check_inspection(&payment, &found), Ok(payment.value));
        type Spoil = fn(&mut Inspection);
        let faults: [(Reason, Spoil); 6] = [
            (Reason::PayerHasCode, |f| f.code_size = 23),
            (Reason::AssetNotDeployed, |f| f.balance = None),
            (Reason::NonceAlreadyUsed, |f| {
                f.authorization = AuthorizationState::Used;
            }),
            (Reason::Eip3009NotSupported, |f| {
                f.authorization = AuthorizationState::Unreadable;
            }),
            (Reason::InsufficientBalance, |f| {
                f.balance = Some(AssetAmount::from(9_999));
            }),
            (Reason::SimulationFailed, |f| {
                f.simulation = Simulation::Reverted(Bytes::new());
            }),
        ];
        for (reason, spoil) in faults {
            let mut found = found.clone();
            spoil(&mut found);
            let refusal = check_inspection(&payment, &found).unwrap_err();
            assert_eq!(refusal.reason, reason);
        }
    }
}
