//! Resources as rows of a table: the columns of each kind, for `kubectl get` and `weirctl get` alike.
//!
//! Cells are read from a resource's JSON and not from its types, so that a resource of a newer control plane is shown
//! as far as it is known.

use jiff::Timestamp;
use serde_json::Value;

use crate::kind::Kind;
use crate::service::SERVICE_NAME_LABEL;

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// What it says, for people.
    pub description: &'static str,
    /// Where it is shown.
    pub shown: Shown,
    source: Source,
}

/// Where a column is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Everywhere.
    Always,
    /// Where there is room: `-o wide`.
    Wide,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Text(fn(&Value) -> String),
    Age,
}

impl Column {
    /// What stands in it for `object` at the time `now`; `-` for nothing. It may hold whatever a resource holds:
    /// who prints it on a terminal takes out control characters.
    pub fn cell(&self, object: &Value, now: Timestamp) -> String {
        let text = match self.source {
            Source::Text(text) => text(object),
            Source::Age => age(text_at(object, "/metadata/creationTimestamp"), now),
        };
        if text.is_empty() { "-".to_owned() } else { text }
    }
}

/// The columns of a kind, the name first. A resource's namespace is none of them: whoever lists several namespaces
/// puts it in front.
pub fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Namespace => NAMESPACE,
        Kind::MeshConfig => MESH_CONFIG,
        Kind::ConfigMap => CONFIG_MAP,
        Kind::BackendTlsPolicy => BACKEND_TLS_POLICY,
        Kind::Service => SERVICE,
        Kind::EndpointSlice => ENDPOINT_SLICE,
        Kind::Workload => WORKLOAD,
        Kind::BackendPolicy | Kind::RoutePolicy => POLICY,
        Kind::TelemetryPolicy => TELEMETRY_POLICY,
        Kind::ReferenceGrant => REFERENCE_GRANT,
        Kind::HttpRoute | Kind::GrpcRoute => ROUTE,
    }
}

/// How long ago `timestamp` (RFC 3339) was, in the one or two units that matter, as `kubectl` has it: `12s`, `5m3s`,
/// `3h`, `9d`. Empty: it can't be read.
pub fn age(timestamp: &str, now: Timestamp) -> String {
    let Ok(then) = timestamp.parse::<Timestamp>() else {
        return String::new();
    };
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |large: i64, unit: char, small: i64, smaller: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{smaller}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        _ => two(days / 365, 'y', days % 365, 'd'),
    }
}

const NAME: Column = always("Name", "Its name, unique by kind and namespace.", |object| {
    text_at(object, "/metadata/name").to_owned()
});
const AGE: Column = Column {
    name: "Age",
    description: "How long ago it was created.",
    shown: Shown::Always,
    source: Source::Age,
};
const ACCEPTED: Column = always(
    "Accepted",
    "Whether the control plane takes it: True, or why not.",
    |object| condition(object, "Accepted"),
);
const IN_FORCE: Column = always(
    "In Force",
    "Whether it is in force on every proxy concerned: True, or why not.",
    |object| condition(object, "weir.dev/InForce"),
);

