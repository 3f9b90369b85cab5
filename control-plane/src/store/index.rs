//! What the store holds, in memory: the objects by key, and the latest changes for watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;
use weir_api::{Key, Kind};

use super::{Event, Revision, Stored};

/// What a database held when it was opened.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) objects: BTreeMap<Key, Arc<Stored>>,
    pub(super) revision: Revision,
}

/// The index, shared by readers, watches and the writing thread.
#[derive(Debug)]
pub(super) struct Shared {
    state: RwLock<State>,
    /// The latest revision, and whether more will come.
    news: watch::Sender<News>,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<Key, Arc<Stored>>,
    revision: Revision,
    /// The latest changes, oldest first; revisions grow strictly.
    ring: VecDeque<Arc<Event>>,
    /// Every change after this revision is in the ring.
    remembered_from: Revision,
}

#[derive(Clone, Copy, Debug)]
struct News {
    revision: Revision,
    state: Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Yes,
    Closed,
}

impl Shared {
    pub(super) fn new(loaded: Loaded) -> Shared {
        let revision = loaded.revision;
        Shared {
            state: RwLock::new(State {
                objects: loaded.objects,
                revision,
                ring: VecDeque::new(),
                remembered_from: revision,
            }),
            news: watch::Sender::new(News {
                revision,
                state: Open::Yes,
            }),
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.read().objects.get(key).cloned()
    }

    pub(super) fn list(&self, kind: Kind, namespace: Option<&str>) -> (Vec<Arc<Stored>>, Revision) {
        let first = Key {
            kind,
            namespace: namespace.unwrap_or_default().to_owned(),
            name: String::new(),
        };
        let state = self.read();
        let range = state.objects.range(first..);
        let matching = range.take_while(|(key, _)| key.kind == kind && namespace.is_none_or(|n| key.namespace == n));
        let listed = matching.map(|(_, stored)| Arc::clone(stored)).collect();
        (listed, state.revision)
    }

    pub(super) fn all(&self) -> (Vec<Arc<Stored>>, Revision) {
        let state = self.read();
        (state.objects.values().cloned().collect(), state.revision)
    }

    pub(super) fn revision(&self) -> Revision {
        self.read().revision
    }

    /// Lends the objects to the writing thread; readers are not held up by it.
    pub(super) fn with_objects<T>(&self, f: impl FnOnce(&BTreeMap<Key, Arc<Stored>>, Revision) -> T) -> T {
        let state = self.read();
        f(&state.objects, state.revision)
    }

    /// Makes committed changes visible, all at once.
    pub(super) fn publish(&self, events: Vec<Arc<Event>>) {
        let Some(revision) = events.last().map(|event| event.revision) else {
            return;
        };
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                match &event.change {
                    super::Change::Added { after } | super::Change::Modified { after, .. } => {
                        state.objects.insert(event.key.clone(), Arc::clone(after));
                    }
                    super::Change::Deleted { .. } => {
                        state.objects.remove(&event.key);
                    }
                }
                state.ring.push_back(event);
            }
            state.revision = revision;
            while state.ring.len() > REMEMBERED_EVENTS_MAX {
                if let Some(forgotten) = state.ring.pop_front() {
                    state.remembered_from = forgotten.revision;
                }
            }
        }
        self.news.send_modify(|news| news.revision = revision);
    }

    /// Ends all watches.
    pub(super) fn close(&self) {
        self.news.send_modify(|news| news.state = Open::Closed);
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // The state is never left half changed: a panic elsewhere does not make it wrong.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes after a revision are no longer remembered, or it is none of this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changes after revision {from} are not known here (known: {oldest} to {latest}); list anew")]
pub struct Compacted {
    /// Where the watch was.
    pub from: Revision,
    /// The oldest revision from which a watch can begin.
    pub oldest: Revision,
    /// The latest revision.
    pub latest: Revision,
}

/// Why a watch gives no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnded {
    /// The watcher was too slow.
    #[error(transparent)]
    Compacted(Compacted),
    /// The store is shut down.
    #[error("the store is shut down")]
    Closed,
}

/// A place in the store's history, moving forward. It holds no events of its own: one that is slow costs nothing, and
/// is told when what it has not seen is forgotten.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    news: watch::Receiver<News>,
    seen: Revision,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>, from: Revision) -> Result<Watch, Compacted> {
        let news = shared.news.subscribe();
        let watch = Watch {
            shared,
            news,
            seen: from,
        };
        watch.unseen().map(|_| ())?;
        Ok(watch)
    }

    /// The next changes, at least one and at most 256, in the order in which they happened. Waits for one.
    ///
    /// # Errors
    /// When the watcher was too slow, or the store is shut down and everything was seen.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, WatchEnded> {
        loop {
            // Marked as seen before reading, so that what comes in between wakes the wait below.
            let open = self.news.borrow_and_update().state;
            let events = self.unseen().map_err(WatchEnded::Compacted)?;
            if let Some(last) = events.last() {
                self.seen = last.revision;
                return Ok(events);
            }
            if open == Open::Closed {
                return Err(WatchEnded::Closed);
            }
            self.news.changed().await.map_err(|_| WatchEnded::Closed)?;
        }
    }

    /// Up to where this watch has seen everything.
    pub fn seen(&self) -> Revision {
        self.seen
    }

    fn unseen(&self) -> Result<Vec<Arc<Event>>, Compacted> {
        let state = self.shared.read();
        if self.seen < state.remembered_from || self.seen > state.revision {
            return Err(Compacted {
                from: self.seen,
                oldest: state.remembered_from,
                latest: state.revision,
            });
        }
        let first = state.ring.partition_point(|event| event.revision <= self.seen);
        Ok(state.ring.range(first..).take(EVENTS_AT_ONCE_MAX).cloned().collect())
    }
}

/// Enough for a watcher to be cut off for a while at some hundred changes a second; the objects are shared with the
/// index as long as they are current.
pub(super) const REMEMBERED_EVENTS_MAX: usize = 10_000;
const EVENTS_AT_ONCE_MAX: usize = 256;
