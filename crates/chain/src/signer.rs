//! Signing with keys held by this process.

use std::fmt;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use teller_domain::{AccountNonce, Attempt, AttemptKind, ChainId, Fees, Wei};

/// What a transfer of nothing to oneself costs.
const NOOP_GAS: u64 = 21_000;

/// Why nothing was signed. The secret is never part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// The text is not the 64 hex digits of a secp256k1 private key.
    #[error("a signer must be the 64 hex digits of a private key")]
    NotAKey,
    /// The curve refused; cannot happen with a valid key.
    #[error("signing failed")]
    Failed,
}

/// A plain account whose key is in memory.
#[derive(Clone)]
pub struct LocalSigner {
    key: PrivateKeySigner,
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalSigner({})", self.address())
    }
}

impl LocalSigner {
    /// Reads a private key of 64 hex digits, with or without `0x`, blanks around it allowed.
    ///
    /// # Errors
    /// [`SignerError::NotAKey`]
    pub fn from_hex(secret: &str) -> Result<Self, SignerError> {
        let secret: B256 = secret.trim().parse().map_err(|_| SignerError::NotAKey)?;
        PrivateKeySigner::from_bytes(&secret)
            .map(|key| Self { key })
            .map_err(|_| SignerError::NotAKey)
    }

    /// The account.
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// Signs a call of `to` with `data`: an EIP-1559 transaction, EIP-2718 encoded.
    ///
    /// # Errors
    /// [`SignerError::Failed`]
    pub fn sign_batch(
        &self,
        chain: ChainId,
        nonce: AccountNonce,
        to: Address,
        data: Bytes,
        gas_limit: u64,
        fees: Fees,
    ) -> Result<Attempt, SignerError> {
        let transaction = transaction(chain, nonce, to, data, gas_limit, fees);
        self.sign(transaction, AttemptKind::Batch, fees)
    }

    /// Signs a transfer of native currency.
    ///
    /// # Errors
    /// [`SignerError::Failed`]
    pub fn sign_top_up(
        &self,
        chain: ChainId,
        nonce: AccountNonce,
        to: Address,
        value: Wei,
        gas_limit: u64,
        fees: Fees,
    ) -> Result<Attempt, SignerError> {
        let transaction = TxEip1559 {
            value: value.0,
            ..transaction(chain, nonce, to, Bytes::new(), gas_limit, fees)
        };
        self.sign(transaction, AttemptKind::TopUp, fees)
    }

    /// Signs what `original` carries again with other fees.
    ///
    /// # Errors
    /// [`SignerError::Failed`] if `original` does not hold an EIP-1559 transaction.
    pub fn outbid(&self, original: &Attempt, fees: Fees) -> Result<Attempt, SignerError> {
        let envelope =
            TxEnvelope::decode_2718_exact(&original.raw).map_err(|_| SignerError::Failed)?;
        let TxEnvelope::Eip1559(signed) = envelope else {
            return Err(SignerError::Failed);
        };
        let transaction = TxEip1559 {
            max_fee_per_gas: fees.max_fee_per_gas,
            max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
            ..signed.strip_signature()
        };
        self.sign(transaction, original.kind, fees)
    }

    /// Signs a transfer of nothing to itself, which closes a slot without doing anything.
    ///
    /// # Errors
    /// [`SignerError::Failed`]
    pub fn sign_noop(
        &self,
        chain: ChainId,
        nonce: AccountNonce,
        fees: Fees,
    ) -> Result<Attempt, SignerError> {
        let to = self.address();
        let transaction = transaction(chain, nonce, to, Bytes::new(), NOOP_GAS, fees);
        self.sign(transaction, AttemptKind::NoOp, fees)
    }

    fn sign(
        &self,
        transaction: TxEip1559,
        kind: AttemptKind,
        fees: Fees,
    ) -> Result<Attempt, SignerError> {
        let gas_limit = transaction.gas_limit;
        let signature = self
            .key
            .sign_hash_sync(&transaction.signature_hash())
            .map_err(|_| SignerError::Failed)?;
        let signed = transaction.into_signed(signature);
        let mut raw = Vec::with_capacity(signed.encode_2718_len());
        signed.encode_2718(&mut raw);
        Ok(Attempt {
            hash: *signed.hash(),
            raw: raw.into(),
            kind,
            fees,
            gas_limit,
        })
    }
}

