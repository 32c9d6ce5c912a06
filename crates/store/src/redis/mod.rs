//! Reservations in Redis, shared by all processes: each change is one atomic script, and what arrives while a round
//! trip is in flight shares the next one.

mod operations;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Pipeline, RedisError, Value};
use async_trait::async_trait;
use teller_domain::{AuthorizationKey, PaymentDigest, TenantId, UnixMillis};

use self::operations::{Answer, Operation, scripts};
use crate::group::Grouper;
use crate::holds::{Fingerprint, count_conflict};
use crate::{HoldVersion, Reservations, ReserveOutcome, ReserveRequest, StoreError, StoreResult};

/// How long Redis may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often a lost connection is tried again before a call fails.
const RETRIES: usize = 1;
/// How many changes share one round trip at most.
const LARGEST_GROUP: usize = 256;
/// How many round trips are in flight at once.
const PARALLEL: usize = 2;

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
    /// [`StoreError::Configuration`] for a URL that cannot be read, [`StoreError::Unavailable`] if nothing answers.
    pub async fn connect(url: &str, prefix: &str) -> StoreResult<Self> {
        let client = ::redis::Client::open(url).map_err(|_| {
            StoreError::Configuration("the reservations URL cannot be read".to_owned())
        })?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(RETRIES)
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let connection = client
            .get_connection_manager_with_config(config)
            .await
            .map_err(failed)?;
        let shared = Arc::new(Shared {
            connection,
            prefix: prefix.to_owned(),
            generation: format!("{prefix}:generation"),
            complete: AtomicBool::new(false),
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

/// Redis's words about a connection can name its address, so only the kind of failure is told.
fn failed(error: RedisError) -> StoreError {
    let cause = match error.code() {
        Some(code) => format!("{} ({code})", error.category()),
        None => error.category().to_owned(),
    };
    StoreError::unavailable("reservations", cause)
}

/// What groups share.
struct Shared {
    connection: ConnectionManager,
    prefix: String,
    generation: String,
    /// Whether the last look found the holds complete.
    complete: AtomicBool,
}

impl Shared {
    /// One round trip: every operation, then a look whether the holds are complete. The look comes last, so that a
    /// loss just before a grant is seen.
    async fn run(self: Arc<Self>, group: Vec<Operation>) -> Vec<StoreResult<Answer>> {
        let mut connection = self.connection.clone();
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

    async fn look(&self, connection: &mut ConnectionManager) -> StoreResult<bool> {
        let complete = ::redis::cmd("EXISTS")
            .arg(&self.generation)
            .query_async(connection)
            .await
            .map_err(failed)?;
        self.complete.store(complete, Ordering::Relaxed);
        Ok(complete)
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
                .arg(operation.arguments());
        }
        pipeline.cmd("EXISTS").arg(&self.generation);
        let mut answers = query(connection, &pipeline).await?;
        if answers.iter().any(is_unloaded) {
            load(connection).await?;
            answers = query(connection, &pipeline).await?;
        }
        let complete = matches!(answers.pop(), Some(Ok(Value::Int(1))));
        self.complete.store(complete, Ordering::Relaxed);
        Ok(answers
            .into_iter()
            .map(|answer| {
                let (word, detail): (String, String) = answer
                    .and_then(|value| Ok(::redis::from_redis_value(value)?))
                    .map_err(failed)?;
                Answer::read(&word, &detail)
            })
            .collect())
    }
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
        let known = self
            .shared
            .look(&mut self.shared.connection.clone())
            .await?;
        if known {
            Ok(())
        } else {
            Err(StoreError::Recovering)
        }
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
        self.each(
            holds
                .into_iter()
                .map(|hold| Operation::Restore(Box::new(hold))),
        )
        .await
    }

    async fn recovered(&self) -> StoreResult<()> {
        ::redis::cmd("SET")
            .arg(&self.shared.generation)
            .arg(uuid::Uuid::now_v7().to_string())
            .arg("NX")
            .query_async::<Value>(&mut self.shared.connection.clone())
            .await
            .map(|_| ())
            .map_err(failed)
    }
}
