//! What is known of the resources of one type: subscribed names, accepted versions, versions that wait to come into
//! force, and responses that are not acknowledged yet. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::Arc;

use weir_policy::names::NameError;
use weir_policy::route::CompileError;
use weir_policy::time::Time;
use weir_xds::envoy::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Status};
use weir_xds::{Rejection, ResourceType};

use crate::identity::roots::RootsError;
use crate::mesh::{RejectedVersion, ResourceState, ResourceStatus};

/// How many responses of one type may be unacknowledged; an older one is then never acknowledged. It takes a control
/// plane that changes a route this often within the time that its clusters get.
const UNACKNOWLEDGED_MAX: usize = 1024;

/// How long a NACK's text may get, in bytes; what is over is cut.
const REASON_MAX: usize = 4096;

/// `INVALID_ARGUMENT` of `google.rpc.Code`.
const INVALID_ARGUMENT: i32 = 3;

/// Why a resource was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It could not be read.
    #[error(transparent)]
    Wire(#[from] Rejection),
    /// Its routes could not be compiled.
    #[error("{}", Listed(.0))]
    Routes(Vec<CompileError>),
    /// By its certificates nobody could be believed.
    #[error("{0}")]
    Certificates(String),
    /// Its name is none of its type.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It was handed out under another name.
    #[error("is named {held:?} inside")]
    OtherName {
        /// The name inside.
        held: String,
    },
    /// It asks for lines in the access log.
    #[error(
        "telemetry.access_log asks for lines and there is nowhere to write them, since this proxy runs with --access-log \
         off; start it with stdout or a file, or ask for no lines"
    )]
    NoAccessLog,
    /// Its roots are none.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// There is nothing in it.
    #[error("holds no resource")]
    Empty,
    /// Something is set around it that has no effect here.
    #[error("{field} is set, and has no effect here")]
    WithoutEffect {
        /// What.
        field: &'static str,
    },
}

struct Listed<'a>(&'a [CompileError]);

impl Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// An accepted version of a resource.
#[derive(Debug)]
pub(crate) struct Held<T> {
    /// As it is used.
    pub(crate) value: T,
    /// As the control plane names the version.
    pub(crate) version: String,
    /// As it came, to be kept on disk.
    pub(crate) resource: Arc<Any>,
}

impl<T> Held<T> {
    pub(crate) fn new(value: T, version: String, resource: Arc<Any>) -> Self {
        Held {
            value,
            version,
            resource,
        }
    }
}

/// What was answered about a name.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    /// Nothing acceptable yet.
    None,
    /// It does not exist.
    Absent,
    /// This is in force.
    Held(Held<T>),
}

impl<T> Answer<T> {
    /// Whether there is one, be it that the thing does not exist.
    pub(crate) fn is_there(&self) -> bool {
        match self {
            Answer::None => false,
            Answer::Absent | Answer::Held(_) => true,
        }
    }

    /// What is in force.
    pub(crate) fn value(&self) -> Option<&T> {
        match self {
            Answer::None | Answer::Absent => None,
            Answer::Held(held) => Some(&held.value),
        }
    }
}

/// An accepted version that waits for what it refers to.
#[derive(Debug)]
pub(crate) struct Candidate<T> {
    /// The version.
    pub(crate) held: Held<T>,
    /// When it waits no longer.
    pub(crate) deadline: Time,
}

/// What is known of one name.
#[derive(Debug)]
pub(crate) struct Tracked<T> {
    asked: Asked,
    /// What is in force.
    pub(crate) answer: Answer<T>,
    /// What is to come into force.
    pub(crate) candidate: Option<Candidate<T>>,
    /// The latest version, if it was refused.
    pub(crate) rejected: Option<RejectedVersion>,
}

impl<T> Tracked<T> {
    fn new() -> Self {
        Tracked {
            asked: Asked::No,
            answer: Answer::None,
            candidate: None,
            rejected: None,
        }
    }

