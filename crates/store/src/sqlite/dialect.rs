//! What the calls in `crate::sql`, which both ledgers make in the same words, find different here.

use std::collections::BTreeMap;

use alloy_primitives::{B256, U256, hex};
use futures::TryStreamExt;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, SqlitePool, Transaction};
use teller_domain::{ChainId, FencedLane, SettlementId, TenantId, UnixMillis, Wei};

use super::hot::{clock as clock_here, ids_json};
use crate::resolving::Outcome;
use crate::rows::{Columns, StateColumns, read, signed};
use crate::{SearchWords, Spending, StoreError, StoreResult};

pub(super) type Db = Sqlite;
pub(super) type Connection = SqliteConnection;
pub(super) type Pool = SqlitePool;
pub(super) type DbRow = SqliteRow;

pub(super) use super::hot::clock;

/// A decimal column as text: it is text.
macro_rules! text {
    ($column:literal) => {
        $column
    };
}
/// A text parameter as a decimal.
macro_rules! numeric {
    ($parameter:literal) => {
        $parameter
    };
}
/// Whether a decimal column is at most a text parameter: neither has leading zeros.
macro_rules! at_most {
    ($column:literal, $parameter:literal) => {
        concat!(
            "(length(",
            $column,
            "), ",
            $column,
            ") <= (length(",
            $parameter,
            "), ",
            $parameter,
            ")"
        )
    };
}
/// Is one of [`ids`].
macro_rules! in_ids {
    ($parameter:literal) => {
        concat!("IN (SELECT unhex(value) FROM json_each(", $parameter, "))")
    };
}
/// Is one of [`numbers`].
macro_rules! in_numbers {
    ($parameter:literal) => {
        concat!("IN (SELECT value FROM json_each(", $parameter, "))")
    };
}
/// Is one of [`texts`].
macro_rules! in_texts {
    ($parameter:literal) => {
        concat!("IN (SELECT value FROM json_each(", $parameter, "))")
    };
}
/// The settlements of [`ids`] with their places, from 0.
macro_rules! places {
    ($parameter:literal) => {
        concat!(
            "(SELECT key AS place, unhex(value) AS id FROM json_each(",
            $parameter,
            ")) AS r"
        )
    };
}
/// One connection writes: there is nobody to lock rows against.
macro_rules! for_update {
    ($alias:literal) => {
        ""
    };
}
/// Which index serves a query. Without statistics the planner prefers the primary key, and with it all of history. For
/// the same reason joins from few slots to their payments are written `CROSS JOIN`, which keeps their order.
macro_rules! indexed_by {
    ($index:literal) => {
        concat!(" INDEXED BY ", $index)
    };
}
macro_rules! skip_locked {
    () => {
        ""
    };
}
macro_rules! settlement_columns {
    () => {
        $crate::rows::settlement_columns!("")
    };
}
macro_rules! attempt_columns {
    () => {
        $crate::rows::attempt_columns!("", "a.raw")
    };
}
macro_rules! attempt_columns_without_raw {
    () => {
        $crate::rows::attempt_columns!("", "x''")
    };
}
/// What a search of the catalogue reads beside it.
macro_rules! search_source {
    () => {
        " JOIN discovery_words ON discovery_words.rowid = r.id"
    };
}
pub(super) use {
    at_most, attempt_columns, attempt_columns_without_raw, for_update, in_ids, in_numbers,
    in_texts, indexed_by, numeric, places, search_source, settlement_columns, skip_locked, text,
};

/// Beginnings of words, every one of them or any, as FTS5 reads them.
pub(super) fn searched(words: &SearchWords, every: bool) -> String {
    let between = if every { " AND " } else { " OR " };
    words.joined(|word| format!("\"{word}\"*"), between)
}

/// A resource has what is [`searched`].
pub(super) fn search_condition(sql: &mut QueryBuilder<Db>, searched: String) {
    sql.push("discovery_words MATCH ").push_bind(searched);
}

/// Best first.
pub(super) fn search_order(sql: &mut QueryBuilder<Db>, _: String) {
    sql.push("discovery_words.rank, ");
}

