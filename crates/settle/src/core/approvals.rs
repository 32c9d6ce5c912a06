//! Payments that came with their payer's approval of Permit2 (`erc20ApprovalGasSponsoring`).
//!
//! The approval must be mined first. It is the payer's own transaction: whoever has its bytes may send them as often as he
//! likes. A payer who lacks its gas is given that by a slot of its own, once for each token, as the ledger sees to; then
//! the payment waits on. Nothing that is looked at here moves the payment's money.

use teller_domain::{
    AttemptKind, BlockRef, FencedLane, Reason, Refusal, SettlementId, SettlementState, SlotId,
    TopUpPolicy, Wei,
};
use teller_store::Spending;

use super::ancestry::Standing;
use super::batch::Need;
use super::lane::OpenSlot;
use super::rules::Rule;
use super::{ApprovalStanding, Core, Effect, Queued};

/// A payment waits for its approval for so many block intervals: nodes would take it in the first, and a deadline may be as
/// far away as numbers go.
const PATIENCE_BLOCKS: u64 = 60;

/// Payments that wait for approvals in one process.
const MOST_UNAPPROVED: usize = 512;

impl Core {
    /// Asks for a look at the approvals that are due for one.
    pub(super) fn look_at_approvals(&mut self, now_ms: u64) {
        let Some(fence) = self.some_fence().filter(|_| !self.draining) else {
            return;
        };
        let patience = PATIENCE_BLOCKS.saturating_mul(self.config.block_interval_ms);
        let impatient = self.queue.unapproved.extract_older(now_ms, patience);
        self.fail_unapproved(
            fence,
            &impatient,
            "the payer's approval was not mined in time",
        );
        let interval_ms = self.config.block_interval_ms;
        let payments = self.queue.unapproved.take_due(now_ms, interval_ms);
        if !payments.is_empty() {
            self.emit(Effect::LookAtApprovals { payments });
        }
    }

    /// Payments with approvals that find too many others waiting fail at once: each of those costs nodes many calls.
    pub(super) fn turn_away(&mut self, mut payments: Vec<Queued>) -> Vec<Queued> {
        let room = MOST_UNAPPROVED.saturating_sub(self.queue.unapproved_len());
        let (Some(fence), true) = (self.some_fence(), payments.len() > room) else {
            return payments;
        };
        let mut taken = 0;
        let known = &self.known;
        let crowded: Vec<Queued> = payments
            .extract_if(.., |queued| {
                let waits = queued.need == Need::Approval && !known.contains(&queued.id);
                taken += usize::from(waits);
                waits && taken > room
            })
            .collect();
        self.fail_unapproved(fence, &crowded, "too many payments wait for approvals");
        payments
    }

    fn fail_unapproved(&mut self, fence: FencedLane, payments: &[Queued], detail: &str) {
        if payments.is_empty() {
            return;
        }
        let state = SettlementState::Failed {
            refusal: Refusal::new(Reason::ApprovalBroadcastFailed, detail),
            transaction: None,
        };
        let payments = payments.iter();
        let resolutions = payments.map(|queued| (queued.id, state.clone()));
        self.resolve_accepted(fence, resolutions.collect());
    }

    /// Every payment that was asked about is looked at again later, unless what was seen ends its wait.
    pub(super) fn on_approvals_seen(
        &mut self,
        asked: &[SettlementId],
        block: Option<BlockRef>,
        seen: Vec<(SettlementId, ApprovalStanding)>,
        gone: &[SettlementId],
        now_ms: u64,
    ) {
        let interval_ms = self.config.block_interval_ms;
        self.queue.unapproved.answered(asked, now_ms, interval_ms);
        for id in gone {
            self.on_withdrawn(*id);
        }
        for (id, standing) in seen {
            self.on_approval_seen(id, block, standing, now_ms);
        }
    }

