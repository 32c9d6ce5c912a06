//! Why a node gave no usable answer, in words that hold no URL and no key.

use alloy_json_rpc::{ErrorPayload, RpcError};
use alloy_primitives::Bytes;
use alloy_transport::{TransportError, TransportErrorKind};

/// A node's message is cut to this many characters.
const MESSAGE_LENGTH: usize = 200;

/// Why a node gave no usable answer. Says nothing about any payment (invariant 10).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No answer in time; whatever was asked may still happen.
    #[error("the node did not answer in time")]
    Timeout,
    /// No connection: nothing was handed to the node.
    #[error("the node could not be reached")]
    Refused,
    /// The connection broke before an answer; whatever was asked may still happen.
    #[error("the connection to the node broke")]
    Broken,
    /// The node answered with a JSON-RPC error.
    #[error("the node refused with {code}: {message}")]
    Rpc {
        /// The JSON-RPC code.
        code: i64,
        /// The node's message without URLs, at most 200 characters.
        message: String,
    },
    /// The node, or what stands before it, answered with an HTTP error.
    #[error("the node answered HTTP {status}")]
    Http {
        /// The HTTP status.
        status: u16,
    },
    /// The answer was not what the method promises.
    #[error("the node gave a bad answer: {0}")]
    BadAnswer(&'static str),
    /// No endpoint is configured, or its URL cannot be used.
    #[error("no usable endpoint")]
    NoEndpoint,
}

impl NodeError {
    /// Whether the same question may be answered later, or elsewhere.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout
            | Self::Refused
            | Self::Broken
            | Self::Http { .. }
            | Self::BadAnswer(_) => true,
            Self::Rpc { code, .. } => !matches!(code, -32602..=-32600),
            Self::NoEndpoint => false,
        }
    }

    /// Whether the endpoint is at fault, as opposed to the question.
    pub(crate) fn blames_endpoint(&self) -> bool {
        match self {
            Self::Timeout
            | Self::Refused
            | Self::Broken
            | Self::Http { .. }
            | Self::BadAnswer(_) => true,
            // -32005 and -32097 are what providers say when a limit is exceeded.
            Self::Rpc { code, .. } => matches!(code, -32005 | -32097),
            Self::NoEndpoint => false,
        }
    }

    /// Whether the node said that it does not have the block that was named.
    pub(crate) fn lacks_block(&self) -> bool {
        let Self::Rpc { message, .. } = self else {
            return false;
        };
        let message = message.to_ascii_lowercase();
        [
            "header not found",
            "header for hash not found",
            "unknown block",
            "block not found",
            "blockoutofrange",
            "could not find block",
            "missing trie node",
            "historical state",
        ]
        .iter()
        .any(|text| message.contains(text))
    }

    /// Whether an answer was given, and it was a "no": what was asked is not under way. Without an answer nobody knows.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused | Self::NoEndpoint => true,
            // A gateway whose node did not answer.
            Self::Http { status } => !matches!(status, 502 | 504),
            Self::Rpc { message, .. } => {
                let message = message.to_ascii_lowercase();
                !["timed out", "timeout", "deadline exceeded"]
                    .iter()
                    .any(|text| message.contains(text))
            }
            Self::Timeout | Self::Broken | Self::BadAnswer(_) => false,
        }
    }

    /// What an error says of a transaction that was asked for: nodes have words for "not seen here" where others answer
    /// `null`. `None` for an error that says nothing of it.
    pub(crate) fn absence(&self) -> Option<Absence> {
        let Self::Rpc { message, .. } = self else {
            return None;
        };
        let message = message.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if says(&["indexing"]) {
            return Some(Absence::Unsearched);
        }
        let thing = says(&["transaction", "receipt", "tx"]);
        let missing = says(&[
            "not found",
            "notfound",
            "not exist",
            "unknown transaction",
            "unknown tx",
            "not known",
            "could not find",
            "couldn't find",
            "cannot find",
            "no such",
        ]);
        let alone = message.trim_end_matches('.') == "not found";
        ((thing && missing && !self.lacks_block()) || alone).then_some(Absence::NotFound)
    }

    /// The word for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Rpc { .. } => "rpc",
            Self::Http { .. } => "http",
            Self::BadAnswer(_) => "bad_answer",
            Self::NoEndpoint => "no_endpoint",
        }
    }
}

/// That a node has not seen a transaction, as an error says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It has looked.
    NotFound,
    /// Its index is being built: it has not seen the transaction so far, which is no evidence that there is none.
    Unsearched,
}

/// What became of an `eth_call` that gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The contract reverted, with this data.
    #[error("the call reverted")]
    Reverted(Bytes),
    /// The node gave no usable answer.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// A node's text without anything that looks like a URL, and cut.
