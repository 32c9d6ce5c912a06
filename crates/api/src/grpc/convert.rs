//! Between the messages of `teller.v1` and the wire's and the domain's types.

use alloy_primitives::U256;
use teller_domain::{
    Compensation, CompensationKind, Level, Scheme, Settlement as Row, SettlementStateKind,
    SignedReceipt, Told, X402Version as DomainVersion,
};
use teller_protocol::extensions::Extensions;
use teller_protocol::field::{self, FieldError};
use teller_protocol::{
    Eip3009Payload, EvmPayload, EvmRequest, EvmScheme, Extra, Fault, PaymentRequirements,
    ReadError, Version,
};

use crate::answer::ApiError;
use crate::proto;
use crate::view::{receipt_of, transaction_of};

struct Problem(Fault, String);

impl Problem {
    fn of(fault: Fault, path: &str, problem: &'static str) -> Self {
        Self(fault, FieldError::new(path, problem).to_string())
    }
}

/// Reads what `Verify`, `Settle` and `Release` have in common.
pub(super) fn request(
    payload: Option<proto::PaymentPayload>,
    requirements: Option<proto::PaymentRequirements>,
) -> Result<EvmRequest, ReadError> {
    let missing = |what: &str| ReadError {
        fault: Fault::Body,
        detail: format!("{what} is missing"),
        payer: None,
        network: String::new(),
    };
    let payload = payload.ok_or_else(|| missing("payment_payload"))?;
    let requirements = requirements.ok_or_else(|| missing("payment_requirements"))?;
    let network = requirements.network.clone();
    let from = authorization(&payload).map(|signed| signed.from.as_str());
    let payer = from.and_then(|from| field::address(from).ok());
    read(payload, requirements).map_err(|Problem(fault, detail)| ReadError {
        fault,
        detail,
        payer,
        network,
    })
}

fn authorization(payload: &proto::PaymentPayload) -> Option<&proto::Eip3009Authorization> {
    match payload.payload.as_ref()? {
        proto::payment_payload::Payload::ExactEip3009(exact) => exact.authorization.as_ref(),
    }
}

fn read(
    payload: proto::PaymentPayload,
    requirements: proto::PaymentRequirements,
) -> Result<EvmRequest, Problem> {
    let version = match payload.x402_version() {
        proto::X402Version::V1 => Version::V1,
        proto::X402Version::V2 => Version::V2,
        proto::X402Version::Unspecified => {
            let path = "payment_payload.x402_version";
            return Err(Problem::of(Fault::Version, path, "must be V1 or V2"));
        }
    };
    if requirements.scheme() != proto::Scheme::Exact {
        let path = "payment_requirements.scheme";
        return Err(Problem::of(
            Fault::Scheme,
            path,
            "is not supported; EXACT is",
        ));
    }
    if payload.scheme() != proto::Scheme::Exact {
        let path = "payment_payload.scheme";
        return Err(Problem::of(Fault::SchemeMismatch, path, "is not EXACT"));
    }
    let demand = Fault::Requirements;
    let requirements = PaymentRequirements {
        scheme: "exact".into(),
        network: requirements.network,
        amount: parsed(
            demand,
            "payment_requirements.amount",
            &requirements.amount,
            field::unsigned,
        )?,
        asset: parsed(
            demand,
            "payment_requirements.asset",
            &requirements.asset,
            field::address,
        )?,
        pay_to: parsed(
            demand,
            "payment_requirements.pay_to",
            &requirements.pay_to,
            field::address,
        )?,
        max_timeout_seconds: requirements.max_timeout_seconds,
        extra: Extra {
            name: Some(requirements.eip712_name).filter(|name| !name.is_empty()),
            version: Some(requirements.eip712_version).filter(|version| !version.is_empty()),
            asset_transfer_method: None,
        },
    };
    Ok(EvmRequest {
        version,
        scheme: EvmScheme::Exact,
        network: payload.network,
        payload: scheme_payload(payload.payload)?,
        requirements,
        facilitator_address: None,
        resource: None,
        extensions: Extensions::default(),
    })
}

