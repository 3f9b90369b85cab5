//! What the store holds, in memory: the objects by key, and the latest changes for watches.

use std::collections::{BTreeMap, VecDeque, vec_deque};
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;
use weir_api::{Key, Kind};

use super::{Change, Event, Revision, Stored};

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
    /// Why the latest commit failed, if it did.
    trouble: RwLock<Option<Arc<rusqlite::Error>>>,
    memory: Memory,
}

/// How many of the latest changes are remembered: as long as both bounds hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) events_max: usize,
    pub(super) bytes_max: usize,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            // Enough for a watcher to be cut off for a while at some hundred changes a second.
            events_max: 10_000,
            // Whatever the size of the objects, memory stays bounded.
            bytes_max: 64 * 1024 * 1024,
        }
    }
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<Key, Arc<Stored>>,
    revision: Revision,
    /// The latest changes, oldest first; revisions grow strictly.
    ring: VecDeque<Remembered>,
    /// Of all events in the ring together.
    ring_bytes: usize,
    /// Every change after this revision is in the ring.
    remembered_from: Revision,
}

#[derive(Debug)]
struct Remembered {
    event: Arc<Event>,
    /// The length of its object as JSON, as a measure of the memory it takes.
    bytes: usize,
}

impl State {
    /// The objects of a kind, in one namespace or everywhere.
    fn range<'a>(
        &'a self,
        kind: Kind,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Stored>)> + use<'a> {
        let first = Key {
            kind,
            namespace: namespace.unwrap_or_default().to_owned(),
            name: String::new(),
        };
        let range = self.objects.range(first..);
        range.take_while(move |(key, _)| concerns(key, kind, namespace))
    }

    /// Every change after `from`, oldest first.
    fn after(&self, from: Revision) -> Result<vec_deque::Iter<'_, Remembered>, Compacted> {
        if from < self.remembered_from || from > self.revision {
            return Err(Compacted {
                from,
                oldest: self.remembered_from,
                latest: self.revision,
            });
        }
        let first = self
            .ring
            .partition_point(|remembered| remembered.event.revision <= from);
        Ok(self.ring.range(first..))
    }
}

