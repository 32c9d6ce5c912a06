//! Closed slots until they are final: their levels rise, and a reorg reopens them.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256};
use teller_domain::{AccountNonce, BlockRef, FencedLane, Level};
use teller_store::UnfinalSlot;

use super::ancestry::Standing;
use super::chain::SEALED;
use super::lane::{Closed, Lane, Phase};
use super::rules::Rule;
use super::{Core, Effect};

/// Blocks asked about in one go.
const CHECKED_AT_ONCE: usize = 512;

/// Heights of the head tags.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Heights {
    safe: Option<u64>,
    finalized: Option<u64>,
}

impl Heights {
    /// The level of what is in a canonical block of this height.
    fn level(self, height: u64) -> Level {
        let reached = |tag: Option<u64>| tag.is_some_and(|tag| height <= tag);
        if reached(self.finalized) {
            Level::Finalized
        } else if reached(self.safe) {
            Level::Safe
        } else {
            SEALED
        }
    }
}

/// A closed slot that a reorg could still reopen.
#[derive(Debug)]
pub(super) struct Unfinal {
    block: BlockRef,
    /// Blocks in which other transactions settled payments of the slot.
    external: BTreeSet<(u64, B256)>,
    level: Level,
    /// The core has seen the block among its headers: once it is there no more, a reorg took it.
    seen_sealed: bool,
}

impl Unfinal {
    pub(super) fn recovered(slot: UnfinalSlot) -> (AccountNonce, Self) {
        let external = slot.external.iter();
        let unfinal = Self {
            block: slot.block,
            external: external.map(|block| (block.number, block.hash)).collect(),
            level: slot.level,
            seen_sealed: false,
        };
        (slot.nonce, unfinal)
    }

    pub(super) fn closed(closed: &Closed) -> Self {
        Self {
            block: closed.block,
            external: closed.external.clone(),
            level: SEALED,
            seen_sealed: true,
        }
    }

    fn blocks(&self) -> impl Iterator<Item = BlockRef> {
        std::iter::once(self.block).chain(self.external_blocks())
    }

    fn external_blocks(&self) -> impl Iterator<Item = BlockRef> {
        self.external.iter().map(|(number, hash)| BlockRef {
            number: *number,
            hash: *hash,
        })
    }

    /// The level that all of its blocks have reached, if they are canonical.
    fn target(&self, heights: Heights) -> Level {
        let highest = self.blocks().map(|block| block.number).max();
        heights.level(highest.unwrap_or(self.block.number))
    }
}

impl Lane {
    /// A payment that had left a closed slot is settled in another block than that slot's.
    pub(super) fn note_external(&mut self, nonce: AccountNonce, own: BlockRef, block: BlockRef) {
        if block == own {
            return;
        }
        let unfinal = self.unfinal.entry(nonce).or_insert_with(|| Unfinal {
            block: own,
            external: BTreeSet::new(),
            level: SEALED,
            seen_sealed: true,
        });
        unfinal.external.insert((block.number, block.hash));
        unfinal.level = SEALED;
    }
}

impl Core {
    /// Asks the chain about every block that the lane's closed slots stand on.
    pub(super) fn check_unfinal(&mut self, signer: Address) {
        self.check(signer, |_| true);
    }

    pub(super) fn check_all_unfinal(&mut self) {
        let signers: Vec<Address> = self.lanes.keys().copied().collect();
        for signer in signers {
            self.check_unfinal(signer);
        }
    }

    fn check(&mut self, signer: Address, worth: impl Fn(&Unfinal) -> bool) {
        let Some(lane) = self.lanes.get(&signer) else {
            return;
        };
        let fence = lane.fence;
        let slots = lane.unfinal.values().filter(|slot| worth(slot));
        let blocks: BTreeSet<(u64, B256)> = slots
            .flat_map(|slot| slot.blocks().map(|block| (block.number, block.hash)))
            .collect();
        let blocks: Vec<BlockRef> = blocks
            .into_iter()
            .map(|(number, hash)| BlockRef { number, hash })
            .collect();
        for blocks in blocks.chunks(CHECKED_AT_ONCE) {
            self.emit(Effect::CheckBlocks {
                fence,
                blocks: blocks.to_vec(),
            });
        }
    }

    /// Head tags have risen: what stands on blocks below them is asked about, and then raised.
    pub(super) fn on_levels(&mut self, safe: Option<u64>, finalized: Option<u64>) {
        self.levels = Heights { safe, finalized };
        let heights = self.levels;
        let checks = self.rules.hold(Rule::CheckBeforeRaising);
        let signers: Vec<Address> = self.lanes.keys().copied().collect();
        for signer in signers {
            if checks {
                self.check(signer, |slot| slot.target(heights) > slot.level);
            } else if let Some(lane) = self.lanes.get(&signer) {
                let (fence, all) = (lane.fence, lane.unfinal.keys().copied().collect());
                self.raise(fence, &all);
            }
        }
    }

