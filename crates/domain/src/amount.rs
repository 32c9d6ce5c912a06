//! Numbers that must not be mixed: each is a type of its own.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Nothing, or only `0x`.
    #[error("is empty")]
    Empty,
    /// A sign, a point, an exponent, a blank or any other character that is no digit.
    #[error("must be an unsigned whole number in decimal or 0x-hex digits")]
    NotDigits,
    /// More than 2^256 - 1.
    #[error("does not fit in 256 bits")]
    TooLarge,
}

/// Reads decimal or `0x`-hex digits, nothing else (PROTOCOL section 1.1).
fn parse_u256(text: &str) -> Result<U256, AmountError> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    if digits.is_empty() {
        return Err(AmountError::Empty);
    }
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(AmountError::NotDigits);
    }
    U256::from_str_radix(digits, u64::from(radix)).map_err(|_| AmountError::TooLarge)
}

macro_rules! unsigned_256 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub U256);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(U256::ZERO);

            /// The sum, or `None` past 2^256 - 1.
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).map(Self)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(U256::from(value))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = AmountError;

            fn from_str(text: &str) -> Result<Self, AmountError> {
                parse_u256(text).map(Self)
            }
        }

        /// As a decimal string: JSON numbers are not exact.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

unsigned_256! {
    /// An amount of an asset in its atomic units (for USDC a millionth of a dollar).
    AssetAmount
}
unsigned_256! {
    /// An amount of the network's native currency in wei.
    Wei
}

/// The transaction counter of a signer's account (not an [`AuthorizationNonce`](crate::AuthorizationNonce)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountNonce(pub u64);

impl AccountNonce {
    /// The nonce of the next transaction.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for AccountNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Seconds since 1970 as authorizations and block headers count them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This moment plus `seconds`.
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

/// Milliseconds since 1970: database time, for rows and leases.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The second in UTC, as in `2026-01-31T12:00:00Z` (ISO 8601), by the civil-from-days algorithm.
    pub fn to_utc(self) -> String {
        let seconds = self.0 / 1_000;
        let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (
            second_of_day / 3_600,
            second_of_day / 60 % 60,
            second_of_day % 60,
        );
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_unsigned_whole_number_is_refused() {
        for text in ["-1", "+1", "1.5", "1e3", " 1", "1 ", "0xzz", "1_000", "٣"] {
            assert_eq!(
                text.parse::<AssetAmount>(),
                Err(AmountError::NotDigits),
                "{text:?}"
            );
        }
        assert_eq!("".parse::<AssetAmount>(), Err(AmountError::Empty));
        assert_eq!("0x".parse::<AssetAmount>(), Err(AmountError::Empty));
    }

    #[test]
    fn the_largest_amount_is_two_to_the_256_less_one() {
        let largest = AssetAmount(U256::MAX);
        assert_eq!(largest.to_string().parse(), Ok(largest));
        let mut one_more = largest.to_string();
        one_more.pop();
        one_more.push('6');
        assert_eq!(one_more.parse::<AssetAmount>(), Err(AmountError::TooLarge));
        assert_eq!(
            format!("0x1{}", "0".repeat(64)).parse::<AssetAmount>(),
            Err(AmountError::TooLarge)
        );
    }

    #[test]
    fn moments_read_as_utc() {
        assert_eq!(UnixMillis(0).to_utc(), "1970-01-01T00:00:00Z");
        assert_eq!(
            UnixMillis(1_709_210_096_789).to_utc(),
            "2024-02-29T12:34:56Z"
        );
    }

    proptest! {
        #[test]
        fn every_amount_survives_text_and_json(limbs: [u64; 4]) {
            let amount = AssetAmount(U256::from_limbs(limbs));
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
            prop_assert_eq!(format!("{:#x}", amount.0).parse(), Ok(amount));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".{0,90}") {
            let _ = text.parse::<AssetAmount>();
        }
    }
}
