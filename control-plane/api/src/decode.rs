//! Taking JSON apart strictly: every field has to be asked for, and all that is wrong is collected with its path.
//!
//! A reader is a function of a [`Node`] and the [`Errors`]; it answers `None` only after it has said what is wrong.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::duration;
use crate::error::FieldError;

/// What is wrong, in the order of finding; what is over [`ERRORS_MAX`] is dropped.
#[derive(Default)]
pub(crate) struct Errors {
    found: Vec<FieldError>,
}

impl Errors {
    pub(crate) fn push(&mut self, error: FieldError) {
        if !self.is_full() {
            self.found.push(error);
        }
    }

    /// Whether more would be dropped.
    fn is_full(&self) -> bool {
        self.found.len() >= ERRORS_MAX
    }

    /// All of them if there are any.
    pub(crate) fn into_result<T>(self, read: Option<T>) -> Result<T, Vec<FieldError>> {
        match read {
            Some(value) if self.found.is_empty() => Ok(value),
            Some(_) => Err(self.found),
            None if self.found.is_empty() => Err(vec![FieldError::new("", &Value::Null, "can't be read", "")]),
            None => Err(self.found),
        }
    }
}

/// A value with the way to it.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    parent: Option<&'a Node<'a>>,
    step: Step<'a>,
    value: &'a Value,
}

/// One step from a value into it.
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

