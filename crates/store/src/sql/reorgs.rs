//! What a reorg takes back, and how levels rise: each one transaction that begins with the lane's fence. A part of each
//! ledger.

use std::collections::HashSet;

use alloy_primitives::Address;
use teller_domain::{AccountNonce, BlockRef, ChainId, FencedLane, Level, SettlementId};

use super::dialect::{Connection, clock, for_update, ids, in_ids, in_numbers, indexed_by, numbers};
use super::siblings;
use super::slots::{expect_epoch, ids_of};
use crate::claiming::rank;
use crate::rows::{Columns, read, signed, unsigned, word};
use crate::{StoreError, StoreResult, UnfinalSlot};

/// What is said beside a reason that was told and stands although a reorg took a settlement back.
const TOLD_STANDS: &str = "this was told before; a reorg took the later settlement back";

fn nonce_columns(nonces: &[AccountNonce]) -> StoreResult<Vec<i64>> {
    nonces
        .iter()
        .map(|nonce| signed(nonce.0, "an account nonce"))
        .collect()
}

/// See [`crate::Ledger::reopen_slots`].
pub(super) async fn reopen(
    connection: &mut Connection,
    fence: FencedLane,
    nonces: Vec<AccountNonce>,
) -> StoreResult<()> {
    expect_epoch(connection, fence).await?;
    let (chain, signer) = (signed(fence.chain.0, "a chain id")?, fence.signer.to_vec());
    let closed = closed_of(connection, fence, &nonces).await?;
    if closed.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(concat!(
        "SELECT s.id FROM slot_payments AS p JOIN settlements AS s ON s.id = p.settlement_id ",
        "WHERE p.chain_id = $1 AND p.signer = $2 AND p.nonce ",
        in_numbers!("$3"),
        " AND s.last_slot_signer = p.signer AND s.last_slot_nonce = p.nonce ",
        "AND s.state IN ('settled', 'settled_externally', 'accepted', 'unexplained') ",
        // Somebody else's settlement may be final before the slot is.
        "AND s.level IS DISTINCT FROM 'finalized' ORDER BY s.id",
        for_update!("s"),
    ))
    .bind(chain)
    .bind(&signer)
    .bind(numbers(&closed))
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let payments = ids_of(&rows)?;
    sqlx::query(concat!(
        "UPDATE slots SET state = 'open', transaction_hash = NULL, block_number = NULL, block_hash = NULL, ",
        "gas_used = NULL, cost = NULL, level = NULL, closed_at = NULL ",
        "WHERE chain_id = $1 AND signer = $2 AND nonce ", in_numbers!("$3"),
    ))
    .bind(chain)
    .bind(&signer)
    .bind(numbers(&closed))
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    sqlx::query(concat!(
        "UPDATE settlements AS s SET state = CASE WHEN s.told = 'failure' THEN 'failed' ELSE 'assigned' END, ",
        "slot_signer = CASE WHEN s.told = 'failure' THEN NULL ELSE s.last_slot_signer END, ",
        "slot_nonce = CASE WHEN s.told = 'failure' THEN NULL ELSE s.last_slot_nonce END, ",
        "transaction_hash = NULL, reason = CASE WHEN s.told = 'failure' THEN s.told_reason END, ",
        "detail = CASE WHEN s.told = 'failure' THEN $2 END, ",
        "block_number = NULL, block_hash = NULL, log_index = NULL, level = NULL, gas_used = NULL, cost = NULL, ",
        "updated_at = ms FROM ", clock!(), " WHERE s.id ", in_ids!("$1"),
    ))
    .bind(ids(&payments))
    .bind(TOLD_STANDS)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    // Those that went on to other slots and came back from them unsettled are theirs again as well.
    let carried = carried(connection, chain, &signer, &closed).await?;
    siblings::keep(connection, fence.chain, &carried).await?;
    Ok(())
}

/// Every payment that the slots carry, whatever became of it.
async fn carried(
    connection: &mut Connection,
    chain: i64,
    signer: &[u8],
    nonces: &[i64],
) -> StoreResult<Vec<SettlementId>> {
    let rows = sqlx::query(concat!(
        "SELECT DISTINCT settlement_id FROM slot_payments WHERE chain_id = $1 AND signer = $2 AND nonce ",
        in_numbers!("$3"),
    ))
    .bind(chain)
    .bind(signer)
    .bind(numbers(nonces))
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    ids_of(&rows)
}

