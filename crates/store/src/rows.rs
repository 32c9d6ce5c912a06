//! Between rows and domain types, once for both ledgers.

use alloy_primitives::{Address, B256, Bytes, U256, U512};
use sqlx::{ColumnIndex, Decode, Row, Type};
use teller_domain::{
    AccountNonce, AssetAmount, Attempt, AttemptKind, AuthorizationKey, AuthorizationNonce,
    BlockRef, ChainId, Fees, Level, Payment, PaymentDigest, Receipt, Refusal, Settlement,
    SettlementId, SettlementState, SettlementStateKind, Slot, SlotEnd, SlotId, SlotState, TenantId,
    Told, UnixMillis, X402Version,
};
use uuid::Uuid;

use crate::authorizations::AuthorizationColumns;
use crate::{StoreError, StoreResult};

/// [`AttemptKind::NoOp`] in the ledger.
const NO_OP: &str = "noop";
/// [`AttemptKind::TopUp`] in the ledger.
const TOP_UP: &str = "top_up";
/// [`SlotState::Open`] in the ledger.
const OPEN: &str = "open";
/// [`Told::Failure`] in the ledger.
const TOLD_FAILURE: &str = "failure";

/// Reads a row from left to right.
pub(crate) struct Columns<'r, R> {
    row: &'r R,
    next: usize,
}

impl<'r, R: Row> Columns<'r, R>
where
    usize: ColumnIndex<R>,
{
    /// From the leftmost column.
    pub(crate) fn of(row: &'r R) -> Self {
        Self { row, next: 0 }
    }

    pub(crate) fn take<T>(&mut self) -> StoreResult<T>
    where
        T: Decode<'r, R::Database> + Type<R::Database>,
    {
        let index = self.next;
        self.next += 1;
        self.row
            .try_get(index)
            .map_err(|_| StoreError::Corrupt(format!("column {index} has another type")))
    }
}

pub(crate) fn unsigned(value: i64) -> StoreResult<u64> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt("a negative count".to_owned()))
}

/// A number for a column of 64 signed bits.
pub(crate) fn signed(value: u64, what: &'static str) -> StoreResult<i64> {
    i64::try_from(value).map_err(|_| StoreError::OutOfRange(what))
}

pub(crate) fn address(bytes: &[u8]) -> StoreResult<Address> {
    Address::try_from(bytes).map_err(|_| StoreError::Corrupt("an address of odd length".to_owned()))
}

pub(crate) fn word(bytes: &[u8]) -> StoreResult<B256> {
    B256::try_from(bytes).map_err(|_| StoreError::Corrupt("a hash of odd length".to_owned()))
}

pub(crate) fn read<T: std::str::FromStr>(text: &str, what: &str) -> StoreResult<T> {
    text.parse()
        .map_err(|_| StoreError::Corrupt(format!("an unknown {what}")))
}

pub(crate) fn present<T>(value: Option<T>, what: &str) -> StoreResult<T> {
    value.ok_or_else(|| StoreError::Corrupt(format!("no {what}")))
}

/// The columns that say how far a payment has come, as both ledgers keep them.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateColumns {
    pub(crate) state: String,
    pub(crate) slot_signer: Option<Vec<u8>>,
    pub(crate) slot_nonce: Option<i64>,
    pub(crate) transaction: Option<Vec<u8>>,
    pub(crate) reason: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) block_number: Option<i64>,
    pub(crate) block_hash: Option<Vec<u8>>,
    pub(crate) log_index: Option<i64>,
    pub(crate) level: Option<String>,
    pub(crate) gas_used: Option<i64>,
    pub(crate) cost: Option<String>,
}

