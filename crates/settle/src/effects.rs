//! Carrying out what the core asks for: what belongs to a lane and its slots. What is read from the chain is in
//! [`crate::sight`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use teller_chain::{LocalSigner, SendOutcome, Sending, SignerError};
use teller_domain::{
    AccountNonce, Attempt, AuthorizationKey, BlockRef, Fees, FencedLane, LaneMode, Level,
    Resolution, SettlementId, SettlementState, SlotId,
};
use teller_schemes::multicall;
use teller_store::{Boundary, NewSlot, OpenSlotOutcome, SlotClosure, StoreError, StoreResult};

use crate::core::{Effect, Event, Queued, Sent, ToSign};
use crate::engine::Shell;
use crate::report;

/// Between tries of what must succeed in the end.
pub(crate) const RETRY: Duration = Duration::from_millis(500);

impl Shell {
    pub(crate) async fn carry_out(self: Arc<Self>, effect: Effect) {
        match effect {
            Effect::ReadCode {
                signer,
                batch,
                payments,
            } => self.read_code(signer, batch, payments).await,
            Effect::Sign {
                fence,
                id,
                ticket,
                what,
                gas_limit,
                fees,
            } => {
                let signed = self.sign(fence, id, what, gas_limit, fees).await;
                if let Some(attempt) = signed {
                    self.tell(Event::Signed {
                        fence,
                        id,
                        ticket,
                        attempt,
                    })
                    .await;
                }
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
                self.open_slot(fence, slot).await;
            }
            Effect::LookAtApprovals { payments } => self.look_at_approvals(payments).await,
            Effect::SendApproval { payment } => self.send_approval(payment).await,
            Effect::AddAttempt { fence, id, attempt } => self.add_attempt(fence, id, attempt).await,
            Effect::Broadcast { id, attempt, again } => {
                report::broadcast(self.chain(), &attempt, again);
                let (outcome, handed_over) = self.send(&attempt).await;
                let hash = attempt.hash;
                self.tell(Event::Sent { id, hash, outcome }).await;
                if handed_over {
                    self.note_handed_over(hash).await;
                }
            }
            Effect::FindReceipts { lookups, place } => self.find_receipts(lookups, place).await,
            Effect::LookUp { id, hashes, then } => self.look_up(id, hashes, then).await,
            Effect::Investigate { fence, payments } => self.investigate(fence, payments).await,
            Effect::ResolveUnexplained { fence, resolutions } => {
                self.resolve_unexplained(fence, resolutions).await;
            }
            Effect::Preconfirm {
                fence,
                id,
                transaction,
                payments,
            } => self.preconfirm(fence, id, transaction, payments).await,
            Effect::CloseSlot {
                fence,
                closure,
                payments,
            } => self.close_slot(fence, closure, payments).await,
            Effect::ReopenSlots { fence, nonces } => self.reopen_slots(fence, nonces).await,
            Effect::TakeBackExternal { fence, blocks } => {
                self.take_back_external(fence, blocks).await;
            }
            Effect::CheckBlocks { fence, blocks } => self.check_blocks(fence, blocks).await,
            Effect::RaiseLevels {
                fence,
                nonces,
                level,
            } => self.raise_levels(fence, nonces, level).await,
            Effect::ResolveAccepted { fence, resolutions } => {
                self.resolve_accepted(fence, resolutions).await;
            }
            Effect::ReleaseQueued(ids) => self.release_queued(ids).await,
            Effect::SetMode {
                fence,
                from,
                mode,
                slot,
            } => self.set_mode(fence, from, mode, slot).await,
            Effect::ReleaseLane { fence } => self.release_lane(fence).await,
            Effect::ReclaimLane { signer } => {
                // Whatever made the write fail gets a moment to pass.
                tokio::time::sleep(RETRY).await;
                self.reclaim_lane(signer).await;
            }
        }
    }

