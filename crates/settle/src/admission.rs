//! Whether new payments would be settled now: is there a lane that takes them, and does the operator want to pay their gas?
//! Verify and settle ask here first, so that nothing is accepted only to wait in vain.
//!
//! What a process's own engine knows is told at once. What other processes do is read from the ledger and the chain every
//! [`LOOK_PERIOD`], as far as it is needed: by a process without an engine, or while not every lane is its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, U256};
use metrics::gauge;
use teller_chain::{HeadHandle, Nodes};
use teller_domain::{
    ChainId, LaneMode, Payment, ProcessId, Reason, Refusal, TenantId, UnixMillis, Wei,
};
use teller_store::{Ledger, StoreResult};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::chores::midnight;
use crate::core::{CoreConfig, fits_alone, gas_limit};
use crate::engine::stopping;
use crate::recover::millis;

/// How often lanes of other processes are looked for in the ledger, and their signers' balances on the chain.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// How often a process without an engine asks the ledger what was spent today.
const SPENDING_PERIOD: Duration = Duration::from_secs(10);
/// A lane that is between two owners counts as usable for so long.
const LANE_PATIENCE: Duration = Duration::from_secs(3);
/// What was seen this long ago says nothing any more: payments are accepted then, for the ledger decides.
const SEEN_FOR: Duration = Duration::from_secs(60);
/// A lane whose lease ran out so many leases ago has nobody who settles.
const UNTAKEN_LEASES: u64 = 2;
/// How often metrics and log are brought up to date.
const REPORT_PERIOD: Duration = Duration::from_millis(500);

/// Why no new payment is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The operator does not want to pay its gas, as the reason says.
    Refused(Refusal),
    /// The lanes that could settle it are stopped by an operator or have no money, until somebody does something.
    Halted,
    /// No process has a lane that could settle it.
    NoLane,
}

/// Who can settle on a network, as far as one observer knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Signers whose lanes take batches.
    pub(crate) usable: Vec<Address>,
    /// Signers whose lanes take none until somebody does something: stopped by an operator, or without money.
    pub(crate) halted: Vec<Address>,
    /// Whether the day's budget is spent.
    pub(crate) spent: bool,
    /// Tenants whose own budgets are spent.
    pub(crate) stopped: Vec<TenantId>,
    /// The tip that a node suggests, wei for each unit of gas.
    pub(crate) tip: u128,
}

/// A capacity with the moments that matter.
#[derive(Debug)]
struct Seen {
    capacity: Capacity,
    at: Instant,
    /// Since when a signer's lane was not among the usable ones.
    away: HashMap<Address, Instant>,
}

/// Where one observer writes. Nothing is known before it does.
#[derive(Debug, Clone)]
pub(crate) struct Observer {
    signers: Vec<Address>,
    seen: watch::Sender<Option<Seen>>,
}

impl Observer {
    fn new(signers: Vec<Address>) -> Self {
        let seen = watch::Sender::new(None);
        Self { signers, seen }
    }

    /// Notes what is so now.
    pub(crate) fn note(&self, capacity: Capacity) {
        let now = Instant::now();
        self.seen.send_modify(|seen| {
            let mut away = seen.take().map(|seen| seen.away).unwrap_or_default();
            for signer in &self.signers {
                match capacity.usable.contains(signer) {
                    true => drop(away.remove(signer)),
                    false => drop(away.entry(*signer).or_insert(now)),
                }
            }
            *seen = Some(Seen {
                capacity,
                at: now,
                away,
            });
        });
    }
}

impl Observer {
    fn halted(&self) -> Vec<Address> {
        let seen = self.seen.borrow();
        let halted = seen.as_ref().map(|seen| seen.capacity.halted.clone());
        halted.unwrap_or_default()
    }
}

impl Seen {
    /// Whether the signer's lane takes batches, or will in a moment.
    fn has(&self, signer: Address) -> bool {
        let away = self.away.get(&signer);
        away.is_none_or(|since| {
            !self.capacity.halted.contains(&signer) && since.elapsed() < LANE_PATIENCE
        })
    }
}

