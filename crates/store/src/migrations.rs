//! The numbered migrations, embedded: the binary has no files beside it. Forward only.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqlitePool;
use sqlx::{Acquire, PgPool, Row, SqlSafeStr, SqliteConnection};

use crate::{StoreError, StoreResult};

const SQLITE: [(i64, &str, &str); 9] = [
    (
        1,
        "ledger",
        include_str!("../../../migrations/sqlite/0001_ledger.sql"),
    ),
    (
        2,
        "pruning",
        include_str!("../../../migrations/sqlite/0002_pruning.sql"),
    ),
    (
        3,
        "reorgs",
        include_str!("../../../migrations/sqlite/0003_reorgs.sql"),
    ),
    (
        4,
        "ways_of_paying",
        include_str!("../../../migrations/sqlite/0004_ways_of_paying.sql"),
    ),
    (
        5,
        "receipts_and_discovery",
        include_str!("../../../migrations/sqlite/0005_receipts_and_discovery.sql"),
    ),
    (
        6,
        "times",
        include_str!("../../../migrations/sqlite/0006_times.sql"),
    ),
    (
        7,
        "delegations",
        include_str!("../../../migrations/sqlite/0007_delegations.sql"),
    ),
    (
        8,
        "approvals",
        include_str!("../../../migrations/sqlite/0008_approvals.sql"),
    ),
    (
        9,
        "handed_over",
        include_str!("../../../migrations/sqlite/0009_handed_over.sql"),
    ),
];

const POSTGRES: [(i64, &str, &str); 9] = [
    (
        1,
        "ledger",
        include_str!("../../../migrations/postgres/0001_ledger.sql"),
    ),
    (
        2,
        "pruning",
        include_str!("../../../migrations/postgres/0002_pruning.sql"),
    ),
    (
        3,
        "reorgs",
        include_str!("../../../migrations/postgres/0003_reorgs.sql"),
    ),
    (
        4,
        "ways_of_paying",
        include_str!("../../../migrations/postgres/0004_ways_of_paying.sql"),
    ),
    (
        5,
        "receipts_and_discovery",
        include_str!("../../../migrations/postgres/0005_receipts_and_discovery.sql"),
    ),
    (
        6,
        "times",
        include_str!("../../../migrations/postgres/0006_times.sql"),
    ),
    (
        7,
        "delegations",
        include_str!("../../../migrations/postgres/0007_delegations.sql"),
    ),
    (
        8,
        "approvals",
        include_str!("../../../migrations/postgres/0008_approvals.sql"),
    ),
    (
        9,
        "handed_over",
        include_str!("../../../migrations/postgres/0009_handed_over.sql"),
    ),
];

fn migrator(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations = migrations
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(
                *version,
                Cow::Borrowed(*name),
                MigrationType::Simple,
                sql.into_sql_str(),
                false,
            )
        })
        .collect();
    Migrator::with_migrations(migrations)
}

fn newest(migrations: &[(i64, &str, &str)]) -> i64 {
    migrations
        .iter()
        .map(|(version, _, _)| *version)
        .max()
        .unwrap_or(0)
}

fn failed(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            StoreError::of_ledger(error)
        }
        MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
            StoreError::Configuration("the ledger was written by a newer teller".to_owned())
        }
        other => StoreError::Configuration(format!("the ledger cannot be migrated: {other}")),
    }
}

/// Runs what is pending.
pub(crate) async fn sqlite(connection: &mut SqliteConnection) -> StoreResult<()> {
    let connection = connection.acquire().await.map_err(StoreError::of_ledger)?;
    migrator(&SQLITE)
        .run_direct(None, connection, false)
        .await
        .map_err(failed)
}

/// Refuses a file whose tables are not those that this teller reads.
pub(crate) async fn expect_sqlite(readers: &SqlitePool) -> StoreResult<()> {
    let applied =
        sqlx::query("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
            .fetch_one(readers)
            .await
            .and_then(|row| row.try_get::<i64, _>(0));
    match applied {
        Ok(version) if version == newest(&SQLITE) => Ok(()),
        Ok(_) => Err(StoreError::Configuration(
            "the ledger file was written by another version of teller; `teller serve` brings older ones up to date"
                .to_owned(),
        )),
        Err(sqlx::Error::Database(_)) => Err(StoreError::Configuration(
            "the file is no ledger of teller".to_owned(),
        )),
        Err(error) => Err(StoreError::of_ledger(error)),
    }
}

/// Runs what is pending, under a lock that other processes wait for.
pub(crate) async fn postgres(pool: &PgPool) -> StoreResult<()> {
    let mut connection = pool.acquire().await.map_err(StoreError::of_ledger)?;
    // A large table takes longer to change than any call may; its lock is not waited for at length, because everybody
    // else would wait behind it.
    for limit in ["SET statement_timeout = 0", "SET lock_timeout = '60s'"] {
        sqlx::query(limit)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::of_ledger)?;
    }
    migrator(&POSTGRES)
        .run_direct(None, &mut *connection, false)
        .await
        .map_err(failed)
}

/// Refuses a database whose tables are not those that this teller reads.
pub(crate) async fn expect_postgres(pool: &PgPool) -> StoreResult<()> {
    let known: Option<bool> = sqlx::query("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(pool)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(StoreError::of_ledger)?;
    let applied = if known == Some(true) {
        sqlx::query("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
            .fetch_one(pool)
            .await
            .and_then(|row| row.try_get::<i64, _>(0))
            .map_err(StoreError::of_ledger)?
    } else {
        0
    };
    let newest = newest(&POSTGRES);
    match applied {
        applied if applied == newest => Ok(()),
        applied if applied < newest => Err(StoreError::Configuration(
            "the ledger's tables are missing or old: run `teller migrate`".to_owned(),
        )),
        _ => Err(StoreError::Configuration(
            "the ledger was written by a newer teller".to_owned(),
        )),
    }
}
