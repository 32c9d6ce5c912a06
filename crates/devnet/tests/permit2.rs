//! `exact` and `upto` through Permit2 and the x402 proxies, signed, called and read by the schemes' own functions.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code
)]

mod support;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall;
use serde_json::json;
use support::payments::{
    CHAIN, Logs, approving_payer, payment, permit, refusal, refusal_reason, signed, tokens,
};
use support::{quantity, read, send, start, wallet};
use teller_devnet::contracts::abi::{Permit2, Token};
use teller_devnet::contracts::{PERMIT2, PLAIN_TOKEN, TEST_DOLLAR};
use teller_devnet::{Devnet, contracts};
use teller_domain::{AssetAmount, Authorization, Reason};
use teller_schemes::permit2::{
    self, EXACT_PROXY, Findings, Permit, Proxy, UPTO_PROXY, decode_call, diagnose, invalidates,
    nonce_used, settle_call, settlements,
};
use teller_schemes::{effects, eip3009, multicall, normalize};

fn signer(devnet: &Devnet) -> Address {
    wallet(devnet.info().signers[0]).address()
}

async fn is_nonce_used(devnet: &Devnet, owner: Address, permit: &Permit) -> bool {
    let data = permit2::nonce_bitmap_call(owner, permit.nonce);
    let call = json!([{ "to": PERMIT2, "data": data }, "latest"]);
    let word = devnet.rpc("eth_call", call).await.unwrap();
    nonce_used(serde_json::from_value(word).unwrap(), permit.nonce)
}

async fn findings(devnet: &Devnet, permit: &Permit, owner: Address) -> Findings {
    let probe =
        json!([{ "to": permit.proxy.address(), "data": permit2::proxy_probe_call() }, "latest"]);
    let answer: Bytes =
        serde_json::from_value(devnet.rpc("eth_call", probe).await.unwrap()).unwrap();
    let allowance =
        json!([{ "to": permit.token, "data": permit2::allowance_call(owner) }, "latest"]);
    let allowance = devnet.rpc("eth_call", allowance).await.unwrap();
    Findings {
        permit2: (answer.len() == 32).then(|| Address::from_slice(&answer[12..])),
        balance: AssetAmount::from(tokens(devnet, permit.token, owner).await),
        allowance: AssetAmount(serde_json::from_value(allowance).unwrap()),
    }
}

#[tokio::test]
async fn permit2_is_the_real_one_and_the_proxies_name_it() {
    let devnet = start().await;
    let code = devnet.rpc("eth_getCode", json!([PERMIT2, "latest"])).await;
    let code: Bytes = serde_json::from_value(code.unwrap()).unwrap();
    assert_eq!(code.len(), 9_152);
    let separator = read(&devnet, PERMIT2, Permit2::DOMAIN_SEPARATORCall {}).await;
    assert_eq!(separator, permit2::domain_separator(CHAIN));
    for proxy in [EXACT_PROXY, UPTO_PROXY] {
        let probe = json!([{ "to": proxy, "data": permit2::proxy_probe_call() }, "latest"]);
        let answer = devnet.rpc("eth_call", probe).await.unwrap();
        assert_eq!(answer, json!(PERMIT2.into_word()));
    }
    assert_eq!(
        (EXACT_PROXY, UPTO_PROXY, permit2::PERMIT2),
        (contracts::EXACT_PROXY, contracts::UPTO_PROXY, PERMIT2)
    );
    devnet.shutdown().await;
}

#[tokio::test]
async fn exact_moves_the_permitted_amount_once_whoever_calls() {
    let devnet = start().await;
    for (token, kind) in [(PLAIN_TOKEN, "plain token"), (TEST_DOLLAR, "test dollar")] {
        let (key, payer) = approving_payer(&devnet, token, 50_000).await;
        let payee = Address::random();
        let permit = permit(token, payee, 10_000, Proxy::Exact);
        let data = settle_call(&permit, payer, permit.amount, &signed(key, permit.digest()));
        let receipt = send(&devnet, signer(&devnet), EXACT_PROXY, &data, 300_000).await;
        assert_eq!(receipt["status"], "0x1");
        println!(
            "gas alone, exact, {kind}: {}",
            quantity(&receipt["gasUsed"])
        );
        let found = settlements(Logs::of(&receipt).iter());
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].pays(&permit, payer, permit.amount),
            Some(found[0].transfer.log_index)
        );
        assert_eq!(tokens(&devnet, token, payee).await, 10_000);
        assert!(is_nonce_used(&devnet, payer, &permit).await);
        let sent = decode_call(CHAIN, EXACT_PROXY, &data).unwrap();
        assert_eq!((sent.permit, sent.owner), (permit, payer));

        let again = refusal_reason(&devnet, payee, EXACT_PROXY, &data).await;
        assert_eq!(again, Some(Reason::Permit2InvalidNonce));
        // A nonce is spent across tokens.
        let other = Permit {
            token: PERMIT2,
            ..permit
        };
        let data = settle_call(&other, payer, other.amount, &signed(key, other.digest()));
        let again = refusal_reason(&devnet, payee, EXACT_PROXY, &data).await;
        assert_eq!(again, Some(Reason::Permit2InvalidNonce));
    }
    devnet.shutdown().await;
}

