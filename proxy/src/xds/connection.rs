//! A stream to the control plane that is opened again whenever it is lost.

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use http::Uri;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::identity::Identity;

/// Messages on their way into a stream; more wait in a backlog.
const SENT_AHEAD: usize = 64;

/// How many messages may wait, per stream; a control plane that reads so slowly is left and connected to again.
const BACKLOG_MAX: usize = 4096;

/// How a proxy reaches its control plane.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    endpoint: Endpoint,
    /// As whom, by TLS; `None`: in cleartext, as nobody.
    identity: Option<Identity>,
}

/// Why a URL can't be a control plane's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlPlaneError {
    /// Cleartext to another host.
    #[error(
        "control plane {url}: in cleartext only a control plane on this host is reached, as http://127.0.0.1:15010; for \
         another there is https://HOST:15012 with --token-file"
    )]
    Cleartext {
        /// What was given.
        url: String,
    },
    /// Something else.
    #[error("control plane {url}: is not of the form https://HOST:PORT or http://LOOPBACK:PORT")]
    Malformed {
        /// What was given.
        url: String,
    },
}

impl ControlPlane {
    /// The control plane at a URL, reached in cleartext until it is said as whom.
    ///
    /// # Errors
    /// When it is not `https://HOST:PORT` or `http://LOOPBACK:PORT`.
    pub(crate) fn new(url: &Uri) -> Result<ControlPlane, ControlPlaneError> {
        let malformed = || ControlPlaneError::Malformed { url: url.to_string() };
        match url.scheme_str() {
            Some("https") => {}
            Some("http") if is_loopback(url) => {}
            Some("http") => return Err(ControlPlaneError::Cleartext { url: url.to_string() }),
            Some(_) | None => return Err(malformed()),
        }
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        if url.host().is_none_or(str::is_empty) || url.port_u16().is_none_or(|port| port == 0) || !bare {
            return Err(malformed());
        }
        let endpoint = Endpoint::from(url.clone())
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            // A peer that vanished without a word is noticed within 15 seconds.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        Ok(ControlPlane {
            endpoint,
            identity: None,
        })
    }

    /// Whether it is reached by TLS alone.
    pub(crate) fn is_secured(&self) -> bool {
        self.url().scheme_str() == Some("https")
    }

    /// The way there, for one exchange.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Connections are by TLS from now on, as this.
    pub(crate) fn secure(&mut self, identity: Identity) {
        self.identity = Some(identity);
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &Uri {
        self.endpoint.uri()
    }

    /// `host:port`, as name resolution takes it.
    pub(crate) fn authority(&self) -> &str {
        self.endpoint.uri().authority().map_or("", http::uri::Authority::as_str)
    }
}

/// What happens on a connection.
#[derive(Debug)]
pub(crate) enum Event<A> {
    /// A stream is open; nothing was sent on it.
    Opened,
    /// A message came.
    Message(A),
    /// The stream is gone.
    Closed(Closed),
}

/// How a stream went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The control plane ended it in order.
    Ended,
    /// It refused it, or the connection failed.
    Failed,
}

/// A call that is being answered.
pub(crate) type Calling<A> = Pin<Box<dyn Future<Output = Result<Streaming<A>, tonic::Status>> + Send>>;

/// How a stream is called.
pub(crate) type Call<Q, A> = fn(Channel, ReceiverStream<Q>) -> Calling<A>;

/// A stream of `Q` to the control plane and of `A` from it, or the way to one.
pub(crate) struct Connection<Q, A> {
    control_plane: ControlPlane,
    call: Call<Q, A>,
    backoff: Backoff,
    phase: Phase<Q, A>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Channel, tonic::transport::Error>> + Send>>;

enum Phase<Q, A> {
    /// Between two attempts.
    Waiting(Pin<Box<Sleep>>),
    /// The connection is being opened.
    Connecting(Connecting),
    /// A stream is open.
    Open(Box<Open<Q, A>>),
}

impl<Q, A> Connection<Q, A> {
    /// A connection that is about to be opened. Nothing happens before [`Connection::next`].
    pub(crate) fn new(control_plane: ControlPlane, call: Call<Q, A>) -> Self {
        Connection {
            phase: Phase::Connecting(connect(&control_plane)),
            control_plane,
            call,
            backoff: Backoff::default(),
        }
    }

