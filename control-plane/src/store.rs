//! The store: resources by key, in SQLite, with one revision for all of them.
//!
//! Reads come from memory and never wait for the disk. Writes go through one thread that owns the database: it takes
//! what is queued, commits it together, and answers each writer only once its change is on disk.

mod disk;
mod index;
mod stage;
mod writer;

use std::fmt;
use std::num::ParseIntError;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use weir_api::{Key, Kind, Object};

pub use disk::OpenError;
pub use index::{Compacted, Watch, WatchEnded};

use index::Shared;
use writer::{Request, WriteMode};

/// Where the store keeps its resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In memory: gone with the process.
    Memory,
    /// In this directory, made if it is missing (mode 0700).
    Directory(PathBuf),
}

/// A point in the store's history: each changed object moves it by one. Never given twice, also after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Revision)
    }
}

/// An object as the store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The object; its `metadata.resource_version` is [`Self::revision`] as text.
    pub object: Arc<Object>,
    /// When it last changed.
    pub revision: Revision,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is new.
    Added {
        /// As it is now.
        after: Arc<Stored>,
    },
    /// It differs from before, in whatever part.
    Modified {
        /// As it was.
        before: Arc<Stored>,
        /// As it is now.
        after: Arc<Stored>,
    },
    /// It is gone.
    Deleted {
        /// As it was.
        before: Arc<Stored>,
    },
}

/// One change in the store's history.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Whose change.
    pub key: Key,
    /// What changed.
    pub change: Change,
    /// When: no two events share a revision, also within one transaction.
    pub revision: Revision,
}

impl Event {
    /// The object after the change; before it where it is gone.
    pub fn latest(&self) -> &Arc<Stored> {
        match &self.change {
            Change::Added { after } | Change::Modified { after, .. } => after,
            Change::Deleted { before } => before,
        }
    }
}

/// What the held object must be for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Anything, as long as it exists.
    Any,
    /// Last changed at this revision.
    Revision(Revision),
}

/// One step of a write. The steps of one write happen all or not at all, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Adds an object. The store sets uid, creation time, generation and resource version, and a Namespace's phase; the
    /// rest is kept as given.
    Create(Object),
    /// Puts an object in the place of the held one, whose uid, times and status stay. The generation grows if
    /// the spec differs. Without any difference nothing happens and no revision is used.
    Replace {
        /// The new object.
        object: Object,
        /// What the held one must be.
        precondition: Precondition,
    },
    /// Removes an object.
    Delete {
        /// Which.
        key: Key,
        /// What the held one must be.
        precondition: Precondition,
    },
    /// Marks an object as being deleted: it gets a deletion time, and a Namespace the phase Terminating. One that is
    /// marked already stays as it is.
    Terminate {
        /// Which.
        key: Key,
        /// What the held one must be.
        precondition: Precondition,
    },
    /// Sets an object's status and nothing else; the generation stays.
    Status {
        /// Whose.
        key: Key,
        /// The status as a whole.
        status: serde_json::Value,
        /// What the held one must be.
        precondition: Precondition,
    },
    /// Holds the write back unless this object exists at this step and is not being deleted.
    Require(Key),
    /// Holds the write back if a namespaced object of this namespace exists at this step.
    RequireEmpty(String),
}

/// What a write did.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The store's revision after the write.
    pub revision: Revision,
    /// For each step that names an object, in order: the object after it (before it, where it was deleted).
    pub objects: Vec<Arc<Stored>>,
}

/// Why nothing was written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// An object to be created exists.
    #[error("{key} exists already")]
    Exists {
        /// Which.
        key: Key,
    },
    /// An object to be changed or required doesn't exist.
    #[error("{key} does not exist")]
    NotFound {
        /// Which.
        key: Key,
    },
    /// An object that is required is being deleted.
    #[error("{key} is being deleted")]
    Terminating {
        /// Which.
        key: Key,
    },
    /// The held object is another one than the writer knew.
    #[error("{key} is at revision {held}, not at {given}: it was changed in the meantime")]
    Conflict {
        /// Which.
        key: Key,
        /// Its revision.
        held: Revision,
        /// The revision the writer gave.
        given: Revision,
    },
    /// A namespace that had to be empty holds objects.
    #[error("namespace {namespace} still holds {}", list(.holds))]
    NotEmpty {
        /// Which namespace.
        namespace: String,
        /// What it holds, sorted.
        holds: Vec<Key>,
    },
    /// The store is shut down.
    #[error("the store is shut down")]
    Closed,
    /// The disk or the database failed; nothing of the write is kept.
    #[error("the store can't write: {0}")]
    Storage(#[source] Arc<rusqlite::Error>),
}

/// Why a token's use is not written down.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UseError {
    /// Other keys used it as often as it may be used.
    #[error("it was used as often as it may be")]
    UsedUp,
    /// The store is shut down.
    #[error("the store is shut down")]
    Closed,
    /// The disk or the database failed; the use may be written all the same.
    #[error("the store can't write: {0}")]
    Storage(#[source] Arc<rusqlite::Error>),
}

/// One use of a token by one key.
#[derive(Clone, Debug)]
struct TokenUse {
    token: String,
    key: String,
    uses_max: u32,
    /// Seconds of Unix time: forgotten afterwards.
    ends: u64,
}

/// A handle to the store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
}

