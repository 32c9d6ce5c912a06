//! JSON-RPC over a WebSocket: one connection, dialled on the first call and again on the next call after it ended. What
//! lived only for a moment is dialled again after a pause that doubles.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use url::Url;

use crate::NodeError;
use crate::http::MAX_ANSWER_BYTES;
use crate::rpc::{self, Answer, Answered, Call};

/// A connection that ended before this is dialled again only after a pause.
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// The pause after the first such connection, or a dial that failed; doubled by each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Calls that wait to be written to a connection; more make the caller wait.
const QUEUE: usize = 1_024;
/// Above so many calls without an answer, those that nobody waits for are forgotten.
const UNANSWERED: usize = 1_024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Waiter = oneshot::Sender<Answer>;

/// One endpoint reached over a WebSocket.
pub(crate) struct WsLink {
    url: Url,
    authorization: Option<HeaderValue>,
    state: tokio::sync::Mutex<State>,
    dials: AtomicU64,
}

struct State {
    connection: Option<Arc<Connection>>,
    /// The pause that followed the last dial.
    pause: Duration,
    /// No dial before this.
    dial_at: Instant,
}

struct Connection {
    calls: mpsc::Sender<(Call, Waiter)>,
    life: Arc<Mutex<Life>>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Life {
    began: Instant,
    /// When something came last.
    heard: Instant,
    ended: Option<Instant>,
}

impl Life {
    fn was_long(&self) -> bool {
        let ended = self.ended.unwrap_or_else(Instant::now);
        ended.duration_since(self.began) >= SHORT_LIFE
    }
}

impl WsLink {
    /// `http` reads the user and the password that the URL may name.
    pub(crate) fn new(url: Url, http: &reqwest::Client) -> Self {
        let request = http.get(url.clone()).build().ok();
        Self {
            authorization: request
                .and_then(|request| request.headers().get(AUTHORIZATION).cloned()),
            url,
            state: tokio::sync::Mutex::new(State {
                connection: None,
                pause: Duration::ZERO,
                dial_at: Instant::now(),
            }),
            dials: AtomicU64::new(0),
        }
    }

    /// Sends calls one by one, without waiting in between; answers in their order. What was sent over a connection that
    /// turns out to have ended is sent once more.
    pub(crate) async fn exchange(&self, calls: &[Call]) -> Result<Vec<Answer>, NodeError> {
        let (connection, is_new) = self.connection().await?;
        match connection.exchange(calls).await {
            Err(ended @ (NodeError::Refused | NodeError::Broken)) if !is_new => {
                let again = async {
                    let (connection, _) = self.connection().await?;
                    connection.exchange(calls).await
                };
                // What the first connection had taken may be under way, though there is no second one.
                again.await.map_err(|error| match error {
                    NodeError::Refused => ended,
                    error => error,
                })
            }
            answers => answers,
        }
    }

    /// A call that was made at `asked` got no answer: a connection that has been silent since then is given up.
    /// Answers whether it was.
    pub(crate) fn unanswered(&self, asked: Instant) -> bool {
        // Whoever holds it is dialling a new one.
        let Ok(mut state) = self.state.try_lock() else {
            return false;
        };
        let silent = state.connection.as_ref().is_some_and(|connection| {
            let life = connection.life.lock();
            life.unwrap_or_else(PoisonError::into_inner).heard <= asked
        });
        if silent {
            state.connection = None;
        }
        silent
    }

    /// How many connections there were.
    pub(crate) fn dials(&self) -> u64 {
        self.dials.load(Ordering::Relaxed)
    }

