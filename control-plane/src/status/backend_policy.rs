//! What BackendPolicies claim: Services, and ports of them, as BackendTLSPolicies do.

use std::num::NonZeroU16;

use weir_api::Object;
use weir_api::backend_policy::{BackendPolicySpec, TargetRef};
use weir_api::service::{ServicePort, ServiceSpec};
use weir_api::status::ParentReference;

use super::policy::{Claim, names, others};
use crate::compile;
use crate::compile::index::{Index, Of, service_name};
use crate::proxies::{Attachment, Extent};

/// What a policy claims, in the order of its spec.
pub(super) fn claims<'a>(object: &Object, spec: &BackendPolicySpec, index: &'a Index) -> Vec<Claim<'a>> {
    let claim = |target: &TargetRef| {
        let attachment = attachment(object, target, index);
        let service = service_name(&object.metadata.namespace, &target.name);
        let policies = service.map(|service| index.policies(&service)).unwrap_or_default();
        let holds = |policy: &&Of<'_, BackendPolicySpec>| {
            let claims = policy.spec.target_refs.contains(target);
            claims && misfit(policy.object, policy.spec, target, index).is_none()
        };
        Claim {
            target: ParentReference::from(target),
            found: found(object, target, index),
            misfit: misfit(object, spec, target, index),
            oldest: policies.iter().find(holds).map(|oldest| oldest.object),
            partly: None,
            references: None,
            ineffective: None,
            overridden: attachment
                .as_ref()
                .and_then(|attachment| overridden(object, attachment, index)),
            extent: attachment.into_iter().collect(),
        }
    };
    spec.target_refs.iter().map(claim).collect()
}

/// Where the callers of each target are.
pub(super) fn extents(object: &Object, targets: &[TargetRef], index: &Index) -> Vec<Extent> {
    let targets = targets.iter();
    let attachments = targets.filter_map(|target| attachment(object, target, index));
    attachments.map(Extent::from).collect()
}

/// `None`: there is no such service or port.
pub(super) fn attachment(object: &Object, target: &TargetRef, index: &Index) -> Option<Attachment> {
    let service = service_name(&object.metadata.namespace, &target.name)?;
    let port = match &target.section_name {
        None => None,
        Some(section) => Some(port_named(index.service(&service)?.spec, section)?),
    };
    Some(Attachment { service, port })
}

/// What a target is, for people.
///
/// # Errors
/// What of it is not there.
pub(super) fn found(object: &Object, target: &TargetRef, index: &Index) -> Result<String, String> {
    let namespace = &object.metadata.namespace;
    let shown = format!("Service {namespace}/{}", target.name);
    let service = service_name(namespace, &target.name).and_then(|name| index.service(&name));
    let Some(service) = service else {
        return Err(format!("there is no {shown}"));
    };
    match &target.section_name {
        None => Ok(shown),
        Some(section) if port_named(service.spec, section).is_some() => Ok(format!("port {section:?} of {shown}")),
        Some(section) => {
            let held = service.spec.ports.iter().filter_map(|port| port.name.as_deref());
            let held = names(held);
            Err(format!("{shown} has no port named {section:?}; it has {held}"))
        }
    }
}

fn misfit(object: &Object, spec: &BackendPolicySpec, target: &TargetRef, index: &Index) -> Option<String> {
    let service = service_name(&object.metadata.namespace, &target.name)?;
    compile::misfit(spec, index.service(&service)?.spec, target.section_name.as_deref())
}

/// Who holds instead, if others do for every port: a policy for a port by name goes before one for all ports.
fn overridden(object: &Object, attachment: &Attachment, index: &Index) -> Option<String> {
    let service = index.service(&attachment.service)?;
    let policies = index.policies(&attachment.service);
    let ports = service.spec.ports.iter();
    let ports = ports.filter(|port| attachment.port.is_none_or(|only| only == port.port));
    let holders = ports.map(|port| compile::policy_for(&attachment.service, service.spec, port, &policies));
    let others = others(object, holders.map(|holder| holder.map(|holder| holder.object)))?;
    Some(format!(
        "each port has a policy of its own, which goes before this one: {others}"
    ))
}

fn port_named(service: &ServiceSpec, name: &str) -> Option<NonZeroU16> {
    let named = |port: &&ServicePort| port.name.as_deref() == Some(name);
    service.ports.iter().find(named).map(|port| port.port)
}
