use super::*;

const KEY: &str = "0x0000000000000000000000000000000000000000000000000000000000000001";
const OTHER_KEY: &str = "0x0000000000000000000000000000000000000000000000000000000000000002";
const EXAMPLE: &str = include_str!("../../../../teller.example.toml");

const SMALL: &str = r#"
[server]
auth = "open"
[[networks]]
id = "eip155:84532"
rpc = ["http://127.0.0.1:8545"]
signers = ["env:SIGNER"]
"#;

fn read(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment: Vec<(String, String)> = environment
        .iter()
        .chain(&[("SIGNER", KEY)])
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    let secrets = Secrets::new(environment.clone(), None);
    from_text(text, "teller.toml", environment, &secrets).map_err(|error| error.to_string())
}

fn refusal(text: &str, environment: &[(&str, &str)]) -> String {
    read(text, environment).expect_err("the configuration must be refused")
}

#[test]
fn a_small_configuration_is_enough_for_a_known_network() {
    let config = read(SMALL, &[]).unwrap();
    let network = &config.networks[0];
    assert_eq!(network.id, ChainId(84532));
    assert_eq!(network.assets.len(), 1);
    assert_eq!(network.assets[0].name, "USDC");
    assert_eq!(network.block_interval, Duration::from_secs(2));
    assert_eq!(network.max_head_age, None);
    assert_eq!((network.depth, network.max_batch_items), (2, 200));
    assert_eq!(config.server.rest, "127.0.0.1:8402".parse().unwrap());
    assert_eq!(config.ledger.url.expose(), "sqlite://teller.db");
}

#[test]
fn the_example_reads_and_shows_every_key() {
    let keys = [("TELLER_SIGNER_0", KEY), ("TELLER_RECEIPT_KEY", OTHER_KEY)];
    read(EXAMPLE, &keys).unwrap();
    // With every commented-out key in place as well, nothing is unknown.
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    read(&uncommented, &keys).unwrap();
    for key in include_str!("read.rs").split('"').skip(1).step_by(2) {
        let is_key = !key.is_empty()
            && key
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'3');
        assert!(
            !is_key || EXAMPLE.contains(key),
            "teller.example.toml lacks {key}"
        );
    }
}

#[test]
fn what_the_readme_and_deploy_show_reads() {
    let hash = "50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c";
    let readme = include_str!("../../../../README.md");
    let least = readme.split("```toml").nth(1).unwrap();
    let least = least
        .split("```")
        .next()
        .unwrap()
        .replace("\"…\"", &format!("\"{hash}\""));
    let config = read(&least, &[("TELLER_SIGNER_0", KEY)]).unwrap();
    assert_eq!(config.refuse_role(Role::All), None);

    let deployed = read(
        include_str!("../../../../deploy/teller.toml"),
        &[
            ("TELLER_SIGNER_0", KEY),
            ("TELLER_KEY_SHA256", hash),
            ("TELLER_LEDGER", "postgres://teller:x@postgres/teller"),
            ("TELLER_RESERVATIONS", "redis://redis/"),
            ("TELLER_RPC", "https://sepolia.base.org"),
        ],
    );
    assert_eq!(deployed.unwrap().refuse_role(Role::Settler), None);
}

#[test]
fn a_receipt_key_is_a_reference_to_a_key_of_its_own() {
    assert!(read(SMALL, &[]).unwrap().receipt_key.is_none());
    let with = |key: &str| format!("{SMALL}\n[receipts]\nkey = \"{key}\"\n");
    let named = [("RECEIPTS", OTHER_KEY), ("WORD", "no key")];
    let config = read(&with("env:RECEIPTS"), &named).unwrap();
    let expected = SignerKey::parse(OTHER_KEY).unwrap().address;
    assert_eq!(config.receipt_key.unwrap().address, expected);
    for (key, expected) in [
        (OTHER_KEY, "`receipts.key` holds a literal key"),
        ("env:NOBODY", "the environment variable NOBODY is not set"),
        (
            "env:WORD",
            "`receipts.key` names something that is no private key",
        ),
        ("env:SIGNER", "receipts need a key of their own"),
    ] {
        let message = refusal(&with(key), &named);
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains(&OTHER_KEY[2..]), "{message}");
    }
}

