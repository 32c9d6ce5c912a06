//! Base never lets its base fee fall under a floor; anvil knows no floor and an idle chain decays to
//! nothing. This task lifts the next block's base fee whenever it has fallen through.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rpc::Rpc;

/// Base's minimum base fee, in wei.
pub(crate) const MIN_BASE_FEE: u64 = 5_000_000;

/// Runs until it is aborted.
pub(crate) async fn hold_base_fee_floor(rpc: Rpc, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A node that does not answer is not this task's to report; its next tick may find it well.
        // Not anvil_nodeInfo, which locks anvil for ever if a block is mined at that moment (anvil 1.7.1).
        let history = rpc.call("eth_feeHistory", json!(["0x1", "latest", []]));
        let Ok(history) = history.await else {
            continue;
        };
        // The second of the two is the next block's.
        let next = history
            .pointer("/baseFeePerGas/1")
            .and_then(Value::as_str)
            .and_then(|hex| u128::from_str_radix(hex.trim_start_matches("0x"), 16).ok());
        if next.is_some_and(|fee| fee < u128::from(MIN_BASE_FEE)) {
            let floor = json!([format!("{MIN_BASE_FEE:#x}")]);
            let _next_tick_tries_again = rpc.call("anvil_setNextBlockBaseFeePerGas", floor).await;
        }
    }
}
