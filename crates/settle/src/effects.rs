//! Carrying out what the core asks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use teller_chain::{NodeError, SendOutcome, TxReceipt};
use teller_domain::{
    Attempt, AttemptKind, AuthorizationKey, Fees, FencedLane, Resolution, SettlementId,
    SettlementState, SlotId,
};
use teller_schemes::{eip3009, multicall};
use teller_store::{NewSlot, OpenSlotOutcome, SlotClosure};

use crate::core::{Certainty, Effect, Event, Log, Mined, Queued, Sent};
use crate::engine::Shell;
use crate::report;

/// Between tries of what must succeed in the end.
const RETRY: Duration = Duration::from_millis(500);

/// How long a node may lag behind the block that it, or another, has just shown.
const IN_BLOCK_PATIENCE: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

impl Shell {
    pub(crate) async fn carry_out(self: Arc<Self>, effect: Effect) {
        match effect {
            Effect::ReadCode {
                signer,
                batch,
                payers,
            } => self.read_code(signer, batch, payers).await,
            Effect::OpenSlot {
                fence,
                id,
                payments,
                gas_limit,
                fees,
            } => {
                self.open_slot(fence, id, &payments, gas_limit, fees).await;
            }
            Effect::AddAttempt {
                fence,
                id,
                kind,
                fees,
                original,
            } => {
                self.add_attempt(fence, id, kind, fees, &original).await;
            }
            Effect::Broadcast { id, attempt, again } => {
                report::broadcast(self.chain(), &attempt, again);
                let outcome = self.send(&attempt).await;
                self.tell(Event::Sent {
                    id,
                    hash: attempt.hash,
                    outcome,
                })
                .await;
            }
            Effect::FindReceipts { lookups, certainty } => {
                self.find_receipts(lookups, certainty).await
            }
            Effect::Investigate {
                id,
                block,
                payments,
            } => self.investigate(id, block, payments).await,
            Effect::CloseSlot {
                fence,
                closure,
                payments,
            } => self.close_slot(fence, closure, payments).await,
            Effect::ResolveAccepted(resolutions) => self.resolve_accepted(resolutions).await,
            Effect::ReclaimLane { signer } => {
                // Whatever made the write fail gets a moment to pass.
                tokio::time::sleep(RETRY).await;
                self.reclaim_lane(signer).await;
            }
            Effect::LaneFrozen { signer, id } => {
                tracing::error!(%signer, slot = %id, "lane frozen: the signer's key was used by somebody else");
            }
        }
    }

