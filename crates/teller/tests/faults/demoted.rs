//! Stores that answer and take no writes: a read-only Postgres, fail-overs that old connections sleep through, a Redis that
//! throws holds away.

use std::time::{Duration, Instant};

use serde_json::Value;
use teller_domain::Payment;

use crate::rig::{Rig, Wish};
use crate::support::services::{Postgres, Redis, Switch};
use crate::support::{Chain, Setup, Teller, body};

/// How long teller may take to notice what has changed, on a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

/// One process that takes requests and one that settles. Lost holds would keep verify closed for the whole test.
async fn cluster(ledger: String, reservations: String) -> Rig {
    Rig::start(Wish {
        stores: Some((ledger, reservations)),
        holds: "recovery_seconds = 3600".to_owned(),
        ..Wish::cluster()
    })
    .await
}

async fn ask(rig: &Rig, endpoint: &str, payment: &Payment) -> (u16, Value) {
    let url = format!("{}/{endpoint}", rig.fleet.urls()[0]);
    let request = body(&rig.chain, payment).to_string().into();
    let answer = rig.http.post(&url, request, Duration::from_secs(60)).await;
    answer.unwrap()
}

async fn dependencies(rig: &Rig) -> Value {
    let url = format!("{}/readyz", rig.fleet.urls()[0]);
    let text = rig.http.text(&url, Duration::from_secs(10)).await;
    let body: Value = serde_json::from_str(&text.unwrap()).unwrap();
    body["dependencies"].clone()
}

async fn until_ready(rig: &Rig, dependency: &str, is_ready: bool) {
    let expected = if is_ready { "ok" } else { "unavailable" };
    let start = Instant::now();
    loop {
        let found = dependencies(rig).await;
        if found[dependency] == expected {
            return;
        }
        let logs = || rig.fleet.logs();
        assert!(start.elapsed() < NOTICED_WITHIN, "{found}\n{}", logs());
        tokio::time::sleep(PAUSE).await;
    }
}

async fn until_valid(rig: &Rig, payment: &Payment) {
    let start = Instant::now();
    loop {
        let (_, answer) = ask(rig, "verify", payment).await;
        if answer["isValid"] == true {
            return;
        }
        let logs = || rig.fleet.logs();
        assert!(start.elapsed() < NOTICED_WITHIN, "{answer}\n{}", logs());
        tokio::time::sleep(PAUSE).await;
    }
}

