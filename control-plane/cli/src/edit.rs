//! `weirctl edit`: a resource in an editor, until it is right and taken.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use weir_api::views::Reason;
use weir_api::yaml::{self, SourceError};
use weir_api::{Access, Key};

use crate::apply::written;
use crate::cli::EditArgs;
use crate::client::Client;
use crate::diff;
use crate::error::CliError;
use crate::output::{Out, clean, short};

pub(crate) fn run(client: &Client, args: &EditArgs, out: &mut Out) -> Result<(), CliError> {
    let key = args.one.key();
    if key.kind.access() == Access::ReadOnly {
        return Err(CliError::Usage(format!(
            "{} are written by the control plane alone",
            key.kind.plural()
        )));
    }
    let mut current = client.get(&short(&key), &key.path())?;
    let file = Draft::new(&key)?;
    let mut text = diff::text(&current);
    let mut round = Round::First;
    let mut remarks: Vec<String> = Vec::new();
    loop {
        let given = with_remarks(&key, &remarks, &text);
        let edited = without_remarks(&file.edit(&given)?);
        let unchanged = edited == text;
        if edited.trim().is_empty() || (round == Round::First && unchanged) {
            out.line(&format!("{} is left as it was", short(&key)))?;
            return file.remove();
        }
        let draft = |remarks| CliError::Draft {
            file: file.path.clone(),
            remarks,
        };
        if round == Round::AfterErrors && unchanged {
            return Err(draft(remarks));
        }
        text = edited;
        match save(client, &key, &text, &current) {
            Ok(Saved::Done) => {
                out.line(&format!("{} edited", short(&key)))?;
                return file.remove();
            }
            Ok(Saved::Wrong(wrong)) => (round, remarks) = (Round::AfterErrors, wrong),
            Ok(Saved::Moved(newer)) => {
                let before = diff::text(&current);
                let theirs = diff::unified(&before, &diff::text(&newer), "as you opened it", "as it is now");
                remarks = vec!["somebody changed it meanwhile; saved once more, yours takes the place of:".to_owned()];
                remarks.extend(theirs.lines().map(str::to_owned));
                (round, current) = (Round::AfterOthers, newer);
            }
            Err(error) => return Err(draft(vec![error.to_string()])),
        }
    }
}

/// What the editor is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// To change it. Saved as it is, nothing happens.
    First,
    /// To correct it. Saved as it is, whoever edits has given up, or the editor is a script.
    AfterErrors,
    /// To look at what somebody else did. Saved as it is, it is applied.
    AfterOthers,
}

/// What came of an edited text.
enum Saved {
    Done,
    /// It is not right.
    Wrong(Vec<String>),
    /// It was changed by somebody else meanwhile, to this.
    Moved(Value),
}

fn save(client: &Client, key: &Key, text: &str, opened: &Value) -> Result<Saved, CliError> {
    let namespace = Some(key.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let object = match yaml::read_objects(text, "line", namespace).as_deref() {
        Err(errors) => return Ok(Saved::Wrong(errors.iter().map(remark).collect())),
        Ok([found]) if found.object.key() == *key => found.object.clone(),
        Ok(_) => {
            let problem = format!("it must stay {}: other names and kinds are for apply", short(key));
            return Ok(Saved::Wrong(vec![problem]));
        }
    };
    let mut next = object.to_value();
    for attempts_left in (0..CONFLICTS_MAX).rev() {
        let held = match attempts_left {
            first if first + 1 == CONFLICTS_MAX => opened.clone(),
            _ => client.get(&short(key), &key.path())?,
        };
        if written(&held) != written(opened) {
            return Ok(Saved::Moved(held));
        }
        next["metadata"]["resourceVersion"] = held["metadata"]["resourceVersion"].clone();
        match client.put(&short(key), &key.path(), &next) {
            Ok(_) => return Ok(Saved::Done),
            // Of somebody else, or only of its status, which is seen above.
            Err(error) if error.is_refusal(Reason::Conflict) && attempts_left > 0 => {}
            Err(error @ CliError::Refused { .. }) => {
                return Ok(Saved::Wrong(error.to_string().lines().map(str::to_owned).collect()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Saved::Wrong(vec!["it changes all the time; save it again".to_owned()]))
}

fn remark(error: &SourceError) -> String {
    format!("{} (line {} of what is below)", error.error, error.line)
}

fn with_remarks(key: &Key, remarks: &[String], text: &str) -> String {
    let mut given = format!(
        "{REMARK}{}: saved, it is applied; emptied, it stays as it was.\n",
        short(key)
    );
    for remark in remarks {
        for line in remark.lines() {
            given.push_str(&format!("{REMARK}{}\n", clean(line)));
        }
    }
    given.push_str(text);
    given
}

fn without_remarks(text: &str) -> String {
    let lines = text.lines().skip_while(|line| line.starts_with(REMARK));
    lines.map(|line| format!("{line}\n")).collect()
}

/// A file for the editor.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn new(key: &Key) -> Result<Draft, CliError> {
        let name = format!(
            "weirctl-{}-{}-{}.yaml",
            key.kind.singular(),
            key.name,
            std::process::id()
        );
        let path = env::temp_dir().join(name);
        let failed = |source| CliError::File {
            path: path.clone(),
            source,
        };
        let mut options = fs::OpenOptions::new();
        // New: in a folder that all can write to, a name may be a trap.
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&path).map_err(failed)?;
        Ok(Draft { path })
    }

    /// Gives the text to the editor and returns what it left.
    fn edit(&self, text: &str) -> Result<String, CliError> {
        let failed = |source| CliError::File {
            path: self.path.clone(),
            source,
        };
        let mut file = fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&self.path)
            .map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        drop(file);
        run_editor(&self.path)?;
        fs::read_to_string(&self.path).map_err(failed)
    }

    fn remove(self) -> Result<(), CliError> {
        fs::remove_file(&self.path).map_err(|source| CliError::File {
            path: self.path,
            source,
        })
    }
}

/// The editor is a command line, as other programs take it: `code --wait`.
fn run_editor(file: &Path) -> Result<(), CliError> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = set("WEIR_EDITOR").or_else(|| set("VISUAL")).or_else(|| set("EDITOR"));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("weirctl-edit")
        .arg(file)
        .status();
    let failed = |why: String| CliError::Editor {
        editor: editor.clone(),
        why,
        file: file.to_owned(),
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(status.to_string())),
        Err(error) => Err(failed(io::Error::to_string(&error))),
    }
}

/// In front of each line that is not the resource's.
const REMARK: &str = "# ";

/// How often a conflict is met with another attempt.
const CONFLICTS_MAX: usize = 5;
