//! Payments that their slot's receipt does not settle: whatever becomes of them, neither batch nor lane nor network waits.

use std::time::Duration;

use alloy_primitives::{Address, Bytes, U256, address, bytes, hex, keccak256};
use alloy_sol_types::{SolCall, SolValue, sol};
use serde_json::{Value, json};
use teller_devnet::contracts::{Contract, MULTICALL3, PLAIN_TOKEN, TEST_DOLLAR_IMPLEMENTATION};
use teller_domain::{EXACT_PROXY, PERMIT2};
use teller_schemes::permit2::{Permit, Proxy, settle_call};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::proxy::{Fault, Next, NodeProxy, Rule};
use crate::support::{Buyer, CHAIN, Chain, Setup, Teller, body};
use crate::ways::{
    approving_buyer, audited, permit, receipt, setup, signed, signed_permit_body, tokens,
};

const PAYEE: Address = Address::repeat_byte(0x44);
/// Between what is committed and what is mined, third parties act.
const COMMITTED: Duration = Duration::from_secs(2);
/// How long any payment of these tests may take to have its answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);

/// Calls whom its calldata names with what follows, and reverts if that does. Nobody knows this contract.
const RELAY: Address = address!("0x7e1a7e1a7e1a7e1a7e1a7e1a7e1a7e1a7e1a7e1a");
const RELAY_CODE: Bytes = bytes!("36602090038060205f375f5f915f5f5f355af115601857005b5f5ffd");

sol! {
    struct Permissions { address token; uint256 amount; }
    struct PermitTransferFrom { Permissions permitted; uint256 nonce; uint256 deadline; }
    struct Details { address to; uint256 requestedAmount; }
    function permitTransferFrom(PermitTransferFrom permit, Details details, address owner, bytes signature) external;

    struct Call { address target; bytes callData; }
    function tryAggregate(bool requireSuccess, Call[] calls) external;
}

async fn start(chain: &Chain, proxy: &NodeProxy) -> Teller {
    let setup = Setup {
        rpc: proxy.url.clone(),
        ..setup(chain)
    };
    chain
        .devnet
        .rpc("anvil_setCode", json!([RELAY, RELAY_CODE]))
        .await
        .unwrap();
    Teller::start(chain, setup).await
}

async fn with_two_endpoints(chain: &Chain) -> (NodeProxy, NodeProxy, Teller) {
    let first = NodeProxy::start(chain.devnet.rpc_url()).await;
    let second = NodeProxy::start(chain.devnet.rpc_url()).await;
    let setup = Setup {
        rpc: format!("{}\", \"{}", first.url, second.url),
        ..Setup::embedded(chain)
    };
    let teller = Teller::start(chain, setup).await;
    (first, second, teller)
}

/// A settle call that asks again while the answer is that the payment is pending.
fn settling(teller: &Teller, body: Value) -> JoinHandle<Value> {
    let (http, url) = (teller.http.clone(), format!("{}/settle", teller.url));
    tokio::spawn(async move {
        let until = Instant::now() + ANSWERED_WITHIN;
        loop {
            let answer = http.post(&url).json(&body).send().await.unwrap();
            let answer: Value = answer.json().await.unwrap();
            if answer["errorReason"] != "settlement_pending" || Instant::now() > until {
                return answer;
            }
        }
    })
}

/// The payer spends the permit's nonce by a permit to himself.
async fn spend_otherwise(chain: &Chain, payer: &Buyer, permit: &Permit) -> String {
    let permissions = keccak256("TokenPermissions(address token,uint256 amount)");
    let kind = keccak256(
        "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)",
    );
    let domain = keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)");
    let domain = (domain, keccak256("Permit2"), U256::from(CHAIN.0), PERMIT2).abi_encode();
    let permitted = keccak256((permissions, permit.token, U256::from(1)).abi_encode());
    let content = (
        kind,
        permitted,
        payer.address,
        permit.nonce,
        permit.deadline,
    )
        .abi_encode();
    let digest = [
        &[0x19, 0x01][..],
        keccak256(domain).as_slice(),
        keccak256(content).as_slice(),
    ]
    .concat();
    let call = permitTransferFromCall {
        permit: PermitTransferFrom {
            permitted: Permissions {
                token: permit.token,
                amount: U256::from(1),
            },
            nonce: permit.nonce,
            deadline: permit.deadline,
        },
        details: Details {
            to: payer.address,
            requestedAmount: U256::from(1),
        },
        owner: payer.address,
        signature: signed(payer, keccak256(digest)).into(),
    };
    chain
        .call_as(payer.address, PERMIT2, call.abi_encode())
        .await
}

