//! The one place that knows every crate: makes stores, chains, verifier, engine and doors out of a configuration, and
//! takes them down in the right order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teller_api::{
    Api, ApiConfig, Health, Readiness, ReceiptSigner, ServeLimits, Supported, TenantLimits,
    serve_grpc, serve_rest,
};
use teller_domain::ProcessId;
use teller_settle::core::Budgets;
use teller_settle::{Admission, Engine, Intake, Settler, Timings};
use teller_store::{CatalogueBounds, Ledger, LedgerUrl, ReservationsUrl, Stores};
use teller_verify::{EmptyPayments, Policy, TenantPolicy, Verifier};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::chains::Chain;
use crate::commands::Failure;
use crate::config::{Auth, Config, Role, Secret, SignerKey};
use crate::engine_watch::EngineWatch;
use crate::probe::Probes;
use crate::recovery;
use crate::telemetry;

/// A lease is renewed this many times before it runs out.
const RENEWALS: u32 = 3;
/// How often the ledger is asked for what no event told of.
const POLL: Duration = Duration::from_secs(1);
/// How often the ledger is asked for new compensating entries.
const COMPENSATIONS_POLL: Duration = Duration::from_secs(5);
/// Between tries of opening the ledger and the reservations.
const STORES_RETRY: Duration = Duration::from_secs(1);
/// How long a start waits for nodes. One that is away must not keep a teller from starting.
const SETTLE_IN: Duration = Duration::from_secs(5);
/// However late it is, nodes are given this long to show which proxies are there.
const LOOK_AT_LEAST: Duration = Duration::from_secs(1);
/// Settle requests wait on for at most this long once shutdown has begun.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// A running teller.
pub struct Teller {
    rest: Option<SocketAddr>,
    api: Option<Api>,
    health: Health,
    doors: JoinSet<()>,
    stop_doors: watch::Sender<bool>,
    engine: Engine,
    engine_watch: EngineWatch,
    chores: JoinSet<()>,
}

impl Teller {
    /// Where REST listens; `None` for a process that takes no requests.
    pub fn rest(&self) -> Option<SocketAddr> {
        self.rest
    }

    /// Answers when a part has ended that the rest cannot do without.
    pub async fn failed(&mut self) -> Failure {
        tokio::select! {
            failure = self.engine_watch.broken() => failure,
            Some(_) = self.doors.join_next() => Failure::text("a listener has ended"),
        }
    }

    /// Stops taking requests, lets those in flight end within `deadline`, hands lanes over.
    pub async fn drain(mut self, deadline: Duration) {
        self.health.begin_drain();
        if let Some(api) = &self.api {
            api.begin_drain();
        }
        // Doors that are gone have stopped already.
        let _ = self.stop_doors.send(true);
        let doors = async { while self.doors.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, doors).await.is_err() {
            tracing::warn!("requests were cut off at the deadline");
        }
        // Before this process is signed off: a heartbeat after that would sign it on again.
        self.chores.shutdown().await;
        if tokio::time::timeout(deadline, self.engine.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("lanes were not handed over in time; their leases will run out");
        }
    }
}

/// Starts everything that this role needs. Requests are taken when this answers.
pub async fn start(config: &Config, role: Role, health: Health) -> Result<Teller, Failure> {
    let takes_requests = role != Role::Settler;
    telemetry::register_metrics(config);
    // First of all, because a taken port is the commonest mistake.
    let listeners = match takes_requests {
        true => Some((
            listen(config.server.rest).await?,
            listen(config.server.grpc).await?,
        )),
        false => None,
    };
    let stores = open_stores(config).await?;
    let process = ProcessId::fresh();
    let mut chains: Vec<Chain> = Vec::with_capacity(config.networks.len());
    for network in &config.networks {
        let known = stores.ledger.genesis(network.id).await;
        let known =
            known.map_err(|error| Failure::new("the ledger cannot tell its networks", error))?;
        chains.push(Chain::connect(network, known)?);
    }

    let (engine, settler) = match role {
        Role::All | Role::Settler => Engine::start(
            chains
                .iter()
                .map(|chain| chain.engine_parts(budgets(config, chain)))
                .collect::<Result<_, _>>()?,
            Arc::clone(&stores.ledger),
            Arc::clone(&stores.reservations),
            process,
            timings(config, role),
        ),
        Role::Api => Engine::remote_to(
            chains
                .iter()
                .map(|chain| chain.admission_parts(budgets(config, chain)))
                .collect(),
            Arc::clone(&stores.ledger),
            Arc::clone(&stores.reservations),
            process,
            POLL,
            config.settler.lease,
        ),
    };
    let mut engine_watch = EngineWatch::new(engine.status());
    let deadline = tokio::time::Instant::now() + SETTLE_IN;
    engine_watch.settled_in(deadline).await?;
    for chain in &chains {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        chain.settled_in(left).await;
    }

    let mut chores = JoinSet::new();
    // Engines say so themselves.
    if role == Role::Api {
        chores.spawn(recovery::heartbeat(
            Arc::clone(&stores.ledger),
            process,
            config.settler.lease,
        ));
    }
    chores.spawn(telemetry::watch_heads(
        chains.iter().map(Chain::heads).collect(),
    ));
    chores.spawn(telemetry::count_compensations(
        Arc::clone(&stores.ledger),
        COMPENSATIONS_POLL,
    ));
    recovery::open_new(&stores, config.reservations.balance_hold).await;
    chores.spawn(recovery::reservations(
        stores.clone(),
        config.reservations.balance_hold,
        config.reservations.recovery,
    ));

    let probes = Probes::start(&stores, &mut chores).await;
    let readiness = readiness(&chains, &probes, settler.admission());
    health.started(readiness.clone());
    let mut teller = Teller {
        rest: None,
        api: None,
        health,
        doors: JoinSet::new(),
        stop_doors: watch::Sender::new(false),
        engine,
        engine_watch,
        chores,
    };
    if let Some((rest, grpc)) = listeners {
        teller.rest = rest.local_addr().ok();
        let verifier = verifier(config, &chains, &stores);
        let supported = supported(&chains, deadline).await;
        let api = api(config, supported, &stores, verifier, settler, readiness);
        teller.open_doors(config, &api, rest, grpc);
        teller.api = Some(api);
    }
    Ok(teller)
}

