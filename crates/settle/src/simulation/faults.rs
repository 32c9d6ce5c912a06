//! Faults that strike by themselves: crashes, pauses, leases that run out, nodes, reorgs, fees, strangers and payers.

use std::sync::Arc;

use alloy_primitives::{B256, U256};
use alloy_sol_types::SolCall;
use teller_domain::{AccountNonce, Fees, Payment};
use teller_schemes::eip3009;
use teller_store::{Duty, Ledger};

use super::clients::{PAYERS, STRANGER, payer};
use super::model::state::{Code, Spent};
use super::model::transaction::{Transaction, cancelAuthorizationCall};
use super::world::{Job, TOKEN, World};

impl World<'_> {
    pub fn strike(&mut self) {
        if self.quiet {
            return;
        }
        let pause = self.rng.between(300, 1_500);
        self.schedule(pause, Job::Strike);
        for index in 0..self.processes.len() {
            let process = &self.processes[index];
            if !process.alive && process.restarts_at_ms <= self.now_ms {
                self.restart(index);
            }
        }
        if !self.rng.chance(self.odds.strike) {
            return;
        }
        let p = self.rng.index(self.processes.len());
        let endpoint = self.rng.index(self.endpoints.len());
        let while_ms = self.now_ms + self.rng.between(500, 9_000);
        match self.rng.below(24) {
            0 | 1 => self.reorg(),
            2 if self.processes[p].alive => {
                self.check.fault("crash");
                // Some stay away for longer than it takes a block to be final.
                let back_in = match self.rng.chance(150) {
                    true => self.rng.between(20_000, 40_000),
                    false => self.rng.between(100, 9_000),
                };
                self.expire_leases(p);
                self.crash(p, back_in);
            }
            3 if self.processes[p].alive => {
                self.check.fault("pause");
                let paused_until_ms = self.processes[p].paused_until_ms;
                let goes_on = paused_until_ms <= self.now_ms;
                // A pause within a pause never ends before it: a clock that stands would run back.
                self.processes[p].paused_until_ms = paused_until_ms.max(while_ms + 4_000);
                if goes_on && self.rng.chance(300) {
                    // The machine sleeps, and its monotonic clock with it.
                    self.check.fault("clock stands");
                    let behind = while_ms + 4_000 - self.now_ms;
                    let process = &mut self.processes[p];
                    process.clock_ahead_ms = process.clock_ahead_ms.saturating_sub(behind);
                }
                self.note(|| format!("p{p} pauses"));
                if self.rng.chance(800) {
                    self.expire_leases(p);
                }
            }
            4 => {
                self.check.fault("lease lost");
                self.expire_leases(p);
            }
            5 => {
                self.check.fault("node lags");
                self.endpoints[endpoint].lags_until_ms = while_ms;
            }
            6 => {
                self.check.fault("node down");
                self.endpoints[endpoint].down_until_ms = while_ms;
            }
            7 => {
                // The same one always: two nodes that forget the same are a witness too many.
                self.check.fault("node forgets receipts");
                self.endpoints[0].forgets_until_ms = while_ms;
            }
            8 => {
                self.check.fault("base fee spike");
                let spike = u128::from(self.rng.between(1, 12)) * 1_000_000_000;
                self.chain.set_next_base_fee(spike);
            }
            9 => {
                self.check.fault("chain stuck for us");
                self.stuck_until_ms = self.now_ms + self.rng.between(4_000, 38_000);
            }
            10 => self.evict(endpoint),
            11 | 12 => self.interfere(),
            13 | 18 => self.change_payer(),
            14 | 21 => self.drain_signer(),
            20 => {
                self.check.fault("node builds its index");
                let until = while_ms + 6_000;
                let all = self.rng.chance(500);
                for (index, node) in self.endpoints.iter_mut().enumerate() {
                    if all || index == endpoint {
                        node.indexing_until_ms = until;
                    }
                }
            }
            17 if self.rng.chance(600) => self.order(),
            19 if self.may_drain(p) && self.rng.chance(350) => self.drain_process(p),
            15 if self.rng.chance(600) => self.use_key(),
            22 => {
                // The same one always, as above.
                self.check.fault("node shows no logs");
                self.endpoints[0].blind_until_ms = self.now_ms + self.rng.between(4_000, 30_000);
            }
            23 => {
                self.check.fault("token begins or ceases to take a fee");
                let takes_fee = self.rng.chance(500);
                self.chain.cheat(|state| state.takes_fee = takes_fee);
            }
            _ => {
                if let Some(waiting) = self.builder.transactions().next() {
                    let hash = waiting.hash;
                    self.check.fault("transaction withheld");
                    self.withheld.insert(hash, while_ms);
                }
            }
        }
    }

    /// As time would: the leases of a process have run out.
    pub fn expire_leases(&mut self, p: usize) {
        let (ledger, id) = (Arc::clone(&self.stage.ledger), self.processes[p].id);
        self.stage
            .runtime
            .block_on(ledger.heartbeat(id, Duty::Answers, 0))
            .unwrap();
        let owned = self.check.owners.values().filter(|(owner, _)| *owner == id);
        for fence in owned.map(|(_, fence)| *fence).collect::<Vec<_>>() {
            let renewed = self.stage.runtime.block_on(ledger.renew_lane(fence, 0));
            if renewed.is_ok() {
                self.check.expired.insert(fence.signer);
            }
        }
        self.note(|| format!("leases of p{p} run out"));
    }

    fn evict(&mut self, endpoint: usize) {
        self.check.fault("pool evicts");
        let hashes: Vec<B256> = self.endpoints[endpoint]
            .pool
            .transactions()
            .map(|t| t.hash)
            .collect();
        for hash in hashes {
            if self.rng.chance(600) {
                self.endpoints[endpoint].pool.evict(hash);
                self.builder.evict(hash);
            }
        }
    }

    /// Somebody else submits or cancels an authorization that he has seen.
    fn interfere(&mut self) {
        let known: Vec<Payment> = self
            .clients
            .iter()
            .map(|client| client.payment.clone())
            // A delegation names its delegate: nobody else redeems it.
            .filter(Payment::is_guarded_on_chain)
            .collect();
        if known.is_empty() {
            return;
        }
        let payment = self.rng.pick(&known).clone();
        let spent = self
            .chain
            .head()
            .state
            .spent(payment.key.payer, payment.key.nonce.0);
        if spent == Some(Spent::Used) || spent == Some(Spent::Cancelled) {
            return;
        }
        if payment.token_approval().is_some() {
            return self.upset_approval(&payment);
        }
        if self.rng.chance(200) {
            self.check.fault("spent by an unknown contract");
            self.check.opaque.insert(payment.key);
        }
        let data = if self.rng.chance(500) {
            self.check.fault("submitted by a stranger");
            eip3009::transfer_call(&payment)
        } else {
            self.check.fault("cancelled by its payer");
            let call = cancelAuthorizationCall {
                authorizer: payment.key.payer,
                nonce: payment.key.nonce.0,
                v: 27,
                r: B256::repeat_byte(1),
                s: B256::repeat_byte(1),
            };
            call.abi_encode().into()
        };
        let key = super::world::stranger();
        let nonce = self.stranger_nonce();
        let fees = Fees {
            max_fee_per_gas: 400_000_000_000,
            max_priority_fee_per_gas: u128::from(self.rng.between(1, 400)) * 1_000_000,
        };
        let signed = key
            .sign_batch(self.chain_id, nonce, TOKEN, data, 150_000, fees)
            .unwrap();
        let transaction = Arc::new(Transaction::decode(&signed.raw, STRANGER));
        let head = Arc::clone(self.chain.head());
        self.note(|| format!("a stranger sends {:?}", transaction.call));
        let _the_strangers_own_affair =
            self.builder.submit(transaction, &head.state, head.base_fee);
    }

    pub fn stranger_nonce(&self) -> AccountNonce {
        let nonce = self.chain.head().state.account(STRANGER).nonce;
        let waiting = self.builder.transactions();
        let waiting = waiting.filter(|waiting| waiting.from == STRANGER).count();
        AccountNonce(nonce + waiting as u64)
    }

    /// A payer becomes a contract, or an account again, spends his money elsewhere, or gets some.
    fn change_payer(&mut self) {
        let who = payer(self.rng.below(PAYERS));
        let code = match self.rng.below(5) {
            0 | 1 => Some(Code::Burns),
            2 => Some(Code::Refuses),
            3 => Some(Code::Accepts),
            _ => None,
        };
        if self.rng.chance(500) {
            self.check.fault("payer's code changes");
            self.chain
                .cheat(|state| state.accounts.entry(who).or_default().code = code);
        } else {
            self.check.fault("payer's balance changes");
            let dollars = U256::from(self.rng.below(100));
            self.chain.cheat(|state| {
                state.dollars.insert(who, dollars);
            });
        }
    }

    fn drain_signer(&mut self) {
        self.check.fault("signer drained or refunded");
        let signer = *self.rng.pick(&self.signers.clone());
        let wei = match self.rng.below(4) {
            0 => U256::from(1_000),
            // Enough for a no-op, not for a batch.
            1 => U256::from(self.rng.between(100, 900)) * U256::from(1_000_000_000_000_u64),
            _ => U256::from(10).pow(U256::from(20)),
        };
        self.chain
            .cheat(|state| state.accounts.entry(signer).or_default().wei = wei);
    }

    /// The signer's key is used by somebody else.
    fn use_key(&mut self) {
        self.check.fault("signer's key used by a stranger");
        let address = *self.rng.pick(&self.signers.clone());
        let nonce = self.chain.head().state.account(address).nonce;
        let fees = Fees {
            max_fee_per_gas: 900_000_000_000,
            max_priority_fee_per_gas: 900_000_000_000,
        };
        let signer = self.signer_of(address);
        let signed = signer
            .sign_noop(self.chain_id, AccountNonce(nonce), fees)
            .unwrap();
        let transaction = Arc::new(Transaction::decode(&signed.raw, address));
        let head = Arc::clone(self.chain.head());
        self.note(|| format!("a stranger uses the key of {address} at {nonce}"));
        self.stolen.insert(transaction.hash);
        let _the_strangers_own_affair =
            self.builder.submit(transaction, &head.state, head.base_fee);
    }
}
