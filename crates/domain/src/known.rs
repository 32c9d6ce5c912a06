//! The networks and assets that need no configuration beyond their id (PROTOCOL sections 1.5 and 10).

use alloy_primitives::{Address, address};

use crate::{Asset, ChainId};

/// What a receipt's cost consists of on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CostModel {
    /// Gas used times the effective gas price.
    Plain,
    /// That, the fee for L1 data, and an operator fee: receipts carry `l1Fee` and its like.
    OpStack,
}

/// What is known of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkFacts {
    /// The network; its text form is the CAIP-2 id.
    pub chain: ChainId,
    /// What people call it.
    pub title: &'static str,
    /// Its x402 v1 name, where v1 has one.
    pub v1_name: Option<&'static str>,
    /// The usual time between sealed blocks: a default, which the configuration may change.
    pub block_interval_ms: u64,
    /// What a transaction costs there.
    pub cost: CostModel,
}

/// What is known of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssetFacts {
    /// The network that the token lives on.
    pub chain: ChainId,
    /// `USDC` or `EURC`.
    pub symbol: &'static str,
    /// The token contract.
    pub address: Address,
    /// EIP-712 name.
    pub name: &'static str,
    /// EIP-712 version.
    pub version: &'static str,
    /// Digits after the point.
    pub decimals: u8,
}

impl AssetFacts {
    /// As the configuration would describe it.
    pub fn asset(&self) -> Asset {
        Asset {
            chain: self.chain,
            address: self.address,
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            decimals: self.decimals,
        }
    }
}

const fn network(
    id: u64,
    title: &'static str,
    v1_name: Option<&'static str>,
    block_interval_ms: u64,
    cost: CostModel,
) -> NetworkFacts {
    NetworkFacts {
        chain: ChainId(id),
        title,
        v1_name,
        block_interval_ms,
        cost,
    }
}

/// A token of Circle's: 6 decimals, version 2, EIP-3009 and EIP-2612.
const fn circle(id: u64, symbol: &'static str, address: Address, name: &'static str) -> AssetFacts {
    AssetFacts {
        chain: ChainId(id),
        symbol,
        address,
        name,
        version: "2",
        decimals: 6,
    }
}

use CostModel::{OpStack, Plain};

/// The known networks. v1 has no names for Arbitrum, Optimism and their testnets.
#[rustfmt::skip]
pub const NETWORKS: [NetworkFacts; 15] = [
    network(8453, "Base", Some("base"), 2_000, OpStack),
    network(84532, "Base Sepolia", Some("base-sepolia"), 2_000, OpStack),
    network(1, "Ethereum", Some("ethereum"), 12_000, Plain),
    network(11_155_111, "Sepolia", Some("sepolia"), 12_000, Plain),
    network(137, "Polygon", Some("polygon"), 2_000, Plain),
    network(80_002, "Polygon Amoy", Some("polygon-amoy"), 2_000, Plain),
    network(42_161, "Arbitrum One", None, 250, Plain),
    network(421_614, "Arbitrum Sepolia", None, 250, Plain),
    network(10, "Optimism", None, 2_000, OpStack),
    network(11_155_420, "OP Sepolia", None, 2_000, OpStack),
    network(43_114, "Avalanche", Some("avalanche"), 2_000, Plain),
    network(43_113, "Avalanche Fuji", Some("avalanche-fuji"), 2_000, Plain),
    network(42_220, "Celo", Some("celo"), 1_000, OpStack),
    network(143, "Monad", Some("monad"), 400, Plain),
    network(1_329, "Sei", Some("sei"), 400, Plain),
];

