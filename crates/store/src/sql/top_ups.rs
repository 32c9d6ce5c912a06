//! What payers were given for the gas of their approvals. A part of each ledger.

use std::collections::HashMap;

use alloy_primitives::Address;
use teller_domain::{AccountNonce, ChainId, SettlementId, SlotId};

use super::dialect::{Connection, clock, in_numbers, numbers, numeric, text};
use super::slots::slot_columns;
use crate::rows::{Columns, address, read, signed, unsigned};
use crate::{MadeTopUp, StoreError, StoreResult, TopUp};

/// See [`crate::Ledger::top_up`].
pub(super) async fn find(
    connection: &mut Connection,
    chain: ChainId,
    payer: Address,
    token: Address,
) -> StoreResult<Option<MadeTopUp>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        text!("t.value"),
        ", t.signer, t.nonce, x.state FROM top_ups AS t JOIN slots AS x ",
        "ON x.chain_id = t.chain_id AND x.signer = t.signer AND x.nonce = t.nonce ",
        "WHERE t.chain_id = $1 AND t.payer = $2 AND t.token = $3",
    ))
    .bind(signed(chain.0, "a chain id")?)
    .bind(payer.to_vec())
    .bind(token.to_vec())
    .fetch_optional(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let Some(row) = row else { return Ok(None) };
    let mut columns = Columns::of(&row);
    let value = read(&columns.take::<String>()?, "value")?;
    let signer = address(&columns.take::<Vec<u8>>()?)?;
    let nonce = AccountNonce(unsigned(columns.take()?)?);
    let open = columns.take::<String>()? == "open";
    Ok(Some(MadeTopUp {
        top_up: TopUp {
            payer,
            token,
            value,
        },
        slot: SlotId {
            chain,
            signer,
            nonce,
        },
        open,
    }))
}

/// Whether it is the payer's first for this token.
pub(super) async fn insert(
    connection: &mut Connection,
    id: SlotId,
    top_up: &TopUp,
    payments: &[SettlementId],
) -> StoreResult<bool> {
    let (chain, signer, nonce) = slot_columns(id)?;
    let [payment] = payments else {
        return Err(StoreError::Conflict {
            row: format!("slot {id}"),
            expected: "one payment to top up for",
        });
    };
    sqlx::query(concat!(
        "INSERT INTO top_ups (chain_id, payer, token, value, signer, nonce, settlement_id, opened_at) ",
        "SELECT $1, $2, $3, ", numeric!("$4"), ", $5, $6, $7, ms FROM ", clock!(),
        " WHERE true ON CONFLICT (chain_id, payer, token) DO NOTHING",
    ))
    .bind(chain)
    .bind(top_up.payer.to_vec())
    .bind(top_up.token.to_vec())
    .bind(top_up.value.to_string())
    .bind(signer)
    .bind(nonce)
    .bind(payment.0)
    .execute(connection)
    .await
    .map(|inserted| inserted.rows_affected() > 0)
    .map_err(StoreError::of_ledger)
}

/// The top-ups of these slots of one signer, by nonce.
pub(super) async fn of_slots(
    connection: &mut Connection,
    chain: i64,
    signer: Address,
    nonces: &[i64],
) -> StoreResult<HashMap<i64, TopUp>> {
    let rows = sqlx::query(concat!(
        "SELECT t.nonce, t.payer, t.token, ",
        text!("t.value"),
        " FROM top_ups AS t WHERE t.chain_id = $1 ",
        "AND t.signer = $2 AND t.nonce ",
        in_numbers!("$3"),
    ))
    .bind(chain)
    .bind(signer.to_vec())
    .bind(numbers(nonces))
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let nonce = columns.take()?;
            let top_up = TopUp {
                payer: address(&columns.take::<Vec<u8>>()?)?,
                token: address(&columns.take::<Vec<u8>>()?)?,
                value: read(&columns.take::<String>()?, "value")?,
            };
            Ok((nonce, top_up))
        })
        .collect()
}
