//! The payment lens: what one `eth_call` is asked and what it answers. The contract is `contracts/src/PaymentLens.sol`;
//! its code is never deployed, a state override puts it at an address.
//!
//! A long file, because each of its functions is asked and answered in one way only.

use std::sync::LazyLock;

use alloy_primitives::{Address, B256, Bytes, U64, U256, address};
use alloy_sol_types::abi::AbiDecoderConfig;
use alloy_sol_types::{SolCall, sol};
use serde::ser::{SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use teller_domain::{AssetAmount, Authorization, BlockRef, PayerSignature, Payment, Reason};
use teller_schemes::erc7710::Redemption;
use teller_schemes::settling_call;

use crate::{BundledCall, NodeError};

/// Where the override puts the lens. Nobody has its key; the letters spell `teller lens`.
const LENS: Address = address!("0x74656c6c6572206c656e73000000000000000001");

sol! {
    struct Item { address token; address payer; address payee; bytes32 nonce; bytes call; }
    struct State { uint256 codeSize; bool balanceRead; uint256 balance; uint256 payeeBalance; uint8 authorization; bool simulated; uint256 gasUsed; bytes revertData; }
    function inspect(Item[] items, uint256 gasPerItem) returns (uint256 blockNumber, uint256 blockTimestamp, State[] states);
    struct PermitItem { address proxy; address token; address payer; address payee; uint256 nonce; bytes call; }
    struct PermitState { uint256 codeSize; bool proxyReady; bool balanceRead; uint256 balance; uint256 payeeBalance; uint256 allowance; uint8 nonce; bool simulated; uint256 gasUsed; bytes revertData; }
    function inspectPermits(PermitItem[] items, uint256 gasPerItem) returns (uint256 blockNumber, uint256 blockTimestamp, PermitState[] states);
    struct RedemptionItem { address manager; address token; address payer; address payee; bytes call; }
    struct RedemptionState { uint256 codeSize; bool balanceRead; uint256 balance; uint256 payeeBalance; bool simulated; uint256 balanceAfter; uint256 payeeBalanceAfter; uint256 gasUsed; bytes revertData; }
    function inspectRedemptions(RedemptionItem[] items, uint256 gasPerItem) returns (uint256 blockNumber, uint256 blockTimestamp, RedemptionState[] states);
    function codeSizes(address[] accounts) returns (uint256 blockNumber, uint256[] sizes);
}

#[derive(Deserialize)]
struct Artifact<'a> {
    runtime: &'a str,
}

/// The lens's code in hex.
static CODE: LazyLock<Option<&'static str>> = LazyLock::new(|| {
    let text = include_str!("../../../contracts/artifacts/PaymentLens.json");
    let artifact: Artifact<'static> = serde_json::from_str(text).ok()?;
    Some(artifact.runtime)
});

/// `{lens: {code}}` as JSON, made once for the place where it usually stands.
static OVERRIDE: LazyLock<Option<Box<RawValue>>> = LazyLock::new(|| override_at(LENS));

fn override_at(lens: Address) -> Option<Box<RawValue>> {
    let code = (*CODE)?;
    RawValue::from_string(format!(r#"{{"{lens}":{{"code":"{code}"}}}}"#)).ok()
}

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
    /// The call that would settle it; empty to read only.
    pub call: Bytes,
    /// Whom it goes to, and whose nonce it is.
    pub target: Target,
    /// Gas that the simulated call may use, where that is more than what all others get: then it is read apart.
    pub gas: Option<u64>,
}

/// Whom a simulated call goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The token, whose nonce it is (EIP-3009).
    Token,
    /// A contract that calls the token, whose nonce it is.
    Through(Address),
    /// A proxy that spends a permit; the nonce is Permit2's.
    Permit2 {
        /// The proxy.
        proxy: Address,
        /// Who makes the call, where that matters.
        caller: Option<Address>,
    },
    /// A manager that redeems a delegation (ERC-7710); there is no nonce to read.
    Redemption {
        /// The manager.
        manager: Address,
        /// The delegate, who makes the call.
        caller: Address,
    },
}

