//! `exact` by EIP-3009 `transferWithAuthorization` (PROTOCOL sections 3.1 to 3.5).

use alloy_primitives::{Address, B256, Bytes, Keccak256, U256, b256, keccak256};
use alloy_sol_types::{SolCall, SolError, sol};
use teller_domain::{Asset, PayerSignature, Payment, Reason};

sol! {
    function transferWithAuthorization(
        address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
        uint8 v, bytes32 r, bytes32 s
    ) external;
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
    function DOMAIN_SEPARATOR() external view returns (bytes32);
    error Error(string);

    interface with_bytes {
        function transferWithAuthorization(
            address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
            bytes signature
        ) external;
    }
}

/// `EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)`
const DOMAIN_TYPE: B256 = b256!("8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f");

/// `TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)`
const TRANSFER_TYPE: B256 =
    b256!("7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267");

/// The EIP-712 domain of an asset's authorizations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Domain {
    separator: B256,
}

impl Domain {
    /// The domain that the asset's configuration describes.
    pub fn new(asset: &Asset) -> Self {
        let mut hasher = Keccak256::new();
        hasher.update(DOMAIN_TYPE);
        hasher.update(keccak256(&asset.name));
        hasher.update(keccak256(&asset.version));
        hasher.update(U256::from(asset.chain.0).to_be_bytes::<32>());
        hasher.update(asset.address.into_word());
        Self {
            separator: hasher.finalize(),
        }
    }

    /// EIP-712 `domainSeparator`; equals the token's `DOMAIN_SEPARATOR()`.
    pub fn separator(&self) -> B256 {
        self.separator
    }

    /// The digest that the payer signs.
    pub fn digest(&self, payment: &Payment) -> B256 {
        let mut message = Keccak256::new();
        message.update(TRANSFER_TYPE);
        message.update(payment.key.payer.into_word());
        message.update(payment.payee.into_word());
        message.update(payment.value.0.to_be_bytes::<32>());
        message.update(payment.validity.valid_after().to_be_bytes::<32>());
        message.update(payment.validity.end().to_be_bytes::<32>());
        message.update(payment.key.nonce.0);
        let mut digest = Keccak256::new();
        digest.update([0x19, 0x01]);
        digest.update(self.separator);
        digest.update(message.finalize());
        digest.finalize()
    }
}

/// Calldata of the call to the token that settles the payment: the `v, r, s` overload for a plain account's signature,
/// else the one that lets the payer's code judge it (ERC-1271).
pub fn transfer_call(payment: &Payment) -> Bytes {
    let signature = match payment.authorization.signature() {
        PayerSignature::Ecdsa { signature, .. } => signature,
        for_code => return transfer_call_with_bytes(payment, &for_code.to_bytes()),
    };
    transferWithAuthorizationCall {
        from: payment.key.payer,
        to: payment.payee,
        value: payment.value.0,
        validAfter: payment.validity.valid_after(),
        validBefore: payment.validity.end(),
        nonce: payment.key.nonce.0,
        v: signature.v,
        r: signature.r,
        s: signature.s,
    }
    .abi_encode()
    .into()
}

/// Calldata of the overload that takes the signature as bytes and lets the payer's code judge it (ERC-1271).
pub fn transfer_call_with_bytes(payment: &Payment, signature: &[u8]) -> Bytes {
    with_bytes::transferWithAuthorizationCall {
        from: payment.key.payer,
        to: payment.payee,
        value: payment.value.0,
        validAfter: payment.validity.valid_after(),
        validBefore: payment.validity.end(),
        nonce: payment.key.nonce.0,
        signature: Bytes::copy_from_slice(signature),
    }
    .abi_encode()
    .into()
}

/// Calldata that asks the token whether an authorization was used or cancelled.
pub fn authorization_state_call(payer: Address, nonce: B256) -> Bytes {
    authorizationStateCall {
        authorizer: payer,
        nonce,
    }
    .abi_encode()
    .into()
}

/// Calldata of `DOMAIN_SEPARATOR()`.
pub fn domain_separator_call() -> Bytes {
    DOMAIN_SEPARATORCall {}.abi_encode().into()
}

