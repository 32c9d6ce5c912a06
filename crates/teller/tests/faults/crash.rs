//! The short form of `make crash`.

use std::time::Duration;

use teller_loadtest::crash::Crash;

use crate::support::shared_stores;

fn crash(stores: Option<(String, String)>) -> Crash {
    Crash {
        binary: env!("CARGO_BIN_EXE_teller").into(),
        rounds: 8,
        payments: 10,
        seed: 7,
        stores,
        patience: Duration::from_secs(150),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_kills_of_an_embedded_teller_lose_nothing_and_pay_nothing_twice() {
    let rounds = crash(None).run().await.unwrap();
    println!("{rounds}");
    let compared = rounds
        .compared
        .demand()
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(compared.transfers, 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_kills_in_a_cluster_lose_nothing_and_pay_nothing_twice() {
    let rounds = crash(Some(shared_stores().await)).run().await.unwrap();
    println!("{rounds}");
    let compared = rounds
        .compared
        .demand()
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(compared.transfers, 80);
}
