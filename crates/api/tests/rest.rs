//! The REST door from outside, with everything behind it out of order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // helpers outside #[test] functions are tests too

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use teller_api::{Auth, Health, Readiness, ServeLimits, serve_rest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    json: Value,
}

async fn ask(auth: Auth, request: Request<Body>) -> Answer {
    answer(support::api(auth).await.rest_router(), request).await
}

async fn answer(router: axum::Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(head.headers["content-type"], "application/json");
    Answer {
        status: head.status,
        headers: head.headers,
        json: serde_json::from_slice(&body).expect("every answer is JSON"),
    }
}

fn request(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(body.into())
        .unwrap()
}

fn payment() -> Value {
    json!({
        "x402Version": 2,
        "paymentPayload": {
            "x402Version": 2,
            "accepted": {"scheme": "exact", "network": "eip155:84532"},
            "payload": {
                "signature": "0x2d6a7588d6acca505cbf0d9a4a227e0c52c6c34008c8e8986a1283259764173608a2ce6496642e377d6da8dbbf5836e9bd15092f9ecab05ded3d6293af148b571c",
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
            "network": "eip155:84532",
            "amount": "10000",
            "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "maxTimeoutSeconds": 60,
            "extra": {"name": "USDC", "version": "2"},
        },
    })
}

#[tokio::test]
async fn what_cannot_be_checked_is_503_and_says_nothing_about_the_payment() {
    let verify = ask(
        Auth::Open,
        request("POST", "/verify", payment().to_string()),
    )
    .await;
    assert_eq!(verify.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(verify.headers["retry-after"], "1");
    assert_eq!(
        verify.json,
        json!({
            "isValid": false,
            "invalidReason": "unexpected_verify_error",
            "invalidMessage": "the payment could not be checked; try again",
            "payer": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
        })
    );
    let settle = ask(
        Auth::Open,
        request("POST", "/settle", payment().to_string()),
    )
    .await;
    assert_eq!(settle.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        settle.json,
        json!({
            "success": false,
            "errorReason": "unexpected_settle_error",
            "errorMessage": "the payment could not be accepted; nothing was sent; try again",
            "transaction": "",
            "network": "eip155:84532",
            "payer": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
        })
    );
    let release = ask(
        Auth::Open,
        request("POST", "/release", payment().to_string()),
    )
    .await;
    assert_eq!(release.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_malformed_payment_is_a_refusal_and_a_body_that_is_none_is_400() {
    let mut malformed = payment();
    malformed["paymentPayload"]["payload"]["authorization"]["value"] = json!("-5");
    let verify = ask(
        Auth::Open,
        request("POST", "/verify", malformed.to_string()),
    )
    .await;
    assert_eq!(verify.status, StatusCode::OK);
    assert_eq!(verify.json["invalidReason"], "invalid_payload");
    assert!(
        verify.json["invalidMessage"]
            .as_str()
            .unwrap()
            .starts_with("paymentPayload.payload.authorization.value must be")
    );
    let mut malformed = payment();
    malformed["paymentRequirements"]["amount"] = json!(1.5);
    let settle = ask(
        Auth::Open,
        request("POST", "/settle", malformed.to_string()),
    )
    .await;
    assert_eq!(settle.status, StatusCode::OK);
    assert_eq!(settle.json["errorReason"], "invalid_payment_requirements");
    assert_eq!(settle.json["network"], "eip155:84532");

    for body in [
        "",
        "<html>",
        "{}",
        "[]",
        r#"{"paymentPayload":{},"paymentPayload":{}}"#,
    ] {
        let verify = ask(Auth::Open, request("POST", "/verify", body)).await;
        assert_eq!(verify.status, StatusCode::BAD_REQUEST);
        assert_eq!(verify.json["isValid"], false);
        assert_eq!(verify.json["invalidReason"], "invalid_payload");
        assert_eq!(verify.json["payer"], "");
        assert!(verify.json["error"].is_string());
        let settle = ask(Auth::Open, request("POST", "/settle", body)).await;
        assert_eq!(settle.status, StatusCode::BAD_REQUEST);
        assert_eq!(settle.json["success"], false);
        assert_eq!(settle.json["errorReason"], "invalid_payload");
        assert_eq!(settle.json["transaction"], "");
        assert_eq!(settle.json["network"], "");
        let release = ask(Auth::Open, request("POST", "/release", body)).await;
        assert_eq!(release.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn bodies_over_64_kib_are_413_whatever_their_framing() {
    let large = vec![b' '; 64 * 1024 + 1];
    for path in ["/verify", "/settle", "/release"] {
        let known = ask(Auth::Open, request("POST", path, large.clone())).await;
        assert_eq!(known.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(known.json["error"].is_string());
        let chunks = large
            .chunks(1000)
            .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
            .collect::<Vec<_>>();
        let chunked = Body::from_stream(tokio_stream::iter(chunks));
        let unknown = ask(Auth::Open, request("POST", path, chunked)).await;
        assert_eq!(unknown.status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut padded = payment().to_string();
    padded.push_str(&" ".repeat(64 * 1024 - padded.len()));
    let fits = ask(Auth::Open, request("POST", "/verify", padded)).await;
    assert_eq!(fits.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_too() {
    let nowhere = ask(Auth::Open, request("GET", "/nowhere", "")).await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);
    let wrong = ask(Auth::Open, request("DELETE", "/verify", "")).await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(wrong.headers["allow"].to_str().unwrap().contains("POST"));
    for (path, status) in [
        ("/settlements", 503),
        ("/settlements/0198c0de-0000-7000-8000-000000000000", 503),
        ("/settlements/%ff", 404),
        ("/settlements/nonsense", 404),
        ("/settlements?state=odd", 400),
        ("/settlements?state=preconfirmed", 503),
        ("/settlements?payer=0x1", 400),
        ("/settlements?limit=0", 400),
        ("/settlements?limit=501", 400),
        ("/settlements?network=eip155:x", 400),
        ("/settlements?nonce=0x1&nonce=0x2", 400),
        ("/settlements?before=1", 400),
        (
            "/settlements?state=settled&network=base-sepolia&limit=500&more=1",
            503,
        ),
    ] {
        let answer = ask(Auth::Open, request("GET", path, "")).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert!(answer.json["error"].is_string());
    }
}

#[tokio::test]
async fn keys_are_asked_for_where_a_tenant_matters() {
    for (method, path) in [
        ("POST", "/verify"),
        ("POST", "/settle"),
        ("POST", "/release"),
        ("GET", "/settlements"),
        ("GET", "/settlements/x"),
    ] {
        let denied = ask(support::keys(), request(method, path, "{}")).await;
        assert_eq!(denied.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(denied.headers["www-authenticate"], "Bearer");
        let mut shown = request(method, path, "{}");
        shown
            .headers_mut()
            .insert("authorization", "Bearer fast-key".parse().unwrap());
        let admitted = ask(support::keys(), shown).await;
        assert_ne!(admitted.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in [
        "/health",
        "/healthz",
        "/readyz",
        "/supported",
        "/openapi.json",
    ] {
        let open = ask(support::keys(), request("GET", path, "")).await;
        assert_ne!(open.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn over_the_allowance_is_429_with_retry_after() {
    let router = support::api(support::keys()).await.rest_router();
    let ask = |router: axum::Router| async {
        let mut shown = request("POST", "/verify", "{}");
        shown
            .headers_mut()
            .insert("x-api-key", "slow-key".parse().unwrap());
        answer(router, shown).await
    };
    assert_eq!(ask(router.clone()).await.status, StatusCode::BAD_REQUEST);
    let over = ask(router).await;
    assert_eq!(over.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(over.headers["retry-after"], "1");
}

#[tokio::test]
async fn a_malformed_idempotency_key_is_400() {
    for key in ["", &"k".repeat(256), "\u{e9}"] {
        let mut keyed = request("POST", "/settle", payment().to_string());
        let key = axum::http::HeaderValue::from_bytes(key.as_bytes()).unwrap();
        keyed.headers_mut().insert("idempotency-key", key);
        assert_eq!(ask(Auth::Open, keyed).await.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn health_readiness_and_capabilities() {
    let health = ask(Auth::Open, request("GET", "/health", "")).await;
    assert_eq!(health.json, json!({"status": "ok"}));
    let ready = ask(Auth::Open, request("GET", "/readyz", "")).await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        ready.json,
        json!({
            "status": "not ready",
            "dependencies": {"ledger": "unavailable", "eip155:84532": "ok"},
        })
    );
    let supported = ask(Auth::Open, request("GET", "/supported", "")).await;
    assert_eq!(supported.json["kinds"].as_array().unwrap().len(), 2);
    for path in ["/verify", "/settle"] {
        let described = ask(Auth::Open, request("GET", path, "")).await;
        assert_eq!(described.json["endpoint"], path);
    }
}

#[tokio::test]
async fn a_process_without_doors_tells_how_it_is() {
    let health = Health::new();
    let router = health.router(|| "teller_queue_depth 3\n".to_owned());
    let ask = |path: &'static str| answer(router.clone(), request("GET", path, ""));
    assert_eq!(ask("/healthz").await.json, json!({"status": "ok"}));
    let starting = ask("/readyz").await;
    assert_eq!(starting.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(starting.json["status"], "starting");

    let up = Arc::new(AtomicBool::new(true));
    let ledger = up.clone();
    let check = move || std::future::ready(ledger.load(Ordering::Relaxed));
    health.started(Readiness::new().with("ledger", check));
    let ready = ask("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK);
    assert_eq!(
        ready.json,
        json!({"status": "ready", "dependencies": {"ledger": "ok"}})
    );
    up.store(false, Ordering::Relaxed);
    // Longer than an answer is good for.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let out = ask("/readyz").await;
    assert_eq!(out.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(out.json["dependencies"]["ledger"], "unavailable");
    up.store(true, Ordering::Relaxed);
    health.begin_drain();
    let ending = ask("/readyz").await;
    assert_eq!(ending.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ending.json["status"], "shutting down");

    assert_eq!(ask("/settle").await.status, StatusCode::NOT_FOUND);
    let response = router
        .oneshot(request("GET", "/metrics", ""))
        .await
        .unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let text = axum::body::to_bytes(response.into_body(), 1 << 16).await;
    assert_eq!(text.unwrap(), "teller_queue_depth 3\n");
}

#[tokio::test]
async fn a_panic_is_500_in_json() {
    let readiness = Readiness::new().with("ledger", || async { panic!("injected") });
    let router = support::api_with(Auth::Open, readiness).await.rest_router();
    let broken = answer(router.clone(), request("GET", "/readyz", "")).await;
    assert_eq!(broken.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(broken.json, json!({"error": "internal error"}));
    let health = answer(router, request("GET", "/health", "")).await;
    assert_eq!(health.status, StatusCode::OK);
}

#[tokio::test]
async fn the_openapi_document_names_every_route() {
    let document = ask(Auth::Open, request("GET", "/openapi.json", ""))
        .await
        .json;
    let routes = include_str!("../src/rest/mod.rs")
        .split(".route(")
        .skip(1)
        .map(|rest| {
            rest.trim_start()
                .trim_start_matches('"')
                .split('"')
                .next()
                .unwrap()
        });
    let mut count = 0;
    for route in routes {
        assert!(document["paths"][route].is_object(), "{route}");
        count += 1;
    }
    assert_eq!(document["paths"].as_object().unwrap().len(), count);
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name}"
        );
    }
}

async fn listen(
    limits: ServeLimits,
) -> (
    std::net::SocketAddr,
    tokio::sync::oneshot::Sender<()>,
    tokio::task::JoinHandle<()>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let router = support::api(Auth::Open).await.rest_router();
    let server = tokio::spawn(serve_rest(listener, router, limits, async {
        let _ = stopped.await;
    }));
    (address, stop, server)
}

async fn read_answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.ends_with('}') {
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

#[tokio::test]
async fn connections_are_kept_alive_and_end_with_the_server() {
    let (address, stop, server) = listen(ServeLimits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _silent = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), server)
        .await
        .expect("idle and silent connections do not delay the end")
        .unwrap();
}

#[tokio::test]
async fn the_sender_of_a_large_body_sees_the_answer() {
    let (address, _stop, _server) = listen(ServeLimits::default()).await;
    let body = vec![b'x'; 500_000];
    let length = format!("content-length: {}", body.len());
    for framing in [length.as_str(), "transfer-encoding: chunked"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("POST /settle HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        if framing.starts_with("transfer") {
            let size = format!("{:x}\r\n", body.len());
            stream.write_all(size.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap();
            stream.write_all(b"\r\n0\r\n\r\n").await.unwrap();
        } else {
            stream.write_all(&body).await.unwrap();
        }
        let answer = read_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let limits = ServeLimits {
        header_read_timeout: Duration::from_millis(100),
        ..ServeLimits::default()
    };
    let (address, _stop, _server) = listen(limits).await;
    for said in ["", "PO", "POST /verify HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest));
        let _ = closed.await.expect("the server closes");
    }
}
