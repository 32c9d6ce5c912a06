//! All endpoints of one network. Reads go to a healthy one and on error to the next; nothing here retries a write.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_json_rpc::{RpcRecv, RpcSend};
use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use teller_domain::{AccountNonce, ChainId, Wei};
use tokio::time::{Instant, timeout_at};

use crate::endpoint::{Endpoint, Expected};
use crate::error::Absence;
use crate::failover::{HEDGE_AFTER, NoAnswer, first_answer, in_order};
use crate::sightings::{RECEIPT, TRANSACTION, seen};
use crate::wire::{Quantity, WireBlock, WireCall, WireLog};
use crate::{Block, CallError, Log, NodeError, TxReceipt};

/// How many endpoints must agree on a "no" that has consequences, where so many are configured.
pub(crate) const WITNESSES: usize = 2;

/// What tells of the head.
pub(crate) const HEAD: &str = "eth_getBlockByNumber";

/// Where the nodes of a network are.
#[derive(Clone)]
pub struct NodeConfig {
    /// The network.
    pub chain: ChainId,
    /// `http`, `https`, `ws` or `wss` URLs in the order of preference. They may hold keys and are never printed.
    pub rpc: Vec<String>,
    /// URLs of endpoints that show Flashblocks, in the order of preference; empty where there are none.
    pub flashblocks: Vec<String>,
    /// The time limit of one call to one endpoint.
    pub request_timeout: Duration,
}

impl fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConfig")
            .field("chain", &self.chain)
            .field("rpc", &self.rpc.len())
            .field("flashblocks", &self.flashblocks.len())
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

struct Inner {
    chain: ChainId,
    endpoints: Vec<Arc<Endpoint>>,
    /// Numbered after the others.
    flashblocks: Vec<Arc<Endpoint>>,
    /// What each of them must serve.
    expected: Arc<Expected>,
    /// The height that the network's watcher follows; zero while there is none.
    followed: AtomicU64,
}

/// All endpoints of one network. Cheap to clone.
#[derive(Clone)]
pub struct Nodes(Arc<Inner>);

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nodes({}, {})", self.0.chain, self.0.endpoints.len())
    }
}

