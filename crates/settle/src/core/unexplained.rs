//! Payments that left their slot when it closed, without its receipt showing what became of them.
//!
//! A slot ends when its nonce is sealed: what the receipt proves is reported at once, and nothing else holds the slot, its
//! lane or its neighbours. What became of the rest is asked of the chain, apart from every slot, as often as it takes.
//! Nothing is signed for such a payment meanwhile, and it fails only with evidence.

use alloy_primitives::B256;
use teller_domain::{
    Authorization, BlockRef, FencedLane, Reason, Refusal, Resolution, SettlementId,
    SettlementState, SlotId, UnixSeconds,
};

use super::ancestry::Standing;
use super::mined::MAX_TRIES;
use super::rules::Rule;
use super::{Core, Effect, Finding, Need, Queued};

/// At so many blocks the logs must have been read in full, without anything that explains a used nonce, before it counts as
/// spent by an unknown transaction. A node's logs may be that far behind its state.
const SEARCHES: u32 = 3;

/// A payment that left its slot unexplained.
#[derive(Debug, Clone)]
pub struct Unexplained {
    /// The payment.
    pub queued: Queued,
    /// The slot that it was in.
    pub slot: SlotId,
    /// The block that closed that slot: nothing follows from what a node says of an earlier one.
    pub block: BlockRef,
    /// The mined transaction that carried it without settling it, if one did.
    pub transaction: Option<B256>,
    /// Whether it was in that slot alone.
    pub alone: bool,
    /// At how many blocks its logs were read in full and in vain.
    searches: u32,
    /// The highest of those blocks.
    searched: u64,
}

impl Unexplained {
    /// One that has just left its slot.
    pub(super) fn new(
        queued: Queued,
        slot: SlotId,
        block: BlockRef,
        transaction: Option<B256>,
        alone: bool,
    ) -> Self {
        Self {
            queued,
            slot,
            block,
            transaction,
            alone,
            searches: 0,
            searched: 0,
        }
    }

    /// One that the ledger has. A payment's last tries are made alone.
    pub fn recovered(
        queued: Queued,
        slot: SlotId,
        block: BlockRef,
        transaction: Option<B256>,
    ) -> Self {
        let alone = queued.tries >= MAX_TRIES;
        Self::new(queued, slot, block, transaction, alone)
    }

    /// What follows from a finding; nothing if the chain must be asked again.
    fn explain(
        &mut self,
        finding: Finding,
        cutoff: UnixSeconds,
        searches: u32,
    ) -> Option<Resolution> {
        let queued = &self.queued;
        Some(match finding {
            Finding::SettledElsewhere { receipt, ours } => Resolution::Resolved(match ours {
                true => SettlementState::Settled(receipt),
                false => SettlementState::SettledExternally(receipt),
            }),
            Finding::Spent { transaction } => failed(
                spent_reason(queued),
                "the authorization was cancelled or spent on another transfer",
                transaction,
            ),
            Finding::Mismatched { transaction } => failed(
                Reason::TransferEventMismatch,
                "the transaction was mined without exactly the transfer that was signed",
                Some(transaction),
            ),
            Finding::Unfound { at } => {
                if at > self.searched {
                    self.searched = at;
                    self.searches += 1;
                }
                if self.searches < searches {
                    return None;
                }
                let detail = "the authorization's nonce is used, and no transfer of this amount from the payer to the payee goes with it";
                failed(spent_reason(queued), detail, None)
            }
            // A reorg took the approval's block: it is waited for again.
            Finding::WouldRevert(Reason::Permit2AllowanceRequired)
                if queued.payment.token_approval().is_some() && queued.tries < MAX_TRIES =>
            {
                Resolution::Requeued
            }
            Finding::WouldRevert(reason) => match self.transaction {
                Some(_) => failed(
                    reason,
                    "the transfer was mined and reverted",
                    self.transaction,
                ),
                None => failed(reason, "the transfer would revert", None),
            },
            Finding::WouldSettle if queued.payment.valid_before() <= cutoff => {
                Resolution::Resolved(SettlementState::Expired)
            }
            Finding::WouldSettle
                if queued.tries >= MAX_TRIES && self.alone && self.transaction.is_some() =>
            {
                let detail = "the transaction was mined without effect, alone";
                failed(Reason::TransactionFailed, detail, self.transaction)
            }
            Finding::WouldSettle => Resolution::Requeued,
        })
    }

