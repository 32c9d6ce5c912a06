//! An API whose stores and nodes are all out: enough to see every answer that does not depend on a payment being good.
//! Real payments go through the front door in the binary's tests.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use teller_api::{
    Api, ApiConfig, ApiKey, Auth, Readiness, Supported, SupportedNetwork, TenantLimits,
};
use teller_chain::{InspectLimits, Inspector, NodeConfig, Nodes, watch_heads};
use teller_domain::{ChainId, ProcessId, TenantId, known_assets};
use teller_settle::Engine;
use teller_store::{Ledger, MemoryReservations, SqliteLedger};
use teller_verify::{Policy, Verifier, VerifyNetwork};

/// The API with everything behind it out of order.
#[allow(dead_code)]
pub async fn api(auth: Auth) -> Api {
    let readiness = Readiness::new()
        .with("ledger", || async { false })
        .with("eip155:84532", || async { true });
    api_with(auth, readiness).await
}

/// The same with other dependencies to report.
#[allow(dead_code)]
pub async fn api_with(auth: Auth, readiness: Readiness) -> Api {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = SqliteLedger::open(&directory.path().join("teller.db"))
        .await
        .unwrap();
    let reservations = Arc::new(MemoryReservations::open(&sqlite).await.unwrap());
    // A real ledger that is out of order: every call to a closed one fails.
    sqlite.close().await;
    api_over(auth, readiness, Arc::new(sqlite), reservations)
}

/// The API over a ledger of the test's own.
pub fn api_over(
    auth: Auth,
    readiness: Readiness,
    ledger: Arc<dyn Ledger>,
    reservations: Arc<MemoryReservations>,
) -> Api {
    api_as(ApiConfig::default(), auth, readiness, ledger, reservations)
}

/// The same with another configuration.
pub fn api_as(
    config: ApiConfig,
    auth: Auth,
    readiness: Readiness,
    ledger: Arc<dyn Ledger>,
    reservations: Arc<MemoryReservations>,
) -> Api {
    let poll = Duration::from_secs(60);
    let (_engine, settler) = Engine::remote(
        ledger.clone(),
        reservations.clone(),
        ProcessId::fresh(),
        poll,
    );
    Api::new(
        config,
        Verifier::new(
            vec![without_a_node()],
            Policy::default(),
            reservations,
            ledger.clone(),
        ),
        settler,
        ledger,
        Supported {
            networks: vec![SupportedNetwork {
                chain: ChainId(84532),
                signers: vec![Address::repeat_byte(0x11)],
                facilitator: None,
                token_permits: false,
                token_approvals: false,
                delegations: None,
            }],
        },
        auth,
        readiness,
    )
}

/// Base Sepolia through a node that nobody runs.
fn without_a_node() -> VerifyNetwork {
    let chain = ChainId(84532);
    let config = NodeConfig {
        chain,
        rpc: vec!["http://127.0.0.1:1".to_owned()],
        flashblocks: Vec::new(),
        request_timeout: Duration::from_millis(200),
    };
    let nodes = Nodes::connect(config).unwrap();
    let heads = watch_heads(nodes.clone(), Duration::from_secs(2));
    let limits = InspectLimits {
        first_head: Duration::from_millis(200),
        ..InspectLimits::default()
    };
    VerifyNetwork {
        chain,
        assets: known_assets(chain).collect(),
        multicall3: Address::repeat_byte(0x33),
        wallet_factories: Vec::new(),
        delegation_managers: Vec::new(),
        approvals: None,
        facilitator: None,
        own_addresses: Vec::new(),
        nodes: nodes.clone(),
        inspector: Inspector::spawn(nodes, heads.clone(), limits),
        heads,
        margin_seconds: 6,
    }
}

/// Two tenants; the second may ask once a minute or so.
#[allow(dead_code)]
pub fn keys() -> Auth {
    let key = |key: &str, tenant: &str, limits| ApiKey {
        hash: ApiKey::hash_of(key),
        tenant: TenantId::new(tenant),
        limits,
    };
    let slow = TenantLimits {
        requests_per_second: Some(1),
        burst: Some(1),
        ..TenantLimits::default()
    };
    Auth::Keys(vec![
        key("fast-key", "fast", TenantLimits::default()),
        key("slow-key", "slow", slow),
    ])
}
