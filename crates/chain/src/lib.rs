//! Talking to EVM nodes: endpoints with failover, the head of the chain, coalesced reads and simulations, fees and
//! signers.
//!
//! What a payment is, and what it takes for one to be settled, is decided elsewhere; nothing here touches a store.

mod abilities;
mod accounts;
mod breaker;
mod bundle;
mod endpoint;
mod error;
mod evidence;
mod failover;
mod fees;
#[cfg(test)]
mod fuzz;
mod heads;
mod http;
mod inspect;
mod lens;
mod looks;
mod nodes;
mod pace;
mod receipts;
mod rpc;
mod send;
mod sightings;
mod signer;
mod wire;
mod ws;

pub use accounts::Account;
pub use bundle::BundledCall;
pub use error::{CallError, NodeError};
pub use evidence::MadeCall;
pub use fees::FeePolicy;
pub use heads::{Head, HeadDoubt, HeadEvent, HeadHandle, watch_heads};
pub use inspect::{InspectLimits, Inspector};
pub use lens::{
    AuthorizationState, InspectItem, Inspection, PermitReading, REDEMPTION_GAS, RedemptionReading,
    Simulation, Target,
};
pub use nodes::{NodeConfig, Nodes};
pub use send::{SendOutcome, Sending};
pub use sightings::{BlockCheck, Sighting};
pub use signer::{LocalSigner, SignerError};
pub use wire::{Block, Log, TxReceipt};
