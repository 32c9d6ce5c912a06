//! What the operator does not want to pay, or cannot: refused at once, at verify and at settle, and said aloud.

use std::time::{Duration, Instant};

use alloy_primitives::Address;
use serde_json::{Value, json};

use crate::support::{Buyer, CHAIN, Chain, Setup, Teller, body, free_ports};

const PAYEE: Address = Address::repeat_byte(0x47);
/// A settle request waits for its outcome far longer.
const AT_ONCE: Duration = Duration::from_secs(10);
const TOLD_WITHIN: Duration = Duration::from_secs(60);

struct Shop<'a> {
    chain: &'a Chain,
    teller: Teller,
    sold: u64,
}

impl<'a> Shop<'a> {
    async fn with_network(chain: &'a Chain, network: &str) -> Self {
        let setup = Setup {
            network: network.to_owned(),
            ..Setup::embedded(chain)
        };
        let teller = Teller::start(chain, setup).await;
        Self {
            chain,
            teller,
            sold: 0,
        }
    }

    fn payment(&mut self) -> Value {
        self.sold += 1;
        let buyer = self.chain.payer((self.sold % 10) as usize);
        body(self.chain, &buyer.pay(self.chain, PAYEE, 1_000, self.sold))
    }

    async fn ask(&self, path: &str, request: &Value, key: &str) -> (u16, Value) {
        let headers = [("X-API-Key", key)];
        self.teller.try_post(path, request, &headers).await.unwrap()
    }

    /// The next payment is settled.
    async fn settles(&mut self, key: &str) {
        let request = self.payment();
        let (_, answer) = self.ask("/settle", &request, key).await;
        assert_eq!(answer["success"], true, "{answer}\n{}", self.teller.log());
    }

    /// New payments are refused with these, at verify and at settle, and nothing of them is in the ledger.
    async fn refuses(&mut self, key: &str, status: u16, verify: &str, settle: &str) {
        let before = Instant::now();
        loop {
            let request = self.payment();
            let (_, answer) = self.ask("/verify", &request, key).await;
            if answer["isValid"] == false {
                break;
            }
            assert!(
                before.elapsed() < TOLD_WITHIN,
                "{answer}\n{}",
                self.teller.log()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let started = Instant::now();
        let rows = self.rows(key).await;
        let request = self.payment();
        let (said, answer) = self.ask("/verify", &request, key).await;
        assert_eq!(
            (said, &answer["invalidReason"]),
            (status, &json!(verify)),
            "{answer}"
        );
        let (said, answer) = self.ask("/settle", &request, key).await;
        assert_eq!(
            (said, &answer["errorReason"]),
            (status, &json!(settle)),
            "{answer}"
        );
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
        assert_eq!(self.rows(key).await, rows, "something was accepted");
    }

    async fn rows(&self, key: &str) -> usize {
        let url = format!("{}/settlements?limit=200", self.teller.url);
        let page = self.teller.http.get(url).header("X-API-Key", key);
        let page: Value = page.send().await.unwrap().json().await.unwrap();
        page["settlements"].as_array().unwrap().len()
    }

    /// The process is ready all the same, and says what holds payments back.
    async fn is_ready_with(&self, notes: &[&str]) {
        let start = Instant::now();
        loop {
            let (status, said) = self.teller.get("/readyz").await;
            assert_eq!(status, 200, "{said}");
            let held_back = &said["payments_held_back"][CHAIN.to_string()];
            let expected = match notes {
                [] => Value::Null,
                notes => json!(notes),
            };
            if *held_back == expected {
                return;
            }
            assert!(
                start.elapsed() < TOLD_WITHIN,
                "{said}\n{}",
                self.teller.log()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn metric(&self, line: &str) {
        let start = Instant::now();
        loop {
            let metrics = self.teller.http.get(self.teller.metrics_url()).send().await;
            let metrics = metrics.unwrap().text().await.unwrap();
            if metrics.lines().any(|each| each == line) {
                return;
            }
            assert!(start.elapsed() < TOLD_WITHIN, "{line} is not in\n{metrics}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The line stands in the log once.
    fn says_once(&self, text: &str) {
        let log = self.teller.log();
        assert_eq!(log.matches(text).count(), 1, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_refuses_at_verify_and_at_settle() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let budget = "[networks.budget]\nmax_wei_per_day = \"1\"\n";
    let mut shop = Shop::with_network(&chain, budget).await;
    shop.settles("").await;
    let reason = "gas_budget_exceeded";
    shop.refuses("", 200, reason, reason).await;
    shop.is_ready_with(&["gas_budget_spent"]).await;
    shop.metric("teller_payments_held_back{network=\"eip155:84532\",cause=\"gas_budget_spent\"} 1")
        .await;
    shop.says_once("payments are held back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_spent_budget_is_nobody_elses() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let ports = free_ports();
    let setup = Setup {
        keys: vec![("rich", "rich-key"), ("poor", "poor-key")],
        ..Setup::embedded(&chain)
    };
    let config = setup.config(ports) + "max_gas_wei_per_day = \"1\"\n";
    let mut shop = Shop {
        teller: Teller::start_with(&chain, ports, &config).await,
        chain: &chain,
        sold: 0,
    };
    shop.settles("poor-key").await;
    let reason = "gas_budget_exceeded";
    shop.refuses("poor-key", 200, reason, reason).await;
    shop.settles("rich-key").await;
    shop.is_ready_with(&[]).await;
    shop.metric("teller_tenants_over_budget{network=\"eip155:84532\"} 1")
        .await;
    shop.says_once("tenants whose budgets for gas are spent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_no_transaction_may_carry_is_refused() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let budget = "[networks.budget]\nmax_wei_per_transaction = \"1\"\n";
    let mut shop = Shop::with_network(&chain, budget).await;
    let reason = "gas_budget_exceeded";
    shop.refuses("", 200, reason, reason).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lane_that_can_pay_nothing_is_accepted() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let mut shop = Shop::with_network(&chain, "").await;
    shop.settles("").await;
    let signer = Buyer::new(chain.devnet.info().signers[0]).address;
    let set = async |wei: &str| {
        let set = chain.devnet.rpc("anvil_setBalance", json!([signer, wei]));
        set.await.unwrap()
    };
    set("0x0").await;
    // The first that finds the purse empty waits for it.
    let first = shop.payment();
    let url = format!("{}/settle", shop.teller.url);
    let waiting = tokio::spawn(shop.teller.http.post(url).json(&first).send());
    let (verify, settle) = ("unexpected_verify_error", "unexpected_settle_error");
    shop.refuses("", 503, verify, settle).await;
    shop.is_ready_with(&["no_usable_lane", "lane_halted"]).await;
    set("0x8ac7230489e80000").await;
    waiting.await.unwrap().unwrap();
    let start = Instant::now();
    loop {
        let request = shop.payment();
        let (_, answer) = shop.ask("/settle", &request, "").await;
        if answer["success"] == true {
            break;
        }
        assert!(
            start.elapsed() < TOLD_WITHIN,
            "{answer}\n{}",
            shop.teller.log()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    shop.is_ready_with(&[]).await;
}
