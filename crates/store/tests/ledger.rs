//! The contract of the ledger, held against every implementation on a real store.
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

use std::time::Duration;

use alloy_primitives::U256;
use futures::future::join_all;
use support::*;
use teller_domain::*;
use teller_store::*;

contract! {
    of_fifty_accepts_of_one_authorization_one_is_accepted,
    a_bad_row_does_not_fail_its_neighbours,
    a_withdrawn_payment_may_be_accepted_again_under_a_new_id,
    amounts_up_to_256_bits_come_back_exactly,
    times_up_to_256_bits_come_back_as_they_were_signed,
    every_way_of_paying_comes_back_as_it_was_signed,
    what_charges_nothing_is_settled_as_it_is_accepted_and_told_once,
    a_withdrawal_and_a_slot_never_both_get_a_payment,
    a_slot_under_an_old_epoch_or_another_nonce_writes_nothing,
    a_slot_with_a_moved_payment_writes_nothing,
    closing_a_slot_resolves_and_requeues,
    a_slot_is_closed_once_and_with_every_payment,
    attempts_are_added_in_order_and_name_the_newest_hash,
    accepted_payments_are_resolved_without_a_slot,
    of_fifty_claims_one_delivers,
    a_claim_is_released_by_its_own_request,
    a_dead_process_leaves_its_claim,
    what_is_not_settled_cannot_be_claimed,
    an_idempotency_key_belongs_to_one_payment,
    another_genesis_is_refused,
    a_lane_is_taken_over_after_its_lease_and_not_before,
    a_nonce_is_adopted_only_without_open_slots,
    pages_are_of_one_tenant_newest_first,
    settlements_are_found_by_what_is_known_of_them,
    events_come_in_order_and_once,
    what_is_long_over_is_pruned,
    pruning_leaves_the_newest_event,
    a_restart_keeps_everything,
    changes_wake_their_watchers,
}

async fn of_fifty_accepts_of_one_authorization_one_is_accepted(store: TestLedger) {
    let payment = payment();
    let outcomes =
        join_all((0..50).map(|_| store.ledger.accept(new_settlement("shop", payment.clone()))))
            .await;
    let mut winners = Vec::new();
    let mut found = Vec::new();
    for outcome in outcomes {
        match outcome.unwrap() {
            AcceptOutcome::Accepted(settlement) => winners.push(settlement),
            AcceptOutcome::Exists(settlement) => found.push(settlement),
        }
    }
    assert_eq!((winners.len(), found.len()), (1, 49));
    assert!(found.iter().all(|settlement| *settlement == winners[0]));
    assert_eq!(
        store.ledger.find(payment.key).await.unwrap().as_ref(),
        winners.first()
    );
    assert_eq!(store.ledger.unresolved().await.unwrap(), 1);
}

async fn a_bad_row_does_not_fail_its_neighbours(store: TestLedger) {
    let known = accept(&store).await;
    let outcomes = join_all((0..40).map(|n| {
        let mut new = new_settlement("shop", payment());
        match n % 4 {
            0 => new.payment.key.chain = ChainId(u64::MAX),
            1 => new.id = known.id,
            _ => {}
        }
        store.ledger.accept(new)
    }))
    .await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        match n % 4 {
            0 => assert!(
                matches!(outcome, Err(StoreError::OutOfRange(_))),
                "{outcome:?}"
            ),
            1 => assert!(
                matches!(outcome, Err(StoreError::Conflict { .. })),
                "{outcome:?}"
            ),
            _ => assert!(
                matches!(outcome, Ok(AcceptOutcome::Accepted(_))),
                "{outcome:?}"
            ),
        }
    }
    let again = new_settlement("shop", known.payment.clone());
    let again = NewSettlement {
        id: known.id,
        ..again
    };
    let outcome = store.ledger.accept(again).await.unwrap();
    assert!(matches!(outcome, AcceptOutcome::Exists(found) if found == known));
}

async fn a_withdrawn_payment_may_be_accepted_again_under_a_new_id(store: TestLedger) {
    let first = accept(&store).await;
    assert!(store.ledger.withdraw(first.id).await.unwrap());
    assert!(!store.ledger.withdraw(first.id).await.unwrap());
    let found = store.ledger.find(first.payment.key).await.unwrap().unwrap();
    assert_eq!(found.state, SettlementState::Withdrawn);
    let outcomes = join_all((0..10).map(|_| {
        store
            .ledger
            .accept(new_settlement("other", first.payment.clone()))
    }))
    .await;
    let winners: Vec<Settlement> = outcomes
        .into_iter()
        .filter_map(|outcome| match outcome.unwrap() {
            AcceptOutcome::Accepted(settlement) => Some(settlement),
            AcceptOutcome::Exists(_) => None,
        })
        .collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(winners[0].tenant, tenant("other"));
    assert_eq!(
        store
            .ledger
            .settlement(winners[0].id)
            .await
            .unwrap()
            .as_ref(),
        winners.first()
    );
    assert!(store.ledger.settlement(first.id).await.unwrap().is_none());
}

async fn amounts_up_to_256_bits_come_back_exactly(store: TestLedger) {
    for value in [U256::ZERO, U256::from(u128::MAX) + U256::ONE, U256::MAX] {
        let mut new = new_settlement("shop", payment());
        new.payment.value = AssetAmount(value);
        let written = accepted(store.ledger.accept(new.clone()).await.unwrap());
        assert_eq!(written.payment, new.payment);
        assert_eq!(
            store.ledger.find(new.payment.key).await.unwrap(),
            Some(written)
        );
    }
    let settled = settle(&store).await;
    assert!(
        matches!(settled.state, SettlementState::Settled(receipt) if receipt.cost == Wei(U256::MAX))
    );
}

