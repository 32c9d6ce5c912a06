//! Payments by delegation (ERC-7710): off by default, redeemed by trusted managers only, and never believed on a manager's
//! word.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use alloy_sol_types::{SolCall, SolValue};
use serde_json::{Value, json};
use teller_api::proto;
use teller_api::proto::facilitator_client::FacilitatorClient;
use teller_devnet::contracts::abi::{DelegationManager, SmartWallet};
use teller_devnet::contracts::{DELEGATION_MANAGER, PLAIN_TOKEN, TEST_DOLLAR};
use teller_devnet::fund_token;

use crate::doors::{self, refused_at_both};
use crate::grpc::channel;
use crate::support::{Buyer, CHAIN, Chain, Setup, Teller};
use crate::ways::{
    self, audited, deployed_wallet, facilitator, gas, pays, read, receipt, refused, signed, tokens,
};

const PAYEE: Address = Address::repeat_byte(0x71);

/// A teller that trusts the manager of the local chain.
async fn trusting(chain: &Chain) -> Teller {
    let mut setup = ways::setup(chain);
    let managers = format!("delegation_managers = [\"{DELEGATION_MANAGER}\"]\n");
    setup.network = managers + &setup.network;
    Teller::start(chain, setup).await
}

/// A contract wallet whose manager may act for it.
struct Delegator {
    owner: Buyer,
    wallet: Address,
}

impl Delegator {
    async fn new(chain: &Chain) -> Self {
        let owner = chain.payer(0);
        let wallet = deployed_wallet(chain, owner.address).await;
        let amount = U256::from(1_000_000);
        fund_token(chain.devnet.rpc_url(), PLAIN_TOKEN, &[wallet], amount)
            .await
            .unwrap();
        let trust = SmartWallet::setManagerCall {
            next: DELEGATION_MANAGER,
        };
        let hash = chain.call_as(owner.address, wallet, trust.abi_encode());
        assert_eq!(receipt(chain, &hash.await).await["status"], "0x1");
        Self { owner, wallet }
    }

    /// A permission context for this delegate, signed by this key.
    async fn context(&self, chain: &Chain, delegate: Address, salt: u64, by: &Buyer) -> Vec<u8> {
        let salt = U256::from(salt);
        let hash = DelegationManager::delegationHashCall {
            delegator: self.wallet,
            delegate,
            salt,
        };
        let hash: B256 = read(chain, DELEGATION_MANAGER, hash).await;
        let signature = Bytes::from(signed(by, hash));
        (self.wallet, delegate, salt, signature).abi_encode_params()
    }

    /// A good one for teller.
    async fn good(&self, chain: &Chain, salt: u64) -> Vec<u8> {
        self.context(chain, facilitator(chain), salt, &self.owner)
            .await
    }
}

fn body(
    manager: Address,
    delegator: Address,
    context: &[u8],
    asset: Address,
    amount: u64,
) -> Value {
    let requirements = json!({
        "scheme": "exact", "network": CHAIN.to_string(), "amount": amount.to_string(),
        "asset": asset, "payTo": PAYEE, "maxTimeoutSeconds": 60,
        "extra": {"assetTransferMethod": "erc7710"},
    });
    json!({
        "x402Version": 2,
        "paymentPayload": {
            "x402Version": 2,
            "accepted": requirements,
            "payload": {
                "delegationManager": manager,
                "permissionContext": hex::encode_prefixed(context),
                "delegator": delegator,
            },
        },
        "paymentRequirements": requirements,
    })
}

async fn deceive(chain: &Chain, on: u64) {
    let slot = json!([DELEGATION_MANAGER, "0x0", B256::from(U256::from(on))]);
    chain.devnet.rpc("anvil_setStorageAt", slot).await.unwrap();
}

