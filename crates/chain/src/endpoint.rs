//! One endpoint of a network: its connection, its circuit breaker, its identity and the head that it has shown last.

mod batch;
mod identity;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use alloy_json_rpc::{RpcRecv, RpcSend};
use alloy_primitives::{B256, U64};
use teller_domain::ChainId;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::breaker::{Breakers, Change};
use crate::http::HttpLink;
use crate::nodes::not_a_call;
use crate::rpc::{self, Answer, Call};
use crate::wire::WireBlock;
use crate::ws::WsLink;
use crate::{Block, CallError, NodeError};

use self::batch::BatchSize;
pub(crate) use self::identity::Expected;
use self::identity::Identity;

/// Sending is never held back: its bytes are in the ledger, and have to be on their way.
pub(crate) const SEND: &str = "eth_sendRawTransaction";
/// An endpoint lags when its head is this many blocks below the one that is followed. Less may be the way of a block, or
/// the time between two looks.
const LAGS_BY: u64 = 4;

enum Link {
    Http(HttpLink),
    Ws(WsLink),
}

/// One endpoint. Its URL is never printed; in logs and metrics it is an index.
pub(crate) struct Endpoint {
    pub(crate) index: usize,
    network: String,
    link: Link,
    pub(crate) deadline: Duration,
    breakers: Breakers,
    expected: Arc<Expected>,
    identity: Identity,
    batch_size: BatchSize,
    /// The head that it has shown last; zero before the first one.
    shown: AtomicU64,
    /// Its chain is known to be another than the one that is followed.
    strays: AtomicBool,
}

impl Endpoint {
    pub(crate) fn new(
        chain: ChainId,
        index: usize,
        url: &str,
        http: &reqwest::Client,
        deadline: Duration,
        expected: Arc<Expected>,
    ) -> Result<Self, NodeError> {
        let parsed = Url::parse(url).map_err(|_| NodeError::NoEndpoint)?;
        let link = match parsed.scheme() {
            "http" | "https" => Link::Http(HttpLink {
                client: http.clone(),
                url: parsed,
            }),
            "ws" | "wss" => Link::Ws(WsLink::new(parsed, http)),
            _ => return Err(NodeError::NoEndpoint),
        };
        let endpoint = Self {
            index,
            network: chain.to_string(),
            link,
            deadline,
            breakers: Breakers::new(),
            expected,
            identity: Identity::default(),
            batch_size: BatchSize::default(),
            shown: AtomicU64::new(0),
            strays: AtomicBool::new(false),
        };
        endpoint.report_identity();
        Ok(endpoint)
    }

    /// One call to an endpoint of the right network, with its time limit, counted and judged.
    pub(crate) async fn call<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, CallError> {
        self.identify().await?;
        let dials = self.dials();
        let answer = self.unchecked_call(method, params).await;
        self.vouched(method, dials, answer).await
    }

    /// One call, whatever network the endpoint serves.
    async fn unchecked_call<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, CallError> {
        let mut answers = self.ask(method, std::slice::from_ref(&params)).await?;
        let lost = NodeError::BadAnswer("not one answer to one call");
        answers.pop().ok_or(CallError::Node(lost))
    }