/// The known assets. PROTOCOL has the name of Base Sepolia's EURC unconfirmed; like every configured asset it is
/// compared with the token's `DOMAIN_SEPARATOR()` before it is used.
#[rustfmt::skip]
pub const ASSETS: [AssetFacts; 19] = [
    circle(8453, "USDC", address!("833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"), "USD Coin"),
    circle(84532, "USDC", address!("036CbD53842c5426634e7929541eC2318f3dCF7e"), "USDC"),
    circle(1, "USDC", address!("A0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"), "USD Coin"),
    circle(11_155_111, "USDC", address!("1c7D4B196Cb0C7B01d743Fbc6116a902379C7238"), "USDC"),
    circle(137, "USDC", address!("3c499c542cEF5E3811e1192ce70d8cC03d5c3359"), "USD Coin"),
    circle(80_002, "USDC", address!("41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582"), "USDC"),
    circle(42_161, "USDC", address!("af88d065e77c8cC2239327C5EDb3A432268e5831"), "USD Coin"),
    circle(421_614, "USDC", address!("75faf114eafb1BDbe2F0316DF893fd58CE46AA4d"), "USD Coin"),
    circle(10, "USDC", address!("0b2C639c533813f4Aa9D7837CAf62653d097Ff85"), "USD Coin"),
    circle(11_155_420, "USDC", address!("5fd84259d66Cd46123540766Be93DFE6D43130D7"), "USDC"),
    circle(43_114, "USDC", address!("B97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E"), "USD Coin"),
    circle(43_113, "USDC", address!("5425890298aed601595a70AB815c96711a31Bc65"), "USD Coin"),
    circle(42_220, "USDC", address!("cebA9300f2b948710d2653dD7B07f33A8B32118C"), "USDC"),
    circle(143, "USDC", address!("754704Bc059F8C67012fEd69BC8A327a5aafb603"), "USDC"),
    circle(1_329, "USDC", address!("e15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392"), "USDC"),
    circle(1, "EURC", address!("1aBaEA1f7C830bD89Acc67eC4af516284b1bC33c"), "Euro Coin"),
    circle(8453, "EURC", address!("60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42"), "EURC"),
    circle(43_114, "EURC", address!("C891EB4cbdEFf6e073e859e987815Ed1505c2ACD"), "Euro Coin"),
    circle(84532, "EURC", address!("808456652fdb597867f38412077A9182bf77359F"), "EURC"),
];

/// The network with this id.
pub fn network_facts(chain: ChainId) -> Option<&'static NetworkFacts> {
    NETWORKS.iter().find(|network| network.chain == chain)
}

/// The known assets of a network.
pub fn asset_facts(chain: ChainId) -> impl Iterator<Item = &'static AssetFacts> {
    ASSETS.iter().filter(move |asset| asset.chain == chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{known_assets, known_network, v1_name};
    use std::collections::HashSet;

    /// As PROTOCOL section 10 prints them.
    const CHECKSUMMED: [&str; 19] = [
        "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48",
        "0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238",
        "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359",
        "0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582",
        "0xaf88d065e77c8cC2239327C5EDb3A432268e5831",
        "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d",
        "0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85",
        "0x5fd84259d66Cd46123540766Be93DFE6D43130D7",
        "0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E",
        "0x5425890298aed601595a70AB815c96711a31Bc65",
        "0xcebA9300f2b948710d2653dD7B07f33A8B32118C",
        "0x754704Bc059F8C67012fEd69BC8A327a5aafb603",
        "0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392",
        "0x1aBaEA1f7C830bD89Acc67eC4af516284b1bC33c",
        "0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42",
        "0xC891EB4cbdEFf6e073e859e987815Ed1505c2ACD",
        "0x808456652fdb597867f38412077A9182bf77359F",
    ];

    #[test]
    fn ids_titles_and_names_are_unique() {
        let ids: HashSet<_> = NETWORKS.iter().map(|n| n.chain).collect();
        let titles: HashSet<_> = NETWORKS.iter().map(|n| n.title).collect();
        assert_eq!((ids.len(), titles.len()), (NETWORKS.len(), NETWORKS.len()));
        let named: Vec<_> = NETWORKS.iter().filter_map(|n| n.v1_name).collect();
        assert_eq!(named.iter().collect::<HashSet<_>>().len(), named.len());
        let places: HashSet<_> = ASSETS.iter().map(|a| (a.chain, a.address)).collect();
        let symbols: HashSet<_> = ASSETS.iter().map(|a| (a.chain, a.symbol)).collect();
        assert_eq!((places.len(), symbols.len()), (ASSETS.len(), ASSETS.len()));
    }

    #[test]
    fn v1_names_are_those_of_the_list_of_names() {
        for network in &NETWORKS {
            assert_eq!(network.v1_name, v1_name(network.chain), "{}", network.title);
        }
    }

    #[test]
    fn addresses_have_the_checksum_that_they_are_printed_with() {
        for (asset, text) in ASSETS.iter().zip(CHECKSUMMED) {
            assert_eq!(
                Address::parse_checksummed(text, None).ok(),
                Some(asset.address),
                "{text}"
            );
        }
    }

    #[test]
    fn every_known_network_has_usdc_and_every_asset_a_known_network() {
        for network in &NETWORKS {
            assert!(asset_facts(network.chain).any(|asset| asset.symbol == "USDC"));
        }
        for asset in &ASSETS {
            assert!(network_facts(asset.chain).is_some());
        }
    }

    #[test]
    fn the_networks_served_so_far_are_described_as_before() {
        for chain in [8453, 84532].map(ChainId) {
            let (facts, served) = (network_facts(chain).unwrap(), known_network(chain).unwrap());
            assert_eq!(facts.title, served.title);
            assert_eq!(facts.block_interval_ms, served.block_interval_ms);
            let usdc = asset_facts(chain).next().unwrap().asset();
            assert_eq!(Some(usdc), known_assets(chain).next());
        }
    }
}
