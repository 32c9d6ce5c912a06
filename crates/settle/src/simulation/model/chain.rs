//! Sealed blocks, the fee market, Flashblocks and reorgs. Every block that ever was is kept, with the state behind it,
//! so that any view of the chain, a stale or an orphaned one included, can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alloy_primitives::{Address, B256, Keccak256, U256};
use teller_domain::{BlockRef, Wei};

use super::pool::Pool;
use super::state::{BlockEnv, Executed, Log, State};
use super::transaction::Transaction;

/// What kind of chain it is.
#[derive(Debug, Clone, Copy)]
pub struct ChainRules {
    pub token: Address,
    pub gas_limit: u64,
    /// How many times the target the limit is (EIP-1559).
    pub elasticity: u64,
    /// A base fee moves by a part in so many of what the gas used is away from the target.
    pub denominator: u128,
    /// The base fee never falls below this.
    pub base_fee_floor: u128,
    /// What a transaction pays for data beside its gas, for each byte of its calldata.
    pub data_fee: u64,
}

impl ChainRules {
    /// Base: 4 % a block at most with a limit of five times the target.
    pub fn base(token: Address) -> Self {
        Self {
            token,
            gas_limit: 400_000_000,
            elasticity: 5,
            denominator: 100,
            base_fee_floor: 5_000_000,
            data_fee: 1_000,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Receipt {
    pub transaction: Arc<Transaction>,
    pub succeeded: bool,
    pub gas_used: u64,
    pub cost: Wei,
    pub first_log: u64,
    pub logs: Vec<Log>,
}

#[derive(Debug)]
pub struct Sealed {
    pub block: BlockRef,
    pub parent: B256,
    pub timestamp: u64,
    pub base_fee: u128,
    pub gas_used: u64,
    pub receipts: Vec<Receipt>,
    pub state: Arc<State>,
}

impl Sealed {
    pub fn receipt(&self, hash: B256) -> Option<&Receipt> {
        self.receipts
            .iter()
            .find(|receipt| receipt.transaction.hash == hash)
    }
}

/// What a block is to be like.
#[derive(Debug, Clone, Default)]
pub struct SealPlan {
    pub timestamp: u64,
    /// Gas of transactions that are none of ours; none of it competes with ours for room.
    pub other_gas: u64,
    /// At most so many transactions; `None` is as many as fit.
    pub room: Option<usize>,
    /// Transactions that it leaves waiting.
    pub withheld: BTreeSet<B256>,
    /// Transactions that it takes first, in this order, those of them that it can.
    pub first: Vec<Arc<Transaction>>,
}

#[derive(Debug)]
pub struct Chain {
    pub rules: ChainRules,
    blocks: BTreeMap<B256, Arc<Sealed>>,
    /// The canonical hashes, from the genesis block's on.
    canonical: Vec<B256>,
    first_height: u64,
    /// Every block that ever held a transaction.
    places: BTreeMap<B256, Vec<B256>>,
    sealed: u64,
    next_base_fee: Option<u128>,
}

impl Chain {
    /// A chain that begins with this block.
    pub fn new(rules: ChainRules, genesis: Sealed) -> Self {
        let hash = genesis.block.hash;
        let first_height = genesis.block.number;
        Self {
            rules,
            blocks: BTreeMap::from([(hash, Arc::new(genesis))]),
            canonical: vec![hash],
            first_height,
            places: BTreeMap::new(),
            sealed: 0,
            next_base_fee: None,
        }
    }

    pub fn head(&self) -> &Arc<Sealed> {
        &self.blocks[self.canonical.last().expect("a chain has a block")]
    }

    pub fn first_height(&self) -> u64 {
        self.first_height
    }

    pub fn block(&self, hash: B256) -> &Arc<Sealed> {
        &self.blocks[&hash]
    }

    /// A block that was sealed once, whether the chain has kept it or not.
    pub fn known(&self, hash: B256) -> Option<&Arc<Sealed>> {
        self.blocks.get(&hash)
    }

    pub fn at(&self, height: u64) -> Option<&Arc<Sealed>> {
        let index = usize::try_from(height.checked_sub(self.first_height)?).ok()?;
        self.canonical.get(index).map(|hash| &self.blocks[hash])
    }

    pub fn canonical(&self) -> impl Iterator<Item = &Arc<Sealed>> {
        self.canonical.iter().map(|hash| &self.blocks[hash])
    }

    pub fn is_canonical(&self, block: BlockRef) -> bool {
        self.at(block.number)
            .is_some_and(|sealed| sealed.block.hash == block.hash)
    }

    /// The block at a height as whoever has `view` for the head sees it.
    pub fn ancestor(&self, view: B256, height: u64) -> Option<&Arc<Sealed>> {
        let mut sealed = self.blocks.get(&view)?;
        while sealed.block.number > height {
            if self.is_canonical(sealed.block) {
                return self.at(height);
            }
            sealed = self.blocks.get(&sealed.parent)?;
        }
        (sealed.block.number == height).then_some(sealed)
    }

    /// The block that holds a transaction, and its receipt, as whoever has `view` for the head sees it.
    pub fn find(&self, view: B256, hash: B256) -> Option<(&Arc<Sealed>, &Receipt)> {
        let places = self.places.get(&hash)?;
        places.iter().find_map(|place| {
            let sealed = &self.blocks[place];
            let seen = self.ancestor(view, sealed.block.number)?;
            (seen.block.hash == *place).then_some(())?;
            sealed.receipt(hash).map(|receipt| (sealed, receipt))
        })
    }

    /// Changes the newest state beside all transactions, as a cheat code of a test node does.
    pub fn cheat(&mut self, change: impl FnOnce(&mut State)) {
        let head = self.head();
        let mut state = (*head.state).clone();
        change(&mut state);
        let head = Sealed {
            state: Arc::new(state),
            receipts: head.receipts.clone(),
            ..**head
        };
        self.blocks.insert(head.block.hash, Arc::new(head));
    }

    /// Puts another count of gas into the newest block, and lets its state follow.
    pub fn correct(&mut self, gas_used: u64, change: impl FnOnce(&mut State)) {
        self.cheat(change);
        let head = self.head();
        let head = Sealed {
            gas_used,
            receipts: head.receipts.clone(),
            state: Arc::clone(&head.state),
            ..**head
        };
        self.blocks.insert(head.block.hash, Arc::new(head));
    }

    /// The next block's base fee, whatever the market says.
    pub fn set_next_base_fee(&mut self, base_fee: u128) {
        self.next_base_fee = Some(base_fee);
    }

    /// The base fee of the block behind `parent` (EIP-1559).
    pub fn base_fee_after(&self, parent: &Sealed) -> u128 {
        if let Some(base_fee) = self.next_base_fee {
            return base_fee;
        }
        let target = u128::from(self.rules.gas_limit / self.rules.elasticity);
        let used = u128::from(parent.gas_used);
        let step = |away: u128| parent.base_fee * away / target / self.rules.denominator;
        let next = match used.cmp(&target) {
            std::cmp::Ordering::Equal => parent.base_fee,
            std::cmp::Ordering::Greater => parent.base_fee + step(used - target).max(1),
            std::cmp::Ordering::Less => parent.base_fee.saturating_sub(step(target - used)),
        };
        next.max(self.rules.base_fee_floor)
    }

    /// What the next block would hold: the sealed block is another one with another hash, if it comes to it at all.
    pub fn preview(&self, pool: &Pool, plan: &SealPlan) -> Sealed {
        self.build(pool, plan, u64::MAX).0
    }

    /// Seals a block of what waits in the pool.
    pub fn seal(&mut self, pool: &mut Pool, plan: &SealPlan) -> Arc<Sealed> {
        self.sealed += 1;
        let (sealed, invalid) = self.build(pool, plan, self.sealed);
        self.next_base_fee = None;
        let sealed = Arc::new(sealed);
        pool.prune(&sealed.state);
        if pool.rules().forgets_invalid {
            invalid.iter().for_each(|hash| pool.evict(*hash));
        }
        for receipt in &sealed.receipts {
            self.places
                .entry(receipt.transaction.hash)
                .or_default()
                .push(sealed.block.hash);
        }
        self.canonical.push(sealed.block.hash);
        self.blocks.insert(sealed.block.hash, Arc::clone(&sealed));
        sealed
    }

    fn build(&self, pool: &Pool, plan: &SealPlan, salt: u64) -> (Sealed, BTreeSet<B256>) {
        let parent = self.head();
        let env = BlockEnv {
            timestamp: plan.timestamp,
            base_fee: self.base_fee_after(parent),
            token: self.rules.token,
        };
        let mut state = (*parent.state).clone();
        let mut filling = Filling::default();
        for transaction in &plan.first {
            filling.take(transaction, &mut state, &env, &self.rules);
        }
        let mut invalid = BTreeSet::new();
        while plan.room.is_none_or(|room| filling.receipts.len() < room) {
            let skip = |hash: B256| plan.withheld.contains(&hash) || invalid.contains(&hash);
            let Some(next) = pool.best(&state, env.base_fee, &skip) else {
                break;
            };
            if !filling.take(&next, &mut state, &env, &self.rules) {
                invalid.insert(next.hash);
            }
        }
        let mut hasher = Keccak256::new();
        hasher.update(parent.block.hash);
        hasher.update(salt.to_be_bytes());
        for receipt in &filling.receipts {
            hasher.update(receipt.transaction.hash);
        }
        let sealed = Sealed {
            block: BlockRef {
                number: parent.block.number + 1,
                hash: hasher.finalize(),
            },
            parent: parent.block.hash,
            timestamp: plan.timestamp,
            base_fee: env.base_fee,
            gas_used: (filling.gas + plan.other_gas).min(self.rules.gas_limit),
            receipts: filling.receipts,
            state: Arc::new(state),
        };
        (sealed, invalid)
    }

    /// Takes the newest `depth` blocks away. Answers their transactions, oldest first; they are in no pool.
    pub fn unseal(&mut self, depth: usize) -> Vec<Arc<Transaction>> {
        let kept = self.canonical.len() - depth;
        assert!(kept > 0, "the first block stays");
        let orphaned = self.canonical.split_off(kept);
        self.next_base_fee = None;
        let receipts = orphaned
            .iter()
            .flat_map(|hash| self.blocks[hash].receipts.iter());
        receipts
            .map(|receipt| Arc::clone(&receipt.transaction))
            .collect()
    }
}

/// A block while it is filled.
#[derive(Default)]
struct Filling {
    receipts: Vec<Receipt>,
    gas: u64,
    logs: u64,
}

impl Filling {
    fn take(
        &mut self,
        transaction: &Arc<Transaction>,
        state: &mut State,
        env: &BlockEnv,
        rules: &ChainRules,
    ) -> bool {
        let sender = state.account(transaction.from);
        let data_fee = rules.data_fee * (transaction.calldata.0 + transaction.calldata.1);
        let (intrinsic, floor) = transaction.intrinsic_gas();
        let valid = transaction.nonce == sender.nonce
            && transaction.gas_limit >= intrinsic.max(floor)
            && transaction.fees.max_fee_per_gas >= env.base_fee
            && transaction.upfront() + U256::from(data_fee) <= sender.wei
            && self.gas + transaction.gas_limit <= rules.gas_limit;
        if !valid {
            return false;
        }
        let Executed {
            succeeded,
            gas_used,
            gas_price,
            logs,
        } = state.execute(transaction, env);
        let account = state.accounts.entry(transaction.from).or_default();
        account.wei = account.wei.saturating_sub(U256::from(data_fee));
        self.receipts.push(Receipt {
            transaction: Arc::clone(transaction),
            succeeded,
            gas_used,
            cost: Wei(U256::from(gas_used) * U256::from(gas_price) + U256::from(data_fee)),
            first_log: self.logs,
            logs,
        });
        let emitted = self.receipts.last().map_or(0, |last| last.logs.len());
        self.logs += emitted as u64;
        self.gas += gas_used;
        true
    }
}