    /// One request, unless the endpoint is known to take none now; what comes of it counts for the endpoint's health.
    async fn ask<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
    ) -> Result<Vec<R>, CallError> {
        self.expect_no_pause(method)?;
        let started = Instant::now();
        let result = self.one_request(method, params, started).await;
        self.finish(method, started, result.as_ref().err());
        result
    }

    fn expect_no_pause(&self, method: &'static str) -> Result<(), NodeError> {
        match self.pause(method) {
            Some(pause) => Err(NodeError::Limited {
                message: "it asked for a pause".to_owned(),
                retry_after: Some(pause),
            }),
            None => Ok(()),
        }
    }

    async fn one_request<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
        started: Instant,
    ) -> Result<Vec<R>, CallError> {
        self.count(method, params.len());
        let result = timeout(self.deadline, self.exchange(method, params))
            .await
            .unwrap_or(Err(CallError::Node(NodeError::Timeout)));
        // A connection that broke is dialled again, and who answers then may be another.
        let broke = match (&self.link, result.as_ref().err()) {
            (_, Some(CallError::Node(NodeError::Refused | NodeError::Broken))) => true,
            (Link::Ws(link), Some(CallError::Node(NodeError::Timeout))) => link.unanswered(started),
            _ => false,
        };
        if broke {
            self.doubt_identity();
        }
        result
    }

    async fn exchange<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
    ) -> Result<Vec<R>, CallError> {
        let calls = params.iter().map(|params| Call::new(method, params));
        let calls = calls.collect::<Result<Vec<_>, _>>()?;
        let answers: Vec<Answer> = match &self.link {
            Link::Http(link) => link.exchange(&calls).await?,
            Link::Ws(link) => link.exchange(&calls).await?,
        };
        answers.into_iter().map(rpc::decode).collect()
    }

    /// How often the endpoint was dialled, where it has a connection that lasts.
    fn dials(&self) -> u64 {
        match &self.link {
            Link::Http(_) => 0,
            Link::Ws(link) => link.dials(),
        }
    }

    /// An answer that counts only if whoever gave it is still who was looked at: there had been so many dials then.
    async fn vouched<R>(
        &self,
        method: &'static str,
        dials: u64,
        answer: Result<R, CallError>,
    ) -> Result<R, CallError> {
        if self.dials() == dials {
            return answer;
        }
        self.doubt_identity();
        if let Err(CallError::Node(NodeError::Refused | NodeError::Broken | NodeError::Timeout)) =
            answer
        {
            return answer;
        }
        match self.identify().await {
            Ok(()) => answer,
            // Whoever it is was given the bytes.
            Err(_) if method == SEND => Err(NodeError::Broken.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The hash of the block at a height, if the endpoint has one.
    pub(crate) async fn hash_at(&self, number: u64) -> Result<Option<B256>, NodeError> {
        let block: Option<WireBlock> = self
            .call("eth_getBlockByNumber", (U64::from(number), false))
            .await
            .map_err(not_a_call)?;
        Ok(block.map(|block| Block::from(block).hash))
    }

    /// The endpoint's latest block.
    pub(crate) async fn latest(&self) -> Result<Block, NodeError> {
        let block: Option<WireBlock> = self
            .call("eth_getBlockByNumber", ("latest", false))
            .await
            .map_err(not_a_call)?;
        block
            .map(Block::from)
            .ok_or(NodeError::BadAnswer("no latest block"))
    }

    /// The blocks at these heights, in their order.
    pub(crate) async fn blocks(&self, numbers: &[u64]) -> Result<Vec<Option<Block>>, NodeError> {
        let params: Vec<_> = numbers
            .iter()
            .map(|number| (U64::from(*number), false))
            .collect();
        let blocks: Vec<Option<WireBlock>> = self
            .batch("eth_getBlockByNumber", &params)
            .await
            .map_err(not_a_call)?;
        let blocks = blocks.into_iter().map(|block| block.map(Block::from));
        Ok(blocks.collect())
    }

    /// The block with this hash, if the endpoint has it.
    pub(crate) async fn block_by_hash(&self, hash: B256) -> Result<Option<Block>, NodeError> {
        let block: Option<WireBlock> = self
            .call("eth_getBlockByHash", (hash, false))
            .await
            .map_err(not_a_call)?;
        Ok(block.map(Block::from))
    }

    fn finish(&self, method: &'static str, started: Instant, error: Option<&CallError>) {
        self.measure(method, started, error);
        let change = match error {
            Some(CallError::Node(error)) if error.blames_endpoint() => {
                self.breakers.failed(method, error)
            }
            Some(_) | None => self.breakers.succeeded(method),
        };
        self.log(method, change, error);
        if self.breakers.news().is_some() {
            self.report_health();
        }
    }

    fn measure(&self, method: &'static str, started: Instant, error: Option<&CallError>) {
        metrics::histogram!("teller_node_call_duration_seconds", "network" => self.network.clone(), "method" => method)
            .record(started.elapsed().as_secs_f64());
        if let Some(CallError::Node(error)) = error {
            metrics::counter!("teller_node_errors_total", "network" => self.network.clone(), "kind" => error.kind())
                .increment(1);
        }
    }

    fn log(&self, method: &'static str, change: Option<Change>, error: Option<&CallError>) {
        let Some(change) = change else { return };
        let Some(unlogged) = self.breakers.log(change) else {
            return;
        };
        match (change, error) {
            (Change::Opened, Some(error)) => {
                tracing::warn!(network = %self.network, endpoint = self.index, method, %error, unlogged, "endpoint keeps failing");
            }
            (Change::Opened, None) => {}
            (Change::Closed { failures }, _) => {
                tracing::info!(network = %self.network, endpoint = self.index, method, failures, unlogged, "endpoint is well again");
            }
        }
    }

    /// Whether calls of a method should go here.
    pub(crate) fn is_healthy(&self, method: &'static str) -> bool {
        let mut needed = self.needed_for(method);
        needed.all(|needed| self.breakers.is_healthy(needed))
    }

    /// How long the endpoint takes no call of a method, if it said so.
    pub(crate) fn pause(&self, method: &'static str) -> Option<Duration> {
        self.breakers.pause(method).filter(|_| method != SEND)
    }

    /// Whether an open breaker is due for a probe; the one who is told `true` makes it.
    pub(crate) fn claim_probe(&self, method: &'static str) -> bool {
        let mut claimed = false;
        for needed in self.needed_for(method) {
            claimed |= self.breakers.claim_probe(needed, self.deadline);
        }
        claimed
    }

    /// Whether nothing that the endpoint says may be used: it serves another network, or another branch of this one.
    pub(crate) fn is_left_out(&self) -> bool {
        self.strays.load(Ordering::Relaxed) || self.serves_another()
    }

    /// Notes the head that the endpoint has just shown, and answers the one that it showed before.
    pub(crate) fn shows(&self, height: u64) -> u64 {
        self.shown.swap(height, Ordering::Relaxed)
    }

    /// Whether the endpoint is behind the head that is followed.
    pub(crate) fn lags_behind(&self, followed: u64) -> bool {
        let shown = self.shown.load(Ordering::Relaxed);
        shown > 0 && shown.saturating_add(LAGS_BY) <= followed
    }

    /// Notes whether the endpoint's chain is another than the one that is followed; `false` if that was known.
    pub(crate) fn set_strays(&self, strays: bool) -> bool {
        let changed = self.strays.swap(strays, Ordering::Relaxed) != strays;
        if changed {
            self.report_health();
        }
        changed
    }

    fn count(&self, method: &'static str, calls: usize) {
        metrics::counter!("teller_node_calls_total", "network" => self.network.clone(), "method" => method)
            .increment(u64::try_from(calls).unwrap_or(u64::MAX));
    }

    fn report_health(&self) {
        let usable = self.breakers.is_well() && !self.is_left_out();
        metrics::gauge!("teller_node_endpoint_healthy", "network" => self.network.clone(), "endpoint" => self.index.to_string())
            .set(if usable { 1.0 } else { 0.0 });
    }
}
