//! Reads ledger and chain side by side, in pages, and hands both to the functions that compare. Writes nothing.
//!
//! A long file, because it is one walk: what each page needs of the one before is handed on here.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use teller_chain::{Log, NodeError, Nodes, TxReceipt};
use teller_domain::{
    AccountNonce, AuthorizationKey, BlockRef, ChainId, CompensationKind, Receipt, Settlement,
    SettlementId, SettlementState, SlotEnd, SlotId, SlotState,
};
use teller_schemes::Effect;
use teller_store::{AuditSlot, Ledger, SettlementQuery, StoreError};

use super::super::Failure;
use super::difference::{Difference, Kind, Subject};
use super::nonces::NonceLine;
use super::seen::{Seen, Use};
use super::tally::Tally;
use super::{rows, slots};

/// `AuthorizationUsed(address,bytes32)`
const AUTHORIZATION_USED: B256 =
    alloy_primitives::b256!("98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5");
/// Receipts asked for at once: each may hold the logs of hundreds of payments.
const RECEIPTS_AT_ONCE: usize = 20;
/// Headers asked for at once.
const BLOCKS_AT_ONCE: usize = 50;
/// Blocks asked for in one `eth_getLogs`: at first, and at most.
const FIRST_RANGE: u64 = 200;
const WIDEST_RANGE: u64 = 2_000;
/// A question that could not be answered is asked this often, with this pause between.
const TRIES: u32 = 4;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);
/// Differences that are kept; more are counted.
const MOST_DIFFERENCES: usize = 10_000;
/// Compensating entries that are kept in memory: each stands for a payment that a reorg has hit.
const MOST_COMPENSATIONS: usize = 1_000_000;
const COMPENSATIONS_A_PAGE: u32 = 500;

/// What is audited.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The network.
    pub chain: ChainId,
    /// The sealed head when the audit began.
    pub head: BlockRef,
    /// Whose slots are walked.
    pub walked: Vec<Address>,
    /// Every account that is, or has been, a signer.
    pub signers: HashSet<Address>,
    /// The tokens whose events count.
    pub assets: HashSet<Address>,
    /// Rows, and slots with their payments, in one page.
    pub page_size: u32,
    /// Slots only, from this nonce on: no rows, no sums, no logs.
    pub only_from: Option<AccountNonce>,
    /// Whether only some signers' slots are walked.
    pub slots_only: bool,
    /// Whether the logs of the assets are asked for.
    pub logs: bool,
    /// The first block whose logs are asked for; without it, that of the first slot.
    pub from_block: Option<u64>,
}

/// What a walk came to.
#[derive(Debug, Default)]
pub struct Walked {
    /// Differences, at most `MOST_DIFFERENCES`.
    pub differences: Vec<Difference>,
    /// How many more there were.
    pub more: u64,
    /// Counts and sums.
    pub tally: Tally,
    /// Transactions of the slots that were walked.
    mined: HashSet<B256>,
    /// The lowest block of a slot.
    lowest: Option<u64>,
}

impl Walked {
    fn keep(&mut self, found: Vec<Difference>) {
        let room = MOST_DIFFERENCES.saturating_sub(self.differences.len());
        self.more += u64::try_from(found.len().saturating_sub(room)).unwrap_or(u64::MAX);
        self.differences.extend(found.into_iter().take(room));
    }
}

/// Reads for one scope.
pub struct Walk<'a> {
    /// The ledger, opened for reading.
    pub ledger: &'a dyn Ledger,
    /// The network's nodes.
    pub nodes: &'a Nodes,
    /// What is audited.
    pub scope: &'a Scope,
}