async fn times_up_to_256_bits_come_back_as_they_were_signed(store: TestLedger) {
    let clock = U256::from(u64::MAX);
    let moments = [
        U256::ZERO,
        U256::from(9),
        clock,
        clock + U256::ONE,
        U256::MAX - U256::ONE,
        U256::MAX,
    ];
    let ecdsa = || payment().authorization.signature().clone();
    let mut payments = Vec::new();
    for (valid_after, end) in moments.into_iter().zip(moments.into_iter().rev()) {
        for payment in [
            payment(),
            permit2(PermitTerms::Exact, ecdsa(), false),
            permit2(upto(AssetAmount::from(2_000)), ecdsa(), false),
        ] {
            let validity = Validity::signed(valid_after, end);
            payments.push(Payment {
                validity,
                ..payment
            });
        }
    }
    let accepting = payments
        .iter()
        .map(|payment| store.ledger.accept(new_settlement("shop", payment.clone())));
    let written = join_all(accepting).await.into_iter();
    let written: Vec<Settlement> = written.map(|outcome| accepted(outcome.unwrap())).collect();
    for (payment, written) in payments.iter().zip(&written) {
        let found = store.ledger.find(payment.key).await.unwrap();
        assert_eq!(found.as_ref(), Some(written));
        assert_eq!(written.payment, *payment);
        assert_eq!(written.digest, payment.digest());
    }
    let open = store.ledger.unresolved_settlements().await.unwrap();
    assert_eq!(open.len(), payments.len());
}

fn permit2(terms: PermitTerms, signature: PayerSignature, with_allowance: bool) -> Payment {
    let mut payment = payment();
    payment.key.authority = PERMIT2;
    let permitted = match terms {
        PermitTerms::Exact => payment.value,
        PermitTerms::Upto { permitted, .. } => permitted,
    };
    let bytes: Vec<u8> = (0..TokenPermit::BYTES).map(|n| n as u8).collect();
    let allowance =
        TokenPermit::of_checked(payment.key.payer, payment.asset, permitted, &bytes).unwrap();
    payment.authorization = Authorization::Permit2(Box::new(Permit2 {
        terms,
        signature,
        allowance: with_allowance.then(|| Box::new(Allowance::Permit(allowance))),
    }));
    payment
}

fn approved(length: usize) -> Payment {
    let ecdsa = payment().authorization.signature().clone();
    let mut payment = permit2(PermitTerms::Exact, ecdsa, false);
    if let Authorization::Permit2(permit) = &mut payment.authorization {
        let transaction = vec![2; length].into();
        let approval = TokenApproval::of_checked(payment.key.payer, payment.asset, transaction);
        permit.allowance = Some(Box::new(Allowance::Approval(approval)));
    }
    payment
}

fn upto(permitted: AssetAmount) -> PermitTerms {
    PermitTerms::Upto {
        facilitator: SIGNER,
        permitted,
    }
}

fn delegated(length: usize) -> Payment {
    let delegation = Delegation::new(vec![7; length].into(), SIGNER).unwrap();
    let mut payment = payment();
    payment.key.nonce = delegation.nonce();
    payment.validity = Delegation::validity();
    payment.authorization = Authorization::Erc7710(delegation.into());
    payment
}

async fn every_way_of_paying_comes_back_as_it_was_signed(store: TestLedger) {
    let ecdsa = || payment().authorization.signature().clone();
    let contract = |length: usize| PayerSignature::Contract(vec![7; length].into());
    let counterfactual = PayerSignature::from(Counterfactual {
        factory: SIGNER,
        factory_calldata: vec![0; 3_000].into(),
        signature: vec![9; 65].into(),
    });
    let eip3009 = |signature| Payment {
        authorization: Authorization::Eip3009 { signature },
        ..payment()
    };
    let most = AssetAmount(U256::MAX);
    let payments = [
        eip3009(ecdsa()),
        eip3009(contract(64)),
        eip3009(contract(65)),
        eip3009(contract(4_000)),
        eip3009(counterfactual),
        permit2(PermitTerms::Exact, ecdsa(), false),
        permit2(PermitTerms::Exact, contract(100), true),
        permit2(upto(most), ecdsa(), false),
        permit2(upto(most), contract(65), true),
        approved(1),
        approved(1_024),
        delegated(1),
        delegated(Delegation::MAX_CONTEXT_BYTES),
    ];
    // In one group, as they come together.
    let accepting = payments
        .iter()
        .map(|payment| store.ledger.accept(new_settlement("shop", payment.clone())));
    for outcome in join_all(accepting).await {
        assert!(matches!(outcome.unwrap(), AcceptOutcome::Accepted(_)));
    }
    for payment in payments {
        let found = store.ledger.find(payment.key).await.unwrap().unwrap();
        assert_eq!(found.payment, payment);
        assert_eq!(found.digest, payment.digest());
        assert_eq!(found.state, SettlementState::Accepted);
        assert!(found.attribution.is_empty());
        // Taken back and accepted anew as another kind: nothing of the old one is left.
        assert!(store.ledger.withdraw(found.id).await.unwrap());
        let mut plain = payment.clone();
        plain.authorization = Authorization::Eip3009 { signature: ecdsa() };
        let attribution = alloy_primitives::Bytes::from(vec![9; 300]);
        let again = NewSettlement {
            attribution: attribution.clone(),
            ..new_settlement("shop", plain.clone())
        };
        store.ledger.accept(again).await.unwrap();
        let found = store.ledger.find(payment.key).await.unwrap().unwrap();
        assert_eq!((found.payment, found.attribution), (plain, attribution));
    }
}

