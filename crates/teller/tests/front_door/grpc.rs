//! The gRPC door, by a client of its own: the same promises as over REST.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use teller_api::proto;
use teller_api::proto::facilitator_client::FacilitatorClient;
use teller_api::proto::settlements_client::SettlementsClient;
use teller_domain::Payment;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;

use crate::support::{CHAIN, Chain, Setup, Teller};

const PAYEE: Address = Address::repeat_byte(0x42);

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_held_given_back_settled_once_and_receipted() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let payment = chain.payer(0).pay(&chain, PAYEE, 10_000, 1);

    let supported = client.supported(proto::SupportedRequest {}).await.unwrap();
    let kinds = supported.into_inner().kinds;
    assert!(
        kinds.iter().any(|kind| kind.network == CHAIN.to_string()),
        "{kinds:?}"
    );

    let verify = || verify_request(&chain, &payment);
    let held = client.verify(verify()).await.unwrap().into_inner();
    assert!(held.is_valid, "{held:?}");
    assert_eq!(held.payer, payment.key.payer.to_string());
    let again = client.verify(verify()).await.unwrap().into_inner();
    assert_eq!(again.invalid_reason, "authorization_already_reserved");
    let release = || proto::ReleaseRequest {
        payment_payload: verify().payment_payload,
        payment_requirements: verify().payment_requirements,
    };
    assert!(client.release(release()).await.unwrap().get_ref().released);
    assert!(client.verify(verify()).await.unwrap().get_ref().is_valid);

    let settle = settle_request(&chain, &payment, "");
    let settled = client.settle(settle.clone()).await.unwrap().into_inner();
    assert_eq!(
        settled.outcome(),
        proto::SettleOutcome::Settled,
        "{settled:?}"
    );
    assert_eq!(settled.network, CHAIN.to_string());
    let repeated = client.settle(settle).await.unwrap().into_inner();
    assert_eq!(repeated.outcome(), proto::SettleOutcome::Duplicate);
    assert_eq!(repeated.error_reason, "duplicate_settlement");
    assert_eq!(
        (&repeated.transaction, &repeated.settlement_id),
        (&settled.transaction, &settled.settlement_id)
    );
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    let used = chain.used_authorizations().await;
    assert_eq!((used.len(), &used[0].2), (1, &settled.transaction));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_replays_its_success() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let first = chain.payer(0).pay(&chain, PAYEE, 10_000, 1);
    let other = chain.payer(1).pay(&chain, PAYEE, 10_000, 2);
    for _ in 0..2 {
        let answer = client.settle(settle_request(&chain, &first, "order-1"));
        assert_eq!(
            answer.await.unwrap().get_ref().outcome(),
            proto::SettleOutcome::Settled
        );
    }
    let reused = client.settle(settle_request(&chain, &other, "order-1"));
    let status = reused.await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_watches_lists_and_looks_up_its_own_settlements_only() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let setup = Setup {
        keys: vec![("shop", "shop-key"), ("rival", "rival-key")],
        ..Setup::embedded(&chain)
    };
    let teller = Teller::start(&chain, setup).await;
    let channel = channel(&teller).await;
    let mut facilitator = FacilitatorClient::new(channel.clone());
    let mut settlements = SettlementsClient::new(channel);
    let watch = || proto::WatchSettlementsRequest { after: None };
    let list = proto::ListSettlementsRequest::default;
    let unknown = settlements.list(list()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unauthenticated);

    let shops = settlements.watch(by("shop-key", watch())).await.unwrap();
    let mut shops = shops.into_inner();
    let rivals = settlements.watch(by("rival-key", watch())).await.unwrap();
    let mut rivals = rivals.into_inner();
    let payment = chain.payer(0).pay(&chain, PAYEE, 10_000, 1);
    let settled = facilitator.settle(by("shop-key", settle_request(&chain, &payment, "")));
    let settled = settled.await.unwrap().into_inner();
    assert_eq!(settled.outcome(), proto::SettleOutcome::Settled);

    let mut last_sequence = 0;
    let watched = loop {
        let event = tokio::time::timeout(Duration::from_secs(10), shops.message());
        let event = event.await.unwrap().unwrap().unwrap();
        assert!(event.sequence > last_sequence, "sequences rise");
        last_sequence = event.sequence;
        let settlement = event.settlement.unwrap();
        assert_eq!(settlement.id, settled.settlement_id);
        if settlement.state() == proto::SettlementState::Settled {
            break settlement;
        }
    };
    let nothing = tokio::time::timeout(Duration::from_secs(2), rivals.message()).await;
    assert!(nothing.is_err(), "{nothing:?}");

    let receipt = watched.receipt.clone().unwrap();
    assert_eq!(receipt.transaction, settled.transaction);
    assert_eq!(receipt.level(), proto::SettlementLevel::Included);
    assert!(receipt.gas_used > 0 && receipt.block_number > 0);
    let get = || proto::GetSettlementRequest {
        id: settled.settlement_id.clone(),
    };
    let found = settlements.get(by("shop-key", get())).await.unwrap();
    let found = found.into_inner();
    // The event may be older than the answer to the settle call.
    let told = found.told.clone().expect("success was told");
    let watched = proto::Settlement {
        told: Some(told),
        ..watched
    };
    assert_eq!(found, watched);
    let hidden = settlements.get(by("rival-key", get())).await.unwrap_err();
    assert_eq!(hidden.code(), Code::NotFound);
    let page = settlements.list(by("shop-key", list())).await.unwrap();
    assert_eq!(page.get_ref().settlements, [watched]);
    assert!(!page.get_ref().more);
    let page = settlements.list(by("rival-key", list())).await.unwrap();
    assert!(page.get_ref().settlements.is_empty());
    let failed = proto::ListSettlementsRequest {
        state: proto::SettlementState::Failed.into(),
        ..list()
    };
    let page = settlements.list(by("shop-key", failed)).await.unwrap();
    assert!(page.get_ref().settlements.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_valid_for_ever_is_settled_and_shown_in_full() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let mut settlements = SettlementsClient::new(channel(&teller).await);
    let forever = chain
        .payer(0)
        .pay_until(&chain, PAYEE, 10_000, 1, U256::MAX);
    let settled = client.settle(settle_request(&chain, &forever, ""));
    let settled = settled.await.unwrap().into_inner();
    assert_eq!(
        settled.outcome(),
        proto::SettleOutcome::Settled,
        "{settled:?}"
    );
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    let get = proto::GetSettlementRequest {
        id: settled.settlement_id,
    };
    let found = settlements.get(get).await.unwrap().into_inner();
    assert_eq!((found.valid_after, found.valid_before), (0, u64::MAX));
    assert_eq!(found.valid_after_decimal, "0");
    assert_eq!(found.valid_before_decimal, U256::MAX.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_tell_a_stranger_what_is_there() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let channel = channel(&teller).await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "teller.v1.Facilitator", "teller.v1.Settlements"] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        // Health follows readiness, a moment behind it.
        let mut serving = None;
        for _ in 0..50 {
            let answer = health.check(request.clone()).await;
            serving = answer.ok().map(|answer| answer.get_ref().status());
            if serving == Some(ServingStatus::Serving) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(serving, Some(ServingStatus::Serving), "{service:?}");
    }

    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let question = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            reflection::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let answers = client.server_reflection_info(futures::stream::iter([question]));
    let answer = answers.await.unwrap().into_inner().message().await;
    let Some(reflection::server_reflection_response::MessageResponse::ListServicesResponse(listed)) =
        answer.unwrap().unwrap().message_response
    else {
        panic!("reflection does not list services");
    };
    let names: Vec<_> = listed.service.iter().map(|found| &*found.name).collect();
    for service in [
        "teller.v1.Facilitator",
        "teller.v1.Settlements",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&service), "{names:?}");
    }
}

