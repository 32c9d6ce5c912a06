//! Starting, restarting and keeping what is ours: networks, lanes and leases.

use std::collections::HashMap;
use std::time::Duration;

use alloy_primitives::Address;
use futures::future::join_all;
use teller_chain::NodeError;
use teller_domain::{
    AccountNonce, BlockRef, FencedLane, SettlementId, SettlementState, Slot, UnixMillis,
};
use teller_store::{Boundary, Duty, LaneRecovery, StoreError};
use tokio::time::{Instant, sleep, timeout};

use crate::core::{Event, Queued, RecoveredLane, RecoveredSlot, Unexplained};
use crate::effects::RETRY;
use crate::engine::{EngineError, EngineStatus, Shell, stopping};
use crate::report;
use crate::share::Holding;

/// Settlements read in one look-up.
const READ_CHUNK: usize = 500;
/// A nonce that is to be adopted is asked for so often: of the nodes behind a load balancer one may be behind.
const NONCE_LOOKS: u32 = 2;
/// And so often at most, where answers come from older blocks than the newest that is known.
const MOST_NONCE_LOOKS: u32 = 5;
/// Between two looks.
const NONCE_PAUSE: Duration = Duration::from_millis(200);
/// A lane is handed over at most this often.
const SPREAD_PERIOD: Duration = Duration::from_secs(1);

/// Why a step of starting did not work.
enum Setback {
    Passing(String),
    Final(EngineError),
}

