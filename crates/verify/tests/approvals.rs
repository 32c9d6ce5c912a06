//! Payments by Permit2 that bring their payer's signed approval, on a real chain.
//!
//! One long file, because it is one list of behaviours.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall;
use axum::extract::{Json, State};
use serde_json::{Value, json};
use teller_chain::{
    HeadHandle, InspectLimits, Inspector, LocalSigner, NodeConfig, Nodes, watch_heads,
};
use teller_devnet::contracts::abi::Token;
use teller_devnet::contracts::{PLAIN_TOKEN, SMART_WALLET};
use teller_devnet::{Devnet, DevnetConfig, Mining, fund_token};
use teller_domain::*;
use teller_schemes::multicall::MULTICALL3;
use teller_schemes::permit2::{EXACT_PROXY, Permit};
use teller_schemes::sign;
use teller_store::{
    AcceptOutcome, Ledger, MemoryReservations, NewSettlement, NewSlot, OpenSlotOutcome,
    SlotClosure, SqliteLedger, TopUp,
};
use teller_verify::{CheckError, Policy, Verdict, Verifier, VerifyNetwork, margin_seconds};

const CHAIN: ChainId = ChainId(84532);
const OWN: Address = Address::repeat_byte(0x33);
const VALUE: u64 = 10_000;
const GAS: u64 = 70_000;
const FEE: u128 = 2_000_000_000;

/// What an approval may cost.
fn cost() -> U256 {
    U256::from(GAS) * U256::from(FEE)
}

/// Stands before the node, and answers simulations of bundles itself where it is told how.
struct Proxy {
    upstream: Arc<Devnet>,
    /// The JSON-RPC code that these are refused with; 0 lets them through.
    code: AtomicI64,
    seen: Mutex<Vec<String>>,
}

async fn answer(State(proxy): State<Arc<Proxy>>, Json(asked): Json<Value>) -> Json<Value> {
    let one = |asked: Value| {
        let proxy = Arc::clone(&proxy);
        async move {
            let method = asked["method"].as_str().unwrap().to_owned();
            proxy.seen.lock().unwrap().push(asked.to_string());
            let code = proxy.code.load(Ordering::Relaxed);
            if method == "eth_simulateV1" && code != 0 {
                let error = json!({"code": code, "message": "no"});
                return json!({"jsonrpc": "2.0", "id": asked["id"], "error": error});
            }
            let result = proxy.upstream.rpc(&method, asked["params"].clone()).await;
            json!({"jsonrpc": "2.0", "id": asked["id"], "result": result.unwrap()})
        }
    };
    let Value::Array(batch) = asked else {
        return Json(one(asked).await);
    };
    let mut answers = Vec::new();
    for asked in batch {
        answers.push(one(asked).await);
    }
    Json(Value::Array(answers))
}

struct World {
    devnet: Arc<Devnet>,
    proxy: Arc<Proxy>,
    heads: HeadHandle,
    ledger: Arc<SqliteLedger>,
    verifier: Verifier,
    _files: tempfile::TempDir,
}

