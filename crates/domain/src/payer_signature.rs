//! A payer's signature of any kind that x402 knows on EVM chains.

use std::fmt;

use alloy_primitives::{Address, Bytes};

use crate::{EcdsaSignature, SignatureForm};

/// How a payer signed (PROTOCOL section 3.4). Never printed: whoever holds one can move the payer's money.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum PayerSignature {
    /// A plain account's: no code at the payer.
    Ecdsa {
        /// In the form that token contracts take.
        signature: EcdsaSignature,
        /// In which form it was sent: if there turns out to be code, it is asked about those very bytes.
        form: SignatureForm,
    },
    /// For the payer's code to judge (ERC-1271): a contract, or an account that delegates (EIP-7702).
    Contract(Bytes),
    /// Of a contract that is not there yet (ERC-6492).
    Counterfactual(Box<Counterfactual>),
}

/// A signature of a contract that is not there yet.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Counterfactual {
    /// Whom to call to make it.
    pub factory: Address,
    /// With what.
    pub factory_calldata: Bytes,
    /// What the contract will judge.
    pub signature: Bytes,
}

impl PayerSignature {
    /// A plain account's if the bytes can be one's, else a contract's. Bytes that look like a plain account's may be for
    /// code to judge all the same: that is known once the payer's code was looked at.
    pub fn unwrapped(bytes: &[u8]) -> Self {
        match EcdsaSignature::read(bytes) {
            Ok((signature, form)) if !names_an_account(bytes) => Self::Ecdsa { signature, form },
            Ok(_) | Err(_) => Self::Contract(Bytes::copy_from_slice(bytes)),
        }
    }

    /// The signature inside a plain account's.
    pub fn ecdsa(&self) -> Option<EcdsaSignature> {
        match self {
            Self::Ecdsa { signature, .. } => Some(*signature),
            Self::Contract(_) | Self::Counterfactual(_) => None,
        }
    }

    /// Whether code has to judge it.
    pub fn is_for_code(&self) -> bool {
        self.ecdsa().is_none()
    }

    /// The very bytes that were sent, for the payer's code to judge: there is code, whatever the signature looks like.
    pub fn judged_by_code(&self) -> Self {
        Self::Contract(match self {
            Self::Ecdsa { signature, form } => signature.in_form(*form),
            Self::Contract(_) | Self::Counterfactual(_) => self.to_bytes(),
        })
    }

    /// The bytes that tell this signature from every other. Who judges it, how the payer's contract is made first, and
    /// in which form a plain account's was sent, is no part of it: that changes between two requests of one payment, or
    /// is not known yet.
    pub(crate) fn identity(&self) -> Bytes {
        match self {
            Self::Ecdsa { .. } => self.to_bytes(),
            Self::Contract(signature) => Self::unwrapped(signature).to_bytes(),
            Self::Counterfactual(new) => Self::unwrapped(&new.signature).to_bytes(),
        }
    }

    /// The bytes that a token or Permit2 is given.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Ecdsa { signature, .. } => Bytes::copy_from_slice(&signature.to_bytes()),
            Self::Contract(signature) => signature.clone(),
            Self::Counterfactual(new) => new.signature.clone(),
        }
    }
}

/// Some wallets put an account where `r` stands; no key makes such an `r`.
fn names_an_account(bytes: &[u8]) -> bool {
    bytes.iter().take(12).all(|byte| *byte == 0)
}

impl From<EcdsaSignature> for PayerSignature {
    fn from(signature: EcdsaSignature) -> Self {
        Self::Ecdsa {
            signature,
            form: SignatureForm::Standard,
        }
    }
}

impl From<Counterfactual> for PayerSignature {
    fn from(signature: Counterfactual) -> Self {
        Self::Counterfactual(Box::new(signature))
    }
}

impl fmt::Debug for PayerSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ecdsa { .. } => "Ecdsa(..)",
            Self::Contract(_) => "Contract(..)",
            Self::Counterfactual(_) => "Counterfactual(..)",
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
        let counterfactual = PayerSignature::from(Counterfactual {
            factory: Address::repeat_byte(0xab),
            factory_calldata: Bytes::from_static(&[0xab]),
            signature: inner.clone(),
        });
        assert_eq!(counterfactual.to_bytes(), inner);
        let ecdsa = PayerSignature::from(EcdsaSignature {
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
