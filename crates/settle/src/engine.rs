//! The shell around the core: one task a network that feeds it events and has its effects carried out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::Address;
use teller_chain::{HeadEvent, HeadHandle, Inspector, LocalSigner, Nodes};
use teller_domain::{ChainId, FencedLane, ProcessId};
use teller_store::{Ledger, Reservations, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::core::{BlockSummary, Core, CoreConfig, Event, Queued};
use crate::handle::Settler;
use crate::report;
use crate::waiters::Waiters;

/// Events that may wait for the core. Beyond this, whoever accepts payments waits.
const EVENT_QUEUE: usize = 16_384;

/// How often the core looks at its clock while anything is open.
const TICK: Duration = Duration::from_millis(20);

/// What cannot be mended by waiting.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The ledger refuses the network.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node serves another network.
    #[error("the node of {configured} serves {found}")]
    WrongChain {
        /// The configured network.
        configured: ChainId,
        /// What the node said.
        found: ChainId,
    },
    /// A signer is no plain account.
    #[error("signer {0} has code; signers must be plain accounts")]
    SignerHasCode(Address),
    /// The engine's own task ended before its time.
    #[error("the engine stopped by itself")]
    Stopped,
    /// A signer was taken out of the configuration while it has open slots.
    #[error("signer {0} has open slots in the ledger but is not configured")]
    SignerMissing(Address),
}

/// Everything that the engine needs of one network.
pub struct NetworkParts {
    /// What the core must know.
    pub core: CoreConfig,
    /// Its endpoints.
    pub nodes: Nodes,
    /// Its sealed blocks.
    pub heads: HeadHandle,
    /// Coalesced reads.
    pub inspector: Inspector,
    /// Its signers; each is a lane.
    pub signers: Vec<LocalSigner>,
    /// Multicall3.
    pub multicall3: Address,
    /// What each asset is called in metrics.
    pub asset_names: HashMap<Address, String>,
}

/// Periods of the engine's own chores.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// How long a lane stays this process's without renewal.
    pub lease: Duration,
    /// How often the ledger is asked for accepted payments and outcomes that no event told of.
    pub poll: Duration,
}

/// Whether a network's engine does its work.
#[derive(Debug, Clone)]
pub enum EngineStatus {
    /// It waits for its node, its ledger or its lanes.
    Starting,
    /// It does.
    Running,
    /// It cannot, and waiting will not help.
    Broken(EngineError),
}

/// What the effects of one network share.
pub(crate) struct Shell {
    pub(crate) parts: NetworkParts,
    pub(crate) signers: HashMap<Address, LocalSigner>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) reservations: Arc<dyn Reservations>,
    pub(crate) waiters: Waiters,
    pub(crate) process: ProcessId,
    pub(crate) timings: Timings,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) fences: Mutex<HashMap<Address, FencedLane>>,
    pub(crate) status: watch::Sender<EngineStatus>,
}

impl Shell {
    pub(crate) fn chain(&self) -> ChainId {
        self.parts.core.chain
    }

    /// Tells the core. A core that is gone has been shut down: the ledger has everything.
    pub(crate) async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    pub(crate) fn fences(&self) -> Vec<FencedLane> {
        self.fences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .copied()
            .collect()
    }

    pub(crate) fn fence(&self, signer: Address) -> Option<FencedLane> {
        self.fences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&signer)
            .copied()
    }

    pub(crate) fn set_fence(&self, fence: FencedLane) {
        self.fences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(fence.signer, fence);
    }
}