impl From<NodeError> for Setback {
    fn from(error: NodeError) -> Self {
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
    /// Makes sure that chain, ledger and signers belong together, then takes the lanes. Waits for a node and for the
    /// ledger as long as it takes.
    pub(crate) async fn prepare(self: std::sync::Arc<Self>) {
        let work = async {
            loop {
                match self.check_network().await {
                    Ok(()) => break,
                    Err(Setback::Passing(cause)) => {
                        tracing::warn!(network = %self.chain(), %cause, "the network is not ready; trying again");
                        sleep(RETRY).await;
                    }
                    Err(Setback::Final(error)) => {
                        tracing::error!(network = %self.chain(), %error, "the network cannot be used");
                        self.status.send_replace(EngineStatus::Broken(error));
                        return;
                    }
                }
            }
            let signers: Vec<Address> = self.signers.keys().copied().collect();
            join_all(signers.into_iter().map(|signer| self.reclaim_lane(signer))).await;
        };
        tokio::select! {
            () = stopping(self.stopped.clone()) => {}
            () = work => {}
        }
    }

    async fn check_network(&self) -> Result<(), Setback> {
        let nodes = &self.parts.nodes;
        // Only when every endpoint serves another network.
        let genesis = nodes.genesis_hash().await.map_err(|error| match error {
            NodeError::WrongChain { expected, found } => Setback::Final(EngineError::WrongChain {
                configured: expected,
                found,
            }),
            NodeError::WrongGenesis { expected, found } => {
                Setback::from(StoreError::GenesisMismatch {
                    chain: self.chain(),
                    known: expected,
                    found,
                })
            }
            passing => Setback::from(passing),
        })?;
        self.ledger.bind_network(self.chain(), genesis).await?;
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
        if self.parts.core.by_day() {
            // A budget that is spent already must be known before the first batch is formed.
            self.tell_spending().await?;
        }
        Ok(())
    }

    /// Takes a lane and tells the core what is open on it. Tries until it is ours, or never can be.
    pub(crate) async fn reclaim_lane(&self, signer: Address) {
        // Until it is ours again nothing is known to be open on it.
        self.note_recovered(signer, &[]);
        let mut is_elsewhere = false;
        let (lane, asked) = loop {
            let asked = Instant::now();
            match self.try_reclaim(signer).await {
                Ok(Some(lane)) => break (lane, asked),
                Ok(None) => {
                    if !std::mem::replace(&mut is_elsewhere, true) {
                        tracing::info!(%signer, "the lane is another process's, or for another to take; waiting for it");
                    }
                    self.runs();
                }
                Err(Setback::Passing(cause)) => {
                    tracing::warn!(%signer, %cause, "the lane cannot be taken yet")
                }
                Err(Setback::Final(error)) => {
                    tracing::error!(%signer, %error, "the lane cannot be used");
                    self.status.send_replace(EngineStatus::Broken(error));
                    return;
                }
            }
            sleep(RETRY).await;
        };
        let fence = lane.fence;
        self.held().take(fence, asked);
        tracing::info!(
            %signer,
            epoch = fence.epoch,
            mode = lane.mode.as_str(),
            next_nonce = %lane.next_nonce,
            open_slots = lane.slots.len(),
            unfinal_slots = lane.unfinal.len(),
            unexplained = lane.unexplained.len(),
            "lane taken"
        );
        // A reorg may have reopened a slot just before its owner died.
        let open = lane.slots.iter();
        let open = open.flat_map(|slot| slot.payments.iter().chain(&slot.ended));
        self.note_unmined(open.map(|queued| queued.payment.key));
        self.tell(Event::LaneClaimed(lane)).await;
        self.runs();
        self.claims.notify_one();
        self.tell_unmined().await;
    }

    /// The engine does its work from now on, unless it is out of order.
    fn runs(&self) {
        self.status.send_if_modified(|status| {
            let starting = matches!(status, EngineStatus::Starting);
            if starting {
                *status = EngineStatus::Running;
            }
            starting
        });
    }

    async fn try_reclaim(&self, signer: Address) -> Result<Option<RecoveredLane>, Setback> {
        let lease_ms = millis(self.timings.lease);
        let signers = u64::try_from(self.signers.len()).unwrap_or(u64::MAX);
        let one_at_a_time = self.claiming.acquire().await;
        let claiming =
            self.ledger
                .claim_lane(self.chain(), signer, self.process, signers, lease_ms);
        let claimed = Boundary::ClaimLane.around(claiming).await?;
        drop(one_at_a_time);
        let Some(LaneRecovery {
            lane,
            open_slots,
            unfinal,
            unexplained,
        }) = claimed
        else {
            return Ok(None);
        };
        let next_nonce = match lane.next_nonce {
            Some(next_nonce) if !open_slots.is_empty() => next_nonce,
            known => {
                let sealed = self.sealed_nonce(signer).await?;
                match known {
                    // The node is behind; or a reorg has taken slots back that are closed in the ledger, and the core
                    // reopens them; or it has taken a stranger's transaction behind which the lane had adopted its
                    // nonce, and the core fills the gap once something waits behind it.
                    Some(known) if known >= sealed => known,
                    known => {
                        self.ledger.adopt_nonce(lane.fence, sealed).await?;
                        if let Some(known) = known {
                            report::used_by_others(self.chain(), signer, known, sealed);
                        }
                        sealed
                    }
                }
            }
        };
        let slots = self.recovered_slots(signer, open_slots).await?;
        let unexplained = self.recovered_unexplained(unexplained).await?;
        // Known before the lane's first batch is formed, if it can be.
        self.tell_funds(signer, self.data_fee().await).await;
        Ok(Some(RecoveredLane {
            fence: lane.fence,
            mode: lane.mode,
            next_nonce,
            slots,
            unfinal,
            unexplained,
        }))
    }

    /// The highest nonce that any endpoint has in a sealed block: one that lags would have a used nonce adopted.
    async fn sealed_nonce(&self, signer: Address) -> Result<AccountNonce, Setback> {
        let nodes = &self.parts.nodes;
        let mut highest = None;
        let mut fresh = 0;
        for look in 0..MOST_NONCE_LOOKS {
            if look > 0 {
                sleep(NONCE_PAUSE).await;
            }
            let seen = nodes.sightings(signer, &[], None).await;
            if seen.len() < nodes.endpoints() {
                tracing::warn!(%signer, answered = seen.len(), endpoints = nodes.endpoints(), "a signer's nonce is read without all endpoints");
            }
            let newest = self.parts.heads.latest();
            let newest = newest.map_or(0, |head| head.block.number);
            fresh += u32::from(seen.iter().any(|seen| seen.sealed.number >= newest));
            highest = seen
                .into_iter()
                .map(|seen| seen.sealed_nonce)
                .max()
                .max(highest);
            if highest.is_none() || fresh >= NONCE_LOOKS {
                break;
            }
        }
        highest.ok_or_else(|| Setback::Passing("no node tells the signer's nonce".to_owned()))
    }

    async fn recovered_unexplained(
        &self,
        left: Vec<(SettlementId, BlockRef)>,
    ) -> Result<Vec<Unexplained>, Setback> {
        let mut recovered = Vec::with_capacity(left.len());
        for chunk in left.chunks(READ_CHUNK) {
            let blocks: HashMap<SettlementId, BlockRef> = chunk.iter().copied().collect();
            let ids: Vec<SettlementId> = blocks.keys().copied().collect();
            for row in self.ledger.settlements(&ids).await? {
                let (SettlementState::Unexplained { slot, transaction }, Some(block)) =
                    (&row.state, blocks.get(&row.id))
                else {
                    continue;
                };
                let queued = Queued::new(&row);
                recovered.push(Unexplained::recovered(queued, *slot, *block, *transaction));
            }
        }
        Ok(recovered)
    }

    async fn recovered_slots(
        &self,
        signer: Address,
        open_slots: Vec<Slot>,
    ) -> Result<Vec<RecoveredSlot>, Setback> {
        let ids: Vec<SettlementId> = open_slots
            .iter()
            .flat_map(|slot| slot.payments.iter().chain(&slot.ended).copied())
            .collect();
        let mut rows = HashMap::new();
        for chunk in ids.chunks(READ_CHUNK) {
            let read = self.ledger.settlements(chunk).await?;
            rows.extend(read.into_iter().map(|row| (row.id, row)));
        }
        let now = self.ledger.now().await?;
        let opened: Vec<_> = open_slots
            .iter()
            .map(|slot| (slot.id, moment(slot.opened_at, now)))
            .collect();
        self.note_recovered(signer, &opened);
        let queued = |ids: &[SettlementId]| {
            ids.iter()
                .filter_map(|id| rows.get(id).map(Queued::new))
                .collect::<Vec<_>>()
        };
        let preconfirmed = |ids: &[SettlementId]| {
            ids.iter().find_map(|id| match rows.get(id)?.state {
                SettlementState::Preconfirmed { transaction, .. } => Some(transaction),
                _ => None,
            })
        };
        let recovered = open_slots.into_iter().map(|slot| RecoveredSlot {
            id: slot.id,
            after: slot.after,
            payments: queued(&slot.payments),
            ended: queued(&slot.ended),
            preconfirmed: preconfirmed(&slot.payments),
            attempts: slot.attempts,
        });
        Ok(recovered.collect())
    }

    /// Renews the leases of our lanes and the registration of this process. A lane whose lease this process could not
    /// renew in time is another's by now, whatever the ledger would say: by this process's own clock.
    pub(crate) async fn keep_leases(self: std::sync::Arc<Self>) {
        let renew = self.timings.renew;
        loop {
            let held = self.holdings();
            let renewing = join_all(held.into_iter().map(|holding| self.keep_lease(holding)));
            futures::join!(self.register(), renewing);
            tokio::select! {
                () = stopping(self.stopped.clone()) => return,
                () = sleep(renew) => {}
            }
        }
    }

    /// Says that this process lives, and hears who else does.
    async fn register(&self) {
        let registering =
            self.ledger
                .heartbeat(self.process, Duty::Settles, millis(self.timings.lease));
        match timeout(self.timings.renew, registering).await {
            Ok(Ok(settlers)) => self.held().note_settlers(settlers, Instant::now()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "this process could not be registered; trying again")
            }
            Err(_) => tracing::warn!("the ledger does not answer; trying again"),
        }
    }

