//! Payments beyond EIP-3009: signed permits, receipts as the schemes read them, and why calls revert.

use alloy_primitives::{Address, B256, Bytes, U256};
use serde_json::{Value, json};
use teller_devnet::contracts::abi::Token;
use teller_devnet::contracts::{PERMIT2, TEST_DOLLAR};
use teller_devnet::{Devnet, fund_token};
use teller_domain::{
    AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId, Payment, Reason,
    UnixSeconds, Validity, known_assets,
};
use teller_schemes::permit2::{Permit, Proxy, classify_revert};
use teller_schemes::{EventLog, eip3009, sign};

use super::{read, send, wallet};
use alloy_sol_types::SolCall;

pub const CHAIN: ChainId = ChainId(84532);

pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A permit that is open for an hour.
pub fn permit(token: Address, to: Address, amount: u64, proxy: Proxy) -> Permit {
    Permit {
        chain: CHAIN,
        token,
        amount: AssetAmount::from(amount),
        nonce: U256::from_be_bytes(B256::random().0),
        deadline: U256::from(now() + 3_600),
        to,
        valid_after: U256::from(now() - 600),
        proxy,
    }
}

pub fn signed(key: B256, digest: B256) -> Vec<u8> {
    sign(digest, &key.0).unwrap().to_bytes().to_vec()
}

/// An EIP-3009 payment that is open for an hour, without a signature that means anything, and its digest.
pub fn payment(payer: Address, to: Address, value: u64) -> (Payment, B256) {
    let asset = known_assets(CHAIN).next().unwrap();
    let payment = Payment {
        key: AuthorizationKey {
            chain: CHAIN,
            authority: TEST_DOLLAR,
            payer,
            nonce: AuthorizationNonce(B256::random()),
        },
        asset: TEST_DOLLAR,
        payee: to,
        value: AssetAmount::from(value),
        validity: Validity::between(UnixSeconds(0), UnixSeconds(now() + 3_600)),
        authorization: Authorization::Eip3009 {
            signature: sign(B256::ZERO, &B256::repeat_byte(1).0).unwrap().into(),
        },
    };
    let digest = eip3009::Domain::new(&asset).digest(&payment);
    (payment, digest)
}

/// A payer with tokens who has approved Permit2 for `allowance`.
pub async fn approving_payer(devnet: &Devnet, token: Address, allowance: u64) -> (B256, Address) {
    let key = B256::random();
    let payer = wallet(key).address();
    fund_token(devnet.rpc_url(), token, &[payer], U256::from(1_000_000))
        .await
        .unwrap();
    approve(devnet, payer, token, allowance).await;
    (key, payer)
}

pub async fn approve(devnet: &Devnet, owner: Address, token: Address, allowance: u64) {
    let data = Token::approveCall {
        spender: PERMIT2,
        amount: U256::from(allowance),
    };
    give_gas(devnet, owner).await;
    let receipt = send(devnet, owner, token, &data.abi_encode(), 200_000).await;
    assert_eq!(receipt["status"], "0x1");
}

pub async fn give_gas(devnet: &Devnet, account: Address) {
    let params = json!([account, "0xde0b6b3a7640000"]);
    devnet.rpc("anvil_setBalance", params).await.unwrap();
}

pub async fn tokens(devnet: &Devnet, token: Address, account: Address) -> u64 {
    read(devnet, token, Token::balanceOfCall { account })
        .await
        .to()
}

/// A receipt's logs.
pub struct Logs(Vec<(Address, Vec<B256>, Bytes, u64)>);

impl Logs {
    pub fn of(receipt: &Value) -> Self {
        let field = |log: &Value, name: &str| log[name].clone();
        let logs = receipt["logs"].as_array().unwrap().iter().map(|log| {
            (
                serde_json::from_value(field(log, "address")).unwrap(),
                serde_json::from_value(field(log, "topics")).unwrap(),
                serde_json::from_value(field(log, "data")).unwrap(),
                super::quantity(&log["logIndex"]),
            )
        });
        Self(logs.collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = EventLog<'_>> {
        self.0
            .iter()
            .map(|(address, topics, data, index)| EventLog {
                address: *address,
                topics,
                data,
                index: *index,
            })
    }
}

/// Why a call would revert, in the node's words.
pub async fn refusal(devnet: &Devnet, from: Address, to: Address, data: &[u8]) -> String {
    let data = Bytes::copy_from_slice(data);
    let call = json!([{ "from": from, "to": to, "data": data }, "latest"]);
    devnet.rpc("eth_call", call).await.unwrap_err().to_string()
}

/// What the schemes make of the custom error that the node names.
pub async fn refusal_reason(
    devnet: &Devnet,
    from: Address,
    to: Address,
    data: &[u8],
) -> Option<Reason> {
    let words = refusal(devnet, from, to, data).await;
    let digits = words.split("custom error 0x").nth(1).unwrap_or_default();
    let selector = digits.get(..8).and_then(|text| hex::decode(text).ok())?;
    classify_revert(&selector)
}