/// Gas that a call may use in a simulation when a contract judges the signature: passkeys are dear.
const JUDGED_GAS: u64 = 500_000;
/// The same when the contract is made first.
const MADE_GAS: u64 = 2_000_000;
/// Gas that a call may use in a bundle where the item names none.
const BUNDLED_GAS: u64 = 200_000;
/// What a transaction costs before it runs, and each byte of its calldata at most (EIP-7623).
const GAS_OF_A_TRANSACTION: u64 = 21_000;
const GAS_OF_A_BYTE: u64 = 40;
/// Gas that a manager may use for one redemption, with all that the delegation makes it look at.
pub const REDEMPTION_GAS: u64 = 1_000_000;

impl InspectItem {
    /// What there is to find out about a payment: with the very call that settles it.
    pub fn of(payment: &Payment, multicall3: Address) -> Self {
        let (called, call) = settling_call(payment, multicall3);
        let target = match &payment.authorization {
            Authorization::Permit2(_) => Target::Permit2 {
                proxy: called,
                caller: payment.facilitator(),
            },
            Authorization::Eip3009 { .. } if called == payment.asset => Target::Token,
            Authorization::Eip3009 { .. } => Target::Through(called),
            Authorization::Erc7710(delegation) => Target::Redemption {
                manager: called,
                caller: delegation.delegate,
            },
        };
        Self {
            token: payment.asset,
            payer: payment.key.payer,
            payee: payment.payee,
            nonce: payment.key.nonce.0,
            call,
            target,
            gas: match (target, payment.authorization.signature()) {
                (Target::Redemption { .. }, _) => Some(REDEMPTION_GAS),
                (_, PayerSignature::Ecdsa { .. }) => None,
                (_, PayerSignature::Contract(_)) => Some(JUDGED_GAS),
                (_, PayerSignature::Counterfactual(_)) => Some(MADE_GAS),
            },
        }
    }

    /// The same, to read only.
    pub fn without_call(&self) -> Self {
        Self {
            call: Bytes::new(),
            target: match self.target {
                Target::Token | Target::Through(_) => Target::Token,
                other => other,
            },
            gas: None,
            ..self.clone()
        }
    }

    /// Whom the call goes to.
    fn called(&self) -> Address {
        match self.target {
            Target::Token => self.token,
            Target::Through(target) => target,
            Target::Permit2 { proxy, .. } => proxy,
            Target::Redemption { manager, .. } => manager,
        }
    }

    /// Its call as one of a bundle, from whom the lens would make it.
    pub fn bundled(&self) -> BundledCall {
        let from = match self.view() {
            View::Tokens => LENS,
            View::Permits(lens) | View::Redemptions(lens) => lens,
        };
        let bytes = u64::try_from(self.call.len()).unwrap_or(u64::MAX);
        let gas = self.gas.unwrap_or(BUNDLED_GAS);
        BundledCall {
            from,
            to: self.called(),
            data: self.call.clone(),
            gas: bytes
                .saturating_mul(GAS_OF_A_BYTE)
                .saturating_add(GAS_OF_A_TRANSACTION)
                .saturating_add(gas),
        }
    }

    /// How its call is simulated.
    pub(crate) fn view(&self) -> View {
        match self.target {
            Target::Token => View::Tokens,
            Target::Through(_) => View::Permits(LENS),
            Target::Permit2 { caller, .. } => View::Permits(caller.unwrap_or(LENS)),
            Target::Redemption { caller, .. } => View::Redemptions(caller),
        }
    }
}

/// Which of the lens's functions is asked, and where the lens stands: its calls come from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// `inspect`
    Tokens,
    /// `inspectPermits`
    Permits(Address),
    /// `inspectRedemptions`
    Redemptions(Address),
}

