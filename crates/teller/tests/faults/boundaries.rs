//! The process ends at each boundary of writing and sending, is started again, and goes on.

use std::time::Duration;

use serde_json::{Value, json};
use teller_domain::Payment;

use crate::rig::{Rig, Wish};
use crate::support::now;
use crate::support::proxy::{Fault, Next, Rule, SEND};

const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Long enough for a swallowed batch to be committed, and for the next ones behind it.
pub const COMMITTED: Duration = Duration::from_millis(700);
/// Longer than it takes the chain to mine a block.
const BLOCK: Duration = Duration::from_millis(1_500);
/// How many slots the lane may have open.
const DEPTH: u64 = 4;
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
    /// Blocks become safe, then final.
    Finalized,
    /// A payer cancels what is on its way.
    Cancelled,
    /// No slot of the lane ends, and payments expire unsigned behind them.
    Expiring,
    /// The signer has no gas, and sellers stop waiting before anything is signed.
    Withdrawn,
    /// The process starts, and payments of its predecessor are under way.
    Starting,
    /// Somebody else uses the signer's key.
    Misused,
    /// Somebody else settles a payment, in a block that is then taken back.
    TakenBack,
}

fn road(call: &str) -> Road {
    match call {
        "add_attempt" => Road::Replaced,
        "reopen_slots" => Road::Reorganised,
        "raise_levels" => Road::Finalized,
        "tell_failure" | "resolve_unexplained" => Road::Cancelled,
        "resolve_accepted" => Road::Expiring,
        "withdraw" => Road::Withdrawn,
        "claim_lane" => Road::Starting,
        "set_lane_mode" => Road::Misused,
        "take_back_external" => Road::TakenBack,
        _ => Road::Usual,
    }
}

/// Ends the process before or after the n-th call of a kind, and goes on.
async fn crash_at(rig: &mut Rig, side: &str, call: &str, nth: u32) -> u64 {
    let point = format!("{side}_{call}:{nth}");
    let armed = (VARIABLE.to_owned(), point.clone());
    let starting = road(call) == Road::Starting;
    let under_way = match starting {
        true => travel(rig, Road::Usual).await,
        false => 0,
    };
    rig.fleet.kill(0).await.unwrap();
    rig.fleet.member(0).unwrap().environment = vec![armed];
    let settled = if starting {
        rig.fleet.spawn(0).unwrap();
        under_way
    } else {
        rig.fleet.start_member(0).await.unwrap();
        travel(rig, road(call)).await
    };
    let ended = rig.fleet.wait_for_end(0, ENDS_WITHIN).await;
    rig.proxy.clear();
    let ended = ended.unwrap_or_else(|error| panic!("{point}: {error}\n{}", rig.fleet.logs()));
    assert!(!ended.success(), "{point}: {ended}");
    rig.fleet.member(0).unwrap().environment.clear();
    rig.fleet.start_member(0).await.unwrap();
    rig.fund_signers().await;
    if road(call) == Road::Misused {
        thaw(rig).await;
    }
    rig.all_told().await;
    println!("{point}: went on");
    settled
}

/// The lane is frozen, or about to be, until an operator has looked at it.
async fn thaw(rig: &mut Rig) {
    rig.until_metric(0, "teller_lane_frozen", "", 1.0).await;
    let signer = rig.signers()[0].to_string();
    let thaw = ["lanes", "thaw", &signer, "--yes"];
    rig.fleet.demand(&thaw).await.unwrap();
}

/// A payer is without money when our transaction is mined, has some again, and a stranger submits the payment before
/// teller can ask what became of it; the stranger's block alone is taken back.
async fn settled_by_a_stranger_and_taken_back(rig: &mut Rig) -> u64 {
    rig.proxy.set(Next::Swallow);
    let payments = rig.sell(3);
    rig.proxy.caught().await;
    tokio::time::sleep(COMMITTED).await;
    let poor = &payments[2];
    let payer = poor.key.payer;
    let rest = rig.chain.balance(payer).await;
    rig.chain.empty(payer).await;
    tokio::time::sleep(BLOCK).await;
    rig.proxy.clear();
    let busy = Fault::Error(-32_000, "busy");
    let inquiries = ["eth_call", "eth_getLogs"];
    rig.proxy.inject(Rule::new(&inquiries, busy));
    rig.until_mined(&payments[..2]).await;
    tokio::time::sleep(BLOCK).await;

    let url = rig.chain.devnet.rpc_url();
    teller_devnet::fund(url, &[payer], rest).await.unwrap();
    let before = rig.height().await;
    rig.chain.submit(poor).await;
    rig.until_mined(&payments[2..]).await;
    // Until teller's head is behind the stranger's block.
    tokio::time::sleep(BLOCK).await;
    rig.proxy.clear();
    let external = |row: &Value| row["state"] == "settled_externally";
    rig.until_row(poor, ENDS_WITHIN, external).await;
    let depth = rig.height().await - before;
    rig.rpc("anvil_reorg", json!([depth, []])).await;
    3
}

