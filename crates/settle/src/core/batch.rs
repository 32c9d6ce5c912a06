//! The queue of accepted payments and the forming of batches.

use alloy_primitives::U256;
use teller_domain::invariants::TRANSACTION_GAS_CAP;
use teller_domain::{Payment, Settlement, SettlementId, TenantId, UnixSeconds, Wei};

/// Gas that one payment may need at most in a batch: 80k when the payee's balance is zero (DESIGN section 4).
const GAS_PER_PAYMENT: u64 = 80_000;

/// Gas of a batch beside its payments: the transaction itself and Multicall3's frame.
const GAS_PER_BATCH: u64 = 60_000;

/// A payment that has been in this many slots travels alone from then on.
const TRIES_BEFORE_ALONE: u32 = 2;

/// An accepted payment on its way into a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Its name.
    pub id: SettlementId,
    /// What was signed.
    pub payment: Payment,
    /// How many slots it has been in, this one included. Slots that reverted as a whole do not count.
    pub tries: u32,
    /// It travels in batches of at most this many: halved each time that a batch with it reverts as a whole, and 1
    /// for a payer with code.
    pub company: usize,
    /// Whose budget its gas counts against.
    pub tenant: TenantId,
}

impl Queued {
    /// A payment that any batch may carry.
    pub fn new(settlement: &Settlement) -> Self {
        Self {
            id: settlement.id,
            payment: settlement.payment,
            tries: settlement.tries,
            company: usize::MAX,
            tenant: settlement.tenant.clone(),
        }
    }

    fn largest_batch(&self) -> usize {
        if self.tries >= TRIES_BEFORE_ALONE {
            1
        } else {
            self.company.max(1)
        }
    }
}

/// Bounds of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Payments in a batch.
    pub max_items: usize,
    /// Gas limit of a batch, at most EIP-7825's cap.
    pub max_gas: u64,
    /// How long a payment waits for company while its lane is busy.
    pub linger_ms: u64,
}

impl BatchLimits {
    /// The same bounds for a transaction that may cost at most so much at this fee; `None` if that is too little for
    /// one payment.
    pub(super) fn within(self, budget: Option<Wei>, max_fee_per_gas: u128) -> Option<Self> {
        let Some(budget) = budget else {
            return Some(self);
        };
        let gas = budget.0 / U256::from(max_fee_per_gas.max(1));
        let max_gas = self.max_gas.min(gas.saturating_to());
        (max_gas >= gas_limit(1)).then_some(Self { max_gas, ..self })
    }

    pub(super) fn items(&self) -> usize {
        let gas = self
            .max_gas
            .min(TRANSACTION_GAS_CAP)
            .saturating_sub(GAS_PER_BATCH);
        let by_gas = usize::try_from(gas / GAS_PER_PAYMENT).unwrap_or(usize::MAX);
        self.max_items.min(by_gas).max(1)
    }
}

/// The gas limit of a batch of so many payments: a fixed budget, not an estimate of a node.
pub fn gas_limit(payments: usize) -> u64 {
    let payments = u64::try_from(payments).unwrap_or(u64::MAX);
    payments
        .saturating_mul(GAS_PER_PAYMENT)
        .saturating_add(GAS_PER_BATCH)
        .min(TRANSACTION_GAS_CAP)
}

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
}

impl Queue {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a payment behind the others.
    pub fn push(&mut self, payment: Queued, now_ms: u64) {
        self.waiting.push((payment, now_ms));
    }

    /// Takes these payments out: they are in a slot.
    pub fn remove(&mut self, payments: &[Queued]) {
        self.waiting
            .retain(|(queued, _)| !payments.iter().any(|payment| payment.id == queued.id));
    }

    /// Takes a payment out; whether it was there.
    pub fn withdraw(&mut self, id: SettlementId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(queued, _)| queued.id != id);
        self.waiting.len() < before
    }

    /// Takes out what expires at or before `cutoff`.
    pub fn take_expiring(&mut self, cutoff: UnixSeconds) -> Vec<Queued> {
        if !self
            .waiting
            .iter()
            .any(|(queued, _)| queued.payment.valid_before <= cutoff)
        {
            return Vec::new();
        }
        let (late, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(queued, _)| queued.payment.valid_before <= cutoff);
        self.waiting = waiting;
        late.into_iter()
            .map(|(queued, _): (Queued, u64)| queued)
            .collect()
    }

    /// Everything that waits.
    pub fn drain(&mut self) -> Vec<Queued> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|(queued, _)| queued).collect()
    }

    /// What waits, oldest first.
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
        let mut candidates = self.waiting.iter().filter(|(queued, _)| allowed(queued));
        let oldest = candidates.next().map(|(_, since)| *since)?;
        let full = 1 + candidates.count() >= items;
        let waited = now_ms.saturating_sub(oldest) >= limits.linger_ms;
        if room == Room::Busy && !full && !waited {
            return None;
        }
        if self.waiting.len() > items {
            self.waiting
                .sort_by_key(|(queued, since)| (queued.payment.valid_before, *since));
        }
        let mut batch: Vec<Queued> = Vec::new();
        let mut largest = items;
        let mut left = Vec::with_capacity(self.waiting.len());
        for (queued, since) in self.waiting.drain(..) {
            let company = largest.min(queued.largest_batch());
            if batch.len() < company && allowed(&queued) {
                largest = company;
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
