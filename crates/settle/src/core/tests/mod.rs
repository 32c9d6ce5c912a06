//! Behaviour of the state machine, event by event. The bench that all tests drive is here, the tests are beside it.

mod approvals;
mod batches;
mod delegations;
mod funds;
mod gaps;
mod hand_over;
mod orders;
mod reorgs;
mod slots;
mod unexplained;

use alloy_primitives::{Address, B256, Bytes, U256};
use teller_chain::FeePolicy;
use teller_domain::{
    AccountNonce, AssetAmount, Attempt, AttemptKind, Authorization, AuthorizationKey,
    AuthorizationNonce, BlockRef, EcdsaSignature, Fees, FencedLane, LaneMode, Level, PERMIT2,
    Payment, Permit2, PermitTerms, Reason, Resolution, Settlement, SettlementId, SettlementState,
    SlotId, TenantId, UnixMillis, Validity, Wei, X402Version,
};
use teller_store::UnfinalSlot;

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
        validity: Validity::between(UnixSeconds(0), UnixSeconds(START + valid_for)),
        authorization: Authorization::Eip3009 {
            signature: EcdsaSignature {
                r: B256::ZERO,
                s: B256::ZERO,
                v: 27,
            }
            .into(),
        },
    };
    Queued::new(&Settlement {
        id: SettlementId::fresh(),
        tenant: TenantId::new("shop"),
        version: X402Version::V2,
        payment: payment.clone(),
        attribution: Bytes::new(),
        digest: payment.digest(),
        state: SettlementState::Accepted,
        told: None,
        tries: 0,
        accepted_at: UnixMillis(0),
        updated_at: UnixMillis(0),
    })
}

fn payments(count: u64) -> Vec<Queued> {
    (0..count).map(|number| payment(number, 3_600)).collect()
}

fn fees(max_fee_per_gas: u128, max_priority_fee_per_gas: u128) -> Fees {
    Fees {
        max_fee_per_gas,
        max_priority_fee_per_gas,
    }
}

fn empty_lane() -> RecoveredLane {
    RecoveredLane {
        fence: fence(),
        mode: LaneMode::Active,
        next_nonce: AccountNonce(7),
        slots: Vec::new(),
        unfinal: Vec::new(),
        unexplained: Vec::new(),
    }
}

fn recovered_slot(attempt: &Attempt, payments: Vec<Queued>) -> RecoveredLane {
    RecoveredLane {
        next_nonce: AccountNonce(8),
        slots: vec![RecoveredSlot {
            id: slot(7),
            after: None,
            attempts: vec![attempt.clone()],
            payments,
            ended: Vec::new(),
            preconfirmed: None,
        }],
        ..empty_lane()
    }
}

