//! Lanes and slots: what each is, and when a slot needs something. What happens to them is in the modules beside.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use teller_domain::{
    AccountNonce, Attempt, AttemptKind, BlockRef, FencedLane, LaneMode, Resolution, SettlementId,
    SlotEnd, SlotId,
};

use super::queue::Room;
use super::unfinal::Unfinal;
use super::watched::Watched;
use super::{Mined, Queued, Unexplained, takes_batches};

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
    /// Look at Flashblocks, in milliseconds: they come every 200.
    pub const GLANCE_MS: u64 = 200;
}

/// A lane of so few slots has none to keep free: payers who lack gas would wait longer than sellers do.
const SHALLOW: usize = 2;

/// A batch that has no slot yet.
#[derive(Debug)]
pub(super) struct Forming {
    pub(super) batch: u64,
    pub(super) payments: Vec<Queued>,
    pub(super) stage: Stage,
    /// The newest block when its slot was given to the ledger.
    pub(super) after: Option<BlockRef>,
}

/// How far a forming batch is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its payers are being looked at.
    Reading,
    /// It is being signed, under this ticket.
    Signing(u64),
    /// Its slot is being committed.
    Committing(Attempt),
}

/// How far an open slot is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Committed, perhaps sent: its bytes are to be sent again once its lane goes on and the chain's time is known.
    Recovered,
    /// On its way.
    Sent { acknowledged: bool },
    /// A receipt was found in a block from before the oldest header that is known: the chain is asked about the block.
    Verifying { mined: Mined },
    /// Its end is being committed.
    Closing(Closed),
}

/// What took a slot's nonce, before the ledger knows.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) end: SlotEnd,
    pub(super) block: BlockRef,
    /// Whether the transaction tried each payment of the batch: a no-op does not, nor one that reverted as a whole.
    pub(super) carried: bool,
    /// Whether it ran to its end.
    pub(super) succeeded: bool,
}

/// What remains of a slot once its end is durable.
#[derive(Debug, Clone)]
pub(super) struct Closed {
    pub(super) block: BlockRef,
    pub(super) external: BTreeSet<(u64, B256)>,
    /// Queued again.
    pub(super) requeue: Vec<Queued>,
    /// Looked into from now on.
    pub(super) unexplained: Vec<Unexplained>,
    pub(super) cost: teller_domain::Wei,
    pub(super) shares: Vec<(teller_domain::TenantId, teller_domain::Wei)>,
}

/// A further attempt on its way into the ledger.
#[derive(Debug)]
pub(super) enum Adding {
    /// None is.
    No,
    /// It is being signed, under this ticket.
    Signing(u64),
    /// It is being committed.
    Committing(Attempt),
}

/// What a Flashblock showed, on its way into the ledger.
#[derive(Debug)]
pub(super) enum Noting {
    /// Nothing is.
    No,
    /// Something is being committed.
    Writing,
    /// So is something, and this is newer.
    Waiting(B256, Vec<(SettlementId, u64)>),
}

#[derive(Debug)]
pub(super) struct OpenSlot {
    pub(super) payments: Vec<Queued>,
    /// Payments that ended as failed or expired and that the bytes could still settle.
    pub(super) ended: Vec<Queued>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) phase: Phase,
    pub(super) adding: Adding,
    pub(super) opened_ms: u64,
    /// Since when it is the lowest open slot, once it is.
    pub(super) heading_since_ms: Option<u64>,
    pub(super) broadcast_ms: u64,
    pub(super) lookup_ms: u64,
    pub(super) glance_ms: u64,
    pub(super) replacements: u64,
    /// A node says that another transaction of this slot pays as much: outbid, at most once a block.
    pub(super) underpriced: bool,
    pub(super) foreign_uses: u32,
    pub(super) foreign_use_ms: u64,
    /// The newest block before the slot was in the ledger: a nonce that had passed then was used before there was the slot.
    pub(super) after: Option<BlockRef>,
    /// The Flashblock in which it was seen last, and the attempt.
    pub(super) preconfirmed: Option<(BlockRef, B256)>,
    pub(super) noting: Noting,
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
            ended: Vec::new(),
            attempts,
            phase,
            adding: Adding::No,
            opened_ms: now_ms,
            heading_since_ms: None,
            broadcast_ms: now_ms,
            lookup_ms: now_ms,
            glance_ms: now_ms,
            replacements: 0,
            underpriced: false,
            foreign_uses: 0,
            foreign_use_ms: now_ms,
            after: None,
            preconfirmed: None,
            noting: Noting::No,
        }
    }

    pub(super) fn hashes(&self) -> Vec<B256> {
        self.attempts.iter().map(|attempt| attempt.hash).collect()
    }

    pub(super) fn is_unmined(&self) -> bool {
        matches!(
            self.phase,
            Phase::Recovered | Phase::Sent { .. } | Phase::Verifying { .. }
        )
    }

    /// The block of the transaction that took the nonce, while its end is not durable.
    pub(super) fn ending_block(&self) -> Option<BlockRef> {
        match &self.phase {
            Phase::Verifying { mined } => Some(mined.block),
            Phase::Recovered | Phase::Sent { .. } | Phase::Closing(_) => None,
        }
    }

    pub(super) fn is_parked(&self) -> bool {
        self.attempts
            .last()
            .is_some_and(|attempt| attempt.kind == AttemptKind::NoOp)
    }
}

