//! Tells how the followed heads are: whether they rise, and how far their time is from the wall clock's. Neither is said by
//! an error of a node, because a node that stands still or is far behind answers as well as any.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::gauge;
use teller_chain::HeadHandle;
use teller_domain::UnixSeconds;

/// How often heads are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// A head whose time is further from the wall clock's than this is worth a word; as in the alert TellerHeadOld.
const WORTH_A_WORD_SECONDS: u64 = 60;

struct Watched {
    network: String,
    heads: HeadHandle,
    is_stalled: bool,
    is_off: bool,
}

/// Measures these heads and logs every change. Never ends.
pub async fn watch_heads(heads: Vec<(String, HeadHandle)>) {
    let mut watched: Vec<Watched> = heads
        .into_iter()
        .map(|(network, heads)| Watched {
            network,
            heads,
            is_stalled: false,
            is_off: false,
        })
        .collect();
    loop {
        let wall_clock = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        for watched in &mut watched {
            watched.look(UnixSeconds(wall_clock.as_secs()));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

impl Watched {
    fn look(&mut self, wall_clock: UnixSeconds) {
        let network = self.network.as_str();
        let is_stalled = self.heads.is_stalled();
        gauge!("teller_head_stalled", "network" => self.network.clone()).set(if is_stalled {
            1.0
        } else {
            0.0
        });
        // Before the first block there is nothing to compare with, and other lines say that there is none.
        let Some(head) = self.heads.latest() else {
            return;
        };
        if std::mem::replace(&mut self.is_stalled, is_stalled) != is_stalled {
            let height = head.block.number;
            match is_stalled {
                true => {
                    tracing::error!(%network, height, "no endpoint shows a new block; nothing is verified or accepted until one does");
                }
                false => tracing::info!(%network, height, "blocks are coming in again"),
            }
        }
        let age = head.age_seconds(wall_clock);
        let is_off = age.unsigned_abs() > WORTH_A_WORD_SECONDS;
        let seconds = i32::try_from(age).unwrap_or(if age < 0 { i32::MIN } else { i32::MAX });
        gauge!("teller_head_age_seconds", "network" => self.network.clone())
            .set(f64::from(seconds));
        if std::mem::replace(&mut self.is_off, is_off) != is_off {
            match is_off {
                true => {
                    tracing::warn!(%network, age_seconds = age, "the newest block's time is far from this machine's clock: the nodes are behind, or the clock is wrong");
                }
                false => {
                    tracing::info!(%network, "the newest block's time is near this machine's clock")
                }
            }
        }
    }
}
