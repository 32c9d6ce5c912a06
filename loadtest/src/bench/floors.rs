//! The floors that the figures stand beside.

use super::BLOCK_INTERVAL;
use super::results::{Results, Row, short};
use super::scenarios::{SETTLE_1, SETTLE_2048, VERIFY_256};
use crate::report::Figures;

/// What one payment alone may take beyond the block interval.
const SLACK_MS: f64 = 100.0;

/// What a figure is held against.
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Bound {
    pub fn holds(&self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= *bound,
            Self::AtMost(bound) => figure <= *bound,
            Self::Below(bound) => figure < *bound,
        }
    }

    fn text(&self, unit: &str) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {} {unit}", short(*bound)),
            Self::AtMost(bound) => format!("at most {} {unit}", short(*bound)),
            Self::Below(bound) => format!("below {} {unit}", short(*bound)),
        }
    }
}

/// One floor and the figure that was measured, if it was.
pub struct Floor {
    pub what: &'static str,
    pub bound: Bound,
    unit: &'static str,
    pub figure: Option<f64>,
}

impl Floor {
    pub fn wanted(&self) -> String {
        self.bound.text(self.unit)
    }

    pub fn met(&self) -> &'static str {
        match self.figure {
            None => "not measured",
            Some(figure) if self.bound.holds(figure) => "yes",
            Some(_) => "**no**",
        }
    }
}

/// Every floor against these results.
pub fn floors(results: &Results) -> Vec<Floor> {
    let of = |name: &str, figure: fn(&Row) -> Option<f64>| results.row(name).and_then(figure);
    let throughput = |row: &Row| row.median(|run| Some(run.throughput()));
    let calls = |row: &Row| row.median(Figures::node_calls_per_payment);
    let p50 = |row: &Row| row.latency(|latency| latency.p50);
    let longest_ms = BLOCK_INTERVAL.as_secs_f64() * 1000.0 + SLACK_MS;
    let (least, most) = (Bound::AtLeast, Bound::AtMost);
    [
        (
            "verify at 256",
            least(6_000.0),
            "a second",
            of(VERIFY_256, throughput),
        ),
        (
            "verify at 256, teller's CPU",
            most(0.15),
            "s per 1,000",
            of(VERIFY_256, Row::cpu),
        ),
        (
            "verify at 256, node calls",
            Bound::Below(0.1),
            "a verify",
            of(VERIFY_256, calls),
        ),
        (
            "settle at 2,048",
            least(1_000.0),
            "a second",
            of(SETTLE_2048, throughput),
        ),
        (
            "settle at 2,048, teller's CPU",
            most(0.4),
            "s per 1,000",
            of(SETTLE_2048, Row::cpu),
        ),
        (
            "settle at 2,048, teller's peak memory",
            most(150.0),
            "MB",
            of(SETTLE_2048, Row::peak_mb),
        ),
        (
            "settle at 1, p50",
            most(longest_ms),
            "ms",
            of(SETTLE_1, p50),
        ),
        (
            "gas of 300 settles at once against one a transaction",
            most(0.65),
            "times",
            results.gas_ratio(),
        ),
    ]
    .into_iter()
    .map(|(what, bound, unit, figure)| Floor {
        what,
        bound,
        unit,
        figure,
    })
    .collect()
}