    pub(super) fn on_blocks_checked(
        &mut self,
        fence: FencedLane,
        canonical: &[BlockRef],
        orphaned: &[BlockRef],
        now_ms: u64,
    ) {
        self.on_verified(fence, canonical, orphaned, now_ms);
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let reopened: Vec<AccountNonce> = lane
            .unfinal
            .iter()
            .filter(|(_, slot)| orphaned.contains(&slot.block))
            .map(|(nonce, _)| *nonce)
            .collect();
        if !reopened.is_empty() {
            return self.reopen(fence, reopened);
        }
        self.take_back_external(fence, |block| orphaned.contains(&block));
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let sure = lane
            .unfinal
            .iter()
            .filter(|(_, slot)| slot.blocks().all(|block| canonical.contains(&block)))
            .map(|(nonce, _)| *nonce)
            .collect();
        self.raise(fence, &sure);
    }

    /// Slots with a receipt from before the oldest known header: the chain has said what it is worth.
    fn on_verified(
        &mut self,
        fence: FencedLane,
        canonical: &[BlockRef],
        orphaned: &[BlockRef],
        now_ms: u64,
    ) {
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let mut proven = Vec::new();
        for (nonce, slot) in &mut lane.slots {
            let Phase::Verifying { mined } = &slot.phase else {
                continue;
            };
            if canonical.contains(&mined.block) {
                proven.push((*nonce, mined.clone()));
            } else if orphaned.contains(&mined.block) {
                slot.phase = Phase::Recovered;
            }
        }
        let proven: Vec<_> = proven
            .into_iter()
            .map(|(nonce, mined)| (lane.slot_id(nonce), mined))
            .collect();
        for (id, mined) in proven {
            self.on_mined(id, &mined, now_ms);
        }
    }

    fn raise(&mut self, fence: FencedLane, sure: &BTreeSet<AccountNonce>) {
        let heights = self.levels;
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let rising = |level: Level| -> Vec<AccountNonce> {
            let slots = lane.unfinal.iter();
            slots
                .filter(|(nonce, slot)| {
                    sure.contains(nonce) && slot.level < level && slot.target(heights) == level
                })
                .map(|(nonce, _)| *nonce)
                .collect()
        };
        let rises = [Level::Safe, Level::Finalized].map(|level| (level, rising(level)));
        for (level, nonces) in rises {
            if !nonces.is_empty() {
                self.emit(Effect::RaiseLevels {
                    fence,
                    nonces,
                    level,
                });
            }
        }
    }

    pub(super) fn on_levels_raised(
        &mut self,
        fence: FencedLane,
        nonces: &[AccountNonce],
        level: Level,
    ) {
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        for nonce in nonces {
            if level == Level::Finalized {
                lane.unfinal.remove(nonce);
            } else if let Some(slot) = lane.unfinal.get_mut(nonce) {
                slot.level = slot.level.max(level);
            }
        }
    }

    /// Reopens what the headers show to have lost its block.
    pub(super) fn take_back_orphans(&mut self) {
        if !self.rules.hold(Rule::ReopenOnReorg) {
            return;
        }
        let fences: Vec<FencedLane> = self.lanes.values().map(|lane| lane.fence).collect();
        for fence in fences {
            let reopened = self.orphaned_slots(fence);
            if !reopened.is_empty() {
                self.reopen(fence, reopened);
                continue;
            }
            let orphaned = self.orphaned_externals(fence);
            self.take_back_external(fence, |block| orphaned.contains(&block));
        }
    }

    fn orphaned_slots(&mut self, fence: FencedLane) -> Vec<AccountNonce> {
        let ancestry = &self.ancestry;
        let lane = self.lanes.get_mut(&fence.signer);
        let mut orphaned = Vec::new();
        for (nonce, slot) in lane
            .into_iter()
            .flat_map(|lane: &mut Lane| &mut lane.unfinal)
        {
            match ancestry.standing(slot.block) {
                Standing::Sealed => slot.seen_sealed = true,
                Standing::Orphaned => orphaned.push(*nonce),
                Standing::Ahead if slot.seen_sealed => orphaned.push(*nonce),
                Standing::Ahead | Standing::Older => {}
            }
        }
        orphaned
    }

    fn orphaned_externals(&self, fence: FencedLane) -> Vec<BlockRef> {
        let lane = self.lanes.get(&fence.signer);
        lane.into_iter()
            .flat_map(|lane| lane.unfinal.values())
            .flat_map(Unfinal::external_blocks)
            .filter(|block| self.ancestry.standing(*block) == Standing::Orphaned)
            .collect()
    }

    fn reopen(&mut self, fence: FencedLane, nonces: Vec<AccountNonce>) {
        // The ledger decides what each payment goes back to; the lane is read from it anew.
        self.drop_lane(fence.signer);
        self.emit(Effect::ReopenSlots { fence, nonces });
    }

    fn take_back_external(&mut self, fence: FencedLane, orphaned: impl Fn(BlockRef) -> bool) {
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let mut blocks = BTreeSet::new();
        for slot in lane.unfinal.values_mut() {
            let gone = |(number, hash): &(u64, B256)| {
                orphaned(BlockRef {
                    number: *number,
                    hash: *hash,
                })
            };
            blocks.extend(slot.external.extract_if(.., gone));
        }
        if blocks.is_empty() {
            return;
        }
        let blocks = blocks
            .into_iter()
            .map(|(number, hash)| BlockRef { number, hash })
            .collect();
        self.emit(Effect::TakeBackExternal { fence, blocks });
    }
}
