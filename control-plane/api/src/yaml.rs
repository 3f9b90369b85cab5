//! Reading YAML and JSON strictly, with the line of everything that is wrong.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::str::Chars;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use crate::decode::{ERRORS_MAX, Errors, Node, Step};
use crate::error::FieldError;
use crate::object::{Key, Object};

mod json;

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it holds.
    pub value: Value,
    lines: Lines,
}

impl Document {
    /// The line, counted from 1, of what a path such as `spec.rules[0].name` names, or of the nearest thing around it.
    pub fn line(&self, path: &str) -> u32 {
        let mut lines = &self.lines;
        let mut rest = path;
        while let Some((inner, behind)) = lines.enter(rest) {
            lines = inner;
            rest = behind;
        }
        lines.line
    }
}

/// What is wrong in a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// The file, as it was named.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// What is wrong; its path is empty where it is the document itself.
    pub error: FieldError,
}

/// `routes.yaml:12: spec.rules[0].backendRefs[0].weight: -1 is out of range; a whole number from 0 to 1000000 is
/// right`, on one line.
impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.error)
    }
}

impl std::error::Error for SourceError {}

/// A resource, and where it was written.
#[derive(Clone, Debug)]
pub struct Sourced {
    /// The resource.
    pub object: Object,
    /// The line, counted from 1, at which it begins.
    pub line: u32,
}

/// Reads every document of a text: YAML 1.2 (core schema: `no` and `yes` are text) or JSON; empty documents are left
/// out. Refused are duplicate keys, keys that are no text, anchors, aliases, tags, control characters, numbers that
/// JSON can't hold or that may be meant as octal (`0644`), more than [`BYTES_MAX`] bytes, [`NODES_MAX`] values or a
/// depth of [`DEPTH_MAX`]. `file` names the text in errors. Memory is bounded by a small multiple of the text.
///
/// # Errors
/// What is wrong, up to 50 things; what follows a syntax error is not looked at.
pub fn read(text: &str, file: &str) -> Result<Vec<Document>, Vec<SourceError>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::default();
    if text.len() > BYTES_MAX {
        let problem = format!("the text has {} bytes", text.len());
        reader.wrong(
            1,
            String::new(),
            "",
            problem,
            format!("at most {BYTES_MAX} are read; split it"),
        );
    } else if let Some((line, character)) = control_character(text) {
        let problem = format!("holds the control character U+{:04X}", u32::from(character));
        reader.wrong(
            line,
            String::new(),
            "",
            problem,
            "take it out, or write it as an escape in double quotes",
        );
    } else if !text.trim_start().starts_with(['{', '[']) || json::run(&mut reader, text).is_err() {
        reader = Reader::default();
        reader.run(text);
    }
    if reader.errors.is_empty() {
        return Ok(reader.documents);
    }
    let errors = reader.errors.into_iter();
    let file = file.to_owned();
    Err(errors
        .map(|(line, error)| SourceError {
            file: file.clone(),
            line,
            error,
        })
        .collect())
}

/// Reads every resource of a text, as [`read`] and [`Object::parse_in`] do; documents of kind `List` are taken apart.
/// Of two resources with one key the second is wrong.
///
/// # Errors
/// What is wrong, with file and line: all of it, up to some 50 things.
pub fn read_objects(text: &str, file: &str, namespace: Option<&str>) -> Result<Vec<Sourced>, Vec<SourceError>> {
    let mut objects = Vec::new();
    let mut errors = Vec::new();
    let mut seen: BTreeMap<Key, u32> = BTreeMap::new();
    for document in read(text, file)? {
        let source = |prefix: &str, error: FieldError| {
            let path = join(prefix, &error.path);
            let line = document.line(&path);
            SourceError {
                file: file.to_owned(),
                line,
                error: FieldError { path, ..error },
            }
        };
        let items = items(&document.value).unwrap_or_else(|wrong| {
            errors.extend(wrong.into_iter().map(|error| source("", error)));
            Vec::new()
        });
        for (prefix, value) in items {
            if errors.len() >= ERRORS_MAX {
                return Err(errors);
            }
            let object = match Object::parse_in(value.clone(), namespace) {
                Ok(object) => object,
                Err(wrong) => {
                    errors.extend(wrong.into_iter().map(|error| source(&prefix, error)));
                    continue;
                }
            };
            let line = document.line(&prefix);
            if let Some(earlier) = seen.insert(object.key(), line) {
                let name = Value::String(object.metadata.name.clone());
                let problem = format!("names {} a second time", object.key());
                let remedy = format!("it stands at line {earlier} already; one of the two has to go");
                errors.push(source(
                    &prefix,
                    FieldError::new("metadata.name", &name, problem, remedy),
                ));
            }
            objects.push(Sourced { object, line });
        }
    }
    if errors.is_empty() { Ok(objects) } else { Err(errors) }
}

