//! Several `teller serve` processes on one ledger: started, killed, stopped, continued and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::error::LoadError;
use crate::process::Process;

const READY_WITHIN: Duration = Duration::from_secs(40);
const READY_PAUSE: Duration = Duration::from_millis(20);
const READY_LINE: &str = "teller is ready";
const COMMAND_WITHIN: Duration = Duration::from_secs(120);
const LOG_LINES: usize = 60;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    All,
    /// Answers requests.
    Api,
    /// Settles.
    Settler,
}

impl Role {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Settler => "settler",
        }
    }
}

/// What the processes have in common.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The binary.
    pub binary: PathBuf,
    /// The ledger's URL.
    pub ledger: String,
    /// The reservations' URL.
    pub reservations: String,
    /// The node's URLs, the preferred one first.
    pub rpc: Vec<String>,
    /// Private keys of the signers.
    pub signers: Vec<B256>,
    /// Further lines of the network's table.
    pub network: String,
    /// Further lines of the server's table.
    pub server: String,
    /// Further lines of the reservations' table.
    pub holds: String,
    /// The processes.
    pub roles: Vec<Role>,
}

/// One process of a fleet, running or not.
#[derive(Debug)]
pub struct Member {
    /// What it does.
    pub role: Role,
    rest: u16,
    metrics: u16,
    child: Option<Child>,
    config: PathBuf,
    log: PathBuf,
    /// Its next start's environment, beside the signers' keys.
    pub environment: Vec<(String, String)>,
}

/// The processes. Dropping it kills them.
#[derive(Debug)]
pub struct Fleet {
    plan: Plan,
    members: Vec<Member>,
    files: TempDir,
}

impl Fleet {
    /// Writes the configurations and migrates the ledger. Nothing is started.
    pub async fn prepare(plan: Plan) -> Result<Self, LoadError> {
        let files = TempDir::new().map_err(LoadError::io("a temporary directory"))?;
        let mut members = Vec::new();
        for (index, role) in plan.roles.iter().enumerate() {
            let [rest, grpc, metrics] = free_ports()?;
            let config = files.path().join(format!("teller-{index}.toml"));
            std::fs::write(&config, text(&plan, [rest, grpc, metrics]))
                .map_err(LoadError::io("writing a configuration"))?;
            members.push(Member {
                role: *role,
                rest,
                metrics,
                child: None,
                config,
                log: files.path().join(format!("teller-{index}.log")),
                environment: Vec::new(),
            });
        }
        let fleet = Self {
            plan,
            members,
            files,
        };
        fleet.demand(&["migrate"]).await?;
        Ok(fleet)
    }

    /// Prepares and starts all of them, one after the other.
    pub async fn start(plan: Plan) -> Result<Self, LoadError> {
        let mut fleet = Self::prepare(plan).await?;
        for index in 0..fleet.members.len() {
            fleet.start_member(index).await?;
        }
        Ok(fleet)
    }

    /// How many there are, running or not.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members of these roles.
    pub fn indexes(&self, wanted: impl Fn(Role) -> bool) -> Vec<usize> {
        let members = self.members.iter().enumerate();
        members
            .filter(|(_, member)| wanted(member.role))
            .map(|(index, _)| index)
            .collect()
    }

    /// A member.
    pub fn member(&mut self, index: usize) -> Result<&mut Member, LoadError> {
        let none = || LoadError::input("fleet", format!("has no process {index}"));
        self.members.get_mut(index).ok_or_else(none)
    }

    /// Where the fleet takes requests.
    pub fn urls(&self) -> Vec<String> {
        let doors = self.members.iter();
        doors
            .filter(|member| member.role != Role::Settler)
            .map(|member| format!("http://127.0.0.1:{}", member.rest))
            .collect()
    }

    /// Where a member tells its metrics.
    pub fn metrics_url(&mut self, index: usize) -> Result<String, LoadError> {
        let port = self.member(index)?.metrics;
        Ok(format!("http://127.0.0.1:{port}/metrics"))
    }

    /// Where the configurations, the logs and an embedded ledger are.
    pub fn directory(&self) -> &Path {
        self.files.path()
    }

    /// Starts a member that is not running and waits until it is ready.
    pub async fn start_member(&mut self, index: usize) -> Result<(), LoadError> {
        let started = self.spawn(index)?;
        self.wait_until_ready(index, started).await
    }

