//! What became of a payment whose slot closed without a receipt that tells. The chain is asked; what it does not tell now,
//! it is asked again.

use std::time::Duration;

use alloy_primitives::{B256, b256};
use futures::{FutureExt, StreamExt};
use teller_chain::{AuthorizationState, Inspection, Log, NodeError, Simulation, TxReceipt};
use teller_domain::{
    BlockRef, FencedLane, Level, Payment, Reason, Receipt, Scheme, SettlementId, SettlementState,
    Wei,
};
use teller_schemes::permit2::Permit;
use teller_schemes::{EventLog, classify_revert, effects, nonce_state, used_by};
use teller_store::{SettlementQuery, StoreError, StoreResult};
use tokio::time::timeout;

use crate::core::{Event, Finding, Unexplained};
use crate::engine::Shell;

/// Payments looked into at the same time.
const EXPLAINED_AT_ONCE: usize = 8;

/// How long one payment may be looked into; what was not read by then is read again later.
const LIMIT: Duration = Duration::from_secs(15);

/// Blocks asked for in one `eth_getLogs` at most.
const WIDEST_RANGE: u64 = 2_000;

/// How far back a use is looked for: a day of 2 s blocks.
const OLDEST_USE: u64 = 43_200;

/// How far back it is asked whether the nonce was still unused, the nearest first: most uses are seconds old.
const UNUSED_AT: [u64; 3] = [64, 512, 4_096];

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
    #[error(
        "transaction {0} moved this amount from the payer to the payee, and no node tells whether by this authorization"
    )]
    NotAttributed(B256),
}

/// A payment that is looked into, and what is known beside it.
pub(crate) struct Case<'a> {
    pub(crate) unexplained: &'a Unexplained,
    /// Whether another unexplained payment differs from it by its nonce alone.
    pub(crate) has_twin: bool,
}

impl<'a> Case<'a> {
    pub(crate) fn payment(&self) -> &'a Payment {
        &self.unexplained.queued.payment
    }
}

/// The reason for a payment whose transaction had no effect and whose call says nothing more.
fn transaction_failed(payment: &Payment) -> Reason {
    match payment.scheme() {
        Scheme::Exact => Reason::TransactionFailed,
        Scheme::Upto => Reason::UptoTransactionFailed,
    }
}

impl Shell {
    /// Looks into the payments once, and tells the core what was found.
    pub(crate) async fn investigate(&self, fence: FencedLane, payments: Vec<Unexplained>) {
        let findings = self.explain_all(&payments).await.unwrap_or_else(|error| {
            tracing::warn!(signer = %fence.signer, %error, payments = payments.len(), "unexplained payments cannot be looked into yet");
            Vec::new()
        });
        for (settlement, finding) in &findings {
            tracing::info!(%settlement, ?finding, "an unexplained payment was looked into");
        }
        let asked = payments.iter().map(|left| left.queued.id).collect();
        self.tell(Event::Investigated {
            fence,
            asked,
            findings,
        })
        .await;
    }

    /// What is found of the payments of which anything is.
    async fn explain_all(
        &self,
        payments: &[Unexplained],
    ) -> Result<Vec<(SettlementId, Finding)>, NodeError> {
        // One whose slot's block a reorg has taken is its slot's again, as soon as the core knows.
        let stands = |left: &&Unexplained| self.parts.heads.is_canonical(left.block) != Some(false);
        let payments: Vec<&Unexplained> = payments.iter().filter(stands).collect();
        let newest = payments.iter().map(|left| left.block);
        let Some(not_before) = newest.max_by_key(|block| block.number) else {
            return Ok(Vec::new());
        };
        let looked_at: Vec<&Payment> = payments.iter().map(|left| &left.queued.payment).collect();
        let seen = self.witnessed(&looked_at, not_before).await?;
        let cases = payments.iter().map(|left| Case {
            unexplained: left,
            has_twin: payments.iter().any(|other| {
                other.queued.id != left.queued.id && other.queued.is_twin_of(&left.queued)
            }),
        });
        let looks: Vec<_> = cases
            .zip(seen)
            .map(|(case, seen)| self.look_into(case, seen).boxed())
            .collect();
        let explained: Vec<_> = futures::stream::iter(looks)
            .buffer_unordered(EXPLAINED_AT_ONCE)
            .collect()
            .await;
        let mut findings = Vec::new();
        for (settlement, finding) in explained {
            match finding {
                Ok(finding) => findings.push((settlement, finding)),
                Err(error) => {
                    tracing::warn!(%settlement, %error, "a payment cannot be explained yet");
                }
            }
        }
        Ok(findings)
    }

    async fn look_into(
        &self,
        case: Case<'_>,
        seen: Vec<Inspection>,
    ) -> (SettlementId, Result<Finding, Unclear>) {
        let finding = timeout(LIMIT, self.explain(&case, seen)).await;
        let finding = finding.unwrap_or(Err(Unclear::Node(NodeError::Timeout)));
        (case.unexplained.queued.id, finding)
    }

