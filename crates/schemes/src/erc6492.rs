//! Signatures of contracts that are not there yet (ERC-6492): the wrapper, and the one transaction that makes the
//! contract and moves the money.

use alloy_primitives::{Address, B256, Bytes, b256};
use alloy_sol_types::SolValue;

use crate::multicall;

/// The last 32 bytes of a wrapped signature.
pub const MAGIC: B256 = b256!("6492649264926492649264926492649264926492649264926492649264926492");

/// The longest wrapped signature that is looked at (PROTOCOL section 9, item 14).
pub const MAX_WRAPPED_BYTES: usize = 8 * 1024;
/// The longest signature inside a wrapper. A multi-owner wallet with a passkey needs well under a thousand.
pub const MAX_INNER_BYTES: usize = 4 * 1024;

/// What a payer sent as its signature.
#[derive(Clone, PartialEq, Eq)]
pub enum Unwrapped<'a> {
    /// No wrapper.
    Plain(&'a [u8]),
    /// A wrapper.
    Wrapped(Wrapper),
}

/// The content of a wrapper.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapper {
    /// Whom to call to make the contract.
    pub factory: Address,
    /// With what.
    pub factory_calldata: Bytes,
    /// What the contract will judge.
    pub signature: Bytes,
}

/// Whoever holds a signature can move the money.
impl std::fmt::Debug for Wrapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wrapper")
            .field("factory", &self.factory)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Unwrapped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain(..)"),
            Self::Wrapped(wrapper) => wrapper.fmt(f),
        }
    }
}

/// Why bytes that end like a wrapper are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrapperError {
    /// Longer than [`MAX_WRAPPED_BYTES`], or the signature inside than [`MAX_INNER_BYTES`].
    #[error("the ERC-6492 wrapper or the signature in it is too long")]
    TooLong,
    /// Not the ABI encoding of an address and two byte strings.
    #[error("the ERC-6492 wrapper is not the encoding of (address, bytes, bytes)")]
    Encoding,
    /// The factory is the zero address.
    #[error("the ERC-6492 wrapper names no factory")]
    NoFactory,
    /// The signature inside is a wrapper again.
    #[error("the signature in the ERC-6492 wrapper is wrapped again")]
    Nested,
}

/// Takes the wrapper off, if there is one.
///
/// # Errors
/// When the bytes end with the magic and are no wrapper that teller takes. Such bytes are no signature of another
/// kind either.
pub fn unwrap(bytes: &[u8]) -> Result<Unwrapped<'_>, WrapperError> {
    let Some(encoded) = bytes.strip_suffix(MAGIC.as_slice()) else {
        return Ok(Unwrapped::Plain(bytes));
    };
    if bytes.len() > MAX_WRAPPED_BYTES {
        return Err(WrapperError::TooLong);
    }
    let (factory, factory_calldata, signature) =
        <(Address, Bytes, Bytes)>::abi_decode_params_validate(encoded)
            .map_err(|_| WrapperError::Encoding)?;
    if signature.len() > MAX_INNER_BYTES {
        return Err(WrapperError::TooLong);
    }
    if factory.is_zero() {
        return Err(WrapperError::NoFactory);
    }
    if signature.ends_with(MAGIC.as_slice()) {
        return Err(WrapperError::Nested);
    }
    Ok(Unwrapped::Wrapped(Wrapper {
        factory,
        factory_calldata,
        signature,
    }))
}

impl Wrapper {
    /// The bytes that a client sends.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = (
            self.factory,
            self.factory_calldata.clone(),
            self.signature.clone(),
        )
            .abi_encode_params();
        bytes.extend_from_slice(MAGIC.as_slice());
        bytes.into()
    }

    /// Calldata of Multicall3's `aggregate3` that makes the contract and then makes `call`, all or nothing. Making it
    /// may fail: somebody may have made it first. `call` may not.
    ///
    /// Multicall3 is the factory's caller, so a hostile factory is called by nobody of importance; still only
    /// factories of an allow-list get here.
    pub fn deploy_then(&self, target: Address, call: Bytes) -> Bytes {
        let steps = [
            (self.factory, true, self.factory_calldata.clone()),
            (target, false, call),
        ];
        multicall::sequence(steps.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrapper(calldata: usize, signature: usize) -> Wrapper {
        Wrapper {
            factory: Address::repeat_byte(1),
            factory_calldata: vec![2; calldata].into(),
            signature: vec![3; signature].into(),
        }
    }

    #[test]
    fn what_has_no_magic_is_plain() {
        assert_eq!(unwrap(&[]), Ok(Unwrapped::Plain(&[])));
        assert_eq!(unwrap(&[7; 65]), Ok(Unwrapped::Plain(&[7; 65])));
        let cut = &wrapper(4, 65).to_bytes()[..100];
        assert_eq!(unwrap(cut), Ok(Unwrapped::Plain(cut)));
    }

    #[test]
    fn a_wrapper_has_its_bounds() {
        assert!(unwrap(&wrapper(3_800, MAX_INNER_BYTES).to_bytes()).is_ok());
        for long in [
            wrapper(MAX_WRAPPED_BYTES, 65),
            wrapper(4, MAX_INNER_BYTES + 1),
        ] {
            assert_eq!(unwrap(&long.to_bytes()), Err(WrapperError::TooLong));
        }
        assert_eq!(unwrap(MAGIC.as_slice()), Err(WrapperError::Encoding));
        let nobody = Wrapper {
            factory: Address::ZERO,
            ..wrapper(4, 65)
        };
        assert_eq!(unwrap(&nobody.to_bytes()), Err(WrapperError::NoFactory));
        let nested = Wrapper {
            signature: wrapper(4, 65).to_bytes(),
            ..wrapper(4, 65)
        };
        assert_eq!(unwrap(&nested.to_bytes()), Err(WrapperError::Nested));
    }

    #[test]
    fn the_contract_is_made_first_and_may_be_there_already() {
        let call = Bytes::from_static(&[9, 9]);
        let target = Address::repeat_byte(8);
        let wrapper = wrapper(4, 65);
        let steps = multicall::tests::decoded(&wrapper.deploy_then(target, call.clone()));
        let expected = [
            (wrapper.factory, true, wrapper.factory_calldata.clone()),
            (target, false, call),
        ];
        assert_eq!(steps, expected);
    }

    proptest! {
        #[test]
        fn every_wrapper_reads_back(
            factory in any::<[u8; 20]>().prop_filter("a factory", |f| *f != [0; 20]),
            calldata in prop::collection::vec(any::<u8>(), 0..400), signature in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let wrapper = Wrapper {
                factory: factory.into(),
                factory_calldata: calldata.into(),
                signature: signature.into(),
            };
            let bytes = wrapper.to_bytes();
            prop_assert_eq!(unwrap(&bytes), Ok(Unwrapped::Wrapped(wrapper)));
        }

        #[test]
        fn no_bytes_make_unwrapping_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = unwrap(&bytes);
            bytes.extend_from_slice(MAGIC.as_slice());
            let _ = unwrap(&bytes);
        }

        #[test]
        fn no_change_of_a_wrapper_makes_unwrapping_panic(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let valid = wrapper(100, 65).to_bytes();
            let mut changed = valid.to_vec();
            changed[at.index(valid.len() - 32)] = byte;
            let _ = unwrap(&changed);
            let mut short = valid[..cut.index(valid.len() - 32)].to_vec();
            short.extend_from_slice(MAGIC.as_slice());
            let _ = unwrap(&short);
        }
    }
}