/// Writes a value as one YAML document in block style, which [`read`] reads back; it ends with a line break. Text that
/// could be taken for something else, by YAML 1.1 too, is put into quotes.
pub fn write(value: &Value) -> String {
    let mut text = String::new();
    for line in block(value) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// How many bytes a text may have.
pub const BYTES_MAX: usize = 4 << 20;

/// How many values, keys included, the documents of a text may have in all.
pub const NODES_MAX: usize = 200_000;

/// How many characters that may make a token the YAML parser may take between two events: all of those in one pair of
/// brackets. At some 400 bytes of memory each, this bounds it at 25 MiB.
const BUFFERED_MAX: usize = 64 << 10;

/// How deep values may be nested.
pub const DEPTH_MAX: usize = 64;

/// The lines of a value and of what is in it. A field's is that of its key.
#[derive(Clone, Debug)]
struct Lines {
    line: u32,
    inner: Inner,
}

#[derive(Clone, Debug)]
enum Inner {
    Nothing,
    Items(Vec<Lines>),
    Fields(BTreeMap<String, Lines>),
}

impl Lines {
    /// Takes the first step of a path: what is there, and the rest of the path.
    fn enter<'a, 'p>(&'a self, path: &'p str) -> Option<(&'a Lines, &'p str)> {
        match &self.inner {
            Inner::Nothing => None,
            Inner::Items(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                Some((items.get(index.parse::<usize>().ok()?)?, rest))
            }
            Inner::Fields(fields) => {
                let (key, rest) = first_key(path)?;
                Some((fields.get(key.as_ref())?, rest))
            }
        }
    }
}

/// The key that a path begins with, as [`Step`] writes it, and what is behind it.
fn first_key(path: &str) -> Option<(Cow<'_, str>, &str)> {
    if let Some(quoted) = path.strip_prefix('[') {
        let mut values = serde_json::Deserializer::from_str(quoted).into_iter::<String>();
        let key = values.next()?.ok()?;
        let rest = quoted.get(values.byte_offset()..)?.strip_prefix(']')?;
        return Some((Cow::Owned(key), rest));
    }
    let path = path.strip_prefix('.').unwrap_or(path);
    let (key, rest) = path.split_at(path.find(['.', '[']).unwrap_or(path.len()));
    (!key.is_empty()).then_some((Cow::Borrowed(key), rest))
}

/// A list or an object that is being read.
struct Frame {
    line: u32,
    holds: Holds,
}

enum Holds {
    Items(Vec<Value>, Vec<Lines>),
    /// With the key that waits for its value, and its line.
    Fields(Map<String, Value>, BTreeMap<String, Lines>, Option<(String, u32)>),
}

/// Feeds the parser, and ends when it has taken too much without an event: it keeps all tokens of a list or object in
/// brackets in memory (each many times as large as its text) until it has seen the closing one.
struct Metered<'a> {
    text: Chars<'a>,
    /// How many more characters that may make a token can come.
    budget: &'a Cell<usize>,
}

impl Iterator for Metered<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        if self.budget.get() == 0 {
            return None;
        }
        let next = self.text.next()?;
        if matches!(
            next,
            ',' | '[' | ']' | '{' | '}' | ':' | '?' | '"' | '\'' | '!' | '&' | '*'
        ) {
            self.budget.set(self.budget.get() - 1);
        }
        Some(next)
    }
}

