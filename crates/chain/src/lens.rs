//! The payment lens: what one `eth_call` is asked and what it answers. The contract is `contracts/src/PaymentLens.sol`;
//! its code is never deployed, a state override puts it at an address.

use std::sync::LazyLock;

use alloy_primitives::{Address, B256, Bytes, U64, U256, address};
use alloy_sol_types::{SolCall, sol};
use serde::ser::{SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use teller_domain::{AssetAmount, BlockRef};

use crate::NodeError;

/// Where the override puts the lens. Nobody has its key; the letters spell `teller lens`.
const LENS: Address = address!("0x74656c6c6572206c656e73000000000000000001");

sol! {
    struct Item { address token; address payer; address payee; bytes32 nonce; bytes call; }
    struct State { uint256 codeSize; bool balanceRead; uint256 balance; uint256 payeeBalance; uint8 authorization; bool simulated; uint256 gasUsed; bytes revertData; }
    function inspect(Item[] items, uint256 gasPerItem) returns (uint256 blockNumber, uint256 blockTimestamp, State[] states);
    function codeSizes(address[] accounts) returns (uint256 blockNumber, uint256[] sizes);
}

#[derive(Deserialize)]
struct Artifact<'a> {
    runtime: &'a str,
}

/// `{lens: {code}}` as JSON, made once.
static OVERRIDE: LazyLock<Option<Box<RawValue>>> = LazyLock::new(|| {
    let text = include_str!("../../../contracts/artifacts/PaymentLens.json");
    let artifact: Artifact<'_> = serde_json::from_str(text).ok()?;
    RawValue::from_string(format!(r#"{{"{LENS}":{{"code":"{}"}}}}"#, artifact.runtime)).ok()
});

/// What to find out about one payment.
#[derive(Debug, Clone)]
pub struct InspectItem {
    /// The token.
    pub token: Address,
    /// Whose balance, code and authorization to read.
    pub payer: Address,
    /// Who would receive.
    pub payee: Address,
    /// The authorization's nonce.
    pub nonce: B256,
    /// The call that would settle it, simulated against the token; empty to read only.
    pub call: Bytes,
}

/// What a token says of an authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationState {
    /// Never used nor cancelled.
    Unused,
    /// Used or cancelled.
    Used,
    /// The token has no `authorizationState` (EIP-3009).
    Unreadable,
}

/// What became of a simulated call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Simulation {
    /// It would succeed.
    Succeeded {
        /// Gas that it used, without the 21,000 of a transaction.
        gas_used: u64,
    },
    /// It would revert, with this data (at most 256 bytes).
    Reverted(Bytes),
    /// None was asked for.
    Skipped,
}

/// What was found out about one payment, all at one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The block that everything was read at.
    pub block: BlockRef,
    /// Size of the payer's code; zero for a plain account.
    pub code_size: u64,
    /// The payer's balance; `None` if the token has no code or no `balanceOf`.
    pub balance: Option<AssetAmount>,
    /// The payee's balance; zero if it cannot be read.
    pub payee_balance: AssetAmount,
    /// The authorization.
    pub authorization: AuthorizationState,
    /// The simulated call.
    pub simulation: Simulation,
}

/// The parameters of the `eth_call`.
#[derive(Clone, Debug)]
pub(crate) struct LensCall {
    data: Bytes,
    gas: u64,
    block: At,
}

/// How a call names its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// By height: whatever block the node has there.
    Number(u64),
    /// By hash (EIP-1898), and only while that is canonical.
    Hash(B256),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ByHash {
    block_hash: B256,
    require_canonical: bool,
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => U64::from(*number).serialize(serializer),
            Self::Hash(hash) => ByHash {
                block_hash: *hash,
                require_canonical: true,
            }
            .serialize(serializer),
        }
    }
}

#[derive(Serialize)]
struct Transaction<'a> {
    to: Address,
    data: &'a Bytes,
    gas: U64,
}

