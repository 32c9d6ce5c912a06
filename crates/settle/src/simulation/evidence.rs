//! Invariant 10 and what was told, at the moment at which it is written or told: the model chain knows the truth.

use alloy_primitives::{Address, B256};
use teller_domain::{
    CompensationKind, Level, Payment, Reason, Refusal, Settlement, SettlementId, SettlementState,
    Told,
};
use teller_store::Ledger;

use super::sight::settling_log;
use super::world::World;

impl World<'_> {
    /// A node has said that the payment cannot be settled, as its chain has it.
    pub fn is_refuted(&mut self, id: SettlementId) {
        self.check.refuted.insert(id);
    }

    /// An end without a transfer is written for a payment.
    pub fn check_ended(&mut self, p: Option<usize>, id: SettlementId, state: &SettlementState) {
        let payment = self.check.accepted[&id].clone();
        if let SettlementState::Failed {
            refusal,
            transaction,
        } = state
        {
            let proven = self.is_proven(p, id, &payment, refusal, *transaction);
            self.demand(proven, || {
                format!("invariant 10: {id} is failed without proof from the chain: {refusal:?}")
            });
        } else if !matches!(state, SettlementState::Expired) {
            return;
        }
        let overlooked = self.overlooked(id, &payment, state);
        self.demand(overlooked.is_none(), || {
            format!("invariant 10: {id} is failed as spent by nobody knows whom, and {overlooked:?} has settled it")
        });
        let settled = self.settled_for_good(&payment);
        self.demand(settled.is_none(), || {
            format!(
                "invariant 10: {id} ends as {}, and {settled:?} has settled it for good",
                state.kind()
            )
        });
    }

    fn is_proven(
        &self,
        p: Option<usize>,
        id: SettlementId,
        payment: &Payment,
        refusal: &Refusal,
        transaction: Option<B256>,
    ) -> bool {
        match (refusal.reason, p) {
            (Reason::FeeCeilingExceeded, Some(p)) => self.processes[p].ceiling.is_some(),
            (Reason::GasBudgetExceeded, Some(p)) => {
                let budgets = &self.processes[p].budgets;
                budgets.by_day() || budgets.per_transaction.is_some()
            }
            // Nobody else was told, and no bytes of it are in any slot.
            (Reason::ApprovalBroadcastFailed, Some(_)) => payment.token_approval().is_some(),
            (Reason::FeeCeilingExceeded | Reason::GasBudgetExceeded, None) => false,
            _ => {
                let fruitless = |hash: B256| {
                    self.check.mined_in.get(&hash).is_some_and(|block| {
                        let receipt = self.chain.known(*block).and_then(|b| b.receipt(hash));
                        receipt.is_some_and(|receipt| settling_log(receipt, payment).is_none())
                    })
                };
                self.check.refuted.contains(&id) || transaction.is_some_and(fruitless)
            }
        }
    }

    /// The transaction that has settled a payment which fails for a use that nobody found, in a block that nodes had in view
    /// when they found nothing.
    fn overlooked(
        &self,
        id: SettlementId,
        payment: &Payment,
        state: &SettlementState,
    ) -> Option<B256> {
        let SettlementState::Failed {
            refusal,
            transaction: None,
        } = state
        else {
            return None;
        };
        let used = [Reason::NonceAlreadyUsed, Reason::Permit2InvalidNonce];
        let in_view = self
            .check
            .unfound
            .get(&id)
            .filter(|_| used.contains(&refusal.reason))?;
        let sealed = self.chain.canonical();
        let mut receipts = sealed
            .filter(|sealed| in_view.contains(&sealed.block.hash))
            .flat_map(|sealed| &sealed.receipts);
        receipts
            .find(|receipt| settling_log(receipt, payment).is_some())
            .map(|receipt| receipt.transaction.hash)
    }

    /// The transaction of ours that has settled a payment in a block that no reorg takes any more.
    fn settled_for_good(&self, payment: &Payment) -> Option<B256> {
        let sealed = self.chain.canonical();
        let mut receipts = sealed
            .filter(|sealed| sealed.block.number <= self.check.finalized)
            .flat_map(|sealed| &sealed.receipts);
        receipts
            .find(|receipt| {
                self.check.attempts.contains_key(&receipt.transaction.hash)
                    && settling_log(receipt, payment).is_some()
            })
            .map(|receipt| receipt.transaction.hash)
    }

    /// What is told as success is on a chain, and on the chain if it is said to be sure.
    pub fn check_success_is_true(&mut self, row: &Settlement) {
        let (SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt)) =
            &row.state
        else {
            return;
        };
        let there = self.chain.known(receipt.block.hash);
        let log =
            there.and_then(|there| settling_log(there.receipt(receipt.transaction)?, &row.payment));
        // A reorg while nothing ran is found out by whoever starts next, a moment later.
        let informed = self.now_ms >= self.check.informed_from_ms;
        let is_final = receipt.block.number <= self.check.finalized;
        let sure = receipt.level >= Level::Safe || (is_final && informed);
        let holds =
            log == Some(receipt.log_index) && (!sure || self.chain.is_canonical(receipt.block));
        let (id, receipt) = (row.id, *receipt);
        self.demand(holds, || {
            format!("success of {id} is told by {receipt:?}, which the chain does not show")
        });
    }

    pub fn check_failure_is_true(&mut self, row: &Settlement) {
        let settled = self.settled_for_good(&row.payment);
        self.demand(settled.is_none(), || {
            format!(
                "invariant 10: failure of {} is told, and {settled:?} has settled it",
                row.id
            )
        });
    }

    /// Those of these payments of which anything was told: the ledger owes an entry for what it says otherwise now.
    pub fn check_entries(&mut self, ids: impl IntoIterator<Item = SettlementId>) {
        let told: Vec<SettlementId> = ids
            .into_iter()
            .filter(|id| self.check.told.contains(id))
            .collect();
        if told.is_empty() {
            return;
        }
        let rows = self.stage.read(|| self.stage.ledger.settlements(&told));
        for row in rows {
            self.check_entry(&row);
        }
    }

    pub fn check_entry(&mut self, row: &Settlement) {
        let settled = matches!(
            row.state,
            SettlementState::Settled(_) | SettlementState::SettledExternally(_)
        );
        let due = match row.told {
            Some(Told::Success { .. }) if row.state.is_resolved() && !settled => {
                CompensationKind::SuccessTakenBack
            }
            Some(Told::Failure { .. }) if settled => CompensationKind::FailureSettled,
            _ => return,
        };
        let ledger = &self.stage.ledger;
        let entries = self
            .stage
            .read(|| ledger.compensations(0, Some(row.id), 100));
        let last = entries.last().map(|entry| entry.kind);
        self.demand(last == Some(due), || {
            format!(
                "{:?} was told of {}, which is {}, and its last entry is {last:?}",
                row.told,
                row.id,
                row.state.kind()
            )
        });
    }

    /// Invariant 4: every nonce from the final one to a new slot's has a slot, or a stranger has used it.
    pub fn check_contiguous(&mut self, signer: Address, nonce: u64) {
        let first = self.chain.head().state.account(signer).nonce;
        let hole = (first..nonce).find(|nonce| {
            let id = self.slot(signer, *nonce);
            let used = self.check.used_in.contains_key(&(signer, *nonce));
            !self.check.slots.contains_key(&id) && !used
        });
        self.demand(hole.is_none(), || {
            format!("invariant 4: slot {nonce} of {signer} is opened above nonce {hole:?}, which has none")
        });
    }
}
