//! Behaviour of the state machine, event by event. One long file, because every test drives the same bench.

use alloy_primitives::{Address, B256, Bytes, U256};
use teller_chain::FeePolicy;
use teller_domain::{
    AccountNonce, AssetAmount, Attempt, AttemptKind, Authorization, AuthorizationKey,
    AuthorizationNonce, BlockRef, EcdsaSignature, FencedLane, Payment, Resolution, SlotId, Wei,
    invariants,
};

use super::*;

const CHAIN: ChainId = ChainId(84532);
const INTERVAL: u64 = 2_000;
const START: u64 = 1_800_000_000;

fn signer() -> Address {
    Address::repeat_byte(0x51)
}

fn fence() -> FencedLane {
    FencedLane {
        chain: CHAIN,
        signer: signer(),
        epoch: 1,
    }
}

fn slot(nonce: u64) -> SlotId {
    SlotId {
        chain: CHAIN,
        signer: signer(),
        nonce: AccountNonce(nonce),
    }
}

fn payment(number: u64, valid_for: u64) -> Queued {
    let token = Address::repeat_byte(0x70);
    let payment = Payment {
        key: AuthorizationKey {
            chain: CHAIN,
            authority: token,
            payer: Address::from_word(B256::from(U256::from(number + 1))),
            nonce: AuthorizationNonce(B256::from(U256::from(number))),
        },
        asset: token,
        payee: Address::repeat_byte(0x99),
        value: AssetAmount::from(10_000),
        valid_after: UnixSeconds(0),
        valid_before: UnixSeconds(START + valid_for),
        authorization: Authorization::Eip3009 {
            signature: EcdsaSignature {
                r: B256::ZERO,
                s: B256::ZERO,
                v: 27,
            },
        },
    };
    Queued::new(SettlementId::fresh(), payment, 0)
}

fn payments(count: u64) -> Vec<Queued> {
    (0..count).map(|number| payment(number, 3_600)).collect()
}

/// A core with what a shell would remember: attempts get hashes in order.
struct Bench {
    core: Core,
    now: u64,
    hashes: u64,
    block: u64,
}

impl Bench {
    fn new() -> Self {
        let core = Core::new(CoreConfig {
            chain: CHAIN,
            depth: 2,
            limits: BatchLimits {
                max_items: 200,
                max_gas: 16_777_216,
                linger_ms: 200,
            },
            block_interval_ms: INTERVAL,
            cutoff_seconds: 3,
            fees: FeePolicy::default(),
        });
        Self {
            core,
            now: 0,
            hashes: 0,
            block: 100,
        }
    }

    fn with_lane() -> Self {
        let mut bench = Self::new();
        bench.seal(Vec::new());
        bench.tell(Event::LaneClaimed(RecoveredLane {
            fence: fence(),
            next_nonce: AccountNonce(7),
            slots: Vec::new(),
        }));
        bench
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.core.handle([event], self.now)
    }

    fn seal(&mut self, transactions: Vec<B256>) -> Vec<Effect> {
        self.block += 1;
        let timestamp = UnixSeconds(START + self.now / 1_000);
        self.tell(Event::Block(BlockSummary {
            number: self.block,
            timestamp,
            base_fee: 5_000_000,
            transactions,
        }))
    }

    fn attempt(&mut self, kind: AttemptKind, fees: Fees) -> Attempt {
        self.hashes += 1;
        let hash = B256::from(U256::from(0xa000 + self.hashes));
        Attempt {
            hash,
            raw: Bytes::new(),
            kind,
            fees,
            gas_limit: 1_000_000,
        }
    }

    /// Reads the code (nobody has any) and commits the slot; answers the slot, its batch and the broadcast attempt.
    fn open(&mut self, effects: Vec<Effect>) -> (SlotId, Vec<Queued>, Attempt) {
        let [Effect::ReadCode { signer, batch, .. }] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        let effects = self.tell(Event::CodeRead {
            signer: *signer,
            batch: *batch,
            with_code: Vec::new(),
        });
        self.commit(effects)
    }

