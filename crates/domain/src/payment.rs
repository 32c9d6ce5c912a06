//! A payment as its buyer signed it.
//!
//! A long file for its tests, which pin the digest of each way of signing.

use alloy_primitives::{Address, B256, Keccak256, U256, U512};
use serde::{Deserialize, Serialize};

use crate::{
    Allowance, AssetAmount, ChainId, Delegation, PayerSignature, Permit2, PermitTerms,
    TokenApproval, TokenPermit, UnixSeconds, Validity,
};

/// Length of a plain account's signature.
const ECDSA_BYTES: usize = 65;

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
/// The authority is the contract whose nonces these are: the token for EIP-3009, Permit2 for Permit2, the manager for a
/// delegation, which has the hash of its permission context for a nonce.
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

/// How the payer authorized the transfer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authorization {
    /// EIP-3009 `transferWithAuthorization`.
    Eip3009 {
        /// The payer's signature over the typed data.
        signature: PayerSignature,
    },
    /// A permit for one of the x402 proxies.
    Permit2(Box<Permit2>),
    /// A delegation for its manager to redeem.
    Erc7710(Box<Delegation>),
}

impl Authorization {
    /// The payer's signature; of a delegation what it has of signatures, its permission context.
    pub fn signature(&self) -> &PayerSignature {
        match self {
            Self::Eip3009 { signature } => signature,
            Self::Permit2(permit) => &permit.signature,
            Self::Erc7710(delegation) => delegation.as_signature(),
        }
    }

    fn signature_mut(&mut self) -> Option<&mut PayerSignature> {
        match self {
            Self::Eip3009 { signature } => Some(signature),
            Self::Permit2(permit) => Some(&mut permit.signature),
            // Code judges it anyway.
            Self::Erc7710(_) => None,
        }
    }

    /// The inverse of [`Payment::void_from`]; `None` if no payment that was authorized so is void from there.
    pub fn validity(&self, valid_after: U256, void_from: U512) -> Option<Validity> {
        let end = void_from.checked_sub(U512::from(self.grace()))?;
        Some(Validity::signed(
            valid_after,
            U256::checked_from_limbs_slice(end.as_limbs())?,
        ))
    }

