//! The holds of in-process reservations, in the ledger's file.

use alloy_primitives::{B256, hex};
use serde_json::{Value, json};
use sqlx::SqliteConnection;
use teller_domain::{AssetAmount, AuthorizationKey, AuthorizationNonce, ChainId};

use super::writer::Grouped;
use crate::holds::{Fingerprint, Hold};
use crate::rows::{Columns, address, signed, unsigned, word};
use crate::{StoreError, StoreResult};

/// What becomes of one hold: written anew, or removed. Those of one transaction are done in order.
pub(crate) struct HoldWrite {
    pub(crate) changes: Vec<(AuthorizationKey, Option<Hold>)>,
}

/// See [`Grouped`].
pub(super) struct Holds;

impl Grouped for Holds {
    type Request = HoldWrite;
    type Answer = ();
    const NAME: &'static str = "hold";

    async fn run(
        connection: &mut SqliteConnection,
        requests: &[HoldWrite],
    ) -> StoreResult<Vec<()>> {
        // The last change of a hold is the one that counts.
        let mut latest = std::collections::HashMap::new();
        for (key, hold) in requests.iter().flat_map(|write| &write.changes) {
            latest.insert(key, hold);
        }
        let mut written = Vec::new();
        let mut removed = Vec::new();
        for (key, hold) in latest {
            match hold {
                Some(hold) => written.push(columns(key, hold)?),
                None => removed.push(key_columns(key)?),
            }
        }
        if !written.is_empty() {
            sqlx::query(
                "INSERT INTO holds (payer, nonce, chain_id, authority, asset, value, tenant, digest, idempotency, \
                 settling, nonce_until, balance_until, mined_block) \
                 SELECT unhex(value->>0), unhex(value->>1), value->>2, unhex(value->>3), unhex(value->>4), value->>5, \
                 unhex(value->>6), unhex(value->>7), unhex(value->>8), value->>9, value->>10, value->>11, value->>12 \
                 FROM json_each(?1) WHERE true \
                 ON CONFLICT DO UPDATE SET asset = excluded.asset, value = excluded.value, tenant = excluded.tenant, \
                 digest = excluded.digest, idempotency = excluded.idempotency, settling = excluded.settling, \
                 nonce_until = excluded.nonce_until, balance_until = excluded.balance_until, \
                 mined_block = excluded.mined_block",
            )
            .bind(Value::from(written).to_string())
            .execute(&mut *connection)
            .await
            .map_err(StoreError::of_ledger)?;
        }
        if !removed.is_empty() {
            sqlx::query(
                "DELETE FROM holds WHERE (payer, nonce, chain_id, authority) IN \
                 (SELECT unhex(value->>0), unhex(value->>1), value->>2, unhex(value->>3) FROM json_each(?1))",
            )
            .bind(Value::from(removed).to_string())
            .execute(connection)
            .await
            .map_err(StoreError::of_ledger)?;
        }
        Ok(requests.iter().map(|_| ()).collect())
    }
}

fn key_columns(key: &AuthorizationKey) -> StoreResult<Value> {
    Ok(json!([
        hex::encode(key.payer),
        hex::encode(key.nonce.0),
        signed(key.chain.0, "a chain id")?,
        hex::encode(key.authority),
    ]))
}

fn columns(key: &AuthorizationKey, hold: &Hold) -> StoreResult<Value> {
    let mined = hold
        .mined
        .map(|block| signed(block, "a block number"))
        .transpose()?;
    Ok(json!([
        hex::encode(key.payer),
        hex::encode(key.nonce.0),
        signed(key.chain.0, "a chain id")?,
        hex::encode(key.authority),
        hex::encode(hold.asset),
        hold.value.to_string(),
        hex::encode(hold.tenant.0),
        hex::encode(hold.digest.0),
        hold.idempotency.map(|key| hex::encode(key.0)),
        u8::from(hold.settling),
        signed(hold.nonce_until, "a moment")?,
        signed(hold.balance_until, "a moment")?,
        mined,
    ]))
}

/// Every hold in the file.
pub(crate) async fn load(
    connection: &mut SqliteConnection,
) -> StoreResult<Vec<(AuthorizationKey, Hold)>> {
    let rows = sqlx::query(
        "SELECT payer, nonce, chain_id, authority, asset, value, tenant, digest, idempotency, settling, nonce_until, \
         balance_until, mined_block FROM holds",
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::of_ledger)?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            let payer = address(&columns.take::<Vec<u8>>()?)?;
            let nonce = AuthorizationNonce(word(&columns.take::<Vec<u8>>()?)?);
            let chain = ChainId(unsigned(columns.take()?)?);
            let authority = address(&columns.take::<Vec<u8>>()?)?;
            let asset = address(&columns.take::<Vec<u8>>()?)?;
            let value: AssetAmount = columns
                .take::<String>()?
                .parse()
                .map_err(|_| StoreError::Corrupt("an unknown amount".to_owned()))?;
            let tenant = fingerprint(&columns.take::<Vec<u8>>()?)?;
            let digest =
                teller_domain::PaymentDigest(B256::from(word(&columns.take::<Vec<u8>>()?)?));
            let idempotency = columns
                .take::<Option<Vec<u8>>>()?
                .map(|bytes| fingerprint(&bytes))
                .transpose()?;
            let settling = columns.take::<i64>()? != 0;
            let nonce_until = unsigned(columns.take()?)?;
            let balance_until = unsigned(columns.take()?)?;
            let mined = columns.take::<Option<i64>>()?.map(unsigned).transpose()?;
            let key = AuthorizationKey {
                chain,
                authority,
                payer,
                nonce,
            };
            let hold = Hold {
                asset,
                value,
                tenant,
                digest,
                idempotency,
                settling,
                nonce_until,
                balance_until,
                mined,
            };
            Ok((key, hold))
        })
        .collect()
}

fn fingerprint(bytes: &[u8]) -> StoreResult<Fingerprint> {
    bytes
        .try_into()
        .map(Fingerprint)
        .map_err(|_| StoreError::Corrupt("a fingerprint of odd length".to_owned()))
}
