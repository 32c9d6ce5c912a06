//! The settlement engine as a deterministic state machine: events in, effects out, time passed in.
//!
//! Everything that decides about money is here: what goes into a batch, which nonce it gets, when bytes are sent
//! again or outbid, what a receipt means for each payment, and what a reorg takes back. No async, no I/O, no clock. The
//! shell in [`crate::engine`] carries effects out and reports back.

mod ancestry;
mod approvals;
mod batch;
mod budget;
mod chain;
mod effect;
mod ending;
mod event;
mod funds;
mod gaps;
mod hand_over;
mod lane;
mod mined;
mod open;
mod orders;
mod queue;
mod rules;
mod slots;
mod unexplained;
mod unfinal;
mod watched;

use std::collections::{BTreeMap, HashMap, HashSet};

use alloy_primitives::Address;
use teller_domain::{
    ChainId, Fees, FencedLane, LaneMode, SettlementId, TenantId, TopUpPolicy, UnixSeconds,
};

use crate::admission::Capacity;
use ancestry::Ancestry;
use approvals::may_give;
pub(crate) use batch::fits_alone;
pub use batch::{BatchLimits, Need, Queued, gas_limit};
pub use budget::Budgets;
pub use effect::{Again, Effect, Place, ToSign};
pub use event::{
    ApprovalStanding, BlockSummary, Event, Finding, Log, Mined, RecoveredLane, RecoveredSlot, Sent,
    Sighting,
};
pub use funds::Funds;
pub use lane::{Lane, Schedule};
pub use mined::Outcomes;
pub use queue::Queue;
pub use rules::Rule;
pub use unexplained::Unexplained;

/// How long accepted payments wait for a lane of this process to become usable before others may have them.
const RELEASE_AFTER_MS: u64 = 2_000;

/// How many batches a usable lane likes to have waiting.
const BATCHES_AHEAD: usize = 4;

/// What the core must know of a network.
#[derive(Debug, Clone)]
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
    /// What gas may cost in all.
    pub budgets: Budgets,
    /// What payers are given who lack the gas of their approvals; without it nobody is given anything.
    pub approvals: Option<TopUpPolicy>,
    /// Whether there are endpoints that show Flashblocks.
    pub flashblocks: bool,
}

impl CoreConfig {
    /// Whether anything is bounded by the day, so that spending must be known.
    pub fn by_day(&self) -> bool {
        self.budgets.by_day() || self.approvals.is_some()
    }
}

/// The newest sealed block, as far as the core cares.
#[derive(Debug, Clone, Copy)]
struct Head {
    timestamp: UnixSeconds,
    base_fee: u128,
    gas_limit: u64,
    seen_ms: u64,
}

/// The state machine of one network.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    queue: Queue,
    lanes: BTreeMap<Address, Lane>,
    /// The highest epoch under which each lane was claimed: what was read under an older one is old.
    epochs: BTreeMap<Address, u64>,
    /// Every payment in the queue, in a forming batch or in a slot: an announcement of one of these is an echo.
    known: HashSet<SettlementId>,
    /// Those whose outcome is being committed without a slot, and under which lane's fence.
    ending: HashMap<SettlementId, FencedLane>,
    head: Option<Head>,
    ancestry: Ancestry,
    levels: unfinal::Heights,
    spending: teller_store::Spending,
    purses: funds::Purses,
    tip: u128,
    draining: bool,
    unusable_since_ms: Option<u64>,
    effects: Vec<Effect>,
    batches: u64,
    /// Orders to sign so far.
    tickets: u64,
    unsound_attempts: u64,
    rules: rules::Rules,
}

