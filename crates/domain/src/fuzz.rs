//! Fuzz target: texts that become amounts, networks and names. Its inputs start from `crates/fuzz/corpus`.

use teller_fuzz::{Fuzz, Shape};

use crate::{AssetAmount, ChainId, IdempotencyKey, SettlementId, v1_chain, v1_name};

/// What is read from a text is written as a text that reads the same; of networks it is the very same text, and no text
/// is a network of both versions.
#[test]
fn a_name_is_read_in_one_way() {
    Fuzz::new("name", Shape::Bytes)
        .executions(100_000)
        .run(|data| {
            let Ok(text) = std::str::from_utf8(data) else {
                return false;
            };
            let amount = text.parse::<AssetAmount>();
            if let Ok(amount) = amount {
                assert_eq!(amount.to_string().parse(), Ok(amount));
            }
            let chain = text.parse::<ChainId>();
            if let Ok(chain) = chain {
                assert_eq!(chain.to_string(), text);
                assert_eq!(v1_chain(text), None);
            }
            if let Some(chain) = v1_chain(text) {
                assert_eq!(v1_name(chain).and_then(v1_chain), Some(chain));
            }
            if let Ok(key) = text.parse::<IdempotencyKey>() {
                assert_eq!(key.as_str(), text);
                assert!(text.len() <= 255 && !text.chars().any(char::is_control));
            }
            let settlement = text.parse::<SettlementId>();
            if let Ok(settlement) = &settlement {
                assert_eq!(settlement.to_string().parse().as_ref(), Ok(settlement));
            }
            amount.is_ok() || chain.is_ok() || settlement.is_ok()
        });
}
