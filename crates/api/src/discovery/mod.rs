//! The bazaar: what is paid for and wants to be found is judged, listed in the ledger's catalogue and shown to everybody.
//! None of it may hold a payment up or change its answer.

mod schema;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use teller_domain::{PaymentRequest, X402Version};
use teller_protocol::extensions::Extension;
use teller_protocol::{Claim, Discoverable, Version};
use teller_store::{CatalogueBounds, Ledger, ListedTerms, ListingKind, NewListing};
use tokio::sync::Semaphore;

use self::schema::Unfit;
use crate::answer::message;

/// How many verdicts and listings are remembered; all are forgotten when there would be more.
const MOST_REMEMBERED: usize = 4_096;
/// How many schemas are judged at once, and how many listings written.
const JUDGED_AT_ONCE: usize = 2;
const WRITTEN_AT_ONCE: usize = 16;
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
    /// What a request offers for the catalogue.
    pub(crate) fn of(found: Extension<Discoverable>, request: &PaymentRequest) -> Option<Self> {
        let has_header = request.version == X402Version::V2;
        let found = match found {
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
    judges: Semaphore,
    writers: Arc<Semaphore>,
    hasher: RandomState,
    verdicts: Mutex<HashMap<u64, Result<(), Unfit>>>,
    written: Arc<Mutex<HashMap<u64, Instant>>>,
}

impl Discovery {
    pub(crate) fn new(bounds: CatalogueBounds) -> Self {
        Self {
            bounds,
            readers: Semaphore::new(READ_AT_ONCE),
            judges: Semaphore::new(JUDGED_AT_ONCE),
            writers: Arc::new(Semaphore::new(WRITTEN_AT_ONCE)),
            hasher: RandomState::new(),
            verdicts: Mutex::default(),
            written: Arc::default(),
        }
    }

    /// What a verified payment's resource is told: it is listed once it has been paid for.
    pub(crate) async fn announced(&self, candidate: &Candidate) -> ListingStatus {
        match self.judged(candidate).await {
            Ok(_) => ListingStatus::Processing,
            Err(reason) => ListingStatus::Rejected(reason),
        }
    }

    /// Lists a resource that has just been paid for.
    pub(crate) async fn paid(
        &self,
        candidate: &Candidate,
        ledger: &Arc<dyn Ledger>,
        now: Instant,
    ) -> ListingStatus {
        let listing = match self.judged(candidate).await {
            Ok(listing) => listing.clone(),
            Err(reason) => return ListingStatus::Rejected(reason),
        };
        let name = self.hasher.hash_one(&listing);
        if self.is_written(name, now) {
            return ListingStatus::Success;
        }
        let Ok(place) = self.writers.clone().try_acquire_owned() else {
            return ListingStatus::Rejected("the catalogue is busy; pay again later".to_owned());
        };
        let (ledger, bounds, written) = (ledger.clone(), self.bounds, self.written.clone());
        let writing = tokio::spawn(async move {
            let listed = ledger.list_resource(listing, bounds).await;
            drop(place);
            match listed {
                Ok(()) => {
                    remember(&written, name, now);
                    ListingStatus::Success
                }
                Err(error) => {
                    tracing::warn!(%error, "a resource could not be listed");
                    ListingStatus::Rejected("the catalogue cannot be written now".to_owned())
                }
            }
        });
        match tokio::time::timeout(PATIENCE, writing).await {
            Ok(Ok(status)) => status,
            Ok(Err(_)) | Err(_) => ListingStatus::Processing,
        }
    }

    async fn judged<'c>(&self, candidate: &'c Candidate) -> Result<&'c NewListing, String> {
        let listing = candidate.listing.as_ref().map_err(Clone::clone)?;
        if let Some(claim) = &candidate.claim {
            self.judge(claim).await.map_err(|unfit| unfit.to_string())?;
        }
        Ok(listing)
    }

    async fn judge(&self, claim: &Claim) -> Result<(), Unfit> {
        let mut hasher = self.hasher.build_hasher();
        (&claim.info, &claim.schema).hash(&mut hasher);
        let name = std::hash::Hasher::finish(&hasher);
        let known = lock(&self.verdicts).get(&name).cloned();
        if let Some(verdict) = known {
            return verdict;
        }
        let _place = self.judges.acquire().await.map_err(|_| Unfit::Unjudged)?;
        let (info, schema) = (claim.info.clone(), claim.schema.clone());
        let judging = tokio::task::spawn_blocking(move || schema::judge(&info, &schema));
        // A judgement that panics is one that was not made; the panic itself is reported by the panic hook.
        let verdict = judging.await.unwrap_or(Err(Unfit::Unjudged));
        remember(&self.verdicts, name, verdict.clone());
        verdict
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

    #[test]
    fn what_is_remembered_is_bounded() {
        let memory = Mutex::default();
        for name in 0..10_000 {
            remember(&memory, name, ());
            assert!(lock(&memory).len() <= MOST_REMEMBERED);
        }
    }
}
