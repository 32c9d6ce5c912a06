//! Why a mined attempt did not settle a payment: the chain is asked until it answers.

use alloy_primitives::{B256, b256};
use futures::StreamExt;
use teller_chain::{AuthorizationState, Inspection, Log, NodeError, Simulation, TxReceipt};
use teller_domain::{BlockRef, Level, Payment, Reason, Receipt, Scheme, SettlementId, SlotId, Wei};
use teller_schemes::permit2::Permit;
use teller_schemes::{EventLog, classify_revert, effects, used_by};
use teller_store::{SettlementQuery, StoreError, StoreResult};

use crate::core::{Event, Finding, Queued};
use crate::effects::RETRY;
use crate::engine::Shell;

/// Payments looked into at the same time.
const EXPLAINED_AT_ONCE: usize = 32;

/// The reason for a payment whose transaction had no effect and whose call says nothing more.
fn transaction_failed(payment: &Payment) -> Reason {
    match payment.scheme() {
        Scheme::Exact => Reason::TransactionFailed,
        Scheme::Upto => Reason::UptoTransactionFailed,
    }
}

/// Blocks asked for in one `eth_getLogs`: at first, and at most.
pub(crate) const FIRST_RANGE: u64 = 64;
pub(crate) const WIDEST_RANGE: u64 = 2_000;

/// How far back a use is looked for: a day of 2 s blocks.
pub(crate) const OLDEST_USE: u64 = 43_200;

const AUTHORIZATION_USED: B256 =
    b256!("98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5");
const AUTHORIZATION_CANCELED: B256 =
    b256!("1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81");