impl Holds {
    fn list() -> Holds {
        Holds::Items(Vec::new(), Vec::new())
    }

    fn object() -> Holds {
        Holds::Fields(Map::new(), BTreeMap::new(), None)
    }
}

/// Builds documents from the parser's events.
#[derive(Default)]
struct Reader {
    frames: Vec<Frame>,
    nodes: usize,
    documents: Vec<Document>,
    errors: Vec<(u32, FieldError)>,
}

/// Whether reading goes on after an event.
enum Flow {
    On,
    End,
}

impl Reader {
    fn run(&mut self, text: &str) {
        let budget = Cell::new(BUFFERED_MAX);
        let mut line = 1;
        let mut parser = Parser::new_from_iter(Metered {
            text: text.chars(),
            budget: &budget,
        });
        while let Some(event) = parser.next_event() {
            if budget.get() == 0 {
                let problem = format!("holds brackets or a text with more than {BUFFERED_MAX} signs of YAML in it");
                self.wrong(
                    line,
                    self.path(),
                    "",
                    problem,
                    "write lists and objects by indentation, or all as JSON",
                );
                return;
            }
            budget.set(BUFFERED_MAX);
            let flow = match event {
                Ok((event, span)) => {
                    line = line_of(span.start.line());
                    self.take(event, span)
                }
                Err(error) => {
                    let problem = format!("can't be read as YAML: {}", error.info());
                    // At the end of a text that ends with a line break the parser is a line behind the last.
                    let line = line_of(error.marker().line().min(text.lines().count()));
                    self.wrong(line, self.path(), "", problem, "");
                    Flow::End
                }
            };
            match flow {
                Flow::On => {}
                Flow::End => return,
            }
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Flow {
        let line = line_of(span.start.line());
        match event {
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => Flow::On,
            Event::StreamEnd => Flow::End,
            Event::Alias(_) => {
                self.wrong(line, self.path(), "", "is an alias", "write the value out");
                self.leaf(line, Value::Null)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.plain(line, anchor, tag.is_some());
                if self.wants_key() {
                    return self.key(line, text, style);
                }
                let value = self.scalar(line, text, style);
                self.leaf(line, value)
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain(line, anchor, tag.is_some());
                self.open(line, Holds::list())
            }
            Event::MappingStart(anchor, tag) => {
                self.plain(line, anchor, tag.is_some());
                self.open(line, Holds::object())
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    /// The list or object that was opened last is whole.
    fn close(&mut self) -> Flow {
        let Some(Frame { line, holds }) = self.frames.pop() else {
            return Flow::End;
        };
        match holds {
            Holds::Items(items, lines) => self.value(line, Value::Array(items), Inner::Items(lines)),
            Holds::Fields(fields, lines, _) => self.value(line, Value::Object(fields), Inner::Fields(lines)),
        }
    }

    /// Puts a value that holds no others where it belongs.
    fn leaf(&mut self, line: u32, value: Value) -> Flow {
        self.value(line, value, Inner::Nothing)
    }

    /// Anchors and tags are refused wherever they stand.
    fn plain(&mut self, line: u32, anchor: usize, tag: bool) {
        if anchor != 0 {
            self.wrong(
                line,
                self.path(),
                "",
                "has an anchor",
                "write the value out where it is needed",
            );
        }
        if tag {
            self.wrong(
                line,
                self.path(),
                "",
                "has a tag",
                "leave the tag out; put text into quotes",
            );
        }
    }

    fn wants_key(&self) -> bool {
        matches!(
            self.frames.last(),
            Some(Frame {
                holds: Holds::Fields(_, _, None),
                ..
            })
        )
    }

    fn key(&mut self, line: u32, text: Cow<'_, str>, style: ScalarStyle) -> Flow {
        let is_text = match style {
            ScalarStyle::Plain => matches!(resolve(&text), Ok(Value::String(_))),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted | ScalarStyle::Literal | ScalarStyle::Folded => true,
        };
        if !is_text {
            self.wrong(
                line,
                self.path(),
                &text,
                "is a key that is no text",
                "put it into quotes",
            );
        }
        if text == "<<" {
            self.wrong(line, self.path(), "", "holds a merge key", "write the fields out");
        }
        self.put_key(line, text.into_owned())
    }

    /// Takes the key of the value that comes next.
    fn put_key(&mut self, line: u32, key: String) -> Flow {
        if let Flow::End = self.count(line) {
            return Flow::End;
        }
        if let Some(Frame {
            holds: Holds::Fields(_, lines, waiting),
            ..
        }) = self.frames.last_mut()
        {
            let earlier = lines.get(&key).map(|lines| lines.line);
            *waiting = Some((key, line));
            if let Some(earlier) = earlier {
                let remedy = format!("it stands at line {earlier} already; one of the two has to go");
                self.wrong(line, self.path(), "", "is a key given twice", remedy);
            }
        }
        Flow::On
    }

    fn scalar(&mut self, line: u32, text: Cow<'_, str>, style: ScalarStyle) -> Value {
        match style {
            ScalarStyle::Plain => match resolve(&text) {
                Ok(value) => value,
                Err(wrong) => {
                    self.wrong(line, self.path(), &text, wrong.problem, wrong.remedy);
                    Value::Null
                }
            },
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted | ScalarStyle::Literal | ScalarStyle::Folded => {
                Value::String(text.into_owned())
            }
        }
    }

    fn open(&mut self, line: u32, holds: Holds) -> Flow {
        if self.wants_key() {
            self.wrong(line, self.path(), "", "has a key that is no text", "keys are text");
            return Flow::End;
        }
        if self.frames.len() >= DEPTH_MAX {
            let problem = format!("is nested deeper than {DEPTH_MAX}");
            self.wrong(line, String::new(), "", problem, "no resource is that deep");
            return Flow::End;
        }
        self.frames.push(Frame { line, holds });
        Flow::On
    }

    /// Puts a value where it belongs.
    fn value(&mut self, line: u32, value: Value, inner: Inner) -> Flow {
        if let Flow::End = self.count(line) {
            return Flow::End;
        }
        let Some(frame) = self.frames.last_mut() else {
            if !value.is_null() {
                let lines = Lines { line, inner };
                self.documents.push(Document { value, lines });
            }
            return Flow::On;
        };
        match &mut frame.holds {
            Holds::Items(items, lines) => {
                items.push(value);
                lines.push(Lines { line, inner });
            }
            Holds::Fields(fields, lines, waiting) => match waiting.take() {
                Some((key, line)) => {
                    fields.insert(key.clone(), value);
                    lines.insert(key, Lines { line, inner });
                }
                None => {
                    self.wrong(line, self.path(), "", "has a key that is no text", "keys are text");
                    return Flow::End;
                }
            },
        }
        Flow::On
    }

    fn count(&mut self, line: u32) -> Flow {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let problem = format!("the text holds more than {NODES_MAX} values");
            self.wrong(line, String::new(), "", problem, "split it");
            return Flow::End;
        }
        if self.errors.len() >= ERRORS_MAX {
            Flow::End
        } else {
            Flow::On
        }
    }

    /// Where the value that comes next belongs.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            let step = match &frame.holds {
                Holds::Items(items, _) => Step::Index(items.len()).to_string(),
                Holds::Fields(_, _, Some((key, _))) => Step::Key(key).to_string(),
                Holds::Fields(_, _, None) => String::new(),
            };
            path.push_str(if path.is_empty() {
                step.strip_prefix('.').unwrap_or(&step)
            } else {
                &step
            });
        }
        path
    }

    fn wrong(&mut self, line: u32, path: String, held: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        let mut error = FieldError::missing(path, remedy);
        if !held.is_empty() {
            error = FieldError {
                held: crate::error::shorten(&Value::String(held.to_owned())),
                ..error
            };
        }
        error.problem = problem.into();
        self.errors.push((line, error));
    }
}

/// Why a plain scalar is refused.
struct Unclear {
    problem: &'static str,
    remedy: &'static str,
}

/// What a plain scalar means by YAML 1.2's core schema (YAML 1.2.2, section 10.3.2).
fn resolve(text: &str) -> Result<Value, Unclear> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(Unclear {
            problem: "is a number that JSON can't hold",
            remedy: "a finite number is right",
        });
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() {
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(Unclear {
                problem: "may be meant as an octal number, a decimal one or text",
                remedy: "leave the leading zeros out, or put it into quotes",
            });
        }
        return integer(sign, digits.parse());
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return integer(false, u64::from_str_radix(digits, radix));
        }
    }
    if is_float(digits) {
        let number = text.parse::<f64>().ok().and_then(Number::from_f64);
        return number.map(Value::Number).ok_or(OUT_OF_RANGE);
    }
    Ok(Value::String(text.to_owned()))
}

