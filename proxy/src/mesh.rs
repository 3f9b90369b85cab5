//! The mesh as the data path sees it: the snapshot in force, and a way to ask for a service that it lacks.
//!
//! The data path waits for the control plane only for a name it has no answer for. Everything else here is written by
//! one task, the link ([`crate::xds`]), through [`Feed`].

pub(crate) mod status;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use weir_policy::egress::Egress;
use weir_policy::model::Locality;
use weir_policy::names::{ListenerName, ServiceName};
use weir_xds::ResourceType;

use crate::clock::Clock;
use crate::snapshot::{Lookup, Service, Snapshot, States};

pub(crate) use status::Status;

/// How many names may wait to be asked for, per process. Each name waits once, however many requests want it, so this
/// is reached only by an app that tries names at random.
const DEMANDS_MAX: usize = 1024;

/// What is in force, for every worker. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    snapshot: ArcSwap<Snapshot>,
    states: States,
    /// The version of `snapshot`, for those who wait for another one.
    published: watch::Sender<u64>,
    demands: mpsc::Sender<ListenerName>,
    /// Names in `demands`, so that each is there once.
    asked: Mutex<HashSet<ListenerName>>,
    link: watch::Sender<LinkStatus>,
}

/// Why there is no service to a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    /// The control plane says so.
    #[error("no such service in the mesh")]
    NoSuchService,
    /// The control plane did not answer in time.
    #[error("the control plane did not answer within {waited:?} ({connected})")]
    NoAnswer {
        /// How long the request waited for it.
        waited: Duration,
        /// Whether there was a connection to it when the wait ended.
        connected: Connected,
    },
    /// Too many names wait to be asked for.
    #[error("too many names wait for the control plane's answer")]
    Overloaded,
    /// What the control plane answered was refused here, and nothing was in force before.
    #[error("{0}")]
    Refused(Arc<RefusedResource>),
}

/// A resource that nothing is in force of, because this proxy refused the first version that came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this proxy refused {kind} {name}: {reason}")]
pub(crate) struct RefusedResource {
    /// What it is.
    pub(crate) kind: ResourceType,
    /// Its name.
    pub(crate) name: String,
    /// Why, in one line of at most [`REASON_BYTES_MAX`]; `/config` has the whole.
    pub(crate) reason: String,
}

impl RefusedResource {
    pub(crate) fn new(kind: ResourceType, name: String, rejected: &RejectedVersion) -> RefusedResource {
        let mut reason = rejected.reason.clone();
        if reason.len() > REASON_BYTES_MAX {
            let end = (0..=REASON_BYTES_MAX).rev().find(|end| reason.is_char_boundary(*end));
            reason.truncate(end.unwrap_or(0));
            reason.push_str("...");
        }
        RefusedResource { kind, name, reason }
    }
}

/// The most that is said of a refusal to callers: the text stands in a field of a header.
const REASON_BYTES_MAX: usize = 512;

/// Whether there is a stream to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Connected {
    /// One is open.
    Yes,
    /// None is; it is being tried again.
    No,
}

impl std::fmt::Display for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Connected::Yes => "connected",
            Connected::No => "not connected",
        })
    }
}

impl Mesh {
    /// An empty mesh as a proxy at `own` sees it, and the side that fills it.
    pub(crate) fn new(clock: Clock, own: Locality) -> (Mesh, Feed) {
        let (demands, demanded) = mpsc::channel(DEMANDS_MAX);
        let shared = Arc::new(Shared {
            clock,
            snapshot: ArcSwap::default(),
            states: States::new(clock, own),
            published: watch::Sender::new(0),
            demands,
            asked: Mutex::default(),
            link: watch::Sender::new(LinkStatus::default()),
        });
        let mesh = Mesh {
            shared: Arc::clone(&shared),
        };
        (mesh, Feed { shared, demanded })
    }

    /// The snapshot in force. A request takes it once and keeps what it found in it.
    pub(crate) fn current(&self) -> Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    /// The service of a name, at once if it is known; else it is asked for and waited for.
    ///
    /// # Errors
    /// See [`Unavailable`]; the wait is at most `wait`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind but the question, whose answer serves the next request.
    pub(crate) async fn service(&self, name: &ListenerName, wait: Duration) -> Result<Arc<Service>, Unavailable> {
        if let Some(known) = self.known(name) {
            return known;
        }
        let began = self.shared.clock.now();
        // Before the question, or an answer that comes in between would be missed.
        let mut published = self.shared.published.subscribe();
        let no_answer = || Unavailable::NoAnswer {
            waited: self.shared.clock.now().saturating_since(began),
            connected: self.connected(),
        };
        self.demand(name).map_err(|not_asked| match not_asked {
            NotAsked::Full => Unavailable::Overloaded,
            NotAsked::Closed => no_answer(),
        })?;
        let answered = async {
            loop {
                if let Some(known) = self.known(name) {
                    return Some(known);
                }
                published.changed().await.ok()?;
            }
        };
        match tokio::time::timeout(wait, answered).await {
            Ok(Some(known)) => known,
            Ok(None) | Err(_) => Err(no_answer()),
        }
    }