#[tokio::test]
async fn upto_moves_what_the_named_facilitator_says_and_nobody_else() {
    let devnet = start().await;
    let facilitator = signer(&devnet);
    let (key, payer) = approving_payer(&devnet, PLAIN_TOKEN, 50_000).await;
    let payee = Address::random();
    let permit = permit(PLAIN_TOKEN, payee, 10_000, Proxy::Upto { facilitator });
    let signature = signed(key, permit.digest());
    let settle = |amount: u64| settle_call(&permit, payer, AssetAmount::from(amount), &signature);
    for (from, amount, reason) in [
        (payer, 4_000, Reason::UptoUnauthorizedFacilitator),
        (facilitator, 10_001, Reason::UptoAmountExceedsPermitted),
    ] {
        let told = refusal_reason(&devnet, from, UPTO_PROXY, &settle(amount)).await;
        assert_eq!(told, Some(reason));
    }
    let receipt = send(&devnet, facilitator, UPTO_PROXY, &settle(4_000), 300_000).await;
    assert_eq!(receipt["status"], "0x1");
    println!("gas alone, upto: {}", quantity(&receipt["gasUsed"]));
    let found = settlements(Logs::of(&receipt).iter());
    assert!(
        found[0]
            .pays(&permit, payer, AssetAmount::from(4_000))
            .is_some()
    );
    assert_eq!(found[0].pays(&permit, payer, permit.amount), None);
    assert_eq!(tokens(&devnet, PLAIN_TOKEN, payee).await, 4_000);
    let rest = refusal_reason(&devnet, facilitator, UPTO_PROXY, &settle(6_000)).await;
    assert_eq!(rest, Some(Reason::Permit2InvalidNonce));
    devnet.shutdown().await;
}