async fn what_charges_nothing_is_settled_as_it_is_accepted_and_told_once(store: TestLedger) {
    let ecdsa = payment().authorization.signature().clone();
    let mut free = permit2(upto(AssetAmount::from(9)), ecdsa, false);
    free.value = AssetAmount::ZERO;
    let new = new_settlement("shop", free.clone());
    let AcceptOutcome::Accepted(accepted) = store.ledger.accept(new.clone()).await.unwrap() else {
        panic!("not accepted")
    };
    let nothing = SettlementState::Settled(Receipt::NOTHING);
    assert_eq!(accepted.state, nothing);
    let found = store.ledger.find(free.key).await.unwrap().unwrap();
    assert_eq!(found, accepted);
    assert_eq!(store.ledger.unresolved().await.unwrap(), 0);
    // It is used up: what would move something is not accepted any more.
    let more = Payment {
        value: AssetAmount::from(9),
        ..free
    };
    let outcome = store.ledger.accept(new_settlement("shop", more)).await;
    assert!(matches!(outcome.unwrap(), AcceptOutcome::Exists(found) if found == accepted));
    let success = Success {
        transaction: Receipt::NOTHING.transaction,
        level: Receipt::NOTHING.level,
    };
    let mut claimed = 0;
    for _ in 0..2 {
        let (request, process) = (RequestId::fresh(), ProcessId::fresh());
        let claim = store
            .ledger
            .claim_delivery(new.id, request, process, success);
        claimed += usize::from(claim.await.unwrap() == ClaimOutcome::Claimed);
        let _ = store.ledger.confirm_delivery(new.id, request).await;
    }
    assert_eq!(claimed, 1);
}

async fn a_withdrawal_and_a_slot_never_both_get_a_payment(store: TestLedger) {
    let fence = lane(&store).await;
    let mut nonce = 5;
    for _ in 0..20 {
        let settlement = accept(&store).await;
        let (withdrawn, opened) = tokio::join!(
            store.ledger.withdraw(settlement.id),
            store
                .ledger
                .open_slot(fence, new_slot(nonce, &[settlement.id])),
        );
        match opened.unwrap() {
            OpenSlotOutcome::Opened => {
                nonce += 1;
                assert!(!withdrawn.unwrap());
            }
            OpenSlotOutcome::PaymentsMoved(moved) => {
                assert_eq!(moved, [settlement.id]);
                assert!(withdrawn.unwrap());
            }
            OpenSlotOutcome::ToppedUpBefore => panic!("nobody asked for a top-up"),
        }
    }
}

async fn a_slot_under_an_old_epoch_or_another_nonce_writes_nothing(store: TestLedger) {
    let fence = lane(&store).await;
    let settlement = accept(&store).await;
    let old = FencedLane {
        epoch: fence.epoch - 1,
        ..fence
    };
    for (fence, slot) in [
        (old, new_slot(5, &[settlement.id])),
        (fence, new_slot(6, &[settlement.id])),
        (fence, new_slot(4, &[settlement.id])),
    ] {
        let refused = store.ledger.open_slot(fence, slot).await;
        assert!(matches!(refused, Err(StoreError::StaleLane)), "{refused:?}");
    }
    assert!(
        store
            .ledger
            .open_slots(CHAIN, SIGNER)
            .await
            .unwrap()
            .is_empty()
    );
    let found = store
        .ledger
        .settlement(settlement.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.state, SettlementState::Accepted);
    let slot = new_slot(5, &[settlement.id]);
    assert_eq!(
        store.ledger.open_slot(fence, slot.clone()).await.unwrap(),
        OpenSlotOutcome::Opened
    );
    for refused in [
        store
            .ledger
            .add_attempt(old, slot.id, attempt(1, AttemptKind::Batch))
            .await,
        store
            .ledger
            .close_slot(old, closure(&slot, vec![]))
            .await
            .map(|_| ()),
        store.ledger.renew_lane(old, 1).await.map(|_| ()),
        store.ledger.release_lane(old).await,
        store.ledger.adopt_nonce(old, AccountNonce(9)).await,
    ] {
        assert!(matches!(refused, Err(StoreError::StaleLane)), "{refused:?}");
    }
    let open = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!((open.len(), open[0].attempts.len()), (1, 1));
    assert_eq!(open[0].attempts[0], slot.attempt);
    assert_eq!(open[0].payments, slot.payments);
    assert_eq!(
        store.ledger.signers_with_open_slots(CHAIN).await.unwrap(),
        [SIGNER]
    );
}

async fn a_slot_with_a_moved_payment_writes_nothing(store: TestLedger) {
    let fence = lane(&store).await;
    let (stays, moves) = (accept(&store).await, accept(&store).await);
    assert!(store.ledger.withdraw(moves.id).await.unwrap());
    let unknown = SettlementId::fresh();
    let outcome = store
        .ledger
        .open_slot(fence, new_slot(5, &[stays.id, moves.id, unknown]))
        .await
        .unwrap();
    assert_eq!(
        outcome,
        OpenSlotOutcome::PaymentsMoved(vec![moves.id, unknown])
    );
    assert!(
        store
            .ledger
            .open_slots(CHAIN, SIGNER)
            .await
            .unwrap()
            .is_empty()
    );
    let found = store.ledger.settlement(stays.id).await.unwrap().unwrap();
    assert_eq!((found.state, found.tries), (SettlementState::Accepted, 0));
    let opened = store
        .ledger
        .open_slot(fence, new_slot(5, &[stays.id]))
        .await
        .unwrap();
    assert_eq!(opened, OpenSlotOutcome::Opened);
}

