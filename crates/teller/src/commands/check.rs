//! `teller check`: does the configuration fit the chain and the stores? Asks every endpoint itself, past all failover.

use std::process::ExitCode;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use teller_chain::{
    CallError, InspectItem, InspectLimits, NodeConfig, NodeError, Nodes, REDEMPTION_GAS, Target,
};
use teller_domain::{Asset, EXACT_PROXY, Level, UPTO_PROXY, Wei};
use teller_schemes::eip3009::{self, Domain};

use super::Failure;
use super::decimal;
use crate::config::{Auth, Config, Network};
use crate::telemetry;
use crate::wiring;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Gas that a signer should be able to pay for: some hundred full batches at a fee of 0.01 gwei.
const COMFORTABLE_WEI: u64 = 16_000_000 * 10_000_000 * 100;
/// EIP-7702: an account with this prefix in its code acts by another contract's code.
const DELEGATION_PREFIX: &[u8] = &[0xef, 0x01, 0x00];
/// What a call takes before its first instruction, and a little more.
const GAS_OF_A_CALL: u64 = 50_000;
/// Gas of a call below which single payments cannot be simulated: what a contract wallet that is made first may use.
const LEAST_CALL_GAS: u64 = 2 * REDEMPTION_GAS + 600_000;

/// Prints one line for each thing looked at.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    telemetry::start_logs(&config.log);
    let mut report = Report::default();
    report.fine("the configuration is complete");
    match &config.receipt_key {
        Some(key) => report.fine(format!("receipts are signed by {}", key.address)),
        None => report.fine("receipts are not signed: there is no receipts.key"),
    }
    stores(&mut report, config).await;
    for network in &config.networks {
        let needed = needed_levels(config, network);
        let mut known = Tags::default();
        let mut geneses = Vec::new();
        for (index, url) in network.rpc.iter().enumerate() {
            let name = format!("{} rpc[{index}]", network.id);
            let alone = NodeConfig {
                chain: network.id,
                rpc: vec![url.expose().to_owned()],
                flashblocks: Vec::new(),
                request_timeout: ANSWER_WITHIN,
            };
            let outcome = match Nodes::connect(alone) {
                Ok(node) => {
                    match endpoint(&mut report, &name, &node, network, &mut geneses).await {
                        Ok(true) => abilities(&mut report, &name, &node, network, &mut known).await,
                        Ok(false) => Ok(()),
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                report.wrong(format!("{name}: {error}"));
            }
        }
        for level in needed.into_iter().filter(|level| !known.has(*level)) {
            let (id, level) = (network.id, level.as_str());
            report.wrong(format!(
                "{id}: success is told at level {level:?}, and no endpoint knows a block of that tag"
            ));
        }
    }
    if report.wrong == 0 {
        println!("all fine");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("{} wrong", report.wrong);
        Ok(ExitCode::FAILURE)
    }
}

#[derive(Default)]
struct Report {
    wrong: usize,
}

impl Report {
    fn fine(&self, line: impl AsRef<str>) {
        println!("  ok     {}", line.as_ref());
    }

    fn doubtful(&self, line: impl AsRef<str>) {
        println!("  watch  {}", line.as_ref());
    }

    fn wrong(&mut self, line: impl AsRef<str>) {
        self.wrong += 1;
        println!("  WRONG  {}", line.as_ref());
    }
}

async fn stores(report: &mut Report, config: &Config) {
    let (ledger, reservations) = tokio::join!(
        wiring::check_ledger(config),
        wiring::check_reservations(config)
    );
    for (name, outcome) in [("ledger", ledger), ("reservations", reservations)] {
        match outcome {
            Ok(()) => report.fine(format!("{name}: can be used")),
            Err(failure) => report.wrong(format!("{name}: {failure}")),
        }
    }
}

/// The levels of finality above inclusion at which somebody is told success.
fn needed_levels(config: &Config, network: &Network) -> Vec<Level> {
    let keys = match &config.server.auth {
        Auth::Keys(keys) => keys.as_slice(),
        Auth::Open => &[],
    };
    let may_use = |ids: &Option<Vec<_>>| ids.as_ref().is_none_or(|ids| ids.contains(&network.id));
    let of_tenants = keys.iter().filter(|key| may_use(&key.networks));
    let told: Vec<Level> = of_tenants
        .filter_map(|key| key.settled_at)
        .chain([network.settled_at])
        .collect();
    let tagged = [Level::Safe, Level::Finalized];
    tagged
        .into_iter()
        .filter(|level| told.contains(level))
        .collect()
}

/// Which tags any endpoint of a network knows.
#[derive(Default)]
struct Tags {
    safe: bool,
    finalized: bool,
}

impl Tags {
    fn has(&self, level: Level) -> bool {
        match level {
            Level::Safe => self.safe,
            Level::Finalized => self.finalized,
            Level::Preconfirmed | Level::Included => true,
        }
    }
}

/// What the endpoint lets teller do: inspect payments, how many in a call, and see finality; and what a block holds.
async fn abilities(
    report: &mut Report,
    name: &str,
    node: &Nodes,
    network: &Network,
    known: &mut Tags,
) -> Result<(), NodeError> {
    let head = node.head().await?;
    let limits = InspectLimits::default();
    let anybody = Address::repeat_byte(1);
    let item = InspectItem {
        token: network
            .assets
            .first()
            .map_or(network.multicall3, |asset| asset.address),
        payer: network
            .signers
            .first()
            .map_or(anybody, |signer| signer.address),
        payee: anybody,
        nonce: B256::ZERO,
        call: eip3009::domain_separator_call(),
        target: Target::Token,
        gas: None,
    };
    match node.try_lens(&item, head.reference(), limits).await {
        Ok(_) => report.fine(format!("{name}: payments can be inspected")),
        Err(error) => report.wrong(format!(
            "{name}: payments cannot be inspected, which takes eth_call with state overrides and {} gas: {error}",
            limits.gas
        )),
    }
    match node.gas_of_a_call(limits.gas, head.number).await {
        Ok(gas) if gas.saturating_add(GAS_OF_A_CALL) >= limits.gas => {
            report.fine(format!("{name}: an eth_call gets {} gas", limits.gas));
        }
        Ok(gas) if gas >= LEAST_CALL_GAS => report.doubtful(format!(
            "{name}: an eth_call gets {gas} gas only, not {}: fewer payments are inspected at a time",
            limits.gas
        )),
        Ok(gas) => report.wrong(format!(
            "{name}: an eth_call gets {gas} gas only; payments of contract wallets need up to {LEAST_CALL_GAS}"
        )),
        // Said above.
        Err(_) => {}
    }
    let (safe, finalized) = node.safe_and_finalized().await?;
    for (tag, block, seen) in [
        ("safe", safe, &mut known.safe),
        ("finalized", finalized, &mut known.finalized),
    ] {
        match block {
            Some(block) => report.fine(format!("{name}: block {} is {tag}", block.number)),
            None => report.doubtful(format!("{name}: knows no {tag} block")),
        }
        *seen |= block.is_some();
    }
    let (most, holds) = (network.max_batch_gas, head.gas_limit);
    match holds < most {
        true => report.doubtful(format!(
            "{name}: a block holds {holds} gas, less than max_batch_gas of {most}: batches are kept within it"
        )),
        false => report.fine(format!("{name}: a block holds {holds} gas")),
    }
    Ok(())
}

async fn endpoint(
    report: &mut Report,
    name: &str,
    node: &Nodes,
    network: &Network,
    geneses: &mut Vec<B256>,
) -> Result<bool, NodeError> {
    let id = match node.chain_id().await {
        Err(NodeError::WrongChain { expected, found }) => {
            let (found, expected) = (found.0, expected.0);
            report.wrong(format!("{name}: is chain {found}, not {expected}"));
            return Ok(false);
        }
        answer => answer?,
    };
    report.fine(format!("{name}: chain id {id}"));
    genesis(report, name, node, geneses).await?;
    if node.code(network.multicall3).await?.is_empty() {
        report.wrong(format!(
            "{name}: no code at multicall3 {}",
            network.multicall3
        ));
    } else {
        report.fine(format!("{name}: Multicall3 at {}", network.multicall3));
    }
    for (proxy, scheme) in [(EXACT_PROXY, "exact"), (UPTO_PROXY, "upto")] {
        match node.code(proxy).await?.is_empty() {
            true => report.doubtful(format!(
                "{name}: no x402 proxy for {scheme} by Permit2 at {proxy}"
            )),
            false => report.fine(format!("{name}: x402 proxy for {scheme} by Permit2")),
        }
    }
    for manager in &network.delegation_managers {
        match node.code(*manager).await?.is_empty() {
            true => report.wrong(format!("{name}: no code at delegation manager {manager}")),
            false => report.fine(format!("{name}: delegation manager at {manager}")),
        }
    }
    for asset in &network.assets {
        match domain_error(node, asset).await? {
            Ok(()) => report.fine(format!(
                "{name}: {} {} version {}",
                asset.name, asset.address, asset.version
            )),
            Err(DomainError::NoDomain) => report.doubtful(format!(
                "{name}: asset {} has no DOMAIN_SEPARATOR(): it can be paid with by Permit2 only",
                asset.address
            )),
            Err(DomainError::Wrong(error)) => {
                report.wrong(format!("{name}: asset {}: {error}", asset.address));
            }
        }
    }
    for signer in &network.signers {
        account(report, name, node, signer.address).await?;
    }
    Ok(true)
}

/// Endpoints of one chain id that begin with different blocks serve different chains: only those of the first are used.
async fn genesis(
    report: &mut Report,
    name: &str,
    node: &Nodes,
    geneses: &mut Vec<B256>,
) -> Result<(), NodeError> {
    let found = node.genesis_hash().await?;
    geneses.push(found);
    match geneses.first() {
        Some(first) if *first != found => report.wrong(format!(
            "{name}: its chain begins with block {found}, that of the endpoints before with {first}"
        )),
        Some(_) | None => report.fine(format!("{name}: genesis block {found}")),
    }
    Ok(())
}

/// What is wrong with an asset's EIP-712 domain.
enum DomainError {
    /// It has none: then it knows neither EIP-3009 nor EIP-2612.
    NoDomain,
    /// Another than the configured one, or no token at all.
    Wrong(String),
}

async fn domain_error(node: &Nodes, asset: &Asset) -> Result<Result<(), DomainError>, NodeError> {
    let wrong = |error: String| Ok(Err(DomainError::Wrong(error)));
    if node.code(asset.address).await?.is_empty() {
        return wrong("no code at this address".to_owned());
    }
    let block = node.head().await?.number;
    let called = node
        .call(asset.address, eip3009::domain_separator_call(), block)
        .await;
    let found = match called {
        Ok(found) if found.len() == 32 => found,
        Ok(_) | Err(CallError::Reverted(_)) => {
            return Ok(Err(DomainError::NoDomain));
        }
        Err(CallError::Node(error)) => return Err(error),
    };
    let expected = Domain::new(asset).separator();
    if found.as_ref() == expected.as_slice() {
        return Ok(Ok(()));
    }
    wrong(format!(
        "its EIP-712 domain is not name {:?}, version {:?}: DOMAIN_SEPARATOR() is {found}, these give {expected}",
        asset.name, asset.version
    ))
}

async fn account(
    report: &mut Report,
    name: &str,
    node: &Nodes,
    signer: Address,
) -> Result<(), NodeError> {
    let code = node.code(signer).await?;
    if code.starts_with(DELEGATION_PREFIX) {
        report.wrong(format!(
            "{name}: signer {signer} is delegated (EIP-7702): nodes take one transaction of such an account at a time"
        ));
    } else if !code.is_empty() {
        report.wrong(format!("{name}: signer {signer} is a contract"));
    }
    let balance = node.balance(signer).await?;
    let line = format!(
        "{name}: signer {signer} has {} ETH for gas",
        decimal(&balance.to_string(), 18)
    );
    if balance == Wei::ZERO {
        report.wrong(format!("{name}: signer {signer} has no gas"));
    } else if balance < Wei::from(COMFORTABLE_WEI) {
        report.doubtful(format!("{line}, which is little"));
    } else {
        report.fine(line);
    }
    Ok(())
}