    /// Waits for what happens next.
    ///
    /// # Cancel safety
    /// Nothing is lost: all that is under way is in `self`.
    pub(crate) async fn next(&mut self) -> Event<A> {
        loop {
            match &mut self.phase {
                Phase::Waiting(sleep) => {
                    sleep.as_mut().await;
                    self.phase = Phase::Connecting(connect(&self.control_plane));
                }
                Phase::Connecting(connecting) => match connecting.as_mut().await {
                    Ok(channel) => {
                        self.phase = Phase::Open(Box::new(Open::new(channel, self.call)));
                        return Event::Opened;
                    }
                    Err(error) => {
                        tracing::debug!(error = %Causes(&error), "can't connect to the control plane");
                        self.retry_later();
                    }
                },
                Phase::Open(open) => match open.next().await {
                    Ok(message) => {
                        self.backoff = Backoff::default();
                        return Event::Message(message);
                    }
                    Err(reason) => {
                        let url = self.control_plane.url();
                        let closed = match reason {
                            Ended::Closed => {
                                tracing::info!(%url, "the control plane ended a stream");
                                Closed::Ended
                            }
                            Ended::Status(_) | Ended::NotRead => {
                                tracing::warn!(%reason, %url, "lost a stream to the control plane");
                                Closed::Failed
                            }
                        };
                        self.retry_later();
                        return Event::Closed(closed);
                    }
                },
            }
        }
    }

    /// Sends messages, in this order. Dropped where no stream is open, since the next one begins anew.
    pub(crate) fn send(&mut self, messages: impl IntoIterator<Item = Q>) {
        match &mut self.phase {
            Phase::Open(open) => open.backlog.extend(messages),
            Phase::Waiting(_) | Phase::Connecting(_) => {}
        }
    }

    /// Leaves the stream that is open, and tries again after a while.
    pub(crate) fn retry_later(&mut self) {
        let wait = self.backoff.next(fastrand::f64());
        self.phase = Phase::Waiting(Box::pin(tokio::time::sleep(wait)));
    }
}

fn connect(control_plane: &ControlPlane) -> Connecting {
    let ControlPlane { endpoint, identity } = control_plane.clone();
    Box::pin(async move {
        match identity {
            None => endpoint.connect().await,
            Some(identity) => identity.connect(&endpoint).await,
        }
    })
}

/// Whether a URL's host is this one, without asking the DNS.
fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the control plane ended it")]
    Closed,
    #[error("{} ({:?})", .0.message(), .0.code())]
    Status(tonic::Status),
    #[error("the control plane does not read: {BACKLOG_MAX} messages wait")]
    NotRead,
}

struct Open<Q, A> {
    /// `None` once the call no longer takes messages.
    sender: Option<mpsc::Sender<Q>>,
    backlog: VecDeque<Q>,
    answers: Answers<A>,
}

/// The control plane may answer the call only after the first message, so messages are sent from the start.
enum Answers<A> {
    Calling(Calling<A>),
    Streaming(Box<Streaming<A>>),
}

impl<Q, A> Open<Q, A> {
    fn new(channel: Channel, call: Call<Q, A>) -> Self {
        let (sender, messages) = mpsc::channel(SENT_AHEAD);
        Open {
            sender: Some(sender),
            backlog: VecDeque::new(),
            answers: Answers::Calling(call(channel, ReceiverStream::new(messages))),
        }
    }

