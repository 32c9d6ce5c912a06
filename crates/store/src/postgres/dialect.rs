//! What the calls in `crate::sql`, which both ledgers make in the same words, find different here.

use alloy_primitives::B256;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder, Transaction};
use teller_domain::{ChainId, FencedLane, SettlementId, TenantId, UnixMillis, Wei};
use uuid::Uuid;

use super::hot::clock as clock_here;
use crate::resolving::Outcome;
use crate::rows::{Columns, StateColumns, read, signed};
use crate::{SearchWords, Spending, StoreError, StoreResult};

pub(super) type Db = Postgres;
pub(super) type Connection = PgConnection;
pub(super) type Pool = PgPool;
pub(super) type DbRow = PgRow;

pub(super) use super::hot::clock;

/// A decimal column as text.
macro_rules! text {
    ($column:literal) => {
        concat!($column, "::text")
    };
}
/// A text parameter as a decimal.
macro_rules! numeric {
    ($parameter:literal) => {
        concat!($parameter, "::numeric")
    };
}
/// Whether a decimal column is at most a text parameter.
macro_rules! at_most {
    ($column:literal, $parameter:literal) => {
        concat!($column, " <= ", $parameter, "::numeric")
    };
}
/// Is one of [`ids`].
macro_rules! in_ids {
    ($parameter:literal) => {
        concat!("= ANY(", $parameter, ")")
    };
}
/// Is one of [`numbers`].
macro_rules! in_numbers {
    ($parameter:literal) => {
        concat!("= ANY(", $parameter, ")")
    };
}
/// Is one of [`texts`].
macro_rules! in_texts {
    ($parameter:literal) => {
        concat!("= ANY(", $parameter, ")")
    };
}
/// The settlements of [`ids`] with their places, from 0.
macro_rules! places {
    ($parameter:literal) => {
        concat!(
            "(SELECT position - 1 AS place, id FROM UNNEST(",
            $parameter,
            ") WITH ORDINALITY AS r (id, position)) AS r"
        )
    };
}
macro_rules! for_update {
    ($alias:literal) => {
        concat!(" FOR UPDATE OF ", $alias)
    };
}
/// Which index serves a query: the planner knows.
macro_rules! indexed_by {
    ($index:literal) => {
        ""
    };
}
macro_rules! skip_locked {
    () => {
        " SKIP LOCKED"
    };
}
macro_rules! settlement_columns {
    () => {
        $crate::rows::settlement_columns!("::text")
    };
}
macro_rules! attempt_columns {
    () => {
        $crate::rows::attempt_columns!("::text", "a.raw")
    };
}
macro_rules! attempt_columns_without_raw {
    () => {
        $crate::rows::attempt_columns!("::text", "''::bytea")
    };
}
/// What a search of the catalogue reads beside it.
macro_rules! search_source {
    () => {
        ""
    };
}
pub(super) use {
    at_most, attempt_columns, attempt_columns_without_raw, for_update, in_ids, in_numbers,
    in_texts, indexed_by, numeric, places, search_source, settlement_columns, skip_locked, text,
};

/// Beginnings of words, every one of them or any, as a tsquery.
pub(super) fn searched(words: &SearchWords, every: bool) -> String {
    let between = if every { " & " } else { " | " };
    words.joined(|word| format!("'{word}':*"), between)
}

/// A resource has what is [`searched`].
pub(super) fn search_condition(sql: &mut QueryBuilder<Db>, searched: String) {
    sql.push("r.lexemes @@ ")
        .push_bind(searched)
        .push("::tsquery");
}

/// Best first.
pub(super) fn search_order(sql: &mut QueryBuilder<Db>, searched: String) {
    sql.push("ts_rank(r.lexemes, ")
        .push_bind(searched)
        .push("::tsquery) DESC, ");
}

