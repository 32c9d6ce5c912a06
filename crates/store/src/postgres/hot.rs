//! The grouped calls of the hot path: one statement for a whole group, by `UNNEST`.

use std::collections::{HashMap, HashSet};

use futures::future::BoxFuture;
use sqlx::PgConnection;
use teller_domain::{AuthorizationKey, Reason, RequestId, Settlement, SettlementId, UnixMillis};
use uuid::Uuid;

use super::pool::Pool;
use crate::authorizations::AuthorizationColumns;
use crate::claiming::{Claim, refused, tells};
use crate::rows::{
    Columns, StateColumns, accepted, attribution_column, first_state, settlement,
    settlement_columns, signed, unsigned,
};
use crate::{AcceptOutcome, ClaimOutcome, NewSettlement, StoreError, StoreResult};

/// The database's clock, as a subquery named `clock` with the column `ms`.
macro_rules! clock {
    () => {
        "(SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS clock"
    };
}
pub(super) use clock;

/// How often a group is run again that stood in another's way.
const TRIES_AFTER_UNDONE: usize = 3;

/// One kind of grouped call.
pub(super) type Run<I, O> =
    for<'c> fn(&'c mut PgConnection, Vec<I>) -> BoxFuture<'c, StoreResult<Vec<O>>>;

/// Runs a group together. If a row spoils it, each runs alone, so that it fails no neighbour.
pub(super) async fn together<I: Clone, O>(
    pool: Pool,
    requests: Vec<I>,
    run: Run<I, O>,
) -> Vec<StoreResult<O>> {
    let mut outcome = pool.call(|c| run(c, requests.clone())).await;
    for _ in 0..TRIES_AFTER_UNDONE {
        if !matches!(outcome, Err(StoreError::Undone)) {
            break;
        }
        outcome = pool.call(|c| run(c, requests.clone())).await;
    }
    match outcome {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(
            error @ (StoreError::Unavailable { .. }
            | StoreError::Refused { .. }
            | StoreError::ReadOnly { .. }),
        ) => requests.iter().map(|_| Err(error.clone())).collect(),
        Err(error) if requests.len() == 1 => vec![Err(error)],
        Err(_) => {
            let mut answers = Vec::with_capacity(requests.len());
            for request in requests {
                let alone = pool.call(|c| run(c, vec![request])).await;
                answers.push(alone.and_then(|answers| {
                    answers
                        .into_iter()
                        .next()
                        .ok_or_else(|| StoreError::Corrupt("a write went unanswered".to_owned()))
                }));
            }
            answers
        }
    }
}

/// Keys as columns.
#[derive(Default)]
struct Keys {
    chains: Vec<i64>,
    authorities: Vec<Vec<u8>>,
    payers: Vec<Vec<u8>>,
    nonces: Vec<Vec<u8>>,
}

impl Keys {
    fn push(&mut self, key: &AuthorizationKey, chain: i64) {
        self.chains.push(chain);
        self.authorities.push(key.authority.to_vec());
        self.payers.push(key.payer.to_vec());
        self.nonces.push(key.nonce.0.to_vec());
    }
}

/// See [`crate::Ledger::accept`].
pub(super) async fn accept(
    connection: &mut PgConnection,
    requests: Vec<NewSettlement>,
) -> StoreResult<Vec<AcceptOutcome>> {
    // One statement cannot touch a row twice: the first of each authorization goes, in an order that all processes
    // share so that they never wait for each other in a circle.
    let mut seen = HashSet::new();
    let mut first: Vec<&NewSettlement> = requests
        .iter()
        .filter(|request| seen.insert(request.payment.key))
        .collect();
    first.sort_by_key(|request| request.payment.key);
    let mut new = insert(connection, &first).await?;
    let known: Vec<AuthorizationKey> = requests
        .iter()
        .filter(|request| !new.contains_key(&request.id))
        .map(|request| request.payment.key)
        .collect();
    // What was inserted is committed, whatever becomes of the rest.
    let inserted = !new.is_empty();
    let known = find(connection, &known)
        .await
        .map_err(|error| match inserted {
            true => error.after_commit(),
            false => error,
        })?;
    requests
        .iter()
        .map(|request| match new.remove(&request.id) {
            Some(at) => Ok(AcceptOutcome::Accepted(accepted(request, at))),
            None => known
                .get(&request.payment.key)
                .cloned()
                .map(AcceptOutcome::Exists)
                .ok_or_else(|| StoreError::Conflict {
                    row: format!("settlement {}", request.id),
                    expected: "new",
                }),
        })
        .collect()
}

