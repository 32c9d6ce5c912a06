//! A delegation that pays (ERC-7710, PROTOCOL section 3.8), beside what every payment has.

use alloy_primitives::{Address, Bytes, keccak256};

use crate::{AuthorizationNonce, PayerSignature, UnixSeconds, Validity};

/// How a delegator authorized a transfer. The payment's authority is the delegation manager, its payer the delegator.
///
/// The chain keeps no nonce that teller could read: a redemption is known by the transaction that made it, and nothing
/// else. So a permission context names one payment, whatever it would allow beyond that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delegation {
    /// The permission context: for the manager and the delegator's code to judge.
    context: PayerSignature,
    /// Who redeems it: the delegate, as far as the delegation names one.
    pub delegate: Address,
}

/// The permission context is longer than [`Delegation::MAX_CONTEXT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the permission context is longer than {} bytes",
    Delegation::MAX_CONTEXT_BYTES
)]
pub struct ContextTooLong;

impl Delegation {
    /// The longest permission context that is passed on.
    pub const MAX_CONTEXT_BYTES: usize = 16 * 1024;

    /// A delegation with this permission context.
    ///
    /// # Errors
    /// [`ContextTooLong`].
    pub fn new(context: Bytes, delegate: Address) -> Result<Self, ContextTooLong> {
        if context.len() > Self::MAX_CONTEXT_BYTES {
            return Err(ContextTooLong);
        }
        Ok(Self {
            context: PayerSignature::Contract(context),
            delegate,
        })
    }

    /// When it is valid only the manager knows: always, as far as clocks reach.
    pub fn validity() -> Validity {
        Validity::between(UnixSeconds(0), UnixSeconds(i64::MAX.unsigned_abs()))
    }

    /// The permission context. It holds signatures.
    pub fn context(&self) -> Bytes {
        self.context.to_bytes()
    }

    /// What stands for a nonce: the Keccak-256 of the permission context.
    pub fn nonce(&self) -> AuthorizationNonce {
        AuthorizationNonce(keccak256(self.context.to_bytes()))
    }

    pub(crate) fn as_signature(&self) -> &PayerSignature {
        &self.context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_has_its_bound_and_is_not_printed() {
        let of = |length: usize| Delegation::new(vec![0xab; length].into(), Address::ZERO);
        let longest = of(Delegation::MAX_CONTEXT_BYTES).unwrap();
        assert_eq!(of(Delegation::MAX_CONTEXT_BYTES + 1), Err(ContextTooLong));
        assert!(!format!("{longest:?}").contains("ab"));
        assert_eq!(longest.nonce().0, keccak256(longest.context()));
        assert_ne!(longest.nonce(), of(1).unwrap().nonce());
    }
}
