//! A payer's signed `approve(Permit2, ..)` transaction and what teller may give for its gas (PROTOCOL section 7.2).

use std::fmt;

use alloy_primitives::{Address, Bytes};

use crate::{PERMIT2, Wei};

/// A signed `approve` transaction as it was sent. Of a payment that was checked, owner, token and spender are the payer,
/// the asset and [`PERMIT2`]; what the transaction holds, the crate of the schemes reads.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenApproval {
    /// Whose tokens it is about.
    pub owner: Address,
    /// The token.
    pub token: Address,
    /// Who may move it.
    pub spender: Address,
    /// The transaction, EIP-2718 encoded. Whoever has it can send it.
    pub transaction: Bytes,
}

impl TokenApproval {
    /// The approval of a checked payment with this transaction.
    pub fn of_checked(payer: Address, asset: Address, transaction: Bytes) -> Self {
        Self {
            owner: payer,
            token: asset,
            spender: PERMIT2,
            transaction,
        }
    }
}

/// Without the transaction: it is a secret until it is sent.
impl fmt::Debug for TokenApproval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenApproval")
            .field("owner", &self.owner)
            .field("token", &self.token)
            .field("spender", &self.spender)
            .finish_non_exhaustive()
    }
}

/// What an operator gives payers who lack the gas of their approvals, on one network. Nobody gets more than his approval
/// can cost at most, nor anything twice for the same token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopUpPolicy {
    /// The most for one payer and token; zero to send approvals only of payers who have the gas.
    pub most: Wei,
    /// The most in a day, UTC.
    pub day: Wei,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approvals_transaction_is_never_printed() {
        let owner = Address::repeat_byte(1);
        let transaction = Bytes::from_static(&[0xab; 40]);
        let approval = TokenApproval::of_checked(owner, Address::repeat_byte(2), transaction);
        assert!(!format!("{approval:?}").contains("abab"));
    }
}
