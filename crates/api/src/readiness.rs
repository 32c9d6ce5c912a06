//! Whether the things that teller depends on answer.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all};
use tokio::sync::Mutex;

/// A dependency that has not answered by then counts as out.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// `/readyz` needs no key, so its checks are run at most this often.
const CACHED_FOR: Duration = Duration::from_millis(500);

type Check = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;
type Notes = Arc<dyn Fn() -> Vec<&'static str> + Send + Sync>;

/// The dependencies and how to ask them.
#[derive(Clone, Default)]
pub struct Readiness {
    asked: Vec<Asked>,
    last: Arc<Mutex<Option<(Instant, Ready)>>>,
}

/// A dependency as it is asked.
#[derive(Clone)]
struct Asked {
    name: String,
    check: Check,
    /// Of a network, what holds payments back. The process does without one network as long as it has another.
    network: Option<Notes>,
}

/// How the dependencies were when they were last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) ready: bool,
    /// Of a network, what holds payments back.
    pub(crate) network: Option<Vec<&'static str>>,
}

impl Ready {
    /// Whether the process can do its work: everything is there that is not a network, and a network if there are any.
    pub(crate) fn is_ready(&self) -> bool {
        let (networks, others): (Vec<_>, Vec<_>) = self
            .dependencies
            .iter()
            .partition(|dependency| dependency.network.is_some());
        let has_network = networks.is_empty() || networks.iter().any(|network| network.ready);
        has_network && others.iter().all(|dependency| dependency.ready)
    }
}

impl Readiness {
    /// No dependencies yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dependency that the process cannot do without: its name as `/readyz` shows it (`ledger`) and a check that
    /// answers whether it is usable now.
    pub fn with<F, Fut>(self, name: impl Into<String>, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        self.asking(name.into(), check, None)
    }

    /// Adds a network: its name (`eip155:8453`), a check that answers whether its chain can be read now, and what holds its
    /// payments back, in words of which the body of `/readyz` shows each. A process is ready with one network that can be
    /// read, whatever holds payments back there: it says why it refuses them.
    pub fn with_network<F, Fut, N>(self, name: impl Into<String>, check: F, notes: N) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
        N: Fn() -> Vec<&'static str> + Send + Sync + 'static,
    {
        self.asking(name.into(), check, Some(Arc::new(notes)))
    }

    fn asking<F, Fut>(mut self, name: String, check: F, network: Option<Notes>) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        let check: Check = Arc::new(move || Box::pin(check()));
        self.asked.push(Asked {
            name,
            check,
            network,
        });
        self
    }

    pub(crate) async fn check(&self) -> Ready {
        let mut last = self.last.lock().await;
        if let Some((at, ready)) = last.as_ref()
            && at.elapsed() < CACHED_FOR
        {
            return ready.clone();
        }
        let dependencies = self.asked.iter().map(|asked| async {
            let answer = tokio::time::timeout(CHECK_TIMEOUT, (asked.check)()).await;
            Dependency {
                name: asked.name.clone(),
                ready: answer.unwrap_or(false),
                network: asked.network.as_ref().map(|notes| notes()),
            }
        });
        let ready = Ready {
            dependencies: join_all(dependencies).await,
        };
        *last = Some((Instant::now(), ready.clone()));
        ready
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.asked.iter().map(|asked| &asked.name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::ready;

    #[tokio::test]
    async fn a_process_is_ready_with_its_stores_and_one_network_whatever_holds_payments_back() {
        for (ledger, one, other, expected) in [
            (true, true, true, true),
            (true, false, true, true),
            (true, false, false, false),
            (false, true, true, false),
        ] {
            let readiness = Readiness::new()
                .with("ledger", move || ready(ledger))
                .with_network("eip155:1", move || ready(one), || vec!["no_usable_lane"])
                .with_network(
                    "eip155:2",
                    move || ready(other),
                    || vec!["gas_budget_spent"],
                );
            assert_eq!(readiness.check().await.is_ready(), expected);
        }
        assert!(Readiness::new().check().await.is_ready());
    }
}