impl StateColumns {
    /// The columns of a state.
    pub(crate) fn of(state: &SettlementState) -> StoreResult<Self> {
        let named = Self {
            state: state.kind().as_str().to_owned(),
            ..Self::default()
        };
        Ok(match state {
            SettlementState::Accepted | SettlementState::Expired | SettlementState::Withdrawn => {
                named
            }
            SettlementState::Assigned { slot, transaction } => Self {
                slot_signer: Some(slot.signer.to_vec()),
                slot_nonce: Some(signed(slot.nonce.0, "an account nonce")?),
                transaction: transaction.map(|hash| hash.to_vec()),
                ..named
            },
            SettlementState::Preconfirmed {
                slot,
                transaction,
                log_index,
            } => Self {
                slot_signer: Some(slot.signer.to_vec()),
                slot_nonce: Some(signed(slot.nonce.0, "an account nonce")?),
                transaction: Some(transaction.to_vec()),
                log_index: Some(signed(*log_index, "a log index")?),
                level: Some(Level::Preconfirmed.as_str().to_owned()),
                ..named
            },
            SettlementState::Unexplained { slot, transaction } => Self {
                slot_signer: Some(slot.signer.to_vec()),
                slot_nonce: Some(signed(slot.nonce.0, "an account nonce")?),
                transaction: transaction.map(|hash| hash.to_vec()),
                ..named
            },
            SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
                Self {
                    transaction: Some(receipt.transaction.to_vec()),
                    block_number: Some(signed(receipt.block.number, "a block number")?),
                    block_hash: Some(receipt.block.hash.to_vec()),
                    log_index: Some(signed(receipt.log_index, "a log index")?),
                    level: Some(receipt.level.as_str().to_owned()),
                    gas_used: Some(signed(receipt.gas_used, "gas")?),
                    cost: Some(receipt.cost.to_string()),
                    ..named
                }
            }
            SettlementState::Failed {
                refusal,
                transaction,
            } => Self {
                transaction: transaction.map(|hash| hash.to_vec()),
                reason: Some(refusal.reason.as_str().to_owned()),
                // Postgres has no text with a zero character in it.
                detail: Some(refusal.detail.replace('\0', "")),
                ..named
            },
        })
    }

    fn state(self, chain: ChainId) -> StoreResult<SettlementState> {
        let kind: SettlementStateKind = read(&self.state, "state")?;
        Ok(match kind {
            SettlementStateKind::Accepted => SettlementState::Accepted,
            SettlementStateKind::Expired => SettlementState::Expired,
            SettlementStateKind::Withdrawn => SettlementState::Withdrawn,
            SettlementStateKind::Assigned => SettlementState::Assigned {
                slot: self.slot(chain)?,
                transaction: self.transaction.as_deref().map(word).transpose()?,
            },
            SettlementStateKind::Preconfirmed => SettlementState::Preconfirmed {
                slot: self.slot(chain)?,
                transaction: word(&present(self.transaction, "transaction")?)?,
                log_index: unsigned(present(self.log_index, "log index")?)?,
            },
            SettlementStateKind::Unexplained => SettlementState::Unexplained {
                slot: self.slot(chain)?,
                transaction: self.transaction.as_deref().map(word).transpose()?,
            },
            SettlementStateKind::Settled => SettlementState::Settled(self.receipt()?),
            SettlementStateKind::SettledExternally => {
                SettlementState::SettledExternally(self.receipt()?)
            }
            SettlementStateKind::Failed => SettlementState::Failed {
                refusal: Refusal::new(
                    read(&present(self.reason, "reason")?, "reason")?,
                    self.detail.unwrap_or_default(),
                ),
                transaction: self.transaction.as_deref().map(word).transpose()?,
            },
        })
    }

    fn slot(&self, chain: ChainId) -> StoreResult<SlotId> {
        Ok(SlotId {
            chain,
            signer: address(present(self.slot_signer.as_deref(), "signer")?)?,
            nonce: AccountNonce(unsigned(present(self.slot_nonce, "slot")?)?),
        })
    }

    fn receipt(self) -> StoreResult<Receipt> {
        Ok(Receipt {
            transaction: word(&present(self.transaction, "transaction")?)?,
            block: BlockRef {
                number: unsigned(present(self.block_number, "block")?)?,
                hash: word(&present(self.block_hash, "block hash")?)?,
            },
            log_index: unsigned(present(self.log_index, "log index")?)?,
            level: read(&present(self.level, "level")?, "level")?,
            gas_used: unsigned(present(self.gas_used, "gas")?)?,
            cost: read(&present(self.cost, "cost")?, "cost")?,
        })
    }
}