    async fn next(&mut self) -> Result<A, Ended> {
        loop {
            if self.backlog.len() > BACKLOG_MAX {
                return Err(Ended::NotRead);
            }
            self.push();
            let sender = self.sender.as_ref().filter(|_| !self.backlog.is_empty());
            let has_room = async {
                match sender {
                    Some(sender) => sender.reserve().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            // Cancel safe: a reserved place that is dropped is free again, and the answers keep what they have.
            tokio::select! {
                answer = self.answers.next() => match answer? {
                    Answered::Accepted(streaming) => self.answers = Answers::Streaming(streaming),
                    Answered::Message(message) => return Ok(message),
                },
                room = has_room => if room.is_err() {
                    // The call has ended; its answer says how.
                    self.backlog.clear();
                    self.sender = None;
                }
            }
        }
    }

    /// Hands over as much as the stream takes.
    fn push(&mut self) {
        let Some(sender) = &self.sender else { return };
        while !self.backlog.is_empty() {
            let Ok(place) = sender.try_reserve() else { return };
            if let Some(message) = self.backlog.pop_front() {
                place.send(message);
            }
        }
    }
}

enum Answered<A> {
    Accepted(Box<Streaming<A>>),
    Message(A),
}

impl<A> Answers<A> {
    async fn next(&mut self) -> Result<Answered<A>, Ended> {
        match self {
            Answers::Calling(calling) => match calling.as_mut().await {
                Ok(streaming) => Ok(Answered::Accepted(Box::new(streaming))),
                Err(status) => Err(Ended::Status(status)),
            },
            Answers::Streaming(streaming) => match streaming.message().await {
                Ok(Some(message)) => Ok(Answered::Message(message)),
                Ok(None) => Err(Ended::Closed),
                Err(status) => Err(Ended::Status(status)),
            },
        }
    }
}

/// The waits between attempts to connect: from 100 ms, doubled each time, at most 10 s, and each drawn between its
/// half and its whole, so that many proxies don't come back at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt; `random` from 0 to 1.
    fn next(&mut self, random: f64) -> Duration {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expect: Result<&str, &str>) {
        let url = url.parse().expect("a URI");
        let made = ControlPlane::new(&url);
        let made = made.as_ref().map(ControlPlane::authority).map_err(ToString::to_string);
        assert_eq!(made, expect.map_err(str::to_owned));
    }

    #[test]
    fn only_urls_of_a_host_and_a_port_are_taken_and_in_cleartext_only_this_host() {
        check("http://127.0.0.1:15010", Ok("127.0.0.1:15010"));
        check("http://[::1]:15010/", Ok("[::1]:15010"));
        check("http://localhost:15010/", Ok("localhost:15010"));
        check("https://control:15012/", Ok("control:15012"));
        for url in [
            "http://control:15010/",
            "http://10.0.0.1:1/",
            "http://0.0.0.0:1/",
            "http://localhost.gov:1/",
        ] {
            let given: Uri = url.parse().expect("a URI");
            let expect = format!(
                "control plane {given}: in cleartext only a control plane on this host is reached, as \
                 http://127.0.0.1:15010; for another there is https://HOST:15012 with --token-file"
            );
            check(url, Err(&expect));
        }
        for url in [
            "http://localhost",
            "https://control:0",
            "control:15010",
            "https://control:1/path",
            "ftp://control:1",
        ] {
            let given: Uri = url.parse().expect("a URI");
            let expect = format!("control plane {given}: is not of the form https://HOST:PORT or http://LOOPBACK:PORT");
            check(url, Err(&expect));
        }
    }

    #[test]
    fn waits_double_up_to_ten_seconds_and_are_jittered() {
        let waits = |random: f64| {
            let mut backoff = Backoff::default();
            let waits: Vec<u128> = (0..9).map(|_| backoff.next(random).as_millis()).collect();
            waits
        };
        assert_eq!(waits(1.0), [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(waits(0.0), [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let mut backoff = Backoff { failures: u32::MAX };
        assert_eq!(backoff.next(1.0), Duration::from_secs(10));
    }
}
