//! What an operator lets gas cost in all.

use std::collections::BTreeMap;

use alloy_primitives::U256;
use teller_domain::{TenantId, Wei};
use teller_store::{Spending, TopUp};

use super::gas_limit;

/// Bounds on gas, in wei. What is under way when a daily bound is reached still counts against it when it is mined, so a
/// day may end above its bound by the open slots' worth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budgets {
    /// What one transaction may cost at most, at its `maxFeePerGas`, with what it gives. No-ops are exempt: they free what is stuck.
    pub per_transaction: Option<Wei>,
    /// What all transactions of a day (UTC) may cost.
    pub per_day: Option<Wei>,
    /// What the settled payments of a tenant may cost in a day (UTC).
    pub tenants: BTreeMap<TenantId, Wei>,
}

impl Budgets {
    /// Whether anything is bounded by the day, so that spending must be known.
    pub fn by_day(&self) -> bool {
        self.per_day.is_some() || !self.tenants.is_empty()
    }

    /// Whether nobody's payment may enter a slot.
    pub(crate) fn is_spent(&self, spending: &Spending) -> bool {
        self.per_day.is_some_and(|bound| spending.total >= bound)
    }

    /// The tenants whose own budgets are spent.
    pub(crate) fn stopped(&self, spending: &Spending) -> Vec<TenantId> {
        let tenants = self.tenants.keys();
        tenants
            .filter(|tenant| self.has_spent(spending, tenant))
            .cloned()
            .collect()
    }

    /// Whether a payment of this tenant may enter a slot.
    pub(super) fn allow(&self, spending: &Spending, tenant: &TenantId) -> bool {
        !self.is_spent(spending) && !self.has_spent(spending, tenant)
    }

    /// Whether a transaction that gives this may cost what it gives and its own gas, at this fee.
    pub(super) fn admit_top_up(&self, top_up: &TopUp, max_fee_per_gas: u128) -> bool {
        let gas = U256::from(gas_limit(&[])).saturating_mul(U256::from(max_fee_per_gas));
        let most = top_up.value.0.saturating_add(gas);
        self.per_transaction.is_none_or(|bound| most <= bound.0)
    }

    fn has_spent(&self, spending: &Spending, tenant: &TenantId) -> bool {
        let Some(bound) = self.tenants.get(tenant) else {
            return false;
        };
        let spent = spending
            .tenants
            .iter()
            .find(|(spender, _)| spender == tenant)
            .map_or(Wei::ZERO, |(_, spent)| *spent);
        spent >= *bound
    }
}

/// Adds what a closed slot cost, until the ledger's own sum is read again.
pub(super) fn add(spending: &mut Spending, cost: Wei, shares: &[(TenantId, Wei)]) {
    spending.total = Wei(spending.total.0.saturating_add(cost.0));
    for (tenant, share) in shares {
        match spending
            .tenants
            .iter_mut()
            .find(|(spender, _)| spender == tenant)
        {
            Some((_, spent)) => *spent = Wei(spent.0.saturating_add(share.0)),
            None => spending.tenants.push((tenant.clone(), *share)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_stops_its_tenant_and_the_day_s_budget_stops_all() {
        let (poor, rich) = (TenantId::new("poor"), TenantId::new("rich"));
        let mut budgets = Budgets {
            tenants: BTreeMap::from([(poor.clone(), Wei::from(10))]),
            ..Budgets::default()
        };
        let mut spending = Spending::default();
        add(
            &mut spending,
            Wei::from(25),
            &[(poor.clone(), Wei::from(9)), (rich.clone(), Wei::from(16))],
        );
        assert!(budgets.allow(&spending, &poor));
        add(&mut spending, Wei::from(1), &[(poor.clone(), Wei::from(1))]);
        assert!(!budgets.allow(&spending, &poor) && budgets.allow(&spending, &rich));
        assert_eq!(budgets.stopped(&spending), [poor]);
        budgets.per_day = Some(Wei::from(26));
        assert!(!budgets.allow(&spending, &rich));
    }
}
