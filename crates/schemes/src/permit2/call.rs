//! The calls: to the proxies, and the reads that verification needs.

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, sol};
use teller_domain::{AssetAmount, ChainId};

use super::{EXACT_PROXY, PERMIT2, Permit, Proxy, UPTO_PROXY};
use crate::multicall::decoded;
use crate::{eip2612, multicall};

sol! {
    struct TokenPermissions { address token; uint256 amount; }
    struct PermitTransferFrom { TokenPermissions permitted; uint256 nonce; uint256 deadline; }
    struct Eip2612Permit { uint256 value; uint256 deadline; bytes32 r; bytes32 s; uint8 v; }
    struct ExactWitness { address to; uint256 validAfter; }
    struct UptoWitness { address to; address facilitator; uint256 validAfter; }

    interface ExactProxy {
        function settle(PermitTransferFrom permit, address owner, ExactWitness witness, bytes signature) external;
        function settleWithPermit(Eip2612Permit permit2612, PermitTransferFrom permit, address owner, ExactWitness witness, bytes signature) external;
    }
    interface UptoProxy {
        function settle(PermitTransferFrom permit, uint256 amount, address owner, UptoWitness witness, bytes signature) external;
        function settleWithPermit(Eip2612Permit permit2612, PermitTransferFrom permit, uint256 amount, address owner, UptoWitness witness, bytes signature) external;
    }

    #[allow(non_snake_case)]
    function PERMIT2() external view returns (address);
    function nonceBitmap(address owner, uint256 word) external view returns (uint256);
    function allowance(address owner, address spender) external view returns (uint256);
}

/// Calldata of the call to the permit's proxy that settles it. `amount` is what moves: under `exact` that is the
/// permitted amount, and the proxy knows no other.
pub fn settle_call(
    permit: &Permit,
    owner: Address,
    amount: AssetAmount,
    signature: &[u8],
) -> Bytes {
    let signature = Bytes::copy_from_slice(signature);
    match permit.proxy {
        Proxy::Exact => ExactProxy::settleCall {
            permit: transfer_from(permit),
            owner,
            witness: exact_witness(permit),
            signature,
        }
        .abi_encode(),
        Proxy::Upto { facilitator } => UptoProxy::settleCall {
            permit: transfer_from(permit),
            amount: amount.0,
            owner,
            witness: upto_witness(permit, facilitator),
            signature,
        }
        .abi_encode(),
    }
    .into()
}

/// The same with an EIP-2612 permit that gives Permit2 its allowance first. The permit's value must be the
/// permitted amount, also under `upto`.
pub fn settle_with_permit_call(
    permit: &Permit,
    owner: Address,
    amount: AssetAmount,
    signature: &[u8],
    allowance: &eip2612::SignedPermit,
) -> Bytes {
    let signature = Bytes::copy_from_slice(signature);
    let permit2612 = Eip2612Permit {
        value: allowance.permit.value.0,
        deadline: allowance.permit.deadline,
        r: allowance.signature.r,
        s: allowance.signature.s,
        v: allowance.signature.v,
    };
    match permit.proxy {
        Proxy::Exact => ExactProxy::settleWithPermitCall {
            permit2612,
            permit: transfer_from(permit),
            owner,
            witness: exact_witness(permit),
            signature,
        }
        .abi_encode(),
        Proxy::Upto { facilitator } => UptoProxy::settleWithPermitCall {
            permit2612,
            permit: transfer_from(permit),
            amount: amount.0,
            owner,
            witness: upto_witness(permit, facilitator),
            signature,
        }
        .abi_encode(),
    }
    .into()
}

/// Calldata of `PERMIT2()`, which a proxy that is there answers with [`PERMIT2`].
pub fn proxy_probe_call() -> Bytes {
    PERMIT2Call {}.abi_encode().into()
}

/// Calldata that asks Permit2 for the word of the payer's bitmap that holds `nonce`.
pub fn nonce_bitmap_call(owner: Address, nonce: U256) -> Bytes {
    nonceBitmapCall {
        owner,
        word: nonce >> 8,
    }
    .abi_encode()
    .into()
}

/// Calldata that asks a token what it lets Permit2 move.
pub fn allowance_call(owner: Address) -> Bytes {
    allowanceCall {
        owner,
        spender: PERMIT2,
    }
    .abi_encode()
    .into()
}

