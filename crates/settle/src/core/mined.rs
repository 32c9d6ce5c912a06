//! What a mined attempt means for its slot and for each payment in it.

use std::collections::BTreeSet;

use alloy_primitives::B256;
use teller_domain::invariants::split_by_largest_remainder;
use teller_domain::{
    AttemptKind, BlockRef, FencedLane, LaneMode, Level, Reason, Receipt, Resolution, SettlementId,
    SettlementState, SlotEnd, SlotId, TenantId, UnixSeconds, Wei,
};
use teller_schemes::{EventLog, Outcome};
use teller_store::SlotClosure;

use super::lane::{Closed, Ending, OpenSlot, Phase};
use super::rules::Rule;
use super::unexplained::{Unexplained, failed};
use super::unfinal::Unfinal;
use super::{Core, Effect, Mined, Need, Queued, budget};

/// A payment that has been alone in a slot, after this many slots in all, without an outcome fails.
pub(super) const MAX_TRIES: u32 = 3;

/// The payments of a slot, told apart by what the receipt shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// Settled by our transaction, with exactly the signed transfer; with the index of its log.
    pub settled: Vec<(SettlementId, u64)>,
    /// No such events: the chain must be asked why.
    pub unexplained: Vec<SettlementId>,
}

impl Outcomes {
    /// Reads the receipt's logs.
    pub fn read(mined: &Mined, payments: &[Queued]) -> Self {
        let logs = mined.logs.iter().map(|log| EventLog {
            address: log.address,
            topics: &log.topics,
            data: &log.data,
            index: log.index,
        });
        let mut found = Outcome::read(logs);
        let mut outcomes = Self {
            settled: Vec::new(),
            unexplained: Vec::new(),
        };
        for queued in payments {
            match found.take(&queued.payment) {
                Some(log_index) if mined.succeeded => outcomes.settled.push((queued.id, log_index)),
                _ => outcomes.unexplained.push(queued.id),
            }
        }
        outcomes
    }
}

/// Receipts of the payments that a transaction settled: its gas and cost are split over them, to the wei.
pub fn receipts(
    end: &SlotEnd,
    block: BlockRef,
    settled: &[(SettlementId, u64)],
) -> Vec<(SettlementId, Receipt)> {
    let SlotEnd::Mined {
        transaction,
        gas_used,
        cost,
    } = *end
    else {
        return Vec::new();
    };
    let even = vec![1; settled.len()];
    let costs = split_by_largest_remainder(cost, &even);
    let gas = split_by_largest_remainder(Wei::from(gas_used), &even);
    let shares = costs.into_iter().zip(gas);
    settled
        .iter()
        .zip(shares)
        .map(|((id, log_index), (cost, gas_used))| {
            let receipt = Receipt {
                transaction,
                block,
                log_index: *log_index,
                level: Level::Included,
                gas_used: gas_used.0.saturating_to(),
                cost,
            };
            (*id, receipt)
        })
        .collect()
}

/// What becomes of a payment that its slot's transaction did not settle, where the chain guards nothing: no other
/// transaction proves anything of it, and a second slot could pay a second time, should a reorg bring the first one back.
fn unguarded(end: &Ending) -> Resolution {
    let reason = Reason::TransactionFailed;
    match end.mined_batch() {
        None => failed(
            reason,
            "it was given up before it was mined, and is signed once only",
            None,
        ),
        Some(transaction) if end.succeeded => failed(
            Reason::TransferEventMismatch,
            "the transaction was mined without exactly this transfer",
            Some(transaction),
        ),
        Some(transaction) => failed(
            reason,
            "the transaction was mined and reverted",
            Some(transaction),
        ),
    }
}

/// What becomes of payments whose slot has ended without a receipt that tells.
pub(super) fn unexplained(payments: &[Queued], end: &Ending) -> Vec<(SettlementId, Resolution)> {
    let transaction = end.mined_batch();
    let left = |queued: &Queued| match queued.payment.is_guarded_on_chain() {
        true => Resolution::Unexplained { transaction },
        false => unguarded(end),
    };
    let payments = payments.iter();
    payments.map(|queued| (queued.id, left(queued))).collect()
}

