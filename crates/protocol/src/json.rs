//! A strict reader of JSON. It differs from `serde_json` in what money needs: integers keep all their digits, an object
//! that names a key twice is refused wherever it stands (two readers would see two payments), and so is nesting
//! deeper than [`MAX_DEPTH`].
//!
//! A little long, because a reader is one machine: splitting it would only part a state from what follows it.

use std::borrow::Cow;
use std::fmt;

/// How many objects and arrays may stand inside one another.
pub const MAX_DEPTH: usize = 32;

/// Objects up to this size are searched for equal keys pair by pair; larger ones are sorted.
const PAIRWISE_KEYS: usize = 16;

/// Why bytes are not the JSON that teller takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8.
    #[error("the body is not UTF-8")]
    Encoding,
    /// Not JSON.
    #[error("the body is not JSON: {expected} expected at byte {offset}")]
    Syntax {
        /// Where.
        offset: usize,
        /// What should have stood there.
        expected: &'static str,
    },
    /// More than [`MAX_DEPTH`] levels.
    #[error("the body is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// An object with two equal keys.
    #[error("the body names the key {key:?} twice in one object")]
    DuplicateKey {
        /// The key, cut to 64 characters.
        key: String,
    },
}

/// A JSON value that borrows from the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    /// The number as it is written.
    Number(&'a str),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// As JSON text again, numbers with the digits that they came with.
impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(digits) => f.write_str(digits),
            Self::String(text) => quoted(f, text),
            Self::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Self::Object(object) => object.fmt(f),
        }
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (key, value)) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            quoted(f, key)?;
            write!(f, ":{value}")?;
        }
        f.write_str("}")
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quoted = serde_json::to_string(text).map_err(|_| fmt::Error)?;
    f.write_str(&quoted)
}

/// The members of an object in their order; keys are unique.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Object<'a> {
    /// An object of these members, whose keys differ.
    pub(crate) fn of<const N: usize>(members: [(&'static str, Json<'a>); N]) -> Self {
        Self(members.map(|(key, value)| (key.into(), value)).into())
    }

    /// The member of this name. `null` counts as absent (PROTOCOL section 1.1).
    pub(crate) fn get(&self, key: &str) -> Option<&Json<'a>> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
            .filter(|value| **value != Json::Null)
    }

    /// Every member in its order, `null` too.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value))
    }

    fn duplicate(&self) -> Option<&str> {
        if self.0.len() <= PAIRWISE_KEYS {
            return self.0.iter().enumerate().find_map(|(index, (key, _))| {
                let earlier = self.0.iter().take(index);
                earlier
                    .map(|(other, _)| other)
                    .find(|other| *other == key)
                    .map(AsRef::as_ref)
            });
        }
        let mut keys: Vec<&str> = self.0.iter().map(|(key, _)| key.as_ref()).collect();
        keys.sort_unstable();
        keys.windows(2).find_map(|pair| match pair {
            [one, two] if one == two => Some(*one),
            _ => None,
        })
    }
}

