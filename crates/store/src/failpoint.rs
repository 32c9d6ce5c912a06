//! Places where a test can end the process: before and after everything that the engine writes or sends. A build without
//! the feature `failpoints` has none of it, and no operator's build has the feature: only this workspace's tests turn it
//! on, as a development dependency of the binary.

/// The boundaries, by the names that `TELLER_FAIL_POINT` uses: `before_open_slot:2` ends the process when it is about to
/// open its second slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after the call that it stands before or after")]
pub enum FailPoint {
    BeforeAccept,
    AfterAccept,
    BeforeOpenSlot,
    AfterOpenSlot,
    BeforeAddAttempt,
    AfterAddAttempt,
    BeforeSend,
    AfterSend,
    BeforeCloseSlot,
    AfterCloseSlot,
    BeforeReopenSlots,
    AfterReopenSlots,
    BeforeClaimDelivery,
    AfterClaimDelivery,
    BeforeConfirmDelivery,
    AfterConfirmDelivery,
    BeforeReserve,
    AfterReserve,
    BeforeResolveHolds,
    AfterResolveHolds,
}

impl FailPoint {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 20] = [
        (Self::BeforeAccept, "before_accept"),
        (Self::AfterAccept, "after_accept"),
        (Self::BeforeOpenSlot, "before_open_slot"),
        (Self::AfterOpenSlot, "after_open_slot"),
        (Self::BeforeAddAttempt, "before_add_attempt"),
        (Self::AfterAddAttempt, "after_add_attempt"),
        (Self::BeforeSend, "before_send"),
        (Self::AfterSend, "after_send"),
        (Self::BeforeCloseSlot, "before_close_slot"),
        (Self::AfterCloseSlot, "after_close_slot"),
        (Self::BeforeReopenSlots, "before_reopen_slots"),
        (Self::AfterReopenSlots, "after_reopen_slots"),
        (Self::BeforeClaimDelivery, "before_claim_delivery"),
        (Self::AfterClaimDelivery, "after_claim_delivery"),
        (Self::BeforeConfirmDelivery, "before_confirm_delivery"),
        (Self::AfterConfirmDelivery, "after_confirm_delivery"),
        (Self::BeforeReserve, "before_reserve"),
        (Self::AfterReserve, "after_reserve"),
        (Self::BeforeResolveHolds, "before_resolve_holds"),
        (Self::AfterResolveHolds, "after_resolve_holds"),
    ];

    /// Ends the process, if a test wants it to end here and now: no destructor runs and nothing is flushed.
    #[inline]
    pub fn reach(self) {
        #[cfg(feature = "failpoints")]
        armed::reach(self);
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::FailPoint;

    const VARIABLE: &str = "TELLER_FAIL_POINT";

    static ARMED: OnceLock<Option<(FailPoint, u32)>> = OnceLock::new();
    static REACHED: AtomicU32 = AtomicU32::new(0);

    pub(super) fn reach(point: FailPoint) {
        let Some((armed, nth)) = *ARMED.get_or_init(|| parse(&std::env::var(VARIABLE).ok()?)) else {
            return;
        };
        if armed == point && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            std::process::abort();
        }
    }

    fn parse(text: &str) -> Option<(FailPoint, u32)> {
        let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
        let (point, _) = FailPoint::ALL.into_iter().find(|(_, known)| *known == name)?;
        Some((point, nth.parse().ok()?))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_is_named_with_the_time_it_is_reached() {
            let open = FailPoint::BeforeOpenSlot;
            assert_eq!(parse("before_open_slot:2"), Some((open, 2)));
            assert_eq!(parse("before_open_slot"), Some((open, 1)));
            assert_eq!(parse("nowhere:1"), None);
        }
    }
}
