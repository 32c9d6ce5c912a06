//! Faults on real parts: real processes, a real chain, real stores, and something going wrong in the middle. Every test
//! ends by comparing the ledger, the chain and what sellers were told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers may fail as loudly as the test itself"
)]

mod boundaries;
mod crash;
mod demoted;
mod fees;
mod lanes;
mod node;
mod reorg;
mod rig;
mod settlers;
mod stores;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod upto;
