//! `--resources DIR`: the folder's objects are in force as a whole, or those it held before are.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;
use weir_api::yaml::{self, SourceError, Sourced};
use weir_api::{Key, Object};

use crate::drain::Drain;
use crate::health::{Files, Health};
use crate::objects::{Objects, Refusal, SOURCE_ANNOTATION, source};

/// One thing that is wrong with the folder.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file or folder can't be read.
    #[error("{file}: {error}")]
    Unreadable {
        /// Which, relative to the folder.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// A link leads out of the folder.
    #[error("{file}: leads out of the folder; put the file itself there")]
    Outside {
        /// Which, relative to the folder.
        file: String,
    },
    /// A file is too large, or there are too many.
    #[error("{file}: {problem}")]
    TooMuch {
        /// Which, relative to the folder.
        file: String,
        /// What is too much, and what is not.
        problem: String,
    },
    /// What a file says is wrong.
    #[error(transparent)]
    Content(Box<SourceError>),
    /// Two files say the same object.
    #[error("{second}: {key} stands in {first} already; remove one of them")]
    Twice {
        /// Which object.
        key: Key,
        /// `file:line` of the first.
        first: String,
        /// `file:line` of the second.
        second: String,
    },
    /// The object is refused.
    #[error("{source_line}: {refusal}")]
    Refused {
        /// `file:line` of the object.
        source_line: String,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// The folder as a whole is refused.
    #[error(transparent)]
    Whole(Box<Refusal>),
}

/// Why the folder can't be used from the start.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is no folder, or can't be watched.
    #[error("--resources {}: {source}", .folder.display())]
    Watch {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: notify::Error,
    },
    /// It is wrong, and nothing from it is in force yet.
    #[error("--resources {}: {} wrong:\n{}", .folder.display(), .errors.len(), .errors.join("\n"))]
    Wrong {
        /// Which.
        folder: PathBuf,
        /// All that is wrong.
        errors: Vec<String>,
    },
}

/// The folder, read once and watched.
pub(crate) struct Folder {
    root: PathBuf,
    objects: Objects,
    health: Health,
    changes: mpsc::Receiver<()>,
    /// Watches for as long as it lives.
    _watcher: RecommendedWatcher,
    told: Files,
}

impl Folder {
    /// Starts to watch the folder and puts what it holds in force.
    ///
    /// # Errors
    /// When it can't be read, or is wrong and the store holds nothing from an earlier time.
    pub(crate) async fn open(root: &Path, objects: Objects, health: Health) -> Result<Folder, FolderError> {
        health.set_files(Files::Loading);
        let watch_error = |source| FolderError::Watch {
            folder: root.to_owned(),
            source,
        };
        // Resolved once, so that links are seen to lead out of it by where they end.
        let resolved = root.canonicalize().map_err(notify::Error::io).map_err(watch_error)?;
        // One place: a change that finds it taken is covered by the reading that is still to come.
        let (changed, changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if may_be_a_change(&event) {
                let _ = changed.try_send(());
            }
        })
        .map_err(watch_error)?;
        watcher
            .watch(&resolved, RecursiveMode::Recursive)
            .map_err(watch_error)?;
        let mut folder = Folder {
            root: resolved,
            objects,
            health,
            changes,
            _watcher: watcher,
            told: Files::Loading,
        };
        folder.load().await;
        match &folder.told {
            Files::Broken { errors } if !folder.has_last_good() => Err(FolderError::Wrong {
                folder: root.to_owned(),
                errors: errors.clone(),
            }),
            Files::Broken { .. } | Files::InForce { .. } | Files::Loading | Files::Unused => Ok(folder),
        }
    }

    /// Follows the folder until the process ends.
    pub(crate) async fn follow(mut self, mut drain: Drain) {
        loop {
            // Cancel safe: `begun` loses nothing; a change that `settled` has taken when it is dropped matters no
            // more.
            tokio::select! {
                biased;
                () = drain.begun() => return,
                () = settled(&mut self.changes) => {}
            }
            self.load().await;
        }
    }

    async fn load(&mut self) {
        let now = match self.try_load().await {
            Ok(objects) => Files::InForce { objects },
            Err(errors) => Files::Broken {
                errors: errors.iter().map(ToString::to_string).collect(),
            },
        };
        if now != self.told {
            match &now {
                Files::InForce { objects } => tracing::info!(objects, "the resources folder is in force"),
                Files::Broken { errors } => {
                    for error in errors {
                        tracing::error!(
                            error,
                            "the resources folder is wrong; what it held before stays in force"
                        );
                    }
                }
                Files::Loading | Files::Unused => {}
            }
            self.health.set_files(now.clone());
            self.told = now;
        }
    }

    async fn try_load(&self) -> Result<usize, Vec<FileError>> {
        let root = self.root.clone();
        let objects = self.objects.clone();
        let read = tokio::task::spawn_blocking(move || read_folder(&root, &objects)).await;
        let wanted = read.unwrap_or_else(|panic| {
            let error = io::Error::other(panic);
            let file = String::from(".");
            Err(vec![FileError::Unreadable { file, error }])
        })?;
        match self.objects.sync_files(&wanted).await {
            Ok(_) => Ok(wanted.len()),
            Err(refusal) => Err(vec![located(refusal, &wanted)]),
        }
    }

    fn has_last_good(&self) -> bool {
        let (all, _) = self.objects.store().all();
        all.iter().any(|stored| source(&stored.object).is_some())
    }
}

