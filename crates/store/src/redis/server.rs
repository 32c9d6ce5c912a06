//! What Redis says of itself, and whether the holds in it are complete by that.

use crate::{StoreError, StoreResult};

/// The sections of INFO that [`Server::read`] needs, a few microseconds of the server's work.
pub(super) const SECTIONS: [&str; 3] = ["server", "stats", "replication"];

/// The server behind a connection, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// Another one for each process of Redis.
    run_id: String,
    /// How many keys it has thrown away, because its memory was full.
    pub(super) evicted_keys: u64,
    /// The latest moment at which it can have started, by its own clock.
    started_ms: u64,
    is_replica: bool,
}

/// Whether all holds that were granted and have not ended are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    /// They are.
    Complete,
    /// They are what this replica had when it was promoted; the marker must name it before they count.
    Promoted,
    /// They were lost, some of them or all.
    Lost,
}

impl Server {
    /// Reads an answer to INFO.
    pub(super) fn read(info: &str) -> StoreResult<Self> {
        let number = |name| field(info, name)?.parse::<u64>().ok();
        let read = || {
            let now_ms = number("server_time_usec")? / 1_000;
            let up_s = number("uptime_in_seconds")?;
            Some(Self {
                run_id: field(info, "run_id")?.to_owned(),
                evicted_keys: number("evicted_keys")?,
                // Both are cut to whole seconds.
                started_ms: (now_ms / 1_000).saturating_sub(up_s).saturating_add(1) * 1_000,
                is_replica: field(info, "role")? == "slave",
            })
        };
        read().ok_or_else(|| StoreError::refused("reservations", "its INFO was not understood"))
    }

    /// A replica takes no holds. Whoever was led to one should look for the primary again.
    pub(super) fn expect_primary(&self) -> StoreResult<()> {
        match self.is_replica {
            true => Err(StoreError::ReadOnly {
                store: "reservations",
                cause: "the server is a replica".to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// What the marker says once the holds are complete, but for the moment, which Redis adds: who vouches, and how many
    /// keys were gone by then.
    pub(super) fn vouch(&self) -> String {
        format!("{} {}", self.run_id, self.evicted_keys)
    }

    /// What a marker is worth here. It vouches for nothing once a key was evicted, nor in a process that has read its keys
    /// from a file: the file may be older than the newest holds.
    pub(super) fn completeness(&self, marker: Option<&str>) -> Completeness {
        let Some((vouched, moment)) = marker.and_then(|marker| marker.rsplit_once(' ')) else {
            return Completeness::Lost;
        };
        if vouched == self.vouch() {
            return Completeness::Complete;
        }
        let is_another_s = vouched.split(' ').next() != Some(self.run_id.as_str());
        let was_there = moment
            .parse::<u64>()
            .is_ok_and(|moment| self.started_ms <= moment);
        match is_another_s && was_there && self.evicted_keys == 0 {
            true => Completeness::Promoted,
            false => Completeness::Lost,
        }
    }
}

/// What is wrong with how the server makes room when its memory is full; nothing if it refuses writes then, or has no bound.
pub(super) fn eviction(info: &str) -> StoreResult<Option<String>> {
    let read = || Some((field(info, "maxmemory")?, field(info, "maxmemory_policy")?));
    let (bound, policy) = read()
        .ok_or_else(|| StoreError::refused("reservations", "its INFO memory was not understood"))?;
    Ok((bound != "0" && policy != "noeviction").then(|| {
        format!(
            "the reservations' Redis evicts keys when its memory is full (maxmemory-policy {policy}): holds would vanish, \
             and money be vouched for twice. Set maxmemory-policy noeviction"
        )
    }))
}

fn field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Up for 100 s at second 1,000.
    fn info(run_id: &str, evicted_keys: u64) -> Server {
        let text = format!(
            "# Server\r\nrun_id:{run_id}\r\nserver_time_usec:1000500000\r\nuptime_in_seconds:100\r\n\
             # Stats\r\nevicted_keys:{evicted_keys}\r\n# Replication\r\nrole:master\r\n"
        );
        Server::read(&text).unwrap()
    }

    #[test]
    fn a_marker_vouches_until_a_key_is_evicted() {
        let server = info("abc", 3);
        let marker = |text| server.completeness(text);
        assert_eq!(marker(Some("abc 3 950000")), Completeness::Complete);
        assert_eq!(marker(Some("abc 2 950000")), Completeness::Lost);
        assert_eq!(marker(Some("abc 4 950000")), Completeness::Lost);
        assert_eq!(marker(Some("anything")), Completeness::Lost);
        assert_eq!(marker(None), Completeness::Lost);
    }

    #[test]
    fn another_server_s_marker_counts_where_it_arrived_by_replication_only() {
        let (fresh, evicting) = (info("abc", 0), info("abc", 1));
        // It ran already when the holds were complete, so it has followed since.
        let promoted = Some("other 7 901000");
        assert_eq!(fresh.completeness(promoted), Completeness::Promoted);
        assert_eq!(evicting.completeness(promoted), Completeness::Lost);
        // It started after that: it has read a file.
        let restarted = Some("other 0 900999");
        assert_eq!(fresh.completeness(restarted), Completeness::Lost);
    }

    #[test]
    fn a_bound_with_eviction_is_named() {
        let wrong = |bound, policy| {
            eviction(&format!(
                "maxmemory:{bound}\r\nmaxmemory_policy:{policy}\r\n"
            ))
            .unwrap()
        };
        assert_eq!(wrong(0, "volatile-lru"), None);
        assert_eq!(wrong(1_000, "noeviction"), None);
        assert!(
            wrong(1_000, "volatile-ttl")
                .unwrap()
                .contains("volatile-ttl")
        );
        assert!(wrong(1_000, "allkeys-lfu").is_some());
    }
}
