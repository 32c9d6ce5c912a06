//! The one watcher of a network: every sealed block once and in order, and the head with the chain's time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use alloy_primitives::B256;
use teller_domain::{BlockRef, UnixSeconds};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::looks::Looks;
use crate::pace::Pace;
use crate::{Block, NodeError, Nodes};

/// Headers that are kept to find where a reorg forked off.
const KEPT_HEADERS: usize = 256;
/// Events that a slow subscriber may lag behind before it is told that it missed some.
const EVENT_BACKLOG: usize = 1024;
/// Skipped blocks, and those before the first, are fetched this many at a time.
const CATCH_UP: u64 = 64;
/// The chain's time runs on from the last block for at most this long: longer means that this process slept.
const MAX_RUN_ON: Duration = Duration::from_secs(3600);

/// What the watcher saw.
#[derive(Debug, Clone)]
pub enum HeadEvent {
    /// The next block. After a [`HeadEvent::Reorg`] the heights from the fork on come again.
    Sealed(Arc<Block>),
    /// The blocks from this height on are no longer canonical.
    Reorg {
        /// The lowest height that changed.
        from: u64,
    },
}

/// The latest sealed block, and when it was first seen.
#[derive(Debug, Clone)]
pub struct Head {
    /// The block.
    pub block: Arc<Block>,
    /// When this process saw it.
    pub seen_at: Instant,
}

impl Head {
    /// The chain's time now: the block's, run on by what has passed since.
    pub fn chain_time(&self) -> UnixSeconds {
        let passed = self.seen_at.elapsed().min(MAX_RUN_ON);
        self.block.timestamp.plus(passed.as_secs())
    }
}

/// What follows the heads of a network. Cheap to clone; the watcher ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct HeadHandle {
    head: watch::Receiver<Option<Head>>,
    events: broadcast::Sender<HeadEvent>,
    headers: Arc<Headers>,
    interval_ms: Arc<AtomicU64>,
    looks: Arc<Looks>,
}

impl HeadHandle {
    /// The latest head; `None` until the first block was read.
    pub fn latest(&self) -> Option<Head> {
        self.head.borrow().clone()
    }

    /// A receiver of the latest head, for waiting on the next one.
    pub fn watch(&self) -> watch::Receiver<Option<Head>> {
        self.head.clone()
    }

    /// The head once the watcher has looked again, in a look that began after this was called; whatever is known when
    /// there is none in time. Many who ask at the same time share a look.
    pub async fn look_again(&self, within: Duration) -> Option<Head> {
        // Whoever is late is told what is known.
        let _ = timeout(within, self.looks.one_more()).await;
        self.latest()
    }

    /// Every event from now on. A subscriber that lags 1,024 events behind is told how many it missed and reads those
    /// blocks itself.
    pub fn subscribe(&self) -> broadcast::Receiver<HeadEvent> {
        self.events.subscribe()
    }

    /// The chain's time now; `None` until the first block was read.
    pub fn chain_time(&self) -> Option<UnixSeconds> {
        self.head.borrow().as_ref().map(Head::chain_time)
    }

    /// Whether a block is part of the chain as far as the watcher has followed it; `None` where it keeps no header of
    /// that height. Waits for nothing.
    pub fn is_canonical(&self, block: BlockRef) -> Option<bool> {
        let hash = self.headers.at(block.number)?.hash;
        Some(hash == block.hash)
    }

    /// The blocks that are kept, oldest first and each the parent of the next: up to 256 with the head. They reach back
    /// to before the first one that was delivered, as far as a node tells of them.
    pub fn ancestry(&self) -> Vec<Arc<Block>> {
        self.headers.read().iter().cloned().collect()
    }

    /// The observed time between blocks, the hint until there is one.
    pub fn block_interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.load(Ordering::Relaxed))
    }

    /// The latest head, waiting for the first one.
    ///
    /// # Errors
    /// [`NodeError::Timeout`] when there is none in time.
    pub async fn first(&self, within: Duration) -> Result<Head, NodeError> {
        if let Some(head) = self.latest() {
            return Ok(head);
        }
        let mut head = self.head.clone();
        let found = timeout(within, head.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(head)) => head.clone().ok_or(NodeError::Timeout),
            Ok(Err(_)) | Err(_) => Err(NodeError::Timeout),
        }
    }
}

