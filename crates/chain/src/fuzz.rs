//! Fuzz targets: what nodes answer. Their inputs start from `crates/fuzz/corpus`.

use alloy_json_rpc::ErrorPayload;
use alloy_primitives::{Address, B256, Bytes, U256};
use serde_json::Value;
use teller_domain::BlockRef;
use teller_fuzz::{Fuzz, Shape};

use crate::bundle::{REVERT_BYTES, SimulatedBlock, read_simulated};
use crate::error::{from_payload, sanitise};
use crate::lens::{View, read_code_sizes, read_inspect};
use crate::wire::{WireBlock, WireCall, WireLog, WireReceipt};
use crate::{Block, CallError, InspectItem, Log, NodeError, Simulation, Target, TxReceipt, rpc};

const BLOCK: BlockRef = BlockRef {
    number: 7,
    hash: B256::ZERO,
};
/// The most that is kept of a node's message, in characters.
const LONGEST_MESSAGE: usize = 200;

/// Blocks, receipts, logs and transactions: what is read is what another reader finds, a receipt never counts as good
/// unless it says so, and its logs stand in its block.
#[test]
fn a_nodes_answer_is_read_as_it_stands() {
    Fuzz::new("node", Shape::Json)
        .executions(30_000)
        .run(|data| {
            // The other reader also looks at what this one ignores.
            let Ok(value) = serde_json::from_slice::<Value>(data) else {
                return false;
            };
            let number = |key: &str| match &value[key] {
                Value::String(text) => text.parse::<U256>().ok(),
                other => other.as_u64().map(U256::from),
            };
            let mut accepted = false;
            if let Ok(receipt) = serde_json::from_slice::<WireReceipt>(data) {
                let price = receipt.price().unwrap_or_default();
                let receipt: TxReceipt = receipt.at(price);
                accepted = true;
                assert_eq!(number("status") == Some(U256::ONE), receipt.succeeded);
                let gas = U256::from(receipt.gas_used);
                if let Some(price) = number("effectiveGasPrice") {
                    assert!(receipt.cost.0 >= gas.saturating_mul(price));
                }
                assert!(receipt.logs.iter().all(|log| log.block == receipt.block));
                assert_eq!(
                    value["logs"].as_array().map(Vec::len),
                    Some(receipt.logs.len())
                );
            }
            if let Ok(block) = serde_json::from_slice::<WireBlock>(data) {
                let block = Block::from(block);
                accepted = true;
                assert_eq!(number("number"), Some(U256::from(block.number)));
                assert_eq!(block.reference().hash, block.hash);
            }
            if let Ok(logs) = serde_json::from_slice::<Vec<WireLog>>(data) {
                accepted = true;
                let logs: Vec<Log> = logs.into_iter().map(Log::from).collect();
                assert_eq!(value.as_array().map(Vec::len), Some(logs.len()));
            }
            if let Ok(blocks) = serde_json::from_slice::<Vec<SimulatedBlock>>(data) {
                let calls = value[0]["calls"].as_array().cloned().unwrap_or_default();
                if let Ok(simulated) = read_simulated(blocks, calls.len()) {
                    accepted = true;
                    assert_eq!(simulated.len(), calls.len());
                    for (call, simulation) in calls.iter().zip(&simulated) {
                        match simulation {
                            Simulation::Succeeded { .. } => {
                                assert!(call["status"].as_str().is_none_or(|status| {
                                    status
                                        .parse::<U256>()
                                        .is_ok_and(|status| status == U256::ONE)
                                }));
                            }
                            Simulation::Reverted(data) => assert!(data.len() <= REVERT_BYTES),
                            Simulation::Skipped => panic!("every call was made"),
                        }
                    }
                }
            }
            if let Ok(call) = serde_json::from_slice::<WireCall>(data) {
                accepted = true;
                assert!(!format!("{call:?}").contains("input"));
            }
            accepted
        });
}

/// Whatever goes wrong at a node is told in few words without a URL.
#[test]
fn a_nodes_error_is_told_without_a_url() {
    Fuzz::new("node_error", Shape::Json)
        .executions(30_000)
        .run(|data| {
            if let Ok(text) = std::str::from_utf8(data) {
                short(&sanitise(text));
            }
            let _ = rpc::read(data);
            let Ok(payload) = serde_json::from_slice::<ErrorPayload>(data) else {
                return false;
            };
            match from_payload(&payload) {
                CallError::Node(error) => {
                    let _ = (
                        error.is_retryable(),
                        error.blames_endpoint(),
                        error.lacks_block(),
                    );
                    match error {
                        NodeError::Rpc { message, .. } | NodeError::Limited { message, .. } => {
                            short(&message);
                        }
                        other => panic!("{other}"),
                    }
                }
                CallError::Reverted(data) => {
                    assert!(data.len() <= payload.data.map_or(0, |data| data.get().len()))
                }
            }
            true
        });
}

fn short(message: &str) {
    assert!(message.chars().count() <= LONGEST_MESSAGE);
    assert!(!message.contains("://"), "{message}");
}

fn item(call: &'static [u8], target: Target) -> InspectItem {
    InspectItem {
        token: Address::ZERO,
        payer: Address::ZERO,
        payee: Address::ZERO,
        nonce: B256::ZERO,
        call: Bytes::from_static(call),
        target,
        gas: None,
    }
}

/// What the lens answers is read whole, one answer for each payment, or not at all.
#[test]
fn the_lens_loses_no_item() {
    let items = [item(&[1], Target::Token), item(&[], Target::Token)];
    Fuzz::new("lens", Shape::Words(0))
        .executions(30_000)
        .run(|data| {
            let answer = Bytes::copy_from_slice(data);
            let mut accepted = false;
            let permits = View::Permits(Address::ZERO);
            let redemptions = View::Redemptions(Address::ZERO);
            for view in [View::Tokens, permits, redemptions] {
                let Ok(read) = read_inspect(view, &answer, &items, BLOCK) else {
                    continue;
                };
                accepted = true;
                assert_eq!(read.len(), items.len());
                assert_eq!(read[1].simulation, Simulation::Skipped);
                for inspection in &read {
                    assert_eq!(inspection.block, BLOCK);
                    assert_eq!(inspection.permit2.is_some(), view == permits);
                    assert_eq!(inspection.redemption.is_some(), view == redemptions);
                    if let Simulation::Reverted(data) = &inspection.simulation {
                        assert!(data.len() <= answer.len());
                    }
                }
            }
            if let Ok(sizes) = read_code_sizes(&answer, items.len()) {
                accepted = true;
                assert_eq!(sizes.len(), items.len());
            }
            accepted
        });
}
