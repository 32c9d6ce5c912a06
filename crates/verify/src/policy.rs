//! What the operator lets whom do.

use std::collections::{HashMap, HashSet};

use alloy_primitives::Address;
use teller_domain::{AssetAmount, ChainId, Payment, Reason, Refusal, Scheme, TenantId};

/// The operator's rules that are not the network's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Payers and payees that are refused on every network.
    pub denied: HashSet<Address>,
    /// What differs for a tenant; one that is not named may use everything and is not lenient.
    pub tenants: HashMap<TenantId, TenantPolicy>,
    /// The longest balance hold; a shorter `maxTimeoutSeconds` makes it shorter.
    pub balance_hold_cap_seconds: u64,
    /// Whether payments are taken that move nothing to anybody: `exact` ones of value 0, and those whose payer is the payee.
    /// Keys that own nothing can sign as many as they like, and the operator pays the gas.
    pub empty_payments: EmptyPayments,
}

/// What becomes of payments that move nothing to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptyPayments {
    /// They are refused.
    #[default]
    Refused,
    /// They are settled like any other.
    Allowed,
}

impl Default for Policy {
    /// Nobody denied, every tenant alike, balance holds of a minute, no empty payments.
    fn default() -> Self {
        Self {
            denied: HashSet::new(),
            tenants: HashMap::new(),
            balance_hold_cap_seconds: 60,
            empty_payments: EmptyPayments::Refused,
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

    /// Whether the payment is of something. Under `upto` a charge of 0 is legitimate, and costs no gas.
    pub(crate) fn wants_value(&self, payment: &Payment) -> Result<(), Refusal> {
        let is_empty = payment.scheme() == Scheme::Exact && payment.value == AssetAmount::ZERO;
        self.refuse(
            is_empty,
            Reason::ZeroValuePayment,
            "the payment is of nothing",
        )
    }

    /// Whether the payment is to somebody else than its payer. Asked once the signature is known to be his.
    pub(crate) fn wants_payee(&self, payment: &Payment) -> Result<(), Refusal> {
        let is_empty = payment.key.payer == payment.payee && !payment.charges_nothing();
        self.refuse(is_empty, Reason::SelfPayment, "the payer is the payee")
    }

    fn refuse(&self, is_empty: bool, reason: Reason, what: &str) -> Result<(), Refusal> {
        if !is_empty || self.empty_payments == EmptyPayments::Allowed {
            return Ok(());
        }
        let detail = format!("{what}; this facilitator does not pay the gas of such payments");
        Err(Refusal::new(reason, detail))
    }
}

fn refused(detail: String) -> Refusal {
    Refusal::new(Reason::PolicyRefused, detail)
}
