//! What a facilitator answers (PROTOCOL sections 1.4 and 8).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Texts that are known at compile time when teller writes them and owned when a client reads them.
type Text = Cow<'static, str>;

/// The answer to `/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyResponse {
    /// Whether the payment is good and held.
    pub is_valid: bool,
    /// The reason, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_reason: Option<Text>,
    /// The reason in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_message: Option<String>,
    /// Whose money it is; `""` if unknown, never absent.
    #[serde(default)]
    pub payer: String,
    /// Only with a status of 400 and above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The answer to `/settle`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettleResponse {
    /// Whether the money has moved and this answer may say so.
    pub success: bool,
    /// The reason, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<Text>,
    /// The reason in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Hash of the transaction; `""` when there is none, never null.
    pub transaction: String,
    /// The network in the form of the request, never null.
    pub network: String,
    /// Whose money it is; `""` if unknown, never absent.
    #[serde(default)]
    pub payer: String,
    /// How much was charged; only under `upto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// Only with a status of 400 and above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a client has to know to use a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SupportedExtra {
    /// The one account that settles `upto`, or redeems delegations, on this network.
    pub facilitator_address: String,
    /// Under `exact`: the managers whose delegations are taken (ERC-7710).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation_managers: Vec<String>,
}

/// One thing that the facilitator can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SupportedKind {
    /// 1 or 2
    pub x402_version: u8,
    /// The scheme.
    pub scheme: Text,
    /// A concrete network: a name in version 1, CAIP-2 in version 2.
    pub network: String,
    /// Where something has to be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<SupportedExtra>,
}

/// The answer to `/supported`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SupportedResponse {
    /// Everything that is offered, both versions in one list.
    pub kinds: Vec<SupportedKind>,
    /// Ids of extensions.
    #[serde(default)]
    pub extensions: Vec<Text>,
    /// Addresses that settle, by CAIP-2 pattern.
    #[serde(default)]
    pub signers: BTreeMap<String, Vec<String>>,
}