/// Those of the slots that are closed, locked; refuses those that nobody knows and those that are finalized.
async fn closed_of(
    connection: &mut Connection,
    fence: FencedLane,
    nonces: &[AccountNonce],
) -> StoreResult<Vec<i64>> {
    let wanted = nonce_columns(nonces)?;
    let rows = sqlx::query(concat!(
        "SELECT x.nonce, x.state, x.level FROM slots AS x WHERE x.chain_id = $1 AND x.signer = $2 AND x.nonce ",
        in_numbers!("$3"), " ORDER BY x.nonce", for_update!("x"),
    ))
    .bind(signed(fence.chain.0, "a chain id")?)
    .bind(fence.signer.to_vec())
    .bind(numbers(&wanted))
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut known = HashSet::new();
    let mut closed = Vec::new();
    for row in &rows {
        let mut columns = Columns::of(row);
        let nonce: i64 = columns.take()?;
        known.insert(nonce);
        let is_closed = columns.take::<String>()? == "closed";
        if columns.take::<Option<String>>()?.as_deref() == Some(Level::Finalized.as_str()) {
            return Err(StoreError::Conflict {
                row: format!("slot {}/{}/{nonce}", fence.chain, fence.signer),
                expected: "below finalized",
            });
        }
        if is_closed {
            closed.push(nonce);
        }
    }
    match wanted.iter().find(|nonce| !known.contains(nonce)) {
        Some(nonce) => Err(StoreError::Conflict {
            row: format!("slot {}/{}/{nonce}", fence.chain, fence.signer),
            expected: "in the ledger",
        }),
        None => Ok(closed),
    }
}

/// A payment that a transaction outside its last slot settled, and could still lose that to a reorg.
struct External {
    last_slot: AccountNonce,
    payment: SettlementId,
    block: BlockRef,
    level: Level,
}

/// Of the payments whose last slot is in this lane and closed: those that others settled, and those that a sibling slot
/// settled which a reorg had reopened.
async fn externals(
    connection: &mut Connection,
    chain: ChainId,
    signer: Address,
) -> StoreResult<Vec<External>> {
    let rows = sqlx::query(concat!(
        "SELECT s.last_slot_nonce, s.id, s.block_number, s.block_hash, s.level FROM settlements AS s",
        indexed_by!("settlements_external_unfinal"), " CROSS JOIN slots AS x ",
        "WHERE x.chain_id = s.chain_id AND x.signer = s.last_slot_signer AND x.nonce = s.last_slot_nonce ",
        "AND s.chain_id = $1 AND s.last_slot_signer = $2 AND s.state = 'settled_externally' ",
        "AND s.level <> 'finalized' AND x.state = 'closed' ",
        "UNION ALL SELECT s.last_slot_nonce, s.id, s.block_number, s.block_hash, s.level FROM slots AS x",
        indexed_by!("slots_unfinal"), " CROSS JOIN slot_payments AS p CROSS JOIN settlements AS s ",
        "WHERE p.chain_id = x.chain_id AND p.signer = x.signer AND p.nonce = x.nonce AND s.id = p.settlement_id ",
        "AND s.last_slot_signer = x.signer AND s.last_slot_nonce = x.nonce ",
        "AND x.chain_id = $1 AND x.signer = $2 AND x.level <> 'finalized' AND s.state = 'settled' ",
        "AND s.level <> 'finalized' AND s.transaction_hash IS DISTINCT FROM x.transaction_hash ORDER BY 1, 3, 2",
    ))
    .bind(signed(chain.0, "a chain id")?)
    .bind(signer.to_vec())
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            Ok(External {
                last_slot: AccountNonce(unsigned(columns.take()?)?),
                payment: SettlementId(columns.take()?),
                block: BlockRef {
                    number: unsigned(columns.take()?)?,
                    hash: word(&columns.take::<Vec<u8>>()?)?,
                },
                level: read(&columns.take::<String>()?, "level")?,
            })
        })
        .collect()
}

/// See [`crate::Ledger::take_back_external`].
pub(super) async fn take_back_external(
    connection: &mut Connection,
    fence: FencedLane,
    blocks: Vec<BlockRef>,
) -> StoreResult<Vec<SettlementId>> {
    expect_epoch(connection, fence).await?;
    let gone: HashSet<BlockRef> = blocks.into_iter().collect();
    let mut taken: Vec<SettlementId> = externals(connection, fence.chain, fence.signer)
        .await?
        .into_iter()
        .filter(|external| gone.contains(&external.block))
        .map(|external| external.payment)
        .collect();
    taken.sort();
    let rows = sqlx::query(concat!(
        "SELECT s.id FROM settlements AS s WHERE s.id ",
        in_ids!("$1"),
        " ORDER BY s.id",
        for_update!("s"),
    ))
    .bind(ids(&taken))
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let taken = ids_of(&rows)?;
    sqlx::query(concat!(
        "UPDATE settlements AS s SET state = CASE WHEN s.told = 'failure' THEN 'failed' ELSE 'accepted' END, ",
        "queued_by = NULL, transaction_hash = NULL, reason = CASE WHEN s.told = 'failure' THEN s.told_reason END, ",
        "detail = CASE WHEN s.told = 'failure' THEN $2 END, block_number = NULL, block_hash = NULL, ",
        "log_index = NULL, level = NULL, gas_used = NULL, cost = NULL, updated_at = ms FROM ", clock!(),
        " WHERE s.id ", in_ids!("$1"), " AND s.state IN ('settled', 'settled_externally')",
    ))
    .bind(ids(&taken))
    .bind(TOLD_STANDS)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    siblings::keep(connection, fence.chain, &taken).await?;
    Ok(taken)
}

