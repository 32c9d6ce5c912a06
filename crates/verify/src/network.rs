//! A network as verification sees it.

use std::time::Duration;

use alloy_primitives::Address;
use teller_chain::{HeadHandle, Inspector, Nodes};
use teller_domain::{Asset, ChainId, TopUpPolicy};
use teller_schemes::eip3009::Domain;
use tokio::sync::Semaphore;

use crate::meters::Meters;

/// Every implementation of x402 demands this many seconds until `validBefore` (PROTOCOL section 3.2).
const LEAST_MARGIN_SECONDS: u64 = 6;

/// Approvals that are looked at in the same moment on one network.
const LOOKS_AT_ONCE: usize = 16;

/// The time that must be left until an authorization expires: six seconds or two block intervals, whichever is longer.
pub fn margin_seconds(block_interval: Duration) -> u64 {
    let two = block_interval.saturating_mul(2);
    let seconds = two.as_secs() + u64::from(two.subsec_nanos() > 0);
    seconds.max(LEAST_MARGIN_SECONDS)
}

/// What verification needs of a network.
#[derive(Debug, Clone)]
pub struct VerifyNetwork {
    /// The network.
    pub chain: ChainId,
    /// The assets that may be paid with.
    pub assets: Vec<Asset>,
    /// Multicall3, which makes contract wallets that are not there yet.
    pub multicall3: Address,
    /// Who may make contract wallets that are not there yet (ERC-6492): they are called with whatever a payer sends.
    pub wallet_factories: Vec<Address>,
    /// The managers that redeem delegations (ERC-7710): they are called with whatever a payer sends.
    pub delegation_managers: Vec<Address>,
    /// What payers are given for the gas of the approvals that they send along; `None` where these are ignored.
    pub approvals: Option<TopUpPolicy>,
    /// The one account that settles `upto`; none where that is not served.
    pub facilitator: Option<Address>,
    /// Teller's own signers, and whatever else must never be a party to a payment.
    pub own_addresses: Vec<Address>,
    /// Reads chain state.
    pub inspector: Inspector,
    /// Reads what only payments with approvals need.
    pub nodes: Nodes,
    /// Knows the chain's time.
    pub heads: HeadHandle,
    /// Seconds that must be left until `validBefore`: [`margin_seconds`].
    pub margin_seconds: u64,
}

/// An asset with its EIP-712 domain worked out.
#[derive(Debug)]
pub(crate) struct KnownDomain {
    pub(crate) asset: Asset,
    pub(crate) domain: Domain,
}

/// A network that is ready to verify on.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) chain: ChainId,
    pub(crate) assets: Vec<KnownDomain>,
    pub(crate) multicall3: Address,
    pub(crate) wallet_factories: Vec<Address>,
    pub(crate) delegation_managers: Vec<Address>,
    pub(crate) approvals: Option<TopUpPolicy>,
    pub(crate) facilitator: Option<Address>,
    pub(crate) own_addresses: Vec<Address>,
    pub(crate) inspector: Inspector,
    pub(crate) nodes: Nodes,
    /// How many approvals are looked at in the same moment: each takes several calls of its own.
    pub(crate) looks: Semaphore,
    pub(crate) heads: HeadHandle,
    pub(crate) margin_seconds: u64,
    pub(crate) meters: Meters,
}

impl From<VerifyNetwork> for Network {
    fn from(network: VerifyNetwork) -> Self {
        let assets = network.assets.into_iter().map(|asset| KnownDomain {
            domain: Domain::new(&asset),
            asset,
        });
        Self {
            chain: network.chain,
            assets: assets.collect(),
            multicall3: network.multicall3,
            wallet_factories: network.wallet_factories,
            delegation_managers: network.delegation_managers,
            approvals: network.approvals,
            facilitator: network.facilitator,
            own_addresses: network.own_addresses,
            inspector: network.inspector,
            nodes: network.nodes,
            looks: Semaphore::new(LOOKS_AT_ONCE),
            heads: network.heads,
            margin_seconds: network.margin_seconds,
            meters: Meters::new(network.chain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_six_seconds_or_two_blocks() {
        for (interval_ms, seconds) in [(200, 6), (2_000, 6), (3_000, 6), (3_100, 7), (12_000, 24)] {
            assert_eq!(margin_seconds(Duration::from_millis(interval_ms)), seconds);
        }
    }
}
