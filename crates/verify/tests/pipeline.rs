//! The whole pipeline on a real chain and real reservations.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use serde_json::json;
use teller_chain::{
    FeePolicy, HeadDoubt, HeadHandle, InspectLimits, Inspector, LocalSigner, NodeConfig, Nodes,
    SendOutcome, watch_heads,
};
use teller_devnet::{Devnet, DevnetConfig, Mining};
use teller_domain::{
    Asset, AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId, Eip712Name,
    Payment, PaymentRequest, Reason, Scheme, TenantId, UnixSeconds, Validity, X402Version,
};
use teller_schemes::multicall::MULTICALL3;
use teller_schemes::{eip3009, sign};
use teller_store::{MemoryReservations, SqliteLedger};
use teller_verify::{
    CheckError, Policy, TenantPolicy, Verdict, Verifier, VerifyNetwork, margin_seconds,
};
use tokio::time::{Instant, sleep};

const CHAIN: ChainId = ChainId(84532);

struct World {
    devnet: Devnet,
    nodes: Nodes,
    heads: HeadHandle,
    verifier: Verifier,
    ledger: Arc<SqliteLedger>,
    _files: tempfile::TempDir,
}

impl World {
    async fn start(mining: Mining, fund_payers: u64) -> Self {
        let devnet = Devnet::start(DevnetConfig {
            mining,
            payers: 4,
            fund_payers: U256::from(fund_payers),
            ..DevnetConfig::default()
        })
        .await
        .unwrap();
        let nodes = nodes(devnet.rpc_url());
        let interval = match mining {
            Mining::Interval(interval) => interval,
            // Blocks that only come with transactions are no reason to doubt the head for as long as a test takes.
            Mining::Instant | Mining::Manual => Duration::from_secs(10),
        };
        let heads = watch_heads(nodes.clone(), interval);
        let files = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(files.path().join("teller.db")).await;
        let ledger = Arc::new(ledger.unwrap());
        let reservations = Arc::new(MemoryReservations::open(&ledger).await.unwrap());
        let lenient = TenantPolicy {
            lenient: true,
            ..TenantPolicy::default()
        };
        let policy = Policy {
            tenants: HashMap::from([(TenantId::new("lenient"), lenient)]),
            ..Policy::default()
        };
        let network = VerifyNetwork {
            chain: CHAIN,
            assets: vec![asset(&devnet)],
            multicall3: MULTICALL3,
            delegation_managers: Vec::new(),
            wallet_factories: Vec::new(),
            approvals: None,
            facilitator: None,
            own_addresses: Vec::new(),
            nodes: nodes.clone(),
            inspector: Inspector::spawn(nodes.clone(), heads.clone(), InspectLimits::default()),
            heads: heads.clone(),
            margin_seconds: margin_seconds(Duration::from_secs(1)),
        };
        let verifier = Verifier::new(vec![network], policy, reservations, ledger.clone());
        Self {
            devnet,
            nodes,
            heads,
            verifier,
            ledger,
            _files: files,
        }
    }

    async fn request(&self, payer: usize, value: u64) -> PaymentRequest {
        self.request_of(self.devnet.info().payers[payer], value)
            .await
    }

    async fn request_of(&self, secret: B256, value: u64) -> PaymentRequest {
        let mut request = self.unsigned(secret, value).await;
        self.sign(secret, &mut request.payment);
        request
    }

    fn sign(&self, secret: B256, payment: &mut Payment) {
        let digest = eip3009::Domain::new(&asset(&self.devnet)).digest(payment);
        payment.authorization = Authorization::Eip3009 {
            signature: sign(digest, &secret.0).unwrap().into(),
        };
    }

    async fn unsigned(&self, secret: B256, value: u64) -> PaymentRequest {
        let head = self.heads.first(Duration::from_secs(5)).await.unwrap();
        let asset = asset(&self.devnet);
        let payer = LocalSigner::from_hex(&secret.to_string())
            .unwrap()
            .address();
        let payee = Address::repeat_byte(0x22);
        let payment = Payment {
            key: AuthorizationKey {
                chain: CHAIN,
                authority: asset.address,
                payer,
                nonce: AuthorizationNonce(B256::random()),
            },
            asset: asset.address,
            payee,
            value: AssetAmount::from(value),
            validity: Validity::between(UnixSeconds(0), head.chain_time().plus(300)),
            authorization: Authorization::Eip3009 {
                signature: sign(B256::ZERO, &secret.0).unwrap().into(),
            },
        };
        PaymentRequest {
            tenant: TenantId::new("seller"),
            version: X402Version::V2,
            scheme: Scheme::Exact,
            payment,
            asset: asset.address,
            pay_to: payee,
            amount: AssetAmount::from(value),
            max_timeout_seconds: 60,
            domain: Some(Eip712Name {
                name: asset.name,
                version: asset.version,
            }),
            attribution: alloy_primitives::Bytes::new(),
            idempotency_key: None,
        }
    }

