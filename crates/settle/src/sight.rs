//! Carrying out what the core asks for: what nodes show of slots, blocks and payers.

use std::collections::HashMap;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use teller_chain::{AuthorizationState, InspectItem, Inspection, NodeError, Simulation, TxReceipt};
use teller_domain::{Authorization, BlockRef, FencedLane, Payment, Reason, SettlementId, SlotId};
use teller_schemes::classify_revert;
use teller_schemes::erc7710::Redemption;

use crate::core::{Event, Log, Mined, Place, Queued, Sighting};
use crate::engine::Shell;

/// How long a node may lag behind the block that it, or another, has just shown.
const IN_BLOCK_PATIENCE: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

impl Shell {
    pub(crate) async fn read_code(&self, signer: Address, batch: u64, payments: Vec<Queued>) {
        let event = match self.look_at_payers(&payments).await {
            Ok((with_code, refused)) => Event::CodeRead {
                signer,
                batch,
                with_code,
                refused,
            },
            Err(error) => {
                tracing::warn!(%error, "the payers of a batch could not be looked at; the batch waits");
                Event::CodeUnread { signer, batch }
            }
        };
        self.tell(event).await;
    }

    /// Whose payer has code, and whether one who is alone, or a delegation, would fail.
    async fn look_at_payers(
        &self,
        payments: &[Queued],
    ) -> Result<(Vec<SettlementId>, Vec<(SettlementId, Reason)>), NodeError> {
        let payers: Vec<Address> = payments
            .iter()
            .map(|queued| queued.payment.key.payer)
            .collect();
        let (_, sizes) = self.parts.inspector.code_sizes(&payers).await?;
        let with_code: Vec<SettlementId> = payments
            .iter()
            .zip(sizes)
            .filter(|(_, size)| *size > 0)
            .map(|(queued, _)| queued.id)
            .collect();
        let refused = match payments {
            [alone] if !with_code.is_empty() || !alone.payment.is_guarded_on_chain() => {
                let reason = self.would_fail(&alone.payment).await?;
                reason.map(|reason| (alone.id, reason))
            }
            _ => None,
        };
        Ok((with_code, refused.into_iter().collect()))
    }

    /// Why the payment's call would revert, if all witnesses say that it would. A used authorization is another matter:
    /// what used it may have paid, and the slot's end will tell.
    async fn would_fail(&self, payment: &Payment) -> Result<Option<Reason>, NodeError> {
        let head = self
            .parts
            .heads
            .latest()
            .ok_or(NodeError::BadAnswer("no block yet"))?;
        let seen = self.witnessed(&[payment], head.block.reference()).await?;
        let mut reason = None;
        let redemption = Redemption::of(payment);
        for inspection in seen.into_iter().flatten() {
            if let Some(redemption) = &redemption {
                match inspection.redemption_failure(redemption) {
                    Some(failure) => reason = Some(failure),
                    None => return Ok(None),
                }
                continue;
            }
            match (inspection.authorization, inspection.simulation) {
                (AuthorizationState::Unused, Simulation::Reverted(data)) => {
                    let otherwise = match payment.authorization {
                        Authorization::Eip3009 { .. } | Authorization::Erc7710(_) => {
                            Reason::SimulationFailed
                        }
                        Authorization::Permit2(_) => Reason::Permit2SimulationFailed,
                    };
                    reason = Some(classify_revert(payment, &data).unwrap_or(otherwise));
                }
                _ => return Ok(None),
            }
        }
        Ok(reason)
    }

    /// What the witnesses see of each payment at one block, no earlier than the given one.
    pub(crate) async fn witnessed(
        &self,
        payments: &[&Payment],
        not_before: BlockRef,
    ) -> Result<Vec<Vec<Inspection>>, NodeError> {
        let items: Vec<InspectItem> = payments
            .iter()
            .map(|payment| InspectItem::of(payment, self.parts.multicall3))
            .collect();
        let witnesses = self.parts.inspector.witnessed(&items, not_before).await?;
        let mut seen = vec![Vec::with_capacity(witnesses.len()); payments.len()];
        for witness in witnesses {
            for (seen, inspection) in seen.iter_mut().zip(witness) {
                seen.push(inspection);
            }
        }
        Ok(seen)
    }

