//! What a message offers for the discovery catalogue: the extension bazaar, which only version 2 has.

use serde_json::{Map, Value, json};
use teller_protocol::extensions::Extension;
use teller_protocol::{Discoverable, EvmScheme, Offer, OfferedResource};

use super::request;
use crate::proto;

/// The resource that is paid for, if it wants to be found.
pub(super) fn offered(
    payload: Option<&proto::PaymentPayload>,
    requirements: Option<&proto::PaymentRequirements>,
) -> Extension<Discoverable> {
    let (Some(payload), Some(requirements)) = (payload, requirements) else {
        return Extension::Absent;
    };
    let extensions = payload.extensions.as_ref();
    let Some(bazaar) = extensions.and_then(|sent| sent.bazaar.as_ref()) else {
        return Extension::Absent;
    };
    if payload.x402_version() != proto::X402Version::V2 {
        return Extension::Absent;
    }
    let resource = payload.resource.as_ref();
    let offer = Offer {
        resource: resource.map(|resource| OfferedResource {
            url: &resource.url,
            description: &resource.description,
            mime_type: &resource.mime_type,
            service_name: &resource.service_name,
            tags: &resource.tags,
            icon_url: &resource.icon_url,
        }),
        info: &bazaar.info_json,
        schema: &bazaar.schema_json,
        route_template: &bazaar.route_template,
        requirements: &listed(requirements).to_string(),
    };
    offer.read("payment_payload")
}

/// The requirements as REST has them: whoever reads the catalogue speaks JSON.
fn listed(demanded: &proto::PaymentRequirements) -> Value {
    let method = match demanded.asset_transfer_method() {
        proto::AssetTransferMethod::Unspecified => "",
        proto::AssetTransferMethod::Eip3009 => "eip3009",
        proto::AssetTransferMethod::Permit2 => "permit2",
        proto::AssetTransferMethod::Erc7710 => "erc7710",
    };
    let extra: Map<String, Value> = [
        ("name", demanded.eip712_name.as_str()),
        ("version", &demanded.eip712_version),
        ("assetTransferMethod", method),
        ("facilitatorAddress", &demanded.facilitator_address),
    ]
    .into_iter()
    .filter(|(_, text)| !text.is_empty())
    .map(|(name, text)| (name.to_owned(), text.into()))
    .collect();
    json!({
        "scheme": request::scheme(demanded.scheme()).map(EvmScheme::as_str),
        "network": demanded.network,
        "amount": demanded.amount,
        "asset": demanded.asset,
        "payTo": demanded.pay_to,
        "maxTimeoutSeconds": demanded.max_timeout_seconds,
        "extra": extra,
    })
}
