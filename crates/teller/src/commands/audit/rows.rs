//! A payment's row against the chain, and what was told of it against both.

use teller_chain::TxReceipt;
use teller_domain::{
    CompensationKind, Receipt, Settlement, SettlementState, SettlementStateKind, Told, Wei,
};
use teller_schemes::permit2::Permit;

use super::difference::{Difference, Kind, Subject};
use super::seen::Seen;

/// The receipt that a row records, if it is settled.
pub fn recorded(row: &Settlement) -> Option<&Receipt> {
    match &row.state {
        SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
            Some(receipt)
        }
        SettlementState::Accepted
        | SettlementState::Assigned { .. }
        | SettlementState::Preconfirmed { .. }
        | SettlementState::Unexplained { .. }
        | SettlementState::Failed { .. }
        | SettlementState::Expired
        | SettlementState::Withdrawn => None,
    }
}

/// Whether the ledger places the row's settlement above the audit's horizon.
pub fn is_newer(row: &Settlement, seen: &Seen) -> bool {
    recorded(row).is_some_and(|receipt| receipt.block.number > seen.horizon)
}

/// A settled row has its `AuthorizationUsed` (or, by Permit2, its proxy's event) and exactly the signed transfer, at the recorded log of the recorded block,
/// and that block is canonical. Rows that are not settled, or newer, pass.
pub fn check_settled(row: &Settlement, seen: &Seen, out: &mut Vec<Difference>) {
    let Some(receipt) = recorded(row).filter(|_| !is_newer(row, seen)) else {
        return;
    };
    let subject = Subject::Settlement(row.id);
    let (mined, misplaced) = seen.placed(receipt.transaction, receipt.block, subject);
    out.extend(misplaced);
    let Some(mined) = mined else { return };
    let external = row.state.kind() == SettlementStateKind::SettledExternally;
    if external && (receipt.cost != Wei::ZERO || receipt.gas_used != 0) {
        let carried = format!("{} gas, {} wei", receipt.gas_used, receipt.cost);
        out.push(seen.differs(
            Kind::ExternalCost,
            subject,
            carried,
            "somebody else paid for it",
        ));
    }
    if !external && !seen.signers.contains(&mined.sender) {
        out.push(seen.differs(
            Kind::NotOurTransaction,
            subject,
            receipt.transaction,
            format!("sent by {}", mined.sender),
        ));
    }
    let payment = &row.payment;
    if let Some(permit) = Permit::of(payment) {
        out.extend(check_permit(row, &permit, receipt, mined, seen));
        return;
    }
    if !payment.is_guarded_on_chain() {
        out.extend(check_redemption(row, receipt, mined, seen));
        return;
    }
    let used = seen
        .uses(mined)
        .into_iter()
        .find(|(key, _)| *key == payment.key);
    let Some((_, effect)) = used else {
        let recorded = format!(
            "authorization {} used in {}",
            payment.key.nonce.0, receipt.transaction
        );
        out.push(seen.differs(
            Kind::AuthorizationNotUsed,
            subject,
            recorded,
            "no AuthorizationUsed in it",
        ));
        return;
    };
    match effect.settles(payment) {
        Some(index) if index == receipt.log_index => {}
        Some(index) => out.push(seen.differs(
            Kind::LogIndexDiffers,
            subject,
            format!("log {}", receipt.log_index),
            format!("log {index}"),
        )),
        None => out.push(seen.differs(
            Kind::TransferDiffers,
            subject,
            format!(
                "{} from {} to {}",
                payment.value, payment.key.payer, payment.payee
            ),
            transferred(&effect),
        )),
    }
}

