use std::collections::{HashMap, HashSet};
use std::time::Duration;

use alloy_primitives::{B256, Bytes, U256};
use teller_chain::{InspectLimits, Inspector, NodeConfig, Nodes, watch_heads};
use teller_domain::{
    Allowance, AssetAmount, AuthorizationKey, AuthorizationNonce, ChainId, Counterfactual,
    EcdsaSignature, Eip712Name, PERMIT2, PayerSignature, Permit2, PermitTerms, Scheme, TenantId,
    Validity, known_assets,
};
use teller_schemes::eip3009::Domain;
use teller_schemes::{recover, sign};

use super::*;
use crate::findings::{check_codeless, signed_by_key};
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
        multicall3: Address::ZERO,
        wallet_factories: Vec::new(),
        delegation_managers: Vec::new(),
        approvals: None,
        facilitator: Some(OWN),
        own_addresses: vec![OWN],
        nodes: nodes.clone(),
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
    request.payment.authorization = Authorization::Eip3009 {
        signature: signature.into(),
    };
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
            validity: Validity::between(UnixSeconds(0), NOW.plus(60)),
            authorization: Authorization::Eip3009 {
                signature: signature.into(),
            },
        },
        asset: asset.address,
        pay_to: PAYEE,
        amount: AssetAmount::from(10_000),
        max_timeout_seconds: 60,
        domain: Some(Eip712Name {
            name: asset.name,
            version: asset.version,
        }),
        attribution: Bytes::new(),
        idempotency_key: None,
    };
    sign_again(&mut request);
    request
}

fn verdict(network: &Network, request: &PaymentRequest) -> Option<Reason> {
    let purpose = HoldPurpose::Verify { lenient: false };
    verdict_at(network, request, purpose)
}

fn verdict_at(network: &Network, request: &PaymentRequest, purpose: HoldPurpose) -> Option<Reason> {
    check_request(network, &policy(), request, purpose, NOW)
        .and_then(|known| {
            let by_key = signed_by_key(known, &request.payment);
            check_codeless(network, &request.payment, by_key)
        })
        .err()
        .map(|refusal| refusal.reason)
}

fn change_signature(request: &mut PaymentRequest, change: fn(&mut EcdsaSignature)) {
    let mut signature = request.payment.authorization.signature().ecdsa().unwrap();
    change(&mut signature);
    match &mut request.payment.authorization {
        Authorization::Eip3009 { signature: place } => *place = signature.into(),
        Authorization::Permit2(permit) => permit.signature = signature.into(),
        Authorization::Erc7710(_) => panic!("a delegation has no signature of its own"),
    }
}

