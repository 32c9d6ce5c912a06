//! What the binary puts together: one service, behind two doors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use axum::Router;
use axum::body::Bytes;
use teller_domain::{ChainId, Level, Scheme, v1_name};
use teller_protocol::extensions::ids;
use teller_protocol::{SupportedExtra, SupportedKind, SupportedResponse};
use teller_settle::Settler;
use teller_store::{CatalogueBounds, Ledger};
use teller_verify::Verifier;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::answer::{ApiError, Outcome, SettleVerdict, VerifyAnswer};
use crate::auth::{Auth, Gate};
use crate::discovery::{Candidate, Discovery, ListingStatus};
use crate::meters::{Endpoint, Meters, Throttle, Transport};
use crate::readiness::Readiness;
use crate::receipts::ReceiptSigner;
use crate::service::{Cause, Service};
use crate::wire::Offers;
use crate::{grpc, rest};

/// Bounds of the doors. The defaults are good for production.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Requests in progress at once, all tenants together; more are told 503.
    pub max_concurrent_requests: usize,
    /// Watch streams open at once.
    pub max_watch_streams: usize,
    /// How long a settle request waits for its outcome at most. Official clients give up at 30 s.
    pub settle_wait: Duration,
    /// How sure the chain must be before a payment on a network counts as settled; [`Level::Included`] where nothing is
    /// said. A tenant's own level goes before it.
    pub settled_at: BTreeMap<ChainId, Level>,
    /// How long settle requests may go on waiting after [`Api::begin_drain`].
    pub drain_patience: Duration,
    /// The operator's own builder code; `None` for a facilitator that attributes nothing.
    pub builder_code: Option<String>,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How often a watch stream looks for changes that nobody announced.
    pub watch_poll: Duration,
    /// Who signs receipts; `None` for a facilitator that gives none.
    pub receipt_signer: Option<ReceiptSigner>,
    /// How large the discovery catalogue may grow; `None` for a facilitator without one.
    pub discovery: Option<CatalogueBounds>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            max_concurrent_requests: 10_000,
            max_watch_streams: 256,
            settle_wait: Duration::from_secs(25),
            settled_at: BTreeMap::new(),
            drain_patience: Duration::from_secs(5),
            builder_code: None,
            body_timeout: Duration::from_secs(10),
            watch_poll: Duration::from_secs(1),
            receipt_signer: None,
            discovery: None,
        }
    }
}

/// What this teller can settle: the source of `/supported`.
#[derive(Debug, Clone, Default)]
pub struct Supported {
    /// The networks, in the order of the configuration.
    pub networks: Vec<SupportedNetwork>,
}

/// A network and who settles on it.
#[derive(Debug, Clone)]
pub struct SupportedNetwork {
    /// The network.
    pub chain: ChainId,
    /// Addresses of its signers.
    pub signers: Vec<Address>,
    /// The one account that settles `upto`, where that is offered.
    pub facilitator: Option<Address>,
    /// Whether EIP-2612 permits are taken with payments by Permit2.
    pub token_permits: bool,
    /// Whether payers' signed approvals are sent for payments by Permit2. Not advertised where permits are not.
    pub token_approvals: bool,
    /// Who redeems delegations (ERC-7710), and of which managers, where that is offered.
    pub delegations: Option<SupportedDelegations>,
}

/// What a delegation must name to be redeemed.
#[derive(Debug, Clone)]
pub struct SupportedDelegations {
    /// The delegate: the one account that redeems.
    pub delegate: Address,
    /// The managers that are called; never empty.
    pub managers: Vec<Address>,
}

impl Supported {
    /// What only some of the networks offer.
    pub(crate) fn offers(&self) -> Offers {
        let delegates = self.networks.iter().filter_map(|network| {
            let delegations = network.delegations.as_ref()?;
            Some((network.chain, delegations.delegate))
        });
        let approvals = self.networks.iter();
        let approvals = approvals.filter(|network| network.token_approvals);
        Offers {
            delegates: delegates.collect(),
            approvals: approvals.map(|network| network.chain).collect(),
        }
    }

