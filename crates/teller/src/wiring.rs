//! The one place that knows every crate: makes stores, chains, verifier, engine and servers out of a configuration, and
//! takes them down in the right order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use teller_store::Ledger;

use crate::commands::Failure;
use crate::config::{Config, Role, Secret};

/// A running teller.
pub struct Teller {
    rest: Option<SocketAddr>,
}

impl Teller {
    /// Where REST listens; `None` for a process that takes no requests.
    pub fn rest(&self) -> Option<SocketAddr> {
        self.rest
    }

    /// Answers when a part has ended that the rest cannot do without.
    pub async fn failed(&mut self) -> Failure {
        std::future::pending().await
    }

    /// Stops taking requests, lets those in flight end within `deadline`, hands lanes over.
    pub async fn drain(self, _deadline: Duration) {}
}

/// Starts everything that this role needs. Requests are taken when this answers.
pub async fn start(_config: &Config, _role: Role) -> Result<Teller, Failure> {
    Err(Failure::text("not wired"))
}

/// Brings the ledger's tables up to date.
pub async fn migrate(_config: &Config) -> Result<(), Failure> {
    Err(Failure::text("not wired"))
}

/// Opens a ledger for reading only: beside a running teller, and with nothing written.
pub async fn open_ledger_to_read(_url: &Secret) -> Result<Arc<dyn Ledger>, Failure> {
    Err(Failure::text("not wired"))
}
