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

/// The dependencies and how to ask them.
#[derive(Clone, Default)]
pub struct Readiness {
    checks: Vec<(String, Check)>,
    last: Arc<Mutex<Option<Checked>>>,
}

/// When the dependencies were last asked, and what they said.
type Checked = (Instant, Vec<Dependency>);

/// One dependency's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) ready: bool,
}

impl Readiness {
    /// No dependencies yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dependency: its name as `/readyz` shows it (`ledger`, `eip155:8453`) and a check that answers whether it
    /// is usable now.
    pub fn with<F, Fut>(mut self, name: impl Into<String>, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        self.checks
            .push((name.into(), Arc::new(move || Box::pin(check()))));
        self
    }

    pub(crate) async fn check(&self) -> Vec<Dependency> {
        let mut last = self.last.lock().await;
        if let Some((at, dependencies)) = last.as_ref()
            && at.elapsed() < CACHED_FOR
        {
            return dependencies.clone();
        }
        let dependencies = join_all(self.checks.iter().map(|(name, check)| async {
            let answer = tokio::time::timeout(CHECK_TIMEOUT, check()).await;
            Dependency {
                name: name.clone(),
                ready: answer.unwrap_or(false),
            }
        }))
        .await;
        *last = Some((Instant::now(), dependencies.clone()));
        dependencies
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.checks.iter().map(|(name, _)| name))
            .finish()
    }
}