/// Starts the watcher of a network. `block_interval_hint` is the usual time between blocks; it learns the real one.
pub fn watch_heads(nodes: Nodes, block_interval_hint: Duration) -> HeadHandle {
    let (head, receiver) = watch::channel(None);
    let (events, _) = broadcast::channel(EVENT_BACKLOG);
    let pace = Pace::new(block_interval_hint);
    let interval_ms = Arc::new(AtomicU64::new(millis(pace.interval())));
    let headers = Arc::new(Headers::default());
    let looks = Arc::new(Looks::new());
    let watcher = Watcher {
        nodes,
        pace,
        headers: Arc::clone(&headers),
        head,
        events: events.clone(),
        interval_ms: Arc::clone(&interval_ms),
        looks: Arc::clone(&looks),
    };
    tokio::spawn(watcher.run());
    HeadHandle {
        head: receiver,
        events,
        headers,
        interval_ms,
        looks,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The last [`KEPT_HEADERS`] headers, contiguous, oldest first. Only the watcher writes.
#[derive(Debug, Default)]
struct Headers(RwLock<VecDeque<Arc<Block>>>);

impl Headers {
    fn read(&self) -> RwLockReadGuard<'_, VecDeque<Arc<Block>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, VecDeque<Arc<Block>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> Option<(u64, B256)> {
        let headers = self.read();
        headers.back().map(|block| (block.number, block.hash))
    }

    fn oldest(&self) -> Option<u64> {
        self.read().front().map(|block| block.number)
    }

    fn at(&self, number: u64) -> Option<Arc<Block>> {
        let headers = self.read();
        let oldest = headers.front()?.number;
        let index = usize::try_from(number.checked_sub(oldest)?).ok()?;
        headers.get(index).cloned()
    }

    fn push(&self, block: Arc<Block>) {
        let mut headers = self.write();
        if headers.len() == KEPT_HEADERS {
            headers.pop_front();
        }
        headers.push_back(block);
    }

    /// Forgets everything above `fork`, or everything, and says what the lowest height was.
    fn cut(&self, fork: Option<u64>) -> Option<u64> {
        let keep = |block: &Arc<Block>| fork.is_some_and(|fork| block.number <= fork);
        let mut headers = self.write();
        let lowest = headers.iter().find(|block| !keep(block))?.number;
        headers.retain(keep);
        Some(lowest)
    }
}

struct Watcher {
    nodes: Nodes,
    pace: Pace,
    headers: Arc<Headers>,
    head: watch::Sender<Option<Head>>,
    events: broadcast::Sender<HeadEvent>,
    interval_ms: Arc<AtomicU64>,
    looks: Arc<Looks>,
}

impl Watcher {
    async fn run(mut self) {
        let mut last = None;
        loop {
            let pause = self.pace.pause(Instant::now());
            let unpaced = tokio::select! {
                () = sleep(pause) => false,
                () = self.looks.wanted(last) => true,
                () = self.head.closed() => return,
            };
            let asked = Instant::now();
            last = Some(asked);
            self.looks.begin();
            let before = self.headers.newest();
            let result = match self.nodes.head().await {
                Ok(block) => self.follow(Arc::new(block)).await,
                Err(error) => Err(error),
            };
            let after = self.headers.newest();
            if let (Some((number, _)), true) = (after, before != after) {
                let blocks = number.saturating_sub(before.map_or(0, |tip| tip.0));
                self.pace.found(asked, blocks.max(1));
                self.interval_ms
                    .store(millis(self.pace.interval()), Ordering::Relaxed);
            }
            self.looks.end();
            match result {
                // A look that somebody wanted says nothing of when the next block is due.
                Ok(()) if unpaced => {}
                Ok(()) if before == after => self.pace.nothing_new(asked),
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(chain = %self.nodes.chain(), %error, "cannot follow the head");
                    self.pace.failed();
                }
            }
        }
    }

    /// Brings the kept headers up to `latest`, delivering each step.
    async fn follow(&mut self, latest: Arc<Block>) -> Result<(), NodeError> {
        loop {
            let Some((tip, hash)) = self.headers.newest() else {
                for ancestor in self.ancestors(&latest).await {
                    self.headers.push(ancestor);
                }
                self.deliver(latest);
                return Ok(());
            };
            let same = |block: Arc<Block>| block.hash == latest.hash;
            if self.headers.at(latest.number).is_some_and(same) {
                // Nothing new, or a node that lags behind.
                return Ok(());
            }
            if latest.number == tip + 1 && latest.parent == hash {
                self.deliver(latest);
                return Ok(());
            }
            if self
                .headers
                .oldest()
                .is_some_and(|oldest| latest.number < oldest)
            {
                // No chain goes back that far: the node is stuck, or still syncing.
                return Err(NodeError::BadAnswer("a head far behind the one before"));
            }
            if latest.number <= tip + 1 {
                return self.reorganise(latest).await;
            }
            self.catch_up(tip, hash, latest.number).await?;
        }
    }

    /// The blocks before the first one, oldest first: as many as are kept, or as the node tells of.
    async fn ancestors(&self, first: &Block) -> Vec<Arc<Block>> {
        let mut found: VecDeque<Arc<Block>> = VecDeque::new();
        let (mut next, mut hash) = (first.number, first.parent);
        let last = first.number.saturating_sub(KEPT_HEADERS as u64 - 1);
        while next > last {
            let from = next.saturating_sub(CATCH_UP).max(last);
            let numbers: Vec<u64> = (from..next).collect();
            let blocks = match self.nodes.blocks(&numbers).await {
                Ok(blocks) => blocks,
                Err(error) => {
                    tracing::info!(chain = %self.nodes.chain(), %error, "older blocks are not known; reorgs reach back to where watching began");
                    break;
                }
            };
            for block in blocks.into_iter().rev() {
                match block {
                    Some(block) if block.hash == hash => {
                        hash = block.parent;
                        found.push_front(Arc::new(block));
                    }
                    // A reorg in between, or a node that has pruned them.
                    Some(_) | None => return found.into(),
                }
            }
            next = from;
        }
        found.into()
    }

    /// Fetches the next blocks after the tip. Stops where they do not fit, having found where they fork off.
    async fn catch_up(&mut self, tip: u64, hash: B256, latest: u64) -> Result<(), NodeError> {
        let last = latest.min(tip + CATCH_UP);
        let numbers: Vec<u64> = (tip + 1..=last).collect();
        let mut parent = hash;
        for block in self.nodes.blocks(&numbers).await? {
            let block = block.ok_or(NodeError::BadAnswer("a block below the head is missing"))?;
            if block.parent != parent {
                return self.reorganise(Arc::new(block)).await;
            }
            parent = block.hash;
            self.deliver(Arc::new(block));
        }
        Ok(())
    }

    /// Walks back from a block that does not fit to where it forked off, and delivers from there.
    async fn reorganise(&mut self, newest: Arc<Block>) -> Result<(), NodeError> {
        let mut branch = vec![newest];
        let fork = loop {
            let Some(lowest) = branch.last() else {
                return Err(NodeError::BadAnswer("no branch"));
            };
            let Some(below) = lowest.number.checked_sub(1) else {
                break None;
            };
            match self.headers.at(below) {
                Some(kept) if kept.hash == lowest.parent => break Some(below),
                // Deeper than what is kept: everything that was delivered is in doubt.
                None => break None,
                Some(_) => {}
            }
            let parent = self.nodes.block_by_hash(lowest.parent).await?;
            let parent = parent.ok_or(NodeError::BadAnswer("a parent is missing"))?;
            branch.push(Arc::new(parent));
        };
        if let Some(from) = self.headers.cut(fork) {
            // Whoever settles on the chain counts it and tells the operator.
            tracing::debug!(chain = %self.nodes.chain(), from, "reorg");
            let _ = self.events.send(HeadEvent::Reorg { from });
        }
        for block in branch.into_iter().rev() {
            self.deliver(block);
        }
        Ok(())
    }

    fn deliver(&self, block: Arc<Block>) {
        self.headers.push(Arc::clone(&block));
        // The head first: whoever hears of a block finds a head that is not behind it.
        self.head.send_replace(Some(Head {
            block: Arc::clone(&block),
            seen_at: Instant::now(),
        }));
        // No receiver is no error.
        let _ = self.events.send(HeadEvent::Sealed(block));
    }
}
