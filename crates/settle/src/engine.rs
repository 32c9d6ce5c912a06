//! The shell around the core: one task a network that feeds it events and has its effects carried out.
//!
//! A long file, because starting, running and ending it are one story.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::Address;
use teller_chain::{HeadHandle, Inspector, LocalSigner, Nodes};
use teller_domain::{AuthorizationKey, ChainId, FencedLane, ProcessId, SlotId, TenantId};
use teller_store::{Ledger, Reservations, StoreError};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, AdmissionParts, Observer};
use crate::core::{Core, CoreConfig, Effect, Event, Queued};
use crate::feed::Feed;
use crate::handle::Settler;
use crate::report;
use crate::share::{Holding, Holdings};
use crate::waiters::Waiters;

/// Events that may wait for the core. Beyond this, whoever accepts payments waits.
const EVENT_QUEUE: usize = 16_384;

/// How often the core looks at its clock while anything is open.
const TICK: Duration = Duration::from_millis(20);

/// How long what is being signed, committed or sent may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// How long giving successes back that reached nobody may take to end at shutdown.
const RELEASES_PATIENCE: Duration = Duration::from_secs(20);

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

impl NetworkParts {
    fn admission(&self) -> AdmissionParts {
        AdmissionParts {
            core: self.core.clone(),
            nodes: self.nodes.clone(),
            heads: self.heads.clone(),
            signers: self.signers.iter().map(LocalSigner::address).collect(),
        }
    }
}

/// Periods of the engine's own chores.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// How long a lane stays this process's without renewal.
    pub lease: Duration,
    /// How often it is renewed: a few times in a lease.
    pub renew: Duration,
    /// How often the ledger is asked for accepted payments and outcomes that no event told of.
    pub poll: Duration,
    /// Who accepts the payments that this process settles.
    pub intake: Intake,
}

/// Who accepts the payments that a process settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// Mostly the process itself, which announces them: the ledger is polled for what others accept.
    Own,
    /// Others: every hint of the ledger is followed up.
    Others,
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

/// How much the core has to do, and how much more it could.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Appetite {
    /// Accepted payments that it could make use of beside those that it has.
    pub(crate) more: usize,
    /// Those that wait for a slot and may enter one.
    pub(crate) queued: usize,
    /// Tenants whose payments may enter none.
    pub(crate) stopped: Vec<TenantId>,
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
    pub(crate) holdings: Mutex<Holdings>,
    /// Lanes are claimed one after the other, so that the ledger counts those that this process has.
    pub(crate) claiming: Semaphore,
    /// When each open slot was opened, by the ledger's clock but as a moment of this process.
    pub(crate) opened: Mutex<HashMap<SlotId, Instant>>,
    /// Payments whose holds may be marked as mined and should not be.
    unmined: Mutex<HashSet<AuthorizationKey>>,
    pub(crate) appetite: watch::Sender<Appetite>,
    /// Who asks whether new payments would be settled.
    observer: Option<Observer>,
    /// Wakes whoever claims accepted payments.
    pub(crate) claims: Notify,
    pub(crate) status: watch::Sender<EngineStatus>,
    pub(crate) stopped: watch::Receiver<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shell {
    pub(crate) fn chain(&self) -> ChainId {
        self.parts.core.chain
    }

    /// Tells the core. A core that is gone has been shut down: the ledger has everything.
    pub(crate) async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    pub(crate) fn holdings(&self) -> Vec<Holding> {
        self.held().all()
    }

    /// The lanes that this process holds.
    pub(crate) fn held(&self) -> MutexGuard<'_, Holdings> {
        lock(&self.holdings)
    }

    pub(crate) fn fence(&self, signer: Address) -> Option<FencedLane> {
        self.held().fence(signer)
    }

    pub(crate) fn note_opened(&self, id: SlotId) {
        lock(&self.opened).insert(id, Instant::now());
    }

    pub(crate) fn note_closed(&self, id: SlotId) {
        lock(&self.opened).remove(&id);
    }

    /// What is open on a lane, and since when.
    pub(crate) fn note_recovered(&self, signer: Address, slots: &[(SlotId, Instant)]) {
        let mut opened = lock(&self.opened);
        opened.retain(|id, _| id.signer != signer);
        opened.extend(slots.iter().copied());
    }

    /// How long the oldest slot has been open.
    pub(crate) fn oldest_open(&self) -> Duration {
        let oldest = lock(&self.opened).values().min().copied();
        oldest.map_or(Duration::ZERO, |opened| opened.elapsed())
    }

    pub(crate) fn note_unmined(&self, keys: impl IntoIterator<Item = AuthorizationKey>) {
        lock(&self.unmined).extend(keys);
    }

    pub(crate) fn take_unmined(&self) -> Vec<AuthorizationKey> {
        lock(&self.unmined).drain().collect()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopped.borrow()
    }
}