/// What admission must know of a network.
#[derive(Debug, Clone)]
pub struct AdmissionParts {
    /// Fees, budgets and bounds, as the engine has them.
    pub core: CoreConfig,
    /// Its endpoints.
    pub nodes: Nodes,
    /// Its sealed blocks.
    pub heads: HeadHandle,
    /// Its signers.
    pub signers: Vec<Address>,
}

#[derive(Debug)]
struct Network {
    parts: AdmissionParts,
    /// What this process's own engine knows; none in a process without one.
    own: Option<Observer>,
    /// What is seen of other processes.
    others: Observer,
}

/// Whether new payments would be settled now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Admission(Arc<BTreeMap<ChainId, Network>>);

impl Admission {
    pub(crate) fn new(networks: Vec<AdmissionParts>, has_engine: bool) -> Self {
        let networks = networks.into_iter().map(|parts| {
            let network = Network {
                own: has_engine.then(|| Observer::new(parts.signers.clone())),
                others: Observer::new(parts.signers.clone()),
                parts,
            };
            (network.parts.core.chain, network)
        });
        Self(Arc::new(networks.collect()))
    }

    /// Where the engine of a network says what it knows.
    pub(crate) fn observer(&self, chain: ChainId) -> Option<Observer> {
        self.0.get(&chain).and_then(|network| network.own.clone())
    }

    /// Whether a new payment of this tenant would be settled now.
    ///
    /// # Errors
    /// Why not. What charges nothing needs neither gas nor a lane.
    pub fn check(&self, payment: &Payment, tenant: &TenantId) -> Result<(), Closed> {
        let network = self.0.get(&payment.key.chain);
        let Some(network) = network.filter(|_| !payment.charges_nothing()) else {
            return Ok(());
        };
        network.affords(payment, tenant).map_err(Closed::Refused)?;
        let facilitator = payment.facilitator();
        match (
            network.has_lane(facilitator),
            network.is_halted(facilitator),
        ) {
            (true, _) => Ok(()),
            (false, true) => Err(Closed::Halted),
            (false, false) => Err(Closed::NoLane),
        }
    }

    /// What holds payments of every tenant back on a network, and its signers without money: for `/readyz`.
    pub fn notes(&self, chain: ChainId) -> Vec<&'static str> {
        let Some(network) = self.0.get(&chain) else {
            return Vec::new();
        };
        let notes = network.causes();
        let notes = notes.into_iter().filter(|(_, holds)| *holds);
        notes.map(|(note, _)| note).collect()
    }

    /// Looks at what other processes do, until it is told to stop.
    pub(crate) async fn look(
        self,
        chain: ChainId,
        ledger: Arc<dyn Ledger>,
        process: ProcessId,
        lease: Duration,
        stopped: watch::Receiver<bool>,
    ) {
        let Some(network) = self.0.get(&chain) else {
            return;
        };
        let mut seen = Capacity::default();
        let mut spending_read: Option<Instant> = None;
        loop {
            if network.needs_others() {
                let is_due = spending_read.is_none_or(|at| at.elapsed() >= SPENDING_PERIOD);
                let with_spending = network.own.is_none() && is_due;
                if with_spending {
                    spending_read = Some(Instant::now());
                }
                let looked =
                    network.look(&mut seen, ledger.as_ref(), process, lease, with_spending);
                match looked.await {
                    Ok(()) => network.others.note(seen.clone()),
                    Err(error) => {
                        tracing::warn!(network = %chain, %error, "the lanes of other processes could not be read")
                    }
                }
            }
            tokio::select! {
                () = stopping(stopped.clone()) => return,
                () = sleep(LOOK_PERIOD) => {}
            }
        }
    }

    /// Tells the operator whenever a network begins or ceases to refuse payments.
    pub(crate) async fn report(self, stopped: watch::Receiver<bool>) {
        let mut told: HashMap<ChainId, Reported> = HashMap::new();
        loop {
            for (chain, network) in self.0.iter() {
                network.report(*chain, told.entry(*chain).or_default());
            }
            tokio::select! {
                () = stopping(stopped.clone()) => return,
                () = sleep(REPORT_PERIOD) => {}
            }
        }
    }
}

