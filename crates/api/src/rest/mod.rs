//! The REST door: routes, and what every answer has in common.

mod discovery;
mod info;
mod payments;
pub(crate) mod respond;
mod settlements;

use axum::Router;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::answer::ApiError;
use crate::api::Api;

pub(crate) use info::{health, readiness};

/// Bodies beyond this are refused with 413.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/verify", post(payments::verify).get(info::describe_verify))
        .route("/settle", post(payments::settle).get(info::describe_settle))
        .route("/release", post(payments::release))
        .route("/supported", get(info::supported))
        .route("/settlements", get(settlements::list))
        .route("/settlements/{id}", get(settlements::show))
        .route("/settlements/{id}/receipt", get(settlements::receipt))
        .route("/discovery/resources", get(discovery::resources))
        .route("/discovery/search", get(discovery::search))
        .route("/health", get(info::health))
        .route("/healthz", get(info::health))
        .route("/readyz", get(info::ready))
        .route("/openapi.json", get(info::openapi))
        .fallback(|| async { respond::error(&ApiError::NoSuchRoute) })
        .method_not_allowed_fallback(|| async { respond::error(&ApiError::MethodNotAllowed) })
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(api)
}

/// The panic itself is reported by the panic hook.
pub(crate) fn panicked(_: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    respond::error(&ApiError::Internal)
}