/// The transaction that may be told of a payment: while it is in a slot, the newest attempt that carries it and that an
/// endpoint was handed.
macro_rules! told_transaction {
    () => {
        "CASE WHEN s.state = 'assigned' THEN \
         (SELECT a.hash FROM attempts AS a WHERE a.chain_id = s.chain_id AND a.signer = s.slot_signer \
         AND a.nonce = s.slot_nonce AND a.kind = 'batch' AND a.handed_over_at IS NOT NULL \
         ORDER BY a.position DESC LIMIT 1) ELSE s.transaction_hash END"
    };
}
pub(crate) use told_transaction;

/// The columns that [`settlement`] reads, in its order; `$amount` says how a decimal column becomes text.
macro_rules! settlement_columns {
    ($text:literal) => {
        concat!(
            "s.id, s.tenant, s.version, s.chain_id, s.authority, s.payer, s.nonce, s.asset, s.payee, s.value", $text,
            ", s.valid_after", $text, ", s.valid_before", $text,
            ", s.authorization_kind, s.signature_kind, s.signature, s.factory, s.factory_calldata, s.permitted", $text,
            ", s.facilitator, s.token_permit, s.token_approval, s.digest, s.tries, s.accepted_at, s.updated_at, s.state, ",
            "s.slot_signer, s.slot_nonce, ", $crate::rows::told_transaction!(), ", s.reason, s.detail, s.block_number, s.block_hash, ",
            "s.log_index, s.level, s.gas_used, s.cost", $text,
            ", s.told, s.told_transaction, s.told_level, s.told_reason, s.told_at, s.attribution"
        )
    };
}
pub(crate) use settlement_columns;

/// The columns that [`attempt`] reads; `$raw` is `a.raw`, or nothing for those who will not send it.
macro_rules! attempt_columns {
    ($text:literal, $raw:literal) => {
        concat!(
            "a.nonce, a.hash, ",
            $raw,
            ", a.kind, a.max_fee_per_gas",
            $text,
            ", a.max_priority_fee_per_gas",
            $text,
            ", a.gas_limit"
        )
    };
}
pub(crate) use attempt_columns;

/// Bounds that both drivers' rows meet.
macro_rules! readable {
    ($vis:vis fn $name:ident<$r:lifetime>($columns:ident) -> $out:ty $body:block) => {
        $vis fn $name<$r, R>($columns: &mut Columns<$r, R>) -> StoreResult<$out>
        where
            R: Row,
            usize: ColumnIndex<R>,
            Uuid: Decode<$r, R::Database> + Type<R::Database>,
            i64: Decode<$r, R::Database> + Type<R::Database>,
            String: Decode<$r, R::Database> + Type<R::Database>,
            Vec<u8>: Decode<$r, R::Database> + Type<R::Database>,
            Option<i64>: Decode<$r, R::Database> + Type<R::Database>,
            Option<String>: Decode<$r, R::Database> + Type<R::Database>,
            Option<Vec<u8>>: Decode<$r, R::Database> + Type<R::Database>,
        $body
    };
}

