//! From samples to figures, and from figures to a table on the terminal.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use hdrhistogram::Histogram;

use crate::drive::{Driven, Op};
use crate::error::LoadError;
use crate::node::Node;
use crate::proxy::Counts;
use crate::sign::Signed;
use crate::wire::Outcome;

/// The longest latency that is told apart from longer ones.
const MAX_MICROS: u64 = 120_000_000;
const RECEIPT_ROUNDS: u32 = 20;
const RECEIPT_PAUSE: Duration = Duration::from_millis(250);

/// Latency percentiles in milliseconds, over everything that was answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Latency {
    pub fn of(durations: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, MAX_MICROS, 3).ok()?;
        for duration in durations {
            let micros = u64::try_from(duration.as_micros()).unwrap_or(MAX_MICROS);
            histogram.saturating_record(micros.max(1));
        }
        let ms = |micros: u64| micros as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Self {
            p50: ms(histogram.value_at_quantile(0.5)),
            p90: ms(histogram.value_at_quantile(0.9)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        })
    }
}

/// One kind of call in one run.
#[derive(Debug, Clone)]
pub struct Phase {
    pub op: Op,
    pub requests: usize,
    pub accepted: usize,
    pub latency: Option<Latency>,
    pub outcomes: BTreeMap<String, usize>,
}

/// What the chain says about the payments that were answered as settled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnChain {
    /// Distinct transactions.
    pub transactions: usize,
    /// Gas of those transactions by payment settled.
    pub gas_per_payment: f64,
    /// Settled payments whose authorization was used in the very transaction that the facilitator named.
    pub confirmed: usize,
}

/// What one run cost beside time. A figure that could not be read is left out.
#[derive(Debug, Clone, Default)]
pub struct Costs {
    /// Of the facilitator.
    pub cpu_seconds: Option<f64>,
    /// Of the facilitator.
    pub peak_rss_mb: Option<f64>,
    /// Of the generator, its counting proxy included.
    pub generator_cpu_seconds: Option<f64>,
    /// Of the node.
    pub node_cpu_seconds: Option<f64>,
    pub node_calls: Option<Counts>,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Figures {
    pub concurrency: usize,
    pub phases: Vec<Phase>,
    pub unsent: usize,
    pub elapsed: Duration,
    pub on_chain: Option<OnChain>,
    pub costs: Costs,
}

impl Figures {
    pub fn new(driven: &Driven, concurrency: usize, ops: &[Op]) -> Self {
        Self {
            concurrency,
            phases: ops.iter().map(|op| phase(driven, *op)).collect(),
            unsent: driven.unsent,
            elapsed: driven.elapsed,
            on_chain: None,
            costs: Costs::default(),
        }
    }

    /// Payments that went all the way.
    pub fn accepted(&self) -> usize {
        self.phases.last().map_or(0, |phase| phase.accepted)
    }

    pub fn requests(&self) -> usize {
        self.phases.iter().map(|phase| phase.requests).sum()
    }

    /// Payments accepted a second.
    pub fn throughput(&self) -> f64 {
        ratio(self.accepted() as f64, self.elapsed.as_secs_f64()).unwrap_or(0.0)
    }

    /// Latency of the last call of each payment.
    pub fn latency(&self) -> Option<Latency> {
        self.phases.last().and_then(|phase| phase.latency)
    }

    pub fn per_1000(&self, cpu_seconds: Option<f64>) -> Option<f64> {
        ratio(cpu_seconds? * 1000.0, self.requests() as f64)
    }

    pub fn node_calls_per_payment(&self) -> Option<f64> {
        let calls = self.costs.node_calls.as_ref()?.calls;
        ratio(calls as f64, self.accepted() as f64)
    }

    /// Every outcome with its count, the most frequent first.
    pub fn outcomes(&self) -> String {
        let mut parts = Vec::new();
        for phase in &self.phases {
            let mut counted: Vec<_> = phase.outcomes.iter().collect();
            counted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            parts.extend(
                counted
                    .iter()
                    .map(|(name, count)| format!("{count} {name}")),
            );
        }
        if self.unsent > 0 {
            parts.push(format!("{} not sent in time", self.unsent));
        }
        parts.join(", ")
    }

