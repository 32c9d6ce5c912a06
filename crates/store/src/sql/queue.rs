//! Payments that are accepted and in no slot: who has them queued, and how they end there. A part of each ledger.

use alloy_primitives::Address;
use teller_domain::{BlockRef, ChainId, FencedLane, ProcessId, Settlement, SettlementId, TenantId};

use super::dialect::{
    self, Connection, at_most, clock, for_update, ids, in_ids, in_texts, settlement_columns,
    skip_locked, texts,
};
use super::slots::{expect_epoch, ids_of};
use crate::resolving::Outcome;
use crate::rows::{Columns, settlement, signed, unsigned, word};
use crate::{Milestone, StoreError, StoreResult, Wanted};

/// How many payments one claim takes at most.
const LARGEST_CLAIM: u32 = 2_000;

/// See [`crate::Ledger::is_first`].
pub(super) async fn is_first(
    connection: &mut Connection,
    milestone: Milestone,
) -> StoreResult<bool> {
    sqlx::query(concat!(
        "INSERT INTO milestones (name, reached_at) SELECT $1, ms FROM ",
        clock!(),
        " WHERE true ON CONFLICT (name) DO NOTHING"
    ))
    .bind(milestone.as_str())
    .execute(connection)
    .await
    .map(|done| done.rows_affected() > 0)
    .map_err(StoreError::of_ledger)
}

/// Writes a row of its own, anew each time: whoever may read may not be able to write.
pub(super) async fn probe(connection: &mut Connection) -> StoreResult<()> {
    sqlx::query(concat!(
        "INSERT INTO milestones (name, reached_at) SELECT 'probed', ms FROM ",
        clock!(),
        " WHERE true ON CONFLICT (name) DO UPDATE SET reached_at = excluded.reached_at"
    ))
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

pub(super) async fn withdraw(connection: &mut Connection, id: SettlementId) -> StoreResult<bool> {
    sqlx::query(concat!(
        "UPDATE settlements SET state = 'withdrawn', updated_at = ms FROM ",
        clock!(),
        " WHERE id = $1 AND state = 'accepted' AND tries = 0"
    ))
    .bind(id.0)
    .execute(connection)
    .await
    .map(|done| done.rows_affected() > 0)
    .map_err(StoreError::of_ledger)
}

/// See [`crate::Ledger::resolve_accepted`].
pub(super) async fn resolve_accepted(
    connection: &mut Connection,
    fence: FencedLane,
    outcomes: Vec<Outcome>,
) -> StoreResult<Vec<SettlementId>> {
    expect_epoch(connection, fence).await?;
    dialect::resolve_accepted(connection, fence.chain, &outcomes).await
}

/// See [`crate::Ledger::resolve_unexplained`].
pub(super) async fn resolve_unexplained(
    connection: &mut Connection,
    fence: FencedLane,
    outcomes: Vec<Outcome>,
) -> StoreResult<Vec<SettlementId>> {
    expect_epoch(connection, fence).await?;
    dialect::resolve_unexplained(connection, fence, &outcomes).await
}

/// Payments of a lane's closed slots that are unexplained, with the blocks that closed those slots.
pub(super) async fn unexplained(
    connection: &mut Connection,
    chain: ChainId,
    signer: Address,
) -> StoreResult<Vec<(SettlementId, BlockRef)>> {
    let rows = sqlx::query(
        "SELECT s.id, x.block_number, x.block_hash FROM settlements AS s JOIN slots AS x \
         ON x.chain_id = s.chain_id AND x.signer = s.slot_signer AND x.nonce = s.slot_nonce \
         WHERE s.chain_id = $1 AND s.state IN ('accepted', 'assigned', 'preconfirmed', 'unexplained') \
         AND s.state = 'unexplained' AND s.slot_signer = $2 AND x.state = 'closed' ORDER BY s.id",
    )
    .bind(signed(chain.0, "a chain id")?)
    .bind(signer.to_vec())
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let id = SettlementId(columns.take()?);
            let number = unsigned(columns.take()?)?;
            let hash = word(&columns.take::<Vec<u8>>()?)?;
            Ok((id, BlockRef { number, hash }))
        })
        .collect()
}

