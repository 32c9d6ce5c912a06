//! Builder codes at the end of calldata (ERC-8021 schema 2, PROTOCOL section 7.5): whom a payment is attributed to.
//!
//! `CBOR map ++ length of the map (2 bytes) ++ 0x02 ++ 0x8021 x 8`. Contracts ignore calldata behind their arguments.

use alloy_primitives::{Bytes, hex};

/// The last 17 bytes of calldata that carries codes: the schema, then the marker.
const TAIL: [u8; 17] = hex!("0280218021802180218021802180218021");

/// The longest code.
pub const MAX_CODE_BYTES: usize = 32;
/// How many service codes a client's list is cut to.
pub const MAX_ECHOED_SERVICES: usize = 10;
/// How many service codes there are with the facilitator's own.
pub const MAX_SERVICES: usize = MAX_ECHOED_SERVICES + 1;
/// The longest map that is read: two codes, [`MAX_SERVICES`] services, and what CBOR puts between them.
pub const MAX_CBOR_BYTES: usize = 512;

/// A code: 1 to 32 of `a-z`, `0-9` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(String);

impl Code {
    /// `None` if the text is no code.
    pub fn new(text: &str) -> Option<Self> {
        let good = (1..=MAX_CODE_BYTES).contains(&text.len())
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        good.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The codes of one payment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuilderCodes {
    /// `a`: the app, from the client.
    pub app: Option<Code>,
    /// `w`: the facilitator.
    pub wallet: Option<Code>,
    /// `s`: services, from the client and the facilitator.
    pub services: Vec<Code>,
}

impl BuilderCodes {
    /// From what a client sent and the facilitator's own codes: what is no code is dropped, the services are cut to
    /// [`MAX_ECHOED_SERVICES`], and the facilitator's own is added if it is not among them.
    pub fn attribute<'a>(
        app: Option<&str>,
        services: impl Iterator<Item = &'a str>,
        wallet: Option<Code>,
        own_service: Option<Code>,
    ) -> Self {
        let mut services: Vec<_> = services
            .filter_map(Code::new)
            .take(MAX_ECHOED_SERVICES)
            .collect();
        if let Some(own) = own_service
            && !services.contains(&own)
        {
            services.push(own);
        }
        Self {
            app: app.and_then(Code::new),
            wallet,
            services,
        }
    }

    /// What to put behind the calldata; empty when there are no codes. Services beyond [`MAX_SERVICES`] are left out.
    pub fn suffix(&self) -> Bytes {
        let services = self.services.get(..MAX_SERVICES).unwrap_or(&self.services);
        let entries = [
            self.app.is_some(),
            self.wallet.is_some(),
            !services.is_empty(),
        ];
        let count = entries.into_iter().filter(|there| *there).count();
        if count == 0 {
            return Bytes::new();
        }
        let mut cbor = Vec::new();
        head(&mut cbor, MAP, count);
        for (key, code) in [("a", &self.app), ("w", &self.wallet)] {
            if let Some(code) = code {
                text(&mut cbor, key);
                text(&mut cbor, code.as_str());
            }
        }
        if !services.is_empty() {
            text(&mut cbor, "s");
            head(&mut cbor, ARRAY, services.len());
            for code in services {
                text(&mut cbor, code.as_str());
            }
        }
        // Fits: see MAX_CBOR_BYTES.
        let length = u16::try_from(cbor.len()).unwrap_or(u16::MAX);
        cbor.extend_from_slice(&length.to_be_bytes());
        cbor.extend_from_slice(&TAIL);
        cbor.into()
    }

    /// Reads the suffix of calldata and says how long it is. `None` if there is none, or one that is not of the form
    /// that [`suffix`](Self::suffix) writes (keys in any order).
    pub fn read(calldata: &[u8]) -> Option<(Self, usize)> {
        let rest = calldata.strip_suffix(&TAIL)?;
        let (rest, length) = rest.split_at_checked(rest.len().checked_sub(2)?)?;
        let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
        if length > MAX_CBOR_BYTES {
            return None;
        }
        let (_, cbor) = rest.split_at_checked(rest.len().checked_sub(length)?)?;
        let codes = read_map(cbor)?;
        Some((codes, length + 2 + TAIL.len()))
    }
}

/// CBOR major types (RFC 8949, section 3.1).
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

fn head(out: &mut Vec<u8>, major: u8, count: usize) {
    let major = major << 5;
    match u8::try_from(count) {
        Ok(small) if small <= 23 => out.push(major | small),
        Ok(byte) => out.extend_from_slice(&[major | 24, byte]),
        Err(_) => {
            let [high, low] = u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes();
            out.extend_from_slice(&[major | 25, high, low]);
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    head(out, TEXT, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn read_map(cbor: &[u8]) -> Option<BuilderCodes> {
    let mut rest = cbor;
    let entries = read_head(&mut rest, MAP)?;
    let mut codes = BuilderCodes::default();
    if !(1..=3).contains(&entries) {
        return None;
    }
    for _ in 0..entries {
        match read_text(&mut rest)? {
            "a" if codes.app.is_none() => codes.app = Some(Code::new(read_text(&mut rest)?)?),
            "w" if codes.wallet.is_none() => codes.wallet = Some(Code::new(read_text(&mut rest)?)?),
            "s" if codes.services.is_empty() => {
                let count = read_head(&mut rest, ARRAY)?;
                if !(1..=MAX_SERVICES).contains(&count) {
                    return None;
                }
                for _ in 0..count {
                    codes.services.push(Code::new(read_text(&mut rest)?)?);
                }
            }
            _ => return None,
        }
    }
    rest.is_empty().then_some(codes)
}

fn read_head(rest: &mut &[u8], major: u8) -> Option<usize> {
    let (first, more) = rest.split_first()?;
    if first >> 5 != major {
        return None;
    }
    let (count, more) = match first & 0x1f {
        small @ 0..=23 => (usize::from(small), more),
        24 => {
            let (byte, more) = more.split_first()?;
            (usize::from(*byte), more)
        }
        25 => {
            let (bytes, more) = more.split_at_checked(2)?;
            let bytes = bytes.try_into().ok()?;
            (usize::from(u16::from_be_bytes(bytes)), more)
        }
        _ => return None,
    };
    *rest = more;
    Some(count)
}

fn read_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = read_head(rest, TEXT)?;
    let (text, more) = rest.split_at_checked(length)?;
    *rest = more;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(text: &str) -> Code {
        Code::new(text).unwrap()
    }

    #[test]
    fn the_example_of_the_reference_is_written_and_read() {
        let codes = BuilderCodes {
            app: Some(code("bc_myapp")),
            ..BuilderCodes::default()
        };
        let expected =
            hex!("a1616168" "62635f6d79617070" "000c" "02" "80218021802180218021802180218021");
        assert_eq!(codes.suffix()[..], expected);
        let calldata = [&[1, 2, 3, 4][..], &expected].concat();
        assert_eq!(BuilderCodes::read(&calldata), Some((codes, expected.len())));
    }

    #[test]
    fn the_keys_come_as_a_w_s_and_services_are_always_an_array() {
        let codes = BuilderCodes {
            app: Some(code("x")),
            wallet: Some(code("y")),
            services: vec![code("z")],
        };
        let suffix = codes.suffix();
        assert_eq!(
            suffix[..13],
            hex!("a3" "61616178" "61776179" "617381617a")[..13]
        );
    }

    #[test]
    fn without_codes_there_is_no_suffix() {
        assert_eq!(BuilderCodes::default().suffix(), Bytes::new());
        assert_eq!(BuilderCodes::read(&[]), None);
        assert_eq!(BuilderCodes::read(&TAIL), None);
    }

    #[test]
    fn what_is_no_code_is_dropped_and_the_rest_is_cut() {
        for text in ["", "A", "a-b", "a b", "é", &"a".repeat(33)] {
            assert_eq!(Code::new(text), None, "{text}");
        }
        let sent: Vec<String> = (0..20).map(|i| format!("s{i}")).collect();
        let sent = std::iter::once("BAD").chain(sent.iter().map(String::as_str));
        let codes = BuilderCodes::attribute(Some("No!"), sent, None, Some(code("own")));
        assert_eq!(codes.app, None);
        assert_eq!(codes.services.len(), MAX_SERVICES);
        assert_eq!(codes.services[9], code("s9"));
        assert_eq!(codes.services[10], code("own"));
        let twice = BuilderCodes::attribute(None, ["own"].into_iter(), None, Some(code("own")));
        assert_eq!(twice.services, [code("own")]);
    }

    fn any_code() -> impl Strategy<Value = Code> {
        "[a-z0-9_]{1,32}".prop_map(|text| code(&text))
    }

    fn any_codes() -> impl Strategy<Value = BuilderCodes> {
        let (app, wallet) = (prop::option::of(any_code()), prop::option::of(any_code()));
        let services = prop::collection::vec(any_code(), 0..=MAX_SERVICES);
        (app, wallet, services).prop_map(|(app, wallet, services)| BuilderCodes {
            app,
            wallet,
            services,
        })
    }

    proptest! {
        #[test]
        fn every_suffix_reads_back(codes in any_codes(), calldata in prop::collection::vec(any::<u8>(), 0..100)) {
            let suffix = codes.suffix();
            prop_assume!(!suffix.is_empty());
            prop_assert!(suffix.len() <= MAX_CBOR_BYTES + 2 + TAIL.len());
            let whole = [&calldata[..], &suffix].concat();
            prop_assert_eq!(BuilderCodes::read(&whole), Some((codes, suffix.len())));
        }

        #[test]
        fn no_bytes_make_reading_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), codes in any_codes(), at: prop::sample::Index, byte: u8,
        ) {
            let _ = BuilderCodes::read(&bytes);
            bytes.extend_from_slice(&TAIL);
            let _ = BuilderCodes::read(&bytes);
            let mut suffix = codes.suffix().to_vec();
            prop_assume!(!suffix.is_empty());
            let at = at.index(suffix.len());
            suffix[at] = byte;
            let _ = BuilderCodes::read(&suffix);
        }
    }
}