async fn insert(
    connection: &mut PgConnection,
    requests: &[&NewSettlement],
) -> StoreResult<HashMap<SettlementId, UnixMillis>> {
    let mut keys = Keys::default();
    for request in requests {
        let key = &request.payment.key;
        keys.push(key, signed(key.chain.0, "a chain id")?);
    }
    let column = |read: fn(&NewSettlement) -> Vec<u8>| -> Vec<Vec<u8>> {
        requests.iter().map(|request| read(request)).collect()
    };
    let text = |read: fn(&NewSettlement) -> String| -> Vec<String> {
        requests.iter().map(|request| read(request)).collect()
    };
    let authorizations: Vec<AuthorizationColumns> = requests
        .iter()
        .map(|request| AuthorizationColumns::of(&request.payment.authorization))
        .collect();
    let states = requests
        .iter()
        .map(|request| StateColumns::of(&first_state(&request.payment)))
        .collect::<StoreResult<Vec<StateColumns>>>()?;
    let inserted = sqlx::query(concat!(
        "INSERT INTO settlements AS s (id, tenant, version, chain_id, authority, payer, nonce, asset, payee, value, ",
        "valid_after, valid_before, authorization_kind, signature_kind, signature, factory, factory_calldata, ",
        "permitted, facilitator, token_permit, digest, queued_by, state, transaction_hash, block_number, block_hash, ",
        "log_index, level, gas_used, cost, attribution, token_approval, tries, accepted_at, updated_at) ",
        "SELECT r.id, r.tenant, r.version, r.chain_id, r.authority, r.payer, r.nonce, r.asset, r.payee, ",
        "r.value::numeric, r.valid_after::numeric, r.valid_before::numeric, r.kind, r.signature_kind, r.signature, ",
        "r.factory, r.factory_calldata, r.permitted::numeric, r.facilitator, r.token_permit, r.digest, r.queued_by, ",
        "r.state, r.hash, r.block_number, r.block_hash, r.log_index, r.level, r.gas_used, r.cost::numeric, r.attribution, ",
        "r.token_approval, 0, ms, ms ",
        "FROM ", clock!(), ", UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[], ",
        "$7::bytea[], $8::bytea[], $9::bytea[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], ",
        "$15::bytea[], $16::bytea[], $17::bytea[], $18::text[], $19::bytea[], $20::bytea[], $21::bytea[], ",
        "$22::uuid[], $23::text[], $24::bytea[], $25::bigint[], $26::bytea[], $27::bigint[], $28::text[], ",
        "$29::bigint[], $30::text[], $31::bytea[], $32::bytea[]) AS r (id, tenant, version, chain_id, authority, payer, nonce, asset, payee, ",
        "value, valid_after, valid_before, kind, signature_kind, signature, factory, factory_calldata, permitted, ",
        "facilitator, token_permit, digest, queued_by, state, hash, block_number, block_hash, log_index, level, ",
        "gas_used, cost, attribution, token_approval) ",
        "ON CONFLICT (payer, nonce, chain_id, authority) DO UPDATE SET id = excluded.id, tenant = excluded.tenant, ",
        "version = excluded.version, asset = excluded.asset, payee = excluded.payee, value = excluded.value, ",
        "valid_after = excluded.valid_after, valid_before = excluded.valid_before, ",
        "authorization_kind = excluded.authorization_kind, signature_kind = excluded.signature_kind, ",
        "signature = excluded.signature, factory = excluded.factory, factory_calldata = excluded.factory_calldata, ",
        "permitted = excluded.permitted, facilitator = excluded.facilitator, token_permit = excluded.token_permit, ",
        "digest = excluded.digest, queued_by = excluded.queued_by, state = excluded.state, ",
        "transaction_hash = excluded.transaction_hash, block_number = excluded.block_number, ",
        "block_hash = excluded.block_hash, log_index = excluded.log_index, level = excluded.level, ",
        "gas_used = excluded.gas_used, cost = excluded.cost, attribution = excluded.attribution, ",
        "token_approval = excluded.token_approval, ",
        "accepted_at = excluded.accepted_at, updated_at = excluded.updated_at, told = NULL, ",
        "told_transaction = NULL, told_level = NULL, told_reason = NULL, told_at = NULL, last_slot_signer = NULL, ",
        "last_slot_nonce = NULL WHERE s.state = 'withdrawn' ",
        "RETURNING s.id, s.accepted_at",
    ))
    .bind(requests.iter().map(|request| request.id.0).collect::<Vec<Uuid>>())
    .bind(text(|request| request.tenant.as_str().to_owned()))
    .bind(requests.iter().map(|request| i64::from(request.version.number())).collect::<Vec<i64>>())
    .bind(keys.chains)
    .bind(keys.authorities)
    .bind(keys.payers)
    .bind(keys.nonces)
    .bind(column(|request| request.payment.asset.to_vec()))
    .bind(column(|request| request.payment.payee.to_vec()))
    .bind(text(|request| request.payment.value.to_string()))
    .bind(text(|request| request.payment.validity.valid_after().to_string()))
    .bind(text(|request| request.payment.void_from().to_string()))
    .bind(authorizations.iter().map(|a| a.kind.as_str()).collect::<Vec<_>>())
    .bind(authorizations.iter().map(|a| a.signature_kind.as_str()).collect::<Vec<_>>())
    .bind(authorizations.iter().map(|a| a.signature.as_slice()).collect::<Vec<_>>())
    .bind(authorizations.iter().map(|a| a.factory.as_deref()).collect::<Vec<_>>())
    .bind(authorizations.iter().map(|a| a.factory_calldata.as_deref()).collect::<Vec<_>>())
    .bind(authorizations.iter().map(|a| a.permitted.as_deref()).collect::<Vec<_>>())
    .bind(authorizations.iter().map(|a| a.facilitator.as_deref()).collect::<Vec<_>>())
    .bind(authorizations.iter().map(|a| a.token_permit.as_deref()).collect::<Vec<_>>())
    .bind(column(|request| request.payment.digest().0.to_vec()))
    .bind(requests.iter().map(|request| request.queued_by.map(|process| process.0)).collect::<Vec<Option<Uuid>>>())
    .bind(states.iter().map(|state| state.state.as_str()).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.transaction.as_deref()).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.block_number).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.block_hash.as_deref()).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.log_index).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.level.as_deref()).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.gas_used).collect::<Vec<_>>())
    .bind(states.iter().map(|state| state.cost.as_deref()).collect::<Vec<_>>())
    .bind(requests.iter().map(|request| attribution_column(request)).collect::<Vec<Option<Vec<u8>>>>())
    .bind(authorizations.iter().map(|a| a.token_approval.as_deref()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    inserted
        .iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let id = SettlementId(columns.take()?);
            Ok((id, UnixMillis(unsigned(columns.take()?)?)))
        })
        .collect()
}

