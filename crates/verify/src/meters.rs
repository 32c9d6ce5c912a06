//! How long each stage takes and what comes out, per network. The handles are looked up once.

use std::sync::OnceLock;
use std::time::Instant;

use metrics::Histogram;
use teller_domain::ChainId;

use crate::Verdict;

/// A part of the pipeline.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    Checks,
    Signature,
    Chain,
    Reserve,
    Total,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Checks => "checks",
            Self::Signature => "signature",
            Self::Chain => "chain",
            Self::Reserve => "reserve",
            Self::Total => "total",
        }
    }
}

/// The meters of a network.
pub(crate) struct Meters {
    network: String,
    checks: OnceLock<Histogram>,
    signature: OnceLock<Histogram>,
    chain: OnceLock<Histogram>,
    reserve: OnceLock<Histogram>,
    total: OnceLock<Histogram>,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meters({})", self.network)
    }
}

impl Meters {
    pub(crate) fn new(chain: ChainId) -> Self {
        Self {
            network: chain.to_string(),
            checks: OnceLock::new(),
            signature: OnceLock::new(),
            chain: OnceLock::new(),
            reserve: OnceLock::new(),
            total: OnceLock::new(),
        }
    }

    /// Records the time since `started`, and gives the moment for the next stage to start from.
    pub(crate) fn stage(&self, stage: Stage, started: Instant) -> Instant {
        let slot = match stage {
            Stage::Checks => &self.checks,
            Stage::Signature => &self.signature,
            Stage::Chain => &self.chain,
            Stage::Reserve => &self.reserve,
            Stage::Total => &self.total,
        };
        let histogram = slot.get_or_init(|| {
            metrics::histogram!("teller_verify_duration_seconds", "network" => self.network.clone(), "stage" => stage.as_str())
        });
        let now = Instant::now();
        histogram.record(now.duration_since(started).as_secs_f64());
        now
    }

    /// A settle goes on although reservations did not answer.
    pub(crate) fn settle_without_hold(&self) {
        metrics::counter!("teller_settles_without_hold_total", "network" => self.network.clone())
            .increment(1);
    }

    pub(crate) fn verdict(&self, verdict: &Verdict) {
        count(self.network.clone(), verdict);
    }
}

/// Counts a verdict on a payment of a network that is not served; such names are not bounded and get one label.
pub(crate) fn count_elsewhere(verdict: &Verdict) {
    count("other".to_owned(), verdict);
}

fn count(network: String, verdict: &Verdict) {
    let (outcome, reason) = match verdict {
        Verdict::Valid(_) => ("valid", ""),
        Verdict::Invalid(refusal) => ("invalid", refusal.reason.as_str()),
        Verdict::Unknown(_) => ("unknown", ""),
    };
    metrics::counter!("teller_verifications_total", "network" => network, "outcome" => outcome, "reason" => reason)
        .increment(1);
}
