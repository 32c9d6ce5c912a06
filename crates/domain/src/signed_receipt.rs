//! A receipt of one settled payment that can be checked without teller and without a chain: EIP-712 typed data of
//! teller's own, with the signature of a receipt key. What it says is in docs/receipts.md. Signing and recovering live
//! in `teller-schemes`.

use alloy_primitives::{Address, B256, Bytes, Keccak256, U256, keccak256};
use serde::{Deserialize, Serialize};

use crate::{
    AssetAmount, AuthorizationNonce, EcdsaSignature, Level, Receipt, Settlement, SettlementId,
    SettlementState, UnixMillis,
};

/// `name` of the EIP-712 domain.
const DOMAIN_NAME: &str = "teller receipt";
/// `version` of the EIP-712 domain: another one when the fields of a receipt change.
const DOMAIN_VERSION: &str = "1";
/// The domain names no chain: one receipt key may sign for many, and the receipt says which.
const DOMAIN_TYPE: &str = "EIP712Domain(string name,string version)";
/// The EIP-712 primary type.
const PRIMARY_TYPE: &str = "Receipt";
/// Its members, in their order.
const MEMBERS: [(&str, &str); 15] = [
    ("settlementId", "string"),
    ("chainId", "uint256"),
    ("authority", "address"),
    ("asset", "address"),
    ("payer", "address"),
    ("payee", "address"),
    ("value", "uint256"),
    ("nonce", "bytes32"),
    ("transactionHash", "bytes32"),
    ("blockNumber", "uint64"),
    ("blockHash", "bytes32"),
    ("logIndex", "uint64"),
    ("amount", "uint256"),
    ("level", "string"),
    ("settledAtMs", "uint64"),
];

/// What a receipt says: which payment was settled, where on the chain, and how sure the chain was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettlementReceipt {
    /// The settlement's name.
    pub settlement_id: SettlementId,
    /// The EVM chain.
    #[serde(with = "decimal")]
    pub chain_id: u64,
    /// The contract whose nonce was spent.
    pub authority: Address,
    /// The token that moved.
    pub asset: Address,
    /// Whose money it was.
    pub payer: Address,
    /// Who received it.
    pub payee: Address,
    /// What the payer signed for, in atomic units.
    pub value: AssetAmount,
    /// The authorization's nonce.
    pub nonce: AuthorizationNonce,
    /// The transaction that moved the money, of teller or of somebody else.
    pub transaction_hash: B256,
    /// Height of its block.
    #[serde(with = "decimal")]
    pub block_number: u64,
    /// Hash of its block.
    pub block_hash: B256,
    /// Index in the block of the `Transfer` log of this payment: the transaction may carry hundreds.
    #[serde(with = "decimal")]
    pub log_index: u64,
    /// What moved, in atomic units.
    pub amount: AssetAmount,
    /// How sure the chain was when the receipt was signed.
    pub level: Level,
    /// When the ledger noted the settlement.
    #[serde(with = "decimal")]
    pub settled_at_ms: u64,
}

impl SettlementReceipt {
    /// The receipt of a settlement that was settled at this moment; `None` unless a sealed block shows that it is. None
    /// shows a payment of which nothing was charged.
    pub fn of(settlement: &Settlement, settled_at: UnixMillis) -> Option<Self> {
        let (SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt)) =
            &settlement.state
        else {
            return None;
        };
        if *receipt == Receipt::NOTHING {
            return None;
        }
        let payment = &settlement.payment;
        Some(Self {
            settlement_id: settlement.id,
            chain_id: payment.key.chain.0,
            authority: payment.key.authority,
            asset: payment.asset,
            payer: payment.key.payer,
            payee: payment.payee,
            value: payment.permitted(),
            nonce: payment.key.nonce,
            transaction_hash: receipt.transaction,
            block_number: receipt.block.number,
            block_hash: receipt.block.hash,
            log_index: receipt.log_index,
            amount: payment.value,
            level: receipt.level,
            settled_at_ms: settled_at.0,
        })
    }

    /// The EIP-712 digest that the receipt key signs.
    pub fn digest(&self) -> B256 {
        let mut message = Keccak256::new();
        message.update(keccak256(type_string()));
        message.update(keccak256(self.settlement_id.to_string()));
        message.update(word(self.chain_id));
        for address in [self.authority, self.asset, self.payer, self.payee] {
            message.update(address.into_word());
        }
        message.update(self.value.0.to_be_bytes::<32>());
        message.update(self.nonce.0);
        message.update(self.transaction_hash);
        message.update(word(self.block_number));
        message.update(self.block_hash);
        message.update(word(self.log_index));
        message.update(self.amount.0.to_be_bytes::<32>());
        message.update(keccak256(self.level.as_str()));
        message.update(word(self.settled_at_ms));
        let mut digest = Keccak256::new();
        digest.update([0x19, 0x01]);
        digest.update(separator());
        digest.update(message.finalize());
        digest.finalize()
    }
}

