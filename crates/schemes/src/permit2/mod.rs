//! Permit2 through the x402 proxies, for `exact` and `upto` (PROTOCOL sections 3.6, 3.7 and 4).
//!
//! The two schemes differ in three things, and [`Proxy`] holds all of them: the proxy that is the spender, the
//! witness that is signed, and the settled amount, which only `upto` names apart. The rest is one code.

mod call;
mod outcome;

use alloy_primitives::{Address, B256, Keccak256, U256, b256};
use teller_domain::{
    AssetAmount, Authorization, ChainId, Payment, PermitTerms, Reason, UnixSeconds,
};

pub use call::{
    MAX_CALLDATA_BYTES, ProxyCall, allowance_call, calls_of, decode_call, nonce_bitmap_call,
    proxy_probe_call, settle_call, settle_with_permit_call,
};
pub use outcome::{
    Findings, ProxySettlement, classify_revert, diagnose, invalidates, nonce_used, settlements,
};

pub use teller_domain::{EXACT_PROXY, PERMIT2, UPTO_PROXY};

/// `EIP712Domain(string name,uint256 chainId,address verifyingContract)`: Permit2 has no version.
const DOMAIN_TYPE: B256 = b256!("8cad95687ba82c2ce50e74f7b754645e5117c3a5bec8151c0726d5857980a866");
/// `TokenPermissions(address token,uint256 amount)`
const PERMISSIONS_TYPE: B256 =
    b256!("618358ac3db8dc274f0cd8829da7e234bd48cd73c4a740aede1adec9846d06a1");
/// `Witness(address to,uint256 validAfter)`
const EXACT_WITNESS_TYPE: B256 =
    b256!("d97b3239a7f32295517bd14cb074edfdd188dfe5eb42f802bb26d4fd1eb12c37");
/// `Witness(address to,address facilitator,uint256 validAfter)`
const UPTO_WITNESS_TYPE: B256 =
    b256!("d4171c445a74218b01d4fd8af34ff1106580ea1e36ff837e64484bfaa2253b75");
/// `PermitWitnessTransferFrom(..)` with the witness of `exact`.
const EXACT_PERMIT_TYPE: B256 =
    b256!("ebc156cd23678a74c94df13d772ef5478420637f0c94bd10d509e1dc98f521c7");
/// `PermitWitnessTransferFrom(..)` with the witness of `upto`.
const UPTO_PERMIT_TYPE: B256 =
    b256!("51dff6974ad4388c499e7fcfe838d2bd767162553a144098ce20ea661d70c2ee");

/// Which proxy spends the permit, with what only its witness has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// `exact`: the whole permitted amount moves, whoever calls.
    Exact,
    /// `upto`: any amount up to the permitted one moves, and only this account may call.
    Upto {
        /// `witness.facilitator`
        facilitator: Address,
    },
}

impl Proxy {
    /// The proxy contract, the `spender` that is signed.
    pub fn address(self) -> Address {
        match self {
            Self::Exact => EXACT_PROXY,
            Self::Upto { .. } => UPTO_PROXY,
        }
    }
}

/// What a payer signs. The payer itself is no part of it: Permit2 takes the owner beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permit {
    /// The network.
    pub chain: ChainId,
    /// The token that moves.
    pub token: Address,
    /// `permitted.amount`: what moves under `exact`, the most that may under `upto`.
    pub amount: AssetAmount,
    /// A bit of the payer's bitmap, across all tokens.
    pub nonce: U256,
    /// The last second at which Permit2 takes it.
    pub deadline: U256,
    /// `witness.to`: who receives.
    pub to: Address,
    /// `witness.validAfter`: the first second at which the proxy takes it.
    pub valid_after: U256,
    /// Who spends it.
    pub proxy: Proxy,
}

impl Permit {
    /// What the payer of this payment signed; `None` if it is no payment by Permit2.
    pub fn of(payment: &Payment) -> Option<Self> {
        let Authorization::Permit2(permit) = &payment.authorization else {
            return None;
        };
        Some(Self {
            chain: payment.key.chain,
            token: payment.asset,
            amount: payment.permitted(),
            nonce: payment.key.nonce.0.into(),
            deadline: payment.validity.end(),
            to: payment.payee,
            valid_after: payment.validity.valid_after(),
            proxy: match permit.terms {
                PermitTerms::Exact => Proxy::Exact,
                PermitTerms::Upto { facilitator, .. } => Proxy::Upto { facilitator },
            },
        })
    }

