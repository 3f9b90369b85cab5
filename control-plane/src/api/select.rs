//! Which objects a request is about: by their labels and by two of their fields, as Kubernetes writes it.

use std::collections::BTreeMap;
use std::str::FromStr;

use weir_api::Metadata;

/// Which objects: both parts hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Selector {
    pub(crate) fn matches(&self, metadata: &Metadata) -> bool {
        self.labels.matches(&metadata.labels) && self.fields.matches(metadata)
    }

    /// Whether every object matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.0.is_empty() && self.fields.0.is_empty()
    }
}

/// Conditions on labels; all hold. None: every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Condition>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// `label=value`, `label==value`, `label in (value, …)`.
    In(String, Vec<String>),
    /// `label!=value`, `label notin (value, …)`: also where the label is missing.
    NotIn(String, Vec<String>),
    /// `label`.
    Exists(String),
    /// `!label`.
    Missing(String),
}

/// Conditions on the fields `metadata.name` and `metadata.namespace`; all hold. None: every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<FieldCondition>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldCondition {
    field: Field,
    wanted: Wanted,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Same,
    Other,
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectorError {
    #[error(
        "{0:?} is no condition; label=value, label!=value, label in (a,b), label notin (a,b), label and !label are, \
         joined by commas"
    )]
    Label(String),
    #[error("{0:?} is no condition; field=value and field!=value are, joined by commas")]
    FieldCondition(String),
    #[error("{0:?} is no field to select by; metadata.name and metadata.namespace are")]
    Field(String),
}

impl LabelSelector {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let is_one = |label: &String, values: &[String]| labels.get(label).is_some_and(|held| values.contains(held));
        self.0.iter().all(|condition| match condition {
            Condition::In(label, values) => is_one(label, values),
            Condition::NotIn(label, values) => !is_one(label, values),
            Condition::Exists(label) => labels.contains_key(label),
            Condition::Missing(label) => !labels.contains_key(label),
        })
    }
}

impl FieldSelector {
    fn matches(&self, metadata: &Metadata) -> bool {
        self.0.iter().all(|condition| {
            let held = match condition.field {
                Field::Name => &metadata.name,
                Field::Namespace => &metadata.namespace,
            };
            match condition.wanted {
                Wanted::Same => *held == condition.value,
                Wanted::Other => *held != condition.value,
            }
        })
    }
}

impl FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(LabelSelector::default());
        }
        conditions(text)
            .into_iter()
            .map(condition)
            .collect::<Result<_, _>>()
            .map(LabelSelector)
    }
}

impl FromStr for FieldSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(FieldSelector::default());
        }
        text.split(',')
            .map(field_condition)
            .collect::<Result<_, _>>()
            .map(FieldSelector)
    }
}

/// The conditions of a label selector: commas in parentheses join values.
fn conditions(text: &str) -> Vec<&str> {
    let mut inside = Inside::Nothing;
    text.split(|c| {
        match c {
            '(' => inside = Inside::Parentheses,
            ')' => inside = Inside::Nothing,
            _ => {}
        }
        c == ',' && inside == Inside::Nothing
    })
    .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Parentheses,
}

fn condition(text: &str) -> Result<Condition, SelectorError> {
    let wrong = || SelectorError::Label(text.to_owned());
    let word = |word: &str| {
        let word = word.trim();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        word.bytes().all(allowed).then(|| word.to_owned()).ok_or_else(wrong)
    };
    let label = |text: &str| word(text).and_then(|label| if label.is_empty() { Err(wrong()) } else { Ok(label) });
    if let Some((head, values)) = text.trim().strip_suffix(')').and_then(|text| text.split_once('(')) {
        let values = values.split(',').map(word).collect::<Result<Vec<String>, _>>()?;
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(name), Some("in"), None) => Ok(Condition::In(label(name)?, values)),
            (Some(name), Some("notin"), None) => Ok(Condition::NotIn(label(name)?, values)),
            _ => Err(wrong()),
        };
    }
    if let Some((name, value)) = text.split_once("!=") {
        Ok(Condition::NotIn(label(name)?, vec![word(value)?]))
    } else if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        Ok(Condition::In(label(name)?, vec![word(value)?]))
    } else if let Some(name) = text.trim().strip_prefix('!') {
        Ok(Condition::Missing(label(name)?))
    } else {
        Ok(Condition::Exists(label(text)?))
    }
}

fn field_condition(text: &str) -> Result<FieldCondition, SelectorError> {
    let (field, wanted, value) = if let Some((field, value)) = text.split_once("!=") {
        (field, Wanted::Other, value)
    } else if let Some((field, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (field, Wanted::Same, value)
    } else {
        return Err(SelectorError::FieldCondition(text.to_owned()));
    };
    let field = match field.trim() {
        "metadata.name" => Field::Name,
        "metadata.namespace" => Field::Namespace,
        other => return Err(SelectorError::Field(other.to_owned())),
    };
    let value = value.trim().to_owned();
    Ok(FieldCondition { field, wanted, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, expect: bool) {
        let labels = [("app", "portal"), ("weir.dev/workload", "portal-1"), ("empty", "")];
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let selector: LabelSelector = selector.parse().expect(selector);
        assert_eq!(selector.matches(&labels), expect, "{selector:?}");
    }

    #[test]
    fn conditions_hold_together() {
        check("", true);
        check("app=portal", true);
        check("app==portal , weir.dev/workload = portal-1", true);
        check("app=portal,app!=portal", false);
        check("app=other", false);
        check("missing!=x", true);
        check("empty=", true);
        check("app", true);
        check("!app", false);
        check("!missing", true);
        check("missing", false);
        check("app in (other, portal)", true);
        check("app in (other)", false);
        check("missing in (a)", false);
        check("app notin (other),weir.dev/workload in (portal-1,portal-2)", true);
        check("app notin (portal)", false);
        check("missing notin (a,b),!missing", true);
        check("empty in ()", true);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "=x",
            "app=a=b",
            ",",
            "a b",
            "app>1",
            "!",
            "a=é",
            "app in",
            "app in a",
            "app in (a",
            "in (a)",
            "app on (a)",
            "app in (a b)",
            "app in (a),",
            "a in (b) c",
            "app in ((a))",
        ] {
            assert!(text.parse::<LabelSelector>().is_err(), "{text}");
        }
    }

    #[test]
    fn name_and_namespace_select() {
        let metadata = Metadata {
            name: "portal".to_owned(),
            namespace: "citizen".to_owned(),
            ..Metadata::default()
        };
        for (selector, expect) in [
            ("", true),
            ("metadata.name=portal", true),
            ("metadata.name==portal,metadata.namespace=citizen", true),
            ("metadata.name=other", false),
            ("metadata.name!=other", true),
            ("metadata.namespace!=citizen", false),
        ] {
            let fields: FieldSelector = selector.parse().expect(selector);
            assert_eq!(fields.matches(&metadata), expect, "{selector}");
        }
        for wrong in ["metadata.name", "status.phase=Active", "metadata.name in (a)", "="] {
            assert!(wrong.parse::<FieldSelector>().is_err(), "{wrong}");
        }
    }
}
