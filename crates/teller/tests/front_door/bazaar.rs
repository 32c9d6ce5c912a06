//! The extensions that stand beside a payment: the buyer's identifier, and the catalogue of what was paid for.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use serde_json::{Value, json};
use teller_api::proto::discovery_client::DiscoveryClient;
use teller_api::proto::facilitator_client::FacilitatorClient;
use teller_api::proto::{self, ListingStatus};
use tonic::Code;

use crate::doors;
use crate::grpc::channel;
use crate::messages::verify_request;
use crate::support::{Chain, Setup, Teller, body, free_ports, run, shared_stores};

const PAYEE: Address = Address::repeat_byte(0x42);

/// A request for a resource that wants to be found.
fn discoverable(chain: &Chain, number: u64, url: &str, bazaar: Value) -> Value {
    let buyer = chain.payer((number % 40) as usize);
    let mut request = body(chain, &buyer.pay(chain, PAYEE, 1_000, number));
    request["paymentPayload"]["resource"] = json!({
        "url": url, "description": "Forecasts for every harbour", "mimeType": "application/json",
        "serviceName": "Tidewatch", "tags": ["weather", "Weather", "sea"], "iconUrl": "http://127.0.0.1/i.png",
    });
    request["paymentPayload"]["extensions"] = json!({ "bazaar": bazaar });
    request
}

fn bazaar() -> Value {
    json!({
        "info": {"input": {"type": "http", "method": "GET", "queryParams": {"harbour": "Kiel"}}},
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"input": {"type": "object", "properties": {"method": {"enum": ["GET"]}}, "required": ["method"]}},
            "required": ["input"],
        },
    })
}

/// The answer and what the header says of the listing.
async fn post(teller: &Teller, path: &str, request: &Value) -> (Value, Option<Value>) {
    use base64::Engine;
    let url = format!("{}{path}", teller.url);
    let answer = teller.http.post(url).json(request).send().await.unwrap();
    let said = answer.headers().get("extension-responses").map(|value| {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(value)
            .unwrap();
        let said: Value = serde_json::from_slice(&bytes).unwrap();
        said["bazaar"].clone()
    });
    (answer.json().await.unwrap(), said)
}

async fn total(teller: &Teller) -> u64 {
    let (status, page) = teller.get("/discovery/resources").await;
    assert_eq!(status, 200, "{page}");
    page["pagination"]["total"].as_u64().unwrap()
}