/// What was said of a network last.
#[derive(Debug, Default)]
struct Reported {
    causes: Vec<&'static str>,
    stopped: Vec<TenantId>,
}

const BUDGET: &str = "gas_budget_spent";
const CEILING: &str = "over_fee_ceiling";
const NO_LANE: &str = "no_usable_lane";
const HALTED: &str = "lane_halted";

impl Network {
    /// Whether the operator wants to pay this payment's gas now.
    fn affords(&self, payment: &Payment, tenant: &TenantId) -> Result<(), Refusal> {
        if self.is_over_ceiling() {
            let detail = "the base fee is above the operator's ceiling";
            return Err(Refusal::new(Reason::FeeCeilingExceeded, detail));
        }
        let budget = |detail: &str| Err(Refusal::new(Reason::GasBudgetExceeded, detail));
        if self.is_spent() {
            return budget("the operator's budget for gas is spent for today (UTC)");
        }
        if self.money(|capacity| capacity.stopped.contains(tenant)) {
            return budget("the tenant's budget for gas is spent for today (UTC)");
        }
        let fee = self.initial_fee();
        let (limits, most) = (
            self.parts.core.limits,
            self.parts.core.budgets.per_transaction,
        );
        if fee.is_some_and(|fee| !fits_alone(limits, most, payment, fee)) {
            return budget("its gas alone costs more than one transaction may");
        }
        Ok(())
    }

    /// Something that the engine knows best, and who has none of others.
    fn money<T: Default>(&self, read: impl Fn(&Capacity) -> T) -> T {
        let observer = self.own.as_ref().unwrap_or(&self.others);
        let seen = observer.seen.borrow();
        seen.as_ref()
            .map(|seen| read(&seen.capacity))
            .unwrap_or_default()
    }

    fn is_spent(&self) -> bool {
        self.money(|capacity| capacity.spent)
    }

    fn is_over_ceiling(&self) -> bool {
        let head = self.parts.heads.latest();
        head.is_some_and(|head| self.parts.core.fees.exceeds_ceiling(head.block.base_fee))
    }

    /// What a first attempt would pay for a unit of gas.
    fn initial_fee(&self) -> Option<u128> {
        let head = self.parts.heads.latest()?;
        let tip = self.money(|capacity| capacity.tip);
        let fees = self.parts.core.fees.initial(head.block.base_fee, tip);
        Some(fees.max_fee_per_gas)
    }

    /// Whether one of these signers' lanes takes batches: the named one's, or any.
    fn has_lane(&self, facilitator: Option<Address>) -> bool {
        // One that names somebody else is for verification to refuse.
        let is_elsewhere = self.wanted(facilitator).next().is_none();
        is_elsewhere || self.wanted(facilitator).any(|signer| self.has(signer))
    }

    fn is_halted(&self, facilitator: Option<Address>) -> bool {
        let observers = || self.own.iter().chain([&self.others]);
        let halted = |signer| observers().any(|observer| observer.halted().contains(&signer));
        self.wanted(facilitator).all(halted)
    }

    fn wanted(&self, facilitator: Option<Address>) -> impl Iterator<Item = Address> {
        let signers = self.parts.signers.iter().copied();
        signers.filter(move |signer| facilitator.is_none_or(|named| named == *signer))
    }

    /// Whether a signer's lane takes batches, here or elsewhere. What is not known does not stand in the way.
    fn has(&self, signer: Address) -> bool {
        let own = self.own.as_ref();
        let own = own.map(|own| {
            own.seen
                .borrow()
                .as_ref()
                .is_none_or(|seen| seen.has(signer))
        });
        own == Some(true) || {
            let others = self.others.seen.borrow();
            let fresh = others.as_ref().filter(|seen| seen.at.elapsed() < SEEN_FOR);
            match fresh {
                Some(seen) => seen.has(signer),
                // Of its own lanes an engine is told before it looks for those of others.
                None => own.is_none(),
            }
        }
    }