    async fn read_code(&self, signer: Address, batch: u64, payers: Vec<(SettlementId, Address)>) {
        let addresses: Vec<Address> = payers.iter().map(|(_, payer)| *payer).collect();
        let event = match self.parts.inspector.code_sizes(&addresses).await {
            Ok((_, sizes)) => {
                let with_code = payers
                    .iter()
                    .zip(sizes)
                    .filter(|(_, size)| *size > 0)
                    .map(|((id, _), _)| *id)
                    .collect();
                Event::CodeRead {
                    signer,
                    batch,
                    with_code,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the payers of a batch could not be looked at; the batch waits");
                Event::CodeUnread { signer, batch }
            }
        };
        self.tell(event).await;
    }

    /// Sign, then commit; the core broadcasts what is committed.
    async fn open_slot(
        &self,
        fence: FencedLane,
        id: SlotId,
        payments: &[Queued],
        gas_limit: u64,
        fees: Fees,
    ) {
        let (target, data) = self.settling_call(payments);
        let signed = self
            .signers
            .get(&fence.signer)
            .map(|signer| signer.sign_batch(id.chain, id.nonce, target, data, gas_limit, fees));
        let attempt = match signed {
            Some(Ok(attempt)) => attempt,
            Some(Err(error)) => return self.lose_lane(fence, &error).await,
            None => return,
        };
        let slot = NewSlot {
            id,
            attempt: attempt.clone(),
            payments: payments.iter().map(|queued| queued.id).collect(),
        };
        match self.ledger.open_slot(fence, slot).await {
            Ok(OpenSlotOutcome::Opened) => {
                self.tell(Event::SlotOpened { fence, id, attempt }).await
            }
            Ok(OpenSlotOutcome::PaymentsMoved(moved)) => {
                self.tell(Event::PaymentsMoved { fence, id, moved }).await
            }
            Err(error) => self.lose_lane(fence, &error).await,
        }
    }

    /// One payment goes straight to its token; several share Multicall3.
    fn settling_call(&self, payments: &[Queued]) -> (Address, Bytes) {
        match payments {
            [alone] => (alone.payment.asset, eip3009::transfer_call(&alone.payment)),
            _ => {
                let calls = payments.iter().map(|queued| {
                    (
                        queued.payment.asset,
                        eip3009::transfer_call(&queued.payment),
                    )
                });
                (self.parts.multicall3, multicall::aggregate(calls))
            }
        }
    }

    async fn add_attempt(
        &self,
        fence: FencedLane,
        id: SlotId,
        kind: AttemptKind,
        fees: Fees,
        original: &Attempt,
    ) {
        let Some(signer) = self.signers.get(&fence.signer) else {
            return;
        };
        let signed = match kind {
            AttemptKind::Batch => signer.outbid(original, fees),
            AttemptKind::NoOp => signer.sign_noop(id.chain, id.nonce, fees),
        };
        let written = match signed {
            Ok(attempt) => self
                .ledger
                .add_attempt(fence, id, attempt.clone())
                .await
                .map(|()| attempt),
            Err(error) => return self.lose_lane(fence, &error).await,
        };
        match written {
            Ok(attempt) => {
                tracing::info!(slot = %id, transaction = %attempt.hash, kind = kind.as_str(), "outbidding a slow attempt");
                self.tell(Event::AttemptAdded { id, attempt }).await;
            }
            Err(error) => self.lose_lane(fence, &error).await,
        }
    }

    async fn lose_lane(&self, fence: FencedLane, error: &(dyn std::error::Error + Sync)) {
        tracing::warn!(signer = %fence.signer, %error, "a write to a lane had no certain end; reading the lane again");
        self.tell(Event::LaneLost { fence }).await;
    }

    async fn send(&self, attempt: &Attempt) -> Sent {
        match self.parts.nodes.send(&attempt.raw).await {
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
        }
    }

    async fn find_receipts(&self, lookups: Vec<(SlotId, Vec<B256>)>, certainty: Certainty) {
        match certainty {
            Certainty::InBlock => self.find_in_block(lookups).await,
            Certainty::Unknown => self.find_anywhere(lookups).await,
        }
    }

    /// The block lists them, so there are receipts: a node that has none is behind. What it does not find in time, a
    /// later look-up will.
    async fn find_in_block(&self, mut lookups: Vec<(SlotId, Vec<B256>)>) {
        for patience in IN_BLOCK_PATIENCE {
            match self.read_receipts(&lookups).await {
                Ok(found) => {
                    lookups.retain(|(id, _)| !found.iter().any(|(slot, _)| slot == id));
                    self.tell_found(found).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "receipts could not be read; they are asked for again")
                }
            }
            if lookups.is_empty() {
                return;
            }
            tokio::time::sleep(patience).await;
        }
    }

