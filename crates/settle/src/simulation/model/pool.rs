//! A node's memory pool: what it takes, what replaces what, and in which order a block takes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use teller_chain::SendOutcome;
use teller_domain::invariants::TRANSACTION_GAS_CAP;

use super::state::State;
use super::transaction::Transaction;

/// Where nodes differ from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRules {
    /// By how many per cent both fees of a replacement must be higher; `None` is anvil, to which any higher
    /// `maxFeePerGas` will do.
    pub bump_percent: Option<u128>,
    /// Whether a transaction that offers less than the base fee is refused.
    pub demands_base_fee: bool,
    /// Whether a block takes the highest `maxFeePerGas` first (anvil) or the highest tip (everybody else).
    pub by_max_fee: bool,
    /// Whether a transaction that cannot be in a block because of its fees or its sender's funds is forgotten.
    pub forgets_invalid: bool,
}

impl PoolRules {
    /// op-geth, which Base runs, and most others.
    pub const GETH: Self = Self {
        bump_percent: Some(10),
        demands_base_fee: false,
        by_max_fee: false,
        forgets_invalid: false,
    };
}

#[derive(Debug, Clone)]
pub struct Pool {
    rules: PoolRules,
    waiting: BTreeMap<(Address, u64), (Arc<Transaction>, u64)>,
    arrivals: u64,
}

impl Pool {
    pub fn new(rules: PoolRules) -> Self {
        Self {
            rules,
            waiting: BTreeMap::new(),
            arrivals: 0,
        }
    }

    pub fn rules(&self) -> PoolRules {
        self.rules
    }

    pub fn knows(&self, hash: B256) -> bool {
        self.waiting
            .values()
            .any(|(transaction, _)| transaction.hash == hash)
    }

    /// Whether a transaction waits for one with a lower nonce that is not here.
    pub fn waits_behind_a_gap(&self, hash: B256, state: &State) -> bool {
        let waiting = self.transactions().find(|waiting| waiting.hash == hash);
        waiting.is_some_and(|waiting| {
            let sealed = state.account(waiting.from).nonce;
            (sealed..waiting.nonce).any(|nonce| !self.waiting.contains_key(&(waiting.from, nonce)))
        })
    }

    pub fn transactions(&self) -> impl Iterator<Item = &Arc<Transaction>> {
        self.waiting.values().map(|(transaction, _)| transaction)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a transaction or says why not.
    pub fn submit(
        &mut self,
        transaction: Arc<Transaction>,
        state: &State,
        base_fee: u128,
    ) -> SendOutcome {
        if self.knows(transaction.hash) {
            return SendOutcome::AlreadyKnown;
        }
        let sender = state.account(transaction.from);
        if transaction.nonce < sender.nonce {
            return SendOutcome::NonceTooLow;
        }
        if transaction.gas_limit > TRANSACTION_GAS_CAP {
            return SendOutcome::GasTooHigh;
        }
        if transaction.upfront() > sender.wei {
            return SendOutcome::InsufficientFunds;
        }
        if self.rules.demands_base_fee && transaction.fees.max_fee_per_gas < base_fee {
            return SendOutcome::Underpriced;
        }
        let place = (transaction.from, transaction.nonce);
        if let Some((old, _)) = self.waiting.get(&place) {
            let (old, new) = (old.fees, transaction.fees);
            let outbids = match self.rules.bump_percent {
                None => new.max_fee_per_gas > old.max_fee_per_gas,
                Some(percent) => {
                    let raised = |old: u128, new: u128| new * 100 >= old * (100 + percent);
                    raised(old.max_fee_per_gas, new.max_fee_per_gas)
                        && raised(old.max_priority_fee_per_gas, new.max_priority_fee_per_gas)
                }
            };
            if !outbids {
                return SendOutcome::Underpriced;
            }
        }
        self.arrivals += 1;
        self.waiting.insert(place, (transaction, self.arrivals));
        SendOutcome::Accepted
    }

    /// Forgets a transaction.
    pub fn evict(&mut self, hash: B256) {
        self.waiting
            .retain(|_, (transaction, _)| transaction.hash != hash);
    }

    /// Forgets what the chain has passed.
    pub fn prune(&mut self, state: &State) {
        self.waiting
            .retain(|(from, nonce), _| *nonce >= state.account(*from).nonce);
    }

    /// The transaction that a block takes next: of those whose nonce is their sender's, the one that pays best.
    pub fn best(
        &self,
        state: &State,
        base_fee: u128,
        skip: &dyn Fn(B256) -> bool,
    ) -> Option<Arc<Transaction>> {
        let ready = self.waiting.iter().filter(|((from, nonce), (waiting, _))| {
            state.account(*from).nonce == *nonce && !skip(waiting.hash)
        });
        let best = ready.max_by_key(|(_, (transaction, arrival))| {
            let price = if self.rules.by_max_fee {
                transaction.fees.max_fee_per_gas
            } else {
                transaction.gas_price(base_fee).saturating_sub(base_fee)
            };
            (price, std::cmp::Reverse(*arrival))
        });
        best.map(|(_, (transaction, _))| Arc::clone(transaction))
    }
}
