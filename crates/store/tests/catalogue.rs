//! The contract of the discovery catalogue, the moment of settlement and the binding of buyers' identifiers, held
//! against every ledger.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    unused_imports,
    reason = "a test's helpers may fail as loudly as the test itself, and this file uses some of them only"
)]

#[macro_use]
mod support;

use alloy_primitives::Address;
use support::*;
use teller_domain::*;
use teller_store::*;

contract! {
    a_settlement_keeps_the_moment_at_which_it_was_settled,
    what_is_settled_again_gets_a_new_moment,
    a_payment_identifier_belongs_to_one_payment_of_its_tenant,
    a_resource_is_listed_once_with_every_way_of_paying,
    of_many_ways_of_paying_the_last_sixteen_stay,
    every_tenant_lists_for_itself,
    an_mcp_server_has_as_many_listings_as_tools,
    filters_hold_together_for_one_way_of_paying,
    pages_show_what_was_paid_for_last_first,
    the_catalogue_stays_within_its_bounds,
    what_nobody_pays_for_is_not_shown_and_goes,
    words_are_found_by_their_beginnings_in_any_case,
    what_has_every_word_goes_before_what_has_some,
    a_changed_description_is_found_by_its_new_words_only,
    letters_of_every_script_and_signs_of_query_languages_are_only_words,
}

const BOUNDS: CatalogueBounds = CatalogueBounds {
    resources: 100,
    resources_of_a_tenant: 50,
    kept_ms: 60_000,
};

