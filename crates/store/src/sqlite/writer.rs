//! The one connection that writes, and the task that owns it: what arrives while a commit is in flight goes into the
//! next transaction together.

use std::fs::File;
use std::future::Future;

use futures::future::BoxFuture;
use sqlx::{Connection, SqliteConnection};
use teller_domain::SettlementId;
use tokio::sync::{mpsc, oneshot, watch};

use super::{holds, hot, queue};
use crate::claiming::Claim;
use crate::group::{Reply, record_group};
use crate::{AcceptOutcome, ClaimOutcome, NewSettlement, StoreError, StoreResult};

/// How many writes may wait; more callers wait for room.
const QUEUE: usize = 16_384;
/// How many writes one transaction takes at most.
const LARGEST_GROUP: usize = 2_048;

/// One kind of write that is done for many at once.
pub(super) trait Grouped {
    type Request: Send + Sync;
    type Answer: Send;
    const NAME: &'static str;

    /// Answers each request, in order. An error is nobody's in particular: the group is then tried one by one.
    fn run(
        connection: &mut SqliteConnection,
        requests: &[Self::Request],
    ) -> impl Future<Output = StoreResult<Vec<Self::Answer>>> + Send;
}

/// Whether the group's transaction still stands. A disk that is full undoes all of it, and what is done after that would
/// commit by itself: nothing may be.
type Standing = Result<(), StoreError>;

/// A write of its own kind, done inside the group's transaction.
trait Job: Send {
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, Standing>;
    fn finish(self: Box<Self>, committed: &StoreResult<()>);
}

struct Work<F, T> {
    work: Option<F>,
    answer: StoreResult<T>,
    reply: Reply<T>,
}

impl<F, T> Job for Work<F, T>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, StoreResult<T>> + Send,
    T: Send,
{
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, Standing> {
        Box::pin(async move {
            if let Some(work) = self.work.take() {
                self.answer = in_savepoint(connection, work).await?;
            }
            Ok(())
        })
    }

    fn finish(self: Box<Self>, committed: &StoreResult<()>) {
        let _ = self.reply.send(committed.clone().and(self.answer));
    }
}

enum Command {
    Accept(Box<NewSettlement>, Reply<AcceptOutcome>),
    Claim(Claim, Reply<ClaimOutcome>),
    Confirm(hot::Confirm, Reply<()>),
    Fail(SettlementId, Reply<bool>),
    Hold(holds::HoldWrite, Reply<()>),
    Job(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

/// Hands writes to the writer's task.
#[derive(Clone)]
pub(crate) struct Writer {
    sender: mpsc::Sender<Command>,
}

/// Room for one hold write in the queue: taken before the decision, so that writes queue in the order of decisions.
pub(crate) struct HoldPermit<'w>(mpsc::Permit<'w, Command>);

impl HoldPermit<'_> {
    /// Queues the write.
    pub(crate) fn send(
        self,
        write: holds::HoldWrite,
    ) -> impl Future<Output = StoreResult<()>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Hold(write, reply));
        async move { answer.await.map_err(|_| closed())? }
    }
}

fn closed() -> StoreError {
    StoreError::unavailable("ledger", "it was closed")
}

