//! Signed receipts of settled payments. The key itself stays with whoever put the API together.

use std::fmt;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use teller_domain::{
    EcdsaSignature, Receipt, SettlementId, SettlementReceipt, SettlementState, SignedReceipt,
    TenantId,
};

use crate::answer::ApiError;
use crate::api::Api;
use crate::service::unavailable;

type Sign = dyn Fn(B256) -> Option<EcdsaSignature> + Send + Sync;

/// Signs receipts for one account.
#[derive(Clone)]
pub struct ReceiptSigner {
    address: Address,
    sign: Arc<Sign>,
}

impl ReceiptSigner {
    /// A signer for this account; `sign` signs digests with its key.
    pub fn new(
        address: Address,
        sign: impl Fn(B256) -> Option<EcdsaSignature> + Send + Sync + 'static,
    ) -> Self {
        Self {
            address,
            sign: Arc::new(sign),
        }
    }
}

impl fmt::Debug for ReceiptSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiptSigner({})", self.address)
    }
}

/// The receipt of a tenant's settlement, signed now: it says the level that the chain has reached.
pub(crate) async fn receipt(
    api: &Api,
    tenant: &TenantId,
    id: &str,
) -> Result<SignedReceipt, ApiError> {
    let signer = api.inner.config.receipt_signer.as_ref();
    let signer = signer.ok_or(ApiError::NoReceiptKey)?;
    let id: SettlementId = id.parse().map_err(|_| ApiError::NoSuchSettlement)?;
    let found = api.inner.service.ledger.settled(id).await;
    let (settlement, settled_at) = found
        .map_err(unavailable)?
        .filter(|(settlement, _)| settlement.tenant == *tenant)
        .ok_or(ApiError::NoSuchSettlement)?;
    if settlement.state == SettlementState::Settled(Receipt::NOTHING) {
        return Err(ApiError::NothingCharged);
    }
    let receipt = settled_at
        .and_then(|at| SettlementReceipt::of(&settlement, at))
        .ok_or(ApiError::NotSettled(settlement.state.kind()))?;
    match (signer.sign)(receipt.digest()) {
        Some(signature) => Ok(SignedReceipt::new(receipt, signer.address, signature)),
        None => {
            tracing::error!(signer = %signer.address, "a receipt could not be signed");
            Err(ApiError::Internal)
        }
    }
}
