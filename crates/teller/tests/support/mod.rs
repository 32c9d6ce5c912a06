//! A real teller on a real chain, and buyers who sign.
//!
//! One file, because each test binary includes all of it.

#![allow(
    dead_code,
    reason = "two test binaries share this, and neither uses all of it"
)]

pub mod proxy;
pub mod services;
pub mod ways;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, U256, hex, keccak256};
use alloy_sol_types::{SolCall, sol};
use serde_json::{Value, json};
use teller_devnet::{Devnet, DevnetConfig, Mining};
use teller_domain::{
    Asset, AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId,
    EcdsaSignature, Payment, Validity,
};
use teller_schemes::{eip3009, sign};

sol! {
    function balanceOf(address account) external view returns (uint256);
}

pub const CHAIN: ChainId = ChainId(84532);

/// The chain that a test runs on.
pub struct Chain {
    pub devnet: Devnet,
    pub asset: Asset,
    pub domain: eip3009::Domain,
}

impl Chain {
    pub async fn start(block_time: Duration) -> Self {
        Self::with_payers(block_time, 40).await
    }

    pub async fn with_payers(block_time: Duration, payers: usize) -> Self {
        let config = DevnetConfig {
            mining: Mining::Interval(block_time),
            payers,
            ..DevnetConfig::default()
        };
        Self::with(config).await
    }

    pub async fn with(config: DevnetConfig) -> Self {
        let devnet = Devnet::start(config).await.unwrap();
        let info = &devnet.info().asset;
        let asset = Asset {
            chain: CHAIN,
            address: info.address,
            name: info.name.clone(),
            version: info.version.clone(),
            decimals: info.decimals,
        };
        Self {
            domain: eip3009::Domain::new(&asset),
            asset,
            devnet,
        }
    }

    pub fn payer(&self, index: usize) -> Buyer {
        Buyer::new(self.devnet.info().payers[index])
    }

    pub async fn balance(&self, holder: Address) -> U256 {
        let data = hex::encode_prefixed(balanceOfCall { account: holder }.abi_encode());
        let answer = self
            .devnet
            .rpc(
                "eth_call",
                json!([{"to": self.asset.address, "data": data}, "latest"]),
            )
            .await
            .unwrap();
        answer.as_str().unwrap().parse().unwrap()
    }

    /// (payer, nonce, transaction) of every authorization that was used.
    pub async fn used_authorizations(&self) -> Vec<(Address, B256, String)> {
        let topic = keccak256("AuthorizationUsed(address,bytes32)");
        let filter = json!([{"address": self.asset.address, "topics": [topic], "fromBlock": "0x0", "toBlock": "latest"}]);
        let logs = self.devnet.rpc("eth_getLogs", filter).await.unwrap();
        logs.as_array()
            .unwrap()
            .iter()
            .map(|log| {
                let topic = |index: usize| {
                    log["topics"][index]
                        .as_str()
                        .unwrap()
                        .parse::<B256>()
                        .unwrap()
                };
                let transaction = log["transactionHash"].as_str().unwrap().to_owned();
                (Address::from_word(topic(1)), topic(2), transaction)
            })
            .collect()
    }
}

/// Somebody who signs.
#[derive(Clone, Copy)]
pub struct Buyer {
    pub key: B256,
    pub address: Address,
}

impl Buyer {
    pub fn new(key: B256) -> Self {
        let signer = alloy_signer_local::PrivateKeySigner::from_bytes(&key).unwrap();
        Self {
            key,
            address: signer.address(),
        }
    }

    /// A payment with a nonce of this number, valid for ten minutes.
    pub fn pay(&self, chain: &Chain, payee: Address, value: u64, number: u64) -> Payment {
        self.pay_until(chain, payee, value, number, U256::from(now() + 600))
    }

