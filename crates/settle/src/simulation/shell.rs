//! What the shell of a process does, one boundary at a time: an effect begins (its write or send is made, or is not),
//! and its answer is another job, which a crash may forestall.

use std::future::Future;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use teller_chain::SendOutcome;
use teller_domain::{
    Attempt, AuthorizationKey, BlockRef, FencedLane, LaneMode, Level, Payment, ProcessId, Reason,
    Receipt, Resolution, SettlementId, SettlementState, SlotId, Wei,
};
use teller_schemes::{eip3009, multicall};
use teller_store::{Ledger, NewSlot, OpenSlotOutcome, Reservations, StoreError, StoreResult};

use super::model::chain::{Receipt as ChainReceipt, Sealed};
use super::model::state::{BlockEnv, Spent};
use super::model::transaction::{TokenCall, Transaction};
use super::world::{FOR_EVER_MS, Job, TOKEN, World, short};
use crate::core::{
    Effect, Event, Finding, Log, Mined, Place, Queued, RecoveredLane, RecoveredSlot, Sent,
    Sighting, ToSign,
};

/// How often a look at a node is repeated before the shell leaves it to the core to ask again.
const SEALED_TRIES: u32 = 5;
const PATIENT_TRIES: u32 = 400;
const RETRY_MS: u64 = 500;

/// What a write came to: what the ledger did, if it got there, and whether its answer came back.
struct Written<T> {
    done: Option<StoreResult<T>>,
    answered: bool,
}

