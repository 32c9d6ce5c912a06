//! The holds that a valid verdict carries.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::Address;
use teller_domain::{AuthorizationKey, PaymentDigest, TenantId, UnixMillis};
use teller_store::{HoldPurpose, Reservations};
use tokio::runtime::Handle;

/// The clock of leases and holds.
pub(crate) fn wall_clock() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The holds of a verified payment. Dropped before [`delivered`](Hold::delivered), a hold that this very request was
/// granted is given back: an answer that reached nobody reserves nothing.
pub struct Hold {
    payer: Address,
    give_back: Option<GiveBack>,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("payer", &self.payer)
            .field("new", &self.give_back.is_some())
            .finish()
    }
}

impl Hold {
    pub(crate) fn renewed(payer: Address) -> Self {
        Self {
            payer,
            give_back: None,
        }
    }

    pub(crate) fn granted(payer: Address, give_back: GiveBack) -> Self {
        Self {
            payer,
            give_back: Some(give_back),
        }
    }

    /// Whether somebody held this before.
    pub(crate) fn is_renewed(&self) -> bool {
        self.give_back.is_none()
    }

    /// Whose money is held.
    pub fn payer(&self) -> Address {
        self.payer
    }

    /// The answer was handed to the transport, or the ledger has (or may have) accepted the payment: the hold stays.
    pub fn delivered(mut self) {
        self.give_back = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(give_back) = self.give_back.take() else {
            return;
        };
        // Without a runtime the process is ending; the hold then ends by itself.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(give_back.run());
        }
    }
}

/// What it takes to give a hold back.
pub(crate) struct GiveBack {
    pub(crate) reservations: Arc<dyn Reservations>,
    pub(crate) key: AuthorizationKey,
    pub(crate) tenant: TenantId,
    pub(crate) digest: PaymentDigest,
    pub(crate) purpose: HoldPurpose,
}

impl GiveBack {
    async fn run(self) {
        let result = match self.purpose {
            // Leaves it alone if a settle has taken it over meanwhile.
            HoldPurpose::Verify { .. } => self
                .reservations
                .release(self.key, &self.tenant, self.digest, wall_clock())
                .await
                .map(drop),
            HoldPurpose::Settle => self.reservations.abandon(&[self.key]).await,
        };
        if let Err(error) = result {
            tracing::warn!(chain = %self.key.chain, %error, "a hold could not be given back; it ends by itself");
        }
    }
}