fn scheme_payload(payload: Option<proto::payment_payload::Payload>) -> Result<EvmPayload, Problem> {
    const PATH: &str = "payment_payload.exact_eip3009";
    let missing = |path: &str| Problem::of(Fault::Payload, path, "is missing");
    let Some(proto::payment_payload::Payload::ExactEip3009(exact)) = payload else {
        return Err(missing(PATH));
    };
    let signed = exact
        .authorization
        .ok_or_else(|| missing("payment_payload.exact_eip3009.authorization"))?;
    if exact.signature.len() > field::MAX_SIGNATURE_BYTES {
        let path = "payment_payload.exact_eip3009.signature";
        return Err(Problem::of(
            Fault::Payload,
            path,
            "is longer than 8192 bytes",
        ));
    }
    let path = |field: &str| format!("{PATH}.authorization.{field}");
    Ok(EvmPayload::Eip3009(Eip3009Payload {
        from: parsed(Fault::Payload, &path("from"), &signed.from, field::address)?,
        to: parsed(Fault::Payload, &path("to"), &signed.to, field::address)?,
        value: parsed(
            Fault::Payload,
            &path("value"),
            &signed.value,
            field::unsigned,
        )?,
        valid_after: moment(
            &path("valid_after_decimal"),
            &signed.valid_after_decimal,
            signed.valid_after,
        )?,
        valid_before: moment(
            &path("valid_before_decimal"),
            &signed.valid_before_decimal,
            signed.valid_before,
        )?,
        nonce: parsed(
            Fault::Payload,
            &path("nonce"),
            &signed.nonce,
            field::bytes32,
        )?,
        signature: exact.signature.into(),
    }))
}

/// The text where there is one, else the number beside it.
fn moment(path: &str, text: &str, number: u64) -> Result<U256, Problem> {
    match (text, number) {
        ("", _) => Ok(U256::from(number)),
        (_, 0) => parsed(Fault::Payload, path, text, field::unsigned),
        _ => Err(Problem::of(
            Fault::Payload,
            path,
            "contradicts the number of 64 bits",
        )),
    }
}

fn parsed<T>(
    fault: Fault,
    path: &str,
    text: &str,
    read: fn(&str) -> Result<T, &'static str>,
) -> Result<T, Problem> {
    read(text).map_err(|problem| Problem::of(fault, path, problem))
}

pub(super) fn scheme(scheme: Scheme) -> proto::Scheme {
    match scheme {
        Scheme::Exact => proto::Scheme::Exact,
        Scheme::Upto => proto::Scheme::Upto,
    }
}

pub(super) fn state(kind: SettlementStateKind) -> proto::SettlementState {
    match kind {
        SettlementStateKind::Accepted => proto::SettlementState::Accepted,
        SettlementStateKind::Assigned => proto::SettlementState::Assigned,
        SettlementStateKind::Preconfirmed => proto::SettlementState::Preconfirmed,
        SettlementStateKind::Settled => proto::SettlementState::Settled,
        SettlementStateKind::SettledExternally => proto::SettlementState::SettledExternally,
        SettlementStateKind::Failed => proto::SettlementState::Failed,
        SettlementStateKind::Expired => proto::SettlementState::Expired,
        SettlementStateKind::Withdrawn => proto::SettlementState::Withdrawn,
    }
}

fn level(level: Level) -> proto::SettlementLevel {
    match level {
        Level::Preconfirmed => proto::SettlementLevel::Preconfirmed,
        Level::Included => proto::SettlementLevel::Included,
        Level::Safe => proto::SettlementLevel::Safe,
        Level::Finalized => proto::SettlementLevel::Finalized,
    }
}

fn told(told: Told) -> proto::Told {
    let (outcome, at) = match told {
        Told::Success {
            transaction,
            level: reached,
            at,
        } => {
            let success = proto::ToldSuccess {
                transaction: transaction.to_string(),
                level: level(reached).into(),
            };
            (proto::told::Outcome::Success(success), at)
        }
        Told::Failure { reason, at } => {
            let failure = proto::ToldFailure {
                reason: reason.as_str().to_owned(),
            };
            (proto::told::Outcome::Failure(failure), at)
        }
    };
    proto::Told {
        outcome: Some(outcome),
        at_ms: at.0,
    }
}

pub(super) fn compensation(entry: &Compensation) -> proto::Compensation {
    let kind = match entry.kind {
        CompensationKind::SuccessTakenBack => proto::CompensationKind::SuccessTakenBack,
        CompensationKind::SuccessRestored => proto::CompensationKind::SuccessRestored,
        CompensationKind::FailureSettled => proto::CompensationKind::FailureSettled,
        CompensationKind::FailureRestored => proto::CompensationKind::FailureRestored,
    };
    proto::Compensation {
        sequence: entry.sequence,
        kind: kind.into(),
        at_ms: entry.at.0,
    }
}

