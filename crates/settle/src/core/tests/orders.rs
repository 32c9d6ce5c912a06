//! Freezing, thawing, draining, rescuing.

use super::*;

/// A lane whose only slot was taken by a stranger's transaction, frozen.
fn frozen() -> (Bench, SlotId, Vec<Queued>, Attempt) {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    let effects = bench.tell(Event::Sent {
        id,
        hash: attempt.hash,
        outcome: Sent::NonceTooLow,
    });
    assert!(matches!(&effects[..], [Effect::LookUp { .. }]));
    assert!(
        bench.looked_up(id, 8, false).is_empty(),
        "one look is not enough"
    );
    assert!(
        bench.looked_up(id, 8, false).is_empty(),
        "nor are two at once"
    );
    bench.now += INTERVAL;
    let effects = bench.looked_up(id, 8, false);
    assert!(
        effects.iter().any(|effect| matches!(
            effect,
            Effect::SetMode {
                mode: LaneMode::Frozen,
                ..
            }
        )),
        "{effects:?}"
    );
    (bench, id, batch, attempt)
}

#[test]
fn a_nonce_that_somebody_else_used_freezes_the_lane() {
    let (mut bench, ..) = frozen();
    let effects = bench.tell(Event::Accepted(vec![payment(9, 3_600)]));
    assert!(effects.is_empty(), "nothing more is signed");
}

#[test]
fn what_one_endpoint_alone_says_freezes_nothing() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, ..) = bench.open(effects);
    for _ in 0..5 {
        bench.now += INTERVAL;
        let (passed, behind) = (bench.sighting(8, false), bench.sighting(7, false));
        bench.looked_up_as(id, vec![passed.clone()]);
        bench.looked_up_as(id, vec![passed.clone(), behind]);
        let knows = bench.sighting(8, true);
        bench.looked_up_as(id, vec![passed.clone(), passed, knows]);
    }
    assert_eq!(bench.lane().mode(), LaneMode::Active);
}

#[test]
fn a_node_that_has_not_looked_everywhere_is_no_witness() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, ..) = bench.open(effects);
    for _ in 0..20 {
        bench.now += INTERVAL;
        let passed = bench.sighting(8, false);
        let indexing = Sighting {
            searched: false,
            ..passed.clone()
        };
        bench.looked_up_as(id, vec![passed, indexing.clone()]);
        bench.looked_up_as(id, vec![indexing.clone(), indexing]);
    }
    assert_eq!(bench.lane().mode(), LaneMode::Active);
}

/// A slot at nonce 7 whose nonce had been used up to 9 before it was opened.
fn opened_behind(bench: &mut Bench) -> (SlotId, Vec<Queued>, Vec<Effect>) {
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, _) = bench.open(effects);
    let mut last = Vec::new();
    for _ in 0..2 {
        bench.now += INTERVAL;
        let behind = Sighting {
            nonce_then: Some(AccountNonce(9)),
            ..bench.sighting(9, false)
        };
        last = bench.looked_up_as(id, vec![behind.clone(), behind]);
    }
    (id, batch, last)
}

#[test]
fn a_nonce_that_was_used_before_the_slot_was_opened_freezes_nothing() {
    let mut bench = Bench::with_lane();
    let (id, batch, effects) = opened_behind(&mut bench);
    let closure = closure(&effects);
    let left = Resolution::Unexplained { transaction: None };
    assert_eq!(closure.resolutions, [(batch[0].id, left)]);
    // The lane goes on with what the chain has reached, and the payment with it.
    let effects = bench.closed(id);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::ReclaimLane { .. })),
        "{effects:?}"
    );
    let effects = bench.tell(Event::LaneClaimed(RecoveredLane {
        fence: FencedLane {
            epoch: 2,
            ..fence()
        },
        next_nonce: AccountNonce(9),
        unexplained: vec![Unexplained::recovered(
            batch[0].clone(),
            id,
            closure.block,
            None,
        )],
        ..empty_lane()
    }));
    assert_eq!(asked_about(&effects), [batch[0].id]);
    let fence = FencedLane {
        epoch: 2,
        ..fence()
    };
    let effects = bench.tell(Event::Investigated {
        fence,
        asked: vec![batch[0].id],
        findings: vec![(batch[0].id, Finding::WouldSettle)],
    });
    assert_eq!(explaining(&effects), [(batch[0].id, Resolution::Requeued)]);
    let effects = bench.tell(Event::UnexplainedResolved {
        fence,
        ids: vec![batch[0].id],
        changed: vec![batch[0].id],
    });
    let [Effect::ReadCode { payments, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(payments[0].id, batch[0].id);
}

#[test]
fn one_witness_that_saw_the_nonce_open_freezes_the_lane() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, ..) = bench.open(effects);
    for _ in 0..2 {
        bench.now += INTERVAL;
        let before = Sighting {
            nonce_then: Some(AccountNonce(8)),
            ..bench.sighting(8, false)
        };
        let open_then = bench.sighting(8, false);
        bench.looked_up_as(id, vec![before, open_then]);
    }
    assert_eq!(bench.lane().mode(), LaneMode::Frozen);
}

