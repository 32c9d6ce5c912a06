//! The contract of the ledger, held against every implementation: who has accepted payments queued, and what was told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[macro_use]
mod support;

use std::collections::HashSet;
use std::time::Duration;

use alloy_primitives::U256;
use futures::future::join_all;
use support::*;
use teller_domain::*;
use teller_store::*;

contract! {
    a_process_without_a_lane_gives_its_whole_queue_back,
    a_queued_payment_is_its_process_s_alone,
    the_queue_of_a_dead_process_is_free,
    claims_at_once_share_nothing,
    only_what_is_void_by_then_is_claimed_to_be_ended,
    tenants_who_must_wait_are_passed_over_until_they_are_late,
    what_happens_once_happens_once,
    what_is_released_is_free_for_others,
    what_is_requeued_stays_in_its_queue,
    whoever_lost_its_lane_ends_nothing,
    a_failure_is_told_of_what_failed_only,
    a_claim_notes_what_is_told,
    a_claim_that_is_given_back_was_not_told,
    a_withdrawn_payment_starts_anew,
    what_only_one_account_may_settle_is_for_the_owner_of_its_lane,
}

async fn queued(store: &TestLedger, process: Option<ProcessId>) -> SettlementId {
    let mut new = new_settlement("shop", payment());
    new.queued_by = process;
    accepted(store.ledger.accept(new).await.unwrap()).id
}

async fn claimed(store: &TestLedger, process: ProcessId, limit: u32) -> Vec<SettlementId> {
    let claimed = store
        .ledger
        .claim_accepted(CHAIN, process, limit, &Wanted::All)
        .await
        .unwrap();
    assert!(claimed.is_sorted_by_key(|settlement| settlement.id));
    assert!(
        claimed
            .iter()
            .all(|settlement| settlement.state == SettlementState::Accepted)
    );
    claimed.iter().map(|settlement| settlement.id).collect()
}

async fn alive(store: &TestLedger) -> ProcessId {
    let process = ProcessId::fresh();
    store
        .ledger
        .heartbeat(process, Duty::Answers, 60_000)
        .await
        .unwrap();
    process
}

async fn a_queued_payment_is_its_process_s_alone(store: TestLedger) {
    let (one, two) = (alive(&store).await, alive(&store).await);
    let mine = queued(&store, Some(one)).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let first = queued(&store, None).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let second = queued(&store, None).await;
    assert_eq!(claimed(&store, two, 1).await, [first], "the oldest");
    assert_eq!(claimed(&store, two, 10).await, [first, second]);
    assert_eq!(claimed(&store, one, 10).await, [mine]);
    let elsewhere = store
        .ledger
        .claim_accepted(ChainId(1), one, 10, &Wanted::All)
        .await
        .unwrap();
    assert!(elsewhere.is_empty());
}

