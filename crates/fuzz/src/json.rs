//! Changes of JSON text by its values and members. The text is kept, so that keys can stand twice, numbers can have any
//! digits and texts any escapes.

use std::ops::Range;

use crate::{Chance, bytes};

/// Values that readers disagree about.
const VALUES: [&str; 34] = [
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-0",
    "1",
    "-1",
    "1.0",
    "1e3",
    "1e400",
    "00",
    "0x10",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "115792089237316195423570985008687907853269984665640564039457584007913129639935",
    "115792089237316195423570985008687907853269984665640564039457584007913129639936",
    "\"0x\"",
    "\"0x0\"",
    "\"0X10\"",
    "\" 1\"",
    "\"+1\"",
    "\"1_0\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\"\u{feff}\"",
    "\"eip155:84532\"",
    "\"base-sepolia\"",
    "\"permit2\"",
    "[null]",
    "{\"a\":1,\"a\":2}",
];
/// How deep values are looked for.
const DEEPEST: usize = 48;
/// How often a value is put into arrays or objects of its own, at most.
const NESTING: usize = 40;

#[derive(Default)]
struct Spans {
    values: Vec<Range<usize>>,
    /// `"key":value`
    members: Vec<Range<usize>>,
    keys: Vec<Range<usize>>,
}

pub(crate) fn mutate(input: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let spans = spans(input);
    if spans.values.is_empty() {
        return bytes::mutate(input, other, chance);
    }
    let value = chance.pick(&spans.values).clone();
    match chance.below(12) {
        0 | 1 => replace(input, value, chance.pick(&VALUES).as_bytes()),
        2..=4 => {
            let mut text = input[value.clone()].to_vec();
            inside(&mut text, chance);
            replace(input, value, &text);
        }
        5 => {
            let from = self::spans(other);
            if !from.values.is_empty() {
                let taken = chance.pick(&from.values).clone();
                replace(input, value, &other[taken]);
            }
        }
        6 => {
            let copy = input[chance.pick(&spans.values).clone()].to_vec();
            replace(input, value, &copy);
        }
        7 => {
            let depth = 1 + chance.below(NESTING);
            let (open, close) = *chance.pick(&[("[", "]"), ("{\"a\":", "}")]);
            let middle = input[value.clone()].to_vec();
            let text = [
                open.repeat(depth).as_bytes(),
                &middle,
                close.repeat(depth).as_bytes(),
            ]
            .concat();
            replace(input, value, &text);
        }
        _ if spans.members.is_empty() => bytes::mutate(input, other, chance),
        8 => {
            // Left out, with the comma on one of its sides.
            let mut member = chance.pick(&spans.members).clone();
            if input.get(member.end) == Some(&b',') {
                member.end += 1;
            } else if member.start > 0 && input[member.start - 1] == b',' {
                member.start -= 1;
            }
            replace(input, member, b"");
        }
        9 => {
            // Said twice, or under the roof of another object.
            let member = input[chance.pick(&spans.members).clone()].to_vec();
            let at = chance.pick(&spans.members).start;
            let text = [&member[..], b","].concat();
            replace(input, at..at, &text);
        }
        10 => {
            let name = input[chance.pick(&spans.keys).clone()].to_vec();
            let key = chance.pick(&spans.keys).clone();
            replace(input, key, &name);
        }
        _ => {
            let key = chance.pick(&spans.keys).clone();
            let mut text = input[key.clone()].to_vec();
            inside(&mut text, chance);
            replace(input, key, &text);
        }
    }
}

fn replace(input: &mut Vec<u8>, place: Range<usize>, with: &[u8]) {
    input.splice(place, with.iter().copied());
}

/// Changes a text between its quotes, or the digits of a number.
fn inside(text: &mut Vec<u8>, chance: &mut Chance) {
    let quoted = text.len() >= 2 && text.first() == Some(&b'"');
    let (start, end) = if quoted {
        (1, text.len() - 1)
    } else {
        (0, text.len())
    };
    let at = start + chance.below(end - start);
    match chance.below(8) {
        0 if at < end => drop(text.remove(at)),
        1 => text.insert(at, *chance.pick(b"0123456789abcdefABCDEFxX -+._/:%#")),
        2 if at < end => text[at] = *chance.pick(b"0123456789abcdefABCDEFxX -+._/:%#"),
        3 if at < end => {
            let escaped = format!("\\u{:04x}", text[at]);
            text.splice(at..=at, escaped.bytes());
        }
        4 => text[start..end].make_ascii_uppercase(),
        5 => drop(text.drain(at..end)),
        6 => {
            let copy = text[start..end].repeat(1 + chance.below(64));
            text.splice(at..at, copy);
        }
        _ => {
            let other = *chance.pick(&[
                "\\n",
                "\\\"",
                "\\ud83d\\ude00",
                "\u{e9}",
                "\u{202e}",
                "\\u0000",
                "..",
                "://",
                "%2e",
            ]);
            text.splice(at..at, other.bytes());
        }
    }
}

/// Where values and members stand, as far as the text is JSON.
fn spans(text: &[u8]) -> Spans {
    let mut spans = Spans::default();
    let mut reader = Reader {
        text,
        at: 0,
        spans: &mut spans,
    };
    let _ = reader.value(0);
    spans
}

struct Reader<'t, 's> {
    text: &'t [u8],
    at: usize,
    spans: &'s mut Spans,
}

impl Reader<'_, '_> {
    fn next(&mut self) -> Option<u8> {
        while self.text.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.next() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let first = self.next()?;
        let start = self.at;
        match first {
            b'{' | b'[' if depth > DEEPEST => return None,
            b'{' => self.items(b'}', |reader| reader.member(depth + 1))?,
            b'[' => self.items(b']', |reader| reader.value(depth + 1))?,
            b'"' => self.string()?,
            _ => {
                let rest = self.text[start..].iter();
                self.at += rest
                    .take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
                    .count();
            }
        }
        (self.at > start).then(|| self.spans.values.push(start..self.at))
    }

    fn items(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.at += 1;
        if self.take(close) {
            return Some(());
        }
        loop {
            item(self)?;
            if self.take(close) {
                return Some(());
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    fn member(&mut self, depth: usize) -> Option<()> {
        (self.next()? == b'"').then_some(())?;
        let start = self.at;
        self.string()?;
        let key = start..self.at;
        self.take(b':').then_some(())?;
        self.value(depth)?;
        self.spans.keys.push(key);
        self.spans.members.push(start..self.at);
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.text.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_and_member_is_found() {
        let text = br#" {"a": [1, "x\"", {}], "b":null}"#;
        let found = spans(text);
        let texts = |spans: &[Range<usize>]| -> Vec<String> {
            let text =
                |span: &Range<usize>| String::from_utf8(text[span.clone()].to_vec()).unwrap();
            spans.iter().map(text).collect()
        };
        assert_eq!(found.values.len(), 6);
        assert_eq!(texts(&found.keys), ["\"a\"", "\"b\""]);
        assert_eq!(texts(&found.members)[1], "\"b\":null");
        assert!(spans(b"").values.is_empty());
    }
}
