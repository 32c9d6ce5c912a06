//! Requests that wait for news of a settlement in this process. Each hears the newest state and decides for itself
//! whether that answers it; nobody who has gone leaves anything behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use teller_domain::{SettlementId, SettlementState};
use teller_store::Ledger;
use tokio::sync::watch;

/// Settlements read in one look-up.
const READ_CHUNK: usize = 500;

/// What is told of one settlement: the newest state and how often there was news.
#[derive(Debug, Clone, Default)]
struct News {
    state: Option<SettlementState>,
    count: u64,
}

type Waited = HashMap<SettlementId, watch::Sender<News>>;

/// Who waits for what: one entry a settlement, as many as requests wait at once. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiters {
    waited: Arc<Mutex<Waited>>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, Waited> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for news of a settlement. Whoever subscribes to one that is in the ledger already must read it after this.
    pub(crate) fn subscribe(&self, id: SettlementId) -> Waiting {
        let mut waited = self.lock();
        let sender = waited
            .entry(id)
            .or_insert_with(|| watch::Sender::new(News::default()));
        Waiting {
            id,
            heard: Some(sender.subscribe()),
            waiters: self.clone(),
        }
    }

    /// Tells everybody who waits for this settlement its newest state. Every change that the ledger has made durable
    /// belongs here: preconfirmed and taken back, settled and reopened, a level that has risen, every outcome.
    pub(crate) fn publish(&self, id: SettlementId, state: &SettlementState) {
        if let Some(sender) = self.lock().get(&id) {
            sender.send_modify(|news| {
                news.state = Some(state.clone());
                news.count += 1;
            });
        }
    }

    /// Reads what is waited for and tells what is new: what no event of this process told of. A row that was read
    /// before somebody published may be older than what was published, so it is not told.
    pub(crate) async fn read(&self, ledger: &dyn Ledger) {
        for chunk in self.counts().chunks(READ_CHUNK) {
            let ids: Vec<SettlementId> = chunk.iter().map(|(id, _)| *id).collect();
            let rows = match ledger.settlements(&ids).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(%error, "outcomes could not be read; they are asked for again");
                    return;
                }
            };
            let counts: HashMap<SettlementId, u64> = chunk.iter().copied().collect();
            for row in rows {
                if let Some(count) = counts.get(&row.id) {
                    self.publish_read(row.id, &row.state, *count);
                }
            }
        }
    }

    fn publish_read(&self, id: SettlementId, state: &SettlementState, count: u64) {
        if let Some(sender) = self.lock().get(&id) {
            sender.send_if_modified(|news| {
                let is_news = news.count == count && news.state.as_ref() != Some(state);
                if is_news {
                    news.state = Some(state.clone());
                    news.count += 1;
                }
                is_news
            });
        }
    }

    fn counts(&self) -> Vec<(SettlementId, u64)> {
        self.lock()
            .iter()
            .map(|(id, sender)| (*id, sender.borrow().count))
            .collect()
    }
}

/// A place among those who wait for one settlement. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Waiting {
    id: SettlementId,
    heard: Option<watch::Receiver<News>>,
    waiters: Waiters,
}

impl Waiting {
    /// The next state that is told. Never answers once nobody can tell one any more; bound the wait.
    pub(crate) async fn newer(&mut self) -> SettlementState {
        while let Some(heard) = &mut self.heard {
            if heard.changed().await.is_err() {
                break;
            }
            if let Some(state) = heard.borrow_and_update().state.clone() {
                return state;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waited = self.waiters.lock();
        // Inside the lock: of several that leave at once, one must see that it is the last.
        self.heard = None;
        if waited
            .get(&self.id)
            .is_some_and(|sender| sender.receiver_count() == 0)
        {
            waited.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;
    use std::time::Duration;
    use teller_domain::{BlockRef, Level, Receipt, Wei};
    use tokio::time::timeout;

    fn settled(level: Level) -> SettlementState {
        SettlementState::Settled(Receipt {
            transaction: B256::repeat_byte(1),
            block: BlockRef {
                number: 1,
                hash: B256::repeat_byte(2),
            },
            log_index: 0,
            level,
            gas_used: 1,
            cost: Wei::from(1),
        })
    }

    async fn next(waiting: &mut Waiting) -> Option<SettlementState> {
        timeout(Duration::from_millis(20), waiting.newer())
            .await
            .ok()
    }

    #[tokio::test]
    async fn everybody_hears_each_newer_state() {
        let waiters = Waiters::default();
        let id = SettlementId::fresh();
        let mut first = waiters.subscribe(id);
        let mut second = waiters.subscribe(id);
        assert_eq!(next(&mut first).await, None);
        waiters.publish(id, &settled(Level::Included));
        assert_eq!(next(&mut first).await, Some(settled(Level::Included)));
        waiters.publish(id, &settled(Level::Safe));
        assert_eq!(next(&mut first).await, Some(settled(Level::Safe)));
        assert_eq!(next(&mut second).await, Some(settled(Level::Safe)));
        assert_eq!(next(&mut second).await, None);
        waiters.publish(SettlementId::fresh(), &SettlementState::Expired);
        assert_eq!(next(&mut first).await, None);
    }

    #[tokio::test]
    async fn those_who_leave_leave_nothing_behind() {
        let waiters = Waiters::default();
        let id = SettlementId::fresh();
        let first = waiters.subscribe(id);
        let second = waiters.subscribe(id);
        drop(first);
        assert_eq!(waiters.counts().len(), 1);
        drop(second);
        assert!(waiters.counts().is_empty());
        waiters.publish(id, &SettlementState::Expired);
        assert!(waiters.counts().is_empty());
    }

    #[tokio::test]
    async fn a_row_that_was_read_before_the_news_is_not_told_after_it() {
        let waiters = Waiters::default();
        let id = SettlementId::fresh();
        let mut waiting = waiters.subscribe(id);
        let [(_, count)] = waiters.counts()[..] else {
            panic!("one is waited for");
        };
        waiters.publish(id, &settled(Level::Included));
        waiters.publish_read(id, &SettlementState::Accepted, count);
        assert_eq!(next(&mut waiting).await, Some(settled(Level::Included)));
        // The next reading sees what was published: no news, then news.
        waiters.publish_read(id, &settled(Level::Included), count + 1);
        assert_eq!(next(&mut waiting).await, None);
        waiters.publish_read(id, &settled(Level::Safe), count + 1);
        assert_eq!(next(&mut waiting).await, Some(settled(Level::Safe)));
    }
}
