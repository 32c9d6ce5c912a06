//! Crash rounds: a load of distinct payments with some repeats, kill -9 of a random process at a random moment, a
//! restart, again and again, until every payment has its outcome and ledger, chain and answers can be compared. A seed
//! makes the schedule the same again; what the processes make of it still depends on the machine.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, U256};
use teller_devnet::{Devnet, DevnetConfig, Mining};
use teller_domain::{Asset, AssetAmount, ChainId, X402Version};
use tokio::task::JoinSet;

use crate::bench::find_binary;
use crate::cli::CrashArgs;
use crate::compare::{self, Comparison, Subject};
use crate::error::LoadError;
use crate::fleet::{Fleet, Plan, Role};
use crate::node::Node;
use crate::rest::Http;
use crate::run::FUNDS;
use crate::sellers::{Asking, Told, settle_until_told};
use crate::sign::{self, Payer};

/// Accounts that pay, in turn.
const PAYERS: usize = 200;
const PAYEES: usize = 20;
/// Of so many payments one is asked for by two sellers at once.
const REPEAT_ONE_IN: u64 = 5;
/// Sellers begin within this span of a round, and the kill falls into a slightly longer one.
const LOAD_SPAN_MS: u64 = 1_500;
const KILL_SPAN_MS: u64 = 2_000;
/// A killed process stays away for less than this.
const AWAY_MS: u64 = 400;
const PAUSE: Duration = Duration::from_millis(150);
/// Rows that sellers have given up on get this long to find their outcome.
const RESOLVED_WITHIN: Duration = Duration::from_secs(120);

/// What a crash run needs to know.
#[derive(Debug, Clone)]
pub struct Crash {
    /// The facilitator's binary.
    pub binary: PathBuf,
    /// How often a process is killed.
    pub rounds: u32,
    /// New payments a round.
    pub payments: usize,
    /// What the schedule is drawn from.
    pub seed: u64,
    /// Ledger and reservations of two API and two settler processes; without them one embedded teller is killed.
    pub stores: Option<(String, String)>,
    /// How long a seller asks at most.
    pub patience: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Rounds {
    /// What was asked for.
    pub crash: Crash,
    /// Kills, by role.
    pub kills: Vec<(&'static str, u32)>,
    /// Payments that were signed, and sellers who asked.
    pub payments: usize,
    pub sellers: usize,
    /// From the first seller to the last outcome.
    pub took: Duration,
    /// From the last restart until every row had its outcome.
    pub settled_after: Duration,
    /// Ledger, chain and answers.
    pub compared: Comparison,
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kills: Vec<_> = self
            .kills
            .iter()
            .map(|(role, n)| format!("{n} {role}"))
            .collect();
        writeln!(
            f,
            "| crash rounds, seed {} | {} |",
            self.crash.seed, self.crash.rounds
        )?;
        writeln!(f, "|---|---|")?;
        writeln!(f, "| kill -9 | {} |", kills.join(", "))?;
        writeln!(
            f,
            "| payments signed, sellers who asked | {}, {} |",
            self.payments, self.sellers
        )?;
        writeln!(f, "{}", self.compared)?;
        writeln!(
            f,
            "| last outcome after the last restart | {:.1} s |",
            self.settled_after.as_secs_f64()
        )?;
        write!(f, "| the whole run | {:.0} s |", self.took.as_secs_f64())
    }
}

/// The command.
pub async fn crash(args: CrashArgs) -> Result<(), LoadError> {
    let crash = Crash {
        binary: find_binary(args.teller.as_deref())?,
        rounds: args.rounds,
        payments: args.payments,
        seed: args.seed,
        stores: args.ledger.zip(args.reservations),
        patience: Duration::from_secs(args.patience_seconds),
    };
    let rounds = crash.run().await?;
    println!("{rounds}");
    rounds.compared.demand().map(|_| ())
}

/// SplitMix64: the same schedule for the same seed on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or(0)
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// A local chain with a fleet on it.
pub(crate) struct Town {
    pub(crate) devnet: Devnet,
    pub(crate) fleet: Fleet,
    pub(crate) node: Node,
    pub(crate) signers: Vec<Address>,
    pub(crate) plan: sign::Plan,
    pub(crate) http: Http,
}

impl Town {
    pub(crate) async fn start(
        binary: PathBuf,
        stores: Option<(String, String)>,
        seed: &str,
    ) -> Result<Self, LoadError> {
        use Role::{All, Api, Settler};
        let (roles, signers) = match stores {
            Some(_) => (vec![Api, Api, Settler, Settler], 4),
            None => (vec![All], 1),
        };
        let devnet = Devnet::start(DevnetConfig {
            mining: Mining::Interval(Duration::from_secs(1)),
            keep_blocks: 1_000_000,
            signers,
            ..DevnetConfig::default()
        })
        .await?;
        let info = devnet.info();
        let plan = plan(&devnet, seed)?;
        let holders: Vec<Address> = plan.payers.iter().map(|payer| payer.address).collect();
        teller_devnet::fund(devnet.rpc_url(), &holders, U256::from(FUNDS)).await?;
        let embedded = || ("sqlite://teller.db".to_owned(), "memory://".to_owned());
        let (ledger, reservations) = stores.unwrap_or_else(embedded);
        let keys = info.signers.iter().copied().map(Payer::from_secret);
        let signers = keys.map(|key| key.map(|key| key.address));
        let signers = signers.collect::<Result<_, _>>()?;
        let fleet = Fleet::start(Plan {
            binary,
            ledger,
            reservations,
            rpc: vec![devnet.rpc_url().to_owned()],
            signers: info.signers.clone(),
            network: "block_interval_ms = 1000\ndepth = 4".to_owned(),
            server: String::new(),
            holds: String::new(),
            roles,
        })
        .await?;
        Ok(Self {
            node: Node::new(devnet.rpc_url().parse()?),
            devnet,
            fleet,
            signers,
            plan,
            http: Http::default(),
        })
    }

