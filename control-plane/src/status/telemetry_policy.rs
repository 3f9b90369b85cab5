//! What TelemetryPolicies claim: the workloads of their namespace, or those with some labels.

use std::collections::BTreeSet;

use weir_api::status::ParentReference;
use weir_api::telemetry_policy::TelemetryPolicySpec;
use weir_api::{Key, Object};

use super::conditions::few;
use super::policy::{Claim, others};
use crate::compile::index::Index;
use crate::compile::workload_policy::telemetry_policy_for;
use crate::proxies::Extent;

/// Where the workloads are.
pub(super) fn extent(object: &Object) -> Extent {
    Extent::Workloads(object.metadata.namespace.clone())
}

/// What a policy claims.
pub(super) fn claim<'a>(object: &Object, spec: &TelemetryPolicySpec, index: &'a Index) -> Claim<'a> {
    let namespace = &object.metadata.namespace;
    let policies = index.telemetry_policies(namespace);
    let labels = index.workloads(namespace).map(|workload| &workload.metadata.labels);
    let selected = labels.filter(|labels| spec.selects(labels));
    let holders = selected.filter_map(|labels| telemetry_policy_for(labels, &policies));
    // Of those with a selector the older goes before, of which the newer's status speaks as of a conflict.
    let (rivals, specific): (Vec<_>, Vec<_>) =
        holders.partition(|holder| holder.spec.selector.is_some() == spec.selector.is_some());
    let rivals: BTreeSet<Key> = rivals.into_iter().map(|holder| holder.object.key()).collect();
    let own = object.key();
    let other = policies
        .iter()
        .map(|policy| policy.object)
        .find(|policy| policy.key() != own && rivals.contains(&policy.key()));
    let twin = policies.iter().find(|policy| policy.spec.selector == spec.selector);
    let twin = twin.map(|twin| twin.object).filter(|twin| twin.key() != own);
    let holds_for_some = rivals.contains(&own);
    let specific: Vec<&Object> = specific.into_iter().map(|holder| holder.object).collect();
    Claim {
        target: ParentReference::namespace(namespace),
        found: Ok(claimed(object, spec)),
        misfit: None,
        oldest: twin.or(other.filter(|_| !holds_for_some)),
        references: None,
        partly: other.filter(|_| holds_for_some),
        extent: extent(object),
        ineffective: None,
        overridden: others(object, specific.into_iter().map(Some))
            .filter(|_| !holds_for_some)
            .map(|others| format!("each workload has a policy with a selector, which goes before this one: {others}")),
    }
}

/// The workloads that a policy is for, in words.
fn claimed(object: &Object, spec: &TelemetryPolicySpec) -> String {
    let all = format!("the workloads of Namespace {}", object.metadata.namespace);
    match &spec.selector {
        None => all,
        Some(selector) => {
            let labels = selector.match_labels.iter();
            let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).collect();
            format!("{all} with {}", few(&labels, ",", labels.len()))
        }
    }
}
