//! A chain, a proxy before it, a fleet of tellers on it, sellers who ask them, and the comparison at the end.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, U256};
use serde_json::{Value, json};
use sqlx::Connection;
use teller_domain::{Payment, X402Version};
use teller_loadtest::compare::{self, Comparison, Key, Subject};
use teller_loadtest::fleet::{Fleet, Plan, Role};
use teller_loadtest::rest::Http;
use teller_loadtest::sellers::{Asking, Told, settle_until_told};
use teller_loadtest::{Node, Signed};
use tokio::task::JoinSet;

use crate::support::proxy::{NodeProxy, Rule};
use crate::support::{Buyer, Chain, body, now, shared_stores};

pub const PAYEE: Address = Address::repeat_byte(0x42);
/// The longest that any seller of a test asks.
const PATIENCE: Duration = Duration::from_secs(150);
/// A seller who waits longer is worth a line in the output.
const SLOW: Duration = Duration::from_secs(30);
/// How long a metric may take to say what has happened.
const METRIC_WITHIN: Duration = Duration::from_secs(45);
/// How long the rows may take to have their outcomes once every seller was told.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// How a test's tellers are set up.
pub struct Wish {
    pub block_time: Duration,
    pub roles: Vec<Role>,
    pub signers: usize,
    pub payers: usize,
    /// Further lines of the network's table.
    pub network: String,
    /// The anvil binary, if not the usual one.
    pub anvil: Option<PathBuf>,
    /// Ledger and reservations, if not `make test`'s.
    pub stores: Option<(String, String)>,
    /// Further lines of the reservations' table.
    pub holds: String,
    /// What the signer with the lowest address has, in wei, before a teller starts.
    pub poorest: Option<u64>,
    /// How many transactions the first signer's key has signed before.
    pub used_key: u64,
    /// What befalls calls from the beginning.
    pub rules: Vec<Rule>,
}

impl Default for Wish {
    /// One embedded teller with one signer on one-second blocks.
    fn default() -> Self {
        Self {
            block_time: Duration::from_secs(1),
            roles: vec![Role::All],
            signers: 1,
            payers: 40,
            network: "block_interval_ms = 1000\ndepth = 4".to_owned(),
            anvil: None,
            stores: None,
            holds: String::new(),
            poorest: None,
            used_key: 0,
            rules: Vec::new(),
        }
    }
}

impl Wish {
    /// One API process and two settlers on shared stores.
    pub fn cluster() -> Self {
        Self {
            roles: vec![Role::Api, Role::Settler, Role::Settler],
            signers: 2,
            ..Self::default()
        }
    }
}

/// What was done with signers' accounts before any teller had them.
async fn prepare_signers(chain: &Chain, poorest: Option<u64>, used_key: u64) {
    let keys = chain.devnet.info().signers.iter();
    let signers: Vec<Address> = keys.map(|key| Buyer::new(*key).address).collect();
    let rpc = |method, params| chain.devnet.rpc(method, params);
    for _ in 0..used_key {
        let (signer, mine) = (signers[0], json!([]));
        rpc("anvil_impersonateAccount", json!([signer]))
            .await
            .unwrap();
        let transfer = json!([{"from": signer, "to": signer, "value": "0x1", "gas": "0x5208"}]);
        rpc("eth_sendTransaction", transfer).await.unwrap();
        rpc("evm_mine", mine).await.unwrap();
    }
    if let (Some(wei), Some(signer)) = (poorest, signers.iter().min()) {
        let balance = json!([signer, format!("{wei:#x}")]);
        rpc("anvil_setBalance", balance).await.unwrap();
    }
}

/// Everything that a test of a fault needs.
pub struct Rig {
    pub chain: Chain,
    pub proxy: NodeProxy,
    pub fleet: Fleet,
    pub http: Http,
    /// The shared stores' URLs; an embedded teller has none.
    pub stores: Option<(String, String)>,
    sellers: JoinSet<Told>,
    told: Vec<Told>,
    sold: u64,
    /// Tests share a Redis, and the payers of all local chains are the same.
    first_nonce: u64,
    pub compensated: HashSet<Key>,
}

