//! What an operator's own tools ask a process of any role, beside its doors: is it alive, is it ready, what does it measure.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;

use crate::answer::ApiError;
use crate::readiness::Readiness;
use crate::rest::{health, panicked, readiness, respond};

/// The format that Prometheus reads.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Whether a process is ready, from before it knows what it depends on until it has ended. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    readiness: OnceLock<Readiness>,
    is_draining: AtomicBool,
}

impl Health {
    /// A process that starts: it is alive, and not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// It has started: from now on it is as ready as these. What is said a second time changes nothing.
    pub fn started(&self, readiness: Readiness) {
        self.inner.readiness.get_or_init(|| readiness);
    }

    /// It is about to end, and not ready any more.
    pub fn begin_drain(&self) {
        self.inner.is_draining.store(true, Ordering::Relaxed);
    }

    /// `/healthz` and `/readyz`, which answer as the REST door does, and `/metrics` as `render` has them.
    pub fn router(&self, render: impl Fn() -> String + Clone + Send + Sync + 'static) -> Router {
        let health_state = self.clone();
        Router::new()
            .route("/healthz", get(health))
            .route("/readyz", get(move || health_state.clone().ready()))
            .route("/metrics", get(move || metrics(render.clone())))
            .fallback(|| async { respond::error(&ApiError::NoSuchRoute) })
            .method_not_allowed_fallback(|| async { respond::error(&ApiError::MethodNotAllowed) })
            .layer(CatchPanicLayer::custom(panicked))
    }

    async fn ready(self) -> Response {
        let is_draining = self.inner.is_draining.load(Ordering::Relaxed);
        match self.inner.readiness.get() {
            Some(known) => readiness(known, is_draining).await,
            None => respond::json(
                StatusCode::SERVICE_UNAVAILABLE,
                &serde_json::json!({ "status": "starting", "dependencies": {} }),
            ),
        }
    }
}

/// Rendering thousands of series takes a while, so it happens off the threads that do I/O.
async fn metrics(render: impl Fn() -> String + Send + 'static) -> Response {
    let Ok(text) = tokio::task::spawn_blocking(render).await else {
        return respond::error(&ApiError::Internal);
    };
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, METRICS);
    response
}