async fn the_queue_of_a_dead_process_is_free(store: TestLedger) {
    let (one, two, three) = (
        alive(&store).await,
        alive(&store).await,
        alive(&store).await,
    );
    let of_one = queued(&store, Some(one)).await;
    let of_two = queued(&store, Some(two)).await;
    assert!(claimed(&store, three, 10).await.is_empty());
    store.ledger.deregister(one).await.unwrap();
    assert_eq!(claimed(&store, three, 10).await, [of_one]);
    store.ledger.heartbeat(two, Duty::Answers, 1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let all: HashSet<_> = claimed(&store, three, 10).await.into_iter().collect();
    assert_eq!(all, HashSet::from([of_one, of_two]));
}

async fn claims_at_once_share_nothing(store: TestLedger) {
    for _ in 0..40 {
        queued(&store, None).await;
    }
    let processes = join_all((0..4).map(|_| alive(&store))).await;
    let claims = join_all(
        processes
            .iter()
            .map(|process| claimed(&store, *process, 10)),
    )
    .await;
    let all: Vec<SettlementId> = claims.into_iter().flatten().collect();
    let distinct: HashSet<_> = all.iter().copied().collect();
    assert_eq!(all.len(), distinct.len(), "no payment is in two queues");
    // Whoever met locked rows passed them over; a second round finds them.
    let claims = join_all(
        processes
            .iter()
            .map(|process| claimed(&store, *process, 40)),
    )
    .await;
    let all: HashSet<SettlementId> = claims.iter().flatten().copied().collect();
    assert_eq!(all.len(), 40);
    assert_eq!(claims.iter().map(Vec::len).sum::<usize>(), 40);
}

async fn only_what_is_void_by_then_is_claimed_to_be_ended(store: TestLedger) {
    let mut ids = Vec::new();
    let [forever, never] = [U256::MAX, U256::MAX - U256::ONE];
    let near = [9, 100, 101, u64::MAX].map(U256::from);
    for valid_before in near.into_iter().chain([forever, never]) {
        let mut new = new_settlement("shop", payment());
        new.payment.validity = Validity::signed(U256::ZERO, valid_before);
        ids.push(accepted(store.ledger.accept(new).await.unwrap()).id);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let process = alive(&store).await;
    let void = store
        .ledger
        .claim_accepted(CHAIN, process, 10, &Wanted::Late(UnixSeconds(100)))
        .await
        .unwrap();
    let void: Vec<_> = void.iter().map(|settlement| settlement.id).collect();
    assert_eq!(void, ids[..2]);
    let other = alive(&store).await;
    assert_eq!(claimed(&store, other, 10).await, ids[2..]);
}

async fn tenants_who_must_wait_are_passed_over_until_they_are_late(store: TestLedger) {
    let mut ids = Vec::new();
    for (tenant, valid_before) in [("poor", 500), ("poor", 100), ("shop", 500), ("rich", 100)] {
        let mut new = new_settlement(tenant, payment());
        new.payment.validity = Validity::between(UnixSeconds(0), UnixSeconds(valid_before));
        ids.push(accepted(store.ledger.accept(new).await.unwrap()).id);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let process = alive(&store).await;
    let claim = async |wanted: Wanted, limit| {
        let claimed = store.ledger.claim_accepted(CHAIN, process, limit, &wanted);
        let ids = claimed.await.unwrap().into_iter().map(|row| row.id);
        ids.collect::<Vec<_>>()
    };
    let late = UnixSeconds(100);
    let poor = vec![tenant("poor")];
    let first = claim(Wanted::AllBut(poor.clone(), late), 2).await;
    assert_eq!(first, ids[1..3], "what waits does not fill the queue");
    assert_eq!(claim(Wanted::AllBut(poor, late), 10).await, ids[1..]);
    assert_eq!(claim(Wanted::AllBut(vec![], late), 10).await, ids);
}

async fn what_happens_once_happens_once(store: TestLedger) {
    let asked = (0..8).map(|_| store.ledger.is_first(Milestone::ReservationsOpened));
    let firsts = join_all(asked).await.into_iter().map(Result::unwrap);
    assert_eq!(firsts.filter(|first| *first).count(), 1);
}

async fn what_is_released_is_free_for_others(store: TestLedger) {
    let (one, two) = (alive(&store).await, alive(&store).await);
    let (kept, given) = (
        queued(&store, Some(one)).await,
        queued(&store, Some(one)).await,
    );
    let (of_two, gone) = (
        queued(&store, Some(two)).await,
        queued(&store, Some(one)).await,
    );
    assert!(store.ledger.withdraw(gone).await.unwrap());
    store
        .ledger
        .release_accepted(one, &[given, of_two, gone])
        .await
        .unwrap();
    let three = alive(&store).await;
    assert_eq!(claimed(&store, three, 10).await, [given]);
    assert_eq!(claimed(&store, one, 10).await, [kept]);
}

async fn what_is_requeued_stays_in_its_queue(store: TestLedger) {
    let (one, two) = (alive(&store).await, alive(&store).await);
    let fence = lane(&store).await;
    let payment = queued(&store, Some(one)).await;
    let slot = new_slot(5, &[payment]);
    store.ledger.open_slot(fence, slot.clone()).await.unwrap();
    assert!(claimed(&store, one, 10).await.is_empty(), "it is in a slot");
    let requeued = closure(&slot, vec![(payment, Resolution::Requeued)]);
    store.ledger.close_slot(fence, requeued).await.unwrap();
    assert!(claimed(&store, two, 10).await.is_empty());
    assert_eq!(claimed(&store, one, 10).await, [payment]);
}

async fn whoever_lost_its_lane_ends_nothing(store: TestLedger) {
    let fence = lane(&store).await;
    let payment = accept(&store).await.id;
    let old = FencedLane {
        epoch: fence.epoch - 1,
        ..fence
    };
    let refused = store
        .ledger
        .resolve_accepted(old, &[(payment, SettlementState::Expired)])
        .await;
    assert!(matches!(refused, Err(StoreError::StaleLane)), "{refused:?}");
    assert_eq!(state(&store, payment).await, SettlementState::Accepted);
}

async fn a_failure_is_told_of_what_failed_only(store: TestLedger) {
    let fence = lane(&store).await;
    let (fails, expires, waits) = (
        accept(&store).await.id,
        accept(&store).await.id,
        accept(&store).await.id,
    );
    store
        .ledger
        .resolve_accepted(
            fence,
            &[
                (fails, failed(Reason::FeeCeilingExceeded)),
                (expires, SettlementState::Expired),
            ],
        )
        .await
        .unwrap();
    let asked = [fails, expires, waits, SettlementId::fresh(), fails];
    let answers = join_all(asked.iter().map(|id| store.ledger.tell_failure(*id))).await;
    let answers: Vec<bool> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, [true, true, false, false, true]);
    for (id, expected) in [
        (fails, Reason::FeeCeilingExceeded),
        (expires, Reason::AuthorizationExpired),
    ] {
        let told = told(&store, id).await;
        assert!(
            matches!(told, Some(Told::Failure { reason, .. }) if reason == expected),
            "{told:?}"
        );
    }
    assert_eq!(told(&store, waits).await, None);
    assert!(store.ledger.tell_failure(fails).await.unwrap());
}

async fn a_claim_notes_what_is_told(store: TestLedger) {
    let settled = settle(&store).await;
    assert_eq!(settled.told, None);
    let before = store.ledger.now().await.unwrap();
    let (process, request) = (alive(&store).await, RequestId::fresh());
    let claim = store.claim(settled.id, request, process).await.unwrap();
    assert_eq!(claim, ClaimOutcome::Claimed);
    let SettlementState::Settled(receipt) = settled.state else {
        panic!("{settled:?}")
    };
    match told(&store, settled.id).await {
        Some(Told::Success {
            transaction,
            level,
            at,
        }) => {
            assert_eq!((transaction, level), (receipt.transaction, Level::Included));
            assert!(at >= before);
        }
        other => panic!("{other:?}"),
    }
}

async fn a_claim_that_is_given_back_was_not_told(store: TestLedger) {
    let process = alive(&store).await;
    let settled = settle(&store).await;
    let fence = claim(&store).await.lane.fence;
    let next = claim(&store).await.lane;
    assert!(next.fence.epoch > fence.epoch);
    // One that failed, was told so, and was settled by bytes that a reorg revived.
    let revived = accept(&store).await.id;
    let slot = new_slot(next.next_nonce.unwrap().0, &[revived]);
    let fence = next.fence;
    store.ledger.open_slot(fence, slot.clone()).await.unwrap();
    let fails = closure(
        &slot,
        vec![resolved(revived, failed(Reason::TransactionFailed))],
    );
    store.ledger.close_slot(fence, fails).await.unwrap();
    assert!(store.ledger.tell_failure(revived).await.unwrap());
    store
        .ledger
        .reopen_slots(fence, &[slot.id.nonce])
        .await
        .unwrap();
    let mut again = closure(&slot, vec![]);
    again.revived = vec![(revived, receipt(slot.attempt.hash, 78))];
    store.ledger.close_slot(fence, again).await.unwrap();
    for id in [settled.id, revived] {
        let (stranger, request) = (RequestId::fresh(), RequestId::fresh());
        let claim = store.claim(id, request, process).await;
        assert_eq!(claim.unwrap(), ClaimOutcome::Claimed);
        store.ledger.release_delivery(id, stranger).await.unwrap();
        assert!(matches!(told(&store, id).await, Some(Told::Success { .. })));
        store.ledger.release_delivery(id, request).await.unwrap();
    }
    assert_eq!(told(&store, settled.id).await, None);
    let last = told(&store, revived).await;
    assert!(
        matches!(last, Some(Told::Failure { reason, .. }) if reason == Reason::TransactionFailed),
        "{last:?}"
    );
}

async fn a_withdrawn_payment_starts_anew(store: TestLedger) {
    let (one, two) = (alive(&store).await, alive(&store).await);
    let mut new = new_settlement("shop", payment());
    new.queued_by = Some(one);
    let first = accepted(store.ledger.accept(new.clone()).await.unwrap());
    assert!(store.ledger.withdraw(first.id).await.unwrap());
    new.id = SettlementId::fresh();
    new.queued_by = Some(two);
    let second = accepted(store.ledger.accept(new).await.unwrap());
    assert_eq!(second.told, None);
    assert!(claimed(&store, one, 10).await.is_empty());
    assert_eq!(claimed(&store, two, 10).await, [second.id]);
}

/// What only a cluster has: another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_hears_of_an_accepted_payment() {
    let store = TestLedger::open(Backend::Cluster).await;
    let other = open_ledger(store.url()).await.unwrap();
    let mut changes = other.changes();
    // The listener may not have begun yet, and a notification before it is lost: accept until one is heard.
    for _ in 0..50 {
        changes.mark_unchanged();
        accept(&store).await;
        let heard = tokio::time::timeout(Duration::from_millis(200), changes.changed()).await;
        if let Ok(heard) = heard {
            heard.unwrap();
            return;
        }
    }
    panic!("no notification was heard");
}

async fn a_process_without_a_lane_gives_its_whole_queue_back(store: TestLedger) {
    let (idle, busy) = (alive(&store).await, alive(&store).await);
    let claim = |process| {
        store
            .ledger
            .claim_accepted(CHAIN, process, 10, &Wanted::All)
    };
    let waiting = accept(&store).await;
    assert_eq!(claim(idle).await.unwrap().len(), 1);
    assert!(claim(busy).await.unwrap().is_empty());
    store.ledger.release_queue(CHAIN, busy).await.unwrap();
    assert!(claim(busy).await.unwrap().is_empty(), "not its own");
    store.ledger.release_queue(CHAIN, idle).await.unwrap();
    let claimed = claim(busy).await.unwrap();
    assert_eq!(
        claimed.iter().map(|row| row.id).collect::<Vec<_>>(),
        [waiting.id]
    );
}

/// Postgres undoes one of two transactions that wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_undoes_is_done_again_or_certainly_not_done() {
    let store = TestLedger::open(Backend::Cluster).await;
    let deadlocks = |times: u32| {
        format!(
            "CREATE SEQUENCE IF NOT EXISTS undone; SELECT setval('undone', 1, false); \
             CREATE OR REPLACE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF nextval('undone') <= {times} THEN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END IF; \
             RETURN NEW; END $$; \
             CREATE OR REPLACE TRIGGER undo BEFORE INSERT ON settlements FOR EACH ROW EXECUTE FUNCTION undo()"
        )
    };
    store.script(deadlocks(2)).await;
    let accepted = store.ledger.accept(new_settlement("shop", payment())).await;
    assert!(matches!(accepted, Ok(AcceptOutcome::Accepted(_))));
    store.script(deadlocks(1_000)).await;
    let undone = store.ledger.accept(new_settlement("shop", payment())).await;
    let Err(error) = undone else {
        panic!("{undone:?}");
    };
    assert!(matches!(error, StoreError::Undone), "{error}");
    assert!(error.is_retryable() && !error.is_uncertain());
}

