//! Settlers that die, sleep and leave: another one goes on.

use std::time::{Duration, Instant};

use crate::rig::{Rig, Wish};

/// Far more than any lease: what takes longer does not happen at all.
const TAKEN_WITHIN: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    Killed,
    Stopped,
    Terminated,
}

async fn lanes(rig: &mut Rig, settler: usize) -> f64 {
    rig.metric(settler, "teller_lane_usable", "").await
}

/// The settler with the most lanes goes away under load; answers it and how long until the other has all lanes.
async fn take_over(departure: Departure) {
    let mut rig = Rig::start(Wish {
        signers: 2,
        ..Wish::cluster()
    })
    .await;
    rig.sell(10);
    rig.all_told().await;
    let (first, second) = (lanes(&mut rig, 1).await, lanes(&mut rig, 2).await);
    println!("{departure:?}: lanes before: {first} and {second}");
    assert_eq!(first + second, 2.0, "{}", rig.fleet.logs());
    let (victim, survivor) = if first >= second { (1, 2) } else { (2, 1) };
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
        let epochs = rig.epochs().await;
        rig.fleet.signal(victim, "CONT").await.unwrap();
        rig.sell(10);
        rig.all_told().await;
        // Whoever slept through its lease notices, and takes nothing back from an owner that lives.
        assert_eq!(rig.epochs().await, epochs);
        assert_eq!(lanes(&mut rig, victim).await, 0.0);
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
