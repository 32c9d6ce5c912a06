//! The little JSON-RPC that setting up a chain needs. The node client of the product is in `teller-chain`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::DevnetError;

/// The most requests sent in one JSON-RPC batch.
const MAX_BATCH: usize = 500;
/// A node that says nothing for this long has hung: it answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A JSON-RPC client for one node.
#[derive(Debug, Clone)]
pub(crate) struct Rpc {
    http: reqwest::Client,
    url: String,
}

impl Rpc {
    pub(crate) fn new(url: &str) -> Result<Self, DevnetError> {
        // reqwest wants a TLS provider even where it only speaks http; a second installation is refused
        // because the first one stands, which is all that is needed.
        let _already_there = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_WITHIN)
            .build()
            .map_err(DevnetError::Client)?;
        Ok(Self {
            http,
            url: url.to_owned(),
        })
    }

    /// One request, one answer.
    pub(crate) async fn call(&self, method: &str, params: Value) -> Result<Value, DevnetError> {
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": method, "params": params });
        answer(method, self.post(method, &body).await?)
    }

    /// Many requests of one method; answers in the order of the requests, the first refusal fails all.
    pub(crate) async fn batch(
        &self,
        method: &str,
        params: Vec<Value>,
    ) -> Result<Vec<Value>, DevnetError> {
        let mut answers = Vec::with_capacity(params.len());
        for chunk in params.chunks(MAX_BATCH) {
            let body = chunk
                .iter()
                .enumerate()
                .map(|(id, params)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
                .collect::<Value>();
            let Value::Array(mut items) = self.post(method, &body).await? else {
                return Err(unexpected(method));
            };
            if items.len() != chunk.len() {
                return Err(unexpected(method));
            }
            items.sort_by_key(|item| item.get("id").and_then(Value::as_u64));
            for item in items {
                answers.push(answer(method, item)?);
            }
        }
        Ok(answers)
    }

    async fn post(&self, method: &str, body: &Value) -> Result<Value, DevnetError> {
        let transport = |source| DevnetError::Transport {
            method: method.to_owned(),
            source,
        };
        let response = self.http.post(&self.url).json(body).send().await;
        let response = response.map_err(transport)?;
        response.json::<Value>().await.map_err(transport)
    }
}

fn answer(method: &str, mut item: Value) -> Result<Value, DevnetError> {
    if let Some(error) = item.get("error") {
        return Err(DevnetError::Rpc {
            method: method.to_owned(),
            code: error
                .get("code")
                .and_then(Value::as_i64)
                .unwrap_or_default(),
            message: error
                .get("message")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        });
    }
    item.get_mut("result")
        .map(Value::take)
        .ok_or_else(|| unexpected(method))
}

pub(crate) fn unexpected(method: &str) -> DevnetError {
    DevnetError::UnexpectedAnswer {
        method: method.to_owned(),
    }
}
