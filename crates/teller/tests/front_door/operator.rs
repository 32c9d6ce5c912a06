//! `teller audit` and `teller lanes`, as an operator types them beside a running teller.

use std::path::Path;
use std::time::Duration;

use alloy_primitives::{Address, hex};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use teller_schemes::eip3009;

use crate::support::{Chain, Setup, Teller, body, free_ports, run, shared_stores};

const PAYEE: Address = Address::repeat_byte(0x42);

/// What a command came to.
struct Ended {
    code: i32,
    out: String,
    error: String,
}

impl Ended {
    #[track_caller]
    fn with_code(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.error);
        assert!(!self.error.contains("panicked"), "{}", self.error);
        self.out
    }

    /// The lines of a `--json` output that have this field.
    fn objects(out: &str, field: &str) -> Vec<Value> {
        out.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|object| object.get(field).is_some())
            .collect()
    }
}

/// An operator on the machine that a chain's teller runs on.
struct Operator<'a> {
    directory: &'a Path,
    signer: String,
}

impl<'a> Operator<'a> {
    fn at(chain: &Chain, directory: &'a Path) -> Self {
        Self {
            directory,
            signer: hex::encode_prefixed(chain.devnet.info().signers[0]),
        }
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let signer = [("TELLER_SIGNER_0", &*self.signer)];
        let environment = signer.iter().chain(environment).copied();
        let output = run(self.directory, arguments, environment);
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn lane(&self) -> Value {
        let out = self.run(&["lanes", "--json"]).with_code(0);
        let lanes = Ended::objects(&out, "signer");
        assert_eq!(lanes.len(), 1, "{out}");
        lanes[0].clone()
    }

    /// Waits until the lane is as it should be.
    async fn lane_that(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut lane = Value::Null;
        for _ in 0..120 {
            lane = self.lane();
            if is(&lane) {
                return lane;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("the lane is not {what}: {lane}");
    }
}

async fn settle(chain: &Chain, teller: &Teller, numbers: std::ops::Range<u64>) {
    let settles = numbers.map(|number| async move {
        let payer = chain.payer((number % 20) as usize);
        let payment = payer.pay(chain, PAYEE, 1_000 + number, number);
        let (status, answer) = teller.post("/settle", &body(chain, &payment)).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["success"], true, "{answer}");
    });
    futures::future::join_all(settles).await;
}

fn signer_address(chain: &Chain) -> Address {
    crate::support::Buyer::new(chain.devnet.info().signers[0]).address
}

/// Sends a transaction with the signer's key, outside teller, and waits for its block.
async fn send_as_signer(chain: &Chain, to: Address, data: &[u8]) {
    let from = signer_address(chain);
    let rpc = |method: &'static str, params| chain.devnet.rpc(method, params);
    rpc("anvil_impersonateAccount", json!([from]))
        .await
        .unwrap();
    let call =
        json!([{"from": from, "to": to, "data": hex::encode_prefixed(data), "gas": "0x30d40"}]);
    let hash = rpc("eth_sendTransaction", call).await.unwrap();
    rpc("anvil_stopImpersonatingAccount", json!([from]))
        .await
        .unwrap();
    for _ in 0..100 {
        let receipt = rpc("eth_getTransactionReceipt", json!([hash]))
            .await
            .unwrap();
        if !receipt.is_null() {
            assert_eq!(receipt["status"], "0x1", "{receipt}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{hash} was not mined");
}

fn demand_a_clean_audit(operator: &Operator<'_>, payments: u64, value: u64) {
    let out = operator
        .run(&["audit", "--json", "--page-size", "2"])
        .with_code(0);
    assert_eq!(Ended::objects(&out, "difference"), Vec::<Value>::new());
    let summary = &Ended::objects(&out, "summary")[0];
    assert_eq!(summary["differences"], 0, "{summary}");
    assert_eq!(summary["settlements"]["states"]["settled"], payments);
    assert_eq!(summary["settlements"]["leftOut"], 0, "{summary}");
    assert_eq!(summary["authorizationsUsed"]["inSlots"], payments);
    assert_eq!(summary["logs"]["seen"], payments, "{summary}");
    assert_eq!(summary["values"][0]["ledger"], value.to_string());
    assert_eq!(summary["values"][0]["chain"], value.to_string());
    let cost = &summary["costWei"];
    assert_ne!(cost["receipts"], "0", "{summary}");
    assert_eq!(cost["slots"], cost["receipts"], "{summary}");
    assert_eq!(cost["settlements"], cost["receipts"], "{summary}");
    let text = operator.run(&["audit"]).with_code(0);
    assert!(text.contains("no differences"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_beside_a_running_teller_finds_nothing_wrong() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let operator = Operator::at(&chain, teller.directory());
    let empty = operator.run(&["audit"]).with_code(0);
    assert!(empty.contains("settlements  none"), "{empty}");
    settle(&chain, &teller, 0..8).await;
    settle(&chain, &teller, 8..12).await;
    demand_a_clean_audit(&operator, 12, 12_000 + (0..12).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn audits_while_payments_go_on_find_nothing_wrong() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let operator = Operator::at(&chain, teller.directory());
    let done = std::sync::atomic::AtomicBool::new(false);
    let paying = async {
        for round in 0..8 {
            settle(&chain, &teller, round * 10..round * 10 + 10).await;
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let auditing = async {
        let mut audits = 0;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            let arguments = [
                "audit",
                "--json",
                "--page-size",
                "3",
                "--pause-seconds",
                "3",
            ];
            operator.run(&arguments).with_code(0);
            audits += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        audits
    };
    let ((), audits) = tokio::join!(paying, auditing);
    assert!(audits >= 2, "{audits} audits");
    demand_a_clean_audit(&operator, 80, 80_000 + (0..80).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_of_a_shared_ledger_finds_nothing_wrong() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (ledger, reservations) = shared_stores().await;
    let setup = Setup {
        ledger,
        reservations,
        ..Setup::embedded(&chain)
    };
    let ports = free_ports();
    let config = setup.config(ports);
    let desk = tempfile::tempdir().unwrap();
    std::fs::write(desk.path().join("teller.toml"), &config).unwrap();
    let operator = Operator::at(&chain, desk.path());
    operator.run(&["migrate"]).with_code(0);
    let teller = Teller::start_with(&chain, ports, &config).await;
    settle(&chain, &teller, 0..6).await;
    demand_a_clean_audit(&operator, 6, 6_015);
    let signer = signer_address(&chain).to_string();
    let table = operator.run(&["lanes"]).with_code(0);
    assert!(table.contains(&signer), "{table}");
    operator
        .run(&["lanes", "drain", &signer, "--yes"])
        .with_code(0);
    assert_eq!(operator.lane()["mode"], "draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_finds_what_was_tampered_with() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let mut teller = Teller::embedded(&chain).await;
    settle(&chain, &teller, 0..3).await;
    settle(&chain, &teller, 3..5).await;
    assert!(teller.terminate().success());
    let operator = Operator::at(&chain, teller.directory());
    let original = teller.directory().join("teller.db");
    let copy = teller.directory().join("tampered.db");
    let mut connection = sqlx::SqliteConnection::connect(original.to_str().unwrap())
        .await
        .unwrap();
    connection
        .execute("PRAGMA wal_checkpoint(TRUNCATE)")
        .await
        .unwrap();
    connection.close().await.unwrap();
    let one = "WHERE id = (SELECT min(id) FROM settlements)";
    let first = "WHERE nonce = (SELECT min(nonce) FROM slots)";
    let cases: Vec<(String, &[&str])> = vec![
        ("SELECT 1".to_owned(), &[]),
        (
            format!("UPDATE settlements SET value = '1' {one}"),
            &["transfer_differs", "value_sum"],
        ),
        (
            format!("UPDATE settlements SET cost = '1' {one}"),
            &["shares_differ", "cost_sum"],
        ),
        (
            format!("UPDATE settlements SET log_index = log_index + 7 {one}"),
            &["log_index_differs"],
        ),
        (
            format!("UPDATE settlements SET block_hash = zeroblob(32) {one}"),
            &["block_differs"],
        ),
        (
            format!("UPDATE settlements SET transaction_hash = zeroblob(32) {one}"),
            &[
                "transaction_missing",
                "not_in_a_slot",
                "use_not_settled",
                "value_sum",
            ],
        ),
        (
            format!("DELETE FROM settlements {one}"),
            &["use_without_row", "value_sum"],
        ),
        (
            format!("UPDATE slots SET cost = '1' {first}"),
            &["cost_differs", "shares_differ", "cost_sum"],
        ),
        (
            format!("UPDATE slots SET gas_used = 1 {first}"),
            &["gas_differs", "gas_shares_differ"],
        ),
        (
            "UPDATE lanes SET next_nonce = next_nonce + 1".to_owned(),
            &["nonce_without_slot"],
        ),
    ];
    for (statement, kinds) in cases {
        std::fs::copy(&original, &copy).unwrap();
        let mut connection = sqlx::SqliteConnection::connect(copy.to_str().unwrap())
            .await
            .unwrap();
        connection
            .execute(sqlx::AssertSqlSafe(statement.clone()))
            .await
            .unwrap();
        connection.close().await.unwrap();
        let ledger = [("TELLER__LEDGER__URL", "sqlite://tampered.db")];
        let ended = operator.run_with(&["audit", "--json", "--pause-seconds", "0"], &ledger);
        let out = ended.with_code(i32::from(!kinds.is_empty()));
        let differences = Ended::objects(&out, "difference");
        for kind in kinds {
            let named = |difference: &&Value| difference["difference"] == *kind;
            assert!(
                differences.iter().find(named).is_some(),
                "{statement}: no {kind} in {out}"
            );
        }
        assert_eq!(
            differences.is_empty(),
            kinds.is_empty(),
            "{statement}: {out}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_finds_what_a_signers_key_did_outside_teller() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let operator = Operator::at(&chain, teller.directory());
    settle(&chain, &teller, 0..2).await;
    let payment = chain.payer(5).pay(&chain, PAYEE, 77, 500);
    let call = eip3009::transfer_call(&payment);
    send_as_signer(&chain, chain.asset.address, &call).await;
    let arguments = ["audit", "--json", "--pause-seconds", "0"];
    let out = operator.run(&arguments).with_code(1);
    let found: Vec<_> = Ended::objects(&out, "difference")
        .into_iter()
        .map(|difference| difference["difference"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, ["nonce_unexplained", "use_without_row"], "{out}");
    let text = operator
        .run(&["audit", "--pause-seconds", "0"])
        .with_code(1);
    assert!(text.contains("2 differences"), "{text}");
    // One signer's slots only: the log of the unknown transaction is not asked for.
    let signer = signer_address(&chain).to_string();
    let partly = [&arguments[..], &["--signer", &signer]].concat();
    let out = operator.run(&partly).with_code(1);
    assert_eq!(Ended::objects(&out, "difference").len(), 1, "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_cannot_look_says_so() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let operator = Operator::at(&chain, teller.directory());
    let unreachable = [("TELLER__NETWORKS__0__RPC", "http://127.0.0.1:1")];
    let no_ledger = [("TELLER__LEDGER__URL", "sqlite://nowhere.db")];
    for environment in [unreachable, no_ledger] {
        let ended = operator.run_with(&["audit"], &environment);
        assert!(ended.error.contains("not audited"), "{}", ended.error);
        ended.with_code(2);
    }
    operator
        .run(&["audit", "--network", "eip155:1"])
        .with_code(2);
    operator
        .run(&["audit", "--config", "nowhere.toml"])
        .with_code(2);
    // Lanes are shown all the same: an operator needs them most when the node is away.
    let blind = operator.run_with(&["lanes", "--json"], &unreachable);
    let lane = &Ended::objects(&blind.with_code(0), "signer")[0];
    assert_eq!(lane["mode"], "active");
    assert!(lane["sealedNonce"].is_null(), "{lane}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_lane_takes_no_payments_until_it_is_thawed() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let operator = Operator::at(&chain, teller.directory());
    settle(&chain, &teller, 0..2).await;
    let lane = operator.lane();
    assert_eq!(lane["mode"], "active");
    assert_eq!(lane["sealedNonce"], lane["nextNonce"], "{lane}");
    assert_eq!(lane["openSlots"], json!([]));
    assert_eq!(lane["leaseExpired"], false);
    let signer = signer_address(&chain).to_string();
    let lanes =
        |order: &str, more: &[&str]| operator.run(&[&["lanes", order, &*signer], more].concat());
    let unconfirmed = lanes("drain", &[]);
    assert!(
        unconfirmed.error.contains("no terminal"),
        "{}",
        unconfirmed.error
    );
    unconfirmed.with_code(1);
    lanes("thaw", &["--yes"]).with_code(1);
    assert_eq!(operator.lane()["mode"], "active");

    lanes("drain", &["--yes"]).with_code(0);
    assert_eq!(operator.lane()["mode"], "draining");
    let payment = chain.payer(3).pay(&chain, PAYEE, 5, 900);
    let request = body(&chain, &payment);
    let (_, answer) = teller.post("/settle", &request).await;
    assert_eq!(answer["success"], false, "{answer}");
    // From then on it is known that there is no other lane.
    let (status, answer) = teller.post("/settle", &request).await;
    assert_eq!(
        (status, &answer["success"]),
        (503, &json!(false)),
        "{answer}"
    );
    assert_eq!(operator.lane()["openSlots"], json!([]));
    lanes("thaw", &["--yes"]).with_code(0);
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let (_, answer) = teller.post("/settle", &request).await;
        if answer["success"] == true {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{answer}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    operator.run(&["audit"]).with_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_a_stranger_froze_is_thawed_and_goes_on() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let operator = Operator::at(&chain, teller.directory());
    settle(&chain, &teller, 0..2).await;
    let rpc = |method: &'static str, params| chain.devnet.rpc(method, params);
    rpc("evm_setIntervalMining", json!([0])).await.unwrap();
    let payment = chain.payer(3).pay(&chain, PAYEE, 5, 900);
    let request = body(&chain, &payment);
    let waiting = teller.post("/settle", &request);
    let thawed = async {
        operator
            .lane_that("busy", |lane| lane["openSlots"][0]["payments"] == 1)
            .await;
        // Sent by now. The chain forgets it, and takes the stranger's at the same nonce.
        tokio::time::sleep(Duration::from_millis(300)).await;
        rpc("anvil_dropAllTransactions", json!([])).await.unwrap();
        let mined = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            rpc("evm_mine", json!([])).await.unwrap();
            rpc("evm_setIntervalMining", json!([1])).await.unwrap();
        };
        tokio::join!(send_as_signer(&chain, PAYEE, &[]), mined);
        let lane = operator
            .lane_that("frozen", |lane| lane["mode"] == "frozen")
            .await;
        let slots = lane["openSlots"].as_array().unwrap();
        assert_eq!(slots.len(), 1, "{lane}");
        assert_eq!(slots[0]["payments"], 1);
        let signer = signer_address(&chain).to_string();
        operator
            .run(&["lanes", "rescue", &signer, "--yes"])
            .with_code(1);
        let out = operator
            .run(&["lanes", "thaw", &signer, "--yes"])
            .with_code(0);
        assert!(out.contains("frozen -> thawing"), "{out}");
    };
    let ((_, mut answer), ()) = tokio::join!(waiting, thawed);
    if answer["success"] == false {
        assert_eq!(answer["errorReason"], "settlement_pending", "{answer}");
        answer = teller.post("/settle", &request).await.1;
    }
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(operator.lane()["mode"], "active");
    settle(&chain, &teller, 10..12).await;
    let out = operator.run(&["audit", "--json"]).with_code(0);
    let notes = Ended::objects(&out, "note");
    assert_eq!(notes.len(), 1, "{out}");
    assert_eq!(notes[0]["note"], "foreign_nonce");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_lane_is_rescued_and_its_payments_settle() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let operator = Operator::at(&chain, teller.directory());
    settle(&chain, &teller, 0..2).await;
    let mine_every = |seconds: u64| chain.devnet.rpc("evm_setIntervalMining", json!([seconds]));
    mine_every(0).await.unwrap();
    let payment = chain.payer(3).pay(&chain, PAYEE, 5, 900);
    let request = body(&chain, &payment);
    let waiting = teller.post("/settle", &request);
    let rescued = async {
        operator
            .lane_that("busy", |lane| lane["openSlots"][0]["payments"] == 1)
            .await;
        let signer = signer_address(&chain).to_string();
        let order = ["lanes", "rescue", &*signer, "--yes", "--wait-seconds", "0"];
        let out = operator.run(&order).with_code(2);
        assert!(out.contains("not carried out yet"), "{out}");
        operator
            .lane_that("given up", |lane| {
                let attempts = lane["openSlots"][0]["attempts"].as_array();
                attempts.is_some_and(|all| all.iter().any(|one| one["kind"] == "noop"))
            })
            .await;
        mine_every(1).await.unwrap();
        operator
            .lane_that("active", |lane| lane["mode"] == "active")
            .await;
    };
    let ((_, mut answer), ()) = tokio::join!(waiting, rescued);
    if answer["success"] == false {
        assert_eq!(answer["errorReason"], "settlement_pending", "{answer}");
        answer = teller.post("/settle", &request).await.1;
    }
    assert_eq!(answer["success"], true, "{answer}");
    let out = operator.run(&["audit", "--json"]).with_code(0);
    let summary = &Ended::objects(&out, "summary")[0];
    assert_eq!(summary["slots"]["open"], 0, "{summary}");
}