impl Rig {
    pub async fn start(wish: Wish) -> Self {
        let (chain, proxy, plan, stores) = Self::parts(wish).await;
        let fleet = Fleet::start(plan).await;
        let fleet = fleet.unwrap_or_else(|error| panic!("{error}"));
        Self::with(chain, proxy, fleet, stores)
    }

    pub async fn embedded() -> Self {
        Self::start(Wish::default()).await
    }

    async fn parts(wish: Wish) -> (Chain, NodeProxy, Plan, Option<(String, String)>) {
        let config = teller_devnet::DevnetConfig {
            mining: teller_devnet::Mining::Interval(wish.block_time),
            payers: wish.payers,
            signers: wish.signers,
            keep_blocks: 100_000,
            anvil: wish.anvil,
            ..teller_devnet::DevnetConfig::default()
        };
        let chain = Chain::with(config).await;
        let proxy = NodeProxy::start(chain.devnet.rpc_url()).await;
        wish.rules.into_iter().for_each(|rule| proxy.inject(rule));
        prepare_signers(&chain, wish.poorest, wish.used_key).await;
        let stores = match (wish.stores, wish.roles.as_slice()) {
            (Some(own), _) => Some(own),
            (None, [Role::All]) => None,
            (None, _) => Some(shared_stores().await),
        };
        let embedded = || ("sqlite://teller.db".to_owned(), "memory://".to_owned());
        let (ledger, reservations) = stores.clone().unwrap_or_else(embedded);
        let plan = Plan {
            binary: env!("CARGO_BIN_EXE_teller").into(),
            ledger,
            reservations,
            rpc: vec![proxy.url.clone()],
            signers: chain.devnet.info().signers.clone(),
            network: wish.network,
            server: String::new(),
            holds: wish.holds,
            roles: wish.roles,
        };
        (chain, proxy, plan, stores)
    }

    fn with(
        chain: Chain,
        proxy: NodeProxy,
        fleet: Fleet,
        stores: Option<(String, String)>,
    ) -> Self {
        Self {
            chain,
            proxy,
            fleet,
            http: Http::default(),
            stores,
            sellers: JoinSet::new(),
            told: Vec::new(),
            sold: 0,
            first_nonce: u64::from_be_bytes(Address::random()[..8].try_into().unwrap()),
            compensated: HashSet::new(),
        }
    }

    /// The next payment of the next payer in turn.
    pub fn payment(&mut self) -> Payment {
        self.payment_until(now() + 600)
    }

    pub fn payment_until(&mut self, valid_before: u64) -> Payment {
        let number = self.sold;
        self.sold += 1;
        let payers = self.chain.devnet.info().payers.len() as u64;
        let buyer = self.chain.payer((number % payers) as usize);
        let nonce = self.first_nonce.wrapping_add(number);
        buyer.pay_until(
            &self.chain,
            PAYEE,
            100 + number,
            nonce,
            U256::from(valid_before),
        )
    }

    pub fn buyer(&self, address: Address) -> Buyer {
        let mut buyers = self
            .chain
            .devnet
            .info()
            .payers
            .iter()
            .map(|key| Buyer::new(*key));
        buyers.find(|buyer| buyer.address == address).unwrap()
    }

    /// Ten ETH for each signer.
    pub async fn fund_signers(&self) {
        for signer in self.signers() {
            self.rpc("anvil_setBalance", json!([signer, "0x8ac7230489e80000"]))
                .await;
        }
    }

    /// Sellers for this many new payments begin to ask.
    pub fn sell(&mut self, count: u64) -> Vec<Payment> {
        let payments: Vec<_> = (0..count).map(|_| self.payment()).collect();
        for payment in &payments {
            self.sell_this(payment);
        }
        payments
    }

