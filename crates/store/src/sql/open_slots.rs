//! What is open: the slots of a signer with their attempts and payments. A part of each ledger.

use alloy_primitives::Address;
use teller_domain::{AccountNonce, BlockRef, ChainId, SettlementId, Slot, UnixMillis};

use super::dialect::{Connection, attempt_columns, attempt_columns_without_raw, indexed_by};
use crate::rows::{Columns, Opened, Part, address, assemble, attempt, signed, unsigned, word};
use crate::{StoreError, StoreResult};

/// Whether signed bytes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Raw {
    Read,
    LeftOut,
}

/// The open slots of a signer, by nonce.
pub(super) async fn of_signer(
    connection: &mut Connection,
    chain: ChainId,
    signer: Address,
    raw: Raw,
) -> StoreResult<Vec<Slot>> {
    let chain_id = signed(chain.0, "a chain id")?;
    let opened = sqlx::query(concat!(
        "SELECT x.nonce, x.opened_at, x.after_number, x.after_hash FROM slots AS x",
        indexed_by!("slots_open"),
        " WHERE x.chain_id = $1 AND x.signer = $2 AND x.state = 'open' ORDER BY x.nonce",
    ))
    .bind(chain_id)
    .bind(signer.to_vec())
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    if opened.is_empty() {
        return Ok(Vec::new());
    }
    macro_rules! attempts {
        ($columns:expr) => {
            concat!(
                "SELECT ", $columns, " FROM slots AS x", indexed_by!("slots_open"), " CROSS JOIN attempts AS a ",
                "WHERE a.chain_id = x.chain_id AND a.signer = x.signer AND a.nonce = x.nonce ",
                "AND x.chain_id = $1 AND x.signer = $2 AND x.state = 'open' ORDER BY a.nonce, a.position"
            )
        };
    }
    let attempts = sqlx::query(match raw {
        Raw::Read => attempts!(attempt_columns!()),
        Raw::LeftOut => attempts!(attempt_columns_without_raw!()),
    })
    .bind(chain_id)
    .bind(signer.to_vec())
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let payments = sqlx::query(concat!(
        "SELECT p.nonce, p.settlement_id, s.state FROM slots AS x", indexed_by!("slots_open"),
        " CROSS JOIN slot_payments AS p CROSS JOIN settlements AS s ",
        "WHERE p.chain_id = x.chain_id AND p.signer = x.signer AND p.nonce = x.nonce AND s.id = p.settlement_id ",
        "AND x.chain_id = $1 AND x.signer = $2 AND x.state = 'open' ",
        "AND s.state IN ('assigned', 'preconfirmed', 'failed', 'expired') ",
        "AND s.last_slot_signer = $2 AND s.last_slot_nonce = p.nonce ORDER BY p.nonce, p.position",
    ))
    .bind(chain_id)
    .bind(signer.to_vec())
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let opened = opened
        .iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let nonce = AccountNonce(unsigned(columns.take()?)?);
            let opened_at = UnixMillis(unsigned(columns.take()?)?);
            let number = columns.take::<Option<i64>>()?.map(unsigned).transpose()?;
            let hash = columns.take::<Option<Vec<u8>>>()?;
            let hash = hash.as_deref().map(word).transpose()?;
            let after = number
                .zip(hash)
                .map(|(number, hash)| BlockRef { number, hash });
            Ok(Opened {
                nonce,
                opened_at,
                after,
            })
        })
        .collect::<StoreResult<Vec<_>>>()?;
    let attempts = attempts
        .iter()
        .map(|row| attempt(&mut Columns::of(row)))
        .collect::<StoreResult<Vec<_>>>()?;
    let payments = payments
        .iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let nonce = AccountNonce(unsigned(columns.take()?)?);
            let payment = SettlementId(columns.take()?);
            let part = match columns.take::<String>()?.as_str() {
                "assigned" | "preconfirmed" => Part::Assigned,
                _ => Part::Ended,
            };
            Ok((nonce, payment, part))
        })
        .collect::<StoreResult<Vec<_>>>()?;
    Ok(assemble(chain, signer, opened, attempts, payments))
}

/// Every signer with an open slot, or unexplained payments, on a network.
pub(super) async fn signers(
    connection: &mut Connection,
    chain: ChainId,
) -> StoreResult<Vec<Address>> {
    let rows = sqlx::query(concat!(
        "SELECT DISTINCT x.signer FROM slots AS x",
        indexed_by!("slots_open"),
        " WHERE x.chain_id = $1 AND x.state = 'open' UNION SELECT s.slot_signer FROM settlements AS s ",
        "WHERE s.chain_id = $1 AND s.state IN ('accepted', 'assigned', 'preconfirmed', 'unexplained') ",
        "AND s.state = 'unexplained'",
    ))
    .bind(signed(chain.0, "a chain id")?)
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| address(&Columns::of(row).take::<Vec<u8>>()?))
        .collect()
}
