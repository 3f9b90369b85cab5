//! Documents that differ from a good one in a single place, and what schema and reader say of each.

use std::collections::HashSet;

use serde_json::{Value, json};
use weir_api::{FieldError, Kind, Object, duration};

use crate::walk::{Place, Step, at, is_open, path, places};
use crate::{check, rules};

/// A changed document.
pub(crate) struct Change {
    /// What was done, for people.
    what: String,
    document: Value,
    /// Where an error about it has to stand, or below.
    path: String,
    /// What the schema has to say of it.
    expect: Expect,
}

/// What a schema has to say of a change.
#[derive(Clone, Copy, PartialEq)]
enum Expect {
    /// It stays right.
    Right,
    /// It becomes wrong.
    Wrong,
    /// Whatever the schema says, the reader says the same.
    Either,
}

/// Says what is wrong with a change: that schema and reader differ, or that the error is elsewhere.
pub(crate) fn disagreement(kind: Kind, change: &Change) -> Option<String> {
    let wrong = check::resource(kind, &change.document);
    let read = Object::parse(change.document.clone());
    let errors = read.err().unwrap_or_default();
    let tell = |problem: &str| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Some(format!(
            "{}: {problem}\n  schema: {wrong:?}\n  reader: {errors:?}",
            change.what
        ))
    };
    match change.expect {
        Expect::Right if !wrong.is_empty() => return tell("the schema refuses it"),
        Expect::Wrong if wrong.is_empty() => return tell("the schema takes it"),
        Expect::Right | Expect::Wrong | Expect::Either => {}
    }
    let is_here = |error: &FieldError| error.path.starts_with(&change.path);
    match (wrong.is_empty(), errors.is_empty()) {
        (true, true) => None,
        (true, false) if errors.iter().all(|error| rules::is_told(kind, error)) => None,
        (true, false) => tell("the reader alone refuses it, by a rule that is not told"),
        (false, true) => tell("the schema alone refuses it"),
        (false, false) if errors.iter().any(is_here) => None,
        (false, false) => tell(&format!("no error names {}", change.path)),
    }
}

/// Every change of a document that the schema of its kind gives reason to. `seen` holds the places whose texts were
/// changed, of all documents: like ones teach nothing new.
pub(crate) fn changes(kind: Kind, document: &Value, seen: &mut HashSet<(*const Value, Value)>) -> Vec<Change> {
    let mut changes = Vec::new();
    for place in places(kind, document) {
        if place.is_status() {
            continue;
        }
        let mut out = Changes {
            document,
            place: &place,
            found: &mut changes,
        };
        out.fields();
        out.types();
        let is_new = seen.insert((std::ptr::from_ref(place.schema), out.variant()));
        let parts = place.schema["anyOf"].as_array().into_iter().flatten();
        for schema in std::iter::once(place.schema).chain(parts) {
            out.bounds(schema);
            out.items(schema);
            if is_new {
                out.texts(schema);
            }
        }
    }
    changes
}

struct Changes<'a> {
    document: &'a Value,
    place: &'a Place<'static>,
    found: &'a mut Vec<Change>,
}

