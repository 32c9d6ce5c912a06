//! When an authorization is valid. Clocks have 64 bits; what payers sign may be any uint256, and wallets that mean
//! "forever" sign the highest.

use std::num::NonZeroU64;

use alloy_primitives::U256;

use crate::UnixSeconds;

/// The two times that a payer signed: `validAfter`, and `validBefore` (EIP-3009) or `deadline` (Permit2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Validity(Times);

/// Thousands of payments are held at a time, and nearly all of them have times near the present: those take 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Times {
    Near {
        valid_after: u64,
        end: NonZeroU64,
    },
    /// Beyond 64 bits, or without an end: all that [`Near`](Self::Near) cannot hold, and nothing else.
    Far(Box<Signed>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Signed {
    valid_after: U256,
    end: U256,
}

impl Validity {
    /// Of the numbers that were signed.
    pub fn signed(valid_after: U256, end: U256) -> Self {
        let near = u64::try_from(valid_after)
            .ok()
            .zip(u64::try_from(end).ok().and_then(NonZeroU64::new));
        Self(match near {
            Some((valid_after, end)) => Times::Near { valid_after, end },
            None => Times::Far(Box::new(Signed { valid_after, end })),
        })
    }

    /// Of moments on a clock.
    pub fn between(valid_after: UnixSeconds, end: UnixSeconds) -> Self {
        Self::signed(U256::from(valid_after.0), U256::from(end.0))
    }

    /// `validAfter`, as it was signed.
    pub fn valid_after(&self) -> U256 {
        match &self.0 {
            Times::Near { valid_after, .. } => U256::from(*valid_after),
            Times::Far(signed) => signed.valid_after,
        }
    }

    /// `validBefore` or `deadline`, as it was signed.
    pub fn end(&self) -> U256 {
        match &self.0 {
            Times::Near { end, .. } => U256::from(end.get()),
            Times::Far(signed) => signed.end,
        }
    }

    /// `validAfter` on a clock, whose last moment stands for all behind it.
    pub(crate) fn valid_after_on_clock(&self) -> UnixSeconds {
        match &self.0 {
            Times::Near { valid_after, .. } => UnixSeconds(*valid_after),
            Times::Far(signed) => UnixSeconds(signed.valid_after.saturating_to()),
        }
    }

    /// The end on a clock, whose last moment stands for all behind it.
    pub(crate) fn end_on_clock(&self) -> UnixSeconds {
        match &self.0 {
            Times::Near { end, .. } => UnixSeconds(end.get()),
            Times::Far(signed) => UnixSeconds(signed.end.saturating_to()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers() -> impl Strategy<Value = U256> {
        let edges = [U256::ZERO, U256::from(u64::MAX), U256::MAX];
        prop_oneof![
            prop::sample::select(edges.to_vec()),
            any::<u64>().prop_map(U256::from),
            any::<[u64; 4]>().prop_map(U256::from_limbs),
        ]
    }

    proptest! {
        #[test]
        fn every_number_is_kept_as_it_was_signed(valid_after in numbers(), end in numbers()) {
            let validity = Validity::signed(valid_after, end);
            prop_assert_eq!(validity.valid_after(), valid_after);
            prop_assert_eq!(validity.end(), end);
            let clock = U256::from(u64::MAX);
            prop_assert_eq!(U256::from(validity.valid_after_on_clock().0), valid_after.min(clock));
            prop_assert_eq!(U256::from(validity.end_on_clock().0), end.min(clock));
        }
    }

    #[test]
    fn times_near_the_present_take_no_more_than_two_numbers_of_a_clock() {
        assert_eq!(size_of::<Validity>(), 16);
    }
}