    /// The digest that the payer signs.
    pub fn digest(&self) -> B256 {
        let permit_type = match self.proxy {
            Proxy::Exact => EXACT_PERMIT_TYPE,
            Proxy::Upto { .. } => UPTO_PERMIT_TYPE,
        };
        let mut permitted = Keccak256::new();
        permitted.update(PERMISSIONS_TYPE);
        permitted.update(self.token.into_word());
        permitted.update(self.amount.0.to_be_bytes::<32>());
        let mut message = Keccak256::new();
        message.update(permit_type);
        message.update(permitted.finalize());
        message.update(self.proxy.address().into_word());
        message.update(self.nonce.to_be_bytes::<32>());
        message.update(self.deadline.to_be_bytes::<32>());
        message.update(self.witness());
        let mut digest = Keccak256::new();
        digest.update([0x19, 0x01]);
        digest.update(domain_separator(self.chain));
        digest.update(message.finalize());
        digest.finalize()
    }

    fn witness(&self) -> B256 {
        let mut witness = Keccak256::new();
        match self.proxy {
            Proxy::Exact => {
                witness.update(EXACT_WITNESS_TYPE);
                witness.update(self.to.into_word());
            }
            Proxy::Upto { facilitator } => {
                witness.update(UPTO_WITNESS_TYPE);
                witness.update(self.to.into_word());
                witness.update(facilitator.into_word());
            }
        }
        witness.update(self.valid_after.to_be_bytes::<32>());
        witness.finalize()
    }
}

/// Permit2's EIP-712 domain separator on a network.
pub fn domain_separator(chain: ChainId) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(DOMAIN_TYPE);
    hasher.update(alloy_primitives::keccak256("Permit2"));
    hasher.update(U256::from(chain.0).to_be_bytes::<32>());
    hasher.update(PERMIT2.into_word());
    hasher.finalize()
}

/// What a seller demands of a permit.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// The required token.
    pub asset: Address,
    /// Who must receive.
    pub pay_to: Address,
    /// The required amount; the maximum when an `upto` payment is verified.
    pub amount: AssetAmount,
    /// For `upto`: the one account that settles on this network.
    pub facilitator: Address,
}

