//! A slot against the receipt of its transaction: place, gas, cost, the payments' shares, and every authorization that
//! the transaction used.

use std::collections::HashMap;

use alloy_primitives::{Address, B256, U256};
use teller_chain::TxReceipt;
use teller_domain::{
    AuthorizationKey, BlockRef, Receipt, Settlement, SettlementState, SlotEnd, SlotState, Wei,
};
use teller_store::AuditSlot;

use super::difference::{Difference, Kind, Subject};
use super::seen::{Seen, Use};

/// An open slot's transaction may have been mined this many blocks ago without anybody being late.
pub const BLOCKS_TO_CLOSE: u64 = 5;

/// A slot that was closed by one of its own attempts, at or below the horizon.
#[derive(Debug, Clone, Copy)]
pub struct MinedSlot {
    /// The attempt.
    pub transaction: B256,
    /// Its gas in the ledger.
    pub gas_used: u64,
    /// Its cost in the ledger.
    pub cost: Wei,
    /// Its block in the ledger.
    pub block: BlockRef,
}

/// What closed the slot, if its own attempt did and the ledger places it at or below the horizon.
pub fn mined(slot: &AuditSlot, seen: &Seen) -> Option<MinedSlot> {
    match &slot.state {
        SlotState::Closed {
            end:
                SlotEnd::Mined {
                    transaction,
                    gas_used,
                    cost,
                },
            block,
            ..
        } if block.number <= seen.horizon => Some(MinedSlot {
            transaction: *transaction,
            gas_used: *gas_used,
            cost: *cost,
            block: *block,
        }),
        SlotState::Closed { .. } | SlotState::Open => None,
    }
}

/// Whether the slot ended above the horizon.
pub fn is_newer(slot: &AuditSlot, seen: &Seen) -> bool {
    matches!(&slot.state, SlotState::Closed { block, .. } if block.number > seen.horizon)
}

/// The slot's own fields against the chain, and its payments' against its own.
pub fn check_slot(slot: &AuditSlot, seen: &Seen, out: &mut Vec<Difference>) {
    let subject = Subject::Slot(slot.id);
    for row in &slot.payments {
        let assigned = matches!(&row.state,
            SettlementState::Assigned { slot: to, .. } | SettlementState::Preconfirmed { slot: to, .. } if *to == slot.id);
        if assigned && slot.state != SlotState::Open {
            let recorded = format!("{} to {}", row.state.kind(), slot.id);
            out.push(seen.differs(
                Kind::SlotNotOpen,
                Subject::Settlement(row.id),
                recorded,
                "that slot is closed",
            ));
        }
    }
    check_logs(slot, seen, out);
    let attempts = || {
        slot.attempts
            .iter()
            .filter_map(|hash| seen.receipts.get(hash))
    };
    match &slot.state {
        SlotState::Open => {
            let late = |receipt: &&TxReceipt| {
                receipt.block.number.saturating_add(BLOCKS_TO_CLOSE) <= seen.horizon
            };
            if let Some(receipt) = attempts().find(late) {
                let found = format!("{} in block {}", receipt.transaction, receipt.block.number);
                out.push(seen.differs(Kind::OpenButMined, subject, "open", found));
            }
        }
        SlotState::Closed {
            end: SlotEnd::Foreign,
            ..
        } => {
            if let Some(receipt) = attempts().next() {
                let found = format!("{} is mined", receipt.transaction);
                out.push(seen.differs(Kind::ForeignButOurs, subject, "closed as foreign", found));
            }
        }
        SlotState::Closed { .. } => {
            if let Some(closed) = mined(slot, seen) {
                check_mined(slot, closed, seen, out);
            }
        }
    }
}

/// No log counts for two payments.
fn check_logs(slot: &AuditSlot, seen: &Seen, out: &mut Vec<Difference>) {
    let mut logs = HashMap::new();
    for row in &slot.payments {
        let Some(receipt) = super::rows::recorded(row) else {
            continue;
        };
        let log = (receipt.transaction, receipt.log_index);
        if let Some(other) = logs.insert(log, row.id) {
            out.push(seen.differs(
                Kind::LogCountedTwice,
                Subject::Settlement(row.id),
                format!("log {} of {}", receipt.log_index, receipt.transaction),
                format!("settlement {other} has it too"),
            ));
        }
    }
}

