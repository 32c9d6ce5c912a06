//! What happens to open slots until something is mined in them: sending, outbidding, parking, looking up.

use teller_domain::invariants::attempts_are_sound;
use teller_domain::{
    Attempt, AttemptKind, Fees, FencedLane, LaneMode, Reason, Refusal, Resolution, SettlementState,
    SlotEnd, SlotId,
};

use super::ancestry::Standing;
use super::lane::{Adding, Care, Ending, OpenSlot, Phase, Surroundings};
use super::rules::Rule;
use super::{Again, Core, Effect, Place, Sent, Sighting, ToSign};

/// Looks, at least a block interval apart, that must agree before a lane is frozen.
const FOREIGN_USE_LOOKS: u32 = 2;

/// So many more where it cannot be told whether the nonce was used before its slot was opened.
const UNSURE_LOOKS: u32 = 8;

/// Endpoints that must agree on a foreign use, where so many are configured.
pub(super) const WITNESSES: usize = 2;

impl Core {
    pub(super) fn on_signed(
        &mut self,
        fence: FencedLane,
        id: SlotId,
        ticket: u64,
        attempt: Attempt,
        now_ms: u64,
    ) {
        if self.on_gap_signed(fence, id, &attempt) {
            return;
        }
        let adds = self.lane_mut(fence).and_then(|lane| {
            let slot = lane.slots.get_mut(&id.nonce)?;
            matches!(slot.adding, Adding::Signing(asked) if asked == ticket).then_some(slot)
        });
        let Some(slot) = adds else {
            return self.on_batch_signed(fence, id, ticket, attempt, now_ms);
        };
        slot.adding = Adding::Committing(attempt.clone());
        if !self.rules.hold(Rule::CommitBeforeSend) {
            self.emit(Effect::Broadcast {
                id,
                attempt: attempt.clone(),
                again: Again::Outbid,
            });
        }
        self.emit(Effect::AddAttempt { fence, id, attempt });
    }

    pub(super) fn on_attempt_added(&mut self, fence: FencedLane, id: SlotId, now_ms: u64) {
        let Some(slot) = self
            .lane_mut(fence)
            .and_then(|lane| lane.slots.get_mut(&id.nonce))
        else {
            return;
        };
        let Adding::Committing(attempt) = std::mem::replace(&mut slot.adding, Adding::No) else {
            return;
        };
        slot.attempts.push(attempt.clone());
        let sends = slot.is_unmined() && !matches!(slot.phase, Phase::Verifying { .. });
        if sends {
            slot.phase = Phase::Sent {
                acknowledged: false,
            };
            slot.broadcast_ms = now_ms;
        }
        self.judge_attempts(id);
        if sends {
            self.emit(Effect::Broadcast {
                id,
                attempt,
                again: Again::Outbid,
            });
        }
    }

    pub(super) fn judge_attempts(&mut self, id: SlotId) {
        let sound = self
            .slot_mut(id)
            .is_none_or(|slot| attempts_are_sound(&slot.attempts));
        self.unsound_attempts += u64::from(!sound);
    }

