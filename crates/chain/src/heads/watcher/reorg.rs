//! Leaving the followed chain: for a branch that joins it, or, where nothing joins any more, for another one.

use std::sync::Arc;

use tokio::time::Instant;

use super::{SHUNNED_FOR, Watcher};
use crate::endpoint::Endpoint;
use crate::heads::{HeadEvent, KEPT_HEADERS};
use crate::nodes::HEAD;
use crate::{Block, NodeError};

/// A fork of more blocks than this may as well be another chain: whether it joins what is kept is asked first.
const SHORT_FORK: usize = 8;
/// A chain that joins nothing is followed when the old one has not risen for this many block intervals and no endpoint
/// shows it any more.
const GONE_INTERVALS: u32 = 3;

impl Watcher {
    /// Walks back from a block that does not fit to where it forked off, and delivers from there.
    pub(super) async fn reorganise(
        &mut self,
        endpoint: &Arc<Endpoint>,
        newest: Arc<Block>,
    ) -> Result<(), NodeError> {
        self.contest.close();
        let mut branch = vec![Arc::clone(&newest)];
        let fork = loop {
            let Some(lowest) = branch.last() else {
                return Err(NodeError::BadAnswer("no branch"));
            };
            let below = lowest.number.checked_sub(1);
            let kept = below.and_then(|below| self.headers.at(below));
            match kept {
                Some(kept) if kept.hash == lowest.parent => break kept.number,
                Some(_) => {}
                None => return self.stray(endpoint, newest).await,
            }
            if branch.len() == SHORT_FORK && !self.may_join(endpoint).await? {
                return self.stray(endpoint, newest).await;
            }
            let parent = endpoint.block_by_hash(lowest.parent).await?;
            let parent = parent.ok_or(NodeError::BadAnswer("a parent is missing"))?;
            branch.push(Arc::new(parent));
        };
        self.joins(endpoint);
        self.cut(Some(fork));
        for block in branch.into_iter().rev() {
            self.deliver(endpoint, block);
        }
        self.risen_to = newest.number;
        Ok(())
    }

    /// Whether the endpoint has the oldest block that is kept: any fork above it joins.
    async fn may_join(&mut self, endpoint: &Arc<Endpoint>) -> Result<bool, NodeError> {
        let oldest = self.headers.oldest();
        let Some(oldest) = oldest.and_then(|oldest| self.headers.at(oldest)) else {
            return Ok(false);
        };
        Ok(endpoint.hash_at(oldest.number).await? == Some(oldest.hash))
    }

    /// An endpoint shows a chain that joins nothing that is kept: it is left out. Where every endpoint shows such a chain,
    /// and none the old one any more, everything that was delivered is in doubt, and following begins anew.
    async fn stray(
        &mut self,
        endpoint: &Arc<Endpoint>,
        newest: Arc<Block>,
    ) -> Result<(), NodeError> {
        if endpoint.set_strays(true) {
            tracing::error!(chain = %self.nodes.chain(), endpoint = endpoint.index, height = newest.number, "endpoint shows a head that does not join the followed chain within {KEPT_HEADERS} blocks; it is left out");
        }
        let now = Instant::now();
        let gone_at = self.risen_at + self.pace.interval() * GONE_INTERVALS;
        let others_join = self.nodes.all().any(|endpoint| endpoint.is_healthy(HEAD));
        let is_higher = self
            .headers
            .newest()
            .is_some_and(|tip| newest.number >= tip.0);
        if !others_join && is_higher && gone_at <= now {
            tracing::error!(chain = %self.nodes.chain(), height = newest.number, "every endpoint shows another chain than the followed one, which is given up");
            self.cut(None);
            for view in &mut self.views {
                view.shunned_until = None;
            }
            self.joins(endpoint);
            self.start_at(endpoint, newest).await;
            return Ok(());
        }
        self.shun(
            endpoint,
            match others_join {
                true => now + SHUNNED_FOR,
                false => gone_at,
            },
        );
        Err(NodeError::BadAnswer(
            "a head that joins nothing that was followed",
        ))
    }

    /// Forgets everything above `fork`, or everything.
    fn cut(&self, fork: Option<u64>) {
        if let Some(from) = self.headers.cut(fork) {
            // Whoever settles on the chain counts it and tells the operator.
            tracing::debug!(chain = %self.nodes.chain(), from, "reorg");
            // No receiver is no error.
            let _ = self.events.send(HeadEvent::Reorg { from });
        }
    }
}
