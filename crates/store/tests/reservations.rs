//! The contract of reservations, held against every implementation on a real store.
//!
//! One long file, because it is one list of behaviours.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use alloy_primitives::{Address, U256};
use futures::future::join_all;
use support::*;
use teller_domain::*;
use teller_store::*;

macro_rules! contract {
    ($($behaviour:ident,)*) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::TestReservations::open(super::Backend::Embedded).await).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::TestReservations::open(super::Backend::Cluster).await).await;
            })*
        }
    };
}

contract! {
    of_fifty_reserves_of_one_authorization_one_is_granted,
    ten_authorizations_cannot_spend_one_coin_ten_times,
    a_balance_is_held_for_each_asset_apart,
    an_ended_balance_hold_counts_no_more_but_the_authorization_stays_held,
    a_renewal_after_the_balance_hold_ended_is_checked_again,
    a_mined_payment_counts_against_older_reads_only,
    a_reorg_makes_a_hold_count_again,
    mined_holds_are_dropped_after_64_blocks,
    a_new_hold_outlives_the_mined_one_that_it_replaced,
    the_same_idempotency_key_renews,
    a_lenient_tenant_may_repeat_itself,
    settle_takes_what_verify_left,
    only_its_owner_releases_and_only_before_settling,
    a_grant_that_came_to_nothing_is_given_back_by_its_owner_only,
    what_somebody_else_was_promised_is_not_given_back,
    what_settle_or_the_chain_has_taken_over_is_not_given_back,
    an_abandoned_hold_is_gone,
    the_largest_amounts_are_added_exactly,
    restored_holds_do_not_replace_living_ones,
    a_restart_keeps_holds,
}

const NOW: u64 = 1_700_000_000_000;
const COIN: u64 = 1_000_000;

fn payer() -> Address {
    Address::from_word(hash(unique()))
}

fn request(payer: Address, value: u64, balance: u64) -> ReserveRequest {
    let payment = payment_of(payer);
    ReserveRequest {
        key: payment.key,
        asset: ASSET,
        value: AssetAmount::from(value),
        tenant: tenant("shop"),
        digest: payment.digest(),
        idempotency_key: None,
        purpose: HoldPurpose::Verify { lenient: false },
        balance: AssetAmount::from(balance),
        read_at_block: 100,
        now: UnixMillis(NOW),
        nonce_hold_until: UnixMillis(NOW + 600_000),
        balance_hold_until: UnixMillis(NOW + 60_000),
    }
}

fn settling(request: &ReserveRequest) -> ReserveRequest {
    ReserveRequest {
        purpose: HoldPurpose::Settle,
        ..request.clone()
    }
}

fn at(request: &ReserveRequest, later_ms: u64) -> ReserveRequest {
    ReserveRequest {
        now: UnixMillis(NOW + later_ms),
        balance_hold_until: UnixMillis(NOW + later_ms + 60_000),
        ..request.clone()
    }
}

fn read_at(request: &ReserveRequest, read_at_block: u64) -> ReserveRequest {
    ReserveRequest {
        read_at_block,
        ..request.clone()
    }
}

/// An outcome without its version, which differs from grant to grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reserved {
    Granted,
    Renewed,
    AuthorizationHeld,
    InsufficientBalance { held: AssetAmount },
}

use Reserved::{AuthorizationHeld, Granted, Renewed};

impl From<ReserveOutcome> for Reserved {
    fn from(outcome: ReserveOutcome) -> Self {
        match outcome {
            ReserveOutcome::Granted { .. } => Granted,
            ReserveOutcome::Renewed => Renewed,
            ReserveOutcome::AuthorizationHeld => AuthorizationHeld,
            ReserveOutcome::InsufficientBalance { held } => Self::InsufficientBalance { held },
        }
    }
}

async fn reserve(store: &TestReservations, request: &ReserveRequest) -> Reserved {
    let outcome = store.reservations.reserve(request.clone()).await;
    outcome.unwrap().into()
}

/// Reserves what must be granted.
async fn granted(store: &TestReservations, request: &ReserveRequest) -> HoldVersion {
    match store.reservations.reserve(request.clone()).await {
        Ok(ReserveOutcome::Granted { version }) => version,
        other => panic!("not granted: {other:?}"),
    }
}

