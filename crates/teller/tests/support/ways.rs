//! Ways of paying beside EIP-3009 by a plain account: what buyers sign, and the bodies that sellers send.

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use teller_devnet::contracts::abi::{SmartWalletFactory, Token};
use teller_devnet::contracts::{PERMIT_TOKEN, PLAIN_TOKEN, WALLET_FACTORY};
use teller_devnet::fund_token;
use teller_domain::{AssetAmount, PERMIT2, Payment};
use teller_schemes::permit2::{Permit, Proxy};
use teller_schemes::sign;

use crate::support::{Buyer, CHAIN, Chain, Setup, Teller, body, now, run};

/// A teller that also takes tokens without EIP-3009, and wallets from the factory of the local chain.
pub async fn teller(chain: &Chain) -> Teller {
    Teller::start(chain, setup(chain)).await
}

pub fn setup(chain: &Chain) -> Setup {
    let network = format!(
        r#"wallet_factories = ["{WALLET_FACTORY}"]
[[networks.assets]]
address = "{PLAIN_TOKEN}"
name = "Plain Token"
version = "1"
[[networks.assets]]
address = "{PERMIT_TOKEN}"
name = "Permit Token"
version = "1"
"#
    );
    Setup {
        network,
        ..Setup::embedded(chain)
    }
}

/// What teller calls itself on chain.
pub fn facilitator(chain: &Chain) -> Address {
    Buyer::new(chain.devnet.info().signers[0]).address
}

pub async fn read<C: SolCall>(chain: &Chain, to: Address, call: C) -> C::Return {
    let data = hex::encode_prefixed(call.abi_encode());
    let call = json!([{"to": to, "data": data}, "latest"]);
    let answer = chain.devnet.rpc("eth_call", call).await.unwrap();
    let answer: Bytes = serde_json::from_value(answer).unwrap();
    C::abi_decode_returns(&answer).unwrap()
}

pub async fn tokens(chain: &Chain, token: Address, account: Address) -> u64 {
    read(chain, token, Token::balanceOfCall { account })
        .await
        .to()
}