/// Lets a block with the newest state be seen.
async fn a_block() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_pays_once_and_each_of_its_faults_is_refused() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = trusting(&chain).await;
    let delegator = Delegator::new(&chain).await;
    a_block().await;
    let own = facilitator(&chain);
    let (_, supported) = teller.get("/supported").await;
    let extra = json!({
        "facilitatorAddress": own.to_string(),
        "delegationManagers": [DELEGATION_MANAGER.to_string()],
    });
    assert_eq!(supported["kinds"][0]["extra"], extra, "{supported}");
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let supported = client.supported(proto::SupportedRequest {}).await.unwrap();
    let exact = &supported.get_ref().kinds[0];
    assert_eq!(exact.facilitator_address, own.to_string());
    assert_eq!(exact.delegation_managers, [DELEGATION_MANAGER.to_string()]);

    let wallet = delegator.wallet;
    let context = delegator.good(&chain, 1).await;
    let good = body(DELEGATION_MANAGER, wallet, &context, TEST_DOLLAR, 10_000);
    let stranger = Address::repeat_byte(9);
    let another = chain.payer(1);
    let forged = delegator.context(&chain, own, 2, &another).await;
    let elsewhere = delegator
        .context(&chain, stranger, 3, &delegator.owner)
        .await;
    let of = |manager, delegator, context: &[u8], amount| {
        body(manager, delegator, context, TEST_DOLLAR, amount)
    };
    for (bad, reason) in [
        (
            of(stranger, wallet, &context, 10_000),
            "erc7710_manager_not_allowed",
        ),
        (
            of(DELEGATION_MANAGER, wallet, &forged, 10_000),
            "erc7710_simulation_failed",
        ),
        (
            of(DELEGATION_MANAGER, wallet, &elsewhere, 10_000),
            "erc7710_simulation_failed",
        ),
        (
            of(DELEGATION_MANAGER, wallet, &[], 10_000),
            "erc7710_simulation_failed",
        ),
        // Another one's delegation: the money would come from the wallet.
        (
            of(DELEGATION_MANAGER, another.address, &context, 10_000),
            "erc7710_transfer_mismatch",
        ),
        (
            of(DELEGATION_MANAGER, wallet, &context, 2_000_000),
            "invalid_exact_evm_insufficient_balance",
        ),
        (
            of(DELEGATION_MANAGER, own, &context, 10_000),
            "facilitator_is_party",
        ),
        (
            body(DELEGATION_MANAGER, wallet, &context, stranger, 10_000),
            "asset_not_allowed",
        ),
    ] {
        let found = refused_at_both(&teller, &mut client, &bad).await;
        assert_eq!(found, reason, "{bad}");
    }
    let too_long = vec![1; 16 * 1024 + 1];
    let mut upto = good.clone();
    let mut unwanted = good.clone();
    for pointer in [
        "/paymentPayload/accepted/scheme",
        "/paymentRequirements/scheme",
    ] {
        *upto.pointer_mut(pointer).unwrap() = json!("upto");
    }
    unwanted["paymentRequirements"]["extra"]["assetTransferMethod"] = json!("eip3009");
    let mut nobody = good.clone();
    nobody["paymentPayload"]["payload"]["delegator"] = json!("0x01");
    for (bad, reason) in [
        (
            of(DELEGATION_MANAGER, wallet, &too_long, 10_000),
            "invalid_payload",
        ),
        (nobody, "invalid_payload"),
        (upto, "unsupported_payload_type"),
        (unwanted, "unsupported_payload_type"),
    ] {
        let found = refused_at_both(&teller, &mut client, &bad).await;
        assert_eq!(found, reason, "{bad}");
    }
    assert!(teller.settlements().await.is_empty());

    let answer = pays(&teller, &good).await;
    assert_eq!(answer["payer"], json!(wallet.to_string()));
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    println!(
        "gas, ERC-7710: {}",
        gas(&chain, &answer["transaction"]).await
    );
    let mined = receipt(&chain, answer["transaction"].as_str().unwrap()).await;
    assert_eq!(mined["to"], json!(DELEGATION_MANAGER));
    let (_, again) = teller.post("/settle", &good).await;
    assert_eq!(again["errorReason"], "duplicate_settlement");
    let again = doors::settle(&mut client, &good).await;
    assert_eq!(again.outcome(), proto::SettleOutcome::Duplicate);
    // Nor does the context pay for anything else.
    let cheaper = of(DELEGATION_MANAGER, wallet, &context, 1);
    let (_, other) = teller.post("/settle", &cheaper).await;
    assert_eq!(other["success"], false, "{other}");

    // A token without any signature of its own is paid with as well.
    let context = delegator.good(&chain, 4).await;
    let plain = body(DELEGATION_MANAGER, wallet, &context, PLAIN_TOKEN, 777);
    let settled = doors::pays(&mut client, &plain).await;
    assert_eq!(settled.payer, wallet.to_string());
    let (_, again) = teller.post("/settle", &plain).await;
    assert_eq!(again["errorReason"], "duplicate_settlement");
    assert_eq!(again["transaction"], json!(settled.transaction));
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 777);
    a_block().await;
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_deceives_is_seen_through_before_and_after() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = trusting(&chain).await;
    let delegator = Delegator::new(&chain).await;
    let of = |context: &[u8]| {
        body(
            DELEGATION_MANAGER,
            delegator.wallet,
            context,
            TEST_DOLLAR,
            10_000,
        )
    };
    let first = of(&delegator.good(&chain, 1).await);
    deceive(&chain, 1).await;
    a_block().await;
    assert_eq!(refused(&teller, &first).await, "erc7710_transfer_mismatch");
    let (_, answer) = teller.post("/settle", &first).await;
    assert_eq!(answer["errorReason"], "erc7710_transfer_mismatch");
    assert_eq!(answer["transaction"], "", "nothing was sent");

    // It turns when the transaction is on its way.
    deceive(&chain, 0).await;
    a_block().await;
    let pause = |on: bool| {
        chain
            .devnet
            .rpc("evm_setIntervalMining", json!([if on { 0 } else { 1 }]))
    };
    pause(true).await.unwrap();
    let settling = teller.post("/settle", &first);
    let turning = async {
        pool(&chain, 1).await;
        deceive(&chain, 1).await;
        pause(false).await.unwrap();
    };
    let ((_, answer), ()) = tokio::join!(settling, turning);
    assert_eq!(answer["success"], false, "{answer}");
    assert_eq!(
        answer["errorReason"],
        "invalid_exact_evm_transfer_event_mismatch"
    );
    let mined = receipt(&chain, answer["transaction"].as_str().unwrap()).await;
    assert_eq!(mined["status"], "0x1", "it was mined and succeeded");
    assert_eq!(chain.balance(PAYEE).await, U256::ZERO);
    deceive(&chain, 0).await;
    a_block().await;
    // Failed is failed: the delegation is good on the chain still, and dead here.
    assert_eq!(
        refused(&teller, &first).await,
        "invalid_exact_evm_nonce_already_used"
    );
    let (_, again) = teller.post("/settle", &first).await;
    assert_eq!(
        again["errorReason"],
        "invalid_exact_evm_transfer_event_mismatch"
    );
    let second = of(&delegator.good(&chain, 2).await);
    pays(&teller, &second).await;
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    a_block().await;
    audited(&chain, &teller);
}

