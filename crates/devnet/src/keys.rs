//! Keys that everybody can derive, so that output, logs and tests are the same on every machine.
//!
//! Key number `i` of a role is `keccak256("teller devnet <role> <i>")`, with `i` in decimal: the first
//! payer's key is `keccak256("teller devnet payer 0")`. They are public: never put value behind them.

use alloy_primitives::{Address, B256, keccak256};
use alloy_signer_local::PrivateKeySigner;

use crate::DevnetError;

/// The private key of payer `index`.
#[must_use]
pub fn payer(index: usize) -> B256 {
    keccak256(format!("teller devnet payer {index}"))
}

/// The private key of signer `index`.
#[must_use]
pub fn signer(index: usize) -> B256 {
    keccak256(format!("teller devnet signer {index}"))
}

pub(crate) fn addresses(role: &'static str, keys: &[B256]) -> Result<Vec<Address>, DevnetError> {
    keys.iter()
        .enumerate()
        .map(|(index, key)| {
            PrivateKeySigner::from_bytes(key)
                .map(|signer| signer.address())
                .map_err(|_| DevnetError::Key { role, index })
        })
        .collect()
}
