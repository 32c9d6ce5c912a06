//! The queue of accepted payments and the forming of batches.

use alloy_primitives::{Bytes, U256};
use teller_chain::REDEMPTION_GAS;
use teller_domain::invariants::TRANSACTION_GAS_CAP;
use teller_domain::{
    Authorization, PayerSignature, Payment, Settlement, SettlementId, TenantId, UnixSeconds, Wei,
};

/// Gas that one payment may need at most in a batch: 80k when the payee's balance is zero (DESIGN section 4).
const GAS_PER_PAYMENT: u64 = 80_000;

/// The same of a permit that a proxy spends: proxy, Permit2 and the token.
const GAS_PER_PERMIT: u64 = 150_000;

/// What the token's own permit takes on top.
const GAS_PER_ALLOWANCE: u64 = 90_000;

/// What a contract that judges a signature may use on top: passkeys are dear.
const GAS_OF_JUDGE: u64 = 500_000;

/// What making that contract may use on top.
const GAS_OF_MAKING: u64 = 1_700_000;

/// What a byte of a permission context takes on top, at calldata's dearest (EIP-7623).
const GAS_PER_CONTEXT_BYTE: u64 = 40;

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
    /// What stands behind the calldata of its call.
    pub attribution: Bytes,
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
            payment: settlement.payment.clone(),
            attribution: settlement.attribution.clone(),
            tries: settlement.tries,
            company: match settlement.payment.travels_alone() {
                true => 1,
                false => usize::MAX,
            },
            tenant: settlement.tenant.clone(),
        }
    }

    /// Gas that it may need at most in a batch.
    fn gas(&self) -> u64 {
        let call = match &self.payment.authorization {
            Authorization::Eip3009 { .. } => GAS_PER_PAYMENT,
            Authorization::Permit2(permit) if permit.token_permit().is_some() => {
                GAS_PER_PERMIT + GAS_PER_ALLOWANCE
            }
            Authorization::Permit2(_) => GAS_PER_PERMIT,
            Authorization::Erc7710(delegation) => {
                let bytes = u64::try_from(delegation.context().len()).unwrap_or(u64::MAX);
                return REDEMPTION_GAS.saturating_add(bytes.saturating_mul(GAS_PER_CONTEXT_BYTE));
            }
        };
        match self.payment.authorization.signature() {
            PayerSignature::Ecdsa { .. } => call,
            PayerSignature::Contract(_) => call + GAS_OF_JUDGE,
            PayerSignature::Counterfactual(_) => call + GAS_OF_JUDGE + GAS_OF_MAKING,
        }
    }

    /// Whether nothing but a nonce tells this permit from that one: a proxy's event names none, so what one of the two
    /// did in a transaction could be taken for what the other did.
    fn is_twin_of(&self, other: &Self) -> bool {
        let terms = |queued: &Self| match &queued.payment.authorization {
            Authorization::Permit2(permit) => Some((
                permit.terms.proxy(),
                queued.payment.asset,
                queued.payment.key.payer,
                queued.payment.payee,
                queued.payment.value,
            )),
            Authorization::Eip3009 { .. } | Authorization::Erc7710(_) => None,
        };
        terms(self).is_some() && terms(self) == terms(other)
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
        (max_gas >= GAS_PER_BATCH + GAS_PER_PAYMENT).then_some(Self { max_gas, ..self })
    }

    /// Whether so many payments that need so much gas are no more than a batch may be.
    pub(super) fn admit(&self, payments: usize, gas: u64) -> bool {
        payments <= self.items() && gas <= self.payments_gas()
    }

    fn payments_gas(&self) -> u64 {
        let gas = self.max_gas.min(TRANSACTION_GAS_CAP);
        gas.saturating_sub(GAS_PER_BATCH)
    }

    pub(super) fn items(&self) -> usize {
        let by_gas = self.payments_gas() / GAS_PER_PAYMENT;
        let by_gas = usize::try_from(by_gas).unwrap_or(usize::MAX);
        self.max_items.min(by_gas).max(1)
    }
}

/// The gas limit of a batch of these payments: a fixed budget, not an estimate of a node.
pub fn gas_limit(payments: &[Queued]) -> u64 {
    gas_of(payments)
        .saturating_add(GAS_PER_BATCH)
        .min(TRANSACTION_GAS_CAP)
}

/// What these payments need of a batch's gas.
pub(super) fn gas_of(payments: &[Queued]) -> u64 {
    payments.iter().map(Queued::gas).sum()
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
            .any(|(queued, _)| queued.payment.valid_before() <= cutoff)
        {
            return Vec::new();
        }
        let (late, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(queued, _)| queued.payment.valid_before() <= cutoff);
        self.waiting = waiting;
        late.into_iter()
            .map(|(queued, _): (Queued, u64)| queued)
            .collect()
    }

    /// Takes out whatever cannot be settled here, and names it.
    pub fn take_stranded(&mut self, stranded: impl Fn(&Queued) -> bool) -> Vec<SettlementId> {
        let taken = self.waiting.extract_if(.., |(queued, _)| stranded(queued));
        taken.map(|(queued, _)| queued.id).collect()
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