#[test]
fn a_lane_freezes_in_the_end_where_nobody_can_tell_when_its_nonce_was_used() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, ..) = bench.open(effects);
    let mut looks = 0;
    while bench.lane().mode() == LaneMode::Active {
        looks += 1;
        assert!(looks < 20);
        bench.now += INTERVAL;
        let untold = Sighting {
            nonce_then: None,
            ..bench.sighting(8, false)
        };
        bench.looked_up_as(id, vec![untold.clone(), untold]);
    }
    assert!(looks > 5, "{looks}");
}

#[test]
fn an_idle_lane_whose_key_was_used_meanwhile_reads_its_nonce_again() {
    let mut bench = Bench::with_lane();
    let read = |nonce| Event::FundsRead {
        signer: signer(),
        funds: Funds {
            nonce: AccountNonce(nonce),
            balance: Wei::from(u64::MAX),
            data_fee: Wei::ZERO,
        },
    };
    assert!(bench.tell(read(7)).is_empty());
    let effects = bench.tell(read(9));
    assert!(
        matches!(&effects[..], [Effect::ReclaimLane { .. }]),
        "{effects:?}"
    );
    bench.tell(Event::LaneClaimed(RecoveredLane {
        next_nonce: AccountNonce(9),
        ..empty_lane()
    }));
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, ..) = bench.open(effects);
    assert_eq!(id, slot(9));
}

#[test]
fn a_frozen_lane_thaws_when_its_own_transaction_turns_up() {
    let (mut bench, id, batch, attempt) = frozen();
    bench.now += 3 * INTERVAL;
    let effects = bench.tell(Event::Tick);
    assert!(
        matches!(&effects[..], [Effect::LookUp { .. }]),
        "{effects:?}"
    );
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &batch);
    assert_eq!(bench.found(id, mined).len(), 1);
    assert_eq!(bench.lane().mode(), LaneMode::Active);
}

#[test]
fn a_mode_that_was_read_before_the_freeze_got_there_does_not_undo_it() {
    let (mut bench, ..) = frozen();
    let read = |mode| Event::ModeRead {
        fence: fence(),
        mode,
    };
    bench.tell(read(LaneMode::Active));
    assert_eq!(bench.lane().mode(), LaneMode::Frozen);
    bench.tell(read(LaneMode::Frozen));
    bench.tell(read(LaneMode::Thawing));
    assert_eq!(bench.lane().mode(), LaneMode::Thawing);
}

#[test]
fn an_order_that_comes_before_the_freeze_was_read_back_is_carried_out() {
    let (mut bench, ..) = frozen();
    bench.tell(Event::ModeRead {
        fence: fence(),
        mode: LaneMode::Thawing,
    });
    assert_eq!(bench.lane().mode(), LaneMode::Thawing);
}

