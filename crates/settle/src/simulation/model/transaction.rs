//! A signed transaction, read back from its bytes.

use alloy_consensus::{Transaction as _, TxEnvelope};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, sol};
use teller_domain::{ChainId, EXACT_PROXY, Fees, Payment, UnixSeconds};
use teller_schemes::erc7710;
use teller_schemes::permit2::{self, Permit};

sol! {
    function transferWithAuthorization(
        address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
        uint8 v, bytes32 r, bytes32 s
    ) external;
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;
    function transfer(address to, uint256 value) external;
    function approve(address spender, uint256 value) external;
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }
    function aggregate3(Call3[] calls) external payable;
    function redeemDelegations(bytes[] contexts, bytes32[] modes, bytes[] executions) external;
}

/// A manager that redeems whatever it is given, as often as it is given it: the chain guards nothing.
pub const MANAGER: Address = Address::repeat_byte(0x71);
/// The byte behind the delegator in a permission context: of a delegation that moves nothing in every other second.
pub const FICKLE: u8 = 1;

/// A redemption of one delegation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redemption {
    pub from: Address,
    pub to: Address,
    pub value: U256,
    /// The hash of the permission context.
    pub context: B256,
    pub fickle: bool,
}

/// A call of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenCall {
    /// `transferWithAuthorization`, the `v, r, s` overload.
    TransferWithAuthorization {
        from: Address,
        to: Address,
        value: U256,
        valid_after: UnixSeconds,
        valid_before: UnixSeconds,
        nonce: B256,
    },
    /// `cancelAuthorization`, the `v, r, s` overload.
    CancelAuthorization { authorizer: Address, nonce: B256 },
    /// `transfer` from the transaction's sender.
    Transfer { to: Address, value: U256 },
    /// `approve` of Permit2 by the transaction's sender; nothing or all.
    Approve { value: U256 },
    /// `settle` of the exact proxy, which has Permit2 move the token.
    Spend {
        from: Address,
        to: Address,
        value: U256,
        deadline: UnixSeconds,
        nonce: B256,
    },
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A transfer of `value` to an account without code.
    Pay { to: Address, value: U256 },
    /// A call of the token.
    Token { target: Address, call: TokenCall },
    /// Multicall3's `aggregate3`: target, whether it may fail, call.
    Batch(Vec<(Address, bool, TokenCall)>),
    /// A call of the manager.
    Redeem(Redemption),
}

#[derive(Debug, Clone)]
pub struct Transaction {
    pub hash: B256,
    pub from: Address,
    pub nonce: u64,
    pub gas_limit: u64,
    pub fees: Fees,
    pub call: Call,
    /// Bytes of its calldata: zeros, and others.
    pub calldata: (u64, u64),
    pub raw: Bytes,
}

impl Transaction {
    /// Decodes signed bytes. Recovering the sender costs more than all the rest, so whoever knows it says it.
    ///
    /// # Panics
    /// If the bytes are none that teller or these tests sign.
    pub fn decode(raw: &Bytes, from: Address) -> Self {
        let envelope = TxEnvelope::decode_2718_exact(raw).expect("signed bytes decode");
        let input = envelope.input();
        let zeros = input.iter().filter(|byte| **byte == 0).count() as u64;
        let to = envelope.to().expect("nothing here deploys a contract");
        let call = match decode_call(to, input) {
            Some(call) => Call::Token { target: to, call },
            None if input.is_empty() => Call::Pay {
                to,
                value: envelope.value(),
            },
            None if to == MANAGER => Call::Redeem(decode_redemption(input)),
            None => {
                let batch = aggregate3Call::abi_decode(input).expect("a batch of calls");
                let calls = batch.calls.into_iter().map(|call| {
                    let inner =
                        decode_call(call.target, &call.callData).expect("a call of the token");
                    (call.target, call.allowFailure, inner)
                });
                Call::Batch(calls.collect())
            }
        };
        Self {
            hash: *envelope.tx_hash(),
            from,
            nonce: envelope.nonce(),
            gas_limit: envelope.gas_limit(),
            fees: Fees {
                max_fee_per_gas: envelope.max_fee_per_gas(),
                max_priority_fee_per_gas: envelope.max_priority_fee_per_gas().unwrap_or_default(),
            },
            call,
            calldata: (zeros, input.len() as u64 - zeros),
            raw: raw.clone(),
        }
    }

