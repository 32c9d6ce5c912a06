//! Lanes that come and go, and a batch's way into a slot: look at its payers, sign, commit, send.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use teller_domain::{
    Attempt, AttemptKind, Fees, FencedLane, LaneMode, Reason, Refusal, SettlementId,
    SettlementState, SlotId,
};

use super::batch::gas_of;
use super::lane::{Forming, Gap, Lane, OpenSlot, Phase, Stage};
use super::rules::Rule;
use super::unfinal::Unfinal;
use super::watched::Watched;
use super::{Again, Core, Effect, Queued, RecoveredLane, RecoveredSlot, ToSign, gas_limit};

/// How long a lane rests after its payers could not be read.
const UNREAD_PAUSE_MS: u64 = 250;

impl Core {
    pub(super) fn on_lane_claimed(&mut self, recovered: RecoveredLane, now_ms: u64) {
        let fence = recovered.fence;
        let newest = self.epochs.entry(fence.signer).or_default();
        if fence.epoch < *newest {
            // Two claims of this process overtook each other: what has happened since is not in this one.
            return;
        }
        *newest = fence.epoch;
        self.drop_lane(fence.signer);
        let mut slots = BTreeMap::new();
        let mut lookups = Vec::new();
        for RecoveredSlot {
            id,
            after,
            attempts,
            payments,
            ended,
            preconfirmed,
        } in recovered.slots
        {
            self.known.extend(payments.iter().map(|queued| queued.id));
            self.queue.remove(&payments);
            let mut slot = OpenSlot::new(payments, attempts, Phase::Recovered, now_ms);
            slot.ended = ended;
            slot.after = after;
            // Whichever block is sealed next confirms it or takes it back.
            let next = self.ancestry.newest().unwrap_or_default();
            slot.preconfirmed = preconfirmed.map(|transaction| (next, transaction));
            lookups.push(id);
            slots.insert(id.nonce, slot);
        }
        let unfinal = recovered.unfinal.into_iter().map(Unfinal::recovered);
        let mut lane = Lane {
            fence,
            next_nonce: recovered.next_nonce,
            mode: recovered.mode,
            ordered: None,
            out_of_funds: false,
            chain_nonce: recovered.next_nonce,
            slots,
            unfinal: unfinal.collect(),
            unexplained: Watched::default(),
            explained: BTreeMap::new(),
            forming: None,
            resting_until_ms: 0,
            leaving_since: None,
            thawing: BTreeSet::new(),
            gap: Gap::No,
        };
        for payment in recovered.unexplained {
            let id = payment.queued.id;
            self.known.insert(id);
            self.queue.withdraw(id);
            lane.unexplained.insert(id, payment, now_ms);
        }
        self.lanes.insert(lane.signer(), lane);
        if recovered.mode == LaneMode::Thawing {
            self.begin_thaw(fence);
        } else {
            // Their bytes go out again whatever is found: whether one is mined is known the sooner.
            lookups.into_iter().for_each(|id| self.look_up(id, now_ms));
        }
        self.end_rescue(fence);
        self.check_unfinal(fence.signer);
    }

    /// Nothing that was thought of the lane is certain any more: the ledger says what is. Payments that are accepted
    /// are announced again by the shell.
    pub(super) fn on_lane_lost(&mut self, fence: FencedLane) {
        if self.lane_mut(fence).is_none() {
            return;
        }
        self.drop_lane(fence.signer);
        self.emit(Effect::ReclaimLane {
            signer: fence.signer,
        });
    }

    pub(super) fn drop_lane(&mut self, signer: Address) {
        let Some(lane) = self.lanes.remove(&signer) else {
            return;
        };
        let forming = lane
            .forming
            .into_iter()
            .flat_map(|forming| forming.payments);
        let in_slots = lane.slots.into_values().flat_map(|slot| slot.payments);
        let queued = forming.chain(in_slots).map(|queued| queued.id);
        let unexplained = lane.unexplained.iter().map(|(id, _)| id);
        let explained = lane.explained.keys().copied();
        for id in queued.chain(unexplained).chain(explained) {
            self.known.remove(&id);
        }
        let ending = self.ending.iter();
        let lost: Vec<SettlementId> = ending
            .filter(|(_, fence)| **fence == lane.fence)
            .map(|(id, _)| *id)
            .collect();
        self.forget(&lost);
    }