    /// Permit2 takes a permit in its deadline's second, too.
    fn grace(&self) -> u64 {
        match self {
            Self::Eip3009 { .. } | Self::Erc7710(_) => 0,
            Self::Permit2(_) => 1,
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
    /// When the authorization is valid, in the numbers that were signed.
    pub validity: Validity,
    /// The signature and its kind.
    pub authorization: Authorization,
}

/// Names one payment with its signature, whatever JSON it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaymentDigest(pub B256);

impl Payment {
    /// The authorization is void until after this moment; the clock's last stands for all behind it.
    pub fn valid_after(&self) -> UnixSeconds {
        self.validity.valid_after_on_clock()
    }

    /// The authorization is void from this moment on; the clock's last stands for all behind it.
    pub fn valid_before(&self) -> UnixSeconds {
        self.validity
            .end_on_clock()
            .plus(self.authorization.grace())
    }

    /// The same to the second, as ledgers and sellers know it. Behind the highest deadline lies a number of 257 bits.
    pub fn void_from(&self) -> U512 {
        U512::from(self.validity.end()) + U512::from(self.authorization.grace())
    }

    /// The scheme that the payer signed for.
    pub fn scheme(&self) -> Scheme {
        self.terms().map_or(Scheme::Exact, PermitTerms::scheme)
    }

    fn terms(&self) -> Option<PermitTerms> {
        match &self.authorization {
            Authorization::Eip3009 { .. } | Authorization::Erc7710(_) => None,
            Authorization::Permit2(permit) => Some(permit.terms),
        }
    }

    /// How much the payer signed for: what moves, except under `upto`, where that is the most that may.
    pub fn permitted(&self) -> AssetAmount {
        match self.terms() {
            Some(PermitTerms::Upto { permitted, .. }) => permitted,
            Some(PermitTerms::Exact) | None => self.value,
        }
    }

    /// The one account that may send the call that settles it; `None` if anybody may.
    pub fn facilitator(&self) -> Option<Address> {
        if let Authorization::Erc7710(delegation) = &self.authorization {
            return Some(delegation.delegate);
        }
        match self.terms() {
            Some(PermitTerms::Upto { facilitator, .. }) => Some(facilitator),
            Some(PermitTerms::Exact) | None => None,
        }
    }

    /// Whether it may share a transaction with others: not if a contract judges the signature, which could burn the gas
    /// of all, nor if the call must come from the facilitator itself.
    pub fn travels_alone(&self) -> bool {
        self.authorization.signature().is_for_code() || self.facilitator().is_some()
    }

    /// Whether the chain itself lets it pay once only. What it does not guard is signed into one slot and never into
    /// another, and nobody can be asked who else has made use of it.
    pub fn is_guarded_on_chain(&self) -> bool {
        match self.authorization {
            Authorization::Eip3009 { .. } | Authorization::Permit2(_) => true,
            Authorization::Erc7710(_) => false,
        }
    }

    /// The payer's signed approval that must be mined before the payment can be settled, unless Permit2 may move enough
    /// already.
    pub fn token_approval(&self) -> Option<&TokenApproval> {
        match &self.authorization {
            Authorization::Permit2(permit) => permit.token_approval(),
            Authorization::Eip3009 { .. } | Authorization::Erc7710(_) => None,
        }
    }

    /// Whether nothing is charged: then it is settled without a transaction (PROTOCOL section 4).
    pub fn charges_nothing(&self) -> bool {
        self.value == AssetAmount::ZERO && self.scheme() == Scheme::Upto
    }

    /// The payer has code: it judges the signature, whatever that looks like.
    pub fn judged_by_code(&mut self) {
        if let Some(signature) = self.authorization.signature_mut() {
            *signature = signature.judged_by_code();
        }
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
        hash_moment(&mut hasher, self.valid_after(), self.validity.valid_after());
        hash_moment(&mut hasher, self.valid_before(), self.validity.end());
        let signature = self.authorization.signature().identity();
        let form = u8::from(signature.len() != ECDSA_BYTES);
        match &self.authorization {
            Authorization::Eip3009 { .. } => {
                hasher.update([1 + form]);
                hash_signature(&mut hasher, &signature);
            }
            Authorization::Permit2(permit) => {
                match permit.terms {
                    PermitTerms::Exact => hasher.update([0x20 + form]),
                    PermitTerms::Upto { facilitator, .. } => {
                        hasher.update([0x30 + form]);
                        hasher.update(facilitator);
                    }
                }
                hash_signature(&mut hasher, &signature);
                match permit.allowance.as_deref() {
                    None => {}
                    Some(Allowance::Permit(permit)) => hasher.update(permit.to_bytes()),
                    Some(Allowance::Approval(approval)) => {
                        // Longer than any permit, so that none is taken for the other.
                        hasher.update([0; TokenPermit::BYTES]);
                        hash_signature(&mut hasher, &approval.transaction);
                    }
                }
            }
            // The delegate is teller's choice and no part of what came.
            Authorization::Erc7710(_) => {
                hasher.update([0x40 + form]);
                hash_signature(&mut hasher, &signature);
            }
        }
        PaymentDigest(hasher.finalize())
    }
}

/// A moment on a clock; its last, which stands for many, with the number that was signed.
fn hash_moment(hasher: &mut Keccak256, moment: UnixSeconds, signed: U256) {
    hasher.update(moment.0.to_be_bytes());
    if moment == UnixSeconds(u64::MAX) {
        hasher.update(signed.to_be_bytes::<32>());
    }
}

fn hash_signature(hasher: &mut Keccak256, bytes: &[u8]) {
    if bytes.len() != ECDSA_BYTES {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        hasher.update(length.to_be_bytes());
    }
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counterfactual, EcdsaSignature, SignatureForm};

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
            validity: Validity::between(UnixSeconds(7), UnixSeconds(8)),
            authorization,
        }
    }

    fn permit2(terms: PermitTerms, signature: PayerSignature) -> Payment {
        payment(Authorization::Permit2(Box::new(Permit2 {
            terms,
            signature,
            allowance: None,
        })))
    }

    fn delegated(context: &[u8], delegate: u8) -> Payment {
        let delegate = Address::repeat_byte(delegate);
        let delegation = Delegation::new(context.to_vec().into(), delegate).unwrap();
        payment(Authorization::Erc7710(delegation.into()))
    }

    #[test]
    fn a_delegation_travels_alone_from_its_delegate_who_is_no_part_of_its_digest() {
        let mut paid = delegated(&[1, 2, 3], 7);
        assert!(paid.travels_alone() && !paid.is_guarded_on_chain());
        assert_eq!(paid.facilitator(), Some(Address::repeat_byte(7)));
        assert_eq!(paid.digest(), delegated(&[1, 2, 3], 8).digest());
        assert_ne!(paid.digest(), delegated(&[1, 2, 4], 7).digest());
        let before = paid.clone();
        paid.judged_by_code();
        assert_eq!(paid, before);
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
            let bytes = [1; TokenPermit::BYTES];
            let (zero, nothing) = (Address::ZERO, AssetAmount::ZERO);
            let allowance = TokenPermit::of_checked(zero, zero, nothing, &bytes);
            permit.allowance = allowance.map(Allowance::Permit).map(Box::new);
        }
        let approved = |transaction: &[u8]| {
            let mut approved = permit2(PermitTerms::Exact, ecdsa.into());
            if let Authorization::Permit2(permit) = &mut approved.authorization {
                let transaction = transaction.to_vec().into();
                let approval = TokenApproval::of_checked(Address::ZERO, Address::ZERO, transaction);
                permit.allowance = Some(Box::new(Allowance::Approval(approval)));
            }
            approved
        };
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
            approved(&[]),
            approved(&[1]),
            approved(&[1; TokenPermit::BYTES]),
            delegated(&[1], 1),
            delegated(&[1; 65], 1),
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
        let signature = PayerSignature::from(Counterfactual {
            factory: Address::repeat_byte(1),
            factory_calldata: vec![7].into(),
            signature: vec![1; 100].into(),
        });
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

    #[test]
    fn a_plain_payment_is_small() {
        // Thousands are held in flight: what only contract wallets, Permit2 and far times need is boxed.
        assert!(size_of::<Payment>() <= 240, "{}", size_of::<Payment>());
    }

    #[test]
    fn times_of_256_bits_are_told_apart_and_those_of_a_clock_hash_as_ever() {
        let ecdsa = EcdsaSignature {
            r: B256::repeat_byte(9),
            s: B256::repeat_byte(10),
            v: 27,
        };
        let of = |valid_after, end| Payment {
            validity: Validity::signed(valid_after, end),
            ..permit2(PermitTerms::Exact, ecdsa.into())
        };
        let (clock, one) = (U256::from(u64::MAX), U256::ONE);
        let moments = [
            U256::ZERO,
            clock - one,
            clock,
            clock + one,
            U256::MAX - one,
            U256::MAX,
        ];
        let mut digests = std::collections::HashSet::new();
        for valid_after in moments {
            for end in moments {
                let payment = of(valid_after, end);
                assert!(digests.insert(payment.digest()));
                let authorization = &payment.authorization;
                let read = authorization.validity(valid_after, payment.void_from());
                assert_eq!(read, Some(payment.validity.clone()));
            }
        }
        let forever = of(U256::ZERO, U256::MAX);
        assert_eq!(forever.valid_before(), UnixSeconds(u64::MAX));
        assert_eq!(forever.void_from(), U512::from(U256::MAX) + U512::ONE);
        assert_eq!(forever.authorization.validity(U256::ZERO, U512::ZERO), None);
        assert_eq!(forever.authorization.validity(U256::ZERO, U512::MAX), None);
        // As reservations and ledgers of earlier versions have them.
        let hashed = [
            &1_u64.to_be_bytes()[..],
            &[1; 20],
            &[2; 20],
            &[3; 32],
            &[4; 20],
            &[5; 20],
            &U256::from(6).to_be_bytes::<32>(),
            &7_u64.to_be_bytes(),
            &9_u64.to_be_bytes(),
            &[0x20],
            &ecdsa.to_bytes(),
        ];
        let near = of(U256::from(7), U256::from(8));
        assert_eq!(near.void_from(), U512::from(9));
        assert_eq!(
            near.digest().0,
            alloy_primitives::keccak256(hashed.concat())
        );
    }

    #[test]
    fn a_contract_is_asked_about_what_was_sent_and_the_digest_knows_no_form() {
        let signature = EcdsaSignature {
            r: B256::repeat_byte(9),
            s: B256::repeat_byte(10),
            v: 28,
        };
        let sent = |form| {
            let signature = PayerSignature::Ecdsa { signature, form };
            payment(Authorization::Eip3009 { signature })
        };
        let digest = sent(SignatureForm::Standard).digest();
        for form in [
            SignatureForm::Standard,
            SignatureForm::Parity,
            SignatureForm::Compact,
        ] {
            let mut payment = sent(form);
            assert_eq!(
                payment.authorization.signature().to_bytes()[..],
                signature.to_bytes()
            );
            assert_eq!(payment.digest(), digest);
            payment.judged_by_code();
            assert_eq!(
                payment.authorization.signature().to_bytes(),
                signature.in_form(form)
            );
            assert_eq!(payment.digest(), digest);
        }
    }
}
