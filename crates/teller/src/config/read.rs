//! Every key with its default and its range.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use alloy_primitives::Address;
use teller_domain::invariants::TRANSACTION_GAS_CAP;
use teller_domain::{
    Asset, ChainId, Level, TenantId, TopUpPolicy, Wei, known_assets, known_network,
};

use super::money::{Usd, ceiling, wei, wei_or_none};
use super::reader::Section;
use super::{
    ApiKey, Auth, Budget, Config, Discovery, FeeBounds, Ledger, Log, LogFormat, MULTICALL3,
    Network, Policy, Reservations, Server, Settler, SignerKey, parse_sha256,
};

const BUILDER_CODE: &str = "1 to 32 of a-z, 0-9 and _";
const ADDRESS: &str = "an address (0x and 40 hexadecimal digits)";
const CAIP2: &str = "a CAIP-2 id, like eip155:84532";
const SOCKET: &str = "an IP address and a port, like 127.0.0.1:8402";
const URLS: &str = "at least one http://, https://, ws:// or wss:// URL";
const LEVEL: &str = "one of preconfirmed, included, safe, finalized";
const WEI: &str = "an amount of wei above zero, in quotes, like \"20000000000000000\"";
const WEI_OR_NONE: &str = "an amount of wei, in quotes, like \"20000000000000\", or \"0\"";
const USD: &str = "an amount of USD above zero, in quotes, like \"0.01\"";
const WEI_PER_GWEI: u128 = 1_000_000_000;

pub(super) fn config(root: &mut Section<'_>) -> Option<Config> {
    let server = root.section("server", server);
    let ledger = root.section("ledger", |section| Ledger {
        url: section.maybe_secret("url", "sqlite://teller.db"),
    });
    let reservations = root.section("reservations", |section| Reservations {
        url: section.maybe_secret("url", "memory://"),
        balance_hold: seconds(section.number("balance_hold_seconds", 60, 5..=3_600)),
        recovery: seconds(section.number("recovery_seconds", 300, 0..=86_400)),
    });
    let settler = root.section("settler", |section| Settler {
        lease: seconds(section.number("lease_seconds", 6, 2..=60)),
    });
    let networks = root.sections("networks", network);
    let policy = root.section("policy", |section| Policy {
        denied: section.list("denied", ADDRESS),
        allow_empty_payments: section.flag("allow_empty_payments", false),
    });
    let receipt_key = root.section("receipts", receipt_key);
    let discovery = root.section("discovery", discovery);
    let log = root.section("log", |section| Log {
        format: section.choice(
            "format",
            [("pretty", LogFormat::Pretty), ("json", LogFormat::Json)],
            LogFormat::Pretty,
        ),
        level: section
            .parsed(
                "level",
                "a log filter, like info or info,teller_settle=debug",
                |text| {
                    tracing_subscriber::EnvFilter::try_new(text)
                        .is_ok()
                        .then(|| text.to_owned())
                },
            )
            .unwrap_or_else(|| "info".to_owned()),
    });
    Some(Config {
        server: server?,
        ledger,
        reservations,
        settler,
        networks,
        policy,
        receipt_key,
        discovery,
        log,
    })
}