    fn on_approval_seen(
        &mut self,
        id: SettlementId,
        block: Option<BlockRef>,
        standing: ApprovalStanding,
        now_ms: u64,
    ) {
        let sealed = |block: BlockRef| self.ancestry.standing(block) == Standing::Sealed;
        let waits = self.rules.hold(Rule::ApprovalFirst);
        let Some(queued) = self.queue.unapproved.get(id) else {
            return;
        };
        let policy = self.config.approvals.unwrap_or(NOTHING);
        match standing {
            ApprovalStanding::InPlace => self.go_on(id, Need::Nothing, now_ms),
            ApprovalStanding::Outstanding { .. } if !waits => {
                self.go_on(id, Need::Nothing, now_ms);
            }
            ApprovalStanding::Outstanding { lacking, .. } if lacking == Wei::ZERO => {
                let payment = queued.clone();
                self.emit(Effect::SendApproval { payment });
            }
            // Until it arrives, or for good: nobody is given anything twice.
            ApprovalStanding::Outstanding { given: true, .. } => {}
            ApprovalStanding::Outstanding { lacking, .. } if lacking > policy.most => {
                let detail = "the payer lacks the gas of his approval, and more than may be given";
                self.refute(id, Reason::ApprovalInsufficientGas, detail);
            }
            ApprovalStanding::Outstanding { lacking, .. } => {
                if may_give(self.config.approvals, &self.spending, lacking) {
                    self.go_on(id, Need::Gas(lacking), now_ms);
                }
            }
            // Of a block that the chain may have left, or that is not sealed here yet, nothing follows.
            ApprovalStanding::Void if block.is_some_and(sealed) => {
                let detail = "the nonce of the payer's approval has passed, and Permit2 may still not move enough";
                self.refute(id, Reason::ApprovalTxFailed, detail);
            }
            ApprovalStanding::Void => {}
        }
    }

    fn go_on(&mut self, id: SettlementId, need: Need, now_ms: u64) {
        if let Some(mut queued) = self.queue.unapproved.remove(id) {
            queued.need = need;
            self.queue.push(queued, now_ms);
        }
    }

    fn refute(&mut self, id: SettlementId, reason: Reason, detail: &str) {
        let Some(fence) = self.some_fence() else {
            return;
        };
        if self.queue.unapproved.remove(id).is_none() {
            return;
        }
        let state = SettlementState::Failed {
            refusal: Refusal::new(reason, detail),
            transaction: None,
        };
        self.resolve_accepted(fence, vec![(id, state)]);
    }

    /// The slot was not written: another payment of this payer had him topped up, or is about to.
    pub(super) fn on_topped_up_before(&mut self, fence: FencedLane, id: SlotId, now_ms: u64) {
        let Some(lane) = self.lane_mut(fence).filter(|lane| lane.awaits(id)) else {
            return;
        };
        let forming = lane.forming.take();
        for mut queued in forming.into_iter().flat_map(|forming| forming.payments) {
            queued.need = Need::of(&queued.payment);
            self.queue.push(queued, now_ms);
        }
    }

    /// What a slot is about to give counts from its commit on.
    pub(super) fn note_given(&mut self, payments: &[Queued]) {
        for top_up in payments.iter().filter_map(Queued::top_up) {
            let given = self.spending.top_ups.0.saturating_add(top_up.value.0);
            self.spending.top_ups = Wei(given);
        }
    }
}

/// Whether so much may be given, and today's bound leaves it.
pub(super) fn may_give(policy: Option<TopUpPolicy>, spending: &Spending, value: Wei) -> bool {
    let policy = policy.unwrap_or(NOTHING);
    let given = spending.top_ups.0.saturating_add(value.0);
    value <= policy.most && given <= policy.day.0
}

/// Where no policy is configured any more, payments that were accepted under one may still wait.
const NOTHING: TopUpPolicy = TopUpPolicy {
    most: Wei::ZERO,
    day: Wei::ZERO,
};

impl OpenSlot {
    /// Whether it gives its payment's payer something, instead of settling the payment.
    pub(super) fn tops_up(&self) -> bool {
        self.attempts
            .first()
            .is_some_and(|attempt| attempt.kind == AttemptKind::TopUp)
    }
}
