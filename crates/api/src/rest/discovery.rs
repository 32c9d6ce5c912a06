//! `GET /discovery/resources` and `/discovery/search`: the catalogue, for everybody (PROTOCOL section 7.4).

use std::time::Instant;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use teller_domain::v1_chain;
use teller_protocol::discovery::{
    CursorPage, DiscoveredResource, DiscoveryResources, DiscoverySearch, OffsetPage,
};
use teller_protocol::{extensions, field};
use teller_store::{CataloguePage, CatalogueQuery, Listing, SearchWords};
use tokio::sync::SemaphorePermit;

use super::respond;
use crate::answer::ApiError;
use crate::api::Api;
use crate::discovery::Discovery;
use crate::meters::Endpoint;
use crate::service::unavailable;
use crate::view::given;

/// The version that the answers speak.
const VERSION: u8 = 2;
const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;
/// How far into the catalogue a page may lie.
const MAX_OFFSET: u32 = 100_000;
/// The longest text that is searched for, in bytes.
const MAX_QUERY_BYTES: usize = 512;

/// What is asked for, as texts; an empty one does not count.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Filters {
    #[serde(rename = "type")]
    kind: String,
    pay_to: String,
    scheme: String,
    network: String,
    extensions: String,
    limit: String,
    offset: String,
    cursor: String,
    query: String,
}

impl Filters {
    fn catalogue_query(&self, offset: u32, kept_ms: u64) -> Result<CatalogueQuery, ApiError> {
        let number = |text: &str| text.parse::<u32>().ok();
        let limit = given("limit", &self.limit, "must be 1 to 100", |text| {
            number(text).filter(|limit| (1..=MAX_LIMIT).contains(limit))
        })?;
        let kind = given("type", &self.kind, "must be http or mcp", |text| {
            matches!(text, "http" | "mcp").then(|| text.to_owned())
        })?;
        let pay_to = given("payTo", &self.pay_to, "must be an address", |text| {
            field::address(text).ok()
        })?;
        let chain = given(
            "network",
            &self.network,
            "must be eip155:<chain id> or a network name",
            |text| text.parse().ok().or_else(|| v1_chain(text)),
        )?;
        Ok(CatalogueQuery {
            kind,
            pay_to,
            chain,
            scheme: Some(self.scheme.clone()).filter(|scheme| !scheme.is_empty()),
            has_extensions: (!self.extensions.is_empty()).then_some(true),
            kept_ms,
            offset,
            limit: limit.unwrap_or(DEFAULT_LIMIT),
        })
    }

    /// Whether nothing can be found: the catalogue knows of no extension but its own.
    fn asks_for_other_extensions(&self) -> bool {
        let mut ids = self.extensions.split(',').map(str::trim);
        !self.extensions.is_empty() && ids.any(|id| id != extensions::ids::BAZAAR)
    }
}

fn place(name: &str, text: &str) -> Result<u32, ApiError> {
    let place = given(name, text, "must be 0 to 100000", |text| {
        let place = text.parse().ok()?;
        (place <= MAX_OFFSET).then_some(place)
    })?;
    Ok(place.unwrap_or(0))
}

pub(super) async fn resources(
    State(api): State<Api>,
    filters: Result<Query<Filters>, QueryRejection>,
) -> Response {
    let started = Instant::now();
    let page = list(&api, filters).await;
    respond::finish(&api, Endpoint::Discovery, started, page)
}

async fn list(
    api: &Api,
    filters: Result<Query<Filters>, QueryRejection>,
) -> Result<DiscoveryResources, ApiError> {
    let (discovery, _place, filters) = admit(api, filters)?;
    let offset = place("offset", &filters.offset)?;
    let query = filters.catalogue_query(offset, discovery.bounds.kept_ms)?;
    let page = match filters.asks_for_other_extensions() {
        true => nothing(),
        false => api
            .inner
            .service
            .ledger
            .resources(&query)
            .await
            .map_err(unavailable)?,
    };
    Ok(DiscoveryResources {
        x402_version: VERSION,
        items: shown(page.listings)?,
        pagination: OffsetPage {
            limit: query.limit.into(),
            offset: offset.into(),
            total: page.total,
        },
    })
}

pub(super) async fn search(
    State(api): State<Api>,
    filters: Result<Query<Filters>, QueryRejection>,
) -> Response {
    let started = Instant::now();
    let page = find(&api, filters).await;
    respond::finish(&api, Endpoint::Discovery, started, page)
}

async fn find(
    api: &Api,
    filters: Result<Query<Filters>, QueryRejection>,
) -> Result<DiscoverySearch, ApiError> {
    let (discovery, _place, filters) = admit(api, filters)?;
    let offset = place("cursor", &filters.cursor)?;
    let query = filters.catalogue_query(offset, discovery.bounds.kept_ms)?;
    let wanted = |problem: &str| ApiError::BadRequest(format!("query {problem}"));
    if filters.query.len() > MAX_QUERY_BYTES {
        return Err(wanted("must have at most 512 bytes"));
    }
    let words =
        SearchWords::of(&filters.query).ok_or_else(|| wanted("must name a word to search for"))?;
    let ledger = &api.inner.service.ledger;
    let page = match filters.asks_for_other_extensions() {
        true => nothing(),
        false => ledger
            .search_resources(&words, &query)
            .await
            .map_err(unavailable)?,
    };
    let next = offset.saturating_add(query.limit);
    let more = u64::from(next) < page.total && next <= MAX_OFFSET;
    Ok(DiscoverySearch {
        x402_version: VERSION,
        resources: shown(page.listings)?,
        partial_results: false,
        pagination: Some(CursorPage {
            limit: query.limit.into(),
            cursor: more.then(|| next.to_string()),
        }),
    })
}

fn nothing() -> CataloguePage {
    CataloguePage {
        listings: Vec::new(),
        total: 0,
    }
}

type Admitted<'a> = (&'a Discovery, SemaphorePermit<'a>, Filters);

/// Nobody needs a key to read; so that nobody is held up by readers, few read at once.
fn admit(
    api: &Api,
    filters: Result<Query<Filters>, QueryRejection>,
) -> Result<Admitted<'_>, ApiError> {
    let discovery = api.inner.discovery.as_ref().ok_or(ApiError::NoCatalogue)?;
    let place = discovery.readers.try_acquire();
    let place = place.map_err(|_| ApiError::Overloaded)?;
    let Query(filters) =
        filters.map_err(|_| ApiError::BadRequest("the query cannot be read".into()))?;
    Ok((discovery, place, filters))
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
