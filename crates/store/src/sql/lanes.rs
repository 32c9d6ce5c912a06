//! Networks, processes, lanes and their leases, and the small single-row writes. A part of each ledger.

use alloy_primitives::{Address, B256};
use teller_domain::{
    AccountNonce, ChainId, FencedLane, LaneMode, PaymentDigest, ProcessId, RequestId, SettlementId,
    UnixMillis,
};
use uuid::Uuid;

use super::dialect::{Connection, clock, indexed_by, prunes_alone};
use super::{open_slots, queue, reorgs, slots};
use crate::pruning::{
    DEAD_PROCESSES_KEPT_MS, EVENTS_KEPT_MS, KEYS_KEPT_MS, PRUNED_AT_ONCE, prune_keys, prune_outbox,
    prune_processes,
};
use crate::rows::{Columns, address, read, signed, unsigned, word};
use crate::{
    Duty, IdempotencyOutcome, Lane, LaneRecovery, LaneView, Settlers, StoreError, StoreResult,
};

pub(super) async fn bind_network(
    connection: &mut Connection,
    chain: ChainId,
    genesis: B256,
) -> StoreResult<()> {
    let row = sqlx::query(
        "INSERT INTO networks (chain_id, genesis) VALUES ($1, $2) \
         ON CONFLICT (chain_id) DO UPDATE SET genesis = networks.genesis RETURNING genesis",
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
    connection: &mut Connection,
    process: ProcessId,
    duty: Duty,
    lease_ms: u64,
) -> StoreResult<Settlers> {
    sqlx::query(concat!(
        "INSERT INTO processes (id, settles, lease_until) SELECT $1, $2, ms + $3 FROM ",
        clock!(),
        " WHERE true ",
        "ON CONFLICT (id) DO UPDATE SET settles = excluded.settles, lease_until = excluded.lease_until",
    ))
    .bind(process.0)
    .bind(duty.settles())
    .bind(signed(lease_ms, "a lease")?)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    settlers(connection, process).await
}

/// The living processes that settle, as this one sees them, registered or not.
async fn settlers(connection: &mut Connection, process: ProcessId) -> StoreResult<Settlers> {
    let row = sqlx::query(concat!(
        "SELECT count(*), count(*) FILTER (WHERE id < $1) FROM processes, ",
        clock!(),
        " WHERE settles AND lease_until > ms AND id <> $1",
    ))
    .bind(process.0)
    .fetch_one(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut columns = Columns::of(&row);
    let others = unsigned(columns.take()?)?;
    Ok(Settlers::new(others, unsigned(columns.take()?)?))
}

/// What it has queued and what it has claimed names a process that is not there any more.
pub(super) async fn deregister(connection: &mut Connection, process: ProcessId) -> StoreResult<()> {
    sqlx::query("DELETE FROM processes WHERE id = $1")
        .bind(process.0)
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(StoreError::of_ledger)
}

/// One round of pruning; whether there is more. One process does it at a time.
pub(super) async fn prune(connection: &mut Connection) -> StoreResult<bool> {
    if !prunes_alone(connection).await? {
        return Ok(false);
    }
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

pub(super) async fn claim(
    connection: &mut Connection,
    chain: ChainId,
    signer: Address,
    owner: ProcessId,
    signers: u64,
    lease_ms: u64,
) -> StoreResult<Option<LaneRecovery>> {
    let share = settlers(connection, owner).await?.share(signers);
    let has_share = held(connection, chain, owner, signer).await? >= share;
    if has_share {
        // From when on nobody has taken a lane that nobody has ever held.
        sqlx::query(concat!(
            "INSERT INTO lanes (chain_id, signer, epoch, owner, lease_until) SELECT $1, $2, 0, NULL, ms FROM ",
            clock!(),
            " WHERE true ON CONFLICT (chain_id, signer) DO NOTHING",
        ))
        .bind(signed(chain.0, "a chain id")?)
        .bind(signer.to_vec())
        .execute(&mut *connection)
        .await
        .map_err(StoreError::of_ledger)?;
    }
    let row = sqlx::query(concat!(
        "INSERT INTO lanes AS l (chain_id, signer, epoch, owner, lease_until) SELECT $1, $2, 1, $3, ms + $4 FROM ", clock!(),
        " WHERE true ON CONFLICT (chain_id, signer) DO UPDATE SET epoch = l.epoch + 1, owner = excluded.owner, ",
        "lease_until = excluded.lease_until ",
        "WHERE l.owner = excluded.owner OR (l.owner IS NULL AND NOT $5) ",
        // A free lane's is the moment from which on it was free.
        "OR l.lease_until <= excluded.lease_until - CASE WHEN l.owner IS NULL THEN 2 * $4 ELSE $4 END ",
        "RETURNING epoch, next_nonce, mode",
    ))
    .bind(signed(chain.0, "a chain id")?)
    .bind(signer.to_vec())
    .bind(owner.0)
    .bind(signed(lease_ms, "a lease")?)
    .bind(has_share)
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let mut columns = Columns::of(&row);
    let epoch = unsigned(columns.take()?)?;
    let next_nonce = columns.take::<Option<i64>>()?.map(unsigned).transpose()?;
    let mode = read(&columns.take::<String>()?, "mode")?;
    Ok(Some(LaneRecovery {
        lane: Lane {
            fence: FencedLane {
                chain,
                signer,
                epoch,
            },
            next_nonce: next_nonce.map(AccountNonce),
            mode,
        },
        open_slots: open_slots::of_signer(connection, chain, signer, open_slots::Raw::Read).await?,
        unfinal: reorgs::unfinal(connection, chain, signer).await?,
        unexplained: queue::unexplained(connection, chain, signer).await?,
    }))
}

/// How many other lanes of the network the process holds.
async fn held(
    connection: &mut Connection,
    chain: ChainId,
    owner: ProcessId,
    beside: Address,
) -> StoreResult<u64> {
    let row = sqlx::query(
        "SELECT count(*) FROM lanes WHERE chain_id = $1 AND owner = $2 AND signer <> $3",
    )
    .bind(signed(chain.0, "a chain id")?)
    .bind(owner.0)
    .bind(beside.to_vec())
    .fetch_one(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    unsigned(Columns::of(&row).take()?)
}

async fn fenced(
    connection: &mut Connection,
    sql: &'static str,
    fence: FencedLane,
    value: i64,
) -> StoreResult<()> {
    let done = sqlx::query(sql)
        .bind(signed(fence.chain.0, "a chain id")?)
        .bind(fence.signer.to_vec())
        .bind(signed(fence.epoch, "an epoch")?)
        .bind(value)
        .execute(connection)
        .await
        .map_err(StoreError::of_ledger)?;
    if done.rows_affected() == 0 {
        return Err(StoreError::StaleLane);
    }
    Ok(())
}

pub(super) async fn renew(
    connection: &mut Connection,
    fence: FencedLane,
    lease_ms: u64,
) -> StoreResult<LaneMode> {
    let row = sqlx::query(concat!(
        "UPDATE lanes SET lease_until = ms + $4 FROM ",
        clock!(),
        " WHERE chain_id = $1 AND signer = $2 AND epoch = $3 RETURNING mode"
    ))
    .bind(signed(fence.chain.0, "a chain id")?)
    .bind(fence.signer.to_vec())
    .bind(signed(fence.epoch, "an epoch")?)
    .bind(signed(lease_ms, "a lease")?)
    .fetch_optional(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let row = row.ok_or(StoreError::StaleLane)?;
    read(&Columns::of(&row).take::<String>()?, "mode")
}

pub(super) async fn set_mode(
    connection: &mut Connection,
    fence: FencedLane,
    expected: LaneMode,
    mode: LaneMode,
) -> StoreResult<bool> {
    slots::expect_epoch(connection, fence).await?;
    sqlx::query(
        "UPDATE lanes SET mode = $4 WHERE chain_id = $1 AND signer = $2 AND (mode = $3 OR $4 = 'frozen')",
    )
    .bind(signed(fence.chain.0, "a chain id")?)
    .bind(fence.signer.to_vec())
    .bind(expected.as_str())
    .bind(mode.as_str())
    .execute(connection)
    .await
    .map(|done| done.rows_affected() > 0)
    .map_err(StoreError::of_ledger)
}

pub(super) async fn order_mode(
    connection: &mut Connection,
    chain: ChainId,
    signer: Address,
    expected: LaneMode,
    mode: LaneMode,
) -> StoreResult<bool> {
    sqlx::query("UPDATE lanes SET mode = $4 WHERE chain_id = $1 AND signer = $2 AND mode = $3")
        .bind(signed(chain.0, "a chain id")?)
        .bind(signer.to_vec())
        .bind(expected.as_str())
        .bind(mode.as_str())
        .execute(connection)
        .await
        .map(|done| done.rows_affected() > 0)
        .map_err(StoreError::of_ledger)
}

/// The epoch rises, so that nothing more is written under the one that is given up.
pub(super) async fn release(connection: &mut Connection, fence: FencedLane) -> StoreResult<()> {
    fenced(
        connection,
        concat!(
            "UPDATE lanes SET owner = NULL, lease_until = ms + $4, epoch = epoch + 1 FROM ",
            clock!(),
            " WHERE chain_id = $1 AND signer = $2 AND epoch = $3",
        ),
        fence,
        0,
    )
    .await
}

pub(super) async fn adopt(
    connection: &mut Connection,
    fence: FencedLane,
    nonce: AccountNonce,
) -> StoreResult<()> {
    fenced(
        connection,
        "UPDATE lanes SET next_nonce = $4 WHERE chain_id = $1 AND signer = $2 AND epoch = $3",
        fence,
        signed(nonce.0, "an account nonce")?,
    )
    .await?;
    let open = sqlx::query(concat!(
        "SELECT 1 FROM slots AS x",
        indexed_by!("slots_open"),
        " WHERE x.chain_id = $1 AND x.signer = $2 AND x.state = 'open' LIMIT 1",
    ))
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

/// Every lane, with its open slots but not their bytes.
pub(super) async fn views(connection: &mut Connection) -> StoreResult<Vec<LaneView>> {
    let rows = sqlx::query(concat!(
        "SELECT chain_id, signer, epoch, owner, lease_until, ms, next_nonce, mode FROM lanes, ",
        clock!(),
        " ORDER BY chain_id, signer",
    ))
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut views = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let chain = ChainId(unsigned(columns.take()?)?);
        let signer = address(&columns.take::<Vec<u8>>()?)?;
        let epoch = unsigned(columns.take()?)?;
        let owner: Option<Uuid> = columns.take()?;
        let lease_until = UnixMillis(unsigned(columns.take()?)?);
        let now = UnixMillis(unsigned(columns.take()?)?);
        let next_nonce = columns.take::<Option<i64>>()?.map(unsigned).transpose()?;
        views.push(LaneView {
            fence: FencedLane {
                chain,
                signer,
                epoch,
            },
            owner: owner.map(ProcessId),
            lease_until,
            lease_expired: lease_until <= now,
            next_nonce: next_nonce.map(AccountNonce),
            mode: read(&columns.take::<String>()?, "mode")?,
            open_slots: open_slots::of_signer(connection, chain, signer, open_slots::Raw::LeftOut)
                .await?,
        });
    }
    Ok(views)
}

/// A reason that was told before the claim is what was told last again.
pub(super) async fn release_delivery(
    connection: &mut Connection,
    id: SettlementId,
    request: RequestId,
) -> StoreResult<()> {
    sqlx::query(
        "UPDATE settlements SET delivery_request = NULL, delivery_process = NULL, delivered_at = NULL, \
         told = CASE WHEN told_reason IS NOT NULL THEN 'failure' END, told_transaction = NULL, told_level = NULL, \
         told_at = CASE WHEN told_reason IS NOT NULL THEN told_at END \
         WHERE id = $1 AND delivery_request = $2",
    )
    .bind(id.0)
    .bind(request.0)
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

pub(super) async fn bind_key(
    connection: &mut Connection,
    key_hash: B256,
    digest: PaymentDigest,
) -> StoreResult<IdempotencyOutcome> {
    let row = sqlx::query(concat!(
        "INSERT INTO idempotency_keys (key_hash, digest, request_id, bound_at) SELECT $1, $2, $3, ms FROM ", clock!(),
        " WHERE true ON CONFLICT (key_hash) DO UPDATE SET digest = idempotency_keys.digest RETURNING digest, request_id",
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