fn settle_calldata(payer: &Buyer, permit: &Permit) -> Bytes {
    let signature = signed(payer, permit.digest());
    settle_call(permit, payer.address, permit.amount, &signature)
}

/// A third party settles the very permit, through a contract that nobody knows.
async fn settle_by_relay(chain: &Chain, payer: &Buyer, permit: &Permit) -> String {
    let call = settle_calldata(payer, permit);
    let data = [EXACT_PROXY.into_word().as_slice(), &call].concat();
    chain.call_as(Address::random(), RELAY, data).await
}

/// The same by a function of Multicall3 that teller does not use.
async fn settle_by_multicall(chain: &Chain, payer: &Buyer, permit: &Permit) -> String {
    let call = tryAggregateCall {
        requireSuccess: true,
        calls: vec![Call {
            target: EXACT_PROXY,
            callData: settle_calldata(payer, permit),
        }],
    };
    chain
        .call_as(Address::random(), MULTICALL3, call.abi_encode())
        .await
}

/// Payers and third parties overtake teller; with nodes that show what a transaction called, and with nodes that do not.
async fn overtaken(with_traces: bool) {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
    let teller = start(&chain, &proxy).await;
    let mut payers = Vec::new();
    for _ in 0..3 {
        payers.push(approving_buyer(&chain, PLAIN_TOKEN, 50_000).await);
    }
    sleep(COMMITTED).await;
    let permits = [(); 3].map(|()| permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Exact));
    proxy.set(Next::Swallow);
    let bodies = payers.iter().zip(&permits);
    let told: Vec<_> = bodies
        .map(|(payer, permit)| settling(&teller, signed_permit_body(payer, permit)))
        .collect();
    proxy.caught().await;
    sleep(COMMITTED).await;
    let spent = spend_otherwise(&chain, &payers[0], &permits[0]).await;
    let relayed = settle_by_relay(&chain, &payers[1], &permits[1]).await;
    let multicalled = settle_by_multicall(&chain, &payers[2], &permits[2]).await;
    for hash in [&spent, &relayed, &multicalled] {
        assert_eq!(receipt(&chain, hash).await["status"], "0x1");
    }
    proxy.set(Next::Pass);
    if !with_traces {
        let unknown = Fault::Error(-32601, "the method debug_traceTransaction does not exist");
        proxy.inject(Rule::new(&["debug_traceTransaction"], unknown));
    }
    // Nobody else waits for them.
    for number in 0..3 {
        let payment = chain.payer(5).pay(&chain, PAYEE, 100, number);
        let (_, answer) = teller.post("/settle", &body(&chain, &payment)).await;
        assert_eq!(answer["success"], true, "{answer}\n{}", teller.log());
    }
    let mut answers = Vec::new();
    for told in told {
        answers.push(told.await.unwrap());
    }
    let log = || teller.log();
    assert_eq!(
        answers[0]["errorReason"],
        "permit2_invalid_nonce",
        "{answers:?}\n{}",
        log()
    );
    for (answer, theirs) in answers[1..].iter().zip([relayed, multicalled]) {
        assert_eq!(answer["success"], true, "{answers:?}\n{}", log());
        assert_eq!(answer["transaction"], json!(theirs));
    }
    let rows = teller.settlements().await;
    let count = |state: &str| rows.iter().filter(|row| row["state"] == state).count();
    assert_eq!((count("settled_externally"), count("failed")), (2, 1));
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 20_000);
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_somebody_spends_first_ends_by_what_the_chain_shows_and_holds_up_nobody() {
    overtaken(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_somebody_spends_first_is_found_by_its_nonce_where_nodes_have_no_traces() {
    overtaken(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_settled_at_once_while_a_second_endpoint_is_away() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (first, second, teller) = with_two_endpoints(&chain).await;
    // The first goes alone, as the lane is idle; the others share the next slot.
    first.set(Next::Swallow);
    second.set(Next::Swallow);
    let payments: Vec<_> = (0..8)
        .map(|index| chain.payer(index).pay(&chain, PAYEE, 100, 7))
        .collect();
    let mut told = vec![settling(&teller, body(&chain, &payments[0]))];
    first.caught().await;
    for payment in &payments[1..] {
        told.push(settling(&teller, body(&chain, payment)));
    }
    sleep(COMMITTED).await;
    let emptied = chain.empty(payments[7].key.payer).await;
    assert_eq!(receipt(&chain, &emptied).await["status"], "0x1");
    second.set(Next::Down);
    first.set(Next::Pass);
    let last = told.pop().unwrap();
    for told in told {
        let answer = told.await.unwrap();
        assert_eq!(answer["success"], true, "{answer}\n{}", teller.log());
    }
    // Others go on, whatever is still to be found out.
    for number in 0..3 {
        let payment = chain.payer(9).pay(&chain, PAYEE, 100, number);
        let (_, answer) = teller.post("/settle", &body(&chain, &payment)).await;
        assert_eq!(answer["success"], true, "{answer}");
    }
    assert!(!last.is_finished());
    let rows = teller.settlements().await;
    let states: Vec<_> = rows.iter().map(|row| row["state"].clone()).collect();
    let unexplained = states
        .iter()
        .filter(|state| **state == "unexplained")
        .count();
    assert_eq!(unexplained, 1, "{states:?}");
    let metrics = reqwest::get(teller.metrics_url()).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("teller_payments_unexplained{network=\"eip155:84532\"} 1"));
    second.set(Next::Pass);
    let answer = last.await.unwrap();
    assert_eq!(
        answer["errorReason"], "invalid_exact_evm_insufficient_balance",
        "{answer}"
    );
    audited(&chain, &teller);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unexplained_payment_is_looked_into_after_a_kill() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (first, second, mut teller) = with_two_endpoints(&chain).await;
    first.set(Next::Swallow);
    second.set(Next::Swallow);
    let payment = chain.payer(0).pay(&chain, PAYEE, 100, 7);
    let told = settling(&teller, body(&chain, &payment));
    first.caught().await;
    sleep(COMMITTED).await;
    let emptied = chain.empty(payment.key.payer).await;
    assert_eq!(receipt(&chain, &emptied).await["status"], "0x1");
    second.set(Next::Down);
    first.set(Next::Pass);
    let until = Instant::now() + ANSWERED_WITHIN;
    while teller.settlements().await[0]["state"] != "unexplained" {
        assert!(Instant::now() < until, "{}", teller.log());
        sleep(Duration::from_millis(200)).await;
    }
    told.abort();
    teller.kill();
    second.set(Next::Pass);
    teller.restart().await;
    let answer = settling(&teller, body(&chain, &payment)).await.unwrap();
    assert_eq!(
        answer["errorReason"],
        "invalid_exact_evm_insufficient_balance",
        "{answer}\n{}",
        teller.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_begins_to_take_a_fee_fails_payments_under_their_transaction() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
    let teller = start(&chain, &proxy).await;
    let payer = approving_buyer(&chain, PLAIN_TOKEN, 50_000).await;
    sleep(COMMITTED).await;
    let permit = permit(PLAIN_TOKEN, PAYEE, 10_000, Proxy::Exact);
    let payment = chain.payer(0).pay(&chain, PAYEE, 10_000, 7);
    proxy.set(Next::Swallow);
    let told = [signed_permit_body(&payer, &permit), body(&chain, &payment)]
        .map(|body| settling(&teller, body));
    proxy.caught().await;
    sleep(COMMITTED).await;
    for (at, contract) in [
        (PLAIN_TOKEN, Contract::FeeToken),
        (TEST_DOLLAR_IMPLEMENTATION, Contract::FeeDollar),
    ] {
        let code = hex::encode_prefixed(contract.runtime().unwrap());
        let set = json!([at, code]);
        chain.devnet.rpc("anvil_setCode", set).await.unwrap();
    }
    proxy.set(Next::Pass);
    for told in told {
        let answer = told.await.unwrap();
        assert_eq!(
            answer["errorReason"],
            "invalid_exact_evm_transfer_event_mismatch",
            "{answer}\n{}",
            teller.log()
        );
        let transaction = answer["transaction"].as_str().unwrap();
        let mined = receipt(&chain, transaction).await;
        assert_eq!(mined["status"], "0x1");
    }
    assert_eq!(tokens(&chain, PLAIN_TOKEN, PAYEE).await, 9_900);
}
