//! Processes, nodes, clients and the ledger under one seeded scheduler.
//!
//! Nothing happens but by a job that the scheduler takes from its queue: an effect of a core begins (its write or its
//! send is done), the answer arrives, a block is sealed, a client asks, a fault strikes. Between any two jobs a process
//! may crash, pause, or lose a lease; what it had under way is then gone, or goes on later with what it knew.
//!
//! A long file, because the scheduler and what it schedules share everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, keccak256};
use teller_chain::{FeePolicy, LocalSigner};
use teller_domain::{BlockRef, ChainId, FencedLane, ProcessId, SlotId};
use teller_store::{Duty, Ledger, Spending};
use uuid::Uuid;

use super::approvals::GIVES;
use super::checker::Checker;
use super::clients::Client;
use super::model::chain::{Chain, ChainRules, Sealed};
use super::model::endpoint::Endpoint;
use super::model::pool::{Pool, PoolRules};
use super::model::state::{Account, State};
use super::model::transaction::Transaction;
use super::rng::Rng;
use super::stage::{Odds, Stage};
use super::switches::Switch;
use crate::core::{BatchLimits, Budgets, Core, CoreConfig, Effect, Event, Funds};

/// The chain's time when a simulation begins.
pub const EPOCH: u64 = 1_800_000_000;
pub const BLOCK_MS: u64 = 2_000;
/// Clients come, and faults strike, for this long.
pub const CHAOS_MS: u64 = 60_000;
/// Then everything must come to its end within this time.
pub const QUIET_MS: u64 = 400_000;
/// How long a process that starts takes to look at what happened while nothing ran.
const SETTLE_IN_MS: u64 = 5_000;
/// How far below the head the finalized block is; no reorg goes deeper, and no node is further behind.
pub const FINAL_DEPTH: u64 = 10;
pub const SAFE_DEPTH: u64 = 5;
/// What verify leaves of an authorization's validity, and half of it for the core.
pub const CUTOFF_SECONDS: u64 = 3;
pub const TOKEN: Address = Address::repeat_byte(0x11);
/// A lease that ends only when the simulator acts as time.
pub const FOR_EVER_MS: u64 = 1 << 40;

#[derive(Debug)]
pub enum Job {
    Seal,
    Follow(usize),
    Strike,
    Tick(usize),
    Watch(usize),
    Poll(usize),
    Begin(usize, Effect, u32),
    Hear(usize, Event),
    Arrive(usize, Arc<Transaction>),
    Client(usize),
    Claim(usize, Address),
    Operator(Address),
    SignOff(usize),
}

pub struct Process {
    pub id: ProcessId,
    /// A restarted process is another one: what the old one had under way is void.
    pub life: u64,
    pub core: Core,
    pub alive: bool,
    pub paused_until_ms: u64,
    /// The chain as its watcher has seen it.
    pub seen: Vec<BlockRef>,
    /// The chain as its core has been told of it.
    pub told: Vec<BlockRef>,
    pub endpoint: usize,
    pub fences: BTreeMap<Address, FencedLane>,
    pub restarts_at_ms: u64,
    /// It has been told to end.
    pub draining: bool,
    pub budgets: Budgets,
    pub ceiling: Option<u128>,
    /// What it has been told that settling has cost.
    pub spent: Spending,
    /// What it has been told that its signers have.
    pub funds: BTreeMap<Address, Funds>,
    /// Its monotonic clock is ahead of the simulation's by this: it began some time, and stands while the machine sleeps.
    pub clock_ahead_ms: u64,
}

