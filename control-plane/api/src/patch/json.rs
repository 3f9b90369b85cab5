//! JSON patch (RFC 6902), bounded: copies and moves can make much of little.

use json_patch::PatchOperation;
use serde::Deserialize;
use serde_json::Value;

use super::PatchError;

pub(super) fn read(value: Value) -> Result<json_patch::Patch, PatchError> {
    let operations = match &value {
        Value::Array(operations) => operations.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            return Err(PatchError::Shape(
                "a JSON patch is a list of operations (RFC 6902)".to_owned(),
            ));
        }
    };
    if operations > OPERATIONS_MAX {
        return Err(PatchError::Operations(operations));
    }
    json_patch::Patch::deserialize(value)
        .map_err(|error| PatchError::Shape(format!("a JSON patch is a list of operations (RFC 6902): {error}")))
}

pub(super) fn apply(target: &mut Value, patch: &json_patch::Patch) -> Result<(), PatchError> {
    let mut copied = 0;
    for (index, operation) in patch.iter().enumerate() {
        let wrong = |problem: String| PatchError::Operation { index, problem };
        copied += bounded(target, operation).map_err(wrong)?;
        if copied > COPIED_BYTES_MAX {
            let problem =
                format!("copies more than {COPIED_BYTES_MAX} bytes, with those before; send the values instead");
            return Err(wrong(problem));
        }
        let one = std::slice::from_ref(operation);
        json_patch::patch(target, one).map_err(|error| wrong(format!("{operation}: {}", error.kind)))?;
    }
    Ok(())
}

/// How much an operation copies, in bytes of JSON. Refused: what would nest deeper than JSON may come in.
fn bounded(target: &Value, operation: &PatchOperation) -> Result<usize, String> {
    let (path, value, bytes) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value), 0),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value), 0),
        PatchOperation::Move(moved) => (&moved.path, target.pointer(moved.from.as_str()), 0),
        PatchOperation::Copy(copy) => {
            let value = target.pointer(copy.from.as_str());
            (&copy.path, value, value.map_or(0, |value| value.to_string().len()))
        }
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(0),
    };
    let deep = path.count() + value.map_or(0, depth);
    if deep > DEPTH_MAX {
        return Err(format!("nests {deep} levels deep; at most {DEPTH_MAX} are right"));
    }
    Ok(bytes)
}

fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    1 + below.unwrap_or(0)
}

/// Kubernetes' own limit.
pub(super) const OPERATIONS_MAX: usize = 10_000;
/// More than any resource has.
const COPIED_BYTES_MAX: usize = 4 << 20;
/// As deep as JSON is read.
const DEPTH_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(patch: Value) -> Result<Value, String> {
        let mut target = json!({"a": {"b": [1, 2]}, "c": "x"});
        let patch = read(patch).map_err(|error| error.to_string())?;
        apply(&mut target, &patch).map_err(|error| error.to_string())?;
        Ok(target)
    }

    #[test]
    fn operations_do_what_the_rfc_says() {
        let patch = json!([
            {"op": "test", "path": "/c", "value": "x"},
            {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "copy", "from": "/a/b", "path": "/d"},
            {"op": "replace", "path": "/d/0", "value": 9},
            {"op": "move", "from": "/c", "path": "/e~1f"},
            {"op": "remove", "path": "/a/b/0"},
        ]);
        let expect = json!({"a": {"b": [2, 3]}, "d": [9, 2, 3], "e/f": "x"});
        assert_eq!(patched(patch), Ok(expect));
    }

    #[test]
    fn what_can_not_be_done_is_said_with_its_place() {
        let test = json!({"op": "test", "path": "/c", "value": "x"});
        for (patch, expect) in [
            (json!({}), "a JSON patch is a list of operations (RFC 6902)"),
            (
                json!([{"op": "add"}]),
                "a JSON patch is a list of operations (RFC 6902): missing field `path`",
            ),
            (json!([{"op": "grow", "path": ""}]), "unknown variant `grow`"),
            (
                json!([{"op": "add", "path": "a", "value": 1}]),
                "a JSON patch is a list of operations",
            ),
            (
                json!([test, {"op": "test", "path": "/c", "value": "y"}]),
                "operation 1 of the patch: ",
            ),
            (
                json!([test, {"op": "remove", "path": "/nothing"}]),
                "operation 1 of the patch: ",
            ),
            (
                json!(vec![test; 10_001]),
                "the patch has 10001 operations; at most 10000 are right",
            ),
        ] {
            let error = patched(patch.clone()).expect_err("refused");
            assert!(error.contains(expect), "{patch}: {error}");
        }
    }

    #[test]
    fn little_patches_make_no_monsters() {
        // Each copy goes one deeper.
        let deeper: Vec<Value> = (0..200)
            .map(|_| json!({"op": "copy", "from": "/a", "path": "/a/b"}))
            .collect();
        let error = patched(json!(deeper)).expect_err("too deep");
        assert!(error.contains("levels deep; at most 128 are right"), "{error}");
        let mut wider = vec![json!({"op": "add", "path": "/l", "value": ["x".repeat(1000)]})];
        wider.extend((0..40).map(|i| json!({"op": "copy", "from": "/l", "path": format!("/l/{i}")})));
        let error = patched(json!(wider)).expect_err("too much");
        assert!(error.contains("bytes"), "{error}");
        let nested: Vec<Value> = (1..200)
            .map(|n| json!({"op": "add", "path": "/n".repeat(n), "value": {}}))
            .collect();
        let error = patched(json!(nested)).expect_err("too deep");
        assert!(error.contains("levels deep"), "{error}");
    }
}
