//! Admission: what may be written, by whom. Everything that users write, over the API or in files, comes through here.

mod generated_name;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use weir_api::patch::{Patch, PatchError};
use weir_api::{Access, FieldError, Key, Kind, Metadata, Object, Scope, Spec};

use self::generated_name::Prefix;
use crate::store::{Op, Precondition, Revision, Store, Stored, WriteError, Written};

/// Marks objects that come from `--resources`: `file:line`. Only the control plane sets it.
pub const SOURCE_ANNOTATION: &str = "weir.dev/source";

/// The namespace that always exists.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Refuses objects that are well formed but could never be put in force; the second is the object as it stands, if it
/// does.
pub type Check = Arc<dyn Fn(&Object, Option<&Object>) -> Result<(), Vec<FieldError>> + Send + Sync>;

/// Whether a write is for real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Commit,
    /// Only what it would do is wanted.
    DryRun,
}

/// What a held object must be to be deleted; `None`: no matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteConditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its latest change.
    pub revision: Option<Revision>,
}

/// What became of an object that was to be deleted.
#[derive(Clone, Debug, PartialEq)]
pub enum Deleted {
    /// It is gone; this is what it was.
    Gone(Arc<Stored>),
    /// It is marked, and goes once all that it holds is gone; this is what it is meanwhile.
    Terminating(Arc<Stored>),
}

