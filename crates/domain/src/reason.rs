//! Every reason that teller gives for a "no", each named once.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// A machine-readable reason: `invalidReason` of a verify answer, `errorReason` of a settle answer.
        ///
        /// The codes are those of the official TypeScript packages where these have one (PROTOCOL sections 3.2, 3.7, 4, 7.1 and 7.2); the
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
    /// An `exact` payment of nothing, which would cost the operator gas and the payer not even a balance (teller's own).
    ZeroValuePayment = "zero_value_payment",
    /// The payer is the payee: nothing moves, and the operator pays the gas (teller's own).
    SelfPayment = "self_payment",
    /// The signature is malformed, not the payer's, or over other data.
    InvalidSignature = "invalid_exact_evm_signature",
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
    /// The spender is not the scheme's proxy.
    Permit2Spender = "invalid_permit2_spender",
    /// The witness pays somebody else.
    Permit2RecipientMismatch = "invalid_permit2_recipient_mismatch",
    /// The permit expires too soon to be settled.
    Permit2DeadlineExpired = "permit2_deadline_expired",
    /// The witness is not valid yet.
    Permit2NotYetValid = "permit2_not_yet_valid",
    /// The permitted amount is not the required one.
    Permit2AmountMismatch = "permit2_amount_mismatch",
    /// The permitted token is not the required asset.
    Permit2TokenMismatch = "permit2_token_mismatch",
    /// The signature is malformed, not the payer's, or over other data.
    Permit2InvalidSignature = "invalid_permit2_signature",
    /// No proxy at its address on this network.
    Permit2ProxyNotDeployed = "permit2_proxy_not_deployed",
    /// The payer has too little of the token.
    Permit2InsufficientBalance = "permit2_insufficient_balance",
    /// The payer has not approved Permit2 for the amount.
    Permit2AllowanceRequired = "permit2_allowance_required",
    /// The settlement would revert.
    Permit2SimulationFailed = "permit2_simulation_failed",
    /// The EIP-2612 permit is not for exactly the permitted amount.
    Permit2612AmountMismatch = "permit2_2612_amount_mismatch",
    /// The proxy or Permit2 refused the amount.
    Permit2InvalidAmount = "permit2_invalid_amount",
    /// The proxy refused the recipient.
    Permit2InvalidDestination = "permit2_invalid_destination",
    /// The proxy refused the payer.
    Permit2InvalidOwner = "permit2_invalid_owner",
    /// The proxy found the witness not valid yet.
    Permit2PaymentTooEarly = "permit2_payment_too_early",
    /// The Permit2 nonce was used or invalidated.
    Permit2InvalidNonce = "permit2_invalid_nonce",
    /// The schemes of payload and requirements are not both `upto`.
    UptoSchemeMismatch = "invalid_upto_evm_scheme",
    /// The networks of payload and requirements differ (`upto`).
    UptoNetworkMismatch = "invalid_upto_evm_network_mismatch",
    /// The witness names another facilitator.
    UptoFacilitatorMismatch = "upto_facilitator_mismatch",
    /// More is to be settled than was permitted.
    UptoSettlementExceedsAmount = "invalid_upto_evm_payload_settlement_exceeds_amount",
    /// The transfer was mined and failed (`upto`).
    UptoTransactionFailed = "invalid_upto_evm_transaction_failed",
    /// The proxy refused more than was permitted.
    UptoAmountExceedsPermitted = "upto_amount_exceeds_permitted",
    /// The proxy was not called by the facilitator that the witness names.
    UptoUnauthorizedFacilitator = "upto_unauthorized_facilitator",
    /// The factory of a counterfactual wallet is not on the allow-list.
    FactoryNotAllowed = "eip6492_factory_not_allowed",
    /// The payer's wallet could not be deployed.
    WalletDeploymentFailed = "smart_wallet_deployment_failed",
    /// `eip2612GasSponsoring` has the wrong shape.
    Eip2612Format = "invalid_eip2612_extension_format",
    /// The EIP-2612 permit is not the payer's.
    Eip2612FromMismatch = "eip2612_from_mismatch",
    /// The EIP-2612 permit is for another token.
    Eip2612AssetMismatch = "eip2612_asset_mismatch",
    /// The EIP-2612 permit is not for Permit2.
    Eip2612SpenderNotPermit2 = "eip2612_spender_not_permit2",
    /// The EIP-2612 permit expires too soon.
    Eip2612DeadlineExpired = "eip2612_deadline_expired",
    /// The EIP-2612 signature is not the payer's (teller's own; the reference leaves it to the simulation).
    Eip2612InvalidSignature = "eip2612_invalid_signature",
    /// `erc20ApprovalGasSponsoring` has the wrong shape.
    ApprovalFormat = "invalid_erc20_approval_extension_format",
    /// The approval is not the payer's.
    ApprovalFromMismatch = "erc20_approval_from_mismatch",
    /// The approval is for another token.
    ApprovalAssetMismatch = "erc20_approval_asset_mismatch",
    /// The approval is not for Permit2.
    ApprovalSpenderNotPermit2 = "erc20_approval_spender_not_permit2",
    /// The signed transaction cannot be read.
    ApprovalTxParseFailed = "erc20_approval_tx_parse_failed",
    /// The signed transaction does not call the token.
    ApprovalTxWrongTarget = "erc20_approval_tx_wrong_target",
    /// The signed transaction does not call `approve`.
    ApprovalTxWrongSelector = "erc20_approval_tx_wrong_selector",
    /// The arguments of `approve` cannot be read.
    ApprovalTxInvalidCalldata = "erc20_approval_tx_invalid_calldata",
    /// The signed transaction approves somebody else than Permit2.
    ApprovalTxWrongSpender = "erc20_approval_tx_wrong_spender",
    /// No signer can be recovered from the signed transaction.
    ApprovalTxInvalidSignature = "erc20_approval_tx_invalid_signature",
    /// The signed transaction is somebody else's.
    ApprovalTxSignerMismatch = "erc20_approval_tx_signer_mismatch",
    /// The signed transaction is for another network (teller's own).
    ApprovalTxWrongChain = "erc20_approval_tx_wrong_chain",
    /// The signed transaction's nonce is not the payer's next one (teller's own).
    ApprovalTxWrongNonce = "erc20_approval_tx_wrong_nonce",
    /// The signed transaction sends native currency (teller's own).
    ApprovalTxValueNotZero = "erc20_approval_tx_value_not_zero",
    /// The signed transaction approves less than the payment (teller's own).
    ApprovalTxAmountTooLow = "erc20_approval_tx_amount_too_low",
    /// The signed transaction's gas limit is not one of an approval (teller's own).
    ApprovalTxGasLimit = "erc20_approval_tx_gas_limit",
    /// The signed transaction pays less than the network asks now (teller's own).
    ApprovalTxFeeTooLow = "erc20_approval_tx_fee_too_low",
    /// The payer lacks the gas, and teller's cap or its records forbid topping up.
    ApprovalInsufficientGas = "erc20_approval_insufficient_eth_for_gas",
    /// The approval was mined and failed.
    ApprovalTxFailed = "erc20_approval_tx_failed",
    /// The approval could not be sent.
    ApprovalBroadcastFailed = "erc20_approval_broadcast_failed",
    /// The delegation manager is not on the allow-list (teller's own).
    DelegationManagerNotAllowed = "erc7710_manager_not_allowed",
    /// The redemption would revert (teller's own).
    DelegationSimulationFailed = "erc7710_simulation_failed",
    /// The redemption does not move exactly the amount from the delegator to the payee (teller's own).
    DelegationTransferMismatch = "erc7710_transfer_mismatch",
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
