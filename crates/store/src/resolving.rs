//! Which outcomes a payment may be given, the same for both ledgers.

use teller_domain::{Resolution, SettlementId, SettlementState, SettlementStateKind};

use crate::{StoreError, StoreResult};

fn refused(id: SettlementId) -> StoreError {
    StoreError::Conflict {
        row: format!("the resolution of {id}"),
        expected: "an outcome that its state allows",
    }
}

/// The state that a resolution of a slot's payment leads to.
pub(crate) fn slot_outcome(
    id: SettlementId,
    resolution: &Resolution,
) -> StoreResult<SettlementState> {
    match resolution {
        Resolution::Requeued => Ok(SettlementState::Accepted),
        Resolution::Resolved(state) => match state.kind() {
            SettlementStateKind::Settled
            | SettlementStateKind::SettledExternally
            | SettlementStateKind::Failed
            | SettlementStateKind::Expired => Ok(state.clone()),
            SettlementStateKind::Accepted
            | SettlementStateKind::Assigned
            | SettlementStateKind::Withdrawn => Err(refused(id)),
        },
    }
}

/// A payment that is in no slot cannot be settled by teller, but by somebody else.
pub(crate) fn expect_accepted_outcome(
    id: SettlementId,
    state: &SettlementState,
) -> StoreResult<()> {
    match state.kind() {
        SettlementStateKind::SettledExternally
        | SettlementStateKind::Failed
        | SettlementStateKind::Expired => Ok(()),
        SettlementStateKind::Accepted
        | SettlementStateKind::Assigned
        | SettlementStateKind::Settled
        | SettlementStateKind::Withdrawn => Err(refused(id)),
    }
}
