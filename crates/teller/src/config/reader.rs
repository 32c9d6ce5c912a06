//! Reads keys out of the tree: types, ranges, defaults and the refusal of what nobody asked for are here, once.
//!
//! Reading goes on after a mistake, so that an operator sees all of them at once.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::secret::{Secret, Secrets};
use super::tree::{Node, Origin, Table, Value};

/// How alike two keys must be for one to be offered in place of the other.
const ALIKE: f64 = 0.55;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, if it is anywhere.
    pub origin: Option<Origin>,
    /// What, with the key's full name.
    pub message: String,
}

/// What all sections share: where secrets are looked up and where problems are noted.
pub struct Reader<'a> {
    secrets: &'a Secrets,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    /// A reader that has found nothing wrong yet.
    pub fn new(secrets: &'a Secrets) -> Self {
        Self {
            secrets,
            problems: RefCell::default(),
        }
    }

    /// Notes a problem.
    pub fn problem(&self, origin: Option<Origin>, message: String) {
        self.problems.borrow_mut().push(Problem { origin, message });
    }

    /// What was wrong.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// Reads the root of the tree.
    pub fn root<T>(&self, table: Table, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        self.within(String::new(), None, table, read)
    }

    fn within<T>(
        &self,
        path: String,
        origin: Option<Origin>,
        table: Table,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let mut section = Section {
            reader: self,
            path,
            origin,
            left: table,
            known: Vec::new(),
        };
        let outcome = read(&mut section);
        section.refuse_unknown();
        outcome
    }
}

/// A table that is being read. Every key asked for is a known one; what is left at the end is refused.
pub struct Section<'a> {
    reader: &'a Reader<'a>,
    path: String,
    origin: Option<Origin>,
    left: Table,
    known: Vec<&'static str>,
}

