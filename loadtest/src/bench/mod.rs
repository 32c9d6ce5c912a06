//! `bench`: the whole table on a local chain of its own, with a fresh facilitator for every row.

mod baseline;
mod floors;
mod results;
mod scenarios;
mod teller;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use teller_devnet::{Devnet, DevnetConfig, Mining};
use teller_domain::{Asset, AssetAmount, ChainId, X402Version};

use self::results::{Results, Row};
use self::scenarios::{AT_ONCE, COMPARED, ONE_BY_ONE, PAYEES, PAYERS, SCENARIOS, Scenario};
use self::teller::Teller;
pub use self::teller::find_binary;
use crate::cli::{BenchArgs, Transport};
use crate::drive::Facilitator;
use crate::error::{LoadError, chain_of};
use crate::measure::{Counter, Load, Watch, measure};
use crate::node::Node;
use crate::process::{Machine, Process, allow_open_files};
use crate::proxy::Proxy;
use crate::report::{Figures, OnChain};
use crate::run::FUNDS;
use crate::sign::{self, Payer, Plan};

pub const BLOCK_INTERVAL: Duration = Duration::from_secs(1);
const BLOCK_GAS_LIMIT: u64 = 400_000_000;
/// Blocks whose receipts the node keeps: more than the longest run takes.
const KEEP_BLOCKS: u64 = 300;
const SEED: &str = "bench";
const RESULTS_FILE: &str = "loadtest/RESULTS.md";
/// Between runs: what the last one left behind is mined.
const PAUSE: Duration = Duration::from_millis(2500);

/// Measures and writes the table.
pub async fn bench(args: BenchArgs) -> Result<(), LoadError> {
    let binary = find_binary(args.teller.as_deref())?;
    allow_open_files(16_384);
    let lab = Lab::start(binary).await?;
    let wanted =
        |name: &str| args.only.is_empty() || args.only.iter().any(|part| name.contains(part));
    let mut rows = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        rows.push(lab.row(scenario, args.repeats).await);
    }
    let single = if wanted(ONE_BY_ONE) || wanted(AT_ONCE) {
        lab.baseline(args.repeats).await?
    } else {
        Vec::new()
    };
    lab.devnet.shutdown().await;
    let results = Results {
        rows,
        single,
        repeats: args.repeats,
        machine: Machine::this(),
    };
    println!("{}", results.tables());
    let out = match (args.out, args.only.is_empty()) {
        (Some(out), _) => out,
        (None, true) => PathBuf::from(RESULTS_FILE),
        (None, false) => return Ok(()),
    };
    let name = out.display().to_string();
    std::fs::write(&out, results.document()).map_err(LoadError::io(name.clone()))?;
    println!("written to {name}");
    Ok(())
}

/// The local chain with everything that the rows share.
struct Lab {
    binary: PathBuf,
    devnet: Devnet,
    proxy: Proxy,
    node: Node,
    node_process: Option<Process>,
    /// Settles.
    signer: B256,
    /// Sends the transfers of the baseline.
    other_signer: Payer,
    asset: Arc<Asset>,
    payers: Vec<Payer>,
    payees: Vec<Address>,
}

impl Lab {
    async fn start(binary: PathBuf) -> Result<Self, LoadError> {
        let devnet = Devnet::start(DevnetConfig {
            mining: Mining::Interval(BLOCK_INTERVAL),
            gas_limit: BLOCK_GAS_LIMIT,
            keep_blocks: KEEP_BLOCKS,
            signers: 2,
            ..DevnetConfig::default()
        })
        .await?;
        let info = devnet.info();
        let [signer, other_signer] = info.signers.as_slice() else {
            let why = "has other signers than asked for";
            return Err(LoadError::input("the local chain", why));
        };
        let (signer, other_signer) = (*signer, Payer::from_secret(*other_signer)?);
        let asset = Arc::new(Asset {
            chain: ChainId(info.chain_id),
            address: info.asset.address,
            name: info.asset.name.clone(),
            version: info.asset.version.clone(),
            decimals: info.asset.decimals,
        });
        let payers = sign::payers(SEED, PAYERS)?;
        let payees = sign::payees(SEED, PAYEES);
        // Payees hold a balance already: a first payment to somebody costs more gas, and who gets it is luck.
        let holders: Vec<Address> = payers
            .iter()
            .map(|payer| payer.address)
            .chain(payees.iter().copied())
            .collect();
        teller_devnet::fund(devnet.rpc_url(), &holders, U256::from(FUNDS)).await?;
        let upstream: crate::target::Target = devnet.rpc_url().parse()?;
        let proxy = Proxy::start(([127, 0, 0, 1], 0).into(), &upstream).await?;
        Ok(Self {
            binary,
            devnet,
            proxy,
            node: Node::new(upstream),
            node_process: Process::descendant_named("anvil"),
            signer,
            other_signer,
            asset,
            payers,
            payees,
        })
    }

    fn plan(&self, payers: usize) -> Plan {
        Plan {
            asset: Arc::clone(&self.asset),
            version: X402Version::V2,
            value: AssetAmount::from(10_000),
            payers: self.payers.iter().take(payers).copied().collect(),
            payees: self.payees.clone(),
        }
    }

    /// A row that failed is a row that says so: the others are still worth having.
    async fn row(&self, scenario: &Scenario, repeats: u8) -> Row {
        let mut row = Row {
            scenario: *scenario,
            runs: Vec::new(),
            failure: None,
        };
        if let Err(error) = self.runs(scenario, repeats, &mut row.runs).await {
            eprintln!("{}: {}", scenario.name, chain_of(&error));
            row.failure = Some(chain_of(&error));
        }
        row
    }

    async fn runs(
        &self,
        scenario: &Scenario,
        repeats: u8,
        runs: &mut Vec<Figures>,
    ) -> Result<(), LoadError> {
        let teller = Teller::start(&self.binary, &self.proxy.url(), self.signer).await?;
        let facilitator = facilitator(scenario.transport, &teller);
        let watch = Watch {
            facilitator: teller.process(),
            node_process: self.node_process,
            counter: Counter::Own(&self.proxy),
            node: Some(self.node.clone()),
        };
        let load = Load {
            ops: scenario.ops,
            concurrency: scenario.concurrency,
            at_most: scenario.at_most,
        };
        for repeat in 1..=repeats {
            let payments = sign::ahead(self.plan(scenario.payers), scenario.count).await?;
            tokio::time::sleep(PAUSE).await;
            let figures = measure(&facilitator, load, Arc::new(payments), &watch).await?;
            println!(
                "{} ({repeat} of {repeats})\n{}",
                scenario.name,
                figures.table()
            );
            if figures.accepted() == 0 {
                let outcomes = figures.outcomes();
                return Err(LoadError::NothingAccepted { outcomes });
            }
            runs.push(figures);
        }
        teller.stop().await;
        Ok(())
    }

    async fn baseline(&self, repeats: u8) -> Result<Vec<OnChain>, LoadError> {
        let mut runs = Vec::new();
        for _ in 0..repeats {
            let payments = sign::ahead(self.plan(COMPARED), COMPARED).await?;
            runs.push(baseline::one_by_one(&self.node, &self.other_signer, &payments).await?);
        }
        Ok(runs)
    }
}

fn facilitator(transport: Transport, teller: &Teller) -> Facilitator {
    let api_key = None;
    match transport {
        Transport::Rest => Facilitator::Rest {
            target: teller.rest.clone(),
            api_key,
        },
        Transport::Grpc => Facilitator::Grpc {
            target: teller.grpc.clone(),
            api_key,
        },
    }
}
