//! What to pay for gas. Pure functions; the node's numbers are passed in.

use teller_domain::Fees;

/// How an operator bounds fees, wei for each unit of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeePolicy {
    /// The tip is never below this.
    pub tip_floor: u128,
    /// A first attempt's tip is never above this. Replacements rise past it.
    pub tip_cap: u128,
    /// `maxFeePerGas` is never above this, if set; replacements that could not outbid their predecessor under it are
    /// not made.
    pub max_fee_ceiling: Option<u128>,
}

/// `maxFeePerGas` covers the base fee this many times over: at 4 % a block, 35 blocks of the steepest rise.
const BASE_FEE_MULTIPLE: u128 = 4;

impl Default for FeePolicy {
    /// A floor of 1,000 wei and a cap of 2 gwei, without a ceiling.
    fn default() -> Self {
        Self {
            tip_floor: 1_000,
            tip_cap: 2_000_000_000,
            max_fee_ceiling: None,
        }
    }
}

impl FeePolicy {
    /// The same policy for a no-op: it is 21,000 gas, and everything behind it waits until it is mined.
    pub fn without_ceiling(&self) -> Self {
        Self {
            max_fee_ceiling: None,
            ..*self
        }
    }

    /// The fees of a first attempt: `maxFee = 4 x base fee + tip`, the tip being the node's, floored and capped.
    pub fn initial(&self, base_fee: u128, node_tip: u128) -> Fees {
        let tip = node_tip.min(self.tip_cap).max(self.tip_floor);
        let max_fee = base_fee
            .saturating_mul(BASE_FEE_MULTIPLE)
            .saturating_add(tip);
        let max_fee = self
            .max_fee_ceiling
            .map_or(max_fee, |ceiling| max_fee.min(ceiling));
        Fees {
            max_fee_per_gas: max_fee,
            max_priority_fee_per_gas: tip.min(max_fee),
        }
    }

    /// The fees of a replacement: both at least 12.5 % above the old ones (nodes demand 10 %), or what a first attempt
    /// would pay now if that is more. `None` when the ceiling leaves no room for that.
    pub fn replacement(&self, old: Fees, base_fee: u128, node_tip: u128) -> Option<Fees> {
        let fresh = self.initial(base_fee, node_tip);
        let tip = raise(old.max_priority_fee_per_gas).max(fresh.max_priority_fee_per_gas);
        let raised = raise(old.max_fee_per_gas);
        if self.max_fee_ceiling.is_some_and(|ceiling| raised > ceiling) {
            return None;
        }
        let max_fee = raised.max(fresh.max_fee_per_gas);
        Some(Fees {
            max_fee_per_gas: max_fee,
            max_priority_fee_per_gas: tip.min(max_fee),
        })
    }

    /// The `maxFeePerGas` of an attempt that was replaced so many times, while the base fee asks for no more than that.
    pub fn replaced(&self, max_fee_per_gas: u128, times: usize) -> u128 {
        let mut fee = max_fee_per_gas;
        for _ in 0..times {
            let raised = raise(fee);
            if self.max_fee_ceiling.is_some_and(|ceiling| raised > ceiling) {
                break;
            }
            fee = raised;
        }
        fee
    }

    /// Whether even the base fee alone is above the operator's ceiling: nothing new is worth signing until it falls.
    pub fn exceeds_ceiling(&self, base_fee: u128) -> bool {
        self.max_fee_ceiling
            .is_some_and(|ceiling| base_fee >= ceiling)
    }
}

/// 12.5 % more, rounded up, and at least one more.
fn raise(fee: u128) -> u128 {
    fee.saturating_add(fee.div_ceil(8).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use teller_domain::invariants::replaces;

    #[test]
    fn a_first_attempt_pays_four_times_the_base_fee_and_the_tip() {
        let fees = FeePolicy::default().initial(5_000_000, 1_000_000);
        assert_eq!(fees.max_fee_per_gas, 21_000_000);
        assert_eq!(fees.max_priority_fee_per_gas, 1_000_000);
    }

    #[test]
    fn what_replacements_come_to_is_known_before() {
        let mut policy = FeePolicy::default();
        let mut fees = policy.initial(5_000_000, 1_000_000);
        assert_eq!(policy.replaced(fees.max_fee_per_gas, 0), 21_000_000);
        let foreseen = policy.replaced(fees.max_fee_per_gas, 3);
        for _ in 0..3 {
            fees = policy.replacement(fees, 5_000_000, 1_000_000).unwrap();
        }
        assert_eq!(foreseen, fees.max_fee_per_gas);
        policy.max_fee_ceiling = Some(24_000_000);
        assert_eq!(policy.replaced(21_000_000, 3), 23_625_000);
    }

    #[test]
    fn a_replacement_without_room_under_the_ceiling_is_not_made() {
        let policy = FeePolicy {
            max_fee_ceiling: Some(110),
            ..FeePolicy::default()
        };
        let old = Fees {
            max_fee_per_gas: 100,
            max_priority_fee_per_gas: 1,
        };
        assert_eq!(policy.replacement(old, 1, 1), None);
    }

    #[test]
    fn without_the_ceiling_a_replacement_outbids_past_it_and_floor_and_cap_stay() {
        let policy = FeePolicy {
            tip_floor: 5,
            tip_cap: 50,
            max_fee_ceiling: Some(110),
        };
        let old = policy.initial(1_000, 20);
        assert_eq!(old.max_fee_per_gas, 110);
        assert!(policy.exceeds_ceiling(1_000));
        assert_eq!(policy.replacement(old, 1_000, 20), None);

        let free = policy.without_ceiling();
        assert!(!free.exceeds_ceiling(1_000));
        let new = free.replacement(old, 1_000, 20).unwrap();
        assert!(replaces(old, new) && new.max_fee_per_gas >= 4_000);
        assert_eq!(free.initial(1_000, 0).max_priority_fee_per_gas, 5);
        assert_eq!(free.initial(1_000, 1_000).max_priority_fee_per_gas, 50);
    }

    proptest! {
        #[test]
        fn every_replacement_outbids(max in 1_u128..1 << 100, tip in 0_u128..1 << 100, base in 0_u128..1 << 90, node in 0_u128..1 << 90) {
            let old = Fees { max_fee_per_gas: max, max_priority_fee_per_gas: tip.min(max) };
            let new = FeePolicy::default().replacement(old, base, node).unwrap();
            prop_assert!(replaces(old, new));
            prop_assert!(new.max_priority_fee_per_gas <= new.max_fee_per_gas);
            prop_assert!(new.max_fee_per_gas >= base.saturating_mul(4));
        }

        #[test]
        fn no_fee_passes_the_ceiling(max in 1_u128..1 << 60, base in 0_u128..1 << 60, node in 0_u128..1 << 60, ceiling in 1_u128..1 << 60) {
            let policy = FeePolicy { max_fee_ceiling: Some(ceiling), ..FeePolicy::default() };
            let first = policy.initial(base, node);
            prop_assert!(first.max_fee_per_gas <= ceiling);
            prop_assert!(first.max_priority_fee_per_gas <= first.max_fee_per_gas);
            let old = Fees { max_fee_per_gas: max, max_priority_fee_per_gas: 0 };
            if let Some(new) = policy.replacement(old, base, node) {
                prop_assert!(new.max_fee_per_gas <= ceiling && replaces(old, new));
            }
        }
    }
}
