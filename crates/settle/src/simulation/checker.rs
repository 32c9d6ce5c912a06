//! The invariants of DESIGN section 8, checked at every step that could break them, and once more when all is quiet.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, U256};
use teller_domain::invariants::{TRANSACTION_GAS_CAP, attempts_are_sound};
use teller_domain::{
    AccountNonce, Attempt, AttemptKind, AuthorizationKey, BlockRef, FencedLane, LaneMode, Level,
    Payment, ProcessId, Resolution, Settlement, SettlementId, SettlementState, SlotEnd, SlotId,
};
use teller_store::{Ledger, NewSlot, SlotClosure};

use super::model::state::State;
use super::model::transaction::Transaction;
use super::purse::upfront;
use super::sight::settling_log;
use super::stalls::{Care, Stall};
use super::world::{CUTOFF_SECONDS, Job, World};
use crate::core::{Again, Effect, ToSign};

/// A slot as its commits have made it.
#[derive(Debug, Clone)]
pub struct Slot {
    attempts: Vec<Attempt>,
    payments: Vec<SettlementId>,
    pub open: bool,
    block: Option<BlockRef>,
}

/// What has happened, as the checker keeps it.
#[derive(Debug, Default)]
pub struct Checker {
    pub violations: Vec<String>,
    pub events: u64,
    pub checks: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub epochs: BTreeMap<Address, u64>,
    pub expired: BTreeSet<Address>,
    /// Who has taken a lane last, whether he has heard of it or not.
    pub owners: BTreeMap<Address, (ProcessId, FencedLane)>,
    pub attempts: BTreeMap<B256, SlotId>,
    pub slots: BTreeMap<SlotId, Slot>,
    pub accepted: BTreeMap<SettlementId, Payment>,
    pub told_failure: BTreeSet<SettlementId>,
    pub withdrawn: BTreeSet<SettlementId>,
    told_success: BTreeMap<AuthorizationKey, u64>,
    sent: BTreeSet<SlotId>,
    asked: BTreeSet<(usize, u64, SlotId)>,
    /// Who has had a transaction in a nonce, in any block that ever was.
    used: BTreeMap<(Address, u64), BTreeSet<B256>>,
    /// The blocks that have ever held a transaction of a nonce, and the last of each of our own.
    pub used_in: BTreeMap<(Address, u64), Vec<BlockRef>>,
    pub mined_in: BTreeMap<B256, B256>,
    /// Payments that a node has truly said cannot be settled.
    pub refuted: BTreeSet<SettlementId>,
    /// Authorizations of which no node can tell how a third party spent them.
    pub opaque: BTreeSet<AuthorizationKey>,
    /// The blocks that had settled a payment while nodes found nothing of it.
    pub unfound: BTreeMap<SettlementId, BTreeSet<B256>>,
    /// Payments of which anything was told.
    pub told: BTreeSet<SettlementId>,
    pub cares: BTreeMap<(usize, SlotId), Care>,
    pub stalls: BTreeMap<(usize, Address), Stall>,
    pub verified: BTreeSet<B256>,
    pub finalized: u64,
    /// From when on whoever runs knows what happened while nothing ran.
    pub informed_from_ms: u64,
    pub holds: BTreeMap<AuthorizationKey, (Address, U256, u64)>,
    /// Who was given gas, for which token, in which slot.
    pub given: BTreeMap<(Address, Address), SlotId>,
    /// Payments whose approvals a process has seen in place.
    pub approved: BTreeSet<(usize, SettlementId)>,
    /// Idle lanes behind the chain: under which epoch, and for how many looks.
    pub lagging: BTreeMap<(usize, Address), (u64, u32)>,
    /// Attempts whose bytes a node was given, or may have been.
    pub handed: BTreeSet<B256>,
    /// Slots that were opened at a nonce that was used by then, and the block that showed it.
    pub behind: BTreeMap<SlotId, BlockRef>,
    /// In how large a batch a process may put a payment whose batch has reverted.
    company: BTreeMap<(usize, SettlementId), usize>,
}

