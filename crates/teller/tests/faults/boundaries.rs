//! The process ends at each boundary of writing and sending, is started again, and goes on.

use std::time::Duration;

use serde_json::json;

use crate::rig::{Rig, Wish};
use crate::support::proxy::{Fault, Rule, SEND};

const ENDS_WITHIN: Duration = Duration::from_secs(40);
const VARIABLE: &str = "TELLER_FAIL_POINT";

/// What makes the engine come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    /// Every payment does.
    Usual,
    /// The first transactions are forgotten by the node, so they are replaced.
    Replaced,
    /// Blocks are taken back.
    Reorganised,
}

fn road(point: &str) -> Road {
    match point.split_once('_').unwrap().1 {
        "add_attempt" => Road::Replaced,
        "reopen_slots" => Road::Reorganised,
        _ => Road::Usual,
    }
}

/// Kills at this point, the n-th time it is reached, and goes on.
async fn crash_at(rig: &mut Rig, point: &str, nth: u32) {
    let armed = (VARIABLE.to_owned(), format!("{point}:{nth}"));
    rig.fleet.kill(0).await.unwrap();
    rig.fleet.member(0).unwrap().environment = vec![armed];
    rig.fleet.start_member(0).await.unwrap();
    if road(point) == Road::Replaced {
        rig.proxy.inject(Rule::new(&[SEND], Fault::Forget).times(4));
    }
    // In two waves, so that a second slot is opened while the first one is under way.
    rig.sell(3);
    tokio::time::sleep(Duration::from_millis(600)).await;
    rig.sell(3);
    if road(point) == Road::Reorganised {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        rig.rpc("anvil_reorg", json!([3, []])).await;
    }
    let ended = rig.fleet.wait_for_end(0, ENDS_WITHIN).await;
    rig.proxy.clear();
    let ended =
        ended.unwrap_or_else(|error| panic!("{point}:{nth}: {error}\n{}", rig.fleet.logs()));
    assert!(!ended.success(), "{point}: {ended}");
    rig.fleet.member(0).unwrap().environment.clear();
    rig.fleet.start_member(0).await.unwrap();
    rig.all_told().await;
    println!("{point}:{nth}: went on");
}

async fn crash_at_each(points: &[&str]) {
    let mut rig = Rig::start(Wish {
        payers: 60,
        ..Wish::default()
    })
    .await;
    let mut payments = 0;
    for point in points {
        for nth in [1, 2] {
            crash_at(&mut rig, point, nth).await;
            payments += 6;
        }
    }
    // Blocks that were reorganised away are settled again before the end.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.compare().await.transfers, payments);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_accepting_goes_on() {
    crash_at_each(&[
        "before_reserve",
        "after_reserve",
        "before_accept",
        "after_accept",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_opening_a_slot_goes_on() {
    crash_at_each(&[
        "before_open_slot",
        "after_open_slot",
        "before_send",
        "after_send",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_replacing_goes_on() {
    crash_at_each(&["before_add_attempt", "after_add_attempt"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_closing_a_slot_goes_on() {
    crash_at_each(&[
        "before_close_slot",
        "after_close_slot",
        "before_resolve_holds",
        "after_resolve_holds",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_a_reorg_reopens_slots_goes_on() {
    crash_at_each(&["before_reopen_slots", "after_reopen_slots"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_telling_goes_on() {
    crash_at_each(&[
        "before_claim_delivery",
        "after_claim_delivery",
        "before_confirm_delivery",
        "after_confirm_delivery",
    ])
    .await;
}