    pub fn pay_until(
        &self,
        chain: &Chain,
        payee: Address,
        value: u64,
        number: u64,
        valid_before: U256,
    ) -> Payment {
        let mut payment = Payment {
            key: AuthorizationKey {
                chain: CHAIN,
                authority: chain.asset.address,
                payer: self.address,
                nonce: AuthorizationNonce(keccak256(number.to_be_bytes())),
            },
            asset: chain.asset.address,
            payee,
            value: AssetAmount::from(value),
            validity: Validity::signed(U256::ZERO, valid_before),
            authorization: Authorization::Eip3009 {
                signature: EcdsaSignature {
                    r: B256::ZERO,
                    s: B256::ZERO,
                    v: 27,
                }
                .into(),
            },
        };
        let signature = sign(chain.domain.digest(&payment), &self.key.0).unwrap();
        payment.authorization = Authorization::Eip3009 {
            signature: signature.into(),
        };
        payment
    }
}

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// The request body of x402 v2 for a payment that its seller wants exactly so.
pub fn body(chain: &Chain, payment: &Payment) -> Value {
    let signature = payment.authorization.signature().ecdsa().unwrap();
    let requirements = json!({
        "scheme": "exact", "network": CHAIN.to_string(), "amount": payment.value.to_string(),
        "asset": payment.asset, "payTo": payment.payee, "maxTimeoutSeconds": 60,
        "extra": {"name": chain.asset.name, "version": chain.asset.version},
    });
    json!({
        "x402Version": 2,
        "paymentPayload": {
            "x402Version": 2,
            "accepted": requirements,
            "payload": {
                "signature": hex::encode_prefixed(signature.to_bytes()),
                "authorization": {
                    "from": payment.key.payer, "to": payment.payee, "value": payment.value.to_string(),
                    "validAfter": payment.validity.valid_after().to_string(), "validBefore": payment.validity.end().to_string(),
                    "nonce": payment.key.nonce.0,
                },
            },
        },
        "paymentRequirements": requirements,
    })
}

/// What a teller is started with.
pub struct Setup {
    pub rpc: String,
    pub ledger: String,
    pub reservations: String,
    pub depth: u8,
    pub keys: Vec<(&'static str, &'static str)>,
    /// More lines of the server's section.
    pub server: String,
    /// More lines of the network's section.
    pub network: String,
}

impl Setup {
    /// Everything embedded, open to everybody.
    pub fn embedded(chain: &Chain) -> Self {
        Self {
            rpc: chain.devnet.rpc_url().to_owned(),
            ledger: "sqlite://teller.db".to_owned(),
            reservations: "memory://".to_owned(),
            depth: 8,
            keys: Vec::new(),
            server: String::new(),
            network: String::new(),
        }
    }

    /// The configuration file.
    pub fn config(&self, ports: [u16; 3]) -> String {
        let auth = if self.keys.is_empty() { "open" } else { "keys" };
        let mut config = format!(
            r#"
[server]
rest = "127.0.0.1:{}"
grpc = "127.0.0.1:{}"
metrics = "127.0.0.1:{}"
auth = "{auth}"
{}[ledger]
url = "{}"
[reservations]
url = "{}"
[[networks]]
id = "{CHAIN}"
rpc = ["{}"]
signers = ["env:TELLER_SIGNER_0"]
depth = {}
block_interval_ms = 1000
"#,
            ports[0],
            ports[1],
            ports[2],
            self.server,
            self.ledger,
            self.reservations,
            self.rpc,
            self.depth
        );
        config.push_str(&self.network);
        for (tenant, key) in &self.keys {
            use sha2::Digest;
            let hash = hex::encode(sha2::Sha256::digest(key.as_bytes()));
            config.push_str(&format!(
                "[[server.keys]]\ntenant = \"{tenant}\"\nsha256 = \"{hash}\"\n"
            ));
        }
        config
    }
}

/// A running `teller serve`.
pub struct Teller {
    child: Child,
    pub url: String,
    pub http: reqwest::Client,
    ports: [u16; 3],
    directory: Arc<tempfile::TempDir>,
}

impl Teller {
    /// A teller with everything embedded.
    pub async fn embedded(chain: &Chain) -> Self {
        Self::embedded_at(chain, chain.devnet.rpc_url()).await
    }

    /// The same, talking to the chain through `rpc`.
    pub async fn embedded_at(chain: &Chain, rpc: &str) -> Self {
        let setup = Setup {
            rpc: rpc.to_owned(),
            ..Setup::embedded(chain)
        };
        Self::start(chain, setup).await
    }

