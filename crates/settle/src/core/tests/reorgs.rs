//! What the chain takes back, and how levels rise.

use teller_domain::Level;

use super::*;

#[test]
fn a_reorg_reopens_the_slots_whose_blocks_it_took_and_no_others() {
    let mut bench = Bench::with_lane();
    bench.settle_one(1);
    let (second, _) = bench.settle_one(2);
    assert_eq!(bench.lane().unfinal_slots(), 2);
    let effects = bench.reorg(1);
    assert!(
        matches!(&effects[..], [Effect::ReopenSlots { nonces, .. }] if nonces[..] == [second.nonce]),
        "{effects:?}"
    );
    assert!(bench.seal(Vec::new()).is_empty(), "the lane is being read");
}

#[test]
fn a_slot_whose_end_was_being_committed_when_the_reorg_came_is_reopened_after() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &batch);
    bench.found(id, mined);
    bench.reorg(1);
    let effects = bench.closed(id);
    assert!(
        matches!(&effects[..], [Effect::ReopenSlots { .. }]),
        "{effects:?}"
    );
}

#[test]
fn what_was_being_looked_into_when_the_reorg_came_is_its_slots_again() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &[]);
    bench.left(id, mined);
    let effects = bench.reorg(1);
    assert!(
        matches!(effects.last(), Some(Effect::ReopenSlots { .. })),
        "{effects:?}"
    );
    let reverts = Finding::WouldRevert(Reason::InsufficientBalance);
    let effects = bench.investigated(vec![(batch[0].id, reverts)]);
    assert!(effects.is_empty(), "{effects:?}");
}

#[test]
fn a_receipt_of_an_orphaned_or_unsealed_block_closes_nothing() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    bench.seal(Vec::new());
    let mut mined = bench.mined(&attempt, true, &batch);
    mined.block.hash = B256::repeat_byte(0xee);
    assert!(
        bench
            .tell(Event::Found {
                id,
                mined: mined.clone()
            })
            .is_empty()
    );
    mined.block.number += 1;
    assert!(bench.tell(Event::Found { id, mined }).is_empty());
}

#[test]
fn a_receipt_from_before_the_known_headers_waits_for_the_chain_s_word() {
    let mut bench = Bench::with_lane();
    let attempt = bench.attempt(AttemptKind::Batch, fees(20, 2));
    let batch = payments(1);
    bench.tell(Event::LaneClaimed(recovered_slot(&attempt, batch.clone())));
    let mut mined = bench.mined(&attempt, true, &batch);
    mined.block = bench.at(50);
    let block = mined.block;
    let effects = bench.tell(Event::Found {
        id: slot(7),
        mined: mined.clone(),
    });
    assert!(matches!(&effects[..], [Effect::CheckBlocks { blocks, .. }] if blocks[..] == [block]));
    let orphaned = Event::BlocksChecked {
        fence: fence(),
        canonical: Vec::new(),
        orphaned: vec![block],
    };
    let effects = bench.tell(orphaned);
    assert!(
        matches!(&effects[..], [Effect::Broadcast { .. }]),
        "{effects:?}"
    );
    bench.tell(Event::Found { id: slot(7), mined });
    let effects = bench.tell(Event::BlocksChecked {
        fence: fence(),
        canonical: vec![block],
        orphaned: Vec::new(),
    });
    assert_eq!(closing(&effects).len(), 1);
}

#[test]
fn a_receipt_that_vanishes_before_the_chain_s_word_is_not_waited_for() {
    let mut bench = Bench::with_lane();
    let attempt = bench.attempt(AttemptKind::Batch, fees(20, 2));
    let batch = payments(1);
    bench.tell(Event::LaneClaimed(recovered_slot(&attempt, batch.clone())));
    let mut mined = bench.mined(&attempt, true, &batch);
    mined.block = bench.at(50);
    bench.tell(Event::Found { id: slot(7), mined });
    let effects = bench.looked_up(slot(7), 7, false);
    assert!(
        matches!(&effects[..], [Effect::Broadcast { id, .. }] if *id == slot(7)),
        "{effects:?}"
    );
}

#[test]
fn a_slot_that_was_closed_before_the_restart_is_checked_and_reopened() {
    let mut bench = Bench::new();
    bench.seal(Vec::new());
    let block = bench.at(60);
    let effects = bench.tell(Event::LaneClaimed(RecoveredLane {
        unfinal: vec![UnfinalSlot {
            nonce: AccountNonce(6),
            block,
            external: Vec::new(),
            level: Level::Safe,
        }],
        ..empty_lane()
    }));
    assert!(matches!(&effects[..], [Effect::CheckBlocks { blocks, .. }] if blocks[..] == [block]));
    let effects = bench.tell(Event::BlocksChecked {
        fence: fence(),
        canonical: Vec::new(),
        orphaned: vec![block],
    });
    assert!(
        matches!(&effects[..], [Effect::ReopenSlots { nonces, .. }] if nonces[..] == [AccountNonce(6)])
    );
}

