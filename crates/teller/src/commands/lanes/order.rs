//! `teller lanes thaw|drain|rescue`: an order in the ledger, guarded by the mode that was seen, and its carrying out.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use alloy_primitives::Address;
use teller_domain::{ChainId, LaneMode};
use teller_store::{LaneView, Ledger};
use tokio::time::{Instant, sleep};

use super::super::{Failure, read_config};
use super::{Account, ChainSide, heading, lines, read, silent};
use crate::cli::LaneOrderArgs;
use crate::wiring;

/// It was ordered, and nobody has carried it out in time.
const NOT_CARRIED_OUT: u8 = 2;
/// How often the ledger is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A lane without an owner is waited for this long: another process may take it over.
const WITHOUT_OWNER: Duration = Duration::from_secs(15);

/// What an operator orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Take batches again.
    Thaw,
    /// Take no more batches.
    Drain,
    /// Give up what is on its way.
    Rescue,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Self::Thaw => "thaw",
            Self::Drain => "drain",
            Self::Rescue => "rescue",
        }
    }

    /// The mode that the order asks for, if the lane's mode allows it.
    fn mode(self, now: LaneMode) -> Option<LaneMode> {
        match (self, now) {
            (Self::Thaw, LaneMode::Frozen) => Some(LaneMode::Thawing),
            (Self::Thaw, LaneMode::Draining) => Some(LaneMode::Active),
            (Self::Drain, LaneMode::Active) => Some(LaneMode::Draining),
            (Self::Rescue, LaneMode::Active | LaneMode::Draining) => Some(LaneMode::Rescuing),
            (Self::Thaw, LaneMode::Active | LaneMode::Thawing | LaneMode::Rescuing)
            | (
                Self::Drain,
                LaneMode::Draining | LaneMode::Frozen | LaneMode::Thawing | LaneMode::Rescuing,
            )
            | (Self::Rescue, LaneMode::Frozen | LaneMode::Thawing | LaneMode::Rescuing) => None,
        }
    }

    fn refusal(self) -> &'static str {
        match self {
            Self::Thaw => "only a frozen or draining lane can be thawed",
            Self::Drain => "only an active lane can be drained",
            Self::Rescue => {
                "only an active or draining lane can be rescued; a frozen one must be thawed first"
            }
        }
    }
}

/// What carrying it out will do, for who must confirm it.
fn consequence(mode: LaneMode, open_slots: usize) -> String {
    match mode {
        LaneMode::Thawing => format!(
            "look up the {open_slots} open slots once more, close those that somebody else's transaction took, and take \
             batches again. Whoever used the key may use it again: make sure that nobody does."
        ),
        LaneMode::Active => "take batches again".to_owned(),
        LaneMode::Draining => format!(
            "take no more batches; the {open_slots} open slots come to their end. Payments wait for other lanes, and if \
             there are none, until they expire."
        ),
        LaneMode::Rescuing => format!(
            "outbid the {open_slots} open slots with no-ops until one transaction of each is mined, at any price. Payments \
             whose batch is given up are sent again."
        ),
        LaneMode::Frozen => "sign nothing more".to_owned(),
    }
}

/// Orders, after a confirmation, and waits.
pub async fn run(order: Order, args: &LaneOrderArgs) -> Result<ExitCode, Failure> {
    let config = read_config(&args.config)?;
    let ledger = wiring::open_ledger_for_orders(&config.ledger.url).await?;
    let lane = find(ledger.as_ref(), args.signer, args.network).await?;
    let (chain, signer) = (lane.fence.chain, lane.fence.signer);
    let account = match ChainSide::new(&config) {
        Ok(mut nodes) => nodes.account(chain, signer).await,
        Err(_) => Account::default(),
    };
    let now = ledger.now().await.map_err(silent)?;
    println!("{}", heading());
    lines(&lane, now, account)
        .iter()
        .for_each(|line| println!("{line}"));
    let Some(mode) = order.mode(lane.mode) else {
        return Err(Failure::text(format!(
            "the lane is {}: {}",
            lane.mode.as_str(),
            order.refusal()
        )));
    };
    println!(
        "{} {signer} on {chain}: {} -> {}. It will {}",
        order.word(),
        lane.mode.as_str(),
        mode.as_str(),
        consequence(mode, lane.open_slots.len())
    );
    if !args.yes {
        confirm()?;
    }
    let ordered = ledger
        .order_lane_mode(chain, signer, lane.mode, mode)
        .await
        .map_err(silent)?;
    if !ordered {
        return Err(Failure::text(
            "the lane's mode has changed meanwhile; nothing was ordered",
        ));
    }
    println!("ordered");
    // Read again: a lease that was renewed before the order says nothing about it.
    let ordered = find(ledger.as_ref(), signer, Some(chain)).await?;
    wait(
        ledger.as_ref(),
        &ordered,
        mode,
        Duration::from_secs(args.wait_seconds),
    )
    .await
}

async fn find(
    ledger: &dyn Ledger,
    signer: Address,
    network: Option<ChainId>,
) -> Result<LaneView, Failure> {
    let mut lanes = read(ledger).await?;
    lanes.retain(|lane| {
        lane.fence.signer == signer && network.is_none_or(|only| only == lane.fence.chain)
    });
    if lanes.len() > 1 {
        return Err(Failure::text(format!(
            "{signer} has lanes on {} networks: name one with --network",
            lanes.len()
        )));
    }
    lanes
        .pop()
        .ok_or_else(|| Failure::text(format!("the ledger has no lane of {signer}")))
}

