//! The grouped calls of the hot path: one statement for a whole group, by `json_each`.

use std::collections::{HashMap, HashSet};

use alloy_primitives::hex;
use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection, SqlitePool};
use teller_domain::{AuthorizationKey, Reason, RequestId, Settlement, SettlementId, UnixMillis};
use uuid::Uuid;

use super::writer::Grouped;
use crate::authorizations::AuthorizationColumns;
use crate::claiming::{Claim, Rounds, refused, tells};
use crate::rows::{
    Columns, StateColumns, accepted, attribution_column, first_state, settlement,
    settlement_columns, signed, unsigned,
};
use crate::{AcceptOutcome, ClaimOutcome, NewSettlement, StoreError, StoreResult};

/// The database's clock, as a subquery named `clock` with the column `ms`.
macro_rules! clock {
    () => {
        "(SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS ms) AS clock"
    };
}
pub(super) use clock;

/// See [`crate::Ledger::accept`].
pub(super) struct Accepts;

impl Grouped for Accepts {
    type Request = NewSettlement;
    type Answer = AcceptOutcome;
    const NAME: &'static str = "accept";

    async fn run(
        connection: &mut SqliteConnection,
        requests: &[NewSettlement],
    ) -> StoreResult<Vec<AcceptOutcome>> {
        let rows = requests
            .iter()
            .map(columns)
            .collect::<StoreResult<Vec<Value>>>()?;
        let inserted = sqlx::query(concat!(
            "INSERT INTO settlements (id, tenant, version, chain_id, authority, payer, nonce, asset, payee, value, ",
            "valid_after, valid_before, authorization_kind, signature_kind, signature, factory, factory_calldata, ",
            "permitted, facilitator, token_permit, digest, queued_by, state, transaction_hash, block_number, ",
            "block_hash, log_index, level, gas_used, cost, attribution, token_approval, tries, accepted_at, updated_at) ",
            "SELECT unhex(value->>0), value->>1, value->>2, value->>3, unhex(value->>4), unhex(value->>5), ",
            "unhex(value->>6), unhex(value->>7), unhex(value->>8), value->>9, value->>10, value->>11, value->>12, ",
            "value->>13, unhex(value->>14), unhex(value->>15), unhex(value->>16), value->>17, unhex(value->>18), ",
            "unhex(value->>19), unhex(value->>20), unhex(value->>21), value->>22, unhex(value->>23), value->>24, ",
            "unhex(value->>25), value->>26, value->>27, value->>28, value->>29, unhex(value->>30), ",
            "unhex(value->>31), 0, ms, ms FROM ", clock!(),
            ", json_each(?1) WHERE true ",
            "ON CONFLICT (id) DO NOTHING ",
            "ON CONFLICT (payer, nonce, chain_id, authority) DO UPDATE SET id = excluded.id, tenant = excluded.tenant, ",
            "version = excluded.version, asset = excluded.asset, payee = excluded.payee, value = excluded.value, ",
            "valid_after = excluded.valid_after, valid_before = excluded.valid_before, ",
            "authorization_kind = excluded.authorization_kind, signature_kind = excluded.signature_kind, ",
            "signature = excluded.signature, factory = excluded.factory, ",
            "factory_calldata = excluded.factory_calldata, permitted = excluded.permitted, ",
            "facilitator = excluded.facilitator, token_permit = excluded.token_permit, ",
            "digest = excluded.digest, queued_by = excluded.queued_by, state = excluded.state, ",
            "transaction_hash = excluded.transaction_hash, block_number = excluded.block_number, ",
            "block_hash = excluded.block_hash, log_index = excluded.log_index, level = excluded.level, ",
            "gas_used = excluded.gas_used, cost = excluded.cost, attribution = excluded.attribution, ",
            "token_approval = excluded.token_approval, ",
            "accepted_at = excluded.accepted_at, updated_at = excluded.updated_at, told = NULL, ",
            "told_transaction = NULL, told_level = NULL, told_reason = NULL, told_at = NULL, last_slot_signer = NULL, ",
            "last_slot_nonce = NULL WHERE state = 'withdrawn' ",
            "RETURNING id, accepted_at",
        ))
        .bind(Value::from(rows).to_string())
        .fetch_all(&mut *connection)
        .await
        .map_err(StoreError::of_ledger)?;
        let mut new = HashMap::with_capacity(inserted.len());
        for row in &inserted {
            let mut columns = Columns::of(row);
            let id = SettlementId(columns.take()?);
            new.insert(id, UnixMillis(unsigned(columns.take()?)?));
        }
        let known: Vec<AuthorizationKey> = requests
            .iter()
            .filter(|request| !new.contains_key(&request.id))
            .map(|request| request.payment.key)
            .collect();
        let known = find(connection, &known).await?;
        requests
            .iter()
            // Removed, so that an id that came twice in one group is accepted once.
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
}

fn columns(new: &NewSettlement) -> StoreResult<Value> {
    let payment = &new.payment;
    let authorization = AuthorizationColumns::of(&payment.authorization);
    let state = StateColumns::of(&first_state(payment))?;
    let bytes = |bytes: Option<Vec<u8>>| bytes.map(hex::encode);
    Ok(json!([
        hex::encode(new.id.0),
        new.tenant.as_str(),
        new.version.number(),
        signed(payment.key.chain.0, "a chain id")?,
        hex::encode(payment.key.authority),
        hex::encode(payment.key.payer),
        hex::encode(payment.key.nonce.0),
        hex::encode(payment.asset),
        hex::encode(payment.payee),
        payment.value.to_string(),
        payment.validity.valid_after().to_string(),
        payment.void_from().to_string(),
        authorization.kind,
        authorization.signature_kind,
        hex::encode(authorization.signature),
        bytes(authorization.factory),
        bytes(authorization.factory_calldata),
        authorization.permitted,
        bytes(authorization.facilitator),
        bytes(authorization.token_permit),
        hex::encode(payment.digest().0),
        new.queued_by.map(|process| hex::encode(process.0)),
        state.state,
        bytes(state.transaction),
        state.block_number,
        bytes(state.block_hash),
        state.log_index,
        state.level,
        state.gas_used,
        state.cost,
        bytes(attribution_column(new)),
        bytes(authorization.token_approval),
    ]))
}

/// See [`crate::Ledger::find`].
pub(super) async fn find(
    connection: &mut SqliteConnection,
    keys: &[AuthorizationKey],
) -> StoreResult<HashMap<AuthorizationKey, Settlement>> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    // What the columns cannot hold is not in the ledger either.
    let rows: Vec<Value> = keys
        .iter()
        .filter_map(|key| {
            let chain = signed(key.chain.0, "a chain id").ok()?;
            Some(json!([
                hex::encode(key.payer),
                hex::encode(key.nonce.0),
                chain,
                hex::encode(key.authority),
            ]))
        })
        .collect();
    let rows = sqlx::query(concat!(
        "SELECT ", settlement_columns!(""), " FROM json_each(?1) AS j CROSS JOIN settlements AS s ",
        "ON s.payer = unhex(j.value->>0) AND s.nonce = unhex(j.value->>1) AND s.chain_id = j.value->>2 ",
        "AND s.authority = unhex(j.value->>3)",
    ))
    .bind(Value::from(rows).to_string())
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| {
            let found = settlement(&mut Columns::of(row))?;
            Ok((found.payment.key, found))
        })
        .collect()
}