async fn find(
    connection: &mut PgConnection,
    wanted: &[AuthorizationKey],
) -> StoreResult<HashMap<AuthorizationKey, Settlement>> {
    let mut keys = Keys::default();
    for key in wanted {
        // What the columns cannot hold is not in the ledger either.
        if let Ok(chain) = signed(key.chain.0, "a chain id") {
            keys.push(key, chain);
        }
    }
    if keys.chains.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(concat!(
        "SELECT ", settlement_columns!("::text"), " FROM UNNEST($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[]) ",
        "AS r (chain_id, authority, payer, nonce) JOIN settlements AS s USING (chain_id, authority, payer, nonce)",
    ))
    .bind(keys.chains)
    .bind(keys.authorities)
    .bind(keys.payers)
    .bind(keys.nonces)
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| {
            let found = settlement(&mut Columns::of(row))?;
            Ok((found.payment.key, found))
        })
        .collect()
}

/// See [`crate::Ledger::find`].
pub(super) async fn find_each(
    connection: &mut PgConnection,
    keys: Vec<AuthorizationKey>,
) -> StoreResult<Vec<Option<Settlement>>> {
    let found = find(connection, &keys).await?;
    Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
}

/// One round: distinct settlements; answers those that were not claimed, and whether their success was delivered.
async fn claim_round(
    connection: &mut PgConnection,
    claims: &[Claim],
) -> StoreResult<HashMap<SettlementId, bool>> {
    let mut sorted = claims.to_vec();
    sorted.sort();
    let ids: Vec<Uuid> = sorted.iter().map(|(id, ..)| id.0).collect();
    let hashes: Vec<Vec<u8>> = sorted
        .iter()
        .map(|(.., success)| success.transaction.to_vec())
        .collect();
    let levels: Vec<&str> = sorted
        .iter()
        .map(|(.., success)| success.level.as_str())
        .collect();
    let claimed = sqlx::query(concat!(
        "WITH locked AS (SELECT s.id FROM settlements AS s WHERE s.id = ANY($1) ORDER BY s.id FOR UPDATE), ",
        "alive AS (SELECT id FROM processes, ", clock!(), " WHERE lease_until > ms) ",
        "UPDATE settlements AS s SET delivery_request = r.request, ",
        "delivery_process = CASE WHEN s.delivered_at IS NULL THEN r.process ELSE s.delivery_process END, ",
        "told = 'success', told_transaction = r.hash, told_level = r.level, told_at = ms ",
        "FROM ", clock!(), ", UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::bytea[], $5::text[]) ",
        "AS r (id, request, process, hash, level) JOIN locked ON locked.id = r.id ",
        "WHERE s.id = r.id AND ", tells!("s", "r.hash", "r.level"), " AND ",
        "(s.delivery_request IS NULL OR s.delivery_request = r.request OR ",
        "(s.delivered_at IS NULL AND s.delivery_process NOT IN (SELECT id FROM alive))) RETURNING s.id",
    ))
    .bind(&ids)
    .bind(sorted.iter().map(|(_, request, ..)| request.0).collect::<Vec<Uuid>>())
    .bind(sorted.iter().map(|(_, _, process, _)| process.0).collect::<Vec<Uuid>>())
    .bind(&hashes)
    .bind(&levels)
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let claimed = ids_of(&claimed)?;
    if claimed.len() == claims.len() {
        return Ok(HashMap::new());
    }
    let settled = sqlx::query(concat!(
        "SELECT s.id, s.delivered_at IS NOT NULL FROM settlements AS s ",
        "JOIN UNNEST($1::uuid[], $2::bytea[], $3::text[]) AS r (id, hash, level) ON s.id = r.id WHERE ",
        tells!("s", "r.hash", "r.level"),
    ))
    .bind(&ids)
    .bind(&hashes)
    .bind(&levels)
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    refused(claims, &claimed, &settled)
}

