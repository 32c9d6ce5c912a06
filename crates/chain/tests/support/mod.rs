//! An endpoint that misbehaves as told, in front of a real node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use teller_chain::{NodeConfig, Nodes};
use teller_domain::ChainId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const CHAIN: ChainId = ChainId(84532);

/// What becomes of one call.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The node answers.
    Pass,
    /// The node answers this call in its place.
    Instead(Value),
    /// Nobody does.
    Hang,
    /// This stands in place of the node's answer; its `id` is filled in.
    Json(Value),
    /// The whole HTTP answer is this: status line and further headers, and the body.
    Http(&'static str, Vec<u8>),
    /// The node answers, and this is made of the whole body.
    Rewrite(fn(Vec<u8>) -> Vec<u8>),
}

type Decide = dyn Fn(&Value) -> Reply + Send + Sync;

/// One such endpoint.
pub struct Front {
    pub url: String,
    decide: Arc<Mutex<Arc<Decide>>>,
    calls: Arc<Mutex<HashMap<String, usize>>>,
}

impl Front {
    pub async fn start(
        upstream: &str,
        decide: impl Fn(&Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let decide: Arc<Decide> = Arc::new(decide);
        let front = Self {
            url,
            decide: Arc::new(Mutex::new(decide)),
            calls: Arc::default(),
        };
        let (upstream, decide, calls) = (
            upstream.to_owned(),
            Arc::clone(&front.decide),
            Arc::clone(&front.calls),
        );
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let decide = Arc::clone(&*decide.lock().unwrap());
                tokio::spawn(serve(stream, upstream.clone(), decide, Arc::clone(&calls)));
            }
        });
        front
    }

    /// From now on.
    pub fn set(&self, decide: impl Fn(&Value) -> Reply + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Arc::new(decide);
    }

    /// Calls of a method so far.
    pub fn calls(&self, method: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.get(method).copied().unwrap_or_default()
    }
}

/// One request, then the connection ends.
async fn serve(
    mut stream: TcpStream,
    upstream: String,
    decide: Arc<Decide>,
    counted: Arc<Mutex<HashMap<String, usize>>>,
) -> Option<()> {
    let body = read_body(&mut stream).await?;
    let request: Value = serde_json::from_str(&body).unwrap();
    let calls = match &request {
        Value::Array(calls) => calls.clone(),
        call => vec![call.clone()],
    };
    let (mut answers, mut rewrite) = (Vec::new(), None);
    for call in &calls {
        let method = call["method"].as_str().unwrap().to_owned();
        *counted.lock().unwrap().entry(method).or_default() += 1;
        match decide(call) {
            Reply::Pass => answers.push(ask(&upstream, call).await),
            Reply::Instead(other) => answers.push(ask(&upstream, &other).await),
            Reply::Hang => std::future::pending().await,
            Reply::Json(mut answer) => {
                if answer.get("id").is_none() {
                    answer["id"] = call["id"].clone();
                }
                answers.push(answer);
            }
            Reply::Http(head, body) => return write(&mut stream, head, &body).await,
            Reply::Rewrite(change) => {
                answers.push(ask(&upstream, call).await);
                rewrite = Some(change);
            }
        }
    }
    let answer = match request.is_array() {
        true => Value::Array(answers),
        false => answers.remove(0),
    };
    let body = answer.to_string().into_bytes();
    let body = rewrite.map_or_else(|| body.clone(), |change| change(body.clone()));
    write(
        &mut stream,
        "200 OK\r\ncontent-type: application/json",
        &body,
    )
    .await
}

pub async fn ask(upstream: &str, call: &Value) -> Value {
    let sent = reqwest::Client::new().post(upstream);
    let sent = sent.header("content-type", "application/json");
    let answer = sent.body(call.to_string()).send().await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

async fn read_body(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 65_536];
        let read = stream
            .read(&mut chunk)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
        if body.len() >= length {
            return Some(body.to_owned());
        }
    }
}

async fn write(stream: &mut TcpStream, head: &str, body: &[u8]) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body).await.ok()
}

pub fn nodes(rpc: &[&str]) -> Nodes {
    nodes_within(rpc, Duration::from_secs(20))
}

pub fn nodes_within(rpc: &[&str], request_timeout: Duration) -> Nodes {
    Nodes::connect(NodeConfig {
        chain: CHAIN,
        rpc: rpc.iter().map(|url| (*url).to_owned()).collect(),
        flashblocks: Vec::new(),
        request_timeout,
    })
    .unwrap()
}
