//! Stores that go away in the middle: Postgres stopped, crashed and killed mid-commit, Redis flushed and gone.

use std::time::Duration;

use serde_json::Value;
use teller_domain::Payment;

use crate::rig::{Rig, Wish};
use crate::support::body;
use crate::support::services::{Postgres, Redis};

/// How long a store stays away.
const AWAY: Duration = Duration::from_secs(4);
/// Between waves of a load.
const WAVE: Duration = Duration::from_millis(400);

async fn cluster(postgres: &Postgres, redis: &Redis) -> Rig {
    Rig::start(Wish {
        stores: Some((postgres.url(), redis.url())),
        holds: "recovery_seconds = 6".to_owned(),
        ..Wish::cluster()
    })
    .await
}

async fn waves(rig: &mut Rig, count: u32) {
    for _ in 0..count {
        rig.sell(4);
        tokio::time::sleep(WAVE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_stops_crashes_or_dies_in_a_commit_loses_no_payment() {
    let (mut postgres, redis) = (Postgres::start().await, Redis::start().await);
    let mut rig = cluster(&postgres, &redis).await;
    waves(&mut rig, 3).await;
    postgres.stop();
    waves(&mut rig, 3).await;
    tokio::time::sleep(AWAY).await;
    postgres.restart().await;
    waves(&mut rig, 5).await;
    postgres.crash();
    waves(&mut rig, 3).await;
    postgres.restart().await;
    for _ in 0..3 {
        let load = async {
            waves(&mut rig, 4).await;
        };
        let (committing, ()) = tokio::join!(postgres.kill_a_committing_backend(), load);
        println!("killed a server process in a commit: {committing}");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let compared = rig.compare().await;
    assert_eq!(compared.transfers, 4 * (3 + 3 + 5 + 3 + 3 * 4));
}

async fn verify(rig: &Rig, payment: &Payment) -> (u16, Value) {
    let url = format!("{}/verify", rig.fleet.urls()[0]);
    let request = body(&rig.chain, payment).to_string().into();
    let answer = rig.http.post(&url, request, Duration::from_secs(30)).await;
    answer.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_flushed_or_gone_grants_nothing_twice_and_settling_goes_on() {
    let (postgres, mut redis) = (Postgres::start().await, Redis::start().await);
    let mut rig = cluster(&postgres, &redis).await;
    // A new cluster's Redis is empty, too, and verify stays closed as long.
    let held = rig.payment();
    let start = std::time::Instant::now();
    let granted = loop {
        let (status, answer) = verify(&rig, &held).await;
        if status != 503 || start.elapsed() > Duration::from_secs(30) {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    assert_eq!(granted["isValid"], true, "{granted}");
    waves(&mut rig, 3).await;
    redis.flush();
    let (_, again) = verify(&rig, &held).await;
    assert_ne!(again["isValid"], true, "granted twice: {again}");
    waves(&mut rig, 3).await;
    rig.all_told().await;
    redis.kill();
    let (_, again) = verify(&rig, &held).await;
    assert_ne!(again["isValid"], true, "granted twice: {again}");
    waves(&mut rig, 3).await;
    tokio::time::sleep(AWAY).await;
    redis.restart().await;
    let (_, again) = verify(&rig, &held).await;
    assert_ne!(again["isValid"], true, "granted twice: {again}");
    waves(&mut rig, 3).await;
    rig.sell_this(&held);
    assert_eq!(rig.compare().await.transfers, 4 * 12 + 1);
}
