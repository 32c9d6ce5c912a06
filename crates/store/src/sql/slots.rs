//! Opening, preconfirming and closing slots: each one transaction that begins with the lane's fence. A part of each
//! ledger.

use std::collections::HashSet;

use alloy_primitives::B256;
use teller_domain::{Attempt, FencedLane, SettlementId, SlotEnd, SlotId, Wei};

use super::dialect::{self, Connection, DbRow, clock, for_update, ids, in_ids, numeric, places};
use super::siblings::Spared;
use super::top_ups;
use crate::resolving::slot_outcomes;
use crate::rows::{Columns, signed};
use crate::{NewSlot, OpenSlotOutcome, SlotClosure, StoreError, StoreResult};

/// See [`crate::Ledger::open_slot`].
pub(super) async fn open(
    connection: &mut Connection,
    fence: FencedLane,
    slot: NewSlot,
) -> StoreResult<OpenSlotOutcome> {
    let id = slot.id;
    expect_lane(fence, id)?;
    let (chain, signer, nonce) = slot_columns(id)?;
    let next = signed(id.nonce.next().0, "an account nonce")?;
    let after_number = slot
        .after
        .map(|block| signed(block.number, "a block number"));
    let after_number = after_number.transpose()?;
    let fenced = sqlx::query(
        "UPDATE lanes SET next_nonce = $5 \
         WHERE chain_id = $1 AND signer = $2 AND epoch = $3 AND next_nonce = $4",
    )
    .bind(chain)
    .bind(&signer)
    .bind(signed(fence.epoch, "an epoch")?)
    .bind(nonce)
    .bind(next)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if fenced.rows_affected() == 0
        && !(slot.payments.is_empty() && fills_gap(connection, fence, id).await?)
    {
        return Err(StoreError::StaleLane);
    }
    let moved = not_accepted(connection, &slot.payments).await?;
    let first = match &slot.top_up {
        Some(top_up) if moved.is_empty() => {
            top_ups::insert(connection, id, top_up, &slot.payments).await?
        }
        Some(_) | None => true,
    };
    if !first || !moved.is_empty() {
        // Put back what the fence moved: nothing is written.
        sqlx::query("UPDATE lanes SET next_nonce = $3 WHERE chain_id = $1 AND signer = $2")
            .bind(chain)
            .bind(&signer)
            .bind(nonce)
            .execute(connection)
            .await
            .map_err(StoreError::of_ledger)?;
        return Ok(match moved.is_empty() {
            true => OpenSlotOutcome::ToppedUpBefore,
            false => OpenSlotOutcome::PaymentsMoved(moved),
        });
    }
    sqlx::query(concat!(
        "INSERT INTO slots (chain_id, signer, nonce, state, opened_at, after_number, after_hash) ",
        "SELECT $1, $2, $3, 'open', ms, $4, $5 FROM ",
        clock!()
    ))
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .bind(after_number)
    .bind(slot.after.map(|block| block.hash.to_vec()))
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    sqlx::query(concat!(
        "INSERT INTO slot_payments (chain_id, signer, nonce, position, settlement_id) SELECT $1, $2, $3, place, id FROM ",
        places!("$4")
    ))
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .bind(ids(&slot.payments))
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    insert_attempt(connection, id, &slot.attempt).await?;
    sqlx::query(concat!(
        "UPDATE settlements SET state = 'assigned', tries = tries + 1, slot_signer = $1, slot_nonce = $2, ",
        "last_slot_signer = $1, last_slot_nonce = $2, updated_at = ms FROM ", clock!(), " ",
        "WHERE id ", in_ids!("$3"), " AND state = 'accepted'",
    ))
    .bind(&signer)
    .bind(nonce)
    .bind(ids(&slot.payments))
    .execute(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    Ok(OpenSlotOutcome::Opened)
}

/// Whether the nonce is below the lane's next one and has no slot: a gap, which a slot without payments may fill.
async fn fills_gap(
    connection: &mut Connection,
    fence: FencedLane,
    id: SlotId,
) -> StoreResult<bool> {
    let (chain, signer, nonce) = slot_columns(id)?;
    // An update that changes nothing, so that the lane's row is locked as by the fence of any other slot.
    let fenced = sqlx::query(
        "UPDATE lanes SET next_nonce = next_nonce \
         WHERE chain_id = $1 AND signer = $2 AND epoch = $3 AND next_nonce > $4 AND NOT EXISTS \
         (SELECT 1 FROM slots AS x WHERE x.chain_id = $1 AND x.signer = $2 AND x.nonce = $4)",
    )
    .bind(chain)
    .bind(&signer)
    .bind(signed(fence.epoch, "an epoch")?)
    .bind(nonce)
    .execute(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    Ok(fenced.rows_affected() > 0)
}

async fn not_accepted(
    connection: &mut Connection,
    wanted: &[SettlementId],
) -> StoreResult<Vec<SettlementId>> {
    let rows = sqlx::query(concat!(
        "SELECT s.id FROM settlements AS s WHERE s.id ",
        in_ids!("$1"),
        " AND s.state = 'accepted' ORDER BY s.id",
        for_update!("s"),
    ))
    .bind(ids(wanted))
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut accepted: HashSet<SettlementId> = ids_of(&rows)?.into_iter().collect();
    // Removed, so that an id that comes twice is refused as well.
    Ok(wanted
        .iter()
        .filter(|id| !accepted.remove(id))
        .copied()
        .collect())
}

/// The first column of each row.
pub(super) fn ids_of(rows: &[DbRow]) -> StoreResult<Vec<SettlementId>> {
    rows.iter()
        .map(|row| Columns::of(row).take().map(SettlementId))
        .collect()
}

pub(super) fn slot_columns(id: SlotId) -> StoreResult<(i64, Vec<u8>, i64)> {
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

/// The lane's row is locked from here on: nobody raises its epoch before this transaction ends.
pub(super) async fn expect_epoch(
    connection: &mut Connection,
    fence: FencedLane,
) -> StoreResult<()> {
    let held = sqlx::query(concat!(
        "SELECT 1 FROM lanes AS l WHERE chain_id = $1 AND signer = $2 AND epoch = $3",
        for_update!("l"),
    ))
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
    connection: &mut Connection,
    id: SlotId,
    attempt: &Attempt,
) -> StoreResult<()> {
    let (chain, signer, nonce) = slot_columns(id)?;
    let inserted = sqlx::query(concat!(
        "INSERT INTO attempts AS known (hash, chain_id, signer, nonce, position, kind, raw, max_fee_per_gas, ",
        "max_priority_fee_per_gas, gas_limit, signed_at) ",
        "SELECT $1, $2, $3, $4, (SELECT count(*) FROM attempts WHERE chain_id = $2 AND signer = $3 AND nonce = $4), ",
        "$5, $6, ", numeric!("$7"), ", ", numeric!("$8"), ", $9, ms FROM ", clock!(),
        " WHERE true ON CONFLICT (hash) DO UPDATE SET kind = known.kind ",
        "WHERE known.chain_id = $2 AND known.signer = $3 AND known.nonce = $4 AND known.raw = $6",
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
    connection: &mut Connection,
    fence: FencedLane,
    id: SlotId,
    attempt: Attempt,
) -> StoreResult<()> {
    expect_lane(fence, id)?;
    expect_epoch(connection, fence).await?;
    let (chain, signer, nonce) = slot_columns(id)?;
    let open = sqlx::query(concat!(
        "SELECT 1 FROM slots AS x WHERE chain_id = $1 AND signer = $2 AND nonce = $3 AND state = 'open'",
        for_update!("x"),
    ))
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
    insert_attempt(connection, id, &attempt).await
}

/// See [`crate::Ledger::note_handed_over`].
pub(super) async fn note_handed_over(connection: &mut Connection, hash: B256) -> StoreResult<()> {
    sqlx::query(concat!(
        "UPDATE attempts SET handed_over_at = ms FROM ",
        clock!(),
        " WHERE hash = $1 AND handed_over_at IS NULL",
    ))
    .bind(hash.to_vec())
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

/// See [`crate::Ledger::preconfirm`].
pub(super) async fn preconfirm(
    connection: &mut Connection,
    fence: FencedLane,
    id: SlotId,
    transaction: B256,
    payments: Vec<(SettlementId, u64)>,
) -> StoreResult<()> {
    expect_lane(fence, id)?;
    expect_epoch(connection, fence).await?;
    let (chain, signer, nonce) = slot_columns(id)?;
    let seen = sqlx::query(concat!(
        "SELECT 1 FROM slots AS x WHERE chain_id = $1 AND signer = $2 AND nonce = $3 AND state = 'open' AND EXISTS ",
        "(SELECT 1 FROM attempts AS a WHERE a.hash = $4 AND a.chain_id = $1 AND a.signer = $2 AND a.nonce = $3)",
        for_update!("x"),
    ))
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .bind(transaction.to_vec())
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if seen.is_none() {
        return Err(StoreError::Conflict {
            row: format!("slot {id}"),
            expected: "open with that attempt",
        });
    }
    let rows = sqlx::query(concat!(
        "SELECT s.id FROM slot_payments AS p JOIN settlements AS s ON s.id = p.settlement_id ",
        "WHERE p.chain_id = $1 AND p.signer = $2 AND p.nonce = $3 AND s.state IN ('assigned', 'preconfirmed') ",
        "AND s.slot_signer = $2 AND s.slot_nonce = $3 ORDER BY s.id",
        for_update!("s"),
    ))
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut others: HashSet<SettlementId> = ids_of(&rows)?.into_iter().collect();
    let mut named = Vec::with_capacity(payments.len());
    for (payment, log_index) in payments {
        if !others.remove(&payment) {
            return Err(StoreError::Conflict {
                row: format!("payment {payment} of slot {id}"),
                expected: "assigned to it and named once",
            });
        }
        named.push((payment, signed(log_index, "a log index")?));
    }
    let others: Vec<SettlementId> = others.into_iter().collect();
    sqlx::query(concat!(
        "UPDATE settlements AS s SET state = 'assigned', transaction_hash = NULL, ",
        "log_index = NULL, level = NULL, updated_at = ms FROM ",
        clock!(),
        " WHERE s.id ",
        in_ids!("$1"),
        " AND s.state = 'preconfirmed'",
    ))
    .bind(ids(&others))
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    dialect::write_preconfirmed(connection, transaction, &named).await
}

/// See [`crate::Ledger::close_slot`].
pub(super) async fn close(
    connection: &mut Connection,
    fence: FencedLane,
    mut closure: SlotClosure,
) -> StoreResult<Vec<SettlementId>> {
    let id = closure.id;
    expect_lane(fence, id)?;
    expect_epoch(connection, fence).await?;
    let (chain, signer, nonce) = slot_columns(id)?;
    let (transaction, gas_used, cost) = match closure.end {
        SlotEnd::Mined {
            transaction,
            gas_used,
            cost,
        } => (Some(transaction.to_vec()), gas_used, cost),
        SlotEnd::Foreign => (None, 0, Wei::default()),
    };
    let closed = sqlx::query(concat!(
        "UPDATE slots SET state = 'closed', transaction_hash = $4, block_number = $5, block_hash = $6, gas_used = $7, ",
        "cost = ", numeric!("$8"), ", level = 'included', closed_at = ms FROM ", clock!(), " ",
        "WHERE chain_id = $1 AND signer = $2 AND nonce = $3 AND state = 'open' AND ($4 IS NULL OR EXISTS ",
        "(SELECT 1 FROM attempts AS a WHERE a.hash = $4 AND a.chain_id = $1 AND a.signer = $2 AND a.nonce = $3))",
    ))
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .bind(transaction)
    .bind(signed(closure.block.number, "a block number")?)
    .bind(closure.block.hash.to_vec())
    .bind(signed(gas_used, "gas")?)
    .bind(cost.to_string())
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if closed.rows_affected() == 0 {
        return Err(StoreError::Conflict {
            row: format!("slot {id}"),
            expected: "open with that attempt",
        });
    }
    let spared = Spared::of(connection, &mut closure).await?;
    let outcomes = slot_outcomes(&closure)?;
    let changed = dialect::resolve_slot(connection, (chain, &signer, nonce), &outcomes).await?;
    let left = sqlx::query(
        "SELECT 1 FROM slot_payments AS p JOIN settlements AS s ON s.id = p.settlement_id \
         WHERE p.chain_id = $1 AND p.signer = $2 AND p.nonce = $3 \
         AND s.state IN ('assigned', 'preconfirmed') AND s.slot_signer = $2 AND s.slot_nonce = $3 LIMIT 1",
    )
    .bind(chain)
    .bind(&signer)
    .bind(nonce)
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if changed.len() != outcomes.len() || left.is_some() {
        return Err(StoreError::Conflict {
            row: format!("a payment of slot {id}"),
            expected: "assigned to it, or revived after it had ended there, and resolved once",
        });
    }
    spared.keep(connection).await
}