    /// One more seller for this payment.
    pub fn sell_this(&mut self, payment: &Payment) {
        let asking = Asking {
            urls: self.fleet.urls(),
            first: self.sellers.len(),
            pause: Duration::from_millis(150),
            at_most: PATIENCE,
        };
        let signed = self.signed(payment);
        self.sellers
            .spawn(settle_until_told(self.http.clone(), signed, asking));
    }

    fn signed(&self, payment: &Payment) -> Signed {
        Signed {
            payment: payment.clone(),
            asset: Arc::new(self.chain.asset.clone()),
            version: X402Version::V2,
            body: body(&self.chain, payment).to_string().into(),
        }
    }

    /// Waits until every seller has heard the last word.
    pub async fn all_told(&mut self) {
        while let Some(told) = self.sellers.join_next().await {
            self.told.push(told.unwrap());
        }
    }

    /// What was told about this payment so far; [`all_told`](Self::all_told) first.
    pub fn told(&self, payment: &Payment) -> Vec<&Told> {
        let key = (payment.key.payer, payment.key.nonce.0);
        let told = self.told.iter();
        told.filter(|told| (told.payer, told.nonce) == key)
            .collect()
    }

    /// The last word on this payment, of its only seller.
    pub fn last_word(&self, payment: &Payment) -> Value {
        let told = self.told(payment);
        let last = told.last().and_then(|told| told.last_word());
        last.map_or(Value::Null, |answer| answer.body.clone())
    }