fn concerns(key: &Key, kind: Kind, namespace: Option<&str>) -> bool {
    key.kind == kind && namespace.is_none_or(|namespace| key.namespace == namespace)
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
    pub(super) fn new(loaded: Loaded, memory: Memory) -> Shared {
        let revision = loaded.revision;
        Shared {
            state: RwLock::new(State {
                objects: loaded.objects,
                revision,
                ring: VecDeque::new(),
                ring_bytes: 0,
                remembered_from: revision,
            }),
            news: watch::Sender::new(News {
                revision,
                state: Open::Yes,
            }),
            trouble: RwLock::new(None),
            memory,
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.read().objects.get(key).cloned()
    }

    pub(super) fn list(&self, kind: Kind, namespace: Option<&str>) -> (Vec<Arc<Stored>>, Revision) {
        let state = self.read();
        let listed = state
            .range(kind, namespace)
            .map(|(_, stored)| Arc::clone(stored))
            .collect();
        (listed, state.revision)
    }

    pub(super) fn list_at(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        revision: Revision,
    ) -> Result<Vec<Arc<Stored>>, Compacted> {
        let state = self.read();
        let mut later = state.after(revision)?.rev().peekable();
        if later.peek().is_none() {
            return Ok(state
                .range(kind, namespace)
                .map(|(_, stored)| Arc::clone(stored))
                .collect());
        }
        let now = state.range(kind, namespace);
        let mut then: BTreeMap<&Key, &Arc<Stored>> = now.collect();
        // Back from the latest change to the first one after `revision`: what was before that one is what was then.
        for Remembered { event, .. } in later.filter(|remembered| concerns(&remembered.event.key, kind, namespace)) {
            match &event.change {
                Change::Added { .. } => then.remove(&event.key),
                Change::Modified { before, .. } | Change::Deleted { before } => then.insert(&event.key, before),
            };
        }
        Ok(then.into_values().map(Arc::clone).collect())
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
        // Measured before the lock is taken: readers wait for nothing but the change itself.
        let measured: Vec<Remembered> = events.into_iter().map(remember).collect();
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for remembered in measured {
                let event = &remembered.event;
                match &event.change {
                    Change::Added { after } | Change::Modified { after, .. } => {
                        state.objects.insert(event.key.clone(), Arc::clone(after));
                    }
                    Change::Deleted { .. } => {
                        state.objects.remove(&event.key);
                    }
                }
                state.ring_bytes += remembered.bytes;
                state.ring.push_back(remembered);
            }
            state.revision = revision;
            while state.ring.len() > self.memory.events_max || state.ring_bytes > self.memory.bytes_max {
                let Some(forgotten) = state.ring.pop_front() else {
                    break;
                };
                state.ring_bytes -= forgotten.bytes;
                state.remembered_from = forgotten.event.revision;
            }
        }
        self.news.send_modify(|news| news.revision = revision);
    }

    /// Ends all watches.
    pub(super) fn close(&self) {
        self.news.send_modify(|news| news.state = Open::Closed);
    }

    /// Notes how the latest commit went.
    pub(super) fn set_trouble(&self, trouble: Option<Arc<rusqlite::Error>>) {
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(super) fn trouble(&self) -> Option<Arc<rusqlite::Error>> {
        self.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // The state is never left half changed: a panic elsewhere does not make it wrong.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends all watches when it is dropped, also by a panic.
#[derive(Debug)]
pub(super) struct CloseOnDrop(pub(super) Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
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
        let unseen = state.after(self.seen)?.take(EVENTS_AT_ONCE_MAX);
        Ok(unseen.map(|remembered| Arc::clone(&remembered.event)).collect())
    }
}

fn remember(event: Arc<Event>) -> Remembered {
    let mut length = Length(0);
    // Counting can't fail.
    let _ = serde_json::to_writer(&mut length, &*event.latest().object);
    Remembered { bytes: length.0, event }
}

/// Counts what is written to it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const EVENTS_AT_ONCE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::samples::service;

    const MANY: usize = 1_000_000;

    /// After changes of an object of about a thousand bytes: from where a watch can begin; 0: from the first one.
    #[track_caller]
    fn check(memory: Memory, changes: u64, expect: u64) {
        let shared = Arc::new(Shared::new(Loaded::default(), memory));
        let mut slow = Watch::new(Arc::clone(&shared), Revision(0)).expect("a watch");
        let mut object = service("a", "x", 80);
        let annotations = &mut object.metadata.annotations;
        annotations.insert("padding".to_owned(), "x".repeat(800));
        let object = Arc::new(object);
        for revision in (1..=changes).map(Revision) {
            let object = Arc::clone(&object);
            let after = Arc::new(Stored { object, revision });
            let key = after.object.key();
            let change = Change::Added { after };
            shared.publish(vec![Arc::new(Event { key, change, revision })]);
        }
        let next = futures_util::FutureExt::now_or_never(slow.next()).expect("no wait");
        if expect == 0 {
            assert!(next.is_ok(), "{next:?}");
            return;
        }
        match next {
            Err(WatchEnded::Compacted(compacted)) => {
                assert_eq!(compacted.oldest, Revision(expect));
                assert!(Watch::new(Arc::clone(&shared), compacted.oldest).is_ok());
                assert!(Watch::new(Arc::clone(&shared), Revision(expect - 1)).is_err());
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// Whatever happened since: a list at a revision is what the list was then.
        #[test]
        fn a_list_at_a_revision_is_what_it_was(
            writes in prop::collection::vec((0..2usize, 0..3usize, any::<bool>()), 0..30),
        ) {
            let shared = Shared::new(Loaded::default(), Memory { events_max: 20, bytes_max: MANY });
            let mut history = vec![(Revision(0), shared.list(Kind::Service, None).0, shared.list(Kind::Service, Some("a")).0)];
            for (number, (namespace, name, keep)) in (1..).zip(writes) {
                let revision = Revision(number);
                let object = Arc::new(service(["a", "b"][namespace], ["x", "y", "z"][name], 80));
                let key = object.key();
                let after = Arc::new(Stored { object, revision });
                let change = match (shared.get(&key), keep) {
                    (None, _) => Change::Added { after },
                    (Some(before), true) => Change::Modified { before, after },
                    (Some(before), false) => Change::Deleted { before },
                };
                shared.publish(vec![Arc::new(Event { key, change, revision })]);
                history.push((revision, shared.list(Kind::Service, None).0, shared.list(Kind::Service, Some("a")).0));
            }
            let oldest = history.len().saturating_sub(21);
            for (at, (revision, all, in_a)) in history.into_iter().enumerate() {
                let listed = shared.list_at(Kind::Service, None, revision);
                prop_assert_eq!(listed.is_ok(), at >= oldest, "{}", revision);
                if let Ok(listed) = listed {
                    prop_assert_eq!(listed, all);
                    prop_assert_eq!(shared.list_at(Kind::Service, Some("a"), revision), Ok(in_a));
                }
            }
            prop_assert!(shared.list_at(Kind::Service, None, Revision(99)).is_err());
        }
    }

    #[test]
    fn a_watcher_too_slow_for_either_bound_is_told() {
        let events = |events_max| Memory {
            events_max,
            bytes_max: MANY,
        };
        check(events(10), 10, 0);
        check(events(10), 11, 1);
        check(events(10), 25, 15);
        let bytes = |bytes_max| Memory {
            events_max: MANY,
            bytes_max,
        };
        check(bytes(5_000), 5, 0);
        check(bytes(5_000), 6, 1);
        check(bytes(10), 3, 3);
    }
}
