//! `GET /discovery/resources` and `/discovery/search`: the catalogue, for everybody (PROTOCOL section 7.4).

use std::time::Instant;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use serde_json::value::RawValue;
use teller_protocol::discovery::{
    CursorPage, DiscoveredResource, DiscoveryResources, DiscoverySearch, OffsetPage,
};
use teller_store::Listing;

use super::respond;
use crate::answer::ApiError;
use crate::api::Api;
use crate::discovery::{Filters, Reader};
use crate::meters::Endpoint;

/// The version that the answers speak.
const VERSION: u8 = 2;

type Asked = Result<Query<Filters>, QueryRejection>;

pub(super) async fn resources(State(api): State<Api>, filters: Asked) -> Response {
    let started = Instant::now();
    let page = list(&api, filters).await;
    respond::finish(&api, Endpoint::Discovery, started, page)
}

async fn list(api: &Api, asked: Asked) -> Result<DiscoveryResources, ApiError> {
    let reader = Reader::admit(api)?;
    let found = reader.list(&filters(asked)?).await?;
    Ok(DiscoveryResources {
        x402_version: VERSION,
        pagination: OffsetPage {
            limit: found.limit.into(),
            offset: found.offset.into(),
            total: found.page.total,
        },
        items: shown(found.page.listings)?,
    })
}

pub(super) async fn search(State(api): State<Api>, filters: Asked) -> Response {
    let started = Instant::now();
    let page = find(&api, filters).await;
    respond::finish(&api, Endpoint::Discovery, started, page)
}

async fn find(api: &Api, asked: Asked) -> Result<DiscoverySearch, ApiError> {
    let reader = Reader::admit(api)?;
    let found = reader.search(&filters(asked)?).await?;
    Ok(DiscoverySearch {
        x402_version: VERSION,
        pagination: Some(CursorPage {
            limit: found.limit.into(),
            cursor: found.next().map(|next| next.to_string()),
        }),
        resources: shown(found.page.listings)?,
        partial_results: false,
    })
}

fn filters(asked: Asked) -> Result<Filters, ApiError> {
    let Query(filters) =
        asked.map_err(|_| ApiError::BadRequest("the query cannot be read".into()))?;
    Ok(filters)
}

fn shown(listings: Vec<Listing>) -> Result<Vec<DiscoveredResource>, ApiError> {
    listings.into_iter().map(resource).collect()
}

fn resource(listing: Listing) -> Result<DiscoveredResource, ApiError> {
    let raw = |text: String| {
        RawValue::from_string(text).map_err(|error| {
            tracing::error!(%error, "the catalogue holds what is no JSON");
            ApiError::Internal
        })
    };
    Ok(DiscoveredResource {
        resource: listing.resource,
        kind: listing.kind,
        x402_version: listing.version.number(),
        accepts: listing
            .accepts
            .into_iter()
            .map(raw)
            .collect::<Result<_, _>>()?,
        last_updated: listing.paid_at.to_utc(),
        description: listing.description,
        mime_type: listing.mime_type,
        service_name: listing.service_name,
        tags: listing.tags,
        icon_url: listing.icon_url,
        extensions: listing.extensions.map(raw).transpose()?,
    })
}
