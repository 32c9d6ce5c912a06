//! Why a mined attempt did not settle a payment: the chain is asked until it answers.

use std::time::Duration;

use alloy_primitives::{B256, b256};
use teller_chain::{AuthorizationState, InspectItem, Inspection, Log, NodeError, Simulation};
use teller_domain::{BlockRef, Level, Payment, Reason, Receipt, SettlementId, SlotId, Wei};
use teller_schemes::{EventLog, effects, eip3009};

use crate::core::{Event, Finding, Queued};
use crate::engine::Shell;

/// Between tries while no node answers.
const RETRY: Duration = Duration::from_millis(500);

/// Blocks asked for in one `eth_getLogs`.
const LOG_RANGE: u64 = 2_000;

/// How far back a foreign use of an authorization is looked for: a day of 2 s blocks.
const LOG_RANGES: u64 = 22;

const AUTHORIZATION_USED: B256 =
    b256!("98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5");
const AUTHORIZATION_CANCELED: B256 =
    b256!("1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81");

impl Shell {
    /// Looks into each payment and tells the core once all are explained.
    pub(crate) async fn investigate(&self, id: SlotId, block: BlockRef, payments: Vec<Queued>) {
        let mut findings: Vec<(SettlementId, Finding)> = Vec::new();
        for queued in &payments {
            let finding = loop {
                match self.explain(&queued.payment, block).await {
                    Ok(finding) => break finding,
                    Err(error) => {
                        tracing::warn!(settlement = %queued.id, %error, "a payment cannot be explained yet");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            };
            tracing::info!(settlement = %queued.id, slot = %id, ?finding, "a mined attempt left a payment unsettled");
            findings.push((queued.id, finding));
        }
        self.tell(Event::Investigated { id, findings }).await;
    }

    async fn explain(&self, payment: &Payment, mined_in: BlockRef) -> Result<Finding, NodeError> {
        let item = InspectItem {
            token: payment.asset,
            payer: payment.key.payer,
            payee: payment.payee,
            nonce: payment.key.nonce.0,
            call: eip3009::transfer_call(payment),
        };
        let seen: Inspection = self.parts.inspector.inspect(item).await?;
        match seen.authorization {
            AuthorizationState::Used => return self.find_use(payment, mined_in).await,
            AuthorizationState::Unused => {}
            AuthorizationState::Unreadable => {
                return Err(NodeError::BadAnswer("authorizationState"));
            }
        }
        if seen.code_size > 0 {
            return Ok(Finding::WouldRevert(Reason::PayerHasCode));
        }
        Ok(match seen.simulation {
            Simulation::Succeeded { .. } => Finding::WouldSettle,
            Simulation::Reverted(data) => Finding::WouldRevert(
                eip3009::classify_revert(&data).unwrap_or(Reason::TransactionFailed),
            ),
            Simulation::Skipped => return Err(NodeError::BadAnswer("simulation")),
        })
    }

    /// Finds the transaction that used or cancelled the authorization, newest blocks first.
    async fn find_use(&self, payment: &Payment, mined_in: BlockRef) -> Result<Finding, NodeError> {
        let topics = [
            vec![AUTHORIZATION_USED, AUTHORIZATION_CANCELED],
            vec![payment.key.payer.into_word()],
            vec![payment.key.nonce.0],
        ];
        let mut to = self.parts.nodes.head().await?.number.max(mined_in.number);
        for _ in 0..LOG_RANGES {
            let from = to.saturating_sub(LOG_RANGE - 1);
            let logs = self
                .parts
                .nodes
                .logs(payment.asset, &topics, from, to)
                .await?;
            if let Some(log) = logs.last() {
                return self.read_use(payment, log).await;
            }
            if from == 0 {
                break;
            }
            to = from - 1;
        }
        Ok(Finding::Spent { transaction: None })
    }

    async fn read_use(&self, payment: &Payment, log: &Log) -> Result<Finding, NodeError> {
        let receipts = self.parts.nodes.receipts(&[log.transaction]).await?;
        let receipt = receipts
            .into_iter()
            .flatten()
            .next()
            .ok_or(NodeError::BadAnswer("receipt of a known log"))?;
        let logs = receipt.logs.iter().map(|log| EventLog {
            address: log.address,
            topics: &log.topics,
            data: &log.data,
            index: log.index,
        });
        let effects = effects(logs);
        let effect = effects.get(&(payment.asset, payment.key.payer, payment.key.nonce));
        Ok(match effect.and_then(|effect| effect.settles(payment)) {
            Some(log_index) => Finding::SettledExternally(Receipt {
                transaction: receipt.transaction,
                block: receipt.block,
                log_index,
                level: Level::Included,
                gas_used: 0,
                cost: Wei::ZERO,
            }),
            None => Finding::Spent {
                transaction: Some(receipt.transaction),
            },
        })
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