async fn give_back(
    store: &TestReservations,
    request: &ReserveRequest,
    version: HoldVersion,
) -> bool {
    store
        .reservations
        .give_back(request.key, &request.tenant, request.digest, version)
        .await
        .unwrap()
}

fn short(held: u64) -> Reserved {
    Reserved::InsufficientBalance {
        held: AssetAmount::from(held),
    }
}

async fn of_fifty_reserves_of_one_authorization_one_is_granted(store: TestReservations) {
    let one = request(payer(), COIN, 100 * COIN);
    let outcomes = join_all((0..50).map(|_| reserve(&store, &one))).await;
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == Granted)
            .count(),
        1
    );
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == AuthorizationHeld)
            .count(),
        49
    );
}

async fn ten_authorizations_cannot_spend_one_coin_ten_times(store: TestReservations) {
    let payer = payer();
    let requests: Vec<_> = (0..10).map(|_| request(payer, COIN, COIN)).collect();
    let outcomes = join_all(requests.iter().map(|one| reserve(&store, one))).await;
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == Granted)
            .count(),
        1
    );
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == short(COIN))
            .count(),
        9
    );
    let other = request(support::payment().key.payer, COIN, COIN);
    assert_eq!(reserve(&store, &other).await, Granted);
    let other_chain = {
        let mut one = request(payer, COIN, COIN);
        one.key.chain = ChainId(1);
        one
    };
    assert_eq!(reserve(&store, &other_chain).await, Granted);
}

async fn a_balance_is_held_for_each_asset_apart(store: TestReservations) {
    let payer = payer();
    assert_eq!(reserve(&store, &request(payer, COIN, COIN)).await, Granted);
    let mut other = request(payer, COIN, COIN);
    other.asset = Address::repeat_byte(0xbb);
    assert_eq!(reserve(&store, &other).await, Granted);
    assert_eq!(reserve(&store, &request(payer, 1, COIN)).await, short(COIN));
    assert_eq!(reserve(&store, &request(payer, 1, COIN + 1)).await, Granted);
}

async fn an_ended_balance_hold_counts_no_more_but_the_authorization_stays_held(
    store: TestReservations,
) {
    let payer = payer();
    let one = request(payer, COIN, COIN);
    assert_eq!(reserve(&store, &one).await, Granted);
    let other = request(payer, COIN, COIN);
    assert_eq!(reserve(&store, &at(&other, 59_999)).await, short(COIN));
    assert_eq!(reserve(&store, &at(&one, 60_000)).await, AuthorizationHeld);
    assert_eq!(reserve(&store, &at(&other, 60_000)).await, Granted);
    let late = ReserveRequest {
        nonce_hold_until: UnixMillis(NOW + 900_000),
        ..at(&one, 600_000)
    };
    assert_eq!(
        reserve(&store, &late).await,
        Granted,
        "the nonce hold has ended"
    );
}

async fn a_renewal_after_the_balance_hold_ended_is_checked_again(store: TestReservations) {
    let payer = payer();
    let one = request(payer, COIN, COIN);
    assert_eq!(reserve(&store, &one).await, Granted);
    let other = request(payer, COIN, COIN);
    assert_eq!(reserve(&store, &at(&other, 61_000)).await, Granted);
    assert_eq!(
        reserve(&store, &at(&settling(&one), 62_000)).await,
        short(COIN)
    );
    assert_eq!(
        reserve(&store, &at(&settling(&one), 122_000)).await,
        Renewed
    );
    assert_eq!(
        reserve(&store, &at(&request(payer, 1, COIN), 122_001)).await,
        short(COIN)
    );
}

