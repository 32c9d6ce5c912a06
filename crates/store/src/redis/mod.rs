//! Reservations in Redis, shared by all processes: each change is one atomic script, and what arrives while a round
//! trip is in flight shares the next one.

mod operations;
mod server;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{ErrorKind, Pipeline, RedisError, Script, ServerErrorKind, Value};
use async_trait::async_trait;
use teller_domain::{AuthorizationKey, PaymentDigest, TenantId, UnixMillis};

use self::operations::{Answer, Clock, Operation, scripts};
use self::server::{Completeness, SECTIONS, Server};
use crate::error::io_cause;
use crate::group::Grouper;
use crate::holds::{Fingerprint, count_conflict};
use crate::stores::encode_password;
use crate::{HoldVersion, Reservations, ReserveOutcome, ReserveRequest, StoreError, StoreResult};

/// How long Redis may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often a lost connection is tried again before a call fails.
const RETRIES: usize = 1;
/// How many changes share one round trip at most.
const LARGEST_GROUP: usize = 256;
/// How many round trips are in flight at once.
const PARALLEL: usize = 2;

/// How often the name in the URL is dialled again at most because the server behind it takes no writes.
const REDIAL_EVERY: Duration = Duration::from_secs(1);
/// How long what a probe has written stays.
const PROBE_KEPT_SECONDS: u64 = 60;

/// Reservations in Redis 7 or newer.
pub struct RedisReservations {
    shared: Arc<Shared>,
    operations: Grouper<Operation, Answer>,
}

impl RedisReservations {
    /// Connects. All keys begin with `prefix`, so that several tellers may share a Redis.
    ///
    /// # Errors
    ///
    /// [`StoreError::Configuration`] for a URL that cannot be read and for a server that evicts keys,
    /// [`StoreError::Unavailable`] if nothing answers.
    pub async fn connect(url: &str, prefix: &str) -> StoreResult<Self> {
        let reservations = Self::connect_by(url, prefix, Clock::Server).await?;
        match reservations.shared.eviction().await? {
            None => Ok(reservations),
            Some(wrong) => Err(StoreError::Configuration(wrong)),
        }
    }

    /// As [`RedisReservations::connect`], for tests that let time pass: it is what each request says that it is.
    #[doc(hidden)]
    pub async fn connect_by_callers_clock(url: &str, prefix: &str) -> StoreResult<Self> {
        Self::connect_by(url, prefix, Clock::Caller).await
    }

    async fn connect_by(url: &str, prefix: &str, clock: Clock) -> StoreResult<Self> {
        let unreadable =
            |_| StoreError::Configuration("the reservations URL cannot be read".to_owned());
        let client = ::redis::Client::open(encode_password(url).as_ref()).map_err(unreadable)?;
        let connection = client
            .get_connection_manager_with_config(manager_config())
            .await
            .map_err(failed)?;
        let shared = Arc::new(Shared {
            client,
            link: Mutex::new(Link {
                connection,
                since: Instant::now(),
            }),
            prefix: prefix.to_owned(),
            generation: format!("{prefix}:generation"),
            probe: format!("{prefix}:probe"),
            clock,
            complete: AtomicBool::new(false),
            restored_at: Mutex::new(None),
        });
        let operations = {
            let shared = shared.clone();
            Grouper::start("redis", "hold", LARGEST_GROUP, PARALLEL, move |group| {
                shared.clone().run(group)
            })
        };
        Ok(Self { shared, operations })
    }

    async fn each(&self, operations: impl Iterator<Item = Operation> + Send) -> StoreResult<()> {
        futures::future::try_join_all(operations.map(|operation| self.operations.call(operation)))
            .await
            .map(|_| ())
    }
}

fn manager_config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_number_of_retries(RETRIES)
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT))
}

/// What an error of Redis means. Its words about a connection can name the address, so they are not passed on.
fn failed(error: RedisError) -> StoreError {
    let store = "reservations";
    let Some(code) = error.code() else {
        return StoreError::unavailable(store, connection_cause(&error));
    };
    let moved = [ServerErrorKind::Moved, ServerErrorKind::Ask].map(ErrorKind::Server);
    let cause = match error.detail() {
        Some(detail) if !moved.contains(&error.kind()) => format!("{code} {detail}"),
        _ => code.to_owned(),
    };
    match code {
        // The primary is elsewhere, or cut off from its replicas.
        "READONLY" | "MASTERDOWN" | "NOREPLICAS" => StoreError::ReadOnly { store, cause },
        _ => StoreError::refused(store, cause),
    }
}