    fn commit(&mut self, effects: Vec<Effect>) -> (SlotId, Vec<Queued>, Attempt) {
        let Some(Effect::OpenSlot {
            id, payments, fees, ..
        }) = effects.last()
        else {
            panic!("{effects:?}")
        };
        let attempt = self.attempt(AttemptKind::Batch, *fees);
        let sent = self.tell(Event::SlotOpened {
            fence: fence(),
            id: *id,
            attempt: attempt.clone(),
        });
        assert!(
            matches!(&sent[..], [Effect::Broadcast { attempt: sent, .. }] if *sent == attempt),
            "{sent:?}"
        );
        (*id, payments.clone(), attempt)
    }

    fn mined(&self, attempt: &Attempt, succeeded: bool, settled: &[Queued]) -> Mined {
        let used = B256::from(alloy_primitives::keccak256(
            "AuthorizationUsed(address,bytes32)",
        ));
        let moved = B256::from(alloy_primitives::keccak256(
            "Transfer(address,address,uint256)",
        ));
        let mut logs = Vec::new();
        for Queued { payment, .. } in settled {
            let address = payment.asset;
            let payer = payment.key.payer.into_word();
            let index = logs.len() as u64;
            logs.push(Log {
                address,
                topics: vec![used, payer, payment.key.nonce.0],
                data: Bytes::new(),
                index,
            });
            let data = Bytes::from(payment.value.0.to_be_bytes_vec());
            let topics = vec![moved, payer, payment.payee.into_word()];
            logs.push(Log {
                address,
                topics,
                data,
                index: index + 1,
            });
        }
        Mined {
            transaction: attempt.hash,
            block: BlockRef {
                number: self.block,
                hash: B256::repeat_byte(self.block as u8),
            },
            succeeded,
            gas_used: 100_001,
            cost: Wei::from(1_000_003),
            logs,
        }
    }

    fn found(&mut self, id: SlotId, mined: Mined) -> Vec<(SettlementId, Resolution)> {
        let effects = self.tell(Event::Found { id, mined });
        closing(&effects)
    }
}

fn closing(effects: &[Effect]) -> Vec<(SettlementId, Resolution)> {
    effects
        .iter()
        .find_map(|effect| match effect {
            Effect::CloseSlot { closure, .. } => Some(closure.resolutions.clone()),
            _ => None,
        })
        .unwrap_or_else(|| panic!("no slot is closed by {effects:?}"))
}