async fn a_mined_payment_counts_against_older_reads_only(store: TestReservations) {
    let payer = payer();
    let one = request(payer, COIN, COIN);
    assert_eq!(reserve(&store, &settling(&one)).await, Granted);
    store.reservations.mined(&[one.key], 105).await.unwrap();
    let next = request(payer, COIN, COIN);
    assert_eq!(
        reserve(&store, &read_at(&next, 104)).await,
        short(COIN),
        "a lagging node"
    );
    let much_later = at(&read_at(&next, 104), 120_000);
    assert_eq!(
        reserve(&store, &much_later).await,
        short(COIN),
        "whatever the clock says"
    );
    assert_eq!(
        reserve(&store, &read_at(&one, 105)).await,
        AuthorizationHeld
    );
    assert_eq!(
        reserve(&store, &read_at(&settling(&one), 105)).await,
        Renewed
    );
    assert_eq!(
        reserve(&store, &at(&read_at(&next, 105), 120_000)).await,
        Granted
    );
}

async fn a_reorg_makes_a_hold_count_again(store: TestReservations) {
    let payer = payer();
    let one = request(payer, COIN, COIN);
    assert_eq!(reserve(&store, &settling(&one)).await, Granted);
    store.reservations.mined(&[one.key], 105).await.unwrap();
    store.reservations.unmined(&[one.key]).await.unwrap();
    let next = read_at(&request(payer, COIN, COIN), 106);
    assert_eq!(reserve(&store, &next).await, short(COIN));
    assert_eq!(reserve(&store, &at(&next, 120_000)).await, short(COIN));
    store.reservations.mined(&[one.key], 107).await.unwrap();
    assert_eq!(reserve(&store, &next).await, short(COIN));
    assert_eq!(reserve(&store, &read_at(&next, 107)).await, Granted);
}

async fn mined_holds_are_dropped_after_64_blocks(store: TestReservations) {
    let payer = payer();
    let one = request(payer, COIN, COIN);
    assert_eq!(reserve(&store, &one).await, Granted);
    store.reservations.mined(&[one.key], 105).await.unwrap();
    let next = request(payer, COIN, COIN);
    assert_eq!(reserve(&store, &read_at(&next, 168)).await, Granted);
    assert_eq!(
        reserve(&store, &read_at(&one, 168)).await,
        AuthorizationHeld
    );
    assert_eq!(
        reserve(&store, &read_at(&one, 169)).await,
        short(COIN),
        "it is forgotten"
    );
}

async fn a_new_hold_outlives_the_mined_one_that_it_replaced(store: TestReservations) {
    let base = settling(&request(payer(), COIN, COIN));
    let later = |ms, block| ReserveRequest {
        nonce_hold_until: UnixMillis(NOW + ms + 100_000),
        ..read_at(&at(&base, ms), block)
    };
    assert_eq!(reserve(&store, &later(0, 100)).await, Granted);
    store.reservations.mined(&[base.key], 100).await.unwrap();
    assert_eq!(reserve(&store, &later(100_000, 100)).await, Renewed);
    assert_eq!(reserve(&store, &later(144_000, 164)).await, Granted);
    assert_eq!(reserve(&store, &later(160_000, 164)).await, Renewed);
}

async fn the_same_idempotency_key_renews(store: TestReservations) {
    let mut one = request(payer(), COIN, COIN);
    one.idempotency_key = Some("order 1".parse().unwrap());
    assert_eq!(reserve(&store, &one).await, Granted);
    assert_eq!(reserve(&store, &at(&one, 30_000)).await, Renewed);
    let other = request(one.key.payer, 1, COIN);
    assert_eq!(
        reserve(&store, &at(&other, 80_000)).await,
        short(COIN),
        "renewed until 90 s"
    );
    let without = ReserveRequest {
        idempotency_key: None,
        ..one.clone()
    };
    let another_key = ReserveRequest {
        idempotency_key: Some("order 2".parse().unwrap()),
        ..one.clone()
    };
    let another_tenant = ReserveRequest {
        tenant: tenant("other"),
        ..one.clone()
    };
    let another_payment = ReserveRequest {
        digest: payment().digest(),
        ..one.clone()
    };
    for refused in [without, another_key, another_tenant, another_payment] {
        assert_eq!(reserve(&store, &refused).await, AuthorizationHeld);
    }
}