    /// Whether there is a stream to the control plane.
    pub(crate) fn connected(&self) -> Connected {
        self.shared.link.borrow().connected
    }

    /// The clock that everything in the mesh reads.
    pub(crate) fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// Everything in force and how each subscription stands, for the admin port.
    pub(crate) fn status(&self) -> Status {
        Status::new(&self.current(), self.link_status(), self.shared.clock.now())
    }

    /// What the link to the control plane is doing now.
    pub(crate) fn link_status(&self) -> LinkStatus {
        self.shared.link.borrow().clone()
    }

    /// A receiver that is woken whenever the link to the control plane changes, or what is subscribed to over it.
    pub(crate) fn link(&self) -> watch::Receiver<LinkStatus> {
        self.shared.link.subscribe()
    }

    /// A receiver that is woken whenever another snapshot comes into force.
    pub(crate) fn published(&self) -> watch::Receiver<u64> {
        self.shared.published.subscribe()
    }

    /// Returns once somebody has said how our inbound ports are entered.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn entry_told(&self) {
        let mut published = self.published();
        while self.current().mutual_tls().is_none() {
            if published.changed().await.is_err() {
                // The link has ended, and with it the proxy: nothing more comes.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether there is a service of this name, whichever ports it has; asked for and waited for as [`Mesh::service`]
    /// does.
    ///
    /// # Errors
    /// When nobody says.
    ///
    /// # Cancel safety
    /// As [`Mesh::service`].
    pub(crate) async fn has_service(&self, name: &ServiceName, wait: Duration) -> Result<bool, Unavailable> {
        let any_port = ListenerName {
            service: name.clone(),
            port: None,
        };
        match self.service(&any_port, wait).await {
            Ok(_) | Err(Unavailable::Refused(_)) => Ok(true),
            Err(Unavailable::NoSuchService) => Ok(false),
            Err(why @ (Unavailable::NoAnswer { .. } | Unavailable::Overloaded)) => Err(why),
        }
    }

    /// What becomes of names that are none of the mesh's; waited for until somebody says.
    ///
    /// # Errors
    /// When nobody says within `wait`.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn egress(&self, wait: Duration) -> Result<Egress, Unavailable> {
        let mut published = self.published();
        let told = async {
            loop {
                if let Some(told) = self.current().egress() {
                    return Some(told);
                }
                published.changed().await.ok()?;
            }
        };
        let told = tokio::time::timeout(wait, told).await;
        told.ok().flatten().ok_or_else(|| Unavailable::NoAnswer {
            waited: wait,
            connected: self.connected(),
        })
    }

    /// What the current snapshot says; `None`: it has to be asked for.
    fn known(&self, name: &ListenerName) -> Option<Result<Arc<Service>, Unavailable>> {
        let snapshot = self.current();
        let now = self.shared.clock.now();
        match snapshot.service(name)? {
            Lookup::Service(service) => {
                service.touch(now);
                Some(Ok(Arc::clone(service)))
            }
            Lookup::NoSuchService { until } if now < *until => Some(Err(Unavailable::NoSuchService)),
            Lookup::NoSuchService { .. } => None,
            Lookup::Refused(refused) => Some(Err(Unavailable::Refused(Arc::clone(refused)))),
        }
    }

    fn demand(&self, name: &ListenerName) -> Result<(), NotAsked> {
        let mut asked = self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.contains(name) {
            return Ok(());
        }
        self.shared
            .demands
            .try_send(name.clone())
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => NotAsked::Full,
                mpsc::error::TrySendError::Closed(_) => NotAsked::Closed,
            })?;
        asked.insert(name.clone());
        Ok(())
    }
}

/// Why a question could not be put.
enum NotAsked {
    Full,
    Closed,
}

/// What the link to the control plane is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LinkStatus {
    /// Whether a stream is open.
    pub(crate) connected: Connected,
    /// Everything subscribed to, sorted by kind and name.
    pub(crate) resources: Vec<ResourceStatus>,
    /// How much was skipped since the start of what the control plane sent.
    pub(crate) skipped_total: u64,
}

