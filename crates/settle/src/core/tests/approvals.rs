//! Payments that came with their payer's approval: they wait for it, and their payers are given its gas once.

use teller_domain::{Allowance, TokenApproval};
use teller_store::TopUp;

use super::*;

fn approved(number: u64, valid_for: u64) -> Queued {
    let mut queued = payment(number, valid_for);
    let paid = &mut queued.payment;
    let transaction = Bytes::from_static(&[2]);
    let approval = TokenApproval::of_checked(paid.key.payer, paid.asset, transaction);
    paid.key.authority = PERMIT2;
    paid.authorization = Authorization::Permit2(Box::new(Permit2 {
        terms: PermitTerms::Exact,
        signature: paid.authorization.signature().clone(),
        allowance: Some(Box::new(Allowance::Approval(approval))),
    }));
    queued.need = Need::of(&queued.payment);
    queued
}

fn outstanding(lacking: u64, given: bool) -> ApprovalStanding {
    let lacking = Wei::from(lacking);
    ApprovalStanding::Outstanding { lacking, given }
}

fn asked(effects: &[Effect]) -> Vec<SettlementId> {
    match effects {
        [Effect::LookAtApprovals { payments }] => payments.iter().map(|q| q.id).collect(),
        other => panic!("{other:?}"),
    }
}

fn failure(effects: &[Effect]) -> Reason {
    match effects {
        [Effect::ResolveAccepted { resolutions, .. }] => match &resolutions[..] {
            [(_, SettlementState::Failed { refusal, .. })] => refusal.reason,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

impl Bench {
    fn seen(&mut self, id: SettlementId, standing: ApprovalStanding) -> Vec<Effect> {
        let block = Some(self.head());
        self.tell(Event::ApprovalsSeen {
            asked: vec![id],
            block,
            seen: vec![(id, standing)],
            gone: Vec::new(),
        })
    }

    /// A block later the approval is looked at again.
    fn look(&mut self, id: SettlementId, standing: ApprovalStanding) -> Vec<Effect> {
        self.now += INTERVAL;
        let effects = self.seal(Vec::new());
        assert_eq!(asked(&effects), [id]);
        self.seen(id, standing)
    }

    /// Signs and commits the top-up that is asked for.
    fn give(&mut self, effects: &[Effect]) -> (SlotId, Attempt, TopUp) {
        let [
            Effect::Sign {
                fence,
                id,
                ticket,
                what: ToSign::TopUp(top_up),
                gas_limit: 60_000,
                fees,
            },
        ] = effects
        else {
            panic!("{effects:?}")
        };
        let (fence, id, ticket) = (*fence, *id, *ticket);
        let attempt = self.attempt(AttemptKind::TopUp, *fees);
        let written = self.tell(Event::Signed {
            fence,
            id,
            ticket,
            attempt: attempt.clone(),
        });
        let [
            Effect::OpenSlot {
                top_up: Some(written),
                payments,
                ..
            },
        ] = &written[..]
        else {
            panic!("{written:?}")
        };
        assert_eq!((written, payments.len()), (top_up, 1));
        (id, attempt, *top_up)
    }

    fn given(&mut self, effects: &[Effect]) -> (SlotId, Attempt) {
        let (id, attempt, _) = self.give(effects);
        let sent = self.tell(Event::SlotOpened { fence: fence(), id });
        assert!(matches!(&sent[..], [Effect::Broadcast { .. }]), "{sent:?}");
        (id, attempt)
    }
}

#[test]
fn an_approval_in_place_lets_its_payment_into_a_batch_like_any_other() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    let effects = bench.tell(Event::Accepted(vec![queued.clone()]));
    assert_eq!(asked(&effects), [queued.id]);
    assert!(bench.tell(Event::Tick).is_empty(), "it is being looked at");
    let effects = bench.seen(queued.id, ApprovalStanding::InPlace);
    let (_, batch, _) = bench.open(effects);
    assert_eq!(batch[0].id, queued.id);
}

#[test]
fn an_approval_that_can_be_mined_is_sent_at_each_block_until_it_is() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    let mut effects = bench.seen(queued.id, outstanding(0, false));
    for _ in 0..3 {
        let [Effect::SendApproval { payment }] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(payment.id, queued.id);
        effects = bench.look(queued.id, outstanding(0, false));
    }
    let effects = bench.look(queued.id, ApprovalStanding::InPlace);
    bench.open(effects);
}

#[test]
fn a_look_that_nobody_answers_is_made_again() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    bench.now += 9 * INTERVAL;
    assert!(bench.tell(Event::Tick).is_empty());
    bench.now += INTERVAL;
    assert_eq!(asked(&bench.tell(Event::Tick)), [queued.id]);
    // Nothing could be read: a block later it may be.
    let unread = bench.tell(Event::ApprovalsSeen {
        asked: vec![queued.id],
        block: None,
        seen: Vec::new(),
        gone: Vec::new(),
    });
    assert!(unread.is_empty());
    bench.now += INTERVAL;
    assert_eq!(asked(&bench.tell(Event::Tick)), [queued.id]);
}

