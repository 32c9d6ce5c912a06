//! Many calls in few requests. Providers bound how many calls they take in one JSON-RPC batch, and refuse a longer one in
//! many ways: an HTTP status, one error instead of a list, an error for each call, half of the answers, a cut connection.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alloy_json_rpc::{RpcRecv, RpcSend};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::Endpoint;
use crate::{CallError, NodeError};

/// Largest JSON-RPC batch that is tried.
const MAX_BATCH: usize = 100;
/// A batch that is larger than those that were taken is tried again this long after the last refusal.
const REGROW_AFTER: Duration = Duration::from_secs(600);
/// Calls in flight to an endpoint that takes no batches.
const SINGLE_CALLS_AT_ONCE: usize = 8;

/// How many calls an endpoint takes in one batch, as far as it is known.
#[derive(Debug)]
pub(super) struct BatchSize(Mutex<Known>);

#[derive(Debug, Clone, Copy)]
struct Known {
    size: usize,
    refused_at: Option<Instant>,
}

impl Default for BatchSize {
    fn default() -> Self {
        Self(Mutex::new(Known {
            size: MAX_BATCH,
            refused_at: None,
        }))
    }
}

impl BatchSize {
    /// How many calls to try in the next batch.
    fn to_try(&self, now: Instant) -> usize {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.refused_at {
            Some(at) if now.saturating_duration_since(at) < REGROW_AFTER => known.size,
            _ => (known.size * 2).min(MAX_BATCH),
        }
    }

    /// How many calls to try after a batch of `refused` calls was refused.
    fn after_refusal(&self, refused: usize) -> usize {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A larger one than is known to be taken was only a try.
        match known.size < refused {
            true => known.size,
            false => refused / 2,
        }
    }

    /// Batches of this size are taken; `false` if that was known.
    fn was_taken(&self, size: usize) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let grows = size > known.size;
        known.size = known.size.max(size);
        grows
    }

    /// Batches are taken up to this size only; `false` if that was known.
    fn was_refused_above(&self, size: usize, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shrinks = size < known.size;
        known.size = known.size.min(size).max(1);
        known.refused_at = Some(now);
        shrinks
    }
}

impl Endpoint {
    /// The same method for many parameters, in as few requests as the endpoint takes; answers in the order of the
    /// parameters. A refused batch is tried again in halves, down to single calls, and the size that is taken is
    /// remembered. One failed element fails the whole.
    pub(crate) async fn batch<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
    ) -> Result<Vec<R>, CallError> {
        self.identify().await?;
        let mut answers = Vec::with_capacity(params.len());
        let mut left = params;
        let mut size = self.batch_size.to_try(Instant::now());
        let mut refused = None;
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(size.clamp(1, left.len()));
            if chunk.len() == 1 {
                let single = match size {
                    1 => left,
                    _ => chunk,
                };
                answers.extend(self.singly(method, single).await?);
                left = left.get(single.len()..).unwrap_or_default();
                continue;
            }
            match self.one_batch(method, chunk).await {
                Ok(found) => {
                    answers.extend(found);
                    left = rest;
                    if self.batch_size.was_taken(chunk.len()) {
                        tracing::info!(network = %self.network, endpoint = self.index, size = chunk.len(), "the endpoint takes larger JSON-RPC batches again");
                    }
                }
                Err(CallError::Node(error)) if may_be_too_long(&error) => {
                    size = self.batch_size.after_refusal(chunk.len());
                    refused = Some(error);
                }
                Err(error) => {
                    if error == CallError::Node(NodeError::Timeout) {
                        // Too much for the endpoint, or nothing was: the next batch is shorter in case it was too much.
                        self.batch_size
                            .was_refused_above(chunk.len() / 2, Instant::now());
                    }
                    return Err(error);
                }
            }
        }
        if let Some(error) = refused
            && self.batch_size.was_refused_above(size, Instant::now())
        {
            tracing::info!(network = %self.network, endpoint = self.index, size, %error, "the endpoint refuses longer JSON-RPC batches; from now on they have this size");
        }
        Ok(answers)
    }

    async fn singly<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
    ) -> Result<Vec<R>, CallError> {
        stream::iter(params.iter().cloned())
            .map(|params| self.call(method, params))
            .buffered(SINGLE_CALLS_AT_ONCE)
            .try_collect()
            .await
    }

    /// One request. A refusal that may be due to its length is counted, and says nothing about the endpoint's health:
    /// the halves will.
    async fn one_batch<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
    ) -> Result<Vec<R>, CallError> {
        self.identify().await?;
        self.expect_no_pause(method)?;
        let started = Instant::now();
        let dials = self.dials();
        let result = self.one_request(method, params, started).await;
        match &result {
            Err(error @ CallError::Node(cause)) if may_be_too_long(cause) => {
                self.measure(method, started, Some(error));
            }
            result => self.finish(method, started, result.as_ref().err()),
        }
        self.vouched(method, dials, result).await
    }
}

/// Whether a shorter batch may be taken. Any refusal may mean that; only silence, and an endpoint of another network,
/// stay what they are.
fn may_be_too_long(error: &NodeError) -> bool {
    match error {
        NodeError::Refused
        | NodeError::Broken
        | NodeError::Rpc { .. }
        // Some count each call of a batch.
        | NodeError::Limited { .. }
        | NodeError::Http { .. }
        | NodeError::BadAnswer(_) => true,
        NodeError::Timeout
        | NodeError::NoEndpoint
        | NodeError::WrongChain { .. }
        | NodeError::WrongGenesis { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_was_refused_is_tried_again_only_much_later() {
        let (size, start) = (BatchSize::default(), Instant::now());
        assert_eq!(size.to_try(start), MAX_BATCH);
        assert_eq!(size.after_refusal(12), 6);
        assert!(size.was_refused_above(6, start));
        assert!(!size.was_refused_above(6, start), "that was known");
        assert_eq!(size.to_try(start + REGROW_AFTER / 2), 6);
        let later = start + REGROW_AFTER;
        assert_eq!(size.to_try(later), 12);
        assert!(size.was_taken(12));
        assert_eq!(size.to_try(later), 24);
        assert_eq!(size.after_refusal(20), 12, "12 were taken");
        assert!(!size.was_refused_above(12, later));
        assert_eq!(size.to_try(later), 12);
        assert!(size.was_refused_above(0, later));
        assert_eq!(size.to_try(later), 1, "a single call is always tried");
    }
}
