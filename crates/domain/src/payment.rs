//! A payment as its buyer signed it.

use std::fmt;

use alloy_primitives::{Address, B256, Keccak256};
use serde::{Deserialize, Serialize};

use crate::{AssetAmount, ChainId, PayerSignature, Permit2, PermitTerms, UnixSeconds};

/// The x402 protocol version that a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum X402Version {
    /// Network names, `maxAmountRequired`.
    V1,
    /// CAIP-2 networks, `amount`.
    V2,
}

impl X402Version {
    /// 1 or 2.
    pub fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The version with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// The payment scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Exactly the required amount, once.
    Exact,
    /// At most the required amount, once; how much is said when it is settled.
    Upto,
}

impl Scheme {
    /// The scheme's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Upto => "upto",
        }
    }
}

/// The 32 random bytes of an authorization (not an [`AccountNonce`](crate::AccountNonce)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuthorizationNonce(pub B256);

/// What can be used once: the key of a reservation, of a ledger row and of a duplicate.
///
/// The authority is the contract whose nonces these are: the token for EIP-3009, Permit2 for Permit2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AuthorizationKey {
    /// The network.
    pub chain: ChainId,
    /// The contract that spends the nonce.
    pub authority: Address,
    /// Whose money it is.
    pub payer: Address,
    /// The authorization's nonce.
    pub nonce: AuthorizationNonce,
}

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

impl EcdsaSignature {
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

/// How the payer authorized the transfer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authorization {
    /// EIP-3009 `transferWithAuthorization`.
    Eip3009 {
        /// The payer's signature over the typed data.
        signature: PayerSignature,
    },
    /// A permit for one of the x402 proxies.
    Permit2(Permit2),
}

impl Authorization {
    /// The payer's signature.
    pub fn signature(&self) -> &PayerSignature {
        match self {
            Self::Eip3009 { signature } => signature,
            Self::Permit2(permit) => &permit.signature,
        }
    }

    fn signature_mut(&mut self) -> &mut PayerSignature {
        match self {
            Self::Eip3009 { signature } => signature,
            Self::Permit2(permit) => &mut permit.signature,
        }
    }
}

/// A payment: everything that was signed, and the signature.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Payment {
    /// Network, authority, payer and nonce.
    pub key: AuthorizationKey,
    /// The token that moves.
    pub asset: Address,
    /// Who receives it.
    pub payee: Address,
    /// How much moves, in atomic units.
    pub value: AssetAmount,
    /// The authorization is void until after this moment.
    pub valid_after: UnixSeconds,
    /// The authorization is void from this moment on.
    pub valid_before: UnixSeconds,
    /// The signature and its kind.
    pub authorization: Authorization,
}

/// Names one payment with its signature, whatever JSON it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaymentDigest(pub B256);

impl Payment {
    /// The scheme that the payer signed for.
    pub fn scheme(&self) -> Scheme {
        match &self.authorization {
            Authorization::Eip3009 { .. } => Scheme::Exact,
            Authorization::Permit2(permit) => permit.terms.scheme(),
        }
    }

    /// How much the payer signed for: what moves, except under `upto`, where that is the most that may.
    pub fn permitted(&self) -> AssetAmount {
        match &self.authorization {
            Authorization::Permit2(Permit2 {
                terms: PermitTerms::Upto { permitted, .. },
                ..
            }) => *permitted,
            Authorization::Eip3009 { .. } | Authorization::Permit2(_) => self.value,
        }
    }

    /// The one account that may send the call that settles it; `None` if anybody may.
    pub fn facilitator(&self) -> Option<Address> {
        match &self.authorization {
            Authorization::Permit2(Permit2 {
                terms: PermitTerms::Upto { facilitator, .. },
                ..
            }) => Some(*facilitator),
            Authorization::Eip3009 { .. } | Authorization::Permit2(_) => None,
        }
    }

    /// Whether it may share a transaction with others: not if a contract judges the signature, which could burn the gas
    /// of all, nor if the call must come from the facilitator itself.
    pub fn travels_alone(&self) -> bool {
        self.authorization.signature().is_for_code() || self.facilitator().is_some()
    }

    /// Whether nothing is charged: then it is settled without a transaction (PROTOCOL section 4).
    pub fn charges_nothing(&self) -> bool {
        self.value == AssetAmount::ZERO && self.scheme() == Scheme::Upto
    }

    /// The payer has code: it judges the signature, whatever that looks like.
    pub fn judged_by_code(&mut self) {
        let signature = self.authorization.signature_mut();
        *signature = signature.judged_by_code();
    }

