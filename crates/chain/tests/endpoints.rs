//! Endpoints that fail in one way only: a method that hangs, a rate limit, answers in another form, a tag that is not
//! known. In front of a real anvil.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::Write;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use support::{CHAIN, Front, Reply, nodes, nodes_within};
use teller_chain::{
    FeePolicy, InspectItem, InspectLimits, Inspector, LocalSigner, NodeError, SendOutcome, Target,
    watch_heads,
};
use teller_devnet::contracts::TEST_DOLLAR;
use teller_devnet::{Devnet, DevnetConfig, Mining};
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

async fn devnet() -> Devnet {
    let config = DevnetConfig {
        mining: Mining::Manual,
        payers: 1,
        ..DevnetConfig::default()
    };
    Devnet::start(config).await.unwrap()
}

fn method(call: &Value) -> &str {
    call["method"].as_str().unwrap()
}

/// One method behaves so, all others go through.
fn only(
    name: &'static str,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Value) -> Reply + Send + Sync + 'static {
    move |call| match method(call) == name {
        true => reply(),
        false => Reply::Pass,
    }
}

fn refuse(code: i64, message: &str) -> Reply {
    Reply::Json(json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}}))
}

fn item() -> InspectItem {
    InspectItem {
        token: TEST_DOLLAR,
        payer: Address::repeat_byte(7),
        payee: Address::repeat_byte(8),
        nonce: B256::random(),
        call: Bytes::new(),
        target: Target::Token,
        gas: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_hangs_is_asked_of_the_next_endpoint_and_then_avoided() {
    let devnet = devnet().await;
    let first = Front::start(devnet.rpc_url(), only("eth_call", || Reply::Hang)).await;
    let second = Front::start(devnet.rpc_url(), |_| Reply::Pass).await;
    let limit = Duration::from_secs(4);
    let two = nodes_within(&[&first.url, &second.url], limit);
    let heads = watch_heads(two.clone(), Duration::from_millis(200));
    heads.first(PATIENCE).await.unwrap();
    let inspector = Inspector::spawn(two.clone(), heads, InspectLimits::default());
    for _ in 0..4 {
        // Well before the first one's time limit, and with its answer outstanding.
        let inspected = timeout(limit, inspector.inspect(item())).await;
        assert!(inspected.expect("it waited for the first").is_ok());
    }
    // Its own calls are judged although nobody waits for them.
    sleep(limit + Duration::from_millis(500)).await;
    let asked = first.calls("eth_call");
    for _ in 0..6 {
        inspector.inspect(item()).await.unwrap();
    }
    // No more than a probe now and then.
    assert!(first.calls("eth_call") <= asked + 2);
    // What works there goes on there.
    let blocks = (
        first.calls("eth_getBlockByNumber"),
        second.calls("eth_getBlockByNumber"),
    );
    two.head().await.unwrap();
    assert!(first.calls("eth_getBlockByNumber") > blocks.0);

    // And it comes back.
    first.set(|_| Reply::Pass);
    let back = async {
        while {
            let asked = first.calls("eth_call");
            let elsewhere = second.calls("eth_call");
            inspector.inspect(item()).await.unwrap();
            first.calls("eth_call") == asked || second.calls("eth_call") != elsewhere
        } {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, back)
        .await
        .expect("the first one is never asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_is_hedged() {
    let devnet = devnet().await;
    let hung = Front::start(devnet.rpc_url(), |_| Reply::Hang).await;
    let limit = Duration::from_secs(20);
    let two = nodes_within(&[&hung.url, devnet.rpc_url()], limit);
    let started = Instant::now();
    let head = two.head().await.unwrap().reference();
    let who = Address::repeat_byte(1);
    two.blocks(&[0, 1]).await.unwrap();
    two.receipts(&[B256::ZERO]).await.unwrap();
    two.account(who, head).await.unwrap();
    two.balance(who).await.unwrap();
    two.code(who).await.unwrap();
    two.tip().await.unwrap();
    two.logs(who, &[], 0, head.number).await.unwrap();
    two.safe_and_finalized().await.unwrap();
    two.simulate(
        head.number,
        teller_domain::UnixSeconds(u64::from(u32::MAX)),
        &[],
    )
    .await
    .unwrap_or_default();
    assert!(started.elapsed() < limit, "one of them waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_the_endpoints_and_not_that_of_what_was_asked() {
    let devnet = devnet().await;
    for (code, message) in [
        (-32_005, "limit exceeded"),
        (-32_007, "50/second request limit reached"),
        (-32_016, "over rate limit"),
        (-32_000, "Too Many Requests"),
    ] {
        let limited = Front::start(
            devnet.rpc_url(),
            only("eth_call", move || refuse(code, message)),
        )
        .await;
        let two = nodes(&[&limited.url, devnet.rpc_url()]);
        let heads = watch_heads(two.clone(), Duration::from_millis(200));
        let inspector = Inspector::spawn(two, heads, InspectLimits::default());
        let items = (0..100).map(|_| item()).collect();
        assert_eq!(inspector.inspect_many(items).await.unwrap().len(), 100);
        assert_eq!(limited.calls("eth_call"), 1, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_endpoint_that_is_rate_limited_is_given_a_pause() {
    let devnet = devnet().await;
    let limited = Front::start(
        devnet.rpc_url(),
        only("eth_call", || refuse(-32_005, "limit exceeded")),
    )
    .await;
    let lone = nodes_within(&[&limited.url], Duration::from_secs(4));
    let heads = watch_heads(lone.clone(), Duration::from_millis(200));
    let inspector = Inspector::spawn(lone, heads, InspectLimits::default());
    let waiting: Vec<_> = (0..300)
        .map(|_| {
            let inspector = inspector.clone();
            tokio::spawn(async move { inspector.inspect(item()).await })
        })
        .collect();
    let mut refused = 0;
    for inspected in waiting {
        let inspected = inspected.await.unwrap();
        refused += usize::from(matches!(inspected, Err(NodeError::Limited { .. })));
    }
    assert_eq!(refused, 300);
    assert!(
        limited.calls("eth_call") < 30,
        "{}",
        limited.calls("eth_call")
    );
    // A limit that passes is waited for, and nobody is told of it.
    let started = Instant::now();
    limited.set(move |call| {
        match method(call) == "eth_call" && started.elapsed() < Duration::from_secs(1) {
            true => refuse(-32_005, "limit exceeded"),
            false => Reply::Pass,
        }
    });
    let served = async {
        while inspector.inspect(item()).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE * 2, served).await.expect("it stays out");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured() {
    let devnet = devnet().await;
    let body = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"slow down"}}"#;
    for answer in [
        Reply::Http("429 Too Many Requests\r\nretry-after: 3", body.to_vec()),
        Reply::Http(
            "429 Too Many Requests\r\nretry-after: 3",
            b"slow down".to_vec(),
        ),
        Reply::Http("503 Service Unavailable\r\nretry-after: 3", Vec::new()),
        Reply::Json(
            json!({"error": {"code": -32_005, "message": "limit", "data": {"rate": {"backoff_seconds": 3}}}}),
        ),
    ] {
        let again = answer.clone();
        let limited = Front::start(devnet.rpc_url(), move |_| again.clone()).await;
        // The pause is longer than a call may take: nobody waits for it.
        let lone = nodes_within(&[&limited.url], Duration::from_secs(2));
        let began = Instant::now();
        let mut told = Vec::new();
        while began.elapsed() < Duration::from_millis(700) {
            told.push(lone.chain_id().await);
            sleep(Duration::from_millis(20)).await;
        }
        let asked = limited.calls("eth_chainId");
        assert_eq!(asked, 1, "{answer:?}");
        let limits = told
            .iter()
            .all(|told| matches!(told, Err(NodeError::Limited { .. })));
        assert!(limits, "{told:?}");
        limited.set(|_| Reply::Pass);
        sleep(Duration::from_secs(3).saturating_sub(began.elapsed()) + Duration::from_millis(200))
            .await;
        assert_eq!(lone.chain_id().await, Ok(CHAIN.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_question_is_still_halved() {
    let devnet = devnet().await;
    let too_much = Front::start(devnet.rpc_url(), |call| {
        let data = call["params"][0]["data"].as_str().unwrap_or_default();
        match method(call) == "eth_call" && data.len() > 8_000 {
            true => refuse(-32_000, "gas limit exceeded"),
            false => Reply::Pass,
        }
    })
    .await;
    let lone = nodes(&[&too_much.url]);
    let heads = watch_heads(lone.clone(), Duration::from_millis(200));
    let inspector = Inspector::spawn(lone, heads, InspectLimits::default());
    let items = (0..60).map(|_| item()).collect();
    assert_eq!(inspector.inspect_many(items).await.unwrap().len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_one_endpoint_does_not_know_is_asked_of_the_others() {
    let devnet = devnet().await;
    devnet.rpc("anvil_mine", json!(["0x64"])).await.unwrap();
    let null = || Reply::Json(json!({"jsonrpc": "2.0", "result": null}));
    let unknown = || refuse(-32_602, "unknown block tag");
    let missing = || refuse(-39_001, "finalized block not found");
    for lacking in [null as fn() -> Reply, unknown, missing] {
        let first = Front::start(devnet.rpc_url(), move |call| {
            match call["params"][0] == "finalized" || call["params"][0] == "safe" {
                true => lacking(),
                false => Reply::Pass,
            }
        })
        .await;
        let two = nodes(&[&first.url, devnet.rpc_url()]);
        let (safe, finalized) = two.safe_and_finalized().await.unwrap();
        assert!(safe.is_some() && finalized.is_some());
        // Where nobody knows it, that is known.
        let lone = nodes(&[&first.url]);
        assert_eq!(lone.safe_and_finalized().await, Ok((None, None)));
        // Where somebody could not be asked, nothing is.
        let half = nodes(&[&first.url, "http://127.0.0.1:1"]);
        assert!(half.safe_and_finalized().await.is_err());
    }
}

fn gzip(body: Vec<u8>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&body).unwrap();
    encoder.finish().unwrap()
}

fn with_a_mark(body: Vec<u8>) -> Vec<u8> {
    [b"\xef\xbb\xbf".to_vec(), body].concat()
}

/// `"error": null` beside every result, and every identifier a text.
fn with_nulls_and_texts(body: Vec<u8>) -> Vec<u8> {
    let change = |answer: &mut Value| {
        answer["error"] = Value::Null;
        answer["id"] = json!(answer["id"].to_string());
    };
    let mut answer: Value = serde_json::from_slice(&body).unwrap();
    match answer.as_array_mut() {
        Some(answers) => {
            answers.reverse();
            answers.iter_mut().for_each(change);
        }
        None => change(&mut answer),
    }
    answer.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_in_another_form_are_understood() {
    let devnet = devnet().await;
    devnet.rpc("anvil_mine", json!(["0x5"])).await.unwrap();
    for change in [
        gzip as fn(Vec<u8>) -> Vec<u8>,
        with_a_mark,
        with_nulls_and_texts,
        |body| gzip(with_a_mark(with_nulls_and_texts(body))),
    ] {
        let odd = Front::start(devnet.rpc_url(), move |_| Reply::Rewrite(change)).await;
        let odd = nodes(&[&odd.url]);
        let plain = nodes(&[devnet.rpc_url()]);
        assert_eq!(odd.chain_id().await, Ok(CHAIN.0));
        assert_eq!(odd.head().await, plain.head().await);
        assert_eq!(
            odd.blocks(&[3, 1, 9_999]).await,
            plain.blocks(&[3, 1, 9_999]).await
        );
        assert_eq!(
            odd.receipts(&[B256::ZERO, B256::ZERO]).await,
            Ok(vec![None, None])
        );
    }
    let bomb = Front::start(devnet.rpc_url(), |_| {
        Reply::Rewrite(|_| gzip(vec![b' '; (64 << 20) + 1]))
    })
    .await;
    let refused = nodes(&[&bomb.url]).chain_id().await;
    assert_eq!(refused, Err(NodeError::BadAnswer("too long")));
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_are_read_whatever_stands_beside_what_is_used() {
    let devnet = devnet().await;
    let plain = nodes(&[devnet.rpc_url()]);
    let signer = LocalSigner::from_hex(&devnet.info().signers[0].to_string()).unwrap();
    let head = plain.head().await.unwrap();
    let nonce = plain
        .account_nonce(signer.address(), head.number)
        .await
        .unwrap();
    let fees = FeePolicy::default().initial(head.base_fee, 1);
    let noop = signer.sign_noop(CHAIN, nonce, fees).unwrap();
    assert_eq!(plain.send(&noop.raw).await, SendOutcome::Accepted);
    devnet.rpc("evm_mine", json!([])).await.unwrap();
    let expected = plain
        .receipts(&[noop.hash])
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    assert!(expected.cost.0 > U256::ZERO);

    type Spoil = fn(&mut Value);
    let spoils: [Spoil; 4] = [
        |receipt| receipt["l1FeeScalar"] = json!("0x0"),
        |receipt| receipt["l1FeeScalar"] = json!(0.684),
        |receipt| {
            receipt.as_object_mut().unwrap().remove("effectiveGasPrice");
        },
        |receipt| {
            receipt["effectiveGasPrice"] = Value::Null;
            receipt["l1GasPrice"] = json!("");
            receipt["logsBloom"] = json!([]);
        },
    ];
    for spoil in spoils {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionReceipt", "params": [noop.hash]});
        let mut receipt = support::ask(devnet.rpc_url(), &call).await["result"].take();
        spoil(&mut receipt);
        let odd = Front::start(
            devnet.rpc_url(),
            only("eth_getTransactionReceipt", move || {
                Reply::Json(json!({"jsonrpc": "2.0", "result": receipt}))
            }),
        )
        .await;
        let odd = nodes(&[&odd.url]);
        assert_eq!(
            odd.receipts(&[noop.hash]).await,
            Ok(vec![Some(expected.clone())])
        );
        let seen = odd.sightings(signer.address(), &[noop.hash], None).await;
        assert_eq!(seen[0].receipts, std::slice::from_ref(&expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_lets_a_call_do_is_found_out() {
    let devnet = devnet().await;
    let limits = InspectLimits::default();
    let found = async |url: &str| {
        let lone = nodes(&[url]);
        let head = lone.head().await.unwrap();
        let lens = lone.try_lens(&item(), head.reference(), limits).await;
        let gas = lone.gas_of_a_call(limits.gas, head.number).await;
        (lens.is_ok(), gas.ok())
    };
    let (lens, gas) = found(devnet.rpc_url()).await;
    assert!(lens && gas.unwrap() > limits.gas - 50_000, "{gas:?}");

    let capped = Front::start(devnet.rpc_url(), |call| {
        let mut call = call.clone();
        if method(&call) == "eth_call" {
            call["params"][0]["gas"] = json!("0x4c4b40");
        }
        Reply::Instead(call)
    })
    .await;
    let (lens, gas) = found(&capped.url).await;
    assert!(
        lens && (4_900_000..=5_000_000).contains(&gas.unwrap()),
        "{gas:?}"
    );

    let without = Front::start(devnet.rpc_url(), |call| {
        let mut call = call.clone();
        if method(&call) == "eth_call" {
            call["params"].as_array_mut().unwrap().truncate(2);
        }
        Reply::Instead(call)
    })
    .await;
    assert_eq!(found(&without.url).await, (false, None));
    let refusing = Front::start(
        devnet.rpc_url(),
        only("eth_call", || refuse(-32_602, "too many arguments")),
    )
    .await;
    assert_eq!(found(&refusing.url).await, (false, None));
}
