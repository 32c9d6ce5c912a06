//! The settlement engine as a deterministic state machine: events in, effects out, time passed in.
//!
//! Everything that decides about money is here: what goes into a batch, which nonce it gets, when bytes are sent
//! again or outbid, and what a receipt means for each payment. No async, no I/O, no clock. The shell in
//! [`crate::engine`] carries effects out and reports back.

mod batch;
mod event;
mod lane;
mod mined;
mod slots;

use std::collections::{BTreeMap, HashSet};

use alloy_primitives::Address;
use teller_domain::{ChainId, Fees, Reason, Refusal, SettlementId, SettlementState, UnixSeconds};

pub use batch::{BatchLimits, Queue, Queued, gas_limit};
pub use event::{
    Again, BlockSummary, Certainty, Effect, Event, Finding, Log, Mined, RecoveredLane,
    RecoveredSlot, Sent,
};
pub use lane::{Lane, LaneState, Schedule};
pub use mined::Outcomes;

/// What the core must know of a network.
#[derive(Debug, Clone, Copy)]
pub struct CoreConfig {
    /// The network.
    pub chain: ChainId,
    /// Open slots that a lane may have, 1 to 8.
    pub depth: usize,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Time between sealed blocks.
    pub block_interval_ms: u64,
    /// A payment enters no new slot with less than this left of its validity: half of what verify demands, so that
    /// what verified in its last moment can still be settled.
    pub cutoff_seconds: u64,
    /// Tip and ceiling.
    pub fees: teller_chain::FeePolicy,
}

/// The newest sealed block, as far as the core cares.
#[derive(Debug, Clone, Copy)]
struct Head {
    timestamp: UnixSeconds,
    base_fee: u128,
    seen_ms: u64,
}

/// The state machine of one network.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    queue: Queue,
    lanes: BTreeMap<Address, Lane>,
    /// Every payment in the queue, in a forming batch or in a slot: an announcement of one of these is an echo.
    known: HashSet<SettlementId>,
    head: Option<Head>,
    tip: u128,
    effects: Vec<Effect>,
    batches: u64,
    unsound_attempts: u64,
}

