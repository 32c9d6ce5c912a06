//! A local chain to make real payments on: anvil, with a test dollar at the address of Base Sepolia's USDC,
//! Multicall3 where every chain has it, payers with dollars and signers with gas. `teller dev`, tests and
//! the load generator use it. Nothing here knows about facilitators, and nothing here is for production:
//! every key is public, and everybody may mint.

pub mod contracts;
mod devnet;
mod error;
mod fees;
mod fund;
pub mod keys;
mod node;
mod rpc;
mod setup;

pub use devnet::{Asset, Devnet, DevnetConfig, DevnetInfo, Mining};
pub use error::DevnetError;
pub use fund::fund;
