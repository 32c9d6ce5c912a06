//! The discovery catalogue: what was paid for and wants to be found (PROTOCOL section 7.4). Its rows are no part of the
//! books: they are bounded, replaced and forgotten.
//!
//! Whether a resource may be listed is not judged here.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use async_trait::async_trait;
use teller_domain::{ChainId, TenantId, UnixMillis, X402Version};

use crate::StoreResult;

/// How many requirements of one resource are kept: those that were paid last.
pub(crate) const MOST_ACCEPTS: i64 = 16;
/// The longest page.
const LARGEST_PAGE: u32 = 100;
/// How many words a resource is found by, and how many characters of each.
const MOST_WORDS: usize = 256;
const MOST_LETTERS: usize = 40;
/// How many words of a search count.
const MOST_SEARCHED: usize = 8;

/// What a resource is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListingKind {
    /// An HTTP endpoint.
    Http,
    /// A tool of an MCP server, by its name.
    Mcp(String),
}

impl ListingKind {
    /// The kind's name in ledger and API.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mcp(_) => "mcp",
        }
    }

    pub(crate) fn tool(&self) -> &str {
        match self {
            Self::Http => "",
            Self::Mcp(tool) => tool,
        }
    }
}

/// One way of paying for a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListedTerms {
    /// The scheme's name on the wire.
    pub scheme: String,
    /// The network.
    pub chain: ChainId,
    /// The token.
    pub asset: Address,
    /// Who receives.
    pub pay_to: Address,
    /// The payment requirements in JSON, as the seller sent them.
    pub requirements: String,
}

/// A resource that was just paid for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NewListing {
    /// Whose customers paid. Each tenant's listing of a URL is its own: nobody can write into another's.
    pub tenant: TenantId,
    /// What it is.
    pub kind: ListingKind,
    /// Its URL, without query and fragment.
    pub resource: String,
    /// The protocol version that it was paid with.
    pub version: X402Version,
    /// What it says it is.
    pub description: Option<String>,
    /// What it answers with.
    pub mime_type: Option<String>,
    /// Whose it says it is.
    pub service_name: Option<String>,
    /// What it says it is about.
    pub tags: Vec<String>,
    /// Its picture.
    pub icon_url: Option<String>,
    /// The extensions as a JSON object, `bazaar` among them; version 1 has none.
    pub extensions: Option<String>,
    /// How it was paid.
    pub terms: ListedTerms,
}

impl NewListing {
    /// What a search finds it by: its words, once each.
    pub(crate) fn words(&self) -> String {
        let texts = [
            Some(self.resource.as_str()),
            Some(self.kind.tool()),
            self.service_name.as_deref(),
            self.description.as_deref(),
            self.mime_type.as_deref(),
        ];
        let texts = texts.into_iter().flatten();
        let all = texts.chain(self.tags.iter().map(String::as_str));
        let words: BTreeSet<String> = all.flat_map(split).take(MOST_WORDS).collect();
        words.into_iter().collect::<Vec<_>>().join(" ")
    }
}

/// Runs of letters and digits, in lower case.
fn split(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.to_lowercase().chars().take(MOST_LETTERS).collect())
        // Lower case may bring marks of its own, which no tokenizer takes for letters.
        .filter(|word: &String| word.chars().all(char::is_alphanumeric))
}

/// What is asked for, as words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchWords(Vec<String>);

impl SearchWords {
    /// The first eight words of a text; `None` if it has none.
    pub fn of(text: &str) -> Option<Self> {
        let mut words: Vec<String> = Vec::new();
        for word in split(text) {
            if words.len() < MOST_SEARCHED && !words.contains(&word) {
                words.push(word);
            }
        }
        (!words.is_empty()).then_some(Self(words))
    }

    pub(crate) fn joined(&self, each: impl Fn(&str) -> String, between: &str) -> String {
        let words: Vec<String> = self.0.iter().map(|word| each(word)).collect();
        words.join(between)
    }
}

/// How large the catalogue may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogueBounds {
    /// How many resources there are at most; those that were paid for longest ago go.
    pub resources: u32,
    /// How many of them are one tenant's at most.
    pub resources_of_a_tenant: u32,
    /// How long a resource stays that nobody pays for, in milliseconds.
    pub kept_ms: u64,
}

/// Which resources to list. All given conditions hold together.
#[derive(Debug, Clone, Default)]
pub struct CatalogueQuery {
    /// Only of this kind: `http` or `mcp`.
    pub kind: Option<String>,
    /// Only those that pay this account.
    pub pay_to: Option<Address>,
    /// Only those that take this scheme.
    pub scheme: Option<String>,
    /// Only those that take this network.
    pub chain: Option<ChainId>,
    /// Only those with (or without) extensions.
    pub has_extensions: Option<bool>,
    /// Only those that nobody pays for since at most this long, in milliseconds.
    pub kept_ms: u64,
    /// How many to leave out.
    pub offset: u32,
    /// How many at most; implementations cap it at 100.
    pub limit: u32,
}

impl CatalogueQuery {
    pub(crate) fn page_size(&self) -> u32 {
        self.limit.clamp(1, LARGEST_PAGE)
    }
}

/// A resource of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// `http` or `mcp`
    pub kind: String,
    /// Its URL.
    pub resource: String,
    /// The protocol version that it was paid with last.
    pub version: X402Version,
    /// What it says it is.
    pub description: Option<String>,
    /// What it answers with.
    pub mime_type: Option<String>,
    /// Whose it says it is.
    pub service_name: Option<String>,
    /// What it says it is about.
    pub tags: Vec<String>,
    /// Its picture.
    pub icon_url: Option<String>,
    /// The extensions as a JSON object.
    pub extensions: Option<String>,
    /// Payment requirements in JSON, those that were paid last first.
    pub accepts: Vec<String>,
    /// When it was last paid for, by the database's clock.
    pub paid_at: UnixMillis,
}

/// A page of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CataloguePage {
    /// The resources.
    pub listings: Vec<Listing>,
    /// How many there are on all pages.
    pub total: u64,
}

/// The catalogue's contract. A part of every ledger.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// Lists a resource that was paid for, or brings its listing up to date; then removes what is beyond `bounds`.
    async fn list_resource(&self, new: NewListing, bounds: CatalogueBounds) -> StoreResult<()>;

    /// A page of the catalogue, what was paid for last first.
    async fn resources(&self, query: &CatalogueQuery) -> StoreResult<CataloguePage>;

    /// A page of what has all of these words or beginnings of words, best first; if nothing has all, of what has any.
    async fn search_resources(
        &self,
        words: &SearchWords,
        query: &CatalogueQuery,
    ) -> StoreResult<CataloguePage>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_search_has_at_most_eight_words_in_lower_case() {
        let words = SearchWords::of("  Weather, PARIS weather! ").unwrap();
        assert_eq!(words.0, ["weather", "paris"]);
        assert_eq!(SearchWords::of("-- !"), None);
        assert_eq!(SearchWords::of("a b c d e f g h i j").unwrap().0.len(), 8);
        assert_eq!(
            words.joined(|word| format!("{word}:*"), " & "),
            "weather:* & paris:*"
        );
    }

    proptest! {
        #[test]
        fn no_text_brings_anything_but_letters_and_digits(text in ".{0,80}") {
            if let Some(words) = SearchWords::of(&text) {
                for word in words.0 {
                    prop_assert!(!word.is_empty() && word.chars().all(char::is_alphanumeric));
                }
            }
        }
    }
}