#[test]
fn a_payment_that_had_failed_is_revived_when_its_old_bytes_settle_it() {
    let mut bench = Bench::with_lane();
    let attempt = bench.attempt(AttemptKind::Batch, fees(20_000_000, 2));
    let batch = payments(2);
    let mut lane = recovered_slot(&attempt, batch[..1].to_vec());
    lane.slots[0].ended = batch[1..].to_vec();
    bench.tell(Event::LaneClaimed(lane));
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &batch);
    let effects = bench.tell(Event::Found { id: slot(7), mined });
    let closure = closure(&effects);
    assert_eq!(closure.resolutions.len(), 1);
    let [(id, receipt)] = &closure.revived[..] else {
        panic!("{closure:?}")
    };
    let Resolution::Resolved(SettlementState::Settled(other)) = &closure.resolutions[0].1 else {
        panic!("{closure:?}")
    };
    assert_eq!(*id, batch[1].id);
    assert_eq!(receipt.cost.0 + other.cost.0, U256::from(1_000_003));
}

#[test]
fn a_slot_in_which_a_payment_has_ended_is_outbid_by_a_no_op_only() {
    let mut bench = Bench::with_lane();
    let attempt = bench.attempt(AttemptKind::Batch, fees(20_000_000, 2));
    let batch = payments(2);
    let mut lane = recovered_slot(&attempt, batch[..1].to_vec());
    lane.slots[0].ended = batch[1..].to_vec();
    bench.tell(Event::LaneClaimed(lane));
    bench.looked_up(slot(7), 7, true);
    bench.now += 4 * INTERVAL;
    let effects = bench.tell(Event::Tick);
    let signed: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Sign { what, .. } => Some(what),
            _ => None,
        })
        .collect();
    assert!(matches!(&signed[..], [ToSign::NoOp]), "{effects:?}");
}

#[test]
fn levels_rise_only_for_blocks_that_the_chain_confirms() {
    let mut bench = Bench::with_lane();
    let (id, _) = bench.settle_one(1);
    let block = bench.head();
    let tags = |safe, finalized| Event::Levels { safe, finalized };
    assert!(bench.tell(tags(Some(block.number - 1), None)).is_empty());
    let effects = bench.tell(tags(Some(block.number), None));
    assert!(matches!(&effects[..], [Effect::CheckBlocks { blocks, .. }] if blocks[..] == [block]));
    let canonical = Event::BlocksChecked {
        fence: fence(),
        canonical: vec![block],
        orphaned: Vec::new(),
    };
    let raised = |level| Event::LevelsRaised {
        fence: fence(),
        nonces: vec![id.nonce],
        level,
    };
    let effects = bench.tell(canonical.clone());
    assert!(matches!(
        &effects[..],
        [Effect::RaiseLevels {
            level: Level::Safe,
            ..
        }]
    ));
    bench.tell(raised(Level::Safe));
    assert!(bench.tell(canonical.clone()).is_empty(), "once is enough");
    bench.tell(tags(Some(block.number), Some(block.number)));
    let effects = bench.tell(canonical);
    assert!(matches!(
        &effects[..],
        [Effect::RaiseLevels {
            level: Level::Finalized,
            ..
        }]
    ));
    bench.tell(raised(Level::Finalized));
    assert_eq!(bench.lane().unfinal_slots(), 0);
}

#[test]
fn a_flashblock_preconfirms_and_a_sealed_block_without_it_takes_that_back() {
    let mut bench = Bench::with_lane();
    bench.core.config.flashblocks = true;
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    bench.now += Schedule::GLANCE_MS;
    let effects = bench.tell(Event::Tick);
    assert!(
        matches!(
            &effects[..],
            [Effect::FindReceipts {
                place: Place::Flashblock,
                ..
            }]
        ),
        "{effects:?}"
    );
    let mut mined = bench.mined(&attempt, true, &batch);
    mined.block = BlockRef {
        number: bench.block + 1,
        hash: B256::ZERO,
    };
    let effects = bench.tell(Event::Found {
        id,
        mined: mined.clone(),
    });
    assert!(
        matches!(&effects[..], [Effect::Preconfirm { payments, .. }] if payments[..] == [(batch[0].id, 1)]),
        "{effects:?}"
    );
    assert!(
        bench.tell(Event::Found { id, mined }).is_empty(),
        "once is enough"
    );
    assert!(
        bench.seal(Vec::new()).is_empty(),
        "two notes of a slot are not written at once"
    );
    let fence = fence();
    let effects = bench.tell(Event::Preconfirmed { fence, id });
    assert!(
        matches!(&effects[..], [Effect::Preconfirm { payments, .. }] if payments.is_empty()),
        "{effects:?}"
    );
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &batch);
    assert_eq!(bench.found(id, mined).len(), 1);
}

#[test]
fn a_settlement_by_others_is_taken_back_alone_when_only_its_block_is_lost() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    bench.seal(vec![attempt.hash]);
    let own = bench.mined(&attempt, true, &[]);
    bench.left(id, own);
    bench.seal(Vec::new());
    let block = bench.head();
    let receipt = teller_domain::Receipt {
        transaction: B256::repeat_byte(0x77),
        block,
        log_index: 3,
        level: Level::Included,
        gas_used: 0,
        cost: Wei::ZERO,
    };
    let elsewhere = Finding::SettledElsewhere {
        receipt,
        ours: false,
    };
    let found = explaining(&bench.investigated(vec![(batch[0].id, elsewhere)]));
    assert_eq!(found.len(), 1);
    bench.explained(&found);
    assert!(
        bench.reorg(1).is_empty(),
        "nothing stands at that height yet"
    );
    let effects = bench.seal(Vec::new());
    assert!(
        matches!(&effects[..], [Effect::TakeBackExternal { blocks, .. }] if blocks[..] == [block]),
        "{effects:?}"
    );
}
