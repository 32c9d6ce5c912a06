//! When to look for the next block. Pure: moments are passed in.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest and longest pause between two looks while a block is due.
const MIN_STEP: Duration = Duration::from_millis(15);
const MAX_STEP: Duration = Duration::from_millis(250);
/// Good predictions in a row before the watcher dares to sleep through most of an interval.
const TRUSTED_AFTER: u32 = 2;
/// Looks at half the pause around the predicted moment.
const CLOSE_LOOKS: u32 = 6;
/// A chain that is this many intervals late is looked at less often.
const STALLED_INTERVALS: u32 = 10;
/// Longest pause after errors.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Learns the rhythm of a chain and says how long to wait before the next look.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    hint: Duration,
    interval: Duration,
    /// The estimated moment of the last block.
    beat: Option<Instant>,
    /// The last look that found nothing new.
    missed: Option<Instant>,
    good: u32,
    looks: u32,
    errors: u32,
}

impl Pace {
    pub(crate) fn new(hint: Duration) -> Self {
        let hint = hint.max(MIN_STEP);
        Self {
            hint,
            interval: hint,
            beat: None,
            missed: None,
            good: 0,
            looks: 0,
            errors: 0,
        }
    }

    /// The observed time between blocks.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    fn step(&self) -> Duration {
        (self.interval / 25).clamp(MIN_STEP, MAX_STEP)
    }

    /// A look that began at `asked` found nothing new.
    pub(crate) fn nothing_new(&mut self, asked: Instant) {
        self.errors = 0;
        self.looks = self.looks.saturating_add(1);
        self.missed = Some(asked);
    }

    /// A look that began at `asked` found `blocks` new ones.
    pub(crate) fn found(&mut self, asked: Instant, blocks: u64) {
        self.errors = 0;
        self.looks = 0;
        // The block came between the last look without it and this one; without such a look it came earlier than
        // expected, and the guess moves ahead of this look.
        let half = self.step() / 2;
        let arrived = match self.missed.take() {
            Some(missed) => missed + asked.saturating_duration_since(missed) / 2,
            None => asked.checked_sub(half).unwrap_or(asked),
        };
        let Some(beat) = self.beat.replace(arrived) else {
            return;
        };
        let passed = arrived.saturating_duration_since(beat);
        let expected = self
            .interval
            .saturating_mul(u32::try_from(blocks).unwrap_or(u32::MAX));
        if passed.abs_diff(expected) <= self.interval / 6 {
            self.good = self.good.saturating_add(1);
            let each = passed / u32::try_from(blocks.max(1)).unwrap_or(u32::MAX);
            self.interval = (self.interval * 7 + each) / 8;
            // The rhythm is steadier than the looks at it: lean on the prediction, correct it a little.
            let predicted = beat + expected;
            self.beat = Some(if arrived > predicted {
                predicted + (arrived - predicted) / 4
            } else {
                predicted
                    .checked_sub((predicted - arrived) / 4)
                    .unwrap_or(arrived)
            });
        } else {
            self.good = 0;
            // Towards what was seen, if it could be a rhythm at all; never far from what was configured.
            let each = passed / u32::try_from(blocks.max(1)).unwrap_or(u32::MAX);
            let each = each.clamp(self.hint / 4, self.hint * 2);
            self.interval = (self.interval + each) / 2;
        }
    }

    /// A look failed.
    pub(crate) fn failed(&mut self) {
        self.errors = self.errors.saturating_add(1);
    }

    /// How long to wait before the next look.
    pub(crate) fn pause(&self, now: Instant) -> Duration {
        if self.errors > 0 {
            let backoff = self.step().saturating_mul(1 << self.errors.min(8));
            return backoff.min(MAX_BACKOFF);
        }
        let Some(beat) = self.beat else {
            return self.step();
        };
        if self.good < TRUSTED_AFTER {
            return self.slack(now, beat, self.step());
        }
        let lead = self.step() / 4;
        let next = beat + self.interval;
        match next.checked_sub(lead) {
            Some(wake) if wake > now => wake - now,
            _ if self.looks <= CLOSE_LOOKS => (self.step() / 2).max(MIN_STEP),
            _ => self.slack(now, beat, self.step()),
        }
    }

    /// The pause, longer when the chain stands still.
    fn slack(&self, now: Instant, beat: Instant, step: Duration) -> Duration {
        if now.saturating_duration_since(beat) > self.interval * STALLED_INTERVALS {
            (step * 3).min(MAX_STEP)
        } else {
            step
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the pace against a chain that makes a block at each of `beats` and gives (looks, lag of each detection).
    fn follow(hint: Duration, beats: &[Duration]) -> (u32, Vec<Duration>) {
        let start = Instant::now();
        let mut pace = Pace::new(hint);
        let (mut now, mut seen, mut looks) = (Duration::ZERO, 0, 0);
        let mut lags = Vec::new();
        while seen < beats.len() {
            looks += 1;
            let made = beats.iter().take_while(|beat| **beat <= now).count();
            if made > seen {
                lags.push(now - beats[made - 1]);
                pace.found(start + now, (made - seen) as u64);
                seen = made;
            } else {
                pace.nothing_new(start + now);
            }
            now += pace.pause(start + now) + Duration::from_millis(2);
        }
        (looks, lags)
    }

    #[test]
    fn steady_blocks_are_seen_at_once_with_few_looks() {
        for (millis, most) in [(1000_u64, 30), (2000, 60), (250, 20)] {
            let beats: Vec<_> = (1..=60)
                .map(|n| Duration::from_millis(n * millis))
                .collect();
            let (looks, lags) = follow(Duration::from_millis(millis), &beats);
            let steady = &lags[10..];
            let average = steady.iter().sum::<Duration>() / steady.len() as u32;
            assert!(
                average < Duration::from_millis(most),
                "{millis}: {average:?}"
            );
            assert!(looks < 60 * 5 + 60, "{millis}: {looks} looks");
        }
    }

    #[test]
    fn blocks_without_a_rhythm_are_not_slept_through() {
        let beats: Vec<_> = [100, 130, 900, 2_500, 2_600, 2_900, 7_000, 7_050]
            .map(Duration::from_millis)
            .to_vec();
        let (_, lags) = follow(Duration::from_secs(1), &beats);
        assert!(
            lags.iter().all(|lag| *lag < Duration::from_millis(80)),
            "{lags:?}"
        );
    }

    #[test]
    fn errors_back_off_to_a_bound() {
        let mut pace = Pace::new(Duration::from_secs(1));
        for _ in 0..40 {
            pace.failed();
        }
        assert_eq!(pace.pause(Instant::now()), MAX_BACKOFF);
    }
}
