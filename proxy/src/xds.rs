//! The link to the control plane: a delta ADS stream that is opened again whenever it is lost.
//!
//! What is asked for and what becomes of the answers is decided by [`state`]; here is the stream, the clock, and the
//! disk. One task, on the runtime beside the workers; the data path sees only the snapshots that it publishes.

mod state;
mod table;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use weir_xds::envoy::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

pub(crate) use state::Settings;
use state::{Input, Outputs, State};

use crate::last_good::{Kept, LastGood, StateDirError};
use crate::mesh::{Connected, Feed};
use crate::snapshot;

/// How long what changed may wait to be written to disk: several answers that belong together make one write.
const SAVE_WAIT: Duration = Duration::from_millis(50);

/// How long after a failed write it is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// Requests on their way into the stream; more wait in [`Open::backlog`].
const REQUESTS_AHEAD: usize = 64;

/// How many requests may wait; a control plane that reads so slowly is left and connected to again.
const BACKLOG_MAX: usize = 4096;

/// How large a response may be, in bytes. A route configuration of ten thousand routes is a tenth of it.
const RESPONSE_MAX: usize = 64 << 20;

/// How a proxy reaches its control plane.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    endpoint: Endpoint,
}

/// Why a URL can't be a control plane's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlPlaneError {
    /// TLS is not there yet.
    #[error("control plane {url}: https is not there yet; use http:// to a control plane on loopback")]
    Https {
        /// What was given.
        url: String,
    },
    /// Something else.
    #[error("control plane {url}: is not of the form http://HOST:PORT")]
    Malformed {
        /// What was given.
        url: String,
    },
}

impl ControlPlane {
    /// The control plane at a URL.
    ///
    /// # Errors
    /// When it is not `http://HOST:PORT`.
    pub(crate) fn new(url: &Uri) -> Result<ControlPlane, ControlPlaneError> {
        let malformed = || ControlPlaneError::Malformed { url: url.to_string() };
        match url.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(ControlPlaneError::Https { url: url.to_string() }),
            Some(_) | None => return Err(malformed()),
        }
        if url.host().is_none() || url.port_u16().is_none() || !matches!(url.path(), "" | "/") {
            return Err(malformed());
        }
        let endpoint = Endpoint::from(url.clone())
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            // A peer that vanished without a word is noticed within 15 seconds.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        Ok(ControlPlane { endpoint })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// As the transport says.
    pub(crate) async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        self.endpoint.connect().await
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &Uri {
        self.endpoint.uri()
    }
}

/// The task that keeps a mesh up to date.
#[derive(Debug)]
pub(crate) struct Link {
    state: State,
    feed: Feed,
    control_plane: Option<ControlPlane>,
    keeper: Option<Keeper>,
}

impl Link {
    /// A link that was not started. What was kept on disk is in force when this returns. Without a control plane
    /// nothing more comes.
    pub(crate) fn new(
        control_plane: Option<ControlPlane>,
        node: Node,
        settings: Settings,
        feed: Feed,
        last_good: Option<(LastGood, Vec<Kept>)>,
    ) -> Link {
        let mut link = Link {
            state: State::new(settings, node),
            feed,
            control_plane,
            keeper: None,
        };
        if let Some((last_good, kept)) = last_good {
            let (refused, outputs) = link.state.restore(link.feed.clock().now(), kept);
            for (name, refusal) in refused {
                tracing::warn!(resource = name, %refusal, "a resource kept on disk can't be used");
            }
            link.publish(outputs);
            link.keeper = Some(Keeper::new(last_good));
        }
        link
    }

