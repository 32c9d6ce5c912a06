//! What must be true when all is quiet: every payment has its outcome, and ledger and chain agree to the unit.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::U256;
use teller_domain::{
    AuthorizationKey, Level, Settlement, SettlementId, SettlementState, SettlementStateKind, Wei,
};
use teller_store::Ledger;

use super::sight::settling_log;
use super::world::World;

impl World<'_> {
    fn rows(&self) -> Vec<Settlement> {
        let ids: Vec<SettlementId> = self.check.accepted.keys().copied().collect();
        self.stage.read(|| self.stage.ledger.settlements(&ids))
    }

    pub fn unresolved(&self) -> String {
        let rows = self.rows();
        let open = rows.iter().filter(|row| !row.state.is_resolved());
        let open: Vec<String> = open
            .map(|row| format!("{} {} tries {}", row.id, row.state.kind(), row.tries))
            .collect();
        let lanes = self.stage.read(|| self.stage.ledger.lanes());
        let lanes: Vec<String> = lanes
            .iter()
            .filter(|lane| lane.fence.chain == self.chain_id)
            .map(|lane| {
                let sealed = self.chain.head().state.account(lane.fence.signer).nonce;
                let slots: Vec<u64> = lane.open_slots.iter().map(|slot| slot.id.nonce.0).collect();
                format!(
                    "{:?} sealed {sealed} next {:?} open {slots:?}",
                    lane.mode, lane.next_nonce
                )
            })
            .collect();
        format!("{open:?}; lanes {lanes:?}")
    }

    pub fn is_resolved(&self) -> bool {
        if self.check.slots.values().any(|slot| slot.open) {
            return false;
        }
        let settled = |row: &Settlement| match &row.state {
            SettlementState::Settled(receipt) => receipt.level == Level::Finalized,
            // Nobody can ever tell, and nothing but the payment itself waits for it.
            SettlementState::Unexplained { .. } => self.check.opaque.contains(&row.payment.key),
            state => state.is_resolved(),
        };
        self.rows().iter().all(settled)
    }

    pub fn compare_ledger_and_chain(&mut self) {
        let rows = self.rows();
        let mut settled: BTreeMap<AuthorizationKey, SettlementId> = BTreeMap::new();
        for row in &rows {
            self.compare_row(row, &mut settled);
        }
        // Every use by our own transactions has its row.
        let canonical: Vec<_> = self.chain.canonical().cloned().collect();
        let mut cost = U256::ZERO;
        let mut shared = U256::ZERO;
        for sealed in &canonical {
            for receipt in &sealed.receipts {
                if !self.check.attempts.contains_key(&receipt.transaction.hash) {
                    continue;
                }
                let of = |row: &&Settlement| match &row.state {
                    SettlementState::Settled(r) => r.transaction == receipt.transaction.hash,
                    _ => false,
                };
                let shares: Vec<Wei> = rows
                    .iter()
                    .filter(of)
                    .map(|row| match &row.state {
                        SettlementState::Settled(r) => r.cost,
                        _ => Wei::ZERO,
                    })
                    .collect();
                let accepted = self.check.accepted.values();
                let used: BTreeSet<AuthorizationKey> = accepted
                    .filter(|payment| settling_log(receipt, payment).is_some())
                    .map(|payment| payment.key)
                    .collect();
                let uses = used.len();
                self.demand(uses == shares.len(), || {
                    format!(
                        "{uses} authorizations used by {}, {} rows settled",
                        receipt.transaction.hash,
                        shares.len()
                    )
                });
                if uses > 0 {
                    cost += receipt.cost.0;
                    shared = shares.iter().fold(shared, |sum, share| sum + share.0);
                }
            }
        }
        let found_elsewhere = shared < cost
            && rows.iter().any(
                |row| matches!(&row.state, SettlementState::Settled(r) if r.cost == Wei::ZERO),
            );
        self.demand(cost == shared || found_elsewhere, || {
            format!("invariant 9: settling cost {cost}, the ledger has {shared}")
        });
    }

    fn compare_row(
        &mut self,
        row: &Settlement,
        settled: &mut BTreeMap<AuthorizationKey, SettlementId>,
    ) {
        let payment = row.payment.clone();
        let head = self.chain.head().block.hash;
        let canonical: Vec<_> = self.chain.canonical().cloned().collect();
        let on_chain = canonical.iter().rev().find_map(|sealed| {
            let receipts = sealed.receipts.iter();
            receipts
                .clone()
                .find(|receipt| settling_log(receipt, &payment).is_some())
                .map(|receipt| (sealed.block, receipt.transaction.hash))
        });
        let paid = canonical.iter().flat_map(|sealed| &sealed.receipts);
        let paid = paid.filter(|receipt| settling_log(receipt, &payment).is_some());
        let times = paid.count();
        self.demand(times <= 1, || format!("{} was paid {times} times", row.id));
        if payment.token_approval().is_some() {
            self.check.fault(match row.state.kind() {
                SettlementStateKind::Settled => "settled behind an approval",
                SettlementStateKind::SettledExternally => "settled by another behind an approval",
                SettlementStateKind::Failed => "failed for want of an approval",
                _ => "not settled, with an approval",
            });
        }
        match &row.state {
            SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
                let same = on_chain == Some((receipt.block, receipt.transaction));
                self.demand(same, || {
                    format!(
                        "invariant 8: {} is {} by {receipt:?}, the chain has {on_chain:?}",
                        row.id,
                        row.state.kind()
                    )
                });
                let ours = self.check.attempts.contains_key(&receipt.transaction);
                let said = matches!(row.state, SettlementState::Settled(_));
                self.demand(ours == said, || {
                    format!(
                        "{} is settled by {}, ours: {ours}",
                        row.id,
                        row.state.kind()
                    )
                });
                let first = settled.insert(payment.key, row.id).is_none();
                self.demand(first, || {
                    format!(
                        "{} and another row are settled by one authorization",
                        row.id
                    )
                });
            }
            state => {
                let by_us =
                    on_chain.is_some_and(|(_, hash)| self.check.attempts.contains_key(&hash));
                // What a stranger submits after a payment has failed is between him and the payee.
                let late = on_chain.is_some() && !by_us;
                self.demand(on_chain.is_none() || late, || {
                    format!("invariant 10: {} is {}, and the chain settled it: {on_chain:?} (head {head})", row.id, state.kind())
                });
            }
        }
        self.check_entry(row);
    }
}
