//! Postgres behind PgBouncer: session pooling works, transaction pooling is refused by its name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::Connection;
use teller_domain::ProcessId;
use teller_store::*;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// A PgBouncer of a test's own before the shared Postgres.
struct Pooler {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Pooler {
    async fn start(mode: &str) -> Self {
        let server = std::env::var("TELLER_TEST_POSTGRES_URL").unwrap();
        let database = format!("pooled_{}", uuid::Uuid::now_v7().simple());
        let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"));
        sqlx::raw_sql(create)
            .execute(&mut connection)
            .await
            .unwrap();
        let (before, _) = server.rsplit_once('/').unwrap();
        let direct = format!("{before}/{database}");
        migrate(&LedgerUrl::Postgres(direct)).await.unwrap();
        let (_, address) = before.rsplit_once('@').unwrap();
        let (host, port) = address.rsplit_once(':').unwrap();
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listen.local_addr().unwrap().port();
        drop(listen);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{database} = host={host} port={port} user=teller\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {own}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\n"
        );
        std::fs::write(&file, text).unwrap();
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if is_root {
            // PgBouncer refuses to run as root.
            let mut chown = Command::new("chown");
            chown.args(["-R", "nobody"]).arg(directory.path());
            assert!(chown.status().unwrap().success());
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        }
        // Debian keeps it where only root's PATH leads.
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        let child = command
            .env("PATH", path)
            .arg("pgbouncer")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("postgres://teller@127.0.0.1:{own}/{database}");
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", own)).is_err() {
            assert!(start.elapsed() < READY_WITHIN, "PgBouncer does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self {
            child,
            url,
            _directory: directory,
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_pooling_works() {
    let pooler = Pooler::start("session").await;
    let ledger = PostgresLedger::connect(&pooler.url).await.unwrap();
    ledger.ping().await.unwrap();
    ledger
        .heartbeat(ProcessId::fresh(), Duty::Answers, 60_000)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_pooling_is_refused_by_its_name() {
    let pooler = Pooler::start("transaction").await;
    let refused = PostgresLedger::connect(&pooler.url).await.err().unwrap();
    assert!(
        matches!(refused, StoreError::Configuration(_)),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("transaction pooling"),
        "{refused}"
    );
}
