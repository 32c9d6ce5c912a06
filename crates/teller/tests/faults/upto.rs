//! `upto` among several settlers: whoever signs it names the one account that settles, so it waits for that account's lane,
//! whichever process accepted it and whichever owns the lane.

use std::time::Duration;

use alloy_primitives::Address;
use serde_json::{Value, json};
use teller_devnet::contracts::PLAIN_TOKEN;
use teller_domain::UPTO_PROXY;
use teller_loadtest::fleet::Role;
use teller_loadtest::rest::Http;
use teller_loadtest::sellers::Answer;
use teller_schemes::permit2::Proxy;
use tokio::task::JoinSet;

use crate::rig::{Rig, Wish};
use crate::settlers::until_lanes;
use crate::support::Buyer;
use crate::support::ways::{approving_buyer, permit, permit_body, receipt, signed, tokens};

const PAYEE: Address = Address::repeat_byte(0x47);
const PERMITTED: u64 = 1_000;
const CHARGED: u64 = 700;
const SETTLERS: [usize; 2] = [2, 3];
/// How long a seller waits for one answer, and how long between two.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(150);

fn two_apis_and_two_settlers() -> Wish {
    let assets = format!(
        "[[networks.assets]]\naddress = \"{PLAIN_TOKEN}\"\nname = \"Plain Token\"\nversion = \"1\""
    );
    let network = Wish::default().network;
    Wish {
        roles: vec![Role::Api, Role::Api, Role::Settler, Role::Settler],
        network: format!("{network}\n{assets}"),
        ..Wish::cluster()
    }
}

/// Asks one process until its answer is final.
async fn settled(http: Http, url: String, body: Value) -> Value {
    loop {
        let (status, body) = http
            .post(
                &format!("{url}/settle"),
                body.to_string().into(),
                ANSWER_WITHIN,
            )
            .await
            .unwrap();
        let answer = Answer {
            status,
            body,
            after: Duration::ZERO,
        };
        if answer.is_final() {
            return answer.body;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Each buyer pays through each API process; all of it is under way when this returns.
fn sell(rig: &Rig, buyers: &[Buyer], facilitator: Address) -> JoinSet<Value> {
    let mut answers = JoinSet::new();
    for url in rig.fleet.urls() {
        for buyer in buyers {
            let permit = permit(PLAIN_TOKEN, PAYEE, PERMITTED, Proxy::Upto { facilitator });
            let signature = signed(buyer, permit.digest());
            let body = permit_body(buyer.address, &permit, &signature, CHARGED);
            answers.spawn(settled(rig.http.clone(), url.clone(), body));
        }
    }
    answers
}

/// Demands that all of it is settled by the one account, and answers how many payments there were.
async fn all_by(rig: &Rig, answers: JoinSet<Value>, facilitator: Address) -> u64 {
    let answers = answers.join_all().await;
    for answer in &answers {
        assert_eq!(answer["success"], true, "{answer}\n{}", rig.fleet.logs());
        assert_eq!(answer["amount"], CHARGED.to_string());
        let transaction = answer["transaction"].as_str().unwrap();
        let mined = receipt(&rig.chain, transaction).await;
        assert_eq!(mined["from"], json!(facilitator), "{mined}");
        assert_eq!(
            (&mined["to"], &mined["status"]),
            (&json!(UPTO_PROXY), &json!("0x1"))
        );
    }
    answers.len() as u64
}

/// Who owns the lane of an account.
async fn owner(rig: &Rig, account: Address) -> String {
    let lanes = rig.epochs().await;
    let lane = lanes
        .into_iter()
        .find(|(signer, _, _)| signer == account.as_slice());
    lane.unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn upto_is_settled_by_the_advertised_account_whoever_owns_its_lane() {
    let mut rig = Rig::start(two_apis_and_two_settlers()).await;
    let facilitator = rig.signers()[0];
    for url in rig.fleet.urls() {
        let supported = rig
            .http
            .get(&format!("{url}/supported"), ANSWER_WITHIN)
            .await;
        let (_, supported) = supported.unwrap();
        let upto = supported["kinds"]
            .as_array()
            .unwrap()
            .iter()
            .find(|kind| kind["scheme"] == "upto");
        let extra = json!({"facilitatorAddress": facilitator.to_string()});
        assert_eq!(upto.unwrap()["extra"], extra);
    }
    let mut buyers = Vec::new();
    for _ in 0..4 {
        buyers.push(approving_buyer(&rig.chain, PLAIN_TOKEN, 100_000).await);
    }
    // Until a block with the last approval is seen.
    tokio::time::sleep(Duration::from_secs(2)).await;
    until_lanes(&mut rig, &SETTLERS.map(|settler| (settler, 1.0))).await;

    // Beside payments that either lane may take.
    rig.sell(10);
    let answers = sell(&rig, &buyers, facilitator);
    let mut payments = all_by(&rig, answers, facilitator).await;
    // Each settler dies once, with payments on their way: one of them had the lane.
    let mut owners = vec![owner(&rig, facilitator).await];
    for (victim, survivor) in [(2, 3), (3, 2)] {
        rig.sell(10);
        let before = sell(&rig, &buyers, facilitator);
        tokio::time::sleep(Duration::from_millis(300)).await;
        rig.fleet.kill(victim).await.unwrap();
        let after = sell(&rig, &buyers, facilitator);
        until_lanes(&mut rig, &[(survivor, 2.0)]).await;
        owners.push(owner(&rig, facilitator).await);
        payments += all_by(&rig, before, facilitator).await;
        payments += all_by(&rig, after, facilitator).await;
        rig.fleet.start_member(victim).await.unwrap();
        until_lanes(&mut rig, &SETTLERS.map(|settler| (settler, 1.0))).await;
    }
    let first = owners[0].clone();
    assert!(
        owners.iter().any(|owner| *owner != first),
        "the lane changed hands: {owners:?}"
    );

    rig.all_told().await;
    let rows = rig.rows().await;
    let (upto, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["scheme"] == "upto");
    assert_eq!((upto.len() as u64, others.len()), (payments, 30));
    assert!(rows.iter().all(|row| row["state"] == "settled"), "{rows:?}");
    let paid = tokens(&rig.chain, PLAIN_TOKEN, PAYEE).await;
    assert_eq!(paid, payments * CHARGED);
    if let Err(error) = rig.fleet.audit().await {
        panic!("{error}\n{}", rig.fleet.logs());
    }
}
