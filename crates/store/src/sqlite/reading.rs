//! What readers ask. Each call sees everything that was committed before it.

use alloy_primitives::Address;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Sqlite, SqliteConnection, SqlitePool};
use teller_domain::{
    AuthorizationKey, ChainId, Settlement, SettlementId, Slot, TenantId, UnixMillis,
};

use super::hot::ids_json;
use super::{hot, slots};
use crate::rows::{Columns, settlement, settlement_columns, signed, unsigned};
use crate::{SettlementEvent, SettlementPage, SettlementQuery, StoreError, StoreResult, listing};

/// How many events one call answers at most.
const LARGEST_EVENTS: u32 = 1_000;

pub(super) async fn acquire(readers: &SqlitePool) -> StoreResult<PoolConnection<Sqlite>> {
    readers.acquire().await.map_err(StoreError::of_ledger)
}

fn settlements_of(rows: &[SqliteRow]) -> StoreResult<Vec<Settlement>> {
    rows.iter()
        .map(|row| settlement(&mut Columns::of(row)))
        .collect()
}

/// The writer answers this, so an answer means that writes are possible.
pub(super) async fn ping(connection: &mut SqliteConnection) -> StoreResult<()> {
    connection.ping().await.map_err(StoreError::of_ledger)
}

pub(super) async fn now(connection: &mut SqliteConnection) -> StoreResult<UnixMillis> {
    let row = sqlx::query(concat!("SELECT ms FROM ", hot::clock!()))
        .fetch_one(connection)
        .await
        .map_err(StoreError::of_ledger)?;
    Ok(UnixMillis(unsigned(Columns::of(&row).take()?)?))
}

pub(super) async fn find(
    readers: SqlitePool,
    keys: Vec<AuthorizationKey>,
) -> Vec<StoreResult<Option<Settlement>>> {
    let found = async {
        let mut reader = acquire(&readers).await?;
        hot::find(&mut reader, &keys).await
    }
    .await;
    match found {
        Ok(found) => keys.iter().map(|key| Ok(found.get(key).cloned())).collect(),
        // A row that cannot be read must not fail its neighbours.
        Err(StoreError::Corrupt(_)) if keys.len() > 1 => {
            let mut answers = Vec::with_capacity(keys.len());
            for key in keys {
                let alone = async {
                    let mut reader = acquire(&readers).await?;
                    hot::find(&mut reader, &[key]).await
                }
                .await;
                answers.push(alone.map(|mut found| found.remove(&key)));
            }
            answers
        }
        Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
    }
}

pub(super) async fn settlements(
    readers: &SqlitePool,
    ids: &[SettlementId],
) -> StoreResult<Vec<Settlement>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        settlement_columns!(""),
        " FROM json_each(?1) AS j CROSS JOIN settlements AS s ON s.id = unhex(j.value)"
    ))
    .bind(ids_json(ids))
    .fetch_all(readers)
    .await
    .map_err(StoreError::of_ledger)?;
    settlements_of(&rows)
}

pub(super) async fn list(
    readers: &SqlitePool,
    query: &SettlementQuery,
) -> StoreResult<SettlementPage> {
    let select = concat!("SELECT ", settlement_columns!(""), " FROM settlements AS s");
    let rows = listing::list::<Sqlite>(select, query)?
        .build()
        .fetch_all(readers)
        .await
        .map_err(StoreError::of_ledger)?;
    let mut settlements = settlements_of(&rows)?;
    let size = listing::page_size(query);
    let more = settlements.len() > size;
    settlements.truncate(size);
    Ok(SettlementPage { settlements, more })
}

pub(super) async fn accepted(readers: &SqlitePool, chain: ChainId) -> StoreResult<Vec<Settlement>> {
    // Both conditions on the state: the first is the partial index's own.
    let rows = sqlx::query(concat!(
        "SELECT ", settlement_columns!(""), " FROM settlements AS s ",
        "WHERE s.state IN ('accepted', 'assigned') AND s.state = 'accepted' AND s.chain_id = ?1 ORDER BY s.id"
    ))
    .bind(signed(chain.0, "a chain id")?)
    .fetch_all(readers)
    .await
    .map_err(StoreError::of_ledger)?;
    settlements_of(&rows)
}

pub(super) async fn unresolved(readers: &SqlitePool) -> StoreResult<u64> {
    let row =
        sqlx::query("SELECT count(*) FROM settlements WHERE state IN ('accepted', 'assigned')")
            .fetch_one(readers)
            .await
            .map_err(StoreError::of_ledger)?;
    unsigned(Columns::of(&row).take()?)
}

pub(super) async fn unresolved_settlements(readers: &SqlitePool) -> StoreResult<Vec<Settlement>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        settlement_columns!(""),
        " FROM settlements AS s WHERE s.state IN ('accepted', 'assigned')"
    ))
    .fetch_all(readers)
    .await
    .map_err(StoreError::of_ledger)?;
    settlements_of(&rows)
}

/// Slots and their payments from one snapshot.
pub(super) async fn open_slots(
    readers: &SqlitePool,
    chain: ChainId,
    signer: Address,
) -> StoreResult<Vec<Slot>> {
    let mut snapshot = readers.begin().await.map_err(StoreError::of_ledger)?;
    slots::open_slots(&mut snapshot, chain, signer).await
}

pub(super) async fn events(
    readers: &SqlitePool,
    after: u64,
    tenant: Option<&TenantId>,
    limit: u32,
) -> StoreResult<Vec<SettlementEvent>> {
    let sql = match tenant {
        Some(_) => concat!(
            "SELECT o.sequence, ",
            settlement_columns!(""),
            " FROM outbox AS o JOIN settlements AS s ",
            "ON s.id = o.settlement_id WHERE o.sequence > ?1 AND o.tenant = ?3 ORDER BY o.sequence LIMIT ?2"
        ),
        None => concat!(
            "SELECT o.sequence, ",
            settlement_columns!(""),
            " FROM outbox AS o JOIN settlements AS s ",
            "ON s.id = o.settlement_id WHERE o.sequence > ?1 ORDER BY o.sequence LIMIT ?2"
        ),
    };
    let mut query = sqlx::query(sql)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(i64::from(limit.min(LARGEST_EVENTS)));
    if let Some(tenant) = tenant {
        query = query.bind(tenant.as_str().to_owned());
    }
    let rows = query
        .fetch_all(readers)
        .await
        .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let sequence = unsigned(columns.take()?)?;
            Ok(SettlementEvent {
                sequence,
                settlement: settlement(&mut columns)?,
            })
        })
        .collect()
}

pub(super) async fn last_event(readers: &SqlitePool) -> StoreResult<u64> {
    let row = sqlx::query("SELECT coalesce(max(sequence), 0) FROM outbox")
        .fetch_one(readers)
        .await
        .map_err(StoreError::of_ledger)?;
    unsigned(Columns::of(&row).take()?)
}
