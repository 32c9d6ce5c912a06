//! Nonces that nobody uses any more, below what a lane has open.
//!
//! A lane without open slots adopts the chain's nonce, also when strangers used its key. If a reorg drops such a
//! stranger's transaction for good, the chain waits for a nonce that the lane has left behind: nothing above it is ever
//! mined. The lane then opens a slot with a no-op there. Should the stranger's transaction come back and be mined, that
//! is foreign use of an open slot, as any other.

use teller_domain::{Attempt, FencedLane, LaneMode, SlotId};

use super::lane::{Gap, Lane, OpenSlot, Phase, Schedule};
use super::rules::Rule;
use super::slots::WITNESSES;
use super::{Again, Core, Effect, Sighting, ToSign};

/// Gas of a transfer of nothing.
const NOOP_GAS: u64 = 21_000;

impl Core {
    /// A lane with nothing open whose next nonce the chain has passed reads its nonce again, and adopts what the chain has
    /// reached: others have used the key meanwhile, or it was read from a node that was behind.
    pub(super) fn catch_up(&mut self) {
        if !self.rules.hold(Rule::AdoptIdle) {
            return;
        }
        let stopped = |lane: &Lane| matches!(lane.mode, LaneMode::Frozen | LaneMode::Thawing);
        let behind = self.lanes.values().filter(|lane| {
            lane.is_behind() && lane.is_empty() && lane.leaving_since.is_none() && !stopped(lane)
        });
        for signer in behind.map(Lane::signer).collect::<Vec<_>>() {
            tracing::warn!(%signer, "the chain has passed the lane's next nonce; it is read again");
            self.drop_lane(signer);
            self.emit(Effect::ReclaimLane { signer });
        }
    }

    /// Every endpoint that was asked about the lane's lowest open slot may show that the chain waits for a lower nonce.
    /// Nodes that are behind show that too, and so does a reorg that is still to be heard of: only what lasts is a gap, and
    /// only where no closed slot could be reopened.
    pub(super) fn notice_gap(
        &mut self,
        id: SlotId,
        sightings: &[Sighting],
        endpoints: usize,
        now_ms: u64,
    ) {
        let patience = Schedule::PARK.saturating_mul(self.config.block_interval_ms);
        let fills = self.rules.hold(Rule::FillGaps);
        let base_fee = self.head.map(|head| head.base_fee);
        let (policy, tip) = (self.config.fees.without_ceiling(), self.tip);
        let ticket = self.next_ticket();
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let (true, true) = (lane.head() == Some(id), fills) else {
            return;
        };
        let Some(lowest) = sightings.iter().map(|seen| seen.sealed_nonce).max() else {
            return;
        };
        let stopped = matches!(lane.mode, LaneMode::Frozen | LaneMode::Thawing);
        if stopped || lowest >= id.nonce || lane.unfinal.contains_key(&lowest) {
            if let Gap::Seen { .. } = lane.gap {
                lane.gap = Gap::No;
            }
            return;
        }
        if sightings.len() < WITNESSES.min(endpoints) {
            return;
        }
        let since_ms = match lane.gap {
            Gap::No => now_ms,
            Gap::Seen { since_ms } => since_ms,
            Gap::Signing(_) | Gap::Committing(..) => return,
        };
        lane.gap = Gap::Seen { since_ms };
        let Some(base_fee) = base_fee.filter(|_| now_ms.saturating_sub(since_ms) >= patience)
        else {
            return;
        };
        lane.gap = Gap::Signing(lowest);
        let (fence, id) = (lane.fence, lane.slot_id(lowest));
        tracing::warn!(slot = %id, "no transaction has this nonce any more, and the lane's slots wait behind it: a no-op takes it");
        self.emit(Effect::Sign {
            fence,
            id,
            ticket,
            what: ToSign::NoOp,
            gas_limit: NOOP_GAS,
            fees: policy.initial(base_fee, tip),
        });
    }

    /// Whether these bytes were for a gap: they are committed then, as the first attempt of a slot without payments.
    pub(super) fn on_gap_signed(
        &mut self,
        fence: FencedLane,
        id: SlotId,
        attempt: &Attempt,
    ) -> bool {
        let lane = self.lane_mut(fence);
        let Some(lane) = lane.filter(|lane| matches!(lane.gap, Gap::Signing(at) if at == id.nonce))
        else {
            return false;
        };
        lane.gap = Gap::Committing(id.nonce, attempt.clone());
        self.emit(Effect::OpenSlot {
            fence,
            id,
            attempt: attempt.clone(),
            payments: Vec::new(),
            top_up: None,
            after: None,
        });
        true
    }

    /// Whether this slot was for a gap: its no-op is sent then.
    pub(super) fn on_gap_opened(&mut self, fence: FencedLane, id: SlotId, now_ms: u64) -> bool {
        let lane = self.lane_mut(fence);
        let Some(lane) =
            lane.filter(|lane| matches!(&lane.gap, Gap::Committing(at, _) if *at == id.nonce))
        else {
            return false;
        };
        let Gap::Committing(_, attempt) = std::mem::take(&mut lane.gap) else {
            return false;
        };
        let sent = Phase::Sent {
            acknowledged: false,
        };
        let slot = OpenSlot::new(Vec::new(), vec![attempt.clone()], sent, now_ms);
        lane.slots.insert(id.nonce, slot);
        self.judge_attempts(id);
        self.emit(Effect::Broadcast {
            id,
            attempt,
            again: Again::First,
        });
        true
    }
}