/// Why a write is refused. Nothing of it is kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// What was sent is no object of the kind and name that the request is about.
    #[error("the object is invalid: {}", join(.errors))]
    Malformed {
        /// All that is wrong.
        errors: Vec<FieldError>,
    },
    /// The object breaks a rule of its kind.
    #[error("{key} is invalid: {}", join(.errors))]
    Invalid {
        /// Which object.
        key: Key,
        /// All that is wrong.
        errors: Vec<FieldError>,
    },
    /// Only the control plane writes this kind.
    #[error("{key}: {} are written by the control plane from what proxies register; they can't be changed here", .key.kind.plural())]
    ReadOnly {
        /// Which object.
        key: Key,
    },
    /// The object comes from a file.
    #[error("{key} comes from {source_line}; change it there")]
    FileOwned {
        /// Which object.
        key: Key,
        /// `file:line`.
        source_line: String,
    },
    /// The object's namespace doesn't exist.
    #[error("{key}: the namespace {} does not exist; create it first", .key.namespace)]
    UnknownNamespace {
        /// Which object.
        key: Key,
    },
    /// The object's namespace is being deleted.
    #[error("{key}: the namespace {} is being deleted and takes nothing new; create it again once it is gone", .key.namespace)]
    Terminating {
        /// Which object.
        key: Key,
    },
    /// A patch can't be applied.
    #[error("{key}: the patch can't be applied: {error}")]
    Patch {
        /// To which object.
        key: Key,
        /// Why not.
        error: PatchError,
    },
    /// The object can't be deleted.
    #[error("{key} always exists and can't be deleted")]
    Protected {
        /// Which object.
        key: Key,
    },
    /// Others change the object all the time.
    #[error("{key} is being changed by others all the time; try again")]
    Contended {
        /// Which object.
        key: Key,
    },
    /// Others change objects of a collection all the time.
    #[error("{} are being changed by others all the time; try again", .kind.plural())]
    ContendedCollection {
        /// Of which kind.
        kind: Kind,
    },
    /// The name is held by another object than the writer knew.
    #[error("{key} has uid {held}, not {given}: it is another object of the same name")]
    OtherUid {
        /// Which object.
        key: Key,
        /// Its uid.
        held: String,
        /// The uid the writer gave.
        given: String,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The door to the store for what users write; clones share it.
#[derive(Clone)]
pub struct Objects {
    store: Store,
    check: Check,
}

impl Objects {
    /// Writes to `store` what passes `check`.
    pub fn new(store: Store, check: Check) -> Objects {
        Objects { store, check }
    }

    /// The store, for reading.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Makes sure that the namespace `default` exists.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn ensure_default_namespace(&self) -> Result<(), WriteError> {
        let spec = weir_api::Spec::Namespace(weir_api::namespace::NamespaceSpec::default());
        match self
            .store
            .write(vec![Op::Create(Object::new("", DEFAULT_NAMESPACE, spec))])
            .await
        {
            Ok(_) | Err(WriteError::Exists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Adds the object that `value` is. What the store gives (uid, resourceVersion, …) and a status are left out. One
    /// without a name, but with a `metadata.generateName`, gets a name that is free.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn create(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        mut value: Value,
        mode: Mode,
    ) -> Result<Arc<Stored>, Refusal> {
        let Some(prefix) = Prefix::take(&mut value) else {
            return self.create_named(kind, namespace, value, mode).await;
        };
        let mut attempts = 0;
        loop {
            prefix.name(&mut value);
            attempts += 1;
            match self.create_named(kind, namespace, value.clone(), mode).await {
                Err(Refusal::Write(WriteError::Exists { .. })) if attempts < ATTEMPTS_MAX => {}
                result => return result,
            }
        }
    }

    async fn create_named(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        value: Value,
        mode: Mode,
    ) -> Result<Arc<Stored>, Refusal> {
        let mut object = self.read(kind, namespace, value)?;
        object.status = None;
        let key = object.key();
        self.admit(&key, &object)?;
        let mut ops = Vec::from_iter(namespace_of(&key).map(Op::Require));
        ops.push(Op::Create(object));
        let written = self.write(ops, mode).await.map_err(|error| from_write(error, &key))?;
        only(written, key)
    }

    /// Puts the object that `value` is in the place of the one held under `key`. A `metadata.resourceVersion` or
    /// `metadata.uid` in it must be the held one's.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn replace(&self, key: &Key, value: Value, mode: Mode) -> Result<Arc<Stored>, Refusal> {
        let object = self.read(key.kind, namespace_text(key), value)?;
        same_name(key, &object)?;
        let given = given_revision(&object)?;
        for _ in 0..ATTEMPTS_MAX {
            let held = self.held(key)?;
            let precondition = given.unwrap_or(held.revision);
            match self.put(key, &held, object.clone(), precondition, mode).await {
                Err(Refusal::Write(WriteError::Conflict { .. })) if given.is_none() => {}
                result => return result,
            }
        }
        Err(Refusal::Contended { key: key.clone() })
    }

    /// Changes the object held under `key` as `patch` says. If what comes of it has another `metadata.resourceVersion`
    /// than the held one's, that is a condition which does not hold.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn patch(&self, key: &Key, patch: &Patch, mode: Mode) -> Result<Arc<Stored>, Refusal> {
        for _ in 0..ATTEMPTS_MAX {
            let held = self.held(key)?;
            let mut value = held.object.to_value();
            patch.apply(key.kind, &mut value).map_err(|error| {
                let key = key.clone();
                Refusal::Patch { key, error }
            })?;
            let object = self.read(key.kind, namespace_text(key), value)?;
            same_name(key, &object)?;
            let given = given_revision(&object)?.unwrap_or(held.revision);
            match self.put(key, &held, object, given, mode).await {
                Err(Refusal::Write(WriteError::Conflict { .. })) if given == held.revision => {}
                result => return result,
            }
        }
        Err(Refusal::Contended { key: key.clone() })
    }

    /// Removes the object held under `key`. A Namespace is only marked as being deleted: it goes once all that it holds
    /// is gone.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn delete(&self, key: &Key, conditions: &DeleteConditions, mode: Mode) -> Result<Deleted, Refusal> {
        if is_default_namespace(key) {
            return Err(Refusal::Protected { key: key.clone() });
        }
        for _ in 0..ATTEMPTS_MAX {
            let held = self.held(key)?;
            self.deletable(key, &held)?;
            if let Some(given) = &conditions.uid {
                same_uid(key, &held, given)?;
            }
            let precondition = Precondition::Revision(conditions.revision.unwrap_or(held.revision));
            let key = key.clone();
            let op = match key.kind {
                Kind::Namespace => Op::Terminate { key, precondition },
                _ => Op::Delete { key, precondition },
            };
            let terminates = matches!(op, Op::Terminate { .. });
            match self.write(vec![op], mode).await {
                Err(WriteError::Conflict { .. }) if conditions.revision.is_none() => {}
                Err(error) => return Err(error.into()),
                Ok(written) => {
                    let stored = only(written, held.object.key())?;
                    return Ok(if terminates {
                        Deleted::Terminating(stored)
                    } else {
                        Deleted::Gone(stored)
                    });
                }
            }
        }
        Err(Refusal::Contended { key: key.clone() })
    }

    /// Removes all objects of a kind that are selected, in one namespace or everywhere, or none of them. Returns what
    /// they were, and the revision after it.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn delete_collection(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        selected: impl Fn(&Metadata) -> bool,
        mode: Mode,
    ) -> Result<(Vec<Arc<Stored>>, Revision), Refusal> {
        for _ in 0..ATTEMPTS_MAX {
            let (mut listed, revision) = self.store.list(kind, namespace);
            listed.retain(|stored| selected(&stored.object.metadata));
            let mut ops = Vec::new();
            for held in &listed {
                let key = held.object.key();
                self.deletable(&key, held)?;
                let precondition = Precondition::Revision(held.revision);
                ops.push(Op::Delete { key, precondition });
            }
            if ops.is_empty() {
                return Ok((listed, revision));
            }
            match self.write(ops, mode).await {
                // One of them changed or went meanwhile.
                Err(WriteError::Conflict { .. } | WriteError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
                Ok(written) => return Ok((written.objects, written.revision)),
            }
        }
        Err(Refusal::ContendedCollection { kind })
    }

    fn deletable(&self, key: &Key, held: &Stored) -> Result<(), Refusal> {
        writable(key)?;
        not_from_file(key, held)?;
        if key.kind != Kind::Namespace {
            return Ok(());
        }
        // What a file says would be there again at once.
        for kind in Kind::ALL
            .iter()
            .copied()
            .filter(|kind| kind.scope() == Scope::Namespaced)
        {
            for stored in self.store.list(kind, Some(&key.name)).0 {
                not_from_file(&stored.object.key(), &stored)?;
            }
        }
        Ok(())
    }

    /// Whether an object from a file may be stored, by all rules that don't need its neighbours.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn admit_from_file(&self, object: &Object) -> Result<(), Refusal> {
        let key = object.key();
        if object.metadata.annotations.contains_key(SOURCE_ANNOTATION) {
            return Err(Refusal::Invalid {
                errors: vec![source_is_ours()],
                key,
            });
        }
        writable(&key)?;
        self.checked(&key, object)
            .map_err(|errors| Refusal::Invalid { key, errors })
    }

    /// Makes the objects from files those of `wanted`, in one transaction: creates, replaces and deletes. Each carries
    /// [`SOURCE_ANNOTATION`]; one that was written over the API becomes the file's. Returns the store's revision after
    /// it.
    ///
    /// # Errors
    /// See [`Refusal`]; then nothing has changed.
    pub async fn sync_files(&self, wanted: &[Object]) -> Result<Revision, Refusal> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let error = match self.store.write(self.sync_ops(wanted)).await {
                Ok(written) => return Ok(written.revision),
                Err(error) => error,
            };
            if let WriteError::NotFound { key } = &error {
                let orphan = wanted
                    .iter()
                    .find(|object| namespace_of(&object.key()).as_ref() == Some(key));
                let declared = wanted.iter().any(|object| object.key() == *key);
                if let (Some(orphan), false) = (orphan, declared) {
                    return Err(Refusal::UnknownNamespace { key: orphan.key() });
                }
            }
            if let WriteError::Terminating { key } = &error
                && let Some(inside) = wanted
                    .iter()
                    .find(|object| namespace_of(&object.key()).as_ref() == Some(key))
            {
                return Err(Refusal::Terminating { key: inside.key() });
            }
            match error {
                // An object came, changed or went over the API since we looked.
                WriteError::Exists { .. } | WriteError::Conflict { .. } | WriteError::NotFound { .. }
                    if attempts < ATTEMPTS_MAX => {}
                error => return Err(error.into()),
            }
        }
    }

    fn sync_ops(&self, wanted: &[Object]) -> Vec<Op> {
        let mut wanted: Vec<&Object> = wanted.iter().collect();
        // Kinds sort in the order in which they are applied: namespaces first.
        wanted.sort_by_key(|object| object.key());
        let keys: BTreeSet<Key> = wanted.iter().map(|object| object.key()).collect();
        let mut ops = Vec::new();
        for object in wanted {
            let key = object.key();
            ops.extend(namespace_of(&key).map(Op::Require));
            ops.push(match self.store.get(&key) {
                Some(held) => Op::Replace {
                    object: object.clone(),
                    precondition: Precondition::Revision(held.revision),
                },
                None => Op::Create(object.clone()),
            });
        }
        let (all, _) = self.store.all();
        for held in all.iter().rev() {
            let key = held.object.key();
            if source(&held.object).is_none() || keys.contains(&key) {
                continue;
            }
            let precondition = Precondition::Revision(held.revision);
            if is_default_namespace(&key) {
                let mut object = (*held.object).clone();
                object.metadata.annotations.remove(SOURCE_ANNOTATION);
                ops.push(Op::Replace { object, precondition });
                continue;
            }
            if key.kind == Kind::Namespace {
                ops.push(Op::RequireEmpty(key.name.clone()));
            }
            ops.push(Op::Delete { key, precondition });
        }
        ops
    }

    async fn put(
        &self,
        key: &Key,
        held: &Stored,
        object: Object,
        precondition: Revision,
        mode: Mode,
    ) -> Result<Arc<Stored>, Refusal> {
        not_from_file(key, held)?;
        if !object.metadata.uid.is_empty() {
            same_uid(key, held, &object.metadata.uid)?;
        }
        if let (Spec::ConfigMap(new), Spec::ConfigMap(old)) = (&object.spec, &held.object.spec) {
            new.replaces(old).map_err(|error| Refusal::Invalid {
                key: key.clone(),
                errors: vec![error],
            })?;
        }
        self.admit(key, &object)?;
        let precondition = Precondition::Revision(precondition);
        let ops = vec![Op::Replace { object, precondition }];
        let written = self.write(ops, mode).await.map_err(|error| from_write(error, key))?;
        only(written, key.clone())
    }

    fn read(&self, kind: Kind, namespace: Option<&str>, mut value: Value) -> Result<Object, Refusal> {
        // What the address says already may be left out, as in Kubernetes: generated clients do.
        if let Some(fields) = value.as_object_mut() {
            for (name, said) in [("apiVersion", kind.api_version()), ("kind", kind.kind())] {
                fields.entry(name).or_insert_with(|| said.into());
            }
        }
        let key = said_key(kind, namespace, &value);
        let invalid = |errors| match key {
            Some(key) => Refusal::Invalid { key, errors },
            None => Refusal::Malformed { errors },
        };
        let object = match Object::parse_in(value, namespace) {
            Ok(object) => object,
            Err(errors) => return Err(invalid(errors)),
        };
        if object.kind() == kind {
            return Ok(object);
        }
        let held = Value::from(object.kind().kind());
        let remedy = format!("{} of {} is right here", kind.kind(), kind.api_version());
        let errors = vec![FieldError::new(
            "kind",
            &held,
            "is another kind than the address names",
            remedy,
        )];
        Err(Refusal::Malformed { errors })
    }

    fn held(&self, key: &Key) -> Result<Arc<Stored>, Refusal> {
        let missing = || Refusal::Write(WriteError::NotFound { key: key.clone() });
        self.store.get(key).ok_or_else(missing)
    }

    fn admit(&self, key: &Key, object: &Object) -> Result<(), Refusal> {
        writable(key)?;
        let mut errors = Vec::new();
        if object.metadata.annotations.contains_key(SOURCE_ANNOTATION) {
            errors.push(source_is_ours());
        }
        errors.extend(self.checked(key, object).err().unwrap_or_default());
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Invalid {
                key: key.clone(),
                errors,
            })
        }
    }

    fn checked(&self, key: &Key, object: &Object) -> Result<(), Vec<FieldError>> {
        let held = self.store.get(key);
        (self.check)(object, held.as_ref().map(|held| &*held.object))
    }

    async fn write(&self, ops: Vec<Op>, mode: Mode) -> Result<Written, WriteError> {
        match mode {
            Mode::Commit => self.store.write(ops).await,
            Mode::DryRun => self.store.dry_run(ops).await,
        }
    }
}