pub async fn channel(teller: &Teller) -> Channel {
    let endpoint = Channel::from_shared(teller.grpc_url()).unwrap();
    endpoint.connect().await.unwrap()
}

/// A request with an API key.
fn by<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

fn verify_request(chain: &Chain, payment: &Payment) -> proto::VerifyRequest {
    let signature = payment.authorization.signature().ecdsa().unwrap();
    let end = payment.validity.end();
    let (valid_before, valid_before_decimal) = match u64::try_from(end) {
        Ok(near) => (near, String::new()),
        Err(_) => (0, end.to_string()),
    };
    let exact = proto::ExactEip3009 {
        authorization: Some(proto::Eip3009Authorization {
            from: payment.key.payer.to_string(),
            to: payment.payee.to_string(),
            value: payment.value.to_string(),
            valid_after_decimal: payment.validity.valid_after().to_string(),
            valid_before,
            valid_before_decimal,
            nonce: payment.key.nonce.0.to_string(),
            ..Default::default()
        }),
        signature: signature.to_bytes().to_vec(),
    };
    proto::VerifyRequest {
        payment_payload: Some(proto::PaymentPayload {
            x402_version: proto::X402Version::V2.into(),
            scheme: proto::Scheme::Exact.into(),
            network: CHAIN.to_string(),
            payload: Some(proto::payment_payload::Payload::ExactEip3009(exact)),
            ..Default::default()
        }),
        payment_requirements: Some(proto::PaymentRequirements {
            scheme: proto::Scheme::Exact.into(),
            network: CHAIN.to_string(),
            amount: payment.value.to_string(),
            asset: payment.asset.to_string(),
            pay_to: payment.payee.to_string(),
            max_timeout_seconds: 60,
            eip712_name: chain.asset.name.clone(),
            eip712_version: chain.asset.version.clone(),
            ..Default::default()
        }),
        idempotency_key: String::new(),
        payment_identifier: String::new(),
    }
}

fn settle_request(chain: &Chain, payment: &Payment, key: &str) -> proto::SettleRequest {
    let same = verify_request(chain, payment);
    proto::SettleRequest {
        payment_payload: same.payment_payload,
        payment_requirements: same.payment_requirements,
        idempotency_key: key.to_owned(),
        payment_identifier: String::new(),
    }
}
