//! What a mined attempt means for its slot and for each payment in it.

use alloy_primitives::B256;
use teller_domain::invariants::split_by_largest_remainder;
use teller_domain::{
    Level, Reason, Receipt, Refusal, Resolution, SettlementId, SettlementState, SlotId,
    UnixSeconds, Wei,
};
use teller_schemes::{EventLog, effects};
use teller_store::SlotClosure;

use super::lane::{LaneState, Phase};
use super::{Core, Effect, Finding, Mined, Queued};

/// A payment that has been in this many slots without an outcome fails.
const MAX_TRIES: u32 = 3;

/// The payments of a slot, told apart by what the receipt shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// Used by our transaction, followed by exactly the signed transfer; with the index of its log.
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
        let effects = effects(logs);
        let mut outcomes = Self {
            settled: Vec::new(),
            unexplained: Vec::new(),
        };
        for queued in payments {
            let payment = &queued.payment;
            let effect = effects.get(&(payment.asset, payment.key.payer, payment.key.nonce));
            match effect.and_then(|effect| effect.settles(payment)) {
                Some(log_index) if mined.succeeded => outcomes.settled.push((queued.id, log_index)),
                _ => outcomes.unexplained.push(queued.id),
            }
        }
        outcomes
    }
}

/// The resolutions of the settled payments: the transaction's gas and cost are split over them, to the wei.
pub fn settled(mined: &Mined, settled: &[(SettlementId, u64)]) -> Vec<(SettlementId, Resolution)> {
    let even = vec![1; settled.len()];
    let costs = split_by_largest_remainder(mined.cost, &even);
    let gas = split_by_largest_remainder(Wei::from(mined.gas_used), &even);
    let shares = costs.into_iter().zip(gas);
    settled
        .iter()
        .zip(shares)
        .map(|((id, log_index), (cost, gas_used))| {
            let receipt = Receipt {
                transaction: mined.transaction,
                block: mined.block,
                log_index: *log_index,
                level: Level::Included,
                gas_used: gas_used.0.saturating_to(),
                cost,
            };
            (*id, Resolution::Resolved(SettlementState::Settled(receipt)))
        })
        .collect()
}

/// What becomes of a payment that its slot's transaction did not settle.
pub fn explain(
    queued: &Queued,
    finding: Finding,
    transaction: B256,
    cutoff: UnixSeconds,
) -> Resolution {
    let fail = |reason, detail: &str, transaction| {
        Resolution::Resolved(SettlementState::Failed {
            refusal: Refusal::new(reason, detail),
            transaction,
        })
    };
    match finding {
        Finding::SettledExternally(receipt) => {
            Resolution::Resolved(SettlementState::SettledExternally(receipt))
        }
        Finding::Spent { transaction } => fail(
            Reason::NonceAlreadyUsed,
            "the authorization was cancelled or spent on another transfer",
            transaction,
        ),
        Finding::WouldRevert(reason) => fail(
            reason,
            "the transfer was mined and reverted",
            Some(transaction),
        ),
        Finding::WouldSettle if queued.payment.valid_before <= cutoff => {
            Resolution::Resolved(SettlementState::Expired)
        }
        Finding::WouldSettle if queued.tries >= MAX_TRIES => fail(
            Reason::TransactionFailed,
            "three transactions were mined without effect",
            Some(transaction),
        ),
        Finding::WouldSettle => Resolution::Requeued,
    }
}

/// The end of a payment whose payer was found to have code when its batch was formed.
pub fn payer_has_code() -> SettlementState {
    let detail =
        "the payer's account has code now; contract and EIP-7702 payers are not supported yet";
    SettlementState::Failed {
        refusal: Refusal::new(Reason::PayerHasCode, detail),
        transaction: None,
    }
}

impl Core {
    pub(super) fn on_found(&mut self, id: SlotId, mined: Mined) {
        if let Some(lane) = self
            .lanes
            .get_mut(&id.signer)
            .filter(|lane| lane.state == LaneState::Frozen)
        {
            tracing::warn!(signer = %id.signer, "a lane thaws: the transaction that took its slot is ours");
            lane.state = LaneState::Active;
        }
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.is_unmined()) else {
            return;
        };
        let reverted = !mined.succeeded && slot.payments.len() > 1;
        if reverted {
            // One of them did this to all: send them again in halves, and do not count the try.
            let half = slot.payments.len().div_ceil(2);
            for queued in &mut slot.payments {
                queued.company = queued.company.min(half);
                queued.tries = queued.tries.saturating_sub(1);
            }
            let resolutions = slot
                .payments
                .iter()
                .map(|queued| (queued.id, Resolution::Requeued))
                .collect();
            self.close_slot(id, &mined, resolutions);
            return;
        }
        let outcomes = Outcomes::read(&mined, &slot.payments);
        if outcomes.unexplained.is_empty() {
            let resolutions = settled(&mined, &outcomes.settled);
            self.close_slot(id, &mined, resolutions);
            return;
        }
        let payments = slot
            .payments
            .iter()
            .filter(|queued| outcomes.unexplained.contains(&queued.id))
            .cloned()
            .collect();
        let block = mined.block;
        slot.phase = Phase::Investigating {
            mined,
            settled: outcomes.settled,
        };
        self.emit(Effect::Investigate {
            id,
            block,
            payments,
        });
    }

    pub(super) fn on_investigated(&mut self, id: SlotId, findings: Vec<(SettlementId, Finding)>) {
        let cutoff = self.cutoff();
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let Phase::Investigating {
            mined,
            settled: ours,
        } = &slot.phase
        else {
            return;
        };
        let mined = mined.clone();
        let mut resolutions = settled(&mined, ours);
        for (payment, finding) in findings {
            let Some(queued) = slot.payments.iter().find(|queued| queued.id == payment) else {
                continue;
            };
            resolutions.push((payment, explain(queued, finding, mined.transaction, cutoff)));
        }
        if resolutions.len() == slot.payments.len() {
            self.close_slot(id, &mined, resolutions);
        }
    }

    fn close_slot(
        &mut self,
        id: SlotId,
        mined: &Mined,
        resolutions: Vec<(SettlementId, Resolution)>,
    ) {
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let fence = lane.fence;
        let Some(slot) = lane.slots.get_mut(&id.nonce) else {
            return;
        };
        let requeued = |queued: &&Queued| {
            resolutions.iter().any(|(payment, resolution)| {
                *payment == queued.id && *resolution == Resolution::Requeued
            })
        };
        let requeue = slot.payments.iter().filter(requeued).cloned().collect();
        let payments = slot.payments.clone();
        slot.phase = Phase::Closing { requeue };
        let closure = SlotClosure {
            id,
            transaction: mined.transaction,
            block: mined.block,
            gas_used: mined.gas_used,
            cost: mined.cost,
            resolutions,
        };
        self.emit(Effect::CloseSlot {
            fence,
            closure,
            payments,
        });
    }

    pub(super) fn on_slot_closed(&mut self, id: SlotId, now_ms: u64) {
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let Some(slot) = lane.slots.remove(&id.nonce) else {
            return;
        };
        if lane.slots.is_empty() && lane.state == LaneState::OutOfFunds {
            // Nothing is left whose sending could tell that there is money again: the next batch will.
            lane.state = LaneState::Active;
        }
        for queued in &slot.payments {
            self.known.remove(&queued.id);
        }
        if let Phase::Closing { requeue } = slot.phase {
            self.on_accepted(requeue, now_ms);
        }
    }
}
