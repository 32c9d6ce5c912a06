//! Reservations in this process, for the embedded ledger: decided in memory, and written to the ledger's file before
//! they are granted, so that a killed process finds them again.

mod book;

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use teller_domain::{AuthorizationKey, PaymentDigest, TenantId, UnixMillis};

use self::book::Book;
use crate::holds::{Fingerprint, count_conflict};
use crate::sqlite::{HoldWrite, Writer};
use crate::{
    HoldVersion, Reservations, ReserveOutcome, ReserveRequest, SqliteLedger, StoreError,
    StoreResult,
};

/// In-process reservations.
pub struct MemoryReservations {
    book: Mutex<Book>,
    writer: Writer,
}

impl MemoryReservations {
    /// Loads the holds that the ledger's file has.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or was opened for reading only.
    pub async fn open(ledger: &SqliteLedger) -> StoreResult<Self> {
        let writer = ledger.writer()?.clone();
        Ok(Self {
            book: Mutex::new(Book::of(ledger.holds().await?)),
            writer,
        })
    }

    /// The book is whole between calls: nothing that holds it can panic half-way.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides under the lock, and queues what changed before the lock is given back, so that the file gets the
    /// changes in the order of the decisions.
    async fn change<T>(
        &self,
        decide: impl FnOnce(&mut Book) -> (T, book::Changes) + Send,
    ) -> StoreResult<(T, StoreResult<()>)>
    where
        T: Send,
    {
        let permit = self.writer.hold_permit().await.map_err(of_reservations)?;
        let (answer, written) = {
            let mut book = self.book();
            let (answer, changes) = decide(&mut book);
            let written = (!changes.is_empty()).then(|| permit.send(HoldWrite { changes }));
            (answer, written)
        };
        let written = match written {
            Some(written) => written.await.map_err(of_reservations),
            None => Ok(()),
        };
        Ok((answer, written))
    }
}

fn of_reservations(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable { cause, .. } => StoreError::unavailable("reservations", cause),
        StoreError::Refused { cause, .. } => StoreError::refused("reservations", cause),
        StoreError::ReadOnly { cause, .. } => StoreError::ReadOnly {
            store: "reservations",
            cause,
        },
        other => other,
    }
}

#[async_trait]
impl Reservations for MemoryReservations {
    async fn ping(&self) -> StoreResult<()> {
        self.writer
            .hold_permit()
            .await
            .map(|_| ())
            .map_err(of_reservations)
    }

    async fn probe(&self) -> StoreResult<()> {
        self.writer.probe().await.map_err(of_reservations)
    }

    async fn reserve(&self, request: ReserveRequest) -> StoreResult<ReserveOutcome> {
        let key = request.key;
        let (outcome, written) = self.change(|book| book.reserve(&request)).await?;
        let outcome = outcome?;
        if let Err(error) = written {
            // Not in the file, so not granted: nobody was told that it is held.
            if let ReserveOutcome::Granted { version } = outcome {
                self.book().forget(key, version);
            }
            return Err(error);
        }
        match outcome {
            ReserveOutcome::AuthorizationHeld => count_conflict("authorization_held"),
            ReserveOutcome::InsufficientBalance { .. } => count_conflict("insufficient_balance"),
            ReserveOutcome::Granted { .. } | ReserveOutcome::Renewed => {}
        }
        Ok(outcome)
    }

    async fn release(
        &self,
        key: AuthorizationKey,
        tenant: &TenantId,
        digest: PaymentDigest,
        now: UnixMillis,
    ) -> StoreResult<bool> {
        let tenant = Fingerprint::tenant(tenant);
        let (released, written) = self
            .change(|book| book.release(key, tenant, digest, now.0))
            .await?;
        written.map(|()| released)
    }

    async fn give_back(
        &self,
        key: AuthorizationKey,
        tenant: &TenantId,
        digest: PaymentDigest,
        version: HoldVersion,
    ) -> StoreResult<bool> {
        let tenant = Fingerprint::tenant(tenant);
        let (given_back, written) = self
            .change(|book| book.give_back(key, tenant, digest, version))
            .await?;
        written.map(|()| given_back)
    }

    async fn abandon(&self, keys: &[AuthorizationKey]) -> StoreResult<()> {
        self.change(|book| ((), book.abandon(keys))).await?.1
    }

    async fn mined(&self, keys: &[AuthorizationKey], block: u64) -> StoreResult<()> {
        self.change(|book| ((), book.mined(keys, block))).await?.1
    }

    async fn unmined(&self, keys: &[AuthorizationKey]) -> StoreResult<()> {
        self.change(|book| ((), book.unmined(keys))).await?.1
    }

    async fn restore(&self, holds: Vec<ReserveRequest>) -> StoreResult<()> {
        self.change(|book| ((), book.restore(&holds))).await?.1
    }

    /// Nothing to do: the holds are in the ledger's file, and are lost only with it.
    async fn recovered(&self) -> StoreResult<()> {
        Ok(())
    }
}
