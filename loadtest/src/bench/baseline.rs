//! What a payment costs without a batch: the same transfers, each in a transaction of its own, signed here.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{B256, Signature, TxKind, U256};
use serde_json::{Value, json};
use teller_domain::Payment;
use teller_schemes::eip3009::transfer_call;

use crate::error::LoadError;
use crate::node::{Node, nonsense};
use crate::report::{OnChain, mined, ratio};
use crate::sign::{Payer, Signed};

/// Twice what a transfer to a new holder takes.
const GAS_LIMIT: u64 = 200_000;
/// Far above any base fee of a local chain.
const MAX_FEE: u128 = 100_000_000_000;

/// Sends each payment straight to its token in a transaction of its own and reads what it cost.
pub async fn one_by_one(
    node: &Node,
    signer: &Payer,
    payments: &[Signed],
) -> Result<OnChain, LoadError> {
    let first = payments
        .first()
        .ok_or_else(|| LoadError::input("payments", "are none"))?;
    let (chain, token) = (first.payment.key.chain.0, first.payment.asset);
    let method = "eth_getTransactionCount";
    let answer = node.call(method, json!([signer.address, "latest"])).await?;
    let nonce = quantity(&answer).ok_or_else(|| nonsense(method))?;
    let raw = payments
        .iter()
        .zip(nonce..)
        .map(|(signed, nonce)| raw_transaction(signer, chain, nonce, &signed.payment))
        .collect::<Result<Vec<_>, _>>()?;
    let method = "eth_sendRawTransaction";
    let hashes = node
        .batch(method, raw)
        .await?
        .into_iter()
        .map(|hash| serde_json::from_value(hash).map_err(|_| nonsense(method)))
        .collect::<Result<Vec<B256>, _>>()?;
    let mined = mined(node, &hashes, token).await?;
    let gas: u64 = mined.values().map(|transaction| transaction.gas).sum();
    let confirmed = payments
        .iter()
        .zip(&hashes)
        .filter(|(signed, hash)| {
            let key = (signed.payment.key.payer, signed.payment.key.nonce.0);
            mined.get(*hash).is_some_and(|tx| tx.used.contains(&key))
        })
        .count();
    Ok(OnChain {
        transactions: mined.len(),
        gas_per_payment: ratio(gas as f64, payments.len() as f64).unwrap_or(0.0),
        confirmed,
    })
}

/// The parameters of `eth_sendRawTransaction`.
fn raw_transaction(
    signer: &Payer,
    chain_id: u64,
    nonce: u64,
    payment: &Payment,
) -> Result<Value, LoadError> {
    let transaction = TxEip1559 {
        chain_id,
        nonce,
        gas_limit: GAS_LIMIT,
        max_fee_per_gas: MAX_FEE,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(payment.asset),
        value: U256::ZERO,
        access_list: Default::default(),
        input: transfer_call(payment),
    };
    let signature = signer.sign(transaction.signature_hash())?;
    let signature = Signature::new(
        U256::from_be_bytes(signature.r.0),
        U256::from_be_bytes(signature.s.0),
        signature.v == 28,
    );
    let signed = TxEnvelope::from(transaction.into_signed(signature));
    Ok(json!([format!("0x{}", hex::encode(signed.encoded_2718()))]))
}

fn quantity(answer: &Value) -> Option<u64> {
    u64::from_str_radix(answer.as_str()?.strip_prefix("0x")?, 16).ok()
}
