//! The contract of the ledger, held against every implementation: Flashblocks, reorgs, levels and compensations.
//!
//! One long file, because it is one list of behaviours.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[macro_use]
mod support;

use std::fmt::Write;

use alloy_primitives::{Address, B256};
use support::*;
use teller_domain::invariants::compensation;
use teller_domain::*;
use teller_store::*;

contract! {
    a_flashblock_is_noted_and_taken_back,
    a_flashblock_of_something_else_is_refused,
    what_is_preconfirmed_is_delivered_and_resolved,
    a_success_that_a_reorg_has_changed_is_not_claimed,
    a_foreign_end_needs_no_attempt,
    a_reopened_slot_has_its_payments_back,
    a_reopened_slot_leaves_alone_what_failure_was_told_of,
    what_is_finalized_is_not_reopened,
    only_what_ended_in_a_slot_is_revived_by_it,
    a_sibling_s_receipt_closes_a_slot,
    what_others_settled_is_taken_back,
    levels_rise_and_never_fall,
    an_old_epoch_writes_nothing_of_a_reorg,
    compensations_are_those_of_the_invariant,
    compensations_come_in_pages,
}

async fn unfinal(store: &TestLedger) -> (FencedLane, Vec<UnfinalSlot>) {
    let owner = ProcessId::fresh();
    store.execute("UPDATE lanes SET owner = NULL").await;
    let recovery = store
        .ledger
        .claim_lane(CHAIN, SIGNER, owner, 1, 60_000)
        .await
        .unwrap()
        .unwrap();
    (recovery.lane.fence, recovery.unfinal)
}

async fn a_flashblock_is_noted_and_taken_back(store: TestLedger) {
    let fence = lane(&store).await;
    let ids = payments(&store, 3).await;
    let slot = opened(&store, fence, 5, &ids).await;
    let second = attempt(unique() + 1_000, AttemptKind::Batch);
    store
        .ledger
        .add_attempt(fence, slot.id, second.clone())
        .await
        .unwrap();
    let seen = |transaction, log_index| SettlementState::Preconfirmed {
        slot: slot.id,
        transaction,
        log_index,
    };
    let assigned = SettlementState::Assigned {
        slot: slot.id,
        transaction: Some(second.hash),
    };
    store.ledger.note_handed_over(second.hash).await.unwrap();
    let first = slot.attempt.hash;
    let preconfirm = |transaction, named: Vec<(SettlementId, u64)>| {
        let ledger = &store.ledger;
        async move { ledger.preconfirm(fence, slot.id, transaction, &named).await }
    };
    preconfirm(first, vec![(ids[0], 3), (ids[1], 5)])
        .await
        .unwrap();
    preconfirm(first, vec![(ids[0], 3), (ids[1], 5)])
        .await
        .unwrap();
    assert_eq!(state(&store, ids[0]).await, seen(first, 3));
    assert_eq!(state(&store, ids[1]).await, seen(first, 5));
    assert_eq!(state(&store, ids[2]).await, assigned);
    assert_eq!(store.ledger.unresolved().await.unwrap(), 3);
    assert_eq!(
        store.ledger.unresolved_settlements().await.unwrap().len(),
        3
    );
    let third = attempt(unique() + 1_000, AttemptKind::NoOp);
    store
        .ledger
        .add_attempt(fence, slot.id, third)
        .await
        .unwrap();
    // The next Flashblock has another attempt, and one of them in another place.
    preconfirm(second.hash, vec![(ids[1], 8)]).await.unwrap();
    assert_eq!(state(&store, ids[0]).await, assigned);
    assert_eq!(state(&store, ids[1]).await, seen(second.hash, 8));
    let open = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!(open[0].payments, ids, "in the order of the batch");
    preconfirm(second.hash, vec![]).await.unwrap();
    for id in &ids {
        assert_eq!(state(&store, *id).await, assigned);
    }
}