    /// Encoding and signing hundreds of payments takes a while, so it happens off the threads that do I/O.
    async fn sign(
        &self,
        fence: FencedLane,
        id: SlotId,
        what: ToSign,
        gas_limit: u64,
        fees: Fees,
    ) -> Option<Attempt> {
        let Some(signer) = self.signers.get(&fence.signer).cloned() else {
            self.lose_lane(fence, &SignerError::NotAKey).await;
            return None;
        };
        let multicall3 = self.parts.multicall3;
        let signing = move || sign(&signer, multicall3, id, &what, gas_limit, fees);
        match tokio::task::spawn_blocking(signing).await {
            Ok(Ok(attempt)) => return Some(attempt),
            Ok(Err(error)) => self.lose_lane(fence, &error).await,
            Err(error) => self.lose_lane(fence, &error).await,
        }
        None
    }

    async fn open_slot(&self, fence: FencedLane, slot: NewSlot) {
        let (id, top_up) = (slot.id, slot.top_up);
        match Boundary::OpenSlot
            .around(self.ledger.open_slot(fence, slot))
            .await
        {
            Ok(OpenSlotOutcome::Opened) => {
                self.note_opened(id);
                if let Some(top_up) = top_up {
                    report::topped_up(id, &top_up);
                }
                self.tell(Event::SlotOpened { fence, id }).await;
            }
            Ok(OpenSlotOutcome::ToppedUpBefore) => {
                self.tell(Event::ToppedUpBefore { fence, id }).await;
            }
            Ok(OpenSlotOutcome::PaymentsMoved(moved)) => {
                self.tell(Event::PaymentsMoved { fence, id, moved }).await;
            }
            Err(error) => self.lose_lane(fence, &error).await,
        }
    }

    async fn add_attempt(&self, fence: FencedLane, id: SlotId, attempt: Attempt) {
        let (hash, kind) = (attempt.hash, attempt.kind);
        let adding = self.ledger.add_attempt(fence, id, attempt);
        match Boundary::AddAttempt.around(adding).await {
            Ok(()) => {
                tracing::info!(slot = %id, transaction = %hash, kind = kind.as_str(), "outbidding a slow attempt");
                self.tell(Event::AttemptAdded { fence, id }).await;
            }
            Err(error) => self.lose_lane(fence, &error).await,
        }
    }

    pub(crate) async fn lose_lane(
        &self,
        fence: FencedLane,
        error: &(dyn std::error::Error + Sync),
    ) {
        tracing::warn!(signer = %fence.signer, epoch = fence.epoch, %error, "a write to a lane had no certain end; reading the lane again");
        self.tell(Event::LaneLost { fence }).await;
    }

    /// From now on the hash may be told. What cannot be noted now is noted when the bytes are sent again.
    async fn note_handed_over(&self, hash: B256) {
        if let Err(error) = self.ledger.note_handed_over(hash).await {
            tracing::warn!(transaction = %hash, %error, "it could not be noted that a transaction was sent; its hash is not told");
        }
    }

    /// What became of the bytes, and whether a node may have them.
    async fn send(&self, attempt: &Attempt) -> (Sent, bool) {
        let sending = self.parts.nodes.send_noting(&attempt.raw);
        let Sending {
            outcome,
            handed_over,
        } = Boundary::Send.around(sending).await;
        let sent = match outcome {
            SendOutcome::Accepted | SendOutcome::AlreadyKnown => Sent::Accepted,
            SendOutcome::NonceTooLow => Sent::NonceTooLow,
            SendOutcome::Underpriced => Sent::Underpriced,
            SendOutcome::InsufficientFunds => {
                tracing::error!(transaction = %attempt.hash, "the signer has too little for gas");
                Sent::InsufficientFunds
            }
            SendOutcome::GasTooHigh => Sent::GasTooHigh,
            SendOutcome::Unknown(said) => {
                tracing::warn!(transaction = %attempt.hash, %said, "a broadcast had no certain end");
                Sent::Unknown
            }
        };
        (sent, handed_over)
    }

