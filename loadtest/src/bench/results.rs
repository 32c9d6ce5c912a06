//! The table, the floors beside it, and the file they are written to.

use std::fmt::Write as _;

use super::floors::floors;
use super::scenarios::{AT_ONCE, ONE_BY_ONE, Scenario};
use super::teller::DEPTH;
use super::{BLOCK_GAS_LIMIT, BLOCK_INTERVAL};
use crate::process::Machine;
use crate::report::{Figures, Latency, OnChain, ratio};
use crate::sign::unix_seconds;

/// Gas of one `transferWithAuthorization` alone on the real USDC, measured on Base.
const REAL_USDC_GAS: f64 = 85_700.0;

/// One scenario and its runs.
pub struct Row {
    pub scenario: Scenario,
    pub runs: Vec<Figures>,
    /// Why runs are missing.
    pub failure: Option<String>,
}

impl Row {
    pub fn median(&self, figure: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        median(self.runs.iter().filter_map(figure).collect())
    }

    pub fn latency(&self, figure: impl Fn(Latency) -> f64) -> Option<f64> {
        self.median(|run| run.latency().map(&figure))
    }

    /// Of teller, in seconds per 1,000 requests.
    pub fn cpu(&self) -> Option<f64> {
        self.median(|run| run.per_1000(run.costs.cpu_seconds))
    }

    /// Of teller: the worst, not the median, because memory is a limit.
    pub fn peak_mb(&self) -> Option<f64> {
        self.runs
            .iter()
            .filter_map(|run| run.costs.peak_rss_mb)
            .reduce(f64::max)
    }

    fn gas(&self) -> Option<f64> {
        self.median(|run| run.on_chain.map(|chain| chain.gas_per_payment))
    }

    /// Lowest and highest of the throughputs behind the median.
    fn spread(&self) -> String {
        let rates = || self.runs.iter().map(Figures::throughput);
        match (rates().reduce(f64::min), rates().reduce(f64::max)) {
            (Some(low), Some(high)) => format!("{} to {}", short(low), short(high)),
            _ => "–".to_owned(),
        }
    }

    /// What became of the payments, run by run.
    fn outcomes(&self) -> String {
        let mut texts: Vec<_> = self
            .runs
            .iter()
            .map(|run| match run.on_chain {
                Some(chain) => format!(
                    "{} ({} confirmed on chain)",
                    run.outcomes(),
                    chain.confirmed
                ),
                None => run.outcomes(),
            })
            .collect();
        let failure = self.failure.as_ref();
        texts.extend(failure.map(|why| format!("failed: {}", one_line(why))));
        texts.join("; ")
    }

    fn cells(&self) -> [String; 14] {
        let latency = |figure: fn(Latency) -> f64| cell(self.latency(figure));
        let transactions = |run: &Figures| run.on_chain.map(|chain| chain.transactions as f64);
        [
            self.scenario.name.to_owned(),
            cell(self.median(|run| Some(run.throughput()))),
            self.spread(),
            latency(|latency| latency.p50),
            latency(|latency| latency.p90),
            latency(|latency| latency.p99),
            latency(|latency| latency.max),
            cell(self.median(transactions)),
            cell(self.gas()),
            cell(self.median(Figures::node_calls_per_payment)),
            cell(self.cpu()),
            cell(self.median(|run| run.per_1000(run.costs.generator_cpu_seconds))),
            cell(self.median(|run| run.per_1000(run.costs.node_cpu_seconds))),
            cell(self.peak_mb()),
        ]
    }
}

/// Everything measured.
pub struct Results {
    pub rows: Vec<Row>,
    /// The baseline: payments sent one a transaction.
    pub single: Vec<OnChain>,
    pub repeats: u8,
    pub machine: Machine,
}

