//! All endpoints of one network. Reads go to a healthy one and on error to the next; nothing here retries a write.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use alloy_json_rpc::{RpcRecv, RpcSend};
use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use futures::future::join_all;
use serde_json::{Value, json};
use teller_domain::{AccountNonce, ChainId, Wei};

use crate::endpoint::Endpoint;
use crate::error::Absence;
use crate::failover::{NoAnswer, first_answer, in_order};
use crate::sightings::{RECEIPT, TRANSACTION, seen};
use crate::wire::{Quantity, WireBlock, WireCall, WireLog};
use crate::{Block, CallError, Log, NodeError, TxReceipt};

/// How many endpoints must agree on a "no" that has consequences, where so many are configured.
pub(crate) const WITNESSES: usize = 2;

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
        let mut endpoints = config
            .rpc
            .iter()
            .chain(&config.flashblocks)
            .enumerate()
            .map(|(index, url)| {
                Endpoint::new(config.chain, index, url, &http, config.request_timeout).map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let flashblocks = endpoints.split_off(config.rpc.len());
        Ok(Self(Arc::new(Inner {
            chain: config.chain,
            endpoints,
            flashblocks,
        })))
    }

    /// How many endpoints there are, those for Flashblocks aside.
    pub fn endpoints(&self) -> usize {
        self.0.endpoints.len()
    }

    /// How many endpoints must say the same where a "no" has consequences.
    pub(crate) fn witnesses(&self) -> usize {
        WITNESSES.min(self.0.endpoints.len())
    }

    /// Every endpoint, healthy or not, in the order of preference; those for Flashblocks aside.
    pub(crate) fn all(&self) -> &[Arc<Endpoint>] {
        &self.0.endpoints
    }

    /// The endpoints that show Flashblocks.
    pub(crate) fn flashblocks(&self) -> &[Arc<Endpoint>] {
        &self.0.flashblocks
    }

    /// The network.
    pub fn chain(&self) -> ChainId {
        self.0.chain
    }

    /// `eth_chainId`
    pub async fn chain_id(&self) -> Result<u64, NodeError> {
        let Quantity(id): Quantity<U64> = self.read("eth_chainId", ()).await?;
        Ok(id.to())
    }

    /// The hash of block 0.
    pub async fn genesis_hash(&self) -> Result<B256, NodeError> {
        let block = self.block(0).await?;
        block
            .map(|block| block.hash)
            .ok_or(NodeError::BadAnswer("no genesis block"))
    }

    /// The latest sealed block. An endpoint whose height fell is passed over while another one has not fallen behind.
    pub async fn head(&self) -> Result<Block, NodeError> {
        let mut lagging = None;
        let method = "eth_getBlockByNumber";
        let result = self
            .failover(method, |endpoint| async move {
                let block: Option<WireBlock> = endpoint.call(method, ("latest", false)).await?;
                let block = block.map(Block::from);
                let block = block.ok_or(NodeError::BadAnswer("no latest block"))?;
                let rises = endpoint.rises_to(block.number);
                Ok((block, rises))
            })
            .await;
        let last = self.0.endpoints.len() == 1;
        match result {
            Ok((block, rises)) if rises || last => return Ok(block),
            Ok((block, _)) => lagging = Some(block),
            Err(CallError::Node(error)) => return Err(error),
            Err(CallError::Reverted(_)) => {}
        }
        for endpoint in self.in_order(method) {
            let block: Result<Option<WireBlock>, _> =
                endpoint.call(method, ("latest", false)).await;
            let Ok(Some(block)) = block else { continue };
            let block = Block::from(block);
            if endpoint.rises_to(block.number) {
                return Ok(block);
            }
        }
        // All fell: the chain itself did.
        lagging.ok_or(NodeError::BadAnswer("no latest block"))
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

    /// The block with this hash, if the node has it.
    pub async fn block_by_hash(&self, hash: B256) -> Result<Option<Block>, NodeError> {
        let block: Option<WireBlock> = self.read("eth_getBlockByHash", (hash, false)).await?;
        Ok(block.map(Block::from))
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
        let asked = self.0.endpoints.iter();
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
        first_answer(&self.0.endpoints, method, ask)
            .await
            .map_err(NoAnswer::most_telling)
    }

    /// The endpoints in the order of preference: those that are healthy for a method, then the others.
    pub(crate) fn in_order(&self, method: &'static str) -> Vec<Arc<Endpoint>> {
        in_order(&self.0.endpoints, method)
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
