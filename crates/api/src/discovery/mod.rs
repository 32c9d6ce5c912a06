//! The bazaar: what is paid for and wants to be found is judged, listed in the ledger's catalogue and shown to everybody.
//! None of it may hold a payment up or change its answer.

mod catalogue;
#[cfg(test)]
mod fuzz;
mod schema;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use teller_domain::X402Version;
use teller_protocol::extensions::Extension;
use teller_protocol::{Claim, Version};
use teller_store::{CatalogueBounds, Ledger, ListedTerms, ListingKind, NewListing};
use tokio::sync::Semaphore;

pub(crate) use self::catalogue::{Filters, Listed, Reader};
use self::schema::Unfit;
use crate::answer::message;
use crate::wire::Asked;

/// How many verdicts and listings are remembered; all are forgotten when there would be more.
const MOST_REMEMBERED: usize = 4_096;
/// How many schemas are judged at once, and how many listings are under way.
const JUDGED_AT_ONCE: usize = 2;
const LISTED_AT_ONCE: usize = 64;
/// How many requests read the catalogue at once; more are told to come back.
const READ_AT_ONCE: usize = 8;
/// How long an answer waits for its listing. It is written all the same.
const PATIENCE: Duration = Duration::from_millis(300);
/// A listing that is the same as one that was written this long ago is not written again.
const WRITTEN_FOR: Duration = Duration::from_secs(60);

/// What becomes of a listing: the content of the `EXTENSION-RESPONSES` header (PROTOCOL section 2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListingStatus {
    Success,
    Processing,
    Rejected(String),
}

impl ListingStatus {
    /// The header's value.
    pub(crate) fn header(&self) -> String {
        let bazaar = match self {
            Self::Success => json!({ "status": "success" }),
            Self::Processing => json!({ "status": "processing" }),
            Self::Rejected(reason) => {
                json!({ "status": "rejected", "rejectedReason": message(reason) })
            }
        };
        STANDARD.encode(json!({ "bazaar": bazaar }).to_string())
    }
}

/// A resource that is being paid for, and what its header may say.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    listing: Result<NewListing, String>,
    claim: Option<Claim>,
    /// Version 1 knows no extensions.
    pub(crate) has_header: bool,
}

impl Candidate {
    /// Takes what a request offers for the catalogue: it need not wait with the payment.
    pub(crate) fn of(asked: &mut Asked) -> Option<Self> {
        let request = &asked.request;
        let has_header = request.version == X402Version::V2;
        let found = match std::mem::take(&mut asked.discoverable) {
            Extension::Absent => return None,
            Extension::Malformed(detail) => {
                return Some(Self {
                    listing: Err(detail),
                    claim: None,
                    has_header,
                });
            }
            Extension::Present(found) => found,
        };
        let resource = found.resource;
        let listing = NewListing {
            tenant: request.tenant.clone(),
            kind: found.tool.map_or(ListingKind::Http, ListingKind::Mcp),
            resource: found.url,
            version: match found.version {
                Version::V1 => X402Version::V1,
                Version::V2 => X402Version::V2,
            },
            description: resource.description,
            mime_type: resource.mime_type,
            service_name: resource.service_name,
            tags: resource.tags,
            icon_url: resource.icon_url,
            extensions: found
                .claim
                .as_ref()
                .map(|claim| format!("{{\"bazaar\":{}}}", claim.listed)),
            terms: ListedTerms {
                scheme: request.scheme.as_str().to_owned(),
                chain: request.payment.key.chain,
                asset: request.payment.asset,
                pay_to: request.pay_to,
                requirements: found.requirements,
            },
        };
        Some(Self {
            listing: storable(&listing)
                .then_some(listing)
                .ok_or_else(|| "a text in it has a character that cannot be stored".to_owned()),
            claim: found.claim,
            has_header,
        })
    }
}