#[test]
fn an_idle_lane_sends_at_once_and_a_busy_one_gathers_company() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, _) = bench.open(effects);
    assert_eq!((id, batch.len()), (slot(7), 1));
    assert!(
        bench
            .tell(Event::Accepted(vec![payment(10, 3_600)]))
            .is_empty()
    );
    assert!(
        bench
            .tell(Event::Accepted(vec![payment(11, 3_600)]))
            .is_empty()
    );
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
    let effects = bench.tell(Event::Accepted(
        (10..460).map(|number| payment(number, 3_600)).collect(),
    ));
    let (_, batch, _) = bench.open(effects);
    assert_eq!(batch.len(), 200);
    bench.now += 1_000;
    assert!(bench.tell(Event::Tick).is_empty(), "both slots are open");
    assert_eq!(bench.core.queue_depth(), 250);
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
fn a_payer_with_code_fails_and_his_neighbours_go_on() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(3)));
    let [
        Effect::ReadCode {
            signer,
            batch,
            payers,
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    let hostile = payers[1].0;
    let effects = bench.tell(Event::CodeRead {
        signer: *signer,
        batch: *batch,
        with_code: vec![hostile],
    });
    let Some(Effect::ResolveAccepted(failed)) = effects.first() else {
        panic!("{effects:?}")
    };
    assert_eq!(failed[0].0, hostile);
    let (_, batch, _) = bench.commit(effects.clone());
    assert_eq!(batch.len(), 2);
}

#[test]
fn a_withdrawn_payment_leaves_its_forming_batch() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(2)));
    let [
        Effect::ReadCode {
            signer,
            batch,
            payers,
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    let withdrawn = payers[0].0;
    bench.tell(Event::CodeRead {
        signer: *signer,
        batch: *batch,
        with_code: Vec::new(),
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
fn settled_payments_share_gas_and_cost_to_the_unit() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(3)));
    let (id, batch, attempt) = bench.open(effects);
    assert!(matches!(
        &bench.seal(vec![attempt.hash])[..],
        [Effect::FindReceipts { .. }]
    ));
    let mined = bench.mined(&attempt, true, &batch);
    let resolutions = bench.found(id, mined);
    let receipts = resolutions.iter().map(|(_, resolution)| match resolution {
        Resolution::Resolved(SettlementState::Settled(receipt)) => *receipt,
        other => panic!("{other:?}"),
    });
    let (gas, cost) = receipts.fold((0, U256::ZERO), |(gas, cost), r| {
        (gas + r.gas_used, cost + r.cost.0)
    });
    assert_eq!((gas, cost), (100_001, U256::from(1_000_003)));
    bench.tell(Event::SlotClosed { id });
    assert!(bench.core.is_idle());
}

#[test]
fn a_payment_without_its_events_is_never_settled() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(2)));
    let (id, batch, attempt) = bench.open(effects);
    let mined = bench.mined(&attempt, true, &batch[..1]);
    let effects = bench.tell(Event::Found { id, mined });
    let [Effect::Investigate { payments, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(payments.len(), 1);
    let findings = vec![(
        payments[0].id,
        Finding::WouldRevert(Reason::InsufficientBalance),
    )];
    let effects = bench.tell(Event::Investigated { id, findings });
    let resolutions = closing(&effects);
    assert!(resolutions.iter().any(|(_, resolution)| matches!(
        resolution,
        Resolution::Resolved(SettlementState::Failed { refusal, .. }) if refusal.reason == Reason::InsufficientBalance
    )));
}

#[test]
fn a_batch_that_reverts_whole_is_halved_until_the_culprit_is_alone() {
    let mut bench = Bench::with_lane();
    let batch = payments(8);
    let culprit = batch[3].id;
    let mut effects = bench.tell(Event::Accepted(batch));
    let mut settled = 0;
    let mut transactions = 0;
    while !bench.core.is_idle() {
        transactions += 1;
        assert!(transactions < 20);
        let (id, batch, attempt) = bench.open(std::mem::take(&mut effects));
        let hostile = batch.iter().any(|queued| queued.id == culprit);
        let mined = bench.mined(&attempt, !hostile, if hostile { &[] } else { &batch });
        let after = bench.tell(Event::Found { id, mined });
        let resolutions = if hostile && batch.len() == 1 {
            let findings = vec![(culprit, Finding::WouldRevert(Reason::PayerHasCode))];
            closing(&bench.tell(Event::Investigated { id, findings }))
        } else {
            closing(&after)
        };
        let ours = |(_, resolution): &&(_, _)| {
            matches!(
                resolution,
                Resolution::Resolved(SettlementState::Settled(_))
            )
        };
        settled += resolutions.iter().filter(ours).count();
        effects = bench.tell(Event::SlotClosed { id });
    }
    assert_eq!(settled, 7);
    assert!(transactions <= 7, "{transactions}");
}

#[test]
fn a_third_try_travels_alone_and_a_fourth_is_not_made() {
    let mut bench = Bench::with_lane();
    let mut unlucky = payment(1, 3_600);
    unlucky.tries = 2;
    let id = unlucky.id;
    let effects = bench.tell(Event::Accepted(vec![unlucky, payment(2, 3_600)]));
    let (slot, batch, attempt) = bench.open(effects);
    assert_eq!(
        batch.iter().map(|queued| queued.id).collect::<Vec<_>>(),
        [id]
    );
    let mined = bench.mined(&attempt, true, &[]);
    bench.tell(Event::Found { id: slot, mined });
    let effects = bench.tell(Event::Investigated {
        id: slot,
        findings: vec![(id, Finding::WouldSettle)],
    });
    assert!(matches!(
        closing(&effects)[..],
        [(_, Resolution::Resolved(SettlementState::Failed { .. }))]
    ));
}

#[test]
fn a_stalled_slot_is_sent_again_outbid_and_parked_with_rising_fees() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, _, first) = bench.open(effects);
    bench.tell(Event::Sent {
        id,
        hash: first.hash,
        outcome: Sent::Accepted,
    });
    let mut attempts = vec![first];
    let mut acted_at = Vec::new();
    while bench.now < 20 * INTERVAL {
        bench.now += 100;
        for effect in bench.tell(Event::Tick) {
            match effect {
                Effect::AddAttempt { kind, fees, .. } => {
                    acted_at.push((bench.now / INTERVAL, kind));
                    let attempt = bench.attempt(kind, fees);
                    attempts.push(attempt.clone());
                    let hash = attempt.hash;
                    bench.tell(Event::AttemptAdded { id, attempt });
                    bench.tell(Event::Sent {
                        id,
                        hash,
                        outcome: Sent::Accepted,
                    });
                }
                Effect::Broadcast { attempt, .. } => assert_eq!(Some(&attempt), attempts.last()),
                Effect::FindReceipts { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    use AttemptKind::{Batch, NoOp};
    assert_eq!(acted_at, [(3, Batch), (6, Batch), (12, Batch), (15, NoOp)]);
    assert!(invariants::attempts_are_sound(&attempts));
}

#[test]
fn a_recovered_slot_is_looked_up_before_its_bytes_are_sent_again() {
    let mut bench = Bench::new();
    bench.seal(Vec::new());
    let fees = Fees {
        max_fee_per_gas: 20,
        max_priority_fee_per_gas: 2,
    };
    let attempt = bench.attempt(AttemptKind::Batch, fees);
    let recovered = |payments| RecoveredLane {
        fence: fence(),
        next_nonce: AccountNonce(8),
        slots: vec![RecoveredSlot {
            id: slot(7),
            attempts: vec![attempt.clone()],
            payments,
        }],
    };
    let effects = bench.tell(Event::LaneClaimed(recovered(payments(2))));
    assert!(
        matches!(&effects[..], [Effect::FindReceipts { lookups, .. }] if lookups[0].1 == [attempt.hash])
    );
    let effects = bench.tell(Event::NotFound {
        id: slot(7),
        sealed_nonce: AccountNonce(7),
    });
    assert!(matches!(&effects[..], [Effect::Broadcast { attempt: sent, .. }] if *sent == attempt));
    // With nothing left to settle in time, a no-op takes the nonce instead.
    bench.tell(Event::LaneClaimed(recovered(vec![payment(5, 1)])));
    let effects = bench.tell(Event::NotFound {
        id: slot(7),
        sealed_nonce: AccountNonce(7),
    });
    assert!(
        matches!(
            &effects[..],
            [Effect::AddAttempt {
                kind: AttemptKind::NoOp,
                ..
            }]
        ),
        "{effects:?}"
    );
}

#[test]
fn a_nonce_that_somebody_else_used_freezes_the_lane() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, _, attempt) = bench.open(effects);
    let effects = bench.tell(Event::Sent {
        id,
        hash: attempt.hash,
        outcome: Sent::NonceTooLow,
    });
    assert!(matches!(&effects[..], [Effect::FindReceipts { .. }]));
    let missing = Event::NotFound {
        id,
        sealed_nonce: AccountNonce(8),
    };
    assert!(
        bench.tell(missing.clone()).is_empty(),
        "one look is not enough"
    );
    assert!(
        bench.tell(missing.clone()).is_empty(),
        "nor are two at once"
    );
    bench.now += INTERVAL;
    let effects = bench.tell(missing);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::LaneFrozen { .. })),
        "{effects:?}"
    );
    assert!(
        bench
            .tell(Event::Accepted(vec![payment(9, 3_600)]))
            .is_empty(),
        "nothing more is signed"
    );
}

