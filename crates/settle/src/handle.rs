//! The engine's handle: what a request for a settlement goes through.

mod claim;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use teller_domain::{
    ChainId, Level, PaymentRequest, ProcessId, Reason, Refusal, Settlement, SettlementId,
    SettlementState,
};
use teller_store::{
    AcceptOutcome, Boundary, IdempotencyOutcome, Ledger, NewSettlement, Reservations, StoreError,
    Success,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Closed};
use crate::core::{Event, Queued};
use crate::delivery::Delivery;
use crate::waiters::{Waiters, Waiting};

/// How often an accept whose fate is unknown is tried again while somebody waits for it.
const UNCERTAIN_POLL: Duration = Duration::from_millis(250);

/// How often a payment that waits for a slot is asked about: would one be opened for it now?
const ADMISSION_POLL: Duration = Duration::from_secs(1);

/// How often a settlement is read again, at most, because what was to be told of it has changed.
const READINGS: usize = 3;

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
    place: Place,
    waiting: Option<Waiting>,
}

/// What is known of a settlement that is waited for.
#[derive(Debug)]
enum Place {
    /// It is in the ledger.
    Known(Box<Settlement>),
    /// It is there as it was to be accepted, or the authorization is not there at all, or another settlement has it.
    Uncertain(Box<NewSettlement>),
}

impl Ticket {
    /// The settlement as it was when the ticket was given; `None` if accept may or may not have committed.
    pub fn settlement(&self) -> Option<&Settlement> {
        match &self.place {
            Place::Known(settlement) => Some(settlement),
            Place::Uncertain(_) => None,
        }
    }

    fn of(settlement: Settlement) -> Self {
        Self {
            place: Place::Known(Box::new(settlement)),
            waiting: None,
        }
    }
}

/// The answer to a settle request.
#[derive(Debug)]
pub enum SettleAnswer {
    /// The money has moved, as surely as was asked, and this request may say so.
    Settled {
        /// The settlement.
        settlement: Settlement,
        /// Hash of the transaction.
        transaction: B256,
        /// How sure the chain is.
        level: Level,
        /// Must be told when the answer was handed to the transport.
        delivery: Delivery,
    },
    /// The money has moved, as surely as was asked, and somebody else was or is being told.
    Duplicate {
        /// The settlement.
        settlement: Settlement,
        /// Hash of the transaction.
        transaction: B256,
    },
    /// It has not moved and never will by this settlement. Unless the settlement was withdrawn, the ledger has noted that
    /// this is told: nothing is signed for it any more.
    Failed {
        /// The settlement.
        settlement: Settlement,
        /// Why.
        refusal: Refusal,
        /// The mined transaction that shows it, if one does.
        transaction: Option<B256>,
    },
    /// Not known yet, or not as surely as was asked: `settlement_pending`.
    Pending {
        /// The settlement, if the ledger could be read.
        settlement: Option<Settlement>,
        /// Hash of the newest attempt that was handed to an endpoint, if one was. It may change.
        transaction: Option<B256>,
    },
}

struct Shared {
    ledger: Arc<dyn Ledger>,
    reservations: Arc<dyn Reservations>,
    waiters: Waiters,
    engines: HashMap<ChainId, mpsc::Sender<Event>>,
    process: ProcessId,
    releases: TaskTracker,
}

