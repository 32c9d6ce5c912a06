//! A settlement as its seller sees it, and the filters of a listing. No signature leaves through here.

use std::str::FromStr;

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};
use teller_domain::{
    ChainId, Compensation, Level, Receipt, Settlement, SettlementId, SettlementState, Told,
    v1_chain,
};
use teller_protocol::field;
use teller_store::SettlementQuery;

use crate::answer::ApiError;

/// How many settlements a page holds when nobody says.
const DEFAULT_LIMIT: u32 = 50;
/// How many it holds at most.
const MAX_LIMIT: u32 = 500;

/// One settlement in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettlementView {
    id: SettlementId,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<ToldView>,
    x402_version: u8,
    network: ChainId,
    scheme: &'static str,
    asset: String,
    payer: String,
    payee: String,
    amount: String,
    nonce: String,
    valid_after: String,
    valid_before: String,
    transaction: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
    tries: u32,
    accepted_at_ms: u64,
    updated_at_ms: u64,
}

/// What a caller was told last; the state and the level are what the chain says.
#[derive(Debug, Serialize)]
#[serde(
    tag = "outcome",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
enum ToldView {
    Success {
        transaction: B256,
        level: &'static str,
        at_ms: u64,
    },
    Failure {
        reason: &'static str,
        at_ms: u64,
    },
}

impl From<Told> for ToldView {
    fn from(told: Told) -> Self {
        match told {
            Told::Success {
                transaction,
                level,
                at,
            } => Self::Success {
                transaction,
                level: level.as_str(),
                at_ms: at.0,
            },
            Told::Failure { reason, at } => Self::Failure {
                reason: reason.as_str(),
                at_ms: at.0,
            },
        }
    }
}

/// One settlement with everything that went against what was told of it.
#[derive(Debug, Serialize)]
pub(crate) struct WholeView {
    #[serde(flatten)]
    settlement: SettlementView,
    compensations: Vec<CompensationView>,
}

