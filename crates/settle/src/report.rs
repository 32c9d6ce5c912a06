//! What the engine tells its operator: metrics and one line a settled batch.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy_primitives::Address;
use metrics::{counter, gauge, histogram};
use teller_domain::{
    AccountNonce, Attempt, AttemptKind, ChainId, LaneMode, Level, Resolution, SettlementId,
    SettlementState, SettlementStateKind, SlotEnd, SlotId, Wei,
};
use teller_store::{SlotClosure, Spending, TopUp};

use crate::core::{Again, Core, Event, Need, Queued};
use crate::engine::Shell;

/// The state of the queue and the lanes. Signers are numbered as they are configured; a lane that is another process's,
/// or is being read again, shows as empty and in no mode.
pub(crate) fn core(shell: &Shell, core: &Core) {
    let network = core.chain().to_string();
    gauge!("teller_queue_depth", "network" => network.clone()).set(core.queue_depth() as f64);
    gauge!("teller_payments_awaiting_approval", "network" => network.clone())
        .set(core.unapproved() as f64);
    gauge!("teller_payments_unexplained", "network" => network.clone())
        .set(core.unexplained() as f64);
    let lanes: HashMap<Address, _> = core.lanes().map(|lane| (lane.signer(), lane)).collect();
    let flag = |set: bool| f64::from(u8::from(set));
    for (index, signer) in shell.parts.signers.iter().enumerate() {
        let labels = [
            ("network", network.clone()),
            ("signer_index", index.to_string()),
        ];
        let lane = lanes.get(&signer.address());
        let mode = lane.map(|lane| lane.mode());
        gauge!("teller_lane_depth", &labels).set(lane.map_or(0, |lane| lane.open_slots()) as f64);
        gauge!("teller_lane_frozen", &labels).set(flag(mode == Some(LaneMode::Frozen)));
        gauge!("teller_lane_usable", &labels).set(flag(lane.is_some_and(|lane| lane.is_usable())));
        for each in LaneMode::ALL {
            let [network, signer] = labels.clone();
            let labels = [network, signer, ("mode", each.as_str().to_owned())];
            gauge!("teller_lane_mode", &labels).set(flag(mode == Some(each)));
        }
    }
    let age = shell.oldest_open().as_secs_f64();
    gauge!("teller_oldest_open_slot_age_seconds", "network" => network).set(age);
    counter!("teller_invariant_violations_total", "invariant" => "attempts")
        .absolute(core.unsound_attempts());
}

/// What a signer has.
pub(crate) fn balance(shell: &Shell, signer: Address, balance: Wei) {
    let mut signers = shell.parts.signers.iter();
    let Some(index) = signers.position(|each| each.address() == signer) else {
        return;
    };
    let network = shell.chain().to_string();
    gauge!("teller_signer_balance_wei", "network" => network, "signer_index" => index.to_string())
        .set(f64::from(balance.0));
}

/// A lane without open slots goes on behind nonces that others have used.
pub(crate) fn used_by_others(
    chain: ChainId,
    signer: Address,
    next: AccountNonce,
    sealed: AccountNonce,
) {
    let nonces = sealed.0.saturating_sub(next.0);
    counter!("teller_external_nonces_total", "network" => chain.to_string()).increment(nonces);
    tracing::warn!(%signer, %next, %sealed, "a signer's key was used outside teller while nothing of its lane was open; the lane goes on with the chain's nonce");
}

/// Reorgs among what was seen.
pub(crate) fn reorgs(chain: ChainId, events: &[Event]) {
    for event in events {
        if let Event::Reorg { from } = event {
            counter!("teller_reorgs_total", "network" => chain.to_string()).increment(1);
            tracing::warn!(network = %chain, from, "the chain was reorganised");
        }
    }
}

/// Closed slots are open again.
pub(crate) fn reopened(chain: ChainId, nonces: &[AccountNonce]) {
    let slots = u64::try_from(nonces.len()).unwrap_or(u64::MAX);
    counter!("teller_slots_reopened_total", "network" => chain.to_string()).increment(slots);
    tracing::warn!(network = %chain, slots, "slots whose blocks a reorg took are open again");
}

/// Slots have reached a level.
pub(crate) fn levels_raised(chain: ChainId, level: Level, slots: usize) {
    let slots = u64::try_from(slots).unwrap_or(u64::MAX);
    counter!("teller_levels_reached_total", "network" => chain.to_string(), "level" => level.as_str())
        .increment(slots);
}

/// A Flashblock shows a slot's payments.
pub(crate) fn preconfirmed(chain: ChainId, slot: SlotId, payments: &[(SettlementId, u64)]) {
    if payments.is_empty() {
        tracing::info!(%slot, "a Flashblock that showed a slot is gone");
        return;
    }
    levels_raised(chain, Level::Preconfirmed, 1);
    for (payment, _) in payments {
        took(&chain.to_string(), *payment, "preconfirmed");
    }
}

/// What settling has cost today.
pub(crate) fn spent(chain: ChainId, spending: &Spending) {
    let network = chain.to_string();
    gauge!("teller_gas_spent_today_wei", "network" => network.clone())
        .set(f64::from(spending.total.0));
    gauge!("teller_top_ups_today_wei", "network" => network).set(f64::from(spending.top_ups.0));
}

/// Bytes go out.
pub(crate) fn broadcast(chain: ChainId, attempt: &Attempt, again: Again) {
    let kind = match (again, attempt.kind) {
        (Again::Repeat, _) => "rebroadcast",
        (Again::Outbid, AttemptKind::Batch) => "replacement",
        (_, AttemptKind::NoOp) => "noop",
        (Again::First, AttemptKind::Batch) => "first",
        (_, AttemptKind::TopUp) => "top_up",
    };
    counter!("teller_attempts_total", "network" => chain.to_string(), "kind" => kind).increment(1);
}

