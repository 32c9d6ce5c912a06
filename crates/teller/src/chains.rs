//! What is made of one configured network: its nodes, its heads, its coalesced reads, and what verification and the engine get of them.

use std::time::Duration;

use alloy_primitives::{Address, B256};
use teller_api::{SupportedDelegations, SupportedNetwork};
use teller_chain::{
    FeePolicy, HeadHandle, InspectLimits, Inspector, LocalSigner, NodeConfig, NodeError, Nodes,
    watch_heads,
};
use teller_domain::{ChainId, EXACT_PROXY, UPTO_PROXY};
use teller_settle::core::{BatchLimits, Budgets, CoreConfig};
use teller_settle::{AdmissionParts, NetworkParts};
use teller_verify::{VerifyNetwork, margin_seconds};

use crate::commands::Failure;
use crate::config::Network;

/// One call to one node: less than verification waits for the chain, so that another one can still be asked.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// A network that is watched.
pub struct Chain {
    network: Network,
    nodes: Nodes,
    heads: HeadHandle,
    inspector: Inspector,
}

impl Chain {
    /// Starts watching. Waits for no node. Where the genesis block is known, endpoints with another one are left out.
    pub fn connect(network: &Network, genesis: Option<B256>) -> Result<Self, Failure> {
        let config = NodeConfig {
            chain: network.id,
            rpc: network
                .rpc
                .iter()
                .map(|url| url.expose().to_owned())
                .collect(),
            flashblocks: network
                .flashblocks_rpc
                .iter()
                .map(|url| url.expose().to_owned())
                .collect(),
            request_timeout: REQUEST_TIMEOUT,
        };
        let nodes = Nodes::connect(config).map_err(|error| {
            Failure::new(
                &format!("the nodes of {} cannot be used", network.id),
                error,
            )
        })?;
        if let Some(genesis) = genesis {
            nodes.expect_genesis(genesis);
        }
        let heads =
            watch_heads(nodes.clone(), network.block_interval).with_max_age(network.max_head_age);
        let inspector = Inspector::spawn(nodes.clone(), heads.clone(), InspectLimits::default());
        Ok(Self {
            network: network.clone(),
            nodes,
            heads,
            inspector,
        })
    }

    /// The network.
    pub fn id(&self) -> ChainId {
        self.network.id
    }

    /// Waits for the first block to be read: until then nothing can be verified. A node that is away must not keep a
    /// teller from starting, so after `within` it starts without.
    pub async fn settled_in(&self, within: Duration) {
        if let Err(error) = self.heads.first(within).await {
            tracing::warn!(network = %self.network.id, %error, "no block was read yet; payments cannot be checked");
        }
    }

    /// The one account that settles `upto` and redeems delegations. It must stay the same while authorizations name it,
    /// so it is the first signer.
    fn facilitator(&self) -> Option<Address> {
        self.network.signers.first().map(|signer| signer.address)
    }

    /// What `/supported` says of it: of the proxies and managers only those that are seen to be there.
    pub async fn supported(&self, within: Duration) -> SupportedNetwork {
        let look = async {
            let exact = self.nodes.code(EXACT_PROXY).await?;
            let upto = self.nodes.code(UPTO_PROXY).await?;
            let mut managers = Vec::new();
            for manager in &self.network.delegation_managers {
                if !self.nodes.code(*manager).await?.is_empty() {
                    managers.push(*manager);
                }
            }
            Ok::<_, NodeError>((!exact.is_empty(), !upto.is_empty(), managers))
        };
        let (exact, upto, managers) = match tokio::time::timeout(within, look).await {
            Ok(Ok(there)) => there,
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(network = %self.network.id, "it could not be seen whether the x402 proxies and the delegation managers are there; what needs them is not offered");
                (false, false, Vec::new())
            }
        };
        SupportedNetwork {
            chain: self.network.id,
            signers: self.signers(),
            facilitator: self.facilitator().filter(|_| upto),
            token_permits: exact,
            token_approvals: self.network.approvals.is_some(),
            delegations: self
                .facilitator()
                .filter(|_| !managers.is_empty())
                .map(|delegate| SupportedDelegations { delegate, managers }),
        }
    }

    /// What verification needs of it.
    pub fn verify_parts(&self) -> VerifyNetwork {
        let network = &self.network;
        VerifyNetwork {
            chain: network.id,
            assets: network.assets.clone(),
            multicall3: network.multicall3,
            wallet_factories: network.wallet_factories.clone(),
            delegation_managers: network.delegation_managers.clone(),
            approvals: network.approvals,
            facilitator: self.facilitator(),
            own_addresses: self.signers(),
            inspector: self.inspector.clone(),
            nodes: self.nodes.clone(),
            heads: self.heads.clone(),
            margin_seconds: margin_seconds(network.block_interval),
        }
    }

    /// What settling on it may cost, whoever the payments are for.
    pub fn budgets(&self) -> Budgets {
        Budgets {
            per_transaction: self.network.budget.per_transaction,
            per_day: self.network.budget.per_day,
            ..Budgets::default()
        }
    }

    fn core(&self, budgets: Budgets) -> CoreConfig {
        let network = &self.network;
        CoreConfig {
            chain: network.id,
            depth: network.depth,
            limits: BatchLimits {
                max_items: network.max_batch_items,
                max_gas: network.max_batch_gas,
                linger_ms: millis(network.linger),
            },
            block_interval_ms: millis(network.block_interval),
            // Half of what verify demands: what verified in its last moment can still be settled.
            cutoff_seconds: margin_seconds(network.block_interval) / 2,
            fees: FeePolicy {
                tip_floor: network.fees.tip_floor,
                tip_cap: network.fees.tip_cap,
                max_fee_ceiling: network.fees.max_fee,
            },
            budgets,
            approvals: network.approvals,
            flashblocks: self.nodes.shows_flashblocks(),
        }
    }

    /// What a process without an engine needs of it.
    pub fn admission_parts(&self, budgets: Budgets) -> AdmissionParts {
        AdmissionParts {
            core: self.core(budgets),
            nodes: self.nodes.clone(),
            heads: self.heads.clone(),
            signers: self.signers(),
        }
    }

    fn signers(&self) -> Vec<Address> {
        let signers = self.network.signers.iter();
        signers.map(|signer| signer.address).collect()
    }

    /// What the engine needs of it.
    pub fn engine_parts(&self, budgets: Budgets) -> Result<NetworkParts, Failure> {
        let network = &self.network;
        let signers = network
            .signers
            .iter()
            .map(|signer| LocalSigner::from_hex(&signer.expose().to_string()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Failure::new("a signer's key cannot be used", error))?;
        Ok(NetworkParts {
            core: self.core(budgets),
            nodes: self.nodes.clone(),
            heads: self.heads.clone(),
            inspector: self.inspector.clone(),
            signers,
            multicall3: network.multicall3,
            asset_names: network
                .assets
                .iter()
                .map(|asset| (asset.address, asset.name.clone()))
                .collect(),
        })
    }

    /// A question that `/readyz` asks: are blocks coming in?
    pub fn freshness(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let heads = self.heads.clone();
        move || !heads.is_stalled()
    }

    /// The heads of the network, with its name in metrics.
    pub fn heads(&self) -> (String, HeadHandle) {
        (self.network.id.to_string(), self.heads.clone())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
