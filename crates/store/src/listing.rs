//! The one query that is put together from parts, for both ledgers.

use sqlx::{Database, Encode, QueryBuilder, Type};
use uuid::Uuid;

use crate::rows::signed;
use crate::{SettlementQuery, StoreResult};

/// The longest page.
const LARGEST_PAGE: u32 = 500;

/// How many settlements a page holds.
pub(crate) fn page_size(query: &SettlementQuery) -> usize {
    query.limit.clamp(1, LARGEST_PAGE) as usize
}

/// `select` reads `FROM settlements AS s`; one row more than the page is asked for, to know whether there is one.
pub(crate) fn list<DB>(
    select: &'static str,
    query: &SettlementQuery,
) -> StoreResult<QueryBuilder<DB>>
where
    DB: Database,
    i64: for<'q> Encode<'q, DB> + Type<DB>,
    String: for<'q> Encode<'q, DB> + Type<DB>,
    Vec<u8>: for<'q> Encode<'q, DB> + Type<DB>,
    Uuid: for<'q> Encode<'q, DB> + Type<DB>,
{
    let mut sql = QueryBuilder::<DB>::new(select);
    sql.push(" WHERE true");
    if let Some(tenant) = &query.tenant {
        sql.push(" AND s.tenant = ")
            .push_bind(tenant.as_str().to_owned());
    }
    if let Some(chain) = query.chain {
        sql.push(" AND s.chain_id = ")
            .push_bind(signed(chain.0, "a chain id")?);
    }
    if let Some(state) = query.state {
        // Written out, so that the partial indices serve it; it is one of a few words.
        sql.push(" AND s.state = '").push(state.as_str()).push("'");
    }
    if let Some(payer) = query.payer {
        sql.push(" AND s.payer = ").push_bind(payer.to_vec());
    }
    if let Some(nonce) = query.nonce {
        sql.push(" AND s.nonce = ").push_bind(nonce.to_vec());
    }
    if let Some(hash) = query.transaction {
        sql.push(
            " AND s.id IN (SELECT p.settlement_id FROM attempts AS a JOIN slot_payments AS p \
             ON p.chain_id = a.chain_id AND p.signer = a.signer AND p.nonce = a.nonce \
             WHERE a.kind = 'batch' AND a.hash = ",
        )
        .push_bind(hash.to_vec())
        .push(
            " UNION SELECT e.id FROM settlements AS e WHERE e.state = 'settled_externally' \
             AND e.transaction_hash = ",
        )
        .push_bind(hash.to_vec())
        .push(")");
    }
    if let Some(before) = query.before {
        sql.push(" AND s.id < ").push_bind(before.0);
    }
    sql.push(" ORDER BY s.id DESC LIMIT ")
        .push_bind(page_size(query) as i64 + 1);
    Ok(sql)
}
