//! What this process has just found good, so that a settle right after its verify does not read the chain again.
//! Bounded: two generations, the older one is dropped whole.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use teller_domain::{AssetAmount, PaymentDigest};

/// How long a finding counts.
const FRESH_FOR: Duration = Duration::from_secs(3);
/// How many blocks may have come since.
const FRESH_BLOCKS: u64 = 2;
/// Findings in one generation. Two of them take some 10 MB.
const GENERATION: usize = 32_768;

/// Who judged a payment's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judge {
    /// The signature is the payer's key's, and the payer has no code.
    Key,
    /// The payer's code.
    PayersCode,
    /// The code that the payer will have.
    NewCode,
}

/// The payer's balance and where it was read. Only what keys have judged is kept: code may change its mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) balance: AssetAmount,
    pub(crate) block: u64,
    pub(crate) judge: Judge,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<PaymentDigest, (Reading, Instant)>,
    old: HashMap<PaymentDigest, (Reading, Instant)>,
    since: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Fresh {
    generations: Mutex<Generations>,
}

impl Fresh {
    pub(crate) fn insert(&self, digest: PaymentDigest, reading: Reading, now: Instant) {
        let mut both = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let since = *both.since.get_or_insert(now);
        if both.young.len() >= GENERATION || now.duration_since(since) >= FRESH_FOR {
            both.old = std::mem::take(&mut both.young);
            both.since = Some(now);
        }
        both.young.insert(digest, (reading, now));
    }

    /// The finding, if it is still fresh when the head is at `head`.
    pub(crate) fn get(&self, digest: PaymentDigest, head: u64, now: Instant) -> Option<Reading> {
        let both = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = both.young.get(&digest).or_else(|| both.old.get(&digest));
        let (reading, at) = found?;
        let fresh = now.duration_since(*at) < FRESH_FOR && head <= reading.block + FRESH_BLOCKS;
        fresh.then_some(*reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;

    fn digest(n: usize) -> PaymentDigest {
        PaymentDigest(B256::left_padding_from(&n.to_be_bytes()))
    }

    const READING: Reading = Reading {
        balance: AssetAmount::ZERO,
        block: 10,
        judge: Judge::Key,
    };

    #[test]
    fn a_finding_is_fresh_for_three_seconds_and_two_blocks() {
        let (fresh, now) = (Fresh::default(), Instant::now());
        fresh.insert(digest(1), READING, now);
        assert_eq!(fresh.get(digest(1), 12, now), Some(READING));
        assert_eq!(fresh.get(digest(1), 13, now), None);
        assert_eq!(fresh.get(digest(1), 10, now + FRESH_FOR), None);
        assert_eq!(fresh.get(digest(2), 10, now), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (fresh, now) = (Fresh::default(), Instant::now());
        for n in 0..5 * GENERATION {
            fresh.insert(digest(n), READING, now);
        }
        let both = fresh.generations.lock().unwrap();
        assert!(both.young.len() + both.old.len() <= 2 * GENERATION);
    }
}