/// See [`crate::Ledger::claim_accepted`]. Both conditions on the state: the first is the partial index's own.
pub(super) async fn claim_accepted(
    connection: &mut Connection,
    chain: ChainId,
    owner: ProcessId,
    limit: u32,
    wanted: Wanted,
) -> StoreResult<Vec<Settlement>> {
    let (late, stopped) = match wanted {
        Wanted::All => (None, Vec::new()),
        Wanted::Late(moment) => (Some(moment), Vec::new()),
        Wanted::AllBut(tenants, _) if tenants.is_empty() => (None, Vec::new()),
        Wanted::AllBut(tenants, moment) => (Some(moment), tenants),
    };
    let stopped: Vec<String> = stopped.iter().map(TenantId::to_string).collect();
    let rows = sqlx::query(concat!(
        "WITH free AS MATERIALIZED (SELECT f.id AS free_id FROM settlements AS f WHERE f.chain_id = $1 ",
        "AND f.state IN ('accepted', 'assigned', 'preconfirmed', 'unexplained') AND f.state = 'accepted' ",
        "AND (f.queued_by IS NULL OR f.queued_by = $2 OR f.queued_by NOT IN ",
        "(SELECT p.id FROM processes AS p, ", clock!(), " WHERE p.lease_until > ms)) ",
        "AND ($4 IS NULL OR ", at_most!("f.valid_before", "$4"), " OR ($5 AND NOT f.tenant ", in_texts!("$6"), ")) ",
        // Only its facilitator can settle an `upto` payment; anybody may end one that is late.
        "AND (f.facilitator IS NULL OR f.facilitator IN ",
        "(SELECT l.signer FROM lanes AS l WHERE l.chain_id = $1 AND l.owner = $2) ",
        "OR ($4 IS NOT NULL AND ", at_most!("f.valid_before", "$4"), ")) ORDER BY f.id LIMIT $3",
        for_update!("f"), skip_locked!(), ") ",
        "UPDATE settlements AS s SET queued_by = $2 FROM free WHERE s.id = free_id AND s.state = 'accepted' ",
        "RETURNING id",
    ))
    .bind(signed(chain.0, "a chain id")?)
    .bind(owner.0)
    .bind(i64::from(limit.min(LARGEST_CLAIM)))
    .bind(late.map(|moment| moment.0.to_string()))
    .bind(!stopped.is_empty())
    .bind(texts(stopped))
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let claimed = ids_of(&rows)?;
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(concat!(
        "SELECT ",
        settlement_columns!(),
        " FROM settlements AS s WHERE s.id ",
        in_ids!("$1"),
        " ORDER BY s.id"
    ))
    .bind(ids(&claimed))
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| settlement(&mut Columns::of(row)))
        .collect()
}

/// See [`crate::Ledger::release_accepted`].
pub(super) async fn release_accepted(
    connection: &mut Connection,
    owner: ProcessId,
    released: Vec<SettlementId>,
) -> StoreResult<()> {
    let rows = sqlx::query(concat!(
        "SELECT s.id FROM settlements AS s WHERE s.id ",
        in_ids!("$1"),
        " AND s.state = 'accepted' AND s.queued_by = $2 ORDER BY s.id",
        for_update!("s"),
    ))
    .bind(ids(&released))
    .bind(owner.0)
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let queued = ids_of(&rows)?;
    sqlx::query(concat!(
        "UPDATE settlements SET queued_by = NULL WHERE id ",
        in_ids!("$1")
    ))
    .bind(ids(&queued))
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

/// See [`crate::Ledger::release_queue`]. Both conditions on the state: the first is the partial index's own.
pub(super) async fn release_queue(
    connection: &mut Connection,
    chain: ChainId,
    owner: ProcessId,
) -> StoreResult<()> {
    let rows = sqlx::query(concat!(
        "SELECT s.id FROM settlements AS s WHERE s.chain_id = $1 ",
        "AND s.state IN ('accepted', 'assigned', 'preconfirmed', 'unexplained') AND s.state = 'accepted' AND s.queued_by = $2 ",
        "ORDER BY s.id",
        for_update!("s"),
        skip_locked!(),
    ))
    .bind(signed(chain.0, "a chain id")?)
    .bind(owner.0)
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let queued = ids_of(&rows)?;
    if queued.is_empty() {
        return Ok(());
    }
    release_accepted(connection, owner, queued).await
}
