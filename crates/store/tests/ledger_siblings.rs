//! The contract of the ledger, held against every implementation: payments that several open slots carry, after a reorg
//! has reopened a slot whose payments went on to others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[macro_use]
mod support;

use alloy_primitives::Address;
use support::*;
use teller_domain::*;
use teller_store::*;

contract! {
    what_another_open_slot_carries_is_neither_ended_nor_signed_anew,
    what_a_sibling_settles_is_settled,
    what_was_requeued_is_a_reopened_slot_s_again,
    what_is_taken_back_is_an_open_slot_s_again,
}

const SIBLING: Address = Address::repeat_byte(0x52);

fn foreign(slot: &NewSlot, resolutions: Vec<(SettlementId, Resolution)>) -> SlotClosure {
    SlotClosure {
        end: SlotEnd::Foreign,
        ..closure(slot, resolutions)
    }
}

fn requeue(ids: &[SettlementId]) -> Vec<(SettlementId, Resolution)> {
    ids.iter().map(|id| (*id, Resolution::Requeued)).collect()
}

fn assigned(slot: &NewSlot) -> SettlementState {
    SettlementState::Assigned {
        slot: slot.id,
        transaction: None,
    }
}

/// Three payments whose first slot was closed by a stranger; they went on to a slot of another lane, and a reorg has
/// reopened the first.
async fn carried_twice(
    store: &TestLedger,
) -> (
    (FencedLane, NewSlot),
    (FencedLane, NewSlot),
    Vec<SettlementId>,
) {
    let fence = lane(store).await;
    let ids = payments(store, 3).await;
    let slot = opened(store, fence, 5, &ids).await;
    let ends = foreign(&slot, requeue(&ids));
    let kept = store.ledger.close_slot(fence, ends).await.unwrap();
    assert!(kept.is_empty(), "no other slot carries them");
    let sibling_lane = lane_of(store, SIBLING, 3).await;
    let sibling = opened(store, sibling_lane, 3, &ids).await;
    store
        .ledger
        .reopen_slots(fence, &[slot.id.nonce])
        .await
        .unwrap();
    for id in &ids {
        assert_eq!(state(store, *id).await, assigned(&sibling));
    }
    ((fence, slot), (sibling_lane, sibling), ids)
}

async fn what_another_open_slot_carries_is_neither_ended_nor_signed_anew(store: TestLedger) {
    let ((fence, slot), (sibling_lane, sibling), ids) = carried_twice(&store).await;
    let ends = foreign(
        &sibling,
        vec![
            (ids[0], Resolution::Requeued),
            resolved(ids[1], failed(Reason::TransactionFailed)),
            resolved(ids[2], SettlementState::Expired),
        ],
    );
    let mut kept = store.ledger.close_slot(sibling_lane, ends).await.unwrap();
    kept.sort();
    assert_eq!(kept, ids);
    for id in &ids {
        assert_eq!(state(&store, *id).await, assigned(&slot));
    }
    let process = ProcessId::fresh();
    let claimed = store
        .ledger
        .claim_accepted(CHAIN, process, 10, &Wanted::All)
        .await;
    assert!(claimed.unwrap().is_empty());
    let open = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!(open[0].payments, ids);
    // Whoever holds the first slot does not know of them yet: he is refused, and reads them.
    conflict(store.ledger.close_slot(fence, foreign(&slot, vec![])).await);
    let ends = foreign(&slot, requeue(&ids));
    let kept = store.ledger.close_slot(fence, ends).await.unwrap();
    assert!(kept.is_empty(), "the last of them is closed");
    for id in &ids {
        assert_eq!(state(&store, *id).await, SettlementState::Accepted);
    }
}

async fn what_a_sibling_settles_is_settled(store: TestLedger) {
    let ((fence, slot), (sibling_lane, sibling), ids) = carried_twice(&store).await;
    let mined = settled(sibling.attempt.hash, 77);
    let ends = closure(
        &sibling,
        vec![
            resolved(ids[0], mined.clone()),
            resolved(ids[1], external(900, 76)),
            (ids[2], Resolution::Requeued),
        ],
    );
    let kept = store.ledger.close_slot(sibling_lane, ends).await.unwrap();
    assert_eq!(kept, ids[2..]);
    assert_eq!(state(&store, ids[0]).await, mined);
    assert_eq!(state(&store, ids[1]).await, external(900, 76));
    let open = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!(open[0].payments, ids[2..]);
    let ends = closure(
        &slot,
        vec![resolved(ids[2], settled(slot.attempt.hash, 77))],
    );
    store.ledger.close_slot(fence, ends).await.unwrap();
    assert_eq!(state(&store, ids[2]).await, settled(slot.attempt.hash, 77));
}

async fn what_was_requeued_is_a_reopened_slot_s_again(store: TestLedger) {
    let fence = lane(&store).await;
    let ids = payments(&store, 2).await;
    let slot = opened(&store, fence, 5, &ids).await;
    let ends = foreign(&slot, requeue(&ids));
    store.ledger.close_slot(fence, ends).await.unwrap();
    let sibling_lane = lane_of(&store, SIBLING, 3).await;
    let sibling = opened(&store, sibling_lane, 3, &ids[..1]).await;
    let ends = foreign(&sibling, requeue(&ids[..1]));
    store.ledger.close_slot(sibling_lane, ends).await.unwrap();
    assert_eq!(state(&store, ids[0]).await, SettlementState::Accepted);
    store
        .ledger
        .reopen_slots(fence, &[slot.id.nonce])
        .await
        .unwrap();
    for id in &ids {
        assert_eq!(state(&store, *id).await, assigned(&slot));
    }
}

async fn what_is_taken_back_is_an_open_slot_s_again(store: TestLedger) {
    let ((_, slot), (sibling_lane, sibling), ids) = carried_twice(&store).await;
    let ends = foreign(
        &sibling,
        ids.iter()
            .map(|id| resolved(*id, external(900, 76)))
            .collect(),
    );
    let kept = store.ledger.close_slot(sibling_lane, ends).await.unwrap();
    assert!(kept.is_empty(), "others settled them");
    let taken = store
        .ledger
        .take_back_external(sibling_lane, &[block(76)])
        .await
        .unwrap();
    assert_eq!(taken, ids);
    for id in &ids {
        assert_eq!(state(&store, *id).await, assigned(&slot));
    }
}