#[test]
fn a_payment_past_its_cutoff_expires_without_a_transaction() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(vec![payment(1, 2)]));
    assert!(
        matches!(&effects[..], [Effect::ResolveAccepted(ended)] if ended[0].1 == SettlementState::Expired)
    );
}

#[test]
fn a_lost_lane_is_read_again_and_forgets_what_it_thought() {
    let mut bench = Bench::with_lane();
    let batch = payments(2);
    let effects = bench.tell(Event::Accepted(batch.clone()));
    let [
        Effect::ReadCode {
            signer,
            batch: number,
            ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    bench.tell(Event::CodeRead {
        signer: *signer,
        batch: *number,
        with_code: Vec::new(),
    });
    let effects = bench.tell(Event::LaneLost { fence: fence() });
    assert!(matches!(&effects[..], [Effect::ReclaimLane { .. }]));
    assert!(
        bench.tell(Event::LaneLost { fence: fence() }).is_empty(),
        "it is being read already"
    );
    // The ledger had committed nothing: the payments are announced again and get the same nonce.
    bench.tell(Event::LaneClaimed(RecoveredLane {
        fence: fence(),
        next_nonce: AccountNonce(7),
        slots: Vec::new(),
    }));
    let effects = bench.tell(Event::Accepted(batch));
    let (id, _, _) = bench.open(effects);
    assert_eq!(id, slot(7));
}

#[test]
fn a_frozen_lane_thaws_when_its_own_transaction_turns_up() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    for _ in 0..2 {
        bench.now += INTERVAL;
        bench.tell(Event::NotFound {
            id,
            sealed_nonce: AccountNonce(8),
        });
    }
    assert_eq!(
        bench.core.lanes().next().unwrap().state(),
        LaneState::Frozen
    );
    bench.now += 3 * INTERVAL;
    let effects = bench.tell(Event::Tick);
    assert!(
        matches!(&effects[..], [Effect::FindReceipts { .. }]),
        "{effects:?}"
    );
    let mined = bench.mined(&attempt, true, &batch);
    assert_eq!(bench.found(id, mined).len(), 1);
    assert_eq!(
        bench.core.lanes().next().unwrap().state(),
        LaneState::Active
    );
}

#[test]
fn a_lane_that_ran_out_of_funds_is_used_again_once_its_slots_are_closed() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, batch, attempt) = bench.open(effects);
    bench.tell(Event::Sent {
        id,
        hash: attempt.hash,
        outcome: Sent::InsufficientFunds,
    });
    assert_eq!(
        bench.core.lanes().next().unwrap().state(),
        LaneState::OutOfFunds
    );
    assert!(
        bench
            .tell(Event::Accepted(vec![payment(9, 3_600)]))
            .is_empty(),
        "nothing new is signed"
    );
    let mined = bench.mined(&attempt, true, &batch);
    bench.found(id, mined);
    let effects = bench.tell(Event::SlotClosed { id });
    assert!(
        matches!(&effects[..], [Effect::ReadCode { .. }]),
        "{effects:?}"
    );
}

