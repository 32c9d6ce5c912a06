//! What is asked of a call's head before any of its message is kept: its key, a place, and time.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::status;
use crate::answer::{ApiError, Outcome};
use crate::api::Api;
use crate::connection::Connection;
use crate::limits::Tenant;
use crate::meters::{Endpoint, Transport};
use crate::rest::MAX_BODY_BYTES;

/// The longest message of a call that shows no key.
pub(super) const STRANGERS_MESSAGE: usize = 4 * 1024;
/// What gRPC puts before a message: a flag and its length.
const PREFIX: usize = 5;

/// Whose call it is, told to its method.
#[derive(Debug, Clone)]
struct Caller(Arc<Tenant>);

/// Whose call this is.
pub(super) fn caller<T>(request: &tonic::Request<T>) -> Result<Arc<Tenant>, ApiError> {
    let caller = request.extensions().get::<Caller>();
    caller
        .map(|caller| caller.0.clone())
        .ok_or(ApiError::Unauthenticated)
}

/// Lets a call in, with its message if it has but one.
pub(super) async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let Some(endpoint) = endpoint(request.uri().path()) else {
        return match stranger(&api, request).await {
            Ok((request, place)) => kept_until_its_end(next.run(request).await, place),
            Err(error) => status(&error).into_http(),
        };
    };
    match keyed(&api, request, started).await {
        Ok((request, _place)) => next.run(request).await,
        Err(error) => {
            api.answered(endpoint, Transport::Grpc, Outcome::Rejected, started);
            status(&error).into_http()
        }
    }
}

/// What is counted where a key is needed; `None` where none is.
fn endpoint(path: &str) -> Option<Endpoint> {
    let (service, method) = path.strip_prefix("/teller.v1.")?.split_once('/')?;
    match (service, method) {
        ("Facilitator", "Verify") => Some(Endpoint::Verify),
        ("Facilitator", "Settle") => Some(Endpoint::Settle),
        ("Facilitator", "Release") => Some(Endpoint::Release),
        ("Settlements", _) => Some(Endpoint::Settlements),
        _ => None,
    }
}

type Admitted = Result<(Request, OwnedSemaphorePermit), ApiError>;

async fn keyed(api: &Api, request: Request, now: Instant) -> Admitted {
    let tenant = api.inner.gate.admit(request.headers(), now)?;
    let place = api.place()?;
    let mut request = with_message(api, request, MAX_BODY_BYTES).await?;
    request.extensions_mut().insert(Caller(tenant));
    Ok((request, place))
}

async fn stranger(api: &Api, request: Request) -> Admitted {
    let place = Connection::of(request.extensions()).stranger()?;
    if !request.uri().path().starts_with("/grpc.reflection.") {
        let request = with_message(api, request, STRANGERS_MESSAGE).await?;
        return Ok((request, place));
    }
    // Of many messages, each when the one before was answered.
    let end = Box::pin(sleep(api.inner.config.body_timeout));
    let request = request.map(|body| Body::from_stream(body.into_data_stream().take_until(end)));
    Ok((request, place))
}

/// The same call with its only message, which has arrived.
async fn with_message(api: &Api, request: Request, most: usize) -> Result<Request, ApiError> {
    let (head, mut body) = request.into_parts();
    let connection = Connection::of(&head.extensions);
    let reading = connection.read(&mut body, PREFIX + most);
    let read = timeout(api.inner.config.body_timeout, reading).await;
    let message = read.map_err(|_| ApiError::BodyTimeout)??;
    Ok(Request::from_parts(head, Body::from(message)))
}

/// Keeps the place as long as the response is written, which may be long.
fn kept_until_its_end(response: Response, place: OwnedSemaphorePermit) -> Response {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _kept = &place;
            frame
        }))
    })
}
