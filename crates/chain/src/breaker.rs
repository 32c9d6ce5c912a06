//! Whether an endpoint should be asked. Health is kept by method, because nodes fail by method: one that tells of blocks
//! may hang on simulations. Only what cannot be reached at all is out for every method.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::NodeError;
use crate::error::LONGEST_BACKOFF;

/// This many failures in a row open a breaker. A rate limit opens it at once.
const FAILURES_TO_OPEN: u32 = 3;
/// How long an open breaker waits before its first probe; doubled by every failed probe.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// The longest wait before a probe.
const LAST_PROBE: Duration = Duration::from_secs(30);
/// The same for a rate limit that names no time. Most are counted by the second.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// A breaker that was due for a probe so long ago, and that nothing asked meanwhile, says nothing any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Breakers that open and close faster than this are logged once, and counted.
const LOGGED_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Breaker {
    Closed {
        failures: u32,
    },
    Open {
        failures: u32,
        probe_at: Instant,
        /// What the next wait is at least.
        wait: Duration,
        /// The endpoint takes no call before `probe_at`, not even where it is the only one.
        limited: bool,
    },
}

impl Breaker {
    const CLOSED: Self = Self::Closed { failures: 0 };

    fn is_open(&self, now: Instant) -> bool {
        match self {
            Self::Closed { .. } => false,
            Self::Open { probe_at, .. } => now < *probe_at + FORGOTTEN_AFTER,
        }
    }

    /// How long no call is taken.
    fn pause(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Open {
                probe_at,
                limited: true,
                ..
            } if now < *probe_at => Some(*probe_at - now),
            Self::Open { .. } | Self::Closed { .. } => None,
        }
    }

    fn failed(&mut self, error: &NodeError, now: Instant) {
        if !self.is_open(now) && matches!(self, Self::Open { .. }) {
            *self = Self::CLOSED;
        }
        let failures = match self {
            Self::Closed { failures } | Self::Open { failures, .. } => failures.saturating_add(1),
        };
        *self = match (*self, error) {
            (before, NodeError::Limited { retry_after, .. }) => {
                let wait = match before {
                    Self::Open { wait, .. } => (wait * 2).min(LAST_BACKOFF),
                    Self::Closed { .. } => FIRST_BACKOFF,
                };
                let pause = retry_after.unwrap_or(wait);
                let pause = pause.clamp(FIRST_BACKOFF, LONGEST_BACKOFF);
                Self::Open {
                    failures,
                    probe_at: now + pause,
                    wait,
                    limited: true,
                }
            }
            (Self::Closed { .. }, _) if failures < FAILURES_TO_OPEN => Self::Closed { failures },
            (Self::Closed { .. }, _) => Self::Open {
                failures,
                probe_at: now + FIRST_PROBE,
                wait: FIRST_PROBE,
                limited: false,
            },
            (
                Self::Open {
                    probe_at,
                    wait,
                    limited,
                    ..
                },
                _,
            ) => Self::Open {
                failures,
                probe_at,
                wait,
                limited,
            },
        };
    }

    /// Whether a probe is due. Put off at once, so that nobody else starts one meanwhile.
    fn claim_probe(&mut self, now: Instant, call_limit: Duration) -> bool {
        let Self::Open {
            probe_at,
            wait,
            limited,
            ..
        } = self
        else {
            return false;
        };
        if now < *probe_at {
            return false;
        }
        // A limit lets the probe pass, and doubles the wait when it is met again.
        if !std::mem::take(limited) {
            *wait = (*wait * 2).min(LAST_PROBE);
        }
        *probe_at = now + (*wait).max(call_limit);
        true
    }
}

#[derive(Debug)]
struct State {
    /// Whether it can be reached.
    reach: Breaker,
    /// One for each method that was asked; teller knows a dozen.
    methods: HashMap<&'static str, Breaker>,
    reported: bool,
    opening: Logged,
    closing: Logged,
}