    /// Hands lanes over, one after the other, while this process holds more than its share.
    pub(crate) async fn spread_lanes(self: std::sync::Arc<Self>) {
        loop {
            tokio::select! {
                () = stopping(self.stopped.clone()) => return,
                () = sleep(SPREAD_PERIOD) => {}
            }
            if self.held().surplus(Instant::now()).is_empty() {
                continue;
            }
            // Whoever was to have it may have died since.
            self.register().await;
            let among = self.held().surplus(Instant::now());
            if !among.is_empty() {
                self.tell(Event::HandOver { among }).await;
            }
        }
    }

    /// Gives a lane up that another process is to have, and waits for it like for any other that is not ours.
    pub(crate) async fn release_lane(&self, fence: FencedLane) {
        let signer = fence.signer;
        self.held().hand_over(fence);
        self.note_recovered(signer, &[]);
        match self.until_certain(|| self.ledger.release_lane(fence)).await {
            Ok(()) => tracing::info!(%signer, epoch = fence.epoch, "lane handed over"),
            Err(error) => {
                tracing::warn!(%signer, epoch = fence.epoch, %error, "a lane was not handed over; its lease will run out")
            }
        }
        self.tell(Event::LaneReleased { signer }).await;
    }

    async fn keep_lease(&self, holding: Holding) {
        let Holding { fence, renewed, .. } = holding;
        let lease = self.timings.lease;
        if renewed.elapsed() >= lease {
            // Stopped, or asleep: somebody else may have it.
            return self.give_up(fence, "the lease ran out unnoticed").await;
        }
        let asked = Instant::now();
        let renewing = self.ledger.renew_lane(fence, millis(lease));
        match timeout(self.timings.renew, renewing).await {
            Ok(Ok(mode)) => {
                self.held().note_renewed(fence, asked);
                self.tell(Event::ModeRead { fence, mode }).await;
            }
            Ok(Err(StoreError::StaleLane)) => {
                self.give_up(fence, "the lane has another owner").await;
            }
            uncertain => {
                let cause = match uncertain {
                    Ok(Err(error)) => error.to_string(),
                    _ => "the ledger does not answer".to_owned(),
                };
                tracing::warn!(signer = %fence.signer, %cause, "a lease could not be renewed");
                if renewed.elapsed() >= lease {
                    self.give_up(fence, "the lease could not be renewed in time")
                        .await;
                }
            }
        }
    }

    async fn give_up(&self, fence: FencedLane, why: &'static str) {
        // A lane that was read again meanwhile is held under another epoch.
        if self.held().let_go(fence) {
            tracing::warn!(signer = %fence.signer, epoch = fence.epoch, why, "lane lost");
            self.tell(Event::LaneLost { fence }).await;
        }
    }
}

/// The moment of this process at which the ledger's clock showed `then`, as it shows `now`.
fn moment(then: UnixMillis, now: UnixMillis) -> Instant {
    let age = Duration::from_millis(now.0.saturating_sub(then.0));
    let here = Instant::now();
    here.checked_sub(age).unwrap_or(here)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