pub(super) async fn find_each(
    readers: SqlitePool,
    keys: Vec<AuthorizationKey>,
) -> Vec<StoreResult<Option<Settlement>>> {
    let found = async {
        let mut reader = readers.acquire().await.map_err(StoreError::of_ledger)?;
        find(&mut reader, &keys).await
    }
    .await;
    match found {
        Ok(found) => keys.iter().map(|key| Ok(found.get(key).cloned())).collect(),
        // A row that cannot be read must not fail its neighbours.
        Err(StoreError::Corrupt(_)) if keys.len() > 1 => {
            let mut answers = Vec::with_capacity(keys.len());
            for key in keys {
                let alone = async {
                    let mut reader = readers.acquire().await.map_err(StoreError::of_ledger)?;
                    find(&mut reader, &[key]).await
                }
                .await;
                answers.push(alone.map(|mut found| found.remove(&key)));
            }
            answers
        }
        Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
    }
}

/// See [`crate::Ledger::claim_delivery`].
pub(super) struct Claims;

impl Grouped for Claims {
    type Request = Claim;
    type Answer = ClaimOutcome;
    const NAME: &'static str = "claim";

    async fn run(
        connection: &mut SqliteConnection,
        requests: &[Claim],
    ) -> StoreResult<Vec<ClaimOutcome>> {
        let mut rounds = Rounds::of(requests.to_vec());
        while let Some(round) = rounds.next_round() {
            let refused = claim_round(connection, &round).await?;
            rounds.answer(&round, &refused);
        }
        Ok(rounds.outcomes())
    }
}

