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
    told: VecDeque<BlockRef>,
}

impl Feed {
    pub(crate) fn new(heads: HeadHandle) -> Self {
        Self {
            events: heads.subscribe(),
            heads,
            told: VecDeque::new(),
        }
    }

    /// What the watcher knows already.
    pub(crate) fn start(&mut self) -> Vec<Event> {
        self.catch_up()
    }

    /// The next news; `None` once the watcher has ended.
    pub(crate) async fn next(&mut self) -> Option<Vec<Event>> {
        match self.events.recv().await {
            Ok(HeadEvent::Sealed(block)) => Some(self.sealed(&block)),
            Ok(HeadEvent::Reorg { from }) => Some(self.reorg(from)),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "the engine fell behind the chain and catches up");
                Some(self.catch_up())
            }
            Err(RecvError::Closed) => None,
        }
    }

    fn sealed(&mut self, block: &Block) -> Vec<Event> {
        let reference = block.reference();
        match self.told.back() {
            // What was caught up with is announced once more.
            Some(_) if self.told.contains(&reference) => Vec::new(),
            Some(newest) if newest.hash == block.parent => vec![self.tell(block)],
            Some(_) | None => self.catch_up(),
        }
    }

    fn reorg(&mut self, from: u64) -> Vec<Event> {
        self.told.retain(|block| block.number < from);
        vec![Event::Reorg { from }]
    }

    /// Tells whatever lies between what was told and what the watcher keeps.
    fn catch_up(&mut self) -> Vec<Event> {
        let kept = self.heads.ancestry();
        let Some((newest, older)) = kept.split_last() else {
            return Vec::new();
        };
        let mut events = Vec::new();
        let is_kept = |block: &BlockRef| kept.iter().any(|kept| kept.reference() == *block);
        let mut orphaned = None;
        while let Some(block) = self.told.pop_back_if(|block| !is_kept(block)) {
            orphaned = Some(block.number);
        }
        events.extend(orphaned.map(|from| Event::Reorg { from }));
        let Some(told) = self.told.back().copied() else {
            let ancestry = older.iter().map(|block| block.reference());
            self.told.extend(ancestry.clone());
            events.push(Event::Ancestry(ancestry.collect()));
            events.push(self.tell(newest));
            return events;
        };
        let missed: Vec<Arc<Block>> = kept
            .into_iter()
            .filter(|block| block.number > told.number)
            .collect();
        events.extend(missed.iter().map(|block| self.tell(block)));
        events
    }

    fn tell(&mut self, block: &Block) -> Event {
        if self.told.len() >= TOLD {
            self.told.pop_front();
        }
        self.told.push_back(block.reference());
        Event::Block(BlockSummary {
            block: block.reference(),
            timestamp: block.timestamp,
            base_fee: block.base_fee,
            transactions: block.transactions.clone(),
        })
    }
}