fn valid(request: &mut PaymentRequest, after: UnixSeconds, end: UnixSeconds) {
    request.payment.validity = Validity::between(after, end);
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
            r.asset = r.payment.asset;
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
            valid(r, UnixSeconds(0), NOW.plus(5))
        }),
        ("not yet", Reason::ValidAfter, |r| {
            valid(r, NOW.plus(1), NOW.plus(60))
        }),
        ("never", Reason::ValidAfter, |r| {
            r.payment.validity = Validity::signed(U256::MAX, U256::MAX);
        }),
        ("beyond the clock", Reason::ValidAfter, |r| {
            r.payment.validity = Validity::signed(U256::ONE << 64, U256::MAX);
        }),
        ("no end", Reason::ValidBefore, |r| {
            r.payment.validity = Validity::signed(U256::MAX, U256::ZERO);
        }),
        ("another forever", Reason::InvalidSignature, |r| {
            r.payment.validity = Validity::signed(U256::ZERO, U256::MAX);
        }),
        ("nonce", Reason::InvalidSignature, |r| {
            r.payment.key.nonce = AuthorizationNonce(B256::repeat_byte(2));
        }),
        ("r", Reason::InvalidSignature, |r| {
            change_signature(r, |signature| signature.r = B256::ZERO);
        }),
        ("s", Reason::InvalidSignature, |r| {
            change_signature(r, |signature| signature.s = B256::repeat_byte(0xff));
        }),
        ("v", Reason::InvalidSignature, |r| {
            change_signature(r, |signature| signature.v = 55 - signature.v);
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
        |r| valid(r, UnixSeconds(0), NOW.plus(6)),
        |r| valid(r, NOW, NOW.plus(60)),
        |r| (r.payment.value, r.amount) = (AssetAmount::from(1), AssetAmount::from(1)),
        |r| r.version = X402Version::V1,
        |r| valid(r, UnixSeconds(0), UnixSeconds(u64::MAX)),
        |r| r.payment.validity = Validity::signed(U256::ZERO, U256::MAX),
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
    let refusal =
        check_request(&network(), &policy(), &request, HoldPurpose::Settle, NOW).unwrap_err();
    assert!(refusal.detail.contains("xxx") && refusal.detail.contains("\"USDC\""));
    assert!(refusal.detail.len() < 300);
}

fn permit(terms: PermitTerms) -> PaymentRequest {
    let mut request = good();
    request.domain = None;
    request.scheme = terms.scheme();
    request.payment.key.authority = PERMIT2;
    request.payment.authorization = Authorization::Permit2(Box::new(Permit2 {
        terms,
        signature: request.payment.authorization.signature().clone(),
        allowance: None,
    }));
    sign_permit(&mut request);
    request
}

fn sign_permit(request: &mut PaymentRequest) {
    let digest = Permit::of(&request.payment).unwrap().digest();
    if let Authorization::Permit2(permit) = &mut request.payment.authorization {
        permit.signature = sign(digest, &SECRET).unwrap().into();
    }
}

fn upto(facilitator: Address) -> PermitTerms {
    PermitTerms::Upto {
        facilitator,
        permitted: AssetAmount::from(10_000),
    }
}

#[tokio::test]
async fn each_single_fault_of_a_permit_has_exactly_its_reason() {
    let network = network();
    let faults: &[(&str, Reason, Fault)] = &[
        ("asset", Reason::AssetNotAllowed, |r| {
            r.payment.asset = Address::repeat_byte(9);
            r.asset = r.payment.asset;
        }),
        ("token", Reason::Permit2TokenMismatch, |r| {
            r.payment.asset = Address::repeat_byte(9);
        }),
        ("authority", Reason::InvalidPayload, |r| {
            r.payment.key.authority = r.asset;
        }),
        ("recipient", Reason::Permit2RecipientMismatch, |r| {
            r.pay_to = Address::repeat_byte(9);
        }),
        ("deadline", Reason::Permit2DeadlineExpired, |r| {
            valid(r, UnixSeconds(0), NOW.plus(5));
        }),
        ("not yet", Reason::Permit2NotYetValid, |r| {
            valid(r, NOW.plus(1), NOW.plus(60));
        }),
        ("never", Reason::Permit2NotYetValid, |r| {
            r.payment.validity = Validity::signed(U256::MAX, U256::MAX);
        }),
        ("another forever", Reason::Permit2InvalidSignature, |r| {
            r.payment.validity = Validity::signed(U256::ZERO, U256::MAX);
        }),
        ("own payer", Reason::FacilitatorIsParty, |r| {
            r.payment.key.payer = OWN;
        }),
        ("nonce", Reason::Permit2InvalidSignature, |r| {
            r.payment.key.nonce = AuthorizationNonce(B256::repeat_byte(2));
        }),
        ("s", Reason::Permit2InvalidSignature, |r| {
            change_signature(r, |signature| signature.s = B256::repeat_byte(0xff));
        }),
        ("allowance", Reason::Eip2612FromMismatch, |r| {
            let bytes = [1; TokenPermit::BYTES];
            let allowance = TokenPermit::of_checked(OWN, r.asset, r.payment.permitted(), &bytes);
            if let Authorization::Permit2(permit) = &mut r.payment.authorization {
                permit.allowance = allowance.map(Allowance::Permit).map(Box::new);
            }
        }),
    ];
    for terms in [PermitTerms::Exact, upto(OWN)] {
        assert_eq!(verdict(&network, &permit(terms)), None);
        let mut forever = permit(terms);
        forever.payment.validity = Validity::signed(U256::ZERO, U256::MAX);
        sign_permit(&mut forever);
        assert_eq!(verdict(&network, &forever), None);
        for (what, reason, spoil) in faults {
            let mut request = permit(terms);
            spoil(&mut request);
            assert_eq!(verdict(&network, &request), Some(*reason), "{what}");
        }
    }
    let mut less = permit(PermitTerms::Exact);
    less.amount = AssetAmount::from(9_999);
    let mismatch = Some(Reason::Permit2AmountMismatch);
    assert_eq!(verdict(&network, &less), mismatch);
    let mut several = self::network();
    several.own_addresses.push(Address::repeat_byte(0x34));
    let earlier = permit(upto(Address::repeat_byte(0x34)));
    assert_eq!(verdict(&several, &earlier), None);
    let foreign = permit(upto(Address::repeat_byte(9)));
    let mismatch = Some(Reason::UptoFacilitatorMismatch);
    assert_eq!(verdict(&network, &foreign), mismatch);
}

#[tokio::test]
async fn upto_charges_what_is_demanded_at_settle_and_never_more_than_permitted() {
    let network = network();
    let charge = |amount: u64| {
        let mut request = permit(upto(OWN));
        request.amount = AssetAmount::from(amount);
        request.payment.value = request.amount;
        request
    };
    for amount in [0, 1, 10_000] {
        let verdict = verdict_at(&network, &charge(amount), HoldPurpose::Settle);
        assert_eq!(verdict, None, "{amount}");
    }
    let exceeds = Some(Reason::UptoSettlementExceedsAmount);
    let verdict_of = |request| verdict_at(&network, &request, HoldPurpose::Settle);
    assert_eq!(verdict_of(charge(10_001)), exceeds);
    let mismatch = Some(Reason::Permit2AmountMismatch);
    assert_eq!(verdict(&network, &charge(9_999)), mismatch);
}

#[tokio::test]
async fn only_trusted_factories_make_payers() {
    let mut network = network();
    let counterfactual = |mut request: PaymentRequest| {
        let signature = PayerSignature::from(Counterfactual {
            factory: Address::repeat_byte(7),
            factory_calldata: Bytes::new(),
            signature: Bytes::from_static(&[1]),
        });
        match &mut request.payment.authorization {
            Authorization::Eip3009 { signature: place } => *place = signature,
            Authorization::Permit2(permit) => permit.signature = signature,
            Authorization::Erc7710(_) => panic!("a delegation has no signature of its own"),
        }
        request
    };
    let request = counterfactual(good());
    let refused = Some(Reason::FactoryNotAllowed);
    assert_eq!(verdict(&network, &request), refused);
    network.wallet_factories.push(Address::repeat_byte(7));
    assert_eq!(verdict(&network, &request), None);
    // Permit2 knows no wallets that are not there.
    let request = counterfactual(permit(PermitTerms::Exact));
    let refused = Some(Reason::Permit2InvalidSignature);
    assert_eq!(verdict(&network, &request), refused);
}

const MANAGER: Address = Address::repeat_byte(0x71);

fn delegated() -> PaymentRequest {
    let mut request = good();
    let delegation = Delegation::new(Bytes::from_static(&[1, 2, 3]), OWN).unwrap();
    request.payment.key.authority = MANAGER;
    request.payment.key.nonce = delegation.nonce();
    request.payment.validity = Delegation::validity();
    request.payment.authorization = Authorization::Erc7710(delegation.into());
    request.domain = None;
    request
}

#[tokio::test]
async fn what_moves_nothing_to_anybody_is_refused_unless_the_operator_allows_it() {
    let mut network = network();
    network.delegation_managers.push(MANAGER);
    let nothing: Fault = |r| (r.payment.value, r.amount) = (AssetAmount::ZERO, AssetAmount::ZERO);
    let oneself: Fault = |r| {
        r.payment.payee = r.payment.key.payer;
        r.pay_to = r.payment.payee;
    };
    let generous = Policy {
        empty_payments: crate::EmptyPayments::Allowed,
        ..policy()
    };
    let checked = |policy: &Policy, request: &PaymentRequest, purpose| {
        let checked = check_request(&network, policy, request, purpose, NOW)
            .and_then(|_| policy.wants_payee(&request.payment));
        checked.err().map(|refusal| refusal.reason)
    };
    let v1 = || PaymentRequest {
        version: X402Version::V1,
        ..good()
    };
    let exact = [good(), v1(), permit(PermitTerms::Exact), delegated()];
    for purpose in [HoldPurpose::Verify { lenient: false }, HoldPurpose::Settle] {
        for (what, reason) in [
            (nothing, Reason::ZeroValuePayment),
            (oneself, Reason::SelfPayment),
        ] {
            for request in &exact {
                let mut request = request.clone();
                what(&mut request);
                assert_eq!(checked(&policy(), &request, purpose), Some(reason));
                assert_eq!(checked(&generous, &request, purpose), None);
            }
        }
        let mut himself = permit(upto(OWN));
        oneself(&mut himself);
        let refused = Some(Reason::SelfPayment);
        assert_eq!(checked(&policy(), &himself, purpose), refused);
        assert_eq!(checked(&generous, &himself, purpose), None);
    }
    // A charge of nothing costs no gas, whoever is charged.
    let mut charge = permit(upto(OWN));
    nothing(&mut charge);
    assert_eq!(checked(&policy(), &charge, HoldPurpose::Settle), None);
    oneself(&mut charge);
    assert_eq!(checked(&policy(), &charge, HoldPurpose::Settle), None);
}

#[tokio::test]
async fn only_trusted_managers_redeem_and_only_what_the_seller_demands() {
    let mut network = network();
    let refused = Some(Reason::DelegationManagerNotAllowed);
    assert_eq!(verdict(&network, &delegated()), refused);
    network.delegation_managers.push(MANAGER);
    assert_eq!(verdict(&network, &delegated()), None);
    let faults: [(Reason, Fault); 7] = [
        (Reason::DelegationManagerNotAllowed, |r| {
            r.payment.key.authority = Address::repeat_byte(0x72);
        }),
        (Reason::FacilitatorIsParty, |r| r.payment.key.payer = OWN),
        (Reason::FacilitatorIsParty, |r| r.pay_to = OWN),
        (Reason::InvalidPayload, |r| {
            r.pay_to = Address::repeat_byte(9);
        }),
        (Reason::InvalidPayload, |r| {
            r.amount = AssetAmount::from(1);
        }),
        (Reason::InvalidPayload, |r| {
            r.payment.key.nonce.0 = B256::ZERO;
        }),
        (Reason::InvalidPayload, |r| {
            let stranger = Address::repeat_byte(9);
            let delegation = Delegation::new(Bytes::from_static(&[1, 2, 3]), stranger).unwrap();
            r.payment.authorization = Authorization::Erc7710(delegation.into());
        }),
    ];
    for (reason, fault) in faults {
        let mut request = delegated();
        fault(&mut request);
        assert_eq!(verdict(&network, &request), Some(reason));
    }
}