fn integer(negative: bool, magnitude: Result<u64, std::num::ParseIntError>) -> Result<Value, Unclear> {
    let magnitude = magnitude.map_err(|_| OUT_OF_RANGE)?;
    if !negative {
        return Ok(Value::from(magnitude));
    }
    0i64.checked_sub_unsigned(magnitude)
        .map(Value::from)
        .ok_or(OUT_OF_RANGE)
}

const OUT_OF_RANGE: Unclear = Unclear {
    problem: "is a number out of range",
    remedy: "a number within 64 bits is right",
};

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let exponent_right = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    let mantissa_right = match mantissa.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty()),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    mantissa_right && exponent_right
}

/// The first character that YAML does not allow in a text (YAML 1.2.2, section 5.1), and its line.
fn control_character(text: &str) -> Option<(u32, char)> {
    let forbidden = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let (at, character) = text.char_indices().find(|(_, c)| forbidden(*c))?;
    let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
    Some((line_of(line), character))
}

fn line_of(line: usize) -> u32 {
    u32::try_from(line.max(1)).unwrap_or(u32::MAX)
}

fn block(value: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let key = quoted(key);
                match (value, block(value).as_slice()) {
                    (Value::Object(_) | Value::Array(_), [only]) if only == "{}" || only == "[]" => {
                        lines.push(format!("{key}: {only}"));
                    }
                    (Value::Object(_), inner) => {
                        lines.push(format!("{key}:"));
                        lines.extend(inner.iter().map(|line| format!("  {line}")));
                    }
                    (Value::Array(_), inner) => {
                        lines.push(format!("{key}:"));
                        lines.extend_from_slice(inner);
                    }
                    (_, inner) => lines.push(format!("{key}: {}", inner.concat())),
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                for (index, line) in block(item).iter().enumerate() {
                    lines.push(format!("{} {line}", if index == 0 { "-" } else { " " }));
                }
            }
        }
        Value::String(text) => lines.push(quoted(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            lines.push(value.to_string());
        }
    }
    lines
}