fn server(section: &mut Section<'_>) -> Option<Server> {
    let mut socket = |key, port| {
        section
            .text(key, SOCKET)
            .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    let rest = socket("rest", 8402);
    let grpc = socket("grpc", 8403);
    let metrics = socket("metrics", 9402);
    let open = section.choice("auth", [("keys", false), ("open", true)], false);
    let open_to_the_world = section.flag("open_to_the_world", false);
    let keys = section.sections("keys", api_key);
    let exposed = [("rest", rest), ("grpc", grpc)]
        .into_iter()
        .find(|(_, address)| !address.ip().is_loopback());
    if let (true, false, Some((key, address))) = (open, open_to_the_world, exposed) {
        section.problem(
            None,
            format!(
                "`server.{key}` is {address}, which others can reach, and `server.auth` is \"open\": \
                 anybody could spend your gas. Use keys, bind to 127.0.0.1, or say \
                 server.open_to_the_world = true"
            ),
        );
    }
    Some(Server {
        rest,
        grpc,
        metrics,
        auth: if open { Auth::Open } else { Auth::Keys(keys) },
        max_in_flight: wide(section.number("max_in_flight", 8_192, 1..=1_000_000)),
        settle_wait: seconds(section.number("settle_wait_seconds", 25, 1..=25)),
        builder_code: section.parsed("builder_code", BUILDER_CODE, |text| {
            teller_verify::is_builder_code(text).then(|| text.to_owned())
        }),
        shutdown: seconds(section.number("shutdown_seconds", 30, 1..=300)),
    })
}

fn api_key(section: &mut Section<'_>) -> Option<ApiKey> {
    const TENANT: &str = "a name of 1 to 64 letters, digits, dots, dashes or underscores";
    let tenant = if section.has("tenant") {
        section.parsed("tenant", TENANT, parse_tenant)
    } else {
        section.required::<String>("tenant", TENANT);
        None
    };
    let hash = section.maybe_secret("sha256", "");
    let sha256 = parse_sha256(hash.expose());
    if sha256.is_none() {
        section.problem(
            None,
            format!(
                "`{}` must be the SHA-256 of the key in 64 hexadecimal digits, never the key; \
                 `teller key new TENANT` makes both",
                section.name("sha256")
            ),
        );
    }
    let requests_per_second = section
        .optional_number("requests_per_second", 1..=1_000_000)
        .map(narrow);
    let burst = section.optional_number("burst", 1..=1_000_000).map(narrow);
    let max_settles_in_flight = section
        .optional_number("max_settles_in_flight", 1..=1_000_000)
        .map(wide);
    let lenient = section.flag("lenient", false);
    let networks = section
        .has("networks")
        .then(|| section.list("networks", CAIP2));
    section.known("networks");
    let settle_wait = section
        .optional_number("settle_wait_seconds", 1..=25)
        .map(seconds);
    let settled_at = section.text("settled_at", LEVEL);
    let max_gas_per_day = section.parsed("max_gas_wei_per_day", WEI, wei);
    Some(ApiKey {
        tenant: tenant?,
        sha256: sha256?,
        requests_per_second,
        burst,
        max_settles_in_flight,
        lenient,
        networks,
        settle_wait,
        settled_at,
        max_gas_per_day,
    })
}

/// Tenant names are metric labels and log fields, so they stay short and plain.
pub fn parse_tenant(text: &str) -> Option<TenantId> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| TenantId::new(text))
}

