//! Reads and simulations of many payments in few calls. Requests that arrive while a read is in flight travel together
//! in the next one; an idle inspector sends at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alloy_primitives::{Address, Bytes};
use teller_domain::BlockRef;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::sleep;

use crate::endpoint::Endpoint;
use crate::lens::{At, LensCall, Target, View, read_code_sizes, read_inspect};
use crate::{CallError, HeadHandle, InspectItem, Inspection, NodeError, Nodes};

/// How often a call is repeated that names a block which the node behind a load balancer does not have yet.
pub(crate) const LATE_BLOCK_TRIES: u32 = 4;
pub(crate) const LATE_BLOCK_PAUSE: Duration = Duration::from_millis(40);
/// How often a witness is asked that does not have the block yet, or how often the head is looked at that is not there
/// yet: for two blocks of 2 s.
const WITNESS_TRIES: u32 = 20;
const WITNESS_PAUSE: Duration = Duration::from_millis(200);
/// Calls are not made smaller than this by failures: one hostile item must not end coalescing.
const LEAST_ITEMS: usize = 8;
/// Gas for the code size of one account, cold.
const CODE_SIZE_GAS: u64 = 5_000;

/// The bounds of an [`Inspector`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InspectLimits {
    /// Calls in flight at a time.
    pub in_flight: usize,
    /// Items in one call.
    pub items: usize,
    /// Gas that one simulated item may use.
    pub gas_per_item: u64,
    /// Gas of one call: below what nodes allow, and above what its items use together (about 110,000 each).
    pub gas: u64,
    /// Requests that wait; more make the caller wait.
    pub queue: usize,
    /// How long to wait for the first block.
    pub first_head: Duration,
}

impl Default for InspectLimits {
    /// Two calls of 200 items and 30M gas.
    fn default() -> Self {
        Self {
            in_flight: 2,
            items: 200,
            gas_per_item: 200_000,
            gas: 30_000_000,
            queue: 4_096,
            first_head: Duration::from_secs(5),
        }
    }
}

struct Request {
    item: InspectItem,
    answer: oneshot::Sender<Result<Inspection, NodeError>>,
}

/// Inspects payments of one network. Cheap to clone; ends with its last clone.
#[derive(Debug, Clone)]
pub struct Inspector {
    requests: mpsc::Sender<Request>,
    reader: Reader,
}

impl Inspector {
    /// Starts an inspector. Everything is read at the head that `heads` knows when a call leaves.
    pub fn spawn(nodes: Nodes, heads: HeadHandle, limits: InspectLimits) -> Self {
        let (requests, queue) = mpsc::channel(limits.queue.max(1));
        let reader = Reader {
            nodes,
            heads,
            limits,
            size: Arc::new(AtomicUsize::new(limits.items.max(1))),
        };
        tokio::spawn(dispatch(reader.clone(), queue));
        Self { requests, reader }
    }

    /// Inspects one payment, together with whatever else waits.
    ///
    /// # Errors
    /// When no node gave a usable answer.
    pub async fn inspect(&self, item: InspectItem) -> Result<Inspection, NodeError> {
        let (answer, receiver) = oneshot::channel();
        self.requests
            .send(Request { item, answer })
            .await
            .map_err(|_| NodeError::NoEndpoint)?;
        receiver.await.unwrap_or(Err(NodeError::Timeout))
    }

    /// Inspects many payments; answers in their order.
    ///
    /// # Errors
    /// When no node gave a usable answer for one of them.
    pub async fn inspect_many(
        &self,
        items: Vec<InspectItem>,
    ) -> Result<Vec<Inspection>, NodeError> {
        let mut inspections = Vec::with_capacity(items.len());
        for chunk in items.chunks(self.reader.size()) {
            for inspection in self.reader.inspect(chunk.to_vec()).await {
                inspections.push(inspection?);
            }
        }
        Ok(inspections)
    }