pub struct World<'a> {
    pub stage: &'a Stage,
    pub rng: Rng,
    pub odds: Odds,
    pub seed: u64,
    pub off: Option<Switch>,
    pub now_ms: u64,
    pub chain_id: ChainId,
    pub chain: Chain,
    /// Where blocks are built.
    pub builder: Pool,
    pub endpoints: Vec<Endpoint>,
    pub flashblock: Option<Arc<Sealed>>,
    pub processes: Vec<Process>,
    pub signers: Vec<Address>,
    pub withheld: BTreeMap<B256, u64>,
    /// Strangers' transactions with a signer's key: a reorg mostly drops them for good.
    pub stolen: BTreeSet<B256>,
    pub stuck_until_ms: u64,
    /// 30 is none.
    pub skew_seconds: u64,
    pub clients: Vec<Client>,
    pub check: Checker,
    pub quiet: bool,
    jobs: BTreeMap<(u64, u64, u64), (u64, Job)>,
    sequence: u64,
    pub ids: u64,
    pub trace: Option<Vec<String>>,
}

impl<'a> World<'a> {
    pub fn new(stage: &'a Stage, seed: u64, off: Option<Switch>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let chain_id = ChainId(1_000_000 + seed);
        let hard = |rng: &mut Rng, most: u64| if rng.chance(300) { 0 } else { rng.below(most) };
        let odds = Odds {
            write_lost: hard(&mut rng, 60),
            answer_lost: hard(&mut rng, 60),
            node_fails: hard(&mut rng, 200),
            late: hard(&mut rng, 200),
            strike: 100 + rng.below(500),
        };
        let lanes = rng.between(1, 3) as usize;
        let signers: Vec<Address> = stage.signers[..lanes]
            .iter()
            .map(LocalSigner::address)
            .collect();
        let mut state = State::default();
        for signer in &signers {
            let account = Account {
                wei: U256::from(10).pow(U256::from(20)),
                nonce: rng.below(4),
                ..Account::default()
            };
            state.accounts.insert(*signer, account);
        }
        let skew_seconds = if rng.chance(500) { 30 } else { rng.below(61) };
        let genesis = Sealed {
            block: BlockRef {
                number: 100,
                hash: keccak256(seed.to_be_bytes()),
            },
            parent: B256::ZERO,
            timestamp: EPOCH - 30 + skew_seconds,
            base_fee: 1_000_000_000,
            gas_used: 80_000_000,
            receipts: Vec::new(),
            state: Arc::new(state),
        };
        let head = genesis.block.hash;
        let chain = Chain::new(ChainRules::base(TOKEN), genesis);
        let pool = Pool::new(PoolRules::GETH);
        let endpoints = (0..rng.between(2, 3))
            .map(|_| Endpoint::new(head, pool.clone()))
            .collect();
        let mut world = Self {
            stage,
            odds,
            seed,
            off,
            now_ms: 0,
            chain_id,
            chain,
            builder: pool,
            endpoints,
            flashblock: None,
            processes: Vec::new(),
            signers,
            withheld: BTreeMap::new(),
            stolen: BTreeSet::new(),
            skew_seconds,
            stuck_until_ms: 0,
            clients: Vec::new(),
            check: Checker::default(),
            quiet: false,
            jobs: BTreeMap::new(),
            sequence: 0,
            ids: 0,
            trace: traced.then(Vec::new),
            rng,
        };
        for endpoint in &mut world.endpoints {
            endpoint.log_lag = world.rng.between(0, 2);
        }
        let genesis = world.chain.head().block;
        world.use_keys_before(genesis);
        for _ in 0..world.rng.between(1, 3) {
            world.add_process();
        }
        world.plan_clients();
        world.schedule(BLOCK_MS, Job::Seal);
        world.schedule(1_000, Job::Strike);
        for endpoint in 0..world.endpoints.len() {
            world.schedule(100, Job::Follow(endpoint));
        }
        world
    }

    fn config(&mut self) -> CoreConfig {
        CoreConfig {
            chain: self.chain_id,
            depth: self.rng.between(1, 3) as usize,
            limits: BatchLimits {
                max_items: 6,
                max_gas: 16_000_000,
                linger_ms: 300,
            },
            block_interval_ms: BLOCK_MS,
            cutoff_seconds: CUTOFF_SECONDS,
            fees: FeePolicy {
                tip_floor: 1_000_000,
                max_fee_ceiling: self.draw_ceiling(),
                ..FeePolicy::default()
            },
            budgets: self.draw_budgets(),
            approvals: Some(GIVES),
            flashblocks: self.seed.is_multiple_of(2),
        }
    }