async fn what_only_one_account_may_settle_is_for_the_owner_of_its_lane(store: TestLedger) {
    let (owner, other) = (alive(&store).await, alive(&store).await);
    let lane = store
        .ledger
        .claim_lane(CHAIN, SIGNER, owner, 1, 60_000)
        .await
        .unwrap();
    assert!(lane.is_some());
    let mut payment = payment();
    payment.key.authority = PERMIT2;
    payment.validity = Validity::between(UnixSeconds(0), UnixSeconds(999));
    payment.authorization = Authorization::Permit2(Box::new(Permit2 {
        terms: PermitTerms::Upto {
            facilitator: SIGNER,
            permitted: payment.value,
        },
        signature: payment.authorization.signature().clone(),
        allowance: None,
    }));
    let id = accepted(
        store
            .ledger
            .accept(new_settlement("shop", payment))
            .await
            .unwrap(),
    )
    .id;
    let plain = queued(&store, None).await;
    assert_eq!(claimed(&store, other, 10).await, [plain]);
    let late = |moment| Wanted::Late(UnixSeconds(moment));
    for (moment, found) in [(999, vec![]), (1_000, vec![id])] {
        let wanted = late(moment);
        let claiming = store
            .ledger
            .claim_accepted(CHAIN, other, 10, &wanted)
            .await
            .unwrap();
        let ids: Vec<_> = claiming.iter().map(|settlement| settlement.id).collect();
        assert_eq!(ids, found, "late at {moment}");
    }
    store.ledger.release_accepted(other, &[id]).await.unwrap();
    assert_eq!(claimed(&store, owner, 10).await, [id]);
}