fn connection_cause(error: &RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return io_cause(io);
        }
        source = inner.source();
    }
    error.category().to_owned()
}

static VOUCH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("vouch.lua")));

/// The connection in use, and since when.
struct Link {
    connection: ConnectionManager,
    since: Instant,
}

/// What groups share.
struct Shared {
    client: ::redis::Client,
    link: Mutex<Link>,
    prefix: String,
    generation: String,
    probe: String,
    clock: Clock,
    /// Whether the last look found the holds complete.
    complete: AtomicBool,
    /// The server as it was before the last holds were restored to it.
    restored_at: Mutex<Option<Server>>,
}

impl Shared {
    /// One round trip: every operation, then a look whether the holds are complete. The look comes last, so that a
    /// loss just before a grant is seen.
    async fn run(self: Arc<Self>, group: Vec<Operation>) -> Vec<StoreResult<Answer>> {
        let mut connection = self.connection();
        if !self.complete.load(Ordering::Relaxed) && group.iter().any(Operation::grants) {
            // Known to be incomplete a moment ago: look first, so that no hold is left behind.
            match self.look(&mut connection).await {
                Ok(true) => {}
                Ok(false) => return self.refuse_grants(connection, group).await,
                Err(error) => return group.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        let answers = match self.send(&mut connection, &group).await {
            Ok(answers) => answers,
            Err(error) => return group.iter().map(|_| Err(error.clone())).collect(),
        };
        if self.complete.load(Ordering::Relaxed) {
            return answers;
        }
        let granted: Vec<Operation> = group
            .iter()
            .zip(&answers)
            .filter_map(|(operation, answer)| operation.undo(answer.as_ref().ok()?))
            .collect();
        // If this fails they end by themselves.
        let _ = self.send(&mut connection, &granted).await;
        group
            .iter()
            .zip(answers)
            .map(|(operation, answer)| match operation.grants() {
                true => Err(StoreError::Recovering),
                false => answer,
            })
            .collect()
    }

    async fn refuse_grants(
        &self,
        mut connection: ConnectionManager,
        group: Vec<Operation>,
    ) -> Vec<StoreResult<Answer>> {
        let grants: Vec<bool> = group.iter().map(Operation::grants).collect();
        let others: Vec<Operation> = group.into_iter().filter(|one| !one.grants()).collect();
        let answers = self.send(&mut connection, &others).await;
        let mut answers = answers.map(Vec::into_iter);
        grants
            .into_iter()
            .map(|grants| match &mut answers {
                _ if grants => Err(StoreError::Recovering),
                Ok(answers) => answers.next().unwrap_or(Err(StoreError::Recovering)),
                Err(error) => Err(error.clone()),
            })
            .collect()
    }

    fn connection(&self) -> ConnectionManager {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.connection.clone()
    }

    /// Dials the name again, in the background, if the server behind it takes no writes: after a fail-over the name may
    /// lead to another one, while the connection stays with the old one.
    fn heed<T>(&self, done: StoreResult<T>) -> StoreResult<T> {
        if matches!(done, Err(StoreError::ReadOnly { .. })) {
            self.complete.store(false, Ordering::Relaxed);
            let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
            if link.since.elapsed() >= REDIAL_EVERY {
                let dialled =
                    ConnectionManager::new_lazy_with_config(self.client.clone(), manager_config());
                match dialled {
                    Ok(connection) => link.connection = connection,
                    Err(error) => {
                        tracing::warn!(error = %failed(error), "Redis cannot be dialled again");
                    }
                }
                link.since = Instant::now();
            }
        }
        done
    }

    /// Whether the holds are complete. A promoted replica is taken over as what it was.
    async fn look(&self, connection: &mut ConnectionManager) -> StoreResult<bool> {
        let (mut marker, server) = self.heed(self.read_marker(connection).await)?;
        let mut found = server.completeness(marker.as_deref());
        if found == Completeness::Promoted {
            self.heed(self.vouch(connection, marker.as_deref(), &server).await)?;
            marker = self.heed(self.read_marker(connection).await)?.0;
            found = server.completeness(marker.as_deref());
        }
        let complete = found == Completeness::Complete;
        self.complete.store(complete, Ordering::Relaxed);
        Ok(complete)
    }

    async fn read_marker(
        &self,
        connection: &mut ConnectionManager,
    ) -> StoreResult<(Option<String>, Server)> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("GET").arg(&self.generation);
        pipeline.cmd("INFO").arg(&SECTIONS);
        let (marker, info): (Option<String>, String) =
            pipeline.query_async(connection).await.map_err(failed)?;
        let server = Server::read(&info)?;
        server.expect_primary()?;
        Ok((marker, server))
    }

    /// Lets the marker name this server as it was then, unless somebody has changed the marker meanwhile.
    async fn vouch(
        &self,
        connection: &mut ConnectionManager,
        marker: Option<&str>,
        server: &Server,
    ) -> StoreResult<()> {
        VOUCH
            .key(&self.generation)
            .arg(marker.unwrap_or_default())
            .arg(server.vouch())
            .invoke_async::<Value>(connection)
            .await
            .map(|_| ())
            .map_err(failed)
    }

    /// What is wrong with how the server makes room, if anything.
    async fn eviction(&self) -> StoreResult<Option<String>> {
        let info: String = ::redis::cmd("INFO")
            .arg("memory")
            .query_async(&mut self.connection())
            .await
            .map_err(failed)?;
        server::eviction(&info)
    }

    async fn send(
        &self,
        connection: &mut ConnectionManager,
        group: &[Operation],
    ) -> StoreResult<Vec<StoreResult<Answer>>> {
        let mut pipeline = Pipeline::with_capacity(group.len() + 1);
        // One failure must not fail its neighbours.
        pipeline.ignore_errors();
        for operation in group {
            pipeline
                .cmd("EVALSHA")
                .arg(operation.script().get_hash())
                .arg(1)
                .arg(operation.base(&self.prefix))
                .arg(operation.arguments(self.clock));
        }
        pipeline.cmd("GET").arg(&self.generation);
        pipeline.cmd("INFO").arg(&SECTIONS);
        let mut answers = query(connection, &pipeline).await?;
        if answers.iter().any(is_unloaded) {
            load(connection).await?;
            answers = query(connection, &pipeline).await?;
        }
        let (info, marker) = (answers.pop(), answers.pop());
        let complete = self.heed(completeness(marker, info));
        let complete = matches!(complete, Ok(Completeness::Complete));
        self.complete.store(complete, Ordering::Relaxed);
        let read = |answer: Result<Value, RedisError>| {
            let (word, detail): (String, String) = answer
                .and_then(|value| Ok(::redis::from_redis_value(value)?))
                .map_err(failed)?;
            Answer::read(&word, &detail)
        };
        let answers = answers.into_iter().map(|answer| self.heed(read(answer)));
        Ok(answers.collect())
    }
}

/// What the last two answers of a round trip say of the holds.
fn completeness(
    marker: Option<Result<Value, RedisError>>,
    info: Option<Result<Value, RedisError>>,
) -> StoreResult<Completeness> {
    let odd = || StoreError::unavailable("reservations", "an odd answer");
    let marker: Option<String> = marker
        .ok_or_else(odd)?
        .and_then(|value| Ok(::redis::from_redis_value(value)?))
        .map_err(failed)?;
    let info: String = info
        .ok_or_else(odd)?
        .and_then(|value| Ok(::redis::from_redis_value(value)?))
        .map_err(failed)?;
    let server = Server::read(&info)?;
    server.expect_primary()?;
    Ok(server.completeness(marker.as_deref()))
}

type Answers = StoreResult<Vec<Result<Value, RedisError>>>;

async fn query(connection: &mut ConnectionManager, pipeline: &Pipeline) -> Answers {
    pipeline.query_async(connection).await.map_err(failed)
}

fn is_unloaded(answer: &Result<Value, RedisError>) -> bool {
    answer
        .as_ref()
        .is_err_and(|error| error.code() == Some("NOSCRIPT"))
}

async fn load(connection: &mut ConnectionManager) -> StoreResult<()> {
    for script in scripts() {
        script.load_async(connection).await.map_err(failed)?;
    }
    Ok(())
}

#[async_trait]
impl Reservations for RedisReservations {
    async fn ping(&self) -> StoreResult<()> {
        match self.shared.look(&mut self.shared.connection()).await? {
            true => Ok(()),
            false => Err(StoreError::Recovering),
        }
    }