async fn settled(rig: &mut Rig, count: u64) {
    rig.sell(count);
    rig.all_told().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_postgres_accepts_nothing_and_says_so() {
    let (postgres, redis) = (Postgres::start().await, Redis::start().await);
    let mut rig = cluster(postgres.url(), redis.url()).await;
    settled(&mut rig, 4).await;
    postgres.read_only(true).await;
    until_ready(&rig, "ledger", false).await;
    let refused = rig.payment();
    for _ in 0..3 {
        let (status, answer) = ask(&rig, "settle", &refused).await;
        let reason = &answer["errorReason"];
        assert_eq!(
            (status, reason),
            (503, &"unexpected_settle_error".into()),
            "{answer}"
        );
    }
    let (one, other) = tokio::join!(ask(&rig, "settle", &refused), ask(&rig, "settle", &refused));
    assert_eq!((one.0, other.0), (503, 503), "{one:?} {other:?}");
    assert_eq!(rig.row(&refused).await, Value::Null);
    postgres.read_only(false).await;
    until_ready(&rig, "ledger", true).await;
    rig.sell_this(&refused);
    assert_eq!(rig.compare().await.transfers, 4 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fail_over_of_postgres_is_followed_while_old_connections_stay() {
    let (old, redis) = (Postgres::start().await, Redis::start().await);
    let name = Switch::to(old.port()).await;
    let mut rig = cluster(old.url_at(name.port), redis.url()).await;
    settled(&mut rig, 4).await;
    let new = old.standby().await;
    settled(&mut rig, 4).await;
    old.read_only(true).await;
    new.promote(&old).await;
    name.turn_to(new.port());
    rig.sell(4);
    until_ready(&rig, "ledger", true).await;
    assert_eq!(rig.compare().await.transfers, 4 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fail_over_of_redis_is_followed_while_the_connection_stays() {
    let (postgres, old, new) = (
        Postgres::start().await,
        Redis::start().await,
        Redis::start().await,
    );
    new.tell(&["replicaof", "127.0.0.1", &old.port().to_string()]);
    let name = Switch::to(old.port()).await;
    let url = format!("redis://127.0.0.1:{}", name.port);
    // The replica was there before holds were complete.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut rig = cluster(postgres.url(), url).await;
    let held = rig.payment();
    until_valid(&rig, &held).await;
    let start = Instant::now();
    while !new
        .tell(&["info", "replication"])
        .contains("master_link_status:up")
        || new.tell(&["dbsize"]) != old.tell(&["dbsize"])
    {
        assert!(start.elapsed() < NOTICED_WITHIN, "the replica stays behind");
        tokio::time::sleep(PAUSE).await;
    }
    new.tell(&["replicaof", "no", "one"]);
    name.turn_to(new.port());
    old.tell(&["replicaof", "127.0.0.1", &new.port().to_string()]);
    let other = rig.payment();
    until_valid(&rig, &other).await;
    until_ready(&rig, "reservations", true).await;
    let (_, again) = ask(&rig, "verify", &held).await;
    assert_eq!(
        again["invalidReason"], "authorization_already_reserved",
        "{again}"
    );
    rig.sell_this(&held);
    rig.sell_this(&other);
    assert_eq!(rig.compare().await.transfers, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn evicted_holds_are_not_granted_again() {
    let (postgres, redis) = (Postgres::start().await, Redis::start().await);
    let mut rig = cluster(postgres.url(), redis.url()).await;
    let held = rig.payment();
    until_valid(&rig, &held).await;
    redis.tell(&["config", "set", "maxmemory-policy", "volatile-ttl"]);
    // What is written next makes room: every key with an end goes. The marker of the holds has none.
    redis.tell(&["config", "set", "maxmemory", "1kb"]);
    let (_, again) = ask(&rig, "verify", &held).await;
    assert_ne!(again["isValid"], true, "granted twice: {again}");
    redis.tell(&["config", "set", "maxmemory", "0"]);
    let (_, again) = ask(&rig, "verify", &held).await;
    assert_ne!(again["isValid"], true, "granted twice: {again}");
    until_ready(&rig, "reservations", false).await;
    rig.sell_this(&held);
    assert_eq!(rig.compare().await.transfers, 1);
}

#[tokio::test]
async fn a_redis_that_may_evict_is_refused_by_its_name() {
    let redis = Redis::start().await;
    let url = redis.url().parse().unwrap();
    teller_store::check_reservations(&url).await.unwrap();
    redis.tell(&["config", "set", "maxmemory", "100mb"]);
    teller_store::check_reservations(&url).await.unwrap();
    for policy in ["volatile-lru", "volatile-ttl", "allkeys-random"] {
        redis.tell(&["config", "set", "maxmemory-policy", policy]);
        let refused = teller_store::check_reservations(&url).await.unwrap_err();
        assert!(refused.to_string().contains(policy), "{refused}");
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_from_an_older_file_has_lost_its_holds() {
    let mut redis = Redis::start().await;
    let reservations = teller_store::RedisReservations::connect(&redis.url(), "t")
        .await
        .unwrap();
    use teller_store::Reservations;
    reservations.recovered().await.unwrap();
    reservations.ping().await.unwrap();
    redis.tell(&["save"]);
    redis.kill();
    redis.restart_as_saved().await;
    assert!(redis.tell(&["exists", "t:generation"]).contains('1'));
    let start = Instant::now();
    loop {
        match reservations.ping().await {
            Err(teller_store::StoreError::Recovering) => return,
            // The first call finds the connection broken.
            Err(_) if start.elapsed() < NOTICED_WITHIN => tokio::time::sleep(PAUSE).await,
            other => panic!("{other:?}"),
        }
    }
}

/// A file system of a few pages, if this machine lets us make one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(place.path())
            .output()
            .unwrap();
        mounted.status.success().then_some(Self(place))
    }

    fn fill(&self) {
        // Until there is no room for another byte.
        let mut file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_accepts_nothing_and_says_so() {
    let Some(disk) = SmallDisk::mount() else {
        println!("not run: this user may not mount a file system");
        return;
    };
    let chain = Chain::start(Duration::from_secs(1)).await;
    let setup = Setup {
        ledger: format!("sqlite://{}/teller.db", disk.0.path().display()),
        ..Setup::embedded(&chain)
    };
    let teller = Teller::start(&chain, setup).await;
    let payee = crate::rig::PAYEE;
    let payment = |number| body(&chain, &chain.payer(0).pay(&chain, payee, 10, number));
    let (status, answer) = teller.post("/settle", &payment(1)).await;
    assert_eq!(
        (status, &answer["success"]),
        (200, &true.into()),
        "{answer}"
    );
    disk.fill();
    let ready = async |expected| {
        let start = Instant::now();
        while teller.get("/readyz").await.0 != expected {
            assert!(start.elapsed() < NOTICED_WITHIN, "never {expected}");
            tokio::time::sleep(PAUSE).await;
        }
    };
    ready(503).await;
    for number in 2..5 {
        let (status, answer) = teller.post("/settle", &payment(number)).await;
        let reason = &answer["errorReason"];
        assert_eq!(
            (status, reason),
            (503, &"unexpected_settle_error".into()),
            "{answer}"
        );
    }
    assert_eq!(teller.settlements().await.len(), 1);
    disk.free();
    ready(200).await;
    let (status, answer) = teller.post("/settle", &payment(2)).await;
    assert_eq!(
        (status, &answer["success"]),
        (200, &true.into()),
        "{answer}"
    );
}
