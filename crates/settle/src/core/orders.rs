//! What operators and the engine itself decide about lanes: freezing, thawing, draining, rescuing.

use teller_domain::{BlockRef, FencedLane, LaneMode, SlotEnd, SlotId};

use super::lane::{Ending, Ordered};
use super::mined::{requeued, unexplained};
use super::{Core, Effect};

/// So many reads may be older than an own change: it is in the ledger by then, or the lane is lost. After that the old
/// mode is an operator's new order.
const OLD_READS: u32 = 5;

impl Core {
    /// The lane's mode as the ledger has it. What was read before an own change got there is old: it shows the mode before.
    /// Any other mode was ordered by somebody who had seen the change.
    pub(super) fn on_mode_read(&mut self, fence: FencedLane, mode: LaneMode, _now_ms: u64) {
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        match &mut lane.ordered {
            Some(ordered) if ordered.previous == mode && ordered.old_reads < OLD_READS => {
                ordered.old_reads += 1;
                return;
            }
            Some(_) => lane.ordered = None,
            None => {}
        }
        if lane.mode == mode {
            return;
        }
        lane.mode = mode;
        match mode {
            LaneMode::Thawing => self.begin_thaw(fence),
            LaneMode::Rescuing => self.end_rescue(fence),
            LaneMode::Active | LaneMode::Draining | LaneMode::Frozen => {}
        }
    }

    pub(super) fn set_mode(&mut self, fence: FencedLane, mode: LaneMode, slot: Option<SlotId>) {
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let from = std::mem::replace(&mut lane.mode, mode);
        lane.ordered = Some(Ordered {
            previous: from,
            old_reads: 0,
        });
        self.emit(Effect::SetMode {
            fence,
            from,
            mode,
            slot,
        });
    }

    /// An operator has looked: every slot is asked about once more; those that strangers took are closed, then the lane
    /// is active.
    pub(super) fn begin_thaw(&mut self, fence: FencedLane) {
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let unmined = lane.slots.iter_mut().filter(|(_, slot)| slot.is_unmined());
        let mut asked = Vec::new();
        for (nonce, slot) in unmined {
            // Freezing took two looks; confirming it takes one more.
            slot.foreign_uses = slot.foreign_uses.min(1);
            asked.push((*nonce, slot.lookup_ms));
        }
        lane.thawing = asked.iter().map(|(nonce, _)| *nonce).collect();
        let ids: Vec<_> = asked
            .into_iter()
            .map(|(nonce, looked)| (lane.slot_id(nonce), looked))
            .collect();
        for (id, looked) in ids {
            self.look_up(id, looked);
        }
        self.end_thaw(fence);
    }

    /// The slot needs no more thought before its lane is active again.
    pub(super) fn thawed(&mut self, id: SlotId) {
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let fence = lane.fence;
        if lane.thawing.remove(&id.nonce) {
            self.end_thaw(fence);
        }
    }

    fn end_thaw(&mut self, fence: FencedLane) {
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        if lane.mode != LaneMode::Thawing || !lane.thawing.is_empty() {
            return;
        }
        let idle = lane.slots.is_empty();
        self.set_mode(fence, LaneMode::Active, None);
        if idle {
            // Strangers may have used nonces beyond the last slot: without open slots the lane adopts the chain's.
            self.drop_lane(fence.signer);
            self.emit(Effect::ReclaimLane {
                signer: fence.signer,
            });
        }
    }

    /// A rescued lane without open slots is active again.
    pub(super) fn end_rescue(&mut self, fence: FencedLane) {
        let done = self
            .lane_mut(fence)
            .is_some_and(|lane| lane.mode == LaneMode::Rescuing && lane.slots.is_empty());
        if done {
            self.set_mode(fence, LaneMode::Active, None);
        }
    }

    /// A stranger's transaction took the slot's nonce, and an operator knows: its payments are looked into from now on.
    pub(super) fn close_foreign(&mut self, id: SlotId, block: BlockRef, now_ms: u64) {
        let cutoff = self.cutoff(now_ms).unwrap_or_default();
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let end = Ending {
            end: SlotEnd::Foreign,
            block,
            carried: false,
            succeeded: false,
        };
        let resolutions = match slot.goes_on(cutoff) {
            true => requeued(&slot.payments),
            false => unexplained(&slot.payments, &end),
        };
        self.close_slot(id, &end, resolutions, Vec::new());
    }
}