impl Writer {
    /// Starts the task. It keeps `lock`, if it has one, until the last command is done.
    pub(super) fn start(
        connection: SqliteConnection,
        lock: Option<File>,
        changes: watch::Sender<u64>,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write(connection, lock, changes, receiver));
        Self { sender }
    }

    async fn send<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> StoreResult<T> {
        let (reply, answer) = oneshot::channel();
        self.sender
            .send(command(reply))
            .await
            .map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    pub(super) async fn accept(&self, new: NewSettlement) -> StoreResult<AcceptOutcome> {
        self.send(|reply| Command::Accept(Box::new(new), reply))
            .await
    }

    pub(super) async fn claim(&self, claim: Claim) -> StoreResult<ClaimOutcome> {
        self.send(|reply| Command::Claim(claim, reply)).await
    }

    pub(super) async fn confirm(&self, confirm: hot::Confirm) -> StoreResult<()> {
        self.send(|reply| Command::Confirm(confirm, reply)).await
    }

    pub(super) async fn tell_failure(&self, id: SettlementId) -> StoreResult<bool> {
        self.send(|reply| Command::Fail(id, reply)).await
    }

    pub(super) async fn job<T, F>(&self, work: F) -> StoreResult<T>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, StoreResult<T>>
            + Send
            + 'static,
        T: Send + 'static,
    {
        self.send(|reply| {
            Command::Job(Box::new(Work {
                work: Some(work),
                answer: Err(closed()),
                reply,
            }))
        })
        .await
    }

    /// Writes something, durably.
    pub(crate) async fn probe(&self) -> StoreResult<()> {
        self.job(|connection| Box::pin(queue::probe(connection)))
            .await
    }

    pub(crate) async fn hold_permit(&self) -> StoreResult<HoldPermit<'_>> {
        self.sender
            .reserve()
            .await
            .map(HoldPermit)
            .map_err(|_| closed())
    }

    /// Commits what is queued and ends the task.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.sender.send(Command::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

/// Requests of one kind in a group, with those who wait for them.
struct Batch<G: Grouped> {
    requests: Vec<G::Request>,
    replies: Vec<Reply<G::Answer>>,
    answers: Vec<StoreResult<G::Answer>>,
}

