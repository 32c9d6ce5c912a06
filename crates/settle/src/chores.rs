//! What the engine looks at every so often: the ledger's queue and outcomes, head tags, spending, tips and balances.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use teller_chain::NodeError;
use teller_domain::{BlockRef, UnixMillis, Wei};
use teller_store::{Ledger, StoreResult, Wanted};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::core::{Event, Funds, Queued};
use crate::engine::{Appetite, Intake, Shell, stopping};
use crate::report;
use crate::waiters::Waiters;

/// How often tips and balances are read.
const MONEY_PERIOD: Duration = Duration::from_secs(10);
/// What a payment takes of a batch's bytes, roughly: its call, its place in Multicall3's and what is attributed to it.
const BYTES_A_PAYMENT: usize = 512;
/// How often the `safe` and `finalized` heads are read.
const LEVELS_PERIOD: Duration = Duration::from_secs(3);
/// How often the ledger is asked what was spent today.
const SPENDING_PERIOD: Duration = Duration::from_secs(30);
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Changes of the ledger that come closer together than this are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// And so much later for each payment that the last claim brought, up to the time between polls.
const CLAIM_PACE: Duration = Duration::from_millis(1);
/// Accepted payments claimed at once.
const MOST_CLAIMED: usize = 2_000;

impl Shell {
    /// Polling behind every hint: accepted payments that nobody announced, outcomes that nobody told.
    pub(crate) async fn poll_ledger(self: Arc<Self>) {
        let mut changes = self.ledger.changes();
        let mut debounce = DEBOUNCE;
        loop {
            let hinted = self.timings.intake == Intake::Others;
            tokio::select! {
                () = stopping(self.stopped.clone()) => return,
                () = self.claims.notified() => {}
                Ok(()) = changes.changed(), if hinted => {
                    sleep(debounce.min(self.timings.poll)).await;
                    changes.mark_unchanged();
                }
                () = sleep(self.timings.poll) => {}
            }
            match self.claim_accepted().await {
                // What is queued already comes again with each claim: the more there is, the less there is to hurry for.
                Ok(claimed) => debounce = DEBOUNCE + CLAIM_PACE * claimed,
                Err(error) => {
                    tracing::warn!(%error, "accepted payments could not be claimed; they are asked for again")
                }
            }
            self.waiters.read(self.ledger.as_ref()).await;
            self.tell_unmined().await;
        }
    }

    /// Claims what the core could make use of. A process that has lanes but none that is usable takes only what is about
    /// to expire, to end it.
    async fn claim_accepted(&self) -> StoreResult<u32> {
        let Appetite {
            more,
            queued,
            stopped,
        } = self.appetite.borrow().clone();
        let late = self
            .parts
            .heads
            .chain_time()
            .map(|time| time.plus(self.parts.core.cutoff_seconds));
        let (limit, wanted) = match (more, self.holdings().is_empty()) {
            (0, true) => {
                // What a lane of this process left behind is for those who have one.
                let releasing = self.ledger.release_queue(self.chain(), self.process);
                return releasing.await.map(|()| 0);
            }
            (0, false) => {
                let Some(late) = late else {
                    return Ok(0);
                };
                (MOST_CLAIMED, Wanted::Late(late))
            }
            // What waits here comes first, as the oldest: new ones come behind it.
            _ => (
                more.saturating_add(queued).min(MOST_CLAIMED),
                Wanted::AllBut(stopped, late.unwrap_or_default()),
            ),
        };
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let claiming = self
            .ledger
            .claim_accepted(self.chain(), self.process, limit, &wanted);
        let rows = claiming.await?;
        if !rows.is_empty() {
            let queued = rows.iter().map(Queued::new).collect();
            self.tell(Event::Accepted(queued)).await;
        }
        Ok(u32::try_from(rows.len()).unwrap_or(u32::MAX))
    }