impl World<'_> {
    /// One call of the ledger, run to its end; lost before it, or behind it, as the odds will.
    fn write<T>(&mut self, call: impl Future<Output = StoreResult<T>>) -> Written<T> {
        if self.rng.chance(self.odds.write_lost) {
            self.check.fault("write lost");
            return Written {
                done: None,
                answered: false,
            };
        }
        let answered = !self.rng.chance(self.odds.answer_lost);
        if !answered {
            self.check.fault("write answer lost");
        }
        let done = self.stage.runtime.block_on(call);
        if let Err(error @ (StoreError::Corrupt(_) | StoreError::Unavailable { .. })) = &done {
            self.broken(format!("the ledger itself fails: {error}"));
        }
        Written {
            done: Some(done),
            answered,
        }
    }

    fn lost(&mut self, p: usize, fence: FencedLane) {
        self.answer(p, Event::LaneLost { fence });
    }

    fn retry(&mut self, p: usize, effect: Effect, tries: u32, most: u32, in_ms: u64) {
        if tries < most {
            let jitter = self.rng.below(100);
            self.schedule(in_ms + jitter, Job::Begin(p, effect, tries + 1));
        }
    }

    pub fn begin(&mut self, p: usize, effect: Effect, tries: u32) {
        match effect {
            Effect::ReadCode {
                signer,
                batch,
                payments,
            } => {
                self.read_code(p, signer, batch, &payments);
            }
            Effect::Sign {
                fence,
                id,
                what,
                gas_limit,
                fees,
            } => {
                let signer = self.signer_of(fence.signer);
                let attempt = match &what {
                    ToSign::Batch(payments) => {
                        let (to, data) = settling_call(payments);
                        signer.sign_batch(id.chain, id.nonce, to, data, gas_limit, fees)
                    }
                    ToSign::Outbid(original) => signer.outbid(original, fees),
                    ToSign::NoOp => signer.sign_noop(id.chain, id.nonce, fees),
                };
                let attempt = attempt.unwrap();
                self.answer(p, Event::Signed { fence, id, attempt });
            }
            Effect::OpenSlot {
                fence,
                id,
                attempt,
                payments,
            } => {
                self.open_slot(p, fence, id, attempt, payments);
            }
            Effect::AddAttempt { fence, id, attempt } => {
                let ledger = Arc::clone(&self.stage.ledger);
                let written = self.write(ledger.add_attempt(fence, id, attempt.clone()));
                if matches!(written.done, Some(Ok(()))) {
                    self.fenced(fence, "add_attempt");
                    self.attempt_committed(id, &attempt);
                }
                match written.done {
                    Some(Ok(())) if written.answered => {
                        self.answer(p, Event::AttemptAdded { fence, id });
                    }
                    _ => self.lost(p, fence),
                }
            }
            Effect::Broadcast {
                id,
                attempt,
                again: _,
            } => self.broadcast(p, id, &attempt),
            Effect::FindReceipts { lookups, place } => {
                self.find_receipts(p, lookups, place, tries);
            }
            Effect::LookUp { id, hashes } => self.look_up(p, id, &hashes),
            Effect::Investigate {
                id,
                block,
                payments,
            } => {
                self.investigate(p, id, block, payments, tries);
            }
            Effect::CheckBlocks { fence, blocks } => self.check_blocks(p, fence, &blocks),
            Effect::ReclaimLane { signer } => self.schedule(RETRY_MS, Job::Claim(p, signer)),
            Effect::ReleaseQueued(ids) => {
                let (ledger, owner) = (Arc::clone(&self.stage.ledger), self.processes[p].id);
                let _no_answer = self.write(ledger.release_accepted(owner, &ids));
            }
            commit => self.commit(p, commit, tries),
        }
    }

    /// The writes of a lane that carry no bytes.
    fn commit(&mut self, p: usize, effect: Effect, tries: u32) {
        let ledger = Arc::clone(&self.stage.ledger);
        match effect {
            Effect::Preconfirm {
                fence,
                id,
                transaction,
                payments,
            } => {
                let written = self.write(ledger.preconfirm(fence, id, transaction, &payments));
                match written.done {
                    Some(Ok(())) => self.fenced(fence, "preconfirm"),
                    _ => self.lost(p, fence),
                }
            }
            Effect::CloseSlot {
                fence,
                closure,
                payments,
            } => {
                let written = self.write(ledger.close_slot(fence, closure.clone()));
                if matches!(written.done, Some(Ok(()))) {
                    self.fenced(fence, "close_slot");
                    self.slot_closed(&closure);
                    self.settle_holds(&closure.resolutions, &payments);
                }
                match written.done {
                    Some(Ok(())) if written.answered => {
                        self.answer(
                            p,
                            Event::SlotClosed {
                                fence,
                                id: closure.id,
                            },
                        );
                    }
                    _ => self.lost(p, fence),
                }
            }
            Effect::ReopenSlots { fence, nonces } => {
                let written = self.write(ledger.reopen_slots(fence, &nonces));
                if matches!(written.done, Some(Ok(()))) {
                    self.fenced(fence, "reopen_slots");
                    let keys = self.check.reopened(fence, &nonces);
                    let reservations = Arc::clone(&self.stage.reservations);
                    self.stage
                        .runtime
                        .block_on(reservations.unmined(&keys))
                        .unwrap();
                }
                match written.done {
                    Some(Ok(()) | Err(StoreError::StaleLane)) => {
                        self.schedule(1, Job::Claim(p, fence.signer));
                    }
                    Some(Err(error)) => {
                        self.broken(format!("reopen_slots of {nonces:?}: {error}"));
                    }
                    None => {
                        let effect = Effect::ReopenSlots { fence, nonces };
                        self.retry(p, effect, tries, PATIENT_TRIES, RETRY_MS);
                    }
                }
            }
            Effect::TakeBackExternal { fence, blocks } => {
                let written = self.write(ledger.take_back_external(fence, &blocks));
                match written.done {
                    Some(Ok(_)) if written.answered => self.fenced(fence, "take_back_external"),
                    _ => self.lost(p, fence),
                }
            }
            Effect::RaiseLevels {
                fence,
                nonces,
                level,
            } => {
                let written = self.write(ledger.raise_levels(fence, &nonces, level));
                if matches!(written.done, Some(Ok(()))) {
                    self.fenced(fence, "raise_levels");
                    self.levels_raised(fence, &nonces, level);
                }
                match written.done {
                    Some(Ok(())) if written.answered => {
                        self.answer(
                            p,
                            Event::LevelsRaised {
                                fence,
                                nonces,
                                level,
                            },
                        );
                    }
                    _ => self.lost(p, fence),
                }
            }
            Effect::ResolveAccepted { fence, resolutions } => {
                let written = self.write(ledger.resolve_accepted(fence, &resolutions));
                match (written.done, written.answered) {
                    (Some(Ok(_)), true) => {
                        self.fenced(fence, "resolve_accepted");
                        let ids = resolutions.iter().map(|(id, _)| *id).collect();
                        self.answer(p, Event::AcceptedResolved { ids });
                    }
                    (Some(Err(_)), _) => self.lost(p, fence),
                    (Some(Ok(_)) | None, _) => {
                        let effect = Effect::ResolveAccepted { fence, resolutions };
                        self.retry(p, effect, tries, PATIENT_TRIES, RETRY_MS);
                    }
                }
            }
            Effect::SetMode { fence, mode, slot } => {
                let written = self.write(ledger.set_lane_mode(fence, mode));
                match written.done {
                    Some(Ok(())) => {
                        self.fenced(fence, "set_lane_mode");
                        self.mode_set(fence, mode, slot);
                    }
                    _ => self.lost(p, fence),
                }
            }
            other => self.broken(format!(
                "an effect that nobody carries out: {}",
                short(&other)
            )),
        }
    }

    fn open_slot(
        &mut self,
        p: usize,
        fence: FencedLane,
        id: SlotId,
        attempt: Attempt,
        payments: Vec<SettlementId>,
    ) {
        let slot = NewSlot {
            id,
            attempt: attempt.clone(),
            payments: payments.clone(),
        };
        let ledger = Arc::clone(&self.stage.ledger);
        let written = self.write(ledger.open_slot(fence, slot));
        if matches!(written.done, Some(Ok(OpenSlotOutcome::Opened))) {
            self.fenced(fence, "open_slot");
            self.slot_opened(id, &attempt, &payments);
        }
        match written.done {
            Some(Ok(OpenSlotOutcome::Opened)) if written.answered => {
                self.answer(p, Event::SlotOpened { fence, id });
            }
            Some(Ok(OpenSlotOutcome::PaymentsMoved(moved))) if written.answered => {
                self.answer(p, Event::PaymentsMoved { fence, id, moved });
            }
            _ => self.lost(p, fence),
        }
    }

    fn settle_holds(&mut self, resolutions: &[(SettlementId, Resolution)], payments: &[Queued]) {
        let key = |id: SettlementId| -> Option<AuthorizationKey> {
            payments
                .iter()
                .find(|queued| queued.id == id)
                .map(|queued| queued.payment.key)
        };
        for (id, resolution) in resolutions {
            let (Some(key), Resolution::Resolved(state)) = (key(*id), resolution) else {
                continue;
            };
            let reservations = Arc::clone(&self.stage.reservations);
            let done = match state {
                SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
                    let block = receipt.block.number;
                    self.stage
                        .runtime
                        .block_on(reservations.mined(&[key], block))
                }
                _ => self.stage.runtime.block_on(reservations.abandon(&[key])),
            };
            done.unwrap();
        }
    }

    // ---- nodes ----

    pub fn some_endpoint(&mut self) -> Option<usize> {
        let endpoint = self.rng.index(self.endpoints.len());
        (!self.node_fails(endpoint)).then_some(endpoint)
    }

    pub fn view(&self, endpoint: usize) -> &Arc<Sealed> {
        self.chain.block(self.endpoints[endpoint].view)
    }

    fn env(&self, endpoint: usize) -> BlockEnv {
        let head = self.view(endpoint);
        BlockEnv {
            timestamp: head.timestamp,
            base_fee: head.base_fee,
            token: TOKEN,
        }
    }

    fn read_code(&mut self, p: usize, signer: Address, batch: u64, payments: &[Queued]) {
        let Some(endpoint) = self.some_endpoint() else {
            return self.answer(p, Event::CodeUnread { signer, batch });
        };
        let state = &self.view(endpoint).state;
        let mut with_code = Vec::new();
        let mut refused = Vec::new();
        for queued in payments {
            if state.account(queued.payment.key.payer).code.is_none() {
                continue;
            }
            with_code.push(queued.id);
            if payments.len() == 1 {
                refused.extend(
                    self.would_fail(&queued.payment)
                        .map(|reason| (queued.id, reason)),
                );
            }
        }
        self.answer(
            p,
            Event::CodeRead {
                signer,
                batch,
                with_code,
                refused,
            },
        );
    }

    /// Why the call would revert, if every node says that it would. A used authorization is another matter: what used it
    /// may have paid.
    fn would_fail(&self, payment: &Payment) -> Option<Reason> {
        let mut why = None;
        for endpoint in 0..self.endpoints.len() {
            let state = &self.view(endpoint).state;
            let reason = state.would_fail(&call_of(payment), &self.env(endpoint))?;
            if reason == Some(Reason::NonceAlreadyUsed) {
                return None;
            }
            why = Some(reason.unwrap_or(Reason::TransactionFailed));
        }
        why
    }

    /// To one node, and to a second one if the first did not take it; any acceptance wins.
    fn broadcast(&mut self, p: usize, id: SlotId, attempt: &Attempt) {
        self.check_sent(id, attempt);
        let transaction = Arc::new(Transaction::decode(&attempt.raw, id.signer));
        let first = self.rng.index(self.endpoints.len());
        let mut outcome = self.send_to(first, &transaction);
        if !matches!(outcome, SendOutcome::Accepted | SendOutcome::AlreadyKnown) {
            let second = (first + 1) % self.endpoints.len();
            let other = self.send_to(second, &transaction);
            if rank(&other) < rank(&outcome) {
                outcome = other;
            }
        }
        let outcome = match outcome {
            SendOutcome::Accepted | SendOutcome::AlreadyKnown => Sent::Accepted,
            SendOutcome::NonceTooLow => Sent::NonceTooLow,
            SendOutcome::Underpriced => Sent::Underpriced,
            SendOutcome::InsufficientFunds => Sent::InsufficientFunds,
            SendOutcome::GasTooHigh => Sent::GasTooHigh,
            SendOutcome::Unknown(_) => Sent::Unknown,
        };
        self.answer(
            p,
            Event::Sent {
                id,
                hash: attempt.hash,
                outcome,
            },
        );
    }

    fn send_to(&mut self, endpoint: usize, transaction: &Arc<Transaction>) -> SendOutcome {
        let unknown = SendOutcome::Unknown(String::new());
        if self.node_fails(endpoint) {
            return match self.rng.below(4) {
                0 => {
                    self.check.fault("send delivered, answer lost");
                    self.submit(endpoint, Arc::clone(transaction));
                    unknown
                }
                1 => {
                    self.check.fault("send delivered late");
                    let late = self.rng.between(100, 8_000);
                    self.schedule(late, Job::Arrive(endpoint, Arc::clone(transaction)));
                    unknown
                }
                _ => {
                    self.check.fault("send lost");
                    unknown
                }
            };
        }
        self.submit(endpoint, Arc::clone(transaction))
    }

    pub fn submit(&mut self, endpoint: usize, transaction: Arc<Transaction>) -> SendOutcome {
        let view = Arc::clone(self.view(endpoint));
        let base_fee = self.chain.base_fee_after(&view);
        self.endpoints[endpoint]
            .pool
            .submit(transaction, &view.state, base_fee)
    }

    fn find_receipts(
        &mut self,
        p: usize,
        lookups: Vec<(SlotId, Vec<B256>)>,
        place: Place,
        tries: u32,
    ) {
        if place == Place::Flashblock {
            let Some(flashblock) = self.flashblock.clone() else {
                return;
            };
            for (id, hashes) in lookups {
                let receipt = hashes.iter().find_map(|hash| flashblock.receipt(*hash));
                if let Some(receipt) = receipt {
                    let mined = mined(&flashblock, receipt);
                    self.answer(p, Event::Found { id, mined });
                }
            }
            return;
        }
        let mut missing = Vec::new();
        let endpoint = self.some_endpoint();
        for (id, hashes) in lookups {
            let found = endpoint.and_then(|endpoint| {
                let node = &self.endpoints[endpoint];
                hashes
                    .iter()
                    .find_map(|hash| node.receipt(&self.chain, *hash, self.now_ms))
            });
            match found.map(|(sealed, receipt)| mined(sealed, receipt)) {
                Some(mined) => self.answer(p, Event::Found { id, mined }),
                None => missing.push((id, hashes)),
            }
        }
        if !missing.is_empty() {
            let effect = Effect::FindReceipts {
                lookups: missing,
                place,
            };
            self.retry(p, effect, tries, SEALED_TRIES, 300);
        }
    }

    fn look_up(&mut self, p: usize, id: SlotId, hashes: &[B256]) {
        let mut sightings = Vec::new();
        for endpoint in 0..self.endpoints.len() {
            if self.node_fails(endpoint) {
                continue;
            }
            let node = &self.endpoints[endpoint];
            let view = self.view(endpoint);
            let found = |hash: &B256| node.receipt(&self.chain, *hash, self.now_ms);
            sightings.push(Sighting {
                sealed: view.block,
                sealed_nonce: teller_domain::AccountNonce(view.state.account(id.signer).nonce),
                mined: hashes.iter().find_map(found).map(|(s, r)| mined(s, r)),
                known: hashes
                    .iter()
                    .any(|hash| node.knows(&self.chain, *hash, self.now_ms)),
            });
        }
        let (asked, endpoints) = (hashes.len(), self.endpoints.len());
        self.answer(
            p,
            Event::LookedUp {
                id,
                asked,
                sightings,
                endpoints,
            },
        );
    }

    fn check_blocks(&mut self, p: usize, fence: FencedLane, blocks: &[BlockRef]) {
        let mut canonical = Vec::new();
        let mut orphaned = Vec::new();
        let answering: Vec<usize> = (0..self.endpoints.len())
            .filter(|endpoint| !self.node_fails(*endpoint))
            .collect();
        for block in blocks {
            let mut verdicts = answering.iter().filter_map(|endpoint| {
                let view = self.endpoints[*endpoint].view;
                let there = self.chain.ancestor(view, block.number)?;
                Some(there.block.hash == block.hash)
            });
            let said: Vec<bool> = verdicts.by_ref().collect();
            if said.len() < 2 {
                continue;
            }
            if said.iter().all(|same| *same) {
                canonical.push(*block);
            } else if said.iter().all(|same| !same) {
                orphaned.push(*block);
            }
        }
        if !(canonical.is_empty() && orphaned.is_empty()) {
            self.answer(
                p,
                Event::BlocksChecked {
                    fence,
                    canonical,
                    orphaned,
                },
            );
        }
    }

    // ---- why a payment was not settled ----

    fn investigate(
        &mut self,
        p: usize,
        id: SlotId,
        block: BlockRef,
        payments: Vec<Queued>,
        tries: u32,
    ) {
        let mut findings = Vec::new();
        for queued in &payments {
            let first = self
                .some_endpoint()
                .and_then(|e| self.explain(e, block, &queued.payment));
            let Some(finding) = first else { break };
            let negative = matches!(finding, Finding::Spent { .. } | Finding::WouldRevert(_));
            if negative {
                let second = self.some_endpoint();
                let second = second.and_then(|e| self.explain(e, block, &queued.payment));
                if second.as_ref() != Some(&finding) {
                    break;
                }
            }
            findings.push((queued.id, finding));
        }
        if findings.len() == payments.len() {
            return self.answer(
                p,
                Event::Investigated {
                    id,
                    block,
                    findings,
                },
            );
        }
        let effect = Effect::Investigate {
            id,
            block,
            payments,
        };
        self.retry(p, effect, tries, PATIENT_TRIES, RETRY_MS);
    }

    fn explain(&self, endpoint: usize, block: BlockRef, payment: &Payment) -> Option<Finding> {
        let node = &self.endpoints[endpoint];
        let there = self.chain.ancestor(node.view, block.number)?;
        if there.block.hash != block.hash || self.now_ms < node.forgets_until_ms {
            return None;
        }
        let head = self.view(endpoint);
        let (payer, nonce) = (payment.key.payer, payment.key.nonce.0);
        if head.state.spent(payer, nonce).is_none() {
            let failure = head
                .state
                .would_fail(&call_of(payment), &self.env(endpoint));
            return Some(match failure {
                None => Finding::WouldSettle,
                Some(reason) => Finding::WouldRevert(reason.unwrap_or(Reason::TransactionFailed)),
            });
        }
        let mut height = head.block.number;
        loop {
            let sealed = self.chain.ancestor(node.view, height)?;
            for receipt in &sealed.receipts {
                let Some(spent) = use_in(receipt, payer, nonce) else {
                    continue;
                };
                let hash = receipt.transaction.hash;
                let settles = (spent == Spent::Used)
                    .then(|| settling_log(receipt, payment))
                    .flatten();
                return Some(match settles {
                    Some(log_index) => Finding::SettledElsewhere {
                        receipt: Receipt {
                            transaction: hash,
                            block: sealed.block,
                            log_index,
                            level: Level::Included,
                            gas_used: 0,
                            cost: Wei::ZERO,
                        },
                        ours: self.check.attempts.contains_key(&hash),
                    },
                    None => Finding::Spent {
                        transaction: Some(hash),
                    },
                });
            }
            height = height.checked_sub(1)?;
        }
    }

    // ---- lanes ----

    /// Takes a lane, with what is open on it; tries again until this process has it.
    pub fn claim(&mut self, p: usize, signer: Address) {
        let again = |world: &mut Self| {
            let jitter = world.rng.below(300);
            world.schedule(RETRY_MS + jitter, Job::Claim(p, signer));
        };
        let Some(endpoint) = self.some_endpoint() else {
            return again(self);
        };
        let sealed = self.view(endpoint).state.account(signer).nonce;
        let (ledger, owner) = (Arc::clone(&self.stage.ledger), self.processes[p].id);
        let written = self.write(ledger.claim_lane(self.chain_id, signer, owner, FOR_EVER_MS));
        let Some(Ok(claimed)) = written.done else {
            return again(self);
        };
        let Some(recovery) = claimed else { return };
        let fence = recovery.lane.fence;
        self.check.epochs.insert(signer, fence.epoch);
        self.check.expired.remove(&signer);
        self.check.owners.insert(signer, (owner, fence));
        if !written.answered {
            return again(self);
        }
        let sealed = teller_domain::AccountNonce(sealed);
        let next_nonce = match recovery.lane.next_nonce {
            Some(next) if !recovery.open_slots.is_empty() => next,
            Some(next) if next == sealed => next,
            // A node that is behind, or a reorg that took closed slots' transactions.
            Some(next) if next > sealed => {
                if recovery.unfinal.is_empty() {
                    return again(self);
                }
                next
            }
            _ => {
                let adopted = self.write(ledger.adopt_nonce(fence, sealed));
                match adopted.done {
                    Some(Ok(())) if adopted.answered => sealed,
                    _ => return again(self),
                }
            }
        };
        let queued = |ids: &[SettlementId]| -> Vec<Queued> {
            let rows = self
                .stage
                .runtime
                .block_on(ledger.settlements(ids))
                .unwrap();
            let row = |id: &SettlementId| rows.iter().find(|row| row.id == *id).map(Queued::new);
            ids.iter().filter_map(row).collect()
        };
        let preconfirmed = |ids: &[SettlementId]| {
            let rows = self
                .stage
                .runtime
                .block_on(ledger.settlements(ids))
                .unwrap();
            rows.iter().find_map(|row| match row.state {
                SettlementState::Preconfirmed { transaction, .. } => Some(transaction),
                _ => None,
            })
        };
        let slots = recovery.open_slots.iter().map(|slot| RecoveredSlot {
            id: slot.id,
            attempts: slot.attempts.clone(),
            payments: queued(&slot.payments),
            ended: queued(&slot.ended),
            preconfirmed: preconfirmed(&slot.payments),
        });
        let lane = RecoveredLane {
            fence,
            mode: recovery.lane.mode,
            next_nonce,
            slots: slots.collect(),
            unfinal: recovery.unfinal.clone(),
        };
        self.processes[p].fences.insert(signer, fence);
        self.answer(p, Event::LaneClaimed(lane));
    }

    /// The loops that keep what is ours: leases, modes, lanes that are free, payments that nobody announced.
    pub fn poll(&mut self, p: usize) {
        let pause = if self.quiet {
            3_000
        } else {
            self.rng.between(800, 2_500)
        };
        self.schedule(pause, Job::Poll(p));
        let (ledger, owner) = (Arc::clone(&self.stage.ledger), self.processes[p].id);
        let held: Vec<FencedLane> = self.processes[p].fences.values().copied().collect();
        for fence in held {
            if !self.rng.chance(500) {
                continue;
            }
            let written = self.write(ledger.renew_lane(fence, FOR_EVER_MS));
            match written.done {
                Some(Ok(mode)) if written.answered => {
                    self.fenced(fence, "renew_lane");
                    self.answer(p, Event::ModeRead { fence, mode });
                }
                Some(Err(StoreError::StaleLane)) => {
                    self.processes[p].fences.remove(&fence.signer);
                    self.lost(p, fence);
                }
                _ => {}
            }
        }
        let free: Vec<Address> = self
            .signers
            .iter()
            .copied()
            .filter(|signer| self.is_free(*signer))
            .collect();
        if let Some(signer) = free.first() {
            self.claim(p, *signer);
        }
        self.claim_accepted(p, owner);
    }

    /// Whether a claim can succeed, so that the ledger need not be asked all the time.
    fn is_free(&self, signer: Address) -> bool {
        let Some(epoch) = self.check.epochs.get(&signer) else {
            return true;
        };
        let held = self.processes.iter().any(|process| {
            let fence = process.fences.get(&signer);
            process.alive && fence.is_some_and(|fence| fence.epoch == *epoch)
        });
        !held || self.check.expired.contains(&signer)
    }

    fn claim_accepted(&mut self, p: usize, owner: ProcessId) {
        let appetite = self.processes[p].core.appetite();
        let expiring = match self.processes[p].core.cutoff(self.now_ms) {
            Some(cutoff) if appetite == 0 => Some(cutoff),
            None if appetite == 0 => return,
            _ => None,
        };
        let limit = if appetite == 0 { 50 } else { appetite as u32 };
        let ledger = Arc::clone(&self.stage.ledger);
        let written = self.write(ledger.claim_accepted(self.chain_id, owner, limit, expiring));
        if let (Some(Ok(rows)), true) = (written.done, written.answered)
            && !rows.is_empty()
        {
            let queued = rows.iter().map(Queued::new).collect();
            self.answer(p, Event::Accepted(queued));
        }
    }

    /// The operator has looked at a frozen lane.
    pub fn thaw(&mut self, signer: Address) {
        let ledger = Arc::clone(&self.stage.ledger);
        let (from, to) = (LaneMode::Frozen, LaneMode::Thawing);
        let order = ledger.order_lane_mode(self.chain_id, signer, from, to);
        self.stage.runtime.block_on(order).unwrap();
    }
}

