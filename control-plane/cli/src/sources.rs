//! The resources in files, folders and standard input.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use weir_api::yaml::{self, SourceError};
use weir_api::{FieldError, Key, Kind, Object};

use crate::error::CliError;

/// A resource, and where it was written.
pub(crate) struct Source {
    pub(crate) object: Object,
    /// `routes.yaml:12`
    pub(crate) place: String,
}

/// Reads all resources of all files, sorted by kind (namespaces first), namespace and name.
///
/// # Errors
/// When a file can't be read, or anything in any of them is wrong: all of it at once.
pub(crate) fn read(files: &[PathBuf], namespace: Option<&str>) -> Result<Vec<Source>, CliError> {
    if files.is_empty() {
        return Err(CliError::Usage(
            "no file is given; -f FILE, -f FOLDER or -f - is right".to_owned(),
        ));
    }
    let mut sources: BTreeMap<Key, Source> = BTreeMap::new();
    let mut errors = Vec::new();
    for path in all(files)? {
        let file = if is_stdin(&path) {
            "(standard input)".to_owned()
        } else {
            path.display().to_string()
        };
        let text = match text(&path, &file)? {
            Ok(text) => text,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let objects = match yaml::read_objects(&text, &file, namespace) {
            Ok(objects) => objects,
            Err(wrong) => {
                errors.extend(wrong);
                continue;
            }
        };
        for found in objects {
            let key = found.object.key();
            let place = format!("{file}:{}", found.line);
            if let Some(earlier) = sources.get(&key) {
                let problem = format!("{key} stands here a second time");
                let remedy = format!("it stands at {} already; one of the two has to go", earlier.place);
                errors.push(wrong(&file, found.line, problem, remedy));
                continue;
            }
            let object = found.object;
            sources.insert(key, Source { object, place });
        }
    }
    if !errors.is_empty() {
        return Err(CliError::Sources(errors));
    }
    if sources.is_empty() {
        return Err(CliError::Usage("the files hold no resource".to_owned()));
    }
    Ok(sources.into_values().collect())
}

/// The names of the Namespaces among them.
pub(crate) fn namespaces(sources: &[Source]) -> BTreeSet<String> {
    let objects = sources.iter().map(|source| &source.object);
    let namespaces = objects.filter(|object| object.kind() == Kind::Namespace);
    namespaces.map(|object| object.metadata.name.clone()).collect()
}

/// The files, those of folders among them, each once.
fn all(given: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let mut files = Vec::new();
    for path in given {
        let failed = |source| CliError::File {
            path: path.clone(),
            source,
        };
        if !is_stdin(path) && fs::metadata(path).map_err(failed)?.is_dir() {
            folder(path, FOLDER_DEPTH_MAX, &mut files)?;
        } else if !files.contains(path) {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn folder(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let failed = |source| CliError::File {
        path: path.to_owned(),
        source,
    };
    let Some(depth) = depth.checked_sub(1) else {
        return Err(failed(io::Error::other(format!(
            "is deeper than {FOLDER_DEPTH_MAX} folders; name it by itself"
        ))));
    };
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let link_target = fs::metadata(entry.path());
        entries.push((entry.path(), link_target.map_err(failed)?.is_dir()));
    }
    entries.sort();
    for (entry, is_folder) in entries {
        let suffix = entry.extension().and_then(|suffix| suffix.to_str());
        if is_folder {
            folder(&entry, depth, files)?;
        } else if matches!(suffix, Some("yaml" | "yml" | "json")) && !files.contains(&entry) {
            files.push(entry);
        }
    }
    Ok(())
}

/// A file's text; inner error: it is too long or no UTF-8.
fn text(path: &Path, file: &str) -> Result<Result<String, SourceError>, CliError> {
    let failed = |source| CliError::File {
        path: path.to_owned(),
        source,
    };
    let limit = u64::try_from(yaml::BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if is_stdin(path) {
        io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        File::open(path)
            .map_err(failed)?
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    }
    Ok(String::from_utf8(bytes).map_err(|error| {
        let good = error
            .as_bytes()
            .get(..error.utf8_error().valid_up_to())
            .unwrap_or_default();
        let line = good.iter().filter(|b| **b == b'\n').count() + 1;
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        wrong(file, line, "holds bytes that are not UTF-8", "save it as UTF-8")
    }))
}

fn wrong(file: &str, line: u32, problem: impl Into<String>, remedy: impl Into<String>) -> SourceError {
    SourceError {
        file: file.to_owned(),
        line,
        error: FieldError {
            problem: problem.into(),
            ..FieldError::missing("", remedy)
        },
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Deeper folders are a loop of links.
const FOLDER_DEPTH_MAX: usize = 16;
