//! What single endpoints say, where it takes more than the first good answer: open slots, blocks that may be orphaned,
//! the heads behind the latest one, and Flashblocks.

use std::sync::Arc;

use alloy_json_rpc::RpcRecv;
use alloy_primitives::{Address, B256, U64};
use futures::future::join_all;
use serde::de::IgnoredAny;
use teller_domain::{AccountNonce, BlockRef};
use tokio::time::timeout;

use crate::endpoint::Endpoint;
use crate::error::Absence;
use crate::failover::{NoAnswer, first_answer};
use crate::nodes::not_a_call;
use crate::wire::{Quantity, WireBlock};
use crate::{Block, CallError, NodeError, Nodes, TxReceipt};

/// What one endpoint says of an account and of some transactions, asked in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Its latest block.
    pub sealed: BlockRef,
    /// The account's nonce at that block.
    pub sealed_nonce: AccountNonce,
    /// The receipts that it has of the transactions.
    pub receipts: Vec<TxReceipt>,
    /// Whether it knows any of the transactions, mined or waiting.
    pub known: bool,
    /// Whether it has looked everywhere: one whose index of transactions is being built does not know what it has.
    pub searched: bool,
    /// The account's nonce at an older block that was named, if it could be told.
    pub nonce_then: Option<AccountNonce>,
}

/// Which of some blocks are canonical. Those that could not be told of are in neither list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockCheck {
    /// These are.
    pub canonical: Vec<BlockRef>,
    /// At the heights of these there are other blocks.
    pub orphaned: Vec<BlockRef>,
}

const NO_BLOCK: &str = "no block of that tag";

/// Nodes have many words for a tag that they do not know, or for a head that they do not have yet.
fn knows_no_tag(error: &NodeError) -> bool {
    matches!(
        error,
        NodeError::Rpc { .. } | NodeError::BadAnswer(NO_BLOCK)
    )
}

