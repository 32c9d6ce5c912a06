//! Payers' approvals in the simulation: payments that need them, what becomes of them, and how they go wrong.

use std::sync::Arc;

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use teller_domain::{
    Allowance, Authorization, AuthorizationNonce, EXACT_PROXY, Fees, PERMIT2, Payment, Permit2,
    PermitTerms, SettlementId, SettlementState, SlotId, TokenApproval, TopUpPolicy, UnixSeconds,
    Validity, Wei,
};
use teller_store::{Ledger, TopUp};

use super::clients::{PAYERS, STRANGER, payer};
use super::model::chain::Sealed;
use super::model::transaction::{Transaction, approveCall};
use super::switches::Switch;
use super::world::{EPOCH, TOKEN, World, stranger};
use crate::core::{ApprovalStanding, Event, Queued};

const GWEI: u128 = 1_000_000_000;
/// What clients sign for, as the official ones do.
const APPROVAL_GAS: u64 = 70_000;

/// What payers are given at most: less than some of them need, and in a day less than all of them do.
pub const GIVES: TopUpPolicy = TopUpPolicy {
    most: Wei(U256::from_limbs([1_000_000_000_000_000, 0, 0, 0])),
    day: Wei(U256::from_limbs([2_500_000_000_000_000, 0, 0, 0])),
};

/// The approval that came with a payment. Its payer signed it, whoever's key it was.
pub fn approval_of(payment: &Payment) -> Option<Transaction> {
    let sent = payment.token_approval()?;
    Some(Transaction::decode(&sent.transaction, payment.key.payer))
}

