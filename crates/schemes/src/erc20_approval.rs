//! A payer's signed `approve(Permit2, ..)` transaction, which teller may send for it: the extension
//! `erc20ApprovalGasSponsoring` (PROTOCOL section 7.2).
//!
//! The bytes go on chain as they are, from the payer's account, so all of them are checked: nothing may ride along.

use alloy_consensus::TxEip1559;
use alloy_consensus::transaction::RlpEcdsaDecodableTx;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_sol_types::{SolCall, sol};
use teller_domain::{AssetAmount, ChainId, EcdsaSignature, Reason, Wei};

use crate::permit2::PERMIT2;
use crate::{normalize, recover};

sol! {
    function approve(address spender, uint256 amount) external returns (bool);
}

/// The longest signed transaction that is looked at; an approval has under 200 bytes.
pub const MAX_TRANSACTION_BYTES: usize = 1_024;
/// The most gas that an approval may ask for; clients ask for 70,000.
pub const MAX_GAS: u64 = 100_000;
/// The least: with less no node would take it, as a transaction with its calldata may need so much before it runs
/// (EIP-7623).
pub const MIN_GAS: u64 = 24_000;

/// A signed approval whose form, target, arguments and signature are good.
#[derive(Clone, PartialEq, Eq)]
pub struct Approval {
    /// Who signed it: whose tokens it is about, and whose gas.
    pub signer: Address,
    /// The token.
    pub token: Address,
    /// How much Permit2 may move.
    pub amount: AssetAmount,
    /// The network that it is for.
    pub chain: ChainId,
    /// The signer's account nonce.
    pub nonce: u64,
    /// Its gas limit.
    pub gas_limit: u64,
    /// The most that it pays for a unit of gas.
    pub max_fee_per_gas: u128,
    /// The most of that which goes to the block's proposer.
    pub max_priority_fee_per_gas: u128,
    /// Native currency that it sends.
    pub value: Wei,
    /// Its hash.
    pub hash: B256,
    raw: Bytes,
}

/// Without the raw bytes: whoever has them can send them.
impl std::fmt::Debug for Approval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Approval")
            .field("signer", &self.signer)
            .field("token", &self.token)
            .field("amount", &self.amount)
            .field("nonce", &self.nonce)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// The payment that an approval must fit.
#[derive(Debug, Clone, Copy)]
pub struct Sponsored {
    /// The network.
    pub chain: ChainId,
    /// The payer of the Permit2 permit.
    pub payer: Address,
    /// The permitted amount.
    pub permitted: AssetAmount,
}

/// The three members of the extension that must agree with the payment before the transaction is looked at.
///
/// # Errors
/// The reason of the first that does not.
pub fn check_members(
    (from, asset, spender): (Address, Address, Address),
    payer: Address,
    required_asset: Address,
) -> Result<(), Reason> {
    if from != payer {
        return Err(Reason::ApprovalFromMismatch);
    }
    if asset != required_asset {
        return Err(Reason::ApprovalAssetMismatch);
    }
    if spender != PERMIT2 {
        return Err(Reason::ApprovalSpenderNotPermit2);
    }
    Ok(())
}

impl Approval {
    /// Reads a signed EIP-1559 transaction that calls `approve(Permit2, ..)` of `asset`, in the order of PROTOCOL
    /// section 7.2.
    ///
    /// # Errors
    /// The reason of the first thing that is wrong with it.
    pub fn decode(bytes: &[u8], asset: Address) -> Result<Self, Reason> {
        if bytes.len() > MAX_TRANSACTION_BYTES {
            return Err(Reason::ApprovalTxParseFailed);
        }
        let mut rest = bytes;
        let signed =
            TxEip1559::eip2718_decode(&mut rest).map_err(|_| Reason::ApprovalTxParseFailed)?;
        let transaction = signed.tx();
        // An access list costs gas and does nothing for an approval.
        if !rest.is_empty() || !transaction.access_list.is_empty() {
            return Err(Reason::ApprovalTxParseFailed);
        }
        if transaction.to != TxKind::Call(asset) {
            return Err(Reason::ApprovalTxWrongTarget);
        }
        let amount = approved_amount(&transaction.input)?;
        let signature = signed.signature();
        let signature = EcdsaSignature {
            r: signature.r().into(),
            s: signature.s().into(),
            v: 27 + u8::from(signature.v()),
        };
        let signer = normalize(&signature.to_bytes())
            .ok()
            .and_then(|signature| recover(signed.signature_hash(), &signature))
            .ok_or(Reason::ApprovalTxInvalidSignature)?;
        Ok(Self {
            signer,
            token: asset,
            amount: AssetAmount(amount),
            chain: ChainId(transaction.chain_id),
            nonce: transaction.nonce,
            gas_limit: transaction.gas_limit,
            max_fee_per_gas: transaction.max_fee_per_gas,
            max_priority_fee_per_gas: transaction.max_priority_fee_per_gas,
            value: Wei(transaction.value),
            hash: *signed.hash(),
            raw: Bytes::copy_from_slice(bytes),
        })
    }

