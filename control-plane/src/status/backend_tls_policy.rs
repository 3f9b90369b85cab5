//! What BackendTLSPolicies claim, and what their references lead to.

use weir_api::Object;
use weir_api::backend_policy::TargetRef;
use weir_api::backend_tls_policy::BackendTlsPolicySpec;
use weir_api::status::{ConditionStatus, ParentReference, condition};

use super::backend_policy::{attachment, found};
use super::conditions::{Verdict, few};
use super::policy::{Claim, References, others};
use crate::compile::backend_tls::{RefReason, Resolved, policy_for, resolved};
use crate::compile::index::{Index, service_name};
use crate::proxies::Attachment;

/// What a policy claims, in the order of its spec.
pub(super) fn claims<'a>(object: &Object, spec: &BackendTlsPolicySpec, index: &'a Index) -> Vec<Claim<'a>> {
    let resolved = resolved(object, spec, index);
    let claim = |target: &TargetRef| {
        let attachment = attachment(object, target, index);
        let service = service_name(&object.metadata.namespace, &target.name);
        let policies = service.map(|service| index.backend_tls_policies(&service));
        let mut policies = policies.unwrap_or_default().into_iter();
        Claim {
            target: ParentReference::from(target),
            found: found(object, target, index),
            misfit: None,
            oldest: policies
                .find(|policy| policy.spec.target_refs.contains(target))
                .map(|oldest| oldest.object),
            partly: None,
            references: Some(references(&resolved)),
            overridden: attachment
                .as_ref()
                .and_then(|attachment| overridden(object, attachment, index)),
            extent: attachment.into_iter().collect(),
            ineffective: None,
        }
    };
    spec.target_refs.iter().map(claim).collect()
}

fn references(resolved: &Resolved) -> References {
    let messages: Vec<String> = resolved
        .problems
        .iter()
        .map(|problem| problem.message.clone())
        .collect();
    let said = few(&messages, "; ", messages.len());
    let verdict = |status, reason, message| Verdict::new(condition::RESOLVED_REFS, status, reason, message);
    References {
        resolved: match resolved.problems.first().map(|problem| problem.reason) {
            None => {
                let message = "every reference leads to certificates".to_owned();
                verdict(ConditionStatus::True, "ResolvedRefs", message)
            }
            Some(RefReason::Kind) => verdict(ConditionStatus::False, "InvalidKind", said.clone()),
            Some(RefReason::Certificates) => verdict(ConditionStatus::False, "InvalidCACertificateRef", said.clone()),
        },
        closed: resolved
            .authorities
            .is_none()
            .then(|| format!("it has no certificate to go by: {said}")),
    }
}

/// Who holds instead, if others do for every port: a policy for a port by name goes before one for all ports.
fn overridden(object: &Object, attachment: &Attachment, index: &Index) -> Option<String> {
    let service = index.service(&attachment.service)?;
    let policies = index.backend_tls_policies(&attachment.service);
    let ports = service.spec.ports.iter();
    let ports = ports.filter(|port| attachment.port.is_none_or(|only| only == port.port));
    let holders = ports.map(|port| policy_for(&attachment.service, port, &policies));
    let others = others(object, holders.map(|holder| holder.map(|holder| holder.object)))?;
    Some(format!(
        "each port has a policy of its own, which goes before this one: {others}"
    ))
}
