//! Payment schemes on EVM chains, one module each: typed data, digest, recovery of the signer, the call that settles
//! a payment, and its outcome read from logs. Pure functions: no I/O, no clock.

pub mod eip3009;
mod event;
pub mod multicall;
mod signature;

pub use event::{Effect, EventLog, Transfer, effects};
pub use signature::{SignatureError, normalize, recover, sign};