/// Payments on a road; answers how many of them will settle.
async fn travel(rig: &mut Rig, road: Road) -> u64 {
    match road {
        Road::Usual | Road::Reorganised | Road::Finalized | Road::Starting => {}
        Road::Replaced => rig.proxy.inject(Rule::new(&[SEND], Fault::Forget).times(4)),
        Road::Cancelled => {
            rig.proxy.set(Next::Swallow);
            let payments = rig.sell(6);
            rig.proxy.caught().await;
            tokio::time::sleep(COMMITTED).await;
            let Payment { key, .. } = &payments[2];
            let buyer = rig.buyer(key.payer);
            rig.chain.cancel(&buyer, key.nonce.0).await;
            tokio::time::sleep(BLOCK).await;
            rig.proxy.set(Next::Pass);
            return 5;
        }
        Road::TakenBack => return settled_by_a_stranger_and_taken_back(rig).await,
        Road::Misused => {
            rig.proxy.inject(Rule::new(&[SEND], Fault::Forget));
            rig.sell(3);
            rig.proxy.caught().await;
            rig.misuse_a_key().await;
            return 3;
        }
        Road::Withdrawn => {
            let signer = rig.signers()[0];
            rig.rpc("anvil_setBalance", json!([signer, "0x0"])).await;
            // The first one finds out; the other waits for the lane until its seller's time is up.
            for _ in 0..2 {
                rig.sell(1);
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            return 0;
        }
        Road::Expiring => {
            rig.proxy.set(Next::Swallow);
            // As many slots as the lane may have open, each with a payment of its own.
            for _ in 0..DEPTH {
                rig.sell(1);
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            // These wait for a slot until they are void.
            for _ in 0..2 {
                let payment = rig.payment_until(now() + 13);
                rig.sell_this(&payment);
            }
            return DEPTH;
        }
    }
    if road == Road::Reorganised {
        // Away from the blocks that gave the payers their money.
        rig.rpc("anvil_mine", json!(["0x4"])).await;
    }
    // In two waves, so that a second slot is opened while the first one is under way.
    let first = rig.sell(3);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let second = rig.sell(3);
    if road == Road::Reorganised {
        let sold: Vec<Payment> = first.into_iter().chain(second).collect();
        // What an earlier round left may end the process before they are settled.
        rig.settled_or_dead(&sold, ENDS_WITHIN).await;
        rig.rpc("anvil_reorg", json!([3, []])).await;
    }
    if road == Road::Finalized {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        for _ in 0..2 {
            rig.rpc("anvil_mine", json!(["0x28"])).await;
            tokio::time::sleep(Duration::from_millis(1_500)).await;
        }
    }
    6
}

async fn crash_at_each(calls: &[&str]) {
    let mut rig = Rig::start(Wish {
        payers: 60,
        ..Wish::default()
    })
    .await;
    let mut payments = 0;
    for call in calls {
        // What a road passes only once cannot be died at the second time.
        let times = if road(call) == Road::Usual { 2 } else { 1 };
        for nth in 1..=times {
            payments += crash_at(&mut rig, "before", call, nth).await;
            payments += crash_at(&mut rig, "after", call, nth).await;
        }
    }
    // Blocks that were reorganised away are settled again before the end.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let transfers = rig.compare().await.transfers;
    match calls {
        // Whether one of them made it into a slot in time is the clock's decision; the comparison has looked at each.
        ["resolve_accepted" | "withdraw"] => {}
        _ => assert_eq!(transfers, payments),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_accepting_goes_on() {
    crash_at_each(&["reserve", "accept"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_opening_a_slot_goes_on() {
    crash_at_each(&["open_slot", "send"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_replacing_goes_on() {
    crash_at_each(&["add_attempt"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_closing_a_slot_goes_on() {
    crash_at_each(&["close_slot", "mark_holds"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_a_reorg_reopens_slots_goes_on() {
    crash_at_each(&["reopen_slots"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_telling_goes_on() {
    crash_at_each(&["claim_delivery", "confirm_delivery", "tell_failure"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_it_writes_what_became_of_a_payment_goes_on() {
    crash_at_each(&["resolve_unexplained"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_payments_expire_goes_on() {
    crash_at_each(&["resolve_accepted"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_payments_are_withdrawn_goes_on() {
    crash_at_each(&["withdraw"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_taking_its_lanes_goes_on() {
    crash_at_each(&["claim_lane"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_levels_rise_goes_on() {
    crash_at_each(&["raise_levels"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_freezing_a_lane_goes_on() {
    crash_at_each(&["set_lane_mode"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_a_reorg_takes_back_what_a_stranger_settled_goes_on() {
    crash_at_each(&["take_back_external"]).await;
}
