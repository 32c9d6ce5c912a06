//! The contract of the ledger, held against every implementation: what payers are given for the gas of their approvals.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[macro_use]
mod support;

use alloy_primitives::{Address, U256};
use support::*;
use teller_domain::*;
use teller_store::*;

contract! {
    a_payer_is_topped_up_once_for_a_token,
    two_that_top_a_payer_up_at_once_do_it_once,
    a_top_up_that_does_not_come_about_leaves_nothing,
    a_top_up_survives_its_slots_end_and_its_return,
}

const PAYER: Address = Address::repeat_byte(0x11);
const TOKEN: Address = Address::repeat_byte(0x22);

fn top_up(payer: Address, token: Address, value: u64) -> TopUp {
    // Beyond 64 bits, so that nothing that is not exact adds it up.
    let value = Wei(U256::from(u64::MAX) * U256::from(1_000) + U256::from(value));
    TopUp {
        payer,
        token,
        value,
    }
}

async fn topping_up(store: &TestLedger, nonce: u64, top_up: TopUp) -> (NewSlot, SettlementId) {
    let payment = accept(store).await.id;
    let slot = NewSlot {
        attempt: attempt(unique() + 1_000, AttemptKind::TopUp),
        top_up: Some(top_up),
        ..new_slot(nonce, &[payment])
    };
    (slot, payment)
}

async fn found(store: &TestLedger, payer: Address, token: Address) -> Option<MadeTopUp> {
    store.ledger.top_up(CHAIN, payer, token).await.unwrap()
}

async fn a_payer_is_topped_up_once_for_a_token(store: TestLedger) {
    let fence = lane(&store).await;
    let first = top_up(PAYER, TOKEN, 1);
    let (slot, payment) = topping_up(&store, 5, first).await;
    assert_eq!(found(&store, PAYER, TOKEN).await, None);
    let opened = store.ledger.open_slot(fence, slot.clone()).await;
    assert_eq!(opened.unwrap(), OpenSlotOutcome::Opened);
    let made = MadeTopUp {
        top_up: first,
        slot: slot.id,
        open: true,
    };
    assert_eq!(found(&store, PAYER, TOKEN).await, Some(made));
    let assigned = SettlementState::Assigned {
        slot: slot.id,
        transaction: None,
    };
    assert_eq!(state(&store, payment).await, assigned);
    // What gives its payer gas does not settle the payment: its hash is never told.
    store
        .ledger
        .note_handed_over(slot.attempt.hash)
        .await
        .unwrap();
    assert_eq!(state(&store, payment).await, assigned);
    let read = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!(read[0].attempts[0].kind, AttemptKind::TopUp);

    // Again: nothing is written, and the nonce is still the next one.
    let (again, other) = topping_up(&store, 6, top_up(PAYER, TOKEN, 2)).await;
    let refused = store.ledger.open_slot(fence, again).await.unwrap();
    assert_eq!(refused, OpenSlotOutcome::ToppedUpBefore);
    assert_eq!(state(&store, other).await, SettlementState::Accepted);
    assert_eq!(found(&store, PAYER, TOKEN).await, Some(made));
    let elsewhere = Address::repeat_byte(0x33);
    for (nonce, payer, token) in [(6, PAYER, elsewhere), (7, elsewhere, TOKEN)] {
        let (slot, _) = topping_up(&store, nonce, top_up(payer, token, 3)).await;
        let opened = store.ledger.open_slot(fence, slot).await.unwrap();
        assert_eq!(opened, OpenSlotOutcome::Opened);
    }
    assert_eq!(
        store.ledger.top_up(ChainId(1), PAYER, TOKEN).await.unwrap(),
        None
    );
    let audited = store.ledger.audit_slots(CHAIN, SIGNER, None, 10).await;
    let given: Vec<_> = audited.unwrap().iter().map(|slot| slot.top_up).collect();
    let third = top_up(elsewhere, TOKEN, 3);
    let second = TopUp {
        payer: PAYER,
        token: elsewhere,
        ..third
    };
    assert_eq!(given, [Some(first), Some(second), Some(third)]);
}