    /// The connection, and whether it was dialled just now.
    async fn connection(&self) -> Result<(Arc<Connection>, bool), NodeError> {
        let mut state = self.state.lock().await;
        match &state.connection {
            Some(connection) if !connection.calls.is_closed() => {
                return Ok((Arc::clone(connection), false));
            }
            Some(ended) => {
                let life = ended.life.lock();
                if life.unwrap_or_else(PoisonError::into_inner).was_long() {
                    state.pause = Duration::ZERO;
                }
            }
            None => {}
        }
        state.connection = None;
        let now = Instant::now();
        if now < state.dial_at {
            return Err(NodeError::Refused);
        }
        // Before it is dialled: whoever gives up waiting for it has dialled all the same.
        state.pause = (state.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        state.dial_at = now + state.pause;
        let connection = Arc::new(self.dial().await?);
        self.dials.fetch_add(1, Ordering::Relaxed);
        state.connection = Some(Arc::clone(&connection));
        Ok((connection, true))
    }

    async fn dial(&self) -> Result<Connection, NodeError> {
        let request = self.url.as_str().into_client_request();
        let mut request = request.map_err(|_| NodeError::NoEndpoint)?;
        if let Some(authorization) = &self.authorization {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let bounds = WebSocketConfig::default()
            .max_message_size(Some(MAX_ANSWER_BYTES))
            .max_frame_size(Some(MAX_ANSWER_BYTES));
        let dialled = connect_async_with_config(request, Some(bounds), true).await;
        // The error's own text may hold the URL.
        let (socket, _) = dialled.map_err(|_| NodeError::Refused)?;
        let (calls, queue) = mpsc::channel(QUEUE);
        let now = Instant::now();
        let life = Arc::new(Mutex::new(Life {
            began: now,
            heard: now,
            ended: None,
        }));
        let task = tokio::spawn(converse(socket, queue, Arc::clone(&life)));
        Ok(Connection {
            calls,
            life,
            task: task.abort_handle(),
        })
    }
}

impl Connection {
    async fn exchange(&self, calls: &[Call]) -> Result<Vec<Answer>, NodeError> {
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            let (waiter, answer) = oneshot::channel();
            let sent = self.calls.send((call.clone(), waiter)).await;
            sent.map_err(|_| NodeError::Refused)?;
            answers.push(answer);
        }
        let answers = join_all(answers).await.into_iter();
        answers
            .map(|answer| answer.map_err(|_| NodeError::Broken))
            .collect()
    }
}

/// Writes calls and hands out answers until either side ends, or what comes is no JSON-RPC. Whoever still waits then
/// learns it by a dropped waiter.
async fn converse(
    mut socket: Socket,
    mut queue: mpsc::Receiver<(Call, Waiter)>,
    life: Arc<Mutex<Life>>,
) {
    let mut waiters: HashMap<u64, Waiter> = HashMap::new();
    loop {
        tokio::select! {
            call = queue.recv() => {
                let Some((call, waiter)) = call else { break };
                if waiters.len() >= UNANSWERED {
                    waiters.retain(|_, waiter| !waiter.is_closed());
                }
                waiters.insert(call.id, waiter);
                if socket.send(Message::text(call.body)).await.is_err() {
                    break;
                }
            }
            message = socket.next() => {
                let Some(Ok(message)) = message else { break };
                life.lock().unwrap_or_else(PoisonError::into_inner).heard = Instant::now();
                let read = match message {
                    Message::Text(text) => rpc::read(text.as_bytes()),
                    // Some servers send their JSON so.
                    Message::Binary(bytes) => rpc::read(&bytes),
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
                    Message::Close(_) => break,
                };
                let Ok(answered) = read else { break };
                hand_out(&mut waiters, answered);
            }
        }
    }
    life.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(Instant::now());
}

fn hand_out(waiters: &mut HashMap<u64, Waiter>, answered: Vec<Answered>) {
    for Answered { id, answer } in answered {
        let id = match (id, waiters.len()) {
            (Some(id), _) => Some(id),
            // An error for nobody can only be meant for the only one who asked.
            (None, 1) => waiters.keys().next().copied(),
            (None, _) => None,
        };
        if let Some(waiter) = id.and_then(|id| waiters.remove(&id)) {
            // Whoever stopped waiting needs no answer.
            let _ = waiter.send(answer);
        }
    }
}