/// Postgres has no text with a zero character in it. In JSON it is escaped.
fn storable(listing: &NewListing) -> bool {
    let texts = [
        Some(listing.resource.as_str()),
        match &listing.kind {
            ListingKind::Http => None,
            ListingKind::Mcp(tool) => Some(tool),
        },
        listing.description.as_deref(),
        listing.icon_url.as_deref(),
    ];
    !texts.into_iter().flatten().any(|text| text.contains('\0'))
}

/// The catalogue's keeper.
pub(crate) struct Discovery {
    pub(crate) bounds: CatalogueBounds,
    pub(crate) readers: Semaphore,
    judges: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    hasher: RandomState,
    verdicts: Arc<Mutex<HashMap<u64, Result<(), Unfit>>>>,
    written: Mutex<HashMap<u64, Instant>>,
}

impl Discovery {
    pub(crate) fn new(bounds: CatalogueBounds) -> Self {
        Self {
            bounds,
            readers: Semaphore::new(READ_AT_ONCE),
            judges: Arc::new(Semaphore::new(JUDGED_AT_ONCE)),
            writers: Arc::new(Semaphore::new(LISTED_AT_ONCE)),
            hasher: RandomState::new(),
            verdicts: Arc::default(),
            written: Mutex::default(),
        }
    }

    /// What a verified payment's resource is told: it is listed once it has been paid for.
    pub(crate) async fn announced(&self, candidate: &Candidate) -> ListingStatus {
        match tokio::time::timeout(PATIENCE, self.judged(candidate)).await {
            Ok(Ok(_)) | Err(_) => ListingStatus::Processing,
            Ok(Err(reason)) => ListingStatus::Rejected(reason),
        }
    }

    /// Lists a resource that has just been paid for.
    pub(crate) async fn paid(
        self: &Arc<Self>,
        candidate: Candidate,
        ledger: &Arc<dyn Ledger>,
        now: Instant,
    ) -> ListingStatus {
        let Ok(place) = self.writers.clone().try_acquire_owned() else {
            return ListingStatus::Rejected("the catalogue is busy; pay again later".to_owned());
        };
        let (discovery, ledger) = (self.clone(), ledger.clone());
        let listing = tokio::spawn(async move {
            let listed = discovery.list(&candidate, ledger.as_ref(), now).await;
            drop(place);
            listed
        });
        match tokio::time::timeout(PATIENCE, listing).await {
            Ok(Ok(Ok(()))) => ListingStatus::Success,
            Ok(Ok(Err(reason))) => ListingStatus::Rejected(reason),
            Ok(Err(_)) | Err(_) => ListingStatus::Processing,
        }
    }

    async fn list(
        &self,
        candidate: &Candidate,
        ledger: &dyn Ledger,
        now: Instant,
    ) -> Result<(), String> {
        let listing = self.judged(candidate).await?;
        let name = self.hasher.hash_one(listing);
        if self.is_written(name, now) {
            return Ok(());
        }
        match ledger.list_resource(listing.clone(), self.bounds).await {
            Ok(()) => {
                remember(&self.written, name, now);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "a resource could not be listed");
                Err("the catalogue cannot be written now".to_owned())
            }
        }
    }

    async fn judged<'c>(&self, candidate: &'c Candidate) -> Result<&'c NewListing, String> {
        let listing = candidate.listing.as_ref().map_err(Clone::clone)?;
        if let Some(claim) = &candidate.claim {
            self.judge(claim).await.map_err(|unfit| unfit.to_string())?;
        }
        Ok(listing)
    }

    /// A judgement that has begun comes to its end and keeps its place until then, whoever stops waiting for it.
    async fn judge(&self, claim: &Claim) -> Result<(), Unfit> {
        let name = self.hasher.hash_one((&claim.info, &claim.schema));
        let known = lock(&self.verdicts).get(&name).cloned();
        if let Some(verdict) = known {
            return verdict;
        }
        let place = self.judges.clone().acquire_owned().await;
        let place = place.map_err(|_| Unfit::Unjudged)?;
        let (claim, verdicts) = (claim.clone(), self.verdicts.clone());
        let judging = tokio::task::spawn_blocking(move || {
            let verdict = schema::judge(&claim.info, &claim.schema);
            remember(&verdicts, name, verdict.clone());
            drop(place);
            verdict
        });
        // A judgement that panics is one that was not made; the panic itself is reported by the panic hook.
        judging.await.unwrap_or(Err(Unfit::Unjudged))
    }

    fn is_written(&self, name: u64, now: Instant) -> bool {
        let written = lock(&self.written).get(&name).copied();
        written.is_some_and(|at| now.saturating_duration_since(at) < WRITTEN_FOR)
    }
}

