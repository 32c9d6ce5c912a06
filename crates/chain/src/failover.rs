//! One question to several endpoints: who is asked first, when the next one is, and which answer counts.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};

use crate::endpoint::Endpoint;
use crate::{CallError, NodeError};

/// An endpoint that has not answered for so long is not waited for alone: the next one is asked, too.
pub(crate) const HEDGE_AFTER: Duration = Duration::from_millis(300);

/// Why no endpoint gave an answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The call reverted, with this data: the answer to it.
    Reverted(Bytes),
    /// What each of them said, in the order in which they did.
    Failed(Vec<NodeError>),
}

impl NoAnswer {
    /// The one to tell: what is said of the question rather than of an endpoint, else the last one.
    pub(crate) fn most_telling(self) -> CallError {
        let failures = match self {
            Self::Reverted(data) => return CallError::Reverted(data),
            Self::Failed(failures) => failures,
        };
        let of_question = failures.iter().rposition(|error| !error.blames_endpoint());
        let index = of_question.unwrap_or(failures.len().saturating_sub(1));
        let error = failures.into_iter().nth(index);
        error.unwrap_or(NodeError::NoEndpoint).into()
    }

    fn is_only_limits(&self) -> bool {
        let is_limit = |error: &NodeError| matches!(error, NodeError::Limited { .. });
        match self {
            Self::Reverted(_) => false,
            Self::Failed(failures) => failures.iter().all(is_limit),
        }
    }
}

/// The endpoints in the order of preference: those that are healthy for a method, those that lag behind the followed head
/// last among them; then the others. Those of another chain are left out.
pub(crate) fn in_order(
    endpoints: &[Arc<Endpoint>],
    method: &'static str,
    followed: u64,
) -> Vec<Arc<Endpoint>> {
    let of_chain = endpoints.iter().filter(|endpoint| !endpoint.is_left_out());
    let healthy = |endpoint: &Arc<Endpoint>| endpoint.is_healthy(method);
    let (mut order, broken): (Vec<_>, Vec<_>) = of_chain.cloned().partition(healthy);
    order.sort_by_key(|endpoint| endpoint.lags_behind(followed));
    order.extend(broken);
    order
}

/// Asks the endpoints in the order that they have at each round: the next one when one failed, or was silent for 300 ms. The first answer counts; a
/// revert is one. Whoever is not waited for any more goes on to its time limit, and is judged by it. Where all ask for a
/// pause, that is waited for if it ends within the time limit of a call.
pub(crate) async fn first_answer<R, F>(
    order: impl Fn() -> Vec<Arc<Endpoint>>,
    method: &'static str,
    ask: impl Fn(Arc<Endpoint>) -> F,
) -> Result<R, NoAnswer>
where
    R: Send + 'static,
    F: Future<Output = Result<R, CallError>> + Send + 'static,
{
    let began = Instant::now();
    loop {
        let endpoints = order();
        probe(&endpoints, method, &ask);
        let failed = match one_round(endpoints.clone(), &ask).await {
            Err(failed) if failed.is_only_limits() => failed,
            answer => return answer,
        };
        let pauses = endpoints.iter().filter_map(|one| one.pause(method)).min();
        let limit = endpoints.iter().map(|endpoint| endpoint.deadline).max();
        let give_up_at = began + limit.unwrap_or_default();
        match pauses {
            Some(pause) if Instant::now() + pause < give_up_at => sleep(pause).await,
            Some(_) | None => return Err(failed),
        }
    }
}

/// Asks on the side what is due for a probe, where another endpoint answers meanwhile.
fn probe<R, F>(endpoints: &[Arc<Endpoint>], method: &'static str, ask: &impl Fn(Arc<Endpoint>) -> F)
where
    R: Send + 'static,
    F: Future<Output = Result<R, CallError>> + Send + 'static,
{
    let is_healthy = |endpoint: &&Arc<Endpoint>| endpoint.is_healthy(method);
    if !endpoints.iter().any(|endpoint| is_healthy(&endpoint)) {
        return;
    }
    let broken = endpoints.iter().filter(|endpoint| !is_healthy(endpoint));
    for endpoint in broken.filter(|endpoint| endpoint.claim_probe(method)) {
        // The call itself closes the breaker, or leaves it open.
        tokio::spawn(ask(Arc::clone(endpoint)));
    }
}

async fn one_round<R, F>(
    order: Vec<Arc<Endpoint>>,
    ask: &impl Fn(Arc<Endpoint>) -> F,
) -> Result<R, NoAnswer>
where
    R: Send + 'static,
    F: Future<Output = Result<R, CallError>> + Send + 'static,
{
    let mut order = order.into_iter();
    let mut asked = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        let next = match asked.is_empty() {
            true => None,
            false if order.len() == 0 => asked.next().await,
            false => timeout(HEDGE_AFTER, asked.next()).await.ok().flatten(),
        };
        match next {
            Some(Ok(Ok(answer))) => return Ok(answer),
            Some(Ok(Err(CallError::Reverted(data)))) => return Err(NoAnswer::Reverted(data)),
            Some(Ok(Err(CallError::Node(error)))) => failures.push(error),
            Some(Err(_)) => failures.push(NodeError::BadAnswer("the task ended")),
            // Nobody is asked yet, or whoever is, is slow.
            None => {}
        }
        match order.next() {
            Some(endpoint) => asked.push(tokio::spawn(ask(endpoint))),
            None if asked.is_empty() => return Err(NoAnswer::Failed(failures)),
            None => {}
        }
    }
}
