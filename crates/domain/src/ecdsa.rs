//! Signatures of plain accounts, in the forms that clients send them in.

use std::fmt;

use alloy_primitives::{B256, Bytes, U256, uint};

/// Half the order of the group; a higher `s` is refused (EIP-2, and every token contract).
const HALF_ORDER: U256 =
    uint!(0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0_U256);

/// A secp256k1 signature in the form that token contracts take: low `s`, `v` 27 or 28.
///
/// Whoever holds one can move the payer's money to the payee, so it is never printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EcdsaSignature {
    /// `r`
    pub r: B256,
    /// `s`, in the lower half of the group order (EIP-2).
    pub s: B256,
    /// 27 or 28.
    pub v: u8,
}

/// In which bytes a signature was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureForm {
    /// `r`, `s`, and a `v` of 27 or 28.
    Standard,
    /// The same with a `v` of 0 or 1.
    Parity,
    /// The 64 bytes of ERC-2098.
    Compact,
}

/// Why bytes are no signature of a plain account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Neither 65 bytes nor the 64 of ERC-2098.
    #[error("a plain account's signature has 65 bytes (or 64 in the form of ERC-2098), not {0}")]
    Length(usize),
    /// `v` is none of 0, 1, 27, 28.
    #[error("v must be 0, 1, 27 or 28")]
    RecoveryByte,
    /// `s` is in the upper half of the group order.
    #[error("s is in the upper half of the group order (EIP-2)")]
    HighS,
}

impl EcdsaSignature {
    /// Reads any form that clients send (PROTOCOL section 3.4).
    ///
    /// # Errors
    /// When no token contract would take what these bytes mean.
    pub fn read(bytes: &[u8]) -> Result<(Self, SignatureForm), SignatureError> {
        let (signature, form) = match bytes.len() {
            65 => {
                let sent = Self::from_bytes(bytes).ok_or(SignatureError::Length(65))?;
                match sent.v {
                    27 | 28 => (sent, SignatureForm::Standard),
                    v @ (0 | 1) => (Self { v: v + 27, ..sent }, SignatureForm::Parity),
                    _ => return Err(SignatureError::RecoveryByte),
                }
            }
            64 => {
                let (r, vs) = bytes.split_at(32);
                let vs = U256::from_be_slice(vs);
                let v = if vs.bit(255) { 28 } else { 27 };
                let s: U256 = vs & (U256::MAX >> 1);
                let r = B256::from_slice(r);
                (Self { r, s: s.into(), v }, SignatureForm::Compact)
            }
            length => return Err(SignatureError::Length(length)),
        };
        if U256::from_be_bytes(signature.s.0) > HALF_ORDER {
            return Err(SignatureError::HighS);
        }
        Ok((signature, form))
    }

    /// The bytes that [`read`](Self::read) has read.
    pub fn in_form(self, form: SignatureForm) -> Bytes {
        let mut bytes = self.to_bytes().to_vec();
        let is_odd = self.v == 28;
        match form {
            SignatureForm::Standard => {}
            SignatureForm::Parity => {
                bytes.truncate(64);
                bytes.push(u8::from(is_odd));
            }
            SignatureForm::Compact => {
                bytes.truncate(64);
                if let (true, Some(first)) = (is_odd, bytes.get_mut(32)) {
                    *first |= 0x80;
                }
            }
        }
        bytes.into()
    }

    /// `r`, `s`, `v`: 65 bytes.
    pub fn to_bytes(self) -> [u8; 65] {
        let mut bytes = [0; 65];
        let (r, rest) = bytes.split_at_mut(32);
        let (s, v) = rest.split_at_mut(32);
        r.copy_from_slice(self.r.as_slice());
        s.copy_from_slice(self.s.as_slice());
        v.copy_from_slice(&[self.v]);
        bytes
    }

    /// The inverse of [`to_bytes`](Self::to_bytes); `None` for any other length. Checks nothing else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (r, rest) = bytes.split_at_checked(32)?;
        let (s, v) = rest.split_at_checked(32)?;
        match v {
            [v] => Some(Self {
                r: B256::from_slice(r),
                s: B256::from_slice(s),
                v: *v,
            }),
            _ => None,
        }
    }
}

impl fmt::Debug for EcdsaSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EcdsaSignature(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_signature_survives_its_bytes_and_never_prints() {
        let signature = EcdsaSignature {
            r: B256::repeat_byte(0xab),
            s: B256::repeat_byte(0x12),
            v: 28,
        };
        assert_eq!(
            EcdsaSignature::from_bytes(&signature.to_bytes()),
            Some(signature)
        );
        assert_eq!(EcdsaSignature::from_bytes(&[0; 64]), None);
        assert_eq!(EcdsaSignature::from_bytes(&[0; 66]), None);
        assert!(!format!("{signature:?}").contains("ab"));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_given_back_byte_for_byte(
            r: [u8; 32], s: [u8; 32], last in prop::sample::select(vec![None, Some(0), Some(1), Some(27), Some(28)]),
        ) {
            let bytes: Vec<u8> = r.into_iter().chain(s).chain(last).collect();
            if let Ok((signature, form)) = EcdsaSignature::read(&bytes) {
                prop_assert!([27, 28].contains(&signature.v));
                prop_assert_eq!(&signature.in_form(form)[..], &bytes[..]);
                let standard = signature.to_bytes();
                prop_assert_eq!(EcdsaSignature::read(&standard), Ok((signature, SignatureForm::Standard)));
            }
        }
    }
}
