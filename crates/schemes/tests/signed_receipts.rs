//! Receipts against an independent implementation of EIP-712.

#![allow(clippy::unwrap_used, reason = "tests")]

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};
use proptest::prelude::*;
use teller_domain::{
    AssetAmount, AuthorizationNonce, Level, SettlementId, SettlementReceipt, SignedReceipt,
};
use teller_schemes::{recover, sign};

sol! {
    struct Receipt {
        string settlementId;
        uint256 chainId;
        address authority;
        address asset;
        address payer;
        address payee;
        uint256 value;
        bytes32 nonce;
        bytes32 transactionHash;
        uint64 blockNumber;
        bytes32 blockHash;
        uint64 logIndex;
        uint256 amount;
        string level;
        uint64 settledAtMs;
    }
}

fn expected(receipt: &SettlementReceipt) -> B256 {
    let domain = Eip712Domain {
        name: Some("teller receipt".into()),
        version: Some("1".into()),
        ..Eip712Domain::default()
    };
    Receipt {
        settlementId: receipt.settlement_id.to_string(),
        chainId: U256::from(receipt.chain_id),
        authority: receipt.authority,
        asset: receipt.asset,
        payer: receipt.payer,
        payee: receipt.payee,
        value: receipt.value.0,
        nonce: receipt.nonce.0,
        transactionHash: receipt.transaction_hash,
        blockNumber: receipt.block_number,
        blockHash: receipt.block_hash,
        logIndex: receipt.log_index,
        amount: receipt.amount.0,
        level: receipt.level.as_str().to_owned(),
        settledAtMs: receipt.settled_at_ms,
    }
    .eip712_signing_hash(&domain)
}

fn receipts() -> impl Strategy<Value = SettlementReceipt> {
    let level = prop::sample::select(vec![Level::Included, Level::Safe, Level::Finalized]);
    let payment = any::<([u8; 20], [u8; 20], [u8; 20], [u8; 20], [u64; 4], [u8; 32])>();
    let place = any::<([u8; 32], u64, [u8; 32], u64, [u64; 4])>();
    (
        any::<u128>(),
        any::<u64>(),
        payment,
        place,
        level,
        any::<u64>(),
    )
        .prop_map(
            |(id, chain_id, payment, place, level, settled_at_ms)| SettlementReceipt {
                settlement_id: format!("{id:032x}").parse::<SettlementId>().unwrap(),
                chain_id,
                authority: Address::from(payment.0),
                asset: Address::from(payment.1),
                payer: Address::from(payment.2),
                payee: Address::from(payment.3),
                value: AssetAmount(U256::from_limbs(payment.4)),
                nonce: AuthorizationNonce(B256::from(payment.5)),
                transaction_hash: B256::from(place.0),
                block_number: place.1,
                block_hash: B256::from(place.2),
                log_index: place.3,
                amount: AssetAmount(U256::from_limbs(place.4)),
                level,
                settled_at_ms,
            },
        )
}

proptest! {
    #[test]
    fn a_receipts_digest_is_that_of_its_typed_data(receipt in receipts()) {
        prop_assert_eq!(receipt.digest(), expected(&receipt));
    }

    #[test]
    fn a_signed_receipt_survives_its_document_and_names_its_signer(receipt in receipts()) {
        let key = [7; 32];
        let signer = recover(B256::ZERO, &sign(B256::ZERO, &key).unwrap()).unwrap();
        let signature = sign(receipt.digest(), &key).unwrap();
        let signed = SignedReceipt::new(receipt.clone(), signer, signature);
        prop_assert_eq!(signed.receipt(), &receipt);
        let (digest, signature) = signed.signed().unwrap();
        prop_assert_eq!(digest, expected(&receipt));
        prop_assert_eq!(recover(digest, &signature), Some(signed.signer()));
    }
}
