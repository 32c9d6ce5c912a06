//! The contract of the ledger, held against every implementation: lanes and their modes, what readers see of them, what
//! was spent, and what older tables become.
//!
//! One long file, because it is one list of behaviours.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[macro_use]
mod support;

use std::borrow::Cow;
use std::time::Duration;

use alloy_primitives::{Address, U256, hex};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Connection, SqlSafeStr};
use support::*;
use teller_domain::*;
use teller_store::*;

contract! {
    a_lane_keeps_its_mode,
    a_heartbeat_tells_how_many_settle,
    free_lanes_are_shared_out_among_those_who_settle,
    a_lane_that_nobody_takes_is_anybodys_after_a_lease,
    a_lane_whose_lease_ran_out_is_anybodys,
    all_parts_together_are_the_lanes,
    a_gap_is_filled_once_and_only_without_payments,
    an_order_names_the_mode_that_it_changes,
    readers_see_every_lane,
    the_audit_sees_every_payment_of_a_slot,
    what_was_spent_adds_up_exactly,
}

async fn a_lane_keeps_its_mode(store: TestLedger) {
    let (one, two) = (ProcessId::fresh(), ProcessId::fresh());
    let claim = |owner| store.ledger.claim_lane(CHAIN, SIGNER, owner, 1, 60_000);
    let lane = claim(one).await.unwrap().unwrap().lane;
    assert_eq!(lane.mode, LaneMode::Active);
    let set = |from, mode| store.ledger.set_lane_mode(lane.fence, from, mode);
    let mut from = LaneMode::Active;
    for mode in LaneMode::ALL {
        assert!(set(from, mode).await.unwrap());
        let renewed = store.ledger.renew_lane(lane.fence, 60_000).await.unwrap();
        assert_eq!(renewed, mode);
        from = mode;
    }
    assert!(set(from, LaneMode::Draining).await.unwrap());
    // An operator's order stands, except that a lane is frozen whatever was ordered.
    assert!(!set(LaneMode::Thawing, LaneMode::Active).await.unwrap());
    let renewed = store.ledger.renew_lane(lane.fence, 60_000).await.unwrap();
    assert_eq!(renewed, LaneMode::Draining);
    assert!(set(LaneMode::Active, LaneMode::Frozen).await.unwrap());
    store.ledger.release_lane(lane.fence).await.unwrap();
    let taken = claim(two).await.unwrap().unwrap().lane;
    assert_eq!(taken.mode, LaneMode::Frozen);
    let late = set(LaneMode::Frozen, LaneMode::Active).await;
    assert!(matches!(late, Err(StoreError::StaleLane)), "{late:?}");
}

const SIGNERS: [Address; 3] = [
    Address::repeat_byte(0x61),
    Address::repeat_byte(0x62),
    Address::repeat_byte(0x63),
];

/// Two settlers that live, in the order of their ids.
async fn two_settlers(store: &TestLedger) -> [ProcessId; 2] {
    let mut settlers = [ProcessId::fresh(), ProcessId::fresh()];
    settlers.sort_by_key(|process| process.0);
    for process in settlers {
        let beat = store.ledger.heartbeat(process, Duty::Settles, 60_000);
        beat.await.unwrap();
    }
    settlers
}

async fn a_heartbeat_tells_how_many_settle(store: TestLedger) {
    let [first, second] = two_settlers(&store).await;
    let beat = |process, duty, lease_ms| store.ledger.heartbeat(process, duty, lease_ms);
    let answers = ProcessId::fresh();
    beat(answers, Duty::Answers, 60_000).await.unwrap();
    let seen = beat(first, Duty::Settles, 60_000).await.unwrap();
    assert_eq!((seen.living(), seen.share(5)), (2, 3));
    let seen = beat(second, Duty::Settles, 60_000).await.unwrap();
    assert_eq!((seen.living(), seen.share(5)), (2, 2));
    // One ends, the other goes on; then that one dies.
    store.ledger.deregister(first).await.unwrap();
    let seen = beat(second, Duty::Settles, 1).await.unwrap();
    assert_eq!((seen.living(), seen.share(5)), (1, 5));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let seen = beat(first, Duty::Settles, 60_000).await.unwrap();
    assert_eq!(seen.living(), 1);
    let seen = beat(first, Duty::Answers, 60_000).await.unwrap();
    assert_eq!(seen.living(), 1, "as if it settled");
    let seen = beat(second, Duty::Settles, 60_000).await.unwrap();
    assert_eq!(seen.living(), 1);
}