    /// Starts a member; answers where its log begins.
    pub fn spawn(&mut self, index: usize) -> Result<usize, LoadError> {
        let mut command = self.command();
        let member = self.member(index)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&member.log)
            .map_err(LoadError::io("opening a log"))?;
        let written = log.metadata().map_err(LoadError::io("a log's length"))?;
        let errors = log.try_clone().map_err(LoadError::io("opening a log"))?;
        command
            .args(["serve", "--role", member.role.name(), "--config"])
            .arg(&member.config)
            .envs(member.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true);
        member.child = Some(command.spawn().map_err(LoadError::io("starting teller"))?);
        usize::try_from(written.len()).map_err(|_| LoadError::input("log", "is too long"))
    }

    async fn wait_until_ready(&mut self, index: usize, from: usize) -> Result<(), LoadError> {
        let start = Instant::now();
        loop {
            // Looked at before the log: what it said last is then in the log.
            let ended = self.ended(index)?.is_some();
            let log = self.log(index);
            let new = log.get(from..).unwrap_or_default();
            if new.contains(READY_LINE) && !ended {
                return Ok(());
            }
            if ended || start.elapsed() > READY_WITHIN {
                return Err(LoadError::NotReady {
                    within: READY_WITHIN,
                    log: last_lines(new),
                });
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    /// kill -9; a member that has ended already is only reaped.
    pub async fn kill(&mut self, index: usize) -> Result<(), LoadError> {
        if let Some(mut child) = self.member(index)?.child.take() {
            child
                .kill()
                .await
                .map_err(LoadError::io("killing a teller"))?;
        }
        Ok(())
    }

    /// SIGTERM, and its exit status when it has drained.
    pub async fn terminate(
        &mut self,
        index: usize,
        within: Duration,
    ) -> Result<ExitStatus, LoadError> {
        self.signal(index, "TERM").await?;
        self.wait_for_end(index, within).await
    }

    /// Waits until a member ends by itself.
    pub async fn wait_for_end(
        &mut self,
        index: usize,
        within: Duration,
    ) -> Result<ExitStatus, LoadError> {
        let member = self.member(index)?;
        let Some(child) = member.child.as_mut() else {
            return Err(LoadError::input("fleet", "the process is not running"));
        };
        let late = LoadError::TimedOut {
            what: "teller did not end",
            within,
        };
        let status = tokio::time::timeout(within, child.wait())
            .await
            .map_err(|_| late)?
            .map_err(LoadError::io("waiting for teller"))?;
        member.child = None;
        Ok(status)
    }

    /// The exit status of a member that has ended by itself; `None` for one that runs or was never started.
    pub fn ended(&mut self, index: usize) -> Result<Option<ExitStatus>, LoadError> {
        match self.member(index)?.child.as_mut() {
            Some(child) => child.try_wait().map_err(LoadError::io("looking at teller")),
            None => Ok(None),
        }
    }

    /// Sends a signal: `STOP`, `CONT`, `TERM`.
    pub async fn signal(&mut self, index: usize, signal: &str) -> Result<(), LoadError> {
        let Some(process) = self.process(index)? else {
            return Err(LoadError::input("fleet", "the process is not running"));
        };
        // Through kill(1), because the system call needs unsafe code or one more dependency.
        let status = Command::new("kill")
            .args([format!("-{signal}"), process.pid().to_string()])
            .status()
            .await
            .map_err(LoadError::io("kill"))?;
        match status.success() {
            true => Ok(()),
            false => Err(LoadError::input("kill", format!("{status}"))),
        }
    }

    /// A running member, for its CPU time.
    pub fn process(&mut self, index: usize) -> Result<Option<Process>, LoadError> {
        let child = self.member(index)?.child.as_ref();
        Ok(child.and_then(Child::id).map(Process::new))
    }

    /// Everything that a member has logged, over all its starts.
    pub fn log(&self, index: usize) -> String {
        let log = self.members.get(index).map(|member| &member.log);
        log.and_then(|log| std::fs::read_to_string(log).ok())
            .unwrap_or_default()
    }

    /// The last lines of every member's log.
    pub fn logs(&self) -> String {
        let indexes = 0..self.members.len();
        indexes
            .map(|index| format!("-- teller {index}\n{}\n", last_lines(&self.log(index))))
            .collect()
    }

    /// Runs `teller ARGUMENTS` with the first member's configuration.
    pub async fn run(&self, arguments: &[&str]) -> Result<Output, LoadError> {
        let Some(first) = self.members.first() else {
            return Err(LoadError::input("fleet", "has no process"));
        };
        let mut command = self.command();
        let command = command
            .args(arguments)
            .arg("--config")
            .arg(&first.config)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        tokio::time::timeout(COMMAND_WITHIN, command.output())
            .await
            .map_err(|_| LoadError::TimedOut {
                what: "a command of teller did not end",
                within: COMMAND_WITHIN,
            })?
            .map_err(LoadError::io("running teller"))
    }

    /// The same, and what it printed; it must succeed.
    pub async fn demand(&self, arguments: &[&str]) -> Result<String, LoadError> {
        let output = self.run(arguments).await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(printed),
            false => Err(LoadError::Command {
                command: arguments.join(" "),
                output: printed + &String::from_utf8_lossy(&output.stderr),
            }),
        }
    }

    /// The facilitator's own audit, which must find nothing.
    pub async fn audit(&self) -> Result<(), LoadError> {
        self.demand(&["audit"]).await.map(|_| ())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.plan.binary);
        command.current_dir(self.files.path());
        for (index, signer) in self.plan.signers.iter().enumerate() {
            command.env(signer_variable(index), signer.to_string());
        }
        command
    }
}

fn signer_variable(index: usize) -> String {
    format!("TELLER_FLEET_SIGNER_{index}")
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let (_, last) = lines.split_at(lines.len().saturating_sub(LOG_LINES));
    last.join("\n")
}

fn quoted(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.map(|item| format!("\"{item}\"")).collect();
    items.join(", ")
}

fn text(plan: &Plan, [rest, grpc, metrics]: [u16; 3]) -> String {
    let signers = (0..plan.signers.len()).map(|index| format!("env:{}", signer_variable(index)));
    format!(
        r#"[server]
rest = "127.0.0.1:{rest}"
grpc = "127.0.0.1:{grpc}"
metrics = "127.0.0.1:{metrics}"
auth = "open"
{server}
[ledger]
url = "{ledger}"

[reservations]
url = "{reservations}"
{holds}
[[networks]]
id = "eip155:84532"
rpc = [{rpc}]
signers = [{signers}]
{network}
"#,
        server = plan.server,
        holds = plan.holds,
        ledger = plan.ledger,
        reservations = plan.reservations,
        rpc = quoted(plan.rpc.iter().cloned()),
        signers = quoted(signers),
        network = plan.network,
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
