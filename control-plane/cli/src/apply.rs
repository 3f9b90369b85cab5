//! `weirctl apply`: from files into the mesh, and in force.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;
use weir_api::views::Reason;
use weir_api::{Access, Object};

use crate::cli::ApplyArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Out, Tone, say, short};
use crate::prune;
use crate::sources::{self, Source};
use crate::wait::{self, Waiting, generation};

pub(crate) fn run(client: &Client, args: &ApplyArgs, out: &mut Out) -> Result<(), CliError> {
    let sources = sources::read(&args.files.files, args.namespace.as_deref())?;
    refuse_read_only(&sources)?;
    if let Some(selector) = &args.selector {
        prune::check(&sources, selector)?;
    }
    let namespaces = sources::namespaces(&sources);
    let mode = match args.dry_run {
        true => Mode::DryRun {
            namespaces: &namespaces,
        },
        false => Mode::Change,
    };
    let start = Instant::now();
    let mut waiting = Vec::new();
    let mut failed = 0;
    for source in &sources {
        let key = source.object.key();
        match apply(client, source, mode) {
            Ok(applied) => {
                let (word, tone) = applied.change.word();
                let word = out.paint(tone, word);
                let dry = if args.dry_run { " (dry run)" } else { "" };
                out.line(&format!("{} {word}{dry}", short(&key)))?;
                let generation = generation(&applied.after);
                waiting.push(Waiting { key, generation });
            }
            // Without an answer the others fail alike.
            Err(error @ CliError::Unreachable { .. }) => return Err(error),
            Err(error) => {
                say(&format!("error: {error}"));
                failed += 1;
            }
        }
    }
    if failed > 0 {
        let all = sources.len();
        return Err(CliError::Some { failed, all });
    }
    // Only once all that stays is as it should be does anything go.
    if args.prune
        && let Some(selector) = &args.selector
    {
        prune::run(client, args, &sources, selector, out)?;
    }
    if args.wait {
        wait::in_force(client, waiting, start, args.timeout, out)?;
    }
    Ok(())
}

/// Whether anything is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode<'a> {
    Change,
    /// `namespaces`: those that the same files hold, which may not be there yet.
    DryRun {
        namespaces: &'a BTreeSet<String>,
    },
}

/// A resource that was applied, or would have been.
pub(crate) struct Applied {
    pub(crate) change: Change,
    /// What was there; `None`: nothing.
    pub(crate) before: Option<Value>,
    /// What is there now, or would be.
    pub(crate) after: Value,
}

/// What became of a resource.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    Created,
    Configured,
    Unchanged,
}

impl Change {
    fn word(self) -> (&'static str, Tone) {
        match self {
            Change::Created => ("created", Tone::Good),
            Change::Configured => ("configured", Tone::Good),
            Change::Unchanged => ("unchanged", Tone::Plain),
        }
    }
}

/// Refuses what only the control plane writes.
pub(crate) fn refuse_read_only(sources: &[Source]) -> Result<(), CliError> {
    let read_only = sources.iter().find(|source| match source.object.kind().access() {
        Access::ReadOnly => true,
        Access::Writable => false,
    });
    match read_only {
        Some(source) => Err(CliError::Usage(format!(
            "{}: {} are written by the control plane alone",
            source.place,
            source.object.kind().plural()
        ))),
        None => Ok(()),
    }
}

/// Creates a resource, or replaces what users write of it.
pub(crate) fn apply(client: &Client, source: &Source, mode: Mode<'_>) -> Result<Applied, CliError> {
    let key = source.object.key();
    let what = format!("{}: {}", source.place, short(&key));
    let namespace = Some(key.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let query = match mode {
        Mode::Change => "",
        Mode::DryRun { .. } => "?dryRun=All",
    };
    let mut given = source.object.clone();
    // What the store gives is not for files to say.
    given.metadata.uid.clear();
    given.metadata.resource_version.clear();
    given.metadata.generation = 0;
    given.metadata.creation_timestamp = None;
    given.status = None;
    let mut attempts_left = CONFLICTS_MAX;
    loop {
        let created = client.post(
            &what,
            &format!("{}{query}", key.kind.path(namespace)),
            &given.to_value(),
        );
        match created {
            Ok(after) => {
                return Ok(Applied {
                    change: Change::Created,
                    before: None,
                    after,
                });
            }
            Err(error) if error.is_refusal(Reason::AlreadyExists) => {}
            Err(error) => {
                if let Mode::DryRun { namespaces } = mode
                    && error.is_refusal(Reason::NotFound)
                    && namespaces.contains(&key.namespace)
                {
                    say(&format!(
                        "{}: the control plane can't check it before its namespace is there",
                        short(&key)
                    ));
                    return Ok(Applied {
                        change: Change::Created,
                        before: None,
                        after: given.to_value(),
                    });
                }
                return Err(error);
            }
        }
        let replaced = replace(client, &what, &key.path(), query, &given);
        match replaced {
            // Someone else changed or deleted it meanwhile: once more, on what is there now.
            Err(error)
                if attempts_left > 0 && (error.is_refusal(Reason::Conflict) || error.is_refusal(Reason::NotFound)) =>
            {
                attempts_left -= 1;
            }
            replaced => return replaced,
        }
    }
}

fn replace(client: &Client, what: &str, path: &str, query: &str, given: &Object) -> Result<Applied, CliError> {
    let current = client.get(what, path)?;
    if written(&current) == written(&given.to_value()) {
        return Ok(Applied {
            change: Change::Unchanged,
            before: Some(current.clone()),
            after: current,
        });
    }
    let version = |value: &Value| value.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    let mut next = given.to_value();
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        if let (Some(Value::Object(metadata)), Some(held)) = (next.get_mut("metadata"), current["metadata"].get(field))
        {
            metadata.insert(field.to_owned(), held.clone());
        }
    }
    let replaced = client.put(what, &format!("{path}{query}"), &next)?;
    let same = version(&replaced) == version(&current) && written(&replaced) == written(&current);
    Ok(Applied {
        change: if same { Change::Unchanged } else { Change::Configured },
        before: Some(current),
        after: replaced,
    })
}

/// What users write of a resource, to compare.
pub(crate) fn written(object: &Value) -> Value {
    let mut written = object.clone();
    if let Value::Object(fields) = &mut written {
        fields.remove("status");
        let metadata = fields.get("metadata");
        let part = |name: &str| {
            metadata
                .and_then(|m| m.get(name))
                .cloned()
                .unwrap_or_else(|| serde_json::json!({}))
        };
        let kept = serde_json::json!({"labels": part("labels"), "annotations": part("annotations")});
        fields.insert("metadata".to_owned(), kept);
    }
    written
}

/// How often a change by someone else is met with another attempt.
const CONFLICTS_MAX: usize = 5;