readable! {
    pub(crate) fn settlement<'r>(columns) -> Settlement {
        let id = SettlementId(columns.take()?);
        let tenant: String = columns.take()?;
        let version = unsigned(columns.take()?)?;
        let chain = ChainId(unsigned(columns.take()?)?);
        let key = AuthorizationKey {
            chain,
            authority: address(&columns.take::<Vec<u8>>()?)?,
            payer: address(&columns.take::<Vec<u8>>()?)?,
            nonce: AuthorizationNonce(word(&columns.take::<Vec<u8>>()?)?),
        };
        let asset = address(&columns.take::<Vec<u8>>()?)?;
        let payee = address(&columns.take::<Vec<u8>>()?)?;
        let value: AssetAmount = read(&columns.take::<String>()?, "amount")?;
        let valid_after: U256 = read(&columns.take::<String>()?, "moment")?;
        let void_from: U512 = read(&columns.take::<String>()?, "moment")?;
        let authorization = AuthorizationColumns {
            kind: columns.take()?,
            signature_kind: columns.take()?,
            signature: columns.take()?,
            factory: columns.take()?,
            factory_calldata: columns.take()?,
            permitted: columns.take()?,
            facilitator: columns.take()?,
            token_permit: columns.take()?,
            token_approval: columns.take()?,
        }
        .read(key.payer, asset, value)?;
        let validity = present(authorization.validity(valid_after, void_from), "moment")?;
        let digest = PaymentDigest(word(&columns.take::<Vec<u8>>()?)?);
        let tries = u32::try_from(columns.take::<i64>()?)
            .map_err(|_| StoreError::Corrupt("too many tries".to_owned()))?;
        let accepted_at = UnixMillis(unsigned(columns.take()?)?);
        let updated_at = UnixMillis(unsigned(columns.take()?)?);
        let state = StateColumns {
            state: columns.take()?,
            slot_signer: columns.take()?,
            slot_nonce: columns.take()?,
            transaction: columns.take()?,
            reason: columns.take()?,
            detail: columns.take()?,
            block_number: columns.take()?,
            block_hash: columns.take()?,
            log_index: columns.take()?,
            level: columns.take()?,
            gas_used: columns.take()?,
            cost: columns.take()?,
        };
        let told = told(columns)?;
        let attribution: Option<Vec<u8>> = columns.take()?;
        Ok(Settlement {
            id,
            tenant: TenantId::new(&tenant),
            version: present(X402Version::from_number(version), "version")?,
            payment: Payment { key, asset, payee, value, validity, authorization },
            attribution: attribution.unwrap_or_default().into(),
            digest,
            state: state.state(chain)?,
            told,
            tries,
            accepted_at,
            updated_at,
        })
    }
}

readable! {
    fn told<'r>(columns) -> Option<Told> {
        let told: Option<String> = columns.take()?;
        let transaction: Option<Vec<u8>> = columns.take()?;
        let level: Option<String> = columns.take()?;
        let reason: Option<String> = columns.take()?;
        let at: Option<i64> = columns.take()?;
        let Some(told) = told else { return Ok(None) };
        let at = UnixMillis(unsigned(present(at, "moment")?)?);
        Ok(Some(if told == TOLD_FAILURE {
            Told::Failure { reason: read(&present(reason, "reason")?, "reason")?, at }
        } else {
            Told::Success {
                transaction: word(&present(transaction, "transaction")?)?,
                level: read(&present(level, "level")?, "level")?,
                at,
            }
        }))
    }
}

// From `state, transaction_hash, block_number, block_hash, gas_used, cost, level`.
readable! {
    pub(crate) fn slot_state<'r>(columns) -> SlotState {
        let state: String = columns.take()?;
        let transaction: Option<Vec<u8>> = columns.take()?;
        let number: Option<i64> = columns.take()?;
        let hash: Option<Vec<u8>> = columns.take()?;
        let gas_used: Option<i64> = columns.take()?;
        let cost: Option<String> = columns.take()?;
        let level: Option<String> = columns.take()?;
        if state == OPEN {
            return Ok(SlotState::Open);
        }
        let end = match transaction {
            None => SlotEnd::Foreign,
            Some(transaction) => SlotEnd::Mined {
                transaction: word(&transaction)?,
                gas_used: unsigned(present(gas_used, "gas")?)?,
                cost: read(&present(cost, "cost")?, "cost")?,
            },
        };
        let block = BlockRef {
            number: unsigned(present(number, "block")?)?,
            hash: word(&present(hash, "block hash")?)?,
        };
        Ok(SlotState::Closed { end, block, level: read(&present(level, "level")?, "level")? })
    }
}

