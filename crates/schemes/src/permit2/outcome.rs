//! What became of a permit: from logs, from the nonce bitmap, from reverts.

use std::collections::HashSet;

use alloy_primitives::{Address, U256};
use alloy_sol_types::{SolError, SolEvent, sol};
use teller_domain::{AssetAmount, Reason};

use super::{EXACT_PROXY, PERMIT2, Permit, UPTO_PROXY};
use crate::event::{AuthorizationUsed, TRANSFER_TOPIC};
use crate::{EventLog, Transfer};

sol! {
    event Settled();
    event SettledWithPermit();
    event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);

    interface ProxyErrors {
        error InvalidAmount();
        error InvalidDestination();
        error InvalidOwner();
        error PaymentTooEarly();
        error Permit2612AmountMismatch();
        error AmountExceedsPermitted();
        error UnauthorizedFacilitator();
    }
    interface Permit2Errors {
        error InvalidNonce();
        error SignatureExpired(uint256 deadline);
        error InvalidSigner();
        error InvalidSignature();
        error InvalidSignatureLength();
        error InvalidContractSignature();
        error InvalidAmount(uint256 maxAmount);
    }
}

/// One settlement by a proxy: its event, and the transfer right before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxySettlement {
    /// Which proxy.
    pub proxy: Address,
    /// The token that emitted the transfer.
    pub token: Address,
    /// The transfer.
    pub transfer: Transfer,
}

impl ProxySettlement {
    /// The log index of the transfer, if it is exactly what `permit` of `owner` allows when `amount` is settled.
    ///
    /// The events name no nonce. In a transaction of teller's own no two items have the same token, owner, recipient
    /// and amount, so this is unambiguous there; of another's transaction the calldata must be read too
    /// ([`decode_call`](super::decode_call)).
    pub fn pays(&self, permit: &Permit, owner: Address, amount: AssetAmount) -> Option<u64> {
        let exact = self.proxy == permit.proxy.address()
            && self.token == permit.token
            && self.transfer.from == owner
            && self.transfer.to == permit.to
            && self.transfer.value == amount;
        exact.then_some(self.transfer.log_index)
    }
}

