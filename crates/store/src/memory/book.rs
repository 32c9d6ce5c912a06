//! The rules of reservations over plain maps: no I/O, time passed in.

use std::collections::{BTreeSet, HashMap};

use alloy_primitives::{Address, U256, Uint};
use teller_domain::{AssetAmount, AuthorizationKey, ChainId, PaymentDigest};

use crate::holds::{Fingerprint, Hold, MINED_KEPT_BLOCKS};
use crate::{HoldPurpose, HoldVersion, ReserveOutcome, ReserveRequest, StoreError, StoreResult};

/// More holds than this are not kept: verify is refused until some expire.
const MOST_HOLDS: usize = 1_000_000;
/// How many expired holds one call clears away.
const SWEPT_AT_ONCE: usize = 256;
/// Mined holds of payers who never return are cleared away this many blocks later.
const MINED_SWEPT_BLOCKS: u64 = 16 * MINED_KEPT_BLOCKS;
/// When an expired hold that must stay a while is looked at again.
const SWEEP_AGAIN_MS: u64 = 60_000;

/// What is to be written: a hold as it is now, or `None` if it is gone.
pub(super) type Changes = Vec<(AuthorizationKey, Option<Hold>)>;
/// Sums of 256-bit values that cannot overflow.
type Sum = Uint<320, 5>;

struct Entry {
    hold: Hold,
    version: HoldVersion,
    /// Its one place in [`Book::sweep`].
    sweep_at: u64,
}

/// What is held of one payer's balance of one asset.
#[derive(Default)]
struct Balance {
    /// By when each hold that is not mined ends.
    expiry: BTreeSet<(u64, AuthorizationKey)>,
    /// The sum of those.
    live: Sum,
    /// The mined ones.
    mined: BTreeSet<(u64, AuthorizationKey)>,
}

/// Every hold, with the sums that decisions need.
#[derive(Default)]
pub(super) struct Book {
    /// Boxed, so that a growing table moves pointers.
    holds: HashMap<AuthorizationKey, Box<Entry>>,
    balances: HashMap<(ChainId, Address, Address), Balance>,
    /// When to look whether a hold can be cleared away.
    sweep: BTreeSet<(u64, AuthorizationKey)>,
    /// The highest block that balances were read at.
    heads: HashMap<ChainId, u64>,
    versions: u128,
}

fn wide(value: AssetAmount) -> Sum {
    Sum::from(value.0)
}

fn narrow(sum: Sum) -> AssetAmount {
    AssetAmount(sum.saturating_to::<U256>())
}

impl Book {
    pub(super) fn of(holds: Vec<(AuthorizationKey, Hold)>) -> Self {
        let mut book = Self::default();
        for (key, hold) in holds {
            book.put(key, hold);
        }
        book
    }

    /// Inserts or replaces a hold; answers its version.
    fn put(&mut self, key: AuthorizationKey, hold: Hold) -> HoldVersion {
        self.remove(key);
        let balance = self
            .balances
            .entry((key.chain, hold.asset, key.payer))
            .or_default();
        match hold.mined {
            Some(block) => {
                balance.mined.insert((block, key));
            }
            None => {
                balance.expiry.insert((hold.balance_until, key));
                balance.live = balance.live.saturating_add(wide(hold.value));
            }
        }
        let sweep_at = hold.nonce_until;
        self.sweep.insert((sweep_at, key));
        self.versions += 1;
        let version = HoldVersion(self.versions);
        let entry = Entry {
            hold,
            version,
            sweep_at,
        };
        self.holds.insert(key, Box::new(entry));
        version
    }

    fn remove(&mut self, key: AuthorizationKey) -> Option<Hold> {
        let Entry { hold, sweep_at, .. } = *self.holds.remove(&key)?;
        self.sweep.remove(&(sweep_at, key));
        let name = (key.chain, hold.asset, key.payer);
        if let Some(balance) = self.balances.get_mut(&name) {
            match hold.mined {
                Some(block) => {
                    balance.mined.remove(&(block, key));
                }
                None => {
                    // Absent if it had expired already.
                    if balance.expiry.remove(&(hold.balance_until, key)) {
                        balance.live = balance.live.saturating_sub(wide(hold.value));
                    }
                }
            }
            if balance.expiry.is_empty() && balance.mined.is_empty() {
                self.balances.remove(&name);
            }
        }
        Some(hold)
    }

