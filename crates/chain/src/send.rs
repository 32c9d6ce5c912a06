//! Sending signed bytes. No retry, no queue, no nonce: what is sent is already in the ledger, and anything but a plain
//! rejection leaves it possible that the bytes are on their way.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{B256, Bytes};
use tokio::time::timeout;

use crate::endpoint::{Endpoint, SEND};
use crate::{CallError, NodeError, Nodes};

/// How long the first endpoint may take before a second one gets the same bytes.
const SECOND_AFTER: Duration = Duration::from_millis(150);

/// What became of bytes that were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// A node took them.
    Accepted,
    /// A node had them already.
    AlreadyKnown,
    /// The account's nonce has passed theirs: look for every own hash first.
    NonceTooLow,
    /// Another transaction holds the nonce with higher fees, or the fees are below what the node takes.
    Underpriced,
    /// The signer cannot pay for them.
    InsufficientFunds,
    /// They ask for more gas than a transaction or a block may have. Definitive: no node takes them.
    GasTooHigh,
    /// Time-out, lost connection, or words that teller does not know: they may be on their way.
    Unknown(String),
}

impl SendOutcome {
    /// Of two outcomes the one that tells more: an acceptance wins, and a rejection by one endpoint never hides that
    /// the other one may have taken the bytes.
    fn rank(&self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::AlreadyKnown => 1,
            Self::NonceTooLow => 2,
            Self::Underpriced => 3,
            Self::Unknown(_) => 4,
            Self::InsufficientFunds => 5,
            Self::GasTooHigh => 6,
        }
    }

    fn or(self, other: Self) -> Self {
        if other.rank() < self.rank() {
            other
        } else {
            self
        }
    }

    fn is_taken(&self) -> bool {
        matches!(self, Self::Accepted | Self::AlreadyKnown)
    }
}

/// What became of bytes that were sent, and whether any node may have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    /// What those that were asked said, as far as it goes.
    pub outcome: SendOutcome,
    /// One of them took the bytes, or was given them and did not answer. Otherwise none was reached, or all refused.
    pub handed_over: bool,
}

impl Sending {
    fn answered(outcome: SendOutcome) -> Self {
        Self {
            handed_over: outcome.is_taken(),
            outcome,
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            outcome: self.outcome.or(other.outcome),
            handed_over: self.handed_over || other.handed_over,
        }
    }
}

impl Nodes {
    /// What [`Self::send_noting`] says of the outcome.
    pub async fn send(&self, raw: &Bytes) -> SendOutcome {
        self.send_noting(raw).await.outcome
    }

    /// Sends signed bytes to the first healthy endpoint, and after 150 ms or a refusal the identical bytes to a second
    /// one if there is one. Any acceptance wins.
    pub async fn send_noting(&self, raw: &Bytes) -> Sending {
        let mut order = self.in_order(SEND).into_iter();
        let Some(first) = order.next() else {
            let none = NodeError::NoEndpoint.to_string();
            return Sending::answered(SendOutcome::Unknown(none));
        };
        let Some(second) = order.next() else {
            return send_to(first, raw.clone()).await;
        };
        let mut first = Box::pin(send_to(first, raw.clone()));
        let early = timeout(SECOND_AFTER, &mut first).await.ok();
        match early {
            Some(sending) if sending.outcome.is_taken() => sending,
            Some(sending) => sending.or(send_to(second, raw.clone()).await),
            None => {
                let mut second = Box::pin(send_to(second, raw.clone()));
                let (sending, first_is_open) = tokio::select! {
                    sending = &mut first => (sending, false),
                    sending = &mut second => (sending, true),
                };
                if sending.outcome.is_taken() {
                    return sending;
                }
                let other = if first_is_open { first } else { second };
                sending.or(other.await)
            }
        }
    }
}

