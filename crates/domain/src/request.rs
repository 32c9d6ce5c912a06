//! What a seller's server asks teller to verify or settle, after the wire form has been read.

use alloy_primitives::{Address, Bytes};

use crate::{AssetAmount, IdempotencyKey, Payment, Scheme, TenantId, X402Version};

/// `extra.name` and `extra.version`: the EIP-712 domain that the seller believes the asset has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eip712Name {
    /// `extra.name`
    pub name: String,
    /// `extra.version`
    pub version: String,
}

/// A payment and what it is to satisfy. What was signed is in `payment`; what the seller demands stands beside it
/// and is never copied from the payment.
#[derive(Debug, Clone)]
pub struct PaymentRequest {
    /// Whose API key asked.
    pub tenant: TenantId,
    /// The version of the wire form: some reasons differ.
    pub version: X402Version,
    /// The scheme.
    pub scheme: Scheme,
    /// What the payer signed. `payment.key.chain` is the required network.
    pub payment: Payment,
    /// What must move. An EIP-3009 authorization names no token of its own and gets this one.
    pub asset: Address,
    /// Who must receive.
    pub pay_to: Address,
    /// How much must move; of an `upto` payment that is verified, how much may.
    pub amount: AssetAmount,
    /// How long the seller waits for a settlement.
    pub max_timeout_seconds: u64,
    /// The domain that the seller named, if it named one.
    pub domain: Option<Eip712Name>,
    /// What is to stand behind the calldata of the call that settles it; contracts ignore it.
    pub attribution: Bytes,
    /// The seller's `Idempotency-Key`.
    pub idempotency_key: Option<IdempotencyKey>,
}