/// What a token says of an authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationState {
    /// Never used nor cancelled, or there is nothing that could tell (ERC-7710).
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
    /// What only payments by Permit2 need.
    pub permit2: Option<PermitReading>,
    /// What only delegations need.
    pub redemption: Option<RedemptionReading>,
}

impl Inspection {
    /// Why the redemption would not settle its payment, if it would not. That its manager succeeds proves nothing.
    pub fn redemption_failure(&self, redemption: &Redemption) -> Option<Reason> {
        match (&self.simulation, self.balance, self.redemption) {
            (Simulation::Succeeded { .. }, Some(balance), Some(behind)) => {
                let payee = (self.payee_balance, behind.payee_balance);
                let moved = redemption.moved(payee, (balance, behind.balance));
                (!moved).then_some(Reason::DelegationTransferMismatch)
            }
            (Simulation::Succeeded { .. }, _, _) => Some(Reason::DelegationTransferMismatch),
            (Simulation::Reverted(_) | Simulation::Skipped, _, _) => {
                Some(Reason::DelegationSimulationFailed)
            }
        }
    }
}

/// Balances behind a simulated redemption, which alone say what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedemptionReading {
    /// The payer's.
    pub balance: AssetAmount,
    /// The payee's.
    pub payee_balance: AssetAmount,
}

/// What Permit2 and its proxy say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PermitReading {
    /// Whether the proxy is there and names Permit2.
    pub proxy_ready: bool,
    /// What the token lets Permit2 move for the payer.
    pub allowance: AssetAmount,
}

/// The parameters of the `eth_call`.
#[derive(Clone, Debug)]
pub(crate) struct LensCall {
    lens: Address,
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
        let broken = || serde::ser::Error::custom("the lens artefact is broken");
        let elsewhere = match self.lens {
            LENS => None,
            lens => Some(override_at(lens).ok_or_else(broken)?),
        };
        let code = elsewhere.as_ref().or(OVERRIDE.as_ref());
        let code = code.ok_or_else(broken)?;
        let mut tuple = serializer.serialize_tuple(3)?;
        tuple.serialize_element(&Transaction {
            to: self.lens,
            data: &self.data,
            gas: U64::from(self.gas),
        })?;
        tuple.serialize_element(&self.block)?;
        tuple.serialize_element(code)?;
        tuple.end()
    }
}

impl LensCall {
    pub(crate) fn inspect(
        view: View,
        items: &[InspectItem],
        gas_per_item: u64,
        gas: u64,
        block: At,
    ) -> Self {
        let gas_per_item = U256::from(gas_per_item);
        let (lens, data) = match view {
            View::Tokens => (LENS, tokens_call(items, gas_per_item)),
            View::Permits(lens) => (lens, permits_call(items, gas_per_item)),
            View::Redemptions(lens) => (lens, redemptions_call(items, gas_per_item)),
        };
        Self {
            lens,
            data: data.into(),
            gas,
            block,
        }
    }

    pub(crate) fn code_sizes(accounts: &[Address], gas: u64, block: At) -> Self {
        let call = codeSizesCall {
            accounts: accounts.to_vec(),
        };
        Self {
            lens: LENS,
            data: call.abi_encode().into(),
            gas,
            block,
        }
    }
}

fn tokens_call(items: &[InspectItem], gas_per_item: U256) -> Vec<u8> {
    let item = |item: &InspectItem| Item {
        token: item.token,
        payer: item.payer,
        payee: item.payee,
        nonce: item.nonce,
        call: item.call.clone(),
    };
    inspectCall {
        items: items.iter().map(item).collect(),
        gasPerItem: gas_per_item,
    }
    .abi_encode()
}

