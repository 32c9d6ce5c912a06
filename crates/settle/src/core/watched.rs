//! Payments about which the chain is asked every so often: block by block at first, then less often, and about some of them
//! at a time.

use std::collections::BTreeMap;

use teller_domain::SettlementId;

/// Payments asked about in one go.
const ASKED_AT_ONCE: usize = 32;
/// After so many questions each, the pause between them doubles, so many times.
const QUESTIONS_A_STEP: u32 = 8;
const MOST_DOUBLINGS: u32 = 3;
/// A question that has not been answered for so many block intervals is lost.
const LOST_AFTER_BLOCKS: u64 = 10;

#[derive(Debug)]
struct Watch<T> {
    payment: T,
    since_ms: u64,
    questions: u32,
    due_ms: u64,
}

/// Payments of one kind that are asked about.
#[derive(Debug)]
pub struct Watched<T> {
    payments: BTreeMap<SettlementId, Watch<T>>,
    /// No further question before this, or an answer.
    asks_from_ms: u64,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self {
            payments: BTreeMap::new(),
            asks_from_ms: 0,
        }
    }
}

impl<T: Clone> Watched<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.payments.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.payments.is_empty()
    }

    /// Takes one in, to be asked about at once.
    pub fn insert(&mut self, id: SettlementId, payment: T, now_ms: u64) {
        let watch = Watch {
            payment,
            since_ms: now_ms,
            questions: 0,
            due_ms: now_ms,
        };
        self.payments.insert(id, watch);
    }

    /// One of them.
    pub fn get(&self, id: SettlementId) -> Option<&T> {
        self.payments.get(&id).map(|watch| &watch.payment)
    }

    /// One of them.
    pub fn get_mut(&mut self, id: SettlementId) -> Option<&mut T> {
        self.payments.get_mut(&id).map(|watch| &mut watch.payment)
    }

    /// Takes one out.
    pub fn remove(&mut self, id: SettlementId) -> Option<T> {
        self.payments.remove(&id).map(|watch| watch.payment)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SettlementId, &T)> {
        self.payments
            .iter()
            .map(|(id, watch)| (*id, &watch.payment))
    }

    /// Takes out those for which this holds.
    pub fn extract(&mut self, holds: impl Fn(&T) -> bool) -> Vec<T> {
        let taken = self
            .payments
            .extract_if(.., |_, watch| holds(&watch.payment));
        taken.map(|(_, watch)| watch.payment).collect()
    }

    /// Takes out those that have been here for so long.
    pub fn extract_older(&mut self, now_ms: u64, age_ms: u64) -> Vec<T> {
        let is_old = |since_ms: u64| now_ms.saturating_sub(since_ms) >= age_ms;
        let taken = self
            .payments
            .extract_if(.., |_, watch| is_old(watch.since_ms));
        taken.map(|(_, watch)| watch.payment).collect()
    }

    /// Those that are to be asked about now, those first that have waited longest. A question that nothing comes of is asked
    /// again later.
    pub fn take_due(&mut self, now_ms: u64, interval_ms: u64) -> Vec<T> {
        if now_ms < self.asks_from_ms {
            return Vec::new();
        }
        let mut due: Vec<&mut Watch<T>> = self
            .payments
            .values_mut()
            .filter(|watch| watch.due_ms <= now_ms)
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        let again_ms = now_ms.saturating_add(LOST_AFTER_BLOCKS.saturating_mul(interval_ms));
        self.asks_from_ms = again_ms;
        due.sort_by_key(|watch| watch.due_ms);
        due.into_iter()
            .take(ASKED_AT_ONCE)
            .map(|watch| {
                watch.due_ms = again_ms;
                watch.payment.clone()
            })
            .collect()
    }

    /// The question about these was answered; those that stay are asked about again.
    pub fn answered(&mut self, ids: &[SettlementId], now_ms: u64, interval_ms: u64) {
        self.asks_from_ms = 0;
        for id in ids {
            if let Some(watch) = self.payments.get_mut(id) {
                watch.questions = watch.questions.saturating_add(1);
                let doublings = (watch.questions / QUESTIONS_A_STEP).min(MOST_DOUBLINGS);
                let pause_ms = interval_ms.saturating_mul(1 << doublings);
                watch.due_ms = now_ms.saturating_add(pause_ms);
            }
        }
    }
}
