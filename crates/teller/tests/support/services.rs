//! A Postgres and a Redis of a test's own, to be stopped, killed and flushed; nobody else's are touched.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use sqlx::Connection;

use super::free_port;

const READY_WITHIN: Duration = Duration::from_secs(30);
const DATABASE: &str = "teller_faults";

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

fn signal(signal: &str, pid: u32) {
    run(Command::new("kill").args([format!("-{signal}"), pid.to_string()]));
}

/// A server that ends with this process, however it ends.
fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    command.arg(program);
    command
}

/// The newest installed Postgres, or the one on the PATH.
fn postgres_programs() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").ok();
    let versions = installed.into_iter().flatten().filter_map(Result::ok);
    let newest = versions
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file())
        .max();
    newest.unwrap_or_else(|| {
        let paths = std::env::var_os("PATH").unwrap();
        std::env::split_paths(&paths)
            .find(|path| path.join("initdb").is_file())
            .expect("Postgres is not installed")
    })
}

/// Postgres, with a database for a teller.
pub struct Postgres {
    programs: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Postgres {
    pub async fn start() -> Self {
        let programs = postgres_programs();
        let directory = tempfile::tempdir().unwrap();
        if is_root() {
            // Postgres refuses to run as root.
            run(Command::new("chown").arg("nobody").arg(directory.path()));
        }
        let mut server = Self {
            programs,
            directory,
            port: free_port(),
            child: None,
        };
        let data = server.data();
        let initdb = server.programs.join("initdb");
        run(server.unprivileged(&initdb).arg("-D").arg(data).args([
            "-U",
            "teller",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]));
        server.restart().await;
        let mut connection = server.connect("postgres").await.unwrap();
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {DATABASE}"));
        sqlx::raw_sql(create)
            .execute(&mut connection)
            .await
            .unwrap();
        server
    }

    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://teller@127.0.0.1:{}/{database}", self.port)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn unprivileged(&self, program: &Path) -> Command {
        let mut command = tied(program);
        if is_root() {
            let mut outer = Command::new("setpriv");
            outer.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
            outer.args(["--pdeathsig", "KILL"]).arg(program);
            command = outer;
        }
        command.current_dir(self.directory.path());
        command
    }

    async fn connect(&self, database: &str) -> Result<sqlx::PgConnection, sqlx::Error> {
        sqlx::PgConnection::connect(&self.url_of(database)).await
    }

