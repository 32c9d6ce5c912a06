//! What happens to lanes and slots until something is mined; [`super::mined`] takes it from there.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use teller_domain::invariants::attempts_are_sound;
use teller_domain::{
    AccountNonce, Attempt, AttemptKind, FencedLane, SettlementId, SlotId, UnixSeconds,
};

use super::event::{Again, Certainty};
use super::lane::{Care, Forming, Lane, LaneState, OpenSlot, Phase};
use super::mined::payer_has_code;
use super::{Core, Effect, RecoveredLane, RecoveredSlot, Sent, gas_limit};

/// How long a lane rests after its payers could not be read.
const UNREAD_PAUSE_MS: u64 = 250;

/// Look-ups that must agree before a lane is frozen.
const FOREIGN_USE_WITNESSES: u32 = 2;

impl Core {
    pub(super) fn on_lane_claimed(&mut self, recovered: RecoveredLane, now_ms: u64) {
        self.drop_lane(recovered.fence.signer);
        let mut slots = BTreeMap::new();
        let mut lookups = Vec::new();
        for RecoveredSlot {
            id,
            attempts,
            payments,
        } in recovered.slots
        {
            self.known.extend(payments.iter().map(|queued| queued.id));
            self.queue.remove(&payments);
            let slot = OpenSlot::new(payments, attempts, Phase::Recovered, now_ms);
            lookups.push((id, slot.hashes()));
            slots.insert(id.nonce, slot);
        }
        let lane = Lane {
            fence: recovered.fence,
            next_nonce: recovered.next_nonce,
            state: LaneState::Active,
            slots,
            forming: None,
            resting_until_ms: 0,
        };
        self.lanes.insert(lane.signer(), lane);
        if !lookups.is_empty() {
            self.emit(Effect::FindReceipts {
                lookups,
                certainty: Certainty::Unknown,
            });
        }
    }

    /// Nothing that was thought of the lane is certain any more: the ledger says what is. Payments that are accepted
    /// are announced again by the shell.
    pub(super) fn on_lane_lost(&mut self, fence: FencedLane) {
        let signer = fence.signer;
        if self
            .lanes
            .get(&signer)
            .is_none_or(|lane| lane.fence != fence)
        {
            return;
        }
        self.drop_lane(signer);
        self.emit(Effect::ReclaimLane { signer });
    }

    fn drop_lane(&mut self, signer: Address) {
        let Some(lane) = self.lanes.remove(&signer) else {
            return;
        };
        let forming = lane
            .forming
            .into_iter()
            .flat_map(|forming| forming.payments);
        let in_slots = lane.slots.into_values().flat_map(|slot| slot.payments);
        for queued in forming.chain(in_slots) {
            self.known.remove(&queued.id);
        }
    }

    pub(super) fn on_code_unread(&mut self, signer: Address, batch: u64, now_ms: u64) {
        let Some(lane) = self.lanes.get_mut(&signer) else {
            return;
        };
        if lane
            .forming
            .as_ref()
            .is_none_or(|forming| forming.batch != batch)
        {
            return;
        }
        lane.resting_until_ms = now_ms.saturating_add(UNREAD_PAUSE_MS);
        let payments = lane
            .forming
            .take()
            .map(|forming| forming.payments)
            .unwrap_or_default();
        for queued in payments {
            self.queue.push(queued, now_ms);
        }
    }

    pub(super) fn on_code_read(
        &mut self,
        signer: Address,
        batch: u64,
        with_code: &[SettlementId],
        now_ms: u64,
    ) {
        let Some(lane) = self.lanes.get_mut(&signer) else {
            return;
        };
        let Some(forming) = lane
            .forming
            .as_mut()
            .filter(|forming| forming.batch == batch)
        else {
            return;
        };
        if !with_code.is_empty() {
            forming
                .payments
                .retain(|queued| !with_code.contains(&queued.id));
            let resolutions = with_code.iter().map(|id| (*id, payer_has_code())).collect();
            self.emit(Effect::ResolveAccepted(resolutions));
        }
        self.open_slot(signer, now_ms);
    }

    pub(super) fn on_payments_moved(
        &mut self,
        fence: FencedLane,
        id: SlotId,
        moved: &[SettlementId],
        now_ms: u64,
    ) {
        let Some(lane) = self
            .lanes
            .get_mut(&id.signer)
            .filter(|lane| lane.awaits(fence, id))
        else {
            return;
        };
        moved.iter().for_each(|payment| {
            self.known.remove(payment);
        });
        if let Some(forming) = lane.forming.as_mut() {
            forming
                .payments
                .retain(|queued| !moved.contains(&queued.id));
        }
        self.open_slot(id.signer, now_ms);
    }

