//! `/metrics`: every metric's unit, description and buckets, in one place. The code that measures names a metric only.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use teller_api::{Health, ServeLimits, serve_rest};
use tokio::net::TcpListener;

/// From a verify out of warm caches to a settle at its longest wait.
const REQUEST_SECONDS: &[f64] = &[
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0,
    13.0, 25.0, 60.0,
];
const ITEMS: &[f64] = &[
    1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 279.0, 500.0,
];
/// Around what a payment costs batched and alone (DESIGN section 9).
const GAS: &[f64] = &[
    30_000.0,
    36_000.0,
    40_000.0,
    44_000.0,
    48_000.0,
    52_000.0,
    56_000.0,
    60_000.0,
    70_000.0,
    85_000.0,
    100_000.0,
    150_000.0,
    300_000.0,
    1_000_000.0,
];
/// From an idle testnet to mainnet in a storm.
const WEI: &[f64] = &[
    1e9, 1e10, 5e10, 1e11, 2e11, 5e11, 1e12, 2e12, 5e12, 1e13, 1e14, 1e15, 1e16,
];

/// Scrapers and probes at once; more wait.
const MAX_CONNECTIONS: usize = 256;
/// How often what was measured is put into the histograms, so that it does not pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why metrics could not be served.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The address is taken.
    #[error("{address} cannot be listened on: {source}")]
    Listen {
        /// `server.metrics`.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A recorder is there already, or a bucket makes no sense.
    #[error(transparent)]
    Recorder(#[from] BuildError),
}

/// Serves `/metrics`, and beside them how the process is, at this address from now on.
///
/// # Errors
/// When the address is taken.
pub async fn start_metrics(
    address: SocketAddr,
    role: &'static str,
    health: &Health,
) -> Result<(), TelemetryError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    let buckets = [
        (
            Matcher::Suffix("_duration_seconds".to_owned()),
            REQUEST_SECONDS,
        ),
        (full("teller_inspect_items"), ITEMS),
        (full("teller_store_group_size"), ITEMS),
        (full("teller_batch_size"), ITEMS),
        (full("teller_gas_per_payment"), GAS),
        (full("teller_cost_per_payment_wei"), WEI),
    ];
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| TelemetryError::Listen { address, source })?;
    let builder = buckets
        .into_iter()
        .try_fold(PrometheusBuilder::new(), |builder, (matcher, values)| {
            builder.set_buckets_for_metric(matcher, values)
        })?;
    let recorder = builder.install_recorder()?;
    let rendering = recorder.clone();
    let router = health.router(move || rendering.render());
    let limits = ServeLimits {
        max_connections: MAX_CONNECTIONS,
        ..ServeLimits::default()
    };
    // Until the process ends: the last scrape of a process that drains is worth having.
    tokio::spawn(serve_rest(listener, router, limits, std::future::pending()));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            recorder.run_upkeep();
        }
    });
    describe_requests();
    describe_nodes_and_stores();
    describe_settlement();
    describe_lanes();
    describe_process(role);
    Ok(())
}

fn describe_requests() {
    describe_counter!(
        "teller_requests_total",
        "Requests answered, by endpoint, transport and outcome"
    );
    describe_histogram!(
        "teller_request_duration_seconds",
        Unit::Seconds,
        "From the first byte of a request to its answer"
    );
    describe_histogram!(
        "teller_verify_duration_seconds",
        Unit::Seconds,
        "Time in each stage of verification"
    );
    describe_counter!(
        "teller_verifications_total",
        "Payments checked, by outcome and by the reason of a refusal"
    );
    describe_histogram!(
        "teller_inspect_items",
        Unit::Count,
        "Payments whose chain state was read in one node call"
    );
    describe_counter!(
        "teller_reservation_conflicts_total",
        "Reservations refused, by reason"
    );
}

