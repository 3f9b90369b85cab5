//! The status of routes: for each parent, whether it takes the route, the backends resolve, and the route is in force.

use std::collections::BTreeMap;

use weir_api::http_route::ParentRef;
use weir_api::status::{CONTROLLER_NAME, ConditionStatus, ParentReference, RouteParentStatus, RouteStatus, condition};
use weir_api::{FieldError, Object, RouteSpec};
use weir_policy::model::AppProtocol;
use weir_policy::names::{ClusterName, Consumers, Label, RouteName};

use super::conditions::{Observation, Verdict, conditions, few, quoted};
use super::effect::{self, Unreachable};
use super::references::{self, Unusable, ports};
use super::{Standings, in_force};
use crate::compile;
use crate::compile::index::{Index, service_name};
use crate::compile::references::References;
use crate::compile::routes;
use crate::proxies::Attachment;

/// What is known of whole services, kept while many routes of one are looked at.
#[derive(Debug, Default)]
pub(super) struct Known {
    unreachable: BTreeMap<(Attachment, Consumers), Unreachable>,
}

/// Where a parent's callers are; `None`: it can be no Service, or has no port of that name.
pub(super) fn attachment(object: &Object, parent: &ParentRef, index: &Index) -> Option<Attachment> {
    let namespace = parent.namespace.as_deref().unwrap_or(&object.metadata.namespace);
    let service = service_name(namespace, &parent.name)?;
    let port = match &parent.section_name {
        None => parent.port,
        Some(_) => {
            let ports = &index.service(&service)?.spec.ports;
            Some(ports.iter().find(|port| routes::is_for(parent, port))?.port)
        }
    };
    Some(Attachment { service, port })
}

/// What is to be said of a route.
pub(super) fn status(
    object: &Object,
    spec: RouteSpec<'_>,
    index: &Index,
    standings: &Standings,
    known: &mut Known,
    now: &str,
) -> RouteStatus {
    let before: RouteStatus = super::read(object);
    let at = Observation {
        generation: object.metadata.generation,
        now,
    };
    let usable = compile::check(object);
    let resolved = resolved(object, spec, index);
    let parents = spec.parent_refs().iter().map(|parent| {
        let parent_ref = ParentReference::from(parent);
        let attachment = attachment(object, parent, index);
        let accepted = accepted(object, parent, index, &usable);
        let mut verdicts = vec![accepted, resolved.clone()];
        match &attachment {
            Some(attachment) if verdicts[0].is_true() => {
                verdicts.push(in_force::verdict(&standings.at(&attachment.clone().into())));
                let unreachable = known.unreachable(attachment, consumers(object, attachment), index);
                verdicts.extend(effect::verdict(&object.key().to_string(), spec, unreachable));
            }
            Some(_) | None => verdicts.push(in_force::not_accepted()),
        }
        let held = before.parents.iter().find(|held| held.parent_ref == parent_ref);
        let held = held.map_or(&[][..], |held| &held.conditions);
        RouteParentStatus {
            conditions: conditions(verdicts, held, at),
            parent_ref,
            controller_name: CONTROLLER_NAME.to_owned(),
        }
    });
    RouteStatus {
        parents: parents.collect(),
    }
}

