//! The schemas of all kinds: that they are whole, and that they and the strict reader say the same.

use std::collections::BTreeSet;

use serde_json::Value;
use weir_api::{Kind, schema};

#[path = "schema/walk.rs"]
mod walk;

/// What a name may end with in a reference.
const REFERENCE: &str = "#/components/schemas/";

fn groups() -> BTreeSet<&'static str> {
    Kind::ALL.iter().map(|kind| kind.group()).collect()
}

/// Calls `see` for each schema of a group with where it stands: `io.k8s.api.core.v1.ServiceSpec.ports.items`.
fn each_schema(group: &str, mut see: impl FnMut(&str, &Value)) {
    fn go(place: &str, schema: &Value, see: &mut dyn FnMut(&str, &Value)) {
        see(place, schema);
        for (step, child) in walk::children(schema) {
            go(&format!("{place}.{step}"), child, see);
        }
    }
    for (name, component) in schema::components(group) {
        go(name, component, &mut see);
    }
}

#[test]
fn every_kind_has_a_component_and_its_list() {
    for &kind in Kind::ALL {
        let component = schema::of(kind);
        let named = &component["x-kubernetes-group-version-kind"][0];
        assert_eq!(named["group"], kind.group());
        assert_eq!(named["version"], kind.version());
        assert_eq!(named["kind"], kind.kind());
        let list = &schema::components(kind.group())[&schema::list_name(kind)];
        let items = list["properties"]["items"]["items"]["$ref"].as_str();
        assert_eq!(items, Some(format!("{REFERENCE}{}", schema::name(kind)).as_str()));
    }
    assert!(schema::components("example.org").is_empty());
}

#[test]
fn references_end_within_their_group() {
    for group in groups() {
        let components = schema::components(group);
        each_schema(group, |place, schema| {
            if let Some(target) = schema["$ref"].as_str() {
                let name = target.strip_prefix(REFERENCE).unwrap_or_default();
                assert!(components.contains_key(name), "{place}: {target}");
            }
        });
    }
}

#[test]
fn every_field_is_described_in_words_of_the_yaml() {
    for group in groups() {
        each_schema(group, |place, schema| {
            let description = schema["description"].as_str().unwrap_or_default();
            // Words of Rust that a doc comment may hold and that mean nothing to who writes YAML.
            for foreign in ["[`", "Option<", "Vec<"] {
                assert!(!description.contains(foreign), "{place}: {description}");
            }
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                // What stands in a branch of oneOf is described outside of it.
                if !place.contains(".oneOf") {
                    assert!(property["description"].is_string(), "{place}.{name} has no description");
                }
            }
        });
    }
}

/// OpenAPI 3.0, as Kubernetes reads it, knows no other keys; a type that has two schemas gets a number behind its name.
#[test]
fn schemas_are_those_of_openapi() {
    let known = BTreeSet::from([
        "$ref",
        "additionalProperties",
        "allOf",
        "anyOf",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "not",
        "oneOf",
        "pattern",
        "properties",
        "required",
        "type",
    ]);
    for group in groups() {
        for name in schema::components(group).keys() {
            assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name}");
        }
        each_schema(group, |place, schema| {
            for key in schema.as_object().expect("a schema is an object").keys() {
                let is_known = known.contains(key.as_str());
                let is_extension =
                    key.starts_with("x-kubernetes-") || matches!(key.as_str(), "x-weir-minimum" | "x-weir-maximum");
                assert!(is_known || is_extension, "{place}: {key}");
            }
            assert!(
                schema["type"].is_string() || schema["type"].is_null(),
                "{place}: {}",
                schema["type"]
            );
        });
    }
}
