//! Invariant 4 in time: what heads a lane and is not mined is acted on within 3 block intervals and parked within 15.
//!
//! The clock of a slot runs while it is the lowest open one of an active, draining or rescued lane that its process holds
//! without interruption, and no chain that this process or any node has in view holds a transaction of its nonce. It is
//! judged whenever the process hears anything: one that is stopped acts when it goes on. The clock of parking begins when
//! the process sends its bytes, which it does for a recovered slot whatever nodes say of it, and stands while an
//! attempt is being signed or committed, or the slot's end is. Time
//! is the process's own: a machine that sleeps does not age. An empty signer stops neither clock: a no-op is
//! committed for when there is money.

use alloy_primitives::Address;
use teller_domain::{AttemptKind, LaneMode, SlotId};

use super::world::{BLOCK_MS, World};
use crate::core::{Effect, Event};

/// What a process has done about an open slot, under one epoch of its lane.
#[derive(Debug, Default, Clone, Copy)]
pub struct Care {
    epoch: u64,
    acted_ms: u64,
    /// It has been sent, or replaced, by this process.
    sent_out: bool,
    sent: bool,
    adding: bool,
    closing: bool,
}

/// Since when a slot heads its lane unmined, and since when it may be sent.
#[derive(Debug, Clone, Copy)]
pub struct Stall {
    epoch: u64,
    slot: SlotId,
    since_ms: u64,
    sent_ms: Option<u64>,
}

impl World<'_> {
    fn epoch_of(&self, p: usize, signer: Address) -> Option<u64> {
        let mut lanes = self.processes[p].core.lanes();
        lanes
            .find(|lane| lane.signer() == signer)
            .map(|lane| lane.epoch())
    }

    fn care(&mut self, p: usize, id: SlotId, note: impl FnOnce(&mut Care)) {
        let Some(epoch) = self.epoch_of(p, id.signer) else {
            return;
        };
        let care = self.check.cares.entry((p, id)).or_default();
        if care.epoch != epoch {
            *care = Care {
                epoch,
                ..Care::default()
            };
        }
        note(care);
    }

    /// What a core is told of its slots.
    pub fn note_news(&mut self, p: usize, event: &Event) {
        match event {
            Event::AttemptAdded { id, .. } => self.care(p, *id, |care| care.adding = false),
            Event::SlotClosed { id, .. } => {
                self.check.cares.remove(&(p, *id));
            }
            Event::LookedUp { id, sightings, .. } => {
                let open = |nonce| nonce <= id.nonce;
                let answered =
                    !sightings.is_empty() && sightings.iter().all(|seen| open(seen.sealed_nonce));
                if answered {
                    self.care(p, *id, |care| care.sent = true);
                }
            }
            _ => {}
        }
    }

    /// What it does about them.
    pub fn note_care(&mut self, p: usize, effect: &Effect) {
        let now = self.clock(p);
        match effect {
            Effect::Broadcast { id, .. } => self.care(p, *id, |care| {
                care.acted_ms = now;
                care.sent_out = true;
                care.sent = true;
            }),
            Effect::LookUp { id, .. } => self.care(p, *id, |care| care.acted_ms = now),
            Effect::Sign { id, .. } if self.check.slots.contains_key(id) => {
                self.care(p, *id, |care| {
                    care.acted_ms = now;
                    care.sent_out = true;
                    care.adding = true;
                });
            }
            Effect::CloseSlot { closure, .. } => {
                self.care(p, closure.id, |care| care.closing = true);
            }
            _ => {}
        }
    }

    /// Whether a chain that the process has been told of, or that a node has in view, holds a transaction of the nonce.
    fn is_used_in_view(&self, p: usize, id: SlotId) -> bool {
        let Some(blocks) = self.check.used_in.get(&(id.signer, id.nonce.0)) else {
            return false;
        };
        let in_view = |number, hash| {
            let mut views = self.endpoints.iter();
            views.any(|endpoint| {
                let there = self.chain.ancestor(endpoint.view, number);
                there.is_some_and(|there| there.block.hash == hash)
            })
        };
        blocks.iter().any(|block| {
            self.processes[p].told.contains(block) || in_view(block.number, block.hash)
        })
    }

    pub fn check_stalls(&mut self, p: usize) {
        let now = self.clock(p);
        let heads: Vec<(Address, u64, LaneMode, Option<SlotId>)> = self.processes[p]
            .core
            .lanes()
            .map(|lane| (lane.signer(), lane.epoch(), lane.mode(), lane.head()))
            .collect();
        for (signer, epoch, mode, head) in heads {
            let Some(slot) = head else {
                self.check.stalls.remove(&(p, signer));
                continue;
            };
            let care = self.check.cares.get(&(p, slot)).copied();
            let care = care.filter(|care| care.epoch == epoch).unwrap_or_default();
            let stopped = matches!(mode, LaneMode::Frozen | LaneMode::Thawing);
            let fresh = Stall {
                epoch,
                slot,
                since_ms: now,
                sent_ms: None,
            };
            let known = self.check.stalls.get(&(p, signer)).copied();
            let same = known.filter(|stall| stall.epoch == epoch && stall.slot == slot);
            // Before its first block a process does not know the time.
            let informed = self.processes[p].core.cutoff(now).is_some();
            let runs = informed && !stopped && !care.closing && !self.is_used_in_view(p, slot);
            let mut stall = same.filter(|_| runs).unwrap_or(fresh);
            if runs && care.sent && !care.adding && stall.sent_ms.is_none() {
                stall.sent_ms = Some(now);
            }
            self.check.stalls.insert((p, signer), stall);
            if runs {
                self.judge_stall(p, stall, care);
            }
        }
    }

    fn judge_stall(&mut self, p: usize, stall: Stall, care: Care) {
        let (now, slot) = (self.clock(p), stall.slot);
        let idle = now - care.acted_ms.max(stall.since_ms);
        self.demand(idle <= 3 * BLOCK_MS, || {
            format!("invariant 4: p{p} has not acted on {slot} for {idle} ms")
        });
        let waited = now - stall.since_ms;
        self.demand(care.sent_out || waited <= 3 * BLOCK_MS, || {
            format!("invariant 4: p{p} has held {slot} for {waited} ms and not sent it")
        });
        let parked = self.check.newest_kind(slot) == Some(AttemptKind::NoOp);
        let Some(sent_ms) = stall.sent_ms.filter(|_| !parked && !care.adding) else {
            return;
        };
        let stalled = now - sent_ms;
        self.demand(stalled <= 15 * BLOCK_MS, || {
            format!("invariant 4: p{p} has not parked {slot} after {stalled} ms")
        });
    }
}