impl Changes<'_> {
    /// Puts another value in the place.
    fn put(&mut self, what: &str, value: Value, expect: Expect) {
        let mut document = self.document.clone();
        let target = at(&mut document, &self.place.steps).expect("it is there");
        if *target == value {
            return;
        }
        *target = value;
        self.changed(what, document, &[], expect);
    }

    fn changed(&mut self, what: &str, document: Value, below: &[Step], expect: Expect) {
        let mut steps = self.place.steps.clone();
        steps.extend_from_slice(below);
        let mut at = path(&steps);
        let place = at.clone();
        // Another variant: what is wrong then are its other fields.
        if let ([parent @ .., _], true) = (steps.as_slice(), below.is_empty()) {
            let parent = path(parent);
            if what == "another word" {
                at = parent;
            }
        }
        self.found.push(Change {
            what: format!("{place}: {what}"),
            document,
            path: at,
            expect,
        });
    }

    fn held(&self) -> Value {
        let mut document = self.document.clone();
        at(&mut document, &self.place.steps).expect("it is there").clone()
    }

    /// Of which variant the object is that the place is in.
    fn variant(&self) -> Value {
        let mut document = self.document.clone();
        let parent = self
            .place
            .steps
            .split_last()
            .and_then(|(_, parent)| at(&mut document, parent));
        parent
            .and_then(|parent| parent.get("type"))
            .cloned()
            .unwrap_or_default()
    }

    /// Leaves each field out, and misspells it.
    fn fields(&mut self) {
        let Value::Object(held) = self.held() else { return };
        if is_open(self.place.schema) {
            return;
        }
        let required = self.place.schema["required"].as_array().cloned().unwrap_or_default();
        for (name, value) in &held {
            let mut document = self.document.clone();
            let fields = at(&mut document, &self.place.steps)
                .and_then(Value::as_object_mut)
                .expect("an object");
            fields.remove(name);
            let needed = required.contains(&json!(name));
            let expect = if needed { Expect::Wrong } else { Expect::Either };
            // A variant may need it.
            let below = if needed {
                vec![Step::Field(name.clone())]
            } else {
                vec![]
            };
            self.changed(&format!("without {name}"), document.clone(), &below, expect);
            let typo = format!("{name}X");
            let fields = at(&mut document, &self.place.steps)
                .and_then(Value::as_object_mut)
                .expect("an object");
            fields.insert(name.clone(), value.clone());
            fields.insert(typo.clone(), value.clone());
            self.changed(&format!("with {typo}"), document, &[Step::Field(typo)], Expect::Wrong);
        }
    }

    /// Puts values of other types in the place.
    fn types(&mut self) {
        let is_any = self.place.schema["type"].is_null() && !self.place.schema["anyOf"].is_array();
        if is_any {
            return;
        }
        for value in [
            json!(7),
            json!(0.5),
            json!("7"),
            json!(true),
            json!([]),
            json!({}),
            json!(["a"]),
            json!({"a": "b"}),
        ] {
            self.put(&format!("{value}"), value, Expect::Either);
        }
    }

    /// Puts the least and the most in the place, and one beyond.
    fn bounds(&mut self, schema: &Value) {
        let minimum = schema["minimum"].as_i64();
        let maximum = schema["maximum"].as_i64();
        for (bound, beyond) in [(minimum, minimum.map(|n| n - 1)), (maximum, maximum.map(|n| n + 1))] {
            if let (Some(bound), Some(beyond)) = (bound, beyond) {
                self.put(&format!("{bound}, a bound"), json!(bound), Expect::Right);
                self.put(&format!("{beyond}, beyond a bound"), json!(beyond), Expect::Wrong);
            }
        }
        for word in schema["enum"].as_array().into_iter().flatten() {
            self.put("another word", word.clone(), Expect::Either);
        }
        if schema["enum"][0].is_string() {
            self.put("no word", json!("Nonsense"), Expect::Wrong);
            self.put(
                "a word in small letters",
                json!(self.held().as_str().unwrap_or_default().to_lowercase()),
                Expect::Either,
            );
        } else if schema["enum"][0].is_number() {
            self.put("no number of these", json!(300), Expect::Wrong);
        }
        if let (Some(least), Some(most)) = (schema["x-weir-minimum"].as_str(), schema["x-weir-maximum"].as_str()) {
            for bound in [least, most] {
                self.put(&format!("{bound}, a bound"), json!(bound), Expect::Right);
            }
            let parse = |text| duration::parse(text).expect("a duration");
            if let Some(below) = parse(least).checked_sub(std::time::Duration::from_millis(1)) {
                self.put("below the bound", json!(duration::format(below)), Expect::Wrong);
            }
            let above = if parse(most) == duration::MAX {
                "99999h60m".to_owned()
            } else {
                format!("{most}1ms")
            };
            self.put("above the bound", json!(above), Expect::Wrong);
        }
    }

    /// Puts as many items or entries in the place as are right, and one more or less.
    fn items(&mut self, schema: &Value) {
        let count = |key: &str| schema[key].as_u64().map(|count| usize::try_from(count).expect("small"));
        let held = self.held();
        let first = held.get(0);
        if let (Some(most), Some(item)) = (count("maxItems"), first) {
            self.put("as many as are right", json!(vec![item.clone(); most]), Expect::Right);
            self.put("one too many", json!(vec![item.clone(); most + 1]), Expect::Wrong);
        }
        if let (Some(least), Some(items)) = (count("minItems"), held.as_array()) {
            self.put(
                "as few as are right",
                json!(items.iter().take(least).collect::<Vec<_>>()),
                Expect::Right,
            );
            self.put(
                "one too few",
                json!(items.iter().take(least - 1).collect::<Vec<_>>()),
                Expect::Wrong,
            );
        }
        if let (Some(most), Some(entries)) = (count("maxProperties"), held.as_object()) {
            let value = entries.values().next().expect("a sample has an entry").clone();
            let many = |count: usize| {
                (0..count)
                    .map(|n| (format!("k{n}"), value.clone()))
                    .collect::<serde_json::Map<_, _>>()
            };
            self.put("as many as are right", json!(many(most)), Expect::Right);
            self.put("one too many", json!(many(most + 1)), Expect::Wrong);
        }
    }

    /// Puts the shortest and longest texts in the place, and many odd ones.
    fn texts(&mut self, schema: &Value) {
        if schema["type"] != "string" || schema["enum"].is_array() {
            return;
        }
        let pattern = schema["pattern"]
            .as_str()
            .or_else(|| self.place.schema["pattern"].as_str());
        if let Some(most) = schema["maxLength"].as_u64() {
            let most = usize::try_from(most).expect("small");
            self.put("as long as is right", json!(filled(pattern, most)), Expect::Right);
            self.put("one too long", json!(filled(pattern, most + 1)), Expect::Wrong);
        }
        if schema["minLength"].as_u64().is_some_and(|least| least > 0) {
            self.put("empty", json!(""), Expect::Wrong);
        }
        for text in ODD {
            self.put(&format!("{text:?}"), json!(text), Expect::Either);
        }
    }
}