async fn what_is_paid_for_is_found(chain: &Chain, teller: &Teller, number: u64) {
    let supported = teller.get("/supported").await.1;
    assert_eq!(
        supported["extensions"],
        json!(["eip2612GasSponsoring", "payment-identifier", "bazaar"])
    );
    let url = "https://tides.example/api/forecast?harbour=Kiel&key=secret#now";
    let request = discoverable(chain, number, url, bazaar());
    let (answer, said) = post(teller, "/verify", &request).await;
    assert_eq!(answer["isValid"], true, "{answer}");
    assert_eq!(said, Some(json!({"status": "processing"})));
    assert_eq!(total(teller).await, 0, "listed for free");
    let (answer, said) = post(teller, "/settle", &request).await;
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(said, Some(json!({"status": "success"})));
    let (_, page) = teller.get("/discovery/resources?type=http").await;
    let item = &page["items"][0];
    assert_eq!(item["resource"], "https://tides.example/api/forecast");
    assert_eq!(item["accepts"], json!([request["paymentRequirements"]]));
    assert_eq!(item["extensions"]["bazaar"], bazaar());
    assert_eq!(item["serviceName"], "Tidewatch");
    assert_eq!(item["tags"], json!(["weather", "sea"]));
    assert!(item.get("iconUrl").is_none());
    for (query, expected) in [
        ("harbour", 1),
        ("TIDE fore", 1),
        ("stocks", 0),
        ("secret", 0),
    ] {
        let (status, found) = teller
            .get(&format!("/discovery/search?query={query}"))
            .await;
        assert_eq!(status, 200, "{found}");
        assert_eq!(
            found["resources"].as_array().unwrap().len(),
            expected,
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_listed_and_found_once_it_was_paid_for() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    what_is_paid_for_is_found(&chain, &teller, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lists_and_finds_the_same() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let (ledger, reservations) = shared_stores().await;
    let setup = Setup {
        ledger,
        reservations,
        ..Setup::embedded(&chain)
    };
    let ports = free_ports();
    let config = setup.config(ports);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("teller.toml"), &config).unwrap();
    let migrate = ["migrate", "--config", "teller.toml"];
    let signer = format!("{:#x}", chain.devnet.info().signers[0]);
    let migrated = run(directory.path(), &migrate, [("TELLER_SIGNER_0", &*signer)]);
    assert!(migrated.status.success(), "{migrated:?}");
    let teller = Teller::start_with(&chain, ports, &config).await;
    // Other tests share Redis, and their payers are the same: the nonce is this test's own.
    what_is_paid_for_is_found(&chain, &teller, 77_001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paid_for_over_grpc_is_found_at_both_doors() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let mut client = FacilitatorClient::new(channel(&teller).await);
    let mut catalogue = DiscoveryClient::new(channel(&teller).await);
    let supported = client.supported(proto::SupportedRequest {}).await.unwrap();
    assert!(
        supported
            .get_ref()
            .extensions
            .contains(&"bazaar".to_owned())
    );

    let url = "https://tides.example/api/forecast?harbour=Kiel&key=secret#now";
    let request = discoverable(&chain, 1, url, bazaar());
    let verified = client.verify(verify_request(&request)).await.unwrap();
    let listing = verified.get_ref().listing.as_ref().unwrap();
    assert_eq!(listing.status(), ListingStatus::Processing);
    assert_eq!(total(&teller).await, 0, "listed for free");
    let settled = doors::settle(&mut client, &request).await;
    assert_eq!(settled.listing.unwrap().status(), ListingStatus::Success);
    let silent = body(&chain, &chain.payer(2).pay(&chain, PAYEE, 1_000, 2));
    assert_eq!(doors::settle(&mut client, &silent).await.listing, None);

    let all = proto::ListResourcesRequest::default();
    let page = catalogue.list(all).await.unwrap().into_inner();
    assert_eq!((page.total, page.resources.len()), (1, 1));
    let item = &page.resources[0];
    let resource = item.resource.as_ref().unwrap();
    assert_eq!(resource.url, "https://tides.example/api/forecast");
    assert_eq!(
        (&*resource.service_name, &*resource.icon_url),
        ("Tidewatch", "")
    );
    assert_eq!(resource.tags, ["weather", "sea"]);
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(json(&item.accepts_json[0]), request["paymentRequirements"]);
    assert_eq!(json(&item.extensions_json)["bazaar"], bazaar());
    // REST shows the very same.
    let (_, shown) = teller.get("/discovery/resources").await;
    assert_eq!(shown["items"][0]["resource"], json!(resource.url));
    assert_eq!(
        shown["items"][0]["accepts"],
        json!([request["paymentRequirements"]])
    );
    assert_eq!(shown["items"][0]["extensions"], json(&item.extensions_json));

    // A second one, by REST, for pages and filters.
    let other = discoverable(&chain, 3, "https://tides.example/other", bazaar());
    assert_eq!(post(&teller, "/settle", &other).await.0["success"], true);
    let first = proto::SearchResourcesRequest {
        query: "harbour".into(),
        limit: 1,
        ..Default::default()
    };
    let found = catalogue.search(first.clone()).await.unwrap().into_inner();
    assert_eq!((found.resources.len(), &*found.next_cursor), (1, "1"));
    let second = proto::SearchResourcesRequest {
        cursor: found.next_cursor,
        ..first.clone()
    };
    let last = catalogue.search(second).await.unwrap().into_inner();
    assert_eq!((last.resources.len(), &*last.next_cursor), (1, ""));
    assert_ne!(found.resources, last.resources);
    for (filter, expected) in [
        (
            proto::ResourceFilter {
                pay_to: PAYEE.to_string(),
                ..Default::default()
            },
            2,
        ),
        (
            proto::ResourceFilter {
                r#type: "mcp".into(),
                ..Default::default()
            },
            0,
        ),
        (
            proto::ResourceFilter {
                scheme: proto::Scheme::Upto.into(),
                ..Default::default()
            },
            0,
        ),
        (
            proto::ResourceFilter {
                network: "base-sepolia".into(),
                ..Default::default()
            },
            2,
        ),
        (
            proto::ResourceFilter {
                extensions: vec!["other".into()],
                ..Default::default()
            },
            0,
        ),
    ] {
        let asked = proto::ListResourcesRequest {
            filter: Some(filter.clone()),
            ..Default::default()
        };
        let page = catalogue.list(asked).await.unwrap().into_inner();
        assert_eq!(page.total, expected, "{filter:?}");
    }
    let too_many = proto::ListResourcesRequest {
        limit: 101,
        ..Default::default()
    };
    let status = catalogue.list(too_many).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let nothing = proto::SearchResourcesRequest {
        query: "!".into(),
        ..first
    };
    let status = catalogue.search(nothing).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unfit_for_the_catalogue_is_told_so_and_is_settled_all_the_same() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let url = "https://tides.example/w";
    let with = |pointer: &str, value: Value| {
        let mut changed = bazaar();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };
    let unfit = [
        (
            url,
            with("/info/input/method", json!("POST")),
            "bodyType is missing",
        ),
        (
            url,
            with(
                "/schema/properties/input/properties/method/enum",
                json!(["PUT"]),
            ),
            "/input/method",
        ),
        (
            url,
            with("/schema", json!({"$ref": "https://evil.example"})),
            "refers to something outside",
        ),
        (
            url,
            with("/schema", json!({"$ref": "#"})),
            "refers to itself",
        ),
        (url, with("/schema", json!({"type": 5})), "no JSON Schema"),
        (url, json!({}), "info is missing"),
        ("ftp://tides.example", bazaar(), "http or https url"),
    ];
    let mut client = FacilitatorClient::new(channel(&teller).await);
    for (number, (url, bazaar, reason)) in (1..).zip(unfit) {
        // It is told the same over gRPC, by another payment.
        let other = discoverable(&chain, number + 21, url, bazaar.clone());
        let settled = doors::settle(&mut client, &other).await;
        assert_eq!(settled.outcome(), proto::SettleOutcome::Settled);
        let listing = settled.listing.unwrap();
        assert_eq!(listing.status(), ListingStatus::Rejected);
        assert!(listing.rejected_reason.contains(reason), "{listing:?}");
        let request = discoverable(&chain, number, url, bazaar);
        for (path, good) in [("/verify", "isValid"), ("/settle", "success")] {
            let (answer, said) = post(&teller, path, &request).await;
            assert_eq!(answer[good], true, "{answer}");
            let said = said.unwrap();
            assert_eq!(said["status"], "rejected");
            assert!(
                said["rejectedReason"].as_str().unwrap().contains(reason),
                "{said}"
            );
        }
    }
    // A payment that is refused lists nothing, and neither does one that says nothing.
    let mut wrong = discoverable(&chain, 20, url, bazaar());
    wrong["paymentRequirements"]["amount"] = json!("1001");
    for (path, good) in [("/verify", "isValid"), ("/settle", "success")] {
        let (answer, said) = post(&teller, path, &wrong).await;
        assert_eq!((&answer[good], said), (&json!(false), None), "{answer}");
    }
    let silent = body(&chain, &chain.payer(21).pay(&chain, PAYEE, 1_000, 21));
    let (answer, said) = post(&teller, "/settle", &silent).await;
    assert_eq!((&answer["success"], said), (&json!(true), None));
    assert_eq!(total(&teller).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_lists_by_its_output_schema_and_a_catalogue_can_be_switched_off() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let v1 = |number: u64, discoverable: bool| {
        let request = body(
            &chain,
            &chain
                .payer(number as usize)
                .pay(&chain, PAYEE, 1_000, number),
        );
        json!({
            "x402Version": 1,
            "paymentPayload": {
                "x402Version": 1, "scheme": "exact", "network": "base-sepolia",
                "payload": request["paymentPayload"]["payload"],
            },
            "paymentRequirements": {
                "scheme": "exact", "network": "base-sepolia", "maxAmountRequired": "1000", "asset": chain.asset.address,
                "payTo": PAYEE, "resource": format!("https://old.example/{number}"), "description": "antique prices",
                "mimeType": "text/plain", "maxTimeoutSeconds": 60,
                "extra": {"name": chain.asset.name, "version": chain.asset.version},
                "outputSchema": {"input": {"type": "http", "method": "GET", "discoverable": discoverable}},
            },
        })
    };
    for (number, is_discoverable) in [(1, true), (2, false)] {
        let (answer, said) = post(&teller, "/settle", &v1(number, is_discoverable)).await;
        assert_eq!((&answer["success"], said), (&json!(true), None), "{answer}");
    }
    let (_, found) = teller.get("/discovery/search?query=antique").await;
    let resources = found["resources"].as_array().unwrap();
    assert_eq!(resources.len(), 1, "{found}");
    assert_eq!(resources[0]["resource"], "https://old.example/1");
    assert_eq!(resources[0]["x402Version"], 1);

    let ports = free_ports();
    let config = Setup::embedded(&chain).config(ports);
    let config = format!("{config}\n[discovery]\nenabled = false\n");
    let without = Teller::start_with(&chain, ports, &config).await;
    let request = discoverable(&chain, 3, "https://tides.example", bazaar());
    let (answer, said) = post(&without, "/settle", &request).await;
    assert_eq!((&answer["success"], said), (&json!(true), None), "{answer}");
    assert_eq!(without.get("/discovery/resources").await.0, 404);
    let mut catalogue = DiscoveryClient::new(channel(&without).await);
    let status = catalogue.list(proto::ListResourcesRequest::default()).await;
    assert_eq!(status.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(
        without.get("/supported").await.1["extensions"],
        json!(["eip2612GasSponsoring", "payment-identifier"])
    );
}

fn identified(chain: &Chain, number: u64, id: &str) -> Value {
    let buyer = chain.payer(number as usize);
    let mut request = body(chain, &buyer.pay(chain, PAYEE, 1_000, number));
    request["paymentPayload"]["extensions"] =
        json!({"payment-identifier": {"info": {"required": true, "id": id}}});
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_identifier_buys_once_and_replays_nothing() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let setup = Setup {
        keys: vec![("shop", "shop-key"), ("rival", "rival-key")],
        ..Setup::embedded(&chain)
    };
    let teller = Teller::start(&chain, setup).await;
    let ask = async |path: &str, request: &Value, key: &str| {
        let headers = [("X-API-Key", key)];
        teller.try_post(path, request, &headers).await.unwrap()
    };
    let id = "pay_7d5d747be160e280";
    let first = identified(&chain, 1, id);
    let again = identified(&chain, 2, id);
    // Verified and held: whoever signs anew with the same id does not buy twice.
    assert_eq!(ask("/verify", &first, "shop-key").await.1["isValid"], true);
    let (status, answer) = ask("/verify", &again, "shop-key").await;
    assert_eq!(
        (status, &answer["isValid"]),
        (409, &json!(false)),
        "{answer}"
    );
    assert_eq!(answer["invalidReason"], "payment_identifier_reused");
    assert!(
        answer["error"]
            .as_str()
            .unwrap()
            .contains("used for another payment")
    );
    assert_eq!(ask("/settle", &first, "shop-key").await.1["success"], true);
    let (status, answer) = ask("/settle", &again, "shop-key").await;
    assert_eq!(
        (status, &answer["success"]),
        (409, &json!(false)),
        "{answer}"
    );
    assert_eq!(answer["errorReason"], "payment_identifier_reused");
    assert_eq!(answer["transaction"], "");
    // The same payment with the same id is the same payment, whose success was told.
    let (status, answer) = ask("/settle", &first, "shop-key").await;
    assert_eq!(
        (status, &answer["errorReason"]),
        (200, &json!("duplicate_settlement"))
    );
    assert_eq!(chain.balance(PAYEE).await, U256::from(1_000));
    // What was refused is held by nobody; another tenant's id is another id.
    assert_eq!(ask("/settle", &again, "rival-key").await.1["success"], true);
    assert_eq!(chain.balance(PAYEE).await, U256::from(2_000));

    for (number, info, problem) in [
        (3, json!({"required": true}), "is required"),
        (4, json!({"id": "short"}), "must be 16 to 128"),
        (5, json!({"id": 7}), "must be a string"),
    ] {
        let mut request = identified(&chain, number, id);
        request["paymentPayload"]["extensions"]["payment-identifier"]["info"] = info;
        for (path, good) in [("/verify", "isValid"), ("/settle", "success")] {
            let (status, answer) = ask(path, &request, "shop-key").await;
            assert_eq!((status, &answer[good]), (400, &json!(false)), "{answer}");
            assert!(
                answer["error"].as_str().unwrap().contains(problem),
                "{answer}"
            );
        }
    }
    // The official clients echo what the seller offers and need not fill it in.
    let mut echoed = identified(&chain, 6, id);
    echoed["paymentPayload"]["extensions"]["payment-identifier"]["info"] =
        json!({"required": false});
    assert_eq!(ask("/settle", &echoed, "shop-key").await.1["success"], true);
}

/// A key of JSON may be written with escapes; it is the same key.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_identifier_binds_however_its_key_is_written() {
    let chain = Chain::start(Duration::from_secs(1)).await;
    let teller = Teller::embedded(&chain).await;
    let id = "pay_0123456789abcdef";
    let settle = async |number: u64, key: &str| {
        let request = identified(&chain, number, id).to_string();
        let request = request.replace("payment-identifier", key);
        let answer = teller.try_post_text("/settle", request, &[]).await;
        answer.unwrap()
    };
    let (_, answer) = settle(1, r"payment\u002didentifier").await;
    assert_eq!(answer["success"], true, "{answer}");
    for (number, key) in [
        (2, r"payment\u002didentifier"),
        (3, r"\u0070ayment-identifie\u0072"),
        (4, "payment-identifier"),
    ] {
        let (status, answer) = settle(number, key).await;
        assert_eq!(status, 409, "{key}: {answer}");
        assert_eq!(answer["errorReason"], "payment_identifier_reused");
    }
    assert_eq!(chain.balance(PAYEE).await, U256::from(1_000));
}