async fn free_lanes_are_shared_out_among_those_who_settle(store: TestLedger) {
    let [first, second] = two_settlers(&store).await;
    let claim = |process, signer| store.ledger.claim_lane(CHAIN, signer, process, 3, 60_000);
    let [a, b, c] = SIGNERS;
    let held = claim(first, a).await.unwrap().unwrap().lane.fence;
    assert!(claim(first, b).await.unwrap().is_some());
    assert!(claim(first, c).await.unwrap().is_none(), "two of three");
    assert!(claim(second, c).await.unwrap().is_some());
    store.ledger.release_lane(held).await.unwrap();
    assert!(claim(second, a).await.unwrap().is_none(), "one of three");
    assert!(claim(second, c).await.unwrap().is_some(), "its own");
    assert!(claim(first, a).await.unwrap().is_some());
    // Without the other one all are its own to take.
    store.ledger.deregister(first).await.unwrap();
    for lane in store.ledger.lanes().await.unwrap() {
        if lane.owner == Some(first) {
            store.ledger.release_lane(lane.fence).await.unwrap();
        }
    }
    assert!(claim(second, a).await.unwrap().is_some());
    assert!(claim(second, b).await.unwrap().is_some());
}

async fn a_lane_that_nobody_takes_is_anybodys_after_a_lease(store: TestLedger) {
    let [first, second] = two_settlers(&store).await;
    let [a, b, c] = SIGNERS;
    let lease_ms = 400;
    let claim = |process, signer| store.ledger.claim_lane(CHAIN, signer, process, 2, lease_ms);
    assert!(claim(first, a).await.unwrap().is_some());
    let held = claim(second, b).await.unwrap().unwrap().lane.fence;
    store.ledger.release_lane(held).await.unwrap();
    // One was held before, the other never.
    for signer in [b, c] {
        assert!(claim(first, signer).await.unwrap().is_none());
    }
    let free = store.ledger.lanes().await.unwrap();
    let free: Vec<_> = free
        .iter()
        .map(|lane| (lane.owner, lane.next_nonce))
        .collect();
    assert_eq!(free, [(Some(first), None), (None, None), (None, None)]);
    tokio::time::sleep(Duration::from_millis(lease_ms + 100)).await;
    let taken = claim(first, b).await.unwrap().unwrap().lane.fence;
    assert_eq!(taken.epoch, held.epoch + 2, "nobody had it in between");
    let taken = claim(first, c).await.unwrap().unwrap().lane.fence;
    assert_eq!(taken.epoch, 1);
}

async fn a_lane_whose_lease_ran_out_is_anybodys(store: TestLedger) {
    let [first, second] = two_settlers(&store).await;
    let [a, b, _] = SIGNERS;
    let claim = |process, signer, lease_ms| {
        let ledger = &store.ledger;
        ledger.claim_lane(CHAIN, signer, process, 2, lease_ms)
    };
    assert!(claim(first, a, 60_000).await.unwrap().is_some());
    assert!(claim(second, b, 1).await.unwrap().is_some());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(claim(first, b, 60_000).await.unwrap().is_some());
}