fn check_mined(slot: &AuditSlot, closed: MinedSlot, seen: &Seen, out: &mut Vec<Difference>) {
    let subject = Subject::Slot(slot.id);
    if !slot.attempts.contains(&closed.transaction) {
        out.push(seen.differs(
            Kind::AttemptUnknown,
            subject,
            closed.transaction,
            format!("not among its {} attempts", slot.attempts.len()),
        ));
    }
    let (receipt, misplaced) = seen.placed(closed.transaction, closed.block, subject);
    out.extend(misplaced);
    if let Some(receipt) = receipt {
        if receipt.sender != slot.id.signer {
            let found = format!("sent by {}", receipt.sender);
            out.push(seen.differs(Kind::NotOurTransaction, subject, closed.transaction, found));
        }
        if receipt.gas_used != closed.gas_used {
            out.push(seen.differs(Kind::GasDiffers, subject, closed.gas_used, receipt.gas_used));
        }
        if receipt.cost != closed.cost {
            out.push(seen.differs(
                Kind::CostDiffers,
                subject,
                format!("{} wei", closed.cost),
                format!("{} wei", receipt.cost),
            ));
        }
    }
    if let Some((payer, value)) = given(slot, closed, seen) {
        let recorded = slot
            .top_up
            .filter(|made| (made.payer, made.value) == (payer, value));
        if recorded.is_none() {
            let recorded = match slot.top_up {
                Some(made) => format!("{} wei to {}", made.value, made.payer),
                None => "nothing".to_owned(),
            };
            let found = format!("{value} wei to {payer}");
            out.push(seen.differs(Kind::TopUpDiffers, subject, recorded, found));
        }
    }
    if let Some(shares) = shares(slot, closed.transaction) {
        if shares.cost != closed.cost.0 {
            out.push(seen.differs(
                Kind::SharesDiffer,
                subject,
                format!("{} payments carry {} wei", shares.payments, shares.cost),
                format!("the slot cost {} wei", closed.cost),
            ));
        }
        if shares.gas != U256::from(closed.gas_used) {
            out.push(seen.differs(
                Kind::GasSharesDiffer,
                subject,
                format!("{} payments carry {} gas", shares.payments, shares.gas),
                format!("the slot used {}", closed.gas_used),
            ));
        }
    }
}

/// What a slot that is there to give something gave, and whom. A no-op in it gives nothing, nor does what reverts.
pub fn given(slot: &AuditSlot, closed: MinedSlot, seen: &Seen) -> Option<(Address, Wei)> {
    slot.top_up?;
    let receipt = seen.receipts.get(&closed.transaction)?;
    let given = seen.given.get(&closed.transaction).copied();
    given.filter(|(_, value)| receipt.succeeded && *value > Wei::ZERO)
}

/// What the payments carry that a slot's transaction settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shares {
    /// How many they are.
    pub payments: usize,
    /// Their costs together.
    pub cost: U256,
    /// Their gas together.
    pub gas: U256,
}

/// The shares of the payments that the slot's transaction settled. `None` where there is nobody to carry them, and they
/// stay in the slot: it settled none, or only payments that were in a later slot by then, which carry nothing.
pub fn shares(slot: &AuditSlot, transaction: B256) -> Option<Shares> {
    let mut shares = Shares::default();
    let mut carriers = 0_usize;
    for row in &slot.payments {
        if let SettlementState::Settled(receipt) = &row.state
            && receipt.transaction == transaction
        {
            shares.payments += 1;
            shares.cost = shares.cost.saturating_add(receipt.cost.0);
            shares.gas = shares.gas.saturating_add(U256::from(receipt.gas_used));
            carriers += usize::from(carries(row, receipt));
        }
    }
    (carriers > 0).then_some(shares)
}

