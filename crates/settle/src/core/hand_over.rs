//! Lanes that are handed over while this process lives, so that another one gets its share of them.

use teller_domain::FencedLane;

use super::{Core, Effect};

/// Open slots may take so long to come to their end before a lane goes as it is: whoever takes it goes on with them.
const PATIENCE_MS: u64 = 5_000;

impl Core {
    /// One of these lanes is to go: one without open slots, or else the one with the fewest. It takes no more batches.
    pub(super) fn on_hand_over(&mut self, among: &[FencedLane], now_ms: u64) {
        if self.lanes.values().any(|lane| lane.leaving_since.is_some()) {
            return;
        }
        let among = |fence: &FencedLane| among.contains(fence);
        let candidates = self.lanes.values_mut().filter(|lane| among(&lane.fence));
        let lane = candidates.min_by_key(|lane| (lane.slots.len(), lane.forming.is_some()));
        if let Some(lane) = lane {
            lane.leaving_since = Some(now_ms);
        }
    }

    /// Lets lanes go that are on their way out. Nobody takes them back here: they are asked for again once the ledger
    /// says that they are nobody's.
    pub(super) fn hand_over(&mut self, now_ms: u64) {
        let leaving = self.lanes.values().filter(|lane| {
            lane.leaving_since.is_some_and(|since| {
                let waited = now_ms.saturating_sub(since) >= PATIENCE_MS;
                lane.forming.is_none() && (lane.slots.is_empty() || waited)
            })
        });
        for fence in leaving.map(|lane| lane.fence).collect::<Vec<_>>() {
            self.drop_lane(fence.signer);
            self.emit(Effect::ReleaseLane { fence });
        }
    }
}
