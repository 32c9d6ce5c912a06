//! What an account has and how many of its transactions are mined, at one sealed block.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U64, U256, address};
use alloy_sol_types::{SolCall, sol};
use serde::Deserialize;
use teller_domain::{AccountNonce, BlockRef, Wei};
use tokio::time::sleep;

use crate::endpoint::Endpoint;
use crate::inspect::{LATE_BLOCK_PAUSE, LATE_BLOCK_TRIES};
use crate::nodes::not_a_call;
use crate::wire::Quantity;
use crate::{CallError, NodeError, Nodes};

const NONCE: &str = "eth_getTransactionCount";

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
        let asked = self.failover(NONCE, |endpoint| async move {
            let account = patiently(&endpoint, address, block).await;
            account.map_err(CallError::Node)
        });
        asked.await.map_err(not_a_call)
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
        let witnesses = self.witnesses();
        let mut seen = Vec::with_capacity(witnesses);
        let mut failure = NodeError::NoEndpoint;
        for endpoint in self.in_order(NONCE) {
            match patiently(&endpoint, address, block).await {
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

/// A node behind a load balancer that does not have the block yet is given a moment.
async fn patiently(
    endpoint: &Arc<Endpoint>,
    address: Address,
    block: BlockRef,
) -> Result<Account, NodeError> {
    let mut tries = 1;
    loop {
        match account_at(endpoint, address, block).await {
            Err(error) if error.lacks_block() && tries < LATE_BLOCK_TRIES => {
                tries += 1;
                sleep(LATE_BLOCK_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// The hash behind the reads: whatever the endpoint took for that height before is what it still takes for it.
async fn account_at(
    endpoint: &Arc<Endpoint>,
    address: Address,
    block: BlockRef,
) -> Result<Account, NodeError> {
    let at = (address, U64::from(block.number));
    let Quantity(nonce): Quantity<U64> = endpoint.call(NONCE, at).await.map_err(not_a_call)?;
    let Quantity(balance): Quantity<U256> = endpoint
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

#[derive(Debug, Deserialize)]
struct WireTransfer {
    to: Option<Address>,
    value: U256,
}

impl Nodes {
    /// Whom a transaction gave how much native currency; nothing for one that is not known, or that made a contract.
    ///
    /// # Errors
    /// When no endpoint gave a usable answer.
    pub async fn given(&self, transaction: B256) -> Result<Option<(Address, Wei)>, NodeError> {
        let found: Option<WireTransfer> = self.transaction(transaction).await?;
        Ok(found.and_then(|found| Some((found.to?, Wei(found.value)))))
    }
}

/// `GasPriceOracle` of OP-stack chains.
const GAS_PRICE_ORACLE: Address = address!("420000000000000000000000000000000000000F");
/// Far more than any chain asks for a short transaction's data, in wei: an answer above it is none.
const DEAREST_DATA: u128 = 1_000_000_000_000_000_000;

sol! {
    function getL1FeeUpperBound(uint256 unsignedTxSize) external view returns (uint256);
}

impl Nodes {
    /// The most that a transaction of so many bytes pays for its data beside its gas: nodes of OP-stack chains demand that
    /// its sender has this, too (`GasPriceOracle`, Fjord). Nothing where there is no such contract.
    ///
    /// # Errors
    /// When no endpoint gave a usable answer.
    pub async fn data_fee_bound(&self, bytes: usize, block: BlockRef) -> Result<Wei, NodeError> {
        let call = getL1FeeUpperBoundCall {
            unsignedTxSize: U256::from(bytes),
        };
        let answer = self
            .call(GAS_PRICE_ORACLE, call.abi_encode().into(), block.number)
            .await;
        match answer {
            Ok(answer) if answer.is_empty() => Ok(Wei::ZERO),
            Ok(answer) => getL1FeeUpperBoundCall::abi_decode_returns_validate(&answer)
                .ok()
                .filter(|fee| *fee <= U256::from(DEAREST_DATA))
                .map(Wei)
                .ok_or(NodeError::BadAnswer("getL1FeeUpperBound")),
            // An older oracle does not know the function.
            Err(CallError::Reverted(_)) => Ok(Wei::ZERO),
            Err(CallError::Node(error)) => Err(error),
        }
    }
}