    async fn preconfirm(
        &self,
        fence: FencedLane,
        id: SlotId,
        transaction: B256,
        payments: Vec<(SettlementId, u64)>,
    ) {
        let written = self.ledger.preconfirm(fence, id, transaction, &payments);
        match written.await {
            Ok(()) => {}
            // The slot's end was written first, and says more.
            Err(error @ StoreError::Conflict { .. }) => {
                tracing::debug!(slot = %id, %error, "a Flashblock comes too late to be noted");
                return self.tell(Event::Preconfirmed { fence, id }).await;
            }
            Err(error) => return self.lose_lane(fence, &error).await,
        }
        self.tell(Event::Preconfirmed { fence, id }).await;
        report::preconfirmed(self.chain(), id, &payments);
        for (payment, log_index) in &payments {
            let state = SettlementState::Preconfirmed {
                slot: id,
                transaction,
                log_index: *log_index,
            };
            self.waiters.publish(*payment, &state);
        }
        if payments.is_empty() {
            // A Flashblock has vanished: whose payments it held, the ledger knows.
            self.waiters.read(self.ledger.as_ref()).await;
        }
    }

    async fn close_slot(&self, fence: FencedLane, mut closure: SlotClosure, payments: Vec<Queued>) {
        let id = closure.id;
        let closing = self.ledger.close_slot(fence, closure.clone());
        let kept = match Boundary::CloseSlot.around(closing).await {
            Ok(kept) => kept,
            Err(error) => return self.lose_lane(fence, &error).await,
        };
        closure.resolutions.retain(|(id, _)| !kept.contains(id));
        self.note_closed(id);
        report::closed(self, &closure, &payments);
        let resolved = resolved(closure.resolutions).into_iter();
        let revived = closure
            .revived
            .into_iter()
            .map(|(id, receipt)| (id, SettlementState::Settled(receipt)));
        let resolved: Vec<_> = resolved.chain(revived).collect();
        self.publish(&resolved);
        self.tell(Event::SlotClosed { fence, id, kept }).await;
        self.settle_holds(&resolved, &payments).await;
    }

    /// Reopens, then reads the lane from the ledger, whatever became of it.
    async fn reopen_slots(&self, fence: FencedLane, nonces: Vec<AccountNonce>) {
        let reopening = || Boundary::ReopenSlots.around(self.ledger.reopen_slots(fence, &nonces));
        match self.until_certain(reopening).await {
            Ok(()) => report::reopened(self.chain(), &nonces),
            Err(error) => {
                tracing::error!(signer = %fence.signer, %error, "slots that a reorg took back could not be reopened");
            }
        }
        self.reclaim_lane(fence.signer).await;
        self.waiters.read(self.ledger.as_ref()).await;
    }

    async fn take_back_external(&self, fence: FencedLane, blocks: Vec<BlockRef>) {
        let taking = self.ledger.take_back_external(fence, &blocks);
        let ids = match Boundary::TakeBackExternal.around(taking).await {
            Ok(ids) => ids,
            Err(error) => return self.lose_lane(fence, &error).await,
        };
        tracing::warn!(signer = %fence.signer, payments = ids.len(), "a reorg took back settlements by others");
        // What is accepted again is claimed like everything that nobody has queued.
        self.claims.notify_one();
        self.waiters.read(self.ledger.as_ref()).await;
        match self.ledger.settlements(&ids).await {
            Ok(rows) => {
                let keys = rows.iter().map(|row| row.payment.key);
                self.unmine(keys).await;
            }
            Err(error) => {
                tracing::warn!(%error, "holds of payments that were taken back count as mined until they expire")
            }
        }
    }

    async fn raise_levels(&self, fence: FencedLane, nonces: Vec<AccountNonce>, level: Level) {
        let raising = self.ledger.raise_levels(fence, &nonces, level);
        if let Err(error) = Boundary::RaiseLevels.around(raising).await {
            return self.lose_lane(fence, &error).await;
        }
        report::levels_raised(self.chain(), level, nonces.len());
        self.tell(Event::LevelsRaised {
            fence,
            nonces,
            level,
        })
        .await;
        self.waiters.read(self.ledger.as_ref()).await;
    }

