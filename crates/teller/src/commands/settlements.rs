//! `teller settlements`: the ledger, for people and scripts. Opens it for reading only.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{Value, json};
use teller_domain::{Settlement, SettlementState, TenantId, Told, known_assets};
use teller_store::SettlementQuery;

use super::{Failure, read_config};
use crate::cli::{LedgerArgs, ListArgs, SettlementsCommand};
use crate::config::Secret;
use crate::wiring;

/// Lists or shows.
pub async fn run(command: SettlementsCommand) -> Result<ExitCode, Failure> {
    match command {
        SettlementsCommand::List(args) => list(args).await,
        SettlementsCommand::Show { id, ledger } => {
            let book = Book::open(&ledger).await?;
            let found = book.ledger.settlement(id).await;
            match found.map_err(|error| Failure::new("the ledger did not answer", error))? {
                Some(settlement) => {
                    println!(
                        "{}",
                        if ledger.json {
                            json_line(&settlement)
                        } else {
                            book.page(&settlement)
                        }
                    );
                    Ok(ExitCode::SUCCESS)
                }
                None => Err(Failure::text(format!("the ledger has no settlement {id}"))),
            }
        }
    }
}

async fn list(args: ListArgs) -> Result<ExitCode, Failure> {
    let book = Book::open(&args.ledger).await?;
    let query = SettlementQuery {
        tenant: args.tenant.as_deref().map(TenantId::new),
        chain: args.network,
        state: args.state,
        payer: args.payer,
        nonce: args.nonce,
        transaction: args.transaction,
        before: args.before,
        limit: args.limit,
    };
    let page = book
        .ledger
        .list(&query)
        .await
        .map_err(|error| Failure::new("the ledger did not answer", error))?;
    for settlement in &page.settlements {
        let line = if args.ledger.json {
            json_line(settlement)
        } else {
            book.line(settlement)
        };
        println!("{line}");
    }
    if let (true, false, Some(last)) = (page.more, args.ledger.json, page.settlements.last()) {
        println!("older ones follow: --before {}", last.id);
    }
    Ok(ExitCode::SUCCESS)
}

/// A ledger and the names of what is in it.
struct Book {
    ledger: std::sync::Arc<dyn teller_store::Ledger>,
    assets: BTreeMap<(teller_domain::ChainId, alloy_primitives::Address), (String, u8)>,
}

impl Book {
    async fn open(args: &LedgerArgs) -> Result<Self, Failure> {
        let (url, configured) = match &args.ledger {
            Some(url) => (Secret::new(url.as_str()), Vec::new()),
            None => {
                let config = read_config(&args.config)?;
                let assets = config
                    .networks
                    .into_iter()
                    .flat_map(|network| network.assets);
                (config.ledger.url, assets.collect())
            }
        };
        let known = [8453, 84532]
            .into_iter()
            .flat_map(|id| known_assets(teller_domain::ChainId(id)));
        Ok(Self {
            ledger: wiring::open_ledger_to_read(&url).await?,
            assets: known
                .chain(configured)
                .map(|asset| ((asset.chain, asset.address), (asset.name, asset.decimals)))
                .collect(),
        })
    }

    fn value(&self, settlement: &Settlement) -> String {
        let payment = &settlement.payment;
        match self.assets.get(&(payment.key.chain, payment.asset)) {
            Some((name, decimals)) => {
                format!("{} {name}", decimal(&payment.value.to_string(), *decimals))
            }
            None => format!("{} of {}", payment.value, payment.asset),
        }
    }

    fn line(&self, settlement: &Settlement) -> String {
        let payment = &settlement.payment;
        format!(
            "{}  {}  {:<18} {:>16}  {} -> {}  {}",
            settlement.id,
            settlement.accepted_at.to_utc(),
            settlement.state.kind().as_str(),
            self.value(settlement),
            payment.key.payer,
            payment.payee,
            outcome(&settlement.state),
        )
    }

    fn page(&self, settlement: &Settlement) -> String {
        let payment = &settlement.payment;
        let mut page = String::new();
        let mut row = |name: &str, text: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "{name:<12} {text}");
        };
        row("id", settlement.id.to_string());
        row("tenant", settlement.tenant.to_string());
        row("state", settlement.state.kind().to_string());
        row("outcome", outcome(&settlement.state));
        row("network", payment.key.chain.to_string());
        row("value", self.value(settlement));
        row("payer", payment.key.payer.to_string());
        row("payee", payment.payee.to_string());
        row("nonce", payment.key.nonce.0.to_string());
        row("accepted", settlement.accepted_at.to_utc());
        row("changed", settlement.updated_at.to_utc());
        row("tries", settlement.tries.to_string());
        if let Some(told) = settlement.told {
            row("told", told_line(told));
        }
        if let SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) =
            &settlement.state
        {
            row("transaction", receipt.transaction.to_string());
            row(
                "block",
                format!("{} {}", receipt.block.number, receipt.block.hash),
            );
            row("log index", receipt.log_index.to_string());
            row("level", receipt.level.as_str().to_owned());
            row("gas", receipt.gas_used.to_string());
            row("cost", format!("{} wei", receipt.cost));
        }
        page.trim_end().to_owned()
    }
}

