//! What becomes of open slots: sending, outbidding, parking, looking up, closing.

use teller_domain::invariants;

use super::*;

#[test]
fn settled_payments_share_gas_and_cost_to_the_unit() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(3)));
    let (id, batch, attempt) = bench.open(effects);
    assert!(matches!(
        &bench.seal(vec![attempt.hash])[..],
        [Effect::FindReceipts { .. }]
    ));
    let mined = bench.mined(&attempt, true, &batch);
    let resolutions = bench.found(id, mined);
    let receipts = resolutions.iter().map(|(_, resolution)| match resolution {
        Resolution::Resolved(SettlementState::Settled(receipt)) => *receipt,
        other => panic!("{other:?}"),
    });
    let (gas, cost) = receipts.fold((0, U256::ZERO), |(gas, cost), r| {
        (gas + r.gas_used, cost + r.cost.0)
    });
    assert_eq!((gas, cost), (100_001, U256::from(1_000_003)));
    bench.closed(id);
    assert!(bench.core.is_idle());
}

#[test]
fn a_payment_without_its_events_is_never_settled() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(2)));
    let (id, batch, attempt) = bench.open(effects);
    let mined = bench.mined(&attempt, true, &batch[..1]);
    let asked = bench.left(id, mined);
    assert_eq!(asked, [batch[1].id]);
    let reverts = Finding::WouldRevert(Reason::InsufficientBalance);
    let effects = bench.investigated(vec![(asked[0], reverts)]);
    let resolutions = explaining(&effects);
    assert!(resolutions.iter().any(|(_, resolution)| matches!(
        resolution,
        Resolution::Resolved(SettlementState::Failed { refusal, .. }) if refusal.reason == Reason::InsufficientBalance
    )));
}

#[test]
fn a_batch_that_reverts_whole_is_halved_until_the_culprit_is_alone() {
    let mut bench = Bench::with_lane();
    let batch = payments(8);
    let culprit = batch[3].id;
    let mut effects = bench.tell(Event::Accepted(batch));
    let mut settled = 0;
    let mut transactions = 0;
    while !bench.core.is_idle() {
        transactions += 1;
        assert!(transactions < 20);
        let (id, batch, attempt) = bench.open(std::mem::take(&mut effects));
        let hostile = batch.iter().any(|queued| queued.id == culprit);
        let mined = bench.mined(&attempt, !hostile, if hostile { &[] } else { &batch });
        let after = bench.tell(Event::Found { id, mined });
        let resolutions = closing(&after);
        let ours = |(_, resolution): &&(_, _)| {
            matches!(
                resolution,
                Resolution::Resolved(SettlementState::Settled(_))
            )
        };
        settled += resolutions.iter().filter(ours).count();
        effects = bench.closed(id);
        if hostile && batch.len() == 1 {
            let reverts = Finding::WouldRevert(Reason::SimulationFailed);
            let failed = explaining(&bench.investigated(vec![(culprit, reverts)]));
            effects = bench.explained(&failed);
        }
    }
    assert_eq!(settled, 7);
    assert!(transactions <= 7, "{transactions}");
}

#[test]
fn a_third_try_travels_alone_and_a_fourth_is_not_made() {
    let mut bench = Bench::with_lane();
    let mut unlucky = payment(1, 3_600);
    unlucky.tries = 2;
    let id = unlucky.id;
    let effects = bench.tell(Event::Accepted(vec![unlucky, payment(2, 3_600)]));
    let (slot, batch, attempt) = bench.open(effects);
    assert_eq!(
        batch.iter().map(|queued| queued.id).collect::<Vec<_>>(),
        [id]
    );
    let mined = bench.mined(&attempt, true, &[]);
    bench.left(slot, mined);
    let effects = bench.investigated(vec![(id, Finding::WouldSettle)]);
    assert!(matches!(
        explaining(&effects)[..],
        [(_, Resolution::Resolved(SettlementState::Failed { .. }))]
    ));
}

#[test]
fn a_stalled_slot_is_sent_again_outbid_and_parked_with_rising_fees() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, _, first) = bench.open(effects);
    bench.tell(Event::Sent {
        id,
        hash: first.hash,
        outcome: Sent::Accepted,
    });
    let mut attempts = vec![first];
    let mut acted_at = Vec::new();
    while bench.now < 20 * INTERVAL {
        bench.now += 100;
        for effect in bench.tell(Event::Tick) {
            match effect {
                Effect::Sign { .. } => {
                    let (attempt, sent) = bench.add(&effect);
                    assert!(matches!(&sent[..], [Effect::Broadcast { .. }]));
                    acted_at.push((bench.now / INTERVAL, attempt.kind));
                    let hash = attempt.hash;
                    attempts.push(attempt);
                    bench.tell(Event::Sent {
                        id,
                        hash,
                        outcome: Sent::Accepted,
                    });
                }
                Effect::Broadcast { attempt, .. } => assert_eq!(Some(&attempt), attempts.last()),
                Effect::LookUp { hashes, .. } => assert_eq!(hashes.len(), attempts.len()),
                other => panic!("{other:?}"),
            }
        }
    }
    use AttemptKind::{Batch, NoOp};
    assert_eq!(acted_at, [(3, Batch), (6, Batch), (12, Batch), (15, NoOp)]);
    assert!(invariants::attempts_are_sound(&attempts));
}