/// The engine's handle. Cheap to clone.
#[derive(Clone)]
pub struct Settler {
    shared: Arc<Shared>,
    admission: Admission,
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
        releases: TaskTracker,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                ledger,
                reservations,
                waiters,
                engines,
                process,
                releases,
            }),
            admission: Admission::default(),
        }
    }

    pub(crate) fn admitting(self, admission: Admission) -> Self {
        Self { admission, ..self }
    }

    /// Whether new payments would be settled now. Ask before one is accepted.
    pub fn admission(&self) -> &Admission {
        &self.admission
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
            Some(settlement) => Ok(self.existing(request, settlement)),
        }
    }

    /// Accepts a checked payment: durable before this answers. An error means that nothing can have been accepted;
    /// where that is not certain the answer is a ticket without a settlement.
    pub async fn accept(&self, request: &PaymentRequest) -> Result<Known, StoreError> {
        let id = SettlementId::fresh();
        let waiting = self.shared.waiters.subscribe(id);
        let has_engine = self.shared.engines.contains_key(&request.payment.key.chain);
        let new = NewSettlement {
            id,
            tenant: request.tenant.clone(),
            version: request.version,
            payment: request.payment.clone(),
            attribution: request.attribution.clone(),
            queued_by: has_engine.then_some(self.shared.process),
        };
        match Boundary::Accept
            .around(self.ledger().accept(new.clone()))
            .await
        {
            Ok(AcceptOutcome::Accepted(settlement)) => {
                self.announce(&settlement).await;
                Ok(Known::Accepted(Ticket {
                    place: Place::Known(Box::new(settlement)),
                    waiting: Some(waiting),
                }))
            }
            Ok(AcceptOutcome::Exists(settlement)) => Ok(self.existing(request, settlement)),
            Err(error) if error.is_uncertain() => {
                tracing::warn!(%error, "an accept has no certain end");
                Ok(Known::Accepted(Ticket {
                    place: Place::Uncertain(Box::new(new)),
                    waiting: None,
                }))
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for an outcome at least as sure as `level`, at most `wait`; then withdraws the payment if nothing was signed,
    /// else says pending. What is settled less surely is pending too, and stays in the ledger as it is.
    pub async fn outcome(
        &self,
        request: &PaymentRequest,
        ticket: Ticket,
        level: Level,
        wait: Duration,
    ) -> SettleAnswer {
        let deadline = Instant::now() + wait;
        let Ticket { place, waiting } = ticket;
        // A first accept that is under way still would bring a withdrawn payment back.
        let may_withdraw = matches!(place, Place::Known(_));
        let found = match place {
            Place::Known(settlement) => Some(*settlement),
            Place::Uncertain(new) => Box::pin(self.accept_again(request, *new, deadline)).await,
        };
        let Some(mut settlement) = found else {
            return SettleAnswer::Pending {
                settlement: None,
                transaction: None,
            };
        };
        if !settlement.state.answers(level) {
            let (mut waiting, newest) = match waiting {
                Some(waiting) => (waiting, None),
                None => {
                    // Subscribed first, then read: nothing falls between.
                    let waiting = self.shared.waiters.subscribe(settlement.id);
                    (waiting, self.read_again(settlement.id).await)
                }
            };
            settlement = newest.unwrap_or(settlement);
            while !settlement.state.answers(level) {
                let look_at = deadline.min(Instant::now() + ADMISSION_POLL);
                match timeout_at(look_at, waiting.newer()).await {
                    Ok(state) => settlement.state = state,
                    Err(_) if Instant::now() < deadline && !self.waits_in_vain(&settlement) => {}
                    Err(_) => {
                        settlement = Box::pin(self.give_up_waiting(settlement, may_withdraw)).await;
                        if Instant::now() >= deadline {
                            break;
                        }
                    }
                }
            }
        }
        Box::pin(self.answer(request, settlement, level, deadline)).await
    }

    /// Whether a payment waits for a slot that it would not be given. A lane that nobody has may be taken in a moment.
    fn waits_in_vain(&self, settlement: &Settlement) -> bool {
        let unsigned = settlement.state == SettlementState::Accepted && settlement.tries == 0;
        let closed = unsigned.then(|| self.closed(settlement)).flatten();
        matches!(closed, Some(Closed::Refused(_) | Closed::Halted))
    }

    fn closed(&self, settlement: &Settlement) -> Option<Closed> {
        let checked = self
            .admission
            .check(&settlement.payment, &settlement.tenant);
        checked.err()
    }

    fn existing(&self, request: &PaymentRequest, settlement: Settlement) -> Known {
        if settlement.state == SettlementState::Withdrawn {
            return Known::New;
        }
        let same_tenant = settlement.tenant == request.tenant;
        if same_tenant && settlement.digest == request.payment.digest() {
            return Known::Accepted(Ticket::of(settlement));
        }
        let refusal = match settlement.state {
            SettlementState::Settled(_) | SettlementState::SettledExternally(_) => Refusal::new(
                Reason::NonceAlreadyUsed,
                "the authorization was settled already",
            ),
            SettlementState::Accepted
            | SettlementState::Assigned { .. }
            | SettlementState::Preconfirmed { .. }
            | SettlementState::Unexplained { .. }
            | SettlementState::Failed { .. }
            | SettlementState::Expired
            | SettlementState::Withdrawn => {
                let detail = "the authorization was accepted for another payment";
                Refusal::new(Reason::AuthorizationAlreadyReserved, detail)
            }
        };
        Known::Refused(refusal)
    }

    /// The settlement as the ledger has it now; `None` if that cannot be said.
    async fn read_again(&self, id: SettlementId) -> Option<Settlement> {
        match self.ledger().settlement(id).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(settlement = %id, %error, "a settlement could not be read again");
                None
            }
        }
    }

    /// Accepts a payment once more whose accept may or may not have been written: the ledger takes it under its id once, so
    /// that an answer says for certain that it is there. `None` if there is no answer until the wait is over, or another
    /// payment has the authorization.
    async fn accept_again(
        &self,
        request: &PaymentRequest,
        new: NewSettlement,
        deadline: Instant,
    ) -> Option<Settlement> {
        while Instant::now() < deadline {
            let settlement = match timeout_at(deadline, self.ledger().accept(new.clone())).await {
                Ok(Ok(AcceptOutcome::Accepted(settlement) | AcceptOutcome::Exists(settlement))) => {
                    settlement
                }
                Ok(Err(error)) => {
                    tracing::debug!(settlement = %new.id, %error, "an accept still has no certain end");
                    tokio::time::sleep(UNCERTAIN_POLL).await;
                    continue;
                }
                Err(_) => return None,
            };
            // Others announce what they have accepted.
            if settlement.id == new.id {
                self.announce(&settlement).await;
                return Some(settlement);
            }
            return match self.existing(request, settlement) {
                Known::Accepted(ticket) => ticket.settlement().cloned(),
                Known::New | Known::Refused(_) => None,
            };
        }
        None
    }

    async fn announce(&self, settlement: &Settlement) {
        let chain = settlement.payment.key.chain;
        let unresolved = matches!(settlement.state, SettlementState::Accepted);
        if let (true, Some(engine)) = (unresolved, self.shared.engines.get(&chain)) {
            let queued = Queued::new(settlement);
            // An engine that is gone has been shut down; the ledger keeps the payment for the next one.
            let _ = engine.send(Event::Accepted(vec![queued])).await;
        }
    }

    /// The wait is over. The withdrawal is atomic in the ledger: either nothing was signed and nothing will be, or
    /// the payment is on its way.
    async fn give_up_waiting(&self, settlement: Settlement, may_withdraw: bool) -> Settlement {
        let id = settlement.id;
        if may_withdraw && settlement.state == SettlementState::Accepted {
            match Boundary::Withdraw.around(self.ledger().withdraw(id)).await {
                Ok(false) => {}
                Ok(true) => self.forget(&settlement).await,
                Err(error) => {
                    tracing::warn!(settlement = %id, %error, "a withdrawal has no certain end")
                }
            }
        }
        self.read_again(id).await.unwrap_or(settlement)
    }

    /// A payment was withdrawn: whoever else waits for it hears so, its hold is given back, and an engine of this process lets
    /// go of it at once. Another's finds out when it opens the slot, or looks at the approval.
    async fn forget(&self, settlement: &Settlement) {
        let id = settlement.id;
        self.shared.waiters.publish(id, &SettlementState::Withdrawn);
        let key = settlement.payment.key;
        if let Some(engine) = self.shared.engines.get(&key.chain) {
            // One that is gone has been shut down.
            let _ = engine.send(Event::Withdrawn(id)).await;
        }
        if let Err(error) = self.shared.reservations.abandon(&[key]).await {
            tracing::warn!(settlement = %id, %error, "the hold of a withdrawn payment stays until it expires");
        }
    }

    /// What may be said of a settlement. A failure that is none any more when it is to be told gives way to what is true
    /// then.
    async fn answer(
        &self,
        request: &PaymentRequest,
        mut settlement: Settlement,
        level: Level,
        deadline: Instant,
    ) -> SettleAnswer {
        for _ in 0..READINGS {
            if !settlement.state.answers(level) {
                break;
            }
            let (transaction, level) = match &settlement.state {
                SettlementState::Accepted
                | SettlementState::Assigned { .. }
                | SettlementState::Unexplained { .. } => break,
                SettlementState::Preconfirmed { transaction, .. } => {
                    (*transaction, Level::Preconfirmed)
                }
                SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
                    (receipt.transaction, receipt.level)
                }
                SettlementState::Failed { .. }
                | SettlementState::Expired
                | SettlementState::Withdrawn => match self.tell_failure(settlement).await {
                    Ok(answer) => return answer,
                    Err(newest) => {
                        settlement = *newest;
                        continue;
                    }
                },
            };
            return self
                .claim_to_the_end(
                    request,
                    settlement,
                    Success { transaction, level },
                    deadline,
                )
                .await;
        }
        pending(settlement)
    }

    /// Notes that failure is told, then tells it; the settlement as it is now if it has not failed any more. A withdrawal
    /// needs no note: nothing was signed, and it may be accepted again.
    async fn tell_failure(&self, settlement: Settlement) -> Result<SettleAnswer, Box<Settlement>> {
        let id = settlement.id;
        let noted = match settlement.state {
            SettlementState::Withdrawn => Ok(true),
            _ => {
                Boundary::TellFailure
                    .around(self.ledger().tell_failure(id))
                    .await
            }
        };
        let refusal = match (&settlement.state, self.closed(&settlement)) {
            // Why nothing was signed for it in time.
            (SettlementState::Withdrawn, Some(Closed::Refused(refusal))) => Some(refusal),
            (state, _) => state.refusal(),
        };
        match (noted, refusal) {
            (Ok(true), Some(refusal)) => Ok(SettleAnswer::Failed {
                refusal,
                transaction: settlement.state.transaction(),
                settlement,
            }),
            (Ok(_), _) => match self.read_again(id).await {
                Some(newest) => Err(Box::new(newest)),
                None => Ok(pending(settlement)),
            },
            (Err(error), _) => {
                tracing::warn!(settlement = %id, %error, "a failure could not be noted as told");
                Ok(pending(settlement))
            }
        }
    }
}

fn pending(settlement: Settlement) -> SettleAnswer {
    SettleAnswer::Pending {
        transaction: settlement.state.transaction(),
        settlement: Some(settlement),
    }
}
