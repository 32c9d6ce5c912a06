//! The configuration as it was written: a tree of values, each of which knows where it came from.
//!
//! A TOML file makes the tree, environment variables change it. What the keys mean is not known here.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};

/// What starts the name of every environment variable that sets a key.
pub const ENVIRONMENT_PREFIX: &str = "TELLER__";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A place in the configuration file, both counted from 1.
    File {
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// The environment variable of this name.
    Environment(String),
}

/// A value and its origin.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where the key (or, in a list, the value) stands.
    pub origin: Origin,
    /// What it is.
    pub value: Value,
}

/// Entries by key.
pub type Table = BTreeMap<String, Node>;

/// A value. Scalars stay texts: what a key wants to be is decided where it is read, and then an environment variable
/// and a file say the same thing in the same way.
#[derive(Debug, Clone)]
pub enum Value {
    /// Keys and values.
    Table(Table),
    /// Values in order.
    List(Vec<Node>),
    /// A quoted text of the file.
    Text(String),
    /// A number or a boolean of the file, as written.
    Bare(String),
    /// The whole of an environment variable.
    Variable(String),
}

/// A file that is no TOML, or a variable that fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeError {
    /// Where.
    pub origin: Origin,
    /// What is wrong.
    pub message: String,
}

/// Reads a TOML document.
pub fn from_toml(text: &str) -> Result<Table, TreeError> {
    let lines = Lines(text);
    let document = DeTable::parse(text).map_err(|error| TreeError {
        origin: lines.origin(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    Ok(table(document.get_ref(), &lines))
}

fn table(entries: &DeTable<'_>, lines: &Lines<'_>) -> Table {
    entries
        .iter()
        .map(|(key, entry)| {
            let node = Node {
                origin: lines.origin(key.span().start),
                value: value(entry.get_ref(), lines),
            };
            (key.get_ref().to_string(), node)
        })
        .collect()
}

fn value(written: &DeValue<'_>, lines: &Lines<'_>) -> Value {
    match written {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Bare(number.to_string()),
        DeValue::Float(number) => Value::Bare(number.to_string()),
        DeValue::Boolean(flag) => Value::Bare(flag.to_string()),
        DeValue::Datetime(moment) => Value::Bare(moment.to_string()),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Node {
                    origin: lines.origin(item.span().start),
                    value: value(item.get_ref(), lines),
                })
                .collect(),
        ),
        DeValue::Table(entries) => Value::Table(table(entries, lines)),
    }
}

struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.0.get(..offset).unwrap_or(self.0);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let in_line = before.get(line_start..).unwrap_or_default();
        Origin::File {
            line: before.matches('\n').count() + 1,
            column: in_line.chars().count() + 1,
        }
    }
}

/// One step from the root of the tree. Indices sort as numbers, so that they are set in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Index(usize),
    Key(String),
}

/// Sets every key that a variable of the environment names: `TELLER__NETWORKS__0__RPC` sets `networks[0].rpc`. Other
/// variables are left alone.
pub fn apply_environment(
    root: &mut Table,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Vec<TreeError> {
    let mut settings: Vec<(Vec<Step>, String, String)> = variables
        .into_iter()
        .filter_map(|(name, text)| {
            let path = name.strip_prefix(ENVIRONMENT_PREFIX)?;
            let steps = path.split("__").map(step).collect();
            Some((steps, name, text))
        })
        .collect();
    settings.sort();
    settings
        .into_iter()
        .filter_map(|(steps, name, text)| {
            let origin = Origin::Environment(name);
            let mut whole = Node {
                origin: origin.clone(),
                value: Value::Table(std::mem::take(root)),
            };
            let outcome = set(&mut whole, &steps, &origin, text);
            if let Value::Table(entries) = whole.value {
                *root = entries;
            }
            outcome.err().map(|message| TreeError { origin, message })
        })
        .collect()
}

fn step(text: &str) -> Step {
    match text.parse() {
        Ok(index) => Step::Index(index),
        Err(_) => Step::Key(text.to_lowercase()),
    }
}

fn set(node: &mut Node, steps: &[Step], origin: &Origin, text: String) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        *node = Node {
            origin: origin.clone(),
            value: Value::Variable(text),
        };
        return Ok(());
    };
    let next = match (step, &mut node.value) {
        (Step::Key(key), Value::Table(entries)) => entries
            .entry(key.clone())
            .or_insert_with(|| empty(rest, origin)),
        (Step::Index(index), Value::List(items)) => {
            if *index > items.len() {
                return Err(format!(
                    "index {index} leaves a gap: the list has {} entries",
                    items.len()
                ));
            }
            if *index == items.len() {
                items.push(empty(rest, origin));
            }
            items.get_mut(*index).ok_or("the index is out of range")?
        }
        (Step::Key(key), Value::List(_)) => {
            return Err(format!("a list stands here: an index is needed, not {key}"));
        }
        (Step::Index(index), Value::Table(_)) => {
            return Err(format!("a table stands here: a key is needed, not {index}"));
        }
        (_, Value::Text(_) | Value::Bare(_) | Value::Variable(_)) => {
            return Err("a value stands here that has no keys of its own".to_owned());
        }
    };
    set(next, rest, origin, text)
}

/// What a missing entry starts as, judged by the step that follows.
fn empty(rest: &[Step], origin: &Origin) -> Node {
    let value = match rest.first() {
        Some(Step::Key(_)) => Value::Table(Table::new()),
        Some(Step::Index(_)) => Value::List(Vec::new()),
        None => Value::Variable(String::new()),
    };
    Node {
        origin: origin.clone(),
        value,
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(_) => f.write_str("a table"),
            Self::List(_) => f.write_str("a list"),
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Bare(text) | Self::Variable(text) => f.write_str(text),
        }
    }
}
