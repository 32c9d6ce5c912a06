//! What an audit has counted and summed: the other half of its answer.

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256};
use serde_json::{Value, json};
use teller_domain::{BlockRef, ChainId, SettlementStateKind, SlotId};

use super::difference::{Difference, Kind, Subject};
use super::seen::Seen;

/// As many of a kind are named one by one.
const MOST_NOTES: usize = 1_000;

/// A sum that ledger and chain must agree on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// By the ledger's rows.
    pub ledger: U256,
    /// By the chain's events.
    pub chain: U256,
}

/// Counts and sums of one walk over one network.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Slots that one of their own attempts closed.
    pub slots_mined: u64,
    /// Slots whose nonce somebody else used; the first of them by name.
    pub slots_foreign: u64,
    /// Their names.
    pub foreign: Vec<(SlotId, BlockRef)>,
    /// Open slots.
    pub slots_open: u64,
    /// Slots that ended above the horizon: left out.
    pub slots_newer: u64,
    /// Rows by state.
    pub rows: BTreeMap<&'static str, u64>,
    /// Rows on their way to an outcome: left out of sums.
    pub unresolved: u64,
    /// Rows whose settlement is above the horizon, or was written during the walk: left out.
    pub rows_newer: u64,
    /// Settled values by asset.
    pub values: BTreeMap<Address, Sum>,
    /// What closed slots cost by the ledger.
    pub cost_slots: U256,
    /// What their transactions cost by their receipts.
    pub cost_receipts: U256,
    /// What settled payments carry of it.
    pub cost_settlements: U256,
    /// What is carried by no payment, because its transaction settled none.
    pub cost_unshared: U256,
    /// Slots that gave a payer the gas of his approval.
    pub top_ups: u64,
    /// What they gave.
    pub top_up_wei: U256,
    /// Authorizations that slots' transactions used.
    pub uses_in_slots: u64,
    /// Authorizations that other transactions of the signers used.
    pub uses_elsewhere: u64,
    /// `AuthorizationUsed` logs looked at, whoever sent their transactions.
    pub logs: u64,
    /// Blocks whose logs were asked for, both ends included.
    pub log_blocks: Option<(u64, u64)>,
    /// Compensating entries.
    pub compensations: u64,
}

impl Tally {
    /// Counts a row by its state.
    pub fn row(&mut self, kind: SettlementStateKind) {
        *self.rows.entry(kind.as_str()).or_default() += 1;
    }

    /// Notes a slot that somebody else's transaction took.
    pub fn foreign(&mut self, slot: SlotId, block: BlockRef) {
        self.slots_foreign += 1;
        if self.foreign.len() < MOST_NOTES {
            self.foreign.push((slot, block));
        }
    }

    /// Where sums do not match.
    pub fn check_sums(&self, seen: &Seen, out: &mut Vec<Difference>) {
        for (asset, sum) in &self.values {
            if sum.ledger != sum.chain {
                out.push(seen.differs(
                    Kind::ValueSum,
                    Subject::Asset(*asset),
                    sum.ledger,
                    sum.chain,
                ));
            }
        }
        let shared = self.cost_slots.saturating_sub(self.cost_unshared);
        if self.cost_settlements != shared || self.cost_slots != self.cost_receipts {
            out.push(seen.differs(
                Kind::CostSum,
                Subject::Costs,
                format!(
                    "payments {} wei, slots {} wei of which {} wei in no payment",
                    self.cost_settlements, self.cost_slots, self.cost_unshared
                ),
                format!("receipts {} wei", self.cost_receipts),
            ));
        }
    }

    /// One JSON object.
    pub fn json(&self, chain: ChainId, head: BlockRef, differences: usize) -> Value {
        let values: Vec<Value> = self
            .values
            .iter()
            .map(|(asset, sum)| {
                json!({ "asset": asset, "ledger": sum.ledger.to_string(), "chain": sum.chain.to_string() })
            })
            .collect();
        json!({
            "summary": chain,
            "differences": differences,
            "head": head,
            "slots": {
                "mined": self.slots_mined, "foreign": self.slots_foreign, "open": self.slots_open,
                "leftOut": self.slots_newer,
            },
            "settlements": {
                "states": self.rows, "unresolved": self.unresolved, "leftOut": self.rows_newer,
            },
            "values": values,
            "costWei": {
                "slots": self.cost_slots.to_string(), "receipts": self.cost_receipts.to_string(),
                "settlements": self.cost_settlements.to_string(), "inNoPayment": self.cost_unshared.to_string(),
            },
            "topUps": { "count": self.top_ups, "wei": self.top_up_wei.to_string() },
            "authorizationsUsed": { "inSlots": self.uses_in_slots, "elsewhere": self.uses_elsewhere },
            "logs": { "seen": self.logs, "fromBlock": self.log_blocks.map(|(from, _)| from),
                      "toBlock": self.log_blocks.map(|(_, to)| to) },
            "compensations": self.compensations,
        })
    }

    /// For people.
    pub fn lines(&self, chain: ChainId, head: BlockRef, slots_only: bool) -> Vec<String> {
        let mut lines = vec![
            format!("{chain}  up to block {} {}", head.number, head.hash),
            format!(
                "  slots        {} mined, {} foreign, {} open; {} newer, left out",
                self.slots_mined, self.slots_foreign, self.slots_open, self.slots_newer
            ),
        ];
        if slots_only {
            lines.push("  only one signer's slots and their payments were audited".to_owned());
            return lines;
        }
        let states: Vec<String> = self
            .rows
            .iter()
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        let states = match states.is_empty() {
            true => "none".to_owned(),
            false => states.join(", "),
        };
        lines.push(format!(
            "  settlements  {states}; of these {} not resolved yet and {} newer, left out of the sums",
            self.unresolved, self.rows_newer
        ));
        for (asset, sum) in &self.values {
            lines.push(format!(
                "  value        {asset}: ledger {}, chain {}",
                sum.ledger, sum.chain
            ));
        }
        lines.push(format!(
            "  cost         payments {} wei + in no payment {} wei; slots {} wei, receipts {} wei",
            self.cost_settlements, self.cost_unshared, self.cost_slots, self.cost_receipts
        ));
        if self.top_ups > 0 {
            lines.push(format!(
                "  given        {} wei to {} payers for their approvals",
                self.top_up_wei, self.top_ups
            ));
        }
        let logs = match self.log_blocks {
            Some((from, to)) => format!("{} logs in blocks {from} to {to}", self.logs),
            None => "logs not asked for".to_owned(),
        };
        lines.push(format!(
            "  used         {} authorizations by slots, {} by other transactions of the signers; {logs}",
            self.uses_in_slots, self.uses_elsewhere
        ));
        lines.push(format!(
            "  told         {} compensating entries",
            self.compensations
        ));
        lines
    }
}
