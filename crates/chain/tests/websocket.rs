//! WebSockets that end at once, or say what is no JSON-RPC; and one that works, cut and dialled again.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alloy_primitives::B256;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use teller_chain::{NodeConfig, NodeError, Nodes};
use teller_domain::ChainId;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

const CHAIN: ChainId = ChainId(84532);

fn lone(url: &str, request_timeout: Duration) -> Nodes {
    Nodes::connect(NodeConfig {
        chain: CHAIN,
        rpc: vec![url.to_owned()],
        flashblocks: Vec::new(),
        request_timeout,
    })
    .unwrap()
}

#[derive(Clone, Copy)]
enum Conduct {
    /// Ends without a word.
    Close,
    /// Answers each call with bytes that are no JSON.
    Bytes,
    /// With a text that is none.
    Text,
    /// Answers in a binary message, behind a notification.
    Binary,
    /// Answers so many calls, then ends without a word.
    Answers(usize),
    /// Never says anything.
    Silent,
}

/// A server and how many connections it has taken.
async fn serve(conduct: Conduct) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else {
                    return;
                };
                let mut left = match conduct {
                    Conduct::Close => return,
                    Conduct::Answers(calls) => calls,
                    Conduct::Bytes | Conduct::Text | Conduct::Binary | Conduct::Silent => {
                        usize::MAX
                    }
                };
                while let (Some(Ok(message)), true) = (socket.next().await, left > 0) {
                    left -= 1;
                    let Message::Text(text) = message else {
                        continue;
                    };
                    let call: Value = serde_json::from_str(&text).unwrap();
                    let result = match call["method"].as_str().unwrap() {
                        "eth_getBlockByNumber" => json!({"hash": B256::repeat_byte(7)}),
                        _ => json!("0x14a34"),
                    };
                    let answer = json!({"jsonrpc": "2.0", "id": call["id"], "result": result});
                    let notice =
                        json!({"jsonrpc": "2.0", "method": "eth_subscription", "params": {}});
                    let said = match conduct {
                        Conduct::Bytes => vec![Message::binary(vec![0_u8, 159, 146, 150])],
                        Conduct::Text => vec![Message::text("welcome!")],
                        Conduct::Binary => vec![
                            Message::text(notice.to_string()),
                            Message::binary(answer.to_string().into_bytes()),
                        ],
                        Conduct::Silent | Conduct::Close => Vec::new(),
                        Conduct::Answers(_) => vec![Message::text(answer.to_string())],
                    };
                    for message in said {
                        let _ = socket.send(message).await;
                    }
                }
            });
        }
    });
    (url, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_at_once_is_dialled_less_and_less_often() {
    for conduct in [Conduct::Close, Conduct::Bytes, Conduct::Text] {
        let (url, taken) = serve(conduct).await;
        let lone = lone(&url, Duration::from_secs(2));
        let began = Instant::now();
        let mut calls = 0;
        while began.elapsed() < Duration::from_secs(3) {
            let refused = lone.tip().await;
            // What was sent over a connection that then ended is told apart.
            let ends = matches!(refused, Err(NodeError::Refused | NodeError::Broken));
            assert!(ends, "{refused:?}");
            calls += 1;
            sleep(Duration::from_millis(5)).await;
        }
        // 0.2, 0.6, 1.4 and 3 s after the first one.
        let taken = taken.load(Ordering::SeqCst);
        assert!(
            (1..=6).contains(&taken),
            "{taken} connections for {calls} calls"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_one_connection_and_binary_messages_are_read() {
    for conduct in [Conduct::Binary, Conduct::Answers(usize::MAX)] {
        let (url, taken) = serve(conduct).await;
        let lone = lone(&url, Duration::from_secs(20));
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let lone = lone.clone();
                tokio::spawn(async move { lone.tip().await })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), Ok(u128::from(CHAIN.0)));
        }
        assert_eq!(taken.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ended_is_dialled_again_by_the_call_that_finds_out() {
    let (url, taken) = serve(Conduct::Answers(4)).await;
    let lone = lone(&url, Duration::from_secs(20));
    assert_eq!(lone.tip().await, Ok(u128::from(CHAIN.0)));
    assert_eq!(lone.tip().await, Ok(u128::from(CHAIN.0)));
    // Past the pause after the first dial.
    sleep(Duration::from_millis(500)).await;
    assert_eq!(lone.tip().await, Ok(u128::from(CHAIN.0)));
    assert_eq!(taken.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_given_up() {
    let (url, taken) = serve(Conduct::Silent).await;
    let lone = lone(&url, Duration::from_millis(500));
    for _ in 0..3 {
        let call = timeout(Duration::from_secs(20), lone.tip()).await.unwrap();
        assert!(matches!(call, Err(NodeError::Timeout | NodeError::Refused)));
        sleep(Duration::from_millis(500)).await;
    }
    assert!(taken.load(Ordering::SeqCst) >= 2);
}
