//! The load itself: a fixed number of workers, each with a connection of its own, each sending its next payment
//! when the last one was answered (a closed loop).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::error::LoadError;
use crate::grpc::{self, GrpcClient, WORKERS_A_CHANNEL};
use crate::http::{Connection, ExchangeError};
use crate::sign::Signed;
use crate::target::Target;
use crate::wire::{self, Outcome};

/// Connections opened at once before the clock starts.
const OPENING_AT_ONCE: usize = 64;
/// A facilitator answers within 25 s, or says pending.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// A call on the facilitator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    Verify,
    Settle,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Settle => "settle",
        }
    }
}

/// What is done with each payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ops {
    Verify,
    Settle,
    /// Verified, and settled if it is valid.
    VerifySettle,
}

impl Ops {
    pub fn each(self) -> &'static [Op] {
        match self {
            Self::Verify => &[Op::Verify],
            Self::Settle => &[Op::Settle],
            Self::VerifySettle => &[Op::Verify, Op::Settle],
        }
    }
}

/// How a facilitator is spoken to.
#[derive(Debug, Clone)]
pub enum Facilitator {
    Rest {
        target: Target,
        api_key: Option<String>,
    },
    Grpc {
        target: Target,
        api_key: Option<String>,
    },
}

impl Facilitator {
    /// A client for each worker.
    async fn connect(&self, workers: usize) -> Result<Vec<Client>, LoadError> {
        match self {
            Self::Rest { target, api_key } => {
                let open = || async {
                    let client = RestClient::open(target, api_key.as_deref()).await?;
                    Ok(Client::Rest(client))
                };
                stream::iter((0..workers).map(|_| open()))
                    .buffer_unordered(OPENING_AT_ONCE)
                    .try_collect()
                    .await
            }
            Self::Grpc { target, api_key } => {
                let mut clients = Vec::with_capacity(workers);
                for first in (0..workers).step_by(WORKERS_A_CHANNEL) {
                    let channel = grpc::channel(target).await?;
                    for _ in first..workers.min(first.saturating_add(WORKERS_A_CHANNEL)) {
                        let client = GrpcClient::new(channel.clone(), api_key.as_deref())?;
                        clients.push(Client::Grpc(client));
                    }
                }
                Ok(clients)
            }
        }
    }
}

enum Client {
    Rest(RestClient),
    Grpc(GrpcClient),
}

impl Client {
    async fn call(&mut self, op: Op, payment: &Signed) -> Outcome {
        match self {
            Self::Rest(client) => client.call(op, payment).await,
            Self::Grpc(client) => {
                let call = client.call(op, payment);
                tokio::time::timeout(ANSWER_WITHIN, call)
                    .await
                    .unwrap_or_else(|_| Outcome::Unanswered {
                        why: ExchangeError::TimedOut.to_string(),
                    })
            }
        }
    }
}

struct RestClient {
    target: Target,
    headers: String,
    connection: Option<Connection>,
    request: Vec<u8>,
}

impl RestClient {
    async fn open(target: &Target, api_key: Option<&str>) -> Result<Self, LoadError> {
        let connection = Connection::open(target)
            .await
            .map_err(|error| LoadError::Connect {
                what: format!("{target}: no connection"),
                source: Box::new(error),
            })?;
        let mut headers = format!(
            "Host: {}\r\nContent-Type: application/json\r\n",
            target.address()
        );
        if let Some(key) = api_key {
            headers.push_str(&format!("Authorization: Bearer {key}\r\n"));
        }
        Ok(Self {
            target: target.clone(),
            headers,
            connection: Some(connection),
            request: Vec::with_capacity(2048),
        })
    }

    async fn call(&mut self, op: Op, payment: &Signed) -> Outcome {
        self.request.clear();
        let path = self.target.path(match op {
            Op::Verify => "/verify",
            Op::Settle => "/settle",
        });
        let head = format!(
            "POST {path} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n",
            self.headers,
            payment.body.len()
        );
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(&payment.body);
        match tokio::time::timeout(ANSWER_WITHIN, self.exchange()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Unanswered {
                why: error.to_string(),
            },
            Err(_) => {
                self.connection = None;
                Outcome::Unanswered {
                    why: ExchangeError::TimedOut.to_string(),
                }
            }
        }
    }

    /// Never sends twice: a payment whose connection broke may have been accepted.
    async fn exchange(&mut self) -> Result<Outcome, ExchangeError> {
        let mut connection = match self.connection.take() {
            Some(open) => open,
            None => Connection::open(&self.target).await?,
        };
        let answer = connection.exchange(&self.request).await?;
        if connection.reusable() {
            self.connection = Some(connection);
        }
        Ok(wire::outcome(answer.status, &answer.body))
    }
}

/// One request's fate.
#[derive(Debug)]
pub struct Sample {
    pub op: Op,
    /// Which of the payments.
    pub payment: usize,
    pub took: Duration,
    pub outcome: Outcome,
}