    /// Checks it against the payment that it sponsors: the signer, then what the reference leaves out.
    ///
    /// # Errors
    /// The reason of the first check that fails.
    pub fn check(&self, sponsored: &Sponsored) -> Result<(), Reason> {
        first(&[
            (
                self.signer != sponsored.payer,
                Reason::ApprovalTxSignerMismatch,
            ),
            (self.chain != sponsored.chain, Reason::ApprovalTxWrongChain),
            (self.value != Wei::ZERO, Reason::ApprovalTxValueNotZero),
            (
                self.amount < sponsored.permitted,
                Reason::ApprovalTxAmountTooLow,
            ),
            (
                !(MIN_GAS..=MAX_GAS).contains(&self.gas_limit),
                Reason::ApprovalTxGasLimit,
            ),
            (
                self.max_priority_fee_per_gas > self.max_fee_per_gas,
                Reason::ApprovalTxFeeTooLow,
            ),
        ])
    }

    /// Checks that the network would take it now: after the payer's account nonce, with what a unit of gas costs at least.
    ///
    /// # Errors
    /// The reason of the first check that fails.
    pub fn check_now(&self, account_nonce: u64, base_fee: u128) -> Result<(), Reason> {
        first(&[
            (self.nonce != account_nonce, Reason::ApprovalTxWrongNonce),
            (self.max_fee_per_gas < base_fee, Reason::ApprovalTxFeeTooLow),
        ])
    }

    /// Its calldata.
    pub fn call(&self) -> Bytes {
        approveCall {
            spender: PERMIT2,
            amount: self.amount.0,
        }
        .abi_encode()
        .into()
    }

    /// The most native currency that it can cost the signer.
    pub fn max_cost(&self) -> Wei {
        let gas = U256::from(self.gas_limit) * U256::from(self.max_fee_per_gas);
        Wei(gas.saturating_add(self.value.0))
    }

    /// What the signer lacks to send it: nodes demand all that it can cost, and what its data costs beside its gas.
    pub fn lacking(&self, balance: Wei, data_fee: Wei) -> Wei {
        let needed = self.max_cost().0.saturating_add(data_fee.0);
        Wei(needed.saturating_sub(balance.0))
    }

    /// The bytes to send. A secret until they are sent.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }
}

fn first(failures: &[(bool, Reason)]) -> Result<(), Reason> {
    match failures.iter().find(|(failed, _)| *failed) {
        Some((_, reason)) => Err(*reason),
        None => Ok(()),
    }
}