/// A text plain where it can only be text, else in JSON's quotes, which are YAML's as well.
fn quoted(text: &str) -> String {
    const WORDS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    let is_text = matches!(resolve(text), Ok(Value::String(_))) && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if starts && is_text && text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::new();
    for c in Value::String(text.to_owned()).to_string().chars() {
        // JSON allows these as they are, YAML does not, or may drop them.
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') {
            quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            quoted.push(c);
        }
    }
    quoted
}

/// The resources of a document with their paths in it: those of a `List`, or the document.
fn items(value: &Value) -> Result<Vec<(String, &Value)>, Vec<FieldError>> {
    let is_list = value.get("kind").and_then(Value::as_str) == Some("List");
    let items = match value.get("items") {
        Some(Value::Array(items)) if is_list => items,
        Some(_) | None => return Ok(vec![(String::new(), value)]),
    };
    let mut errors = Errors::default();
    let node = Node::root(value);
    let read = node.fields(&mut errors).map(|mut fields| {
        fields.required("apiVersion", &mut errors, |node, errors| {
            node.choice(errors, &[("v1", ())])
        });
        // Metadata is the listing's own and says nothing of the items.
        let _ = (fields.get("kind"), fields.get("metadata"), fields.get("items"));
        fields.finish(&mut errors);
    });
    errors.into_result(read)?;
    let places = items.iter().enumerate();
    Ok(places.map(|(index, item)| (format!("items[{index}]"), item)).collect())
}

