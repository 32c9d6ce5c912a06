//! Payers' approvals of Permit2: what became of them, and sending them.

use std::sync::Arc;

use futures::StreamExt;
use teller_chain::{Account, AuthorizationState, Inspection, NodeError, SendOutcome};
use teller_domain::{BlockRef, Payment, SettlementId, SettlementState, Wei};
use teller_schemes::erc20_approval::Approval;
use teller_store::Boundary;

use crate::core::{ApprovalStanding, Event, Queued};
use crate::engine::Shell;
use crate::investigate::Unclear;
use crate::report;

/// Approvals looked at in the same moment.
const SEEN_AT_ONCE: usize = 8;

impl Shell {
    pub(crate) async fn look_at_approvals(self: &Arc<Self>, payments: Vec<Queued>) {
        let asked: Vec<SettlementId> = payments.iter().map(|queued| queued.id).collect();
        let (block, seen) = match self.approvals(payments).await {
            Ok((block, seen)) => (Some(block), seen),
            Err(error) => {
                tracing::warn!(%error, "payers' approvals cannot be looked at yet");
                (None, Vec::new())
            }
        };
        let gone = self.gone(&asked).await;
        self.tell(Event::ApprovalsSeen {
            asked,
            block,
            seen,
            gone,
        })
        .await;
    }

    /// Those of these that nobody waits for any more, whichever process withdrew them.
    async fn gone(&self, asked: &[SettlementId]) -> Vec<SettlementId> {
        match self.ledger.settlements(asked).await {
            Ok(rows) => {
                let over = rows
                    .iter()
                    .filter(|row| row.state != SettlementState::Accepted);
                over.map(|row| row.id).collect()
            }
            Err(error) => {
                tracing::warn!(%error, "whether payments still wait for approvals could not be read");
                Vec::new()
            }
        }
    }

    /// All of them at one sealed block. Those that could not be looked at are left out.
    async fn approvals(
        &self,
        payments: Vec<Queued>,
    ) -> Result<(BlockRef, Vec<(SettlementId, ApprovalStanding)>), NodeError> {
        let head = self
            .parts
            .heads
            .latest()
            .ok_or(NodeError::BadAnswer("no block yet"))?;
        let looked_at: Vec<&Payment> = payments.iter().map(|queued| &queued.payment).collect();
        let inspected = self.witnessed(&looked_at, head.block.reference()).await?;
        let block = inspected
            .iter()
            .flatten()
            .map(|inspection| inspection.block)
            .next()
            .ok_or(NodeError::NoEndpoint)?;
        let seen = futures::stream::iter(payments.into_iter().zip(inspected)).map(
            |(queued, inspected)| async move {
                let standing = self.standing(&queued.payment, inspected, block).await;
                (queued.id, standing)
            },
        );
        let seen: Vec<_> = seen.buffer_unordered(SEEN_AT_ONCE).collect().await;
        let mut told = Vec::with_capacity(seen.len());
        for (id, standing) in seen {
            match standing {
                Ok(standing) => told.push((id, standing)),
                Err(error) => {
                    tracing::warn!(settlement = %id, %error, "a payer's approval cannot be looked at yet");
                }
            }
        }
        Ok((block, told))
    }

    async fn standing(
        &self,
        payment: &Payment,
        inspected: Vec<Inspection>,
        block: BlockRef,
    ) -> Result<ApprovalStanding, Unclear> {
        let Some(approval) = read(payment) else {
            return Ok(ApprovalStanding::InPlace);
        };
        if is_moot(payment, &inspected)? {
            return Ok(ApprovalStanding::InPlace);
        }
        let nodes = &self.parts.nodes;
        let payer = payment.key.payer;
        let accounts = nodes.witnessed_account(payer, block).await?;
        if has_passed(&approval, &accounts)? {
            return Ok(ApprovalStanding::Void);
        }
        // Two that tell of one block tell the same; should they not, the payer gets the less.
        let balance = accounts.iter().map(|account| account.balance).max();
        let data_fee = nodes.data_fee_bound(approval.raw().len(), block).await?;
        let lacking = approval.lacking(balance.unwrap_or_default(), data_fee);
        let given = lacking > Wei::ZERO
            && self
                .ledger
                .top_up(self.chain(), payer, payment.asset)
                .await?
                .is_some();
        Ok(ApprovalStanding::Outstanding { lacking, given })
    }

    /// Sending it again does no harm; what becomes of it the next look tells.
    pub(crate) async fn send_approval(&self, queued: Queued) {
        let Some(approval) = read(&queued.payment) else {
            return;
        };
        let sending = self.parts.nodes.send(approval.raw());
        let outcome = match Boundary::SendApproval.around(sending).await {
            SendOutcome::Accepted => "accepted",
            SendOutcome::AlreadyKnown => "already_known",
            SendOutcome::NonceTooLow => "nonce_too_low",
            SendOutcome::Underpriced => "underpriced",
            SendOutcome::InsufficientFunds => "insufficient_funds",
            SendOutcome::GasTooHigh => "gas_too_high",
            SendOutcome::Unknown(_) => "unknown",
        };
        report::approval_sent(self.chain(), outcome);
        tracing::info!(settlement = %queued.id, approval = %approval.hash, outcome, "a payer's approval was sent");
    }
}

/// The approval that came with a payment: it was read when the payment was verified.
fn read(payment: &Payment) -> Option<Approval> {
    let sent = payment.token_approval()?;
    Approval::decode(&sent.transaction, payment.asset).ok()
}

/// Whether nothing hangs on the approval any more: Permit2 may move enough, or the permit is spent.
fn is_moot(payment: &Payment, inspected: &[Inspection]) -> Result<bool, NodeError> {
    let mut moot = None;
    for inspection in inspected {
        let allowance = inspection.permit2.map(|permit2| permit2.allowance);
        let here = match (inspection.authorization, allowance) {
            (AuthorizationState::Used, _) => true,
            (AuthorizationState::Unused, Some(allowance)) => allowance >= payment.permitted(),
            (AuthorizationState::Unused | AuthorizationState::Unreadable, _) => {
                return Err(NodeError::BadAnswer("allowance"));
            }
        };
        if *moot.get_or_insert(here) != here {
            return Err(NodeError::BadAnswer("two nodes disagree"));
        }
    }
    moot.ok_or(NodeError::NoEndpoint)
}

/// Whether the approval's nonce has passed, as all witnesses say.
fn has_passed(approval: &Approval, accounts: &[Account]) -> Result<bool, NodeError> {
    let mut passed = accounts
        .iter()
        .map(|account| account.nonce.0 > approval.nonce);
    let first = passed.next().ok_or(NodeError::NoEndpoint)?;
    match passed.all(|other| other == first) {
        true => Ok(first),
        false => Err(NodeError::BadAnswer("two nodes disagree")),
    }
}