    /// Lets somebody settle a payment, and waits until teller knows of it.
    async fn settle(&self, payment: &Payment) {
        let hash = self.send(payment).await;
        let mut head = self.heads.watch();
        head.wait_for(|head| {
            head.as_ref()
                .is_some_and(|head| head.block.transactions.contains(&hash))
        })
        .await
        .unwrap();
    }

    /// Sends a payment's transfer and waits for its receipt, as its payer would: past teller.
    async fn settle_unseen(&self, payment: &Payment) {
        let hash = self.send(payment).await;
        let receipt = loop {
            match self.nodes.receipts(&[hash]).await.unwrap().remove(0) {
                Some(receipt) => break receipt,
                None => sleep(Duration::from_millis(1)).await,
            }
        };
        assert!(receipt.succeeded);
    }

    async fn send(&self, payment: &Payment) -> B256 {
        let signer = self.devnet.info().signers[0].to_string();
        let signer = LocalSigner::from_hex(&signer).unwrap();
        let head = self.nodes.head().await.unwrap();
        let nonce = self.nodes.account_nonce(signer.address(), head.number);
        let fees = FeePolicy::default().initial(head.base_fee, 1_000_000);
        let call = eip3009::transfer_call(payment);
        let (asset, nonce) = (payment.asset, nonce.await.unwrap());
        let attempt = signer.sign_batch(CHAIN, nonce, asset, call, 200_000, fees);
        let attempt = attempt.unwrap();
        assert_eq!(self.nodes.send(&attempt.raw).await, SendOutcome::Accepted);
        attempt.hash
    }
}

fn nodes(url: &str) -> Nodes {
    Nodes::connect(NodeConfig {
        chain: CHAIN,
        rpc: vec![url.to_owned()],
        flashblocks: Vec::new(),
        request_timeout: Duration::from_secs(5),
    })
    .unwrap()
}

fn asset(devnet: &Devnet) -> Asset {
    let asset = &devnet.info().asset;
    Asset {
        chain: CHAIN,
        address: asset.address,
        name: asset.name.clone(),
        version: asset.version.clone(),
        decimals: asset.decimals,
    }
}

