//! The known assets' EIP-712 domains against PROTOCOL section 10.
#![allow(clippy::unwrap_used)]

use teller_domain::ChainId;
use teller_domain::known::asset_facts;
use teller_schemes::eip3009::Domain;

/// Chain id, symbol, first bytes of the domain separator; most were compared there with what the chain says.
const SEPARATORS: [(u64, &str, u32); 16] = [
    (8453, "USDC", 0x02fa7265),
    (84532, "USDC", 0x71f17a3b),
    (1, "USDC", 0x06c37168),
    (11155111, "USDC", 0xb90e5057),
    (137, "USDC", 0xcaa2ce1a),
    (80002, "USDC", 0x5cddc983),
    (42161, "USDC", 0x08d11903),
    (421614, "USDC", 0x85944e12),
    (10, "USDC", 0x26d9c34b),
    (11155420, "USDC", 0x09d038a3),
    (43114, "USDC", 0xbbea2003),
    (43113, "USDC", 0xfe9fa105),
    (1, "EURC", 0x99f188f4),
    (8453, "EURC", 0xec4dcbde),
    (43114, "EURC", 0x094e957a),
    (84532, "EURC", 0x0f014fc9),
];

#[test]
fn known_domains_have_the_separators_of_the_reference() {
    for (chain, symbol, separator) in SEPARATORS {
        let facts = asset_facts(ChainId(chain)).find(|asset| asset.symbol == symbol);
        let domain = Domain::new(&facts.unwrap().asset());
        let [a, b, c, d, ..] = domain.separator().0;
        assert_eq!(
            u32::from_be_bytes([a, b, c, d]),
            separator,
            "{symbol} on {chain}"
        );
    }
}
