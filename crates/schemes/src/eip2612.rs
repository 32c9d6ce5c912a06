//! EIP-2612 `permit`, by which a payer lets Permit2 move a token without a transaction of its own: the extension
//! `eip2612GasSponsoring` (PROTOCOL section 7.1).

use alloy_primitives::{Address, B256, Bytes, Keccak256, U256, b256};
use alloy_sol_types::{SolCall, sol};
use teller_domain::{AssetAmount, EcdsaSignature, Reason, TokenPermit, UnixSeconds};

use crate::eip3009::Domain;
use crate::permit2::PERMIT2;
use crate::recover;

sol! {
    function nonces(address owner) external view returns (uint256);
}

/// `Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)`
const PERMIT_TYPE: B256 = b256!("6e71edae12b1b97f4d1f60370fef10105fa2faae0126114a169c64845d6126c9");

/// What a token owner signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Whose allowance it is.
    pub owner: Address,
    /// Who may move the tokens.
    pub spender: Address,
    /// How many; for a payment exactly the permitted amount of its Permit2 permit.
    pub value: AssetAmount,
    /// The owner's counter in the token.
    pub nonce: U256,
    /// The last second at which the token takes it; often 2^256 - 1.
    pub deadline: U256,
}

impl Permit {
    /// The digest that the owner signs under the token's domain.
    pub fn digest(&self, domain: &Domain) -> B256 {
        let mut message = Keccak256::new();
        message.update(PERMIT_TYPE);
        message.update(self.owner.into_word());
        message.update(self.spender.into_word());
        message.update(self.value.0.to_be_bytes::<32>());
        message.update(self.nonce.to_be_bytes::<32>());
        message.update(self.deadline.to_be_bytes::<32>());
        let mut digest = Keccak256::new();
        digest.update([0x19, 0x01]);
        digest.update(domain.separator());
        digest.update(message.finalize());
        digest.finalize()
    }
}

/// A permit and the owner's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedPermit {
    /// What was signed.
    pub permit: Permit,
    /// By a plain account: tokens take `v, r, s`.
    pub signature: EcdsaSignature,
}

impl SignedPermit {
    /// The permit that was sent along with a payment.
    pub fn of(sent: &TokenPermit) -> Self {
        Self {
            permit: Permit {
                owner: sent.owner,
                spender: sent.spender,
                value: sent.value,
                nonce: sent.nonce,
                deadline: sent.deadline,
            },
            signature: sent.signature,
        }
    }
}

/// What a permit must satisfy to sponsor a payment.
#[derive(Debug, Clone, Copy)]
pub struct Sponsored {
    /// The payer of the Permit2 permit.
    pub payer: Address,
    /// The required asset.
    pub asset: Address,
    /// The permitted amount; under `upto` the maximum.
    pub permitted: AssetAmount,
}

/// Checks the extension against the payment it sponsors, in the order of PROTOCOL section 7.1, then what the reference
/// leaves to the simulation: the amount and the signature. `asset` is the extension's.
///
/// # Errors
/// The reason of the first check that fails.
pub fn check(
    signed: &SignedPermit,
    asset: Address,
    sponsored: &Sponsored,
    domain: &Domain,
    now: UnixSeconds,
    margin: u64,
) -> Result<(), Reason> {
    let permit = &signed.permit;
    let failures = [
        (permit.owner != sponsored.payer, Reason::Eip2612FromMismatch),
        (asset != sponsored.asset, Reason::Eip2612AssetMismatch),
        (permit.spender != PERMIT2, Reason::Eip2612SpenderNotPermit2),
        (
            permit.deadline < U256::from(now.plus(margin).0),
            Reason::Eip2612DeadlineExpired,
        ),
        (
            permit.value != sponsored.permitted,
            Reason::Permit2612AmountMismatch,
        ),
    ];
    if let Some((_, reason)) = failures.into_iter().find(|(failed, _)| *failed) {
        return Err(reason);
    }
    match recover(permit.digest(domain), &signed.signature) {
        Some(signer) if signer == permit.owner => Ok(()),
        _ => Err(Reason::Eip2612InvalidSignature),
    }
}

/// Calldata that asks the token for an owner's next permit nonce.
pub fn nonces_call(owner: Address) -> Bytes {
    noncesCall { owner }.abi_encode().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign;
    use alloy_primitives::{address, hex, keccak256};
    use teller_domain::{ChainId, known_assets};

    #[test]
    fn the_type_hash_and_the_selector_are_those_of_the_standard() {
        let text =
            "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)";
        assert_eq!(keccak256(text), PERMIT_TYPE);
        assert_eq!(nonces_call(Address::ZERO)[..4], hex!("7ecebe00"));
    }

    #[test]
    fn each_single_fault_has_its_reason() {
        let asset = known_assets(ChainId(84532)).next().unwrap();
        let domain = Domain::new(&asset);
        let mut key = [0; 32];
        key[31] = 1;
        let payer = address!("7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
        let now = UnixSeconds(1_000);
        let sponsored = Sponsored {
            payer,
            asset: asset.address,
            permitted: AssetAmount::from(10_000),
        };
        let good = Permit {
            owner: payer,
            spender: PERMIT2,
            value: sponsored.permitted,
            nonce: U256::from(3),
            deadline: U256::MAX,
        };
        let told = |permit: Permit, asset| {
            let signature = sign(permit.digest(&domain), &key).unwrap();
            let signed = SignedPermit { permit, signature };
            check(&signed, asset, &sponsored, &domain, now, 6)
        };
        assert_eq!(told(good, asset.address), Ok(()));
        assert_eq!(
            told(
                Permit {
                    owner: PERMIT2,
                    ..good
                },
                asset.address
            ),
            Err(Reason::Eip2612FromMismatch)
        );
        assert_eq!(told(good, PERMIT2), Err(Reason::Eip2612AssetMismatch));
        assert_eq!(
            told(
                Permit {
                    spender: payer,
                    ..good
                },
                asset.address
            ),
            Err(Reason::Eip2612SpenderNotPermit2)
        );
        assert_eq!(
            told(
                Permit {
                    deadline: U256::from(1_005),
                    ..good
                },
                asset.address
            ),
            Err(Reason::Eip2612DeadlineExpired)
        );
        assert_eq!(
            told(
                Permit {
                    deadline: U256::from(1_006),
                    ..good
                },
                asset.address
            ),
            Ok(())
        );
        assert_eq!(
            told(
                Permit {
                    value: AssetAmount(U256::MAX),
                    ..good
                },
                asset.address
            ),
            Err(Reason::Permit2612AmountMismatch)
        );
        let signature = sign(good.digest(&domain), &key).unwrap();
        let other = SignedPermit {
            permit: Permit {
                nonce: U256::from(4),
                ..good
            },
            signature,
        };
        assert_eq!(
            check(&other, asset.address, &sponsored, &domain, now, 6),
            Err(Reason::Eip2612InvalidSignature)
        );
    }
}
