//! What can be switched off to show that the simulation notices: the core's rules, and those that hold outside of it.

use crate::core::Rule;

/// A rule that one seed is run without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// A rule of the core.
    Core(Rule),
    /// The ledger takes no write under an old epoch: without it, it takes all.
    EpochFence,
    /// A success is told by the one request that has claimed its delivery: without it, by each.
    ClaimBeforeTelling,
    /// That nothing explains a used nonce takes two nodes: without it, one.
    SearchTwice,
    /// The ledger remembers to whom gas was given: without it, it forgets.
    GivenOnce,
    /// A hash is told once its bytes were handed to a node: without it, once they are signed.
    HandedOverFirst,
}

impl Switch {
    pub fn all() -> impl Iterator<Item = Self> {
        let outside = [
            Self::EpochFence,
            Self::ClaimBeforeTelling,
            Self::SearchTwice,
            Self::GivenOnce,
            Self::HandedOverFirst,
        ];
        Rule::ALL.into_iter().map(Self::Core).chain(outside)
    }

    pub fn name(self) -> String {
        match self {
            Self::Core(rule) => format!("{rule:?}"),
            outside => format!("{outside:?}"),
        }
    }

    pub fn named(name: &str) -> Self {
        let found = Self::all().find(|switch| switch.name() == name);
        found.expect("the name of a rule")
    }
}
