//! The payloads of EVM payments (PROTOCOL sections 3.1, 3.6, 3.8 and 4). Kinds are told apart by their members, not by
//! `assetTransferMethod`; one that contradicts the other is refused.

use alloy_primitives::{Address, Bytes, U256};

use crate::field;
use crate::fields::{Fields, Found, Problem};
use crate::json::Object;
use crate::request::{AssetTransferMethod, Eip3009Payload, Fault, Version, read_eip3009};

/// The longest permission context that is read: a body's limit decides before this does.
pub const MAX_PERMISSION_CONTEXT_BYTES: usize = 16 * 1024;

/// What the payer signed, whichever way it pays.
#[derive(Debug, Clone)]
pub enum EvmPayload {
    /// A transfer authorization of the token itself.
    Eip3009(Eip3009Payload),
    /// A permit for a proxy, for `exact` or `upto`.
    Permit2(Permit2Payload),
    /// A delegation.
    Erc7710(Erc7710Payload),
}

impl EvmPayload {
    /// Whose money it is.
    pub fn payer(&self) -> Address {
        match self {
            Self::Eip3009(payload) => payload.from,
            Self::Permit2(payload) => payload.from,
            Self::Erc7710(payload) => payload.delegator,
        }
    }
}

/// A signed Permit2 permit with its witness.
#[derive(Clone)]
pub struct Permit2Payload {
    /// `from`: the owner, which is not part of what is signed.
    pub from: Address,
    /// `permitted.token`
    pub token: Address,
    /// `permitted.amount`
    pub amount: U256,
    /// `spender`
    pub spender: Address,
    /// `nonce`
    pub nonce: U256,
    /// `deadline`, seconds since 1970
    pub deadline: U256,
    /// `witness.to`
    pub to: Address,
    /// `witness.facilitator`: there under `upto`, not read under `exact`.
    pub facilitator: Option<Address>,
    /// `witness.validAfter`, seconds since 1970
    pub valid_after: U256,
    /// The signature, of any length.
    pub signature: Bytes,
}

/// Whoever holds the signature can move the money, so it is not printed.
impl std::fmt::Debug for Permit2Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit2Payload")
            .field("from", &self.from)
            .field("token", &self.token)
            .field("amount", &self.amount)
            .field("spender", &self.spender)
            .field("to", &self.to)
            .field("nonce", &self.nonce)
            .finish_non_exhaustive()
    }
}

/// A delegation to redeem.
#[derive(Clone)]
pub struct Erc7710Payload {
    /// `delegationManager`
    pub manager: Address,
    /// `delegator`
    pub delegator: Address,
    /// `permissionContext`, opaque.
    pub permission_context: Bytes,
}

/// A context holds signatures.
impl std::fmt::Debug for Erc7710Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Erc7710Payload")
            .field("manager", &self.manager)
            .field("delegator", &self.delegator)
            .finish_non_exhaustive()
    }
}

/// The scheme of an EVM payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EvmScheme {
    /// `exact`
    Exact,
    /// `upto`
    Upto,
}

impl EvmScheme {
    /// The scheme's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Upto => "upto",
        }
    }

    /// The scheme of this name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "exact" => Some(Self::Exact),
            "upto" => Some(Self::Upto),
            _ => None,
        }
    }

    /// What it is called when the seller demands this scheme and the buyer chose another one, with a payload of the
    /// kind `sent`.
    pub fn mismatch(self, sent: Option<AssetTransferMethod>) -> Fault {
        match (self, sent) {
            (Self::Upto, _) => Fault::UptoSchemeMismatch,
            // The reference calls a permit under another scheme than `exact` another kind of payload.
            (Self::Exact, Some(AssetTransferMethod::Permit2)) => Fault::PayloadKind,
            (Self::Exact, _) => Fault::SchemeMismatch,
        }
    }

    /// What it is called when a member of the payload is missing or malformed.
    pub fn malformed(self) -> Fault {
        match self {
            Self::Exact => Fault::Payload,
            // The reference calls a payload of `upto` with a member missing another kind of payload.
            Self::Upto => Fault::PayloadKind,
        }
    }
}

/// Which ways of paying are served beside `exact` with EIP-3009.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// `exact` with Permit2.
    pub permit2: bool,
    /// `upto`.
    pub upto: bool,
    /// `exact` with ERC-7710.
    pub erc7710: bool,
}

/// Why a payload of this kind is not taken; either is a [`Fault::PayloadKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongKind {
    /// Nobody can pay so here.
    NotServed,
    /// The seller wants the asset to move in another way.
    NotDemanded,
}