    /// The table of one run.
    pub fn table(&self) -> String {
        let mut rows: Vec<(String, String)> = vec![
            ("concurrency".into(), self.concurrency.to_string()),
            (
                "payments accepted a second".into(),
                format!("{:.1}", self.throughput()),
            ),
            (
                "time".into(),
                format!("{:.2} s", self.elapsed.as_secs_f64()),
            ),
            ("outcomes".into(), self.outcomes()),
        ];
        for phase in &self.phases {
            if let Some(latency) = phase.latency {
                let Latency { p50, p90, p99, max } = latency;
                let text = format!("p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  max {max:.2} ms");
                rows.push((format!("{} latency", phase.op.name()), text));
            }
        }
        if let Some(chain) = self.on_chain {
            rows.push(("transactions".into(), chain.transactions.to_string()));
            rows.push((
                "gas per payment".into(),
                format!("{:.0}", chain.gas_per_payment),
            ));
            rows.push((
                "confirmed on chain".into(),
                format!("{} of {}", chain.confirmed, self.accepted()),
            ));
        }
        self.cost_rows(&mut rows);
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        rows.iter().fold(String::new(), |mut table, (name, value)| {
            let _infallible = writeln!(table, "  {name:<width$}  {value}");
            table
        })
    }

    fn cost_rows(&self, rows: &mut Vec<(String, String)>) {
        if let Some(calls) = &self.costs.node_calls {
            let per_payment = match self.node_calls_per_payment() {
                Some(calls) => format!("{calls:.4}"),
                None => "–".to_owned(),
            };
            let mut methods: Vec<_> = calls.methods.iter().collect();
            methods.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let methods: Vec<_> = methods
                .iter()
                .map(|(method, count)| format!("{method} {count}"))
                .collect();
            rows.push((
                "node calls per payment".into(),
                format!(
                    "{per_payment}  ({} in all: {})",
                    calls.calls,
                    methods.join(", ")
                ),
            ));
        }
        for (who, cpu) in [
            ("facilitator", self.costs.cpu_seconds),
            ("generator", self.costs.generator_cpu_seconds),
            ("node", self.costs.node_cpu_seconds),
        ] {
            if let Some(cpu) = self.per_1000(cpu) {
                let name = format!("CPU of the {who}");
                rows.push((name, format!("{cpu:.3} s per 1,000 requests")));
            }
        }
        if let Some(peak) = self.costs.peak_rss_mb {
            rows.push(("peak memory".into(), format!("{peak:.0} MB")));
        }
    }
}

fn phase(driven: &Driven, op: Op) -> Phase {
    let samples = || driven.samples.iter().filter(move |sample| sample.op == op);
    let mut outcomes = BTreeMap::new();
    for sample in samples() {
        let name = match (&sample.outcome, op) {
            (Outcome::Accepted { .. }, Op::Verify) => "valid".to_owned(),
            (Outcome::Accepted { .. }, Op::Settle) => "settled".to_owned(),
            (Outcome::Refused { reason }, _) => reason.clone(),
            (Outcome::Unanswered { why }, _) => format!("no answer: {why}"),
        };
        let count: &mut usize = outcomes.entry(name).or_default();
        *count = count.saturating_add(1);
    }
    let answered = samples().filter(|s| !matches!(s.outcome, Outcome::Unanswered { .. }));
    Phase {
        op,
        requests: samples().count(),
        accepted: samples()
            .filter(|s| matches!(s.outcome, Outcome::Accepted { .. }))
            .count(),
        latency: Latency::of(answered.map(|sample| sample.took)),
        outcomes,
    }
}

/// Reads the receipts of everything that was answered as settled, and looks for each payment in the transaction
/// that was named for it. `None` if nothing was settled.
pub async fn on_chain(
    driven: &Driven,
    payments: &[Signed],
    node: &Node,
) -> Result<Option<OnChain>, LoadError> {
    let named: Vec<(B256, &Signed)> = driven
        .samples
        .iter()
        .filter_map(|sample| match sample.outcome {
            Outcome::Accepted {
                transaction: Some(hash),
            } => payments.get(sample.payment).map(|payment| (hash, payment)),
            _ => None,
        })
        .collect();
    let hashes: Vec<B256> = named
        .iter()
        .map(|(hash, _)| *hash)
        .collect::<HashSet<_>>()
        .into_iter()
        .collect();
    if hashes.is_empty() {
        return Ok(None);
    }
    let Some(token) = payments.first().map(|signed| signed.payment.asset) else {
        return Ok(None);
    };
    let mined = mined(node, &hashes, token).await?;
    let gas: u64 = mined.values().map(|transaction| transaction.gas).sum();
    let confirmed = named
        .iter()
        .filter(|(hash, signed)| {
            let key = (signed.payment.key.payer, signed.payment.key.nonce.0);
            mined.get(hash).is_some_and(|tx| tx.used.contains(&key))
        })
        .count();
    Ok(Some(OnChain {
        transactions: hashes.len(),
        gas_per_payment: gas as f64 / named.len() as f64,
        confirmed,
    }))
}

/// What a mined transaction did.
pub struct Mined {
    pub gas: u64,
    pub used: HashSet<(Address, B256)>,
}

/// Waits, within bounds, until all these transactions are mined, and reads what they did.
pub async fn mined(
    node: &Node,
    hashes: &[B256],
    token: Address,
) -> Result<HashMap<B256, Mined>, LoadError> {
    let mut found = HashMap::with_capacity(hashes.len());
    let mut open = hashes.to_vec();
    for _ in 0..RECEIPT_ROUNDS {
        let receipts = node.receipts(&open).await?;
        let mut still_open = Vec::new();
        for (hash, receipt) in open.into_iter().zip(receipts) {
            let Some(receipt) = receipt else {
                still_open.push(hash);
                continue;
            };
            let gas = receipt
                .gas_used()
                .ok_or_else(|| crate::node::nonsense("eth_getTransactionReceipt"))?;
            let used = receipt
                .used(token)
                .filter(|_| receipt.succeeded())
                .collect();
            found.insert(hash, Mined { gas, used });
        }
        open = still_open;
        if open.is_empty() {
            return Ok(found);
        }
        tokio::time::sleep(RECEIPT_PAUSE).await;
    }
    Err(LoadError::TimedOut {
        what: "transactions that were answered as settled were not mined",
        within: RECEIPT_PAUSE * RECEIPT_ROUNDS,
    })
}

/// `a / b`, unless there is nothing to divide by.
pub fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::Sample;

