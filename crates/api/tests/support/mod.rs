//! An API whose stores and nodes are all out: enough to see every answer that does not depend on a payment being good.
//! Real payments go through the front door in the binary's tests.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use teller_api::{
    Api, ApiConfig, ApiKey, Auth, Readiness, Supported, SupportedNetwork, TenantLimits,
};
use teller_domain::{
    AccountNonce, Attempt, AuthorizationKey, ChainId, FencedLane, IdempotencyKey, PaymentDigest,
    ProcessId, RequestId, Settlement, SettlementId, SettlementState, Slot, SlotId, TenantId,
    UnixMillis,
};
use teller_settle::Settler;
use teller_store::{
    AcceptOutcome, ClaimOutcome, IdempotencyOutcome, LaneRecovery, Ledger, NewSettlement, NewSlot,
    OpenSlotOutcome, SettlementEvent, SettlementPage, SettlementQuery, SlotClosure, StoreError,
    StoreResult,
};
use teller_verify::Verifier;
use tokio::sync::watch;

/// The API with everything behind it out of order.
pub fn api(auth: Auth) -> Api {
    let readiness = Readiness::new()
        .with("ledger", || async { false })
        .with("eip155:84532", || async { true });
    api_with(auth, readiness)
}

/// The same with other dependencies to report.
pub fn api_with(auth: Auth, readiness: Readiness) -> Api {
    Api::new(
        ApiConfig::default(),
        Verifier {},
        Settler {},
        Arc::new(DownLedger),
        Supported {
            networks: vec![SupportedNetwork {
                chain: ChainId(84532),
                signers: vec![Address::repeat_byte(0x11)],
            }],
        },
        auth,
        readiness,
    )
}

/// Two tenants; the second may ask once a minute or so.
#[allow(dead_code)]
pub fn keys() -> Auth {
    let key = |key: &str, tenant: &str, limits| ApiKey {
        hash: ApiKey::hash_of(key),
        tenant: TenantId::new(tenant),
        limits,
    };
    let slow = TenantLimits {
        requests_per_second: Some(1),
        burst: Some(1),
        ..TenantLimits::default()
    };
    Auth::Keys(vec![
        key("fast-key", "fast", TenantLimits::default()),
        key("slow-key", "slow", slow),
    ])
}

fn down<T>() -> StoreResult<T> {
    Err(StoreError::Unavailable {
        store: "ledger",
        cause: "unplugged".into(),
    })
}

struct DownLedger;

#[async_trait]
impl Ledger for DownLedger {
    async fn ping(&self) -> StoreResult<()> {
        down()
    }
    async fn now(&self) -> StoreResult<UnixMillis> {
        down()
    }
    async fn bind_network(&self, _: ChainId, _: B256) -> StoreResult<()> {
        down()
    }
    async fn heartbeat(&self, _: ProcessId, _: u64) -> StoreResult<()> {
        down()
    }
    async fn accept(&self, _: NewSettlement) -> StoreResult<AcceptOutcome> {
        down()
    }
    async fn find(&self, _: AuthorizationKey) -> StoreResult<Option<Settlement>> {
        down()
    }
    async fn settlement(&self, _: SettlementId) -> StoreResult<Option<Settlement>> {
        down()
    }
    async fn settlements(&self, _: &[SettlementId]) -> StoreResult<Vec<Settlement>> {
        down()
    }
    async fn list(&self, _: &SettlementQuery) -> StoreResult<SettlementPage> {
        down()
    }
    async fn withdraw(&self, _: SettlementId) -> StoreResult<bool> {
        down()
    }
    async fn resolve_accepted(
        &self,
        _: &[(SettlementId, SettlementState)],
    ) -> StoreResult<Vec<SettlementId>> {
        down()
    }
    async fn accepted(&self, _: ChainId) -> StoreResult<Vec<Settlement>> {
        down()
    }
    async fn unresolved(&self) -> StoreResult<u64> {
        down()
    }
    async fn unresolved_settlements(&self) -> StoreResult<Vec<Settlement>> {
        down()
    }
    async fn claim_lane(
        &self,
        _: ChainId,
        _: Address,
        _: ProcessId,
        _: u64,
    ) -> StoreResult<Option<LaneRecovery>> {
        down()
    }
    async fn renew_lane(&self, _: FencedLane, _: u64) -> StoreResult<()> {
        down()
    }
    async fn release_lane(&self, _: FencedLane) -> StoreResult<()> {
        down()
    }
    async fn adopt_nonce(&self, _: FencedLane, _: AccountNonce) -> StoreResult<()> {
        down()
    }
    async fn open_slot(&self, _: FencedLane, _: NewSlot) -> StoreResult<OpenSlotOutcome> {
        down()
    }
    async fn add_attempt(&self, _: FencedLane, _: SlotId, _: Attempt) -> StoreResult<()> {
        down()
    }
    async fn close_slot(&self, _: FencedLane, _: SlotClosure) -> StoreResult<()> {
        down()
    }
    async fn open_slots(&self, _: ChainId, _: Address) -> StoreResult<Vec<Slot>> {
        down()
    }
    async fn signers_with_open_slots(&self, _: ChainId) -> StoreResult<Vec<Address>> {
        down()
    }
    async fn claim_delivery(
        &self,
        _: SettlementId,
        _: RequestId,
        _: ProcessId,
    ) -> StoreResult<ClaimOutcome> {
        down()
    }
    async fn confirm_delivery(&self, _: SettlementId, _: RequestId) -> StoreResult<()> {
        down()
    }
    async fn release_delivery(&self, _: SettlementId, _: RequestId) -> StoreResult<()> {
        down()
    }
    async fn bind_idempotency_key(
        &self,
        _: &TenantId,
        _: &'static str,
        _: &IdempotencyKey,
        _: PaymentDigest,
    ) -> StoreResult<IdempotencyOutcome> {
        down()
    }
    async fn events(
        &self,
        _: u64,
        _: Option<&TenantId>,
        _: u32,
    ) -> StoreResult<Vec<SettlementEvent>> {
        down()
    }
    async fn last_event(&self) -> StoreResult<u64> {
        down()
    }
    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}
