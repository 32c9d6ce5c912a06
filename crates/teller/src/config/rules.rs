//! What must hold between keys that are each fine alone.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use teller_domain::{EXACT_PROXY, Level, PERMIT2, TenantId, UPTO_PROXY};

use super::reader::Problem;
use super::{ApiKey, Auth, Config, Network, Role, Secret};

/// Gas for the dearest redemption: with the longest permission context.
const LEAST_GAS_FOR_DELEGATIONS: u64 = 2_000_000;

/// The rules that a configuration breaks, whatever it is used for.
pub(super) fn broken(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |message: String| {
        problems.push(Problem {
            origin: None,
            message,
        });
    };
    if config.networks.is_empty() {
        problem("`networks` is missing: at least one [[networks]] is needed".to_owned());
    }
    let server = &config.server;
    let listeners = [
        ("rest", server.rest),
        ("grpc", server.grpc),
        ("metrics", server.metrics),
    ];
    for (index, (key, address)) in listeners.iter().enumerate() {
        for (other, taken) in listeners.iter().take(index) {
            if address == taken && address.port() != 0 {
                problem(format!(
                    "`server.{key}` and `server.{other}` are both {address}"
                ));
            }
        }
    }
    if let Auth::Keys(keys) = &server.auth {
        let mut seen = BTreeSet::new();
        for key in keys.iter().filter(|key| !seen.insert(key.sha256)) {
            problem(format!(
                "a key of tenant {} stands twice in `server.keys`",
                key.tenant
            ));
        }
    }
    for tenant in differing_tenants(&server.auth) {
        problem(format!(
            "the keys of tenant {tenant} in `server.keys` differ in more than `sha256`: they share one allowance"
        ));
    }
    let mut ids = BTreeSet::new();
    for network in &config.networks {
        let id = network.id;
        if !ids.insert(id) {
            problem(format!("network {id} stands twice in `networks`"));
        }
        let mut signers = BTreeSet::new();
        for signer in &network.signers {
            if !signers.insert(signer.address) {
                problem(format!(
                    "signer {} stands twice in network {id}",
                    signer.address
                ));
            }
        }
        if let Some(key) = &config.receipt_key
            && signers.contains(&key.address)
        {
            problem(format!(
                "`receipts.key` is signer {} of network {id}: receipts need a key of their own, which outlives signers",
                key.address
            ));
        }
        for message in misplaced_managers(network) {
            problem(message);
        }
        let mut assets = BTreeSet::new();
        for asset in &network.assets {
            if !assets.insert(asset.address) {
                problem(format!(
                    "asset {} stands twice in network {id}",
                    asset.address
                ));
            }
        }
        for (key, urls) in [
            ("rpc", &network.rpc),
            ("flashblocks_rpc", &network.flashblocks_rpc),
        ] {
            if !urls.iter().all(is_node_url) {
                problem(format!(
                    "an `{key}` of network {id} is no http://, https://, ws:// or wss:// URL"
                ));
            }
        }
    }
    for message in blind_to_flashblocks(config) {
        problem(message);
    }
    let ledger = config.ledger.url.expose();
    if !(is_embedded_ledger(config)
        || ledger.starts_with("postgres://")
        || ledger.starts_with("postgresql://"))
    {
        problem("`ledger.url` must start with sqlite:// or postgres://".to_owned());
    }
    let reservations = config.reservations.url.expose();
    if !(is_embedded_reservations(config)
        || reservations.starts_with("redis://")
        || reservations.starts_with("rediss://"))
    {
        problem("`reservations.url` must be memory:// or start with redis://".to_owned());
    }
    problems
}

