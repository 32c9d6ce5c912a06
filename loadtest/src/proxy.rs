//! A JSON-RPC forwarder that counts: every element of a batch is a call, by its method. It stands between a
//! facilitator and its node, so it adds as little as it can: bodies go through unchanged, answers are streamed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::{LoadError, chain_of};
use crate::target::Target;

const MAX_CONNECTIONS: usize = 4096;
const MAX_REQUEST: usize = 64 * 1024 * 1024;
const READ_HEAD_WITHIN: Duration = Duration::from_secs(600);
/// Methods counted by name; a caller that invents more gets them counted together.
const MAX_METHODS: usize = 256;

/// What went through so far; the answer of `GET /counts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Calls: single requests, and elements of batches.
    pub calls: u64,
    /// HTTP requests, batches being one.
    pub http_requests: u64,
    /// Calls by method.
    pub methods: BTreeMap<String, u64>,
}

impl Counts {
    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let methods = self
            .methods
            .iter()
            .map(|(method, now)| {
                let before = earlier.methods.get(method).copied().unwrap_or(0);
                (method.clone(), now.saturating_sub(before))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            http_requests: self.http_requests.saturating_sub(earlier.http_requests),
            methods,
        }
    }

    fn add(&mut self, methods: &[String]) {
        self.http_requests = self.http_requests.saturating_add(1);
        for method in methods {
            self.calls = self.calls.saturating_add(1);
            let known = self.methods.contains_key(method) || self.methods.len() < MAX_METHODS;
            let name = if known { method.as_str() } else { "(others)" };
            let count = self.methods.entry(name.to_owned()).or_default();
            *count = count.saturating_add(1);
        }
    }
}

#[derive(Deserialize)]
struct Call {
    method: String,
}

/// The methods that a JSON-RPC body calls; a body that is none counts as one call.
fn methods(body: &[u8]) -> Vec<String> {
    let batch = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let calls = if batch {
        serde_json::from_slice::<Vec<Call>>(body)
    } else {
        serde_json::from_slice::<Call>(body).map(|call| vec![call])
    };
    calls.map_or_else(
        |_| vec!["(unreadable)".to_owned()],
        |calls| calls.into_iter().map(|call| call.method).collect(),
    )
}

struct State {
    upstream: Uri,
    http: Client<HttpConnector, Full<Bytes>>,
    counts: Mutex<Counts>,
}

impl State {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy. It ends when this is dropped.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Forwards what arrives at `listen` to `upstream`; port 0 is any free one.
    pub async fn start(listen: SocketAddr, upstream: &Target) -> Result<Self, LoadError> {
        if !listen.ip().is_loopback() {
            return Err(LoadError::NotLoopback {
                url: listen.to_string(),
            });
        }
        let listener = TcpListener::bind(listen)
            .await
            .map_err(LoadError::io(format!("{listen}: cannot listen")))?;
        let address = listener
            .local_addr()
            .map_err(LoadError::io("the proxy's address"))?;
        let upstream = format!("http://{}{}", upstream.address(), upstream.path("/"))
            .parse()
            .map_err(|_| LoadError::Url {
                url: upstream.to_string(),
                why: "is not a URL",
            })?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let state = Arc::new(State {
            upstream,
            http: Client::builder(TokioExecutor::new()).build(connector),
            counts: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            state,
            address,
            accepting,
        })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn counts(&self) -> Counts {
        self.state.counts().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of files, most likely: some connection has to end first.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _only_slower = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| handle(Arc::clone(&state), request));
            let _the_caller_went_away = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_HEAD_WITHIN)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(permit);
        });
    }
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

async fn handle(state: Arc<State>, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    if request.method() == Method::GET && request.uri().path() == "/counts" {
        let counts = serde_json::to_string(&*state.counts()).unwrap_or_default();
        return Ok(json(StatusCode::OK, counts));
    }
    if request.method() != Method::POST {
        let error = r#"{"error":"POST JSON-RPC, or GET /counts"}"#;
        return Ok(json(StatusCode::METHOD_NOT_ALLOWED, error.to_owned()));
    }
    let Ok(body) = Limited::new(request.into_body(), MAX_REQUEST)
        .collect()
        .await
    else {
        let error = r#"{"error":"the request could not be read"}"#;
        return Ok(json(StatusCode::BAD_REQUEST, error.to_owned()));
    };
    let body = body.to_bytes();
    let methods = methods(&body);
    state.counts().add(&methods);
    match forward(&state, body).await {
        Ok(answer) => Ok(answer.map(BodyExt::boxed)),
        Err(why) => {
            let error = serde_json::json!({ "error": format!("the node did not answer: {why}") });
            Ok(json(StatusCode::BAD_GATEWAY, error.to_string()))
        }
    }
}