fn rank(outcome: &SendOutcome) -> u8 {
    match outcome {
        SendOutcome::Accepted => 0,
        SendOutcome::AlreadyKnown => 1,
        SendOutcome::NonceTooLow => 2,
        SendOutcome::Underpriced => 3,
        SendOutcome::Unknown(_) => 4,
        SendOutcome::InsufficientFunds => 5,
        SendOutcome::GasTooHigh => 6,
    }
}

fn settling_call(payments: &[Queued]) -> (Address, alloy_primitives::Bytes) {
    match payments {
        [alone] => (TOKEN, eip3009::transfer_call(&alone.payment)),
        _ => {
            let calls = payments
                .iter()
                .map(|q| (TOKEN, eip3009::transfer_call(&q.payment)));
            (multicall::MULTICALL3, multicall::aggregate(calls))
        }
    }
}

pub fn call_of(payment: &Payment) -> TokenCall {
    TokenCall::TransferWithAuthorization {
        from: payment.key.payer,
        to: payment.payee,
        value: payment.value.0,
        valid_after: payment.valid_after,
        valid_before: payment.valid_before,
        nonce: payment.key.nonce.0,
    }
}

/// What a receipt's logs say of an authorization.
pub fn use_in(receipt: &ChainReceipt, payer: Address, nonce: B256) -> Option<Spent> {
    let logs = receipt.logs.iter().map(|log| teller_schemes::EventLog {
        address: log.address,
        topics: &log.topics,
        data: &log.data,
        index: 0,
    });
    let effects = teller_schemes::effects(logs);
    let key = (TOKEN, payer, teller_domain::AuthorizationNonce(nonce));
    effects.get(&key).map(|effect| match effect {
        teller_schemes::Effect::Used(_) => Spent::Used,
        teller_schemes::Effect::Cancelled => Spent::Cancelled,
    })
}

/// The index of the transfer that a payment signed.
pub fn settling_log(receipt: &ChainReceipt, payment: &Payment) -> Option<u64> {
    let logs = receipt
        .logs
        .iter()
        .zip(receipt.first_log..)
        .map(|(log, index)| teller_schemes::EventLog {
            address: log.address,
            topics: &log.topics,
            data: &log.data,
            index,
        });
    let effects = teller_schemes::effects(logs);
    let key = (TOKEN, payment.key.payer, payment.key.nonce);
    effects.get(&key)?.settles(payment)
}

fn mined(sealed: &Sealed, receipt: &ChainReceipt) -> Mined {
    let logs = receipt.logs.iter().zip(receipt.first_log..);
    Mined {
        transaction: receipt.transaction.hash,
        block: sealed.block,
        succeeded: receipt.succeeded,
        gas_used: receipt.gas_used,
        cost: receipt.cost,
        logs: logs
            .map(|(log, index)| Log {
                address: log.address,
                topics: log.topics.clone(),
                data: log.data.clone(),
                index,
            })
            .collect(),
    }
}
