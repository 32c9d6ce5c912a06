//! The little JSON-RPC that reading receipts and sending raw transactions needs.

use std::time::Duration;

use alloy_primitives::{Address, B256, b256};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{LoadError, chain_of};
use crate::target::Target;

/// Requests in one JSON-RPC batch.
const MAX_BATCH: usize = 100;
const MAX_ANSWER: usize = 64 * 1024 * 1024;
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// EIP-3009 `AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce)`.
const AUTHORIZATION_USED: B256 =
    b256!("98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5");

/// A node, spoken to past the counting proxy.
#[derive(Debug, Clone)]
pub struct Node {
    target: Target,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// What of a receipt is looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    gas_used: String,
    status: String,
    logs: Vec<Log>,
}

#[derive(Debug, Deserialize)]
struct Log {
    address: Address,
    topics: Vec<B256>,
}

impl Receipt {
    pub fn gas_used(&self) -> Option<u64> {
        u64::from_str_radix(self.gas_used.strip_prefix("0x")?, 16).ok()
    }

    pub fn succeeded(&self) -> bool {
        self.status == "0x1"
    }

    /// Payer and nonce of every authorization of `token` that was used.
    pub fn used(&self, token: Address) -> impl Iterator<Item = (Address, B256)> {
        self.logs
            .iter()
            .filter(move |log| log.address == token)
            .filter_map(|log| match log.topics.as_slice() {
                [AUTHORIZATION_USED, payer, nonce] => Some((Address::from_word(*payer), *nonce)),
                _ => None,
            })
    }
}

impl Node {
    pub fn new(target: Target) -> Self {
        Self {
            target,
            http: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub async fn call(&self, method: &str, params: Value) -> Result<Value, LoadError> {
        let answers = self.batch(method, vec![params]).await?;
        answers.into_iter().next().ok_or_else(|| nonsense(method))
    }

    /// Many requests of one method; answers in the order of the requests.
    pub async fn batch(&self, method: &str, params: Vec<Value>) -> Result<Vec<Value>, LoadError> {
        let mut results = Vec::with_capacity(params.len());
        for chunk in params.chunks(MAX_BATCH) {
            let calls: Value = chunk
                .iter()
                .enumerate()
                .map(|(id, params)| {
                    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
                })
                .collect();
            let Value::Array(mut answers) = self.post(method, &calls).await? else {
                return Err(nonsense(method));
            };
            if answers.len() != chunk.len() {
                return Err(nonsense(method));
            }
            answers.sort_by_key(|answer| answer.get("id").and_then(Value::as_u64));
            for answer in answers {
                results.push(result(method, answer)?);
            }
        }
        Ok(results)
    }

    /// The receipts of these transactions, `None` for one that is not mined.
    pub async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>, LoadError> {
        const METHOD: &str = "eth_getTransactionReceipt";
        let asked = hashes.iter().map(|hash| json!([hash])).collect();
        self.batch(METHOD, asked)
            .await?
            .into_iter()
            .map(|answer| serde_json::from_value(answer).map_err(|_| nonsense(METHOD)))
            .collect()
    }

    async fn post(&self, method: &str, calls: &Value) -> Result<Value, LoadError> {
        let silent = |why: String| LoadError::NodeSilent {
            method: method.to_owned(),
            why,
        };
        let request = Request::post(self.target.to_string())
            .header("content-type", "application/json")
            .body(Full::from(calls.to_string()))
            .map_err(|error| silent(chain_of(&error)))?;
        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| silent(chain_of(&error)))?;
            Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|error| silent(chain_of(error.as_ref())))
        };
        let body = tokio::time::timeout(ANSWER_WITHIN, exchange)
            .await
            .map_err(|_| silent(format!("nothing within {ANSWER_WITHIN:?}")))??
            .to_bytes();
        serde_json::from_slice(&body).map_err(|_| nonsense(method))
    }
}

fn result(method: &str, mut answer: Value) -> Result<Value, LoadError> {
    if let Some(error) = answer.get("error") {
        let message = error.get("message").and_then(Value::as_str);
        return Err(LoadError::NodeRefused {
            method: method.to_owned(),
            message: message.unwrap_or("without a message").to_owned(),
        });
    }
    answer
        .get_mut("result")
        .map(Value::take)
        .ok_or_else(|| nonsense(method))
}

pub fn nonsense(method: &str) -> LoadError {
    LoadError::NodeAnswer {
        method: method.to_owned(),
    }
}
