//! Whether an endpoint serves the network that it is configured for: chain id and genesis block, looked at before its first
//! use and when it comes back. One that serves another is left out, and looked at again from time to time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::{B256, U64};
use serde::Deserialize;
use teller_domain::ChainId;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Endpoint;
use crate::NodeError;
use crate::nodes::not_a_call;
use crate::wire::Quantity;

/// How long an endpoint that serves another network is left out before it is looked at again.
const LEFT_OUT_FOR: Duration = Duration::from_secs(30);
/// While no genesis block is known, how long the preferred endpoint may take to name it before another one does.
const PREFERRED_WITHIN: Duration = Duration::from_secs(1);

/// What is asked of an endpoint to know it.
const CHAIN_ID: &str = "eth_chainId";
const BLOCK: &str = "eth_getBlockByNumber";

/// What every endpoint of a network must show.
#[derive(Debug)]
pub(crate) struct Expected {
    chain: ChainId,
    genesis: watch::Sender<Option<B256>>,
}

impl Expected {
    pub(crate) fn new(chain: ChainId) -> Self {
        Self {
            chain,
            genesis: watch::Sender::new(None),
        }
    }

    pub(crate) fn genesis(&self) -> Option<B256> {
        *self.genesis.borrow()
    }

    /// The genesis block that is known from before.
    pub(crate) fn pin(&self, genesis: B256) {
        self.genesis.send_replace(Some(genesis));
    }

    /// The network's genesis block: the one that is known, or what the most preferred endpoint that answers has found.
    async fn genesis_or(&self, index: usize, found: B256) -> B256 {
        if index > 0 {
            let mut named = self.genesis.subscribe();
            // Without an answer in time this endpoint names it; the sender lives as long as `self`.
            let _ = timeout(PREFERRED_WITHIN, named.wait_for(Option::is_some)).await;
        }
        let mut genesis = found;
        self.genesis.send_if_modified(|known| match known {
            Some(known) => {
                genesis = *known;
                false
            }
            None => {
                *known = Some(found);
                true
            }
        });
        genesis
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Unchecked,
    Right,
    /// It serves another network: left out until then.
    Wrong(NodeError, Instant),
}

#[derive(Debug)]
struct State {
    verdict: Verdict,
    /// Whether it was wrong when it was last looked at: what stays wrong is said once.
    was_wrong: bool,
    /// Looks that gave no verdict, and the error of the last one: those who waited for it share it.
    failures: u64,
    failure: NodeError,
}

/// What is known of an endpoint's identity.
#[derive(Debug)]
pub(super) struct Identity {
    state: Mutex<State>,
    /// One looks, the others wait for what it finds.
    looking: tokio::sync::Mutex<()>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                verdict: Verdict::Unchecked,
                was_wrong: false,
                failures: 0,
                failure: NodeError::NoEndpoint,
            }),
            looking: tokio::sync::Mutex::default(),
        }
    }
}

impl Identity {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, now: Instant) -> Option<Result<(), NodeError>> {
        match &self.state().verdict {
            Verdict::Unchecked => None,
            Verdict::Right => Some(Ok(())),
            Verdict::Wrong(_, until) if *until <= now => None,
            Verdict::Wrong(error, _) => Some(Err(error.clone())),
        }
    }

    /// The error of a look that failed since `failures` had failed.
    fn failed_since(&self, failures: u64) -> Option<NodeError> {
        let state = self.state();
        (state.failures > failures).then(|| state.failure.clone())
    }
}

impl Endpoint {
    /// Whether the endpoint serves its network; looks if that is not known.
    ///
    /// # Errors
    /// [`NodeError::WrongChain`], [`NodeError::WrongGenesis`], or why it could not be looked at.
    pub(crate) async fn identify(&self) -> Result<(), NodeError> {
        if let Some(known) = self.identity.verdict(Instant::now()) {
            return known;
        }
        let failures = self.identity.state().failures;
        let _one = self.identity.looking.lock().await;
        if let Some(known) = self.identity.verdict(Instant::now()) {
            return known;
        }
        if let Some(error) = self.identity.failed_since(failures) {
            return Err(error);
        }
        let looked = self.look_at_identity().await;
        self.note_identity(&looked);
        looked
    }

    /// What must be healthy for a call of a method: that, and what is asked first of an endpoint that is not known.
    pub(super) fn needed_for(&self, method: &'static str) -> impl Iterator<Item = &'static str> {
        let is_known = self.identity.verdict(Instant::now()).is_some();
        let first = [CHAIN_ID, BLOCK].into_iter().filter(move |_| !is_known);
        first.chain([method])
    }

    /// Whether the endpoint is known to serve another network.
    pub(super) fn serves_another(&self) -> bool {
        matches!(self.identity.verdict(Instant::now()), Some(Err(_)))
    }

    /// The endpoint was away, or shows what does not fit: who answers now may be another.
    pub(crate) fn doubt_identity(&self) {
        let mut state = self.identity.state();
        if state.verdict == Verdict::Right {
            state.verdict = Verdict::Unchecked;
        }
    }

    async fn look_at_identity(&self) -> Result<(), NodeError> {
        /// A block's hash, whatever else it has.
        #[derive(Debug, Deserialize)]
        struct Genesis {
            hash: B256,
        }
        let id = self.unchecked_call::<_, Quantity<U64>>(CHAIN_ID, ());
        let genesis = self.unchecked_call::<_, Option<Genesis>>(BLOCK, (U64::ZERO, false));
        let (id, genesis) = futures::join!(id, genesis);
        let Quantity(id) = id.map_err(not_a_call)?;
        let (expected, found) = (self.expected.chain, ChainId(id.to()));
        if found != expected {
            return Err(NodeError::WrongChain { expected, found });
        }
        let genesis = genesis.map_err(not_a_call)?;
        let found = genesis
            .ok_or(NodeError::BadAnswer("no genesis block"))?
            .hash;
        let expected = self.expected.genesis_or(self.index, found).await;
        if found != expected {
            return Err(NodeError::WrongGenesis { expected, found });
        }
        Ok(())
    }

    fn note_identity(&self, looked: &Result<(), NodeError>) {
        let was_wrong = {
            let mut state = self.identity.state();
            let is_wrong = matches!(
                looked,
                Err(NodeError::WrongChain { .. } | NodeError::WrongGenesis { .. })
            );
            state.verdict = match looked {
                Ok(()) => Verdict::Right,
                Err(error) if is_wrong => {
                    Verdict::Wrong(error.clone(), Instant::now() + LEFT_OUT_FOR)
                }
                Err(error) => {
                    state.failures += 1;
                    state.failure = error.clone();
                    return;
                }
            };
            std::mem::replace(&mut state.was_wrong, is_wrong)
        };
        match looked {
            Ok(()) if was_wrong => {
                tracing::info!(network = %self.network, endpoint = self.index, "endpoint serves its network again");
            }
            Err(error) if !was_wrong => {
                tracing::error!(network = %self.network, endpoint = self.index, %error, "endpoint serves another network and is left out");
            }
            Ok(()) | Err(_) => {}
        }
        self.report_identity();
    }

    pub(super) fn report_identity(&self) {
        let wrong = self.identity.state().was_wrong;
        metrics::gauge!("teller_node_endpoint_wrong_network", "network" => self.network.clone(), "endpoint" => self.index.to_string())
            .set(if wrong { 1.0 } else { 0.0 });
        self.report_health();
    }
}