#[test]
fn a_parked_slot_releases_its_payments_when_the_no_op_is_mined_and_counts_no_try() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(2)));
    let (id, batch, _) = bench.open(effects);
    let effects = bench.tell(Event::ModeRead {
        fence: fence(),
        mode: LaneMode::Rescuing,
    });
    let parked = effects
        .iter()
        .find(|effect| matches!(effect, Effect::Sign { .. }));
    let (no_op, _) = match parked {
        Some(effect) => bench.add(effect),
        None => panic!("{effects:?}"),
    };
    assert_eq!(no_op.kind, AttemptKind::NoOp);
    assert_eq!(bench.core.queue_depth(), 0, "nothing is released yet");
    bench.seal(vec![no_op.hash]);
    let mined = bench.mined(&no_op, true, &[]);
    let effects = bench.tell(Event::Found { id, mined });
    let left = Resolution::Unexplained { transaction: None };
    let resolutions = closing(&effects);
    assert!(
        resolutions
            .iter()
            .all(|(_, resolution)| *resolution == left)
    );
    let effects = bench.closed(id);
    assert_eq!(asked_about(&effects).len(), batch.len());
    assert!(
        matches!(
            &effects[0],
            Effect::SetMode {
                mode: LaneMode::Active,
                ..
            }
        ),
        "{effects:?}"
    );
    let findings = batch.iter().map(|queued| (queued.id, Finding::WouldSettle));
    let unused = explaining(&bench.investigated(findings.collect()));
    let effects = bench.explained(&unused);
    let Some(Effect::ReadCode { payments, .. }) = effects.last() else {
        panic!("{effects:?}")
    };
    assert!(payments.iter().all(|queued| queued.tries == 0));
}

#[test]
fn a_recovered_slot_is_sent_again_at_once_and_looked_up_beside() {
    let mut bench = Bench::new();
    bench.seal(Vec::new());
    let attempt = bench.attempt(AttemptKind::Batch, fees(20, 2));
    let effects = bench.tell(Event::LaneClaimed(recovered_slot(&attempt, payments(2))));
    assert!(
        matches!(&effects[..], [Effect::LookUp { hashes, .. }, Effect::Broadcast { attempt: sent, .. }]
            if hashes[..] == [attempt.hash] && *sent == attempt),
        "{effects:?}"
    );
    // With nothing left to settle in time, a no-op takes the nonce instead.
    let late = recovered_slot(&attempt, vec![payment(5, 1)]);
    let effects = bench.tell(Event::LaneClaimed(late));
    assert!(
        matches!(
            &effects[..],
            [
                Effect::LookUp { .. },
                Effect::Sign {
                    what: ToSign::NoOp,
                    ..
                }
            ]
        ),
        "{effects:?}"
    );
}

#[test]
fn a_recovered_slot_waits_for_the_chain_s_time_and_for_nothing_else() {
    let mut bench = Bench::new();
    let attempt = bench.attempt(AttemptKind::Batch, fees(20, 2));
    let effects = bench.tell(Event::LaneClaimed(recovered_slot(&attempt, payments(2))));
    assert!(
        matches!(&effects[..], [Effect::LookUp { .. }]),
        "{effects:?}"
    );
    // No endpoint could say anything of it.
    assert!(bench.looked_up_as(slot(7), Vec::new()).is_empty());
    let effects = bench.seal(Vec::new());
    assert!(
        matches!(&effects[..], [Effect::Broadcast { attempt: sent, .. }] if *sent == attempt),
        "{effects:?}"
    );
}

#[test]
fn an_underpriced_attempt_is_outbid_once_a_block_and_not_more() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, _, attempt) = bench.open(effects);
    let outbids = |effects: &[Effect]| {
        effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Sign { .. }))
            .count()
    };
    let refused = Event::Sent {
        id,
        hash: attempt.hash,
        outcome: Sent::Underpriced,
    };
    assert_eq!(outbids(&bench.tell(refused.clone())), 0);
    assert_eq!(outbids(&bench.tell(refused)), 0);
    bench.now += INTERVAL;
    assert_eq!(outbids(&bench.tell(Event::Tick)), 1);
    assert_eq!(outbids(&bench.tell(Event::Tick)), 0);
}

#[test]
fn a_no_op_passes_the_ceiling_that_stops_a_batch() {
    let mut bench = Bench::with_lane();
    bench.core.config.fees.max_fee_ceiling = Some(5_000_001);
    let attempt = bench.attempt(AttemptKind::Batch, fees(5_000_001, 1_000));
    let effects = bench.tell(Event::LaneClaimed(recovered_slot(
        &attempt,
        vec![payment(5, 1)],
    )));
    assert!(
        matches!(
            &effects[..],
            [
                Effect::LookUp { .. },
                Effect::Sign {
                    what: ToSign::NoOp,
                    ..
                }
            ]
        ),
        "{effects:?}"
    );
}

