//! JSON-RPC over HTTP. The URL may hold a key and is never printed; answers are bounded.

use std::io::Read;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use url::Url;

use crate::error::LONGEST_BACKOFF;
use crate::rpc::{self, Answer, Answered, Call};
use crate::{CallError, NodeError};

/// The longest answer that is read. A full block of logs of a busy network is a tenth of it.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// What gzip begins with, and JSON never.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// One endpoint reached over HTTP.
pub(crate) struct HttpLink {
    pub(crate) client: reqwest::Client,
    pub(crate) url: Url,
}

impl HttpLink {
    /// Sends calls in one request, as a batch if there are several; answers in their order.
    pub(crate) async fn exchange(&self, calls: &[Call]) -> Result<Vec<Answer>, NodeError> {
        let body = match calls {
            [call] => call.body.clone(),
            calls => {
                let bodies: Vec<&str> = calls.iter().map(|call| call.body.as_str()).collect();
                format!("[{}]", bodies.join(","))
            }
        };
        let sent = self.client.post(self.url.clone());
        let sent = sent.header(CONTENT_TYPE, "application/json");
        let sent = sent.header(ACCEPT_ENCODING, "identity").body(body).send();
        let mut response = sent.await.map_err(broken)?;
        let (status, retry_after) = (response.status(), read_retry_after(response.headers()));
        let expected = response.content_length().unwrap_or(0).min(1 << 20);
        let mut body = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(NodeError::BadAnswer("too long"));
            }
            body.extend_from_slice(&chunk);
        }
        let body = unpacked(body)?;
        // Some nodes send a JSON-RPC error with an HTTP error status.
        let answered = match rpc::read(&body) {
            Ok(answered) => answered,
            Err(_) if !status.is_success() => return Err(refusal(status, retry_after)),
            Err(error) => return Err(error),
        };
        let answered = answered.into_iter().map(|answered| Answered {
            answer: answered
                .answer
                .map_err(|error| limited(error, status, retry_after)),
            ..answered
        });
        match calls {
            [_] => Ok(vec![rpc::alone(answered.collect())]),
            calls => rpc::together(calls, answered.collect()),
        }
    }
}

/// The error's own text holds the URL and is dropped here.
fn broken(error: reqwest::Error) -> NodeError {
    if error.is_connect() {
        NodeError::Refused
    } else if error.is_timeout() {
        NodeError::Timeout
    } else {
        NodeError::Broken
    }
}

/// Some nodes compress what they were asked not to, and not all of them say so.
fn unpacked(body: Vec<u8>) -> Result<Vec<u8>, NodeError> {
    if !body.starts_with(GZIP) {
        return Ok(body);
    }
    let mut plain = Vec::new();
    let most = u64::try_from(MAX_ANSWER_BYTES).unwrap_or(u64::MAX);
    let mut reader = MultiGzDecoder::new(body.as_slice()).take(most.saturating_add(1));
    match reader.read_to_end(&mut plain) {
        Ok(read) if read > MAX_ANSWER_BYTES => Err(NodeError::BadAnswer("too long")),
        Ok(_) => Ok(plain),
        Err(_) => Err(NodeError::BadAnswer("a broken compression")),
    }
}

/// `Retry-After` in seconds. A date is not read: then teller backs off as it does without.
fn read_retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_BACKOFF))
}

fn refusal(status: StatusCode, retry_after: Option<Duration>) -> NodeError {
    match status == StatusCode::TOO_MANY_REQUESTS || retry_after.is_some() {
        true => NodeError::Limited {
            message: format!("HTTP {}", status.as_u16()),
            retry_after,
        },
        false => NodeError::Http {
            status: status.as_u16(),
        },
    }
}

/// What the head of an answer says of an error in it.
fn limited(error: CallError, status: StatusCode, header: Option<Duration>) -> CallError {
    let CallError::Node(error) = error else {
        return error;
    };
    CallError::Node(match error {
        NodeError::Limited {
            message,
            retry_after,
        } => NodeError::Limited {
            message,
            retry_after: header.or(retry_after),
        },
        NodeError::Rpc { message, .. } if status == StatusCode::TOO_MANY_REQUESTS => {
            NodeError::Limited {
                message,
                retry_after: header,
            }
        }
        error => error,
    })
}