/// Distinct settlements; answers those that were not claimed, and whether their success was delivered.
async fn claim_round(
    connection: &mut SqliteConnection,
    claims: &[Claim],
) -> StoreResult<HashMap<SettlementId, bool>> {
    let rows: Vec<Value> = claims
        .iter()
        .map(|(id, request, process, success)| {
            json!([
                hex::encode(id.0),
                hex::encode(request.0),
                hex::encode(process.0),
                hex::encode(success.transaction),
                success.level.as_str(),
            ])
        })
        .collect();
    let claimants = Value::from(rows).to_string();
    let claimed = sqlx::query(concat!(
        "UPDATE settlements SET delivery_request = unhex(j.value->>1), ",
        "delivery_process = CASE WHEN delivered_at IS NULL THEN unhex(j.value->>2) ELSE delivery_process END, ",
        "told = 'success', told_transaction = unhex(j.value->>3), told_level = j.value->>4, told_at = ms ",
        "FROM json_each(?1) AS j, ", clock!(), " WHERE settlements.id = unhex(j.value->>0) AND ",
        tells!("settlements", "unhex(j.value->>3)", "j.value->>4"), " AND ",
        "(delivery_request IS NULL OR delivery_request = unhex(j.value->>1) OR (delivered_at IS NULL AND ",
        "delivery_process NOT IN (SELECT id FROM processes WHERE lease_until > ms))) ",
        "RETURNING settlements.id",
    ))
    .bind(&claimants)
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let claimed = claimed
        .iter()
        .map(|row| Columns::of(row).take().map(SettlementId))
        .collect::<StoreResult<HashSet<_>>>()?;
    if claimed.len() == claims.len() {
        return Ok(HashMap::new());
    }
    let settled = sqlx::query(concat!(
        "SELECT s.id, s.delivered_at IS NOT NULL FROM settlements AS s ",
        "JOIN json_each(?1) AS j ON s.id = unhex(j.value->>0) WHERE ",
        tells!("s", "unhex(j.value->>3)", "j.value->>4"),
    ))
    .bind(claimants)
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    refused(claims, &claimed, &settled)
}

pub(super) fn ids_json(ids: &[SettlementId]) -> String {
    let ids: Vec<Value> = ids.iter().map(|id| hex::encode(id.0).into()).collect();
    Value::from(ids).to_string()
}

/// A delivery that reached the transport.
#[derive(Debug, Clone, Copy)]
pub(super) struct Confirm {
    pub(super) id: SettlementId,
    pub(super) request: RequestId,
}

/// See [`crate::Ledger::confirm_delivery`].
pub(super) struct Confirms;

impl Grouped for Confirms {
    type Request = Confirm;
    type Answer = ();
    const NAME: &'static str = "confirm";

    async fn run(connection: &mut SqliteConnection, requests: &[Confirm]) -> StoreResult<Vec<()>> {
        let rows: Vec<Value> = requests
            .iter()
            .map(|confirm| json!([hex::encode(confirm.id.0), hex::encode(confirm.request.0)]))
            .collect();
        let confirmed = sqlx::query(concat!(
            "UPDATE settlements SET delivered_at = coalesce(delivered_at, ms) FROM json_each(?1) AS j, ", clock!(), " ",
            "WHERE settlements.id = unhex(j.value->>0) AND delivery_request = unhex(j.value->>1) ",
            "RETURNING settlements.id",
        ))
        .bind(Value::from(rows).to_string())
        .fetch_all(connection)
        .await
        .map_err(StoreError::of_ledger)?;
        let confirmed: HashSet<Uuid> = confirmed
            .iter()
            .filter_map(|row| row.try_get(0).ok())
            .collect();
        // An error sends the group through one by one, where it is the one that was asked.
        match requests
            .iter()
            .find(|confirm| !confirmed.contains(&confirm.id.0))
        {
            Some(confirm) => Err(StoreError::Conflict {
                row: format!("settlement {}", confirm.id),
                expected: "claimed by this request",
            }),
            None => Ok(requests.iter().map(|_| ()).collect()),
        }
    }
}

/// See [`crate::Ledger::tell_failure`].
pub(super) struct Failures;

impl Grouped for Failures {
    type Request = SettlementId;
    type Answer = bool;
    const NAME: &'static str = "tell_failure";

    async fn run(
        connection: &mut SqliteConnection,
        requests: &[SettlementId],
    ) -> StoreResult<Vec<bool>> {
        let told = sqlx::query(concat!(
            "UPDATE settlements SET told = 'failure', told_reason = coalesce(reason, ?2), told_transaction = NULL, ",
            "told_level = NULL, told_at = ms FROM ", clock!(), " ",
            "WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND state IN ('failed', 'expired') RETURNING id",
        ))
        .bind(ids_json(requests))
        .bind(Reason::AuthorizationExpired.as_str())
        .fetch_all(connection)
        .await
        .map_err(StoreError::of_ledger)?;
        let told = told
            .iter()
            .map(|row| Columns::of(row).take().map(SettlementId))
            .collect::<StoreResult<HashSet<_>>>()?;
        Ok(requests.iter().map(|id| told.contains(id)).collect())
    }
}
