//! A proxy in front of the node that misbehaves on demand: it swallows requests or answers, delays, refuses, cuts
//! connections, sends twice, forgets, and shows a view that lags behind. Everything that goes through is counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use alloy_primitives::{Bytes as RawBytes, keccak256};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::Notify;

pub const SEND: &str = "eth_sendRawTransaction";
/// How long a call may be waited for that a fault is to befall.
const CAUGHT_WITHIN: Duration = Duration::from_secs(60);

/// What happens to the next `eth_sendRawTransaction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It goes through.
    Pass,
    /// It is swallowed before the node has it: committed, never sent.
    Swallow,
    /// The node gets it and the answer is swallowed: sent, and teller cannot know.
    SwallowAnswer,
    /// Every call is refused: no node.
    Down,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Neither delivered nor answered.
    Hang,
    /// Delivered, never answered.
    HangAnswer,
    /// Not delivered; the connection is cut.
    Cut,
    /// Delivered; the connection is cut instead of an answer.
    CutAnswer,
    /// Delivered late.
    Delay(Duration),
    /// Not delivered; answered with this HTTP status.
    Status(u16),
    /// Not delivered; answered with this JSON-RPC error.
    Error(i64, &'static str),
    /// Not delivered, and answered as if it were. For sends only.
    Forget,
    /// Delivered twice; the second answer counts.
    Duplicate,
    /// Delivered; where the answer is `null` it is this JSON-RPC error instead.
    ErrorForNull(i64, &'static str),
    /// Delivered; the number that it is answered with is less by so much.
    Less(u64),
}

/// Which calls a fault befalls.
#[derive(Debug, Clone)]
pub struct Rule {
    methods: Vec<&'static str>,
    fault: Fault,
    left: Option<u32>,
    percent: u64,
}

impl Rule {
    /// Every call of these methods; of any method if there are none.
    pub fn new(methods: &[&'static str], fault: Fault) -> Self {
        Self {
            methods: methods.to_vec(),
            fault,
            left: None,
            percent: 100,
        }
    }

    /// Only the next `count`.
    pub fn times(self, count: u32) -> Self {
        Self {
            left: Some(count),
            ..self
        }
    }

    /// Only this many of a hundred, drawn with the proxy's seed.
    pub fn percent(self, percent: u64) -> Self {
        Self { percent, ..self }
    }
}

/// Calls of one method.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// All of them.
    pub calls: u64,
    /// Those that a fault befell.
    pub faults: u64,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    rules: Mutex<Vec<Rule>>,
    random: Mutex<u64>,
    lag: AtomicU64,
    lag_percent: AtomicU64,
    fork_percent: AtomicU64,
    /// Real hashes of blocks by those that the node on the fork gives them.
    forked: Mutex<BTreeMap<String, String>>,
    passed: Mutex<BTreeMap<String, Passed>>,
    caught: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
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
            http: super::client(),
            rules: Mutex::default(),
            random: Mutex::new(0x9e37_79b9_7f4a_7c15),
            lag: AtomicU64::new(0),
            lag_percent: AtomicU64::new(100),
            fork_percent: AtomicU64::new(0),
            forked: Mutex::default(),
            passed: Mutex::default(),
            caught: Notify::new(),
        });
        let app = Router::new()
            .fallback(forward)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, shared }
    }

    /// The commonest rules by one name; replaces all others.
    pub fn set(&self, next: Next) {
        self.clear();
        match next {
            Next::Pass => {}
            Next::Swallow => self.inject(Rule::new(&[SEND], Fault::Hang)),
            Next::SwallowAnswer => self.inject(Rule::new(&[SEND], Fault::HangAnswer)),
            Next::Down => self.inject(Rule::new(&[], Fault::Status(502))),
        }
    }

    /// Adds a rule; the first that fits decides.
    pub fn inject(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Ends all rules; what hangs goes on hanging.
    pub fn clear(&self) {
        lock(&self.shared.rules).clear();
    }

    /// From now on the node seems to be this many blocks behind, in this many of a hundred requests: one of several
    /// nodes behind a load balancer.
    pub fn lag(&self, blocks: u64, percent: u64) {
        self.shared.lag_percent.store(percent, Ordering::SeqCst);
        self.shared.lag.store(blocks, Ordering::SeqCst);
    }

    /// From now on this many of a hundred requests are answered by a node that has another version of the newest block.
    pub fn fork(&self, percent: u64) {
        self.shared.fork_percent.store(percent, Ordering::SeqCst);
    }

    /// Waits until a fault has befallen a call that nobody has waited for yet.
    pub async fn caught(&self) {
        let caught = tokio::time::timeout(CAUGHT_WITHIN, self.shared.caught.notified()).await;
        assert!(caught.is_ok(), "nothing was caught: {:?}", self.passed());
    }

    /// What went through, by method.
    pub fn passed(&self) -> BTreeMap<String, Passed> {
        lock(&self.shared.passed).clone()
    }

    /// How many calls a fault befell.
    pub fn faults(&self) -> u64 {
        self.passed().values().map(|passed| passed.faults).sum()
    }
}