pub(crate) fn sanitise(text: &str) -> String {
    let words = text
        .split_whitespace()
        .map(|word| if word.contains("://") { "(url)" } else { word });
    let mut clean = String::new();
    for word in words {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
        if clean.len() >= MESSAGE_LENGTH {
            break;
        }
    }
    clean.chars().take(MESSAGE_LENGTH).collect()
}

/// A JSON-RPC error object. Reverts are told apart by their data or their code (3, as geth and anvil give it).
pub(crate) fn from_payload(payload: &ErrorPayload) -> CallError {
    if let Some(data) = payload.as_revert_data() {
        return CallError::Reverted(data);
    }
    let message = payload.message.to_ascii_lowercase();
    if payload.code == 3 || message.starts_with("execution reverted") {
        return CallError::Reverted(Bytes::new());
    }
    CallError::Node(NodeError::Rpc {
        code: payload.code,
        message: sanitise(&payload.message),
    })
}

/// Sorts what the transport said; its own texts hold the URL and are dropped.
pub(crate) fn from_transport(error: TransportError) -> CallError {
    let node = match error {
        RpcError::ErrorResp(payload) => return from_payload(&payload),
        RpcError::NullResp => NodeError::BadAnswer("null"),
        RpcError::UnsupportedFeature(_) | RpcError::LocalUsageError(_) | RpcError::SerError(_) => {
            NodeError::BadAnswer("the request could not be encoded")
        }
        RpcError::DeserError { .. } => NodeError::BadAnswer("not the JSON that was expected"),
        RpcError::Transport(kind) => from_kind(kind),
    };
    CallError::Node(node)
}

fn from_kind(kind: TransportErrorKind) -> NodeError {
    match kind {
        TransportErrorKind::MissingBatchResponse(_) => {
            NodeError::BadAnswer("a batch came back incomplete")
        }
        TransportErrorKind::HttpError(error) => NodeError::Http {
            status: error.status,
        },
        TransportErrorKind::HttpErrorWithRetryAfter { error, .. } => NodeError::Http {
            status: error.status,
        },
        TransportErrorKind::Custom(error) | TransportErrorKind::NonRetryable(error) => {
            match error.downcast::<NodeError>() {
                Ok(error) => *error,
                Err(_) => NodeError::Broken,
            }
        }
        _ => NodeError::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_url_survives_and_long_texts_are_cut() {
        let text = format!(
            "cannot reach https://node/v1/SECRET now {}",
            "x ".repeat(400)
        );
        let clean = sanitise(&text);
        assert!(clean.starts_with("cannot reach (url) now"), "{clean}");
        assert!(clean.chars().count() <= MESSAGE_LENGTH);
    }

    #[test]
    fn the_words_of_nodes_for_what_they_have_not_seen_are_known() {
        let rpc = |code, message: &str| NodeError::Rpc {
            code,
            message: message.to_owned(),
        };
        let unsearched = rpc(-32000, "transaction indexing is in progress");
        assert_eq!(unsearched.absence(), Some(Absence::Unsearched));
        for words in [
            "transaction not found",
            "Transaction receipt not found",
            "unknown transaction",
            "could not find transaction",
            "not found",
            "tx not exist",
        ] {
            assert_eq!(
                rpc(-32000, words).absence(),
                Some(Absence::NotFound),
                "{words}"
            );
        }
        for words in [
            "header not found",
            "the method does not exist",
            "rate limit",
            "method not found",
        ] {
            assert_eq!(rpc(-32601, words).absence(), None, "{words}");
        }
        assert_eq!(NodeError::Timeout.absence(), None);
    }

    #[test]
    fn only_an_answer_is_a_refusal() {
        for refusal in [
            NodeError::Refused,
            NodeError::Http { status: 429 },
            NodeError::Http { status: 503 },
            NodeError::Rpc {
                code: -32005,
                message: "limit exceeded".to_owned(),
            },
        ] {
            assert!(refusal.is_refusal(), "{refusal}");
        }
        for silence in [
            NodeError::Timeout,
            NodeError::Broken,
            NodeError::Http { status: 504 },
            NodeError::BadAnswer("not JSON"),
            NodeError::Rpc {
                code: -32002,
                message: "request timed out".to_owned(),
            },
        ] {
            assert!(!silence.is_refusal(), "{silence}");
        }
    }

    #[test]
    fn a_revert_is_no_fault_of_the_node() {
        let payload: ErrorPayload = serde_json::from_str(
            r#"{"code":3,"message":"execution reverted: no","data":"0x08c379a0"}"#,
        )
        .unwrap();
        let data = Bytes::from_static(&[0x08, 0xc3, 0x79, 0xa0]);
        assert_eq!(from_payload(&payload), CallError::Reverted(data));
        let payload: ErrorPayload =
            serde_json::from_str(r#"{"code":-32000,"message":"header not found"}"#).unwrap();
        let CallError::Node(error) = from_payload(&payload) else {
            panic!("a missing block is not a revert");
        };
        assert!(error.lacks_block() && error.is_retryable() && !error.blames_endpoint());
    }
}
