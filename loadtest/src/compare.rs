//! The one comparison that every fault ends with: the ledger's rows, the chain's logs and receipts, and what sellers
//! were told, each against the others. It shares no code with the facilitator's own audit.
//!
//! A long file, because ledger, chain and answers are compared in one pass.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256, keccak256};
use serde_json::{Value, json};

use crate::error::LoadError;
use crate::node::Node;
use crate::rest::Http;
use crate::sellers::Told;

const PAGE_WITHIN: Duration = Duration::from_secs(30);
/// Pages of a listing that are read at most.
const MAX_PAGES: usize = 10_000;

/// An authorization's payer and nonce.
pub type Key = (Address, B256);

/// What to compare.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The node, spoken to directly.
    pub node: &'a Node,
    /// The token.
    pub asset: Address,
    /// The facilitator's signers.
    pub signers: &'a [Address],
    /// Every row of the ledger, from [`rows`].
    pub rows: &'a [Value],
    /// What sellers were told.
    pub told: &'a [Told],
    /// Authorizations whose success was told and that a reorg took away for good: they must have compensating entries,
    /// which the audit looks at, and no transfer.
    pub compensated: &'a HashSet<Key>,
}

/// What came of the comparison.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Rows by state.
    pub states: BTreeMap<String, u64>,
    /// Authorizations that were used on the chain, with their transfers.
    pub transfers: u64,
    /// Authorizations used more than once, or whose success was told more than once.
    pub duplicates: u64,
    /// Rows without an outcome, outcomes without their transfer, transfers of ours without a row, sellers never told.
    pub losses: u64,
    /// Sellers who were told success.
    pub told_success: u64,
    /// Sellers whose last word was that somebody else had been told.
    pub told_duplicate: u64,
    /// Sellers whose last word was a failure, by reason.
    pub told_failure: BTreeMap<String, u64>,
    /// What the settled rows say was moved, in atomic units.
    pub value: U256,
    /// What the settled rows say it cost, in wei.
    pub cost: U256,
    /// Everything that does not fit, in words.
    pub differences: Vec<String>,
    /// The longest that a seller waited for the last word.
    pub longest: Duration,
}

impl Comparison {
    /// Rows in the ledger.
    pub fn accepted(&self) -> u64 {
        self.states.values().sum()
    }

    /// Everything fits, or what does not.
    pub fn demand(self) -> Result<Self, LoadError> {
        match self.differences.is_empty() {
            true => Ok(self),
            false => Err(LoadError::Differences(self.differences)),
        }
    }

    fn lost(&mut self, what: String) {
        self.losses = self.losses.saturating_add(1);
        self.differences.push(what);
    }

    fn duplicate(&mut self, what: String) {
        self.duplicates = self.duplicates.saturating_add(1);
        self.differences.push(what);
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |counts: &BTreeMap<String, u64>| {
            let counts: Vec<_> = counts
                .iter()
                .map(|(what, n)| format!("{n} {what}"))
                .collect();
            counts.join(", ")
        };
        writeln!(f, "| payments accepted | {} |", self.accepted())?;
        writeln!(f, "| outcomes | {} |", counted(&self.states))?;
        writeln!(f, "| transfers on chain | {} |", self.transfers)?;
        writeln!(f, "| told success | {} |", self.told_success)?;
        writeln!(
            f,
            "| told that another was told | {} |",
            self.told_duplicate
        )?;
        writeln!(f, "| told failure | {} |", counted(&self.told_failure))?;
        writeln!(f, "| value, ledger = chain | {} |", self.value)?;
        writeln!(f, "| cost in wei, ledger = receipts | {} |", self.cost)?;
        writeln!(f, "| duplicates | {} |", self.duplicates)?;
        writeln!(f, "| losses | {} |", self.losses)?;
        write!(
            f,
            "| longest time to the last word | {:.1} s |",
            self.longest.as_secs_f64()
        )
    }
}

