//! Reservations: what verify has promised and settle has not yet written down.

use alloy_primitives::Address;
use async_trait::async_trait;
use teller_domain::{
    AssetAmount, AuthorizationKey, IdempotencyKey, PaymentDigest, TenantId, UnixMillis,
};

use crate::StoreResult;

/// Which call asks for the hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldPurpose {
    /// Verify: a live hold of the same authorization is a conflict, unless it carries the same idempotency key from the
    /// same tenant, or the tenant is lenient and the payment is identical.
    Verify {
        /// The tenant lets identical repeats by itself be valid again.
        lenient: bool,
    },
    /// Settle: a live hold of the same payment by the same tenant is what verify left; it is renewed and kept.
    Settle,
}

/// A request to hold one authorization and its value.
#[derive(Debug, Clone)]
pub struct ReserveRequest {
    /// The authorization.
    pub key: AuthorizationKey,
    /// The token whose balance is held. The balance hold is on (network, asset, payer).
    pub asset: Address,
    /// How much.
    pub value: AssetAmount,
    /// Whose request it is.
    pub tenant: TenantId,
    /// Which payment.
    pub digest: PaymentDigest,
    /// The seller's key, if it sent one.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Verify or settle.
    pub purpose: HoldPurpose,
    /// The payer's balance as it was read.
    pub balance: AssetAmount,
    /// The block that it was read at.
    pub read_at_block: u64,
    /// Now, by a clock of this process that does not jump. How long the holds last is counted from here; where processes
    /// share reservations they end by the store's own clock.
    pub now: UnixMillis,
    /// When the nonce hold ends: the authorization's `validBefore`, at most 24 h from now.
    pub nonce_hold_until: UnixMillis,
    /// When the balance hold ends.
    pub balance_hold_until: UnixMillis,
}

/// Tells one grant or renewal of a hold from every other: each leaves the hold another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldVersion(pub(crate) u128);

/// What became of a [`ReserveRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveOutcome {
    /// Both holds are granted.
    Granted {
        /// What gives them back for as long as nobody else relies on them: [`Reservations::give_back`].
        version: HoldVersion,
    },
    /// The same request held them already; they are renewed. Whoever was granted them cannot give them back any more.
    Renewed,
    /// Another request holds the authorization.
    AuthorizationHeld,
    /// Held amounts that count against this balance, plus the value, exceed it.
    InsufficientBalance {
        /// What other authorizations of the payer hold.
        held: AssetAmount,
    },
}

/// The contract of reservations (DESIGN section 3.1, item 5; invariant 12).
///
/// A hold whose payment was mined in block m counts only against balances read before m; mined holds are kept for
/// 64 blocks of the balance reads that follow. An expired hold counts as absent.
#[async_trait]
pub trait Reservations: Send + Sync + 'static {
    /// Answers if holds can be granted to verify. [`crate::StoreError::Recovering`] while lost holds are being loaded.
    async fn ping(&self) -> StoreResult<()>;

    /// As [`Reservations::ping`], and writes something to find out if holds can be written.
    async fn probe(&self) -> StoreResult<()>;

    /// Grants or refuses both holds at once, atomically. While lost holds are being loaded verify gets
    /// [`crate::StoreError::Recovering`], and settle is held against those that are there. Grouped inside.
    async fn reserve(&self, request: ReserveRequest) -> StoreResult<ReserveOutcome>;

    /// Gives the holds back if this tenant has them for this payment and the purpose was verify (a settling hold stays). `true` if it
    /// had them.
    async fn release(
        &self,
        key: AuthorizationKey,
        tenant: &TenantId,
        digest: PaymentDigest,
        now: UnixMillis,
    ) -> StoreResult<bool>;

    /// Undoes a grant that came to nothing, whatever its purpose: the holds are given back if this tenant has them for
    /// this payment and nobody has renewed them since, nor has a block mined the payment. `true` if it did.
    async fn give_back(
        &self,
        key: AuthorizationKey,
        tenant: &TenantId,
        digest: PaymentDigest,
        version: HoldVersion,
    ) -> StoreResult<bool>;

    /// Ends the holds of payments that reached an outcome without moving the payer's money (failed, expired, withdrawn).
    async fn abandon(&self, keys: &[AuthorizationKey]) -> StoreResult<()>;

    /// The payments moved money in block `block`.
    async fn mined(&self, keys: &[AuthorizationKey], block: u64) -> StoreResult<()>;

    /// A reorg took these back: their holds count again.
    async fn unmined(&self, keys: &[AuthorizationKey]) -> StoreResult<()>;

    /// Loads the holds of unresolved ledger rows, as settle holds, after a loss. Existing holds win.
    async fn restore(&self, holds: Vec<ReserveRequest>) -> StoreResult<()>;

    /// Declares the restored holds complete: granting goes on (DESIGN section 3.1, last paragraph).
    async fn recovered(&self) -> StoreResult<()>;
}