#[test]
fn a_thawed_lane_closes_what_strangers_took_and_sends_the_payments_again() {
    let (mut bench, id, batch, _) = frozen();
    for mode in [LaneMode::Frozen, LaneMode::Thawing] {
        bench.tell(Event::ModeRead {
            fence: fence(),
            mode,
        });
    }
    bench.now += INTERVAL;
    let effects = bench.looked_up(id, 8, false);
    let closure = closure(&effects);
    assert_eq!(closure.end, teller_domain::SlotEnd::Foreign);
    let left = Resolution::Unexplained { transaction: None };
    assert_eq!(closure.resolutions, [(batch[0].id, left)]);
    let block = closure.block;
    let effects = bench.closed(id);
    assert!(
        matches!(
            &effects[..],
            [
                Effect::SetMode {
                    mode: LaneMode::Active,
                    ..
                },
                Effect::ReclaimLane { .. }
            ]
        ),
        "{effects:?}"
    );
    // The lane adopts the chain's nonce when it is read again, and the payment goes on.
    let left = Unexplained::recovered(batch[0].clone(), id, block, None);
    let effects = bench.tell(Event::LaneClaimed(RecoveredLane {
        next_nonce: AccountNonce(9),
        unexplained: vec![left],
        ..empty_lane()
    }));
    let asked = asked_about(&effects);
    let unused = explaining(&bench.investigated(vec![(asked[0], Finding::WouldSettle)]));
    let effects = bench.explained(&unused);
    let (id, again, _) = bench.open(effects);
    assert_eq!((id, again[0].id), (slot(9), batch[0].id));
}

#[test]
fn a_slot_is_closed_for_a_stranger_only_by_a_block_that_is_sealed_here() {
    let (mut bench, id, ..) = frozen();
    for mode in [LaneMode::Frozen, LaneMode::Thawing] {
        bench.tell(Event::ModeRead {
            fence: fence(),
            mode,
        });
    }
    bench.now += INTERVAL;
    let mut ahead = bench.sighting(8, false);
    ahead.sealed.number += 1;
    let effects = bench.looked_up_as(id, vec![ahead.clone(), ahead]);
    assert!(effects.is_empty(), "{effects:?}");
    bench.now += INTERVAL;
    let effects = bench.looked_up(id, 8, false);
    assert!(matches!(&effects[..], [Effect::CloseSlot { .. }]));
}

#[test]
fn a_draining_lane_brings_its_slots_to_their_end_and_opens_no_more() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    bench.tell(Event::ModeRead {
        fence: fence(),
        mode: LaneMode::Draining,
    });
    assert!(
        bench
            .tell(Event::Accepted(vec![payment(9, 3_600)]))
            .is_empty()
    );
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &batch);
    assert_eq!(bench.found(id, mined).len(), 1);
    assert!(bench.closed(id).is_empty());
    assert_eq!(bench.lane().open_slots(), 0);
}

#[test]
fn a_recovered_slot_of_a_frozen_lane_is_not_sent_when_it_thaws_too_late() {
    let mut bench = Bench::new();
    bench.seal(Vec::new());
    let attempt = bench.attempt(AttemptKind::Batch, fees(20, 2));
    bench.tell(Event::LaneClaimed(RecoveredLane {
        mode: LaneMode::Frozen,
        ..recovered_slot(&attempt, vec![payment(0, 60)])
    }));
    assert!(
        bench.looked_up(slot(7), 7, false).is_empty(),
        "it is frozen"
    );
    bench.now += 100_000;
    let fence = bench.lane().fence;
    let mode = LaneMode::Thawing;
    bench.tell(Event::ModeRead { fence, mode });
    let effects = bench.looked_up(slot(7), 7, false);
    let parks = |effect: &Effect| {
        let Effect::Sign { what, .. } = effect else {
            return false;
        };
        matches!(what, ToSign::NoOp)
    };
    assert!(effects.iter().any(parks), "{effects:?}");
    let sends = |effect: &Effect| matches!(effect, Effect::Broadcast { .. });
    assert!(!effects.iter().any(sends), "{effects:?}");
}

#[test]
fn a_rescued_lane_that_is_taken_without_open_slots_is_active_again() {
    let mut bench = Bench::new();
    bench.seal(Vec::new());
    let effects = bench.tell(Event::LaneClaimed(RecoveredLane {
        mode: LaneMode::Rescuing,
        ..empty_lane()
    }));
    let active = |effect: &Effect| {
        matches!(
            effect,
            Effect::SetMode {
                mode: LaneMode::Active,
                ..
            }
        )
    };
    assert!(effects.iter().any(active), "{effects:?}");
}
