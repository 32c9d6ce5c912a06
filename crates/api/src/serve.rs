//! Listening: connections are counted, must say something in time, and are let finish at shutdown.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::Layer;

use crate::connection::Connection;

/// Bounds of one listener.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Open connections; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// How long a connection may take to send a request's head, and how long it may idle between requests.
    pub header_read_timeout: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// How long requests in progress may take after shutdown has begun; then they are cut off.
    pub drain_deadline: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header_read_timeout: Duration::from_secs(30),
            max_streams: 4_096,
            drain_deadline: Duration::from_secs(30),
        }
    }
}

/// Serves HTTP/1.1 and cleartext HTTP/2 until `shutdown` resolves and what is in progress has ended.
pub async fn serve_rest(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    shutdown: impl Future<Output = ()>,
) {
    serve(listener, router, limits, Protocols::Both, shutdown).await;
}

/// Serves gRPC, which is HTTP/2 only, until `shutdown` resolves and what is in progress has ended.
pub async fn serve_grpc(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    shutdown: impl Future<Output = ()>,
) {
    serve(listener, router, limits, Protocols::Http2, shutdown).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocols {
    Both,
    Http2,
}

async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    protocols: Protocols,
    shutdown: impl Future<Output = ()>,
) {
    let builder = builder(&limits);
    let http1 = Arc::new(builder.clone().http1_only());
    let http2 = Arc::new(builder.http2_only());
    let places = Arc::new(Semaphore::new(
        limits.max_connections.min(Semaphore::MAX_PERMITS),
    ));
    let graceful = GracefulShutdown::new();
    let (stop, stopped) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else {
            break;
        };
        let (http1, http2) = (http1.clone(), http2.clone());
        let service = Extension(Connection::default()).layer(router.clone());
        let (watcher, mut stopped) = (graceful.watcher(), stopped.clone());
        let patience = limits.header_read_timeout;
        tokio::spawn(async move {
            let first = tokio::select! {
                first = tokio::time::timeout(patience, preface(&stream)) => first,
                _ = stopped.changed() => return,
            };
            let Ok(Ok(speaks_http2)) = first else {
                return;
            };
            let builder = match protocols {
                Protocols::Both if !speaks_http2 => http1,
                Protocols::Both | Protocols::Http2 => http2,
            };
            let connection = builder
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    drop(stop);
    if tokio::time::timeout(limits.drain_deadline, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests were still in progress at the drain deadline");
    }
}

/// What an HTTP/1 connection keeps to read into, and so the most that a request's head may be. Left alone it would
/// double, and thousands of connections wait at once.
const READ_BUFFER: usize = 8 * 1024;

/// What a client may send on an HTTP/2 stream, and on all streams of its connection, before anybody has read it.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

fn builder(limits: &ServeLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(READ_BUFFER)
        .header_read_timeout(limits.header_read_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(limits.header_read_timeout)
        .keep_alive_timeout(limits.header_read_timeout);
    builder
}

/// A connection and its place among the open ones. `None` never happens while the semaphore lives.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small: waiting to fill a packet only adds delay.
                let _ = stream.set_nodelay(true);
                return Some((stream, place));
            }
            Err(error) if is_the_connections(&error) => {}
            Err(error) => {
                // Out of file descriptors or the like: it passes, and spinning does not help.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_the_connections(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// Whether the first bytes are HTTP/2's `PRI `. hyper would wait for them without a limit.
async fn preface(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 4];
    loop {
        stream.readable().await?;
        match stream.peek(&mut first).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            4 => return Ok(first == *b"PRI "),
            // The rest of the four bytes is on its way; `readable` stays set until then.
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
