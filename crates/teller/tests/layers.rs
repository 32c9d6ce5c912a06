//! Arrows between crates run one way. This is the list of them; `cargo metadata` says whether it holds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers may fail as loudly as the test itself"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Who may depend on whom.
const ARROWS: &[(&str, &[&str])] = &[
    ("teller-domain", &[]),
    ("teller-fuzz", &[]),
    ("teller-protocol", &[]),
    ("teller-schemes", &["teller-domain"]),
    ("teller-chain", &["teller-schemes", "teller-domain"]),
    ("teller-store", &["teller-domain"]),
    (
        "teller-verify",
        &[
            "teller-chain",
            "teller-store",
            "teller-schemes",
            "teller-domain",
        ],
    ),
    (
        "teller-settle",
        &[
            "teller-chain",
            "teller-store",
            "teller-schemes",
            "teller-domain",
        ],
    ),
    (
        "teller-api",
        &[
            "teller-verify",
            "teller-settle",
            "teller-store",
            "teller-protocol",
            "teller-domain",
        ],
    ),
    ("teller-devnet", &["teller-domain"]),
    (
        "teller",
        &[
            "teller-api",
            "teller-chain",
            "teller-devnet",
            "teller-domain",
            "teller-protocol",
            "teller-schemes",
            "teller-settle",
            "teller-store",
            "teller-verify",
        ],
    ),
    (
        // The api for its gRPC clients only.
        "teller-loadtest",
        &[
            "teller-api",
            "teller-devnet",
            "teller-domain",
            "teller-schemes",
        ],
    ),
];

/// Tests may also start a chain, sign payments, look into stores, and be run on many inputs.
const FOR_TESTS: &[&str] = &[
    "teller-devnet",
    "teller-domain",
    "teller-fuzz",
    "teller-schemes",
    "teller-store",
];

/// Tests of faults compare ledger and chain as the load generator's crash rounds do.
const FOR_TELLER_TESTS: &[&str] = &["teller-loadtest"];

/// The front door's tests put all of it together, as the binary does.
const FOR_API_TESTS: &[&str] = &["teller-chain"];

/// What a crate that knows no chain and no I/O must not even reach through others.
const NO_IO: &[(&str, &[&str])] = &[
    (
        "teller-domain",
        &["tokio", "reqwest", "tokio-tungstenite", "sqlx", "axum"],
    ),
    (
        "teller-protocol",
        &["tokio", "reqwest", "tokio-tungstenite", "sqlx", "axum"],
    ),
    (
        "teller-schemes",
        &["tokio", "reqwest", "tokio-tungstenite", "sqlx", "axum"],
    ),
];

#[test]
fn crates_depend_only_along_the_arrows() {
    let metadata = metadata();
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in members(&metadata) {
        let name = text(&package["name"]);
        let Some(allowed) = arrows.get(name) else {
            wrong.push(format!("{name} is not in the list of arrows"));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let target = text(&dependency["name"]);
            let ours = target == "teller" || target.starts_with("teller-");
            let in_tests = dependency["kind"] == "dev"
                && (FOR_TESTS.contains(&target)
                    || (name == "teller-api" && FOR_API_TESTS.contains(&target))
                    || (name == "teller" && FOR_TELLER_TESTS.contains(&target)));
            let crosses = matches!(
                (name, target),
                ("teller-store", "teller-chain") | ("teller-chain", "teller-store")
            );
            if ours && !allowed.contains(&target) && (!in_tests || crosses) {
                wrong.push(format!("{name} -> {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "against the arrows: {wrong:#?}");
}

#[test]
fn the_list_of_arrows_has_no_circle() {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut sorted: BTreeSet<&str> = BTreeSet::new();
    while sorted.len() < arrows.len() {
        let next: Vec<&str> = arrows
            .iter()
            .filter(|(name, targets)| {
                !sorted.contains(*name) && targets.iter().all(|target| sorted.contains(target))
            })
            .map(|(name, _)| *name)
            .collect();
        assert!(
            !next.is_empty(),
            "only these are free of circles: {sorted:?}"
        );
        sorted.extend(next);
    }
}

#[test]
fn the_lower_crates_reach_no_io() {
    let metadata = metadata();
    let names: BTreeMap<&str, &str> = list(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let edges: BTreeMap<&str, Vec<&str>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let normal = list(&node["deps"])
                .iter()
                .filter(|dep| {
                    list(&dep["dep_kinds"])
                        .iter()
                        .any(|kind| kind["kind"].is_null())
                })
                .map(|dep| text(&dep["pkg"]))
                .collect();
            (text(&node["id"]), normal)
        })
        .collect();
    for (name, banned) in NO_IO {
        let start = members(&metadata)
            .find(|package| package["name"] == *name)
            .map(|package| text(&package["id"]))
            .unwrap();
        let mut seen = BTreeSet::from([start]);
        let mut left = vec![start];
        while let Some(id) = left.pop() {
            left.extend(edges[id].iter().copied().filter(|next| seen.insert(next)));
        }
        let reached: Vec<_> = seen
            .iter()
            .map(|id| names[id])
            .filter(|name| banned.contains(name))
            .collect();
        assert!(reached.is_empty(), "{name} reaches {reached:?}");
    }
}

/// Of this machine's platform alone: the crates of others were never compiled, and need not be there.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", "host-tuple"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let ids = list(&metadata["workspace_members"]);
    list(&metadata["packages"])
        .iter()
        .filter(move |package| ids.contains(&package["id"]))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
