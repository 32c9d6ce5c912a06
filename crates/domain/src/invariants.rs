//! The rules of DESIGN section 8 that can be said of values alone, each one pure function. Tests, simulation and
//! production counters call the same ones.

use alloy_primitives::U256;

use crate::{Attempt, AttemptKind, CompensationKind, Fees, SettlementStateKind, Told, Wei};

/// EIP-7825: no transaction may ask for more gas. Enforced on Base.
pub const TRANSACTION_GAS_CAP: u64 = 16_777_216;

/// Splits `total` over `weights` by largest remainder, so that the parts sum exactly to the whole (invariant 9).
///
/// Ties go to the earlier item. With all weights zero the split is even.
pub fn split_by_largest_remainder(total: Wei, weights: &[u64]) -> Vec<Wei> {
    let mut weights: Vec<U256> = weights.iter().map(|weight| U256::from(*weight)).collect();
    let mut sum = weights
        .iter()
        .fold(U256::ZERO, |sum, weight| sum.saturating_add(*weight));
    if sum.is_zero() {
        weights.iter_mut().for_each(|weight| *weight = U256::ONE);
        sum = U256::from(weights.len());
    }
    if sum.is_zero() {
        return Vec::new();
    }
    // total = quotient * sum + rest; the rest is below the sum, so its products with a weight fit in 256 bits.
    let (quotient, rest) = total.0.div_rem(sum);
    let mut parts: Vec<(U256, U256)> = weights
        .iter()
        .map(|weight| {
            let (share, remainder) = rest.saturating_mul(*weight).div_rem(sum);
            (
                quotient.saturating_mul(*weight).saturating_add(share),
                remainder,
            )
        })
        .collect();
    let given = parts
        .iter()
        .fold(U256::ZERO, |given, (share, _)| given.saturating_add(*share));
    let left: usize = total.0.saturating_sub(given).saturating_to();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order
        .sort_by_key(|index| std::cmp::Reverse(parts.get(*index).map(|(_, remainder)| *remainder)));
    for index in order.into_iter().take(left) {
        if let Some((share, _)) = parts.get_mut(index) {
            *share = share.saturating_add(U256::ONE);
        }
    }
    parts.into_iter().map(|(share, _)| Wei(share)).collect()
}

/// Invariant 6, the fees' half: a replacement raises both fields by at least 10 %.
pub fn replaces(old: Fees, new: Fees) -> bool {
    let raised = |old: u128, new: u128| new.saturating_mul(10) >= old.saturating_mul(11);
    raised(old.max_fee_per_gas, new.max_fee_per_gas)
        && raised(old.max_priority_fee_per_gas, new.max_priority_fee_per_gas)
}

/// Invariants 6 and 11 for a slot: attempts stay under the gas cap, each outbids the one before, and after a no-op
/// only no-ops follow.
pub fn attempts_are_sound(attempts: &[Attempt]) -> bool {
    let under_cap = attempts
        .iter()
        .all(|attempt| attempt.gas_limit <= TRANSACTION_GAS_CAP);
    let rising = attempts
        .iter()
        .zip(attempts.iter().skip(1))
        .all(|(old, new)| {
            replaces(old.fees, new.fees) && (new.kind == old.kind || new.kind == AttemptKind::NoOp)
        });
    under_cap && rising
}

/// Which compensating entry a change of state calls for, given what was told before it (invariant 2).
pub fn compensation(
    told: Option<Told>,
    old: SettlementStateKind,
    new: SettlementStateKind,
) -> Option<CompensationKind> {
    let settled = |kind| {
        matches!(
            kind,
            SettlementStateKind::Settled | SettlementStateKind::SettledExternally
        )
    };
    let ended = |kind| {
        matches!(
            kind,
            SettlementStateKind::Failed | SettlementStateKind::Expired
        )
    };
    match told? {
        Told::Success { .. } if !ended(old) && ended(new) => {
            Some(CompensationKind::SuccessTakenBack)
        }
        Told::Success { .. } if ended(old) && settled(new) => {
            Some(CompensationKind::SuccessRestored)
        }
        Told::Failure { .. } if !settled(old) && settled(new) => {
            Some(CompensationKind::FailureSettled)
        }
        Told::Failure { .. } if settled(old) && !settled(new) => {
            Some(CompensationKind::FailureRestored)
        }
        Told::Success { .. } | Told::Failure { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_sum_exactly_to_the_whole(total: [u64; 3], weights in prop::collection::vec(any::<u32>(), 1..300)) {
            let [a, b, c] = total;
            let total = Wei(U256::from_limbs([a, b, c, 0]));
            let weights: Vec<u64> = weights.into_iter().map(u64::from).collect();
            let parts = split_by_largest_remainder(total, &weights);
            prop_assert_eq!(parts.len(), weights.len());
            let sum = parts.iter().fold(U256::ZERO, |sum, part| sum + part.0);
            prop_assert_eq!(sum, total.0);
        }

        #[test]
        fn a_larger_weight_never_pays_less(total: u64, a: u32, b: u32) {
            let parts = split_by_largest_remainder(Wei::from(total), &[u64::from(a), u64::from(b)]);
            prop_assert!((a < b) || parts[0] >= parts[1]);
        }
    }

    #[test]
    fn a_split_without_weights_is_even() {
        assert_eq!(
            split_by_largest_remainder(Wei::from(7), &[0, 0, 0]),
            [3, 2, 2].map(Wei::from)
        );
        assert!(split_by_largest_remainder(Wei::from(7), &[]).is_empty());
    }

    #[test]
    fn both_fees_must_rise_by_a_tenth() {
        let fees = |max_fee_per_gas, max_priority_fee_per_gas| Fees {
            max_fee_per_gas,
            max_priority_fee_per_gas,
        };
        assert!(replaces(fees(100, 10), fees(110, 11)));
        assert!(!replaces(fees(100, 10), fees(109, 11)));
        assert!(!replaces(fees(100, 10), fees(200, 10)));
    }
}
