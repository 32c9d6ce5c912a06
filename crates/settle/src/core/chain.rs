//! What the chain shows: blocks, reorgs, receipts.

use teller_domain::{BlockRef, FencedLane, Level, SlotId};

use super::ancestry::Standing;
use super::lane::{Noting, OpenSlot, Phase};
use super::rules::Rule;
use super::{BlockSummary, Core, Effect, Head, Mined, Outcomes, Place};

impl Core {
    /// Headers from before the first block. What is known already stays.
    pub(super) fn on_ancestry(&mut self, headers: Vec<BlockRef>) {
        let newest = self.ancestry.newest().map(|newest| newest.number);
        for header in headers {
            if newest.is_none_or(|newest| header.number > newest) {
                self.ancestry.push(header);
            }
        }
    }

    pub(super) fn on_block(&mut self, block: &BlockSummary, now_ms: u64) {
        let before = self.ancestry.oldest();
        self.ancestry.push(block.block);
        self.head = Some(Head {
            timestamp: block.timestamp,
            base_fee: block.base_fee,
            gas_limit: block.gas_limit,
            seen_ms: now_ms,
        });
        let all = self.rules.hold(Rule::AllHashes);
        let mut lookups = Vec::new();
        let mut vanished = Vec::new();
        for lane in self.lanes.values_mut() {
            let (chain, signer) = (lane.fence.chain, lane.fence.signer);
            let unmined = lane.slots.iter_mut().filter(|(_, slot)| slot.is_unmined());
            for (nonce, slot) in unmined {
                let id = SlotId {
                    chain,
                    signer,
                    nonce: *nonce,
                };
                match slot.attempt_in(block, all) {
                    Some(hash) => lookups.push((id, vec![hash])),
                    None if slot.has_vanished(block.block) => vanished.push(id),
                    None => {}
                }
            }
        }
        for id in vanished {
            self.preconfirm(id, None);
        }
        if !lookups.is_empty() {
            self.emit(Effect::FindReceipts {
                lookups,
                place: Place::SealedBlock,
            });
        }
        let gap = before.is_some() && self.ancestry.oldest() == Some(block.block);
        if gap {
            self.check_all_unfinal();
        }
    }

    pub(super) fn on_reorg(&mut self, from: u64) {
        let deep = self
            .ancestry
            .oldest()
            .is_some_and(|oldest| from <= oldest.number);
        self.ancestry.cut(from);
        if deep {
            self.check_all_unfinal();
        }
        if !self.rules.hold(Rule::ReopenOnReorg) {
            return;
        }
        // What was being made of a receipt in one of these blocks is void; a look-up finds the next one.
        for lane in self.lanes.values_mut() {
            for slot in lane.slots.values_mut() {
                if slot
                    .ending_block()
                    .is_some_and(|block| block.number >= from)
                {
                    slot.phase = Phase::Sent {
                        acknowledged: false,
                    };
                }
            }
        }
    }

    /// A node has a receipt of one of the slot's attempts: what that is worth depends on the block.
    pub(super) fn on_found(&mut self, id: SlotId, mined: Mined, now_ms: u64) {
        let standing = self.ancestry.standing(mined.block);
        let flashblocks = self.config.flashblocks;
        // Before the first header every block looks like one ahead.
        let has_head = self.ancestry.newest().is_some();
        let sealed_only = self.rules.hold(Rule::SealedBlocksOnly);
        let canonical_only = self.rules.hold(Rule::CanonicalBlocksOnly);
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.is_unmined()) else {
            return;
        };
        match standing {
            Standing::Sealed => self.on_mined(id, &mined, now_ms),
            Standing::Ahead if !sealed_only => self.on_mined(id, &mined, now_ms),
            Standing::Orphaned if !canonical_only => self.on_mined(id, &mined, now_ms),
            Standing::Ahead
                if flashblocks && has_head && !matches!(slot.phase, Phase::Verifying { .. }) =>
            {
                self.preconfirm(id, Some(&mined));
            }
            Standing::Older => {
                let blocks = vec![mined.block];
                slot.phase = Phase::Verifying { mined };
                if let Some(fence) = self.lanes.get(&id.signer).map(|lane| lane.fence) {
                    self.emit(Effect::CheckBlocks { fence, blocks });
                }
            }
            // A block that is not sealed here yet, or not any more: a later look finds out.
            Standing::Ahead | Standing::Orphaned => {}
        }
    }

    /// Notes what a Flashblock shows of the slot, or that it shows it no longer.
    fn preconfirm(&mut self, id: SlotId, seen: Option<&Mined>) {
        let Some(lane) = self.lanes.get_mut(&id.signer) else {
            return;
        };
        let fence = lane.fence;
        let Some(slot) = lane.slots.get_mut(&id.nonce) else {
            return;
        };
        let known = slot.preconfirmed.map(|(_, transaction)| transaction);
        let (transaction, payments) = match seen {
            Some(mined) => {
                slot.preconfirmed = Some((mined.block, mined.transaction));
                if known == Some(mined.transaction) {
                    return;
                }
                let outcomes = Outcomes::read(mined, &slot.payments);
                (mined.transaction, outcomes.settled)
            }
            None => {
                slot.preconfirmed = None;
                let Some(known) = known else { return };
                (known, Vec::new())
            }
        };
        match &mut slot.noting {
            Noting::No => slot.noting = Noting::Writing,
            // One write of a slot at a time, so that the newest is the last.
            Noting::Writing | Noting::Waiting(..) => {
                slot.noting = Noting::Waiting(transaction, payments);
                return;
            }
        }
        self.emit(Effect::Preconfirm {
            fence,
            id,
            transaction,
            payments,
        });
    }

    pub(super) fn on_preconfirmed(&mut self, fence: FencedLane, id: SlotId) {
        let slot = self
            .lane_mut(fence)
            .and_then(|lane| lane.slots.get_mut(&id.nonce));
        let Some(slot) = slot else { return };
        let Noting::Waiting(transaction, payments) =
            std::mem::replace(&mut slot.noting, Noting::No)
        else {
            return;
        };
        if !slot.is_unmined() {
            // Its end is on its way into the ledger, and says more.
            return;
        }
        slot.noting = Noting::Writing;
        self.emit(Effect::Preconfirm {
            fence,
            id,
            transaction,
            payments,
        });
    }
}

impl OpenSlot {
    /// The attempt that this block holds, if one is in it.
    fn attempt_in(&self, block: &BlockSummary, all: bool) -> Option<alloy_primitives::B256> {
        let newest_first = self.attempts.iter().rev().map(|attempt| attempt.hash);
        newest_first
            .take(if all { usize::MAX } else { 1 })
            .find(|hash| block.transactions.contains(hash))
    }

    /// Whether a Flashblock of this height, or of an earlier one, had shown the slot: the block is sealed without it.
    fn has_vanished(&self, sealed: BlockRef) -> bool {
        self.preconfirmed
            .is_some_and(|(block, _)| block.number <= sealed.number)
    }
}

/// The level of a settlement in a sealed block that no head tag has reached.
pub(super) const SEALED: Level = Level::Included;