/// Reads one JSON value with nothing but blanks around it.
pub(crate) fn parse(body: &[u8]) -> Result<Json<'_>, JsonError> {
    let text = std::str::from_utf8(body).map_err(|_| JsonError::Encoding)?;
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.skip_blanks();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.expected("the end")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax {
            offset: self.at,
            expected,
        }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Steps over this byte if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        self.skip_blanks();
        match self.peek() {
            Some(b'{') => self.object(depth + 1).map(Json::Object),
            Some(b'[') => self.array(depth + 1).map(Json::Array),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Json::Number),
            Some(b't') => self.word("true").map(|()| Json::Bool(true)),
            Some(b'f') => self.word("false").map(|()| Json::Bool(false)),
            Some(b'n') => self.word("null").map(|()| Json::Null),
            _ => Err(self.expected("a value")),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), JsonError> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<Object<'a>, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        let mut object = Object::default();
        self.skip_blanks();
        if self.take(b'}') {
            return Ok(object);
        }
        loop {
            self.skip_blanks();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key"));
            }
            let key = self.string()?;
            self.skip_blanks();
            if !self.take(b':') {
                return Err(self.expected("a colon"));
            }
            let value = self.value(depth)?;
            object.0.push((key, value));
            self.skip_blanks();
            if self.take(b',') {
                continue;
            }
            if self.take(b'}') {
                break;
            }
            return Err(self.expected("a comma or the end of the object"));
        }
        match object.duplicate() {
            Some(key) => Err(JsonError::DuplicateKey {
                key: key.chars().take(64).collect(),
            }),
            None => Ok(object),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Json<'a>>, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        self.skip_blanks();
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(items);
        }
        loop {
            items.push(self.value(depth)?);
            self.skip_blanks();
            if self.take(b',') {
                continue;
            }
            if self.take(b']') {
                return Ok(items);
            }
            return Err(self.expected("a comma or the end of the array"));
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.expected("a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    /// The text up to the next quote, backslash or control character, and which of these it is.
    fn plain(&mut self) -> Result<(&'a str, u8), JsonError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest
            .bytes()
            .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
        let Some((end, stop)) = end.and_then(|end| Some((end, rest.as_bytes().get(end).copied()?)))
        else {
            self.at = self.text.len();
            return Err(self.expected("the end of the string"));
        };
        self.at += end;
        if stop < 0x20 {
            return Err(self.expected("an escape instead of a control character"));
        }
        self.at += 1;
        Ok((rest.get(..end).unwrap_or_default(), stop))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.at += 1;
        let (first, mut stop) = self.plain()?;
        if stop == b'"' {
            return Ok(Cow::Borrowed(first));
        }
        let mut text = first.to_owned();
        while stop == b'\\' {
            text.push(self.escape()?);
            let (more, next) = self.plain()?;
            text.push_str(more);
            stop = next;
        }
        Ok(Cow::Owned(text))
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let Some(kind) = self.peek() else {
            return Err(self.expected("an escape"));
        };
        let plain = match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => return Err(self.expected("an escape")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let first = self.code_unit()?;
        let code = match first {
            0xd800..=0xdbff => {
                if !self.take(b'\\') {
                    return Err(self.expected("the second half of a surrogate pair"));
                }
                let second = self.code_unit()?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return Err(self.expected("the second half of a surrogate pair"));
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            code => code,
        };
        char::from_u32(code).ok_or_else(|| self.expected("a Unicode character"))
    }

    /// `uXXXX`
    fn code_unit(&mut self) -> Result<u32, JsonError> {
        if !self.take(b'u') {
            return Err(self.expected("a Unicode escape"));
        }
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.expected("a hex digit"));
            };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> String {
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn nesting_ends_at_thirty_two() {
        assert!(parse(nested(32).as_bytes()).is_ok());
        assert_eq!(parse(nested(33).as_bytes()), Err(JsonError::TooDeep));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(33), "}".repeat(33));
        assert_eq!(parse(objects.as_bytes()), Err(JsonError::TooDeep));
        assert_eq!(
            parse("[".repeat(60_000).as_bytes()),
            Err(JsonError::TooDeep)
        );
    }

    #[test]
    fn a_key_named_twice_is_refused_anywhere() {
        let many: Vec<String> = (0..40).map(|i| format!("\"k{}\":{i}", i % 39)).collect();
        for text in [
            r#"{"a":1,"a":1}"#.to_owned(),
            r#"{"a":1,"\u0061":2}"#.to_owned(),
            r#"[[{"x":{"b":null,"c":0,"b":null}}]]"#.to_owned(),
            format!("{{{}}}", many.join(",")),
        ] {
            let found = parse(text.as_bytes());
            assert!(
                matches!(found, Err(JsonError::DuplicateKey { .. })),
                "{text}: {found:?}"
            );
        }
        assert!(parse(br#"{"a":{"a":{"a":1}}}"#).is_ok());
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        let digits =
            "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        assert_eq!(parse(digits.as_bytes()), Ok(Json::Number(digits)));
        assert_eq!(parse(b"-0.0e+1"), Ok(Json::Number("-0.0e+1")));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "+1",
            ".5",
            "1.",
            "1e",
            "nul",
            "NaN",
            "'a'",
            "\"a",
            "\"\n\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "1 2",
            "{a:1}",
            "\u{feff}1",
            "// x\n1",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(parse(b"\xff"), Err(JsonError::Encoding));
    }

    #[test]
    fn what_was_read_prints_as_it_was_written() {
        let text =
            r#"{"a":[1,-2.50,true,false,null,[],{}],"b":"x\"y\n","c":{"d":18446744073709551616}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap().to_string(), text);
    }

    fn strings(value: &serde_json::Value) -> Option<&str> {
        value.as_str()
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        /// serde_json is the judge of what is JSON; texts near JSON are the hard ones.
        #[test]
        fn it_takes_what_serde_json_takes(text in r#"[\[\]{}",:\\0-9eE.+\-tfnrulase \u0000-\u0020/bd8cé]{0,24}"#) {
            let judge = serde_json::from_str::<serde_json::Value>(&text);
            match parse(text.as_bytes()) {
                Ok(_) => {
                    // Integers of absurd size overflow serde_json's floats; they are JSON all the same.
                    let out_of_range = judge.as_ref().is_err_and(|e| e.to_string().contains("out of range"));
                    prop_assert!(judge.is_ok() || out_of_range, "{text:?}");
                }
                Err(JsonError::DuplicateKey { .. }) => {}
                Err(error) => prop_assert!(judge.is_err(), "{text:?}: {error}"),
            }
        }

        #[test]
        fn strings_decode_as_serde_json_decodes_them(text in ".{0,40}", escaped in r#"(\\u[0-9a-f]{4}|\\[nrtbf/"\\]|[a-z]){0,12}"#) {
            for quoted in [serde_json::to_string(&text).unwrap(), format!("\"{escaped}\"")] {
                let judge = serde_json::from_str::<serde_json::Value>(&quoted).ok();
                let ours = match parse(quoted.as_bytes()) {
                    Ok(Json::String(text)) => Some(text.into_owned()),
                    _ => None,
                };
                prop_assert_eq!(ours.as_deref(), judge.as_ref().and_then(strings));
            }
        }
    }
}
