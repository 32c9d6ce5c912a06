//! What readers ask. Each call sees everything that was committed before it. A part of each ledger.

use std::collections::HashMap;

use alloy_primitives::{Address, B256};
use teller_domain::{
    AccountNonce, ChainId, Compensation, Settlement, SettlementId, Slot, SlotId, TenantId,
    UnixMillis,
};

use super::dialect::{
    self, Db, DbRow, Pool, clock, ids, in_ids, in_numbers, numbers, settlement_columns, snapshot,
    text,
};
use super::{lanes, open_slots, top_ups};
use crate::rows::{Columns, read, settlement, signed, slot_state, unsigned, word};
use crate::{
    AuditSlot, LaneView, MadeTopUp, SettlementEvent, SettlementPage, SettlementQuery, Spending,
    StoreError, StoreResult, listing,
};

/// How many events or compensations one call answers at most.
const LARGEST_EVENTS: u32 = 1_000;
/// How many slots, each with its payments, one call answers at most.
const LARGEST_AUDIT: u32 = 100;

fn settlements_of(rows: &[DbRow]) -> StoreResult<Vec<Settlement>> {
    rows.iter()
        .map(|row| settlement(&mut Columns::of(row)))
        .collect()
}

pub(super) async fn now(pool: &Pool) -> StoreResult<UnixMillis> {
    let row = sqlx::query(concat!("SELECT ms FROM ", clock!()))
        .fetch_one(pool)
        .await
        .map_err(StoreError::of_ledger)?;
    Ok(UnixMillis(unsigned(Columns::of(&row).take()?)?))
}

/// See [`crate::Ledger::genesis`].
pub(super) async fn genesis(pool: &Pool, chain: ChainId) -> StoreResult<Option<B256>> {
    let row = sqlx::query("SELECT genesis FROM networks WHERE chain_id = $1")
        .bind(signed(chain.0, "a chain id")?)
        .fetch_optional(pool)
        .await
        .map_err(StoreError::of_ledger)?;
    row.map(|row| word(&Columns::of(&row).take::<Vec<u8>>()?))
        .transpose()
}

pub(super) async fn settlements(
    pool: &Pool,
    wanted: &[SettlementId],
) -> StoreResult<Vec<Settlement>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        settlement_columns!(),
        " FROM settlements AS s WHERE s.id ",
        in_ids!("$1")
    ))
    .bind(ids(wanted))
    .fetch_all(pool)
    .await
    .map_err(StoreError::of_ledger)?;
    settlements_of(&rows)
}

/// See [`crate::Ledger::settled`].
pub(super) async fn settled(
    pool: &Pool,
    id: SettlementId,
) -> StoreResult<Option<(Settlement, Option<UnixMillis>)>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        settlement_columns!(),
        ", s.settled_at FROM settlements AS s WHERE s.id = $1"
    ))
    .bind(id.0)
    .fetch_optional(pool)
    .await
    .map_err(StoreError::of_ledger)?;
    row.map(|row| {
        let mut columns = Columns::of(&row);
        let found = settlement(&mut columns)?;
        let at: Option<i64> = columns.take()?;
        Ok((found, at.map(unsigned).transpose()?.map(UnixMillis)))
    })
    .transpose()
}

pub(super) async fn list(pool: &Pool, query: &SettlementQuery) -> StoreResult<SettlementPage> {
    let select = concat!("SELECT ", settlement_columns!(), " FROM settlements AS s");
    let rows = listing::list::<Db>(select, query)?
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

pub(super) async fn unresolved(pool: &Pool) -> StoreResult<u64> {
    let row = sqlx::query(
        "SELECT count(*) FROM settlements WHERE state IN ('accepted', 'assigned', 'preconfirmed', 'unexplained')",
    )
    .fetch_one(pool)
    .await
    .map_err(StoreError::of_ledger)?;
    unsigned(Columns::of(&row).take()?)
}

pub(super) async fn unresolved_settlements(pool: &Pool) -> StoreResult<Vec<Settlement>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        settlement_columns!(),
        " FROM settlements AS s WHERE s.state IN ('accepted', 'assigned', 'preconfirmed', 'unexplained')"
    ))
    .fetch_all(pool)
    .await
    .map_err(StoreError::of_ledger)?;
    settlements_of(&rows)
}

/// Slots and their payments from one moment.
pub(super) async fn open_slots(
    pool: &Pool,
    chain: ChainId,
    signer: Address,
) -> StoreResult<Vec<Slot>> {
    let mut snapshot = snapshot(pool).await?;
    open_slots::of_signer(&mut snapshot, chain, signer, open_slots::Raw::Read).await
}

pub(super) async fn signers(pool: &Pool, chain: ChainId) -> StoreResult<Vec<Address>> {
    let mut connection = pool.acquire().await.map_err(StoreError::of_ledger)?;
    open_slots::signers(&mut connection, chain).await
}

/// Lanes and their open slots from one moment.
pub(super) async fn lanes(pool: &Pool) -> StoreResult<Vec<LaneView>> {
    let mut snapshot = snapshot(pool).await?;
    lanes::views(&mut snapshot).await
}

/// See [`crate::Ledger::top_up`].
pub(super) async fn top_up(
    pool: &Pool,
    chain: ChainId,
    payer: Address,
    token: Address,
) -> StoreResult<Option<MadeTopUp>> {
    let mut connection = pool.acquire().await.map_err(StoreError::of_ledger)?;
    top_ups::find(&mut connection, chain, payer, token).await
}

/// See [`crate::Ledger::spending`].
pub(super) async fn spending(
    pool: &Pool,
    chain: ChainId,
    since: UnixMillis,
) -> StoreResult<Spending> {
    let mut snapshot = snapshot(pool).await?;
    dialect::spending(&mut snapshot, chain, since).await
}

