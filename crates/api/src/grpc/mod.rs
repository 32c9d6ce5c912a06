//! The gRPC door: the same service, in messages instead of JSON.

mod convert;
mod discovery;
mod facilitator;
#[cfg(test)]
mod fuzz;
mod head;
mod offer;
mod request;
mod settlements;

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use tonic::Status;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower_http::catch_panic::CatchPanicLayer;

use crate::answer::ApiError;
use crate::api::Api;
use crate::delivery::{PromiseSlot, PromisedBody};
use crate::proto;
use crate::proto::discovery_server::DiscoveryServer;
use crate::proto::facilitator_server::FacilitatorServer;
use crate::proto::settlements_server::SettlementsServer;
use crate::rest::MAX_BODY_BYTES;

/// How often gRPC health is brought up to date.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);

/// What gRPC health is asked about; "" is all of it.
const SERVICES: [&str; 4] = [
    "",
    "teller.v1.Facilitator",
    "teller.v1.Settlements",
    "teller.v1.Discovery",
];

pub(crate) fn router(api: Api) -> Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(api.clone(), reporter));
    let routes = Routes::new(health.max_decoding_message_size(head::STRANGERS_MESSAGE))
        .add_service(
            FacilitatorServer::new(facilitator::FacilitatorDoor(api.clone()))
                .max_decoding_message_size(MAX_BODY_BYTES),
        )
        .add_service(
            SettlementsServer::new(settlements::SettlementsDoor(api.clone()))
                .max_decoding_message_size(MAX_BODY_BYTES),
        )
        .add_service(
            DiscoveryServer::new(discovery::DiscoveryDoor(api.clone()))
                .max_decoding_message_size(head::STRANGERS_MESSAGE),
        );
    // Newer tools speak v1, grpcurl still asks for v1alpha first.
    let routes = match reflection().build_v1() {
        Ok(service) => {
            routes.add_service(service.max_decoding_message_size(head::STRANGERS_MESSAGE))
        }
        Err(error) => without_reflection(routes, &error),
    };
    let routes = match reflection().build_v1alpha() {
        Ok(service) => {
            routes.add_service(service.max_decoding_message_size(head::STRANGERS_MESSAGE))
        }
        Err(error) => without_reflection(routes, &error),
    };
    routes
        .prepare()
        .into_axum_router()
        .layer(axum::middleware::from_fn_with_state(api, head::admit))
        .layer(axum::middleware::from_fn(keep_promises))
        .layer(CatchPanicLayer::custom(panicked))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn without_reflection(routes: Routes, error: &tonic_reflection::server::Error) -> Routes {
    tracing::error!(%error, "server reflection is not available");
    routes
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    status(&ApiError::Internal).into_http()
}

/// Moves a promise from the response's extensions into its body, where the transport shows whether it took it.
async fn keep_promises(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let promise = response
        .extensions_mut()
        .remove::<PromiseSlot>()
        .and_then(|slot| slot.take());
    match promise {
        Some(promise) => response.map(|body| PromisedBody::wrap(body, promise)),
        None => response,
    }
}

/// An error as gRPC says it; `retry-after` in seconds travels as metadata.
fn status(error: &ApiError) -> Status {
    let row = error.row();
    let mut status = Status::new(row.code, error.to_string());
    if let Some(wait) = row.retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        status
            .metadata_mut()
            .insert("retry-after", seconds.max(1).into());
    }
    status
}

/// Keeps gRPC health equal to `/readyz` until shutdown begins.
async fn report_health(api: Api, reporter: HealthReporter) {
    loop {
        let is_draining = api.inner.service.is_draining();
        let is_ready = !is_draining && api.inner.readiness.check().await.is_ready();
        let serving = match is_ready {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for service in SERVICES {
            reporter.set_service_status(service, serving).await;
        }
        if is_draining {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
            () = api.inner.service.drained() => {}
        }
    }
}
