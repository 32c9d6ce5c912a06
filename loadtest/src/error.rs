//! What stops a run. What a facilitator answers to a payment never does: that is an outcome, and is counted.

use std::time::Duration;

/// Why the generator gave up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A URL that cannot be used.
    #[error("{url}: {why}")]
    Url { url: String, why: &'static str },
    /// Load is for one's own machine: nobody else's node or facilitator may be hit by accident.
    #[error("{url} is not on this machine: load is sent to loopback addresses only")]
    NotLoopback { url: String },
    /// A flag, file or key that makes no sense.
    #[error("{what}: {why}")]
    Input { what: String, why: String },
    /// A file or socket.
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    /// A connection to the facilitator under load could not be opened.
    #[error("{what}")]
    Connect {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A facilitator did not answer.
    #[error("{url}: no answer ({why})")]
    Silent { url: String, why: String },
    /// A command of the facilitator's binary failed.
    #[error("teller {command} failed: {output}")]
    Command { command: String, output: String },
    /// Ledger and chain do not agree, or somebody was told what is not so.
    #[error("{} differences between ledger, chain and answers:\n{}", .0.len(), .0.join("\n"))]
    Differences(Vec<String>),
    /// The node did not answer.
    #[error("{method}: no answer from the node ({why})")]
    NodeSilent { method: String, why: String },
    /// The node refused.
    #[error("{method}: the node refused: {message}")]
    NodeRefused { method: String, message: String },
    /// The node's answer has another shape than asked for.
    #[error("{method}: the node's answer makes no sense")]
    NodeAnswer { method: String },
    /// The local chain.
    #[error("the local chain")]
    Devnet(#[from] teller_devnet::DevnetError),
    /// The facilitator under test ended or never got ready.
    #[error("teller was not ready within {within:?}; its last lines:\n{log}")]
    NotReady { within: Duration, log: String },
    /// No facilitator binary.
    #[error(
        "no teller binary at {looked}; build it with `cargo build --release -p teller` or name one with TELLER_BIN"
    )]
    NoBinary { looked: String },
    /// Something asked for was not there in time.
    #[error("{what} within {within:?}")]
    TimedOut {
        what: &'static str,
        within: Duration,
    },
    /// A thread or task of the generator died.
    #[error("{0} ended early")]
    Ended(&'static str),
    /// A run in which nothing was accepted measures nothing.
    #[error("no payment was accepted: {outcomes}")]
    NothingAccepted { outcomes: String },
}

impl LoadError {
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub fn input(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Input {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

/// An error and everything behind it on one line.
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
