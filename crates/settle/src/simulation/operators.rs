//! What operators do: orders to lanes, processes that are told to end, budgets and ceilings, and how each ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::U256;
use teller_domain::{Fees, FencedLane, LaneMode, SlotId, TenantId, UnixMillis, Wei};
use teller_store::{Ledger, Spending};

use super::world::{Job, World};
use crate::core::{Budgets, Event};

/// Whose payments they all are.
pub const TENANT: &str = "seller";

impl World<'_> {
    /// Some operators bound what gas may cost; the bounds are so low that they are often reached.
    pub fn draw_budgets(&mut self) -> Budgets {
        let mut budgets = Budgets::default();
        if self.quiet {
            return budgets;
        }
        let wei = |amount: u64| Wei(U256::from(amount));
        if self.rng.chance(200) {
            budgets.per_transaction = Some(wei(self.rng.between(2, 8) * 1_000_000_000_000_000));
        }
        if self.rng.chance(150) {
            budgets.per_day = Some(wei(self.rng.between(1, 20) * 100_000_000_000_000));
        }
        if self.rng.chance(150) {
            let bound = wei(self.rng.between(1, 20) * 100_000_000_000_000);
            budgets.tenants = BTreeMap::from([(TenantId::new(TENANT), bound)]);
        }
        budgets
    }

    pub fn draw_ceiling(&mut self) -> Option<u128> {
        let bounded = !self.quiet && self.rng.chance(200);
        bounded.then(|| u128::from(self.rng.between(5, 20)) * 1_000_000_000)
    }

    /// What has been spent today. When all is quiet, every look is on another day.
    pub fn spending(&self) -> Spending {
        if self.quiet {
            return Spending::default();
        }
        let ledger = &self.stage.ledger;
        self.stage
            .read(|| ledger.spending(self.chain_id, UnixMillis(0)))
    }

    /// What operators forbid: a new slot in a lane that is not active, by a process that ends, or above a budget.
    pub fn check_allowed(&mut self, p: usize, id: SlotId, gas_limit: u64, fees: Fees, gives: U256) {
        let process = &self.processes[p];
        let lane = process.core.lanes().find(|lane| lane.signer() == id.signer);
        let active = lane.is_some_and(|lane| lane.mode() == LaneMode::Active) && !process.draining;
        let most = U256::from(fees.max_fee_per_gas) * U256::from(gas_limit) + gives;
        let bound = process.budgets.per_transaction;
        let ceiling = process.ceiling;
        self.demand(active, || {
            format!("{id} is opened in a lane that takes no batches")
        });
        self.demand(bound.is_none_or(|bound| most <= bound.0), || {
            format!("{id} may cost {most}, the operator allows {bound:?}")
        });
        self.demand(
            ceiling.is_none_or(|ceiling| fees.max_fee_per_gas <= ceiling),
            || format!("{id} pays {fees:?} above the operator's ceiling {ceiling:?}"),
        );
    }

    /// Whether these budgets leave anything, as far as the process has been told what was spent.
    pub fn is_affordable(&self, p: usize) -> bool {
        let process = &self.processes[p];
        let within = |bound: Option<&Wei>, spent: Wei| bound.is_none_or(|bound| spent < *bound);
        let tenant = TenantId::new(TENANT);
        let mut spenders = process.spent.tenants.iter();
        let spent = spenders.find(|(spender, _)| *spender == tenant);
        within(process.budgets.per_day.as_ref(), process.spent.total)
            && within(
                process.budgets.tenants.get(&tenant),
                spent.map_or(Wei::ZERO, |(_, spent)| *spent),
            )
    }

    /// One of the orders that `teller lanes` gives, if the lane is in a mode for it.
    pub fn order(&mut self) {
        let signer = *self.rng.pick(&self.signers.clone());
        let (from, to) = *self.rng.pick(&[
            (LaneMode::Active, LaneMode::Draining),
            (LaneMode::Active, LaneMode::Rescuing),
            (LaneMode::Draining, LaneMode::Rescuing),
            (LaneMode::Draining, LaneMode::Active),
            (LaneMode::Draining, LaneMode::Active),
        ]);
        let ledger = Arc::clone(&self.stage.ledger);
        let order = ledger.order_lane_mode(self.chain_id, signer, from, to);
        if self.stage.runtime.block_on(order).unwrap() {
            self.check.fault(match to {
                LaneMode::Draining => "lane drained",
                LaneMode::Rescuing => "lane rescued",
                _ => "drained lane thawed",
            });
            self.note(|| format!("an operator orders {signer}: {from:?} -> {to:?}"));
        }
    }

    /// No lane stays drained.
    pub fn end_orders(&mut self) {
        for signer in self.signers.clone() {
            let ledger = Arc::clone(&self.stage.ledger);
            let (from, to) = (LaneMode::Draining, LaneMode::Active);
            let order = ledger.order_lane_mode(self.chain_id, signer, from, to);
            self.stage.runtime.block_on(order).unwrap();
        }
    }

    /// The process is told to end: it opens nothing more, and hands over what it has a little later.
    pub fn drain_process(&mut self, p: usize) {
        self.check.fault("process drained");
        self.processes[p].draining = true;
        self.note(|| format!("p{p} is told to end"));
        self.hear(p, Event::Drain);
        let drains = self.rng.between(200, 4_000);
        self.schedule(drains, Job::SignOff(p));
    }

    pub fn may_drain(&self, p: usize) -> bool {
        let process = &self.processes[p];
        process.alive && !process.draining && process.paused_until_ms <= self.now_ms
    }

    pub fn sign_off(&mut self, p: usize) {
        let ledger = Arc::clone(&self.stage.ledger);
        let held: Vec<FencedLane> = self.processes[p].fences.values().copied().collect();
        for fence in held {
            let written = self.write(ledger.release_lane(fence));
            if matches!(written.done, Some(Ok(()))) {
                self.fenced(fence, "release_lane");
                self.check.epochs.insert(fence.signer, fence.epoch + 1);
            }
        }
        let id = self.processes[p].id;
        self.stage.runtime.block_on(ledger.deregister(id)).unwrap();
        // What it could not give back runs out.
        self.expire_leases(p);
        let back_in = self.rng.between(100, 4_000);
        self.crash(p, back_in);
        if self.quiet {
            self.restart(p);
        }
    }
}
