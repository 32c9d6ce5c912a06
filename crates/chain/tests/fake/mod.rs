//! A small node that shows a chain made up for a test, and fails where the test says so.

#![allow(
    dead_code,
    reason = "several test binaries share this, and not all use all of it"
)]

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use alloy_primitives::B256;
use serde_json::{Value, json};
use teller_chain::{NodeConfig, Nodes};
use teller_domain::ChainId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const CHAIN: ChainId = ChainId(84532);

/// How a node refuses a batch that is too long for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// An HTTP status and no JSON.
    Status(u16),
    /// One error object for all.
    OneError(i64),
    /// One error object for all, with an HTTP error status.
    OneErrorWithStatus(i64, u16),
    /// An error for each call.
    EachError(i64),
    /// The first calls are answered, the others have errors.
    SomeErrors(i64),
    /// The first calls are answered, the others are not.
    Some,
    /// The connection is cut.
    Cut,
}

/// A chain up to a height. Blocks above `fork` are of `branch`; whoever has the same salt has the same blocks elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub salt: u64,
    pub branch: u64,
    pub fork: u64,
    pub head: u64,
}

impl View {
    pub fn at(head: u64) -> Self {
        Self {
            salt: 1,
            branch: 0,
            fork: 0,
            head,
        }
    }

    pub fn forked(self, branch: u64, fork: u64) -> Self {
        Self {
            branch,
            fork,
            ..self
        }
    }

    pub fn hash(self, number: u64) -> B256 {
        let (branch, fork) = match number > self.fork {
            true => (self.branch, self.fork),
            false => (0, 0),
        };
        let mut bytes = [0; 32];
        for (place, word) in [self.salt, branch, fork, number].into_iter().enumerate() {
            bytes[place * 8..(place + 1) * 8].copy_from_slice(&word.to_be_bytes());
        }
        bytes.into()
    }

    fn block(self, number: u64) -> Value {
        let parent = number
            .checked_sub(1)
            .map_or(B256::ZERO, |below| self.hash(below));
        json!({
            "number": format!("{number:#x}"), "hash": self.hash(number), "parentHash": parent,
            "timestamp": format!("{:#x}", 1_700_000_000 + number), "gasLimit": "0x1c9c380", "gasUsed": "0x0",
            "baseFeePerGas": "0x1", "transactions": [],
        })
    }

    fn by_number(self, tag: &Value) -> Value {
        let tag = tag.as_str().unwrap();
        let number = match tag.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
            None => self.head,
        };
        match number <= self.head {
            true => self.block(number),
            false => Value::Null,
        }
    }

    fn by_hash(self, hash: &Value) -> Value {
        let hash: B256 = hash.as_str().unwrap().parse().unwrap();
        let word =
            |place: usize| u64::from_be_bytes(hash[place * 8..(place + 1) * 8].try_into().unwrap());
        let named = Self {
            salt: word(0),
            branch: word(1),
            fork: word(2),
            head: word(3),
        };
        match self.hash(named.head) == hash && named.head <= self.head {
            true => self.block(named.head),
            false => Value::Null,
        }
    }
}

/// What a node shows and how it fails.
#[derive(Debug, Clone)]
pub struct Script {
    pub chain_id: u64,
    pub view: View,
    /// The hash of block 0, where it is to be another chain's.
    pub genesis: Option<B256>,
    /// Every so many requests are answered by a node with this view: one behind the same load balancer.
    pub other: Option<(u64, View)>,
    pub max_batch: usize,
    pub refusal: Refusal,
    /// Every connection is cut.
    pub down: bool,
    /// No request is answered.
    pub hangs: bool,
    pub requests: u64,
    pub refused: u64,
    pub methods: Vec<String>,
}

#[derive(Clone)]
pub struct FakeNode {
    pub url: String,
    script: Arc<Mutex<Script>>,
}

