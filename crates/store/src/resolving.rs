//! Which outcomes a payment may be given, the same for both ledgers.

use teller_domain::{Resolution, SettlementId, SettlementState, SettlementStateKind, SlotId};

use crate::{SlotClosure, StoreError, StoreResult};

fn refused(id: SettlementId) -> StoreError {
    StoreError::Conflict {
        row: format!("the resolution of {id}"),
        expected: "an outcome that its state allows",
    }
}

/// The state that a resolution of a slot's payment leads to.
fn slot_outcome(
    slot: SlotId,
    id: SettlementId,
    resolution: &Resolution,
) -> StoreResult<SettlementState> {
    match resolution {
        Resolution::Requeued => Ok(SettlementState::Accepted),
        Resolution::Unexplained { transaction } => Ok(SettlementState::Unexplained {
            slot,
            transaction: *transaction,
        }),
        Resolution::Resolved(state) => {
            expect_slot_outcome(id, state)?;
            Ok(state.clone())
        }
    }
}

/// What a payment may end as that is, or was, in a slot.
fn expect_slot_outcome(id: SettlementId, state: &SettlementState) -> StoreResult<()> {
    match state.kind() {
        SettlementStateKind::Settled
        | SettlementStateKind::SettledExternally
        | SettlementStateKind::Failed
        | SettlementStateKind::Expired => Ok(()),
        SettlementStateKind::Accepted
        | SettlementStateKind::Assigned
        | SettlementStateKind::Preconfirmed
        | SettlementStateKind::Unexplained
        | SettlementStateKind::Withdrawn => Err(refused(id)),
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
        | SettlementStateKind::Unexplained
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
            state: slot_outcome(closure.id, *id, resolution)?,
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

/// What is written of an unexplained payment that is one no more.
pub(crate) fn unexplained_outcomes(
    resolutions: &[(SettlementId, Resolution)],
) -> StoreResult<Vec<Outcome>> {
    resolutions
        .iter()
        .map(|(id, resolution)| {
            let state = match resolution {
                Resolution::Unexplained { .. } => return Err(refused(*id)),
                Resolution::Requeued => SettlementState::Accepted,
                Resolution::Resolved(state) => {
                    expect_slot_outcome(*id, state)?;
                    state.clone()
                }
            };
            Ok(Outcome {
                id: *id,
                state,
                revived: false,
            })
        })
        .collect()
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