/// When something was logged last, and how often it was not since.
#[derive(Debug, Default)]
struct Logged {
    at: Option<Instant>,
    unlogged: u32,
}

impl State {
    fn is_well(&self, now: Instant) -> bool {
        !self.reach.is_open(now) && !self.methods.values().any(|method| method.is_open(now))
    }
}

/// The breakers of one endpoint.
#[derive(Debug)]
pub(crate) struct Breakers(Mutex<State>);

/// What a call has changed of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A breaker opened: the endpoint is avoided for this method, or for all.
    Opened,
    /// A breaker closed after so many failures.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
}

impl Breakers {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            reach: Breaker::CLOSED,
            methods: HashMap::new(),
            reported: true,
            opening: Logged::default(),
            closing: Logged::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call got an answer, whatever it says.
    pub(crate) fn succeeded(&self, method: &'static str) -> Option<Change> {
        let now = Instant::now();
        let mut state = self.lock();
        let mut ended = None;
        let reach = std::mem::replace(&mut state.reach, Breaker::CLOSED);
        let before = state.methods.insert(method, Breaker::CLOSED);
        for breaker in [Some(reach), before].into_iter().flatten() {
            if let Breaker::Open { failures, .. } = breaker
                && breaker.is_open(now)
            {
                ended = ended.max(Some(failures));
            }
        }
        ended.map(|failures| Change::Closed { failures })
    }

    /// A call got none, and the endpoint is to blame.
    pub(crate) fn failed(&self, method: &'static str, error: &NodeError) -> Option<Change> {
        let now = Instant::now();
        let mut state = self.lock();
        let breaker = match error {
            NodeError::Refused | NodeError::Broken => &mut state.reach,
            _ => state.methods.entry(method).or_insert(Breaker::CLOSED),
        };
        let was_open = breaker.is_open(now);
        breaker.failed(error, now);
        (!was_open && breaker.is_open(now)).then_some(Change::Opened)
    }

    /// Whether calls of a method should go here.
    pub(crate) fn is_healthy(&self, method: &'static str) -> bool {
        let now = Instant::now();
        let state = self.lock();
        let method = state.methods.get(method);
        !state.reach.is_open(now) && !method.is_some_and(|method| method.is_open(now))
    }

    /// How long no call of a method is taken, if it is not.
    pub(crate) fn pause(&self, method: &'static str) -> Option<Duration> {
        self.lock().methods.get(method)?.pause(Instant::now())
    }

    /// Whether a probe of a method is due, with a call that may take so long; who is told `true` makes it.
    pub(crate) fn claim_probe(&self, method: &'static str, call_limit: Duration) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let reach = state.reach.claim_probe(now, call_limit);
        let of_method = state.methods.get_mut(method);
        let of_method = of_method.is_some_and(|method| method.claim_probe(now, call_limit));
        reach || of_method
    }

    /// Whether a change should be logged: then, how many of its kind were not since the last one that was.
    pub(crate) fn log(&self, change: Change) -> Option<u32> {
        let now = Instant::now();
        let mut state = self.lock();
        let logged = match change {
            Change::Opened => &mut state.opening,
            Change::Closed { .. } => &mut state.closing,
        };
        if logged.at.is_some_and(|last| now < last + LOGGED_EVERY) {
            logged.unlogged = logged.unlogged.saturating_add(1);
            return None;
        }
        logged.at = Some(now);
        Some(std::mem::take(&mut logged.unlogged))
    }

    /// Whether all is well.
    pub(crate) fn is_well(&self) -> bool {
        self.lock().is_well(Instant::now())
    }