impl Default for LinkStatus {
    fn default() -> Self {
        LinkStatus {
            connected: Connected::No,
            resources: Vec::new(),
            skipped_total: 0,
        }
    }
}

/// One resource subscribed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ResourceStatus {
    /// What it is, for people.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// How it stands.
    pub(crate) state: ResourceState,
    /// The version in force.
    pub(crate) version: Option<String>,
    /// The version that was accepted and waits for the clusters it names.
    pub(crate) waiting: Option<String>,
    /// The last version that was refused, if none was accepted since.
    pub(crate) rejected: Option<RejectedVersion>,
    /// What was skipped of the last version that came, by its place in the message; the first of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) skipped: Vec<String>,
}

/// How a resource stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResourceState {
    /// Nothing acceptable was answered yet.
    Unanswered,
    /// It does not exist.
    Absent,
    /// A version is in force.
    InForce,
}

/// A version that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RejectedVersion {
    /// Which.
    pub(crate) version: String,
    /// Why.
    pub(crate) reason: String,
}

/// The side that fills a mesh; there is one.
#[derive(Debug)]
pub(crate) struct Feed {
    shared: Arc<Shared>,
    demanded: mpsc::Receiver<ListenerName>,
}

impl Feed {
    /// The next names that requests wait for, all that there are; never none.
    ///
    /// # Cancel safety
    /// No name is lost.
    pub(crate) async fn demands(&mut self) -> Vec<ListenerName> {
        let mut names = Vec::new();
        // The queue is never closed: its sender lives as long as this.
        self.demanded.recv_many(&mut names, DEMANDS_MAX).await;
        let mut asked = self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &names {
            asked.remove(name);
        }
        names
    }

    /// The clock that everything in the mesh reads.
    pub(crate) fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// States that outlive snapshots.
    pub(crate) fn states(&self) -> &States {
        &self.shared.states
    }

    /// The snapshot in force.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Puts a snapshot in force and wakes all who wait for one.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let version = snapshot.version;
        self.shared.snapshot.store(Arc::new(snapshot));
        self.shared.published.send_replace(version);
    }

    /// Says what the link is doing.
    pub(crate) fn report(&self, status: LinkStatus) {
        self.shared.link.send_replace(status);
    }
}

#[cfg(test)]
mod tests {
    use weir_policy::time::Time;

    use super::*;
    use crate::snapshot::{self, CompiledRoutes, LastUsed, Parts, ServicePart};
    use crate::xds::scenario::listener_name;

    const WAIT: Duration = Duration::from_secs(3);

    fn service(short: &str) -> ServicePart {
        let routes = CompiledRoutes::compile(&[]).expect("nothing is wrong with nothing");
        ServicePart {
            name: listener_name(short),
            routes_name: None,
            routes: routes.into(),
            last_used: LastUsed::new(Time::ZERO).into(),
        }
    }

    fn publish(feed: &Feed, parts: Parts) {
        feed.publish(snapshot::compile(&feed.current(), feed.states(), parts));
    }

