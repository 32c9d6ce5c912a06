//! What nodes answer, read straight into teller's own types. Only the fields that teller uses are decoded.

use std::borrow::Cow;

use alloy_primitives::{Address, B256, Bytes, U64, U128, U256, Uint};
use op_alloy_rpc_types::L1BlockInfo;
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer};
use teller_domain::{BlockRef, UnixSeconds, Wei};

/// A sealed block, without its transactions' bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Height.
    pub number: u64,
    /// Hash of the header.
    pub hash: B256,
    /// Hash of the block before.
    pub parent: B256,
    /// The chain's time.
    pub timestamp: UnixSeconds,
    /// Wei for each unit of gas; zero before EIP-1559.
    pub base_fee: u128,
    /// The block gas limit.
    pub gas_limit: u64,
    /// Gas used by all its transactions.
    pub gas_used: u64,
    /// Hashes of its transactions in their order.
    pub transactions: Vec<B256>,
}

impl Block {
    /// The block's name.
    pub fn reference(&self) -> BlockRef {
        BlockRef {
            number: self.number,
            hash: self.hash,
        }
    }
}

/// What a mined transaction did and cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxReceipt {
    /// Hash of the transaction.
    pub transaction: B256,
    /// Who signed it.
    pub sender: Address,
    /// The block that holds it. Above the sealed head, perhaps without a hash (zero), if it was seen in a Flashblock.
    pub block: BlockRef,
    /// Whether it did not revert.
    pub succeeded: bool,
    /// Gas used.
    pub gas_used: u64,
    /// Gas used times effective price, plus the L1 data fee and the operator fee on an OP-stack network.
    pub cost: Wei,
    /// Its logs in their order.
    pub logs: Vec<Log>,
}

/// A log of a mined transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The contract that emitted it.
    pub address: Address,
    /// Up to four topics.
    pub topics: Vec<B256>,
    /// The rest.
    pub data: Bytes,
    /// Index in the block.
    pub index: u64,
    /// The transaction.
    pub transaction: B256,
    /// The block.
    pub block: BlockRef,
}

/// A number as nodes write it: `0x` and hex digits, at least one (execution APIs, "quantity"). What has no digit is no
/// number: an empty text is not 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Quantity<T>(pub(crate) T);

impl<'de, const BITS: usize, const LIMBS: usize> Deserialize<'de> for Quantity<Uint<BITS, LIMBS>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.strip_prefix("0x")
            .filter(|digits| !digits.is_empty())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| Uint::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &"0x and hex digits"))
    }
}

/// What a transaction calls. It may hold signatures, so it is not printed.
#[derive(Deserialize)]
pub(crate) struct WireCall {
    pub(crate) to: Option<Address>,
    pub(crate) input: Bytes,
}

impl std::fmt::Debug for WireCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WireCall")
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireBlock {
    number: Quantity<U64>,
    hash: B256,
    parent_hash: B256,
    timestamp: Quantity<U64>,
    base_fee_per_gas: Option<Quantity<U128>>,
    gas_limit: Quantity<U64>,
    gas_used: Quantity<U64>,
    #[serde(default)]
    transactions: Vec<B256>,
}

