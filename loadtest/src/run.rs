//! `run` and `proxy`: one load, one counting proxy.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, U256};
use serde::Deserialize;
use teller_devnet::DevnetInfo;
use teller_domain::{Asset, AssetAmount, ChainId, X402Version, known_assets};

use crate::cli::{ProxyArgs, RunArgs, Transport};
use crate::drive::Facilitator;
use crate::error::LoadError;
use crate::measure::{Counter, Load, Watch, measure};
use crate::node::Node;
use crate::process::{Process, allow_open_files};
use crate::proxy::Proxy;
use crate::sign::{self, Payer, Plan};
use crate::target::Target;

/// What a derived payer gets: enough for a hundred million payments of a cent.
pub const FUNDS: u64 = 1_000_000_000_000;
const MAX_ACCOUNTS: usize = 100_000;

/// Loads one facilitator once and prints the figures.
pub async fn run(args: RunArgs) -> Result<(), LoadError> {
    allow_open_files(usize::from(args.concurrency).saturating_add(256));
    let devnet = args.devnet_json.as_deref().map(read_devnet).transpose()?;
    let rpc = match (&args.rpc, &devnet) {
        (Some(rpc), _) => Some(rpc.clone()),
        (None, Some(devnet)) => Some(devnet.rpc.parse()?),
        (None, None) => None,
    };
    let plan = Plan {
        asset: Arc::new(asset(&args, devnet.as_ref())?),
        version: X402Version::from_number(args.x402_version.into()).unwrap_or(X402Version::V2),
        value: AssetAmount::from(args.value),
        payers: payers(&args, devnet.as_ref(), rpc.as_ref()).await?,
        payees: sign::payees(&args.seed, args.payees.clamp(1, MAX_ACCOUNTS)),
    };
    let payments = Arc::new(sign::ahead(plan, args.count).await?);
    let facilitator = facilitator(&args);
    let watch = Watch {
        facilitator: args.pid.map(Process::new),
        node_process: None,
        counter: args.proxy.map_or(Counter::Nowhere, Counter::Elsewhere),
        node: rpc.map(Node::new),
    };
    let load = Load {
        ops: args.op,
        concurrency: args.concurrency.into(),
        at_most: Duration::from_secs(args.max_seconds),
    };
    let figures = measure(&facilitator, load, payments, &watch).await?;
    println!("{}\n{}", args.url, figures.table());
    if figures.accepted() == 0 {
        let outcomes = figures.outcomes();
        return Err(LoadError::NothingAccepted { outcomes });
    }
    Ok(())
}

/// Counts until the process is interrupted.
pub async fn proxy(args: ProxyArgs) -> Result<(), LoadError> {
    let proxy = Proxy::start(args.listen, &args.upstream).await?;
    println!(
        "counting at {url} what goes to {upstream}; GET {url}/counts",
        url = proxy.url(),
        upstream = args.upstream
    );
    tokio::signal::ctrl_c()
        .await
        .map_err(LoadError::io("waiting for Ctrl-C"))?;
    let counts = proxy.counts();
    println!(
        "{} calls in {} requests",
        counts.calls, counts.http_requests
    );
    for (method, count) in counts.methods {
        println!("{count:>12} {method}");
    }
    Ok(())
}

fn facilitator(args: &RunArgs) -> Facilitator {
    let (target, api_key) = (args.url.clone(), args.api_key.clone());
    match args.transport {
        Transport::Rest => Facilitator::Rest { target, api_key },
        Transport::Grpc => Facilitator::Grpc { target, api_key },
    }
}

/// The part of `teller dev`'s line that may be missing elsewhere is not asked for.
fn read_devnet(file: &Path) -> Result<DevnetInfo, LoadError> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(LoadError::io(name.clone()))?;
    let json = text
        .lines()
        .find_map(|line| line.split_once("devnet: ").map(|(_, json)| json))
        .unwrap_or(&text);
    let mut deserializer = serde_json::Deserializer::from_str(json);
    DevnetInfo::deserialize(&mut deserializer).map_err(|error| LoadError::input(name, error))
}

fn asset(args: &RunArgs, devnet: Option<&DevnetInfo>) -> Result<Asset, LoadError> {
    let chain = ChainId(devnet.map_or(args.chain_id, |devnet| devnet.chain_id));
    if let (Some(address), Some(name), Some(version)) =
        (args.asset, &args.asset_name, &args.asset_version)
    {
        return Ok(Asset {
            chain,
            address,
            name: name.clone(),
            version: version.clone(),
            decimals: 0,
        });
    }
    if let Some(devnet) = devnet {
        return Ok(Asset {
            chain,
            address: devnet.asset.address,
            name: devnet.asset.name.clone(),
            version: devnet.asset.version.clone(),
            decimals: devnet.asset.decimals,
        });
    }
    known_assets(chain).next().ok_or_else(|| {
        LoadError::input(
            chain.to_string(),
            "has no known asset; name one with --asset",
        )
    })
}

async fn payers(
    args: &RunArgs,
    devnet: Option<&DevnetInfo>,
    rpc: Option<&Target>,
) -> Result<Vec<Payer>, LoadError> {
    let funded = match devnet {
        _ if !args.keys.is_empty() => &args.keys,
        Some(devnet) if args.payers.is_none() => &devnet.payers,
        _ => &Vec::new(),
    };
    if !funded.is_empty() {
        return funded.iter().copied().map(Payer::from_secret).collect();
    }
    let Some(rpc) = rpc else {
        let why = "--key, --devnet-json, or --rpc of a local chain to fund derived payers through";
        return Err(LoadError::input("payers", why));
    };
    let count = args.payers.unwrap_or(1000).clamp(1, MAX_ACCOUNTS);
    let payers = sign::payers(&args.seed, count)?;
    let addresses: Vec<Address> = payers.iter().map(|payer| payer.address).collect();
    teller_devnet::fund(&rpc.to_string(), &addresses, U256::from(FUNDS)).await?;
    Ok(payers)
}