    pub(super) fn on_code_unread(&mut self, signer: Address, batch: u64, now_ms: u64) {
        let Some(lane) = self.lanes.get_mut(&signer) else {
            return;
        };
        let Some(forming) = lane
            .forming
            .take_if(|forming| forming.batch == batch && matches!(forming.stage, Stage::Reading))
        else {
            return;
        };
        lane.resting_until_ms = now_ms.saturating_add(UNREAD_PAUSE_MS);
        for queued in forming.payments {
            self.queue.push(queued, now_ms);
        }
    }

    /// A payer with code is never in a shared batch: he could burn the gas of all. Alone he may try, unless his call is
    /// seen to revert.
    pub(super) fn on_code_read(
        &mut self,
        signer: Address,
        batch: u64,
        with_code: &[SettlementId],
        refused: &[(SettlementId, Reason)],
        now_ms: u64,
    ) {
        let Some(lane) = self.lanes.get_mut(&signer) else {
            return;
        };
        let fence = lane.fence;
        let Some(forming) = lane
            .forming
            .as_mut()
            .filter(|forming| forming.batch == batch && matches!(forming.stage, Stage::Reading))
        else {
            return;
        };
        let shared = forming.payments.len() > 1;
        let ended: Vec<SettlementId> = refused.iter().map(|(id, _)| *id).collect();
        let mut apart: Vec<_> = forming
            .payments
            .extract_if(.., |queued| {
                (shared && with_code.contains(&queued.id)) || ended.contains(&queued.id)
            })
            .collect();
        apart.retain(|queued| !ended.contains(&queued.id));
        for mut queued in apart {
            queued.company = 1;
            self.queue.push(queued, now_ms);
        }
        if !refused.is_empty() {
            let detail = "the payer's account has code now, and the transfer reverts";
            let resolutions = refused.iter().map(|(id, reason)| {
                let state = SettlementState::Failed {
                    refusal: Refusal::new(*reason, detail),
                    transaction: None,
                };
                (*id, state)
            });
            self.resolve_accepted(fence, resolutions.collect());
        }
        self.sign_batch(fence, now_ms);
    }

    pub(super) fn on_payments_moved(
        &mut self,
        fence: FencedLane,
        id: SlotId,
        moved: &[SettlementId],
        now_ms: u64,
    ) {
        let Some(lane) = self.lane_mut(fence).filter(|lane| lane.awaits(id)) else {
            return;
        };
        if let Some(forming) = lane.forming.as_mut() {
            forming
                .payments
                .retain(|queued| !moved.contains(&queued.id));
        }
        self.forget(moved);
        self.sign_batch(fence, now_ms);
    }

    /// Asks for the signature of the lane's forming batch, if anything is left of it that can still be settled in time.
    pub(super) fn sign_batch(&mut self, fence: FencedLane, now_ms: u64) {
        let cutoff = self.cutoff(now_ms).unwrap_or_default();
        let in_time = self.rules.hold(Rule::DeadlineCutoff);
        let mut late = Vec::new();
        if let Some(forming) = self
            .lane_mut(fence)
            .and_then(|lane| lane.forming.as_mut())
            .filter(|_| in_time)
        {
            late = forming
                .payments
                .extract_if(.., |queued| queued.payment.valid_before() <= cutoff)
                .collect();
        }
        self.end_late(fence, &late);
        // Fees may have risen since the batch was formed: what is too dear now is formed anew.
        let budget = self.config.budgets.per_transaction;
        let limits = self.limits();
        let too_dear = self.is_too_dear();
        let (policy, purses) = (self.config.fees, &self.purses);
        let paying = self.lanes.get(&fence.signer);
        let pays = self.rules.hold(Rule::FundsFirst);
        let affords = |fees: &Fees, payments: &[Queued]| {
            let within = limits.within(budget, fees.max_fee_per_gas);
            let within = match paying {
                Some(lane) if pays => {
                    within.and_then(|within| purses.within(within, lane, *fees, &policy))
                }
                _ => within,
            };
            !too_dear && within.is_some_and(|within| within.admit(payments.len(), gas_of(payments)))
        };
        let forming = paying.and_then(|lane| lane.forming.as_ref());
        let affordable = forming.and_then(|forming| {
            let fees = self.initial_fees()?;
            affords(&fees, &forming.payments).then_some(fees)
        });
        let (draining, max_gas) = (self.draining, limits.max_gas);
        let ticket = self.next_ticket();
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let usable = lane.is_usable() && !draining;
        let Some(forming) = lane.forming.as_mut() else {
            return;
        };
        let (false, Some(fees), true) = (forming.payments.is_empty(), affordable, usable) else {
            return self.dissolve(fence, now_ms);
        };
        forming.stage = Stage::Signing(ticket);
        let payments = forming.payments.clone();
        let effect = Effect::Sign {
            fence,
            id: lane.slot_id(lane.next_nonce),
            ticket,
            gas_limit: gas_limit(&payments).min(max_gas),
            what: match payments.iter().find_map(Queued::top_up) {
                Some(top_up) => ToSign::TopUp(top_up),
                None => ToSign::Batch(payments),
            },
            fees,
        };
        self.emit(effect);
    }

