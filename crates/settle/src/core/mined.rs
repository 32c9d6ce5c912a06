//! What a mined attempt means for its slot and for each payment in it.

use std::collections::BTreeSet;

use alloy_primitives::B256;
use teller_domain::invariants::split_by_largest_remainder;
use teller_domain::{
    AttemptKind, Authorization, BlockRef, FencedLane, LaneMode, Level, Reason, Receipt, Refusal,
    Resolution, SettlementId, SettlementState, SlotEnd, SlotId, TenantId, UnixSeconds, Wei,
};
use teller_schemes::{EventLog, Outcome};
use teller_store::SlotClosure;

use super::ancestry::Standing;
use super::lane::{Closed, Ending, OpenSlot, Phase};
use super::rules::Rule;
use super::unfinal::Unfinal;
use super::{Core, Effect, Finding, Mined, Need, Queued, budget};

/// A payment that has been alone in a slot, after this many slots in all, without an outcome fails.
const MAX_TRIES: u32 = 3;

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

/// What becomes of a payment that its slot's transaction did not settle.
pub(super) fn explain(
    queued: &Queued,
    finding: Finding,
    end: &Ending,
    alone: bool,
    cutoff: UnixSeconds,
) -> Resolution {
    let transaction = match end.end {
        SlotEnd::Mined { transaction, .. } => Some(transaction),
        SlotEnd::Foreign => None,
    };
    let fail = |reason, detail: &str, transaction| {
        Resolution::Resolved(SettlementState::Failed {
            refusal: Refusal::new(reason, detail),
            transaction,
        })
    };
    match finding {
        Finding::SettledElsewhere { receipt, ours } => Resolution::Resolved(match ours {
            true => SettlementState::Settled(receipt),
            false => SettlementState::SettledExternally(receipt),
        }),
        Finding::Spent { transaction } => fail(
            match queued.payment.authorization {
                Authorization::Eip3009 { .. } => Reason::NonceAlreadyUsed,
                Authorization::Permit2(_) => Reason::Permit2InvalidNonce,
                Authorization::Erc7710(_) => Reason::TransactionFailed,
            },
            "the authorization was cancelled or spent on another transfer",
            transaction,
        ),
        // A reorg took the approval's block: it is waited for again.
        Finding::WouldRevert(Reason::Permit2AllowanceRequired)
            if queued.payment.token_approval().is_some() && queued.tries < MAX_TRIES =>
        {
            Resolution::Requeued
        }
        Finding::WouldRevert(reason) if end.carried => {
            fail(reason, "the transfer was mined and reverted", transaction)
        }
        Finding::WouldRevert(reason) => fail(reason, "the transfer would revert", None),
        Finding::WouldSettle if queued.payment.valid_before() <= cutoff => {
            Resolution::Resolved(SettlementState::Expired)
        }
        Finding::WouldSettle if queued.tries >= MAX_TRIES && alone && end.carried => fail(
            Reason::TransactionFailed,
            "the transaction was mined without effect, alone",
            transaction,
        ),
        Finding::WouldSettle => Resolution::Requeued,
        // A second slot could pay a second time, should a reorg bring the first one back.
        Finding::Unguarded if !end.carried => fail(
            Reason::TransactionFailed,
            "it was given up before it was mined, and is signed once only",
            None,
        ),
        Finding::Unguarded if end.succeeded => fail(
            Reason::TransferEventMismatch,
            "the transaction was mined without exactly this transfer",
            transaction,
        ),
        Finding::Unguarded => fail(
            Reason::TransactionFailed,
            "the transaction was mined and reverted",
            transaction,
        ),
    }
}

