//! Members of a JSON object, read with errors that name them by their path.

use crate::field::FieldError;
use crate::json::{Json, Object};
use crate::request::Fault;

/// A fault and its text, before the answer's context is known.
#[derive(Debug)]
pub(crate) struct Problem(pub(crate) Fault, pub(crate) String);

pub(crate) type Found<T> = Result<T, Problem>;

/// An object with the path that leads to it and the fault of whatever is wrong inside.
#[derive(Clone)]
pub(crate) struct Fields<'o, 'a> {
    pub(crate) object: &'o Object<'a>,
    path: String,
    fault: Fault,
}

impl<'o, 'a> Fields<'o, 'a> {
    pub(crate) fn of(object: &'o Object<'a>, path: impl Into<String>, fault: Fault) -> Self {
        Self {
            object,
            path: path.into(),
            fault,
        }
    }

    /// The path of the object itself.
    pub(crate) fn at(&self) -> &str {
        &self.path
    }

    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    pub(crate) fn wrong(&self, key: &str, problem: &'static str) -> Problem {
        Problem(
            self.fault,
            FieldError::new(self.path(key), problem).to_string(),
        )
    }

    pub(crate) fn optional_object(&self, key: &str) -> Found<Option<Self>> {
        match self.object.get(key) {
            Some(Json::Object(object)) => Ok(Some(Self::of(object, self.path(key), self.fault))),
            Some(_) => Err(self.wrong(key, "must be an object")),
            None => Ok(None),
        }
    }

    pub(crate) fn object(&self, key: &str) -> Found<Self> {
        self.optional_object(key)?
            .ok_or_else(|| self.wrong(key, "is missing"))
    }

    pub(crate) fn text(&self, key: &str) -> Found<&'o str> {
        match self.object.get(key) {
            Some(Json::String(text)) => Ok(text),
            Some(_) => Err(self.wrong(key, "must be a string")),
            None => Err(self.wrong(key, "is missing")),
        }
    }

    pub(crate) fn optional_text(&self, key: &str) -> Found<Option<String>> {
        match self.object.get(key) {
            None => Ok(None),
            Some(_) => Ok(Some(self.text(key)?.to_owned()).filter(|text| !text.is_empty())),
        }
    }

    pub(crate) fn hex<T>(&self, key: &str, read: fn(&str) -> Result<T, &'static str>) -> Found<T> {
        read(self.text(key)?).map_err(|problem| self.wrong(key, problem))
    }

    /// A number as a string of digits or as a JSON number.
    pub(crate) fn number<T>(
        &self,
        key: &str,
        read: fn(&str) -> Result<T, &'static str>,
    ) -> Found<T> {
        let text = match self.object.get(key) {
            Some(Json::String(text)) => text.as_ref(),
            Some(Json::Number(text)) => text,
            Some(_) => return Err(self.wrong(key, "must be a number")),
            None => return Err(self.wrong(key, "is missing")),
        };
        read(text).map_err(|problem| self.wrong(key, problem))
    }
}

impl<'o> Fields<'o, '_> {
    pub(crate) fn optional_hex<T>(
        &self,
        key: &str,
        read: fn(&str) -> Result<T, &'static str>,
    ) -> Found<Option<T>> {
        match self.object.get(key) {
            None => Ok(None),
            Some(_) => self.hex(key, read).map(Some),
        }
    }

    /// The member if it is a text and not empty, whatever else it may be.
    pub(crate) fn lenient_text(&self, key: &str) -> Option<&'o str> {
        match self.object.get(key) {
            Some(Json::String(text)) => Some(text.as_ref()).filter(|text| !text.is_empty()),
            _ => None,
        }
    }
}
