//! `teller.v1.Facilitator`.

use std::time::Instant;

use teller_domain::{IdempotencyKey, Reason, TenantId};
use teller_protocol::EvmScheme;
use teller_protocol::extensions::{Extension, PaymentIdentifier};
use tonic::{Code, Request, Response, Status};

use super::{head, offer, request, status};
use crate::answer::{ApiError, Outcome, SettleVerdict, VerifyAnswer, message, status_of};
use crate::api::Api;
use crate::delivery::{Promise, PromiseSlot};
use crate::discovery::{Candidate, ListingStatus};
use crate::limits::Tenant;
use crate::meters::{Endpoint, Transport};
use crate::proto;
use crate::proto::facilitator_server::Facilitator;
use crate::service::rejected_settle;
use crate::wire::{self, Asked, Rejection};

pub(super) struct FacilitatorDoor(pub(super) Api);

type Answer<T> = Result<Response<T>, Status>;

impl FacilitatorDoor {
    fn answered(&self, endpoint: Endpoint, outcome: Outcome, started: Instant) {
        self.0.answered(endpoint, Transport::Grpc, outcome, started);
    }

    async fn verify_admitted(
        &self,
        tenant: &Tenant,
        request: proto::VerifyRequest,
    ) -> (Answer<proto::VerifyResponse>, Outcome) {
        let mut candidate = None;
        let asked = self.asked(
            &tenant.id,
            request.payment_payload,
            request.payment_requirements,
            &request.idempotency_key,
            &request.payment_identifier,
        );
        let answer = match asked {
            Ok(mut asked) => {
                candidate = Candidate::of(&mut asked);
                let (answer, cause) = self.0.inner.service.verify(asked).await;
                self.0.log("verify", cause.as_ref());
                answer
            }
            Err(Unasked::Error(error)) => return (Err(status(&error)), Outcome::Rejected),
            Err(Unasked::Refused(rejection)) => VerifyAnswer::Invalid {
                refusal: rejection.refusal,
                payer: rejection.payer,
            },
        };
        let outcome = answer.outcome();
        let status = self.0.announced(&answer, candidate.as_ref()).await;
        (verify_response(answer, status), outcome)
    }

    async fn settle_admitted(
        &self,
        tenant: &Tenant,
        request: proto::SettleRequest,
    ) -> (Answer<proto::SettleResponse>, Outcome) {
        let Ok(_settles) = tenant.take_settle() else {
            return (Err(status(&ApiError::TooManySettles)), Outcome::Rejected);
        };
        let mut candidate = None;
        let asked = self.asked(
            &tenant.id,
            request.payment_payload,
            request.payment_requirements,
            &request.idempotency_key,
            &request.payment_identifier,
        );
        let answer = match asked {
            Ok(mut asked) => {
                candidate = Candidate::of(&mut asked);
                let asked = Box::new(asked);
                let (answer, cause) = self.0.inner.service.settle(asked, tenant).await;
                self.0.log("settle", cause.as_ref());
                answer
            }
            Err(Unasked::Error(error)) => return (Err(status(&error)), Outcome::Rejected),
            Err(Unasked::Refused(rejection)) => rejected_settle(rejection),
        };
        let outcome = answer.verdict.outcome();
        self.0.told(&answer.verdict);
        let status = self.0.listed(&answer.verdict, candidate).await;
        (settle_response(answer, status), outcome)
    }

    async fn release_admitted(
        &self,
        tenant: &Tenant,
        request: proto::ReleaseRequest,
    ) -> (Answer<proto::ReleaseResponse>, Outcome) {
        let asked = self.asked(
            &tenant.id,
            request.payment_payload,
            request.payment_requirements,
            "",
            "",
        );
        let error = match asked {
            Ok(asked) => match self.0.inner.service.release(asked).await {
                Ok(released) => {
                    let response = Response::new(proto::ReleaseResponse { released });
                    return (Ok(response), Outcome::Done);
                }
                Err(cause) => {
                    self.0.log("release", Some(&cause));
                    let error = status(&ApiError::ReservationsUnavailable);
                    return (Err(error), Outcome::Unknown);
                }
            },
            Err(Unasked::Error(error)) => error,
            Err(Unasked::Refused(rejection)) => ApiError::BadRequest(rejection.refusal.to_string()),
        };
        (Err(status(&error)), Outcome::Rejected)
    }
}

