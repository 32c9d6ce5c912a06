//! The buyer's payment identifier (PROTOCOL section 7.3): within a tenant it belongs to the first good payment that brings
//! it. It replays no success: the buyer chooses it, and two requests with one payment would buy twice.

use std::sync::Arc;

use teller_domain::{IdempotencyKey, PaymentRequest, Reason, Refusal};
use teller_store::{IdempotencyOutcome, Ledger, StoreError};

/// What keeps buyers' identifiers apart from sellers' Idempotency-Keys in the ledger.
const SCOPE: &str = "payment-identifier";

/// The identifier of one request, if it has one.
#[derive(Clone)]
pub(crate) struct Identifier {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) id: Option<IdempotencyKey>,
}

impl Identifier {
    /// Binds the identifier to this payment, which must be good: else anybody could take anybody's. A refusal if it is
    /// another payment's.
    pub(crate) async fn bind(
        &self,
        request: &PaymentRequest,
    ) -> Result<Option<Refusal>, StoreError> {
        let Some(id) = &self.id else { return Ok(None) };
        let digest = request.payment.digest();
        let bound = self
            .ledger
            .bind_idempotency_key(&request.tenant, SCOPE, id, digest)
            .await?;
        Ok(match bound {
            IdempotencyOutcome::Bound(_) => None,
            IdempotencyOutcome::UsedForAnother(_) => Some(Refusal::new(
                Reason::PaymentIdentifierReused,
                "this payment identifier was used for another payment; a new payment needs a new one",
            )),
        })
    }
}
