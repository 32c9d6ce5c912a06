//! What signers have for gas, and what their lanes may take on with it: no batch that a lane could not pay at its dearest
//! replacement while its open slots cost as much as they may.

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256};
use teller_chain::FeePolicy;
use teller_domain::{AccountNonce, Attempt, AttemptKind, Fees, SlotId, Wei};
use teller_store::TopUp;

use super::batch::BatchLimits;
use super::lane::{Adding, Lane, OpenSlot, Schedule};
use super::rules::Rule;
use super::{Core, gas_limit};

/// A node's "too little for gas" counts for so long where no balance can be read.
const REFUSAL_MS: u64 = 30_000;

/// How often an attempt that carries something is replaced at most.
const REPLACEMENTS: usize = Schedule::REPLACE.len();

/// What a signer had after a sealed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funds {
    /// How many of its transactions were mined: what these cost is not in the balance.
    pub nonce: AccountNonce,
    /// Its native balance.
    pub balance: Wei,
    /// The most that a full batch pays for its data beside its gas.
    pub data_fee: Wei,
}

/// What is known of one signer's funds.
#[derive(Debug)]
struct Purse {
    read: Funds,
    /// What slots have cost that were closed since, by nonce.
    spent: BTreeMap<AccountNonce, U256>,
    /// When a node refused bytes for want of money: until the next reading there is none.
    refused_ms: Option<u64>,
}

impl Purse {
    fn balance(&self) -> U256 {
        if self.refused_ms.is_some() {
            return U256::ZERO;
        }
        let spent = self.spent.values().copied();
        spent.fold(self.read.balance.0, U256::saturating_sub)
    }
}

/// The funds of all signers. Of one that is not in it nothing is known, and nodes are trusted to refuse.
#[derive(Debug, Default)]
pub(super) struct Purses(BTreeMap<Address, Purse>);

impl Purses {
    /// A balance was read.
    pub(super) fn read(&mut self, signer: Address, funds: Funds) {
        let known = self.0.remove(&signer);
        let mut spent = known.map(|purse| purse.spent).unwrap_or_default();
        spent.retain(|nonce, _| *nonce >= funds.nonce);
        let purse = Purse {
            read: funds,
            spent,
            refused_ms: None,
        };
        self.0.insert(signer, purse);
    }

    /// A slot was closed and has cost this.
    pub(super) fn spend(&mut self, id: SlotId, cost: Wei) {
        let purse = self.0.get_mut(&id.signer);
        if let Some(purse) = purse.filter(|purse| id.nonce >= purse.read.nonce) {
            purse.spent.insert(id.nonce, cost.0);
        }
    }

    /// Every node that was asked says that the signer has too little.
    pub(super) fn refuse(&mut self, id: SlotId, now_ms: u64) {
        let unread = || Purse {
            read: Funds {
                nonce: id.nonce,
                balance: Wei::ZERO,
                data_fee: Wei::ZERO,
            },
            spent: BTreeMap::new(),
            refused_ms: None,
        };
        let purse = self.0.entry(id.signer).or_insert_with(unread);
        purse.refused_ms = Some(now_ms);
    }

    /// A refusal that no reading has followed is forgotten in the end, with all that was thought before it.
    fn forget_refusals(&mut self, now_ms: u64) {
        self.0.retain(|_, purse| {
            let refused = purse.refused_ms;
            refused.is_none_or(|since| now_ms.saturating_sub(since) < REFUSAL_MS)
        });
    }

    /// The bounds of a batch that the lane can pay, whatever becomes of its open slots; `None` if it can pay none.
    pub(super) fn within(
        &self,
        limits: BatchLimits,
        lane: &Lane,
        fees: Fees,
        policy: &FeePolicy,
    ) -> Option<BatchLimits> {
        let left = self.left(lane, fees, policy);
        limits.within(left.map(Wei), dearest(policy, fees, REPLACEMENTS))
    }

