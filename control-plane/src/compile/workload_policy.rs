//! The policy that holds for a workload's own proxy.

use std::collections::BTreeMap;

use weir_api::mesh_config;
use weir_api::telemetry_policy::{self, TelemetryPolicySpec};
use weir_policy::egress::Egress;
use weir_policy::model::WorkloadPolicy;
use weir_policy::mutual_tls::MutualTls;
use weir_policy::names::WorkloadName;
use weir_policy::telemetry::{AccessLog, ExcludedPath, SpanTag, Telemetry};

use super::index::{Index, Of};
use super::mutual_tls::mutual_tls;
use super::{Compiled, source};

/// What holds for a workload. Of one that has not registered (yet) the labels are not known: of what they decide it is
/// what holds whatever they are, and of its ports the strictest that they could ask for.
pub(crate) fn workload_policy(name: &WorkloadName, index: &Index) -> Compiled<WorkloadPolicy> {
    let namespace = name.namespace.as_str();
    let labels = labels(name, index);
    let policies = index.telemetry_policies(namespace);
    let policy = telemetry_policy_for(labels.unwrap_or(&BTreeMap::new()), &policies);
    // A part of a policy is never told.
    let told = policy.and_then(|policy| Some((telemetry(policy.spec)?, source(policy.object))));
    let (telemetry, policy) = told.unzip();
    let mesh_config = index.mesh_config().map(|config| source(config.object));
    Compiled {
        resource: WorkloadPolicy {
            workload: name.clone(),
            telemetry: telemetry.unwrap_or_default(),
            mutual_tls: entered(name, index),
            egress: egress(index),
        },
        sources: policy.into_iter().chain(mesh_config).collect(),
    }
}

/// How its ports are entered.
pub(crate) fn entered(name: &WorkloadName, index: &Index) -> MutualTls {
    mutual_tls(index.mutual_tls(), name.namespace.as_str(), labels(name, index))
}

fn egress(index: &Index) -> Egress {
    match index.egress() {
        mesh_config::Egress::Refuse => Egress::Refuse,
        mesh_config::Egress::Passthrough => Egress::Passthrough,
    }
}

/// `None`: they are not known.
fn labels<'a>(name: &WorkloadName, index: &'a Index) -> Option<&'a BTreeMap<String, String>> {
    index.workload(name).map(|workload| &workload.object.metadata.labels)
}

/// The policy that holds for a workload with these labels: one with a selector before one without, then the older.
pub(crate) fn telemetry_policy_for<'a, 'b>(
    labels: &BTreeMap<String, String>,
    oldest_first: &'a [Of<'b, TelemetryPolicySpec>],
) -> Option<&'a Of<'b, TelemetryPolicySpec>> {
    let mut selecting = oldest_first.iter().filter(|policy| policy.spec.selects(labels));
    let first = selecting.next()?;
    match first.spec.selector {
        Some(_) => Some(first),
        None => selecting.find(|policy| policy.spec.selector.is_some()).or(Some(first)),
    }
}