#[test]
fn nodes_are_asked_about_some_approvals_at_a_time() {
    let mut bench = Bench::with_lane();
    let many: Vec<Queued> = (0..40).map(|number| approved(number, 3_600)).collect();
    let first = asked(&bench.tell(Event::Accepted(many.clone())));
    assert_eq!(first.len(), 32);
    assert!(bench.tell(Event::Tick).is_empty());
    let second = asked(&bench.tell(Event::ApprovalsSeen {
        asked: first.clone(),
        block: None,
        seen: Vec::new(),
        gone: Vec::new(),
    }));
    assert_eq!(second.len(), 8);
    bench.tell(Event::ApprovalsSeen {
        asked: second.clone(),
        block: None,
        seen: Vec::new(),
        gone: Vec::new(),
    });
    bench.now += INTERVAL;
    let again = asked(&bench.tell(Event::Tick));
    assert!(
        again.len() == 32
            && !again
                .iter()
                .any(|id| !first.contains(id) && !second.contains(id))
    );
}

#[test]
fn a_payer_without_gas_is_given_it_by_a_slot_of_its_own_and_then_waits_on() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    let effects = bench.seen(queued.id, outstanding(700, false));
    let (id, attempt, top_up) = bench.give(&effects);
    let payer = queued.payment.key.payer;
    assert_eq!((top_up.payer, top_up.value), (payer, Wei::from(700)));
    bench.tell(Event::SlotOpened { fence: fence(), id });
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &[]);
    let resolutions = bench.found(id, mined);
    assert_eq!(resolutions, [(queued.id, Resolution::Requeued)]);
    let effects = bench.closed(id);
    assert_eq!(asked(&effects), [queued.id]);
    // A node that is behind, and then one that is not.
    assert!(bench.seen(queued.id, outstanding(700, true)).is_empty());
    let effects = bench.look(queued.id, outstanding(0, false));
    assert!(matches!(&effects[..], [Effect::SendApproval { .. }]));
    let effects = bench.look(queued.id, ApprovalStanding::InPlace);
    let (_, batch, _) = bench.open(effects);
    assert_eq!((batch[0].id, batch[0].tries), (queued.id, 0));
}

#[test]
fn nobody_is_given_more_than_may_be_given_at_once() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    let effects = bench.seen(queued.id, outstanding(1_001, false));
    assert_eq!(failure(&effects), Reason::ApprovalInsufficientGas);
}

#[test]
fn what_is_given_in_a_day_is_bounded_and_who_waits_for_the_next_is_told_at_his_deadline() {
    let mut bench = Bench::with_lane();
    for number in 1..=2 {
        let queued = approved(number, 3_600);
        bench.tell(Event::Accepted(vec![queued.clone()]));
        let effects = bench.seen(queued.id, outstanding(1_000, false));
        let (id, attempt) = bench.given(&effects);
        bench.seal(vec![attempt.hash]);
        let mined = bench.mined(&attempt, true, &[]);
        bench.found(id, mined);
        bench.closed(id);
        bench.tell(Event::Withdrawn(queued.id));
    }
    let third = approved(3, 30);
    bench.tell(Event::Accepted(vec![third.clone()]));
    assert!(bench.seen(third.id, outstanding(501, false)).is_empty());
    bench.now += 28_000;
    let effects = bench.tell(Event::Tick);
    assert_eq!(failure(&effects), Reason::ApprovalBroadcastFailed);
    // The next day.
    bench.tell(Event::Spent(Default::default()));
    let fourth = approved(4, 3_600);
    bench.tell(Event::Accepted(vec![fourth.clone()]));
    let effects = bench.seen(fourth.id, outstanding(501, false));
    bench.given(&effects);
}

