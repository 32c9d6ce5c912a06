//! Which settles of a payment this process has begun: while one may have been accepted, nobody is told that nothing was.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use teller_domain::PaymentDigest;

/// Payments whose accept was begun are remembered for this many further ones.
const REMEMBERED: usize = 65_536;

/// Settles that are under way or may have been accepted.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<Begun>);

#[derive(Debug, Default)]
struct Begun {
    under_way: HashMap<PaymentDigest, usize>,
    /// Keyed hashes of digests, for they are many. Two that are the same are forgotten together.
    accepted: HashSet<u64>,
    order: VecDeque<u64>,
    hasher: RandomState,
}

impl Begun {
    /// Nothing that was noted of this payment counts any more.
    fn forget(&mut self, digest: PaymentDigest) {
        let name = self.hasher.hash_one(digest);
        self.accepted.remove(&name);
        // It is among the newest.
        if let Some(place) = self.order.iter().rposition(|noted| *noted == name) {
            self.order.remove(place);
        }
    }
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, Begun> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger says that the payment is withdrawn: what was noted of it is over, unless a settle of it is under way again.
    pub(crate) fn was_withdrawn(&self, digest: PaymentDigest) {
        let mut begun = self.lock();
        if !begun.under_way.contains_key(&digest) {
            begun.forget(digest);
        }
    }

    /// Notes that a settle of this payment has begun, until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>, digest: PaymentDigest) -> Settling {
        *self.lock().under_way.entry(digest).or_default() += 1;
        Settling {
            in_flight: self.clone(),
            digest,
            has_noted: AtomicBool::new(false),
        }
    }
}

/// A settle that is under way.
#[derive(Debug)]
pub(crate) struct Settling {
    in_flight: Arc<InFlight>,
    digest: PaymentDigest,
    /// Whether this settle was the first to note that its payment may be accepted.
    has_noted: AtomicBool,
}

impl Settling {
    /// From now on the ledger may have the payment.
    pub(crate) fn may_be_accepted(&self) {
        let mut begun = self.in_flight.lock();
        let name = begun.hasher.hash_one(self.digest);
        if !begun.accepted.insert(name) {
            return;
        }
        self.has_noted.store(true, Ordering::Relaxed);
        begun.order.push_back(name);
        if begun.order.len() > REMEMBERED
            && let Some(oldest) = begun.order.pop_front()
        {
            begun.accepted.remove(&oldest);
        }
    }

    /// The ledger has not accepted it, for certain. What another settle has noted stays, and what one beside this may rely on.
    pub(crate) fn was_refused(&self) {
        let mut begun = self.in_flight.lock();
        let is_beside_another = begun
            .under_way
            .get(&self.digest)
            .is_some_and(|count| *count > 1);
        if is_beside_another || !self.has_noted.swap(false, Ordering::Relaxed) {
            return;
        }
        begun.forget(self.digest);
    }

    /// Whether nothing can have been accepted: not by an earlier settle of this payment, and not by one beside this.
    pub(crate) fn is_alone(&self) -> bool {
        let begun = self.in_flight.lock();
        let name = begun.hasher.hash_one(self.digest);
        !begun.accepted.contains(&name)
            && begun
                .under_way
                .get(&self.digest)
                .is_none_or(|count| *count <= 1)
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let mut begun = self.in_flight.lock();
        if let Some(count) = begun.under_way.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                begun.under_way.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;

    #[test]
    fn a_settle_is_alone_until_another_is_beside_it_or_was_accepted() {
        let in_flight = Arc::new(InFlight::default());
        let digest = PaymentDigest(B256::repeat_byte(1));
        let first = in_flight.begin(digest);
        assert!(first.is_alone());
        let second = in_flight.begin(digest);
        assert!(!first.is_alone());
        drop(second);
        assert!(first.is_alone());
        first.may_be_accepted();
        first.was_refused();
        assert!(first.is_alone(), "the ledger has refused it");
        first.may_be_accepted();
        let second = in_flight.begin(digest);
        first.was_refused();
        drop(first);
        assert!(!second.is_alone(), "it was beside another");
        second.was_refused();
        drop(second);
        let third = in_flight.begin(digest);
        assert!(!third.is_alone());
        in_flight.was_withdrawn(digest);
        assert!(!third.is_alone(), "one is under way");
        drop(third);
        in_flight.was_withdrawn(digest);
        assert!(in_flight.begin(digest).is_alone());
        assert!(
            in_flight
                .begin(PaymentDigest(B256::repeat_byte(2)))
                .is_alone()
        );
    }
}
