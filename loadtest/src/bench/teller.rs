//! `teller serve` as a child, with a configuration and a fresh ledger of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::error::LoadError;
use crate::process::Process;
use crate::target::Target;

const READY_WITHIN: Duration = Duration::from_secs(30);
const READY_PAUSE: Duration = Duration::from_millis(20);
const DRAINED_WITHIN: Duration = Duration::from_secs(35);
const READY_LINE: &str = "teller is ready";
const SIGNER_VARIABLE: &str = "TELLER_LOADTEST_SIGNER";
/// Slots that the one signer may have open, the most that teller allows.
pub const DEPTH: u8 = 8;
const LOG_LINES: usize = 30;

/// A running facilitator. Dropping it kills it.
pub struct Teller {
    child: Child,
    pub rest: Target,
    pub grpc: Target,
    // Held for its drop.
    _files: TempDir,
}

/// The binary that was asked for, or the one that was built beside this program.
pub fn find_binary(asked: Option<&Path>) -> Result<PathBuf, LoadError> {
    let own = std::env::current_exe().map_err(LoadError::io("finding this program"))?;
    let binary = asked.map_or_else(|| own.with_file_name("teller"), Path::to_owned);
    // Made absolute, because the child starts in a directory of its own.
    std::fs::canonicalize(&binary).map_err(|_| LoadError::NoBinary {
        looked: binary.display().to_string(),
    })
}

impl Teller {
    /// Starts `teller serve` with one signer on the node at `rpc` and waits until it is ready.
    pub async fn start(binary: &Path, rpc: &str, signer: B256) -> Result<Self, LoadError> {
        let files = TempDir::new().map_err(LoadError::io("a temporary directory"))?;
        let [rest, grpc, metrics] = free_ports()?;
        let config = files.path().join("teller.toml");
        let log = files.path().join("teller.log");
        let ledger = files.path().join("teller.db");
        let text = config_text([rest, grpc, metrics], &ledger, rpc);
        std::fs::write(&config, text).map_err(LoadError::io("writing teller.toml"))?;
        let output = std::fs::File::create(&log).map_err(LoadError::io("creating teller.log"))?;
        let errors = output
            .try_clone()
            .map_err(LoadError::io("creating teller.log"))?;
        let child = Command::new(binary)
            .args(["serve", "--config"])
            .arg(&config)
            .current_dir(files.path())
            .env(SIGNER_VARIABLE, signer.to_string())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(LoadError::io(binary.display().to_string()))?;
        let mut teller = Self {
            child,
            rest: Target::at((Ipv4Addr::LOCALHOST, rest).into())?,
            grpc: Target::at((Ipv4Addr::LOCALHOST, grpc).into())?,
            _files: files,
        };
        teller.wait_until_ready(&log).await?;
        Ok(teller)
    }

    pub fn process(&self) -> Option<Process> {
        self.child.id().map(Process::new)
    }

    /// Lets it drain, then makes sure that it is gone.
    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let _killed_below_where_refused = Command::new("kill")
                .args(["-TERM", &pid.to_string()])
                .status()
                .await;
            let _ended = tokio::time::timeout(DRAINED_WITHIN, self.child.wait()).await;
        }
        let _gone_already = self.child.kill().await;
    }

    async fn wait_until_ready(&mut self, log: &Path) -> Result<(), LoadError> {
        let start = Instant::now();
        loop {
            // Looked at before the log: what it said last is then in the log.
            let ended = matches!(self.child.try_wait(), Ok(Some(_)) | Err(_));
            let text = std::fs::read_to_string(log).unwrap_or_default();
            if text.contains(READY_LINE) && !ended {
                return Ok(());
            }
            if ended || start.elapsed() > READY_WITHIN {
                let lines: Vec<&str> = text.lines().collect();
                let (_, last) = lines.split_at(lines.len().saturating_sub(LOG_LINES));
                return Err(LoadError::NotReady {
                    within: READY_WITHIN,
                    log: last.join("\n"),
                });
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }
}

fn config_text([rest, grpc, metrics]: [u16; 3], ledger: &Path, rpc: &str) -> String {
    format!(
        r#"[server]
rest = "127.0.0.1:{rest}"
grpc = "127.0.0.1:{grpc}"
metrics = "127.0.0.1:{metrics}"
auth = "open"

[ledger]
url = "sqlite://{}"

[reservations]
url = "memory://"

[[networks]]
id = "eip155:84532"
rpc = ["{rpc}"]
signers = ["env:{SIGNER_VARIABLE}"]
settled_at = "included"
depth = {DEPTH}
"#,
        ledger.display()
    )
}

/// Three ports that were free a moment ago, held together so that they are distinct.
fn free_ports() -> Result<[u16; 3], LoadError> {
    let bind =
        || TcpListener::bind("127.0.0.1:0").map_err(LoadError::io("looking for a free port"));
    let held = [bind()?, bind()?, bind()?];
    let port = |listener: &TcpListener| {
        listener
            .local_addr()
            .map(|address| address.port())
            .map_err(LoadError::io("looking for a free port"))
    };
    let [a, b, c] = &held;
    Ok([port(a)?, port(b)?, port(c)?])
}