#[tokio::test]
async fn what_was_not_signed_reverts_with_its_reason() {
    let devnet = start().await;
    let caller = signer(&devnet);
    let (key, payer) = approving_payer(&devnet, PLAIN_TOKEN, 50_000).await;
    let good = permit(PLAIN_TOKEN, Address::random(), 10_000, Proxy::Exact);
    let signature = signed(key, good.digest());
    let upto = Permit {
        proxy: Proxy::Upto {
            facilitator: caller,
        },
        ..good
    };
    let stranger = signed(B256::random(), good.digest());
    let invalid = Some(Reason::Permit2InvalidSignature);
    let late = Permit {
        deadline: U256::ONE,
        ..good
    };
    let early = Permit {
        valid_after: U256::MAX,
        ..good
    };
    let nothing = Permit {
        amount: AssetAmount::ZERO,
        ..good
    };
    let nobody = Permit {
        to: Address::ZERO,
        ..good
    };
    for (what, permit, owner, signature, reason) in [
        (
            "another witness",
            Permit { to: caller, ..good },
            payer,
            signature.clone(),
            invalid,
        ),
        (
            "another amount",
            Permit {
                amount: AssetAmount::from(9_999),
                ..good
            },
            payer,
            signature.clone(),
            invalid,
        ),
        ("another owner", good, caller, signature.clone(), invalid),
        ("another key", good, payer, stranger, invalid),
        (
            "signed for the other proxy",
            good,
            payer,
            signed(key, upto.digest()),
            invalid,
        ),
        (
            "a short signature",
            good,
            payer,
            signature[..63].to_vec(),
            invalid,
        ),
        ("expired", late, payer, signed(key, late.digest()), invalid),
        (
            "early",
            early,
            payer,
            signed(key, early.digest()),
            Some(Reason::Permit2PaymentTooEarly),
        ),
        (
            "zero",
            nothing,
            payer,
            signed(key, nothing.digest()),
            Some(Reason::Permit2InvalidAmount),
        ),
        (
            "no payee",
            nobody,
            payer,
            signed(key, nobody.digest()),
            Some(Reason::Permit2InvalidDestination),
        ),
        (
            "no owner",
            good,
            Address::ZERO,
            signature.clone(),
            Some(Reason::Permit2InvalidOwner),
        ),
    ] {
        let data = settle_call(&permit, owner, permit.amount, &signature);
        let told = refusal_reason(&devnet, caller, EXACT_PROXY, &data).await;
        assert_eq!(told, reason, "{what}");
    }
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_refusal_by_the_token_is_diagnosed_from_what_the_chain_says() {
    let devnet = start().await;
    let caller = signer(&devnet);
    let (key, payer) = approving_payer(&devnet, PLAIN_TOKEN, 9_999).await;
    for (amount, reason) in [
        (10_000, Reason::Permit2AllowanceRequired),
        (1_000_001, Reason::Permit2InsufficientBalance),
    ] {
        let permit = permit(PLAIN_TOKEN, Address::random(), amount, Proxy::Exact);
        let data = settle_call(&permit, payer, permit.amount, &signed(key, permit.digest()));
        let words = refusal(&devnet, caller, EXACT_PROXY, &data).await;
        assert!(words.contains("TRANSFER_FROM_FAILED"), "{words}");
        let found = findings(&devnet, &permit, payer).await;
        assert_eq!(diagnose(&found, permit.amount, &[]), reason);
    }
    let elsewhere = Findings {
        permit2: None,
        ..findings(
            &devnet,
            &permit(PLAIN_TOKEN, caller, 1, Proxy::Exact),
            payer,
        )
        .await
    };
    assert_eq!(
        diagnose(&elsewhere, AssetAmount::from(1), &[]),
        Reason::Permit2ProxyNotDeployed
    );
    devnet.shutdown().await;
}

#[tokio::test]
async fn an_invalidated_nonce_is_used_and_says_so() {
    let devnet = start().await;
    let (key, payer) = approving_payer(&devnet, PLAIN_TOKEN, 50_000).await;
    let permit = permit(PLAIN_TOKEN, Address::random(), 10_000, Proxy::Exact);
    let [bit, ..] = permit.nonce.to_le_bytes::<32>();
    let throw_away = Permit2::invalidateUnorderedNoncesCall {
        word: permit.nonce >> 8,
        mask: U256::from(1) << usize::from(bit),
    };
    let receipt = send(&devnet, payer, PERMIT2, &throw_away.abi_encode(), 100_000).await;
    let logs = Logs::of(&receipt);
    assert!(
        logs.iter()
            .any(|log| invalidates(&log, payer, permit.nonce))
    );
    assert!(
        !logs
            .iter()
            .any(|log| invalidates(&log, payer, permit.nonce ^ U256::from(1)))
    );
    assert!(is_nonce_used(&devnet, payer, &permit).await);
    let data = settle_call(&permit, payer, permit.amount, &signed(key, permit.digest()));
    assert_eq!(
        refusal_reason(&devnet, payer, EXACT_PROXY, &data).await,
        Some(Reason::Permit2InvalidNonce)
    );
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_batch_of_both_kinds_is_told_apart_and_one_bad_item_fails_alone() {
    let devnet = start().await;
    let (key, payer) = approving_payer(&devnet, TEST_DOLLAR, 50_000).await;
    let payee = Address::random();
    let good = permit(TEST_DOLLAR, payee, 10_000, Proxy::Exact);
    // Would make the same transfer as the EIP-3009 payment in the batch, but is signed by nobody.
    let bad = permit(TEST_DOLLAR, payee, 7_000, Proxy::Exact);
    let (mut paid, digest) = payment(payer, payee, 7_000);
    let signature = normalize(&signed(key, digest)).unwrap();
    paid.authorization = Authorization::Eip3009 {
        signature: signature.into(),
    };
    let call = |permit: &Permit, signature: &[u8]| {
        let data = settle_call(permit, payer, permit.amount, signature);
        (EXACT_PROXY, data)
    };
    let calls = [
        call(&bad, &[7; 65]),
        (TEST_DOLLAR, eip3009::transfer_call(&paid)),
        call(&good, &signed(key, good.digest())),
    ];
    let data = multicall::aggregate(calls.into_iter());
    let receipt = send(
        &devnet,
        signer(&devnet),
        multicall::MULTICALL3,
        &data,
        1_000_000,
    )
    .await;
    assert_eq!(receipt["status"], "0x1");
    let logs = Logs::of(&receipt);
    let found = settlements(logs.iter());
    assert_eq!(found.len(), 1);
    assert!(found[0].pays(&good, payer, good.amount).is_some());
    assert_eq!(found[0].pays(&bad, payer, bad.amount), None);
    let effects = effects(logs.iter());
    assert_eq!(effects.len(), 1);
    assert!(
        effects
            .values()
            .all(|effect| effect.settles(&paid).is_some())
    );
    assert_eq!(tokens(&devnet, TEST_DOLLAR, payee).await, 17_000);
    assert!(!is_nonce_used(&devnet, payer, &bad).await);
    let allowance = Token::allowanceCall {
        owner: payer,
        spender: PERMIT2,
    };
    assert_eq!(
        read(&devnet, TEST_DOLLAR, allowance).await,
        U256::from(40_000)
    );
    devnet.shutdown().await;
}