async fn closing_a_slot_resolves_and_requeues(store: TestLedger) {
    let fence = lane(&store).await;
    let mut payments = Vec::new();
    for _ in 0..5 {
        payments.push(accept(&store).await.id);
    }
    let slot = new_slot(5, &payments);
    store.ledger.open_slot(fence, slot.clone()).await.unwrap();
    for settlement in store.ledger.settlements(&payments).await.unwrap() {
        assert_eq!(
            settlement.state,
            SettlementState::Assigned {
                slot: slot.id,
                transaction: None
            }
        );
        assert_eq!(settlement.tries, 1);
    }
    let states = [
        SettlementState::Settled(receipt(slot.attempt.hash, 77)),
        SettlementState::SettledExternally(receipt(hash(9), 76)),
        SettlementState::Failed {
            refusal: Refusal::new(Reason::TransactionFailed, "it \"reverted\" 'so' \u{1f4b8}"),
            transaction: Some(slot.attempt.hash),
        },
        SettlementState::Expired,
    ];
    let mut resolutions: Vec<_> = payments
        .iter()
        .copied()
        .zip(states.iter().cloned().map(Resolution::Resolved))
        .collect();
    resolutions.push((payments[4], Resolution::Requeued));
    store
        .ledger
        .close_slot(fence, closure(&slot, resolutions))
        .await
        .unwrap();
    for (id, state) in payments.iter().zip(&states) {
        let found = store.ledger.settlement(*id).await.unwrap().unwrap();
        assert_eq!(&found.state, state);
    }
    let queued = store
        .ledger
        .claim_accepted(CHAIN, ProcessId::fresh(), 10, &Wanted::All)
        .await
        .unwrap();
    assert_eq!(queued.len(), 1);
    assert_eq!((queued[0].id, queued[0].tries), (payments[4], 1));
    assert!(
        !store.ledger.withdraw(payments[4]).await.unwrap(),
        "bytes that settle it exist"
    );
    store
        .ledger
        .open_slot(fence, new_slot(6, &payments[4..]))
        .await
        .unwrap();
    let found = store.ledger.settlement(payments[4]).await.unwrap().unwrap();
    assert_eq!(found.tries, 2);
    assert_eq!(
        store.ledger.unresolved_settlements().await.unwrap(),
        [found]
    );
}

async fn a_slot_is_closed_once_and_with_every_payment(store: TestLedger) {
    let fence = lane(&store).await;
    let (one, two) = (accept(&store).await.id, accept(&store).await.id);
    let slot = new_slot(5, &[one, two]);
    store.ledger.open_slot(fence, slot.clone()).await.unwrap();
    let requeued = |id| (id, Resolution::Requeued);
    let strange = Resolution::Resolved(SettlementState::Withdrawn);
    let mut unknown = closure(&slot, vec![requeued(one), requeued(two)]);
    unknown.end = SlotEnd::Mined {
        transaction: hash(123),
        gas_used: 1,
        cost: Wei::from(1),
    };
    for refused in [
        unknown,
        closure(&slot, vec![requeued(one)]),
        closure(
            &slot,
            vec![
                requeued(one),
                requeued(two),
                requeued(SettlementId::fresh()),
            ],
        ),
        closure(&slot, vec![requeued(one), (two, strange)]),
    ] {
        let refused = store.ledger.close_slot(fence, refused).await;
        assert!(
            matches!(refused, Err(StoreError::Conflict { .. })),
            "{refused:?}"
        );
        assert_eq!(
            store.ledger.open_slots(CHAIN, SIGNER).await.unwrap().len(),
            1
        );
    }
    let whole = closure(&slot, vec![requeued(one), requeued(two)]);
    store.ledger.close_slot(fence, whole.clone()).await.unwrap();
    let again = store.ledger.close_slot(fence, whole).await;
    assert!(
        matches!(again, Err(StoreError::Conflict { .. })),
        "{again:?}"
    );
    let late = store
        .ledger
        .add_attempt(fence, slot.id, attempt(1, AttemptKind::Batch))
        .await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
}