fn transaction(
    chain: ChainId,
    nonce: AccountNonce,
    to: Address,
    input: Bytes,
    gas_limit: u64,
    fees: Fees,
) -> TxEip1559 {
    TxEip1559 {
        chain_id: chain.0,
        nonce: nonce.0,
        gas_limit,
        max_fee_per_gas: fees.max_fee_per_gas,
        max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
        to: TxKind::Call(to),
        value: U256::ZERO,
        access_list: Default::default(),
        input,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_consensus::Transaction;

    const SECRET: &str = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
    const FEES: Fees = Fees {
        max_fee_per_gas: 21_000_000,
        max_priority_fee_per_gas: 1_000_000,
    };

    fn sender(transaction: &TxEnvelope) -> Option<Address> {
        let signature = teller_domain::EcdsaSignature {
            r: transaction.signature().r().into(),
            s: transaction.signature().s().into(),
            v: 27 + u8::from(transaction.signature().v()),
        };
        teller_schemes::recover(transaction.signature_hash(), &signature)
    }

    #[test]
    fn signed_bytes_decode_to_what_was_asked_and_recover_to_the_signer() {
        let signer = LocalSigner::from_hex(SECRET).unwrap();
        let to = Address::repeat_byte(7);
        let data = Bytes::from_static(b"calldata");
        let batch = signer
            .sign_batch(
                ChainId(84532),
                AccountNonce(5),
                to,
                data.clone(),
                500_000,
                FEES,
            )
            .unwrap();
        let decoded = TxEnvelope::decode_2718(&mut batch.raw.as_ref()).unwrap();
        assert_eq!(*decoded.tx_hash(), batch.hash);
        assert_eq!(sender(&decoded), Some(signer.address()));
        assert_eq!(
            (
                decoded.chain_id(),
                decoded.nonce(),
                decoded.to(),
                decoded.input()
            ),
            (Some(84532), 5, Some(to), &data)
        );
        assert_eq!(decoded.gas_limit(), 500_000);
        assert_eq!(decoded.max_fee_per_gas(), FEES.max_fee_per_gas);

        let noop = signer
            .sign_noop(ChainId(84532), AccountNonce(5), FEES)
            .unwrap();
        let decoded = TxEnvelope::decode_2718(&mut noop.raw.as_ref()).unwrap();
        assert_eq!(decoded.to(), Some(signer.address()));
        assert!(decoded.value().is_zero() && decoded.input().is_empty());
        assert_eq!((noop.kind, noop.gas_limit), (AttemptKind::NoOp, NOOP_GAS));
    }

    #[test]
    fn an_outbidding_attempt_differs_from_its_original_in_fees_only() {
        let signer = LocalSigner::from_hex(SECRET).unwrap();
        let (chain, nonce) = (ChainId(84532), AccountNonce(5));
        let data = Bytes::from_static(b"calldata");
        let to = Address::repeat_byte(7);
        let batch = signer.sign_batch(chain, nonce, to, data, 500_000, FEES);
        let noop = signer.sign_noop(chain, nonce, FEES);
        let fees = Fees {
            max_fee_per_gas: FEES.max_fee_per_gas * 2,
            max_priority_fee_per_gas: FEES.max_priority_fee_per_gas * 3,
        };
        let top_up = signer.sign_top_up(chain, nonce, to, Wei::from(7), 60_000, FEES);
        for original in [batch.unwrap(), noop.unwrap(), top_up.unwrap()] {
            let higher = signer.outbid(&original, fees).unwrap();
            assert_eq!(
                (higher.kind, higher.fees, higher.gas_limit),
                (original.kind, fees, original.gas_limit)
            );
            let old = TxEnvelope::decode_2718_exact(&original.raw).unwrap();
            let new = TxEnvelope::decode_2718_exact(&higher.raw).unwrap();
            assert_eq!(*new.tx_hash(), higher.hash);
            assert_ne!(higher.hash, original.hash);
            assert_eq!(sender(&new), Some(signer.address()));
            let expected = TxEip1559 {
                max_fee_per_gas: fees.max_fee_per_gas,
                max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
                ..old.as_eip1559().unwrap().tx().clone()
            };
            assert_eq!(*new.as_eip1559().unwrap().tx(), expected);
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_not_outbid() {
        let signer = LocalSigner::from_hex(SECRET).unwrap();
        let mut attempt = signer
            .sign_noop(ChainId(84532), AccountNonce(5), FEES)
            .unwrap();
        attempt.raw = Bytes::from_static(&[2, 1, 0]);
        assert_eq!(signer.outbid(&attempt, FEES), Err(SignerError::Failed));
    }

    #[test]
    fn a_secret_is_never_printed_and_anything_else_is_refused() {
        let signer = LocalSigner::from_hex(SECRET).unwrap();
        assert!(!format!("{signer:?}").contains("4c0883a6"));
        for text in ["", "0x", "zz", &SECRET[..40], &"0".repeat(64)] {
            assert_eq!(
                LocalSigner::from_hex(text).err(),
                Some(SignerError::NotAKey)
            );
        }
    }
}
