//! Signatures that code judges (ERC-1271), and what kind of code an account has (EIP-7702).

use alloy_primitives::{Address, B256, Bytes, hex};
use alloy_sol_types::{SolCall, sol};

sol! {
    function isValidSignature(bytes32 digest, bytes signature) external view returns (bytes4);
}

/// What `isValidSignature` answers to accept.
pub const MAGIC: [u8; 4] = hex!("1626ba7e");

/// What stands before the delegate's address in the code of an account that delegates.
const DELEGATION: [u8; 3] = hex!("ef0100");

/// Calldata of the question whether the account accepts this signature.
pub fn is_valid_signature_call(digest: B256, signature: &[u8]) -> Bytes {
    isValidSignatureCall {
        digest,
        signature: Bytes::copy_from_slice(signature),
    }
    .abi_encode()
    .into()
}

/// Whether the answer accepts: a word that holds the magic value and nothing else, as Permit2 and Circle's tokens
/// demand. Whatever stands behind that word is ignored, as they ignore it.
pub fn accepts(answer: &[u8]) -> bool {
    match answer.get(..32) {
        Some(word) => word.starts_with(&MAGIC) && word.iter().skip(4).all(|byte| *byte == 0),
        None => false,
    }
}

/// What stands at an account's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccountCode {
    /// Nothing: a plain account, or a contract that is not there yet.
    None,
    /// An account with a key that delegates to a contract's code (EIP-7702). Its signatures are judged by that code.
    Delegated(Address),
    /// A contract.
    Contract,
}

impl AccountCode {
    /// What these bytes of `eth_getCode` are.
    pub fn of(code: &[u8]) -> Self {
        match (code, code.strip_prefix(&DELEGATION)) {
            ([], _) => Self::None,
            (_, Some(delegate)) if delegate.len() == Address::len_bytes() => {
                Self::Delegated(Address::from_slice(delegate))
            }
            _ => Self::Contract,
        }
    }

    /// Whether signatures of this account are for its code to judge.
    pub fn judges_signatures(self) -> bool {
        self != Self::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_selector_is_the_magic_value() {
        let call = is_valid_signature_call(B256::repeat_byte(1), &[2; 65]);
        assert_eq!(call[..4], MAGIC);
    }

    #[test]
    fn only_the_padded_magic_word_accepts() {
        let mut word = [0; 32];
        word[..4].copy_from_slice(&MAGIC);
        assert!(accepts(&word));
        assert!(accepts(&[word, word].concat()));
        assert!(!accepts(&word[..31]));
        assert!(!accepts(&MAGIC));
        assert!(!accepts(&[]));
        word[31] = 1;
        assert!(!accepts(&word));
        assert!(!accepts(&[0xff; 32]));
    }

    #[test]
    fn a_delegation_is_told_from_a_contract() {
        let delegate = Address::repeat_byte(7);
        let mut code = DELEGATION.to_vec();
        code.extend_from_slice(delegate.as_slice());
        assert_eq!(AccountCode::of(&code), AccountCode::Delegated(delegate));
        code.push(0);
        assert_eq!(AccountCode::of(&code), AccountCode::Contract);
        assert_eq!(AccountCode::of(&code[..22]), AccountCode::Contract);
        assert_eq!(AccountCode::of(&[0x60]), AccountCode::Contract);
        assert_eq!(AccountCode::of(&[]), AccountCode::None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (accepts(&bytes), AccountCode::of(&bytes));
        }
    }
}