/// Why a message is no request about a payment.
enum Unasked {
    Error(ApiError),
    Refused(Rejection),
}

impl FacilitatorDoor {
    fn asked(
        &self,
        tenant: &TenantId,
        payload: Option<proto::PaymentPayload>,
        requirements: Option<proto::PaymentRequirements>,
        idempotency_key: &str,
        payment_identifier: &str,
    ) -> Result<Asked, Unasked> {
        let key: Option<IdempotencyKey> = match idempotency_key {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| Unasked::Error(ApiError::IdempotencyKey))?,
            ),
        };
        let refused = |rejection: Rejection| match rejection.is_bad_request {
            true => Unasked::Error(ApiError::BadRequest(rejection.refusal.detail)),
            false => Unasked::Refused(rejection),
        };
        let offers = &self.0.inner.offers;
        let offered = offer::offered(payload.as_ref(), requirements.as_ref());
        let mut wire = request::read(payload, requirements, offers.served())
            .map_err(|error| refused(error.into()))?;
        wire.discoverable = offered;
        wire.extensions.payment_identifier = match payment_identifier {
            "" => Extension::Absent,
            id => PaymentIdentifier::of(id).map_or_else(
                |problem| Extension::Malformed(format!("payment_identifier {problem}")),
                Extension::Present,
            ),
        };
        wire::into_domain(wire, offers, tenant, key).map_err(refused)
    }
}

/// Reasons that are errors over gRPC: could not be done, or the key belongs to another payment.
fn error_of(reason: Reason, detail: &str) -> Option<Status> {
    match status_of(reason).1 {
        Code::Ok => None,
        code => Some(Status::new(code, format!("{reason}: {}", message(detail)))),
    }
}

fn listing(status: ListingStatus) -> proto::Listing {
    let (status, reason) = match status {
        ListingStatus::Success => (proto::ListingStatus::Success, String::new()),
        ListingStatus::Processing => (proto::ListingStatus::Processing, String::new()),
        ListingStatus::Rejected(reason) => (proto::ListingStatus::Rejected, message(&reason)),
    };
    proto::Listing {
        status: status.into(),
        rejected_reason: reason,
    }
}

fn verify_response(
    answer: VerifyAnswer,
    status: Option<ListingStatus>,
) -> Answer<proto::VerifyResponse> {
    match answer {
        VerifyAnswer::Valid { hold } => {
            let mut response = Response::new(proto::VerifyResponse {
                is_valid: true,
                payer: hold.payer().to_string(),
                listing: status.map(listing),
                ..proto::VerifyResponse::default()
            });
            response
                .extensions_mut()
                .insert(PromiseSlot::new(Promise::Hold(hold)));
            Ok(response)
        }
        VerifyAnswer::Invalid { refusal, payer } => {
            if let Some(error) = error_of(refusal.reason, &refusal.detail) {
                return Err(error);
            }
            Ok(Response::new(proto::VerifyResponse {
                is_valid: false,
                invalid_reason: refusal.reason.to_string(),
                invalid_message: message(&refusal.detail),
                payer: payer.map(|payer| payer.to_string()).unwrap_or_default(),
                listing: None,
            }))
        }
    }
}