fn listing(resource: &str) -> NewListing {
    NewListing {
        tenant: tenant("shop"),
        kind: ListingKind::Http,
        resource: resource.to_owned(),
        version: X402Version::V2,
        description: None,
        mime_type: None,
        service_name: None,
        tags: Vec::new(),
        icon_url: None,
        extensions: Some(r#"{"bazaar":{}}"#.to_owned()),
        terms: terms(0xee),
    }
}

fn terms(pay_to: u8) -> ListedTerms {
    ListedTerms {
        scheme: "exact".to_owned(),
        chain: CHAIN,
        asset: ASSET,
        pay_to: Address::repeat_byte(pay_to),
        requirements: format!(r#"{{"payTo":"{pay_to}"}}"#),
    }
}

fn query() -> CatalogueQuery {
    CatalogueQuery {
        kept_ms: 60_000,
        limit: 100,
        ..CatalogueQuery::default()
    }
}

impl TestLedger {
    async fn list(&self, new: NewListing) {
        self.ledger.list_resource(new, BOUNDS).await.unwrap();
    }

    async fn listed(&self, query: &CatalogueQuery) -> Vec<String> {
        let page = self.ledger.resources(query).await.unwrap();
        page.listings.into_iter().map(|one| one.resource).collect()
    }

    async fn found(&self, text: &str) -> Vec<String> {
        let words = SearchWords::of(text).unwrap();
        let page = self
            .ledger
            .search_resources(&words, &query())
            .await
            .unwrap();
        assert_eq!(page.total, page.listings.len() as u64);
        page.listings.into_iter().map(|one| one.resource).collect()
    }
}

async fn a_settlement_keeps_the_moment_at_which_it_was_settled(store: TestLedger) {
    let fence = lane(&store).await;
    let payment = accept(&store).await;
    let slot = opened(&store, fence, 5, &[payment.id]).await;
    let (_, none) = store.ledger.settled(payment.id).await.unwrap().unwrap();
    assert_eq!(none, None);
    let state = settled(slot.attempt.hash, 77);
    let closing = closure(&slot, vec![resolved(payment.id, state)]);
    store.ledger.close_slot(fence, closing).await.unwrap();
    let (row, at) = store.ledger.settled(payment.id).await.unwrap().unwrap();
    assert_eq!(at, Some(row.updated_at));
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let nonces = [AccountNonce(5)];
    let raised = store.ledger.raise_levels(fence, &nonces, Level::Safe);
    raised.await.unwrap();
    let (row, same) = store.ledger.settled(payment.id).await.unwrap().unwrap();
    assert_eq!((row.state.level(), same), (Some(Level::Safe), at));
    assert!(at.unwrap() < row.updated_at);
    let unknown = store.ledger.settled(SettlementId::fresh()).await.unwrap();
    assert!(unknown.is_none());
}

async fn what_is_settled_again_gets_a_new_moment(store: TestLedger) {
    let fence = lane(&store).await;
    let payment = accept(&store).await;
    let slot = opened(&store, fence, 5, &[payment.id]).await;
    let closing = || {
        let state = settled(slot.attempt.hash, 77);
        closure(&slot, vec![resolved(payment.id, state)])
    };
    store.ledger.close_slot(fence, closing()).await.unwrap();
    let (_, first) = store.ledger.settled(payment.id).await.unwrap().unwrap();
    let nonces = [AccountNonce(5)];
    store.ledger.reopen_slots(fence, &nonces).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    store.ledger.close_slot(fence, closing()).await.unwrap();
    let (_, second) = store.ledger.settled(payment.id).await.unwrap().unwrap();
    assert!(first.unwrap() < second.unwrap());
}

async fn a_payment_identifier_belongs_to_one_payment_of_its_tenant(store: TestLedger) {
    let id: IdempotencyKey = "order_0123456789abcdef".parse().unwrap();
    let (one, two) = (payment().digest(), payment().digest());
    let bind = async |name: &str, scope, digest| {
        let tenant = tenant(name);
        let binding = store
            .ledger
            .bind_idempotency_key(&tenant, scope, &id, digest);
        binding.await.unwrap()
    };
    let scope = "payment-identifier";
    let bound = bind("shop", scope, one).await;
    assert!(matches!(bound, IdempotencyOutcome::Bound(_)));
    assert_eq!(bind("shop", scope, one).await, bound);
    let used = IdempotencyOutcome::UsedForAnother(one);
    assert_eq!(bind("shop", scope, two).await, used);
    // Another tenant's id and a seller's Idempotency-Key of the same text are something else.
    for (name, scope) in [("rival", scope), ("shop", "settle")] {
        let elsewhere = bind(name, scope, two).await;
        assert!(matches!(elsewhere, IdempotencyOutcome::Bound(_)));
        assert_ne!(elsewhere, bound);
    }
    assert_eq!(bind("shop", scope, one).await, bound);
}

async fn a_resource_is_listed_once_with_every_way_of_paying(store: TestLedger) {
    let mut first = listing("https://a.example/w");
    first.description = Some("old".to_owned());
    store.list(first.clone()).await;
    first.description = Some("new".to_owned());
    first.tags = vec!["one".to_owned(), "\"two\"".to_owned()];
    store.list(first.clone()).await;
    first.terms = terms(0x11);
    first.terms.requirements = "{}".to_owned();
    store.list(first.clone()).await;
    let page = store.ledger.resources(&query()).await.unwrap();
    assert_eq!((page.total, page.listings.len()), (1, 1));
    let listed = &page.listings[0];
    assert_eq!(listed.description.as_deref(), Some("new"));
    assert_eq!(listed.tags, first.tags);
    assert_eq!(listed.extensions, first.extensions);
    assert_eq!(
        (listed.kind.as_str(), listed.version),
        ("http", X402Version::V2)
    );
    assert_eq!(listed.accepts.len(), 2);
    assert!(listed.accepts.contains(&"{}".to_owned()));
}

async fn of_many_ways_of_paying_the_last_sixteen_stay(store: TestLedger) {
    for pay_to in 0..20 {
        let mut new = listing("https://a.example/w");
        new.terms = terms(pay_to);
        store.list(new).await;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let page = store.ledger.resources(&query()).await.unwrap();
    let accepts = &page.listings[0].accepts;
    assert_eq!(accepts.len(), 16);
    assert_eq!(accepts[0], terms(19).requirements);
    assert_eq!(accepts[15], terms(4).requirements);
}

async fn every_tenant_lists_for_itself(store: TestLedger) {
    store.list(listing("https://a.example/w")).await;
    let mut rival = listing("https://a.example/w");
    rival.tenant = tenant("rival");
    rival.terms = terms(0x66);
    store.list(rival).await;
    let page = store.ledger.resources(&query()).await.unwrap();
    assert_eq!(page.total, 2);
    assert!(page.listings.iter().all(|one| one.accepts.len() == 1));
}

async fn an_mcp_server_has_as_many_listings_as_tools(store: TestLedger) {
    for tool in ["weather", "news", "weather"] {
        let mut new = listing("https://a.example/mcp");
        new.kind = ListingKind::Mcp(tool.to_owned());
        store.list(new).await;
    }
    assert_eq!(store.listed(&query()).await.len(), 2);
    let of_kind = |kind: &str| CatalogueQuery {
        kind: Some(kind.to_owned()),
        ..query()
    };
    assert_eq!(store.listed(&of_kind("mcp")).await.len(), 2);
    assert_eq!(store.listed(&of_kind("http")).await.len(), 0);
    assert_eq!(store.found("news").await.len(), 1);
}

async fn filters_hold_together_for_one_way_of_paying(store: TestLedger) {
    let mut new = listing("https://a.example/w");
    store.list(new.clone()).await;
    new.terms = ListedTerms {
        chain: ChainId(1),
        ..terms(0x11)
    };
    store.list(new).await;
    let mut old = listing("https://b.example/w");
    old.version = X402Version::V1;
    old.extensions = None;
    store.list(old).await;
    let matches = async |query: CatalogueQuery| store.listed(&query).await.len();
    let (here, there) = (Some(CHAIN), Some(ChainId(1)));
    let (ours, other) = (
        Some(Address::repeat_byte(0xee)),
        Some(Address::repeat_byte(0x11)),
    );
    let of = |chain, pay_to| CatalogueQuery {
        chain,
        pay_to,
        ..query()
    };
    assert_eq!(matches(of(here, ours)).await, 2);
    assert_eq!(matches(of(there, other)).await, 1);
    assert_eq!(matches(of(there, ours)).await, 0);
    let scheme = |name: &str| CatalogueQuery {
        scheme: Some(name.to_owned()),
        ..query()
    };
    assert_eq!(matches(scheme("exact")).await, 2);
    assert_eq!(matches(scheme("upto")).await, 0);
    for (has_extensions, expected) in [
        (true, "https://a.example/w"),
        (false, "https://b.example/w"),
    ] {
        let asked = CatalogueQuery {
            has_extensions: Some(has_extensions),
            ..query()
        };
        assert_eq!(store.listed(&asked).await, [expected]);
    }
}

async fn pages_show_what_was_paid_for_last_first(store: TestLedger) {
    for number in 0..5 {
        store
            .list(listing(&format!("https://a.example/{number}")))
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    store.list(listing("https://a.example/0")).await;
    let page = |offset, limit| {
        let asked = CatalogueQuery {
            offset,
            limit,
            ..query()
        };
        let ledger = store.ledger.clone();
        async move {
            let page = ledger.resources(&asked).await.unwrap();
            assert_eq!(page.total, 5);
            let paths = page
                .listings
                .into_iter()
                .map(|mut one| one.resource.split_off(18));
            paths.collect::<Vec<_>>()
        }
    };
    assert_eq!(page(0, 2).await, ["0", "4"]);
    assert_eq!(page(2, 2).await, ["3", "2"]);
    assert_eq!(page(4, 2).await, ["1"]);
    assert_eq!(page(5, 2).await, [""; 0]);
}

async fn the_catalogue_stays_within_its_bounds(store: TestLedger) {
    let bounds = CatalogueBounds {
        resources: 4,
        resources_of_a_tenant: 3,
        ..BOUNDS
    };
    let list = async |name: &str, number: u8| {
        let mut new = listing(&format!("https://a.example/{name}/{number}"));
        new.tenant = tenant(name);
        store.ledger.list_resource(new, bounds).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    };
    for number in 0..5 {
        list("shop", number).await;
    }
    let kept = |name: &'static str, all: Vec<String>| {
        all.into_iter().filter(|url| url.contains(name)).count()
    };
    assert_eq!(kept("shop", store.listed(&query()).await), 3);
    for number in 0..3 {
        list("rival", number).await;
    }
    let all = store.listed(&query()).await;
    assert_eq!(all.len(), 4);
    assert_eq!(kept("rival", all.clone()), 3);
    assert!(all.contains(&"https://a.example/shop/4".to_owned()));
    // What was removed is not found any more either.
    assert_eq!(store.found("shop").await, ["https://a.example/shop/4"]);
}

async fn what_nobody_pays_for_is_not_shown_and_goes(store: TestLedger) {
    store.list(listing("https://a.example/old")).await;
    store
        .execute("UPDATE discovery_resources SET paid_at = paid_at - 60001")
        .await;
    assert!(store.listed(&query()).await.is_empty());
    assert!(store.found("old").await.is_empty());
    store.list(listing("https://a.example/new")).await;
    assert_eq!(store.execute("DELETE FROM discovery_resources").await, 1);
}

async fn words_are_found_by_their_beginnings_in_any_case(store: TestLedger) {
    let mut new = listing("https://api.example/forecast");
    new.service_name = Some("Weatherman".to_owned());
    new.tags = vec!["Climate-Data".to_owned()];
    store.list(new).await;
    for text in [
        "weather",
        "WEATHERMAN",
        "fore api",
        "climate",
        "data",
        "https",
    ] {
        assert_eq!(store.found(text).await.len(), 1, "{text}");
    }
    for text in ["man", "news", "weathermen"] {
        assert_eq!(store.found(text).await.len(), 0, "{text}");
    }
}

async fn what_has_every_word_goes_before_what_has_some(store: TestLedger) {
    let described = |path: &str, description: &str| NewListing {
        description: Some(description.to_owned()),
        ..listing(&format!("https://a.example/{path}"))
    };
    store.list(described("1", "weather in Paris")).await;
    store.list(described("2", "news of Paris")).await;
    assert_eq!(store.found("paris weather").await, ["https://a.example/1"]);
    // Nothing has all of these: what has more of them is better.
    let found = store.found("news paris yesterday").await;
    assert_eq!(found, ["https://a.example/2", "https://a.example/1"]);
}

async fn a_changed_description_is_found_by_its_new_words_only(store: TestLedger) {
    let mut new = listing("https://a.example/w");
    new.description = Some("tides".to_owned());
    store.list(new.clone()).await;
    new.description = Some("quakes".to_owned());
    store.list(new).await;
    assert_eq!(store.found("tides").await.len(), 0);
    assert_eq!(store.found("quakes").await.len(), 1);
}

async fn letters_of_every_script_and_signs_of_query_languages_are_only_words(store: TestLedger) {
    let mut new = listing("https://a.example/w");
    new.description = Some("Wettervorhersage für Zürich; 東京の天気; прогноз".to_owned());
    store.list(new).await;
    for text in [
        "zürich",
        "ZÜRICH",
        "東京",
        "Прогноз",
        "wetter* OR",
        "w:* | NEAR(x)",
        "'; --wetter",
    ] {
        let found = store.found(text).await.len();
        let expected = usize::from(!text.contains("NEAR") || text.starts_with("w:"));
        assert_eq!(found, expected, "{text}");
    }
    assert_eq!(store.found("zurich").await.len(), 0);
}
