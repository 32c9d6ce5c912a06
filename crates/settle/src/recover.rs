//! Starting, restarting and keeping what is ours: networks, lanes, leases, and what no event told of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use metrics::gauge;
use teller_domain::{AccountNonce, ChainId, SettlementId, Slot};
use teller_store::{LaneRecovery, Ledger, StoreError};
use tokio::sync::watch;

use crate::core::{Event, Queued, RecoveredLane, RecoveredSlot};
use crate::engine::{EngineError, EngineStatus, Shell, stopping};
use crate::waiters::Waiters;

/// Between tries of what must succeed in the end.
const RETRY: Duration = Duration::from_millis(500);

/// How often tips and balances are read.
const MONEY_PERIOD: Duration = Duration::from_secs(10);

/// Accepted payments are read once in this many polls: what this process accepts is announced at once.
const ANNOUNCE_EVERY: u64 = 3;

/// Changes of the ledger that come closer together than this are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Settlements read in one look-up.
const READ_CHUNK: usize = 500;

/// Why a step of starting did not work.
enum Setback {
    Passing(String),
    Final(EngineError),
}

impl From<teller_chain::NodeError> for Setback {
    fn from(error: teller_chain::NodeError) -> Self {
        Self::Passing(error.to_string())
    }
}

impl From<StoreError> for Setback {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::GenesisMismatch { .. } | StoreError::Corrupt(_) => {
                Self::Final(EngineError::Store(error))
            }
            passing => Self::Passing(passing.to_string()),
        }
    }
}

impl Shell {
    /// Makes sure that chain, ledger and signers belong together, then takes the lanes. Waits for a node as long as it
    /// takes.
    pub(crate) async fn prepare(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let work = async {
            loop {
                match self.check_network().await {
                    Ok(()) => break,
                    Err(Setback::Passing(cause)) => {
                        tracing::warn!(network = %self.chain(), %cause, "the network is not ready; trying again");
                        tokio::time::sleep(RETRY).await;
                    }
                    Err(Setback::Final(error)) => {
                        tracing::error!(network = %self.chain(), %error, "the network cannot be used");
                        self.status.send_replace(EngineStatus::Broken(error));
                        return;
                    }
                }
            }
            let signers: Vec<Address> = self.signers.keys().copied().collect();
            futures::future::join_all(signers.into_iter().map(|signer| self.reclaim_lane(signer)))
                .await;
            self.status.send_replace(EngineStatus::Running);
        };
        tokio::select! {
            () = stopping(&mut stopped) => {}
            () = work => {}
        }
    }

    async fn check_network(&self) -> Result<(), Setback> {
        let nodes = &self.parts.nodes;
        let found = ChainId(nodes.chain_id().await?);
        if found != self.chain() {
            return Err(Setback::Final(EngineError::WrongChain {
                configured: self.chain(),
                found,
            }));
        }
        self.ledger
            .bind_network(self.chain(), nodes.genesis_hash().await?)
            .await?;
        for signer in self.signers.keys() {
            if !nodes.code(*signer).await?.is_empty() {
                return Err(Setback::Final(EngineError::SignerHasCode(*signer)));
            }
        }
        for signer in self.ledger.signers_with_open_slots(self.chain()).await? {
            if !self.signers.contains_key(&signer) {
                return Err(Setback::Final(EngineError::SignerMissing(signer)));
            }
        }
        Ok(())
    }

    /// Takes a lane and tells the core what is open on it, then what is accepted. Tries until it is ours.
    pub(crate) async fn reclaim_lane(&self, signer: Address) {
        let lane = loop {
            match self.try_reclaim(signer).await {
                Ok(Some(lane)) => break lane,
                Ok(None) => tracing::info!(%signer, "the lane is held by another process"),
                Err(Setback::Passing(cause)) => {
                    tracing::warn!(%signer, %cause, "the lane cannot be taken yet")
                }
                Err(Setback::Final(error)) => {
                    tracing::error!(%signer, %error, "the lane cannot be used");
                    self.status.send_replace(EngineStatus::Broken(error));
                    return;
                }
            }
            tokio::time::sleep(RETRY).await;
        };
        self.set_fence(lane.fence);
        tracing::info!(%signer, epoch = lane.fence.epoch, next_nonce = %lane.next_nonce, open_slots = lane.slots.len(), "lane taken");
        self.tell(Event::LaneClaimed(lane)).await;
        self.announce_accepted().await;
    }

    async fn try_reclaim(&self, signer: Address) -> Result<Option<RecoveredLane>, Setback> {
        let lease_ms = u64::try_from(self.timings.lease.as_millis()).unwrap_or(u64::MAX);
        let claimed = self
            .ledger
            .claim_lane(self.chain(), signer, self.process, lease_ms)
            .await?;
        let Some(LaneRecovery { lane, open_slots }) = claimed else {
            return Ok(None);
        };
        let next_nonce = match lane.next_nonce {
            Some(next_nonce) if !open_slots.is_empty() => next_nonce,
            known => {
                let head = self.parts.nodes.head().await?;
                let sealed = self.parts.nodes.account_nonce(signer, head.number).await?;
                match known {
                    Some(known) if known > sealed => {
                        let cause = format!(
                            "the node has nonce {sealed} for {signer}, the ledger closed the slots below {known}: the node \
                             is behind, or a reorg took transactions back"
                        );
                        return Err(Setback::Passing(cause));
                    }
                    Some(known) if known == sealed => {}
                    _ => self.ledger.adopt_nonce(lane.fence, sealed).await?,
                }
                sealed
            }
        };
        let slots = self.recovered_slots(open_slots).await?;
        Ok(Some(RecoveredLane {
            fence: lane.fence,
            next_nonce,
            slots,
        }))
    }