fn permits_call(items: &[InspectItem], gas_per_item: U256) -> Vec<u8> {
    let item = |item: &InspectItem| PermitItem {
        proxy: item.called(),
        token: item.token,
        payer: item.payer,
        payee: item.payee,
        nonce: item.nonce.into(),
        call: item.call.clone(),
    };
    inspectPermitsCall {
        items: items.iter().map(item).collect(),
        gasPerItem: gas_per_item,
    }
    .abi_encode()
}

fn redemptions_call(items: &[InspectItem], gas_per_item: U256) -> Vec<u8> {
    let item = |item: &InspectItem| RedemptionItem {
        manager: item.called(),
        token: item.token,
        payer: item.payer,
        payee: item.payee,
        call: item.call.clone(),
    };
    inspectRedemptionsCall {
        items: items.iter().map(item).collect(),
        gasPerItem: gas_per_item,
    }
    .abi_encode()
}

/// Reads what the lens returned for `items`.
pub(crate) fn read_inspect(
    view: View,
    answer: &Bytes,
    items: &[InspectItem],
    block: BlockRef,
) -> Result<Vec<Inspection>, NodeError> {
    match view {
        View::Tokens => read_tokens(answer, items, block),
        View::Permits(_) => read_permits(answer, items, block),
        View::Redemptions(_) => read_redemptions(answer, items, block),
    }
}

/// What a call returned. Answers that share bytes between items are none: read apart they would fill a machine.
fn returned<C: SolCall>(answer: &[u8]) -> Result<C::Return, NodeError> {
    let config = AbiDecoderConfig::new()
        .strict(true)
        .validate_allow_trailing_bytes(true);
    C::abi_decode_returns_with_config(answer, config)
        .map_err(|_| NodeError::BadAnswer("not what the lens returns"))
}

fn authorization(state: u8) -> AuthorizationState {
    match state {
        0 => AuthorizationState::Unused,
        1 => AuthorizationState::Used,
        _ => AuthorizationState::Unreadable,
    }
}

fn simulation(item: &InspectItem, succeeded: bool, gas_used: U256, data: Bytes) -> Simulation {
    match (item.call.is_empty(), succeeded) {
        (true, _) => Simulation::Skipped,
        (false, true) => Simulation::Succeeded {
            gas_used: gas_used.saturating_to(),
        },
        (false, false) => Simulation::Reverted(data),
    }
}

fn read_permits(
    answer: &Bytes,
    items: &[InspectItem],
    block: BlockRef,
) -> Result<Vec<Inspection>, NodeError> {
    let answer = returned::<inspectPermitsCall>(answer)?;
    if answer.states.len() != items.len() {
        return Err(NodeError::BadAnswer("the lens lost items"));
    }
    let read = answer.states.into_iter().zip(items);
    let read = read.map(|(state, item)| Inspection {
        block,
        code_size: state.codeSize.saturating_to(),
        balance: state.balanceRead.then_some(AssetAmount(state.balance)),
        payee_balance: AssetAmount(state.payeeBalance),
        authorization: authorization(state.nonce),
        simulation: simulation(item, state.simulated, state.gasUsed, state.revertData),
        permit2: Some(PermitReading {
            proxy_ready: state.proxyReady,
            allowance: AssetAmount(state.allowance),
        }),
        redemption: None,
    });
    Ok(read.collect())
}

fn read_redemptions(
    answer: &Bytes,
    items: &[InspectItem],
    block: BlockRef,
) -> Result<Vec<Inspection>, NodeError> {
    let answer = returned::<inspectRedemptionsCall>(answer)?;
    if answer.states.len() != items.len() {
        return Err(NodeError::BadAnswer("the lens lost items"));
    }
    let read = answer.states.into_iter().zip(items);
    let read = read.map(|(state, item)| Inspection {
        block,
        code_size: state.codeSize.saturating_to(),
        balance: state.balanceRead.then_some(AssetAmount(state.balance)),
        payee_balance: AssetAmount(state.payeeBalance),
        authorization: AuthorizationState::Unused,
        simulation: simulation(item, state.simulated, state.gasUsed, state.revertData),
        permit2: None,
        redemption: Some(RedemptionReading {
            balance: AssetAmount(state.balanceAfter),
            payee_balance: AssetAmount(state.payeeBalanceAfter),
        }),
    });
    Ok(read.collect())
}