fn network(section: &mut Section<'_>) -> Option<Network> {
    let id: Option<ChainId> = section.required("id", CAIP2);
    let rpc = section.maybe_secrets("rpc", URLS);
    let flashblocks_rpc = match section.has("flashblocks_rpc") {
        true => section.maybe_secrets("flashblocks_rpc", URLS),
        false => Vec::new(),
    };
    section.known("flashblocks_rpc");
    let signers = signers(section);
    let settled_at = section.text("settled_at", LEVEL).unwrap_or(Level::Included);
    let known = id.and_then(known_network);
    let interval = section.optional_number("block_interval_ms", 100..=60_000);
    if let (Some(id), None, None) = (id, known, interval) {
        section.problem(
            None,
            format!("{id} is not a network that teller knows: `block_interval_ms` is needed"),
        );
    }
    let interval = interval.or(known.map(|known| known.block_interval_ms));
    let max_head_age = section
        .optional_number("max_head_age_seconds", 5..=86_400)
        .map(seconds);
    let depth = section.number("depth", 2, 1..=8);
    let max_batch_items = section.number("max_batch_items", 200, 1..=279);
    let max_batch_gas = section.number("max_batch_gas", 16_000_000, 200_000..=TRANSACTION_GAS_CAP);
    let linger = section.number("linger_ms", 250, 0..=10_000);
    let mut fees = fees(section);
    let (budget, usd_ceiling) = section.section("budget", budget);
    fees.max_fee = [fees.max_fee, usd_ceiling].into_iter().flatten().min();
    let multicall3 = section.text("multicall3", ADDRESS).unwrap_or(MULTICALL3);
    let wallet_factories = addresses(section, "wallet_factories");
    let delegation_managers = addresses(section, "delegation_managers");
    let approvals = match section.has("approvals") {
        true => section.section("approvals", approvals),
        false => None,
    };
    section.known("approvals");
    let own = section.sections("assets", |section| asset(section, id));
    let assets = assets(section, id, own);
    Some(Network {
        id: id?,
        rpc,
        flashblocks_rpc,
        settled_at,
        signers,
        block_interval: Duration::from_millis(interval?),
        max_head_age,
        depth: wide(depth),
        max_batch_items: wide(max_batch_items),
        max_batch_gas,
        linger: Duration::from_millis(linger),
        fees,
        budget,
        multicall3,
        wallet_factories,
        delegation_managers,
        approvals,
        assets,
    })
}

/// A list that is empty by default.
fn addresses(section: &mut Section<'_>, key: &'static str) -> Vec<Address> {
    let addresses = match section.has(key) {
        true => section.list(key, "addresses: 0x and 40 hexadecimal digits each"),
        false => Vec::new(),
    };
    section.known(key);
    addresses
}

fn approvals(section: &mut Section<'_>) -> Option<TopUpPolicy> {
    let mut amount = |key| match section.has(key) {
        true => section.parsed(key, WEI_OR_NONE, wei_or_none),
        // Says that it is missing.
        false => section.required::<String>(key, WEI_OR_NONE).and(None),
    };
    let (most, day) = (amount("max_top_up_wei"), amount("max_top_up_wei_per_day"));
    let policy = TopUpPolicy {
        most: most?,
        day: day?,
    };
    if policy.most > policy.day {
        section.problem(
            None,
            format!(
                "`{}` is {}, more than `max_top_up_wei_per_day`, which is {}",
                section.name("max_top_up_wei"),
                policy.most,
                policy.day
            ),
        );
    }
    Some(policy)
}

fn signers(section: &mut Section<'_>) -> Vec<SignerKey> {
    let keys = section.secrets(
        "signers",
        "at least one private key, as env:NAME or file:PATH",
    );
    let mut signers = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        match SignerKey::parse(key.expose()) {
            Some(signer) => signers.push(signer),
            None => section.problem(
                None,
                format!(
                    "`{}[{index}]` names something that is no private key (64 hexadecimal digits)",
                    section.name("signers")
                ),
            ),
        }
    }
    signers
}

fn receipt_key(section: &mut Section<'_>) -> Option<SignerKey> {
    let key = section.optional_secret("key")?;
    let signer = SignerKey::parse(key.expose());
    if signer.is_none() {
        section.problem(
            None,
            format!(
                "`{}` names something that is no private key (64 hexadecimal digits)",
                section.name("key")
            ),
        );
    }
    signer
}

fn discovery(section: &mut Section<'_>) -> Option<Discovery> {
    const DAY: u64 = 24 * 60 * 60;
    let enabled = section.flag("enabled", true);
    let max_resources = section.number("max_resources", 10_000, 1..=100_000);
    let per_tenant = section.number("max_resources_per_tenant", 1_000, 1..=100_000);
    let days = section.number("kept_days", 30, 1..=3_650);
    enabled.then(|| Discovery {
        max_resources: narrow(max_resources),
        max_resources_per_tenant: narrow(per_tenant.min(max_resources)),
        kept: seconds(days * DAY),
    })
}