const NAMESPACE: &[Column] = &[
    NAME,
    always(
        "Status",
        "Active, or Terminating: what it holds is being deleted.",
        |object| text_at(object, "/status/phase").to_owned(),
    ),
    AGE,
];
const MESH_CONFIG: &[Column] = &[
    NAME,
    always(
        "Egress",
        "What becomes of names that are no service of the mesh.",
        |object| text_at(object, "/spec/egress").to_owned(),
    ),
    always(
        "Mutual TLS",
        "How inbound ports are entered, and how many overrides there are of that.",
        |object| {
            let mode = text_at(object, "/spec/mutualTls/mode");
            match list_at(object, "/spec/mutualTls/overrides").count() {
                0 => mode.to_owned(),
                overrides => format!("{mode} +{overrides}"),
            }
        },
    ),
    ACCEPTED,
    IN_FORCE,
    AGE,
];
const SERVICE: &[Column] = &[
    NAME,
    always(
        "Ports",
        "Its ports, with what the app speaks there if that is said.",
        |object| {
            joined(list_at(object, "/spec/ports").map(|port| {
                let protocol = text_at(port, "/appProtocol");
                let slash = if protocol.is_empty() { "" } else { "/" };
                format!("{}{slash}{protocol}", scalar_at(port, "/port"))
            }))
        },
    ),
    always(
        "Selector",
        "Labels that a workload must have to stand behind it.",
        |object| pairs(object, "/spec/selector"),
    ),
    AGE,
];
const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    always("Service", "The Service whose endpoints they are.", |object| {
        let labels = object.pointer("/metadata/labels");
        let service = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        service.and_then(Value::as_str).unwrap_or_default().to_owned()
    }),
    always("Ports", "The ports that each endpoint has.", |object| {
        joined(list_at(object, "/ports").map(|port| scalar_at(port, "/port")))
    }),
    always("Ready", "How many endpoints take new requests.", |object| {
        let all = list_at(object, "/endpoints").count();
        // Unknown counts as ready (Kubernetes, EndpointConditions).
        let ready = |endpoint: &&Value| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false));
        format!("{} of {all}", list_at(object, "/endpoints").filter(ready).count())
    }),
    wide("Endpoints", "The endpoints' addresses.", |object| {
        joined(list_at(object, "/endpoints").map(|endpoint| scalar_at(endpoint, "/addresses/0")))
    }),
    AGE,
];
const WORKLOAD: &[Column] = &[
    NAME,
    always("Address", "Where others reach it.", |object| {
        text_at(object, "/spec/address").to_owned()
    }),
    always("Apps", "App port = protocol @ inbound port.", |object| {
        joined(list_at(object, "/spec/ports").map(|port| {
            let edge = match port.get("edge") {
                Some(Value::Bool(true)) => ",edge",
                _ => "",
            };
            let part = |name: &str| scalar_at(port, name);
            format!(
                "{}={}@{}{edge}",
                part("/appPort"),
                part("/protocol"),
                part("/inboundPort")
            )
        }))
    }),
    always(
        "State",
        "Confirmed: its proxy's stream is open; Unconfirmed: it is lost; Draining: it asks for no more requests.",
        |object| text_at(object, "/status/state").to_owned(),
    ),
    always("Healthy", "How many of its app ports take connections.", |object| {
        let healthy = list_at(object, "/status/readyAppPorts").count();
        format!("{healthy} of {}", list_at(object, "/spec/ports").count())
    }),
    wide("Locality", "Region, zone and site.", |object| {
        let parts = ["region", "zone", "site"].map(|part| text_at(object, &format!("/spec/locality/{part}")));
        let known: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        known.join("/")
    }),
    wide("Version", "Its proxy's version.", |object| {
        text_at(object, "/spec/version").to_owned()
    }),
    AGE,
];
/// Of every kind that attaches to others by `targetRefs`.
const POLICY: &[Column] = &[
    NAME,
    always("Targets", "What it is for.", targets),
    always("Sets", "The parts of its spec that are given.", |object| {
        sets(object, "targetRefs")
    }),
    ACCEPTED,
    IN_FORCE,
    AGE,
];
const BACKEND_TLS_POLICY: &[Column] = &[
    NAME,
    always("Targets", "What it is for.", targets),
    always("Hostname", "Who must answer there.", |object| {
        text_at(object, "/spec/validation/hostname").to_owned()
    }),
    ACCEPTED,
    IN_FORCE,
    wide(
        "Certificates",
        "Where the certificates are that it goes by.",
        |object| {
            let refs = list_at(object, "/spec/validation/caCertificateRefs");
            let refs = refs.map(|one| format!("{}/{}", text_at(one, "/kind"), text_at(one, "/name")));
            let well_known =
                Some(text_at(object, "/spec/validation/wellKnownCACertificates")).filter(|set| !set.is_empty());
            joined(refs.chain(well_known.map(str::to_owned)))
        },
    ),
    AGE,
];
const CONFIG_MAP: &[Column] = &[
    NAME,
    always("Data", "How many texts and other values it holds.", |object| {
        let count = |part: &str| {
            object
                .get(part)
                .and_then(Value::as_object)
                .map_or(0, serde_json::Map::len)
        };
        (count("data") + count("binaryData")).to_string()
    }),
    AGE,
];
const TELEMETRY_POLICY: &[Column] = &[
    NAME,
    always(
        "Workloads",
        "Labels of the workloads that it is for; *: all of its namespace.",
        |object| {
            let labels = pairs(object, "/spec/selector/matchLabels");
            if labels.is_empty() { "*".to_owned() } else { labels }
        },
    ),
    always("Sets", "The parts of its spec that are given.", |object| {
        sets(object, "selector")
    }),
    ACCEPTED,
    IN_FORCE,
    AGE,
];
const REFERENCE_GRANT: &[Column] = &[
    NAME,
    always("From", "Who may refer: a kind in a namespace.", |object| {
        joined(
            list_at(object, "/spec/from")
                .map(|from| format!("{}.{}", text_at(from, "/kind"), text_at(from, "/namespace"))),
        )
    }),
    always("To", "What may be referred to.", |object| {
        joined(list_at(object, "/spec/to").map(|to| {
            let name = text_at(to, "/name");
            let slash = if name.is_empty() { "" } else { "/" };
            format!("{}{slash}{name}", text_at(to, "/kind"))
        }))
    }),
    AGE,
];
/// Of routes of any protocol.
const ROUTE: &[Column] = &[
    NAME,
    always("Hostnames", "The hosts it is for; *: all.", |object| {
        let hosts = joined(
            list_at(object, "/spec/hostnames")
                .filter_map(Value::as_str)
                .map(str::to_owned),
        );
        if hosts.is_empty() { "*".to_owned() } else { hosts }
    }),
    always("Parents", "The services whose callers it is for.", |object| {
        joined(list_at(object, "/spec/parentRefs").map(reference))
    }),
    always("Rules", "How many rules it has.", |object| {
        list_at(object, "/spec/rules").count().to_string()
    }),
    ACCEPTED,
    IN_FORCE,
    wide("Backends", "Where its rules send requests, with weights.", |object| {
        let mut backends: Vec<String> = list_at(object, "/spec/rules")
            .flat_map(|rule| list_at(rule, "/backendRefs"))
            .map(|backend| format!("{} {}", reference(backend), scalar_at(backend, "/weight")))
            .collect();
        backends.sort();
        backends.dedup();
        joined(backends.into_iter())
    }),
    AGE,
];