async fn a_lenient_tenant_may_repeat_itself(store: TestReservations) {
    let mut one = request(payer(), COIN, COIN);
    assert_eq!(reserve(&store, &one).await, Granted);
    one.purpose = HoldPurpose::Verify { lenient: true };
    assert_eq!(reserve(&store, &one).await, Renewed);
    let another_tenant = ReserveRequest {
        tenant: tenant("other"),
        ..one.clone()
    };
    let another_payment = ReserveRequest {
        digest: payment().digest(),
        ..one
    };
    for refused in [another_tenant, another_payment] {
        assert_eq!(reserve(&store, &refused).await, AuthorizationHeld);
    }
}

async fn settle_takes_what_verify_left(store: TestReservations) {
    let one = request(payer(), COIN, COIN);
    assert_eq!(reserve(&store, &one).await, Granted);
    assert_eq!(reserve(&store, &settling(&one)).await, Renewed);
    assert_eq!(reserve(&store, &settling(&one)).await, Renewed);
    let stolen = ReserveRequest {
        tenant: tenant("other"),
        ..settling(&one)
    };
    assert_eq!(reserve(&store, &stolen).await, AuthorizationHeld);
    let unverified = settling(&request(payer(), COIN, COIN));
    assert_eq!(reserve(&store, &unverified).await, Granted);
    let poor = settling(&request(unverified.key.payer, COIN, COIN));
    assert_eq!(reserve(&store, &poor).await, short(COIN));
}

async fn only_its_owner_releases_and_only_before_settling(store: TestReservations) {
    let one = request(payer(), COIN, COIN);
    let release = |tenant_name: &'static str, digest| {
        let reservations = store.reservations.clone();
        async move {
            reservations
                .release(one.key, &tenant(tenant_name), digest, UnixMillis(NOW))
                .await
                .unwrap()
        }
    };
    assert!(!release("shop", one.digest).await);
    assert_eq!(reserve(&store, &one).await, Granted);
    assert!(!release("other", one.digest).await);
    assert!(!release("shop", payment().digest()).await);
    assert!(release("shop", one.digest).await);
    assert!(!release("shop", one.digest).await);
    assert_eq!(reserve(&store, &one).await, Granted);
    assert_eq!(reserve(&store, &settling(&one)).await, Renewed);
    assert!(!release("shop", one.digest).await, "it is being settled");
}

async fn a_grant_that_came_to_nothing_is_given_back_by_its_owner_only(store: TestReservations) {
    let verified = request(payer(), COIN, COIN);
    for one in [verified.clone(), settling(&verified)] {
        let version = granted(&store, &one).await;
        let another_tenant = ReserveRequest {
            tenant: tenant("other"),
            ..one.clone()
        };
        let another_payment = ReserveRequest {
            digest: payment().digest(),
            ..one.clone()
        };
        for stranger in [another_tenant, another_payment] {
            assert!(!give_back(&store, &stranger, version).await);
        }
        assert!(give_back(&store, &one, version).await);
        assert!(!give_back(&store, &one, version).await);
    }
    // A grant of the past does not give back a later one.
    let past = granted(&store, &verified).await;
    store.reservations.abandon(&[verified.key]).await.unwrap();
    let version = granted(&store, &verified).await;
    assert!(!give_back(&store, &verified, past).await);
    assert!(give_back(&store, &verified, version).await);
}

async fn what_somebody_else_was_promised_is_not_given_back(store: TestReservations) {
    let mut keyed = request(payer(), COIN, COIN);
    keyed.idempotency_key = Some("order 1".parse().unwrap());
    let mut lenient = request(payer(), COIN, COIN);
    lenient.purpose = HoldPurpose::Verify { lenient: true };
    let settled = settling(&request(payer(), COIN, COIN));
    for one in [keyed, lenient, settled] {
        let version = granted(&store, &one).await;
        assert_eq!(reserve(&store, &one).await, Renewed);
        assert!(!give_back(&store, &one, version).await);
        assert_eq!(
            reserve(&store, &request(one.key.payer, 1, COIN)).await,
            short(COIN)
        );
    }
}