    async fn probe(&self) -> StoreResult<()> {
        let written = ::redis::cmd("SET")
            .arg(&self.shared.probe)
            .arg(1)
            .arg("EX")
            .arg(PROBE_KEPT_SECONDS)
            .query_async::<Value>(&mut self.shared.connection())
            .await
            .map_err(failed);
        self.shared.heed(written)?;
        let wrong = self.shared.eviction().await?;
        metrics::gauge!("teller_reservations_may_evict").set(u8::from(wrong.is_some()));
        self.ping().await
    }

    async fn reserve(&self, request: ReserveRequest) -> StoreResult<ReserveOutcome> {
        // Unique among all processes, and after any loss.
        let version = HoldVersion(uuid::Uuid::now_v7().as_u128());
        let answer = self
            .operations
            .call(Operation::Reserve(Box::new(request), version))
            .await?;
        let Answer::Reserve(outcome) = answer else {
            return Err(StoreError::unavailable("reservations", "an odd answer"));
        };
        match outcome {
            ReserveOutcome::AuthorizationHeld => count_conflict("authorization_held"),
            ReserveOutcome::InsufficientBalance { .. } => count_conflict("insufficient_balance"),
            ReserveOutcome::Granted { .. } | ReserveOutcome::Renewed => {}
        }
        Ok(outcome)
    }