    /// Puts the candidate in force.
    pub(crate) fn promote(&mut self) {
        if let Some(candidate) = self.candidate.take() {
            self.answer = Answer::Held(candidate.held);
        }
    }

    /// Why nothing is in force or to come, if that is because what came was refused.
    pub(crate) fn first_refused(&self) -> Option<&RejectedVersion> {
        match (&self.answer, &self.candidate) {
            (Answer::None, None) => self.rejected.as_ref(),
            (Answer::None, Some(_)) | (Answer::Absent | Answer::Held(_), _) => None,
        }
    }

    /// The values in force and to come.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        let candidate = self.candidate.as_ref().map(|candidate| &candidate.held.value);
        self.answer.value().into_iter().chain(candidate)
    }
}

/// Whether a name is subscribed to on the stream that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Yes,
    No,
}

/// Whether the first request of a type went out on the stream that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Introduced {
    Yes,
    No,
}

/// When an accepted version comes into force.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Admission {
    /// At once.
    AtOnce,
    /// When what it refers to is there, or at this time.
    WhenReady(Time),
}

/// The resources of one type.
#[derive(Debug)]
pub(crate) struct Table<K, T> {
    kind: ResourceType,
    /// By name; exactly those that are subscribed to or about to be.
    pub(crate) entries: BTreeMap<K, Tracked<T>>,
    released: BTreeSet<K>,
    introduced: Introduced,
    unacknowledged: Vec<(String, Vec<K>)>,
}

