//! The gRPC door from outside, with everything behind it out of order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // helpers outside #[test] functions are tests too

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::U256;
use axum::body::{Body, Bytes};
use axum::http::Request as HttpRequest;
use futures::StreamExt;
use futures::future::join_all;
use http_body_util::BodyExt;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use teller_api::proto::facilitator_client::FacilitatorClient;
use teller_api::proto::settlements_client::SettlementsClient;
use teller_api::{
    Api, ApiConfig, ApiKey, Auth, Readiness, ServeLimits, TenantLimits, proto, serve_grpc,
};
use teller_domain::{EXACT_PROXY, TenantId, UPTO_PROXY};
use teller_store::{MemoryReservations, SqliteLedger};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;
use tonic::{Code, Request};

async fn served(api: Api) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_grpc(
        listener,
        api.grpc_router(),
        ServeLimits::default(),
        std::future::pending(),
    ));
    address
}

async fn channel(auth: Auth) -> Channel {
    let address = served(support::api(auth).await).await;
    Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn payload() -> proto::PaymentPayload {
    proto::PaymentPayload {
        x402_version: proto::X402Version::V2.into(),
        scheme: proto::Scheme::Exact.into(),
        network: "eip155:84532".into(),
        payload: Some(proto::payment_payload::Payload::ExactEip3009(
            proto::ExactEip3009 {
                authorization: Some(proto::Eip3009Authorization {
                    from: "0x857b06519E91e3A54538791bDbb0E22373e36b66".into(),
                    to: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C".into(),
                    value: "10000".into(),
                    valid_after: 0,
                    valid_before: 1_740_672_154,
                    nonce: format!("0x{}", "ab".repeat(32)),
                    ..Default::default()
                }),
                signature: [vec![1; 64], vec![27]].concat(),
            },
        )),
        extensions: None,
        resource: None,
    }
}

/// The same by Permit2, under either scheme.
fn permitted(scheme: proto::Scheme) -> proto::VerifyRequest {
    let mut request = verify();
    let (payload, requirements) = (
        request.payment_payload.as_mut().unwrap(),
        request.payment_requirements.as_mut().unwrap(),
    );
    let spender = match scheme {
        proto::Scheme::Upto => UPTO_PROXY,
        _ => EXACT_PROXY,
    };
    payload.scheme = scheme.into();
    requirements.scheme = scheme.into();
    requirements.asset_transfer_method = proto::AssetTransferMethod::Permit2.into();
    let authorization = proto::Permit2Authorization {
        from: "0x857b06519E91e3A54538791bDbb0E22373e36b66".into(),
        permitted: Some(proto::TokenPermissions {
            token: requirements.asset.clone(),
            amount: "10000".into(),
        }),
        spender: spender.to_string(),
        nonce: "7".into(),
        deadline: "1740672154".into(),
        witness: Some(proto::Permit2Witness {
            to: requirements.pay_to.clone(),
            facilitator: requirements.pay_to.clone(),
            valid_after: "0".into(),
        }),
    };
    payload.payload = Some(proto::payment_payload::Payload::Permit2(
        proto::Permit2Payload {
            permit2_authorization: Some(authorization),
            signature: [vec![1; 64], vec![27]].concat(),
        },
    ));
    request
}

fn requirements() -> proto::PaymentRequirements {
    proto::PaymentRequirements {
        scheme: proto::Scheme::Exact.into(),
        network: "eip155:84532".into(),
        amount: "10000".into(),
        asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".into(),
        pay_to: "0x209693Bc6afc0C5328bA36FaF03C514EF312287C".into(),
        max_timeout_seconds: 60,
        eip712_name: "USDC".into(),
        eip712_version: "2".into(),
        ..Default::default()
    }
}

fn verify() -> proto::VerifyRequest {
    proto::VerifyRequest {
        payment_payload: Some(payload()),
        payment_requirements: Some(requirements()),
        idempotency_key: String::new(),
        payment_identifier: String::new(),
    }
}

fn authorization_of(request: &mut proto::VerifyRequest) -> &mut proto::Eip3009Authorization {
    match request.payment_payload.as_mut().unwrap().payload.as_mut() {
        Some(proto::payment_payload::Payload::ExactEip3009(exact)) => {
            exact.authorization.as_mut().unwrap()
        }
        _ => panic!("no EIP-3009"),
    }
}

#[tokio::test]
async fn refusals_are_answers_and_what_cannot_be_checked_is_unavailable() {
    let mut client = FacilitatorClient::new(channel(Auth::Open).await);
    let status = client.verify(verify()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("unexpected_verify_error"));

    let mut malformed = verify();
    malformed.payment_requirements.as_mut().unwrap().amount = "-1".into();
    let answer = client.verify(malformed).await.unwrap().into_inner();
    assert!(!answer.is_valid);
    assert_eq!(answer.invalid_reason, "invalid_payment_requirements");
    assert_eq!(answer.payer, "0x857b06519E91e3A54538791bDbb0E22373e36b66");

    // Times beyond 64 bits are read like the others, and nothing is said twice.
    for (decimal, is_read) in [
        (U256::MAX.to_string(), true),
        (format!("{}0", U256::MAX), false),
        ("-1".to_owned(), false),
    ] {
        for number in [0, 1] {
            let mut forever = verify();
            let signed = authorization_of(&mut forever);
            signed.valid_before = number;
            signed.valid_before_decimal = decimal.clone();
            match client.verify(forever).await {
                Err(status) => {
                    assert!(is_read && number == 0);
                    assert_eq!(status.code(), Code::Unavailable);
                }
                Ok(answer) => {
                    assert!(!is_read || number != 0);
                    assert_eq!(answer.into_inner().invalid_reason, "invalid_payload");
                }
            }
        }
    }

    let mut wrong = verify();
    wrong.payment_payload.as_mut().unwrap().network = "base-sepolia".into();
    let settle = proto::SettleRequest {
        payment_payload: wrong.payment_payload,
        payment_requirements: wrong.payment_requirements,
        idempotency_key: String::new(),
        payment_identifier: String::new(),
    };
    let answer = client.settle(settle).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), proto::SettleOutcome::Failed);
    assert_eq!(answer.error_reason, "invalid_network");
    assert_eq!(answer.network, "eip155:84532");

    let status = client
        .verify(proto::VerifyRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut identified = verify();
    identified.payment_identifier = "short".into();
    let status = client.verify(identified).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("payment_identifier must be 16"));
    let mut keyed = verify();
    keyed.idempotency_key = "k".repeat(256);
    assert_eq!(
        client.verify(keyed).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let supported = client.supported(proto::SupportedRequest {}).await.unwrap();
    assert_eq!(supported.into_inner().kinds.len(), 2);
}