    /// Keccak-256 over the signed fields, the signature, the network and the asset. What has no fixed width has its
    /// length before it, and every kind of authorization has a tag of its own.
    pub fn digest(&self) -> PaymentDigest {
        let mut hasher = Keccak256::new();
        hasher.update(self.key.chain.0.to_be_bytes());
        hasher.update(self.key.authority);
        hasher.update(self.key.payer);
        hasher.update(self.key.nonce.0);
        hasher.update(self.asset);
        hasher.update(self.payee);
        hasher.update(self.permitted().0.to_be_bytes::<32>());
        hasher.update(self.valid_after.0.to_be_bytes());
        hasher.update(self.valid_before.0.to_be_bytes());
        let form = u8::from(!self.authorization.signature().is_standard());
        match &self.authorization {
            Authorization::Eip3009 { signature } => {
                hasher.update([1 + form]);
                signature.hash_into(&mut hasher);
            }
            Authorization::Permit2(permit) => {
                match permit.terms {
                    PermitTerms::Exact => hasher.update([0x20 + form]),
                    PermitTerms::Upto { facilitator, .. } => {
                        hasher.update([0x30 + form]);
                        hasher.update(facilitator);
                    }
                }
                permit.signature.hash_into(&mut hasher);
                if let Some(allowance) = &permit.allowance {
                    hasher.update(allowance.to_bytes());
                }
            }
        }
        PaymentDigest(hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn payment(authorization: Authorization) -> Payment {
        Payment {
            key: AuthorizationKey {
                chain: ChainId(1),
                authority: Address::repeat_byte(1),
                payer: Address::repeat_byte(2),
                nonce: AuthorizationNonce(B256::repeat_byte(3)),
            },
            asset: Address::repeat_byte(4),
            payee: Address::repeat_byte(5),
            value: AssetAmount::from(6),
            valid_after: UnixSeconds(7),
            valid_before: UnixSeconds(8),
            authorization,
        }
    }

    fn permit2(terms: PermitTerms, signature: PayerSignature) -> Payment {
        payment(Authorization::Permit2(Permit2 {
            terms,
            signature,
            allowance: None,
        }))
    }

    #[test]
    fn each_way_of_signing_has_a_digest_of_its_own() {
        let ecdsa = EcdsaSignature {
            r: B256::repeat_byte(9),
            s: B256::repeat_byte(10),
            v: 27,
        };
        let upto = |facilitator: u8, permitted: u64| PermitTerms::Upto {
            facilitator: Address::repeat_byte(facilitator),
            permitted: AssetAmount::from(permitted),
        };
        let eip3009 = |signature| payment(Authorization::Eip3009 { signature });
        let contract = |bytes: &[u8]| PayerSignature::Contract(bytes.to_vec().into());
        let mut with_allowance = permit2(PermitTerms::Exact, ecdsa.into());
        if let Authorization::Permit2(permit) = &mut with_allowance.authorization {
            permit.allowance = crate::TokenPermit::of_checked(
                Address::ZERO,
                Address::ZERO,
                AssetAmount::ZERO,
                &[1; crate::TokenPermit::BYTES],
            )
            .map(Box::new);
        }
        let payments = [
            eip3009(ecdsa.into()),
            eip3009(contract(&[1])),
            eip3009(contract(&[1, 2])),
            eip3009(contract(&[])),
            eip3009(contract(&[1; 65])),
            permit2(PermitTerms::Exact, ecdsa.into()),
            permit2(PermitTerms::Exact, contract(&[1])),
            permit2(upto(1, 6), ecdsa.into()),
            permit2(upto(2, 6), ecdsa.into()),
            permit2(upto(1, 7), ecdsa.into()),
            with_allowance,
        ];
        let digests: std::collections::HashSet<_> = payments.iter().map(Payment::digest).collect();
        assert_eq!(digests.len(), payments.len());
    }

    #[test]
    fn the_digest_says_neither_who_judges_nor_how_much_of_upto_moves() {
        let ecdsa = EcdsaSignature {
            r: B256::repeat_byte(9),
            s: B256::repeat_byte(10),
            v: 27,
        };
        let mut paid = payment(Authorization::Eip3009 {
            signature: ecdsa.into(),
        });
        let before = paid.digest();
        assert!(!paid.travels_alone());
        paid.judged_by_code();
        assert!(paid.travels_alone());
        assert_eq!(paid.digest(), before);
        let signature = PayerSignature::Counterfactual {
            factory: Address::repeat_byte(1),
            factory_calldata: vec![7].into(),
            signature: vec![1; 100].into(),
        };
        let mut paid = payment(Authorization::Eip3009 { signature });
        let before = paid.digest();
        paid.judged_by_code();
        assert_eq!(paid.digest(), before);
        let terms = PermitTerms::Upto {
            facilitator: Address::repeat_byte(1),
            permitted: AssetAmount::from(9),
        };
        let more = permit2(terms, ecdsa.into());
        let less = Payment {
            value: AssetAmount::ZERO,
            ..more.clone()
        };
        assert_eq!(more.digest(), less.digest());
        assert_eq!(less.permitted(), AssetAmount::from(9));
    }
}