/// Why a payment cannot be explained yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unclear {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Shell {
    /// Looks into the payments and tells the core once all are explained. Nothing follows from a block that the chain has
    /// left: then the core has reopened the slot, and nothing is told.
    pub(crate) async fn investigate(&self, id: SlotId, block: BlockRef, payments: Vec<Queued>) {
        let (mut left, unguarded): (Vec<_>, Vec<_>) = payments
            .into_iter()
            .partition(|queued| queued.payment.is_guarded_on_chain());
        // There is nothing to ask about these.
        let mut findings: Vec<_> = unguarded
            .iter()
            .map(|queued| (queued.id, Finding::Unguarded))
            .collect();
        while !left.is_empty() {
            if self.parts.heads.is_canonical(block) == Some(false) {
                tracing::warn!(slot = %id, block = block.number, "a reorg came before a slot was explained");
                return;
            }
            left = match self.explain_all(left.clone(), block, &mut findings).await {
                Ok(unclear) if unclear.is_empty() => break,
                Ok(unclear) => unclear,
                Err(error) => {
                    tracing::warn!(slot = %id, %error, "payments cannot be looked into yet");
                    left
                }
            };
            tokio::time::sleep(RETRY).await;
        }
        for (settlement, finding) in &findings {
            tracing::info!(%settlement, slot = %id, ?finding, "a mined attempt left a payment unsettled");
        }
        self.tell(Event::Investigated {
            id,
            block,
            findings,
        })
        .await;
    }

    /// Explains what can be explained, and answers the rest.
    async fn explain_all(
        &self,
        payments: Vec<Queued>,
        block: BlockRef,
        findings: &mut Vec<(SettlementId, Finding)>,
    ) -> Result<Vec<Queued>, NodeError> {
        let looked_at: Vec<&Payment> = payments.iter().map(|queued| &queued.payment).collect();
        let seen = self.witnessed(&looked_at, block).await?;
        let explained = futures::stream::iter(payments.into_iter().zip(seen)).map(
            |(queued, seen)| async move {
                let finding = self.explain(&queued.payment, seen, block).await;
                (queued, finding)
            },
        );
        let explained: Vec<_> = explained
            .buffer_unordered(EXPLAINED_AT_ONCE)
            .collect()
            .await;
        let mut unclear = Vec::new();
        for (queued, finding) in explained {
            match finding {
                Ok(finding) => findings.push((queued.id, finding)),
                Err(error) => {
                    tracing::warn!(settlement = %queued.id, %error, "a payment cannot be explained yet");
                    unclear.push(queued);
                }
            }
        }
        Ok(unclear)
    }

    /// What all witnesses say at one block, no earlier than the one that took the slot's nonce. One that lags behind
    /// must not make a used authorization look unused: a second transaction would follow.
    async fn explain(
        &self,
        payment: &Payment,
        seen: Vec<Inspection>,
        mined_in: BlockRef,
    ) -> Result<Finding, Unclear> {
        let mut finding = None;
        for inspection in seen {
            match inspection.authorization {
                AuthorizationState::Used => {
                    return match Permit::of(payment) {
                        None => self.find_use(payment, mined_in).await,
                        Some(permit) => {
                            let used_at = inspection.block;
                            self.find_spending(payment, &permit, used_at).await
                        }
                    };
                }
                AuthorizationState::Unused => {}
                AuthorizationState::Unreadable => {
                    return Err(NodeError::BadAnswer("authorizationState").into());
                }
            }
            let now = match inspection.simulation {
                Simulation::Succeeded { .. } => Finding::WouldSettle,
                Simulation::Reverted(_) if lacks_allowance(payment, &inspection) => {
                    Finding::WouldRevert(Reason::Permit2AllowanceRequired)
                }
                Simulation::Reverted(data) => Finding::WouldRevert(
                    classify_revert(payment, &data).unwrap_or(transaction_failed(payment)),
                ),
                Simulation::Skipped => return Err(NodeError::BadAnswer("simulation").into()),
            };
            if finding.get_or_insert_with(|| now.clone()) != &now {
                return Err(NodeError::BadAnswer("two nodes disagree").into());
            }
        }
        finding.ok_or(NodeError::NoEndpoint.into())
    }

    /// Finds the transaction that used or cancelled the authorization, newest blocks first. It was unused when the
    /// payment was accepted, so there is one: where none is found the node is behind, and nothing follows from it.
    async fn find_use(&self, payment: &Payment, mined_in: BlockRef) -> Result<Finding, Unclear> {
        let payer = payment.key.payer.into_word();
        let topics = [
            vec![AUTHORIZATION_USED, AUTHORIZATION_CANCELED],
            vec![payer],
            vec![payment.key.nonce.0],
        ];
        let nodes = &self.parts.nodes;
        let head = nodes.head().await?.number.max(mined_in.number);
        let oldest = head.saturating_sub(OLDEST_USE);
        let (mut to, mut range) = (head, FIRST_RANGE);
        loop {
            let from = to.saturating_sub(range - 1).max(oldest);
            match nodes.logs(payment.asset, &topics, from, to).await {
                Ok(logs) => {
                    if let Some(log) = logs.last() {
                        return self.read_use(payment, log).await;
                    }
                    if from == oldest {
                        return Err(
                            NodeError::BadAnswer("a used authorization without its log").into()
                        );
                    }
                    to = from - 1;
                    range = (range * 2).min(WIDEST_RANGE);
                }
                // Many nodes refuse wide ranges, each with words of its own.
                Err(NodeError::Rpc { .. } | NodeError::Http { .. }) if range > 1 => range /= 2,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn read_use(&self, payment: &Payment, log: &Log) -> Result<Finding, Unclear> {
        let receipt = self.canonical_receipt(log.transaction).await?;
        let logs = receipt.logs.iter().map(|log| EventLog {
            address: log.address,
            topics: &log.topics,
            data: &log.data,
            index: log.index,
        });
        let effects = effects(logs);
        Ok(
            match used_by(&effects, payment).and_then(|effect| effect.settles(payment)) {
                Some(log_index) => Finding::SettledElsewhere {
                    ours: self.is_ours(receipt.transaction).await?,
                    receipt: receipt_of(&receipt, log_index),
                },
                None => Finding::Spent {
                    transaction: Some(receipt.transaction),
                },
            },
        )
    }

    pub(crate) async fn canonical_receipt(&self, transaction: B256) -> Result<TxReceipt, Unclear> {
        let receipts = self.parts.nodes.receipts(&[transaction]).await?;
        let receipt = receipts
            .into_iter()
            .flatten()
            .next()
            .ok_or(NodeError::BadAnswer("receipt of a known log"))?;
        if self.parts.heads.is_canonical(receipt.block) == Some(false) {
            let left = "a receipt of a block that the chain has left";
            return Err(NodeError::BadAnswer(left).into());
        }
        Ok(receipt)
    }

    /// Whether an attempt of the ledger has this hash.
    pub(crate) async fn is_ours(&self, transaction: B256) -> StoreResult<bool> {
        let carried = SettlementQuery {
            transaction: Some(transaction),
            limit: 1,
            ..SettlementQuery::default()
        };
        Ok(!self.ledger.list(&carried).await?.settlements.is_empty())
    }
}

/// Whether the payer's approval is not in place, or not any more.
fn lacks_allowance(payment: &Payment, seen: &Inspection) -> bool {
    let permitted = payment.permitted();
    payment.token_approval().is_some()
        && seen
            .permit2
            .is_some_and(|permit2| permit2.allowance < permitted)
}

/// What is kept of a settlement that was not this slot's: its gas is not this payment's.
pub(crate) fn receipt_of(receipt: &TxReceipt, log_index: u64) -> Receipt {
    Receipt {
        transaction: receipt.transaction,
        block: receipt.block,
        log_index,
        level: Level::Included,
        gas_used: 0,
        cost: Wei::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_those_of_the_event_signatures() {
        assert_eq!(
            alloy_primitives::keccak256("AuthorizationUsed(address,bytes32)"),
            AUTHORIZATION_USED
        );
        assert_eq!(
            alloy_primitives::keccak256("AuthorizationCanceled(address,bytes32)"),
            AUTHORIZATION_CANCELED
        );
    }
}