impl FakeNode {
    pub async fn start(view: View) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script {
            chain_id: CHAIN.0,
            view,
            genesis: None,
            other: None,
            max_batch: usize::MAX,
            refusal: Refusal::Status(413),
            down: false,
            hangs: false,
            requests: 0,
            refused: 0,
            methods: Vec::new(),
        }));
        let node = Self { url, script };
        let served = node.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let node = served.clone();
                tokio::spawn(async move { node.serve(stream).await });
            }
        });
        node
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub fn shows(&self, view: View) {
        self.script().view = view;
    }

    /// Requests for a method so far.
    pub fn calls(&self, method: &str) -> usize {
        let script = self.script();
        script.methods.iter().filter(|name| *name == method).count()
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        let body = loop {
            let mut chunk = [0; 16_384];
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            }
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
            if body.len() >= length {
                break body.to_owned();
            }
        };
        if self.script().hangs {
            std::future::pending::<()>().await;
        }
        let Some((status, answer)) = self.answer(&serde_json::from_str(&body).unwrap()) else {
            return;
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        // A client that is gone needs no answer.
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    /// HTTP status and body; nothing for a connection that is cut.
    fn answer(&self, request: &Value) -> Option<(u16, String)> {
        let mut script = self.script();
        if script.down {
            return None;
        }
        script.requests += 1;
        let view = match script.other {
            Some((every, other)) if script.requests.is_multiple_of(every) => other,
            Some(_) | None => script.view,
        };
        let (chain_id, genesis) = (script.chain_id, script.genesis);
        let answer = |call: &Value| {
            let params = &call["params"];
            let result = match call["method"].as_str().unwrap() {
                "eth_chainId" => json!(format!("{chain_id:#x}")),
                "eth_blockNumber" => json!(format!("{:#x}", view.head)),
                "eth_getBlockByNumber" => {
                    let mut block = view.by_number(&params[0]);
                    if let (Some(genesis), Some("0x0")) = (genesis, params[0].as_str()) {
                        block["hash"] = json!(genesis);
                    }
                    block
                }
                "eth_getBlockByHash" => view.by_hash(&params[0]),
                "eth_getTransactionCount" => json!("0x5"),
                _ => Value::Null,
            };
            json!({"jsonrpc": "2.0", "id": call["id"], "result": result})
        };
        let Some(calls) = request.as_array() else {
            let method = request["method"].as_str().unwrap().to_owned();
            script.methods.push(method);
            return Some((200, answer(request).to_string()));
        };
        for call in calls {
            let method = call["method"].as_str().unwrap().to_owned();
            script.methods.push(method);
        }
        if calls.len() <= script.max_batch {
            let answers: Vec<Value> = calls.iter().map(answer).collect();
            return Some((200, Value::Array(answers).to_string()));
        }
        script.refused += 1;
        let most = script.max_batch;
        let error = |code: i64, id: &Value| json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": format!("maximum {most} calls in 1 batch")}});
        let some = calls.iter().take(most).map(answer);
        match script.refusal {
            Refusal::Status(status) => Some((status, "too large".to_owned())),
            Refusal::OneError(code) => Some((200, error(code, &Value::Null).to_string())),
            Refusal::OneErrorWithStatus(code, status) => {
                Some((status, error(code, &Value::Null).to_string()))
            }
            Refusal::EachError(code) => {
                let errors: Vec<_> = calls.iter().map(|call| error(code, &call["id"])).collect();
                Some((200, Value::Array(errors).to_string()))
            }
            Refusal::SomeErrors(code) => {
                let rest = calls.iter().skip(most).map(|call| error(code, &call["id"]));
                let all: Vec<Value> = some.chain(rest).collect();
                Some((200, Value::Array(all).to_string()))
            }
            Refusal::Some => Some((200, Value::Array(some.collect()).to_string())),
            Refusal::Cut => None,
        }
    }
}

pub fn nodes(of: &[&FakeNode]) -> Nodes {
    Nodes::connect(NodeConfig {
        chain: CHAIN,
        rpc: of.iter().map(|node| node.url.clone()).collect(),
        flashblocks: Vec::new(),
        request_timeout: Duration::from_secs(3),
    })
    .unwrap()
}