/// The settlements of a transaction, from its logs in their order.
///
/// A proxy emits its event last, after Permit2 has had the token move; Permit2 itself emits nothing. Only the last
/// transfer before the event counts: earlier ones belong to other items of the batch, among them EIP-3009 payments. One
/// that is an EIP-3009 authorization's ([`effects`](crate::effects)) counts for nobody else, even if it is the last.
pub fn settlements<'a>(logs: impl Iterator<Item = EventLog<'a>>) -> Vec<ProxySettlement> {
    let mut found = Vec::new();
    let mut last = None;
    let mut authorized = HashSet::new();
    for log in logs {
        let is_authorized = authorized.remove(&log.address);
        match log.topics {
            [topic, _, _] if *topic == AuthorizationUsed::SIGNATURE_HASH => {
                authorized.insert(log.address);
            }
            [topic, _, _] if *topic == TRANSFER_TOPIC && is_authorized => last = None,
            [topic, from, to] if *topic == TRANSFER_TOPIC && log.data.len() == 32 => {
                let transfer = Transfer {
                    from: Address::from_word(*from),
                    to: Address::from_word(*to),
                    value: AssetAmount(U256::from_be_slice(log.data)),
                    log_index: log.index,
                };
                last = Some((log.address, transfer));
            }
            [topic]
                if [EXACT_PROXY, UPTO_PROXY].contains(&log.address)
                    && [Settled::SIGNATURE_HASH, SettledWithPermit::SIGNATURE_HASH]
                        .contains(topic) =>
            {
                if let Some((token, transfer)) = last.take() {
                    found.push(ProxySettlement {
                        proxy: log.address,
                        token,
                        transfer,
                    });
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether the word of the bitmap says that the nonce is gone. Used and invalidated look the same: a used nonce alone
/// does not prove that money moved.
pub fn nonce_used(word: U256, nonce: U256) -> bool {
    let [bit, ..] = nonce.to_le_bytes::<32>();
    word.bit(usize::from(bit))
}

/// Whether this log says that `owner` threw the nonce away.
pub fn invalidates(log: &EventLog<'_>, owner: Address, nonce: U256) -> bool {
    let [topic, who] = log.topics else {
        return false;
    };
    if log.address != PERMIT2
        || *topic != UnorderedNonceInvalidation::SIGNATURE_HASH
        || Address::from_word(*who) != owner
    {
        return false;
    }
    match log.data.split_at_checked(32) {
        Some((word, mask)) if mask.len() == 32 => {
            U256::from_be_slice(word) == nonce >> 8 && nonce_used(U256::from_be_slice(mask), nonce)
        }
        _ => false,
    }
}

/// What a revert of a proxy or of Permit2 says about the payment (PROTOCOL sections 3.7 and 11); `None` if it says
/// nothing that teller knows, as `TRANSFER_FROM_FAILED`, Permit2's word for any refusal by the token.
pub fn classify_revert(data: &[u8]) -> Option<Reason> {
    use Permit2Errors as permit2;
    use ProxyErrors as proxy;
    let selector: [u8; 4] = data.get(..4)?.try_into().ok()?;
    let reason = match selector {
        proxy::InvalidAmount::SELECTOR | permit2::InvalidAmount::SELECTOR => {
            Reason::Permit2InvalidAmount
        }
        proxy::InvalidDestination::SELECTOR => Reason::Permit2InvalidDestination,
        proxy::InvalidOwner::SELECTOR => Reason::Permit2InvalidOwner,
        proxy::PaymentTooEarly::SELECTOR => Reason::Permit2PaymentTooEarly,
        proxy::Permit2612AmountMismatch::SELECTOR => Reason::Permit2612AmountMismatch,
        proxy::AmountExceedsPermitted::SELECTOR => Reason::UptoAmountExceedsPermitted,
        proxy::UnauthorizedFacilitator::SELECTOR => Reason::UptoUnauthorizedFacilitator,
        permit2::InvalidNonce::SELECTOR => Reason::Permit2InvalidNonce,
        permit2::SignatureExpired::SELECTOR
        | permit2::InvalidSigner::SELECTOR
        | permit2::InvalidSignature::SELECTOR
        | permit2::InvalidSignatureLength::SELECTOR
        | permit2::InvalidContractSignature::SELECTOR => Reason::Permit2InvalidSignature,
        _ => return None,
    };
    Some(reason)
}

/// What the chain says after a simulation has failed, all read at one block.
#[derive(Debug, Clone, Copy)]
pub struct Findings {
    /// What the proxy answered to `PERMIT2()`; `None` if it reverted or answered nothing.
    pub permit2: Option<Address>,
    /// The payer's balance.
    pub balance: AssetAmount,
    /// What the token lets Permit2 move for the payer.
    pub allowance: AssetAmount,
}

/// Why the simulation failed: the first that matches, the balance before the allowance (PROTOCOL section 3.7), then
/// what the revert itself says about the nonce, then the general reason.
pub fn diagnose(findings: &Findings, amount: AssetAmount, revert: &[u8]) -> Reason {
    if findings.permit2 != Some(PERMIT2) {
        return Reason::Permit2ProxyNotDeployed;
    }
    if findings.balance < amount {
        return Reason::Permit2InsufficientBalance;
    }
    if findings.allowance < amount {
        return Reason::Permit2AllowanceRequired;
    }
    match classify_revert(revert) {
        Some(Reason::Permit2InvalidNonce) => Reason::Permit2InvalidNonce,
        _ => Reason::Permit2SimulationFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{upto, vector};
    use super::super::{Proxy, settle_call};
    use super::*;
    use alloy_primitives::{B256, b256, hex, keccak256};
    use proptest::prelude::*;

    const OWNER: Address = Address::repeat_byte(0xaa);
    const SETTLED: [B256; 1] = [b256!(
        "97088ec3606cfe8cc112180570d03fcde05f9b8e1bfef8e27784eaf5dd5691b6"
    )];
    const SETTLED_WITH_PERMIT: [B256; 1] = [b256!(
        "de5b89d10fc800c459329c382fabfcad0be0ed7e5328e01fae04e507b09ef5d8"
    )];

    fn log<'a>(address: Address, topics: &'a [B256], data: &'a [u8], index: u64) -> EventLog<'a> {
        EventLog {
            address,
            topics,
            data,
            index,
        }
    }

    fn moved(permit: &Permit) -> [B256; 3] {
        [TRANSFER_TOPIC, OWNER.into_word(), permit.to.into_word()]
    }

    #[test]
    fn the_exact_transfer_right_before_the_proxys_event_settles() {
        for (proxy, event) in [(Proxy::Exact, SETTLED), (upto(), SETTLED_WITH_PERMIT)] {
            let permit = vector(proxy);
            let topics = moved(&permit);
            let value = permit.amount.0.to_be_bytes::<32>();
            let logs = [
                log(permit.token, &topics, &value, 4),
                log(proxy.address(), &event, &[], 5),
            ];
            let found = settlements(logs.into_iter());
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].pays(&permit, OWNER, permit.amount), Some(4));
            assert_eq!(found[0].pays(&permit, PERMIT2, permit.amount), None);
            assert_eq!(
                found[0].pays(&permit, OWNER, AssetAmount::from(9_999)),
                None
            );
            let elsewhere = Permit {
                to: PERMIT2,
                ..permit
            };
            assert_eq!(found[0].pays(&elsewhere, OWNER, permit.amount), None);
            let token = Permit {
                token: PERMIT2,
                ..permit
            };
            assert_eq!(found[0].pays(&token, OWNER, permit.amount), None);
        }
    }

    #[test]
    fn a_transfer_of_another_item_settles_nothing() {
        let permit = vector(Proxy::Exact);
        let topics = moved(&permit);
        let value = permit.amount.0.to_be_bytes::<32>();
        let other = [TRANSFER_TOPIC, PERMIT2.into_word(), permit.to.into_word()];
        // An EIP-3009 payment with the very transfer that the permit would have made, then another permit's.
        let logs = [
            log(permit.token, &topics, &value, 1),
            log(Address::repeat_byte(9), &other, &value, 2),
            log(EXACT_PROXY, &SETTLED, &[], 3),
        ];
        let found = settlements(logs.into_iter());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pays(&permit, OWNER, permit.amount), None);
        // The transfer of an authorization, with a proxy's event right behind it.
        let used = [
            AuthorizationUsed::SIGNATURE_HASH,
            OWNER.into_word(),
            B256::ZERO,
        ];
        let logs = [
            log(permit.token, &used, &[], 0),
            log(permit.token, &topics, &value, 1),
            log(EXACT_PROXY, &SETTLED, &[], 2),
        ];
        assert!(settlements(logs.into_iter()).is_empty());
        // Without an event of a proxy, or with a stranger's, or with the transfer behind it.
        for logs in [
            vec![log(permit.token, &topics, &value, 1)],
            vec![
                log(permit.token, &topics, &value, 1),
                log(OWNER, &SETTLED, &[], 2),
            ],
            vec![
                log(EXACT_PROXY, &SETTLED, &[], 1),
                log(permit.token, &topics, &value, 2),
            ],
        ] {
            assert!(settlements(logs.into_iter()).is_empty());
        }
    }

    #[test]
    fn the_other_proxys_settlement_is_not_this_ones() {
        let permit = vector(Proxy::Exact);
        let topics = moved(&permit);
        let value = permit.amount.0.to_be_bytes::<32>();
        let logs = [
            log(permit.token, &topics, &value, 1),
            log(UPTO_PROXY, &SETTLED, &[], 2),
        ];
        let found = settlements(logs.into_iter());
        assert_eq!(found[0].pays(&permit, OWNER, permit.amount), None);
    }

    #[test]
    fn a_nonce_is_one_bit_of_its_word() {
        let nonce = U256::from(0x1203_u64);
        assert!(nonce_used(U256::from(8), nonce));
        assert!(!nonce_used(!U256::from(8), nonce));
        let topics = [
            keccak256("UnorderedNonceInvalidation(address,uint256,uint256)"),
            OWNER.into_word(),
        ];
        let data = |word: u64, mask: u64| {
            [
                U256::from(word).to_be_bytes::<32>(),
                U256::from(mask).to_be_bytes::<32>(),
            ]
            .concat()
        };
        let says = |data: &[u8]| invalidates(&log(PERMIT2, &topics, data, 0), OWNER, nonce);
        assert!(says(&data(0x12, 0xff)));
        assert!(!says(&data(0x12, 0xf7)));
        assert!(!says(&data(0x13, 0xff)));
        assert!(!says(&data(0x12, 0xff)[..63]));
        assert!(!invalidates(
            &log(OWNER, &topics, &data(0x12, 0xff), 0),
            OWNER,
            nonce
        ));
        assert!(!invalidates(
            &log(PERMIT2, &topics, &data(0x12, 0xff), 0),
            PERMIT2,
            nonce
        ));
    }

    #[test]
    fn reverts_are_understood_by_their_selectors() {
        for (selector, reason) in [
            (hex!("2c5211c6"), Reason::Permit2InvalidAmount),
            (hex!("3728b83d"), Reason::Permit2InvalidAmount),
            (hex!("ac6b05f5"), Reason::Permit2InvalidDestination),
            (hex!("49e27cff"), Reason::Permit2InvalidOwner),
            (hex!("a65539fa"), Reason::Permit2PaymentTooEarly),
            (hex!("050cda49"), Reason::Permit2612AmountMismatch),
            (hex!("0f6fae87"), Reason::UptoUnauthorizedFacilitator),
            (hex!("fe64b4c7"), Reason::UptoAmountExceedsPermitted),
            (hex!("756688fe"), Reason::Permit2InvalidNonce),
            (hex!("cd21db4f"), Reason::Permit2InvalidSignature),
            (hex!("815e1d64"), Reason::Permit2InvalidSignature),
            (hex!("8baa579f"), Reason::Permit2InvalidSignature),
            (hex!("4be6321b"), Reason::Permit2InvalidSignature),
            (hex!("b0669cbc"), Reason::Permit2InvalidSignature),
        ] {
            assert_eq!(classify_revert(&selector), Some(reason), "{reason}");
        }
        assert_eq!(classify_revert(&hex!("3ee5aeb5")), None);
        assert_eq!(classify_revert(&[]), None);
    }

    #[test]
    fn the_balance_is_told_before_the_allowance() {
        let amount = AssetAmount::from(5);
        let findings = |permit2, balance, allowance| Findings {
            permit2,
            balance: AssetAmount::from(balance),
            allowance: AssetAmount::from(allowance),
        };
        let there = Some(PERMIT2);
        for (found, reason) in [
            (findings(None, 0, 0), Reason::Permit2ProxyNotDeployed),
            (findings(there, 4, 4), Reason::Permit2InsufficientBalance),
            (findings(there, 5, 4), Reason::Permit2AllowanceRequired),
            (findings(there, 5, 5), Reason::Permit2SimulationFailed),
        ] {
            assert_eq!(diagnose(&found, amount, &[]), reason);
        }
        assert_eq!(
            diagnose(&findings(there, 5, 5), amount, &hex!("756688fe")),
            Reason::Permit2InvalidNonce
        );
    }

    proptest! {
        #[test]
        fn no_logs_or_reverts_make_reading_panic(
            topics in prop::collection::vec(any::<[u8; 32]>(), 0..5), data in prop::collection::vec(any::<u8>(), 0..100),
            kind in 0_usize..5, nonce: [u64; 4],
        ) {
            let known = [TRANSFER_TOPIC, SETTLED[0], SETTLED_WITH_PERMIT[0], UnorderedNonceInvalidation::SIGNATURE_HASH];
            let mut topics: Vec<B256> = topics.into_iter().map(B256::from).collect();
            if let (Some(first), Some(topic)) = (topics.first_mut(), known.get(kind)) {
                *first = *topic;
            }
            let entry = log(EXACT_PROXY, &topics, &data, 0);
            let _ = settlements([entry, log(EXACT_PROXY, &SETTLED, &[], 1)].into_iter());
            let _ = invalidates(&log(PERMIT2, &topics, &data, 0), OWNER, U256::from_limbs(nonce));
            let _ = classify_revert(&data);
        }
    }

    #[test]
    fn a_call_is_no_revert_of_ours() {
        let permit = vector(Proxy::Exact);
        assert_eq!(
            classify_revert(&settle_call(&permit, OWNER, permit.amount, &[])),
            None
        );
    }
}
