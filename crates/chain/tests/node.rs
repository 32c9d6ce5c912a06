//! Against a real anvil: the head is followed, reads fail over, sends are told apart, inspections travel together.
//!
//! One long file, because it is one list of behaviours.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod fake;

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use serde_json::json;
use teller_chain::{
    AuthorizationState, FeePolicy, HeadEvent, InspectItem, InspectLimits, Inspector, LocalSigner,
    NodeConfig, NodeError, Nodes, SendOutcome, Simulation, watch_heads,
};
use teller_devnet::contracts::{NAME, TEST_DOLLAR, VERSION};
use teller_devnet::{Devnet, DevnetConfig, Mining};
use teller_domain::{
    AccountNonce, Asset, AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce,
    BlockRef, ChainId, Payment, UnixSeconds, Validity, Wei,
};
use teller_schemes::eip3009;

use fake::{FakeNode, View};
use tokio::time::{Instant, sleep, timeout};

const CHAIN: ChainId = ChainId(84532);

async fn devnet(mining: Mining) -> Devnet {
    Devnet::start(DevnetConfig {
        mining,
        payers: 3,
        ..DevnetConfig::default()
    })
    .await
    .unwrap()
}

fn nodes(rpc: &[&str]) -> Nodes {
    Nodes::connect(NodeConfig {
        chain: CHAIN,
        rpc: rpc.iter().map(|url| (*url).to_owned()).collect(),
        flashblocks: Vec::new(),
        request_timeout: Duration::from_secs(5),
    })
    .unwrap()
}

fn signer(devnet: &Devnet) -> LocalSigner {
    LocalSigner::from_hex(&devnet.info().signers[0].to_string()).unwrap()
}

