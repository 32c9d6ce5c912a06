//! Fuzz targets: signatures, signed transactions, calldata and logs. Their inputs start from `crates/fuzz/corpus`.

use alloy_consensus::transaction::{RlpEcdsaDecodableTx, RlpEcdsaEncodableTx};
use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, address, keccak256};
use alloy_sol_types::{SolCall, SolEvent};
use teller_domain::{
    AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId, EcdsaSignature,
    PERMIT2, PayerSignature, Payment, Permit2, PermitTerms, UnixSeconds, Validity,
};
use teller_fuzz::{Chance, Fuzz, Shape};

use crate::builder_code::{BuilderCodes, MAX_CBOR_BYTES, MAX_SERVICES};
use crate::erc20_approval::{Approval, approveCall};
use crate::erc1271::{AccountCode, accepts};
use crate::erc6492::{MAGIC, MAX_INNER_BYTES, Unwrapped, unwrap};
use crate::erc7710::Redemption;
use crate::event::{AuthorizationCanceled, AuthorizationUsed, TRANSFER_TOPIC};
use crate::multicall::{self, MULTICALL3};
use crate::permit2::{
    EXACT_PROXY, Proxy, UPTO_PROXY, calls_of, decode_call, invalidates, settle_call,
};
use crate::{EventLog, Outcome, eip3009, normalize, permit2, read, recover, sign, transfers};

const CHAIN: ChainId = ChainId(84532);
const TOKEN: Address = address!("036CbD53842c5426634e7929541eC2318f3dCF7e");
/// Half the order of secp256k1's group, rounded down.
const HALF_ORDER: &str = "0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0";

fn secret() -> [u8; 32] {
    let mut secret = [0; 32];
    secret[31] = 1;
    secret
}

/// Every signature is of one kind; what a token is given reads as the same signature, and a plain account's is the one
/// form that tokens take.
#[test]
fn a_signature_is_of_one_kind() {
    Fuzz::new("signature", Shape::Words(0))
        .executions(100_000)
        .run(|data| {
            let Ok(signature) = read(data) else {
                return false;
            };
            let given = signature.to_bytes();
            assert!(given.len() <= MAX_INNER_BYTES);
            match &signature {
                PayerSignature::Ecdsa {
                    signature: ecdsa, ..
                } => {
                    assert!(matches!(data.len(), 64 | 65));
                    assert!(matches!(ecdsa.v, 27 | 28));
                    let half: U256 = HALF_ORDER.parse().unwrap();
                    assert!(U256::from_be_bytes(ecdsa.s.0) <= half);
                    assert_eq!(normalize(&given), Ok(*ecdsa));
                    assert_eq!(read(&given).unwrap().ecdsa(), Some(*ecdsa));
                    assert_eq!(signature.judged_by_code().to_bytes()[..], *data);
                    let digest = keccak256(data);
                    let other = EcdsaSignature {
                        v: 27 + 28 - ecdsa.v,
                        ..*ecdsa
                    };
                    let signer = recover(digest, ecdsa);
                    assert!(signer.is_none() || signer != recover(digest, &other));
                }
                PayerSignature::Contract(bytes) => {
                    assert_eq!(bytes[..], *data);
                    assert!(!data.ends_with(MAGIC.as_slice()));
                }
                PayerSignature::Counterfactual(new) => {
                    assert!(!new.factory.is_zero());
                    assert!(data.ends_with(MAGIC.as_slice()));
                    assert!(!given.ends_with(MAGIC.as_slice()));
                }
            }
            true
        });
}

/// A wrapper that is taken off is put on again as the same wrapper.
#[test]
fn a_wrapper_is_read_in_one_way() {
    Fuzz::new("wrapper", Shape::Words(0))
        .executions(100_000)
        .run(|data| {
            // Mostly with the magic behind it, which no change would find again.
            let mut wrapped = data.to_vec();
            if !data.ends_with(MAGIC.as_slice()) {
                assert_eq!(unwrap(data), Ok(Unwrapped::Plain(data)));
                wrapped.extend_from_slice(MAGIC.as_slice());
            }
            let Ok(Unwrapped::Wrapped(wrapper)) = unwrap(&wrapped) else {
                return false;
            };
            let inside = wrapper.factory_calldata.len() + wrapper.signature.len();
            assert!(inside <= 2 * wrapped.len());
            let again = wrapper.to_bytes();
            // Two byte strings that share their bytes take more room apart.
            if again.len() <= crate::erc6492::MAX_WRAPPED_BYTES {
                assert_eq!(unwrap(&again), Ok(Unwrapped::Wrapped(wrapper)));
            }
            true
        });
}

