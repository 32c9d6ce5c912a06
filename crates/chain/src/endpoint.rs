//! One endpoint of a network: its connection, its circuit breaker and the highest block it has shown.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alloy_json_rpc::{RpcRecv, RpcSend};
use alloy_primitives::{B256, U64};
use alloy_rpc_client::{ClientBuilder, RpcClient};
use alloy_transport_ws::WsConnect;
use futures::future::join_all;
use teller_domain::ChainId;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::error::from_transport;
use crate::http::HttpTransport;
use crate::nodes::not_a_call;
use crate::wire::WireBlock;
use crate::{Block, CallError, NodeError};

/// This many failures in a row open the breaker.
const FAILURES_TO_OPEN: u32 = 3;
/// How long an open breaker waits before its first probe; doubled by every failed probe.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// The longest wait before a probe.
const LAST_PROBE: Duration = Duration::from_secs(30);
/// How often a broken WebSocket is dialled again under the calls that wait on it.
const WS_RETRIES: u32 = 2;
const WS_RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Largest JSON-RPC batch; longer ones travel in several.
pub(crate) const MAX_BATCH: usize = 100;

enum Link {
    Http(RpcClient),
    /// Dialled on first use, and again once its backend is gone.
    Ws {
        connect: WsConnect,
        client: tokio::sync::Mutex<Option<RpcClient>>,
    },
}

#[derive(Debug, Clone, Copy)]
enum Breaker {
    Closed { failures: u32 },
    Open { probe_at: Instant, wait: Duration },
}

/// One endpoint. Its URL is never printed; in logs and metrics it is an index.
pub(crate) struct Endpoint {
    pub(crate) index: usize,
    network: String,
    link: Link,
    pub(crate) deadline: Duration,
    breaker: Mutex<Breaker>,
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
            "http" | "https" => Link::Http(RpcClient::new(
                HttpTransport {
                    client: http.clone(),
                    url: parsed,
                },
                false,
            )),
            "ws" | "wss" => Link::Ws {
                connect: WsConnect::new(url)
                    .with_max_retries(WS_RETRIES)
                    .with_retry_interval(WS_RETRY_INTERVAL),
                client: tokio::sync::Mutex::new(None),
            },
            _ => return Err(NodeError::NoEndpoint),
        };
        let endpoint = Self {
            index,
            network: chain.to_string(),
            link,
            deadline,
            breaker: Mutex::new(Breaker::Closed { failures: 0 }),
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
        self.count(method, 1);
        let started = Instant::now();
        let call = async {
            let client = self.client().await?;
            client
                .request::<P, R>(method, params)
                .await
                .map_err(from_transport)
        };
        let result = timeout(self.deadline, call)
            .await
            .unwrap_or(Err(CallError::Node(NodeError::Timeout)));
        self.finish(method, started, result.as_ref().err()).await;
        result
    }

    /// The same method for many parameters, as JSON-RPC batches; answers in the order of the parameters. One failed
    /// element fails the whole.
    pub(crate) async fn batch<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
    ) -> Result<Vec<R>, CallError> {
        let mut answers = Vec::with_capacity(params.len());
        for chunk in params.chunks(MAX_BATCH) {
            self.count(method, chunk.len());
            let started = Instant::now();
            let result = timeout(self.deadline, self.send_batch(method, chunk))
                .await
                .unwrap_or(Err(CallError::Node(NodeError::Timeout)));
            self.finish(method, started, result.as_ref().err()).await;
            answers.extend(result?);
        }
        Ok(answers)
    }

    async fn send_batch<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
    ) -> Result<Vec<R>, CallError> {
        let client = self.client().await?;
        let mut batch = client.new_batch();
        let mut waiters = Vec::with_capacity(params.len());
        for params in params {
            let waiter = batch.add_call::<P, R>(Cow::Borrowed(method), params);
            waiters.push(waiter.map_err(from_transport)?);
        }
        batch.send().await.map_err(from_transport)?;
        join_all(waiters)
            .await
            .into_iter()
            .map(|answer| answer.map_err(from_transport))
            .collect()
    }

    /// The hash of the block at a height, if the endpoint has one.
    pub(crate) async fn hash_at(&self, number: u64) -> Result<Option<B256>, NodeError> {
        let block: Option<WireBlock> = self
            .call("eth_getBlockByNumber", (U64::from(number), false))
            .await
            .map_err(not_a_call)?;
        Ok(block.map(|block| Block::from(block).hash))
    }

    async fn client(&self) -> Result<RpcClient, CallError> {
        match &self.link {
            Link::Http(client) => Ok(client.clone()),
            Link::Ws { connect, client } => {
                let mut slot = client.lock().await;
                if let Some(client) = slot.as_ref() {
                    return Ok(client.clone());
                }
                let fresh = ClientBuilder::default()
                    .ws(connect.clone())
                    .await
                    .map_err(|_| NodeError::Refused)?;
                *slot = Some(fresh.clone());
                Ok(fresh)
            }
        }
    }

    async fn finish(&self, method: &'static str, started: Instant, error: Option<&CallError>) {
        metrics::histogram!("teller_node_call_duration_seconds", "network" => self.network.clone(), "method" => method)
            .record(started.elapsed().as_secs_f64());
        let error = match error {
            None | Some(CallError::Reverted(_)) => return self.succeeded(),
            Some(CallError::Node(error)) => error,
        };
        metrics::counter!("teller_node_errors_total", "network" => self.network.clone(), "kind" => error.kind())
            .increment(1);
        if !error.blames_endpoint() {
            return self.succeeded();
        }
        if let (
            Link::Ws { client, .. },
            NodeError::Refused | NodeError::Broken | NodeError::Timeout,
        ) = (&self.link, error)
        {
            *client.lock().await = None;
        }
        self.failed(error);
    }

    fn succeeded(&self) {
        let was_open = {
            let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
            let was_open = matches!(*breaker, Breaker::Open { .. });
            *breaker = Breaker::Closed { failures: 0 };
            was_open
        };
        if was_open {
            tracing::info!(network = %self.network, endpoint = self.index, "endpoint is well again");
            self.report_health(true);
        }
    }

    fn failed(&self, error: &NodeError) {
        let opened = {
            let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
            let (next, opened) = match *breaker {
                Breaker::Closed { failures } if failures + 1 < FAILURES_TO_OPEN => (
                    Breaker::Closed {
                        failures: failures + 1,
                    },
                    false,
                ),
                Breaker::Closed { .. } => (open_for(FIRST_PROBE), true),
                open @ Breaker::Open { .. } => (open, false),
            };
            *breaker = next;
            opened
        };
        if opened {
            tracing::warn!(network = %self.network, endpoint = self.index, %error, "endpoint keeps failing");
            self.report_health(false);
        }
    }

    /// Whether calls should go here.
    pub(crate) fn is_healthy(&self) -> bool {
        let breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*breaker, Breaker::Closed { .. })
    }

    /// Whether an open breaker is due for a probe; the one who is told `true` makes it.
    pub(crate) fn claim_probe(&self) -> bool {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        match *breaker {
            Breaker::Open { probe_at, wait } if probe_at <= Instant::now() => {
                // Put off at once, so that nobody else starts one meanwhile.
                *breaker = open_for((wait * 2).min(LAST_PROBE).max(self.deadline));
                true
            }
            Breaker::Open { .. } | Breaker::Closed { .. } => false,
        }
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

fn open_for(wait: Duration) -> Breaker {
    Breaker::Open {
        probe_at: Instant::now() + wait,
        wait,
    }
}
