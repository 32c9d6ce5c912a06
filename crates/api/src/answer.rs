//! The one table from what happened to HTTP status, gRPC code and label (PROTOCOL section 2.3).

use std::time::Duration;

use alloy_primitives::{Address, B256};
use axum::http::StatusCode;
use teller_domain::{AssetAmount, Reason, Receipt, Refusal, SettlementId, SettlementStateKind};
use teller_settle::Delivery;
use teller_verify::Hold;
use tonic::Code;

/// A request that got no answer about a payment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("an API key is needed: Authorization: Bearer <key> or X-API-Key: <key>")]
    Unauthenticated,
    #[error("too many requests")]
    OverRate { retry_after: Duration },
    #[error("too many settle requests are waiting for their outcome")]
    TooManySettles,
    #[error("too many requests are in progress")]
    Overloaded,
    #[error("the body is larger than 64 KiB")]
    BodyTooLarge,
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("the body could not be read")]
    BodyBroken,
    #[error("Idempotency-Key must be 1 to 255 printable ASCII characters")]
    IdempotencyKey,
    #[error("{0}")]
    BadRequest(String),
    #[error("there is no such resource")]
    NoSuchRoute,
    #[error("the method is not allowed here")]
    MethodNotAllowed,
    #[error("this facilitator keeps no discovery catalogue")]
    NoCatalogue,
    #[error("there is no such settlement")]
    NoSuchSettlement,
    #[error("this facilitator signs no receipts: it has no receipt key")]
    NoReceiptKey,
    #[error("there is no receipt: the payment is {0}, not settled in a sealed block")]
    NotSettled(SettlementStateKind),
    #[error("there is no receipt: nothing was charged, so that no transfer shows it")]
    NothingCharged,
    #[error("the ledger is unavailable")]
    LedgerUnavailable,
    #[error("the reservations are unavailable")]
    ReservationsUnavailable,
    #[error("internal error")]
    Internal,
}

/// How an error looks from outside.
pub(crate) struct Row {
    pub(crate) status: StatusCode,
    pub(crate) code: Code,
    pub(crate) retry_after: Option<Duration>,
}

impl ApiError {
    pub(crate) fn row(&self) -> Row {
        const SOON: Option<Duration> = Some(Duration::from_secs(1));
        let (status, code, retry_after) = match self {
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, Code::Unauthenticated, None),
            Self::OverRate { retry_after } => (
                StatusCode::TOO_MANY_REQUESTS,
                Code::ResourceExhausted,
                Some(*retry_after),
            ),
            Self::TooManySettles => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, SOON),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, SOON),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, None),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, None),
            Self::BodyBroken | Self::IdempotencyKey | Self::BadRequest(_) => {
                (StatusCode::BAD_REQUEST, Code::InvalidArgument, None)
            }
            Self::NoSuchRoute => (StatusCode::NOT_FOUND, Code::Unimplemented, None),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, None),
            Self::NoSuchSettlement => (StatusCode::NOT_FOUND, Code::NotFound, None),
            Self::NoCatalogue => (StatusCode::NOT_FOUND, Code::Unimplemented, None),
            Self::NoReceiptKey => (StatusCode::NOT_IMPLEMENTED, Code::Unimplemented, None),
            Self::NotSettled(_) | Self::NothingCharged => {
                (StatusCode::CONFLICT, Code::FailedPrecondition, None)
            }
            Self::LedgerUnavailable | Self::ReservationsUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, SOON)
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, None),
        };
        Row {
            status,
            code,
            retry_after,
        }
    }
}

/// What a request came to, as metrics label it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Valid,
    Invalid,
    Unknown,
    Settled,
    Duplicate,
    Failed,
    Pending,
    Rejected,
    Done,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
            Self::Settled => "settled",
            Self::Duplicate => "duplicate",
            Self::Failed => "failed",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::Done => "done",
        }
    }

    /// Of a call that reads: what was asked for is there, could not be looked up, or is not to be had.
    pub(crate) fn of_reading<T>(found: &Result<T, ApiError>) -> Self {
        match found {
            Ok(_) => Self::Done,
            Err(ApiError::LedgerUnavailable) => Self::Unknown,
            Err(_) => Self::Rejected,
        }
    }
}

/// The status of an answer that names a reason: refusals are 200, what could not be checked is 503.
pub(crate) fn status_of(reason: Reason) -> (StatusCode, Code) {
    match reason {
        Reason::UnexpectedVerifyError | Reason::UnexpectedSettleError => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable)
        }
        Reason::IdempotencyKeyReused | Reason::PaymentIdentifierReused => {
            (StatusCode::CONFLICT, Code::Aborted)
        }
        _ => (StatusCode::OK, Code::Ok),
    }
}

/// The answer to a verify request.
#[derive(Debug)]
pub(crate) enum VerifyAnswer {
    Valid {
        hold: Hold,
    },
    Invalid {
        refusal: Refusal,
        payer: Option<Address>,
    },
}