#[tokio::test]
async fn a_permit_is_judged_and_refused_with_the_reasons_of_rest() {
    let mut client = FacilitatorClient::new(channel(Auth::Open).await);
    let status = client.verify(permitted(proto::Scheme::Exact)).await;
    assert_eq!(status.unwrap_err().code(), Code::Unavailable);

    fn signed_of(request: &mut proto::VerifyRequest) -> &mut proto::Permit2Authorization {
        match request.payment_payload.as_mut().unwrap().payload.as_mut() {
            Some(proto::payment_payload::Payload::Permit2(permit)) => {
                permit.permit2_authorization.as_mut().unwrap()
            }
            _ => panic!("no permit"),
        }
    }
    type Change = fn(&mut proto::VerifyRequest);
    let upto = proto::Scheme::Upto;
    let cases: [(proto::Scheme, Change, &str); 8] = [
        (
            proto::Scheme::Exact,
            |request| signed_of(request).spender = "0x".to_owned() + &"11".repeat(20),
            "invalid_permit2_spender",
        ),
        (
            proto::Scheme::Exact,
            |request| signed_of(request).witness = None,
            "invalid_payload",
        ),
        (
            proto::Scheme::Exact,
            |request| {
                let requirements = request.payment_requirements.as_mut().unwrap();
                requirements.asset_transfer_method = proto::AssetTransferMethod::Eip3009.into();
            },
            "unsupported_payload_type",
        ),
        (
            proto::Scheme::Exact,
            |request| {
                let payload = request.payment_payload.as_mut().unwrap();
                payload.extensions = Some(proto::Extensions {
                    eip2612_gas_sponsoring: Some(proto::Eip2612GasSponsoring {
                        from: "0x857b06519E91e3A54538791bDbb0E22373e36b66".into(),
                        asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".into(),
                        spender: "0x000000000022D473030F116dDEE9F6B43aC78BA3".into(),
                        amount: "0x10".into(),
                        nonce: "0".into(),
                        deadline: "1".into(),
                        signature: vec![1; 65],
                        version: "1".into(),
                    }),
                    ..proto::Extensions::default()
                });
            },
            "invalid_eip2612_extension_format",
        ),
        (
            upto,
            |request| signed_of(request).witness = None,
            "unsupported_payload_type",
        ),
        (
            upto,
            |request| {
                let payload = request.payment_payload.as_mut().unwrap();
                payload.scheme = proto::Scheme::Exact.into();
            },
            "invalid_upto_evm_scheme",
        ),
        (
            upto,
            |request| request.payment_payload.as_mut().unwrap().network = "eip155:1".into(),
            "invalid_upto_evm_network_mismatch",
        ),
        (
            upto,
            |request| {
                let payload = request.payment_payload.as_mut().unwrap();
                payload.x402_version = proto::X402Version::V1.into();
            },
            "unsupported_scheme",
        ),
    ];
    for (scheme, change, reason) in cases {
        let mut request = permitted(scheme);
        change(&mut request);
        let answer = client.verify(request).await.unwrap().into_inner();
        assert_eq!(answer.invalid_reason, reason);
        assert_eq!(answer.payer, "0x857b06519E91e3A54538791bDbb0E22373e36b66");
    }
}

