//! Seeds, and what they must find.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::stage::Stage;
use super::switches::Switch;
use super::world::World;

/// Seeds of the plain test run.
const SEEDS: u64 = 2_000;
/// Seeds after which a switched-off rule must have been noticed.
const BOUND: u64 = 12_000;
/// Seeds that share one ledger file, each with a network of its own.
const SEEDS_A_LEDGER: u64 = 100;

/// What a run of seeds came to.
#[derive(Debug, Default)]
struct Summary {
    seeds: u64,
    events: u64,
    checks: u64,
    payments: u64,
    faults: BTreeMap<&'static str, u64>,
    found: Option<(u64, String)>,
    /// Every violation by its beginning, with the first seed and how many.
    kinds: BTreeMap<String, (u64, u64)>,
}

fn run_seed(stage: &Stage, seed: u64, rule: Option<Switch>, summary: &Mutex<Summary>) {
    let mut world = World::new(stage, seed, rule, false);
    let result = world.run();
    let mut summary = summary.lock().unwrap();
    summary.seeds += 1;
    summary.events += world.check.events;
    summary.checks += world.check.checks;
    summary.payments += world.check.accepted.len() as u64;
    for (kind, count) in &world.check.faults {
        *summary.faults.entry(kind).or_default() += count;
    }
    if let Err(why) = &result {
        let kind: String = why.chars().filter(|c| !c.is_numeric()).take(60).collect();
        let (first, count) = summary.kinds.entry(kind).or_insert((seed, 0));
        *first = seed.min(*first);
        *count += 1;
    }
    if let Err(why) = result
        && summary
            .found
            .as_ref()
            .is_none_or(|(first, _)| seed < *first)
    {
        summary.found = Some((seed, why));
    }
}

/// Runs seeds on all cores until one finds something.
fn run_seeds(from: u64, count: u64, rule: Option<Switch>) -> Summary {
    let goes_on = std::env::var_os("TELLER_SIMULATION_GO_ON").is_some();
    let next = Arc::new(AtomicU64::new(from));
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .min(8)
        * 3;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && next.load(Ordering::Relaxed) < from + count {
                    let stage = Stage::new();
                    for _ in 0..SEEDS_A_LEDGER {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= from + count || stop.load(Ordering::Relaxed) {
                            break;
                        }
                        run_seed(&stage, seed, rule, &summary);
                        if !goes_on && summary.lock().unwrap().found.is_some() {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    summary.into_inner().unwrap()
}

fn replay(seed: u64, rule: Option<Switch>) -> String {
    let rule = rule.map_or(String::new(), |rule| {
        format!(" TELLER_SIMULATION_RULE={}", rule.name())
    });
    format!(
        "TELLER_SIMULATION_SEED={seed}{rule} cargo test -p teller-settle --lib simulation::tests::replay_a_seed -- --nocapture --exact --ignored"
    )
}

/// Prints every event of one seed. Which one, and which rule is off, is in the environment.
#[test]
#[ignore = "a tool: replays the seed that TELLER_SIMULATION_SEED names"]
fn replay_a_seed() {
    let seed = std::env::var("TELLER_SIMULATION_SEED").expect("TELLER_SIMULATION_SEED");
    let rule = std::env::var("TELLER_SIMULATION_RULE").ok();
    let rule = rule.map(|name| Switch::named(&name));
    let stage = Stage::new();
    let mut world = World::new(&stage, seed.parse().unwrap(), rule, true);
    let result = world.run();
    println!("{}", world.trace.take().unwrap_or_default().join("\n"));
    println!("{result:?}");
}

#[test]
fn no_seed_breaks_an_invariant() {
    let count = std::env::var("TELLER_SIMULATION_SEEDS").ok();
    let count = count.map_or(SEEDS, |count| count.parse().unwrap());
    let from = std::env::var("TELLER_SIMULATION_FROM").ok();
    let from = from.map_or(0, |from| from.parse().unwrap());
    let began = Instant::now();
    let summary = run_seeds(from, count, None);
    println!(
        "{} seeds, {} events, {} payments, {} checks of invariants, {:.1} s",
        summary.seeds,
        summary.events,
        summary.payments,
        summary.checks,
        began.elapsed().as_secs_f64()
    );
    for (kind, count) in &summary.faults {
        println!("  {count:>9} {kind}");
    }
    for (kind, (first, count)) in &summary.kinds {
        println!("BROKEN {count:>6} first {first:>6}: {kind}");
    }
    if let Some((seed, why)) = summary.found {
        panic!("seed {seed}: {why}\nreplay: {}", replay(seed, None));
    }
    assert_eq!(summary.seeds, count);
}

/// Without any one of its rules the engine is found out.
#[test]
fn every_rule_that_is_switched_off_is_missed() {
    let only = std::env::var("TELLER_SIMULATION_RULE").ok();
    let rules: Vec<Switch> = match only {
        Some(name) => vec![Switch::named(&name)],
        None => Switch::all().collect(),
    };
    let mut unnoticed = Vec::new();
    for rule in rules {
        let summary = run_seeds(0, BOUND, Some(rule));
        match summary.found {
            Some((seed, why)) => {
                // The very seed finds nothing when the rule holds.
                let with_rule = run_seeds(seed, 1, None);
                assert!(with_rule.found.is_none(), "{rule:?}: {:?}", with_rule.found);
                let why: String = why.chars().take(110).collect();
                println!(
                    "{:<22} seed {seed:>5} after {:>5} seeds: {why}",
                    rule.name(),
                    summary.seeds
                );
            }
            None => unnoticed.push(rule),
        }
    }
    assert!(
        unnoticed.is_empty(),
        "not noticed in {BOUND} seeds: {unnoticed:?}"
    );
}
