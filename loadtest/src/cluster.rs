//! Two API and two settler processes on one ledger and four signers: correct under load, what each process works, and how
//! long it takes until a dead or stopped settler's lanes are another's.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};

use crate::bench::find_binary;
use crate::cli::ClusterArgs;
use crate::compare::Comparison;
use crate::crash::Town;
use crate::error::LoadError;
use crate::fleet::Role;
use crate::sellers::{Asking, Told, settle_until_told};
use crate::sign;

const PAUSE: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const METRICS_WITHIN: Duration = Duration::from_secs(2);
/// A takeover that takes longer has failed.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// Payments that trickle in while a settler is away, one every so often.
const TRICKLE: usize = 100;
const TRICKLE_EVERY: Duration = Duration::from_millis(150);

/// How a settler goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    Killed,
    Stopped,
    Terminated,
}

impl Departure {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "kill -9",
            Self::Stopped => "SIGSTOP, later SIGCONT",
            Self::Terminated => "SIGTERM",
        }
    }
}

struct Takeover {
    departure: Departure,
    lanes: f64,
    took: Duration,
    longest_wait: Duration,
}

/// The command.
pub async fn cluster(args: ClusterArgs) -> Result<(), LoadError> {
    let binary = find_binary(args.teller.as_deref())?;
    let stores = Some((args.ledger, args.reservations));
    let mut town = Town::start(binary, stores, "cluster").await?;
    let lanes = town.signers.len() as f64;
    let result = measure(&mut town, args.payments, args.concurrency, lanes).await;
    if result.is_err() {
        eprintln!("{}", town.fleet.logs());
    }
    town.devnet.shutdown().await;
    result
}

async fn measure(
    town: &mut Town,
    payments: usize,
    concurrency: usize,
    lanes: f64,
) -> Result<(), LoadError> {
    let mut told = Vec::new();
    println!("| settler | lanes at the start |\n|---|---|");
    for settler in settlers(town) {
        println!("| {settler} | {} |", usable_lanes(town, settler).await);
    }
    work(town, payments, concurrency, &mut told).await?;
    let mut takeovers = Vec::new();
    for departure in [Departure::Killed, Departure::Stopped, Departure::Terminated] {
        takeovers.push(take_over(town, departure, lanes, &mut told).await?);
    }
    println!(
        "\n| a settler with lanes goes away by | its lanes | all lanes another's after | longest wait of a seller meanwhile |"
    );
    println!("|---|---|---|---|");
    for takeover in &takeovers {
        println!(
            "| {} | {} | {:.1} s | {:.1} s |",
            takeover.departure.name(),
            takeover.lanes,
            takeover.took.as_secs_f64(),
            takeover.longest_wait.as_secs_f64(),
        );
    }
    let compared: Comparison = town.compare(&told).await?;
    println!("\n| the whole run | |\n|---|---|\n{compared}");
    compared.demand().map(|_| ())
}

/// The load, and what it cost each process.
async fn work(
    town: &mut Town,
    payments: usize,
    concurrency: usize,
    told: &mut Vec<Told>,
) -> Result<(), LoadError> {
    let signed = sign::ahead(town.plan.clone(), payments).await?;
    let before = cpu(town)?;
    let start = Instant::now();
    let (http, urls) = (town.http.clone(), town.fleet.urls());
    let asked = signed.into_iter().enumerate().map(|(first, payment)| {
        let asking = Asking {
            urls: urls.clone(),
            first,
            pause: PAUSE,
            at_most: PATIENCE,
        };
        settle_until_told(http.clone(), payment, asking)
    });
    let heard: Vec<Told> = stream::iter(asked)
        .buffer_unordered(concurrency.max(1))
        .collect()
        .await;
    let took = start.elapsed();
    let after = cpu(town)?;
    let settled = heard
        .iter()
        .filter(|told| told.answers.iter().any(|answer| answer.is_success()))
        .count();
    println!(
        "\n{settled} of {payments} payments settled in {:.1} s by {concurrency} sellers: {:.0} a second\n",
        took.as_secs_f64(),
        settled as f64 / took.as_secs_f64()
    );
    println!("| process | CPU seconds per 1,000 payments |\n|---|---|");
    for (index, (before, after)) in before.iter().zip(&after).enumerate() {
        let role = town.fleet.member(index)?.role.name();
        println!(
            "| {role} {index} | {:.3} |",
            (after - before) * 1000.0 / payments as f64
        );
    }
    told.extend(heard);
    Ok(())
}