/// `None` for a payment that is valid and stays held.
fn reason(verdict: Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Valid(hold) => {
            hold.delivered();
            None
        }
        Verdict::Invalid(refusal) => Some(refusal.reason),
        Verdict::Unknown(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_payment_is_held_once_and_an_undelivered_one_not_at_all() {
    let world = World::start(Mining::Instant, 1_000_000).await;
    let verifier = &world.verifier;
    let request = world.request(0, 10_000).await;

    // Nobody heard the answer: the next one may have it.
    let Verdict::Valid(hold) = verifier.verify(&request).await else {
        panic!("a good payment was refused");
    };
    assert_eq!(hold.payer(), request.payment.key.payer);
    drop(hold);
    sleep(Duration::from_millis(100)).await;

    assert_eq!(reason(verifier.verify(&request).await), None);
    let held = Some(Reason::AuthorizationAlreadyReserved);
    assert_eq!(reason(verifier.verify(&request).await), held);
    let mut other = request.clone();
    other.tenant = TenantId::new("other");
    assert_eq!(reason(verifier.verify(&other).await), held);
    assert_eq!(reason(verifier.check_for_settle(&other).await), held);

    // What verify held, settle takes over; then nobody can give it back.
    assert_eq!(reason(verifier.check_for_settle(&request).await), None);
    let (key, digest) = (request.payment.key, request.payment.digest());
    let released = verifier.release(&request.tenant, key, digest).await;
    assert_eq!(released.ok(), Some(false));

    let mut lenient = world.request(1, 10_000).await;
    lenient.tenant = TenantId::new("lenient");
    assert_eq!(reason(verifier.verify(&lenient).await), None);
    let Verdict::Valid(renewed) = verifier.verify(&lenient).await else {
        panic!("a lenient tenant may repeat itself");
    };
    // Dropping what was only renewed takes nothing from the one that was granted.
    drop(renewed);
    sleep(Duration::from_millis(100)).await;
    let (key, digest) = (lenient.payment.key, lenient.payment.digest());
    let released = verifier.release(&lenient.tenant, key, digest).await;
    assert_eq!(released.ok(), Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_request_was_promised_outlives_an_undelivered_answer() {
    let world = World::start(Mining::Instant, 1_000_000).await;
    let verifier = &world.verifier;
    let mut keyed = world.request(0, 10_000).await;
    keyed.idempotency_key = Some("order 1".parse().unwrap());
    let mut lenient = world.request(1, 10_000).await;
    lenient.tenant = TenantId::new("lenient");
    for request in [keyed, lenient] {
        let first = verifier.verify(&request).await;
        assert!(matches!(first, Verdict::Valid(_)), "{first:?}");
        assert_eq!(reason(verifier.verify(&request).await), None);
        drop(first);
        sleep(Duration::from_millis(100)).await;
        let (key, digest) = (request.payment.key, request.payment.digest());
        let released = verifier.release(&request.tenant, key, digest).await;
        assert_eq!(released.ok(), Some(true), "it was held until now");
    }

    let settled = world.request(2, 1_000_000).await;
    let first = verifier.check_for_settle(&settled).await;
    assert!(matches!(first, Verdict::Valid(_)), "{first:?}");
    assert_eq!(reason(verifier.check_for_settle(&settled).await), None);
    drop(first);
    sleep(Duration::from_millis(100)).await;
    let other = world.request(2, 1).await;
    let too_little = Some(Reason::InsufficientBalance);
    assert_eq!(reason(verifier.verify(&other).await), too_little);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_reservations_settle_goes_on_and_verify_does_not() {
    let world = World::start(Mining::Instant, 1_000_000).await;
    let verifier = &world.verifier;
    let verified = world.request(0, 10_000).await;
    assert_eq!(reason(verifier.verify(&verified).await), None);
    let used = world.request(1, 10_000).await;
    world.settle(&used.payment).await;
    // The reservations write to its file.
    world.ledger.close().await;

    let unverified = world.request(2, 10_000).await;
    let poor = world.request(3, 1_000_001).await;
    let unavailable = |verdict: Verdict| {
        assert!(
            matches!(
                &verdict,
                Verdict::Unknown(CheckError::Store(error)) if error.is_retryable()
            ),
            "{verdict:?}"
        );
    };
    unavailable(verifier.verify(&unverified).await);
    assert_eq!(reason(verifier.check_for_settle(&unverified).await), None);
    assert_eq!(reason(verifier.check_for_settle(&verified).await), None);
    let too_little = Some(Reason::InsufficientBalance);
    assert_eq!(reason(verifier.check_for_settle(&poor).await), too_little);
    // Whether it was held before it was used is not known.
    unavailable(verifier.check_for_settle(&used).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_chain_says_is_told_by_name() {
    let world = World::start(Mining::Instant, 1_000_000).await;
    let verifier = &world.verifier;

    let broke = world.request(0, 1_000_001).await;
    let too_little = Some(Reason::InsufficientBalance);
    assert_eq!(reason(verifier.verify(&broke).await), too_little);

    // A million is there once, not twice.
    let first = world.request(0, 600_000).await;
    let second = world.request(0, 600_000).await;
    assert_eq!(reason(verifier.verify(&first).await), None);
    assert_eq!(reason(verifier.verify(&second).await), too_little);

    let used = world.request(1, 10_000).await;
    world.settle(&used.payment).await;
    let nonce_used = Some(Reason::NonceAlreadyUsed);
    assert_eq!(reason(verifier.verify(&used).await), nonce_used);
    assert_eq!(reason(verifier.check_for_settle(&used).await), nonce_used);

    let contract = world.request(2, 10_000).await;
    let code = json!([
        contract.payment.key.payer,
        "0xef01000000000000000000000000000000000000000001"
    ]);
    world.devnet.rpc("anvil_setCode", code).await.unwrap();
    // It delegates to nothing that could accept a signature.
    let not_accepted = Some(Reason::InvalidSignature);
    assert_eq!(reason(verifier.verify(&contract).await), not_accepted);

    let paused = world.request(3, 10_000).await;
    let asset = world.devnet.info().asset.address;
    world
        .devnet
        .rpc("anvil_setCode", json!([asset, "0x"]))
        .await
        .unwrap();
    let not_deployed = Some(Reason::AssetNotDeployed);
    assert_eq!(reason(verifier.verify(&paused).await), not_deployed);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_waited_for_a_receipt_is_not_refused_for_the_state_before_it() {
    let world = World::start(Mining::Instant, 1_000_000_000).await;
    let verifier = &world.verifier;
    for round in 0..10 {
        // A payer who has had nothing until this moment.
        let secret = B256::with_last_byte(100 + round);
        let payer = LocalSigner::from_hex(&secret.to_string())
            .unwrap()
            .address();
        let mut first = world.unsigned(secret, 10_000).await;
        let mut second = world.unsigned(secret, 10_000).await;
        world.sign(secret, &mut first.payment);
        world.sign(secret, &mut second.payment);
        for (time, request) in [&first, &second].into_iter().enumerate() {
            let mut funding = world.unsigned(world.devnet.info().payers[0], 10_000).await;
            funding.payment.payee = payer;
            world.sign(world.devnet.info().payers[0], &mut funding.payment);
            world.settle_unseen(&funding.payment).await;
            // The second time most of what was there is held.
            let verdict = match round % 2 {
                0 => verifier.verify(request).await,
                _ => verifier.check_for_settle(request).await,
            };
            assert_eq!(reason(verdict), None, "round {round}, time {time}");
        }

        // Valid from the block on that was just made.
        let secret = world.devnet.info().payers[1];
        let mut early = world.unsigned(secret, 10).await;
        let before = world.nodes.head().await.unwrap().timestamp;
        let (from, until) = (before.plus(3_600), before.plus(9_000));
        early.payment.validity = Validity::between(from, until);
        world.sign(secret, &mut early.payment);
        assert_eq!(
            reason(verifier.verify(&early).await),
            Some(Reason::ValidAfter)
        );
        let hour = json!([3_700]);
        world.devnet.rpc("evm_increaseTime", hour).await.unwrap();
        world.devnet.rpc("evm_mine", json!([])).await.unwrap();
        assert_eq!(reason(verifier.verify(&early).await), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_settled_while_it_was_held_goes_on_to_the_engine() {
    let world = World::start(Mining::Instant, 1_000_000).await;
    let verifier = &world.verifier;
    let all = world.request(0, 1_000_000).await;
    assert_eq!(reason(verifier.verify(&all).await), None);
    world.settle(&all.payment).await;
    world
        .devnet
        .rpc("anvil_mine", json!(["0x4"]))
        .await
        .unwrap();
    let head = world.nodes.head().await.unwrap().number;
    let mut heads = world.heads.watch();
    let seen = heads.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.block.number >= head));
    drop(seen.await.unwrap());

    let nonce_used = Some(Reason::NonceAlreadyUsed);
    let mut stranger = all.clone();
    stranger.tenant = TenantId::new("stranger");
    assert_eq!(
        reason(verifier.check_for_settle(&stranger).await),
        nonce_used
    );
    assert_eq!(reason(verifier.check_for_settle(&all).await), None);
    assert_eq!(reason(verifier.verify(&all).await), nonce_used);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settle_right_after_its_verify_reads_nothing_and_without_a_node_nothing_is_refused() {
    let world = World::start(Mining::Manual, 1_000_000).await;
    let verifier = &world.verifier;
    let verified = world.request(0, 10_000).await;
    let unseen = world.request(0, 10_000).await;
    assert_eq!(reason(verifier.verify(&verified).await), None);
    let World {
        devnet, verifier, ..
    } = world;
    devnet.shutdown().await;
    assert_eq!(reason(verifier.check_for_settle(&verified).await), None);
    let verdict = verifier.verify(&unseen).await;
    assert!(
        matches!(verdict, Verdict::Unknown(CheckError::Node { chain }) if chain == CHAIN),
        "{verdict:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_head_that_stands_still_nothing_is_judged() {
    let world = World::start(Mining::Interval(Duration::from_secs(1)), 1_000_000).await;
    let good = world.request(0, 10_000).await;
    assert_eq!(reason(world.verifier.verify(&good).await), None);
    let stop = world.devnet.rpc("evm_setIntervalMining", json!([0]));
    stop.await.unwrap();
    let start = Instant::now();
    while !world.heads.is_stalled() {
        assert!(start.elapsed() < Duration::from_secs(60));
        sleep(Duration::from_millis(100)).await;
    }
    let unseen = world.request(1, 10_000).await;
    for verdict in [
        world.verifier.verify(&unseen).await,
        world.verifier.check_for_settle(&unseen).await,
        world.verifier.check_for_settle(&good).await,
    ] {
        assert!(
            matches!(verdict, Verdict::Unknown(CheckError::Head { chain, doubt: HeadDoubt::Stalled { .. } }) if chain == CHAIN),
            "{verdict:?}"
        );
    }
    world.devnet.rpc("evm_mine", json!([])).await.unwrap();
    while world.heads.is_stalled() {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(reason(world.verifier.verify(&unseen).await), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_all_valid() {
    let world = World::start(Mining::Interval(Duration::from_secs(1)), 1_000_000_000).await;
    let mut requests = Vec::new();
    for n in 0..1_000 {
        requests.push(world.request(n % 4, 1_000).await);
    }
    let started = Instant::now();
    let tasks: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let verifier = world.verifier.clone();
            tokio::spawn(async move { reason(verifier.verify(&request).await) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), None);
    }
    println!("1,000 verifies in {:?}", started.elapsed());
}