#[test]
fn a_transaction_s_budget_counts_what_it_gives() {
    let mut bench = Bench::with_lane();
    let fees = bench.core.initial_fees().unwrap();
    let gas = u64::try_from(60_000 * fees.max_fee_per_gas).unwrap();
    let value = gas * 4;
    let gives = TopUpPolicy {
        most: Wei::from(value),
        day: Wei::from(value),
    };
    bench.core.config.approvals = Some(gives);
    bench.core.config.budgets.per_transaction = Some(Wei::from(gas + value - 1));
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    assert!(bench.seen(queued.id, outstanding(value, false)).is_empty());
    bench.core.config.budgets.per_transaction = Some(Wei::from(gas + value));
    let effects = bench.tell(Event::Tick);
    bench.given(&effects);
}

#[test]
fn a_nonce_that_has_passed_without_the_allowance_ends_a_payment_at_a_sealed_block_only() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    for block in [None, Some(bench.at(bench.block + 1))] {
        let effects = bench.tell(Event::ApprovalsSeen {
            asked: vec![queued.id],
            block,
            seen: vec![(queued.id, ApprovalStanding::Void)],
            gone: Vec::new(),
        });
        assert!(effects.is_empty(), "{effects:?}");
    }
    let effects = bench.look(queued.id, ApprovalStanding::Void);
    assert_eq!(failure(&effects), Reason::ApprovalTxFailed);
    assert!(bench.seen(queued.id, ApprovalStanding::InPlace).is_empty());
}

#[test]
fn whoever_was_topped_up_before_is_waited_for_and_given_nothing() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    let effects = bench.seen(queued.id, outstanding(700, false));
    let (id, _, _) = bench.give(&effects);
    let effects = bench.tell(Event::ToppedUpBefore { fence: fence(), id });
    assert_eq!(asked(&effects), [queued.id]);
    assert!(bench.seen(queued.id, outstanding(700, true)).is_empty());
    let effects = bench.look(queued.id, ApprovalStanding::InPlace);
    let (opened, _, _) = bench.open(effects);
    assert_eq!(opened, id, "the nonce was not used");
}

#[test]
fn a_payment_that_nobody_waits_for_any_more_is_let_go() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    bench.tell(Event::ApprovalsSeen {
        asked: vec![queued.id],
        block: None,
        seen: Vec::new(),
        gone: vec![queued.id],
    });
    assert_eq!(bench.core.unapproved(), 0);
    // It may come again.
    let effects = bench.tell(Event::Accepted(vec![queued.clone()]));
    assert_eq!(asked(&effects), [queued.id]);
}

#[test]
fn an_approval_that_is_never_mined_is_looked_at_less_and_less_and_then_given_up() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 1 << 40);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    bench.seen(queued.id, outstanding(0, false));
    let mut looks = Vec::new();
    for block in 1..60 {
        bench.now += INTERVAL;
        let effects = bench.seal(Vec::new());
        if let [Effect::LookAtApprovals { .. }] = &effects[..] {
            looks.push(block);
            bench.seen(queued.id, outstanding(0, false));
        }
    }
    assert_eq!(
        looks,
        [
            1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 17, 19, 21, 23, 27, 31, 35, 39, 43, 47, 51, 55
        ]
    );
    bench.now += INTERVAL;
    let effects = bench.tell(Event::Tick);
    assert_eq!(failure(&effects), Reason::ApprovalBroadcastFailed);
}

#[test]
fn payments_that_wait_for_approvals_keep_nobody_else_from_the_queue_and_are_not_too_many() {
    let mut bench = Bench::with_lane();
    let before = bench.core.appetite();
    let crowd: Vec<Queued> = (0..513).map(|number| approved(number, 3_600)).collect();
    let last = crowd[512].id;
    let effects = bench.tell(Event::Accepted(crowd));
    let refused = effects.iter().find_map(|effect| match effect {
        Effect::ResolveAccepted { resolutions, .. } => Some(resolutions.clone()),
        _ => None,
    });
    let refused = refused.unwrap();
    assert_eq!((refused.len(), refused[0].0), (1, last));
    assert_eq!(bench.core.unapproved(), 512);
    assert_eq!(
        (bench.core.queue_depth(), bench.core.appetite()),
        (0, before)
    );
}