/// A payment that was in one slot only has its share of it; others may have been settled from an earlier one.
fn carries(row: &Settlement, receipt: &Receipt) -> bool {
    row.tries <= 1 || receipt.cost != Wei::ZERO || receipt.gas_used != 0
}

/// The uses in a slot's transaction whose authorization is none of the slot's payments'.
pub fn strange_uses(slot: &AuditSlot, seen: &Seen) -> Vec<AuthorizationKey> {
    let Some(receipt) = mined(slot, seen).and_then(|closed| seen.receipts.get(&closed.transaction))
    else {
        return Vec::new();
    };
    let uses = seen.uses(receipt).into_iter().map(|(key, _)| key);
    uses.filter(|key| slot.payments.iter().all(|row| row.payment.key != *key))
        .collect()
}

/// Every authorization that the slot's transaction used has its row, among the slot's payments, and settled by it.
///
/// `others` are the ledger's rows of [`strange_uses`].
pub fn check_slot_uses(
    slot: &AuditSlot,
    others: &HashMap<AuthorizationKey, Settlement>,
    seen: &Seen,
    out: &mut Vec<Difference>,
) {
    let Some(receipt) = mined(slot, seen).and_then(|closed| seen.receipts.get(&closed.transaction))
    else {
        return;
    };
    for row in &slot.payments {
        check_redemption(receipt, row, seen, out);
    }
    for used in seen.uses(receipt) {
        let own = slot.payments.iter().find(|row| row.payment.key == used.0);
        let row = own.or_else(|| others.get(&used.0));
        check_use(receipt.transaction, &used, row, seen, out);
        let Some(row) = row else { continue };
        if own.is_none() {
            let recorded = format!("settlement {}, not in slot {}", row.id, slot.id);
            out.push(seen.differs(
                Kind::UseNotInSlot,
                subject(receipt.transaction, &used),
                recorded,
                "settled by the slot's transaction",
            ));
        }
        if matches!(&row.state, SettlementState::SettledExternally(settled) if settled.transaction == receipt.transaction)
        {
            out.push(seen.differs(
                Kind::OursRecordedAsExternal,
                Subject::Settlement(row.id),
                row.state.kind(),
                format!("{} is an attempt of slot {}", receipt.transaction, slot.id),
            ));
        }
    }
}

/// A delegation of the slot that its transaction redeemed is settled by it.
fn check_redemption(receipt: &TxReceipt, row: &Settlement, seen: &Seen, out: &mut Vec<Difference>) {
    let recorded = super::rows::recorded(row);
    let here = recorded.is_some_and(|recorded| recorded.transaction == receipt.transaction);
    if !here && seen.redemption(receipt, &row.payment).is_some() {
        out.push(seen.differs(
            Kind::UseNotSettled,
            Subject::Settlement(row.id),
            row.state.kind(),
            format!("settled by {}", receipt.transaction),
        ));
    }
}

/// An authorization that a signer's transaction used has its row, and the row says that this transaction settled it.
pub fn check_use(
    transaction: B256,
    used: &Use,
    row: Option<&Settlement>,
    seen: &Seen,
    out: &mut Vec<Difference>,
) {
    let Some(row) = row else {
        out.push(seen.differs(
            Kind::UseWithoutRow,
            subject(transaction, used),
            "no such payment",
            "used",
        ));
        return;
    };
    let here = super::rows::recorded(row).is_some_and(|receipt| receipt.transaction == transaction);
    // What moved something else than was signed settles nothing; the row may well have failed.
    let settles = used.1.settles(&row.payment).is_some();
    if settles && !here {
        let recorded = match super::rows::recorded(row) {
            Some(receipt) => format!("{} by {}", row.state.kind(), receipt.transaction),
            None => row.state.kind().to_string(),
        };
        out.push(seen.differs(
            Kind::UseNotSettled,
            Subject::Settlement(row.id),
            recorded,
            format!("settled by {transaction}"),
        ));
    }
}

fn subject(transaction: B256, used: &Use) -> Subject {
    Subject::Use {
        transaction,
        asset: used.0.authority,
        payer: used.0.payer,
        nonce: used.0.nonce,
    }
}
