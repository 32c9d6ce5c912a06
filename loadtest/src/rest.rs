//! JSON over HTTP for the few requests whose answers are looked at one by one. The load itself goes through `drive`.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::error::{LoadError, chain_of};

const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A client that may be cloned.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }
}

impl Http {
    /// Sends a JSON body and reads a JSON answer, all of it within `within`.
    pub async fn post(
        &self,
        url: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<(u16, Value), LoadError> {
        let request = Request::post(url).header("content-type", "application/json");
        let request = request.body(Full::from(body));
        self.exchange(url, request, within).await
    }

    /// Reads a JSON answer.
    pub async fn get(&self, url: &str, within: Duration) -> Result<(u16, Value), LoadError> {
        let request = Request::get(url).body(Full::default());
        self.exchange(url, request, within).await
    }

    /// Reads an answer as text.
    pub async fn text(&self, url: &str, within: Duration) -> Result<String, LoadError> {
        let request = Request::get(url).body(Full::default());
        let (_, body) = self.bytes(url, request, within).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn exchange(
        &self,
        url: &str,
        request: Result<Request<Full<Bytes>>, hyper::http::Error>,
        within: Duration,
    ) -> Result<(u16, Value), LoadError> {
        let (status, body) = self.bytes(url, request, within).await?;
        let answer = serde_json::from_slice(&body);
        let answer = answer.map_err(|_| silent(url, format!("HTTP {status} without JSON")))?;
        Ok((status, answer))
    }

    async fn bytes(
        &self,
        url: &str,
        request: Result<Request<Full<Bytes>>, hyper::http::Error>,
        within: Duration,
    ) -> Result<(u16, Bytes), LoadError> {
        let request = request.map_err(|error| silent(url, chain_of(&error)))?;
        let exchange = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| silent(url, chain_of(&error)))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|error| silent(url, chain_of(error.as_ref())))?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(within, exchange)
            .await
            .map_err(|_| silent(url, format!("nothing within {within:?}")))?
    }
}

fn silent(url: &str, why: String) -> LoadError {
    LoadError::Silent {
        url: url.to_owned(),
        why,
    }
}