    /// Inspects payments for evidence: at one sealed block, not below `not_before`, as each of two endpoints sees it (one
    /// where only one is configured). One list for each of them, in the order of `items`. The block is named by its
    /// hash; of a node that cannot take that, the hash at its height is read afterwards. A node that lags is given time.
    ///
    /// # Errors
    /// When the block does not come, is not canonical any more, or too few endpoints gave a usable answer.
    pub async fn witnessed(
        &self,
        items: &[InspectItem],
        not_before: BlockRef,
    ) -> Result<Vec<Vec<Inspection>>, NodeError> {
        let block = self.reader.head_from(not_before).await?;
        let mut witnesses = Vec::new();
        let mut failure = NodeError::NoEndpoint;
        for endpoint in self.reader.nodes.in_order("eth_call") {
            match self.reader.witness(&endpoint, items, block).await {
                Ok(inspections) => witnesses.push(inspections),
                Err(error) => failure = error,
            }
            if witnesses.len() >= self.reader.nodes.witnesses() {
                return Ok(witnesses);
            }
        }
        Err(failure)
    }

    /// The code sizes of accounts and the block that they were read at.
    ///
    /// # Errors
    /// When no node gave a usable answer.
    pub async fn code_sizes(&self, accounts: &[Address]) -> Result<(u64, Vec<u64>), NodeError> {
        self.reader.code_sizes(accounts).await
    }
}

/// Gathers what waits and reads it, with a bounded number of reads in flight.
async fn dispatch(reader: Reader, mut queue: mpsc::Receiver<Request>) {
    let permits = Arc::new(Semaphore::new(reader.limits.in_flight.max(1)));
    while let Some(first) = queue.recv().await {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let mut requests = vec![first];
        while requests.len() < reader.size() {
            match queue.try_recv() {
                Ok(request) => requests.push(request),
                Err(_) => break,
            }
        }
        // Whoever stopped waiting is not read for.
        requests.retain(|request| !request.answer.is_closed());
        if requests.is_empty() {
            continue;
        }
        let reader = reader.clone();
        tokio::spawn(async move {
            let (items, answers): (Vec<_>, Vec<_>) = requests
                .into_iter()
                .map(|request| (request.item, request.answer))
                .unzip();
            let results = reader.inspect(items).await;
            drop(permit);
            for (answer, result) in answers.into_iter().zip(results) {
                // A requester that is gone needs no answer.
                let _ = answer.send(result);
            }
        });
    }
}

#[derive(Debug, Clone)]
struct Reader {
    nodes: Nodes,
    heads: HeadHandle,
    limits: InspectLimits,
    /// How many items travel together: fewer after a call that was too much for the node, slowly more again.
    size: Arc<AtomicUsize>,
}

type Results = Vec<Result<Inspection, NodeError>>;

/// Who is asked, and how the block is named.
#[derive(Clone)]
enum Source {
    /// Whoever answers first, by height.
    Any,
    /// One endpoint.
    Witness(Arc<Endpoint>, At),
}