impl From<WireBlock> for Block {
    fn from(wire: WireBlock) -> Self {
        Self {
            number: wire.number.0.to(),
            hash: wire.hash,
            parent: wire.parent_hash,
            timestamp: UnixSeconds(wire.timestamp.0.to()),
            base_fee: wire.base_fee_per_gas.unwrap_or_default().0.to(),
            gas_limit: wire.gas_limit.0.to(),
            gas_used: wire.gas_used.0.to(),
            transactions: wire.transactions,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    /// Absent or zero in what is not sealed.
    block_number: Option<Quantity<U64>>,
    block_hash: Option<B256>,
    transaction_hash: B256,
    log_index: Quantity<U64>,
}

impl From<WireLog> for Log {
    fn from(wire: WireLog) -> Self {
        Self {
            address: wire.address,
            topics: wire.topics,
            data: wire.data,
            index: wire.log_index.0.to(),
            transaction: wire.transaction_hash,
            block: BlockRef {
                number: wire.block_number.unwrap_or_default().0.to(),
                hash: wire.block_hash.unwrap_or_default(),
            },
        }
    }
}

/// A receipt of any EVM chain, with the fees of the OP stack where there are any.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireReceipt {
    transaction_hash: B256,
    from: Address,
    block_number: Quantity<U64>,
    /// Zero, absent, or the hash of a block that is still being built, in the receipt of a Flashblock.
    block_hash: Option<B256>,
    status: Quantity<U64>,
    gas_used: Quantity<U64>,
    effective_gas_price: Quantity<U128>,
    logs: Vec<WireLog>,
    #[serde(flatten)]
    l1: L1BlockInfo,
}

impl WireReceipt {
    fn cost(&self) -> Wei {
        let gas_used = U256::from(self.gas_used.0);
        let execution = gas_used.saturating_mul(U256::from(self.effective_gas_price.0));
        let data = U256::from(self.l1.l1_fee.unwrap_or_default());
        // Isthmus: gasUsed * scalar / 10^6 + constant; Jovian: gasUsed * scalar * 100 + constant (OP-stack
        // specification, "Operator fee"). Only receipts since Jovian carry the footprint scalar.
        let scaled =
            gas_used.saturating_mul(U256::from(self.l1.operator_fee_scalar.unwrap_or_default()));
        let scaled = match self.l1.da_footprint_gas_scalar {
            Some(_) => scaled.saturating_mul(U256::from(100)),
            None => scaled
                .checked_div(U256::from(1_000_000))
                .unwrap_or_default(),
        };
        let constant = U256::from(self.l1.operator_fee_constant.unwrap_or_default());
        Wei([execution, data, scaled, constant]
            .into_iter()
            .fold(U256::ZERO, U256::saturating_add))
    }
}

impl From<WireReceipt> for TxReceipt {
    fn from(wire: WireReceipt) -> Self {
        let cost = wire.cost();
        let block = BlockRef {
            number: wire.block_number.0.to(),
            hash: wire.block_hash.unwrap_or_default(),
        };
        // What the logs say of their block is never more than what the receipt says of it.
        let log = |log| Log {
            block,
            ..Log::from(log)
        };
        Self {
            transaction: wire.transaction_hash,
            sender: wire.from,
            block,
            succeeded: wire.status.0 == U64::from(1),
            gas_used: wire.gas_used.0.to(),
            cost,
            logs: wire.logs.into_iter().map(log).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(extra: &str) -> TxReceipt {
        let (hash, sender) = (B256::repeat_byte(1), Address::repeat_byte(2));
        let text = format!(
            r#"{{"transactionHash":"{hash}","blockNumber":"0x10","blockHash":"{hash}","status":"0x1","type":"0x2",
            "gasUsed":"0xf4240","effectiveGasPrice":"0x2","logs":[],"logsBloom":"0x00","from":"{sender}"{extra}}}"#
        );
        serde_json::from_str::<WireReceipt>(&text).unwrap().into()
    }

    #[test]
    fn a_quantity_has_digits_and_fits() {
        let read = |text: &str| serde_json::from_str::<Quantity<U64>>(text).ok();
        for (text, number) in [
            (r#""0x0""#, 0),
            (r#""0x1f""#, 31),
            (r#""0x00FF""#, 255),
            (r#""0xffffffffffffffff""#, u64::MAX),
        ] {
            assert_eq!(read(text), Some(Quantity(U64::from(number))), "{text}");
        }
        for text in [
            r#""""#,
            r#""0x""#,
            r#""0""#,
            r#""12""#,
            r#""0x_1""#,
            r#""0x-1""#,
            r#""0x1g""#,
            r#""0x10000000000000000""#,
            "1",
            "null",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_receipt_costs_its_gas_and_on_the_op_stack_the_fees_beside_it() {
        assert_eq!(receipt("").cost, Wei::from(2_000_000));
        assert_eq!(receipt(r#","l1Fee":"0x5""#).cost, Wei::from(2_000_005));
        let isthmus = r#","l1Fee":"0x5","operatorFeeScalar":"0x3","operatorFeeConstant":"0x7""#;
        assert_eq!(receipt(isthmus).cost, Wei::from(2_000_005 + 3 + 7));
        let jovian = format!(r#"{isthmus},"daFootprintGasScalar":"0x190""#);
        assert_eq!(
            receipt(&jovian).cost,
            Wei::from(2_000_005 + 300_000_000 + 7)
        );
    }
}