impl Core {
    /// A sealed canonical block holds one of the slot's attempts.
    pub(super) fn on_mined(&mut self, id: SlotId, mined: &Mined, now_ms: u64) {
        let bisects = self.rules.hold(Rule::Bisect);
        let by_events = self.rules.hold(Rule::EventsDecide);
        let investigates = self.rules.hold(Rule::InvestigateFirst);
        let leaves = self.rules.hold(Rule::UnexplainedLeaves);
        let once = self.rules.hold(Rule::SignedOnce);
        let cutoff = self.cutoff(now_ms).unwrap_or_default();
        self.thaw_for_own(id);
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.is_unmined()) else {
            return;
        };
        let mut end = slot.ending(mined);
        if slot.tops_up() {
            end.carried = false;
            if slot.goes_on(cutoff) {
                let resolutions = requeued(&slot.payments);
                return self.close_slot(id, &end, resolutions, Vec::new());
            }
        }
        if !mined.succeeded && slot.payments.len() > 1 && end.carried {
            // One of them did this to all: send them again in halves.
            let half = slot.payments.len().div_ceil(2);
            for queued in slot.payments.iter_mut().filter(|_| bisects) {
                queued.company = queued.company.min(half);
            }
            end.carried = false;
            let resolutions = requeued(&slot.payments);
            return self.close_slot(id, &end, resolutions, Vec::new());
        }
        let mut outcomes = Outcomes::read(mined, &slot.payments);
        if !by_events && mined.succeeded {
            let trusted = outcomes.unexplained.drain(..).map(|id| (id, 0));
            outcomes.settled.extend(trusted);
        }
        if !leaves && !outcomes.unexplained.is_empty() {
            return;
        }
        let left: Vec<Queued> = slot
            .payments
            .iter()
            .filter(|queued| outcomes.unexplained.contains(&queued.id))
            .cloned()
            .collect();
        let mut resolutions = unexplained(&left, &end);
        for (_, resolution) in resolutions.iter_mut().filter(|_| !investigates) {
            *resolution = failed(Reason::TransactionFailed, "not settled", end.mined_batch());
        }
        if !once {
            requeue_unguarded(&left, &mut resolutions);
        }
        self.close_settled(id, &end, &outcomes.settled, mined, resolutions);
    }

    /// A lane that was frozen for a transaction that turns out to be its own.
    fn thaw_for_own(&mut self, id: SlotId) {
        let frozen = self
            .lanes
            .get(&id.signer)
            .filter(|lane| lane.mode == LaneMode::Frozen)
            // Another slot that strangers took keeps the lane frozen.
            .filter(|lane| {
                let mut others = lane.slots.iter().filter(|(nonce, _)| **nonce != id.nonce);
                others.all(|(_, slot)| slot.foreign_uses == 0)
            })
            .map(|lane| lane.fence);
        if let Some(fence) = frozen {
            tracing::warn!(signer = %id.signer, "a lane thaws: the transaction that took its slot is ours");
            self.set_mode(fence, LaneMode::Active, Some(id));
        }
    }

    /// Closes a slot whose transaction settled these payments of it, and perhaps some that had ended already.
    fn close_settled(
        &mut self,
        id: SlotId,
        end: &Ending,
        settled: &[(SettlementId, u64)],
        mined: &Mined,
        mut resolutions: Vec<(SettlementId, Resolution)>,
    ) {
        let notes = self.rules.hold(Rule::NoteRevived);
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let ended: &[Queued] = if notes { &slot.ended } else { &[] };
        let revived = Outcomes::read(mined, ended);
        let all: Vec<_> = settled.iter().chain(&revived.settled).copied().collect();
        let mut receipts = receipts(&end.end, end.block, &all);
        let revived = receipts.split_off(settled.len());
        resolutions.extend(
            receipts
                .into_iter()
                .map(|(id, receipt)| (id, Resolution::Resolved(SettlementState::Settled(receipt)))),
        );
        self.close_slot(id, end, resolutions, revived);
    }

    pub(super) fn close_slot(
        &mut self,
        id: SlotId,
        end: &Ending,
        resolutions: Vec<(SettlementId, Resolution)>,
        revived: Vec<(SettlementId, Receipt)>,
    ) {
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let fence = lane.fence;
        let Some(slot) = lane.slots.get_mut(&id.nonce) else {
            return;
        };
        slot.phase = Phase::Closing(slot.closed(id, end, &resolutions));
        let payments = slot.payments.iter().chain(&slot.ended).cloned().collect();
        let closure = SlotClosure {
            id,
            end: end.end,
            block: end.block,
            resolutions,
            revived,
        };
        self.emit(Effect::CloseSlot {
            fence,
            closure,
            payments,
        });
    }

    /// `kept`: what another open slot still carries, which is not to be signed anew.
    pub(super) fn on_slot_closed(
        &mut self,
        fence: FencedLane,
        id: SlotId,
        kept: &[SettlementId],
        now_ms: u64,
    ) {
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let Some(slot) = lane.slots.remove(&id.nonce) else {
            return;
        };
        for queued in &slot.payments {
            self.known.remove(&queued.id);
        }
        if let Phase::Closing(mut closed) = slot.phase {
            closed.requeue.retain(|queued| !kept.contains(&queued.id));
            closed
                .unexplained
                .retain(|left| !kept.contains(&left.queued.id));
            let left = closed.unexplained.iter().map(|left| left.queued.id);
            self.known.extend(left);
            if let Some(lane) = self.lane_mut(fence) {
                lane.unfinal.insert(id.nonce, Unfinal::closed(&closed));
                for left in closed.unexplained {
                    lane.unexplained.insert(left.queued.id, left, now_ms);
                }
            }
            budget::add(&mut self.spending, closed.cost, &closed.shares);
            self.purses.spend(id, closed.cost);
            self.on_accepted(closed.requeue, now_ms);
        }
        self.thawed(id);
        self.end_rescue(fence);
    }
}