impl World {
    async fn start(approvals: Option<TopUpPolicy>) -> Self {
        let config = DevnetConfig {
            mining: Mining::Interval(Duration::from_secs(1)),
            payers: 1,
            ..DevnetConfig::default()
        };
        let devnet = Arc::new(Devnet::start(config).await.unwrap());
        let proxy = Arc::new(Proxy {
            upstream: Arc::clone(&devnet),
            code: AtomicI64::new(0),
            seen: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new()
            .fallback(axum::routing::post(answer))
            .with_state(Arc::clone(&proxy));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let nodes = Nodes::connect(NodeConfig {
            chain: CHAIN,
            rpc: vec![url],
            flashblocks: Vec::new(),
            request_timeout: Duration::from_secs(5),
        })
        .unwrap();
        let heads = watch_heads(nodes.clone(), Duration::from_secs(1));
        let files = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(files.path().join("teller.db")).await;
        let ledger = Arc::new(ledger.unwrap());
        let reservations = Arc::new(MemoryReservations::open(&ledger).await.unwrap());
        let network = VerifyNetwork {
            chain: CHAIN,
            assets: vec![Asset {
                chain: CHAIN,
                address: PLAIN_TOKEN,
                name: "Plain Token".to_owned(),
                version: "1".to_owned(),
                decimals: 6,
            }],
            multicall3: MULTICALL3,
            wallet_factories: Vec::new(),
            delegation_managers: Vec::new(),
            approvals,
            facilitator: Some(OWN),
            own_addresses: vec![OWN],
            inspector: Inspector::spawn(nodes.clone(), heads.clone(), InspectLimits::default()),
            nodes,
            heads: heads.clone(),
            margin_seconds: margin_seconds(Duration::from_secs(1)),
        };
        let verifier = Verifier::new(
            vec![network],
            Policy::default(),
            reservations,
            ledger.clone(),
        );
        Self {
            devnet,
            proxy,
            heads,
            ledger,
            verifier,
            _files: files,
        }
    }

    async fn generous() -> Self {
        let most = Wei(cost());
        Self::start(Some(TopUpPolicy { most, day: most })).await
    }

    /// A payer with tokens and with this much native currency.
    async fn payer(&self, tokens: u64, wei: U256) -> Payer {
        let key = B256::random();
        let signer = LocalSigner::from_hex(&key.to_string()).unwrap();
        let address = signer.address();
        let (url, tokens) = (self.devnet.rpc_url(), U256::from(tokens));
        fund_token(url, PLAIN_TOKEN, &[address], tokens)
            .await
            .unwrap();
        self.rpc("anvil_setBalance", json!([address, wei])).await;
        self.next_head().await;
        Payer { key, signer }
    }

    /// Until what was done before is at the head that is seen.
    async fn next_head(&self) {
        let latest = self.devnet.rpc("eth_blockNumber", json!([])).await.unwrap();
        let latest: U256 = serde_json::from_value(latest).unwrap();
        let mut heads = self.heads.watch();
        let later = heads.wait_for(|head| {
            head.as_ref()
                .is_some_and(|head| U256::from(head.block.number) > latest)
        });
        drop(later.await.unwrap());
    }

    async fn rpc(&self, method: &str, params: Value) -> Value {
        self.devnet.rpc(method, params).await.unwrap()
    }

    /// Gives a payer code that takes the signatures of his key.
    async fn delegate(&self, payer: &Payer) {
        let code = format!("0xef0100{}", alloy_primitives::hex::encode(SMART_WALLET));
        let code = json!([payer.address(), code]);
        self.rpc("anvil_setCode", code).await;
        self.next_head().await;
    }

    async fn request(&self, payer: &Payer, terms: PermitTerms) -> PaymentRequest {
        let head = self.heads.first(Duration::from_secs(5)).await.unwrap();
        let payee = Address::repeat_byte(0x22);
        let permit = Permit2 {
            terms,
            signature: sign(B256::ZERO, &payer.key.0).unwrap().into(),
            allowance: Some(payer.approval(0, GAS, FEE, U256::MAX)),
        };
        let mut payment = Payment {
            key: AuthorizationKey {
                chain: CHAIN,
                authority: PERMIT2,
                payer: payer.address(),
                nonce: AuthorizationNonce(B256::random()),
            },
            asset: PLAIN_TOKEN,
            payee,
            value: AssetAmount::from(VALUE),
            validity: Validity::signed(U256::ZERO, U256::from(head.chain_time().0 + 300)),
            authorization: Authorization::Permit2(Box::new(permit)),
        };
        let digest = Permit::of(&payment).unwrap().digest();
        if let Authorization::Permit2(permit) = &mut payment.authorization {
            permit.signature = sign(digest, &payer.key.0).unwrap().into();
        }
        PaymentRequest {
            tenant: TenantId::new("seller"),
            version: X402Version::V2,
            scheme: payment.scheme(),
            payment,
            asset: PLAIN_TOKEN,
            pay_to: payee,
            amount: AssetAmount::from(VALUE),
            max_timeout_seconds: 60,
            domain: None,
            attribution: Bytes::new(),
            idempotency_key: None,
        }
    }

    async fn exact(&self, payer: &Payer) -> PaymentRequest {
        self.request(payer, PermitTerms::Exact).await
    }

    async fn told(&self, request: &PaymentRequest) -> Option<Reason> {
        match self.verifier.verify(request).await {
            Verdict::Valid(_) => None,
            Verdict::Invalid(refusal) => {
                let hex = alloy_primitives::hex::encode(sent(request));
                assert!(!refusal.detail.contains(&hex), "{refusal}");
                Some(refusal.reason)
            }
            Verdict::Unknown(error) => panic!("{error}"),
        }
    }

    /// Writes a top-up down as the engine does. Gives the slot, still open, and its lane.
    async fn top_up(&self, payer: Address, value: Wei) -> (FencedLane, NewSlot) {
        let request = self.exact(&self.payer(1, U256::ZERO).await).await;
        let settlement = NewSettlement {
            id: SettlementId::fresh(),
            tenant: request.tenant,
            version: X402Version::V2,
            payment: request.payment,
            attribution: Bytes::new(),
            queued_by: None,
        };
        let AcceptOutcome::Accepted(accepted) = self.ledger.accept(settlement).await.unwrap()
        else {
            panic!("it is new")
        };
        let lane = self
            .ledger
            .claim_lane(CHAIN, OWN, ProcessId::fresh(), 1, 60_000);
        let fence = lane.await.unwrap().unwrap().lane.fence;
        self.ledger
            .adopt_nonce(fence, AccountNonce(0))
            .await
            .unwrap();
        let slot = NewSlot {
            id: SlotId {
                chain: CHAIN,
                signer: OWN,
                nonce: AccountNonce(0),
            },
            attempt: Attempt {
                hash: B256::repeat_byte(1),
                raw: Bytes::from_static(&[2]),
                kind: AttemptKind::TopUp,
                fees: Fees {
                    max_fee_per_gas: 1,
                    max_priority_fee_per_gas: 1,
                },
                gas_limit: 21_000,
            },
            payments: vec![accepted.id],
            top_up: Some(TopUp {
                payer,
                token: PLAIN_TOKEN,
                value,
            }),
            after: None,
        };
        let opened = self.ledger.open_slot(fence, slot.clone()).await.unwrap();
        assert_eq!(opened, OpenSlotOutcome::Opened);
        (fence, slot)
    }

    async fn close(&self, fence: FencedLane, slot: &NewSlot) {
        let closure = SlotClosure {
            id: slot.id,
            end: SlotEnd::Mined {
                transaction: slot.attempt.hash,
                gas_used: 21_000,
                cost: Wei::from(21_000),
            },
            block: BlockRef {
                number: 1,
                hash: B256::repeat_byte(1),
            },
            resolutions: vec![(slot.payments[0], Resolution::Requeued)],
            revived: Vec::new(),
        };
        self.ledger.close_slot(fence, closure).await.unwrap();
    }
}

struct Payer {
    key: B256,
    signer: LocalSigner,
}

impl Payer {
    fn address(&self) -> Address {
        self.signer.address()
    }

    fn approval(&self, nonce: u64, gas: u64, fee: u128, amount: U256) -> Box<Allowance> {
        let call = Token::approveCall {
            spender: PERMIT2,
            amount,
        };
        let fees = Fees {
            max_fee_per_gas: fee,
            max_priority_fee_per_gas: fee.min(1_000_000),
        };
        let (nonce, call) = (AccountNonce(nonce), call.abi_encode().into());
        let signed = self
            .signer
            .sign_batch(CHAIN, nonce, PLAIN_TOKEN, call, gas, fees);
        let (payer, raw) = (self.address(), signed.unwrap().raw);
        let approval = TokenApproval::of_checked(payer, PLAIN_TOKEN, raw);
        Box::new(Allowance::Approval(approval))
    }
}

fn permit_of(request: &mut PaymentRequest) -> &mut Permit2 {
    match &mut request.payment.authorization {
        Authorization::Permit2(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn sent(request: &PaymentRequest) -> &Bytes {
    &request.payment.token_approval().unwrap().transaction
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_with_the_gas_or_within_the_cap_is_good_under_both_schemes() {
    let world = World::generous().await;
    let upto = PermitTerms::Upto {
        facilitator: OWN,
        permitted: AssetAmount::from(VALUE),
    };
    for terms in [PermitTerms::Exact, upto] {
        for wei in [cost(), U256::ZERO] {
            let payer = world.payer(VALUE, wei).await;
            let request = world.request(&payer, terms).await;
            assert_eq!(world.told(&request).await, None);
        }
    }
    // Nobody was sent the transaction to see that.
    let payer = world.payer(VALUE, cost()).await;
    let request = world.exact(&payer).await;
    assert_eq!(world.told(&request).await, None);
    let hex = alloy_primitives::hex::encode(sent(&request));
    let seen = world.proxy.seen.lock().unwrap();
    assert!(seen.iter().any(|asked| asked.contains("eth_simulateV1")));
    assert!(seen.iter().all(|asked| !asked.contains(&hex)));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_has_its_reason() {
    let world = World::generous().await;
    let payer = world.payer(VALUE, cost()).await;
    let other = world.payer(VALUE, U256::ZERO).await;
    let good = world.exact(&payer).await;
    let elsewhere = Address::repeat_byte(9);
    let with = |change: &dyn Fn(&mut TokenApproval)| {
        let mut request = good.clone();
        let mut approval = good.payment.token_approval().unwrap().clone();
        change(&mut approval);
        permit_of(&mut request).allowance = Some(Box::new(Allowance::Approval(approval)));
        request
    };
    let signed = |allowance: Box<Allowance>| {
        let mut request = good.clone();
        permit_of(&mut request).allowance = Some(allowance);
        request
    };
    let all = U256::MAX;
    let faults = [
        (
            with(&|sent| sent.owner = elsewhere),
            Reason::ApprovalFromMismatch,
        ),
        (
            with(&|sent| sent.token = elsewhere),
            Reason::ApprovalAssetMismatch,
        ),
        (
            with(&|sent| sent.spender = elsewhere),
            Reason::ApprovalSpenderNotPermit2,
        ),
        (
            with(&|sent| sent.transaction = Bytes::from_static(&[2, 1])),
            Reason::ApprovalTxParseFailed,
        ),
        (
            with(&|sent| {
                let foreign = other.approval(0, GAS, FEE, all);
                if let Allowance::Approval(foreign) = *foreign {
                    sent.transaction = foreign.transaction;
                }
            }),
            Reason::ApprovalTxSignerMismatch,
        ),
        (
            signed(payer.approval(1, GAS, FEE, all)),
            Reason::ApprovalTxWrongNonce,
        ),
        (
            signed(payer.approval(0, GAS, FEE, U256::from(VALUE - 1))),
            Reason::ApprovalTxAmountTooLow,
        ),
        (
            signed(payer.approval(0, 100_001, FEE, all)),
            Reason::ApprovalTxGasLimit,
        ),
        (
            signed(payer.approval(0, GAS, 1, all)),
            Reason::ApprovalTxFeeTooLow,
        ),
        // Enough to be taken by a node, too little to approve anything.
        (
            signed(payer.approval(0, 24_000, FEE, all)),
            Reason::ApprovalTxFailed,
        ),
    ];
    for (request, reason) in faults {
        assert_eq!(world.told(&request).await, Some(reason), "{reason}");
    }
    // The half that is lacking is given.
    let dearer = signed(payer.approval(0, GAS, 2 * FEE, all));
    assert_eq!(world.told(&dearer).await, None);
    let poor = world.payer(VALUE - 1, cost()).await;
    let poor = world.exact(&poor).await;
    let insufficient = Some(Reason::Permit2InsufficientBalance);
    assert_eq!(world.told(&poor).await, insufficient);
    world.rpc("anvil_setCode", json!([EXACT_PROXY, "0x"])).await;
    world.next_head().await;
    let no_proxy = Some(Reason::Permit2ProxyNotDeployed);
    assert_eq!(world.told(&good).await, no_proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_of_a_payer_judges_behind_his_approval() {
    let world = World::generous().await;
    let delegating = world.payer(VALUE, cost()).await;
    let request = world.exact(&delegating).await;
    world.delegate(&delegating).await;
    assert_eq!(world.told(&request).await, None);
    let mut forged = world.exact(&delegating).await;
    permit_of(&mut forged).signature = sign(B256::ZERO, &delegating.key.0).unwrap().into();
    let not_accepted = Some(Reason::Permit2InvalidSignature);
    assert_eq!(world.told(&forged).await, not_accepted);
    world.proxy.code.store(-32_601, Ordering::Relaxed);
    let required = Some(Reason::Permit2AllowanceRequired);
    assert_eq!(world.told(&request).await, required);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowance_that_is_there_makes_it_an_ordinary_payment() {
    let world = World::generous().await;
    let payer = world.payer(VALUE, cost()).await;
    let request = world.exact(&payer).await;
    let transaction = json!([sent(&request)]);
    world.rpc("eth_sendRawTransaction", transaction).await;
    world.next_head().await;
    // Its nonce has passed, its payer has no gas left for another one.
    assert_eq!(world.told(&request).await, None);
    let seen = world.proxy.seen.lock().unwrap();
    assert!(seen.iter().all(|asked| !asked.contains("eth_simulateV1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_an_approval_does_not_count() {
    let world = World::start(None).await;
    let payer = world.payer(VALUE, cost()).await;
    let request = world.exact(&payer).await;
    let required = Some(Reason::Permit2AllowanceRequired);
    assert_eq!(world.told(&request).await, required);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_given_more_than_the_cap_nor_twice_nor_with_code() {
    let too_little = Some(Reason::ApprovalInsufficientGas);
    let most = Wei(cost() - U256::ONE);
    let world = World::start(Some(TopUpPolicy { most, day: most })).await;
    let broke = world.payer(VALUE, U256::ZERO).await;
    assert_eq!(world.told(&world.exact(&broke).await).await, too_little);
    let one_wei = world.payer(VALUE, U256::ONE).await;
    let request = world.exact(&one_wei).await;
    assert_eq!(world.told(&request).await, None);

    // What is on its way counts while its slot is open.
    let (fence, slot) = world.top_up(one_wei.address(), most).await;
    assert_eq!(world.told(&request).await, None);
    world.close(fence, &slot).await;
    assert_eq!(world.told(&request).await, too_little);
    let full = json!([one_wei.address(), cost()]);
    world.rpc("anvil_setBalance", full).await;
    world.next_head().await;
    assert_eq!(world.told(&request).await, None);

    let delegating = world.payer(VALUE, U256::ONE).await;
    world.delegate(&delegating).await;
    let request = world.exact(&delegating).await;
    assert_eq!(world.told(&request).await, too_little);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_simulate_bundles_tells_of_proxy_and_balance_only() {
    let world = World::generous().await;
    let payer = world.payer(VALUE, cost()).await;
    let poor = world.payer(VALUE - 1, cost()).await;
    let (good, poor) = (world.exact(&payer).await, world.exact(&poor).await);
    // Any other error is no answer, and no refusal either.
    world.proxy.code.store(-32_000, Ordering::Relaxed);
    let verdict = world.verifier.verify(&good).await;
    assert!(
        matches!(verdict, Verdict::Unknown(CheckError::Node { .. })),
        "{verdict:?}"
    );
    world.proxy.code.store(-32_601, Ordering::Relaxed);
    assert_eq!(world.told(&good).await, None);
    let insufficient = Some(Reason::Permit2InsufficientBalance);
    assert_eq!(world.told(&poor).await, insufficient);
    world.rpc("anvil_setCode", json!([EXACT_PROXY, "0x"])).await;
    world.next_head().await;
    let no_proxy = Some(Reason::Permit2ProxyNotDeployed);
    assert_eq!(world.told(&good).await, no_proxy);
}
