//! From a file and the environment to a [`Config`], or to a list of everything that is wrong.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use super::reader::{Problem, Reader};
use super::secret::Secrets;
use super::tree::{Origin, Table, apply_environment, from_toml};
use super::{Config, read, rules};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong; every problem is named.
    #[error("{0}")]
    Invalid(Problems),
}

/// Everything that is wrong with a configuration, each on its line.
#[derive(Debug)]
pub struct Problems {
    source: String,
    all: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not usable")?;
        for problem in &self.all {
            f.write_str("\n  ")?;
            match &problem.origin {
                Some(Origin::File { line, column }) => {
                    write!(f, "{}:{line}:{column}: ", self.source)?;
                }
                Some(Origin::Environment(name)) => write!(f, "{name}: ")?,
                None => {}
            }
            f.write_str(&problem.message)?;
        }
        f.write_char('\n')
    }
}

/// Reads a file, lets the environment override it, and checks all of it.
///
/// # Errors
/// When the file cannot be read or anything in it is wrong.
pub fn from_file(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let environment: Vec<_> = environment.into_iter().collect();
    let secrets = Secrets::new(environment.clone(), path.parent());
    from_text(&text, &path.display().to_string(), environment, &secrets)
}

/// The same with a text in place of a file; `source` is what messages call it.
///
/// # Errors
/// When anything in it is wrong.
pub fn from_text(
    text: &str,
    source: &str,
    environment: impl IntoIterator<Item = (String, String)>,
    secrets: &Secrets,
) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut table = from_toml(text).unwrap_or_else(|error| {
        problems.push(Problem {
            origin: Some(error.origin),
            message: error.message,
        });
        Table::new()
    });
    let invalid = |all| {
        ConfigError::Invalid(Problems {
            source: source.to_owned(),
            all,
        })
    };
    // What is missing from a file that could not be parsed is not worth saying.
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    problems.extend(
        apply_environment(&mut table, environment)
            .into_iter()
            .map(|error| Problem {
                origin: Some(error.origin),
                message: error.message,
            }),
    );
    let reader = Reader::new(secrets);
    let config = reader.root(table, read::config);
    problems.extend(reader.into_problems());
    match config {
        Some(config) if problems.is_empty() => {
            let broken = rules::broken(&config);
            if broken.is_empty() {
                Ok(config)
            } else {
                Err(invalid(broken))
            }
        }
        _ => Err(invalid(problems)),
    }
}