/// A call to a proxy, read back from a transaction's calldata.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyCall {
    /// The permit that it spends.
    pub permit: Permit,
    /// Whose money it is.
    pub owner: Address,
    /// How much it moves.
    pub amount: AssetAmount,
    /// The payer's signature.
    pub signature: Bytes,
}

/// Without the signature: whoever holds it can move the money.
impl std::fmt::Debug for ProxyCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyCall")
            .field("permit", &self.permit)
            .field("owner", &self.owner)
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

/// The longest calldata that [`decode_call`] looks at.
pub const MAX_CALLDATA_BYTES: usize = 16 * 1024;

/// Reads a call to `target`. `None` if that is no proxy, or the call no settlement.
pub fn decode_call(chain: ChainId, target: Address, calldata: &[u8]) -> Option<ProxyCall> {
    if calldata.len() > MAX_CALLDATA_BYTES {
        return None;
    }
    match target {
        EXACT_PROXY => {
            let (permit, owner, witness, signature) =
                if let Some(call) = decoded::<ExactProxy::settleCall>(calldata) {
                    (call.permit, call.owner, call.witness, call.signature)
                } else {
                    let call = decoded::<ExactProxy::settleWithPermitCall>(calldata)?;
                    (call.permit, call.owner, call.witness, call.signature)
                };
            let amount = permit.permitted.amount;
            let to = (witness.to, witness.validAfter);
            Some(call_of(
                chain,
                permit,
                to,
                Proxy::Exact,
                owner,
                amount,
                signature,
            ))
        }
        UPTO_PROXY => {
            let (permit, amount, owner, witness, signature) =
                if let Some(call) = decoded::<UptoProxy::settleCall>(calldata) {
                    (
                        call.permit,
                        call.amount,
                        call.owner,
                        call.witness,
                        call.signature,
                    )
                } else {
                    let call = decoded::<UptoProxy::settleWithPermitCall>(calldata)?;
                    (
                        call.permit,
                        call.amount,
                        call.owner,
                        call.witness,
                        call.signature,
                    )
                };
            let proxy = Proxy::Upto {
                facilitator: witness.facilitator,
            };
            let to = (witness.to, witness.validAfter);
            Some(call_of(chain, permit, to, proxy, owner, amount, signature))
        }
        _ => None,
    }
}

/// The settlements that a transaction to `target` asks for: of a proxy itself, or of several through Multicall3.
pub fn calls_of(
    chain: ChainId,
    multicall3: Address,
    target: Address,
    calldata: &[u8],
) -> Vec<ProxyCall> {
    if target != multicall3 {
        return decode_call(chain, target, calldata).into_iter().collect();
    }
    let calls = multicall::calls(calldata).unwrap_or_default();
    let calls = calls.iter();
    calls
        .filter_map(|(target, call)| decode_call(chain, *target, call))
        .collect()
}

fn call_of(
    chain: ChainId,
    permit: PermitTransferFrom,
    (to, valid_after): (Address, U256),
    proxy: Proxy,
    owner: Address,
    amount: U256,
    signature: Bytes,
) -> ProxyCall {
    ProxyCall {
        permit: Permit {
            chain,
            token: permit.permitted.token,
            amount: AssetAmount(permit.permitted.amount),
            nonce: permit.nonce,
            deadline: permit.deadline,
            to,
            valid_after,
            proxy,
        },
        owner,
        amount: AssetAmount(amount),
        signature,
    }
}

fn transfer_from(permit: &Permit) -> PermitTransferFrom {
    PermitTransferFrom {
        permitted: TokenPermissions {
            token: permit.token,
            amount: permit.amount.0,
        },
        nonce: permit.nonce,
        deadline: permit.deadline,
    }
}

fn exact_witness(permit: &Permit) -> ExactWitness {
    ExactWitness {
        to: permit.to,
        validAfter: permit.valid_after,
    }
}

