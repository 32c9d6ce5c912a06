//! The commands, as an operator types them.

use std::process::Output;
use std::time::Duration;

use alloy_primitives::{Address, hex};
use serde_json::Value;

use crate::support::{Chain, Setup, Teller, body, free_ports, run, shared_stores};

const PAYEE: Address = Address::repeat_byte(0x42);

/// An operator's directory with a configuration and a signer's key in it.
struct Desk {
    directory: tempfile::TempDir,
    signer: String,
}

impl Desk {
    fn new(chain: &Chain, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("teller.toml"), config).unwrap();
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
        let environment = environment.iter().chain(&signer).copied();
        Ended::of(run(self.directory.path(), arguments, environment))
    }
}

/// What a command came to.
struct Ended {
    code: i32,
    out: String,
    error: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn succeeded(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.error);
        self.out
    }

    /// What it said when it refused.
    #[track_caller]
    fn refused(self) -> String {
        assert_eq!(self.code, 1, "{}\n{}", self.out, self.error);
        self.error
    }

    #[track_caller]
    fn refused_with(self, part: &str) {
        let error = self.refused();
        assert!(error.contains(part), "{part:?} is not in: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

fn embedded(chain: &Chain) -> String {
    Setup::embedded(chain).config(free_ports())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_a_configuration_fits_or_what_does_not() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let good = embedded(&chain);
    let out = Desk::new(&chain, &good).run(&["check"]).succeeded();
    for part in ["chain id 84532", "Multicall3 at", "USDC", "ETH for gas"] {
        assert!(out.contains(part), "{part:?} is not in: {out}");
    }
    assert!(out.trim_end().ends_with("all fine"), "{out}");

    let url = chain.devnet.rpc_url();
    let nobody = "0x0000000000000000000000000000000000000000000000000000000000000b0b";
    let asset = format!(
        "[[networks.assets]]\naddress = \"{}\"\nname = \"USD Coin\"\nversion = \"2\"\ndecimals = 6\n",
        chain.asset.address
    );
    let wrong = [
        (
            good.replace("eip155:84532", "eip155:8453"),
            "is chain 84532, not 8453",
        ),
        (
            format!("{good}multicall3 = \"{PAYEE}\"\n"),
            "no code at multicall3",
        ),
        (format!("{good}{asset}"), "its EIP-712 domain is not name"),
        (
            good.replace(url, "http://127.0.0.1:1"),
            "eip155:84532 rpc[0]: ",
        ),
    ];
    for (config, part) in wrong {
        let ended = Desk::new(&chain, &config).run(&["check"]);
        assert_eq!(ended.code, 1, "{}", ended.error);
        let line = ended.out.lines().find(|line| line.contains("WRONG"));
        assert!(
            line.is_some_and(|line| line.contains(part)),
            "{part:?} is not in: {}{}",
            ended.out,
            ended.error
        );
    }
    let poor = Desk::new(&chain, &good).run_with(&["check"], &[("TELLER_SIGNER_0", nobody)]);
    assert!(poor.out.contains("ETH for gas") || poor.out.contains("no gas"));
}

/// A node that is asked other things than it was.
async fn front(upstream: &str, change: fn(&mut Value)) -> String {
    let (upstream, http) = (upstream.to_owned(), reqwest::Client::new());
    let forward = move |body: axum::body::Bytes| {
        let (upstream, http) = (upstream.clone(), http.clone());
        async move {
            let mut call: Value = serde_json::from_slice(&body).unwrap();
            change(&mut call);
            let sent = http
                .post(&upstream)
                .header("content-type", "application/json");
            let answer = sent.body(call.to_string()).send().await.unwrap();
            answer.bytes().await.unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(forward);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_an_endpoint_cannot_do() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let good = embedded(&chain);
    let url = chain.devnet.rpc_url();
    let out = Desk::new(&chain, &good).run(&["check"]).succeeded();
    for part in [
        "payments can be inspected",
        "an eth_call gets 30000000 gas",
        "is finalized",
        "a block holds",
    ] {
        assert!(out.contains(part), "{part:?} is not in: {out}");
    }

    let no_overrides = front(url, |call| {
        if call["method"] == "eth_call" {
            call["params"].as_array_mut().unwrap().truncate(2);
        }
    });
    let little_gas = front(url, |call| {
        if call["method"] == "eth_call" {
            call["params"][0]["gas"] = "0xf4240".into();
        }
    });
    let no_tags = front(url, |call| {
        if call["params"][0] == "finalized" || call["params"][0] == "safe" {
            call["params"][0] = "0xffffffff".into();
        }
    });
    let (no_overrides, little_gas, no_tags) = (no_overrides.await, little_gas.await, no_tags.await);
    let finalized = |rpc: &str| format!("{}settled_at = \"finalized\"\n", good.replace(url, rpc));
    for (config, part) in [
        (
            good.replace(url, &no_overrides),
            "payments cannot be inspected",
        ),
        (good.replace(url, &little_gas), "an eth_call gets 9"),
        (finalized(&no_tags), "no endpoint knows a block of that tag"),
    ] {
        let ended = Desk::new(&chain, &config).run(&["check"]);
        assert_eq!(ended.code, 1, "{}{}", ended.out, ended.error);
        let wrong = ended.out.lines().find(|line| line.contains("WRONG"));
        assert!(
            wrong.is_some_and(|line| line.contains(part)),
            "{}",
            ended.out
        );
    }
    // One that knows the tag is enough; the other is named.
    let both = finalized(url).replace(&format!("\"{url}\""), &format!("\"{no_tags}\", \"{url}\""));
    let out = Desk::new(&chain, &both).run(&["check"]).succeeded();
    assert!(
        out.contains("watch  eip155:84532 rpc[0]: knows no finalized block"),
        "{out}"
    );

    let limit = serde_json::json!(["0x7a1200"]);
    chain
        .devnet
        .rpc("evm_setBlockGasLimit", limit)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let out = Desk::new(&chain, &good).run(&["check"]).succeeded();
    assert!(
        out.contains("a block holds 8000000 gas, less than max_batch_gas of 16000000"),
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_shows_what_was_settled() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::start(
        &chain,
        Setup {
            keys: vec![("shop", "shop-key")],
            ..Setup::embedded(&chain)
        },
    )
    .await;
    let bearer = [("Authorization", "Bearer shop-key")];
    let payment = chain.payer(0).pay(&chain, PAYEE, 10_000, 1);
    let settled = teller
        .try_post("/settle", &body(&chain, &payment), &bearer)
        .await;
    let (_, settled) = settled.unwrap();
    assert_eq!(settled["success"], true, "{settled}");
    let transaction = settled["transaction"].as_str().unwrap();

    // Beside the running teller, by its configuration or by the ledger's URL alone.
    let signer = hex::encode_prefixed(chain.devnet.info().signers[0]);
    let settlements = |arguments: &[&str]| {
        let arguments = [&["settlements"], arguments].concat();
        let signer = [("TELLER_SIGNER_0", &*signer)];
        Ended::of(run(teller.directory(), &arguments, signer))
    };
    let listed = settlements(&["list"]).succeeded();
    for part in ["settled", "0.01 USDC", transaction] {
        assert!(listed.contains(part), "{part:?} is not in: {listed}");
    }
    let by_url = ["list", "--json", "--ledger", "sqlite://teller.db"];
    let line = settlements(&by_url).succeeded();
    let row: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(row["tenant"], "shop", "{row}");
    assert_eq!(row["receipt"]["transaction"], transaction, "{row}");
    let id = row["id"].as_str().unwrap();
    let shown = settlements(&["show", id]).succeeded();
    for part in [id, "shop", "included", transaction, "wei"] {
        assert!(shown.contains(part), "{part:?} is not in: {shown}");
    }
    assert_eq!(settlements(&["show", "--json", id]).succeeded(), line);
    for narrower in [["--state", "failed"], ["--tenant", "rival"]] {
        let arguments = [&["list"], &narrower[..]].concat();
        assert_eq!(settlements(&arguments).succeeded(), "");
    }
    let unknown = "0198c0de-0000-7000-8000-000000000000";
    settlements(&["show", unknown]).refused_with("the ledger has no settlement");
    let elsewhere = ["list", "--ledger", "sqlite://elsewhere.db"];
    settlements(&elsewhere).refused_with("the ledger cannot be opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_comes_with_the_lines_that_admit_it() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let ports = free_ports();
    let keyed = Setup::embedded(&chain)
        .config(ports)
        .replace("auth = \"open\"", "auth = \"keys\"");
    let desk = Desk::new(&chain, &keyed);
    desk.run(&["serve"]).refused_with("`server.keys` is empty");
    let out = desk.run(&["key", "new", "shop"]).succeeded();
    let key = out
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("teller_"))
        .unwrap();
    let lines = out.split_once("for the configuration:").unwrap().1;
    let file = desk.directory.path().join("teller.toml");
    std::fs::write(&file, format!("{keyed}\n{lines}")).unwrap();
    desk.run(&["check"]).succeeded();
    assert!(!std::fs::read_to_string(&file).unwrap().contains(key));
    desk.run(&["key", "new", "a shop"])
        .refused_with("a tenant's name is");

    let teller = Teller::start_with(&chain, ports, &format!("{keyed}\n{lines}")).await;
    for (shown, expected) in [(key, 200), ("teller_nonsense", 401)] {
        let listed = teller.http.get(format!("{}/settlements", teller.url));
        let answer = listed.bearer_auth(shown).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_migrated_by_command_and_sqlite_by_serve() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (ledger, reservations) = shared_stores().await;
    let setup = Setup {
        ledger,
        reservations,
        ..Setup::embedded(&chain)
    };
    let ports = free_ports();
    let shared = setup.config(ports);
    let desk = Desk::new(&chain, &shared);
    desk.run(&["serve"]).refused_with("run `teller migrate`");
    for _ in 0..2 {
        let out = desk.run(&["migrate"]).succeeded();
        assert_eq!(out, "the ledger is up to date\n");
    }
    assert_eq!(desk.run(&["settlements", "list"]).succeeded(), "");
    let teller = Teller::start_with(&chain, ports, &shared).await;
    let (status, readiness) = teller.get("/readyz").await;
    assert_eq!(status, 200, "{readiness}");

    let desk = Desk::new(&chain, &embedded(&chain));
    desk.run(&["migrate"]).succeeded();
    assert!(desk.directory.path().join("teller.db").is_file());
    assert_eq!(desk.run(&["settlements", "list"]).succeeded(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_served_is_refused_by_name() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let good = embedded(&chain);
    let desk = Desk::new(&chain, &good);
    for role in ["api", "settler"] {
        desk.run(&["serve", "--role", role])
            .refused_with("only --role all works with a SQLite ledger");
    }
    let open = [("TELLER__SERVER__REST", "0.0.0.0:0")];
    desk.run_with(&["serve"], &open)
        .refused_with("open_to_the_world");
    let open = [("TELLER__SERVER__GRPC", "0.0.0.0:0")];
    desk.run_with(&["serve"], &open)
        .refused_with("open_to_the_world");
    let unknown = [("TELLER__LEDGER__URI", "sqlite://other.db")];
    desk.run_with(&["serve"], &unknown)
        .refused_with("TELLER__LEDGER__URI: unknown key `ledger.uri`; did you mean `ledger.url`?");
    desk.run(&["serve", "--config", "nowhere.toml"])
        .refused_with("nowhere.toml cannot be read");
    let misspelt = Desk::new(&chain, &good.replace("signers =", "singers ="));
    misspelt
        .run(&["serve"])
        .refused_with("unknown key `networks[0].singers`; did you mean `networks[0].signers`?");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    desk.run_with(&["serve"], &[("TELLER__SERVER__REST", &address)])
        .refused_with(&format!("{address} cannot be listened on"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_overrides_the_file() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let desk = Desk::new(&chain, &embedded(&chain));
    let elsewhere = desk.directory.path().join("elsewhere.db");
    let ledger = format!("sqlite://{}", elsewhere.display());
    desk.run_with(&["migrate"], &[("TELLER__LEDGER__URL", &ledger)])
        .succeeded();
    assert!(elsewhere.is_file());
    assert!(!desk.directory.path().join("teller.db").exists());
    let nowhere = [("TELLER__NETWORKS__0__RPC", "http://127.0.0.1:1")];
    assert_eq!(desk.run_with(&["check"], &nowhere).code, 1);
    let twice = format!("{0},{0}", chain.devnet.rpc_url());
    let out = desk
        .run_with(&["check"], &[("TELLER__NETWORKS__0__RPC", &twice)])
        .succeeded();
    assert!(out.contains("rpc[1]: chain id 84532"), "{out}");
}