/// The receipt of a transaction, once it is mined.
pub async fn receipt(chain: &Chain, transaction: &str) -> Value {
    for _ in 0..100 {
        let receipt = chain
            .devnet
            .rpc("eth_getTransactionReceipt", json!([transaction]))
            .await
            .unwrap();
        if !receipt.is_null() {
            return receipt;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{transaction} is not mined")
}

pub async fn gas(chain: &Chain, transaction: &Value) -> u64 {
    let receipt = receipt(chain, transaction.as_str().unwrap()).await;
    receipt["gasUsed"]
        .as_str()
        .unwrap()
        .parse::<U256>()
        .unwrap()
        .to()
}

/// A new buyer with a million units of a token.
pub async fn buyer(chain: &Chain, token: Address) -> Buyer {
    let buyer = Buyer::new(B256::random());
    let amount = U256::from(1_000_000);
    fund_token(chain.devnet.rpc_url(), token, &[buyer.address], amount)
        .await
        .unwrap();
    buyer
}

/// One who lets Permit2 move so much.
pub async fn approving_buyer(chain: &Chain, token: Address, allowance: u64) -> Buyer {
    let buyer = buyer(chain, token).await;
    approve(chain, buyer.address, token, allowance).await;
    buyer
}

pub async fn approve(chain: &Chain, owner: Address, token: Address, allowance: u64) {
    let approve = Token::approveCall {
        spender: PERMIT2,
        amount: U256::from(allowance),
    };
    let hash = chain.call_as(owner, token, approve.abi_encode()).await;
    assert_eq!(receipt(chain, &hash).await["status"], "0x1");
}

/// A permit that is open for ten minutes.
pub fn permit(token: Address, to: Address, amount: u64, proxy: Proxy) -> Permit {
    Permit {
        chain: CHAIN,
        token,
        amount: AssetAmount::from(amount),
        nonce: U256::from_be_bytes(B256::random().0),
        deadline: U256::from(now() + 600),
        to,
        valid_after: U256::ZERO,
        proxy,
    }
}

pub fn signed(buyer: &Buyer, digest: B256) -> Vec<u8> {
    sign(digest, &buyer.key.0).unwrap().to_bytes().to_vec()
}

/// The body of a payment by Permit2 whose seller wants `amount` of it.
pub fn permit_body(payer: Address, permit: &Permit, signature: &[u8], amount: u64) -> Value {
    let scheme = match permit.proxy {
        Proxy::Exact => "exact",
        Proxy::Upto { .. } => "upto",
    };
    let mut witness = json!({"to": permit.to, "validAfter": permit.valid_after.to_string()});
    if let Proxy::Upto { facilitator } = permit.proxy {
        witness["facilitator"] = json!(facilitator);
    }
    let requirements = |amount: u64| {
        json!({
            "scheme": scheme, "network": CHAIN.to_string(), "amount": amount.to_string(),
            "asset": permit.token, "payTo": permit.to, "maxTimeoutSeconds": 60,
            "extra": {"assetTransferMethod": "permit2"},
        })
    };
    json!({
        "x402Version": 2,
        "paymentPayload": {
            "x402Version": 2,
            "accepted": requirements(permit.amount.0.to()),
            "payload": {
                "signature": hex::encode_prefixed(signature),
                "permit2Authorization": {
                    "from": payer,
                    "permitted": {"token": permit.token, "amount": permit.amount.to_string()},
                    "spender": permit.proxy.address(),
                    "nonce": permit.nonce.to_string(),
                    "deadline": permit.deadline.to_string(),
                    "witness": witness,
                },
            },
        },
        "paymentRequirements": requirements(amount),
    })
}

/// The body of a permit that its buyer's own key signs, and whose seller wants all of it.
pub fn signed_permit_body(buyer: &Buyer, permit: &Permit) -> Value {
    let signature = signed(buyer, permit.digest());
    permit_body(buyer.address, permit, &signature, permit.amount.0.to())
}

/// An EIP-3009 payment of ten minutes by somebody whose signature is still to come.
pub fn unsigned(chain: &Chain, payer: Address, payee: Address, value: u64) -> (Payment, B256) {
    let number = B256::random();
    let mut payment = Buyer::new(B256::repeat_byte(1)).pay(chain, payee, value, 0);
    payment.key.payer = payer;
    payment.key.nonce.0 = number;
    let digest = chain.domain.digest(&payment);
    (payment, digest)
}

/// Its body with this signature.
pub fn body_with(chain: &Chain, payment: &Payment, signature: &[u8]) -> Value {
    let mut body = body(chain, payment);
    body["paymentPayload"]["payload"]["signature"] = json!(hex::encode_prefixed(signature));
    body
}

/// Where the factory puts the wallet of this owner.
pub async fn wallet_of(chain: &Chain, owner: Address, salt: B256) -> Address {
    let call = SmartWalletFactory::walletOfCall { owner, salt };
    let wallet = read(chain, WALLET_FACTORY, call).await;
    let amount = U256::from(1_000_000);
    fund_token(
        chain.devnet.rpc_url(),
        chain.asset.address,
        &[wallet],
        amount,
    )
    .await
    .unwrap();
    wallet
}

pub fn creation(owner: Address, salt: B256) -> Vec<u8> {
    SmartWalletFactory::createWalletCall { owner, salt }.abi_encode()
}

/// A wallet that is there.
pub async fn deployed_wallet(chain: &Chain, owner: Address) -> Address {
    let salt = B256::random();
    let wallet = wallet_of(chain, owner, salt).await;
    let sender = Address::random();
    let rich = json!([sender, "0xde0b6b3a7640000"]);
    chain.devnet.rpc("anvil_setBalance", rich).await.unwrap();
    let rpc = |method: &'static str, params| chain.devnet.rpc(method, params);
    rpc("anvil_impersonateAccount", json!([sender]))
        .await
        .unwrap();
    let call = json!([{
        "from": sender, "to": WALLET_FACTORY, "gas": "0x1e8480",
        "data": hex::encode_prefixed(creation(owner, salt)),
    }]);
    let hash = rpc("eth_sendTransaction", call).await.unwrap();
    assert_eq!(
        receipt(chain, hash.as_str().unwrap()).await["status"],
        "0x1"
    );
    wallet
}

/// Verifies and settles; demands that both say yes, and answers what settle said.
pub async fn pays(teller: &Teller, body: &Value) -> Value {
    let (status, answer) = teller.post("/verify", body).await;
    assert_eq!(
        (status, &answer["isValid"]),
        (200, &json!(true)),
        "{answer}"
    );
    let (status, answer) = teller.post("/settle", body).await;
    assert_eq!(
        (status, &answer["success"]),
        (200, &json!(true)),
        "{answer}"
    );
    answer
}

/// Why verify says no.
pub async fn refused(teller: &Teller, body: &Value) -> String {
    let (status, answer) = teller.post("/verify", body).await;
    assert_eq!(
        (status, &answer["isValid"]),
        (200, &json!(false)),
        "{answer}"
    );
    answer["invalidReason"].as_str().unwrap().to_owned()
}

/// Demands that the ledger and the chain agree.
pub fn audited(chain: &Chain, teller: &Teller) {
    let audit = ["audit", "--config", "teller.toml", "--json"];
    let signer = hex::encode_prefixed(chain.devnet.info().signers[0]);
    let output = run(teller.directory(), &audit, [("TELLER_SIGNER_0", &*signer)]);
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{out}\n{error}");
}
