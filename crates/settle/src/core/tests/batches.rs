//! What goes into a batch, and who is kept out of it.

use super::*;

#[test]
fn an_idle_lane_sends_at_once_and_a_busy_one_gathers_company() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, _) = bench.open(effects);
    assert_eq!((id, batch.len()), (slot(7), 1));
    for number in [10, 11] {
        let effects = bench.tell(Event::Accepted(vec![payment(number, 3_600)]));
        assert!(effects.is_empty());
    }
    bench.now += 200;
    let effects = bench.tell(Event::Tick);
    let (id, batch, _) = bench.open(effects);
    assert_eq!((id, batch.len()), (slot(8), 2));
}

#[test]
fn a_full_batch_does_not_linger_and_no_lane_exceeds_its_depth() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    bench.open(effects);
    let many = (10..460).map(|number| payment(number, 3_600)).collect();
    let effects = bench.tell(Event::Accepted(many));
    let (_, batch, _) = bench.open(effects);
    assert_eq!(batch.len(), 200);
    bench.now += 1_000;
    assert!(bench.tell(Event::Tick).is_empty(), "both slots are open");
    assert_eq!(bench.core.queue_depth(), 250);
}

#[test]
fn a_batch_fits_into_the_block_that_is_to_hold_it() {
    let batch = |bench: &mut Bench| {
        let effects = bench.tell(Event::Accepted(payments(200)));
        let effects = bench.read_code(&effects);
        let Some(Effect::Sign {
            what: ToSign::Batch(batch),
            gas_limit,
            ..
        }) = effects.last()
        else {
            panic!("{effects:?}")
        };
        (batch.len(), *gas_limit)
    };
    for (block_gas, most) in [
        (1_000_000, (11, 940_000)),
        (30_000_000, (200, 16_060_000)),
        // No payment fits: no chain has such a limit.
        (0, (200, 16_060_000)),
    ] {
        let mut bench = Bench::new();
        bench.block_gas = block_gas;
        bench.seal(Vec::new());
        bench.tell(Event::LaneClaimed(empty_lane()));
        assert_eq!(batch(&mut bench), most, "in a block of {block_gas}");
    }
    // What the chain allows may change.
    let mut bench = Bench::with_lane();
    bench.block_gas = 300_000;
    bench.seal(Vec::new());
    assert_eq!(batch(&mut bench), (3, 300_000));
}

#[test]
fn an_echo_of_a_known_payment_is_not_queued_again() {
    let mut bench = Bench::with_lane();
    let batch = payments(1);
    let effects = bench.tell(Event::Accepted(batch.clone()));
    bench.open(effects);
    bench.tell(Event::Accepted(batch));
    assert_eq!(bench.core.queue_depth(), 0);
}

