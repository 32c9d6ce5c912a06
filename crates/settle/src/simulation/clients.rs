//! Sellers who ask for settlements, buyers and strangers who interfere, and the faults that strike by themselves.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall;
use teller_domain::{
    AccountNonce, AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, EcdsaSignature,
    Fees, Level, Payment, RequestId, Settlement, SettlementId, SettlementState, TenantId,
    UnixMillis, UnixSeconds, X402Version,
};
use teller_schemes::eip3009;
use teller_store::{
    AcceptOutcome, ClaimOutcome, HoldPurpose, Ledger, NewSettlement, Reservations, ReserveOutcome,
    ReserveRequest,
};

use super::model::state::{Code, Spent};
use super::model::transaction::{Transaction, cancelAuthorizationCall};
use super::world::{CHAOS_MS, EPOCH, Job, TOKEN, World};
use crate::core::{Event, Queued};

/// One request for one payment.
#[derive(Debug)]
pub struct Client {
    pub payment: Payment,
    level: Level,
    request: RequestId,
    stage: Stage,
    gives_up_ms: u64,
}

#[derive(Debug)]
enum Stage {
    Verify,
    Settle,
    Wait(SettlementId),
    Done,
}

fn payer(index: u64) -> Address {
    Address::with_last_byte(0x40 + index as u8)
}

const PAYERS: u64 = 5;
const STRANGER: Address = Address::repeat_byte(0x99);