/// A payer is given the gas of his approval.
pub(crate) fn topped_up(id: SlotId, top_up: &TopUp) {
    let network = id.chain.to_string();
    counter!("teller_top_ups_total", "network" => network.clone()).increment(1);
    let value = u64::try_from(top_up.value.0).unwrap_or(u64::MAX);
    counter!("teller_top_up_wei_total", "network" => network).increment(value);
    tracing::info!(slot = %id, payer = %top_up.payer, value_wei = %top_up.value, "topping a payer up for the gas of his approval");
}

/// A payer's approval goes out, not for the first time perhaps.
pub(crate) fn approval_sent(chain: ChainId, outcome: &'static str) {
    counter!("teller_approvals_sent_total", "network" => chain.to_string(), "outcome" => outcome)
        .increment(1);
}

/// Payments reached an outcome outside a slot.
pub(crate) fn resolved(chain: ChainId, kinds: impl Iterator<Item = SettlementStateKind>) {
    for kind in kinds {
        payments(&chain.to_string(), kind.as_str(), 1);
    }
}

fn payments(network: &str, outcome: &'static str, count: u64) {
    counter!("teller_payments_total", "network" => network.to_owned(), "outcome" => outcome)
        .increment(count);
}

/// How long ago a payment was accepted: its id is a UUID version 7, made in that moment. `None` for a clock that
/// stepped back since.
fn age(id: SettlementId) -> Option<Duration> {
    let (seconds, nanoseconds) = id.0.get_timestamp()?.to_unix();
    let accepted = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    SystemTime::now().duration_since(accepted).ok()
}

fn took(network: &str, id: SettlementId, stage: &'static str) {
    if let Some(age) = age(id) {
        histogram!("teller_settle_duration_seconds", "network" => network.to_owned(), "stage" => stage)
            .record(age.as_secs_f64());
    }
}

/// Whether a payment that goes on as accepted waits for its payer's approval, as it does behind a top-up.
fn awaits_approval(id: SettlementId, queued: &[Queued]) -> bool {
    let found = queued.iter().find(|queued| queued.id == id);
    found.is_some_and(|queued| Need::of(&queued.payment) != Need::Nothing)
}

/// It is known what became of payments that had left their slots unexplained.
pub(crate) fn explained(chain: ChainId, resolutions: &[(SettlementId, Resolution)]) {
    let network = chain.to_string();
    for (id, resolution) in resolutions {
        let outcome = match resolution {
            Resolution::Resolved(state) => state.kind().as_str(),
            Resolution::Requeued => "requeued",
            Resolution::Unexplained { .. } => "unexplained",
        };
        tracing::info!(settlement = %id, network, outcome, "an unexplained payment is explained");
        payments(&network, outcome, 1);
    }
}

/// A slot was closed.
pub(crate) fn closed(shell: &Shell, closure: &SlotClosure, queued: &[Queued]) {
    let network = shell.chain().to_string();
    let mut outcomes: HashMap<&'static str, u64> = HashMap::new();
    let mut gas_per_payment = None;
    for (id, resolution) in &closure.resolutions {
        let outcome = match resolution {
            Resolution::Resolved(state) => state.kind().as_str(),
            Resolution::Requeued if awaits_approval(*id, queued) => "awaits_approval",
            Resolution::Requeued => "requeued",
            Resolution::Unexplained { .. } => "unexplained",
        };
        *outcomes.entry(outcome).or_default() += 1;
        let Resolution::Resolved(SettlementState::Settled(receipt)) = resolution else {
            continue;
        };
        gas_per_payment = Some((receipt.gas_used, f64::from(receipt.cost.0)));
        took(&network, *id, "included");
        let Some(payment) = queued
            .iter()
            .find(|queued| queued.id == *id)
            .map(|queued| &queued.payment)
        else {
            continue;
        };
        let asset = shell
            .parts
            .asset_names
            .get(&payment.asset)
            .cloned()
            .unwrap_or_default();
        let value = u64::try_from(payment.value.0).unwrap_or(u64::MAX);
        counter!("teller_settled_value_total", "network" => network.clone(), "asset" => asset)
            .increment(value);
    }
    for (outcome, count) in &outcomes {
        payments(&network, outcome, *count);
    }
    let (transaction, gas_used, cost) = match closure.end {
        SlotEnd::Mined {
            transaction,
            gas_used,
            cost,
        } => (transaction, gas_used, cost),
        SlotEnd::Foreign => {
            tracing::error!(slot = %closure.id, block = closure.block.number, "a slot ended with a stranger's transaction");
            return;
        }
    };
    levels_raised(shell.chain(), Level::Included, 1);
    let of_payments = outcomes.keys().any(|outcome| *outcome != "awaits_approval");
    if of_payments {
        histogram!("teller_batch_size", "network" => network.clone())
            .record(closure.resolutions.len() as f64);
    }
    if let Some((gas, cost)) = gas_per_payment {
        histogram!("teller_gas_per_payment", "network" => network.clone()).record(gas as f64);
        histogram!("teller_cost_per_payment_wei", "network" => network.clone()).record(cost);
    }
    let settled = outcomes.get("settled").copied().unwrap_or_default();
    tracing::info!(
        network,
        slot = %closure.id,
        %transaction,
        block = closure.block.number,
        payments = closure.resolutions.len(),
        settled,
        revived = closure.revived.len(),
        gas = gas_used,
        cost_wei = %cost,
        "batch mined"
    );
}
