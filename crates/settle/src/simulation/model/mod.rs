//! A chain as far as settling payments needs one: accounts, a token with EIP-3009, Multicall3, a fee market, memory
//! pools, sealed blocks, Flashblocks and reorgs. [`anvil`] holds it to account against a real node.
//!
//! It executes the very bytes that the engine signed, decoded with alloy, and emits the logs that the real contracts
//! emit. Not modelled: the EVM itself (a call is known by its calldata, its gas is a sum of named costs), payers'
//! signatures (whoever holds an authorization has its signature), withdrawals and blobs.

mod anvil;
pub mod chain;
pub mod endpoint;

pub mod pool;
pub mod state;
pub mod transaction;