impl Shared {
    /// The fault of a call, if there is one, used up and counted.
    fn draw(&self, method: &str) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let fits = |rule: &Rule| rule.methods.is_empty() || rule.methods.contains(&method);
        let rule = rules.iter_mut().find(|rule| {
            let open = fits(rule) && rule.left != Some(0);
            open && (rule.percent >= 100 || self.percent() < rule.percent)
        });
        let fault = rule.map(|rule| {
            rule.left = rule.left.map(|left| left - 1);
            rule.fault
        });
        let mut passed = lock(&self.passed);
        let passed = passed.entry(method.to_owned()).or_default();
        passed.calls += 1;
        passed.faults += u64::from(fault.is_some());
        fault
    }

    fn percent(&self) -> u64 {
        let mut random = lock(&self.random);
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (*random >> 33) % 100
    }

    async fn deliver(&self, body: Vec<u8>) -> Result<Vec<u8>, StatusCode> {
        let request = self
            .http
            .post(&self.upstream)
            .header("content-type", "application/json")
            .body(body);
        let answer = request.send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
        let answer = answer.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
        Ok(answer.to_vec())
    }

    /// What a node says that has another version of the newest block.
    async fn forked(&self, calls: &[Value]) -> Result<Vec<Value>, StatusCode> {
        let mut real = calls.to_vec();
        for parameter in real.iter_mut().filter_map(|call| call["params"].get_mut(0)) {
            let known = parameter
                .as_str()
                .and_then(|hash| lock(&self.forked).get(hash).cloned());
            if let Some(known) = known {
                *parameter = json!(known);
            }
        }
        let mut answers = exchange(self, real).await?;
        let head = self.head().await?;
        for answer in &mut answers {
            let result = &mut answer["result"];
            for (height, hash) in [("number", "hash"), ("blockNumber", "blockHash")] {
                let is_newest = number(&result[height]) == Some(head);
                if let (true, Some(real)) = (is_newest, result[hash].as_str()) {
                    let other = keccak256(real.as_bytes()).to_string();
                    lock(&self.forked).insert(other.clone(), real.to_owned());
                    result[hash] = json!(other);
                }
            }
        }
        Ok(answers)
    }

    async fn head(&self) -> Result<u64, StatusCode> {
        let ask = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []});
        let answer = self.deliver(ask.to_string().into_bytes()).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|_| StatusCode::BAD_GATEWAY)?;
        number(&answer["result"]).ok_or(StatusCode::BAD_GATEWAY)
    }
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// The connection ends in the middle of the answer.
fn cut() -> Response {
    let broken = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    Body::from_stream(broken).into_response()
}

async fn forward(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let Ok(parsed) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (calls, batch) = match parsed {
        Value::Array(calls) => (calls, true),
        call => (vec![call], false),
    };
    match answer(&shared, calls).await {
        Ok(mut answers) => {
            let answer = match batch {
                true => Value::Array(answers),
                false => answers.pop().unwrap_or(Value::Null),
            };
            let json = [("content-type", "application/json")];
            (json, answer.to_string()).into_response()
        }
        Err(response) => response,
    }
}