/// Every settlement that a facilitator without tenants has, page by page.
pub async fn rows(http: &Http, url: &str) -> Result<Vec<Value>, LoadError> {
    let nonsense = || LoadError::input("/settlements", "answers no page");
    let mut all: Vec<Value> = Vec::new();
    for _ in 0..MAX_PAGES {
        let last = all.last().and_then(|row| text(row, "/id"));
        let before = last.map_or(String::new(), |id| format!("&before={id}"));
        let address = format!("{url}/settlements?limit=500{before}");
        let (_, mut page) = http.get(&address, PAGE_WITHIN).await?;
        let more = page
            .get("more")
            .and_then(Value::as_bool)
            .ok_or_else(nonsense)?;
        let Some(Value::Array(rows)) = page.get_mut("settlements").map(Value::take) else {
            return Err(nonsense());
        };
        let empty = rows.is_empty();
        all.extend(rows);
        if empty || !more {
            return Ok(all);
        }
    }
    Err(nonsense())
}

/// Whether every row has its outcome.
pub fn all_resolved(rows: &[Value]) -> bool {
    rows.iter().all(|row| !is_open(state(row)))
}

fn is_open(state: &str) -> bool {
    ["accepted", "assigned", "preconfirmed"].contains(&state)
}

fn is_settled(state: &str) -> bool {
    ["settled", "settled_externally"].contains(&state)
}

fn state(row: &Value) -> &str {
    text(row, "/state").unwrap_or_default()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

fn parsed<T: std::str::FromStr>(value: &Value, pointer: &str) -> Option<T> {
    text(value, pointer)?.parse().ok()
}

/// A `transferWithAuthorization` that was mined.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Use {
    transaction: B256,
    to: Address,
    value: U256,
}

/// The transactions that the chain has, by hash: who sent them and what they cost.
#[derive(Debug, Clone, Copy)]
struct Sent {
    from: Address,
    cost: U256,
}

/// Compares. What does not fit is in the answer; an error means that it could not be looked at.
pub async fn compare(subject: &Subject<'_>) -> Result<Comparison, LoadError> {
    let uses = uses(subject.node, subject.asset).await?;
    let mut transactions: HashSet<B256> = uses.values().flatten().map(|u| u.transaction).collect();
    transactions.extend(
        subject
            .rows
            .iter()
            .filter_map(|row| parsed::<B256>(row, "/receipt/transaction")),
    );
    let sent = sent(subject.node, transactions).await?;
    Ok(judge(subject, &Chain { uses, sent }))
}

/// What the chain has to say.
#[derive(Debug, Default)]
struct Chain {
    uses: HashMap<Key, Vec<Use>>,
    sent: HashMap<B256, Sent>,
}

fn judge(subject: &Subject<'_>, chain: &Chain) -> Comparison {
    let Chain { uses, sent } = chain;
    let mut result = Comparison {
        transfers: uses.values().map(|uses| uses.len() as u64).sum(),
        ..Comparison::default()
    };
    let mut rows: HashMap<Key, &Value> = HashMap::new();
    for row in subject.rows {
        *result.states.entry(state(row).to_owned()).or_default() += 1;
        let (Some(payer), Some(nonce)) = (parsed(row, "/payer"), parsed(row, "/nonce")) else {
            result.lost(format!("a row that cannot be read: {row}"));
            continue;
        };
        if rows.insert((payer, nonce), row).is_some() {
            result.duplicate(format!("two rows for {payer} {nonce}"));
        }
        check_row(&mut result, row, uses.get(&(payer, nonce)), subject, sent);
    }
    check_costs(&mut result, subject.rows, sent);
    for (key, uses) in uses {
        if uses.len() > 1 {
            result.duplicate(format!("{key:?} was used {} times", uses.len()));
        }
        let ours = |u: &Use| {
            sent.get(&u.transaction)
                .is_some_and(|s| subject.signers.contains(&s.from))
        };
        if uses.iter().any(ours) && !rows.contains_key(key) {
            result.lost(format!(
                "{key:?} was used by a signer of ours and has no row"
            ));
        }
    }
    check_told(&mut result, subject, &rows, uses);
    result
}