impl Nodes {
    /// Takes the endpoints. Nothing is dialled before the first call.
    ///
    /// # Errors
    /// [`NodeError::NoEndpoint`] without endpoints, or with a URL of another scheme.
    pub fn connect(config: NodeConfig) -> Result<Self, NodeError> {
        if config.rpc.is_empty() {
            return Err(NodeError::NoEndpoint);
        }
        // Whoever installed one before decides; otherwise TLS would have none.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(config.request_timeout)
            .connect_timeout(config.request_timeout / 2)
            .tcp_nodelay(true)
            .build()
            .map_err(|_| NodeError::NoEndpoint)?;
        let expected = Arc::new(Expected::new(config.chain));
        let mut endpoints = config
            .rpc
            .iter()
            .chain(&config.flashblocks)
            .enumerate()
            .map(|(index, url)| {
                let expected = Arc::clone(&expected);
                let limit = config.request_timeout;
                Endpoint::new(config.chain, index, url, &http, limit, expected).map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let flashblocks = endpoints.split_off(config.rpc.len());
        Ok(Self(Arc::new(Inner {
            chain: config.chain,
            endpoints,
            flashblocks,
            expected,
            followed: AtomicU64::new(0),
        })))
    }

    /// The genesis block that is known from before: an endpoint with another one is left out. Without it the most
    /// preferred endpoint that answers first names it.
    pub fn expect_genesis(&self, genesis: B256) {
        self.0.expected.pin(genesis);
    }

    /// Notes the height that is followed: endpoints that lag behind it are asked last.
    pub(crate) fn note_followed(&self, height: u64) {
        self.0.followed.store(height, Ordering::Relaxed);
    }

    /// How many endpoints there are, those for Flashblocks aside.
    pub fn endpoints(&self) -> usize {
        self.0.endpoints.len()
    }

    /// How many endpoints must say the same where a "no" has consequences.
    pub(crate) fn witnesses(&self) -> usize {
        WITNESSES.min(self.0.endpoints.len())
    }

    /// Every endpoint, of whatever health and chain, in the order of preference; those for Flashblocks aside.
    pub(crate) fn configured(&self) -> &[Arc<Endpoint>] {
        &self.0.endpoints
    }

    /// Every endpoint of this chain, healthy or not, in the order of preference; those for Flashblocks aside.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let endpoints = self.0.endpoints.iter();
        endpoints.filter(|endpoint| !endpoint.is_left_out())
    }

    /// Whether endpoints are configured that show Flashblocks.
    pub(crate) fn has_flashblocks(&self) -> bool {
        !self.0.flashblocks.is_empty()
    }

    /// The endpoints that show Flashblocks, ordered as the others are.
    pub(crate) fn flashblocks(&self, method: &'static str) -> Vec<Arc<Endpoint>> {
        in_order(&self.0.flashblocks, method, self.followed())
    }

    /// The network.
    pub fn chain(&self) -> ChainId {
        self.0.chain
    }

    /// The chain id, once one endpoint has shown that it serves this network.
    ///
    /// # Errors
    /// As [`Self::genesis_hash`].
    pub async fn chain_id(&self) -> Result<u64, NodeError> {
        self.genesis_hash().await.map(|_| self.0.chain.0)
    }

    /// The hash of block 0, once one endpoint has shown that it serves this network.
    ///
    /// # Errors
    /// [`NodeError::WrongChain`] or [`NodeError::WrongGenesis`] when every endpoint serves another network; otherwise why
    /// one could not be asked.
    pub async fn genesis_hash(&self) -> Result<B256, NodeError> {
        let (mut wrong, mut away) = (None, None);
        let identify = |endpoint: &Arc<Endpoint>| {
            let endpoint = Arc::clone(endpoint);
            tokio::spawn(async move { endpoint.identify().await })
        };
        let mut asked: FuturesUnordered<_> = self.0.endpoints.iter().map(identify).collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Ok(())) => {
                    let genesis = self.0.expected.genesis();
                    return genesis.ok_or(NodeError::BadAnswer("no genesis block"));
                }
                Ok(Err(
                    error @ (NodeError::WrongChain { .. } | NodeError::WrongGenesis { .. }),
                )) => {
                    wrong = Some(error);
                }
                Ok(Err(error)) => away = Some(error),
                Err(_) => away = Some(NodeError::BadAnswer("the task ended")),
            }
        }
        Err(away.or(wrong).unwrap_or(NodeError::NoEndpoint))
    }

    /// The highest of the endpoints' latest sealed blocks; one that is slower than another by 300 ms is not waited for.
    ///
    /// # Errors
    /// When no endpoint has answered.
    pub async fn head(&self) -> Result<Block, NodeError> {
        let mut asked = self.in_order(HEAD);
        asked.retain(|endpoint| endpoint.is_healthy(HEAD));
        if asked.is_empty() {
            let latest = |endpoint: Arc<Endpoint>| async move { Ok(endpoint.latest().await?) };
            return self.failover(HEAD, latest).await.map_err(not_a_call);
        }
        // Whoever is not waited for goes on to its time limit, and is judged by it.
        let latest = |endpoint: Arc<Endpoint>| tokio::spawn(async move { endpoint.latest().await });
        let mut asked: FuturesUnordered<_> = asked.into_iter().map(latest).collect();
        let mut failure = NodeError::NoEndpoint;
        let mut highest: Option<Block> = None;
        let mut wait_until = None;
        loop {
            let answer = match wait_until {
                None => asked.next().await,
                Some(until) => timeout_at(until, asked.next()).await.ok().flatten(),
            };
            match answer {
                Some(Ok(Ok(block))) => {
                    wait_until.get_or_insert_with(|| Instant::now() + HEDGE_AFTER);
                    if highest
                        .as_ref()
                        .is_none_or(|high| high.number < block.number)
                    {
                        highest = Some(block);
                    }
                }
                Some(Ok(Err(error))) => failure = error,
                Some(Err(_)) => failure = NodeError::BadAnswer("the task ended"),
                None => break,
            }
        }
        highest.ok_or(failure)
    }

    /// The block at a height, if there is one.
    pub async fn block(&self, number: u64) -> Result<Option<Block>, NodeError> {
        let block: Option<WireBlock> = self
            .read("eth_getBlockByNumber", (U64::from(number), false))
            .await?;
        Ok(block.map(Block::from))
    }

    /// The blocks at these heights, in one batch and in their order.
    pub async fn blocks(&self, numbers: &[u64]) -> Result<Vec<Option<Block>>, NodeError> {
        let params: Vec<_> = numbers
            .iter()
            .map(|number| (U64::from(*number), false))
            .collect();
        let blocks: Vec<Option<WireBlock>> =
            self.read_batch("eth_getBlockByNumber", params).await?;
        Ok(blocks
            .into_iter()
            .map(|block| block.map(Block::from))
            .collect())
    }

    /// The receipts of these transactions, in one batch and in their order; `None` for what is not mined.
    pub async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<TxReceipt>>, NodeError> {
        let hashes: Arc<[B256]> = hashes.into();
        let asked = self.failover(RECEIPT, |endpoint| {
            let hashes = Arc::clone(&hashes);
            async move { endpoint.receipts(&hashes).await?.certain() }
        });
        asked.await.map_err(not_a_call)
    }

    /// Whom a transaction called with what; no address for one that made a contract, nothing for one that is not known.
    pub async fn calldata(
        &self,
        transaction: B256,
    ) -> Result<Option<(Option<Address>, Bytes)>, NodeError> {
        let found: Option<WireCall> = self.transaction(transaction).await?;
        Ok(found.map(|call| (call.to, call.input)))
    }

    /// A transaction, if an endpoint has it. Some have an error for what they do not have.
    pub(crate) async fn transaction<R: RpcRecv>(&self, hash: B256) -> Result<Option<R>, NodeError> {
        match self.read(TRANSACTION, (hash,)).await {
            Err(error) if error.absence() == Some(Absence::NotFound) => Ok(None),
            answer => answer,
        }
    }

    /// Whether any endpoint knows these transactions, mined or waiting. A "no" takes the word of two endpoints where
    /// two are configured.
    ///
    /// # Errors
    /// When something is unknown to those that answered and too few did.
    pub async fn transactions_known(&self, hashes: &[B256]) -> Result<Vec<bool>, NodeError> {
        let asked = self.all();
        let asked =
            asked.map(|endpoint| seen::<serde::de::IgnoredAny>(endpoint, TRANSACTION, hashes));
        let answers = join_all(asked).await;
        let mut known = vec![false; hashes.len()];
        let mut witnesses = 0;
        let mut failure = NodeError::NoEndpoint;
        for answer in answers {
            match answer {
                Ok(seen) => {
                    for (known, found) in known.iter_mut().zip(&seen.each) {
                        *known |= found.is_some();
                    }
                    match seen.certain() {
                        Ok(_) => witnesses += 1,
                        Err(error) => failure = not_a_call(error),
                    }
                }
                Err(CallError::Node(error)) => failure = error,
                Err(CallError::Reverted(_)) => {}
            }
        }
        let enough = witnesses >= self.witnesses();
        if enough || known.iter().all(|known| *known) {
            Ok(known)
        } else {
            Err(failure)
        }
    }

    /// The account's nonce after a sealed block: how many of its transactions are mined. Never the pending count.
    pub async fn account_nonce(
        &self,
        address: Address,
        block: u64,
    ) -> Result<AccountNonce, NodeError> {
        let Quantity(nonce): Quantity<U64> = self
            .read("eth_getTransactionCount", (address, U64::from(block)))
            .await?;
        Ok(AccountNonce(nonce.to()))
    }

    /// The account's native balance at the latest block.
    pub async fn balance(&self, address: Address) -> Result<Wei, NodeError> {
        let Quantity(balance): Quantity<U256> =
            self.read("eth_getBalance", (address, "latest")).await?;
        Ok(Wei(balance))
    }

    /// The account's code at the latest block; empty for a plain account.
    pub async fn code(&self, address: Address) -> Result<Bytes, NodeError> {
        self.read("eth_getCode", (address, "latest")).await
    }

    /// `eth_maxPriorityFeePerGas`: the tip that the node suggests, wei for each unit of gas.
    pub async fn tip(&self) -> Result<u128, NodeError> {
        let Quantity(tip): Quantity<U128> = self.read("eth_maxPriorityFeePerGas", ()).await?;
        Ok(tip.to())
    }

    /// Calls a contract at a block and gives what it returns.
    pub async fn call(&self, to: Address, data: Bytes, block: u64) -> Result<Bytes, CallError> {
        let call = json!({ "to": to, "data": data });
        self.try_read("eth_call", (call, U64::from(block))).await
    }

    /// An `eth_call` whose parameters are already JSON.
    pub(crate) async fn raw_call<P: RpcSend + 'static>(
        &self,
        params: P,
    ) -> Result<Bytes, CallError> {
        self.try_read("eth_call", params).await
    }

    /// The logs of a contract in a range of blocks, both ends included. An empty list of topics matches any.
    pub async fn logs(
        &self,
        address: Address,
        topics: &[Vec<B256>],
        from_block: u64,
        to_block: u64,
    ) -> Result<Vec<Log>, NodeError> {
        let filter = log_filter(address, topics, from_block, to_block);
        let logs: Vec<WireLog> = self.read("eth_getLogs", (filter,)).await?;
        Ok(logs.into_iter().map(Log::from).collect())
    }

    pub(crate) async fn read<P: RpcSend + 'static, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, NodeError> {
        self.try_read(method, params).await.map_err(not_a_call)
    }

    async fn try_read<P: RpcSend + 'static, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, CallError> {
        self.failover(method, |endpoint| {
            let params = params.clone();
            async move { endpoint.call(method, params).await }
        })
        .await
    }

    async fn read_batch<P: RpcSend + 'static, R: RpcRecv>(
        &self,
        method: &'static str,
        params: Vec<P>,
    ) -> Result<Vec<R>, NodeError> {
        let params: Arc<[P]> = params.into();
        self.failover(method, |endpoint| {
            let params = Arc::clone(&params);
            async move { endpoint.batch(method, &params).await }
        })
        .await
        .map_err(not_a_call)
    }

    /// Asks for what one endpoint can answer alone. A revert is an answer.
    pub(crate) async fn failover<R, F>(
        &self,
        method: &'static str,
        ask: impl Fn(Arc<Endpoint>) -> F,
    ) -> Result<R, CallError>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, CallError>> + Send + 'static,
    {
        first_answer(|| self.in_order(method), method, ask)
            .await
            .map_err(NoAnswer::most_telling)
    }

    /// The endpoints of this chain in the order of preference: those that are healthy for a method, those that lag behind
    /// the followed head last among them; then the others.
    pub(crate) fn in_order(&self, method: &'static str) -> Vec<Arc<Endpoint>> {
        in_order(&self.0.endpoints, method, self.followed())
    }

    fn followed(&self) -> u64 {
        self.0.followed.load(Ordering::Relaxed)
    }
}

/// What `eth_getLogs` is asked for.
pub(crate) fn log_filter(
    address: Address,
    topics: &[Vec<B256>],
    from_block: u64,
    to_block: u64,
) -> Value {
    let topics: Vec<Value> = topics
        .iter()
        .map(|choices| match choices.is_empty() {
            true => Value::Null,
            false => json!(choices),
        })
        .collect();
    json!({
        "address": address,
        "topics": topics,
        "fromBlock": U64::from(from_block),
        "toBlock": U64::from(to_block),
    })
}

pub(crate) fn not_a_call(error: CallError) -> NodeError {
    match error {
        CallError::Node(error) => error,
        CallError::Reverted(_) => NodeError::BadAnswer("a revert of what is no call"),
    }
}
