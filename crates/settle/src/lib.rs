//! The settlement engine: accept, batch, slot, broadcast, watch, resolve, recover (DESIGN section 4).

use std::time::Duration;

use alloy_primitives::B256;
use teller_domain::{PaymentRequest, Receipt, Refusal, Settlement};
use teller_store::StoreError;

/// What the ledger knows of a payment that somebody asks to settle.
#[derive(Debug)]
pub enum Known {
    /// Nothing: check it, then [`Settler::accept`] it.
    New,
    /// It was accepted for this tenant: wait for its outcome.
    Accepted(Ticket),
    /// No, whatever a check would say: the authorization is taken by another payment or tenant, or the idempotency
    /// key by another payment ([`teller_domain::Reason::IdempotencyKeyReused`]).
    Refused(Refusal),
}

/// A place in the queue for one settlement's outcome.
#[derive(Debug)]
pub struct Ticket {
    settlement: Option<Settlement>,
}

impl Ticket {
    /// The settlement as it was when the ticket was given; `None` if accept may or may not have committed.
    pub fn settlement(&self) -> Option<&Settlement> {
        self.settlement.as_ref()
    }
}

/// The answer to a settle request.
#[derive(Debug)]
pub enum SettleAnswer {
    /// The money has moved and this request may say so.
    Settled {
        /// The settlement.
        settlement: Settlement,
        /// Where the money moved.
        receipt: Receipt,
        /// Must be told when the answer was handed to the transport.
        delivery: Delivery,
    },
    /// The money has moved and somebody else was or is being told.
    Duplicate {
        /// The settlement.
        settlement: Settlement,
        /// Hash of the transaction.
        transaction: B256,
    },
    /// It has not moved and never will by this settlement.
    Failed {
        /// The settlement.
        settlement: Settlement,
        /// Why.
        refusal: Refusal,
        /// The mined transaction that shows it, if one does.
        transaction: Option<B256>,
    },
    /// Not known yet: `settlement_pending`.
    Pending {
        /// The settlement, if the ledger could be read.
        settlement: Option<Settlement>,
        /// Hash of the newest attempt, if bytes were signed.
        transaction: Option<B256>,
    },
}

/// A success on its way to the one request that may deliver it. Dropped before [`delivered`](Delivery::delivered), the
/// claim is given back, so that another request can deliver it.
#[derive(Debug)]
pub struct Delivery {}

impl Delivery {
    /// The answer was handed to the transport.
    pub fn delivered(self) {}
}

/// The engine's handle. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Settler {}

impl Settler {
    /// Looks a payment up before anything is checked. An error means that nothing was accepted by this call.
    pub async fn known(&self, _request: &PaymentRequest) -> Result<Known, StoreError> {
        Err(StoreError::Recovering)
    }

    /// Accepts a checked payment: durable before this answers. An error means that nothing can have been accepted;
    /// where that is not certain the answer is a ticket without a settlement.
    pub async fn accept(&self, _request: &PaymentRequest) -> Result<Known, StoreError> {
        Err(StoreError::Recovering)
    }

    /// Waits for the outcome, at most `wait`; then withdraws the payment if nothing was signed, else says pending.
    pub async fn outcome(
        &self,
        _request: &PaymentRequest,
        ticket: Ticket,
        _wait: Duration,
    ) -> SettleAnswer {
        SettleAnswer::Pending {
            settlement: ticket.settlement,
            transaction: None,
        }
    }
}
