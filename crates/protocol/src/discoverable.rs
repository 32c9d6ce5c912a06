//! What the paid resource of a request says of itself for the discovery catalogue (PROTOCOL section 7.4). It never decides
//! whether a payment is good.

use crate::extensions::{Bazaar, BazaarInput, Extension, HttpMethod};
use crate::fields::{Fields, Found};
use crate::json::{Json, Object};
use crate::request::{Fault, Version};
use crate::resource::Resource;

/// The longest payment requirements that are listed, as JSON text.
const MAX_REQUIREMENTS_BYTES: usize = 8 * 1024;
/// Where version 1 has its discovery data.
const OUTPUT_SCHEMA: &str = "outputSchema";

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

/// What a version 1 request offers: `outputSchema` of its requirements.
pub(crate) fn of_v1(requirements: &Object<'_>) -> Extension<Discoverable> {
    Extension::of(output_schema(requirements))
}

/// What a version 2 request offers: its extension, with the resource and the requirements that stand beside it.
pub(crate) fn of_v2(
    sent: &Fields<'_, '_>,
    requirements: &Object<'_>,
    bazaar: &Extension<Bazaar>,
) -> Extension<Discoverable> {
    match bazaar {
        Extension::Absent => Extension::Absent,
        Extension::Malformed(detail) => Extension::Malformed(detail.clone()),
        Extension::Present(bazaar) => Extension::of(offered(sent, requirements, bazaar)),
    }
}

/// What the extension says, with the resource and the requirements that stand beside it.
pub(crate) fn offered(
    sent: &Fields<'_, '_>,
    requirements: &Object<'_>,
    bazaar: &Bazaar,
) -> Found<Option<Discoverable>> {
    let tool = match &bazaar.input {
        BazaarInput::Http { .. } => None,
        BazaarInput::Mcp { tool_name, .. } => Some(tool_name.clone()),
    };
    let claim = Claim {
        listed: bazaar.listed(),
        info: bazaar.info.clone(),
        schema: bazaar.schema.clone(),
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
    use crate::extensions::Extensions;
    use crate::request::{read_body, read_version};
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

    /// What the request offers beside a payment that is of no interest here.
    fn read(body: &Value) -> Extension<Discoverable> {
        let found = read_body(
            body.to_string().as_bytes(),
            |body, payload, requirements| {
                if read_version(body, payload)? == Version::V1 {
                    return Ok(of_v1(requirements));
                }
                let sent = Fields::of(payload, "paymentPayload", Fault::Payload);
                Ok(match sent.optional_object("extensions")? {
                    Some(extensions) => {
                        of_v2(&sent, requirements, &Extensions::read(&extensions).bazaar)
                    }
                    None => Extension::Absent,
                })
            },
        );
        found.unwrap()
    }

    fn http() -> Value {
        json!({"info": {"input": {"type": "http", "method": "GET"}}, "schema": {}})
    }

    #[test]
    fn a_v2_resource_is_known_by_its_url_without_its_query_or_by_its_route() {
        let found = read(&v2(json!({"bazaar": http()})));
        let found = found.present().unwrap();
        assert_eq!(found.url, "https://a.example/users/7");
        assert_eq!(found.resource.tags, ["t"]);
        assert_eq!((found.version, &found.tool), (Version::V2, &None));
        assert!(found.requirements.contains(r#""amount":"010""#));
        let mut routed = http();
        routed["routeTemplate"] = json!("/users/:id");
        let claim = |value: &Value| {
            let found = read(&v2(json!({"bazaar": value})));
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
            let found = read(&v2(json!({ "bazaar": bazaar })));
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
        assert_eq!(read(&v2(json!({}))), Extension::Absent);
        assert_eq!(read(&v2(json!(null))), Extension::Absent);
        let detail = |body: &Value| match read(body) {
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
        let found = read(&input(json!({})));
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
            assert_eq!(read(&absent), Extension::Absent);
        }
        for wrong in [
            input(json!({"discoverable": "yes"})),
            input(json!({"type": "mcp"})),
            input(json!({"method": "BREW"})),
            v1(json!({"input": 1})),
        ] {
            assert!(matches!(read(&wrong), Extension::Malformed(_)));
        }
    }
}
