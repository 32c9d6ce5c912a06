//! Writes to both stores again and again: a store that answers reads may refuse every write. Readiness, a metric and the
//! log tell the last result.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use teller_store::{StoreError, StoreResult, Stores};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between the end of one probe and the next.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// What has not been written by then counts as refused.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the last probe of each store found.
pub struct Probes {
    ledger: watch::Receiver<bool>,
    reservations: watch::Receiver<bool>,
}

impl Probes {
    /// Probes both once, and from then on as one of these chores.
    pub async fn start(stores: &Stores, chores: &mut JoinSet<()>) -> Self {
        let (ledger, reservations) = (Arc::clone(&stores.ledger), Arc::clone(&stores.reservations));
        let ledger = Probe::new("ledger", move || {
            let ledger = Arc::clone(&ledger);
            async move { ledger.ping().await }
        });
        let reservations = Probe::new("reservations", move || {
            let reservations = Arc::clone(&reservations);
            async move { reservations.probe().await }
        });
        let (ledger, reservations) = tokio::join!(ledger.begin(), reservations.begin());
        let probes = Self {
            ledger: ledger.found.subscribe(),
            reservations: reservations.found.subscribe(),
        };
        chores.spawn(ledger.go_on());
        chores.spawn(reservations.go_on());
        probes
    }

    /// Whether the ledger takes writes.
    pub fn ledger(&self) -> impl Fn() -> bool + Clone + Send + Sync + 'static + use<> {
        last(&self.ledger)
    }

    /// Whether the reservations take holds, and those that were granted are there.
    pub fn reservations(&self) -> impl Fn() -> bool + Clone + Send + Sync + 'static + use<> {
        last(&self.reservations)
    }
}

fn last(
    found: &watch::Receiver<bool>,
) -> impl Fn() -> bool + Clone + Send + Sync + 'static + use<> {
    let found = found.clone();
    move || *found.borrow()
}

struct Probe<F> {
    store: &'static str,
    write: F,
    found: watch::Sender<bool>,
}

impl<F, W> Probe<F>
where
    F: Fn() -> W,
    W: Future<Output = StoreResult<()>>,
{
    fn new(store: &'static str, write: F) -> Self {
        Self {
            store,
            write,
            found: watch::Sender::new(true),
        }
    }

    async fn begin(self) -> Self {
        self.look().await;
        self
    }

    async fn go_on(self) {
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            self.look().await;
        }
    }

    async fn look(&self) {
        let written = tokio::time::timeout(PROBE_TIMEOUT, (self.write)()).await;
        let cause = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(StoreError::Unavailable {
                store: self.store,
                cause: "no answer in time".to_owned(),
            }),
        };
        gauge!("teller_store_writable", "store" => self.store).set(u8::from(cause.is_none()));
        let has_changed = self.found.send_if_modified(|found| {
            let before = std::mem::replace(found, cause.is_none());
            before != *found
        });
        match cause {
            Some(error) if has_changed => {
                tracing::warn!(store = self.store, %error, "a store takes no writes");
            }
            None if has_changed => tracing::info!(store = self.store, "a store takes writes again"),
            Some(_) | None => {}
        }
    }
}
