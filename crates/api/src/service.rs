//! What both doors do: verify, settle, release, look up. The order of a settle (DESIGN section 3.2) is here.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Bytes;
use futures::FutureExt;
use teller_domain::{
    AssetAmount, ChainId, Compensation, IdempotencyKey, Level, Payment, PaymentRequest, Reason,
    Refusal, Scheme, Settlement, SettlementId, SettlementState, TenantId,
};
use teller_protocol::extensions::BuilderCodeInfo;
use teller_settle::{Closed, Known, SettleAnswer as Answered, Settler, Ticket};
use teller_store::{Ledger, SettlementPage, SettlementQuery, StoreError};
use teller_verify::{CheckError, Verdict, Verifier};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::answer::{ApiError, SettleAnswer, SettleVerdict, VerifyAnswer};
use crate::identifier::Identifier;
use crate::inflight::{InFlight, Settling};
use crate::limits::Tenant;
use crate::wire::{Asked, Rejection};

/// Compensating entries that are shown of one settlement. Each stands for a reorg that went against what was told.
const MOST_COMPENSATIONS: u32 = 100;

pub(crate) struct Service {
    pub(crate) verifier: Verifier,
    pub(crate) settler: Settler,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) settle_wait: Duration,
    pub(crate) settled_at: BTreeMap<ChainId, Level>,
    pub(crate) drain_patience: Duration,
    pub(crate) builder_code: Option<String>,
    pub(crate) drain: watch::Sender<bool>,
    pub(crate) in_flight: Arc<InFlight>,
}

/// Why something could not be done; logged, never returned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no lane is left that could settle the payment")]
    NoLane,
    #[error("a task panicked")]
    Panicked,
}

/// How far a settle came before it waits.
enum Begun {
    Waiting(Box<Ticket>),
    Refused(Refusal),
    /// Nothing was accepted.
    NotAccepted(Cause),
    /// It may have been accepted.
    Unclear,
}

impl Service {
    /// Verifies a payment. It runs to its end even if the caller hangs up: what it then holds is given back.
    pub(crate) async fn verify(&self, asked: Asked) -> (VerifyAnswer, Option<Cause>) {
        let payer = Some(asked.request.payment.key.payer);
        let verifier = self.verifier.clone();
        let identifier = self.identifier(asked.payment_identifier);
        let request = asked.request;
        let ledger = self.ledger.clone();
        let admission = self.settler.admission().clone();
        let task = tokio::spawn(async move {
            if let Err(closed) = admission.check(&request.payment, &request.tenant) {
                return match closed {
                    Closed::Refused(refusal) => Ok(Err(refusal)),
                    Closed::Halted | Closed::NoLane => Err(Cause::NoLane),
                };
            }
            let hold = match verifier.verify(&request).await {
                Verdict::Valid(hold) => hold,
                Verdict::Invalid(refusal) => return Ok(Err(refusal)),
                Verdict::Unknown(error) => return Err(Cause::from(error)),
            };
            // A hold that is dropped here is given back.
            if let Some(refusal) = spent_here(ledger.as_ref(), &request).await? {
                return Ok(Err(refusal));
            }
            Ok(match identifier.bind(&request).await? {
                None => Ok(hold),
                Some(refusal) => Err(refusal),
            })
        });
        let cause = match task.await {
            Ok(Ok(Ok(hold))) => return (VerifyAnswer::Valid { hold }, None),
            Ok(Ok(Err(refusal))) => {
                return (VerifyAnswer::Invalid { refusal, payer }, None);
            }
            Ok(Err(cause)) => cause,
            Err(_) => Cause::Panicked,
        };
        let detail = match &cause {
            // It holds for all payments of the network, and longer than a moment.
            Cause::Check(error @ CheckError::Head { .. }) => error.to_string(),
            Cause::Check(_) | Cause::Store(_) | Cause::NoLane | Cause::Panicked => {
                "the payment could not be checked; try again".to_owned()
            }
        };
        let refusal = Refusal::new(Reason::UnexpectedVerifyError, detail);
        (VerifyAnswer::Invalid { refusal, payer }, Some(cause))
    }

