//! Grouping: whatever arrives while a round trip is in flight travels together in the next one.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};

use crate::{StoreError, StoreResult};

/// How many requests may wait for a group; more callers wait for room.
const QUEUE: usize = 16_384;

pub(crate) type Reply<O> = oneshot::Sender<StoreResult<O>>;

/// Hands requests to a task that answers them in groups.
#[derive(Debug)]
pub(crate) struct Grouper<I, O> {
    store: &'static str,
    sender: mpsc::Sender<(I, Reply<O>)>,
}

impl<I: Send + 'static, O: Send + 'static> Grouper<I, O> {
    /// `run` gets at most `largest` requests and answers each, in their order. `parallel` groups travel at once.
    pub(crate) fn start<F, R>(
        store: &'static str,
        operation: &'static str,
        largest: usize,
        parallel: usize,
        run: F,
    ) -> Self
    where
        F: Fn(Vec<I>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Vec<StoreResult<O>>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel::<(I, Reply<O>)>(QUEUE);
        let receiver = std::sync::Arc::new(tokio::sync::Mutex::new(receiver));
        for _ in 0..parallel.max(1) {
            let receiver = receiver.clone();
            let run = run.clone();
            tokio::spawn(async move {
                let mut arrived = Vec::with_capacity(largest);
                loop {
                    let count = receiver.lock().await.recv_many(&mut arrived, largest).await;
                    if count == 0 {
                        return;
                    }
                    record_group(store, operation, count);
                    let (requests, replies): (Vec<I>, Vec<Reply<O>>) = arrived.drain(..).unzip();
                    for (reply, answer) in replies.into_iter().zip(run(requests).await) {
                        let _ = reply.send(answer);
                    }
                }
            });
        }
        Self { store, sender }
    }

    /// The answer to one request.
    pub(crate) async fn call(&self, request: I) -> StoreResult<O> {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::unavailable(self.store, "it was closed");
        self.sender
            .send((request, reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// How many requests shared one round trip.
pub(crate) fn record_group(store: &'static str, operation: &'static str, size: usize) {
    metrics::histogram!("teller_store_group_size", "store" => store, "operation" => operation)
        .record(size as f64);
}
