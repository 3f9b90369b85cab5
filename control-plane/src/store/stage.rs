//! What writes do to the objects, before anything is on disk: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_api::{Key, Object};

use super::{Change, Event, Op, Precondition, Revision, Stored, WriteError, Written};

type Objects = BTreeMap<Key, Arc<Stored>>;
/// `None`: deleted.
type Overlay = BTreeMap<Key, Option<Arc<Stored>>>;

/// Writes that will be committed together, one after another, each of them whole or not at all.
pub(super) struct Batch<'a> {
    objects: &'a Objects,
    overlay: Overlay,
    events: Vec<Arc<Event>>,
    revision: Revision,
    /// RFC 3339, in whole seconds, as Kubernetes has it.
    now: String,
    next_uid: &'a mut dyn FnMut() -> String,
}

/// What a batch comes to.
#[derive(Debug)]
pub(super) struct Staged {
    /// The objects that differ.
    pub(super) rows: Overlay,
    /// All changes in order.
    pub(super) events: Vec<Arc<Event>>,
    /// The revision of the last one.
    pub(super) revision: Revision,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        objects: &'a Objects,
        revision: Revision,
        now: String,
        next_uid: &'a mut dyn FnMut() -> String,
    ) -> Batch<'a> {
        Batch {
            objects,
            overlay: Overlay::new(),
            events: Vec::new(),
            revision,
            now,
            next_uid,
        }
    }

    /// Adds a write; on an error the batch is as it was.
    pub(super) fn apply(&mut self, ops: Vec<Op>) -> Result<Written, WriteError> {
        let mut write = Write {
            batch: self,
            overlay: Overlay::new(),
            events: Vec::new(),
            written: Vec::new(),
        };
        for op in ops {
            write.step(op)?;
        }
        let Write {
            overlay,
            events,
            written,
            ..
        } = write;
        if let Some(last) = events.last() {
            self.revision = last.revision;
        }
        self.overlay.extend(overlay);
        self.events.extend(events);
        Ok(Written {
            revision: self.revision,
            objects: written,
        })
    }

    /// What a write would do, leaving the batch as it is.
    pub(super) fn preview(&mut self, ops: Vec<Op>) -> Result<Written, WriteError> {
        let mut preview = Batch {
            objects: self.objects,
            overlay: self.overlay.clone(),
            events: Vec::new(),
            revision: self.revision,
            now: self.now.clone(),
            next_uid: &mut *self.next_uid,
        };
        preview.apply(ops)
    }

    pub(super) fn finish(self) -> Staged {
        Staged {
            rows: self.overlay,
            events: self.events,
            revision: self.revision,
        }
    }
}

/// One write on top of a batch.
struct Write<'b, 'a> {
    batch: &'b mut Batch<'a>,
    overlay: Overlay,
    events: Vec<Arc<Event>>,
    written: Vec<Arc<Stored>>,
}

impl Write<'_, '_> {
    fn step(&mut self, op: Op) -> Result<(), WriteError> {
        match op {
            Op::Create(object) => self.create(object),
            Op::Replace { object, precondition } => self.replace(object, precondition),
            Op::Delete { key, precondition } => self.delete(key, precondition),
            Op::Status { key, status } => {
                let held = self.held(&key, Precondition::Any)?;
                let mut object = (*held.object).clone();
                object.status = Some(status);
                self.change(key, &held, object);
                Ok(())
            }
            Op::Require(key) => self.held(&key, Precondition::Any).map(|_| ()),
            Op::RequireEmpty(namespace) => self.require_empty(namespace),
        }
    }

    fn create(&mut self, mut object: Object) -> Result<(), WriteError> {
        let key = object.key();
        if self.find(&key).is_some() {
            return Err(WriteError::Exists { key });
        }
        let revision = self.next_revision();
        object.metadata.uid = (self.batch.next_uid)();
        object.metadata.creation_timestamp = Some(self.batch.now.clone());
        object.metadata.generation = 1;
        let after = stored(object, revision);
        self.record(
            key,
            Change::Added {
                after: Arc::clone(&after),
            },
            revision,
        );
        self.written.push(after);
        Ok(())
    }

