//! `teller audit`: the ledger against the chain, read-only, in pages, beside a running teller.
//!
//! A live system moves while it is read. Whatever the ledger places above the sealed head of the start is left out, and
//! what differs is read a second time after a pause: only what differs both times counts.

mod difference;
mod nonces;
mod rows;
mod seen;
mod slots;
mod tally;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use alloy_primitives::Address;
use serde_json::json;
use teller_chain::{NodeConfig, NodeError, Nodes};
use teller_domain::{AccountNonce, ChainId, known_assets};
use teller_store::{LaneView, Ledger, StoreError};

use super::{Failure, read_config};
use crate::cli::AuditArgs;
use crate::config::Network;
use crate::{telemetry, wiring};
use walk::{Scope, Walk, Walked, patiently};

/// Ledger and chain differ.
const DIFFERENCES: u8 = 1;
/// Ledger or chain could not be read.
const NOT_CHECKED: u8 = 2;

/// One call to one node; receipts of large batches take their time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Audits every network, or one. Answers 0 if ledger and chain agree, 1 if they differ, 2 if it could not be found out.
pub async fn run(args: &AuditArgs) -> ExitCode {
    match audit(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DIFFERENCES),
        Err(failure) => {
            eprintln!("teller: not audited: {failure}");
            ExitCode::from(NOT_CHECKED)
        }
    }
}

async fn audit(args: &AuditArgs) -> Result<bool, Failure> {
    let config = read_config(&args.config)?;
    telemetry::start_logs(&config.log);
    let ledger = wiring::open_ledger_to_read(&config.ledger.url).await?;
    let lanes = patiently(|| ledger.lanes(), StoreError::is_retryable)
        .await
        .map_err(|error| Failure::new("the ledger did not answer", error))?;
    let asked = |chain: ChainId| args.network.is_none_or(|only| only == chain);
    let networks: Vec<&Network> = config
        .networks
        .iter()
        .filter(|network| asked(network.id))
        .collect();
    let configured = |chain: ChainId| networks.iter().any(|network| network.id == chain);
    if let Some(chain) = args.network.filter(|chain| !configured(*chain)) {
        return Err(Failure::text(format!("{chain} is not configured")));
    }
    let mut clean = true;
    for network in &networks {
        clean &= audit_network(args, network, ledger.as_ref(), &lanes).await?;
    }
    let unknown = lanes.iter().map(|lane| lane.fence.chain);
    if let Some(chain) = unknown
        .into_iter()
        .find(|chain| asked(*chain) && !configured(*chain))
    {
        return Err(Failure::text(format!(
            "the ledger has lanes on {chain}, which is not configured"
        )));
    }
    Ok(clean)
}

async fn audit_network(
    args: &AuditArgs,
    network: &Network,
    ledger: &dyn Ledger,
    lanes: &[LaneView],
) -> Result<bool, Failure> {
    let nodes = connect(network, REQUEST_TIMEOUT)?;
    let scope = scope(args, network, &nodes, lanes).await?;
    let walk = Walk {
        ledger,
        nodes: &nodes,
        scope: &scope,
    };
    let mut walked = walk.run().await?;
    if !walked.differences.is_empty() {
        let first: HashSet<_> = walked.differences.iter().map(|d| d.name()).collect();
        tokio::time::sleep(Duration::from_secs(args.pause_seconds)).await;
        walked = walk.run().await?;
        walked
            .differences
            .retain(|difference| first.contains(&difference.name()));
        if walked.differences.is_empty() {
            walked.more = 0;
        }
    }
    report(args, &scope, &walked);
    Ok(walked.differences.is_empty())
}

/// Connects to a network's nodes for reading.
pub(super) fn connect(network: &Network, request_timeout: Duration) -> Result<Nodes, Failure> {
    let rpc = network.rpc.iter().map(|url| url.expose().to_owned());
    let config = NodeConfig {
        chain: network.id,
        rpc: rpc.collect(),
        flashblocks: Vec::new(),
        request_timeout,
    };
    Nodes::connect(config).map_err(|error| {
        Failure::new(
            &format!("the nodes of {} cannot be used", network.id),
            error,
        )
    })
}

/// What is audited, with the sealed head of this moment.
async fn scope(
    args: &AuditArgs,
    network: &Network,
    nodes: &Nodes,
    lanes: &[LaneView],
) -> Result<Scope, Failure> {
    let away = |error: NodeError| {
        Failure::new(
            &format!("the nodes of {} did not answer", network.id),
            error,
        )
    };
    match patiently(|| nodes.chain_id(), NodeError::is_retryable).await {
        Err(NodeError::WrongChain { found, .. }) => {
            return Err(Failure::text(format!(
                "the node configured for {} is chain {}",
                network.id, found.0
            )));
        }
        answer => answer.map_err(away)?,
    };
    let head = patiently(|| nodes.head(), NodeError::is_retryable)
        .await
        .map_err(away)?;
    let configured = network.signers.iter().map(|signer| signer.address);
    let leased = lanes
        .iter()
        .filter(|lane| lane.fence.chain == network.id)
        .map(|lane| lane.fence.signer);
    let signers: HashSet<Address> = configured.chain(leased).collect();
    let mut walked: Vec<Address> = signers
        .iter()
        .copied()
        .filter(|signer| args.signer.is_none_or(|only| only == *signer))
        .collect();
    walked.sort();
    if walked.is_empty() {
        return Err(Failure::text(format!(
            "{} has no such signer, in the configuration or the ledger",
            network.id
        )));
    }
    let known = known_assets(network.id).map(|asset| asset.address);
    let assets = network.assets.iter().map(|asset| asset.address);
    Ok(Scope {
        chain: network.id,
        head: head.reference(),
        walked,
        signers,
        assets: assets.chain(known).collect(),
        page_size: args.page_size,
        only_from: args.from_nonce.map(AccountNonce),
        slots_only: args.signer.is_some(),
        logs: !args.without_logs,
        from_block: args.from_block,
    })
}

fn report(args: &AuditArgs, scope: &Scope, walked: &Walked) {
    let (chain, tally) = (scope.chain, &walked.tally);
    for (slot, block) in &tally.foreign {
        if args.json {
            let note = json!({ "note": "foreign_nonce", "network": chain, "signer": slot.signer,
                               "slot": slot.nonce.0, "block": block });
            println!("{note}");
        } else {
            println!(
                "note     foreign_nonce  {chain}  slot {}/{}  used outside teller, by block {}",
                slot.signer, slot.nonce, block.number
            );
        }
    }
    for difference in &walked.differences {
        if args.json {
            println!("{}", difference.json());
        } else {
            println!("{difference}");
        }
    }
    let count = walked.differences.len();
    if args.json {
        println!("{}", tally.json(chain, scope.head, count));
        return;
    }
    for line in tally.lines(chain, scope.head, scope.slots_only) {
        println!("{line}");
    }
    match (count, walked.more) {
        (0, _) => println!("  no differences"),
        (count, 0) => println!("  {count} differences"),
        (count, more) => println!("  {count} differences, and {more} more that are not shown"),
    }
}