#[test]
fn the_catalogue_is_on_unless_it_is_switched_off() {
    let kept = |config: Config| config.discovery.map(|discovery| discovery.kept);
    let month = Duration::from_secs(30 * 24 * 60 * 60);
    assert_eq!(kept(read(SMALL, &[]).unwrap()), Some(month));
    let with = |line: &str| format!("{SMALL}\n[discovery]\n{line}\n");
    assert_eq!(kept(read(&with("enabled = false"), &[]).unwrap()), None);
    let small = read(&with("max_resources = 5"), &[]).unwrap();
    assert_eq!(small.discovery.unwrap().max_resources_per_tenant, 5);
    let message = refusal(&with("max_resources = 0"), &[]);
    assert!(message.contains("`discovery.max_resources`"), "{message}");
}

#[test]
fn delegation_managers_are_none_by_default_and_nothing_else_that_is_called() {
    let small = read(SMALL, &[]).unwrap();
    assert!(small.networks[0].delegation_managers.is_empty());
    let with = |manager: &str| format!("{SMALL}\ndelegation_managers = [\"{manager}\"]\n");
    let manager = "0x7171717171717171717171717171717171717171";
    let read = read(&with(manager), &[]).unwrap();
    assert_eq!(read.networks[0].delegation_managers.len(), 1);
    let usdc = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
    for other in [usdc, "0x000000000022D473030F116dDEE9F6B43aC78BA3"] {
        let message = refusal(&with(other), &[]);
        assert!(message.contains("and no delegation manager"), "{message}");
    }
    let message = refusal(&with("all"), &[]);
    assert!(
        message.contains("`networks[0].delegation_managers[0]` must be addresses"),
        "{message}"
    );
    let small_batches = format!("{}max_batch_gas = 1999999\n", with(manager));
    let message = refusal(&small_batches, &[]);
    assert!(message.contains("delegations need 2000000"), "{message}");
}

