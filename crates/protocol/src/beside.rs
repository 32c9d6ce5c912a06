//! What a request carries beside its payment: the buyer's id of it, and what the paid resource says of itself for the
//! discovery catalogue (PROTOCOL sections 7.3 and 7.4). None of it decides whether a payment is good.

use crate::extensions::{
    Bazaar, BazaarInput, Extension, Extensions, HttpMethod, PaymentIdentifier, ids,
};
use crate::fields::{Fields, Found};
use crate::json::{Json, Object};
use crate::request::{Fault, Version, read_body, read_version};
use crate::resource::Resource;

/// The longest payment requirements that are listed, as JSON text.
const MAX_REQUIREMENTS_BYTES: usize = 8 * 1024;
/// Where version 1 has its discovery data.
const OUTPUT_SCHEMA: &str = "outputSchema";

/// What stands beside the payment.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// The buyer's id of the payment.
    pub payment_identifier: Extension<PaymentIdentifier>,
    /// What was paid for, if it wants to be found.
    pub discoverable: Extension<Discoverable>,
}

/// A resource that wants to be found. Everything in it is the client's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discoverable {
    /// The protocol version that it speaks.
    pub version: Version,
    /// What the catalogue knows it by: its URL without query and fragment, or its route.
    pub url: String,
    /// What it says of itself.
    pub resource: Resource,
    /// The tool, if it is one of an MCP server.
    pub tool: Option<String>,
    /// `info` and `schema` of the bazaar extension, of which the first must satisfy the second; version 1 has neither.
    pub claim: Option<Claim>,
    /// `paymentRequirements` as JSON, as the seller sent them.
    pub requirements: String,
}

/// What a resource says of its input and output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// `info` as JSON.
    pub info: String,
    /// `schema` as JSON.
    pub schema: String,
    /// The whole extension as the catalogue shows it.
    pub listed: String,
}

impl Beside {
    /// Reads what there is in the body of a request that could be read. Bodies that do not name any of it are not parsed
    /// again.
    pub fn read(body: &[u8]) -> Self {
        let names = [ids::PAYMENT_IDENTIFIER, ids::BAZAAR, OUTPUT_SCHEMA];
        if !names.iter().any(|name| contains(body, name.as_bytes())) {
            return Self::default();
        }
        // What cannot be read was refused when the payment was read.
        read_body(body, read).unwrap_or_default()
    }
}

fn contains(body: &[u8], name: &[u8]) -> bool {
    body.windows(name.len()).any(|part| part == name)
}

fn read(body: &Object<'_>, payload: &Object<'_>, requirements: &Object<'_>) -> Found<Beside> {
    match read_version(body, payload)? {
        Version::V1 => Ok(Beside {
            payment_identifier: Extension::Absent,
            discoverable: Extension::of(output_schema(requirements)),
        }),
        Version::V2 => {
            let sent = Fields::of(payload, "paymentPayload", Fault::Payload);
            let Some(extensions) = sent.optional_object("extensions")? else {
                return Ok(Beside::default());
            };
            let read = Extensions::read(&extensions);
            let discoverable = match read.bazaar {
                Extension::Absent => Extension::Absent,
                Extension::Malformed(detail) => Extension::Malformed(detail),
                Extension::Present(bazaar) => Extension::of(offered(&sent, requirements, bazaar)),
            };
            Ok(Beside {
                payment_identifier: read.payment_identifier,
                discoverable,
            })
        }
    }
}

/// What the extension says, with the resource and the requirements that stand beside it.
pub(crate) fn offered(
    sent: &Fields<'_, '_>,
    requirements: &Object<'_>,
    bazaar: Bazaar,
) -> Found<Option<Discoverable>> {
    let tool = match &bazaar.input {
        BazaarInput::Http { .. } => None,
        BazaarInput::Mcp { tool_name, .. } => Some(tool_name.clone()),
    };
    let claim = Claim {
        listed: bazaar.listed(),
        info: bazaar.info,
        schema: bazaar.schema,
    };
    let wrong = || sent.wrong("resource", "must have an http or https url");
    let found = sent.object("resource")?;
    let resource = Resource::read(found.object).ok_or_else(wrong)?;
    // A route belongs to HTTP; a tool's URL is its server's.
    let template = bazaar.route_template.as_deref();
    let template = template.filter(|_| tool.is_none());
    Ok(Some(Discoverable {
        version: Version::V2,
        url: resource.catalogue_key(template).ok_or_else(wrong)?,
        resource,
        tool,
        claim: Some(claim),
        requirements: listed(requirements)?,
    }))
}

