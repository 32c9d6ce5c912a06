//! Nonces that nobody uses any more, below what a lane has open.

use super::*;

/// A lane whose lowest open slot is 7, on a chain that waits for nonce 6.
fn behind_a_gap() -> Bench {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    bench.open(effects);
    bench
}

fn signs_noop_at(effects: &[Effect], nonce: u64) -> bool {
    effects.iter().any(|effect| {
        matches!(effect, Effect::Sign { id, what: ToSign::NoOp, .. } if *id == slot(nonce))
    })
}

#[test]
fn a_nonce_that_a_dropped_transaction_left_unused_is_used_up_by_a_no_op() {
    let mut bench = behind_a_gap();
    assert!(!signs_noop_at(&bench.looked_up(slot(7), 6, true), 6));
    bench.now += (Schedule::PARK - 1) * INTERVAL;
    assert!(!signs_noop_at(&bench.looked_up(slot(7), 6, true), 6));
    bench.now += INTERVAL;
    assert!(signs_noop_at(&bench.looked_up(slot(7), 6, true), 6));
    // Asked for once only, however often nodes say it.
    assert!(!signs_noop_at(&bench.looked_up(slot(7), 6, true), 6));
    let attempt = bench.attempt(AttemptKind::NoOp, fees(20, 2));
    let (fence, id) = (fence(), slot(6));
    let ticket = bench.core.tickets;
    let written = bench.tell(Event::Signed {
        fence,
        id,
        ticket,
        attempt: attempt.clone(),
    });
    let opens = |effect: &Effect| matches!(effect, Effect::OpenSlot { id, payments, .. } if *id == slot(6) && payments.is_empty());
    assert!(written.iter().any(opens), "{written:?}");
    let sent = bench.tell(Event::SlotOpened { fence, id });
    let sends = |effect: &Effect| matches!(effect, Effect::Broadcast { attempt: sent, .. } if *sent == attempt);
    assert!(sent.iter().any(sends), "{sent:?}");
    assert_eq!(bench.lane().head(), Some(slot(6)));
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &[]);
    assert!(bench.found(slot(6), mined).is_empty());
    bench.closed(slot(6));
    assert_eq!(bench.lane().head(), Some(slot(7)));
}

#[test]
fn what_passes_or_what_a_closed_slot_explains_is_no_gap() {
    let mut bench = behind_a_gap();
    bench.looked_up(slot(7), 6, true);
    bench.now += Schedule::PARK * INTERVAL;
    // It had been a node that was behind.
    bench.looked_up(slot(7), 7, true);
    assert!(!signs_noop_at(&bench.looked_up(slot(7), 6, true), 6));
    bench.now += Schedule::PARK * INTERVAL;
    // One endpoint of two is not enough.
    let sighting = bench.sighting(6, true);
    let effects = bench.looked_up_as(slot(7), vec![sighting]);
    assert!(!signs_noop_at(&effects, 6));
    // A slot that a reorg may reopen is not either.
    let mut bench = Bench::new();
    bench.seal(Vec::new());
    let attempt = bench.attempt(AttemptKind::Batch, fees(20, 2));
    let mut lane = recovered_slot(&attempt, payments(1));
    lane.unfinal = vec![UnfinalSlot {
        nonce: AccountNonce(6),
        block: bench.head(),
        external: Vec::new(),
        level: Level::Included,
    }];
    bench.tell(Event::LaneClaimed(lane));
    bench.looked_up(slot(7), 6, true);
    bench.now += Schedule::PARK * INTERVAL;
    assert!(!signs_noop_at(&bench.looked_up(slot(7), 6, true), 6));
}
