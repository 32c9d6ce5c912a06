//! The body of `/verify` and `/settle` (PROTOCOL sections 1.2 to 1.4 and 3.1).

use alloy_primitives::{Address, B256, Bytes, U256};

use crate::field;
use crate::fields::{Fields, Found, Problem};
use crate::json::{self, Json, Object};

/// The protocol version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Networks are names, the amount is `maxAmountRequired`, scheme and network stand in the payload itself.
    V1,
    /// Networks are CAIP-2 ids, the payload carries what the buyer `accepted`.
    V2,
}

/// A signed EIP-3009 authorization.
#[derive(Clone)]
pub struct Eip3009Payload {
    /// `from`
    pub from: Address,
    /// `to`
    pub to: Address,
    /// `value`
    pub value: U256,
    /// `validAfter`, seconds since 1970
    pub valid_after: U256,
    /// `validBefore`, seconds since 1970
    pub valid_before: U256,
    /// `nonce`
    pub nonce: B256,
    /// The signature, of any length.
    pub signature: Bytes,
}

/// Whoever holds the signature can move the money, so it is not printed.
impl std::fmt::Debug for Eip3009Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eip3009Payload")
            .field("from", &self.from)
            .field("to", &self.to)
            .field("value", &self.value)
            .field("nonce", &self.nonce)
            .finish_non_exhaustive()
    }
}

/// What the seller demands.
#[derive(Debug, Clone)]
pub struct PaymentRequirements {
    /// `scheme`
    pub scheme: String,
    /// `network`: CAIP-2 in version 2, a name in version 1.
    pub network: String,
    /// `amount` in version 2, `maxAmountRequired` in version 1; atomic units.
    pub amount: U256,
    /// `asset`
    pub asset: Address,
    /// `payTo`
    pub pay_to: Address,
    /// `maxTimeoutSeconds`; 0 is allowed.
    pub max_timeout_seconds: u64,
    /// `extra`; empty if it is absent.
    pub extra: Extra,
}

/// The known members of `extra`. An empty text counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// EIP-712 name of the token.
    pub name: Option<String>,
    /// EIP-712 version of the token.
    pub version: Option<String>,
    /// How the seller wants the asset to move.
    pub asset_transfer_method: Option<AssetTransferMethod>,
}

/// `extra.assetTransferMethod`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssetTransferMethod {
    /// `eip3009`, the default.
    Eip3009,
    /// `permit2`
    Permit2,
    /// `erc7710`
    Erc7710,
    /// One that is not known.
    Other,
}

/// What kind of "cannot read" it is: each has its own reason and some their own HTTP status (PROTOCOL section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not JSON, or without `paymentPayload` and `paymentRequirements` as objects.
    Body,
    /// `x402Version` is neither 1 nor 2, or the two of them differ.
    Version,
    /// The scheme that the seller demands is not served.
    Scheme,
    /// The buyer used another scheme than the seller demands, which is `exact`.
    SchemeMismatch,
    /// The buyer used another scheme than the seller demands, which is `upto`.
    UptoSchemeMismatch,
    /// A payload kind that is not served, or not the one that the seller demands.
    PayloadKind,
    /// `paymentPayload` is malformed.
    Payload,
    /// `paymentRequirements` is malformed.
    Requirements,
}

/// A request that cannot be read, with as much of it as an answer needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ReadError {
    /// What kind.
    pub fault: Fault,
    /// For people: names the field, never repeats its value.
    pub detail: String,
    /// The payer, if it could be read.
    pub payer: Option<Address>,
    /// The network as the request named it; `""` if it did not.
    pub network: String,
}

