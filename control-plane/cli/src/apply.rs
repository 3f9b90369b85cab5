//! `weirctl apply`: from files into the mesh, and in force.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_api::views::{ProxyView, Reason, ViewState};
use weir_api::{Access, Key, Kind, Object, duration};

use crate::cli::ApplyArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Out, Tone, clean, say};
use crate::sources::{self, Source};

pub(crate) fn run(client: &Client, args: &ApplyArgs, out: &mut Out) -> Result<(), CliError> {
    let sources = sources::read(&args.files.files, args.namespace.as_deref())?;
    refuse_read_only(&sources)?;
    let start = Instant::now();
    let mut applied = Vec::new();
    let mut failed = 0;
    for source in &sources {
        let key = source.object.key();
        match apply(client, source, dry_run(args)) {
            Ok((change, generation)) => {
                let (word, tone) = change.word();
                let word = out.paint(tone, word);
                let dry = if args.dry_run { " (dry run)" } else { "" };
                out.line(&format!("{} {word}{dry}", short(&key)))?;
                applied.push(Waiting { key, generation });
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
    if args.wait {
        wait(client, applied, start, args.timeout, out)?;
    }
    Ok(())
}

/// `httproute/citizen/portal`
pub(crate) fn short(key: &Key) -> String {
    if key.namespace.is_empty() {
        format!("{}/{}", key.kind.singular(), key.name)
    } else {
        format!("{}/{}/{}", key.kind.singular(), key.namespace, key.name)
    }
}

/// Whether anything is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Change,
    DryRun,
}

fn dry_run(args: &ApplyArgs) -> Mode {
    if args.dry_run { Mode::DryRun } else { Mode::Change }
}

/// What became of a resource.
#[derive(Clone, Copy)]
enum Change {
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

fn refuse_read_only(sources: &[Source]) -> Result<(), CliError> {
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

/// Creates a resource, or replaces what users write of it. Answers its generation then.
fn apply(client: &Client, source: &Source, mode: Mode) -> Result<(Change, i64), CliError> {
    let key = source.object.key();
    let what = format!("{}: {}", source.place, short(&key));
    let namespace = Some(key.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let query = match mode {
        Mode::Change => "",
        Mode::DryRun => "?dryRun=All",
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
            Ok(created) => return Ok((Change::Created, generation(&created))),
            Err(error) if error.is_refusal(Reason::AlreadyExists) => {}
            Err(error) => return Err(error),
        }
        let replaced = replace(client, &what, &format!("{}{query}", key.path()), &key, &given);
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

fn replace(client: &Client, what: &str, path: &str, key: &Key, given: &Object) -> Result<(Change, i64), CliError> {
    let current = client.get(what, &key.path())?;
    if written(&current) == written(&given.to_value()) {
        return Ok((Change::Unchanged, generation(&current)));
    }
    let version = |value: &Value| value.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    let mut next = given.to_value();
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        if let (Some(Value::Object(metadata)), Some(held)) = (next.get_mut("metadata"), current["metadata"].get(field))
        {
            metadata.insert(field.to_owned(), held.clone());
        }
    }
    let replaced = client.put(what, path, &next)?;
    let change = if version(&replaced) == version(&current) && written(&replaced) == written(&current) {
        Change::Unchanged
    } else {
        Change::Configured
    };
    Ok((change, generation(&replaced)))
}

/// What users write of a resource, to compare.
fn written(object: &Value) -> Value {
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

fn generation(object: &Value) -> i64 {
    object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// A resource that has to come into force.
struct Waiting {
    key: Key,
    generation: i64,
}

/// Waits until all are in force on all proxies that use them.
fn wait(
    client: &Client,
    applied: Vec<Waiting>,
    start: Instant,
    timeout: Duration,
    out: &mut Out,
) -> Result<(), CliError> {
    let mut waiting: Vec<Waiting> = applied
        .into_iter()
        .filter(|one| concerns_proxies(one.key.kind))
        .collect();
    let mut progress = Progress::new();
    // All proxies that any of the resources concerns.
    let mut concerned: BTreeSet<String> = BTreeSet::new();
    loop {
        let mut still = Vec::new();
        let mut lines = Vec::new();
        let mut pending: BTreeSet<String> = BTreeSet::new();
        for one in waiting {
            let what = short(&one.key);
            let view: ProxyView = client.view(&what, &format!("{}/proxies", one.key.path()))?;
            if view.generation < one.generation {
                lines.push(format!("{what} is not seen yet"));
                still.push(one);
                continue;
            }
            concerned.extend(view.in_force.iter().chain(&view.pending).cloned());
            match view.state {
                ViewState::InForce | ViewState::NoSubscribers => {}
                ViewState::Rejected => {
                    progress.end();
                    return Err(CliError::Rejected(rejections(&what, &view)));
                }
                ViewState::Progressing => {
                    let proxies: Vec<String> = view.pending.iter().map(|proxy| clean(proxy)).collect();
                    lines.push(format!("{what} is pending on {}", proxies.join(", ")));
                    pending.extend(view.pending);
                    still.push(one);
                }
            }
        }
        if still.is_empty() {
            progress.end();
            let after = seconds(start.elapsed());
            let line = match concerned.len() {
                0 => format!("no connected proxy uses it (after {after})"),
                1 => format!("in force on 1 proxy after {after}"),
                count => format!("in force on {count} proxies after {after}"),
            };
            out.line(&out.paint(Tone::Good, &line))?;
            return Ok(());
        }
        let in_force = concerned.difference(&pending).count();
        progress.show(&match concerned.len() {
            0 => "waiting for the control plane".to_owned(),
            count => format!("in force on {in_force} of {count} proxies"),
        });
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            progress.end();
            return Err(CliError::NotInForce {
                after: duration::format(timeout),
                waiting: lines,
            });
        }
        thread::sleep(POLL.min(left));
        waiting = still;
    }
}

/// Whether proxies get anything that is made of a kind.
fn concerns_proxies(kind: Kind) -> bool {
    match kind {
        Kind::Service | Kind::EndpointSlice | Kind::BackendPolicy | Kind::ReferenceGrant | Kind::HttpRoute => true,
        Kind::Namespace | Kind::MeshConfig | Kind::Workload => false,
    }
}

fn rejections(what: &str, view: &ProxyView) -> Vec<String> {
    let said = view.rejected.iter();
    let mut lines: Vec<String> = said
        .map(|one| clean(&format!("{what} was rejected by {}: {}", one.proxy, one.reason)))
        .collect();
    if lines.is_empty() {
        lines.push(format!("{what} was rejected"));
    }
    lines
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// What is going on, on standard error: one line that changes on a terminal, else a line for each change.
struct Progress {
    last: String,
    on_terminal: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            last: String::new(),
            on_terminal: io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, line: &str) {
        if self.last == line {
            return;
        }
        self.last = line.to_owned();
        if self.on_terminal {
            let _ = write!(io::stderr(), "\r{line}\u{1b}[K");
        } else {
            say(line);
        }
    }

    fn end(&mut self) {
        if self.on_terminal && !self.last.is_empty() {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

/// How often the control plane is asked.
const POLL: Duration = Duration::from_millis(50);

/// How often a change by someone else is met with another attempt.
const CONFLICTS_MAX: usize = 5;