    pub async fn start(chain: &Chain, setup: Setup) -> Self {
        let ports = free_ports();
        Self::start_with(chain, ports, &setup.config(ports)).await
    }

    /// A teller with this configuration, which names these ports for REST, gRPC and metrics.
    pub async fn start_with(chain: &Chain, ports: [u16; 3], config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("teller.toml"), config).unwrap();
        std::fs::write(
            directory.path().join("signer"),
            hex::encode_prefixed(chain.devnet.info().signers[0]),
        )
        .unwrap();
        let directory = Arc::new(directory);
        let child = spawn(directory.path().to_path_buf());
        let http = client();
        let url = format!("http://127.0.0.1:{}", ports[0]);
        let mut teller = Self {
            child,
            url,
            http,
            ports,
            directory,
        };
        teller.ready().await;
        teller
    }

    /// Where the next process that is started ends, if anywhere.
    pub fn dies_at(&self, point: Option<&str>) {
        let file = self.directory.path().join(FAIL_POINT);
        match point {
            Some(point) => std::fs::write(file, point).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
    }

    /// Waits until the process has ended by itself.
    pub fn wait_for_end(&mut self) -> std::process::ExitStatus {
        wait_for_end(&mut self.child)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same ledger and ports.
    pub async fn restart(&mut self) {
        self.child = spawn(self.directory.path().to_path_buf());
        self.ready().await;
    }

    /// SIGTERM; answers the exit status.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        wait_for_end(&mut self.child)
    }

    pub fn grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    /// Where its configuration, `teller.toml`, and its ledger are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.ports[2])
    }

    async fn ready(&mut self) {
        let stdout = self.child.stdout.take().unwrap();
        let lines = tokio::task::spawn_blocking(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 0 {
                if line.contains("teller is ready") {
                    // Whatever else it prints must have a reader, or it would block.
                    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
                    return true;
                }
                line.clear();
            }
            false
        });
        let ready = tokio::time::timeout(Duration::from_secs(30), lines).await;
        assert!(
            ready.is_ok_and(|ready| ready.unwrap()),
            "teller did not become ready: {}",
            self.log()
        );
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.try_post(path, body, &[]).await.unwrap()
    }

    pub async fn try_post(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Value), reqwest::Error> {
        self.try_post_text(path, body.to_string(), headers).await
    }

    /// The same with a body that is written as it is.
    pub async fn try_post_text(
        &self,
        path: &str,
        body: String,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Value), reqwest::Error> {
        let mut request = self.http.post(format!("{}{path}", self.url)).body(body);
        request = request.header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self
            .http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Every settlement, page by page.
    pub async fn settlements(&self) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let before = all
                .last()
                .map(|last| format!("&before={}", last["id"].as_str().unwrap()))
                .unwrap_or_default();
            let (status, page) = self.get(&format!("/settlements?limit=200{before}")).await;
            assert_eq!(status, 200, "{page}");
            let rows = page["settlements"].as_array().unwrap();
            all.extend(rows.iter().cloned());
            if rows.is_empty() || !page["more"].as_bool().unwrap() {
                return all;
            }
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("teller's log:\n{}", self.log());
        }
    }
}

