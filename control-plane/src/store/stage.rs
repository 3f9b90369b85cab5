//! What writes do to the objects, before anything is on disk: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use weir_api::namespace::{NamespaceStatus, Phase};
use weir_api::{Key, Object, Spec};

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
            Op::Status {
                key,
                status,
                precondition,
            } => {
                let held = self.held(&key, precondition)?;
                let mut object = (*held.object).clone();
                object.status = Some(status);
                self.change(key, &held, object);
                Ok(())
            }
            Op::Terminate { key, precondition } => {
                let held = self.held(&key, precondition)?;
                let mut object = (*held.object).clone();
                if object.metadata.deletion_timestamp.is_none() {
                    object.metadata.deletion_timestamp = Some(self.batch.now.clone());
                    set_phase(&mut object, Phase::Terminating);
                }
                self.put(key, &held, object);
                Ok(())
            }
            Op::Require(key) => {
                let held = self.held(&key, Precondition::Any)?;
                match held.object.metadata.deletion_timestamp {
                    None => Ok(()),
                    Some(_) => Err(WriteError::Terminating { key }),
                }
            }
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
        object.metadata.deletion_timestamp = None;
        object.metadata.generation = 1;
        set_phase(&mut object, Phase::Active);
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

    /// Puts `object` in the place of `before`, whose times stay.
    fn change(&mut self, key: Key, before: &Arc<Stored>, mut object: Object) {
        let held = &before.object;
        object.metadata.uid.clone_from(&held.metadata.uid);
        object
            .metadata
            .creation_timestamp
            .clone_from(&held.metadata.creation_timestamp);
        object
            .metadata
            .deletion_timestamp
            .clone_from(&held.metadata.deletion_timestamp);
        object
            .metadata
            .resource_version
            .clone_from(&held.metadata.resource_version);
        object.metadata.generation = held.metadata.generation;
        self.put(key, before, object);
    }

    /// Puts `object` in the place of `before`, if it differs.
    fn put(&mut self, key: Key, before: &Arc<Stored>, mut object: Object) {
        let held = &before.object;
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

/// Of a Namespace, which says from its first moment whether it takes anything (Kubernetes, NamespaceStatus).
fn set_phase(object: &mut Object, phase: Phase) {
    if let Spec::Namespace(_) = object.spec {
        object.status = Some(json!(NamespaceStatus { phase }));
    }
}

fn stored(mut object: Object, revision: Revision) -> Arc<Stored> {
    object.metadata.resource_version = revision.to_string();
    Arc::new(Stored {
        object: Arc::new(object),
        revision,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_api::Kind;

    use super::*;
    use crate::store::samples::{key, namespace, service};

    /// A batch on top of `objects`, at revision 10.
    fn staged(objects: &Objects, writes: Vec<Vec<Op>>) -> (Vec<Result<Written, WriteError>>, Staged) {
        let mut uids = 0;
        let mut next_uid = || {
            uids += 1;
            format!("uid-{uids}")
        };
        let mut batch = Batch::new(objects, Revision(10), "2026-01-01T00:00:00Z".to_owned(), &mut next_uid);
        let results = writes.into_iter().map(|ops| batch.apply(ops)).collect();
        (results, batch.finish())
    }

    fn objects(held: &[Object]) -> Objects {
        let ops = held.iter().cloned().map(Op::Create).collect();
        let (results, staged) = staged(&Objects::new(), vec![ops]);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        staged
            .rows
            .into_iter()
            .filter_map(|(key, stored)| Some((key, stored?)))
            .collect()
    }

    fn replace(object: Object) -> Op {
        Op::Replace {
            object,
            precondition: Precondition::Any,
        }
    }

    #[test]
    fn a_created_object_gets_what_only_the_store_gives() {
        let mut given = service("a", "s", 80);
        given.metadata.uid = "mine".to_owned();
        given.metadata.generation = 7;
        given.metadata.resource_version = "5".to_owned();
        let (results, staged) = staged(&Objects::new(), vec![vec![Op::Create(given)]]);
        let written = results[0].as_ref().expect("written");
        let metadata = &written.objects[0].object.metadata;
        assert_eq!(metadata.uid, "uid-1");
        assert_eq!(metadata.generation, 1);
        assert_eq!(metadata.resource_version, "11");
        assert_eq!(metadata.creation_timestamp.as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!((written.revision, staged.revision), (Revision(11), Revision(11)));
    }

    #[test]
    fn only_a_changed_spec_moves_the_generation_and_only_a_change_the_revision() {
        let held = objects(&[service("a", "s", 80)]);
        let mut labelled = service("a", "s", 80);
        labelled.metadata.labels.insert("k".to_owned(), "v".to_owned());
        let status = |value| Op::Status {
            key: key(Kind::Service, "a", "s"),
            status: value,
            precondition: Precondition::Any,
        };
        for (op, generation, revision) in [
            (replace(service("a", "s", 80)), 1, 10),
            (replace(service("a", "s", 81)), 2, 11),
            (replace(labelled), 1, 11),
            (status(json!({"x": 1})), 1, 11),
        ] {
            let (results, _) = staged(&held, vec![vec![op.clone()]]);
            let written = results[0].as_ref().expect("written");
            let metadata = &written.objects[0].object.metadata;
            assert_eq!(
                (metadata.generation, written.revision),
                (generation, Revision(revision)),
                "{op:?}"
            );
            assert_eq!(metadata.uid, "uid-1", "{op:?}");
        }
        // The status stays when the spec is replaced, and the same status is no change.
        let writes = vec![
            vec![status(json!({"x": 1}))],
            vec![replace(service("a", "s", 81))],
            vec![status(json!({"x": 1}))],
        ];
        let (results, _) = staged(&held, writes);
        let last = results[2].as_ref().expect("written");
        assert_eq!(last.objects[0].object.status, Some(json!({"x": 1})));
        assert_eq!(last.revision, Revision(12));
    }

    #[track_caller]
    fn refused(ops: Vec<Op>, expect: &str) {
        let held = objects(&[namespace("a"), service("a", "s", 80)]);
        let (results, staged) = staged(&held, vec![ops]);
        assert_eq!(results[0].as_ref().expect_err("refused").to_string(), expect);
        assert!(staged.rows.is_empty() && staged.events.is_empty(), "{staged:?}");
    }

    #[test]
    fn a_step_that_cannot_be_done_undoes_the_whole_write() {
        let new = || Op::Create(service("a", "new", 80));
        let delete = |name, precondition| Op::Delete {
            key: key(Kind::Service, "a", name),
            precondition,
        };
        refused(
            vec![new(), Op::Create(service("a", "s", 80))],
            "Service/a/s exists already",
        );
        refused(vec![new(), new()], "Service/a/new exists already");
        refused(
            vec![new(), replace(service("a", "gone", 80))],
            "Service/a/gone does not exist",
        );
        refused(
            vec![new(), delete("gone", Precondition::Any)],
            "Service/a/gone does not exist",
        );
        refused(
            vec![new(), delete("s", Precondition::Revision(Revision(3)))],
            "Service/a/s is at revision 12, not at 3: it was changed in the meantime",
        );
        let twice = vec![delete("s", Precondition::Any), delete("s", Precondition::Any)];
        refused(twice, "Service/a/s does not exist");
        let require = Op::Require(key(Kind::Namespace, "", "b"));
        refused(vec![new(), require], "Namespace/b does not exist");
        let empty = Op::RequireEmpty("a".to_owned());
        refused(vec![empty.clone()], "namespace a still holds Service/a/s");
        refused(
            vec![delete("s", Precondition::Any), new(), empty],
            "namespace a still holds Service/a/new",
        );
    }

    #[test]
    fn a_namespace_that_is_being_deleted_stays_and_takes_nothing_new() {
        let held = objects(&[namespace("a"), service("a", "s", 80)]);
        let a = key(Kind::Namespace, "", "a");
        let terminate = || Op::Terminate {
            key: a.clone(),
            precondition: Precondition::Any,
        };
        let mut labelled = namespace("a");
        labelled.metadata.labels.insert("k".to_owned(), "v".to_owned());
        let writes = vec![
            vec![terminate()],
            vec![Op::Require(a.clone()), Op::Create(service("a", "new", 80))],
            vec![terminate()],
            vec![replace(labelled)],
        ];
        let (results, staged) = staged(&held, writes);
        let phase = |at: usize| {
            let object = &results[at].as_ref().expect("written").objects[0].object;
            (object.status.clone(), object.metadata.deletion_timestamp.is_some())
        };
        let terminating = (Some(json!({"phase": "Terminating"})), true);
        assert_eq!(phase(0), terminating);
        let error = results[1].as_ref().expect_err("refused").to_string();
        assert_eq!(error, "Namespace/a is being deleted");
        // Once more is no change; others' changes leave it as it is.
        assert_eq!((phase(2), phase(3)), (terminating.clone(), terminating));
        assert_eq!(staged.revision, Revision(12));
        let held = held.get(&a).expect("there");
        assert_eq!(held.object.status, Some(json!({"phase": "Active"})));
    }

    #[test]
    fn an_emptied_namespace_is_empty_within_the_write() {
        let held = objects(&[namespace("a"), service("a", "s", 80)]);
        let ops = vec![
            Op::Delete {
                key: key(Kind::Service, "a", "s"),
                precondition: Precondition::Any,
            },
            Op::RequireEmpty("a".to_owned()),
            Op::Delete {
                key: key(Kind::Namespace, "", "a"),
                precondition: Precondition::Any,
            },
        ];
        let (results, staged) = staged(&held, vec![ops]);
        assert!(results[0].is_ok(), "{results:?}");
        assert!(staged.rows.values().all(Option::is_none), "{staged:?}");
    }

    #[test]
    fn a_preview_leaves_the_batch_as_it_is() {
        let held = Objects::new();
        let mut next_uid = String::new;
        let mut batch = Batch::new(&held, Revision(10), String::new(), &mut next_uid);
        let create = || vec![Op::Create(service("a", "s", 80))];
        assert_eq!(batch.preview(create()).expect("would work").revision, Revision(11));
        assert_eq!(batch.apply(create()).expect("works").revision, Revision(11));
        assert!(matches!(batch.preview(create()), Err(WriteError::Exists { .. })));
        assert_eq!(batch.finish().events.len(), 1);
    }

    #[test]
    fn a_status_is_set_only_of_the_object_that_it_was_made_for() {
        let status = Op::Status {
            key: key(Kind::Service, "a", "s"),
            status: json!({"x": 1}),
            precondition: Precondition::Revision(Revision(11)),
        };
        let create = Op::Create(service("a", "s", 80));
        let (results, _) = staged(
            &Objects::new(),
            [create, status.clone(), status].map(|op| vec![op]).into(),
        );
        assert_eq!(results[1].as_ref().expect("written").revision, Revision(12));
        assert!(matches!(results[2], Err(WriteError::Conflict { .. })), "{results:?}");
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let name = prop_oneof![Just("x"), Just("y"), Just("z")];
        let precondition = prop_oneof![
            3 => Just(Precondition::Any),
            1 => (10u64..30).prop_map(|revision| Precondition::Revision(Revision(revision))),
        ];
        (name, 1u16..4, precondition, 0..5).prop_map(|(name, port, precondition, which)| match which {
            0 => Op::Create(service("a", name, port)),
            1 => Op::Replace {
                object: service("a", name, port),
                precondition,
            },
            2 => Op::Delete {
                key: key(Kind::Service, "a", name),
                precondition,
            },
            3 => Op::Status {
                key: key(Kind::Service, "a", name),
                status: json!(port),
                precondition,
            },
            _ => Op::Require(key(Kind::Service, "a", name)),
        })
    }

    proptest! {
        /// Whoever follows the events, from whatever they began with, holds what the store holds; revisions grow by
        /// one with each; what is refused leaves no trace.
        #[test]
        fn events_tell_all_that_happened(
            writes in prop::collection::vec(prop::collection::vec(any_op(), 1..4), 0..20),
        ) {
            let held = objects(&[service("a", "x", 1), service("a", "y", 1)]);
            let (results, staged) = staged(&held, writes);
            let mut followed = held.clone();
            let mut revision = Revision(10);
            for event in &staged.events {
                revision = Revision(revision.0 + 1);
                prop_assert_eq!(event.revision, revision);
                match &event.change {
                    Change::Added { after } => prop_assert!(followed.insert(event.key.clone(), after.clone()).is_none()),
                    Change::Modified { before, after } => {
                        prop_assert_ne!(&before.object, &after.object);
                        let replaced = followed.insert(event.key.clone(), after.clone());
                        prop_assert_eq!(replaced.as_ref(), Some(before));
                    }
                    Change::Deleted { before } => {
                        let removed = followed.remove(&event.key);
                        prop_assert_eq!(removed.as_ref(), Some(before));
                    }
                }
            }
            prop_assert_eq!(staged.revision, revision);
            let mut stored = held;
            for (key, row) in staged.rows {
                match row {
                    Some(row) => { stored.insert(key, row); }
                    None => { stored.remove(&key); }
                }
            }
            prop_assert_eq!(&stored, &followed);
            for (key, row) in &stored {
                prop_assert_eq!(&row.object.key(), key);
                prop_assert_eq!(&row.object.metadata.resource_version, &row.revision.to_string());
                prop_assert!(matches!(row.object.spec, Spec::Service(_)));
            }
            let latest = results.iter().rev().find_map(|result| result.as_ref().ok()).map(|written| written.revision);
            prop_assert_eq!(latest.unwrap_or(Revision(10)), revision);
        }
    }
}