    /// Takes back a grant that could not be written.
    pub(super) fn forget(&mut self, key: AuthorizationKey, version: HoldVersion) {
        if self
            .holds
            .get(&key)
            .is_some_and(|entry| entry.version == version)
        {
            self.remove(key);
        }
    }

    /// Clears away holds that no decision can need.
    fn sweep(&mut self, now: u64, changes: &mut Changes) {
        for _ in 0..SWEPT_AT_ONCE {
            let Some(&(at, key)) = self.sweep.first().filter(|(at, _)| *at <= now) else {
                return;
            };
            self.sweep.remove(&(at, key));
            let Some(entry) = self.holds.get_mut(&key) else {
                continue;
            };
            let head = self.heads.get(&key.chain).copied().unwrap_or(0);
            let needed = entry
                .hold
                .mined
                .is_some_and(|block| head < block.saturating_add(MINED_SWEPT_BLOCKS));
            if needed {
                entry.sweep_at = now.saturating_add(SWEEP_AGAIN_MS);
                self.sweep.insert((entry.sweep_at, key));
            } else {
                self.remove(key);
                changes.push((key, None));
            }
        }
    }

    /// Brings a payer's balance up to date with the clock and the chain.
    fn settle_balance(&mut self, request: &ReserveRequest, changes: &mut Changes) {
        let name = (request.key.chain, request.asset, request.key.payer);
        let Some(balance) = self.balances.get_mut(&name) else {
            return;
        };
        while let Some(&(until, key)) = balance
            .expiry
            .first()
            .filter(|(until, _)| *until <= request.now.0)
        {
            balance.expiry.remove(&(until, key));
            if let Some(entry) = self.holds.get(&key) {
                balance.live = balance.live.saturating_sub(wide(entry.hold.value));
            }
        }
        let past: Vec<AuthorizationKey> = balance
            .mined
            .iter()
            .take_while(|(block, _)| {
                block.saturating_add(MINED_KEPT_BLOCKS) <= request.read_at_block
            })
            .map(|(_, key)| *key)
            .collect();
        for key in past {
            self.remove(key);
            changes.push((key, None));
        }
    }

    /// What the other authorizations of the payer hold.
    fn held_by_others(&self, request: &ReserveRequest) -> AssetAmount {
        let name = (request.key.chain, request.asset, request.key.payer);
        let Some(balance) = self.balances.get(&name) else {
            return AssetAmount::ZERO;
        };
        let value = |key: &AuthorizationKey| {
            self.holds
                .get(key)
                .map_or(Sum::ZERO, |entry| wide(entry.hold.value))
        };
        let mut held = balance.live;
        if let Some(own) = self.holds.get(&request.key)
            && balance
                .expiry
                .contains(&(own.hold.balance_until, request.key))
        {
            held = held.saturating_sub(wide(own.hold.value));
        }
        for (_, key) in balance
            .mined
            .iter()
            .rev()
            .take_while(|(block, _)| *block > request.read_at_block)
            .filter(|(_, key)| *key != request.key)
        {
            held = held.saturating_add(value(key));
        }
        narrow(held)
    }

    fn affords(&self, request: &ReserveRequest) -> Result<(), ReserveOutcome> {
        let held = self.held_by_others(request);
        match held.checked_add(request.value) {
            Some(sum) if sum <= request.balance => Ok(()),
            _ => Err(ReserveOutcome::InsufficientBalance { held }),
        }
    }

    pub(super) fn reserve(
        &mut self,
        request: &ReserveRequest,
    ) -> (StoreResult<ReserveOutcome>, Changes) {
        let mut changes = Changes::new();
        let head = self.heads.entry(request.key.chain).or_default();
        *head = (*head).max(request.read_at_block);
        self.sweep(request.now.0, &mut changes);
        self.settle_balance(request, &mut changes);
        let decided = self.decide(request, &mut changes);
        (decided, changes)
    }

