//! `bazaar` (PROTOCOL section 7.4): what a resource takes and gives, for the discovery catalogue. Everything in it is
//! the client's word. Whether `info` satisfies `schema` is not judged here; that the schema is harmless is.

use std::borrow::Cow;

use crate::fields::{Fields, Found};
use crate::json::{Json, Object, parse};

/// The longest schema, and the longest `info`, as JSON text.
pub const MAX_SCHEMA_BYTES: usize = 16 * 1024;
/// How deep a schema may be nested.
pub const MAX_SCHEMA_DEPTH: usize = 16;
/// The longest route template.
const MAX_ROUTE_BYTES: usize = 2_048;
/// The longest name of a tool.
const MAX_TOOL_BYTES: usize = 256;
/// How often a route template is percent-decoded until it stays the same.
const DECODE_PASSES: usize = 5;

/// The extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bazaar {
    /// How the resource is called.
    pub input: BazaarInput,
    /// `info` as JSON.
    pub info: String,
    /// `schema` as JSON: no reference in it leaves it.
    pub schema: String,
    /// `routeTemplate`, if it is a good one.
    pub route_template: Option<String>,
}

/// `info.input`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BazaarInput {
    /// An HTTP request.
    Http {
        /// Its method.
        method: HttpMethod,
        /// How its body is encoded; always there for methods with a body.
        body_type: Option<BodyType>,
    },
    /// A tool of an MCP server.
    Mcp {
        /// `toolName`, or `tool` in the older specification.
        tool_name: String,
        /// `transport`
        transport: Option<McpTransport>,
    },
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident: $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            pub(crate) fn of(text: &str) -> Result<Self, &'static str> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err("is none of the known names"),
                }
            }
        }
    };
}

names! {
    /// The method of a discoverable resource.
    HttpMethod:
    /// GET
    Get = "GET",
    /// HEAD
    Head = "HEAD",
    /// DELETE
    Delete = "DELETE",
    /// POST
    Post = "POST",
    /// PUT
    Put = "PUT",
    /// PATCH
    Patch = "PATCH",
}
names! {
    /// How a request's body is encoded.
    BodyType:
    /// JSON
    Json = "json",
    /// Form data
    FormData = "form-data",
    /// Text
    Text = "text",
}
names! {
    /// How an MCP server is reached.
    McpTransport:
    /// Streamable HTTP
    StreamableHttp = "streamable-http",
    /// Server-sent events
    Sse = "sse",
}

impl Bazaar {
    pub(crate) fn read(extension: &Fields<'_, '_>) -> Found<Option<Self>> {
        let info = extension.object("info")?;
        let input = read_input(&info.object("input")?)?;
        let schema = extension.object("schema")?;
        let schema_text = schema.object.to_string();
        let info_text = info.object.to_string();
        if schema_text.len() > MAX_SCHEMA_BYTES {
            return Err(extension.wrong("schema", "is longer than 16384 bytes"));
        }
        if info_text.len() > MAX_SCHEMA_BYTES {
            return Err(extension.wrong("info", "is longer than 16384 bytes"));
        }
        let members = schema.object.members();
        if !members
            .into_iter()
            .all(|(key, value)| is_local(key, value, 1))
        {
            return Err(extension.wrong(
                "schema",
                "is nested too deep or refers to something outside",
            ));
        }
        let template = extension.lenient_text("routeTemplate");
        Ok(Some(Self {
            input,
            info: info_text,
            schema: schema_text,
            route_template: template.and_then(route_template).map(str::to_owned),
        }))
    }
}

