//! Who spent a Permit2 nonce that a mined attempt did not spend.
//!
//! Permit2 says nothing when a nonce is spent, and a used nonce does not prove that money moved. Only the calldata of the
//! transaction names the permit. So a transfer counts for a payment only if its transaction can be read and makes the
//! call for exactly this permit; one that goes through a contract that is not known counts for nobody, because two
//! payments of the same terms could both be taken for it.

use alloy_primitives::{B256, b256};
use teller_chain::{Log, NodeError};
use teller_domain::{BlockRef, PERMIT2, Payment};
use teller_schemes::EventLog;
use teller_schemes::permit2::{Permit, ProxyCall, calls_of, invalidates, settlements};

use crate::core::Finding;
use crate::engine::Shell;
use crate::investigate::{FIRST_RANGE, OLDEST_USE, Unclear, WIDEST_RANGE, receipt_of};

const TRANSFER: B256 = b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");
const INVALIDATION: B256 =
    b256!("3704902f963766a4e561bbaab6e6cdc1b1dd12f6e9e99648da8843b3f46b918d");

/// How far the head must be past the block at which the nonce was seen used before "nobody knows who used it" is
/// believed: a node that lags does not know yet.
const PATIENCE_BLOCKS: u64 = 3;

impl Shell {
    /// Finds what became of a permit whose nonce is used, newest blocks first.
    pub(crate) async fn find_spending(
        &self,
        payment: &Payment,
        permit: &Permit,
        used_at: BlockRef,
    ) -> Result<Finding, Unclear> {
        let nodes = &self.parts.nodes;
        let head = nodes.head().await?.number.max(used_at.number);
        let oldest = head.saturating_sub(OLDEST_USE);
        let (mut to, mut range) = (head, FIRST_RANGE);
        loop {
            let from = to.saturating_sub(range - 1).max(oldest);
            match self.find_in_range(payment, permit, from, to).await {
                Ok(Some(finding)) => return Ok(finding),
                Ok(None) if from == oldest => break,
                Ok(None) => {
                    to = from - 1;
                    range = (range * 2).min(WIDEST_RANGE);
                }
                // Many nodes refuse wide ranges, each with words of its own.
                Err(Unclear::Node(NodeError::Rpc { .. } | NodeError::Http { .. })) if range > 1 => {
                    range /= 2;
                }
                Err(error) => return Err(error),
            }
        }
        if head < used_at.number.saturating_add(PATIENCE_BLOCKS) {
            return Err(NodeError::BadAnswer("a used nonce without its transaction").into());
        }
        Ok(Finding::Spent { transaction: None })
    }

    async fn find_in_range(
        &self,
        payment: &Payment,
        permit: &Permit,
        from: u64,
        to: u64,
    ) -> Result<Option<Finding>, Unclear> {
        let nodes = &self.parts.nodes;
        let payer = payment.key.payer;
        let topics = [vec![INVALIDATION], vec![payer.into_word()]];
        let thrown_away = nodes.logs(PERMIT2, &topics, from, to).await?;
        let mut thrown_away = thrown_away.iter();
        if let Some(log) = thrown_away.find(|log| invalidates(&event(log), payer, permit.nonce)) {
            return Ok(Some(Finding::Spent {
                transaction: Some(log.transaction),
            }));
        }
        let topics = [
            vec![TRANSFER],
            vec![payer.into_word()],
            vec![payment.payee.into_word()],
        ];
        let moved = nodes.logs(payment.asset, &topics, from, to).await?;
        for log in moved.iter().rev() {
            if let Some(finding) = self.read_spending(payment, permit, log).await? {
                return Ok(Some(finding));
            }
        }
        Ok(None)
    }

