//! What became of each resource, written into its status. [`solve`] is pure and idempotent; one task looks at what
//! changes in the store and on the proxies, and writes what it says.
//!
//! Routes have theirs in `status.parents[]`, policies in `status.ancestors[]`, the MeshConfig in `status.conditions[]`.
//! A Service has no condition of its own: which proxies use it changes with each that comes and goes, and the view
//! `…/proxies` says it.

mod backend_policy;
mod backend_tls_policy;
mod book;
mod conditions;
mod effect;
mod in_force;
mod mesh_config;
mod policy;
mod references;
mod route;
mod route_policy;
mod telemetry_policy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;
use weir_api::{Key, Kind, Object, RouteSpec, Spec};

use crate::compile::index::Index;
use crate::drain::Drain;
use crate::proxies::{Extent, Summary};
use crate::store::{Op, Precondition, Revision, Store, Stored, Watch, WatchEnded, WriteError};
use crate::xds::{Closed, Xds};
use book::Book;

/// Whether the status of a kind says where it is in force.
pub(crate) fn says_in_force(kind: Kind) -> bool {
    match kind {
        Kind::BackendTlsPolicy
        | Kind::BackendPolicy
        | Kind::RoutePolicy
        | Kind::TelemetryPolicy
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::MeshConfig => true,
        Kind::Namespace
        | Kind::ConfigMap
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Workload
        | Kind::ReferenceGrant => false,
    }
}

/// Where one resource is in force, by extent. Nobody is concerned by one that is not there.
#[derive(Debug, Default)]
pub(crate) struct Standings(BTreeMap<Extent, Summary>);

impl Standings {
    fn at(&self, extent: &Extent) -> Summary {
        self.0.get(extent).cloned().unwrap_or_default()
    }
}

/// The statuses of these resources that are not what they should be, as they should be. `now` is RFC 3339, in whole
/// seconds. Where these are written, solving again gives none.
pub(crate) fn solve(index: &Index, standings: &BTreeMap<Key, Standings>, now: &str) -> Vec<(Key, Value)> {
    let mut known = route::Known::default();
    let mut changed = Vec::new();
    for (key, standings) in standings {
        let Some(object) = index.objects().get(key) else {
            continue;
        };
        let status = match &object.spec {
            Spec::HttpRoute(spec) => {
                let spec = RouteSpec::Http(spec);
                serde_json::to_value(route::status(object, spec, index, standings, &mut known, now))
            }
            Spec::GrpcRoute(spec) => {
                let spec = RouteSpec::Grpc(spec);
                serde_json::to_value(route::status(object, spec, index, standings, &mut known, now))
            }
            Spec::BackendPolicy(spec) => {
                let claims = backend_policy::claims(object, spec, index);
                serde_json::to_value(policy::status(object, claims, standings, now))
            }
            Spec::BackendTlsPolicy(spec) => {
                let claims = backend_tls_policy::claims(object, spec, index);
                serde_json::to_value(policy::status(object, claims, standings, now))
            }
            Spec::RoutePolicy(spec) => {
                let claims = route_policy::claims(object, spec, index);
                serde_json::to_value(policy::status(object, claims, standings, now))
            }
            Spec::TelemetryPolicy(spec) => {
                let claim = telemetry_policy::claim(object, spec, index);
                serde_json::to_value(policy::status(object, vec![claim], standings, now))
            }
            Spec::MeshConfig(_) => serde_json::to_value(mesh_config::status(object, standings, now)),
            Spec::Namespace(_)
            | Spec::ConfigMap(_)
            | Spec::Service(_)
            | Spec::EndpointSlice(_)
            | Spec::ReferenceGrant(_)
            | Spec::Workload(_) => continue,
        };
        let status = status.expect("conditions have text as keys and no fallible parts");
        if object.status.as_ref() != Some(&status) {
            changed.push((key.clone(), status));
        }
    }
    changed
}