async fn a_flashblock_of_something_else_is_refused(store: TestLedger) {
    let fence = lane(&store).await;
    let ids = payments(&store, 2).await;
    let slot = opened(&store, fence, 5, &ids[..1]).await;
    let other = opened(&store, fence, 6, &ids[1..]).await;
    for (transaction, named) in [
        (other.attempt.hash, vec![(ids[0], 1)]),
        (hash(99), vec![]),
        (slot.attempt.hash, vec![(ids[1], 1)]),
        (slot.attempt.hash, vec![(ids[0], 1), (ids[0], 2)]),
        (slot.attempt.hash, vec![(SettlementId::fresh(), 1)]),
    ] {
        conflict(
            store
                .ledger
                .preconfirm(fence, slot.id, transaction, &named)
                .await,
        );
    }
    let requeued = closure(&slot, vec![(ids[0], Resolution::Requeued)]);
    store.ledger.close_slot(fence, requeued).await.unwrap();
    conflict(
        store
            .ledger
            .preconfirm(fence, slot.id, slot.attempt.hash, &[])
            .await,
    );
    assert_eq!(state(&store, ids[0]).await, SettlementState::Accepted);
}

async fn what_is_preconfirmed_is_delivered_and_resolved(store: TestLedger) {
    let fence = lane(&store).await;
    let ids = payments(&store, 2).await;
    let slot = opened(&store, fence, 5, &ids).await;
    let transaction = slot.attempt.hash;
    store
        .ledger
        .preconfirm(fence, slot.id, transaction, &[(ids[0], 3), (ids[1], 4)])
        .await
        .unwrap();
    let process = ProcessId::fresh();
    store
        .ledger
        .heartbeat(process, Duty::Answers, 60_000)
        .await
        .unwrap();
    let claim = store.claim(ids[0], RequestId::fresh(), process).await;
    assert_eq!(claim.unwrap(), ClaimOutcome::Claimed);
    let last = told(&store, ids[0]).await;
    assert!(
        matches!(last, Some(Told::Success { transaction: told, level: Level::Preconfirmed, .. }) if told == transaction),
        "{last:?}"
    );
    // A preconfirmed payment is the slot's as much as an assigned one.
    let half = closure(&slot, vec![resolved(ids[0], settled(transaction, 77))]);
    conflict(store.ledger.close_slot(fence, half).await);
    let whole = closure(
        &slot,
        vec![
            resolved(ids[0], settled(transaction, 77)),
            (ids[1], Resolution::Requeued),
        ],
    );
    store.ledger.close_slot(fence, whole).await.unwrap();
    assert_eq!(state(&store, ids[0]).await, settled(transaction, 77));
    assert_eq!(state(&store, ids[1]).await, SettlementState::Accepted);
    assert_eq!(told(&store, ids[0]).await, last, "what was told stays");
}

async fn a_success_that_a_reorg_has_changed_is_not_claimed(store: TestLedger) {
    let fence = lane(&store).await;
    let ids = payments(&store, 1).await;
    let slot = opened(&store, fence, 5, &ids).await;
    let transaction = slot.attempt.hash;
    store
        .ledger
        .preconfirm(fence, slot.id, transaction, &[(ids[0], 3)])
        .await
        .unwrap();
    let claim = |transaction, level| {
        let success = Success { transaction, level };
        let (request, process) = (RequestId::fresh(), ProcessId::fresh());
        store
            .ledger
            .claim_delivery(ids[0], request, process, success)
    };
    conflict(claim(transaction, Level::Included).await);
    conflict(claim(hash(unique()), Level::Preconfirmed).await);
    let row = store.ledger.settlement(ids[0]).await.unwrap().unwrap();
    assert_eq!(row.told, None);
    let claimed = claim(transaction, Level::Preconfirmed).await.unwrap();
    assert_eq!(claimed, ClaimOutcome::Claimed);
}

async fn a_foreign_end_needs_no_attempt(store: TestLedger) {
    let fence = lane(&store).await;
    let ids = payments(&store, 1).await;
    let slot = opened(&store, fence, 5, &ids).await;
    let mut foreign = closure(&slot, vec![(ids[0], Resolution::Requeued)]);
    foreign.end = SlotEnd::Foreign;
    store.ledger.close_slot(fence, foreign).await.unwrap();
    let audited = store
        .ledger
        .audit_slots(CHAIN, SIGNER, None, 10)
        .await
        .unwrap();
    assert_eq!(
        audited[0].state,
        SlotState::Closed {
            end: SlotEnd::Foreign,
            block: block(77),
            level: Level::Included
        }
    );
    let spent = store.ledger.spending(CHAIN, UnixMillis(0)).await.unwrap();
    assert_eq!(spent, Spending::default());
}

