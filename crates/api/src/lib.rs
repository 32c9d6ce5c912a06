//! The doors of teller: REST and gRPC over one service, and the translation between x402's wire format and the domain.
//!
//! What lives here: parsing, authentication, limits, the table from outcomes to statuses, delivery tracking. What must
//! not: any judgement of a payment (that is `teller-verify`) and any settlement logic (that is `teller-settle`).

mod answer;
mod api;
mod auth;
mod connection;
mod delivery;
mod discovery;
mod grpc;
mod health;
mod identifier;
mod inflight;
mod limits;
mod meters;
pub mod proto;
mod readiness;
mod receipts;
mod rest;
mod serve;
mod service;
mod view;
mod wire;

pub use api::{Api, ApiConfig, Supported, SupportedDelegations, SupportedNetwork};
pub use auth::{ApiKey, Auth};
pub use health::Health;
pub use limits::TenantLimits;
pub use readiness::Readiness;
pub use receipts::ReceiptSigner;
pub use serve::{ServeLimits, serve_grpc, serve_rest};