fn cpu(town: &mut Town) -> Result<Vec<f64>, LoadError> {
    let mut seconds = Vec::new();
    for index in 0..town.fleet.len() {
        let process = town.fleet.process(index)?;
        seconds.push(
            process
                .and_then(crate::process::Process::cpu_seconds)
                .unwrap_or(f64::NAN),
        );
    }
    Ok(seconds)
}

fn settlers(town: &Town) -> Vec<usize> {
    town.fleet.indexes(|role| role == Role::Settler)
}

/// Lanes that a process says it holds and may use; none if it does not answer.
async fn usable_lanes(town: &mut Town, index: usize) -> f64 {
    let Ok(url) = town.fleet.metrics_url(index) else {
        return 0.0;
    };
    let Ok(text) = town.http.text(&url, METRICS_WITHIN).await else {
        return 0.0;
    };
    let samples = text
        .lines()
        .filter(|line| line.starts_with("teller_lane_usable"));
    samples
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// The settler with the most lanes goes away while payments trickle in.
async fn take_over(
    town: &mut Town,
    departure: Departure,
    lanes: f64,
    told: &mut Vec<Told>,
) -> Result<Takeover, LoadError> {
    let mut held = Vec::new();
    for settler in settlers(town) {
        held.push((usable_lanes(town, settler).await, settler));
    }
    held.sort_by(|a, b| a.0.total_cmp(&b.0));
    let [(_, survivor), .., (its_lanes, victim)] = held.as_slice() else {
        return Err(LoadError::input("fleet", "has no two settlers"));
    };
    let (survivor, victim, its_lanes) = (*survivor, *victim, *its_lanes);
    let trickle = trickle(town).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let gone = Instant::now();
    match departure {
        Departure::Killed => town.fleet.kill(victim).await?,
        Departure::Stopped => town.fleet.signal(victim, "STOP").await?,
        Departure::Terminated => town.fleet.signal(victim, "TERM").await?,
    }
    while usable_lanes(town, survivor).await < lanes {
        if gone.elapsed() > TAKEN_WITHIN {
            return Err(LoadError::TimedOut {
                what: "no takeover",
                within: TAKEN_WITHIN,
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let took = gone.elapsed();
    match departure {
        Departure::Killed => {}
        Departure::Stopped => town.fleet.signal(victim, "CONT").await?,
        Departure::Terminated => {
            town.fleet.wait_for_end(victim, TAKEN_WITHIN).await?;
        }
    }
    let heard = trickle.await.map_err(|_| LoadError::Ended("the sellers"))?;
    let longest_wait = heard.iter().map(|told| told.took).max().unwrap_or_default();
    told.extend(heard);
    if departure != Departure::Stopped {
        town.fleet.start_member(victim).await?;
    }
    Ok(Takeover {
        departure,
        lanes: its_lanes,
        took,
        longest_wait,
    })
}

async fn trickle(town: &Town) -> Result<tokio::task::JoinHandle<Vec<Told>>, LoadError> {
    let signed = sign::ahead(town.plan.clone(), TRICKLE).await?;
    let (http, urls) = (town.http.clone(), town.fleet.urls());
    Ok(tokio::spawn(async move {
        let asked = signed.into_iter().zip(0_u32..).map(|(payment, number)| {
            let asking = Asking {
                urls: urls.clone(),
                first: number as usize,
                pause: PAUSE,
                at_most: PATIENCE,
            };
            let http = http.clone();
            async move {
                tokio::time::sleep(TRICKLE_EVERY * number).await;
                settle_until_told(http, payment, asking).await
            }
        });
        futures::future::join_all(asked).await
    }))
}
