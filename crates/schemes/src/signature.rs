//! What payers send as signatures, and ECDSA on secp256k1, through libsecp256k1.

use alloy_primitives::{Address, B256, keccak256};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey, SecretKey};
use teller_domain::{Counterfactual, EcdsaSignature, PayerSignature, SignatureError};

use crate::erc6492::{MAX_INNER_BYTES, Unwrapped, WrapperError, unwrap};

/// Reads a signature in any form that clients send and brings it into the one that token contracts take: the 64-byte
/// form expanded, `v` 27 or 28, `s` low (PROTOCOL section 3.4).
///
/// # Errors
/// When no token contract would take what these bytes mean.
pub fn normalize(bytes: &[u8]) -> Result<EcdsaSignature, SignatureError> {
    EcdsaSignature::read(bytes).map(|(signature, _)| signature)
}

/// Why bytes are no signature of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadSignatureError {
    /// They end like a wrapper and are none.
    #[error(transparent)]
    Wrapper(#[from] WrapperError),
    /// Nothing at all.
    #[error("the signature is empty")]
    Empty,
    /// Longer than [`MAX_INNER_BYTES`].
    #[error("the signature is too long")]
    TooLong,
}

/// Which kind of signature these bytes are by their form (PROTOCOL section 3.4). What looks like a plain account's may
/// be for code to judge all the same: that is known once the payer's code was looked at.
///
/// # Errors
/// When no payer can have meant them as a signature.
pub fn read(bytes: &[u8]) -> Result<PayerSignature, ReadSignatureError> {
    match unwrap(bytes)? {
        Unwrapped::Wrapped(wrapper) => Ok(Counterfactual {
            factory: wrapper.factory,
            factory_calldata: wrapper.factory_calldata,
            signature: wrapper.signature,
        }
        .into()),
        Unwrapped::Plain([]) => Err(ReadSignatureError::Empty),
        Unwrapped::Plain(plain) if plain.len() > MAX_INNER_BYTES => {
            Err(ReadSignatureError::TooLong)
        }
        Unwrapped::Plain(plain) => Ok(PayerSignature::unwrapped(plain)),
    }
}

/// The account whose key made this signature over `digest`; `None` if no key can have.
pub fn recover(digest: B256, signature: &EcdsaSignature) -> Option<Address> {
    let recovery_id = match signature.v {
        27 => RecoveryId::Zero,
        28 => RecoveryId::One,
        _ => return None,
    };
    let [r @ .., _] = signature.to_bytes();
    let signature = RecoverableSignature::from_compact(&r, recovery_id).ok()?;
    let key = signature.recover(Message::from_digest(digest.0)).ok()?;
    Some(address_of(&key))
}

/// Signs `digest` with a 32-byte secret key (for the devnet and load tests); `None` if it is no valid key.
pub fn sign(digest: B256, secret: &[u8; 32]) -> Option<EcdsaSignature> {
    let key = SecretKey::from_secret_bytes(*secret).ok()?;
    let signature =
        RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest.0), &key);
    let (recovery_id, compact) = signature.serialize_compact();
    let (r, s) = compact.split_at(32);
    let v = if recovery_id == RecoveryId::Zero {
        27
    } else {
        28
    };
    Some(EcdsaSignature {
        r: B256::from_slice(r),
        s: B256::from_slice(s),
        v,
    })
}

fn address_of(key: &PublicKey) -> Address {
    let [_, point @ ..] = key.serialize_uncompressed();
    Address::from_word(keccak256(point))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Bytes, U256, hex, uint};
    use proptest::prelude::*;

    fn key_one() -> [u8; 32] {
        let mut secret = [0; 32];
        secret[31] = 1;
        secret
    }

    #[test]
    fn key_one_signs_as_its_well_known_address() {
        let digest = B256::repeat_byte(7);
        let signature = sign(digest, &key_one()).unwrap();
        let expected = Address::from(hex!("7E5F4552091A69125d5DfCb7b8C2659029395Bdf"));
        assert_eq!(recover(digest, &signature), Some(expected));
        assert_ne!(recover(B256::repeat_byte(8), &signature), Some(expected));
    }

    #[test]
    fn a_high_s_is_refused() {
        let mut bytes = sign(B256::repeat_byte(7), &key_one()).unwrap().to_bytes();
        let order = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);
        let s = U256::from_be_slice(&bytes[32..64]);
        bytes[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
        assert_eq!(normalize(&bytes), Err(SignatureError::HighS));
    }

    #[test]
    fn the_form_of_the_bytes_says_what_kind_they_are() {
        let signature = sign(B256::repeat_byte(7), &key_one()).unwrap();
        let bytes = signature.to_bytes();
        assert_eq!(read(&bytes), Ok(signature.into()));
        let contract = |bytes: &[u8]| PayerSignature::Contract(bytes.to_vec().into());
        let mut approved = [0; 65];
        approved[31] = 5;
        approved[64] = 1;
        let mut bad_v = bytes;
        bad_v[64] = 29;
        for other in [&approved[..], &bad_v, &bytes[..63], &[1; 66], &[1; 500]] {
            assert_eq!(read(other), Ok(contract(other)));
        }
        let wrapper = crate::erc6492::Wrapper {
            factory: Address::repeat_byte(1),
            factory_calldata: Bytes::from_static(&[2]),
            signature: bytes.to_vec().into(),
        };
        let wrapped = wrapper.to_bytes();
        let read_back = read(&wrapped).unwrap();
        assert_eq!(read_back.to_bytes(), wrapper.signature);
        assert!(matches!(read_back, PayerSignature::Counterfactual(_)));
        assert_eq!(read(&[]), Err(ReadSignatureError::Empty));
        assert_eq!(
            read(&[1; MAX_INNER_BYTES + 1]),
            Err(ReadSignatureError::TooLong)
        );
        assert_eq!(
            read(&wrapped[wrapped.len() - 64..]),
            Err(WrapperError::Encoding.into())
        );
    }

    proptest! {
        #[test]
        fn every_accepted_form_is_the_same_signature(digest: [u8; 32]) {
            let signature = sign(B256::from(digest), &key_one()).unwrap();
            let bytes = signature.to_bytes();
            prop_assert_eq!(normalize(&bytes), Ok(signature));
            let mut low_v = bytes;
            low_v[64] -= 27;
            prop_assert_eq!(normalize(&low_v), Ok(signature));
            let mut compact = [0; 64];
            compact.copy_from_slice(&bytes[..64]);
            compact[32] |= (signature.v - 27) << 7;
            prop_assert_eq!(normalize(&compact), Ok(signature));
        }

        #[test]
        fn no_bytes_make_reading_or_recovery_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), digest: [u8; 32]) {
            let _ = read(&bytes);
            if let Ok(signature) = normalize(&bytes) {
                let _ = recover(B256::from(digest), &signature);
            }
        }
    }
}
