//! When a head beside the followed chain is followed. Behind a load balancer some answers may come from a node that is on a
//! short fork: such a head does not stay. Pure: moments are passed in.

use std::time::Duration;

use tokio::time::Instant;

/// A head beside the followed chain stays when it was shown this often, and the followed head not once in between, unless
/// that is lower.
const STAYS_LOOKS: u32 = 6;
/// After this many the highest one counts no more that was shown: it did not stay.
const FORGOTTEN_AFTER: u32 = 4 * STAYS_LOOKS;
/// And it stays for half a block interval, but for no longer than this.
const STAYS_AT_MOST: Duration = Duration::from_secs(2);

/// Heads beside the followed chain that are shown at the moment.
#[derive(Debug, Default)]
pub(super) struct Contest(Option<Rivals>);

#[derive(Debug, Clone, Copy)]
struct Rivals {
    since: Instant,
    shown: u32,
    highest: u64,
}

impl Contest {
    /// Whether it is in doubt which chain is the right one.
    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// A head of this height beside the followed chain was shown. Answers whether it has stayed.
    pub(super) fn rival(&mut self, height: u64, now: Instant, block_interval: Duration) -> bool {
        let new = Rivals {
            since: now,
            shown: 0,
            highest: height,
        };
        let rivals = self.0.get_or_insert(new);
        if rivals.shown >= FORGOTTEN_AFTER {
            *rivals = new;
        }
        rivals.shown += 1;
        rivals.highest = rivals.highest.max(height);
        let stays_for = (block_interval / 2).min(STAYS_AT_MOST);
        let stayed = now.saturating_duration_since(rivals.since) >= stays_for;
        stayed && rivals.shown >= STAYS_LOOKS && height >= rivals.highest
    }

    /// The followed head was shown. Only a higher one can be right all the same.
    pub(super) fn confirmed(&mut self, height: u64) {
        self.0 = self.0.filter(|rivals| rivals.highest > height);
    }

    /// What was in doubt is decided.
    pub(super) fn close(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    /// Feeds answers `step` apart; a height beside the followed chain, or `None` for the followed head 10. Answers at which
    /// one the rival has stayed.
    fn stays_at(answers: impl IntoIterator<Item = Option<u64>>, step: Duration) -> Option<usize> {
        let (mut contest, mut now) = (Contest::default(), Instant::now());
        answers.into_iter().position(|answer| {
            now += step;
            match answer {
                Some(height) => contest.rival(height, now, INTERVAL),
                None => {
                    contest.confirmed(10);
                    false
                }
            }
        })
    }

    #[test]
    fn a_head_that_every_answer_shows_stays() {
        let step = INTERVAL / 10;
        assert_eq!(stays_at(vec![Some(10); 10], step), Some(5));
        assert_eq!(stays_at(vec![Some(7); 10], step), Some(5));
        assert_eq!(
            stays_at(vec![Some(10); 100], INTERVAL / 100),
            None,
            "for half a block"
        );
    }

    #[test]
    fn a_head_that_some_answers_show_does_not_stay_unless_it_is_higher() {
        let step = INTERVAL / 10;
        let a_third = |height| (0..300).map(move |n| (n % 3 == 0).then_some(height));
        assert_eq!(stays_at(a_third(10), step), None);
        assert_eq!(stays_at(a_third(11), step), Some(15));
    }

    #[test]
    fn a_high_head_that_was_shown_once_is_forgotten() {
        let answers = [Some(99)].into_iter().chain(vec![Some(10); 60]);
        assert!(stays_at(answers, INTERVAL / 10).is_some());
    }
}
