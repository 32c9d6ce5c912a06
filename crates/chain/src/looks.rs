//! Looks at the head that somebody waits for. Many who ask at the same time share one look.

use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Looks that are asked for begin this far apart at least, whoever asks and however often.
pub(crate) const LEAST_BETWEEN: Duration = Duration::from_millis(100);

/// Looks so far.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    begun: u64,
    ended: u64,
}

#[derive(Debug)]
pub(crate) struct Looks {
    asked: Notify,
    count: watch::Sender<Count>,
}

impl Looks {
    pub(crate) fn new() -> Self {
        Self {
            asked: Notify::new(),
            count: watch::Sender::new(Count::default()),
        }
    }

    /// Waits for the end of a look that began after this was called.
    pub(crate) async fn one_more(&self) {
        let mut count = self.count.subscribe();
        let next = count.borrow().begun + 1;
        self.asked.notify_one();
        // The sender lives as long as this does.
        let _ = count.wait_for(|count| count.ended >= next).await;
    }

    /// Waits until somebody wants a look.
    pub(crate) async fn wanted(&self) {
        self.asked.notified().await;
    }

    pub(crate) fn begin(&self) {
        self.count.send_modify(|count| count.begun += 1);
    }

    pub(crate) fn end(&self) {
        self.count.send_modify(|count| count.ended = count.begun);
    }
}