/// Whether files may be others than before. Reading them makes events too, which must not make us read them again. What
/// went wrong may have hidden a change.
fn may_be_a_change(event: &notify::Result<notify::Event>) -> bool {
    match event.as_ref().map(|event| event.kind) {
        Ok(EventKind::Access(AccessKind::Close(AccessMode::Write))) => true,
        Ok(EventKind::Access(_)) => false,
        Ok(EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other) => {
            true
        }
        Err(_) => true,
    }
}

/// Waits for a change, or for the time of the next look without one, and then until changes have paused.
async fn settled(changes: &mut mpsc::Receiver<()>) {
    // File systems that tell nothing (some network mounts) are looked at from time to time.
    let look = Instant::now() + LOOK_INTERVAL;
    match tokio::time::timeout_at(look, changes.recv()).await {
        Err(_) => return,
        Ok(Some(())) => {}
        // The watcher is gone, so only looking is left.
        Ok(None) => return tokio::time::sleep_until(look).await,
    }
    let latest = Instant::now() + SETTLE_MAX;
    loop {
        let more = tokio::time::timeout(SETTLE_PAUSE, changes.recv()).await;
        if !matches!(more, Ok(Some(()))) || Instant::now() >= latest {
            return;
        }
    }
}

/// Says where the refused object stands, if the refusal is about one.
fn located(refusal: Refusal, wanted: &[Object]) -> FileError {
    let key = match &refusal {
        Refusal::UnknownNamespace { key } | Refusal::Terminating { key } | Refusal::Invalid { key, .. } => Some(key),
        Refusal::Malformed { .. }
        | Refusal::ReadOnly { .. }
        | Refusal::FileOwned { .. }
        | Refusal::Protected { .. }
        | Refusal::Contended { .. }
        | Refusal::ContendedCollection { .. }
        | Refusal::OtherUid { .. }
        | Refusal::Patch { .. }
        | Refusal::Write(_) => None,
    };
    let object = key.and_then(|key| wanted.iter().find(|object| object.key() == *key));
    match object.and_then(source) {
        Some(line) => FileError::Refused {
            source_line: line.to_owned(),
            refusal: Box::new(refusal),
        },
        None => FileError::Whole(Box::new(refusal)),
    }
}

/// All objects of the folder, each with its place, or all that is wrong.
fn read_folder(root: &Path, objects: &Objects) -> Result<Vec<Object>, Vec<FileError>> {
    let mut reading = Reading {
        root,
        objects,
        files: 0,
        bytes: 0,
        places: BTreeMap::new(),
        read: Vec::new(),
        errors: Vec::new(),
    };
    reading.folder(root, &mut vec![root.to_owned()]);
    if reading.errors.is_empty() {
        Ok(reading.read)
    } else {
        reading.errors.truncate(ERRORS_MAX);
        Err(reading.errors)
    }
}

struct Reading<'a> {
    root: &'a Path,
    objects: &'a Objects,
    files: usize,
    bytes: u64,
    /// Where each object stands.
    places: BTreeMap<Key, String>,
    read: Vec<Object>,
    errors: Vec<FileError>,
}