#[test]
fn payers_who_lack_gas_never_take_the_last_slot_of_a_deep_lane_that_others_wait_for() {
    let mut bench = Bench::with_lane();
    bench.core.config.depth = 3;
    let poor: Vec<Queued> = (1..=3).map(|number| approved(number, 3_600)).collect();
    bench.tell(Event::Accepted(poor.clone()));
    let effects = bench.seen(poor[0].id, outstanding(1, false));
    bench.given(&effects);
    bench.seen(poor[1].id, outstanding(1, false));
    bench.now += 200;
    let effects = bench.tell(Event::Tick);
    bench.given(&effects);
    // One slot is free. Somebody waits for it, so the next top-up does not get it.
    bench.tell(Event::Accepted(payments(3)));
    assert!(bench.seen(poor[2].id, outstanding(1, false)).is_empty());
    bench.now += 200;
    let effects = bench.tell(Event::Tick);
    let (_, batch, _) = bench.open(effects);
    assert_eq!(batch.len(), 3);
}

#[test]
fn a_signer_with_too_little_to_give_goes_on_settling() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    let effects = bench.seen(queued.id, outstanding(700, false));
    let (id, attempt) = bench.given(&effects);
    let effects = bench.tell(Event::Sent {
        id,
        hash: attempt.hash,
        outcome: Sent::InsufficientFunds,
    });
    let [
        sign @ Effect::Sign {
            what: ToSign::NoOp, ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert!(bench.lane().is_usable());
    let (noop, _) = bench.add(sign);
    bench.seal(vec![noop.hash]);
    let mined = bench.mined(&noop, true, &[]);
    assert_eq!(bench.found(id, mined), [(queued.id, Resolution::Requeued)]);
}

#[test]
fn a_payment_whose_time_is_up_behind_its_top_up_is_looked_into_before_it_ends() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 30);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    let effects = bench.seen(queued.id, outstanding(700, false));
    let (id, attempt) = bench.given(&effects);
    bench.now += 29_000;
    bench.seal(vec![attempt.hash]);
    let mined = bench.mined(&attempt, true, &[]);
    assert_eq!(bench.left(id, mined), [queued.id]);
}

#[test]
fn a_top_up_that_is_given_up_leaves_its_payment_waiting() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    let effects = bench.seen(queued.id, outstanding(700, false));
    let (id, _) = bench.given(&effects);
    bench.now += 15 * INTERVAL;
    let effects = bench.seal(Vec::new());
    let sign = effects
        .iter()
        .find(|effect| matches!(effect, Effect::Sign { .. }));
    let (noop, _) = bench.add(sign.unwrap());
    assert_eq!(noop.kind, AttemptKind::NoOp);
    bench.seal(vec![noop.hash]);
    let mined = bench.mined(&noop, true, &[]);
    assert_eq!(bench.found(id, mined), [(queued.id, Resolution::Requeued)]);
    let effects = bench.closed(id);
    assert_eq!(asked(&effects), [queued.id]);
}

#[test]
fn a_top_up_that_a_reorg_took_is_made_again_though_its_payment_has_gone_on() {
    let mut bench = Bench::with_lane();
    let fees = bench.core.initial_fees().unwrap();
    for (kind, again) in [(AttemptKind::TopUp, true), (AttemptKind::Batch, false)] {
        let attempt = bench.attempt(kind, fees);
        let effects = bench.tell(Event::LaneClaimed(recovered_slot(&attempt, Vec::new())));
        let sent = matches!(
            &effects[..],
            [Effect::LookUp { .. }, Effect::Broadcast { .. }]
        );
        assert_eq!(sent, again, "{effects:?}");
    }
}

#[test]
fn an_allowance_that_a_reorg_took_is_waited_for_again_a_few_times() {
    let mut bench = Bench::with_lane();
    let queued = approved(1, 3_600);
    bench.tell(Event::Accepted(vec![queued.clone()]));
    for last in [false, false, true] {
        let effects = bench.seen(queued.id, ApprovalStanding::InPlace);
        let (id, _, attempt) = bench.open(effects);
        bench.seal(vec![attempt.hash]);
        let mined = bench.mined(&attempt, false, &[]);
        bench.left(id, mined);
        let lacking = Finding::WouldRevert(Reason::Permit2AllowanceRequired);
        let effects = bench.investigated(vec![(queued.id, lacking)]);
        let resolutions = explaining(&effects);
        let [(_, resolution)] = &resolutions[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(*resolution != Resolution::Requeued, last, "{resolution:?}");
        bench.explained(&resolutions);
    }
}
