//! Payments that several open slots carry: a reorg reopened a slot after its payments had been signed into others. They
//! end, or are signed anew, only when the last of those slots closes. A part of each ledger.

use std::collections::BTreeMap;

use teller_domain::{AccountNonce, ChainId, Resolution, SettlementId, SettlementState, SlotId};

use super::dialect::{Connection, clock, for_update, ids, in_ids, indexed_by};
use super::slots::slot_columns;
use crate::rows::{Columns, address, signed, unsigned};
use crate::{SlotClosure, StoreError, StoreResult};

/// An open slot that carries a payment, for each of the payments that have one: both locked until this transaction ends.
async fn locked_carriers(
    connection: &mut Connection,
    chain: ChainId,
    payments: &[SettlementId],
) -> StoreResult<BTreeMap<SettlementId, SlotId>> {
    if payments.is_empty() {
        return Ok(BTreeMap::new());
    }
    sqlx::query(concat!(
        "SELECT s.id FROM settlements AS s WHERE s.id ",
        in_ids!("$1"),
        " ORDER BY s.id",
        for_update!("s"),
    ))
    .bind(ids(payments))
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let rows = sqlx::query(concat!(
        "SELECT p.settlement_id, x.signer, x.nonce FROM slots AS x",
        indexed_by!("slots_open"),
        " CROSS JOIN slot_payments AS p ",
        "WHERE p.chain_id = x.chain_id AND p.signer = x.signer AND p.nonce = x.nonce ",
        "AND x.chain_id = $1 AND x.state = 'open' AND p.settlement_id ",
        in_ids!("$2"),
        " ORDER BY x.signer, x.nonce",
        for_update!("x"),
    ))
    .bind(signed(chain.0, "a chain id")?)
    .bind(ids(payments))
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let payment = SettlementId(columns.take()?);
            let signer = address(&columns.take::<Vec<u8>>()?)?;
            let nonce = AccountNonce(unsigned(columns.take()?)?);
            let slot = SlotId {
                chain,
                signer,
                nonce,
            };
            Ok((payment, slot))
        })
        .collect()
}

/// Assigns accepted and unexplained payments to the open slots that carry them; answers them. The core that holds such a slot finds out
/// when it closes it: it is refused, and reads the lane again.
async fn assign(
    connection: &mut Connection,
    carriers: BTreeMap<SettlementId, SlotId>,
) -> StoreResult<Vec<SettlementId>> {
    let mut assigned = Vec::new();
    for (payment, slot) in carriers {
        let (_, signer, nonce) = slot_columns(slot)?;
        let updated = sqlx::query(concat!(
            "UPDATE settlements SET state = 'assigned', slot_signer = $2, slot_nonce = $3, last_slot_signer = $2, ",
            "last_slot_nonce = $3, queued_by = NULL, updated_at = ms FROM ",
            clock!(),
            " WHERE id = $1 AND state IN ('accepted', 'unexplained')",
        ))
        .bind(payment.0)
        .bind(signer)
        .bind(nonce)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::of_ledger)?;
        if updated.rows_affected() > 0 {
            assigned.push(payment);
        }
    }
    Ok(assigned)
}

/// Locks payments, whatever their state, so that nobody signs, requeues or ends one of them meanwhile; then assigns
/// those that are accepted or unexplained and carried by an open slot to it, and answers them.
pub(super) async fn keep(
    connection: &mut Connection,
    chain: ChainId,
    payments: &[SettlementId],
) -> StoreResult<Vec<SettlementId>> {
    let carriers = locked_carriers(connection, chain, payments).await?;
    assign(connection, carriers).await
}

/// What becomes of the payments of a slot that has just been closed and did not settle them, where another open slot
/// still could: they are not ended, but stay in that slot.
pub(super) struct Spared(BTreeMap<SettlementId, SlotId>);

impl Spared {
    /// Changes the closure accordingly.
    pub(super) async fn of(
        connection: &mut Connection,
        closure: &mut SlotClosure,
    ) -> StoreResult<Self> {
        let mut unsettled: Vec<_> = closure
            .resolutions
            .iter_mut()
            .filter(|(_, resolution)| !is_settlement(resolution))
            .collect();
        let ids: Vec<SettlementId> = unsettled.iter().map(|(id, _)| *id).collect();
        let carriers = locked_carriers(connection, closure.id.chain, &ids).await?;
        for (id, resolution) in &mut unsettled {
            if carriers.contains_key(id) {
                *resolution = Resolution::Requeued;
            }
        }
        Ok(Self(carriers))
    }

    /// Once the closure is written; answers the payments.
    pub(super) async fn keep(self, connection: &mut Connection) -> StoreResult<Vec<SettlementId>> {
        assign(connection, self.0).await
    }
}

fn is_settlement(resolution: &Resolution) -> bool {
    matches!(
        resolution,
        Resolution::Resolved(SettlementState::Settled(_) | SettlementState::SettledExternally(_))
    )
}
