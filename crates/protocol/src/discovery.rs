//! What the discovery catalogue answers (PROTOCOL section 7.4).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The answer to `GET /discovery/resources`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveryResources {
    /// 2
    pub x402_version: u8,
    /// One page of the catalogue.
    pub items: Vec<DiscoveredResource>,
    /// Which page it is.
    pub pagination: OffsetPage,
}

/// The answer to `GET /discovery/search`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiscoverySearch {
    /// 2
    pub x402_version: u8,
    /// What was found, best first.
    pub resources: Vec<DiscoveredResource>,
    /// Whether more might have been found with more time.
    pub partial_results: bool,
    /// Where to go on.
    pub pagination: Option<CursorPage>,
}

/// A place in the catalogue's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetPage {
    /// The most items on a page, 1 to 100.
    pub limit: u64,
    /// How many items stand before this page.
    pub offset: u64,
    /// How many items there are.
    pub total: u64,
}

/// A place in a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorPage {
    /// The most resources on a page.
    pub limit: u64,
    /// What to ask with for the next page; `None` on the last.
    pub cursor: Option<String>,
}

/// One resource of the catalogue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveredResource {
    /// Its URL.
    pub resource: String,
    /// `http` or `mcp`
    #[serde(rename = "type")]
    pub kind: String,
    /// The protocol version that it was paid with.
    pub x402_version: u8,
    /// What it accepts: payment requirements as their sellers wrote them.
    pub accepts: Vec<Box<RawValue>>,
    /// When it was last paid for, ISO 8601 in UTC.
    pub last_updated: String,
    /// What it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it answers with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// Whose it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// What it says it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Its picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icon_url: Option<String>,
    /// Extensions by id, `bazaar` among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Box<RawValue>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_have_the_shape_of_the_reference() {
        let text = r#"{"x402Version":2,"items":[{"resource":"https://a.example","type":"http","x402Version":2,"accepts":[{"amount":"1"}],"lastUpdated":"2026-01-01T00:00:00Z","serviceName":"a","tags":["b"],"extensions":{"bazaar":{}}}],"pagination":{"limit":20,"offset":0,"total":1}}"#;
        let listed: DiscoveryResources = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&listed).unwrap(), text);
        let text = r#"{"x402Version":2,"resources":[],"partialResults":false,"pagination":{"limit":10,"cursor":null}}"#;
        let found: DiscoverySearch = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&found).unwrap(), text);
    }
}