    fn replace(&mut self, mut object: Object, precondition: Precondition) -> Result<(), WriteError> {
        let key = object.key();
        let held = self.held(&key, precondition)?;
        object.status.clone_from(&held.object.status);
        self.change(key, &held, object);
        Ok(())
    }

    fn delete(&mut self, key: Key, precondition: Precondition) -> Result<(), WriteError> {
        let before = self.held(&key, precondition)?;
        let revision = self.next_revision();
        self.written.push(Arc::clone(&before));
        self.record(key, Change::Deleted { before }, revision);
        Ok(())
    }

    /// Puts `object` in the place of `before`, if it differs.
    fn change(&mut self, key: Key, before: &Arc<Stored>, mut object: Object) {
        let held = &before.object;
        object.metadata.uid.clone_from(&held.metadata.uid);
        object
            .metadata
            .creation_timestamp
            .clone_from(&held.metadata.creation_timestamp);
        object
            .metadata
            .resource_version
            .clone_from(&held.metadata.resource_version);
        object.metadata.generation = held.metadata.generation;
        if object == **held {
            self.written.push(Arc::clone(before));
            return;
        }
        if object.spec != held.spec {
            object.metadata.generation = held.metadata.generation.saturating_add(1);
        }
        let revision = self.next_revision();
        let after = stored(object, revision);
        self.written.push(Arc::clone(&after));
        self.record(
            key,
            Change::Modified {
                before: Arc::clone(before),
                after,
            },
            revision,
        );
    }

    fn require_empty(&self, namespace: String) -> Result<(), WriteError> {
        let mut keys: Vec<&Key> = self.batch.objects.keys().collect();
        keys.extend(self.batch.overlay.keys());
        keys.extend(self.overlay.keys());
        let mut holds: Vec<Key> = keys
            .into_iter()
            .filter(|key| key.namespace == namespace && self.find(key).is_some())
            .cloned()
            .collect();
        holds.sort();
        holds.dedup();
        if holds.is_empty() {
            Ok(())
        } else {
            Err(WriteError::NotEmpty { namespace, holds })
        }
    }

    fn find(&self, key: &Key) -> Option<&Arc<Stored>> {
        let overlaid = self.overlay.get(key).or_else(|| self.batch.overlay.get(key));
        match overlaid {
            Some(staged) => staged.as_ref(),
            None => self.batch.objects.get(key),
        }
    }

    fn held(&self, key: &Key, precondition: Precondition) -> Result<Arc<Stored>, WriteError> {
        let Some(held) = self.find(key) else {
            return Err(WriteError::NotFound { key: key.clone() });
        };
        match precondition {
            Precondition::Revision(given) if given != held.revision => Err(WriteError::Conflict {
                key: key.clone(),
                held: held.revision,
                given,
            }),
            Precondition::Any | Precondition::Revision(_) => Ok(Arc::clone(held)),
        }
    }

    fn next_revision(&self) -> Revision {
        let latest = self.events.last().map_or(self.batch.revision, |event| event.revision);
        Revision(latest.0.saturating_add(1))
    }

    fn record(&mut self, key: Key, change: Change, revision: Revision) {
        let after = match &change {
            Change::Added { after } | Change::Modified { after, .. } => Some(Arc::clone(after)),
            Change::Deleted { .. } => None,
        };
        self.overlay.insert(key.clone(), after);
        self.events.push(Arc::new(Event { key, change, revision }));
    }
}

fn stored(mut object: Object, revision: Revision) -> Arc<Stored> {
    object.metadata.resource_version = revision.to_string();
    Arc::new(Stored {
        object: Arc::new(object),
        revision,
    })
}
