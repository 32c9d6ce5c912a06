//! A signer's nonces, in their order: used ones have a closed slot, the others up to the lane's next one an open slot.

use alloy_primitives::Address;
use teller_domain::{AccountNonce, SlotId, SlotState};
use teller_store::AuditSlot;

use super::difference::{Difference, Kind, Subject};
use super::seen::Seen;

/// Walks the slots of one signer, by nonce.
#[derive(Debug, Clone)]
pub struct NonceLine {
    signer: Address,
    sealed: AccountNonce,
    /// The nonce that the next slot must have; `None` before the first one.
    expected: Option<AccountNonce>,
}

impl NonceLine {
    /// Before the first slot. `sealed` is the account's nonce at the horizon.
    pub fn new(signer: Address, sealed: AccountNonce) -> Self {
        Self {
            signer,
            sealed,
            expected: None,
        }
    }

    /// The next slot.
    pub fn slot(&mut self, slot: &AuditSlot, seen: &Seen, out: &mut Vec<Difference>) {
        let nonce = slot.id.nonce;
        if let Some(expected) = self.expected {
            self.gap(expected, nonce, seen, out);
        }
        let used = nonce < self.sealed;
        match &slot.state {
            SlotState::Open if used => out.push(self.at(
                Kind::SlotLeftOpen,
                slot.id,
                "open",
                format!("the account's nonce is {}", self.sealed),
                seen,
            )),
            SlotState::Closed { block, .. } if !used && block.number <= seen.horizon => {
                out.push(self.at(
                    Kind::ClosedAboveSealed,
                    slot.id,
                    format!("closed in block {}", block.number),
                    format!(
                        "the account's nonce at block {} is {}",
                        seen.horizon, self.sealed
                    ),
                    seen,
                ));
            }
            SlotState::Open | SlotState::Closed { .. } => {}
        }
        self.expected = Some(nonce.next());
    }

    /// Behind the last slot. `next` is the lane's next nonce as it was before the first slot was read.
    pub fn end(self, next: Option<AccountNonce>, seen: &Seen, out: &mut Vec<Difference>) {
        // A lane without slots has adopted its next nonce from the chain: what was before is not teller's.
        let Some(expected) = self.expected.or(next) else {
            return;
        };
        let reached = next.map_or(self.sealed, |next| next.max(self.sealed));
        self.gap(expected, reached, seen, out);
    }

    /// What is missing between two nonces: above the sealed one a slot, below it an explanation.
    fn gap(&self, from: AccountNonce, to: AccountNonce, seen: &Seen, out: &mut Vec<Difference>) {
        let used = to.min(self.sealed);
        if from < used {
            out.push(seen.differs(
                Kind::NonceUnexplained,
                self.nonces(from, used),
                "no slot",
                "used by this account",
            ));
        }
        let unused = from.max(self.sealed);
        if unused < to {
            out.push(seen.differs(
                Kind::NonceWithoutSlot,
                self.nonces(unused, to),
                "no slot",
                "not used",
            ));
        }
    }

    fn nonces(&self, from: AccountNonce, to: AccountNonce) -> Subject {
        Subject::Nonces {
            signer: self.signer,
            from: from.0,
            to: to.0,
        }
    }

    fn at(
        &self,
        kind: Kind,
        slot: SlotId,
        ledger: impl ToString,
        found: impl ToString,
        seen: &Seen,
    ) -> Difference {
        seen.differs(kind, Subject::Slot(slot), ledger, found)
    }
}
