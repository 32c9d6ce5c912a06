//! The anvil process: where its binary is, how it is started, and that it never outlives its owner.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::{Address, B256, U256, address};

use crate::DevnetError;
use crate::devnet::{DevnetConfig, Mining};
use crate::fees::MIN_BASE_FEE;

/// The chain id of Base Sepolia.
pub(crate) const CHAIN_ID: u64 = 84532;

/// States kept for calls at a past block; each is a copy of the whole chain state.
const KEPT_STATES: u32 = 72;
/// anvil's only account of its own.
pub(crate) const MARKED_ACCOUNT: Address = address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
const WEI_PER_ETHER: u64 = 1_000_000_000_000_000_000;
const KEPT_LOG_LINES: usize = 40;
const PORT_TRIES: u32 = 50;
/// Below the range that the kernel takes outgoing ports from.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Runs anvil and ends it when standard input closes, which the kernel does even for an owner that was
/// killed with -9. Ends by itself when anvil does.
const WATCHDOG: &str = r#"
"$@" </dev/null & node=$!
exec 3<&0
{ read -r _ <&3; kill -9 "$node" 2>/dev/null; } & watch=$!
wait "$node"; code=$?
kill -9 "$watch" 2>/dev/null
exit "$code"
"#;

/// A running anvil; dropping it ends the process and reaps it.
#[derive(Debug)]
pub(crate) struct Node {
    watchdog: Child,
    mark: U256,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Node {
    pub(crate) fn spawn(
        binary: &Path,
        port: u16,
        config: &DevnetConfig,
    ) -> Result<Self, DevnetError> {
        let [a, b, c, d, ..] = B256::random().0;
        let ether = u32::from_be_bytes([a, b, c, d]);
        let mut command = Command::new("sh");
        command
            .args(["-c", WATCHDOG, "anvil-watchdog"])
            .arg(binary)
            .args(arguments(port, config))
            .args(["--balance", &ether.to_string()])
            // A group of its own: Ctrl-C in a terminal is for the owner, who still needs the chain to drain.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut watchdog = command.spawn().map_err(DevnetError::Spawn)?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = watchdog.stderr.take() {
            let log = Arc::clone(&log);
            // The pipe has to be emptied or anvil blocks on it; the thread ends with the process.
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    tracing::debug!(target: "anvil", "{line}");
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    if log.len() == KEPT_LOG_LINES {
                        log.pop_front();
                    }
                    log.push_back(line);
                }
            });
        }
        Ok(Self {
            watchdog,
            mark: U256::from(ether) * U256::from(WEI_PER_ETHER),
            log,
        })
    }

    /// The balance of [`MARKED_ACCOUNT`] on this very node. Two processes that take one port at once both
    /// get answers from the winner's anvil; by the mark the loser notices.
    pub(crate) fn mark(&self) -> U256 {
        self.mark
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.watchdog.try_wait(), Ok(None))
    }

    /// The last lines of anvil's error output.
    pub(crate) fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        if let Err(error) = self.watchdog.wait() {
            tracing::warn!(%error, "anvil could not be reaped");
        }
    }
}

fn arguments(port: u16, config: &DevnetConfig) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut set = |name: &str, value: String| {
        arguments.push(format!("--{name}"));
        arguments.push(value);
    };
    set("host", "127.0.0.1".to_owned());
    set("port", port.to_string());
    set("chain-id", CHAIN_ID.to_string());
    set("gas-limit", config.gas_limit.to_string());
    set("base-fee", MIN_BASE_FEE.to_string());
    // Without these two anvil takes transactions over the cap of EIP-7825, which Base refuses.
    set("hardfork", "osaka".to_owned());
    set("prune-history", KEPT_STATES.to_string());
    set("transaction-block-keeper", config.keep_blocks.to_string());
    set("accounts", "1".to_owned());
    match config.mining {
        Mining::Interval(period) => set("block-time", period.as_secs_f64().to_string()),
        Mining::Instant => {}
        Mining::Manual => arguments.push("--no-mining".to_owned()),
    }
    arguments.extend(
        [
            "--enable-tx-gas-limit",
            "--no-request-size-limit",
            "--quiet",
        ]
        .map(str::to_owned),
    );
    arguments
}

/// Where anvil is: the configured path, `TELLER_ANVIL`, `.tools/bin/anvil` here or further up, the PATH.
pub(crate) fn find_anvil(configured: Option<&Path>) -> Result<PathBuf, DevnetError> {
    let mut looked = Vec::new();
    if let Some(path) = configured {
        return existing(path.to_owned(), &mut looked).ok_or_else(|| not_found(&looked));
    }
    if let Some(path) = std::env::var_os("TELLER_ANVIL") {
        return existing(PathBuf::from(path), &mut looked).ok_or_else(|| not_found(&looked));
    }
    if let Ok(here) = std::env::current_dir() {
        for directory in here.ancestors() {
            let candidate = directory.join(".tools/bin/anvil");
            if candidate.is_file() {
                return Ok(candidate);
            }
        }
        looked.push(format!(".tools/bin/anvil from {} up", here.display()));
    }
    if let Some(path) = std::env::var_os("PATH") {
        for directory in std::env::split_paths(&path) {
            let candidate = directory.join("anvil");
            if candidate.is_file() {
                return Ok(candidate);
            }
        }
        looked.push("PATH".to_owned());
    }
    Err(not_found(&looked))
}

fn existing(path: PathBuf, looked: &mut Vec<String>) -> Option<PathBuf> {
    looked.push(path.display().to_string());
    path.is_file().then_some(path)
}

fn not_found(looked: &[String]) -> DevnetError {
    DevnetError::AnvilNotFound {
        looked: looked.join(", "),
    }
}

/// A port nobody listens on. Random, so that two processes that look at once seldom find the same one.
pub(crate) fn free_port() -> Result<u16, DevnetError> {
    let width = PORTS.end - PORTS.start;
    for _ in 0..PORT_TRIES {
        let [high, low, ..] = B256::random().0;
        let port = PORTS.start + u16::from_be_bytes([high, low]) % width;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(DevnetError::NoFreePort)
}
