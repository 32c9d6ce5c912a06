//! Settlers that die, sleep and leave: another one goes on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rig::{Rig, Wish};

/// Far more than any lease: what takes longer does not happen at all.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    Killed,
    Stopped,
    Terminated,
}

async fn lanes(rig: &mut Rig, settler: usize) -> f64 {
    rig.metric(settler, "teller_lane_usable", "").await
}

/// Waits until each of these settlers has so many lanes.
pub async fn until_lanes(rig: &mut Rig, wanted: &[(usize, f64)]) {
    let start = Instant::now();
    loop {
        let mut have = Vec::new();
        for (settler, _) in wanted {
            have.push((*settler, lanes(rig, *settler).await));
        }
        if have == wanted {
            return;
        }
        assert!(
            start.elapsed() < TAKEN_WITHIN,
            "{have:?} instead of {wanted:?}\n{}",
            rig.fleet.logs()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What `/readyz` of a settler says.
async fn readiness(rig: &mut Rig, settler: usize) -> Value {
    let metrics = rig.fleet.metrics_url(settler).unwrap();
    let url = metrics.replace("/metrics", "/readyz");
    let (_, said) = rig.http.get(&url, Duration::from_secs(5)).await.unwrap();
    said
}

/// One of two settlers goes away under load; answers it and how long until the other has all lanes.
async fn take_over(departure: Departure) {
    let mut rig = Rig::start(Wish {
        signers: 2,
        ..Wish::cluster()
    })
    .await;
    rig.sell(10);
    rig.all_told().await;
    until_lanes(&mut rig, &[(1, 1.0), (2, 1.0)]).await;
    let (victim, survivor) = (1, 2);
    rig.sell(10);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let gone = Instant::now();
    match departure {
        Departure::Killed => rig.fleet.kill(victim).await.unwrap(),
        Departure::Stopped => rig.fleet.signal(victim, "STOP").await.unwrap(),
        Departure::Terminated => {
            let status = rig.fleet.terminate(victim, TAKEN_WITHIN).await.unwrap();
            assert!(status.success(), "{status}");
        }
    }
    rig.sell(10);
    while lanes(&mut rig, survivor).await < 2.0 {
        assert!(gone.elapsed() < TAKEN_WITHIN, "{}", rig.fleet.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = gone.elapsed().as_secs_f64();
    println!("{departure:?}: all lanes are the other's after {took:.1} s");
    if departure == Departure::Stopped {
        let before = rig.epochs().await;
        rig.fleet.signal(victim, "CONT").await.unwrap();
        rig.sell(10);
        until_lanes(&mut rig, &[(victim, 1.0), (survivor, 1.0)]).await;
        rig.all_told().await;
        // Whoever slept through its lease notices, and takes nothing back from an owner that lives: it is handed its share.
        let after = rig.epochs().await;
        let risen = before.iter().zip(&after).map(|(old, new)| new.2 - old.2);
        let mut risen: Vec<_> = risen.collect();
        risen.sort_unstable();
        assert_eq!(risen, [0, 2], "given up once and taken once: {after:?}");
    }
    let compared = rig.compare().await;
    let stopped = u64::from(departure == Departure::Stopped);
    assert_eq!(compared.transfers, 30 + 10 * stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lanes_of_a_killed_settler_are_taken_over() {
    take_over(Departure::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_settler_is_taken_over_and_writes_nothing_when_it_goes_on() {
    take_over(Departure::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_settler_hands_its_lanes_over() {
    take_over(Departure::Terminated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settlers_that_come_and_go_share_the_lanes_out() {
    let mut rig = Rig::start(Wish {
        signers: 4,
        ..Wish::cluster()
    })
    .await;
    rig.sell(10);
    until_lanes(&mut rig, &[(1, 2.0), (2, 2.0)]).await;
    let ready = json!({"ledger": "ok", "reservations": "ok", "eip155:84532": "ok"});
    for settler in [1, 2] {
        let said = readiness(&mut rig, settler).await;
        assert_eq!(said, json!({"status": "ready", "dependencies": ready}));
    }

    rig.sell(10);
    let status = rig.fleet.terminate(2, TAKEN_WITHIN).await.unwrap();
    assert!(status.success(), "{status}");
    rig.sell(10);
    until_lanes(&mut rig, &[(1, 4.0)]).await;

    rig.sell(10);
    rig.fleet.start_member(2).await.unwrap();
    rig.sell(10);
    until_lanes(&mut rig, &[(1, 2.0), (2, 2.0)]).await;
    rig.all_told().await;
    let shared = rig.epochs().await;
    rig.sell(10);
    rig.all_told().await;
    // Longer than a lease: nothing goes to and fro.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(rig.epochs().await, shared);
    assert_eq!(rig.compare().await.transfers, 60);
}