/// One payment of each outcome in slot 5, closed in block 77.
async fn closed_with_everything(store: &TestLedger) -> (FencedLane, NewSlot, Vec<SettlementId>) {
    let fence = lane(store).await;
    let ids = payments(store, 5).await;
    let slot = opened(store, fence, 5, &ids).await;
    let resolutions = vec![
        resolved(ids[0], settled(slot.attempt.hash, 77)),
        resolved(ids[1], external(900, 76)),
        (ids[2], Resolution::Requeued),
        resolved(ids[3], failed(Reason::TransactionFailed)),
        resolved(ids[4], SettlementState::Expired),
    ];
    let closure = closure(&slot, resolutions);
    store.ledger.close_slot(fence, closure).await.unwrap();
    (fence, slot, ids)
}

async fn a_reopened_slot_has_its_payments_back(store: TestLedger) {
    let (fence, slot, ids) = closed_with_everything(&store).await;
    let later = opened(&store, fence, 6, &payments(&store, 1).await).await;
    let nonces = [slot.id.nonce, later.id.nonce];
    store.ledger.reopen_slots(fence, &nonces).await.unwrap();
    // Both are open already.
    store.ledger.reopen_slots(fence, &nonces).await.unwrap();
    let open = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!(open.len(), 2);
    assert_eq!(open[0].id, slot.id);
    assert_eq!(open[0].state, SlotState::Open);
    assert_eq!(open[0].attempts, std::slice::from_ref(&slot.attempt));
    assert_eq!(open[0].payments, ids[..3]);
    assert_eq!(open[0].ended, ids[3..]);
    assert!(open[1].ended.is_empty());
    for id in &ids[..3] {
        assert_eq!(
            state(&store, *id).await,
            SettlementState::Assigned {
                slot: slot.id,
                transaction: None
            }
        );
    }
    assert_eq!(
        state(&store, ids[3]).await,
        failed(Reason::TransactionFailed)
    );
    assert_eq!(state(&store, ids[4]).await, SettlementState::Expired);
    conflict(store.ledger.reopen_slots(fence, &[AccountNonce(9)]).await);
    // A bump and another end: what had ended is settled after all.
    let second = attempt(unique() + 1_000, AttemptKind::Batch);
    let transaction = second.hash;
    store
        .ledger
        .add_attempt(fence, slot.id, second)
        .await
        .unwrap();
    let mut again = closure(
        &slot,
        vec![
            resolved(ids[0], settled(transaction, 79)),
            resolved(ids[1], settled(transaction, 79)),
            resolved(ids[2], settled(transaction, 79)),
        ],
    );
    again.end = SlotEnd::Mined {
        transaction,
        gas_used: 7,
        cost: Wei::from(7),
    };
    again.revived = ids[3..]
        .iter()
        .map(|id| (*id, receipt(transaction, 79)))
        .collect();
    store.ledger.close_slot(fence, again).await.unwrap();
    for id in &ids {
        assert_eq!(state(&store, *id).await, settled(transaction, 79));
    }
    let (_, unfinal) = unfinal(&store).await;
    assert_eq!(unfinal.len(), 1, "the other is open");
}

