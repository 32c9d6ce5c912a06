//! A proxy in front of the node that can hold back what teller sends at the worst moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use tokio::sync::Notify;

/// What happens to the next `eth_sendRawTransaction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Next {
    /// It goes through.
    Pass = 0,
    /// It is swallowed before the node has it: committed, never sent.
    Swallow = 1,
    /// The node gets it and the answer is swallowed: sent, and teller cannot know.
    SwallowAnswer = 2,
    /// Every call is refused: no node.
    Down = 3,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    next: AtomicU8,
    caught: Notify,
}

/// A running proxy.
pub struct NodeProxy {
    pub url: String,
    shared: Arc<Shared>,
}

impl NodeProxy {
    pub async fn start(upstream: &str) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            http: super::support::client(),
            next: AtomicU8::new(Next::Pass as u8),
            caught: Notify::new(),
        });
        let app = Router::new().fallback(forward).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, shared }
    }

    /// Arms or disarms the proxy.
    pub fn set(&self, next: Next) {
        self.shared.next.store(next as u8, Ordering::SeqCst);
    }

    /// Waits until an armed proxy has caught a transaction.
    pub async fn caught(&self) {
        self.shared.caught.notified().await;
    }
}

async fn forward(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Vec<u8>, StatusCode> {
    let next = shared.next.load(Ordering::SeqCst);
    if next == Next::Down as u8 {
        return Err(StatusCode::BAD_GATEWAY);
    }
    let sends = body
        .windows(22)
        .any(|window| window == b"eth_sendRawTransaction");
    if sends && next == Next::Swallow as u8 {
        shared.caught.notify_one();
        std::future::pending::<()>().await;
    }
    let request = shared
        .http
        .post(&shared.upstream)
        .header("content-type", "application/json")
        .body(body);
    let answer = request.send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let answer = answer.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    if sends && next == Next::SwallowAnswer as u8 {
        shared.caught.notify_one();
        std::future::pending::<()>().await;
    }
    Ok(answer.to_vec())
}