/// Opens a body and hands `paymentPayload` and `paymentRequirements` to `read`; an error gets the answer's context.
pub(crate) fn read_body<T>(
    body: &[u8],
    read: impl FnOnce(&Object<'_>, &Object<'_>, &Object<'_>) -> Found<T>,
) -> Result<T, ReadError> {
    let bare = |detail: String| ReadError {
        fault: Fault::Body,
        detail,
        payer: None,
        network: String::new(),
    };
    let body = match json::parse(body).map_err(|error| bare(error.to_string()))? {
        Json::Object(body) => body,
        _ => return Err(bare("the body must be a JSON object".into())),
    };
    let member = |key: &str| match body.get(key) {
        Some(Json::Object(object)) => Ok(object),
        Some(_) => Err(bare(format!("{key} must be an object"))),
        None => Err(bare(format!("{key} is missing"))),
    };
    let payload = member("paymentPayload")?;
    let requirements = member("paymentRequirements")?;
    read(&body, payload, requirements).map_err(|Problem(fault, detail)| ReadError {
        fault,
        detail,
        payer: payer_of(payload),
        network: network_of(payload, requirements),
    })
}

pub(crate) fn read_version(body: &Object<'_>, payload: &Object<'_>) -> Found<Version> {
    let wrong = |detail: &str| Problem(Fault::Version, detail.into());
    let number = |json: &Json<'_>| match json {
        Json::Number("1") => Some(Version::V1),
        Json::Number("2") => Some(Version::V2),
        _ => None,
    };
    let version = payload
        .get("x402Version")
        .and_then(number)
        .ok_or_else(|| wrong("paymentPayload.x402Version must be 1 or 2"))?;
    match body.get("x402Version") {
        Some(declared) if number(declared) != Some(version) => {
            Err(wrong("x402Version differs from paymentPayload.x402Version"))
        }
        _ => Ok(version),
    }
}

pub(crate) fn read_requirements(
    version: Version,
    fields: &Fields<'_, '_>,
) -> Found<PaymentRequirements> {
    let amount = match version {
        Version::V1 => "maxAmountRequired",
        Version::V2 => "amount",
    };
    Ok(PaymentRequirements {
        scheme: fields.text("scheme")?.to_owned(),
        network: fields.text("network")?.to_owned(),
        amount: fields.number(amount, field::unsigned)?,
        asset: fields.hex("asset", field::address)?,
        pay_to: fields.hex("payTo", field::address)?,
        max_timeout_seconds: fields.number("maxTimeoutSeconds", field::unsigned_64)?,
        extra: match fields.optional_object("extra")? {
            None => Extra::default(),
            Some(extra) => Extra {
                name: extra.optional_text("name")?,
                version: extra.optional_text("version")?,
                asset_transfer_method: extra.optional_text("assetTransferMethod")?.map(|method| {
                    match method.as_str() {
                        "eip3009" => AssetTransferMethod::Eip3009,
                        "permit2" => AssetTransferMethod::Permit2,
                        "erc7710" => AssetTransferMethod::Erc7710,
                        _ => AssetTransferMethod::Other,
                    }
                }),
            },
        },
    })
}

pub(crate) fn read_eip3009(fields: &Fields<'_, '_>) -> Found<Eip3009Payload> {
    let signed = fields.object("authorization")?;
    Ok(Eip3009Payload {
        from: signed.hex("from", field::address)?,
        to: signed.hex("to", field::address)?,
        value: signed.number("value", field::unsigned)?,
        valid_after: signed.number("validAfter", field::unsigned)?,
        valid_before: signed.number("validBefore", field::unsigned)?,
        nonce: signed.hex("nonce", field::bytes32)?,
        signature: fields.hex("signature", field::signature)?,
    })
}

/// The payer of a payload that is otherwise unreadable.
pub(crate) fn payer_of(payload: &Object<'_>) -> Option<Address> {
    let Some(Json::Object(payload)) = payload.get("payload") else {
        return None;
    };
    if let Some(Json::String(delegator)) = payload.get("delegator") {
        return field::address(delegator).ok();
    }
    let signed = ["authorization", "permit2Authorization"]
        .into_iter()
        .find_map(|key| match payload.get(key) {
            Some(Json::Object(signed)) => Some(signed),
            _ => None,
        })?;
    match signed.get("from") {
        Some(Json::String(from)) => field::address(from).ok(),
        _ => None,
    }
}

/// The network to echo: as the requirements name it, else as the payload does. Cut to 100 characters.
pub(crate) fn network_of(payload: &Object<'_>, requirements: &Object<'_>) -> String {
    let accepted = match payload.get("accepted") {
        Some(Json::Object(accepted)) => accepted.get("network"),
        _ => None,
    };
    [
        requirements.get("network"),
        accepted,
        payload.get("network"),
    ]
    .into_iter()
    .flatten()
    .find_map(|network| match network {
        Json::String(network) => Some(network.chars().take(100).collect()),
        _ => None,
    })
    .unwrap_or_default()
}