    /// Whether all is well, if that has changed since it was asked last.
    pub(crate) fn news(&self) -> Option<bool> {
        let mut state = self.lock();
        let is_well = state.is_well(Instant::now());
        (std::mem::replace(&mut state.reported, is_well) != is_well).then_some(is_well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const CALL: &str = "eth_call";
    const BLOCK: &str = "eth_getBlockByNumber";
    const LIMIT: Duration = Duration::from_secs(4);

    fn limited(seconds: Option<u64>) -> NodeError {
        NodeError::Limited {
            message: String::new(),
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_method_that_hangs_is_avoided_alone() {
        let breakers = Breakers::new();
        for _ in 0..2 {
            assert_eq!(breakers.failed(CALL, &NodeError::Timeout), None);
            assert_eq!(breakers.succeeded(BLOCK), None);
        }
        assert!(breakers.is_healthy(CALL));
        let third = breakers.failed(CALL, &NodeError::Timeout);
        assert_eq!(third, Some(Change::Opened));
        assert!(!breakers.is_healthy(CALL) && breakers.is_healthy(BLOCK));
        assert_eq!((breakers.news(), breakers.news()), (Some(false), None));
        // Not even an open one refuses where it is the only one.
        assert_eq!(breakers.pause(CALL), None);
        assert!(!breakers.claim_probe(CALL, LIMIT));
        advance(FIRST_PROBE).await;
        assert!(breakers.claim_probe(CALL, LIMIT) && !breakers.claim_probe(CALL, LIMIT));
        let well = breakers.succeeded(CALL);
        assert_eq!(well, Some(Change::Closed { failures: 3 }));
        assert_eq!(breakers.news(), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_reached_is_avoided_for_every_method() {
        let breakers = Breakers::new();
        for method in [CALL, BLOCK, CALL] {
            breakers.failed(method, &NodeError::Refused);
        }
        assert!(!breakers.is_healthy("eth_sendRawTransaction"));
        breakers.succeeded(BLOCK);
        assert!(breakers.is_healthy("eth_sendRawTransaction"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_limit_is_waited_for() {
        let breakers = Breakers::new();
        let opened = breakers.failed(CALL, &limited(Some(7)));
        assert_eq!(opened, Some(Change::Opened));
        assert_eq!(breakers.pause(CALL), Some(Duration::from_secs(7)));
        assert_eq!(breakers.pause(BLOCK), None);
        advance(Duration::from_secs(7)).await;
        assert_eq!(breakers.pause(CALL), None);
        // Without a time, longer each time.
        breakers.succeeded(CALL);
        let mut waits = Vec::new();
        for _ in 0..10 {
            breakers.failed(CALL, &limited(None));
            let wait = breakers.pause(CALL).unwrap();
            waits.push(wait);
            advance(wait).await;
        }
        assert_eq!(waits.first(), Some(&FIRST_BACKOFF));
        assert!(waits.is_sorted() && waits.last() == Some(&LAST_BACKOFF));
        breakers.failed(CALL, &limited(Some(86_400)));
        assert_eq!(breakers.pause(CALL), Some(LONGEST_BACKOFF));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_any_more_is_forgotten() {
        let breakers = Breakers::new();
        breakers.failed(CALL, &limited(None));
        assert_eq!(breakers.news(), Some(false));
        advance(FIRST_BACKOFF + FORGOTTEN_AFTER).await;
        assert!(breakers.is_healthy(CALL));
        assert_eq!(breakers.news(), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn what_repeats_is_logged_now_and_then_with_its_count() {
        let breakers = Breakers::new();
        let closed = Change::Closed { failures: 3 };
        assert_eq!(breakers.log(Change::Opened), Some(0));
        assert_eq!(breakers.log(closed), Some(0));
        for _ in 0..40 {
            assert_eq!(breakers.log(Change::Opened), None);
            advance(Duration::from_secs(1)).await;
        }
        advance(LOGGED_EVERY).await;
        assert_eq!(breakers.log(Change::Opened), Some(40));
        assert_eq!(
            (breakers.log(Change::Opened), breakers.log(closed)),
            (None, Some(0))
        );
    }
}
