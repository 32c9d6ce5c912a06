//! What a request that is no JSON itself offers for the discovery catalogue (PROTOCOL section 7.4). It is judged as what
//! stands in a REST body is: put into the same form and read by the same code.

use crate::discoverable::{Discoverable, offered};
use crate::extensions::{Bazaar, Extension, ids};
use crate::fields::{Fields, Found};
use crate::json::{Json, Object, parse};
use crate::request::Fault;

/// What REST has in its body. Version 2 only.
#[derive(Debug, Clone)]
pub struct Offer<'a> {
    /// `paymentPayload.resource`; `None` where the request says nothing of it.
    pub resource: Option<OfferedResource<'a>>,
    /// `info` of the extension as JSON.
    pub info: &'a str,
    /// `schema` of the extension as JSON.
    pub schema: &'a str,
    /// `routeTemplate`; `""` if there is none.
    pub route_template: &'a str,
    /// `paymentRequirements` as JSON.
    pub requirements: &'a str,
}

/// `paymentPayload.resource` as it was sent; what is not there is `""`.
#[derive(Debug, Clone)]
pub struct OfferedResource<'a> {
    /// `url`
    pub url: &'a str,
    /// `description`
    pub description: &'a str,
    /// `mimeType`
    pub mime_type: &'a str,
    /// `serviceName`
    pub service_name: &'a str,
    /// `tags`
    pub tags: &'a [String],
    /// `iconUrl`
    pub icon_url: &'a str,
}

impl Offer<'_> {
    /// Judges it. `payload` is what the request calls its `paymentPayload`, for what is said of what is wrong.
    pub fn read(&self, payload: &str) -> Extension<Discoverable> {
        Extension::of(self.found(payload))
    }

    fn found(&self, payload: &str) -> Found<Option<Discoverable>> {
        let resource = self.resource.as_ref().map(OfferedResource::json);
        let sent = Object::of([
            ("resource", resource.unwrap_or(Json::Null)),
            ("extensions", self.extensions()),
        ]);
        let sent = Fields::of(&sent, payload, Fault::Payload);
        let bazaar = Bazaar::read(&sent.object("extensions")?.object(ids::BAZAAR)?)?;
        match (bazaar, json(self.requirements)) {
            (Some(bazaar), Json::Object(requirements)) => offered(&sent, &requirements, &bazaar),
            _ => Ok(None),
        }
    }

    fn extensions(&self) -> Json<'_> {
        let bazaar = Object::of([
            ("info", json(self.info)),
            ("schema", json(self.schema)),
            ("routeTemplate", text(self.route_template)),
        ]);
        Json::Object(Object::of([(ids::BAZAAR, Json::Object(bazaar))]))
    }
}

impl<'a> OfferedResource<'a> {
    fn json(&self) -> Json<'a> {
        let tags = self.tags.iter().map(|tag| text(tag));
        Json::Object(Object::of([
            ("url", text(self.url)),
            ("description", text(self.description)),
            ("mimeType", text(self.mime_type)),
            ("serviceName", text(self.service_name)),
            ("tags", Json::Array(tags.collect())),
            ("iconUrl", text(self.icon_url)),
        ]))
    }
}

/// A text; an empty one is none.
fn text(text: &str) -> Json<'_> {
    match text {
        "" => Json::Null,
        text => Json::String(text.into()),
    }
}

/// What a text says in JSON; one that is none is no object either, and is refused as that.
fn json(text: &str) -> Json<'_> {
    match text {
        "" => Json::Null,
        text => parse(text.as_bytes()).unwrap_or_else(|_| Json::String(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discoverable::of_v2;
    use crate::extensions::Extensions;
    use crate::request::read_body;
    use serde_json::json;

    const RESOURCE: OfferedResource<'static> = OfferedResource {
        url: "https://a.example/users/7?key=secret",
        description: "d",
        mime_type: "text/plain",
        service_name: "",
        tags: &[],
        icon_url: "http://127.0.0.1/i.png",
    };
    const OFFER: Offer<'static> = Offer {
        resource: Some(RESOURCE),
        info: r#"{"input": {"tool": "weather", "type": "mcp"}}"#,
        schema: r#"{"type": "object"}"#,
        route_template: "/users/:id",
        requirements: r#"{"amount":"010"}"#,
    };

    /// The same in a REST body.
    fn in_a_body(offer: &Offer<'_>) -> Extension<Discoverable> {
        let object = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let resource = offer.resource.as_ref().unwrap();
        let body = json!({
            "paymentPayload": {
                "x402Version": 2,
                "resource": {
                    "url": resource.url, "description": resource.description, "mimeType": resource.mime_type,
                    "serviceName": resource.service_name, "tags": resource.tags, "iconUrl": resource.icon_url,
                },
                "extensions": {"bazaar": {
                    "info": object(offer.info), "schema": object(offer.schema), "routeTemplate": offer.route_template,
                }},
            },
            "paymentRequirements": object(offer.requirements),
        });
        let found = read_body(body.to_string().as_bytes(), |_, payload, requirements| {
            let sent = Fields::of(payload, "paymentPayload", Fault::Payload);
            let bazaar = Extensions::read(&sent.object("extensions")?).bazaar;
            Ok(of_v2(&sent, requirements, &bazaar))
        });
        found.unwrap()
    }

    #[test]
    fn an_offer_is_what_it_is_in_a_body() {
        let tags = ["sea".to_owned(), "Sea".to_owned(), String::new()];
        let http = Offer {
            info: r#"{"input": {"method": "GET", "type": "http"}}"#,
            resource: Some(OfferedResource {
                tags: &tags,
                service_name: "Tidewatch",
                ..RESOURCE
            }),
            ..OFFER
        };
        for offer in [OFFER, http] {
            let found = offer.read("paymentPayload");
            assert!(found.present().is_some(), "{found:?}");
            assert_eq!(found, in_a_body(&offer));
        }
        for wrong in [
            Offer {
                info: "{}",
                ..OFFER
            },
            Offer {
                info: r#"{"input": {"type": "smtp"}}"#,
                ..OFFER
            },
            Offer {
                schema: r#"{"$ref": "https://evil.example"}"#,
                ..OFFER
            },
            Offer {
                resource: Some(OfferedResource {
                    url: "ftp://a.example",
                    ..RESOURCE
                }),
                ..OFFER
            },
        ] {
            let found = wrong.read("paymentPayload");
            assert!(matches!(found, Extension::Malformed(_)), "{found:?}");
            assert_eq!(found, in_a_body(&wrong));
        }
    }

    #[test]
    fn what_is_wrong_is_named_as_the_request_names_it() {
        for (offer, expected) in [
            (
                Offer { info: "", ..OFFER },
                "extensions.bazaar.info is missing",
            ),
            (
                Offer {
                    schema: "no JSON",
                    ..OFFER
                },
                "extensions.bazaar.schema must be an object",
            ),
            (
                Offer {
                    schema: "{}, \"more\": {}",
                    ..OFFER
                },
                "extensions.bazaar.schema must be an object",
            ),
            (
                Offer {
                    resource: None,
                    ..OFFER
                },
                "resource is missing",
            ),
        ] {
            let expected = Extension::Malformed(format!("payment_payload.{expected}"));
            assert_eq!(offer.read("payment_payload"), expected);
        }
    }
}
