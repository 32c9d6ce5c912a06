//! `teller.v1.Settlements`.

use std::pin::Pin;
use std::time::Instant;

use futures::Stream;
use teller_domain::TenantId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{convert, head, status};
use crate::answer::{ApiError, Outcome};
use crate::api::Api;
use crate::meters::{Endpoint, Transport};
use crate::proto;
use crate::proto::settlements_server::Settlements;
use crate::receipts;
use crate::service::unavailable;
use crate::view::Filters;

/// Events read from the outbox at once.
const EVENTS_AT_ONCE: u32 = 256;
/// Events that wait for a slow reader.
const EVENTS_WAITING: usize = 256;

pub(super) struct SettlementsDoor(pub(super) Api);

type Events = Pin<Box<dyn Stream<Item = Result<proto::SettlementEvent, Status>> + Send>>;

impl SettlementsDoor {
    async fn one(
        &self,
        request: Request<proto::GetSettlementRequest>,
    ) -> Result<proto::Settlement, ApiError> {
        let inner = &self.0.inner;
        let tenant = head::caller(&request)?;
        let id = &request.get_ref().id;
        let settlement = inner.service.settlement(&tenant.id, id).await?;
        let compensations = inner.service.compensations(settlement.id).await?;
        Ok(proto::Settlement {
            compensations: compensations.iter().map(convert::compensation).collect(),
            ..convert::settlement(&settlement)
        })
    }

    async fn signed(
        &self,
        request: Request<proto::GetReceiptRequest>,
    ) -> Result<proto::SignedReceipt, ApiError> {
        let tenant = head::caller(&request)?;
        let id = &request.get_ref().id;
        let receipt = receipts::receipt(&self.0, &tenant.id, id).await?;
        convert::signed_receipt(&receipt)
    }

    async fn page(
        &self,
        request: Request<proto::ListSettlementsRequest>,
    ) -> Result<proto::ListSettlementsResponse, ApiError> {
        let inner = &self.0.inner;
        let tenant = head::caller(&request)?;
        let query = filters(request.into_inner())?.query()?;
        let page = inner.service.settlements(&tenant.id, query).await?;
        Ok(proto::ListSettlementsResponse {
            settlements: page.settlements.iter().map(convert::settlement).collect(),
            more: page.more,
        })
    }

    async fn events(
        &self,
        request: Request<proto::WatchSettlementsRequest>,
    ) -> Result<Events, ApiError> {
        let inner = &self.0.inner;
        let tenant = head::caller(&request)?;
        let watchers = inner.watchers.clone();
        let place = watchers
            .try_acquire_owned()
            .map_err(|_| ApiError::Overloaded)?;
        let after = match request.get_ref().after {
            Some(after) => after,
            None => {
                let last = inner.service.ledger.last_event().await;
                last.map_err(unavailable)?
            }
        };
        let (sender, receiver) = mpsc::channel(EVENTS_WAITING);
        let (api, tenant) = (self.0.clone(), tenant.id.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = api.inner.service.drained() => {
                    let _ = sender.try_send(Err(Status::unavailable("teller is shutting down")));
                }
                () = watch(&api, &tenant, after, &sender) => {}
            }
            drop(place);
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    fn finish<T>(
        &self,
        found: Result<T, ApiError>,
        started: Instant,
    ) -> Result<Response<T>, Status> {
        let outcome = Outcome::of_reading(&found);
        self.0
            .answered(Endpoint::Settlements, Transport::Grpc, outcome, started);
        found.map(Response::new).map_err(|error| status(&error))
    }
}

/// Sends events until the reader is gone or the ledger cannot be read.
async fn watch(
    api: &Api,
    tenant: &TenantId,
    mut after: u64,
    sender: &mpsc::Sender<Result<proto::SettlementEvent, Status>>,
) {
    let ledger = &api.inner.service.ledger;
    let mut changes = ledger.changes();
    loop {
        changes.mark_unchanged();
        let events = match ledger.events(after, Some(tenant), EVENTS_AT_ONCE).await {
            Ok(events) => events,
            Err(error) => {
                let _ = sender.send(Err(status(&unavailable(error)))).await;
                return;
            }
        };
        let is_last = events.len() < EVENTS_AT_ONCE as usize;
        for event in events {
            after = event.sequence;
            let event = proto::SettlementEvent {
                sequence: event.sequence,
                settlement: Some(convert::settlement(&event.settlement)),
            };
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if is_last {
            // A change is a hint only; polling guarantees, also when the hints have ended.
            let hinted = tokio::time::timeout(api.inner.config.watch_poll, changes.changed());
            if let Ok(Err(_)) = hinted.await {
                tokio::time::sleep(api.inner.config.watch_poll).await;
            }
        }
    }
}

fn filters(request: proto::ListSettlementsRequest) -> Result<Filters, ApiError> {
    let state = match request.state() {
        proto::SettlementState::Unspecified if request.state != 0 => {
            return Err(ApiError::BadRequest("state is no settlement state".into()));
        }
        proto::SettlementState::Unspecified => String::new(),
        wanted => teller_domain::SettlementStateKind::ALL
            .into_iter()
            .find(|kind| convert::state(*kind) == wanted)
            .map(|kind| kind.as_str().to_owned())
            .unwrap_or_default(),
    };
    Ok(Filters {
        state,
        network: request.network,
        payer: request.payer,
        nonce: request.nonce,
        transaction: request.transaction,
        before: request.before,
        limit: match request.limit {
            0 => String::new(),
            limit => limit.to_string(),
        },
    })
}

#[tonic::async_trait]
impl Settlements for SettlementsDoor {
    type WatchStream = Events;

    async fn get(
        &self,
        request: Request<proto::GetSettlementRequest>,
    ) -> Result<Response<proto::Settlement>, Status> {
        let started = Instant::now();
        let found = self.one(request).await;
        self.finish(found, started)
    }

    async fn get_receipt(
        &self,
        request: Request<proto::GetReceiptRequest>,
    ) -> Result<Response<proto::SignedReceipt>, Status> {
        let started = Instant::now();
        let found = self.signed(request).await;
        self.finish(found, started)
    }

    async fn list(
        &self,
        request: Request<proto::ListSettlementsRequest>,
    ) -> Result<Response<proto::ListSettlementsResponse>, Status> {
        let started = Instant::now();
        let found = self.page(request).await;
        self.finish(found, started)
    }

    async fn watch(
        &self,
        request: Request<proto::WatchSettlementsRequest>,
    ) -> Result<Response<Events>, Status> {
        let started = Instant::now();
        let found = self.events(request).await;
        self.finish(found, started)
    }
}
