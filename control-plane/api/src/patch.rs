//! Patches: JSON merge patch (RFC 7396), JSON patch (RFC 6902), and Kubernetes' strategic merge patch.

mod json;
mod strategic;

use serde_json::Value;

use crate::kind::{Kind, PatchFormat};

/// A change to a resource, in one of the formats.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902.
    Json(json_patch::Patch),
    /// Kubernetes' own.
    Strategic(Value),
}

/// Why a patch can't be read, or can't be applied to what there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch as a whole is of the wrong shape.
    #[error("{0}")]
    Shape(String),
    /// A JSON patch is too long.
    #[error("the patch has {0} operations; at most {max} are right", max = json::OPERATIONS_MAX)]
    Operations(usize),
    /// An operation of a JSON patch can't be done.
    #[error("operation {index} of the patch: {problem}")]
    Operation {
        /// Its place, from 0.
        index: usize,
        /// Why not.
        problem: String,
    },
    /// A directive or a list of a strategic merge patch makes no sense.
    #[error("{path}: {problem}")]
    Directive {
        /// Where it stands in the patch.
        path: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// When it is of another shape than its format has.
    pub fn read(format: PatchFormat, value: Value) -> Result<Patch, PatchError> {
        match format {
            PatchFormat::Merge if value.is_object() => Ok(Patch::Merge(value)),
            PatchFormat::Strategic if value.is_object() => Ok(Patch::Strategic(value)),
            PatchFormat::Merge | PatchFormat::Strategic => Err(PatchError::Shape(
                "a merge patch is an object, of the fields that change".to_owned(),
            )),
            PatchFormat::Json => json::read(value).map(Patch::Json),
        }
    }

    /// Changes `target`, a resource of this kind as JSON. What comes of it is not checked yet.
    ///
    /// # Errors
    /// When it can't be done; `target` may then be changed in part.
    pub fn apply(&self, kind: Kind, target: &mut Value) -> Result<(), PatchError> {
        match self {
            Patch::Merge(patch) => {
                merge(target, patch);
                Ok(())
            }
            Patch::Json(patch) => json::apply(target, patch),
            Patch::Strategic(patch) => strategic::apply(kind, target, patch),
        }
    }
}

/// Changes `target` as `patch` says: members of an object are merged, `null` takes a member out, all else replaces
/// (RFC 7396 section 2).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.as_str()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7396 appendix A, whole.
    #[test]
    fn the_table_of_the_rfc_holds() {
        let cases = [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, r#"null"#, r#"null"#),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ];
        for (target, patch, expect) in cases {
            let mut merged: Value = serde_json::from_str(target).expect(target);
            merge(&mut merged, &serde_json::from_str(patch).expect(patch));
            let expect: Value = serde_json::from_str(expect).expect(expect);
            assert_eq!(merged, expect, "{target} + {patch}");
        }
    }
}