    fn fresh_core(&mut self) -> (Core, CoreConfig) {
        let config = self.config();
        let mut core = Core::new(config.clone());
        if let Some(Switch::Core(rule)) = self.off {
            core.switch_off(rule);
        }
        (core, config)
    }

    pub fn fresh_uuid(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128((u128::from(self.chain_id.0) << 64) | u128::from(self.ids))
    }

    fn add_process(&mut self) {
        let index = self.processes.len();
        let (core, config) = self.fresh_core();
        let process = Process {
            id: ProcessId(self.fresh_uuid()),
            life: 0,
            core,
            alive: true,
            paused_until_ms: 0,
            seen: Vec::new(),
            told: Vec::new(),
            endpoint: self.rng.index(self.endpoints.len()),
            fences: BTreeMap::new(),
            restarts_at_ms: 0,
            draining: false,
            budgets: config.budgets,
            ceiling: config.fees.max_fee_ceiling,
            spent: Spending::default(),
            funds: BTreeMap::new(),
            clock_ahead_ms: self.rng.below(1_000_000),
        };
        self.processes.push(process);
        self.start(index);
    }

    /// A process begins: it registers, and its loops run.
    fn start(&mut self, index: usize) {
        let id = self.processes[index].id;
        let beat = self.stage.ledger.heartbeat(id, Duty::Answers, FOR_EVER_MS);
        self.stage.runtime.block_on(beat).unwrap();
        let jitter = self.rng.below(400);
        // What is spent already is known before the first batch is formed.
        let spending = self.spending();
        self.hear(index, Event::Spent(spending));
        self.schedule(10 + jitter, Job::Watch(index));
        self.schedule(20 + jitter, Job::Tick(index));
        self.schedule(30 + jitter, Job::Poll(index));
    }

    /// All that a process had in memory or under way is gone; the ledger stays.
    pub fn crash(&mut self, index: usize, back_in_ms: u64) {
        let (core, config) = self.fresh_core();
        let clock_ahead_ms = self.rng.below(1_000_000);
        let process = &mut self.processes[index];
        process.alive = false;
        process.life += 1;
        process.core = core;
        process.draining = false;
        process.budgets = config.budgets;
        process.ceiling = config.fees.max_fee_ceiling;
        process.seen.clear();
        process.told.clear();
        process.fences.clear();
        process.funds.clear();
        process.paused_until_ms = 0;
        process.restarts_at_ms = self.now_ms + back_in_ms;
        process.clock_ahead_ms = clock_ahead_ms;
        self.check.forget_company(index);
        self.check.cares.retain(|(of, _), _| *of != index);
        self.check.stalls.retain(|(of, _), _| *of != index);
        self.note(|| format!("p{index} crashes"));
    }

    pub fn restart(&mut self, index: usize) {
        let id = ProcessId(self.fresh_uuid());
        if self.processes.iter().all(|process| !process.alive) {
            self.check.informed_from_ms = self.now_ms + SETTLE_IN_MS;
        }
        let process = &mut self.processes[index];
        process.id = id;
        process.alive = true;
        self.note(|| format!("p{index} starts"));
        self.start(index);
    }