    /// Whether the lane can pay a slot that gives this.
    pub(super) fn admit_top_up(
        &self,
        top_up: &TopUp,
        lane: &Lane,
        fees: Fees,
        policy: &FeePolicy,
    ) -> bool {
        let gas = cost(gas_limit(&[]), dearest(policy, fees, REPLACEMENTS));
        let most = top_up.value.0.saturating_add(gas);
        self.left(lane, fees, policy)
            .is_none_or(|left| most <= left)
    }

    /// What is left for one more slot when every open one costs as much as it may.
    fn left(&self, lane: &Lane, fees: Fees, policy: &FeePolicy) -> Option<U256> {
        let purse = self.0.get(&lane.signer())?;
        let open = lane.slots.range(purse.read.nonce..);
        let left = open.fold(purse.balance(), |left, (_, slot)| {
            left.saturating_sub(slot.dearest(fees, policy))
                .saturating_sub(purse.read.data_fee.0)
        });
        Some(left.saturating_sub(purse.read.data_fee.0))
    }

    /// Whether the signer could not even pay the smallest batch if nothing of its lane were open.
    fn is_too_poor(
        &self,
        signer: Address,
        limits: BatchLimits,
        fees: Fees,
        policy: &FeePolicy,
    ) -> bool {
        let Some(purse) = self.0.get(&signer) else {
            return false;
        };
        let left = purse.balance().saturating_sub(purse.read.data_fee.0);
        let dearest = dearest(policy, fees, REPLACEMENTS);
        limits.within(Some(Wei(left)), dearest).is_none()
    }
}

fn cost(gas_limit: u64, max_fee_per_gas: u128) -> U256 {
    U256::from(gas_limit).saturating_mul(U256::from(max_fee_per_gas))
}

fn dearest(policy: &FeePolicy, fees: Fees, replacements: usize) -> u128 {
    policy.replaced(fees.max_fee_per_gas, replacements)
}

impl OpenSlot {
    /// What the slot may cost at most: with its dearest attempt so far, or with those that may still replace it. A
    /// replacement pays what its predecessor did and more, or what a first attempt would pay now.
    fn dearest(&self, fees: Fees, policy: &FeePolicy) -> U256 {
        let made = usize::try_from(self.replacements).unwrap_or(usize::MAX);
        let ahead = match self.is_parked() {
            true => 0,
            false => REPLACEMENTS.saturating_sub(made),
        };
        let given = self.payments.iter().find_map(super::Queued::top_up);
        let given = given.map_or(U256::ZERO, |top_up| top_up.value.0);
        let most = |attempt: &Attempt| match attempt.kind {
            AttemptKind::NoOp => cost(attempt.gas_limit, attempt.fees.max_fee_per_gas),
            AttemptKind::Batch | AttemptKind::TopUp => {
                let own = dearest(policy, attempt.fees, ahead);
                let fresh = match ahead {
                    0 => 0,
                    _ => dearest(policy, fees, ahead.saturating_sub(1)),
                };
                cost(attempt.gas_limit, own.max(fresh)).saturating_add(given)
            }
        };
        let adding = match &self.adding {
            Adding::Committing(attempt) => Some(attempt),
            Adding::No | Adding::Signing(_) => None,
        };
        let attempts = self.attempts.iter().chain(adding);
        attempts.map(most).max().unwrap_or_default()
    }
}

impl Core {
    /// A signer's balance and nonce were read. A nonce beyond the lane's next one means that others have used the key
    /// while nothing of the lane was open.
    pub(super) fn on_funds_read(&mut self, signer: Address, funds: Funds) {
        self.purses.read(signer, funds);
        if let Some(lane) = self.lanes.get_mut(&signer) {
            lane.chain_nonce = lane.chain_nonce.max(funds.nonce);
        }
    }

    /// Which lanes have too little for any batch.
    pub(super) fn judge_funds(&mut self, now_ms: u64) {
        self.purses.forget_refusals(now_ms);
        let Some(fees) = self.initial_fees() else {
            return;
        };
        let (limits, policy) = (self.config.limits, self.config.fees);
        let judges = self.rules.hold(Rule::FundsFirst);
        for lane in self.lanes.values_mut() {
            let poor = self
                .purses
                .is_too_poor(lane.signer(), limits, fees, &policy);
            lane.out_of_funds = judges && poor;
        }
    }
}
