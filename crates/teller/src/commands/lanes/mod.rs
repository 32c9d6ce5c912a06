//! `teller lanes`: each signer as ledger and chain see it, and what an operator can order about it.

mod order;

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::time::Duration;

use alloy_primitives::Address;
use serde_json::{Value, json};
use teller_chain::Nodes;
use teller_domain::{AccountNonce, AttemptKind, ChainId, Slot, UnixMillis, Wei};
use teller_store::{LaneView, Ledger};

use super::{Failure, audit, decimal, read_config};
use crate::cli::{LaneOrder, LanesArgs};
use crate::config::Config;
use crate::wiring;

/// A node that is away must not keep an operator from seeing the ledger.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Shows lanes, or orders something about one.
pub async fn run(args: LanesArgs) -> Result<ExitCode, Failure> {
    match &args.order {
        Some(LaneOrder::Thaw(order)) => order::run(order::Order::Thaw, order).await,
        Some(LaneOrder::Drain(order)) => order::run(order::Order::Drain, order).await,
        Some(LaneOrder::Rescue(order)) => order::run(order::Order::Rescue, order).await,
        None => show(&args).await,
    }
}

async fn show(args: &LanesArgs) -> Result<ExitCode, Failure> {
    let config = read_config(&args.config)?;
    let ledger = wiring::open_ledger_to_read(&config.ledger.url).await?;
    let lanes = read(ledger.as_ref()).await?;
    let now = ledger.now().await.map_err(silent)?;
    let mut chain = ChainSide::new(&config)?;
    let shown = |id: ChainId| args.network.is_none_or(|only| only == id);
    if !args.json {
        println!("{}", heading());
    }
    for lane in lanes.iter().filter(|lane| shown(lane.fence.chain)) {
        let account = chain.account(lane.fence.chain, lane.fence.signer).await;
        if args.json {
            println!("{}", json_line(lane, now, account));
        } else {
            lines(lane, now, account)
                .iter()
                .for_each(|line| println!("{line}"));
        }
    }
    let has_lane = |chain: ChainId, signer: Address| {
        lanes
            .iter()
            .any(|lane| lane.fence.chain == chain && lane.fence.signer == signer)
    };
    for network in config.networks.iter().filter(|network| shown(network.id)) {
        for signer in &network.signers {
            if has_lane(network.id, signer.address) {
                continue;
            }
            match args.json {
                true => println!(
                    "{}",
                    json!({ "network": network.id, "signer": signer.address, "mode": Value::Null })
                ),
                false => println!(
                    "{}  {}  no process has taken this lane yet",
                    network.id, signer.address
                ),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Every lane, by network and signer.
async fn read(ledger: &dyn Ledger) -> Result<Vec<LaneView>, Failure> {
    let mut lanes = ledger.lanes().await.map_err(silent)?;
    lanes.sort_by_key(|lane| (lane.fence.chain, lane.fence.signer));
    Ok(lanes)
}

fn silent(error: teller_store::StoreError) -> Failure {
    Failure::new("the ledger did not answer", error)
}

/// What the chain says of a signer; `None` where its nodes do not answer.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    sealed: Option<AccountNonce>,
    balance: Option<Wei>,
}

/// The nodes of the configured networks, and their heads.
struct ChainSide {
    nodes: BTreeMap<ChainId, Nodes>,
    heads: HashMap<ChainId, Option<u64>>,
}

impl ChainSide {
    fn new(config: &Config) -> Result<Self, Failure> {
        let connected = config
            .networks
            .iter()
            .map(|network| Ok((network.id, audit::connect(network, REQUEST_TIMEOUT)?)));
        Ok(Self {
            nodes: connected.collect::<Result<_, Failure>>()?,
            heads: HashMap::new(),
        })
    }

    async fn account(&mut self, chain: ChainId, signer: Address) -> Account {
        let Some(nodes) = self.nodes.get(&chain) else {
            return Account::default();
        };
        let head = match self.heads.get(&chain) {
            Some(head) => *head,
            None => {
                let head = match nodes.head().await {
                    Ok(block) => Some(block.number),
                    Err(error) => {
                        eprintln!("teller: the nodes of {chain} did not answer: {error}");
                        None
                    }
                };
                self.heads.insert(chain, head);
                head
            }
        };
        let Some(head) = head else {
            return Account::default();
        };
        Account {
            sealed: nodes.account_nonce(signer, head).await.ok(),
            balance: nodes.balance(signer).await.ok(),
        }
    }
}

fn heading() -> String {
    format!(
        "{:<14} {:<42} {:<9} {:>6} {:>8} {:>8} {:>5}  {:<22} OWNER",
        "NETWORK", "SIGNER", "MODE", "EPOCH", "SEALED", "NEXT", "OPEN", "BALANCE"
    )
}

/// A lane's row, and one line for each open slot.
fn lines(lane: &LaneView, now: UnixMillis, account: Account) -> Vec<String> {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
    let balance = account
        .balance
        .map(|balance| format!("{} ETH", decimal(&balance.to_string(), 18)));
    let mut lines = vec![format!(
        "{:<14} {:<42} {:<9} {:>6} {:>8} {:>8} {:>5}  {:<22} {}",
        lane.fence.chain.to_string(),
        lane.fence.signer.to_string(),
        lane.mode.as_str(),
        lane.fence.epoch,
        or_unknown(account.sealed.map(|nonce| nonce.to_string())),
        or_unknown(lane.next_nonce.map(|nonce| nonce.to_string())),
        lane.open_slots.len(),
        or_unknown(balance),
        owner(lane, now),
    )];
    for slot in &lane.open_slots {
        let hashes: Vec<String> = slot
            .attempts
            .iter()
            .map(|attempt| match attempt.kind {
                AttemptKind::Batch => attempt.hash.to_string(),
                AttemptKind::TopUp => format!("{} (top-up)", attempt.hash),
                AttemptKind::NoOp => format!("{} (no-op)", attempt.hash),
            })
            .collect();
        lines.push(format!(
            "  slot {}  open for {}  {} payments  {}",
            slot.id.nonce,
            seconds(age_ms(slot, now)),
            slot.payments.len(),
            hashes.join(" ")
        ));
    }
    lines
}

fn owner(lane: &LaneView, now: UnixMillis) -> String {
    match lane.owner {
        None => "nobody".to_owned(),
        Some(owner) if lane.lease_expired => format!(
            "{owner}, lease over for {}",
            seconds(now.0.saturating_sub(lane.lease_until.0))
        ),
        Some(owner) => format!(
            "{owner}, lease for {}",
            seconds(lane.lease_until.0.saturating_sub(now.0))
        ),
    }
}

fn age_ms(slot: &Slot, now: UnixMillis) -> u64 {
    now.0.saturating_sub(slot.opened_at.0)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

fn json_line(lane: &LaneView, now: UnixMillis, account: Account) -> Value {
    let slots: Vec<Value> = lane
        .open_slots
        .iter()
        .map(|slot| {
            let attempts: Vec<Value> = slot
                .attempts
                .iter()
                .map(|attempt| json!({ "hash": attempt.hash, "kind": attempt.kind.as_str() }))
                .collect();
            json!({
                "nonce": slot.id.nonce, "ageMs": age_ms(slot, now), "payments": slot.payments.len(),
                "attempts": attempts,
            })
        })
        .collect();
    json!({
        "network": lane.fence.chain,
        "signer": lane.fence.signer,
        "mode": lane.mode.as_str(),
        "epoch": lane.fence.epoch,
        "owner": lane.owner,
        "leaseUntil": lane.lease_until.0,
        "leaseExpired": lane.lease_expired,
        "sealedNonce": account.sealed,
        "nextNonce": lane.next_nonce,
        "balanceWei": account.balance,
        "openSlots": slots,
    })
}