/// A delegation that is settled has exactly its transfer, and no other of its asset, at the recorded log.
fn check_redemption(
    row: &Settlement,
    receipt: &Receipt,
    mined: &TxReceipt,
    seen: &Seen,
) -> Option<Difference> {
    let (payment, subject) = (&row.payment, Subject::Settlement(row.id));
    match seen.redemption(mined, payment) {
        Some(index) if index == receipt.log_index => None,
        Some(index) => Some(seen.differs(
            Kind::LogIndexDiffers,
            subject,
            format!("log {}", receipt.log_index),
            format!("log {index}"),
        )),
        None => {
            let signed = format!(
                "{} from {} to {}",
                payment.value, payment.key.payer, payment.payee
            );
            let missing = "not that transfer alone";
            Some(seen.differs(Kind::TransferDiffers, subject, signed, missing))
        }
    }
}

/// A permit that is settled has exactly its transfer, made by its proxy, at the recorded log.
fn check_permit(
    row: &Settlement,
    permit: &Permit,
    receipt: &Receipt,
    mined: &TxReceipt,
    seen: &Seen,
) -> Option<Difference> {
    let payment = &row.payment;
    let found = seen.settlements(mined);
    let mut logs = found
        .iter()
        .filter_map(|found| found.pays(permit, payment.key.payer, payment.value))
        .peekable();
    let subject = Subject::Settlement(row.id);
    let Some(first) = logs.peek().copied() else {
        let signed = format!(
            "{} from {} to {}",
            payment.value, payment.key.payer, payment.payee
        );
        let missing = "no such transfer by the permit's proxy";
        return Some(seen.differs(Kind::TransferDiffers, subject, signed, missing));
    };
    if logs.any(|log| log == receipt.log_index) {
        return None;
    }
    Some(seen.differs(
        Kind::LogIndexDiffers,
        subject,
        format!("log {}", receipt.log_index),
        format!("log {first}"),
    ))
}

fn transferred(effect: &teller_schemes::Effect) -> String {
    match effect {
        teller_schemes::Effect::Used(Some(transfer)) => {
            format!(
                "{} from {} to {}",
                transfer.value, transfer.from, transfer.to
            )
        }
        teller_schemes::Effect::Used(None) | teller_schemes::Effect::Cancelled => {
            "no transfer behind it".to_owned()
        }
    }
}

/// What was told agrees with what the row says now, or the row's newest compensating entry says that it does not.
///
/// `entries` are the row's, oldest first. Rows on their way are left alone: a reorg that took them back is not over.
pub fn check_told(
    row: &Settlement,
    entries: &[CompensationKind],
    seen: &Seen,
    out: &mut Vec<Difference>,
) {
    use CompensationKind::{FailureRestored, FailureSettled, SuccessRestored, SuccessTakenBack};
    let settled = recorded(row).is_some();
    if !row.state.is_resolved() {
        return;
    }
    let newest = entries.last().copied();
    let (told, needed, allowed): (_, Option<CompensationKind>, &[CompensationKind]) = match row.told
    {
        // Somebody was told "no" before he was told "yes", or the other way round: older entries stay.
        Some(Told::Success { .. }) if settled => {
            ("success", None, &[SuccessRestored, FailureSettled])
        }
        Some(Told::Success { .. }) => ("success", Some(SuccessTakenBack), &[]),
        Some(Told::Failure { .. }) if settled => ("failure", Some(FailureSettled), &[]),
        Some(Told::Failure { .. }) => ("failure", None, &[FailureRestored, SuccessTakenBack]),
        None => ("nothing", None, &[]),
    };
    let recorded = match newest {
        Some(entry) => format!("told {told}, newest entry {}", entry.as_str()),
        None => format!("told {told}, no compensating entry"),
    };
    let subject = Subject::Settlement(row.id);
    let state = row.state.kind();
    match (needed, newest) {
        (Some(needed), newest) if newest != Some(needed) => {
            out.push(seen.differs(Kind::ToldNotCompensated, subject, recorded, state));
        }
        (None, Some(entry)) if !allowed.contains(&entry) => {
            out.push(seen.differs(Kind::CompensationUnfounded, subject, recorded, state));
        }
        _ => {}
    }
}
