//! Reasons of the EVM payment kinds beyond EIP-3009: Permit2, `upto`, contract wallets, gas sponsoring, ERC-7710.
//!
//! They stand apart from [`Reason`](crate::Reason) until these kinds are served; none of the codes is in both.

use std::fmt;
use std::str::FromStr;

use crate::UnknownReason;

macro_rules! evm_reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// A machine-readable reason of an EVM payment kind. The codes are those of the official TypeScript packages
        /// where these have one (PROTOCOL sections 3.7, 4, 7.1 and 7.2); the rest are teller's own and say so.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EvmReason {
            $($(#[$doc])* $name,)*
        }

        impl EvmReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }

        impl FromStr for EvmReason {
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

evm_reasons! {
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

impl fmt::Display for EvmReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;
    use std::collections::HashSet;

    #[test]
    fn no_code_is_used_twice_here_or_among_the_other_reasons() {
        let ours = EvmReason::ALL.iter().map(|reason| reason.as_str());
        let codes: HashSet<_> = Reason::ALL.iter().map(|r| r.as_str()).chain(ours).collect();
        assert_eq!(codes.len(), Reason::ALL.len() + EvmReason::ALL.len());
        for reason in EvmReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
        }
    }
}