async fn forward(state: &State, body: Bytes) -> Result<Response<Incoming>, String> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = state.upstream.clone();
    request
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    state
        .http
        .request(request)
        .await
        .map_err(|error| chain_of(&error))
}

fn json(status: StatusCode, text: String) -> Answer {
    let body = Full::from(text).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Reads the counts of a proxy that runs elsewhere.
pub async fn read_counts(proxy: &Target) -> Result<Counts, LoadError> {
    let nonsense = || LoadError::Url {
        url: proxy.to_string(),
        why: "does not answer /counts as a counting proxy",
    };
    let mut connection = crate::http::Connection::open(proxy)
        .await
        .map_err(|error| LoadError::Connect {
            what: format!("{proxy}: no connection"),
            source: Box::new(error),
        })?;
    let request = format!("GET /counts HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.address());
    let answer = tokio::time::timeout(
        Duration::from_secs(10),
        connection.exchange(request.as_bytes()),
    )
    .await
    .map_err(|_| nonsense())?
    .map_err(|_| nonsense())?;
    serde_json::from_slice(&answer.body).map_err(|_| nonsense())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Node;
    use serde_json::{Value, json};

    /// A node that answers every call with its method.
    async fn echo_node() -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::at(listener.local_addr().unwrap()).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<Incoming>| async {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let echo = |call: &Value| json!({ "jsonrpc": "2.0", "id": call["id"], "result": call["method"] });
                    let answer = match serde_json::from_slice(&body).unwrap() {
                        Value::Array(calls) => calls.iter().map(echo).collect(),
                        call => echo(&call),
                    };
                    Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from(answer.to_string())))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        target
    }

    async fn proxy() -> (Proxy, Target) {
        let listen = "127.0.0.1:0".parse().unwrap();
        let proxy = Proxy::start(listen, &echo_node().await).await.unwrap();
        let target = proxy.url().parse().unwrap();
        (proxy, target)
    }

    #[tokio::test]
    async fn every_element_of_a_batch_is_a_call() {
        let (proxy, target) = proxy().await;
        let node = Node::new(target.clone());
        let params = vec![json!([]); 7];
        let answers = node
            .batch("eth_getTransactionReceipt", params)
            .await
            .unwrap();
        assert_eq!(answers, vec![json!("eth_getTransactionReceipt"); 7]);
        let before = read_counts(&target).await.unwrap();
        assert_eq!(before, proxy.counts());
        assert_eq!((before.calls, before.http_requests), (7, 1));
        node.call("eth_blockNumber", json!([])).await.unwrap();
        let since = proxy.counts().since(&before);
        assert_eq!(since.calls, 1);
        assert_eq!(since.methods, [("eth_blockNumber".to_owned(), 1)].into());
    }

    #[test]
    fn single_calls_batches_and_rubbish_are_counted() {
        assert_eq!(methods(br#"{"id":1,"method":"a"}"#), ["a"]);
        let batch = br#" [{"id":1,"method":"a"},{"id":2,"method":"b","params":[{}]}]"#;
        assert_eq!(methods(batch), ["a", "b"]);
        assert_eq!(methods(b"rubbish"), ["(unreadable)"]);
        assert_eq!(methods(b"[]"), Vec::<String>::new());
    }

    #[test]
    fn invented_methods_do_not_fill_the_memory() {
        let mut counts = Counts::default();
        for index in 0..1000 {
            counts.add(&[index.to_string()]);
        }
        assert_eq!(
            (counts.calls, counts.methods.len()),
            (1000, MAX_METHODS + 1)
        );
    }

    #[tokio::test]
    async fn only_loopback_is_listened_on() {
        let upstream = "http://127.0.0.1:1".parse().unwrap();
        let started = Proxy::start("0.0.0.0:0".parse().unwrap(), &upstream).await;
        assert!(matches!(started, Err(LoadError::NotLoopback { .. })));
    }
}
