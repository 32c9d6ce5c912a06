//! What a bound on batches does to whoever follows the head. The nodes are made up, so that they can
//! fail in the ways of providers and load balancers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod fake;

use std::time::Duration;

use alloy_primitives::B256;
use teller_chain::{HeadHandle, watch_heads};
use tokio::time::{sleep, timeout};

use fake::{FakeNode, Refusal, View, nodes};

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
