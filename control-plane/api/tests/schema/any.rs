//! Any document that a schema takes.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::string::string_regex;
use serde_json::{Map, Value, json};
use weir_api::{Kind, duration, schema};

use crate::check::is_match;
use crate::walk::{Components, is_open, resolved};

/// Resources of a kind.
pub(crate) fn resources(kind: Kind) -> BoxedStrategy<Value> {
    any_of(schema::components(kind.group()), schema::of(kind))
}

fn any_of(components: &'static Components, schema: &'static Value) -> BoxedStrategy<Value> {
    let schema = resolved(components, schema);
    if let Some(words) = schema["enum"].as_array() {
        return select(words.clone()).boxed();
    }
    if let Some(parts) = schema["anyOf"].as_array() {
        let parts: Vec<_> = parts.iter().map(|part| any_of(components, part)).collect();
        return proptest::strategy::Union::new(parts).boxed();
    }
    match schema["type"].as_str() {
        Some("object") if is_open(schema) => any_map(components, schema),
        Some("object") => any_object(components, schema),
        Some("array") => {
            let bound = |key: &str| schema[key].as_u64().map(|count| usize::try_from(count).expect("small"));
            let least = bound("minItems").unwrap_or(0);
            let most = bound("maxItems").unwrap_or(usize::MAX).min(least + 3);
            let items = vec(any_of(components, &schema["items"]), least..=most);
            // Some hold an item twice.
            let twice = prop_oneof![3 => Just(0), 1 => Just(1)];
            let items = (items, twice).prop_map(move |(mut items, twice)| {
                let again: Vec<Value> = items.iter().take(twice).cloned().collect();
                items.extend(again);
                items.truncate(most);
                Value::from(items)
            });
            items.boxed()
        }
        Some("string") => any_text(schema),
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("integer") => {
            let least = schema["minimum"].as_i64().unwrap_or(0);
            let most = schema["maximum"].as_i64().unwrap_or(i64::MAX);
            prop_oneof![least..=most, Just(least), Just(most)]
                .prop_map(Value::from)
                .boxed()
        }
        Some("number") => {
            let bound = |key: &str, default| schema[key].as_f64().unwrap_or(default);
            let (least, most) = (bound("minimum", f64::MIN), bound("maximum", f64::MAX));
            // Most are such as people write; how many decimals there may be is a rule.
            let written = (least * 100.0) as i64..=(most * 100.0) as i64;
            let written = written.prop_map(|hundredths| hundredths as f64 / 100.0);
            prop_oneof![4 => written, 1 => least..=most]
                .prop_map(Value::from)
                .boxed()
        }
        other => panic!("no documents for the type {other:?}"),
    }
}

/// An object with the fields that it needs and some others; of one of its variants, if it has such.
fn any_object(components: &'static Components, schema: &'static Value) -> BoxedStrategy<Value> {
    static NONE: Value = Value::Null;
    let variants = match schema["oneOf"].as_array() {
        Some(variants) => variants.iter().collect(),
        None => vec![&NONE],
    };
    select(variants)
        .prop_flat_map(move |variant| variant_of(components, schema, variant))
        .boxed()
}

fn variant_of(
    components: &'static Components,
    schema: &'static Value,
    variant: &'static Value,
) -> BoxedStrategy<Value> {
    let names = |schema: &Value| schema["required"].as_array().cloned().unwrap_or_default();
    let needed: Vec<Value> = names(schema).into_iter().chain(names(variant)).collect();
    let many = variant["not"]["anyOf"].as_array().into_iter().flatten();
    let foreign: Vec<Value> = many.chain([&variant["not"]]).flat_map(names).collect();
    let mut fields: BoxedStrategy<Map<String, Value>> = Just(Map::new()).boxed();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if foreign.contains(&json!(name)) {
            continue;
        }
        let own = &variant["properties"][name];
        let value = if let Some(words) = own["enum"].as_array() {
            select(words.clone()).boxed()
        } else if own["pattern"].is_string() {
            any_text(own)
        } else {
            any_of(components, property)
        };
        let is_needed = needed.contains(&json!(name));
        let value = if is_needed {
            value.prop_map(Some).boxed()
        } else {
            proptest::option::of(value).boxed()
        };
        let name = name.clone();
        fields = (fields, value)
            .prop_map(move |(mut fields, value)| {
                fields.extend(value.map(|value| (name.clone(), value)));
                fields
            })
            .boxed();
    }
    fields.prop_map(Value::Object).boxed()
}

fn any_map(components: &'static Components, schema: &'static Value) -> BoxedStrategy<Value> {
    if !schema["additionalProperties"].is_object() {
        return Just(json!({"a": 1})).boxed();
    }
    // Keys are right for the most part: what they may be is a rule.
    let keys = prop_oneof![8 => "[a-z]{1,8}(/[A-Z]{1,3})?", 1 => ".{0,4}"];
    let values = any_of(components, &schema["additionalProperties"]);
    btree_map(keys, values, 0..3)
        .prop_map(|entries| Value::Object(entries.into_iter().collect()))
        .boxed()
}

fn any_text(schema: &'static Value) -> BoxedStrategy<Value> {
    if schema["format"] == "ip" {
        let v4 = any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string());
        let v6 = any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string());
        return prop_oneof![v4, v6].prop_map(Value::from).boxed();
    }
    if let (Some(least), Some(most)) = (schema["x-weir-minimum"].as_str(), schema["x-weir-maximum"].as_str()) {
        let millis = |text| u64::try_from(duration::parse(text).expect("a duration").as_millis()).expect("fits");
        let time = (millis(least)..=millis(most)).prop_map(std::time::Duration::from_millis);
        return time.prop_map(|time| Value::from(duration::format(time))).boxed();
    }
    let length = |key: &str, default| {
        schema[key]
            .as_u64()
            .map_or(default, |count| usize::try_from(count).expect("small"))
    };
    let lengths = length("minLength", 0)..=length("maxLength", usize::MAX);
    let pattern = schema["pattern"].as_str().unwrap_or("^.{0,20}$");
    // Proptest makes whole texts, and knows no anchors.
    let whole = pattern.trim_start_matches('^').trim_end_matches('$');
    let texts = string_regex(whole).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    let fits = move |text: &String| lengths.contains(&text.chars().count()) && is_match(pattern, text);
    texts.prop_filter("its length", fits).prop_map(Value::from).boxed()
}