/// A finished load.
#[derive(Debug)]
pub struct Driven {
    pub samples: Vec<Sample>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Payments that were not sent because the time was up.
    pub unsent: usize,
}

/// Sends every payment once. No payment is begun later than `at_most` after the start.
pub async fn drive(
    facilitator: &Facilitator,
    ops: Ops,
    payments: Arc<Vec<Signed>>,
    concurrency: usize,
    at_most: Duration,
) -> Result<Driven, LoadError> {
    let workers = concurrency.clamp(1, payments.len().max(1));
    let clients = facilitator.connect(workers).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let running: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let worker = Worker {
                client,
                ops,
                payments: Arc::clone(&payments),
                next: Arc::clone(&next),
                until: start + at_most,
            };
            tokio::spawn(worker.run())
        })
        .collect();
    let mut samples = Vec::with_capacity(payments.len());
    for worker in running {
        samples.extend(worker.await.map_err(|_| LoadError::Ended("a worker"))?);
    }
    let elapsed = start.elapsed();
    let begun = samples
        .iter()
        .map(|sample| sample.payment)
        .collect::<std::collections::HashSet<_>>()
        .len();
    Ok(Driven {
        samples,
        elapsed,
        unsent: payments.len().saturating_sub(begun),
    })
}

struct Worker {
    client: Client,
    ops: Ops,
    payments: Arc<Vec<Signed>>,
    next: Arc<AtomicUsize>,
    until: Instant,
}

impl Worker {
    async fn run(mut self) -> Vec<Sample> {
        let mut samples = Vec::new();
        while Instant::now() < self.until {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(payment) = self.payments.get(index) else {
                break;
            };
            for op in self.ops.each() {
                let sent = Instant::now();
                let outcome = self.client.call(*op, payment).await;
                let accepted = matches!(outcome, Outcome::Accepted { .. });
                samples.push(Sample {
                    op: *op,
                    payment: index,
                    took: sent.elapsed(),
                    outcome,
                });
                if !accepted {
                    break;
                }
            }
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{ahead, tests::plan};
    use http_body_util::{BodyExt, Full};
    use hyper::{Request, Response, body::Incoming, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    /// A facilitator that finds everything valid and settles nothing.
    async fn tiny_facilitator() -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::at(listener.local_addr().unwrap()).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<Incoming>| async {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
                    let answer = match path.as_str() {
                        "/verify" => r#"{"isValid":true,"payer":"0x0"}"#,
                        _ => {
                            r#"{"success":false,"errorReason":"settlement_pending","transaction":"","network":""}"#
                        }
                    };
                    Ok::<_, hyper::Error>(Response::new(Full::<bytes::Bytes>::from(answer)))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        target
    }

    async fn run(ops: Ops, count: usize, at_most: Duration) -> Driven {
        let facilitator = Facilitator::Rest {
            target: tiny_facilitator().await,
            api_key: None,
        };
        let payments = Arc::new(ahead(plan(), count).await.unwrap());
        drive(&facilitator, ops, payments, 7, at_most)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn every_payment_is_sent_once_to_each_endpoint() {
        let driven = run(Ops::VerifySettle, 100, Duration::from_secs(30)).await;
        for op in [Op::Verify, Op::Settle] {
            let mut sent: Vec<_> = driven
                .samples
                .iter()
                .filter(|sample| sample.op == op)
                .map(|sample| sample.payment)
                .collect();
            sent.sort_unstable();
            assert_eq!(sent, (0..100).collect::<Vec<_>>());
        }
        assert_eq!(driven.unsent, 0);
        let pending = Outcome::Refused {
            reason: "settlement_pending".to_owned(),
        };
        assert!(
            driven
                .samples
                .iter()
                .all(|sample| (sample.op == Op::Settle) == (sample.outcome == pending))
        );
    }

    #[tokio::test]
    async fn nothing_is_begun_when_the_time_is_up() {
        let driven = run(Ops::Verify, 50, Duration::ZERO).await;
        assert_eq!((driven.samples.len(), driven.unsent), (0, 50));
    }

    /// Not an assertion: `cargo test --release -p teller-loadtest -- --ignored --nocapture` prints the generator's
    /// own ceiling on this machine, against a server that does nothing.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "a measurement"]
    async fn ceiling_of_the_generator() {
        let cpu = || crate::process::Process::own().cpu_seconds().unwrap();
        let facilitator = Facilitator::Rest {
            target: tiny_facilitator().await,
            api_key: None,
        };
        let payments = Arc::new(ahead(plan(), 100_000).await.unwrap());
        let before = cpu();
        let driven = drive(
            &facilitator,
            Ops::Verify,
            payments,
            256,
            Duration::from_secs(60),
        )
        .await
        .unwrap();
        let rate = driven.samples.len() as f64 / driven.elapsed.as_secs_f64();
        let per_1000 = (cpu() - before) / 100.0;
        println!("{rate:.0} requests/s, {per_1000:.4} s CPU per 1,000 with the server's share");
    }
}
