//! When to look for the next block. Pure: moments are passed in.

use std::time::Duration;

use tokio::time::Instant;

/// Pauses between looks while a block is due: a part of the interval within these bounds.
const STEPS_PER_INTERVAL: u32 = 50;
const MIN_STEP: Duration = Duration::from_millis(15);
const MAX_STEP: Duration = Duration::from_millis(250);
/// Good predictions in a row before the watcher dares to sleep through most of an interval, and the most that count:
/// each bad one halves them, so that one odd block is forgiven and a lost rhythm is not followed for long.
const TRUSTED_AFTER: u32 = 2;
const MOST_TRUST: u32 = 8;
/// Looks at the shortest pause around the predicted moment; after these the pauses grow by half each.
const CLOSE_LOOKS: u32 = 4;
/// What a prediction may be off by, as a part of the interval, before it counts as bad.
const TOLERANCE: u32 = 6;
/// A chain that is this many intervals late is looked at less often.
const STALLED_INTERVALS: u32 = 10;
/// Longest pause after errors.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Learns the rhythm of a chain and says how long to wait before the next look.
///
/// A look tells only that a block came between it and the look before. A prediction that lies between the two is kept
/// as it is, another one is moved to the nearer of them: so a steady rhythm costs two looks a block, one shortly before
/// it is due and one after.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    hint: Duration,
    interval: Duration,
    /// The estimated moment of the last block.
    beat: Option<Instant>,
    /// How far predictions have been off lately.
    jitter: Duration,
    /// The last time between blocks that was not predicted.
    odd: Option<Duration>,
    /// The last look that found nothing new.
    missed: Option<Instant>,
    good: u32,
    /// Looks since the next block was due.
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
            jitter: Duration::ZERO,
            odd: None,
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

    /// Between looks around the moment that is predicted: the less often, the less that moment is to be relied on.
    fn step(&self) -> Duration {
        let fine = (self.interval / STEPS_PER_INTERVAL).max(self.jitter / 2);
        fine.clamp(MIN_STEP, MAX_STEP)
    }

    /// Between looks while there is no rhythm to predict by, or while it is in doubt which chain is the right one.
    pub(crate) fn coarse_step(&self) -> Duration {
        (self.step() * 2).min(MAX_STEP)
    }

    /// How long before the predicted moment the first look is.
    fn lead(&self) -> Duration {
        (self.step() / 2 + self.jitter * 2).min(self.interval / 4)
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
        let missed = self.missed.take();
        let Some(beat) = self.beat else {
            // The first block may have been there for long.
            self.beat = missed.map(|missed| middle(missed, asked));
            return;
        };
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX).max(1);
        let predicted = beat + self.interval.saturating_mul(blocks);
        let arrived = match missed {
            Some(missed) => predicted.clamp(missed.min(asked), asked),
            // It was there before the first look: earlier than that look by nobody knows how much.
            None => {
                let earlier = asked.checked_sub(self.lead()).unwrap_or(asked);
                predicted.min(earlier)
            }
        };
        let off = distance(arrived, predicted);
        if off <= self.interval / TOLERANCE {
            self.good = (self.good + 1).min(MOST_TRUST);
            self.jitter = (self.jitter * 7 + off) / 8;
            self.odd = None;
            // A rhythm that keeps being late or early is another rhythm; a young one is corrected faster.
            let correction = off / (self.good * blocks);
            self.interval = if arrived > predicted {
                self.interval + correction
            } else {
                self.interval.saturating_sub(correction)
            };
            self.beat = Some(arrived);
            return;
        }
        self.good /= 2;
        let arrived = missed.map_or(asked, |missed| middle(missed, asked));
        self.beat = Some(arrived);
        // A rhythm could be what was seen if it is not far from what was configured.
        let each = arrived.saturating_duration_since(beat) / blocks;
        let each = each.clamp(self.hint / 4, self.hint * 2);
        if self.good >= TRUSTED_AFTER {
            return;
        }
        match self.odd.replace(each) {
            // Twice the same: that is the rhythm.
            Some(odd) if odd.abs_diff(each) <= each / TOLERANCE => {
                self.interval = (odd + each) / 2;
                self.good = TRUSTED_AFTER;
            }
            _ => self.interval = (self.interval + each) / 2,
        }
    }

    /// A look failed.
    pub(crate) fn failed(&mut self) {
        self.errors = self.errors.saturating_add(1);
    }

    /// How long to wait before the next look.
    pub(crate) fn pause(&self, now: Instant) -> Duration {
        if self.errors > 0 {
            let backoff = self.coarse_step().saturating_mul(1 << self.errors.min(8));
            return backoff.min(MAX_BACKOFF);
        }
        let Some(beat) = self.beat else {
            return self.coarse_step();
        };
        if now.saturating_duration_since(beat) > self.interval * STALLED_INTERVALS {
            return (self.coarse_step() * 3).min(MAX_STEP);
        }
        if self.good < TRUSTED_AFTER {
            return self.coarse_step();
        }
        let first = (beat + self.interval).checked_sub(self.lead());
        match first {
            Some(first) if first > now => first - now,
            _ => self.late_step(),
        }
    }

    /// The pause while the block is due: short at first, longer the longer it does not come.
    fn late_step(&self) -> Duration {
        let longest = (self.interval / 10).clamp(MIN_STEP, MAX_STEP);
        let mut step = self.step();
        for _ in CLOSE_LOOKS..self.looks {
            if step >= longest {
                return longest;
            }
            step += step / 2;
        }
        step
    }
}