async fn what_settle_or_the_chain_has_taken_over_is_not_given_back(store: TestReservations) {
    let one = request(payer(), COIN, COIN);
    let version = granted(&store, &one).await;
    assert_eq!(reserve(&store, &settling(&one)).await, Renewed);
    assert!(!give_back(&store, &one, version).await);

    let one = settling(&request(payer(), COIN, COIN));
    let version = granted(&store, &one).await;
    store.reservations.mined(&[one.key], 105).await.unwrap();
    assert!(!give_back(&store, &one, version).await);
    store.reservations.unmined(&[one.key]).await.unwrap();
    assert!(!give_back(&store, &one, version).await);
    assert_eq!(
        reserve(&store, &request(one.key.payer, 1, COIN)).await,
        short(COIN)
    );
}

async fn an_abandoned_hold_is_gone(store: TestReservations) {
    let (one, two) = (request(payer(), COIN, COIN), request(payer(), COIN, COIN));
    for one in [&one, &two] {
        assert_eq!(reserve(&store, &settling(one)).await, Granted);
    }
    store.reservations.mined(&[two.key], 105).await.unwrap();
    store
        .reservations
        .abandon(&[one.key, two.key, payment().key])
        .await
        .unwrap();
    for one in [&one, &two] {
        assert_eq!(reserve(&store, one).await, Granted);
    }
}

async fn the_largest_amounts_are_added_exactly(store: TestReservations) {
    let payer = payer();
    let amount = |value: U256| ReserveRequest {
        value: AssetAmount(value),
        balance: AssetAmount(U256::MAX),
        ..request(payer, 0, 0)
    };
    // The limbs of both implementations carry and borrow here.
    let almost = U256::MAX - U256::from(u128::MAX);
    let most = amount(almost);
    assert_eq!(reserve(&store, &most).await, Granted);
    let over = amount(U256::from(u128::MAX) + U256::ONE);
    let held = AssetAmount(almost);
    assert_eq!(
        reserve(&store, &over).await,
        Reserved::InsufficientBalance { held }
    );
    let rest = amount(U256::from(u128::MAX));
    assert_eq!(reserve(&store, &rest).await, Granted);
    let held = AssetAmount(U256::MAX);
    let one = amount(U256::ONE);
    assert_eq!(
        reserve(&store, &one).await,
        Reserved::InsufficientBalance { held }
    );
    store.reservations.abandon(&[most.key]).await.unwrap();
    let held = AssetAmount(U256::from(u128::MAX));
    let all = amount(U256::MAX);
    assert_eq!(
        reserve(&store, &all).await,
        Reserved::InsufficientBalance { held }
    );
    assert_eq!(reserve(&store, &amount(almost)).await, Granted);
}

async fn restored_holds_do_not_replace_living_ones(store: TestReservations) {
    let living = request(payer(), COIN, COIN);
    let lost = request(payer(), COIN, COIN);
    assert_eq!(reserve(&store, &living).await, Granted);
    let other = ReserveRequest {
        tenant: tenant("other"),
        ..living.clone()
    };
    store
        .reservations
        .restore(vec![other, lost.clone()])
        .await
        .unwrap();
    store.reservations.recovered().await.unwrap();
    assert_eq!(reserve(&store, &settling(&living)).await, Renewed);
    assert_eq!(reserve(&store, &lost).await, AuthorizationHeld);
    assert_eq!(reserve(&store, &settling(&lost)).await, Renewed);
    assert_eq!(
        reserve(&store, &request(lost.key.payer, 1, COIN)).await,
        short(COIN)
    );
}

async fn a_restart_keeps_holds(mut store: TestReservations) {
    let payer = payer();
    let (one, two) = (
        request(payer, COIN, 3 * COIN),
        request(payer, COIN, 3 * COIN),
    );
    let gone = request(payer, COIN, 3 * COIN);
    for one in [&one, &two, &gone] {
        assert_eq!(reserve(&store, one).await, Granted);
    }
    assert_eq!(reserve(&store, &settling(&one)).await, Renewed);
    store.reservations.mined(&[two.key], 105).await.unwrap();
    store.reservations.abandon(&[gone.key]).await.unwrap();
    store.reopen().await;
    store.reservations.ping().await.unwrap();
    assert_eq!(reserve(&store, &one).await, AuthorizationHeld);
    let released = store
        .reservations
        .release(one.key, &one.tenant, one.digest, UnixMillis(NOW));
    assert!(!released.await.unwrap(), "it is still being settled");
    assert_eq!(
        reserve(&store, &request(payer, COIN, COIN)).await,
        short(2 * COIN)
    );
    let seen = read_at(&request(payer, COIN, COIN), 105);
    assert_eq!(reserve(&store, &seen).await, short(COIN));
    assert_eq!(reserve(&store, &gone).await, Granted);
}

