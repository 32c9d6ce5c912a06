//! Assets: the tokens that an operator lets teller settle.

use alloy_primitives::{Address, address};
use serde::{Deserialize, Serialize};

use crate::ChainId;

/// A token on a network with the EIP-712 domain that its authorizations are signed under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asset {
    /// The network that the token lives on.
    pub chain: ChainId,
    /// The token contract, `verifyingContract` of the domain.
    pub address: Address,
    /// `name` of the domain.
    pub name: String,
    /// `version` of the domain.
    pub version: String,
    /// Digits after the point when people read an amount.
    pub decimals: u8,
}

/// An asset that needs no configuration.
#[derive(Debug, Clone, Copy)]
pub struct KnownAsset {
    chain: ChainId,
    address: Address,
    name: &'static str,
    version: &'static str,
    decimals: u8,
}

/// Circle's native USDC (PROTOCOL section 10).
const KNOWN_ASSETS: [KnownAsset; 2] = [
    KnownAsset {
        chain: ChainId(8453),
        address: address!("833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
        name: "USD Coin",
        version: "2",
        decimals: 6,
    },
    KnownAsset {
        chain: ChainId(84532),
        address: address!("036CbD53842c5426634e7929541eC2318f3dCF7e"),
        name: "USDC",
        version: "2",
        decimals: 6,
    },
];

/// The assets of a network that teller knows by its id alone.
pub fn known_assets(chain: ChainId) -> impl Iterator<Item = Asset> {
    KNOWN_ASSETS
        .iter()
        .filter(move |known| known.chain == chain)
        .map(|known| Asset {
            chain: known.chain,
            address: known.address,
            name: known.name.to_owned(),
            version: known.version.to_owned(),
            decimals: known.decimals,
        })
}
