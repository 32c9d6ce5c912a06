//! What the table measures. Counts are chosen so that a run lasts some seconds at the floors.

use std::time::Duration;

use crate::cli::Transport;
use crate::drive::Ops;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub ops: Ops,
    pub transport: Transport,
    pub concurrency: usize,
    pub count: usize,
    /// Distinct accounts that pay; payments go round them.
    pub payers: usize,
    pub at_most: Duration,
}

pub const VERIFY_256: &str = "verify@256";
pub const SETTLE_1: &str = "settle@1";
pub const SETTLE_2048: &str = "settle@2048";
pub const AT_ONCE: &str = "300 settles at once";
pub const ONE_BY_ONE: &str = "300 transfers, one a transaction";

/// Accounts that are paid, in every scenario.
pub const PAYEES: usize = 50;
/// Payments of the gas comparison.
pub const COMPARED: usize = 300;
/// The most payers of any scenario.
pub const PAYERS: usize = 2048;

pub const SCENARIOS: [Scenario; 9] = [
    verify("verify@1", 1, 1_000),
    verify("verify@64", 64, 20_000),
    verify(VERIFY_256, 256, 40_000),
    Scenario {
        transport: Transport::Grpc,
        ..verify("gRPC verify@256", 256, 40_000)
    },
    settle(SETTLE_1, 1, 15),
    settle("settle@32", 32, 320),
    settle("settle@128", 128, 1_280),
    settle(SETTLE_2048, 2_048, 12_288),
    Scenario {
        payers: COMPARED,
        ..settle(AT_ONCE, COMPARED, COMPARED)
    },
];

const fn verify(name: &'static str, concurrency: usize, count: usize) -> Scenario {
    Scenario {
        name,
        ops: Ops::Verify,
        transport: Transport::Rest,
        concurrency,
        count,
        payers: PAYERS,
        at_most: Duration::from_secs(60),
    }
}

const fn settle(name: &'static str, concurrency: usize, count: usize) -> Scenario {
    Scenario {
        name,
        ops: Ops::Settle,
        transport: Transport::Rest,
        concurrency,
        count,
        payers: PAYERS,
        at_most: Duration::from_secs(90),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_no_scenario_asks_for_more_payers_than_are_funded() {
        let names: std::collections::HashSet<_> = SCENARIOS.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        assert!(SCENARIOS.iter().all(|s| s.payers <= PAYERS));
        assert!(SCENARIOS.iter().all(|s| s.concurrency <= s.count));
    }
}
