//! `metadata.generateName`: a name that is made here, for who creates an object and has none for it.

use serde_json::Value;

/// What a name begins with that has yet to be made.
pub(super) struct Prefix(String);

impl Prefix {
    /// Takes `metadata.generateName` out of an object that is to be created. `None`: nothing is to be made, as the
    /// object has a name, or no prefix. A prefix that is no text is left for the reader to refuse.
    pub(super) fn take(object: &mut Value) -> Option<Prefix> {
        let metadata = object.get_mut("metadata")?.as_object_mut()?;
        if !metadata.get("generateName")?.is_string() {
            return None;
        }
        let Some(Value::String(mut prefix)) = metadata.remove("generateName") else {
            return None;
        };
        let is_named = metadata.get("name").is_some_and(|name| *name != "" && !name.is_null());
        if is_named || prefix.is_empty() {
            return None;
        }
        while prefix.len() > PREFIX_BYTES_MAX {
            prefix.pop();
        }
        Some(Prefix(prefix))
    }

    /// Gives the object one of the names that begin so. Whether it is free, the store says.
    pub(super) fn name(&self, object: &mut Value) {
        let ending = std::iter::repeat_with(|| fastrand::choice(ALPHABET).copied().unwrap_or('x'));
        let name: String = self.0.chars().chain(ending.take(ENDING_LETTERS)).collect();
        object["metadata"]["name"] = name.into();
    }
}

/// How many letters are added, as Kubernetes adds.
const ENDING_LETTERS: usize = 5;

/// With the ending, it still is one label of a DNS name (RFC 1035 section 2.3.4).
const PREFIX_BYTES_MAX: usize = 63 - ENDING_LETTERS;

/// No vowels, and nothing that is read for something else: as Kubernetes has it, so that no name is a word.
const ALPHABET: &[char] = &[
    'b', 'c', 'd', 'f', 'g', 'h', 'j', 'k', 'l', 'm', 'n', 'p', 'q', 'r', 's', 't', 'v', 'w', 'x', 'z', '2', '4', '5',
    '6', '7', '8', '9',
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(mut object: Value) -> Value {
        if let Some(prefix) = Prefix::take(&mut object) {
            prefix.name(&mut object);
        }
        object["metadata"].take()
    }

    #[test]
    fn a_name_is_made_where_there_is_none() {
        let long = "a".repeat(80);
        for (prefix, kept) in [("code-", "code-"), ("é", "é"), (&long, &long[..58])] {
            for name in [json!(null), json!("")] {
                let metadata = named(json!({"metadata": {"generateName": prefix, "name": name, "labels": {}}}));
                let name = metadata["name"].as_str().expect("a name");
                let ending = name.strip_prefix(kept).expect(name);
                assert_eq!(ending.chars().count(), ENDING_LETTERS, "{name}");
                assert!(ending.chars().all(|letter| ALPHABET.contains(&letter)), "{name}");
                assert_eq!(metadata, json!({"name": name, "labels": {}}));
            }
        }
    }

    #[test]
    fn a_name_that_is_given_holds() {
        for (metadata, expect) in [
            (json!({"generateName": "code-", "name": "a"}), json!({"name": "a"})),
            (json!({"generateName": "", "labels": {}}), json!({"labels": {}})),
            (json!({"name": "a"}), json!({"name": "a"})),
            // Left for the reader to refuse.
            (json!({"generateName": 1}), json!({"generateName": 1})),
            (json!([]), json!([])),
        ] {
            assert_eq!(named(json!({"metadata": metadata})), expect);
        }
    }
}
