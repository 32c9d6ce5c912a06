//! The x402 wire format, versions 1 and 2: what resource servers send to a facilitator and what they get back.
//!
//! Bytes become typed requests here and nothing else happens: no network is looked up, no signature judged, no policy
//! applied. `teller-api` turns these types into the domain's.

mod discoverable;
pub mod discovery;
mod evm_request;
pub mod extensions;
pub mod field;
mod fields;
#[cfg(test)]
mod fuzz;
mod json;
mod offer;
mod payloads;
mod request;
mod resource;
mod response;

pub use discoverable::{Claim, Discoverable};
pub use evm_request::EvmRequest;
pub use json::{JsonError, MAX_DEPTH};
pub use offer::{Offer, OfferedResource};
pub use payloads::{
    Erc7710Payload, EvmPayload, EvmScheme, MAX_PERMISSION_CONTEXT_BYTES, Permit2Payload, Served,
    WrongKind,
};
pub use request::{
    AssetTransferMethod, Eip3009Payload, Extra, Fault, PaymentRequirements, ReadError, Version,
};
pub use resource::Resource;
pub use response::{
    SettleResponse, SupportedExtra, SupportedKind, SupportedResponse, VerifyResponse,
};