impl Results {
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.scenario.name == name)
    }

    fn single_gas(&self) -> Option<f64> {
        median(self.single.iter().map(|run| run.gas_per_payment).collect())
    }

    /// Gas per payment of 300 settled at once, in units of what each costs alone.
    pub fn gas_ratio(&self) -> Option<f64> {
        ratio(self.row(AT_ONCE)?.gas()?, self.single_gas()?)
    }

    /// The tables alone, in Markdown.
    pub fn tables(&self) -> String {
        let head = [
            "scenario",
            "payments/s",
            "range",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "transactions",
            "gas/payment",
            "node calls/payment",
            "CPU s/1,000: teller",
            "generator",
            "node",
            "teller peak MB",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.rows.iter().map(Row::cells));
        let mut floor_rows = vec![["floor", "wanted", "measured", "met"].map(str::to_owned)];
        floor_rows.extend(floors(self).iter().map(|floor| {
            [
                floor.what.to_owned(),
                floor.wanted(),
                cell(floor.figure),
                floor.met().to_owned(),
            ]
        }));
        let mut text = format!(
            "{}{}\n{}\nOutcomes, run by run:\n\n",
            markdown(&rows),
            self.gas_text(),
            markdown(&floor_rows)
        );
        for row in &self.rows {
            let _infallible = writeln!(text, "- {}: {}", row.scenario.name, row.outcomes());
        }
        text
    }

    fn gas_text(&self) -> String {
        let Some(single) = self.single_gas() else {
            return String::new();
        };
        let confirmed: usize = self.single.iter().map(|run| run.confirmed).sum();
        let mut text = format!(
            "\n{ONE_BY_ONE} (signed and sent by the generator, {confirmed} confirmed on chain): {single:.0} gas a \
             payment, {:.3} times the {REAL_USDC_GAS:.0} of the real USDC.",
            single / REAL_USDC_GAS
        );
        if let Some(ratio) = self.gas_ratio() {
            let _infallible = write!(text, " Settled at once by teller: {ratio:.3} times that.");
        }
        text.push('\n');
        text
    }

    /// The whole file.
    pub fn document(&self) -> String {
        let Machine {
            cpu,
            cores,
            memory_gb,
            kernel,
        } = &self.machine;
        let build = if cfg!(debug_assertions) {
            "debug build: these figures say nothing"
        } else {
            "release build"
        };
        format!(
            "# Load test results\n\n\
             Written by `cargo run --release -p teller-loadtest -- {}` ({build}) on {}; do not edit.\n\n\
             Machine: {cpu}, {cores} cores, {memory_gb:.1} GB, Linux {kernel}. Generator, counting proxy, teller and \
             anvil share it.\n\n\
             Each row is a fresh `teller serve` (SQLite ledger, reservations in process, one signer at depth {DEPTH}) on \
             anvil with {:.0} s blocks of {}M gas, loaded {} times; figures are medians of the runs, memory is the \
             worst of them. Payments are EIP-3009 of distinct nonces, signed ahead, x402 version 2. Workers send their \
             next payment when the last one is answered. Payments a second counts only what was accepted, from the \
             first request to the last answer; latency is over everything answered. Gas is from the receipts of the \
             distinct transactions that teller named. Node calls are counted by a proxy between teller and the node, \
             each element of a batch as one, and include what teller reads between payments. CPU is user and system \
             time per 1,000 requests; the generator's includes the proxy's.\n\n{}",
            arguments(),
            date(unix_seconds()),
            BLOCK_INTERVAL.as_secs_f64(),
            BLOCK_GAS_LIMIT / 1_000_000,
            self.repeats,
            self.tables(),
        )
    }
}

/// The command line without paths of this machine.
fn arguments() -> String {
    let short = |argument: String| match argument.rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None => argument,
    };
    std::env::args()
        .skip(1)
        .map(short)
        .collect::<Vec<_>>()
        .join(" ")
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = figures.get(middle).copied()?;
    if figures.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = figures.get(middle.checked_sub(1)?).copied()?;
    Some((lower + upper) / 2.0)
}

fn cell(figure: Option<f64>) -> String {
    figure.map_or_else(|| "–".to_owned(), short)
}

/// As many digits as matter.
pub fn short(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 || figure.fract() == 0.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 1.0 => format!("{figure:.2}"),
        size if size >= 0.01 => format!("{figure:.3}"),
        _ => format!("{figure:.5}"),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn markdown<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let _infallible = writeln!(text, "| {} |", row.join(" | "));
        if index == 0 {
            let _infallible = writeln!(text, "|{}", "---|".repeat(N));
        }
    }
    text
}

/// The day in UTC as year-month-day (the civil-from-days algorithm of the proleptic Gregorian calendar).
fn date(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years that begin in March have their leap day at the end.
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::scenarios::{SCENARIOS, VERIFY_256};
    use crate::drive::{Driven, Op, Sample};
    use crate::wire::Outcome;
    use std::time::Duration;

    fn run(rate: usize) -> Figures {
        let samples = (0..rate).map(|payment| Sample {
            op: Op::Verify,
            payment,
            took: Duration::from_millis(2),
            outcome: Outcome::Accepted { transaction: None },
        });
        let driven = Driven {
            samples: samples.collect(),
            elapsed: Duration::from_secs(1),
            unsent: 0,
        };
        let mut figures = Figures::new(&driven, 256, &[Op::Verify]);
        figures.costs.cpu_seconds = Some(rate as f64 * 0.000_2);
        figures
    }

    #[test]
    fn floors_are_judged_by_the_median() {
        let scenario = SCENARIOS.into_iter().find(|s| s.name == VERIFY_256);
        let results = Results {
            rows: vec![Row {
                scenario: scenario.unwrap(),
                runs: vec![run(5_000), run(7_000), run(6_500)],
                failure: None,
            }],
            single: Vec::new(),
            repeats: 3,
            machine: Machine::this(),
        };
        let text = results.document();
        for line in [
            "| verify@256 | 6500 | 5000 to 7000 |",
            "| verify at 256 | at least 6000 a second | 6500 | yes |",
            "at most 0.150 s per 1,000 | 0.200 | **no** |",
            "| settle at 2,048 | at least 1000 a second | – | not measured |",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn medians_and_dates_are_right() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_219_200), "2026-11-21");
    }
}