/// See [`crate::Ledger::audit_slots`].
pub(super) async fn audit_slots(
    pool: &Pool,
    chain: ChainId,
    signer: Address,
    after: Option<AccountNonce>,
    limit: u32,
) -> StoreResult<Vec<AuditSlot>> {
    let mut snapshot = snapshot(pool).await?;
    let chain_id = signed(chain.0, "a chain id")?;
    let rows = sqlx::query(concat!(
        "SELECT x.nonce, x.state, x.transaction_hash, x.block_number, x.block_hash, x.gas_used, ", text!("x.cost"),
        ", x.level FROM slots AS x WHERE x.chain_id = $1 AND x.signer = $2 AND x.nonce > $3 ORDER BY x.nonce LIMIT $4",
    ))
    .bind(chain_id)
    .bind(signer.to_vec())
    .bind(after.map_or(-1, |nonce| i64::try_from(nonce.0).unwrap_or(i64::MAX)))
    .bind(i64::from(limit.min(LARGEST_AUDIT)))
    .fetch_all(&mut *snapshot)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut nonces = Vec::with_capacity(rows.len());
    let mut audited = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let nonce: i64 = columns.take()?;
        nonces.push(nonce);
        audited.push(AuditSlot {
            id: SlotId {
                chain,
                signer,
                nonce: AccountNonce(unsigned(nonce)?),
            },
            state: slot_state(&mut columns)?,
            attempts: Vec::new(),
            payments: Vec::new(),
            top_up: None,
        });
    }
    let mut given = top_ups::of_slots(&mut snapshot, chain_id, signer, &nonces).await?;
    for (nonce, audited) in nonces.iter().zip(&mut audited) {
        audited.top_up = given.remove(nonce);
    }
    let places: HashMap<i64, usize> = nonces.iter().copied().zip(0..).collect();
    let attempts = sqlx::query(concat!(
        "SELECT a.nonce, a.hash FROM attempts AS a WHERE a.chain_id = $1 AND a.signer = $2 AND a.nonce ",
        in_numbers!("$3"), " ORDER BY a.nonce, a.position",
    ))
    .bind(chain_id)
    .bind(signer.to_vec())
    .bind(numbers(&nonces))
    .fetch_all(&mut *snapshot)
    .await
    .map_err(StoreError::of_ledger)?;
    for row in &attempts {
        let mut columns = Columns::of(row);
        let nonce: i64 = columns.take()?;
        let slot = places.get(&nonce).and_then(|place| audited.get_mut(*place));
        if let Some(slot) = slot {
            slot.attempts.push(word(&columns.take::<Vec<u8>>()?)?);
        }
    }
    let payments = sqlx::query(concat!(
        "SELECT p.nonce, ",
        settlement_columns!(),
        " FROM slot_payments AS p JOIN settlements AS s ",
        "ON s.id = p.settlement_id WHERE p.chain_id = $1 AND p.signer = $2 AND p.nonce ",
        in_numbers!("$3"),
        " ORDER BY p.nonce, p.position",
    ))
    .bind(chain_id)
    .bind(signer.to_vec())
    .bind(numbers(&nonces))
    .fetch_all(&mut *snapshot)
    .await
    .map_err(StoreError::of_ledger)?;
    for row in &payments {
        let mut columns = Columns::of(row);
        let nonce: i64 = columns.take()?;
        let slot = places.get(&nonce).and_then(|place| audited.get_mut(*place));
        if let Some(slot) = slot {
            slot.payments.push(settlement(&mut columns)?);
        }
    }
    Ok(audited)
}

/// See [`crate::Ledger::compensations`].
pub(super) async fn compensations(
    pool: &Pool,
    after: u64,
    settlement: Option<SettlementId>,
    limit: u32,
) -> StoreResult<Vec<Compensation>> {
    let sql = match settlement {
        Some(_) => {
            "SELECT sequence, settlement_id, tenant, kind, written_at FROM compensations \
             WHERE sequence > $1 AND settlement_id = $3 ORDER BY sequence LIMIT $2"
        }
        None => {
            "SELECT sequence, settlement_id, tenant, kind, written_at FROM compensations \
             WHERE sequence > $1 ORDER BY sequence LIMIT $2"
        }
    };
    let mut query = sqlx::query(sql)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(i64::from(limit.min(LARGEST_EVENTS)));
    if let Some(settlement) = settlement {
        query = query.bind(settlement.0);
    }
    let rows = query.fetch_all(pool).await.map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            Ok(Compensation {
                sequence: unsigned(columns.take()?)?,
                settlement: SettlementId(columns.take()?),
                tenant: TenantId::new(&columns.take::<String>()?),
                kind: read(&columns.take::<String>()?, "kind of compensation")?,
                at: UnixMillis(unsigned(columns.take()?)?),
            })
        })
        .collect()
}

pub(super) async fn events(
    pool: &Pool,
    after: u64,
    tenant: Option<&TenantId>,
    limit: u32,
) -> StoreResult<Vec<SettlementEvent>> {
    let sql = match tenant {
        Some(_) => concat!(
            "SELECT o.sequence, ",
            settlement_columns!(),
            " FROM outbox AS o JOIN settlements AS s ",
            "ON s.id = o.settlement_id WHERE o.sequence > $1 AND o.tenant = $3 ORDER BY o.sequence LIMIT $2"
        ),
        None => concat!(
            "SELECT o.sequence, ",
            settlement_columns!(),
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

pub(super) async fn last_event(pool: &Pool) -> StoreResult<u64> {
    let row = sqlx::query("SELECT coalesce(max(sequence), 0) FROM outbox")
        .fetch_one(pool)
        .await
        .map_err(StoreError::of_ledger)?;
    unsigned(Columns::of(&row).take()?)
}
