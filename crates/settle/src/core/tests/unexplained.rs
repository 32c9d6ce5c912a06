//! Payments that leave their slot unexplained, and what the chain says of them later.

use super::*;

/// One of two payments of a batch is not in its receipt.
fn one_of_two(bench: &mut Bench) -> (SlotId, Vec<Queued>, Attempt) {
    let effects = bench.tell(Event::Accepted(payments(2)));
    let (id, batch, attempt) = bench.open(effects);
    bench.seal(vec![attempt.hash]);
    (id, batch, attempt)
}

fn failure(resolutions: &[(SettlementId, Resolution)]) -> (Reason, Option<B256>) {
    match resolutions {
        [
            (
                _,
                Resolution::Resolved(SettlementState::Failed {
                    refusal,
                    transaction,
                }),
            ),
        ] => (refusal.reason, *transaction),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_slot_closes_with_its_receipt_whatever_became_of_one_payment() {
    let mut bench = Bench::with_lane();
    let (id, batch, attempt) = one_of_two(&mut bench);
    let mined = bench.mined(&attempt, true, &batch[..1]);
    let effects = bench.tell(Event::Found { id, mined });
    let resolutions = closing(&effects);
    assert!(resolutions.iter().any(|(payment, resolution)| {
        let settled = matches!(
            resolution,
            Resolution::Resolved(SettlementState::Settled(_))
        );
        *payment == batch[0].id && settled
    }));
    let left = Resolution::Unexplained {
        transaction: Some(attempt.hash),
    };
    assert!(resolutions.contains(&(batch[1].id, left)));
    let effects = bench.closed(id);
    assert_eq!(asked_about(&effects), [batch[1].id]);
    assert_eq!(bench.lane().open_slots(), 0);
    assert_eq!(bench.core.unexplained(), 1);
    // Nothing is found for as long as it takes; the lane goes on meanwhile.
    for number in 10..40 {
        bench.now += 20 * INTERVAL;
        bench.investigated(vec![]);
        bench.settle_one(number);
    }
    assert_eq!(bench.core.unexplained(), 1);
}

#[test]
fn a_payment_that_nobody_can_look_into_is_asked_about_less_and_less_often() {
    let mut bench = Bench::with_lane();
    let (id, batch, attempt) = one_of_two(&mut bench);
    let mined = bench.mined(&attempt, true, &batch[..1]);
    let asked = bench.left(id, mined);
    let mut questions = 0;
    for _ in 0..1_000 {
        let effects = bench.tell(Event::Investigated {
            fence: fence(),
            asked: asked.clone(),
            findings: Vec::new(),
        });
        questions += effects.len();
        bench.now += INTERVAL;
        questions += bench.tell(Event::Tick).len();
    }
    assert!(questions < 200, "{questions}");
}

#[test]
fn a_use_that_nothing_explains_fails_at_the_third_block_that_was_read_in_full() {
    let mut bench = Bench::with_lane();
    let (id, batch, attempt) = one_of_two(&mut bench);
    let mined = bench.mined(&attempt, true, &batch[..1]);
    let left = bench.left(id, mined)[0];
    let head = bench.head().number;
    // The same block, however often, is one reading.
    for at in [head, head, head + 1, head + 1, head] {
        let effects = bench.investigated(vec![(left, Finding::Unfound { at })]);
        assert!(effects.is_empty(), "{effects:?}");
        bench.now += 10 * INTERVAL;
        bench.tell(Event::Tick);
    }
    let effects = bench.investigated(vec![(left, Finding::Unfound { at: head + 2 })]);
    let resolutions = explaining(&effects);
    assert_eq!(failure(&resolutions), (Reason::NonceAlreadyUsed, None));
    bench.explained(&resolutions);
    assert_eq!(bench.core.unexplained(), 0);
    assert!(bench.core.is_idle());
}

#[test]
fn a_payment_of_which_another_amount_moved_fails_with_the_transaction() {
    let mut bench = Bench::with_lane();
    let (id, batch, attempt) = one_of_two(&mut bench);
    let mined = bench.mined(&attempt, true, &batch[..1]);
    let left = bench.left(id, mined)[0];
    let transaction = attempt.hash;
    let effects = bench.investigated(vec![(left, Finding::Mismatched { transaction })]);
    let expected = (Reason::TransferEventMismatch, Some(transaction));
    assert_eq!(failure(&explaining(&effects)), expected);
}

#[test]
fn an_unused_authorization_is_signed_again_only_once_that_is_durable() {
    let mut bench = Bench::with_lane();
    let (id, batch, attempt) = one_of_two(&mut bench);
    let mined = bench.mined(&attempt, true, &batch[..1]);
    let left = bench.left(id, mined)[0];
    let effects = bench.investigated(vec![(left, Finding::WouldSettle)]);
    let unused = explaining(&effects);
    assert_eq!(unused, [(left, Resolution::Requeued)]);
    assert!(bench.tell(Event::Tick).is_empty());
    let effects = bench.explained(&unused);
    let (_, again, _) = bench.open(effects);
    assert_eq!(again[0].id, left);
}

#[test]
fn a_lost_lane_is_asked_about_its_unexplained_payments_when_it_is_read_again() {
    let mut bench = Bench::with_lane();
    let (id, batch, attempt) = one_of_two(&mut bench);
    let mined = bench.mined(&attempt, true, &batch[..1]);
    bench.left(id, mined);
    bench.tell(Event::LaneLost { fence: fence() });
    assert_eq!(bench.core.unexplained(), 0);
    let block = bench.head();
    let left = Unexplained::recovered(batch[1].clone(), id, block, Some(attempt.hash));
    let effects = bench.tell(Event::LaneClaimed(RecoveredLane {
        next_nonce: AccountNonce(9),
        unexplained: vec![left],
        ..empty_lane()
    }));
    assert_eq!(asked_about(&effects), [batch[1].id]);
}