fn item(payer: B256, payee: Address, value: u64) -> InspectItem {
    let asset = Asset {
        chain: CHAIN,
        address: TEST_DOLLAR,
        name: NAME.to_owned(),
        version: VERSION.to_owned(),
        decimals: 6,
    };
    let from = LocalSigner::from_hex(&payer.to_string()).unwrap().address();
    let mut payment = Payment {
        key: AuthorizationKey {
            chain: CHAIN,
            authority: TEST_DOLLAR,
            payer: from,
            nonce: AuthorizationNonce(B256::random()),
        },
        asset: TEST_DOLLAR,
        payee,
        value: AssetAmount::from(value),
        validity: Validity::between(UnixSeconds(0), UnixSeconds(u64::MAX)),
        authorization: Authorization::Eip3009 {
            signature: teller_schemes::sign(B256::ZERO, &payer.0).unwrap().into(),
        },
    };
    let digest = eip3009::Domain::new(&asset).digest(&payment);
    let signature = teller_schemes::sign(digest, &payer.0).unwrap();
    payment.authorization = Authorization::Eip3009 {
        signature: signature.into(),
    };
    InspectItem::of(&payment, teller_schemes::multicall::MULTICALL3)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_is_followed_closely_and_without_gaps() {
    let devnet = devnet(Mining::Interval(Duration::from_secs(1))).await;
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let heads = watch_heads(nodes(&[devnet.rpc_url()]), Duration::from_secs(1));
    let mut events = heads.subscribe();
    let mut seen = Vec::new();
    // The first ones teach the rhythm.
    while seen.len() < 12 {
        let event = timeout(Duration::from_secs(30), events.recv()).await;
        if let HeadEvent::Sealed(block) = event.expect("no block came").unwrap() {
            seen.push(block.number);
        }
    }
    let calls = metrics.render();
    // A look at every other millisecond tells when a block really came.
    let spy = nodes(&[devnet.rpc_url()]);
    let mut lags = Vec::new();
    for _ in 0..3 {
        let before = spy.head().await.unwrap().number;
        let mut watched = heads.watch();
        let real = tokio::spawn({
            let spy = spy.clone();
            async move {
                while spy.head().await.unwrap().number == before {
                    sleep(Duration::from_millis(2)).await;
                }
                Instant::now()
            }
        });
        let found = watched.wait_for(|head| head.as_ref().is_some_and(|h| h.block.number > before));
        let found = timeout(Duration::from_secs(30), found).await;
        let found = found
            .expect("no head came")
            .unwrap()
            .as_ref()
            .unwrap()
            .seen_at;
        lags.push(found.saturating_duration_since(real.await.unwrap()));
    }
    for pair in seen.windows(2) {
        assert_eq!(pair[0] + 1, pair[1]);
    }
    println!(
        "lags {lags:?}\n{}",
        calls
            .lines()
            .filter(|l| l.contains("calls_total"))
            .collect::<Vec<_>>()
            .join("\n")
    );
    let lag = lags.iter().sum::<Duration>() / 3;
    assert!(lag < heads.block_interval() / 2, "{lag:?}");
    let head = heads.latest().unwrap();
    assert!(head.chain_time() >= head.block.timestamp);
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_blocks_and_a_reorg_are_delivered_in_order() {
    let devnet = devnet(Mining::Manual).await;
    let heads = watch_heads(nodes(&[devnet.rpc_url()]), Duration::from_millis(200));
    let mut events = heads.subscribe();
    let first = heads.first(Duration::from_secs(5)).await.unwrap();
    // The first block's own event may come after the head.
    let told = timeout(Duration::from_secs(5), events.recv()).await;
    assert!(matches!(told, Ok(Ok(HeadEvent::Sealed(block))) if block.number == first.block.number));
    let snapshot = devnet.rpc("evm_snapshot", json!([])).await.unwrap();
    devnet.rpc("anvil_mine", json!(["0x96"])).await.unwrap();
    let start = first.block.number;
    let mut before = Vec::new();
    for number in start + 1..=start + 150 {
        match timeout(Duration::from_secs(5), events.recv()).await {
            Ok(Ok(HeadEvent::Sealed(block))) => {
                assert_eq!(block.number, number);
                before.push(block.reference());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(before.iter().all(|b| heads.is_canonical(*b) == Some(true)));
    devnet.rpc("evm_revert", json!([snapshot])).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    devnet
        .rpc("anvil_mine", json!(["0x5", "0x7"]))
        .await
        .unwrap();
    let mut expected = start + 1;
    loop {
        match timeout(Duration::from_secs(5), events.recv()).await {
            Ok(Ok(HeadEvent::Reorg { from })) => {
                assert!(from <= start + 1);
                expected = from;
            }
            Ok(Ok(HeadEvent::Sealed(block))) => {
                assert_eq!(block.number, expected);
                expected += 1;
                // Whoever hears of a block can ask about it at once.
                assert_eq!(heads.is_canonical(block.reference()), Some(true));
                if block.number == start + 5 {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        heads.latest().map(|head| head.block.number),
        Some(start + 5)
    );
    for block in before {
        let gone = (block.number <= start + 5).then_some(false);
        assert_eq!(heads.is_canonical(block), gone, "{block:?}");
    }
    // Above the head and before what is kept nothing is known.
    let mut above = first.block.reference();
    above.number += 1_000;
    assert_eq!(heads.is_canonical(above), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn ancestry_is_known_from_the_first_block_on() {
    let devnet = devnet(Mining::Manual).await;
    let snapshot = devnet.rpc("evm_snapshot", json!([])).await.unwrap();
    devnet.rpc("anvil_mine", json!(["0x12c"])).await.unwrap();
    let nodes_ = nodes(&[devnet.rpc_url()]);
    let heads = watch_heads(nodes_.clone(), Duration::from_millis(200));
    let first = heads.first(Duration::from_secs(5)).await.unwrap();
    let ancestry = heads.ancestry();
    assert_eq!(ancestry.len(), 256);
    assert_eq!(ancestry.last().map(|b| b.hash), Some(first.block.hash));
    for pair in ancestry.windows(2) {
        assert_eq!(
            (pair[0].hash, pair[0].number + 1),
            (pair[1].parent, pair[1].number)
        );
    }
    let mut fork = ancestry[0].reference();
    assert_eq!(heads.is_canonical(fork), Some(true));
    fork.hash = B256::random();
    assert_eq!(heads.is_canonical(fork), Some(false));

    // Deeper than what is kept.
    let mut events = heads.subscribe();
    devnet.rpc("evm_revert", json!([snapshot])).await.unwrap();
    devnet
        .rpc("anvil_mine", json!(["0x12d", "0x7"]))
        .await
        .unwrap();
    let lowest = ancestry[0].number;
    loop {
        match timeout(Duration::from_secs(10), events.recv()).await {
            // Whoever waits for the head may hear of it once more.
            Ok(Ok(HeadEvent::Sealed(block))) if block.hash == first.block.hash => {}
            Ok(Ok(HeadEvent::Reorg { from })) => break assert_eq!(from, lowest),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_chain_has_a_short_ancestry() {
    let devnet = devnet(Mining::Manual).await;
    let heads = watch_heads(nodes(&[devnet.rpc_url()]), Duration::from_millis(200));
    let first = heads.first(Duration::from_secs(5)).await.unwrap();
    let ancestry = heads.ancestry();
    assert_eq!(ancestry[0].number, 0);
    assert_eq!(ancestry.len() as u64, first.block.number + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_says_for_itself_what_it_sees_of_a_slot() {
    let devnet = devnet(Mining::Manual).await;
    let alone = nodes(&[devnet.rpc_url()]);
    // One that knows nothing but where the chain began, and one of another chain, which is not asked.
    let (behind, other) = (
        FakeNode::start(View::at(5)).await,
        FakeNode::start(View::at(5)).await,
    );
    behind.script().genesis = alone.genesis_hash().await.ok();
    let dead = "http://127.0.0.1:1";
    let four = nodes(&[dead, devnet.rpc_url(), &behind.url, &other.url]);
    assert_eq!(four.endpoints(), 4);
    let signer = signer(&devnet);
    let head = alone.head().await.unwrap();
    let nonce = alone
        .account_nonce(signer.address(), head.number)
        .await
        .unwrap();
    let fees = FeePolicy::default().initial(head.base_fee, 0);
    let noop = signer.sign_noop(CHAIN, nonce, fees).unwrap();
    let hashes = [B256::random(), noop.hash];

    alone.send(&noop.raw).await;
    let waiting = four.sightings(signer.address(), &hashes, None).await;
    let known: Vec<_> = waiting
        .iter()
        .map(|s| (s.known, s.receipts.len()))
        .collect();
    assert_eq!(known, [(true, 0), (false, 0)]);
    assert_eq!(waiting[0].sealed, head.reference());
    assert_eq!(waiting[0].sealed_nonce, nonce);

    devnet.rpc("evm_mine", json!([])).await.unwrap();
    let mined = four.sightings(signer.address(), &hashes, None).await;
    assert_eq!(mined[0].sealed_nonce, nonce.next());
    assert_eq!(mined[0].receipts[0].transaction, noop.hash);
    assert_eq!(mined[0].receipts[0].block, mined[0].sealed);
    assert!(!mined[1].known);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_orphaned_when_two_endpoints_say_so() {
    let devnet = devnet(Mining::Manual).await;
    devnet.rpc("anvil_mine", json!(["0x3"])).await.unwrap();
    let alone = nodes(&[devnet.rpc_url()]);
    let head = alone.head().await.unwrap().reference();
    let mut orphan = head;
    orphan.hash = B256::random();
    let mut ahead = head;
    ahead.number += 10;
    let blocks = [head, orphan, ahead];
    let check = alone.check_blocks(&blocks).await.unwrap();
    assert_eq!(check.canonical, [head]);
    assert_eq!(check.orphaned, [orphan]);

    let agreed = nodes(&[devnet.rpc_url(), devnet.rpc_url()]);
    assert_eq!(agreed.check_blocks(&blocks).await.unwrap(), check);
    // The other one has another chain: what the first one calls orphaned the second one may hold, or has not reached.
    let other = self::devnet(Mining::Manual).await;
    let lagging = nodes(&[devnet.rpc_url(), other.rpc_url()]);
    let doubtful = lagging.check_blocks(&blocks).await.unwrap();
    assert_eq!(doubtful.orphaned, []);
    let dead = nodes(&["http://127.0.0.1:1"]);
    assert!(dead.check_blocks(&blocks).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn safe_and_finalized_heads_are_read_by_their_tags() {
    let devnet = devnet(Mining::Manual).await;
    devnet.rpc("anvil_mine", json!(["0x64"])).await.unwrap();
    let nodes = nodes(&[devnet.rpc_url()]);
    let head = nodes.head().await.unwrap().number;
    let (safe, finalized) = nodes.safe_and_finalized().await.unwrap();
    let (safe, finalized) = (safe.unwrap(), finalized.unwrap());
    assert!(finalized.number < safe.number && safe.number < head);
    assert_eq!(
        nodes.block(safe.number).await.unwrap().map(|b| b.hash),
        Some(safe.hash)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_pinned_to_one_block_not_below_what_was_seen() {
    let devnet = devnet(Mining::Manual).await;
    let two = nodes(&[devnet.rpc_url(), devnet.rpc_url()]);
    let heads = watch_heads(two.clone(), Duration::from_millis(200));
    let first = heads.first(Duration::from_secs(5)).await.unwrap();
    let inspector = Inspector::spawn(two, heads.clone(), InspectLimits::default());
    let items = [item(devnet.info().payers[0], Address::repeat_byte(1), 5)];
    let mut ahead = first.block.reference();
    ahead.number += 1;
    let asking = inspector.witnessed(&items, ahead);
    let mining = async {
        sleep(Duration::from_millis(300)).await;
        devnet.rpc("evm_mine", json!([])).await.unwrap();
    };
    let (evidence, ()) = tokio::join!(asking, mining);
    let evidence = evidence.unwrap();
    assert_eq!(evidence.len(), 2);
    for witness in &evidence {
        assert_eq!(witness[0].block.number, ahead.number);
        assert_eq!(witness[0].authorization, AuthorizationState::Unused);
        assert!(matches!(
            witness[0].simulation,
            Simulation::Succeeded { .. }
        ));
    }

    // One witness of two has nothing to say.
    let half = nodes(&[devnet.rpc_url(), "http://127.0.0.1:1"]);
    let inspector = Inspector::spawn(half, heads, InspectLimits::default());
    let refused = inspector.witnessed(&items, first.block.reference()).await;
    assert!(refused.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_fail_over_and_errors_hold_no_url() {
    let devnet = devnet(Mining::Instant).await;
    let ws = devnet.rpc_url().replace("http", "ws");
    let nodes_ = nodes(&["http://127.0.0.1:1/SECRET", &ws]);
    assert_eq!(nodes_.chain_id().await, Ok(84532));
    assert_ne!(nodes_.genesis_hash().await, Ok(B256::ZERO));
    for _ in 0..5 {
        nodes_.head().await.unwrap();
    }
    // A negative fact needs a second witness, and there is only one.
    assert!(nodes_.transactions_known(&[B256::random()]).await.is_err());
    let alone = nodes(&[devnet.rpc_url()]);
    assert_eq!(
        alone.transactions_known(&[B256::random()]).await,
        Ok(vec![false])
    );

    let dead = nodes(&["http://127.0.0.1:1/SECRET"]);
    let error = dead.chain_id().await.unwrap_err();
    assert_eq!(error, NodeError::Refused);
    assert!(!format!("{error} {error:?} {dead:?}").contains("SECRET"));
    assert!(
        matches!(dead.send(&Bytes::new()).await, SendOutcome::Unknown(text) if !text.contains("SECRET"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcomes_of_a_send_are_told_apart() {
    let devnet = devnet(Mining::Manual).await;
    let nodes = nodes(&[devnet.rpc_url(), devnet.rpc_url()]);
    let signer = signer(&devnet);
    let head = nodes.head().await.unwrap();
    let nonce = nodes
        .account_nonce(signer.address(), head.number)
        .await
        .unwrap();
    let policy = FeePolicy::default();
    let fees = policy.initial(head.base_fee, nodes.tip().await.unwrap());

    let noop = signer.sign_noop(CHAIN, nonce, fees).unwrap();
    assert_eq!(nodes.send(&noop.raw).await, SendOutcome::Accepted);
    assert_eq!(nodes.send(&noop.raw).await, SendOutcome::AlreadyKnown);
    assert_eq!(nodes.transactions_known(&[noop.hash]).await, Ok(vec![true]));
    let mut other = fees;
    other.max_priority_fee_per_gas += 1;
    let other = signer.sign_noop(CHAIN, nonce, other).unwrap();
    assert_eq!(nodes.send(&other.raw).await, SendOutcome::Underpriced);
    let bumped = policy.replacement(fees, head.base_fee, 0).unwrap();
    let bumped = signer.sign_noop(CHAIN, nonce, bumped).unwrap();
    assert_eq!(nodes.send(&bumped.raw).await, SendOutcome::Accepted);

    let huge = signer.sign_batch(
        CHAIN,
        nonce.next(),
        Address::ZERO,
        Bytes::new(),
        20_000_000,
        fees,
    );
    assert_eq!(
        nodes.send(&huge.unwrap().raw).await,
        SendOutcome::GasTooHigh
    );
    let poor = LocalSigner::from_hex(&B256::random().to_string()).unwrap();
    let poor = poor.sign_noop(CHAIN, AccountNonce(0), fees).unwrap();
    assert_eq!(nodes.send(&poor.raw).await, SendOutcome::InsufficientFunds);

    devnet.rpc("evm_mine", json!([])).await.unwrap();
    assert_eq!(nodes.send(&other.raw).await, SendOutcome::NonceTooLow);
    let receipts = nodes.receipts(&[noop.hash, bumped.hash]).await.unwrap();
    assert!(receipts[0].is_none());
    let receipt = receipts[1].as_ref().unwrap();
    assert!(receipt.succeeded && receipt.gas_used == 21_000 && receipt.cost.0 > U256::ZERO);
    assert_eq!(
        nodes
            .account_nonce(signer.address(), receipt.block.number)
            .await,
        Ok(nonce.next())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn inspections_travel_together_and_tell_good_from_bad() {
    let devnet = devnet(Mining::Interval(Duration::from_secs(1))).await;
    let nodes = nodes(&[devnet.rpc_url()]);
    let heads = watch_heads(nodes.clone(), Duration::from_secs(1));
    let inspector = Inspector::spawn(nodes, heads, InspectLimits::default());
    let payers = &devnet.info().payers;
    let payee = Address::repeat_byte(0x55);

    let good = inspector
        .inspect(item(payers[0], payee, 10_000))
        .await
        .unwrap();
    assert_eq!(good.balance, Some(AssetAmount::from(1_000_000_000)));
    assert_eq!(
        (good.code_size, good.authorization),
        (0, AuthorizationState::Unused)
    );
    assert!(matches!(good.simulation, Simulation::Succeeded { gas_used } if gas_used < 100_000));

    let broke = item(payers[0], payee, 2_000_000_000);
    let broke = inspector.inspect(broke).await.unwrap();
    let Simulation::Reverted(data) = broke.simulation else {
        panic!()
    };
    assert_eq!(
        eip3009::classify_revert(&data),
        Some(teller_domain::Reason::InsufficientBalance)
    );
    let mut nowhere = item(payers[0], payee, 1);
    nowhere.token = Address::repeat_byte(9);
    let nowhere = inspector.inspect(nowhere).await.unwrap();
    assert_eq!(
        (nowhere.balance, nowhere.authorization),
        (None, AuthorizationState::Unreadable)
    );
    let (_, sizes) = inspector.code_sizes(&[TEST_DOLLAR, payee]).await.unwrap();
    assert!(sizes[0] > 0 && sizes[1] == 0);

    let items: Vec<_> = (0..1_000)
        .map(|n| item(payers[n % 3], Address::from_word(B256::random()), 1_000))
        .collect();
    let started = Instant::now();
    let tasks: Vec<_> = items
        .into_iter()
        .map(|item| {
            let inspector = inspector.clone();
            tokio::spawn(async move { inspector.inspect(item).await })
        })
        .collect();
    for task in tasks {
        let inspection = task.await.unwrap().unwrap();
        assert!(
            matches!(inspection.simulation, Simulation::Succeeded { .. }),
            "{inspection:?}"
        );
    }
    println!("1,000 inspections in {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_less_gas_gets_smaller_calls() {
    let devnet = devnet(Mining::Instant).await;
    let nodes = nodes(&[devnet.rpc_url()]);
    let heads = watch_heads(nodes.clone(), Duration::from_secs(1));
    let limits = InspectLimits {
        gas: 3_000_000,
        ..InspectLimits::default()
    };
    let inspector = Inspector::spawn(nodes, heads, limits);
    let payer = devnet.info().payers[0];
    let items = (0..120)
        .map(|_| item(payer, Address::from_word(B256::random()), 1_000))
        .collect();
    for inspection in inspector.inspect_many(items).await.unwrap() {
        assert!(matches!(
            inspection.simulation,
            Simulation::Succeeded { .. }
        ));
    }
}

#[tokio::test]
async fn an_account_is_read_after_a_canonical_block_by_as_many_as_it_takes() {
    let devnet = devnet(Mining::Manual).await;
    let lone = nodes(&[devnet.rpc_url()]);
    let two = nodes(&[devnet.rpc_url(), devnet.rpc_url()]);
    let signer = signer(&devnet);
    let head = lone.head().await.unwrap().reference();
    let before = lone.account(signer.address(), head).await.unwrap();
    let stranger = Address::repeat_byte(9);
    let fees = FeePolicy::default().initial(1_000_000_000, 0);
    let pay = signer.sign_top_up(CHAIN, before.nonce, stranger, Wei::from(5), 21_000, fees);
    let pay = pay.unwrap();
    let pay_hash = pay.hash;
    lone.send(&pay.raw).await;
    devnet.rpc("evm_mine", json!([])).await.unwrap();
    let next = lone.head().await.unwrap().reference();
    let after = two.witnessed_account(signer.address(), next).await.unwrap();
    assert_eq!(after.len(), 2);
    assert_eq!(after[0], after[1]);
    assert_eq!(after[0].nonce, before.nonce.next());
    assert!(after[0].balance < before.balance);
    let given = lone.account(stranger, next).await.unwrap();
    assert_eq!(
        (given.nonce, given.balance),
        (AccountNonce(0), Wei::from(5))
    );
    let paid = lone.given(pay_hash).await.unwrap();
    assert_eq!(paid, Some((stranger, Wei::from(5))));
    assert_eq!(lone.given(B256::repeat_byte(3)).await.unwrap(), None);
    // What was is what was; and what is not canonical is not told of.
    assert_eq!(lone.account(signer.address(), head).await.unwrap(), before);
    let orphan = BlockRef {
        hash: B256::repeat_byte(1),
        ..next
    };
    let refused = two.witnessed_account(stranger, orphan).await;
    assert!(
        matches!(refused, Err(NodeError::BadAnswer(_))),
        "{refused:?}"
    );
    let dead = nodes(&[devnet.rpc_url(), "http://127.0.0.1:1"]);
    assert!(dead.account(stranger, next).await.is_ok());
    assert!(
        dead.witnessed_account(stranger, next).await.is_err(),
        "one is not two"
    );
}

#[tokio::test]
async fn what_data_costs_beside_gas_is_asked_of_the_op_stacks_oracle_where_there_is_one() {
    let devnet = devnet(Mining::Manual).await;
    let nodes = nodes(&[devnet.rpc_url()]);
    let head = nodes.head().await.unwrap().reference();
    let asked = async || nodes.data_fee_bound(180, head).await;
    assert_eq!(asked().await.unwrap(), Wei::ZERO, "there is none");
    // Contracts of one instruction or two: what they answer is what they push.
    let oracle = "0x420000000000000000000000000000000000000F";
    let put = async |code: &str| {
        devnet
            .rpc("anvil_setCode", json!([oracle, code]))
            .await
            .unwrap();
    };
    put("0x6107d060005260206000f3").await;
    assert_eq!(asked().await.unwrap(), Wei::from(2_000));
    // An older one, which reverts; one that says what cannot be; one that says half a word.
    put("0x60006000fd").await;
    assert_eq!(asked().await.unwrap(), Wei::ZERO);
    put("0x60001960005260206000f3").await;
    assert!(matches!(asked().await, Err(NodeError::BadAnswer(_))));
    put("0x6107d060005260106000f3").await;
    assert!(matches!(asked().await, Err(NodeError::BadAnswer(_))));
}