/// The extents of which a resource's status speaks.
fn extents(object: &Object, index: &Index) -> Vec<Extent> {
    let extents: BTreeSet<Extent> = match &object.spec {
        Spec::HttpRoute(_) | Spec::GrpcRoute(_) => {
            let parents = RouteSpec::of(object).map_or(&[][..], RouteSpec::parent_refs).iter();
            let attachments = parents.filter_map(|parent| route::attachment(object, parent, index));
            attachments.map(Extent::from).collect()
        }
        Spec::BackendPolicy(spec) => backend_policy::extents(object, &spec.target_refs, index)
            .into_iter()
            .collect(),
        Spec::BackendTlsPolicy(spec) => backend_policy::extents(object, &spec.target_refs, index)
            .into_iter()
            .collect(),
        Spec::RoutePolicy(spec) => route_policy::extents(object, spec, index).into_iter().collect(),
        Spec::TelemetryPolicy(_) => [telemetry_policy::extent(object)].into(),
        Spec::MeshConfig(_) => [Extent::Mesh].into(),
        Spec::Namespace(_)
        | Spec::ConfigMap(_)
        | Spec::Service(_)
        | Spec::EndpointSlice(_)
        | Spec::ReferenceGrant(_)
        | Spec::Workload(_) => BTreeSet::new(),
    };
    extents.into_iter().collect()
}

/// The status that a resource has. What can't be read was not written here, and says nothing.
fn read<T: DeserializeOwned + Default>(object: &Object) -> T {
    let status = object.status.as_ref();
    status
        .and_then(|status| T::deserialize(status).ok())
        .unwrap_or_default()
}

/// Writes statuses whenever the store or a proxy gives reason to, until drained.
///
/// A write never waits for long: it has a place in the store's queue like everybody's, and what is queued is committed
/// together. Nor does it hold up others for long: at most [`TOGETHER_MAX`] are queued at a time.
pub(crate) async fn keep(store: Store, xds: Xds, mut drain: Drain) {
    let (all, mut watch) = listed(&store);
    let back_by = Instant::now() + RECONNECT_TIME;
    let mut keeper = Keeper {
        store,
        xds,
        book: Book::open(&all, back_by.into_std()),
        batch: Batch::default(),
        stirred: Stirred::No,
    };
    drop(all);
    loop {
        let due = keeper.due();
        // Each arm is cancel safe: watching, waiting for news and sleeping lose nothing.
        tokio::select! {
            () = drain.begun() => return,
            events = watch.next() => match events {
                Ok(events) => {
                    for event in &events {
                        keeper.book.changed(event);
                    }
                    keeper.note();
                }
                Err(WatchEnded::Compacted(compacted)) => {
                    tracing::warn!(%compacted, "statuses fell behind the store, which is listed anew");
                    let (all, anew) = listed(&keeper.store);
                    keeper.book.reset(&all);
                    keeper.note();
                    watch = anew;
                }
                Err(WatchEnded::Closed) => return,
            },
            () = keeper.xds.stirred() => {
                keeper.stirred = Stirred::Yes;
                keeper.note();
            }
            () = sleep_until(due) => {
                if let Err(Closed) = keeper.round().await {
                    return;
                }
            }
        }
    }
}

/// All that the store holds, and a watch from there.
fn listed(store: &Store) -> (Vec<Arc<Stored>>, Watch) {
    loop {
        let (all, revision) = store.all();
        // Only when more changes were made between these two lines than the store remembers is it compacted.
        if let Ok(watch) = store.watch(revision) {
            return (all, watch);
        }
    }
}

/// What the task holds.
struct Keeper {
    store: Store,
    xds: Xds,
    book: Book,
    batch: Batch,
    stirred: Stirred,
}

/// Whether the xDS server has objects to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stirred {
    Yes,
    No,
}

/// What happens within a moment is looked at together: after a change come the proxies' ACKs, and then there is
/// something to say.
#[derive(Debug, Default)]
struct Batch {
    /// The first and the last that happened since the last look.
    span: Option<(Instant, Instant)>,
}