    pub(crate) async fn find_receipts(&self, lookups: Vec<(SlotId, Vec<B256>)>, place: Place) {
        match place {
            Place::SealedBlock => self.find_in_block(lookups).await,
            Place::Flashblock => self.find_in_flashblock(lookups).await,
        }
    }

    /// The block lists them, so there are receipts: a node that has none is behind. What it does not find in time, a
    /// later look-up will.
    async fn find_in_block(&self, mut lookups: Vec<(SlotId, Vec<B256>)>) {
        for patience in IN_BLOCK_PATIENCE {
            match self.parts.nodes.receipts(&hashes_of(&lookups)).await {
                Ok(receipts) => {
                    let sealed = receipts.into_iter().flatten().filter(|receipt| {
                        // Of a block that the chain has left, or that is not sealed yet: the right one is still to come.
                        self.parts.heads.is_canonical(receipt.block) != Some(false)
                    });
                    let found = assign(&lookups, sealed);
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

    /// One look: the next one follows soon.
    async fn find_in_flashblock(&self, lookups: Vec<(SlotId, Vec<B256>)>) {
        let hashes = hashes_of(&lookups);
        match self.parts.nodes.flashblock_receipts(&hashes).await {
            Ok(receipts) => {
                let found = assign(&lookups, receipts.into_iter());
                self.tell_found(found).await;
            }
            Err(error) => tracing::debug!(%error, "Flashblocks could not be looked at"),
        }
    }

    async fn tell_found(&self, found: Vec<(SlotId, Mined)>) {
        for (id, mined) in found {
            self.tell(Event::Found { id, mined }).await;
        }
    }

    pub(crate) async fn look_up(&self, id: SlotId, hashes: Vec<B256>, then: Option<BlockRef>) {
        let nodes = &self.parts.nodes;
        let seen = nodes.sightings(id.signer, &hashes, then).await;
        let sightings = seen.into_iter().map(|seen| Sighting {
            sealed: seen.sealed,
            sealed_nonce: seen.sealed_nonce,
            mined: self.likeliest(seen.receipts).map(mined),
            known: seen.known,
            searched: seen.searched,
            nonce_then: seen.nonce_then,
        });
        self.tell(Event::LookedUp {
            id,
            asked: hashes.len(),
            sightings: sightings.collect(),
            endpoints: nodes.endpoints(),
        })
        .await;
    }

    /// Of the receipts of one slot only one can be canonical; a node may still hold those of blocks that it left.
    fn likeliest(&self, receipts: Vec<TxReceipt>) -> Option<TxReceipt> {
        receipts.into_iter().min_by_key(|receipt| {
            match self.parts.heads.is_canonical(receipt.block) {
                Some(true) => 0,
                None => 1,
                Some(false) => 2,
            }
        })
    }

    pub(crate) async fn check_blocks(&self, fence: FencedLane, blocks: Vec<BlockRef>) {
        match self.parts.nodes.check_blocks(&blocks).await {
            Ok(check) => {
                self.tell(Event::BlocksChecked {
                    fence,
                    canonical: check.canonical,
                    orphaned: check.orphaned,
                })
                .await;
            }
            Err(error) => tracing::warn!(%error, "no node could tell which blocks are canonical"),
        }
    }
}

fn hashes_of(lookups: &[(SlotId, Vec<B256>)]) -> Vec<B256> {
    lookups
        .iter()
        .flat_map(|(_, hashes)| hashes.iter().copied())
        .collect()
}

/// One receipt for each slot that has one.
fn assign(
    lookups: &[(SlotId, Vec<B256>)],
    receipts: impl Iterator<Item = TxReceipt>,
) -> Vec<(SlotId, Mined)> {
    let mut by_hash: HashMap<B256, TxReceipt> = receipts
        .map(|receipt| (receipt.transaction, receipt))
        .collect();
    let found = lookups.iter().filter_map(|(id, hashes)| {
        let receipt = hashes.iter().find_map(|hash| by_hash.remove(hash))?;
        Some((*id, mined(receipt)))
    });
    found.collect()
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
