//! What an endpoint lets a call do, asked as verification asks. For checks before teller serves: nothing here is asked while
//! it does.

use alloy_primitives::{Address, Bytes, U64, U256, address};
use serde_json::{Value, json};
use teller_domain::BlockRef;

use crate::lens::{At, LensCall, read_inspect};
use crate::{CallError, InspectItem, InspectLimits, Inspection, NodeError, Nodes};

/// Where the code of the probe is put. Nobody has its key; the letters spell `teller probe`.
const PROBE: Address = address!("0x74656c6c65722070726f62650000000000000001");
/// Returns the gas that is left: GAS, PUSH1 0, MSTORE, PUSH1 32, PUSH1 0, RETURN.
const GAS_LEFT: &str = "0x5a60005260206000f3";

impl Nodes {
    /// Inspects one payment as verification does, in a call with as much gas.
    ///
    /// # Errors
    /// When no endpoint gave a usable answer: one without state overrides in `eth_call` gives none.
    pub async fn try_lens(
        &self,
        item: &InspectItem,
        block: BlockRef,
        limits: InspectLimits,
    ) -> Result<Inspection, CallError> {
        let items = std::slice::from_ref(item);
        let (view, at) = (item.view(), At::Number(block.number));
        let call = LensCall::inspect(view, items, limits.gas_per_item, limits.gas, at);
        let answer = self.raw_call(call).await?;
        let mut read = read_inspect(view, &answer, items, block)?;
        let lost = NodeError::BadAnswer("the lens lost items");
        read.pop().ok_or(CallError::Node(lost))
    }

    /// How much gas a call gets that asks for so much. Nodes cap it, and most do not say so.
    ///
    /// # Errors
    /// When no endpoint gave a usable answer.
    pub async fn gas_of_a_call(&self, asked: u64, block: u64) -> Result<u64, CallError> {
        let question: (Value, U64, Value) = (
            json!({ "to": PROBE, "gas": U64::from(asked) }),
            U64::from(block),
            json!({ PROBE.to_string(): { "code": GAS_LEFT } }),
        );
        let answer: Bytes = self.raw_call(question).await?;
        if answer.len() != 32 {
            return Err(NodeError::BadAnswer("the state override was ignored").into());
        }
        Ok(U256::from_be_slice(&answer).saturating_to())
    }
}