#[test]
fn approvals_are_not_taken_by_default_and_top_ups_are_bounded() {
    let small = read(SMALL, &[]).unwrap();
    assert_eq!(small.networks[0].approvals, None);
    let with = |keys: &str| format!("{SMALL}\napprovals = {{ {keys} }}\n");
    let bounded = r#"max_top_up_wei = "5", max_top_up_wei_per_day = "50""#;
    let policy = TopUpPolicy {
        most: Wei::from(5),
        day: Wei::from(50),
    };
    let config = read(&with(bounded), &[]).unwrap();
    assert_eq!(config.networks[0].approvals, Some(policy));
    let nothing = r#"max_top_up_wei = "0", max_top_up_wei_per_day = "0""#;
    let config = read(&with(nothing), &[]).unwrap();
    let most = config.networks[0].approvals.map(|policy| policy.most);
    assert_eq!(most, Some(Wei::ZERO));
    let overridden = ("TELLER__NETWORKS__0__APPROVALS__MAX_TOP_UP_WEI", "6");
    let config = read(&with(bounded), &[overridden]).unwrap();
    let most = config.networks[0].approvals.map(|policy| policy.most);
    assert_eq!(most, Some(Wei::from(6)));
    for (keys, problem) in [
        (
            r#"max_top_up_wei = "51", max_top_up_wei_per_day = "50""#,
            "`networks[0].approvals.max_top_up_wei` is 51, more than `max_top_up_wei_per_day`",
        ),
        (
            r#"max_top_up_wei = "1""#,
            "`networks[0].approvals.max_top_up_wei_per_day` is missing",
        ),
        (
            r#"max_top_up_wei = "all", max_top_up_wei_per_day = "50""#,
            "`networks[0].approvals.max_top_up_wei` must be an amount of wei",
        ),
    ] {
        let message = refusal(&with(keys), &[]);
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_one() {
    let text = SMALL.replace("auth =", "auht =");
    let message = refusal(&text, &[]);
    assert!(
        message.contains("teller.toml:3:1: unknown key `server.auht`; did you mean `server.auth`?"),
        "{message}"
    );
    let message = refusal(SMALL, &[("TELLER__NETWORKS__0__SIGNER", "env:SIGNER")]);
    assert!(
        message.contains("TELLER__NETWORKS__0__SIGNER: unknown key `networks[0].signer`; did you mean `networks[0].signers`?"),
        "{message}"
    );
    let message = refusal(&format!("{SMALL}\n[zzz]\n"), &[]);
    assert!(message.contains("known here: server, ledger"), "{message}");
}

#[test]
fn all_problems_are_told_at_once() {
    let text = SMALL
        .replace(
            "auth = \"open\"",
            "auth = \"open\"\nmax_in_flight = 0\nrest = \"localhost\"",
        )
        .replace("eip155:84532", "base");
    let message = refusal(&text, &[]);
    for part in [
        "`server.max_in_flight` must be a whole number from 1 to 1000000, not 0",
        "`server.rest` must be an IP address and a port, like 127.0.0.1:8402, not \"localhost\"",
        "`networks[0].id` must be a CAIP-2 id, like eip155:84532, not \"base\"",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_environment_overrides_every_kind_of_key() {
    let config = read(
        SMALL,
        &[
            ("TELLER__SERVER__REST", "127.0.0.1:1"),
            ("TELLER__LEDGER__URL", "sqlite://other.db"),
            ("TELLER__NETWORKS__0__RPC", "http://a:1, ws://b:2"),
            ("TELLER__NETWORKS__0__DEPTH", "8"),
            ("TELLER__SERVER__OPEN_TO_THE_WORLD", "true"),
            ("TELLER__NETWORKS__1__ID", "eip155:8453"),
            ("TELLER__NETWORKS__1__RPC__0", "http://c:3"),
            ("TELLER__NETWORKS__1__SIGNERS", "env:SIGNER"),
            ("TELLER_ANVIL", "is not a key"),
        ],
    )
    .unwrap();
    assert_eq!(config.server.rest.port(), 1);
    assert_eq!(config.ledger.url.expose(), "sqlite://other.db");
    assert_eq!(config.networks[0].rpc[1].expose(), "ws://b:2");
    assert_eq!(config.networks[0].depth, 8);
    assert_eq!(config.networks[1].id, ChainId(8453));
    assert_eq!(config.networks[1].rpc[0].expose(), "http://c:3");
}

#[test]
fn a_variable_that_fits_nowhere_is_refused() {
    let message = refusal(SMALL, &[("TELLER__NETWORKS__7__DEPTH", "8")]);
    assert!(
        message
            .contains("TELLER__NETWORKS__7__DEPTH: index 7 leaves a gap: the list has 1 entries"),
        "{message}"
    );
}

#[test]
fn a_literal_key_is_refused_and_not_repeated() {
    let message = refusal(&SMALL.replace("env:SIGNER", KEY), &[]);
    assert!(message.contains("holds a literal key"), "{message}");
    assert!(!message.contains(KEY), "{message}");
}

#[test]
fn secrets_come_from_variables_and_files_and_never_print() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
    let text = SMALL.replace("env:SIGNER", &format!("file:{}", file.path().display()));
    let config = read(
        &text,
        &[
            ("TELLER__LEDGER__URL", "env:DB"),
            ("DB", "postgres://me:hunter2@h/db"),
        ],
    )
    .unwrap();
    assert_eq!(config.ledger.url.expose(), "postgres://me:hunter2@h/db");
    let printed = format!("{config:?}");
    assert!(
        !printed.contains("hunter2") && !printed.contains("000000000001"),
        "{printed}"
    );
    let message = refusal(&SMALL.replace("env:SIGNER", "env:NOBODY"), &[]);
    assert!(
        message.contains("the environment variable NOBODY is not set"),
        "{message}"
    );
    let message = refusal(&SMALL.replace("env:SIGNER", "devnet:0"), &[]);
    assert!(message.contains("only `teller dev`"), "{message}");
}

#[test]
fn open_mode_stays_on_loopback_unless_said() {
    let exposed = [("TELLER__SERVER__REST", "0.0.0.0:8402")];
    assert!(refusal(SMALL, &exposed).contains("open_to_the_world"));
    let said = [exposed[0], ("TELLER__SERVER__OPEN_TO_THE_WORLD", "true")];
    assert!(read(SMALL, &said).is_ok());
}

#[test]
fn roles_other_than_all_need_shared_stores() {
    let config = read(SMALL, &[]).unwrap();
    assert_eq!(config.refuse_role(Role::All), None);
    assert!(config.refuse_role(Role::Api).is_some());
    let shared = [
        ("TELLER__LEDGER__URL", "postgres://h/db"),
        ("TELLER__RESERVATIONS__URL", "redis://h"),
    ];
    let config = read(SMALL, &shared).unwrap();
    assert_eq!(config.refuse_role(Role::Settler), None);
    let config = read(&SMALL.replace("auth = \"open\"", ""), &[]).unwrap();
    assert!(
        config
            .refuse_role(Role::All)
            .is_some_and(|text| text.contains("server.keys"))
    );
}

#[test]
fn an_api_key_in_place_of_its_hash_is_refused_and_not_repeated() {
    let text = format!("{SMALL}\n[[server.keys]]\ntenant = \"shop\"\nsha256 = \"teller_abc\"\n");
    let message = refusal(&text, &[]);
    assert!(message.contains("never the key"), "{message}");
    assert!(!message.contains("teller_abc"), "{message}");
}

#[test]
fn preconfirmed_needs_somebody_who_sees_flashblocks() {
    let preconfirmed = ("TELLER__NETWORKS__0__SETTLED_AT", "preconfirmed");
    let message = refusal(SMALL, &[preconfirmed]);
    assert!(
        message.contains("`settled_at` of network eip155:84532 is \"preconfirmed\" and it has no `flashblocks_rpc`"),
        "{message}"
    );
    let seen = ("TELLER__NETWORKS__0__FLASHBLOCKS_RPC", "env:FLASH");
    let at = ("FLASH", "https://user:hunter2@flash.example");
    let config = read(SMALL, &[preconfirmed, seen, at]).unwrap();
    assert_eq!(config.networks[0].settled_at, Level::Preconfirmed);
    assert_eq!(config.networks[0].flashblocks_rpc[0].expose(), at.1);
    assert!(!format!("{config:?}").contains("hunter2"));
    let message = refusal(SMALL, &[seen, ("FLASH", "ftp://x")]);
    assert!(
        message.contains("an `flashblocks_rpc` of network eip155:84532 is no http://"),
        "{message}"
    );
    assert!(refusal(SMALL, &[("TELLER__NETWORKS__0__FLASHBLOCKS_RPC", "")]).contains("is missing"));
    let message = refusal(SMALL, &[("TELLER__NETWORKS__0__SETTLED_AT", "sealed")]);
    assert!(
        message.contains("`networks[0].settled_at` must be one of preconfirmed, included, safe, finalized, not sealed"),
        "{message}"
    );

    let tenant = format!(
        "{}\n[[server.keys]]\ntenant = \"shop\"\nsha256 = \"{}\"\nsettled_at = \"preconfirmed\"\n",
        SMALL.replace("auth = \"open\"", ""),
        "ab".repeat(32)
    );
    let message = refusal(&tenant, &[]);
    assert!(
        message
            .contains("`settled_at` of tenant shop is \"preconfirmed\" and network eip155:84532"),
        "{message}"
    );
    assert!(read(&tenant, &[seen, at]).is_ok());
    let elsewhere = format!("{tenant}networks = [\"eip155:8453\"]\n");
    assert!(read(&elsewhere, &[]).is_ok());
}

#[test]
fn budgets_are_exact_and_the_lower_ceiling_counts() {
    let config = read(SMALL, &[]).unwrap();
    assert_eq!(config.networks[0].budget, Budget::default());
    assert_eq!(config.networks[0].fees.max_fee, None);
    assert_eq!(config.networks[0].settled_at, Level::Included);
    assert_eq!(config.settler.lease, Duration::from_secs(6));
    let usd = [
        ("TELLER__NETWORKS__0__BUDGET__MAX_USD_PER_PAYMENT", "0.011"),
        ("TELLER__NETWORKS__0__BUDGET__NATIVE_USD", "2500"),
    ];
    let config = read(SMALL, &usd).unwrap();
    assert_eq!(config.networks[0].fees.max_fee, Some(40_000_000));
    let gwei = ("TELLER__NETWORKS__0__MAX_FEE_PER_GAS_GWEI", "1");
    let config = read(SMALL, &[usd[0], usd[1], gwei]).unwrap();
    assert_eq!(config.networks[0].fees.max_fee, Some(40_000_000));
    let dear = (usd[0].0, "1.1");
    let config = read(SMALL, &[dear, usd[1], gwei]).unwrap();
    assert_eq!(config.networks[0].fees.max_fee, Some(1_000_000_000));

    let wei = [
        ("TELLER__NETWORKS__0__BUDGET__MAX_WEI_PER_TRANSACTION", "5"),
        (
            "TELLER__NETWORKS__0__BUDGET__MAX_WEI_PER_DAY",
            "123456789012345678901234567890",
        ),
    ];
    let config = read(SMALL, &wei).unwrap();
    let budget = config.networks[0].budget;
    assert_eq!(budget.per_transaction, Some(Wei::from(5)));
    assert_eq!(
        budget.per_day.unwrap().to_string(),
        "123456789012345678901234567890"
    );
}

#[test]
fn half_a_budget_and_numbers_that_are_no_money_are_refused() {
    let budget = |text: &str| refusal(&format!("{SMALL}[networks.budget]\n{text}\n"), &[]);
    for (text, said) in [
        (
            "max_usd_per_payment = \"0.01\"",
            "`networks[0].budget.native_usd` is missing: `max_usd_per_payment` says nothing without it",
        ),
        (
            "native_usd = \"2500\"",
            "`networks[0].budget.max_usd_per_payment` is missing",
        ),
        (
            "native_usd = 2500.5\nmax_usd_per_payment = \"1\"",
            "`networks[0].budget.native_usd` must be an amount of USD above zero, in quotes, like \"0.01\", not 2500.5",
        ),
        (
            "native_usd = \"2500\"\nmax_usd_per_payment = \"0\"",
            "`networks[0].budget.max_usd_per_payment` must be an amount of USD above zero",
        ),
        (
            "native_usd = \"2500\"\nmax_usd_per_payment = \"0.000000000000000001\"",
            "leaves less than one wei for a unit of gas",
        ),
        (
            "max_wei_per_day = 5",
            "`networks[0].budget.max_wei_per_day` must be an amount of wei above zero, in quotes",
        ),
        (
            "max_wei_per_transaction = \"6\"\nmax_wei_per_day = \"5\"",
            "`networks[0].budget.max_wei_per_transaction` is 6, more than `max_wei_per_day`, which is 5",
        ),
    ] {
        let message = budget(text);
        assert!(message.contains(said), "{message}");
    }
    let message = refusal(SMALL, &[("TELLER__SETTLER__LEASE_SECONDS", "1")]);
    assert!(
        message.contains("`settler.lease_seconds` must be a whole number from 2 to 60, not 1"),
        "{message}"
    );
}

#[test]
fn an_unknown_network_needs_its_interval_and_an_asset() {
    let message = refusal(&SMALL.replace("84532", "7"), &[]);
    assert!(
        message.contains("`block_interval_ms` is needed"),
        "{message}"
    );
    assert!(message.contains("`assets` is needed"), "{message}");
}

#[test]
fn what_stands_twice_is_refused() {
    let message = refusal(
        SMALL,
        &[
            ("TELLER__NETWORKS__0__SIGNERS", "env:SIGNER,env:SIGNER"),
            ("TELLER__SERVER__GRPC", "127.0.0.1:8402"),
        ],
    );
    assert!(
        message.contains("stands twice in network eip155:84532"),
        "{message}"
    );
    assert!(
        message.contains("`server.grpc` and `server.rest` are both"),
        "{message}"
    );
}