/// A parameter for `in_ids!`.
pub(super) fn ids(ids: &[SettlementId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

/// A parameter for `in_texts!`.
pub(super) fn texts(texts: Vec<String>) -> Vec<String> {
    texts
}

/// A parameter for `in_numbers!`.
pub(super) fn numbers(numbers: &[i64]) -> Vec<i64> {
    numbers.to_vec()
}

/// Everything that is read in it is from one moment.
pub(super) async fn snapshot(pool: &Pool) -> StoreResult<Transaction<'static, Db>> {
    pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(StoreError::of_ledger)
}

/// Whether this process is the one that prunes.
pub(super) async fn prunes_alone(connection: &mut Connection) -> StoreResult<bool> {
    sqlx::query_scalar::<_, bool>(
        "SELECT pg_try_advisory_xact_lock(hashtext(current_schema() || '.pruning'))",
    )
    .fetch_one(connection)
    .await
    .map_err(StoreError::of_ledger)
}

/// Rows are locked in one order by everybody, so that nobody waits in a circle.
macro_rules! resolve {
    ($condition:literal) => {
        concat!(
            "WITH locked AS (SELECT s.id FROM settlements AS s WHERE s.id = ANY($1) ORDER BY s.id FOR UPDATE) ",
            "UPDATE settlements AS s SET state = r.state, ",
            "slot_signer = CASE WHEN r.state = 'unexplained' THEN s.slot_signer END, ",
            "slot_nonce = CASE WHEN r.state = 'unexplained' THEN s.slot_nonce END, ",
            "transaction_hash = r.transaction, reason = r.reason, detail = r.detail, block_number = r.block_number, ",
            "block_hash = r.block_hash, log_index = r.log_index, level = r.level, gas_used = r.gas_used, ",
            "cost = r.cost::numeric, updated_at = ms FROM ", clock_here!(), ", UNNEST($1::uuid[], $2::text[], ",
            "$3::bytea[], $4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::bigint[], $9::text[], $10::bigint[], ",
            "$11::text[], $12::boolean[]) AS r (id, state, transaction, reason, detail, block_number, block_hash, ",
            "log_index, level, gas_used, cost, revived) JOIN locked ON locked.id = r.id ",
            "WHERE s.id = r.id AND s.chain_id = $13 AND ", $condition, " RETURNING s.id"
        )
    };
}

/// Writes the outcomes of accepted payments; answers those that were accepted.
pub(super) async fn resolve_accepted(
    connection: &mut Connection,
    chain: ChainId,
    outcomes: &[Outcome],
) -> StoreResult<Vec<SettlementId>> {
    let query = Resolutions::of(outcomes)?
        .bind(sqlx::query(resolve!("s.state = 'accepted'")))
        .bind(signed(chain.0, "a chain id")?);
    changed(connection, query).await
}

/// Writes what became of unexplained payments of a lane; answers those that were.
pub(super) async fn resolve_unexplained(
    connection: &mut Connection,
    fence: FencedLane,
    outcomes: &[Outcome],
) -> StoreResult<Vec<SettlementId>> {
    let query = Resolutions::of(outcomes)?
        .bind(sqlx::query(resolve!(
            "s.state = 'unexplained' AND s.slot_signer = $14"
        )))
        .bind(signed(fence.chain.0, "a chain id")?)
        .bind(fence.signer.to_vec());
    changed(connection, query).await
}

/// Writes the outcomes of a slot's payments; answers those that were in it, or had ended in it if they are revived.
pub(super) async fn resolve_slot(
    connection: &mut Connection,
    (chain, signer, nonce): (i64, &[u8], i64),
    outcomes: &[Outcome],
) -> StoreResult<Vec<SettlementId>> {
    let query = Resolutions::of(outcomes)?
        .bind(sqlx::query(resolve!(
            "CASE WHEN r.revived \
             THEN s.state IN ('failed', 'expired') AND s.last_slot_signer = $14 AND s.last_slot_nonce = $15 \
             ELSE s.state IN ('assigned', 'preconfirmed') AND s.slot_signer = $14 AND s.slot_nonce = $15 END"
        )))
        .bind(chain)
        .bind(signer.to_vec())
        .bind(nonce);
    changed(connection, query).await
}

async fn changed(
    connection: &mut Connection,
    query: Query<'_, Postgres, PgArguments>,
) -> StoreResult<Vec<SettlementId>> {
    let rows = query
        .fetch_all(connection)
        .await
        .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| Columns::of(row).take().map(SettlementId))
        .collect()
}

