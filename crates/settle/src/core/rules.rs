//! The safety rules that a test-only build can switch off one at a time, to show that the simulation notices.

/// A rule of the engine without which it loses, doubles or misreports payments under some fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Bytes are durable before they are sent.
    CommitBeforeSend,
    /// A look-up asks for every hash of a slot, not only the newest.
    AllHashes,
    /// A receipt of a Flashblock closes nothing.
    SealedBlocksOnly,
    /// A receipt of a block that the chain has left closes nothing.
    CanonicalBlocksOnly,
    /// A reorg reopens the slots whose blocks it took.
    ReopenOnReorg,
    /// Settled means that the logs show the use and the exact transfer.
    EventsDecide,
    /// Payments leave a slot when it closes, not when it is parked.
    ReleaseOnClose,
    /// Foreign use of a nonce takes two endpoints and two looks.
    TwoWitnesses,
    /// An unknown end of a broadcast is not a failure.
    UnknownIsNotFailed,
    /// Why a payment was not settled is asked of the chain before anything follows from it.
    InvestigateFirst,
    /// A payment enters no slot that it may outlive.
    DeadlineCutoff,
    /// A recovered slot whose payments have all expired becomes a no-op.
    ExpiredBecomesNoOp,
    /// A replacement raises both fees by an eighth.
    OutbidByAnEighth,
    /// A replacement carries the calldata of the first attempt.
    SameCalldata,
    /// What revived bytes settle is written down, though failure was told.
    NoteRevived,
    /// A level is raised for a block that was seen to be canonical, not for its height.
    CheckBeforeRaising,
    /// Whole-batch reverts are sent again in halves, not as they were.
    Bisect,
    /// A slot that nothing is mined in for long is given up for a no-op.
    ParkStalled,
    /// Nonces that a dropped transaction of a stranger leaves unused below a lane are used up by no-ops.
    FillGaps,
    /// What the chain does not guard is signed into one slot and never into another.
    SignedOnce,
    /// A payment that needs its payer's approval waits for it.
    ApprovalFirst,
    /// A slot ends when its nonce is sealed, whatever is still to be found out about its payments.
    UnexplainedLeaves,
    /// That nothing explains a used nonce is read at several blocks before it counts.
    SearchThoroughly,
    /// A lane takes no batch that its signer may not be able to pay.
    FundsFirst,
    /// Committed bytes are sent again whatever nodes say of them.
    SendUnasked,
    /// That a node has not looked everywhere is no evidence that there is nothing.
    SearchedOnly,
    /// A nonce that was used before the ledger had a slot of it freezes nothing.
    UsedBefore,
    /// An idle lane adopts the nonce that the chain has reached.
    AdoptIdle,
}

impl Rule {
    /// Every rule.
    #[cfg(test)]
    pub const ALL: [Self; 28] = [
        Self::CommitBeforeSend,
        Self::AllHashes,
        Self::SealedBlocksOnly,
        Self::CanonicalBlocksOnly,
        Self::ReopenOnReorg,
        Self::EventsDecide,
        Self::ReleaseOnClose,
        Self::TwoWitnesses,
        Self::UnknownIsNotFailed,
        Self::InvestigateFirst,
        Self::DeadlineCutoff,
        Self::ExpiredBecomesNoOp,
        Self::OutbidByAnEighth,
        Self::SameCalldata,
        Self::NoteRevived,
        Self::CheckBeforeRaising,
        Self::Bisect,
        Self::ParkStalled,
        Self::FillGaps,
        Self::SignedOnce,
        Self::ApprovalFirst,
        Self::UnexplainedLeaves,
        Self::SearchThoroughly,
        Self::FundsFirst,
        Self::SendUnasked,
        Self::SearchedOnly,
        Self::UsedBefore,
        Self::AdoptIdle,
    ];
}

/// Which rules hold: all of them, outside tests.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Rules {
    #[cfg(test)]
    off: Option<Rule>,
}

impl Rules {
    #[cfg(not(test))]
    pub(super) fn hold(self, _rule: Rule) -> bool {
        true
    }

    #[cfg(test)]
    pub(super) fn hold(self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    #[cfg(test)]
    pub(super) fn without(rule: Rule) -> Self {
        Self { off: Some(rule) }
    }
}