impl World<'_> {
    /// Some payers have gas of their own.
    pub fn plan_gas(&mut self) {
        let gas: Vec<bool> = (0..PAYERS).map(|_| self.rng.chance(300)).collect();
        self.chain.cheat(|state| {
            for (index, has_gas) in gas.into_iter().enumerate() {
                if has_gas {
                    let account = state.accounts.entry(payer(index as u64)).or_default();
                    account.wei = U256::from(10).pow(U256::from(16));
                }
            }
        });
    }

    /// A payment by Permit2 with its payer's approval. It lasts for less than what follows all faults: whoever waits in vain
    /// is told so.
    pub fn approved(&mut self, mut payment: Payment) -> Payment {
        let lasts = self.rng.between(15, 90);
        let begins = self.now_ms / 1_000 + self.rng.below(40);
        let end = UnixSeconds(EPOCH + begins + lasts);
        payment.key.authority = PERMIT2;
        payment.key.nonce = AuthorizationNonce(self.rng.bytes32().into());
        payment.validity = Validity::between(UnixSeconds(0), end);
        let fees = Fees {
            max_fee_per_gas: u128::from(self.rng.between(3, 16)) * GWEI,
            max_priority_fee_per_gas: GWEI / 10,
        };
        let call = approveCall {
            spender: PERMIT2,
            value: U256::MAX,
        };
        // Nobody here looks at whose signature it is.
        let signed = stranger().sign_batch(
            self.chain_id,
            teller_domain::AccountNonce(0),
            TOKEN,
            call.abi_encode().into(),
            APPROVAL_GAS,
            fees,
        );
        let transaction = signed.unwrap().raw;
        let approval = TokenApproval::of_checked(payment.key.payer, TOKEN, transaction);
        payment.authorization = Authorization::Permit2(Box::new(Permit2 {
            terms: PermitTerms::Exact,
            signature: payment.authorization.signature().clone(),
            allowance: Some(Box::new(Allowance::Approval(approval))),
        }));
        payment
    }

    /// Two nodes are asked about one block that is sealed to this process.
    pub fn look_at_approvals(&mut self, p: usize, payments: &[Queued]) {
        let asked: Vec<SettlementId> = payments.iter().map(|queued| queued.id).collect();
        let sealed = self.witnessed_block(p);
        let mut seen = Vec::new();
        for queued in payments {
            let Some(sealed) = &sealed else { break };
            let standing = self.standing(&queued.payment, sealed);
            match standing {
                ApprovalStanding::InPlace => {
                    self.check.approved.insert((p, queued.id));
                }
                ApprovalStanding::Void => self.is_refuted(queued.id),
                ApprovalStanding::Outstanding { lacking, .. } if lacking > GIVES.most => {
                    self.is_refuted(queued.id);
                }
                ApprovalStanding::Outstanding { .. } => {}
            }
            seen.push((queued.id, standing));
        }
        let block = sealed.map(|sealed| sealed.block);
        let ledger = &self.stage.ledger;
        let rows = self.stage.read(|| ledger.settlements(&asked));
        let over = rows
            .iter()
            .filter(|row| row.state != SettlementState::Accepted);
        let gone = over.map(|row| row.id).collect();
        let seen = Event::ApprovalsSeen {
            asked,
            block,
            seen,
            gone,
        };
        self.answer(p, seen);
    }

    fn witnessed_block(&mut self, p: usize) -> Option<Arc<Sealed>> {
        let block = *self.processes[p].told.last()?;
        let first = self.rng.index(self.endpoints.len());
        for endpoint in [first, (first + 1) % self.endpoints.len()] {
            if self.node_fails(endpoint) {
                return None;
            }
            let view = self.endpoints[endpoint].view;
            let there = self.chain.ancestor(view, block.number)?;
            if there.block != block {
                return None;
            }
        }
        self.chain.known(block.hash).cloned()
    }

    fn standing(&self, payment: &Payment, sealed: &Sealed) -> ApprovalStanding {
        let Some(approval) = approval_of(payment) else {
            return ApprovalStanding::InPlace;
        };
        let (payer, nonce) = (payment.key.payer, payment.key.nonce.0);
        let state = &sealed.state;
        if state.allowances.contains(&payer) || state.spent(payer, nonce).is_some() {
            return ApprovalStanding::InPlace;
        }
        let account = state.account(payer);
        if account.nonce > approval.nonce {
            return ApprovalStanding::Void;
        }
        let needed = self.needed_for(&approval);
        let ledger = &self.stage.ledger;
        let read = || ledger.top_up(self.chain_id, payer, TOKEN);
        ApprovalStanding::Outstanding {
            lacking: Wei(needed.saturating_sub(account.wei)),
            given: self.off != Some(Switch::GivenOnce) && self.stage.read(read).is_some(),
        }
    }

    /// What its payer must have for it.
    pub fn needed_for(&self, approval: &Transaction) -> U256 {
        let data_fee = self.chain.rules.data_fee * (approval.calldata.0 + approval.calldata.1);
        approval.upfront() + U256::from(data_fee)
    }

    /// Nobody is given more than his approval can cost, nor than may be given, nor anything twice.
    pub fn check_given(&mut self, id: SlotId, top_up: &TopUp) {
        self.check.fault("payer topped up");
        let place = (top_up.payer, top_up.token);
        let before = self.check.given.insert(place, id);
        self.demand(before.is_none(), || {
            format!(
                "{} is given gas in {id}, and was in {before:?}",
                top_up.payer
            )
        });
        let costs = self.check.accepted.values().filter_map(|payment| {
            let approval = approval_of(payment)?;
            (approval.from == top_up.payer).then(|| self.needed_for(&approval))
        });
        let most = costs.max().unwrap_or_default();
        self.demand(top_up.value.0 <= most && top_up.value <= GIVES.most, || {
            format!(
                "{} is given {} where {most} would do",
                top_up.payer, top_up.value
            )
        });
    }

    pub fn send_approval(&mut self, queued: &Queued) {
        let Some(approval) = approval_of(&queued.payment) else {
            return;
        };
        self.check.fault("approval sent");
        let endpoint = self.rng.index(self.endpoints.len());
        let _the_next_look_tells = self.send_to(endpoint, &Arc::new(approval));
    }

    /// What goes wrong with an approval: its payer is faster, takes it back, spends what he was given, or somebody else
    /// sends it or spends the permit.
    pub fn upset_approval(&mut self, payment: &Payment) {
        let payer = payment.key.payer;
        let Some(approval) = approval_of(payment) else {
            return;
        };
        let head = Arc::clone(self.chain.head());
        let fees = Fees {
            max_fee_per_gas: 400 * GWEI,
            max_priority_fee_per_gas: GWEI,
        };
        match self.rng.below(5) {
            0 => {
                self.check.fault("approval overtaken by its payer");
                let rich = U256::from(10).pow(U256::from(16));
                self.chain.cheat(|state| {
                    let account = state.accounts.entry(payer).or_default();
                    account.wei = account.wei.max(rich);
                });
                let signed = stranger().sign_top_up(
                    self.chain_id,
                    teller_domain::AccountNonce(head.state.account(payer).nonce),
                    STRANGER,
                    Wei::from(1),
                    21_000,
                    fees,
                );
                self.submit_to_builder(&signed.unwrap().raw, payer);
            }
            1 => {
                self.check.fault("allowance revoked");
                self.chain.cheat(|state| {
                    state.allowances.remove(&payer);
                });
            }
            2 => {
                self.check.fault("payer's gas spent");
                self.chain.cheat(|state| {
                    state.accounts.entry(payer).or_default().wei = U256::ZERO;
                });
            }
            3 => {
                self.check.fault("approval sent by a stranger");
                self.submit_to_builder(&approval.raw, payer);
            }
            _ => {
                self.check.fault("permit spent by a stranger");
                let (target, call) = teller_schemes::settling_call(payment, Address::ZERO);
                assert_eq!(target, EXACT_PROXY);
                let nonce = self.stranger_nonce();
                let signed =
                    stranger().sign_batch(self.chain_id, nonce, target, call, 300_000, fees);
                self.submit_to_builder(&signed.unwrap().raw, STRANGER);
            }
        }
    }

    fn submit_to_builder(&mut self, raw: &alloy_primitives::Bytes, from: Address) {
        let transaction = Arc::new(Transaction::decode(raw, from));
        let head = Arc::clone(self.chain.head());
        self.note(|| format!("{from} sends {:?}", transaction.call));
        let _their_own_affair = self.builder.submit(transaction, &head.state, head.base_fee);
    }
}
