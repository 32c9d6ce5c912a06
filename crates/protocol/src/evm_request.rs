//! The body of `/verify` and `/settle` for every EVM way of paying, with its extensions.

use alloy_primitives::Address;

use crate::discoverable::{self, Discoverable};
use crate::extensions::{Extension, Extensions};
use crate::field;
use crate::fields::{Fields, Found, Problem};
use crate::json::Object;
use crate::payloads::{self, EvmPayload, EvmScheme, Served};
use crate::request::{
    Fault, PaymentRequirements, ReadError, Version, read_body, read_requirements, read_version,
};
use crate::resource::Resource;

/// A payment and what it is to satisfy, as a seller's server sends them.
#[derive(Debug, Clone)]
pub struct EvmRequest {
    /// `paymentPayload.x402Version`
    pub version: Version,
    /// The scheme, of payload and requirements alike.
    pub scheme: EvmScheme,
    /// The network that the buyer chose.
    pub network: String,
    /// What the buyer signed.
    pub payload: EvmPayload,
    /// What the seller demands.
    pub requirements: PaymentRequirements,
    /// `requirements.extra.facilitatorAddress`
    pub facilitator_address: Option<Address>,
    /// `paymentPayload.resource`, as far as it is good.
    pub resource: Option<Resource>,
    /// `paymentPayload.extensions`
    pub extensions: Extensions,
    /// What is paid for, if it wants to be found.
    pub discoverable: Extension<Discoverable>,
}

impl EvmRequest {
    /// Reads a request body. Unknown members are ignored; `null` counts as absent.
    ///
    /// # Errors
    /// When the body cannot be read, or asks for a way of paying that is not among `served`. Malformed extensions
    /// are no error here: each says so itself.
    pub fn read(body: &[u8], served: Served) -> Result<Self, ReadError> {
        read_body(body, |body, payload, requirements| {
            read(body, payload, requirements, served)
        })
    }
}

fn read(
    body: &Object<'_>,
    payload: &Object<'_>,
    requirements: &Object<'_>,
    served: Served,
) -> Found<EvmRequest> {
    let version = read_version(body, payload)?;
    let served = served.in_version(version);
    let demanded = Fields::of(requirements, "paymentRequirements", Fault::Requirements);
    let scheme = EvmScheme::of(demanded.text("scheme")?)
        .filter(|scheme| served.has(*scheme))
        .ok_or_else(|| {
            let detail = "paymentRequirements.scheme is not supported";
            Problem(Fault::Scheme, detail.into())
        })?;
    let sent = Fields::of(payload, "paymentPayload", Fault::Payload);
    let chosen = match version {
        Version::V1 => sent.clone(),
        Version::V2 => sent.object("accepted")?,
    };
    if chosen.text("scheme")? != scheme.as_str() {
        let payload = sent.object("payload").ok();
        return Err(Problem(
            scheme.mismatch(payload.map(|payload| payloads::kind_of(payload.object))),
            format!("{} is not {}", chosen.path("scheme"), scheme.as_str()),
        ));
    }
    let network = chosen.text("network")?.to_owned();
    let requirements = read_requirements(version, &demanded)?;
    let facilitator_address = match demanded.optional_object("extra")? {
        Some(extra) => extra.optional_hex("facilitatorAddress", field::address)?,
        None => None,
    };
    let payload = payloads::read(
        &sent.object("payload")?,
        scheme,
        requirements.extra.asset_transfer_method,
        served,
    )?;
    let (resource, extensions, discoverable) = match version {
        Version::V1 => (
            None,
            Extensions::default(),
            discoverable::of_v1(demanded.object),
        ),
        Version::V2 => {
            let resource = sent.optional_object("resource")?;
            let extensions = match sent.optional_object("extensions")? {
                Some(extensions) => Extensions::read(&extensions),
                None => Extensions::default(),
            };
            let discoverable = discoverable::of_v2(&sent, demanded.object, &extensions.bazaar);
            (
                resource.and_then(|resource| Resource::read(resource.object)),
                extensions,
                discoverable,
            )
        }
    };
    Ok(EvmRequest {
        version,
        scheme,
        network,
        payload,
        requirements,
        facilitator_address,
        resource,
        extensions,
        discoverable,
    })
}