impl Batch {
    fn note(&mut self, now: Instant) {
        let first = self.span.map_or(now, |(first, _)| first);
        self.span = Some((first, now));
    }

    fn due(&self) -> Option<Instant> {
        self.span.map(|(first, last)| (last + QUIET).min(first + DELAY_MAX))
    }
}

impl Keeper {
    /// Something happened; it is looked at together with what comes right after it.
    fn note(&mut self) {
        if self.stirred == Stirred::Yes || self.book.is_dirty() {
            self.batch.note(Instant::now());
        }
    }

    /// When there is something to do next; `None`: not before something happens.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let book = match self.stirred {
            Stirred::Yes => now,
            Stirred::No => Instant::from_std(self.book.due(now.into_std())?),
        };
        Some(self.batch.due().map_or(book, |batch| batch.max(book)))
    }

    /// Looks at what is due, and writes what has to be said.
    async fn round(&mut self) -> Result<(), Closed> {
        self.batch = Batch::default();
        if self.stirred == Stirred::Yes {
            self.stirred = Stirred::No;
            for key in self.xds.take_stirred().await? {
                self.book.stir(&key);
            }
        }
        let due = self.book.take_due(Instant::now().into_std());
        for keys in due.chunks(TOGETHER_MAX) {
            self.look(keys).await?;
        }
        Ok(())
    }

    async fn look(&mut self, keys: &[Key]) -> Result<(), Closed> {
        let asked = keys.iter().filter_map(|key| {
            let object = self.book.object(key)?;
            Some((key.clone(), extents(object, self.book.index())))
        });
        let asked: Vec<(Key, Vec<Extent>)> = asked.collect();
        let summaries = self.xds.summaries(asked.clone()).await?;
        let mut standings = BTreeMap::new();
        for ((key, extents), of) in asked.into_iter().zip(summaries.of) {
            // What the xDS server has not seen yet, nobody can say anything of.
            if self.revision(&key).is_some_and(|revision| revision <= summaries.seen) {
                standings.insert(key, Standings(extents.into_iter().zip(of).collect()));
            } else {
                self.again(key);
            }
        }
        let now = now();
        let changed = solve(self.book.index(), &standings, &now);
        let writes = changed.into_iter().filter_map(|(key, status)| {
            let revision = self.revision(&key)?;
            let op = Op::Status {
                key: key.clone(),
                status,
                precondition: Precondition::Revision(revision),
            };
            let store = self.store.clone();
            Some(async move { (key, store.write(vec![op]).await) })
        });
        for (key, written) in join_all(writes.collect::<Vec<_>>()).await {
            match written {
                Ok(_) => self.book.rest(key, Instant::now().into_std()),
                // It is another one by now, or gone: the watch says so, and it is looked at then.
                Err(WriteError::Conflict { .. } | WriteError::NotFound { .. } | WriteError::Closed) => {}
                Err(
                    error @ (WriteError::Storage(_)
                    | WriteError::Exists { .. }
                    | WriteError::NotEmpty { .. }
                    | WriteError::Terminating { .. }),
                ) => {
                    tracing::error!(%key, %error, "a status is not written; trying again");
                    self.again(key);
                }
            }
        }
        Ok(())
    }

    fn again(&mut self, key: Key) {
        self.book.stir(&key);
        self.book.rest(key, Instant::now().into_std());
    }

    /// That of the state which the book holds.
    fn revision(&self, key: &Key) -> Option<Revision> {
        let object = self.book.object(key)?;
        object.metadata.resource_version.parse().ok()
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Kubernetes' times are in whole seconds.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// After the last that happened: a push and its ACKs take some milliseconds.
const QUIET: Duration = Duration::from_millis(50);
/// What happens without a pause does not hold back for longer what has to be said.
const DELAY_MAX: Duration = Duration::from_millis(250);
/// Statuses that are looked at and written together: some milliseconds of the model's task, and a small part of the
/// store's queue.
const TOGETHER_MAX: usize = 64;
/// Within this time after a start proxies are back: their back-off is at most ten seconds.
const RECONNECT_TIME: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
