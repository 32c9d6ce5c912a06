//! What the shell of a process does beside effects: it takes lanes, keeps their leases, and asks for accepted payments.

use std::sync::Arc;

use alloy_primitives::Address;
use teller_domain::{AccountNonce, FencedLane, LaneMode, ProcessId, SettlementId, SettlementState};
use teller_store::{Ledger, StoreError, Wanted};

use super::shell::{PATIENT_TRIES, RETRY_MS};
use super::world::{FOR_EVER_MS, Job, World};
use crate::core::{Effect, Event, Queued, RecoveredLane, RecoveredSlot, Unexplained};

/// Lanes are handed over in one of so many seeds: the others show what becomes of them where they stay.
const HAND_OVER_SEEDS: u64 = 4;
/// How often of a thousand times a process that looks after its lanes is told to hand one over.
const HAND_OVERS: u64 = 20;

impl World<'_> {
    /// Takes a lane, with what is open on it; tries again until this process has it.
    pub fn claim(&mut self, p: usize, signer: Address) {
        if self.processes[p].draining {
            return;
        }
        let again = |world: &mut Self| {
            let jitter = world.rng.below(300);
            world.schedule(RETRY_MS + jitter, Job::Claim(p, signer));
        };
        // Asked twice: one of the two may be told an old one.
        let asked = [self.some_endpoint(), self.some_endpoint()];
        let [Some(first), Some(second)] = asked else {
            return again(self);
        };
        let sealed = self.told_nonce(first, signer);
        let sealed = sealed.max(self.told_nonce(second, signer));
        let (ledger, owner) = (Arc::clone(&self.stage.ledger), self.processes[p].id);
        let signers = self.signers.len() as u64;
        let written =
            self.write(ledger.claim_lane(self.chain_id, signer, owner, signers, FOR_EVER_MS));
        let Some(Ok(claimed)) = written.done else {
            return again(self);
        };
        let Some(recovery) = claimed else { return };
        let fence = recovery.lane.fence;
        self.check.epochs.insert(signer, fence.epoch);
        self.check.expired.remove(&signer);
        self.check.owners.insert(signer, (owner, fence));
        if !written.answered {
            return again(self);
        }
        let sealed = AccountNonce(sealed);
        let next_nonce = match recovery.lane.next_nonce {
            Some(next) if !recovery.open_slots.is_empty() => next,
            // A node that is behind, a reorg that took closed slots' transactions, or one that left a gap.
            Some(next) if next >= sealed => next,
            _ => {
                let adopted = self.write(ledger.adopt_nonce(fence, sealed));
                match adopted.done {
                    Some(Ok(())) if adopted.answered => sealed,
                    _ => return again(self),
                }
            }
        };
        let queued = |ids: &[SettlementId]| -> Vec<Queued> {
            let rows = self.stage.read(|| ledger.settlements(ids));
            let row = |id: &SettlementId| rows.iter().find(|row| row.id == *id).map(Queued::new);
            ids.iter().filter_map(row).collect()
        };
        let preconfirmed = |ids: &[SettlementId]| {
            let rows = self.stage.read(|| ledger.settlements(ids));
            rows.iter().find_map(|row| match row.state {
                SettlementState::Preconfirmed { transaction, .. } => Some(transaction),
                _ => None,
            })
        };
        let slots = recovery.open_slots.iter().map(|slot| RecoveredSlot {
            id: slot.id,
            after: slot.after,
            attempts: slot.attempts.clone(),
            payments: queued(&slot.payments),
            ended: queued(&slot.ended),
            preconfirmed: preconfirmed(&slot.payments),
        });
        let ids: Vec<SettlementId> = recovery.unexplained.iter().map(|(id, _)| *id).collect();
        let rows = self.stage.read(|| ledger.settlements(&ids));
        let unexplained = recovery.unexplained.iter().filter_map(|(id, block)| {
            let row = rows.iter().find(|row| row.id == *id)?;
            let SettlementState::Unexplained { slot, transaction } = row.state else {
                return None;
            };
            Some(Unexplained::recovered(
                Queued::new(row),
                slot,
                *block,
                transaction,
            ))
        });
        let lane = RecoveredLane {
            unexplained: unexplained.collect(),
            fence,
            mode: recovery.lane.mode,
            next_nonce,
            slots: slots.collect(),
            unfinal: recovery.unfinal.clone(),
        };
        self.processes[p].fences.insert(signer, fence);
        self.answer(p, Event::LaneClaimed(lane));
    }

    /// The loops that keep what is ours: leases, modes, lanes that are free, payments that nobody announced.
    pub fn poll(&mut self, p: usize) {
        let pause = if self.quiet {
            3_000
        } else {
            self.rng.between(800, 2_500)
        };
        self.schedule(pause, Job::Poll(p));
        let (ledger, owner) = (Arc::clone(&self.stage.ledger), self.processes[p].id);
        let held: Vec<FencedLane> = self.processes[p].fences.values().copied().collect();
        for fence in held {
            if !self.rng.chance(500) {
                continue;
            }
            let written = self.write(ledger.renew_lane(self.fence(fence), FOR_EVER_MS));
            match written.done {
                Some(Ok(mode)) if written.answered => {
                    self.fenced(fence, "renew_lane");
                    self.answer(p, Event::ModeRead { fence, mode });
                }
                Some(Err(StoreError::StaleLane)) => {
                    self.processes[p].fences.remove(&fence.signer);
                    self.lost(p, fence);
                }
                _ => {}
            }
        }
        if self.seed % HAND_OVER_SEEDS == 3 && self.rng.chance(HAND_OVERS) {
            let among = self.processes[p].fences.values().copied().collect();
            self.answer(p, Event::HandOver { among });
        }
        self.read_funds(p);
        if self.processes[p].budgets.by_day() {
            let spending = self.spending();
            self.answer(p, Event::Spent(spending));
        }
        if self.processes[p].draining {
            return;
        }
        let free: Vec<Address> = self
            .signers
            .iter()
            .copied()
            .filter(|signer| self.is_free(*signer))
            .collect();
        if let Some(signer) = free.first() {
            self.claim(p, *signer);
        }
        self.claim_accepted(p, owner);
    }

    /// A lane goes to whoever takes it first.
    pub fn release_lane(&mut self, p: usize, fence: FencedLane, tries: u32) {
        let held = &mut self.processes[p].fences;
        if held.get(&fence.signer) == Some(&fence) {
            held.remove(&fence.signer);
        }
        let ledger = Arc::clone(&self.stage.ledger);
        let written = self.write(ledger.release_lane(fence));
        if matches!(written.done, Some(Ok(()))) {
            self.fenced(fence, "release_lane");
            self.check.fault("lane handed over");
            // Nothing is written under the epoch that was given up.
            self.check.epochs.insert(fence.signer, fence.epoch + 1);
            self.check.owners.remove(&fence.signer);
        }
        let signer = fence.signer;
        match (written.done, written.answered) {
            (Some(Ok(())), true) | (Some(Err(StoreError::StaleLane)), _) => {
                self.answer(p, Event::LaneReleased { signer });
            }
            _ => {
                let effect = Effect::ReleaseLane { fence };
                self.retry(p, effect, tries, PATIENT_TRIES, RETRY_MS);
            }
        }
    }

    /// Whether a claim can succeed, so that the ledger need not be asked all the time.
    fn is_free(&self, signer: Address) -> bool {
        let Some(epoch) = self.check.epochs.get(&signer) else {
            return true;
        };
        let held = self.processes.iter().any(|process| {
            let fence = process.fences.get(&signer);
            process.alive && fence.is_some_and(|fence| fence.epoch == *epoch)
        });
        !held || self.check.expired.contains(&signer)
    }

    fn claim_accepted(&mut self, p: usize, owner: ProcessId) {
        let core = &self.processes[p].core;
        let (appetite, late) = (core.appetite(), core.cutoff(self.clock(p)));
        if appetite == 0 && self.processes[p].fences.is_empty() {
            // What a lane of this process left behind is for those who have one.
            let ledger = Arc::clone(&self.stage.ledger);
            let _no_answer = self.write(ledger.release_queue(self.chain_id, owner));
            return;
        }
        let (limit, wanted) = match late {
            Some(late) if appetite == 0 => (50, Wanted::Late(late)),
            None if appetite == 0 => return,
            late => (
                (appetite + core.queue_depth()) as u32,
                Wanted::AllBut(core.stopped_tenants(), late.unwrap_or_default()),
            ),
        };
        let ledger = Arc::clone(&self.stage.ledger);
        let written = self.write(ledger.claim_accepted(self.chain_id, owner, limit, &wanted));
        if let (Some(Ok(rows)), true) = (written.done, written.answered)
            && !rows.is_empty()
        {
            let queued = rows.iter().map(Queued::new).collect();
            self.answer(p, Event::Accepted(queued));
        }
    }

    /// The operator has looked at a frozen lane.
    pub fn thaw(&mut self, signer: Address) {
        let ledger = Arc::clone(&self.stage.ledger);
        let (from, to) = (LaneMode::Frozen, LaneMode::Thawing);
        let order = ledger.order_lane_mode(self.chain_id, signer, from, to);
        self.stage.runtime.block_on(order).unwrap();
    }
}
