//! What has to be done to a namespace whenever something in it changes: one task, one namespace after another.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use crate::drain::Drain;
use crate::store::{Event, Revision, Store, WatchEnded};

/// Something that is done to namespaces.
pub(crate) trait Chore {
    /// Between tries when others change the same, or the disk fails.
    const RETRY_AFTER: Duration;

    /// The namespaces it is to be done to at the start, and the revision at which that was so.
    fn first(&self, store: &Store) -> (BTreeSet<String>, Revision);

    /// The namespace it is to be done to after a change.
    fn touched(&self, store: &Store, event: &Event) -> Option<String>;

    /// Does it, and takes each namespace out of the set when what can be done for now is written.
    fn round(&self, store: &Store, namespaces: &mut BTreeSet<String>) -> impl Future<Output = Round> + Send;
}

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// There is nothing to do before something changes.
    Done,
    /// Something is left in the set, to be tried again.
    Again,
}

/// Does a chore whenever there is reason to, until drained.
pub(crate) async fn keep<C: Chore>(store: Store, chore: C, mut drain: Drain) {
    loop {
        let (mut namespaces, revision) = chore.first(&store);
        // Only when more changes were made between these two lines than the store remembers is it compacted.
        let Ok(mut watch) = store.watch(revision) else {
            continue;
        };
        loop {
            let round = chore.round(&store, &mut namespaces).await;
            let again = async {
                match round {
                    Round::Done => std::future::pending().await,
                    Round::Again => tokio::time::sleep(C::RETRY_AFTER).await,
                }
            };
            // Each arm is cancel safe: a watch and a sleep lose nothing.
            tokio::select! {
                () = drain.begun() => return,
                () = again => {}
                events = watch.next() => match events {
                    Ok(events) => namespaces.extend(events.iter().filter_map(|event| chore.touched(&store, event))),
                    Err(WatchEnded::Compacted(_)) => break,
                    Err(WatchEnded::Closed) => return,
                },
            }
        }
    }
}
