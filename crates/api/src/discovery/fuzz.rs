//! Fuzz target: schemas by strangers. Its inputs start from `crates/fuzz/corpus`.

use serde::Deserialize;
use serde_json::value::RawValue;
use teller_fuzz::{Fuzz, Shape};
use teller_protocol::extensions::MAX_SCHEMA_BYTES;

use super::schema::judge;

#[derive(Deserialize)]
struct Claim<'a> {
    #[serde(borrow)]
    info: &'a RawValue,
    #[serde(borrow)]
    schema: &'a RawValue,
}

/// Whatever a resource says of itself is judged, always the same, and a refusal is told in few words.
#[test]
fn every_claim_is_judged() {
    Fuzz::new("schema", Shape::Json).run(|data| {
        let Ok(Claim { info, schema }) = serde_json::from_slice(data) else {
            return false;
        };
        // As the extension's reader has it.
        if info.get().len().max(schema.get().len()) > MAX_SCHEMA_BYTES {
            return false;
        }
        let verdict = judge(info.get(), schema.get());
        assert_eq!(judge(info.get(), schema.get()), verdict);
        match verdict {
            Ok(()) => {}
            Err(unfit) => assert!(unfit.to_string().len() <= 1_024, "{unfit}"),
        }
        true
    });
}