    /// Settles a payment. Accepting runs to its end even if the caller hangs up; waiting ends with the caller, so that
    /// a dead request does not claim the success that a living one waits for. What is asked comes in a box, because it is
    /// needed for a moment and its place in the future would last as long as the wait.
    pub(crate) async fn settle(
        &self,
        asked: Box<Asked>,
        tenant: &Tenant,
    ) -> (SettleAnswer, Option<Cause>) {
        let begun_at = Instant::now();
        let Asked {
            mut request,
            network,
            payment_identifier,
            builder_code,
            discoverable: _,
        } = *asked;
        let identifier = self.identifier(payment_identifier);
        request.attribution = self.attribution(builder_code);
        let request = Arc::new(request);
        let payer = Some(request.payment.key.payer);
        let begun = {
            let (verifier, settler) = (self.verifier.clone(), self.settler.clone());
            let request = request.clone();
            let settling = self.in_flight.begin(request.payment.digest());
            tokio::spawn(async move {
                begin(&verifier, &settler, &request, &identifier, &settling).await
            })
        };
        let mut cause = None;
        let (settlement, verdict) = match begun.await {
            Ok(Begun::Waiting(ticket)) => {
                let wait = self
                    .wait_for(&request, tenant)
                    .saturating_sub(begun_at.elapsed());
                let level = self.settled_at(&request, tenant);
                let answer = AssertUnwindSafe(self.outcome(&request, *ticket, level, wait));
                match answer.catch_unwind().await {
                    Ok(answer) => told(answer),
                    Err(_) => {
                        cause = Some(Cause::Panicked);
                        (None, SettleVerdict::Pending { transaction: None })
                    }
                }
            }
            Ok(Begun::Refused(refusal)) => (None, failed(refusal)),
            Ok(Begun::NotAccepted(error)) => {
                cause = Some(error);
                let refusal = Refusal::new(
                    Reason::UnexpectedSettleError,
                    "the payment could not be accepted; nothing was sent; try again",
                );
                (None, failed(refusal))
            }
            Ok(Begun::Unclear) => (None, SettleVerdict::Pending { transaction: None }),
            Err(_) => {
                cause = Some(Cause::Panicked);
                (None, SettleVerdict::Pending { transaction: None })
            }
        };
        let state = settlement.as_ref().map(|settlement| &settlement.state);
        if state == Some(&SettlementState::Withdrawn) {
            self.in_flight.was_withdrawn(request.payment.digest());
        }
        let answer = SettleAnswer {
            network,
            payer,
            settlement: settlement.as_ref().map(|settlement| settlement.id),
            charged: settlement.and_then(|settlement| charged(&settlement.payment)),
            verdict,
        };
        (answer, cause)
    }

    fn identifier(&self, id: Option<IdempotencyKey>) -> Identifier {
        let ledger = self.ledger.clone();
        Identifier { ledger, id }
    }

    /// Only what a buyer has asked to attribute is; and that only where the operator has a code of its own.
    fn attribution(&self, sent: Option<BuilderCodeInfo>) -> Bytes {
        let (Some(own), Some(sent)) = (&self.builder_code, sent) else {
            return Bytes::new();
        };
        let services = sent.services.iter().map(String::as_str);
        teller_verify::attribution(own, sent.app.as_deref(), services)
    }

    fn wait_for(&self, request: &PaymentRequest, tenant: &Tenant) -> Duration {
        let asked = Some(request.max_timeout_seconds)
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        [asked, tenant.settle_wait]
            .into_iter()
            .flatten()
            .fold(self.settle_wait, Duration::min)
    }

    /// How sure the chain must be before this tenant is told that the payment is settled.
    fn settled_at(&self, request: &PaymentRequest, tenant: &Tenant) -> Level {
        let network = self.settled_at.get(&request.payment.key.chain).copied();
        tenant.settled_at.or(network).unwrap_or(Level::Included)
    }

    /// The outcome, or what is known of it once the drain's patience is over.
    async fn outcome(
        &self,
        request: &PaymentRequest,
        ticket: Ticket,
        level: Level,
        wait: Duration,
    ) -> Answered {
        tokio::select! {
            answer = self.settler.outcome(request, ticket, level, wait) => return answer,
            () = self.patience_over() => {}
        }
        Box::pin(self.outcome_now(request, level)).await
    }

