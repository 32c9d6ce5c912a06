//! `teller check`: does the configuration fit the chain? Asks every endpoint itself, past all failover.

use std::process::ExitCode;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256, hex};
use alloy_rpc_client::{ClientBuilder, RpcClient};
use serde_json::{Value, json};
use teller_domain::Asset;
use teller_schemes::eip3009::{self, Domain};

use super::Failure;
use super::decimal;
use crate::config::{Config, Network, Secret};
use crate::telemetry;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Gas that a signer should be able to pay for: some hundred full batches at a fee of 0.01 gwei.
const COMFORTABLE_WEI: u64 = 16_000_000 * 10_000_000 * 100;
/// EIP-7702: an account with this prefix in its code acts by another contract's code.
const DELEGATION_PREFIX: &str = "0xef0100";

/// Prints one line for each thing looked at.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    telemetry::start_logs(&config.log);
    let mut report = Report::default();
    report.fine("the configuration is complete");
    for network in &config.networks {
        for (index, url) in network.rpc.iter().enumerate() {
            let name = format!("{} rpc[{index}]", network.id);
            match Node::connect(url).await {
                Ok(node) => endpoint(&mut report, &name, &node, network).await,
                Err(error) => report.wrong(format!("{name}: {error}")),
            }
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

async fn endpoint(report: &mut Report, name: &str, node: &Node, network: &Network) {
    match node.quantity("eth_chainId", json!([])).await {
        Ok(id) if id == U256::from(network.id.0) => {
            report.fine(format!("{name}: chain id {id}"));
        }
        Ok(id) => {
            report.wrong(format!("{name}: is chain {id}, not {}", network.id.0));
            return;
        }
        Err(error) => {
            report.wrong(format!("{name}: {error}"));
            return;
        }
    }
    match node.code(network.multicall3).await {
        Ok(code) if code.len() > 2 => {
            report.fine(format!("{name}: Multicall3 at {}", network.multicall3));
        }
        Ok(_) => report.wrong(format!(
            "{name}: no code at multicall3 {}",
            network.multicall3
        )),
        Err(error) => report.wrong(format!("{name}: {error}")),
    }
    for asset in &network.assets {
        match domain_separator(node, asset).await {
            Ok(()) => report.fine(format!(
                "{name}: {} {} version {}",
                asset.name, asset.address, asset.version
            )),
            Err(error) => report.wrong(format!("{name}: asset {}: {error}", asset.address)),
        }
    }
    for signer in &network.signers {
        account(report, name, node, signer.address).await;
    }
}

async fn domain_separator(node: &Node, asset: &Asset) -> Result<(), String> {
    if node.code(asset.address).await?.len() <= 2 {
        return Err("no code at this address".to_owned());
    }
    let call = json!([{ "to": asset.address, "data": eip3009::domain_separator_call() }, "latest"]);
    let found: B256 = node
        .text("eth_call", call)
        .await?
        .parse()
        .map_err(|_| "has no DOMAIN_SEPARATOR()".to_owned())?;
    let expected = Domain::new(asset).separator();
    if found == expected {
        Ok(())
    } else {
        Err(format!(
            "its EIP-712 domain is not name {:?}, version {:?}: DOMAIN_SEPARATOR() is {found}, these give {expected}",
            asset.name, asset.version
        ))
    }
}

async fn account(report: &mut Report, name: &str, node: &Node, signer: Address) {
    match node.code(signer).await {
        Ok(code) if code.len() <= 2 => {}
        Ok(code) if code.starts_with(DELEGATION_PREFIX) => report.wrong(format!(
            "{name}: signer {signer} is delegated (EIP-7702): nodes take one transaction of such an account at a time"
        )),
        Ok(_) => report.wrong(format!("{name}: signer {signer} is a contract")),
        Err(error) => report.wrong(format!("{name}: signer {signer}: {error}")),
    }
    match node
        .quantity("eth_getBalance", json!([signer, "latest"]))
        .await
    {
        Ok(U256::ZERO) => report.wrong(format!("{name}: signer {signer} has no gas")),
        Ok(balance) => {
            let line = format!(
                "{name}: signer {signer} has {} ETH for gas",
                decimal(&balance.to_string(), 18)
            );
            if balance < U256::from(COMFORTABLE_WEI) {
                report.doubtful(format!("{line}, which is little"));
            } else {
                report.fine(line);
            }
        }
        Err(error) => report.wrong(format!("{name}: signer {signer}: {error}")),
    }
}

/// One endpoint. Errors leave out its URL, which may hold a key.
struct Node(RpcClient);

impl Node {
    async fn connect(url: &Secret) -> Result<Self, String> {
        let connecting = ClientBuilder::default().connect(url.expose());
        match tokio::time::timeout(ANSWER_WITHIN, connecting).await {
            Ok(Ok(client)) => Ok(Self(client)),
            Ok(Err(_)) | Err(_) => Err("cannot be reached".to_owned()),
        }
    }

    async fn text(&self, method: &'static str, params: Value) -> Result<String, String> {
        let asking = self.0.request::<Value, String>(method, params);
        match tokio::time::timeout(ANSWER_WITHIN, asking).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(match error.as_error_resp() {
                Some(answer) => format!("{method}: {} (code {})", answer.message, answer.code),
                None => format!("{method}: no usable answer"),
            }),
            Err(_) => Err(format!("{method}: no answer within {ANSWER_WITHIN:?}")),
        }
    }

    async fn quantity(&self, method: &'static str, params: Value) -> Result<U256, String> {
        let text = self.text(method, params).await?;
        text.parse()
            .map_err(|_| format!("{method}: the answer is no number"))
    }

    async fn code(&self, address: Address) -> Result<String, String> {
        let code = self.text("eth_getCode", json!([address, "latest"])).await?;
        match hex::decode(&code) {
            Ok(_) => Ok(code),
            Err(_) => Err("eth_getCode: the answer is no code".to_owned()),
        }
    }
}