    /// The sealed nonce is read first: whatever it has passed must have a receipt by the time of the look-up.
    async fn find_anywhere(&self, lookups: Vec<(SlotId, Vec<B256>)>) {
        let mut sealed_nonces = HashMap::new();
        for (id, _) in &lookups {
            if !sealed_nonces.contains_key(&id.signer)
                && let Some(nonce) = self.sealed_nonce(id.signer).await
            {
                sealed_nonces.insert(id.signer, nonce);
            }
        }
        let found = match self.read_receipts(&lookups).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "receipts could not be read; they are asked for again");
                return;
            }
        };
        let missing = lookups
            .into_iter()
            .filter(|(id, _)| !found.iter().any(|(slot, _)| slot == id));
        let missing: Vec<_> = missing.collect();
        self.tell_found(found).await;
        for (id, hashes) in missing {
            let Some(sealed_nonce) = sealed_nonces.get(&id.signer).copied() else {
                continue;
            };
            if sealed_nonce > id.nonce && !self.nobody_knows(&hashes).await {
                continue;
            }
            self.tell(Event::NotFound { id, sealed_nonce }).await;
        }
    }

    /// Whether no endpoint knows any of these transactions. Could not be asked counts as no.
    async fn nobody_knows(&self, hashes: &[B256]) -> bool {
        let known = self.parts.nodes.transactions_known(hashes).await;
        known.is_ok_and(|known| known.iter().all(|known| !known))
    }

    async fn read_receipts(
        &self,
        lookups: &[(SlotId, Vec<B256>)],
    ) -> Result<Vec<(SlotId, Mined)>, NodeError> {
        let hashes: Vec<B256> = lookups
            .iter()
            .flat_map(|(_, hashes)| hashes.iter().copied())
            .collect();
        let receipts = self.parts.nodes.receipts(&hashes).await?;
        let mut by_hash: HashMap<B256, TxReceipt> = receipts
            .into_iter()
            .flatten()
            .map(|receipt| (receipt.transaction, receipt))
            .collect();
        let found = lookups.iter().filter_map(|(id, hashes)| {
            let receipt = hashes.iter().find_map(|hash| by_hash.remove(hash))?;
            // A receipt of a block that the chain has left proves nothing; a later look-up finds the right one.
            let orphaned = self.parts.heads.is_canonical(receipt.block) == Some(false);
            (!orphaned).then(|| (*id, mined(receipt)))
        });
        Ok(found.collect())
    }

    async fn tell_found(&self, found: Vec<(SlotId, Mined)>) {
        for (id, mined) in found {
            self.tell(Event::Found { id, mined }).await;
        }
    }

    async fn close_slot(&self, fence: FencedLane, closure: SlotClosure, payments: Vec<Queued>) {
        let id = closure.id;
        if let Err(error) = self.ledger.close_slot(fence, closure.clone()).await {
            return self.lose_lane(fence, &error).await;
        }
        report::closed(self, &closure, &payments);
        let resolved = closure
            .resolutions
            .iter()
            .filter_map(|(id, resolution)| match resolution {
                Resolution::Resolved(state) => Some((*id, state.clone())),
                Resolution::Requeued => None,
            });
        let resolved: Vec<_> = resolved.collect();
        self.publish(&resolved);
        self.tell(Event::SlotClosed { id }).await;
        self.settle_holds(&resolved, &payments).await;
    }

    async fn resolve_accepted(&self, resolutions: Vec<(SettlementId, SettlementState)>) {
        let ids: Vec<SettlementId> = resolutions.iter().map(|(id, _)| *id).collect();
        let changed = loop {
            match self.ledger.resolve_accepted(&resolutions).await {
                Ok(changed) => break changed,
                Err(error) => {
                    tracing::warn!(%error, "outcomes could not be written; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let settlements = self.ledger.settlements(&changed).await.unwrap_or_default();
        let payments: Vec<Queued> = settlements
            .iter()
            .map(|row| Queued::new(row.id, row.payment, row.tries))
            .collect();
        let resolved: Vec<_> = resolutions
            .into_iter()
            .filter(|(id, _)| changed.contains(id))
            .collect();
        report::resolved(self.chain(), resolved.iter().map(|(_, state)| state.kind()));
        self.publish(&resolved);
        self.tell(Event::AcceptedResolved { ids }).await;
        self.settle_holds(&resolved, &payments).await;
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
            if let Err(error) = self.reservations.mined(&keys, block).await {
                tracing::warn!(%error, "holds of mined payments stay until they expire");
            }
        }
        if !abandoned.is_empty()
            && let Err(error) = self.reservations.abandon(&abandoned).await
        {
            tracing::warn!(%error, "holds of ended payments stay until they expire");
        }
    }
}

fn mined(receipt: TxReceipt) -> Mined {
    let log = |log: teller_chain::Log| Log {
        address: log.address,
        topics: log.topics,
        data: log.data,
        index: log.index,
    };
    Mined {
        transaction: receipt.transaction,
        block: receipt.block,
        succeeded: receipt.succeeded,
        gas_used: receipt.gas_used,
        cost: receipt.cost,
        logs: receipt.logs.into_iter().map(log).collect(),
    }
}
