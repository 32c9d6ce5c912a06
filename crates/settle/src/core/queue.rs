//! The queue of accepted payments: those that may enter a slot, and those whose payers' approvals are not mined yet.

use std::collections::BTreeMap;

use teller_domain::{SettlementId, UnixSeconds};

use super::batch::{BatchLimits, Need, Queued};

/// Approvals looked at in one go.
const LOOKS_AT_ONCE: usize = 32;
/// After so many looks each, the pause between them doubles, so many times.
const LOOKS_A_STEP: u32 = 8;
const MOST_DOUBLINGS: u32 = 3;

/// Whether a lane that has room is otherwise idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Nothing of the lane is open: send at once.
    Idle,
    /// Something is on its way: wait for company, but not for long.
    Busy,
}

/// A payment whose payer's approval is not known to be mined.
#[derive(Debug)]
struct Unapproved {
    queued: Queued,
    since_ms: u64,
    /// How often the chain was looked at.
    looks: u32,
    /// When it is looked at next.
    look_at_ms: u64,
}

/// Accepted payments in the order in which they came, with the time at which each did.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Vec<(Queued, u64)>,
    unapproved: BTreeMap<SettlementId, Unapproved>,
    /// Nodes are asked about some approvals at a time: not before this, or an answer.
    looks_from_ms: u64,
}

impl Queue {
    /// How many may enter a slot.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many wait for their payers' approvals.
    pub fn unapproved_len(&self) -> usize {
        self.unapproved.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.unapproved.is_empty()
    }

    /// Adds a payment behind the others.
    pub fn push(&mut self, payment: Queued, now_ms: u64) {
        match payment.need {
            Need::Nothing | Need::Gas(_) => self.waiting.push((payment, now_ms)),
            Need::Approval => {
                let unapproved = Unapproved {
                    queued: payment,
                    since_ms: now_ms,
                    looks: 0,
                    look_at_ms: now_ms,
                };
                self.unapproved.insert(unapproved.queued.id, unapproved);
            }
        }
    }

    /// Takes these payments out: they are in a slot.
    pub fn remove(&mut self, payments: &[Queued]) {
        self.waiting
            .retain(|(queued, _)| !payments.iter().any(|payment| payment.id == queued.id));
        for payment in payments {
            self.unapproved.remove(&payment.id);
        }
    }

    /// Takes a payment out; whether it was there.
    pub fn withdraw(&mut self, id: SettlementId) -> bool {
        let before = self.len();
        self.waiting.retain(|(queued, _)| queued.id != id);
        self.unapproved.remove(&id).is_some() || self.len() < before
    }

    /// Payments whose approvals are to be looked at now, those first that have waited longest; a look that nothing comes of
    /// is made again then.
    pub fn take_looks(&mut self, now_ms: u64, again_ms: u64) -> Vec<Queued> {
        if now_ms < self.looks_from_ms {
            return Vec::new();
        }
        let mut due: Vec<&mut Unapproved> = self
            .unapproved
            .values_mut()
            .filter(|unapproved| unapproved.look_at_ms <= now_ms)
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        self.looks_from_ms = again_ms;
        due.sort_by_key(|unapproved| unapproved.look_at_ms);
        let due = due.into_iter().take(LOOKS_AT_ONCE);
        due.map(|unapproved| {
            unapproved.look_at_ms = again_ms;
            unapproved.queued.clone()
        })
        .collect()
    }

    /// These payments' approvals were looked at, and are to be looked at again: block by block at first, then less often.
    pub fn look_again(&mut self, ids: &[SettlementId], now_ms: u64, interval_ms: u64) {
        self.looks_from_ms = 0;
        for id in ids {
            if let Some(unapproved) = self.unapproved.get_mut(id) {
                unapproved.looks = unapproved.looks.saturating_add(1);
                let doublings = (unapproved.looks / LOOKS_A_STEP).min(MOST_DOUBLINGS);
                let pause_ms = interval_ms.saturating_mul(1 << doublings);
                unapproved.look_at_ms = now_ms.saturating_add(pause_ms);
            }
        }
    }