    pub(super) fn on_sent(
        &mut self,
        id: SlotId,
        hash: alloy_primitives::B256,
        outcome: Sent,
        now_ms: u64,
    ) {
        let lenient = self.rules.hold(Rule::UnknownIsNotFailed);
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let Some(slot) = lane
            .slots
            .get_mut(&id.nonce)
            .filter(|slot| matches!(slot.phase, Phase::Sent { .. }))
        else {
            return;
        };
        // What is too much to give is not given: a lane does not stop for it, and its batches need less.
        let gives = slot.tops_up() && !slot.is_parked();
        // What nobody takes of a slot's first bytes is for another lane: a no-op costs less.
        let gives_up = !slot.is_parked() && slot.attempts.len() == 1;
        let newest = slot
            .attempts
            .last()
            .is_some_and(|newest| newest.hash == hash);
        match outcome {
            Sent::Accepted => slot.phase = Phase::Sent { acknowledged: true },
            Sent::NonceTooLow => self.look_up(id, now_ms),
            Sent::Underpriced => slot.underpriced |= newest,
            Sent::GasTooHigh => {
                let half = slot.payments.len() / 2;
                slot.payments
                    .iter_mut()
                    .for_each(|queued| queued.company = half.max(1));
                self.add_attempt(id, AttemptKind::NoOp);
            }
            Sent::Unknown if !lenient => self.abandon(id, |_| {
                Resolution::Resolved(SettlementState::Failed {
                    refusal: Refusal::new(Reason::TransactionFailed, "not sent"),
                    transaction: None,
                })
            }),
            Sent::InsufficientFunds => {
                if !gives {
                    self.purses.refuse(id, now_ms);
                }
                if gives || gives_up {
                    self.add_attempt(id, AttemptKind::NoOp);
                }
            }
            Sent::Unknown => {}
        }
    }

    /// Closes a slot without evidence: what the engine never does, and a broken rule of a test would.
    fn abandon(&mut self, id: SlotId, resolve: impl Fn(&super::Queued) -> Resolution) {
        let Some(block) = self.ancestry.newest() else {
            return;
        };
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let payments = slot.payments.iter();
        let resolutions = payments
            .map(|queued| (queued.id, resolve(queued)))
            .collect();
        let end = Ending {
            end: SlotEnd::Foreign,
            block,
            carried: false,
            succeeded: false,
        };
        self.close_slot(id, &end, resolutions, Vec::new());
    }

    /// Asks for a further attempt that outbids the newest, unless the operator's ceiling forbids it.
    pub(super) fn add_attempt(&mut self, id: SlotId, kind: AttemptKind) {
        let (fees, tip) = (self.config.fees, self.tip);
        let budget = self.config.budgets.per_transaction;
        let base_fee = self.head.map_or(0, |head| head.base_fee);
        let eighth = self.rules.hold(Rule::OutbidByAnEighth);
        let same = self.rules.hold(Rule::SameCalldata);
        let ticket = self.next_ticket();
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let fence = lane.fence;
        let Some(slot) = lane
            .slots
            .get_mut(&id.nonce)
            .filter(|slot| matches!(slot.adding, Adding::No))
        else {
            return;
        };
        let (Some(original), Some(newest)) = (slot.attempts.first().cloned(), slot.attempts.last())
        else {
            return;
        };
        // Failure may have been told for what has ended: new bytes must not carry it, so the batch is given up.
        let kind = match slot.ended.is_empty() {
            true => kind,
            false => AttemptKind::NoOp,
        };
        let policy = match kind {
            AttemptKind::Batch | AttemptKind::TopUp => fees,
            // A gap in the nonces stops the whole lane: closing it is worth 21,000 gas at any price.
            AttemptKind::NoOp => fees.without_ceiling(),
        };
        let Some(mut fees) = policy.replacement(newest.fees, base_fee, tip) else {
            return;
        };
        let enough = fees_in_plenty(&policy, newest.fees, base_fee, tip);
        if slot.is_parked() && (enough || lane.out_of_funds) {
            // It outbids the market by far already: what keeps it back is not its price.
            return;
        }
        let gives = slot.payments.iter().find_map(super::Queued::top_up);
        let gives = gives.map_or(alloy_primitives::U256::ZERO, |top_up| top_up.value.0);
        let dear = budget.is_some_and(|budget| {
            let cost = alloy_primitives::U256::from(fees.max_fee_per_gas)
                .saturating_mul(alloy_primitives::U256::from(original.gas_limit))
                .saturating_add(gives);
            cost > budget.0
        });
        if kind != AttemptKind::NoOp && dear {
            return;
        }
        if !eighth {
            fees = raised_too_little(newest.fees);
        }
        slot.adding = Adding::Signing(ticket);
        slot.underpriced = false;
        let gas_limit = original.gas_limit;
        let what = match kind {
            AttemptKind::NoOp => ToSign::NoOp,
            AttemptKind::Batch | AttemptKind::TopUp if same => ToSign::Outbid(original),
            AttemptKind::Batch | AttemptKind::TopUp => {
                ToSign::Batch(slot.payments.iter().skip(1).cloned().collect())
            }
        };
        self.emit(Effect::Sign {
            fence,
            id,
            ticket,
            what,
            gas_limit,
            fees,
        });
        if kind == AttemptKind::NoOp && !self.rules.hold(Rule::ReleaseOnClose) {
            self.abandon(id, |_| Resolution::Requeued);
        }
    }