fn approved_amount(input: &[u8]) -> Result<U256, Reason> {
    if !input.starts_with(&approveCall::SELECTOR) {
        return Err(Reason::ApprovalTxWrongSelector);
    }
    // Exactly two words: nothing may stand behind them.
    if input.len() != 4 + 64 {
        return Err(Reason::ApprovalTxInvalidCalldata);
    }
    let call =
        approveCall::abi_decode_validate(input).map_err(|_| Reason::ApprovalTxInvalidCalldata)?;
    if call.spender != PERMIT2 {
        return Err(Reason::ApprovalTxWrongSpender);
    }
    Ok(call.amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign;
    use alloy_consensus::SignableTransaction;
    use alloy_consensus::transaction::RlpEcdsaEncodableTx;
    use alloy_eips::eip2930::{AccessList, AccessListItem};
    use alloy_primitives::{Signature, address};
    use proptest::prelude::*;

    const TOKEN: Address = address!("036CbD53842c5426634e7929541eC2318f3dCF7e");
    const PAYER: Address = address!("7E5F4552091A69125d5DfCb7b8C2659029395Bdf");

    fn approve(spender: Address, amount: u64) -> Bytes {
        let amount = U256::from(amount);
        approveCall { spender, amount }.abi_encode().into()
    }

    fn transaction() -> TxEip1559 {
        TxEip1559 {
            chain_id: 84532,
            nonce: 3,
            gas_limit: 70_000,
            max_fee_per_gas: 1_000,
            max_priority_fee_per_gas: 100,
            to: TxKind::Call(TOKEN),
            value: U256::ZERO,
            access_list: AccessList::default(),
            input: approve(PERMIT2, 10_000),
        }
    }

    fn signed_by_key_one(transaction: TxEip1559) -> Vec<u8> {
        let mut key = [0; 32];
        key[31] = 1;
        let signature = sign(transaction.signature_hash(), &key).unwrap();
        let parity = signature.v == 28;
        encoded(
            transaction,
            Signature::new(signature.r.into(), signature.s.into(), parity),
        )
    }

    fn encoded(transaction: TxEip1559, signature: Signature) -> Vec<u8> {
        let mut bytes = Vec::new();
        transaction.eip2718_encode(&signature, &mut bytes);
        bytes
    }

    fn sponsored() -> Sponsored {
        Sponsored {
            chain: ChainId(84532),
            payer: PAYER,
            permitted: AssetAmount::from(10_000),
        }
    }

    fn told(change: impl FnOnce(&mut TxEip1559)) -> Result<(), Reason> {
        let mut transaction = transaction();
        change(&mut transaction);
        let approval = Approval::decode(&signed_by_key_one(transaction), TOKEN)?;
        approval.check(&sponsored())?;
        approval.check_now(3, 900)
    }

    #[test]
    fn a_clients_approval_is_good() {
        assert_eq!(told(|_| ()), Ok(()));
        let bytes = signed_by_key_one(transaction());
        let approval = Approval::decode(&bytes, TOKEN).unwrap();
        assert_eq!(approval.signer, PAYER);
        assert_eq!(approval.raw()[..], bytes);
        assert_eq!(approval.call(), transaction().input);
        assert_eq!(approval.hash, alloy_primitives::keccak256(&bytes));
        assert_eq!(approval.max_cost(), Wei::from(70_000_000));
        assert!(!format!("{approval:?}").contains("02f8"));
    }

    #[test]
    fn each_single_fault_has_its_reason() {
        type Change = fn(&mut TxEip1559);
        let wrong: [(Change, Reason); 15] = [
            (
                |t| t.to = TxKind::Call(PERMIT2),
                Reason::ApprovalTxWrongTarget,
            ),
            (|t| t.to = TxKind::Create, Reason::ApprovalTxWrongTarget),
            (|t| t.input = Bytes::new(), Reason::ApprovalTxWrongSelector),
            (
                |t| t.input = [&[0xa9, 0x05, 0x9c, 0xbb], &t.input[4..]].concat().into(),
                Reason::ApprovalTxWrongSelector,
            ),
            (
                |t| t.input = [&t.input[..], &[0]].concat().into(),
                Reason::ApprovalTxInvalidCalldata,
            ),
            (
                |t| {
                    let mut input = t.input.to_vec();
                    input[4] = 1;
                    t.input = input.into();
                },
                Reason::ApprovalTxInvalidCalldata,
            ),
            (
                |t| t.input = approve(TOKEN, 10_000),
                Reason::ApprovalTxWrongSpender,
            ),
            (|t| t.chain_id = 8453, Reason::ApprovalTxWrongChain),
            (|t| t.nonce = 4, Reason::ApprovalTxWrongNonce),
            (|t| t.value = U256::from(1), Reason::ApprovalTxValueNotZero),
            (
                |t| t.input = approve(PERMIT2, 9_999),
                Reason::ApprovalTxAmountTooLow,
            ),
            (|t| t.gas_limit = 100_001, Reason::ApprovalTxGasLimit),
            (|t| t.gas_limit = 23_999, Reason::ApprovalTxGasLimit),
            (
                |t| t.max_priority_fee_per_gas = 1_001,
                Reason::ApprovalTxFeeTooLow,
            ),
            (|t| t.max_fee_per_gas = 899, Reason::ApprovalTxFeeTooLow),
        ];
        for (change, reason) in wrong {
            assert_eq!(told(change), Err(reason));
        }
        let access = |t: &mut TxEip1559| {
            t.access_list = AccessList(vec![AccessListItem::default()]);
        };
        assert_eq!(told(access), Err(Reason::ApprovalTxParseFailed));
    }

    #[test]
    fn somebody_elses_approval_and_one_without_a_signer_are_refused() {
        let other = Sponsored {
            payer: TOKEN,
            ..sponsored()
        };
        let approval = Approval::decode(&signed_by_key_one(transaction()), TOKEN).unwrap();
        assert_eq!(
            approval.check(&other),
            Err(Reason::ApprovalTxSignerMismatch)
        );
        let nobody = encoded(
            transaction(),
            Signature::new(U256::ZERO, U256::from(1), false),
        );
        let high_s = encoded(
            transaction(),
            Signature::new(U256::from(1), U256::MAX, false),
        );
        for bytes in [nobody, high_s] {
            assert_eq!(
                Approval::decode(&bytes, TOKEN),
                Err(Reason::ApprovalTxInvalidSignature)
            );
        }
    }

    #[test]
    fn what_is_no_single_eip_1559_transaction_is_refused() {
        let good = signed_by_key_one(transaction());
        let mut legacy = good.clone();
        legacy.remove(0);
        let long = [good.clone(), vec![0; MAX_TRANSACTION_BYTES]].concat();
        let two = [good.clone(), vec![0]].concat();
        for bytes in [vec![], vec![2], legacy, long, two, good[..100].to_vec()] {
            assert_eq!(
                Approval::decode(&bytes, TOKEN),
                Err(Reason::ApprovalTxParseFailed)
            );
        }
    }

    #[test]
    fn members_are_compared_before_the_transaction() {
        let told = |from, asset, spender| check_members((from, asset, spender), PAYER, TOKEN);
        assert_eq!(told(PAYER, TOKEN, PERMIT2), Ok(()));
        assert_eq!(
            told(TOKEN, TOKEN, PERMIT2),
            Err(Reason::ApprovalFromMismatch)
        );
        assert_eq!(
            told(PAYER, PAYER, PERMIT2),
            Err(Reason::ApprovalAssetMismatch)
        );
        assert_eq!(
            told(PAYER, TOKEN, TOKEN),
            Err(Reason::ApprovalSpenderNotPermit2)
        );
    }

    #[test]
    fn what_is_lacking_is_all_that_it_may_cost() {
        let approval = Approval::decode(&signed_by_key_one(transaction()), TOKEN).unwrap();
        let cost = approval.max_cost();
        assert_eq!(approval.lacking(Wei::ZERO, Wei::ZERO), cost);
        assert_eq!(
            approval.lacking(Wei::from(69_999_999), Wei::from(5)),
            Wei::from(6)
        );
        assert_eq!(approval.lacking(cost, Wei::ZERO), Wei::ZERO);
        assert_eq!(approval.lacking(Wei(U256::MAX), cost), Wei::ZERO);
        assert_eq!(approval.lacking(Wei::ZERO, Wei(U256::MAX)), Wei(U256::MAX));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Approval::decode(&bytes, TOKEN);
            bytes.insert(0, 2);
            let _ = Approval::decode(&bytes, TOKEN);
        }

        #[test]
        fn a_changed_byte_is_noticed_or_changes_what_is_read(at: prop::sample::Index, byte: u8) {
            let good = signed_by_key_one(transaction());
            let mut changed = good.clone();
            let at = at.index(changed.len());
            changed[at] = byte;
            prop_assume!(changed != good);
            if let Ok(approval) = Approval::decode(&changed, TOKEN) {
                prop_assert_ne!(approval.signer, PAYER);
            }
        }
    }
}
