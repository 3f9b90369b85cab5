//! TelemetryPolicy: what proxies tell of the requests that they carry.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::decode::{Errors, Fields, Node};
use crate::http_route::read::{TWIN, TWIN_REMEDY};
use crate::http_route::{read_header_name, read_path};
use crate::names;
use crate::object::{LABELS_MAX, read_labels};
use crate::schema::texts::{AttributeName, FieldName, LabelValue, Path};

/// What the proxies of some workloads tell of the requests that they carry, in and out: which have a line in the access
/// log, which are traced, what their spans say. Metrics count every request whatever a policy says. Of several policies
/// for one workload one holds, as a whole: one with a selector goes before one without, then the older. What it leaves
/// open is as the flags of the proxy say.
///
/// Rule: one of `accessLog`, `tracing` and `excludedPaths` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryPolicySpec {
    /// Which workloads of its own namespace it is for. Default: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// Which requests have a line in the access log. Where the lines go is the proxy's `--access-log`; one that runs
    /// with `off` rejects a policy that asks for lines. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Which requests are traced, and what their spans say beside what they always do. Default: the proxy's
    /// `--trace-sampling`, and nothing beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// Requests that have neither a line in the access log nor a span, such as those of probes. A trace that begins
    /// with one is recorded nowhere; one that was begun before goes on as if the proxy were not there. Default: none.
    ///
    /// Rule: each stands once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = PATHS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub excluded_paths: Vec<ExcludedPath>,
}

/// Workloads by their labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels that a workload must have, all of them.
    ///
    /// Rule: there is at least one; keys have up to 63 letters, digits, '-', '_' and '.', a letter or digit first and
    /// last; before them may stand a DNS name and '/'.
    #[schemars(with = "BTreeMap<String, LabelValue>", extend("maxProperties" = LABELS_MAX))]
    pub match_labels: BTreeMap<String, String>,
}

impl WorkloadSelector {
    /// Whether it takes a workload with these labels.
    pub fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut wanted = self.match_labels.iter();
        wanted.all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl TelemetryPolicySpec {
    /// Whether it is for a workload of its namespace with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.takes(labels))
    }
}

/// Which requests have a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "TelemetryAccessLog")]
pub enum AccessLog {
    /// Every one.
    All,
    /// Those that failed: a status of 500 or more, a gRPC status that stands for such a one (UNKNOWN,
    /// DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS), a refusal or an end made by the mesh, a caller that left.
    Errors,
    /// None.
    Off,
}

/// Which requests are traced, and what spans say.
///
/// Rule: `samplingPercent` or `tags` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// How many of the traces that begin here are recorded, in percent. A request that is part of a trace keeps the
    /// decision of its caller. Default: the proxy's `--trace-sampling`.
    ///
    /// Rule: it has at most two decimals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_percent: Option<SamplingPercent>,
    /// Attributes that spans have beside their own. Default: none.
    ///
    /// Rule: each name stands once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = TAGS_MAX), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
    ))]
    pub tags: Vec<SpanTag>,
}

/// A share in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplingPercent(u16);

impl SamplingPercent {
    /// How many of ten thousand; at most 10000.
    pub fn parts_per_ten_thousand(self) -> u16 {
        self.0
    }

    /// Reads a number from 0 to 100 with at most two decimals.
    fn of(percent: f64) -> Result<SamplingPercent, &'static str> {
        if !(0.0..=100.0).contains(&percent) {
            return Err("is out of range");
        }
        let parts = (percent * 100.0).round();
        // A number of two decimals is the one that is nearest to its hundredths.
        if parts / 100.0 != percent {
            return Err("has more than two decimals");
        }
        // Within 0 to 10000, by the first test.
        Ok(SamplingPercent(parts as u16))
    }
}

impl Serialize for SamplingPercent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 100 {
            0 => serializer.serialize_u16(self.0 / 100),
            _ => serializer.serialize_f64(f64::from(self.0) / 100.0),
        }
    }
}

impl JsonSchema for SamplingPercent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SamplingPercent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": 100})
    }
}