/// The running engines of all networks.
pub struct Engine {
    shells: Vec<Arc<Shell>>,
    ledger: Arc<dyn Ledger>,
    process: ProcessId,
    stop: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    releases: TaskTracker,
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
        let admission =
            Admission::new(networks.iter().map(NetworkParts::admission).collect(), true);
        let mut engines = HashMap::new();
        let mut shells = Vec::new();
        let mut tasks = Vec::new();
        for parts in networks {
            let (events, inbox) = mpsc::channel(EVENT_QUEUE);
            engines.insert(parts.core.chain, events.clone());
            let signers = parts.signers.len();
            let observer = admission.observer(parts.core.chain);
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
                holdings: Mutex::new(Holdings::new(signers, timings.lease)),
                claiming: Semaphore::new(1),
                opened: Mutex::default(),
                unmined: Mutex::default(),
                appetite: watch::Sender::new(Appetite::default()),
                observer,
                claims: Notify::new(),
                status: watch::Sender::new(EngineStatus::Starting),
                stopped: stopped.clone(),
            });
            tasks.push(tokio::spawn(supervise(shell.clone(), inbox)));
            tasks.push(tokio::spawn(shell.clone().prepare()));
            tasks.push(tokio::spawn(shell.clone().keep_leases()));
            tasks.push(tokio::spawn(shell.clone().spread_lanes()));
            tasks.push(tokio::spawn(shell.clone().poll_ledger()));
            tasks.push(tokio::spawn(shell.clone().watch_money()));
            tasks.push(tokio::spawn(shell.clone().watch_levels()));
            tasks.push(tokio::spawn(shell.clone().watch_spending()));
            shells.push(shell);
        }
        let chains = shells.iter().map(|shell: &Arc<Shell>| shell.chain());
        let (lease, looking) = (timings.lease, stopped);
        tasks.extend(watch_admission(
            &admission, chains, &ledger, process, lease, &looking,
        ));
        let releases = TaskTracker::new();
        let engine = Self {
            shells,
            ledger: ledger.clone(),
            process,
            stop,
            tasks,
            releases: releases.clone(),
        };
        let settler = Settler::new(ledger, reservations, waiters, engines, process, releases);
        (engine, settler.admitting(admission))
    }

    /// A handle without an engine, for a process that only answers requests: other processes settle what it accepts.
    pub fn remote(
        ledger: Arc<dyn Ledger>,
        reservations: Arc<dyn Reservations>,
        process: ProcessId,
        poll: Duration,
    ) -> (Self, Settler) {
        // The lease is of no use where no lane is looked for.
        Self::remote_to(Vec::new(), ledger, reservations, process, poll, poll)
    }

    /// The same, which looks at the lanes of these networks: payments that no process would settle are not accepted.
    pub fn remote_to(
        networks: Vec<AdmissionParts>,
        ledger: Arc<dyn Ledger>,
        reservations: Arc<dyn Reservations>,
        process: ProcessId,
        poll: Duration,
        lease: Duration,
    ) -> (Self, Settler) {
        let waiters = Waiters::default();
        let (stop, stopped) = watch::channel(false);
        let chains: Vec<_> = networks.iter().map(|parts| parts.core.chain).collect();
        let admission = Admission::new(networks, false);
        let looking = chains.into_iter();
        let mut tasks = watch_admission(&admission, looking, &ledger, process, lease, &stopped);
        let watcher = crate::chores::watch_outcomes(ledger.clone(), waiters.clone(), poll, stopped);
        tasks.push(tokio::spawn(watcher));
        let releases = TaskTracker::new();
        (
            Self {
                shells: Vec::new(),
                ledger: ledger.clone(),
                process,
                stop,
                tasks,
                releases: releases.clone(),
            },
            Settler::new(
                ledger,
                reservations,
                waiters,
                HashMap::new(),
                process,
                releases,
            )
            .admitting(admission),
        )
    }

    /// How each network's engine is.
    pub fn status(&self) -> Vec<(ChainId, watch::Receiver<EngineStatus>)> {
        self.shells
            .iter()
            .map(|shell| (shell.chain(), shell.status.subscribe()))
            .collect()
    }

    /// Opens no more slots, lets what is being signed or committed end, hands the lanes and the queue over, and gives back
    /// what reached nobody. What is open stays in the ledger for whoever comes next. Answers must have ended before.
    pub async fn shutdown(self) {
        // Receivers that are gone have stopped already.
        let _ = self.stop.send(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the engine did not end well");
            }
        }
        for shell in self.shells {
            for Holding { fence, .. } in shell.holdings() {
                if let Err(error) = shell.ledger.release_lane(fence).await {
                    tracing::warn!(signer = %fence.signer, %error, "a lane was not handed over; its lease will run out");
                }
            }
        }
        self.releases.close();
        if timeout(RELEASES_PATIENCE, self.releases.wait())
            .await
            .is_err()
        {
            tracing::error!("successes that reached nobody could not be given back");
        }
        if let Err(error) = self.ledger.deregister(self.process).await {
            tracing::warn!(%error, "this process was not signed off; its lease will run out");
        }
    }
}