    /// Asks every endpoint about a slot.
    pub(super) fn look_up(&mut self, id: SlotId, now_ms: u64) {
        let all = self.rules.hold(Rule::AllHashes);
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        slot.lookup_ms = now_ms;
        let mut hashes = slot.hashes();
        if !all {
            hashes = hashes.pop().into_iter().collect();
        }
        let then = slot.after.filter(|_| slot.foreign_uses > 0);
        self.emit(Effect::LookUp { id, hashes, then });
    }

    pub(super) fn on_looked_up(
        &mut self,
        id: SlotId,
        asked: usize,
        sightings: Vec<Sighting>,
        endpoints: usize,
        now_ms: u64,
    ) {
        let complete = asked >= self.slot_mut(id).map_or(0, |slot| slot.attempts.len())
            || !self.rules.hold(Rule::AllHashes);
        let careful = self.rules.hold(Rule::TwoWitnesses);
        let mined: Vec<_> = sightings
            .iter()
            .filter_map(|sighting| sighting.mined.clone())
            .collect();
        for mined in mined {
            self.on_found(id, mined, now_ms);
        }
        if self.slot_mut(id).is_none_or(|slot| !slot.is_unmined()) {
            return;
        }
        let vanished = !sightings.is_empty() && sightings.iter().all(|seen| seen.mined.is_none());
        if let Some(slot) = self.slot_mut(id).filter(|_| vanished)
            && matches!(slot.phase, Phase::Verifying { .. })
        {
            // The receipt that was to be verified is nowhere any more.
            slot.phase = Phase::Recovered;
        }
        self.notice_gap(id, &sightings, endpoints, now_ms);
        let mut passed = sightings
            .iter()
            .filter(|sighting| sighting.sealed_nonce > id.nonce)
            .peekable();
        let searched_only = self.rules.hold(Rule::SearchedOnly);
        let searched = |sighting: &Sighting| sighting.searched || !searched_only;
        if passed.peek().is_none() {
            if !sightings.is_empty() {
                self.on_still_open(id);
            }
            if !self.rules.hold(Rule::SendUnasked) && sightings.iter().any(|seen| seen.searched) {
                self.resume(id, now_ms);
            }
            return;
        }
        let unknown = |sighting: &&Sighting| {
            !sighting.known && sighting.mined.is_none() && searched(sighting)
        };
        let witnesses = passed.filter(unknown).count();
        let contradicted = sightings.iter().any(|sighting| !unknown(&sighting));
        let enough = if careful {
            witnesses >= WITNESSES.min(endpoints) && !contradicted
        } else {
            witnesses > 0
        };
        if enough && complete {
            // A slot is closed only by a block that is sealed and canonical here: one that a node alone has seen may be
            // left by the chain without this core ever hearing of it.
            let passed = sightings
                .iter()
                .filter(|sighting| sighting.sealed_nonce > id.nonce);
            let newest = passed
                .clone()
                .map(|sighting| sighting.sealed)
                .filter(|block| self.ancestry.standing(*block) == Standing::Sealed)
                .max_by_key(|block| block.number);
            let reached = passed.map(|sighting| sighting.sealed_nonce).max();
            if let (Some(lane), Some(reached)) = (self.lanes.get_mut(&id.signer), reached) {
                lane.chain_nonce = lane.chain_nonce.max(reached);
            }
            let used_before = self.was_used_before(id, &sightings, endpoints);
            self.on_foreign_use(id, newest, used_before, now_ms);
        }
    }