/// Where an object comes from, if from a file: `file:line`.
pub fn source(object: &Object) -> Option<&str> {
    object.metadata.annotations.get(SOURCE_ANNOTATION).map(String::as_str)
}

/// Which object `value` means to be, as far as it says: what is wrong with it is told under its name.
fn said_key(kind: Kind, namespace: Option<&str>, value: &Value) -> Option<Key> {
    let said = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let name = said("/metadata/name").filter(|name| name.len() <= NAME_BYTES_MAX)?;
    if said("/kind") != Some(kind.kind()) {
        return None;
    }
    Some(Key {
        kind,
        namespace: namespace.unwrap_or_default().to_owned(),
        name: name.to_owned(),
    })
}

fn writable(key: &Key) -> Result<(), Refusal> {
    match key.kind.access() {
        Access::Writable => Ok(()),
        Access::ReadOnly => Err(Refusal::ReadOnly { key: key.clone() }),
    }
}

fn not_from_file(key: &Key, held: &Stored) -> Result<(), Refusal> {
    match source(&held.object) {
        None => Ok(()),
        Some(source) => Err(Refusal::FileOwned {
            key: key.clone(),
            source_line: source.to_owned(),
        }),
    }
}

fn same_uid(key: &Key, held: &Stored, given: &str) -> Result<(), Refusal> {
    let uid = &held.object.metadata.uid;
    if uid == given {
        return Ok(());
    }
    Err(Refusal::OtherUid {
        key: key.clone(),
        held: uid.clone(),
        given: given.to_owned(),
    })
}

