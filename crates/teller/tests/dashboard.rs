//! Every panel of the dashboard shows something: a real Prometheus, with the configuration that deploy/ ships, scrapes a
//! real teller while payments flow, and is asked every panel's query.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers may fail as loudly as the test itself"
)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// Blocks take a second, rates need a few scrapes.
const DATA_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
const RATE_INTERVAL: &str = "10s";

#[tokio::test]
async fn every_panel_of_the_dashboard_has_data() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    let metrics = free_address();
    let _teller = start_teller(directory.path(), &metrics);
    let (_prometheus, api) = start_prometheus(directory.path(), &metrics);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut waiting = panel_queries();
    assert!(waiting.len() >= 9, "the dashboard has lost panels");
    let deadline = Instant::now() + DATA_WITHIN;
    loop {
        let mut empty = Vec::new();
        for (panel, query) in waiting {
            if !has_data(&http, &api, &query).await {
                empty.push((panel, query));
            }
        }
        if empty.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "no data after {DATA_WITHIN:?}: {empty:#?}"
        );
        waiting = empty;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Every target of every panel, with Grafana's variables filled in.
fn panel_queries() -> Vec<(String, String)> {
    let text =
        std::fs::read_to_string(repository().join("deploy/grafana/dashboards/settlements.json"))
            .unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"]
                .as_str()
                .unwrap()
                .replace("$__rate_interval", RATE_INTERVAL)
                .replace("$network", ".*");
            assert!(
                !query.contains('$'),
                "{title}: an unknown variable in {query}"
            );
            queries.push((title.to_owned(), query));
        }
    }
    queries
}

/// Whether the query gives at least one number: a quantile of nothing is NaN, which Grafana shows as no data.
async fn has_data(http: &reqwest::Client, api: &str, query: &str) -> bool {
    let url = reqwest::Url::parse_with_params(&format!("{api}/api/v1/query"), [("query", query)])
        .unwrap();
    let Ok(answer) = http.get(url).send().await else {
        return false;
    };
    let answer: Value = answer.json().await.unwrap();
    assert_ne!(answer["errorType"], "bad_data", "{query}: {answer}");
    answer["data"]["result"].as_array().is_some_and(|series| {
        series.iter().any(|one| {
            let value: Option<f64> = one["value"][1].as_str().and_then(|text| text.parse().ok());
            value.is_some_and(f64::is_finite)
        })
    })
}

fn start_teller(directory: &Path, metrics: &str) -> Process {
    let mut child = Command::new(env!("CARGO_BIN_EXE_teller"))
        .args(["dev", "--payments", "100000", "--rate", "20"])
        .current_dir(directory)
        .envs(anvil().map(|path| ("TELLER_ANVIL", path)))
        .env("TELLER__SERVER__REST", free_address())
        .env("TELLER__SERVER__GRPC", free_address())
        .env("TELLER__SERVER__METRICS", metrics)
        .env(
            "TELLER__LEDGER__URL",
            format!("sqlite://{}/teller.db", directory.display()),
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let teller = Process(child);
    let (told, ready) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.contains("teller is ready") {
                let _ = told.send(());
            }
        }
    });
    ready
        .recv_timeout(READY_WITHIN)
        .expect("teller dev was not ready in time, or ended");
    teller
}

/// The configuration that deploy/ ships, with this teller as its target and a scrape a second.
fn start_prometheus(directory: &Path, metrics: &str) -> (Process, String) {
    let shipped =
        std::fs::read_to_string(repository().join("deploy/prometheus/prometheus.yml")).unwrap();
    let config = shipped
        .replace("teller:9402", metrics)
        .replace("interval: 5s", "interval: 1s");
    assert!(
        config.contains(metrics) && config.contains("scrape_interval: 1s"),
        "{config}"
    );
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let address = free_address();
    let binary =
        std::env::var("TELLER_TEST_PROMETHEUS").unwrap_or_else(|_| "prometheus".to_owned());
    let child = Command::new(&binary)
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("prometheus").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{binary} (TELLER_TEST_PROMETHEUS) did not start: {error}"));
    (Process(child), format!("http://{address}"))
}

/// Ends with the test; teller is asked politely, so that it takes its chain along.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let deadline = Instant::now() + Duration::from_secs(20);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The test runs in a directory of its own, so the repository's anvil is named, if it has one.
fn anvil() -> Option<PathBuf> {
    let own = repository().join(".tools/bin/anvil");
    (std::env::var_os("TELLER_ANVIL").is_none() && own.is_file()).then_some(own)
}