/// A signed approval that is accepted is sent as the very bytes that were signed: they encode what was read and nothing
/// else, and their hash is the transaction's.
#[test]
fn an_approval_is_what_was_signed() {
    Fuzz::new("approval", Shape::Bytes)
        .executions(100_000)
        .run(|data| {
            let Ok(approval) = Approval::decode(data, TOKEN) else {
                return false;
            };
            assert_eq!(approval.raw()[..], *data);
            assert_eq!(approval.hash, keccak256(data));
            assert!(approval.max_cost() >= approval.value);
            let transaction = TxEip1559 {
                chain_id: approval.chain.0,
                nonce: approval.nonce,
                gas_limit: approval.gas_limit,
                max_fee_per_gas: approval.max_fee_per_gas,
                max_priority_fee_per_gas: approval.max_priority_fee_per_gas,
                to: TxKind::Call(approval.token),
                value: approval.value.0,
                access_list: Default::default(),
                input: approve(approval.amount.0),
            };
            let signed = TxEip1559::eip2718_decode(&mut &data[..]).unwrap();
            assert_eq!(signed.tx(), &transaction);
            let mut again = Vec::new();
            transaction.eip2718_encode(signed.signature(), &mut again);
            assert_eq!(again, data);
            true
        });
}

fn approve(amount: U256) -> Bytes {
    let spender = PERMIT2;
    approveCall { spender, amount }.abi_encode().into()
}

fn encoded(transaction: &TxEip1559, digest: B256) -> Vec<u8> {
    let signature = sign(digest, &secret()).unwrap();
    let parity = signature.v == 28;
    let signature = Signature::new(signature.r.into(), signature.s.into(), parity);
    let mut bytes = Vec::new();
    transaction.eip2718_encode(&signature, &mut bytes);
    bytes
}

/// Whatever an approval says is read as it was signed, or it is refused.
#[test]
fn an_approval_that_is_signed_is_read() {
    Fuzz::new("approval_fields", Shape::Words(0)).run(|data| {
        let seed = data
            .iter()
            .take(8)
            .fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        let mut chance = Chance::new(seed);
        let mut rest = data;
        let mut number = |longest: usize| {
            let length = 1 + chance.below(longest);
            let (taken, more) = rest.split_at(length.min(rest.len()));
            rest = more;
            U256::from_be_slice(taken)
        };
        let transaction = TxEip1559 {
            chain_id: number(8).to(),
            nonce: number(8).to(),
            gas_limit: number(8).to(),
            max_fee_per_gas: number(16).to(),
            max_priority_fee_per_gas: number(16).to(),
            to: TxKind::Call(TOKEN),
            value: number(32),
            access_list: Default::default(),
            input: approve(number(32)),
        };
        let bytes = encoded(&transaction, transaction.signature_hash());
        let read = Approval::decode(&bytes, TOKEN).unwrap();
        assert_eq!(
            read.signer,
            address!("7E5F4552091A69125d5DfCb7b8C2659029395Bdf")
        );
        assert_eq!(
            (read.chain.0, read.nonce),
            (transaction.chain_id, transaction.nonce)
        );
        assert_eq!(read.gas_limit, transaction.gas_limit);
        assert_eq!(read.max_fee_per_gas, transaction.max_fee_per_gas);
        assert_eq!(read.value.0, transaction.value);
        assert_eq!(approve(read.amount.0), transaction.input);
        let _ = (read.max_cost(), read.lacking(read.value, read.value));
        true
    });
}

