//! What a payment is, in teller's own words: networks, assets, amounts, authorizations, refusals and
//! settlement states, and the invariants that hold between them.
//!
//! No I/O, no async, no wire formats: x402 JSON is parsed in `teller-api`, chain encodings live in
//! `teller-schemes`.

mod amount;
mod asset;
mod delegation;
mod ecdsa;
#[cfg(test)]
mod fuzz;
mod identity;
pub mod invariants;
pub mod known;
mod network;
mod payer_signature;
mod payment;
mod permit2;
mod reason;
mod request;
mod settlement;
mod signed_receipt;
mod slot;
mod token_approval;
mod validity;

pub use amount::{AccountNonce, AmountError, AssetAmount, UnixMillis, UnixSeconds, Wei};
pub use asset::{Asset, KnownAsset, known_assets};
pub use delegation::{ContextTooLong, Delegation};
pub use ecdsa::{EcdsaSignature, SignatureError, SignatureForm};
pub use identity::{
    IdempotencyKey, IdempotencyKeyError, ProcessId, RequestId, SettlementId, TenantId,
};
pub use network::{ChainId, ChainIdError, KnownNetwork, known_network, v1_chain, v1_name};
pub use payer_signature::{Counterfactual, PayerSignature};
pub use payment::{
    Authorization, AuthorizationKey, AuthorizationNonce, Payment, PaymentDigest, Scheme,
    X402Version,
};
pub use permit2::{Allowance, EXACT_PROXY, PERMIT2, Permit2, PermitTerms, TokenPermit, UPTO_PROXY};
pub use reason::{Reason, Refusal, UnknownReason};
pub use request::{Eip712Name, PaymentRequest};
pub use settlement::{
    BlockRef, Compensation, CompensationKind, Level, ParseStateError, Receipt, Resolution,
    Settlement, SettlementState, SettlementStateKind, Told,
};
pub use signed_receipt::{SettlementReceipt, SignedReceipt, SignedReceiptError};
pub use slot::{
    Attempt, AttemptKind, Fees, FencedLane, LaneMode, Slot, SlotEnd, SlotId, SlotState,
};
pub use token_approval::{TokenApproval, TopUpPolicy};
pub use validity::Validity;