/// A ledger row as its seller sees it; no signature.
pub(super) fn settlement(row: &Row) -> proto::Settlement {
    let payment = &row.payment;
    let refusal = row.state.refusal();
    let version = match row.version {
        DomainVersion::V1 => proto::X402Version::V1,
        DomainVersion::V2 => proto::X402Version::V2,
    };
    proto::Settlement {
        id: row.id.to_string(),
        state: state(row.state.kind()).into(),
        x402_version: version.into(),
        network: payment.key.chain.to_string(),
        scheme: scheme(payment.scheme()).into(),
        asset: payment.asset.to_string(),
        payer: payment.key.payer.to_string(),
        payee: payment.payee.to_string(),
        amount: payment.value.to_string(),
        nonce: payment.key.nonce.0.to_string(),
        valid_after: payment.valid_after().0,
        valid_before: payment.valid_before().0,
        valid_after_decimal: payment.validity.valid_after().to_string(),
        valid_before_decimal: payment.void_from().to_string(),
        transaction: transaction_of(&row.state)
            .map(|hash| hash.to_string())
            .unwrap_or_default(),
        receipt: receipt_of(&row.state).map(|receipt| proto::Receipt {
            transaction: receipt.transaction.to_string(),
            block_number: receipt.block.number,
            block_hash: receipt.block.hash.to_string(),
            log_index: receipt.log_index,
            level: level(receipt.level).into(),
            gas_used: receipt.gas_used,
            cost_wei: receipt.cost.to_string(),
        }),
        error_reason: refusal
            .as_ref()
            .map(|refusal| refusal.reason.as_str().to_owned())
            .unwrap_or_default(),
        error_message: refusal.map(|refusal| refusal.detail).unwrap_or_default(),
        tries: row.tries,
        accepted_at_ms: row.accepted_at.0,
        updated_at_ms: row.updated_at.0,
        level: row
            .state
            .level()
            .map_or(proto::SettlementLevel::Unspecified, level)
            .into(),
        told: row.told.map(told),
        // Shown of a single settlement only.
        compensations: Vec::new(),
    }
}

/// A receipt with the very document that REST serves.
pub(super) fn signed_receipt(signed: &SignedReceipt) -> Result<proto::SignedReceipt, ApiError> {
    let json = serde_json::to_string(signed).map_err(|error| {
        tracing::error!(%error, "a receipt could not be written as JSON");
        ApiError::Internal
    })?;
    let receipt = signed.receipt();
    Ok(proto::SignedReceipt {
        json,
        receipt: Some(proto::SettlementReceipt {
            settlement_id: receipt.settlement_id.to_string(),
            chain_id: receipt.chain_id,
            authority: receipt.authority.to_string(),
            asset: receipt.asset.to_string(),
            payer: receipt.payer.to_string(),
            payee: receipt.payee.to_string(),
            value: receipt.value.to_string(),
            nonce: receipt.nonce.0.to_string(),
            transaction_hash: receipt.transaction_hash.to_string(),
            block_number: receipt.block_number,
            block_hash: receipt.block_hash.to_string(),
            log_index: receipt.log_index,
            amount: receipt.amount.to_string(),
            level: level(receipt.level).into(),
            settled_at_ms: receipt.settled_at_ms,
        }),
        signer: signed.signer().to_string(),
        signature: signed.signature().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests as shown;
    use teller_domain::{Reason, SettlementState, UnixMillis};

    #[test]
    fn what_was_told_is_apart_from_what_the_chain_says() {
        let mut row = shown::settlement();
        let message = settlement(&row);
        assert_eq!(message.state(), proto::SettlementState::Settled);
        assert_eq!(message.level(), proto::SettlementLevel::Safe);
        assert!(message.compensations.is_empty());
        let told = message.told.unwrap();
        assert_eq!(told.at_ms, 1_234);
        let Some(proto::told::Outcome::Success(success)) = told.outcome else {
            panic!("success was told");
        };
        assert_eq!(success.level(), proto::SettlementLevel::Included);
        assert_ne!(success.transaction, message.transaction);

        row.state = SettlementState::Expired;
        row.told = Some(Told::Failure {
            reason: Reason::AuthorizationExpired,
            at: UnixMillis(9),
        });
        let message = settlement(&row);
        assert_eq!(message.level(), proto::SettlementLevel::Unspecified);
        let Some(proto::told::Outcome::Failure(failure)) = message.told.unwrap().outcome else {
            panic!("failure was told");
        };
        assert_eq!(failure.reason, "authorization_expired");
    }

    #[test]
    fn every_state_and_every_compensation_has_its_own_number() {
        let mut states: Vec<i32> = SettlementStateKind::ALL
            .map(|kind| state(kind).into())
            .to_vec();
        states.sort_unstable();
        assert_eq!(states, (1..=8).collect::<Vec<_>>());
        let mut entry = shown::compensation(&shown::settlement());
        for (number, kind) in (1..).zip(CompensationKind::ALL) {
            entry.kind = kind;
            assert_eq!(compensation(&entry).kind, number);
        }
    }
}
