//! The link to the control plane: a delta ADS stream that is opened again whenever it is lost.
//!
//! What is asked for and what becomes of the answers is decided by [`state`]; here is the stream, the clock, and the
//! disk. One task, on the runtime beside the workers; the data path sees only the snapshots that it publishes.

mod connection;
mod state;
mod table;

#[cfg(test)]
mod end_to_end;
#[cfg(test)]
mod property;
#[cfg(test)]
pub(crate) mod scenario;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use weir_xds::envoy::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

pub(crate) use connection::{Calling, Causes, Closed, Connection, ControlPlane, ControlPlaneError, Event};
pub(crate) use state::{AsksForRoots, Own, Settings};
use state::{Input, Outputs, State};

use crate::identity::Identity;
use crate::identity::roots::Roots;
use crate::last_good::{Kept, LastGood, StateDirError};
use crate::mesh::Feed;
use crate::snapshot;

/// How long what changed may wait to be written to disk: several answers that belong together make one write.
const SAVE_WAIT: Duration = Duration::from_millis(50);

/// How long after a failed write it is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// How large a response may be, in bytes. A route configuration of ten thousand routes is a tenth of it.
const RESPONSE_MAX: usize = 64 << 20;

/// The task that keeps a mesh up to date.
#[derive(Debug)]
pub(crate) struct Link {
    state: State,
    feed: Feed,
    control_plane: Option<ControlPlane>,
    identity: Option<Identity>,
    keeper: Option<Keeper>,
}

impl Link {
    /// A link that was not started. What was kept on disk is in force when this returns. Without a control plane
    /// nothing more comes.
    pub(crate) fn new(
        control_plane: Option<ControlPlane>,
        identity: Option<Identity>,
        node: Node,
        settings: Settings,
        feed: Feed,
        last_good: Option<(LastGood, Vec<Kept>)>,
    ) -> Link {
        let mut link = Link {
            state: State::new(settings, node),
            feed,
            control_plane,
            identity,
            keeper: None,
        };
        let (last_good, kept) = last_good.unzip();
        // Also where nothing was kept: what nobody has to say first holds from the start.
        let (refused, outputs) = link.state.restore(link.feed.clock().now(), kept.unwrap_or_default());
        for (name, refusal) in refused {
            tracing::warn!(resource = name, %refusal, "a resource kept on disk can't be used");
        }
        link.publish(outputs);
        link.keeper = last_good.map(Keeper::new);
        link
    }

    /// Runs until it is dropped.
    ///
    /// # Cancel safety
    /// What was published stays in force. A write to disk that is under way is finished by the thread that does it.
    pub(crate) async fn run(mut self) {
        let mut connection = self
            .control_plane
            .take()
            .map(|control_plane| Connection::new(control_plane, call));
        let mut taken = self.identity.as_ref().map(Identity::taken);
        loop {
            let tick = self.state.next().map(|time| self.feed.clock().instant(time));
            // Every arm is cancel safe: what a loser has taken from a queue it keeps in itself.
            let input = tokio::select! {
                names = self.feed.demands() => Input::Demands(names),
                event = event(&mut connection) => match event {
                    Event::Opened => {
                        if let Some(identity) = &self.identity {
                            identity.connected();
                        }
                        Input::Opened
                    }
                    Event::Message(response) => Input::Response(response),
                    Event::Closed(_) => Input::Closed,
                },
                () = until(tick) => Input::Tick,
                () = keep(&mut self.keeper, &self.state) => continue,
                roots = trusted(&mut taken) => Input::Trusted(roots),
            };
            let now = self.feed.clock().now();
            let mut outputs = self.state.handle(now, input);
            let requests = std::mem::take(&mut outputs.requests);
            if let Some(keeper) = &mut self.keeper
                && outputs.keep
            {
                keeper.changed();
            }
            if let (Some(identity), Some(roots)) = (&self.identity, outputs.roots.take()) {
                identity.offer(roots);
            }
            // In force first, acknowledged then.
            self.publish(outputs);
            for request in &requests {
                if let Some(error) = &request.error_detail {
                    tracing::warn!(
                        kind = request.type_url,
                        reason = error.message,
                        "refused what the control plane sent"
                    );
                }
            }
            if let Some(connection) = &mut connection {
                connection.send(requests);
            }
        }
    }

    fn publish(&self, outputs: Outputs) {
        if let Some(parts) = outputs.parts {
            let snapshot = snapshot::compile(&self.feed.current(), self.feed.states(), parts);
            self.feed.publish(snapshot);
        }
        self.feed.report(outputs.status);
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until roots that were offered are trusted.
async fn trusted(taken: &mut Option<watch::Receiver<Option<Arc<Roots>>>>) -> Arc<Roots> {
    if let Some(taken) = taken {
        while taken.changed().await.is_ok() {
            if let Some(roots) = taken.borrow_and_update().clone() {
                return roots;
            }
        }
    }
    std::future::pending().await
}

fn call(channel: Channel, requests: ReceiverStream<DeltaDiscoveryRequest>) -> Calling<DeltaDiscoveryResponse> {
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(RESPONSE_MAX);
    Box::pin(async move { Ok(client.delta_aggregated_resources(requests).await?.into_inner()) })
}

async fn event<Q, A>(connection: &mut Option<Connection<Q, A>>) -> Event<A> {
    match connection {
        Some(connection) => connection.next().await,
        None => std::future::pending().await,
    }
}

/// Writes what is in force to disk, one write at a time.
#[derive(Debug)]
struct Keeper {
    last_good: Arc<LastGood>,
    /// When to write; `None`: what is on disk is right, or will be by the write under way.
    due: Option<Instant>,
    writing: Option<JoinHandle<Result<(), StateDirError>>>,
}

impl Keeper {
    fn new(last_good: LastGood) -> Keeper {
        Keeper {
            last_good: Arc::new(last_good),
            due: None,
            writing: None,
        }
    }

    fn changed(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + SAVE_WAIT);
    }
}

/// Waits until a write is due or done, and does what comes next.
///
/// # Cancel safety
/// Nothing is lost: what is under way is in the keeper.
async fn keep(keeper: &mut Option<Keeper>, state: &State) {
    let Some(keeper) = keeper else {
        return std::future::pending().await;
    };
    if let Some(writing) = &mut keeper.writing {
        let written = writing.await;
        keeper.writing = None;
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(error, "can't keep what is in force on disk");
        keeper.due.get_or_insert_with(|| Instant::now() + SAVE_AGAIN);
        return;
    }
    until(keeper.due).await;
    keeper.due = None;
    let (last_good, kept) = (Arc::clone(&keeper.last_good), state.kept());
    keeper.writing = Some(tokio::task::spawn_blocking(move || last_good.save(&kept)));
}
