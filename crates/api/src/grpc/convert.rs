//! From the domain's types to the messages of `teller.v1`.

use teller_domain::{
    Compensation, CompensationKind, Level, Scheme, Settlement as Row, SettlementStateKind,
    SignedReceipt, Told, X402Version as DomainVersion,
};

use crate::answer::ApiError;
use crate::proto;
use crate::view::receipt_of;

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
        SettlementStateKind::Unexplained => proto::SettlementState::Unexplained,
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
        transaction: row
            .state
            .transaction()
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
        assert_eq!(states, (1..=9).collect::<Vec<_>>());
        let mut entry = shown::compensation(&shown::settlement());
        for (number, kind) in (1..).zip(CompensationKind::ALL) {
            entry.kind = kind;
            assert_eq!(compensation(&entry).kind, number);
        }
    }
}
