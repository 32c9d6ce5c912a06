//! What the shell of a process asks of nodes: sends, receipts, looks at slots, blocks and payments.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use teller_chain::SendOutcome;
use teller_domain::{
    Attempt, BlockRef, FencedLane, Level, PERMIT2, Payment, Reason, Receipt, SlotId, Wei,
};
use teller_schemes::permit2::Permit;
use teller_store::Ledger;

use super::model::chain::{Receipt as ChainReceipt, Sealed};
use super::model::state::{BlockEnv, REDEEMED, Spent, TRANSFER};
use super::model::transaction::{Call, MANAGER, TokenCall, Transaction, call_of_manager, spend_of};
use super::shell::SEALED_TRIES;
use super::switches::Switch;
use super::world::{Job, TOKEN, World};
use crate::core::{Effect, Event, Finding, Log, Mined, Place, Queued, Sent, Sighting, Unexplained};

impl World<'_> {
    pub fn some_endpoint(&mut self) -> Option<usize> {
        let endpoint = self.rng.index(self.endpoints.len());
        (!self.node_fails(endpoint)).then_some(endpoint)
    }

    pub fn view(&self, endpoint: usize) -> &Arc<Sealed> {
        self.chain.block(self.endpoints[endpoint].view)
    }

    fn env(&self, endpoint: usize) -> BlockEnv {
        let head = self.view(endpoint);
        BlockEnv {
            timestamp: head.timestamp,
            base_fee: head.base_fee,
            token: TOKEN,
        }
    }

    pub fn read_code(&mut self, p: usize, signer: Address, batch: u64, payments: &[Queued]) {
        let Some(endpoint) = self.some_endpoint() else {
            return self.answer(p, Event::CodeUnread { signer, batch });
        };
        let state = &self.view(endpoint).state;
        let mut with_code = Vec::new();
        let mut refused = Vec::new();
        for queued in payments {
            let has_code = state.account(queued.payment.key.payer).code.is_some();
            if has_code {
                with_code.push(queued.id);
            }
            if payments.len() == 1 && (has_code || !queued.payment.is_guarded_on_chain()) {
                refused.extend(
                    self.would_fail(&queued.payment)
                        .map(|reason| (queued.id, reason)),
                );
            }
        }
        for (id, _) in &refused {
            self.is_refuted(*id);
        }
        self.answer(
            p,
            Event::CodeRead {
                signer,
                batch,
                with_code,
                refused,
            },
        );
    }

    /// Why the call would revert, if every node says that it would. A used authorization is another matter: what used it
    /// may have paid.
    fn would_fail(&self, payment: &Payment) -> Option<Reason> {
        let mut why = None;
        for endpoint in 0..self.endpoints.len() {
            let (state, env) = (&self.view(endpoint).state, self.env(endpoint));
            if let Some(Call::Redeem(redemption)) = call_of_manager(payment) {
                why = Some(state.would_redeem(&redemption, &env)?);
                continue;
            }
            let reason = state.would_fail(&call_of(payment), &env)?;
            let used = [Reason::NonceAlreadyUsed, Reason::Permit2InvalidNonce];
            if reason.is_some_and(|reason| used.contains(&reason)) {
                return None;
            }
            why = Some(reason.unwrap_or(Reason::TransactionFailed));
        }
        why
    }

    /// To one node, and to a second one if the first did not take it; any acceptance wins.
    pub fn broadcast(&mut self, p: usize, id: SlotId, attempt: &Attempt) {
        self.check_sent(id, attempt);
        let transaction = Arc::new(Transaction::decode(&attempt.raw, id.signer));
        let first = self.rng.index(self.endpoints.len());
        // One that is lost on its way is a send without an answer.
        self.check.handed.insert(attempt.hash);
        let mut outcome = self.send_to(first, &transaction);
        let mut handed = is_handed(&outcome);
        if !matches!(outcome, SendOutcome::Accepted | SendOutcome::AlreadyKnown) {
            let second = (first + 1) % self.endpoints.len();
            let other = self.send_to(second, &transaction);
            handed |= is_handed(&other);
            if rank(&other) < rank(&outcome) {
                outcome = other;
            }
        }
        if handed {
            let ledger = Arc::clone(&self.stage.ledger);
            let _no_answer = self.write(ledger.note_handed_over(attempt.hash));
        }
        let outcome = match outcome {
            SendOutcome::Accepted | SendOutcome::AlreadyKnown => Sent::Accepted,
            SendOutcome::NonceTooLow => Sent::NonceTooLow,
            SendOutcome::Underpriced => Sent::Underpriced,
            SendOutcome::InsufficientFunds => Sent::InsufficientFunds,
            SendOutcome::GasTooHigh => Sent::GasTooHigh,
            SendOutcome::Unknown(_) => Sent::Unknown,
        };
        self.answer(
            p,
            Event::Sent {
                id,
                hash: attempt.hash,
                outcome,
            },
        );
    }

    pub fn send_to(&mut self, endpoint: usize, transaction: &Arc<Transaction>) -> SendOutcome {
        let unknown = SendOutcome::Unknown(String::new());
        if self.node_fails(endpoint) {
            return match self.rng.below(4) {
                0 => {
                    self.check.fault("send delivered, answer lost");
                    self.submit(endpoint, Arc::clone(transaction));
                    unknown
                }
                1 => {
                    self.check.fault("send delivered late");
                    let late = self.rng.between(100, 8_000);
                    self.schedule(late, Job::Arrive(endpoint, Arc::clone(transaction)));
                    unknown
                }
                _ => {
                    self.check.fault("send lost");
                    unknown
                }
            };
        }
        self.submit(endpoint, Arc::clone(transaction))
    }

    pub fn submit(&mut self, endpoint: usize, transaction: Arc<Transaction>) -> SendOutcome {
        let view = Arc::clone(self.view(endpoint));
        let base_fee = self.chain.base_fee_after(&view);
        self.endpoints[endpoint]
            .pool
            .submit(transaction, &view.state, base_fee)
    }

    pub fn find_receipts(
        &mut self,
        p: usize,
        lookups: Vec<(SlotId, Vec<B256>)>,
        place: Place,
        tries: u32,
    ) {
        if place == Place::Flashblock {
            let Some(flashblock) = self.flashblock.clone() else {
                return;
            };
            for (id, hashes) in lookups {
                let receipt = hashes.iter().find_map(|hash| flashblock.receipt(*hash));
                if let Some(receipt) = receipt {
                    let mined = mined(&flashblock, receipt);
                    self.answer(p, Event::Found { id, mined });
                }
            }
            return;
        }
        let mut missing = Vec::new();
        let endpoint = self.some_endpoint();
        for (id, hashes) in lookups {
            let found = endpoint.and_then(|endpoint| {
                let node = &self.endpoints[endpoint];
                hashes
                    .iter()
                    .find_map(|hash| node.receipt(&self.chain, *hash, self.now_ms))
            });
            match found.map(|(sealed, receipt)| mined(sealed, receipt)) {
                Some(mined) => self.answer(p, Event::Found { id, mined }),
                None => missing.push((id, hashes)),
            }
        }
        if !missing.is_empty() {
            let effect = Effect::FindReceipts {
                lookups: missing,
                place,
            };
            self.retry(p, effect, tries, SEALED_TRIES, 300);
        }
    }

    pub fn look_up(&mut self, p: usize, id: SlotId, hashes: &[B256], then: Option<BlockRef>) {
        let mut sightings = Vec::new();
        for endpoint in 0..self.endpoints.len() {
            if self.node_fails(endpoint) {
                continue;
            }
            let node = &self.endpoints[endpoint];
            let view = self.view(endpoint);
            let found = |hash: &B256| node.receipt(&self.chain, *hash, self.now_ms);
            sightings.push(Sighting {
                sealed: view.block,
                sealed_nonce: teller_domain::AccountNonce(view.state.account(id.signer).nonce),
                mined: hashes.iter().find_map(found).map(|(s, r)| mined(s, r)),
                known: hashes
                    .iter()
                    .any(|hash| node.knows(&self.chain, *hash, self.now_ms)),
                searched: self.now_ms >= node.indexing_until_ms,
                nonce_then: then.and_then(|then| {
                    let there = self.chain.ancestor(node.view, then.number)?;
                    let same = there.block.hash == then.hash;
                    let nonce = there.state.account(id.signer).nonce;
                    same.then_some(teller_domain::AccountNonce(nonce))
                }),
            });
        }
        let (asked, endpoints) = (hashes.len(), self.endpoints.len());
        self.answer(
            p,
            Event::LookedUp {
                id,
                asked,
                sightings,
                endpoints,
            },
        );
    }

    pub fn check_blocks(&mut self, p: usize, fence: FencedLane, blocks: &[BlockRef]) {
        let mut canonical = Vec::new();
        let mut orphaned = Vec::new();
        let answering: Vec<usize> = (0..self.endpoints.len())
            .filter(|endpoint| !self.node_fails(*endpoint))
            .collect();
        for block in blocks {
            let mut verdicts = answering.iter().filter_map(|endpoint| {
                let view = self.endpoints[*endpoint].view;
                let there = self.chain.ancestor(view, block.number)?;
                Some(there.block.hash == block.hash)
            });
            let said: Vec<bool> = verdicts.by_ref().collect();
            if said.len() < 2 {
                continue;
            }
            if said.iter().all(|same| *same) {
                canonical.push(*block);
            } else if said.iter().all(|same| !same) {
                orphaned.push(*block);
            }
        }
        if !(canonical.is_empty() && orphaned.is_empty()) {
            self.answer(
                p,
                Event::BlocksChecked {
                    fence,
                    canonical,
                    orphaned,
                },
            );
        }
    }

    pub fn investigate(&mut self, p: usize, fence: FencedLane, payments: &[Unexplained]) {
        let mut findings = Vec::new();
        for left in payments {
            let (id, payment) = (left.queued.id, &left.queued.payment);
            let Some(finding) = self.look_into(left) else {
                self.check.fault("payment not explained yet");
                continue;
            };
            match finding {
                Finding::Spent { .. } | Finding::WouldRevert(_) => self.is_refuted(id),
                Finding::Unfound { .. } => {
                    self.check.fault("use of a nonce not found");
                    self.is_refuted(id);
                    let settling = self.chain.canonical().filter(|sealed| {
                        let mut receipts = sealed.receipts.iter();
                        receipts.any(|receipt| settling_log(receipt, payment).is_some())
                    });
                    let settling: Vec<B256> = settling.map(|sealed| sealed.block.hash).collect();
                    self.check.unfound.entry(id).or_default().extend(settling);
                }
                Finding::Mismatched { .. } => self.check.fault("another amount moved"),
                Finding::SettledElsewhere { .. } | Finding::WouldSettle => {}
            }
            findings.push((id, finding));
        }
        let asked = payments.iter().map(|left| left.queued.id).collect();
        let investigated = Event::Investigated {
            fence,
            asked,
            findings,
        };
        self.answer(p, investigated);
    }

    /// One node is asked, and a second one before anything follows that ends the payment.
    fn look_into(&mut self, left: &Unexplained) -> Option<Finding> {
        let payment = &left.queued.payment;
        let first = self.some_endpoint()?;
        let found = self.explain(first, left.block, payment)?;
        let alone =
            self.off == Some(Switch::SearchTwice) && matches!(found, Finding::Unfound { .. });
        let is_positive = matches!(
            found,
            Finding::SettledElsewhere { .. } | Finding::WouldSettle | Finding::Mismatched { .. }
        );
        if alone || is_positive {
            return Some(found);
        }
        let second = (first + 1) % self.endpoints.len();
        if self.node_fails(second) {
            return None;
        }
        match (found, self.explain(second, left.block, payment)?) {
            // What one of them finds is there.
            (Finding::Unfound { at }, Finding::Unfound { at: other }) => {
                Some(Finding::Unfound { at: at.min(other) })
            }
            (Finding::Unfound { .. }, found) | (found, Finding::Unfound { .. }) => Some(found),
            (found, other) => (found == other).then_some(found),
        }
    }

    fn explain(&self, endpoint: usize, block: BlockRef, payment: &Payment) -> Option<Finding> {
        let node = &self.endpoints[endpoint];
        let there = self.chain.ancestor(node.view, block.number)?;
        let behind = self.now_ms < node.forgets_until_ms.max(node.indexing_until_ms);
        if there.block.hash != block.hash || behind {
            return None;
        }
        let head = self.view(endpoint);
        let (payer, nonce) = (payment.key.payer, payment.key.nonce.0);
        if head.state.spent(payer, nonce).is_none() {
            let failure = head
                .state
                .would_fail(&call_of(payment), &self.env(endpoint));
            return Some(match failure {
                None => Finding::WouldSettle,
                Some(reason) => Finding::WouldRevert(reason.unwrap_or(Reason::TransactionFailed)),
            });
        }
        let newest = match self.now_ms < node.blind_until_ms {
            true => 0,
            false => head.block.number.saturating_sub(node.log_lag),
        };
        let mut heights = (self.chain.first_height()..=newest).rev();
        let found = heights.find_map(|height| {
            let sealed = self.chain.ancestor(node.view, height)?;
            let mut receipts = sealed.receipts.iter();
            let receipt = receipts.find(|receipt| use_in(receipt, payer, nonce).is_some())?;
            Some((sealed, receipt))
        });
        let Some((sealed, receipt)) = found else {
            return Some(Finding::Unfound {
                at: head.block.number,
            });
        };
        let transaction = receipt.transaction.hash;
        let ours = self.check.attempts.contains_key(&transaction);
        if !ours && self.check.opaque.contains(&payment.key) {
            return None;
        }
        let used = use_in(receipt, payer, nonce) == Some(Spent::Used);
        Some(
            match used.then(|| settling_log(receipt, payment)).flatten() {
                Some(log_index) => Finding::SettledElsewhere {
                    receipt: Receipt {
                        transaction,
                        block: sealed.block,
                        log_index,
                        level: Level::Included,
                        gas_used: 0,
                        cost: Wei::ZERO,
                    },
                    ours,
                },
                None if ours => Finding::Mismatched { transaction },
                None => Finding::Spent {
                    transaction: Some(transaction),
                },
            },
        )
    }
}

