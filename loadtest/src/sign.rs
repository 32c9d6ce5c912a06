//! Payments, made and signed before the clock starts: signing costs the generator more than sending.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, keccak256};
use bytes::Bytes;
use teller_domain::{
    Asset, AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, EcdsaSignature,
    Payment, UnixSeconds, Validity, X402Version,
};
use teller_schemes::eip3009::Domain;

use crate::error::LoadError;
use crate::wire;

/// An authorization outlives any run of the generator.
const VALID_FOR_SECONDS: u64 = 4 * 3600;
/// More would be more memory than a load generator should ask for.
pub const MAX_PAYMENTS: usize = 2_000_000;

/// An account that pays.
#[derive(Clone, Copy)]
pub struct Payer {
    secret: B256,
    pub address: Address,
}

impl Payer {
    /// The account of a private key.
    pub fn from_secret(secret: B256) -> Result<Self, LoadError> {
        // Whoever a signature recovers to is the account: one curve library, the product's own.
        teller_schemes::sign(B256::ZERO, &secret.0)
            .and_then(|signature| teller_schemes::recover(B256::ZERO, &signature))
            .map(|address| Self { secret, address })
            .ok_or_else(|| LoadError::input("key", "is no private key of secp256k1"))
    }

    pub fn sign(&self, digest: B256) -> Result<EcdsaSignature, LoadError> {
        teller_schemes::sign(digest, &self.secret.0)
            .ok_or_else(|| LoadError::input("key", "is no private key of secp256k1"))
    }
}

/// `count` payers whom everybody with the same seed gets too. Public: never put value behind them.
pub fn payers(seed: &str, count: usize) -> Result<Vec<Payer>, LoadError> {
    (0..count)
        .map(|index| Payer::from_secret(keccak256(format!("teller loadtest {seed} payer {index}"))))
        .collect()
}

/// `count` payees whom everybody with the same seed gets too. Nobody has their keys.
pub fn payees(seed: &str, count: usize) -> Vec<Address> {
    (0..count)
        .map(|index| Address::from_word(keccak256(format!("teller loadtest {seed} payee {index}"))))
        .collect()
}

/// What the payments of a run have in common.
#[derive(Clone)]
pub struct Plan {
    pub asset: Arc<Asset>,
    pub version: X402Version,
    pub value: AssetAmount,
    pub payers: Vec<Payer>,
    pub payees: Vec<Address>,
}

/// A payment ready to be sent.
#[derive(Debug, Clone)]
pub struct Signed {
    pub payment: Payment,
    pub asset: Arc<Asset>,
    pub version: X402Version,
    /// The REST body.
    pub body: Bytes,
}

/// Signs `count` payments on all cores, going round payers and payees. Every nonce is random, so every
/// authorization is new to the chain and to the facilitator.
pub async fn ahead(plan: Plan, count: usize) -> Result<Vec<Signed>, LoadError> {
    if plan.payers.is_empty() || plan.payees.is_empty() {
        return Err(LoadError::input("payments", "need a payer and a payee"));
    }
    if count > MAX_PAYMENTS {
        let why = format!("at most {MAX_PAYMENTS} are signed ahead");
        return Err(LoadError::input("count", why));
    }
    tokio::task::spawn_blocking(move || sign_on_all_cores(&plan, count))
        .await
        .map_err(|_| LoadError::Ended("signing"))?
}

fn sign_on_all_cores(plan: &Plan, count: usize) -> Result<Vec<Signed>, LoadError> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let domain = Domain::new(&plan.asset);
    let valid_before = UnixSeconds(unix_seconds()).plus(VALID_FOR_SECONDS);
    let share = count.div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..count)
            .step_by(share)
            .map(|first| {
                let last = first.saturating_add(share).min(count);
                scope.spawn(move || {
                    (first..last)
                        .map(|index| sign_one(plan, domain, index, valid_before))
                        .collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        let mut signed = Vec::with_capacity(count);
        for worker in workers {
            signed.extend(worker.join().map_err(|_| LoadError::Ended("signing"))??);
        }
        Ok(signed)
    })
}

fn sign_one(
    plan: &Plan,
    domain: Domain,
    index: usize,
    valid_before: UnixSeconds,
) -> Result<Signed, LoadError> {
    let none = || LoadError::input("payments", "need a payer and a payee");
    let payer = round(&plan.payers, index).ok_or_else(none)?;
    let payee = round(&plan.payees, index).ok_or_else(none)?;
    let unsigned = EcdsaSignature {
        r: B256::ZERO,
        s: B256::ZERO,
        v: 27,
    };
    let mut payment = Payment {
        key: AuthorizationKey {
            chain: plan.asset.chain,
            authority: plan.asset.address,
            payer: payer.address,
            nonce: AuthorizationNonce(B256::random()),
        },
        asset: plan.asset.address,
        payee: *payee,
        value: plan.value,
        validity: Validity::between(UnixSeconds(0), valid_before),
        authorization: Authorization::Eip3009 {
            signature: unsigned.into(),
        },
    };
    let signature = payer.sign(domain.digest(&payment))?;
    payment.authorization = Authorization::Eip3009 {
        signature: signature.into(),
    };
    let body = wire::body(&payment, &plan.asset, plan.version)
        .ok_or_else(|| LoadError::input("network", "has no name in x402 version 1"))?;
    Ok(Signed {
        payment,
        asset: Arc::clone(&plan.asset),
        version: plan.version,
        body: body.to_string().into(),
    })
}

fn round<T>(items: &[T], index: usize) -> Option<&T> {
    items.get(index.checked_rem(items.len())?)
}

/// The wall clock; load is real, so is its time.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::collections::HashSet;
    use teller_domain::{ChainId, known_assets};

    pub fn plan() -> Plan {
        Plan {
            asset: Arc::new(known_assets(ChainId(84532)).next().unwrap()),
            version: X402Version::V2,
            value: AssetAmount::from(10_000),
            payers: payers("test", 3).unwrap(),
            payees: payees("test", 2),
        }
    }

    pub fn one_signed() -> Signed {
        sign_on_all_cores(&plan(), 1).unwrap().remove(0)
    }

    #[tokio::test]
    async fn every_payment_is_new_and_signed_by_its_payer() {
        let plan = plan();
        let domain = Domain::new(&plan.asset);
        let signed = ahead(plan, 31).await.unwrap();
        let nonces: HashSet<_> = signed.iter().map(|s| s.payment.key.nonce).collect();
        let payers: HashSet<_> = signed.iter().map(|s| s.payment.key.payer).collect();
        assert_eq!((signed.len(), nonces.len(), payers.len()), (31, 31, 3));
        for Signed { payment, .. } in signed {
            let signature = payment.authorization.signature().ecdsa().unwrap();
            let recovered = teller_schemes::recover(domain.digest(&payment), &signature);
            assert_eq!(recovered, Some(payment.key.payer));
        }
    }

    #[test]
    fn a_seed_always_gives_the_same_accounts() {
        let [a, b] = [payers("x", 2), payers("x", 2)].map(|payers| {
            payers.map(|payers| payers.iter().map(|p| p.address).collect::<Vec<_>>())
        });
        assert_eq!(a.unwrap(), b.unwrap());
        assert_ne!(payees("x", 1), payees("y", 1));
    }
}