/// A delegation manager is called from a signer's account with whatever a payer sends.
fn misplaced_managers(network: &Network) -> Vec<String> {
    let id = network.id;
    let managers = &network.delegation_managers;
    let is_else = |manager: &&Address| {
        let signers = network.signers.iter().map(|signer| signer.address);
        let assets = network.assets.iter().map(|asset| asset.address);
        let others = [network.multicall3, PERMIT2, EXACT_PROXY, UPTO_PROXY];
        signers
            .chain(assets)
            .chain(others)
            .any(|other| other == **manager)
    };
    let mut messages: Vec<String> = managers
        .iter()
        .filter(is_else)
        .map(|manager| {
            format!(
                "{manager} in `delegation_managers` of network {id} is a signer, an asset or a contract that settles \
                 other payments, and no delegation manager"
            )
        })
        .collect();
    if !managers.is_empty() && network.max_batch_gas < LEAST_GAS_FOR_DELEGATIONS {
        messages.push(format!(
            "`max_batch_gas` of network {id} is {}, and delegations need {LEAST_GAS_FOR_DELEGATIONS}",
            network.max_batch_gas
        ));
    }
    messages
}

fn is_node_url(url: &Secret) -> bool {
    url::Url::parse(url.expose())
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https" | "ws" | "wss"))
}

/// Who would wait for Flashblocks that nobody shows.
fn blind_to_flashblocks(config: &Config) -> Vec<String> {
    let blind: Vec<_> = config
        .networks
        .iter()
        .filter(|network| network.flashblocks_rpc.is_empty())
        .collect();
    let mut messages: Vec<String> = blind
        .iter()
        .filter(|network| network.settled_at == Level::Preconfirmed)
        .map(|network| {
            format!(
                "`settled_at` of network {} is \"preconfirmed\" and it has no `flashblocks_rpc`: nobody would see \
                 a Flashblock",
                network.id
            )
        })
        .collect();
    let keys = match &config.server.auth {
        Auth::Keys(keys) => keys.as_slice(),
        Auth::Open => &[],
    };
    let mut tenants = BTreeSet::new();
    for key in keys
        .iter()
        .filter(|key| key.settled_at == Some(Level::Preconfirmed))
    {
        let may_use = |id| key.networks.as_ref().is_none_or(|ids| ids.contains(id));
        let network = blind.iter().find(|network| may_use(&network.id));
        if let (Some(network), true) = (network, tenants.insert(&key.tenant)) {
            messages.push(format!(
                "`settled_at` of tenant {} is \"preconfirmed\" and network {}, which it may use, has no \
                 `flashblocks_rpc`",
                key.tenant, network.id
            ));
        }
    }
    messages
}

/// Tenants with several keys that do not say the same of them.
fn differing_tenants(auth: &Auth) -> Vec<&TenantId> {
    let Auth::Keys(keys) = auth else {
        return Vec::new();
    };
    keys.iter()
        .enumerate()
        .filter(|(index, key)| {
            let same = |earlier: &&ApiKey| earlier.tenant == key.tenant;
            let first = keys.iter().take(*index).find(same);
            first.is_some_and(|first| {
                let with_its_hash = ApiKey {
                    sha256: first.sha256,
                    ..(*key).clone()
                };
                *first != with_its_hash
            })
        })
        .map(|(_, key)| &key.tenant)
        .collect()
}

fn is_embedded_ledger(config: &Config) -> bool {
    config.ledger.url.expose().starts_with("sqlite:")
}

fn is_embedded_reservations(config: &Config) -> bool {
    config.reservations.url.expose().starts_with("memory:")
}

impl Config {
    /// Whether the ledger is a file of this machine.
    pub fn has_embedded_ledger(&self) -> bool {
        is_embedded_ledger(self)
    }

    /// What keeps a process of this role from serving with this configuration, if anything does.
    pub fn refuse_role(&self, role: Role) -> Option<&'static str> {
        let embedded = is_embedded_ledger(self) || is_embedded_reservations(self);
        let takes_requests = role != Role::Settler;
        match &self.server.auth {
            _ if role != Role::All && embedded => Some(
                "only --role all works with a SQLite ledger or memory:// reservations: two processes would not \
                 see each other. Use postgres:// and redis://",
            ),
            Auth::Keys(keys) if keys.is_empty() && takes_requests => Some(
                "`server.keys` is empty, so nobody could call. Add one (`teller key new TENANT` makes it), or say \
                 server.auth = \"open\"",
            ),
            Auth::Keys(_) | Auth::Open => None,
        }
    }
}