async fn all_parts_together_are_the_lanes(store: TestLedger) {
    let settlers: Vec<_> = (0..4).map(|_| ProcessId::fresh()).collect();
    for living in 1..=settlers.len() {
        for process in &settlers[..living] {
            let beat = store.ledger.heartbeat(*process, Duty::Settles, 60_000);
            beat.await.unwrap();
        }
        for lanes in 0..10 {
            let mut shares = Vec::new();
            for process in &settlers[..living] {
                let beat = store.ledger.heartbeat(*process, Duty::Settles, 60_000);
                shares.push(beat.await.unwrap().share(lanes));
            }
            assert_eq!(shares.iter().sum::<u64>(), lanes);
            let (least, most) = (shares.iter().min(), shares.iter().max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{shares:?}");
        }
    }
}

async fn a_gap_is_filled_once_and_only_without_payments(store: TestLedger) {
    let fence = lane(&store).await;
    let open = |slot| store.ledger.open_slot(fence, slot);
    open(new_slot(5, &[])).await.unwrap();
    let stale = |outcome: &StoreResult<OpenSlotOutcome>| {
        assert!(matches!(outcome, Err(StoreError::StaleLane)), "{outcome:?}");
    };
    let id = accept(&store).await.id;
    stale(&open(new_slot(3, &[id])).await);
    stale(&open(new_slot(5, &[])).await);
    stale(&open(new_slot(7, &[])).await);
    let filled = open(new_slot(3, &[])).await.unwrap();
    assert_eq!(filled, OpenSlotOutcome::Opened);
    stale(&open(new_slot(3, &[])).await);
    let recovery = store.ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    let nonces: Vec<u64> = recovery.iter().map(|slot| slot.id.nonce.0).collect();
    assert_eq!(nonces, [3, 5]);
    let views = store.ledger.lanes().await.unwrap();
    assert_eq!(views[0].next_nonce, Some(AccountNonce(6)));
    let late = FencedLane {
        epoch: fence.epoch + 1,
        ..fence
    };
    stale(&store.ledger.open_slot(late, new_slot(4, &[])).await);
}

async fn an_order_names_the_mode_that_it_changes(store: TestLedger) {
    let fence = lane(&store).await;
    let order = |expected, mode| store.ledger.order_lane_mode(CHAIN, SIGNER, expected, mode);
    assert!(!order(LaneMode::Frozen, LaneMode::Thawing).await.unwrap());
    assert!(order(LaneMode::Active, LaneMode::Draining).await.unwrap());
    assert!(!order(LaneMode::Active, LaneMode::Draining).await.unwrap());
    let renewed = store.ledger.renew_lane(fence, 60_000).await.unwrap();
    assert_eq!(renewed, LaneMode::Draining);
    let stranger = Address::repeat_byte(0x77);
    let unknown = store
        .ledger
        .order_lane_mode(CHAIN, stranger, LaneMode::Active, LaneMode::Draining)
        .await;
    assert!(!unknown.unwrap());
}

async fn readers_see_every_lane(store: TestLedger) {
    let fence = lane(&store).await;
    let second = lane_of(&store, Address::repeat_byte(0x52), 3).await;
    let payment = accept(&store).await.id;
    let slot = new_slot(5, &[payment]);
    let before = store.ledger.now().await.unwrap();
    store.ledger.open_slot(fence, slot.clone()).await.unwrap();
    store.ledger.release_lane(second).await.unwrap();
    let reader = open_ledger_read_only(store.url()).await.unwrap();
    let lanes = reader.lanes().await.unwrap();
    assert_eq!(lanes.len(), 2);
    assert_eq!(lanes[0].fence, fence);
    assert!(lanes[0].owner.is_some() && !lanes[0].lease_expired);
    assert!(lanes[0].lease_until > before);
    assert_eq!(lanes[0].next_nonce, Some(AccountNonce(6)));
    let open = &lanes[0].open_slots[0];
    assert_eq!((open.id, &open.payments[..]), (slot.id, &[payment][..]));
    assert!(open.opened_at >= before);
    assert_eq!(open.attempts[0].hash, slot.attempt.hash);
    assert!(open.attempts[0].raw.is_empty(), "readers send nothing");
    assert_eq!(lanes[1].owner, None);
    assert!(lanes[1].lease_expired);
    assert!(lanes[1].open_slots.is_empty());
    assert!(reader.compensations(0, None, 1).await.unwrap().is_empty());
    let audited = reader.audit_slots(CHAIN, SIGNER, None, 1).await.unwrap();
    assert_eq!(audited.len(), 1);
}

async fn the_audit_sees_every_payment_of_a_slot(store: TestLedger) {
    let fence = lane(&store).await;
    let mut slots = Vec::new();
    let requeued = accept(&store).await.id;
    for nonce in 5..8 {
        let slot = new_slot(nonce, &[accept(&store).await.id, requeued]);
        store.ledger.open_slot(fence, slot.clone()).await.unwrap();
        let bump = attempt(unique() + 1_000, AttemptKind::NoOp);
        let hashes = [slot.attempt.hash, bump.hash];
        store
            .ledger
            .add_attempt(fence, slot.id, bump)
            .await
            .unwrap();
        if nonce < 7 {
            let settled = SettlementState::Settled(receipt(slot.attempt.hash, 77));
            let ends = vec![
                resolved(slot.payments[0], settled),
                (requeued, Resolution::Requeued),
            ];
            store
                .ledger
                .close_slot(fence, closure(&slot, ends))
                .await
                .unwrap();
        }
        slots.push((slot, hashes));
    }
    let mut audited = Vec::new();
    loop {
        let after = audited.last().map(|slot: &AuditSlot| slot.id.nonce);
        let page = store
            .ledger
            .audit_slots(CHAIN, SIGNER, after, 2)
            .await
            .unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        audited.extend(page);
    }
    assert_eq!(audited.len(), 3);
    for (audited, (slot, hashes)) in audited.iter().zip(&slots) {
        assert_eq!(audited.id, slot.id);
        assert_eq!(audited.attempts, hashes);
        let ids: Vec<_> = audited.payments.iter().map(|payment| payment.id).collect();
        assert_eq!(ids, slot.payments);
    }
    let end = SlotEnd::Mined {
        transaction: slots[0].0.attempt.hash,
        gas_used: 100_000,
        cost: Wei(U256::MAX),
    };
    let closed = SlotState::Closed {
        end,
        block: block(77),
        level: Level::Included,
    };
    assert_eq!(audited[0].state, closed);
    assert_eq!(audited[2].state, SlotState::Open);
    let others = store.ledger.audit_slots(ChainId(1), SIGNER, None, 2).await;
    assert!(others.unwrap().is_empty());
}

async fn what_was_spent_adds_up_exactly(store: TestLedger) {
    let fence = lane(&store).await;
    // Beyond 64 bits, so that nothing that is not exact adds it up.
    let share = |n: u64| Wei(U256::from(u64::MAX) * U256::from(1_000) + U256::from(n));
    let mut closed_at = Vec::new();
    for nonce in 5..8 {
        let mut ids = Vec::new();
        for tenant in ["shop", "other"] {
            let new = new_settlement(tenant, payment());
            ids.push(accepted(store.ledger.accept(new).await.unwrap()).id);
        }
        let slot = new_slot(nonce, &ids);
        store.ledger.open_slot(fence, slot.clone()).await.unwrap();
        let settled = |n| {
            let mut receipt = receipt(slot.attempt.hash, 77);
            receipt.cost = share(n);
            SettlementState::Settled(receipt)
        };
        let mut ends = closure(
            &slot,
            vec![resolved(ids[0], settled(1)), resolved(ids[1], settled(2))],
        );
        ends.end = SlotEnd::Mined {
            transaction: slot.attempt.hash,
            gas_used: 9,
            cost: Wei(share(1).0 + share(2).0),
        };
        closed_at.push(store.ledger.now().await.unwrap());
        store.ledger.close_slot(fence, ends).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for (since, slots) in [(UnixMillis(0), 3), (closed_at[1], 2), (closed_at[2], 1)] {
        let times = U256::from(slots);
        let spent = store.ledger.spending(CHAIN, since).await.unwrap();
        assert_eq!(spent.total, Wei((share(1).0 + share(2).0) * times));
        assert_eq!(
            spent.tenants,
            [
                (tenant("other"), Wei(share(2).0 * times)),
                (tenant("shop"), Wei(share(1).0 * times)),
            ]
        );
    }
    // A level that rises later is no new spending.
    let nonces = [AccountNonce(5), AccountNonce(6), AccountNonce(7)];
    let since = store.ledger.now().await.unwrap();
    store
        .ledger
        .raise_levels(fence, &nonces, Level::Safe)
        .await
        .unwrap();
    let spent = store.ledger.spending(CHAIN, UnixMillis(since.0 + 1)).await;
    assert_eq!(spent.unwrap(), Spending::default());
    let elsewhere = store.ledger.spending(ChainId(1), UnixMillis(0)).await;
    assert_eq!(elsewhere.unwrap(), Spending::default());
}

#[tokio::test]
async fn an_order_is_left_in_a_file_that_a_process_has() {
    let store = TestLedger::open(Backend::Embedded).await;
    let fence = lane(&store).await;
    let orders = open_ledger_for_orders(store.url()).await.unwrap();
    let ordered = orders
        .order_lane_mode(CHAIN, SIGNER, LaneMode::Active, LaneMode::Draining)
        .await;
    assert!(ordered.unwrap());
    let renewed = store.ledger.renew_lane(fence, 60_000).await.unwrap();
    assert_eq!(renewed, LaneMode::Draining);
    let refused = orders.heartbeat(ProcessId::fresh(), Duty::Answers, 1).await;
    assert!(matches!(refused, Err(StoreError::Configuration(_))));
    assert_eq!(orders.lanes().await.unwrap()[0].mode, LaneMode::Draining);
}

macro_rules! old_tables {
    ($dialect:literal) => {
        [
            (
                1,
                "ledger",
                include_str!(concat!(
                    "../../../migrations/",
                    $dialect,
                    "/0001_ledger.sql"
                )),
            ),
            (
                2,
                "pruning",
                include_str!(concat!(
                    "../../../migrations/",
                    $dialect,
                    "/0002_pruning.sql"
                )),
            ),
        ]
    };
}

/// Tables as the first release had them.
async fn old(url: &LedgerUrl) {
    let migrator = |tables: [(i64, &'static str, &'static str); 2]| {
        let tables = tables.into_iter().map(|(version, name, sql)| {
            Migration::new(
                version,
                Cow::Borrowed(name),
                MigrationType::Simple,
                sql.into_sql_str(),
                false,
            )
        });
        Migrator::with_migrations(tables.collect())
    };
    script(url, String::new()).await;
    match url {
        LedgerUrl::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = sqlx::SqliteConnection::connect_with(&options)
                .await
                .unwrap();
            migrator(old_tables!("sqlite"))
                .run_direct(None, &mut connection, false)
                .await
                .unwrap();
            connection.close().await.unwrap();
        }
        LedgerUrl::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            migrator(old_tables!("postgres"))
                .run_direct(None, &mut connection, false)
                .await
                .unwrap();
            connection.close().await.unwrap();
        }
    }
}

