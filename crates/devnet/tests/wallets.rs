//! Payers with code: contract wallets (ERC-1271), ones that are not there yet (ERC-6492), delegated accounts
//! (EIP-7702), and delegations (ERC-7710).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code
)]

mod support;

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use alloy_sol_types::{SolCall, SolValue};
use serde_json::json;
use support::payments::{
    Logs, approve, give_gas, payment, permit, refusal, refusal_reason, signed, tokens,
};
use support::{quantity, read, send, start, wallet};
use teller_devnet::contracts::abi::{DelegationManager, SmartWallet, SmartWalletFactory};
use teller_devnet::contracts::{
    Contract, DELEGATION_MANAGER, PLAIN_TOKEN, SMART_WALLET, TEST_DOLLAR, WALLET_FACTORY,
};
use teller_devnet::{Devnet, fund, fund_token};
use teller_domain::{AssetAmount, Reason};
use teller_schemes::erc1271::{self, AccountCode};
use teller_schemes::erc6492::{Unwrapped, Wrapper, unwrap};
use teller_schemes::erc7710::Redemption;
use teller_schemes::permit2::{EXACT_PROXY, Proxy, settle_call, settlements};
use teller_schemes::{effects, eip3009, multicall, transfers};

fn signer(devnet: &Devnet) -> Address {
    wallet(devnet.info().signers[0]).address()
}

fn creation(owner: Address, salt: B256) -> Bytes {
    SmartWalletFactory::createWalletCall { owner, salt }
        .abi_encode()
        .into()
}

/// The address of a wallet that is not there yet, with test dollars.
async fn foreseen(devnet: &Devnet, owner: Address, salt: B256) -> Address {
    let call = SmartWalletFactory::walletOfCall { owner, salt };
    let wallet = read(devnet, WALLET_FACTORY, call).await;
    fund(devnet.rpc_url(), &[wallet], U256::from(1_000_000))
        .await
        .unwrap();
    wallet
}

async fn deployed(devnet: &Devnet, owner: Address) -> Address {
    let salt = B256::random();
    let wallet = foreseen(devnet, owner, salt).await;
    let data = creation(owner, salt);
    let receipt = send(devnet, signer(devnet), WALLET_FACTORY, &data, 2_000_000).await;
    assert_eq!(receipt["status"], "0x1");
    wallet
}

async fn code(devnet: &Devnet, account: Address) -> AccountCode {
    let code = devnet.rpc("eth_getCode", json!([account, "latest"])).await;
    AccountCode::of(&serde_json::from_value::<Bytes>(code.unwrap()).unwrap())
}

async fn accepts(devnet: &Devnet, account: Address, digest: B256, signature: &[u8]) -> bool {
    let data = erc1271::is_valid_signature_call(digest, signature);
    let call = json!([{ "to": account, "data": data }, "latest"]);
    let answer = devnet.rpc("eth_call", call).await.unwrap();
    erc1271::accepts(&serde_json::from_value::<Bytes>(answer).unwrap())
}