#[test]
fn news_of_an_older_holding_opens_no_slot() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    bench.read_code(&effects);
    let older = FencedLane {
        epoch: 0,
        ..fence()
    };
    let attempt = bench.attempt(AttemptKind::Batch, fees(1, 1));
    let ticket = bench.core.tickets;
    let signed = Event::Signed {
        fence: older,
        id: slot(7),
        ticket,
        attempt,
    };
    assert!(bench.tell(signed).is_empty());
    let opened = Event::SlotOpened {
        fence: older,
        id: slot(7),
    };
    assert!(bench.tell(opened).is_empty());
    assert_eq!(bench.lane().open_slots(), 0);
}

#[test]
fn a_lost_lane_is_read_again_and_forgets_what_it_thought() {
    let mut bench = Bench::with_lane();
    let batch = payments(2);
    let effects = bench.tell(Event::Accepted(batch.clone()));
    bench.read_code(&effects);
    let effects = bench.tell(Event::LaneLost { fence: fence() });
    assert!(matches!(&effects[..], [Effect::ReclaimLane { .. }]));
    assert!(
        bench.tell(Event::LaneLost { fence: fence() }).is_empty(),
        "it is being read already"
    );
    // The ledger had committed nothing: the payments are announced again and get the same nonce.
    bench.tell(Event::LaneClaimed(empty_lane()));
    let effects = bench.tell(Event::Accepted(batch));
    let (id, _, _) = bench.open(effects);
    assert_eq!(id, slot(7));
}

#[test]
fn a_payment_that_a_sibling_slot_settled_is_settled_under_that_hash() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &[]);
    bench.left(id, mined);
    let receipt = teller_domain::Receipt {
        transaction: B256::repeat_byte(0x77),
        block: bench.at(bench.block - 1),
        log_index: 3,
        level: teller_domain::Level::Included,
        gas_used: 0,
        cost: Wei::ZERO,
    };
    let elsewhere = Finding::SettledElsewhere {
        receipt,
        ours: true,
    };
    // Seen in a block that the core does not know: not yet.
    let unsealed = Finding::SettledElsewhere {
        receipt: teller_domain::Receipt {
            block: BlockRef {
                number: bench.block + 1,
                hash: B256::ZERO,
            },
            ..receipt
        },
        ours: true,
    };
    let effects = bench.investigated(vec![(batch[0].id, unsealed)]);
    assert!(effects.is_empty(), "{effects:?}");
    let block_before = bench.core.ancestry.standing(receipt.block);
    assert_eq!(block_before, super::super::ancestry::Standing::Sealed);
    let effects = bench.investigated(vec![(batch[0].id, elsewhere)]);
    assert_eq!(
        explaining(&effects),
        [(
            batch[0].id,
            Resolution::Resolved(SettlementState::Settled(receipt))
        )]
    );
}

#[test]
fn a_batch_that_expired_while_it_was_signed_and_committed_becomes_a_no_op() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(vec![payment(1, 60)]));
    let [Effect::ReadCode { signer, batch, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    let effects = bench.tell(Event::CodeRead {
        signer: *signer,
        batch: *batch,
        with_code: Vec::new(),
        refused: Vec::new(),
    });
    let [Effect::Sign { id, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    let id = *id;
    bench.now += 120_000;
    let attempt = bench.attempt(AttemptKind::Batch, fees(20_000_000, 2));
    let ticket = bench.core.tickets;
    bench.tell(Event::Signed {
        fence: fence(),
        id,
        ticket,
        attempt,
    });
    let effects = bench.tell(Event::SlotOpened { fence: fence(), id });
    assert!(
        matches!(
            &effects[..],
            [Effect::Sign {
                what: ToSign::NoOp,
                ..
            }]
        ),
        "{effects:?}"
    );
}

#[test]
fn a_claim_that_a_newer_one_has_overtaken_changes_nothing() {
    let mut bench = Bench::with_lane();
    let mut newer = empty_lane();
    newer.fence.epoch += 2;
    bench.tell(Event::LaneClaimed(newer.clone()));
    let mut older = empty_lane();
    older.fence.epoch += 1;
    older.next_nonce = AccountNonce(1);
    bench.tell(Event::LaneClaimed(older));
    assert_eq!(bench.lane().fence, newer.fence);
    assert_eq!(bench.lane().next_nonce, newer.next_nonce);
}

#[test]
fn bytes_that_were_signed_for_an_earlier_batch_open_no_slot() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(2)));
    let effects = bench.read_code(&effects);
    let Some(Effect::Sign { ticket, .. }) = effects.last() else {
        panic!("{effects:?}")
    };
    let ticket = *ticket;
    let attempt = bench.attempt(AttemptKind::Batch, fees(20_000_000, 2));
    let signed = Event::Signed {
        fence: fence(),
        id: slot(7),
        ticket,
        attempt,
    };
    bench.tell(signed.clone());
    let moved = vec![payments(1)[0].id];
    bench.tell(Event::PaymentsMoved {
        fence: fence(),
        id: slot(7),
        moved,
    });
    // The batch is being signed anew; the old bytes come a second time.
    assert!(bench.tell(signed).is_empty());
}
