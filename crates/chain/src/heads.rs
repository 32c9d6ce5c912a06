//! The one watcher of a network: every sealed block once and in order, and the head with the chain's time.

mod contest;
mod watcher;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use alloy_primitives::B256;
use teller_domain::{BlockRef, UnixSeconds};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout};

use self::watcher::Watcher;
use crate::looks::Looks;
use crate::pace::Pace;
use crate::{Block, NodeError, Nodes};

/// Headers that are kept to find where a reorg forked off.
const KEPT_HEADERS: usize = 256;
/// Events that a slow subscriber may lag behind before it is told that it missed some.
const EVENT_BACKLOG: usize = 1024;
/// A network stalls when its head has not risen for this many block intervals, and for `STALLED_AT_LEAST`.
const STALLED_INTERVALS: u32 = 8;
const STALLED_AT_LEAST: Duration = Duration::from_secs(10);
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
    /// When this process saw the head rise last. A block in another one's place does not raise it.
    pub risen_at: Instant,
}

impl Head {
    /// The chain's time now: the block's, run on by what has passed since.
    pub fn chain_time(&self) -> UnixSeconds {
        let passed = self.seen_at.elapsed().min(MAX_RUN_ON);
        self.block.timestamp.plus(passed.as_secs())
    }

    /// How many seconds the wall clock is ahead of the block's time; negative for a block of the future. A node that is
    /// far behind shows so, and a clock that is wrong.
    pub fn age_seconds(&self, wall_clock: UnixSeconds) -> i64 {
        let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        signed(wall_clock.0).saturating_sub(signed(self.block.timestamp.0))
    }
}

/// Why nothing may be concluded from a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadDoubt {
    /// No endpoint has shown a higher block for so long that the chain may have gone on unseen.
    #[error("no new block for {seconds} s")]
    Stalled {
        /// Since the head rose last.
        seconds: u64,
    },
    /// The block's time is further behind the wall clock than is allowed.
    #[error("the newest block is {seconds} s old")]
    Old {
        /// The wall clock less the block's time.
        seconds: u64,
    },
}

/// What follows the heads of a network. Cheap to clone; the watcher ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct HeadHandle {
    head: watch::Receiver<Option<Head>>,
    events: broadcast::Sender<HeadEvent>,
    headers: Arc<Headers>,
    interval_ms: Arc<AtomicU64>,
    looks: Arc<Looks>,
    interval_hint: Duration,
    max_age: Option<Duration>,
}

impl HeadHandle {
    /// The same, with a bound for how far a head may be behind the wall clock; `None` for no bound.
    #[must_use]
    pub fn with_max_age(self, max_age: Option<Duration>) -> Self {
        Self { max_age, ..self }
    }

    /// Whether the head has not risen for some block intervals of monotonic time, or there is none yet.
    pub fn is_stalled(&self) -> bool {
        let head = self.head.borrow();
        head.as_ref()
            .is_none_or(|head| self.stalled_for(head).is_some())
    }

    fn stalled_for(&self, head: &Head) -> Option<Duration> {
        let interval = self.block_interval().max(self.interval_hint);
        let bound = interval.saturating_mul(STALLED_INTERVALS);
        let passed = head.risen_at.elapsed();
        (passed > bound.max(STALLED_AT_LEAST)).then_some(passed)
    }

    /// Whether payments may be judged at this head, which must be the latest.
    ///
    /// # Errors
    /// [`HeadDoubt`] when the head has not risen for too long, or is too old where a bound is set.
    pub fn check(&self, head: &Head, wall_clock: UnixSeconds) -> Result<(), HeadDoubt> {
        if let Some(passed) = self.stalled_for(head) {
            let seconds = passed.as_secs();
            return Err(HeadDoubt::Stalled { seconds });
        }
        let age = u64::try_from(head.age_seconds(wall_clock)).unwrap_or(0);
        match self.max_age {
            Some(most) if age > most.as_secs() => Err(HeadDoubt::Old { seconds: age }),
            Some(_) | None => Ok(()),
        }
    }

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
    let watcher = Watcher::new(
        nodes,
        pace,
        Arc::clone(&headers),
        head,
        events.clone(),
        Arc::clone(&interval_ms),
        Arc::clone(&looks),
    );
    tokio::spawn(watcher.run());
    HeadHandle {
        head: receiver,
        events,
        headers,
        interval_ms,
        looks,
        interval_hint: block_interval_hint,
        max_age: None,
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