impl Section<'_> {
    /// The full name of a key of this section.
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        self.left.remove(key)
    }

    /// Notes a problem with a key of this section, or with the section.
    pub fn problem(&self, origin: Option<Origin>, message: impl Display) {
        self.reader
            .problem(origin.or_else(|| self.origin.clone()), message.to_string());
    }

    fn refuse_unknown(self) {
        for (key, node) in &self.left {
            let nearest = self
                .known
                .iter()
                .map(|known| (strsim::jaro_winkler(known, key), known))
                .filter(|(likeness, _)| *likeness >= ALIKE)
                .max_by(|(a, _), (b, _)| a.total_cmp(b));
            let hint = match nearest {
                Some((_, known)) => format!("did you mean `{}`?", self.name(known)),
                None => format!("known here: {}", self.known.join(", ")),
            };
            self.problem(
                Some(node.origin.clone()),
                format!("unknown key `{}`; {hint}", self.name(key)),
            );
        }
    }

    /// A table of its own; an absent one reads as an empty one.
    pub fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let name = self.name(key);
        let (origin, table) = match self.take(key) {
            None => (None, Table::new()),
            Some(Node {
                origin,
                value: Value::Table(table),
            }) => (Some(origin), table),
            Some(node) => {
                self.problem(
                    Some(node.origin),
                    format!("`{name}` must be a table, not {}", node.value),
                );
                (None, Table::new())
            }
        };
        self.reader.within(name, origin, table, read)
    }

    /// A list of tables.
    pub fn sections<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> Option<T>,
    ) -> Vec<T> {
        let name = self.name(key);
        let mut all = Vec::new();
        for (index, item) in self.items(key).into_iter().enumerate() {
            let name = format!("{name}[{index}]");
            match item.value {
                Value::Table(table) => {
                    all.extend(
                        self.reader
                            .within(name, Some(item.origin), table, &mut read),
                    );
                }
                other => self.problem(
                    Some(item.origin),
                    format!("`{name}` must be a table, not {other}"),
                ),
            }
        }
        all
    }

    /// The entries of a list; of a variable, what stands between its commas.
    fn items(&mut self, key: &'static str) -> Vec<Node> {
        let name = self.name(key);
        match self.take(key) {
            None => Vec::new(),
            Some(Node {
                value: Value::List(items),
                ..
            }) => items,
            Some(Node {
                origin,
                value: Value::Variable(text),
            }) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Node {
                    origin: origin.clone(),
                    value: Value::Variable(item.to_owned()),
                })
                .collect(),
            Some(node) => {
                self.problem(
                    Some(node.origin),
                    format!("`{name}` must be a list, not {}", node.value),
                );
                Vec::new()
            }
        }
    }

    /// A whole number in a range.
    pub fn number(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.optional_number(key, range).unwrap_or(default)
    }

    /// A whole number in a range, or nothing.
    pub fn optional_number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let name = self.name(key);
        let node = self.take(key)?;
        let number = match &node.value {
            Value::Bare(text) | Value::Variable(text) => text.replace('_', "").parse().ok(),
            Value::Text(_) | Value::List(_) | Value::Table(_) => None,
        };
        match number {
            Some(number) if range.contains(&number) => return Some(number),
            _ => self.problem(
                Some(node.origin),
                format!(
                    "`{name}` must be a whole number from {} to {}, not {}",
                    range.start(),
                    range.end(),
                    node.value
                ),
            ),
        }
        None
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let name = self.name(key);
        let Some(node) = self.take(key) else {
            return default;
        };
        let flag = match &node.value {
            Value::Bare(text) | Value::Variable(text) => text.parse().ok(),
            Value::Text(_) | Value::List(_) | Value::Table(_) => None,
        };
        flag.unwrap_or_else(|| {
            self.problem(
                Some(node.origin),
                format!("`{name}` must be true or false, not {}", node.value),
            );
            default
        })
    }

    /// One of a few words; the first is the default.
    pub fn choice<T: Copy, const N: usize>(
        &mut self,
        key: &'static str,
        choices: [(&'static str, T); N],
        default: T,
    ) -> T {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let expected = format!("one of {}", words.join(", "));
        let found = self.parsed(key, &expected, |text| {
            choices
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, choice)| *choice)
        });
        found.unwrap_or(default)
    }

    /// A text that `parse` makes something of. `expected` completes "must be".
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let name = self.name(key);
        let node = self.take(key)?;
        let parsed = plain_text(&node.value).and_then(parse);
        if parsed.is_none() {
            self.problem(
                Some(node.origin),
                format!("`{name}` must be {expected}, not {}", node.value),
            );
        }
        parsed
    }

    /// A text of a type that can be read from one.
    pub fn text<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Option<T> {
        self.parsed(key, expected, |text| text.parse().ok())
    }

    /// Whether a key that was not read yet is there.
    pub fn has(&self, key: &str) -> bool {
        self.left.contains_key(key)
    }

    /// Makes a key a known one without reading it.
    pub fn known(&mut self, key: &'static str) {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
    }

    /// A text that must be there.
    pub fn required<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Option<T> {
        if !self.has(key) {
            self.known.push(key);
            self.missing(key, expected);
            return None;
        }
        self.text(key, expected)
    }

    fn missing(&self, key: &str, expected: &str) {
        self.problem(
            None,
            format!("`{}` is missing: {expected} is needed", self.name(key)),
        );
    }

    /// A list of texts of a type that can be read from one.
    pub fn list<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Vec<T> {
        let name = self.name(key);
        let mut all = Vec::new();
        for (index, item) in self.items(key).into_iter().enumerate() {
            match plain_text(&item.value).and_then(|text| text.parse().ok()) {
                Some(parsed) => all.push(parsed),
                None => self.problem(
                    Some(item.origin),
                    format!("`{name}[{index}]` must be {expected}, not {}", item.value),
                ),
            }
        }
        all
    }

    /// A text that may be secret: itself, or a reference to it.
    pub fn maybe_secret(&mut self, key: &'static str, default: &str) -> Secret {
        let name = self.name(key);
        let Some(node) = self.take(key) else {
            return Secret::new(default);
        };
        self.resolved(&name, &node, Literal::Allowed)
            .unwrap_or_else(|| Secret::new(default))
    }

    /// A reference to a secret, if there is one.
    pub fn optional_secret(&mut self, key: &'static str) -> Option<Secret> {
        let name = self.name(key);
        let node = self.take(key)?;
        self.resolved(&name, &node, Literal::Refused)
    }

    /// A list of texts that may be secret; it must not be empty.
    pub fn maybe_secrets(&mut self, key: &'static str, expected: &str) -> Vec<Secret> {
        self.secret_list(key, expected, Literal::Allowed)
    }

    /// A list of references to secrets; it must not be empty.
    pub fn secrets(&mut self, key: &'static str, expected: &str) -> Vec<Secret> {
        self.secret_list(key, expected, Literal::Refused)
    }

    fn secret_list(&mut self, key: &'static str, expected: &str, literal: Literal) -> Vec<Secret> {
        let name = self.name(key);
        let items = self.items(key);
        if items.is_empty() {
            self.missing(key, expected);
        }
        items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| self.resolved(&format!("{name}[{index}]"), item, literal))
            .collect()
    }

    fn resolved(&self, name: &str, node: &Node, literal: Literal) -> Option<Secret> {
        let Some(text) = plain_text(&node.value) else {
            self.problem(
                Some(node.origin.clone()),
                format!("`{name}` must be a text"),
            );
            return None;
        };
        match (self.reader.secrets.resolve(text), literal) {
            (Some(Ok(text)), _) => Some(Secret::new(text)),
            (Some(Err(message)), _) => {
                self.problem(Some(node.origin.clone()), format!("`{name}`: {message}"));
                None
            }
            (None, Literal::Allowed) => Some(Secret::new(text)),
            (None, Literal::Refused) => {
                self.problem(
                    Some(node.origin.clone()),
                    format!(
                        "`{name}` holds a literal key, and keys do not belong in a configuration: \
                         write env:NAME or file:PATH"
                    ),
                );
                None
            }
        }
    }
}

/// Whether a secret may stand in the configuration itself.
#[derive(Clone, Copy)]
enum Literal {
    Allowed,
    Refused,
}

fn plain_text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Variable(text) => Some(text),
        Value::Bare(_) | Value::List(_) | Value::Table(_) => None,
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line, column } => write!(f, "{line}:{column}"),
            Self::Environment(name) => f.write_str(name),
        }
    }
}
