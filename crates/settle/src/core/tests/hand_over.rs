//! Lanes that go to another process while this one lives.

use super::*;

const OTHER: FencedLane = FencedLane {
    chain: CHAIN,
    signer: Address::repeat_byte(0x52),
    epoch: 3,
};

/// A core with two lanes.
fn two_lanes() -> Bench {
    let mut bench = Bench::with_lane();
    bench.tell(Event::LaneClaimed(RecoveredLane {
        fence: OTHER,
        ..empty_lane()
    }));
    bench
}

fn hand_over(among: &[FencedLane]) -> Event {
    Event::HandOver {
        among: among.to_vec(),
    }
}

fn released(effects: &[Effect]) -> Vec<FencedLane> {
    let released = effects.iter().filter_map(|effect| match effect {
        Effect::ReleaseLane { fence } => Some(*fence),
        _ => None,
    });
    released.collect()
}

#[test]
fn a_lane_without_open_slots_goes_first_and_at_once() {
    let mut bench = two_lanes();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, ..) = bench.open(effects);
    assert_eq!(id.signer, signer());
    let effects = bench.tell(hand_over(&[fence(), OTHER]));
    assert_eq!(released(&effects), [OTHER]);
    assert_eq!(effects.len(), 1, "nobody takes it back: {effects:?}");
    assert_eq!(bench.lane().open_slots(), 1);
    // What is still on its way under the epoch that was given up changes nothing.
    assert!(bench.tell(Event::LaneLost { fence: OTHER }).is_empty());
    // It is asked for again when it is nobody's.
    let effects = bench.tell(Event::LaneReleased {
        signer: OTHER.signer,
    });
    assert!(
        matches!(&effects[..], [Effect::ReclaimLane { signer }] if *signer == OTHER.signer),
        "{effects:?}"
    );
}

#[test]
fn a_lane_with_open_slots_takes_no_batch_and_goes_when_they_have_ended() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    assert!(bench.tell(hand_over(&[fence()])).is_empty());
    bench.now += 500;
    let effects = bench.tell(Event::Accepted(vec![payment(9, 3_600)]));
    assert!(effects.is_empty(), "no batch: {effects:?}");
    assert_eq!(bench.core.appetite(), 0);
    assert!(bench.tell(hand_over(&[fence()])).is_empty(), "once");
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &batch);
    assert_eq!(bench.found(id, mined).len(), 1);
    let effects = bench.closed(id);
    assert_eq!(released(&effects), [fence()]);
    assert_eq!(bench.core.lanes().count(), 0);
    assert_eq!(bench.core.queue_depth(), 1, "what waits is not lost");
}

#[test]
fn a_lane_whose_slots_stay_open_goes_with_them() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    bench.open(effects);
    bench.tell(hand_over(&[fence()]));
    bench.now += 4_999;
    assert!(released(&bench.tell(Event::Tick)).is_empty());
    bench.now += 1;
    assert_eq!(released(&bench.tell(Event::Tick)), [fence()]);
}

#[test]
fn a_forming_batch_of_a_lane_that_goes_is_another_lanes() {
    let mut bench = two_lanes();
    let read = bench.tell(Event::Accepted(payments(3)));
    assert!(bench.tell(hand_over(&[fence()])).is_empty(), "not under it");
    let effects = bench.read_code(&read);
    assert_eq!(released(&effects), [fence()]);
    let again: Vec<_> = effects
        .into_iter()
        .filter(|effect| matches!(effect, Effect::ReadCode { .. }))
        .collect();
    let (id, batch, _) = bench.open(again);
    assert_eq!((id.signer, batch.len()), (OTHER.signer, 3));
}

#[test]
fn a_slot_that_is_being_committed_when_its_lane_is_to_go_is_sent_first() {
    let mut bench = Bench::with_lane();
    let read = bench.tell(Event::Accepted(payments(1)));
    let effects = bench.read_code(&read);
    let [
        Effect::Sign {
            fence, id, ticket, ..
        },
    ] = effects[..]
    else {
        panic!("{effects:?}")
    };
    let attempt = bench.attempt(AttemptKind::Batch, fees(2, 1));
    bench.tell(Event::Signed {
        fence,
        id,
        ticket,
        attempt: attempt.clone(),
    });
    bench.tell(hand_over(&[fence]));
    bench.now += 6_000;
    assert!(
        released(&bench.tell(Event::Tick)).is_empty(),
        "not under it"
    );
    let effects = bench.tell(Event::SlotOpened { fence, id });
    assert!(
        matches!(&effects[..], [Effect::Broadcast { attempt: sent, .. }, ..] if *sent == attempt),
        "{effects:?}"
    );
    assert_eq!(released(&effects), [fence]);
}

#[test]
fn a_lane_that_is_held_anew_is_not_given_up_under_its_old_epoch() {
    let mut bench = Bench::with_lane();
    let old = FencedLane {
        epoch: 0,
        ..fence()
    };
    assert!(bench.tell(hand_over(&[old, OTHER])).is_empty());
    assert!(bench.lane().is_usable());
}
