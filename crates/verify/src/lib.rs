//! The one verification pipeline: policy, static checks, signature, chain state and simulation, reservation
//! (DESIGN section 3.1). Cheap checks come first; nothing here sends a transaction.

mod approvals;
mod checks;
mod findings;
mod fresh;
mod hold;
mod meters;
mod network;
mod policy;
mod verifier;

use alloy_primitives::Bytes;
use teller_domain::{PayerSignature, Reason, Refusal};
use teller_schemes::builder_code;
use teller_store::StoreError;

pub use hold::Hold;
pub use network::{VerifyNetwork, margin_seconds};
pub use policy::{EmptyPayments, Policy, TenantPolicy};
pub use verifier::Verifier;

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
    /// The newest block that is known is no ground to judge on.
    #[error("payments on {chain} cannot be checked: {doubt}")]
    Head {
        /// The network.
        chain: teller_domain::ChainId,
        /// What is wrong with it.
        doubt: teller_chain::HeadDoubt,
    },
    /// A store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What to put behind the calldata of a payment whose buyer names an app and services (PROTOCOL section 7.5): with the
/// facilitator's own code. What is no code is left out.
pub fn attribution<'a>(
    own: &str,
    app: Option<&str>,
    services: impl Iterator<Item = &'a str>,
) -> Bytes {
    let own = builder_code::Code::new(own);
    builder_code::BuilderCodes::attribute(app, services, own, None).suffix()
}

/// Whether this text is a builder code: 1 to 32 of `a-z`, `0-9` and `_`.
pub fn is_builder_code(text: &str) -> bool {
    builder_code::Code::new(text).is_some()
}

/// What kind of signature these bytes are (PROTOCOL section 3.4).
///
/// # Errors
/// When no payer can have meant them as one.
pub fn read_signature(bytes: &[u8]) -> Result<PayerSignature, Refusal> {
    teller_schemes::read(bytes)
        .map_err(|error| Refusal::new(Reason::InvalidSignature, error.to_string()))
}
