//! A payment as its buyer signed it.

use std::fmt;

use alloy_primitives::{Address, B256, Keccak256};
use serde::{Deserialize, Serialize};

use crate::{AssetAmount, ChainId, UnixSeconds};

/// The x402 protocol version that a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum X402Version {
    /// Network names, `maxAmountRequired`.
    V1,
    /// CAIP-2 networks, `amount`.
    V2,
}

impl X402Version {
    /// 1 or 2.
    pub fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The version with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// The payment scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Exactly the required amount, once.
    Exact,
}

impl Scheme {
    /// The scheme's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
        }
    }
}

/// The 32 random bytes of an authorization (not an [`AccountNonce`](crate::AccountNonce)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuthorizationNonce(pub B256);

/// What can be used once: the key of a reservation, of a ledger row and of a duplicate.
///
/// The authority is the contract whose nonces these are: the token for EIP-3009, Permit2 for Permit2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AuthorizationKey {
    /// The network.
    pub chain: ChainId,
    /// The contract that spends the nonce.
    pub authority: Address,
    /// Whose money it is.
    pub payer: Address,
    /// The authorization's nonce.
    pub nonce: AuthorizationNonce,
}

/// A secp256k1 signature in the form that token contracts take: low `s`, `v` 27 or 28.
///
/// Whoever holds one can move the payer's money to the payee, so it is never printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EcdsaSignature {
    /// `r`
    pub r: B256,
    /// `s`, in the lower half of the group order (EIP-2).
    pub s: B256,
    /// 27 or 28.
    pub v: u8,
}

impl EcdsaSignature {
    /// `r`, `s`, `v`: 65 bytes.
    pub fn to_bytes(self) -> [u8; 65] {
        let mut bytes = [0; 65];
        let (r, rest) = bytes.split_at_mut(32);
        let (s, v) = rest.split_at_mut(32);
        r.copy_from_slice(self.r.as_slice());
        s.copy_from_slice(self.s.as_slice());
        v.copy_from_slice(&[self.v]);
        bytes
    }

    /// The inverse of [`to_bytes`](Self::to_bytes); `None` for any other length. Checks nothing else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (r, rest) = bytes.split_at_checked(32)?;
        let (s, v) = rest.split_at_checked(32)?;
        match v {
            [v] => Some(Self {
                r: B256::from_slice(r),
                s: B256::from_slice(s),
                v: *v,
            }),
            _ => None,
        }
    }
}

impl fmt::Debug for EcdsaSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EcdsaSignature(..)")
    }
}

/// How the payer authorized the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Authorization {
    /// EIP-3009 `transferWithAuthorization`, signed by a plain account.
    Eip3009 {
        /// The payer's signature over the typed data.
        signature: EcdsaSignature,
    },
}

/// A payment: everything that was signed, and the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Payment {
    /// Network, authority, payer and nonce.
    pub key: AuthorizationKey,
    /// The token that moves.
    pub asset: Address,
    /// Who receives it.
    pub payee: Address,
    /// How much moves, in atomic units.
    pub value: AssetAmount,
    /// The authorization is void until after this moment.
    pub valid_after: UnixSeconds,
    /// The authorization is void from this moment on.
    pub valid_before: UnixSeconds,
    /// The signature and its kind.
    pub authorization: Authorization,
}

/// Names one payment with its signature, whatever JSON it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaymentDigest(pub B256);

impl Payment {
    /// Keccak-256 over the signed fields, the signature, the network and the asset, each at its fixed width.
    pub fn digest(&self) -> PaymentDigest {
        let mut hasher = Keccak256::new();
        hasher.update(self.key.chain.0.to_be_bytes());
        hasher.update(self.key.authority);
        hasher.update(self.key.payer);
        hasher.update(self.key.nonce.0);
        hasher.update(self.asset);
        hasher.update(self.payee);
        hasher.update(self.value.0.to_be_bytes::<32>());
        hasher.update(self.valid_after.0.to_be_bytes());
        hasher.update(self.valid_before.0.to_be_bytes());
        match self.authorization {
            Authorization::Eip3009 { signature } => {
                hasher.update([1]);
                hasher.update(signature.to_bytes());
            }
        }
        PaymentDigest(hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_survives_its_bytes_and_never_prints() {
        let signature = EcdsaSignature {
            r: B256::repeat_byte(0xab),
            s: B256::repeat_byte(0x12),
            v: 28,
        };
        assert_eq!(
            EcdsaSignature::from_bytes(&signature.to_bytes()),
            Some(signature)
        );
        assert_eq!(EcdsaSignature::from_bytes(&[0; 64]), None);
        assert_eq!(EcdsaSignature::from_bytes(&[0; 66]), None);
        assert!(!format!("{signature:?}").contains("ab"));
    }
}
