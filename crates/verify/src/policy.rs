//! What the operator lets whom do.

use std::collections::{HashMap, HashSet};

use alloy_primitives::Address;
use teller_domain::{ChainId, Payment, Reason, Refusal, TenantId};

/// The operator's rules that are not the network's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Payers and payees that are refused on every network.
    pub denied: HashSet<Address>,
    /// What differs for a tenant; one that is not named may use everything and is not lenient.
    pub tenants: HashMap<TenantId, TenantPolicy>,
    /// The longest balance hold; a shorter `maxTimeoutSeconds` makes it shorter.
    pub balance_hold_cap_seconds: u64,
}

impl Default for Policy {
    /// Nobody denied, every tenant alike, balance holds of a minute.
    fn default() -> Self {
        Self {
            denied: HashSet::new(),
            tenants: HashMap::new(),
            balance_hold_cap_seconds: 60,
        }
    }
}

/// A tenant's rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantPolicy {
    /// A repeat of a verify by this tenant with the identical payment is valid again.
    pub lenient: bool,
    /// The networks that it may use; all if there is no list.
    pub networks: Option<HashSet<ChainId>>,
    /// The assets that it may use; all if there is no list.
    pub assets: Option<HashSet<(ChainId, Address)>>,
}

impl Policy {
    pub(crate) fn is_lenient(&self, tenant: &TenantId) -> bool {
        self.tenants
            .get(tenant)
            .is_some_and(|tenant| tenant.lenient)
    }

    /// Whether the tenant may use the payment's network and asset.
    pub(crate) fn admits(&self, tenant: &TenantId, payment: &Payment) -> Result<(), Refusal> {
        let Some(rules) = self.tenants.get(tenant) else {
            return Ok(());
        };
        let chain = payment.key.chain;
        if rules
            .networks
            .as_ref()
            .is_some_and(|networks| !networks.contains(&chain))
        {
            return Err(refused(format!("this tenant may not use {chain}")));
        }
        let asset = (chain, payment.asset);
        if rules
            .assets
            .as_ref()
            .is_some_and(|assets| !assets.contains(&asset))
        {
            return Err(refused(format!(
                "this tenant may not use the asset {}",
                payment.asset
            )));
        }
        Ok(())
    }

    /// Whether nobody in the payment is on the deny-list.
    pub(crate) fn allows(&self, parties: [Address; 3]) -> Result<(), Refusal> {
        match parties.into_iter().find(|who| self.denied.contains(who)) {
            Some(who) => Err(refused(format!("{who} is on the deny-list"))),
            None => Ok(()),
        }
    }
}

fn refused(detail: String) -> Refusal {
    Refusal::new(Reason::PolicyRefused, detail)
}
