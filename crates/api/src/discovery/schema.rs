//! Whether what a resource says of itself satisfies the JSON Schema that it brings along (PROTOCOL section 7.4). Both are
//! written by strangers: what judging may cost is bounded before anything is judged.

use jsonschema::{Draft, PatternOptions};
use serde_json::Value;

/// How many nodes a schema has at most when every reference is followed: one schema may double itself with each.
const MOST_NODES: usize = 2_000;
/// How deep it is then at most. What refers to itself has no end.
const MOST_LEVELS: usize = 48;
/// How large a compiled pattern is at most, in bytes.
const PATTERN_BYTES: usize = 256 * 1024;
/// How much of a place in `info` is told.
const MOST_OF_A_PLACE: usize = 100;

/// Why a resource is not listed for what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("info or schema is no JSON that can be judged")]
    NoJson,
    #[error("the schema is too large, or refers to itself, when its references are followed")]
    TooLarge,
    #[error(
        "a reference in the schema is none that leads to a place in it: # or #/ and a JSON pointer"
    )]
    LostReference,
    #[error("the schema is no JSON Schema of draft 2020-12, or has a pattern that is too large")]
    NoSchema,
    #[error("info does not satisfy its schema at {0:?}")]
    Unsatisfied(String),
    #[error("info could not be judged")]
    Unjudged,
}

/// Judges `info` by `schema`. Takes milliseconds at the worst; to be called where that harms nobody.
pub(crate) fn judge(info: &str, schema: &str) -> Result<(), Unfit> {
    let parsed = |text| serde_json::from_str::<Value>(text).map_err(|_| Unfit::NoJson);
    let (info, schema) = (parsed(info)?, parsed(schema)?);
    let mut left = MOST_NODES;
    weigh(&schema, &schema, MOST_LEVELS, &mut left)?;
    let patterns = PatternOptions::regex()
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES);
    let validator = jsonschema::options()
        .offline()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(patterns)
        .should_validate_formats(false)
        .build(&schema)
        .map_err(|_| Unfit::NoSchema)?;
    validator.validate(&info).map_err(|error| {
        let place = error.instance_path().to_string();
        Unfit::Unsatisfied(place.chars().take(MOST_OF_A_PLACE).collect())
    })
}

/// Counts the nodes of a schema with every reference followed.
fn weigh(node: &Value, root: &Value, levels: usize, left: &mut usize) -> Result<(), Unfit> {
    let levels = levels.checked_sub(1).ok_or(Unfit::TooLarge)?;
    *left = left.checked_sub(1).ok_or(Unfit::TooLarge)?;
    match node {
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| weigh(item, root, levels, left)),
        Value::Object(members) => members.iter().try_for_each(|(key, value)| {
            match (key.as_str(), value) {
                ("$ref", Value::String(reference)) => {
                    let found = target(root, reference).ok_or(Unfit::LostReference)?;
                    weigh(found, root, levels, left)
                }
                // Their targets depend on how they were come by.
                ("$dynamicRef" | "$recursiveRef", Value::String(_)) => Err(Unfit::LostReference),
                _ => weigh(value, root, levels, left),
            }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// What a reference leads to: everything, or what a JSON pointer names. Percent signs would need decoding first.
fn target<'v>(root: &'v Value, reference: &str) -> Option<&'v Value> {
    let pointer = reference.strip_prefix('#')?;
    if pointer.contains('%') {
        return None;
    }
    root.pointer(pointer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn verdict(info: Value, schema: Value) -> Result<(), Unfit> {
        judge(&info.to_string(), &schema.to_string())
    }

    #[test]
    fn info_must_satisfy_its_schema() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"input": {"$ref": "#/$defs/input"}},
            "required": ["input"],
            "$defs": {"input": {"type": "object", "properties": {"type": {"const": "http"}}}},
        });
        assert_eq!(
            verdict(json!({"input": {"type": "http"}}), schema.clone()),
            Ok(())
        );
        let wrong = verdict(json!({"input": {"type": "mcp"}}), schema.clone());
        assert_eq!(wrong, Err(Unfit::Unsatisfied("/input/type".to_owned())));
        assert!(matches!(
            verdict(json!({}), schema),
            Err(Unfit::Unsatisfied(_))
        ));
        assert_eq!(verdict(json!({}), json!({})), Ok(()));
    }

    #[test]
    fn a_place_that_is_told_is_short() {
        let schema =
            json!({"additionalProperties": false, "patternProperties": {"^x": {"type": "number"}}});
        let Err(Unfit::Unsatisfied(place)) = verdict(json!({"x".repeat(500): "y"}), schema) else {
            panic!("it is no number");
        };
        assert!(place.len() <= MOST_OF_A_PLACE);
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for schema in [
            json!({"type": "nothing"}),
            json!({"properties": 1}),
            json!({"pattern": "("}),
            json!({"pattern": "(a{1000}){1000}"}),
        ] {
            assert_eq!(verdict(json!({}), schema), Err(Unfit::NoSchema));
        }
        assert_eq!(judge("{", "{}"), Err(Unfit::NoJson));
    }

    #[test]
    fn references_stay_inside_and_come_to_an_end() {
        for schema in [
            json!({"$ref": "https://evil.example/schema"}),
            json!({"$ref": "other.json"}),
            json!({"$ref": "#/nowhere"}),
            json!({"$ref": "#anchor", "$anchor": "anchor"}),
            json!({"$ref": "#/%24defs"}),
            json!({"$dynamicRef": "#x"}),
        ] {
            assert_eq!(
                verdict(json!({}), schema.clone()),
                Err(Unfit::LostReference),
                "{schema}"
            );
        }
        for schema in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ] {
            assert_eq!(verdict(json!({}), schema), Err(Unfit::TooLarge));
        }
    }

    #[test]
    fn a_schema_that_doubles_itself_is_refused_at_once() {
        let mut definitions = serde_json::Map::new();
        for level in 0..40 {
            let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
            definitions.insert(format!("d{level}"), json!({"allOf": [next, next]}));
        }
        definitions.insert("d40".to_owned(), json!({}));
        let schema = json!({"$ref": "#/$defs/d0", "$defs": definitions});
        // Followed to its end it would have 2^40 nodes.
        assert_eq!(verdict(json!({}), schema), Err(Unfit::TooLarge));
    }

    #[test]
    fn the_worst_that_is_allowed_is_judged() {
        let each: Vec<Value> = (0..400)
            .map(|number| json!({"items": {"pattern": format!("^(a|aa)+{number}$")}}))
            .collect();
        let schema = json!({"anyOf": each});
        let items = vec![json!("a".repeat(20)); 600];
        // An engine that backtracks would need 2^20 steps for each of 240,000 pairs.
        assert!(verdict(json!(items), schema).is_err());
    }

    proptest! {
        #[test]
        fn no_schema_makes_it_panic(
            keyword in "(type|items|allOf|not|required|pattern|enum|minimum|if|then|dependentSchemas|\\$id|\\$ref|\\$schema|format|prefixItems|contains)",
            value in "[\\[\\]{}\"a-z0-9:,#/^$*+()-]{0,24}",
            info in "[\\[\\]{}\"a-z0-9:,]{0,24}",
        ) {
            let _ = judge(&info, &format!("{{\"{keyword}\":{value}}}"));
            let _ = judge("{}", &format!("{{\"{keyword}\":\"{value}\"}}"));
        }
    }
}
