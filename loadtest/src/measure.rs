//! One run with everything that is read beside it: processes, node calls, receipts.

use std::sync::Arc;
use std::time::Duration;

use crate::drive::{Facilitator, Ops, drive};
use crate::error::LoadError;
use crate::node::Node;
use crate::process::Process;
use crate::proxy::{Counts, Proxy, read_counts};
use crate::report::{Figures, on_chain};
use crate::sign::Signed;
use crate::target::Target;

/// Where node calls are counted.
pub enum Counter<'a> {
    Own(&'a Proxy),
    Elsewhere(Target),
    Nowhere,
}

impl Counter<'_> {
    async fn read(&self) -> Result<Option<Counts>, LoadError> {
        match self {
            Self::Own(proxy) => Ok(Some(proxy.counts())),
            Self::Elsewhere(proxy) => read_counts(proxy).await.map(Some),
            Self::Nowhere => Ok(None),
        }
    }
}

/// What is watched during a run.
pub struct Watch<'a> {
    pub facilitator: Option<Process>,
    pub node_process: Option<Process>,
    pub counter: Counter<'a>,
    /// Where receipts are read; not through the proxy.
    pub node: Option<Node>,
}

/// How hard the facilitator is driven.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub ops: Ops,
    pub concurrency: usize,
    pub at_most: Duration,
}

/// Drives the payments and reads what it cost.
pub async fn measure(
    facilitator: &Facilitator,
    load: Load,
    payments: Arc<Vec<Signed>>,
    watch: &Watch<'_>,
) -> Result<Figures, LoadError> {
    let own = Process::own();
    let cpu = |process: Option<Process>| process.and_then(Process::cpu_seconds);
    if let Some(process) = watch.facilitator {
        process.reset_peak_rss();
    }
    let calls_before = watch.counter.read().await?;
    let before = [watch.facilitator, Some(own), watch.node_process].map(cpu);
    let driven = drive(
        facilitator,
        load.ops,
        Arc::clone(&payments),
        load.concurrency,
        load.at_most,
    )
    .await?;
    let after = [watch.facilitator, Some(own), watch.node_process].map(cpu);
    let calls_after = watch.counter.read().await?;
    let spent = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
    let [facilitator_before, own_before, node_before] = before;
    let [facilitator_after, own_after, node_after] = after;

    let mut figures = Figures::new(&driven, load.concurrency, load.ops.each());
    figures.costs.peak_rss_mb = watch.facilitator.and_then(Process::peak_rss_mb);
    figures.costs.cpu_seconds = spent(facilitator_before, facilitator_after);
    figures.costs.generator_cpu_seconds = spent(own_before, own_after);
    figures.costs.node_cpu_seconds = spent(node_before, node_after);
    figures.costs.node_calls = calls_before
        .zip(calls_after)
        .map(|(before, after)| after.since(&before));
    if let Some(node) = &watch.node {
        figures.on_chain = on_chain(&driven, &payments, node).await?;
    }
    Ok(figures)
}