async fn a_reopened_slot_leaves_alone_what_failure_was_told_of(store: TestLedger) {
    let (fence, slot, ids) = closed_with_everything(&store).await;
    assert!(store.ledger.tell_failure(ids[3]).await.unwrap());
    let nonces = [slot.id.nonce];
    store.ledger.reopen_slots(fence, &nonces).await.unwrap();
    let back = |revived: Vec<SettlementId>| {
        let requeued = ids[..3].iter().map(|id| (*id, Resolution::Requeued));
        let mut again = closure(&slot, requeued.collect());
        again.revived = revived
            .iter()
            .map(|id| (*id, receipt(slot.attempt.hash, 78)))
            .collect();
        again
    };
    store
        .ledger
        .close_slot(fence, back(vec![ids[3]]))
        .await
        .unwrap();
    assert_eq!(state(&store, ids[3]).await, settled(slot.attempt.hash, 78));
    // A second reorg: nothing is signed for it again.
    store.ledger.reopen_slots(fence, &nonces).await.unwrap();
    let now = state(&store, ids[3]).await;
    assert!(
        matches!(&now, SettlementState::Failed { refusal, transaction: None } if refusal.reason == Reason::TransactionFailed),
        "{now:?}"
    );
    let open = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!(
        (&open[0].payments[..], &open[0].ended[..]),
        (&ids[..3], &ids[3..])
    );
    let kinds: Vec<_> = store
        .ledger
        .compensations(0, Some(ids[3]), 10)
        .await
        .unwrap()
        .iter()
        .map(|entry| entry.kind)
        .collect();
    assert_eq!(
        kinds,
        [
            CompensationKind::FailureSettled,
            CompensationKind::FailureRestored
        ]
    );
}

