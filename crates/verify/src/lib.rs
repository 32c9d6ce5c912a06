//! The one verification pipeline: policy, static checks, signature, chain state and simulation, reservation
//! (DESIGN section 3.1). Cheap checks come first; nothing here sends a transaction.

use alloy_primitives::Address;
use teller_domain::{AuthorizationKey, PaymentDigest, PaymentRequest, Refusal, TenantId};
use teller_store::StoreError;

/// What a check of a payment came to.
#[derive(Debug)]
pub enum Verdict {
    /// Good, and held.
    Valid(Hold),
    /// Not good.
    Invalid(Refusal),
    /// Could not be checked; says nothing about the payment.
    Unknown(CheckError),
}

/// Why a payment could not be checked. Texts hold no secrets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckError {
    /// No node gave a usable answer in time.
    #[error("no node of {chain} gave a usable answer")]
    Node {
        /// The network.
        chain: teller_domain::ChainId,
    },
    /// A store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The holds of a verified payment. Dropped before [`delivered`](Hold::delivered), a hold that this very request was
/// granted is given back: an answer that reached nobody reserves nothing.
#[derive(Debug)]
pub struct Hold {
    payer: Address,
}

impl Hold {
    /// Whose money is held.
    pub fn payer(&self) -> Address {
        self.payer
    }

    /// The answer was handed to the transport: the hold stays.
    pub fn delivered(self) {}
}

/// Verifies payments on all configured networks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Verifier {}

impl Verifier {
    /// Checks a payment and reserves it for a later settle.
    pub async fn verify(&self, _request: &PaymentRequest) -> Verdict {
        Verdict::Unknown(CheckError::Store(StoreError::Recovering))
    }

    /// Checks whatever may have gone stale since verify, or all of it if there was none, and reserves as settling.
    /// The holds of a valid verdict stay; dropping it gives nothing back once [`Hold::delivered`] was called, which the
    /// caller does when the ledger has accepted the payment.
    pub async fn check_for_settle(&self, _request: &PaymentRequest) -> Verdict {
        Verdict::Unknown(CheckError::Store(StoreError::Recovering))
    }

    /// Gives a verified payment's holds back to its tenant; `false` if the tenant had none.
    pub async fn release(
        &self,
        _tenant: &TenantId,
        _key: AuthorizationKey,
        _digest: PaymentDigest,
    ) -> Result<bool, StoreError> {
        Err(StoreError::Recovering)
    }
}
