//! Regular expressions that take a whole text, within bounds.

use std::collections::HashMap;

use regex::bytes::{Regex, RegexBuilder};

use super::Problem;

/// Compiles patterns, each distinct one once.
#[derive(Default)]
pub(super) struct Patterns {
    compiled: HashMap<Box<str>, Result<Regex, Problem>>,
}

impl Patterns {
    /// The expression that takes what `pattern` takes as a whole. As in RE2, `\d`, `\w` and `\s` are of ASCII, and what
    /// is matched is bytes: header fields and decoded parameters need not be UTF-8.
    pub(super) fn compile(&mut self, pattern: &str) -> Result<Regex, Problem> {
        if let Some(known) = self.compiled.get(pattern) {
            return known.clone();
        }
        if self.compiled.len() >= PATTERNS_MAX {
            return Err(Problem::TooManyRegexes { max: PATTERNS_MAX });
        }
        let compiled = compile(pattern);
        self.compiled.insert(pattern.into(), compiled.clone());
        compiled
    }
}

/// Whether a table would take this regular expression, for who checks it before it gets into one.
///
/// # Errors
/// [`Problem::Regex`], [`Problem::RegexTooLong`] or [`Problem::RegexTooBig`].
pub fn check_regex(pattern: &str) -> Result<(), Problem> {
    compile(pattern).map(|_| ())
}

fn compile(pattern: &str) -> Result<Regex, Problem> {
    if pattern.len() > PATTERN_LEN_MAX {
        return Err(Problem::RegexTooLong { max: PATTERN_LEN_MAX });
    }
    // Alone first: so that `a)|(b` is refused, not made valid by the group put round it, and errors show what was
    // written.
    build(pattern)?;
    build(&format!(r"\A(?:{pattern})\z"))
}

fn build(pattern: &str) -> Result<Regex, Problem> {
    let built = RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(PROGRAM_BYTES_MAX)
        .dfa_size_limit(CACHE_BYTES_MAX)
        .nest_limit(NESTING_MAX)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(max) => Problem::RegexTooBig { max_bytes: max },
        other => Problem::Regex {
            reason: in_one_line(&other.to_string()),
        },
    })
}

/// The crate draws the pattern with a pointer to the place and ends with `error: …`; in a status or a log line there is
/// room for that last line only.
fn in_one_line(error: &str) -> String {
    let last = error.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Gateway API: 1024 for paths and query parameters, 4096 for header fields.
const PATTERN_LEN_MAX: usize = 4096;
/// Distinct patterns in one table: with the sizes below it bounds a table's memory.
const PATTERNS_MAX: usize = 1000;
const PROGRAM_BYTES_MAX: usize = 64 << 10;
/// For each thread that matches at once; the search falls back to a slower one without cache when it is full.
const CACHE_BYTES_MAX: usize = 64 << 10;
const NESTING_MAX: u32 = 50;