#[test]
fn an_underpriced_attempt_is_outbid_once_a_block_and_not_more() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let (id, _, attempt) = bench.open(effects);
    let outbids = |effects: &[Effect]| {
        effects
            .iter()
            .filter(|e| matches!(e, Effect::AddAttempt { .. }))
            .count()
    };
    let refused = Event::Sent {
        id,
        hash: attempt.hash,
        outcome: Sent::Underpriced,
    };
    assert_eq!(outbids(&bench.tell(refused.clone())), 0);
    assert_eq!(outbids(&bench.tell(refused)), 0);
    bench.now += INTERVAL;
    assert_eq!(outbids(&bench.tell(Event::Tick)), 1);
    assert_eq!(outbids(&bench.tell(Event::Tick)), 0);
}

#[test]
fn news_of_an_older_holding_opens_no_slot() {
    let mut bench = Bench::with_lane();
    let effects = bench.tell(Event::Accepted(payments(1)));
    let [Effect::ReadCode { signer, batch, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    bench.tell(Event::CodeRead {
        signer: *signer,
        batch: *batch,
        with_code: Vec::new(),
    });
    let older = FencedLane {
        epoch: 0,
        ..fence()
    };
    let fees = Fees {
        max_fee_per_gas: 1,
        max_priority_fee_per_gas: 1,
    };
    let attempt = bench.attempt(AttemptKind::Batch, fees);
    assert!(
        bench
            .tell(Event::SlotOpened {
                fence: older,
                id: slot(7),
                attempt
            })
            .is_empty()
    );
    assert_eq!(bench.core.lanes().next().unwrap().open_slots(), 0);
}

#[test]
fn a_no_op_passes_the_ceiling_that_stops_a_batch() {
    let mut bench = Bench::with_lane();
    bench.core.config.fees.max_fee_ceiling = Some(5_000_001);
    let fees = Fees {
        max_fee_per_gas: 5_000_001,
        max_priority_fee_per_gas: 1_000,
    };
    let attempt = bench.attempt(AttemptKind::Batch, fees);
    let slots = vec![RecoveredSlot {
        id: slot(7),
        attempts: vec![attempt],
        payments: vec![payment(5, 1)],
    }];
    bench.tell(Event::LaneClaimed(RecoveredLane {
        fence: fence(),
        next_nonce: AccountNonce(8),
        slots,
    }));
    let effects = bench.tell(Event::NotFound {
        id: slot(7),
        sealed_nonce: AccountNonce(7),
    });
    assert!(
        matches!(
            &effects[..],
            [Effect::AddAttempt {
                kind: AttemptKind::NoOp,
                ..
            }]
        ),
        "{effects:?}"
    );
}