mod lost {
    use super::*;

    #[tokio::test]
    async fn nothing_is_granted_until_lost_holds_are_back() {
        let store = TestReservations::open(Backend::Cluster).await;
        let one = request(payer(), COIN, COIN);
        assert_eq!(reserve(&store, &one).await, Granted);
        store.lose().await;
        assert!(matches!(
            store.reservations.ping().await,
            Err(StoreError::Recovering)
        ));
        let other = request(one.key.payer, COIN, COIN);
        let refused = store.reservations.reserve(other.clone()).await;
        assert!(
            matches!(refused, Err(StoreError::Recovering)),
            "{refused:?}"
        );
        let settled = settling(&request(payer(), COIN, COIN));
        assert_eq!(
            reserve(&store, &settled).await,
            Granted,
            "the ledger decides"
        );
        assert_eq!(reserve(&store, &settled).await, Renewed);
        assert_eq!(
            reserve(&store, &settling(&request(settled.key.payer, 1, COIN))).await,
            short(COIN)
        );
        store.reservations.restore(vec![one.clone()]).await.unwrap();
        store.reservations.recovered().await.unwrap();
        store.reservations.ping().await.unwrap();
        assert_eq!(reserve(&store, &other).await, short(COIN));
        assert_eq!(reserve(&store, &settling(&one)).await, Renewed);
    }

    #[tokio::test]
    async fn an_absent_redis_is_unavailable_and_its_password_untold() {
        for url in [
            "redis://user:secret@127.0.0.1:1/",
            "rediss://user:secret@127.0.0.1:1/",
        ] {
            assert!(url.parse::<ReservationsUrl>().is_ok());
            let refused = RedisReservations::connect(url, "x").await.err().unwrap();
            assert!(matches!(refused, StoreError::Unavailable { .. }));
            assert!(!refused.to_string().contains("secret"), "{refused}");
        }
    }
}

mod clocks {
    use super::*;

    /// Two processes at the same moment, of which one takes it to be 90 s later.
    #[tokio::test]
    async fn a_process_whose_clock_is_ahead_ends_nobody_s_hold() {
        let url = std::env::var("TELLER_TEST_REDIS_URL").unwrap();
        let prefix = format!("test-{}", uuid::Uuid::now_v7().simple());
        let connect = || RedisReservations::connect(&url, &prefix);
        let (right, ahead) = (connect().await.unwrap(), connect().await.unwrap());
        right.recovered().await.unwrap();
        let payer = payer();
        let held = request(payer, COIN, COIN);
        let granted = right.reserve(held.clone()).await.unwrap();
        assert_eq!(Reserved::from(granted), Granted);
        let mut other = at(&request(payer, COIN, COIN), 90_000);
        other.nonce_hold_until = UnixMillis(NOW + 690_000);
        let refused = ahead.reserve(other).await.unwrap();
        assert_eq!(Reserved::from(refused), short(COIN));
        let same = ahead.reserve(at(&held, 90_000 + 600_000)).await.unwrap();
        assert_eq!(Reserved::from(same), AuthorizationHeld);
        let later = UnixMillis(NOW + 3_600_000);
        let released = ahead.release(held.key, &held.tenant, held.digest, later);
        assert!(released.await.unwrap(), "it had not ended");
    }
}

