//! Every reason that teller gives for a "no", each named once.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// A machine-readable reason: `invalidReason` of a verify answer, `errorReason` of a settle answer.
        ///
        /// The codes are those of the official TypeScript packages where these have one (PROTOCOL section 3.2); the
        /// rest are teller's own and say so.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code on the wire, in the ledger, in metrics.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }

        impl FromStr for Reason {
            type Err = UnknownReason;

            fn from_str(code: &str) -> Result<Self, UnknownReason> {
                match code {
                    $($code => Ok(Self::$name),)*
                    _ => Err(UnknownReason),
                }
            }
        }
    };
}

/// A code that is none of teller's reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason")]
pub struct UnknownReason;

reasons! {
    /// The payload or the request body has the wrong shape.
    InvalidPayload = "invalid_payload",
    /// The payment requirements have the wrong shape.
    InvalidPaymentRequirements = "invalid_payment_requirements",
    /// Neither 1 nor 2, or two versions that disagree.
    InvalidX402Version = "invalid_x402_version",
    /// A network in the wrong form for the version, or one that teller does not serve.
    InvalidNetwork = "invalid_network",
    /// A scheme that teller does not serve.
    UnsupportedScheme = "unsupported_scheme",
    /// A payload kind that teller does not serve.
    UnsupportedPayloadType = "unsupported_payload_type",
    /// The schemes of payload and requirements differ.
    SchemeMismatch = "invalid_exact_evm_scheme",
    /// `extra.name` or `extra.version` is missing.
    MissingEip712Domain = "invalid_exact_evm_missing_eip712_domain",
    /// The networks of payload and requirements differ.
    NetworkMismatch = "invalid_exact_evm_network_mismatch",
    /// An asset that the operator has not configured (teller's own).
    AssetNotAllowed = "asset_not_allowed",
    /// The tenant may not use this network or asset, or a party is on the deny-list (teller's own).
    PolicyRefused = "policy_refused",
    /// The payer or the payee is one of teller's own signers (teller's own).
    FacilitatorIsParty = "facilitator_is_party",
    /// The signature is malformed, not the payer's, or over other data.
    InvalidSignature = "invalid_exact_evm_signature",
    /// The payer has code, a contract or an EIP-7702 delegation, which teller does not serve yet (teller's own).
    PayerHasCode = "payer_has_code_not_supported",
    /// The authorization pays somebody else.
    RecipientMismatch = "invalid_exact_evm_recipient_mismatch",
    /// The authorization expires too soon to be settled.
    ValidBefore = "invalid_exact_evm_payload_authorization_valid_before",
    /// The authorization is not valid yet.
    ValidAfter = "invalid_exact_evm_payload_authorization_valid_after",
    /// The authorized value is not the required one (x402 v2).
    ValueMismatch = "invalid_exact_evm_payload_authorization_value_mismatch",
    /// The authorized value is not the required one (x402 v1).
    ValueMismatchV1 = "invalid_exact_evm_authorization_value",
    /// No contract at the asset's address.
    AssetNotDeployed = "asset_not_deployed_contract",
    /// The asset knows no EIP-3009.
    Eip3009NotSupported = "invalid_exact_evm_eip3009_not_supported",
    /// The authorization was used or cancelled before teller held it.
    NonceAlreadyUsed = "invalid_exact_evm_nonce_already_used",
    /// `extra.name` is not the asset's.
    TokenNameMismatch = "invalid_exact_evm_token_name_mismatch",
    /// `extra.version` is not the asset's.
    TokenVersionMismatch = "invalid_exact_evm_token_version_mismatch",
    /// The payer has too little, counting what is already reserved.
    InsufficientBalance = "invalid_exact_evm_insufficient_balance",
    /// The transfer would revert.
    SimulationFailed = "invalid_exact_evm_transaction_simulation_failed",
    /// The authorization is held for another request (teller's own).
    AuthorizationAlreadyReserved = "authorization_already_reserved",
    /// The transfer was mined and failed.
    TransactionFailed = "invalid_exact_evm_transaction_failed",
    /// The transfer was mined with another effect than the one that was signed.
    TransferEventMismatch = "invalid_exact_evm_transfer_event_mismatch",
    /// This payment's success was already delivered.
    DuplicateSettlement = "duplicate_settlement",
    /// Signed, perhaps sent, outcome not known yet: ask again.
    SettlementPending = "settlement_pending",
    /// Not signed in time; nothing was sent and nothing will be (teller's own).
    SettlementWithdrawn = "settlement_withdrawn",
    /// The authorization expired before it could be settled (teller's own).
    AuthorizationExpired = "authorization_expired",
    /// Gas stayed above the operator's ceiling until the deadline (teller's own).
    FeeCeilingExceeded = "fee_ceiling_exceeded",
    /// The operator's or the tenant's budget for gas was spent until the deadline (teller's own).
    GasBudgetExceeded = "gas_budget_exceeded",
    /// An `Idempotency-Key` was used for another payment (teller's own).
    IdempotencyKeyReused = "idempotency_key_reused",
    /// The buyer's payment identifier was used for another payment (teller's own).
    PaymentIdentifierReused = "payment_identifier_reused",
    /// Could not be checked: a node, a store or teller itself is out of order.
    UnexpectedVerifyError = "unexpected_verify_error",
    /// Could not be accepted: a node, a store or teller itself is out of order.
    UnexpectedSettleError = "unexpected_settle_error",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A "no" with its reason, and a sentence for people that holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// The machine-readable reason.
    pub reason: Reason,
    /// What exactly was wrong, at most a few hundred characters.
    pub detail: String,
}

impl Refusal {
    /// A refusal with this reason.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_is_unique_and_reads_back() {
        let codes: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
        }
    }
}