fn upto_witness(permit: &Permit, facilitator: Address) -> UptoWitness {
    UptoWitness {
        to: permit.to,
        facilitator,
        validAfter: permit.valid_after,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{upto, vector};
    use super::*;
    use alloy_primitives::{B256, hex};
    use proptest::prelude::*;
    use teller_domain::EcdsaSignature;

    fn allowance(value: AssetAmount) -> eip2612::SignedPermit {
        eip2612::SignedPermit {
            permit: eip2612::Permit {
                owner: Address::repeat_byte(1),
                spender: PERMIT2,
                value,
                nonce: U256::ZERO,
                deadline: U256::MAX,
            },
            signature: EcdsaSignature {
                r: B256::repeat_byte(2),
                s: B256::repeat_byte(3),
                v: 27,
            },
        }
    }

    #[test]
    fn the_selectors_are_the_proxies() {
        let owner = Address::repeat_byte(1);
        for (proxy, settle, with_permit) in [
            (Proxy::Exact, hex!("13cd3b53"), hex!("fa340378")),
            (upto(), hex!("ff11e7b4"), hex!("016c1748")),
        ] {
            let permit = vector(proxy);
            let call = settle_call(&permit, owner, permit.amount, &[7; 65]);
            assert_eq!(call[..4], settle);
            let call = settle_with_permit_call(
                &permit,
                owner,
                permit.amount,
                &[7; 65],
                &allowance(permit.amount),
            );
            assert_eq!(call[..4], with_permit);
        }
        assert_eq!(proxy_probe_call()[..], hex!("6afdd850"));
        assert_eq!(nonce_bitmap_call(owner, U256::MAX)[..4], hex!("4fe02b44"));
        assert_eq!(allowance_call(owner)[..4], hex!("dd62ed3e"));
    }

    #[test]
    fn what_stands_behind_the_arguments_is_ignored_as_contracts_ignore_it() {
        let owner = Address::repeat_byte(1);
        for proxy in [Proxy::Exact, upto()] {
            let permit = vector(proxy);
            let call = settle_call(&permit, owner, permit.amount, &[7; 65]);
            let read = decode_call(permit.chain, proxy.address(), &call).unwrap();
            let attributed = [&call[..], &hex!("a161616474657374000c028021")].concat();
            let target = proxy.address();
            assert_eq!(
                decode_call(permit.chain, target, &attributed),
                Some(read.clone())
            );
            let batch = multicall::aggregate([(target, Bytes::from(attributed))].into_iter());
            let attributed = [&batch[..], &[0x80, 0x21]].concat();
            let at = multicall::MULTICALL3;
            assert_eq!(calls_of(permit.chain, at, at, &attributed), [read]);
            // A word that a contract would not take for an address.
            let mut dirty = call.to_vec();
            dirty[4] = 1;
            assert_eq!(decode_call(permit.chain, target, &dirty), None);
        }
    }

    #[test]
    fn a_nonce_is_looked_for_in_its_word() {
        let call = nonce_bitmap_call(Address::ZERO, U256::from(0x1234_u64));
        let asked = nonceBitmapCall::abi_decode(&call).unwrap();
        assert_eq!(asked.word, U256::from(0x12));
    }

    proptest! {
        #[test]
        fn a_call_reads_back(
            limbs: [u64; 4], amount: u64, deadline: [u64; 4], valid_after: [u64; 4], is_upto: bool, with_permit: bool,
            signature in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let permit = Permit {
                nonce: U256::from_limbs(limbs),
                deadline: U256::from_limbs(deadline),
                valid_after: U256::from_limbs(valid_after),
                ..vector(if is_upto { upto() } else { Proxy::Exact })
            };
            let amount = if is_upto { AssetAmount::from(amount) } else { permit.amount };
            let owner = Address::repeat_byte(5);
            let data = if with_permit {
                settle_with_permit_call(&permit, owner, amount, &signature, &allowance(permit.amount))
            } else {
                settle_call(&permit, owner, amount, &signature)
            };
            let read = decode_call(permit.chain, permit.proxy.address(), &data);
            prop_assert_eq!(read, Some(ProxyCall { permit, owner, amount, signature: signature.into() }));
            prop_assert_eq!(decode_call(permit.chain, PERMIT2, &data), None);
        }

        #[test]
        fn no_calldata_makes_reading_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..700), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
        ) {
            for (proxy, target) in [(Proxy::Exact, EXACT_PROXY), (upto(), UPTO_PROXY)] {
                let _ = decode_call(ChainId(1), target, &bytes);
                let permit = vector(proxy);
                let mut valid = settle_call(&permit, PERMIT2, permit.amount, &[7; 65]).to_vec();
                let at = at.index(valid.len());
                valid[at] = byte;
                let _ = decode_call(ChainId(1), target, &valid);
                valid.truncate(cut.index(valid.len()));
                let _ = decode_call(ChainId(1), target, &valid);
            }
        }
    }
}
