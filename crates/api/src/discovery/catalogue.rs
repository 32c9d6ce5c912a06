//! Reading the catalogue, for both doors: what is asked for, within bounds, and what is found.

use serde::Deserialize;
use teller_domain::v1_chain;
use teller_protocol::{extensions, field};
use teller_store::{CataloguePage, CatalogueQuery, Ledger, SearchWords};
use tokio::sync::SemaphorePermit;

use super::Discovery;
use crate::answer::ApiError;
use crate::api::Api;
use crate::service::unavailable;
use crate::view::given;

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;
/// How far into the catalogue a page may lie.
const MAX_OFFSET: u32 = 100_000;
/// The longest text that is searched for, in bytes.
const MAX_QUERY_BYTES: usize = 512;

/// What is asked for, as texts; an empty one does not count.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Filters {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) pay_to: String,
    pub(crate) scheme: String,
    pub(crate) network: String,
    /// Ids with commas between them.
    pub(crate) extensions: String,
    pub(crate) limit: String,
    pub(crate) offset: String,
    pub(crate) cursor: String,
    pub(crate) query: String,
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

/// A page of the catalogue and where it lies.
pub(crate) struct Listed {
    pub(crate) page: CataloguePage,
    pub(crate) limit: u32,
    pub(crate) offset: u32,
}

impl Listed {
    /// Where the next page begins, if there is one.
    pub(crate) fn next(&self) -> Option<u32> {
        let next = self.offset.saturating_add(self.limit);
        let more = u64::from(next) < self.page.total && next <= MAX_OFFSET;
        more.then_some(next)
    }
}

/// One who may read the catalogue now.
pub(crate) struct Reader<'a> {
    discovery: &'a Discovery,
    ledger: &'a dyn Ledger,
    _place: SemaphorePermit<'a>,
}

impl<'a> Reader<'a> {
    /// Nobody needs a key to read; so that nobody is held up by readers, few read at once.
    pub(crate) fn admit(api: &'a Api) -> Result<Self, ApiError> {
        let discovery = api.inner.discovery.as_ref().ok_or(ApiError::NoCatalogue)?;
        let place = discovery.readers.try_acquire();
        Ok(Self {
            discovery,
            ledger: api.inner.service.ledger.as_ref(),
            _place: place.map_err(|_| ApiError::Overloaded)?,
        })
    }

    pub(crate) async fn list(&self, filters: &Filters) -> Result<Listed, ApiError> {
        let offset = place("offset", &filters.offset)?;
        let query = filters.catalogue_query(offset, self.discovery.bounds.kept_ms)?;
        let page = match filters.asks_for_other_extensions() {
            true => nothing(),
            false => self.ledger.resources(&query).await.map_err(unavailable)?,
        };
        Ok(Listed {
            page,
            limit: query.limit,
            offset,
        })
    }

    pub(crate) async fn search(&self, filters: &Filters) -> Result<Listed, ApiError> {
        let offset = place("cursor", &filters.cursor)?;
        let query = filters.catalogue_query(offset, self.discovery.bounds.kept_ms)?;
        let wanted = |problem: &str| ApiError::BadRequest(format!("query {problem}"));
        if filters.query.len() > MAX_QUERY_BYTES {
            return Err(wanted("must have at most 512 bytes"));
        }
        let words = SearchWords::of(&filters.query)
            .ok_or_else(|| wanted("must name a word to search for"))?;
        let page = match filters.asks_for_other_extensions() {
            true => nothing(),
            false => {
                let found = self.ledger.search_resources(&words, &query).await;
                found.map_err(unavailable)?
            }
        };
        Ok(Listed {
            page,
            limit: query.limit,
            offset,
        })
    }
}

fn nothing() -> CataloguePage {
    CataloguePage {
        listings: Vec::new(),
        total: 0,
    }
}
