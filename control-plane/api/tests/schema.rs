//! The schemas of all kinds: that they are whole, and that they and the strict reader say the same.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use weir_api::{Kind, Object, schema, yaml};

#[path = "schema/agree.rs"]
mod agree;
#[path = "schema/any.rs"]
mod any;
#[path = "schema/check.rs"]
mod check;
#[path = "schema/reference.rs"]
mod reference;
#[path = "schema/rules.rs"]
mod rules;
#[path = "schema/walk.rs"]
mod walk;

use walk::REFERENCE;

/// A kind's text in a folder of testdata.
fn text(folder: &str, kind: Kind) -> String {
    let name = format!("tests/testdata/{folder}/{}.yaml", kind.singular());
    std::fs::read_to_string(&name).unwrap_or_else(|error| panic!("{name}: {error}: every kind needs one"))
}

/// The documents of a kind in a folder of testdata.
fn documents(folder: &str, kind: Kind) -> Vec<Value> {
    let documents = yaml::read(&text(folder, kind), folder).unwrap_or_else(|errors| panic!("{errors:?}"));
    documents.into_iter().map(|document| document.value).collect()
}

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
                let is_extension = key.starts_with("x-kubernetes-")
                    || matches!(key.as_str(), "x-weir-form" | "x-weir-minimum" | "x-weir-maximum");
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

#[test]
fn samples_use_every_field_and_are_right() {
    let metadata = |place: &String| place.starts_with("metadata.");
    let mut of_metadata = BTreeSet::new();
    for &kind in Kind::ALL {
        let mut used = BTreeSet::new();
        for document in documents("samples", kind) {
            assert_eq!(check::resource(kind, &document), Vec::<String>::new(), "{kind}");
            let object = Object::parse(document.clone()).unwrap_or_else(|errors| panic!("{kind}: {errors:?}"));
            assert_eq!(object.kind(), kind);
            used.extend(walk::of_document(kind, &document));
        }
        of_metadata.extend(used.iter().filter(|place| metadata(place)).cloned());
        let told = walk::of_schema(kind);
        let missing: Vec<&String> = told.difference(&used).filter(|place| !metadata(place)).collect();
        assert!(missing.is_empty(), "{kind}: the samples lack {missing:#?}");
    }
    let told = walk::of_schema(Kind::Service);
    let told: BTreeSet<String> = told.into_iter().filter(metadata).collect();
    assert_eq!(of_metadata, told, "of all samples together");
}

#[test]
fn schema_and_reader_say_the_same_of_every_small_change() {
    let mut wrong = Vec::new();
    for &kind in Kind::ALL {
        let mut changes = 0;
        let mut seen = HashSet::new();
        for document in documents("samples", kind) {
            for change in agree::changes(kind, &document, &mut seen) {
                changes += 1;
                wrong.extend(agree::disagreement(kind, &change).map(|problem| format!("{kind}: {problem}")));
            }
        }
        assert!(changes > 50, "{kind}: {changes} changes are too few to show anything");
    }
    assert!(wrong.is_empty(), "{} disagreements\n{}", wrong.len(), wrong.join("\n"));
}

/// What the reader fills in is the schema's default, and it fills in nothing else.
#[test]
fn defaults_are_what_the_reader_fills_in() {
    let mut seen = 0;
    for &kind in Kind::ALL {
        for document in documents("samples", kind) {
            for place in walk::places(kind, &document) {
                if place.is_status() {
                    continue;
                }
                let schema = place.schema;
                for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                    let mut without = document.clone();
                    let fields = walk::at(&mut without, &place.steps).and_then(Value::as_object_mut);
                    fields.expect("it has fields").remove(name);
                    let Ok(object) = Object::parse(without) else { continue };
                    let mut filled = object.to_value();
                    let object = walk::at(&mut filled, &place.steps).cloned().unwrap_or_default();
                    let filled = object.get(name).cloned();
                    let place = format!("{kind}: {}.{name}", walk::path(&place.steps));
                    // It depends on where the resource is sent to.
                    if name == "namespace" && place.ends_with("metadata.namespace") {
                        continue;
                    }
                    let default = property
                        .get("default")
                        .or_else(|| default_of_variant(schema, &object, name));
                    // Where it depends on other fields, it is told in words.
                    if default.is_none()
                        && property["description"]
                            .as_str()
                            .is_some_and(|text| text.contains("Default: "))
                    {
                        continue;
                    }
                    assert_eq!(filled.as_ref(), default, "{place}");
                    seen += usize::from(filled.is_some());
                }
            }
        }
    }
    assert!(seen > 30, "{seen} defaults are too few");
}

/// The default of a field that only the variant has which the object is of.
fn default_of_variant<'a>(schema: &'a Value, object: &Value, name: &str) -> Option<&'a Value> {
    let is_it = |variant: &&Value| {
        let word = variant["properties"]["type"]["enum"][0].as_str();
        word.is_some() && object["type"].as_str() == word
    };
    let variant = schema["oneOf"].as_array()?.iter().find(is_it)?;
    variant["properties"][name].get("default")
}

#[test]
fn what_a_schema_takes_reads_but_for_rules_that_are_told() {
    for &kind in Kind::ALL {
        let mut runner = TestRunner::new(ProptestConfig::with_cases(100));
        let read = runner.run(&any::resources(kind), |document| {
            prop_assert_eq!(check::resource(kind, &document), Vec::<String>::new());
            let errors = Object::parse(document).err().unwrap_or_default();
            for error in &errors {
                prop_assert!(rules::is_told(kind, error), "a rule that is not told: {}", error);
            }
            Ok(())
        });
        if let Err(error) = read {
            panic!("{kind}: {error}");
        }
    }
}

#[test]
fn examples_are_right() {
    for &kind in Kind::ALL {
        for document in documents("examples", kind) {
            assert_eq!(check::resource(kind, &document), Vec::<String>::new(), "{kind}");
            let object = Object::parse(document).unwrap_or_else(|errors| panic!("{kind}: {errors:?}"));
            assert_eq!(object.kind(), kind);
        }
    }
}

#[test]
fn the_reference_is_as_the_schemas_are() {
    let page = reference::page(|kind| text("examples", kind));
    let name = "../../docs/reference.md";
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(name, &page).expect("docs can be written");
    }
    let written = std::fs::read_to_string(name).unwrap_or_default();
    let line = page.lines().zip(written.lines()).position(|(new, old)| new != old);
    let line = line.unwrap_or(page.lines().count().min(written.lines().count())) + 1;
    assert!(
        page == written,
        "docs/reference.md is stale at line {line}: run ./dev docs, or this test with UPDATE_EXPECT=1"
    );
}
