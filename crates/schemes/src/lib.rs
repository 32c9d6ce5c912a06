//! Payment schemes on EVM chains, one module each: typed data, digest, recovery of the signer, the call that settles
//! a payment, and its outcome read from logs. Pure functions: no I/O, no clock.

pub mod builder_code;
pub mod eip2612;
pub mod eip3009;
pub mod erc1271;
pub mod erc20_approval;
pub mod erc6492;
pub mod erc7710;
mod event;
#[cfg(test)]
mod fuzz;
pub mod multicall;
pub mod nonce_state;
pub mod permit2;
mod settling;
mod signature;

pub use event::{Effect, EventLog, Transfer, effects, transfers};
pub use settling::{Outcome, classify_revert, settling_call, used_by};
pub use signature::{ReadSignatureError, normalize, read, recover, sign};
pub use teller_domain::SignatureError;
