//! JSON-RPC 2.0: how a call is written, and how answers are told apart. Lenient in form, because nodes and what stands
//! before them differ: a byte order mark, `"error": null` beside a result, identifiers as text, an error that is only a
//! text. Strict in meaning: an answer belongs to exactly one call, and says either a result or an error.

use std::sync::atomic::{AtomicU64, Ordering};

use alloy_json_rpc::{ErrorPayload, RpcRecv};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::from_payload;
use crate::{CallError, NodeError};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a node answered to one call: the JSON of a result, or an error.
pub(crate) type Answer = Result<Box<RawValue>, CallError>;

/// One call as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// What its answer must carry. Unique in this process.
    pub(crate) id: u64,
    /// Its JSON.
    pub(crate) body: String,
}

#[derive(Serialize)]
struct Written<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'static str,
    params: &'a P,
}

impl Call {
    pub(crate) fn new<P: Serialize>(method: &'static str, params: &P) -> Result<Self, NodeError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let none: [(); 0] = [];
        let body = match std::mem::size_of::<P>() {
            // No parameters: some nodes refuse a null.
            0 => write(id, method, &none),
            _ => write(id, method, params),
        };
        body.map(|body| Self { id, body })
            .map_err(|_| NodeError::BadAnswer("the request could not be encoded"))
    }
}

fn write<P: Serialize>(
    id: u64,
    method: &'static str,
    params: &P,
) -> Result<String, serde_json::Error> {
    let jsonrpc = "2.0";
    serde_json::to_string(&Written {
        jsonrpc,
        id,
        method,
        params,
    })
}

/// An answer and the call that it says it belongs to.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) id: Option<u64>,
    pub(crate) answer: Answer,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u64),
    Text(String),
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(default)]
    id: Option<Id>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    /// What a node says unasked has one.
    #[serde(default)]
    method: Option<serde::de::IgnoredAny>,
}

impl Wire<'_> {
    fn is_unasked(&self) -> bool {
        self.method.is_some() && self.result.is_none() && self.error.is_none()
    }
}

/// Tells a null from nothing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What a node sent: one answer, or several of a batch. What it says unasked is left out.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Answered>, NodeError> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let many = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let wires: Vec<Wire<'_>> = match many {
        true => serde_json::from_slice(bytes),
        false => serde_json::from_slice(bytes).map(|wire| vec![wire]),
    }
    .map_err(|_| NodeError::BadAnswer("not JSON-RPC"))?;
    let answers = wires.into_iter().filter(|wire| !wire.is_unasked());
    answers.map(Answered::of).collect()
}

impl Answered {
    fn of(wire: Wire<'_>) -> Result<Self, NodeError> {
        let id = match wire.id {
            Some(Id::Number(id)) => Some(id),
            Some(Id::Text(text)) => text.parse().ok(),
            Some(Id::Other(_)) | None => None,
        };
        let answer = match (wire.result, wire.error) {
            (Some(result), None) => Ok(result.to_owned()),
            (Some(result), Some(error)) if result.get() == "null" => Err(read_error(error)),
            (None, Some(error)) => Err(read_error(error)),
            (Some(_), Some(_)) => {
                return Err(NodeError::BadAnswer("a result and an error"));
            }
            (None, None) => return Err(NodeError::BadAnswer("neither a result nor an error")),
        };
        Ok(Self { id, answer })
    }
}

/// An error object; or whatever a node puts in its place.
fn read_error(error: &RawValue) -> CallError {
    let value: Value = serde_json::from_str(error.get()).unwrap_or(Value::Null);
    let code = match value.get("code") {
        Some(Value::Number(code)) => code.as_i64().unwrap_or_default(),
        Some(Value::String(code)) => code.trim().parse().unwrap_or_default(),
        _ => 0,
    };
    let message = match (&value, value.get("message")) {
        (_, Some(Value::String(message))) | (Value::String(message), None) => message.clone(),
        _ => String::new(),
    };
    let data = value.get("data").filter(|data| !data.is_null());
    let data = data.and_then(|data| serde_json::value::to_raw_value(data).ok());
    from_payload(&ErrorPayload {
        code,
        message: message.into(),
        data,
    })
}

/// The answer to a call that was sent alone: what carries it says which call it belongs to, whatever its identifier.
pub(crate) fn alone(answered: Vec<Answered>) -> Answer {
    match <[Answered; 1]>::try_from(answered) {
        Ok([answered]) => answered.answer,
        Err(_) => Err(NodeError::BadAnswer("not one answer to one call").into()),
    }
}

/// The answers to calls that were sent together, in the order of the calls.
pub(crate) fn together(calls: &[Call], answered: Vec<Answered>) -> Result<Vec<Answer>, NodeError> {
    // Whoever refuses a batch whole says so once, for none of its calls.
    if let [Answered { id, answer }] = answered.as_slice()
        && let (true, Err(CallError::Node(error))) = (id.is_none() || calls.len() > 1, answer)
    {
        return Err(error.clone());
    }
    let mut places: Vec<Option<Answer>> = calls.iter().map(|_| None).collect();
    for Answered { id, answer } in answered {
        let place = calls.iter().zip(&mut places);
        let place = place
            .filter(|(call, _)| Some(call.id) == id)
            .map(|(_, place)| place)
            .next();
        match place {
            Some(place @ None) => *place = Some(answer),
            Some(Some(_)) => return Err(NodeError::BadAnswer("two answers to one call")),
            None => return Err(NodeError::BadAnswer("an answer to no call")),
        }
    }
    let whole: Option<Vec<Answer>> = places.into_iter().collect();
    whole.ok_or(NodeError::BadAnswer("a batch came back incomplete"))
}

