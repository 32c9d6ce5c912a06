//! What both kinds of reservations keep of a request: no signature, and tenants and keys only as fingerprints.

use alloy_primitives::Address;
use teller_domain::{AssetAmount, IdempotencyKey, PaymentDigest, TenantId};

use crate::ReserveRequest;
use crate::rows::key_hash;

/// Mined holds are kept until balances are read this many blocks later.
pub(crate) const MINED_KEPT_BLOCKS: u64 = 64;

/// Sixteen bytes of a hash: tells the same from another, and nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) [u8; 16]);

impl Fingerprint {
    fn of(parts: &[&str]) -> Self {
        let mut short = [0; 16];
        for (to, from) in short.iter_mut().zip(key_hash(parts)) {
            *to = from;
        }
        Self(short)
    }

    pub(crate) fn tenant(tenant: &TenantId) -> Self {
        Self::of(&["tenant", tenant.as_str()])
    }

    fn key(tenant: &TenantId, key: &IdempotencyKey) -> Self {
        Self::of(&["key", tenant.as_str(), key.as_str()])
    }
}

/// Both holds of one authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) asset: Address,
    pub(crate) value: AssetAmount,
    pub(crate) tenant: Fingerprint,
    pub(crate) digest: PaymentDigest,
    pub(crate) idempotency: Option<Fingerprint>,
    /// Settle has it: release gives it back no more.
    pub(crate) settling: bool,
    /// Milliseconds since 1970.
    pub(crate) nonce_until: u64,
    /// Milliseconds since 1970, never past `nonce_until`: what expired moves no money.
    pub(crate) balance_until: u64,
    pub(crate) mined: Option<u64>,
}

impl Hold {
    /// The holds that a request asks for.
    pub(crate) fn of(request: &ReserveRequest, settling: bool) -> Self {
        let nonce_until = request.nonce_hold_until.0;
        Self {
            asset: request.asset,
            value: request.value,
            tenant: Fingerprint::tenant(&request.tenant),
            digest: request.digest,
            idempotency: request
                .idempotency_key
                .as_ref()
                .map(|key| Fingerprint::key(&request.tenant, key)),
            settling,
            nonce_until,
            balance_until: request.balance_hold_until.0.min(nonce_until),
            mined: None,
        }
    }
}

/// Counts a refusal for the metrics.
pub(crate) fn count_conflict(reason: &'static str) {
    metrics::counter!("teller_reservation_conflicts_total", "reason" => reason).increment(1);
}