    /// Takes out what has waited for its approval for so long.
    pub fn take_impatient(&mut self, now_ms: u64, patience_ms: u64) -> Vec<Queued> {
        let impatient = self.unapproved.extract_if(.., |_, unapproved| {
            now_ms.saturating_sub(unapproved.since_ms) >= patience_ms
        });
        impatient.map(|(_, unapproved)| unapproved.queued).collect()
    }

    /// The payment, if its approval is not known to be mined.
    pub fn unapproved(&self, id: SettlementId) -> Option<&Queued> {
        self.unapproved
            .get(&id)
            .map(|unapproved| &unapproved.queued)
    }

    /// Takes a payment out whose approval is not known to be mined.
    pub fn take_unapproved(&mut self, id: SettlementId) -> Option<Queued> {
        let unapproved = self.unapproved.remove(&id);
        unapproved.map(|unapproved| unapproved.queued)
    }

    /// Takes out what expires at or before `cutoff`.
    pub fn take_expiring(&mut self, cutoff: UnixSeconds) -> Vec<Queued> {
        self.take(|queued| queued.payment.valid_before() <= cutoff)
    }

    /// Takes out whatever cannot be settled here, and names it.
    pub fn take_stranded(&mut self, stranded: impl Fn(&Queued) -> bool) -> Vec<SettlementId> {
        let taken = self.take(stranded);
        taken.iter().map(|queued| queued.id).collect()
    }

    /// Everything that waits.
    pub fn drain(&mut self) -> Vec<Queued> {
        self.take(|_| true)
    }

    fn take(&mut self, wanted: impl Fn(&Queued) -> bool) -> Vec<Queued> {
        let waiting = self.waiting.extract_if(.., |(queued, _)| wanted(queued));
        let waiting = waiting.map(|(queued, _)| queued);
        let unapproved = self
            .unapproved
            .extract_if(.., |_, unapproved| wanted(&unapproved.queued));
        let unapproved = unapproved.map(|(_, unapproved)| unapproved.queued);
        waiting.chain(unapproved).collect()
    }

    /// What may enter a slot, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Queued> {
        self.waiting.iter().map(|(queued, _)| queued)
    }

    /// Takes the next batch of payments that are `allowed`, if one is worth sending now; earliest deadline first when
    /// more wait than fit, and sorted by (asset, payee, payer), because warm storage makes each payment cheaper.
    pub fn take_batch(
        &mut self,
        limits: &BatchLimits,
        room: Room,
        now_ms: u64,
        allowed: impl Fn(&Queued) -> bool,
    ) -> Option<Vec<Queued>> {
        let items = limits.items();
        let allowed = |queued: &Queued| limits.admit(1, queued.gas()) && allowed(queued);
        let mut candidates = self.waiting.iter().filter(|(queued, _)| allowed(queued));
        let oldest = candidates.next().map(|(_, since)| *since)?;
        let full = 1 + candidates.count() >= items;
        let waited = now_ms.saturating_sub(oldest) >= limits.linger_ms;
        if room == Room::Busy && !full && !waited {
            return None;
        }
        if self.waiting.len() > items {
            self.waiting
                .sort_by_key(|(queued, since)| (queued.payment.valid_before(), *since));
        }
        let mut batch: Vec<Queued> = Vec::new();
        let mut largest = items;
        let mut gas: u64 = 0;
        let mut left = Vec::with_capacity(self.waiting.len());
        for (queued, since) in self.waiting.drain(..) {
            let company = largest.min(queued.largest_batch());
            let with_it = gas.saturating_add(queued.gas());
            if batch.len() < company
                && limits.admit(batch.len() + 1, with_it)
                && !batch.iter().any(|other| queued.is_twin_of(other))
                && allowed(&queued)
            {
                largest = company;
                gas = with_it;
                batch.push(queued);
            } else {
                left.push((queued, since));
            }
        }
        self.waiting = left;
        self.waiting.sort_by_key(|(_, since)| *since);
        batch.sort_by_key(|queued| {
            (
                queued.payment.asset,
                queued.payment.payee,
                queued.payment.key.payer,
            )
        });
        Some(batch)
    }
}
