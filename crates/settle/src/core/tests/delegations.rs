//! Payments that the chain does not guard: signed into one slot, and ended by its own receipt.

use teller_domain::Delegation;

use super::*;

fn delegated(number: u64) -> Queued {
    let mut queued = payment(number, 3_600);
    let context = number.to_be_bytes().to_vec();
    let delegation = Delegation::new(context.into(), signer()).unwrap();
    queued.payment.key.nonce = delegation.nonce();
    queued.payment.validity = Delegation::validity();
    queued.payment.authorization = Authorization::Erc7710(delegation.into());
    queued.company = 1;
    queued
}

/// What became of a delegation when its slot closed.
fn ended(bench: &mut Bench, id: SlotId, mined: Mined) -> SettlementState {
    let effects = bench.tell(Event::Found { id, mined });
    match &closing(&effects)[..] {
        [(_, Resolution::Resolved(state))] => state.clone(),
        other => panic!("{other:?}"),
    }
}

fn failure(state: SettlementState) -> (Reason, Option<B256>) {
    match state {
        SettlementState::Failed {
            refusal,
            transaction,
        } => (refusal.reason, transaction),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_delegation_has_a_transaction_of_its_own_with_gas_for_its_context() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(vec![
        delegated(1),
        delegated(2),
        payment(3, 60),
    ]));
    let effects = bench.read_code(&effects);
    let gas = effects.iter().find_map(|effect| match effect {
        Effect::Sign { gas_limit, .. } => Some(*gas_limit),
        _ => None,
    });
    assert_eq!(gas, Some(1_000_000 + 8 * 40 + 60_000));
    let (_, batch, _) = bench.commit(effects);
    assert_eq!(batch.len(), 1);
}

#[test]
fn its_receipt_settles_a_delegation_by_exactly_its_transfer() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(vec![delegated(1)]));
    let (id, batch, attempt) = bench.open(effects);
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &batch);
    let resolutions = bench.found(id, mined);
    assert!(matches!(
        &resolutions[..],
        [(_, Resolution::Resolved(SettlementState::Settled(receipt)))] if receipt.transaction == attempt.hash
    ));
}

#[test]
fn a_manager_that_succeeds_and_moves_nothing_has_failed() {
    for (succeeded, reason) in [
        (true, Reason::TransferEventMismatch),
        (false, Reason::TransactionFailed),
    ] {
        let mut bench = Bench::with_lane();
        let effects = bench.tell(Event::Accepted(vec![delegated(1)]));
        let (id, _, attempt) = bench.open(effects);
        bench.seal(vec![attempt.hash]);
        let mined = bench.mined(&attempt, succeeded, &[]);
        let state = ended(&mut bench, id, mined);
        assert_eq!(failure(state), (reason, Some(attempt.hash)));
        bench.closed(id);
        assert!(bench.core.is_idle(), "nothing is signed again");
    }
}

#[test]
fn a_delegation_that_was_given_up_is_not_signed_again() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(vec![delegated(1)]));
    let (id, _, attempt) = bench.open(effects);
    let no_op = bench.attempt(AttemptKind::NoOp, attempt.fees);
    bench
        .core
        .slot_mut(id)
        .unwrap()
        .attempts
        .push(no_op.clone());
    bench.seal(vec![no_op.hash]);
    let mined = bench.mined(&no_op, true, &[]);
    let state = ended(&mut bench, id, mined);
    assert_eq!(failure(state), (Reason::TransactionFailed, None));
    bench.closed(id);
    assert!(bench.core.is_idle(), "nothing is signed again");
}

#[test]
fn a_delegation_whose_nonce_a_stranger_took_is_not_signed_again() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(vec![delegated(1)]));
    let (id, ..) = bench.open(effects);
    let block = bench.head();
    bench.core.close_foreign(id, block, bench.now);
    let effects = bench.tell(Event::Tick);
    let [(_, Resolution::Resolved(state))] = &closing(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(failure(state.clone()), (Reason::TransactionFailed, None));
}