/// The running engines of all networks.
pub struct Engine {
    shells: Vec<Arc<Shell>>,
    stop: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Engine {
    /// Starts an engine for each network and answers their handle. Nothing here waits for a node: an engine whose
    /// node is away starts when it comes.
    pub fn start(
        networks: Vec<NetworkParts>,
        ledger: Arc<dyn Ledger>,
        reservations: Arc<dyn Reservations>,
        process: ProcessId,
        timings: Timings,
    ) -> (Self, Settler) {
        let waiters = Waiters::default();
        let (stop, stopped) = watch::channel(false);
        let mut engines = HashMap::new();
        let mut shells = Vec::new();
        let mut tasks = Vec::new();
        for parts in networks {
            let (events, inbox) = mpsc::channel(EVENT_QUEUE);
            engines.insert(parts.core.chain, events.clone());
            let shell = Arc::new(Shell {
                signers: parts
                    .signers
                    .iter()
                    .map(|signer| (signer.address(), signer.clone()))
                    .collect(),
                parts,
                ledger: ledger.clone(),
                reservations: reservations.clone(),
                waiters: waiters.clone(),
                process,
                timings,
                events,
                fences: Mutex::default(),
                status: watch::Sender::new(EngineStatus::Starting),
            });
            tasks.push(tokio::spawn(supervise(
                shell.clone(),
                inbox,
                stopped.clone(),
            )));
            tasks.push(tokio::spawn(shell.clone().prepare(stopped.clone())));
            tasks.push(tokio::spawn(shell.clone().keep_leases(stopped.clone())));
            tasks.push(tokio::spawn(shell.clone().poll_ledger(stopped.clone())));
            tasks.push(tokio::spawn(shell.clone().watch_money(stopped.clone())));
            shells.push(shell);
        }
        let settler = Settler::new(ledger, reservations, waiters, engines, process);
        (
            Self {
                shells,
                stop,
                tasks,
            },
            settler,
        )
    }

    /// A handle without an engine, for a process that only answers requests: other processes settle what it accepts.
    pub fn remote(
        ledger: Arc<dyn Ledger>,
        reservations: Arc<dyn Reservations>,
        process: ProcessId,
        poll: Duration,
    ) -> (Self, Settler) {
        let waiters = Waiters::default();
        let (stop, stopped) = watch::channel(false);
        let watcher =
            crate::recover::watch_outcomes(ledger.clone(), waiters.clone(), poll, stopped);
        let tasks = vec![tokio::spawn(watcher)];
        (
            Self {
                shells: Vec::new(),
                stop,
                tasks,
            },
            Settler::new(ledger, reservations, waiters, HashMap::new(), process),
        )
    }

    /// How each network's engine is.
    pub fn status(&self) -> Vec<(ChainId, watch::Receiver<EngineStatus>)> {
        self.shells
            .iter()
            .map(|shell| (shell.chain(), shell.status.subscribe()))
            .collect()
    }

    /// Stops, and hands the lanes over. What is open stays in the ledger for whoever comes next.
    pub async fn shutdown(self) {
        // Receivers that are gone have stopped already.
        let _ = self.stop.send(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the engine did not end well");
            }
        }
        for shell in self.shells {
            for fence in shell.fences() {
                if let Err(error) = shell.ledger.release_lane(fence).await {
                    tracing::warn!(signer = %fence.signer, %error, "a lane was not handed over; its lease will run out");
                }
            }
        }
    }
}

/// Waits until the engine is told to stop.
pub(crate) async fn stopping(stopped: &mut watch::Receiver<bool>) {
    // The sender lives as long as the engine; without it there is nothing to go on for.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Runs the core; an engine that ends unasked is out of order, and says so.
async fn supervise(
    shell: Arc<Shell>,
    inbox: mpsc::Receiver<Event>,
    stopped: watch::Receiver<bool>,
) {
    let ended = tokio::spawn(run(shell.clone(), inbox, stopped.clone())).await;
    if let Err(error) = &ended {
        tracing::error!(network = %shell.chain(), %error, "the engine's task broke");
    }
    if !*stopped.borrow() {
        shell
            .status
            .send_replace(EngineStatus::Broken(EngineError::Stopped));
    }
}

async fn run(
    shell: Arc<Shell>,
    mut inbox: mpsc::Receiver<Event>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut core = Core::new(shell.parts.core);
    let started = Instant::now();
    let mut heads = shell.parts.heads.subscribe();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut effects = tokio::task::JoinSet::new();
    let mut owners: HashMap<tokio::task::Id, Address> = HashMap::new();
    loop {
        let events = tokio::select! {
            () = stopping(&mut stopped) => break,
            event = inbox.recv() => match event {
                Some(event) => gather(event, &mut inbox),
                None => break,
            },
            head = heads.recv() => match head {
                Ok(HeadEvent::Sealed(block)) => vec![Event::Block(BlockSummary {
                    number: block.number,
                    timestamp: block.timestamp,
                    base_fee: block.base_fee,
                    transactions: block.transactions.clone(),
                })],
                Ok(HeadEvent::Reorg { from }) => {
                    report::reorg(shell.chain(), from);
                    Vec::new()
                }
                Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "the engine fell behind the chain; open slots are looked up by hash");
                    Vec::new()
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => break,
            },
            _ = ticks.tick(), if !core.is_idle() => vec![Event::Tick],
            Some(ended) = effects.join_next_with_id(), if !effects.is_empty() => match ended {
                Ok((task, ())) => {
                    owners.remove(&task);
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "an effect of the engine broke; its lane is read again");
                    let fence = owners.remove(&error.id()).and_then(|signer| shell.fence(signer));
                    fence.map(|fence| Event::LaneLost { fence }).into_iter().collect()
                }
            }
        };
        let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        for effect in core.handle(events, now_ms) {
            let signer = effect.signer();
            let task = effects.spawn(shell.clone().carry_out(effect));
            owners.extend(signer.map(|signer| (task.id(), signer)));
        }
        report::core(&shell, &core, now_ms);
    }
    // What is being signed or committed comes to its end; the rest is in the ledger.
    let drained = tokio::time::timeout(Duration::from_secs(5), async {
        while effects.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        tracing::warn!("the engine stopped with effects still under way");
    }
}

/// Everything that has arrived, with all newly accepted payments in one event: they can share a batch.
fn gather(first: Event, inbox: &mut mpsc::Receiver<Event>) -> Vec<Event> {
    let mut accepted: Vec<Queued> = Vec::new();
    let mut events = Vec::new();
    let mut next = Some(first);
    while let Some(event) = next {
        match event {
            Event::Accepted(payments) => accepted.extend(payments),
            other => events.push(other),
        }
        next = inbox.try_recv().ok();
    }
    if !accepted.is_empty() {
        events.push(Event::Accepted(accepted));
    }
    events
}