impl Teller {
    fn open_doors(&mut self, config: &Config, api: &Api, rest: TcpListener, grpc: TcpListener) {
        let limits = ServeLimits {
            max_connections: config.server.max_in_flight,
            drain_deadline: config.server.shutdown,
            ..ServeLimits::default()
        };
        let stopped = |mut stop: watch::Receiver<bool>| async move {
            // A sender that is gone means the same.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let stop = || stopped(self.stop_doors.subscribe());
        self.doors
            .spawn(serve_rest(rest, api.rest_router(), limits.clone(), stop()));
        self.doors
            .spawn(serve_grpc(grpc, api.grpc_router(), limits, stop()));
    }
}

fn timings(config: &Config, role: Role) -> Timings {
    let lease = config.settler.lease;
    Timings {
        lease,
        renew: lease / RENEWALS,
        poll: POLL,
        intake: match role {
            Role::Settler => Intake::Others,
            Role::All | Role::Api => Intake::Own,
        },
    }
}

/// What settling on a network may cost. Of several keys of a tenant the smallest bound counts.
fn budgets(config: &Config, chain: &Chain) -> Budgets {
    let mut budgets = chain.budgets();
    if let Auth::Keys(keys) = &config.server.auth {
        for key in keys {
            if let Some(bound) = key.max_gas_per_day {
                let known = budgets.tenants.entry(key.tenant.clone()).or_insert(bound);
                *known = (*known).min(bound);
            }
        }
    }
    budgets
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::new(&format!("{address} cannot be listened on"), error))
}

fn verifier(config: &Config, chains: &[Chain], stores: &Stores) -> Verifier {
    Verifier::new(
        chains.iter().map(Chain::verify_parts).collect(),
        policy(config),
        Arc::clone(&stores.reservations),
        Arc::clone(&stores.ledger),
    )
}

fn policy(config: &Config) -> Policy {
    let keys = match &config.server.auth {
        Auth::Open => &[],
        Auth::Keys(keys) => keys.as_slice(),
    };
    let tenants = keys.iter().map(|key| {
        let policy = TenantPolicy {
            lenient: key.lenient,
            networks: key
                .networks
                .clone()
                .map(|networks| networks.into_iter().collect()),
            assets: None,
        };
        (key.tenant.clone(), policy)
    });
    Policy {
        denied: config.policy.denied.iter().copied().collect(),
        tenants: tenants.collect(),
        balance_hold_cap_seconds: config.reservations.balance_hold.as_secs(),
        empty_payments: match config.policy.allow_empty_payments {
            true => EmptyPayments::Allowed,
            false => EmptyPayments::Refused,
        },
    }
}

async fn supported(chains: &[Chain], deadline: tokio::time::Instant) -> Supported {
    let mut networks = Vec::with_capacity(chains.len());
    for chain in chains {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        networks.push(chain.supported(left.max(LOOK_AT_LEAST)).await);
    }
    Supported { networks }
}

