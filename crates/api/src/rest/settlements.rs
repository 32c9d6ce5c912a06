//! `GET /settlements`, `/settlements/{id}` and `/settlements/{id}/receipt`.

use std::time::Instant;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use teller_domain::SignedReceipt;

use super::respond;
use crate::answer::ApiError;
use crate::api::Api;
use crate::meters::Endpoint;
use crate::receipts;
use crate::view::{Filters, PageView, SettlementView, WholeView};

pub(super) async fn list(
    State(api): State<Api>,
    filters: Result<Query<Filters>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let started = Instant::now();
    let page = list_page(&api, filters, &headers, started).await;
    respond::finish(&api, Endpoint::Settlements, started, page)
}

async fn list_page(
    api: &Api,
    filters: Result<Query<Filters>, QueryRejection>,
    headers: &HeaderMap,
    now: Instant,
) -> Result<PageView, ApiError> {
    let tenant = api.inner.gate.admit(headers, now)?;
    let _place = api.place()?;
    let Query(filters) =
        filters.map_err(|_| ApiError::BadRequest("the query cannot be read".into()))?;
    let page = api
        .inner
        .service
        .settlements(&tenant.id, filters.query()?)
        .await?;
    Ok(PageView {
        settlements: page.settlements.iter().map(SettlementView::from).collect(),
        more: page.more,
    })
}

pub(super) async fn show(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let started = Instant::now();
    let view = show_one(&api, id, &headers, started).await;
    respond::finish(&api, Endpoint::Settlements, started, view)
}

async fn show_one(
    api: &Api,
    id: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
    now: Instant,
) -> Result<WholeView, ApiError> {
    let tenant = api.inner.gate.admit(headers, now)?;
    let _place = api.place()?;
    let Path(id) = id.map_err(|_| ApiError::NoSuchSettlement)?;
    let service = &api.inner.service;
    let settlement = service.settlement(&tenant.id, &id).await?;
    let compensations = service.compensations(settlement.id).await?;
    Ok(WholeView::new(&settlement, &compensations))
}

pub(super) async fn receipt(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let started = Instant::now();
    let receipt = one_receipt(&api, id, &headers, started).await;
    respond::finish(&api, Endpoint::Settlements, started, receipt)
}

async fn one_receipt(
    api: &Api,
    id: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
    now: Instant,
) -> Result<SignedReceipt, ApiError> {
    let tenant = api.inner.gate.admit(headers, now)?;
    let _place = api.place()?;
    let Path(id) = id.map_err(|_| ApiError::NoSuchSettlement)?;
    receipts::receipt(api, &tenant.id, &id).await
}