/// Outcomes as columns.
#[derive(Default)]
struct Resolutions {
    ids: Vec<Uuid>,
    states: Vec<String>,
    transactions: Vec<Option<Vec<u8>>>,
    reasons: Vec<Option<String>>,
    details: Vec<Option<String>>,
    block_numbers: Vec<Option<i64>>,
    block_hashes: Vec<Option<Vec<u8>>>,
    log_indices: Vec<Option<i64>>,
    levels: Vec<Option<String>>,
    gas: Vec<Option<i64>>,
    costs: Vec<Option<String>>,
    revived: Vec<bool>,
}

impl Resolutions {
    fn of(outcomes: &[Outcome]) -> StoreResult<Self> {
        let mut resolutions = Self::default();
        for outcome in outcomes {
            let columns = StateColumns::of(&outcome.state)?;
            resolutions.ids.push(outcome.id.0);
            resolutions.states.push(columns.state);
            resolutions.transactions.push(columns.transaction);
            resolutions.reasons.push(columns.reason);
            resolutions.details.push(columns.detail);
            resolutions.block_numbers.push(columns.block_number);
            resolutions.block_hashes.push(columns.block_hash);
            resolutions.log_indices.push(columns.log_index);
            resolutions.levels.push(columns.level);
            resolutions.gas.push(columns.gas_used);
            resolutions.costs.push(columns.cost);
            resolutions.revived.push(outcome.revived);
        }
        Ok(resolutions)
    }

    /// `$1` to `$12` of `resolve!`.
    fn bind<'q>(self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments> {
        query
            .bind(self.ids)
            .bind(self.states)
            .bind(self.transactions)
            .bind(self.reasons)
            .bind(self.details)
            .bind(self.block_numbers)
            .bind(self.block_hashes)
            .bind(self.log_indices)
            .bind(self.levels)
            .bind(self.gas)
            .bind(self.costs)
            .bind(self.revived)
    }
}

/// The rows are locked already.
pub(super) async fn write_preconfirmed(
    connection: &mut Connection,
    transaction: B256,
    payments: &[(SettlementId, i64)],
) -> StoreResult<()> {
    sqlx::query(concat!(
        "UPDATE settlements AS s SET state = 'preconfirmed', transaction_hash = $1, log_index = r.log_index, ",
        "level = 'preconfirmed', updated_at = ms FROM ", clock_here!(), ", ",
        "UNNEST($2::uuid[], $3::bigint[]) AS r (id, log_index) WHERE s.id = r.id",
    ))
    .bind(transaction.to_vec())
    .bind(payments.iter().map(|(id, _)| id.0).collect::<Vec<Uuid>>())
    .bind(payments.iter().map(|(_, index)| *index).collect::<Vec<i64>>())
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

/// See [`crate::Ledger::spending`].
pub(super) async fn spending(
    connection: &mut Connection,
    chain: ChainId,
    since: UnixMillis,
) -> StoreResult<Spending> {
    let (chain, since) = (signed(chain.0, "a chain id")?, signed(since.0, "a moment")?);
    let row = sqlx::query(
        "SELECT coalesce(sum(cost), 0)::text FROM slots WHERE chain_id = $1 AND closed_at >= $2",
    )
    .bind(chain)
    .bind(since)
    .fetch_one(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let total: Wei = read(&Columns::of(&row).take::<String>()?, "cost")?;
    let rows = sqlx::query(
        "SELECT s.tenant, sum(s.cost)::text FROM slots AS x JOIN slot_payments AS p USING (chain_id, signer, nonce) \
         JOIN settlements AS s ON s.id = p.settlement_id AND s.transaction_hash = x.transaction_hash \
         WHERE x.chain_id = $1 AND x.closed_at >= $2 AND s.state = 'settled' GROUP BY s.tenant ORDER BY s.tenant",
    )
    .bind(chain)
    .bind(since)
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let given = sqlx::query(
        "SELECT coalesce(sum(value), 0)::text FROM top_ups WHERE chain_id = $1 AND opened_at >= $2",
    )
    .bind(chain)
    .bind(since)
    .fetch_one(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let top_ups: Wei = read(&Columns::of(&given).take::<String>()?, "value")?;
    let tenants = rows
        .iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let tenant = TenantId::new(&columns.take::<String>()?);
            Ok((tenant, read(&columns.take::<String>()?, "cost")?))
        })
        .collect::<StoreResult<Vec<_>>>()?;
    Ok(Spending {
        total,
        tenants,
        top_ups,
    })
}