/// `outputSchema.input` of version 1; absent unless it is there and discoverable.
fn output_schema(requirements: &Object<'_>) -> Found<Option<Discoverable>> {
    let demanded = Fields::of(requirements, "paymentRequirements", Fault::Requirements);
    let Some(schema) = demanded.optional_object(OUTPUT_SCHEMA)? else {
        return Ok(None);
    };
    let Some(input) = schema.optional_object("input")? else {
        return Ok(None);
    };
    match input.object.get("discoverable") {
        None | Some(Json::Bool(true)) => {}
        Some(Json::Bool(false)) => return Ok(None),
        Some(_) => return Err(input.wrong("discoverable", "must be true or false")),
    }
    if input.text("type")? != "http" {
        return Err(input.wrong("type", "must be http"));
    }
    input.hex("method", HttpMethod::of)?;
    let wrong = || demanded.wrong("resource", "must be an http or https URL");
    let resource = Resource::read_v1(requirements).ok_or_else(wrong)?;
    Ok(Some(Discoverable {
        version: Version::V1,
        url: resource.catalogue_key(None).ok_or_else(wrong)?,
        resource,
        tool: None,
        claim: None,
        requirements: listed(requirements)?,
    }))
}

fn listed(requirements: &Object<'_>) -> Found<String> {
    let text = requirements.to_string();
    if text.len() > MAX_REQUIREMENTS_BYTES {
        let whole = Fields::of(requirements, "paymentRequirements", Fault::Requirements);
        return Err(whole.wrong("extra", "makes the requirements longer than 8192 bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn v2(extensions: Value) -> Value {
        json!({
            "paymentPayload": {
                "x402Version": 2,
                "accepted": {},
                "payload": {},
                "resource": {"url": "https://a.example/users/7?key=secret#x", "description": "d", "tags": ["t"]},
                "extensions": extensions,
            },
            "paymentRequirements": {"amount": "010", "extra": {"big": 123456789012345678901234567890_u128.to_string()}},
        })
    }

    fn v1(output_schema: Value) -> Value {
        json!({
            "paymentPayload": {"x402Version": 1, "payload": {}},
            "paymentRequirements": {
                "resource": "https://a.example/w?x", "description": "d", "mimeType": "text/plain", "outputSchema": output_schema,
            },
        })
    }

    fn read(body: &Value) -> Beside {
        Beside::read(body.to_string().as_bytes())
    }

    fn http() -> Value {
        json!({"info": {"input": {"type": "http", "method": "GET"}}, "schema": {}})
    }

    #[test]
    fn a_v2_resource_is_known_by_its_url_without_its_query_or_by_its_route() {
        let found = read(&v2(json!({"bazaar": http()}))).discoverable;
        let found = found.present().unwrap();
        assert_eq!(found.url, "https://a.example/users/7");
        assert_eq!(found.resource.tags, ["t"]);
        assert_eq!((found.version, &found.tool), (Version::V2, &None));
        assert!(found.requirements.contains(r#""amount":"010""#));
        let mut routed = http();
        routed["routeTemplate"] = json!("/users/:id");
        let claim = |value: &Value| {
            let found = read(&v2(json!({"bazaar": value}))).discoverable;
            found.present().cloned().unwrap()
        };
        let found = claim(&routed);
        assert_eq!(found.url, "https://a.example/users/:id");
        assert!(found.claim.unwrap().listed.contains("/users/:id"));
        routed["routeTemplate"] = json!("/../etc");
        let found = claim(&routed);
        assert_eq!(found.url, "https://a.example/users/7");
        assert!(!found.claim.unwrap().listed.contains("routeTemplate"));
    }

    #[test]
    fn a_tool_is_listed_by_the_newer_name_and_judged_as_it_was_sent() {
        for name in ["tool", "toolName"] {
            let input = json!({"type": "mcp", name: "weather", "inputSchema": {}});
            let bazaar =
                json!({"info": {"input": input, "output": 1}, "schema": {}, "routeTemplate": "/x"});
            let found = read(&v2(json!({ "bazaar": bazaar }))).discoverable;
            let found = found.present().unwrap();
            assert_eq!(found.url, "https://a.example/users/7");
            assert_eq!(found.tool.as_deref(), Some("weather"));
            let claim = found.claim.as_ref().unwrap();
            assert!(claim.info.contains(&format!("\"{name}\"")));
            let listed: Value = serde_json::from_str(&claim.listed).unwrap();
            assert_eq!(listed["info"]["input"]["toolName"], "weather");
            assert!(listed["info"]["input"].get("tool").is_none());
            assert_eq!(listed["info"]["output"], 1);
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_what_is_not_there_is_absent() {
        assert_eq!(read(&v2(json!({}))).discoverable, Extension::Absent);
        assert_eq!(read(&v2(json!(null))).discoverable, Extension::Absent);
        let detail = |body: &Value| match read(body).discoverable {
            Extension::Malformed(detail) => detail,
            other => panic!("{other:?}"),
        };
        let mut bad = v2(json!({"bazaar": http()}));
        bad["paymentPayload"]["resource"] = json!({"url": "ftp://a.example"});
        assert!(detail(&bad).contains("paymentPayload.resource"));
        bad["paymentPayload"]["resource"] = json!(null);
        assert!(detail(&bad).contains("paymentPayload.resource is missing"));
        let mut long = v2(json!({"bazaar": http()}));
        long["paymentRequirements"]["extra"]["x"] = json!("x".repeat(8_192));
        assert!(detail(&long).contains("8192 bytes"));
        let wrong = json!({"bazaar": {"info": {"input": {"type": "smtp"}}, "schema": {}}});
        assert!(detail(&v2(wrong)).contains("must be http or mcp"));
    }

    #[test]
    fn v1_is_discoverable_unless_it_says_no() {
        let input = |more: Value| {
            let mut input = json!({"type": "http", "method": "GET"});
            input
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            v1(json!({"input": input, "output": {}}))
        };
        let found = read(&input(json!({}))).discoverable;
        let found = found.present().unwrap();
        assert_eq!(
            (found.version, found.url.as_str()),
            (Version::V1, "https://a.example/w")
        );
        assert_eq!(found.resource.description.as_deref(), Some("d"));
        assert_eq!(found.resource.mime_type.as_deref(), Some("text/plain"));
        assert!(found.claim.is_none());
        for absent in [
            input(json!({"discoverable": false})),
            v1(json!(null)),
            v1(json!({})),
            v1(json!({"input": null})),
        ] {
            assert_eq!(read(&absent).discoverable, Extension::Absent);
        }
        for wrong in [
            input(json!({"discoverable": "yes"})),
            input(json!({"type": "mcp"})),
            input(json!({"method": "BREW"})),
            v1(json!({"input": 1})),
        ] {
            assert!(matches!(read(&wrong).discoverable, Extension::Malformed(_)));
        }
    }

    #[test]
    fn an_identifier_is_read_in_version_2_only() {
        let id = json!({"payment-identifier": {"info": {"required": true, "id": "pay_0123456789abcdef"}}});
        let found = read(&v2(id)).payment_identifier;
        assert_eq!(
            found.present().unwrap().id.as_deref(),
            Some("pay_0123456789abcdef")
        );
        let short = json!({"payment-identifier": {"info": {"id": "short"}}});
        assert!(matches!(
            read(&v2(short)).payment_identifier,
            Extension::Malformed(_)
        ));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(text in "[{}\\[\\]\",:a-z0-9]{0,60}(bazaar)?.{0,20}") {
            let _ = Beside::read(text.as_bytes());
        }
    }
}
