//! Counts compensating entries: each says that what the chain holds differs from what somebody was told, or agrees with it
//! again, and wants a person's eyes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use teller_domain::{Compensation, CompensationKind, UnixMillis};
use teller_store::{Ledger, StoreError};

/// Entries read at once.
const PAGE: u32 = 500;

/// An entry may become visible after a later one, as transactions commit in any order: reading goes back over entries
/// that are younger than this.
const UNSETTLED: Duration = Duration::from_secs(60);

/// Entries that are read again at most; more than this in a minute are counted late at worst.
const MOST_UNSETTLED: usize = 10_000;

/// How far the list was read.
#[derive(Debug, Default)]
struct Reader {
    /// Everything up to here was counted.
    settled: u64,
    /// Counted entries behind that, oldest first.
    counted: VecDeque<(u64, UnixMillis)>,
}

/// Counts every entry of the ledger, those from before this process too: like the ledger's list, the counter never
/// starts again from zero, so an increase is an entry, also over a restart. Never ends.
pub async fn count_compensations(ledger: Arc<dyn Ledger>, poll: Duration) {
    let mut reader = Reader::default();
    let mut is_first = true;
    loop {
        match reader.read(ledger.as_ref()).await {
            Ok(new) => {
                for entry in &new {
                    note(entry, is_first);
                }
                is_first = false;
            }
            Err(error) => {
                tracing::warn!(%error, "compensating entries could not be read; they are asked for again")
            }
        }
        tokio::time::sleep(poll).await;
    }
}

/// Every kind is there from the start, with zero: only then is the first entry an increase.
pub fn register_compensations() {
    for kind in CompensationKind::ALL {
        counter!("teller_compensations_total", "kind" => kind.as_str()).increment(0);
    }
}

fn note(entry: &Compensation, is_old: bool) {
    counter!("teller_compensations_total", "kind" => entry.kind.as_str()).increment(1);
    if !is_old {
        tracing::error!(
            settlement = %entry.settlement,
            tenant = %entry.tenant,
            kind = entry.kind.as_str(),
            "compensating entry: books made from answers must be corrected"
        );
    }
}

impl Reader {
    /// The entries that were not counted yet.
    async fn read(&mut self, ledger: &dyn Ledger) -> Result<Vec<Compensation>, StoreError> {
        let mut new = Vec::new();
        let mut after = self.settled;
        loop {
            let page = ledger.compensations(after, None, PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            for entry in page {
                after = entry.sequence;
                if self.count(&entry) {
                    new.push(entry);
                }
            }
            if is_last {
                break;
            }
        }
        if !self.counted.is_empty() {
            self.settle(ledger.now().await?);
        }
        Ok(new)
    }

    /// Whether the entry is new.
    fn count(&mut self, entry: &Compensation) -> bool {
        match self
            .counted
            .binary_search_by_key(&entry.sequence, |(sequence, _)| *sequence)
        {
            Ok(_) => false,
            Err(place) => {
                self.counted.insert(place, (entry.sequence, entry.at));
                true
            }
        }
    }

    /// Forgets entries that nothing can come before any more.
    fn settle(&mut self, now: UnixMillis) {
        let unsettled = u64::try_from(UNSETTLED.as_millis()).unwrap_or(u64::MAX);
        while let Some((sequence, at)) = self.counted.front() {
            if self.counted.len() <= MOST_UNSETTLED && at.0.saturating_add(unsettled) > now.0 {
                return;
            }
            self.settled = *sequence;
            self.counted.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use teller_domain::{SettlementId, TenantId};

    fn entry(sequence: u64, at: u64) -> Compensation {
        Compensation {
            sequence,
            settlement: SettlementId::fresh(),
            tenant: TenantId::new("shop"),
            kind: CompensationKind::SuccessTakenBack,
            at: UnixMillis(at),
        }
    }

    #[test]
    fn an_entry_that_appears_behind_a_later_one_is_counted_once_too() {
        let mut reader = Reader::default();
        assert!(reader.count(&entry(1, 1_000)));
        assert!(reader.count(&entry(3, 1_010)));
        reader.settle(UnixMillis(2_000));
        assert_eq!(reader.settled, 0);
        assert!(reader.count(&entry(2, 1_005)));
        assert!(!reader.count(&entry(3, 1_010)));
        reader.settle(UnixMillis(61_007));
        assert_eq!((reader.settled, reader.counted.len()), (2, 1));
        reader.settle(UnixMillis(100_000));
        assert_eq!((reader.settled, reader.counted.len()), (3, 0));
    }
}
