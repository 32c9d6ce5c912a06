//! Claims of one group, put into rounds: a statement can give each settlement to one request only.

use std::collections::{HashMap, HashSet};

use teller_domain::{ProcessId, RequestId, SettlementId};

use crate::ClaimOutcome;

/// A settlement, the request that wants to deliver its success, and that request's process.
pub(crate) type Claim = (SettlementId, RequestId, ProcessId);

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
        for claim @ (id, request, _) in &self.claims {
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

    pub(crate) fn answer(&mut self, round: &[Claim], claimed: &HashSet<SettlementId>) {
        for (id, request, _) in round {
            let outcome = if claimed.contains(id) {
                self.owners.insert(*id, *request);
                ClaimOutcome::Claimed
            } else {
                ClaimOutcome::Taken
            };
            self.outcomes.insert((*id, *request), outcome);
        }
    }

    /// In the order of the claims.
    pub(crate) fn outcomes(self) -> Vec<ClaimOutcome> {
        self.claims
            .iter()
            .map(|(id, request, _)| {
                self.outcomes
                    .get(&(*id, *request))
                    .copied()
                    .unwrap_or(ClaimOutcome::Taken)
            })
            .collect()
    }
}