    /// Asks for the slot of the lane's forming batch, if anything is left of it that can still be settled in time.
    fn open_slot(&mut self, signer: Address, now_ms: u64) {
        let cutoff = self
            .chain_time(now_ms)
            .unwrap_or_default()
            .plus(self.config.cutoff_seconds);
        let mut late = Vec::new();
        if let Some(forming) = self
            .lanes
            .get_mut(&signer)
            .and_then(|lane| lane.forming.as_mut())
        {
            late = forming
                .payments
                .extract_if(.., |queued| queued.payment.valid_before <= cutoff)
                .collect();
        }
        self.end_late(&late, false);
        let fees = self.initial_fees();
        let Some(lane) = self.lanes.get_mut(&signer) else {
            return;
        };
        let Some(forming) = &lane.forming else { return };
        let (false, Some(fees)) = (forming.payments.is_empty(), fees) else {
            lane.forming = None;
            return;
        };
        let effect = Effect::OpenSlot {
            fence: lane.fence,
            id: lane.slot_id(lane.next_nonce),
            gas_limit: gas_limit(forming.payments.len()).min(self.config.limits.max_gas),
            payments: forming.payments.clone(),
            fees,
        };
        self.emit(effect);
    }

    pub(super) fn on_slot_opened(
        &mut self,
        fence: FencedLane,
        id: SlotId,
        attempt: Attempt,
        now_ms: u64,
    ) {
        let Some(lane) = self
            .lanes
            .get_mut(&id.signer)
            .filter(|lane| lane.awaits(fence, id))
        else {
            return;
        };
        let Some(Forming { mut payments, .. }) = lane.forming.take() else {
            return;
        };
        payments
            .iter_mut()
            .for_each(|queued| queued.tries = queued.tries.saturating_add(1));
        lane.next_nonce = id.nonce.next();
        let slot = OpenSlot::new(
            payments,
            vec![attempt.clone()],
            Phase::Sent {
                acknowledged: false,
            },
            now_ms,
        );
        lane.slots.insert(id.nonce, slot);
        self.emit(Effect::Broadcast {
            id,
            attempt,
            again: Again::First,
        });
    }

    pub(super) fn on_attempt_added(&mut self, id: SlotId, attempt: Attempt, now_ms: u64) {
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        slot.attempts.push(attempt.clone());
        let (sound, unmined) = (attempts_are_sound(&slot.attempts), slot.is_unmined());
        self.unsound_attempts += u64::from(!sound);
        let Some(slot) = self.slot_mut(id).filter(|_| unmined) else {
            return;
        };
        slot.phase = Phase::Sent {
            acknowledged: false,
        };
        slot.broadcast_ms = now_ms;
        self.emit(Effect::Broadcast {
            id,
            attempt,
            again: Again::Outbid,
        });
    }

    pub(super) fn on_sent(&mut self, id: SlotId, hash: B256, outcome: Sent, now_ms: u64) {
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let Some(slot) = lane.slots.get_mut(&id.nonce) else {
            return;
        };
        if !matches!(slot.phase, Phase::Sent { .. }) {
            return;
        }
        match (&outcome, lane.state) {
            (Sent::InsufficientFunds, LaneState::Active) => lane.state = LaneState::OutOfFunds,
            (Sent::Accepted, LaneState::OutOfFunds) => lane.state = LaneState::Active,
            _ => {}
        }
        let newest = slot
            .attempts
            .last()
            .is_some_and(|newest| newest.hash == hash);
        match outcome {
            Sent::Accepted => slot.phase = Phase::Sent { acknowledged: true },
            Sent::NonceTooLow => {
                slot.lookup_ms = now_ms;
                let lookups = vec![(id, slot.hashes())];
                self.emit(Effect::FindReceipts {
                    lookups,
                    certainty: Certainty::Unknown,
                });
            }
            Sent::Underpriced => slot.underpriced |= newest,
            Sent::GasTooHigh => {
                let half = slot.payments.len() / 2;
                slot.payments
                    .iter_mut()
                    .for_each(|queued| queued.company = half.max(1));
                self.add_attempt(id, AttemptKind::NoOp);
            }
            Sent::InsufficientFunds | Sent::Unknown => {}
        }
    }