impl Reader {
    /// One result for each item, in their order.
    async fn inspect(&self, items: Vec<InspectItem>) -> Results {
        let network = self.nodes.chain().to_string();
        metrics::histogram!("teller_inspect_items", "network" => network).record(count(&items));
        match self.heads.first(self.limits.first_head).await {
            Ok(head) => {
                self.read_sorted(&items, head.block.reference(), &Source::Any)
                    .await
            }
            Err(error) => items.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Reads items of any kinds: those that can share a call do, and those that may use much gas are read apart.
    async fn read_sorted(
        &self,
        items: &[InspectItem],
        block: BlockRef,
        source: &Source,
    ) -> Results {
        let mut results: Vec<Option<Result<Inspection, NodeError>>> = vec![None; items.len()];
        let mut shared: Vec<(View, Vec<usize>)> = Vec::new();
        for (index, (item, result)) in items.iter().zip(&mut results).enumerate() {
            let view = item.view();
            if item.gas.is_some() {
                *result = Some(self.read_apart(item, block, source).await);
                continue;
            }
            match shared.iter_mut().find(|(known, _)| *known == view) {
                Some((_, indices)) => indices.push(index),
                None => shared.push((view, vec![index])),
            }
        }
        for (view, indices) in shared {
            let chosen = indices.iter().filter_map(|index| items.get(*index));
            let chosen: Vec<InspectItem> = chosen.cloned().collect();
            let gas_per_item = self.limits.gas_per_item;
            let read = self.read(view, &chosen, gas_per_item, block, source).await;
            for (index, read) in indices.into_iter().zip(read) {
                if let Some(result) = results.get_mut(index) {
                    *result = Some(read);
                }
            }
        }
        let lost = || Err(NodeError::BadAnswer("the lens lost items"));
        let results = results.into_iter();
        results.map(|result| result.unwrap_or_else(lost)).collect()
    }

    /// Reads one item in calls of its own. What a call through another contract would do is one question, what the
    /// token says of the nonce another.
    async fn read_apart(
        &self,
        item: &InspectItem,
        block: BlockRef,
        source: &Source,
    ) -> Result<Inspection, NodeError> {
        let gas = item.gas.unwrap_or(self.limits.gas_per_item);
        let one = |view, item: InspectItem| async move {
            let read = self.read(view, &[item], gas, block, source).await;
            read.into_iter()
                .next()
                .unwrap_or(Err(NodeError::BadAnswer("the lens lost items")))
        };
        let simulated = one(item.view(), item.clone()).await?;
        let Target::Through(_) = item.target else {
            return Ok(simulated);
        };
        let state = InspectItem {
            call: Bytes::new(),
            ..item.clone()
        };
        Ok(Inspection {
            simulation: simulated.simulation,
            ..one(View::Tokens, state).await?
        })
    }

    /// Reads items of one kind; a call that fails because of what is in it is repeated in halves.
    fn read<'a>(
        &'a self,
        view: View,
        items: &'a [InspectItem],
        gas_per_item: u64,
        block: BlockRef,
        source: &'a Source,
    ) -> Pin<Box<dyn Future<Output = Results> + Send + 'a>> {
        Box::pin(async move {
            let limits = &self.limits;
            let at = match source {
                Source::Any => At::Number(block.number),
                Source::Witness(_, at) => *at,
            };
            let call = LensCall::inspect(view, items, gas_per_item, limits.gas, at);
            let error = match self.call(call, source).await {
                Ok(answer) => match read_inspect(view, &answer, items, block) {
                    Ok(inspections) => {
                        self.went_well(items.len());
                        return inspections.into_iter().map(Ok).collect();
                    }
                    Err(error) => CallError::Node(error),
                },
                Err(error) => error,
            };
            if items.len() > 1 && blames_items(&error) {
                self.was_too_much(items.len());
                let (left, right) = items.split_at(items.len() / 2);
                let mut results = self.read(view, left, gas_per_item, block, source).await;
                results.extend(self.read(view, right, gas_per_item, block, source).await);
                return results;
            }
            let error = match error {
                CallError::Node(error) => error,
                CallError::Reverted(_) => NodeError::BadAnswer("the lens reverted"),
            };
            items.iter().map(|_| Err(error.clone())).collect()
        })
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    fn went_well(&self, items: usize) {
        let size = self.size();
        if items >= size && size < self.limits.items {
            let more = (size + size / 16 + 1).min(self.limits.items);
            self.size.store(more, Ordering::Relaxed);
        }
    }

    fn was_too_much(&self, items: usize) {
        let less = (items / 2).max(LEAST_ITEMS).min(self.size());
        self.size.store(less, Ordering::Relaxed);
    }

    async fn code_sizes(&self, accounts: &[Address]) -> Result<(u64, Vec<u64>), NodeError> {
        let head = self.heads.first(self.limits.first_head).await?;
        let block = head.block.number;
        let mut sizes = Vec::with_capacity(accounts.len());
        let most = usize::try_from(self.limits.gas / CODE_SIZE_GAS).unwrap_or(usize::MAX);
        for chunk in accounts.chunks(most.max(1)) {
            let call = LensCall::code_sizes(chunk, self.limits.gas, At::Number(block));
            let answer = self
                .call(call, &Source::Any)
                .await
                .map_err(|error| match error {
                    CallError::Node(error) => error,
                    CallError::Reverted(_) => NodeError::BadAnswer("the lens reverted"),
                })?;
            sizes.extend(read_code_sizes(&answer, chunk.len())?);
        }
        Ok((block, sizes))
    }

    /// A node that does not have the block yet is given a moment.
    async fn call(&self, call: LensCall, source: &Source) -> Result<Bytes, CallError> {
        let (most, pause) = match source {
            Source::Any => (LATE_BLOCK_TRIES, LATE_BLOCK_PAUSE),
            Source::Witness(..) => (WITNESS_TRIES, WITNESS_PAUSE),
        };
        let mut tries = 0;
        loop {
            let result = match source {
                Source::Any => self.nodes.raw_call(call.clone()).await,
                Source::Witness(endpoint, _) => endpoint.call("eth_call", call.clone()).await,
            };
            match result {
                Err(CallError::Node(error)) if error.lacks_block() && tries + 1 < most => {
                    tries += 1;
                    sleep(pause).await;
                }
                result => return result,
            }
        }
    }

    /// The head, once it is not below a block.
    async fn head_from(&self, not_before: BlockRef) -> Result<BlockRef, NodeError> {
        for _ in 0..WITNESS_TRIES {
            let head = self.heads.first(self.limits.first_head).await?;
            let head = head.block.reference();
            if head.number >= not_before.number {
                return Ok(head);
            }
            sleep(WITNESS_PAUSE).await;
        }
        Err(NodeError::BadAnswer("the head is behind what was seen"))
    }

    async fn witness(
        &self,
        endpoint: &Arc<Endpoint>,
        items: &[InspectItem],
        block: BlockRef,
    ) -> Result<Vec<Inspection>, NodeError> {
        let by_hash = Source::Witness(Arc::clone(endpoint), At::Hash(block.hash));
        match self.read_all(items, block, &by_hash).await {
            Err(NodeError::Rpc { code, .. }) if takes_no_hash(code) => {}
            answer => return answer,
        }
        let by_number = Source::Witness(Arc::clone(endpoint), At::Number(block.number));
        let inspections = self.read_all(items, block, &by_number).await?;
        if endpoint.hash_at(block.number).await? == Some(block.hash) {
            return Ok(inspections);
        }
        Err(NodeError::BadAnswer("a reorg between two reads"))
    }

    async fn read_all(
        &self,
        items: &[InspectItem],
        block: BlockRef,
        source: &Source,
    ) -> Result<Vec<Inspection>, NodeError> {
        let mut inspections = Vec::with_capacity(items.len());
        for chunk in items.chunks(self.size().max(1)) {
            for inspection in self.read_sorted(chunk, block, source).await {
                inspections.push(inspection?);
            }
        }
        Ok(inspections)
    }
}

/// Invalid request, unknown method, invalid parameters: what nodes say to a block that is named by an object.
fn takes_no_hash(code: i64) -> bool {
    (-32602..=-32600).contains(&code)
}

/// Whether fewer items may succeed where many failed; an unreachable node stays unreachable.
fn blames_items(error: &CallError) -> bool {
    match error {
        CallError::Reverted(_) => true,
        CallError::Node(error) => match error {
            NodeError::Rpc { .. } => !error.lacks_block(),
            NodeError::Http { status } => *status == 413,
            NodeError::BadAnswer(_) => true,
            NodeError::Timeout
            | NodeError::Refused
            | NodeError::Broken
            | NodeError::Limited { .. }
            | NodeError::NoEndpoint
            | NodeError::WrongChain { .. }
            | NodeError::WrongGenesis { .. } => false,
        },
    }
}

fn count(items: &[InspectItem]) -> f64 {
    u32::try_from(items.len()).map_or(f64::MAX, f64::from)
}