impl Checker {
    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub fn mined(&mut self, transaction: &Transaction, block: BlockRef) {
        let place = (transaction.from, transaction.nonce);
        self.used_in.entry(place).or_default().push(block);
        self.mined_in.insert(transaction.hash, block.hash);
        self.used.entry(place).or_default().insert(transaction.hash);
    }

    /// Answers the authorizations whose holds count again.
    pub fn reopened(
        &mut self,
        fence: FencedLane,
        nonces: &[AccountNonce],
    ) -> Vec<AuthorizationKey> {
        let mut keys = Vec::new();
        for (id, slot) in &mut self.slots {
            if id.signer == fence.signer && nonces.contains(&id.nonce) && !slot.open {
                slot.open = true;
                keys.extend(slot.payments.iter().map(|id| self.accepted[id].key));
            }
        }
        keys
    }

    /// A nonce was used by nobody knows whom, before anything.
    pub fn used_before(&mut self, signer: Address, nonce: u64, block: BlockRef) {
        let place = (signer, nonce);
        self.used_in.entry(place).or_default().push(block);
        self.used.entry(place).or_default().insert(B256::ZERO);
    }

    /// The dearest attempt of each open slot of a signer from a nonce on.
    pub fn open_attempts(&self, signer: Address, from: AccountNonce) -> Vec<Attempt> {
        let open = self
            .slots
            .iter()
            .filter(|(id, slot)| slot.open && id.signer == signer && id.nonce >= from);
        open.filter_map(|(_, slot)| slot.attempts.iter().max_by_key(|a| upfront(a)).cloned())
            .collect()
    }

    pub fn newest_kind(&self, id: SlotId) -> Option<AttemptKind> {
        Some(self.slots.get(&id)?.attempts.last()?.kind)
    }

    pub fn forget_company(&mut self, process: usize) {
        self.company.retain(|(of, _), _| *of != process);
    }

    fn foreign_in(&self, id: SlotId) -> bool {
        let used = self.used.get(&(id.signer, id.nonce.0));
        used.is_some_and(|hashes| {
            hashes
                .iter()
                .any(|hash| self.attempts.get(hash) != Some(&id))
        })
    }
}

