//! Where configuration is in force: for people, as views of the xDS server's model, and in short for statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::{Instant, SystemTime};

use weir_api::Key;
use weir_api::views::{ConfigType, Pending, Proxy, ProxyList, ProxyPort, ProxyView, Rejected, Rejection, ViewState};
use weir_api::workload::{WorkloadPort, WorkloadSpec};
use weir_policy::mutual_tls::Mode;
use weir_policy::names::{ServiceName, WorkloadName};
use weir_xds::ResourceType;

use crate::compile::wanted::{Services, Wanted};
use crate::store::Revision;
use crate::workloads::registry::StreamId;
use crate::xds::model::{Model, Resource, Stream};
use crate::xds::stream::{Standing, Subscription};

/// Every proxy: those with a stream, and those that have none and whose workload is known.
pub(crate) fn list(model: &Model, now: Instant) -> ProxyList {
    let connected = model.newest_streams().into_iter();
    let connected = connected.map(|(name, (_, stream))| (name.to_string(), proxy(model, stream, now)));
    let mut all: BTreeMap<String, Proxy> = connected.collect();
    for (name, workload) in model.workloads() {
        let proxy = all.entry(name.to_string()).or_insert_with(|| Proxy {
            name: name.to_string(),
            version: workload.version.clone(),
            address: workload.address.to_string(),
            ..Proxy::default()
        });
        proxy.account = workload.account.clone();
        proxy.ports = ports(model, &name, workload);
    }
    ProxyList {
        items: all.into_values().collect(),
    }
}

fn ports(model: &Model, name: &WorkloadName, workload: &WorkloadSpec) -> Vec<ProxyPort> {
    let held = model.entered(name);
    let entered = |port: &WorkloadPort| match (port.edge, held.at(port.app_port)) {
        (true, _) => "Edge",
        (false, Mode::Strict) => "Strict",
        (false, Mode::Permissive) => "Permissive",
        (false, Mode::Off) => "Off",
    };
    let ports = workload.ports.iter().map(|port| ProxyPort {
        app_port: port.app_port.get(),
        entered: entered(port).to_owned(),
    });
    let mut ports: Vec<ProxyPort> = ports.collect();
    ports.sort_by_key(|port| port.app_port);
    ports
}

/// Where an object of this generation, last changed at `revision`, is in force. Concerned are proxies that subscribe to
/// a resource in which it has a part, or had one until a change that is not in force yet. As long as that change is not
/// taken in, nobody can say that it is in force.
pub(crate) fn of_object(model: &Model, key: &Key, generation: i64, revision: Revision) -> ProxyView {
    let taken_in = model.seen() >= revision;
    let mut view = ProxyView {
        object: key.to_string(),
        generation,
        state: ViewState::NoSubscribers,
        subscribers: 0,
        in_force: Vec::new(),
        pending: Vec::new(),
        rejected: Vec::new(),
    };
    for (name, (_, stream)) in model.newest_streams() {
        let Some(standing) = standing(model, stream, key) else {
            continue;
        };
        view.subscribers += 1;
        match standing {
            Standing::InForce if taken_in => view.in_force.push(name.to_string()),
            Standing::InForce | Standing::Pending => view.pending.push(name.to_string()),
            Standing::Rejected(_) if !taken_in => view.pending.push(name.to_string()),
            Standing::Rejected(reason) => view.rejected.push(Rejection {
                proxy: name.to_string(),
                reason,
            }),
        }
    }
    view.state = if !view.rejected.is_empty() {
        ViewState::Rejected
    } else if !view.pending.is_empty() || !taken_in {
        ViewState::Progressing
    } else if view.in_force.is_empty() {
        ViewState::NoSubscribers
    } else {
        ViewState::InForce
    };
    view
}

/// A service, or a port of it, that an object is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attachment {
    /// The service.
    pub(crate) service: ServiceName,
    /// The port; `None`: all of them.
    pub(crate) port: Option<NonZeroU16>,
}

/// Whom an object may concern, and of whom something is said together, since each proxy counts once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Extent {
    /// The callers of what it is attached to.
    Callers(BTreeSet<Attachment>),
    /// The proxies of the workloads of a namespace.
    Workloads(String),
    /// Every proxy.
    Mesh,
}

impl FromIterator<Attachment> for Extent {
    fn from_iter<I: IntoIterator<Item = Attachment>>(attachments: I) -> Extent {
        Extent::Callers(attachments.into_iter().collect())
    }
}

