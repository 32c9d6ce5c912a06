//! Which transaction spent a Permit2 nonce, and whether it was this payment's permit.
//!
//! Permit2 says nothing when a nonce is spent, and a used nonce does not prove that money moved. An x402 permit can be spent
//! through its proxy alone, whose event names no nonce either. So the permit of a settlement is read from the transaction's
//! calldata where that shows the call, else from the calls that the transaction made (a trace), else from the nonce itself:
//! unused before the transaction's block, used behind it, and one settlement of these terms in that transaction.

use alloy_primitives::{B256, b256};
use teller_chain::{Log, TxReceipt};
use teller_domain::{BlockRef, PERMIT2, Payment, SettlementState};
use teller_schemes::permit2::{
    Permit, ProxyCall, ProxySettlement, calls_of, decode_call, invalidates, settlements,
};
use teller_store::SettlementQuery;

use crate::core::Finding;
use crate::engine::Shell;
use crate::investigate::{Case, Unclear, event, receipt_of};

const TRANSFER: B256 = b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");
const INVALIDATION: B256 =
    b256!("3704902f963766a4e561bbaab6e6cdc1b1dd12f6e9e99648da8843b3f46b918d");

/// Transactions of one payment that are looked at in one go. Each has moved money from the payer to the payee.
const MOST_TRANSACTIONS: usize = 64;

/// What a transaction did with a permit.
#[derive(Debug, PartialEq, Eq)]
enum Spending {
    /// It settled the permit, by the transfer with this log index.
    Settled(u64),
    /// It settled the permit, and something else moved than was signed.
    Mismatched,
    /// It settled another permit that has the same nonce.
    Another,
    /// It did not touch the permit.
    None,
    /// What is at hand does not tell.
    Unknown,
}

impl Shell {
    /// Finds what became of a permit whose nonce is used.
    pub(crate) async fn find_spending(
        &self,
        case: &Case<'_>,
        permit: &Permit,
        above: u64,
        used_at: BlockRef,
    ) -> Result<Finding, Unclear> {
        let payment = case.payment();
        let moved = self.transfers(payment, above, used_at).await?;
        let mut transactions: Vec<B256> = case.unexplained.transaction.into_iter().collect();
        for log in moved.iter().rev() {
            if !transactions.contains(&log.transaction) {
                transactions.push(log.transaction);
            }
        }
        let mut unclear = transactions.get(MOST_TRANSACTIONS).copied();
        for transaction in transactions.into_iter().take(MOST_TRANSACTIONS) {
            let receipt = self.canonical_receipt(transaction).await?;
            match self.spending(case, permit, &receipt).await? {
                Spending::Settled(log_index) => {
                    return Ok(Finding::SettledElsewhere {
                        ours: self.is_ours(case, transaction).await?,
                        receipt: receipt_of(&receipt, log_index),
                    });
                }
                Spending::Mismatched => return Ok(Finding::Mismatched { transaction }),
                Spending::Another => {
                    return Ok(Finding::Spent {
                        transaction: Some(transaction),
                    });
                }
                Spending::None => {}
                Spending::Unknown => unclear = Some(transaction),
            }
        }
        if let Some(transaction) = unclear {
            return Err(Unclear::NotAttributed(transaction));
        }
        let thrown_away = self.invalidation(payment, permit, above, used_at).await?;
        Ok(match thrown_away {
            Some(transaction) => Finding::Spent {
                transaction: Some(transaction),
            },
            None => Finding::Unfound { at: used_at.number },
        })
    }

    /// The token's transfers of exactly the payment's amount from its payer to its payee, newest last.
    pub(crate) async fn transfers(
        &self,
        payment: &Payment,
        above: u64,
        to: BlockRef,
    ) -> Result<Vec<Log>, Unclear> {
        let topics = [
            vec![TRANSFER],
            vec![payment.key.payer.into_word()],
            vec![payment.payee.into_word()],
        ];
        let mut moved = self.logs_between(payment.asset, &topics, above, to).await?;
        let value = payment.value.0.to_be_bytes::<32>();
        moved.retain(|log| log.data[..] == value);
        Ok(moved)
    }

    /// The transaction in which the payer threw the nonce away.
    async fn invalidation(
        &self,
        payment: &Payment,
        permit: &Permit,
        above: u64,
        to: BlockRef,
    ) -> Result<Option<B256>, Unclear> {
        let payer = payment.key.payer;
        let topics = [vec![INVALIDATION], vec![payer.into_word()]];
        let logs = self.logs_between(PERMIT2, &topics, above, to).await?;
        let thrown_away = logs
            .iter()
            .find(|log| invalidates(&event(log), payer, permit.nonce));
        Ok(thrown_away.map(|log| log.transaction))
    }