    fn sample(ms: u64, outcome: Outcome) -> Sample {
        Sample {
            op: Op::Verify,
            payment: 0,
            took: Duration::from_millis(ms),
            outcome,
        }
    }

    #[test]
    fn percentiles_are_those_of_the_durations() {
        let latency = Latency::of((1..=1000).map(Duration::from_millis)).unwrap();
        let near = |got: f64, wanted: f64| (got - wanted).abs() <= wanted / 500.0;
        assert!(near(latency.p50, 500.0), "{latency:?}");
        assert!(near(latency.p90, 900.0), "{latency:?}");
        assert!(near(latency.p99, 990.0), "{latency:?}");
        assert!(near(latency.max, 1000.0), "{latency:?}");
        assert_eq!(Latency::of(std::iter::empty()), None);
        let beyond = Latency::of(std::iter::once(Duration::from_secs(1000))).unwrap();
        assert!(near(beyond.max, 120_000.0), "{beyond:?}");
    }

    #[test]
    fn outcomes_are_counted_by_reason_and_only_the_accepted_make_throughput() {
        let refused = |reason: &str| Outcome::Refused {
            reason: reason.to_owned(),
        };
        let mut samples: Vec<_> = (0..6)
            .map(|_| sample(10, Outcome::Accepted { transaction: None }))
            .collect();
        samples.extend([sample(1, refused("b")), sample(1, refused("a"))]);
        samples.push(sample(1, refused("b")));
        let why = "timed out".to_owned();
        samples.push(sample(9999, Outcome::Unanswered { why }));
        let driven = Driven {
            samples,
            elapsed: Duration::from_secs(2),
            unsent: 4,
        };
        let mut figures = Figures::new(&driven, 3, &[Op::Verify]);
        assert_eq!(
            figures.outcomes(),
            "6 valid, 2 b, 1 a, 1 no answer: timed out, 4 not sent in time"
        );
        assert_eq!(figures.throughput(), 3.0);
        assert!(figures.latency().unwrap().max < 11.0);
        figures.costs.node_calls = Some(Counts {
            calls: 3,
            ..Counts::default()
        });
        assert_eq!(figures.node_calls_per_payment(), Some(0.5));
        assert_eq!(figures.per_1000(Some(0.5)), Some(50.0));
        assert!(figures.table().contains("node calls per payment"));
    }
}
