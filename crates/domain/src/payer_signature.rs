//! A payer's signature of any kind that x402 knows on EVM chains.

use std::fmt;

use alloy_primitives::{Address, Bytes, Keccak256};

use crate::EcdsaSignature;

/// How a payer signed (PROTOCOL section 3.4). Never printed: whoever holds one can move the payer's money.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum PayerSignature {
    /// A plain account's: no code at the payer.
    Ecdsa(EcdsaSignature),
    /// For the payer's code to judge (ERC-1271): a contract, or an account that delegates (EIP-7702).
    Contract(Bytes),
    /// Of a contract that is not there yet (ERC-6492).
    Counterfactual {
        /// Whom to call to make it.
        factory: Address,
        /// With what.
        factory_calldata: Bytes,
        /// What the contract will judge.
        signature: Bytes,
    },
}

impl PayerSignature {
    /// The signature inside a plain account's.
    pub fn ecdsa(&self) -> Option<EcdsaSignature> {
        match self {
            Self::Ecdsa(signature) => Some(*signature),
            Self::Contract(_) | Self::Counterfactual { .. } => None,
        }
    }

    /// Whether code has to judge it.
    pub fn is_for_code(&self) -> bool {
        self.ecdsa().is_none()
    }

    /// The same bytes, for the payer's code to judge: there is code, whatever the signature looks like.
    pub fn judged_by_code(&self) -> Self {
        Self::Contract(self.to_bytes())
    }

    /// Whether the bytes have the length of a plain account's signature.
    pub(crate) fn is_standard(&self) -> bool {
        match self {
            Self::Ecdsa(_) => true,
            Self::Contract(bytes) => bytes.len() == 65,
            Self::Counterfactual { signature, .. } => signature.len() == 65,
        }
    }

    /// Writes what tells this signature from every other into a hash. Who judges it, and how the payer's contract is
    /// made first, is no part of it: that changes between two requests of one payment.
    pub(crate) fn hash_into(&self, hasher: &mut Keccak256) {
        let bytes = self.to_bytes();
        if !self.is_standard() {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            hasher.update(length.to_be_bytes());
        }
        hasher.update(bytes);
    }

    /// The bytes that a token or Permit2 is given.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Ecdsa(signature) => Bytes::copy_from_slice(&signature.to_bytes()),
            Self::Contract(signature) | Self::Counterfactual { signature, .. } => signature.clone(),
        }
    }
}

impl From<EcdsaSignature> for PayerSignature {
    fn from(signature: EcdsaSignature) -> Self {
        Self::Ecdsa(signature)
    }
}

impl fmt::Debug for PayerSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ecdsa(_) => "Ecdsa(..)",
            Self::Contract(_) => "Contract(..)",
            Self::Counterfactual { .. } => "Counterfactual(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;

    #[test]
    fn what_a_token_is_given_is_the_inner_signature_and_nothing_is_printed() {
        let inner = Bytes::from_static(&[0xab; 65]);
        let counterfactual = PayerSignature::Counterfactual {
            factory: Address::repeat_byte(0xab),
            factory_calldata: Bytes::from_static(&[0xab]),
            signature: inner.clone(),
        };
        assert_eq!(counterfactual.to_bytes(), inner);
        let ecdsa = PayerSignature::Ecdsa(EcdsaSignature {
            r: B256::repeat_byte(0xab),
            s: B256::repeat_byte(0xab),
            v: 27,
        });
        assert_eq!(ecdsa.to_bytes().len(), 65);
        for signature in [counterfactual, ecdsa, PayerSignature::Contract(inner)] {
            assert!(!format!("{signature:?}").contains("ab"));
        }
    }
}
