//! What is read to prove what became of an authorization: logs and contract reads by as many endpoints as a negative fact
//! takes, and the calls that a transaction made.

use alloy_primitives::{Address, B256, Bytes, U64};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use teller_domain::BlockRef;

use crate::nodes::{log_filter, not_a_call};
use crate::wire::WireLog;
use crate::{CallError, Log, NodeError, Nodes};

const LOGS: &str = "eth_getLogs";
const TRACE: &str = "debug_traceTransaction";

/// Calls of one transaction that are looked at; what made more of them cannot be told.
const MOST_CALLS: usize = 20_000;

/// A call that a transaction made and that was not reverted, by itself or by a caller above it.
#[derive(Clone, PartialEq, Eq)]
pub struct MadeCall {
    /// The contract that was called.
    pub to: Address,
    /// Its calldata. It may hold signatures, so it is not printed.
    pub input: Bytes,
}

impl std::fmt::Debug for MadeCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeCall")
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// A frame of geth's `callTracer`.
#[derive(Deserialize)]
struct WireFrame {
    #[serde(rename = "type")]
    kind: String,
    to: Option<Address>,
    #[serde(default)]
    input: Bytes,
    error: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    calls: Vec<WireFrame>,
}

impl Nodes {
    /// The logs of a contract from one block up to another, both included, as found by any of the endpoints that a negative
    /// fact takes: two where two are configured. Each endpoint that counts has the upper block when it has answered.
    ///
    /// # Errors
    /// When too few endpoints gave a usable answer.
    pub async fn witnessed_logs(
        &self,
        address: Address,
        topics: &[Vec<B256>],
        from_block: u64,
        to_block: BlockRef,
    ) -> Result<Vec<Log>, NodeError> {
        let filter = log_filter(address, topics, from_block, to_block.number);
        let mut found: Vec<Log> = Vec::new();
        let mut witnesses = 0;
        let mut failure = NodeError::NoEndpoint;
        for endpoint in self.in_order(LOGS) {
            let read = async {
                let logs: Vec<WireLog> = endpoint
                    .call(LOGS, (filter.clone(),))
                    .await
                    .map_err(not_a_call)?;
                if endpoint.hash_at(to_block.number).await? != Some(to_block.hash) {
                    return Err(NodeError::BadAnswer("the endpoint has another block there"));
                }
                Ok(logs)
            };
            match read.await {
                Ok(logs) => {
                    witnesses += 1;
                    for log in logs.into_iter().map(Log::from) {
                        let is_known = |known: &Log| {
                            (known.transaction, known.index) == (log.transaction, log.index)
                        };
                        if !found.iter().any(is_known) {
                            found.push(log);
                        }
                    }
                }
                Err(error) => failure = error,
            }
            if witnesses >= self.witnesses() {
                return Ok(found);
            }
        }
        Err(failure)
    }

    /// What a contract returns at a block, as each of the endpoints says that a negative fact takes.
    ///
    /// # Errors
    /// When too few endpoints gave a usable answer, or the call reverts.
    pub async fn witnessed_call(
        &self,
        to: Address,
        data: &Bytes,
        block: u64,
    ) -> Result<Vec<Bytes>, NodeError> {
        let call = json!({ "to": to, "data": data });
        let mut said = Vec::new();
        let mut failure = NodeError::NoEndpoint;
        for endpoint in self.in_order("eth_call") {
            let answer: Result<Bytes, _> = endpoint
                .call("eth_call", (call.clone(), U64::from(block)))
                .await;
            match answer {
                Ok(answer) => said.push(answer),
                Err(error) => failure = not_a_call(error),
            }
            if said.len() >= self.witnesses() {
                return Ok(said);
            }
        }
        Err(failure)
    }

    /// The calls that a mined transaction made, in the order in which they ended; `None` where no endpoint can tell, as
    /// `debug_traceTransaction` is a method that many providers do not offer.
    ///
    /// # Errors
    /// When no endpoint could be asked.
    pub async fn calls_made(&self, transaction: B256) -> Result<Option<Vec<MadeCall>>, NodeError> {
        let tracer = json!({ "tracer": "callTracer" });
        let mut failure = None;
        let mut refused = false;
        for endpoint in self.in_order(TRACE) {
            let frame: Result<Box<RawValue>, _> =
                endpoint.call(TRACE, (transaction, tracer.clone())).await;
            match frame {
                // One that is nested too deeply is its sender's doing, and no fault of the endpoint.
                Ok(frame) => {
                    return Ok(serde_json::from_str(frame.get()).ok().and_then(made_calls));
                }
                Err(CallError::Node(NodeError::Rpc { .. }) | CallError::Reverted(_)) => {
                    refused = true;
                }
                Err(CallError::Node(error)) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if !refused => Err(error),
            _ => Ok(None),
        }
    }
}

/// Only what was called as a contract of its own: code that another contract borrows acts as that one.
fn made_calls(frame: WireFrame) -> Option<Vec<MadeCall>> {
    let mut made = Vec::new();
    let mut frames = vec![(frame, false)];
    let mut seen = 0;
    while let Some((mut frame, is_done)) = frames.pop() {
        if is_done {
            if let (Some(to), "CALL") = (frame.to, frame.kind.as_str()) {
                let input = frame.input;
                made.push(MadeCall { to, input });
            }
            continue;
        }
        seen += 1;
        if seen > MOST_CALLS {
            return None;
        }
        if frame.error.is_some() {
            continue;
        }
        let calls = std::mem::take(&mut frame.calls);
        frames.push((frame, true));
        frames.extend(calls.into_iter().rev().map(|call| (call, false)));
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(json: &str) -> WireFrame {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn calls_come_in_the_order_of_their_ends_without_what_was_reverted() {
        let at = |byte: u8| Address::repeat_byte(byte);
        let json = format!(
            r#"{{"type":"CALL","to":"{a}","input":"0x01","calls":[
                {{"type":"CALL","to":"{b}","input":"0x02","calls":[
                    {{"type":"STATICCALL","to":"{c}","input":"0x03"}},
                    {{"type":"DELEGATECALL","to":"{c}","input":"0x04","calls":[{{"type":"CALL","to":"{d}","input":"0x05"}}]}}]}},
                {{"type":"CALL","to":"{b}","input":"0x06","error":"execution reverted","calls":[
                    {{"type":"CALL","to":"{d}","input":"0x07"}}]}}]}}"#,
            a = at(1),
            b = at(2),
            c = at(3),
            d = at(4),
        );
        let made = made_calls(frame(&json)).unwrap();
        let made: Vec<(Address, u8)> = made.iter().map(|call| (call.to, call.input[0])).collect();
        assert_eq!(made, [(at(4), 5), (at(2), 2), (at(1), 1)]);
    }
}
