//! `payment-identifier` (PROTOCOL section 7.3): the buyer's own id of a payment. It never replays a success.

use crate::fields::{Fields, Found};
use crate::json::Json;

const LENGTHS: std::ops::RangeInclusive<usize> = 16..=128;

/// The extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentIdentifier {
    /// Whether the seller wants an id.
    pub required: bool,
    /// The id; `None` if there is none, which is an error only where one is required.
    pub id: Option<String>,
}

impl PaymentIdentifier {
    /// An identifier that a caller gives outside of JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(id: &str) -> Result<Self, &'static str> {
        identifier(id).map(|id| Self {
            required: false,
            id: Some(id),
        })
    }

    pub(super) fn read(extension: &Fields<'_, '_>) -> Found<Option<Self>> {
        let Some(info) = extension.optional_object("info")? else {
            return Ok(None);
        };
        let required = match info.object.get("required") {
            None => false,
            Some(Json::Bool(required)) => *required,
            Some(_) => return Err(info.wrong("required", "must be true or false")),
        };
        let id = info.optional_hex("id", identifier)?;
        Ok(Some(Self { required, id }))
    }
}

fn identifier(text: &str) -> Result<String, &'static str> {
    let good = LENGTHS.contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if good {
        Ok(text.to_owned())
    } else {
        Err("must be 16 to 128 letters, digits, underscores and dashes")
    }
}
