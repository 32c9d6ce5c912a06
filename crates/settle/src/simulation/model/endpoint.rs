//! A node that teller asks: its own view of the chain, its own memory pool, its own faults.

use alloy_primitives::B256;

use super::chain::{Chain, Receipt, Sealed};
use super::pool::Pool;

/// A node.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The head that it knows; it may be old, or on a branch that the chain has left.
    pub view: B256,
    /// What waits in its memory.
    pub pool: Pool,
    /// It follows the chain again from this moment on.
    pub lags_until_ms: u64,
    /// It answers again from this moment on.
    pub down_until_ms: u64,
    /// Its index of transactions is behind its state until this moment: it knows of no receipt and no transaction.
    pub forgets_until_ms: u64,
    /// Its logs are so many blocks behind its state.
    pub log_lag: u64,
    /// It answers without any logs until this moment.
    pub blind_until_ms: u64,
    /// Its index of transactions is being built until this moment: of what it has not found it cannot say that it is not
    /// there.
    pub indexing_until_ms: u64,
}

impl Endpoint {
    pub fn new(view: B256, pool: Pool) -> Self {
        Self {
            view,
            pool,
            lags_until_ms: 0,
            down_until_ms: 0,
            forgets_until_ms: 0,
            log_lag: 0,
            blind_until_ms: 0,
            indexing_until_ms: 0,
        }
    }

    /// The receipt of a transaction in a block that this node takes for canonical.
    pub fn receipt<'a>(
        &self,
        chain: &'a Chain,
        hash: B256,
        now_ms: u64,
    ) -> Option<(&'a Sealed, &'a Receipt)> {
        if now_ms < self.forgets_until_ms.max(self.indexing_until_ms) {
            return None;
        }
        let (sealed, receipt) = chain.find(self.view, hash)?;
        Some((sealed, receipt))
    }

    pub fn knows(&self, chain: &Chain, hash: B256, now_ms: u64) -> bool {
        now_ms >= self.forgets_until_ms.max(self.indexing_until_ms)
            && (self.pool.knows(hash) || chain.find(self.view, hash).is_some())
    }
}