fn same_name(key: &Key, object: &Object) -> Result<(), Refusal> {
    if object.metadata.name == key.name {
        return Ok(());
    }
    let held = Value::from(object.metadata.name.as_str());
    let remedy = format!("{} is right here", key.name);
    let errors = vec![FieldError::new(
        "metadata.name",
        &held,
        "is another name than the address has",
        remedy,
    )];
    Err(Refusal::Malformed { errors })
}

fn given_revision(object: &Object) -> Result<Option<Revision>, Refusal> {
    let given = object.metadata.resource_version.as_str();
    if given.is_empty() {
        return Ok(None);
    }
    given.parse().map(Some).map_err(|_| {
        let remedy = "the resourceVersion that was read is right, or none at all";
        let error = FieldError::new(
            "metadata.resourceVersion",
            &Value::from(given),
            "is no revision",
            remedy,
        );
        Refusal::Malformed { errors: vec![error] }
    })
}

fn source_is_ours() -> FieldError {
    FieldError {
        path: format!("metadata.annotations[\"{SOURCE_ANNOTATION}\"]"),
        held: String::new(),
        problem: "is set by the control plane for objects from files".to_owned(),
        remedy: "leave it out".to_owned(),
    }
}

/// The Namespace an object needs.
fn namespace_of(key: &Key) -> Option<Key> {
    match key.kind.scope() {
        Scope::Cluster => None,
        Scope::Namespaced => Some(Key {
            kind: Kind::Namespace,
            namespace: String::new(),
            name: key.namespace.clone(),
        }),
    }
}