/// Waits until so many transactions wait.
async fn pool(chain: &Chain, count: u64) {
    for _ in 0..200 {
        let status = chain.devnet.rpc("txpool_status", json!([])).await.unwrap();
        let pending: U256 = status["pending"].as_str().unwrap().parse().unwrap();
        if pending >= U256::from(count) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nothing was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_sending_and_mining_redeems_once() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let mut teller = trusting(&chain).await;
    let delegator = Delegator::new(&chain).await;
    a_block().await;
    let context = delegator.good(&chain, 1).await;
    let good = body(
        DELEGATION_MANAGER,
        delegator.wallet,
        &context,
        TEST_DOLLAR,
        10_000,
    );
    chain
        .devnet
        .rpc("evm_setIntervalMining", json!([0]))
        .await
        .unwrap();
    let request = teller
        .http
        .post(format!("{}/settle", teller.url))
        .json(&good);
    let asking = tokio::spawn(request.send());
    pool(&chain, 1).await;
    teller.kill();
    let _cut_off = asking.await;
    // The chain forgets what was waiting: only the ledger's bytes are left.
    chain
        .devnet
        .rpc("anvil_dropAllTransactions", json!([]))
        .await
        .unwrap();
    chain
        .devnet
        .rpc("evm_setIntervalMining", json!([1]))
        .await
        .unwrap();
    teller.restart().await;
    let (_, answer) = teller.post("/settle", &good).await;
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(chain.balance(PAYEE).await, U256::from(10_000));
    let rows = teller.settlements().await;
    assert_eq!((rows.len(), &rows[0]["state"]), (1, &json!("settled")));
    a_block().await;
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_no_delegation_is_taken() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::start(&chain, Setup::embedded(&chain)).await;
    let good = body(DELEGATION_MANAGER, PAYEE, &[1], TEST_DOLLAR, 1);
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let found = refused_at_both(&teller, &mut client, &good).await;
    assert_eq!(found, "unsupported_payload_type");
    let (_, supported) = teller.get("/supported").await;
    assert!(supported["kinds"][0].get("extra").is_none(), "{supported}");
}