impl Core {
    /// A core without lanes; each arrives by [`Event::LaneClaimed`].
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            queue: Queue::default(),
            lanes: BTreeMap::new(),
            known: HashSet::new(),
            head: None,
            tip: 0,
            effects: Vec::new(),
            batches: 0,
            unsound_attempts: 0,
        }
    }

    /// Takes in events at monotonic time `now_ms` and answers what must be done about them, in order.
    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>, now_ms: u64) -> Vec<Effect> {
        for event in events {
            self.hear(event, now_ms);
        }
        self.expire(now_ms);
        self.form_batches(now_ms);
        self.attend_slots(now_ms);
        std::mem::take(&mut self.effects)
    }

    fn hear(&mut self, event: Event, now_ms: u64) {
        match event {
            Event::Accepted(payments) => self.on_accepted(payments, now_ms),
            Event::LaneClaimed(lane) => self.on_lane_claimed(lane, now_ms),
            Event::LaneLost { fence } => self.on_lane_lost(fence),
            Event::CodeRead {
                signer,
                batch,
                with_code,
            } => self.on_code_read(signer, batch, &with_code, now_ms),
            Event::CodeUnread { signer, batch } => self.on_code_unread(signer, batch, now_ms),
            Event::SlotOpened { fence, id, attempt } => {
                self.on_slot_opened(fence, id, attempt, now_ms)
            }
            Event::PaymentsMoved { fence, id, moved } => {
                self.on_payments_moved(fence, id, &moved, now_ms)
            }
            Event::AttemptAdded { id, attempt } => self.on_attempt_added(id, attempt, now_ms),
            Event::Sent { id, hash, outcome } => self.on_sent(id, hash, outcome, now_ms),
            Event::Block(block) => self.on_block(&block, now_ms),
            Event::Found { id, mined } => self.on_found(id, mined),
            Event::NotFound { id, sealed_nonce } => self.on_not_found(id, sealed_nonce, now_ms),
            Event::Investigated { id, findings } => self.on_investigated(id, findings),
            Event::SlotClosed { id } => self.on_slot_closed(id, now_ms),
            Event::AcceptedResolved { ids } => self.forget(&ids),
            Event::Tip(tip) => self.tip = tip,
            Event::Tick => {}
        }
    }

    /// The network.
    pub fn chain(&self) -> ChainId {
        self.config.chain
    }

    /// Payments that wait for a slot.
    pub fn queue_depth(&self) -> usize {
        self.queue.len()
    }

    /// The lanes, for metrics and readers.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.values()
    }

    /// How often a slot's attempts broke invariant 6 or 11. Anything but zero is a defect.
    pub fn unsound_attempts(&self) -> u64 {
        self.unsound_attempts
    }

    /// Whether nothing waits for time to pass: without events a tick would change nothing.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.lanes.values().all(Lane::is_empty)
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// The chain's time, carried on from the newest block; `None` before the first.
    fn chain_time(&self, now_ms: u64) -> Option<UnixSeconds> {
        self.head.map(|head| {
            head.timestamp
                .plus(now_ms.saturating_sub(head.seen_ms) / 1000)
        })
    }

    fn initial_fees(&self) -> Option<Fees> {
        self.head
            .map(|head| self.config.fees.initial(head.base_fee, self.tip))
    }

    fn on_accepted(&mut self, payments: Vec<Queued>, now_ms: u64) {
        for payment in payments {
            if self.known.insert(payment.id) {
                self.queue.push(payment, now_ms);
            }
        }
    }

    fn forget(&mut self, ids: &[SettlementId]) {
        for id in ids {
            self.known.remove(id);
        }
    }

    fn on_block(&mut self, block: &BlockSummary, now_ms: u64) {
        self.head = Some(Head {
            timestamp: block.timestamp,
            base_fee: block.base_fee,
            seen_ms: now_ms,
        });
        let mut lookups = Vec::new();
        for lane in self.lanes.values() {
            lookups.extend(lane.attempts_in(&block.transactions));
        }
        if !lookups.is_empty() {
            self.emit(Effect::FindReceipts {
                lookups,
                certainty: Certainty::InBlock,
            });
        }
    }

    /// Ends what cannot be settled in time any more, or not at the price that the operator allows.
    fn expire(&mut self, now_ms: u64) {
        let (Some(head), Some(time)) = (self.head, self.chain_time(now_ms)) else {
            return;
        };
        let cutoff = time.plus(self.config.cutoff_seconds);
        let late = self.queue.take_expiring(cutoff);
        let too_dear = self.config.fees.exceeds_ceiling(head.base_fee);
        self.end_late(&late, too_dear);
    }

    fn end_late(&mut self, late: &[Queued], too_dear: bool) {
        if late.is_empty() {
            return;
        }
        let state = if too_dear {
            let detail = "the base fee stayed above the operator's ceiling until the deadline";
            SettlementState::Failed {
                refusal: Refusal::new(Reason::FeeCeilingExceeded, detail),
                transaction: None,
            }
        } else {
            SettlementState::Expired
        };
        let resolutions = late
            .iter()
            .map(|payment| (payment.id, state.clone()))
            .collect();
        self.emit(Effect::ResolveAccepted(resolutions));
    }

    /// Gives every lane that has room a batch, if there is one worth sending.
    fn form_batches(&mut self, now_ms: u64) {
        let Some(head) = self.head else { return };
        if self.config.fees.exceeds_ceiling(head.base_fee) {
            return;
        }
        let signers: Vec<Address> = self.lanes.keys().copied().collect();
        for signer in signers {
            let Some(lane) = self.lanes.get_mut(&signer) else {
                continue;
            };
            let Some(room) = lane.room(self.config.depth, now_ms) else {
                continue;
            };
            let Some(payments) = self.queue.take_batch(&self.config.limits, room, now_ms) else {
                continue;
            };
            self.batches += 1;
            let payers = payments
                .iter()
                .map(|queued| (queued.id, queued.payment.key.payer))
                .collect();
            lane.start_forming(self.batches, payments);
            self.effects.push(Effect::ReadCode {
                signer,
                batch: self.batches,
                payers,
            });
        }
    }
}

#[cfg(test)]
mod tests;