impl VerifyAnswer {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Valid { .. } => Outcome::Valid,
            Self::Invalid { refusal, .. } => match refusal.reason {
                Reason::UnexpectedVerifyError => Outcome::Unknown,
                _ => Outcome::Invalid,
            },
        }
    }
}

/// The answer to a settle request.
#[derive(Debug)]
pub(crate) struct SettleAnswer {
    /// The network in the form of the request.
    pub(crate) network: String,
    pub(crate) payer: Option<Address>,
    pub(crate) settlement: Option<SettlementId>,
    /// What was charged, where that is not what was signed: under `upto`.
    pub(crate) charged: Option<AssetAmount>,
    pub(crate) verdict: SettleVerdict,
}

#[derive(Debug)]
pub(crate) enum SettleVerdict {
    Settled {
        transaction: B256,
        delivery: Delivery,
    },
    Duplicate {
        transaction: B256,
    },
    /// Refused, dead, or (with `unexpected_settle_error`) not even tried.
    Failed {
        refusal: Refusal,
        transaction: Option<B256>,
    },
    Pending {
        transaction: Option<B256>,
    },
}

impl SettleVerdict {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Settled { .. } => Outcome::Settled,
            Self::Duplicate { .. } => Outcome::Duplicate,
            Self::Pending { .. } => Outcome::Pending,
            Self::Failed { refusal, .. } => match refusal.reason {
                Reason::UnexpectedSettleError => Outcome::Unknown,
                _ => Outcome::Failed,
            },
        }
    }

    /// The reason and its words, for everything but a success.
    pub(crate) fn refusal(&self) -> Option<(Reason, &str)> {
        match self {
            Self::Settled { .. } => None,
            Self::Duplicate { .. } => Some((
                Reason::DuplicateSettlement,
                "the payment is settled, and another request was told so",
            )),
            Self::Pending { transaction: None } => Some((
                Reason::SettlementPending,
                "the outcome is not known yet, and no transaction to tell of; ask again with the identical request",
            )),
            Self::Pending { .. } => Some((
                Reason::SettlementPending,
                "the outcome is not known yet, and the transaction may still be replaced by one with another hash; \
                 ask again with the identical request",
            )),
            Self::Failed { refusal, .. } => Some((refusal.reason, &refusal.detail)),
        }
    }

    /// The transaction, if there is one: nothing is charged without.
    pub(crate) fn transaction(&self) -> Option<B256> {
        let transaction = match self {
            Self::Settled { transaction, .. } | Self::Duplicate { transaction } => {
                Some(*transaction)
            }
            Self::Failed { transaction, .. } | Self::Pending { transaction } => *transaction,
        };
        transaction.filter(|hash| *hash != Receipt::NOTHING.transaction)
    }
}

/// A text for people, cut to 500 characters (PROTOCOL section 9, item 11).
pub(crate) fn message(text: &str) -> String {
    text.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_could_not_be_checked_and_key_conflicts_leave_200() {
        for reason in Reason::ALL {
            let expected = match reason {
                Reason::UnexpectedVerifyError | Reason::UnexpectedSettleError => 503,
                Reason::IdempotencyKeyReused | Reason::PaymentIdentifierReused => 409,
                _ => 200,
            };
            assert_eq!(status_of(*reason).0.as_u16(), expected, "{reason}");
        }
    }

    #[test]
    fn every_error_has_its_statuses() {
        let table = [
            (ApiError::Unauthenticated, 401, Code::Unauthenticated),
            (ApiError::TooManySettles, 429, Code::ResourceExhausted),
            (ApiError::Overloaded, 503, Code::Unavailable),
            (ApiError::BodyTooLarge, 413, Code::ResourceExhausted),
            (ApiError::BodyTimeout, 408, Code::DeadlineExceeded),
            (ApiError::BodyBroken, 400, Code::InvalidArgument),
            (ApiError::IdempotencyKey, 400, Code::InvalidArgument),
            (ApiError::NoSuchRoute, 404, Code::Unimplemented),
            (ApiError::MethodNotAllowed, 405, Code::Unimplemented),
            (ApiError::NoSuchSettlement, 404, Code::NotFound),
            (ApiError::NoCatalogue, 404, Code::Unimplemented),
            (ApiError::NoReceiptKey, 501, Code::Unimplemented),
            (
                ApiError::NotSettled(SettlementStateKind::Preconfirmed),
                409,
                Code::FailedPrecondition,
            ),
            (ApiError::NothingCharged, 409, Code::FailedPrecondition),
            (ApiError::LedgerUnavailable, 503, Code::Unavailable),
            (ApiError::Internal, 500, Code::Internal),
        ];
        for (error, status, code) in table {
            let row = error.row();
            assert_eq!((row.status.as_u16(), row.code), (status, code), "{error}");
            let busy = matches!(status, 429 | 503);
            assert_eq!(row.retry_after.is_some(), busy, "{error}");
        }
    }
}