/// A row against the chain.
fn check_row(
    result: &mut Comparison,
    row: &Value,
    uses: Option<&Vec<Use>>,
    subject: &Subject<'_>,
    sent: &HashMap<B256, Sent>,
) {
    let state = state(row);
    let (payee, amount) = (parsed(row, "/payee"), parsed(row, "/amount"));
    let transfer = uses.and_then(|uses| {
        let fits = |u: &&Use| Some(u.to) == payee && Some(u.value) == amount;
        uses.iter().find(fits)
    });
    if is_open(state) {
        return result.lost(format!("has no outcome: {row}"));
    }
    match (is_settled(state), transfer) {
        (true, None) => result.lost(format!("settled, and not on the chain: {row}")),
        (false, Some(_)) => result.lost(format!("{state}, and the money moved: {row}")),
        (false, None) => {}
        (true, Some(transfer)) => {
            if parsed(row, "/receipt/transaction") != Some(transfer.transaction) {
                let other = transfer.transaction;
                result
                    .differences
                    .push(format!("settled in {other}, not where this says: {row}"));
            }
            let ours = sent
                .get(&transfer.transaction)
                .is_some_and(|sent| subject.signers.contains(&sent.from));
            if ours != (state == "settled") {
                result
                    .differences
                    .push(format!("{state} by the wrong sender: {row}"));
            }
            result.value = result.value.saturating_add(transfer.value);
        }
    }
}

/// Costs of settled rows sum to their receipts, transaction by transaction, to the unit.
fn check_costs(result: &mut Comparison, rows: &[Value], sent: &HashMap<B256, Sent>) {
    let mut costs: HashMap<B256, U256> = HashMap::new();
    for row in rows.iter().filter(|row| state(row) == "settled") {
        let transaction = parsed::<B256>(row, "/receipt/transaction");
        let (Some(transaction), Some(cost)) =
            (transaction, parsed::<U256>(row, "/receipt/costWei"))
        else {
            result
                .differences
                .push(format!("settled without a receipt: {row}"));
            continue;
        };
        let sum = costs.entry(transaction).or_default();
        *sum = sum.saturating_add(cost);
    }
    for (transaction, cost) in costs {
        result.cost = result.cost.saturating_add(cost);
        let receipt = sent.get(&transaction).map(|sent| sent.cost);
        if receipt != Some(cost) {
            let difference =
                format!("rows of {transaction} cost {cost} wei, the receipt says {receipt:?}");
            result.differences.push(difference);
        }
    }
}

/// What sellers were told against both.
fn check_told(
    result: &mut Comparison,
    subject: &Subject<'_>,
    rows: &HashMap<Key, &Value>,
    uses: &HashMap<Key, Vec<Use>>,
) {
    let mut successes: HashMap<Key, u64> = HashMap::new();
    for told in subject.told {
        let key = (told.payer, told.nonce);
        result.longest = result.longest.max(told.took);
        let row_state = rows.get(&key).map_or("absent", |row| state(row));
        let here = told
            .answers
            .iter()
            .filter(|answer| answer.is_success())
            .count() as u64;
        *successes.entry(key).or_default() += here;
        result.told_success += here;
        let Some(last) = told.last_word() else {
            let heard = told.answers.last().map(|answer| answer.body.to_string());
            result.lost(format!(
                "{key:?} ({row_state}) was never told; last heard {heard:?}"
            ));
            continue;
        };
        let money_moved = uses.contains_key(&key);
        if subject.compensated.contains(&key) {
            if money_moved {
                result.differences.push(format!(
                    "{key:?} was to be compensated, and the money moved"
                ));
            }
            continue;
        }
        let duplicate = last.reason() == "duplicate_settlement";
        if last.is_success() || duplicate {
            result.told_duplicate += u64::from(duplicate);
            if !is_settled(row_state) {
                result.lost(format!(
                    "{key:?} is {row_state}, and a seller was told {}",
                    last.body
                ));
            }
        } else {
            *result
                .told_failure
                .entry(last.reason().to_owned())
                .or_default() += 1;
            if is_settled(row_state) {
                result.lost(format!(
                    "{key:?} is {row_state}, and a seller was told {}",
                    last.body
                ));
            }
        }
    }
    for (key, count) in successes.into_iter().filter(|(_, count)| *count > 1) {
        result.duplicate(format!("success of {key:?} was told {count} times"));
    }
}