    /// Every call of the token in it, in order.
    pub fn token_calls(&self) -> Vec<&TokenCall> {
        match &self.call {
            Call::Pay { .. } | Call::Redeem(_) => Vec::new(),
            Call::Token { call, .. } => vec![call],
            Call::Batch(calls) => calls.iter().map(|(_, _, call)| call).collect(),
        }
    }

    /// What a unit of gas costs it at this base fee.
    pub fn gas_price(&self, base_fee: u128) -> u128 {
        let tipped = base_fee.saturating_add(self.fees.max_priority_fee_per_gas);
        self.fees.max_fee_per_gas.min(tipped)
    }

    /// What its sender must own for a node to take it.
    pub fn upfront(&self) -> U256 {
        let value = match &self.call {
            Call::Pay { value, .. } => *value,
            _ => U256::ZERO,
        };
        U256::from(self.gas_limit) * U256::from(self.fees.max_fee_per_gas) + value
    }

    /// What it costs before it does anything, and the least that it costs at all (EIP-2028, EIP-7623).
    pub fn intrinsic_gas(&self) -> (u64, u64) {
        let (zeros, others) = self.calldata;
        (
            21_000 + 4 * zeros + 16 * others,
            21_000 + 10 * zeros + 40 * others,
        )
    }
}

fn seconds(value: U256) -> UnixSeconds {
    UnixSeconds(value.saturating_to())
}

/// The call of the manager that settles a payment, if it is a delegation.
pub fn call_of_manager(payment: &Payment) -> Option<Call> {
    let redemption = erc7710::Redemption::of(payment)?;
    Some(Call::Redeem(decode_redemption(&redemption.call())))
}

/// One execution: `asset ++ value ++ transfer(to, amount)`.
fn decode_redemption(data: &[u8]) -> Redemption {
    let call = redeemDelegationsCall::abi_decode(data).expect("a redemption");
    let (context, execution) = (&call.contexts[0], &call.executions[0]);
    let moves = transferCall::abi_decode(&execution[52..]).expect("a transfer");
    Redemption {
        from: Address::from_slice(&context[..20]),
        to: moves.to,
        value: moves.value,
        context: keccak256(context),
        fickle: context[20] == FICKLE,
    }
}

/// The call of the exact proxy that spends a permit.
pub fn spend_of(payment: &Payment) -> Option<TokenCall> {
    Permit::of(payment)?;
    let (target, call) = teller_schemes::settling_call(payment, Address::ZERO);
    decode_call(target, &call)
}

fn decode_call(target: Address, data: &[u8]) -> Option<TokenCall> {
    if target != EXACT_PROXY {
        return decode_token_call(data);
    }
    let call = permit2::decode_call(ChainId(0), target, data)?;
    Some(TokenCall::Spend {
        from: call.owner,
        to: call.permit.to,
        value: call.amount.0,
        deadline: seconds(call.permit.deadline),
        nonce: call.permit.nonce.into(),
    })
}

fn decode_token_call(data: &[u8]) -> Option<TokenCall> {
    if let Ok(call) = approveCall::abi_decode(data) {
        return Some(TokenCall::Approve { value: call.value });
    }
    if let Ok(call) = transferWithAuthorizationCall::abi_decode(data) {
        return Some(TokenCall::TransferWithAuthorization {
            from: call.from,
            to: call.to,
            value: call.value,
            valid_after: seconds(call.validAfter),
            valid_before: seconds(call.validBefore),
            nonce: call.nonce,
        });
    }
    if let Ok(call) = cancelAuthorizationCall::abi_decode(data) {
        return Some(TokenCall::CancelAuthorization {
            authorizer: call.authorizer,
            nonce: call.nonce,
        });
    }
    let call = transferCall::abi_decode(data).ok()?;
    Some(TokenCall::Transfer {
        to: call.to,
        value: call.value,
    })
}
