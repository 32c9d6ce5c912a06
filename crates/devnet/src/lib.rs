//! A local chain to make real payments on: anvil, with a test dollar at the address of Base Sepolia's USDC,
//! Multicall3, Permit2 and the x402 proxies where every chain has them, other tokens and wallets, payers with
//! dollars and signers with gas. `teller dev`, tests and
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
pub use fund::{fund, fund_token};
