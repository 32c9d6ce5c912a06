//! The settlement engine: accept, batch, slot, broadcast, watch, resolve, recover (DESIGN section 4).
//!
//! [`core`] decides, as a deterministic state machine; the shell ([`Engine`]) carries out what it decides; the handle
//! ([`Settler`]) is what the API talks to.

mod admission;
mod approvals;
mod chores;
pub mod core;
mod delivery;
mod effects;
mod engine;
mod feed;
mod handle;
mod investigate;
mod permits;
mod recover;
mod report;
mod share;
mod sight;
#[cfg(test)]
mod simulation;
mod waiters;

pub use admission::{Admission, AdmissionParts, Closed};
pub use delivery::Delivery;
pub use engine::{Engine, EngineError, EngineStatus, Intake, NetworkParts, Timings};
pub use handle::{Known, SettleAnswer, Settler, Ticket};