fn read_tokens(
    answer: &Bytes,
    items: &[InspectItem],
    block: BlockRef,
) -> Result<Vec<Inspection>, NodeError> {
    let answer = returned::<inspectCall>(answer)?;
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
            authorization: authorization(state.authorization),
            simulation: simulation(item, state.simulated, state.gasUsed, state.revertData),
            permit2: None,
            redemption: None,
        })
        .collect())
}

/// Reads what `codeSizes` returned for `count` accounts.
pub(crate) fn read_code_sizes(answer: &Bytes, count: usize) -> Result<Vec<u64>, NodeError> {
    let answer = returned::<codeSizesCall>(answer)?;
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
            target: Target::Token,
            gas: None,
        }];
        let inspect = |view, at| LensCall::inspect(view, &items, 150_000, 30_000_000, at);
        let call = inspect(View::Tokens, At::Number(16));
        let json = serde_json::to_value(&call).unwrap();
        assert_eq!(json[0]["gas"], "0x1c9c380");
        assert_eq!(json[1], "0x10");
        let code = json[2][LENS.to_string()]["code"].as_str().unwrap();
        assert!(code.starts_with("0x60") && code.len() > 1000);

        let caller = Address::repeat_byte(0xfa);
        let call = inspect(View::Permits(caller), At::Number(16));
        let json = serde_json::to_value(&call).unwrap();
        assert_eq!(json[0]["to"], serde_json::to_value(caller).unwrap());
        assert!(json[2][caller.to_string()]["code"].is_string());

        let pinned = inspect(View::Tokens, At::Hash(B256::ZERO));
        let json = serde_json::to_value(&pinned).unwrap();
        assert_eq!(json[1]["requireCanonical"], true);
        assert_eq!(json[1]["blockHash"], B256::ZERO.to_string());
    }

    #[test]
    fn answers_that_share_their_bytes_are_not_multiplied() {
        let word = |number: usize| U256::from(number).to_be_bytes::<32>();
        let (items, length) = (20, 1_000_000);
        let head = [word(1), word(1), word(96), word(items)];
        // Every place leads to the one state behind them, and that to the longest revert.
        let places = std::iter::repeat_n(word(32 * items), items);
        let state = [1, 1, 1, 1, 0, 0, 1, 256, length].map(word);
        let mut answer: Vec<u8> = head
            .into_iter()
            .chain(places)
            .chain(state)
            .flatten()
            .collect();
        answer.resize(answer.len() + length, 1);
        let lenient = inspectCall::abi_decode_returns(&answer).unwrap();
        assert_eq!(lenient.states[19].revertData.len(), length);
        assert!(returned::<inspectCall>(&answer).is_err());

        // A redemption has one word more, and reads the same way.
        let state = [1, 1, 1, 1, 0, 0, 0, 1, 288, length].map(word);
        let places = std::iter::repeat_n(word(32 * items), items);
        let mut answer: Vec<u8> = head
            .into_iter()
            .chain(places)
            .chain(state)
            .flatten()
            .collect();
        answer.resize(answer.len() + length, 1);
        assert!(inspectRedemptionsCall::abi_decode_returns(&answer).is_ok());
        let item = InspectItem {
            token: Address::ZERO,
            payer: Address::ZERO,
            payee: Address::ZERO,
            nonce: B256::ZERO,
            call: Bytes::new(),
            target: Target::Token,
            gas: None,
        };
        let block = BlockRef {
            number: 1,
            hash: B256::ZERO,
        };
        let asked = vec![item; items];
        let view = View::Redemptions(Address::ZERO);
        assert!(read_inspect(view, &answer.into(), &asked, block).is_err());
    }
}