#[tokio::test]
async fn a_counterfactual_wallet_is_made_and_pays_in_one_transaction() {
    let devnet = start().await;
    let key = B256::random();
    let (owner, salt) = (wallet(key).address(), B256::random());
    let payer = foreseen(&devnet, owner, salt).await;
    assert_eq!(code(&devnet, payer).await, AccountCode::None);
    let payee = Address::random();
    for round in ["first", "second, wallet already there"] {
        let (paid, digest) = payment(payer, payee, 10_000);
        let wrapper = Wrapper {
            factory: WALLET_FACTORY,
            factory_calldata: creation(owner, salt),
            signature: signed(key, digest).into(),
        };
        let sent = wrapper.to_bytes();
        let Ok(Unwrapped::Wrapped(wrapper)) = unwrap(&sent) else {
            panic!("not read as a wrapper");
        };
        let call = eip3009::transfer_call_with_bytes(&paid, &wrapper.signature);
        let data = wrapper.deploy_then(TEST_DOLLAR, call);
        let receipt = send(
            &devnet,
            signer(&devnet),
            multicall::MULTICALL3,
            &data,
            2_000_000,
        )
        .await;
        assert_eq!(receipt["status"], "0x1", "{round}");
        println!(
            "gas, counterfactual, {round}: {}",
            quantity(&receipt["gasUsed"])
        );
        let effects = effects(Logs::of(&receipt).iter());
        assert!(
            effects
                .values()
                .any(|effect| effect.settles(&paid).is_some())
        );
    }
    assert_eq!(code(&devnet, payer).await, AccountCode::Contract);
    assert_eq!(tokens(&devnet, TEST_DOLLAR, payee).await, 20_000);
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_wallet_that_is_not_made_or_does_not_accept_pays_nothing() {
    let devnet = start().await;
    let key = B256::random();
    let (owner, salt) = (wallet(key).address(), B256::random());
    let payer = foreseen(&devnet, owner, salt).await;
    let (paid, digest) = payment(payer, Address::random(), 10_000);
    let good = Wrapper {
        factory: WALLET_FACTORY,
        factory_calldata: creation(owner, salt),
        signature: signed(key, digest).into(),
    };
    for bad in [
        Wrapper {
            factory_calldata: creation(owner, B256::ZERO),
            ..good.clone()
        },
        Wrapper {
            factory_calldata: Bytes::from_static(&[1, 2, 3, 4]),
            ..good.clone()
        },
        Wrapper {
            factory: Address::random(),
            ..good.clone()
        },
        Wrapper {
            signature: signed(B256::random(), digest).into(),
            ..good
        },
    ] {
        let call = eip3009::transfer_call_with_bytes(&paid, &bad.signature);
        let data = bad.deploy_then(TEST_DOLLAR, call);
        let words = refusal(&devnet, signer(&devnet), multicall::MULTICALL3, &data).await;
        assert!(words.contains("Multicall3: call failed"), "{words}");
    }
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_delegated_account_pays_by_its_own_key_through_its_code() {
    let devnet = start().await;
    let key = devnet.info().payers[0];
    let payer = wallet(key).address();
    let designator = Bytes::from([&hex!("ef0100")[..], SMART_WALLET.as_slice()].concat());
    devnet
        .rpc("anvil_setCode", json!([payer, designator]))
        .await
        .unwrap();
    assert_eq!(
        code(&devnet, payer).await,
        AccountCode::Delegated(SMART_WALLET)
    );
    let (paid, digest) = payment(payer, Address::random(), 10_000);
    let signature = signed(key, digest);
    assert!(accepts(&devnet, payer, digest, &signature).await);
    assert!(!accepts(&devnet, payer, digest, &signed(B256::random(), digest)).await);
    let data = eip3009::transfer_call_with_bytes(&paid, &signature);
    let receipt = send(&devnet, signer(&devnet), TEST_DOLLAR, &data, 300_000).await;
    assert_eq!(receipt["status"], "0x1");
    let effects = effects(Logs::of(&receipt).iter());
    assert!(
        effects
            .values()
            .any(|effect| effect.settles(&paid).is_some())
    );
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_contract_wallet_pays_by_permit2_and_a_hostile_one_does_not() {
    let devnet = start().await;
    let key = B256::random();
    let owner = wallet(key).address();
    let payer = deployed(&devnet, owner).await;
    approve(&devnet, payer, TEST_DOLLAR, 50_000).await;
    let permit = permit(TEST_DOLLAR, Address::random(), 10_000, Proxy::Exact);
    let signature = signed(key, permit.digest());
    let call = |signature: &[u8]| settle_call(&permit, payer, permit.amount, signature);
    let forged = call(&signed(B256::random(), permit.digest()));
    assert_eq!(
        refusal_reason(&devnet, signer(&devnet), EXACT_PROXY, &forged).await,
        Some(Reason::Permit2InvalidSignature)
    );
    let receipt = send(
        &devnet,
        signer(&devnet),
        EXACT_PROXY,
        &call(&signature),
        400_000,
    )
    .await;
    assert_eq!(receipt["status"], "0x1");
    let found = settlements(Logs::of(&receipt).iter());
    assert!(found[0].pays(&permit, payer, permit.amount).is_some());

    // The same account turned hostile: burns all gas, answers with as much as gas buys, reverts with as much, refuses.
    let hostile = Contract::HostileWallet.runtime().unwrap();
    devnet
        .rpc("anvil_setCode", json!([payer, hostile]))
        .await
        .unwrap();
    let fresh = support::payments::permit(TEST_DOLLAR, Address::random(), 10_000, Proxy::Exact);
    let data = settle_call(&fresh, payer, fresh.amount, &signed(key, fresh.digest()));
    for mode in [0_u64, 1, 2, 4] {
        let slot = json!([payer, "0x0", B256::from(U256::from(mode))]);
        devnet.rpc("anvil_setStorageAt", slot).await.unwrap();
        let receipt = send(&devnet, signer(&devnet), EXACT_PROXY, &data, 400_000).await;
        assert_eq!(receipt["status"], "0x0", "mode {mode}");
        assert!(settlements(Logs::of(&receipt).iter()).is_empty());
    }
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_delegation_pays_once_and_a_deceiving_manager_is_seen_through() {
    let devnet = start().await;
    let key = B256::random();
    let owner = wallet(key).address();
    let delegator = deployed(&devnet, owner).await;
    let token = PLAIN_TOKEN;
    fund_token(devnet.rpc_url(), token, &[delegator], U256::from(1_000_000))
        .await
        .unwrap();
    give_gas(&devnet, owner).await;
    let trust = SmartWallet::setManagerCall {
        next: DELEGATION_MANAGER,
    };
    send(&devnet, owner, delegator, &trust.abi_encode(), 200_000).await;
    let delegate = signer(&devnet);
    let salt = U256::from(7);
    let hash = DelegationManager::delegationHashCall {
        delegator,
        delegate,
        salt,
    };
    let hash = read(&devnet, DELEGATION_MANAGER, hash).await;
    let context = |key| {
        let signature = Bytes::from(signed(key, hash));
        (delegator, delegate, salt, signature).abi_encode_params()
    };
    let redemption = Redemption {
        manager: DELEGATION_MANAGER,
        delegator,
        permission_context: context(key).into(),
        asset: token,
        pay_to: Address::random(),
        amount: AssetAmount::from(10_000),
    };
    let data = redemption.call();
    let forged = Redemption {
        permission_context: context(B256::random()).into(),
        ..redemption.clone()
    };
    refusal(&devnet, delegate, DELEGATION_MANAGER, &forged.call()).await;
    refusal(&devnet, owner, DELEGATION_MANAGER, &data).await;

    let deceive = |on: u64| json!([DELEGATION_MANAGER, "0x0", B256::from(U256::from(on))]);
    devnet.rpc("anvil_setStorageAt", deceive(1)).await.unwrap();
    let receipt = send(&devnet, delegate, DELEGATION_MANAGER, &data, 500_000).await;
    assert_eq!(receipt["status"], "0x1");
    assert_eq!(
        redemption.settled(&transfers(Logs::of(&receipt).iter())),
        None
    );
    devnet.rpc("anvil_setStorageAt", deceive(0)).await.unwrap();

    let amount = |account| tokens(&devnet, token, account);
    let before = (amount(redemption.pay_to).await, amount(delegator).await);
    let receipt = send(&devnet, delegate, DELEGATION_MANAGER, &data, 500_000).await;
    assert_eq!(receipt["status"], "0x1");
    println!("gas alone, delegation: {}", quantity(&receipt["gasUsed"]));
    let settled = redemption.settled(&transfers(Logs::of(&receipt).iter()));
    assert!(settled.is_some());
    let after = (amount(redemption.pay_to).await, amount(delegator).await);
    let pair = |before: u64, after: u64| (AssetAmount::from(before), AssetAmount::from(after));
    assert!(redemption.moved(pair(before.0, after.0), pair(before.1, after.1)));
    refusal(&devnet, delegate, DELEGATION_MANAGER, &data).await;
    devnet.shutdown().await;
}