async fn what_is_finalized_is_not_reopened(store: TestLedger) {
    let (fence, slot, ids) = closed_with_everything(&store).await;
    let later = opened(&store, fence, 6, &payments(&store, 1).await).await;
    let ends = closure(
        &later,
        vec![resolved(later.payments[0], settled(later.attempt.hash, 80))],
    );
    store.ledger.close_slot(fence, ends).await.unwrap();
    store
        .ledger
        .raise_levels(fence, &[slot.id.nonce], Level::Finalized)
        .await
        .unwrap();
    let before = store.ledger.last_event().await.unwrap();
    conflict(
        store
            .ledger
            .reopen_slots(fence, &[slot.id.nonce, later.id.nonce])
            .await,
    );
    let taken = store
        .ledger
        .take_back_external(fence, &[block(76)])
        .await
        .unwrap();
    assert!(taken.is_empty());
    assert!(
        store
            .ledger
            .open_slots(CHAIN, SIGNER)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(store.ledger.last_event().await.unwrap(), before);
    let level = state(&store, ids[0]).await.level();
    assert_eq!(level, Some(Level::Finalized));
}

async fn only_what_ended_in_a_slot_is_revived_by_it(store: TestLedger) {
    let (fence, slot, ids) = closed_with_everything(&store).await;
    let elsewhere = opened(&store, fence, 6, &payments(&store, 1).await).await;
    let fails = closure(
        &elsewhere,
        vec![resolved(elsewhere.payments[0], SettlementState::Expired)],
    );
    store.ledger.close_slot(fence, fails).await.unwrap();
    store
        .ledger
        .reopen_slots(fence, &[slot.id.nonce])
        .await
        .unwrap();
    let whole: Vec<_> = ids[..3]
        .iter()
        .map(|id| (*id, Resolution::Requeued))
        .collect();
    for revived in [ids[0], elsewhere.payments[0], SettlementId::fresh()] {
        let mut wrong = closure(&slot, whole.clone());
        wrong.revived = vec![(revived, receipt(slot.attempt.hash, 78))];
        conflict(store.ledger.close_slot(fence, wrong).await);
    }
    let mut wrong = closure(&slot, whole);
    wrong.resolutions.push((ids[3], Resolution::Requeued));
    conflict(store.ledger.close_slot(fence, wrong).await);
    assert_eq!(
        store.ledger.open_slots(CHAIN, SIGNER).await.unwrap().len(),
        1
    );
}

/// A payment requeued from slot 5 and settled in another lane, while a reorg has slot 5 open again.
async fn a_sibling_s_receipt_closes_a_slot(store: TestLedger) {
    let fence = lane(&store).await;
    let ids = payments(&store, 2).await;
    let slot = opened(&store, fence, 5, &ids).await;
    let requeues = ids.iter().map(|id| (*id, Resolution::Requeued)).collect();
    let requeues = closure(&slot, requeues);
    store.ledger.close_slot(fence, requeues).await.unwrap();
    let sibling_lane = lane_of(&store, Address::repeat_byte(0x52), 3).await;
    let sibling = opened(&store, sibling_lane, 3, &ids[..1]).await;
    store
        .ledger
        .reopen_slots(fence, &[slot.id.nonce])
        .await
        .unwrap();
    let open = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!(open[0].payments, ids[1..], "the other has moved on");
    let mut ends = closure(
        &slot,
        vec![resolved(ids[1], settled(sibling.attempt.hash, 80))],
    );
    ends.end = SlotEnd::Mined {
        transaction: slot.attempt.hash,
        gas_used: 1,
        cost: Wei::from(1),
    };
    store.ledger.close_slot(fence, ends).await.unwrap();
    let (fence, slots) = unfinal(&store).await;
    assert_eq!(
        slots,
        [UnfinalSlot {
            nonce: slot.id.nonce,
            block: block(77),
            external: vec![block(80)],
            level: Level::Included
        }]
    );
    let taken = store
        .ledger
        .take_back_external(fence, &[block(80)])
        .await
        .unwrap();
    assert_eq!(taken, ids[1..]);
    assert_eq!(state(&store, ids[1]).await, SettlementState::Accepted);
}

async fn what_others_settled_is_taken_back(store: TestLedger) {
    let fence = lane(&store).await;
    let process = ProcessId::fresh();
    store
        .ledger
        .heartbeat(process, Duty::Answers, 60_000)
        .await
        .unwrap();
    let ids = payments(&store, 4).await;
    store
        .ledger
        .claim_accepted(CHAIN, process, 10, &Wanted::All)
        .await
        .unwrap();
    let slot = opened(&store, fence, 5, &ids).await;
    let ends = closure(
        &slot,
        vec![
            resolved(ids[0], external(901, 76)),
            resolved(ids[1], external(902, 76)),
            resolved(ids[2], external(903, 77)),
            resolved(ids[3], SettlementState::Expired),
        ],
    );
    store.ledger.close_slot(fence, ends).await.unwrap();
    // Failure was told of one, and a stranger settled it afterwards; only a reorg could have made it so.
    assert!(store.ledger.tell_failure(ids[3]).await.unwrap());
    store
        .ledger
        .reopen_slots(fence, &[slot.id.nonce])
        .await
        .unwrap();
    let ends = closure(
        &slot,
        vec![
            resolved(ids[0], external(901, 76)),
            resolved(ids[1], external(902, 76)),
            resolved(ids[2], external(903, 77)),
        ],
    );
    store.ledger.close_slot(fence, ends).await.unwrap();
    store
        .execute(
            "UPDATE settlements SET state = 'settled_externally', block_number = 76, block_hash = \
             (SELECT s.block_hash FROM settlements AS s WHERE s.block_number = 76 LIMIT 1), transaction_hash = digest, \
             level = 'included', log_index = 1, gas_used = 0, cost = '0' WHERE state = 'expired'",
        )
        .await;
    let (fence, slots) = unfinal(&store).await;
    assert_eq!(slots.len(), 1);
    assert_eq!(
        slots[0].external,
        [block(76)],
        "its own block is not said twice"
    );
    let mut taken = store
        .ledger
        .take_back_external(fence, &[block(76), block(12)])
        .await
        .unwrap();
    taken.sort();
    let mut expected = vec![ids[0], ids[1], ids[3]];
    expected.sort();
    assert_eq!(taken, expected);
    assert_eq!(state(&store, ids[0]).await, SettlementState::Accepted);
    assert_eq!(state(&store, ids[2]).await, external(903, 77));
    let last = state(&store, ids[3]).await;
    assert!(
        matches!(&last, SettlementState::Failed { refusal, .. } if refusal.reason == Reason::AuthorizationExpired),
        "{last:?}"
    );
    let other = ProcessId::fresh();
    let free = store
        .ledger
        .claim_accepted(CHAIN, other, 10, &Wanted::All)
        .await
        .unwrap();
    assert_eq!(free.len(), 2, "queued by nobody");
    assert!(!store.ledger.withdraw(ids[0]).await.unwrap(), "bytes exist");
    let again = store.ledger.take_back_external(fence, &[block(76)]).await;
    assert!(again.unwrap().is_empty());
}

async fn levels_rise_and_never_fall(store: TestLedger) {
    let (fence, slot, ids) = closed_with_everything(&store).await;
    let requeued = opened(&store, fence, 6, &ids[2..3]).await;
    let ends = closure(
        &requeued,
        vec![resolved(ids[2], settled(requeued.attempt.hash, 80))],
    );
    store.ledger.close_slot(fence, ends).await.unwrap();
    let levels = || async {
        let mut levels = Vec::new();
        for id in &ids[..3] {
            levels.push(state(&store, *id).await.level().unwrap());
        }
        levels
    };
    let nonces = [slot.id.nonce];
    for (level, expected, slots, events) in [
        (Level::Preconfirmed, Level::Included, 2, 0),
        (Level::Included, Level::Included, 2, 0),
        (Level::Safe, Level::Safe, 2, 2),
        (Level::Included, Level::Safe, 2, 0),
        (Level::Finalized, Level::Finalized, 1, 2),
        (Level::Safe, Level::Finalized, 1, 0),
    ] {
        let last = store.ledger.last_event().await.unwrap();
        store
            .ledger
            .raise_levels(fence, &nonces, level)
            .await
            .unwrap();
        assert_eq!(levels().await, [expected, expected, Level::Included]);
        let told = store.ledger.events(last, None, 10).await.unwrap();
        assert_eq!(told.len(), events, "watchers hear of {level:?}");
        let audited = store
            .ledger
            .audit_slots(CHAIN, SIGNER, None, 1)
            .await
            .unwrap();
        assert!(
            matches!(audited[0].state, SlotState::Closed { level, .. } if level == expected),
            "{audited:?}"
        );
        store.execute("UPDATE lanes SET owner = NULL").await;
        assert_eq!(audit_unfinal(&store).await, slots);
    }
    let later = store.ledger.take_back_external(fence, &[block(76)]).await;
    assert!(later.unwrap().is_empty(), "finalized is for ever");
}

/// How many slots are not final, without taking the lane over.
async fn audit_unfinal(store: &TestLedger) -> usize {
    let audited = store
        .ledger
        .audit_slots(CHAIN, SIGNER, None, 100)
        .await
        .unwrap();
    let unfinal = |slot: &&AuditSlot| {
        !matches!(
            slot.state,
            SlotState::Closed {
                level: Level::Finalized,
                ..
            }
        )
    };
    audited.iter().filter(unfinal).count()
}

async fn an_old_epoch_writes_nothing_of_a_reorg(store: TestLedger) {
    let (fence, slot, ids) = closed_with_everything(&store).await;
    let old = FencedLane {
        epoch: fence.epoch - 1,
        ..fence
    };
    let ledger = &store.ledger;
    let before = ledger.last_event().await.unwrap();
    for refused in [
        ledger
            .preconfirm(old, slot.id, slot.attempt.hash, &[])
            .await,
        ledger.reopen_slots(old, &[slot.id.nonce]).await,
        ledger
            .take_back_external(old, &[block(76)])
            .await
            .map(|_| ()),
        ledger
            .raise_levels(old, &[slot.id.nonce], Level::Safe)
            .await,
        ledger
            .set_lane_mode(old, LaneMode::Active, LaneMode::Frozen)
            .await
            .map(|_| ()),
    ] {
        assert!(matches!(refused, Err(StoreError::StaleLane)), "{refused:?}");
    }
    assert_eq!(ledger.last_event().await.unwrap(), before);
    assert_eq!(state(&store, ids[1]).await, external(900, 76));
}

/// The assignments that put a row into a state, whatever it was before.
fn assignments(kind: SettlementStateKind) -> String {
    use SettlementStateKind as Kind;
    let when = |yes: bool, value: &'static str| if yes { value } else { "NULL" };
    let settled = matches!(kind, Kind::Settled | Kind::SettledExternally);
    let in_slot = matches!(
        kind,
        Kind::Assigned | Kind::Preconfirmed | Kind::Unexplained
    );
    let level = match kind {
        Kind::Preconfirmed => "'preconfirmed'",
        _ => when(settled, "'included'"),
    };
    format!(
        "state = '{kind}', slot_signer = {}, slot_nonce = {}, transaction_hash = digest, reason = {}, \
         block_number = {}, block_hash = {}, log_index = 1, level = {level}, gas_used = 0, cost = '0'",
        when(in_slot, "payee"),
        when(in_slot, "5"),
        when(kind == Kind::Failed, "'invalid_payload'"),
        when(settled, "1"),
        when(settled, "digest"),
    )
}

async fn compensations_are_those_of_the_invariant(store: TestLedger) {
    let at = UnixMillis(1);
    let success = Told::Success {
        transaction: B256::ZERO,
        level: Level::Included,
        at,
    };
    let failure = Told::Failure {
        reason: Reason::TransactionFailed,
        at,
    };
    let told = [
        (None, "told = NULL"),
        (
            Some(success),
            "told = 'success', told_transaction = digest, told_level = 'included', told_at = 1",
        ),
        (
            Some(failure),
            "told = 'failure', told_reason = 'invalid_payload', told_at = 1",
        ),
    ];
    let (mut script, mut cases) = (String::new(), Vec::new());
    let mut seen = std::collections::HashSet::new();
    for (told, told_columns) in told {
        for old in SettlementStateKind::ALL {
            for new in SettlementStateKind::ALL {
                let id = accept(&store).await.id;
                let nonce = store
                    .ledger
                    .settlement(id)
                    .await
                    .unwrap()
                    .unwrap()
                    .payment
                    .key
                    .nonce;
                let row = match store.url() {
                    LedgerUrl::Sqlite(_) => format!("nonce = x'{:x}'", nonce.0),
                    LedgerUrl::Postgres(_) => format!("nonce = '\\x{:x}'::bytea", nonce.0),
                };
                for columns in [&*assignments(old), told_columns, &*assignments(new)] {
                    writeln!(script, "UPDATE settlements SET {columns} WHERE {row};").unwrap();
                }
                let expected = compensation(told, old, new);
                seen.extend(expected);
                cases.push((id, told, old, new, expected));
            }
        }
    }
    assert_eq!(seen.len(), CompensationKind::ALL.len(), "every kind is met");
    store.script(script).await;
    let mut written = 0;
    for (id, told, old, new, expected) in cases {
        let found = store.ledger.compensations(0, Some(id), 10).await.unwrap();
        let kinds: Vec<_> = found.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, Vec::from_iter(expected), "{told:?} {old} {new}");
        assert!(found.iter().all(|entry| entry.tenant == tenant("shop")));
        written += found.len();
    }
    let all = store.ledger.compensations(0, None, 1_000).await.unwrap();
    assert_eq!(all.len(), written);
}