impl Walk<'_> {
    /// Walks slots, then rows, then logs.
    ///
    /// # Errors
    /// When the ledger or the nodes could not be read.
    pub async fn run(&self) -> Result<Walked, Failure> {
        let mut walked = Walked::default();
        for signer in &self.scope.walked {
            self.signer(*signer, &mut walked).await?;
        }
        if self.scope.slots_only {
            return Ok(walked);
        }
        self.rows(&mut walked).await?;
        if self.scope.logs {
            self.logs(&mut walked).await?;
        }
        let mut found = Vec::new();
        walked.tally.check_sums(&self.blank(), &mut found);
        walked.keep(found);
        Ok(walked)
    }

    /// Every slot of a signer, by nonce.
    async fn signer(&self, signer: Address, walked: &mut Walked) -> Result<(), Failure> {
        let chain = self.scope.chain;
        let lanes = self.ask_ledger(|| self.ledger.lanes()).await?;
        let next = lanes
            .iter()
            .find(|lane| lane.fence.chain == chain && lane.fence.signer == signer)
            .and_then(|lane| lane.next_nonce);
        let head = self.scope.head.number;
        let sealed = self
            .ask_nodes(|| self.nodes.account_nonce(signer, head))
            .await?;
        let mut line = NonceLine::new(signer, sealed);
        let mut after = self
            .scope
            .only_from
            .and_then(|nonce| nonce.0.checked_sub(1))
            .map(AccountNonce);
        loop {
            let size = self.scope.page_size;
            let page = self
                .ask_ledger(|| self.ledger.audit_slots(chain, signer, after, size))
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.nonce);
            let seen = self.seen_by(&page).await?;
            let mut found = Vec::new();
            for slot in &page {
                line.slot(slot, &seen, &mut found);
                self.slot(slot, &seen, walked, &mut found).await?;
            }
            walked.keep(found);
        }
        let mut found = Vec::new();
        line.end(next, &self.blank(), &mut found);
        walked.keep(found);
        Ok(())
    }

    async fn slot(
        &self,
        slot: &AuditSlot,
        seen: &Seen,
        walked: &mut Walked,
        found: &mut Vec<Difference>,
    ) -> Result<(), Failure> {
        slots::check_slot(slot, seen, found);
        let mut others = HashMap::new();
        for key in slots::strange_uses(slot, seen) {
            if let Some(row) = self.ask_ledger(|| self.ledger.find(key)).await? {
                others.insert(key, row);
            }
        }
        slots::check_slot_uses(slot, &others, seen, found);
        match slots::mined(slot, seen) {
            Some(closed) => {
                for row in &slot.payments {
                    if rows::recorded(row).is_some_and(|r| r.transaction == closed.transaction) {
                        rows::check_settled(row, seen, found);
                    }
                }
                count_mined(slot, closed, seen, walked);
            }
            None => count_other(slot, seen, &mut walked.tally),
        }
        Ok(())
    }

    /// Every row of the network, newest first.
    async fn rows(&self, walked: &mut Walked) -> Result<(), Failure> {
        let mut entries = self.compensations().await?;
        let mut open: HashMap<SlotId, bool> = HashMap::new();
        let mut before = None;
        loop {
            let query = SettlementQuery {
                chain: Some(self.scope.chain),
                before,
                limit: self.scope.page_size,
                ..SettlementQuery::default()
            };
            let page = self.ask_ledger(|| self.ledger.list(&query)).await?;
            let Some(last) = page.settlements.last() else {
                return Ok(());
            };
            before = Some(last.id);
            let mut found = Vec::new();
            let mut unslotted = Vec::new();
            for row in page.settlements {
                walked.tally.row(row.state.kind());
                let entries = entries.remove(&row.id).unwrap_or_default();
                walked.tally.compensations += u64::try_from(entries.len()).unwrap_or(u64::MAX);
                rows::check_told(&row, &entries, &self.blank(), &mut found);
                match &row.state {
                    SettlementState::Accepted | SettlementState::Unexplained { .. } => {
                        walked.tally.unresolved += 1;
                    }
                    SettlementState::Assigned { slot, .. }
                    | SettlementState::Preconfirmed { slot, .. } => {
                        walked.tally.unresolved += 1;
                        let slot = *slot;
                        self.assigned(row, slot, &mut open, &mut found).await?;
                    }
                    // There is no transaction to compare with.
                    SettlementState::Settled(Receipt::NOTHING) if row.payment.charges_nothing() => {
                    }
                    SettlementState::Settled(_) | SettlementState::SettledExternally(_) => {
                        unslotted.extend(count_settled(row, &self.blank(), walked));
                    }
                    SettlementState::Failed { .. }
                    | SettlementState::Expired
                    | SettlementState::Withdrawn => {}
                }
            }
            self.unslotted(unslotted, walked, &mut found).await?;
            walked.keep(found);
            if !page.more {
                return Ok(());
            }
        }
    }

    /// A row that is assigned has an open slot, or is not assigned to it any more when it is read again.
    async fn assigned(
        &self,
        row: Settlement,
        slot: SlotId,
        open: &mut HashMap<SlotId, bool>,
        found: &mut Vec<Difference>,
    ) -> Result<(), Failure> {
        if open.get(&slot) == Some(&true) {
            return Ok(());
        }
        let after = slot.nonce.0.checked_sub(1).map(AccountNonce);
        let page = self
            .ask_ledger(|| self.ledger.audit_slots(slot.chain, slot.signer, after, 1))
            .await?;
        let is_open = page
            .first()
            .is_some_and(|read| read.id == slot && read.state == SlotState::Open);
        open.insert(slot, is_open);
        if is_open {
            return Ok(());
        }
        let again = self.ask_ledger(|| self.ledger.settlement(row.id)).await?;
        if again.is_some_and(|again| again.state == row.state) {
            found.push(self.blank().differs(
                Kind::SlotNotOpen,
                Subject::Settlement(row.id),
                format!("{} to {slot}", row.state.kind()),
                "that slot is not open",
            ));
        }
        Ok(())
    }

    /// Settled rows whose transaction is that of no slot that was walked: settled by others, or an error.
    async fn unslotted(
        &self,
        settled: Vec<Settlement>,
        walked: &mut Walked,
        found: &mut Vec<Difference>,
    ) -> Result<(), Failure> {
        let receipts = settled.iter().filter_map(rows::recorded);
        let (hashes, heights): (HashSet<B256>, HashSet<u64>) = receipts
            .map(|receipt| (receipt.transaction, receipt.block.number))
            .unzip();
        let seen = self.read(hashes, heights).await?;
        for row in &settled {
            rows::check_settled(row, &seen, found);
            let SettlementState::Settled(receipt) = &row.state else {
                continue;
            };
            let query = SettlementQuery {
                chain: Some(self.scope.chain),
                transaction: Some(receipt.transaction),
                limit: 500,
                ..SettlementQuery::default()
            };
            let carried = self.ask_ledger(|| self.ledger.list(&query)).await?;
            if carried.settlements.iter().any(|other| other.id == row.id) {
                // Its slot was closed after the slots were walked.
                walked.tally.rows_newer += 1;
            } else {
                found.push(seen.differs(
                    Kind::NotInASlot,
                    Subject::Settlement(row.id),
                    format!("settled by {}", receipt.transaction),
                    "no attempt of a slot that held the payment",
                ));
            }
        }
        Ok(())
    }

    async fn compensations(&self) -> Result<HashMap<SettlementId, Vec<CompensationKind>>, Failure> {
        let mut entries: HashMap<SettlementId, Vec<CompensationKind>> = HashMap::new();
        let (mut after, mut read) = (0, 0);
        loop {
            let page = self
                .ask_ledger(|| self.ledger.compensations(after, None, COMPENSATIONS_A_PAGE))
                .await?;
            let Some(last) = page.last() else {
                return Ok(entries);
            };
            after = last.sequence;
            read += page.len();
            if read > MOST_COMPENSATIONS {
                return Err(Failure::text(
                    "more compensating entries than fit in memory",
                ));
            }
            for entry in page {
                entries
                    .entry(entry.settlement)
                    .or_default()
                    .push(entry.kind);
            }
        }
    }

    /// Every `AuthorizationUsed` of the assets in the covered blocks whose transaction a signer sent has its row. Does not
    /// need the ledger to know the transaction.
    async fn logs(&self, walked: &mut Walked) -> Result<(), Failure> {
        let to = self.scope.head.number;
        let Some(first) = self.scope.from_block.or(walked.lowest) else {
            return Ok(());
        };
        walked.tally.log_blocks = Some((first, to));
        for asset in &self.scope.assets {
            let (mut from, mut range) = (first, FIRST_RANGE);
            while from <= to {
                let end = from.saturating_add(range - 1).min(to);
                match self.logs_between(*asset, from, end).await {
                    Ok(logs) => {
                        self.strangers(&logs, walked).await?;
                        from = end.saturating_add(1);
                        range = (range * 2).min(WIDEST_RANGE);
                    }
                    // Many nodes refuse wide ranges or long answers, each with words of its own.
                    Err(_) if range > 1 => range /= 2,
                    Err(error) => return Err(self.node_failure(error)),
                }
            }
        }
        Ok(())
    }

    /// One try for a range that can be made smaller; several for a single block.
    async fn logs_between(
        &self,
        asset: Address,
        from: u64,
        to: u64,
    ) -> Result<Vec<Log>, NodeError> {
        let topics = [vec![AUTHORIZATION_USED]];
        let mut tries = 0;
        loop {
            match self.nodes.logs(asset, &topics, from, to).await {
                Err(error) if from == to && error.is_retryable() && tries + 1 < TRIES => {
                    tries += 1;
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                answer => return answer,
            }
        }
    }

    /// Of these logs, those in transactions that a signer sent and no walked slot explains.
    async fn strangers(&self, logs: &[Log], walked: &mut Walked) -> Result<(), Failure> {
        walked.tally.logs += u64::try_from(logs.len()).unwrap_or(u64::MAX);
        let unknown: HashSet<B256> = logs
            .iter()
            .map(|log| log.transaction)
            .filter(|hash| !walked.mined.contains(hash))
            .collect();
        let seen = self.read(unknown, HashSet::new()).await?;
        let ours = seen
            .receipts
            .values()
            .filter(|receipt| self.scope.signers.contains(&receipt.sender));
        let mut found = Vec::new();
        for receipt in ours {
            for used in seen.uses(receipt) {
                walked.tally.uses_elsewhere += 1;
                self.stranger(receipt, &used, &seen, &mut found).await?;
            }
            // Its logs may be in the next range too, of another asset.
            walked.mined.insert(receipt.transaction);
        }
        walked.keep(found);
        Ok(())
    }

    async fn stranger(
        &self,
        receipt: &TxReceipt,
        used: &Use,
        seen: &Seen,
        found: &mut Vec<Difference>,
    ) -> Result<(), Failure> {
        let key: AuthorizationKey = used.0;
        let row = self.ask_ledger(|| self.ledger.find(key)).await?;
        slots::check_use(receipt.transaction, used, row.as_ref(), seen, found);
        Ok(())
    }

    /// What the chain says about a page of slots.
    async fn seen_by(&self, page: &[AuditSlot]) -> Result<Seen, Failure> {
        let (mut hashes, mut heights) = (HashSet::new(), HashSet::new());
        for slot in page {
            match &slot.state {
                SlotState::Closed {
                    end: SlotEnd::Mined { transaction, .. },
                    block,
                    ..
                } => {
                    if block.number <= self.scope.head.number {
                        hashes.insert(*transaction);
                        heights.insert(block.number);
                    }
                }
                SlotState::Closed { .. } | SlotState::Open => hashes.extend(&slot.attempts),
            }
        }
        let mut seen = self.read(hashes, heights).await?;
        for slot in page.iter().filter(|slot| slot.top_up.is_some()) {
            let Some(closed) = slots::mined(slot, &seen) else {
                continue;
            };
            let transaction = closed.transaction;
            let given = self.ask_nodes(|| self.nodes.given(transaction)).await?;
            seen.given
                .extend(given.map(|given| (closed.transaction, given)));
        }
        Ok(seen)
    }

    async fn read(&self, hashes: HashSet<B256>, heights: HashSet<u64>) -> Result<Seen, Failure> {
        let mut seen = self.blank();
        let hashes: Vec<B256> = hashes.into_iter().collect();
        for chunk in hashes.chunks(RECEIPTS_AT_ONCE) {
            let receipts = self.ask_nodes(|| self.nodes.receipts(chunk)).await?;
            let receipts = receipts.into_iter().flatten();
            seen.receipts
                .extend(receipts.map(|receipt| (receipt.transaction, receipt)));
        }
        let heights: Vec<u64> = heights.into_iter().collect();
        for chunk in heights.chunks(BLOCKS_AT_ONCE) {
            let blocks = self.ask_nodes(|| self.nodes.blocks(chunk)).await?;
            let blocks = blocks.into_iter().flatten();
            seen.canonical
                .extend(blocks.map(|block| (block.number, block.hash)));
        }
        Ok(seen)
    }

    fn blank(&self) -> Seen {
        Seen {
            chain: self.scope.chain,
            horizon: self.scope.head.number,
            signers: self.scope.signers.clone(),
            assets: self.scope.assets.clone(),
            receipts: HashMap::new(),
            given: HashMap::new(),
            canonical: HashMap::new(),
        }
    }

    async fn ask_ledger<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        patiently(ask, StoreError::is_retryable)
            .await
            .map_err(|error| Failure::new("the ledger did not answer", error))
    }

    async fn ask_nodes<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, NodeError>>,
    {
        patiently(ask, NodeError::is_retryable)
            .await
            .map_err(|error| self.node_failure(error))
    }

    fn node_failure(&self, error: NodeError) -> Failure {
        Failure::new(
            &format!("the nodes of {} did not answer", self.scope.chain),
            error,
        )
    }
}