impl Nodes {
    /// Asks every endpoint, all at once and each within the time limit of one call. Those that fail are left out. `then`
    /// is an older block at which the nonce is wanted as well.
    pub async fn sightings(
        &self,
        account: Address,
        hashes: &[B256],
        then: Option<BlockRef>,
    ) -> Vec<Sighting> {
        let asked = self.all().map(|endpoint| async move {
            let asked = sighting(endpoint, account, hashes, then);
            let sighting = timeout(endpoint.deadline, asked).await;
            match sighting {
                Ok(Ok(sighting)) => Some(sighting),
                Ok(Err(error)) => {
                    tracing::debug!(chain = %self.chain(), endpoint = endpoint.index, %error, "no sighting");
                    None
                }
                Err(_) => None,
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// The `safe` and the `finalized` block; `None` for a tag that the node does not know.
    ///
    /// # Errors
    /// When no node could be asked.
    pub async fn safe_and_finalized(
        &self,
    ) -> Result<(Option<BlockRef>, Option<BlockRef>), NodeError> {
        let (safe, finalized) = futures::join!(self.tagged("safe"), self.tagged("finalized"));
        Ok((safe?, finalized?))
    }

    /// Whoever has no such block is no reason not to ask the others.
    async fn tagged(&self, tag: &'static str) -> Result<Option<BlockRef>, NodeError> {
        let method = "eth_getBlockByNumber";
        let asked = first_answer(
            || self.in_order(method),
            method,
            |endpoint| async move {
                let block: Option<WireBlock> = endpoint.call(method, (tag, false)).await?;
                let block = block.ok_or(NodeError::BadAnswer(NO_BLOCK))?;
                Ok(Block::from(block).reference())
            },
        );
        match asked.await {
            Ok(block) => Ok(Some(block)),
            Err(NoAnswer::Reverted(_)) => Ok(None),
            Err(NoAnswer::Failed(failures)) => {
                let failure = failures.into_iter().find(|error| !knows_no_tag(error));
                failure.map_or(Ok(None), Err)
            }
        }
    }

    /// Whether these blocks are canonical. That one is not takes the word of two endpoints where two are configured.
    ///
    /// # Errors
    /// When no node could be asked.
    pub async fn check_blocks(&self, blocks: &[BlockRef]) -> Result<BlockCheck, NodeError> {
        let mut check = BlockCheck::default();
        let mut doubted: Vec<(BlockRef, usize)> = blocks.iter().map(|block| (*block, 0)).collect();
        let mut failure = None;
        let mut answered = false;
        for endpoint in self.in_order("eth_getBlockByNumber") {
            if doubted.is_empty() {
                break;
            }
            let found = match blocks_of(&endpoint, &doubted).await {
                Ok(found) => found,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            answered = true;
            let mut left = Vec::new();
            for ((block, doubts), found) in doubted.into_iter().zip(found) {
                match found {
                    // The first one to ask says yes. Later, a yes against a no: nobody knows.
                    Some(hash) if hash == block.hash && doubts == 0 => check.canonical.push(block),
                    Some(hash) if hash == block.hash => {}
                    Some(_) if doubts + 1 >= self.witnesses() => check.orphaned.push(block),
                    Some(_) => left.push((block, doubts + 1)),
                    None => left.push((block, doubts)),
                }
            }
            doubted = left;
        }
        match failure {
            Some(error) if !answered => Err(error),
            _ => Ok(check),
        }
    }

    /// Whether any endpoint is configured that shows Flashblocks.
    pub fn shows_flashblocks(&self) -> bool {
        self.has_flashblocks()
    }

    /// The receipts that endpoints with Flashblocks have of these transactions. Their blocks may not be sealed yet: such
    /// a receipt shows what is about to happen, and proves nothing.
    ///
    /// # Errors
    /// When endpoints are configured and none answers.
    pub async fn flashblock_receipts(&self, hashes: &[B256]) -> Result<Vec<TxReceipt>, NodeError> {
        if hashes.is_empty() || !self.has_flashblocks() {
            return Ok(Vec::new());
        }
        let hashes: Arc<[B256]> = hashes.into();
        let asked = first_answer(
            || self.flashblocks(RECEIPT),
            RECEIPT,
            |endpoint| {
                let hashes = Arc::clone(&hashes);
                async move { endpoint.receipts(&hashes).await.map(Seen::mined) }
            },
        );
        asked
            .await
            .map_err(|failed| not_a_call(failed.most_telling()))
    }
}

/// The nonce first: whatever it has passed must have a receipt by the time that those are asked for.
async fn sighting(
    endpoint: &Arc<Endpoint>,
    account: Address,
    hashes: &[B256],
    then: Option<BlockRef>,
) -> Result<Sighting, CallError> {
    let head: Option<WireBlock> = endpoint
        .call("eth_getBlockByNumber", ("latest", false))
        .await?;
    let head = head.ok_or(NodeError::BadAnswer("no latest block"))?;
    let sealed = Block::from(head).reference();
    let sealed_nonce = nonce_at(endpoint, account, sealed.number).await?;
    let receipts = endpoint.receipts(hashes).await?;
    let mut searched = receipts.unsearched.is_none();
    let receipts = receipts.mined();
    let mut known = !receipts.is_empty();
    if !known {
        let found = seen::<IgnoredAny>(endpoint, TRANSACTION, hashes).await?;
        known = found.each.iter().any(Option::is_some);
        searched &= found.unsearched.is_none();
    }
    let nonce_then = match then {
        Some(block) => nonce_of(endpoint, account, block).await.ok(),
        None => None,
    };
    Ok(Sighting {
        sealed,
        sealed_nonce,
        receipts,
        known,
        searched,
        nonce_then,
    })
}

async fn nonce_at(
    endpoint: &Arc<Endpoint>,
    account: Address,
    height: u64,
) -> Result<AccountNonce, CallError> {
    let Quantity(nonce): Quantity<U64> = endpoint
        .call("eth_getTransactionCount", (account, U64::from(height)))
        .await?;
    Ok(AccountNonce(nonce.to()))
}

/// The hash behind the read: what the endpoint took for that height before is what it still takes for it.
async fn nonce_of(
    endpoint: &Arc<Endpoint>,
    account: Address,
    block: BlockRef,
) -> Result<AccountNonce, CallError> {
    let nonce = nonce_at(endpoint, account, block.number).await?;
    match endpoint.hash_at(block.number).await? == Some(block.hash) {
        true => Ok(nonce),
        false => Err(NodeError::BadAnswer("the endpoint has another block there").into()),
    }
}

pub(crate) const RECEIPT: &str = "eth_getTransactionReceipt";
pub(crate) const TRANSACTION: &str = "eth_getTransactionByHash";

/// What an endpoint has of some transactions, in their order.
pub(crate) struct Seen<T> {
    pub(crate) each: Vec<Option<T>>,
    /// Why `None` is no evidence, if it is none.
    pub(crate) unsearched: Option<NodeError>,
}

impl<T> Seen<T> {
    /// The same as evidence.
    ///
    /// # Errors
    /// When something was not seen by an endpoint that has not looked everywhere.
    pub(crate) fn certain(self) -> Result<Vec<Option<T>>, CallError> {
        match self.unsearched {
            Some(error) => Err(error.into()),
            None => Ok(self.each),
        }
    }
}

impl Seen<TxReceipt> {
    fn mined(self) -> Vec<TxReceipt> {
        self.each.into_iter().flatten().collect()
    }
}

/// Asks in one batch; each by itself if the endpoint has an error for what it has not seen.
pub(crate) async fn seen<T: RpcRecv>(
    endpoint: &Endpoint,
    method: &'static str,
    hashes: &[B256],
) -> Result<Seen<T>, CallError> {
    let params: Vec<_> = hashes.iter().map(|hash| (*hash,)).collect();
    match endpoint.batch(method, &params).await {
        Err(CallError::Node(error)) if error.absence().is_some() => {}
        answer => {
            return answer.map(|each| Seen {
                each,
                unsearched: None,
            });
        }
    }
    let calls = params
        .into_iter()
        .map(|params| endpoint.call::<_, Option<T>>(method, params));
    let mut seen = Seen {
        each: Vec::with_capacity(hashes.len()),
        unsearched: None,
    };
    for answer in join_all(calls).await {
        let found = match answer {
            Ok(found) => found,
            Err(CallError::Node(error)) => match error.absence() {
                Some(Absence::NotFound) => None,
                Some(Absence::Unsearched) => {
                    seen.unsearched = Some(error);
                    None
                }
                None => return Err(error.into()),
            },
            Err(error) => return Err(error),
        };
        seen.each.push(found);
    }
    Ok(seen)
}

/// The hashes at these heights; `None` above the endpoint's head.
async fn blocks_of(
    endpoint: &Arc<Endpoint>,
    blocks: &[(BlockRef, usize)],
) -> Result<Vec<Option<B256>>, NodeError> {
    let params: Vec<_> = blocks
        .iter()
        .map(|(block, _)| (U64::from(block.number), false))
        .collect();
    let found: Vec<Option<WireBlock>> = endpoint
        .batch("eth_getBlockByNumber", &params)
        .await
        .map_err(not_a_call)?;
    Ok(found
        .into_iter()
        .map(|block| block.map(|block| Block::from(block).hash))
        .collect())
}