impl<K, T> Table<K, T>
where
    K: Clone + Ord + Display + FromStr<Err = NameError>,
{
    pub(crate) fn new(kind: ResourceType) -> Self {
        Table {
            kind,
            entries: BTreeMap::new(),
            released: BTreeSet::new(),
            introduced: Introduced::No,
            unacknowledged: Vec::new(),
        }
    }

    /// Subscribes to what is wanted and lets go of everything else. Returns whether anything in force was let go.
    pub(crate) fn follow(&mut self, wanted: &BTreeSet<K>) -> bool {
        let before = self.entries.len();
        let released = &mut self.released;
        self.entries.retain(|name, tracked| {
            let keep = wanted.contains(name);
            if !keep && tracked.asked == Asked::Yes {
                released.insert(name.clone());
            }
            keep
        });
        let changed = self.entries.len() != before;
        for name in wanted {
            if !self.entries.contains_key(name) {
                self.released.remove(name);
                self.entries.insert(name.clone(), Tracked::new());
            }
        }
        changed
    }

    /// Forgets the answer to a name and asks again.
    pub(crate) fn ask_again(&mut self, name: &K) {
        if let Some(tracked) = self.entries.get_mut(name) {
            tracked.answer = Answer::None;
            tracked.asked = Asked::No;
        }
    }

    /// Puts in force what was in force in an earlier life of this process.
    pub(crate) fn restore(&mut self, name: K, held: Held<T>) {
        let mut tracked = Tracked::new();
        tracked.answer = Answer::Held(held);
        self.entries.insert(name, tracked);
    }

    /// The stream is gone. What was accepted and not yet in force is dropped: it was never acknowledged, so it comes
    /// again, and without a control plane its clusters would not come.
    pub(crate) fn close(&mut self) {
        self.introduced = Introduced::No;
        self.released.clear();
        self.unacknowledged.clear();
        for tracked in self.entries.values_mut() {
            tracked.asked = Asked::No;
            // What was refused beside it comes again as well: nothing is known of the name.
            if tracked.candidate.take().is_some() {
                tracked.rejected = None;
            }
        }
    }

    /// Takes a response of this type. Resources nobody here wants (let go while they were under way) are skipped;
    /// good resources beside bad ones are taken (gRFC A46, "xDS NACK semantics improvement").
    ///
    /// Returns the NACK if any resource was refused. Else the response is acknowledged by [`Table::acknowledge`], once
    /// all of it is in force.
    pub(crate) fn receive(
        &mut self,
        response: DeltaDiscoveryResponse,
        admission: Admission,
        accept: impl Fn(&K, &Any) -> Result<T, Refusal>,
    ) -> Received {
        let mut changed = false;
        let mut refused = Vec::new();
        let mut waiting = Vec::new();
        for resource in response.resources {
            let Ok(name) = resource.name.parse::<K>() else { continue };
            let Some(tracked) = self.entries.get_mut(&name) else {
                continue;
            };
            let version = resource.version.clone();
            let was_refused = tracked.first_refused().is_some();
            match take(tracked, &name, resource, admission, &accept) {
                Ok(Taken::Unchanged) => {}
                Ok(Taken::InForce) => changed = true,
                Ok(Taken::Waits) => {
                    // Who asks waits again.
                    changed |= was_refused;
                    waiting.push(name);
                }
                Err(refusal) => {
                    // A line for each, whatever is quoted in it.
                    let reason = refusal.to_string().replace('\n', " ");
                    refused.push(format!("{name}: {reason}"));
                    tracked.rejected = Some(RejectedVersion { version, reason });
                    // Who waits for the first version is told.
                    changed |= tracked.first_refused().is_some();
                }
            }
        }
        for name in response.removed_resources {
            let Ok(name) = name.parse::<K>() else { continue };
            let Some(tracked) = self.entries.get_mut(&name) else {
                continue;
            };
            tracked.answer = Answer::Absent;
            tracked.candidate = None;
            tracked.rejected = None;
            changed = true;
        }
        for (field, empty) in [
            ("removed_resource_names", response.removed_resource_names.is_empty()),
            ("resource_errors", response.resource_errors.is_empty()),
        ] {
            if !empty {
                refused.push(Refusal::WithoutEffect { field }.to_string());
            }
        }
        if refused.is_empty() {
            if self.unacknowledged.len() >= UNACKNOWLEDGED_MAX {
                self.unacknowledged.remove(0);
            }
            self.unacknowledged.push((response.nonce, waiting));
            return Received { changed, nack: None };
        }
        let nack = nack(self.kind.url(), response.nonce, refused.join("\n"));
        Received {
            changed,
            nack: Some(nack),
        }
    }

    /// The ACKs of responses of which all is in force now. A version that was overtaken by a newer one before it came
    /// into force counts as in force when the newer one is.
    pub(crate) fn acknowledge(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut acknowledged = Vec::new();
        let entries = &self.entries;
        let url = self.kind.url();
        self.unacknowledged.retain_mut(|(nonce, waiting)| {
            waiting.retain(|name| entries.get(name).is_some_and(|tracked| tracked.candidate.is_some()));
            if waiting.is_empty() {
                acknowledged.push(DeltaDiscoveryRequest {
                    type_url: url.to_owned(),
                    response_nonce: std::mem::take(nonce),
                    ..DeltaDiscoveryRequest::default()
                });
            }
            !waiting.is_empty()
        });
        acknowledged
    }

    /// The request that makes the subscription on the stream that is open what it should be; `None`: it is. The first
    /// one on a stream names the versions in force (xDS protocol, "Incremental xDS", initial_resource_versions). None
    /// is sent without a name: it would be a wildcard subscription.
    pub(crate) fn request(&mut self) -> Option<DeltaDiscoveryRequest> {
        let mut request = DeltaDiscoveryRequest {
            type_url: self.kind.url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        for (name, tracked) in &mut self.entries {
            if tracked.asked == Asked::Yes {
                continue;
            }
            tracked.asked = Asked::Yes;
            request.resource_names_subscribe.push(name.to_string());
            if let (Introduced::No, Answer::Held(held)) = (self.introduced, &tracked.answer) {
                let versions = &mut request.initial_resource_versions;
                versions.insert(name.to_string(), held.version.clone());
            }
        }
        let released = std::mem::take(&mut self.released);
        request.resource_names_unsubscribe = released.iter().map(ToString::to_string).collect();
        if request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty() {
            return None;
        }
        self.introduced = Introduced::Yes;
        Some(request)
    }

    /// How each name stands, sorted.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = ResourceStatus> {
        self.entries.iter().map(|(name, tracked)| {
            let (state, version) = match &tracked.answer {
                Answer::None => (ResourceState::Unanswered, None),
                Answer::Absent => (ResourceState::Absent, None),
                Answer::Held(held) => (ResourceState::InForce, Some(held.version.clone())),
            };
            let candidate = tracked.candidate.as_ref();
            ResourceStatus {
                kind: self.kind.to_string(),
                name: name.to_string(),
                state,
                version,
                waiting: candidate.map(|candidate| candidate.held.version.clone()),
                rejected: tracked.rejected.clone(),
                skipped: Vec::new(),
            }
        })
    }

    /// Everything in force, sorted by name.
    pub(crate) fn in_force(&self) -> impl Iterator<Item = (&K, &Held<T>)> {
        self.entries.iter().filter_map(|(name, tracked)| match &tracked.answer {
            Answer::None | Answer::Absent => None,
            Answer::Held(held) => Some((name, held)),
        })
    }
}

