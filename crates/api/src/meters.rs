//! The metrics of the doors. Handles are made once: looking one up by its labels costs as much as parsing a request.

use std::time::{Duration, Instant};

use metrics::{Counter, Histogram};
use teller_domain::Reason;

use crate::answer::Outcome;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Verify,
    Settle,
    Release,
    Settlements,
    Discovery,
}

impl Endpoint {
    const ALL: [Self; 5] = [
        Self::Verify,
        Self::Settle,
        Self::Release,
        Self::Settlements,
        Self::Discovery,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Settle => "settle",
            Self::Release => "release",
            Self::Settlements => "settlements",
            Self::Discovery => "discovery",
        }
    }

    fn outcomes(self) -> &'static [Outcome] {
        use Outcome::{
            Done, Duplicate, Failed, Invalid, Pending, Rejected, Settled, Unknown, Valid,
        };
        match self {
            Self::Verify => &[Valid, Invalid, Unknown, Rejected],
            Self::Settle => &[Settled, Duplicate, Failed, Pending, Unknown, Rejected],
            Self::Release => &[Done, Unknown, Rejected],
            Self::Settlements | Self::Discovery => &[Done, Unknown, Rejected],
        }
    }
}

/// How it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Rest,
    Grpc,
}

impl Transport {
    const ALL: [Self; 2] = [Self::Rest, Self::Grpc];

    fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Grpc => "grpc",
        }
    }
}

struct Meter {
    endpoint: Endpoint,
    transport: Transport,
    requests: Vec<(Outcome, Counter)>,
    duration: Histogram,
}

/// All meters. Made after the recorder is installed.
pub(crate) struct Meters {
    meters: Vec<Meter>,
    pending: Counter,
    refusals: Vec<(Reason, Counter)>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        let mut meters = Vec::new();
        for endpoint in Endpoint::ALL {
            for transport in Transport::ALL {
                meters.push(Meter::new(endpoint, transport));
            }
        }
        Self {
            meters,
            pending: metrics::counter!("teller_settle_pending_answers_total"),
            refusals: Reason::ALL
                .iter()
                .map(|reason| {
                    let counter = metrics::counter!(
                        "teller_settle_refusals_total",
                        "reason" => reason.as_str(),
                    );
                    (*reason, counter)
                })
                .collect(),
        }
    }

    /// Notes a settle request that was told anything but success.
    pub(crate) fn refused(&self, reason: Reason) {
        if let Some((_, refusals)) = self.refusals.iter().find(|(of, _)| *of == reason) {
            refusals.increment(1);
        }
    }

    /// Notes one answered request.
    pub(crate) fn answered(
        &self,
        endpoint: Endpoint,
        transport: Transport,
        outcome: Outcome,
        took: Duration,
    ) {
        if outcome == Outcome::Pending {
            self.pending.increment(1);
        }
        let meter = self
            .meters
            .iter()
            .find(|meter| meter.endpoint == endpoint && meter.transport == transport);
        let Some(meter) = meter else { return };
        meter.duration.record(took);
        if let Some((_, requests)) = meter.requests.iter().find(|(of, _)| *of == outcome) {
            requests.increment(1);
        }
    }
}

impl Meter {
    fn new(endpoint: Endpoint, transport: Transport) -> Self {
        let requests = endpoint.outcomes().iter().map(|outcome| {
            let counter = metrics::counter!(
                "teller_requests_total",
                "endpoint" => endpoint.as_str(),
                "transport" => transport.as_str(),
                "outcome" => outcome.as_str(),
            );
            (*outcome, counter)
        });
        Self {
            endpoint,
            transport,
            requests: requests.collect(),
            duration: metrics::histogram!(
                "teller_request_duration_seconds",
                "endpoint" => endpoint.as_str(),
                "transport" => transport.as_str(),
            ),
        }
    }
}

/// Warns at most once a second: a node that is down must not fill the log at the rate of requests.
#[derive(Debug, Default)]
pub(crate) struct Throttle(std::sync::Mutex<Option<Instant>>);

impl Throttle {
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let mut last = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let allowed =
            last.is_none_or(|last| now.saturating_duration_since(last) >= Duration::from_secs(1));
        if allowed {
            *last = Some(now);
        }
        allowed
    }
}
