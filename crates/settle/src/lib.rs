//! The settlement engine: accept, batch, slot, broadcast, watch, resolve, recover (DESIGN section 4).
//!
//! [`core`] decides, as a deterministic state machine; the shell ([`Engine`]) carries out what it decides; the handle
//! ([`Settler`]) is what the API talks to.

pub mod core;
mod effects;
mod engine;
mod handle;
mod investigate;
mod recover;
mod report;
mod waiters;

pub use engine::{Engine, EngineError, EngineStatus, NetworkParts, Timings};
pub use handle::{Delivery, Known, SettleAnswer, Settler, Ticket};
