//! Chores of a process that belong to no network: saying that it lives, and loading lost reservations again.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::U256;
use teller_domain::{AssetAmount, ProcessId, Settlement, UnixMillis};
use teller_store::{
    Duty, HoldPurpose, Ledger, Milestone, ReserveRequest, SettlementQuery, StoreError, StoreResult,
    Stores,
};

/// A nonce hold lasts at most this long (DESIGN section 3.1).
const LONGEST_NONCE_HOLD_MS: u64 = 24 * 60 * 60 * 1_000;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Renews this process's lease, so that its claims on deliveries stay its own. For ever.
pub async fn heartbeat(ledger: Arc<dyn Ledger>, process: ProcessId, lease: Duration) {
    let lease_ms = millis(lease);
    loop {
        if let Err(error) = ledger.heartbeat(process, Duty::Answers, lease_ms).await {
            tracing::warn!(%error, "the ledger does not know that this process lives");
        }
        tokio::time::sleep(lease / 3).await;
    }
}

/// Opens the reservations of a new ledger at once, so that a new cluster verifies from its first moment. Everything else
/// is left to [`reservations`].
pub async fn open_new(stores: &Stores, balance_hold: Duration) {
    let closed = stores.reservations.ping().await;
    if matches!(closed, Err(StoreError::Recovering)) && matches!(is_new(stores).await, Ok(true)) {
        tracing::info!("the ledger is new, and so are its reservations");
        // What fails here is tried again and told there.
        let _ = recover(stores, balance_hold, Duration::ZERO).await;
    }
}

/// Watches over the reservations: when they were lost, loads the holds of open payments, waits until no hold that was
/// lost can still be in force, and lets granting go on. For ever.
pub async fn reservations(stores: Stores, balance_hold: Duration, wait: Duration) {
    loop {
        if let Err(StoreError::Recovering) = stores.reservations.ping().await {
            tracing::warn!(
                ?wait,
                "reservations were lost: verify is closed until lost holds have run out"
            );
            match recover(&stores, balance_hold, wait).await {
                Ok(holds) => tracing::info!(holds, "reservations are complete again"),
                Err(error) => {
                    tracing::warn!(%error, "reservations could not be loaded; trying again")
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn recover(stores: &Stores, balance_hold: Duration, wait: Duration) -> StoreResult<usize> {
    let now = stores.ledger.now().await?;
    let load = |settlements: Vec<Settlement>| {
        settlements
            .iter()
            .map(|settlement| hold(settlement, now, balance_hold))
            .collect()
    };
    stores
        .reservations
        .restore(load(stores.ledger.unresolved_settlements().await?))
        .await?;
    tokio::time::sleep(wait).await;
    // What was accepted while waiting reserved nothing, so it is loaded too.
    let open = stores.ledger.unresolved_settlements().await?;
    let holds = open.len();
    stores.reservations.restore(load(open)).await?;
    stores.reservations.recovered().await?;
    Ok(holds)
}

/// A ledger without a single payment beside which no reservations were opened before: they have lost nothing. So for
/// whoever asks first.
async fn is_new(stores: &Stores) -> StoreResult<bool> {
    let anything = SettlementQuery {
        limit: 1,
        ..SettlementQuery::default()
    };
    let page = stores.ledger.list(&anything).await?;
    Ok(page.settlements.is_empty()
        && stores
            .ledger
            .is_first(Milestone::ReservationsOpened)
            .await?)
}

fn hold(settlement: &Settlement, now: UnixMillis, balance_hold: Duration) -> ReserveRequest {
    let payment = &settlement.payment;
    let valid_until = payment.valid_before().0.saturating_mul(1_000);
    let balance_hold_until = now.0.saturating_add(millis(balance_hold));
    // The ledger's clock may be ahead of the chain's: what is open still holds its value as long as any other.
    let nonce_hold_until = valid_until
        .min(now.0.saturating_add(LONGEST_NONCE_HOLD_MS))
        .max(balance_hold_until);
    ReserveRequest {
        key: payment.key,
        asset: payment.asset,
        value: payment.value,
        tenant: settlement.tenant.clone(),
        digest: settlement.digest,
        idempotency_key: None,
        purpose: HoldPurpose::Settle,
        // It was checked when it was accepted; loading it again refuses nothing.
        balance: AssetAmount(U256::MAX),
        read_at_block: 0,
        now,
        nonce_hold_until: UnixMillis(nonce_hold_until),
        balance_hold_until: UnixMillis(balance_hold_until),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
