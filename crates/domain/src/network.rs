//! EVM networks, named by their chain id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An EVM network. Its text form is CAIP-2: `eip155:<chain id>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub u64);

/// A text that is not `eip155:` and a chain id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a CAIP-2 id of an EVM network (eip155:<chain id>)")]
pub struct ChainIdError;

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eip155:{}", self.0)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChainId {
    type Err = ChainIdError;

    fn from_str(text: &str) -> Result<Self, ChainIdError> {
        let digits = text.strip_prefix("eip155:").ok_or(ChainIdError)?;
        let canonical = !digits.is_empty()
            && !digits.starts_with('0')
            && digits.bytes().all(|b| b.is_ascii_digit());
        if !canonical {
            return Err(ChainIdError);
        }
        digits.parse().map(Self).map_err(|_| ChainIdError)
    }
}

impl Serialize for ChainId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What teller knows of a network by its id alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownNetwork {
    /// The network.
    pub chain: ChainId,
    /// What people call it.
    pub title: &'static str,
    /// The usual time between sealed blocks.
    pub block_interval_ms: u64,
}

const KNOWN_NETWORKS: [KnownNetwork; 2] = [
    KnownNetwork {
        chain: ChainId(8453),
        title: "Base",
        block_interval_ms: 2_000,
    },
    KnownNetwork {
        chain: ChainId(84532),
        title: "Base Sepolia",
        block_interval_ms: 2_000,
    },
];

/// The network with this id, if teller knows it without configuration.
pub fn known_network(chain: ChainId) -> Option<&'static KnownNetwork> {
    KNOWN_NETWORKS.iter().find(|network| network.chain == chain)
}

/// x402 v1 network names (PROTOCOL section 1.5: the TypeScript list and what x402-rs adds).
const V1_NAMES: [(&str, u64); 28] = [
    ("ethereum", 1),
    ("sepolia", 11_155_111),
    ("base", 8453),
    ("base-sepolia", 84532),
    ("avalanche", 43114),
    ("avalanche-fuji", 43113),
    ("polygon", 137),
    ("polygon-amoy", 80002),
    ("abstract", 2741),
    ("abstract-testnet", 11124),
    ("iotex", 4689),
    ("sei", 1329),
    ("sei-testnet", 1328),
    ("peaq", 3338),
    ("story", 1514),
    ("educhain", 41923),
    ("skale-base-sepolia", 324_705_682),
    ("megaeth", 4326),
    ("monad", 143),
    ("stable", 988),
    ("stable-testnet", 2201),
    ("celo", 42220),
    ("flare", 14),
    ("xdc", 50),
    ("xrpl-evm", 1_440_000),
    ("celo-sepolia", 11_142_220),
    ("radius", 723_487),
    ("radius-testnet", 72_344),
];

/// The x402 v1 name of a network; `None` where v1 has none.
pub fn v1_name(chain: ChainId) -> Option<&'static str> {
    V1_NAMES
        .iter()
        .find(|(_, id)| *id == chain.0)
        .map(|(name, _)| *name)
}

/// The network behind an x402 v1 name. Names are case sensitive.
pub fn v1_chain(name: &str) -> Option<ChainId> {
    V1_NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, id)| ChainId(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caip2_ids_read_and_print_the_same() {
        assert_eq!("eip155:84532".parse(), Ok(ChainId(84532)));
        assert_eq!(ChainId(8453).to_string(), "eip155:8453");
        for text in [
            "eip155:",
            "eip155:0x1",
            "eip155:01",
            "eip155:-1",
            "base",
            "solana:1",
            "eip155:99999999999999999999",
        ] {
            assert_eq!(text.parse::<ChainId>(), Err(ChainIdError), "{text}");
        }
    }

    #[test]
    fn v1_names_map_both_ways() {
        for (name, id) in V1_NAMES {
            assert_eq!(v1_chain(name), Some(ChainId(id)));
            assert_eq!(v1_name(ChainId(id)), Some(name));
        }
        assert_eq!(v1_chain("Base"), None);
    }
}