    /// The lane was drained or stopped meanwhile, or is to be handed over: what was to be its next batch goes elsewhere,
    /// and what was signed for it is forgotten.
    fn dissolve(&mut self, fence: FencedLane, now_ms: u64) {
        let forming = self
            .lane_mut(fence)
            .and_then(|lane| lane.forming.take())
            .map(|forming| forming.payments);
        for queued in forming.unwrap_or_default() {
            self.queue.push(queued, now_ms);
        }
    }

    /// Signed bytes of a forming batch go into the ledger before anything else happens to them.
    pub(super) fn on_batch_signed(
        &mut self,
        fence: FencedLane,
        id: SlotId,
        ticket: u64,
        attempt: Attempt,
        now_ms: u64,
    ) {
        let early = !self.rules.hold(Rule::CommitBeforeSend);
        let draining = self.draining;
        let after = self.ancestry.newest();
        let Some(lane) = self.lane_mut(fence).filter(|lane| lane.awaits(id)) else {
            return;
        };
        if !lane.is_usable() || draining {
            return self.dissolve(fence, now_ms);
        }
        let Some(forming) = lane
            .forming
            .as_mut()
            .filter(|forming| matches!(forming.stage, Stage::Signing(asked) if asked == ticket))
        else {
            return;
        };
        forming.stage = Stage::Committing(attempt.clone());
        forming.after = after;
        let payments = forming.payments.iter().map(|queued| queued.id).collect();
        let top_up = forming.payments.iter().find_map(Queued::top_up);
        if early {
            self.emit(Effect::Broadcast {
                id,
                attempt: attempt.clone(),
                again: Again::First,
            });
        }
        self.emit(Effect::OpenSlot {
            fence,
            id,
            attempt,
            payments,
            top_up,
            after,
        });
    }

    pub(super) fn on_slot_opened(&mut self, fence: FencedLane, id: SlotId, now_ms: u64) {
        if self.on_gap_opened(fence, id, now_ms) {
            return;
        }
        let cutoff = self.cutoff(now_ms).unwrap_or_default();
        let parks = self.rules.hold(Rule::ExpiredBecomesNoOp);
        let Some(lane) = self.lane_mut(fence).filter(|lane| lane.awaits(id)) else {
            return;
        };
        let Some(Forming {
            mut payments,
            stage: Stage::Committing(attempt),
            after,
            ..
        }) = lane
            .forming
            .take_if(|forming| matches!(forming.stage, Stage::Committing(_)))
        else {
            return;
        };
        payments
            .iter_mut()
            .for_each(|queued| queued.tries = queued.tries.saturating_add(1));
        lane.next_nonce = id.nonce.next();
        let given = payments.clone();
        let dead = |queued: &Queued| queued.payment.valid_before() <= cutoff;
        let expired = parks && payments.iter().all(dead);
        let sent = Phase::Sent {
            acknowledged: false,
        };
        let mut slot = OpenSlot::new(payments, vec![attempt.clone()], sent, now_ms);
        slot.after = after;
        lane.slots.insert(id.nonce, slot);
        self.note_given(&given);
        self.judge_attempts(id);
        if expired {
            // Signing and committing took so long that nothing in it can be settled any more.
            return self.add_attempt(id, AttemptKind::NoOp);
        }
        self.emit(Effect::Broadcast {
            id,
            attempt,
            again: Again::First,
        });
    }
}
