//! Which namespaces workloads may be in: those that exist and are not being deleted.

use std::collections::BTreeSet;

use tonic::Status;
use weir_api::{Key, Kind};

use crate::store::{Change, Event, Store, Watch, WatchEnded};

/// The store's namespaces, followed.
#[derive(Debug)]
pub(super) struct Namespaces {
    store: Store,
    /// `None`: it fell behind, and everything is to be looked at.
    watch: Option<Watch>,
}

impl Namespaces {
    pub(super) fn new(store: Store) -> Namespaces {
        Namespaces { store, watch: None }
    }

    /// Says why no workload may be in `namespace`, if so. A proxy that is told so tries again by itself.
    pub(super) fn check(&self, namespace: &str) -> Result<(), Status> {
        let key = Key {
            kind: Kind::Namespace,
            namespace: String::new(),
            name: namespace.to_owned(),
        };
        let Some(held) = self.store.get(&key) else {
            return Err(Status::failed_precondition(format!(
                "the namespace {namespace} does not exist; once it is created, this workload registers by itself"
            )));
        };
        match held.object.metadata.deletion_timestamp {
            None => Ok(()),
            Some(_) => Err(Status::failed_precondition(format!(
                "the namespace {namespace} is being deleted, with all that is in it; stop this proxy, or create the \
                 namespace again"
            ))),
        }
    }

    /// Waits for namespaces that workloads may no longer be in; the first time, and after falling behind, those that
    /// workloads are in all the same.
    ///
    /// # Cancel safety
    /// Safe: what was not returned is found again.
    pub(super) async fn closed(&mut self) -> BTreeSet<String> {
        loop {
            let Some(watch) = &mut self.watch else {
                self.watch = self.store.watch(self.store.revision()).ok();
                let workloads = self.store.list(Kind::Workload, None).0;
                let namespaces = workloads.iter().map(|stored| stored.object.metadata.namespace.clone());
                return namespaces.filter(|namespace| self.check(namespace).is_err()).collect();
            };
            let closed: BTreeSet<String> = match watch.next().await {
                Ok(events) => events.iter().filter_map(|event| closes(event)).collect(),
                Err(WatchEnded::Compacted(_)) => {
                    self.watch = None;
                    continue;
                }
                // The next write says so too, and ends what waits here.
                Err(WatchEnded::Closed) => std::future::pending().await,
            };
            if !closed.is_empty() {
                return closed;
            }
        }
    }
}

fn closes(event: &Event) -> Option<String> {
    if event.key.kind != Kind::Namespace {
        return None;
    }
    match &event.change {
        Change::Added { after } | Change::Modified { after, .. } => {
            after.object.metadata.deletion_timestamp.as_ref()?;
        }
        Change::Deleted { .. } => {}
    }
    Some(event.key.name.clone())
}