fn ids_of(rows: &[sqlx::postgres::PgRow]) -> StoreResult<HashSet<SettlementId>> {
    rows.iter()
        .map(|row| Columns::of(row).take().map(SettlementId))
        .collect()
}

/// See [`crate::Ledger::claim_delivery`].
pub(super) async fn claim(
    connection: &mut PgConnection,
    claims: Vec<Claim>,
) -> StoreResult<Vec<ClaimOutcome>> {
    let mut rounds = crate::claiming::Rounds::of(claims);
    while let Some(round) = rounds.next_round() {
        let refused = claim_round(connection, &round)
            .await
            // An earlier statement may have claimed some.
            .map_err(StoreError::after_commit)?;
        rounds.answer(&round, &refused);
    }
    Ok(rounds.outcomes())
}

/// See [`crate::Ledger::confirm_delivery`].
pub(super) async fn confirm(
    connection: &mut PgConnection,
    deliveries: Vec<(SettlementId, RequestId)>,
) -> StoreResult<Vec<()>> {
    let mut sorted = deliveries.clone();
    sorted.sort();
    let confirmed = sqlx::query(concat!(
        "WITH locked AS (SELECT s.id FROM settlements AS s WHERE s.id = ANY($1) ORDER BY s.id FOR UPDATE) ",
        "UPDATE settlements AS s SET delivered_at = coalesce(s.delivered_at, ms) ",
        "FROM ", clock!(), ", UNNEST($1::uuid[], $2::uuid[]) AS r (id, request) JOIN locked ON locked.id = r.id ",
        "WHERE s.id = r.id AND s.delivery_request = r.request RETURNING s.id",
    ))
    .bind(sorted.iter().map(|(id, _)| id.0).collect::<Vec<Uuid>>())
    .bind(sorted.iter().map(|(_, request)| request.0).collect::<Vec<Uuid>>())
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let confirmed = ids_of(&confirmed)?;
    match deliveries.iter().find(|(id, _)| !confirmed.contains(id)) {
        Some((id, _)) => Err(StoreError::Conflict {
            row: format!("settlement {id}"),
            expected: "claimed by this request",
        }),
        None => Ok(deliveries.iter().map(|_| ()).collect()),
    }
}

/// See [`crate::Ledger::tell_failure`].
pub(super) async fn tell_failure(
    connection: &mut PgConnection,
    ids: Vec<SettlementId>,
) -> StoreResult<Vec<bool>> {
    let told = sqlx::query(concat!(
        "WITH locked AS (SELECT s.id FROM settlements AS s WHERE s.id = ANY($1) ORDER BY s.id FOR UPDATE) ",
        "UPDATE settlements AS s SET told = 'failure', told_reason = coalesce(s.reason, $2), told_transaction = NULL, ",
        "told_level = NULL, told_at = ms FROM ", clock!(), ", locked ",
        "WHERE s.id = locked.id AND s.state IN ('failed', 'expired') RETURNING s.id",
    ))
    .bind(ids.iter().map(|id| id.0).collect::<Vec<Uuid>>())
    .bind(Reason::AuthorizationExpired.as_str())
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let told = ids_of(&told)?;
    Ok(ids.iter().map(|id| told.contains(id)).collect())
}