/// What the engine never does, and a broken rule of a test would: what the chain does not guard is signed again.
fn requeue_unguarded(payments: &[Queued], resolutions: &mut [(SettlementId, Resolution)]) {
    for (id, resolution) in resolutions {
        let is_unguarded =
            |queued: &Queued| queued.id == *id && !queued.payment.is_guarded_on_chain();
        if payments.iter().any(is_unguarded) {
            *resolution = Resolution::Requeued;
        }
    }
}

/// All of them go on as accepted.
pub(super) fn requeued(payments: &[Queued]) -> Vec<(SettlementId, Resolution)> {
    let payments = payments.iter();
    payments
        .map(|queued| (queued.id, Resolution::Requeued))
        .collect()
}

impl OpenSlot {
    /// Whether all that there is to do about a top-up's payment is to go on waiting for its payer's approval. One whose time
    /// is up may have been settled by a slot that a reorg had reopened beside this one: that is looked into before it ends.
    pub(super) fn goes_on(&self, cutoff: UnixSeconds) -> bool {
        let in_time = |queued: &Queued| queued.payment.valid_before() > cutoff;
        self.tops_up() && self.payments.iter().all(in_time)
    }

    /// What this receipt makes of the slot.
    fn ending(&self, mined: &Mined) -> Ending {
        let carried = self
            .attempts
            .iter()
            .find(|attempt| attempt.hash == mined.transaction)
            .is_none_or(|attempt| attempt.kind == AttemptKind::Batch);
        Ending {
            end: SlotEnd::Mined {
                transaction: mined.transaction,
                gas_used: mined.gas_used,
                cost: mined.cost,
            },
            block: mined.block,
            carried,
            succeeded: mined.succeeded,
        }
    }

    fn closed(
        &self,
        id: SlotId,
        end: &Ending,
        resolutions: &[(SettlementId, Resolution)],
    ) -> Closed {
        let mut closed = Closed {
            block: end.block,
            external: BTreeSet::new(),
            requeue: Vec::new(),
            unexplained: Vec::new(),
            cost: Wei::ZERO,
            shares: Vec::new(),
        };
        if let SlotEnd::Mined { cost, .. } = end.end {
            closed.cost = cost;
        }
        for queued in &self.payments {
            let resolution = resolutions.iter().find(|(id, _)| *id == queued.id);
            match resolution.map(|(_, resolution)| resolution) {
                Some(Resolution::Requeued) => {
                    let mut queued = queued.clone();
                    queued.need = Need::of(&queued.payment);
                    if !end.carried {
                        // A no-op, or a batch that fell as a whole, says nothing about this payment.
                        queued.tries = queued.tries.saturating_sub(1);
                    }
                    closed.requeue.push(queued);
                }
                Some(Resolution::Unexplained { transaction }) => {
                    let alone = self.payments.len() == 1;
                    let queued = queued.clone();
                    let left = Unexplained::new(queued, id, end.block, *transaction, alone);
                    closed.unexplained.push(left);
                }
                Some(Resolution::Resolved(state)) => closed.note(queued, state, end.block),
                None => {}
            }
        }
        closed
    }
}

impl Ending {
    /// The mined transaction that tried each payment of the batch, if one did.
    pub(super) fn mined_batch(&self) -> Option<B256> {
        match self.end {
            SlotEnd::Mined { transaction, .. } if self.carried => Some(transaction),
            SlotEnd::Mined { .. } | SlotEnd::Foreign => None,
        }
    }
}

impl Closed {
    fn note(&mut self, queued: &Queued, state: &SettlementState, own: BlockRef) {
        let (SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt)) =
            state
        else {
            return;
        };
        if receipt.block != own {
            let block: (u64, B256) = (receipt.block.number, receipt.block.hash);
            self.external.insert(block);
        }
        let share: (TenantId, Wei) = (queued.tenant.clone(), receipt.cost);
        self.shares.push(share);
    }
}
