//! Receipts of Flashblocks, as endpoints give them, served by a small local server. No Flashblocks node is at hand, so
//! the answers are those of the public documents: the zero block hash of a preconfirmed receipt is that of Base's own
//! specification (github.com/base/base, `crates/flashblocks-rpc/spec.md`, "eth_getTransactionReceipt"), which also says that
//! all types are those of the OP stack; hashes of a block that is still being built, as some providers fill in, are
//! those of the "Diff object" in docs.base.org, "Flashblocks API reference".

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use alloy_primitives::{B256, U256, b256};
use serde_json::{Value, json};
use teller_chain::{NodeConfig, NodeError, Nodes};
use teller_domain::ChainId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const TRANSFER: B256 = b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");

/// Answers every JSON-RPC call, alone or in a batch, with the receipt of its hash; it serves Base.
async fn serve(receipts: Vec<Value>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let body = loop {
                let mut chunk = [0; 4096];
                let read = stream.read(&mut chunk).await.unwrap();
                bytes.extend_from_slice(&chunk[..read]);
                let text = String::from_utf8_lossy(&bytes);
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let head = head.to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
                if body.len() >= length {
                    break body.to_owned();
                }
            };
            let answer = |call: &Value| {
                let found = receipts
                    .iter()
                    .find(|receipt| receipt["transactionHash"] == call["params"][0]);
                let result = match call["method"].as_str() {
                    Some("eth_chainId") => json!("0x2105"),
                    Some("eth_getBlockByNumber") => json!({"hash": B256::ZERO}),
                    _ => json!(found),
                };
                json!({"jsonrpc": "2.0", "id": call["id"], "result": result})
            };
            let answer = match serde_json::from_str::<Value>(&body).unwrap() {
                Value::Array(calls) => calls.iter().map(answer).collect(),
                call => answer(&call),
            };
            let body = answer.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
        }
    });
    url
}

fn nodes(flashblocks: Vec<String>) -> Nodes {
    Nodes::connect(NodeConfig {
        chain: ChainId(8453),
        rpc: vec!["http://127.0.0.1:1".to_owned()],
        flashblocks,
        request_timeout: Duration::from_secs(5),
    })
    .unwrap()
}

/// The fields of an OP-stack receipt of a transfer of 0.01 USDC, with the block's hash as given.
fn receipt(transaction: B256, block_hash: Option<B256>) -> Value {
    let mut receipt = json!({
        "type": "0x2",
        "status": "0x1",
        "transactionHash": transaction,
        "transactionIndex": "0x5a",
        "blockNumber": "0x1fb08d4",
        "from": "0x8f5ae9ddc6c7d3c2fa0a2a3a5e0b0b0c0d0e0f00",
        "to": "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913",
        "contractAddress": null,
        "cumulativeGasUsed": "0x112a880",
        "gasUsed": "0x14e9f",
        "effectiveGasPrice": "0x5f5e10",
        "logsBloom": format!("0x{}", "00".repeat(256)),
        "l1BaseFeeScalar": "0x8dd",
        "l1BlobBaseFee": "0x1",
        "l1BlobBaseFeeScalar": "0x101c12",
        "l1Fee": "0x24bb6a5",
        "l1GasPrice": "0x6fc23ac0",
        "l1GasUsed": "0xc3a",
        "logs": [{
            "address": "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913",
            "topics": [TRANSFER, B256::with_last_byte(1), B256::with_last_byte(2)],
            "data": B256::from(U256::from(10_000)),
            "blockNumber": "0x1fb08d4",
            "transactionHash": transaction,
            "transactionIndex": "0x5a",
            "logIndex": "0x1c3",
            "removed": false
        }]
    });
    if let Some(hash) = block_hash {
        receipt["blockHash"] = json!(hash);
        receipt["logs"][0]["blockHash"] = json!(hash);
    }
    receipt
}

#[tokio::test]
async fn receipts_of_blocks_that_are_not_sealed_are_read() {
    let [zero, absent, building, null, unknown] = [1, 2, 3, 4, 5].map(B256::with_last_byte);
    let hash = B256::repeat_byte(0xbb);
    let mut with_null = receipt(null, None);
    with_null["blockHash"] = Value::Null;
    with_null["logs"][0]["blockHash"] = Value::Null;
    with_null["logs"][0]["blockNumber"] = Value::Null;
    let url = serve(vec![
        receipt(zero, Some(B256::ZERO)),
        receipt(absent, None),
        receipt(building, Some(hash)),
        with_null,
    ])
    .await;
    let nodes = nodes(vec![url]);
    assert!(nodes.shows_flashblocks());
    // They are no witnesses of what is sealed.
    assert_eq!(nodes.endpoints(), 1);
    let found = nodes
        .flashblock_receipts(&[zero, absent, unknown, building, null])
        .await
        .unwrap();
    let seen: Vec<_> = found
        .iter()
        .map(|r| (r.transaction, r.block.hash))
        .collect();
    assert_eq!(
        seen,
        [
            (zero, B256::ZERO),
            (absent, B256::ZERO),
            (building, hash),
            (null, B256::ZERO)
        ]
    );
    for receipt in &found {
        assert!(receipt.succeeded);
        assert_eq!(receipt.block.number, 33_229_012);
        assert_eq!(receipt.logs[0].block, receipt.block);
        assert_eq!(
            (receipt.logs[0].topics[0], receipt.logs[0].index),
            (TRANSFER, 451)
        );
        let cost = U256::from(0x14e9f_u64 * 0x5f5e10 + 0x24bb6a5);
        assert_eq!(receipt.cost.0, cost);
    }
}

#[tokio::test]
async fn the_next_endpoint_is_asked_when_one_fails() {
    let hash = B256::with_last_byte(1);
    let well = serve(vec![receipt(hash, Some(B256::ZERO))]).await;
    let dead = "http://127.0.0.1:1".to_owned();
    let found = nodes(vec![dead.clone(), well])
        .flashblock_receipts(&[hash])
        .await;
    assert_eq!(found.map(|found| found.len()), Ok(1));
    let none = nodes(Vec::new());
    assert_eq!(none.flashblock_receipts(&[hash]).await, Ok(Vec::new()));
    let refused = nodes(vec![dead]).flashblock_receipts(&[hash]).await;
    assert_eq!(refused, Err(NodeError::Refused));
}
