//! Why a node gave no usable answer, in words that hold no URL and no key.

use std::time::Duration;

use alloy_json_rpc::ErrorPayload;
use alloy_primitives::{B256, Bytes};
use serde_json::Value;
use serde_json::value::RawValue;
use teller_domain::ChainId;

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
    /// The node, or what stands before it, takes no more calls for now. That says nothing of what was asked.
    #[error("the node is rate limited: {message}")]
    Limited {
        /// What it said, without URLs, at most 200 characters.
        message: String,
        /// How long to wait, where it said so.
        retry_after: Option<Duration>,
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
    /// The node serves another chain: it is left out.
    #[error("the node serves {found}, not {expected}")]
    WrongChain {
        /// The configured network.
        expected: ChainId,
        /// What the node says.
        found: ChainId,
    },
    /// The node serves a chain with the same id that begins with another block: it is left out.
    #[error("the node's chain begins with {found}, not {expected}")]
    WrongGenesis {
        /// The hash of the network's block 0.
        expected: B256,
        /// The hash of the node's.
        found: B256,
    },
}

impl NodeError {
    /// Whether the same question may be answered later, or elsewhere.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout
            | Self::Refused
            | Self::Broken
            | Self::Limited { .. }
            | Self::Http { .. }
            | Self::BadAnswer(_) => true,
            Self::Rpc { code, .. } => !matches!(code, -32602..=-32600),
            Self::NoEndpoint | Self::WrongChain { .. } | Self::WrongGenesis { .. } => false,
        }
    }

    /// Whether the endpoint is at fault, as opposed to the question.
    pub(crate) fn blames_endpoint(&self) -> bool {
        match self {
            Self::Timeout
            | Self::Refused
            | Self::Broken
            | Self::Limited { .. }
            | Self::Http { .. }
            | Self::BadAnswer(_) => true,
            // Whoever is left out for good needs no breaker.
            Self::Rpc { .. }
            | Self::NoEndpoint
            | Self::WrongChain { .. }
            | Self::WrongGenesis { .. } => false,
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
            Self::Refused | Self::Limited { .. } | Self::NoEndpoint => true,
            // It was looked at before it was asked.
            Self::WrongChain { .. } | Self::WrongGenesis { .. } => true,
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
            Self::Limited { .. } => "limited",
            Self::Http { .. } => "http",
            Self::BadAnswer(_) => "bad_answer",
            Self::NoEndpoint => "no_endpoint",
            Self::WrongChain { .. } | Self::WrongGenesis { .. } => "wrong_network",
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
    let text = sanitise(&payload.message);
    CallError::Node(match is_limit(payload.code, &message) {
        true => NodeError::Limited {
            message: text,
            retry_after: payload.data.as_deref().and_then(read_backoff),
        },
        false => NodeError::Rpc {
            code: payload.code,
            message: text,
        },
    })
}

/// What providers answer above a rate or a quota: `limit exceeded` of EIP-1474, and codes of their own.
const LIMIT_CODES: [i64; 7] = [-32_005, -32_007, -32_016, -32_029, -32_090, -32_097, 429];
/// Words that only a rate or a quota has, in lower case.
const LIMIT_WORDS: [&str; 12] = [
    "rate limit",
    "ratelimit",
    "rate-limit",
    "request limit",
    "requests limit",
    "call limit",
    "too many requests",
    "request count exceeded",
    "per second",
    "compute unit",
    "throttl",
    "quota",
];
/// Words of limits that what was asked exceeds, whoever asks and whenever.
const QUESTION_WORDS: [&str; 18] = [
    "gas",
    "fee",
    "range",
    "batch",
    "size",
    "result",
    "returned",
    "logs",
    "blocks",
    "bytes",
    "large",
    "long",
    "depth",
    "stack",
    "memory",
    "time",
    "transaction",
    "pool",
];

/// Whether an error of this code and text (in lower case) says that too much was asked lately, as opposed to too much at
/// once.
fn is_limit(code: i64, message: &str) -> bool {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&LIMIT_WORDS) {
        return true;
    }
    // EIP-1474's code also stands for too many results.
    let known = LIMIT_CODES.contains(&code) || message.contains("limit");
    known && !has(&QUESTION_WORDS)
}

/// The longest wait that a node may ask for; then it is asked again.
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// How long to wait, as some providers say beside the error: `{"rate": {"backoff_seconds": 30}}`.
fn read_backoff(data: &RawValue) -> Option<Duration> {
    let data: Value = serde_json::from_str(data.get()).ok()?;
    let seconds = data.pointer("/rate/backoff_seconds")?.as_f64()?;
    Some(
        Duration::try_from_secs_f64(seconds)
            .unwrap_or_default()
            .min(LONGEST_BACKOFF),
    )
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

    #[test]
    fn a_limit_of_the_endpoint_is_told_from_one_of_the_question() {
        let read = |code: i64, message: &str| {
            let payload = format!(r#"{{"code":{code},"message":"{message}"}}"#);
            match from_payload(&serde_json::from_str(&payload).unwrap()) {
                CallError::Node(error) => error,
                CallError::Reverted(_) => panic!("{message}"),
            }
        };
        for (code, message) in [
            (-32_005, "limit exceeded"),
            (
                -32_005,
                "daily request count exceeded, request rate limited",
            ),
            (
                -32_007,
                "50/second request limit reached - reduce calls per second",
            ),
            (-32_016, "over rate limit"),
            (-32_016, ""),
            (-32_097, "exceeded"),
            (-32_000, "Too Many Requests"),
            (-32_603, "rate limit exceeded for eth_getLogs"),
            (-32_000, "monthly limit reached, please upgrade"),
            (
                429,
                "Your app has exceeded its compute units per second capacity",
            ),
        ] {
            let error = read(code, message);
            assert!(
                matches!(error, NodeError::Limited { .. }),
                "{code} {message}"
            );
            assert!(error.blames_endpoint() && error.is_retryable());
        }
        for (code, message) in [
            (-32_000, "gas limit exceeded"),
            (-32_000, "exceeds block gas limit"),
            (-32_005, "query returned more than 10000 results"),
            (-32_005, "batch size exceeds the limit of 10"),
            (-32_000, "batch limit exceeded"),
            (-32_602, "block range limit is 1000"),
            (
                -32_000,
                "in-flight transaction limit reached for delegated accounts",
            ),
            (-32_000, "evm memory limit exceeded"),
            (-32_000, "response size limit exceeded"),
            (-32_000, "header not found"),
        ] {
            let error = read(code, message);
            assert!(matches!(error, NodeError::Rpc { .. }), "{code} {message}");
            assert!(!error.blames_endpoint());
        }
    }

    #[test]
    fn a_wait_that_is_named_beside_the_error_is_bounded() {
        for (seconds, wait) in [("30", 30), ("1e9", 60), ("-1", 0)] {
            let payload = format!(
                r#"{{"code":-32005,"message":"","data":{{"rate":{{"backoff_seconds":{seconds}}}}}}}"#
            );
            let CallError::Node(NodeError::Limited { retry_after, .. }) =
                from_payload(&serde_json::from_str(&payload).unwrap())
            else {
                panic!("{seconds}");
            };
            assert_eq!(retry_after, Some(Duration::from_secs(wait)));
        }
    }
}