impl WholeView {
    pub(crate) fn new(settlement: &Settlement, compensations: &[Compensation]) -> Self {
        Self {
            settlement: settlement.into(),
            compensations: compensations.iter().map(CompensationView::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CompensationView {
    sequence: u64,
    kind: &'static str,
    at_ms: u64,
}

impl From<&Compensation> for CompensationView {
    fn from(entry: &Compensation) -> Self {
        Self {
            sequence: entry.sequence,
            kind: entry.kind.as_str(),
            at_ms: entry.at.0,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptView {
    transaction: B256,
    block_number: u64,
    block_hash: B256,
    log_index: u64,
    level: &'static str,
    gas_used: u64,
    cost_wei: String,
}

/// A page of settlements in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct PageView {
    pub(crate) settlements: Vec<SettlementView>,
    pub(crate) more: bool,
}

/// The receipt, if there is one; what charged nothing has none.
pub(crate) fn receipt_of(state: &SettlementState) -> Option<&Receipt> {
    match state {
        SettlementState::Settled(Receipt::NOTHING) => None,
        SettlementState::Settled(receipt) | SettlementState::SettledExternally(receipt) => {
            Some(receipt)
        }
        SettlementState::Accepted
        | SettlementState::Assigned { .. }
        | SettlementState::Preconfirmed { .. }
        | SettlementState::Unexplained { .. }
        | SettlementState::Failed { .. }
        | SettlementState::Expired
        | SettlementState::Withdrawn => None,
    }
}

impl From<&Settlement> for SettlementView {
    fn from(settlement: &Settlement) -> Self {
        let payment = &settlement.payment;
        let refusal = settlement.state.refusal();
        Self {
            id: settlement.id,
            state: settlement.state.kind().as_str(),
            level: settlement.state.level().map(Level::as_str),
            told: settlement.told.map(ToldView::from),
            x402_version: settlement.version.number(),
            network: payment.key.chain,
            scheme: payment.scheme().as_str(),
            asset: payment.asset.to_string(),
            payer: payment.key.payer.to_string(),
            payee: payment.payee.to_string(),
            amount: payment.value.to_string(),
            nonce: payment.key.nonce.0.to_string(),
            valid_after: payment.validity.valid_after().to_string(),
            valid_before: payment.void_from().to_string(),
            transaction: settlement
                .state
                .transaction()
                .map(|hash| hash.to_string())
                .unwrap_or_default(),
            receipt: receipt_of(&settlement.state).map(|receipt| ReceiptView {
                transaction: receipt.transaction,
                block_number: receipt.block.number,
                block_hash: receipt.block.hash,
                log_index: receipt.log_index,
                level: receipt.level.as_str(),
                gas_used: receipt.gas_used,
                cost_wei: receipt.cost.to_string(),
            }),
            error_reason: refusal.as_ref().map(|refusal| refusal.reason.as_str()),
            error_message: refusal.map(|refusal| refusal.detail),
            tries: settlement.tries,
            accepted_at_ms: settlement.accepted_at.0,
            updated_at_ms: settlement.updated_at.0,
        }
    }
}

/// The filters of a listing as texts; an empty one does not count.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Filters {
    pub(crate) state: String,
    pub(crate) network: String,
    pub(crate) payer: String,
    pub(crate) nonce: String,
    pub(crate) transaction: String,
    pub(crate) before: String,
    pub(crate) limit: String,
}

impl Filters {
    pub(crate) fn query(&self) -> Result<SettlementQuery, ApiError> {
        let limit = given("limit", &self.limit, "must be 1 to 500", |text| {
            let limit: u32 = text.parse().ok()?;
            (1..=MAX_LIMIT).contains(&limit).then_some(limit)
        })?;
        Ok(SettlementQuery {
            tenant: None,
            chain: given(
                "network",
                &self.network,
                "must be eip155:<chain id> or a network name",
                |text| text.parse().ok().or_else(|| v1_chain(text)),
            )?,
            state: given("state", &self.state, "is no settlement state", parsed)?,
            payer: given("payer", &self.payer, "must be an address", |text| {
                field::address(text).ok()
            })?,
            nonce: given(
                "nonce",
                &self.nonce,
                "must be 0x and 64 hex digits",
                bytes32,
            )?,
            transaction: given(
                "transaction",
                &self.transaction,
                "must be 0x and 64 hex digits",
                bytes32,
            )?,
            before: given("before", &self.before, "must be a settlement's id", parsed)?,
            limit: limit.unwrap_or(DEFAULT_LIMIT),
        })
    }
}

pub(crate) fn given<T>(
    name: &str,
    text: &str,
    problem: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    match read(text) {
        Some(value) => Ok(Some(value)),
        None => Err(ApiError::BadRequest(format!("{name} {problem}"))),
    }
}

fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn bytes32(text: &str) -> Option<B256> {
    field::bytes32(text).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloy_primitives::{Address, U256};
    use serde_json::{Value, json};
    use teller_domain::{
        AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, BlockRef,
        CompensationKind, EcdsaSignature, Payment, Reason, SettlementStateKind, TenantId,
        UnixMillis, UnixSeconds, Validity, Wei, X402Version,
    };

    /// Settled at `safe` after success was told at `included` under another hash.
    pub(crate) fn settlement() -> Settlement {
        let asset = Address::repeat_byte(2);
        let payment = Payment {
            key: AuthorizationKey {
                chain: ChainId(84532),
                authority: asset,
                payer: Address::repeat_byte(1),
                nonce: AuthorizationNonce(B256::repeat_byte(4)),
            },
            asset,
            payee: Address::repeat_byte(3),
            value: AssetAmount(U256::from(10_000)),
            validity: Validity::between(UnixSeconds(0), UnixSeconds(99)),
            authorization: Authorization::Eip3009 {
                signature: EcdsaSignature {
                    r: B256::repeat_byte(0xee),
                    s: B256::repeat_byte(0xee),
                    v: 27,
                }
                .into(),
            },
        };
        Settlement {
            id: SettlementId::fresh(),
            tenant: TenantId::new("shop"),
            version: X402Version::V2,
            payment: payment.clone(),
            attribution: alloy_primitives::Bytes::new(),
            digest: payment.digest(),
            state: SettlementState::Settled(Receipt {
                transaction: B256::repeat_byte(5),
                block: BlockRef {
                    number: 7,
                    hash: B256::repeat_byte(6),
                },
                log_index: 1,
                level: Level::Safe,
                gas_used: 50_000,
                cost: Wei::from(9),
            }),
            told: Some(Told::Success {
                transaction: B256::repeat_byte(8),
                level: Level::Included,
                at: UnixMillis(1_234),
            }),
            tries: 1,
            accepted_at: UnixMillis(1),
            updated_at: UnixMillis(2),
        }
    }

    pub(crate) fn compensation(settlement: &Settlement) -> Compensation {
        Compensation {
            sequence: 3,
            settlement: settlement.id,
            tenant: settlement.tenant.clone(),
            kind: CompensationKind::SuccessTakenBack,
            at: UnixMillis(5_678),
        }
    }

    fn json_of(settlement: &Settlement) -> Value {
        serde_json::to_value(SettlementView::from(settlement)).unwrap()
    }

    #[test]
    fn what_was_told_is_shown_apart_from_what_the_chain_says() {
        let mut settlement = settlement();
        let json = json_of(&settlement);
        assert_eq!(
            (&json["state"], &json["level"]),
            (&json!("settled"), &json!("safe"))
        );
        assert_eq!(
            json["told"],
            json!({
                "outcome": "success",
                "transaction": B256::repeat_byte(8).to_string(),
                "level": "included",
                "atMs": 1_234,
            })
        );
        assert_eq!(json["transaction"], B256::repeat_byte(5).to_string());
        assert!(!json.to_string().contains("eeee"), "no signature");
        assert!(json.get("compensations").is_none());

        settlement.told = Some(Told::Failure {
            reason: Reason::GasBudgetExceeded,
            at: UnixMillis(9),
        });
        settlement.state = SettlementState::Expired;
        let json = json_of(&settlement);
        assert_eq!(
            json["told"],
            json!({"outcome": "failure", "reason": "gas_budget_exceeded", "atMs": 9})
        );
        assert!(json.get("level").is_none());
        settlement.told = None;
        assert!(json_of(&settlement).get("told").is_none());
    }

    #[test]
    fn a_single_settlement_comes_with_its_compensating_entries() {
        let settlement = settlement();
        let whole = WholeView::new(&settlement, &[compensation(&settlement)]);
        let json = serde_json::to_value(whole).unwrap();
        assert_eq!(json["id"], settlement.id.to_string());
        assert_eq!(
            json["compensations"],
            json!([{"sequence": 3, "kind": "success_taken_back", "atMs": 5_678}])
        );
        let whole = serde_json::to_value(WholeView::new(&settlement, &[])).unwrap();
        assert_eq!(whole["compensations"], json!([]));
    }

    #[test]
    fn every_state_can_be_asked_for() {
        for kind in SettlementStateKind::ALL {
            let filters = Filters {
                state: kind.as_str().to_owned(),
                ..Filters::default()
            };
            assert_eq!(filters.query().unwrap().state, Some(kind));
        }
    }
}
