//! The lanes that this process holds on a network, and which of them are more than its share.

use std::collections::HashMap;
use std::time::Duration;

use alloy_primitives::Address;
use teller_domain::FencedLane;
use teller_store::Settlers;
use tokio::time::Instant;

/// A lane that nobody wanted, although it was there for the taking, stays for so many leases: another settler may lack its
/// key.
const UNWANTED_LEASES: u32 = 20;

/// A lane that this process holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holding {
    pub(crate) fence: FencedLane,
    /// When the lease was last asked for that the ledger granted.
    pub(crate) renewed: Instant,
    /// It is not handed over before this, so that no lane goes to and fro. A settler that arrives need not wait.
    stays_until: Instant,
}

/// The lanes that a process holds on one network.
#[derive(Debug)]
pub(crate) struct Holdings {
    lanes: HashMap<Address, Holding>,
    /// The epochs under which lanes were handed over.
    handed_over: HashMap<Address, u64>,
    settlers: Option<Settlers>,
    /// How many signers the process has.
    signers: u64,
    lease: Duration,
}

impl Holdings {
    pub(crate) fn new(signers: usize, lease: Duration) -> Self {
        Self {
            lanes: HashMap::new(),
            handed_over: HashMap::new(),
            settlers: None,
            signers: u64::try_from(signers).unwrap_or(u64::MAX),
            lease,
        }
    }

    pub(crate) fn all(&self) -> Vec<Holding> {
        self.lanes.values().copied().collect()
    }

    pub(crate) fn fence(&self, signer: Address) -> Option<FencedLane> {
        self.lanes.get(&signer).map(|holding| holding.fence)
    }

    /// A lane is this process's, by a lease that was asked for then.
    pub(crate) fn take(&mut self, fence: FencedLane, asked: Instant) {
        let handed_over = self.handed_over.remove(&fence.signer);
        // Giving it up raised the epoch by one, taking it again by another one: nobody had it in between.
        let unwanted = handed_over.is_some_and(|epoch| epoch.saturating_add(2) == fence.epoch);
        let leases = if unwanted { UNWANTED_LEASES } else { 1 };
        let holding = Holding {
            fence,
            renewed: asked,
            stays_until: asked + self.lease * leases,
        };
        self.lanes.insert(fence.signer, holding);
    }

    /// Notes a granted lease, if the lane is still held as it was.
    pub(crate) fn note_renewed(&mut self, fence: FencedLane, asked: Instant) {
        if let Some(holding) = self.lanes.get_mut(&fence.signer)
            && holding.fence == fence
        {
            holding.renewed = asked;
        }
    }

    /// Forgets a lane, if it is still held as it was. Whoever is told `true` tells the core.
    pub(crate) fn let_go(&mut self, fence: FencedLane) -> bool {
        let held = self.fence(fence.signer) == Some(fence);
        if held {
            self.lanes.remove(&fence.signer);
        }
        held
    }

    /// Forgets a lane that another process is to have.
    pub(crate) fn hand_over(&mut self, fence: FencedLane) {
        if self.let_go(fence) {
            self.handed_over.insert(fence.signer, fence.epoch);
        }
    }

    /// What the ledger says of those who settle. One more than before gets its share at once.
    pub(crate) fn note_settlers(&mut self, settlers: Settlers, now: Instant) {
        let before = self.settlers.replace(settlers);
        if before.is_some_and(|before| settlers.living() > before.living()) {
            for holding in self.lanes.values_mut() {
                holding.stays_until = now;
            }
        }
    }

    /// The lanes of which one is to be handed over; none while this process holds no more than its share.
    pub(crate) fn surplus(&self, now: Instant) -> Vec<FencedLane> {
        let held = u64::try_from(self.lanes.len()).unwrap_or(u64::MAX);
        let share = self.settlers.map(|settlers| settlers.share(self.signers));
        if share.is_none_or(|share| held <= share) {
            return Vec::new();
        }
        let lanes = self.lanes.values();
        lanes
            .filter(|holding| holding.stays_until <= now)
            .map(|holding| holding.fence)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use teller_domain::ChainId;

    use super::*;

    const LEASE: Duration = Duration::from_secs(6);

    fn fence(signer: u8, epoch: u64) -> FencedLane {
        FencedLane {
            chain: ChainId(84532),
            signer: Address::repeat_byte(signer),
            epoch,
        }
    }

    /// A process with four signers that holds all four lanes since just now.
    fn holds_all(now: Instant) -> Holdings {
        let mut holdings = Holdings::new(4, LEASE);
        holdings.note_settlers(Settlers::new(0, 0), now);
        for signer in 1..=4 {
            holdings.take(fence(signer, 1), now);
        }
        holdings
    }

    #[test]
    fn a_settler_that_arrives_gets_its_share_and_no_more() {
        let now = Instant::now();
        let mut holdings = holds_all(now);
        assert!(holdings.surplus(now + 2 * LEASE).is_empty(), "alone");
        holdings.note_settlers(Settlers::new(1, 1), now);
        for left in [4, 3] {
            let surplus = holdings.surplus(now);
            assert_eq!(surplus.len(), left);
            holdings.hand_over(surplus[0]);
        }
        assert!(holdings.surplus(now).is_empty(), "two each");
    }

    #[test]
    fn before_the_ledger_has_told_who_settles_nothing_is_handed_over() {
        let now = Instant::now();
        let mut holdings = Holdings::new(1, LEASE);
        holdings.take(fence(1, 1), now);
        holdings.take(fence(2, 1), now);
        assert!(holdings.surplus(now + 2 * LEASE).is_empty());
    }

    #[test]
    fn a_lane_that_was_just_taken_stays_for_a_lease() {
        let now = Instant::now();
        let mut holdings = holds_all(now);
        holdings.note_settlers(Settlers::new(1, 1), now);
        for signer in [3, 4] {
            holdings.hand_over(fence(signer, 1));
        }
        // The other one is dead, and is not known to be: its leases ran out.
        holdings.take(fence(3, 4), now);
        holdings.take(fence(4, 4), now);
        assert_eq!(holdings.surplus(now).len(), 2, "the two that it had");
        holdings.note_settlers(Settlers::new(0, 0), now);
        assert!(holdings.surplus(now + 2 * LEASE).is_empty());
        holdings.note_settlers(Settlers::new(1, 1), now);
        assert_eq!(holdings.surplus(now).len(), 4, "it is back");
    }

    #[test]
    fn a_lane_that_nobody_wanted_is_not_handed_over_again_soon() {
        let now = Instant::now();
        let mut holdings = holds_all(now);
        holdings.note_settlers(Settlers::new(1, 1), now);
        for signer in 1..=4 {
            holdings.hand_over(fence(signer, 1));
            holdings.take(fence(signer, 3), now);
        }
        assert!(holdings.surplus(now + 2 * LEASE).is_empty());
        assert_eq!(holdings.surplus(now + 20 * LEASE).len(), 4);
    }

    #[test]
    fn a_lane_that_is_held_anew_is_not_let_go_under_its_old_epoch() {
        let now = Instant::now();
        let mut holdings = holds_all(now);
        holdings.take(fence(1, 2), now);
        assert!(!holdings.let_go(fence(1, 1)));
        holdings.hand_over(fence(1, 1));
        assert_eq!(holdings.fence(Address::repeat_byte(1)), Some(fence(1, 2)));
        assert!(holdings.let_go(fence(1, 2)));
    }
}