    /// As it is queued again. A transaction that did not carry it says nothing about it.
    fn requeued(self) -> Queued {
        let mut queued = self.queued;
        queued.need = Need::of(&queued.payment);
        if self.transaction.is_none() {
            queued.tries = queued.tries.saturating_sub(1);
        }
        queued
    }
}

fn spent_reason(queued: &Queued) -> Reason {
    match queued.payment.authorization {
        Authorization::Eip3009 { .. } => Reason::NonceAlreadyUsed,
        Authorization::Permit2(_) => Reason::Permit2InvalidNonce,
        Authorization::Erc7710(_) => Reason::TransactionFailed,
    }
}

pub(super) fn failed(reason: Reason, detail: &str, transaction: Option<B256>) -> Resolution {
    Resolution::Resolved(SettlementState::Failed {
        refusal: Refusal::new(reason, detail),
        transaction,
    })
}

impl Core {
    /// Payments of this process's lanes that are unexplained.
    pub fn unexplained(&self) -> usize {
        self.lanes
            .values()
            .map(|lane| lane.unexplained.len() + lane.explained.len())
            .sum()
    }

    /// Asks the chain about the payments that are due.
    pub(super) fn look_into_unexplained(&mut self, now_ms: u64) {
        if self.draining {
            return;
        }
        let interval_ms = self.config.block_interval_ms;
        let mut asked = Vec::new();
        for lane in self.lanes.values_mut() {
            let payments = lane.unexplained.take_due(now_ms, interval_ms);
            if !payments.is_empty() {
                asked.push((lane.fence, payments));
            }
        }
        for (fence, payments) in asked {
            self.emit(Effect::Investigate { fence, payments });
        }
    }

    pub(super) fn on_investigated(
        &mut self,
        fence: FencedLane,
        asked: &[SettlementId],
        findings: Vec<(SettlementId, Finding)>,
        now_ms: u64,
    ) {
        let cutoff = self.cutoff(now_ms).unwrap_or_default();
        let interval_ms = self.config.block_interval_ms;
        let searches = match self.rules.hold(Rule::SearchThoroughly) {
            true => SEARCHES,
            false => 1,
        };
        let ancestry = &self.ancestry;
        let Some(lane) = self
            .lanes
            .get_mut(&fence.signer)
            .filter(|lane| lane.fence == fence)
        else {
            return;
        };
        lane.unexplained.answered(asked, now_ms, interval_ms);
        let mut resolutions = Vec::new();
        for (id, finding) in findings {
            if let Finding::SettledElsewhere { receipt, .. } = &finding
                && matches!(
                    ancestry.standing(receipt.block),
                    Standing::Ahead | Standing::Orphaned
                )
            {
                // Not sealed here yet, or not any more: the chain is asked again when it has moved on.
                continue;
            }
            let Some(unexplained) = lane.unexplained.get_mut(id) else {
                continue;
            };
            let Some(resolution) = unexplained.explain(finding, cutoff, searches) else {
                continue;
            };
            if let Some(unexplained) = lane.unexplained.remove(id) {
                lane.explained.insert(id, (unexplained, resolution.clone()));
                resolutions.push((id, resolution));
            }
        }
        if !resolutions.is_empty() {
            self.emit(Effect::ResolveUnexplained { fence, resolutions });
        }
    }

    /// What was found is durable. A payment that was not changed is another slot's: a reorg has reopened that.
    pub(super) fn on_unexplained_resolved(
        &mut self,
        fence: FencedLane,
        ids: &[SettlementId],
        changed: &[SettlementId],
        now_ms: u64,
    ) {
        let Some(lane) = self.lane_mut(fence) else {
            return;
        };
        let mut requeued = Vec::new();
        for id in ids {
            let Some((unexplained, resolution)) = lane.explained.remove(id) else {
                continue;
            };
            if !changed.contains(id) {
                continue;
            }
            match resolution {
                Resolution::Requeued => requeued.push(unexplained.requeued()),
                Resolution::Resolved(
                    SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt),
                ) => lane.note_external(unexplained.slot.nonce, unexplained.block, receipt.block),
                Resolution::Resolved(_) | Resolution::Unexplained { .. } => {}
            }
        }
        self.forget(ids);
        self.on_accepted(requeued, now_ms);
    }
}
