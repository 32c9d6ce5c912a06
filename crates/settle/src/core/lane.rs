//! Lanes: one signer's sequence of slots, and the care of each slot until it closes.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use teller_chain::FeePolicy;
use teller_domain::invariants::attempts_are_sound;
use teller_domain::{
    AccountNonce, Attempt, AttemptKind, FencedLane, Resolution, SettlementId, SlotId, UnixSeconds,
};
use teller_store::SlotClosure;

use super::batch::Room;
use super::event::{Again, Certainty};
use super::mined::{explain, settled};
use super::{
    Core, Effect, Finding, Mined, Outcomes, Queued, RecoveredLane, RecoveredSlot, Sent, gas_limit,
};

/// When a slot that is not mined is acted on, counted in block intervals since it headed its lane.
pub struct Schedule;

impl Schedule {
    /// Send the same bytes again, every so often.
    pub const REBROADCAST: u64 = 1;
    /// Look for every hash, every so often: a block may have been missed.
    pub const LOOK_UP: u64 = 3;
    /// Outbid the attempts so far.
    pub const REPLACE: [u64; 3] = [3, 6, 12];
    /// Give the batch up: a no-op takes the nonce.
    pub const PARK: u64 = 15;
    /// Outbid the no-op, every so often from then on.
    pub const REPLACE_PARKED: u64 = 6;
}

/// How long a lane rests after its payers could not be read.
const UNREAD_PAUSE_MS: u64 = 250;

/// Look-ups that must agree before a lane is frozen.
const FOREIGN_USE_WITNESSES: u32 = 2;

/// Whether a lane may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneState {
    /// It may.
    Active,
    /// The signer has too little for gas; open slots are kept and sent again.
    OutOfFunds,
    /// Somebody else has used the key. An operator must look.
    Frozen,
}

/// A batch that has no slot yet.
#[derive(Debug)]
struct Forming {
    batch: u64,
    payments: Vec<Queued>,
}

/// How far an open slot is.
#[derive(Debug)]
enum Phase {
    /// Committed; a look-up must tell whether it was sent before.
    Recovered,
    /// On its way.
    Sent { acknowledged: bool },
    /// A further attempt is being committed.
    Adding,
    /// Mined; some payments need explaining.
    Investigating {
        mined: Mined,
        settled: Vec<(SettlementId, u64)>,
    },
    /// Its end is being committed; these are queued again then.
    Closing { requeue: Vec<Queued> },
}

#[derive(Debug)]
struct OpenSlot {
    payments: Vec<Queued>,
    attempts: Vec<Attempt>,
    phase: Phase,
    opened_ms: u64,
    /// Since when it is the lowest open slot, once it is.
    heading_since_ms: Option<u64>,
    broadcast_ms: u64,
    lookup_ms: u64,
    replacements: u64,
    /// A node says that another transaction of this slot pays as much: outbid, at most once a block.
    underpriced: bool,
    foreign_uses: u32,
    foreign_use_ms: u64,
}

impl OpenSlot {
    fn new(payments: Vec<Queued>, attempts: Vec<Attempt>, phase: Phase, now_ms: u64) -> Self {
        Self {
            payments,
            attempts,
            phase,
            opened_ms: now_ms,
            heading_since_ms: None,
            broadcast_ms: now_ms,
            lookup_ms: now_ms,
            replacements: 0,
            underpriced: false,
            foreign_uses: 0,
            foreign_use_ms: now_ms,
        }
    }

    fn hashes(&self) -> Vec<B256> {
        self.attempts.iter().map(|attempt| attempt.hash).collect()
    }

    fn is_unmined(&self) -> bool {
        matches!(
            self.phase,
            Phase::Recovered | Phase::Sent { .. } | Phase::Adding
        )
    }

    fn is_parked(&self) -> bool {
        self.attempts
            .last()
            .is_some_and(|attempt| attempt.kind == AttemptKind::NoOp)
    }
}

/// One signer's sequence of slots.
#[derive(Debug)]
pub struct Lane {
    fence: FencedLane,
    next_nonce: AccountNonce,
    state: LaneState,
    slots: BTreeMap<AccountNonce, OpenSlot>,
    forming: Option<Forming>,
    resting_until_ms: u64,
}

impl Lane {
    /// The signer.
    pub fn signer(&self) -> Address {
        self.fence.signer
    }

    /// Whether it may be used.
    pub fn state(&self) -> LaneState {
        self.state
    }

    /// How many slots are open.
    pub fn open_slots(&self) -> usize {
        self.slots.len()
    }

    /// When the oldest open slot was opened.
    pub fn oldest_open_ms(&self) -> Option<u64> {
        self.slots.values().map(|slot| slot.opened_ms).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.forming.is_none()
    }

