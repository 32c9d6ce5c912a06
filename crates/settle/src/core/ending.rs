//! Payments that end without a slot: too late, or too dear until it was.

use teller_domain::{FencedLane, Reason, Refusal, SettlementId, SettlementState};

use super::batch::{BatchLimits, Need};
use super::{Core, Effect, Queued, fits_alone};

impl Core {
    /// Ends what cannot be settled in time any more, or not at the price that the operator allows.
    pub(super) fn expire(&mut self, now_ms: u64) {
        let Some(cutoff) = self.cutoff(now_ms) else {
            return;
        };
        let Some(fence) = self.some_fence() else {
            return;
        };
        let late = self.queue.take_expiring(cutoff);
        self.end_late(fence, &late);
    }

    /// A lane under which payments end that no slot holds. Without one this process ends nothing: whoever has one does.
    pub(super) fn some_fence(&self) -> Option<FencedLane> {
        self.lanes.values().map(|lane| lane.fence).next()
    }

    pub(super) fn end_late(&mut self, fence: FencedLane, late: &[Queued]) {
        if late.is_empty() {
            return;
        }
        let resolutions = late
            .iter()
            .map(|queued| (queued.id, self.why_late(queued)))
            .collect();
        self.resolve_accepted(fence, resolutions);
    }

    fn why_late(&self, queued: &Queued) -> SettlementState {
        let failed = |reason, detail| SettlementState::Failed {
            refusal: Refusal::new(reason, detail),
            transaction: None,
        };
        if self.is_too_dear() {
            let detail = "the base fee stayed above the operator's ceiling until the deadline";
            return failed(Reason::FeeCeilingExceeded, detail);
        }
        if !self.config.budgets.allow(&self.spending, &queued.tenant) {
            let detail = "the budget for gas was spent until the deadline";
            return failed(Reason::GasBudgetExceeded, detail);
        }
        if !self.fits_a_transaction(queued) {
            let detail = "its gas alone costs more than one transaction may";
            return failed(Reason::GasBudgetExceeded, detail);
        }
        if queued.need != Need::Nothing {
            let detail = "the payer's approval was not mined before the deadline";
            return failed(Reason::ApprovalBroadcastFailed, detail);
        }
        SettlementState::Expired
    }

    /// Whether a transaction with nothing else in it stays within its own budget, at what gas costs now.
    fn fits_a_transaction(&self, queued: &Queued) -> bool {
        let Some(fees) = self.initial_fees() else {
            return true;
        };
        let budget = self.config.budgets.per_transaction;
        fits_alone(self.limits(), budget, &queued.payment, fees.max_fee_per_gas)
    }

    /// The bounds of a batch: the configured ones, and those of the block that is to hold it.
    pub(super) fn limits(&self) -> BatchLimits {
        let limits = self.config.limits;
        match self.head {
            Some(head) => limits.in_block(head.gas_limit),
            None => limits,
        }
    }

    pub(super) fn is_too_dear(&self) -> bool {
        self.head
            .is_some_and(|head| self.config.fees.exceeds_ceiling(head.base_fee))
    }

    pub(super) fn resolve_accepted(
        &mut self,
        fence: FencedLane,
        resolutions: Vec<(SettlementId, SettlementState)>,
    ) {
        self.ending
            .extend(resolutions.iter().map(|(id, _)| (*id, fence)));
        self.emit(Effect::ResolveAccepted { fence, resolutions });
    }
}