    /// What all witnesses say at one block, no earlier than the one that closed the slot. One that lags behind must not make
    /// a used authorization look unused: a second transaction would follow.
    async fn explain(&self, case: &Case<'_>, seen: Vec<Inspection>) -> Result<Finding, Unclear> {
        let payment = case.payment();
        let mut finding = None;
        for inspection in seen {
            match inspection.authorization {
                AuthorizationState::Used => return self.find_use(case, inspection.block).await,
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

    /// Finds the transaction that used or cancelled the authorization, which was unused when the payment was accepted.
    async fn find_use(&self, case: &Case<'_>, used_at: BlockRef) -> Result<Finding, Unclear> {
        let payment = case.payment();
        let from = self.unused_at(payment, used_at).await;
        match Permit::of(payment) {
            Some(permit) => self.find_spending(case, &permit, from, used_at).await,
            None => self.find_authorization(case, from, used_at).await,
        }
    }

    /// A height at which the nonce was unused: what used it is above. The nearest that a node still has the state of, or else
    /// one that is old enough.
    async fn unused_at(&self, payment: &Payment, used_at: BlockRef) -> u64 {
        for back in UNUSED_AT {
            let height = used_at.number.saturating_sub(back);
            if let Ok(false) = self.was_used(payment, height).await {
                return height;
            }
        }
        used_at.number.saturating_sub(OLDEST_USE)
    }

    /// Whether the nonce was used at a height, as all witnesses say.
    pub(crate) async fn was_used(&self, payment: &Payment, height: u64) -> Result<bool, NodeError> {
        let (target, call) = nonce_state::call(payment);
        let nodes = &self.parts.nodes;
        let mut used = None;
        for said in nodes.witnessed_call(target, &call, height).await? {
            let here = nonce_state::is_used(payment, &said)
                .ok_or(NodeError::BadAnswer("the state of a nonce"))?;
            if *used.get_or_insert(here) != here {
                return Err(NodeError::BadAnswer("two nodes disagree"));
            }
        }
        used.ok_or(NodeError::NoEndpoint)
    }

    /// Logs above one height and up to a block, by as many endpoints as a negative fact takes, newest last.
    pub(crate) async fn logs_between(
        &self,
        address: alloy_primitives::Address,
        topics: &[Vec<B256>],
        above: u64,
        to: BlockRef,
    ) -> Result<Vec<Log>, NodeError> {
        let nodes = &self.parts.nodes;
        let (mut from, mut range) = (above.saturating_add(1), WIDEST_RANGE);
        let mut found = Vec::new();
        while from <= to.number {
            let last = from.saturating_add(range - 1);
            let upper = match last >= to.number {
                true => to,
                false => nodes
                    .block(last)
                    .await?
                    .ok_or(NodeError::BadAnswer("no block below the head"))?
                    .reference(),
            };
            match nodes.witnessed_logs(address, topics, from, upper).await {
                Ok(logs) => {
                    found.extend(logs);
                    from = upper.number + 1;
                }
                // Many nodes refuse wide ranges, each with words of its own.
                Err(NodeError::Rpc { .. } | NodeError::Http { .. })
                    if range > 1 && upper.number > from =>
                {
                    range = (upper.number - from).div_ceil(2);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn find_authorization(
        &self,
        case: &Case<'_>,
        above: u64,
        used_at: BlockRef,
    ) -> Result<Finding, Unclear> {
        let payment = case.payment();
        let payer = payment.key.payer.into_word();
        let topics = [
            vec![AUTHORIZATION_USED, AUTHORIZATION_CANCELED],
            vec![payer],
            vec![payment.key.nonce.0],
        ];
        let named = self
            .logs_between(payment.asset, &topics, above, used_at)
            .await?;
        if let Some(log) = named.last() {
            return self.read_use(case, log.transaction).await;
        }
        // A token that does not say which nonce it used: a transfer of these terms may be this payment's.
        match self.transfers(payment, above, used_at).await?.last() {
            Some(log) => Err(Unclear::NotAttributed(log.transaction)),
            None => Ok(Finding::Unfound { at: used_at.number }),
        }
    }

    async fn read_use(&self, case: &Case<'_>, transaction: B256) -> Result<Finding, Unclear> {
        let payment = case.payment();
        let receipt = self.canonical_receipt(transaction).await?;
        let effects = effects(receipt.logs.iter().map(event));
        let used = used_by(&effects, payment).and_then(|effect| effect.settles(payment));
        let ours = self.is_ours(case, transaction).await?;
        Ok(match used {
            Some(log_index) => Finding::SettledElsewhere {
                ours,
                receipt: receipt_of(&receipt, log_index),
            },
            // What teller submits is this very authorization.
            None if ours => Finding::Mismatched { transaction },
            None => Finding::Spent {
                transaction: Some(transaction),
            },
        })
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
    pub(crate) async fn is_ours(&self, case: &Case<'_>, transaction: B256) -> StoreResult<bool> {
        if case.unexplained.transaction == Some(transaction) {
            return Ok(true);
        }
        let query = SettlementQuery {
            transaction: Some(transaction),
            limit: u32::MAX,
            ..SettlementQuery::default()
        };
        let known = self.ledger.list(&query).await?.settlements;
        // A third party's transaction is in the ledger as well, once a payment is settled by it.
        let is_external = |state: &SettlementState| matches!(state, SettlementState::SettledExternally(by) if by.transaction == transaction);
        Ok(known.iter().any(|row| !is_external(&row.state)))
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

pub(crate) fn event(log: &Log) -> EventLog<'_> {
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
