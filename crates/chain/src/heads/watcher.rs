//! Following: the heads of all endpoints are compared, and the highest is followed that joins what was followed before.

mod reorg;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::B256;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};

use super::contest::Contest;
use super::{Head, HeadEvent, Headers, KEPT_HEADERS, millis};
use crate::endpoint::Endpoint;
use crate::looks::{LEAST_BETWEEN, Looks};
use crate::nodes::HEAD;
use crate::pace::Pace;
use crate::{Block, NodeError, Nodes};

/// Skipped blocks, and those before the first, are fetched this many at a time.
const CATCH_UP: u64 = 64;
/// The endpoints beside the one that leads are asked for their heads once a block interval, and no more often than this.
const COMPARED_EVERY: Duration = Duration::from_millis(500);
/// An endpoint that has not answered for a block interval, and for this long, is not waited for.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// How long the first answer waits for those of the other endpoints: the highest head is the one to begin with.
const FIRST_HEADS_WITHIN: Duration = Duration::from_secs(1);
/// How long nothing is followed that an endpoint shows after its chain did not join while others' do, or after it left
/// the watcher waiting.
const SHUNNED_FOR: Duration = Duration::from_secs(30);
/// An answer to the question for the head.
struct HeadAnswer {
    endpoint: Arc<Endpoint>,
    asked: Instant,
    head: Result<Block, NodeError>,
}

/// What the watcher knows of an endpoint.
#[derive(Debug, Clone, Default)]
struct View {
    /// Since when it is asked for its head.
    asked: Option<Instant>,
    /// Before anything is followed: its head.
    first: Option<Block>,
    /// Nothing is followed that it shows until then.
    shunned_until: Option<Instant>,
}

/// A question for the head that others may wait for.
#[derive(Debug, Clone, Copy)]
struct Look {
    began: Instant,
    /// Somebody wanted it: it says nothing of when the next block is due.
    unpaced: bool,
    /// The one who leads had no answer, and the others are asked.
    of_all: bool,
}

pub(super) struct Watcher {
    nodes: Nodes,
    pace: Pace,
    headers: Arc<Headers>,
    head: watch::Sender<Option<Head>>,
    events: broadcast::Sender<HeadEvent>,
    interval_ms: Arc<AtomicU64>,
    looks: Arc<Looks>,
    /// Somebody waits for a look that has not begun.
    look_wanted: bool,
    /// The look that is going on, and when the last one began.
    look: Option<Look>,
    looked_at: Option<Instant>,
    answers: FuturesUnordered<BoxFuture<'static, HeadAnswer>>,
    /// By the endpoints' indices.
    views: Vec<View>,
    /// Who was asked last because of its place in the order.
    leader: usize,
    /// Whose block the head is.
    source: usize,
    next_look: Instant,
    compare_at: Instant,
    first_heard: Option<Instant>,
    contest: Contest,
    /// A head above this one is a rise, and when the last one was.
    risen_to: u64,
    risen_at: Instant,
}

/// Whether the blocks of an endpoint continue the followed chain.
enum Next {
    Continue,
    /// The endpoint's block above the followed head has another parent.
    Fork(Arc<Block>),
}