    /// Whether the nonce had been used before the slot was in the ledger; `None` where that cannot be told yet.
    fn was_used_before(
        &mut self,
        id: SlotId,
        sightings: &[Sighting],
        endpoints: usize,
    ) -> Option<bool> {
        let known = self.slot_mut(id).is_some_and(|slot| slot.after.is_some());
        if !known || !self.rules.hold(Rule::UsedBefore) {
            return Some(false);
        }
        let then = sightings.iter().filter_map(|seen| seen.nonce_then);
        if then.clone().any(|nonce| nonce <= id.nonce) {
            return Some(false);
        }
        (then.count() >= WITNESSES.min(endpoints)).then_some(true)
    }

    /// The nonce is open, and nothing of the slot is mined.
    fn on_still_open(&mut self, id: SlotId) {
        if let Some(slot) = self.slot_mut(id) {
            slot.foreign_uses = 0;
            self.thawed(id);
        }
    }

    /// Sends the bytes of slots again that were recovered from the ledger: whether they were sent before changes nothing.
    pub(super) fn resume_slots(&mut self, now_ms: u64) {
        if !self.rules.hold(Rule::SendUnasked) {
            return;
        }
        let mut recovered = Vec::new();
        for lane in self.lanes.values() {
            let slots = lane.slots.iter();
            let slots = slots.filter(|(_, slot)| matches!(slot.phase, Phase::Recovered));
            recovered.extend(slots.map(|(nonce, _)| lane.slot_id(*nonce)));
        }
        for id in recovered {
            self.resume(id, now_ms);
        }
    }

    fn resume(&mut self, id: SlotId, now_ms: u64) {
        let parks = self.rules.hold(Rule::ExpiredBecomesNoOp);
        // Before the first block nobody knows whether what may never have been sent is still in time.
        let Some(cutoff) = self.cutoff(now_ms) else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let stopped = matches!(lane.mode, LaneMode::Frozen | LaneMode::Thawing);
        let recovered = |slot: &&mut OpenSlot| matches!(slot.phase, Phase::Recovered);
        // Until its lane goes on, nobody knows whether what may never have been sent is still in time by then.
        let Some(slot) = lane
            .slots
            .get_mut(&id.nonce)
            .filter(recovered)
            .filter(|_| !stopped)
        else {
            return;
        };
        slot.phase = Phase::Sent {
            acknowledged: false,
        };
        slot.broadcast_ms = now_ms;
        let dead = |queued: &super::Queued| queued.payment.valid_before() <= cutoff;
        // A payment that has gone on since its payer was topped up needs that as much as before the reorg.
        let expired = match slot.tops_up() && slot.payments.is_empty() {
            true => false,
            false => slot.payments.iter().all(dead),
        };
        let (parked, newest) = (slot.is_parked(), slot.attempts.last().cloned());
        match newest {
            _ if expired && !parked && parks => self.add_attempt(id, AttemptKind::NoOp),
            Some(attempt) => self.emit(Effect::Broadcast {
                id,
                attempt,
                again: Again::Repeat,
            }),
            None => {}
        }
    }