/// What came of a response.
#[derive(Debug)]
pub(crate) struct Received {
    /// Whether anything changed that is in force, or that nothing is in force for.
    pub(crate) changed: bool,
    /// The answer, if something was refused.
    pub(crate) nack: Option<DeltaDiscoveryRequest>,
}

/// A NACK.
pub(crate) fn nack(type_url: &str, nonce: String, mut reason: String) -> DeltaDiscoveryRequest {
    if reason.len() > REASON_MAX {
        let end = (0..=REASON_MAX).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or(0));
    }
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        response_nonce: nonce,
        error_detail: Some(Status {
            code: INVALID_ARGUMENT,
            message: reason,
            details: Vec::new(),
        }),
        ..DeltaDiscoveryRequest::default()
    }
}

enum Taken {
    Unchanged,
    InForce,
    Waits,
}

fn take<K, T>(
    tracked: &mut Tracked<T>,
    name: &K,
    resource: Resource,
    admission: Admission,
    accept: impl Fn(&K, &Any) -> Result<T, Refusal>,
) -> Result<Taken, Refusal> {
    let Resource {
        name: _,
        resource_name,
        aliases,
        version,
        resource,
        ttl,
        cache_control,
        metadata: _, // For people and tools, by its definition.
    } = resource;
    for (field, unset) in [
        ("resource_name", resource_name.is_none()),
        ("aliases", aliases.is_empty()),
        ("ttl", ttl.is_none()),
        ("cache_control", cache_control.is_none()),
    ] {
        if !unset {
            return Err(Refusal::WithoutEffect { field });
        }
    }
    let resource = resource.ok_or(Refusal::Empty)?;
    if let Answer::Held(held) = &tracked.answer
        && held.version == version
        && *held.resource == resource
    {
        tracked.candidate = None;
        tracked.rejected = None;
        return Ok(Taken::Unchanged);
    }
    let held = Held {
        value: accept(name, &resource)?,
        version,
        resource: Arc::new(resource),
    };
    tracked.rejected = None;
    match admission {
        Admission::AtOnce => {
            tracked.answer = Answer::Held(held);
            Ok(Taken::InForce)
        }
        Admission::WhenReady(deadline) => {
            // A version that overtakes another gets no more time, or a route that changes often would never change.
            let before = tracked.candidate.take().map(|candidate| candidate.deadline);
            let deadline = before.map_or(deadline, |before| before.min(deadline));
            tracked.candidate = Some(Candidate { held, deadline });
            Ok(Taken::Waits)
        }
    }
}