impl Core {
    /// A sealed canonical block holds one of the slot's attempts.
    pub(super) fn on_mined(&mut self, id: SlotId, mined: &Mined, now_ms: u64) {
        let bisects = self.rules.hold(Rule::Bisect);
        let by_events = self.rules.hold(Rule::EventsDecide);
        let investigates = self.rules.hold(Rule::InvestigateFirst);
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
        if outcomes.unexplained.is_empty() {
            return self.close_settled(id, &end, &outcomes.settled, mined, Vec::new());
        }
        let payments: Vec<Queued> = slot
            .payments
            .iter()
            .filter(|queued| outcomes.unexplained.contains(&queued.id))
            .cloned()
            .collect();
        let block = mined.block;
        slot.phase = Phase::Investigating {
            end,
            settled: outcomes.settled,
            mined: Some(mined.clone()),
        };
        if !investigates {
            let reverted = Finding::WouldRevert(Reason::TransactionFailed);
            let findings = payments.iter().map(|queued| (queued.id, reverted.clone()));
            return self.on_investigated(id, block, findings.collect(), now_ms);
        }
        self.emit(Effect::Investigate {
            id,
            block,
            payments,
        });
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

    pub(super) fn on_investigated(
        &mut self,
        id: SlotId,
        block: BlockRef,
        findings: Vec<(SettlementId, Finding)>,
        now_ms: u64,
    ) {
        let cutoff = self.cutoff(now_ms).unwrap_or_default();
        let once = self.rules.hold(Rule::SignedOnce);
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let Phase::Investigating {
            end,
            settled,
            mined,
        } = &slot.phase
        else {
            return;
        };
        if end.block != block {
            // An answer about a block that a reorg has taken since.
            return;
        }
        let (end, settled, mined) = (end.clone(), settled.clone(), mined.clone());
        let alone = slot.payments.len() == 1;
        let mut resolutions = Vec::new();
        let mut unsettled_blocks = Vec::new();
        for (payment, finding) in findings {
            let Some(queued) = slot.payments.iter().find(|queued| queued.id == payment) else {
                continue;
            };
            let finding = match finding {
                Finding::Unguarded if !once => Finding::WouldSettle,
                finding => finding,
            };
            if let Finding::SettledElsewhere { receipt, .. } = &finding {
                unsettled_blocks.push(receipt.block);
            }
            resolutions.push((payment, explain(queued, finding, &end, alone, cutoff)));
        }
        if resolutions.len() + settled.len() != slot.payments.len() {
            return;
        }
        let standing = |block: &BlockRef| self.ancestry.standing(*block);
        let unsealed =
            |block: &BlockRef| matches!(standing(block), Standing::Ahead | Standing::Orphaned);
        if unsettled_blocks.iter().any(unsealed) {
            // What somebody else did is not sealed here yet, or not any more: look again when the chain has moved on.
            if let Some(slot) = self.slot_mut(id) {
                slot.phase = Phase::Sent { acknowledged: true };
            }
            return;
        }
        match mined {
            Some(mined) => self.close_settled(id, &end, &settled, &mined, resolutions),
            None => self.close_slot(id, &end, resolutions, Vec::new()),
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
        slot.phase = Phase::Closing(slot.closed(end, &resolutions));
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
        if lane.slots.is_empty() {
            // Nothing is left whose sending could tell that there is money again: the next batch will.
            lane.out_of_funds = false;
        }
        for queued in &slot.payments {
            self.known.remove(&queued.id);
        }
        if let Phase::Closing(mut closed) = slot.phase {
            closed.requeue.retain(|queued| !kept.contains(&queued.id));
            if let Some(lane) = self.lane_mut(fence) {
                lane.unfinal.insert(id.nonce, Unfinal::closed(&closed));
            }
            budget::add(&mut self.spending, closed.cost, &closed.shares);
            self.on_accepted(closed.requeue, now_ms);
        }
        self.thawed(id);
        self.end_rescue(fence);
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

    fn closed(&self, end: &Ending, resolutions: &[(SettlementId, Resolution)]) -> Closed {
        let mut closed = Closed {
            block: end.block,
            external: BTreeSet::new(),
            requeue: Vec::new(),
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
                Some(Resolution::Resolved(state)) => closed.note(queued, state, end.block),
                None => {}
            }
        }
        closed
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