    async fn outcome_now(&self, request: &PaymentRequest, level: Level) -> Answered {
        match self.settler.known(request).await {
            Ok(Known::Accepted(ticket)) => {
                let wait = Duration::ZERO;
                self.settler.outcome(request, ticket, level, wait).await
            }
            Ok(Known::New | Known::Refused(_)) | Err(_) => Answered::Pending {
                settlement: None,
                transaction: None,
            },
        }
    }

    async fn patience_over(&self) {
        self.drained().await;
        tokio::time::sleep(self.drain_patience).await;
    }

    /// Resolves when shutdown has begun.
    pub(crate) async fn drained(&self) {
        let mut drain = self.drain.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = drain.wait_for(|draining| *draining).await;
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Gives back what a verify of this tenant holds.
    pub(crate) async fn release(&self, asked: Asked) -> Result<bool, Cause> {
        let request = asked.request;
        let verifier = self.verifier.clone();
        let task = tokio::spawn(async move {
            let digest = request.payment.digest();
            verifier
                .release(&request.tenant, request.payment.key, digest)
                .await
        });
        match task.await {
            Ok(released) => Ok(released?),
            Err(_) => Err(Cause::Panicked),
        }
    }

    /// A tenant's settlement; somebody else's does not exist.
    pub(crate) async fn settlement(
        &self,
        tenant: &TenantId,
        id: &str,
    ) -> Result<Settlement, ApiError> {
        let id: SettlementId = id.parse().map_err(|_| ApiError::NoSuchSettlement)?;
        let found = self.ledger.settlement(id).await.map_err(unavailable)?;
        found
            .filter(|settlement| settlement.tenant == *tenant)
            .ok_or(ApiError::NoSuchSettlement)
    }

    /// The compensating entries of a settlement, oldest first.
    pub(crate) async fn compensations(
        &self,
        id: SettlementId,
    ) -> Result<Vec<Compensation>, ApiError> {
        self.ledger
            .compensations(0, Some(id), MOST_COMPENSATIONS)
            .await
            .map_err(unavailable)
    }

    /// A page of a tenant's settlements.
    pub(crate) async fn settlements(
        &self,
        tenant: &TenantId,
        query: SettlementQuery,
    ) -> Result<SettlementPage, ApiError> {
        let query = SettlementQuery {
            tenant: Some(tenant.clone()),
            ..query
        };
        self.ledger.list(&query).await.map_err(unavailable)
    }
}

pub(crate) fn unavailable(error: StoreError) -> ApiError {
    tracing::warn!(%error, "the ledger could not be read");
    ApiError::LedgerUnavailable
}

/// What the chain does not guard the ledger does, for as long as there is one: the chain would let it pay again, and a
/// settle would not. A seller that is told "valid" must be able to settle.
async fn spent_here(
    ledger: &dyn Ledger,
    request: &PaymentRequest,
) -> Result<Option<Refusal>, StoreError> {
    if request.payment.is_guarded_on_chain() {
        return Ok(None);
    }
    let row = ledger.find(request.payment.key).await?;
    let spent = row.filter(|row| row.state != SettlementState::Withdrawn);
    Ok(spent.map(|_| {
        let detail = "this permission context was used for a payment before; each is good for one";
        Refusal::new(Reason::NonceAlreadyUsed, detail)
    }))
}

/// Everything of a settle that must not stop half-way.
async fn begin(
    verifier: &Verifier,
    settler: &Settler,
    request: &PaymentRequest,
    identifier: &Identifier,
    settling: &Settling,
) -> Begun {
    match settler.known(request).await {
        Ok(Known::New) => {}
        Ok(Known::Accepted(ticket)) => {
            return match identifier.bind(request).await {
                Ok(None) => Begun::Waiting(Box::new(ticket)),
                Ok(Some(refusal)) => Begun::Refused(refusal),
                Err(error) => {
                    tracing::warn!(%error, "a payment identifier could not be looked up");
                    Begun::Unclear
                }
            };
        }
        Ok(Known::Refused(refusal)) => return Begun::Refused(refusal),
        Err(error) => return not_accepted(settling, error.into()),
    }
    if let Err(closed) = settler.admission().check(&request.payment, &request.tenant) {
        let begun = match closed {
            Closed::Refused(refusal) => Begun::Refused(refusal),
            Closed::Halted | Closed::NoLane => not_accepted(settling, Cause::NoLane),
        };
        return overtaken(settler, request, settling, begun).await;
    }
    let hold = match verifier.check_for_settle(request).await {
        Verdict::Valid(hold) => hold,
        Verdict::Invalid(refusal) => {
            let refused = Begun::Refused(refusal);
            return overtaken(settler, request, settling, refused).await;
        }
        Verdict::Unknown(error) => {
            let not_accepted = not_accepted(settling, error.into());
            return overtaken(settler, request, settling, not_accepted).await;
        }
    };
    match identifier.bind(request).await {
        Ok(None) => {}
        Ok(Some(refusal)) => return Begun::Refused(refusal),
        Err(error) => return not_accepted(settling, error.into()),
    }
    settling.may_be_accepted();
    let judged = hold.is_judged_by_code().then(|| {
        let mut request = request.clone();
        request.payment.judged_by_code();
        request
    });
    match settler.accept(judged.as_ref().unwrap_or(request)).await {
        Ok(Known::Accepted(ticket)) => {
            hold.delivered();
            Begun::Waiting(Box::new(ticket))
        }
        Ok(Known::Refused(refusal)) => Begun::Refused(refusal),
        Ok(Known::New) => {
            tracing::error!("accept answered that the payment is new");
            hold.delivered();
            Begun::Unclear
        }
        Err(error) => {
            // This settle has written nothing. An identical one may have, and then there is an outcome to wait for.
            settling.was_refused();
            let not_accepted = Begun::NotAccepted(error.into());
            overtaken(settler, request, settling, not_accepted).await
        }
    }
}

/// Nothing was accepted by this settle; whether another of the same payment was, decides what may be said.
fn not_accepted(settling: &Settling, cause: Cause) -> Begun {
    match settling.is_alone() {
        true => Begun::NotAccepted(cause),
        false => Begun::Unclear,
    }
}

/// A check that says no, or cannot say, may have been overtaken by an identical request: its payment is in the ledger,
/// or its transfer is what made the authorization used. Then there is an outcome to wait for.
async fn overtaken(
    settler: &Settler,
    request: &PaymentRequest,
    settling: &Settling,
    otherwise: Begun,
) -> Begun {
    match settler.known(request).await {
        Ok(Known::Accepted(ticket)) => Begun::Waiting(Box::new(ticket)),
        Ok(Known::New | Known::Refused(_)) => otherwise,
        Err(error) => not_accepted(settling, error.into()),
    }
}

fn failed(refusal: Refusal) -> SettleVerdict {
    SettleVerdict::Failed {
        refusal,
        transaction: None,
    }
}

/// What is told to have been charged: the buyer does not know how much of an `upto` payment that is.
fn charged(payment: &Payment) -> Option<AssetAmount> {
    (payment.scheme() == Scheme::Upto).then_some(payment.value)
}

fn told(answer: Answered) -> (Option<Box<Settlement>>, SettleVerdict) {
    let (settlement, verdict) = match answer {
        Answered::Settled {
            settlement,
            transaction,
            level: _,
            delivery,
        } => (
            Some(settlement),
            SettleVerdict::Settled {
                transaction,
                delivery,
            },
        ),
        Answered::Duplicate {
            settlement,
            transaction,
        } => (Some(settlement), SettleVerdict::Duplicate { transaction }),
        Answered::Failed {
            settlement,
            refusal,
            transaction,
        } => (
            Some(settlement),
            SettleVerdict::Failed {
                refusal,
                transaction,
            },
        ),
        Answered::Pending {
            settlement,
            transaction,
        } => (settlement, SettleVerdict::Pending { transaction }),
    };
    (settlement.map(Box::new), verdict)
}

/// A settle request that was refused before anybody looked at the payment.
pub(crate) fn rejected_settle(rejection: Rejection) -> SettleAnswer {
    SettleAnswer {
        network: rejection.network,
        payer: rejection.payer,
        settlement: None,
        charged: None,
        verdict: failed(rejection.refusal),
    }
}