impl Reading<'_> {
    /// Reads a folder, in order of names. Names that begin with a dot are left out: editors and Kubernetes' mounts keep
    /// their own things there. `above` holds the folders it lies in, resolved, against links in a circle.
    fn folder(&mut self, folder: &Path, above: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut paths: Vec<PathBuf> = match entries {
            Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
            Err(error) => {
                let file = self.name(folder);
                self.errors.push(FileError::Unreadable { file, error });
                return;
            }
        };
        paths.sort();
        for path in paths {
            let hidden = path
                .file_name()
                .is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if hidden || self.errors.len() >= ERRORS_MAX {
                continue;
            }
            if let Err(error) = self.entry(&path, above) {
                self.errors.push(error);
            }
        }
    }

    fn entry(&mut self, path: &Path, above: &mut Vec<PathBuf>) -> Result<(), FileError> {
        let file = self.name(path);
        let unreadable = |error| FileError::Unreadable {
            file: file.clone(),
            error,
        };
        let resolved = path.canonicalize().map_err(unreadable)?;
        if !resolved.starts_with(self.root) {
            return Err(FileError::Outside { file });
        }
        let metadata = std::fs::metadata(&resolved).map_err(unreadable)?;
        if metadata.is_dir() {
            if above.len() >= FOLDER_DEPTH_MAX {
                let problem = format!("lies deeper than {FOLDER_DEPTH_MAX} folders");
                return Err(FileError::TooMuch { file, problem });
            }
            if !above.contains(&resolved) {
                above.push(resolved);
                self.folder(path, above);
                above.pop();
            }
            return Ok(());
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !metadata.is_file() || !matches!(extension, Some("yaml" | "yml" | "json")) {
            return Ok(());
        }
        self.files += 1;
        self.bytes = self.bytes.saturating_add(metadata.len());
        if metadata.len() > FILE_BYTES_MAX || self.bytes > FOLDER_BYTES_MAX || self.files > FILES_MAX {
            let problem = format!(
                "is too much: a file may have {FILE_BYTES_MAX} bytes, the folder {FOLDER_BYTES_MAX} in {FILES_MAX} files"
            );
            return Err(FileError::TooMuch { file, problem });
        }
        let text = std::fs::read_to_string(&resolved).map_err(unreadable)?;
        self.text(&file, &text);
        Ok(())
    }

    fn text(&mut self, file: &str, text: &str) {
        match yaml::read_objects(text, file, None) {
            Ok(objects) => {
                for Sourced { object, line } in objects {
                    self.object(object, format!("{file}:{line}"));
                }
            }
            Err(errors) => self
                .errors
                .extend(errors.into_iter().map(Box::new).map(FileError::Content)),
        }
    }

    fn object(&mut self, mut object: Object, place: String) {
        if let Err(refusal) = self.objects.admit_from_file(&object) {
            self.errors.push(FileError::Refused {
                source_line: place,
                refusal: Box::new(refusal),
            });
            return;
        }
        let key = object.key();
        if let Some(first) = self.places.get(&key) {
            self.errors.push(FileError::Twice {
                key,
                first: first.clone(),
                second: place,
            });
            return;
        }
        object.status = None;
        let annotations = &mut object.metadata.annotations;
        annotations.insert(SOURCE_ANNOTATION.to_owned(), place.clone());
        self.places.insert(key, place);
        self.read.push(object);
    }

    fn name(&self, path: &Path) -> String {
        let relative = path.strip_prefix(self.root).unwrap_or(path);
        let relative = relative.to_string_lossy().into_owned();
        if relative.is_empty() { ".".to_owned() } else { relative }
    }
}

const SETTLE_PAUSE: Duration = Duration::from_millis(200);
/// Even if the folder changes all the time, it is read this often.
const SETTLE_MAX: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
const FOLDER_DEPTH_MAX: usize = 16;
const FILES_MAX: usize = 10_000;
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const FOLDER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// More help nobody.
const ERRORS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, ModifyKind, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn reading_a_file_is_no_reason_to_read_it_again() {
        let event = |kind| may_be_a_change(&Ok(notify::Event::new(kind)));
        for kind in [
            AccessKind::Any,
            AccessKind::Read,
            AccessKind::Open(AccessMode::Any),
            AccessKind::Open(AccessMode::Read),
            AccessKind::Close(AccessMode::Read),
        ] {
            assert!(!event(EventKind::Access(kind)), "{kind:?}");
        }
        for kind in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
            EventKind::Remove(RemoveKind::File),
            EventKind::Any,
            EventKind::Other,
        ] {
            assert!(event(kind), "{kind:?}");
        }
        assert!(may_be_a_change(&Err(notify::Error::generic("the queue ran over"))));
    }
}