#[test]
fn a_payer_with_code_leaves_the_batch_and_tries_alone() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(3)));
    let [
        Effect::ReadCode {
            signer,
            batch,
            payments,
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    let hostile = payments[1].id;
    let effects = bench.tell(Event::CodeRead {
        signer: *signer,
        batch: *batch,
        with_code: vec![hostile],
        refused: Vec::new(),
    });
    let (_, neighbours, _) = bench.commit(effects);
    assert_eq!(neighbours.len(), 2);
    bench.now += 200;
    let effects = bench.tell(Event::Tick);
    let [Effect::ReadCode { payments, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(
        payments.iter().map(|queued| queued.id).collect::<Vec<_>>(),
        [hostile]
    );
    let batch = bench.core.batches;
    let effects = bench.tell(Event::CodeRead {
        signer: signer_of(&effects),
        batch,
        with_code: vec![hostile],
        refused: Vec::new(),
    });
    let (_, alone, _) = bench.commit(effects);
    assert_eq!(alone[0].id, hostile);
}

fn signer_of(effects: &[Effect]) -> Address {
    effects.iter().find_map(Effect::signer).unwrap()
}

#[test]
fn a_lone_payer_whose_code_refuses_the_transfer_fails_without_a_transaction() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let [
        Effect::ReadCode {
            signer,
            batch,
            payments,
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    let id = payments[0].id;
    let effects = bench.tell(Event::CodeRead {
        signer: *signer,
        batch: *batch,
        with_code: vec![id],
        refused: vec![(id, Reason::SimulationFailed)],
    });
    let [Effect::ResolveAccepted { resolutions, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(resolutions[0].0, id);
    bench.tell(Event::AcceptedResolved { ids: vec![id] });
    assert!(bench.core.is_idle());
}

#[test]
fn a_withdrawn_payment_leaves_its_forming_batch() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(2)));
    let effects = bench.read_code(&effects);
    let [
        Effect::Sign {
            what: ToSign::Batch(batch),
            fees,
            ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    let withdrawn = batch[0].id;
    let attempt = bench.attempt(AttemptKind::Batch, *fees);
    let ticket = bench.core.tickets;
    bench.tell(Event::Signed {
        fence: fence(),
        id: slot(7),
        ticket,
        attempt,
    });
    let effects = bench.tell(Event::PaymentsMoved {
        fence: fence(),
        id: slot(7),
        moved: vec![withdrawn],
    });
    let (id, batch, _) = bench.commit(effects);
    assert_eq!((id, batch.len()), (slot(7), 1));
    assert_ne!(batch[0].id, withdrawn);
}

#[test]
fn a_payment_past_its_cutoff_expires_without_a_transaction() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(vec![payment(1, 2)]));
    assert!(
        matches!(&effects[..], [Effect::ResolveAccepted { resolutions, .. }]
            if resolutions[0].1 == SettlementState::Expired)
    );
}

#[test]
fn a_payment_whose_budget_is_spent_waits_and_fails_with_the_reason() {
    let mut bench = Bench::with_lane();
    bench
        .core
        .config
        .budgets
        .tenants
        .insert(TenantId::new("shop"), Wei::from(10));
    bench.tell(Event::Spent(teller_store::Spending {
        total: Wei::from(10),
        tenants: vec![(TenantId::new("shop"), Wei::from(10))],
        ..Default::default()
    }));
    let appetite = bench.core.appetite();
    assert!(bench.tell(Event::Accepted(vec![payment(1, 60)])).is_empty());
    // Others do not wait because of it.
    assert_eq!(bench.core.stopped_tenants(), [TenantId::new("shop")]);
    assert_eq!(
        (bench.core.queue_depth(), bench.core.appetite()),
        (0, appetite)
    );
    bench.now += 58_000;
    let effects = bench.tell(Event::Tick);
    let [Effect::ResolveAccepted { resolutions, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(
        resolutions[0].1.refusal().unwrap().reason,
        Reason::GasBudgetExceeded
    );
}

#[test]
fn a_spent_day_claims_nothing_more() {
    let mut bench = Bench::with_lane();
    bench.core.config.budgets.per_day = Some(Wei::from(10));
    assert!(bench.core.appetite() > 0);
    bench.tell(Event::Spent(teller_store::Spending {
        total: Wei::from(10),
        tenants: Vec::new(),
        ..Default::default()
    }));
    assert_eq!(bench.core.appetite(), 0);
}

#[test]
fn what_is_withdrawn_while_it_waits_is_forgotten() {
    let mut bench = Bench::with_lane();
    bench.core.config.budgets.per_day = Some(Wei::ZERO);
    let waits = payment(1, 3_600);
    bench.tell(Event::Accepted(vec![waits.clone()]));
    assert_eq!(bench.core.queue_depth(), 1);
    bench.tell(Event::Withdrawn(waits.id));
    assert_eq!(bench.core.queue_depth(), 0);
    // The same payment may be accepted again.
    bench.tell(Event::Accepted(vec![waits]));
    assert_eq!(bench.core.queue_depth(), 1);
}

#[test]
fn a_budget_for_a_transaction_makes_batches_smaller() {
    let mut bench = Bench::with_lane();
    // 21,000,000 wei for each gas unit at most: room for three payments of 80,000 gas and 60,000 for the rest.
    let per_gas = 4 * 5_000_000 + 1_000;
    bench.core.config.budgets.per_transaction = Some(Wei::from(per_gas * 300_000));
    let effects = bench.tell(Event::Accepted(payments(5)));
    let (_, batch, _) = bench.open(effects);
    assert_eq!(batch.len(), 3);
}

#[test]
fn a_queue_without_a_usable_lane_goes_back_to_the_ledger() {
    let mut bench = Bench::with_lane();
    bench.tell(Event::ModeRead {
        fence: fence(),
        mode: LaneMode::Draining,
    });
    assert!(bench.tell(Event::Accepted(payments(3))).is_empty());
    assert_eq!(bench.core.appetite(), 0);
    bench.now += RELEASE_AFTER_MS;
    let effects = bench.tell(Event::Tick);
    assert!(matches!(&effects[..], [Effect::ReleaseQueued(ids)] if ids.len() == 3));
    assert!(bench.core.is_idle());
}

#[test]
fn a_process_that_ends_opens_no_slot_and_gives_its_queue_back() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    bench.tell(Event::Accepted(vec![payment(5, 3_600)]));
    let given_back = bench.tell(Event::Drain);
    assert!(
        matches!(&given_back[..], [Effect::ReleaseQueued(_)]),
        "{given_back:?}"
    );
    let effects = bench.read_code(&effects);
    assert!(
        matches!(&effects[..], [Effect::ReleaseQueued(_)]),
        "{effects:?}"
    );
}

#[test]
fn a_batch_that_has_become_too_dear_while_it_was_formed_is_not_signed() {
    let mut bench = Bench::with_lane();
    let fee = bench.core.initial_fees().unwrap().max_fee_per_gas;
    let two = payments(2);
    let most = U256::from(fee) * U256::from(gas_limit(&two));
    bench.core.config.budgets.per_transaction = Some(Wei(most));
    let effects = bench.tell(Event::Accepted(two));
    // The tip rises between the look at the payers and the signature.
    bench.tell(Event::Tip(8_000_000));
    let effects = bench.read_code(&effects);
    assert!(
        matches!(&effects[..], [Effect::ReadCode { payments, .. }] if payments.len() == 1),
        "{effects:?}"
    );
}

fn permit(number: u64, payer: u8, value: u64, terms: PermitTerms) -> Queued {
    let mut queued = payment(number, 3_600);
    queued.payment.key.authority = PERMIT2;
    queued.payment.key.payer = Address::repeat_byte(payer);
    queued.payment.value = AssetAmount::from(value);
    let signature = queued.payment.authorization.signature().clone();
    queued.payment.authorization = Authorization::Permit2(Box::new(Permit2 {
        terms,
        signature,
        allowance: None,
    }));
    queued
}

/// A queued payment as the ledger would give it back.
fn again(queued: &Queued) -> Queued {
    Queued::new(&Settlement {
        id: queued.id,
        tenant: queued.tenant.clone(),
        version: X402Version::V2,
        payment: queued.payment.clone(),
        attribution: Bytes::new(),
        digest: queued.payment.digest(),
        state: SettlementState::Accepted,
        told: None,
        tries: 0,
        accepted_at: UnixMillis(0),
        updated_at: UnixMillis(0),
    })
}

#[test]
fn permits_of_the_same_terms_never_share_a_transaction() {
    let mut bench = Bench::with_lane();
    let exact = |number, payer, value| permit(number, payer, value, PermitTerms::Exact);
    let all = vec![
        exact(1, 1, 5),
        exact(2, 1, 5),
        exact(3, 1, 6),
        exact(4, 2, 5),
        payment(5, 3_600),
    ];
    let effects = bench.tell(Event::Accepted(all.clone()));
    let (_, batch, _) = bench.open(effects);
    let ids: Vec<_> = batch.iter().map(|queued| queued.id).collect();
    assert_eq!(ids.len(), 4);
    assert!(!(ids.contains(&all[0].id) && ids.contains(&all[1].id)));
    bench.now += 1_000;
    let effects = bench.tell(Event::Tick);
    let (_, twin, _) = bench.open(effects);
    assert_eq!(twin.len(), 1);
}

#[test]
fn a_judged_signature_travels_alone_with_gas_for_its_judge() {
    let mut bench = Bench::with_lane();
    let mut judged = payment(1, 3_600);
    judged.payment.judged_by_code();
    let judged = again(&judged);
    let plain = gas_limit(&[payment(2, 3_600)]);
    assert!(gas_limit(std::slice::from_ref(&judged)) >= plain + 400_000);
    let effects = bench.tell(Event::Accepted(vec![judged.clone(), payment(2, 3_600)]));
    let (_, batch, _) = bench.open(effects);
    assert_eq!(batch.len(), 1);
    bench.now += 1_000;
    let effects = bench.tell(Event::Tick);
    let (_, other, _) = bench.open(effects);
    assert_eq!(other.len(), 1);
    assert_ne!(batch[0].id, other[0].id);
}

#[test]
fn only_its_facilitator_settles_an_upto_payment() {
    let mut bench = Bench::with_lane();
    let upto = |number, facilitator| {
        let terms = PermitTerms::Upto {
            facilitator,
            permitted: AssetAmount::from(10),
        };
        again(&permit(number, 1, 5, terms))
    };
    let (own, foreign) = (upto(1, signer()), upto(2, Address::repeat_byte(0xfa)));
    let effects = bench.tell(Event::Accepted(vec![own.clone(), foreign.clone()]));
    let (released, rest): (Vec<_>, Vec<_>) = effects
        .into_iter()
        .partition(|effect| matches!(effect, Effect::ReleaseQueued(_)));
    assert!(
        matches!(&released[..], [Effect::ReleaseQueued(ids)] if *ids == [foreign.id]),
        "{released:?}"
    );
    let (_, batch, _) = bench.open(rest);
    assert_eq!(batch.len(), 1);
    assert_eq!(batch[0].id, own.id);
}

#[test]
fn a_payment_that_is_too_dear_for_any_transaction_waits_and_holds_nobody_up() {
    let mut bench = Bench::with_lane();
    let fee = bench.core.initial_fees().unwrap().max_fee_per_gas;
    let two = payments(2);
    let most = U256::from(fee) * U256::from(gas_limit(&two));
    bench.core.config.budgets.per_transaction = Some(Wei(most));
    let mut judged = payment(9, 3_600);
    judged.payment.judged_by_code();
    let judged = again(&judged);
    let effects = bench.tell(Event::Accepted(vec![judged]));
    assert!(effects.is_empty(), "{effects:?}");
    let effects = bench.tell(Event::Accepted(two));
    let (_, batch, _) = bench.open(effects);
    assert_eq!(batch.len(), 2);
    assert_eq!(bench.core.queue_depth(), 1);
    bench.now += 3_600_000;
    let effects = bench.tell(Event::Tick);
    let ended = effects.iter().find_map(|effect| match effect {
        Effect::ResolveAccepted { resolutions, .. } => Some(resolutions.clone()),
        _ => None,
    });
    let [(_, SettlementState::Failed { refusal, .. })] = &ended.unwrap()[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(refusal.reason, Reason::GasBudgetExceeded);
}