fn fees(section: &mut Section<'_>) -> FeeBounds {
    const MAX_TIP: u64 = 1_000_000_000_000;
    let floor = section.number("tip_floor_wei", 1_000_000, 0..=MAX_TIP);
    let cap = section.number("tip_cap_wei", 2_000_000_000, 0..=MAX_TIP);
    if floor > cap {
        section.problem(
            None,
            format!(
                "`{}` is {floor}, more than `tip_cap_wei`, which is {cap}",
                section.name("tip_floor_wei")
            ),
        );
    }
    FeeBounds {
        tip_floor: floor.into(),
        tip_cap: cap.into(),
        max_fee: section
            .optional_number("max_fee_per_gas_gwei", 1..=1_000_000)
            .map(|gwei| u128::from(gwei) * WEI_PER_GWEI),
    }
}

/// The budget, and the ceiling in USD as wei for a unit of gas.
fn budget(section: &mut Section<'_>) -> (Budget, Option<u128>) {
    let mut amount = |key| -> Option<Wei> { section.parsed(key, WEI, wei) };
    let budget = Budget {
        per_transaction: amount("max_wei_per_transaction"),
        per_day: amount("max_wei_per_day"),
    };
    if let (Some(transaction), Some(day)) = (budget.per_transaction, budget.per_day)
        && transaction.0 > day.0
    {
        section.problem(
            None,
            format!(
                "`{}` is {transaction}, more than `max_wei_per_day`, which is {day}",
                section.name("max_wei_per_transaction")
            ),
        );
    }
    let asked = (
        section.has("max_usd_per_payment"),
        section.has("native_usd"),
    );
    let per_payment = section.parsed("max_usd_per_payment", USD, Usd::parse);
    let coin = section.parsed("native_usd", USD, Usd::parse);
    let (here, missing) = match asked {
        (true, false) => ("max_usd_per_payment", "native_usd"),
        (false, true) => ("native_usd", "max_usd_per_payment"),
        (true, true) | (false, false) => return (budget, usd_ceiling(section, per_payment, coin)),
    };
    section.problem(
        None,
        format!(
            "`{}` is missing: `{here}` says nothing without it",
            section.name(missing)
        ),
    );
    (budget, None)
}

fn usd_ceiling(section: &Section<'_>, per_payment: Option<Usd>, coin: Option<Usd>) -> Option<u128> {
    let (per_payment, coin) = (per_payment?, coin?);
    let found = ceiling(per_payment, coin);
    if found.is_none() {
        section.problem(
            None,
            format!(
                "`{}` leaves less than one wei for a unit of gas: nothing could ever be settled",
                section.name("max_usd_per_payment")
            ),
        );
    }
    found
}

fn asset(section: &mut Section<'_>, chain: Option<ChainId>) -> Option<Asset> {
    let address: Option<Address> = section.required("address", ADDRESS);
    let name: Option<String> = section.required("name", "the token's EIP-712 domain name");
    let version: Option<String> = section.required("version", "the token's EIP-712 version");
    let decimals = section.number("decimals", 6, 0..=36);
    Some(Asset {
        chain: chain?,
        address: address?,
        name: name?,
        version: version?,
        decimals: u8::try_from(decimals).ok()?,
    })
}

/// The configured assets, and the known ones that no configured one replaces.
fn assets(section: &Section<'_>, id: Option<ChainId>, own: Vec<Asset>) -> Vec<Asset> {
    let Some(id) = id else {
        return own;
    };
    let mut assets: Vec<Asset> = known_assets(id)
        .filter(|known| own.iter().all(|asset| asset.address != known.address))
        .collect();
    assets.extend(own);
    if assets.is_empty() {
        section.problem(
            None,
            format!("{id} has no asset that teller knows: `assets` is needed"),
        );
    }
    assets
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Ranges are checked where numbers are read; these conversions cannot lose anything inside them.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn wide(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