fn join(prefix: &str, path: &str) -> String {
    match (prefix.is_empty(), path.is_empty() || path.starts_with('[')) {
        (true, _) => path.to_owned(),
        (false, true) => format!("{prefix}{path}"),
        (false, false) => format!("{prefix}.{path}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn good(text: &str, expect: Value) {
        let documents = read(text, "f").expect(text);
        let values: Vec<Value> = documents.into_iter().map(|document| document.value).collect();
        assert_eq!(Value::Array(values), expect, "{text}");
    }

    #[track_caller]
    fn bad(text: &str, expect: &[&str]) {
        let errors = read(text, "f").expect_err("has to be refused");
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let matching =
            lines.len() == expect.len() && lines.iter().zip(expect).all(|(line, expect)| line.starts_with(expect));
        assert!(matching, "got {lines:#?}, expected {expect:#?}");
    }

    #[test]
    fn plain_scalars_are_those_of_the_core_schema() {
        let text = "[yes, no, on, off, y, true, FALSE, null, ~, , 1, -1, +1, 0, 0x1F, 0o17, 1.5, 1e3, .5, -.5, 1_000, \
                    18446744073709551615, -9223372036854775808, 1.2.3, 1h, 'true', \"1\", e3, ., -, 12:30, 2001-01-01]";
        let text = text.replace(", ,", ",");
        good(
            &text.replace(" -,", ""),
            json!([[
                "yes",
                "no",
                "on",
                "off",
                "y",
                true,
                false,
                null,
                null,
                1,
                -1,
                1,
                0,
                31,
                15,
                1.5,
                1000.0,
                0.5,
                -0.5,
                "1_000",
                18446744073709551615u64,
                -9223372036854775808i64,
                "1.2.3",
                "1h",
                "true",
                "1",
                "e3",
                ".",
                "12:30",
                "2001-01-01"
            ]]),
        );
        good(
            "a:\nb: |\n  x\n  y\nc: >\n  x\n  y\n",
            json!([{"a": null, "b": "x\ny\n", "c": "x y\n"}]),
        );
    }

    #[test]
    fn json_is_yaml() {
        good(
            "{\n\t\"a\": [1, \"\\u4e2d\\n\\/\"],\n\t\"b\": {\"c\":null}\n}\n",
            json!([{"a": [1, "中\n/"], "b": {"c": null}}]),
        );
        good(
            "{\"a\":{\"b\":[{\"c\":\"d\"},-1.5e3]}}",
            json!([{"a": {"b": [{"c": "d"}, -1500.0]}}]),
        );
    }

    #[test]
    fn json_is_read_as_strictly() {
        good(
            "{\"a\": \"\\ud83d\\ude00\", \"b\": -0, \"c\": 1e3}",
            json!([{"a": "😀", "b": 0, "c": 1000.0}]),
        );
        bad(
            "{\"a\": 1,\n \"b\": {\"c\": 18446744073709551616,\n \"d\": 1e999, \"d\": []}}",
            &[
                "f:2: b.c: \"18446744073709551616\" is a number out of range",
                "f:3: b.d: \"1e999\" is a number out of range",
                "f:3: b.d: is a key given twice; it stands at line 3 already",
            ],
        );
        bad(&"[".repeat(70), &["f:1: is nested deeper than 64"]);
        let many = format!("[{}0]", "0,\n".repeat(NODES_MAX));
        bad(&many, &["f:200001: the text holds more than 200000 values"]);
        // As much as is allowed: the YAML parser would have to keep it all.
        let most = format!("[{}0]", "0,".repeat(NODES_MAX - 3));
        assert_eq!(read(&most, "f").expect("right").len(), 1);
        let document = &read("[\n{\"a\":\n\n1}]", "f").expect("right")[0];
        assert_eq!((document.line("[0]"), document.line("[0].a")), (2, 2));
        // What is not quite JSON may be YAML.
        good("{a: 1, \"b\": [1,],}", json!([{"a": 1, "b": [1]}]));
        good("[a]\n---\n[b]", json!([["a"], ["b"]]));
        for text in ["{\"a\" 1}", "[1 2", "{\"a\": }}", "[\"a]", "{} {}", "[1]]"] {
            bad(text, &["f:1: "]);
        }
    }

    #[test]
    fn brackets_in_yaml_are_bounded() {
        let problem = "f:1: [0]: holds brackets or a text with more than 65536 signs of YAML in it";
        bad(
            &format!("[{}]", "a, ".repeat(BUFFERED_MAX + 1)),
            &["f:1: holds brackets"],
        );
        bad(&format!("- [{}", "'a',".repeat(BYTES_MAX / 5)), &[problem]);
        let long = format!("- {}\n", "'a:,'".repeat(10)).repeat(NODES_MAX / 12);
        assert_eq!(read(&long, "f").expect("by indentation it is not bounded").len(), 1);
    }

    #[test]
    fn several_documents_and_empty_ones() {
        good("", json!([]));
        good("# nothing\n", json!([]));
        good("---\n---\na: 1\n---\n# x\n...\n---\nb\n", json!([{"a": 1}, "b"]));
        good("\u{feff}a: 1", json!([{"a": 1}]));
    }

    #[test]
    fn what_can_be_read_two_ways_is_refused() {
        bad(
            "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2",
            &[
                "f:5: b.c: is a key given twice; it stands at line 3 already",
                "f:6: a: is a key given twice; it stands at line 1 already",
            ],
        );
        bad("a: &x 1\nb: *x", &["f:1: a: has an anchor", "f:2: b: is an alias"]);
        bad("a: !!str 1\nb: [!x {}]", &["f:1: a: has a tag", "f:2: b[0]: has a tag"]);
        bad(
            "a: 0644\nb: [.inf, .nan, 1e999]",
            &[
                "f:1: a: \"0644\" may be meant as an octal number",
                "f:2: b[0]: \".inf\" is a number that JSON can't hold",
                "f:2: b[1]: \".nan\" is a number that JSON can't hold",
                "f:2: b[2]: \"1e999\" is a number out of range",
            ],
        );
        bad(
            "a: 18446744073709551616\nb: -9223372036854775809",
            &["f:1: a: \"18446744073709551616\" is a number out", "f:2: b: "],
        );
        bad(
            "a: {1: x}\ntrue: y\n~: z",
            &[
                "f:1: a: \"1\" is a key that is no text",
                "f:2: \"true\" is a key",
                "f:3: \"~\" is a key",
            ],
        );
        bad("? [a]\n: b", &["f:1: has a key that is no text"]);
        bad("a: {<<: {b: 1}}", &["f:1: a: holds a merge key"]);
    }

    #[test]
    fn what_is_no_yaml_is_said_with_its_line() {
        bad("a: 1\n b: 2", &["f:2: "]);
        bad("a: [1, 2", &["f:1: "]);
        bad("a: 1\nb: \"x", &["f:2: "]);
        bad(
            "a: 1\n\tb: 2",
            &["f:1: a: can't be read as YAML: while scanning a plain scalar, found a tab"],
        );
        bad("a: 1\nb: x\0y", &["f:2: holds the control character U+0000"]);
        bad("a: \"x\u{1b}[2J\"", &["f:1: holds the control character U+001B"]);
        bad("a: 1\n\u{feff}\u{9}]", &["f:2: "]);
    }

    #[test]
    fn hostile_sizes_are_refused() {
        bad(&"[".repeat(BYTES_MAX), &["f:1: is nested deeper than 64"]);
        bad(
            &format!("- {}", "[".repeat(BYTES_MAX - 2)),
            &["f:1: [0]: can't be read as YAML: recursion limit"],
        );
        bad(&"[".repeat(100), &["f:1: is nested deeper than 64"]);
        bad(&"- ".repeat(BYTES_MAX / 2), &["f:1: is nested deeper than 64"]);
        bad(
            &"{a: ".repeat(1_000_000),
            &["f:1: can't be read as YAML: recursion limit exceeded"],
        );
        let deep: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        bad(&deep, &["f:65: is nested deeper than 64"]);
        bad(
            &" ".repeat(BYTES_MAX + 1),
            &["f:1: the text has 4194305 bytes; at most 4194304 are read"],
        );
        bad(
            &"- a\n".repeat(NODES_MAX + 1),
            &["f:200001: the text holds more than 200000 values"],
        );
        bad(
            &"---\na\n".repeat(NODES_MAX + 1),
            &["f:400002: the text holds more than 200000 values"],
        );
        // Many wrong resources: neither all of them are said, nor is each looked up among all.
        let many = format!("apiVersion: v1\nkind: List\nitems:\n{}", "- {}\n".repeat(NODES_MAX / 3));
        let errors = read_objects(&many, "f", None).expect_err("all are wrong");
        assert!(
            (ERRORS_MAX..=2 * ERRORS_MAX).contains(&errors.len()),
            "{} errors",
            errors.len()
        );
        // The billion laughs, refused at its first anchor and each alias.
        let laughs = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]";
        assert_eq!(read(laughs, "f").expect_err("aliases").len(), 6);
        let many = read(&"a: *b\n---\n".repeat(1000), "f").expect_err("aliases");
        assert!(many.len() <= ERRORS_MAX, "{} errors", many.len());
    }

    #[test]
    fn lines_are_found_by_path() {
        let text = "metadata:\n  labels:\n    app.kubernetes.io/name: x\n    a: y\nspec:\n- 1\n- b:\n    c: 1\n";
        let documents = read(text, "f").expect("right");
        let line = |path| documents[0].line(path);
        assert_eq!(line(""), 1);
        assert_eq!(line("metadata.labels[\"app.kubernetes.io/name\"]"), 3);
        assert_eq!(line("metadata.labels.a"), 4);
        assert_eq!(line("metadata.labels.ab"), 2);
        assert_eq!(line("spec[1].b.c"), 8);
        assert_eq!(line("spec[1].b.missing"), 7);
        assert_eq!(line("spec[7]"), 5);
        assert_eq!(line("nothing"), 1);
        for garbage in [
            "[",
            "]",
            "[\"",
            "..",
            ".",
            "spec[",
            "spec[-1]",
            "spec[1]]",
            "metadata.labels[\"a",
            "[\"a\"",
        ] {
            assert!(line(garbage) <= 8, "{garbage}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\x00-\\x7f\u{85}\u{feff}中]{0,200}") {
            let _ = read_objects(&text, "f", None);
        }

        #[test]
        fn no_yaml_panics(text in "([a:b \\n\\[\\]{},&*!|>'\"#%@?~0-9.-]|- |: |\\n  |---\\n){0,100}") {
            let _ = read_objects(&text, "f", None);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_objects(&String::from_utf8_lossy(&bytes), "f", None);
        }

        #[test]
        fn json_reads_as_json(value in json_value()) {
            let documents = read(&value.to_string(), "f").expect("JSON");
            let mut by_yaml = Reader::default();
            by_yaml.run(&value.to_string());
            let expect = if value.is_null() { vec![] } else { vec![value] };
            for documents in [documents, by_yaml.documents] {
                let values: Vec<Value> = documents.into_iter().map(|document| document.value).collect();
                prop_assert_eq!(&values, &expect);
            }
        }
    }

    #[test]
    fn values_are_written_as_people_would() {
        let value = json!({
            "apiVersion": "v1",
            "empty": {},
            "list": [{"a": 1, "b": ["x", []]}, "no", ""],
            "spec": {"path": "/a", "time": "10s", "version": "1.0", "zone": "a:b", "null": "null"},
        });
        let expect = "apiVersion: v1\nempty: {}\nlist:\n- a: 1\n  b:\n  - x\n  - []\n- \"no\"\n- \"\"\nspec:\n  \
                      \"null\": \"null\"\n  path: /a\n  time: \"10s\"\n  version: \"1.0\"\n  zone: \"a:b\"\n";
        assert_eq!(write(&value), expect);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in json_value(), text in "\\PC{0,9}[\\x00-\\x9f]{0,9}") {
            let value = json!({"value": value, "text": text.as_str(), text.as_str(): 1});
            let documents = read(&write(&value), "f").expect("right");
            prop_assert_eq!(&documents[0].value, &value);
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            "[a-z中 :#'\"\\\\{}\\[\\],&*!|>%@`~?-]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map("[a-z/.]{1,8}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
