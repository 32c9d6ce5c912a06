//! A chain to test on, real signatures, and typed calls.

pub mod payments;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{Eip712Domain, SolCall, SolStruct, eip712_domain};
use serde_json::{Value, json};
use teller_devnet::contracts::abi::{TestDollar, TransferBytes, TransferWithAuthorization};
use teller_devnet::contracts::{NAME, TEST_DOLLAR, VERSION};
use teller_devnet::{Devnet, DevnetConfig, Mining};

/// A chain that mines each transaction at once.
pub async fn start() -> Devnet {
    Devnet::start(DevnetConfig {
        mining: Mining::Instant,
        payers: 4,
        ..DevnetConfig::default()
    })
    .await
    .unwrap()
}

pub fn wallet(key: B256) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&key).unwrap()
}

pub fn domain() -> Eip712Domain {
    eip712_domain! {
        name: NAME,
        version: VERSION,
        chain_id: 84532,
        verifying_contract: TEST_DOLLAR,
    }
}

/// An authorization that is open for an hour.
pub fn authorization(from: Address, to: Address, value: u64) -> TransferWithAuthorization {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    TransferWithAuthorization {
        from,
        to,
        value: U256::from(value),
        validAfter: U256::ZERO,
        validBefore: U256::from(now + 3600),
        nonce: B256::random(),
    }
}

pub fn sign(key: B256, authorization: &TransferWithAuthorization) -> [u8; 65] {
    use alloy_signer::SignerSync;
    let hash = authorization.eip712_signing_hash(&domain());
    wallet(key).sign_hash_sync(&hash).unwrap().as_bytes()
}

/// The settling call with the signature as bytes.
pub fn settle_call(authorization: &TransferWithAuthorization, signature: &[u8]) -> Bytes {
    let a = authorization;
    TransferBytes::transferWithAuthorizationCall {
        from: a.from,
        to: a.to,
        value: a.value,
        validAfter: a.validAfter,
        validBefore: a.validBefore,
        nonce: a.nonce,
        signature: signature.to_vec().into(),
    }
    .abi_encode()
    .into()
}

pub async fn read<C: SolCall>(devnet: &Devnet, to: Address, call: C) -> C::Return {
    let data = Bytes::from(call.abi_encode());
    let answer = devnet
        .rpc("eth_call", json!([{ "to": to, "data": data }, "latest"]))
        .await
        .unwrap();
    let answer: Bytes = serde_json::from_value(answer).unwrap();
    C::abi_decode_returns(&answer).unwrap()
}

pub async fn balance(devnet: &Devnet, account: Address) -> u64 {
    read(devnet, TEST_DOLLAR, TestDollar::balanceOfCall { account })
        .await
        .to()
}

/// Sends from any account, mined at once; the receipt.
pub async fn send(devnet: &Devnet, from: Address, to: Address, data: &[u8], gas: u64) -> Value {
    devnet
        .rpc("anvil_impersonateAccount", json!([from]))
        .await
        .unwrap();
    let transaction = json!([{ "from": from, "to": to, "gas": format!("{gas:#x}"), "data": Bytes::copy_from_slice(data) }]);
    let hash = devnet
        .rpc("eth_sendTransaction", transaction)
        .await
        .unwrap();
    mined(devnet, &hash).await
}

/// The receipt of a transaction, once it is mined: a node answers a send before that.
pub async fn mined(devnet: &Devnet, hash: &Value) -> Value {
    for _ in 0..1_000 {
        let receipt = devnet
            .rpc("eth_getTransactionReceipt", json!([hash]))
            .await
            .unwrap();
        if !receipt.is_null() {
            return receipt;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not mined");
}

pub fn quantity(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}