    /// Runs until it is dropped.
    ///
    /// # Cancel safety
    /// What was published stays in force. A write to disk that is under way is finished by the thread that does it.
    pub(crate) async fn run(mut self) {
        let mut connection = match &self.control_plane {
            Some(control_plane) => Connection::new(control_plane.clone()),
            None => Connection::Never,
        };
        loop {
            let tick = self.state.next().map(|time| self.feed.clock().instant(time));
            // Every arm is cancel safe: what a loser has taken from a queue it keeps in itself.
            let input = tokio::select! {
                names = self.feed.demands() => Input::Demands(names),
                event = connection.next() => match event {
                    Event::Opened => Input::Opened,
                    Event::Response(response) => Input::Response(response),
                    Event::Closed => Input::Closed,
                },
                () = until(tick) => Input::Tick,
                () = keep(&mut self.keeper, &self.state) => continue,
            };
            let now = self.feed.clock().now();
            let mut outputs = self.state.handle(now, input);
            let requests = std::mem::take(&mut outputs.requests);
            if let Some(keeper) = &mut self.keeper
                && outputs.keep
            {
                keeper.changed();
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
            connection.send(requests);
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

/// What happens on a connection.
enum Event {
    Opened,
    Response(DeltaDiscoveryResponse),
    Closed,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Channel, tonic::transport::Error>> + Send>>;
type Calling = Pin<Box<dyn Future<Output = Result<Streaming<DeltaDiscoveryResponse>, tonic::Status>> + Send>>;

/// A stream to the control plane, or the way to one.
enum Connection {
    /// There is no control plane.
    Never,
    /// Between two attempts.
    Waiting { retry: Retry, sleep: Pin<Box<Sleep>> },
    /// The connection is being opened.
    Connecting { retry: Retry, connecting: Connecting },
    /// It is open.
    Open(Box<Open>),
}

/// What it takes to try again.
#[derive(Clone, Debug)]
struct Retry {
    control_plane: ControlPlane,
    backoff: Backoff,
}

struct Open {
    retry: Retry,
    sender: mpsc::Sender<DeltaDiscoveryRequest>,
    backlog: VecDeque<DeltaDiscoveryRequest>,
    answers: Answers,
}

/// The control plane may answer the call only after the first request, so requests are sent from the start.
enum Answers {
    Calling(Calling),
    Streaming(Box<Streaming<DeltaDiscoveryResponse>>),
}

impl Connection {
    fn new(control_plane: ControlPlane) -> Connection {
        let backoff = Backoff::default();
        Retry { control_plane, backoff }.connect()
    }

    /// Waits for what happens next.
    ///
    /// # Cancel safety
    /// Nothing is lost: all that is under way is in `self`.
    async fn next(&mut self) -> Event {
        loop {
            match self {
                Connection::Never => std::future::pending().await,
                Connection::Waiting { retry, sleep } => {
                    sleep.as_mut().await;
                    *self = retry.clone().connect();
                }
                Connection::Connecting { retry, connecting } => match connecting.as_mut().await {
                    Ok(channel) => {
                        *self = Connection::Open(Box::new(Open::new(retry.clone(), channel)));
                        return Event::Opened;
                    }
                    Err(error) => {
                        tracing::debug!(error = %Causes(&error), "can't connect to the control plane");
                        *self = retry.clone().wait();
                    }
                },
                Connection::Open(open) => match open.next().await {
                    Ok(response) => return Event::Response(response),
                    Err(reason) => {
                        tracing::warn!(%reason, url = %open.retry.control_plane.url(), "lost the control plane");
                        *self = open.retry.clone().wait();
                        return Event::Closed;
                    }
                },
            }
        }
    }

    /// Sends requests; dropped where no stream is open, since the next one begins anew.
    fn send(&mut self, requests: Vec<DeltaDiscoveryRequest>) {
        match self {
            Connection::Open(open) => open.backlog.extend(requests),
            Connection::Never | Connection::Waiting { .. } | Connection::Connecting { .. } => {}
        }
    }
}

impl Retry {
    fn connect(self) -> Connection {
        let control_plane = self.control_plane.clone();
        Connection::Connecting {
            retry: self,
            connecting: Box::pin(async move { control_plane.connect().await }),
        }
    }

    fn wait(mut self) -> Connection {
        let sleep = tokio::time::sleep(self.backoff.next(fastrand::f64()));
        Connection::Waiting {
            retry: self,
            sleep: Box::pin(sleep),
        }
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it ended the stream")]
    Closed,
    #[error("{} ({:?})", .0.message(), .0.code())]
    Status(tonic::Status),
    #[error("it does not read: {BACKLOG_MAX} requests wait")]
    NotRead,
}

impl Open {
    fn new(retry: Retry, channel: Channel) -> Open {
        let (sender, requests) = mpsc::channel(REQUESTS_AHEAD);
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(RESPONSE_MAX);
        let calling: Calling = Box::pin(async move {
            let call = client.delta_aggregated_resources(ReceiverStream::new(requests));
            Ok(call.await?.into_inner())
        });
        Open {
            retry,
            sender,
            backlog: VecDeque::new(),
            answers: Answers::Calling(calling),
        }
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Ended> {
        loop {
            if self.backlog.len() > BACKLOG_MAX {
                return Err(Ended::NotRead);
            }
            while let Some(request) = self.backlog.pop_front() {
                if let Err(mpsc::error::TrySendError::Full(request)) = self.sender.try_send(request) {
                    self.backlog.push_front(request);
                    break;
                }
                // Closed: the call has ended, and says so below.
            }
            let has_room = async {
                match self.backlog.is_empty() {
                    true => std::future::pending().await,
                    false => self.sender.reserve().await.is_ok(),
                }
            };
            // Cancel safe: a reserved place that is dropped is free again, and the others keep what they have.
            tokio::select! {
                answer = self.answers.next() => match answer? {
                    Answered::Accepted(streaming) => self.answers = Answers::Streaming(Box::new(streaming)),
                    Answered::Response(response) => {
                        self.retry.backoff = Backoff::default();
                        return Ok(response);
                    }
                },
                _ = has_room => {}
            }
        }
    }
}

enum Answered {
    Accepted(Streaming<DeltaDiscoveryResponse>),
    Response(DeltaDiscoveryResponse),
}

impl Answers {
    async fn next(&mut self) -> Result<Answered, Ended> {
        match self {
            Answers::Calling(calling) => calling.as_mut().await.map(Answered::Accepted).map_err(Ended::Status),
            Answers::Streaming(streaming) => match streaming.message().await {
                Ok(Some(response)) => Ok(Answered::Response(response)),
                Ok(None) => Err(Ended::Closed),
                Err(status) => Err(Ended::Status(status)),
            },
        }
    }
}

/// The waits between attempts to connect: from 100 ms, doubled each time, at most 10 s, and each drawn between its
/// half and its whole, so that many proxies don't come back at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt; `random` from 0 to 1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        const FIRST: Duration = Duration::from_millis(100);
        const LONGEST: Duration = Duration::from_secs(10);
        let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// An error with all its causes.
pub(crate) struct Causes<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
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
