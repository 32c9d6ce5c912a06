//! What a mined attempt means for each payment of its slot.

use alloy_primitives::B256;
use teller_domain::invariants::split_by_largest_remainder;
use teller_domain::{
    Level, Reason, Receipt, Refusal, Resolution, SettlementId, SettlementState, UnixSeconds, Wei,
};
use teller_schemes::{EventLog, effects};

use super::{Finding, Mined, Queued};

/// A payment that has been in this many slots without an outcome fails.
const MAX_TRIES: u32 = 3;

/// The payments of a slot, told apart by what the receipt shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// Used by our transaction, followed by exactly the signed transfer; with the index of its log.
    pub settled: Vec<(SettlementId, u64)>,
    /// No such events: the chain must be asked why.
    pub unexplained: Vec<SettlementId>,
}

impl Outcomes {
    /// Reads the receipt's logs.
    pub fn read(mined: &Mined, payments: &[Queued]) -> Self {
        let logs = mined.logs.iter().map(|log| EventLog {
            address: log.address,
            topics: &log.topics,
            data: &log.data,
            index: log.index,
        });
        let effects = effects(logs);
        let mut outcomes = Self {
            settled: Vec::new(),
            unexplained: Vec::new(),
        };
        for queued in payments {
            let payment = &queued.payment;
            let effect = effects.get(&(payment.asset, payment.key.payer, payment.key.nonce));
            match effect.and_then(|effect| effect.settles(payment)) {
                Some(log_index) if mined.succeeded => outcomes.settled.push((queued.id, log_index)),
                _ => outcomes.unexplained.push(queued.id),
            }
        }
        outcomes
    }
}

/// The resolutions of the settled payments: the transaction's gas and cost are split over them, to the wei.
pub fn settled(mined: &Mined, settled: &[(SettlementId, u64)]) -> Vec<(SettlementId, Resolution)> {
    let even = vec![1; settled.len()];
    let costs = split_by_largest_remainder(mined.cost, &even);
    let gas = split_by_largest_remainder(Wei::from(mined.gas_used), &even);
    let shares = costs.into_iter().zip(gas);
    settled
        .iter()
        .zip(shares)
        .map(|((id, log_index), (cost, gas_used))| {
            let receipt = Receipt {
                transaction: mined.transaction,
                block: mined.block,
                log_index: *log_index,
                level: Level::Included,
                gas_used: gas_used.0.saturating_to(),
                cost,
            };
            (*id, Resolution::Resolved(SettlementState::Settled(receipt)))
        })
        .collect()
}

/// What becomes of a payment that its slot's transaction did not settle.
pub fn explain(
    queued: &Queued,
    finding: Finding,
    transaction: B256,
    cutoff: UnixSeconds,
) -> Resolution {
    let fail = |reason, detail: &str, transaction| {
        Resolution::Resolved(SettlementState::Failed {
            refusal: Refusal::new(reason, detail),
            transaction,
        })
    };
    match finding {
        Finding::SettledExternally(receipt) => {
            Resolution::Resolved(SettlementState::SettledExternally(receipt))
        }
        Finding::Spent { transaction } => fail(
            Reason::NonceAlreadyUsed,
            "the authorization was cancelled or spent on another transfer",
            transaction,
        ),
        Finding::WouldRevert(reason) => fail(
            reason,
            "the transfer was mined and reverted",
            Some(transaction),
        ),
        Finding::WouldSettle if queued.payment.valid_before <= cutoff => {
            Resolution::Resolved(SettlementState::Expired)
        }
        Finding::WouldSettle if queued.tries >= MAX_TRIES => fail(
            Reason::TransactionFailed,
            "three transactions were mined without effect",
            Some(transaction),
        ),
        Finding::WouldSettle => Resolution::Requeued,
    }
}

/// The end of a payment whose payer was found to have code when its batch was formed.
pub fn payer_has_code() -> SettlementState {
    let detail =
        "the payer's account has code now; contract and EIP-7702 payers are not supported yet";
    SettlementState::Failed {
        refusal: Refusal::new(Reason::PayerHasCode, detail),
        transaction: None,
    }
}