impl From<Attachment> for Extent {
    fn from(attachment: Attachment) -> Extent {
        Extent::Callers([attachment].into())
    }
}

impl Attachment {
    fn covers(&self, wanted: &Wanted) -> bool {
        let port = match wanted {
            Wanted::Cluster(_, name) | Wanted::Endpoints(_, name) => Some(name.port),
            Wanted::Route(_, name) => Some(name.cluster.port),
            // A name without a port is that of whichever port it came to mean.
            Wanted::Listener(name, _) | Wanted::ApiListener { name, .. } => name.port,
            // All ports of its services in one.
            Wanted::Outbound(_) | Wanted::Settled(_) | Wanted::WorkloadPolicy(_) | Wanted::TrustRoots(..) => None,
        };
        let of_this = match wanted.services() {
            Services::One(service) => *service == self.service,
            Services::Some(services) => services.contains(&self.service),
            Services::All => true,
            Services::None => false,
        };
        of_this && (self.port.is_none() || port.is_none() || port == self.port)
    }
}

/// Where an object is in force in one extent, in numbers, and who is first to be named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// On how many proxies it is in force.
    pub(crate) in_force: usize,
    /// How many have not answered yet.
    pub(crate) pending: usize,
    /// The first of these by name, at most [`NAMED_MAX`].
    pub(crate) first_pending: Vec<String>,
    /// How many rejected it.
    pub(crate) rejected: usize,
    /// The first of these by name, at most [`NAMED_MAX`].
    pub(crate) first_rejected: Vec<Rejection>,
}

/// The most proxies that a [`Summary`] names.
pub(crate) const NAMED_MAX: usize = 3;

/// Summaries of several objects.
#[derive(Debug)]
pub(crate) struct Summaries {
    /// Up to where the store's changes are taken into account.
    pub(crate) seen: Revision,
    /// By object and extent, in the order in which they were asked for.
    pub(crate) of: Vec<Vec<Summary>>,
}

/// Where objects are in force in each of their extents. Concerned are the same proxies as in [`of_object`].
pub(crate) fn summaries(model: &Model, of: &[(Key, Vec<Extent>)]) -> Summaries {
    let newest: BTreeSet<StreamId> = model.newest_streams().values().map(|(id, _)| *id).collect();
    // Many routes of one service concern the same resources, whose subscribers are looked at once; but for those of
    // which something can't be sent, each by itself.
    let mut known: BTreeMap<(Vec<&Wanted>, Option<&Key>), Summary> = BTreeMap::new();
    let mut summary = |key, extent: &Extent| {
        // What is of several services, as an Envoy's routes are, is there once.
        let concerned: BTreeMap<&Wanted, &Resource> = match extent {
            Extent::Callers(attachments) => {
                let concerned = attachments.iter().flat_map(|attachment| {
                    let resources = model.resources_of(&attachment.service);
                    resources.filter(|(wanted, resource)| attachment.covers(wanted) && resource.concerns(key))
                });
                concerned.collect()
            }
            Extent::Workloads(namespace) => {
                let policies = model.policies_in(namespace);
                policies.filter(|(_, resource)| resource.concerns(key)).collect()
            }
            Extent::Mesh => model.all().filter(|(_, resource)| resource.concerns(key)).collect(),
        };
        let not_sent = concerned
            .values()
            .any(|resource| resource.not_sent_of(key).next().is_some());
        let concerned = concerned.into_keys().collect();
        let summary = known.entry((concerned, not_sent.then_some(key)));
        summary
            .or_insert_with_key(|(concerned, _)| summarize(model, &newest, concerned, key))
            .clone()
    };
    let of = of.iter().map(|(key, extents)| {
        let extents = extents.iter();
        extents.map(|extent| summary(key, extent)).collect()
    });
    Summaries {
        of: of.collect(),
        seen: model.seen(),
    }
}

/// How the newest streams stand with an object in some resources.
fn summarize(model: &Model, newest: &BTreeSet<StreamId>, concerned: &[&Wanted], key: &Key) -> Summary {
    let mut standings: BTreeMap<&WorkloadName, Standing> = BTreeMap::new();
    for wanted in concerned {
        let (of, name) = wanted.subscription();
        for id in model.subscribers(wanted).filter(|id| newest.contains(id)) {
            let Some(stream) = model.stream(id) else {
                continue;
            };
            if let Some(subscription) = stream.subscriptions.subscription(of, &name) {
                let worst = standings.entry(&stream.client.workload).or_insert(Standing::InForce);
                worst.worsen(stands(model.resource_of(wanted), subscription, key));
            }
        }
    }
    let mut summary = Summary::default();
    for (workload, standing) in standings {
        match standing {
            Standing::InForce => summary.in_force += 1,
            Standing::Pending => {
                summary.pending += 1;
                if summary.first_pending.len() < NAMED_MAX {
                    summary.first_pending.push(workload.to_string());
                }
            }
            Standing::Rejected(reason) => {
                summary.rejected += 1;
                if summary.first_rejected.len() < NAMED_MAX {
                    let proxy = workload.to_string();
                    summary.first_rejected.push(Rejection { proxy, reason });
                }
            }
        }
    }
    summary
}

