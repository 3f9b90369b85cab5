//! Ways through schemas.

use serde_json::Value;

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