    fn decide(
        &mut self,
        request: &ReserveRequest,
        changes: &mut Changes,
    ) -> StoreResult<ReserveOutcome> {
        let key = request.key;
        let settling = request.purpose == HoldPurpose::Settle;
        let asked = Hold::of(request, settling);
        let own = self
            .holds
            .get(&key)
            .map(|entry| entry.hold.clone())
            .filter(|hold| hold.mined.is_some() || hold.nonce_until > request.now.0);
        let Some(own) = own else {
            if let Err(outcome) = self.affords(request) {
                return Ok(outcome);
            }
            if self.holds.len() >= MOST_HOLDS {
                return Err(StoreError::unavailable("reservations", "too many holds"));
            }
            changes.push((key, Some(asked.clone())));
            let version = self.put(key, asked);
            return Ok(ReserveOutcome::Granted { version });
        };
        let same_payment = (own.tenant, own.digest) == (asked.tenant, asked.digest);
        let same_request = match request.purpose {
            HoldPurpose::Settle => true,
            HoldPurpose::Verify { lenient } => {
                lenient || (own.idempotency.is_some() && own.idempotency == asked.idempotency)
            }
        };
        if !(same_payment && same_request) {
            return Ok(ReserveOutcome::AuthorizationHeld);
        }
        let mut renewed = own.clone();
        renewed.settling |= settling;
        if own.mined.is_none() {
            if own.balance_until <= request.now.0
                && let Err(outcome) = self.affords(request)
            {
                return Ok(outcome);
            }
            renewed.nonce_until = own.nonce_until.max(asked.nonce_until);
            renewed.balance_until = own.balance_until.max(asked.balance_until);
        }
        if renewed != own {
            changes.push((key, Some(renewed.clone())));
        }
        // Even if nothing else changed, the version does.
        self.put(key, renewed);
        Ok(ReserveOutcome::Renewed)
    }

    pub(super) fn release(
        &mut self,
        key: AuthorizationKey,
        tenant: Fingerprint,
        digest: PaymentDigest,
        now: u64,
    ) -> (bool, Changes) {
        let theirs = self.holds.get(&key).is_some_and(|entry| {
            let hold = &entry.hold;
            (hold.tenant, hold.digest) == (tenant, digest)
                && !hold.settling
                && hold.mined.is_none()
                && hold.nonce_until > now
        });
        if theirs {
            self.remove(key);
            (true, vec![(key, None)])
        } else {
            (false, Changes::new())
        }
    }

    pub(super) fn give_back(
        &mut self,
        key: AuthorizationKey,
        tenant: Fingerprint,
        digest: PaymentDigest,
        version: HoldVersion,
    ) -> (bool, Changes) {
        let theirs = self.holds.get(&key).is_some_and(|entry| {
            (entry.hold.tenant, entry.hold.digest, entry.version) == (tenant, digest, version)
        });
        if theirs {
            self.remove(key);
            (true, vec![(key, None)])
        } else {
            (false, Changes::new())
        }
    }

    pub(super) fn abandon(&mut self, keys: &[AuthorizationKey]) -> Changes {
        keys.iter()
            .filter_map(|key| self.remove(*key).map(|_| (*key, None)))
            .collect()
    }

    pub(super) fn mined(&mut self, keys: &[AuthorizationKey], block: u64) -> Changes {
        self.update(keys, |hold| hold.mined = Some(block))
    }

    /// The holds count again, for as long as the authorization could be used.
    pub(super) fn unmined(&mut self, keys: &[AuthorizationKey]) -> Changes {
        self.update(keys, |hold| {
            if hold.mined.take().is_some() {
                hold.balance_until = hold.nonce_until;
            }
        })
    }

    fn update(&mut self, keys: &[AuthorizationKey], change: impl Fn(&mut Hold)) -> Changes {
        let mut changes = Changes::new();
        for key in keys {
            let Some(entry) = self.holds.get(key) else {
                continue;
            };
            let mut hold = entry.hold.clone();
            change(&mut hold);
            if hold != entry.hold {
                changes.push((*key, Some(hold.clone())));
                self.put(*key, hold);
            }
        }
        changes
    }

    pub(super) fn restore(&mut self, requests: &[ReserveRequest]) -> Changes {
        let mut changes = Changes::new();
        for request in requests {
            let live = self.holds.get(&request.key).is_some_and(|entry| {
                entry.hold.mined.is_some() || entry.hold.nonce_until > request.now.0
            });
            if !live {
                let hold = Hold::of(request, true);
                changes.push((request.key, Some(hold.clone())));
                self.put(request.key, hold);
            }
        }
        changes
    }
}