async fn attempts_are_added_in_order_and_name_the_newest_hash(store: TestLedger) {
    let fence = lane(&store).await;
    let settlement = accept(&store).await;
    let slot = new_slot(5, &[settlement.id]);
    store.ledger.open_slot(fence, slot.clone()).await.unwrap();
    let second = attempt(11, AttemptKind::Batch);
    let third = attempt(12, AttemptKind::NoOp);
    store
        .ledger
        .add_attempt(fence, slot.id, second.clone())
        .await
        .unwrap();
    // Once more, as after an answer that was lost.
    store
        .ledger
        .add_attempt(fence, slot.id, second.clone())
        .await
        .unwrap();
    store
        .ledger
        .add_attempt(fence, slot.id, third.clone())
        .await
        .unwrap();
    let stolen = store.ledger.open_slot(
        fence,
        NewSlot {
            attempt: second.clone(),
            ..new_slot(6, &[accept(&store).await.id])
        },
    );
    assert!(matches!(stolen.await, Err(StoreError::Conflict { .. })));
    // A hash is told once its bytes were handed to an endpoint: the newest of those that carry the payment.
    let told = || async {
        let found = store.ledger.settlement(settlement.id).await;
        match found.unwrap().unwrap().state {
            SettlementState::Assigned { transaction, .. } => transaction,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told().await, None);
    let third_is_a_no_op = third.hash;
    for (handed_over, is_told) in [
        (third_is_a_no_op, None),
        (slot.attempt.hash, Some(slot.attempt.hash)),
        (second.hash, Some(second.hash)),
        (slot.attempt.hash, Some(second.hash)),
        (hash(0xdead), Some(second.hash)),
    ] {
        store.ledger.note_handed_over(handed_over).await.unwrap();
        assert_eq!(told().await, is_told);
    }
    let open = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!(open[0].attempts, [slot.attempt, second, third]);
    assert_eq!(open[0].after, slot.after);
    assert_eq!(open[0].state, SlotState::Open);
}

async fn accepted_payments_are_resolved_without_a_slot(store: TestLedger) {
    let fence = lane(&store).await;
    let (one, two, three) = (
        accept(&store).await.id,
        accept(&store).await.id,
        accept(&store).await.id,
    );
    store
        .ledger
        .open_slot(fence, new_slot(5, &[three]))
        .await
        .unwrap();
    let failed = SettlementState::Failed {
        refusal: Refusal::new(Reason::FeeCeilingExceeded, "too dear"),
        transaction: None,
    };
    let changed = store
        .ledger
        .resolve_accepted(
            fence,
            &[
                (one, failed.clone()),
                (two, SettlementState::Expired),
                (three, SettlementState::Expired),
            ],
        )
        .await
        .unwrap();
    assert_eq!(changed.len(), 2);
    assert!(changed.contains(&one) && changed.contains(&two));
    assert_eq!(
        store.ledger.settlement(one).await.unwrap().unwrap().state,
        failed
    );
    let settled = SettlementState::Settled(receipt(hash(1), 2));
    let refused = store
        .ledger
        .resolve_accepted(fence, &[(three, settled)])
        .await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { .. })),
        "{refused:?}"
    );
}

async fn of_fifty_claims_one_delivers(store: TestLedger) {
    let settled = settle(&store).await;
    let process = ProcessId::fresh();
    store
        .ledger
        .heartbeat(process, Duty::Answers, 60_000)
        .await
        .unwrap();
    let requests: Vec<RequestId> = (0..50).map(|_| RequestId::fresh()).collect();
    let outcomes = join_all(
        requests
            .iter()
            .map(|request| store.claim(settled.id, *request, process)),
    )
    .await;
    let winners: Vec<RequestId> = requests
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| *outcome.as_ref().unwrap() == ClaimOutcome::Claimed)
        .map(|(request, _)| *request)
        .collect();
    assert_eq!(winners.len(), 1);
    let again = store.claim(settled.id, winners[0], process).await.unwrap();
    assert_eq!(
        again,
        ClaimOutcome::Claimed,
        "the same request may have it again"
    );
}

async fn a_claim_is_released_by_its_own_request(store: TestLedger) {
    let settled = settle(&store).await;
    let process = ProcessId::fresh();
    store
        .ledger
        .heartbeat(process, Duty::Answers, 60_000)
        .await
        .unwrap();
    let (one, two) = (RequestId::fresh(), RequestId::fresh());
    let claim = |request| store.claim(settled.id, request, process);
    assert_eq!(claim(one).await.unwrap(), ClaimOutcome::Claimed);
    store
        .ledger
        .release_delivery(settled.id, two)
        .await
        .unwrap();
    assert_eq!(claim(two).await.unwrap(), ClaimOutcome::Taken);
    store
        .ledger
        .release_delivery(settled.id, one)
        .await
        .unwrap();
    assert_eq!(claim(two).await.unwrap(), ClaimOutcome::Claimed);
    let stranger = store.ledger.confirm_delivery(settled.id, one).await;
    assert!(
        matches!(stranger, Err(StoreError::Conflict { .. })),
        "{stranger:?}"
    );
    for _ in 0..2 {
        let confirming = store.ledger.confirm_delivery(settled.id, two);
        confirming.await.unwrap();
    }
    assert_eq!(claim(one).await.unwrap(), ClaimOutcome::Delivered);
    assert_eq!(claim(two).await.unwrap(), ClaimOutcome::Claimed);
    // The answer could not be handed to the transport after all.
    for request in [one, two] {
        let releasing = store.ledger.release_delivery(settled.id, request);
        releasing.await.unwrap();
    }
    assert_eq!(told(&store, settled.id).await, None);
    assert_eq!(claim(one).await.unwrap(), ClaimOutcome::Claimed);
}

async fn a_dead_process_leaves_its_claim(store: TestLedger) {
    let (dies, lives) = (ProcessId::fresh(), ProcessId::fresh());
    store
        .ledger
        .heartbeat(lives, Duty::Answers, 60_000)
        .await
        .unwrap();
    let (first, second) = (settle(&store).await, settle(&store).await);
    let request = RequestId::fresh;
    store
        .ledger
        .heartbeat(dies, Duty::Answers, 60_000)
        .await
        .unwrap();
    let confirmed = request();
    for (settled, request) in [(&first, request()), (&second, confirmed)] {
        let claimed = store.claim(settled.id, request, dies).await.unwrap();
        assert_eq!(claimed, ClaimOutcome::Claimed);
    }
    store
        .ledger
        .confirm_delivery(second.id, confirmed)
        .await
        .unwrap();
    let early = store.claim(first.id, request(), lives).await.unwrap();
    assert_eq!(early, ClaimOutcome::Taken);
    store
        .ledger
        .heartbeat(dies, Duty::Answers, 1)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let late = store.claim(first.id, request(), lives).await.unwrap();
    assert_eq!(late, ClaimOutcome::Claimed);
    let delivered = store.claim(second.id, request(), lives).await.unwrap();
    assert_eq!(delivered, ClaimOutcome::Delivered);
}