impl Serialize for LensCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let code = OVERRIDE
            .as_ref()
            .ok_or_else(|| serde::ser::Error::custom("the lens artefact is broken"))?;
        let mut tuple = serializer.serialize_tuple(3)?;
        tuple.serialize_element(&Transaction {
            to: LENS,
            data: &self.data,
            gas: U64::from(self.gas),
        })?;
        tuple.serialize_element(&self.block)?;
        tuple.serialize_element(code)?;
        tuple.end()
    }
}

impl LensCall {
    pub(crate) fn inspect(items: &[InspectItem], gas_per_item: u64, gas: u64, block: At) -> Self {
        let call = inspectCall {
            items: items
                .iter()
                .map(|item| Item {
                    token: item.token,
                    payer: item.payer,
                    payee: item.payee,
                    nonce: item.nonce,
                    call: item.call.clone(),
                })
                .collect(),
            gasPerItem: U256::from(gas_per_item),
        };
        Self {
            data: call.abi_encode().into(),
            gas,
            block,
        }
    }

    pub(crate) fn code_sizes(accounts: &[Address], gas: u64, block: At) -> Self {
        let call = codeSizesCall {
            accounts: accounts.to_vec(),
        };
        Self {
            data: call.abi_encode().into(),
            gas,
            block,
        }
    }
}

/// Reads what `inspect` returned for `items`.
pub(crate) fn read_inspect(
    answer: &Bytes,
    items: &[InspectItem],
    block: BlockRef,
) -> Result<Vec<Inspection>, NodeError> {
    let answer = inspectCall::abi_decode_returns(answer)
        .map_err(|_| NodeError::BadAnswer("not what the lens returns"))?;
    if answer.states.len() != items.len() {
        return Err(NodeError::BadAnswer("the lens lost items"));
    }
    Ok(answer
        .states
        .into_iter()
        .zip(items)
        .map(|(state, item)| Inspection {
            block,
            code_size: state.codeSize.saturating_to(),
            balance: state.balanceRead.then_some(AssetAmount(state.balance)),
            payee_balance: AssetAmount(state.payeeBalance),
            authorization: match state.authorization {
                0 => AuthorizationState::Unused,
                1 => AuthorizationState::Used,
                _ => AuthorizationState::Unreadable,
            },
            simulation: match (item.call.is_empty(), state.simulated) {
                (true, _) => Simulation::Skipped,
                (false, true) => Simulation::Succeeded {
                    gas_used: state.gasUsed.saturating_to(),
                },
                (false, false) => Simulation::Reverted(state.revertData),
            },
        })
        .collect())
}

/// Reads what `codeSizes` returned for `count` accounts.
pub(crate) fn read_code_sizes(answer: &Bytes, count: usize) -> Result<Vec<u64>, NodeError> {
    let answer = codeSizesCall::abi_decode_returns(answer)
        .map_err(|_| NodeError::BadAnswer("not what the lens returns"))?;
    if answer.sizes.len() != count {
        return Err(NodeError::BadAnswer("the lens lost accounts"));
    }
    Ok(answer
        .sizes
        .into_iter()
        .map(|size| size.saturating_to())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_are_a_call_a_height_and_the_override() {
        let items = [InspectItem {
            token: Address::ZERO,
            payer: Address::ZERO,
            payee: Address::ZERO,
            nonce: B256::ZERO,
            call: Bytes::from_static(&[1, 2]),
        }];
        let call = LensCall::inspect(&items, 150_000, 30_000_000, At::Number(16));
        let json = serde_json::to_value(&call).unwrap();
        assert_eq!(json[0]["gas"], "0x1c9c380");
        assert_eq!(json[1], "0x10");
        let code = json[2][LENS.to_string()]["code"].as_str().unwrap();
        assert!(code.starts_with("0x60") && code.len() > 1000);

        let pinned = LensCall::inspect(&items, 150_000, 30_000_000, At::Hash(B256::ZERO));
        let json = serde_json::to_value(&pinned).unwrap();
        assert_eq!(json[1]["requireCanonical"], true);
        assert_eq!(json[1]["blockHash"], B256::ZERO.to_string());
    }
}