/// A row of the old table, as SQL.
fn old_row(url: &LedgerUrl, new: &NewSettlement, state: &str) -> String {
    let bytes = |bytes: &[u8]| match url {
        LedgerUrl::Sqlite(_) => format!("x'{}'", hex::encode(bytes)),
        LedgerUrl::Postgres(_) => format!("'\\x{}'::bytea", hex::encode(bytes)),
    };
    let id = match url {
        LedgerUrl::Sqlite(_) => bytes(new.id.0.as_bytes()),
        LedgerUrl::Postgres(_) => format!("'{}'", new.id.0),
    };
    let signature = new.payment.authorization.signature().ecdsa().unwrap();
    format!(
        "INSERT INTO settlements (id, tenant, version, chain_id, authority, payer, nonce, asset, payee, value, \
         valid_after, valid_before, authorization_kind, signature, digest, accepted_at, updated_at, tries, {}) \
         VALUES ({id}, 'shop', 2, {}, {}, {}, {}, {}, {}, '{}', '0', '{}', 'eip3009', {}, {}, 7, 8, 1, {});\n",
        "state, slot_signer, slot_nonce, transaction_hash, block_number, block_hash, log_index, level, gas_used, cost, \
         delivery_request, delivered_at",
        new.payment.key.chain.0,
        bytes(new.payment.key.authority.as_slice()),
        bytes(new.payment.key.payer.as_slice()),
        bytes(new.payment.key.nonce.0.as_slice()),
        bytes(new.payment.asset.as_slice()),
        bytes(new.payment.payee.as_slice()),
        new.payment.value,
        u64::MAX,
        bytes(&signature.to_bytes()),
        bytes(new.payment.digest().0.as_slice()),
        state
            .replace("ID", &id)
            .replace("SIGNER", &bytes(SIGNER.as_slice()))
            .replace("HASH", &bytes(hash(9).as_slice())),
    )
}

