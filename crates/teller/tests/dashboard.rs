//! Every panel of the dashboard shows something and every alert looks at something: a real Prometheus, with the
//! configuration and the rules that deploy/ ships, scrapes a real teller while payments flow, and is asked every query.

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
async fn every_panel_and_every_alert_has_data() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    let metrics = free_address();
    let _teller = start_teller(directory.path(), &metrics);
    let (_prometheus, api) = start_prometheus(directory.path(), &metrics);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut waiting = panel_queries();
    assert!(waiting.len() >= 22, "the dashboard has lost panels");
    let rules = rules(&http, &api).await;
    assert!(rules.len() >= 12, "alerts were lost: {rules:#?}");
    for (alert, query) in &rules {
        let looked_at = selectors(query);
        assert!(!looked_at.is_empty(), "{alert} looks at nothing");
        waiting.extend(looked_at.into_iter().map(|one| (alert.clone(), one)));
    }
    let deadline = Instant::now() + DATA_WITHIN;
    loop {
        let mut empty = Vec::new();
        for (panel, query) in waiting {
            if !has_data(&http, &api, &query).await {
                empty.push((panel, query));
            }
        }
        if empty.is_empty() {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "no data after {DATA_WITHIN:?}: {empty:#?}"
        );
        waiting = empty;
        tokio::time::sleep(PAUSE).await;
    }
    // Of a teller that does its work nobody is woken.
    // A machine that is busy with other things may be too slow for its blocks; that is no mistake of an alert.
    let woken = "ALERTS{alertstate=\"firing\", alertname!=\"TellerSlotStuck\"}";
    let firing = ask(&http, &api, "query", &[("query", woken)]).await;
    assert_eq!(firing["data"]["result"], serde_json::json!([]));
    for (alert, state) in rule_states(&http, &api).await {
        assert_eq!(state, "ok", "{alert}");
    }
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    let rules = repository().join("deploy/prometheus/rules_test.yml");
    let promtool = Path::new(&prometheus()).with_file_name("promtool");
    let checked = Command::new(&promtool)
        .args(["test", "rules"])
        .arg(&rules)
        .output()
        .unwrap_or_else(|error| panic!("{} did not start: {error}", promtool.display()));
    assert!(
        checked.status.success(),
        "{}{}",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    );
    // An alert that no case names was not shown to fire.
    let cases = std::fs::read_to_string(&rules).unwrap();
    let shipped =
        std::fs::read_to_string(repository().join("deploy/prometheus/rules.yml")).unwrap();
    for alert in shipped.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        assert!(
            cases.contains(&format!("alertname=\"{name}\"")),
            "no case fires {name}"
        );
    }
}

/// Every alert with its query, as Prometheus has read them.
async fn rules(http: &reqwest::Client, api: &str) -> Vec<(String, String)> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let rules = read_rules(http, api).await;
        if !rules.is_empty() {
            let texts = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
            return rules
                .iter()
                .map(|rule| (texts(rule, "name"), texts(rule, "query")))
                .collect();
        }
        assert!(Instant::now() < deadline, "Prometheus has read no rules");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Every alert with what came of its last evaluation.
async fn rule_states(http: &reqwest::Client, api: &str) -> Vec<(String, String)> {
    let rules = read_rules(http, api).await;
    let texts = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
    rules
        .iter()
        .map(|rule| (texts(rule, "name"), texts(rule, "health")))
        .collect()
}

async fn read_rules(http: &reqwest::Client, api: &str) -> Vec<Value> {
    let answer = ask(http, api, "rules", &[]).await;
    let groups = answer["data"]["groups"].as_array();
    let rules = groups.into_iter().flatten();
    rules
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// The series that a query looks at: every metric with its labels. Values that alerts wait for are absent while all is
/// well, the series themselves must not be.
fn selectors(query: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest
        .find("teller_")
        .into_iter()
        .chain(rest.find("up{"))
        .min()
    {
        let name = &rest[start..];
        let end = name.find(|c| !is_name(c)).unwrap_or(name.len());
        let labels = match name[end..].strip_prefix('{') {
            Some(labels) => labels.find('}').map_or(0, |close| close + 2),
            None => 0,
        };
        found.push(name[..end + labels].to_owned());
        rest = &name[end + labels..];
    }
    found
}

#[test]
fn a_query_s_selectors_are_found() {
    let query =
        "max(teller_a_b) >= on (x) 15 * rate(teller_c{d=\"e\"}[15m]) or up{job=\"teller\"} == 0";
    assert_eq!(
        selectors(query),
        ["teller_a_b", "teller_c{d=\"e\"}", "up{job=\"teller\"}"]
    );
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
    let answer = ask(http, api, "query", &[("query", query)]).await;
    assert_ne!(answer["errorType"], "bad_data", "{query}: {answer}");
    answer["data"]["result"].as_array().is_some_and(|series| {
        series.iter().any(|one| {
            let value: Option<f64> = one["value"][1].as_str().and_then(|text| text.parse().ok());
            value.is_some_and(f64::is_finite)
        })
    })
}

/// What Prometheus answers; nothing while it is starting.
async fn ask(http: &reqwest::Client, api: &str, what: &str, query: &[(&str, &str)]) -> Value {
    let url = reqwest::Url::parse_with_params(&format!("{api}/api/v1/{what}"), query).unwrap();
    match http.get(url).send().await {
        Ok(answer) => answer.json().await.unwrap_or_default(),
        Err(_) => Value::Null,
    }
}

fn start_teller(directory: &Path, metrics: &str) -> Process {
    let mut child = Command::new(env!("CARGO_BIN_EXE_teller"))
        .args(["dev", "--payments", "100000", "--rate", "20"])
        .current_dir(directory)
        .envs(anvil().map(|path| ("TELLER_ANVIL", path)))
        .env("TELLER__SERVER__REST", free_address())
        .env("TELLER__SERVER__GRPC", free_address())
        .env("TELLER__SERVER__METRICS", metrics)
        // A thousand coins: something to show, and never reached.
        .env(
            "TELLER__NETWORKS__0__BUDGET__MAX_WEI_PER_DAY",
            "1000000000000000000000",
        )
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
    let rules = repository().join("deploy/prometheus/rules.yml");
    std::fs::copy(rules, directory.join("rules.yml")).unwrap();
    let address = free_address();
    let binary = prometheus();
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

fn prometheus() -> String {
    std::env::var("TELLER_TEST_PROMETHEUS").unwrap_or_else(|_| "prometheus".to_owned())
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