fn outcome(state: &SettlementState) -> String {
    match state {
        SettlementState::Accepted => "waits for a transaction".to_owned(),
        SettlementState::Assigned {
            transaction: None, ..
        } => "in a slot, not sent yet".to_owned(),
        SettlementState::Assigned {
            transaction: Some(transaction),
            ..
        }
        | SettlementState::Preconfirmed { transaction, .. } => format!("in {transaction}"),
        SettlementState::Unexplained { slot, transaction } => match transaction {
            Some(transaction) => format!("not settled by {transaction}; the chain is being asked"),
            None => format!("not settled in slot {slot}; the chain is being asked"),
        },
        SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
            receipt.transaction.to_string()
        }
        SettlementState::Failed { .. } | SettlementState::Expired | SettlementState::Withdrawn => {
            state
                .refusal()
                .map_or_else(String::new, |refusal| refusal.to_string())
        }
    }
}

fn told_line(told: Told) -> String {
    match told {
        Told::Success {
            transaction,
            level,
            at,
        } => format!(
            "success at {}, by {transaction}, {}",
            level.as_str(),
            at.to_utc()
        ),
        Told::Failure { reason, at } => format!("failure, {}, {}", reason.as_str(), at.to_utc()),
    }
}

fn told_json(told: Told) -> Value {
    match told {
        Told::Success {
            transaction,
            level,
            at,
        } => json!({ "success": true, "transaction": transaction, "level": level, "at": at.0 }),
        Told::Failure { reason, at } => {
            json!({ "success": false, "errorReason": reason.as_str(), "at": at.0 })
        }
    }
}

fn json_line(settlement: &Settlement) -> String {
    let payment = &settlement.payment;
    let mut object = json!({
        "id": settlement.id,
        "tenant": settlement.tenant,
        "state": settlement.state.kind(),
        "x402Version": settlement.version.number(),
        "network": payment.key.chain,
        "asset": payment.asset,
        "payer": payment.key.payer,
        "payTo": payment.payee,
        "amount": payment.value,
        "nonce": payment.key.nonce,
        "tries": settlement.tries,
        "acceptedAt": settlement.accepted_at.0,
        "updatedAt": settlement.updated_at.0,
        "told": settlement.told.map(told_json),
    });
    let outcome = match &settlement.state {
        SettlementState::Accepted | SettlementState::Unexplained { .. } => json!({}),
        state @ (SettlementState::Assigned { .. } | SettlementState::Preconfirmed { .. }) => {
            json!({ "transaction": state.transaction() })
        }
        SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
            json!({ "transaction": receipt.transaction, "receipt": receipt })
        }
        SettlementState::Failed {
            refusal,
            transaction,
        } => json!({
            "errorReason": refusal.reason.as_str(),
            "errorMessage": refusal.detail,
            "transaction": transaction,
        }),
        SettlementState::Expired | SettlementState::Withdrawn => json!({
            "errorReason": settlement.state.refusal().map(|refusal| refusal.reason.as_str()),
        }),
    };
    if let (Value::Object(object), Value::Object(outcome)) = (&mut object, outcome) {
        object.extend(outcome);
    }
    object.to_string()
}

/// `1234567` with 6 decimals is `1.234567`; zeros behind the second decimal are left out.
pub fn decimal(digits: &str, decimals: u8) -> String {
    let decimals = usize::from(decimals);
    if decimals == 0 {
        return digits.to_owned();
    }
    let padded = format!("{digits:0>width$}", width = decimals + 1);
    let (whole, fraction) = padded.split_at(padded.len() - decimals);
    let mut fraction = fraction.to_owned();
    while fraction.len() > 2 && fraction.ends_with('0') {
        fraction.pop();
    }
    format!("{whole}.{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        assert_eq!(decimal("10000", 6), "0.01");
        assert_eq!(decimal("1234567", 6), "1.234567");
        assert_eq!(decimal("1000000", 6), "1.00");
        assert_eq!(decimal("7", 0), "7");
    }
}