fn settle_response(
    answer: crate::answer::SettleAnswer,
    status: Option<ListingStatus>,
) -> Answer<proto::SettleResponse> {
    let refusal = answer.verdict.refusal();
    if let Some(error) = refusal.and_then(|(reason, detail)| error_of(reason, detail)) {
        return Err(error);
    }
    let outcome = match answer.verdict {
        SettleVerdict::Settled { .. } => proto::SettleOutcome::Settled,
        SettleVerdict::Duplicate { .. } => proto::SettleOutcome::Duplicate,
        SettleVerdict::Failed { .. } => proto::SettleOutcome::Failed,
        SettleVerdict::Pending { .. } => proto::SettleOutcome::Pending,
    };
    let mut response = Response::new(proto::SettleResponse {
        outcome: outcome.into(),
        error_reason: refusal
            .map(|(reason, _)| reason.to_string())
            .unwrap_or_default(),
        error_message: refusal
            .map(|(_, detail)| message(detail))
            .unwrap_or_default(),
        transaction: answer
            .verdict
            .transaction()
            .map(|hash| hash.to_string())
            .unwrap_or_default(),
        network: answer.network,
        payer: answer
            .payer
            .map(|payer| payer.to_string())
            .unwrap_or_default(),
        settlement_id: answer
            .settlement
            .map(|id| id.to_string())
            .unwrap_or_default(),
        amount: answer
            .charged
            .map(|amount| amount.to_string())
            .unwrap_or_default(),
        listing: status.map(listing),
    });
    if let SettleVerdict::Settled { delivery, .. } = answer.verdict {
        response
            .extensions_mut()
            .insert(PromiseSlot::new(Promise::Delivery(delivery)));
    }
    Ok(response)
}

#[tonic::async_trait]
impl Facilitator for FacilitatorDoor {
    async fn verify(
        &self,
        request: Request<proto::VerifyRequest>,
    ) -> Answer<proto::VerifyResponse> {
        let started = Instant::now();
        let (answer, outcome) = match head::caller(&request) {
            Ok(tenant) => self.verify_admitted(&tenant, request.into_inner()).await,
            Err(error) => (Err(status(&error)), Outcome::Rejected),
        };
        self.answered(Endpoint::Verify, outcome, started);
        answer
    }

    async fn settle(
        &self,
        request: Request<proto::SettleRequest>,
    ) -> Answer<proto::SettleResponse> {
        let started = Instant::now();
        let (answer, outcome) = match head::caller(&request) {
            Ok(tenant) => self.settle_admitted(&tenant, request.into_inner()).await,
            Err(error) => (Err(status(&error)), Outcome::Rejected),
        };
        self.answered(Endpoint::Settle, outcome, started);
        answer
    }

    async fn supported(
        &self,
        _request: Request<proto::SupportedRequest>,
    ) -> Answer<proto::SupportedResponse> {
        let supported = &self.0.inner.supported;
        let kinds = supported.kinds.iter().map(|kind| proto::SupportedKind {
            x402_version: match kind.x402_version {
                1 => proto::X402Version::V1.into(),
                _ => proto::X402Version::V2.into(),
            },
            scheme: match EvmScheme::of(&kind.scheme) {
                Some(EvmScheme::Exact) => proto::Scheme::Exact.into(),
                Some(EvmScheme::Upto) => proto::Scheme::Upto.into(),
                None => proto::Scheme::Unspecified.into(),
            },
            network: kind.network.clone(),
            facilitator_address: kind
                .extra
                .as_ref()
                .map(|extra| extra.facilitator_address.clone())
                .unwrap_or_default(),
            delegation_managers: kind
                .extra
                .as_ref()
                .map(|extra| extra.delegation_managers.clone())
                .unwrap_or_default(),
        });
        let signers = supported.signers.iter().map(|(pattern, addresses)| {
            let addresses = addresses.clone();
            (pattern.clone(), proto::SignerAddresses { addresses })
        });
        Ok(Response::new(proto::SupportedResponse {
            kinds: kinds.collect(),
            extensions: supported
                .extensions
                .iter()
                .map(ToString::to_string)
                .collect(),
            signers: signers.collect(),
        }))
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Answer<proto::ReleaseResponse> {
        let started = Instant::now();
        let (answer, outcome) = match head::caller(&request) {
            Ok(tenant) => self.release_admitted(&tenant, request.into_inner()).await,
            Err(error) => (Err(status(&error)), Outcome::Rejected),
        };
        self.answered(Endpoint::Release, outcome, started);
        answer
    }
}