/// Answers to calls, or the response that is none.
async fn answer(shared: &Shared, calls: Vec<Value>) -> Result<Vec<Value>, Response> {
    let (mut answers, mut through) = (Vec::new(), Vec::new());
    let mut whole = None;
    for call in calls {
        let fault = shared.draw(call["method"].as_str().unwrap_or_default());
        if fault.is_some() {
            shared.caught.notify_one();
        }
        match fault {
            Some(Fault::Error(code, message)) => answers.push(
                json!({"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}),
            ),
            Some(Fault::Forget) => {
                let raw: RawBytes = call["params"][0].as_str().unwrap().parse().unwrap();
                answers.push(json!({"jsonrpc": "2.0", "id": call["id"], "result": keccak256(raw)}));
            }
            fault => {
                whole = whole.or(fault);
                through.push(call);
            }
        }
    }
    match whole {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Cut) => return Err(cut()),
        Some(Fault::Status(status)) => {
            return Err(StatusCode::from_u16(status).unwrap().into_response());
        }
        Some(Fault::Delay(pause)) => tokio::time::sleep(pause).await,
        _ => {}
    }
    if !through.is_empty() {
        let mut delivered = delivered(shared, &through).await;
        if whole == Some(Fault::Duplicate) {
            delivered = self::delivered(shared, &through).await;
        }
        answers.extend(delivered.map_err(IntoResponse::into_response)?);
    }
    match whole {
        Some(Fault::HangAnswer) => std::future::pending().await,
        Some(Fault::CutAnswer) => Err(cut()),
        Some(Fault::ErrorForNull(code, message)) => {
            for answer in answers
                .iter_mut()
                .filter(|answer| answer["result"].is_null())
            {
                *answer = json!({"jsonrpc": "2.0", "id": answer["id"], "error": {"code": code, "message": message}});
            }
            Ok(answers)
        }
        Some(Fault::Less(less)) => {
            for answer in &mut answers {
                if let Some(number) = number(&answer["result"]) {
                    answer["result"] = json!(format!("{:#x}", number.saturating_sub(less)));
                }
            }
            Ok(answers)
        }
        _ => Ok(answers),
    }
}

/// What the node says to these calls, or what it would have said `lag` blocks ago.
async fn delivered(shared: &Shared, calls: &[Value]) -> Result<Vec<Value>, StatusCode> {
    if shared.percent() < shared.fork_percent.load(Ordering::SeqCst) {
        return shared.forked(calls).await;
    }
    let lag = shared.lag.load(Ordering::SeqCst);
    if lag == 0 || shared.percent() >= shared.lag_percent.load(Ordering::SeqCst) {
        return exchange(shared, calls.to_vec()).await;
    }
    let head = shared.head().await?.saturating_sub(lag);
    let aged = calls.iter().map(|call| age_call(call, head)).collect();
    let mut answers = exchange(shared, aged).await?;
    for answer in &mut answers {
        let call = calls.iter().find(|call| call["id"] == answer["id"]);
        if let Some(call) = call {
            age_answer(call, answer, head);
        }
    }
    Ok(answers)
}

async fn exchange(shared: &Shared, calls: Vec<Value>) -> Result<Vec<Value>, StatusCode> {
    let body = Value::Array(calls).to_string().into_bytes();
    let answer = shared.deliver(body).await?;
    serde_json::from_slice(&answer).map_err(|_| StatusCode::BAD_GATEWAY)
}

const TAGS: [&str; 4] = ["latest", "pending", "safe", "finalized"];

/// A call whose tags name the old head.
fn age_call(call: &Value, head: u64) -> Value {
    let mut call = call.clone();
    if let Some(parameters) = call["params"].as_array_mut() {
        for parameter in parameters {
            if parameter.as_str().is_some_and(|tag| TAGS.contains(&tag)) {
                *parameter = json!(format!("{head:#x}"));
            }
        }
    }
    call
}

/// An answer that knows nothing of what came after the old head.
fn age_answer(call: &Value, answer: &mut Value, head: u64) {
    let result = &mut answer["result"];
    let method = call["method"].as_str().unwrap_or_default();
    let height = match method {
        "eth_getBlockByNumber" | "eth_getBlockByHash" => number(&result["number"]),
        _ => number(&result["blockNumber"]),
    };
    let unknown = height.is_some_and(|height| height > head);
    match method {
        "eth_blockNumber" => *result = json!(format!("{head:#x}")),
        "eth_getTransactionByHash" if unknown => {
            for field in ["blockNumber", "blockHash", "transactionIndex"] {
                result[field] = Value::Null;
            }
        }
        "eth_getTransactionReceipt" | "eth_getBlockByNumber" | "eth_getBlockByHash" if unknown => {
            *result = Value::Null;
        }
        "eth_getLogs" => {
            if let Some(logs) = result.as_array_mut() {
                logs.retain(|log| number(&log["blockNumber"]).is_none_or(|block| block <= head));
            }
        }
        _ => {}
    }
}
