//! What needs no key: capabilities, health, descriptions.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, json};

use super::respond;
use crate::api::Api;
use crate::readiness::Readiness;

/// Kept by hand; a test compares its paths with the routes.
pub(super) const OPENAPI: &str = include_str!("../../openapi.json");

pub(super) async fn supported(State(api): State<Api>) -> Response {
    respond::bytes(StatusCode::OK, api.inner.supported_json.clone())
}

pub(crate) async fn health() -> Response {
    respond::bytes(StatusCode::OK, Bytes::from_static(br#"{"status":"ok"}"#))
}

/// Whether the process can do its work, which dependency does not answer, and what holds payments back on which network.
pub(super) async fn ready(State(api): State<Api>) -> Response {
    readiness(&api.inner.readiness, api.inner.service.is_draining()).await
}

/// The same of any process.
pub(crate) async fn readiness(readiness: &Readiness, is_draining: bool) -> Response {
    let ready = readiness.check().await;
    let is_ready = !is_draining && ready.is_ready();
    let word = |ready: bool| if ready { "ok" } else { "unavailable" };
    let mut states = Map::new();
    let mut held_back = Map::new();
    for dependency in ready.dependencies {
        if let Some(notes) = dependency.network.filter(|notes| !notes.is_empty()) {
            held_back.insert(dependency.name.clone(), notes.into());
        }
        states.insert(dependency.name, word(dependency.ready).into());
    }
    let (status, text) = match (is_ready, is_draining) {
        (true, _) => (StatusCode::OK, "ready"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let mut body = json!({ "status": text, "dependencies": states });
    if let (false, Some(body)) = (held_back.is_empty(), body.as_object_mut()) {
        body.insert("payments_held_back".to_owned(), held_back.into());
    }
    respond::json(status, &body)
}

pub(super) async fn openapi() -> Response {
    respond::bytes(StatusCode::OK, Bytes::from_static(OPENAPI.as_bytes()))
}

pub(super) async fn describe_verify() -> Response {
    describe(
        "/verify",
        "POST an x402 payment to learn whether it is good; a good one is held for you.",
    )
}

pub(super) async fn describe_settle() -> Response {
    describe(
        "/settle",
        "POST an x402 payment to have it settled on chain; success is told once.",
    )
}

fn describe(endpoint: &str, description: &str) -> Response {
    let body = json!({
        "endpoint": endpoint,
        "method": "POST",
        "description": description,
        "body": {
            "x402Version": "1 or 2",
            "paymentPayload": "PaymentPayload",
            "paymentRequirements": "PaymentRequirements",
        },
        "openapi": "/openapi.json",
    });
    respond::json(StatusCode::OK, &body)
}