/// Looks at what others settle on each network, and tells the operator when payments are refused.
fn watch_admission(
    admission: &Admission,
    chains: impl Iterator<Item = ChainId>,
    ledger: &Arc<dyn Ledger>,
    process: ProcessId,
    lease: Duration,
    stopped: &watch::Receiver<bool>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let looks = chains.map(|chain| {
        let (admission, ledger, stopped) = (admission.clone(), ledger.clone(), stopped.clone());
        tokio::spawn(admission.look(chain, ledger, process, lease, stopped))
    });
    let mut tasks: Vec<_> = looks.collect();
    tasks.push(tokio::spawn(admission.clone().report(stopped.clone())));
    tasks
}

/// Waits until the engine is told to stop.
pub(crate) async fn stopping(mut stopped: watch::Receiver<bool>) {
    // The sender lives as long as the engine; without it there is nothing to go on for.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Runs the core; an engine that ends unasked is out of order, and says so.
async fn supervise(shell: Arc<Shell>, inbox: mpsc::Receiver<Event>) {
    let ended = tokio::spawn(run(shell.clone(), inbox)).await;
    if let Err(error) = &ended {
        tracing::error!(network = %shell.chain(), %error, "the engine's task broke");
    }
    if !shell.is_stopping() {
        shell
            .status
            .send_replace(EngineStatus::Broken(EngineError::Stopped));
    }
}

/// Effects that are being carried out.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<()>,
    /// Whose lane must be read again if the task breaks.
    owners: HashMap<tokio::task::Id, Address>,
    /// Those that write or send: shutdown waits for their end.
    writing: HashSet<tokio::task::Id>,
    /// Those that bring a lane back which the core has let go of.
    reading: HashSet<tokio::task::Id>,
}

impl UnderWay {
    fn start(&mut self, shell: &Arc<Shell>, effect: Effect) {
        let (signer, writes) = (effect.signer(), writes(&effect));
        let reads = matches!(
            effect,
            Effect::ReclaimLane { .. } | Effect::ReopenSlots { .. }
        );
        let task = self.tasks.spawn(shell.clone().carry_out(effect)).id();
        self.owners.extend(signer.map(|signer| (task, signer)));
        if writes {
            self.writing.insert(task);
        }
        if reads {
            self.reading.insert(task);
        }
    }