/// Asks again, a bounded number of times, what may be answered later.
pub async fn patiently<T, E, F>(
    ask: impl Fn() -> F,
    is_retryable: impl Fn(&E) -> bool,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut tries = 0;
    loop {
        match ask().await {
            Err(error) if is_retryable(&error) && tries + 1 < TRIES => {
                tries += 1;
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            answer => return answer,
        }
    }
}

fn count_mined(slot: &AuditSlot, closed: slots::MinedSlot, seen: &Seen, walked: &mut Walked) {
    walked.mined.insert(closed.transaction);
    let lowest = walked.lowest.unwrap_or(u64::MAX).min(closed.block.number);
    walked.lowest = Some(lowest);
    let tally = &mut walked.tally;
    tally.slots_mined += 1;
    tally.cost_slots = tally.cost_slots.saturating_add(closed.cost.0);
    if slots::shares(slot, closed.transaction).is_none() {
        tally.cost_unshared = tally.cost_unshared.saturating_add(closed.cost.0);
    }
    let Some(receipt) = seen.receipts.get(&closed.transaction) else {
        return;
    };
    if let Some((_, value)) = slots::given(slot, closed, seen) {
        tally.top_ups += 1;
        tally.top_up_wei = tally.top_up_wei.saturating_add(value.0);
    }
    tally.cost_receipts = tally.cost_receipts.saturating_add(receipt.cost.0);
    for (key, effect) in seen.uses(receipt) {
        tally.uses_in_slots += 1;
        if let Effect::Used(Some(transfer)) = effect {
            let sum = tally.values.entry(key.authority).or_default();
            sum.chain = sum.chain.saturating_add(transfer.value.0);
        }
    }
    for row in &slot.payments {
        if seen.redemption(receipt, &row.payment).is_some() {
            let sum = tally.values.entry(row.payment.asset).or_default();
            sum.chain = sum.chain.saturating_add(row.payment.value.0);
        }
    }
    for settlement in seen.settlements(receipt) {
        let sum = tally.values.entry(settlement.token).or_default();
        sum.chain = sum.chain.saturating_add(settlement.transfer.value.0);
    }
}

fn count_other(slot: &AuditSlot, seen: &Seen, tally: &mut Tally) {
    match &slot.state {
        SlotState::Open => tally.slots_open += 1,
        SlotState::Closed { .. } if slots::is_newer(slot, seen) => tally.slots_newer += 1,
        SlotState::Closed { block, .. } => tally.foreign(slot.id, *block),
    }
}

/// Sums a settled row; gives it back if no walked slot's transaction settled it.
fn count_settled(row: Settlement, seen: &Seen, walked: &mut Walked) -> Option<Settlement> {
    if rows::is_newer(&row, seen) {
        walked.tally.rows_newer += 1;
        return None;
    }
    let receipt = match &row.state {
        SettlementState::Settled(receipt) if walked.mined.contains(&receipt.transaction) => receipt,
        _ => return Some(row),
    };
    let tally = &mut walked.tally;
    let sum = tally.values.entry(row.payment.asset).or_default();
    sum.ledger = sum.ledger.saturating_add(row.payment.value.0);
    tally.cost_settlements = tally.cost_settlements.saturating_add(receipt.cost.0);
    None
}
