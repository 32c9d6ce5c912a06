//! The holds that a valid verdict carries.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use alloy_primitives::Address;
use teller_domain::{AuthorizationKey, PaymentDigest, TenantId, UnixMillis};
use teller_store::{HoldVersion, Reservations};
use tokio::runtime::Handle;

use crate::fresh::Judge;

/// The clock of holds: the time since 1970 as this process found it when it first looked, and what has passed since. It
/// does not jump when the system's clock is set.
pub(crate) fn hold_clock() -> UnixMillis {
    static START: LazyLock<(SystemTime, Instant)> =
        LazyLock::new(|| (SystemTime::now(), Instant::now()));
    let (wall, then) = *START;
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default() + then.elapsed();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The holds of a verified payment. Dropped before [`delivered`](Hold::delivered), a hold that this very request was
/// granted is given back unless somebody else was promised it meanwhile: an answer that reached nobody reserves nothing.
pub struct Hold {
    payer: Address,
    judge: Judge,
    kind: Kind,
}

enum Kind {
    /// This request was granted it.
    Granted(GiveBack),
    /// Somebody held it before.
    Renewed,
    /// Nothing is held: the ledger alone decides.
    Absent,
    /// It stays.
    Delivered,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("payer", &self.payer)
            .field("new", &matches!(self.kind, Kind::Granted(_)))
            .finish()
    }
}

impl Hold {
    pub(crate) fn renewed(payer: Address) -> Self {
        Self {
            payer,
            judge: Judge::Key,
            kind: Kind::Renewed,
        }
    }

    pub(crate) fn absent(payer: Address) -> Self {
        Self {
            payer,
            judge: Judge::Key,
            kind: Kind::Absent,
        }
    }

    pub(crate) fn granted(payer: Address, give_back: GiveBack) -> Self {
        Self {
            payer,
            judge: Judge::Key,
            kind: Kind::Granted(give_back),
        }
    }

    pub(crate) fn judged_by(mut self, judge: Judge) -> Self {
        self.judge = judge;
        self
    }

    /// Whether the payer's code judged the signature: then it has to when the payment is settled, too
    /// ([`Payment::judged_by_code`](teller_domain::Payment::judged_by_code)).
    pub fn is_judged_by_code(&self) -> bool {
        self.judge == Judge::PayersCode
    }

    /// Whether somebody held this before.
    pub(crate) fn is_renewed(&self) -> bool {
        matches!(self.kind, Kind::Renewed)
    }

    /// Whose money is held.
    pub fn payer(&self) -> Address {
        self.payer
    }

    /// The answer was handed to the transport, or the ledger has (or may have) accepted the payment: the hold stays.
    pub fn delivered(mut self) {
        self.kind = Kind::Delivered;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Kind::Granted(give_back) = std::mem::replace(&mut self.kind, Kind::Delivered) else {
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
    pub(crate) version: HoldVersion,
}

impl GiveBack {
    async fn run(self) {
        let result = self
            .reservations
            .give_back(self.key, &self.tenant, self.digest, self.version)
            .await;
        if let Err(error) = result {
            tracing::warn!(chain = %self.key.chain, %error, "a hold could not be given back; it ends by itself");
        }
    }
}
