//! JSON from outside: as serde_json reads it (at most 128 levels deep), and no name twice in one object. Two values for
//! one name are two readings of a resource; which of them is in force is not ours to guess.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads one JSON value and nothing after it.
///
/// # Errors
/// With line and column.
pub(crate) fn read(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            read.push(item);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if read.contains_key(&name) {
                return Err(A::Error::custom(format_args!("{name:?} is given twice in one object")));
            }
            read.insert(name, entries.next_value_seed(Strict)?);
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_serde_json_reads_them() {
        for text in [
            "null",
            "true",
            "-1",
            "18446744073709551615",
            "1.5",
            r#""é\n""#,
            "[1, [2], {}]",
            r#"{"a": {"b": [null]}, "c": ""}"#,
        ] {
            let expected: Value = serde_json::from_str(text).expect(text);
            assert_eq!(read(text.as_bytes()).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_single_value_is_refused_with_its_place() {
        let deep = "[".repeat(200);
        for (text, expect) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            (
                "{\"a\":1,\n\"a\":2}",
                "\"a\" is given twice in one object at line 2 column 3",
            ),
            ("{} {}", "trailing characters at line 1 column 4"),
            ("{\"a\":", "EOF while parsing a value at line 1 column 5"),
            ("1e999", "number out of range at line 1 column 5"),
            ("\u{feff}{}", "expected value at line 1 column 1"),
            (deep.as_str(), "recursion limit exceeded at line 1 column 128"),
        ] {
            let error = read(text.as_bytes()).expect_err(text).to_string();
            assert_eq!(error, expect, "{text}");
        }
        assert!(read(b"\"\xff\"").is_err(), "not UTF-8");
    }
}