    /// Starts it on the same data and port, and waits until it answers.
    pub async fn restart(&mut self) {
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        let program = self.programs.join("postgres");
        let child = self
            .unprivileged(&program)
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=on"])
            .args([
                "-c",
                "unix_socket_directories=",
                "-c",
                "max_connections=200",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
        self.answers().await;
    }

    /// A connection, once it answers: it may be starting, or recovering from a crash.
    async fn answers(&self) -> sqlx::PgConnection {
        let start = Instant::now();
        loop {
            match self.connect("postgres").await {
                Ok(connection) => return connection,
                Err(error) => assert!(start.elapsed() < READY_WITHIN, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A server that follows this one, from a copy of its data as it is now. `Postgres::promote` makes it a primary.
    pub async fn standby(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if is_root() {
            run(Command::new("chown").arg("nobody").arg(directory.path()));
        }
        let mut standby = Self {
            programs: self.programs.clone(),
            directory,
            port: free_port(),
            child: None,
        };
        let copy = standby.programs.join("pg_basebackup");
        let data = standby.data();
        let mut command = standby.unprivileged(&copy);
        command.args(["-h", "127.0.0.1", "-U", "teller", "-R", "-X", "stream"]);
        command.args(["-c", "fast", "-p", &self.port.to_string(), "-D"]);
        run(command.arg(data));
        standby.restart().await;
        standby
    }

    /// Waits until this standby has all that the primary has, and makes it a primary.
    pub async fn promote(&self, primary: &Self) {
        let at: String = primary.ask("SELECT pg_current_wal_lsn()::text").await;
        let start = Instant::now();
        let behind = format!("SELECT (pg_last_wal_replay_lsn() < '{at}')::text");
        while self.ask(&behind).await == "true" {
            assert!(start.elapsed() < READY_WITHIN, "the standby stays behind");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(self.ask("SELECT pg_promote()::text").await, "true");
    }

    /// Every transaction is read-only from now on, also of connections that are there; or writes are taken again.
    pub async fn read_only(&self, is_read_only: bool) {
        let mut connection = self.answers().await;
        // The first would be refused once the second is in force.
        let statements = [
            "SET default_transaction_read_only = off",
            match is_read_only {
                true => "ALTER SYSTEM SET default_transaction_read_only = on",
                false => "ALTER SYSTEM RESET default_transaction_read_only",
            },
            "SELECT pg_reload_conf()",
        ];
        for statement in statements {
            sqlx::raw_sql(statement)
                .execute(&mut connection)
                .await
                .unwrap();
        }
    }

    async fn ask(&self, query: &str) -> String {
        let mut connection = self.answers().await;
        let query = sqlx::AssertSqlSafe(query.to_owned());
        sqlx::query_scalar(query)
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL with another port: that of a switch before it.
    pub fn url_at(&self, port: u16) -> String {
        format!("postgres://teller@127.0.0.1:{port}/{DATABASE}")
    }

    /// The fast shutdown: transactions under way are rolled back.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// The immediate shutdown: as if the power had failed; the next start recovers.
    pub fn crash(&mut self) {
        self.end("QUIT");
    }

    fn end(&mut self, with: &str) {
        let mut child = self.child.take().unwrap();
        signal(with, child.id());
        super::wait_for_end(&mut child);
    }

    /// kill -9 of a server process in the middle of a commit, if one is found there, else of any that serves a teller.
    /// Postgres then ends all others and recovers. Answers whether it was a commit.
    pub async fn kill_a_committing_backend(&self) -> bool {
        let mut connection = self.answers().await;
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < READY_WITHIN, "nobody is connected");
            let committing = start.elapsed() < Duration::from_secs(5);
            let chosen = match committing {
                true => "state = 'active' AND (query ILIKE 'commit%' OR wait_event = 'WalSync')",
                false => "true",
            };
            let find = format!(
                "SELECT pid FROM pg_stat_activity WHERE datname = '{DATABASE}' AND {chosen} LIMIT 1"
            );
            let pid: Option<i32> = sqlx::query_scalar(sqlx::AssertSqlSafe(find))
                .fetch_optional(&mut connection)
                .await
                .unwrap();
            if let Some(pid) = pid {
                signal("KILL", u32::try_from(pid).unwrap());
                return committing;
            }
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.crash();
        }
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

/// Redis without persistence.
pub struct Redis {
    port: u16,
    child: Option<Child>,
    directory: tempfile::TempDir,
}

impl Redis {
    pub async fn start() -> Self {
        let mut server = Self {
            port: free_port(),
            child: None,
            directory: tempfile::tempdir().unwrap(),
        };
        server.restart().await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts an empty one on the same port.
    pub async fn restart(&mut self) {
        self.directory = tempfile::tempdir().unwrap();
        self.restart_as_saved().await;
    }

    /// Starts one on the same port, with what the last one has saved.
    pub async fn restart_as_saved(&mut self) {
        let child = tied(Path::new("redis-server"))
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.directory.path())
            .args(["--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
        let start = Instant::now();
        while !self.ask("PING") {
            assert!(start.elapsed() < READY_WITHIN, "Redis does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn flush(&self) {
        assert!(self.ask("FLUSHALL"));
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a command that must succeed; answers what Redis says.
    pub fn tell(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let told = Command::new("redis-cli")
            .args(["-e", "-h", "127.0.0.1", "-p", &port])
            .args(command)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.status.success(), "{command:?}: {text}");
        text
    }

    fn ask(&self, command: &str) -> bool {
        let port = self.port.to_string();
        let asked = Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &port, command])
            .output();
        asked.unwrap().status.success()
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// A name that can lead to another server: connections are passed on to a port that a test may change. Those that are
/// there stay where they are.
pub struct Switch {
    pub port: u16,
    target: Arc<AtomicU16>,
    task: tokio::task::JoinHandle<()>,
}

impl Switch {
    pub async fn to(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let current = Arc::clone(&target);
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let port = current.load(Ordering::Relaxed);
                tokio::spawn(async move {
                    // A side that goes away ends the other.
                    if let Ok(mut far) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { port, target, task }
    }

    pub fn turn_to(&self, target: u16) {
        self.target.store(target, Ordering::Relaxed);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