impl World<'_> {
    pub fn plan_clients(&mut self) {
        let purse: Vec<U256> = (0..PAYERS)
            .map(|_| U256::from(self.rng.between(20, 400)))
            .collect();
        let codes: Vec<bool> = (0..PAYERS).map(|_| self.rng.chance(100)).collect();
        self.chain.cheat(|state| {
            for (index, dollars) in purse.iter().enumerate() {
                state.dollars.insert(payer(index as u64), *dollars);
            }
            for (index, has_code) in codes.into_iter().enumerate() {
                if has_code {
                    state.accounts.entry(payer(index as u64)).or_default().code =
                        Some(Code::Accepts);
                }
            }
            let stranger = state.accounts.entry(STRANGER).or_default();
            stranger.wei = U256::from(10).pow(U256::from(20));
        });
        let head = self.chain.head().block.hash;
        self.endpoints
            .iter_mut()
            .for_each(|endpoint| endpoint.view = head);
        for _ in 0..self.rng.between(4, 14) {
            let payment = self.payment();
            let at = self.rng.below(CHAOS_MS * 2 / 3);
            self.add_client(payment, at);
            if self.rng.chance(200) {
                // The same payment again: at once, or after the first was given up.
                let again = at + self.rng.below(15_000);
                self.add_client(payment, again);
            }
        }
    }

    fn payment(&mut self) -> Payment {
        let from = payer(self.rng.below(PAYERS));
        let short = self.rng.chance(250);
        let begins = self.now_ms / 1_000;
        let lasts = if short {
            self.rng.between(8, 30)
        } else {
            10_000
        };
        let begins = begins + self.rng.below(40);
        Payment {
            key: AuthorizationKey {
                chain: self.chain_id,
                authority: TOKEN,
                payer: from,
                nonce: AuthorizationNonce(B256::from(self.rng.bytes32())),
            },
            asset: TOKEN,
            payee: Address::with_last_byte(0x80 + self.rng.below(3) as u8),
            value: AssetAmount::from(self.rng.between(1, 30)),
            valid_after: UnixSeconds(0),
            valid_before: UnixSeconds(EPOCH + begins + lasts),
            authorization: Authorization::Eip3009 {
                signature: EcdsaSignature {
                    r: B256::repeat_byte(1),
                    s: B256::repeat_byte(1),
                    v: 27,
                },
            },
        }
    }

    fn add_client(&mut self, payment: Payment, at: u64) {
        let levels = [
            Level::Preconfirmed,
            Level::Included,
            Level::Included,
            Level::Safe,
            Level::Finalized,
        ];
        let client = Client {
            payment,
            level: *self.rng.pick(&levels),
            request: RequestId(self.fresh_uuid()),
            stage: Stage::Verify,
            gives_up_ms: 0,
        };
        self.clients.push(client);
        self.schedule(at, Job::Client(self.clients.len() - 1));
    }

    /// One step of a request, at any process that is up: an API process is no settler's.
    pub fn serve(&mut self, client: usize) {
        let at = self.rng.index(self.processes.len());
        let process = &self.processes[at];
        if !process.alive || process.paused_until_ms > self.now_ms {
            return self.schedule(300, Job::Client(client));
        }
        match self.clients[client].stage {
            Stage::Verify => self.verify(client),
            Stage::Settle => self.settle(client, at),
            Stage::Wait(id) => self.wait(client, at, id),
            Stage::Done => {}
        }
    }

    fn reserve(&mut self, client: usize, purpose: HoldPurpose) -> ReserveOutcome {
        let payment = self.clients[client].payment;
        let endpoint = self.rng.index(self.endpoints.len());
        let view = Arc::clone(self.view(endpoint));
        let balance = view.state.dollars(payment.key.payer);
        let now = UnixMillis(EPOCH * 1_000 + self.now_ms);
        let request = ReserveRequest {
            key: payment.key,
            asset: payment.asset,
            value: payment.value,
            tenant: TenantId::new("seller"),
            digest: payment.digest(),
            idempotency_key: None,
            purpose,
            balance: AssetAmount(balance),
            read_at_block: view.block.number,
            now,
            nonce_hold_until: UnixMillis(payment.valid_before.0 * 1_000),
            balance_hold_until: UnixMillis(now.0 + 60_000),
        };
        let reservations = Arc::clone(&self.stage.reservations);
        let outcome = self
            .stage
            .runtime
            .block_on(reservations.reserve(request))
            .unwrap();
        if matches!(outcome, ReserveOutcome::Granted { .. }) {
            self.check_reserved(&payment, &view.state, now.0);
        }
        outcome
    }

    fn verify(&mut self, client: usize) {
        let payment = self.clients[client].payment;
        let seconds = EPOCH + self.now_ms / 1_000;
        if payment.valid_before.0 <= seconds + 6 {
            self.clients[client].stage = Stage::Done;
            return;
        }
        let outcome = self.reserve(client, HoldPurpose::Verify { lenient: true });
        let held = matches!(
            outcome,
            ReserveOutcome::Granted { .. } | ReserveOutcome::Renewed
        );
        self.clients[client].stage = if held { Stage::Settle } else { Stage::Done };
        let pause = self.rng.below(1_000);
        self.schedule(pause, Job::Client(client));
    }

    fn settle(&mut self, index: usize, at: usize) {
        let client = index;
        let payment = self.clients[client].payment;
        if payment.valid_before.0 <= EPOCH + self.now_ms / 1_000 + 6 {
            self.clients[client].stage = Stage::Done;
            return;
        }
        let held = self.reserve(client, HoldPurpose::Settle);
        if !matches!(
            held,
            ReserveOutcome::Granted { .. } | ReserveOutcome::Renewed
        ) {
            self.clients[client].stage = Stage::Done;
            return;
        }
        let new = NewSettlement {
            id: SettlementId(self.fresh_uuid()),
            tenant: TenantId::new("seller"),
            version: X402Version::V2,
            payment,
            queued_by: self.rng.chance(700).then_some(self.processes[at].id),
        };
        let queued_here = new.queued_by.is_some();
        if self.rng.chance(self.odds.write_lost) {
            self.check.fault("write lost");
            return self.schedule(500, Job::Client(client));
        }
        let ledger = Arc::clone(&self.stage.ledger);
        let outcome = self.stage.runtime.block_on(ledger.accept(new)).unwrap();
        let settlement = match outcome {
            AcceptOutcome::Accepted(settlement) => {
                self.note(|| {
                    format!(
                        "accepted {} {}",
                        settlement.id, settlement.payment.key.payer
                    )
                });
                self.check.accepted.insert(settlement.id, payment);
                let announced = !self.rng.chance(self.odds.answer_lost);
                if queued_here && announced {
                    let queued = vec![Queued::new(&settlement)];
                    self.answer(at, Event::Accepted(queued));
                }
                settlement
            }
            AcceptOutcome::Exists(settlement) => settlement,
        };
        let wait = self.rng.between(2_000, 25_000);
        let client = &mut self.clients[client];
        client.gives_up_ms = self.now_ms + wait;
        client.stage = Stage::Wait(settlement.id);
        self.schedule(300, Job::Client(index));
    }

    fn wait(&mut self, client: usize, at: usize, id: SettlementId) {
        let ledger = Arc::clone(&self.stage.ledger);
        let read = self.stage.runtime.block_on(ledger.settlement(id)).unwrap();
        let Some(row) = read else {
            // A withdrawn row that was accepted again has another name.
            self.clients[client].stage = Stage::Done;
            return;
        };
        if row.state.answers(self.clients[client].level) {
            return self.tell(client, at, &row);
        }
        if self.now_ms < self.clients[client].gives_up_ms {
            return self.schedule(700, Job::Client(client));
        }
        if row.state == SettlementState::Accepted && row.tries == 0 {
            let withdrawn = self.stage.runtime.block_on(ledger.withdraw(id)).unwrap();
            if withdrawn {
                self.note(|| format!("withdrawn {id}"));
                self.check.withdrawn.insert(id);
                let reservations = Arc::clone(&self.stage.reservations);
                let key = row.payment.key;
                self.check.holds.remove(&key);
                self.stage
                    .runtime
                    .block_on(reservations.abandon(&[key]))
                    .unwrap();
            }
        }
        // Told that it is pending, or withdrawn: some ask again.
        if self.rng.chance(700) {
            self.clients[client].stage = Stage::Settle;
            let pause = self.rng.between(500, 6_000);
            self.schedule(pause, Job::Client(client));
        } else {
            self.clients[client].stage = Stage::Done;
        }
    }

    fn tell(&mut self, client: usize, at: usize, row: &Settlement) {
        let ledger = Arc::clone(&self.stage.ledger);
        let (id, request) = (row.id, self.clients[client].request);
        match &row.state {
            SettlementState::Settled(_)
            | SettlementState::SettledExternally(_)
            | SettlementState::Preconfirmed { .. } => {
                let process = self.processes[at].id;
                let claim = ledger.claim_delivery(id, request, process);
                match self.stage.runtime.block_on(claim) {
                    Ok(ClaimOutcome::Claimed) => {}
                    Ok(ClaimOutcome::Taken) => {
                        self.clients[client].stage = Stage::Done;
                        return;
                    }
                    // A reorg took it back between the look and the claim.
                    Err(_) => return self.schedule(500, Job::Client(client)),
                }
                if self.rng.chance(150) {
                    // It never reached the transport; the claim is given back, and perhaps asked for again.
                    let release = ledger.release_delivery(id, request);
                    self.stage.runtime.block_on(release).unwrap();
                    self.check.fault("delivery failed");
                    self.clients[client].request = RequestId(self.fresh_uuid());
                    return self.schedule(1_000, Job::Client(client));
                }
                let confirm = ledger.confirm_delivery(id, request);
                self.stage.runtime.block_on(confirm).unwrap();
                self.check_told_success(row);
                self.clients[client].stage = Stage::Done;
            }
            SettlementState::Failed { .. } | SettlementState::Expired => {
                match self.stage.runtime.block_on(ledger.tell_failure(id)) {
                    Ok(true) => {
                        self.note(|| format!("told failure {id}"));
                        self.check.told_failure.insert(id);
                        self.clients[client].stage = Stage::Done;
                    }
                    Ok(false) | Err(_) => self.schedule(500, Job::Client(client)),
                }
            }
            _ => self.clients[client].stage = Stage::Done,
        }
    }

    // ---- faults that strike by themselves ----

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
        match self.rng.below(17) {
            0 | 1 => self.reorg(),
            2 if self.processes[p].alive => {
                self.check.fault("crash");
                let back_in = self.rng.between(100, 9_000);
                self.expire_leases(p);
                self.crash(p, back_in);
            }
            3 if self.processes[p].alive => {
                self.check.fault("pause");
                self.processes[p].paused_until_ms = while_ms + 4_000;
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
            13 => self.change_payer(),
            14 => self.drain_signer(),
            15 if self.rng.chance(300) => self.use_key(),
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
    fn expire_leases(&mut self, p: usize) {
        let (ledger, id) = (Arc::clone(&self.stage.ledger), self.processes[p].id);
        self.stage
            .runtime
            .block_on(ledger.heartbeat(id, 0))
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
        let known: Vec<Payment> = self.clients.iter().map(|client| client.payment).collect();
        let payment = *self.rng.pick(&known);
        let spent = self
            .chain
            .head()
            .state
            .spent(payment.key.payer, payment.key.nonce.0);
        if spent == Some(Spent::Used) || spent == Some(Spent::Cancelled) {
            return;
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
        let nonce = self.chain.head().state.account(STRANGER).nonce;
        let waiting = self
            .builder
            .transactions()
            .filter(|t| t.from == STRANGER)
            .count() as u64;
        let fees = Fees {
            max_fee_per_gas: 400_000_000_000,
            max_priority_fee_per_gas: u128::from(self.rng.between(1, 400)) * 1_000_000,
        };
        let nonce = AccountNonce(nonce + waiting);
        let signed = key
            .sign_batch(self.chain_id, nonce, TOKEN, data, 150_000, fees)
            .unwrap();
        let transaction = Arc::new(Transaction::decode(&signed.raw, STRANGER));
        let head = Arc::clone(self.chain.head());
        self.note(|| format!("a stranger sends {:?}", transaction.call));
        let _the_strangers_own_affair =
            self.builder.submit(transaction, &head.state, head.base_fee);
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
        let wei = match self.rng.chance(500) {
            true => U256::from(1_000),
            false => U256::from(10).pow(U256::from(20)),
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
        self.stolen.push(Arc::clone(&transaction));
        let _the_strangers_own_affair =
            self.builder.submit(transaction, &head.state, head.base_fee);
    }
}