    /// Waits for the last outcome, then compares; and lets the facilitator's own audit look.
    pub(crate) async fn compare(&self, told: &[Told]) -> Result<Comparison, LoadError> {
        let urls = self.fleet.urls();
        let url = urls.first().ok_or(LoadError::Ended("the fleet"))?;
        let start = Instant::now();
        let mut rows = compare::rows(&self.http, url).await?;
        while !compare::all_resolved(&rows) && start.elapsed() < RESOLVED_WITHIN {
            tokio::time::sleep(PAUSE).await;
            rows = compare::rows(&self.http, url).await?;
        }
        let compared = compare::compare(&Subject {
            node: &self.node,
            asset: self.plan.asset.address,
            signers: &self.signers,
            rows: &rows,
            told,
            compensated: &HashSet::new(),
        })
        .await?;
        if compared.differences.is_empty() {
            self.fleet.audit().await?;
        }
        Ok(compared)
    }
}

fn plan(devnet: &Devnet, seed: &str) -> Result<sign::Plan, LoadError> {
    let info = devnet.info();
    let asset = Asset {
        chain: ChainId(info.chain_id),
        address: info.asset.address,
        name: info.asset.name.clone(),
        version: info.asset.version.clone(),
        decimals: info.asset.decimals,
    };
    Ok(sign::Plan {
        asset: Arc::new(asset),
        version: X402Version::V2,
        value: AssetAmount::from(1_000),
        payers: sign::payers(seed, PAYERS)?,
        payees: sign::payees(seed, PAYEES),
    })
}

impl Crash {
    /// Runs the rounds. Differences are in the answer.
    pub async fn run(self) -> Result<Rounds, LoadError> {
        let mut random = Random(self.seed);
        let mut town = Town::start(self.binary.clone(), self.stores.clone(), "crash").await?;
        let total = self.payments.saturating_mul(self.rounds as usize);
        let mut signed = sign::ahead(town.plan.clone(), total).await?.into_iter();
        let mut sellers = JoinSet::new();
        let mut kills = vec![("all", 0_u32), ("api", 0), ("settler", 0)];
        let start = Instant::now();
        for round in 1..=self.rounds {
            for payment in signed.by_ref().take(self.payments) {
                let times = if random.below(REPEAT_ONE_IN) == 0 {
                    2
                } else {
                    1
                };
                for _ in 0..times {
                    let asking = Asking {
                        urls: town.fleet.urls(),
                        first: usize::try_from(random.below(1024)).unwrap_or(0),
                        pause: PAUSE,
                        at_most: self.patience,
                    };
                    let wait = random.millis(LOAD_SPAN_MS);
                    let (http, payment) = (town.http.clone(), payment.clone());
                    sellers.spawn(async move {
                        tokio::time::sleep(wait).await;
                        settle_until_told(http, payment, asking).await
                    });
                }
            }
            let victim = usize::try_from(random.below(town.fleet.len() as u64)).unwrap_or(0);
            tokio::time::sleep(random.millis(KILL_SPAN_MS)).await;
            town.fleet.kill(victim).await?;
            let role = town.fleet.member(victim)?.role.name();
            for (_, count) in kills.iter_mut().filter(|(name, _)| *name == role) {
                *count = count.saturating_add(1);
            }
            tokio::time::sleep(random.millis(AWAY_MS)).await;
            town.fleet.start_member(victim).await?;
            eprintln!("round {round} of {}: killed {role} {victim}", self.rounds);
        }
        let restarted = Instant::now();
        let mut told = Vec::new();
        let asked = sellers.len();
        while let Some(seller) = sellers.join_next().await {
            told.push(seller.map_err(|_| LoadError::Ended("a seller"))?);
        }
        let compared = town.compare(&told).await;
        let settled_after = restarted.elapsed();
        if !matches!(&compared, Ok(compared) if compared.differences.is_empty()) {
            eprintln!("{}", town.fleet.logs());
        }
        kills.retain(|(_, count)| *count > 0);
        let rounds = Rounds {
            kills,
            payments: total,
            sellers: asked,
            took: start.elapsed(),
            settled_after,
            compared: compared?,
            crash: self,
        };
        town.devnet.shutdown().await;
        Ok(rounds)
    }
}
