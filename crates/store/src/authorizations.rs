//! The columns that say how a payer authorized a payment, as both ledgers keep them.

use alloy_primitives::{Address, Bytes};
use teller_domain::{
    Allowance, AssetAmount, Authorization, Counterfactual, Delegation, EcdsaSignature,
    PayerSignature, Permit2, PermitTerms, TokenApproval, TokenPermit,
};

use crate::rows::{address, present, read};
use crate::{StoreError, StoreResult};

/// EIP-3009.
const EIP3009: &str = "eip3009";
/// Permit2 under `exact`.
const PERMIT2: &str = "permit2";
/// Permit2 under `upto`.
const UPTO: &str = "upto";
/// A delegation.
const ERC7710: &str = "erc7710";

/// [`PayerSignature::Ecdsa`]
const ECDSA: &str = "ecdsa";
/// [`PayerSignature::Contract`]
const CONTRACT: &str = "contract";
/// [`PayerSignature::Counterfactual`]
const COUNTERFACTUAL: &str = "counterfactual";

/// An [`Authorization`] in columns.
pub(crate) struct AuthorizationColumns {
    pub(crate) kind: String,
    pub(crate) signature_kind: String,
    pub(crate) signature: Vec<u8>,
    pub(crate) factory: Option<Vec<u8>>,
    pub(crate) factory_calldata: Option<Vec<u8>>,
    pub(crate) permitted: Option<String>,
    pub(crate) facilitator: Option<Vec<u8>>,
    pub(crate) token_permit: Option<Vec<u8>>,
    pub(crate) token_approval: Option<Vec<u8>>,
}

impl AuthorizationColumns {
    pub(crate) fn of(authorization: &Authorization) -> Self {
        let (kind, terms, allowance) = match authorization {
            Authorization::Eip3009 { .. } => (EIP3009, None, None),
            Authorization::Permit2(permit) => {
                let kind = match permit.terms {
                    PermitTerms::Exact => PERMIT2,
                    PermitTerms::Upto { .. } => UPTO,
                };
                (kind, Some(permit.terms), permit.allowance.as_deref())
            }
            Authorization::Erc7710(_) => (ERC7710, None, None),
        };
        let (token_permit, token_approval) = match allowance {
            None => (None, None),
            Some(Allowance::Permit(permit)) => (Some(permit.to_bytes().to_vec()), None),
            Some(Allowance::Approval(approval)) => (None, Some(approval.transaction.to_vec())),
        };
        let (permitted, facilitator) = match (terms, authorization) {
            (
                Some(PermitTerms::Upto {
                    facilitator,
                    permitted,
                }),
                _,
            ) => (Some(permitted.to_string()), Some(facilitator.to_vec())),
            (_, Authorization::Erc7710(delegation)) => (None, Some(delegation.delegate.to_vec())),
            (Some(PermitTerms::Exact) | None, _) => (None, None),
        };
        let signature = authorization.signature();
        let (signature_kind, factory, factory_calldata) = match signature {
            PayerSignature::Ecdsa { .. } => (ECDSA, None, None),
            PayerSignature::Contract(_) => (CONTRACT, None, None),
            PayerSignature::Counterfactual(new) => (
                COUNTERFACTUAL,
                Some(new.factory.to_vec()),
                Some(new.factory_calldata.to_vec()),
            ),
        };
        Self {
            kind: kind.to_owned(),
            signature_kind: signature_kind.to_owned(),
            signature: signature.to_bytes().to_vec(),
            factory,
            factory_calldata,
            permitted,
            facilitator,
            token_permit,
            token_approval,
        }
    }

    /// The authorization of a payment by this payer of this asset and value.
    pub(crate) fn read(
        self,
        payer: Address,
        asset: Address,
        value: AssetAmount,
    ) -> StoreResult<Authorization> {
        let signature = match self.signature_kind.as_str() {
            ECDSA => present(EcdsaSignature::from_bytes(&self.signature), "signature")?.into(),
            CONTRACT => PayerSignature::Contract(self.signature.into()),
            COUNTERFACTUAL => Counterfactual {
                factory: address(&present(self.factory, "factory")?)?,
                factory_calldata: Bytes::from(present(self.factory_calldata, "factory calldata")?),
                signature: self.signature.into(),
            }
            .into(),
            _ => return Err(corrupt("an unknown kind of signature")),
        };
        let terms = match self.kind.as_str() {
            EIP3009 => return Ok(Authorization::Eip3009 { signature }),
            ERC7710 => {
                let delegate = address(&present(self.facilitator, "delegate")?)?;
                let delegation = Delegation::new(signature.to_bytes(), delegate);
                let delegation = delegation.map_err(|_| corrupt("a permission context"))?;
                return Ok(Authorization::Erc7710(delegation.into()));
            }
            PERMIT2 => PermitTerms::Exact,
            UPTO => PermitTerms::Upto {
                facilitator: address(&present(self.facilitator, "facilitator")?)?,
                permitted: read(&present(self.permitted, "permitted amount")?, "amount")?,
            },
            _ => return Err(corrupt("an unknown kind of authorization")),
        };
        let permitted = match terms {
            PermitTerms::Exact => value,
            PermitTerms::Upto { permitted, .. } => permitted,
        };
        let allowance = match (self.token_permit, self.token_approval) {
            (None, None) => None,
            (Some(bytes), None) => {
                let read = TokenPermit::of_checked(payer, asset, permitted, &bytes);
                Some(Allowance::Permit(present(read, "token permit")?))
            }
            (None, Some(transaction)) => {
                let approval = TokenApproval::of_checked(payer, asset, transaction.into());
                Some(Allowance::Approval(approval))
            }
            (Some(_), Some(_)) => return Err(corrupt("a permit and an approval")),
        };
        Ok(Authorization::Permit2(Box::new(Permit2 {
            terms,
            signature,
            allowance: allowance.map(Box::new),
        })))
    }
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}