/// What a token's revert says about the payment, by the strings of Circle's contracts (PROTOCOL section 3.5); `None`
/// if it says nothing that teller knows.
pub fn classify_revert(data: &[u8]) -> Option<Reason> {
    let text = Error::abi_decode(data).ok()?.0.to_ascii_lowercase();
    let known = [
        ("authorization is expired", Reason::ValidBefore),
        ("authorization is not yet valid", Reason::ValidAfter),
        (
            "authorization is used or canceled",
            Reason::NonceAlreadyUsed,
        ),
        ("exceeds balance", Reason::InsufficientBalance),
        ("invalid signature", Reason::InvalidSignature),
    ];
    known
        .into_iter()
        .find(|(part, _)| text.contains(part))
        .map(|(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Effect, EventLog, effects, normalize, recover};
    use alloy_primitives::{address, hex};
    use teller_domain::{
        AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId, UnixSeconds,
        Validity, known_assets,
    };

    /// PROTOCOL section 11, vector 1: the example of the x402 specification.
    fn vector() -> Payment {
        let asset = address!("036CbD53842c5426634e7929541eC2318f3dCF7e");
        let signature = hex!(
            "2d6a7588d6acca505cbf0d9a4a227e0c52c6c34008c8e8986a1283259764173608a2ce6496642e377d6da8dbbf5836e9bd15092f9ecab05ded3d6293af148b571c"
        );
        Payment {
            key: AuthorizationKey {
                chain: ChainId(84532),
                authority: asset,
                payer: address!("857b06519E91e3A54538791bDbb0E22373e36b66"),
                nonce: AuthorizationNonce(b256!(
                    "f3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480"
                )),
            },
            asset,
            payee: address!("209693Bc6afc0C5328bA36FaF03C514EF312287C"),
            value: AssetAmount::from(10_000),
            validity: Validity::between(UnixSeconds(1_740_672_089), UnixSeconds(1_740_672_154)),
            authorization: Authorization::Eip3009 {
                signature: normalize(&signature).unwrap().into(),
            },
        }
    }

    fn domain() -> Domain {
        Domain::new(&known_assets(ChainId(84532)).next().unwrap())
    }

    #[test]
    fn the_specifications_example_recovers_to_its_payer() {
        let payment = vector();
        let digest = domain().digest(&payment);
        assert_eq!(
            digest,
            b256!("f256992871671abcb27ff92885a7afa46218724e5fc0bac35d050115aa1d22e6")
        );
        let signature = payment.authorization.signature().ecdsa().unwrap();
        assert_eq!(recover(digest, &signature), Some(payment.key.payer));
    }

    #[test]
    fn known_domains_have_the_separators_read_from_chain() {
        let prefix = |chain| {
            let asset = known_assets(ChainId(chain)).next().unwrap();
            Domain::new(&asset).separator()[..4].to_vec()
        };
        assert_eq!(prefix(8453), hex!("02fa7265"));
        assert_eq!(prefix(84532), hex!("71f17a3b"));
    }

    #[test]
    fn the_type_hashes_are_those_of_their_type_strings() {
        let domain =
            "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
        assert_eq!(keccak256(domain), DOMAIN_TYPE);
        let transfer = "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";
        assert_eq!(keccak256(transfer), TRANSFER_TYPE);
    }

    #[test]
    fn the_call_is_the_v_r_s_overload() {
        assert_eq!(transfer_call(&vector())[..4], hex!("e3ee160e"));
    }

    #[test]
    fn the_call_for_a_payer_with_code_is_the_bytes_overload() {
        let mut payment = vector();
        payment.judged_by_code();
        let signature = payment.authorization.signature().to_bytes();
        let call = transfer_call_with_bytes(&payment, &signature);
        assert_eq!(call[..4], hex!("cf092995"));
        assert_eq!(transfer_call(&payment), call);
    }

    #[test]
    fn circles_reverts_are_understood() {
        let revert = |text: &str| Error(text.to_owned()).abi_encode();
        assert_eq!(
            classify_revert(&revert("FiatTokenV2: authorization is expired")),
            Some(Reason::ValidBefore)
        );
        let used = "FiatTokenV2: authorization is used or canceled";
        assert_eq!(
            classify_revert(&revert(used)),
            Some(Reason::NonceAlreadyUsed)
        );
        assert_eq!(
            classify_revert(&revert("ERC20: transfer amount exceeds balance")),
            Some(Reason::InsufficientBalance)
        );
        assert_eq!(
            classify_revert(&revert("Blacklistable: account is blacklisted")),
            None
        );
        assert_eq!(classify_revert(&[]), None);
    }

    #[test]
    fn only_the_exact_transfer_right_behind_the_use_settles() {
        let payment = vector();
        let used = [
            b256!("98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"),
            payment.key.payer.into_word(),
            payment.key.nonce.0,
        ];
        let moved = [
            crate::event::TRANSFER_TOPIC,
            payment.key.payer.into_word(),
            payment.payee.into_word(),
        ];
        let exact = payment.value.0.to_be_bytes::<32>();
        let less = U256::from(9_999).to_be_bytes::<32>();
        let log = |topics, data, index| EventLog {
            address: payment.asset,
            topics,
            data,
            index,
        };
        let outcome = |logs: &[EventLog<'_>]| {
            let effects = effects(logs.iter().copied());
            effects
                .get(&(payment.asset, payment.key.payer, payment.key.nonce))
                .and_then(|e| e.settles(&payment))
        };
        assert_eq!(
            outcome(&[log(&used, &[], 4), log(&moved, &exact, 5)]),
            Some(5)
        );
        assert_eq!(outcome(&[log(&used, &[], 4), log(&moved, &less, 5)]), None);
        assert_eq!(outcome(&[log(&moved, &exact, 4), log(&used, &[], 5)]), None);
        assert_eq!(outcome(&[log(&moved, &exact, 4)]), None);
        let other = EventLog {
            address: Address::ZERO,
            topics: &moved,
            data: &exact,
            index: 5,
        };
        assert_eq!(
            outcome(&[log(&used, &[], 4), other, log(&moved, &exact, 6)]),
            Some(6)
        );
        let cancelled = [
            alloy_primitives::keccak256("AuthorizationCanceled(address,bytes32)"),
            payment.key.payer.into_word(),
            payment.key.nonce.0,
        ];
        let effects = effects([log(&cancelled, &[], 1)].into_iter());
        assert_eq!(
            effects.into_values().collect::<Vec<_>>(),
            [Effect::Cancelled]
        );
    }
}
