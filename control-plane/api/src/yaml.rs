//! Reading YAML and JSON strictly, with the line of everything that is wrong.

use std::fmt;

use serde_json::Value;

use crate::object::Object;

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
        let _ = path;
        self.lines.line
    }
}

#[derive(Clone, Debug)]
struct Lines {
    line: u32,
}

/// What is wrong in a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// The file, as it was named.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// The field's path; empty: the document itself.
    pub path: String,
    /// What it holds; empty: nothing.
    pub held: String,
    /// What is wrong, as the end of a sentence that begins with what it holds.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

/// `routes.yaml:12: spec.rules[0].backendRefs[0].weight: -1 is …; a whole number from 0 to 1000000 is right`.
impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.problem)
    }
}

impl std::error::Error for SourceError {}

/// A resource, and where it was written.
#[derive(Clone, Debug)]
pub struct Sourced {
    /// The resource.
    pub object: Object,
    /// The line, counted from 1, at which its document begins.
    pub line: u32,
}

/// Reads every document of a text: YAML 1.2 (core schema) or JSON; empty documents are left out. Refused are
/// duplicate keys, keys that are no text, anchors, aliases, tags, control characters, numbers that JSON can't hold,
/// more than [`BYTES_MAX`] bytes, [`NODES_MAX`] values or a depth of [`DEPTH_MAX`]. `file` names the text in errors.
///
/// # Errors
/// What is wrong; what follows a syntax error is not looked at.
pub fn read(text: &str, file: &str) -> Result<Vec<Document>, Vec<SourceError>> {
    let _ = text;
    Err(vec![SourceError {
        file: file.to_owned(),
        line: 1,
        path: String::new(),
        held: String::new(),
        problem: "is not read yet".to_owned(),
        remedy: String::new(),
    }])
}

/// Reads every resource of a text, as [`read`] and [`Object::parse_in`] do; `List` documents are taken apart. Of two
/// resources with one key the second is wrong.
///
/// # Errors
/// All that is wrong, with file and line.
pub fn read_objects(text: &str, file: &str, namespace: Option<&str>) -> Result<Vec<Sourced>, Vec<SourceError>> {
    let documents = read(text, file)?;
    let _ = (documents.first().map(|d| (&d.value, d.line(""))), namespace);
    Ok(Vec::new())
}

/// How many bytes a text may have.
pub const BYTES_MAX: usize = 4 << 20;

/// How many values, keys included, the documents of a text may have in all.
pub const NODES_MAX: usize = 200_000;

/// How deep values may be nested.
pub const DEPTH_MAX: usize = 64;