    async fn recovered_slots(&self, open_slots: Vec<Slot>) -> Result<Vec<RecoveredSlot>, Setback> {
        let ids: Vec<SettlementId> = open_slots
            .iter()
            .flat_map(|slot| slot.payments.iter().copied())
            .collect();
        let mut rows = HashMap::new();
        for chunk in ids.chunks(READ_CHUNK) {
            let read = self.ledger.settlements(chunk).await?;
            rows.extend(
                read.into_iter()
                    .map(|row| (row.id, Queued::new(row.id, row.payment, row.tries))),
            );
        }
        let recovered = open_slots.into_iter().map(|slot| RecoveredSlot {
            id: slot.id,
            attempts: slot.attempts,
            payments: slot
                .payments
                .iter()
                .filter_map(|id| rows.get(id).cloned())
                .collect(),
        });
        Ok(recovered.collect())
    }

    async fn announce_accepted(&self) {
        match self.ledger.accepted(self.chain()).await {
            Ok(rows) if rows.is_empty() => {}
            Ok(rows) => {
                let queued = rows
                    .iter()
                    .map(|row| Queued::new(row.id, row.payment, row.tries))
                    .collect();
                self.tell(Event::Accepted(queued)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "accepted payments could not be read; they are asked for again")
            }
        }
    }

    pub(crate) async fn sealed_nonce(&self, signer: Address) -> Option<AccountNonce> {
        let head = self.parts.nodes.head().await.ok()?;
        self.parts
            .nodes
            .account_nonce(signer, head.number)
            .await
            .ok()
    }

    /// Renews the leases of our lanes and the registration of this process.
    pub(crate) async fn keep_leases(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let lease_ms = u64::try_from(self.timings.lease.as_millis()).unwrap_or(u64::MAX);
        loop {
            if let Err(error) = self.ledger.heartbeat(self.process, lease_ms).await {
                tracing::warn!(%error, "this process could not be registered; trying again");
            }
            for fence in self.fences() {
                match self.ledger.renew_lane(fence, lease_ms).await {
                    Ok(()) => {}
                    Err(StoreError::StaleLane) => {
                        tracing::warn!(signer = %fence.signer, "the lane has another owner");
                        let current = self.fences().into_iter().any(|held| held == fence);
                        if current {
                            self.tell(Event::LaneLost { fence }).await;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(signer = %fence.signer, %error, "a lease could not be renewed")
                    }
                }
            }
            tokio::select! {
                () = stopping(&mut stopped) => return,
                () = tokio::time::sleep(self.timings.lease / 3) => {}
            }
        }
    }

    /// Polling behind every hint: accepted payments that nobody announced, outcomes that nobody told.
    pub(crate) async fn poll_ledger(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        for round in 1_u64.. {
            tokio::select! {
                () = stopping(&mut stopped) => return,
                () = tokio::time::sleep(self.timings.poll) => {}
            }
            if round.is_multiple_of(ANNOUNCE_EVERY) && !self.fences().is_empty() {
                self.announce_accepted().await;
            }
            read_outcomes(self.ledger.as_ref(), &self.waiters).await;
        }
    }

    /// Reads what gas costs and what the signers have left.
    pub(crate) async fn watch_money(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let network = self.chain().to_string();
        loop {
            if let Ok(tip) = self.parts.nodes.tip().await {
                self.tell(Event::Tip(tip)).await;
            }
            for (index, signer) in self.parts.signers.iter().enumerate() {
                if let Ok(balance) = self.parts.nodes.balance(signer.address()).await {
                    let labels = [
                        ("network", network.clone()),
                        ("signer_index", index.to_string()),
                    ];
                    gauge!("teller_signer_balance_wei", &labels).set(f64::from(balance.0));
                }
            }
            tokio::select! {
                () = stopping(&mut stopped) => return,
                () = tokio::time::sleep(MONEY_PERIOD) => {}
            }
        }
    }
}

/// Tells waiting requests of outcomes that another process wrote.
pub(crate) async fn watch_outcomes(
    ledger: Arc<dyn Ledger>,
    waiters: Waiters,
    poll: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    let mut changes = ledger.changes();
    loop {
        tokio::select! {
            () = stopping(&mut stopped) => return,
            changed = changes.changed() => tokio::time::sleep(if changed.is_err() { poll } else { DEBOUNCE }).await,
            () = tokio::time::sleep(poll) => {}
        }
        read_outcomes(ledger.as_ref(), &waiters).await;
    }
}

async fn read_outcomes(ledger: &dyn Ledger, waiters: &Waiters) {
    for chunk in waiters.ids().chunks(READ_CHUNK) {
        match ledger.settlements(chunk).await {
            Ok(rows) => rows
                .iter()
                .filter(|row| row.state.is_resolved())
                .for_each(|row| waiters.publish(row.id, &row.state)),
            Err(error) => {
                tracing::warn!(%error, "outcomes could not be read; they are asked for again")
            }
        }
    }
}
