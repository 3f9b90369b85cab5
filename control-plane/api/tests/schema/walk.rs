//! Ways through schemas and documents.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use weir_api::{Kind, schema};

/// Where references of one document end.
pub(crate) const REFERENCE: &str = "#/components/schemas/";

/// The schemas of a kind's group.
pub(crate) type Components = Map<String, Value>;

/// The schemas right in a schema, each with how to get to it: `properties.name`, `items`, `oneOf[0]`.
pub(crate) fn children(schema: &Value) -> Vec<(String, &Value)> {
    let mut children = Vec::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        children.push((format!("properties.{name}"), property));
    }
    for key in ["items", "not", "additionalProperties"] {
        if schema[key].is_object() {
            children.push((key.to_owned(), &schema[key]));
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, child) in schema[key].as_array().into_iter().flatten().enumerate() {
            children.push((format!("{key}[{index}]"), child));
        }
    }
    children
}

/// The schema itself, or what it refers to.
pub(crate) fn resolved<'a>(components: &'a Components, schema: &'a Value) -> &'a Value {
    let target = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    match target {
        Some(target) => &components[target.strip_prefix(REFERENCE).expect("a local reference")],
        None => schema,
    }
}

/// Whether a schema leaves open what is in it.
pub(crate) fn is_open(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
        || (schema["type"] == "object" && !schema["properties"].is_object())
}

/// Every field and every listed word of a kind: `spec.ports[].port`, `spec.ports[].appProtocol=grpc`.
pub(crate) fn of_schema(kind: Kind) -> BTreeSet<String> {
    fn go(components: &Components, place: &str, schema: &Value, found: &mut BTreeSet<String>) {
        let schema = resolved(components, schema);
        for word in schema["enum"].as_array().into_iter().flatten() {
            found.insert(format!("{place}={word}"));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let place = if place.is_empty() {
                name.clone()
            } else {
                format!("{place}.{name}")
            };
            found.insert(place.clone());
            go(components, &place, property, found);
        }
        if schema["items"].is_object() {
            go(components, &format!("{place}[]"), &schema["items"], found);
        }
    }
    let mut found = BTreeSet::new();
    go(schema::components(kind.group()), "", schema::of(kind), &mut found);
    found
}

/// The fields and listed words that a document has.
pub(crate) fn of_document(kind: Kind, document: &Value) -> BTreeSet<String> {
    fn go(components: &Components, place: &str, schema: &Value, value: &Value, found: &mut BTreeSet<String>) {
        let schema = resolved(components, schema);
        if schema["enum"].is_array() {
            found.insert(format!("{place}={value}"));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(value) = value.get(name) {
                let place = if place.is_empty() {
                    name.clone()
                } else {
                    format!("{place}.{name}")
                };
                found.insert(place.clone());
                go(components, &place, property, value, found);
            }
        }
        if schema["items"].is_object() {
            for item in value.as_array().into_iter().flatten() {
                go(components, &format!("{place}[]"), &schema["items"], item, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    go(
        schema::components(kind.group()),
        "",
        schema::of(kind),
        document,
        &mut found,
    );
    found
}

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Field(String),
    Item(usize),
}

/// A place in a document, with its schema.
pub(crate) struct Place<'a> {
    pub(crate) steps: Vec<Step>,
    pub(crate) schema: &'a Value,
}

impl Place<'_> {
    /// Whether it is in what became of a resource: the control plane writes it, and the reader takes it as it is.
    pub(crate) fn is_status(&self) -> bool {
        self.steps.first() == Some(&Step::Field("status".to_owned()))
    }
}

/// Every place in a document that its schema describes.
pub(crate) fn places(kind: Kind, document: &Value) -> Vec<Place<'static>> {
    fn go(
        components: &'static Components,
        steps: &[Step],
        schema: &'static Value,
        value: &Value,
        found: &mut Vec<Place<'static>>,
    ) {
        let schema = resolved(components, schema);
        found.push(Place {
            steps: steps.to_vec(),
            schema,
        });
        let with = |step: Step| -> Vec<Step> { steps.iter().cloned().chain([step]).collect() };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(value) = value.get(name) {
                go(components, &with(Step::Field(name.clone())), property, value, found);
            }
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            if schema["items"].is_object() {
                go(components, &with(Step::Item(index)), &schema["items"], item, found);
            }
        }
        if schema["additionalProperties"].is_object() {
            for (key, value) in value.as_object().into_iter().flatten() {
                go(
                    components,
                    &with(Step::Field(key.clone())),
                    &schema["additionalProperties"],
                    value,
                    found,
                );
            }
        }
    }
    let mut found = Vec::new();
    go(
        schema::components(kind.group()),
        &[],
        schema::of(kind),
        document,
        &mut found,
    );
    found
}

/// What stands at a place.
pub(crate) fn at<'a>(document: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(document, |value, step| match step {
        Step::Field(name) => value.get_mut(name),
        Step::Item(index) => value.get_mut(index),
    })
}

/// A place as errors name it: `spec.ports[0].port`, `metadata.labels["a/b"]`.
pub(crate) fn path(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Item(index) => path.push_str(&format!("[{index}]")),
            Step::Field(name) => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
                if !name.bytes().all(plain) || name.is_empty() {
                    path.push_str(&format!("[{}]", Value::from(name.as_str())));
                } else {
                    path.push_str(if path.is_empty() { "" } else { "." });
                    path.push_str(name);
                }
            }
        }
    }
    path
}
