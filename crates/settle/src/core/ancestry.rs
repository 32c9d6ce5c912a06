//! The last headers of the chain: which blocks are sealed and canonical, as far as the core has followed it.

use std::collections::VecDeque;

use teller_domain::BlockRef;

/// Headers that are kept. A reorg that goes deeper is found by asking the chain.
const KEPT: usize = 256;

/// Where a block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is one of the kept headers.
    Sealed,
    /// Another block is at its height.
    Orphaned,
    /// It is above the newest header.
    Ahead,
    /// It is below the oldest one.
    Older,
}

/// Contiguous headers, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ancestry(VecDeque<BlockRef>);

impl Ancestry {
    /// Takes in the next header. One that leaves a gap makes what came before it older than what is known; one at a
    /// height that is known replaces that height and all above it.
    pub(super) fn push(&mut self, block: BlockRef) {
        self.cut(block.number);
        if self
            .0
            .back()
            .is_some_and(|newest| newest.number + 1 != block.number)
        {
            self.0.clear();
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(block);
    }

    /// Forgets everything from this height on.
    pub(super) fn cut(&mut self, from: u64) {
        while self.0.back().is_some_and(|newest| newest.number >= from) {
            self.0.pop_back();
        }
    }

    pub(super) fn newest(&self) -> Option<BlockRef> {
        self.0.back().copied()
    }

    pub(super) fn oldest(&self) -> Option<BlockRef> {
        self.0.front().copied()
    }

    pub(super) fn standing(&self, block: BlockRef) -> Standing {
        let (Some(oldest), Some(newest)) = (self.oldest(), self.newest()) else {
            return Standing::Ahead;
        };
        if block.number > newest.number {
            return Standing::Ahead;
        }
        let Some(depth) = block.number.checked_sub(oldest.number) else {
            return Standing::Older;
        };
        let kept = usize::try_from(depth)
            .ok()
            .and_then(|depth| self.0.get(depth));
        match kept {
            Some(kept) if kept.hash == block.hash => Standing::Sealed,
            Some(_) | None => Standing::Orphaned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;

    fn block(number: u64, branch: u8) -> BlockRef {
        BlockRef {
            number,
            hash: B256::with_last_byte(branch),
        }
    }

    #[test]
    fn a_block_stands_where_the_kept_headers_say() {
        let mut ancestry = Ancestry::default();
        assert_eq!(ancestry.standing(block(5, 1)), Standing::Ahead);
        (5..400).for_each(|number| ancestry.push(block(number, 1)));
        assert_eq!(ancestry.standing(block(399, 1)), Standing::Sealed);
        assert_eq!(ancestry.standing(block(144, 1)), Standing::Sealed);
        assert_eq!(ancestry.standing(block(143, 1)), Standing::Older);
        assert_eq!(ancestry.standing(block(399, 2)), Standing::Orphaned);
        assert_eq!(ancestry.standing(block(400, 1)), Standing::Ahead);
    }

    #[test]
    fn a_cut_leaves_what_is_below_and_a_gap_leaves_nothing() {
        let mut ancestry = Ancestry::default();
        (5..10).for_each(|number| ancestry.push(block(number, 1)));
        ancestry.cut(8);
        assert_eq!(ancestry.standing(block(7, 1)), Standing::Sealed);
        assert_eq!(ancestry.standing(block(8, 1)), Standing::Ahead);
        ancestry.push(block(7, 2));
        assert_eq!(ancestry.standing(block(7, 1)), Standing::Orphaned);
        ancestry.push(block(20, 1));
        assert_eq!(ancestry.standing(block(7, 2)), Standing::Older);
    }
}
