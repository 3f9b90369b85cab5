//! What references to Services lead to, of routes and of policies.

use weir_api::http_route::Reference;
use weir_api::service::ServiceSpec;
use weir_api::status::{ConditionStatus, condition};

use super::conditions::{Verdict, few};
use crate::compile;
use crate::compile::index::Index;
use crate::compile::references::{References, is_not_permitted};

/// Why nothing is sent where a reference leads.
#[derive(Debug)]
pub(super) struct Unusable {
    /// In one word, of those that the Gateway API has.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
}

/// Why one of these references can't be used; `None`: it can.
pub(super) fn unusable(references: &References<'_>, to: Reference<'_>, index: &Index) -> Option<Unusable> {
    let unusable = |reason, message| Some(Unusable { reason, message });
    if !to.kind.is_service() {
        let message = format!(
            "it is a {} named {:?}, to which nothing can be sent; a Service is right (group \"\", kind Service)",
            to.kind, to.name
        );
        return unusable("InvalidKind", message);
    }
    let key = references.key();
    let namespace = to.namespace.unwrap_or(&key.namespace);
    let shown = format!("Service {namespace}/{}", to.name);
    let cluster = references.cluster(to);
    if is_not_permitted(&cluster.service) {
        let message = format!("no ReferenceGrant in {namespace} permits {shown}");
        return unusable("RefNotPermitted", message);
    }
    match index.service(&cluster.service) {
        None => unusable("BackendNotFound", format!("there is no {shown}")),
        Some(service) if service.spec.ports.iter().all(|port| port.port != cluster.port) => {
            let held = ports(service.spec);
            let message = format!("{shown} has no port {}, only {held}", cluster.port);
            unusable("BackendNotFound", message)
        }
        Some(_) if compile::carries_tcp(&cluster, index) => {
            let message = format!("port {} of {shown} carries TCP, not HTTP", cluster.port);
            unusable("UnsupportedProtocol", message)
        }
        Some(_) => None,
    }
}

/// Not all references lead to something that can be used: the reason of the first, and all that is to be said.
pub(super) fn unresolved(reason: &'static str, message: String) -> Verdict {
    Verdict::new(condition::RESOLVED_REFS, ConditionStatus::False, reason, message)
}

/// All do.
pub(super) fn resolved(message: &str) -> Verdict {
    Verdict::new(condition::RESOLVED_REFS, ConditionStatus::True, "ResolvedRefs", message)
}

/// What becomes of some references, each with its place: `no copies are sent: mirror[0]: there is no Service a/b`.
pub(super) fn said(effect: &str, problems: &[String]) -> String {
    format!("{effect}: {}", few(problems, "; ", problems.len()))
}

/// The ports of a service, for people.
pub(super) fn ports(service: &ServiceSpec) -> String {
    let ports = service.ports.iter().map(|port| match &port.name {
        Some(name) => format!("{} ({name})", port.port),
        None => port.port.to_string(),
    });
    let ports: Vec<String> = ports.collect();
    few(&ports, ", ", ports.len())
}

/// What becomes of the requests that a mirror can't take a copy of.
pub(super) const NO_COPIES: &str = "no copies are sent";