/// How a client stands with an object in a resource. What it can't be told of the object counts as rejected: by us, in
/// its place.
fn stands(resource: Option<&Resource>, subscription: &Subscription, key: &Key) -> Standing {
    let not_sent = resource.into_iter().flat_map(|resource| resource.not_sent_of(key));
    let not_sent: Vec<&str> = not_sent.take(REASONS_MAX).collect();
    if not_sent.is_empty() {
        return subscription.standing();
    }
    Standing::Rejected(format!("not sent: {}", not_sent.join("; ")))
}

/// How a proxy stands with an object: the worst of the resources it concerns. `None`: it concerns none of them.
fn standing(model: &Model, stream: &Stream, key: &Key) -> Option<Standing> {
    let mut worst: Option<Standing> = None;
    for (of, name, subscription) in stream.subscriptions.iter() {
        let resource = model.resource(stream, of, name);
        if let Some(resource) = resource.filter(|resource| resource.concerns(key)) {
            let worst = worst.get_or_insert(Standing::InForce);
            worst.worsen(stands(Some(resource), subscription, key));
        }
    }
    worst
}

fn proxy(model: &Model, stream: &Stream, now: Instant) -> Proxy {
    let mut view = Proxy {
        name: stream.client.workload.to_string(),
        connected: true,
        connected_since: Some(timestamp(stream.since)),
        version: stream.client.version.clone(),
        address: text(stream.address),
        ..Proxy::default()
    };
    let mut in_force_until = model.seen();
    for (of, name, subscription) in stream.subscriptions.iter() {
        view.subscribed += 1;
        let config_type = config_type(of);
        let name = name.to_owned();
        if let Some(behind) = subscription.behind() {
            in_force_until = in_force_until.min(Revision(behind.revision.0.saturating_sub(1)));
        }
        let resource = model.resource(stream, of, &name);
        for (whose, what) in resource.map(Resource::not_sent).unwrap_or_default() {
            view.rejected.push(Rejected {
                config_type,
                name: name.clone(),
                reason: format!("not sent: {what}"),
                sources: vec![whose.to_string()],
            });
        }
        match subscription.standing() {
            Standing::InForce => view.in_force += 1,
            Standing::Pending => view.pending.push(Pending {
                config_type,
                name,
                seconds: subscription
                    .behind()
                    .map_or(0.0, |behind| now.saturating_duration_since(behind.time).as_secs_f64()),
            }),
            Standing::Rejected(reason) => {
                let sources = resource.map(|resource| resource.sources().map(Key::to_string));
                let sources = sources.into_iter().flatten().collect();
                view.rejected.push(Rejected {
                    config_type,
                    name,
                    reason,
                    sources,
                });
            }
        }
    }
    view.pending
        .sort_by(|a, b| (a.config_type, &a.name).cmp(&(b.config_type, &b.name)));
    view.rejected
        .sort_by(|a, b| (a.config_type, &a.name).cmp(&(b.config_type, &b.name)));
    if in_force_until > Revision(0) {
        view.revision = in_force_until.to_string();
    }
    view
}

fn config_type(of: ResourceType) -> ConfigType {
    match of {
        ResourceType::Cluster => ConfigType::Cluster,
        ResourceType::Endpoints => ConfigType::Endpoints,
        ResourceType::Listener => ConfigType::Listener,
        ResourceType::Route => ConfigType::Route,
        ResourceType::WorkloadPolicy => ConfigType::WorkloadPolicy,
        ResourceType::TrustRoots => ConfigType::TrustRoots,
    }
}

fn text(address: Option<SocketAddr>) -> String {
    address.map_or_else(String::new, |address| address.to_string())
}

/// RFC 3339 in UTC, to the millisecond.
fn timestamp(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time);
    time.map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

/// Of one object, in one text.
const REASONS_MAX: usize = 8;
