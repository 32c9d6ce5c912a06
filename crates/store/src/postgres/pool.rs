//! The connections to Postgres: how they are made, and which are not used again.

use std::future::Future;
use std::ops::Deref;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool, Postgres, Row};
use tokio::sync::watch;

use crate::stores::encode_password;
use crate::{StoreError, StoreResult};

/// How many connections a process has at most.
const CONNECTIONS: u32 = 16;
/// How long the server works on a statement, waits for a lock, or keeps an idle transaction. Not start-up options, which
/// poolers refuse.
const SESSION: &str = "SET statement_timeout = 5000; SET lock_timeout = 5000; \
                       SET idle_in_transaction_session_timeout = 5000";
/// How long a call takes at most, whatever the network does.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call waits for a connection: less than a call may take, so that a call that timed out was begun.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(4);
/// How often two connections are compared before a pooler counts as absent.
const POOLER_LOOKS: usize = 3;
/// How often connections are given up at most because the server behind them takes no writes.
const GIVE_UP_EVERY: Duration = Duration::from_secs(1);

/// A call that does not answer in time may or may not have happened.
pub(super) async fn bounded<T>(call: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(StoreError::unavailable("ledger", "no answer in time")))
}

/// A pool whose connections are made anew once a server says that it is read-only: after a fail-over the name in the URL
/// may lead to another server, while old connections stay with the old one.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pool: PgPool,
    /// When a server said so last. Connections that are older are not used again.
    demoted: watch::Sender<Option<Instant>>,
}

impl Deref for Pool {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.pool
    }
}

impl Pool {
    pub(super) async fn connect(url: &str) -> StoreResult<Self> {
        let options: PgConnectOptions = encode_password(url).parse().map_err(|_| {
            StoreError::Configuration("the Postgres ledger's URL cannot be read".to_owned())
        })?;
        let options = options
            .application_name("teller")
            // No column is a float, and PgBouncer refuses the option.
            .extra_float_digits(None)
            .disable_statement_logging();
        bounded(refuse_transaction_pooling(&options)).await?;
        let demoted = watch::Sender::new(None);
        let demotion = demoted.clone();
        let pool = bounded(async {
            PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .after_connect(|connection, _| {
                    Box::pin(async move { connection.execute(SESSION).await.map(|_| ()) })
                })
                .before_acquire(move |_, connection| {
                    let led_astray = made_before(*demotion.borrow(), connection.age);
                    Box::pin(async move { Ok(!led_astray) })
                })
                .connect_with(options)
                .await
                .map_err(StoreError::of_ledger)
        })
        .await
        .map_err(StoreError::before_commit)?;
        Ok(Self { pool, demoted })
    }

    /// Runs statements that commit themselves, on one connection.
    pub(super) async fn call<T, F>(&self, work: F) -> StoreResult<T>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, StoreResult<T>>,
    {
        let done = bounded(async {
            let mut connection = self.connection().await?;
            work(&mut connection).await
        });
        self.heed(done.await)
    }

    /// Runs statements in a transaction of their own.
    pub(super) async fn transact<T, F>(&self, work: F) -> StoreResult<T>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, StoreResult<T>>,
    {
        let done = async {
            let mut connection = self.connection().await?;
            let begun = async { connection.begin().await.map_err(StoreError::of_ledger) };
            let mut transaction = bounded(begun).await.map_err(StoreError::before_commit)?;
            match bounded(work(&mut transaction)).await {
                Ok(answer) => {
                    let commit =
                        async { transaction.commit().await.map_err(StoreError::of_commit) };
                    bounded(commit).await.map(|()| answer)
                }
                Err(error) => {
                    let undo =
                        async { transaction.rollback().await.map_err(StoreError::of_ledger) };
                    // If even this fails the connection is given up, and with it the transaction.
                    let _ = bounded(undo).await;
                    Err(error.before_commit())
                }
            }
        };
        self.heed(done.await)
    }

    async fn connection(&self) -> StoreResult<PoolConnection<Postgres>> {
        let acquired = self.pool.acquire().await;
        acquired.map_err(not_asked)
    }

    /// Gives up all connections of now if the server behind one of them takes no writes.
    fn heed<T>(&self, done: StoreResult<T>) -> StoreResult<T> {
        if matches!(done, Err(StoreError::ReadOnly { .. })) {
            let now = Instant::now();
            self.demoted.send_if_modified(|last| {
                let is_due = last.is_none_or(|last| now.duration_since(last) >= GIVE_UP_EVERY);
                if is_due {
                    *last = Some(now);
                }
                is_due
            });
        }
        done
    }

    /// Changes whenever connections are given up.
    pub(super) fn demotions(&self) -> watch::Receiver<Option<Instant>> {
        self.demoted.subscribe()
    }
}

fn made_before(demoted: Option<Instant>, age: Duration) -> bool {
    demoted.is_some_and(|at| at.elapsed() <= age)
}

/// Refuses a pooler that gives a connection to another client between two transactions: settings of a session, prepared
/// statements and LISTEN would reach strangers and not teller.
async fn refuse_transaction_pooling(options: &PgConnectOptions) -> StoreResult<()> {
    let mut one = options.connect().await.map_err(not_asked)?;
    let mut other = options.connect().await.map_err(not_asked)?;
    let first = backend(&mut one).await?;
    let mut is_shared = false;
    for _ in 0..POOLER_LOOKS {
        is_shared |= backend(&mut other).await? == first;
        is_shared |= backend(&mut one).await? != first;
    }
    // What does not close well is closed by the drop.
    let _ = futures::join!(one.close(), other.close());
    match is_shared {
        false => Ok(()),
        true => Err(StoreError::Configuration(
            "ledger.url leads to a connection pooler in transaction pooling, which teller cannot use: it needs sessions \
             of its own. Name Postgres itself, or let the pooler do session pooling (PgBouncer: pool_mode = session)"
                .to_owned(),
        )),
    }
}

fn not_asked(error: sqlx::Error) -> StoreError {
    StoreError::of_ledger(error).before_commit()
}

/// The server process behind a connection.
async fn backend(connection: &mut PgConnection) -> StoreResult<i32> {
    // Not prepared: that is what poolers may not know.
    let row = connection
        .fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()"))
        .await;
    row.and_then(|row| row.try_get(0)).map_err(not_asked)
}