/// A task of its own, so that whoever stops waiting for the outcome does not tear a half-written request.
async fn send_to(endpoint: Arc<Endpoint>, raw: Bytes) -> Sending {
    let index = endpoint.index;
    let task = tokio::spawn(async move { endpoint.call::<_, B256>(SEND, (raw,)).await });
    match task.await {
        Ok(Ok(_)) => Sending::answered(SendOutcome::Accepted),
        Ok(Err(CallError::Node(error))) => {
            let outcome = match &error {
                NodeError::Rpc { message, .. } | NodeError::Limited { message, .. } => {
                    classify(message)
                }
                other => SendOutcome::Unknown(format!("endpoint {index}: {other}")),
            };
            Sending {
                handed_over: outcome.is_taken() || !error.is_refusal(),
                outcome,
            }
        }
        Ok(Err(error @ CallError::Reverted(_))) => {
            Sending::answered(SendOutcome::Unknown(format!("endpoint {index}: {error}")))
        }
        Err(_) => Sending {
            outcome: SendOutcome::Unknown(format!("endpoint {index}: the task ended")),
            handed_over: true,
        },
    }
}

/// Words of geth, op-geth, reth, erigon, nethermind, besu and anvil, in lower case.
const WORDS: [(&str, SendOutcome); 25] = [
    ("already known", SendOutcome::AlreadyKnown),
    ("alreadyknown", SendOutcome::AlreadyKnown),
    ("already imported", SendOutcome::AlreadyKnown),
    ("already in pool", SendOutcome::AlreadyKnown),
    ("already exists", SendOutcome::AlreadyKnown),
    ("nonce too low", SendOutcome::NonceTooLow),
    ("nonce is too low", SendOutcome::NonceTooLow),
    ("nonce below", SendOutcome::NonceTooLow),
    ("oldnonce", SendOutcome::NonceTooLow),
    ("underpriced", SendOutcome::Underpriced),
    ("feetoolow", SendOutcome::Underpriced),
    ("fee too low", SendOutcome::Underpriced),
    (
        "max fee per gas less than block base fee",
        SendOutcome::Underpriced,
    ),
    ("less than the block base fee", SendOutcome::Underpriced),
    ("gas price too low", SendOutcome::Underpriced),
    ("insufficient funds", SendOutcome::InsufficientFunds),
    ("insufficientfunds", SendOutcome::InsufficientFunds),
    ("upfront cost exceeds", SendOutcome::InsufficientFunds),
    ("exceeds block gas limit", SendOutcome::GasTooHigh),
    ("gas limit exceeded", SendOutcome::GasTooHigh),
    ("gas limit too high", SendOutcome::GasTooHigh),
    ("gas limit is greater than", SendOutcome::GasTooHigh),
    ("exceeds the cap", SendOutcome::GasTooHigh),
    ("greater than the cap", SendOutcome::GasTooHigh),
    ("intrinsic gas too high", SendOutcome::GasTooHigh),
];

fn classify(message: &str) -> SendOutcome {
    let lower = message.to_ascii_lowercase();
    WORDS
        .iter()
        .find(|(words, _)| lower.contains(words))
        .map_or_else(
            || SendOutcome::Unknown(message.to_owned()),
            |(_, outcome)| outcome.clone(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_nodes_are_known() {
        for (message, outcome) in [
            ("already known", SendOutcome::AlreadyKnown),
            ("transaction already imported", SendOutcome::AlreadyKnown),
            (
                "nonce too low: next nonce 5, tx nonce 4",
                SendOutcome::NonceTooLow,
            ),
            (
                "replacement transaction underpriced",
                SendOutcome::Underpriced,
            ),
            (
                "Insufficient funds for gas * price + value",
                SendOutcome::InsufficientFunds,
            ),
            (
                "transaction gas limit (30000000) is greater than the cap (16777216)",
                SendOutcome::GasTooHigh,
            ),
        ] {
            assert_eq!(classify(message), outcome, "{message}");
        }
        assert!(matches!(classify("odd"), SendOutcome::Unknown(_)));
    }

    #[test]
    fn one_error_never_hides_what_the_other_endpoint_may_have_taken() {
        let unknown = SendOutcome::Unknown(String::new());
        assert_eq!(SendOutcome::GasTooHigh.or(unknown.clone()), unknown);
        assert_eq!(
            SendOutcome::NonceTooLow.or(SendOutcome::Accepted),
            SendOutcome::Accepted
        );
        assert_eq!(
            unknown.or(SendOutcome::AlreadyKnown),
            SendOutcome::AlreadyKnown
        );
    }
}