async fn an_older_ledger_keeps_its_rows(url: LedgerUrl) {
    old(&url).await;
    let [delivered, waiting, assigned, requeued] =
        [(); 4].map(|()| new_settlement("shop", payment()));
    let receipt_columns = "77, HASH, 3, 'included', 5, '6'";
    let mut sql = [
        (
            &delivered,
            format!("'settled', NULL, NULL, HASH, {receipt_columns}, ID, 99"),
        ),
        (
            &waiting,
            format!("'settled', NULL, NULL, HASH, {receipt_columns}, NULL, NULL"),
        ),
        (
            &assigned,
            "'assigned', SIGNER, 6, HASH, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
                .to_owned(),
        ),
        (
            &requeued,
            "'accepted', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
                .to_owned(),
        ),
    ]
    .map(|(new, state)| old_row(&url, new, &state))
    .concat();
    let literal = |bytes: &[u8]| match &url {
        LedgerUrl::Sqlite(_) => format!("x'{}'", hex::encode(bytes)),
        LedgerUrl::Postgres(_) => format!("'\\x{}'::bytea", hex::encode(bytes)),
    };
    let id = |new: &NewSettlement| match &url {
        LedgerUrl::Sqlite(_) => literal(new.id.0.as_bytes()),
        LedgerUrl::Postgres(_) => format!("'{}'", new.id.0),
    };
    let (signer, nine) = (literal(SIGNER.as_slice()), literal(hash(9).as_slice()));
    let chain = CHAIN.0;
    sql += &format!(
        "INSERT INTO slots VALUES ({chain}, {signer}, 5, 'closed', 1, {nine}, 77, {nine}, 5, '6', 2);\n\
         INSERT INTO slots (chain_id, signer, nonce, state, opened_at) VALUES ({chain}, {signer}, 6, 'open', 3);\n\
         INSERT INTO attempts VALUES ({nine}, {chain}, {signer}, 5, 0, 'batch', {nine}, '1', '1', 1, 1);\n"
    );
    for (nonce, position, payment) in [
        (5, 0, &delivered),
        (5, 1, &waiting),
        (5, 2, &assigned),
        (5, 3, &requeued),
        (6, 0, &assigned),
    ] {
        let id = id(payment);
        sql += &format!(
            "INSERT INTO slot_payments VALUES ({chain}, {signer}, {nonce}, {position}, {id});\n"
        );
    }
    script(&url, sql).await;
    migrate(&url).await.unwrap();
    let ledger = open_ledger(&url).await.unwrap();
    let find = async |new: &NewSettlement| ledger.settlement(new.id).await.unwrap().unwrap();
    let found = find(&delivered).await;
    assert_eq!(found.payment, delivered.payment);
    assert!(
        matches!(&found.state, SettlementState::Settled(receipt) if receipt.cost == Wei::from(6))
    );
    let told = Told::Success {
        transaction: hash(9),
        level: Level::Included,
        at: UnixMillis(99),
    };
    assert_eq!(found.told, Some(told));
    assert_eq!(find(&waiting).await.told, None);
    let settled_at = async |new: &NewSettlement| {
        let (_, at) = ledger.settled(new.id).await.unwrap().unwrap();
        at
    };
    assert_eq!(settled_at(&delivered).await, Some(UnixMillis(8)));
    assert_eq!(settled_at(&assigned).await, None);
    assert_eq!(
        ledger.last_event().await.unwrap(),
        4,
        "no row is news again"
    );
    let recovery = ledger
        .claim_lane(CHAIN, SIGNER, ProcessId::fresh(), 1, 60_000)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(recovery.open_slots[0].payments, [assigned.id]);
    assert_eq!(recovery.unfinal.len(), 1);
    assert_eq!(recovery.unfinal[0].level, Level::Included);
    let fence = recovery.lane.fence;
    ledger
        .reopen_slots(fence, &[AccountNonce(5)])
        .await
        .unwrap();
    let slots = ledger.open_slots(CHAIN, SIGNER).await.unwrap();
    assert_eq!(
        slots[0].payments,
        [delivered.id, waiting.id, requeued.id],
        "the last slot of the fourth is another"
    );
    assert_eq!(ledger.last_event().await.unwrap(), 7, "events go on");
}

