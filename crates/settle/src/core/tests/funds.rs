//! Lanes whose signers have little: what they take on, and what they leave to others.

use super::*;

/// What a batch of one payment costs at its dearest replacement, at this bench's fees: 140,000 gas.
const ONE: u64 = 140_000 * 28_478_000;

fn other() -> FencedLane {
    FencedLane {
        signer: Address::repeat_byte(0x52),
        ..fence()
    }
}

fn read(fence: FencedLane, nonce: u64, balance: u64) -> Event {
    Event::FundsRead {
        signer: fence.signer,
        funds: Funds {
            nonce: AccountNonce(nonce),
            balance: Wei::from(balance),
            data_fee: Wei::ZERO,
        },
    }
}

fn takes(effects: &[Effect]) -> Vec<(Address, usize)> {
    let taken = effects.iter().filter_map(|effect| match effect {
        Effect::ReadCode {
            signer, payments, ..
        } => Some((*signer, payments.len())),
        _ => None,
    });
    taken.collect()
}

fn two_lanes() -> Bench {
    let mut bench = Bench::with_lane();
    bench.tell(Event::LaneClaimed(RecoveredLane {
        fence: other(),
        ..empty_lane()
    }));
    bench
}

#[test]
fn a_lane_that_cannot_pay_a_batch_leaves_it_to_another_at_once() {
    let mut bench = two_lanes();
    // More than a no-op costs.
    bench.tell(read(fence(), 7, ONE / 2));
    bench.tell(read(other(), 7, u64::MAX));
    assert!(bench.lane().is_out_of_funds());
    let effects = bench.tell(Event::Accepted(payments(12)));
    assert_eq!(takes(&effects), [(other().signer, 12)]);
}

#[test]
fn a_lane_takes_as_much_as_it_can_pay_and_another_the_rest() {
    let mut bench = two_lanes();
    bench.tell(read(fence(), 7, ONE + 80_000 * 28_478_000));
    bench.tell(read(other(), 7, u64::MAX));
    assert!(!bench.lane().is_out_of_funds());
    let effects = bench.tell(Event::Accepted(payments(12)));
    assert_eq!(takes(&effects), [(signer(), 2), (other().signer, 10)]);
}

#[test]
fn what_open_slots_may_cost_is_not_spent_twice() {
    let mut bench = Bench::with_lane();
    bench.tell(read(fence(), 7, ONE + ONE / 2));
    let effects = bench.tell(Event::Accepted(payments(1)));
    let effects = bench.read_code(&effects);
    let [
        Effect::Sign {
            gas_limit, fees, ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    let (gas_limit, fees) = (*gas_limit, *fees);
    assert_eq!(gas_limit, 140_000);
    let attempt = Attempt {
        gas_limit,
        ..bench.attempt(AttemptKind::Batch, fees)
    };
    let (fence, id, ticket) = (fence(), slot(7), bench.core.tickets);
    bench.tell(Event::Signed {
        fence,
        id,
        ticket,
        attempt: attempt.clone(),
    });
    bench.tell(Event::SlotOpened { fence, id });
    // It is not poor: there is room for another batch when this one is mined.
    bench.now += 1_000;
    let effects = bench.tell(Event::Accepted(vec![payment(9, 3_600)]));
    assert_eq!(takes(&effects), []);
    assert!(!bench.lane().is_out_of_funds());
    bench.seal(vec![attempt.hash]);
    let batch = payments(1);
    let mined = bench.mined(&attempt, true, &batch);
    bench.found(id, mined);
    let effects = bench.closed(id);
    assert_eq!(takes(&effects), [(signer(), 1)]);
}

#[test]
fn first_bytes_that_nobody_takes_for_want_of_money_make_room_for_another_lane() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(2)));
    let (id, batch, attempt) = bench.open(effects);
    let refused = Event::Sent {
        id,
        hash: attempt.hash,
        outcome: Sent::InsufficientFunds,
    };
    let effects = bench.tell(refused);
    let no_op = |effect: &&Effect| {
        matches!(
            effect,
            Effect::Sign {
                what: ToSign::NoOp,
                ..
            }
        )
    };
    let Some(signs) = effects.iter().find(no_op) else {
        panic!("{effects:?}")
    };
    let (no_op, _) = bench.add(signs);
    assert!(bench.lane().is_out_of_funds());
    // That a no-op is taken says nothing of a batch.
    bench.tell(Event::Sent {
        id,
        hash: no_op.hash,
        outcome: Sent::Accepted,
    });
    assert!(bench.lane().is_out_of_funds());
    bench.seal(vec![no_op.hash]);
    let mined = bench.mined(&no_op, true, &[]);
    bench.tell(Event::Found { id, mined });
    assert_eq!(takes(&bench.closed(id)), [], "the same lane takes nothing");
    let findings = batch.iter().map(|queued| (queued.id, Finding::WouldSettle));
    let unused = explaining(&bench.investigated(findings.collect()));
    let effects = bench.explained(&unused);
    assert_eq!(takes(&effects), [], "the same lane takes nothing");
    let effects = bench.tell(read(fence(), 8, u64::MAX));
    assert_eq!(takes(&effects), [(signer(), 2)]);
}

#[test]
fn a_refusal_is_forgotten_where_no_balance_can_be_read() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, _, attempt) = bench.open(effects);
    bench.tell(Event::Sent {
        id,
        hash: attempt.hash,
        outcome: Sent::InsufficientFunds,
    });
    assert!(bench.lane().is_out_of_funds());
    bench.now += 29_000;
    bench.tell(Event::Tick);
    assert!(bench.lane().is_out_of_funds());
    bench.now += 1_000;
    bench.tell(Event::Tick);
    assert!(!bench.lane().is_out_of_funds());
}

#[test]
fn a_replacement_that_is_refused_gives_nothing_up() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, _, first) = bench.open(effects);
    bench.tell(Event::Sent {
        id,
        hash: first.hash,
        outcome: Sent::Accepted,
    });
    bench.now += 4 * INTERVAL;
    bench.tell(Event::Tick);
    bench.now += 1;
    let effects = bench.tell(Event::Tick);
    assert!(effects.is_empty(), "{effects:?}");
    let ticket = bench.core.tickets;
    let second = bench.attempt(AttemptKind::Batch, fees(40_000_000, 40));
    let fence = fence();
    bench.tell(Event::Signed {
        fence,
        id,
        ticket,
        attempt: second.clone(),
    });
    bench.tell(Event::AttemptAdded { fence, id });
    let effects = bench.tell(Event::Sent {
        id,
        hash: second.hash,
        outcome: Sent::InsufficientFunds,
    });
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Sign { .. })),
        "{effects:?}"
    );
}
