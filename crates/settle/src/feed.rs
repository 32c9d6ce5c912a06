//! What the watcher of a network says, as the core wants to hear it: ancestry first, every block once and in order, and
//! every reorg before the blocks that replace.

use std::collections::VecDeque;
use std::sync::Arc;

use teller_chain::{Block, HeadEvent, HeadHandle};
use teller_domain::BlockRef;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::core::{BlockSummary, Event};

/// Blocks that are remembered as told: as many as the watcher keeps.
const TOLD: usize = 256;

/// Follows one network for one core.
pub(crate) struct Feed {
    heads: HeadHandle,
    events: broadcast::Receiver<HeadEvent>,
    told: Told,
}

impl Feed {
    pub(crate) fn new(heads: HeadHandle) -> Self {
        Self {
            events: heads.subscribe(),
            heads,
            told: Told::default(),
        }
    }

    /// What the watcher knows already.
    pub(crate) fn start(&mut self) -> Vec<Event> {
        self.told.catch_up(&self.heads.ancestry())
    }

    /// The next news; `None` once the watcher has ended.
    pub(crate) async fn next(&mut self) -> Option<Vec<Event>> {
        match self.events.recv().await {
            Ok(HeadEvent::Sealed(block)) => Some(
                self.told
                    .sealed(&block)
                    .unwrap_or_else(|| self.told.catch_up(&self.heads.ancestry())),
            ),
            Ok(HeadEvent::Reorg { from }) => Some(self.told.reorg(from)),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "the engine fell behind the chain and catches up");
                Some(self.told.catch_up(&self.heads.ancestry()))
            }
            Err(RecvError::Closed) => None,
        }
    }
}

/// The blocks that the core was told of, contiguous, oldest first.
#[derive(Debug, Default)]
struct Told(VecDeque<BlockRef>);

impl Told {
    /// `None` for a block that does not follow what was told.
    fn sealed(&mut self, block: &Block) -> Option<Vec<Event>> {
        let newest = self.0.back()?;
        if self.0.contains(&block.reference()) {
            // What was caught up with is announced once more.
            Some(Vec::new())
        } else if newest.hash == block.parent {
            Some(vec![self.tell(block)])
        } else {
            None
        }
    }

    fn reorg(&mut self, from: u64) -> Vec<Event> {
        self.0.retain(|block| block.number < from);
        vec![Event::Reorg { from }]
    }

    /// Tells whatever lies between what was told and what the watcher keeps.
    fn catch_up(&mut self, kept: &[Arc<Block>]) -> Vec<Event> {
        let Some((newest, older)) = kept.split_last() else {
            return Vec::new();
        };
        let mut orphaned = None;
        while let Some(block) = self.0.pop_back_if(|block| !is_kept(kept, *block)) {
            orphaned = Some(block.number);
        }
        let mut events: Vec<Event> = orphaned
            .map(|from| Event::Reorg { from })
            .into_iter()
            .collect();
        match self.0.back().copied() {
            Some(told) => {
                let missed = kept.iter().filter(|block| block.number > told.number);
                events.extend(missed.map(|block| self.tell(block)));
            }
            None => {
                self.0.extend(older.iter().map(|block| block.reference()));
                events.push(Event::Ancestry(self.0.iter().copied().collect()));
                events.push(self.tell(newest));
            }
        }
        events
    }

    fn tell(&mut self, block: &Block) -> Event {
        if self.0.len() >= TOLD {
            self.0.pop_front();
        }
        self.0.push_back(block.reference());
        Event::Block(BlockSummary {
            block: block.reference(),
            timestamp: block.timestamp,
            base_fee: block.base_fee,
            gas_limit: block.gas_limit,
            transactions: block.transactions.clone(),
        })
    }
}

fn is_kept(kept: &[Arc<Block>], block: BlockRef) -> bool {
    kept.iter().any(|kept| kept.reference() == block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;
    use teller_domain::UnixSeconds;

    /// A block of a branch; `fork` is the last height that it shares with branch 0.
    fn block(number: u64, branch: u64, fork: u64) -> Arc<Block> {
        let hash = |number: u64| {
            let branch = if number > fork { branch } else { 0 };
            B256::from(alloy_primitives::U256::from(branch * 1_000 + number))
        };
        Arc::new(Block {
            number,
            hash: hash(number),
            parent: hash(number - 1),
            timestamp: UnixSeconds(number),
            base_fee: 1,
            gas_limit: 1,
            gas_used: 0,
            transactions: Vec::new(),
        })
    }

    fn chain(heights: std::ops::RangeInclusive<u64>, branch: u64, fork: u64) -> Vec<Arc<Block>> {
        heights.map(|number| block(number, branch, fork)).collect()
    }

    /// `a 5` for ancestry up to 5, `b 6` for block 6, `r 4` for a reorg from 4.
    fn words(events: &[Event]) -> Vec<String> {
        events
            .iter()
            .map(|event| match event {
                Event::Ancestry(blocks) => format!("a {}", blocks.last().unwrap().number),
                Event::Block(block) => format!("b {}", block.block.number),
                Event::Reorg { from } => format!("r {from}"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn ancestry_comes_first_and_no_block_twice() {
        let mut told = Told::default();
        assert!(told.catch_up(&[]).is_empty());
        assert!(told.sealed(&block(5, 0, 0)).is_none());
        assert_eq!(words(&told.catch_up(&chain(1..=6, 0, 0))), ["a 5", "b 6"]);
        // Announced again, because the subscription was there before.
        assert_eq!(words(&told.sealed(&block(6, 0, 0)).unwrap()), [""; 0]);
        assert_eq!(words(&told.sealed(&block(7, 0, 0)).unwrap()), ["b 7"]);
    }

    #[test]
    fn a_reorg_is_told_before_the_blocks_that_replace() {
        let mut told = Told::default();
        told.catch_up(&chain(1..=6, 0, 0));
        assert_eq!(words(&told.reorg(5)), ["r 5"]);
        assert_eq!(words(&told.sealed(&block(5, 1, 4)).unwrap()), ["b 5"]);
        assert_eq!(words(&told.sealed(&block(6, 1, 4)).unwrap()), ["b 6"]);
        assert!(told.sealed(&block(7, 0, 0)).is_none());
    }

    #[test]
    fn whoever_fell_behind_hears_what_changed_and_what_is_new() {
        let mut told = Told::default();
        told.catch_up(&chain(1..=6, 0, 0));
        let kept = chain(3..=8, 1, 4);
        assert_eq!(
            words(&told.catch_up(&kept)),
            ["r 5", "b 5", "b 6", "b 7", "b 8"]
        );
        assert!(told.catch_up(&kept).is_empty());
        // So far that nothing is shared any more.
        let kept = chain(100..=103, 1, 4);
        assert_eq!(words(&told.catch_up(&kept)), ["r 1", "a 102", "b 103"]);
    }
}