    /// Waits for the next end; what broke costs its lane.
    async fn ended(&mut self, shell: &Arc<Shell>) -> Vec<Event> {
        match self.tasks.join_next_with_id().await {
            None => Vec::new(),
            Some(Ok((task, ()))) => {
                self.owners.remove(&task);
                self.writing.remove(&task);
                self.reading.remove(&task);
                Vec::new()
            }
            Some(Err(error)) => {
                tracing::error!(%error, "an effect of the engine broke; its lane is read again");
                self.writing.remove(&error.id());
                let signer = self.owners.remove(&error.id());
                if let (true, Some(signer)) = (self.reading.remove(&error.id()), signer) {
                    // The core has let go of the lane and waits for it: nobody else would ask again.
                    self.start(shell, Effect::ReclaimLane { signer });
                    return Vec::new();
                }
                let fence = signer.and_then(|signer| shell.fence(signer));
                fence
                    .map(|fence| Event::LaneLost { fence })
                    .into_iter()
                    .collect()
            }
        }
    }
}

/// Whether an effect changes anything, as opposed to finding out or waiting.
fn writes(effect: &Effect) -> bool {
    match effect {
        Effect::ReadCode { .. }
        | Effect::LookAtApprovals { .. }
        | Effect::FindReceipts { .. }
        | Effect::LookUp { .. }
        | Effect::Investigate { .. }
        | Effect::CheckBlocks { .. }
        | Effect::ReopenSlots { .. }
        | Effect::ReclaimLane { .. } => false,
        Effect::Sign { .. }
        | Effect::OpenSlot { .. }
        | Effect::AddAttempt { .. }
        | Effect::Broadcast { .. }
        | Effect::SendApproval { .. }
        | Effect::Preconfirm { .. }
        | Effect::CloseSlot { .. }
        | Effect::ResolveUnexplained { .. }
        | Effect::TakeBackExternal { .. }
        | Effect::RaiseLevels { .. }
        | Effect::ResolveAccepted { .. }
        | Effect::ReleaseQueued(_)
        | Effect::ReleaseLane { .. }
        | Effect::SetMode { .. } => true,
    }
}

async fn run(shell: Arc<Shell>, mut inbox: mpsc::Receiver<Event>) {
    let mut core = Core::new(shell.parts.core.clone());
    let started = Instant::now();
    let mut feed = Feed::new(shell.parts.heads.clone());
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = UnderWay::default();
    let mut events = feed.start();
    let mut end_by: Option<Instant> = None;
    loop {
        let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !events.is_empty() {
            report::reorgs(shell.chain(), &events);
            for effect in core.handle(events, now_ms) {
                under_way.start(&shell, effect);
            }
            publish_appetite(&shell, &core);
            if let Some(observer) = &shell.observer {
                observer.note(core.capacity());
            }
            report::core(&shell, &core);
        }
        let idle_at_end = end_by.is_some() && under_way.writing.is_empty() && inbox.is_empty();
        if idle_at_end {
            return;
        }
        events = tokio::select! {
            () = stopping(shell.stopped.clone()), if end_by.is_none() => {
                end_by = Some(Instant::now() + DRAIN);
                vec![Event::Drain]
            }
            () = sleep_until(end_by.unwrap_or(started)), if end_by.is_some() => {
                tracing::warn!("the engine stopped with writes still under way");
                return;
            }
            event = inbox.recv() => match event {
                Some(event) => gather(event, &mut inbox),
                None => return,
            },
            news = feed.next() => match news {
                Some(news) => news,
                None => return,
            },
            _ = ticks.tick(), if !core.is_idle() => vec![Event::Tick],
            events = under_way.ended(&shell), if !under_way.tasks.is_empty() => events,
        };
    }
}

/// Tells those who claim accepted payments how many more the core could make use of.
fn publish_appetite(shell: &Shell, core: &Core) {
    let appetite = Appetite {
        more: core.appetite(),
        // What this process has already comes first when more is claimed.
        queued: core.queue_depth().saturating_add(core.unapproved()),
        stopped: core.stopped_tenants(),
    };
    let hungry = appetite.more > 0;
    let before = shell.appetite.send_replace(appetite);
    if before.more == 0 && hungry {
        shell.claims.notify_one();
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