fn describe_nodes_and_stores() {
    describe_counter!(
        "teller_node_calls_total",
        "JSON-RPC calls to nodes, by method; every element of a batch counts"
    );
    describe_counter!(
        "teller_node_errors_total",
        "Node calls without a usable answer, by kind"
    );
    describe_histogram!(
        "teller_node_call_duration_seconds",
        Unit::Seconds,
        "How long nodes take to answer, by method"
    );
    describe_gauge!(
        "teller_node_endpoint_healthy",
        "1 while an endpoint is used for every method, 0 while it is avoided for one; endpoints are numbered as configured"
    );
    describe_gauge!(
        "teller_store_writable",
        "1 while a store (ledger, reservations) takes writes and has what it must have, by the last probe; else 0"
    );
    describe_gauge!(
        "teller_reservations_may_evict",
        "1 while the reservations' Redis throws keys away when its memory is full, so that holds can vanish"
    );
    describe_gauge!(
        "teller_node_endpoint_wrong_network",
        "1 while an endpoint is left out because its chain id or genesis block is another network's"
    );
    describe_gauge!(
        "teller_head_stalled",
        "1 while no endpoint shows a new block, so that nothing is verified or accepted"
    );
    describe_gauge!(
        "teller_head_age_seconds",
        Unit::Seconds,
        "How far the newest block's time is behind this machine's clock; negative when it is ahead"
    );
    describe_histogram!(
        "teller_store_group_size",
        Unit::Count,
        "Writes that shared one commit"
    );
}

fn describe_settlement() {
    describe_counter!(
        "teller_payments_total",
        "Accepted payments by outcome: settled, settled_externally, failed, expired, withdrawn, requeued"
    );
    describe_counter!(
        "teller_settled_value_total",
        "Value settled, in the asset's atomic units"
    );
    describe_histogram!(
        "teller_settle_duration_seconds",
        Unit::Seconds,
        "From the acceptance of a payment to each stage"
    );
    describe_histogram!(
        "teller_batch_size",
        Unit::Count,
        "Payments in a settled transaction"
    );
    describe_histogram!(
        "teller_gas_per_payment",
        "A settled transaction's gas, divided by its payments"
    );
    describe_histogram!(
        "teller_cost_per_payment_wei",
        "A settled transaction's whole cost in wei, divided by its payments"
    );
    describe_counter!(
        "teller_settle_pending_answers_total",
        "Settle requests told settlement_pending: the outcome was not known when their wait ended"
    );
    describe_counter!(
        "teller_attempts_total",
        "Transactions handed to nodes: first, replacement, top_up, noop, rebroadcast"
    );
    describe_counter!(
        "teller_top_ups_total",
        "Payers who were given the gas of their approvals"
    );
    describe_counter!("teller_top_up_wei_total", "What they were given, in wei");
    describe_counter!(
        "teller_approvals_sent_total",
        "Payers' approvals handed to nodes, each again at every block until it is mined, by what the node said"
    );
    describe_counter!(
        "teller_reorgs_total",
        "Times that the chain took back a block"
    );
    describe_counter!(
        "teller_slots_reopened_total",
        "Closed slots that a reorg opened again: their payments are settled once more"
    );
    describe_counter!(
        "teller_external_nonces_total",
        "Nonces of signers that others have used while nothing of the lane was open"
    );
    describe_counter!(
        "teller_levels_reached_total",
        "Slots that have reached a level: preconfirmed, included, safe, finalized"
    );
    describe_counter!(
        "teller_compensations_total",
        "Compensating entries of the ledger, by kind: what the chain says came to differ from what was told"
    );
    describe_counter!(
        "teller_settle_refusals_total",
        "Settle requests told anything but success, by reason"
    );
    describe_counter!(
        "teller_invariant_violations_total",
        "Times that something happened that must not; any increase is a defect"
    );
}

