//! The proof of the engine: the real core and the real ledger against a model chain, under every fault that a seed
//! draws, with the invariants of DESIGN section 8 checked at every step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod model;
mod rng;