/// Reads a result.
pub(crate) fn decode<R: RpcRecv>(answer: Answer) -> Result<R, CallError> {
    serde_json::from_str(answer?.get())
        .map_err(|_| NodeError::BadAnswer("not the JSON that was expected").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<u64, CallError> {
        decode(alone(read(text.as_bytes())?))
    }

    fn calls(ids: &[u64]) -> Vec<Call> {
        let body = String::new();
        let call = |id: &u64| Call {
            id: *id,
            body: body.clone(),
        };
        ids.iter().map(call).collect()
    }

    fn many(ids: &[u64], text: &str) -> Result<Vec<u64>, CallError> {
        let answers = together(&calls(ids), read(text.as_bytes())?)?;
        answers.into_iter().map(decode).collect()
    }

    #[test]
    fn a_call_without_parameters_has_an_empty_list() {
        let call = Call::new("eth_chainId", &()).unwrap();
        let value: Value = serde_json::from_str(&call.body).unwrap();
        assert_eq!(value["params"], serde_json::json!([]));
        assert_eq!(value["id"], call.id);
        let call = Call::new("eth_call", &(1, "latest")).unwrap();
        assert!(call.body.ends_with(r#""params":[1,"latest"]}"#));
    }

    #[test]
    fn the_form_of_an_answer_may_differ() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"result":5}"#,
            r#"{"id":1,"result":5,"error":null}"#,
            r#"{"error":null,"result":5,"id":"1","jsonrpc":"1.0","took":3}"#,
            "\u{feff}{\"result\":5}",
            "\u{feff} [{\"id\":null,\"result\":5}]\n",
            r#"{"id":{"odd":1},"result":5}"#,
        ] {
            assert_eq!(one(text), Ok(5), "{text}");
        }
        let null: Option<u64> = decode(alone(read(br#"{"id":1,"result":null}"#).unwrap())).unwrap();
        assert_eq!(null, None);
        let null = read(br#"{"id":1,"result":null,"error":null}"#).unwrap();
        assert_eq!(decode::<Option<u64>>(alone(null)), Ok(None));
    }

    #[test]
    fn an_error_is_one_whatever_stands_beside_it() {
        for (error, code, message) in [
            (r#"{"code":-32000,"message":"no"}"#, -32_000, "no"),
            (r#"{"code":"-32000","message":"no"}"#, -32_000, "no"),
            (r#"{"message":"no"}"#, 0, "no"),
            (r#""no""#, 0, "no"),
            (r#"{"code":-32000,"message":null}"#, -32_000, ""),
            ("true", 0, ""),
        ] {
            let expected = NodeError::Rpc {
                code,
                message: message.to_owned(),
            };
            for text in [
                format!(r#"{{"id":1,"error":{error}}}"#),
                format!(r#"{{"id":1,"result":null,"error":{error}}}"#),
            ] {
                assert_eq!(one(&text), Err(expected.clone().into()), "{text}");
            }
        }
    }

    #[test]
    fn what_has_two_meanings_or_none_is_no_answer() {
        for text in [
            r#"{"id":1,"result":5,"error":{"code":1,"message":"no"}}"#,
            r#"{"id":1}"#,
            r#"{"id":1,"result":5,"result":6}"#,
            r#"[{"id":1,"result":5},{"id":1,"result":6}]"#,
            r#"{"jsonrpc":"2.0","method":"eth_subscription","params":{}}"#,
            "[]",
            "5",
            "\"hello\"",
            "",
            "<html>",
        ] {
            assert!(
                matches!(one(text), Err(CallError::Node(NodeError::BadAnswer(_)))),
                "{text}"
            );
        }
    }

    #[test]
    fn every_answer_of_a_batch_belongs_to_one_call() {
        let both = r#"[{"id":"8","result":2},{"id":7,"result":1,"error":null}]"#;
        assert_eq!(many(&[7, 8], both), Ok(vec![1, 2]));
        for text in [
            r#"[{"id":7,"result":1}]"#,
            r#"[{"id":7,"result":1},{"id":7,"result":1}]"#,
            r#"[{"id":7,"result":1},{"id":9,"result":2}]"#,
            r#"[{"id":7,"result":1},{"id":8,"result":2},{"id":9,"result":2}]"#,
            r#"[{"result":1},{"result":2}]"#,
        ] {
            let read = many(&[7, 8], text);
            let bad = matches!(read, Err(CallError::Node(NodeError::BadAnswer(_))));
            assert!(bad, "{text}");
        }
        // Refused as a whole.
        for text in [
            r#"{"id":null,"error":{"code":-32600,"message":"too many"}}"#,
            r#"{"id":7,"error":{"code":-32600,"message":"too many"}}"#,
            r#"[{"id":null,"error":{"code":-32600,"message":"too many"}}]"#,
        ] {
            let refused = NodeError::Rpc {
                code: -32_600,
                message: "too many".to_owned(),
            };
            assert_eq!(many(&[7, 8], text), Err(refused.into()), "{text}");
        }
    }
}
