//! Lanes and slots: what each is, and when a slot needs something. What happens to them is in [`super::slots`].

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use teller_domain::{AccountNonce, Attempt, AttemptKind, FencedLane, SettlementId, SlotId};

use super::batch::Room;
use super::{Mined, Queued};

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
pub(super) struct Forming {
    pub(super) batch: u64,
    pub(super) payments: Vec<Queued>,
}

/// How far an open slot is.
#[derive(Debug)]
pub(super) enum Phase {
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
pub(super) struct OpenSlot {
    pub(super) payments: Vec<Queued>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) phase: Phase,
    pub(super) opened_ms: u64,
    /// Since when it is the lowest open slot, once it is.
    pub(super) heading_since_ms: Option<u64>,
    pub(super) broadcast_ms: u64,
    pub(super) lookup_ms: u64,
    pub(super) replacements: u64,
    /// A node says that another transaction of this slot pays as much: outbid, at most once a block.
    pub(super) underpriced: bool,
    pub(super) foreign_uses: u32,
    pub(super) foreign_use_ms: u64,
}

impl OpenSlot {
    pub(super) fn new(
        payments: Vec<Queued>,
        attempts: Vec<Attempt>,
        phase: Phase,
        now_ms: u64,
    ) -> Self {
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

    pub(super) fn hashes(&self) -> Vec<B256> {
        self.attempts.iter().map(|attempt| attempt.hash).collect()
    }

    pub(super) fn is_unmined(&self) -> bool {
        matches!(
            self.phase,
            Phase::Recovered | Phase::Sent { .. } | Phase::Adding
        )
    }

    pub(super) fn is_parked(&self) -> bool {
        self.attempts
            .last()
            .is_some_and(|attempt| attempt.kind == AttemptKind::NoOp)
    }
}

/// One signer's sequence of slots.
#[derive(Debug)]
pub struct Lane {
    pub(super) fence: FencedLane,
    pub(super) next_nonce: AccountNonce,
    pub(super) state: LaneState,
    pub(super) slots: BTreeMap<AccountNonce, OpenSlot>,
    pub(super) forming: Option<Forming>,
    pub(super) resting_until_ms: u64,
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
    pub(super) fn awaits(&self, fence: FencedLane, id: SlotId) -> bool {
        self.fence == fence && self.next_nonce == id.nonce && self.forming.is_some()
    }

    pub(super) fn slot_id(&self, nonce: AccountNonce) -> SlotId {
        SlotId {
            chain: self.fence.chain,
            signer: self.fence.signer,
            nonce,
        }
    }
}

/// What [`Core::attend_slots`] decides for a slot.
pub(super) enum Care {
    LookUp(Vec<B256>),
    Rebroadcast(Attempt),
    Add(AttemptKind),
}

impl OpenSlot {
    pub(super) fn attend(
        &mut self,
        heads_lane: bool,
        frozen: bool,
        interval: u64,
        now_ms: u64,
    ) -> Vec<Care> {
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
