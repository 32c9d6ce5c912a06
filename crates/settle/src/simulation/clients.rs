//! Sellers who ask for settlements, buyers and strangers who interfere, and the faults that strike by themselves.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use teller_domain::{
    AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, Delegation, EcdsaSignature,
    Level, Payment, RequestId, Settlement, SettlementId, SettlementState, TenantId, UnixMillis,
    UnixSeconds, Validity, X402Version,
};
use teller_store::{
    AcceptOutcome, ClaimOutcome, HoldPurpose, Ledger, NewSettlement, Reservations, ReserveOutcome,
    ReserveRequest, Success,
};

use super::model::state::Code;
use super::model::transaction::{FICKLE, MANAGER};
use super::operators::TENANT;
use super::switches::Switch;
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

pub fn payer(index: u64) -> Address {
    Address::with_last_byte(0x40 + index as u8)
}

/// The end of every hold of a nonce.
const LONGEST: u64 = (EPOCH + 86_400) * 1_000;
pub const PAYERS: u64 = 5;
pub const STRANGER: Address = Address::repeat_byte(0x99);

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
        self.plan_gas();
        let head = self.chain.head().block.hash;
        self.endpoints
            .iter_mut()
            .for_each(|endpoint| endpoint.view = head);
        for _ in 0..self.rng.between(4, 14) {
            let payment = match self.rng.below(1_000) {
                0..150 => self.delegated(),
                150..350 => {
                    let payment = self.payment();
                    self.approved(payment)
                }
                _ => self.payment(),
            };
            let at = self.rng.below(CHAOS_MS * 2 / 3);
            self.add_client(payment.clone(), at);
            if self.rng.chance(200) {
                // The same payment again: at once, or after the first was given up.
                let again = at + self.rng.below(15_000);
                self.add_client(payment, again);
            }
        }
    }

    /// A delegation, of the few kinds that the model's manager knows.
    fn delegated(&mut self) -> Payment {
        let mut payment = self.payment();
        let kind = match self.rng.chance(200) {
            true => FICKLE,
            false => 0,
        };
        let context = [
            payment.key.payer.as_slice(),
            &[kind],
            &self.rng.bytes32()[..11],
        ];
        let delegation = Delegation::new(context.concat().into(), self.signers[0]).unwrap();
        payment.key.authority = MANAGER;
        payment.key.nonce = delegation.nonce();
        payment.validity = Delegation::validity();
        payment.authorization = Authorization::Erc7710(delegation.into());
        payment
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
        // Some are valid for ever, in a number that no clock knows.
        let validity = match self.rng.chance(50) {
            true => Validity::signed(U256::ZERO, U256::MAX),
            false => Validity::between(UnixSeconds(0), UnixSeconds(EPOCH + begins + lasts)),
        };
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
            validity,
            authorization: Authorization::Eip3009 {
                signature: EcdsaSignature {
                    r: B256::repeat_byte(1),
                    s: B256::repeat_byte(1),
                    v: 27,
                }
                .into(),
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
        let payment = self.clients[client].payment.clone();
        let endpoint = self.rng.index(self.endpoints.len());
        let view = Arc::clone(self.view(endpoint));
        let balance = view.state.dollars(payment.key.payer);
        let now = UnixMillis(EPOCH * 1_000 + self.now_ms);
        let request = ReserveRequest {
            key: payment.key,
            asset: payment.asset,
            value: payment.value,
            tenant: TenantId::new(TENANT),
            digest: payment.digest(),
            idempotency_key: None,
            purpose,
            balance: AssetAmount(balance),
            read_at_block: view.block.number,
            now,
            nonce_hold_until: UnixMillis(
                payment.valid_before().0.saturating_mul(1_000).min(LONGEST),
            ),
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
        let payment = self.clients[client].payment.clone();
        let seconds = self.chain_seconds();
        if payment.valid_before().0 <= seconds + 6 {
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
        let payment = self.clients[client].payment.clone();
        if payment.valid_before().0 <= self.chain_seconds() + 6 {
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
            tenant: TenantId::new(TENANT),
            version: X402Version::V2,
            payment: payment.clone(),
            attribution: alloy_primitives::Bytes::new(),
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
        let read = self.stage.read(|| ledger.settlement(id));
        let Some(row) = read else {
            // A withdrawn row that was accepted again has another name.
            self.clients[client].stage = Stage::Done;
            return;
        };
        if row.state.answers(self.clients[client].level) {
            return self.tell(client, at, &row);
        }
        if let SettlementState::Assigned { transaction, .. } = row.state {
            self.check_told_hash(transaction);
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
                if self.off == Some(Switch::ClaimBeforeTelling) {
                    self.check_told_success(row);
                    self.clients[client].stage = Stage::Done;
                    return;
                }
                let process = self.processes[at].id;
                let success = Success::of(&row.state).expect("it is settled");
                let claim = ledger.claim_delivery(id, request, process, success);
                match self.stage.runtime.block_on(claim) {
                    Ok(ClaimOutcome::Claimed) => {}
                    Ok(ClaimOutcome::Delivered) => {
                        self.clients[client].stage = Stage::Done;
                        return;
                    }
                    // Whoever has it may be dead.
                    Ok(ClaimOutcome::Taken) => return self.schedule(500, Job::Client(client)),
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
                        self.check.told.insert(id);
                        self.check_failure_is_true(row);
                        self.clients[client].stage = Stage::Done;
                    }
                    Ok(false) | Err(_) => self.schedule(500, Job::Client(client)),
                }
            }
            _ => self.clients[client].stage = Stage::Done,
        }
    }
}