/// Nonces below a lane's lowest open slot that nothing of the lane can use: it adopted its nonce behind a stranger's
/// transaction, and a reorg dropped that for good. The chain waits for them, and the lane with it.
#[derive(Debug, Default)]
pub(super) enum Gap {
    /// None is known.
    #[default]
    No,
    /// Enough endpoints have shown one, without contradiction since.
    Seen { since_ms: u64 },
    /// A no-op for its lowest nonce is being signed.
    Signing(AccountNonce),
    /// The slot of that no-op is being committed.
    Committing(AccountNonce, Attempt),
}

/// A mode on its way into the ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ordered {
    /// The mode before it: what a read that is older than the order shows.
    pub(super) previous: LaneMode,
    /// Reads since that showed it.
    pub(super) old_reads: u32,
}

/// One signer's sequence of slots.
#[derive(Debug)]
pub struct Lane {
    pub(super) fence: FencedLane,
    pub(super) next_nonce: AccountNonce,
    pub(super) mode: LaneMode,
    /// A mode on its way into the ledger: what is read before it got there is old.
    pub(super) ordered: Option<Ordered>,
    /// The signer has too little for any batch; open slots are kept and sent again.
    pub(super) out_of_funds: bool,
    /// The highest nonce that the chain was seen to have reached.
    pub(super) chain_nonce: AccountNonce,
    pub(super) slots: BTreeMap<AccountNonce, OpenSlot>,
    /// Closed slots that a reorg could still reopen.
    pub(super) unfinal: BTreeMap<AccountNonce, Unfinal>,
    /// Payments that left its slots unexplained.
    pub(super) unexplained: Watched<Unexplained>,
    /// Those of which it is known what became of them, while that is being committed.
    pub(super) explained: BTreeMap<SettlementId, (Unexplained, Resolution)>,
    pub(super) forming: Option<Forming>,
    pub(super) resting_until_ms: u64,
    /// Since when it is about to be another process's, if it is.
    pub(super) leaving_since: Option<u64>,
    /// Slots that must be looked up before a thawing lane is active again.
    pub(super) thawing: BTreeSet<AccountNonce>,
    pub(super) gap: Gap,
}

impl Lane {
    /// The signer.
    pub fn signer(&self) -> Address {
        self.fence.signer
    }

    /// The epoch under which it is held.
    pub fn epoch(&self) -> u64 {
        self.fence.epoch
    }

    /// The lowest open slot: what is behind it waits for it.
    pub fn head(&self) -> Option<SlotId> {
        self.slots.keys().next().map(|nonce| self.slot_id(*nonce))
    }

    /// What was decided about it.
    pub fn mode(&self) -> LaneMode {
        self.mode
    }

    /// Whether the signer has too little for any batch, as far as nodes said.
    pub fn is_out_of_funds(&self) -> bool {
        self.out_of_funds
    }

    /// Whether it takes batches.
    pub fn is_usable(&self) -> bool {
        takes_batches(self.mode)
            && !self.out_of_funds
            && !self.is_behind()
            && self.leaving_since.is_none()
    }