    pub(crate) fn response(&self) -> SupportedResponse {
        let kind = |version: u8, network: String| SupportedKind {
            x402_version: version,
            scheme: Scheme::Exact.as_str().into(),
            network,
            extra: None,
        };
        let texts = |addresses: &[Address]| addresses.iter().map(Address::to_string).collect();
        let mut kinds = Vec::new();
        let mut everywhere: Vec<Address> = Vec::new();
        for network in &self.networks {
            let delegations = network.delegations.as_ref();
            kinds.push(SupportedKind {
                extra: delegations.map(|delegations| SupportedExtra {
                    facilitator_address: delegations.delegate.to_string(),
                    delegation_managers: texts(&delegations.managers),
                }),
                ..kind(2, network.chain.to_string())
            });
            kinds.extend(v1_name(network.chain).map(|name| kind(1, name.to_owned())));
            kinds.extend(network.facilitator.map(|facilitator| SupportedKind {
                scheme: Scheme::Upto.as_str().into(),
                extra: Some(SupportedExtra {
                    facilitator_address: facilitator.to_string(),
                    delegation_managers: Vec::new(),
                }),
                ..kind(2, network.chain.to_string())
            }));
            everywhere.extend(&network.signers);
        }
        everywhere.sort_unstable();
        everywhere.dedup();
        let mut signers = BTreeMap::from([("eip155:*".to_owned(), texts(&everywhere))]);
        let mut sets = self.networks.iter().map(|network| &network.signers);
        let first = sets.next();
        if sets.any(|set| Some(set) != first) {
            for network in &self.networks {
                signers.insert(network.chain.to_string(), texts(&network.signers));
            }
        }
        let permitting = self.networks.iter().filter(|network| network.token_permits);
        let token_permits = permitting.clone().next().is_some();
        let token_approvals = permitting.clone().any(|network| network.token_approvals);
        let extensions = [
            token_permits.then_some(ids::EIP2612_GAS_SPONSORING),
            token_approvals.then_some(ids::ERC20_APPROVAL_GAS_SPONSORING),
        ];
        SupportedResponse {
            kinds,
            extensions: extensions.into_iter().flatten().map(Into::into).collect(),
            signers,
        }
    }
}

/// The facilitator's API. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: ApiConfig,
    pub(crate) service: Service,
    pub(crate) offers: Offers,
    pub(crate) gate: Gate,
    pub(crate) readiness: Readiness,
    pub(crate) supported: SupportedResponse,
    pub(crate) supported_json: Bytes,
    pub(crate) meters: Meters,
    pub(crate) discovery: Option<Arc<Discovery>>,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) watchers: Arc<Semaphore>,
    pub(crate) warnings: Throttle,
}

impl Api {
    /// Puts the API together. Install the metrics recorder first: the handles are made here.
    pub fn new(
        config: ApiConfig,
        verifier: Verifier,
        settler: Settler,
        ledger: Arc<dyn Ledger>,
        supported: Supported,
        auth: Auth,
        readiness: Readiness,
    ) -> Self {
        let offers = supported.offers();
        let mut supported = supported.response();
        supported.extensions.push(ids::PAYMENT_IDENTIFIER.into());
        if config.discovery.is_some() {
            supported.extensions.push(ids::BAZAAR.into());
        }
        if config.builder_code.is_some() {
            supported.extensions.push(ids::BUILDER_CODE.into());
        }
        let permits = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let (drain, _) = watch::channel(false);
        Self {
            inner: Arc::new(Inner {
                service: Service {
                    verifier,
                    settler,
                    ledger,
                    settle_wait: config.settle_wait,
                    settled_at: config.settled_at.clone(),
                    drain_patience: config.drain_patience,
                    builder_code: config.builder_code.clone(),
                    drain,
                    in_flight: Arc::default(),
                },
                offers,
                gate: Gate::new(auth, Instant::now()),
                readiness,
                supported_json: serde_json::to_vec(&supported).unwrap_or_default().into(),
                supported,
                meters: Meters::new(),
                discovery: config
                    .discovery
                    .map(|bounds| Arc::new(Discovery::new(bounds))),
                requests: permits(config.max_concurrent_requests),
                watchers: permits(config.max_watch_streams),
                warnings: Throttle::default(),
                config,
            }),
        }
    }

    /// The REST door.
    pub fn rest_router(&self) -> Router {
        rest::router(self.clone())
    }

    /// The gRPC door: Facilitator, Settlements, Discovery, health and reflection. Needs a tokio runtime around it.
    pub fn grpc_router(&self) -> Router {
        grpc::router(self.clone())
    }

    /// Shutdown has begun: settle requests that still wait are told what is known when
    /// [`ApiConfig::drain_patience`] is over, watch streams end, `/readyz` and gRPC health say no.
    pub fn begin_drain(&self) {
        self.inner.service.drain.send_replace(true);
    }

