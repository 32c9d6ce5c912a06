//! Which head is followed, on which endpoint, and what a bound on batches does to it. The nodes are made up, so that they can
//! fail in the ways of providers and load balancers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod fake;

use std::time::Duration;

use alloy_primitives::B256;
use teller_chain::{HeadDoubt, HeadEvent, HeadHandle, NodeError, watch_heads};
use teller_domain::{ChainId, UnixSeconds};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};

use fake::{CHAIN, FakeNode, Refusal, View, nodes};

const INTERVAL: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(30);

async fn follows(heads: &HeadHandle, view: View) {
    let mut head = heads.watch();
    let hash = view.hash(view.head);
    let found = timeout(
        LONG,
        head.wait_for(|head| head.as_ref().is_some_and(|head| head.block.hash == hash)),
    );
    let reached = found.await.is_ok_and(|found| found.is_ok());
    assert!(reached, "{view:?} is not followed: {:?}", heads.latest());
}

/// Lets a node grow by a block every interval.
fn grows(node: &FakeNode) -> tokio::task::JoinHandle<()> {
    let node = node.clone();
    tokio::spawn(async move {
        loop {
            sleep(INTERVAL).await;
            node.script().view.head += 1;
        }
    })
}

fn reorgs(events: &mut broadcast::Receiver<HeadEvent>) -> usize {
    let mut reorgs = 0;
    while let Ok(event) = events.try_recv() {
        reorgs += usize::from(matches!(event, HeadEvent::Reorg { .. }));
    }
    reorgs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_long_batches_is_followed_after_it_was_away() {
    for (max_batch, refusal) in [
        (10, Refusal::OneError(-32014)),
        (10, Refusal::Status(413)),
        (3, Refusal::EachError(-32600)),
        (3, Refusal::Some),
        (10, Refusal::SomeErrors(-32005)),
        (5, Refusal::Cut),
        (7, Refusal::OneErrorWithStatus(-32600, 400)),
        (0, Refusal::OneError(-32601)),
        (0, Refusal::Status(500)),
    ] {
        let node = FakeNode::start(View::at(500)).await;
        node.script().max_batch = max_batch;
        node.script().refusal = refusal;
        let nodes = nodes(&[&node]);
        let heads = watch_heads(nodes.clone(), INTERVAL);
        heads.first(LONG).await.unwrap();
        assert_eq!(heads.ancestry().len(), 256, "{max_batch} {refusal:?}");
        let learned = node.script().refused;
        assert!((1..=7).contains(&learned), "{learned} {refusal:?}");
        // Away for longer than a batch is long.
        node.script().down = true;
        sleep(INTERVAL).await;
        node.script().view.head += 100;
        node.script().down = false;
        follows(&heads, View::at(600)).await;
        let hashes: Vec<B256> = (0..40).map(B256::with_last_byte).collect();
        assert_eq!(nodes.receipts(&hashes).await.unwrap().len(), 40);
        assert_eq!(
            node.script().refused,
            learned,
            "the size is remembered: {max_batch} {refusal:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_head_of_all_endpoints_is_followed() {
    // The first one is an hour behind, and stands still.
    let (behind, tip) = (
        FakeNode::start(View::at(1_000)).await,
        FakeNode::start(View::at(1_400)).await,
    );
    let nodes = nodes(&[&behind, &tip]);
    let heads = watch_heads(nodes.clone(), INTERVAL);
    follows(&heads, View::at(1_400)).await;
    tip.shows(View::at(1_401));
    follows(&heads, View::at(1_401)).await;
    // What is read is read from the one that has the block.
    let (asked, behind_asked) = (
        tip.calls("eth_getTransactionCount"),
        behind.calls("eth_getTransactionCount"),
    );
    nodes
        .account_nonce(alloy_primitives::Address::ZERO, 1_401)
        .await
        .unwrap();
    assert_eq!(tip.calls("eth_getTransactionCount"), asked + 1);
    assert_eq!(behind.calls("eth_getTransactionCount"), behind_asked);

    // The other one stands still, then the first one comes and passes it.
    behind.shows(View::at(1_405));
    follows(&heads, View::at(1_405)).await;
    // And hangs: the other one is followed all the same.
    behind.script().hangs = true;
    tip.shows(View::at(1_407));
    follows(&heads, View::at(1_407)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_chain_is_left_out() {
    for spoil in [
        |node: &FakeNode| node.script().chain_id = 1,
        |node: &FakeNode| node.script().view.salt = 9,
    ] {
        let (right, wrong) = (
            FakeNode::start(View::at(500)).await,
            FakeNode::start(View::at(900)).await,
        );
        spoil(&wrong);
        let nodes = nodes(&[&right, &wrong]);
        let heads = watch_heads(nodes.clone(), INTERVAL);
        let mut events = heads.subscribe();
        follows(&heads, View::at(500)).await;
        // The first one fails for some seconds: nothing of the other one is believed.
        right.script().down = true;
        sleep(Duration::from_secs(4)).await;
        assert!(
            nodes
                .account_nonce(alloy_primitives::Address::ZERO, 500)
                .await
                .is_err()
        );
        assert!(nodes.receipts(&[B256::ZERO; 3]).await.is_err());
        right.script().down = false;
        right.shows(View::at(503));
        follows(&heads, View::at(503)).await;
        assert_eq!(reorgs(&mut events), 0);
        assert_eq!(wrong.calls("eth_getTransactionCount"), 0);
        assert_eq!(wrong.calls("eth_getTransactionReceipt"), 0);
        assert_eq!(nodes.chain_id().await, Ok(CHAIN.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_comes_back_as_another_chain_is_left_out() {
    let (one, two) = (
        FakeNode::start(View::at(500)).await,
        FakeNode::start(View::at(500)).await,
    );
    let nodes = nodes(&[&one, &two]);
    let heads = watch_heads(nodes.clone(), INTERVAL);
    let mut events = heads.subscribe();
    follows(&heads, View::at(500)).await;
    one.script().down = true;
    two.shows(View::at(502));
    follows(&heads, View::at(502)).await;
    sleep(Duration::from_secs(1)).await;
    one.script().chain_id = 5;
    one.script().view = View {
        salt: 4,
        ..View::at(510)
    };
    one.script().down = false;
    sleep(Duration::from_secs(3)).await;
    let before = one.calls("eth_getTransactionCount");
    nodes
        .account_nonce(alloy_primitives::Address::ZERO, 502)
        .await
        .unwrap();
    assert_eq!(one.calls("eth_getTransactionCount"), before);
    two.shows(View::at(503));
    follows(&heads, View::at(503)).await;
    assert_eq!(reorgs(&mut events), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_turns_into_another_chain_between_two_calls_is_left_out() {
    for head in [20, 490, 500, 2_000] {
        let (one, two) = (
            FakeNode::start(View::at(500)).await,
            FakeNode::start(View::at(500)).await,
        );
        let nodes = nodes(&[&one, &two]);
        let heads = watch_heads(nodes.clone(), INTERVAL);
        let mut events = heads.subscribe();
        follows(&heads, View::at(500)).await;
        one.script().chain_id = 5;
        one.script().view = View {
            salt: 4,
            ..View::at(head)
        };
        sleep(Duration::from_secs(2)).await;
        let before = one.calls("eth_getTransactionCount");
        nodes
            .account_nonce(alloy_primitives::Address::ZERO, 500)
            .await
            .unwrap();
        assert_eq!(one.calls("eth_getTransactionCount"), before, "{head}");
        two.shows(View::at(501));
        follows(&heads, View::at(501)).await;
        assert_eq!(reorgs(&mut events), 0, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_genesis_that_is_known_decides_and_a_network_of_others_says_so() {
    let (other, right) = (
        FakeNode::start(View {
            salt: 7,
            ..View::at(800)
        })
        .await,
        FakeNode::start(View::at(500)).await,
    );
    let both = nodes(&[&other, &right]);
    both.expect_genesis(View::at(0).hash(0));
    assert_eq!(both.genesis_hash().await, Ok(View::at(0).hash(0)));
    let heads = watch_heads(both, INTERVAL);
    follows(&heads, View::at(500)).await;

    let alone = nodes(&[&other]);
    alone.expect_genesis(View::at(0).hash(0));
    assert!(matches!(
        alone.genesis_hash().await,
        Err(NodeError::WrongGenesis { .. })
    ));
    other.script().chain_id = 2;
    let expected = CHAIN;
    let wrong = NodeError::WrongChain {
        expected,
        found: ChainId(2),
    };
    assert_eq!(nodes(&[&other]).chain_id().await, Err(wrong));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_chain_joins_nothing_is_left_out() {
    let (right, stray) = (
        FakeNode::start(View::at(1_000)).await,
        FakeNode::start(View::at(1_000)).await,
    );
    let nodes = nodes(&[&stray, &right]);
    let heads = watch_heads(nodes.clone(), INTERVAL);
    let mut events = heads.subscribe();
    follows(&heads, View::at(1_000)).await;
    let growing = grows(&right);
    // Higher, with the same genesis, on a branch that is older than 256 blocks.
    stray.shows(View::at(1_500).forked(3, 700));
    sleep(Duration::from_secs(4)).await;
    growing.abort();
    let _ = growing.await;
    let head = right.script().view;
    follows(&heads, head).await;
    assert_eq!(reorgs(&mut events), 0);
    let before = stray.calls("eth_getTransactionCount");
    nodes
        .account_nonce(alloy_primitives::Address::ZERO, head.head)
        .await
        .unwrap();
    assert_eq!(stray.calls("eth_getTransactionCount"), before);
    // Whoever can be asked is known to be on the right chain, and one is not two.
    assert!(nodes.transactions_known(&[B256::ZERO]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_of_up_to_256_blocks_is_followed_once() {
    let node = FakeNode::start(View::at(1_000)).await;
    let heads = watch_heads(nodes(&[&node]), INTERVAL);
    let mut events = heads.subscribe();
    follows(&heads, View::at(1_000)).await;
    for (branch, fork, head) in [(1, 999, 1_000), (2, 998, 999), (3, 800, 1_100)] {
        let view = View::at(head).forked(branch, fork);
        node.shows(view);
        follows(&heads, view).await;
        assert_eq!(reorgs(&mut events), 1, "{view:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_that_a_third_of_the_answers_show_is_one_reorg_at_most() {
    // For each block the load balancer has a second version of the newest one.
    let node = FakeNode::start(View::at(500)).await;
    let heads = watch_heads(nodes(&[&node]), INTERVAL);
    let mut events = heads.subscribe();
    follows(&heads, View::at(500)).await;
    let fork = View::at(500).forked(8, 499);
    node.script().other = Some((3, fork));
    sleep(INTERVAL * 6).await;
    assert_eq!(reorgs(&mut events), 0, "of a block that does not stay");

    let mut heights = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        let head = node.script().view.head + 1;
        heights += 1;
        node.script().view.head = head;
        node.script().other = Some((3, View::at(head).forked(head, head - 1)));
        sleep(INTERVAL).await;
    }
    let moved = reorgs(&mut events);
    println!("{moved} reorgs in {heights} forks");
    assert!(moved <= heights, "{moved} reorgs in {heights} forks");
    node.script().other = None;
    node.script().view.head += 1;
    let view = node.script().view;
    follows(&heads, view).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_rise_is_stalled_and_an_old_one_is_refused_on_demand() {
    let node = FakeNode::start(View::at(500)).await;
    let heads = watch_heads(nodes(&[&node]), INTERVAL);
    let head = heads.first(LONG).await.unwrap();
    let time = head.block.timestamp;
    assert!(!heads.is_stalled());
    // A clock that is years off changes nothing without a bound.
    assert_eq!(heads.check(&head, UnixSeconds(0)), Ok(()));
    assert_eq!(heads.check(&head, time.plus(100_000_000)), Ok(()));
    assert_eq!(head.age_seconds(time.plus(90)), 90);
    let bounded = heads.clone().with_max_age(Some(Duration::from_secs(60)));
    assert_eq!(bounded.check(&head, time.plus(60)), Ok(()));
    let old = HeadDoubt::Old { seconds: 61 };
    assert_eq!(bounded.check(&head, time.plus(61)), Err(old));

    // Another block in the head's place does not raise it.
    let other = View::at(500).forked(5, 499);
    sleep(Duration::from_secs(9)).await;
    node.shows(other);
    follows(&heads, other).await;
    let start = Instant::now();
    while !heads.is_stalled() {
        assert!(start.elapsed() < LONG);
        sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(9));
    let head = heads.latest().unwrap();
    let doubt = heads.check(&head, time);
    assert!(matches!(doubt, Err(HeadDoubt::Stalled { .. })), "{doubt:?}");
    node.script().view.head += 1;
    let view = node.script().view;
    follows(&heads, view).await;
    assert!(!heads.is_stalled());
}