/// As it stands in a path: `.weight`, `["app.kubernetes.io/name"]`, `[3]`. The dot is left out at the very front.
impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Root => Ok(()),
            Step::Key(key) if is_plain(key) => write!(f, ".{key}"),
            // Keys are a peer's: quoted, and cut as values are.
            Step::Key(key) => {
                let short: String = key.chars().take(KEY_CHARS_MAX).collect();
                write!(f, "[{}]", Value::String(short))
            }
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl<'a> Node<'a> {
    pub(crate) fn root(value: &'a Value) -> Node<'a> {
        Node {
            parent: None,
            step: Step::Root,
            value,
        }
    }

    fn child<'b>(&'b self, step: Step<'b>, value: &'b Value) -> Node<'b> {
        Node {
            parent: Some(self),
            step,
            value,
        }
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    pub(crate) fn path(&self) -> String {
        let mut path = match self.parent {
            Some(parent) => parent.path(),
            None => String::new(),
        };
        let step = self.step.to_string();
        path.push_str(if path.is_empty() {
            step.strip_prefix('.').unwrap_or(&step)
        } else {
            &step
        });
        path
    }

    /// Says that the value is wrong.
    pub(crate) fn refuse(&self, errors: &mut Errors, problem: impl Into<String>, remedy: impl Into<String>) {
        errors.push(FieldError::new(self.path(), self.value, problem, remedy));
    }

    /// Says that a field of the value is missing.
    pub(crate) fn missing(&self, errors: &mut Errors, field: &str, remedy: impl Into<String>) {
        let value = Value::Null;
        errors.push(FieldError::missing(self.child(Step::Key(field), &value).path(), remedy));
    }

    /// The value's fields.
    pub(crate) fn fields<'b>(&'b self, errors: &mut Errors) -> Option<Fields<'b>> {
        match self.value {
            Value::Object(map) => Some(Fields {
                node: self,
                map,
                known: Vec::new(),
            }),
            _ => {
                self.refuse(errors, "is not an object", "fields are right here");
                None
            }
        }
    }

    /// The value's items, at most `max`, each read; what can't be read is left out and said.
    pub(crate) fn list<T>(
        &self,
        errors: &mut Errors,
        max: usize,
        mut read: impl FnMut(&Node<'_>, &mut Errors) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = self.value else {
            self.refuse(errors, "is not a list", "a list is right");
            return None;
        };
        if items.len() > max {
            self.refuse(errors, "is too long", format!("at most {max} items are right"));
            return None;
        }
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if errors.is_full() {
                break;
            }
            out.extend(read(&self.child(Step::Index(index), item), errors));
        }
        Some(out)
    }

    /// Says of an item what only shows beside others. `items`: what was read of them; where one could not be read the
    /// others' places have moved, and it is put right first.
    pub(crate) fn refuse_item<T>(
        &self,
        errors: &mut Errors,
        items: &[T],
        index: usize,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if let Value::Array(given) = self.value
            && given.len() == items.len()
            && let Some(item) = given.get(index)
        {
            self.child(Step::Index(index), item).refuse(errors, problem, remedy);
        }
    }

    /// Says that an empty list is wrong.
    pub(crate) fn refuse_empty(&self, errors: &mut Errors, remedy: &str) {
        if self.value.as_array().is_some_and(Vec::is_empty) {
            self.refuse(errors, "is empty", remedy);
        }
    }

    /// Says of each of the value's items that an earlier one clashes with it. `items`: as for [`Node::refuse_item`].
    pub(crate) fn refuse_twins<T>(
        &self,
        errors: &mut Errors,
        items: &[T],
        clash: impl Fn(&T, &T) -> bool,
        problem: &str,
        remedy: &str,
    ) {
        for (index, item) in items.iter().enumerate() {
            if items.iter().take(index).any(|earlier| clash(earlier, item)) {
                self.refuse_item(errors, items, index, problem, remedy);
            }
        }
    }

    /// The value's entries, at most `max`, each read from its key and value.
    pub(crate) fn entries(&self, errors: &mut Errors, max: usize, mut read: impl FnMut(&str, &Node<'_>, &mut Errors)) {
        let Value::Object(map) = self.value else {
            self.refuse(errors, "is not an object", "keys with values are right here");
            return;
        };
        if map.len() > max {
            self.refuse(errors, "has too many entries", format!("at most {max} are right"));
            return;
        }
        for (key, value) in map {
            read(key, &self.child(Step::Key(key), value), errors);
        }
    }

    pub(crate) fn text(&self, errors: &mut Errors) -> Option<&'a str> {
        match self.value {
            Value::String(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.refuse(
                    errors,
                    "is not text",
                    "text is right (in quotes, if it looks like something else)",
                );
                None
            }
        }
    }

    pub(crate) fn integer<T: TryFrom<u64>>(&self, errors: &mut Errors, range: RangeInclusive<u64>) -> Option<T> {
        let held = self.value.as_u64().filter(|number| range.contains(number));
        let read = held.and_then(|number| T::try_from(number).ok());
        if read.is_none() {
            let problem = match self.value {
                Value::Number(number) if number.is_f64() => "is not a whole number",
                Value::Number(_) => "is out of range",
                Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                    "is not a number"
                }
            };
            let remedy = format!("a whole number from {} to {} is right", range.start(), range.end());
            self.refuse(errors, problem, remedy);
        }
        read
    }

    /// One of some words.
    pub(crate) fn choice<T: Copy>(&self, errors: &mut Errors, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(errors)?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.refuse(errors, "is not supported", format!("{} is right", words.join(" or ")));
        }
        found.map(|(_, choice)| *choice)
    }

    /// A duration (GEP-2257) in a range.
    pub(crate) fn duration(&self, errors: &mut Errors, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.text(errors)?;
        let remedy = || {
            let (from, to) = (duration::format(*range.start()), duration::format(*range.end()));
            format!("a duration from {from} to {to} is right")
        };
        match duration::parse(text) {
            Ok(read) if range.contains(&read) => Some(read),
            Ok(_) => {
                self.refuse(errors, "is out of range", remedy());
                None
            }
            Err(error) => {
                self.refuse(errors, error.to_string(), remedy());
                None
            }
        }
    }
}

/// Reads `true` or `false`.
pub(crate) fn boolean(node: &Node<'_>, errors: &mut Errors) -> Option<bool> {
    match node.value {
        Value::Bool(truth) => Some(*truth),
        Value::Null | Value::String(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            node.refuse(errors, "is not true or false", "true or false is right, without quotes");
            None
        }
    }
}

/// Reads the number of a port.
pub(crate) fn port(node: &Node<'_>, errors: &mut Errors) -> Option<NonZeroU16> {
    node.integer::<u16>(errors, 1..=65_535).and_then(NonZeroU16::new)
}

