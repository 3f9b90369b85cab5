//! Which objects a list or a watch is about: by their labels, as Kubernetes writes it, equality only.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Conditions on labels; all hold. None: every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Condition>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// `label=value` or `label==value`.
    Is(String, String),
    /// `label!=value`: also where the label is missing.
    IsNot(String, String),
    /// `label`.
    Exists(String),
    /// `!label`.
    Missing(String),
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{held:?} is no condition; label=value, label!=value, label and !label are, joined by commas")]
pub(crate) struct SelectorError {
    held: String,
}

impl Selector {
    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Is(label, value) => labels.get(label) == Some(value),
            Condition::IsNot(label, value) => labels.get(label) != Some(value),
            Condition::Exists(label) => labels.contains_key(label),
            Condition::Missing(label) => !labels.contains_key(label),
        })
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(Selector::default());
        }
        text.split(',').map(condition).collect::<Result<_, _>>().map(Selector)
    }
}

fn condition(text: &str) -> Result<Condition, SelectorError> {
    let wrong = || SelectorError { held: text.to_owned() };
    let word = |word: &str| {
        let word = word.trim();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        word.bytes().all(allowed).then(|| word.to_owned()).ok_or_else(wrong)
    };
    let label = |text: &str| word(text).and_then(|label| if label.is_empty() { Err(wrong()) } else { Ok(label) });
    if let Some((name, value)) = text.split_once("!=") {
        Ok(Condition::IsNot(label(name)?, word(value)?))
    } else if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        Ok(Condition::Is(label(name)?, word(value)?))
    } else if let Some(name) = text.trim().strip_prefix('!') {
        Ok(Condition::Missing(label(name)?))
    } else {
        Ok(Condition::Exists(label(text)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, expect: bool) {
        let labels = [("app", "portal"), ("weir.dev/workload", "portal-1"), ("empty", "")];
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let selector: Selector = selector.parse().expect(selector);
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
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["app in (a,b)", "=x", "app=a=b", ",", "a b", "app>1", "!", "a=é"] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }
}
