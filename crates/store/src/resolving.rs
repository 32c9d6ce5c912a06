//! Which outcomes a payment may be given, the same for both ledgers.

use teller_domain::{Resolution, SettlementId, SettlementState, SettlementStateKind};

use crate::{SlotClosure, StoreError, StoreResult};

fn refused(id: SettlementId) -> StoreError {
    StoreError::Conflict {
        row: format!("the resolution of {id}"),
        expected: "an outcome that its state allows",
    }
}

/// The state that a resolution of a slot's payment leads to.
fn slot_outcome(id: SettlementId, resolution: &Resolution) -> StoreResult<SettlementState> {
    match resolution {
        Resolution::Requeued => Ok(SettlementState::Accepted),
        Resolution::Resolved(state) => match state.kind() {
            SettlementStateKind::Settled
            | SettlementStateKind::SettledExternally
            | SettlementStateKind::Failed
            | SettlementStateKind::Expired => Ok(state.clone()),
            SettlementStateKind::Accepted
            | SettlementStateKind::Assigned
            | SettlementStateKind::Preconfirmed
            | SettlementStateKind::Withdrawn => Err(refused(id)),
        },
    }
}

/// A payment that is in no slot cannot be settled by teller, but by somebody else.
fn expect_accepted_outcome(id: SettlementId, state: &SettlementState) -> StoreResult<()> {
    match state.kind() {
        SettlementStateKind::SettledExternally
        | SettlementStateKind::Failed
        | SettlementStateKind::Expired => Ok(()),
        SettlementStateKind::Accepted
        | SettlementStateKind::Assigned
        | SettlementStateKind::Preconfirmed
        | SettlementStateKind::Settled
        | SettlementStateKind::Withdrawn => Err(refused(id)),
    }
}

/// What is written of one payment.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) id: SettlementId,
    pub(crate) state: SettlementState,
    /// It had ended before, and the slot's bytes settled it after all.
    pub(crate) revived: bool,
}

/// The outcomes of a closing slot's payments, those that were revived included.
pub(crate) fn slot_outcomes(closure: &SlotClosure) -> StoreResult<Vec<Outcome>> {
    let resolved = closure.resolutions.iter().map(|(id, resolution)| {
        Ok(Outcome {
            id: *id,
            state: slot_outcome(*id, resolution)?,
            revived: false,
        })
    });
    let revived = closure.revived.iter().map(|(id, receipt)| {
        Ok(Outcome {
            id: *id,
            state: SettlementState::Settled(*receipt),
            revived: true,
        })
    });
    resolved.chain(revived).collect()
}

/// What is written of an accepted payment that ends.
pub(crate) fn accepted_outcomes(
    resolutions: &[(SettlementId, SettlementState)],
) -> StoreResult<Vec<Outcome>> {
    resolutions
        .iter()
        .map(|(id, state)| {
            expect_accepted_outcome(*id, state)?;
            Ok(Outcome {
                id: *id,
                state: state.clone(),
                revived: false,
            })
        })
        .collect()
}
