//! Requests that wait for the outcome of a settlement in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use teller_domain::{SettlementId, SettlementState};
use tokio::sync::oneshot;

/// Who waits for what. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiters {
    waiting: Arc<Mutex<HashMap<SettlementId, Vec<oneshot::Sender<SettlementState>>>>>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<SettlementId, Vec<oneshot::Sender<SettlementState>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a settlement's outcome. Whoever subscribes to one that may have its outcome already must read the
    /// ledger after this.
    pub(crate) fn subscribe(&self, id: SettlementId) -> oneshot::Receiver<SettlementState> {
        let (sender, receiver) = oneshot::channel();
        self.lock().entry(id).or_default().push(sender);
        receiver
    }

    /// Tells everybody who waits for this settlement.
    pub(crate) fn publish(&self, id: SettlementId, state: &SettlementState) {
        let Some(waiting) = self.lock().remove(&id) else {
            return;
        };
        for sender in waiting {
            // A receiver that is gone has had its time-out.
            let _ = sender.send(state.clone());
        }
    }

    /// Forgets those who no longer wait.
    pub(crate) fn leave(&self, id: SettlementId) {
        let mut waiting = self.lock();
        if let Some(senders) = waiting.get_mut(&id) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                waiting.remove(&id);
            }
        }
    }

    /// What is waited for.
    pub(crate) fn ids(&self) -> Vec<SettlementId> {
        self.lock().keys().copied().collect()
    }
}
