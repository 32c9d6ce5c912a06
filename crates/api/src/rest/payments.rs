//! `POST /verify`, `/settle` and `/release`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use serde::Serialize;
use teller_domain::IdempotencyKey;
use tokio::sync::OwnedSemaphorePermit;

use super::{MAX_BODY_BYTES, respond};
use crate::answer::{ApiError, Outcome, VerifyAnswer};
use crate::api::Api;
use crate::connection::Connection;
use crate::discovery::Candidate;
use crate::limits::Tenant;
use crate::meters::{Endpoint, Transport};
use crate::service::rejected_settle;
use crate::wire::{self, Asked, Rejection};

/// How much of a body that is too large is read, and for how long, so that its sender gets to the answer.
const MAX_DISCARDED_BYTES: u64 = 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// What a request needs to be answered: who asks, with which key, what, and a place among those in progress.
struct Admitted {
    tenant: Arc<Tenant>,
    idempotency_key: Option<IdempotencyKey>,
    body: Bytes,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn verify(State(api): State<Api>, request: Request) -> Response {
    let started = Instant::now();
    let (response, outcome) = match admit(&api, request, started).await {
        Ok(admitted) => verify_admitted(&api, admitted).await,
        Err(error) => (respond::error(&error), Outcome::Rejected),
    };
    api.answered(Endpoint::Verify, Transport::Rest, outcome, started);
    response
}

async fn verify_admitted(api: &Api, admitted: Admitted) -> (Response, Outcome) {
    let mut candidate = None;
    let (answer, is_malformed) = match read(api, &admitted) {
        Ok((asked, offered)) => {
            candidate = offered;
            let (answer, cause) = api.inner.service.verify(*asked).await;
            api.log("verify", cause.as_ref());
            (answer, false)
        }
        Err(rejection) => (
            VerifyAnswer::Invalid {
                refusal: rejection.refusal,
                payer: rejection.payer,
            },
            rejection.is_bad_request,
        ),
    };
    let outcome = outcome(answer.outcome(), is_malformed);
    let status = api.announced(&answer, candidate.as_deref()).await;
    let response = respond::verify(answer, is_malformed);
    (respond::with_listing(response, status), outcome)
}

/// A request's payment with the buyer's id of it, and what was paid for. In boxes: thousands of requests wait at once, and
/// a future has room for all that it ever held.
fn read(api: &Api, admitted: &Admitted) -> Result<(Box<Asked>, Option<Box<Candidate>>), Rejection> {
    let mut asked = wire::read(
        &admitted.body,
        &api.inner.offers,
        &admitted.tenant.id,
        admitted.idempotency_key.clone(),
    )?;
    let candidate = Candidate::of(&mut asked);
    Ok((Box::new(asked), candidate.map(Box::new)))
}

pub(super) async fn settle(State(api): State<Api>, request: Request) -> Response {
    let started = Instant::now();
    let (response, outcome) = match admit(&api, request, started).await {
        Ok(admitted) => settle_admitted(&api, admitted).await,
        Err(error) => (respond::error(&error), Outcome::Rejected),
    };
    api.answered(Endpoint::Settle, Transport::Rest, outcome, started);
    response
}

async fn settle_admitted(api: &Api, admitted: Admitted) -> (Response, Outcome) {
    let tenant = &admitted.tenant;
    let Ok(_settles) = tenant.take_settle() else {
        return (respond::error(&ApiError::TooManySettles), Outcome::Rejected);
    };
    let asked = read(api, &admitted);
    // It shares the connection's read buffer, which need not outlast the wait.
    drop(admitted.body);
    let mut candidate = None;
    let (answer, is_malformed) = match asked {
        Ok((asked, offered)) => {
            candidate = offered;
            let (answer, cause) = api.inner.service.settle(asked, tenant).await;
            api.log("settle", cause.as_ref());
            (answer, false)
        }
        Err(rejection) => {
            let is_malformed = rejection.is_bad_request;
            (rejected_settle(rejection), is_malformed)
        }
    };
    let outcome = outcome(answer.verdict.outcome(), is_malformed);
    api.told(&answer.verdict);
    let status = api
        .listed(&answer.verdict, candidate.map(|boxed| *boxed))
        .await;
    let response = respond::settle(answer, is_malformed);
    (respond::with_listing(response, status), outcome)
}

fn outcome(outcome: Outcome, is_malformed: bool) -> Outcome {
    match is_malformed {
        true => Outcome::Rejected,
        false => outcome,
    }
}

/// The answer to `/release`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Released {
    released: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn release(State(api): State<Api>, request: Request) -> Response {
    let started = Instant::now();
    let (response, outcome) = match admit(&api, request, started).await {
        Ok(admitted) => release_admitted(&api, admitted).await,
        Err(error) => (respond::error(&error), Outcome::Rejected),
    };
    api.answered(Endpoint::Release, Transport::Rest, outcome, started);
    response
}

async fn release_admitted(api: &Api, admitted: Admitted) -> (Response, Outcome) {
    let offers = &api.inner.offers;
    let asked = match wire::read(&admitted.body, offers, &admitted.tenant.id, None) {
        Ok(asked) => asked,
        Err(rejection) => {
            let body = Released {
                released: false,
                reason: Some(rejection.refusal.reason.as_str()),
                error: Some(rejection.refusal.detail),
            };
            return (
                respond::json(StatusCode::BAD_REQUEST, &body),
                Outcome::Rejected,
            );
        }
    };
    match api.inner.service.release(asked).await {
        Ok(released) => {
            let body = Released {
                released,
                reason: None,
                error: None,
            };
            (respond::json(StatusCode::OK, &body), Outcome::Done)
        }
        Err(cause) => {
            api.log("release", Some(&cause));
            (
                respond::error(&ApiError::ReservationsUnavailable),
                Outcome::Unknown,
            )
        }
    }
}

async fn admit(api: &Api, request: Request, now: Instant) -> Result<Admitted, ApiError> {
    let (head, body) = request.into_parts();
    let tenant = api.inner.gate.admit(&head.headers, now)?;
    let place = api.place()?;
    let idempotency_key = idempotency_key(&head.headers)?;
    let connection = Connection::of(&head.extensions);
    let read = tokio::time::timeout(api.inner.config.body_timeout, read_body(&connection, body));
    let body = read.await.map_err(|_| ApiError::BodyTimeout)??;
    Ok(Admitted {
        tenant,
        idempotency_key,
        body,
        _place: place,
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .map(Some)
            .ok_or(ApiError::IdempotencyKey),
        (Some(_), Some(_)) => Err(ApiError::IdempotencyKey),
    }
}

/// The whole body, at most [`MAX_BODY_BYTES`] of it, whatever its length header says.
async fn read_body(connection: &Connection, mut body: Body) -> Result<Bytes, ApiError> {
    let read = connection.read(&mut body, MAX_BODY_BYTES).await;
    if read != Err(ApiError::BodyTooLarge) {
        return read;
    }
    // A caller that is still writing when the connection closes never sees the answer.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(body)).await;
    Err(ApiError::BodyTooLarge)
}

/// Reads what is left of a body that is too large, within reason.
async fn discard(mut body: Body) {
    if body.size_hint().lower() > MAX_DISCARDED_BYTES {
        return;
    }
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len) as u64;
        if discarded > MAX_DISCARDED_BYTES {
            return;
        }
    }
}
