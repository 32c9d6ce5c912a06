//! The discovery catalogue. A part of each ledger.

use std::collections::HashMap;

use sqlx::QueryBuilder;
use teller_domain::{UnixMillis, X402Version};

use super::dialect::{
    Connection, Db, Pool, clock, in_numbers, numbers, prunes_alone, search_condition, search_order,
    search_source, searched, snapshot,
};
use crate::catalogue::MOST_ACCEPTS;
use crate::rows::{Columns, key_hash, present, signed, unsigned};
use crate::{
    CatalogueBounds, CataloguePage, CatalogueQuery, Listing, NewListing, SearchWords, StoreError,
    StoreResult,
};

/// Which resources a query is about.
pub(super) enum Search {
    All,
    Every(SearchWords),
    Any(SearchWords),
}

pub(super) async fn list_resource(
    connection: &mut Connection,
    new: NewListing,
    bounds: CatalogueBounds,
) -> StoreResult<()> {
    let tenant = new.tenant.as_str();
    let key = key_hash(&[tenant, new.kind.as_str(), &new.resource, new.kind.tool()]);
    let known = sqlx::query("SELECT 1 FROM discovery_resources WHERE key_hash = $1")
        .bind(key.to_vec())
        .fetch_optional(&mut *connection)
        .await
        .map_err(StoreError::of_ledger)?;
    let row = sqlx::query(concat!(
        "INSERT INTO discovery_resources (key_hash, tenant, kind, resource, version, description, mime_type, ",
        "service_name, tags, icon_url, extensions, words, paid_at) ",
        "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, ms FROM ", clock!(), " WHERE true ",
        "ON CONFLICT (key_hash) DO UPDATE SET version = excluded.version, description = excluded.description, ",
        "mime_type = excluded.mime_type, service_name = excluded.service_name, tags = excluded.tags, ",
        "icon_url = excluded.icon_url, extensions = excluded.extensions, words = excluded.words, ",
        "paid_at = excluded.paid_at RETURNING id, paid_at",
    ))
    .bind(key.to_vec())
    .bind(tenant)
    .bind(new.kind.as_str())
    .bind(&new.resource)
    .bind(i64::from(new.version.number()))
    .bind(&new.description)
    .bind(&new.mime_type)
    .bind(&new.service_name)
    .bind(serde_json::Value::from(new.tags.as_slice()).to_string())
    .bind(&new.icon_url)
    .bind(&new.extensions)
    .bind(new.words())
    .fetch_one(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    let mut columns = Columns::of(&row);
    let id: i64 = columns.take()?;
    let paid_at: i64 = columns.take()?;
    accept(connection, id, paid_at, &new).await?;
    match known {
        Some(_) => Ok(()),
        None => keep_within(connection, tenant, paid_at, bounds).await,
    }
}

async fn accept(
    connection: &mut Connection,
    id: i64,
    paid_at: i64,
    new: &NewListing,
) -> StoreResult<()> {
    let terms = &new.terms;
    sqlx::query(
        "INSERT INTO discovery_accepts (resource_id, scheme, chain_id, asset, pay_to, requirements, paid_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (resource_id, scheme, chain_id, asset, pay_to) \
         DO UPDATE SET requirements = excluded.requirements, paid_at = excluded.paid_at",
    )
    .bind(id)
    .bind(&terms.scheme)
    .bind(signed(terms.chain.0, "a chain id")?)
    .bind(terms.asset.to_vec())
    .bind(terms.pay_to.to_vec())
    .bind(&terms.requirements)
    .bind(paid_at)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    sqlx::query(
        "DELETE FROM discovery_accepts WHERE resource_id = $1 AND (scheme, chain_id, asset, pay_to) NOT IN ( \
         SELECT scheme, chain_id, asset, pay_to FROM discovery_accepts WHERE resource_id = $1 \
         ORDER BY paid_at DESC, scheme, chain_id, asset, pay_to LIMIT $2)",
    )
    .bind(id)
    .bind(MOST_ACCEPTS)
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

/// Who cannot do it alone leaves it to the one who can.
async fn keep_within(
    connection: &mut Connection,
    tenant: &str,
    now: i64,
    bounds: CatalogueBounds,
) -> StoreResult<()> {
    if !prunes_alone(connection).await? {
        return Ok(());
    }
    let oldest = now.saturating_sub(i64::try_from(bounds.kept_ms).unwrap_or(i64::MAX));
    sqlx::query("DELETE FROM discovery_resources WHERE paid_at < $1")
        .bind(oldest)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::of_ledger)?;
    sqlx::query(
        "DELETE FROM discovery_resources WHERE id IN (SELECT id FROM discovery_resources WHERE tenant = $1 \
         ORDER BY paid_at DESC, id DESC LIMIT 1000 OFFSET $2)",
    )
    .bind(tenant)
    .bind(i64::from(bounds.resources_of_a_tenant))
    .execute(&mut *connection)
    .await
    .map_err(StoreError::of_ledger)?;
    sqlx::query(
        "DELETE FROM discovery_resources WHERE id IN (SELECT id FROM discovery_resources \
         ORDER BY paid_at DESC, id DESC LIMIT 1000 OFFSET $1)",
    )
    .bind(i64::from(bounds.resources))
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(StoreError::of_ledger)
}

/// The conditions of a query behind `select`, with everything bound.
fn conditions(
    select: &'static str,
    search: &Search,
    query: &CatalogueQuery,
) -> StoreResult<QueryBuilder<Db>> {
    let mut sql = QueryBuilder::<Db>::new(select);
    let words = match search {
        Search::All => None,
        Search::Every(words) => Some(searched(words, true)),
        Search::Any(words) => Some(searched(words, false)),
    };
    sql.push(" FROM discovery_resources AS r");
    match words {
        None => _ = sql.push(" WHERE true"),
        Some(words) => {
            sql.push(search_source!()).push(" WHERE ");
            search_condition(&mut sql, words);
        }
    }
    sql.push(concat!(
        " AND r.paid_at >= (SELECT ms FROM ",
        clock!(),
        ") - "
    ))
    .push_bind(i64::try_from(query.kept_ms).unwrap_or(i64::MAX));
    if let Some(kind) = &query.kind {
        sql.push(" AND r.kind = ").push_bind(kind.clone());
    }
    match query.has_extensions {
        Some(true) => _ = sql.push(" AND r.extensions IS NOT NULL"),
        Some(false) => _ = sql.push(" AND r.extensions IS NULL"),
        None => {}
    }
    if query.pay_to.is_some() || query.scheme.is_some() || query.chain.is_some() {
        // One way of paying has all of it.
        sql.push(" AND r.id IN (SELECT a.resource_id FROM discovery_accepts AS a WHERE true");
        if let Some(pay_to) = query.pay_to {
            sql.push(" AND a.pay_to = ").push_bind(pay_to.to_vec());
        }
        if let Some(scheme) = &query.scheme {
            sql.push(" AND a.scheme = ").push_bind(scheme.clone());
        }
        if let Some(chain) = query.chain {
            let chain = signed(chain.0, "a chain id")?;
            sql.push(" AND a.chain_id = ").push_bind(chain);
        }
        sql.push(")");
    }
    Ok(sql)
}

/// Resources, their ways of paying and their number from one moment.
pub(super) async fn resources(
    pool: &Pool,
    search: &Search,
    query: &CatalogueQuery,
) -> StoreResult<CataloguePage> {
    let mut snapshot = snapshot(pool).await?;
    let row = conditions("SELECT count(*)", search, query)?
        .build()
        .fetch_one(&mut *snapshot)
        .await
        .map_err(StoreError::of_ledger)?;
    let total = unsigned(Columns::of(&row).take()?)?;
    let select = "SELECT r.id, r.kind, r.resource, r.version, r.description, r.mime_type, r.service_name, r.tags, \
                  r.icon_url, r.extensions, r.paid_at";
    let mut sql = conditions(select, search, query)?;
    sql.push(" ORDER BY ");
    match search {
        Search::All => {}
        Search::Every(words) => search_order(&mut sql, searched(words, true)),
        Search::Any(words) => search_order(&mut sql, searched(words, false)),
    }
    sql.push("r.paid_at DESC, r.id DESC LIMIT ")
        .push_bind(i64::from(query.page_size()))
        .push(" OFFSET ")
        .push_bind(i64::from(query.offset));
    let rows = sql
        .build()
        .fetch_all(&mut *snapshot)
        .await
        .map_err(StoreError::of_ledger)?;
    let mut listings = Vec::with_capacity(rows.len());
    let mut places = HashMap::with_capacity(rows.len());
    let mut ids = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let id: i64 = columns.take()?;
        places.insert(id, listings.len());
        ids.push(id);
        listings.push(Listing {
            kind: columns.take()?,
            resource: columns.take()?,
            version: present(
                X402Version::from_number(unsigned(columns.take()?)?),
                "version",
            )?,
            description: columns.take()?,
            mime_type: columns.take()?,
            service_name: columns.take()?,
            tags: serde_json::from_str(&columns.take::<String>()?)
                .map_err(|_| StoreError::Corrupt("tags that are no list".to_owned()))?,
            icon_url: columns.take()?,
            extensions: columns.take()?,
            accepts: Vec::new(),
            paid_at: UnixMillis(unsigned(columns.take()?)?),
        });
    }
    let rows = sqlx::query(concat!(
        "SELECT a.resource_id, a.requirements FROM discovery_accepts AS a WHERE a.resource_id ",
        in_numbers!("$1"),
        " ORDER BY a.paid_at DESC, a.scheme, a.chain_id, a.asset, a.pay_to",
    ))
    .bind(numbers(&ids))
    .fetch_all(&mut *snapshot)
    .await
    .map_err(StoreError::of_ledger)?;
    for row in &rows {
        let mut columns = Columns::of(row);
        let id: i64 = columns.take()?;
        let listing = places.get(&id).and_then(|place| listings.get_mut(*place));
        if let Some(listing) = listing {
            listing.accepts.push(columns.take()?);
        }
    }
    Ok(CataloguePage { listings, total })
}

/// What has every word, or any where nothing has every.
pub(super) async fn search(
    pool: &Pool,
    words: &SearchWords,
    query: &CatalogueQuery,
) -> StoreResult<CataloguePage> {
    let page = resources(pool, &Search::Every(words.clone()), query).await?;
    match page.total {
        0 => resources(pool, &Search::Any(words.clone()), query).await,
        _ => Ok(page),
    }
}