/// An attribute of spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpanTag {
    /// What it is called in spans.
    ///
    /// Rule: it is none of the proxy's own: those begin with `weir.`, `http.`, `url.`, `server.`, `client.`,
    /// `network.`, `rpc.` or `error.`; `http.request.header.` and more is free.
    #[schemars(with = "AttributeName")]
    pub name: String,
    /// The field of the request's header that it shows, in any case; the first 256 characters of its value. A span of a
    /// request without that field lacks it.
    ///
    /// Rule: none is Authorization, Proxy-Authorization, Cookie or Set-Cookie, whose values let in who knows them.
    #[schemars(with = "FieldName")]
    pub request_header: String,
}

/// Requests by their path, as it came and without the query; case matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", content = "value")]
#[schemars(extend("x-properties" = {
    "type": {"default": "PathPrefix"},
    "value": {"description": PATH_VALUE},
}))]
pub enum ExcludedPath {
    /// `value` is the whole path.
    Exact(#[schemars(with = "Path")] String),
    /// `value` is whole segments from the start.
    PathPrefix(#[schemars(with = "Path")] String),
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<TelemetryPolicySpec> {
    let mut fields = node.fields(errors)?;
    let selector = fields.optional("selector", errors, read_selector);
    let access_log = fields.optional("accessLog", errors, |node, errors| {
        let words = [
            ("All", AccessLog::All),
            ("Errors", AccessLog::Errors),
            ("Off", AccessLog::Off),
        ];
        node.choice(errors, &words)
    });
    let tracing = fields.optional("tracing", errors, read_tracing);
    let excluded_paths = fields.optional("excludedPaths", errors, |node, errors| {
        let paths = node.list(errors, PATHS_MAX, read_excluded_path)?;
        node.refuse_twins(errors, &paths, |a, b| a == b, TWIN, TWIN_REMEDY);
        Some(paths)
    });
    let mut given = ["accessLog", "tracing", "excludedPaths"].into_iter();
    let asks = given.any(|name| is_given(&mut fields, name));
    fields.finish(errors);
    if !asks {
        node.refuse(errors, "asks for nothing", "give accessLog, tracing or excludedPaths");
    }
    Some(TelemetryPolicySpec {
        selector,
        access_log,
        tracing,
        excluded_paths: excluded_paths.unwrap_or_default(),
    })
}

pub(crate) fn read_selector(node: &Node<'_>, errors: &mut Errors) -> Option<WorkloadSelector> {
    let mut fields = node.fields(errors)?;
    let match_labels = fields.required("matchLabels", errors, |node, errors| {
        let labels = read_labels(node, errors)?;
        if labels.is_empty() {
            node.refuse(errors, "holds no label", "leave out the selector for all workloads");
        }
        Some(labels)
    });
    fields.refused(
        "matchExpressions",
        errors,
        "is not supported",
        "labels and their values are right, in matchLabels",
    );
    fields.finish(errors);
    Some(WorkloadSelector {
        match_labels: match_labels?,
    })
}

fn read_tracing(node: &Node<'_>, errors: &mut Errors) -> Option<Tracing> {
    let mut fields = node.fields(errors)?;
    let sampling_percent = fields.optional("samplingPercent", errors, read_percent);
    let tags = fields.optional("tags", errors, |node, errors| {
        let tags = node.list(errors, TAGS_MAX, read_tag)?;
        node.refuse_twins(errors, &tags, |a, b| a.name == b.name, TWIN, TWIN_REMEDY);
        Some(tags)
    });
    let asks = is_given(&mut fields, "samplingPercent") || is_given(&mut fields, "tags");
    fields.finish(errors);
    if !asks {
        node.refuse(errors, "asks for nothing", "give samplingPercent or tags");
    }
    Some(Tracing {
        sampling_percent,
        tags: tags.unwrap_or_default(),
    })
}

fn read_percent(node: &Node<'_>, errors: &mut Errors) -> Option<SamplingPercent> {
    let read = node
        .value()
        .as_f64()
        .ok_or("is not a number")
        .and_then(SamplingPercent::of);
    read.map_err(|problem| node.refuse(errors, problem, "0 to 100 is right, with at most two decimals"))
        .ok()
}

fn read_tag(node: &Node<'_>, errors: &mut Errors) -> Option<SpanTag> {
    let mut fields = node.fields(errors)?;
    let name = fields.required("name", errors, |node, errors| {
        let remedy = "1 to 128 letters, digits, '.', '_' and '-' are right, a letter first";
        let name = names::checked(node, errors, is_attribute_name, "is no name of an attribute", remedy)?;
        if is_own(&name) {
            let remedy = "a name that begins otherwise is right, as department or http.request.header.x-department";
            node.refuse(errors, "is a name of the proxy's own", remedy);
            return None;
        }
        Some(name)
    });
    let request_header = fields.required("requestHeader", errors, |node, errors| {
        let name = read_header_name(node, errors)?;
        if CREDENTIALS
            .iter()
            .any(|credential| credential.eq_ignore_ascii_case(&name))
        {
            node.refuse(errors, "is a credential, which no span may show", "name another field");
            return None;
        }
        Some(name)
    });
    fields.finish(errors);
    Some(SpanTag {
        name: name?,
        request_header: request_header?,
    })
}

fn read_excluded_path(node: &Node<'_>, errors: &mut Errors) -> Option<ExcludedPath> {
    let mut fields = node.fields(errors)?;
    let kind: Option<fn(String) -> ExcludedPath> = match fields.get("type") {
        Some(node) => {
            let exact: (&str, fn(String) -> ExcludedPath) = ("Exact", ExcludedPath::Exact);
            node.choice(errors, &[exact, ("PathPrefix", ExcludedPath::PathPrefix)])
        }
        None => Some(ExcludedPath::PathPrefix),
    };
    let value = fields.required("value", errors, read_path);
    fields.finish(errors);
    Some(kind?(value?))
}

/// Whether a field asks for something; an empty list does not.
fn is_given(fields: &mut Fields<'_>, name: &'static str) -> bool {
    let field = fields.get(name);
    field.is_some_and(|node| node.value().as_array().is_none_or(|items| !items.is_empty()))
}

fn is_attribute_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    first && text.len() <= 128 && text.bytes().all(inner)
}

/// Whether spans have, or may come to have, an attribute of this name by themselves.
fn is_own(name: &str) -> bool {
    let own = [
        "weir.", "http.", "url.", "server.", "client.", "network.", "rpc.", "error.",
    ];
    own.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with("http.request.header.")
}

/// Fields whose values let in who knows them.
const CREDENTIALS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// Each costs a copy of a value for each span, or a comparison for each request.
const TAGS_MAX: usize = 8;
const PATHS_MAX: usize = 16;

const PATH_VALUE: &str = "What the path is compared with.\n\nRule: a path holds no empty segment (`//`), none that is `.` \
                          or `..` in any spelling, and no escaped slash (`%2F`).";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spec;
    use crate::tests::{bad, good};

    #[test]
    fn a_policy_is_read_whole_or_refused_with_all_that_is_wrong() {
        let head = "apiVersion: weir.dev/v1\nkind: TelemetryPolicy\nmetadata: {name: p, namespace: n}\n";
        let spec = |fields: &str| format!("{head}spec: {{{fields}}}");
        let read = |fields: &str| match good(&spec(fields)).spec {
            Spec::TelemetryPolicy(policy) => policy,
            other => panic!("{other:?}"),
        };
        let policy = read("accessLog: Errors, excludedPaths: [{value: /a}, {type: Exact, value: /a}]");
        assert_eq!(policy.access_log, Some(AccessLog::Errors));
        let paths = [
            ExcludedPath::PathPrefix("/a".to_owned()),
            ExcludedPath::Exact("/a".to_owned()),
        ];
        assert_eq!(policy.excluded_paths, paths);
        for (percent, parts) in [
            ("0", 0),
            ("100", 10_000),
            ("100.0", 10_000),
            ("0.01", 1),
            ("12.34", 1_234),
            ("33.3", 3_330),
        ] {
            let tracing = read(&format!("tracing: {{samplingPercent: {percent}}}"))
                .tracing
                .expect("given");
            let read = tracing.sampling_percent.expect("given").parts_per_ten_thousand();
            assert_eq!(read, parts, "{percent}");
        }
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let selecting = read("selector: {matchLabels: {app: a, tier: b}}, accessLog: All");
        for (held, expect) in [
            (&[("app", "a"), ("tier", "b"), ("more", "c")][..], true),
            (&[("app", "a")], false),
            (&[("app", "a"), ("tier", "c")], false),
            (&[], false),
        ] {
            assert_eq!(selecting.selects(&labels(held)), expect, "{held:?}");
        }
        assert!(read("accessLog: All").selects(&BTreeMap::new()));
        for (fields, held) in [
            (
                "accessLog: Some",
                "accessLog: \"Some\" is not supported; \"All\" or \"Errors\" or \"Off\" is right",
            ),
            (
                "tracing: {samplingPercent: 0.005}",
                "tracing.samplingPercent: 0.005 has more than two decimals; 0 to 100",
            ),
            (
                "tracing: {samplingPercent: 100.01}",
                "tracing.samplingPercent: 100.01 is out of range",
            ),
            (
                "tracing: {samplingPercent: -1}",
                "tracing.samplingPercent: -1 is out of range",
            ),
            (
                "tracing: {samplingPercent: '1'}",
                "tracing.samplingPercent: \"1\" is not a number",
            ),
            (
                "tracing: {}",
                "tracing: {} asks for nothing; give samplingPercent or tags",
            ),
            (
                "selector: {matchLabels: {}}, accessLog: All",
                "selector.matchLabels: {} holds no label",
            ),
            ("selector: {}, accessLog: All", "selector.matchLabels: "),
            (
                "selector: {matchLabels: {a: b}, matchExpressions: [1]}, accessLog: All",
                "selector.matchExpressions: [1] is not supported",
            ),
            (
                "excludedPaths: [{value: a}]",
                "excludedPaths[0].value: \"a\" does not begin with '/'",
            ),
            (
                "excludedPaths: [{type: RegularExpression, value: /a}]",
                "excludedPaths[0].type: \"RegularExpression\" is not supported",
            ),
            ("excludedPaths: [{type: Exact}]", "excludedPaths[0].value: "),
            ("excludedPaths: [{value: /a}, {value: /a}]", "excludedPaths[1]: "),
            (
                "accessLog: All, targetRefs: []",
                "targetRefs: [] stands in an unknown field",
            ),
        ] {
            bad(&spec(fields), &[&format!("f:4: spec.{held}")]);
        }
        bad(&spec("selector: {matchLabels: {a: b}}"), &["f:4: spec: "]);
        bad(&spec("excludedPaths: []"), &["f:4: spec: "]);
        let tag = |name: &str, header: &str| {
            spec(&format!(
                "tracing: {{tags: [{{name: {name}, requestHeader: {header}}}]}}"
            ))
        };
        for (name, header) in [
            ("department", "X-Department"),
            ("http.request.header.x-a", "x-a"),
            ("weird", "Accept"),
        ] {
            good(&tag(name, header));
        }
        for credential in ["Authorization", "proxy-authorization", "COOKIE", "Set-Cookie"] {
            let expect = format!("f:4: spec.tracing.tags[0].requestHeader: {credential:?} is a credential");
            bad(&tag("a", credential), &[&expect]);
        }
        for (name, problem) in [
            ("weir.route", "is a name of the proxy's own"),
            ("http.request.method", "is a name of the proxy's own"),
            ("1a", "is no name of an attribute"),
            ("a/b", "is no name of an attribute"),
        ] {
            let expect = format!("f:4: spec.tracing.tags[0].name: {name:?} {problem}");
            bad(&tag(name, "x-a"), &[&expect]);
        }
        let nine: Vec<String> = (0..9).map(|n| format!("{{name: a{n}, requestHeader: x}}")).collect();
        let nine = format!("tracing: {{tags: [{}]}}", nine.join(", "));
        bad(&spec(&nine), &["f:4: spec.tracing.tags: "]);
        let twins = "tracing: {tags: [{name: a, requestHeader: x}, {name: a, requestHeader: y}]}";
        bad(&spec(twins), &["f:4: spec.tracing.tags[1]: "]);
    }
}