    /// Whether the lane can take a batch now, and whether it is otherwise idle.
    pub(super) fn room(&self, depth: usize, now_ms: u64) -> Option<Room> {
        let usable = self.state == LaneState::Active
            && self.forming.is_none()
            && now_ms >= self.resting_until_ms;
        if !usable || self.slots.len() >= depth {
            return None;
        }
        Some(if self.slots.is_empty() {
            Room::Idle
        } else {
            Room::Busy
        })
    }

    pub(super) fn start_forming(&mut self, batch: u64, payments: Vec<Queued>) {
        self.forming = Some(Forming { batch, payments });
    }

    pub(super) fn attempts_in(&self, transactions: &[B256]) -> Vec<(SlotId, Vec<B256>)> {
        let mut found = Vec::new();
        for (nonce, slot) in self.slots.iter().filter(|(_, slot)| slot.is_unmined()) {
            let mined = slot
                .attempts
                .iter()
                .map(|attempt| attempt.hash)
                .find(|hash| transactions.contains(hash));
            found.extend(mined.map(|hash| (self.slot_id(*nonce), vec![hash])));
        }
        found
    }

    /// Whether this slot, under this holding, is what the lane's forming batch waits for.
    fn awaits(&self, fence: FencedLane, id: SlotId) -> bool {
        self.fence == fence && self.next_nonce == id.nonce && self.forming.is_some()
    }

    fn slot_id(&self, nonce: AccountNonce) -> SlotId {
        SlotId {
            chain: self.fence.chain,
            signer: self.fence.signer,
            nonce,
        }
    }
}

/// What [`Core::attend_slots`] decides for a slot.
enum Care {
    LookUp(Vec<B256>),
    Rebroadcast(Attempt),
    Add(AttemptKind),
}

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
            let resolutions = with_code
                .iter()
                .map(|id| (*id, super::mined::payer_has_code()))
                .collect();
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
            AttemptKind::NoOp => FeePolicy {
                max_fee_ceiling: None,
                ..config.fees
            },
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

    fn cutoff(&self) -> UnixSeconds {
        self.head
            .map(|head| head.timestamp.plus(self.config.cutoff_seconds))
            .unwrap_or_default()
    }

    fn slot_mut(&mut self, id: SlotId) -> Option<&mut OpenSlot> {
        self.lanes.get_mut(&id.signer)?.slots.get_mut(&id.nonce)
    }
}

impl OpenSlot {
    fn attend(&mut self, heads_lane: bool, frozen: bool, interval: u64, now_ms: u64) -> Vec<Care> {
        let since = |then: u64| now_ms.saturating_sub(then);
        let mut care = Vec::new();
        if (heads_lane || frozen) && since(self.lookup_ms) >= Schedule::LOOK_UP * interval {
            self.lookup_ms = now_ms;
            care.push(Care::LookUp(self.hashes()));
        }
        let Phase::Sent { acknowledged } = self.phase else {
            return care;
        };
        if frozen {
            return care;
        }
        let heading_since = match self.heading_since_ms {
            Some(since) => since,
            None if heads_lane => *self.heading_since_ms.insert(now_ms),
            None => now_ms,
        };
        let age = since(heading_since) / interval.max(1);
        if let Some(kind) = self.due_attempt(age, since(self.broadcast_ms) >= interval) {
            self.replacements += 1;
            care.push(Care::Add(kind));
            return care;
        }
        let may_be_lost = !acknowledged || heads_lane;
        if may_be_lost
            && since(self.broadcast_ms) >= Schedule::REBROADCAST * interval + interval / 2
        {
            self.broadcast_ms = now_ms;
            care.extend(self.attempts.last().cloned().map(Care::Rebroadcast));
        }
        care
    }

    /// The further attempt that is due at this age in block intervals, if one is.
    fn due_attempt(&self, age: u64, rested: bool) -> Option<AttemptKind> {
        let same = if self.is_parked() {
            AttemptKind::NoOp
        } else {
            AttemptKind::Batch
        };
        if self.underpriced && rested && age < Schedule::PARK {
            return Some(same);
        }
        let made = usize::try_from(self.replacements).unwrap_or(usize::MAX);
        match Schedule::REPLACE.get(made) {
            Some(due) if age < Schedule::PARK => (age >= *due).then_some(same),
            _ => {
                let further = self
                    .replacements
                    .saturating_sub(Schedule::REPLACE.len() as u64);
                let parked = u64::from(self.is_parked()) * further.max(1);
                (age >= Schedule::PARK + parked * Schedule::REPLACE_PARKED)
                    .then_some(AttemptKind::NoOp)
            }
        }
    }
}
