//! Whether a document is as its schema says: the part of OpenAPI 3.0 that our schemas use, and no more; an unknown key
//! fails `schemas_are_those_of_openapi`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex};

use regex::Regex;
use serde_json::{Value, json};
use weir_api::{Kind, duration, schema};

use crate::walk::{Components, REFERENCE};

/// What is wrong with a resource by its schema.
pub(crate) fn resource(kind: Kind, document: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    check(
        schema::components(kind.group()),
        schema::of(kind),
        "",
        document,
        &mut wrong,
    );
    wrong
}

pub(crate) fn is_match(pattern: &str, text: &str) -> bool {
    static PATTERNS: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
    let mut patterns = PATTERNS.lock().expect("no test panics with it");
    let compiled = patterns
        .entry(pattern.to_owned())
        .or_insert_with(|| Regex::new(pattern).unwrap_or_else(|error| panic!("{error}")));
    compiled.is_match(text)
}

fn check(components: &Components, schema: &Value, place: &str, value: &Value, wrong: &mut Vec<String>) {
    let holds = |schema: &Value| {
        let mut wrong = Vec::new();
        check(components, schema, place, value, &mut wrong);
        wrong.is_empty()
    };
    if let Some(target) = schema["$ref"].as_str() {
        let name = target.strip_prefix(REFERENCE).expect("a local reference");
        check(components, &components[name], place, value, wrong);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        check(components, part, place, value, wrong);
    }
    if let Some(parts) = schema["anyOf"].as_array()
        && !parts.iter().any(holds)
    {
        wrong.push(format!("{place}: none of anyOf"));
    }
    if let Some(parts) = schema["oneOf"].as_array() {
        let holding = parts.iter().filter(|part| holds(part)).count();
        if holding != 1 {
            wrong.push(format!("{place}: {holding} of oneOf"));
        }
    }
    if schema["not"].is_object() && holds(&schema["not"]) {
        wrong.push(format!("{place}: not"));
    }
    let is_type = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("unknown type {other}"),
    };
    if !is_type {
        wrong.push(format!("{place}: not {}", schema["type"]));
        return;
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        wrong.push(format!("{place}: enum"));
    }
    match value {
        Value::Number(_) => check_number(schema, place, value, wrong),
        Value::String(text) => check_text(schema, place, text, wrong),
        Value::Array(items) => {
            check_count(schema, place, items.len(), ["minItems", "maxItems"], wrong);
            for (index, item) in items.iter().enumerate() {
                if schema["items"].is_object() {
                    check(components, &schema["items"], &format!("{place}[{index}]"), item, wrong);
                }
            }
        }
        Value::Object(fields) => {
            check_count(schema, place, fields.len(), ["minProperties", "maxProperties"], wrong);
            for needed in schema["required"].as_array().into_iter().flatten() {
                if !fields.contains_key(needed.as_str().expect("a name")) {
                    wrong.push(format!("{place}: {needed} is missing"));
                }
            }
            for (name, field) in fields {
                let place = format!("{place}.{name}");
                match (schema["properties"].get(name), &schema["additionalProperties"]) {
                    (Some(property), _) => check(components, property, &place, field, wrong),
                    (None, Value::Bool(false)) => wrong.push(format!("{place}: unknown")),
                    (None, more @ Value::Object(_)) => check(components, more, &place, field, wrong),
                    (None, _) => {}
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_number(schema: &Value, place: &str, value: &Value, wrong: &mut Vec<String>) {
    if value.is_f64() {
        let is_beyond = |key: &str, beyond: fn(&f64, &f64) -> bool| {
            let bound = schema[key].as_f64();
            bound
                .zip(value.as_f64())
                .is_some_and(|(bound, held)| beyond(&held, &bound))
        };
        if is_beyond("minimum", f64::lt) || is_beyond("maximum", f64::gt) {
            wrong.push(format!("{place}: bounds"));
        }
        return;
    }
    // Whole numbers of resources fit into i128.
    let whole = |value: &Value| {
        value
            .as_i64()
            .map(i128::from)
            .or_else(|| value.as_u64().map(i128::from))
    };
    let Some(number) = whole(value) else { return };
    if whole(&schema["minimum"]).is_some_and(|least| number < least) {
        wrong.push(format!("{place}: minimum"));
    }
    if whole(&schema["maximum"]).is_some_and(|most| number > most) {
        wrong.push(format!("{place}: maximum"));
    }
}

fn check_text(schema: &Value, place: &str, text: &str, wrong: &mut Vec<String>) {
    check_count(schema, place, text.chars().count(), ["minLength", "maxLength"], wrong);
    if schema["pattern"]
        .as_str()
        .is_some_and(|pattern| !is_match(pattern, text))
    {
        wrong.push(format!("{place}: pattern"));
    }
    if schema["format"] == json!("ip") && text.parse::<IpAddr>().is_err() {
        wrong.push(format!("{place}: format"));
    }
    let bound = |key: &str| {
        schema[key]
            .as_str()
            .map(|text| duration::parse(text).expect("a duration"))
    };
    if let (Some(least), Some(most)) = (bound("x-weir-minimum"), bound("x-weir-maximum")) {
        let held = duration::parse(text);
        if !held.is_ok_and(|held| (least..=most).contains(&held)) {
            wrong.push(format!("{place}: duration"));
        }
    }
}

fn check_count(schema: &Value, place: &str, count: usize, bounds: [&str; 2], wrong: &mut Vec<String>) {
    let bound = |key: &str| schema[key].as_u64().map(|bound| usize::try_from(bound).expect("small"));
    let [least, most] = bounds.map(bound);
    if least.is_some_and(|least| count < least) || most.is_some_and(|most| count > most) {
        wrong.push(format!("{place}: {}", bounds.join(" ")));
    }
}
