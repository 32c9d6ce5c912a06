//! Many calls in one transaction, through Multicall3's `aggregate3`.

use alloy_primitives::{Address, Bytes, address};
use alloy_sol_types::abi::AbiDecoderConfig;
use alloy_sol_types::{SolCall, sol};

/// Multicall3, at the same address on every chain that has it.
pub const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");

sol! {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }
    function aggregate3(Call3[] calls) external payable;
}

/// Calldata of `aggregate3` in which a call that fails leaves its neighbours alone.
pub fn aggregate(calls: impl Iterator<Item = (Address, Bytes)>) -> Bytes {
    sequence(calls.map(|(target, call_data)| (target, true, call_data)))
}

/// Calldata of `aggregate3` of calls that may fail (`true`) or make everything fail (`false`).
pub(crate) fn sequence(calls: impl Iterator<Item = (Address, bool, Bytes)>) -> Bytes {
    let calls = calls
        .map(|(target, may_fail, call_data)| Call3 {
            target,
            allowFailure: may_fail,
            callData: call_data,
        })
        .collect();
    aggregate3Call { calls }.abi_encode().into()
}

/// Reads calldata as a contract does: what stands behind the arguments is ignored, such as builder codes, and a word that
/// does not fit its type is no argument. Arguments that share bytes are none either: read apart they would fill a machine.
pub(crate) fn decoded<C: SolCall>(calldata: &[u8]) -> Option<C> {
    let config = AbiDecoderConfig::new()
        .strict(true)
        .validate_allow_trailing_bytes(true);
    let call = C::abi_decode_with_config(calldata, config).ok()?;
    calldata.starts_with(&call.abi_encode()).then_some(call)
}

/// The longest calldata of Multicall3 that is read back: more than a transaction's gas pays for.
const MAX_CALLDATA_BYTES: usize = 1024 * 1024;

/// The calls that calldata of `aggregate3` makes; `None` if it is no such calldata.
pub fn calls(calldata: &[u8]) -> Option<Vec<(Address, Bytes)>> {
    if calldata.len() > MAX_CALLDATA_BYTES {
        return None;
    }
    let calls = decoded::<aggregate3Call>(calldata)?.calls.into_iter();
    Some(calls.map(|call| (call.target, call.callData)).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloy_primitives::U256;

    /// The calls of `aggregate3` calldata.
    pub(crate) fn decoded(data: &[u8]) -> Vec<(Address, bool, Bytes)> {
        let calls = aggregate3Call::abi_decode(data).unwrap().calls;
        let parts = calls.into_iter();
        parts
            .map(|call| (call.target, call.allowFailure, call.callData))
            .collect()
    }

    #[test]
    fn the_selector_is_multicall3s() {
        let calls = [(Address::repeat_byte(1), Bytes::from_static(&[1, 2, 3]))];
        let data = aggregate(calls.clone().into_iter());
        assert_eq!(data[..4], [0x82, 0xad, 0x56, 0xcb]);
        let decoded = aggregate3Call::abi_decode(&data).unwrap();
        assert_eq!(decoded.calls.len(), 1);
        assert_eq!(decoded.calls[0].target, calls[0].0);
        assert!(decoded.calls[0].allowFailure);
        assert_eq!(decoded.calls[0].callData, calls[0].1);
        assert_eq!(super::calls(&data), Some(calls.to_vec()));
        assert_eq!(super::calls(&data[..40]), None);
    }

    #[test]
    fn calls_that_share_their_bytes_are_not_multiplied() {
        let word = |number: usize| U256::from(number).to_be_bytes::<32>();
        let (places, length) = (2_000, 500_000);
        let head = [word(32), word(places)];
        // Every place leads to the one call behind them.
        let places = std::iter::repeat_n(word(32 * places), places);
        let call = [word(1), word(1), word(96), word(length)];
        let mut data = aggregate3Call::SELECTOR.to_vec();
        data.extend(head.into_iter().chain(places).chain(call).flatten());
        data.resize(data.len() + length, 1);
        assert!(data.len() <= MAX_CALLDATA_BYTES);
        // Read apart they would be a gigabyte.
        assert_eq!(super::calls(&data), None);
    }
}
