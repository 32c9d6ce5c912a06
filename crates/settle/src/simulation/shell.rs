//! What the shell of a process does, one boundary at a time: an effect begins (its write or send is made, or is not),
//! and its answer is another job, which a crash may forestall.

use std::future::Future;
use std::sync::Arc;

use alloy_primitives::Address;
use teller_domain::{AuthorizationKey, FencedLane, Resolution, SettlementId, SettlementState};
use teller_schemes::multicall;
use teller_store::{Ledger, NewSlot, OpenSlotOutcome, Reservations, StoreError, StoreResult};

use super::switches::Switch;
use super::world::{Job, World, short};
use crate::core::{Effect, Event, Queued, ToSign};

/// How often a look at a node is repeated before the shell leaves it to the core to ask again.
pub const SEALED_TRIES: u32 = 5;
pub const PATIENT_TRIES: u32 = 400;
pub const RETRY_MS: u64 = 500;

/// What a write came to: what the ledger did, if it got there, and whether its answer came back.
pub struct Written<T> {
    pub done: Option<StoreResult<T>>,
    pub answered: bool,
}

impl World<'_> {
    /// One call of the ledger, run to its end; lost before it, or behind it, as the odds will.
    pub fn write<T>(&mut self, call: impl Future<Output = StoreResult<T>>) -> Written<T> {
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
        if let Err(
            error @ (StoreError::Corrupt(_)
            | StoreError::Unavailable { .. }
            | StoreError::Refused { .. }
            | StoreError::ReadOnly { .. }),
        ) = &done
        {
            self.broken(format!("the ledger itself fails: {error}"));
        }
        Written {
            done: Some(done),
            answered,
        }
    }

    /// The fence as the ledger gets it: without the rule, one that no write fails under.
    pub fn fence(&self, fence: FencedLane) -> FencedLane {
        let newest = self.check.epochs.get(&fence.signer).copied();
        match self.off {
            Some(Switch::EpochFence) => FencedLane {
                epoch: newest.unwrap_or(fence.epoch),
                ..fence
            },
            _ => fence,
        }
    }

    pub fn lost(&mut self, p: usize, fence: FencedLane) {
        self.answer(p, Event::LaneLost { fence });
    }

    pub fn retry(&mut self, p: usize, effect: Effect, tries: u32, most: u32, in_ms: u64) {
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
                ticket,
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
                    ToSign::TopUp(top_up) => {
                        let (to, value) = (top_up.payer, top_up.value);
                        signer.sign_top_up(id.chain, id.nonce, to, value, gas_limit, fees)
                    }
                    ToSign::Outbid(original) => signer.outbid(original, fees),
                    ToSign::NoOp => signer.sign_noop(id.chain, id.nonce, fees),
                };
                let attempt = attempt.unwrap();
                let signed = Event::Signed {
                    fence,
                    id,
                    ticket,
                    attempt,
                };
                self.answer(p, signed);
            }
            Effect::OpenSlot {
                fence,
                id,
                attempt,
                payments,
                top_up,
                after,
            } => {
                let slot = NewSlot {
                    id,
                    attempt,
                    payments,
                    top_up,
                    after,
                };
                self.open_slot(p, fence, slot);
            }
            Effect::LookAtApprovals { payments } => self.look_at_approvals(p, &payments),
            Effect::SendApproval { payment } => self.send_approval(&payment),
            Effect::AddAttempt { fence, id, attempt } => {
                let ledger = Arc::clone(&self.stage.ledger);
                let written =
                    self.write(ledger.add_attempt(self.fence(fence), id, attempt.clone()));
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
            Effect::LookUp { id, hashes, then } => self.look_up(p, id, &hashes, then),
            Effect::Investigate { fence, payments } => self.investigate(p, fence, &payments),
            Effect::CheckBlocks { fence, blocks } => self.check_blocks(p, fence, &blocks),
            Effect::ReleaseLane { fence } => self.release_lane(p, fence, tries),
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
                let written =
                    self.write(ledger.preconfirm(self.fence(fence), id, transaction, &payments));
                if let Some(Ok(())) = written.done {
                    self.fenced(fence, "preconfirm");
                }
                match written.done {
                    Some(Ok(()) | Err(StoreError::Conflict { .. })) if written.answered => {
                        self.answer(p, Event::Preconfirmed { fence, id });
                    }
                    _ => self.lost(p, fence),
                }
            }
            Effect::CloseSlot {
                fence,
                mut closure,
                payments,
            } => {
                let written = self.write(ledger.close_slot(self.fence(fence), closure.clone()));
                if let Some(Ok(kept)) = &written.done {
                    closure.resolutions.retain(|(id, _)| !kept.contains(id));
                    self.fenced(fence, "close_slot");
                    self.slot_closed(&closure);
                    self.settle_holds(&closure.resolutions, &payments);
                    self.check_entries(payments.iter().map(|queued| queued.id));
                }
                match written.done {
                    Some(Ok(kept)) if written.answered => {
                        let id = closure.id;
                        self.answer(p, Event::SlotClosed { fence, id, kept });
                    }
                    _ => self.lost(p, fence),
                }
            }
            Effect::ReopenSlots { fence, nonces } => {
                let written = self.write(ledger.reopen_slots(self.fence(fence), &nonces));
                if matches!(written.done, Some(Ok(()))) {
                    self.fenced(fence, "reopen_slots");
                    let keys = self.check.reopened(fence, &nonces);
                    let told = self.check.told.clone();
                    self.check_entries(told);
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
                let written = self.write(ledger.take_back_external(self.fence(fence), &blocks));
                if let Some(Ok(changed)) = &written.done {
                    self.fenced(fence, "take_back_external");
                    self.check_entries(changed.clone());
                }
                match written.done {
                    Some(Ok(_)) if written.answered => {}
                    _ => self.lost(p, fence),
                }
            }
            Effect::RaiseLevels {
                fence,
                nonces,
                level,
            } => {
                let written = self.write(ledger.raise_levels(self.fence(fence), &nonces, level));
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
                let written = self.write(ledger.resolve_accepted(self.fence(fence), &resolutions));
                if let Some(Ok(changed)) = &written.done {
                    self.fenced(fence, "resolve_accepted");
                    let ended = resolutions.iter().filter(|(id, _)| changed.contains(id));
                    for (id, state) in ended {
                        self.check_ended(Some(p), *id, state);
                    }
                    self.check_entries(changed.clone());
                }
                match (written.done, written.answered) {
                    (Some(Ok(_)), true) => {
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
            Effect::ResolveUnexplained { fence, resolutions } => {
                let writing = ledger.resolve_unexplained(self.fence(fence), &resolutions);
                let written = self.write(writing);
                if let Some(Ok(changed)) = &written.done {
                    self.fenced(fence, "resolve_unexplained");
                    for (id, resolution) in &resolutions {
                        if let (Resolution::Resolved(state), true) =
                            (resolution, changed.contains(id))
                        {
                            self.check.fault("unexplained payment explained");
                            self.check_ended(Some(p), *id, state);
                        }
                    }
                    self.check_entries(changed.clone());
                }
                match (written.done, written.answered) {
                    (Some(Ok(changed)), true) => {
                        let ids = resolutions.iter().map(|(id, _)| *id).collect();
                        let resolved = Event::UnexplainedResolved {
                            fence,
                            ids,
                            changed,
                        };
                        self.answer(p, resolved);
                    }
                    (Some(Err(_)), _) => self.lost(p, fence),
                    (Some(Ok(_)) | None, _) => {
                        let effect = Effect::ResolveUnexplained { fence, resolutions };
                        self.retry(p, effect, tries, PATIENT_TRIES, RETRY_MS);
                    }
                }
            }
            Effect::SetMode {
                fence,
                from,
                mode,
                slot,
            } => {
                let written = self.write(ledger.set_lane_mode(self.fence(fence), from, mode));
                match written.done {
                    Some(Ok(set)) => {
                        self.fenced(fence, "set_lane_mode");
                        if set {
                            self.mode_set(fence, mode, slot);
                        }
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

    fn open_slot(&mut self, p: usize, fence: FencedLane, slot: NewSlot) {
        let id = slot.id;
        let written = NewSlot {
            // Without the rule nobody writes down what was given.
            top_up: slot.top_up.filter(|_| self.off != Some(Switch::GivenOnce)),
            ..slot.clone()
        };
        let ledger = Arc::clone(&self.stage.ledger);
        let written = self.write(ledger.open_slot(self.fence(fence), written));
        if matches!(written.done, Some(Ok(OpenSlotOutcome::Opened))) {
            self.fenced(fence, "open_slot");
            self.slot_opened(&slot);
            self.note_used_before(id, slot.after);
            if self.off == Some(Switch::HandedOverFirst) {
                let noting = ledger.note_handed_over(slot.attempt.hash);
                self.stage.runtime.block_on(noting).unwrap();
            }
        }
        match written.done {
            Some(Ok(OpenSlotOutcome::Opened)) if written.answered => {
                self.answer(p, Event::SlotOpened { fence, id });
            }
            Some(Ok(OpenSlotOutcome::PaymentsMoved(moved))) if written.answered => {
                self.answer(p, Event::PaymentsMoved { fence, id, moved });
            }
            Some(Ok(OpenSlotOutcome::ToppedUpBefore)) if written.answered => {
                self.check.fault("topped up before");
                self.answer(p, Event::ToppedUpBefore { fence, id });
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
}

fn settling_call(payments: &[Queued]) -> (Address, alloy_primitives::Bytes) {
    match payments {
        [alone] => teller_schemes::settling_call(&alone.payment, multicall::MULTICALL3),
        _ => {
            let calls = payments
                .iter()
                .map(|q| teller_schemes::settling_call(&q.payment, multicall::MULTICALL3));
            (multicall::MULTICALL3, multicall::aggregate(calls))
        }
    }
}