    /// Verifies one new payment after the other until one is refused for this reason; answers the next one, and what a
    /// settle request of it is told.
    pub async fn refused_with(&mut self, reason: &str) -> (Payment, Value) {
        let start = std::time::Instant::now();
        let url = self.fleet.urls()[0].clone();
        loop {
            let payment = self.payment();
            let (body, within) = (self.signed(&payment).body, Duration::from_secs(20));
            let asked = self.http.post(&format!("{url}/verify"), body, within).await;
            if asked.is_ok_and(|(_, answer)| answer["invalidReason"] == *reason) {
                let payment = self.payment();
                let body = self.signed(&payment).body;
                let settle = self.http.post(&format!("{url}/settle"), body, within).await;
                return (payment, settle.unwrap().1);
            }
            let late = start.elapsed() > METRIC_WITHIN;
            assert!(!late, "never refused\n{}", self.fleet.logs());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    pub async fn rows(&self) -> Vec<Value> {
        let urls = self.fleet.urls();
        compare::rows(&self.http, &urls[0]).await.unwrap()
    }

    pub async fn row(&self, payment: &Payment) -> Value {
        let (payer, nonce) = (
            payment.key.payer.to_string(),
            payment.key.nonce.0.to_string(),
        );
        let rows = self.rows().await;
        let row = rows
            .into_iter()
            .find(|row| row["payer"] == *payer && row["nonce"] == *nonce);
        row.unwrap_or(Value::Null)
    }

    /// Waits until these are settled, or nobody answers any more.
    pub async fn settled_or_dead(&self, payments: &[Payment], within: Duration) {
        let urls = self.fleet.urls();
        let start = std::time::Instant::now();
        while let Ok(rows) = compare::rows(&self.http, &urls[0]).await {
            let settled = |payment: &Payment| {
                let (payer, nonce) = (&payment.key.payer, &payment.key.nonce.0);
                rows.iter().any(|row| {
                    row["payer"] == payer.to_string()
                        && row["nonce"] == nonce.to_string()
                        && row["state"] == "settled"
                })
            };
            if payments.iter().all(settled) {
                return;
            }
            let logs = || self.fleet.logs();
            assert!(start.elapsed() < within, "after {within:?}\n{}", logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until a row satisfies this.
    pub async fn until_row(
        &self,
        payment: &Payment,
        within: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let start = std::time::Instant::now();
        loop {
            let row = self.row(payment).await;
            if fits(&row) {
                return row;
            }
            assert!(
                start.elapsed() < within,
                "after {within:?}: {row}\n{}",
                self.fleet.logs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn rpc(&self, method: &str, params: Value) -> Value {
        self.chain.devnet.rpc(method, params).await.unwrap()
    }

    pub async fn height(&self) -> u64 {
        let height = self.rpc("eth_blockNumber", json!([])).await;
        height
            .as_str()
            .unwrap()
            .parse::<U256>()
            .unwrap()
            .to::<u64>()
    }

    pub fn signers(&self) -> Vec<Address> {
        let keys = self.chain.devnet.info().signers.iter();
        keys.map(|key| Buyer::new(*key).address).collect()
    }

    /// Somebody else sends a transaction with the first signer's key.
    pub async fn misuse_a_key(&self) -> Address {
        let signer = self.signers()[0];
        self.rpc("anvil_impersonateAccount", json!([signer])).await;
        let foreign = json!([{"from": signer, "to": signer, "value": "0x1", "gas": "0x5208"}]);
        self.rpc("eth_sendTransaction", foreign).await;
        signer
    }

    /// Waits until the authorizations of these payments are used on the chain.
    pub async fn until_mined(&self, payments: &[Payment]) {
        let start = std::time::Instant::now();
        loop {
            let used = self.chain.used_authorizations().await;
            let mined = |payment: &Payment| {
                let key = (payment.key.payer, payment.key.nonce.0);
                used.iter().any(|(payer, nonce, _)| (*payer, *nonce) == key)
            };
            if payments.iter().all(mined) {
                return;
            }
            let late = start.elapsed() > SETTLED_WITHIN;
            assert!(!late, "not mined\n{}", self.fleet.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The samples of a member's metric whose line contains `labels`, summed.
    pub async fn metric(&mut self, member: usize, name: &str, labels: &str) -> f64 {
        let url = self.fleet.metrics_url(member).unwrap();
        let text = self.http.text(&url, Duration::from_secs(5)).await.unwrap();
        text.lines()
            .filter(|line| line.starts_with(name) && line.contains(labels))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a member's metric is at least this.
    pub async fn until_metric(&mut self, member: usize, name: &str, labels: &str, least: f64) {
        let start = std::time::Instant::now();
        while self.metric(member, name, labels).await < least {
            let late = start.elapsed() > METRIC_WITHIN;
            assert!(!late, "{name} {labels} < {least}\n{}", self.fleet.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The end of every test: all are told, every row has its outcome, and ledger, chain and answers agree.
    pub async fn compare(&mut self) -> Comparison {
        self.all_told().await;
        let start = std::time::Instant::now();
        let mut rows = self.rows().await;
        while !compare::all_resolved(&rows) && start.elapsed() < SETTLED_WITHIN {
            tokio::time::sleep(Duration::from_millis(250)).await;
            rows = self.rows().await;
        }
        let subject = Subject {
            node: &Node::new(self.chain.devnet.rpc_url().parse().unwrap()),
            asset: self.chain.asset.address,
            signers: &self.signers(),
            rows: &rows,
            told: &self.told,
            compensated: &self.compensated,
        };
        let comparison = compare::compare(&subject).await.unwrap();
        let Ok(comparison) = comparison.clone().demand() else {
            let differences = comparison.differences.join("\n");
            panic!("{differences}\n{}", self.fleet.logs());
        };
        if let Err(error) = self.fleet.audit().await {
            panic!("{error}\n{}", self.fleet.logs());
        }
        println!("{comparison}");
        let slow = self.told.iter().filter(|told| told.took > SLOW);
        for told in slow {
            let answers: Vec<_> = told.answers.iter().map(|a| (a.after, a.reason())).collect();
            println!("slow: {} {} {answers:?}", told.payer, told.nonce);
        }
        comparison
    }

    /// Signer, owner and epoch of every lane in the shared ledger.
    pub async fn epochs(&self) -> Vec<(Vec<u8>, String, i64)> {
        let (ledger, _) = self.stores.as_ref().unwrap();
        let mut connection = sqlx::PgConnection::connect(ledger).await.unwrap();
        let lanes = "SELECT signer, owner::text, epoch FROM lanes ORDER BY signer";
        sqlx::query_as(lanes)
            .fetch_all(&mut connection)
            .await
            .unwrap()
    }
}
