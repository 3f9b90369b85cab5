//! `weirctl diff`: what `apply` would change, as the control plane sees it.

use serde_json::Value;
use similar::TextDiff;
use weir_api::yaml;

use crate::apply::{self, Applied, Mode};
use crate::cli::DiffArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Out, Tone, clean, say, short};
use crate::sources;

pub(crate) fn run(client: &Client, args: &DiffArgs, out: &mut Out) -> Result<(), CliError> {
    let different = compare(client, args, out).map_err(|error| CliError::NoDiff(Box::new(error)))?;
    if different > 0 {
        return Err(CliError::Different);
    }
    Ok(())
}

/// Prints the differences; how many resources differ.
fn compare(client: &Client, args: &DiffArgs, out: &mut Out) -> Result<usize, CliError> {
    let sources = sources::read(&args.files.files, args.namespace.as_deref())?;
    apply::refuse_read_only(&sources)?;
    let namespaces = sources::namespaces(&sources);
    let mode = Mode::DryRun {
        namespaces: &namespaces,
    };
    let (mut different, mut failed) = (0, 0);
    for source in &sources {
        let what = short(&source.object.key());
        match apply::apply(client, source, mode) {
            Ok(Applied { before, after, .. }) => {
                let before = before.as_ref().map(text).unwrap_or_default();
                if print(&what, &before, &text(&after), out)? {
                    different += 1;
                }
            }
            Err(error @ CliError::Unreachable { .. }) => return Err(error),
            Err(error) => {
                say(&format!("error: {error}"));
                failed += 1;
            }
        }
    }
    match failed {
        0 => Ok(different),
        failed => Err(CliError::Some {
            failed,
            all: sources.len(),
        }),
    }
}

/// A resource as people write it: without what the store and the control plane fill in.
pub(crate) fn text(object: &Value) -> String {
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        fields.remove("status");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            for field in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
                metadata.remove(field);
            }
        }
    }
    yaml::write(&object)
}

/// The unified difference of two texts; empty: there is none.
pub(crate) fn unified(before: &str, after: &str, from: &str, to: &str) -> String {
    if before == after {
        return String::new();
    }
    let diff = TextDiff::from_lines(before, after);
    diff.unified_diff().header(from, to).to_string()
}

fn print(what: &str, before: &str, after: &str, out: &mut Out) -> Result<bool, CliError> {
    let from = format!("{what} (now)");
    let diff = unified(before, after, &from, &format!("{what} (applied)"));
    for line in diff.lines() {
        let tone = match line.as_bytes().first() {
            _ if line.starts_with("---") || line.starts_with("+++") => Tone::Head,
            Some(b'+') => Tone::Good,
            Some(b'-') => Tone::Bad,
            Some(_) | None => Tone::Plain,
        };
        out.line(&out.paint(tone, &clean(line)))?;
    }
    Ok(!diff.is_empty())
}
