//! What people see of `teller dev`: a few lines that are drawn again on a terminal, plain lines elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use alloy_primitives::{B256, U256};
use serde_json::json;
use teller_devnet::Devnet;

use super::buyer::{PRICE, Purchase};
use super::load::News;
use crate::commands::decimal;

const SHOWN_RECEIPTS: usize = 12;
/// Answers of one transaction arrive within this of each other.
const GATHER: Duration = Duration::from_millis(400);
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// What one transfer costs that travels alone, on the real USDC contract (DESIGN section 9).
const GAS_ALONE: u64 = 85_700;

/// Payments whose answers named the same transaction.
struct Gathering {
    payments: u64,
    since: Instant,
}

/// The view and what it has counted.
pub struct View<'a> {
    devnet: &'a Devnet,
    rest: SocketAddr,
    terminal: bool,
    drawn_lines: usize,
    begun: u64,
    settled: u64,
    refused: BTreeMap<String, u64>,
    gathering: BTreeMap<B256, Gathering>,
    transactions: u64,
    gas: u64,
    gas_payments: u64,
    largest: u64,
    waits: Vec<Duration>,
    recent: VecDeque<Instant>,
    receipts: VecDeque<String>,
    complete: Option<bool>,
    summed_up: bool,
}

impl<'a> View<'a> {
    /// A view of nothing yet.
    pub fn new(devnet: &'a Devnet, rest: SocketAddr) -> Self {
        Self {
            devnet,
            rest,
            terminal: std::io::stdout().is_terminal(),
            drawn_lines: 0,
            begun: 0,
            settled: 0,
            refused: BTreeMap::new(),
            gathering: BTreeMap::new(),
            transactions: 0,
            gas: 0,
            gas_payments: 0,
            largest: 0,
            waits: Vec::new(),
            recent: VecDeque::new(),
            receipts: VecDeque::new(),
            complete: None,
            summed_up: false,
        }
    }

    /// Takes note.
    pub fn hear(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Begun => self.begun += 1,
            News::Complete { trickle } => self.complete = Some(trickle),
            News::Ended(Purchase::Refused(reason)) => {
                if !self.terminal {
                    println!("no: {reason}");
                }
                *self.refused.entry(reason).or_default() += 1;
            }
            News::Ended(Purchase::Settled { transaction, took }) => {
                self.settled += 1;
                // What is summed up is the demonstration; the trickle would grow this for ever.
                if self.complete.is_none() {
                    self.waits.push(took);
                }
                self.recent.push_back(now);
                let gathering = self.gathering.entry(transaction).or_insert(Gathering {
                    payments: 0,
                    since: now,
                });
                gathering.payments += 1;
            }
        }
    }

    /// Shows what is new.
    pub async fn redraw(&mut self) {
        let now = Instant::now();
        while self
            .recent
            .front()
            .is_some_and(|at| now.duration_since(*at) > RATE_WINDOW)
        {
            self.recent.pop_front();
        }
        let whole: Vec<B256> = self
            .gathering
            .iter()
            .filter(|(_, gathering)| now.duration_since(gathering.since) > GATHER)
            .map(|(hash, _)| *hash)
            .collect();
        for hash in whole {
            if let Some(gathering) = self.gathering.remove(&hash) {
                self.receipt(hash, gathering.payments).await;
            }
        }
        let ended = self.gathering.is_empty() && self.complete.is_some();
        if self.terminal {
            self.draw();
        }
        if ended && !self.summed_up {
            self.summed_up = true;
            if !self.terminal {
                for line in self.summary() {
                    println!("{line}");
                }
            }
        }
    }

    async fn receipt(&mut self, hash: B256, payments: u64) {
        let receipt = self
            .devnet
            .rpc("eth_getTransactionReceipt", json!([hash]))
            .await;
        let quantity = |field: &str| {
            let text = receipt.as_ref().ok()?.get(field)?.as_str()?;
            text.parse::<U256>()
                .ok()
                .map(|number| number.saturating_to::<u64>())
        };
        let (block, gas) = (quantity("blockNumber"), quantity("gasUsed"));
        self.transactions += 1;
        self.largest = self.largest.max(payments);
        if let Some(gas) = gas {
            self.gas += gas;
            self.gas_payments += payments;
        }
        let line = format!(
            "block {:>5}  {payments:>3} payment{}  {:>7} gas each  {:>6} USDC  {hash}",
            block.map_or_else(|| "?".to_owned(), |block| block.to_string()),
            if payments == 1 { " " } else { "s" },
            gas.map_or_else(|| "?".to_owned(), |gas| (gas / payments.max(1)).to_string()),
            decimal(&(payments * PRICE).to_string(), 6),
        );
        if !self.terminal {
            println!("{line}");
        }
        if self.receipts.len() == SHOWN_RECEIPTS {
            self.receipts.pop_back();
        }
        self.receipts.push_front(line);
    }

    fn gas_per_payment(&self) -> Option<u64> {
        self.gas.checked_div(self.gas_payments)
    }

    fn draw(&mut self) {
        let count = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        let rate = f64::from(count) / RATE_WINDOW.as_secs_f64();
        let gas = self
            .gas_per_payment()
            .map_or_else(|| "-".to_owned(), |gas| gas.to_string());
        let mut lines = vec![
            String::new(),
            format!(
                "payments  {:>6} settled  {:>4} under way  {:>4} refused   {rate:>6.1} a second",
                self.settled,
                self.under_way(),
                self.refused.values().sum::<u64>(),
            ),
            format!(
                "batches   {:>6} transactions, the largest of {}   {gas} gas a payment (alone: {GAS_ALONE})",
                self.transactions, self.largest,
            ),
        ];
        lines.extend(
            self.refused
                .iter()
                .map(|(reason, times)| format!("refused   {times:>6} x {reason}")),
        );
        lines.push(String::new());
        lines.extend(self.receipts.iter().cloned());
        lines.push(String::new());
        if self.summed_up || (self.complete.is_some() && self.gathering.is_empty()) {
            lines.extend(self.summary());
        }
        let mut out = std::io::stdout().lock();
        // A wrapped line would take two rows and spoil the way back up, so wrapping is off while this is drawn.
        let mut text = String::from("\x1b[?7l");
        if self.drawn_lines > 0 {
            text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn_lines));
        }
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("\x1b[?7h");
        self.drawn_lines = lines.len();
        // A closed terminal is about to end this process anyway.
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }

    fn under_way(&self) -> u64 {
        self.begun
            .saturating_sub(self.settled)
            .saturating_sub(self.refused.values().sum())
    }

    fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.settled > 0 {
            let mut waits = self.waits.clone();
            waits.sort();
            let at = |share: usize| {
                let index = (waits.len() * share / 100).min(waits.len().saturating_sub(1));
                waits.get(index).copied().unwrap_or_default().as_secs_f64()
            };
            lines.push(format!(
                "{} payments settled in {} transactions, the largest of {}; {} gas a payment (alone: {GAS_ALONE}); \
                 settle took {:.2} s (median), {:.2} s (95 %)",
                self.settled,
                self.transactions,
                self.largest,
                self.gas_per_payment().unwrap_or_default(),
                at(50),
                at(95),
            ));
        }
        let trickle = if self.complete == Some(true) {
            ", one more payment now and then"
        } else {
            ""
        };
        lines.push(format!(
            "still serving at http://{}{trickle}; Ctrl-C to stop",
            self.rest
        ));
        lines
    }
}