    /// Reads how far finality has come.
    pub(crate) async fn watch_levels(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = stopping(self.stopped.clone()) => return,
                () = sleep(LEVELS_PERIOD) => {}
            }
            let heads = &self.parts.heads;
            match self.parts.nodes.safe_and_finalized().await {
                Ok((safe, finalized)) => {
                    // Of a node on a branch that the chain has left, nothing follows.
                    let height = |block: Option<BlockRef>| {
                        block
                            .filter(|block| heads.is_canonical(*block) != Some(false))
                            .map(|block| block.number)
                    };
                    let (safe, finalized) = (height(safe), height(finalized));
                    self.tell(Event::Levels { safe, finalized }).await;
                }
                Err(error) => {
                    tracing::debug!(network = %self.chain(), %error, "the safe and finalized heads could not be read")
                }
            }
        }
    }

    /// Reads what was spent, where something bounds it.
    pub(crate) async fn watch_spending(self: Arc<Self>) {
        if !self.parts.core.by_day() {
            return;
        }
        loop {
            tokio::select! {
                () = stopping(self.stopped.clone()) => return,
                () = sleep(SPENDING_PERIOD) => {}
            }
            if let Err(error) = self.tell_spending().await {
                tracing::warn!(%error, "what was spent today could not be read; the last sum counts");
            }
        }
    }

    /// What was spent since midnight UTC, by the ledger's clock.
    pub(crate) async fn tell_spending(&self) -> StoreResult<()> {
        let now = self.ledger.now().await?;
        let spending = self.ledger.spending(self.chain(), midnight(now)).await?;
        report::spent(self.chain(), &spending);
        self.tell(Event::Spent(spending)).await;
        Ok(())
    }

    /// Reads what gas costs and what the signers have left.
    pub(crate) async fn watch_money(self: Arc<Self>) {
        loop {
            if let Ok(tip) = self.parts.nodes.tip().await {
                self.tell(Event::Tip(tip)).await;
            }
            let data_fee = self.data_fee().await;
            for signer in &self.parts.signers {
                self.tell_funds(signer.address(), data_fee).await;
            }
            tokio::select! {
                () = stopping(self.stopped.clone()) => return,
                () = sleep(MONEY_PERIOD) => {}
            }
        }
    }

    /// The newest block, whether it is followed yet or not.
    async fn newest(&self) -> Result<BlockRef, NodeError> {
        match self.parts.heads.latest() {
            Some(head) => Ok(head.block.reference()),
            None => Ok(self.parts.nodes.head().await?.reference()),
        }
    }

    /// The most that a full batch pays for its data beside its gas, as far as that can be said.
    pub(crate) async fn data_fee(&self) -> Wei {
        let limits = &self.parts.core.limits;
        let bytes = limits.max_items.saturating_mul(BYTES_A_PAYMENT);
        let bound = async {
            let newest = self.newest().await?;
            self.parts.nodes.data_fee_bound(bytes, newest).await
        };
        bound.await.unwrap_or_else(|error| {
            tracing::debug!(network = %self.chain(), %error, "what data costs could not be read");
            Wei::ZERO
        })
    }

    /// Reads what a signer has and how many of its transactions are mined. One that cannot be read is read again later.
    pub(crate) async fn tell_funds(&self, signer: Address, data_fee: Wei) {
        let read = async {
            let newest = self.newest().await?;
            self.parts.nodes.account(signer, newest).await
        };
        let account = match read.await {
            Ok(account) => account,
            Err(error) => {
                tracing::warn!(%signer, %error, "a signer's balance could not be read; it is read again");
                return;
            }
        };
        report::balance(self, signer, account.balance);
        let funds = Funds {
            nonce: account.nonce,
            balance: account.balance,
            data_fee,
        };
        self.tell(Event::FundsRead { signer, funds }).await;
    }
}

/// When the day (UTC) of a moment began.
pub(crate) fn midnight(now: UnixMillis) -> UnixMillis {
    UnixMillis(now.0 - now.0 % DAY_MS)
}

/// Tells waiting requests of outcomes that another process wrote.
pub(crate) async fn watch_outcomes(
    ledger: Arc<dyn Ledger>,
    waiters: Waiters,
    poll: Duration,
    stopped: watch::Receiver<bool>,
) {
    let mut changes = ledger.changes();
    loop {
        tokio::select! {
            () = stopping(stopped.clone()) => return,
            changed = changes.changed() => sleep(if changed.is_err() { poll } else { DEBOUNCE }).await,
            () = sleep(poll) => {}
        }
        waiters.read(ledger.as_ref()).await;
    }
}