fn middle(from: Instant, to: Instant) -> Instant {
    from + to.saturating_duration_since(from) / 2
}

fn distance(one: Instant, other: Instant) -> Duration {
    match one > other {
        true => one - other,
        false => other - one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Followed {
        looks: u32,
        lags: Vec<Duration>,
    }

    impl Followed {
        fn average_lag(&self) -> Duration {
            self.lags.iter().sum::<Duration>() / u32::try_from(self.lags.len()).unwrap()
        }

        fn worst_lag(&self) -> Duration {
            self.lags.iter().copied().max().unwrap()
        }

        fn looks_a_block(&self) -> f64 {
            f64::from(self.looks) / self.lags.len() as f64
        }
    }

    /// Runs the pace against a chain that makes a block at each of `beats`, after `skip` blocks of learning.
    fn follow(hint: Duration, beats: &[Duration], skip: usize) -> Followed {
        let start = Instant::now();
        let mut pace = Pace::new(hint);
        let (mut now, mut seen) = (Duration::ZERO, 0);
        let mut followed = Followed {
            looks: 0,
            lags: Vec::new(),
        };
        while seen < beats.len() {
            followed.looks += u32::from(seen >= skip);
            let made = beats.iter().take_while(|beat| **beat <= now).count();
            if made > seen {
                if seen >= skip {
                    followed.lags.push(now - beats[made - 1]);
                }
                pace.found(start + now, (made - seen) as u64);
                seen = made;
            } else {
                pace.nothing_new(start + now);
            }
            now += pace.pause(start + now) + Duration::from_millis(2);
        }
        followed
    }

    /// Moments of `count` blocks, each up to `jitter` away from a steady rhythm.
    fn rhythm(interval: f64, jitter: f64, count: u32) -> Vec<Duration> {
        let off = |n: u32| (f64::from(n.wrapping_mul(2_654_435_761)) / f64::from(u32::MAX)) - 0.5;
        (1..=count)
            .map(|n| Duration::from_secs_f64(0.7 + f64::from(n) * interval + off(n) * 2.0 * jitter))
            .collect()
    }

    #[test]
    fn a_steady_rhythm_costs_few_looks_and_is_seen_at_once() {
        for (interval, hint) in [
            (1.0, 1.0),
            (1.0, 2.0),
            (1.003, 1.0),
            (0.997, 1.0),
            (2.0, 2.0),
            (0.25, 0.25),
        ] {
            let beats = rhythm(interval, 0.001, 120);
            let followed = follow(Duration::from_secs_f64(hint), &beats, 20);
            let (lag, looks) = (followed.average_lag(), followed.looks_a_block());
            assert!(
                lag.as_secs_f64() < interval.max(0.7) * 0.025,
                "{interval}: {lag:?}"
            );
            assert!(looks <= 3.0, "{interval}: {looks} looks a block");
        }
    }

    #[test]
    fn a_rhythm_that_wavers_costs_some_more() {
        for (interval, jitter) in [(1.0, 0.01), (1.0, 0.03), (2.0, 0.1)] {
            let beats = rhythm(interval, jitter, 220);
            let followed = follow(Duration::from_secs_f64(interval), &beats, 20);
            let (lag, looks) = (followed.average_lag(), followed.looks_a_block());
            let most = 0.02 + jitter / 2.0;
            assert!(lag.as_secs_f64() < most, "{interval} {jitter}: {lag:?}");
            assert!(looks <= 5.0, "{interval} {jitter}: {looks} looks a block");
        }
    }

    #[test]
    fn the_rhythm_is_learned_from_a_hint_that_is_wrong_by_half() {
        for hint in [0.6, 1.0, 1.5, 2.0, 3.0] {
            let beats = rhythm(1.0, 0.002, 40);
            let followed = follow(Duration::from_secs_f64(hint), &beats, 0);
            assert!(followed.looks < 200, "{hint}: {}", followed.looks);
            let followed = follow(Duration::from_secs_f64(hint), &beats, 10);
            let looks = followed.looks_a_block();
            assert!(looks <= 3.0, "{hint}: {looks} looks a block");
        }
    }

    #[test]
    fn one_odd_block_is_forgiven() {
        let mut beats = rhythm(1.0, 0.002, 60);
        for beat in beats.iter_mut().skip(40) {
            *beat += Duration::from_millis(400);
        }
        let followed = follow(Duration::from_secs(1), &beats, 20);
        assert!(followed.looks_a_block() <= 3.5);
        assert!(
            followed.worst_lag() < Duration::from_millis(110),
            "{:?}",
            followed.worst_lag()
        );
    }

    #[test]
    fn blocks_without_a_rhythm_are_not_slept_through() {
        let beats: Vec<_> = [100, 130, 900, 2_500, 2_600, 2_900, 7_000, 7_050]
            .map(Duration::from_millis)
            .to_vec();
        let followed = follow(Duration::from_secs(1), &beats, 0);
        assert!(followed.worst_lag() < Duration::from_millis(80));
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