fn namespace_text(key: &Key) -> Option<&str> {
    match key.kind.scope() {
        Scope::Cluster => None,
        Scope::Namespaced => Some(&key.namespace),
    }
}

fn is_default_namespace(key: &Key) -> bool {
    key.kind == Kind::Namespace && key.name == DEFAULT_NAMESPACE
}

/// Of a write of `key`: that its namespace is missing is another error than that it is missing itself.
fn from_write(error: WriteError, key: &Key) -> Refusal {
    match error {
        WriteError::NotFound { key: missing } if missing != *key => Refusal::UnknownNamespace { key: key.clone() },
        WriteError::Terminating { .. } => Refusal::Terminating { key: key.clone() },
        error => Refusal::Write(error),
    }
}

fn only(written: Written, key: Key) -> Result<Arc<Stored>, Refusal> {
    let missing = || Refusal::Write(WriteError::NotFound { key });
    written.objects.into_iter().next_back().ok_or_else(missing)
}

fn join(errors: &[FieldError]) -> String {
    let errors: Vec<String> = errors.iter().map(FieldError::to_string).collect();
    errors.join("; ")
}

/// The longest name there is.
const NAME_BYTES_MAX: usize = 253;
/// How often a write without a precondition is tried anew after somebody else's change came between, and a name is made
/// anew that is taken.
const ATTEMPTS_MAX: usize = 16;