mod agreement {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Reserve {
            who: usize,
            value: u64,
            purpose: u8,
            key: bool,
            balance: u64,
            block: u64,
        },
        Release {
            who: usize,
        },
        GiveBack {
            who: usize,
        },
        Abandon {
            who: usize,
        },
        Mined {
            who: usize,
            block: u64,
        },
        Unmined {
            who: usize,
        },
        Wait {
            ms: u64,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let who = 0..6_usize;
        prop_oneof![
            8 => (who.clone(), 1..4_u64, 0..3_u8, any::<bool>(), 0..9_u64, 100..240_u64).prop_map(
                |(who, value, purpose, key, balance, block)| Step::Reserve { who, value, purpose, key, balance, block }
            ),
            1 => who.clone().prop_map(|who| Step::Release { who }),
            2 => who.clone().prop_map(|who| Step::GiveBack { who }),
            1 => who.clone().prop_map(|who| Step::Abandon { who }),
            2 => (who.clone(), 100..200_u64).prop_map(|(who, block)| Step::Mined { who, block }),
            1 => who.prop_map(|who| Step::Unmined { who }),
            2 => (1..40_000_u64).prop_map(|ms| Step::Wait { ms }),
        ]
    }

    async fn apply(
        store: &TestReservations,
        versions: &mut [Option<HoldVersion>],
        base: &[ReserveRequest],
        now: u64,
        step: &Step,
    ) -> String {
        let store = &store.reservations;
        match step {
            Step::Reserve {
                who,
                value,
                purpose,
                key,
                balance,
                block,
            } => {
                let mut one = at(&base[*who], now);
                one.nonce_hold_until = UnixMillis(NOW + now + 100_000);
                one.value = AssetAmount::from(*value);
                one.balance = AssetAmount::from(*balance);
                one.read_at_block = *block;
                one.purpose = match purpose {
                    0 => HoldPurpose::Settle,
                    1 => HoldPurpose::Verify { lenient: true },
                    _ => HoldPurpose::Verify { lenient: false },
                };
                one.idempotency_key = key.then(|| "key".parse().unwrap());
                let outcome = store.reserve(one).await.unwrap();
                if let ReserveOutcome::Granted { version } = outcome {
                    versions[*who] = Some(version);
                }
                format!("{:?}", Reserved::from(outcome))
            }
            Step::Release { who } => {
                let one = &base[*who];
                let now = UnixMillis(NOW + now);
                format!(
                    "{}",
                    store
                        .release(one.key, &one.tenant, one.digest, now)
                        .await
                        .unwrap()
                )
            }
            Step::GiveBack { who } => {
                let one = &base[*who];
                match versions[*who] {
                    Some(version) => {
                        let done = store.give_back(one.key, &one.tenant, one.digest, version);
                        format!("{}", done.await.unwrap())
                    }
                    None => String::new(),
                }
            }
            Step::Abandon { who } => format!("{:?}", store.abandon(&[base[*who].key]).await),
            Step::Mined { who, block } => {
                format!("{:?}", store.mined(&[base[*who].key], *block).await)
            }
            Step::Unmined { who } => format!("{:?}", store.unmined(&[base[*who].key]).await),
            Step::Wait { .. } => String::new(),
        }
    }

    /// Both implementations say the same, whatever is asked of them.
    #[test]
    fn both_implementations_decide_alike() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let (memory, redis) = runtime.block_on(async {
            (
                TestReservations::open(Backend::Embedded).await,
                TestReservations::open(Backend::Cluster).await,
            )
        });
        let steps = proptest::collection::vec(step(), 1..60);
        proptest!(ProptestConfig::with_cases(64), |(steps in steps)| {
            let payer = payer();
            let mut base: Vec<_> = (0..6).map(|_| request(payer, 1, 1)).collect();
            base[5].asset = Address::repeat_byte(0xbb);
            base[4].tenant = tenant("other");
            let mut now = 0;
            let (mut ours, mut theirs) = ([None; 6], [None; 6]);
            for (index, step) in steps.iter().enumerate() {
                if let Step::Wait { ms } = step {
                    now += ms;
                }
                let (left, right) = runtime.block_on(async {
                    (apply(&memory, &mut ours, &base, now, step).await, apply(&redis, &mut theirs, &base, now, step).await)
                });
                prop_assert_eq!(left, right, "step {} at {}: {:?}", index, now, step);
            }
        });
    }
}