    /// Whether there may be usable lanes that this process does not have.
    fn needs_others(&self) -> bool {
        let Some(own) = &self.own else { return true };
        let seen = own.seen.borrow();
        let mut signers = self.parts.signers.iter();
        let usable = |signer| {
            seen.as_ref()
                .is_some_and(|seen| seen.capacity.usable.contains(signer))
        };
        !signers.all(usable)
    }

    /// Reads the lanes that are not this process's from the ledger, and what their signers have from the chain.
    async fn look(
        &self,
        seen: &mut Capacity,
        ledger: &dyn Ledger,
        process: ProcessId,
        lease: Duration,
        with_spending: bool,
    ) -> StoreResult<()> {
        let chain = self.parts.core.chain;
        let now = ledger.now().await?;
        let grace_ms = millis(lease).saturating_mul(UNTAKEN_LEASES);
        let (mut usable, mut halted) = (Vec::new(), Vec::new());
        if let Ok(tip) = self.parts.nodes.tip().await {
            seen.tip = tip;
        }
        let lanes = ledger.lanes().await?;
        for lane in lanes.iter().filter(|lane| lane.fence.chain == chain) {
            let signer = lane.fence.signer;
            let gone = UnixMillis(lane.lease_until.0.saturating_add(grace_ms)) <= now;
            if lane.owner == Some(process) || gone {
                continue;
            }
            match lane.mode == LaneMode::Active && self.can_pay(signer, seen.tip).await {
                true => usable.push(signer),
                false => halted.push(signer),
            }
        }
        (seen.usable, seen.halted) = (usable, halted);
        if with_spending && self.parts.core.by_day() {
            let spending = ledger.spending(chain, midnight(now)).await?;
            let budgets = &self.parts.core.budgets;
            seen.spent = budgets.is_spent(&spending);
            seen.stopped = budgets.stopped(&spending);
        }
        Ok(())
    }

    /// Whether a signer has the gas of the smallest batch. One whose balance cannot be read may have it.
    async fn can_pay(&self, signer: Address, tip: u128) -> bool {
        let Some(head) = self.parts.heads.latest() else {
            return true;
        };
        let fees = self.parts.core.fees.initial(head.block.base_fee, tip);
        let least = U256::from(gas_limit(&[])).saturating_mul(U256::from(fees.max_fee_per_gas));
        let balance = self.parts.nodes.balance(signer).await;
        balance.map_or(true, |balance| balance >= Wei(least))
    }

    /// What may hold payments of every tenant back, and whether it does.
    fn causes(&self) -> [(&'static str, bool); 4] {
        let halted = |observer: &Observer| !observer.halted().is_empty();
        let others = self.needs_others() && halted(&self.others);
        [
            (BUDGET, self.is_spent()),
            (CEILING, self.is_over_ceiling()),
            (NO_LANE, !self.has_lane(None)),
            (HALTED, others || self.own.as_ref().is_some_and(halted)),
        ]
    }

    fn report(&self, chain: ChainId, told: &mut Reported) {
        let network = chain.to_string();
        let causes = self.causes();
        for (cause, holds) in causes {
            gauge!("teller_payments_held_back", "network" => network.clone(), "cause" => cause)
                .set(f64::from(u8::from(holds)));
        }
        let causes: Vec<_> = causes
            .iter()
            .filter(|(_, holds)| *holds)
            .map(|(cause, _)| *cause)
            .collect();
        if causes != told.causes {
            match causes.is_empty() {
                true => tracing::info!(network, "nothing holds payments back any more"),
                false => tracing::warn!(
                    network,
                    ?causes,
                    "payments are held back; what no lane is left for, and all over a budget or the ceiling, is refused"
                ),
            }
            told.causes = causes;
        }
        let stopped = self.money(|capacity| capacity.stopped.clone());
        gauge!("teller_tenants_over_budget", "network" => network.clone())
            .set(stopped.len() as f64);
        if stopped != told.stopped {
            let tenants: Vec<_> = stopped.iter().map(TenantId::as_str).collect();
            tracing::warn!(
                network,
                ?tenants,
                "tenants whose budgets for gas are spent for today; their new payments are refused"
            );
            told.stopped = stopped;
        }
    }
}
