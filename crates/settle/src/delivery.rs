//! The delivery of a success: told at most once. It is claimed, the claim is confirmed, and only then the answer goes to
//! the transport. Where a process dies between the last two, nobody is told: the next request hears that the success was
//! delivered.

use std::sync::Arc;
use std::time::Duration;

use teller_domain::{RequestId, SettlementId};
use teller_store::Ledger;
use tokio_util::task::TaskTracker;

/// How long the ledger may be away before giving a claim back is given up: half a minute in all.
const RELEASE_PATIENCE: [Duration; 8] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(6),
    Duration::from_secs(8),
    Duration::from_secs(8),
];

/// A success on its way to the one request that may deliver it. Dropped before [`delivered`](Delivery::delivered), the
/// claim is given back, so that another request can deliver it.
pub struct Delivery {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) id: SettlementId,
    pub(crate) request: RequestId,
    pub(crate) undelivered: Undelivered,
    /// Claims that are being given back are waited for before the process goes.
    pub(crate) releases: TaskTracker,
}

/// What becomes of a claim when its [`Delivery`] is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undelivered {
    /// It is given back: the answer reached nobody.
    Release,
    /// It stays as it is: it is delivered, or another request's, or shared by requests with the same idempotency key, each
    /// of which can claim it again.
    Leave,
}

impl Delivery {
    /// The answer was handed to the transport.
    pub fn delivered(mut self) {
        self.undelivered = Undelivered::Leave;
    }

    async fn release(ledger: &dyn Ledger, id: SettlementId, request: RequestId) {
        for patience in RELEASE_PATIENCE {
            match ledger.release_delivery(id, request).await {
                Ok(()) => return,
                Err(error) if error.is_retryable() => {
                    tracing::warn!(settlement = %id, %error, "a success that reached nobody is given back again");
                    tokio::time::sleep(patience).await;
                }
                Err(error) => {
                    tracing::warn!(settlement = %id, %error, "a success that reached nobody was not given back");
                    return;
                }
            }
        }
        tracing::error!(settlement = %id, "a success that reached nobody was never given back");
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.undelivered == Undelivered::Leave {
            return;
        }
        let (ledger, id, request) = (self.ledger.clone(), self.id, self.request);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let releasing = async move { Self::release(ledger.as_ref(), id, request).await };
        self.releases.spawn_on(releasing, &runtime);
    }
}