fn is_handed(outcome: &SendOutcome) -> bool {
    matches!(
        outcome,
        SendOutcome::Accepted | SendOutcome::AlreadyKnown | SendOutcome::Unknown(_)
    )
}

fn rank(outcome: &SendOutcome) -> u8 {
    match outcome {
        SendOutcome::Accepted => 0,
        SendOutcome::AlreadyKnown => 1,
        SendOutcome::NonceTooLow => 2,
        SendOutcome::Underpriced => 3,
        SendOutcome::Unknown(_) => 4,
        SendOutcome::InsufficientFunds => 5,
        SendOutcome::GasTooHigh => 6,
    }
}

pub fn call_of(payment: &Payment) -> TokenCall {
    if let Some(spend) = spend_of(payment) {
        return spend;
    }
    TokenCall::TransferWithAuthorization {
        from: payment.key.payer,
        to: payment.payee,
        value: payment.value.0,
        valid_after: payment.valid_after(),
        valid_before: payment.valid_before(),
        nonce: payment.key.nonce.0,
    }
}

/// What a receipt's logs say of an authorization.
pub fn use_in(receipt: &ChainReceipt, payer: Address, nonce: B256) -> Option<Spent> {
    if noted_at(receipt, payer, nonce).is_some() {
        return Some(Spent::Used);
    }
    let logs = receipt.logs.iter().map(|log| teller_schemes::EventLog {
        address: log.address,
        topics: &log.topics,
        data: &log.data,
        index: 0,
    });
    let effects = teller_schemes::effects(logs);
    let key = (TOKEN, payer, teller_domain::AuthorizationNonce(nonce));
    effects.get(&key).map(|effect| match effect {
        teller_schemes::Effect::Used(_) => Spent::Used,
        teller_schemes::Effect::Cancelled => Spent::Cancelled,
    })
}