/// How long a process may take to end that was told to, and a command that ends by itself.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// Waits until a process has ended that was told to. One that goes on is killed, and the test fails.
pub fn wait_for_end(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > ENDS_WITHIN {
            child.kill().unwrap();
            panic!("process {} did not end within {ENDS_WITHIN:?}", child.id());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What `teller ARGUMENTS` prints, and how it ends.
#[track_caller]
pub fn run<'a>(
    directory: &Path,
    arguments: &[&str],
    environment: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_teller"));
    command
        .args(arguments)
        .current_dir(directory)
        .envs(environment);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::task::block_in_place(|| {
        let ending = async { tokio::time::timeout(ENDS_WITHIN, command.output()).await };
        tokio::runtime::Handle::current().block_on(ending)
    });
    let Ok(output) = ended else {
        panic!("teller {arguments:?} did not end within {ENDS_WITHIN:?}");
    };
    output.unwrap()
}

/// The file that names it.
const FAIL_POINT: &str = "fail_point";

fn spawn(directory: PathBuf) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .unwrap();
    let signer = std::fs::read_to_string(directory.join("signer")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_teller"));
    if let Ok(point) = std::fs::read_to_string(directory.join(FAIL_POINT)) {
        command.env("TELLER_FAIL_POINT", point);
    }
    command
        .args(["serve", "--config", "teller.toml"])
        .current_dir(&directory)
        .env("TELLER_SIGNER_0", signer)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub fn client() -> reqwest::Client {
    // A second installation is refused, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(40))
        .build()
        .unwrap()
}

/// A port that nobody listens on, and that nobody else in this process was given.
pub fn free_port() -> u16 {
    static GIVEN: std::sync::Mutex<std::collections::BTreeSet<u16>> =
        std::sync::Mutex::new(std::collections::BTreeSet::new());
    loop {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

pub fn free_ports() -> [u16; 3] {
    [free_port(), free_port(), free_port()]
}

/// The shared stores that `make test` provides: an empty, unmigrated Postgres database of this test's own, and Redis.
pub async fn shared_stores() -> (String, String) {
    use sqlx::Executor;
    let needed = |name: &str| {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: `make test` sets it"))
    };
    let (server, redis) = (
        needed("TELLER_TEST_POSTGRES_URL"),
        needed("TELLER_TEST_REDIS_URL"),
    );
    let name = format!("front_door_{}_{}", std::process::id(), free_port());
    let pool = sqlx::PgPool::connect(&server).await.unwrap();
    pool.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .await
        .unwrap();
    let mut url = url::Url::parse(&server).unwrap();
    url.set_path(&name);
    (url.to_string(), redis)
}

sol! {
    function transfer(address to, uint256 value) external returns (bool);
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;
    function DOMAIN_SEPARATOR() external view returns (bytes32);
}

impl Chain {
    /// A call by somebody who is not teller; answers the transaction's hash at once.
    pub async fn call_as(&self, sender: Address, to: Address, data: Vec<u8>) -> String {
        let rpc = |method: &'static str, params| self.devnet.rpc(method, params);
        let rich = json!([sender, "0xde0b6b3a7640000"]);
        rpc("anvil_setBalance", rich).await.unwrap();
        rpc("anvil_impersonateAccount", json!([sender]))
            .await
            .unwrap();
        let call = json!([{"from": sender, "to": to, "data": hex::encode_prefixed(data), "gas": "0x493e0"}]);
        let hash = rpc("eth_sendTransaction", call).await.unwrap();
        hash.as_str().unwrap().to_owned()
    }

    /// Somebody else submits this payment.
    pub async fn submit(&self, payment: &Payment) -> String {
        let data = eip3009::transfer_call(payment).to_vec();
        self.call_as(Address::random(), self.asset.address, data)
            .await
    }

    /// The payer cancels the authorization of this payment.
    pub async fn cancel(&self, buyer: &Buyer, nonce: B256) -> String {
        let ask = hex::encode_prefixed(DOMAIN_SEPARATORCall {}.abi_encode());
        let call = json!([{"to": self.asset.address, "data": ask}, "latest"]);
        let separator = self.devnet.rpc("eth_call", call).await.unwrap();
        let separator: B256 = separator.as_str().unwrap().parse().unwrap();
        let kind = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");
        let content = [kind, buyer.address.into_word(), nonce].concat();
        let content = keccak256(content);
        let digest = [&[0x19, 0x01], separator.as_slice(), content.as_slice()].concat();
        let signature = sign(keccak256(digest), &buyer.key.0).unwrap();
        let cancel = cancelAuthorizationCall {
            authorizer: buyer.address,
            nonce,
            v: signature.v,
            r: signature.r,
            s: signature.s,
        };
        self.call_as(Address::random(), self.asset.address, cancel.abi_encode())
            .await
    }

    /// Moves all of somebody's dollars away.
    pub async fn empty(&self, holder: Address) -> String {
        let transfer = transferCall {
            to: Address::repeat_byte(0x13),
            value: self.balance(holder).await,
        };
        self.call_as(holder, self.asset.address, transfer.abi_encode())
            .await
    }
}
