//! What calls would do one after the other in the next block: `eth_simulateV1`, which not every node has.

use std::sync::Arc;

use alloy_primitives::{Address, Bytes, U64};
use serde::Deserialize;
use serde_json::{Value, json};
use teller_domain::UnixSeconds;
use tokio::time::sleep;

use crate::failover::{NoAnswer, first_answer};
use crate::inspect::{LATE_BLOCK_PAUSE, LATE_BLOCK_TRIES};
use crate::{CallError, NodeError, Nodes, Simulation};

/// What nodes answer who do not have the method: JSON-RPC's own code, and that of EIP-1474.
const UNKNOWN_METHOD: [i64; 2] = [-32_601, -32_004];
/// No more of a revert is kept; the lens keeps as much.
pub(crate) const REVERT_BYTES: usize = 256;

/// One call of a bundle. Nobody pays for its gas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundledCall {
    /// Who calls.
    pub from: Address,
    /// Whom.
    pub to: Address,
    /// With what.
    pub data: Bytes,
    /// Gas limit, with what a transaction costs before it runs.
    pub gas: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SimulatedBlock {
    calls: Vec<SimulatedCall>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SimulatedCall {
    #[serde(default)]
    return_data: Bytes,
    gas_used: U64,
    status: U64,
    error: Option<SimulatedError>,
}

#[derive(Debug, Deserialize)]
struct SimulatedError {
    /// Where geth puts the data of a revert; others return it.
    data: Option<Value>,
}

impl Nodes {
    /// What these calls would do, one after the other, in the block after that height and at that time. `None` if no
    /// endpoint has the method.
    ///
    /// # Errors
    /// When an endpoint that may have it gave no usable answer, and no other did.
    pub async fn simulate(
        &self,
        height: u64,
        time: UnixSeconds,
        calls: &[BundledCall],
    ) -> Result<Option<Vec<Simulation>>, NodeError> {
        let method = "eth_simulateV1";
        let question = question(height, time, calls);
        let (question, calls) = (Arc::new(question), calls.len());
        let mut tries = 1;
        loop {
            let asked = first_answer(
                || self.in_order(method),
                method,
                |endpoint| {
                    let question = Arc::clone(&question);
                    async move {
                        let answer = endpoint.call(method, question).await?;
                        read_simulated(answer, calls).map_err(CallError::Node)
                    }
                },
            );
            let failures = match asked.await {
                Ok(simulated) => return Ok(Some(simulated)),
                Err(NoAnswer::Reverted(_)) => {
                    return Err(NodeError::BadAnswer("a revert of a whole bundle"));
                }
                Err(NoAnswer::Failed(failures)) => failures,
            };
            let mut failures = failures.into_iter().filter(|error| !lacks_method(error));
            match failures.next_back() {
                None => return Ok(None),
                // A node behind a load balancer that does not have the block yet is given a moment.
                Some(error) if error.lacks_block() && tries < LATE_BLOCK_TRIES => {
                    tries += 1;
                    sleep(LATE_BLOCK_PAUSE).await;
                }
                Some(error) => return Err(error),
            }
        }
    }
}

fn lacks_method(error: &NodeError) -> bool {
    matches!(error, NodeError::Rpc { code, .. } if UNKNOWN_METHOD.contains(code))
}

/// Number and time are named: some nodes would take those of the block before.
fn question(height: u64, time: UnixSeconds, calls: &[BundledCall]) -> (Value, U64) {
    let calls = calls.iter().map(|call| {
        json!({ "from": call.from, "to": call.to, "input": call.data, "gas": U64::from(call.gas) })
    });
    let block = json!({
        "blockOverrides": {
            "number": U64::from(height.saturating_add(1)),
            "time": U64::from(time.0),
        },
        "calls": calls.collect::<Vec<_>>(),
    });
    let question = json!({ "blockStateCalls": [block], "validation": false });
    (question, U64::from(height))
}

/// One simulation for each of so many calls.
pub(crate) fn read_simulated(
    answer: Vec<SimulatedBlock>,
    calls: usize,
) -> Result<Vec<Simulation>, NodeError> {
    let lost = NodeError::BadAnswer("the simulation lost calls");
    let [block] = <[SimulatedBlock; 1]>::try_from(answer).map_err(|_| lost.clone())?;
    if block.calls.len() != calls {
        return Err(lost);
    }
    Ok(block.calls.into_iter().map(simulation).collect())
}

fn simulation(call: SimulatedCall) -> Simulation {
    if call.status == U64::ONE {
        return Simulation::Succeeded {
            gas_used: call.gas_used.to(),
        };
    }
    let named = call.error.and_then(|error| error.data);
    let named: Option<Bytes> = named.and_then(|data| data.as_str()?.parse().ok());
    let data = named
        .filter(|data| !data.is_empty())
        .unwrap_or(call.return_data);
    Simulation::Reverted(data.slice(..data.len().min(REVERT_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str, calls: usize) -> Result<Vec<Simulation>, NodeError> {
        read_simulated(serde_json::from_str(answer).unwrap(), calls)
    }

    #[test]
    fn a_revert_is_found_where_each_node_puts_it() {
        let reverted = Simulation::Reverted(Bytes::from_static(&[0x75, 0x66, 0x88, 0xfe]));
        for call in [
            r#"{"returnData":"0x756688fe","gasUsed":"0x1","status":"0x0","error":{"code":-3200,"message":"execution failed"}}"#,
            r#"{"returnData":"0x","gasUsed":"0x1","status":"0x0","error":{"code":3,"message":"execution reverted","data":"0x756688fe"}}"#,
            r#"{"gasUsed":"0x1","status":"0x0","returnData":"0x756688fe"}"#,
        ] {
            let answer = format!(r#"[{{"number":"0x2","calls":[{call}]}}]"#);
            assert_eq!(read(&answer, 1), Ok(vec![reverted.clone()]));
        }
        let long = format!(
            r#"[{{"calls":[{{"returnData":"0x{}","gasUsed":"0x1","status":"0x0"}}]}}]"#,
            "00".repeat(1_000)
        );
        let read = read(&long, 1).unwrap();
        let [Simulation::Reverted(data)] = read.as_slice() else {
            panic!("it reverted")
        };
        assert_eq!(data.len(), REVERT_BYTES);
    }

    #[test]
    fn an_answer_about_other_calls_is_none() {
        let call = r#"{"returnData":"0x","gasUsed":"0x5208","status":"0x1"}"#;
        let two = format!(r#"[{{"calls":[{call},{call}]}}]"#);
        let went_well = Simulation::Succeeded { gas_used: 21_000 };
        assert_eq!(read(&two, 2), Ok(vec![went_well.clone(), went_well]));
        assert!(read(&two, 1).is_err() && read(&two, 3).is_err());
        assert!(read("[]", 0).is_err());
        let blocks = format!(r#"[{{"calls":[{call}]}},{{"calls":[{call}]}}]"#);
        assert!(read(&blocks, 1).is_err());
    }
}
