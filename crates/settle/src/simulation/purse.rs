//! What signers have and how their keys were used before: poor lanes, nonces that nodes know too late, and what the
//! engine may make of both.

use alloy_primitives::{Address, B256, U256};
use teller_domain::{AccountNonce, Attempt, BlockRef, Fees, LaneMode, SlotId, Wei};

use super::world::World;
use crate::core::{Event, Funds};

/// So many looks in a row may find an idle lane behind the chain: what it was about to sign may be late.
const BEHIND_LOOKS: u32 = 8;

/// How often a process reads what its signers have, of a thousand looks at its lanes.
const READS: u64 = 600;

/// What an attempt costs at most.
pub fn upfront(attempt: &Attempt) -> U256 {
    U256::from(attempt.gas_limit) * U256::from(attempt.fees.max_fee_per_gas)
}

impl World<'_> {
    /// Some keys were used before anybody here had them: nobody knows by whom.
    pub fn use_keys_before(&mut self, genesis: BlockRef) {
        for signer in self.signers.clone() {
            let used = self.chain.head().state.account(signer).nonce;
            for nonce in 0..used {
                self.check.used_before(signer, nonce, genesis);
            }
        }
    }

    /// A signer's nonce as a node tells it to whoever takes the lane: behind a load balancer that may be an old one.
    pub fn told_nonce(&mut self, endpoint: usize, signer: Address) -> u64 {
        let nonce = self.view(endpoint).state.account(signer).nonce;
        if nonce == 0 || !self.rng.chance(self.odds.late) {
            return nonce;
        }
        self.check.fault("stale nonce");
        nonce.saturating_sub(self.rng.between(1, 2))
    }

    /// The balances of a process's signers, read at the newest block that it has been told of.
    pub fn read_funds(&mut self, p: usize) {
        let Some(newest) = self.processes[p].told.last().copied() else {
            return;
        };
        let signers: Vec<Address> = self.processes[p].fences.keys().copied().collect();
        for signer in signers {
            if self.quiet || self.rng.chance(READS) {
                self.read_purse(p, signer, newest);
            }
        }
    }

    fn read_purse(&mut self, p: usize, signer: Address, newest: BlockRef) {
        if self.some_endpoint().is_none() {
            return;
        }
        let Some(sealed) = self.chain.known(newest.hash) else {
            return;
        };
        let account = sealed.state.account(signer);
        let funds = Funds {
            nonce: AccountNonce(account.nonce),
            balance: Wei(account.wei),
            data_fee: Wei::ZERO,
        };
        self.processes[p].funds.insert(signer, funds);
        self.hear(p, Event::FundsRead { signer, funds });
        self.check_caught_up(p, signer);
    }

    /// A lane with nothing open does not stay behind the chain: sooner or later it adopts the chain's nonce.
    fn check_caught_up(&mut self, p: usize, signer: Address) {
        let core = &self.processes[p].core;
        let epoch = core.lanes().find_map(|lane| {
            let idle = lane.open_slots() == 0 && lane.mode() == LaneMode::Active;
            (lane.signer() == signer && idle && lane.is_behind()).then_some(lane.epoch())
        });
        let Some(epoch) = epoch else {
            self.check.lagging.remove(&(p, signer));
            return;
        };
        let lagging = self.check.lagging.entry((p, signer)).or_insert((epoch, 0));
        *lagging = match lagging.0 == epoch {
            true => (epoch, lagging.1 + 1),
            false => (epoch, 1),
        };
        let looks = lagging.1;
        self.demand(looks <= BEHIND_LOOKS, || {
            format!("the idle lane of {signer} is behind the chain and stays so")
        });
    }

    /// A batch is signed for a new slot: its signer can pay it beside all that is open, as far as the process was told.
    pub fn check_paid(&mut self, p: usize, id: SlotId, gas_limit: u64, fees: Fees) {
        let Some(funds) = self.processes[p].funds.get(&id.signer).copied() else {
            return;
        };
        let open = self.check.open_attempts(id.signer, funds.nonce);
        let need = U256::from(gas_limit) * U256::from(fees.max_fee_per_gas);
        let need = open.iter().map(upfront).fold(need, |sum, each| sum + each);
        self.demand(need <= funds.balance.0, || {
            format!(
                "{id} gets a batch that its signer cannot pay: {need} of {}",
                funds.balance
            )
        });
    }

    /// Whether the nonce of a slot that was opened had been used by then, as the newest block shows that its opener knew.
    pub fn note_used_before(&mut self, id: SlotId, after: Option<BlockRef>) {
        let sealed = after.and_then(|after| self.chain.known(after.hash));
        let Some(sealed) = sealed else { return };
        if sealed.state.account(id.signer).nonce > id.nonce.0 {
            let block = sealed.block;
            self.check.fault("slot opened behind the chain");
            self.check.behind.insert(id, block);
        }
    }

    /// A lane is frozen for the use of an open slot's nonce, not for what was used before there was a slot.
    pub fn check_frozen(&mut self, id: SlotId) {
        let behind = self.check.behind.get(&id).copied();
        let plain = behind.is_some_and(|block| self.chain.is_canonical(block));
        self.demand(!plain, || {
            format!("a lane is frozen for {id}, whose nonce was used before the ledger had it")
        });
    }

    /// A hash that anybody is told was handed to a node.
    pub fn check_told_hash(&mut self, transaction: Option<B256>) {
        let Some(hash) = transaction else { return };
        let handed = self.check.handed.contains(&hash);
        self.demand(handed, || {
            format!("{hash} is told, and no node was ever given it")
        });
    }
}
