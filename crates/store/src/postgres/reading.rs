//! What readers ask. Each call sees everything that was committed before it.

use alloy_primitives::Address;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres};
use teller_domain::{ChainId, Settlement, SettlementId, Slot, TenantId, UnixMillis};

use super::{hot, slots};
use crate::rows::{Columns, settlement, settlement_columns, signed, unsigned};
use crate::{SettlementEvent, SettlementPage, SettlementQuery, StoreError, StoreResult, listing};

/// How many events one call answers at most.
const LARGEST_EVENTS: u32 = 1_000;

fn settlements_of(rows: &[PgRow]) -> StoreResult<Vec<Settlement>> {
    rows.iter()
        .map(|row| settlement(&mut Columns::of(row)))
        .collect()
}

pub(super) async fn now(pool: &PgPool) -> StoreResult<UnixMillis> {
    let row = sqlx::query(concat!("SELECT ms FROM ", hot::clock!()))
        .fetch_one(pool)
        .await
        .map_err(StoreError::of_ledger)?;
    Ok(UnixMillis(unsigned(Columns::of(&row).take()?)?))
}

pub(super) async fn settlements(
    pool: &PgPool,
    ids: &[SettlementId],
) -> StoreResult<Vec<Settlement>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        settlement_columns!("::text"),
        " FROM settlements AS s WHERE s.id = ANY($1)"
    ))
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(pool)
    .await
    .map_err(StoreError::of_ledger)?;
    settlements_of(&rows)
}

pub(super) async fn list(pool: &PgPool, query: &SettlementQuery) -> StoreResult<SettlementPage> {
    let select = concat!(
        "SELECT ",
        settlement_columns!("::text"),
        " FROM settlements AS s"
    );
    let rows = listing::list::<Postgres>(select, query)?
        .build()
        .fetch_all(pool)
        .await
        .map_err(StoreError::of_ledger)?;
    let mut settlements = settlements_of(&rows)?;
    let size = listing::page_size(query);
    let more = settlements.len() > size;
    settlements.truncate(size);
    Ok(SettlementPage { settlements, more })
}

pub(super) async fn accepted(pool: &PgPool, chain: ChainId) -> StoreResult<Vec<Settlement>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        settlement_columns!("::text"),
        " FROM settlements AS s ",
        "WHERE s.state = 'accepted' AND s.chain_id = $1 ORDER BY s.id"
    ))
    .bind(signed(chain.0, "a chain id")?)
    .fetch_all(pool)
    .await
    .map_err(StoreError::of_ledger)?;
    settlements_of(&rows)
}

pub(super) async fn unresolved(pool: &PgPool) -> StoreResult<u64> {
    let row =
        sqlx::query("SELECT count(*) FROM settlements WHERE state IN ('accepted', 'assigned')")
            .fetch_one(pool)
            .await
            .map_err(StoreError::of_ledger)?;
    unsigned(Columns::of(&row).take()?)
}

pub(super) async fn unresolved_settlements(pool: &PgPool) -> StoreResult<Vec<Settlement>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        settlement_columns!("::text"),
        " FROM settlements AS s WHERE s.state IN ('accepted', 'assigned')"
    ))
    .fetch_all(pool)
    .await
    .map_err(StoreError::of_ledger)?;
    settlements_of(&rows)
}

/// Slots and their payments from one snapshot.
pub(super) async fn open_slots(
    pool: &PgPool,
    chain: ChainId,
    signer: Address,
) -> StoreResult<Vec<Slot>> {
    let mut snapshot = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(StoreError::of_ledger)?;
    slots::open_slots(&mut snapshot, chain, signer).await
}

pub(super) async fn events(
    pool: &PgPool,
    after: u64,
    tenant: Option<&TenantId>,
    limit: u32,
) -> StoreResult<Vec<SettlementEvent>> {
    let sql = match tenant {
        Some(_) => concat!(
            "SELECT o.sequence, ",
            settlement_columns!("::text"),
            " FROM outbox AS o JOIN settlements AS s ",
            "ON s.id = o.settlement_id WHERE o.sequence > $1 AND o.tenant = $3 ORDER BY o.sequence LIMIT $2"
        ),
        None => concat!(
            "SELECT o.sequence, ",
            settlement_columns!("::text"),
            " FROM outbox AS o JOIN settlements AS s ",
            "ON s.id = o.settlement_id WHERE o.sequence > $1 ORDER BY o.sequence LIMIT $2"
        ),
    };
    let mut query = sqlx::query(sql)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(i64::from(limit.min(LARGEST_EVENTS)));
    if let Some(tenant) = tenant {
        query = query.bind(tenant.as_str().to_owned());
    }
    let rows = query.fetch_all(pool).await.map_err(StoreError::of_ledger)?;
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

pub(super) async fn last_event(pool: &PgPool) -> StoreResult<u64> {
    let row = sqlx::query("SELECT coalesce(max(sequence), 0) FROM outbox")
        .fetch_one(pool)
        .await
        .map_err(StoreError::of_ledger)?;
    unsigned(Columns::of(&row).take()?)
}

pub(super) async fn signers(pool: &PgPool, chain: ChainId) -> StoreResult<Vec<Address>> {
    let mut connection = pool.acquire().await.map_err(StoreError::of_ledger)?;
    slots::signers(&mut connection, chain).await
}
