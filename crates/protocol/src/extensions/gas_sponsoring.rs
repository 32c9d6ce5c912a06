//! `eip2612GasSponsoring` and `erc20ApprovalGasSponsoring` (PROTOCOL sections 7.1 and 7.2).

use alloy_primitives::{Address, Bytes, U256};

use crate::field;
use crate::fields::{Fields, Found};

/// The longest signed transaction that is read.
pub const MAX_SIGNED_TRANSACTION_BYTES: usize = 1_024;

/// A signed EIP-2612 permit for Permit2.
#[derive(Clone, PartialEq, Eq)]
pub struct Eip2612GasSponsoring {
    /// `from`
    pub from: Address,
    /// `asset`
    pub asset: Address,
    /// `spender`
    pub spender: Address,
    /// `amount`
    pub amount: U256,
    /// `nonce`
    pub nonce: U256,
    /// `deadline`
    pub deadline: U256,
    /// `signature`, of any length.
    pub signature: Bytes,
}

/// Whoever holds the signature can use it.
impl std::fmt::Debug for Eip2612GasSponsoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eip2612GasSponsoring")
            .field("from", &self.from)
            .field("asset", &self.asset)
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

/// A signed `approve` transaction for Permit2.
#[derive(Clone, PartialEq, Eq)]
pub struct Erc20ApprovalGasSponsoring {
    /// `from`
    pub from: Address,
    /// `asset`
    pub asset: Address,
    /// `spender`
    pub spender: Address,
    /// `amount`
    pub amount: U256,
    /// `signedTransaction`
    pub signed_transaction: Bytes,
}

/// Whoever holds the transaction can send it.
impl std::fmt::Debug for Erc20ApprovalGasSponsoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Erc20ApprovalGasSponsoring")
            .field("from", &self.from)
            .field("asset", &self.asset)
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

impl Eip2612GasSponsoring {
    /// Absent unless every member is a text that is not empty.
    pub(super) fn read(extension: &Fields<'_, '_>) -> Found<Option<Self>> {
        let members = [
            "from",
            "asset",
            "spender",
            "amount",
            "nonce",
            "deadline",
            "signature",
            "version",
        ];
        let Some(info) = complete(extension, &members) else {
            return Ok(None);
        };
        info.hex("version", field::version)?;
        Ok(Some(Self {
            from: info.hex("from", field::address)?,
            asset: info.hex("asset", field::address)?,
            spender: info.hex("spender", field::address)?,
            amount: info.hex("amount", field::decimal)?,
            nonce: info.hex("nonce", field::decimal)?,
            deadline: info.hex("deadline", field::decimal)?,
            signature: info.hex("signature", field::signature)?,
        }))
    }
}

impl Erc20ApprovalGasSponsoring {
    /// Absent unless every member is a text that is not empty.
    pub(super) fn read(extension: &Fields<'_, '_>) -> Found<Option<Self>> {
        let members = [
            "from",
            "asset",
            "spender",
            "amount",
            "signedTransaction",
            "version",
        ];
        let Some(info) = complete(extension, &members) else {
            return Ok(None);
        };
        info.hex("version", field::version)?;
        Ok(Some(Self {
            from: info.hex("from", field::address)?,
            asset: info.hex("asset", field::address)?,
            spender: info.hex("spender", field::address)?,
            amount: info.hex("amount", field::decimal)?,
            signed_transaction: info.hex("signedTransaction", field::signed_transaction)?,
        }))
    }
}

/// `info`, if it is there with all its members; else the extension counts as absent, as the reference has it.
fn complete<'o, 'a>(extension: &Fields<'o, 'a>, members: &[&str]) -> Option<Fields<'o, 'a>> {
    let info = extension.optional_object("info").ok().flatten();
    info.filter(|info| members.iter().all(|key| info.lenient_text(key).is_some()))
}