/// Where the model notes that a permit was spent, which Permit2 itself never says.
fn noted_at(receipt: &ChainReceipt, payer: Address, nonce: B256) -> Option<usize> {
    let noted = [REDEEMED, payer.into_word(), nonce];
    let mut logs = receipt.logs.iter();
    logs.position(|log| log.address == PERMIT2 && log.topics == noted)
}

/// The index of the transfer that a payment signed.
pub fn settling_log(receipt: &ChainReceipt, payment: &Payment) -> Option<u64> {
    if !payment.is_guarded_on_chain() {
        // The model's manager tells what teller is never told.
        let redeemed = receipt
            .logs
            .iter()
            .any(|log| log.address == MANAGER && log.topics == [REDEEMED, payment.key.nonce.0]);
        return redeemed.then_some(receipt.first_log);
    }
    if Permit::of(payment).is_some() {
        // Transfer, the proxy's event, the model's note.
        let at = noted_at(receipt, payment.key.payer, payment.key.nonce.0)?.checked_sub(2)?;
        let transfer = receipt.logs.get(at)?;
        let signed = [
            TRANSFER,
            payment.key.payer.into_word(),
            payment.payee.into_word(),
        ];
        let exact = transfer.address == payment.asset
            && transfer.topics == signed
            && transfer.data[..] == payment.value.0.to_be_bytes::<32>();
        return exact.then_some(receipt.first_log + at as u64);
    }
    let logs = receipt
        .logs
        .iter()
        .zip(receipt.first_log..)
        .map(|(log, index)| teller_schemes::EventLog {
            address: log.address,
            topics: &log.topics,
            data: &log.data,
            index,
        });
    let effects = teller_schemes::effects(logs);
    let key = (TOKEN, payment.key.payer, payment.key.nonce);
    effects.get(&key)?.settles(payment)
}

fn mined(sealed: &Sealed, receipt: &ChainReceipt) -> Mined {
    let logs = receipt.logs.iter().zip(receipt.first_log..);
    Mined {
        transaction: receipt.transaction.hash,
        block: sealed.block,
        succeeded: receipt.succeeded,
        gas_used: receipt.gas_used,
        cost: receipt.cost,
        logs: logs
            .map(|(log, index)| Log {
                address: log.address,
                topics: log.topics.clone(),
                data: log.data.clone(),
                index,
            })
            .collect(),
    }
}