/// The fields of an object, while they are asked for.
pub(crate) struct Fields<'a> {
    node: &'a Node<'a>,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn node(&self) -> &'a Node<'a> {
        self.node
    }

    /// A field's value; `null` is absent.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<Node<'a>> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        Some(self.node.child(Step::Key(name), value))
    }

    /// Reads a field that may be absent.
    pub(crate) fn optional<T>(
        &mut self,
        name: &'static str,
        errors: &mut Errors,
        read: impl FnOnce(&Node<'_>, &mut Errors) -> Option<T>,
    ) -> Option<T> {
        let node = self.get(name)?;
        read(&node, errors)
    }

    /// Reads a field that has to be there.
    pub(crate) fn required<T>(
        &mut self,
        name: &'static str,
        errors: &mut Errors,
        read: impl FnOnce(&Node<'_>, &mut Errors) -> Option<T>,
    ) -> Option<T> {
        match self.get(name) {
            Some(node) => read(&node, errors),
            None => {
                self.node.missing(errors, name, "it has to be given");
                None
            }
        }
    }

    /// A field that Kubernetes or the Gateway API has and that would be without effect here. Empty values pass: tools
    /// write them unasked.
    pub(crate) fn refused(&mut self, name: &'static str, errors: &mut Errors, problem: &str, remedy: &str) {
        if let Some(node) = self.get(name)
            && !is_empty(node.value)
        {
            node.refuse(errors, problem, remedy);
        }
    }

    /// Says of each field that was not asked for that it is unknown.
    pub(crate) fn finish(self, errors: &mut Errors) {
        for (name, value) in self.map {
            if errors.is_full() {
                return;
            }
            if self.known.contains(&name.as_str()) {
                continue;
            }
            let near = self.known.iter().find(|known| is_near(known, name));
            let hint = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
            let known = self.known.join(", ");
            let remedy = format!("{hint}known here: {known}");
            self.node
                .child(Step::Key(name), value)
                .refuse(errors, "stands in an unknown field", remedy);
        }
    }
}

fn is_plain(key: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !key.is_empty() && key.len() <= KEY_CHARS_MAX && key.bytes().all(plain)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Whether two names differ in case only, or by at most two letters put in, taken out or exchanged (Levenshtein).
fn is_near(known: &str, given: &str) -> bool {
    if known.eq_ignore_ascii_case(given) {
        return true;
    }
    if known.len().abs_diff(given.len()) > 2 || known.len() < 4 {
        return false;
    }
    let given: Vec<char> = given.chars().collect();
    let mut row: Vec<usize> = (0..=given.len()).collect();
    for (i, a) in known.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((j, b), window) in given.iter().enumerate().zip(row.windows(2)) {
            let (diagonal, above) = match window {
                [diagonal, above] => (*diagonal, *above),
                _ => return false,
            };
            let left = next.get(j).copied().unwrap_or(usize::MAX - 1);
            let replaced = diagonal + usize::from(a != *b);
            next.push(replaced.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().is_some_and(|distance| *distance <= 2)
}

/// How many errors are collected for one resource.
pub(crate) const ERRORS_MAX: usize = 50;

/// How much of a key is shown in a path.
const KEY_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        for given in ["wieght", "weigth", "Weight", "weigh", "weights", "weight1"] {
            assert!(is_near("weight", given), "{given}");
        }
        for given in ["", "height12", "port", "w", "权重"] {
            assert!(!is_near("weight", given), "{given}");
        }
        assert!(!is_near("set", "add"), "short names are near to everything");
    }

    #[test]
    fn paths_quote_keys_that_are_not_plain() {
        let value = Value::Null;
        let root = Node::root(&value);
        let labels = root.child(Step::Key("labels"), &value);
        let label = labels.child(Step::Key("app.kubernetes.io/\"name"), &value);
        let item = label.child(Step::Index(3), &value);
        assert_eq!(root.path(), "");
        assert_eq!(item.path(), r#"labels["app.kubernetes.io/\"name"][3]"#);
        assert_eq!(root.child(Step::Key("a b"), &value).path(), r#"["a b"]"#);
    }

    #[test]
    fn errors_are_bounded() {
        let value = serde_json::json!({});
        let mut errors = Errors::default();
        for _ in 0..1000 {
            Node::root(&value).refuse(&mut errors, "is wrong", "");
        }
        assert_eq!(errors.into_result(Some(())).expect_err("wrong").len(), ERRORS_MAX);
    }
}