/// A text of a length that a pattern takes.
fn filled(pattern: Option<&str>, length: usize) -> String {
    let pairs = |first: &str| -> String {
        let mut text = first.to_owned();
        text.extend("a.".chars().cycle().take(length.saturating_sub(first.len())));
        if text.ends_with('.') {
            text.pop();
            text.pop();
            text.push_str("aa");
        }
        text
    };
    let candidates = [
        format!("/{}", "a".repeat(length - 1)),
        "a".repeat(length),
        pairs(""),
        pairs("https://"),
    ];
    let fits = |text: &String| text.len() == length && pattern.is_none_or(|pattern| check::is_match(pattern, text));
    candidates
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| panic!("no text of {length} characters for {pattern:?}"))
}

/// Texts at which readers of names, hosts, paths, header fields, addresses and durations differ.
const ODD: &[&str] = &[
    "",
    " ",
    "a",
    "A",
    "1",
    "-",
    "-a",
    "a-",
    "a_b",
    "a.b",
    "a..b",
    ".a",
    "a.",
    "a b",
    " a",
    "a ",
    "a\tb",
    "\ta",
    "a\nb",
    "é",
    "中",
    "\u{7f}",
    "\u{85}",
    "*",
    "*.a",
    "*.*.a",
    "a.*",
    "10.0.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "::",
    "[::1]",
    "a:80",
    "/",
    "//",
    "/a",
    "/a/",
    "/a//b",
    "/./a",
    "/a/..",
    "/%2e",
    "/%2F",
    "/%4",
    "/%zz",
    "/%41",
    "/a#b",
    "/a?b",
    "/a b",
    "a/b",
    "A.b/c",
    "1s",
    "1S",
    "1",
    "0s",
    "-1s",
    "1h1h1h1h1h",
    "100000s",
    "1.5s",
    "1 s",
    "s",
    "host",
    "Host",
    "TE",
    "weir-context",
    "X-Weir",
    "a:b",
    ":path",
    "%",
    "!#$",
    "Workload",
    "Work-load",
    "2001:db8::1",
    "10.1.2.3/8",
    "١",
];
