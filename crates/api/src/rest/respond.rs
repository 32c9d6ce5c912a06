//! Answers in JSON.

use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use teller_domain::Reason;
use teller_protocol::{SettleResponse, VerifyResponse};

use crate::answer::{
    ApiError, Outcome, SettleAnswer, SettleVerdict, VerifyAnswer, message, status_of,
};
use crate::api::Api;
use crate::delivery::{Promise, PromisedBody};
use crate::discovery::ListingStatus;
use crate::meters::{Endpoint, Transport};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `{"error": "..."}`
#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

/// Any value in JSON.
pub(crate) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => bytes(status, body.into()),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            bytes(
                StatusCode::INTERNAL_SERVER_ERROR,
                Bytes::from_static(br#"{"error":"internal error"}"#),
            )
        }
    }
}

/// Bytes that are JSON already.
pub(crate) fn bytes(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

pub(crate) fn error(error: &ApiError) -> Response {
    let row = error.row();
    let body = ErrorBody {
        error: error.to_string(),
    };
    let mut response = json(row.status, &body);
    if let Some(wait) = row.retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if *error == ApiError::Unauthenticated {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A request that is none is 400; else the reason decides.
fn status_for(reason: Reason, is_malformed: bool) -> StatusCode {
    match is_malformed {
        true => StatusCode::BAD_REQUEST,
        false => status_of(reason).0,
    }
}

pub(super) fn verify(answer: VerifyAnswer, is_malformed: bool) -> Response {
    match answer {
        VerifyAnswer::Valid { hold } => {
            let body = VerifyResponse {
                is_valid: true,
                payer: hold.payer().to_string(),
                ..VerifyResponse::default()
            };
            promised(json(StatusCode::OK, &body), Promise::Hold(hold))
        }
        VerifyAnswer::Invalid { refusal, payer } => {
            let status = status_for(refusal.reason, is_malformed);
            let text = message(&refusal.detail);
            let body = VerifyResponse {
                is_valid: false,
                invalid_reason: Some(refusal.reason.as_str().into()),
                invalid_message: Some(text.clone()),
                payer: payer.map(|payer| payer.to_string()).unwrap_or_default(),
                error: status.is_client_error().then_some(text),
            };
            retryable(json(status, &body))
        }
    }
}

pub(super) fn settle(answer: SettleAnswer, is_malformed: bool) -> Response {
    let refusal = answer.verdict.refusal();
    let status = refusal.map_or(StatusCode::OK, |(reason, _)| {
        status_for(reason, is_malformed)
    });
    let text = refusal.map(|(_, detail)| message(detail));
    let body = SettleResponse {
        success: refusal.is_none(),
        error_reason: refusal.map(|(reason, _)| reason.as_str().into()),
        error_message: text.clone(),
        transaction: answer
            .verdict
            .transaction()
            .map(|hash| hash.to_string())
            .unwrap_or_default(),
        network: answer.network,
        payer: answer
            .payer
            .map(|payer| payer.to_string())
            .unwrap_or_default(),
        amount: answer.charged.map(|amount| amount.to_string()),
        error: text.filter(|_| status.is_client_error()),
    };
    let mut response = json(status, &body);
    if let Some(id) = answer.settlement
        && let Ok(id) = HeaderValue::try_from(id.to_string())
    {
        response.headers_mut().insert("teller-settlement-id", id);
    }
    match answer.verdict {
        SettleVerdict::Settled { delivery, .. } => promised(response, Promise::Delivery(delivery)),
        _ => retryable(response),
    }
}

/// What became of the paid resource's listing, for its server alone (PROTOCOL section 2.5).
pub(super) fn with_listing(mut response: Response, status: Option<ListingStatus>) -> Response {
    let value = status.and_then(|status| HeaderValue::try_from(status.header()).ok());
    if let Some(value) = value {
        response.headers_mut().insert("extension-responses", value);
    }
    response
}

fn promised(response: Response, promise: Promise) -> Response {
    response.map(|body| PromisedBody::wrap(body, promise))
}

/// What was not possible now may be in a second.
fn retryable(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(1));
    }
    response
}

/// What was found by a reading call, as JSON; the call is counted.
pub(super) fn finish<T: Serialize>(
    api: &Api,
    endpoint: Endpoint,
    started: Instant,
    found: Result<T, ApiError>,
) -> Response {
    let outcome = Outcome::of_reading(&found);
    let response = match found {
        Ok(found) => json(StatusCode::OK, &found),
        Err(failure) => error(&failure),
    };
    api.answered(endpoint, Transport::Rest, outcome, started);
    response
}
