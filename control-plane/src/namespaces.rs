//! Namespaces that are being deleted: what they hold goes, then they do. Workloads go by their own task, which tells
//! their proxies; until they are gone, the namespace stays.

use std::collections::BTreeSet;
use std::time::Duration;

use weir_api::{Access, Key, Kind, Scope};

use crate::by_namespace::{Chore, Round};
use crate::store::{Event, Op, Precondition, Revision, Store, WriteError};

/// Empties and removes each namespace that is being deleted.
pub(crate) struct Removal;

impl Chore for Removal {
    const RETRY_AFTER: Duration = Duration::from_millis(100);

    fn first(&self, store: &Store) -> (BTreeSet<String>, Revision) {
        let (namespaces, revision) = store.list(Kind::Namespace, None);
        let names = namespaces.iter().map(|stored| stored.object.metadata.name.clone());
        (names.filter(|name| is_going(store, name)).collect(), revision)
    }

    fn touched(&self, store: &Store, event: &Event) -> Option<String> {
        let name = match event.key.kind.scope() {
            Scope::Namespaced => &event.key.namespace,
            Scope::Cluster if event.key.kind == Kind::Namespace => &event.key.name,
            Scope::Cluster => return None,
        };
        is_going(store, name).then(|| name.clone())
    }

    async fn round(&self, store: &Store, going: &mut BTreeSet<String>) -> Round {
        empty_all(store, going).await
    }
}

fn is_going(store: &Store, name: &str) -> bool {
    let held = store.get(&key(name));
    held.is_some_and(|held| held.object.metadata.deletion_timestamp.is_some())
}

fn key(name: &str) -> Key {
    Key {
        kind: Kind::Namespace,
        namespace: String::new(),
        name: name.to_owned(),
    }
}

/// Takes each namespace out of `going` when what can be done for now is written.
async fn empty_all(store: &Store, going: &mut BTreeSet<String>) -> Round {
    let mut round = Round::Done;
    for name in std::mem::take(going) {
        let ops = ops(store, &name);
        if ops.is_empty() {
            continue;
        }
        match store.write(ops).await {
            Ok(_) => {}
            Err(WriteError::Closed) => return Round::Done,
            // Somebody was quicker with one of them, or something came in between.
            Err(WriteError::NotFound { .. } | WriteError::NotEmpty { .. }) if is_going(store, &name) => {
                going.insert(name);
                round = Round::Again;
            }
            Err(WriteError::NotFound { .. } | WriteError::NotEmpty { .. }) => {}
            Err(
                error @ (WriteError::Exists { .. }
                | WriteError::Terminating { .. }
                | WriteError::Conflict { .. }
                | WriteError::Storage(_)),
            ) => {
                tracing::error!(namespace = name, %error, "a namespace is not deleted; trying again");
                going.insert(name);
                round = Round::Again;
            }
        }
    }
    round
}

/// Everything that goes now: what users write and what is made of it, and the namespace with it if nothing else is
/// left.
fn ops(store: &Store, name: &str) -> Vec<Op> {
    let precondition = Precondition::Any;
    let mut ops = Vec::new();
    let mut left = 0;
    let kinds = Kind::ALL
        .iter()
        .copied()
        .filter(|kind| kind.scope() == Scope::Namespaced);
    // What others refer to goes last, as it was applied first.
    for kind in kinds.rev() {
        let (held, _) = store.list(kind, Some(name));
        match kind.access() {
            Access::Writable => ops.extend(held.iter().map(|stored| Op::Delete {
                key: stored.object.key(),
                precondition,
            })),
            Access::ReadOnly => left += held.len(),
        }
    }
    if left == 0 {
        ops.push(Op::RequireEmpty(name.to_owned()));
        ops.push(Op::Delete {
            key: key(name),
            precondition,
        });
    }
    ops
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use weir_api::workload::WorkloadSpec;
    use weir_api::{Object, Spec};

    use super::*;
    use crate::by_namespace;
    use crate::drain;
    use crate::store::Location;
    use crate::store::Watch;
    use crate::store::samples::{self, namespace, service};

    /// Nobody takes the workload away here: the namespace stays for as long as the test wants.
    #[tokio::test]
    async fn a_namespace_goes_when_the_last_workload_is_gone_and_not_before() {
        let (store, task) = Store::open(Location::Memory).expect("a store");
        let workload = Spec::Workload(WorkloadSpec {
            address: IpAddr::from([10, 0, 0, 1]),
            ports: Vec::new(),
            locality: Default::default(),
            instance: 1,
            version: String::new(),
            account: String::new(),
        });
        let workload = Object::new("a", "w", workload);
        let workload_key = workload.key();
        let create = [
            namespace("a"),
            namespace("b"),
            service("a", "s", 80),
            service("b", "s", 80),
            workload,
        ];
        let mut ops: Vec<Op> = create.into_iter().map(Op::Create).collect();
        // It is marked already when the task starts, as after a restart.
        let (precondition, a) = (Precondition::Any, key("a"));
        ops.push(Op::Terminate {
            key: a.clone(),
            precondition,
        });
        let from = store.write(ops).await.expect("written").revision;
        let (drainer, drain) = drain::channel();
        let keeping = tokio::spawn(by_namespace::keep(store.clone(), Removal, drain));
        let mut watch = store.watch(from).expect("now");
        let gone = async |watch: &mut Watch, key: &Key| {
            while store.get(key).is_some() {
                watch.next().await.expect("open");
            }
        };
        gone(&mut watch, &samples::key(Kind::Service, "a", "s")).await;
        assert!(store.get(&a).is_some() && store.get(&workload_key).is_some());
        let key = workload_key;
        store
            .write(vec![Op::Delete { key, precondition }])
            .await
            .expect("written");
        gone(&mut watch, &a).await;
        assert!(store.get(&samples::key(Kind::Service, "b", "s")).is_some());
        // One that holds nothing goes at once.
        let b = super::key("b");
        store
            .write(vec![Op::Terminate {
                key: b.clone(),
                precondition,
            }])
            .await
            .expect("written");
        gone(&mut watch, &b).await;
        assert_eq!(store.all().0, Vec::new());
        drainer.begin();
        keeping.await.expect("no panic");
        task.stop().await.expect("no panic");
    }
}