#[tokio::test]
async fn an_older_file_keeps_its_rows() {
    let directory = tempfile::tempdir().unwrap();
    an_older_ledger_keeps_its_rows(LedgerUrl::Sqlite(directory.path().join("teller.db"))).await;
}

#[tokio::test]
async fn an_older_database_keeps_its_rows() {
    an_older_ledger_keeps_its_rows(LedgerUrl::Postgres(postgres_schema().await)).await;
}

/// A server that is not there yet, and is there later.
#[tokio::test]
async fn stores_that_cannot_be_reached_are_waited_for() {
    let url = postgres_schema().await;
    migrate(&LedgerUrl::Postgres(url.clone())).await.unwrap();
    let redis: ReservationsUrl = "redis://127.0.0.1:1/".parse().unwrap();
    let every = std::time::Duration::from_millis(10);
    let ledger = LedgerUrl::Postgres(url);
    let waiting = Stores::open_when_reachable(&ledger, &redis, every);
    let still = tokio::time::timeout(std::time::Duration::from_millis(500), waiting).await;
    assert!(still.is_err(), "it goes on trying");
    let redis = std::env::var("TELLER_TEST_REDIS_URL")
        .unwrap()
        .parse()
        .unwrap();
    Stores::open_when_reachable(&ledger, &redis, every)
        .await
        .unwrap();
    // Waiting mends no tables.
    let bare = LedgerUrl::Postgres(postgres_schema().await);
    let refused = Stores::open_when_reachable(&bare, &redis, every)
        .await
        .err();
    assert!(
        matches!(refused, Some(StoreError::Configuration(_))),
        "{refused:?}"
    );
}