readable! {
    pub(crate) fn attempt<'r>(columns) -> (AccountNonce, Attempt) {
        let nonce = AccountNonce(unsigned(columns.take()?)?);
        let hash = word(&columns.take::<Vec<u8>>()?)?;
        let raw = Bytes::from(columns.take::<Vec<u8>>()?);
        let kind = match columns.take::<String>()?.as_str() {
            NO_OP => AttemptKind::NoOp,
            TOP_UP => AttemptKind::TopUp,
            _ => AttemptKind::Batch,
        };
        let fees = Fees {
            max_fee_per_gas: read(&columns.take::<String>()?, "fee")?,
            max_priority_fee_per_gas: read(&columns.take::<String>()?, "fee")?,
        };
        let gas_limit = unsigned(columns.take()?)?;
        Ok((nonce, Attempt { hash, raw, kind, fees, gas_limit }))
    }
}

/// In which state a payment begins: one that charges nothing has its outcome at once.
pub(crate) fn first_state(payment: &Payment) -> SettlementState {
    match payment.charges_nothing() {
        true => SettlementState::Settled(Receipt::NOTHING),
        false => SettlementState::Accepted,
    }
}

/// What stands behind the calldata; nothing is NULL.
pub(crate) fn attribution_column(new: &crate::NewSettlement) -> Option<Vec<u8>> {
    (!new.attribution.is_empty()).then(|| new.attribution.to_vec())
}

/// Accepted just now: what [`settlement`] would read.
pub(crate) fn accepted(new: &crate::NewSettlement, at: UnixMillis) -> Settlement {
    Settlement {
        id: new.id,
        tenant: new.tenant.clone(),
        version: new.version,
        payment: new.payment.clone(),
        attribution: new.attribution.clone(),
        digest: new.payment.digest(),
        state: first_state(&new.payment),
        told: None,
        tries: 0,
        accepted_at: at,
        updated_at: at,
    }
}

/// What an idempotency key is stored as: 32 bytes that do not tell the key.
pub(crate) fn key_hash(parts: &[&str]) -> B256 {
    let mut hasher = alloy_primitives::Keccak256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

/// What a payment is to an open slot that it is or was in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Assigned or preconfirmed.
    Assigned,
    /// Failed or expired, with this as its last slot.
    Ended,
}

/// An open slot's own row.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) nonce: AccountNonce,
    pub(crate) opened_at: UnixMillis,
    pub(crate) after: Option<BlockRef>,
}

/// Open slots from their rows, all sorted by nonce.
pub(crate) fn assemble(
    chain: ChainId,
    signer: Address,
    opened: Vec<Opened>,
    attempts: Vec<(AccountNonce, Attempt)>,
    payments: Vec<(AccountNonce, SettlementId, Part)>,
) -> Vec<Slot> {
    let mut slots: Vec<Slot> = opened
        .into_iter()
        .map(|opened| Slot {
            id: SlotId {
                chain,
                signer,
                nonce: opened.nonce,
            },
            state: SlotState::Open,
            opened_at: opened.opened_at,
            after: opened.after,
            attempts: Vec::new(),
            payments: Vec::new(),
            ended: Vec::new(),
        })
        .collect();
    for (nonce, attempt) in attempts {
        if let Some(slot) = slot_at(&mut slots, nonce) {
            slot.attempts.push(attempt);
        }
    }
    for (nonce, payment, part) in payments {
        if let Some(slot) = slot_at(&mut slots, nonce) {
            match part {
                Part::Assigned => slot.payments.push(payment),
                Part::Ended => slot.ended.push(payment),
            }
        }
    }
    slots
}

fn slot_at(slots: &mut [Slot], nonce: AccountNonce) -> Option<&mut Slot> {
    let index = slots
        .binary_search_by_key(&nonce, |slot| slot.id.nonce)
        .ok()?;
    slots.get_mut(index)
}