fn word(number: u64) -> [u8; 32] {
    U256::from(number).to_be_bytes()
}

/// `Receipt(string settlementId,…)`
fn type_string() -> String {
    let members: Vec<String> = MEMBERS
        .iter()
        .map(|(name, kind)| format!("{kind} {name}"))
        .collect();
    format!("{PRIMARY_TYPE}({})", members.join(","))
}

fn separator() -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(keccak256(DOMAIN_TYPE));
    hasher.update(keccak256(DOMAIN_NAME));
    hasher.update(keccak256(DOMAIN_VERSION));
    hasher.finalize()
}

/// A receipt with its signature, as EIP-712 typed data: any library for typed data can check it as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedReceipt {
    domain: TypedDomain,
    types: TypedTypes,
    primary_type: String,
    message: SettlementReceipt,
    signer: Address,
    signature: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedDomain {
    name: String,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct TypedTypes {
    receipt: Vec<TypedMember>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedMember {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

impl TypedDomain {
    fn own() -> Self {
        Self {
            name: DOMAIN_NAME.to_owned(),
            version: DOMAIN_VERSION.to_owned(),
        }
    }
}

impl TypedTypes {
    fn own() -> Self {
        let member = |(name, kind): (&str, &str)| TypedMember {
            name: name.to_owned(),
            kind: kind.to_owned(),
        };
        Self {
            receipt: MEMBERS.into_iter().map(member).collect(),
        }
    }
}

/// Why a document is no receipt of teller's, whoever signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignedReceiptError {
    /// Another domain: a signature over something else.
    #[error("its `domain` is not that of teller's receipts, version {DOMAIN_VERSION}")]
    Domain,
    /// Other types or another primary type.
    #[error("its `types` or `primaryType` are not those of teller's receipts")]
    Types,
    /// Not 65 bytes.
    #[error("its `signature` does not have 65 bytes")]
    Signature,
}

impl SignedReceipt {
    /// This receipt with the signature that `signer` made over its [`SettlementReceipt::digest`].
    pub fn new(receipt: SettlementReceipt, signer: Address, signature: EcdsaSignature) -> Self {
        Self {
            domain: TypedDomain::own(),
            types: TypedTypes::own(),
            primary_type: PRIMARY_TYPE.to_owned(),
            message: receipt,
            signer,
            signature: signature.to_bytes().into(),
        }
    }

    /// What it says.
    pub fn receipt(&self) -> &SettlementReceipt {
        &self.message
    }

    /// Who it says has signed it. Worth nothing until the signature was recovered.
    pub fn signer(&self) -> Address {
        self.signer
    }

    /// The signature, 65 bytes.
    pub fn signature(&self) -> &Bytes {
        &self.signature
    }

    /// What must have been signed, and the signature.
    ///
    /// # Errors
    /// When the document has another form than teller's receipts.
    pub fn signed(&self) -> Result<(B256, EcdsaSignature), SignedReceiptError> {
        if self.domain != TypedDomain::own() {
            return Err(SignedReceiptError::Domain);
        }
        if self.types != TypedTypes::own() || self.primary_type != PRIMARY_TYPE {
            return Err(SignedReceiptError::Types);
        }
        let signature =
            EcdsaSignature::from_bytes(&self.signature).ok_or(SignedReceiptError::Signature)?;
        Ok((self.message.digest(), signature))
    }
}

/// A number as decimal digits in a string, as typed data has its numbers.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits
            .then(|| text.parse().ok())
            .flatten()
            .ok_or_else(|| de::Error::custom("not a number of at most 64 bits in decimal digits"))
    }
}