impl World<'_> {
    pub fn demand(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.check.checks += 1;
        if !holds {
            self.broken(what());
        }
    }

    /// Invariant 5: no write succeeds under an old epoch.
    pub fn fenced(&mut self, fence: FencedLane, what: &'static str) {
        let epoch = self.check.epochs.get(&fence.signer).copied();
        self.demand(epoch == Some(fence.epoch), || {
            format!(
                "invariant 5: {what} under epoch {} of {epoch:?}",
                fence.epoch
            )
        });
    }

    /// What a core asks for, before anything is done about it.
    pub fn check_asked(&mut self, p: usize, effect: &Effect) {
        let now = self.clock(p);
        match effect {
            Effect::ReadCode { .. } => {
                let affordable = self.is_affordable(p);
                self.demand(affordable, || {
                    "a batch is formed though the budget is spent".to_owned()
                });
            }
            Effect::Sign {
                id,
                what: ToSign::Batch(payments),
                gas_limit,
                fees,
                ..
            } => {
                if self.check.slots.contains_key(id) {
                    return;
                }
                self.check_allowed(p, *id, *gas_limit, *fees, U256::ZERO);
                self.check_paid(p, *id, *gas_limit, *fees);
                let hasty = payments.iter().any(|q| {
                    let seen = self.check.approved.contains(&(p, q.id));
                    q.payment.token_approval().is_some() && !seen
                });
                self.demand(!hasty, || {
                    format!("a payment enters {id} before its payer's approval was seen")
                });
                let cutoff = self.processes[p].core.cutoff(now).unwrap_or_default();
                let late = payments.iter().any(|q| q.payment.valid_before() <= cutoff);
                self.demand(!late, || {
                    format!("invariant 11: a payment enters {id} that it may outlive ({CUTOFF_SECONDS} s)")
                });
                let size = payments.len();
                let crowded = payments.iter().any(|q| {
                    self.check
                        .company
                        .get(&(p, q.id))
                        .is_some_and(|most| size > *most)
                });
                self.demand(!crowded, || {
                    format!("a batch that reverted as a whole is sent again as large in {id}")
                });
            }
            Effect::Sign {
                id,
                what: ToSign::TopUp(top_up),
                gas_limit,
                fees,
                ..
            } => {
                self.check_allowed(p, *id, *gas_limit, *fees, top_up.value.0);
            }
            Effect::SendApproval { payment } => {
                let known = self.check.accepted.contains_key(&payment.id);
                self.demand(known, || {
                    format!(
                        "invariant 3: the approval of {} is sent before it is durable",
                        payment.id
                    )
                });
            }
            Effect::CloseSlot { closure, .. } => {
                let told = &self.processes[p].told;
                let known = told.contains(&closure.block)
                    || self.check.verified.contains(&closure.block.hash);
                self.demand(known, || {
                    format!("invariant 7: {} is closed by block {} that is not sealed and canonical to its core", closure.id, closure.block.number)
                });
                self.note_company(p, closure);
            }
            Effect::Broadcast { id, attempt, again } => {
                let cutoff = self.processes[p].core.cutoff(now).unwrap_or_default();
                // Asked for in time is sent in time, even if this process was paused in between.
                let asked = !self.check.asked.insert((p, self.processes[p].life, *id));
                let first = *again != Again::Outbid && !asked && !self.check.sent.contains(id);
                let Some(slot) = self.check.slots.get(id).filter(|_| first) else {
                    return;
                };
                let payments: Vec<_> = slot
                    .payments
                    .iter()
                    .map(|id| self.check.accepted[id].clone())
                    .collect();
                let dead = payments.iter().all(|payment| {
                    payment.valid_before().0.saturating_add(CUTOFF_SECONDS) <= cutoff.0
                });
                let batch = attempt.kind == AttemptKind::Batch;
                self.demand(!(dead && batch), || {
                    format!("invariant 11: {id} is sent for the first time after all its payments have expired")
                });
            }
            Effect::ReleaseQueued(ids) => {
                self.check
                    .company
                    .retain(|(of, id), _| *of != p || !ids.contains(id));
            }
            Effect::ReclaimLane { .. } | Effect::ReopenSlots { .. } => self.check.forget_company(p),
            _ => {}
        }
    }

    fn note_company(&mut self, p: usize, closure: &SlotClosure) {
        let SlotEnd::Mined { transaction, .. } = closure.end else {
            return;
        };
        let Some((_, receipt)) = self.chain.find(self.chain.head().block.hash, transaction) else {
            return;
        };
        let carried = receipt.transaction.token_calls().len();
        if receipt.succeeded || carried < 2 {
            return;
        }
        let half = closure.resolutions.len().div_ceil(2);
        for (id, resolution) in &closure.resolutions {
            if *resolution == Resolution::Requeued {
                self.check.company.insert((p, *id), half);
            }
        }
    }

    /// Invariant 3: nothing is broadcast that was not committed first.
    pub fn check_sent(&mut self, id: SlotId, attempt: &Attempt) {
        let committed = self.check.attempts.get(&attempt.hash) == Some(&id);
        self.demand(committed, || {
            format!(
                "invariant 3: {} of {id} is sent before it is durable",
                attempt.hash
            )
        });
        self.check.sent.insert(id);
    }

    pub fn slot_opened(&mut self, opened: &NewSlot) {
        let NewSlot {
            id,
            attempt,
            payments,
            top_up,
            after: _,
        } = opened;
        let id = *id;
        if let Some(top_up) = top_up {
            self.check_given(id, top_up);
        }
        // Invariant 1.
        let keys: Vec<AuthorizationKey> = payments
            .iter()
            .map(|id| self.check.accepted[id].key)
            .collect();
        let twice = self.check.slots.iter().find(|(_, slot)| {
            let holds = |id: &SettlementId| keys.contains(&self.check.accepted[id].key);
            slot.open && slot.payments.iter().any(holds)
        });
        let twice = twice.map(|(other, _)| *other);
        self.demand(twice.is_none(), || {
            format!("invariant 1: an authorization is in {id} and in {twice:?}")
        });
        // Invariant 2.
        let told = payments
            .iter()
            .find(|id| self.check.told_failure.contains(id) || self.check.withdrawn.contains(id))
            .copied();
        self.demand(told.is_none(), || {
            format!("invariant 2: {id} is signed for {told:?}, to whom failure was told")
        });
        // Invariant 4.
        if payments.is_empty() {
            self.check.fault("gap filled");
        }
        self.check_contiguous(id.signer, id.nonce.0);
        let taken = self.check.slots.contains_key(&id);
        self.demand(!taken, || format!("invariant 4: {id} is opened twice"));
        self.demand(
            attempt.gas_limit <= TRANSACTION_GAS_CAP && payments.len() <= 6,
            || {
                format!(
                    "invariant 11: {id} asks for {} gas for {} payments",
                    attempt.gas_limit,
                    payments.len()
                )
            },
        );
        let slot = Slot {
            attempts: vec![attempt.clone()],
            payments: payments.to_vec(),
            open: true,
            block: None,
        };
        self.check.attempts.insert(attempt.hash, id);
        self.check.slots.insert(id, slot);
    }

    pub fn attempt_committed(&mut self, id: SlotId, attempt: &Attempt) {
        self.check.attempts.insert(attempt.hash, id);
        let Some(slot) = self.check.slots.get_mut(&id) else {
            return self.broken(format!("an attempt of {id}, which was never opened"));
        };
        slot.attempts.push(attempt.clone());
        let slot = slot.clone();
        self.demand(attempts_are_sound(&slot.attempts), || {
            format!(
                "invariant 6: attempts of {id} do not outbid: {:?}",
                slot.attempts
            )
        });
        let first = Transaction::decode(&slot.attempts[0].raw, id.signer);
        let new = Transaction::decode(&attempt.raw, id.signer);
        let same = attempt.kind == AttemptKind::NoOp || first.call == new.call;
        self.demand(same, || {
            format!("invariant 6: an attempt of {id} carries another calldata")
        });
        let told = slot
            .payments
            .iter()
            .find(|id| self.check.told_failure.contains(id))
            .copied();
        self.demand(told.is_none() || attempt.kind == AttemptKind::NoOp, || {
            format!("invariant 2: {id} is signed again for {told:?}, to whom failure was told")
        });
    }

    pub fn slot_closed(&mut self, closure: &SlotClosure) {
        let id = closure.id;
        // Invariants 7 and 8: the block is a sealed one, and what is said to be in it is.
        let sealed = self.chain.known(closure.block.hash).cloned();
        let Some(sealed) = sealed else {
            return self.broken(format!(
                "invariant 7: {id} is closed by a block that was never sealed"
            ));
        };
        match closure.end {
            SlotEnd::Foreign => {
                let foreign = self.check.foreign_in(id);
                self.demand(foreign, || {
                    format!(
                        "invariant 7: {id} is closed for a stranger's transaction that there is not"
                    )
                });
            }
            SlotEnd::Mined {
                transaction,
                cost,
                gas_used,
            } => {
                let receipt = sealed.receipt(transaction);
                let same = receipt.is_some_and(|r| r.cost == cost && r.gas_used == gas_used);
                self.demand(same, || format!("invariant 9: {id} is closed by {transaction} at another cost than its receipt's, or not in that block"));
            }
        }
        let mut shares = U256::ZERO;
        let mut own = 0;
        for (payment_id, resolution) in &closure.resolutions {
            let payment = self.check.accepted[payment_id].clone();
            let Resolution::Resolved(state) = resolution else {
                continue;
            };
            if !payment.is_guarded_on_chain() {
                // Its slot's own end is all the proof that there is.
                self.is_refuted(*payment_id);
            }
            self.check_ended(None, *payment_id, state);
            if let SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) =
                state
            {
                let block = self.chain.known(receipt.block.hash).cloned();
                let log = block
                    .and_then(|block| settling_log(block.receipt(receipt.transaction)?, &payment));
                self.demand(log == Some(receipt.log_index), || {
                    format!(
                        "invariant 8: {payment_id} is settled without its events in {}",
                        receipt.transaction
                    )
                });
                let SlotEnd::Mined { transaction, .. } = closure.end else {
                    continue;
                };
                if receipt.transaction == transaction {
                    shares += receipt.cost.0;
                    own += 1;
                }
            }
        }
        for (_, receipt) in &closure.revived {
            shares += receipt.cost.0;
            own += 1;
        }
        if let SlotEnd::Mined { cost, .. } = closure.end {
            self.demand(own == 0 || shares == cost.0, || {
                format!("invariant 9: {id} cost {cost}, its payments {shares}")
            });
        }
        if let Some(slot) = self.check.slots.get_mut(&id) {
            slot.open = false;
            slot.block = Some(closure.block);
        }
    }

    pub fn levels_raised(&mut self, fence: FencedLane, nonces: &[AccountNonce], level: Level) {
        if level != Level::Finalized {
            return;
        }
        for nonce in nonces {
            let id = self.slot(fence.signer, nonce.0);
            let block = self.check.slots.get(&id).and_then(|slot| slot.block);
            let holds = block.is_some_and(|block| self.chain.is_canonical(block));
            self.demand(holds, || {
                format!("a slot whose block {block:?} the chain has left is called finalized: {id}")
            });
        }
    }

    pub fn mode_set(&mut self, fence: FencedLane, mode: LaneMode, slot: Option<SlotId>) {
        if mode != LaneMode::Frozen {
            return;
        }
        let foreign = slot.is_some_and(|id| self.check.foreign_in(id));
        self.demand(foreign, || {
            format!("a lane is frozen without a stranger's transaction in {slot:?}")
        });
        if let Some(id) = slot {
            self.check_frozen(id);
        }
        let looks_after = self.rng.between(2_000, 15_000);
        self.schedule(looks_after, Job::Operator(fence.signer));
    }

    /// Invariant 12: what a payer has reserved never exceeds the balance that it was checked against.
    pub fn check_reserved(&mut self, payment: &Payment, view: &State, now: u64) {
        let payer = payment.key.payer;
        // A hold ends with its authorization.
        let until = (now + 60_000).min(payment.valid_before().0.saturating_mul(1_000));
        self.check
            .holds
            .insert(payment.key, (payer, payment.value.0, until));
        let balance = view.dollars(payer);
        let held = self.check.holds.iter().filter(|(key, (of, _, until))| {
            // What is spent where the balance was read, whoever spent it, is not in the balance any more.
            *of == payer
                && *until > now
                && view.spent(key.payer, key.nonce.0).is_none()
                && !self.ended(**key)
        });
        let held = held.fold(U256::ZERO, |sum, (_, (_, value, _))| sum + value);
        self.demand(held <= balance, || {
            format!("invariant 12: {payer} has reserved {held} of {balance}")
        });
    }

    fn ended(&self, key: AuthorizationKey) -> bool {
        let found = self.stage.read(|| self.stage.ledger.find(key));
        found.is_some_and(|row| row.state.is_resolved())
    }

    /// Invariant 2: one success is told for an authorization.
    pub fn check_told_success(&mut self, row: &Settlement) {
        self.note(|| format!("told success {}", row.id));
        self.check.told.insert(row.id);
        self.check_success_is_true(row);
        let told = self.check.told_success.entry(row.payment.key).or_default();
        *told += 1;
        let times = *told;
        self.demand(times == 1, || {
            format!("invariant 2: success of {} is told {times} times", row.id)
        });
    }
}
