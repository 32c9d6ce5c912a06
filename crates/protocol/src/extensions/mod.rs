//! What stands in `paymentPayload.extensions` (PROTOCOL section 7). An extension that is malformed does not make the
//! payment unreadable: what that means is decided where the extension is used.

mod bazaar;
mod builder_code;
mod gas_sponsoring;
mod payment_identifier;

use crate::fields::{Fields, Found, Problem};

pub use bazaar::{
    Bazaar, BazaarInput, BodyType, HttpMethod, MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, McpTransport,
    route_template,
};
pub use builder_code::{BuilderCodeInfo, MAX_SENT_SERVICES};
pub use gas_sponsoring::{
    Eip2612GasSponsoring, Erc20ApprovalGasSponsoring, MAX_SIGNED_TRANSACTION_BYTES,
};
pub use payment_identifier::PaymentIdentifier;

/// Ids of the extensions that are read, as `/supported` lists them.
pub mod ids {
    /// Payers without gas, by EIP-2612.
    pub const EIP2612_GAS_SPONSORING: &str = "eip2612GasSponsoring";
    /// Payers without gas, by a signed approval.
    pub const ERC20_APPROVAL_GAS_SPONSORING: &str = "erc20ApprovalGasSponsoring";
    /// The buyer's id of a payment.
    pub const PAYMENT_IDENTIFIER: &str = "payment-identifier";
    /// Discovery.
    pub const BAZAAR: &str = "bazaar";
    /// Attribution.
    pub const BUILDER_CODE: &str = "builder-code";
}

/// One extension of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Extension<T> {
    /// Not there, or not far enough there to count.
    #[default]
    Absent,
    /// There and wrong: which field, and what is wrong with it, never its value.
    Malformed(String),
    /// There.
    Present(T),
}

impl<T> Extension<T> {
    /// The extension, if it is there and good.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(extension) => Some(extension),
            Self::Absent | Self::Malformed(_) => None,
        }
    }

    pub(crate) fn of(found: Found<Option<T>>) -> Self {
        match found {
            Ok(Some(extension)) => Self::Present(extension),
            Ok(None) => Self::Absent,
            Err(Problem(_, detail)) => Self::Malformed(detail),
        }
    }
}

/// The extensions of a request.
#[derive(Debug, Clone, Default)]
pub struct Extensions {
    /// `eip2612GasSponsoring`
    pub eip2612_gas_sponsoring: Extension<Eip2612GasSponsoring>,
    /// `erc20ApprovalGasSponsoring`
    pub erc20_approval_gas_sponsoring: Extension<Erc20ApprovalGasSponsoring>,
    /// `payment-identifier`
    pub payment_identifier: Extension<PaymentIdentifier>,
    /// `bazaar`
    pub bazaar: Extension<Bazaar>,
    /// `builder-code`
    pub builder_code: Extension<BuilderCodeInfo>,
}

impl Extensions {
    pub(crate) fn read(extensions: &Fields<'_, '_>) -> Self {
        fn one<'o, 'a, T>(
            extensions: &Fields<'o, 'a>,
            id: &str,
            read: impl FnOnce(&Fields<'o, 'a>) -> Found<Option<T>>,
        ) -> Extension<T> {
            match extensions.optional_object(id) {
                Ok(Some(extension)) => Extension::of(read(&extension)),
                Ok(None) => Extension::Absent,
                Err(problem) => Extension::of(Err(problem)),
            }
        }
        Self {
            eip2612_gas_sponsoring: one(
                extensions,
                ids::EIP2612_GAS_SPONSORING,
                Eip2612GasSponsoring::read,
            ),
            erc20_approval_gas_sponsoring: one(
                extensions,
                ids::ERC20_APPROVAL_GAS_SPONSORING,
                Erc20ApprovalGasSponsoring::read,
            ),
            payment_identifier: one(extensions, ids::PAYMENT_IDENTIFIER, PaymentIdentifier::read),
            bazaar: one(extensions, ids::BAZAAR, Bazaar::read),
            builder_code: one(extensions, ids::BUILDER_CODE, BuilderCodeInfo::read),
        }
    }
}