#[tokio::test]
async fn keys_and_allowances_are_those_of_rest() {
    let channel = channel(support::keys()).await;
    let mut client = FacilitatorClient::new(channel.clone());
    assert_eq!(
        client.verify(verify()).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let mut shown = Request::new(verify());
    shown
        .metadata_mut()
        .insert("authorization", "Bearer fast-key".parse().unwrap());
    assert_eq!(
        client.verify(shown).await.unwrap_err().code(),
        Code::Unavailable
    );
    let slow = || {
        let mut slow = Request::new(verify());
        slow.metadata_mut()
            .insert("x-api-key", "slow-key".parse().unwrap());
        slow
    };
    let mut other = client.clone();
    let (first, second) = tokio::join!(client.verify(slow()), other.verify(slow()));
    let mut answers = [first.unwrap_err(), second.unwrap_err()];
    answers.sort_by_key(|status| status.code() == Code::Unavailable);
    let [limited, admitted] = answers;
    assert_eq!(limited.code(), Code::ResourceExhausted);
    assert!(limited.metadata().contains_key("retry-after"));
    assert_eq!(admitted.code(), Code::Unavailable);
    let mut settlements = SettlementsClient::new(channel);
    let request = proto::ListSettlementsRequest::default();
    assert_eq!(
        settlements.list(request).await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn settlements_are_looked_up_and_filters_checked() {
    let mut client = SettlementsClient::new(channel(Auth::Open).await);
    let get = |id: &str| proto::GetSettlementRequest { id: id.into() };
    assert_eq!(
        client.get(get("x")).await.unwrap_err().code(),
        Code::NotFound
    );
    let known = get("0198c0de-0000-7000-8000-000000000000");
    assert_eq!(
        client.get(known).await.unwrap_err().code(),
        Code::Unavailable
    );
    let list = proto::ListSettlementsRequest {
        state: 99,
        ..Default::default()
    };
    assert_eq!(
        client.list(list).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let watch = proto::WatchSettlementsRequest { after: None };
    assert_eq!(
        client.watch(watch).await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn health_follows_readiness_and_descriptors_are_served() {
    let channel = channel(Auth::Open).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = || tonic_health::pb::HealthCheckRequest {
        service: "teller.v1.Facilitator".into(),
    };
    let not_serving = i32::from(tonic_health::pb::health_check_response::ServingStatus::NotServing);
    let mut status = None;
    for _ in 0..50 {
        status = health
            .check(request())
            .await
            .ok()
            .map(|found| found.into_inner().status);
        if status == Some(not_serving) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(status, Some(not_serving));
    assert!(!proto::DESCRIPTORS.is_empty());
}

/// A door whose tenant `shop` has the key `shop-key`, and which waits two seconds for a message.
async fn impatient(auth: Auth) -> (SocketAddr, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = SqliteLedger::open(directory.path().join("teller.db"));
    let sqlite = sqlite.await.unwrap();
    let reservations = Arc::new(MemoryReservations::open(&sqlite).await.unwrap());
    let config = ApiConfig {
        body_timeout: Duration::from_secs(2),
        ..ApiConfig::default()
    };
    let ready = Readiness::new();
    let api = support::api_as(config, auth, ready, Arc::new(sqlite), reservations);
    (served(api).await, directory)
}

fn shop() -> Auth {
    Auth::Keys(vec![ApiKey {
        hash: ApiKey::hash_of("shop-key"),
        tenant: TenantId::new("shop"),
        limits: TenantLimits::default(),
    }])
}

async fn connection(address: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let io = TokioIo::new(stream);
    let (sender, driver) = handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    sender
}

/// A message of 64 KiB is announced, so much of it is sent, and the rest never comes.
fn announced(sent: usize) -> Body {
    let mut first = vec![0; 5 + sent];
    first[..5].copy_from_slice(&[0, 0, 1, 0, 0]);
    let first = futures::stream::iter([Ok::<_, Infallible>(Bytes::from(first))]);
    Body::from_stream(first.chain(futures::stream::pending()))
}

/// The gRPC status of a call whose message never comes.
async fn unfinished(
    sender: &SendRequest<Body>,
    method: &str,
    key: Option<&str>,
    sent: usize,
) -> String {
    let mut sender = sender.clone();
    let mut request = HttpRequest::post(format!("http://teller/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    sender.ready().await.unwrap();
    let request = request.body(announced(sent)).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.headers().get("grpc-status").cloned();
    let status = match status {
        Some(status) => status,
        None => {
            let body = response.into_body().collect().await.unwrap();
            body.trailers().unwrap()["grpc-status"].clone()
        }
    };
    status.to_str().unwrap().to_owned()
}

/// Far longer than anything here takes; a call that is never answered fails the test.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
const UNAUTHENTICATED: &str = "16";
const UNAVAILABLE: &str = "14";
const DEADLINE_EXCEEDED: &str = "4";

async fn statuses(
    sender: &SendRequest<Body>,
    calls: usize,
    method: &str,
    key: Option<&str>,
    sent: usize,
) -> Vec<String> {
    let calls = (0..calls).map(|_| unfinished(sender, method, key, sent));
    let answered = tokio::time::timeout(ANSWERED_WITHIN, join_all(calls));
    answered.await.expect("answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_key_is_refused_by_its_head() {
    let (address, _directory) = impatient(shop()).await;
    let sender = connection(address).await;
    for method in [
        "Facilitator/Verify",
        "Facilitator/Release",
        "Settlements/Watch",
    ] {
        let method = format!("teller.v1.{method}");
        let refused = statuses(&sender, 100, &method, None, 1_000).await;
        assert!(
            refused.iter().all(|status| status == UNAUTHENTICATED),
            "{refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_never_comes_ends_its_call() {
    let (address, _directory) = impatient(shop()).await;
    let sender = connection(address).await;
    let method = "teller.v1.Facilitator/Settle";
    let ended = statuses(&sender, 3, method, Some("shop-key"), 1_000).await;
    assert!(
        ended.iter().all(|status| status == DEADLINE_EXCEEDED),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn few_calls_that_need_no_key_wait_on_one_connection() {
    let (address, _directory) = impatient(shop()).await;
    let sender = connection(address).await;
    for method in [
        "teller.v1.Facilitator/Supported",
        "teller.v1.Discovery/List",
        "grpc.health.v1.Health/Watch",
    ] {
        let said = statuses(&sender, 100, method, None, 1_000).await;
        let waited = said.iter().filter(|status| *status == DEADLINE_EXCEEDED);
        let refused = said.iter().filter(|status| *status == UNAVAILABLE);
        assert_eq!((waited.count(), refused.count()), (32, 68), "{method}");
    }
    // Whoever comes by another connection, or later, is served.
    let mut client = FacilitatorClient::new(
        Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap(),
    );
    let supported = client.supported(proto::SupportedRequest::default()).await;
    assert!(supported.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_do_not_come_whole_have_a_bound_for_each_connection() {
    let (address, _directory) = impatient(Auth::Open).await;
    let sender = connection(address).await;
    // All but the last bytes of 100 messages are more than one connection may have under way.
    let method = "teller.v1.Facilitator/Verify";
    let said = statuses(&sender, 100, method, None, 64 * 1024 - 100).await;
    let refused = said.iter().filter(|status| *status == UNAVAILABLE).count();
    let waited = said.iter().filter(|status| *status == DEADLINE_EXCEEDED);
    assert!(refused >= 30 && refused + waited.count() == 100, "{said:?}");
}
