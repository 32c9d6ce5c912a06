//! `teller dev`: a local chain, a teller on it, and real payments through its own front door.

mod buyer;
mod load;
mod view;

use std::fmt::Write;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use alloy_primitives::{B256, U256, keccak256};
use teller_api::Health;
use teller_devnet::contracts::WALLET_FACTORY;
use teller_devnet::{Devnet, DevnetConfig, DevnetInfo, Mining};

use crate::cli::DevArgs;
use crate::commands::{Failure, drain_or_second_signal, environment, serve, stop_requested};
use crate::config::{self, Config, Role, Secrets};
use crate::{telemetry, wiring};

const DIRECTORY: &str = ".teller-dev";
const LEDGER_FILE: &str = ".teller-dev/teller.db";
const LEDGER_URL: &str = "sqlite://.teller-dev/teller.db";
/// A thousand test dollars for each payer.
const PAYER_FUNDS: u64 = 1_000_000_000;
/// What payers are given for the gas of their approvals: that of one at 140 gwei, and of a hundred a day.
const MAX_TOP_UP_WEI: u64 = 10_000_000_000_000_000;
const MAX_TOP_UP_WEI_PER_DAY: u64 = 100 * MAX_TOP_UP_WEI;

/// Runs all of it until a signal comes.
pub async fn run(args: &DevArgs) -> Result<ExitCode, Failure> {
    let devnet = Devnet::start(DevnetConfig {
        port: args.rpc_port,
        mining: Mining::Interval(Duration::from_millis(args.block_time_ms)),
        payers: usize::try_from(args.payers).unwrap_or(usize::MAX),
        signers: usize::try_from(args.signers).unwrap_or(usize::MAX),
        fund_payers: U256::from(PAYER_FUNDS),
        ..DevnetConfig::default()
    });
    // Ctrl-C while the chain starts: dropping the start ends the chain.
    let devnet = tokio::select! {
        devnet = devnet => devnet.map_err(|error| Failure::new("the local chain did not start", error))?,
        signal = stop_requested() => return signal.map(|_| ExitCode::SUCCESS),
    };
    let outcome = with_chain(args, &devnet).await;
    devnet.shutdown().await;
    outcome
}

async fn with_chain(args: &DevArgs, devnet: &Devnet) -> Result<ExitCode, Failure> {
    let info = devnet.info();
    let environment = environment();
    let secrets = Secrets::new(environment.clone(), None).with_devnet_signers(devnet_keys(info));
    let config = config::from_text(&defaults(args, info), "teller dev", environment, &secrets)?;
    telemetry::start_logs(&config.log);
    if let Some(why_not) = config.refuse_role(Role::All) {
        return Err(Failure::text(why_not));
    }
    let _ledger_lock = fresh_ledger(&config)?;
    let health = Health::new();
    telemetry::start_metrics(config.server.metrics, "dev", &health)
        .await
        .map_err(|error| Failure::new("metrics did not start", error))?;
    if !config.has_embedded_ledger() {
        wiring::migrate(&config).await?;
    }
    let mut teller = wiring::start(&config, Role::All, health).await?;
    let line = serde_json::to_string(info)
        .map_err(|error| Failure::new("the devnet line cannot be written", error))?;
    println!("devnet: {line}");
    println!("{}", serve::ready_line(&teller));
    let rest = teller.rest().unwrap_or(config.server.rest);
    let payments = load::run(args, rest, devnet);
    tokio::pin!(payments);
    let signal = tokio::select! {
        signal = stop_requested() => signal?,
        failure = teller.failed() => return Err(failure),
        outcome = &mut payments => match outcome { Err(failure) => return Err(failure) },
    };
    tracing::info!(signal, "draining");
    Ok(drain_or_second_signal(teller.drain(config.server.shutdown)).await)
}

/// The signers, and behind them the key that signs receipts. All of them are public.
fn devnet_keys(info: &DevnetInfo) -> Vec<B256> {
    let receipt_key = keccak256("teller dev: receipts");
    info.signers.iter().copied().chain([receipt_key]).collect()
}

/// The configuration that `teller dev` starts from, in the same form as a file.
fn defaults(args: &DevArgs, info: &DevnetInfo) -> String {
    let mut text = String::new();
    let signers: Vec<String> = (0..info.signers.len())
        .map(|index| format!("\"devnet:{index}\""))
        .collect();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "[server]\nauth = \"open\"\n\
         [ledger]\nurl = \"{LEDGER_URL}\"\n\
         [receipts]\nkey = \"devnet:{}\"\n\
         [log]\nlevel = \"warn\"\n\
         [[networks]]\nid = \"eip155:{}\"\nrpc = [\"{}\"]\nsigners = [{}]\nblock_interval_ms = {}\nmulticall3 = \"{}\"\n\
         wallet_factories = [\"{WALLET_FACTORY}\"]\n\
         approvals = {{ max_top_up_wei = \"{MAX_TOP_UP_WEI}\", max_top_up_wei_per_day = \"{MAX_TOP_UP_WEI_PER_DAY}\" }}\n\
         [[networks.assets]]\naddress = \"{}\"\nname = \"{}\"\nversion = \"{}\"\ndecimals = {}\n",
        info.signers.len(),
        info.chain_id,
        info.rpc,
        signers.join(", "),
        args.block_time_ms,
        info.multicall3,
        info.asset.address,
        info.asset.name,
        info.asset.version,
        info.asset.decimals,
    );
    text
}

/// A chain that was born a second ago has no use for yesterday's ledger. Another file or database than the default one
/// is never touched. The lock that comes back keeps a second `teller dev` in this directory from doing the same.
fn fresh_ledger(config: &Config) -> Result<Option<File>, Failure> {
    if config.ledger.url.expose() != LEDGER_URL {
        return Ok(None);
    }
    let failed = |error| Failure::new("no ledger can be kept in .teller-dev", error);
    std::fs::create_dir_all(DIRECTORY).map_err(failed)?;
    let lock = File::create(Path::new(DIRECTORY).join("dev.db.lock")).map_err(failed)?;
    if lock.try_lock().is_err() {
        return Err(Failure::text(
            "another `teller dev` runs in this directory; give this one its own ledger with \
             TELLER__LEDGER__URL=sqlite://other.db, and ports with TELLER__SERVER__REST and so on",
        ));
    }
    for address in [config.server.rest, config.server.grpc] {
        refuse_taken(address)?;
    }
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let file = format!("{LEDGER_FILE}{suffix}");
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::new("yesterday's ledger cannot be removed", error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(Some(lock))
}

/// A taken port is the first mistake that people make, so it gets a sentence before anything is deleted.
fn refuse_taken(address: SocketAddr) -> Result<(), Failure> {
    TcpListener::bind(address)
        .map(drop)
        .map_err(|error| Failure::new(&format!("{address} cannot be listened on"), error))
}
