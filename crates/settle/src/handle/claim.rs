//! Claiming a success, so that one request alone delivers it.

use std::time::Duration;

use teller_domain::{PaymentRequest, RequestId, Settlement, SettlementId};
use teller_store::{Boundary, ClaimOutcome, IdempotencyOutcome, StoreError, StoreResult, Success};
use tokio::time::Instant;

use super::{SettleAnswer, Settler, pending};
use crate::delivery::{Delivery, Undelivered};

/// How often a claim is tried again while another request has it and has not confirmed it.
const CLAIM_POLL: Duration = Duration::from_millis(200);

/// How long a claim may be neither confirmed nor free before it is another request's for good: its process lives, or it
/// would have been free before.
const CLAIM_PATIENCE: Duration = Duration::from_secs(15);

impl Settler {
    /// Claims in a task of its own: whoever waits for the answer may hang up at any moment, and a claim that is made but
    /// reaches nobody must be given back, which dropping its [`Delivery`] does.
    pub(super) async fn claim_to_the_end(
        &self,
        request: &PaymentRequest,
        settlement: Settlement,
        success: Success,
        deadline: Instant,
    ) -> SettleAnswer {
        let (settler, request) = (self.clone(), request.clone());
        let row = settlement.clone();
        let claim = async move { settler.claim(&request, settlement, success, deadline).await };
        tokio::spawn(claim).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a claim did not end well");
            pending(row)
        })
    }

    async fn claim(
        &self,
        request: &PaymentRequest,
        settlement: Settlement,
        success: Success,
        deadline: Instant,
    ) -> SettleAnswer {
        let Success { transaction, level } = success;
        let request_id = match self.request_id(request).await {
            Ok(IdempotencyOutcome::Bound(request_id)) => request_id,
            Ok(IdempotencyOutcome::UsedForAnother(_)) => {
                return SettleAnswer::Duplicate {
                    settlement,
                    transaction,
                };
            }
            Err(error) => {
                tracing::warn!(settlement = %settlement.id, %error, "a delivery could not be claimed");
                return pending(settlement);
            }
        };
        let undelivered = match request.idempotency_key {
            Some(_) => Undelivered::Leave,
            None => Undelivered::Release,
        };
        // Made before the claim: a claim that may have been made is given back too.
        let mut delivery = Delivery {
            ledger: self.ledger().clone(),
            id: settlement.id,
            request: request_id,
            undelivered,
            releases: self.shared.releases.clone(),
        };
        let claimed_since = Instant::now();
        loop {
            match self.claim_once(settlement.id, request_id, success).await {
                Ok(ClaimOutcome::Claimed) => {
                    return SettleAnswer::Settled {
                        settlement,
                        transaction,
                        level,
                        delivery,
                    };
                }
                Ok(outcome) => {
                    let is_another_s = outcome == ClaimOutcome::Delivered
                        || claimed_since.elapsed() >= CLAIM_PATIENCE;
                    // Whoever has it may be dead, and the success would then be told to nobody: it is this request's once
                    // that is certain.
                    if !is_another_s && Instant::now() < deadline {
                        tokio::time::sleep(CLAIM_POLL).await;
                        continue;
                    }
                    delivery.undelivered = Undelivered::Leave;
                    return match is_another_s {
                        true => SettleAnswer::Duplicate {
                            settlement,
                            transaction,
                        },
                        false => pending(settlement),
                    };
                }
                // Also where a reorg has taken the settlement back meanwhile.
                Err(error) => {
                    tracing::warn!(settlement = %settlement.id, %error, "a delivery could not be claimed");
                    return pending(settlement);
                }
            }
        }
    }

    /// Claims, then confirms: from then on nobody else can tell the success, even if this process counted as dead since
    /// the claim. Another may have claimed it in between; then it is taken.
    async fn claim_once(
        &self,
        id: SettlementId,
        request: RequestId,
        success: Success,
    ) -> StoreResult<ClaimOutcome> {
        let claiming = self
            .ledger()
            .claim_delivery(id, request, self.shared.process, success);
        let outcome = Boundary::ClaimDelivery.around(claiming).await?;
        if outcome != ClaimOutcome::Claimed {
            return Ok(outcome);
        }
        let confirming = self.ledger().confirm_delivery(id, request);
        match Boundary::ConfirmDelivery.around(confirming).await {
            Ok(()) => Ok(ClaimOutcome::Claimed),
            Err(StoreError::Conflict { .. }) => Ok(ClaimOutcome::Taken),
            Err(error) => Err(error),
        }
    }

    /// Requests with the same key for the same payment are one request; all others are their own.
    pub(super) async fn request_id(
        &self,
        request: &PaymentRequest,
    ) -> Result<IdempotencyOutcome, StoreError> {
        match &request.idempotency_key {
            None => Ok(IdempotencyOutcome::Bound(RequestId::fresh())),
            Some(key) => {
                self.ledger()
                    .bind_idempotency_key(&request.tenant, "settle", key, request.payment.digest())
                    .await
            }
        }
    }
}