    /// The nonce has passed and nobody knows any of the slot's hashes. That a nonce was used before the slot was in the
    /// ledger, as by a node that was behind when the lane adopted it, says nothing against whoever has the key.
    fn on_foreign_use(
        &mut self,
        id: SlotId,
        block: Option<teller_domain::BlockRef>,
        used_before: Option<bool>,
        now_ms: u64,
    ) {
        let interval = self.config.block_interval_ms;
        let careful = self.rules.hold(Rule::TwoWitnesses);
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let (fence, mode) = (lane.fence, lane.mode);
        let Some(slot) = lane.slots.get_mut(&id.nonce) else {
            return;
        };
        let apart =
            slot.foreign_uses == 0 || now_ms.saturating_sub(slot.foreign_use_ms) >= interval;
        if apart {
            slot.foreign_uses += 1;
            slot.foreign_use_ms = now_ms;
        }
        let looks = match used_before {
            Some(_) => FOREIGN_USE_LOOKS,
            None => FOREIGN_USE_LOOKS + UNSURE_LOOKS,
        };
        if careful && slot.foreign_uses < looks {
            return;
        }
        let goes_on = used_before == Some(true);
        match (mode, block) {
            (LaneMode::Thawing, Some(block)) => self.close_foreign(id, block, now_ms),
            (LaneMode::Frozen | LaneMode::Thawing, _) => {}
            (_, Some(block)) if goes_on => {
                tracing::warn!(slot = %id, "the nonce was used before the slot was opened: the lane was behind the chain and goes on with what that has reached");
                self.close_foreign(id, block, now_ms);
            }
            (_, None) if goes_on => {}
            (LaneMode::Active | LaneMode::Draining | LaneMode::Rescuing, _) => {
                self.set_mode(fence, LaneMode::Frozen, Some(id));
            }
        }
    }

    /// Sends again, outbids, looks up and parks, as each slot's time comes. A frozen lane is only looked up.
    pub(super) fn attend_slots(&mut self, now_ms: u64) {
        let (interval, flashblocks) = (self.config.block_interval_ms, self.config.flashblocks);
        let parks = self.rules.hold(Rule::ParkStalled);
        let mut care = Vec::new();
        for lane in self.lanes.values_mut() {
            let (chain, signer, mode) = (lane.fence.chain, lane.fence.signer, lane.mode);
            let unmined = lane.slots.iter_mut().filter(|(_, slot)| slot.is_unmined());
            for (place, (nonce, slot)) in unmined.enumerate() {
                let id = SlotId {
                    chain,
                    signer,
                    nonce: *nonce,
                };
                let around = Surroundings {
                    heads_lane: place == 0,
                    mode,
                    flashblocks,
                    interval,
                    now_ms,
                };
                let parked = slot.is_parked();
                let needed = slot.attend(around).into_iter().filter(|needed| {
                    parks || parked || !matches!(needed, Care::Add(AttemptKind::NoOp))
                });
                care.extend(needed.map(|needed| (id, needed)));
            }
        }
        let mut glances = Vec::new();
        for (id, care) in care {
            match care {
                Care::LookUp => self.look_up(id, now_ms),
                Care::Glance => glances.extend(self.slot_mut(id).map(|slot| (id, slot.hashes()))),
                Care::Rebroadcast(attempt) => self.emit(Effect::Broadcast {
                    id,
                    attempt,
                    again: Again::Repeat,
                }),
                Care::Add(kind) => self.add_attempt(id, kind),
            }
        }
        if !glances.is_empty() {
            self.emit(Effect::FindReceipts {
                lookups: glances,
                place: Place::Flashblock,
            });
        }
    }

    pub(super) fn slot_mut(&mut self, id: SlotId) -> Option<&mut OpenSlot> {
        self.lanes.get_mut(&id.signer)?.slots.get_mut(&id.nonce)
    }
}

/// A no-op that offers so many times what a first attempt would is not outbid any more.
const PLENTY: u128 = 8;

fn fees_in_plenty(
    policy: &teller_chain::FeePolicy,
    newest: Fees,
    base_fee: u128,
    tip: u128,
) -> bool {
    let fresh = policy.initial(base_fee, tip);
    newest.max_fee_per_gas >= fresh.max_fee_per_gas.saturating_mul(PLENTY)
        && newest.max_priority_fee_per_gas >= fresh.max_priority_fee_per_gas
}

/// What a replacement must not pay: nodes refuse it.
fn raised_too_little(old: Fees) -> Fees {
    let raise = |fee: u128| fee + fee / 20 + 1;
    Fees {
        max_fee_per_gas: raise(old.max_fee_per_gas),
        max_priority_fee_per_gas: raise(old.max_priority_fee_per_gas),
    }
}