async fn compensations_come_in_pages(store: TestLedger) {
    let (fence, slot, ids) = closed_with_everything(&store).await;
    assert!(store.ledger.tell_failure(ids[3]).await.unwrap());
    assert!(store.ledger.tell_failure(ids[4]).await.unwrap());
    let before = store.ledger.now().await.unwrap();
    store
        .ledger
        .reopen_slots(fence, &[slot.id.nonce])
        .await
        .unwrap();
    let requeued = ids[..3].iter().map(|id| (*id, Resolution::Requeued));
    let mut again = closure(&slot, requeued.collect());
    again.revived = ids[3..]
        .iter()
        .map(|id| (*id, receipt(slot.attempt.hash, 78)))
        .collect();
    store.ledger.close_slot(fence, again).await.unwrap();
    let first = store.ledger.compensations(0, None, 1).await.unwrap();
    assert_eq!(first.len(), 1);
    assert!(first[0].at >= before);
    let second = store
        .ledger
        .compensations(first[0].sequence, None, 10)
        .await
        .unwrap();
    assert_eq!(second.len(), 1);
    assert!(second[0].sequence > first[0].sequence);
    let found = [first[0].settlement, second[0].settlement];
    assert!(found.contains(&ids[3]) && found.contains(&ids[4]));
}