async fn two_that_top_a_payer_up_at_once_do_it_once(store: TestLedger) {
    let here = lane(&store).await;
    let there = lane_of(&store, Address::repeat_byte(0x71), 9).await;
    let (one, _) = topping_up(&store, 5, top_up(PAYER, TOKEN, 1)).await;
    let (mut two, _) = topping_up(&store, 9, top_up(PAYER, TOKEN, 2)).await;
    two.id.signer = there.signer;
    let (one, two) = tokio::join!(
        store.ledger.open_slot(here, one),
        store.ledger.open_slot(there, two)
    );
    let outcomes = [one.unwrap(), two.unwrap()];
    let count = |outcome| outcomes.iter().filter(|seen| **seen == outcome).count();
    assert_eq!(count(OpenSlotOutcome::Opened), 1, "{outcomes:?}");
    assert_eq!(count(OpenSlotOutcome::ToppedUpBefore), 1, "{outcomes:?}");
}

async fn a_top_up_that_does_not_come_about_leaves_nothing(store: TestLedger) {
    let fence = lane(&store).await;
    let (slot, payment) = topping_up(&store, 5, top_up(PAYER, TOKEN, 1)).await;
    assert!(store.ledger.withdraw(payment).await.unwrap());
    let moved = store.ledger.open_slot(fence, slot).await.unwrap();
    assert_eq!(moved, OpenSlotOutcome::PaymentsMoved(vec![payment]));
    assert_eq!(found(&store, PAYER, TOKEN).await, None);
    let (slot, _) = topping_up(&store, 5, top_up(PAYER, TOKEN, 1)).await;
    let stale = FencedLane {
        epoch: fence.epoch - 1,
        ..fence
    };
    let refused = store.ledger.open_slot(stale, slot.clone()).await;
    assert!(matches!(refused, Err(StoreError::StaleLane)), "{refused:?}");
    assert_eq!(found(&store, PAYER, TOKEN).await, None);
    // For no payment, or for several, there is none.
    for payments in [vec![], payments(&store, 2).await] {
        let odd = NewSlot {
            payments,
            ..slot.clone()
        };
        conflict(store.ledger.open_slot(fence, odd).await);
    }
    assert_eq!(found(&store, PAYER, TOKEN).await, None);
    let opened = store.ledger.open_slot(fence, slot).await.unwrap();
    assert_eq!(opened, OpenSlotOutcome::Opened);
}

async fn a_top_up_survives_its_slots_end_and_its_return(store: TestLedger) {
    let fence = lane(&store).await;
    let given = top_up(PAYER, TOKEN, 1);
    let before = store.ledger.now().await.unwrap();
    let (slot, payment) = topping_up(&store, 5, given).await;
    store.ledger.open_slot(fence, slot.clone()).await.unwrap();
    let ends = closure(&slot, vec![(payment, Resolution::Requeued)]);
    store.ledger.close_slot(fence, ends).await.unwrap();
    assert_eq!(state(&store, payment).await, SettlementState::Accepted);
    let made = found(&store, PAYER, TOKEN).await.unwrap();
    assert_eq!((made.top_up, made.open), (given, false));
    let spent = store.ledger.spending(CHAIN, before).await.unwrap();
    assert_eq!(spent.top_ups, given.value);
    let later = UnixMillis(store.ledger.now().await.unwrap().0 + 1);
    let spent = store.ledger.spending(CHAIN, later).await.unwrap();
    assert_eq!(spent.top_ups, Wei::ZERO);

    let nonces = [AccountNonce(5)];
    store.ledger.reopen_slots(fence, &nonces).await.unwrap();
    assert!(found(&store, PAYER, TOKEN).await.unwrap().open);
    let assigned = SettlementState::Assigned {
        slot: slot.id,
        transaction: None,
    };
    assert_eq!(state(&store, payment).await, assigned);
}