/// Codes that are read are written as codes that read the same, and take no more than their bounds.
#[test]
fn builder_codes_are_read_in_one_way() {
    Fuzz::new("builder_code", Shape::Bytes)
        .executions(100_000)
        .run(|data| {
            let Some((codes, length)) = BuilderCodes::read(data) else {
                return false;
            };
            assert!(length <= data.len() && length <= MAX_CBOR_BYTES + 19);
            assert!(codes.services.len() <= MAX_SERVICES);
            let suffix = codes.suffix();
            assert!(!suffix.is_empty() && suffix.len() <= length);
            assert_eq!(
                BuilderCodes::read(&suffix),
                Some((codes.clone(), suffix.len()))
            );
            // What stands before it means nothing.
            let alone = &data[data.len() - length..];
            assert_eq!(BuilderCodes::read(alone), Some((codes, length)));
            true
        });
}

/// Calldata that is read as settlements is what a proxy would take for the same settlements: encoded again it stands at
/// its beginning, and it is no settlement by another proxy.
#[test]
fn calldata_is_read_as_a_contract_reads_it() {
    Fuzz::new("calldata", Shape::Words(4))
        .executions(100_000)
        .run(|data| {
            let mut accepted = false;
            for (proxy, other) in [(EXACT_PROXY, UPTO_PROXY), (UPTO_PROXY, EXACT_PROXY)] {
                let Some(call) = decode_call(CHAIN, proxy, data) else {
                    continue;
                };
                accepted = true;
                assert_eq!(call.permit.proxy.address(), proxy);
                assert_eq!(decode_call(CHAIN, other, data), None);
                assert!(call.signature.len() <= data.len());
                if call.permit.proxy == Proxy::Exact {
                    assert_eq!(call.amount, call.permit.amount);
                }
                let again = settle_call(&call.permit, call.owner, call.amount, &call.signature);
                // The other form has an allowance before the same arguments.
                let sponsored = !data.starts_with(&again[..4]);
                assert!(sponsored || data.starts_with(&again));
                let alone = calls_of(CHAIN, MULTICALL3, proxy, data);
                assert_eq!(alone, std::slice::from_ref(&call));
                let together = [(proxy, Bytes::copy_from_slice(data))];
                let together = multicall::aggregate(together.into_iter());
                assert_eq!(calls_of(CHAIN, MULTICALL3, MULTICALL3, &together), [call]);
            }
            if let Some(calls) = multicall::calls(data) {
                accepted = true;
                let inside: usize = calls.iter().map(|(_, call)| call.len()).sum();
                assert!(inside <= data.len());
                for call in calls_of(CHAIN, MULTICALL3, MULTICALL3, data) {
                    assert!(matches!(
                        call.permit.proxy.address(),
                        EXACT_PROXY | UPTO_PROXY
                    ));
                }
            }
            accepted
        });
}

/// What an account's code or a contract answers, and what reverts say.
#[test]
fn answers_of_contracts_are_read_in_one_way() {
    Fuzz::new("answer", Shape::Words(4)).run(|data| {
        if accepts(data) {
            assert_eq!(data[..4], crate::erc1271::MAGIC);
            assert_eq!(data[4..32], [0; 28]);
        }
        match AccountCode::of(data) {
            AccountCode::None => assert!(data.is_empty()),
            AccountCode::Delegated(to) => {
                assert_eq!(data, [&[0xef, 1, 0][..], to.as_slice()].concat())
            }
            AccountCode::Contract => assert!(AccountCode::of(data).judges_signatures()),
        }
        eip3009::classify_revert(data)
            .or(permit2::classify_revert(data))
            .is_some()
    });
}

const PROXY_EVENTS: [&str; 2] = ["Settled()", "SettledWithPermit()"];

fn account(number: u8) -> Address {
    Address::repeat_byte(0xa0 + number % 3)
}

fn nonce(number: u8) -> B256 {
    B256::with_last_byte(number % 3)
}

/// Payments of three accounts, each to the next one.
fn payment(number: u8, terms: Option<PermitTerms>, value: u64) -> Payment {
    let signature: PayerSignature = sign(B256::ZERO, &secret()).unwrap().into();
    Payment {
        key: AuthorizationKey {
            chain: CHAIN,
            authority: terms.map_or(TOKEN, |_| PERMIT2),
            payer: account(number),
            nonce: AuthorizationNonce(nonce(number)),
        },
        asset: TOKEN,
        payee: account(number + 1),
        value: AssetAmount::from(value),
        validity: Validity::between(UnixSeconds(0), UnixSeconds(9)),
        authorization: match terms {
            None => Authorization::Eip3009 { signature },
            Some(terms) => Authorization::Permit2(Box::new(Permit2 {
                terms,
                signature,
                allowance: None,
            })),
        },
    }
}