    fn with(short: &str) -> Parts {
        Parts {
            services: vec![service(short)],
            ..Parts::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_there_at_once_and_noted_as_used() {
        let (mesh, feed) = Mesh::new(Clock::start(), Locality::default());
        let part = service("a:80");
        let last_used = Arc::clone(&part.last_used);
        let services = vec![part];
        publish(
            &feed,
            Parts {
                services,
                ..Parts::default()
            },
        );
        tokio::time::advance(Duration::from_secs(7)).await;
        let found = mesh
            .service(&listener_name("a:80"), Duration::ZERO)
            .await
            .expect("is known");
        assert_eq!(found.name, listener_name("a:80"));
        assert_eq!(last_used.at(), Time::ZERO + Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_of_names_outside_is_waited_for() {
        let (mesh, feed) = Mesh::new(Clock::start(), Locality::default());
        assert!(matches!(mesh.egress(WAIT).await, Err(Unavailable::NoAnswer { .. })));
        let telling = async {
            publish(&feed, Parts::default());
            tokio::time::sleep(Duration::from_secs(2)).await;
            let egress = Some(Egress::Passthrough);
            publish(
                &feed,
                Parts {
                    egress,
                    ..Parts::default()
                },
            );
        };
        let (told, ()) = tokio::join!(mesh.egress(WAIT), telling);
        assert_eq!(told, Ok(Egress::Passthrough));
        assert_eq!(mesh.egress(Duration::ZERO).await, Ok(Egress::Passthrough));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unknown_is_asked_for_once_and_waited_for() {
        let (mesh, mut feed) = Mesh::new(Clock::start(), Locality::default());
        let a = listener_name("a:80");
        let waiting = futures_util::future::join_all((0..1000).map(|_| mesh.service(&a, WAIT)));
        let answering = async {
            assert_eq!(feed.demands().await, [listener_name("a:80")]);
            // An answer to another question wakes them, and they wait on.
            publish(&feed, with("b:80"));
            tokio::time::sleep(Duration::from_secs(2)).await;
            publish(&feed, with("a:80"));
        };
        let (found, ()) = tokio::join!(waiting, answering);
        assert!(found.iter().all(Result::is_ok));
        assert!(mesh.shared.demands.capacity() == DEMANDS_MAX, "nothing more was asked");
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_said_after_the_wait_with_whether_there_was_a_stream() {
        let (mesh, mut feed) = Mesh::new(Clock::start(), Locality::default());
        let a = listener_name("a:80");
        let lost = Unavailable::NoAnswer {
            waited: WAIT,
            connected: Connected::No,
        };
        assert_eq!(mesh.service(&a, WAIT).await.err(), Some(lost));
        feed.report(LinkStatus {
            connected: Connected::Yes,
            ..LinkStatus::default()
        });
        let slow = Unavailable::NoAnswer {
            waited: WAIT,
            connected: Connected::Yes,
        };
        assert_eq!(mesh.service(&a, WAIT).await.err(), Some(slow));
        assert_eq!(feed.demands().await, [listener_name("a:80")], "still asked once");
        drop(feed);
        let ended = Unavailable::NoAnswer {
            waited: Duration::ZERO,
            connected: Connected::Yes,
        };
        assert_eq!(
            mesh.service(&a, WAIT).await.err(),
            Some(ended),
            "without a link there is nothing to wait for"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_believed_until_its_time_and_then_asked_again() {
        let (mesh, mut feed) = Mesh::new(Clock::start(), Locality::default());
        let a = listener_name("a:80");
        let absent = |until| Parts {
            absent: vec![(listener_name("a:80"), until)],
            ..Parts::default()
        };
        publish(&feed, absent(Time::ZERO + Duration::from_secs(1)));
        assert_eq!(mesh.service(&a, WAIT).await.err(), Some(Unavailable::NoSuchService));
        tokio::time::advance(Duration::from_secs(1)).await;
        let answering = async {
            assert_eq!(feed.demands().await, [listener_name("a:80")]);
            publish(&feed, absent(Time::ZERO + Duration::from_secs(2)));
        };
        let (refused, ()) = tokio::join!(mesh.service(&a, WAIT), answering);
        assert_eq!(refused.err(), Some(Unavailable::NoSuchService));
    }

    #[tokio::test(start_paused = true)]
    async fn what_this_proxy_refused_is_told_at_once_and_shortly() {
        let (mesh, feed) = Mesh::new(Clock::start(), Locality::default());
        let a = listener_name("a:80");
        let rejected = RejectedVersion {
            version: "1".to_owned(),
            reason: "字".repeat(REASON_BYTES_MAX),
        };
        let refused = RefusedResource::new(ResourceType::Listener, a.to_string(), &rejected);
        let cut = refused.reason.strip_suffix("...").expect("it is cut, and says so");
        assert!(cut.len() <= REASON_BYTES_MAX && cut.len() + "字".len() > REASON_BYTES_MAX);
        publish(
            &feed,
            Parts {
                refused: vec![(a.clone(), refused.clone())],
                ..Parts::default()
            },
        );
        let told = mesh.service(&a, Duration::ZERO).await;
        assert_eq!(told.err(), Some(Unavailable::Refused(Arc::new(refused))));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_names_at_once_are_refused_and_a_wait_can_be_left() {
        let (mesh, mut feed) = Mesh::new(Clock::start(), Locality::default());
        let names: Vec<_> = (0..=DEMANDS_MAX)
            .map(|index| listener_name(&format!("s{index}:80")))
            .collect();
        let (last, others) = names.split_last().expect("some");
        for name in others {
            // Left before there is an answer.
            let left = tokio::time::timeout(Duration::ZERO, mesh.service(name, WAIT)).await;
            assert!(left.is_err());
        }
        assert_eq!(mesh.service(last, WAIT).await.err(), Some(Unavailable::Overloaded));
        assert_eq!(feed.demands().await.len(), DEMANDS_MAX);
        let answering = async {
            assert_eq!(feed.demands().await, std::slice::from_ref(last));
            publish(
                &feed,
                Parts {
                    services: vec![service(&format!("s{DEMANDS_MAX}:80"))],
                    ..Parts::default()
                },
            );
        };
        let (found, ()) = tokio::join!(mesh.service(last, WAIT), answering);
        assert!(found.is_ok(), "and there is room again");
    }
}