    /// Whether the chain has used nonces that no slot of the lane had.
    pub fn is_behind(&self) -> bool {
        self.chain_nonce > self.next_nonce
    }

    /// How many slots are open.
    pub fn open_slots(&self) -> usize {
        self.slots.len()
    }

    /// How many closed slots are not final yet.
    pub fn unfinal_slots(&self) -> usize {
        self.unfinal.len()
    }

    /// When the oldest open slot was opened, or read from the ledger.
    pub fn oldest_open_ms(&self) -> Option<u64> {
        self.slots.values().map(|slot| slot.opened_ms).min()
    }

    /// Whether none of its nonces is in use, or about to be.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.forming.is_none()
    }

    /// Whether nothing of it waits for time to pass.
    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && self.unexplained.is_empty() && self.explained.is_empty()
    }

    /// Whether the lane can take a batch now, and whether it is otherwise idle.
    pub(super) fn room(&self, depth: usize, now_ms: u64) -> Option<Room> {
        let usable = self.is_usable() && self.forming.is_none() && now_ms >= self.resting_until_ms;
        if !usable || self.slots.len() >= depth {
            return None;
        }
        Some(if self.slots.is_empty() {
            Room::Idle
        } else {
            Room::Busy
        })
    }

    /// Whether a slot may give a payer something: in a deep lane never the last one that others wait for.
    pub(super) fn may_give(&self, depth: usize, others_wait: bool) -> bool {
        let free = depth.saturating_sub(self.slots.len());
        depth <= SHALLOW || free > 1 || !others_wait
    }

    pub(super) fn start_forming(&mut self, batch: u64, payments: Vec<Queued>) {
        self.forming = Some(Forming {
            batch,
            payments,
            stage: Stage::Reading,
            after: None,
        });
    }

    /// Whether this slot is what the lane's forming batch waits for.
    pub(super) fn awaits(&self, id: SlotId) -> bool {
        self.next_nonce == id.nonce && self.forming.is_some()
    }

    pub(super) fn slot_id(&self, nonce: AccountNonce) -> SlotId {
        SlotId {
            chain: self.fence.chain,
            signer: self.fence.signer,
            nonce,
        }
    }
}

/// What [`super::Core::attend_slots`] decides for a slot.
pub(super) enum Care {
    LookUp,
    Glance,
    Rebroadcast(Attempt),
    Add(AttemptKind),
}

/// What a slot must know of its lane and its network to know what it needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings {
    pub(super) heads_lane: bool,
    pub(super) mode: LaneMode,
    pub(super) flashblocks: bool,
    pub(super) interval: u64,
    pub(super) now_ms: u64,
}

impl OpenSlot {
    pub(super) fn attend(&mut self, around: Surroundings) -> Vec<Care> {
        let Surroundings {
            heads_lane,
            interval,
            now_ms,
            ..
        } = around;
        let since = |then: u64| now_ms.saturating_sub(then);
        let stopped = matches!(around.mode, LaneMode::Frozen | LaneMode::Thawing);
        let mut care = Vec::new();
        let recovered = matches!(self.phase, Phase::Recovered);
        if (heads_lane || stopped || recovered)
            && since(self.lookup_ms) >= Schedule::LOOK_UP * interval
        {
            self.lookup_ms = now_ms;
            care.push(Care::LookUp);
        }
        let (Phase::Sent { acknowledged }, Adding::No) = (&self.phase, &self.adding) else {
            return care;
        };
        if around.flashblocks && since(self.glance_ms) >= Schedule::GLANCE_MS {
            self.glance_ms = now_ms;
            care.push(Care::Glance);
        }
        if stopped {
            return care;
        }
        let acknowledged = *acknowledged;
        let heading_since = match self.heading_since_ms {
            Some(since) => since,
            None if heads_lane => *self.heading_since_ms.insert(now_ms),
            None => now_ms,
        };
        let age = since(heading_since) / interval.max(1);
        let rested = since(self.broadcast_ms) >= interval;
        let due = match around.mode {
            LaneMode::Rescuing if !self.is_parked() => Some(AttemptKind::NoOp),
            _ => self.due_attempt(age, rested),
        };
        if let Some(kind) = due {
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