/// Every use of an authorization: `AuthorizationUsed` and the `Transfer` right behind it in the same transaction.
async fn uses(node: &Node, asset: Address) -> Result<HashMap<Key, Vec<Use>>, LoadError> {
    const METHOD: &str = "eth_getLogs";
    let used = keccak256("AuthorizationUsed(address,bytes32)");
    let transfer = keccak256("Transfer(address,address,uint256)");
    let filter = json!([{ "address": asset, "topics": [[used, transfer]], "fromBlock": "0x0", "toBlock": "latest" }]);
    let logs = node.call(METHOD, filter).await?;
    let nonsense = || LoadError::NodeAnswer {
        method: METHOD.to_owned(),
    };
    let logs = logs.as_array().ok_or_else(nonsense)?;
    let mut uses: HashMap<Key, Vec<Use>> = HashMap::new();
    for pair in logs.windows(2) {
        let [first, second] = pair else { continue };
        if parsed(first, "/topics/0") != Some(used) {
            continue;
        }
        let word = |log, pointer: &str| parsed::<B256>(log, pointer).ok_or_else(nonsense);
        let (payer, nonce) = (
            Address::from_word(word(first, "/topics/1")?),
            word(first, "/topics/2")?,
        );
        let transaction = word(first, "/transactionHash")?;
        let same_transfer = parsed(second, "/topics/0") == Some(transfer)
            && word(second, "/transactionHash")? == transaction
            && Address::from_word(word(second, "/topics/1")?) == payer;
        if same_transfer {
            uses.entry((payer, nonce)).or_default().push(Use {
                transaction,
                to: Address::from_word(word(second, "/topics/2")?),
                value: parsed::<U256>(second, "/data").ok_or_else(nonsense)?,
            });
        }
    }
    Ok(uses)
}