impl Core {
    /// A core without lanes; each arrives by [`Event::LaneClaimed`].
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            queue: Queue::default(),
            lanes: BTreeMap::new(),
            epochs: BTreeMap::new(),
            known: HashSet::new(),
            ending: HashMap::new(),
            head: None,
            ancestry: Ancestry::default(),
            levels: unfinal::Heights::default(),
            spending: teller_store::Spending::default(),
            purses: funds::Purses::default(),
            tip: 0,
            draining: false,
            unusable_since_ms: None,
            effects: Vec::new(),
            batches: 0,
            tickets: 0,
            unsound_attempts: 0,
            rules: rules::Rules::default(),
        }
    }

    /// Breaks one safety rule, to show that the simulation notices.
    #[cfg(test)]
    pub fn switch_off(&mut self, rule: Rule) {
        self.rules = rules::Rules::without(rule);
    }

    /// Takes in events at monotonic time `now_ms` and answers what must be done about them, in order.
    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>, now_ms: u64) -> Vec<Effect> {
        for event in events {
            self.hear(event, now_ms);
        }
        self.take_back_orphans();
        self.expire(now_ms);
        self.judge_funds(now_ms);
        self.catch_up();
        self.hand_over(now_ms);
        self.release_queue(now_ms);
        self.release_stranded(now_ms);
        self.look_at_approvals(now_ms);
        self.look_into_unexplained(now_ms);
        self.form_batches(now_ms);
        self.resume_slots(now_ms);
        self.attend_slots(now_ms);
        std::mem::take(&mut self.effects)
    }

    fn hear(&mut self, event: Event, now_ms: u64) {
        match event {
            Event::Accepted(payments) => {
                let payments = self.turn_away(payments);
                self.on_accepted(payments, now_ms);
            }
            Event::LaneClaimed(lane) => self.on_lane_claimed(lane, now_ms),
            Event::LaneLost { fence } => self.on_lane_lost(fence),
            Event::HandOver { among } => self.on_hand_over(&among, now_ms),
            Event::LaneReleased { signer } => self.emit(Effect::ReclaimLane { signer }),
            Event::ModeRead { fence, mode } => self.on_mode_read(fence, mode, now_ms),
            Event::CodeRead {
                signer,
                batch,
                with_code,
                refused,
            } => self.on_code_read(signer, batch, &with_code, &refused, now_ms),
            Event::CodeUnread { signer, batch } => self.on_code_unread(signer, batch, now_ms),
            Event::Signed {
                fence,
                id,
                ticket,
                attempt,
            } => self.on_signed(fence, id, ticket, attempt, now_ms),
            Event::SlotOpened { fence, id } => self.on_slot_opened(fence, id, now_ms),
            Event::PaymentsMoved { fence, id, moved } => {
                self.on_payments_moved(fence, id, &moved, now_ms)
            }
            Event::ToppedUpBefore { fence, id } => self.on_topped_up_before(fence, id, now_ms),
            Event::ApprovalsSeen {
                asked,
                block,
                seen,
                gone,
            } => self.on_approvals_seen(&asked, block, seen, &gone, now_ms),
            Event::AttemptAdded { fence, id } => self.on_attempt_added(fence, id, now_ms),
            Event::Sent { id, hash, outcome } => self.on_sent(id, hash, outcome, now_ms),
            Event::Ancestry(headers) => self.on_ancestry(headers),
            Event::Block(block) => self.on_block(&block, now_ms),
            Event::Reorg { from } => self.on_reorg(from),
            Event::Levels { safe, finalized } => self.on_levels(safe, finalized),
            Event::Found { id, mined } => self.on_found(id, mined, now_ms),
            Event::LookedUp {
                id,
                asked,
                sightings,
                endpoints,
            } => self.on_looked_up(id, asked, sightings, endpoints, now_ms),
            Event::Investigated {
                fence,
                asked,
                findings,
            } => self.on_investigated(fence, &asked, findings, now_ms),
            Event::UnexplainedResolved {
                fence,
                ids,
                changed,
            } => self.on_unexplained_resolved(fence, &ids, &changed, now_ms),
            Event::Preconfirmed { fence, id } => self.on_preconfirmed(fence, id),
            Event::SlotClosed { fence, id, kept } => self.on_slot_closed(fence, id, &kept, now_ms),
            Event::BlocksChecked {
                fence,
                canonical,
                orphaned,
            } => self.on_blocks_checked(fence, &canonical, &orphaned, now_ms),
            Event::LevelsRaised {
                fence,
                nonces,
                level,
            } => self.on_levels_raised(fence, &nonces, level),
            Event::AcceptedResolved { ids } => self.forget(&ids),
            Event::Withdrawn(id) => self.on_withdrawn(id),
            Event::Spent(spending) => self.spending = spending,
            Event::FundsRead { signer, funds } => self.on_funds_read(signer, funds),
            Event::Tip(tip) => self.tip = tip,
            Event::Drain => self.draining = true,
            Event::Tick => {}
        }
    }

    /// The network.
    pub fn chain(&self) -> ChainId {
        self.config.chain
    }

    /// Payments that wait for a slot and may enter one.
    pub fn queue_depth(&self) -> usize {
        let stopped = self.stopped_tenants();
        if stopped.is_empty() {
            return self.queue.len();
        }
        let waiting = self.queue.iter();
        waiting
            .filter(|queued| !stopped.contains(&queued.tenant))
            .count()
    }

    /// Payments that wait for their payers' approvals, and may enter no slot before.
    pub fn unapproved(&self) -> usize {
        self.queue.unapproved_len()
    }

    /// Tenants whose payments may enter no slot until the day is over: their budget is spent.
    pub fn stopped_tenants(&self) -> Vec<TenantId> {
        self.config.budgets.stopped(&self.spending)
    }

    /// How many more accepted payments this process could make use of: none without a usable lane, nor once the day's
    /// budget is spent.
    pub fn appetite(&self) -> usize {
        if self.draining || self.config.budgets.is_spent(&self.spending) {
            return 0;
        }
        let usable = self.lanes.values().filter(|lane| lane.is_usable()).count();
        usable
            .saturating_mul(BATCHES_AHEAD)
            .saturating_mul(self.config.limits.max_items)
            .saturating_sub(self.queue_depth())
    }

    /// Who can settle now, and what may not be spent any more.
    pub(crate) fn capacity(&self) -> Capacity {
        let lanes = self.lanes.values();
        let usable = lanes.clone().filter(|lane| lane.is_usable());
        let halted = lanes.filter(|lane| !takes_batches(lane.mode) || lane.is_out_of_funds());
        Capacity {
            usable: usable.map(Lane::signer).collect(),
            halted: halted.map(Lane::signer).collect(),
            spent: self.config.budgets.is_spent(&self.spending),
            stopped: self.stopped_tenants(),
            tip: self.tip,
        }
    }

    /// A moment from which on payments are too late for a new slot; `None` before the first block.
    pub fn cutoff(&self, now_ms: u64) -> Option<UnixSeconds> {
        self.chain_time(now_ms)
            .map(|time| time.plus(self.config.cutoff_seconds))
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
        self.queue.is_empty() && self.lanes.values().all(Lane::is_idle)
    }

    fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// The lane, if it is still held as it was when the effect was asked for.
    fn lane_mut(&mut self, fence: FencedLane) -> Option<&mut Lane> {
        self.lanes
            .get_mut(&fence.signer)
            .filter(|lane| lane.fence == fence)
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

    /// One that is in a forming batch already is found out when the batch's slot is opened.
    fn on_withdrawn(&mut self, id: SettlementId) {
        if self.queue.withdraw(id) {
            self.forget(&[id]);
        }
    }

    fn forget(&mut self, ids: &[SettlementId]) {
        for id in ids {
            self.known.remove(id);
            self.ending.remove(id);
        }
    }

    /// Without a usable lane for a while, the queue goes back to the ledger: another process may have one.
    fn release_queue(&mut self, now_ms: u64) {
        let usable = !self.draining && self.lanes.values().any(Lane::is_usable);
        if usable || self.queue.is_empty() {
            self.unusable_since_ms = None;
            return;
        }
        let since = *self.unusable_since_ms.get_or_insert(now_ms);
        let waited = now_ms.saturating_sub(since) >= RELEASE_AFTER_MS;
        if !(waited || self.draining) {
            return;
        }
        let released: Vec<SettlementId> =
            self.queue.drain().iter().map(|queued| queued.id).collect();
        self.forget(&released);
        self.emit(Effect::ReleaseQueued(released));
    }

    /// What only an account may settle whose lane is another's goes back to the ledger. What is late stays, to be ended.
    fn release_stranded(&mut self, now_ms: u64) {
        let cutoff = self.cutoff(now_ms).unwrap_or_default();
        let lanes = &self.lanes;
        let released = self.queue.take_stranded(|queued| {
            let facilitator = queued.payment.facilitator();
            let has_lane = facilitator.is_none_or(|who| lanes.contains_key(&who));
            !has_lane && queued.payment.valid_before() > cutoff
        });
        if released.is_empty() {
            return;
        }
        self.forget(&released);
        self.emit(Effect::ReleaseQueued(released));
    }

    /// Gives every lane that has room a batch, if there is one worth sending.
    fn form_batches(&mut self, now_ms: u64) {
        let Some(fees) = self.initial_fees() else {
            return;
        };
        if self.draining || self.is_too_dear() {
            return;
        }
        let (budgets, gifts) = (&self.config.budgets, self.config.approvals);
        let (policy, purses) = (self.config.fees, &self.purses);
        let pays = self.rules.hold(Rule::FundsFirst);
        let within = self
            .limits()
            .within(budgets.per_transaction, fees.max_fee_per_gas);
        let Some(limits) = within else { return };
        let mut topping_up = Vec::new();
        for lane in self.lanes.values_mut() {
            let Some(room) = lane.room(self.config.depth, now_ms) else {
                continue;
            };
            // What this one cannot pay is for another.
            let paid = match pays {
                true => purses.within(limits, lane, fees, &policy),
                false => Some(limits),
            };
            let Some(limits) = paid else { continue };
            // A top-up has a slot for itself: in a deep lane others do not wait behind a crowd of them.
            let others_wait = self.queue.iter().any(|queued| queued.top_up().is_none());
            let gives = lane.may_give(self.config.depth, others_wait);
            let spending = &self.spending;
            let (signer, paying) = (lane.signer(), &*lane);
            // Nobody but its facilitator can settle an `upto` payment.
            let allowed = |queued: &Queued| {
                queued.payment.facilitator().is_none_or(|who| who == signer)
                    && budgets.allow(spending, &queued.tenant)
                    && queued.top_up().is_none_or(|top_up| {
                        gives
                            && may_give(gifts, spending, top_up.value)
                            && budgets.admit_top_up(&top_up, fees.max_fee_per_gas)
                            && purses.admit_top_up(&top_up, paying, fees, &policy)
                    })
            };
            let Some(payments) = self.queue.take_batch(&limits, room, now_ms, allowed) else {
                continue;
            };
            self.batches += 1;
            lane.start_forming(self.batches, payments.clone());
            if payments.iter().any(|queued| queued.top_up().is_some()) {
                topping_up.push(lane.fence);
                continue;
            }
            self.effects.push(Effect::ReadCode {
                signer: lane.signer(),
                batch: self.batches,
                payments,
            });
        }
        // Nobody's code is called to give him something.
        for fence in topping_up {
            self.sign_batch(fence, now_ms);
        }
    }
}

/// Whether a lane in this mode opens slots.
fn takes_batches(mode: LaneMode) -> bool {
    mode == LaneMode::Active
}

#[cfg(test)]
mod tests;