    async fn release(
        &self,
        key: AuthorizationKey,
        tenant: &TenantId,
        digest: PaymentDigest,
        now: UnixMillis,
    ) -> StoreResult<bool> {
        let operation = Operation::Release(key, Fingerprint::tenant(tenant), digest, now.0);
        Ok(self.operations.call(operation).await? == Answer::Released(true))
    }

    async fn give_back(
        &self,
        key: AuthorizationKey,
        tenant: &TenantId,
        digest: PaymentDigest,
        version: HoldVersion,
    ) -> StoreResult<bool> {
        let operation = Operation::GiveBack(key, Fingerprint::tenant(tenant), digest, version);
        Ok(self.operations.call(operation).await? == Answer::Released(true))
    }

    async fn abandon(&self, keys: &[AuthorizationKey]) -> StoreResult<()> {
        self.each(keys.iter().map(|key| Operation::Abandon(*key)))
            .await
    }

    async fn mined(&self, keys: &[AuthorizationKey], block: u64) -> StoreResult<()> {
        self.each(keys.iter().map(|key| Operation::Mined(*key, block)))
            .await
    }

    async fn unmined(&self, keys: &[AuthorizationKey]) -> StoreResult<()> {
        self.each(keys.iter().map(|key| Operation::Unmined(*key)))
            .await
    }

    async fn restore(&self, holds: Vec<ReserveRequest>) -> StoreResult<()> {
        let shared = &self.shared;
        let before = shared.read_marker(&mut shared.connection()).await;
        let (_, server) = shared.heed(before)?;
        {
            let mut restored_at = shared
                .restored_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *restored_at = Some(server);
        }
        self.each(
            holds
                .into_iter()
                .map(|hold| Operation::Restore(Box::new(hold))),
        )
        .await
    }

    async fn recovered(&self) -> StoreResult<()> {
        let shared = &self.shared;
        let mut connection = shared.connection();
        let (marker, server) = shared.heed(shared.read_marker(&mut connection).await)?;
        if server.completeness(marker.as_deref()) == Completeness::Complete {
            // Another process was quicker.
            return Ok(());
        }
        // What was evicted, or started anew, since the holds were restored leaves them incomplete.
        let restored_at = shared
            .restored_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let vouching = restored_at.unwrap_or(server);
        let vouched = shared.vouch(&mut connection, marker.as_deref(), &vouching);
        shared.heed(vouched.await)
    }
}
