//! What the ledger forgets. Settlements, slots and attempts stay for ever.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::StoreResult;

const HOUR_MS: i64 = 60 * 60 * 1_000;
/// Outbox rows of settlements that have not changed for this long are removed.
pub(crate) const EVENTS_KEPT_MS: i64 = 7 * 24 * HOUR_MS;
/// Idempotency keys that were bound this long ago are removed.
pub(crate) const KEYS_KEPT_MS: i64 = 7 * 24 * HOUR_MS;
/// Processes whose lease ended this long ago are removed.
pub(crate) const DEAD_PROCESSES_KEPT_MS: i64 = 24 * HOUR_MS;
/// How many rows of each kind one transaction removes at most: others wait for it.
pub(crate) const PRUNED_AT_ONCE: i64 = 2_000;
/// How many transactions one chore makes at most.
const MOST_ROUNDS: u32 = 100;
/// How often a process prunes.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// The oldest outbox rows, up to the first of a settlement that has changed lately: what is left has no gaps. Rows whose
/// settlement was replaced are no events any more. The newest row stays, because sequences go on from it.
/// `$1` and `$2` are [`EVENTS_KEPT_MS`] and [`PRUNED_AT_ONCE`], which both kinds of ledger name alike.
macro_rules! prune_outbox {
    ($clock:expr) => {
        concat!(
            "WITH oldest AS (SELECT o.sequence, s.updated_at ",
            "FROM (SELECT sequence, settlement_id FROM outbox ORDER BY sequence LIMIT $2) AS o ",
            "LEFT JOIN settlements AS s ON s.id = o.settlement_id) ",
            "DELETE FROM outbox WHERE sequence <= (SELECT max(sequence) FROM oldest) ",
            "AND sequence < coalesce((SELECT min(sequence) FROM oldest ",
            "WHERE updated_at >= (SELECT ms - $1 FROM ",
            $clock,
            ")), 9223372036854775807) AND sequence < (SELECT max(sequence) FROM outbox)"
        )
    };
}
macro_rules! prune_keys {
    ($clock:expr) => {
        concat!(
            "DELETE FROM idempotency_keys WHERE key_hash IN (SELECT key_hash FROM idempotency_keys ",
            "WHERE bound_at < (SELECT ms - $1 FROM ",
            $clock,
            ") ORDER BY bound_at LIMIT $2)"
        )
    };
}
macro_rules! prune_processes {
    ($clock:expr) => {
        concat!(
            "DELETE FROM processes WHERE lease_until < (SELECT ms - $1 FROM ",
            $clock,
            ")"
        )
    };
}
pub(crate) use {prune_keys, prune_outbox, prune_processes};

/// When this process pruned last.
#[derive(Debug, Default)]
pub(crate) struct Pruning {
    last: Mutex<Option<Instant>>,
}

impl Pruning {
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= PRUNE_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }

    /// Prunes beside the caller if it is time. Each `round` is a transaction of its own and answers whether there is
    /// more; a failed one is tried again next time.
    pub(crate) fn run_if_due<F, R>(&self, round: F)
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = StoreResult<bool>> + Send,
    {
        if !self.is_due(Instant::now()) {
            return;
        }
        tokio::spawn(async move {
            for _ in 0..MOST_ROUNDS {
                match round().await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!(%error, "old rows of the ledger could not be pruned");
                        return;
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_prunes_at_its_start_and_every_minute() {
        let (pruning, start) = (Pruning::default(), Instant::now());
        assert!(pruning.is_due(start));
        assert!(!pruning.is_due(start + PRUNE_EVERY / 2));
        assert!(pruning.is_due(start + PRUNE_EVERY));
        assert!(!pruning.is_due(start + PRUNE_EVERY));
    }
}