/// Whether a parent's callers go by the route.
fn accepted(object: &Object, parent: &ParentRef, index: &Index, usable: &Result<(), Vec<FieldError>>) -> Verdict {
    let not = |reason, message: String| Verdict::new(condition::ACCEPTED, ConditionStatus::False, reason, message);
    let own = object.metadata.namespace.as_str();
    let namespace = parent.namespace.as_deref().unwrap_or(own);
    let shown = format!("Service {namespace}/{}", parent.name);
    let service = service_name(namespace, &parent.name).and_then(|name| index.service(&name));
    let Some(service) = service else {
        return not("NoMatchingParent", format!("there is no {shown}"));
    };
    if !service.spec.ports.iter().any(|port| routes::is_for(parent, port)) {
        let number = parent.port.map(|port| format!(" {port}")).unwrap_or_default();
        let section = parent.section_name.as_ref();
        let section = section.map(|section| format!(" named {section:?}")).unwrap_or_default();
        let message = format!("{shown} has no port{number}{section}, only {}", ports(service.spec));
        return not("NoMatchingParent", message);
    }
    let mut taken = service.spec.ports.iter().filter(|port| routes::is_for(parent, port));
    if taken.all(|port| compile::protocol(port) == AppProtocol::Tcp) {
        let number = parent.port.map(|port| format!("port {port} of ")).unwrap_or_default();
        let message = format!(
            "{number}{shown} carries TCP, where no request is seen: callers reach it without the route; if it speaks \
             HTTP, set its appProtocol"
        );
        return not("NotAllowedByListeners", message);
    }
    if let Some(other) = routes::displaced(object, parent, index) {
        let message = format!(
            "{} is for some of the same hosts of {shown}; of two kinds of routes the older holds, of one age the first by \
             name",
            other.key()
        );
        return not("Conflicted", message);
    }
    if let Err(errors) = usable {
        let shown: Vec<String> = errors.iter().map(|error| quoted(&error.to_string())).collect();
        let message = format!(
            "it can't be used and answers with 500: {}",
            few(&shown, "; ", shown.len())
        );
        return not("UnsupportedValue", message);
    }
    let callers = match namespace == own {
        true => format!("callers of {shown} go by it, save those with routes in their own namespace"),
        false => format!("callers of {shown} in namespace {own} go by it"),
    };
    Verdict::new(condition::ACCEPTED, ConditionStatus::True, "Accepted", callers)
}

/// Whether each backend is there and may be used.
fn resolved(object: &Object, spec: RouteSpec<'_>, index: &Index) -> Verdict {
    let references = References::of(object, index);
    let mut reason = None;
    let (mut unsent, mut uncopied) = (Vec::new(), Vec::new());
    for (place, to) in spec.references() {
        let Some(Unusable {
            reason: problem,
            message,
        }) = references::unusable(&references, to, index)
        else {
            continue;
        };
        reason.get_or_insert(problem);
        match place.filter {
            None => unsent.push(format!("{place}: {message}")),
            Some(_) => uncopied.push(format!("{place}: {message}")),
        }
    }
    let answered = format!("its share is answered with {}", effect::without_backend(spec));
    let lists = [(answered.as_str(), unsent), (references::NO_COPIES, uncopied)];
    let lists = lists.iter().filter(|(_, problems)| !problems.is_empty());
    let said = lists.map(|(effect, problems)| references::said(effect, problems));
    match reason {
        Some(reason) => references::unresolved(reason, said.collect::<Vec<_>>().join("; ")),
        None => references::resolved("every backend is there"),
    }
}

/// Whose requests a route takes at a parent.
fn consumers(object: &Object, parent: &Attachment) -> Consumers {
    let own: Option<Label> = object.metadata.namespace.parse().ok();
    match own {
        Some(own) if own != parent.service.namespace => Consumers::Namespace(own),
        Some(_) | None => Consumers::Any,
    }
}

impl Known {
    fn unreachable(&mut self, attachment: &Attachment, consumers: Consumers, index: &Index) -> &Unreachable {
        let entry = self.unreachable.entry((attachment.clone(), consumers));
        entry.or_insert_with_key(|(attachment, consumers)| {
            let mut unreachable = Unreachable::default();
            let service = index.service(&attachment.service);
            let ports = service.iter().flat_map(|service| &service.spec.ports);
            let ports = ports.map(|port| port.port);
            for port in ports.filter(|port| attachment.port.is_none_or(|only| only == *port)) {
                let cluster = ClusterName {
                    service: attachment.service.clone(),
                    port,
                };
                let name = RouteName {
                    cluster,
                    consumers: consumers.clone(),
                };
                if let Some(compiled) = routes::route_config(&name, index) {
                    unreachable.add(&compiled.resource);
                }
            }
            unreachable
        })
    }
}