fn confirm() -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::text(
            "there is no terminal to confirm on; --yes confirms, nothing was ordered",
        ));
    }
    print!("Type yes to order it: ");
    let mut answer = String::new();
    std::io::stdout()
        .flush()
        .and_then(|()| stdin.lock().read_line(&mut answer))
        .map_err(|error| Failure::new("the confirmation cannot be read", error))?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::text("not confirmed; nothing was ordered")),
    }
}

/// How far the owner is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    Underway,
    /// The lane went another way.
    Instead(LaneMode),
}

/// `before` is the lane as it was right after the order was given. An owner that has renewed its lease since knows of the order.
fn progress(before: &LaneView, ordered: LaneMode, now: &LaneView) -> Progress {
    let renewed = now.fence.epoch != before.fence.epoch || now.lease_until > before.lease_until;
    match (ordered, now.mode) {
        (LaneMode::Active, LaneMode::Active) if renewed => Progress::Done,
        (LaneMode::Draining, LaneMode::Draining) if renewed && now.open_slots.is_empty() => {
            Progress::Done
        }
        (LaneMode::Thawing | LaneMode::Rescuing, LaneMode::Active) => Progress::Done,
        (ordered, mode) if ordered == mode => Progress::Underway,
        (_, mode) => Progress::Instead(mode),
    }
}

async fn wait(
    ledger: &dyn Ledger,
    before: &LaneView,
    ordered: LaneMode,
    within: Duration,
) -> Result<ExitCode, Failure> {
    let deadline = Instant::now() + within;
    let mut owned_at = Instant::now();
    loop {
        let now = find(ledger, before.fence.signer, Some(before.fence.chain)).await?;
        match progress(before, ordered, &now) {
            Progress::Done => {
                println!(
                    "carried out: the lane is {}, {} open slots",
                    now.mode.as_str(),
                    now.open_slots.len()
                );
                return Ok(ExitCode::SUCCESS);
            }
            Progress::Instead(mode) => {
                println!("not carried out: the lane is {} now", mode.as_str());
                return Ok(ExitCode::from(NOT_CARRIED_OUT));
            }
            Progress::Underway => {}
        }
        let owned = now.owner.is_some() && !now.lease_expired;
        if owned {
            owned_at = Instant::now();
        }
        let orphaned = owned_at.elapsed() >= WITHOUT_OWNER;
        if orphaned || Instant::now() >= deadline {
            println!(
                "not carried out yet: {}. The order stays in the ledger; `teller lanes` shows when it is done",
                match owned {
                    true => format!("its owner still has {} open slots", now.open_slots.len()),
                    false => "no process owns the lane, the next one that takes it will".to_owned(),
                }
            );
            return Ok(ExitCode::from(NOT_CARRIED_OUT));
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use teller_domain::{FencedLane, ProcessId, UnixMillis};

    fn lane(mode: LaneMode, lease_until: u64) -> LaneView {
        LaneView {
            fence: FencedLane {
                chain: ChainId(1),
                signer: Address::ZERO,
                epoch: 1,
            },
            owner: Some(ProcessId::fresh()),
            lease_until: UnixMillis(lease_until),
            lease_expired: false,
            next_nonce: None,
            mode,
            open_slots: Vec::new(),
        }
    }

    #[test]
    fn only_orders_that_fit_the_mode_are_given() {
        let allowed = |order: Order| {
            LaneMode::ALL
                .into_iter()
                .filter_map(|mode| Some((mode, order.mode(mode)?)))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            allowed(Order::Thaw),
            [
                (LaneMode::Draining, LaneMode::Active),
                (LaneMode::Frozen, LaneMode::Thawing)
            ]
        );
        assert_eq!(
            allowed(Order::Drain),
            [(LaneMode::Active, LaneMode::Draining)]
        );
        assert_eq!(
            allowed(Order::Rescue),
            [
                (LaneMode::Active, LaneMode::Rescuing),
                (LaneMode::Draining, LaneMode::Rescuing)
            ]
        );
    }

    #[test]
    fn a_drain_is_carried_out_once_its_owner_has_read_it() {
        let before = lane(LaneMode::Active, 10);
        let order = LaneMode::Draining;
        let unread = lane(LaneMode::Draining, 10);
        assert_eq!(progress(&before, order, &unread), Progress::Underway);
        let read = lane(LaneMode::Draining, 11);
        assert_eq!(progress(&before, order, &read), Progress::Done);
    }

    #[test]
    fn a_thaw_ends_active_or_frozen_again() {
        let before = lane(LaneMode::Frozen, 10);
        let order = LaneMode::Thawing;
        let after = |mode| progress(&before, order, &lane(mode, 11));
        assert_eq!(after(LaneMode::Thawing), Progress::Underway);
        assert_eq!(after(LaneMode::Active), Progress::Done);
        assert_eq!(after(LaneMode::Frozen), Progress::Instead(LaneMode::Frozen));
    }
}
