//! The engine's handle: what a request for a settlement goes through.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use teller_domain::{
    ChainId, PaymentRequest, ProcessId, Reason, Receipt, Refusal, RequestId, Settlement,
    SettlementId, SettlementState,
};
use teller_store::{
    AcceptOutcome, ClaimOutcome, IdempotencyOutcome, Ledger, NewSettlement, Reservations,
    StoreError,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::core::{Event, Queued};
use crate::delivery::{Delivery, DeliveryEnd};
use crate::waiters::Waiters;

/// How often an accept whose fate is unknown is looked up again while somebody waits for it.
const UNCERTAIN_POLL: Duration = Duration::from_millis(250);

/// What the ledger knows of a payment that somebody asks to settle.
#[derive(Debug)]
pub enum Known {
    /// Nothing: check it, then [`Settler::accept`] it.
    New,
    /// It was accepted for this tenant: wait for its outcome.
    Accepted(Ticket),
    /// No, whatever a check would say: the authorization is taken by another payment or tenant, or the idempotency
    /// key by another payment ([`Reason::IdempotencyKeyReused`]).
    Refused(Refusal),
}

/// A place in the queue for one settlement's outcome.
#[derive(Debug)]
pub struct Ticket {
    settlement: Option<Box<Settlement>>,
    resolved: Option<oneshot::Receiver<SettlementState>>,
}

impl Ticket {
    /// The settlement as it was when the ticket was given; `None` if accept may or may not have committed.
    pub fn settlement(&self) -> Option<&Settlement> {
        self.settlement.as_deref()
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

struct Shared {
    ledger: Arc<dyn Ledger>,
    reservations: Arc<dyn Reservations>,
    waiters: Waiters,
    engines: HashMap<ChainId, mpsc::Sender<Event>>,
    process: ProcessId,
}

/// The engine's handle. Cheap to clone.
#[derive(Clone)]
pub struct Settler {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Settler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settler")
            .field("process", &self.shared.process)
            .finish_non_exhaustive()
    }
}

impl Settler {
    pub(crate) fn new(
        ledger: Arc<dyn Ledger>,
        reservations: Arc<dyn Reservations>,
        waiters: Waiters,
        engines: HashMap<ChainId, mpsc::Sender<Event>>,
        process: ProcessId,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                ledger,
                reservations,
                waiters,
                engines,
                process,
            }),
        }
    }

    fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.shared.ledger
    }

    /// Looks a payment up before anything is checked. An error means that nothing was accepted by this call.
    pub async fn known(&self, request: &PaymentRequest) -> Result<Known, StoreError> {
        if let IdempotencyOutcome::UsedForAnother(_) = self.request_id(request).await? {
            let detail = "this Idempotency-Key was used for another payment";
            return Ok(Known::Refused(Refusal::new(
                Reason::IdempotencyKeyReused,
                detail,
            )));
        }
        match self.ledger().find(request.payment.key).await? {
            None => Ok(Known::New),
            Some(settlement) => self.existing(request, settlement).await,
        }
    }

    /// Accepts a checked payment: durable before this answers. An error means that nothing can have been accepted;
    /// where that is not certain the answer is a ticket without a settlement.
    pub async fn accept(&self, request: &PaymentRequest) -> Result<Known, StoreError> {
        let id = SettlementId::fresh();
        let resolved = self.shared.waiters.subscribe(id);
        let new = NewSettlement {
            id,
            tenant: request.tenant.clone(),
            version: request.version,
            payment: request.payment,
        };
        match self.ledger().accept(new).await {
            Ok(AcceptOutcome::Accepted(settlement)) => {
                self.announce(&settlement).await;
                Ok(Known::Accepted(Ticket {
                    settlement: Some(Box::new(settlement)),
                    resolved: Some(resolved),
                }))
            }
            Ok(AcceptOutcome::Exists(settlement)) => {
                drop(resolved);
                self.shared.waiters.leave(id);
                self.existing(request, settlement).await
            }
            Err(error) => {
                drop(resolved);
                self.shared.waiters.leave(id);
                if error.is_retryable() {
                    tracing::warn!(%error, "an accept has no certain end");
                    return Ok(Known::Accepted(Ticket {
                        settlement: None,
                        resolved: None,
                    }));
                }
                Err(error)
            }
        }
    }

    /// Waits for the outcome, at most `wait`; then withdraws the payment if nothing was signed, else says pending.
    pub async fn outcome(
        &self,
        request: &PaymentRequest,
        ticket: Ticket,
        wait: Duration,
    ) -> SettleAnswer {
        let deadline = Instant::now() + wait;
        let Ticket {
            settlement,
            resolved,
        } = match ticket.settlement {
            Some(_) => ticket,
            None => match Box::pin(self.find_uncertain(request, deadline)).await {
                Some(ticket) => ticket,
                None => {
                    return SettleAnswer::Pending {
                        settlement: None,
                        transaction: None,
                    };
                }
            },
        };
        let Some(mut settlement) = settlement.map(|settlement| *settlement) else {
            return SettleAnswer::Pending {
                settlement: None,
                transaction: None,
            };
        };
        if let Some(resolved) = resolved {
            match timeout_at(deadline, resolved).await {
                Ok(Ok(state)) => settlement.state = state,
                Ok(Err(_)) | Err(_) => {
                    settlement = Box::pin(self.give_up_waiting(settlement)).await
                }
            }
            self.shared.waiters.leave(settlement.id);
        }
        Box::pin(self.answer(request, settlement)).await
    }

    async fn existing(
        &self,
        request: &PaymentRequest,
        settlement: Settlement,
    ) -> Result<Known, StoreError> {
        if settlement.state == SettlementState::Withdrawn {
            return Ok(Known::New);
        }
        let same_tenant = settlement.tenant == request.tenant;
        if same_tenant && settlement.digest == request.payment.digest() {
            return self.ticket(settlement).await.map(Known::Accepted);
        }
        let refusal = match settlement.state {
            SettlementState::Settled(_) | SettlementState::SettledExternally(_) => Refusal::new(
                Reason::NonceAlreadyUsed,
                "the authorization was settled already",
            ),
            _ => {
                let detail = "the authorization was accepted for another payment";
                Refusal::new(Reason::AuthorizationAlreadyReserved, detail)
            }
        };
        Ok(Known::Refused(refusal))
    }

    /// A ticket for a settlement that may be resolved at any moment: subscribe first, then read again.
    async fn ticket(&self, settlement: Settlement) -> Result<Ticket, StoreError> {
        if settlement.state.is_resolved() {
            return Ok(Ticket {
                settlement: Some(Box::new(settlement)),
                resolved: None,
            });
        }
        let resolved = self.shared.waiters.subscribe(settlement.id);
        let newest = match self.ledger().find(settlement.payment.key).await {
            Ok(newest) => newest
                .filter(|newest| newest.id == settlement.id)
                .unwrap_or(settlement),
            Err(error) => {
                drop(resolved);
                self.shared.waiters.leave(settlement.id);
                return Err(error);
            }
        };
        if newest.state.is_resolved() {
            drop(resolved);
            self.shared.waiters.leave(newest.id);
            return Ok(Ticket {
                settlement: Some(Box::new(newest)),
                resolved: None,
            });
        }
        Ok(Ticket {
            settlement: Some(Box::new(newest)),
            resolved: Some(resolved),
        })
    }

    async fn find_uncertain(&self, request: &PaymentRequest, deadline: Instant) -> Option<Ticket> {
        while Instant::now() < deadline {
            if let Ok(Some(settlement)) = self.ledger().find(request.payment.key).await {
                self.announce(&settlement).await;
                return match self.existing(request, settlement).await {
                    Ok(Known::Accepted(ticket)) => Some(ticket),
                    Ok(Known::New | Known::Refused(_)) | Err(_) => None,
                };
            }
            tokio::time::sleep(UNCERTAIN_POLL).await;
        }
        None
    }

    async fn announce(&self, settlement: &Settlement) {
        let chain = settlement.payment.key.chain;
        let unresolved = matches!(settlement.state, SettlementState::Accepted);
        if let (true, Some(engine)) = (unresolved, self.shared.engines.get(&chain)) {
            let queued = Queued::new(settlement.id, settlement.payment, settlement.tries);
            // An engine that is gone has been shut down; the ledger keeps the payment for the next one.
            let _ = engine.send(Event::Accepted(vec![queued])).await;
        }
    }

    /// The wait is over. The withdrawal is atomic in the ledger: either nothing was signed and nothing will be, or
    /// the payment is on its way.
    async fn give_up_waiting(&self, settlement: Settlement) -> Settlement {
        let id = settlement.id;
        match self.ledger().withdraw(id).await {
            Ok(false) => {}
            Ok(true) => {
                if let Err(error) = self
                    .shared
                    .reservations
                    .abandon(&[settlement.payment.key])
                    .await
                {
                    tracing::warn!(settlement = %id, %error, "the hold of a withdrawn payment stays until it expires");
                }
            }
            Err(error) => {
                tracing::warn!(settlement = %id, %error, "a withdrawal has no certain end")
            }
        }
        match self.ledger().settlement(id).await {
            Ok(Some(newest)) => newest,
            Ok(None) | Err(_) => settlement,
        }
    }

    async fn answer(&self, request: &PaymentRequest, settlement: Settlement) -> SettleAnswer {
        match settlement.state.clone() {
            SettlementState::Accepted => SettleAnswer::Pending {
                settlement: Some(settlement),
                transaction: None,
            },
            SettlementState::Assigned { transaction, .. } => SettleAnswer::Pending {
                settlement: Some(settlement),
                transaction: Some(transaction),
            },
            SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
                self.claim_to_the_end(request, settlement, receipt).await
            }
            SettlementState::Failed {
                refusal,
                transaction,
            } => SettleAnswer::Failed {
                settlement,
                refusal,
                transaction,
            },
            state @ (SettlementState::Expired | SettlementState::Withdrawn) => {
                let fallback = || Refusal::new(Reason::SettlementWithdrawn, "not settled");
                let refusal = state.refusal().unwrap_or_else(fallback);
                SettleAnswer::Failed {
                    settlement,
                    refusal,
                    transaction: None,
                }
            }
        }
    }

    /// Claims in a task of its own: whoever waits for the answer may hang up at any moment, and a claim that is made but
    /// reaches nobody must be given back, which dropping its [`Delivery`] does.
    async fn claim_to_the_end(
        &self,
        request: &PaymentRequest,
        settlement: Settlement,
        receipt: Receipt,
    ) -> SettleAnswer {
        let (settler, request) = (self.clone(), request.clone());
        let (row, transaction) = (settlement.clone(), receipt.transaction);
        let claim = tokio::spawn(async move { settler.claim(&request, settlement, receipt).await });
        claim.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a claim did not end well");
            SettleAnswer::Pending {
                settlement: Some(row),
                transaction: Some(transaction),
            }
        })
    }

    async fn claim(
        &self,
        request: &PaymentRequest,
        settlement: Settlement,
        receipt: Receipt,
    ) -> SettleAnswer {
        let transaction = receipt.transaction;
        let pending = |settlement| SettleAnswer::Pending {
            settlement: Some(settlement),
            transaction: Some(transaction),
        };
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
            Some(_) => DeliveryEnd::Leave,
            None => DeliveryEnd::Release,
        };
        // Made before the claim: a claim that may have been made is given back too.
        let mut delivery = Delivery {
            ledger: self.ledger().clone(),
            id: settlement.id,
            request: request_id,
            end: undelivered,
        };
        match self
            .ledger()
            .claim_delivery(settlement.id, request_id, self.shared.process)
            .await
        {
            Ok(ClaimOutcome::Claimed) => SettleAnswer::Settled {
                settlement,
                receipt,
                delivery,
            },
            Ok(ClaimOutcome::Taken) => {
                delivery.end = DeliveryEnd::Leave;
                SettleAnswer::Duplicate {
                    settlement,
                    transaction,
                }
            }
            Err(error) => {
                tracing::warn!(settlement = %settlement.id, %error, "a delivery could not be claimed");
                pending(settlement)
            }
        }
    }

    /// Requests with the same key for the same payment are one request; all others are their own.
    async fn request_id(&self, request: &PaymentRequest) -> Result<IdempotencyOutcome, StoreError> {
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
