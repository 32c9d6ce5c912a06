//! Payments by Permit2 that bring their payer's signed approval, at both doors. What becomes of those that are taken, and of
//! what is given for them, `gifts` says.

use std::time::Duration;

use alloy_primitives::{Address, Bytes, U256, hex};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use teller_api::proto;
use teller_api::proto::facilitator_client::FacilitatorClient;
use teller_chain::LocalSigner;
use teller_devnet::contracts::abi::Token;
use teller_devnet::contracts::{PERMIT_TOKEN, PLAIN_TOKEN};
use teller_domain::{AccountNonce, Fees, PERMIT2};
use teller_schemes::permit2::Proxy;

use crate::doors::{pays, refused_at_both};
use crate::grpc::channel;
use crate::support::{Buyer, CHAIN, Chain, Setup, Teller};
use crate::ways::{
    audited, buyer, facilitator, permit, read, setup, signed_permit_body, teller, tokens,
};

pub const PAYEE: Address = Address::repeat_byte(0x47);
pub const PRICE: u64 = 10_000;
const HOP: Duration = Duration::from_secs(2);
pub const GAS: u64 = 70_000;
pub const FEE: u128 = 2_000_000_000;
const EXTENSION: &str = "erc20ApprovalGasSponsoring";

/// A teller that gives payers what [`approval`] costs, and not a wei more.
pub async fn giving(chain: &Chain) -> Teller {
    let ways = setup(chain);
    let most = u128::from(GAS) * FEE;
    let approvals = format!(
        r#"approvals = {{ max_top_up_wei = "{most}", max_top_up_wei_per_day = "{}" }}"#,
        10 * most
    );
    let setup = Setup {
        network: format!("{approvals}\n{}", ways.network),
        ..ways
    };
    Teller::start(chain, setup).await
}

pub struct Approval {
    pub chain: teller_domain::ChainId,
    pub nonce: u64,
    pub target: Address,
    pub spender: Address,
    pub amount: U256,
    pub gas: u64,
    pub fee: u128,
}

pub fn approval() -> Approval {
    Approval {
        chain: CHAIN,
        nonce: 0,
        target: PLAIN_TOKEN,
        spender: PERMIT2,
        amount: U256::MAX,
        gas: GAS,
        fee: FEE,
    }
}

impl Approval {
    pub fn by(self, payer: &Buyer) -> Bytes {
        let signer = LocalSigner::from_hex(&payer.key.to_string()).unwrap();
        let fees = Fees {
            max_fee_per_gas: self.fee,
            max_priority_fee_per_gas: self.fee.min(1_000_000),
        };
        let (spender, amount) = (self.spender, self.amount);
        let call = Token::approveCall { spender, amount }.abi_encode().into();
        let nonce = AccountNonce(self.nonce);
        let signed = signer.sign_batch(self.chain, nonce, self.target, call, self.gas, fees);
        signed.unwrap().raw
    }
}

pub fn info(payer: &Buyer, transaction: &Bytes) -> Value {
    json!({
        "from": payer.address, "asset": PLAIN_TOKEN, "spender": PERMIT2, "amount": U256::MAX.to_string(),
        "signedTransaction": hex::encode_prefixed(transaction), "version": "1",
    })
}

