//! One endpoint of a network: its connection, its circuit breaker and the highest block it has shown.

mod batch;

use std::sync::atomic::{AtomicU64, Ordering};
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

/// Sending is never held back: its bytes are in the ledger, and have to be on their way.
pub(crate) const SEND: &str = "eth_sendRawTransaction";

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
    batch_size: BatchSize,
    height: AtomicU64,
}

impl Endpoint {
    pub(crate) fn new(
        chain: ChainId,
        index: usize,
        url: &str,
        http: &reqwest::Client,
        deadline: Duration,
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
            batch_size: BatchSize::default(),
            height: AtomicU64::new(0),
        };
        endpoint.report_health(true);
        Ok(endpoint)
    }

    /// One call, with its time limit, counted and judged.
    pub(crate) async fn call<P: RpcSend, R: RpcRecv>(
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
        if let (Link::Ws(link), Err(CallError::Node(NodeError::Timeout))) = (&self.link, &result) {
            link.unanswered(started);
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

    /// The hash of the block at a height, if the endpoint has one.
    pub(crate) async fn hash_at(&self, number: u64) -> Result<Option<B256>, NodeError> {
        let block: Option<WireBlock> = self
            .call("eth_getBlockByNumber", (U64::from(number), false))
            .await
            .map_err(not_a_call)?;
        Ok(block.map(|block| Block::from(block).hash))
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
        if let Some(is_well) = self.breakers.news() {
            self.report_health(is_well);
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
        self.breakers.is_healthy(method)
    }

    /// How long the endpoint takes no call of a method, if it said so.
    pub(crate) fn pause(&self, method: &'static str) -> Option<Duration> {
        self.breakers.pause(method).filter(|_| method != SEND)
    }

    /// Whether an open breaker is due for a probe; the one who is told `true` makes it.
    pub(crate) fn claim_probe(&self, method: &'static str) -> bool {
        self.breakers.claim_probe(method, self.deadline)
    }

    /// Heights of one endpoint only rise; `false` if this one fell behind what it has shown before.
    pub(crate) fn rises_to(&self, height: u64) -> bool {
        self.height.fetch_max(height, Ordering::Relaxed) <= height
    }

    fn count(&self, method: &'static str, calls: usize) {
        metrics::counter!("teller_node_calls_total", "network" => self.network.clone(), "method" => method)
            .increment(u64::try_from(calls).unwrap_or(u64::MAX));
    }

    fn report_health(&self, healthy: bool) {
        metrics::gauge!("teller_node_endpoint_healthy", "network" => self.network.clone(), "endpoint" => self.index.to_string())
            .set(if healthy { 1.0 } else { 0.0 });
    }
}