fn lock<T>(memory: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember<T>(memory: &Mutex<HashMap<u64, T>>, name: u64, what: T) {
    let mut memory = lock(memory);
    if memory.len() >= MOST_REMEMBERED {
        memory.clear();
    }
    memory.insert(name, what);
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn decoded(status: &ListingStatus) -> Value {
        serde_json::from_slice(&STANDARD.decode(status.header()).unwrap()).unwrap()
    }

    #[test]
    fn the_header_is_base64_of_json_by_extension() {
        let said = decoded(&ListingStatus::Success);
        assert_eq!(said, json!({"bazaar": {"status": "success"}}));
        let said = decoded(&ListingStatus::Processing);
        assert_eq!(said, json!({"bazaar": {"status": "processing"}}));
        let said = decoded(&ListingStatus::Rejected("é".repeat(900)));
        assert_eq!(said["bazaar"]["status"], "rejected");
        let reason = said["bazaar"]["rejectedReason"].as_str().unwrap();
        assert_eq!(reason.chars().count(), 500);
    }

    fn candidate() -> Candidate {
        let listing = NewListing {
            tenant: teller_domain::TenantId::new("shop"),
            kind: ListingKind::Http,
            resource: "https://a.example".to_owned(),
            version: X402Version::V2,
            description: None,
            mime_type: None,
            service_name: None,
            tags: Vec::new(),
            icon_url: None,
            extensions: None,
            terms: ListedTerms {
                scheme: "exact".to_owned(),
                chain: teller_domain::ChainId(1),
                asset: Default::default(),
                pay_to: Default::default(),
                requirements: "{}".to_owned(),
            },
        };
        Candidate {
            listing: Ok(listing),
            claim: Some(Claim {
                info: "{}".to_owned(),
                schema: "{}".to_owned(),
                listed: "{}".to_owned(),
            }),
            has_header: true,
        }
    }

    fn bounds() -> CatalogueBounds {
        CatalogueBounds {
            resources: 10,
            resources_of_a_tenant: 10,
            kept_ms: 60_000,
        }
    }

    #[tokio::test]
    async fn a_catalogue_that_is_busy_holds_no_payment_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("teller.db");
        let ledger: Arc<dyn Ledger> =
            Arc::new(teller_store::SqliteLedger::open(&path).await.unwrap());
        let discovery = Arc::new(Discovery::new(bounds()));
        let judges = discovery.judges.clone();
        let busy = judges.acquire_many(2).await.unwrap();
        let now = Instant::now();
        let announced = discovery.announced(&candidate()).await;
        assert_eq!(announced, ListingStatus::Processing);
        let paid = discovery.paid(candidate(), &ledger, now).await;
        assert_eq!(paid, ListingStatus::Processing);
        // It is listed all the same once it can be judged, and not written again at once.
        drop(busy);
        let mut status = ListingStatus::Processing;
        while status == ListingStatus::Processing {
            status = discovery.paid(candidate(), &ledger, now).await;
        }
        assert_eq!(status, ListingStatus::Success);
        assert_eq!(lock(&discovery.written).len(), 1);
        let writers = discovery.writers.clone();
        let _busy = writers.acquire_many(LISTED_AT_ONCE as u32).await.unwrap();
        let refused = discovery.paid(candidate(), &ledger, now).await;
        assert!(matches!(refused, ListingStatus::Rejected(reason) if reason.contains("busy")));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let memory = Mutex::default();
        for name in 0..10_000 {
            remember(&memory, name, ());
            assert!(lock(&memory).len() <= MOST_REMEMBERED);
        }
    }
}
