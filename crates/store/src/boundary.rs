//! Boundaries of writing and sending, at which a test can end the process. A build without the feature `failpoints` has
//! nothing of it; only this workspace's tests turn the feature on, as a development dependency of the binary.

/// A call that leaves something behind, which a process can die before or after. `TELLER_FAIL_POINT=before_open_slot:2`
/// ends the process when it is about to open its second slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// Holds for a payment.
    Reserve,
    /// A payment becomes durable.
    Accept,
    /// A payment that nobody waits for is withdrawn.
    Withdraw,
    /// A lane is taken.
    ClaimLane,
    /// A lane is frozen, thawed or drained.
    SetLaneMode,
    /// A slot with its signed bytes becomes durable.
    OpenSlot,
    /// A replacement or a no-op becomes durable.
    AddAttempt,
    /// Signed bytes leave for a node.
    Send,
    /// A payer's approval leaves for a node.
    SendApproval,
    /// A slot is closed and its payments are resolved.
    CloseSlot,
    /// A reorg reopens slots.
    ReopenSlots,
    /// A reorg takes back what others had settled.
    TakeBackExternal,
    /// Payments are resolved outside of a slot.
    ResolveAccepted,
    /// What became of unexplained payments is written.
    ResolveUnexplained,
    /// Levels rise.
    RaiseLevels,
    /// Holds of mined payments are marked as such.
    MarkHolds,
    /// A success is claimed.
    ClaimDelivery,
    /// A told success is noted.
    ConfirmDelivery,
    /// A failure is noted before it is told.
    TellFailure,
}

impl Boundary {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 19] = [
        (Self::Reserve, "reserve"),
        (Self::Accept, "accept"),
        (Self::Withdraw, "withdraw"),
        (Self::ClaimLane, "claim_lane"),
        (Self::SetLaneMode, "set_lane_mode"),
        (Self::OpenSlot, "open_slot"),
        (Self::AddAttempt, "add_attempt"),
        (Self::Send, "send"),
        (Self::SendApproval, "send_approval"),
        (Self::CloseSlot, "close_slot"),
        (Self::ReopenSlots, "reopen_slots"),
        (Self::TakeBackExternal, "take_back_external"),
        (Self::ResolveAccepted, "resolve_accepted"),
        (Self::ResolveUnexplained, "resolve_unexplained"),
        (Self::RaiseLevels, "raise_levels"),
        (Self::MarkHolds, "mark_holds"),
        (Self::ClaimDelivery, "claim_delivery"),
        (Self::ConfirmDelivery, "confirm_delivery"),
        (Self::TellFailure, "tell_failure"),
    ];

    /// The call, and nothing else: this build has no fail points.
    #[cfg(not(feature = "failpoints"))]
    #[inline]
    pub fn around<F: Future>(self, call: F) -> F {
        call
    }

    /// The call, unless a test wants the process to end right before or right after it: no destructor runs and nothing
    /// is flushed, as under kill -9.
    #[cfg(feature = "failpoints")]
    pub async fn around<F: Future>(self, call: F) -> F::Output {
        armed::reach(armed::Side::Before, self);
        let output = call.await;
        armed::reach(armed::Side::After, self);
        output
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Boundary;

    const VARIABLE: &str = "TELLER_FAIL_POINT";

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Side {
        Before,
        After,
    }

    static ARMED: OnceLock<Option<(Side, Boundary, u32)>> = OnceLock::new();
    static REACHED: AtomicU32 = AtomicU32::new(0);

    pub(super) fn reach(side: Side, boundary: Boundary) {
        let armed = ARMED.get_or_init(|| parse(&std::env::var(VARIABLE).ok()?));
        let here = armed.filter(|(at, what, _)| (*at, *what) == (side, boundary));
        if here.is_some_and(|(_, _, nth)| REACHED.fetch_add(1, Ordering::SeqCst) + 1 == nth) {
            std::process::abort();
        }
    }

    fn parse(text: &str) -> Option<(Side, Boundary, u32)> {
        let (point, nth) = text.split_once(':').unwrap_or((text, "1"));
        let (side, name) = point.split_once('_')?;
        let side = match side {
            "before" => Side::Before,
            "after" => Side::After,
            _ => return None,
        };
        let known = Boundary::ALL.into_iter();
        let (boundary, _) = known.into_iter().find(|(_, known)| *known == name)?;
        Some((side, boundary, nth.parse().ok()?))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_is_named_by_side_call_and_count() {
            let (before, open) = (Side::Before, Boundary::OpenSlot);
            assert_eq!(parse("before_open_slot:2"), Some((before, open, 2)));
            assert_eq!(parse("before_open_slot"), Some((before, open, 1)));
            assert_eq!(parse("before_nothing:1"), None);
        }
    }
}
