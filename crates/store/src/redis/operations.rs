//! The changes that Redis makes for teller, each named, with its key, its script and its answer.

use std::sync::LazyLock;

use ::redis::Script;
use alloy_primitives::{U256, hex};
use teller_domain::{AssetAmount, AuthorizationKey, PaymentDigest};

use crate::holds::{Fingerprint, Hold};
use crate::{HoldPurpose, HoldVersion, ReserveOutcome, ReserveRequest, StoreError, StoreResult};

macro_rules! script {
    ($name:ident, $file:literal) => {
        static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("prelude.lua"), include_str!($file)))
        });
    };
}
script!(RESERVE, "reserve.lua");
script!(RELEASE, "release.lua");
script!(GIVE_BACK, "give_back.lua");
script!(ABANDON, "abandon.lua");
script!(MINED, "mined.lua");
script!(UNMINED, "unmined.lua");
script!(RESTORE, "restore.lua");

/// Every script, to be loaded.
pub(super) fn scripts() -> [&'static Script; 7] {
    [
        &RESERVE, &RELEASE, &GIVE_BACK, &ABANDON, &MINED, &UNMINED, &RESTORE,
    ]
}

/// By which clock holds end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// Redis' own: processes whose clocks differ agree on every hold.
    Server,
    /// That of each request, which a test may move.
    Caller,
}

impl Clock {
    /// What the scripts get as the present moment.
    fn argument(self, callers_ms: u64) -> String {
        match self {
            Self::Server => "-".to_owned(),
            Self::Caller => callers_ms.to_string(),
        }
    }
}

/// One atomic change of one payer's holds.
pub(super) enum Operation {
    Reserve(Box<ReserveRequest>, HoldVersion),
    Release(AuthorizationKey, Fingerprint, PaymentDigest, u64),
    GiveBack(AuthorizationKey, Fingerprint, PaymentDigest, HoldVersion),
    Abandon(AuthorizationKey),
    Mined(AuthorizationKey, u64),
    Unmined(AuthorizationKey),
    Restore(Box<ReserveRequest>),
}

/// What a script said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Reserve(ReserveOutcome),
    Released(bool),
    Done,
}

impl Operation {
    pub(super) fn script(&self) -> &'static Script {
        match self {
            Self::Reserve(..) => &RESERVE,
            Self::Release(..) => &RELEASE,
            Self::GiveBack(..) => &GIVE_BACK,
            Self::Abandon(_) => &ABANDON,
            Self::Mined(..) => &MINED,
            Self::Unmined(_) => &UNMINED,
            Self::Restore(_) => &RESTORE,
        }
    }

    /// `KEYS[1]`: the braces make all keys of a payer share a cluster shard.
    pub(super) fn base(&self, prefix: &str) -> String {
        let key = match self {
            Self::Reserve(request, _) | Self::Restore(request) => &request.key,
            Self::Release(key, ..)
            | Self::GiveBack(key, ..)
            | Self::Abandon(key)
            | Self::Mined(key, _)
            | Self::Unmined(key) => key,
        };
        format!("{prefix}:{{{}:{}}}", key.chain.0, hex::encode(key.payer))
    }

    pub(super) fn arguments(&self, clock: Clock) -> Vec<String> {
        match self {
            Self::Reserve(request, version) => {
                let settling = request.purpose == HoldPurpose::Settle;
                let mut arguments = request_arguments(request, settling, clock);
                arguments.push(version_digits(*version));
                arguments
            }
            Self::Restore(request) => request_arguments(request, true, clock),
            Self::Release(key, tenant, digest, now) => vec![
                member(key),
                hex::encode(tenant.0),
                hex::encode(digest.0),
                clock.argument(*now),
            ],
            Self::GiveBack(key, tenant, digest, version) => vec![
                member(key),
                hex::encode(tenant.0),
                hex::encode(digest.0),
                version_digits(*version),
            ],
            Self::Abandon(key) | Self::Unmined(key) => vec![member(key)],
            Self::Mined(key, block) => vec![member(key), block.to_string()],
        }
    }

    /// What takes back a grant of verify that must not be.
    pub(super) fn undo(&self, answer: &Answer) -> Option<Self> {
        match (self, answer) {
            (Self::Reserve(request, _), Answer::Reserve(ReserveOutcome::Granted { version }))
                if self.grants() =>
            {
                Some(Self::GiveBack(
                    request.key,
                    Fingerprint::tenant(&request.tenant),
                    request.digest,
                    *version,
                ))
            }
            _ => None,
        }
    }

    /// Grants of verify are void unless the holds are known to be complete. Those of settle count even then: the
    /// ledger decides about its payment.
    pub(super) fn grants(&self) -> bool {
        matches!(self, Self::Reserve(request, _) if request.purpose != HoldPurpose::Settle)
    }
}

impl Answer {
    pub(super) fn read(word: &str, detail: &str) -> StoreResult<Self> {
        Ok(match word {
            "granted" => Self::Reserve(ReserveOutcome::Granted {
                version: version(detail)?,
            }),
            "renewed" => Self::Reserve(ReserveOutcome::Renewed),
            "held" => Self::Reserve(ReserveOutcome::AuthorizationHeld),
            "insufficient" => Self::Reserve(ReserveOutcome::InsufficientBalance {
                held: amount(detail)?,
            }),
            "released" => Self::Released(true),
            "kept" => Self::Released(false),
            "done" => Self::Done,
            _ => return Err(StoreError::unavailable("reservations", "an odd answer")),
        })
    }
}

/// The authorization within its payer's hash.
fn member(key: &AuthorizationKey) -> String {
    format!("{}{}", hex::encode(key.authority), hex::encode(key.nonce.0))
}

/// 72 digits, room for sums of 2^32 amounts.
fn digits(value: AssetAmount) -> String {
    format!("{:072x}", value.0)
}

fn version_digits(version: HoldVersion) -> String {
    format!("{:032x}", version.0)
}

fn version(digits: &str) -> StoreResult<HoldVersion> {
    u128::from_str_radix(digits, 16)
        .map(HoldVersion)
        .map_err(|_| StoreError::unavailable("reservations", "an odd answer"))
}

/// A sum of 288 bits, told as the largest amount if it is larger.
fn amount(digits: &str) -> StoreResult<AssetAmount> {
    let odd = || StoreError::unavailable("reservations", "an odd answer");
    let (high, low) = digits.split_at_checked(8).ok_or_else(odd)?;
    if high.bytes().any(|digit| digit != b'0') {
        return Ok(AssetAmount(U256::MAX));
    }
    U256::from_str_radix(low, 16)
        .map(AssetAmount)
        .map_err(|_| odd())
}

fn request_arguments(request: &ReserveRequest, settling: bool, clock: Clock) -> Vec<String> {
    let hold = Hold::of(request, settling);
    let purpose = match request.purpose {
        HoldPurpose::Settle => "settle",
        HoldPurpose::Verify { lenient: true } => "lenient",
        HoldPurpose::Verify { lenient: false } => "strict",
    };
    vec![
        member(&request.key),
        hex::encode(hold.asset),
        digits(hold.value),
        hex::encode(hold.tenant.0),
        hex::encode(hold.digest.0),
        hold.idempotency
            .map_or_else(|| "-".to_owned(), |key| hex::encode(key.0)),
        purpose.to_owned(),
        digits(request.balance),
        request.read_at_block.to_string(),
        clock.argument(request.now.0),
        hold.nonce_until.saturating_sub(request.now.0).to_string(),
        hold.balance_until.saturating_sub(request.now.0).to_string(),
    ]
}
