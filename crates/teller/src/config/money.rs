//! Amounts of money in the configuration: decimal texts, exact, never floats.

use alloy_primitives::U256;
use teller_domain::Wei;

/// Gas of a transaction that settles one payment alone, with room for a payee's first balance: what a ceiling in USD for
/// a payment is divided by.
const GAS_OF_A_LONE_PAYMENT: u64 = 110_000;

/// Digits that an amount of USD may have before and after its point.
const WHOLE_DIGITS: usize = 12;
const FRACTION_DIGITS: usize = 18;

/// An amount of USD above zero, in units of 10^-18.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usd(U256);

impl Usd {
    /// Reads `12`, `0.0025` and the like.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str, most| {
            (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
        };
        if !digits(whole, WHOLE_DIGITS) || !digits(fraction, FRACTION_DIGITS) {
            return None;
        }
        let units = format!("{whole}{fraction:0<FRACTION_DIGITS$}");
        let units = U256::from_str_radix(&units, 10).ok()?;
        (!units.is_zero()).then_some(Self(units))
    }
}

/// The most that a unit of gas may cost, in wei, if a payment that is settled alone is to cost at most `per_payment` while
/// the network's coin costs `coin`. Rounded down; `None` if that leaves less than one wei.
pub(super) fn ceiling(per_payment: Usd, coin: Usd) -> Option<u128> {
    // Both have at most 30 digits, so nothing here comes near 256 bits.
    let wei_per_coin = U256::from(10).pow(U256::from(18));
    let gas = coin.0 * U256::from(GAS_OF_A_LONE_PAYMENT);
    let ceiling = (per_payment.0 * wei_per_coin).checked_div(gas)?;
    (!ceiling.is_zero()).then(|| ceiling.saturating_to())
}

/// Reads an amount of wei above zero.
pub(super) fn wei(text: &str) -> Option<Wei> {
    wei_or_none(text).filter(|amount| *amount != Wei::ZERO)
}

/// Reads an amount of wei.
pub(super) fn wei_or_none(text: &str) -> Option<Wei> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    U256::from_str_radix(text, 10)
        .ok()
        .filter(|_| plain)
        .map(Wei)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_amount_of_usd_is_plain_digits_with_a_point() {
        for text in [
            "1",
            "0.01",
            "3000.5",
            "999999999999.999999999999999999",
            "007.10",
        ] {
            assert!(Usd::parse(text).is_some(), "{text}");
        }
        assert_eq!(Usd::parse("2.50"), Usd::parse("2.5"));
        for text in [
            "",
            "0",
            "0.0",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            "1_000",
            " 1",
            "$1",
            "1.2.3",
            "1000000000000",
            "0.1234567890123456789",
        ] {
            assert_eq!(Usd::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_ceiling_in_usd_becomes_wei_for_a_unit_of_gas() {
        let usd = |text| Usd::parse(text).unwrap();
        // 0.011 USD at 2,500 USD a coin are 4.4e12 wei, over 110,000 gas.
        assert_eq!(ceiling(usd("0.011"), usd("2500")), Some(40_000_000));
        assert_eq!(ceiling(usd("0.0109999"), usd("2500")), Some(39_999_636));
        assert_eq!(ceiling(usd("0.000000000000000001"), usd("2500")), None);
        assert_eq!(
            ceiling(usd("999999999999"), usd("0.000000000000000001")),
            Some(u128::MAX)
        );
    }

    proptest! {
        #[test]
        fn a_lone_payment_under_the_ceiling_costs_no_more_than_was_said(micros in 1..1_000_000_000_u64, cents in 1..1_000_000_000_u64) {
            let per_payment = Usd::parse(&format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)).unwrap();
            let coin = Usd::parse(&format!("{}.{:02}", cents / 100, cents % 100)).unwrap();
            if let Some(ceiling) = ceiling(per_payment, coin) {
                // wei x USD a coin / 10^18 <= USD a payment
                let cost = U256::from(ceiling) * U256::from(110_000) * coin.0;
                prop_assert!(cost <= per_payment.0 * U256::from(10).pow(U256::from(18)));
                let more = U256::from(ceiling + 1) * U256::from(110_000) * coin.0;
                prop_assert!(more > per_payment.0 * U256::from(10).pow(U256::from(18)));
            }
        }
    }

    #[test]
    fn wei_are_whole_and_above_zero() {
        assert_eq!(
            wei("20000000000000000"),
            Some(Wei::from(20_000_000_000_000_000))
        );
        for text in ["", "0", "-1", "1.5", "0x10", "1_0", &"9".repeat(79)] {
            assert_eq!(wei(text), None, "{text}");
        }
    }
}
