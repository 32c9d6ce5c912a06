//! Reading single fields: texts and numbers into typed values, with errors that name the field. The JSON and the gRPC
//! form share these, so that both refuse the same things.

use alloy_primitives::{Address, B256, Bytes, U256, hex};

/// The longest signature that is looked at, in bytes (PROTOCOL section 9, item 14).
pub const MAX_SIGNATURE_BYTES: usize = 8 * 1024;

/// A field that cannot be read. The text never repeats the field's value: it may be a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} {problem}")]
pub struct FieldError {
    /// Where the field stands, from the body's top: `paymentPayload.payload.authorization.value`.
    pub path: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl FieldError {
    /// This problem with this field.
    pub fn new(path: impl Into<String>, problem: &'static str) -> Self {
        Self {
            path: path.into(),
            problem,
        }
    }
}

/// An unsigned number of at most 256 bits in decimal or `0x`-hex digits (PROTOCOL section 1.1).
pub fn unsigned(text: &str) -> Result<U256, &'static str> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.is_empty() {
        return Err("is empty");
    }
    let is_digit = |byte: u8| match radix {
        16 => byte.is_ascii_hexdigit(),
        _ => byte.is_ascii_digit(),
    };
    if !digits.bytes().all(is_digit) {
        return Err("must be an unsigned whole number in decimal or 0x-hex digits");
    }
    if radix == 10
        && digits.len() < 20
        && let Ok(small) = digits.parse::<u64>()
    {
        return Ok(U256::from(small));
    }
    U256::from_str_radix(digits, radix).map_err(|_| "does not fit in 256 bits")
}

/// An unsigned number of at most 64 bits.
pub fn unsigned_64(text: &str) -> Result<u64, &'static str> {
    u64::try_from(unsigned(text)?).map_err(|_| "does not fit in 64 bits")
}

/// An unsigned number of at most 256 bits in decimal digits alone: `^[0-9]+$`.
pub fn decimal(text: &str) -> Result<U256, &'static str> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        unsigned(text)
    } else {
        Err("must be decimal digits")
    }
}

/// A version: `^[0-9]+(\.[0-9]+)*$`.
pub fn version(text: &str) -> Result<(), &'static str> {
    let good = text
        .split('.')
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    if good {
        Ok(())
    } else {
        Err("must be a version: digits and points")
    }
}

/// `0x` and 40 hex digits; upper and lower case mean nothing.
pub fn address(text: &str) -> Result<Address, &'static str> {
    fixed::<20>(text, "must be an address: 0x and 40 hex digits").map(Address::from)
}

/// `0x` and 64 hex digits.
pub fn bytes32(text: &str) -> Result<B256, &'static str> {
    fixed::<32>(text, "must be 32 bytes: 0x and 64 hex digits").map(B256::from)
}

/// `0x` and any even number of hex digits up to [`MAX_SIGNATURE_BYTES`].
pub fn signature(text: &str) -> Result<Bytes, &'static str> {
    bounded(text, MAX_SIGNATURE_BYTES, "is longer than 8192 bytes")
}

/// `0x` and any even number of hex digits up to
/// [`MAX_PERMISSION_CONTEXT_BYTES`](crate::MAX_PERMISSION_CONTEXT_BYTES).
pub fn permission_context(text: &str) -> Result<Bytes, &'static str> {
    bounded(
        text,
        crate::MAX_PERMISSION_CONTEXT_BYTES,
        "is longer than 16384 bytes",
    )
}

/// `0x` and any even number of hex digits up to
/// [`MAX_SIGNED_TRANSACTION_BYTES`](crate::extensions::MAX_SIGNED_TRANSACTION_BYTES).
pub fn signed_transaction(text: &str) -> Result<Bytes, &'static str> {
    bounded(
        text,
        crate::extensions::MAX_SIGNED_TRANSACTION_BYTES,
        "is longer than 1024 bytes",
    )
}

fn bounded(text: &str, longest: usize, too_long: &'static str) -> Result<Bytes, &'static str> {
    let Some(digits) = text.strip_prefix("0x") else {
        return Err("must be 0x and hex digits");
    };
    if digits.len() > 2 * longest {
        return Err(too_long);
    }
    // The decoder would take a second 0x.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("must be 0x and an even number of hex digits");
    }
    hex::decode(digits)
        .map(Bytes::from)
        .map_err(|_| "must be 0x and an even number of hex digits")
}

fn fixed<const N: usize>(text: &str, problem: &'static str) -> Result<[u8; N], &'static str> {
    let digits = text.strip_prefix("0x").ok_or(problem)?;
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return Err(problem);
    }
    hex::decode_to_slice(digits.as_bytes(), &mut bytes).map_err(|_| problem)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_unsigned_whole_numbers_are_numbers() {
        for text in [
            "-1", "+1", "-0", "1.0", "1e3", " 1", "1 ", "0xg", "1_0", "٣", "0X1", "x", "0x-1",
        ] {
            assert_eq!(
                unsigned(text),
                Err("must be an unsigned whole number in decimal or 0x-hex digits"),
                "{text:?}"
            );
        }
        for text in ["", "0x"] {
            assert_eq!(unsigned(text), Err("is empty"));
        }
        let too_large = format!("0x1{}", "0".repeat(64));
        assert_eq!(unsigned(&too_large), Err("does not fit in 256 bits"));
        assert_eq!(
            unsigned(
                "115792089237316195423570985008687907853269984665640564039457584007913129639936"
            ),
            Err("does not fit in 256 bits")
        );
        assert_eq!(
            unsigned_64("18446744073709551616"),
            Err("does not fit in 64 bits")
        );
        assert_eq!(unsigned("0010"), Ok(U256::from(10)));
        assert_eq!(unsigned("0xFf"), Ok(U256::from(255)));
    }

    #[test]
    fn addresses_and_nonces_have_their_length() {
        let good = "0x857b06519E91e3A54538791bDbb0E22373e36b66";
        assert!(address(good).is_ok());
        assert!(address(&good.to_lowercase()).is_ok());
        assert!(address(&good.to_uppercase().replace("0X", "0x")).is_ok());
        for text in [
            "",
            "0x",
            &good[2..],
            &good[..41],
            &format!("{good}0"),
            &good.replace('8', "g"),
            &good.replace("0x", "0X"),
        ] {
            assert!(address(text).is_err(), "{text}");
        }
        assert!(bytes32(&format!("0x{}", "a".repeat(64))).is_ok());
        assert!(bytes32(&format!("0x{}", "a".repeat(63))).is_err());
        assert!(bytes32(&"a".repeat(64)).is_err());
    }

    #[test]
    fn signatures_are_hex_of_bounded_length() {
        assert_eq!(signature("0x").map(|s| s.len()), Ok(0));
        assert!(signature("0xabc").is_err());
        assert!(signature("abcd").is_err());
        assert!(signature("0x0xabcd").is_err());
        assert!(signature(&format!("0x{}", "ab".repeat(8192))).is_ok());
        assert!(signature(&format!("0x{}", "ab".repeat(8193))).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in ".{0,140}") {
            let _ = (unsigned(&text), unsigned_64(&text), address(&text), bytes32(&text), signature(&text));
        }

        #[test]
        fn every_number_reads_back(limbs: [u64; 4]) {
            let number = U256::from_limbs(limbs);
            prop_assert_eq!(unsigned(&number.to_string()), Ok(number));
            prop_assert_eq!(unsigned(&format!("{number:#x}")), Ok(number));
        }
    }
}
