//! `builder-code` (PROTOCOL section 7.5): whom the payment is attributed to. Which texts are codes is judged where the
//! calldata is written; here they are only read and bounded.

use crate::fields::{Fields, Found};
use crate::json::Json;

/// How many service codes are read; the rest is ignored.
pub const MAX_SENT_SERVICES: usize = 64;

/// What the client sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuilderCodeInfo {
    /// `a`: the app.
    pub app: Option<String>,
    /// `s`: services.
    pub services: Vec<String>,
}

impl BuilderCodeInfo {
    /// What there is of an app and services; `None` if that is nothing.
    pub fn of(app: Option<String>, services: impl IntoIterator<Item = String>) -> Option<Self> {
        let info = Self {
            app: app.filter(|app| !app.is_empty()),
            services: services.into_iter().take(MAX_SENT_SERVICES).collect(),
        };
        (info != Self::default()).then_some(info)
    }

    /// From `info`, where the official clients put it, or from the extension itself, where the specification does.
    pub(super) fn read(extension: &Fields<'_, '_>) -> Found<Option<Self>> {
        let info = extension.optional_object("info")?;
        let source = info.as_ref().unwrap_or(extension);
        let services = match source.object.get("s") {
            Some(Json::String(one)) => vec![one.as_ref().to_owned()],
            Some(Json::Array(many)) => many
                .iter()
                .filter_map(|item| match item {
                    Json::String(text) => Some(text.as_ref().to_owned()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        let app = source.lenient_text("a").map(str::to_owned);
        Ok(Self::of(app, services))
    }
}
