//! A Permit2 permit for one of the x402 proxies, beside what every payment has (PROTOCOL sections 3.6 and 4).

use alloy_primitives::{Address, B256, U256, address};

use crate::{AssetAmount, EcdsaSignature, PayerSignature, Scheme, TokenApproval};

/// Permit2, at the same address on every chain that has it.
pub const PERMIT2: Address = address!("000000000022D473030F116dDEE9F6B43aC78BA3");
/// `x402ExactPermit2Proxy`.
pub const EXACT_PROXY: Address = address!("402085c248EeA27D92E8b30b2C58ed07f9E20001");
/// `x402UptoPermit2Proxy`.
pub const UPTO_PROXY: Address = address!("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");

/// How a payer authorized a transfer by Permit2. Token, payee, nonce and times are the payment's: its authority is
/// [`PERMIT2`], and it is valid before the second behind the permit's deadline.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Permit2 {
    /// Which proxy may spend it, and how.
    pub terms: PermitTerms,
    /// The payer's signature. Permit2 knows no wallets that are not there yet.
    pub signature: PayerSignature,
    /// What lets Permit2 move the token, where the payer sent that along.
    pub allowance: Option<Box<Allowance>>,
}

/// What a payer sends along to let Permit2 move a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Allowance {
    /// `eip2612GasSponsoring`: the proxy shows it to the token in the call that settles the payment.
    Permit(TokenPermit),
    /// `erc20ApprovalGasSponsoring`: a transaction of the payer's own, which must be mined before that call.
    Approval(TokenApproval),
}

impl Permit2 {
    /// The EIP-2612 permit that came along, if one did.
    pub fn token_permit(&self) -> Option<&TokenPermit> {
        match self.allowance.as_deref() {
            Some(Allowance::Permit(permit)) => Some(permit),
            Some(Allowance::Approval(_)) | None => None,
        }
    }

    /// The signed approval that came along, if one did.
    pub fn token_approval(&self) -> Option<&TokenApproval> {
        match self.allowance.as_deref() {
            Some(Allowance::Approval(approval)) => Some(approval),
            Some(Allowance::Permit(_)) | None => None,
        }
    }
}

/// What a permit may be spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PermitTerms {
    /// `exact`: the whole permitted amount, which is the payment's value, whoever calls.
    Exact,
    /// `upto`: any amount up to the permitted one; the payment's value is what moves.
    Upto {
        /// The only account that may call the proxy.
        facilitator: Address,
        /// The most that may move.
        permitted: AssetAmount,
    },
}

impl PermitTerms {
    /// The proxy, which is the permit's spender.
    pub fn proxy(self) -> Address {
        match self {
            Self::Exact => EXACT_PROXY,
            Self::Upto { .. } => UPTO_PROXY,
        }
    }

    /// The scheme that it belongs to.
    pub fn scheme(self) -> Scheme {
        match self {
            Self::Exact => Scheme::Exact,
            Self::Upto { .. } => Scheme::Upto,
        }
    }
}

/// An EIP-2612 permit as it was sent (PROTOCOL section 7.1). Of a payment that was checked, owner, token, spender and
/// value are the payer, the asset, [`PERMIT2`] and the permitted amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenPermit {
    /// Whose allowance it is.
    pub owner: Address,
    /// The token.
    pub token: Address,
    /// Who may move it.
    pub spender: Address,
    /// How much.
    pub value: AssetAmount,
    /// The owner's counter in the token.
    pub nonce: U256,
    /// The last second at which the token takes it.
    pub deadline: U256,
    /// A plain account's: tokens take `v, r, s`.
    pub signature: EcdsaSignature,
}

impl TokenPermit {
    /// Length of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 64 + 65;

    /// What a checked payment does not say already: nonce, deadline, signature.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (nonce, rest) = bytes.split_at_mut(32);
        let (deadline, signature) = rest.split_at_mut(32);
        nonce.copy_from_slice(&self.nonce.to_be_bytes::<32>());
        deadline.copy_from_slice(&self.deadline.to_be_bytes::<32>());
        signature.copy_from_slice(&self.signature.to_bytes());
        bytes
    }

    /// The permit of a checked payment with these bytes; `None` if they have another length.
    pub fn of_checked(
        payer: Address,
        asset: Address,
        permitted: AssetAmount,
        bytes: &[u8],
    ) -> Option<Self> {
        let (nonce, rest) = bytes.split_at_checked(32)?;
        let (deadline, signature) = rest.split_at_checked(32)?;
        Some(Self {
            owner: payer,
            token: asset,
            spender: PERMIT2,
            value: permitted,
            nonce: B256::from_slice(nonce).into(),
            deadline: B256::from_slice(deadline).into(),
            signature: EcdsaSignature::from_bytes(signature)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_permit_survives_its_bytes() {
        let permit = TokenPermit {
            owner: Address::repeat_byte(1),
            token: Address::repeat_byte(2),
            spender: PERMIT2,
            value: AssetAmount::from(5),
            nonce: U256::from(6),
            deadline: U256::MAX,
            signature: EcdsaSignature {
                r: B256::repeat_byte(7),
                s: B256::repeat_byte(8),
                v: 27,
            },
        };
        let bytes = permit.to_bytes();
        let read = |bytes| TokenPermit::of_checked(permit.owner, permit.token, permit.value, bytes);
        assert_eq!(read(&bytes), Some(permit));
        assert_eq!(read(&bytes[..TokenPermit::BYTES - 1]), None);
        assert_eq!(read(&[]), None);
    }
}