async fn what_is_not_settled_cannot_be_claimed(store: TestLedger) {
    let settlement = accept(&store).await;
    for id in [settlement.id, SettlementId::fresh()] {
        let refused = store
            .claim(id, RequestId::fresh(), ProcessId::fresh())
            .await;
        assert!(
            matches!(refused, Err(StoreError::Conflict { .. })),
            "{refused:?}"
        );
    }
}

async fn an_idempotency_key_belongs_to_one_payment(store: TestLedger) {
    let key: IdempotencyKey = "order 7".parse().unwrap();
    let (one, two) = (payment().digest(), payment().digest());
    let (shop, other) = (tenant("shop"), tenant("other"));
    let bind = |tenant, endpoint, digest| {
        store
            .ledger
            .bind_idempotency_key(tenant, endpoint, &key, digest)
    };
    let bound = bind(&shop, "settle", one).await.unwrap();
    assert!(matches!(bound, IdempotencyOutcome::Bound(_)));
    assert_eq!(bind(&shop, "settle", one).await.unwrap(), bound);
    let used = bind(&shop, "settle", two).await.unwrap();
    assert_eq!(used, IdempotencyOutcome::UsedForAnother(one));
    for (tenant, endpoint) in [(&shop, "verify"), (&other, "settle")] {
        let elsewhere = bind(tenant, endpoint, two).await.unwrap();
        assert!(matches!(elsewhere, IdempotencyOutcome::Bound(_)));
        assert_ne!(elsewhere, bound);
    }
}

async fn another_genesis_is_refused(store: TestLedger) {
    assert_eq!(store.ledger.genesis(CHAIN).await.unwrap(), None);
    store.ledger.bind_network(CHAIN, hash(1)).await.unwrap();
    assert_eq!(store.ledger.genesis(CHAIN).await.unwrap(), Some(hash(1)));
    store.ledger.bind_network(CHAIN, hash(1)).await.unwrap();
    store
        .ledger
        .bind_network(ChainId(1), hash(2))
        .await
        .unwrap();
    let refused = store.ledger.bind_network(CHAIN, hash(2)).await;
    assert!(
        matches!(refused, Err(StoreError::GenesisMismatch { known, found, .. }) if known == hash(1) && found == hash(2))
    );
}

async fn a_lane_is_taken_over_after_its_lease_and_not_before(store: TestLedger) {
    let (one, two) = (ProcessId::fresh(), ProcessId::fresh());
    let claim = |process, lease| store.ledger.claim_lane(CHAIN, SIGNER, process, 1, lease);
    let first = claim(one, 60_000).await.unwrap().unwrap().lane;
    assert_eq!(first.next_nonce, None);
    assert!(claim(two, 60_000).await.unwrap().is_none());
    let own = claim(one, 60_000).await.unwrap().unwrap().lane;
    assert!(own.fence.epoch > first.fence.epoch);
    store
        .ledger
        .adopt_nonce(own.fence, AccountNonce(5))
        .await
        .unwrap();
    let slot = new_slot(5, &[accept(&store).await.id]);
    store
        .ledger
        .open_slot(own.fence, slot.clone())
        .await
        .unwrap();
    store.ledger.renew_lane(own.fence, 1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let taken = claim(two, 60_000).await.unwrap().unwrap();
    assert!(taken.lane.fence.epoch > own.fence.epoch);
    assert_eq!(taken.lane.next_nonce, Some(AccountNonce(6)));
    assert_eq!(taken.open_slots.len(), 1);
    assert_eq!(taken.open_slots[0].id, slot.id);
    let late = store.ledger.renew_lane(own.fence, 60_000).await;
    assert!(matches!(late, Err(StoreError::StaleLane)));
    store.ledger.release_lane(taken.lane.fence).await.unwrap();
    let late = store.ledger.renew_lane(taken.lane.fence, 60_000).await;
    assert!(matches!(late, Err(StoreError::StaleLane)));
    assert!(claim(one, 60_000).await.unwrap().is_some());
}

async fn a_nonce_is_adopted_only_without_open_slots(store: TestLedger) {
    let fence = lane(&store).await;
    store
        .ledger
        .adopt_nonce(fence, AccountNonce(7))
        .await
        .unwrap();
    store
        .ledger
        .open_slot(fence, new_slot(7, &[accept(&store).await.id]))
        .await
        .unwrap();
    let refused = store.ledger.adopt_nonce(fence, AccountNonce(9)).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { .. })),
        "{refused:?}"
    );
    let opened = store
        .ledger
        .open_slot(fence, new_slot(8, &[accept(&store).await.id]))
        .await;
    assert_eq!(opened.unwrap(), OpenSlotOutcome::Opened);
}