fn payments() -> Vec<Payment> {
    let upto = PermitTerms::Upto {
        facilitator: account(0),
        permitted: AssetAmount::from(9),
    };
    let kinds = [None, Some(PermitTerms::Exact), Some(upto)];
    let of = |number| kinds.map(|terms| payment(number, terms, 1 + u64::from(number % 2)));
    (0..3).flat_map(of).collect()
}

#[derive(Debug)]
struct Emitted {
    address: Address,
    topics: Vec<B256>,
    data: Vec<u8>,
}

/// Four bytes for each log: which event, whose, from and to whom or which nonce, and how much.
fn emitted(bytes: &[u8]) -> Option<Emitted> {
    let &[kind, place, who, value] = bytes else {
        return None;
    };
    let places = [
        TOKEN,
        TOKEN,
        TOKEN,
        EXACT_PROXY,
        UPTO_PROXY,
        PERMIT2,
        account(0),
        MULTICALL3,
    ];
    let address = places[usize::from(place % 8)];
    let (from, to) = (account(who % 3), account(who / 3));
    let word = U256::from(value % 4).to_be_bytes::<32>().to_vec();
    let (topics, data) = match kind % 8 {
        0..=2 => (vec![TRANSFER_TOPIC, from.into_word(), to.into_word()], word),
        3 => (
            vec![
                AuthorizationUsed::SIGNATURE_HASH,
                from.into_word(),
                nonce(value),
            ],
            vec![],
        ),
        4 => (
            vec![
                AuthorizationCanceled::SIGNATURE_HASH,
                from.into_word(),
                nonce(value),
            ],
            vec![],
        ),
        5 | 6 => (vec![keccak256(PROXY_EVENTS[usize::from(kind % 2)])], vec![]),
        _ => {
            let topic = keccak256("UnorderedNonceInvalidation(address,uint256,uint256)");
            (vec![topic, from.into_word()], [vec![0; 32], word].concat())
        }
    };
    Some(Emitted {
        address,
        topics,
        data,
    })
}

/// Whatever contracts emit, one transfer counts for one payment, and only for one that it pays exactly.
#[test]
fn one_transfer_counts_for_one_payment() {
    let payments = payments();
    Fuzz::new("logs", Shape::Bytes).run(|data| {
        let emitted: Vec<Emitted> = data.chunks(4).take(40).filter_map(emitted).collect();
        let logs = || {
            (0..).zip(&emitted).map(|(index, log)| EventLog {
                address: log.address,
                topics: &log.topics,
                data: &log.data,
                index,
            })
        };
        let is_transfer = |at: u64, payment: &Payment| {
            let log = logs().nth(usize::try_from(at).unwrap()).unwrap();
            let topics = [
                TRANSFER_TOPIC,
                payment.key.payer.into_word(),
                payment.payee.into_word(),
            ];
            log.address == payment.asset
                && log.topics == topics
                && U256::from_be_slice(log.data) == payment.value.0
        };
        let mut outcome = Outcome::read(logs());
        let mut counted = Vec::new();
        for payment in &payments {
            if let Some(at) = outcome.take(payment) {
                assert!(is_transfer(at, payment), "another transfer counts");
                assert!(!counted.contains(&at), "a transfer counts twice");
                counted.push(at);
            }
            let (owner, nonce) = (payment.key.payer, payment.key.nonce.0.into());
            for log in logs().filter(|log| invalidates(log, owner, nonce)) {
                assert_eq!((log.address, log.data.len()), (PERMIT2, 64));
            }
            let redemption = Redemption {
                manager: MULTICALL3,
                delegator: payment.key.payer,
                permission_context: Bytes::new(),
                asset: payment.asset,
                pay_to: payment.payee,
                amount: payment.value,
            };
            if let Some(at) = redemption.settled(&transfers(logs())) {
                assert!(is_transfer(at, payment));
                let moves =
                    logs().filter(|log| log.address == TOKEN && log.topics[0] == TRANSFER_TOPIC);
                assert_eq!(moves.count(), 1);
            }
        }
        !counted.is_empty()
    });
}