async fn sent(node: &Node, hashes: HashSet<B256>) -> Result<HashMap<B256, Sent>, LoadError> {
    const METHOD: &str = "eth_getTransactionReceipt";
    let hashes: Vec<B256> = hashes.into_iter().collect();
    let asked = hashes.iter().map(|hash| json!([hash])).collect();
    let receipts = node.batch(METHOD, asked).await?;
    let receipts = hashes.into_iter().zip(receipts);
    // A receipt that is missing is a difference where a row names it.
    Ok(receipts
        .filter_map(|(hash, receipt)| {
            let gas: U256 = parsed(&receipt, "/gasUsed")?;
            let price: U256 = parsed(&receipt, "/effectiveGasPrice")?;
            let from = parsed(&receipt, "/from")?;
            let cost = gas.saturating_mul(price);
            Some((hash, Sent { from, cost }))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sellers::Answer;

    const SIGNER: Address = Address::repeat_byte(1);
    const PAYEE: Address = Address::repeat_byte(2);
    const TRANSACTION: B256 = B256::repeat_byte(3);

    fn key(number: u8) -> Key {
        (Address::repeat_byte(number), B256::repeat_byte(number))
    }

    type Change = fn(&mut World);

    /// Ledger, chain and answers of two payments that were settled in one transaction.
    struct World {
        rows: Vec<Value>,
        chain: Chain,
        told: Vec<Told>,
    }

    fn row(number: u8, cost: &str) -> Value {
        let (payer, nonce) = key(number);
        json!({
            "id": number.to_string(), "state": "settled", "payer": payer, "nonce": nonce, "payee": PAYEE, "amount": "7",
            "receipt": { "transaction": TRANSACTION, "costWei": cost },
        })
    }

    fn told(number: u8, body: Value) -> Told {
        let (payer, nonce) = key(number);
        let after = Duration::from_secs(1);
        let answers = vec![Answer {
            status: 200,
            body,
            after,
        }];
        Told {
            payer,
            nonce,
            answers,
            took: after,
        }
    }

    fn success() -> Value {
        json!({ "success": true, "transaction": TRANSACTION })
    }

    impl World {
        fn sound() -> Self {
            let transfer = Use {
                transaction: TRANSACTION,
                to: PAYEE,
                value: U256::from(7),
            };
            let sent = Sent {
                from: SIGNER,
                cost: U256::from(101),
            };
            Self {
                rows: vec![row(10, "51"), row(11, "50")],
                chain: Chain {
                    uses: [10, 11]
                        .map(|number| (key(number), vec![transfer.clone()]))
                        .into(),
                    sent: [(TRANSACTION, sent)].into(),
                },
                told: vec![told(10, success()), told(11, success())],
            }
        }

        fn compared(&self) -> Comparison {
            let subject = Subject {
                node: &Node::new("http://127.0.0.1:1".parse().unwrap()),
                asset: Address::ZERO,
                signers: &[SIGNER],
                rows: &self.rows,
                told: &self.told,
                compensated: &HashSet::new(),
            };
            judge(&subject, &self.chain)
        }

        fn with(mut self, change: impl FnOnce(&mut Self)) -> Comparison {
            change(&mut self);
            self.compared()
        }
    }

    #[test]
    fn what_agrees_has_no_differences() {
        let compared = World::sound().compared();
        assert_eq!(compared.differences, Vec::<String>::new());
        assert_eq!((compared.transfers, compared.told_success), (2, 2));
        assert_eq!(
            (compared.value, compared.cost),
            (U256::from(14), U256::from(101))
        );
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let failure = || json!({ "success": false, "errorReason": "some_reason" });
        let pending = || json!({ "success": false, "errorReason": "settlement_pending" });
        let changes: [(&str, Change); 9] = [
            ("a settled row without a transfer", |world| {
                world.chain.uses.remove(&key(10));
            }),
            ("a transfer without a row", |world| {
                world.rows.pop();
            }),
            ("another amount", |world| {
                world.rows[0]["amount"] = json!("8")
            }),
            ("a row without an outcome", |world| {
                world.rows[0]["state"] = json!("assigned")
            }),
            ("a failed row whose money moved", |world| {
                world.rows[0]["state"] = json!("failed")
            }),
            ("a cost that is one wei off", |world| {
                world.rows[0] = row(10, "52")
            }),
            ("somebody else's transaction as ours", |world| {
                world
                    .chain
                    .sent
                    .entry(TRANSACTION)
                    .and_modify(|sent| sent.from = PAYEE);
            }),
            ("another transaction", |world| {
                world.rows[0]["receipt"]["transaction"] = json!(B256::ZERO);
            }),
            ("success told twice", |world| {
                world.told.push(told(10, success()))
            }),
        ];
        for (what, change) in changes {
            assert!(
                !World::sound().with(change).differences.is_empty(),
                "{what}"
            );
        }
        let wrong = World::sound().with(|world| world.told[0] = told(10, failure()));
        assert_eq!(wrong.losses, 1, "a failure told of money that moved");
        let untold = World::sound().with(|world| world.told[0] = told(10, pending()));
        assert_eq!(untold.losses, 1, "a seller who was never told");
    }
}
