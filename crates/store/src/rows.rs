//! Between rows and domain types, once for both ledgers.

use alloy_primitives::{Address, B256, Bytes};
use sqlx::{ColumnIndex, Decode, Row, Type};
use teller_domain::{
    AccountNonce, AssetAmount, Attempt, AttemptKind, Authorization, AuthorizationKey,
    AuthorizationNonce, BlockRef, ChainId, EcdsaSignature, Fees, Payment, PaymentDigest, Receipt,
    Refusal, Settlement, SettlementId, SettlementState, SettlementStateKind, Slot, SlotId,
    SlotState, TenantId, UnixMillis, UnixSeconds, X402Version,
};
use uuid::Uuid;

use crate::{StoreError, StoreResult};

/// The one kind of authorization there is.
pub(crate) const EIP3009: &str = "eip3009";
/// [`SlotState::Open`](teller_domain::SlotState::Open) in the ledger.
pub(crate) const NO_OP: &str = "noop";

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

fn read<T: std::str::FromStr>(text: &str, what: &str) -> StoreResult<T> {
    text.parse()
        .map_err(|_| StoreError::Corrupt(format!("an unknown {what}")))
}

fn present<T>(value: Option<T>, what: &str) -> StoreResult<T> {
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
                transaction: Some(transaction.to_vec()),
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
                slot: SlotId {
                    chain,
                    signer: address(&present(self.slot_signer, "signer")?)?,
                    nonce: AccountNonce(unsigned(present(self.slot_nonce, "slot")?)?),
                },
                transaction: word(&present(self.transaction, "transaction")?)?,
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

/// The columns that [`settlement`] reads, in its order; `$amount` says how a decimal column becomes text.
macro_rules! settlement_columns {
    ($text:literal) => {
        concat!(
            "s.id, s.tenant, s.version, s.chain_id, s.authority, s.payer, s.nonce, s.asset, s.payee, s.value", $text,
            ", s.valid_after", $text, ", s.valid_before", $text,
            ", s.authorization_kind, s.signature, s.digest, s.tries, s.accepted_at, s.updated_at, s.state, ",
            "s.slot_signer, s.slot_nonce, s.transaction_hash, s.reason, s.detail, s.block_number, s.block_hash, ",
            "s.log_index, s.level, s.gas_used, s.cost", $text
        )
    };
}
pub(crate) use settlement_columns;

/// The columns that [`attempt`] reads, behind `chain_id, signer, nonce` for grouping.
macro_rules! attempt_columns {
    ($text:literal) => {
        concat!(
            "a.nonce, a.hash, a.raw, a.kind, a.max_fee_per_gas",
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
        let valid_after = UnixSeconds(read(&columns.take::<String>()?, "moment")?);
        let valid_before = UnixSeconds(read(&columns.take::<String>()?, "moment")?);
        let kind: String = columns.take()?;
        let signature: Vec<u8> = columns.take()?;
        let authorization = match kind.as_str() {
            EIP3009 => Authorization::Eip3009 {
                signature: present(EcdsaSignature::from_bytes(&signature), "signature")?,
            },
            _ => return Err(StoreError::Corrupt("an unknown kind of authorization".to_owned())),
        };
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
        Ok(Settlement {
            id,
            tenant: TenantId::new(&tenant),
            version: present(X402Version::from_number(version), "version")?,
            payment: Payment { key, asset, payee, value, valid_after, valid_before, authorization },
            digest,
            state: state.state(chain)?,
            tries,
            accepted_at,
            updated_at,
        })
    }
}

readable! {
    pub(crate) fn attempt<'r>(columns) -> (AccountNonce, Attempt) {
        let nonce = AccountNonce(unsigned(columns.take()?)?);
        let hash = word(&columns.take::<Vec<u8>>()?)?;
        let raw = Bytes::from(columns.take::<Vec<u8>>()?);
        let kind = match columns.take::<String>()?.as_str() {
            NO_OP => AttemptKind::NoOp,
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

/// Accepted just now: what [`settlement`] would read.
pub(crate) fn accepted(new: &crate::NewSettlement, at: UnixMillis) -> Settlement {
    Settlement {
        id: new.id,
        tenant: new.tenant.clone(),
        version: new.version,
        payment: new.payment,
        digest: new.payment.digest(),
        state: SettlementState::Accepted,
        tries: 0,
        accepted_at: at,
        updated_at: at,
    }
}

/// The signature's bytes with the name of their kind.
pub(crate) fn authorization_columns(authorization: &Authorization) -> (&'static str, Vec<u8>) {
    match authorization {
        Authorization::Eip3009 { signature } => (EIP3009, signature.to_bytes().to_vec()),
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

/// Slots from their attempts and payments, both sorted by nonce.
pub(crate) fn assemble(
    chain: ChainId,
    signer: Address,
    attempts: Vec<(AccountNonce, Attempt)>,
    payments: Vec<(AccountNonce, SettlementId)>,
) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    for (nonce, attempt) in attempts {
        match slots.last_mut().filter(|slot| slot.id.nonce == nonce) {
            Some(slot) => slot.attempts.push(attempt),
            None => slots.push(Slot {
                id: SlotId {
                    chain,
                    signer,
                    nonce,
                },
                state: SlotState::Open,
                attempts: vec![attempt],
                payments: Vec::new(),
            }),
        }
    }
    for (nonce, payment) in payments {
        if let Ok(index) = slots.binary_search_by_key(&nonce, |slot| slot.id.nonce)
            && let Some(slot) = slots.get_mut(index)
        {
            slot.payments.push(payment);
        }
    }
    slots
}