impl Watcher {
    pub(super) fn new(
        nodes: Nodes,
        pace: Pace,
        headers: Arc<Headers>,
        head: watch::Sender<Option<Head>>,
        events: broadcast::Sender<HeadEvent>,
        interval_ms: Arc<AtomicU64>,
        looks: Arc<Looks>,
    ) -> Self {
        let now = Instant::now();
        // Whoever starts the watcher has this long to subscribe to its first event.
        let next_look = now + pace.pause(now);
        Self {
            views: vec![View::default(); nodes.endpoints()],
            nodes,
            pace,
            headers,
            head,
            events,
            interval_ms,
            looks,
            look_wanted: false,
            look: None,
            looked_at: None,
            answers: FuturesUnordered::new(),
            leader: 0,
            source: 0,
            next_look,
            compare_at: now,
            first_heard: None,
            contest: Contest::default(),
            risen_to: 0,
            risen_at: now,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                () = sleep_until(self.next_look) => self.look(Instant::now()),
                Some(answer) = self.answers.next(), if !self.answers.is_empty() => self.hear(answer).await,
                () = self.looks.wanted() => {
                    self.look_wanted = true;
                    self.hasten();
                }
                () = self.head.closed() => return,
            }
        }
    }

    /// Asks the first endpoint in the order for its head, and every so often all of them.
    fn look(&mut self, now: Instant) {
        let within = self.pace.interval().max(ANSWERS_WITHIN);
        self.next_look = now + within;
        let order = self.nodes.in_order(HEAD);
        let is_late = |asked: Instant| now.saturating_duration_since(asked) >= within;
        let leader = order.iter().find(|endpoint| {
            let asked = self.view(endpoint.index).and_then(|view| view.asked);
            asked.is_none_or(|asked| !is_late(asked))
        });
        if let Some(leader) = leader {
            self.leader = leader.index;
            self.begin_look(leader, now);
            self.ask(leader, now);
        }
        let begins = self.headers.newest().is_none();
        if self.compare_at <= now || self.contest.is_open() || begins {
            self.compare_at = now + self.pace.interval().max(COMPARED_EVERY);
            for endpoint in self.nodes.clone().configured() {
                if endpoint.is_healthy(HEAD) || endpoint.claim_probe(HEAD) {
                    self.ask(endpoint, now);
                }
            }
        }
    }

    /// Brings the next look forward for whoever waits for one.
    fn hasten(&mut self) {
        if self.look_wanted {
            let now = Instant::now();
            let at = self.looked_at.map_or(now, |last| last + LEAST_BETWEEN);
            self.next_look = self.next_look.min(at.max(now));
        }
    }

    /// A question that was asked before is no look for whoever wants one now.
    fn begin_look(&mut self, leader: &Endpoint, now: Instant) {
        let is_asked = self
            .view(leader.index)
            .is_some_and(|view| view.asked.is_some());
        if is_asked {
            return;
        }
        self.looked_at = Some(now);
        self.look = Some(Look {
            began: now,
            unpaced: std::mem::take(&mut self.look_wanted),
            of_all: false,
        });
        self.looks.begin();
    }

    /// An answer to a question that was asked then ends a look, unless the one who leads has none: then the others are
    /// asked. Answers whether it was a look that somebody wanted.
    fn hear_look(&mut self, leads: bool, asked: Instant, is_answer: bool) -> bool {
        let Some(mut look) = self.look.filter(|look| asked >= look.began) else {
            return false;
        };
        if leads && !is_answer && !look.of_all {
            look.of_all = true;
            self.look = Some(look);
            for endpoint in self.nodes.in_order(HEAD) {
                if endpoint.index != self.leader && endpoint.is_healthy(HEAD) {
                    self.ask(&endpoint, Instant::now());
                }
            }
        }
        let is_last = || self.views.iter().all(|view| view.asked.is_none());
        let ends = match look.of_all {
            true => is_answer || is_last(),
            false => leads,
        };
        if ends {
            self.look = None;
            self.looks.end();
        }
        look.unpaced
    }

    fn view(&self, index: usize) -> Option<&View> {
        self.views.get(index)
    }

    /// One question at a time to each endpoint.
    fn ask(&mut self, endpoint: &Arc<Endpoint>, now: Instant) {
        let Some(view) = self.views.get_mut(endpoint.index) else {
            return;
        };
        if view.asked.is_some() {
            return;
        }
        view.asked = Some(now);
        let endpoint = Arc::clone(endpoint);
        self.answers.push(Box::pin(async move {
            let head = endpoint.latest().await;
            HeadAnswer {
                endpoint,
                asked: now,
                head,
            }
        }));
    }

    async fn hear(&mut self, answer: HeadAnswer) {
        let HeadAnswer {
            endpoint,
            asked,
            head,
        } = answer;
        if let Some(view) = self.views.get_mut(endpoint.index) {
            view.asked = None;
        }
        let before = self.headers.newest();
        let result = match head {
            Ok(block) => self.consider(&endpoint, block).await,
            Err(error) => Err(error),
        };
        let after = self.headers.newest();
        let leads = endpoint.index == self.leader;
        let has_moved = before != after;
        if let (Some((number, _)), true) = (after, has_moved) {
            self.nodes.note_followed(number);
            let blocks = number.saturating_sub(before.map_or(0, |tip| tip.0));
            self.pace.found(asked, blocks.max(1));
            self.interval_ms
                .store(millis(self.pace.interval()), Ordering::Relaxed);
        }
        let unpaced = self.hear_look(leads, asked, result.is_ok());
        match result {
            Ok(()) if unpaced => {}
            Ok(()) if leads && !has_moved => self.pace.nothing_new(asked),
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(chain = %self.nodes.chain(), endpoint = endpoint.index, %error, "cannot follow the head");
                if leads {
                    self.pace.failed();
                }
            }
        }
        if leads || has_moved {
            let now = Instant::now();
            let pause = self.pace.pause(now);
            self.next_look = now
                + match self.contest.is_open() {
                    true => pause.min(self.pace.coarse_step()),
                    false => pause,
                };
        }
        self.hasten();
    }

    /// What the head of an endpoint means for what is followed.
    async fn consider(&mut self, endpoint: &Arc<Endpoint>, block: Block) -> Result<(), NodeError> {
        let before = endpoint.shows(block.number);
        if before > block.number.saturating_add(KEPT_HEADERS as u64) {
            endpoint.doubt_identity();
        }
        if self.headers.newest().is_none() {
            return self.begin(endpoint, block).await;
        }
        let shunned = self
            .view(endpoint.index)
            .and_then(|view| view.shunned_until);
        if shunned.is_some_and(|until| until > Instant::now()) {
            return Ok(());
        }
        let followed = self.follow(endpoint, Arc::new(block)).await;
        // Nothing else is followed while an endpoint is waited for.
        if followed == Err(NodeError::Timeout) && endpoint.index != self.leader {
            self.shun(endpoint, Instant::now() + SHUNNED_FOR);
        }
        followed
    }

    fn shun(&mut self, endpoint: &Arc<Endpoint>, until: Instant) {
        if let Some(view) = self.views.get_mut(endpoint.index) {
            view.shunned_until = Some(until);
        }
    }

    /// The first head is the highest of those that come soon.
    async fn begin(&mut self, endpoint: &Arc<Endpoint>, block: Block) -> Result<(), NodeError> {
        let now = Instant::now();
        let first_heard = *self.first_heard.get_or_insert(now);
        if let Some(view) = self.views.get_mut(endpoint.index) {
            view.first = Some(block);
        }
        let waits = self.views.iter().any(|view| view.asked.is_some());
        if waits && now.saturating_duration_since(first_heard) < FIRST_HEADS_WITHIN {
            return Ok(());
        }
        let firsts = self.views.iter_mut().enumerate();
        let firsts = firsts.filter_map(|(index, view)| Some((index, view.first.take()?)));
        // Of equals the first in the order of preference.
        let highest = firsts.min_by_key(|(_, block)| std::cmp::Reverse(block.number));
        let configured = self.nodes.clone();
        let Some((source, first)) =
            highest.and_then(|(index, block)| Some((configured.configured().get(index)?, block)))
        else {
            return Ok(());
        };
        self.start_at(source, Arc::new(first)).await;
        Ok(())
    }

    async fn start_at(&mut self, endpoint: &Arc<Endpoint>, first: Arc<Block>) {
        for ancestor in self.ancestors(endpoint, &first).await {
            self.headers.push(ancestor);
        }
        self.deliver(endpoint, first);
    }

    /// Brings the kept headers up to an endpoint's head, delivering each step.
    async fn follow(
        &mut self,
        endpoint: &Arc<Endpoint>,
        latest: Arc<Block>,
    ) -> Result<(), NodeError> {
        loop {
            let Some((tip, hash)) = self.headers.newest() else {
                return Ok(());
            };
            let same = |block: Arc<Block>| block.hash == latest.hash;
            if self.headers.at(latest.number).is_some_and(same) {
                // Nothing new, or a node that lags behind.
                self.joins(endpoint);
                if latest.number == tip {
                    self.contest.confirmed(tip);
                }
                return Ok(());
            }
            if latest.number == tip + 1 && latest.parent == hash {
                self.joins(endpoint);
                self.deliver(endpoint, latest);
                return Ok(());
            }
            if self
                .headers
                .oldest()
                .is_some_and(|oldest| latest.number < oldest)
            {
                // No chain goes back that far: the node is stuck, or still syncing.
                return Err(NodeError::BadAnswer("a head far behind the one before"));
            }
            let fork = match latest.number > tip + 1 {
                true => match self.catch_up(endpoint, tip, hash, latest.number).await? {
                    Next::Continue => continue,
                    Next::Fork(block) => block,
                },
                false => Arc::clone(&latest),
            };
            if !self.has_stayed(endpoint, &latest, tip) {
                return Ok(());
            }
            self.reorganise(endpoint, fork).await?;
        }
    }

    /// Whether a head beside the followed chain is to be followed. One that is not higher is, only if the endpoint says so
    /// that showed the followed head: what another one shows may be old.
    fn has_stayed(&mut self, endpoint: &Arc<Endpoint>, latest: &Block, tip: u64) -> bool {
        let configured = self.nodes.configured().get(self.source);
        let source_is_there =
            configured.is_some_and(|source| source.is_healthy(HEAD) && !source.is_left_out());
        if !self.contest.is_open() {
            endpoint.doubt_identity();
        }
        let counts = latest.number > tip || endpoint.index == self.source || !source_is_there;
        counts
            && self
                .contest
                .rival(latest.number, Instant::now(), self.pace.interval())
    }

    fn joins(&self, endpoint: &Arc<Endpoint>) {
        if endpoint.set_strays(false) {
            tracing::info!(chain = %self.nodes.chain(), endpoint = endpoint.index, "endpoint is on the followed chain again");
        }
    }

    /// The blocks before the first one, oldest first: as many as are kept, or as the node tells of.
    async fn ancestors(&mut self, endpoint: &Arc<Endpoint>, first: &Block) -> VecDeque<Arc<Block>> {
        let mut found: VecDeque<Arc<Block>> = VecDeque::new();
        let (mut next, mut hash) = (first.number, first.parent);
        let last = first.number.saturating_sub(KEPT_HEADERS as u64 - 1);
        while next > last {
            let from = next.saturating_sub(CATCH_UP).max(last);
            let numbers: Vec<u64> = (from..next).collect();
            let blocks = match endpoint.blocks(&numbers).await {
                Ok(blocks) => blocks,
                Err(error) => {
                    tracing::info!(chain = %self.nodes.chain(), %error, "older blocks are not known; reorgs reach back to where watching began");
                    break;
                }
            };
            for block in blocks.into_iter().rev() {
                match block {
                    Some(block) if block.hash == hash => {
                        hash = block.parent;
                        found.push_front(Arc::new(block));
                    }
                    // A reorg in between, or a node that has pruned them.
                    Some(_) | None => return found,
                }
            }
            next = from;
        }
        found
    }

    /// Fetches the next blocks after the tip from the endpoint that has them, as long as each continues the one before.
    async fn catch_up(
        &mut self,
        endpoint: &Arc<Endpoint>,
        tip: u64,
        hash: B256,
        latest: u64,
    ) -> Result<Next, NodeError> {
        let last = latest.min(tip + CATCH_UP);
        let numbers: Vec<u64> = (tip + 1..=last).collect();
        let mut parent = hash;
        for block in endpoint.blocks(&numbers).await? {
            let block = block.ok_or(NodeError::BadAnswer("a block below the head is missing"))?;
            if block.parent != parent {
                if block.number == tip + 1 {
                    return Ok(Next::Fork(Arc::new(block)));
                }
                return Err(NodeError::BadAnswer("blocks of two branches"));
            }
            parent = block.hash;
            self.joins(endpoint);
            self.deliver(endpoint, Arc::new(block));
        }
        Ok(Next::Continue)
    }

    fn deliver(&mut self, endpoint: &Arc<Endpoint>, block: Arc<Block>) {
        let now = Instant::now();
        self.source = endpoint.index;
        self.contest.confirmed(block.number);
        if block.number > self.risen_to {
            self.risen_to = block.number;
            self.risen_at = now;
        }
        self.headers.push(Arc::clone(&block));
        // The head first: whoever hears of a block finds a head that is not behind it.
        self.head.send_replace(Some(Head {
            block: Arc::clone(&block),
            seen_at: now,
            risen_at: self.risen_at,
        }));
        // No receiver is no error.
        let _ = self.events.send(HeadEvent::Sealed(block));
    }
}
