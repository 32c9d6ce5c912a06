//! What nodes answer, read straight into teller's own types. Only the fields that teller uses are decoded.

use std::borrow::Cow;

use alloy_primitives::{Address, B256, Bytes, U64, U128, U256, Uint};
use serde::de::{Error, IgnoredAny, Unexpected};
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

/// A number as nodes write it: `0x` and hex digits, at least one (execution APIs, "quantity"), or a JSON number that is
/// whole and not negative. What has no digit is no number: an empty text is not 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Quantity<T>(pub(crate) T);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written<'a> {
    Number(u64),
    Text(#[serde(borrow)] Cow<'a, str>),
}

impl<'de, const BITS: usize, const LIMBS: usize> Deserialize<'de> for Quantity<Uint<BITS, LIMBS>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => {
                let number = Uint::try_from(number).map_err(D::Error::custom)?;
                return Ok(Self(number));
            }
            Written::Text(text) => text,
        };
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

/// A log of a range of blocks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireLog {
    #[serde(flatten)]
    written: WrittenLog,
    block_number: Quantity<U64>,
    block_hash: B256,
    transaction_hash: B256,
}

/// What a log says wherever it stands. In a receipt, the receipt says the rest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    log_index: Quantity<U64>,
}

impl WrittenLog {
    fn of(self, transaction: B256, block: BlockRef) -> Log {
        Log {
            address: self.address,
            topics: self.topics,
            data: self.data,
            index: self.log_index.0.to(),
            transaction,
            block,
        }
    }
}

impl From<WireLog> for Log {
    fn from(wire: WireLog) -> Self {
        let block = BlockRef {
            number: wire.block_number.0.to(),
            hash: wire.block_hash,
        };
        wire.written.of(wire.transaction_hash, block)
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
    /// Absent at some nodes: then the transaction says it.
    effective_gas_price: Option<Quantity<U128>>,
    logs: Vec<WrittenLog>,
    l1_fee: Option<Quantity<U128>>,
    operator_fee_scalar: Option<Quantity<U128>>,
    operator_fee_constant: Option<Quantity<U128>>,
    /// Only whether it is there counts.
    da_footprint_gas_scalar: Option<IgnoredAny>,
}

/// What a mined transaction says of the price that it paid.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WirePrice {
    /// The effective one, of a mined transaction of any type (execution APIs, "Transaction information").
    pub(crate) gas_price: Option<Quantity<U128>>,
    block_hash: Option<B256>,
}

impl WirePrice {
    /// The price, if the transaction is mined. One that waits names the most that it may pay.
    pub(crate) fn paid(&self) -> Option<u128> {
        self.block_hash?;
        self.gas_price.map(|price| price.0.to())
    }
}

impl WireReceipt {
    pub(crate) fn transaction(&self) -> B256 {
        self.transaction_hash
    }

    /// Wei for each unit of gas, where the receipt says it.
    pub(crate) fn price(&self) -> Option<u128> {
        self.effective_gas_price.map(|price| price.0.to())
    }

    /// The receipt of a transaction that paid this price.
    pub(crate) fn at(self, price: u128) -> TxReceipt {
        let block = BlockRef {
            number: self.block_number.0.to(),
            hash: self.block_hash.unwrap_or_default(),
        };
        TxReceipt {
            transaction: self.transaction_hash,
            sender: self.from,
            block,
            succeeded: self.status.0 == U64::from(1),
            gas_used: self.gas_used.0.to(),
            cost: self.cost(price),
            logs: (self.logs.into_iter())
                .map(|log| log.of(self.transaction_hash, block))
                .collect(),
        }
    }

    fn cost(&self, price: u128) -> Wei {
        let number = |fee: Option<Quantity<U128>>| U256::from(fee.unwrap_or_default().0);
        let gas_used = U256::from(self.gas_used.0);
        let execution = gas_used.saturating_mul(U256::from(price));
        let data = number(self.l1_fee);
        // Isthmus: gasUsed * scalar / 10^6 + constant; Jovian: gasUsed * scalar * 100 + constant (OP-stack
        // specification, "Operator fee"). Only receipts since Jovian carry the footprint scalar.
        let scaled = gas_used.saturating_mul(number(self.operator_fee_scalar));
        let scaled = match self.da_footprint_gas_scalar {
            Some(_) => scaled.saturating_mul(U256::from(100)),
            None => scaled
                .checked_div(U256::from(1_000_000))
                .unwrap_or_default(),
        };
        let constant = number(self.operator_fee_constant);
        Wei([execution, data, scaled, constant]
            .into_iter()
            .fold(U256::ZERO, U256::saturating_add))
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
        let receipt = serde_json::from_str::<WireReceipt>(&text).unwrap();
        let price = receipt.price().unwrap_or(2);
        receipt.at(price)
    }

    #[test]
    fn a_quantity_has_digits_and_fits() {
        let read = |text: &str| serde_json::from_str::<Quantity<U64>>(text).ok();
        for (text, number) in [
            (r#""0x0""#, 0),
            (r#""0x1f""#, 31),
            (r#""0x00FF""#, 255),
            (r#""0xffffffffffffffff""#, u64::MAX),
            ("12", 12),
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
            "-1",
            "1.5",
            "18446744073709551616",
            "true",
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

    #[test]
    fn what_is_not_used_of_a_receipt_is_not_looked_at() {
        let plain = receipt("");
        for extra in [
            r#","l1FeeScalar":"0x0""#,
            r#","l1FeeScalar":0.684"#,
            r#","l1FeeScalar":"0.684","l1GasPrice":"?","l1GasUsed":null"#,
            r#","l1Fee":null,"operatorFeeScalar":null,"daFootprintGasScalar":null"#,
            r#","l1BlobBaseFee":"","depositNonce":[],"contractAddress":"","to":7,"root":1"#,
        ] {
            assert_eq!(receipt(extra), plain, "{extra}");
        }
        assert_eq!(receipt(r#","l1Fee":5"#).cost, Wei::from(2_000_005));
    }

    #[test]
    fn what_is_used_of_a_receipt_is_never_guessed() {
        let hash = B256::repeat_byte(1);
        let read = |from: &str, to: &str| {
            let text = format!(
                r#"{{"transactionHash":"{hash}","blockNumber":"0x10","blockHash":"{hash}","status":"0x1",
                "gasUsed":"0x5208","from":"0x0202020202020202020202020202020202020202","logs":[]}}"#
            );
            let text = text.replace(from, to);
            serde_json::from_str::<WireReceipt>(&text)
        };
        assert_eq!(read("", "").unwrap().price(), None);
        for (from, to) in [
            (r#""status":"0x1","#, ""),
            (r#""status":"0x1""#, r#""status":null"#),
            (r#""status":"0x1""#, r#""status":true"#),
            (r#""gasUsed":"0x5208","#, ""),
            (r#""logs":[]"#, r#""logs":null"#),
            (r#""logs":[]"#, r#""l1Fee":"five","logs":[]"#),
        ] {
            assert!(read(from, to).is_err(), "{to}");
        }
    }
}