impl Store {
    /// Opens the store and starts the thread that writes it. Reads the whole database once; blocks while it does.
    ///
    /// # Errors
    /// When another process has the directory, or when it can't be read or made.
    pub fn open(location: Location) -> Result<(Store, StoreTask), OpenError> {
        let (disk, loaded) = disk::Disk::open(&location)?;
        let shared = Arc::new(Shared::new(loaded, index::Memory::default()));
        let (queue, requests) = mpsc::channel(QUEUED_WRITES_MAX);
        let (ended, end) = oneshot::channel();
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("store".to_owned())
                .spawn(move || {
                    // Dropped when the thread ends, in whatever way, the last first: watches end, then
                    // `StoreTask::ended` sees it.
                    let _ended: oneshot::Sender<()> = ended;
                    let closing = index::CloseOnDrop(shared);
                    writer::run(disk, &closing.0, requests);
                })
                .map_err(OpenError::Thread)?
        };
        let store = Store { shared, queue };
        let task = StoreTask {
            queue: store.queue.clone(),
            end,
            thread,
        };
        Ok((store, task))
    }

    /// The object of this key.
    pub fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.shared.get(key)
    }

    /// All objects of a kind, in one namespace or everywhere, sorted by key, with the revision at which that was so.
    pub fn list(&self, kind: Kind, namespace: Option<&str>) -> (Vec<Arc<Stored>>, Revision) {
        self.shared.list(kind, namespace)
    }

    /// All objects of a kind, in one namespace or everywhere, sorted by key, as they were at `revision`.
    ///
    /// # Errors
    /// When that state can't be told any more, as changes since are forgotten, or `revision` is none of this store.
    pub fn list_at(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        revision: Revision,
    ) -> Result<Vec<Arc<Stored>>, Compacted> {
        self.shared.list_at(kind, namespace, revision)
    }

    /// All objects, sorted by key, with the revision at which that was so.
    pub fn all(&self) -> (Vec<Arc<Stored>>, Revision) {
        self.shared.all()
    }

    /// The revision of the latest change.
    pub fn revision(&self) -> Revision {
        self.shared.revision()
    }

    /// Why the latest write could not be stored; `None`: it could. Reads go on either way.
    pub fn trouble(&self) -> Option<Arc<rusqlite::Error>> {
        self.shared.trouble()
    }

    /// Writes all steps or none, and returns when they are on disk and visible to reads and watches. Waits for a place
    /// in the queue when there are too many writers.
    ///
    /// # Errors
    /// The first step that can't be done, or the disk's failure.
    ///
    /// # Cancel safety
    /// When dropped, the write happens as a whole or not at all; which of them, the caller sees only by reading.
    pub async fn write(&self, ops: Vec<Op>) -> Result<Written, WriteError> {
        self.send(ops, WriteMode::Commit).await
    }

    /// What [`Self::write`] would do, without doing it. The revisions it shows are not taken.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub async fn dry_run(&self, ops: Vec<Op>) -> Result<Written, WriteError> {
        self.send(ops, WriteMode::DryRun).await
    }

    /// Every change after `from`, from the store's memory of the latest ones and then as they happen.
    ///
    /// # Errors
    /// When changes after `from` are no longer remembered, or `from` is no revision of this store: list anew.
    pub fn watch(&self, from: Revision) -> Result<Watch, Compacted> {
        Watch::new(Arc::clone(&self.shared), from)
    }

    /// Writes down that `key` used `token`, and returns when that is on disk. The same key again is the same use. Uses
    /// are no resources: they have no revision, and nobody watches them.
    ///
    /// # Errors
    /// When `uses_max` other keys have used it, of which two at once are told apart; or the disk's failure.
    ///
    /// # Cancel safety
    /// When dropped, the use may be written down or not.
    pub async fn use_token(&self, token: &str, key: &str, uses_max: u32, ends: u64) -> Result<(), UseError> {
        let (reply, answer) = oneshot::channel();
        let usage = TokenUse {
            token: token.to_owned(),
            key: key.to_owned(),
            uses_max,
            ends,
        };
        let request = Request::UseToken { usage, reply };
        self.queue.send(request).await.map_err(|_| UseError::Closed)?;
        answer.await.map_err(|_| UseError::Closed)?
    }

    async fn send(&self, ops: Vec<Op>, mode: WriteMode) -> Result<Written, WriteError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Write { ops, mode, reply };
        self.queue.send(request).await.map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }
}

/// The store's thread, for its owner.
#[derive(Debug)]
pub struct StoreTask {
    queue: mpsc::Sender<Request>,
    end: oneshot::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

/// The store's thread panicked.
#[derive(Debug, thiserror::Error)]
#[error("the store's thread panicked")]
pub struct StorePanicked;

impl StoreTask {
    /// Returns when the thread has ended; while the store is in use it only does so by a panic.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ended(&mut self) {
        // An error says that the sender was dropped, which is all it is for.
        let _ = (&mut self.end).await;
    }

    /// Lets the writes that are queued finish, closes the database and releases its directory. Later writes are
    /// answered with [`WriteError::Closed`], watches end.
    ///
    /// # Errors
    /// When the thread had panicked.
    pub async fn stop(mut self) -> Result<(), StorePanicked> {
        // It fails only where the thread is gone already.
        let _ = self.queue.send(Request::Stop).await;
        if !self.end.is_terminated() {
            self.ended().await;
        }
        self.thread.join().map_err(|_| StorePanicked)
    }
}

/// The first few of `keys`, for a sentence.
fn list(keys: &[Key]) -> String {
    let shown: Vec<String> = keys.iter().take(LISTED_KEYS_MAX).map(ToString::to_string).collect();
    match keys.len().checked_sub(LISTED_KEYS_MAX) {
        Some(more) if more > 0 => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

/// Writers beyond this wait for a place, each in its own task.
const QUEUED_WRITES_MAX: usize = 1024;
const LISTED_KEYS_MAX: usize = 10;

/// Objects for tests.
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