    /// Whether the transaction of this transfer spends the permit, and if so, what it did.
    async fn read_spending(
        &self,
        payment: &Payment,
        permit: &Permit,
        log: &Log,
    ) -> Result<Option<Finding>, Unclear> {
        let nodes = &self.parts.nodes;
        let called = nodes.calldata(log.transaction).await?;
        let Some((Some(target), data)) = called else {
            return Ok(None);
        };
        let calls = calls_of(permit.chain, self.parts.multicall3, target, &data);
        let payer = payment.key.payer;
        let is_ours = |call: &&ProxyCall| call.owner == payer && call.permit.nonce == permit.nonce;
        let Some(spending) = calls.iter().find(is_ours) else {
            return Ok(None);
        };
        let receipt = self.canonical_receipt(log.transaction).await?;
        let found = settlements(receipt.logs.iter().map(event));
        let paid: Vec<u64> = found
            .iter()
            .filter_map(|found| found.pays(&spending.permit, payer, spending.amount))
            .collect();
        if paid.is_empty() {
            // The call was there and did nothing: something else spent the nonce.
            return Ok(None);
        }
        let is_signed = spending.permit == *permit && spending.amount == payment.value;
        let place = place_among(&calls, spending, paid.len());
        let log_index = place
            .and_then(|place| paid.get(place))
            .filter(|_| is_signed);
        Ok(Some(match log_index {
            Some(log_index) => Finding::SettledElsewhere {
                ours: self.is_ours(receipt.transaction).await?,
                receipt: receipt_of(&receipt, *log_index),
            },
            None => Finding::Spent {
                transaction: Some(receipt.transaction),
            },
        }))
    }
}

/// Which of the settlements of the same terms is this call's: calls and events come in the same order. `None` where not
/// all of them succeeded, because nothing then tells which did.
fn place_among(calls: &[ProxyCall], spending: &ProxyCall, settled: usize) -> Option<usize> {
    let terms = |call: &ProxyCall| {
        let permit = &call.permit;
        let proxy = permit.proxy.address();
        (proxy, permit.token, call.owner, permit.to, call.amount)
    };
    let mut nonces = Vec::new();
    for call in calls.iter().filter(|call| terms(call) == terms(spending)) {
        if !nonces.contains(&call.permit.nonce) {
            nonces.push(call.permit.nonce);
        }
    }
    let place = nonces
        .iter()
        .position(|nonce| *nonce == spending.permit.nonce)?;
    (nonces.len() == settled).then_some(place)
}

fn event(log: &Log) -> EventLog<'_> {
    EventLog {
        address: log.address,
        topics: &log.topics,
        data: &log.data,
        index: log.index,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, Bytes, U256, keccak256};
    use teller_domain::{AssetAmount, ChainId};
    use teller_schemes::permit2::Proxy;

    fn call(nonce: u64, amount: u64) -> ProxyCall {
        let amount = AssetAmount::from(amount);
        ProxyCall {
            permit: Permit {
                chain: ChainId(1),
                token: Address::repeat_byte(1),
                amount,
                nonce: U256::from(nonce),
                deadline: U256::ONE,
                to: Address::repeat_byte(2),
                valid_after: U256::ZERO,
                proxy: Proxy::Exact,
            },
            owner: Address::repeat_byte(3),
            amount,
            signature: Bytes::new(),
        }
    }

    #[test]
    fn a_settlement_among_equal_ones_is_told_only_if_all_of_them_were_made() {
        let calls = [call(1, 5), call(2, 6), call(3, 5), call(3, 5)];
        assert_eq!(place_among(&calls, &calls[0], 2), Some(0));
        assert_eq!(place_among(&calls, &calls[2], 2), Some(1));
        assert_eq!(place_among(&calls, &calls[2], 1), None);
        assert_eq!(place_among(&calls, &calls[1], 1), Some(0));
    }

    #[test]
    fn topics_are_those_of_the_event_signatures() {
        assert_eq!(keccak256("Transfer(address,address,uint256)"), TRANSFER);
        let invalidation = "UnorderedNonceInvalidation(address,uint256,uint256)";
        assert_eq!(keccak256(invalidation), INVALIDATION);
    }
}
