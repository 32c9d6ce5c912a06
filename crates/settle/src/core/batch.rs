//! Accepted payments on their way into a slot, and how many of them share one.

use alloy_primitives::{Bytes, U256};
use teller_chain::REDEMPTION_GAS;
use teller_domain::invariants::TRANSACTION_GAS_CAP;
use teller_domain::{
    Authorization, PayerSignature, Payment, Settlement, SettlementId, TenantId, Wei,
};
use teller_store::TopUp;

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

/// What a payment needs before it can be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Its payer's approval, mined: the chain must be looked at.
    Approval,
    /// So much gas for its payer, who cannot pay for that approval: a slot of its own gives it.
    Gas(Wei),
}

impl Need {
    /// What is to be thought of a payment before anything was looked at.
    pub fn of(payment: &Payment) -> Self {
        match payment.token_approval() {
            Some(_) => Self::Approval,
            None => Self::Nothing,
        }
    }
}

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
    /// What it needs first.
    pub need: Need,
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
            need: Need::of(&settlement.payment),
        }
    }

    /// What its slot gives its payer, if that is not yet to settle it.
    pub fn top_up(&self) -> Option<TopUp> {
        let Need::Gas(value) = self.need else {
            return None;
        };
        Some(TopUp {
            payer: self.payment.key.payer,
            token: self.payment.asset,
            value,
        })
    }

    /// Gas that it may need at most in a batch.
    pub(super) fn gas(&self) -> u64 {
        match self.top_up() {
            Some(_) => 0,
            None => payment_gas(&self.payment),
        }
    }

    /// Whether nothing but a nonce tells this permit from that one: a proxy's event names none, so what one of the two
    /// did in a transaction could be taken for what the other did.
    pub(crate) fn is_twin_of(&self, other: &Self) -> bool {
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

    pub(super) fn largest_batch(&self) -> usize {
        if self.tries >= TRIES_BEFORE_ALONE || self.top_up().is_some() {
            1
        } else {
            self.company.max(1)
        }
    }
}

/// Gas that a payment may need at most in a batch.
fn payment_gas(payment: &Payment) -> u64 {
    let call = match &payment.authorization {
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
    match payment.authorization.signature() {
        PayerSignature::Ecdsa { .. } => call,
        PayerSignature::Contract(_) => call + GAS_OF_JUDGE,
        PayerSignature::Counterfactual(_) => call + GAS_OF_JUDGE + GAS_OF_MAKING,
    }
}

/// Whether a transaction with nothing else in it stays within its own bounds, at this fee.
pub(crate) fn fits_alone(
    limits: BatchLimits,
    budget: Option<Wei>,
    payment: &Payment,
    max_fee_per_gas: u128,
) -> bool {
    let within = limits.within(budget, max_fee_per_gas);
    within.is_some_and(|limits| limits.admit(1, payment_gas(payment)))
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
    /// The same bounds in a block that holds so much gas. A limit that is too low for any payment is none that a node has
    /// told of.
    pub(super) fn in_block(self, gas_limit: u64) -> Self {
        match gas_limit >= GAS_PER_BATCH + GAS_PER_PAYMENT {
            true => Self {
                max_gas: self.max_gas.min(gas_limit),
                ..self
            },
            false => self,
        }
    }

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
