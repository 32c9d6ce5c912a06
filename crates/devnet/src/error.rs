//! What can go wrong with a local chain.

use std::time::Duration;

/// Why the local chain could not be started, reached or set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevnetError {
    /// No anvil binary in any of the places looked at.
    #[error(
        "anvil was not found (looked at {looked}); run `make tools` to install it, or name one with TELLER_ANVIL"
    )]
    AnvilNotFound {
        /// The places, in the order looked at.
        looked: String,
    },
    /// The binary is there and could not be started.
    #[error("anvil could not be started")]
    Spawn(#[source] std::io::Error),
    /// anvil ended before it answered.
    #[error("anvil ended at once: {log}")]
    Exited {
        /// The last lines of its error output.
        log: String,
    },
    /// anvil runs and does not answer.
    #[error("anvil did not answer within {0:?}")]
    NotReady(Duration),
    /// No port could be had.
    #[error("no free port was found")]
    NoFreePort,
    /// The HTTP client could not be built.
    #[error("the HTTP client could not be built")]
    Client(#[source] reqwest::Error),
    /// The request did not reach the node, or its answer did not come back.
    #[error("{method}: no answer from the node")]
    Transport {
        /// The JSON-RPC method.
        method: String,
        /// What the HTTP client says.
        #[source]
        source: reqwest::Error,
    },
    /// The node refused the request.
    #[error("{method}: {message} (code {code})")]
    Rpc {
        /// The JSON-RPC method.
        method: String,
        /// The JSON-RPC error code.
        code: i64,
        /// The node's message.
        message: String,
    },
    /// The node answered with something that is not an answer to the request.
    #[error("{method}: the node's answer makes no sense")]
    UnexpectedAnswer {
        /// The JSON-RPC method.
        method: String,
    },
    /// A transaction that sets the chain up reverted.
    #[error("{what}: the transaction reverted")]
    Reverted {
        /// What it was for.
        what: String,
    },
    /// A transaction that sets the chain up was not mined.
    #[error("{what}: the transaction was not mined")]
    NotMined {
        /// What it was for.
        what: String,
    },
    /// A committed contract artefact cannot be read.
    #[error("the artefact of {name} is broken; run `node contracts/build.mjs`")]
    Artifact {
        /// The contract's name.
        name: &'static str,
    },
    /// A key derived from the test seed is no key; cannot happen with the committed seed.
    #[error("the test seed gives no key for {role} {index}")]
    Key {
        /// `payer` or `signer`.
        role: &'static str,
        /// Which one.
        index: usize,
    },
}
