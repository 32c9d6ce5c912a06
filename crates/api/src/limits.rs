//! How much one tenant may ask for. Time is passed in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use teller_domain::{Level, TenantId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A tenant's allowance. What is `None` is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// Requests a second in the long run, over all endpoints that need a key.
    pub requests_per_second: Option<u32>,
    /// Requests at once after a pause; at least one is always allowed. `None` means one second's worth.
    pub burst: Option<u32>,
    /// Settle requests that wait for an outcome at the same time.
    pub max_settles_in_flight: Option<usize>,
    /// How long a settle request waits for its outcome at most.
    pub settle_wait: Option<Duration>,
    /// How sure the chain must be before a payment counts as settled; `None` leaves it to the network.
    pub settled_at: Option<Level>,
}

/// A tenant with what is left of its allowance. All its keys share one.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) settle_wait: Option<Duration>,
    pub(crate) settled_at: Option<Level>,
    bucket: Option<Mutex<TokenBucket>>,
    settles: Option<Arc<Semaphore>>,
}

impl Tenant {
    pub(crate) fn new(id: TenantId, limits: &TenantLimits, now: Instant) -> Self {
        Self {
            id,
            settle_wait: limits.settle_wait,
            settled_at: limits.settled_at,
            bucket: limits.requests_per_second.map(|rate| {
                let burst = limits.burst.unwrap_or(rate).max(1);
                Mutex::new(TokenBucket::full(rate.max(1), burst, now))
            }),
            settles: limits
                .max_settles_in_flight
                .map(|most| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))),
        }
    }

    /// Takes one request from the allowance, or says how long to wait for it.
    pub(crate) fn take_request(&self, now: Instant) -> Result<(), Duration> {
        match &self.bucket {
            None => Ok(()),
            Some(bucket) => bucket
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(now),
        }
    }

    /// A place among the settles in flight; `Err` if there is none left.
    pub(crate) fn take_settle(&self) -> Result<Option<OwnedSemaphorePermit>, Full> {
        match &self.settles {
            None => Ok(None),
            Some(settles) => settles
                .clone()
                .try_acquire_owned()
                .map(Some)
                .map_err(|_| Full),
        }
    }
}

/// Nothing is left.
#[derive(Debug)]
pub(crate) struct Full;

#[derive(Debug)]
struct TokenBucket {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl TokenBucket {
    fn full(per_second: u32, burst: u32, now: Instant) -> Self {
        Self {
            per_second: f64::from(per_second),
            burst: f64::from(burst),
            left: f64::from(burst),
            at: now,
        }
    }

    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.burst);
        self.at = self.at.max(now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_its_burst_then_its_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::full(2, 3, start);
        for _ in 0..3 {
            assert!(bucket.take(start).is_ok());
        }
        assert_eq!(bucket.take(start), Err(Duration::from_millis(500)));
        assert!(bucket.take(start + Duration::from_millis(500)).is_ok());
        assert!(bucket.take(start + Duration::from_millis(600)).is_err());
        let later = start + Duration::from_secs(3600);
        for _ in 0..3 {
            assert!(bucket.take(later).is_ok());
        }
        assert!(bucket.take(later).is_err());
        assert!(
            bucket.take(start).is_err(),
            "a clock that steps back grants nothing"
        );
    }

    #[test]
    fn settles_in_flight_are_counted_until_they_end() {
        let limits = TenantLimits {
            max_settles_in_flight: Some(1),
            ..TenantLimits::default()
        };
        let tenant = Tenant::new(TenantId::new("a"), &limits, Instant::now());
        let first = tenant.take_settle();
        assert!(first.is_ok());
        assert!(tenant.take_settle().is_err());
        drop(first);
        assert!(tenant.take_settle().is_ok());
    }
}