impl Bazaar {
    /// The extension as the catalogue shows it: `toolName`, whatever the client called it, and a route only if it is a
    /// good one.
    pub fn listed(&self) -> String {
        let is_tool = matches!(self.input, BazaarInput::Mcp { .. });
        let info = match parse(self.info.as_bytes()) {
            Ok(Json::Object(info)) if is_tool => {
                let members = info.members().map(|(key, value)| match (key, value) {
                    ("input", Json::Object(input)) => member(key, &with_tool_name(input)),
                    _ => member(key, value),
                });
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
            _ => self.info.clone(),
        };
        let route = self.route_template.as_deref().map(|route| {
            let route = Json::String(route.into());
            format!(",{}", member("routeTemplate", &route))
        });
        format!(
            r#"{{"info":{info},"schema":{}{}}}"#,
            self.schema,
            route.unwrap_or_default()
        )
    }
}

fn member(key: &str, value: &impl std::fmt::Display) -> String {
    format!("{}:{value}", Json::String(key.into()))
}

fn with_tool_name(input: &Object<'_>) -> String {
    let is_newer = input.get("toolName").is_some();
    let members = input.members().filter_map(|(key, value)| match key {
        "tool" if is_newer => None,
        "toolName" if !is_newer => None,
        "tool" => Some(member("toolName", value)),
        _ => Some(member(key, value)),
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn read_input(input: &Fields<'_, '_>) -> Found<BazaarInput> {
    match input.text("type")? {
        "http" => {
            let method = input.hex("method", HttpMethod::of)?;
            let has_body = matches!(
                method,
                HttpMethod::Post | HttpMethod::Put | HttpMethod::Patch
            );
            let body_type = if has_body {
                Some(input.hex("bodyType", BodyType::of)?)
            } else {
                None
            };
            Ok(BazaarInput::Http { method, body_type })
        }
        "mcp" => {
            let key = ["toolName", "tool"]
                .into_iter()
                .find(|key| input.object.get(key).is_some())
                .unwrap_or("toolName");
            let tool_name = input.text(key)?;
            if tool_name.is_empty() || tool_name.len() > MAX_TOOL_BYTES {
                return Err(input.wrong(key, "must have 1 to 256 bytes"));
            }
            Ok(BazaarInput::Mcp {
                tool_name: tool_name.to_owned(),
                transport: input.optional_hex("transport", McpTransport::of)?,
            })
        }
        _ => Err(input.wrong("type", "must be http or mcp")),
    }
}

/// Whether a schema stays within itself and within its depth: a reference or an id starts with `#`.
fn is_local(key: &str, value: &Json<'_>, depth: usize) -> bool {
    if depth > MAX_SCHEMA_DEPTH {
        return false;
    }
    match value {
        Json::String(text) if matches!(key, "$ref" | "$id" | "$dynamicRef" | "$recursiveRef") => {
            text.starts_with('#')
        }
        Json::Object(object) => object
            .members()
            .all(|(key, value)| is_local(key, value, depth + 1)),
        Json::Array(items) => items.iter().all(|item| is_local("", item, depth + 1)),
        _ => true,
    }
}

/// The template if it matches `^/[a-zA-Z0-9_/:.\-~%]+$` and, however often it is percent-decoded, neither climbs with
/// `..` nor names a scheme with `://`.
pub fn route_template(template: &str) -> Option<&str> {
    let path = template.strip_prefix('/')?;
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'_' | b'/' | b':' | b'.' | b'-' | b'~' | b'%')
    };
    if path.is_empty() || template.len() > MAX_ROUTE_BYTES || !path.bytes().all(allowed) {
        return None;
    }
    let mut decoded = Cow::Borrowed(template.as_bytes());
    for _ in 0..DECODE_PASSES {
        let next = percent_decoded(&decoded)?;
        if next == *decoded {
            let text = std::str::from_utf8(&decoded).ok()?;
            let harmless = !text.contains("..") && !text.contains("://");
            return harmless.then_some(template);
        }
        decoded = Cow::Owned(next);
    }
    None
}

/// One pass; `None` where a percent sign is not followed by two hex digits.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, more)) = rest.split_first() {
        rest = more;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let (digits, more) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        rest = more;
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_route_template_cannot_leave_its_origin() {
        for good in [
            "/weather",
            "/users/:id/items",
            "/a.b/~c-d_e",
            "/%20x",
            "/a%2Fb",
        ] {
            assert_eq!(route_template(good), Some(good));
        }
        for bad in [
            "",
            "/",
            "weather",
            "//x y",
            "/a?b",
            "/../etc",
            "/a/%2e%2e/b",
            "/%252e%252e/",
            "/x%",
            "/x%zz",
            "/x%2",
            "/http://evil",
            "/%3a//%2f",
            "/a%3A%2F%2Fb",
            "/%ff",
        ] {
            assert_eq!(route_template(bad), None, "{bad}");
        }
        let six_times = format!("/%{}41", "25".repeat(5));
        assert_eq!(route_template(&six_times), None);
        assert_eq!(route_template(&format!("/{}", "a".repeat(2_048))), None);
    }

    proptest! {
        #[test]
        fn no_template_makes_it_panic(text in "/[a-z%0-9A-F./:]{0,40}", any in ".{0,60}") {
            if let Some(good) = route_template(&text) {
                prop_assert!(!good.contains(".."));
            }
            let _ = route_template(&any);
        }
    }
}