/// A core with what a shell would remember: attempts get hashes in order, blocks hashes by height and branch.
struct Bench {
    core: Core,
    now: u64,
    hashes: u64,
    block: u64,
    branch: u8,
    block_gas: u64,
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
            budgets: Budgets::default(),
            approvals: Some(TopUpPolicy {
                most: Wei::from(1_000),
                day: Wei::from(2_500),
            }),
            flashblocks: false,
        });
        Self {
            core,
            now: 0,
            hashes: 0,
            block: 100,
            branch: 1,
            block_gas: 400_000_000,
        }
    }

    fn with_lane() -> Self {
        let mut bench = Self::new();
        bench.seal(Vec::new());
        bench.tell(Event::LaneClaimed(empty_lane()));
        bench
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.core.handle([event], self.now)
    }

    fn at(&self, number: u64) -> BlockRef {
        BlockRef {
            number,
            hash: B256::from(U256::from(number) << 8 | U256::from(self.branch)),
        }
    }

    fn head(&self) -> BlockRef {
        self.at(self.block)
    }

    fn seal(&mut self, transactions: Vec<B256>) -> Vec<Effect> {
        self.block += 1;
        let timestamp = UnixSeconds(START + self.now / 1_000);
        let block = self.head();
        self.tell(Event::Block(BlockSummary {
            block,
            timestamp,
            base_fee: 5_000_000,
            gas_limit: self.block_gas,
            transactions,
        }))
    }

    /// The chain leaves its last blocks, this many; the next ones are of another branch.
    fn reorg(&mut self, depth: u64) -> Vec<Effect> {
        let from = self.block + 1 - depth;
        self.block -= depth;
        self.branch += 1;
        self.tell(Event::Reorg { from })
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

    fn read_code(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let [Effect::ReadCode { signer, batch, .. }] = effects else {
            panic!("{effects:?}")
        };
        self.tell(Event::CodeRead {
            signer: *signer,
            batch: *batch,
            with_code: Vec::new(),
            refused: Vec::new(),
        })
    }

    /// Reads the code (nobody has any), signs and commits the slot; answers it, its batch and the broadcast attempt.
    fn open(&mut self, effects: Vec<Effect>) -> (SlotId, Vec<Queued>, Attempt) {
        let effects = self.read_code(&effects);
        self.commit(effects)
    }

    fn commit(&mut self, effects: Vec<Effect>) -> (SlotId, Vec<Queued>, Attempt) {
        let Some(Effect::Sign {
            fence,
            id,
            what: ToSign::Batch(payments),
            fees,
            ..
        }) = effects.last()
        else {
            panic!("{effects:?}")
        };
        let (fence, id) = (*fence, *id);
        let attempt = self.attempt(AttemptKind::Batch, *fees);
        let ticket = self.core.tickets;
        let written = self.tell(Event::Signed {
            fence,
            id,
            ticket,
            attempt: attempt.clone(),
        });
        assert!(
            matches!(&written[..], [Effect::OpenSlot { .. }]),
            "{written:?}"
        );
        let sent = self.tell(Event::SlotOpened { fence, id });
        assert!(
            matches!(&sent[..], [Effect::Broadcast { attempt: sent, .. }] if *sent == attempt),
            "{sent:?}"
        );
        (id, payments.clone(), attempt)
    }

    /// Signs and commits the further attempt that is asked for.
    fn add(&mut self, effect: &Effect) -> (Attempt, Vec<Effect>) {
        let Effect::Sign {
            fence,
            id,
            what,
            fees,
            ..
        } = effect
        else {
            panic!("{effect:?}")
        };
        let kind = match what {
            ToSign::NoOp => AttemptKind::NoOp,
            ToSign::Outbid(_) => AttemptKind::Batch,
            ToSign::Batch(_) | ToSign::TopUp(_) => panic!("a replacement with another batch"),
        };
        let attempt = self.attempt(kind, *fees);
        let (fence, id) = (*fence, *id);
        let ticket = self.core.tickets;
        let written = self.tell(Event::Signed {
            fence,
            id,
            ticket,
            attempt: attempt.clone(),
        });
        assert!(
            matches!(&written[..], [Effect::AddAttempt { .. }]),
            "{written:?}"
        );
        (attempt, self.tell(Event::AttemptAdded { fence, id }))
    }

    fn mined(&self, attempt: &Attempt, succeeded: bool, settled: &[Queued]) -> Mined {
        let event = |signature: &str| alloy_primitives::keccak256(signature);
        let used = event("AuthorizationUsed(address,bytes32)");
        let moved = event("Transfer(address,address,uint256)");
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
            block: self.head(),
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

    fn closed(&mut self, id: SlotId) -> Vec<Effect> {
        self.tell(Event::SlotClosed {
            fence: fence(),
            id,
            kept: Vec::new(),
        })
    }

    /// Closes a slot with this receipt, and answers the payments that the chain is asked about then.
    fn left(&mut self, id: SlotId, mined: Mined) -> Vec<SettlementId> {
        let effects = self.tell(Event::Found { id, mined });
        closing(&effects);
        let effects = self.closed(id);
        asked_about(&effects)
    }

    fn investigated(&mut self, findings: Vec<(SettlementId, Finding)>) -> Vec<Effect> {
        self.tell(Event::Investigated {
            fence: fence(),
            asked: findings.iter().map(|(id, _)| *id).collect(),
            findings,
        })
    }

    /// The ledger has written what became of these payments.
    fn explained(&mut self, resolutions: &[(SettlementId, Resolution)]) -> Vec<Effect> {
        let ids: Vec<SettlementId> = resolutions.iter().map(|(id, _)| *id).collect();
        self.tell(Event::UnexplainedResolved {
            fence: fence(),
            ids: ids.clone(),
            changed: ids,
        })
    }

    /// Both endpoints answer the same: the sealed nonce, and whether they know a hash.
    fn looked_up(&mut self, id: SlotId, sealed_nonce: u64, known: bool) -> Vec<Effect> {
        let sighting = self.sighting(sealed_nonce, known);
        self.looked_up_as(id, vec![sighting.clone(), sighting])
    }

    fn sighting(&self, sealed_nonce: u64, known: bool) -> Sighting {
        Sighting {
            sealed: self.head(),
            sealed_nonce: AccountNonce(sealed_nonce),
            mined: None,
            known,
            searched: true,
            nonce_then: Some(AccountNonce(7)),
        }
    }

    fn looked_up_as(&mut self, id: SlotId, sightings: Vec<Sighting>) -> Vec<Effect> {
        self.tell(Event::LookedUp {
            id,
            asked: 1,
            sightings,
            endpoints: 2,
        })
    }

    fn lane(&self) -> &Lane {
        self.core.lanes().next().unwrap()
    }

    /// One payment, settled and closed in a block of its own.
    fn settle_one(&mut self, number: u64) -> (SlotId, Queued) {
        let effects = self.tell(Event::Accepted(vec![payment(number, 3_600)]));
        let (id, batch, attempt) = self.open(effects);
        self.seal(vec![attempt.hash]);
        let mined = self.mined(&attempt, true, &batch);
        self.found(id, mined);
        self.closed(id);
        (id, batch[0].clone())
    }
}

/// The unexplained payments that the chain is asked about.
fn asked_about(effects: &[Effect]) -> Vec<SettlementId> {
    let asked = effects.iter().find_map(|effect| match effect {
        Effect::Investigate { payments, .. } => Some(payments),
        _ => None,
    });
    let payments = asked.unwrap_or_else(|| panic!("nothing is asked by {effects:?}"));
    payments.iter().map(|left| left.queued.id).collect()
}

/// What is written of unexplained payments.
fn explaining(effects: &[Effect]) -> Vec<(SettlementId, Resolution)> {
    match effects {
        [Effect::ResolveUnexplained { resolutions, .. }] => resolutions.clone(),
        other => panic!("nothing is explained by {other:?}"),
    }
}

fn closing(effects: &[Effect]) -> Vec<(SettlementId, Resolution)> {
    closure(effects).resolutions
}

fn closure(effects: &[Effect]) -> teller_store::SlotClosure {
    effects
        .iter()
        .find_map(|effect| match effect {
            Effect::CloseSlot { closure, .. } => Some(closure.clone()),
            _ => None,
        })
        .unwrap_or_else(|| panic!("no slot is closed by {effects:?}"))
}
