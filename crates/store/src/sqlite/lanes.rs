//! Networks, processes, lanes and their leases, and the small single-row writes.

use alloy_primitives::{Address, B256};
use serde_json::Value;
use sqlx::SqliteConnection;
use teller_domain::{
    AccountNonce, ChainId, FencedLane, PaymentDigest, ProcessId, RequestId, SettlementId,
    SettlementState,
};

use super::hot::clock;
use super::slots;
use crate::pruning::{
    DEAD_PROCESSES_KEPT_MS, EVENTS_KEPT_MS, KEYS_KEPT_MS, PRUNED_AT_ONCE, prune_keys, prune_outbox,
    prune_processes,
};
use crate::resolving::expect_accepted_outcome;
use crate::rows::{Columns, signed, unsigned, word};
use crate::{IdempotencyOutcome, Lane, LaneRecovery, StoreError, StoreResult};

pub(super) async fn bind_network(
    connection: &mut SqliteConnection,
    chain: ChainId,
    genesis: B256,
) -> StoreResult<()> {
    let row = sqlx::query(
        "INSERT INTO networks (chain_id, genesis) VALUES (?1, ?2) \
         ON CONFLICT DO UPDATE SET genesis = genesis RETURNING genesis",
    )
    .bind(signed(chain.0, "a chain id")?)
    .bind(genesis.to_vec())
    .fetch_one(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let known = word(&Columns::of(&row).take::<Vec<u8>>()?)?;
    if known == genesis {
        Ok(())
    } else {
        Err(StoreError::GenesisMismatch {
            chain,
            known,
            found: genesis,
        })
    }
}

pub(super) async fn heartbeat(
    connection: &mut SqliteConnection,
    process: ProcessId,
    lease_ms: u64,
) -> StoreResult<()> {
    sqlx::query(concat!(
        "INSERT INTO processes (id, lease_until) SELECT ?1, ms + ?2 FROM ",
        clock!(),
        " WHERE true ",
        "ON CONFLICT DO UPDATE SET lease_until = excluded.lease_until",
    ))
    .bind(process.0)
    .bind(signed(lease_ms, "a lease")?)
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

/// One round of pruning; whether there is more.
pub(super) async fn prune(connection: &mut SqliteConnection) -> StoreResult<bool> {
    let mut removed = 0;
    for (sql, kept_ms) in [
        (prune_outbox!(clock!()), EVENTS_KEPT_MS),
        (prune_keys!(clock!()), KEYS_KEPT_MS),
    ] {
        let done = sqlx::query(sql)
            .bind(kept_ms)
            .bind(PRUNED_AT_ONCE)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::of_ledger)?;
        removed = done.rows_affected().max(removed);
    }
    sqlx::query(prune_processes!(clock!()))
        .bind(DEAD_PROCESSES_KEPT_MS)
        .execute(connection)
        .await
        .map_err(StoreError::of_ledger)?;
    Ok(i64::try_from(removed).is_ok_and(|removed| removed >= PRUNED_AT_ONCE))
}

/// Nobody else can have the file open: whoever held leases in it is dead.
pub(super) async fn forget_others(connection: &mut SqliteConnection) -> StoreResult<()> {
    for sql in [
        "DELETE FROM processes",
        "UPDATE lanes SET owner = NULL, lease_until = 0",
    ] {
        sqlx::query(sql)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::of_ledger)?;
    }
    Ok(())
}

pub(super) async fn claim(
    connection: &mut SqliteConnection,
    chain: ChainId,
    signer: Address,
    owner: ProcessId,
    lease_ms: u64,
) -> StoreResult<Option<LaneRecovery>> {
    let row = sqlx::query(concat!(
        "INSERT INTO lanes (chain_id, signer, epoch, owner, lease_until) SELECT ?1, ?2, 1, ?3, ms + ?4 FROM ", clock!(),
        " WHERE true ON CONFLICT DO UPDATE SET epoch = epoch + 1, owner = excluded.owner, ",
        "lease_until = excluded.lease_until ",
        "WHERE owner IS NULL OR owner = excluded.owner OR lease_until <= excluded.lease_until - ?4 ",
        "RETURNING epoch, next_nonce",
    ))
    .bind(signed(chain.0, "a chain id")?)
    .bind(signer.to_vec())
    .bind(owner.0)
    .bind(signed(lease_ms, "a lease")?)
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let mut columns = Columns::of(&row);
    let epoch = unsigned(columns.take()?)?;
    let next_nonce = columns.take::<Option<i64>>()?.map(unsigned).transpose()?;
    Ok(Some(LaneRecovery {
        lane: Lane {
            fence: FencedLane {
                chain,
                signer,
                epoch,
            },
            next_nonce: next_nonce.map(AccountNonce),
        },
        open_slots: slots::open_slots(connection, chain, signer).await?,
    }))
}

async fn fenced(
    connection: &mut SqliteConnection,
    sql: &'static str,
    fence: FencedLane,
    value: i64,
) -> StoreResult<u64> {
    sqlx::query(sql)
        .bind(signed(fence.chain.0, "a chain id")?)
        .bind(fence.signer.to_vec())
        .bind(signed(fence.epoch, "an epoch")?)
        .bind(value)
        .execute(connection)
        .await
        .map(|done| done.rows_affected())
        .map_err(StoreError::of_ledger)
}