/// `None`: a tag's field can be none, which the reader of policies refuses.
fn telemetry(spec: &TelemetryPolicySpec) -> Option<Telemetry> {
    let tracing = spec.tracing.as_ref();
    let tags = tracing.map_or(&[][..], |tracing| &tracing.tags).iter();
    let excluded = spec.excluded_paths.iter().map(|excluded| match excluded {
        telemetry_policy::ExcludedPath::Exact(path) => ExcludedPath::Exact(path.clone()),
        telemetry_policy::ExcludedPath::PathPrefix(path) => ExcludedPath::Prefix(path.clone()),
    });
    let tags = tags.map(|tag| {
        let header = tag.request_header.parse().ok()?;
        let name = tag.name.clone();
        Some(SpanTag { name, header })
    });
    Some(Telemetry {
        access_log: spec.access_log.map(|log| match log {
            telemetry_policy::AccessLog::All => AccessLog::All,
            telemetry_policy::AccessLog::Errors => AccessLog::Errors,
            telemetry_policy::AccessLog::Off => AccessLog::Off,
        }),
        sampling_parts_per_ten_thousand: tracing
            .and_then(|tracing| tracing.sampling_percent)
            .map(|percent| percent.parts_per_ten_thousand()),
        tags: tags.collect::<Option<_>>()?,
        excluded_paths: excluded.collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_api::{Object, Spec, yaml};
    use weir_policy::mutual_tls::Mode;

    use super::*;
    use crate::compile::fixture;

    fn policy(name: &str, second: u32, spec: &str) -> Object {
        let text = format!("apiVersion: weir.dev/v1\nkind: TelemetryPolicy\nmetadata: {{name: {name}}}\nspec: {spec}");
        let mut objects = yaml::read_objects(&text, "test", Some("citizen")).expect("a policy");
        let mut object = objects.remove(0).object;
        object.metadata.creation_timestamp = Some(format!("2026-01-01T00:00:{second:02}Z"));
        object
    }

    fn workload(labels: &[(&str, &str)]) -> Object {
        let mut workload = fixture::workload("citizen", "portal-1", "10.0.0.1", &[(8080, 15006)]);
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        workload.metadata.labels = labels.collect();
        workload
    }

    fn compiled(objects: &[Object], labels: &[(&str, &str)]) -> Compiled<WorkloadPolicy> {
        let own = workload(labels);
        let index = fixture::index(objects.iter().cloned().chain([own]));
        let name: WorkloadName = "citizen/portal-1".parse().expect("a name");
        workload_policy(&name, &index)
    }

    #[track_caller]
    fn holds(objects: &[Object], labels: &[(&str, &str)], expect: Option<&str>) {
        let sources = compiled(objects, labels).sources.into_iter();
        let names: Vec<String> = sources.map(|(key, _)| key.name).collect();
        let expect: Vec<String> = expect.into_iter().map(str::to_owned).collect();
        assert_eq!(names, expect, "{labels:?}");
    }

    #[test]
    fn a_selector_goes_before_none_and_then_the_older() {
        let all = policy("all", 1, "{accessLog: All}");
        let all_later = policy("a-later", 2, "{accessLog: Off}");
        let edge = policy("edge", 4, "{selector: {matchLabels: {tier: edge}}, accessLog: Errors}");
        let app = policy("app", 3, "{selector: {matchLabels: {app: portal}}, accessLog: Off}");
        let mut elsewhere = policy("elsewhere", 0, "{accessLog: All}");
        elsewhere.metadata.namespace = "police".to_owned();
        let objects = [all, all_later, edge, app, elsewhere.clone()];
        holds(&objects, &[], Some("all"));
        holds(&objects, &[("tier", "edge")], Some("edge"));
        holds(&objects, &[("tier", "core")], Some("all"));
        holds(&objects, &[("tier", "edge"), ("app", "portal")], Some("app"));
        holds(&objects[2..], &[], None);
        holds(&[elsewhere], &[], None);
        let twins = ["b", "a"].map(|name| policy(name, 5, "{accessLog: All}"));
        holds(&twins, &[], Some("a"));
    }

    #[test]
    fn a_policy_is_compiled_whole() {
        let spec = "{accessLog: Errors, tracing: {samplingPercent: 0.25, tags: [{name: department, requestHeader: X-Department}]}, \
                    excludedPaths: [{type: Exact, value: /healthz}, {value: /internal}]}";
        let telemetry = compiled(&[policy("p", 1, spec)], &[]).resource.telemetry;
        let expect = Telemetry {
            access_log: Some(AccessLog::Errors),
            sampling_parts_per_ten_thousand: Some(25),
            tags: vec![SpanTag {
                name: "department".to_owned(),
                header: http::HeaderName::from_static("x-department"),
            }],
            excluded_paths: vec![
                ExcludedPath::Exact("/healthz".to_owned()),
                ExcludedPath::Prefix("/internal".to_owned()),
            ],
        };
        assert_eq!(telemetry, expect);
        let open = compiled(&[policy("p", 1, "{tracing: {samplingPercent: 100}}")], &[]);
        let expect = Telemetry {
            sampling_parts_per_ten_thousand: Some(10_000),
            ..Telemetry::default()
        };
        assert_eq!(open.resource.telemetry, expect);
    }

    #[test]
    fn of_one_that_has_not_registered_what_labels_decide_is_not_known() {
        let all = policy("all", 2, "{accessLog: Errors}");
        let edge = policy("edge", 1, "{selector: {matchLabels: {tier: edge}}, accessLog: All}");
        let config = fixture::mesh_config("{overrides: [{selector: {matchLabels: {tier: edge}}, mode: Strict}]}");
        let name: WorkloadName = "citizen/portal-1".parse().expect("a name");
        let mut index = fixture::index([all, edge, config]);
        let mut told = |workload: Option<Object>| {
            if let Some(workload) = workload {
                index.apply(&workload.key(), Some(Arc::new(workload)));
            }
            let compiled = workload_policy(&name, &index);
            let sources = compiled.sources.into_iter().map(|(key, _)| key.name);
            let WorkloadPolicy {
                telemetry, mutual_tls, ..
            } = compiled.resource;
            (telemetry.access_log, mutual_tls.mode, sources.collect::<Vec<_>>())
        };
        let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        let expect = (Some(AccessLog::Errors), Mode::Strict, names(["all", "mesh"]));
        assert_eq!(told(None), expect);
        let expect = (Some(AccessLog::Errors), Mode::Permissive, names(["all", "mesh"]));
        assert_eq!(told(Some(workload(&[]))), expect);
        let expect = (Some(AccessLog::All), Mode::Strict, names(["edge", "mesh"]));
        assert_eq!(told(Some(workload(&[("tier", "edge")]))), expect);
    }

    #[test]
    fn what_becomes_of_names_outside_is_told_to_every_workload() {
        let told = |objects: &[Object]| compiled(objects, &[]).resource.egress;
        assert_eq!(told(&[]), Egress::Refuse);
        assert_eq!(told(&[fixture::mesh_config("{}")]), Egress::Refuse);
        let passes = fixture::mesh_config_of("{egress: Passthrough}");
        assert_eq!(told(std::slice::from_ref(&passes)), Egress::Passthrough);
        let mut index = fixture::index([workload(&[])]);
        let touched = index.apply(&passes.key(), Some(Arc::new(passes))).unwrap_or_default();
        assert_eq!((touched.workloads.len(), touched.egress), (1, true));
        let as_before = fixture::mesh_config_of("{egress: Passthrough, mutualTls: {mode: Strict}}");
        let touched = index.apply(&as_before.key(), Some(Arc::new(as_before)));
        assert!(!touched.unwrap_or_default().egress);
    }

    #[test]
    fn a_change_touches_those_whom_it_concerns() {
        let edge = policy("edge", 1, "{selector: {matchLabels: {tier: edge}}, accessLog: Errors}");
        let core = policy("edge", 1, "{selector: {matchLabels: {tier: core}}, accessLog: Errors}");
        let all = policy("all", 2, "{accessLog: All}");
        let mut other = workload(&[("tier", "core")]);
        other.metadata.name = "portal-2".to_owned();
        let mut index = fixture::index([workload(&[("tier", "edge")]), other]);
        let mut touched = |object: &Object, now: Option<Object>| {
            let touched = index.apply(&object.key(), now.map(Arc::new)).unwrap_or_default();
            assert!(touched.services.is_empty());
            touched
                .workloads
                .iter()
                .map(|name| name.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(touched(&edge, Some(edge.clone())), ["portal-1"]);
        assert_eq!(
            touched(&core, Some(core.clone())),
            ["portal-1", "portal-2"],
            "one comes, one goes"
        );
        assert_eq!(touched(&core, Some(core.clone())), [""; 0]);
        assert_eq!(touched(&core, None), ["portal-2"]);
        assert_eq!(touched(&all, Some(all.clone())), ["portal-1", "portal-2"]);
        let moved = workload(&[("tier", "core")]);
        assert_eq!(touched(&moved, Some(moved.clone())), ["portal-1"]);
        let mut grown = moved.clone();
        if let Spec::Workload(spec) = &mut grown.spec {
            spec.instance += 1;
        }
        assert_eq!(
            touched(&grown, Some(grown.clone())),
            [""; 0],
            "its labels are what they were"
        );
        assert_eq!(touched(&grown, None), ["portal-1"]);
    }
}
