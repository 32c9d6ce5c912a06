//! What both doors show of settlements, over a real ledger whose rows the test moves as an engine would.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // helpers outside #[test] functions are tests too

mod support;

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use teller_api::proto::settlements_client::SettlementsClient;
use teller_api::{ApiConfig, Auth, Readiness, ReceiptSigner, ServeLimits, proto, serve_grpc};
use teller_domain::{
    AccountNonce, AssetAmount, Attempt, AttemptKind, Authorization, AuthorizationKey,
    AuthorizationNonce, BlockRef, ChainId, EcdsaSignature, Fees, FencedLane, Level, Payment,
    ProcessId, Reason, Receipt, Refusal, RequestId, Resolution, SettlementId, SettlementState,
    SignedReceipt, SlotEnd, SlotId, TenantId, UnixSeconds, Validity, Wei, X402Version,
};
use teller_store::{
    AcceptOutcome, Ledger, MemoryReservations, NewSettlement, NewSlot, SlotClosure, SqliteLedger,
    Success,
};
use tokio::net::TcpListener;
use tower::ServiceExt;

const CHAIN: ChainId = ChainId(84532);
const SIGNER: Address = Address::repeat_byte(9);
const HASH: B256 = B256::repeat_byte(0xaa);
const WITHIN: Duration = Duration::from_secs(10);

struct Bench {
    _directory: tempfile::TempDir,
    ledger: Arc<dyn Ledger>,
    api: teller_api::Api,
    fence: FencedLane,
    id: SettlementId,
}

/// A payment that is assigned to an open slot.
async fn bench() -> Bench {
    bench_as(ApiConfig::default(), Auth::Open).await
}

async fn bench_as(config: ApiConfig, auth: Auth) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = SqliteLedger::open(directory.path().join("teller.db"))
        .await
        .unwrap();
    let reservations = Arc::new(MemoryReservations::open(&sqlite).await.unwrap());
    let ledger: Arc<dyn Ledger> = Arc::new(sqlite);
    let readiness = Readiness::new();
    let api = support::api_as(config, auth, readiness, ledger.clone(), reservations);
    let process = ProcessId::fresh();
    let claimed = ledger
        .claim_lane(CHAIN, SIGNER, process, 1, 60_000)
        .await
        .unwrap()
        .unwrap();
    let fence = claimed.lane.fence;
    ledger.adopt_nonce(fence, AccountNonce(0)).await.unwrap();
    let new = NewSettlement {
        id: SettlementId::fresh(),
        tenant: TenantId::new("public"),
        version: X402Version::V2,
        payment: payment(),
        attribution: alloy_primitives::Bytes::new(),
        queued_by: None,
    };
    let AcceptOutcome::Accepted(settlement) = ledger.accept(new).await.unwrap() else {
        panic!("new");
    };
    let slot = NewSlot {
        id: slot(),
        attempt: Attempt {
            hash: HASH,
            raw: Bytes::from_static(&[1]),
            kind: AttemptKind::Batch,
            fees: Fees {
                max_fee_per_gas: 10,
                max_priority_fee_per_gas: 1,
            },
            gas_limit: 120_000,
        },
        payments: vec![settlement.id],
        top_up: None,
        after: None,
    };
    ledger.open_slot(fence, slot).await.unwrap();
    Bench {
        _directory: directory,
        ledger,
        api,
        fence,
        id: settlement.id,
    }
}

fn slot() -> SlotId {
    SlotId {
        chain: CHAIN,
        signer: SIGNER,
        nonce: AccountNonce(0),
    }
}

fn payment() -> Payment {
    let asset = Address::repeat_byte(2);
    Payment {
        key: AuthorizationKey {
            chain: CHAIN,
            authority: asset,
            payer: Address::repeat_byte(1),
            nonce: AuthorizationNonce(B256::repeat_byte(4)),
        },
        asset,
        payee: Address::repeat_byte(3),
        value: AssetAmount(U256::from(10_000)),
        validity: Validity::between(UnixSeconds(0), UnixSeconds(u64::from(u32::MAX))),
        authorization: Authorization::Eip3009 {
            signature: EcdsaSignature {
                r: B256::repeat_byte(0xee),
                s: B256::repeat_byte(0xee),
                v: 27,
            }
            .into(),
        },
    }
}

impl Bench {
    async fn close(&self, state: SettlementState) {
        let closure = SlotClosure {
            id: slot(),
            end: SlotEnd::Mined {
                transaction: HASH,
                gas_used: 80_000,
                cost: Wei::from(800_000),
            },
            block: BLOCK,
            resolutions: vec![(self.id, Resolution::Resolved(state))],
            revived: Vec::new(),
        };
        self.ledger.close_slot(self.fence, closure).await.unwrap();
    }

    async fn raise(&self, level: Level) {
        let nonces = [AccountNonce(0)];
        self.ledger
            .raise_levels(self.fence, &nonces, level)
            .await
            .unwrap();
    }

