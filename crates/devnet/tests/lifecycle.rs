//! The chain as a process: where it is found, what it keeps, and that nothing of it is left behind.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code
)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use serde_json::json;
use support::{quantity, send, wallet};
use teller_devnet::{Devnet, DevnetConfig, DevnetError, Mining, keys};

const MIN_BASE_FEE: u64 = 5_000_000;
const CHILD: &str = "TELLER_DEVNET_TEST_CHILD";

fn listens(url: &str) -> bool {
    TcpStream::connect(url.trim_start_matches("http://")).is_ok()
}

fn small() -> DevnetConfig {
    DevnetConfig {
        payers: 2,
        ..DevnetConfig::default()
    }
}

#[tokio::test]
async fn a_dropped_chain_is_gone_at_once() {
    let devnet = Devnet::start(small()).await.unwrap();
    let url = devnet.rpc_url().to_owned();
    assert!(listens(&url));
    drop(devnet);
    assert!(!listens(&url));
}

/// Not a test of its own: the owner that the next test kills.
#[tokio::test]
async fn child_that_holds_a_chain() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let devnet = Devnet::start(small()).await.unwrap();
    println!("\nchain at {}", devnet.rpc_url());
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[test]
fn a_chain_dies_with_an_owner_that_was_killed() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_holds_a_chain", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let url = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("chain at ").map(str::to_owned))
        .unwrap();
    assert!(listens(&url));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let killed = Instant::now();
    while listens(&url) {
        assert!(killed.elapsed() < Duration::from_secs(5), "anvil lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_missing_anvil_is_an_error_that_says_what_to_do() {
    let config = DevnetConfig {
        anvil: Some("/nowhere/anvil".into()),
        ..small()
    };
    let error = Devnet::start(config).await.unwrap_err();
    assert!(matches!(error, DevnetError::AnvilNotFound { .. }));
    let said = error.to_string();
    assert!(
        said.contains("/nowhere/anvil") && said.contains("make tools"),
        "{said}"
    );
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_so() {
    let first = Devnet::start(small()).await.unwrap();
    let port = first.rpc_url().rsplit(':').next().unwrap().parse().unwrap();
    let config = DevnetConfig {
        port: Some(port),
        ..small()
    };
    let error = Devnet::start(config).await.unwrap_err();
    assert!(matches!(error, DevnetError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    first.shutdown().await;
}

#[tokio::test]
async fn the_base_fee_stays_at_bases_floor() {
    let devnet = Devnet::start(DevnetConfig {
        mining: Mining::Interval(Duration::from_millis(250)),
        ..small()
    })
    .await
    .unwrap();
    let mut lowest = u64::MAX;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let block = devnet
            .rpc("eth_getBlockByNumber", json!(["latest", false]))
            .await
            .unwrap();
        lowest = lowest.min(quantity(&block["baseFeePerGas"]));
    }
    // A block that was made between two looks of the keeper may be one step, an eighth, under the floor.
    assert!(lowest >= MIN_BASE_FEE - MIN_BASE_FEE / 8 - 1, "{lowest}");
    devnet.shutdown().await;
}

#[tokio::test]
async fn manual_mining_makes_no_block_by_itself_and_intervals_do() {
    for (mining, moves) in [
        (Mining::Manual, false),
        (Mining::Instant, false),
        (Mining::Interval(Duration::from_millis(200)), true),
    ] {
        let devnet = Devnet::start(DevnetConfig { mining, ..small() })
            .await
            .unwrap();
        let before = devnet.rpc("eth_blockNumber", json!([])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = devnet.rpc("eth_blockNumber", json!([])).await.unwrap();
        assert_eq!(before != after, moves, "{mining:?}");
        devnet.shutdown().await;
    }
}

#[tokio::test]
async fn the_last_64_blocks_can_be_read_and_old_receipts_are_forgotten() {
    let devnet = Devnet::start(DevnetConfig {
        mining: Mining::Instant,
        keep_blocks: 100,
        ..small()
    })
    .await
    .unwrap();
    let signer = wallet(devnet.info().signers[0]).address();
    let receipt = send(&devnet, signer, signer, &[], 21_000).await;
    let hash = receipt["transactionHash"].clone();
    for _ in 0..90 {
        devnet.rpc("evm_mine", json!([])).await.unwrap();
    }
    let latest = quantity(&devnet.rpc("eth_blockNumber", json!([])).await.unwrap());
    let at = |back: u64| json!([signer, format!("{:#x}", latest - back)]);
    devnet.rpc("eth_getBalance", at(64)).await.unwrap();
    let kept = devnet
        .rpc("eth_getTransactionReceipt", json!([hash]))
        .await
        .unwrap();
    assert!(!kept.is_null());
    for _ in 0..120 {
        send(&devnet, signer, signer, &[], 21_000).await;
    }
    let forgotten = devnet
        .rpc("eth_getTransactionReceipt", json!([hash]))
        .await
        .unwrap();
    assert!(forgotten.is_null());
    devnet.shutdown().await;
}

#[tokio::test]
async fn the_chains_clock_is_close_to_the_machines() {
    let devnet = Devnet::start(small()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let block = devnet
        .rpc("eth_getBlockByNumber", json!(["latest", false]))
        .await
        .unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let drift = quantity(&block["timestamp"]).abs_diff(now);
    println!("clock drift: {drift} s");
    assert!(drift <= 3, "{drift}");
    devnet.shutdown().await;
}

#[tokio::test]
async fn the_devnet_line_is_stable_and_has_no_signers() {
    let devnet = Devnet::start(small()).await.unwrap();
    let mut line = serde_json::to_value(devnet.info()).unwrap();
    assert_eq!(line["rpc"].take(), devnet.rpc_url());
    assert_eq!(
        line,
        json!({
            "chainId": 84532,
            "rpc": null,
            "asset": {
                "address": "0x036cbd53842c5426634e7929541ec2318f3dcf7e",
                "name": "USDC",
                "version": "2",
                "decimals": 6,
            },
            "multicall3": "0xca11bde05977b3631167028862be2a173976ca11",
            "payers": [keys::payer(0), keys::payer(1)],
        })
    );
    devnet.shutdown().await;
}

#[test]
fn keys_are_all_different_and_do_not_change() {
    assert_ne!(keys::payer(0), keys::payer(1));
    assert_ne!(keys::payer(0), keys::signer(0));
    assert_eq!(
        keys::payer(0),
        alloy_primitives::keccak256("teller devnet payer 0")
    );
    assert_ne!(wallet(keys::payer(0)).address(), Address::ZERO);
    assert_ne!(keys::signer(0), B256::ZERO);
}
