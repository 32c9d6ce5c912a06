//! The contract of the ledger, held against every implementation: payments that left their slots unexplained.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[macro_use]
mod support;

use support::*;
use teller_domain::*;
use teller_store::*;

contract! {
    an_unexplained_payment_is_nobody_s_to_sign_until_it_is_explained,
    whoever_takes_the_lane_goes_on_with_what_it_left_unexplained,
    what_is_unexplained_is_its_slot_s_again_when_a_reorg_reopens_that,
    an_unexplained_payment_is_explained_once_and_under_its_lane,
}

/// Payments that their closed slot left unexplained.
async fn left(store: &TestLedger, count: usize) -> (FencedLane, NewSlot, Vec<SettlementId>) {
    let fence = lane(store).await;
    let ids = payments(store, count).await;
    let slot = opened(store, fence, 5, &ids).await;
    let resolutions = ids.iter().map(|id| (*id, unexplained(&slot))).collect();
    let kept = store.ledger.close_slot(fence, closure(&slot, resolutions));
    assert!(kept.await.unwrap().is_empty());
    (fence, slot, ids)
}

fn unexplained(slot: &NewSlot) -> Resolution {
    Resolution::Unexplained {
        transaction: Some(slot.attempt.hash),
    }
}

async fn an_unexplained_payment_is_nobody_s_to_sign_until_it_is_explained(store: TestLedger) {
    let (fence, slot, ids) = left(&store, 1).await;
    let stays = SettlementState::Unexplained {
        slot: slot.id,
        transaction: Some(slot.attempt.hash),
    };
    assert_eq!(state(&store, ids[0]).await, stays);
    assert_eq!(store.ledger.unresolved().await.unwrap(), 1);
    let process = ProcessId::fresh();
    let claim = || async {
        let wanted = Wanted::All;
        let claiming = store.ledger.claim_accepted(CHAIN, process, 10, &wanted);
        claiming.await.unwrap().len()
    };
    assert_eq!(claim().await, 0);
    assert!(!store.ledger.withdraw(ids[0]).await.unwrap());
    let refused = store.ledger.open_slot(fence, new_slot(6, &ids)).await;
    assert!(
        matches!(&refused, Ok(OpenSlotOutcome::PaymentsMoved(moved)) if *moved == ids),
        "{refused:?}"
    );
    let signers = store.ledger.signers_with_open_slots(CHAIN).await.unwrap();
    assert_eq!(signers, [SIGNER]);
    let unused = [(ids[0], Resolution::Requeued)];
    let changed = store.ledger.resolve_unexplained(fence, &unused).await;
    assert_eq!(changed.unwrap(), ids);
    assert_eq!(claim().await, 1);
}

async fn whoever_takes_the_lane_goes_on_with_what_it_left_unexplained(store: TestLedger) {
    let (fence, slot, ids) = left(&store, 2).await;
    store.ledger.release_lane(fence).await.unwrap();
    let recovery = claim(&store).await;
    let mut found: Vec<SettlementId> = recovery.unexplained.iter().map(|(id, _)| *id).collect();
    found.sort();
    assert_eq!(found, ids);
    let closed_by = closure(&slot, Vec::new()).block;
    assert!(
        recovery
            .unexplained
            .iter()
            .all(|(_, block)| *block == closed_by)
    );
    assert!(recovery.open_slots.is_empty());
}

async fn what_is_unexplained_is_its_slot_s_again_when_a_reorg_reopens_that(store: TestLedger) {
    let (fence, slot, ids) = left(&store, 1).await;
    let nonces = [slot.id.nonce];
    store.ledger.reopen_slots(fence, &nonces).await.unwrap();
    // No endpoint was handed its bytes.
    let again = SettlementState::Assigned {
        slot: slot.id,
        transaction: None,
    };
    assert_eq!(state(&store, ids[0]).await, again);
    let late = [resolved(ids[0], failed(Reason::NonceAlreadyUsed))];
    let changed = store
        .ledger
        .resolve_unexplained(fence, &late)
        .await
        .unwrap();
    assert!(changed.is_empty());
    assert_eq!(state(&store, ids[0]).await, again);
}

async fn an_unexplained_payment_is_explained_once_and_under_its_lane(store: TestLedger) {
    let (fence, _, ids) = left(&store, 3).await;
    let old = FencedLane {
        epoch: fence.epoch - 1,
        ..fence
    };
    let found = [
        resolved(ids[0], external(900, 76)),
        resolved(ids[1], failed(Reason::Permit2InvalidNonce)),
        resolved(ids[2], SettlementState::Expired),
    ];
    let refused = store.ledger.resolve_unexplained(old, &found).await;
    assert!(matches!(refused, Err(StoreError::StaleLane)), "{refused:?}");
    let mut changed = store
        .ledger
        .resolve_unexplained(fence, &found)
        .await
        .unwrap();
    changed.sort();
    assert_eq!(changed, ids);
    let again = store
        .ledger
        .resolve_unexplained(fence, &found)
        .await
        .unwrap();
    assert!(again.is_empty());
    assert_eq!(state(&store, ids[0]).await, external(900, 76));
    let wrong = [(ids[0], Resolution::Unexplained { transaction: None })];
    conflict(store.ledger.resolve_unexplained(fence, &wrong).await);
}