async fn pages_are_of_one_tenant_newest_first(store: TestLedger) {
    let mut ids = Vec::new();
    for n in 0..15 {
        let name = if n % 3 == 0 { "other" } else { "shop" };
        let new = new_settlement(name, payment());
        if name == "shop" {
            ids.push(new.id);
        }
        store.ledger.accept(new).await.unwrap();
        // Ids of one millisecond are in no particular order between threads.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ids.reverse();
    let mut query = SettlementQuery {
        tenant: Some(tenant("shop")),
        limit: 4,
        ..Default::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = store.ledger.list(&query).await.unwrap();
        assert!(page.settlements.iter().all(|s| s.tenant == tenant("shop")));
        listed.extend(page.settlements.iter().map(|s| s.id));
        query.before = listed.last().copied();
        if !page.more {
            break;
        }
        assert_eq!(page.settlements.len(), 4);
    }
    assert_eq!(listed, ids);
    let all = SettlementQuery {
        limit: u32::MAX,
        ..Default::default()
    };
    assert_eq!(store.ledger.list(&all).await.unwrap().settlements.len(), 15);
}

async fn settlements_are_found_by_what_is_known_of_them(store: TestLedger) {
    let settled = settle(&store).await;
    let waiting = accept(&store).await;
    let SettlementState::Settled(receipt) = &settled.state else {
        panic!("{settled:?}")
    };
    let base = SettlementQuery {
        limit: 10,
        ..Default::default()
    };
    let queries = [
        (
            SettlementQuery {
                transaction: Some(receipt.transaction),
                ..base.clone()
            },
            &settled,
        ),
        (
            SettlementQuery {
                payer: Some(settled.payment.key.payer),
                ..base.clone()
            },
            &settled,
        ),
        (
            SettlementQuery {
                nonce: Some(waiting.payment.key.nonce.0),
                ..base.clone()
            },
            &waiting,
        ),
        (
            SettlementQuery {
                state: Some(SettlementStateKind::Accepted),
                ..base.clone()
            },
            &waiting,
        ),
        (
            SettlementQuery {
                chain: Some(CHAIN),
                before: Some(waiting.id),
                ..base.clone()
            },
            &settled,
        ),
    ];
    for (query, expected) in queries {
        let page = store.ledger.list(&query).await.unwrap();
        assert_eq!(
            page.settlements,
            std::slice::from_ref(expected),
            "{query:?}"
        );
    }
    let fence = claim(&store).await.lane.fence;
    let external = SettlementState::SettledExternally(support::receipt(hash(44), 3));
    store
        .ledger
        .resolve_accepted(fence, &[(waiting.id, external)])
        .await
        .unwrap();
    let query = SettlementQuery {
        transaction: Some(hash(44)),
        ..base.clone()
    };
    assert_eq!(
        store.ledger.list(&query).await.unwrap().settlements[0].id,
        waiting.id
    );
    let nothing = SettlementQuery {
        chain: Some(ChainId(1)),
        ..base
    };
    assert!(
        store
            .ledger
            .list(&nothing)
            .await
            .unwrap()
            .settlements
            .is_empty()
    );
}

async fn events_come_in_order_and_once(store: TestLedger) {
    assert_eq!(store.ledger.last_event().await.unwrap(), 0);
    let outcomes =
        join_all((0..30).map(|_| store.ledger.accept(new_settlement("shop", payment())))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let settled = settle(&store).await;
    store
        .ledger
        .accept(new_settlement("other", payment()))
        .await
        .unwrap();
    let mut after = 0;
    let mut events = Vec::new();
    loop {
        let page = store.ledger.events(after, None, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.iter().all(|event| event.sequence > after));
        assert!(page.is_sorted_by_key(|event| event.sequence));
        after = last.sequence;
        events.extend(page);
    }
    assert_eq!(after, store.ledger.last_event().await.unwrap());
    assert_eq!(events.len(), 34);
    let of_one = events
        .iter()
        .filter(|event| event.settlement.id == settled.id);
    assert_eq!(of_one.count(), 3, "accepted, assigned, settled");
    let others = store
        .ledger
        .events(0, Some(&tenant("other")), 10)
        .await
        .unwrap();
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].settlement.tenant, tenant("other"));
}

/// All events, once there are as many as expected.
async fn left(store: &TestLedger, expected: usize) -> Vec<SettlementEvent> {
    let mut events = Vec::new();
    for _ in 0..500 {
        events = store.ledger.events(0, None, 1_000).await.unwrap();
        if events.len() == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(events.len(), expected);
    events
}

const AGE: &str = "UPDATE settlements SET updated_at = updated_at - 604800001";
const OLD_EVENTS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4999) \
    INSERT INTO outbox (sequence, settlement_id, tenant) SELECT -i, settlement_id, tenant FROM n, \
    (SELECT settlement_id, tenant FROM outbox LIMIT 1) AS one";

async fn what_is_long_over_is_pruned(store: TestLedger) {
    let (shop, digest) = (tenant("shop"), payment().digest());
    let bind = |name: &'static str, digest| {
        let (store, shop) = (&store, &shop);
        async move {
            let key = name.parse().unwrap();
            let bound = store
                .ledger
                .bind_idempotency_key(shop, "settle", &key, digest);
            bound.await.unwrap()
        }
    };
    settle(&store).await;
    bind("old", digest).await;
    // More than one transaction takes.
    assert_eq!(store.execute(OLD_EVENTS).await, 4_999);
    store.execute(AGE).await;
    let keys = "UPDATE idempotency_keys SET bound_at = bound_at - 604800001";
    assert_eq!(store.execute(keys).await, 1);
    let young = accept(&store).await;
    // Behind a younger one, so that it stays: there are no gaps.
    let behind = accept(&store).await;
    let six_days = "UPDATE settlements SET updated_at = updated_at - 518400000";
    assert_eq!(store.execute(six_days).await, 3);
    let quiet = "UPDATE settlements SET updated_at = 0 WHERE id = (SELECT settlement_id FROM outbox ORDER BY sequence DESC LIMIT 1)";
    assert_eq!(store.execute(quiet).await, 1);
    bind("young", digest).await;
    // Six days are not seven.
    let six_days = "UPDATE idempotency_keys SET bound_at = bound_at - 518400000";
    assert_eq!(store.execute(six_days).await, 2);
    // Any id will do for a process that died long ago.
    let dead = "INSERT INTO processes (id, lease_until) SELECT settlement_id, 1 FROM outbox ORDER BY sequence DESC LIMIT 1";
    assert_eq!(store.execute(dead).await, 1);

    let process = ProcessId::fresh();
    store
        .ledger
        .heartbeat(process, Duty::Answers, 60_000)
        .await
        .unwrap();
    let events = left(&store, 2).await;
    assert_eq!(events[0].settlement.id, young.id);
    assert_eq!(events[1].settlement.id, behind.id);
    let sequences = "UPDATE outbox SET sequence = sequence";
    assert_eq!(store.execute(sequences).await, 2);
    let processes = "UPDATE processes SET lease_until = lease_until";
    assert_eq!(store.execute(processes).await, 1);
    let another = payment().digest();
    let free = bind("old", another).await;
    assert!(matches!(free, IdempotencyOutcome::Bound(_)), "{free:?}");
    let bound = bind("young", another).await;
    assert_eq!(bound, IdempotencyOutcome::UsedForAnother(digest));
}