const fn always(name: &'static str, description: &'static str, text: fn(&Value) -> String) -> Column {
    Column {
        name,
        description,
        shown: Shown::Always,
        source: Source::Text(text),
    }
}

const fn wide(name: &'static str, description: &'static str, text: fn(&Value) -> String) -> Column {
    Column {
        name,
        description,
        shown: Shown::Wide,
        source: Source::Text(text),
    }
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number or a text.
fn scalar_at(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => String::new(),
    }
}

fn list_at<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn pairs(object: &Value, pointer: &str) -> String {
    let entries = object.pointer(pointer).and_then(Value::as_object);
    joined(
        entries
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())),
    )
}

fn targets(object: &Value) -> String {
    joined(list_at(object, "/spec/targetRefs").map(|target| {
        let section = text_at(target, "/sectionName");
        let colon = if section.is_empty() { "" } else { ":" };
        format!("{}{colon}{section}", text_at(target, "/name"))
    }))
}

/// The parts of a policy's spec that are given, but for the one that says what it is for.
fn sets(object: &Value, of: &str) -> String {
    let spec = object.get("spec").and_then(Value::as_object);
    let parts = spec.into_iter().flatten().map(|(name, _)| name);
    joined(parts.filter(|name| *name != of).cloned())
}

/// `name.namespace:port`, as far as it is said.
fn reference(reference: &Value) -> String {
    let mut text = text_at(reference, "/name").to_owned();
    for (mark, part) in [('.', "/namespace"), (':', "/port"), ('#', "/sectionName")] {
        let part = scalar_at(reference, part);
        if !part.is_empty() {
            text.push(mark);
            text.push_str(&part);
        }
    }
    text
}

/// What the conditions of this type come to, over all parents or ancestors and its own: `True`, or the reason of the
/// first one that is not. Empty: there is none.
fn condition(object: &Value, condition_type: &str) -> String {
    let ancestors = ["/status/parents", "/status/ancestors"].into_iter();
    let of_type = ancestors
        .flat_map(|ancestors| list_at(object, ancestors))
        .chain(object.get("status"))
        .flat_map(|holder| list_at(holder, "/conditions"))
        .filter(|condition| text_at(condition, "/type") == condition_type);
    let mut all_true = "";
    for condition in of_type {
        let (status, reason) = (text_at(condition, "/status"), text_at(condition, "/reason"));
        if status != "True" {
            return if reason.is_empty() { status } else { reason }.to_owned();
        }
        all_true = "True";
    }
    all_true.to_owned()
}