pub fn body(payer: &Buyer, proxy: Proxy, info: Value) -> Value {
    let permit = permit(PLAIN_TOKEN, PAYEE, PRICE, proxy);
    let mut body = signed_permit_body(payer, &permit);
    body["paymentPayload"]["extensions"] = json!({ EXTENSION: { "info": info } });
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_without_a_wei_pays_at_both_doors_and_under_both_schemes() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = giving(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let supported = client.supported(proto::SupportedRequest {}).await.unwrap();
    let extensions = supported.into_inner().extensions;
    assert!(extensions.contains(&EXTENSION.to_owned()), "{extensions:?}");
    let (_, supported) = teller.get("/supported").await;
    assert_eq!(supported["extensions"][1], EXTENSION, "{supported}");
    let upto = Proxy::Upto {
        facilitator: facilitator(&chain),
    };
    for (by_grpc, proxy) in [(true, Proxy::Exact), (false, upto)] {
        let payer = buyer(&chain, PLAIN_TOKEN).await;
        tokio::time::sleep(HOP).await;
        let before = tokens(&chain, PLAIN_TOKEN, PAYEE).await;
        let body = body(&payer, proxy, info(&payer, &approval().by(&payer)));
        if by_grpc {
            pays(&mut client, &body).await;
        } else {
            let (_, verified) = teller.post("/verify", &body).await;
            assert_eq!(verified["isValid"], true, "{verified}");
            let (_, settled) = teller.post("/settle", &body).await;
            assert_eq!(settled["success"], true, "{settled}");
        }
        assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, before + PRICE);
        let allowance = Token::allowanceCall {
            owner: payer.address,
            spender: PERMIT2,
        };
        assert!(read(&chain, PLAIN_TOKEN, allowance).await > U256::ZERO);
        assert!(!teller.log().contains(&hex::encode(approval().by(&payer))));
    }
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_an_approval_gets_the_same_answer_at_both_doors() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = giving(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let payer = buyer(&chain, PLAIN_TOKEN).await;
    let other = buyer(&chain, PLAIN_TOKEN).await;
    tokio::time::sleep(HOP).await;
    let good = info(&payer, &approval().by(&payer));
    let with = |member: &str, value: Value| {
        let mut info = good.clone();
        info[member] = value;
        info
    };
    let signs = |approval: Approval| info(&payer, &approval.by(&payer));
    let cut = hex::encode_prefixed(&approval().by(&payer)[..100]);
    let is = |change: fn(&mut Approval)| {
        let mut approval = approval();
        change(&mut approval);
        signs(approval)
    };
    let format = "invalid_erc20_approval_extension_format";
    let faults = [
        (format, with("amount", json!("0x10"))),
        (format, with("version", json!("one"))),
        ("erc20_approval_from_mismatch", with("from", json!(PAYEE))),
        (
            "erc20_approval_asset_mismatch",
            with("asset", json!(PERMIT_TOKEN)),
        ),
        (
            "erc20_approval_spender_not_permit2",
            with("spender", json!(PAYEE)),
        ),
        (
            "erc20_approval_tx_parse_failed",
            with("signedTransaction", json!(cut)),
        ),
        (
            "erc20_approval_tx_wrong_target",
            is(|approval| approval.target = PERMIT_TOKEN),
        ),
        (
            "erc20_approval_tx_wrong_spender",
            is(|approval| approval.spender = PAYEE),
        ),
        (
            "erc20_approval_tx_signer_mismatch",
            info(&payer, &approval().by(&other)),
        ),
        (
            "erc20_approval_tx_wrong_chain",
            is(|approval| approval.chain = teller_domain::ChainId(1)),
        ),
        (
            "erc20_approval_tx_amount_too_low",
            is(|approval| approval.amount = U256::from(PRICE - 1)),
        ),
        (
            "erc20_approval_tx_gas_limit",
            is(|approval| approval.gas = 100_001),
        ),
        (
            "erc20_approval_tx_wrong_nonce",
            is(|approval| approval.nonce = 1),
        ),
        (
            "erc20_approval_tx_fee_too_low",
            is(|approval| approval.fee = 1),
        ),
        (
            "erc20_approval_insufficient_eth_for_gas",
            is(|approval| approval.fee += 1),
        ),
        (
            "erc20_approval_tx_failed",
            is(|approval| approval.gas = 25_000),
        ),
        // Half of it counts as nothing.
        ("permit2_allowance_required", with("version", json!(""))),
    ];
    for (reason, info) in faults {
        let body = body(&payer, Proxy::Exact, info);
        let found = refused_at_both(&teller, &mut client, &body).await;
        assert_eq!(found, reason, "{body}");
    }
    assert!(teller.settlements().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_approvals_are_not_sent_they_count_as_absent() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = teller(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let (_, supported) = teller.get("/supported").await;
    assert!(!supported.to_string().contains(EXTENSION), "{supported}");
    let payer = buyer(&chain, PLAIN_TOKEN).await;
    tokio::time::sleep(HOP).await;
    let good = info(&payer, &approval().by(&payer));
    let mut bad = good.clone();
    bad["amount"] = json!("all");
    for info in [good, bad] {
        let body = body(&payer, Proxy::Exact, info);
        let found = refused_at_both(&teller, &mut client, &body).await;
        assert_eq!(found, "permit2_allowance_required");
    }
}