fn api(
    config: &Config,
    supported: Supported,
    stores: &Stores,
    verifier: Verifier,
    settler: Settler,
    readiness: Readiness,
) -> Api {
    let api_config = ApiConfig {
        max_concurrent_requests: config.server.max_in_flight,
        settle_wait: config.server.settle_wait,
        settled_at: config
            .networks
            .iter()
            .map(|network| (network.id, network.settled_at))
            .collect(),
        drain_patience: DRAIN_PATIENCE.min(config.server.shutdown / 2),
        receipt_signer: config.receipt_key.as_ref().map(receipt_signer),
        discovery: config.discovery.map(|discovery| CatalogueBounds {
            resources: discovery.max_resources,
            resources_of_a_tenant: discovery.max_resources_per_tenant,
            kept_ms: u64::try_from(discovery.kept.as_millis()).unwrap_or(u64::MAX),
        }),
        builder_code: config.server.builder_code.clone(),
        ..ApiConfig::default()
    };
    Api::new(
        api_config,
        verifier,
        settler,
        Arc::clone(&stores.ledger),
        supported,
        auth(&config.server.auth),
        readiness,
    )
}

fn receipt_signer(key: &SignerKey) -> ReceiptSigner {
    let secret = key.expose();
    ReceiptSigner::new(key.address, move |digest| {
        teller_schemes::sign(digest, &secret.0)
    })
}

fn auth(auth: &Auth) -> teller_api::Auth {
    match auth {
        Auth::Open => teller_api::Auth::Open,
        Auth::Keys(keys) => teller_api::Auth::Keys(
            keys.iter()
                .map(|key| teller_api::ApiKey {
                    hash: key.sha256,
                    tenant: key.tenant.clone(),
                    limits: TenantLimits {
                        requests_per_second: key.requests_per_second,
                        burst: key.burst,
                        max_settles_in_flight: key.max_settles_in_flight,
                        settle_wait: key.settle_wait,
                        settled_at: key.settled_at,
                    },
                })
                .collect(),
        ),
    }
}

fn readiness(chains: &[Chain], probes: &Probes, admission: &Admission) -> Readiness {
    let (ledger, reservations) = (probes.ledger(), probes.reservations());
    let readiness = Readiness::new()
        .with("ledger", move || std::future::ready(ledger()))
        .with("reservations", move || std::future::ready(reservations()));
    chains.iter().fold(readiness, |readiness, chain| {
        let (id, fresh, admission) = (chain.id(), chain.freshness(), admission.clone());
        readiness.with_network(
            id.to_string(),
            move || std::future::ready(fresh()),
            move || admission.notes(id),
        )
    })
}

fn ledger_url(url: &Secret) -> Result<LedgerUrl, Failure> {
    url.expose()
        .parse()
        .map_err(|error| Failure::new("ledger.url cannot be used", error))
}

fn reservations_url(url: &Secret) -> Result<ReservationsUrl, Failure> {
    url.expose()
        .parse()
        .map_err(|error| Failure::new("reservations.url cannot be used", error))
}

/// Waits for stores that are away: a teller that is started before its database is none the worse for it.
async fn open_stores(config: &Config) -> Result<Stores, Failure> {
    let reservations = reservations_url(&config.reservations.url)?;
    Stores::open_when_reachable(
        &ledger_url(&config.ledger.url)?,
        &reservations,
        STORES_RETRY,
    )
    .await
    .map_err(|error| Failure::new("ledger and reservations cannot be opened", error))
}

/// Brings the ledger's tables up to date.
pub async fn migrate(config: &Config) -> Result<(), Failure> {
    teller_store::migrate(&ledger_url(&config.ledger.url)?)
        .await
        .map_err(|error| Failure::new("the ledger cannot be migrated", error))
}

/// Whether the ledger that is configured can be used: Postgres is written to, a file beside a running teller is read.
pub async fn check_ledger(config: &Config) -> Result<(), Failure> {
    teller_store::check_ledger(&ledger_url(&config.ledger.url)?)
        .await
        .map_err(|error| Failure::new("the ledger cannot be used", error))
}

/// Whether the reservations that are configured can be used.
pub async fn check_reservations(config: &Config) -> Result<(), Failure> {
    teller_store::check_reservations(&reservations_url(&config.reservations.url)?)
        .await
        .map_err(|error| Failure::new("the reservations cannot be used", error))
}

/// Opens a ledger for reading only: beside a running teller, and with nothing written.
pub async fn open_ledger_to_read(url: &Secret) -> Result<Arc<dyn Ledger>, Failure> {
    teller_store::open_ledger_read_only(&ledger_url(url)?)
        .await
        .map_err(|error| Failure::new("the ledger cannot be opened", error))
}

/// Opens a ledger for reading and for orders about lanes, beside a running teller.
pub async fn open_ledger_for_orders(url: &Secret) -> Result<Arc<dyn Ledger>, Failure> {
    teller_store::open_ledger_for_orders(&ledger_url(url)?)
        .await
        .map_err(|error| Failure::new("the ledger cannot be opened", error))
}
