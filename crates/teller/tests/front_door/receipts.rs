//! Signed receipts: real payments, their receipts, and the command that checks them with nothing but the file.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use alloy_primitives::{Address, B256, U256, address, hex};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};
use futures::future::join_all;
use serde_json::{Value, json};
use teller_api::proto;
use teller_api::proto::settlements_client::SettlementsClient;
use teller_domain::EcdsaSignature;

use crate::support::{Chain, Setup, Teller, body, free_ports};

const PAYEE: Address = Address::repeat_byte(0x42);
/// The key 0x…02, which everybody knows, and its account.
const KEY: &str = "0x0000000000000000000000000000000000000000000000000000000000000002";
const SIGNER: Address = address!("2B5AD5c4795c026514f8317c7a215E218DcCD6cF");

sol! {
    struct Receipt {
        string settlementId;
        uint256 chainId;
        address authority;
        address asset;
        address payer;
        address payee;
        uint256 value;
        bytes32 nonce;
        bytes32 transactionHash;
        uint64 blockNumber;
        bytes32 blockHash;
        uint64 logIndex;
        uint256 amount;
        string level;
        uint64 settledAtMs;
    }
}

/// A teller that signs receipts with a key from a file.
pub async fn signing(chain: &Chain, setup: Setup) -> (Teller, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("receipt-key");
    std::fs::write(&key, KEY).unwrap();
    let ports = free_ports();
    let config = format!(
        "{}\n[receipts]\nkey = \"file:{}\"\n",
        setup.config(ports),
        key.display()
    );
    (Teller::start_with(chain, ports, &config).await, directory)
}

fn check(file: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_teller"))
        .args(["receipt", "verify"])
        .arg(file)
        .args(more)
        .env_clear()
        .output()
        .unwrap()
}

/// The exit status and everything that was said.
fn verdict(directory: &Path, text: &str, more: &[&str]) -> (i32, String) {
    let file = directory.join("receipt.json");
    std::fs::write(&file, text).unwrap();
    let output = check(&file, more);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code().unwrap(), said)
}

/// Who signed it, by another implementation of EIP-712.
fn recovered(receipt: &Value) -> Address {
    let text = |field: &str| receipt["message"][field].as_str().unwrap();
    let message = Receipt {
        settlementId: text("settlementId").to_owned(),
        chainId: text("chainId").parse().unwrap(),
        authority: text("authority").parse().unwrap(),
        asset: text("asset").parse().unwrap(),
        payer: text("payer").parse().unwrap(),
        payee: text("payee").parse().unwrap(),
        value: text("value").parse().unwrap(),
        nonce: text("nonce").parse().unwrap(),
        transactionHash: text("transactionHash").parse().unwrap(),
        blockNumber: text("blockNumber").parse().unwrap(),
        blockHash: text("blockHash").parse().unwrap(),
        logIndex: text("logIndex").parse().unwrap(),
        amount: text("amount").parse().unwrap(),
        level: text("level").to_owned(),
        settledAtMs: text("settledAtMs").parse().unwrap(),
    };
    let domain = Eip712Domain {
        name: Some("teller receipt".into()),
        version: Some("1".into()),
        ..Eip712Domain::default()
    };
    let signature = hex::decode(receipt["signature"].as_str().unwrap()).unwrap();
    let signature = EcdsaSignature::from_bytes(&signature).unwrap();
    teller_schemes::recover(message.eip712_signing_hash(&domain), &signature).unwrap()
}