    pub fn schedule(&mut self, in_ms: u64, job: Job) {
        self.sequence += 1;
        let life = match &job {
            Job::Tick(p)
            | Job::Watch(p)
            | Job::Poll(p)
            | Job::Begin(p, ..)
            | Job::Hear(p, ..)
            | Job::Claim(p, ..)
            | Job::SignOff(p) => self.processes[*p].life,
            _ => 0,
        };
        let place = (self.now_ms + in_ms, self.rng.next(), self.sequence);
        self.jobs.insert(place, (life, job));
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} {}", self.now_ms, what()));
        }
    }

    pub fn broken(&mut self, what: String) {
        self.note(|| format!("BROKEN {what}"));
        self.check.violations.push(what);
    }

    /// Runs the seed to its end; the first violation ends it at once.
    pub fn run(&mut self) -> Result<(), String> {
        while self.now_ms < CHAOS_MS {
            self.step()?;
        }
        self.calm();
        let deadline = self.now_ms + QUIET_MS;
        loop {
            self.step()?;
            if self.check.events.is_multiple_of(400) && self.is_resolved() {
                break;
            }
            if self.now_ms > deadline {
                let open = self.unresolved();
                return Err(format!(
                    "liveness: not resolved after {QUIET_MS} ms of quiet: {open}"
                ));
            }
        }
        self.compare_ledger_and_chain();
        self.check.violations.first().cloned().map_or(Ok(()), Err)
    }

    fn step(&mut self) -> Result<(), String> {
        let Some(((due, _, _), (life, job))) = self.jobs.pop_first() else {
            return Err("nothing is left to do".to_owned());
        };
        self.now_ms = self.now_ms.max(due);
        self.check.events += 1;
        let of = match &job {
            Job::Tick(p)
            | Job::Watch(p)
            | Job::Poll(p)
            | Job::Begin(p, ..)
            | Job::Hear(p, ..)
            | Job::Claim(p, ..)
            | Job::SignOff(p) => Some(*p),
            _ => None,
        };
        if let Some(p) = of {
            let process = &self.processes[p];
            if !process.alive || process.life != life {
                return Ok(());
            }
            if process.paused_until_ms > self.now_ms {
                let wait = process.paused_until_ms - self.now_ms;
                let jitter = self.rng.below(50);
                self.schedule(wait + jitter, job);
                return Ok(());
            }
        }
        self.carry_out(job);
        self.check.violations.first().cloned().map_or(Ok(()), Err)
    }

    fn carry_out(&mut self, job: Job) {
        match job {
            Job::Seal => self.seal(),
            Job::Follow(endpoint) => self.follow(endpoint),
            Job::Strike => self.strike(),
            Job::Tick(p) => {
                self.hear(p, Event::Tick);
                let pause = if self.quiet { 500 } else { 250 };
                self.schedule(pause, Job::Tick(p));
            }
            Job::Watch(p) => self.watch(p),
            Job::Poll(p) => self.poll(p),
            Job::Begin(p, effect, tries) => self.begin(p, effect, tries),
            Job::Hear(p, event) => self.hear(p, event),
            Job::Arrive(endpoint, transaction) => {
                self.submit(endpoint, transaction);
            }
            Job::Client(client) => self.serve(client),
            Job::Claim(p, signer) => self.claim(p, signer),
            Job::Operator(signer) => self.thaw(signer),
            Job::SignOff(p) => self.sign_off(p),
        }
    }

    /// A core hears something, and what it asks for is begun a little later.
    pub fn hear(&mut self, p: usize, event: Event) {
        self.hear_all(p, vec![event]);
    }

    pub fn hear_all(&mut self, p: usize, events: Vec<Event>) {
        for event in &events {
            self.learn(p, event);
            self.note_news(p, event);
            if !matches!(event, Event::Tick | Event::Block(_) | Event::Levels { .. }) {
                self.note(|| format!("p{p} hears {}", short(event)));
            }
        }
        let now = self.clock(p);
        let effects = self.processes[p].core.handle(events, now);
        for effect in effects {
            self.note(|| format!("p{p} asks {}", short(&effect)));
            self.check_asked(p, &effect);
            self.note_care(p, &effect);
            let delay = self.latency();
            self.schedule(delay, Job::Begin(p, effect, 0));
        }
        self.check_stalls(p);
    }

    /// What a process's own clock shows.
    pub fn clock(&self, p: usize) -> u64 {
        self.now_ms + self.processes[p].clock_ahead_ms
    }

    /// The chain's time, which may be half a minute off everybody else's.
    pub fn chain_seconds(&self) -> u64 {
        EPOCH + self.now_ms / 1_000 - 30 + self.skew_seconds
    }

    /// The checker follows what the core has been told of the chain.
    fn learn(&mut self, p: usize, event: &Event) {
        let told = &mut self.processes[p].told;
        match event {
            Event::Ancestry(headers) => told.extend(headers.iter().copied()),
            Event::Block(block) => {
                told.retain(|known| known.number < block.block.number);
                told.push(block.block);
            }
            Event::Spent(spending) => self.processes[p].spent = spending.clone(),
            Event::Reorg { from } => told.retain(|known| known.number < *from),
            Event::BlocksChecked { canonical, .. } => {
                let newest = told.last().map_or(0, |last| last.number);
                let older = canonical.iter().filter(|block| block.number <= newest);
                self.check.verified.extend(older.map(|block| block.hash));
            }
            _ => {}
        }
    }

    pub fn latency(&mut self) -> u64 {
        if self.rng.chance(self.odds.late) {
            self.check.fault("late answer");
            return self.rng.between(500, 6_000);
        }
        self.rng.between(1, 60)
    }

    pub fn answer(&mut self, p: usize, event: Event) {
        let delay = self.latency();
        // What a process says to itself it says once; nodes and the ledger's hints may repeat themselves.
        let repeats = matches!(
            event,
            Event::Accepted(_)
                | Event::Sent { .. }
                | Event::Found { .. }
                | Event::LookedUp { .. }
                | Event::Investigated { .. }
                | Event::ApprovalsSeen { .. }
                | Event::BlocksChecked { .. }
                | Event::ModeRead { .. }
        );
        let twice = repeats && self.rng.chance(self.odds.late / 4);
        if twice {
            self.check.fault("answer twice");
            let again = self.latency();
            self.schedule(again, Job::Hear(p, event.clone()));
        }
        self.schedule(delay, Job::Hear(p, event));
    }

    pub fn node_fails(&mut self, endpoint: usize) -> bool {
        let down = self.endpoints[endpoint].down_until_ms > self.now_ms;
        let fails = down || self.rng.chance(self.odds.node_fails);
        if fails {
            self.check.fault("node fails");
        }
        fails
    }

    pub fn slot(&self, signer: Address, nonce: u64) -> SlotId {
        SlotId {
            chain: self.chain_id,
            signer,
            nonce: teller_domain::AccountNonce(nonce),
        }
    }

    pub fn signer_of(&self, address: Address) -> &LocalSigner {
        let found = self
            .stage
            .signers
            .iter()
            .find(|signer| signer.address() == address);
        found.expect("one of ours")
    }

    /// No faults from now on; whoever is down comes back, whoever is poor is given money.
    fn calm(&mut self) {
        self.quiet = true;
        self.odds = Odds::default();
        self.note(|| "quiet".to_owned());
        self.withheld.clear();
        self.stuck_until_ms = 0;
        let head = self.chain.head().block.hash;
        for endpoint in &mut self.endpoints {
            endpoint.view = head;
            endpoint.lags_until_ms = 0;
            endpoint.down_until_ms = 0;
            endpoint.forgets_until_ms = 0;
            endpoint.blind_until_ms = 0;
            endpoint.indexing_until_ms = 0;
        }
        let signers: BTreeSet<Address> = self.signers.iter().copied().collect();
        self.chain.cheat(|state| {
            state.takes_fee = false;
            for signer in signers {
                state.accounts.entry(signer).or_default().wei = U256::from(10).pow(U256::from(20));
            }
        });
        self.chain.set_next_base_fee(1_000_000_000);
        self.end_orders();
        for index in 0..self.processes.len() {
            if !self.processes[index].alive {
                self.restart(index);
            }
        }
    }
}

/// A debug line without the bulk.
pub fn short(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    let mut out = String::with_capacity(text.len());
    let mut hex = 0;
    for c in text.chars() {
        hex = if c.is_ascii_hexdigit() || c == 'x' {
            hex + 1
        } else {
            0
        };
        if hex <= 8 {
            out.push(c);
        }
    }
    out.chars().take(1_500).collect()
}

/// Somebody who is none of ours. His address in the model is not his key's.
pub fn stranger() -> LocalSigner {
    LocalSigner::from_hex(&keccak256("a stranger").to_string()).unwrap()
}
