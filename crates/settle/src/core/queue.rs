//! The queue of accepted payments: those that may enter a slot, and those whose payers' approvals are not mined yet.

use teller_domain::{SettlementId, UnixSeconds};

use super::batch::{BatchLimits, Need, Queued};
use super::watched::Watched;

/// Whether a lane that has room is otherwise idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Nothing of the lane is open: send at once.
    Idle,
    /// Something is on its way: wait for company, but not for long.
    Busy,
}

/// Accepted payments in the order in which they came, with the time at which each did.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Vec<(Queued, u64)>,
    /// Payments whose payers' approvals are not known to be mined.
    pub(super) unapproved: Watched<Queued>,
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
            Need::Approval => self.unapproved.insert(payment.id, payment, now_ms),
        }
    }

    /// Takes these payments out: they are in a slot.
    pub fn remove(&mut self, payments: &[Queued]) {
        self.waiting
            .retain(|(queued, _)| !payments.iter().any(|payment| payment.id == queued.id));
        for payment in payments {
            self.unapproved.remove(payment.id);
        }
    }

    /// Takes a payment out; whether it was there.
    pub fn withdraw(&mut self, id: SettlementId) -> bool {
        let before = self.len();
        self.waiting.retain(|(queued, _)| queued.id != id);
        self.unapproved.remove(id).is_some() || self.len() < before
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
        let mut taken: Vec<Queued> = waiting.collect();
        taken.extend(self.unapproved.extract(&wanted));
        taken
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
