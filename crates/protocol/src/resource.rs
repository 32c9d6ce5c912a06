//! `paymentPayload.resource` (PROTOCOL sections 1.2 and 7.4): what is sold, in the words of whoever sent it. What is
//! not good is dropped, member by member.

use url::{Host, Url};

use crate::json::{Json, Object};

const MAX_URL_BYTES: usize = 2_048;
const MAX_TEXT_BYTES: usize = 1_024;
const NAME_BYTES: std::ops::RangeInclusive<usize> = 1..=32;
const MAX_TAGS: usize = 5;

/// Hosts that are this machine.
const LOCAL_HOSTS: [&str; 4] = [
    "localhost",
    "localhost.localdomain",
    "ip6-localhost",
    "ip6-loopback",
];

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `url`: http or https.
    pub url: String,
    /// `description`, cut to 1,024 bytes.
    pub description: Option<String>,
    /// `mimeType`
    pub mime_type: Option<String>,
    /// `serviceName`
    pub service_name: Option<String>,
    /// `tags`: at most five, no two alike.
    pub tags: Vec<String>,
    /// `iconUrl`
    pub icon_url: Option<String>,
}

impl Resource {
    /// `None` without a good `url`.
    pub(crate) fn read(object: &Object<'_>) -> Option<Self> {
        let text = |key: &str| match object.get(key) {
            Some(Json::String(text)) => Some(text.as_ref()),
            _ => None,
        };
        let url = text("url").filter(|url| web_url(url).is_some())?;
        Some(Self {
            url: url.to_owned(),
            description: description(text("description")),
            mime_type: mime_type(text("mimeType")),
            service_name: text("serviceName")
                .filter(|name| is_label(name))
                .map(str::to_owned),
            tags: tags(object.get("tags")),
            icon_url: text("iconUrl")
                .filter(|url| is_icon_url(url))
                .map(str::to_owned),
        })
    }

    /// What version 1 says of a resource, in its payment requirements; `None` without a good URL.
    pub(crate) fn read_v1(requirements: &Object<'_>) -> Option<Self> {
        let text = |key: &str| match requirements.get(key) {
            Some(Json::String(text)) => Some(text.as_ref()),
            _ => None,
        };
        let url = text("resource").filter(|url| web_url(url).is_some())?;
        Some(Self {
            url: url.to_owned(),
            description: description(text("description")),
            mime_type: mime_type(text("mimeType")),
            service_name: None,
            tags: Vec::new(),
            icon_url: None,
        })
    }

    /// What the catalogue knows an HTTP resource by: its origin and the route template, or its path where there is
    /// none. Query and fragment are dropped.
    pub fn catalogue_key(&self, route_template: Option<&str>) -> Option<String> {
        let url = web_url(&self.url)?;
        let origin = url.origin().ascii_serialization();
        Some(format!("{origin}{}", route_template.unwrap_or(url.path())))
    }
}

fn description(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty())
        .map(|text| cut(text).to_owned())
}

fn mime_type(text: Option<&str>) -> Option<String> {
    text.filter(|text| is_name(text, 128)).map(str::to_owned)
}

fn web_url(text: &str) -> Option<Url> {
    if text.len() > MAX_URL_BYTES || text.chars().any(char::is_control) {
        return None;
    }
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
}

fn cut(text: &str) -> &str {
    let end = text
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| *end <= MAX_TEXT_BYTES)
        .last();
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn is_name(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, 0x20..=0x7e))
}

/// 1 to 32 printable ASCII characters.
fn is_label(text: &str) -> bool {
    is_name(text, *NAME_BYTES.end())
}

/// The first five good ones, without those that differ from an earlier one in case only.
fn tags(tags: Option<&Json<'_>>) -> Vec<String> {
    let Some(Json::Array(items)) = tags else {
        return Vec::new();
    };
    let mut found: Vec<String> = Vec::new();
    for item in items {
        let Json::String(tag) = item else { continue };
        let known = |tag: &str| found.iter().any(|other| other.eq_ignore_ascii_case(tag));
        if found.len() < MAX_TAGS && is_label(tag) && !known(tag) {
            found.push(tag.as_ref().to_owned());
        }
    }
    found
}

/// Whoever renders the catalogue fetches icons: no credentials, no addresses, no local names. The parser decodes and
/// maps the host before it is judged, and reads numbers in any notation as addresses.
fn is_icon_url(text: &str) -> bool {
    let Some(url) = web_url(text) else {
        return false;
    };
    if !url.username().is_empty() || url.password().is_some() {
        return false;
    }
    match url.host() {
        Some(Host::Domain(domain)) => {
            let domain = domain.trim_end_matches('.').to_ascii_lowercase();
            !domain.is_empty() && !LOCAL_HOSTS.contains(&domain.as_str())
        }
        Some(Host::Ipv4(_) | Host::Ipv6(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<Resource> {
        match parse(text.as_bytes()).unwrap() {
            Json::Object(object) => Resource::read(&object),
            _ => None,
        }
    }

    #[test]
    fn what_is_not_good_is_dropped_and_the_rest_stays() {
        let resource = read(
            r#"{"url":"https://api.example.com/w?x=1#y","description":"d","mimeType":"application/json",
                "serviceName":"a name that is longer than thirty-two characters",
                "tags":["Weather","weather","",1,"a","b","c","d","e"],"iconUrl":"http://127.0.0.1/i.png"}"#,
        )
        .unwrap();
        assert_eq!(resource.service_name, None);
        assert_eq!(resource.tags, ["Weather", "a", "b", "c", "d"]);
        assert_eq!(resource.icon_url, None);
        assert_eq!(resource.mime_type.as_deref(), Some("application/json"));
        let key = |template| resource.catalogue_key(template).unwrap();
        assert_eq!(key(None), "https://api.example.com/w");
        assert_eq!(key(Some("/:city")), "https://api.example.com/:city");
        assert_eq!(read(r#"{"url":"ftp://example.com"}"#), None);
        assert_eq!(read(r#"{"description":"no url"}"#), None);
    }

    #[test]
    fn icons_come_from_named_public_hosts() {
        assert!(is_icon_url("https://example.com/i.png"));
        for bad in [
            "https://user@example.com/",
            "https://:pass@example.com/",
            "http://127.0.0.1/",
            "http://[::1]/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://%31%32%37.0.0.1/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://localhost.localdomain/",
            "http://ip6-loopback/",
            "http://\u{ff11}27.0.0.1/",
            "javascript:alert(1)",
            "https://example.com/\u{7}",
            &format!("https://example.com/{}", "a".repeat(2_048)),
        ] {
            assert!(!is_icon_url(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(https?://)?.{0,60}") {
            let _ = is_icon_url(&text);
            prop_assert!(cut(&text.repeat(40)).len() <= MAX_TEXT_BYTES);
        }
    }
}