async fn pruning_leaves_the_newest_event(store: TestLedger) {
    settle(&store).await;
    let last = store.ledger.last_event().await.unwrap();
    store.execute(AGE).await;
    let process = ProcessId::fresh();
    store
        .ledger
        .heartbeat(process, Duty::Answers, 60_000)
        .await
        .unwrap();
    left(&store, 1).await;
    assert_eq!(store.ledger.last_event().await.unwrap(), last);
    accept(&store).await;
    let next = store.ledger.events(last, None, 10).await.unwrap();
    assert_eq!(next.len(), 1, "a reader that saw all before sees it");
}

async fn a_restart_keeps_everything(mut store: TestLedger) {
    let settled = settle(&store).await;
    let waiting = accept(&store).await;
    let process = ProcessId::fresh();
    let request = RequestId::fresh();
    store
        .ledger
        .heartbeat(process, Duty::Answers, 60_000)
        .await
        .unwrap();
    store.claim(settled.id, request, process).await.unwrap();
    store
        .ledger
        .confirm_delivery(settled.id, request)
        .await
        .unwrap();
    let settled = store.ledger.settlement(settled.id).await.unwrap().unwrap();
    let last = store.ledger.last_event().await.unwrap();
    store.reopen().await;
    let both = store
        .ledger
        .settlements(&[settled.id, waiting.id])
        .await
        .unwrap();
    assert!(both.contains(&settled) && both.contains(&waiting));
    assert_eq!(store.ledger.last_event().await.unwrap(), last);
    let taken = store
        .claim(settled.id, RequestId::fresh(), ProcessId::fresh())
        .await
        .unwrap();
    assert_eq!(taken, ClaimOutcome::Delivered);
    store.ledger.ping().await.unwrap();
    assert!(store.ledger.now().await.unwrap() >= waiting.accepted_at);
}

async fn changes_wake_their_watchers(store: TestLedger) {
    let mut changes = store.ledger.changes();
    changes.mark_unchanged();
    accept(&store).await;
    tokio::time::timeout(Duration::from_secs(5), changes.changed())
        .await
        .unwrap()
        .unwrap();
}

mod embedded {
    use super::*;

    #[tokio::test]
    async fn a_second_owner_is_refused_and_readers_are_not() {
        let store = TestLedger::open(Backend::Embedded).await;
        let path = store.sqlite().path().to_owned();
        let second = SqliteLedger::open(&path).await;
        assert!(matches!(second.err(), Some(StoreError::Locked)));
        let settlement = accept(&store).await;
        let reader = SqliteLedger::open_read_only(&path).await.unwrap();
        assert_eq!(
            reader.settlement(settlement.id).await.unwrap(),
            Some(settlement.clone())
        );
        let later = accept(&store).await;
        assert_eq!(reader.settlement(later.id).await.unwrap(), Some(later));
        let refused = reader.withdraw(settlement.id).await;
        assert!(matches!(refused, Err(StoreError::Configuration(_))));
    }

    #[tokio::test]
    async fn a_restart_frees_lanes_and_unconfirmed_claims() {
        let mut store = TestLedger::open(Backend::Embedded).await;
        let settled = settle(&store).await;
        let process = ProcessId::fresh();
        store
            .ledger
            .heartbeat(process, Duty::Answers, 60_000)
            .await
            .unwrap();
        store
            .claim(settled.id, RequestId::fresh(), process)
            .await
            .unwrap();
        store.reopen().await;
        let next = ProcessId::fresh();
        assert!(
            store
                .ledger
                .claim_lane(CHAIN, SIGNER, next, 1, 60_000)
                .await
                .unwrap()
                .is_some()
        );
        let claimed = store.claim(settled.id, RequestId::fresh(), next).await;
        assert_eq!(claimed.unwrap(), ClaimOutcome::Claimed);
    }

    #[tokio::test]
    async fn what_is_no_ledger_is_refused_in_clear_words() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.db");
        let missing = SqliteLedger::open_read_only(&file).await.err().unwrap();
        assert!(missing.to_string().contains("no ledger file"), "{missing}");
        for text in [
            "sqlite::memory:",
            "sqlite://",
            "mysql://x",
            "sqlite://a?mode=memory",
            "",
        ] {
            let refused = text.parse::<LedgerUrl>();
            assert!(
                matches!(refused, Err(StoreError::Configuration(_))),
                "{text}"
            );
        }
        let url: LedgerUrl = "postgres://teller:secret@nowhere.invalid/teller"
            .parse()
            .unwrap();
        assert!(!format!("{url:?}").contains("secret"));
        let refused = Stores::open(&url, &ReservationsUrl::Memory)
            .await
            .err()
            .unwrap();
        assert!(refused.to_string().contains("redis://"), "{refused}");
    }
}