pub(super) async fn renew(
    connection: &mut SqliteConnection,
    fence: FencedLane,
    lease_ms: u64,
) -> StoreResult<()> {
    let renewed = fenced(
        connection,
        concat!(
            "UPDATE lanes SET lease_until = ms + ?4 FROM ",
            clock!(),
            " WHERE chain_id = ?1 AND signer = ?2 AND epoch = ?3"
        ),
        fence,
        signed(lease_ms, "a lease")?,
    )
    .await?;
    if renewed == 0 {
        return Err(StoreError::StaleLane);
    }
    Ok(())
}

/// The epoch rises, so that nothing more is written under the one that is given up.
pub(super) async fn release(
    connection: &mut SqliteConnection,
    fence: FencedLane,
) -> StoreResult<()> {
    let released = fenced(
        connection,
        "UPDATE lanes SET owner = NULL, lease_until = ?4, epoch = epoch + 1 \
         WHERE chain_id = ?1 AND signer = ?2 AND epoch = ?3",
        fence,
        0,
    )
    .await?;
    if released == 0 {
        return Err(StoreError::StaleLane);
    }
    Ok(())
}

pub(super) async fn adopt(
    connection: &mut SqliteConnection,
    fence: FencedLane,
    nonce: AccountNonce,
) -> StoreResult<()> {
    let held = fenced(
        connection,
        "UPDATE lanes SET next_nonce = ?4 WHERE chain_id = ?1 AND signer = ?2 AND epoch = ?3",
        fence,
        signed(nonce.0, "an account nonce")?,
    )
    .await?;
    if held == 0 {
        return Err(StoreError::StaleLane);
    }
    let open = sqlx::query(
        "SELECT 1 FROM slots WHERE chain_id = ?1 AND signer = ?2 AND state = 'open' LIMIT 1",
    )
    .bind(signed(fence.chain.0, "a chain id")?)
    .bind(fence.signer.to_vec())
    .fetch_optional(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    match open {
        // The error undoes the update above.
        Some(_) => Err(StoreError::Conflict {
            row: format!("lane {}/{}", fence.chain, fence.signer),
            expected: "without open slots",
        }),
        None => Ok(()),
    }
}

pub(super) async fn withdraw(
    connection: &mut SqliteConnection,
    id: SettlementId,
) -> StoreResult<bool> {
    sqlx::query(concat!(
        "UPDATE settlements SET state = 'withdrawn', updated_at = ms FROM ",
        clock!(),
        " WHERE id = ?1 AND state = 'accepted' AND tries = 0"
    ))
    .bind(id.0)
    .execute(connection)
    .await
    .map(|done| done.rows_affected() > 0)
    .map_err(StoreError::of_ledger)
}

pub(super) async fn resolve_accepted(
    connection: &mut SqliteConnection,
    resolutions: Vec<(SettlementId, SettlementState)>,
) -> StoreResult<Vec<SettlementId>> {
    let rows = resolutions
        .into_iter()
        .map(|(id, state)| {
            expect_accepted_outcome(id, &state)?;
            slots::resolution_row(id, state)
        })
        .collect::<StoreResult<Vec<_>>>()?;
    let changed = sqlx::query(concat!(
        "UPDATE settlements SET state = j.value->>1, transaction_hash = unhex(j.value->>2), reason = j.value->>3, ",
        "detail = j.value->>4, block_number = j.value->>5, block_hash = unhex(j.value->>6), log_index = j.value->>7, ",
        "level = j.value->>8, gas_used = j.value->>9, cost = j.value->>10, updated_at = ms ",
        "FROM json_each(?1) AS j, ", clock!(), " WHERE settlements.id = unhex(j.value->>0) AND state = 'accepted' ",
        "RETURNING settlements.id",
    ))
    .bind(Value::from(rows).to_string())
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    changed
        .iter()
        .map(|row| Columns::of(row).take().map(SettlementId))
        .collect()
}

pub(super) async fn release_delivery(
    connection: &mut SqliteConnection,
    id: SettlementId,
    request: RequestId,
) -> StoreResult<()> {
    sqlx::query(
        "UPDATE settlements SET delivery_request = NULL, delivery_process = NULL \
         WHERE id = ?1 AND delivery_request = ?2 AND delivered_at IS NULL",
    )
    .bind(id.0)
    .bind(request.0)
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

pub(super) async fn bind_key(
    connection: &mut SqliteConnection,
    key_hash: B256,
    digest: PaymentDigest,
) -> StoreResult<IdempotencyOutcome> {
    let row = sqlx::query(concat!(
        "INSERT INTO idempotency_keys (key_hash, digest, request_id, bound_at) SELECT ?1, ?2, ?3, ms FROM ", clock!(),
        " WHERE true ON CONFLICT DO UPDATE SET digest = digest RETURNING digest, request_id",
    ))
    .bind(key_hash.to_vec())
    .bind(digest.0.to_vec())
    .bind(RequestId::fresh().0)
    .fetch_one(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut columns = Columns::of(&row);
    let known = PaymentDigest(word(&columns.take::<Vec<u8>>()?)?);
    let request = RequestId(columns.take()?);
    Ok(if known == digest {
        IdempotencyOutcome::Bound(request)
    } else {
        IdempotencyOutcome::UsedForAnother(known)
    })
}