impl Served {
    /// What of it a version has: version 1 has neither Permit2 nor any other scheme.
    pub fn in_version(self, version: Version) -> Self {
        match version {
            Version::V1 => Self::default(),
            Version::V2 => self,
        }
    }

    /// Whether a seller can demand this scheme.
    pub fn has(self, scheme: EvmScheme) -> bool {
        scheme == EvmScheme::Exact || self.upto
    }

    /// Checks the kind of a payload against what is served and what the seller demands.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn check(
        self,
        scheme: EvmScheme,
        sent: AssetTransferMethod,
        demanded: Option<AssetTransferMethod>,
    ) -> Result<(), WrongKind> {
        let is_served = match (sent, scheme) {
            (AssetTransferMethod::Permit2, EvmScheme::Exact) => self.permit2,
            (AssetTransferMethod::Permit2, EvmScheme::Upto) => self.upto,
            (AssetTransferMethod::Erc7710, _) => scheme == EvmScheme::Exact && self.erc7710,
            (AssetTransferMethod::Eip3009, _) => scheme == EvmScheme::Exact,
            (AssetTransferMethod::Other, _) => false,
        };
        if !is_served {
            return Err(WrongKind::NotServed);
        }
        match demanded.is_some_and(|method| method != sent) {
            true => Err(WrongKind::NotDemanded),
            false => Ok(()),
        }
    }
}

/// The kind of a payload, by its members.
pub(crate) fn kind_of(payload: &Object<'_>) -> AssetTransferMethod {
    if payload.get("permit2Authorization").is_some() {
        AssetTransferMethod::Permit2
    } else if payload.get("delegationManager").is_some() {
        AssetTransferMethod::Erc7710
    } else {
        AssetTransferMethod::Eip3009
    }
}

pub(crate) fn read(
    fields: &Fields<'_, '_>,
    scheme: EvmScheme,
    demanded: Option<AssetTransferMethod>,
    served: Served,
) -> Found<EvmPayload> {
    let kind = kind_of(fields.object);
    served
        .check(scheme, kind, demanded)
        .map_err(|wrong| match wrong {
            WrongKind::NotServed => Problem(
                Fault::PayloadKind,
                format!("{} is of a kind that is not supported", fields.at()),
            ),
            WrongKind::NotDemanded => Problem(
                Fault::PayloadKind,
                "paymentRequirements.extra.assetTransferMethod is not the payload's kind".into(),
            ),
        })?;
    match kind {
        AssetTransferMethod::Permit2 => read_permit2(fields, scheme)
            .map(EvmPayload::Permit2)
            .map_err(|Problem(_, detail)| Problem(scheme.malformed(), detail)),
        AssetTransferMethod::Erc7710 => read_erc7710(fields).map(EvmPayload::Erc7710),
        AssetTransferMethod::Eip3009 | AssetTransferMethod::Other => {
            read_eip3009(fields).map(EvmPayload::Eip3009)
        }
    }
}

fn read_permit2(fields: &Fields<'_, '_>, scheme: EvmScheme) -> Found<Permit2Payload> {
    let signed = fields.object("permit2Authorization")?;
    let permitted = signed.object("permitted")?;
    let witness = signed.object("witness")?;
    Ok(Permit2Payload {
        from: signed.hex("from", field::address)?,
        token: permitted.hex("token", field::address)?,
        amount: permitted.number("amount", field::unsigned)?,
        spender: signed.hex("spender", field::address)?,
        nonce: signed.number("nonce", field::unsigned)?,
        deadline: signed.number("deadline", field::unsigned)?,
        to: witness.hex("to", field::address)?,
        facilitator: match scheme {
            EvmScheme::Exact => None,
            EvmScheme::Upto => Some(witness.hex("facilitator", field::address)?),
        },
        valid_after: witness.number("validAfter", field::unsigned)?,
        signature: fields.hex("signature", field::signature)?,
    })
}

fn read_erc7710(fields: &Fields<'_, '_>) -> Found<Erc7710Payload> {
    Ok(Erc7710Payload {
        manager: fields.hex("delegationManager", field::address)?,
        delegator: fields.hex("delegator", field::address)?,
        permission_context: fields.hex("permissionContext", field::permission_context)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Json, parse};

    #[test]
    fn a_kind_that_is_not_served_is_named_once() {
        let Ok(Json::Object(sent)) = parse(br#"{"permit2Authorization": {}}"#) else {
            panic!("an object")
        };
        let fields = Fields::of(&sent, "paymentPayload.payload", Fault::Payload);
        let Problem(fault, detail) =
            read(&fields, EvmScheme::Exact, None, Served::default()).unwrap_err();
        assert_eq!(fault, Fault::PayloadKind);
        assert_eq!(
            detail,
            "paymentPayload.payload is of a kind that is not supported"
        );
    }
}
