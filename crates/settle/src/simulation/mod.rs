//! The proof of the engine: the real core and the real ledger against a model chain, under every fault that a seed
//! draws, with the invariants of DESIGN section 8 checked at every step.
//!
//! A seed is a world: [`world`] schedules, [`shell`], [`sight`] and [`lanes`] carry effects out boundary by boundary,
//! [`clients`] ask, [`faults`] strike, [`operators`] order, [`checker`], [`evidence`], [`stalls`] and [`reckoning`] judge, and [`network`] drives the [`model`] chain. Everything that happens follows from the seed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod approvals;
mod checker;
mod clients;
mod evidence;
mod faults;
mod lanes;
mod model;
mod network;
mod operators;
mod purse;
mod reckoning;
mod rng;
mod shell;
mod sight;
mod stage;
mod stalls;
mod switches;
mod tests;
mod world;