    /// Commits a further attempt that outbids the newest, unless the operator's ceiling forbids it.
    fn add_attempt(&mut self, id: SlotId, kind: AttemptKind) {
        let (config, tip) = (self.config, self.tip);
        let base_fee = self.head.map_or(0, |head| head.base_fee);
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let fence = lane.fence;
        let Some(slot) = lane.slots.get_mut(&id.nonce) else {
            return;
        };
        let (Some(original), Some(newest)) = (slot.attempts.first().cloned(), slot.attempts.last())
        else {
            return;
        };
        let policy = match kind {
            AttemptKind::Batch => config.fees,
            // A gap in the nonces stops the whole lane: closing it is worth 21,000 gas at any price.
            AttemptKind::NoOp => config.fees.without_ceiling(),
        };
        let Some(fees) = policy.replacement(newest.fees, base_fee, tip) else {
            return;
        };
        slot.phase = Phase::Adding;
        slot.underpriced = false;
        self.emit(Effect::AddAttempt {
            fence,
            id,
            kind,
            fees,
            original,
        });
    }

    pub(super) fn on_not_found(&mut self, id: SlotId, sealed_nonce: AccountNonce, now_ms: u64) {
        let cutoff = self.cutoff();
        let interval = self.config.block_interval_ms;
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let Some(slot) = lane
            .slots
            .get_mut(&id.nonce)
            .filter(|slot| slot.is_unmined())
        else {
            return;
        };
        if sealed_nonce > id.nonce {
            let apart =
                slot.foreign_uses == 0 || now_ms.saturating_sub(slot.foreign_use_ms) >= interval;
            if apart {
                slot.foreign_uses += 1;
                slot.foreign_use_ms = now_ms;
            }
            if slot.foreign_uses >= FOREIGN_USE_WITNESSES && lane.state != LaneState::Frozen {
                lane.state = LaneState::Frozen;
                self.emit(Effect::LaneFrozen {
                    signer: id.signer,
                    id,
                });
            }
            return;
        }
        slot.foreign_uses = 0;
        if !matches!(slot.phase, Phase::Recovered) {
            return;
        }
        let expired = slot
            .payments
            .iter()
            .all(|queued| queued.payment.valid_before <= cutoff);
        if expired && !slot.is_parked() {
            self.add_attempt(id, AttemptKind::NoOp);
        } else if let Some(attempt) = slot.attempts.last().cloned() {
            slot.phase = Phase::Sent {
                acknowledged: false,
            };
            slot.broadcast_ms = now_ms;
            self.emit(Effect::Broadcast {
                id,
                attempt,
                again: Again::Repeat,
            });
        }
    }

    /// Sends again, outbids, looks up and parks, as each slot's time comes. A frozen lane is only looked up.
    pub(super) fn attend_slots(&mut self, now_ms: u64) {
        let interval = self.config.block_interval_ms;
        let mut care = Vec::new();
        for lane in self.lanes.values_mut() {
            let frozen = lane.state == LaneState::Frozen;
            let (chain, signer) = (lane.fence.chain, lane.fence.signer);
            let unmined = lane.slots.iter_mut().filter(|(_, slot)| slot.is_unmined());
            for (place, (nonce, slot)) in unmined.enumerate() {
                let id = SlotId {
                    chain,
                    signer,
                    nonce: *nonce,
                };
                let needed = slot.attend(place == 0, frozen, interval, now_ms);
                care.extend(needed.into_iter().map(|needed| (id, needed)));
            }
        }
        for (id, care) in care {
            match care {
                Care::LookUp(hashes) => {
                    let lookups = vec![(id, hashes)];
                    self.emit(Effect::FindReceipts {
                        lookups,
                        certainty: Certainty::Unknown,
                    });
                }
                Care::Rebroadcast(attempt) => self.emit(Effect::Broadcast {
                    id,
                    attempt,
                    again: Again::Repeat,
                }),
                Care::Add(kind) => self.add_attempt(id, kind),
            }
        }
    }

    pub(super) fn cutoff(&self) -> UnixSeconds {
        self.head
            .map(|head| head.timestamp.plus(self.config.cutoff_seconds))
            .unwrap_or_default()
    }

    pub(super) fn slot_mut(&mut self, id: SlotId) -> Option<&mut OpenSlot> {
        self.lanes.get_mut(&id.signer)?.slots.get_mut(&id.nonce)
    }
}