fn describe_lanes() {
    describe_gauge!(
        "teller_queue_depth",
        Unit::Count,
        "Accepted payments without a slot"
    );
    describe_gauge!("teller_lane_depth", Unit::Count, "Open slots of a signer");
    describe_gauge!(
        "teller_lane_frozen",
        "1 while a signer sends nothing because somebody else used its key"
    );
    describe_gauge!(
        "teller_lane_mode",
        "1 for what was decided about a signer's lane: active, draining, frozen, thawing or rescuing; 0 for the rest"
    );
    describe_gauge!(
        "teller_lane_usable",
        "1 while a signer takes new batches; 0 while its lane is read again, frozen, or out of gas money"
    );
    describe_counter!(
        "teller_settles_without_hold_total",
        "Settles that went on from the ledger because reservations were away"
    );
    describe_gauge!(
        "teller_oldest_open_slot_age_seconds",
        Unit::Seconds,
        "Age of the oldest slot without a mined transaction"
    );
    describe_gauge!(
        "teller_signer_balance_wei",
        "What a signer has left for gas, in wei"
    );
    describe_gauge!(
        "teller_gas_spent_today_wei",
        "What settling has cost since midnight UTC, in wei; read where a budget for the day is set"
    );
    describe_gauge!(
        "teller_payments_awaiting_approval",
        "Accepted payments that wait until their payers' approvals are mined"
    );
    describe_gauge!(
        "teller_payments_unexplained",
        "Payments whose slot has closed, and of which the chain has yet to say what became"
    );
    describe_gauge!(
        "teller_top_ups_today_wei",
        "What payers were given for the gas of their approvals since midnight UTC, in wei; read where it is bounded"
    );
    describe_gauge!(
        "teller_top_up_budget_wei",
        "What payers may be given in a day, in wei; +Inf where they are given nothing"
    );
    describe_gauge!(
        "teller_payments_held_back",
        "1 while this holds payments back, by cause: gas_budget_spent, over_fee_ceiling, no_usable_lane (each refuses all new ones), lane_halted (others may take them)"
    );
    describe_gauge!(
        "teller_tenants_over_budget",
        "Tenants whose max_gas_wei_per_day is spent for today; their new payments are refused"
    );
    describe_gauge!(
        "teller_gas_budget_wei",
        "What settling may cost in a day, in wei; +Inf without a budget"
    );
    describe_gauge!(
        "teller_block_interval_seconds",
        Unit::Seconds,
        "The usual time between two blocks, as configured"
    );
}

fn describe_process(role: &'static str) {
    describe_gauge!(
        "teller_build_info",
        "Always 1; the labels say which teller this is"
    );
    describe_gauge!(
        "process_start_time_seconds",
        Unit::Seconds,
        "When the process started, in seconds since 1970"
    );
    gauge!("teller_build_info", "version" => env!("CARGO_PKG_VERSION"), "role" => role).set(1.0);
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    gauge!("process_start_time_seconds").set(started);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    /// A metric without a description is one that an operator cannot read.
    #[test]
    fn every_metric_that_a_crate_names_is_described_here() {
        let here = include_str!("metrics.rs");
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut names = BTreeSet::new();
        for one in ["api", "chain", "settle", "store", "verify"] {
            metric_names(&crates.join(one).join("src"), &mut names);
        }
        assert!(names.len() > 20, "only found {names:?}");
        let missing: Vec<_> = names
            .iter()
            .filter(|name| !here.contains(&format!("\"{name}\"")))
            .collect();
        assert!(missing.is_empty(), "not described: {missing:?}");
    }

    /// What is described is measured somewhere, and stands in the README's table.
    #[test]
    fn every_metric_described_here_exists_and_is_in_the_readme() {
        let here = include_str!("metrics.rs");
        let readme = include_str!("../../../../README.md");
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut measured = BTreeSet::from(["teller_build_info".to_owned()]);
        for file in [
            include_str!("compensations.rs"),
            include_str!("heads.rs"),
            include_str!("../probe.rs"),
            // Only what it sets itself; what it starts at zero must be measured elsewhere.
            include_str!("zeros.rs").rsplit("counter!").next().unwrap(),
        ] {
            let quoted = file.split('"').skip(1).step_by(2);
            measured.extend(quoted.filter(|text| is_metric(text)).map(str::to_owned));
        }
        for one in ["api", "chain", "settle", "store", "verify"] {
            metric_names(&crates.join(one).join("src"), &mut measured);
        }
        let describing = here.split("#[cfg(test)]").next().unwrap();
        let quoted = describing.split('"').skip(1).step_by(2);
        for name in quoted.filter(|text| is_metric(text)) {
            assert!(measured.contains(name), "nothing measures {name}");
            assert!(
                readme.contains(&format!("`{name}`")),
                "the README lacks {name}"
            );
        }
    }

    fn metric_names(directory: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                metric_names(&path, names);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let quoted = text.split('"').skip(1).step_by(2);
            names.extend(quoted.filter(|text| is_metric(text)).map(str::to_owned));
        }
    }

    /// What looks like a metric's name and is not one of a crate or a Postgres channel.
    fn is_metric(text: &str) -> bool {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let others = [
            // The channel on which the ledgers in Postgres tell each other.
            "teller_settlements",
            "teller_api",
            "teller_chain",
            "teller_settle",
            "teller_store",
            "teller_verify",
        ];
        text.starts_with("teller_") && text.bytes().all(plain) && !others.contains(&text)
    }
}
