//! Claims of one group, put into rounds: a statement can give each settlement to one request only. And what a row must
//! say to be claimed, the same in both ledgers.

use std::collections::{HashMap, HashSet};

use sqlx::{ColumnIndex, Decode, Row, Type};
use teller_domain::{ProcessId, RequestId, SettlementId};

use crate::rows::Columns;
use crate::{ClaimOutcome, StoreError, StoreResult, Success};

/// A settlement, the request that wants to deliver its success, that request's process, and what it would tell.
pub(crate) type Claim = (SettlementId, RequestId, ProcessId, Success);

/// What is asked, and what is known so far.
pub(crate) struct Rounds {
    claims: Vec<Claim>,
    owners: HashMap<SettlementId, RequestId>,
    outcomes: HashMap<(SettlementId, RequestId), ClaimOutcome>,
}

impl Rounds {
    pub(crate) fn of(claims: Vec<Claim>) -> Self {
        Self {
            claims,
            owners: HashMap::new(),
            outcomes: HashMap::new(),
        }
    }

    /// One request of each settlement whose owner is not known yet; `None` when all have their answers.
    pub(crate) fn next_round(&mut self) -> Option<Vec<Claim>> {
        let mut asked = HashSet::new();
        let mut round = Vec::new();
        for claim @ (id, request, ..) in &self.claims {
            if self.outcomes.contains_key(&(*id, *request)) {
                continue;
            }
            match self.owners.get(id) {
                // Whoever comes behind one that got it did not get it.
                Some(owner) if owner != request => {
                    self.outcomes.insert((*id, *request), ClaimOutcome::Taken);
                }
                _ if asked.insert(*id) => round.push(*claim),
                _ => {}
            }
        }
        (!round.is_empty()).then_some(round)
    }

    /// Notes who got what: `refused` says of each settlement that was not claimed whether its success was delivered.
    pub(crate) fn answer(&mut self, round: &[Claim], refused: &HashMap<SettlementId, bool>) {
        for (id, request, ..) in round {
            let outcome = match refused.get(id) {
                None => {
                    self.owners.insert(*id, *request);
                    ClaimOutcome::Claimed
                }
                Some(false) => ClaimOutcome::Taken,
                Some(true) => ClaimOutcome::Delivered,
            };
            self.outcomes.insert((*id, *request), outcome);
        }
    }

    /// In the order of the claims.
    pub(crate) fn outcomes(self) -> Vec<ClaimOutcome> {
        self.claims
            .iter()
            .map(|(id, request, ..)| {
                self.outcomes
                    .get(&(*id, *request))
                    .copied()
                    .unwrap_or(ClaimOutcome::Taken)
            })
            .collect()
    }
}

/// Those of a round that were not claimed, from the rows (id, delivered) of all that could have been. One that is not
/// among these was moved by a reorg since it was read.
pub(crate) fn refused<'r, R: Row>(
    round: &[Claim],
    claimed: &HashSet<SettlementId>,
    settled: &'r [R],
) -> StoreResult<HashMap<SettlementId, bool>>
where
    usize: ColumnIndex<R>,
    uuid::Uuid: Decode<'r, R::Database> + Type<R::Database>,
    bool: Decode<'r, R::Database> + Type<R::Database>,
{
    let mut delivered = HashMap::new();
    for row in settled {
        let mut columns = Columns::of(row);
        delivered.insert(SettlementId(columns.take()?), columns.take()?);
    }
    delivered.retain(|id, _| !claimed.contains(id));
    let moved = round
        .iter()
        .find(|(id, ..)| !claimed.contains(id) && !delivered.contains_key(id));
    match moved {
        Some((id, ..)) => Err(StoreError::Conflict {
            row: format!("settlement {id}"),
            expected: "settled as it was read, or surer",
        }),
        None => Ok(delivered),
    }
}

/// Levels as numbers that rise; below every one of them if there is none.
macro_rules! rank {
    ($($level:tt)+) => {
        concat!(
            "CASE ",
            $($level)+,
            " WHEN 'preconfirmed' THEN 1 WHEN 'included' THEN 2 WHEN 'safe' THEN 3 ",
            "WHEN 'finalized' THEN 4 ELSE 0 END"
        )
    };
}
pub(crate) use rank;

/// Whether a row of settlements is settled, or preconfirmed, by this transaction and at least at this level.
macro_rules! tells {
    ($row:literal, $hash:literal, $level:literal) => {
        concat!(
            $row,
            ".state IN ('preconfirmed', 'settled', 'settled_externally') AND ",
            $row,
            ".transaction_hash = ",
            $hash,
            " AND ",
            $crate::claiming::rank!(concat!($row, ".level")),
            " >= ",
            $crate::claiming::rank!($level),
        )
    };
}
pub(crate) use tells;
