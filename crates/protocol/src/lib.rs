//! The x402 wire format, versions 1 and 2: what resource servers send to a facilitator and what they get back.
//!
//! Bytes become typed requests here and nothing else happens: no network is looked up, no signature judged, no policy
//! applied. `teller-api` turns these types into the domain's.

pub mod field;
mod json;
mod request;
mod response;

pub use json::{JsonError, MAX_DEPTH};
pub use request::{
    AssetTransferMethod, Eip3009Payload, Extra, Fault, PaymentPayload, PaymentRequirements,
    ReadError, Request, SchemePayload, Version,
};
pub use response::{SettleResponse, SupportedKind, SupportedResponse, VerifyResponse};