/// The checks that need nothing but the signed data, in the order of PROTOCOL section 3.7. `spender` is the signed
/// one, as it was sent; `margin` is how long before its deadline a permit counts as expired.
///
/// # Errors
/// The reason of the first check that fails.
pub fn check(
    permit: &Permit,
    spender: Address,
    demand: &Demand,
    now: UnixSeconds,
    margin: u64,
) -> Result<(), Reason> {
    let foreign = match permit.proxy {
        Proxy::Exact => false,
        Proxy::Upto { facilitator } => facilitator != demand.facilitator,
    };
    let failures = [
        (spender != permit.proxy.address(), Reason::Permit2Spender),
        (permit.to != demand.pay_to, Reason::Permit2RecipientMismatch),
        (foreign, Reason::UptoFacilitatorMismatch),
        (
            permit.deadline < U256::from(now.plus(margin).0),
            Reason::Permit2DeadlineExpired,
        ),
        (
            permit.valid_after > U256::from(now.0),
            Reason::Permit2NotYetValid,
        ),
        (
            permit.amount != demand.amount,
            Reason::Permit2AmountMismatch,
        ),
        (permit.token != demand.asset, Reason::Permit2TokenMismatch),
    ];
    match failures.into_iter().find(|(failed, _)| *failed) {
        Some((_, reason)) => Err(reason),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{address, keccak256};

    /// PROTOCOL section 11, vector 2.
    pub(super) fn vector(proxy: Proxy) -> Permit {
        Permit {
            chain: ChainId(84532),
            token: address!("036CbD53842c5426634e7929541eC2318f3dCF7e"),
            amount: AssetAmount::from(10_000),
            nonce: "33247007178036348590600198031289925668252061821958005840077069883511451257277"
                .parse()
                .unwrap(),
            deadline: U256::from(1_740_672_154),
            to: address!("209693Bc6afc0C5328bA36FaF03C514EF312287C"),
            valid_after: U256::from(1_740_672_089),
            proxy,
        }
    }

    pub(super) fn upto() -> Proxy {
        Proxy::Upto {
            facilitator: Address::repeat_byte(0x11),
        }
    }

    #[test]
    fn the_digests_are_those_of_the_vectors() {
        assert_eq!(
            domain_separator(ChainId(84532)),
            b256!("010f27a92fb9a32622f44f001dc4d15706a85b33499cfc2ce9033113ab26592c")
        );
        assert_eq!(
            vector(Proxy::Exact).digest(),
            b256!("21528e1468aac114016416353e2309329f217dc180b21baa1d81cde941095685")
        );
        assert_eq!(
            vector(upto()).digest(),
            b256!("c55c2d41d0900fba236471eedbc9aab9e6681ecc5ad55246683e5fa22050f72f")
        );
    }

    #[test]
    fn the_type_hashes_are_those_of_their_type_strings() {
        let permissions = "TokenPermissions(address token,uint256 amount)";
        let head = "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)";
        let exact = "Witness(address to,uint256 validAfter)";
        let upto = "Witness(address to,address facilitator,uint256 validAfter)";
        for (text, hash) in [
            (
                "EIP712Domain(string name,uint256 chainId,address verifyingContract)".to_owned(),
                DOMAIN_TYPE,
            ),
            (permissions.to_owned(), PERMISSIONS_TYPE),
            (exact.to_owned(), EXACT_WITNESS_TYPE),
            (upto.to_owned(), UPTO_WITNESS_TYPE),
            (format!("{head}{permissions}{exact}"), EXACT_PERMIT_TYPE),
            (format!("{head}{permissions}{upto}"), UPTO_PERMIT_TYPE),
        ] {
            assert_eq!(keccak256(&text), hash, "{text}");
        }
    }

    #[test]
    fn each_single_fault_has_its_reason_and_the_first_of_several_is_told() {
        let now = UnixSeconds(1_740_672_100);
        for proxy in [Proxy::Exact, upto()] {
            let good = vector(proxy);
            let demand = Demand {
                asset: good.token,
                pay_to: good.to,
                amount: good.amount,
                facilitator: Address::repeat_byte(0x11),
            };
            let told = |permit: &Permit| check(permit, permit.proxy.address(), &demand, now, 6);
            assert_eq!(told(&good), Ok(()));
            assert_eq!(
                check(&good, PERMIT2, &demand, now, 6),
                Err(Reason::Permit2Spender)
            );
            let to = Permit {
                to: PERMIT2,
                ..good
            };
            assert_eq!(told(&to), Err(Reason::Permit2RecipientMismatch));
            let late = Permit {
                deadline: U256::from(1_740_672_105),
                ..good
            };
            assert_eq!(told(&late), Err(Reason::Permit2DeadlineExpired));
            let just = Permit {
                deadline: U256::from(1_740_672_106),
                ..good
            };
            assert_eq!(told(&just), Ok(()));
            let early = Permit {
                valid_after: U256::from(now.plus(1).0),
                ..good
            };
            assert_eq!(told(&early), Err(Reason::Permit2NotYetValid));
            let forever = Permit {
                deadline: U256::MAX,
                ..good
            };
            assert_eq!(told(&forever), Ok(()));
            let never = Permit {
                valid_after: U256::MAX,
                ..good
            };
            assert_eq!(told(&never), Err(Reason::Permit2NotYetValid));
            let more = Permit {
                amount: AssetAmount::from(10_001),
                ..good
            };
            assert_eq!(told(&more), Err(Reason::Permit2AmountMismatch));
            let token = Permit {
                token: PERMIT2,
                ..more
            };
            assert_eq!(told(&token), Err(Reason::Permit2AmountMismatch));
            let token = Permit {
                token: PERMIT2,
                ..good
            };
            assert_eq!(told(&token), Err(Reason::Permit2TokenMismatch));
        }
        let foreign = vector(Proxy::Upto {
            facilitator: PERMIT2,
        });
        let demand = Demand {
            asset: foreign.token,
            pay_to: foreign.to,
            amount: foreign.amount,
            facilitator: Address::repeat_byte(0x11),
        };
        assert_eq!(
            check(&foreign, UPTO_PROXY, &demand, now, 6),
            Err(Reason::UptoFacilitatorMismatch)
        );
    }
}
