//! The catalogue as both kinds of readers see it, over a real ledger. What is paid for is listed by the front door's tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // helpers outside #[test] functions are tests too

mod support;

use std::sync::Arc;

use alloy_primitives::Address;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use teller_api::{ApiConfig, Readiness};
use teller_domain::{ChainId, TenantId, X402Version};
use teller_store::{
    CatalogueBounds, Ledger, ListedTerms, ListingKind, MemoryReservations, NewListing, SqliteLedger,
};
use tower::ServiceExt;

const BOUNDS: CatalogueBounds = CatalogueBounds {
    resources: 1_000,
    resources_of_a_tenant: 1_000,
    kept_ms: 60_000,
};

struct Bench {
    _directory: tempfile::TempDir,
    ledger: Arc<SqliteLedger>,
    router: Router,
}

async fn bench(discovery: Option<CatalogueBounds>) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("teller.db");
    let ledger = Arc::new(SqliteLedger::open(&path).await.unwrap());
    let reservations = Arc::new(MemoryReservations::open(&ledger).await.unwrap());
    let config = ApiConfig {
        discovery,
        ..ApiConfig::default()
    };
    let dynamic: Arc<dyn Ledger> = ledger.clone();
    let api = support::api_as(
        config,
        support::keys(),
        Readiness::new(),
        dynamic,
        reservations,
    );
    Bench {
        _directory: directory,
        ledger,
        router: api.rest_router(),
    }
}

