//! Test dollars for many accounts in few transactions: Multicall3 is a minter on the local chain.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};

use crate::contracts::abi::{Multicall3, TestDollar};
use crate::contracts::{MULTICALL3, TEST_DOLLAR};
use crate::rpc::Rpc;
use crate::{DevnetError, rpc};

/// Mints a transaction, which at the budget below stays under the transaction gas cap of EIP-7825.
const MINTS_A_TRANSACTION: usize = 200;
const GAS_A_MINT: usize = 60_000;
const GAS_A_TRANSACTION: usize = 100_000;
/// How often receipts are asked for before giving up, and the pause in between.
const RECEIPT_ROUNDS: u32 = 400;
const RECEIPT_PAUSE: Duration = Duration::from_millis(50);
/// 100 gwei: no base fee of a local chain comes near.
const GAS_PRICE: u64 = 100_000_000_000;

/// Mints `amount` of the test dollar's smallest unit to each holder, on a node started by this crate.
/// A block is mined for it, whatever the mining mode. Thousands of holders are fine, and so are
/// concurrent calls.
///
/// # Errors
/// When the node does not answer, or refuses or reverts a mint.
pub async fn fund(rpc_url: &str, holders: &[Address], amount: U256) -> Result<(), DevnetError> {
    fund_token(rpc_url, TEST_DOLLAR, holders, amount).await
}

/// The same for another token of this crate's.
///
/// # Errors
/// When the node does not answer, or refuses or reverts a mint.
pub async fn fund_token(
    rpc_url: &str,
    token: Address,
    holders: &[Address],
    amount: U256,
) -> Result<(), DevnetError> {
    if holders.is_empty() || amount.is_zero() {
        return Ok(());
    }
    let rpc = Rpc::new(rpc_url)?;
    // A sender of its own for every call, so that concurrent calls do not fight over account nonces.
    let sender = Address::random();
    impersonate(&rpc, sender).await?;
    let transactions = holders
        .chunks(MINTS_A_TRANSACTION)
        .enumerate()
        .map(|(nonce, chunk)| mint_transaction(token, sender, nonce, chunk, amount))
        .collect();
    send_and_mine(&rpc, transactions, "minting tokens").await?;
    rpc.call("anvil_stopImpersonatingAccount", json!([sender]))
        .await?;
    Ok(())
}

/// Makes `account` sendable from without a key, with ETH for its gas.
pub(crate) async fn impersonate(rpc: &Rpc, account: Address) -> Result<(), DevnetError> {
    rpc.call(
        "anvil_setBalance",
        json!([account, "0x21e19e0c9bab2400000"]),
    )
    .await?;
    rpc.call("anvil_impersonateAccount", json!([account]))
        .await?;
    Ok(())
}

/// The parameters of `eth_sendTransaction`.
pub(crate) fn transaction(
    from: Address,
    to: Address,
    nonce: usize,
    gas: usize,
    data: &[u8],
) -> Value {
    json!([{
        "from": from,
        "to": to,
        "nonce": format!("{nonce:#x}"),
        "gas": format!("{gas:#x}"),
        "gasPrice": format!("{GAS_PRICE:#x}"),
        "data": format!("0x{}", hex::encode(data)),
    }])
}

fn mint_transaction(
    token: Address,
    sender: Address,
    nonce: usize,
    holders: &[Address],
    amount: U256,
) -> Value {
    let calls = holders
        .iter()
        .map(|&to| Multicall3::Call3 {
            target: token,
            allowFailure: false,
            callData: TestDollar::mintCall { to, amount }.abi_encode().into(),
        })
        .collect();
    let data = Multicall3::aggregate3Call { calls }.abi_encode();
    let gas = GAS_A_TRANSACTION + holders.len() * GAS_A_MINT;
    transaction(sender, MULTICALL3, nonce, gas, &data)
}

/// Sends, mines, and demands that every transaction succeeded.
pub(crate) async fn send_and_mine(
    rpc: &Rpc,
    transactions: Vec<Value>,
    what: &str,
) -> Result<(), DevnetError> {
    let mut open = rpc.batch("eth_sendTransaction", transactions).await?;
    for _ in 0..RECEIPT_ROUNDS {
        rpc.call("evm_mine", json!([])).await?;
        let asked = open.iter().map(|hash| json!([hash])).collect();
        let receipts = rpc.batch("eth_getTransactionReceipt", asked).await?;
        let mut still_open = Vec::new();
        for (hash, receipt) in open.into_iter().zip(receipts) {
            match receipt.get("status").and_then(Value::as_str) {
                Some("0x1") => {}
                Some(_) => {
                    return Err(DevnetError::Reverted {
                        what: what.to_owned(),
                    });
                }
                None if receipt.is_null() => still_open.push(hash),
                None => return Err(rpc::unexpected("eth_getTransactionReceipt")),
            }
        }
        if still_open.is_empty() {
            return Ok(());
        }
        open = still_open;
        tokio::time::sleep(RECEIPT_PAUSE).await;
    }
    Err(DevnetError::NotMined {
        what: what.to_owned(),
    })
}
