//! What an account has and how many of its transactions are mined, at one sealed block.

use std::sync::Arc;

use alloy_primitives::{Address, U64, U256};
use teller_domain::{AccountNonce, BlockRef, Wei};

use crate::endpoint::Endpoint;
use crate::nodes::not_a_call;
use crate::{NodeError, Nodes};

/// A plain account after a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// How many of its transactions are mined.
    pub nonce: AccountNonce,
    /// Its native balance.
    pub balance: Wei,
}

impl Nodes {
    /// An account after a block that must be canonical, as the first endpoint that can tell sees it.
    ///
    /// # Errors
    /// When no endpoint gave a usable answer.
    pub async fn account(&self, address: Address, block: BlockRef) -> Result<Account, NodeError> {
        let seen = self.accounts(address, block, 1).await?;
        seen.first().copied().ok_or(NodeError::NoEndpoint)
    }

    /// The same for evidence: as each of two endpoints sees it, one where only one is configured.
    ///
    /// # Errors
    /// When too few endpoints gave a usable answer.
    pub async fn witnessed_account(
        &self,
        address: Address,
        block: BlockRef,
    ) -> Result<Vec<Account>, NodeError> {
        self.accounts(address, block, self.witnesses()).await
    }

    async fn accounts(
        &self,
        address: Address,
        block: BlockRef,
        witnesses: usize,
    ) -> Result<Vec<Account>, NodeError> {
        let mut seen = Vec::with_capacity(witnesses);
        let mut failure = NodeError::NoEndpoint;
        for endpoint in self.in_order() {
            match account_at(&endpoint, address, block).await {
                Ok(account) => seen.push(account),
                Err(error) => failure = error,
            }
            if seen.len() >= witnesses {
                return Ok(seen);
            }
        }
        Err(failure)
    }
}

/// The hash behind the reads: whatever the endpoint took for that height before is what it still takes for it.
async fn account_at(
    endpoint: &Arc<Endpoint>,
    address: Address,
    block: BlockRef,
) -> Result<Account, NodeError> {
    let at = (address, U64::from(block.number));
    let nonce: U64 = endpoint
        .call("eth_getTransactionCount", at)
        .await
        .map_err(not_a_call)?;
    let balance: U256 = endpoint
        .call("eth_getBalance", at)
        .await
        .map_err(not_a_call)?;
    if endpoint.hash_at(block.number).await? != Some(block.hash) {
        return Err(NodeError::BadAnswer("the endpoint has another block there"));
    }
    Ok(Account {
        nonce: AccountNonce(nonce.to()),
        balance: Wei(balance),
    })
}