impl Bench {
    async fn list(&self, path: &str, version: X402Version, description: &str) {
        use teller_store::Catalogue;
        let is_v2 = version == X402Version::V2;
        let new = NewListing {
            tenant: TenantId::new("fast"),
            kind: ListingKind::Http,
            resource: format!("https://a.example/{path}"),
            version,
            description: Some(description.to_owned()),
            mime_type: None,
            service_name: None,
            tags: vec!["tag".to_owned()],
            icon_url: None,
            extensions: is_v2.then(|| r#"{"bazaar":{"info":{"n":1.50}}}"#.to_owned()),
            terms: ListedTerms {
                scheme: "exact".to_owned(),
                chain: ChainId(84532),
                asset: Address::repeat_byte(1),
                pay_to: Address::repeat_byte(2),
                requirements: r#"{"amount":"10","extra":{"x":1e400}}"#.to_owned(),
            },
        };
        self.ledger.list_resource(new, BOUNDS).await.unwrap();
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.text(path).await;
        (status, serde_json::from_str(&text).unwrap_or_default())
    }
}

#[tokio::test]
async fn the_catalogue_is_open_to_everybody_and_shows_what_sellers_wrote() {
    let bench = bench(Some(BOUNDS)).await;
    bench.list("w", X402Version::V2, "weather").await;
    let (status, text) = bench.text("/discovery/resources").await;
    assert_eq!(status, 200, "{text}");
    // Numbers keep their digits.
    assert!(
        text.contains(r#""accepts":[{"amount":"10","extra":{"x":1e400}}]"#),
        "{text}"
    );
    assert!(
        text.contains(r#""extensions":{"bazaar":{"info":{"n":1.50}}}"#),
        "{text}"
    );
    let (_, text) = bench.text("/discovery/resources?type=http").await;
    let page: Value = serde_json::from_str(&text.replace("1e400", "1")).unwrap();
    assert_eq!(page["x402Version"], 2);
    assert_eq!(
        page["pagination"],
        json!({"limit": 20, "offset": 0, "total": 1})
    );
    let item = &page["items"][0];
    assert_eq!(item["resource"], "https://a.example/w");
    assert_eq!(
        (&item["type"], &item["x402Version"]),
        (&json!("http"), &json!(2))
    );
    assert_eq!(item["tags"], json!(["tag"]));
    let updated = item["lastUpdated"].as_str().unwrap();
    assert!(
        updated.starts_with("20") && updated.ends_with('Z'),
        "{updated}"
    );
    assert!(item.get("serviceName").is_none());
}

#[tokio::test]
async fn filters_narrow_a_listing_and_wrong_ones_are_400() {
    let bench = bench(Some(BOUNDS)).await;
    bench.list("1", X402Version::V1, "old").await;
    bench.list("2", X402Version::V2, "new").await;
    let total = async |filters: &str| {
        let (status, text) = bench.text(&format!("/discovery/resources?{filters}")).await;
        assert_eq!(status, 200, "{filters}: {text}");
        let page: Value = serde_json::from_str(&text.replace("1e400", "1")).unwrap();
        page["pagination"]["total"].as_u64().unwrap()
    };
    let pay_to = Address::repeat_byte(2);
    for (filters, expected) in [
        ("", 2),
        ("type=mcp", 0),
        ("scheme=exact", 2),
        ("scheme=upto", 0),
        ("network=eip155:84532", 2),
        ("network=base-sepolia", 2),
        ("network=base", 0),
        ("extensions=bazaar", 1),
        ("extensions=bazaar,other", 0),
        ("extensions=other", 0),
        ("limit=1&offset=1", 2),
        ("unknown=1", 2),
    ] {
        assert_eq!(total(filters).await, expected, "{filters}");
    }
    assert_eq!(total(&format!("payTo={pay_to}")).await, 2);
    assert_eq!(total(&format!("payTo={}", Address::ZERO)).await, 0);
    for (filters, problem) in [
        ("type=ftp", "type must be http or mcp"),
        ("limit=0", "limit must be 1 to 100"),
        ("limit=101", "limit must be 1 to 100"),
        ("offset=-1", "offset must be 0 to 100000"),
        ("offset=100001", "offset must be 0 to 100000"),
        (
            "network=nowhere",
            "network must be eip155:<chain id> or a network name",
        ),
        ("payTo=0x12", "payTo must be an address"),
        ("type=http&type=mcp", "the query cannot be read"),
    ] {
        let answer = bench.get(&format!("/discovery/resources?{filters}")).await;
        assert_eq!(answer, (400, json!({ "error": problem })), "{filters}");
    }
}

#[tokio::test]
async fn a_search_goes_on_from_its_cursor_until_there_is_no_more() {
    let bench = bench(Some(BOUNDS)).await;
    for number in 0..5 {
        bench
            .list(&number.to_string(), X402Version::V2, "weather")
            .await;
    }
    bench.list("other", X402Version::V2, "news").await;
    let mut cursor = String::new();
    let mut found = Vec::new();
    loop {
        let path = format!("/discovery/search?query=weath&limit=2{cursor}");
        let (status, text) = bench.text(&path).await;
        assert_eq!(status, 200, "{text}");
        let page: Value = serde_json::from_str(&text.replace("1e400", "1")).unwrap();
        assert_eq!(
            (&page["x402Version"], &page["partialResults"]),
            (&json!(2), &json!(false))
        );
        assert_eq!(page["pagination"]["limit"], 2);
        let resources = page["resources"].as_array().unwrap();
        found.extend(
            resources
                .iter()
                .map(|one| one["resource"].as_str().unwrap().to_owned()),
        );
        match page["pagination"]["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 5);
    for (path, problem) in [
        ("search", "query must name a word to search for"),
        ("search?query=%20-", "query must name a word to search for"),
        ("search?query=a&cursor=x", "cursor must be 0 to 100000"),
    ] {
        let answer = bench.get(&format!("/discovery/{path}")).await;
        assert_eq!(answer, (400, json!({ "error": problem })));
    }
    let long = format!("/discovery/search?query={}", "a".repeat(513));
    assert_eq!(bench.get(&long).await.0, 400);
}

#[tokio::test]
async fn supported_names_the_catalogue_where_there_is_one() {
    let with = bench(Some(BOUNDS)).await;
    let extensions = with.get("/supported").await.1["extensions"].clone();
    assert_eq!(extensions, json!(["payment-identifier", "bazaar"]));
    let without = bench(None).await;
    let extensions = without.get("/supported").await.1["extensions"].clone();
    assert_eq!(extensions, json!(["payment-identifier"]));
    for path in ["/discovery/resources", "/discovery/search?query=x"] {
        let error = json!({"error": "this facilitator keeps no discovery catalogue"});
        assert_eq!(without.get(path).await, (404, error));
    }
    with.ledger.close().await;
    assert_eq!(with.get("/discovery/resources").await.0, 503);
}