/// The first few parts; a table is for looking over.
fn joined(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    let shown = parts
        .iter()
        .take(PARTS_MAX)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",");
    match parts.len().saturating_sub(PARTS_MAX) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

/// As many as `kubectl` shows of an EndpointSlice's addresses, and one more.
const PARTS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(kind: Kind, mut object: Value, expect: &[(&str, &str)]) {
        object["metadata"] =
            json!({"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": object["labels"]});
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        let row: Vec<(&str, String)> = columns(kind)
            .iter()
            .map(|column| (column.name, column.cell(&object, now)))
            .collect();
        let row: Vec<(&str, &str)> = row.iter().map(|(name, cell)| (*name, cell.as_str())).collect();
        let mut all = vec![("Name", "x")];
        all.extend(expect);
        all.push(("Age", "60s"));
        assert_eq!(row, all);
    }

    #[test]
    fn each_kind_shows_what_matters() {
        let conditions = json!([
            {"type": "Accepted", "status": "True", "reason": "Accepted"},
            {"type": "weir.dev/InForce", "status": "False", "reason": "Rejected"},
        ]);
        check(
            Kind::Namespace,
            json!({"status": {"phase": "Active"}}),
            &[("Status", "Active")],
        );
        check(
            Kind::MeshConfig,
            json!({"spec": {"egress": "Refuse", "mutualTls": {"mode": "Strict"}}, "status": {"conditions": conditions}}),
            &[
                ("Egress", "Refuse"),
                ("Mutual TLS", "Strict"),
                ("Accepted", "True"),
                ("In Force", "Rejected"),
            ],
        );
        check(
            Kind::MeshConfig,
            json!({"spec": {"egress": "Refuse", "mutualTls": {"mode": "Off", "overrides": [{}, {}]}}}),
            &[
                ("Egress", "Refuse"),
                ("Mutual TLS", "Off +2"),
                ("Accepted", "-"),
                ("In Force", "-"),
            ],
        );
        check(
            Kind::Service,
            json!({"spec": {"ports": [{"port": 80, "appProtocol": "grpc"}, {"port": 81}], "selector": {"app": "a"}}}),
            &[("Ports", "80/grpc,81"), ("Selector", "app=a")],
        );
        let endpoint =
            |host: u8, ready: bool| json!({"addresses": [format!("10.0.0.{host}")], "conditions": {"ready": ready}});
        check(
            Kind::EndpointSlice,
            json!({
                "labels": {"kubernetes.io/service-name": "a"}, "ports": [{"port": 80}],
                "endpoints": [endpoint(1, true), endpoint(2, false), {"addresses": ["10.0.0.3"]}],
            }),
            &[
                ("Service", "a"),
                ("Ports", "80"),
                ("Ready", "2 of 3"),
                ("Endpoints", "10.0.0.1,10.0.0.2,10.0.0.3"),
            ],
        );
        check(
            Kind::Workload,
            json!({
                "spec": {
                    "address": "10.0.0.1", "version": "0.1.0", "locality": {"region": "north", "site": "s1"},
                    "ports": [{"appPort": 8080, "protocol": "http", "inboundPort": 15006, "edge": true}],
                },
                "status": {"state": "Confirmed", "readyAppPorts": []},
            }),
            &[
                ("Address", "10.0.0.1"),
                ("Apps", "8080=http@15006,edge"),
                ("State", "Confirmed"),
                ("Healthy", "0 of 1"),
                ("Locality", "north/s1"),
                ("Version", "0.1.0"),
            ],
        );
        check(
            Kind::BackendPolicy,
            json!({
                "spec": {"targetRefs": [{"name": "a", "sectionName": "http"}, {"name": "b"}], "retryBudget": {}, "balancing": {}},
                "status": {"ancestors": [{"conditions": conditions}]},
            }),
            &[
                ("Targets", "a:http,b"),
                ("Sets", "balancing,retryBudget"),
                ("Accepted", "True"),
                ("In Force", "Rejected"),
            ],
        );
        check(
            Kind::BackendTlsPolicy,
            json!({
                "spec": {"targetRefs": [{"name": "a", "sectionName": "https"}], "validation": {
                    "hostname": "a.example", "caCertificateRefs": [{"kind": "ConfigMap", "name": "c"}],
                }},
                "status": {"ancestors": [{"conditions": conditions}]},
            }),
            &[
                ("Targets", "a:https"),
                ("Hostname", "a.example"),
                ("Accepted", "True"),
                ("In Force", "Rejected"),
                ("Certificates", "ConfigMap/c"),
            ],
        );
        check(
            Kind::BackendTlsPolicy,
            json!({"spec": {"validation": {"wellKnownCACertificates": "System"}}}),
            &[
                ("Targets", "-"),
                ("Hostname", "-"),
                ("Accepted", "-"),
                ("In Force", "-"),
                ("Certificates", "System"),
            ],
        );
        check(
            Kind::ConfigMap,
            json!({"data": {"ca.crt": "x"}, "binaryData": {"a": "", "b": ""}}),
            &[("Data", "3")],
        );
        check(
            Kind::TelemetryPolicy,
            json!({
                "spec": {"selector": {"matchLabels": {"app": "a", "tier": "b"}}, "accessLog": "Errors", "tracing": {}},
                "status": {"ancestors": [{"conditions": conditions}]},
            }),
            &[
                ("Workloads", "app=a,tier=b"),
                ("Sets", "accessLog,tracing"),
                ("Accepted", "True"),
                ("In Force", "Rejected"),
            ],
        );
        check(
            Kind::TelemetryPolicy,
            json!({"spec": {"excludedPaths": []}}),
            &[
                ("Workloads", "*"),
                ("Sets", "excludedPaths"),
                ("Accepted", "-"),
                ("In Force", "-"),
            ],
        );
        check(
            Kind::ReferenceGrant,
            json!({"spec": {
                "from": [{"kind": "HTTPRoute", "namespace": "citizen"}], "to": [{"kind": "Service"}, {"kind": "Service", "name": "a"}],
            }}),
            &[("From", "HTTPRoute.citizen"), ("To", "Service,Service/a")],
        );
        let backend = json!({"name": "b", "namespace": "other", "port": 80, "weight": 1});
        check(
            Kind::HttpRoute,
            json!({
                "spec": {"parentRefs": [{"name": "a", "port": 80}, {"name": "b", "sectionName": "http"}], "rules": [{"backendRefs": [backend]}, {"backendRefs": [backend]}]},
                "status": {"parents": [{"conditions": conditions}]},
            }),
            &[
                ("Hostnames", "*"),
                ("Parents", "a:80,b#http"),
                ("Rules", "2"),
                ("Accepted", "True"),
                ("In Force", "Rejected"),
                ("Backends", "b.other:80 1"),
            ],
        );
    }

    #[test]
    fn what_is_not_there_or_of_another_shape_is_a_dash() {
        let now = Timestamp::UNIX_EPOCH;
        let odd = json!({"metadata": 1, "spec": {"ports": 3, "rules": {}, "targetRefs": ["x"]}, "status": []});
        for &kind in Kind::ALL {
            for object in [&Value::Null, &json!({}), &odd] {
                for column in columns(kind) {
                    assert!(!column.cell(object, now).is_empty(), "{kind}: {}", column.name);
                }
            }
            assert_eq!(columns(kind).first().map(|column| column.name), Some("Name"), "{kind}");
            assert_eq!(columns(kind).last().map(|column| column.name), Some("Age"), "{kind}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let parts = |count: usize| joined((0..count).map(|i| i.to_string()));
        assert_eq!(parts(0), "");
        assert_eq!(parts(4), "0,1,2,3");
        assert_eq!(parts(6), "0,1,2,3 + 2 more...");
    }

    #[test]
    fn ages_are_those_of_kubectl() {
        let then = "2026-01-01T00:00:00Z";
        let start: Timestamp = then.parse().expect("a time");
        for (seconds, expect) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (123, "2m3s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_072_000 + 86_400, "2y1d"),
        ] {
            let now = start + jiff::SignedDuration::from_secs(seconds);
            assert_eq!(age(then, now), expect, "{seconds}");
        }
        assert_eq!(age("yesterday", start), "");
    }
}
