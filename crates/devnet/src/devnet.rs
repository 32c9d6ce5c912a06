//! Starting a local chain and talking to it.

use std::path::PathBuf;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::contracts::{DECIMALS, MULTICALL3, NAME, TEST_DOLLAR, VERSION};
use crate::fees::hold_base_fee_floor;
use crate::node::{CHAIN_ID, MARKED_ACCOUNT, Node, find_anvil, free_port};
use crate::rpc::Rpc;
use crate::{DevnetError, fund, keys, setup};

const START_TRIES: u32 = 5;
const READY_WITHIN: Duration = Duration::from_secs(20);
const READY_PAUSE: Duration = Duration::from_millis(20);

/// When the chain makes blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mining {
    /// One every so often, empty or not.
    Interval(Duration),
    /// One for each transaction, at once.
    Instant,
    /// Only on `evm_mine`.
    Manual,
}

/// What the chain should be like. The chain id is Base Sepolia's, 84532.
#[derive(Debug, Clone)]
pub struct DevnetConfig {
    /// The anvil binary; without it `TELLER_ANVIL`, `.tools/bin/anvil` in this directory or one above it,
    /// and the PATH are looked at.
    pub anvil: Option<PathBuf>,
    /// The port on 127.0.0.1; without it a free one.
    pub port: Option<u16>,
    /// When blocks are made.
    pub mining: Mining,
    /// The block gas limit. The transaction gas limit of EIP-7825, 16,777,216, holds always.
    pub gas_limit: u64,
    /// How many blocks with transactions are kept for look-ups by hash; what is older is forgotten, so that
    /// a long load does not eat the memory. The states of the last 72 blocks are kept too, each a copy of
    /// the whole: at 1,000 payments a second anvil grows by about 10 MB a second until both bounds bite.
    pub keep_blocks: u64,
    /// How many payers to give test dollars.
    pub payers: usize,
    /// How many signers to give ETH.
    pub signers: usize,
    /// What each payer gets, in the test dollar's smallest unit.
    pub fund_payers: U256,
}

impl Default for DevnetConfig {
    /// One-second blocks of 400M gas, ten payers with 1,000 dollars each, one signer.
    fn default() -> Self {
        Self {
            anvil: None,
            port: None,
            mining: Mining::Interval(Duration::from_secs(1)),
            gas_limit: 400_000_000,
            keep_blocks: 900,
            payers: 10,
            signers: 1,
            fund_payers: U256::from(1_000_000_000_u64),
        }
    }
}

/// The asset to pay with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asset {
    /// The token contract.
    pub address: Address,
    /// Its EIP-712 name.
    pub name: String,
    /// Its EIP-712 version.
    pub version: String,
    /// Its decimals.
    pub decimals: u8,
}

/// What a script needs to pay on the chain; serialized it is the `devnet:` line of `teller dev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DevnetInfo {
    /// The EIP-155 chain id.
    pub chain_id: u64,
    /// The JSON-RPC URL.
    pub rpc: String,
    /// The test dollar.
    pub asset: Asset,
    /// Multicall3.
    pub multicall3: Address,
    /// Private keys of accounts with test dollars and no ETH. Public by design.
    pub payers: Vec<B256>,
    /// Private keys of accounts with ETH. Not serialized: whoever pays has no use for them.
    #[serde(skip)]
    pub signers: Vec<B256>,
}

/// A running local chain. Dropping it ends anvil; so does the death of this process, however it dies.
#[derive(Debug)]
pub struct Devnet {
    info: DevnetInfo,
    rpc: Rpc,
    fee_floor: tokio::task::JoinHandle<()>,
    // Held for its drop.
    _node: Node,
}

impl Devnet {
    /// Starts anvil, places the contracts, and funds payers and signers.
    ///
    /// # Errors
    /// When anvil is missing, does not start or does not answer, or a step of the set-up is refused.
    pub async fn start(config: DevnetConfig) -> Result<Self, DevnetError> {
        let binary = find_anvil(config.anvil.as_deref())?;
        let (node, url) = start_node(&binary, &config).await?;
        let rpc = Rpc::new(&url)?;
        setup::install_contracts(&rpc).await?;
        let payers: Vec<_> = (0..config.payers).map(keys::payer).collect();
        let signers: Vec<_> = (0..config.signers).map(keys::signer).collect();
        setup::fund_signers(&rpc, &keys::addresses("signer", &signers)?).await?;
        fund(
            &url,
            &keys::addresses("payer", &payers)?,
            config.fund_payers,
        )
        .await?;
        let every = match config.mining {
            Mining::Interval(period) => (period / 2).max(Duration::from_millis(50)),
            Mining::Instant | Mining::Manual => Duration::from_millis(500),
        };
        let fee_floor = tokio::spawn(hold_base_fee_floor(rpc.clone(), every));
        let info = DevnetInfo {
            chain_id: CHAIN_ID,
            rpc: url,
            asset: Asset {
                address: TEST_DOLLAR,
                name: NAME.to_owned(),
                version: VERSION.to_owned(),
                decimals: DECIMALS,
            },
            multicall3: MULTICALL3,
            payers,
            signers,
        };
        Ok(Self {
            info,
            rpc,
            fee_floor,
            _node: node,
        })
    }

    /// What the chain is like and who can pay on it.
    #[must_use]
    pub fn info(&self) -> &DevnetInfo {
        &self.info
    }

    /// The JSON-RPC URL.
    #[must_use]
    pub fn rpc_url(&self) -> &str {
        &self.info.rpc
    }

    /// One JSON-RPC request to the node, `anvil_` methods included.
    ///
    /// # Errors
    /// When the node does not answer or answers with an error.
    pub async fn rpc(&self, method: &str, params: Value) -> Result<Value, DevnetError> {
        self.rpc.call(method, params).await
    }

    /// Ends anvil without blocking the runtime while it goes.
    pub async fn shutdown(self) {
        if let Err(error) = tokio::task::spawn_blocking(move || drop(self)).await {
            tracing::warn!(%error, "the local chain did not end cleanly");
        }
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        self.fee_floor.abort();
    }
}

async fn start_node(
    binary: &std::path::Path,
    config: &DevnetConfig,
) -> Result<(Node, String), DevnetError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let port = match config.port {
            Some(port) => port,
            None => free_port()?,
        };
        let url = format!("http://127.0.0.1:{port}");
        let mut node = Node::spawn(binary, port, config)?;
        match wait_until_ready(&mut node, &url).await {
            Ok(()) => return Ok((node, url)),
            // Somebody may have taken the port between the look and the start.
            Err(DevnetError::Exited { .. }) if config.port.is_none() && tries < START_TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

async fn wait_until_ready(node: &mut Node, url: &str) -> Result<(), DevnetError> {
    let rpc = Rpc::new(url)?;
    let asking = async {
        loop {
            let balance = rpc
                .call("eth_getBalance", json!([MARKED_ACCOUNT, "latest"]))
                .await;
            let balance = balance
                .ok()
                .and_then(|value| serde_json::from_value::<U256>(value).ok());
            if balance == Some(node.mark()) {
                return Ok(());
            }
            if node.has_ended() {
                return Err(DevnetError::Exited { log: node.log() });
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    };
    tokio::time::timeout(READY_WITHIN, asking)
        .await
        .unwrap_or(Err(DevnetError::NotReady(READY_WITHIN)))
}