    async fn resolve_accepted(
        &self,
        fence: FencedLane,
        resolutions: Vec<(SettlementId, SettlementState)>,
    ) {
        let ids: Vec<SettlementId> = resolutions.iter().map(|(id, _)| *id).collect();
        let resolving =
            || Boundary::ResolveAccepted.around(self.ledger.resolve_accepted(fence, &resolutions));
        let changed = match self.until_certain(resolving).await {
            Ok(changed) => changed,
            Err(error) => return self.lose_lane(fence, &error).await,
        };
        let payments = self.payments_of(&changed).await;
        let resolved: Vec<_> = resolutions
            .into_iter()
            .filter(|(id, _)| changed.contains(id))
            .collect();
        report::resolved(self.chain(), resolved.iter().map(|(_, state)| state.kind()));
        self.publish(&resolved);
        self.tell(Event::AcceptedResolved { ids }).await;
        self.settle_holds(&resolved, &payments).await;
    }

    async fn resolve_unexplained(
        &self,
        fence: FencedLane,
        resolutions: Vec<(SettlementId, Resolution)>,
    ) {
        let ids: Vec<SettlementId> = resolutions.iter().map(|(id, _)| *id).collect();
        let resolving = || {
            let resolving = self.ledger.resolve_unexplained(fence, &resolutions);
            Boundary::ResolveUnexplained.around(resolving)
        };
        let changed = match self.until_certain(resolving).await {
            Ok(changed) => changed,
            Err(error) => return self.lose_lane(fence, &error).await,
        };
        let payments = self.payments_of(&changed).await;
        let mut resolutions = resolutions;
        resolutions.retain(|(id, _)| changed.contains(id));
        report::explained(self.chain(), &resolutions);
        let resolved = resolved(resolutions);
        self.publish(&resolved);
        self.tell(Event::UnexplainedResolved {
            fence,
            ids,
            changed,
        })
        .await;
        self.settle_holds(&resolved, &payments).await;
    }

    /// The payments that have ended, for their holds.
    async fn payments_of(&self, ended: &[SettlementId]) -> Vec<Queued> {
        match self.ledger.settlements(ended).await {
            Ok(settlements) => settlements.iter().map(Queued::new).collect(),
            Err(error) => {
                tracing::warn!(%error, payments = ended.len(), "ended payments could not be read; their holds stay until they expire");
                Vec::new()
            }
        }
    }

    async fn release_queued(&self, ids: Vec<SettlementId>) {
        match self.ledger.release_accepted(self.process, &ids).await {
            Ok(()) => {
                tracing::info!(network = %self.chain(), payments = ids.len(), "no lane is usable; payments are left to others")
            }
            // They stay this process's: it claims them again when a lane is usable, or others do when it is dead.
            Err(error) => tracing::warn!(%error, "payments could not be left to others"),
        }
    }