impl<G: Grouped> Batch<G> {
    fn new() -> Self {
        Self {
            requests: Vec::new(),
            replies: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn push(&mut self, request: G::Request, reply: Reply<G::Answer>) {
        self.requests.push(request);
        self.replies.push(reply);
    }

    async fn run(&mut self, connection: &mut SqliteConnection) -> Standing {
        if self.requests.is_empty() {
            return Ok(());
        }
        record_group("sqlite", G::NAME, self.requests.len());
        let requests = &self.requests;
        match run_in_savepoint::<G>(connection, requests).await? {
            Ok(answers) => self.answers = answers.into_iter().map(Ok).collect(),
            Err(error) if self.requests.len() == 1 => self.answers = vec![Err(error)],
            // One bad row must not fail its neighbours.
            Err(_) => {
                for request in self.requests.chunks(1) {
                    let alone = run_in_savepoint::<G>(connection, request).await?;
                    self.answers.push(alone.and_then(|answers| {
                        answers.into_iter().next().ok_or_else(|| {
                            StoreError::Corrupt("a write went unanswered".to_owned())
                        })
                    }));
                }
            }
        }
        Ok(())
    }

    fn finish(self, committed: &StoreResult<()>) {
        let mut answers = self.answers.into_iter();
        for reply in self.replies {
            let answer = answers.next().unwrap_or_else(|| Err(closed()));
            let _ = reply.send(committed.clone().and(answer));
        }
    }
}

struct Group {
    accepts: Batch<hot::Accepts>,
    claims: Batch<hot::Claims>,
    confirms: Batch<hot::Confirms>,
    failures: Batch<hot::Failures>,
    holds: Batch<holds::Holds>,
    jobs: Vec<Box<dyn Job>>,
}

impl Group {
    async fn run(&mut self, connection: &mut SqliteConnection) -> Standing {
        self.holds.run(connection).await?;
        self.accepts.run(connection).await?;
        self.claims.run(connection).await?;
        self.confirms.run(connection).await?;
        self.failures.run(connection).await?;
        for job in &mut self.jobs {
            job.run(connection).await?;
        }
        Ok(())
    }

    fn touches_ledger(&self) -> bool {
        !self.accepts.requests.is_empty()
            || !self.claims.requests.is_empty()
            || !self.confirms.requests.is_empty()
            || !self.failures.requests.is_empty()
            || !self.jobs.is_empty()
    }

    fn finish(self, committed: &StoreResult<()>) {
        self.holds.finish(committed);
        self.accepts.finish(committed);
        self.claims.finish(committed);
        self.confirms.finish(committed);
        self.failures.finish(committed);
        for job in self.jobs {
            job.finish(committed);
        }
    }
}

async fn write(
    mut connection: SqliteConnection,
    lock: Option<File>,
    changes: watch::Sender<u64>,
    mut receiver: mpsc::Receiver<Command>,
) {
    let mut arrived = Vec::with_capacity(LARGEST_GROUP);
    let mut syncing = true;
    let mut closing = None;
    while closing.is_none() && receiver.recv_many(&mut arrived, LARGEST_GROUP).await > 0 {
        let mut group = Group {
            accepts: Batch::new(),
            claims: Batch::new(),
            confirms: Batch::new(),
            failures: Batch::new(),
            holds: Batch::new(),
            jobs: Vec::new(),
        };
        for command in arrived.drain(..) {
            match command {
                Command::Accept(new, reply) => group.accepts.push(*new, reply),
                Command::Claim(claim, reply) => group.claims.push(claim, reply),
                Command::Confirm(confirm, reply) => group.confirms.push(confirm, reply),
                Command::Fail(id, reply) => group.failures.push(id, reply),
                Command::Hold(hold, reply) => group.holds.push(hold, reply),
                Command::Job(job) => group.jobs.push(job),
                Command::Close(done) => closing = Some(done),
            }
        }
        let durable = group.touches_ledger();
        let committed = commit(&mut connection, &mut group, durable, &mut syncing).await;
        if let Err(error) = &committed {
            tracing::error!(%error, "a ledger transaction failed");
        }
        group.finish(&committed);
        if durable {
            changes.send_modify(|version| *version += 1);
        }
    }
    let _ = connection.close().await;
    drop(lock);
    if let Some(done) = closing {
        let _ = done.send(());
    }
}

/// One transaction. Holds alone need no fsync: a killed process keeps what it wrote, and verify promises no more.
async fn commit(
    connection: &mut SqliteConnection,
    group: &mut Group,
    durable: bool,
    syncing: &mut bool,
) -> StoreResult<()> {
    if durable != *syncing {
        let pragma = if durable {
            "PRAGMA synchronous = FULL"
        } else {
            "PRAGMA synchronous = NORMAL"
        };
        execute(connection, pragma)
            .await
            .map_err(StoreError::before_commit)?;
        *syncing = durable;
    }
    let worked = match execute(connection, "BEGIN IMMEDIATE").await {
        Ok(()) => group.run(connection).await,
        Err(error) => Err(error),
    };
    let committed = match worked {
        Ok(()) => sqlx::query("COMMIT")
            .execute(&mut *connection)
            .await
            .map(|_| ())
            .map_err(StoreError::of_commit),
        Err(error) => Err(error.before_commit()),
    };
    if committed.is_err() {
        // Fails only where SQLite has ended the transaction itself.
        let _ = execute(connection, "ROLLBACK").await;
    }
    committed
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> StoreResult<()> {
    sqlx::query(sql)
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(StoreError::of_ledger)
}

/// Runs `work`, and undoes what it did if it fails.
async fn in_savepoint<T, F>(
    connection: &mut SqliteConnection,
    work: F,
) -> Result<StoreResult<T>, StoreError>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, StoreResult<T>>,
{
    execute(connection, "SAVEPOINT step").await?;
    let answer = work(connection).await;
    end_savepoint(connection, answer).await
}

/// The same for a group.
async fn run_in_savepoint<G: Grouped>(
    connection: &mut SqliteConnection,
    requests: &[G::Request],
) -> Result<StoreResult<Vec<G::Answer>>, StoreError> {
    execute(connection, "SAVEPOINT step").await?;
    let answers = G::run(connection, requests).await;
    end_savepoint(connection, answers).await
}

async fn end_savepoint<T>(
    connection: &mut SqliteConnection,
    answer: StoreResult<T>,
) -> Result<StoreResult<T>, StoreError> {
    if let Err(error) = &answer {
        let undone = execute(connection, "ROLLBACK TO step").await;
        // There is no such savepoint any more: the answer says what has undone everything.
        undone.map_err(|_| error.clone())?;
    }
    execute(connection, "RELEASE step").await?;
    Ok(answer)
}
