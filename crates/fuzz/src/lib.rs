//! Fuzzing of whatever reads bytes from outside, with the stable toolchain and nothing else. A target is a plain
//! function with properties that hold for all bytes; it stands in the tests of the crate that it is about.
//!
//! `cargo test` runs each target for a fixed number of executions from the inputs in `corpus/` and says how many they
//! were. The same seed makes the same inputs. `make fuzz` builds everything with coverage counters (SanitizerCoverage,
//! which is part of LLVM) and keeps what reaches something new. A case that once failed is a file in `corpus/` like all
//! others. For tests only.
//!
//! - `TELLER_FUZZ_SEED`: the seed, 1 unless told
//! - `TELLER_FUZZ_SECONDS`: how long for each target, instead of its number of executions
//! - `TELLER_FUZZ_INPUT`: a file with the one input to run

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers may fail as loudly as the test itself"
)]

mod bytes;
mod chance;
mod corpus;
mod coverage;
mod failure;
mod json;
mod run;
mod words;

pub use chance::Chance;
pub use run::Fuzz;

/// What inputs look like, which says how they are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Bytes without a form that matters.
    Bytes,
    /// JSON text: its values and members are changed, left out, doubled and exchanged.
    Json,
    /// ABI encoding: its words are changed, left out, doubled and exchanged. Before the first stand this many bytes.
    Words(usize),
}

impl Shape {
    /// Changes `input` a little, now and then without regard to its form. `other` is an input to take parts from.
    fn mutate(self, input: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
        match self {
            Self::Json if !chance.one_in(8) => json::mutate(input, other, chance),
            Self::Words(prefix) if !chance.one_in(4) => words::mutate(input, prefix, chance),
            Self::Bytes | Self::Json | Self::Words(_) => bytes::mutate(input, other, chance),
        }
    }
}