/// A parameter for `in_ids!`.
pub(super) fn ids(ids: &[SettlementId]) -> String {
    ids_json(ids)
}

/// A parameter for `in_texts!`.
pub(super) fn texts(texts: Vec<String>) -> String {
    Value::from(texts).to_string()
}

/// A parameter for `in_numbers!`.
pub(super) fn numbers(numbers: &[i64]) -> String {
    Value::from(numbers).to_string()
}

/// Everything that is read in it is from one moment.
pub(super) async fn snapshot(pool: &Pool) -> StoreResult<Transaction<'static, Db>> {
    pool.begin().await.map_err(StoreError::of_ledger)
}

/// Whether this process is the one that prunes: there is no other.
pub(super) async fn prunes_alone(_: &mut Connection) -> StoreResult<bool> {
    Ok(true)
}

macro_rules! resolve {
    ($condition:literal) => {
        concat!(
            "UPDATE settlements AS s SET state = j.value->>1, ",
            "slot_signer = CASE WHEN j.value->>1 = 'unexplained' THEN s.slot_signer END, ",
            "slot_nonce = CASE WHEN j.value->>1 = 'unexplained' THEN s.slot_nonce END, ",
            "transaction_hash = unhex(j.value->>2), reason = j.value->>3, detail = j.value->>4, ",
            "block_number = j.value->>5, block_hash = unhex(j.value->>6), log_index = j.value->>7, ",
            "level = j.value->>8, gas_used = j.value->>9, cost = j.value->>10, updated_at = ms ",
            "FROM json_each($1) AS j, ", clock_here!(), " ",
            "WHERE s.id = unhex(j.value->>0) AND s.chain_id = $2 AND ", $condition, " RETURNING id"
        )
    };
}

/// Writes the outcomes of accepted payments; answers those that were accepted.
pub(super) async fn resolve_accepted(
    connection: &mut Connection,
    chain: ChainId,
    outcomes: &[Outcome],
) -> StoreResult<Vec<SettlementId>> {
    let rows = sqlx::query(resolve!("s.state = 'accepted'"))
        .bind(rows(outcomes)?)
        .bind(signed(chain.0, "a chain id")?)
        .fetch_all(connection)
        .await
        .map_err(StoreError::of_ledger)?;
    changed(&rows)
}

/// Writes what became of unexplained payments of a lane; answers those that were.
pub(super) async fn resolve_unexplained(
    connection: &mut Connection,
    fence: FencedLane,
    outcomes: &[Outcome],
) -> StoreResult<Vec<SettlementId>> {
    let rows = sqlx::query(resolve!("s.state = 'unexplained' AND s.slot_signer = $3"))
        .bind(rows(outcomes)?)
        .bind(signed(fence.chain.0, "a chain id")?)
        .bind(fence.signer.to_vec())
        .fetch_all(connection)
        .await
        .map_err(StoreError::of_ledger)?;
    changed(&rows)
}

/// Writes the outcomes of a slot's payments; answers those that were in it, or had ended in it if they are revived.
pub(super) async fn resolve_slot(
    connection: &mut Connection,
    (chain, signer, nonce): (i64, &[u8], i64),
    outcomes: &[Outcome],
) -> StoreResult<Vec<SettlementId>> {
    let rows = sqlx::query(resolve!(
        "CASE WHEN j.value->>11 \
         THEN s.state IN ('failed', 'expired') AND s.last_slot_signer = $3 AND s.last_slot_nonce = $4 \
         ELSE s.state IN ('assigned', 'preconfirmed') AND s.slot_signer = $3 AND s.slot_nonce = $4 END"
    ))
    .bind(rows(outcomes)?)
    .bind(chain)
    .bind(signer.to_vec())
    .bind(nonce)
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    changed(&rows)
}

fn changed(rows: &[SqliteRow]) -> StoreResult<Vec<SettlementId>> {
    rows.iter()
        .map(|row| Columns::of(row).take().map(SettlementId))
        .collect()
}

