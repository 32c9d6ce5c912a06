//! Looks after the engines: one that cannot go on ends the process, where an operator sees it.

use teller_domain::ChainId;
use teller_settle::EngineStatus;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::commands::Failure;

/// The engines' states.
pub struct EngineWatch {
    engines: Vec<(ChainId, watch::Receiver<EngineStatus>)>,
}

impl EngineWatch {
    /// Watches these.
    pub fn new(engines: Vec<(ChainId, watch::Receiver<EngineStatus>)>) -> Self {
        Self { engines }
    }

    /// Waits until each engine runs, until `deadline`.
    ///
    /// # Errors
    /// When one never will.
    pub async fn settled_in(&mut self, deadline: tokio::time::Instant) -> Result<(), Failure> {
        for (chain, status) in &mut self.engines {
            let word = status.wait_for(|status| !matches!(status, EngineStatus::Starting));
            match tokio::time::timeout_at(deadline, word).await {
                Ok(Ok(status)) => {
                    if let EngineStatus::Broken(error) = &*status {
                        return Err(broken(*chain, error));
                    }
                }
                Ok(Err(_)) => return Err(Failure::text(format!("{chain}: the engine has ended"))),
                Err(_) => tracing::warn!(network = %chain, "no node answers yet; payments wait"),
            }
        }
        Ok(())
    }

    /// Answers when an engine cannot go on.
    pub async fn broken(&mut self) -> Failure {
        let mut waits = JoinSet::new();
        for (chain, status) in &self.engines {
            let (chain, mut status) = (*chain, status.clone());
            waits.spawn(async move {
                let broken = status.wait_for(|status| matches!(status, EngineStatus::Broken(_)));
                match broken.await.as_deref() {
                    Ok(EngineStatus::Broken(error)) => broken_text(chain, error),
                    Ok(_) | Err(_) => format!("{chain}: the engine has ended"),
                }
            });
        }
        match waits.join_next().await {
            Some(Ok(text)) => Failure::text(text),
            Some(Err(error)) => Failure::new("an engine could not be watched", error),
            None => std::future::pending().await,
        }
    }
}

fn broken(chain: ChainId, error: &dyn std::error::Error) -> Failure {
    Failure::text(broken_text(chain, error))
}

fn broken_text(chain: ChainId, error: &dyn std::error::Error) -> String {
    format!("{chain} cannot be settled on: {error}")
}