    /// A place among the requests in progress.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let places = self.inner.requests.clone();
        places.try_acquire_owned().map_err(|_| ApiError::Overloaded)
    }

    /// Notes an answered request.
    pub(crate) fn answered(
        &self,
        endpoint: Endpoint,
        transport: Transport,
        outcome: Outcome,
        started: Instant,
    ) {
        let took = started.elapsed();
        self.inner
            .meters
            .answered(endpoint, transport, outcome, took);
        tracing::debug!(?endpoint, ?transport, ?outcome, ?took, "answered");
    }

    /// Notes what a settle request is told.
    pub(crate) fn told(&self, verdict: &SettleVerdict) {
        if let Some((reason, _)) = verdict.refusal() {
            self.inner.meters.refused(reason);
        }
    }

    /// What becomes of the resource of a payment that was verified; `None` where nobody is told.
    pub(crate) async fn announced(
        &self,
        answer: &VerifyAnswer,
        candidate: Option<&Candidate>,
    ) -> Option<ListingStatus> {
        match (answer, &self.inner.discovery, candidate) {
            (VerifyAnswer::Valid { .. }, Some(discovery), Some(candidate))
                if candidate.has_header =>
            {
                Some(discovery.announced(candidate).await)
            }
            _ => None,
        }
    }

    /// Lists the resource of a payment that was settled. What became of it; `None` where nobody is told.
    pub(crate) async fn listed(
        &self,
        verdict: &SettleVerdict,
        candidate: Option<Candidate>,
    ) -> Option<ListingStatus> {
        match (verdict, &self.inner.discovery, candidate) {
            (SettleVerdict::Settled { .. }, Some(discovery), Some(candidate)) => {
                let has_header = candidate.has_header;
                let ledger = &self.inner.service.ledger;
                let listed = discovery.paid(candidate, ledger, Instant::now()).await;
                has_header.then_some(listed)
            }
            _ => None,
        }
    }

    /// Logs why something could not be done, where it could not.
    pub(crate) fn log(&self, what: &'static str, cause: Option<&Cause>) {
        let Some(cause) = cause else { return };
        match self.inner.warnings.allows(Instant::now()) {
            true => tracing::warn!(what, %cause, "could not be done (told at most once a second)"),
            false => tracing::debug!(what, %cause, "could not be done"),
        }
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_names_each_network_in_both_versions() {
        let network = |id, signer| SupportedNetwork {
            chain: ChainId(id),
            signers: vec![Address::repeat_byte(signer)],
            facilitator: None,
            token_permits: false,
            token_approvals: false,
            delegations: None,
        };
        let one = Supported {
            networks: vec![network(84532, 1)],
        };
        let json = serde_json::to_value(one.response()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "kinds": [
                    {"x402Version": 2, "scheme": "exact", "network": "eip155:84532"},
                    {"x402Version": 1, "scheme": "exact", "network": "base-sepolia"},
                ],
                "extensions": [],
                "signers": {"eip155:*": ["0x0101010101010101010101010101010101010101"]},
            })
        );
        let upto = Supported {
            networks: vec![SupportedNetwork {
                facilitator: Some(Address::repeat_byte(1)),
                token_permits: true,
                token_approvals: true,
                ..network(42161, 1)
            }],
        };
        let json = serde_json::to_value(upto.response()).unwrap();
        assert_eq!(
            json["kinds"][1],
            serde_json::json!({
                "x402Version": 2, "scheme": "upto", "network": "eip155:42161",
                "extra": {"facilitatorAddress": "0x0101010101010101010101010101010101010101"},
            })
        );
        assert_eq!(
            json["extensions"],
            serde_json::json!(["eip2612GasSponsoring", "erc20ApprovalGasSponsoring"])
        );
        let delegations = Supported {
            networks: vec![SupportedNetwork {
                delegations: Some(SupportedDelegations {
                    delegate: Address::repeat_byte(1),
                    managers: vec![Address::repeat_byte(7)],
                }),
                ..network(84532, 1)
            }],
        };
        assert_eq!(
            serde_json::to_value(delegations.response()).unwrap()["kinds"],
            serde_json::json!([
                {
                    "x402Version": 2, "scheme": "exact", "network": "eip155:84532",
                    "extra": {
                        "facilitatorAddress": "0x0101010101010101010101010101010101010101",
                        "delegationManagers": ["0x0707070707070707070707070707070707070707"],
                    },
                },
                {"x402Version": 1, "scheme": "exact", "network": "base-sepolia"},
            ])
        );
        // Arbitrum has no name in version 1; different signer sets are told apart.
        let two = Supported {
            networks: vec![network(84532, 1), network(42161, 2)],
        };
        let response = two.response();
        assert_eq!(response.kinds.len(), 3);
        assert_eq!(
            response.signers.keys().collect::<Vec<_>>(),
            ["eip155:*", "eip155:42161", "eip155:84532"]
        );
    }
}