/// Outcomes as the array of arrays that `resolve!` reads.
fn rows(outcomes: &[Outcome]) -> StoreResult<String> {
    let rows = outcomes
        .iter()
        .map(|outcome| {
            let columns = StateColumns::of(&outcome.state)?;
            Ok(json!([
                hex::encode(outcome.id.0),
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
                outcome.revived,
            ]))
        })
        .collect::<StoreResult<Vec<Value>>>()?;
    Ok(Value::from(rows).to_string())
}

/// The rows are known to be in the slot.
pub(super) async fn write_preconfirmed(
    connection: &mut Connection,
    transaction: B256,
    payments: &[(SettlementId, i64)],
) -> StoreResult<()> {
    let rows: Vec<Value> = payments
        .iter()
        .map(|(id, index)| json!([hex::encode(id.0), index]))
        .collect();
    sqlx::query(concat!(
        "UPDATE settlements AS s SET state = 'preconfirmed', transaction_hash = $1, log_index = j.value->>1, ",
        "level = 'preconfirmed', updated_at = ms FROM ", clock_here!(), ", json_each($2) AS j ",
        "WHERE s.id = unhex(j.value->>0)",
    ))
    .bind(transaction.to_vec())
    .bind(Value::from(rows).to_string())
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

/// See [`crate::Ledger::spending`]. SQLite's sums are not exact, so the rows are added here.
pub(super) async fn spending(
    connection: &mut Connection,
    chain: ChainId,
    since: UnixMillis,
) -> StoreResult<Spending> {
    let (chain, since) = (signed(chain.0, "a chain id")?, signed(since.0, "a moment")?);
    let mut total = U256::ZERO;
    let mut costs = sqlx::query(
        "SELECT cost FROM slots INDEXED BY slots_by_close WHERE chain_id = $1 AND closed_at >= $2",
    )
    .bind(chain)
    .bind(since)
    .fetch(&mut *connection);
    while let Some(row) = costs.try_next().await.map_err(StoreError::of_ledger)? {
        add(&mut total, &Columns::of(&row).take::<String>()?)?;
    }
    drop(costs);
    let mut tenants: BTreeMap<String, U256> = BTreeMap::new();
    let mut shares = sqlx::query(
        "SELECT s.tenant, s.cost FROM slots AS x INDEXED BY slots_by_close CROSS JOIN slot_payments AS p \
         CROSS JOIN settlements AS s \
         WHERE p.chain_id = x.chain_id AND p.signer = x.signer AND p.nonce = x.nonce AND s.id = p.settlement_id \
         AND s.transaction_hash = x.transaction_hash AND x.chain_id = $1 AND x.closed_at >= $2 AND s.state = 'settled'",
    )
    .bind(chain)
    .bind(since)
    .fetch(&mut *connection);
    while let Some(row) = shares.try_next().await.map_err(StoreError::of_ledger)? {
        let mut columns = Columns::of(&row);
        let sum = tenants.entry(columns.take()?).or_default();
        add(sum, &columns.take::<String>()?)?;
    }
    drop(shares);
    let mut top_ups = U256::ZERO;
    let mut given =
        sqlx::query("SELECT value FROM top_ups WHERE chain_id = $1 AND opened_at >= $2")
            .bind(chain)
            .bind(since)
            .fetch(connection);
    while let Some(row) = given.try_next().await.map_err(StoreError::of_ledger)? {
        add(&mut top_ups, &Columns::of(&row).take::<String>()?)?;
    }
    Ok(Spending {
        top_ups: Wei(top_ups),
        total: Wei(total),
        tenants: tenants
            .into_iter()
            .map(|(tenant, sum)| (TenantId::new(&tenant), Wei(sum)))
            .collect(),
    })
}

fn add(sum: &mut U256, cost: &str) -> StoreResult<()> {
    let cost: Wei = read(cost, "cost")?;
    *sum = sum
        .checked_add(cost.0)
        .ok_or(StoreError::OutOfRange("a sum of costs"))?;
    Ok(())
}
