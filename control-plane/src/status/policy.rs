//! The status of policies: for each target, whether the policy is accepted there, and in force.

use std::num::NonZeroU16;

use weir_api::Object;
use weir_api::backend_policy::{BackendPolicySpec, TargetRef};
use weir_api::service::{ServicePort, ServiceSpec};
use weir_api::status::{
    CONTROLLER_NAME, ConditionStatus, ParentReference, PolicyAncestorStatus, PolicyStatus, condition,
};

use super::conditions::{Observation, Verdict, conditions, few};
use super::{Standings, in_force};
use crate::compile;
use crate::compile::index::{Index, Of, service_name};
use crate::proxies::Attachment;

/// Where a target's callers are; `None`: there is no such service or port.
pub(super) fn attachment(object: &Object, target: &TargetRef, index: &Index) -> Option<Attachment> {
    let service = service_name(&object.metadata.namespace, &target.name)?;
    let port = match &target.section_name {
        None => None,
        Some(section) => Some(port_named(index.service(&service)?.spec, section)?),
    };
    Some(Attachment { service, port })
}

/// What is to be said of a policy.
pub(super) fn status(
    object: &Object,
    spec: &BackendPolicySpec,
    index: &Index,
    standings: &Standings,
    now: &str,
) -> PolicyStatus {
    let before: PolicyStatus = super::read(object);
    let at = Observation {
        generation: object.metadata.generation,
        now,
    };
    let ancestors = spec.target_refs.iter().map(|target| {
        let ancestor_ref = ParentReference::from(target);
        let accepted = accepted(object, target, index);
        let attachment = attachment(object, target, index);
        let in_force = match attachment {
            Some(attachment) if accepted.is_true() => match overridden(object, &attachment, index) {
                Some(message) => Verdict::new(condition::IN_FORCE, ConditionStatus::False, "Overridden", message),
                None => in_force::verdict(&standings.at(&attachment)),
            },
            Some(_) | None => in_force::not_accepted(),
        };
        let held = before.ancestors.iter().find(|held| held.ancestor_ref == ancestor_ref);
        let held = held.map_or(&[][..], |held| &held.conditions);
        PolicyAncestorStatus {
            conditions: conditions([accepted, in_force], held, at),
            ancestor_ref,
            controller_name: CONTROLLER_NAME.to_owned(),
        }
    });
    PolicyStatus {
        ancestors: ancestors.collect(),
    }
}

/// Whether the target is there, and no older policy claims the same.
fn accepted(object: &Object, target: &TargetRef, index: &Index) -> Verdict {
    let not = |reason, message: String| Verdict::new(condition::ACCEPTED, ConditionStatus::False, reason, message);
    let namespace = &object.metadata.namespace;
    let mut shown = format!("Service {namespace}/{}", target.name);
    let named = service_name(namespace, &target.name);
    let found = named.as_ref().and_then(|name| index.service(name));
    let (Some(name), Some(service)) = (named.as_ref(), found) else {
        return not("TargetNotFound", format!("there is no {shown}"));
    };
    if let Some(section) = &target.section_name {
        if port_named(service.spec, section).is_none() {
            let message = format!("{shown} has no port named {section:?}; it has {}", names(service.spec));
            return not("TargetNotFound", message);
        }
        shown = format!("port {section:?} of {shown}");
    }
    let policies = index.policies(name);
    let claims = |policy: &&Of<'_, BackendPolicySpec>| policy.spec.target_refs.contains(target);
    let own = object.key();
    match policies.iter().find(claims).map(|oldest| oldest.object) {
        Some(oldest) if oldest.key() != own => {
            let (holder, created) = (oldest.key(), &oldest.metadata.creation_timestamp);
            let because = match *created == object.metadata.creation_timestamp {
                true => "of two of one age the first by name",
                false => "the older",
            };
            not(
                "Conflicted",
                format!("{holder} and {own} both claim {shown}; {holder}, {because}, holds"),
            )
        }
        Some(_) | None => {
            let message = format!("it holds for {shown}");
            Verdict::new(condition::ACCEPTED, ConditionStatus::True, "Accepted", message)
        }
    }
}

/// Who holds instead, if others do for every port: a policy for a port by name goes before one for all ports.
fn overridden(object: &Object, attachment: &Attachment, index: &Index) -> Option<String> {
    let service = index.service(&attachment.service)?;
    let policies = index.policies(&attachment.service);
    let mut holders: Vec<String> = Vec::new();
    for port in &service.spec.ports {
        if attachment.port.is_some_and(|only| only != port.port) {
            continue;
        }
        let holder = compile::policy_for(&attachment.service, port, &policies)?;
        if holder.object.key() == object.key() {
            return None;
        }
        let holder = holder.object.key().to_string();
        if !holders.contains(&holder) {
            holders.push(holder);
        }
    }
    let shown = few(&holders, ", ", holders.len());
    Some(format!(
        "each port has a policy of its own, which goes before this one: {shown}"
    ))
}

fn port_named(service: &ServiceSpec, name: &str) -> Option<NonZeroU16> {
    let named = |port: &&ServicePort| port.name.as_deref() == Some(name);
    service.ports.iter().find(named).map(|port| port.port)
}

fn names(service: &ServiceSpec) -> String {
    let names = service.ports.iter().filter_map(|port| port.name.as_ref());
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    match names.len() {
        0 => "none with a name".to_owned(),
        count => few(&names, ", ", count),
    }
}
