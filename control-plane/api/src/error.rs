//! What is wrong with a field.

use std::fmt;

/// What is wrong with one field of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where it stands: `spec.rules[0].backendRefs[1].weight`; keys that hold other than letters, digits, `-` and `_`
    /// stand in brackets: `metadata.labels["app.kubernetes.io/name"]`. Empty: the resource itself.
    pub path: String,
    /// What it holds, as JSON, shortened; empty: nothing.
    pub held: String,
    /// What is wrong, as the end of a sentence that begins with what it holds.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl FieldError {
    /// What is wrong with the value at `path`.
    pub fn new(
        path: impl Into<String>,
        held: &serde_json::Value,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        FieldError {
            path: path.into(),
            held: shorten(held),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// A field that has to be there and is not.
    pub fn missing(path: impl Into<String>, remedy: impl Into<String>) -> Self {
        FieldError {
            path: path.into(),
            held: String::new(),
            problem: "is missing".to_owned(),
            remedy: remedy.into(),
        }
    }

    /// All of it but the path: `-1 is out of range; a whole number from 0 to 1000000 is right`.
    pub fn message(&self) -> String {
        let held = if self.held.is_empty() {
            String::new()
        } else {
            format!("{} ", self.held)
        };
        let remedy = if self.remedy.is_empty() {
            String::new()
        } else {
            format!("; {}", self.remedy)
        };
        format!("{held}{}{remedy}", self.problem)
    }
}

/// `spec.rules[0].backendRefs[0].weight: -1 is out of range; a whole number from 0 to 1000000 is right`, on one line.
impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message())
    }
}

impl std::error::Error for FieldError {}

/// A value as JSON on one line, cut after [`HELD_CHARS_MAX`] characters.
pub(crate) fn shorten(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(items) if items.len() > 4 => format!("a list of {}", items.len()),
        serde_json::Value::Object(fields) if fields.len() > 4 => format!("an object of {} fields", fields.len()),
        serde_json::Value::String(text) => {
            let mut short: String = text.chars().take(HELD_CHARS_MAX).collect();
            if short.len() < text.len() {
                short.push('…');
            }
            serde_json::Value::String(short).to_string()
        }
        other => {
            let whole = other.to_string();
            let mut short: String = whole.chars().take(HELD_CHARS_MAX).collect();
            if short.len() < whole.len() {
                short.push('…');
            }
            short
        }
    }
}

/// How much of a wrong value is shown.
const HELD_CHARS_MAX: usize = 80;