    async fn client(&self) -> SettlementsClient<tonic::transport::Channel> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = self.api.grpc_router();
        tokio::spawn(serve_grpc(
            listener,
            router,
            ServeLimits::default(),
            std::future::pending(),
        ));
        SettlementsClient::connect(format!("http://{address}"))
            .await
            .unwrap()
    }
}

const BLOCK: BlockRef = BlockRef {
    number: 7,
    hash: B256::repeat_byte(7),
};

fn settled() -> SettlementState {
    SettlementState::Settled(Receipt {
        transaction: HASH,
        block: BLOCK,
        log_index: 0,
        level: Level::Included,
        gas_used: 80_000,
        cost: Wei::from(800_000),
    })
}

async fn get(router: Router, path: &str) -> Value {
    let (status, body) = try_get(router, path, &[]).await;
    assert_eq!(status, 200, "{path}");
    body
}

async fn try_get(router: Router, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

/// Signs with the digest itself, so that a test sees what was signed.
fn signing() -> ApiConfig {
    let sign = |digest| {
        Some(EcdsaSignature {
            r: digest,
            s: B256::repeat_byte(0x55),
            v: 28,
        })
    };
    ApiConfig {
        receipt_signer: Some(ReceiptSigner::new(Address::repeat_byte(0xc1), sign)),
        ..ApiConfig::default()
    }
}

#[tokio::test]
async fn only_what_is_settled_in_a_sealed_block_has_a_receipt_and_it_says_everything() {
    let bench = bench_as(signing(), Auth::Open).await;
    let path = format!("/settlements/{}/receipt", bench.id);
    let ask = || try_get(bench.api.rest_router(), &path, &[]);
    let refused = |state: &str| {
        let text =
            format!("there is no receipt: the payment is {state}, not settled in a sealed block");
        (409, json!({ "error": text }))
    };
    assert_eq!(ask().await, refused("assigned"));
    let (fence, payments) = (bench.fence, [(bench.id, 3)]);
    let preconfirmed = bench.ledger.preconfirm(fence, slot(), HASH, &payments);
    preconfirmed.await.unwrap();
    assert_eq!(ask().await, refused("preconfirmed"));
    let mut client = bench.client().await;
    let request = || proto::GetReceiptRequest {
        id: bench.id.to_string(),
    };
    let status = client.get_receipt(request()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    bench.close(settled()).await;
    bench.raise(Level::Safe).await;
    let (status, document) = ask().await;
    assert_eq!(status, 200, "{document}");
    let (_, at) = bench.ledger.settled(bench.id).await.unwrap().unwrap();
    assert_eq!(
        document["message"],
        json!({
            "settlementId": bench.id,
            "chainId": "84532",
            "authority": Address::repeat_byte(2),
            "asset": Address::repeat_byte(2),
            "payer": Address::repeat_byte(1),
            "payee": Address::repeat_byte(3),
            "value": "10000",
            "nonce": B256::repeat_byte(4),
            "transactionHash": HASH,
            "blockNumber": "7",
            "blockHash": BLOCK.hash,
            "logIndex": "0",
            "amount": "10000",
            "level": "safe",
            "settledAtMs": at.unwrap().0.to_string(),
        })
    );
    assert_eq!(document["signer"], json!(Address::repeat_byte(0xc1)));
    let signed: SignedReceipt = serde_json::from_value(document.clone()).unwrap();
    let (digest, signature) = signed.signed().unwrap();
    assert_eq!(signature.r, digest);

    let message = client.get_receipt(request()).await.unwrap().into_inner();
    let same: Value = serde_json::from_str(&message.json).unwrap();
    assert_eq!(same, document);
    let receipt = message.receipt.unwrap();
    assert_eq!(receipt.transaction_hash, HASH.to_string());
    assert_eq!(receipt.level(), proto::SettlementLevel::Safe);
    assert_eq!(receipt.settled_at_ms, at.unwrap().0);
    assert_eq!(message.signature, signature.to_bytes());

    let nonces = [AccountNonce(0)];
    let reopened = bench.ledger.reopen_slots(bench.fence, &nonces);
    reopened.await.unwrap();
    assert_eq!(ask().await, refused("assigned"));
}

#[tokio::test]
async fn receipts_are_for_their_tenant_and_need_a_receipt_key() {
    let bench = bench_as(signing(), support::keys()).await;
    bench.close(settled()).await;
    let path = format!("/settlements/{}/receipt", bench.id);
    let ask = |path: &str| {
        let (router, path) = (bench.api.rest_router(), path.to_owned());
        async move { try_get(router, &path, &[("X-API-Key", "fast-key")]).await.0 }
    };
    assert_eq!(ask(&path).await, 404);
    assert_eq!(ask("/settlements/nonsense/receipt").await, 404);
    assert_eq!(try_get(bench.api.rest_router(), &path, &[]).await.0, 401);

    let keyless = crate::bench().await;
    keyless.close(settled()).await;
    let path = format!("/settlements/{}/receipt", keyless.id);
    let error = "this facilitator signs no receipts: it has no receipt key";
    assert_eq!(
        try_get(keyless.api.rest_router(), &path, &[]).await,
        (501, json!({ "error": error }))
    );
}

#[tokio::test]
async fn a_settlement_that_a_reorg_took_back_shows_what_was_told_and_that_books_must_be_corrected()
{
    let bench = bench().await;
    bench.close(settled()).await;
    let row = bench.ledger.settlement(bench.id).await.unwrap().unwrap();
    let success = Success::of(&row.state).unwrap();
    let claim =
        bench
            .ledger
            .claim_delivery(bench.id, RequestId::fresh(), ProcessId::fresh(), success);
    claim.await.unwrap();
    let path = format!("/settlements/{}", bench.id);
    let shown = get(bench.api.rest_router(), &path).await;
    assert_eq!(shown["state"], "settled");
    assert_eq!(shown["level"], "included");
    assert_eq!(shown["compensations"], json!([]));

    let nonces = [AccountNonce(0)];
    bench
        .ledger
        .reopen_slots(bench.fence, &nonces)
        .await
        .unwrap();
    let shown = get(bench.api.rest_router(), &path).await;
    assert_eq!(shown["state"], "assigned");
    assert!(shown.get("level").is_none());
    assert_eq!(shown["told"]["outcome"], "success");
    assert_eq!(shown["told"]["transaction"], HASH.to_string());
    assert_eq!(shown["told"]["level"], "included");
    assert!(shown["told"]["atMs"].as_u64().unwrap() > 0);

    bench
        .close(SettlementState::Failed {
            refusal: Refusal::new(Reason::TransactionFailed, "cancelled by its payer"),
            transaction: None,
        })
        .await;
    let shown = get(bench.api.rest_router(), &path).await;
    assert_eq!(shown["state"], "failed");
    assert_eq!(shown["told"]["outcome"], "success");
    assert_eq!(shown["compensations"][0]["kind"], "success_taken_back");
    let page = get(bench.api.rest_router(), "/settlements?state=failed").await;
    assert_eq!(page["settlements"][0]["told"], shown["told"]);
    assert!(page["settlements"][0].get("compensations").is_none());

    let mut client = bench.client().await;
    let request = proto::GetSettlementRequest {
        id: bench.id.to_string(),
    };
    let message = client.get(request).await.unwrap().into_inner();
    assert_eq!(
        message.compensations[0].kind(),
        proto::CompensationKind::SuccessTakenBack
    );
    assert_eq!(
        message.compensations[0].at_ms,
        shown["compensations"][0]["atMs"]
    );
    let Some(proto::told::Outcome::Success(told)) = message.told.unwrap().outcome else {
        panic!("success was told");
    };
    assert_eq!(told.transaction, HASH.to_string());
}

#[tokio::test]
async fn preconfirmed_settlements_are_listed_by_their_state() {
    let bench = bench().await;
    bench
        .ledger
        .preconfirm(bench.fence, slot(), HASH, &[(bench.id, 3)])
        .await
        .unwrap();
    let page = get(bench.api.rest_router(), "/settlements?state=preconfirmed").await;
    let shown = &page["settlements"][0];
    assert_eq!(shown["id"], bench.id.to_string());
    assert_eq!(shown["level"], "preconfirmed");
    assert_eq!(shown["transaction"], HASH.to_string());
    assert!(shown.get("told").is_none() && shown.get("receipt").is_none());
    let others = get(bench.api.rest_router(), "/settlements?state=assigned").await;
    assert_eq!(others["settlements"], json!([]));

    let mut client = bench.client().await;
    let request = proto::ListSettlementsRequest {
        state: proto::SettlementState::Preconfirmed.into(),
        ..Default::default()
    };
    let page = client.list(request).await.unwrap().into_inner();
    assert_eq!(page.settlements.len(), 1);
    assert_eq!(
        page.settlements[0].level(),
        proto::SettlementLevel::Preconfirmed
    );
}

#[tokio::test]
async fn a_watcher_hears_of_levels_that_rise() {
    let bench = bench().await;
    let mut client = bench.client().await;
    let request = proto::WatchSettlementsRequest { after: None };
    let mut events = client.watch(request).await.unwrap().into_inner();
    bench.close(settled()).await;
    for level in [
        proto::SettlementLevel::Included,
        proto::SettlementLevel::Safe,
        proto::SettlementLevel::Finalized,
    ] {
        match level {
            proto::SettlementLevel::Safe => bench.raise(Level::Safe).await,
            proto::SettlementLevel::Finalized => bench.raise(Level::Finalized).await,
            _ => {}
        }
        // An event shows the settlement as it is when it is read, so one is enough for each.
        let event = tokio::time::timeout(WITHIN, events.message()).await;
        let event = event.expect("an event").unwrap().unwrap();
        let settlement = event.settlement.unwrap();
        assert_eq!(settlement.id, bench.id.to_string());
        assert_eq!(settlement.level(), level);
        assert_eq!(settlement.receipt.unwrap().level(), level);
    }
}
