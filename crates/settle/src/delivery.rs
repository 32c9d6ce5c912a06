//! The delivery of a success: told at most once.

use std::sync::Arc;
use std::time::Duration;

use teller_domain::{RequestId, SettlementId};
use teller_store::{Boundary, CLAIM_KEPT, Ledger};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// How long the ledger may be away before the end of a delivery is given up: not longer than the claim is kept for this
/// process ([`CLAIM_KEPT`]), together with [`ANSWERED_WITHIN`].
const DELIVERY_PATIENCE: [Duration; 8] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(4),
    Duration::from_secs(4),
    Duration::from_secs(4),
];

/// A success that has not been handed to the transport so long after it was claimed is not told: this process was
/// stopped, or asleep, and another may be about to tell it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(CLAIM_KEPT.as_secs() / 3);

/// A success on its way to the one request that may deliver it. Dropped before [`delivered`](Delivery::delivered), the
/// claim is given back, so that another request can deliver it.
pub struct Delivery {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) id: SettlementId,
    pub(crate) request: RequestId,
    pub(crate) end: DeliveryEnd,
    /// Just before it was claimed.
    pub(crate) claimed: Instant,
    /// Ends that are being written down are waited for before the process goes.
    pub(crate) ends: TaskTracker,
}

/// What becomes of a claim when its [`Delivery`] is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryEnd {
    /// It is confirmed: the answer was handed to the transport.
    Confirm,
    /// It is given back: the answer reached nobody.
    Release,
    /// It stays as it is: it is another request's, or shared by requests with the same idempotency key, each of which
    /// can claim it again.
    Leave,
}

impl Delivery {
    /// Whether the answer may still be handed to the transport.
    pub fn is_in_time(&self) -> bool {
        self.claimed.elapsed() < ANSWERED_WITHIN
    }

    /// The answer was handed to the transport.
    pub fn delivered(mut self) {
        self.end = DeliveryEnd::Confirm;
    }

    async fn write_end(
        ledger: &dyn Ledger,
        id: SettlementId,
        request: RequestId,
        end: DeliveryEnd,
    ) {
        for patience in DELIVERY_PATIENCE {
            let written = match end {
                DeliveryEnd::Confirm => {
                    let confirming = ledger.confirm_delivery(id, request);
                    Boundary::ConfirmDelivery.around(confirming).await
                }
                DeliveryEnd::Release => ledger.release_delivery(id, request).await,
                DeliveryEnd::Leave => return,
            };
            match written {
                Ok(()) => return,
                Err(error) if error.is_retryable() => {
                    tracing::warn!(settlement = %id, %error, "the end of a delivery is written down again");
                    tokio::time::sleep(patience).await;
                }
                Err(error) => {
                    tracing::warn!(settlement = %id, %error, "the end of a delivery was not written down");
                    return;
                }
            }
        }
        tracing::error!(settlement = %id, "the end of a delivery was never written down");
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
        let (ledger, id, request, end) = (self.ledger.clone(), self.id, self.request, self.end);
        if end == DeliveryEnd::Leave {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let ending = async move { Self::write_end(ledger.as_ref(), id, request, end).await };
        self.ends.spawn_on(ending, &runtime);
    }
}
