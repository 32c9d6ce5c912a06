//! Opening and closing slots: each one transaction that begins with the lane's fence.

use std::collections::HashSet;

use alloy_primitives::{Address, hex};
use serde_json::{Value, json};
use sqlx::SqliteConnection;
use teller_domain::{
    AccountNonce, Attempt, AttemptKind, ChainId, FencedLane, SettlementId, SettlementState, Slot,
    SlotId,
};

use super::hot::{clock, ids_json};
use crate::resolving::slot_outcome;
use crate::rows::{
    Columns, StateColumns, address, assemble, attempt, attempt_columns, signed, unsigned,
};
use crate::{NewSlot, OpenSlotOutcome, SlotClosure, StoreError, StoreResult};

/// See [`crate::Ledger::open_slot`].
pub(super) async fn open(
    connection: &mut SqliteConnection,
    fence: FencedLane,
    slot: NewSlot,
) -> StoreResult<OpenSlotOutcome> {
    let id = slot.id;
    expect_lane(fence, id)?;
    let (chain, signer, nonce) = slot_columns(id)?;
    let next = signed(id.nonce.next().0, "an account nonce")?;
    let fenced = sqlx::query(
        "UPDATE lanes SET next_nonce = ?5 \
         WHERE chain_id = ?1 AND signer = ?2 AND epoch = ?3 AND next_nonce = ?4",
    )
    .bind(chain)
    .bind(&signer)
    .bind(signed(fence.epoch, "an epoch")?)
    .bind(nonce)
    .bind(next)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if fenced.rows_affected() == 0 {
        return Err(StoreError::StaleLane);
    }
    let moved = not_accepted(connection, &slot.payments).await?;
    if !moved.is_empty() {
        // Put back what the fence moved: nothing is written.
        sqlx::query("UPDATE lanes SET next_nonce = ?3 WHERE chain_id = ?1 AND signer = ?2")
            .bind(chain)
            .bind(&signer)
            .bind(nonce)
            .execute(connection)
            .await
            .map_err(StoreError::of_ledger)?;
        return Ok(OpenSlotOutcome::PaymentsMoved(moved));
    }
    sqlx::query(concat!(
        "INSERT INTO slots (chain_id, signer, nonce, state, opened_at) SELECT ?1, ?2, ?3, 'open', ms FROM ",
        clock!()
    ))
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .execute(&mut *connection)
    .await
    .map_err(|_| StoreError::Conflict {
        row: format!("slot {id}"),
        expected: "new",
    })?;
    sqlx::query(
        "INSERT INTO slot_payments (chain_id, signer, nonce, position, settlement_id) \
         SELECT ?1, ?2, ?3, key, unhex(value) FROM json_each(?4)",
    )
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .bind(ids_json(&slot.payments))
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    insert_attempt(connection, id, &slot.attempt).await?;
    sqlx::query(concat!(
        "UPDATE settlements SET state = 'assigned', tries = tries + 1, slot_signer = ?1, slot_nonce = ?2, ",
        "transaction_hash = ?3, updated_at = ms FROM ", clock!(), " ",
        "WHERE id IN (SELECT unhex(value) FROM json_each(?4)) AND state = 'accepted'",
    ))
    .bind(&signer)
    .bind(nonce)
    .bind(slot.attempt.hash.to_vec())
    .bind(ids_json(&slot.payments))
    .execute(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    Ok(OpenSlotOutcome::Opened)
}

async fn not_accepted(
    connection: &mut SqliteConnection,
    ids: &[SettlementId],
) -> StoreResult<Vec<SettlementId>> {
    let rows = sqlx::query(
        "SELECT id FROM settlements WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND state = 'accepted'",
    )
    .bind(ids_json(ids))
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut accepted = rows
        .iter()
        .map(|row| Columns::of(row).take().map(SettlementId))
        .collect::<StoreResult<HashSet<_>>>()?;
    // Removed, so that an id that comes twice is refused as well.
    Ok(ids
        .iter()
        .filter(|id| !accepted.remove(id))
        .copied()
        .collect())
}

fn slot_columns(id: SlotId) -> StoreResult<(i64, Vec<u8>, i64)> {
    Ok((
        signed(id.chain.0, "a chain id")?,
        id.signer.to_vec(),
        signed(id.nonce.0, "an account nonce")?,
    ))
}

/// A slot can be written under its own lane's fence only.
fn expect_lane(fence: FencedLane, id: SlotId) -> StoreResult<()> {
    if (fence.chain, fence.signer) == (id.chain, id.signer) {
        Ok(())
    } else {
        Err(StoreError::StaleLane)
    }
}

async fn expect_epoch(connection: &mut SqliteConnection, fence: FencedLane) -> StoreResult<()> {
    let held =
        sqlx::query("SELECT 1 FROM lanes WHERE chain_id = ?1 AND signer = ?2 AND epoch = ?3")
            .bind(signed(fence.chain.0, "a chain id")?)
            .bind(fence.signer.to_vec())
            .bind(signed(fence.epoch, "an epoch")?)
            .fetch_optional(connection)
            .await
            .map_err(StoreError::of_ledger)?;
    held.map(|_| ()).ok_or(StoreError::StaleLane)
}

/// The same attempt of the same slot once more changes nothing.
async fn insert_attempt(
    connection: &mut SqliteConnection,
    id: SlotId,
    attempt: &Attempt,
) -> StoreResult<()> {
    let (chain, signer, nonce) = slot_columns(id)?;
    let inserted = sqlx::query(concat!(
        "INSERT INTO attempts (hash, chain_id, signer, nonce, position, kind, raw, max_fee_per_gas, ",
        "max_priority_fee_per_gas, gas_limit, signed_at) ",
        "SELECT ?1, ?2, ?3, ?4, (SELECT count(*) FROM attempts WHERE chain_id = ?2 AND signer = ?3 AND nonce = ?4), ",
        "?5, ?6, ?7, ?8, ?9, ms FROM ", clock!(), " WHERE true ON CONFLICT (hash) DO UPDATE SET hash = hash ",
        "WHERE chain_id = ?2 AND signer = ?3 AND nonce = ?4 AND raw = ?6",
    ))
    .bind(attempt.hash.to_vec())
    .bind(chain)
    .bind(signer)
    .bind(nonce)
    .bind(attempt.kind.as_str())
    .bind(attempt.raw.to_vec())
    .bind(attempt.fees.max_fee_per_gas.to_string())
    .bind(attempt.fees.max_priority_fee_per_gas.to_string())
    .bind(signed(attempt.gas_limit, "a gas limit")?)
    .execute(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if inserted.rows_affected() == 0 {
        return Err(StoreError::Conflict {
            row: format!("attempt {}", attempt.hash),
            expected: "new",
        });
    }
    Ok(())
}

/// See [`crate::Ledger::add_attempt`].
pub(super) async fn add_attempt(
    connection: &mut SqliteConnection,
    fence: FencedLane,
    id: SlotId,
    attempt: Attempt,
) -> StoreResult<()> {
    expect_lane(fence, id)?;
    expect_epoch(connection, fence).await?;
    let (chain, signer, nonce) = slot_columns(id)?;
    let open = sqlx::query(
        "SELECT 1 FROM slots WHERE chain_id = ?1 AND signer = ?2 AND nonce = ?3 AND state = 'open'",
    )
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if open.is_none() {
        return Err(StoreError::Conflict {
            row: format!("slot {id}"),
            expected: "open",
        });
    }
    insert_attempt(connection, id, &attempt).await?;
    if attempt.kind == AttemptKind::NoOp {
        return Ok(());
    }
    sqlx::query(concat!(
        "UPDATE settlements SET transaction_hash = ?4, updated_at = ms FROM ", clock!(), " WHERE id IN ",
        "(SELECT settlement_id FROM slot_payments WHERE chain_id = ?1 AND signer = ?2 AND nonce = ?3) ",
        "AND state = 'assigned' AND slot_signer = ?2 AND slot_nonce = ?3",
    ))
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .bind(attempt.hash.to_vec())
    .execute(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    Ok(())
}

/// See [`crate::Ledger::close_slot`].
pub(super) async fn close(
    connection: &mut SqliteConnection,
    fence: FencedLane,
    closure: SlotClosure,
) -> StoreResult<()> {
    let id = closure.id;
    expect_lane(fence, id)?;
    expect_epoch(connection, fence).await?;
    let (chain, signer, nonce) = slot_columns(id)?;
    let closed = sqlx::query(concat!(
        "UPDATE slots SET state = 'closed', transaction_hash = ?4, block_number = ?5, block_hash = ?6, gas_used = ?7, ",
        "cost = ?8, closed_at = ms FROM ", clock!(), " ",
        "WHERE chain_id = ?1 AND signer = ?2 AND nonce = ?3 AND state = 'open' AND EXISTS ",
        "(SELECT 1 FROM attempts AS a WHERE a.hash = ?4 AND a.chain_id = ?1 AND a.signer = ?2 AND a.nonce = ?3)",
    ))
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .bind(closure.transaction.to_vec())
    .bind(signed(closure.block.number, "a block number")?)
    .bind(closure.block.hash.to_vec())
    .bind(signed(closure.gas_used, "gas")?)
    .bind(closure.cost.to_string())
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if closed.rows_affected() == 0 {
        return Err(StoreError::Conflict {
            row: format!("slot {id}"),
            expected: "open with that attempt",
        });
    }
    let rows = closure
        .resolutions
        .iter()
        .map(|(id, resolution)| resolution_row(*id, slot_outcome(*id, resolution)?))
        .collect::<StoreResult<Vec<_>>>()?;
    let changed = sqlx::query(concat!(
        "UPDATE settlements SET state = j.value->>1, slot_signer = NULL, slot_nonce = NULL, ",
        "transaction_hash = unhex(j.value->>2), reason = j.value->>3, detail = j.value->>4, ",
        "block_number = j.value->>5, block_hash = unhex(j.value->>6), log_index = j.value->>7, level = j.value->>8, ",
        "gas_used = j.value->>9, cost = j.value->>10, updated_at = ms FROM json_each(?4) AS j, ", clock!(), " ",
        "WHERE settlements.id = unhex(j.value->>0) AND state = 'assigned' AND chain_id = ?1 AND slot_signer = ?2 AND slot_nonce = ?3",
    ))
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .bind(Value::from(rows).to_string())
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let left = sqlx::query(
        "SELECT 1 FROM slot_payments AS p JOIN settlements AS s ON s.id = p.settlement_id \
         WHERE p.chain_id = ?1 AND p.signer = ?2 AND p.nonce = ?3 \
         AND s.state = 'assigned' AND s.slot_signer = ?2 AND s.slot_nonce = ?3 LIMIT 1",
    )
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .fetch_optional(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if changed.rows_affected() != closure.resolutions.len() as u64 || left.is_some() {
        return Err(StoreError::Conflict {
            row: format!("a payment of slot {id}"),
            expected: "assigned to it and resolved once",
        });
    }
    Ok(())
}

/// A state as the array that the updates read.
pub(super) fn resolution_row(id: SettlementId, state: SettlementState) -> StoreResult<Value> {
    let columns = StateColumns::of(&state)?;
    Ok(json!([
        hex::encode(id.0),
        columns.state,
        columns.transaction.map(hex::encode),
        columns.reason,
        columns.detail,
        columns.block_number,
        columns.block_hash.map(hex::encode),
        columns.log_index,
        columns.level,
        columns.gas_used,
        columns.cost,
    ]))
}

/// The open slots of a signer, by nonce.
pub(super) async fn open_slots(
    connection: &mut SqliteConnection,
    chain: ChainId,
    signer: Address,
) -> StoreResult<Vec<Slot>> {
    let chain_id = signed(chain.0, "a chain id")?;
    let attempts = sqlx::query(concat!(
        "SELECT ",
        attempt_columns!(""),
        " FROM slots AS s JOIN attempts AS a USING (chain_id, signer, nonce) ",
        "WHERE s.chain_id = ?1 AND s.signer = ?2 AND s.state = 'open' ORDER BY a.nonce, a.position",
    ))
    .bind(chain_id)
    .bind(signer.to_vec())
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let payments = sqlx::query(
        "SELECT p.nonce, p.settlement_id FROM slots AS s JOIN slot_payments AS p USING (chain_id, signer, nonce) \
         WHERE s.chain_id = ?1 AND s.signer = ?2 AND s.state = 'open' ORDER BY p.nonce, p.position",
    )
    .bind(chain_id)
    .bind(signer.to_vec())
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let attempts = attempts
        .iter()
        .map(|row| attempt(&mut Columns::of(row)))
        .collect::<StoreResult<Vec<_>>>()?;
    let payments = payments
        .iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let nonce = AccountNonce(unsigned(columns.take()?)?);
            Ok((nonce, SettlementId(columns.take()?)))
        })
        .collect::<StoreResult<Vec<_>>>()?;
    Ok(assemble(chain, signer, attempts, payments))
}

/// Every signer with an open slot on a network.
pub(super) async fn signers(
    connection: &mut SqliteConnection,
    chain: ChainId,
) -> StoreResult<Vec<Address>> {
    let rows =
        sqlx::query("SELECT DISTINCT signer FROM slots WHERE chain_id = ?1 AND state = 'open'")
            .bind(signed(chain.0, "a chain id")?)
            .fetch_all(connection)
            .await
            .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| address(&Columns::of(row).take::<Vec<u8>>()?))
        .collect()
}