    async fn spending(
        &self,
        case: &Case<'_>,
        permit: &Permit,
        receipt: &TxReceipt,
    ) -> Result<Spending, Unclear> {
        let payment = case.payment();
        // The proxies emit their event last: without one of this permit's there, it was not settled.
        let found: Vec<ProxySettlement> = settlements(receipt.logs.iter().map(event))
            .into_iter()
            .filter(|found| {
                found.proxy == permit.proxy.address()
                    && found.token == permit.token
                    && found.transfer.from == payment.key.payer
            })
            .collect();
        if found.is_empty() {
            return Ok(Spending::None);
        }
        let nodes = &self.parts.nodes;
        let called = nodes.calldata(receipt.transaction).await?;
        if let Some((Some(target), data)) = called {
            let calls = calls_of(permit.chain, self.parts.multicall3, target, &data);
            match spending_of(payment, permit, &calls, &found) {
                Spending::Unknown => {}
                told => return Ok(told),
            }
        }
        if let Some(made) = nodes.calls_made(receipt.transaction).await? {
            let calls: Vec<ProxyCall> = made
                .iter()
                .filter_map(|call| decode_call(permit.chain, call.to, &call.input))
                .collect();
            return Ok(match spending_of(payment, permit, &calls, &found) {
                // All calls are known, and none of them spends this nonce.
                Spending::Unknown => Spending::None,
                told => told,
            });
        }
        self.spending_by_state(case, permit, receipt, &found).await
    }

    /// Where only logs and state can be read: one settlement of these terms, in a block in which the nonce was used. Not
    /// where another payment of teller's has the same terms, or has that transfer already.
    async fn spending_by_state(
        &self,
        case: &Case<'_>,
        permit: &Permit,
        receipt: &TxReceipt,
        found: &[ProxySettlement],
    ) -> Result<Spending, Unclear> {
        let payment = case.payment();
        let exact: Vec<u64> = found
            .iter()
            .filter_map(|found| found.pays(permit, payment.key.payer, payment.value))
            .collect();
        let ([log_index], false) = (&exact[..], case.has_twin) else {
            return Ok(match exact.is_empty() {
                true => Spending::None,
                false => Spending::Unknown,
            });
        };
        let height = receipt.block.number;
        let before = self.was_used(payment, height.saturating_sub(1)).await;
        let behind = self.was_used(payment, height).await;
        match (before, behind) {
            (Ok(false), Ok(true)) => {}
            (Ok(true), _) | (_, Ok(false)) => return Ok(Spending::None),
            (Err(_), _) | (_, Err(_)) => return Ok(Spending::Unknown),
        }
        let query = SettlementQuery {
            transaction: Some(receipt.transaction),
            limit: u32::MAX,
            ..SettlementQuery::default()
        };
        let others = self.ledger.list(&query).await?.settlements;
        let is_taken = others.iter().any(|other| match &other.state {
            SettlementState::Settled(has) | SettlementState::SettledExternally(has) => {
                (has.transaction, has.log_index) == (receipt.transaction, *log_index)
            }
            _ => false,
        });
        Ok(match is_taken {
            true => Spending::Unknown,
            false => Spending::Settled(*log_index),
        })
    }
}

/// What calls to the proxies, in their order, did with a permit, given what its payer's settlements moved. A call may have
/// failed: which of several succeeded is told only where as many settled as were called.
fn spending_of(
    payment: &Payment,
    permit: &Permit,
    calls: &[ProxyCall],
    found: &[ProxySettlement],
) -> Spending {
    let payer = payment.key.payer;
    let is_this = |call: &&ProxyCall| call.owner == payer && call.permit.nonce == permit.nonce;
    let Some(spending) = calls.iter().find(is_this) else {
        return Spending::Unknown;
    };
    let is_signed = spending.permit == *permit && spending.amount == payment.value;
    let paid: Vec<u64> = found
        .iter()
        .filter_map(|found| found.pays(&spending.permit, payer, spending.amount))
        .collect();
    if paid.is_empty() {
        let same_payer = |call: &&ProxyCall| {
            let called = &call.permit;
            call.owner == payer && called.token == permit.token && called.proxy == permit.proxy
        };
        let all_settled = calls.iter().filter(same_payer).count() == found.len();
        return match (all_settled, is_signed) {
            (false, _) => Spending::Unknown,
            (true, true) => Spending::Mismatched,
            (true, false) => Spending::Another,
        };
    }
    let place = place_among(calls, spending, paid.len());
    match (place.and_then(|place| paid.get(place)), is_signed) {
        (Some(log_index), true) => Spending::Settled(*log_index),
        (Some(_), false) => Spending::Another,
        (None, _) => Spending::Unknown,
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