async fn receipts(teller: &Teller) -> Vec<Value> {
    let mut found = Vec::new();
    for settlement in teller.settlements().await {
        let id = settlement["id"].as_str().unwrap();
        let (status, receipt) = teller.get(&format!("/settlements/{id}/receipt")).await;
        assert_eq!(status, 200, "{receipt}");
        assert_eq!(receipt["message"]["settlementId"], settlement["id"]);
        found.push(receipt);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_payments_in_a_transaction_has_a_receipt_that_names_its_own_log() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (teller, directory) = signing(&chain, Setup::embedded(&chain)).await;
    let bodies: Vec<Value> = (0..12)
        .map(|number| {
            let buyer = chain.payer(number as usize);
            body(&chain, &buyer.pay(&chain, PAYEE, 1_000 + number, number))
        })
        .collect();
    for (_, answer) in join_all(bodies.iter().map(|body| teller.post("/settle", body))).await {
        assert_eq!(answer["success"], true, "{answer}");
    }
    let receipts = receipts(&teller).await;
    assert_eq!(receipts.len(), 12);
    let mut places = std::collections::BTreeSet::new();
    for receipt in &receipts {
        let (exit, said) = verdict(
            directory.path(),
            &receipt.to_string(),
            &["--signer", &SIGNER.to_string()],
        );
        assert_eq!(exit, 0, "{said}");
        assert!(said.contains("as expected"), "{said}");
        assert_eq!(recovered(receipt), SIGNER);
        let message = &receipt["message"];
        let hash = message["transactionHash"].as_str().unwrap();
        let index: u64 = message["logIndex"].as_str().unwrap().parse().unwrap();
        assert!(places.insert((message["blockNumber"].to_string(), index)));
        let mined = chain.devnet.rpc("eth_getTransactionReceipt", json!([hash]));
        let mined = mined.await.unwrap();
        assert_eq!(mined["blockHash"], message["blockHash"]);
        let log = mined["logs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|log| log["logIndex"] == format!("{index:#x}"))
            .expect("the log is in the transaction");
        let account = |topic: usize| {
            let word: B256 = log["topics"][topic].as_str().unwrap().parse().unwrap();
            json!(Address::from_word(word))
        };
        assert_eq!(account(1), message["payer"]);
        assert_eq!(account(2), message["payee"]);
        let value: U256 = log["data"].as_str().unwrap().parse().unwrap();
        assert_eq!(message["amount"], json!(value.to_string()));
    }
    let hashes: std::collections::BTreeSet<_> = receipts
        .iter()
        .map(|receipt| receipt["message"]["transactionHash"].to_string())
        .collect();
    assert!(hashes.len() < receipts.len(), "no two travelled together");
    assert!(!teller.log().contains(&KEY[60..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_in_which_anything_was_changed_is_refused() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (teller, directory) = signing(&chain, Setup::embedded(&chain)).await;
    let request = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    assert_eq!(teller.post("/settle", &request).await.1["success"], true);
    let receipt = receipts(&teller).await.remove(0);
    let verdict =
        |receipt: &Value, more: &[&str]| verdict(directory.path(), &receipt.to_string(), more);
    assert_eq!(verdict(&receipt, &[]).0, 0);
    let fields: Vec<String> = receipt["message"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(fields.len(), 15);
    for field in fields {
        let mut changed = receipt.clone();
        let value = changed["message"][&field].as_str().unwrap().to_owned();
        let other = match (field.as_str(), value.chars().last().unwrap()) {
            ("level", _) => "finalized".to_owned(),
            (_, '1') => format!("{}2", &value[..value.len() - 1]),
            _ => format!("{}1", &value[..value.len() - 1]),
        };
        changed["message"][&field] = json!(other);
        let (exit, said) = verdict(&changed, &["--signer", &SIGNER.to_string()]);
        assert_eq!(exit, 1, "{field}: {said}");
        assert!(said.contains("not as it was signed") || said.contains("nobody signed it"));
    }
    let (exit, said) = verdict(&receipt, &["--signer", &PAYEE.to_string()]);
    assert_eq!(exit, 1);
    assert!(
        said.contains("is signed by") && said.contains("not by"),
        "{said}"
    );
    let mut renamed = receipt.clone();
    renamed["signer"] = json!(PAYEE);
    assert_eq!(verdict(&renamed, &["--signer", &PAYEE.to_string()]).0, 1);
    let (exit, said) = verdict(&receipt, &["--json"]);
    assert_eq!(exit, 0);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&said["signer"], &said["receipt"]),
        (&json!(SIGNER), &receipt["message"])
    );
}

#[test]
fn what_is_no_receipt_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let long = "x".repeat(70_000);
    for text in [
        "",
        "garbage",
        "{}",
        "[1]",
        "\u{0}",
        &long,
        "{\"domain\": {}}",
    ] {
        let (exit, said) = verdict(directory.path(), text, &[]);
        assert_eq!(exit, 2, "{said}");
        assert!(said.contains("it is no receipt: "), "{said}");
        assert!(said.len() < 500, "{said}");
    }
    let nowhere = check(&directory.path().join("nowhere.json"), &[]);
    assert_eq!(nowhere.status.code(), Some(2));
    let mut bytes = Command::new(env!("CARGO_BIN_EXE_teller"))
        .args(["receipt", "verify", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    bytes
        .stdin
        .take()
        .unwrap()
        .write_all(&[0xff, 0xfe])
        .unwrap();
    let output = bytes.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("it is no receipt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_gives_the_same_receipt_and_a_teller_without_a_key_says_so() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (teller, directory) = signing(&chain, Setup::embedded(&chain)).await;
    let request = body(&chain, &chain.payer(0).pay(&chain, PAYEE, 10_000, 1));
    assert_eq!(teller.post("/settle", &request).await.1["success"], true);
    let receipt = receipts(&teller).await.remove(0);
    let id = receipt["message"]["settlementId"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut client = SettlementsClient::connect(teller.grpc_url()).await.unwrap();
    let asked = proto::GetReceiptRequest { id };
    let message = client.get_receipt(asked).await.unwrap().into_inner();
    assert_eq!(verdict(directory.path(), &message.json, &[]).0, 0);
    assert_eq!(message.signer, SIGNER.to_string());
    assert_eq!(message.receipt.unwrap().amount, "10000");
    let same: Value = serde_json::from_str(&message.json).unwrap();
    assert_eq!(same["message"], receipt["message"]);

    let keyless = Teller::embedded(&chain).await;
    let request = body(&chain, &chain.payer(1).pay(&chain, PAYEE, 10_000, 2));
    assert_eq!(keyless.post("/settle", &request).await.1["success"], true);
    let id = keyless.settlements().await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let (status, answer) = keyless.get(&format!("/settlements/{id}/receipt")).await;
    assert_eq!(status, 501);
    assert!(answer["error"].as_str().unwrap().contains("no receipt key"));
}