/// See [`crate::Ledger::raise_levels`].
pub(super) async fn raise_levels(
    connection: &mut Connection,
    fence: FencedLane,
    nonces: Vec<AccountNonce>,
    level: Level,
) -> StoreResult<()> {
    expect_epoch(connection, fence).await?;
    // What is in a sealed block is never less than included.
    if level == Level::Preconfirmed {
        return Ok(());
    }
    let (chain, signer) = (signed(fence.chain.0, "a chain id")?, fence.signer.to_vec());
    let nonces = nonce_columns(&nonces)?;
    sqlx::query(concat!(
        "UPDATE slots SET level = $4 WHERE chain_id = $1 AND signer = $2 AND nonce ",
        in_numbers!("$3"),
        " AND state = 'closed' AND ",
        rank!("level"),
        " < ",
        rank!("$4"),
    ))
    .bind(chain)
    .bind(&signer)
    .bind(numbers(&nonces))
    .bind(level.as_str())
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let rows = sqlx::query(concat!(
        "SELECT s.id FROM slot_payments AS p JOIN settlements AS s ON s.id = p.settlement_id ",
        "WHERE p.chain_id = $1 AND p.signer = $2 AND p.nonce ",
        in_numbers!("$3"),
        " AND s.last_slot_signer = p.signer AND s.last_slot_nonce = p.nonce ",
        "AND s.state IN ('settled', 'settled_externally') AND ",
        rank!("s.level"),
        " < ",
        rank!("$4"),
        " ORDER BY s.id",
        for_update!("s"),
    ))
    .bind(chain)
    .bind(&signer)
    .bind(numbers(&nonces))
    .bind(level.as_str())
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let raised = ids_of(&rows)?;
    if raised.is_empty() {
        return Ok(());
    }
    sqlx::query(concat!(
        "UPDATE settlements SET level = $2, updated_at = ms FROM ",
        clock!(),
        " WHERE id ",
        in_ids!("$1")
    ))
    .bind(ids(&raised))
    .bind(level.as_str())
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

/// What a reorg could still take from a lane, by nonce. A finalized slot is among them while a settlement by others
/// whose last slot it is has not got that far.
pub(super) async fn unfinal(
    connection: &mut Connection,
    chain: ChainId,
    signer: Address,
) -> StoreResult<Vec<UnfinalSlot>> {
    let externals = externals(connection, chain, signer).await?;
    let finalized: Vec<i64> = externals
        .iter()
        .map(|external| signed(external.last_slot.0, "an account nonce"))
        .collect::<StoreResult<_>>()?;
    let rows = sqlx::query(concat!(
        "SELECT x.nonce, x.block_number, x.block_hash, x.level FROM slots AS x",
        indexed_by!("slots_unfinal"),
        " WHERE x.chain_id = $1 AND x.signer = $2 AND x.level <> 'finalized' ",
        "UNION SELECT nonce, block_number, block_hash, level FROM slots ",
        "WHERE chain_id = $1 AND signer = $2 AND state = 'closed' AND nonce ",
        in_numbers!("$3"),
        " ORDER BY 1",
    ))
    .bind(signed(chain.0, "a chain id")?)
    .bind(signer.to_vec())
    .bind(numbers(&finalized))
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut unfinal = rows
        .iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            Ok(UnfinalSlot {
                nonce: AccountNonce(unsigned(columns.take()?)?),
                block: BlockRef {
                    number: unsigned(columns.take()?)?,
                    hash: word(&columns.take::<Vec<u8>>()?)?,
                },
                external: Vec::new(),
                level: read(&columns.take::<String>()?, "level")?,
            })
        })
        .collect::<StoreResult<Vec<UnfinalSlot>>>()?;
    for external in externals {
        let found = unfinal.binary_search_by_key(&external.last_slot, |slot| slot.nonce);
        let Some(slot) = found.ok().and_then(|index| unfinal.get_mut(index)) else {
            continue;
        };
        slot.level = slot.level.min(external.level);
        if external.block != slot.block && !slot.external.contains(&external.block) {
            slot.external.push(external.block);
        }
    }
    Ok(unfinal)
}