    async fn set_mode(
        &self,
        fence: FencedLane,
        from: LaneMode,
        mode: LaneMode,
        slot: Option<SlotId>,
    ) {
        match (mode, slot) {
            (LaneMode::Frozen, Some(slot)) => {
                tracing::error!(signer = %fence.signer, %slot, "lane frozen: the signer's key was used by somebody else");
            }
            (LaneMode::Frozen, None) => tracing::error!(signer = %fence.signer, "lane frozen"),
            (mode, _) => {
                tracing::info!(signer = %fence.signer, mode = mode.as_str(), "lane mode changes")
            }
        }
        let setting = self.ledger.set_lane_mode(fence, from, mode);
        match Boundary::SetLaneMode.around(setting).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!(signer = %fence.signer, "the lane keeps the mode that an operator has ordered meanwhile")
            }
            Err(error) => self.lose_lane(fence, &error).await,
        }
    }

    /// Repeats a write until it has a certain end.
    pub(crate) async fn until_certain<T, F>(&self, write: impl Fn() -> F) -> StoreResult<T>
    where
        F: Future<Output = StoreResult<T>>,
    {
        loop {
            match write().await {
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "a write has no certain end; trying again");
                    tokio::time::sleep(RETRY).await;
                }
                end => return end,
            }
        }
    }

    /// Tells the waiting requests.
    fn publish(&self, resolved: &[(SettlementId, SettlementState)]) {
        for (id, state) in resolved {
            self.waiters.publish(*id, state);
        }
    }

    /// Lets the holds follow what the ledger says now. Nobody waits for this.
    async fn settle_holds(
        &self,
        resolved: &[(SettlementId, SettlementState)],
        payments: &[Queued],
    ) {
        let keys: HashMap<SettlementId, AuthorizationKey> = payments
            .iter()
            .map(|queued| (queued.id, queued.payment.key))
            .collect();
        let mut mined: HashMap<u64, Vec<AuthorizationKey>> = HashMap::new();
        let mut abandoned = Vec::new();
        for (id, state) in resolved {
            let Some(key) = keys.get(id) else { continue };
            match state {
                SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
                    mined.entry(receipt.block.number).or_default().push(*key);
                }
                _ => abandoned.push(*key),
            }
        }
        for (block, keys) in mined {
            let marking = self.reservations.mined(&keys, block);
            if let Err(error) = Boundary::MarkHolds.around(marking).await {
                tracing::warn!(%error, "holds of mined payments stay until they expire");
            }
        }
        if !abandoned.is_empty()
            && let Err(error) = self.reservations.abandon(&abandoned).await
        {
            tracing::warn!(%error, "holds of ended payments stay until they expire");
        }
    }

    /// These are not mined, or a reorg took them back: their holds count again. What cannot be said now is said later.
    pub(crate) async fn unmine(&self, keys: impl IntoIterator<Item = AuthorizationKey>) {
        self.note_unmined(keys);
        self.tell_unmined().await;
    }

    /// Tells the reservations what has been noted for them and not been told yet.
    pub(crate) async fn tell_unmined(&self) {
        let keys = self.take_unmined();
        if keys.is_empty() {
            return;
        }
        if let Err(error) = self.reservations.unmined(&keys).await {
            tracing::warn!(%error, "holds of payments that are not mined count as mined; they are told of again");
            self.note_unmined(keys);
        }
    }
}

/// Those of the resolutions that are outcomes.
fn resolved(resolutions: Vec<(SettlementId, Resolution)>) -> Vec<(SettlementId, SettlementState)> {
    let resolutions = resolutions.into_iter();
    resolutions
        .filter_map(|(id, resolution)| match resolution {
            Resolution::Resolved(state) => Some((id, state)),
            Resolution::Requeued | Resolution::Unexplained { .. } => None,
        })
        .collect()
}

fn sign(
    signer: &LocalSigner,
    multicall3: Address,
    id: SlotId,
    what: &ToSign,
    gas_limit: u64,
    fees: Fees,
) -> Result<Attempt, SignerError> {
    match what {
        ToSign::Batch(payments) => {
            let (target, data) = settling_call(multicall3, payments);
            signer.sign_batch(id.chain, id.nonce, target, data, gas_limit, fees)
        }
        ToSign::TopUp(top_up) => {
            let (to, value) = (top_up.payer, top_up.value);
            signer.sign_top_up(id.chain, id.nonce, to, value, gas_limit, fees)
        }
        ToSign::Outbid(original) => signer.outbid(original, fees),
        ToSign::NoOp => signer.sign_noop(id.chain, id.nonce, fees),
    }
}

/// One payment is settled by its own call; several share Multicall3.
fn settling_call(multicall3: Address, payments: &[Queued]) -> (Address, Bytes) {
    let call = |queued: &Queued| {
        let (target, call) = teller_schemes::settling_call(&queued.payment, multicall3);
        match queued.attribution.is_empty() {
            true => (target, call),
            false => (target, [&call[..], &queued.attribution].concat().into()),
        }
    };
    match payments {
        [alone] => call(alone),
        _ => (multicall3, multicall::aggregate(payments.iter().map(call))),
    }
}
