//! Metrics that count what should never happen, or that only configuration knows, are there from the start: a query over
//! a series that does not exist yet answers nothing, and an alert that answers nothing looks like one that is content.

use metrics::{counter, gauge};
use teller_domain::{Level, SettlementStateKind, Wei};

use super::compensations::register_compensations;
use crate::config::{Config, Network};

/// How a call to a node fails, as `teller-chain` names it.
const NODE_ERRORS: [&str; 8] = [
    "timeout",
    "refused",
    "broken",
    "limited",
    "rpc",
    "http",
    "bad_answer",
    "no_endpoint",
];

/// Registers them. Call it after the recorder was installed.
pub fn register_metrics(config: &Config) {
    register_compensations();
    gauge!("teller_reservations_may_evict").set(0.0);
    for network in &config.networks {
        register_network(network);
    }
}

fn register_network(network: &Network) {
    let name = network.id.to_string();
    for metric in [
        "teller_reorgs_total",
        "teller_slots_reopened_total",
        "teller_external_nonces_total",
        "teller_settles_without_hold_total",
    ] {
        counter!(metric, "network" => name.clone()).increment(0);
    }
    for kind in NODE_ERRORS {
        counter!("teller_node_errors_total", "network" => name.clone(), "kind" => kind)
            .increment(0);
    }
    let outcomes = SettlementStateKind::ALL
        .into_iter()
        .filter(|kind| {
            !matches!(
                kind,
                SettlementStateKind::Accepted
                    | SettlementStateKind::Assigned
                    | SettlementStateKind::Preconfirmed
                    | SettlementStateKind::Unexplained
            )
        })
        .map(SettlementStateKind::as_str);
    for outcome in outcomes.chain(["requeued", "unexplained"]) {
        counter!("teller_payments_total", "network" => name.clone(), "outcome" => outcome)
            .increment(0);
    }
    for level in [
        Level::Preconfirmed,
        Level::Included,
        Level::Safe,
        Level::Finalized,
    ] {
        counter!("teller_levels_reached_total", "network" => name.clone(), "level" => level.as_str())
            .increment(0);
    }
    counter!("teller_top_ups_total", "network" => name.clone()).increment(0);
    counter!("teller_top_up_wei_total", "network" => name.clone()).increment(0);
    gauge!("teller_block_interval_seconds", "network" => name.clone())
        .set(network.block_interval.as_secs_f64());
    gauge!("teller_payments_unexplained", "network" => name.clone()).set(0.0);
    gauge!("teller_gas_spent_today_wei", "network" => name.clone()).set(0.0);
    gauge!("teller_top_ups_today_wei", "network" => name.clone()).set(0.0);
    // Without a budget there is nothing to compare with: +Inf is never reached.
    let budget = network
        .budget
        .per_day
        .map_or(f64::INFINITY, |budget| f64::from(budget.0));
    gauge!("teller_gas_budget_wei", "network" => name.clone()).set(budget);
    let given = network.approvals.map(|policy| policy.day);
    let given = given.filter(|day| *day > Wei::ZERO);
    let given = given.map_or(f64::INFINITY, |day| f64::from(day.0));
    gauge!("teller_top_up_budget_wei", "network" => name).set(given);
}
